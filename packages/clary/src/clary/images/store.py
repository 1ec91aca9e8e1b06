"""The images on this machine: what is there, what it takes up, and removing it."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clary.images import leases, record
from clary.images.catalog import resolve
from clary.images.errors import ImageError

_BUILDING = ".building"


@dataclass(frozen=True)
class StoredImage:
    """A built image.

    Args:
        name: for instance "tensorflow-2.19.1-cpu-py312".
        root: its folder.
        uri: the image URI that it was built for first.
        framework: "tensorflow" or "python".
        version: of the framework.
        device: "cpu" or "gpu".
        python: the interpreter's version.
        own_bytes: disk that removing it frees.
        shared_bytes: disk that it has in common with uv's cache and other images.
        created: seconds since the epoch.
        last_used: seconds since the epoch.
        in_use: whether a running process uses it.
    """

    name: str
    root: Path
    uri: str
    framework: str
    version: str
    device: str
    python: str
    own_bytes: int
    shared_bytes: int
    created: float
    last_used: float
    in_use: bool


def list_images(images_home: Path) -> list[StoredImage]:
    """Every whole image under `images_home`, the one used last first."""
    if not images_home.is_dir():
        return []
    roots = [path for path in images_home.absolute().iterdir() if not path.name.startswith(".")]
    images = [image for root in roots if (image := _stored(root))]
    return sorted(images, key=lambda image: image.last_used, reverse=True)


def find(images_home: Path, name: str) -> list[StoredImage]:
    """The images that `name` means: an image URI, a name as listed, or a folder's name.

    Raises:
        ImageError: there is none; the error names the one whose name is nearest.
    """
    images = list_images(images_home)
    found = [image for image in images if name in (image.name, image.root.name, image.uri)]
    if not found:
        try:
            folder = resolve(name).folder
        except ImageError:
            folder = None
        found = [image for image in images if image.root.name == folder]
    if found:
        return found
    names = sorted({image.name for image in images} | {image.uri for image in images})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    there = f"The images here: {', '.join(sorted({image.name for image in images}))}." if images else "There are none."
    raise ImageError(f"No image {name!r} is on this machine. {there}", close[0] if close else None)


def remove(images_home: Path, image: StoredImage) -> int:
    """Removes `image` and returns the bytes that this frees.

    Raises:
        ImageError: a job uses it.
    """
    home, folder = images_home.absolute(), image.root.name
    with leases.building(home, folder, _silent), leases.unused(home, folder) as free:
        if not free:
            raise ImageError(f"The image {image.name} is in use by a running job. Stop the job or wait for its end.")
        grave = home / _BUILDING
        grave.mkdir(exist_ok=True)
        # Out of sight in one step, then deleted: a kill in between leaves no half image. The name is one that the next
        # build of this image sweeps.
        doomed = Path(tempfile.mkdtemp(dir=grave, prefix=f"{folder}."))
        if image.root.exists():
            image.root.rename(doomed / folder)
    shutil.rmtree(doomed)
    return image.own_bytes


def _silent(_: str) -> None:
    """Waiting for another process's build before removing its image shows nothing."""


def _stored(root: Path) -> StoredImage | None:
    found = record.read(root)
    if found is None:
        return None
    own, shared = _sizes(root)
    with leases.unused(root.parent, root.name) as free:
        in_use = not free
    return StoredImage(
        name=found.name,
        root=root,
        uri=found.uri,
        framework=found.framework,
        version=found.version,
        device=found.device,
        python=found.python,
        own_bytes=own,
        shared_bytes=shared,
        created=found.created,
        last_used=leases.last_used(root.parent, root.name) or found.created,
        in_use=in_use,
    )


def _sizes(root: Path) -> tuple[int, int]:
    """Bytes on disk of the files that only this image has, and of those with other names elsewhere."""
    own = shared = 0
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink > 1:
                    shared += status.st_blocks * 512
                else:
                    own += status.st_blocks * 512
    return own, shared
