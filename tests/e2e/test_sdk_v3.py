"""SageMaker SDK v3, unmodified: ModelTrainer brings its own drivers and needs no toolkit in the image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def said(server: Server, sdk_v3: Path) -> str:
    """What the script printed; the tests of this module look at one run."""
    return server.run(sdk_v3, "v3_trainer.py", COLUMNS="200")


def test_model_trainer_trains(said: str) -> None:
    assert "status Completed" in said
    assert re.search(r"accuracy=0\.\d+", said)


def test_the_script_gets_its_hyperparameters_and_environment(said: str) -> None:
    assert "note is 'two words', colour is green" in said


def test_train_returns_soon_after_the_end(said: str) -> None:
    late = re.search(r"returned (-?[0-9.]+) s after the end", said)
    assert late
    assert float(late[1]) < 4  # the SDK looks every 5 s by itself; within a second where nothing else runs


def test_the_model_lies_where_it_was_asked_for(said: str) -> None:
    assert re.search(r"model s3://sagemaker-us-east-1-000000000000/v3/output/\S+/output/model.tar.gz", said)


def test_no_request_left_the_machine(said: str) -> None:
    assert "Could not connect" not in said
    assert "sm-pysdk" not in said
