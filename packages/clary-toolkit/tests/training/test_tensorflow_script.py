"""A user's Keras script trains under the launcher, with real TensorFlow, and leaves a model that can be served."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conformance_cases import TENSORFLOW

from toolkit_lab import SCRIPTS, SOURCE, Tree, cached_environment, run_launcher

# The first of them may have to fetch an environment.
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1200)]

MAKE_DATA = (
    "import sys, numpy\nfrom sklearn.datasets import load_digits\nd = load_digits()\n"
    "numpy.savez(sys.argv[1], images=d.images[..., None].astype('float32'), labels=d.target)\n"
)


@pytest.fixture(scope="module")
def python() -> str:
    words = ["tensorflow-cpu", "scikit-learn"]
    return str(cached_environment("tensorflow", [words]) / "bin" / "python")


def test_a_keras_cnn_trains_and_its_model_can_be_served(python: str, tmp_path: Path) -> None:
    parameters = {"sagemaker_program": '"digits.py"', "epochs": "5", "model_dir": '"s3://bucket/job/model"'}
    tree = Tree({"digits.py": (SCRIPTS / "digits.py").read_text()}, parameters, {"train": {}})
    base = tree.lay_out(tmp_path / "ml")
    subprocess.run([python, "-c", MAKE_DATA, str(base / "input" / "data" / "train" / "digits.npz")], check=True)
    command = [python, "-m", "clary_toolkit.training.launcher"]
    ended = run_launcher(command, base, {**TENSORFLOW, "PYTHONPATH": str(SOURCE)})
    assert ended.exit_code == 0, ended.output
    found = re.search(r"test accuracy: ([\d.]+)", ended.output)
    assert found is not None
    assert float(found.group(1)) > 0.9
    assert (base / "model" / "1" / "saved_model.pb").exists()
    assert "will not load" not in ended.output


def test_an_error_of_tensorflow_heads_the_failure(python: str, tmp_path: Path) -> None:
    script = "import tensorflow as tf\ntf.reshape(tf.zeros([4]), [3])\n"
    base = Tree({"train.py": script}, {"sagemaker_program": "train.py"}).lay_out(tmp_path / "ml")
    command = [python, "-m", "clary_toolkit.training.launcher"]
    ended = run_launcher(command, base, {**TENSORFLOW, "PYTHONPATH": str(SOURCE)})
    assert ended.failure is not None
    assert ended.failure.startswith('InvalidArgumentError:\nExitCode 1\nErrorMessage "File ')
    assert "tf.reshape(tf.zeros([4]), [3])" in ended.failure
