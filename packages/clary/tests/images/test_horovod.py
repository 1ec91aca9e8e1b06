"""The real Horovod comes to images that it can be compiled for; where it cannot, a job is told what serves instead."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from clary.images import horovod
from clary.images.build import ensure
from clary.images.catalog import FrameworkImage, resolve
from clary.images.interpreters import find


def image(tag: str) -> FrameworkImage:
    return resolve(f"tensorflow-training:{tag}", gpu=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of an image that has nothing in it."""
    folder = tmp_path / "images" / "some-image"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("tag", "fits"), [("1.15", True), ("2.15-cpu-py310", True), ("2.16-cpu-py310", False)])
def test_it_fits_tensorflow_up_to_2_15(tag: str, fits: bool) -> None:
    assert horovod.fits(image(tag)) == fits


def test_without_a_compiler_the_job_is_told_what_serves_instead(root: Path, tmp_path: Path) -> None:
    said = horovod.ensure(image("2.15-cpu-py310"), root, pytest.fail, path=str(tmp_path))
    assert len(said) == 1
    assert "this machine has no c++ and no cmake and no make. Clary's own module serves" in said[0]
    (old,) = horovod.ensure(image("1.15"), root, pytest.fail, path=str(tmp_path))
    assert "Scripts that import it fail: Clary's own module needs Python 3.8, and this image has 3.7." in old


def test_what_failed_once_is_told_to_every_job_and_not_tried_again(root: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in horovod.TOOLS:
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    said: list[str] = []
    # There is no Python in this image's folder, so the build fails at once.
    (first,) = horovod.ensure(image("2.15-cpu-py310"), root, said.append, path=str(tools))
    assert any("Compiling Horovod" in line for line in said)
    assert "Horovod could not be compiled for this image" in first
    (second,) = horovod.ensure(image("2.15-cpu-py310"), root, pytest.fail, path=str(tools))
    assert second == first


def test_what_is_compiled_for_one_image_never_comes_to_another(
    plain_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "horovod-0.28.1.tar.gz"
    files = {
        "setup.py": "import sys\nfrom pathlib import Path\nfrom setuptools import setup\n"
        "Path('horovod/tensorflow.py').write_text(f'built_by = {sys.prefix!r}')\n"
        "setup(name='horovod', version='0.28.1', packages=['horovod'])\n",
        "horovod/__init__.py": "",
        "PKG-INFO": "Metadata-Version: 1.0\nName: horovod\nVersion: 0.28.1\n",
    }
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"horovod-0.28.1/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setattr(horovod, "_REQUIREMENTS", (str(archive),))
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in horovod.TOOLS:
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    for number in (1, 2):
        root = ensure(resolve(plain_uri), tmp_path / f"home-{number}", print).root
        assert horovod.ensure(image("2.15-cpu-py310"), root, lambda _: None, path=str(tools)) == ()
        program = "import sys, horovod.tensorflow as built; print(built.built_by == sys.prefix)"
        done = subprocess.run([root / "bin" / "python", "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(900)
def test_a_built_image_has_it(lasting_images_home: Path) -> None:
    recipe = image("2.15-cpu-py311")
    built = lasting_images_home / recipe.folder
    if not built.is_dir() or find(recipe.python) is None:
        pytest.skip(f"{recipe.name} has not been built here")
    assert horovod.ensure(recipe, built, print) == ()
    program = "import horovod.tensorflow as h; import horovod; h.init(); print(horovod.__version__, h.size())"
    shown = subprocess.run([built / "bin" / "python", "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [horovod.VERSION, "1"]
