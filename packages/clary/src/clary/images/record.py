"""What is written down about a built image, in `image.json` of its folder. A folder with that file is a whole image."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_FILE = "image.json"


@dataclass(frozen=True)
class ImageRecord:
    """A built image.

    Args:
        name: for instance "tensorflow-2.19.1-cpu-py312".
        uri: the image URI that it was first built for.
        framework: "tensorflow" or "python".
        version: of the framework, as it says itself.
        device: "cpu" or "gpu".
        python: the interpreter's version, patch included.
        site_packages: relative to the image's folder.
        outside: folders outside the image that its programs need: the base interpreter's, libraries of it.
        library_paths: for LD_LIBRARY_PATH, relative to the image's folder.
        packages: the exact requirements.
        created: seconds since the epoch.
        seconds: how long the build took.
    """

    name: str
    uri: str
    framework: str
    version: str
    device: str
    python: str
    site_packages: str
    outside: tuple[str, ...]
    library_paths: tuple[str, ...]
    packages: tuple[str, ...]
    created: float
    seconds: float


def write(root: Path, record: ImageRecord) -> None:
    """Declares the image at `root` whole."""
    (root / _FILE).write_text(json.dumps(asdict(record), indent=1))


def read(root: Path) -> ImageRecord | None:
    """The record of the image at `root`; None where there is no whole image."""
    try:
        data = json.loads((root / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    data.update({field: tuple(data[field]) for field in ("outside", "library_paths", "packages")})
    return ImageRecord(**data)
