"""What an image needs to serve models besides what it trains with: OpenVINO, and TensorFlow Serving's gRPC stubs.

They lie in a folder of the image, `serving/current`, that is on no path: the toolkit's `serve` alone looks into it. So
an image is the same environment for training, made once, and serving adds seconds to it, not a second environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

_FOLDER = "serving"
_CURRENT = "current"

Install = Callable[[list[str | Path]], None]


def is_current(root: Path, pins: tuple[str, ...]) -> bool:
    """Whether the image at `root` has exactly these packages. One system call."""
    if not pins:
        return True
    try:
        return (root / _FOLDER / _CURRENT).readlink().name == _digest(pins)
    except OSError:
        return False


def install(root: Path, pins: tuple[str, ...], uv: Install) -> None:
    """Gives the image these packages in place of any before. The caller holds the image's lock.

    A server that runs goes on with what it has: the folder before this one stays.

    Args:
        root: the image's folder.
        pins: every package with its exact version.
        uv: runs uv with arguments.

    Raises:
        ImageError: from `uv`, where they cannot be had. The image is as it was.
    """
    folder = root / _FOLDER / _digest(pins)
    folder.parent.mkdir(exist_ok=True)
    link = folder.parent / _CURRENT
    before = link.readlink().name if link.is_symlink() else folder.name
    if not folder.exists():
        fresh = folder.with_name(f".{folder.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        python = root / "bin" / "python"
        uv(["pip", "install", "--python", python, "--no-deps", "--link-mode", "hardlink", "--target", fresh, *pins])
        subprocess.run([python, "-I", "-m", "compileall", "-q", fresh], check=False, stdout=subprocess.DEVNULL)
        os.sync()  # the whole folder reaches the disk before its name does
        fresh.rename(folder)
    fresh_link = folder.parent / f".{_CURRENT}"
    fresh_link.unlink(missing_ok=True)
    fresh_link.symlink_to(folder.name)
    fresh_link.replace(link)
    for old in folder.parent.iterdir():
        if old.name not in (folder.name, before, _CURRENT):
            shutil.rmtree(old, ignore_errors=True)


def _digest(pins: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(pins).encode()).hexdigest()[:12]
