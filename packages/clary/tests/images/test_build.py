"""Building images: once, whole or not at all, whoever asks and whatever is killed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

from clary.images import toolkit
from clary.images.build import ensure
from clary.images.catalog import resolve
from clary.images.errors import ImageError

pytestmark = pytest.mark.network

_PROGRAM = """
import sys
from pathlib import Path
from clary.images.build import ensure
from clary.images.catalog import resolve
built = ensure(resolve(sys.argv[1]), Path(sys.argv[2]), lambda message: print(message, flush=True))
print("ROOT", built.root, flush=True)
"""


def _asker(uri: str, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PROGRAM, uri, str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _run(image_python: Path, program: str, **environment: str) -> str:
    command = [str(image_python), "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def _leftovers(home: Path) -> list[Path]:
    return list((home / ".building").iterdir())


def test_an_image_runs_scripts_with_its_own_packages(images_home: Path, plain_uri: str):
    built = ensure(resolve(plain_uri), images_home, print)
    said = _run(built.python, "import boto3, sys; print(boto3.__file__, sys.prefix)", **built.environment)
    assert said.count(str(built.root)) == 2
    assert built.environment["PATH"].split(":")[0] == str(built.root / "bin")
    pip = subprocess.run([built.python, "-m", "pip", "--version"], capture_output=True, text=True, check=True)
    assert str(built.root) in pip.stdout


def test_train_is_on_the_path_and_is_the_toolkits_launcher(images_home: Path, plain_uri: str):
    built = ensure(resolve(plain_uri), images_home, print)
    assert shutil.which("train", path=built.environment["PATH"]) == str(built.root / "bin" / "train")
    for command in (["train"], list(built.command_train)):
        base = images_home / "no-opt-ml"
        environment = {**built.environment, "SAGEMAKER_BASE_DIR": str(base)}
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert "ModuleNotFoundError" not in answer.stderr
        assert answer.returncode != 0  # there is nothing to train: the launcher says so itself


def test_an_image_that_is_there_is_found_without_a_word_and_without_another_process(
    images_home: Path, plain_uri: str, monkeypatch: pytest.MonkeyPatch
):
    ensure(resolve(plain_uri), images_home, print)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    ensure(resolve(plain_uri), images_home, pytest.fail)


def test_the_base_interpreter_is_among_the_folders_that_a_sandbox_must_show(images_home: Path, plain_uri: str):
    built = ensure(resolve(plain_uri), images_home, print)
    interpreter = built.python.resolve()
    shown = (*built.read_only_paths, Path("/usr"))
    assert any(interpreter.is_relative_to(folder) for folder in shown)
    assert not any(built.root.is_relative_to(folder) for folder in built.read_only_paths)


def test_packages_lie_once_on_disk(images_home: Path, plain_uri: str):
    built = ensure(resolve(plain_uri), images_home, print)
    module = Path(_run(built.python, "import boto3; print(boto3.__file__)"))
    cache = subprocess.run([find_uv_bin(), "cache", "dir"], capture_output=True, text=True, check=False).stdout.strip()
    if not cache or Path(cache).stat().st_dev != module.stat().st_dev:
        pytest.skip("uv's cache lies on another file system than the tests' temporary folder")
    assert module.stat().st_nlink > 1


@pytest.mark.slow
def test_of_many_that_ask_at_once_one_builds_and_all_are_served(tmp_path: Path, plain_uri: str):
    askers = [_asker(plain_uri, tmp_path) for _ in range(4)]
    said = [asker.communicate(timeout=120)[0] for asker in askers]
    assert [asker.returncode for asker in askers] == [0] * 4, said
    assert sum("Resolved" in text for text in said) >= 1
    assert len({line for text in said for line in text.splitlines() if line.startswith("ROOT")}) == 1
    (root,) = (path for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert json.loads((root / "image.json").read_text())["name"] in root.name
    assert _leftovers(tmp_path) == []


@pytest.mark.slow
def test_one_who_waits_is_shown_the_progress(tmp_path: Path, plain_uri: str):
    first = _asker(plain_uri, tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline().startswith("Building")
    second = _asker(plain_uri, tmp_path)
    waited = second.communicate(timeout=120)[0]
    first.communicate(timeout=120)
    assert first.returncode == second.returncode == 0
    shown = waited.splitlines()[:-1]
    assert shown
    assert "Built" not in shown[-1].split()[:1]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["Building", "Resolved", "Installed", "Trying"])
def test_kill_9_in_mid_build_leaves_nothing_broken(tmp_path: Path, plain_uri: str, moment: str):
    victim = _asker(plain_uri, tmp_path)
    assert victim.stdout is not None
    for line in victim.stdout:
        if line.startswith(moment):
            break
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    whole = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert all((path / "image.json").exists() for path in whole)
    built = ensure(resolve(plain_uri), tmp_path, print)
    assert _run(built.python, "import boto3; print('works')") == "works"
    assert _leftovers(tmp_path) == []
    built.release()


def test_a_new_toolkit_reaches_built_images_without_building(
    images_home: Path, plain_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = ensure(resolve(plain_uri), images_home, print)
    newer = tmp_path / "clary_toolkit"
    here = toolkit.sources()
    shutil.copytree(here["clary_toolkit"], newer)
    (newer / "fresh.py").write_text("answer = 42\n")
    with monkeypatch.context() as patch:
        patch.setattr(toolkit, "sources", lambda: {**here, "clary_toolkit": newer})
        ensure(resolve(plain_uri), images_home, pytest.fail)
        assert _run(before.python, "from clary_toolkit.fresh import answer; print(answer)") == "42"
    ensure(resolve(plain_uri), images_home, pytest.fail)
    absent = "import importlib.util as u; print(u.find_spec('clary_toolkit.fresh'))"
    assert _run(before.python, absent) == "None"


@pytest.mark.slow
def test_an_image_whose_python_has_gone_is_built_again(tmp_path: Path, plain_uri: str):
    built = ensure(resolve(plain_uri), tmp_path, print)
    built.python.unlink()
    built.python.symlink_to(tmp_path / "gone" / "python")
    again = ensure(resolve(plain_uri), tmp_path, print)
    assert again.root == built.root
    assert _run(again.python, "print('works')") == "works"
    built.release()


@pytest.mark.slow
def test_a_python_that_cannot_be_had_is_an_error_with_a_way_out(
    tmp_path: Path, plain_uri: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    image = dataclasses.replace(resolve(plain_uri), python="3.99", uri="registry.local/python:3.99")
    with pytest.raises(ImageError, match=r"Python 3\.99 is needed and could not be installed: error: ") as caught:
        ensure(image, tmp_path, print)
    assert caught.value.nearest is not None
    assert caught.value.nearest.startswith("registry.local/python:3.")
    assert _leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_tensorflow_without_its_python_suggests_the_same_version_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    image = dataclasses.replace(resolve(f"tensorflow-training:2.20-cpu-py{here.replace('.', '')}"), python="3.99")
    with pytest.raises(ImageError) as caught:
        ensure(image, tmp_path, print)
    assert caught.value.nearest is not None
    assert caught.value.nearest.startswith("tensorflow-training:2.20.0-cpu-py3")


def test_a_package_that_cannot_be_had_is_named(tmp_path: Path, plain_uri: str):
    plain = resolve(plain_uri)
    image = dataclasses.replace(plain, requirements=(*plain.requirements, "boto3-stubs==0.0.0.1"))
    with pytest.raises(ImageError, match="boto3-stubs"):
        ensure(image, tmp_path, print)
    assert _leftovers(tmp_path) == []
