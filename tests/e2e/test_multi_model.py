"""Multi-model endpoints and containers in series with boto3 and SDK v2, unmodified."""

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
    """What the script with boto3 found; the tests of this module look at one run."""
    return json.loads(server.run(boto3_python, "boto3_multi_model.py", IMAGE).splitlines()[-1])


@pytest.fixture(scope="module")
def said(server: Server, sdk_v2: Path) -> str:
    """What the script with SDK v2 printed."""
    return server.run(sdk_v2, "v2_multi_model.py", IMAGE)


def test_a_model_is_loaded_when_it_is_first_asked_for(found: dict[str, Any]) -> None:
    assert found["two"] == [2, 4]
    assert found["deep"] == [3, 6]
    assert found["later"] == [5, 10]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("missing", "Failed to download model data(bucket: several, key: models/missing.tar.gz)."),
        ("outside", "TargetModel must be the path of a model archive below the endpoint's ModelDataUrl"),
        ("no archive", "Failed to extract model data archive from URL s3://several/models/text.tar.gz"),
        ("unnamed", "is missing a target model header"),
    ],
)
def test_a_name_that_leads_to_no_model_is_a_validation_error(found: dict[str, Any], target: str, text: str) -> None:
    code, message, *_ = found[target]
    assert code == "ValidationError"
    assert text in message


def test_a_model_that_fails_to_load_is_a_model_error_with_the_reason(found: dict[str, Any]) -> None:
    code, message, status = found["broken"]
    assert (code, status) == ("ModelError", 500)
    assert "this model is broken" in message


def test_requests_for_one_cold_model_share_one_load(found: dict[str, Any]) -> None:
    assert found["race"] == [[7, 14]] * 8


def test_a_loaded_model_stays_as_it_was_whatever_becomes_of_its_archive(found: dict[str, Any]) -> None:
    assert found["changed while loaded"] == [2, 4]
    assert found["deleted while loaded"] == [5, 10]


def test_without_a_cache_each_request_gets_the_model_that_is_there_now(found: dict[str, Any]) -> None:
    assert found["forgetful"] == [[20, 40], [200, 400]]
    assert found["forgotten"][0] == "ValidationError"


def test_models_that_share_their_code_make_room_for_each_other_when_the_memory_is_full(found: dict[str, Any]) -> None:
    assert found["narrow"] == [[number] for number in (*range(20), *range(5))]
    assert found["unloaded"] >= 10
    assert 1 < found["most loaded"] < 16


def test_what_loading_costs_is_measured(found: dict[str, Any]) -> None:
    hits, invocations = found["ModelCacheHit"]
    assert 0 < hits < invocations == found["ModelLoadingWaitTime"][1]
    for name in ("ModelLoadingWaitTime", "ModelLoadingTime", "ModelDownloadingTime"):
        assert found[name][0] > 0, name
    assert found["LoadedModelCount"][0] == 4


def test_sdk_v2_adds_lists_and_asks_models(said: str) -> None:
    assert "models ['trained/first.tar.gz', 'triple.tar.gz']" in said
    assert "the SavedModel predicts as it did in training" in said
    assert "triple [3.0, 6.0]" in said
    assert "unknown model: ValidationError" in said


def test_sdk_v2_runs_containers_in_series(said: str) -> None:
    assert "pipeline [10.0, 20.0]" in said
    assert "Received server error (500) from container-1" in said
    assert "streamed [10.0, 20.0]" in said


def test_sdk_v2_captures_what_goes_in_and_out(said: str) -> None:
    line = next(line for line in said.splitlines() if line.startswith("captured "))
    event = json.loads(line.removeprefix("captured "))
    given, answered = event["captureData"]["endpointInput"], event["captureData"]["endpointOutput"]
    assert given == {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV"}
    assert (answered["mode"], answered["encoding"]) == ("OUTPUT", "JSON")
    assert json.loads(answered["data"])["answer"] == [10, 20]
    assert event["eventMetadata"]["inferenceId"] == "one"
