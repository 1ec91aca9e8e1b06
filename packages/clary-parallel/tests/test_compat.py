"""The modules with other libraries' names are on the path only where somebody puts them, and the originals win."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from parallel_lab import COMPAT, SOURCE


def run(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)


def test_installing_clary_parallel_does_not_make_horovod_importable() -> None:
    ended = run("import clary_parallel, horovod", SOURCE)
    assert "No module named 'horovod'" in ended.stderr


def test_the_original_wins_when_the_folder_comes_after_it(tmp_path: Path) -> None:
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").write_text("original = True")
    ended = run("import horovod; assert horovod.original", tmp_path, SOURCE, COMPAT)
    assert ended.returncode == 0, ended.stderr


def test_other_frameworks_are_refused_with_the_alternative() -> None:
    ended = run("import horovod; horovod.torch", SOURCE, COMPAT)
    assert "NotOffered: horovod.torch is not offered by Clary: use horovod.tensorflow or horovod.keras." in ended.stderr


def test_the_namespace_of_smdistributed_takes_more_packages(tmp_path: Path) -> None:
    (tmp_path / "smdistributed" / "modelparallel").mkdir(parents=True)
    (tmp_path / "smdistributed" / "modelparallel" / "__init__.py").touch()
    ended = run("import smdistributed.dataparallel, smdistributed.modelparallel", SOURCE, COMPAT, tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_the_pytorch_library_is_refused_with_the_alternative() -> None:
    ended = run("import smdistributed.modelparallel.torch as smp", SOURCE, COMPAT)
    assert "not offered by Clary: use smdistributed.modelparallel.tensorflow" in ended.stderr


def test_keras_2_is_refused_with_the_version_to_ask_for(tmp_path: Path) -> None:
    for name, version in (("keras", "2.15.0"), ("tensorflow", "2.15.1")):
        (tmp_path / f"{name}.py").write_text(f"__version__ = {version!r}")
    ended = run("import smdistributed.modelparallel.tensorflow as smp", tmp_path, SOURCE, COMPAT)
    assert "TensorFlow 2.15.1 with Keras 2.15.0. Give the estimator framework_version='2.19'" in ended.stderr


def test_a_python_that_is_too_old_is_refused_with_the_version_to_ask_for() -> None:
    program = "import sys; sys.version_info = (3, 7, 16); import smdistributed.dataparallel.tensorflow as sdp"
    ended = run(program, SOURCE, COMPAT)
    assert "this image has Python 3.7. Give the estimator framework_version='2.8' and py_version='py39'" in ended.stderr
