"""InvokeEndpoint and InvokeEndpointWithResponseStream in all their members, with boto3 against real containers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.19-cpu"


@pytest.fixture(scope="module")
def found(server: Server, boto3_python: Path) -> dict[str, Any]:
    """What the script found; the tests of this module look at one run."""
    return json.loads(server.run(boto3_python, "boto3_invocations.py", IMAGE).splitlines()[-1])


def test_variants_share_requests_by_weight_and_one_can_be_named(found: dict[str, Any]) -> None:
    assert found["variants"] == ["First", "Second"]
    assert found["target variant"] == ["first", "second"]
    assert found["no variant"]["code"] == found["no endpoint"]["code"] == "ValidationError"


def test_the_model_sees_what_the_client_sent(found: dict[str, Any]) -> None:
    answer = found["answer"]
    assert (answer["text"], answer["content_type"], answer["accept"]) == ("hello", "text/x-own", "text/x-thing")
    assert answer["headers"]["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert answer["headers"]["x-amzn-sagemaker-inference-id"] == "id-1"
    assert answer["answer type"] == "application/json"


def test_the_container_knows_its_tensorflow_serving_as_in_awss_image(found: dict[str, Any]) -> None:
    assert found["answer"]["release"] == "2.19"


def test_a_containers_error_is_a_model_error_with_its_status_text_and_log(found: dict[str, Any]) -> None:
    error = found["raise"]
    assert (error["code"], error["OriginalStatusCode"]) == ("ModelError", 500)
    assert error["OriginalMessage"].startswith("no such luck")
    assert any("no such luck" in line for line in found["log"])
    assert found["refuse"]["OriginalStatusCode"] == 422
    assert found["refuse"]["message"].startswith("Received client error (422) from primary")


def test_a_container_that_exits_fails_its_request_and_serves_the_next(found: dict[str, Any]) -> None:
    assert (found["exit"]["code"], found["exit"]["OriginalStatusCode"]) == ("ModelError", 0)
    assert found["after exit"] == "second"


def test_a_body_beyond_the_limit_is_refused(found: dict[str, Any]) -> None:
    assert found["large"] == "413"


def test_a_single_model_takes_no_target_model(found: dict[str, Any]) -> None:
    text = "Endpoint words is not a multi-model endpoint and does not support target model header."
    assert found["target model"] == {"code": "ValidationError", "message": text}


def test_an_answer_comes_piece_by_piece_as_the_model_makes_it(found: dict[str, Any]) -> None:
    assert found["stream"]["parts"] == [f"piece {number}\n" for number in range(10)]
    assert found["stream"]["type"] == "text/plain"
    assert found["whole stream"] == "piece 0\npiece 1\n"


def test_an_answer_that_breaks_off_is_a_model_stream_error(found: dict[str, Any]) -> None:
    assert found["stream broken"] == {"parts": ["one\n"], "code": "ModelStreamError"}
    assert found["stream refused"] == ["ModelError", 422]


def test_a_container_is_invoked_directly_by_its_name(found: dict[str, Any]) -> None:
    assert found["direct"] == ["left", "right"]
    assert found["direct unnamed"]["code"] == found["direct unknown"]["code"] == "ValidationError"
    assert found["direct error"]["message"].startswith("Received server error (500) from right")


def test_a_shadow_gets_a_copy_and_answers_nobody(found: dict[str, Any]) -> None:
    assert found["shadowed"] == ["first"]
    assert found["latencies"] == [10, 10]


def test_a_canary_answers_its_part_of_the_requests_and_then_all(found: dict[str, Any]) -> None:
    assert found["canary"] == ["first", "second"]
    assert found["after the canary"] == ["second"]
