"""What serving needs besides: added to an image in place, once, and missed without harm."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from clary.images.build import ensure
from clary.images.catalog import FrameworkImage, resolve

pytestmark = pytest.mark.network


@pytest.fixture
def serving(plain_uri: str) -> FrameworkImage:
    """A plain image with a small package in OpenVINO's place."""
    return dataclasses.replace(resolve(plain_uri), serving=("toolz==1.0.0",))


def test_serving_finds_its_packages_and_training_does_not(images_home: Path, serving: FrameworkImage):
    said: list[str] = []
    built = ensure(serving, images_home, said.append)
    assert built.notices == ()
    assert any(line.startswith(f"Adding to {serving.name} for serving: toolz==1.0.0") for line in said)
    assert (built.root / "serving" / "current" / "toolz").is_dir()
    trained = subprocess.run([built.python, "-c", "import toolz"], capture_output=True, text=True, check=False)
    assert "No module named 'toolz'" in trained.stderr
    program = (
        "import sys; from clary_toolkit.serving import own_packages; own_packages.add({}); "
        "import toolz; print(toolz.__version__)"
    )
    served = subprocess.run([built.python, "-c", program], capture_output=True, text=True, check=True)
    assert served.stdout.strip() == "1.0.0"
    ensure(serving, images_home, pytest.fail)  # there is nothing left to do


def test_a_serving_image_says_which_tensorflow_serving_it_stands_for_as_awss_does(
    images_home: Path, serving: FrameworkImage
):
    served = ensure(dataclasses.replace(serving, version="2.9.3"), images_home, print).environment
    trained = ensure(dataclasses.replace(serving, serving=()), images_home, print).environment
    assert (served["SAGEMAKER_TFS_VERSION"], "SAGEMAKER_TFS_VERSION" in trained) == ("2.9", False)


def test_another_version_takes_the_place_and_leaves_the_one_before_to_who_runs_it(
    images_home: Path, serving: FrameworkImage
):
    first = ensure(serving, images_home, print)
    before = (first.root / "serving" / "current").resolve()
    newer = dataclasses.replace(serving, serving=("toolz==1.1.0",))
    after = (ensure(newer, images_home, print).root / "serving" / "current").resolve()
    assert before != after
    assert (before / "toolz").is_dir()
    assert (after / "toolz").is_dir()


def test_packages_that_cannot_be_had_leave_an_image_that_serves_and_says_so(images_home: Path, serving: FrameworkImage):
    wanting = dataclasses.replace(serving, serving=("toolz==0.0.999",))
    built = ensure(wanting, images_home, print)
    assert built.python.exists()
    assert built.notices == ("toolz==0.0.999 could not be installed: TensorFlow computes, and there is no gRPC.",)
