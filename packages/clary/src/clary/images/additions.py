"""Packages that a built image gets besides, in its own site-packages: Open MPI and mpi4py.

Jobs that run go on: files only come. What is there is written down in the image's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_RECORD = "additions.txt"

Install = Callable[[list[str | Path]], None]


def is_current(root: Path, pins: tuple[str, ...]) -> bool:
    """Whether the image at `root` has exactly these packages. One small file is read."""
    try:
        return not pins or (root / _RECORD).read_text() == _text(pins)
    except OSError:
        return False


def install(root: Path, pins: tuple[str, ...], uv: Install) -> None:
    """Puts these packages in. The caller holds the image's lock.

    Args:
        root: the image's folder.
        pins: every package with its exact version; they depend on nothing.
        uv: runs uv with arguments.

    Raises:
        ImageError: from `uv`, where they cannot be had. The image can be used as before.
    """
    python = root / "bin" / "python"
    uv(["pip", "install", "--python", python, "--no-deps", "--link-mode", "hardlink", "--compile-bytecode", *pins])
    fresh = root / f".{_RECORD}"
    fresh.write_text(_text(pins))
    fresh.replace(root / _RECORD)


def _text(pins: tuple[str, ...]) -> str:
    return "\n".join(pins) + "\n"
