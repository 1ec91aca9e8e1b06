"""SageMaker SDK v2, unmodified: everything that a training script usually touches."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def said(server: Server, sdk_v2: Path) -> str:
    """What the script printed; the tests of this module look at one run."""
    return server.run(sdk_v2, "v2_tensorflow.py")


def test_roles_accounts_and_buckets_are_found_without_arguments(said: str) -> None:
    role = "arn:aws:iam::000000000000:role/ClaryExecutionRole"
    assert f"account 000000000000 role {role} bucket sagemaker-us-east-1-000000000000" in said


def test_the_script_gets_its_hyperparameters_and_environment(said: str) -> None:
    assert "note is 'two words', colour is green" in said


def test_logs_appear_while_fit_waits(said: str) -> None:
    assert [int(n) for n in re.findall(r"epoch (\d+) loss=", said)][:3] == [0, 1, 2]
    assert "Training - " in said


def test_fit_does_not_wait_for_the_sdks_own_polling(said: str) -> None:
    late = re.search(r"returned (-?[0-9.]+) s after the end", said)
    assert late
    assert float(late[1]) < 8  # the SDK looks every 10 to 30 s by itself


def test_the_model_can_be_downloaded_from_the_address_that_fit_gives(said: str) -> None:
    assert re.search(r"model s3://sagemaker-us-east-1-000000000000/.+/output/model.tar.gz", said)
    assert "downloaded ['model.tar.gz']" in said


def test_metrics_are_found_by_their_definitions(said: str) -> None:
    final = re.search(r"final (\{.+\})", said)
    assert final
    assert set(json.loads(final[1].replace("'", '"'))) == {"train:loss", "test:accuracy"}
    assert "['train:loss']" in said


def test_tags_are_kept(said: str) -> None:
    assert "{'Key': 'team', 'Value': 'vision'}" in said


def test_no_request_left_the_machine(said: str) -> None:
    assert "amazonaws.com" not in said.replace("dkr.ecr.us-east-1.amazonaws.com", "")
    assert "sm-pysdk" not in said


def test_the_generic_estimator_with_the_names_of_v1_runs_verbatim(
    server: Server, sdk_v2: Path, tmp_path: Path, scripts_folder: Path
) -> None:
    folder = tmp_path / "scripts"
    shutil.copytree(scripts_folder, folder)
    with tarfile.open(folder / "source.tar.gz", "w:gz") as archive:
        archive.add(folder / "source" / "cifar10.py", "cifar10.py")
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:1.14-gpu-py3"
    said = server.run(sdk_v2, "v1_estimator.py", image, "with-source", folder=folder)
    assert re.search(r"model s3://\S+/generic/output/[^/]+/output/model.tar.gz", said)


def test_the_tensorflow_estimator_of_v1_runs_with_a_python_version(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_old_names.py")
    assert "image 763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:1.14-gpu-py3" in said
    assert "test accuracy:" in said
    assert "model s3://" in said


def test_a_failing_script_raises_with_its_own_traceback(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_failing.py")
    assert "raised UnexpectedStatusException" in said
    assert "ZeroDivisionError" in said.split("raised UnexpectedStatusException")[1]


def test_the_sdks_own_waits_can_be_kept(server: Server, sdk_v2: Path) -> None:
    began = time.monotonic()
    done = server.clary("run", "--sdk-polling", "--", str(sdk_v2), "-c", "import sagemaker.session as s; print(s.time)")
    assert "built-in" in done.stdout, done.stdout + done.stderr
    assert time.monotonic() - began < 60
