"""Makes the data that this room ships: `releases.json`, `serving.json` and `locks/`. A maintainer's command.

    python -m clary.images.locking            refresh releases.json from PyPI and write the locks that are missing
    python -m clary.images.locking 2.19 …     write the locks of these versions anew
    python -m clary.images.locking serving    write serving.json anew

A lock pins every package of one TensorFlow minor version on one Python, so that an image is the same on every machine
and day. Packages are those of the months of the release (`uv pip compile --exclude-newer`): old frameworks break under
new companions. A patch version that cannot live with its minor's lock gets one of its own.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from clary.images import ingredients
from clary.images.releases import DATA, LOCKS, SERVING, TensorFlowRelease, releases

_PYTHONS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
_PLAIN_PYTHONS = (*_PYTHONS, "3.14")
_PLAIN = re.compile(r"\d+\.\d+\.\d+")
_AT_ONCE = 3
_OLDEST = (1, 13)  # the first TensorFlow with a wheel for Python 3.7, the oldest that the toolkit runs on
_FRESH_UNTIL = dt.date(2026, 8, 1)
_COMPANIONS_LAG = dt.timedelta(days=45)
# Asked for by 2.14 and 2.15.0 in versions that are on PyPI for some Pythons or for none. TensorFlow runs without.
_NO_WHEELS = ("tensorrt", "tensorrt-bindings", "tensorrt-libs")
# CUDA 11 and cuDNN 8 from PyPI, for the versions before TensorFlow itself named them in its extra `and-cuda`.
_CUDA_11 = (
    "nvidia-cublas-cu11",
    "nvidia-cuda-cupti-cu11",
    "nvidia-cuda-nvcc-cu11",
    "nvidia-cuda-nvrtc-cu11",
    "nvidia-cuda-runtime-cu11",
    "nvidia-cudnn-cu11==8.6.0.163",
    "nvidia-cufft-cu11",
    "nvidia-curand-cu11",
    "nvidia-cusolver-cu11",
    "nvidia-cusparse-cu11",
)


def main(versions: list[str]) -> None:
    """Writes what is missing, or the locks of `versions` ("2.19") anew."""
    if versions == ["serving"]:
        _write_serving()
        return
    _write_releases()
    tasks: list[tuple[str, str, list[TensorFlowRelease]]] = []
    for minor in sorted({release.minor for release in releases()}, key=_numbers, reverse=True):
        newest_first = [release for release in reversed(releases()) if release.minor == minor]
        for python in _PYTHONS:
            patches = [release for release in newest_first if python in release.pythons]
            if patches and (minor in versions or not (LOCKS / f"tensorflow-{minor}-py{python}.txt").exists()):
                tasks.append((minor, python, patches))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done in [pool.submit(_lock_minor, *task) for task in tasks]:
            done.result()
    for python in _PLAIN_PYTHONS:
        path = LOCKS / f"python-{python}.txt"
        if not path.exists() or "python" in versions:
            _save(path, _compile(ingredients.PYTHON_COMPANIONS, python, _FRESH_UNTIL))
    if not SERVING.exists():
        _write_serving()


def _write_releases() -> None:
    """Asks PyPI which TensorFlow versions have wheels for Linux, for which Pythons, and since when."""
    files: dict[str, list[dict[str, Any]]] = _published("tensorflow")
    found: list[dict[str, Any]] = []
    for version in sorted((v for v in files if _PLAIN.fullmatch(v)), key=_numbers):
        wheels = [file for file in files[version] if re.search(r"linux.*x86_64\.whl$", file["filename"])]
        tags = {tag for file in wheels for tag in re.findall(r"-cp3(\d+)-", file["filename"])}
        pythons = [python for python in _PYTHONS if python.removeprefix("3.") in tags]
        if pythons and _numbers(version)[:2] >= _OLDEST and not any(file["yanked"] for file in wheels):
            date = min(file["upload_time"] for file in wheels)[:10]
            found.append({"version": version, "released": date, "pythons": pythons})
    lines = ",\n".join("  " + json.dumps(item) for item in found)
    DATA.write_text(f"[\n{lines}\n]\n")
    releases.cache_clear()


def _write_serving() -> None:
    """Writes which OpenVINO each Python gets, and which stubs of TensorFlow Serving each TensorFlow.

    OpenVINO is the newest that has a wheel for the Python and that every lock of it agrees with; the stubs are those of
    the same minor version, whose protobuf is the lock's.
    """
    openvino: dict[str, str] = {}
    for python in _PYTHONS:
        numpys = {pin for path in LOCKS.glob(f"tensorflow-*-py{python}.txt") for pin in _numpy_pin(path)}
        try:
            pins = _compile((ingredients.SERVING_ENGINE,), python, _FRESH_UNTIL)
            (pin,) = (pin for pin in pins if pin.startswith("openvino=="))
            for numpy in sorted(numpys):
                _compile((pin, numpy), python, _FRESH_UNTIL)
        except subprocess.CalledProcessError as error:
            print(f"no OpenVINO for Python {python}: {error.stderr[-300:]}", flush=True)
            continue
        openvino[python] = pin.partition("==")[2]
    versions = sorted((v for v in _published("tensorflow-serving-api") if _PLAIN.fullmatch(v)), key=_numbers)
    minors = {release.minor for release in releases()}
    stubs = {v.rpartition(".")[0]: v for v in versions if v.rpartition(".")[0] in minors}
    SERVING.write_text(json.dumps({"openvino": openvino, "tensorflow-serving-api": stubs}, indent=1) + "\n")
    print(f"{SERVING.name}: {len(openvino)} Pythons, {len(stubs)} TensorFlows", flush=True)


def _numpy_pin(lock: Path) -> list[str]:
    return [line for line in lock.read_text().splitlines() if line.startswith("numpy==")]


def _lock_minor(minor: str, python: str, patches: list[TensorFlowRelease]) -> None:
    """Locks the newest patch of `patches`, then whichever others that lock does not fit."""
    until = patches[0].released + _COMPANIONS_LAG
    for index, release in enumerate(patches):
        wanted = (f"{release.cpu_package}=={release.version}", *ingredients.companions(release.version))
        path = LOCKS / f"tensorflow-{minor}-py{python}.txt"
        if path.exists() and index and _fits(release, path, python, until):
            continue
        path = path if not index else LOCKS / f"tensorflow-{release.version}-py{python}.txt"
        try:
            pins = _compile(wanted, python, until)
        except subprocess.CalledProcessError as error:
            print(f"no lock for {release.version} on Python {python}: {error.stderr}", flush=True)
            continue
        _save(path, [pin for pin in pins if not pin.startswith(f"{release.cpu_package}==")])
        cuda = _cuda_requirements(release)
        if cuda:
            try:
                both = _compile((*cuda, *pins), python, until, drop=_NO_WHEELS)
            except subprocess.CalledProcessError as error:
                print(f"no CUDA packages for {release.version} on Python {python}: {error.stderr[-600:]}", flush=True)
                continue
            _save(
                path.with_name(path.stem + "-cuda.txt"),
                [pin for pin in both if pin not in pins and not pin.startswith("tensorflow==")],
            )


def _fits(release: TensorFlowRelease, lock: Path, python: str, until: dt.date) -> bool:
    pins = [line for line in lock.read_text().splitlines() if line]
    try:
        _compile((f"{release.cpu_package}=={release.version}", *pins), python, until)
    except subprocess.CalledProcessError:
        return False
    return True


def _cuda_requirements(release: TensorFlowRelease) -> tuple[str, ...]:
    numbers = _numbers(release.version)
    if numbers >= (2, 14):
        return (f"tensorflow[and-cuda]=={release.version}",)
    return _CUDA_11 if numbers >= (2, 5) else ()


def _compile(
    requirements: tuple[str, ...], python: str, until: dt.date, drop: tuple[str, ...] = ("tensorflow",)
) -> list[str]:
    """The exact versions that uv resolves `requirements` to, of what was published before `until`.

    `drop` names packages to leave out although others ask for them: tf-keras asks for `tensorflow`, which is here
    under the name `tensorflow-cpu`.
    """
    if any(requirement.startswith("tensorflow==") for requirement in requirements):
        drop = ()
    with tempfile.TemporaryDirectory() as folder:
        wanted, excluded = Path(folder, "wanted.in"), Path(folder, "excluded.txt")
        wanted.write_text("\n".join(requirements))
        excluded.write_text("\n".join(drop))
        command = [find_uv_bin(), "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate"]
        # Any late patch of that Python: some packages refuse the first ones ("3.7" would mean 3.7.0).
        command += ["--python-version", f"{python}.9", "--python-platform", "x86_64-manylinux_2_28"]
        command += ["--exclude-newer", until.isoformat(), "--excludes", str(excluded)]
        for package in (*ingredients.ALWAYS_FRESH, *(item.partition("==")[0] for item in _CUDA_11)):
            command += ["--exclude-newer-package", f"{package}={_FRESH_UNTIL.isoformat()}"]
        answer = subprocess.run([*command, str(wanted)], capture_output=True, text=True, check=True)
    return [line for line in answer.stdout.splitlines() if line and not line.startswith("#")]


def _save(path: Path, pins: list[str]) -> None:
    path.write_text("\n".join(pins) + "\n")
    print(f"{path.name}: {len(pins)} packages", flush=True)


def _published(package: str) -> dict[str, Any]:
    """The files of every version of a package, from the JSON interface of the index that PACKAGE_INDEX names."""
    index = os.environ.get("PACKAGE_INDEX", "").rstrip("/")
    if not index:
        raise SystemExit("Set PACKAGE_INDEX to the address of the Python package index, without a path.")
    with urllib.request.urlopen(f"{index}/pypi/{package}/json") as answer:
        return json.load(answer)["releases"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


if __name__ == "__main__":
    main(sys.argv[1:])
