"""Which TensorFlow versions exist, for which Pythons, and the exact packages of each image: the data of this room.

`releases.json`, `serving.json` and `locks/` are made by `locking` and shipped with the package.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DATA = Path(__file__).with_name("releases.json")
LOCKS = Path(__file__).with_name("locks")
SERVING = Path(__file__).with_name("serving.json")

# The Python of AWS's own image of each minor version, as their tags say (py3 of the oldest was 3.6). 2.15, 2.17 and
# 2.20 have no image of AWS: they take the Python of a neighbour.
_AWS_PYTHONS: dict[str, str] = {
    "1.13": "3.6",
    "1.14": "3.6",
    "1.15": "3.7",
    "2.0": "3.6",
    "2.1": "3.6",
    "2.2": "3.7",
    "2.3": "3.7",
    "2.4": "3.7",
    "2.5": "3.7",
    "2.6": "3.8",
    "2.7": "3.8",
    "2.8": "3.9",
    "2.9": "3.9",
    "2.10": "3.9",
    "2.11": "3.9",
    "2.12": "3.10",
    "2.13": "3.10",
    "2.14": "3.10",
    "2.15": "3.10",
    "2.16": "3.10",
    "2.17": "3.10",
    "2.18": "3.10",
    "2.19": "3.12",
    "2.20": "3.12",
    "2.21": "3.12",
}


@dataclass(frozen=True)
class TensorFlowRelease:
    """One TensorFlow on PyPI. `pythons` are those with a wheel for Linux on x86-64, oldest first."""

    version: str
    released: dt.date
    pythons: tuple[str, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version, comparable."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def minor(self) -> str:
        """ "2.19" of "2.19.1"."""
        return self.version.rpartition(".")[0]

    @property
    def aws_python(self) -> str:
        """The Python of AWS's image, even where TensorFlow has no wheel for it here."""
        return _AWS_PYTHONS.get(self.minor) or _AWS_PYTHONS[max(_AWS_PYTHONS, key=lambda m: [*map(int, m.split("."))])]

    @property
    def cpu_package(self) -> str:
        """The package without CUDA. Before 2.1 that was the one called `tensorflow`."""
        return "tensorflow-cpu" if self.numbers >= (2, 1) else "tensorflow"

    @property
    def gpu_package(self) -> str:
        """The package that can use CUDA."""
        return "tensorflow" if self.numbers >= (2, 1) else "tensorflow-gpu"


@lru_cache(maxsize=1)
def releases() -> tuple[TensorFlowRelease, ...]:
    """Every TensorFlow that an image can be made of, oldest first."""
    return tuple(
        TensorFlowRelease(item["version"], dt.date.fromisoformat(item["released"]), tuple(item["pythons"]))
        for item in json.loads(DATA.read_text())
    )


def tensorflow_lock(release: TensorFlowRelease, python: str) -> tuple[str, ...] | None:
    """The exact packages beside TensorFlow `release` on `python`; None where no lock exists."""
    for version in (release.version, release.minor):
        lock = LOCKS / f"tensorflow-{version}-py{python}.txt"
        if lock.exists():
            return _pins(lock)
    return None


def cuda_lock(release: TensorFlowRelease, python: str) -> tuple[str, ...]:
    """NVIDIA's libraries as packages; empty for the versions whose CUDA is on no index."""
    for version in (release.version, release.minor):
        lock = LOCKS / f"tensorflow-{version}-py{python}-cuda.txt"
        if lock.exists():
            return _pins(lock)
    return ()


def serving_pins(release: TensorFlowRelease, python: str) -> tuple[str, ...]:
    """The exact packages that serve models beside TensorFlow `release` on `python`: what there is for both of them."""
    data = _serving()
    openvino = data["openvino"].get(python)
    stubs = data["tensorflow-serving-api"].get(release.minor)
    pins = (f"openvino=={openvino}" if openvino else "", f"tensorflow-serving-api=={stubs}" if stubs else "")
    return tuple(pin for pin in pins if pin)


@lru_cache(maxsize=1)
def _serving() -> dict[str, dict[str, str]]:
    return json.loads(SERVING.read_text())


def python_lock(python: str) -> tuple[str, ...] | None:
    """The packages of a plain Python image; None where that Python is none of ours."""
    lock = LOCKS / f"python-{python}.txt"
    return _pins(lock) if lock.exists() else None


@lru_cache(maxsize=64)
def _pins(lock: Path) -> tuple[str, ...]:
    return tuple(line for line in lock.read_text().splitlines() if line and not line.startswith("#"))


@lru_cache(maxsize=1)
def python_versions() -> tuple[str, ...]:
    """The Pythons that have a plain image, oldest first."""
    found = [lock.stem.removeprefix("python-") for lock in LOCKS.glob("python-*.txt")]
    return tuple(sorted(found, key=lambda version: [int(part) for part in version.split(".")]))


def python_distance(python: str, wanted: str) -> tuple[int, int]:
    """How far two Pythons are apart, to sort by; of two equally far the newer is nearer."""
    one, other = ([int(part) for part in f"{version}.0".split(".")[:2]] for version in (python, wanted))
    gap = (one[0] - other[0]) * 100 + one[1] - other[1]
    return abs(gap), -gap
