"""What the TensorFlow images do beyond the toolkit."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance_cases import PROGRAM, TENSORFLOW

from clary_toolkit.training import tensorflow
from toolkit_lab import Tree

TUNING = {**PROGRAM, "_tuning_objective_metric": '"loss"', "model_dir": '"s3://bucket/tune"'}


def test_each_job_of_a_tuning_job_has_a_model_dir_of_its_own(train, probe_source: str) -> None:  # type: ignore[no-untyped-def]
    ended = train(Tree({"train.py": probe_source}, TUNING), {**TENSORFLOW, "TRAINING_JOB_NAME": "tune-007"})
    expected = "s3://bucket/tune/tune-007/model"
    assert ended.probe["argv"][1:] == ["--model_dir", expected]
    assert ended.probe["environment"]["SM_HP_MODEL_DIR"] == expected


PATIENT = {"S3_CONNECT_TIMEOUT_MSEC": "60000", "S3_REQUEST_TIMEOUT_MSEC": "60000"}


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (None, {"S3_USE_HTTPS": "1"}),
        (
            "http://127.0.0.1:7700/",
            {"S3_ENDPOINT": "127.0.0.1:7700", "S3_USE_HTTPS": "0", "S3_VERIFY_SSL": "0", **PATIENT},
        ),
        ("https://s3.local", {"S3_ENDPOINT": "s3.local", "S3_USE_HTTPS": "1", "S3_VERIFY_SSL": "1", **PATIENT}),
    ],
)
def test_tensorflows_s3_plugin_is_told_where_the_store_is(endpoint: str | None, expected: dict[str, str]) -> None:
    environ = {} if endpoint is None else {"AWS_ENDPOINT_URL": endpoint}
    variables = tensorflow.s3_variables("eu-west-1", environ)
    assert variables == {"S3_REGION": "eu-west-1", "TF_CPP_MIN_LOG_LEVEL": "1", **expected}


def test_a_job_may_say_how_long_the_s3_plugin_waits() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://127.0.0.1:7700", "S3_REQUEST_TIMEOUT_MSEC": "5000"}
    variables = tensorflow.s3_variables("eu-west-1", environ)
    assert (variables["S3_CONNECT_TIMEOUT_MSEC"], variables["S3_REQUEST_TIMEOUT_MSEC"]) == ("60000", "5000")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "No model artifact is saved under path"),
        (("weights.h5",), "is not a SavedModel"),
        (("export/saved_model.pb",), "which is not a number"),
        (("1/saved_model.pb",), None),
    ],
)
def test_a_model_that_cannot_be_served_is_warned_of(
    files: tuple[str, ...], said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    tensorflow.warn_of_unservable_model(str(tmp_path))
    printed = capsys.readouterr().err
    assert (said in printed) if said else (printed == "")
