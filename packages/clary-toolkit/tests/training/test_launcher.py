"""The `train` command on every Python: what scripts get, how their end is told, how mistakes are answered."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance_cases import PROGRAM, TENSORFLOW, many_hyperparameters

from toolkit_lab import SOURCE, Ended, Tree

Train = Callable[..., Ended]
MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_is_written_for_python_3_7(module: Path) -> None:
    ast.parse(module.read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_the_standard_library_and_the_model_server_what_its_image_has(module: Path) -> None:
    imported = {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    of_the_image = {"grpc", "nncf", "numpy", "openvino", "tensorflow"} if "serving" in module.parts else set()
    assert imported <= {*sys.stdlib_module_names, "clary_toolkit", *of_the_image}


def test_a_script_is_run_alike_on_every_python(each_python: str, train: Train, probe_source: str) -> None:
    tree = Tree(
        {"train.py": probe_source},
        {**PROGRAM, **many_hyperparameters(True)},
        {"train": {"TrainingInputMode": "File"}},
    )
    ended = train(tree, TENSORFLOW, python=each_python)
    assert ended.exit_code == 0, ended.output
    assert ended.succeeded
    assert ended.probe is not None
    environment = ended.probe["environment"]
    assert ended.probe["argv"][:5] == ["train.py", "--UPPER_lower-MIX.dot", "v", "-X", "one letter"]
    assert environment["SM_HP_LEARNING-RATE"] == "0.001"
    assert environment["SM_CHANNEL_TRAIN"].endswith("/input/data/train")
    assert json.loads(environment["SM_TRAINING_ENV"])["hyperparameters"]["unicode"] == "größe ☃ 漢字"
    assert environment["PYTHONPATH"].split(":")[0] == ended.probe["folder"]


def test_a_failing_script_is_reported_alike_on_every_python(each_python: str, train: Train) -> None:
    ended = train(Tree({"train.py": "raise ValueError('it broke')\n"}, PROGRAM), python=each_python)
    assert (ended.exit_code, ended.succeeded) == (1, False)
    assert ended.failure is not None
    assert ended.failure.startswith('ExecuteUserScriptError:\nExitCode 1\nErrorMessage "File ')
    assert "raise ValueError('it broke')\nValueError: it broke\"\nCommand \"" in ended.failure
    assert ended.failure.endswith('-- train.py"')


def test_a_failure_the_script_wrote_itself_stays(train: Train) -> None:
    script = "open('../output/failure', 'w').write('mine')\nraise SystemExit(4)\n"
    ended = train(Tree({"train.py": script}, PROGRAM))
    assert (ended.exit_code, ended.failure) == (1, "mine")


def test_tensorflows_errors_head_the_failure(train: Train) -> None:
    script = "class ResourceExhaustedError(Exception): pass\nraise ResourceExhaustedError('OOM when allocating')\n"
    ended = train(Tree({"train.py": script}, PROGRAM))
    assert ended.failure is not None
    assert ended.failure.startswith("ResourceExhaustedError:\nExitCode 1\n")


def test_a_folder_that_is_no_job_is_answered_in_one_sentence(train: Train) -> None:
    ended = train(Tree({}, PROGRAM, missing=("resourceconfig.json",)))
    assert ended.exit_code == 1
    assert ended.failure is not None
    assert "resourceconfig.json is missing" in ended.failure
    assert "Traceback" not in ended.output


def test_an_unknown_framework_is_named(train: Train) -> None:
    ended = train(Tree({"train.py": ""}, PROGRAM), {"SAGEMAKER_TRAINING_MODULE": "sagemaker_mxnet_container:main"})
    assert ended.exit_code == 1
    assert ended.failure is not None
    assert "sagemaker_mxnet_container:main" in ended.failure


def test_a_framework_that_the_image_holds_is_called(train: Train, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "own_framework.py").write_text("def main():\n    print('it was called')\n")
    path = f"{SOURCE}:{tmp_path / 'image'}"
    ended = train(Tree({}), {"SAGEMAKER_TRAINING_MODULE": "own_framework:main", "PYTHONPATH": path})
    assert ended.exit_code == 0
    assert "it was called" in ended.output


def test_a_hyperparameter_that_no_environment_can_hold_is_still_an_argument(train: Train, probe_source: str) -> None:
    ended = train(Tree({"train.py": probe_source}, {**PROGRAM, "a=b": "1"}))
    assert ended.probe is not None
    assert ended.probe["argv"] == ["train.py", "--a=b", "1"]
    assert "SM_HP_A=B" in ended.output


def test_requirements_that_cannot_be_installed_are_explained_by_pips_own_words(train: Train) -> None:
    tree = Tree({"train.py": "", "requirements.txt": "./not-there\n"}, PROGRAM)
    ended = train(tree, {"PIP_NO_INDEX": "1"})
    assert ended.failure is not None
    assert ended.failure.startswith("InstallRequirementsError:\nExitCode 1\nErrorMessage ")
    assert "not-there" in ended.failure or "No module named pip" in ended.failure
