"""What is on this machine, and removing it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clary.images.build import ensure
from clary.images.catalog import resolve
from clary.images.errors import ImageError
from clary.images.store import find, list_images, remove

pytestmark = pytest.mark.network

_USER = """
import sys
from pathlib import Path
from clary.images.build import ensure
from clary.images.catalog import resolve
ensure(resolve(sys.argv[1]), Path(sys.argv[2]), print)
print("USING", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, plain_uri: str) -> Path:
    home = tmp_path_factory.mktemp("images")
    ensure(resolve(plain_uri), home, print).release()
    return home


def test_there_are_no_images_where_there_is_no_folder(tmp_path: Path):
    assert list_images(tmp_path / "nothing") == []


def test_images_are_listed_with_their_sizes_and_last_use(home: Path, plain_uri: str):
    before = time.time()
    ensure(resolve(plain_uri), home, print).release()
    (image,) = list_images(home)
    assert image.name == resolve(plain_uri).name
    assert image.own_bytes > 2**20
    assert image.own_bytes + image.shared_bytes > 20 * 2**20
    assert image.last_used >= before - 1
    assert not image.in_use


def test_an_image_in_use_is_not_removed_until_its_job_has_ended(home: Path, plain_uri: str):
    command = [sys.executable, "-c", _USER, plain_uri, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdin is not None
        assert job.stdout.readline() == "USING\n"
        (image,) = list_images(home)
        assert image.in_use
        with pytest.raises(ImageError, match="in use by a running job"):
            remove(home, image)
        job.kill()
    (image,) = list_images(home)
    assert not image.in_use


@pytest.mark.slow
def test_a_removed_image_is_gone_and_can_be_built_again(home: Path, plain_uri: str):
    (image,) = list_images(home)
    assert remove(home, image) == image.own_bytes
    assert list_images(home) == []
    assert not image.root.exists()
    built = ensure(resolve(plain_uri), home, print)
    assert built.root.exists()
    built.release()


def test_an_image_is_found_by_name_folder_and_uri(home: Path, plain_uri: str):
    (image,) = list_images(home)
    for name in (image.name, image.root.name, plain_uri, f"docker.io/library/{plain_uri}-slim"):
        assert find(home, name) == [image]


def test_an_unknown_name_gets_the_nearest_one(home: Path):
    (image,) = list_images(home)
    with pytest.raises(ImageError, match="No image 'python-p' is on this machine") as caught:
        find(home, "python-p")
    assert caught.value.nearest == image.name
