"""A job's own writable layer over its image, so that `pip install` works and the shared image never changes.

The layer is a virtual environment whose site-packages begins empty and continues in the image's. Mounted where the
image lies (or, without a sandbox, put first on PATH), it makes pip see the image's packages as installed but not its
own to remove: new ones go into the layer, and a newer version there hides the image's. Making it takes a millisecond.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Image(Protocol):
    """What a host needs to know of a prepared image; `images.build.BuiltImage` is one."""

    @property
    def root(self) -> Path:
        """The environment's folder."""
        ...

    @property
    def python(self) -> Path:
        """Its interpreter."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that the image sets."""
        ...

    @property
    def read_only_paths(self) -> Sequence[Path]:
        """Folders outside the environment that it needs: its base interpreter's."""
        ...

    @property
    def notices(self) -> Sequence[str]:
        """Lines for the head of the job's log."""
        ...

    @property
    def command_train(self) -> tuple[str, ...]:
        """What the word `train` runs."""
        ...

    @property
    def command_serve(self) -> tuple[str, ...]:
        """What the word `serve` runs."""
        ...


@dataclass(frozen=True)
class Layer:
    """A writable layer.

    `mounted_image` is where the image itself is to be found by the layer: another path in a sandbox, its own without.
    """

    root: Path
    image_root: Path
    mounted_image: Path


def can_layer(image: Image) -> bool:
    """Whether the image is a virtual environment; another kind is used as it is, read-only."""
    return (image.root / "pyvenv.cfg").is_file()


def make_layer(image: Image, root: Path, mounted_image: Path) -> Layer:
    """Write the layer for `image` into the folder `root`.

    Arguments:
        image: a virtual environment.
        root: where the layer is written; made here.
        mounted_image: the path of the image's folder as the job will see it.
    """
    (root / "bin").mkdir(parents=True, exist_ok=True)
    (root / "pyvenv.cfg").write_bytes((image.root / "pyvenv.cfg").read_bytes())
    for entry in os.scandir(image.root / "bin"):
        made, original = root / "bin" / entry.name, mounted_image / "bin" / entry.name
        if entry.is_symlink():
            _link(made, Path(entry.path).readlink())
        elif not _is_script(Path(entry.path)):
            _link(made, original)
        elif mounted_image != image.root:
            # A copy, not a link: scripts look for the interpreter beside themselves, and that must be the layer's.
            shutil.copy(entry.path, made)
        else:
            # Its first line names the image's own interpreter: it must be run by the layer's.
            made.write_text(f'#!/bin/sh\nexec "{root}/bin/python" "{original}" "$@"\n')
            made.chmod(0o755)
    for packages in sorted((image.root / "lib").glob("python*/site-packages")):
        inside = packages.relative_to(image.root)
        (root / inside).mkdir(parents=True, exist_ok=True)
        (root / inside / "_image.pth").write_text(f"import site; site.addsitedir({str(mounted_image / inside)!r})\n")
    if (image.root / "lib64").is_symlink():
        _link(root / "lib64", Path("lib"))
    return Layer(root=root, image_root=image.root, mounted_image=mounted_image)


def interpreter_folders(image: Image) -> list[Path]:
    """The folders outside /usr that the image's interpreter lives in, every link on the way included."""
    folders: list[Path] = []
    path = image.python
    for _ in range(40):
        if not path.is_symlink():
            break
        path = Path(os.path.normpath(path.parent / path.readlink()))
        folders.append(path.parent.parent)
    folders.append(image.python.resolve().parent.parent)
    unique = list(dict.fromkeys(folders))
    return [folder for folder in unique if not folder.is_relative_to("/usr") and folder not in (Path("/"), image.root)]


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.read(400)
    return first.startswith(b"#!") and b"python" in first


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
