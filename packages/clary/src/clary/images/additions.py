"""Packages that a built image gets besides, in its own site-packages: Open MPI with mpi4py, and tensorflow-io.

Jobs that run go on: files only come. What is there is written down in the image's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Install = Callable[[list[str | Path]], None]


@dataclass(frozen=True)
class Additions:
    """Packages that are put in together.

    Args:
        record: the name of the file in the image's folder that says which are there.
    """

    record: str

    def is_current(self, root: Path, pins: tuple[str, ...]) -> bool:
        """Whether the image at `root` has exactly these packages. One small file is read."""
        try:
            return not pins or (root / self.record).read_text() == _text(pins)
        except OSError:
            return False

    def install(self, root: Path, pins: tuple[str, ...], uv: Install) -> None:
        """Puts these packages in. The caller holds the image's lock.

        Args:
            root: the image's folder.
            pins: every package with its exact version; what they depend on is there.
            uv: runs uv with arguments.

        Raises:
            ImageError: from `uv`, where they cannot be had. The image can be used as before.
        """
        python = root / "bin" / "python"
        uv(["pip", "install", "--python", python, "--no-deps", "--link-mode", "hardlink", "--compile-bytecode", *pins])
        fresh = root / f".{self.record}"
        fresh.write_text(_text(pins))
        fresh.replace(root / self.record)


MPI = Additions("additions.txt")
TENSORFLOW_IO = Additions("tensorflow-io.txt")


def _text(pins: tuple[str, ...]) -> str:
    return "\n".join(pins) + "\n"
