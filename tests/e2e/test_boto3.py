"""boto3 alone: a training job by hand, its waiter, its logs, its artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def outcome(server: Server, boto3_python: Path) -> dict[str, object]:
    """What the script found; the tests of this module look at one run."""
    said = server.run(boto3_python, "boto3_train.py")
    return json.loads(said.splitlines()[-1])


def test_a_job_made_by_hand_completes(outcome: dict[str, object]) -> None:
    assert outcome["status"] == "Completed"
    assert outcome["secondary"] == ["Starting", "Downloading", "Training", "Uploading", "Completed"]


def test_the_waiter_returns_soon_after_the_end(outcome: dict[str, object]) -> None:
    assert isinstance(outcome["late"], float)
    assert outcome["late"] < 10  # the waiter looks every 120 s by itself; within a second where nothing else runs


def test_the_log_holds_what_the_script_printed(outcome: dict[str, object]) -> None:
    assert isinstance(outcome["log"], list)
    assert "argument 7" in outcome["log"]
    assert "one, two" in outcome["log"]


def test_the_artifact_holds_what_the_script_saved(outcome: dict[str, object]) -> None:
    assert outcome["artifact"] == ["answer.txt"]
    assert outcome["answer"] == "42"


def test_a_presigned_address_needs_no_keys(outcome: dict[str, object]) -> None:
    assert outcome["presigned_bytes"] == outcome["stored_bytes"]


def test_an_unknown_job_is_aws_own_error(outcome: dict[str, object]) -> None:
    assert outcome["unknown"] == ["ValidationException", "Requested resource not found."]


def test_a_bucket_that_is_missing_is_refused_as_aws_does(outcome: dict[str, object]) -> None:
    assert isinstance(outcome["missing_bucket"], str)
    assert outcome["missing_bucket"]
