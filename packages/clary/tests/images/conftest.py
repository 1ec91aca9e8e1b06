"""Where the tests of this room build: small images in a folder of the session's, big ones in a folder that stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clary.images.build import BuiltImage, ensure
from clary.images.catalog import resolve

HERE = f"python:{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="session")
def plain_uri() -> str:
    """A plain image of the Python that runs the tests, which is on this machine for certain."""
    return HERE


@pytest.fixture(scope="session")
def images_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images for this session, with one plain image in it."""
    home = tmp_path_factory.mktemp("images")
    ensure(resolve(HERE), home, print).release()
    return home


@pytest.fixture(scope="session")
def lasting_images_home() -> Path:
    """Framework environments take minutes to build: they are kept between runs and shared with other tests."""
    return Path(os.environ.get("CLARY_TEST_IMAGES_HOME", "~/.cache/clary-test-images")).expanduser()


@pytest.fixture
def framework(lasting_images_home: Path) -> Callable[[str], BuiltImage]:
    """Builds, or finds, a big image by its URI."""
    return lambda uri: ensure(resolve(uri, gpu=False), lasting_images_home, print)
