"""Scripts written for SageMaker SDK v1, verbatim, training on TensorFlow 1.14."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
GPU_IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:1.14-gpu-py2"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory, scripts_folder: Path) -> Path:
    """The users' folder: their scripts, and their code as the archive that a generic Estimator needs."""
    folder = tmp_path_factory.mktemp("v1") / "scripts"
    shutil.copytree(scripts_folder, folder)
    with tarfile.open(folder / "source.tar.gz", "w:gz") as archive:
        archive.add(folder / "source" / "cifar10.py", "cifar10.py")
    return folder


def test_the_tensorflow_estimator_of_2019_trains_on_tensorflow_1_14(
    server: Server, sdk_v1: Path, scripts: Path
) -> None:
    said = server.run(sdk_v1, "v1_tensorflow.py", folder=scripts)
    assert f"image {GPU_IMAGE}" in said
    assert 'TensorFlow 1.14.0, hosts ["algo-1"], files 2' in said
    accuracy = re.search(r"test accuracy: ([0-9.]+)", said)
    assert accuracy, said[-3000:]
    assert float(accuracy[1]) > 0.5
    assert re.search(r"model s3://sagemaker-us-east-1-\d+/tensorflow-training-[\d-]+/output/model.tar.gz", said)


def test_a_gpu_instance_type_without_a_gpu_says_that_it_runs_on_the_cpu(
    server: Server, sdk_v1: Path, scripts: Path
) -> None:
    jobs = server.clary("jobs", "list", "--name", "tensorflow-training", "--status", "Completed", "--json")
    newest = json.loads(jobs.stdout)[0]["TrainingJobName"]  # that of the test before
    log = server.clary("logs", newest).stdout
    assert "CPU" in log.split("TensorFlow 1.14")[0], log[:1500]


def test_the_generic_estimator_runs_verbatim(server: Server, sdk_v1: Path, scripts: Path) -> None:
    said = server.run(sdk_v1, "v1_estimator.py", GPU_IMAGE, "with-source", folder=scripts)
    assert re.search(r"model s3://sagemaker-us-east-1-\d+/generic/output/[^/]+/output/model.tar.gz", said)
    assert "test accuracy:" in said
