"""Scripts import AWS's toolkit by name in an image that has ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conformance_cases import PROGRAM, many_hyperparameters

from toolkit_lab import SOURCE, Tree, find_python

SCRIPT = """
import json, os, sys
from sagemaker_training import environment, logging_config
import sagemaker_containers
from sagemaker_containers.beta.framework import training_env

logging_config.get_logger().info("fine")
env = environment.Environment()
assert dict(env) == dict(sagemaker_containers.training_env()) == dict(training_env())
assert env.channel_input_dirs["train"] == os.environ["SM_CHANNEL_TRAIN"] == environment.channel_path("train")
assert env.hyperparameters == json.loads(os.environ["SM_HPS"])
assert env.to_cmd_args() == sys.argv[1:]
assert {name: os.environ[name] for name in env.to_env_vars()} == env.to_env_vars()
assert env.model_dir == environment.model_dir == os.environ["SM_MODEL_DIR"]
assert "sagemaker_program" in environment.read_hyperparameters()
try:
    env.no_such_thing
except AttributeError as error:
    assert "channel_input_dirs" in str(error)
open(env.output_data_dir + "/ran", "w").close()
"""


@pytest.mark.parametrize("version", ["3.7", "3.11"])
def test_the_environment_is_the_one_the_launcher_shows(version: str, tmp_path: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed (pyenv install {version})")
    # An image as the builder of images makes it: the package linked into site-packages, the .pth file beside it.
    subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path / "image")], check=True)
    site = next((tmp_path / "image" / "lib").glob("python*")) / "site-packages"
    (site / "clary_toolkit").symlink_to(SOURCE / "clary_toolkit")
    (site / "clary_toolkit_hooks.pth").write_bytes((SOURCE / "clary_toolkit" / "clary_toolkit_hooks.pth").read_bytes())
    base = Tree({"train.py": SCRIPT}, {**PROGRAM, **many_hyperparameters(True)}, {"train": {}}).lay_out(tmp_path / "ml")
    done = subprocess.run(
        [str(tmp_path / "image" / "bin" / "python"), "-m", "clary_toolkit.training.launcher"],
        env={"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(base), "TRAINING_JOB_NAME": "job-1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (base / "output" / "data" / "ran").exists()
    assert json.loads((base / "input" / "config" / "hyperparameters.json").read_text())["sagemaker_program"]


@pytest.mark.parametrize("version", ["3.7", "3.11"])
def test_scripts_that_import_the_package_of_pipe_mode_run_in_file_mode(version: str) -> None:
    program = """
from sagemaker_tensorflow import PipeModeDataset
try:
    PipeModeDataset(channel="train", record_format="TFRecord")
except Exception as error:
    print(error)
"""
    variables = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{SOURCE / 'clary_toolkit' / 'compat'}"}
    ended = subprocess.run([find_python(version), "-c", program], env=variables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "input_mode='File' or 'FastFile' and read the files of /opt/ml/input/data/train" in ended.stdout
