"""The NVIDIA GPUs of this machine: which there are, and what a job needs to see of the driver to use its own.

A GPU's number is the one that nvidia-smi, docker and Ray use: its place in the order of the PCI bus. The number in the
name of its device file is another one, and so is CUDA's own order; the driver's files below /proc tell them apart.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CARDS = Path("/proc/driver/nvidia/gpus")
_DEVICES = Path("/dev")
_LOADER_CACHE = Path("/etc/ld.so.cache")
_LIBRARY = "libcuda.so.1"
# Where the driver's libraries lie on machines whose loader is not told of them: Google's and similar, NixOS, WSL.
_DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/run/opengl-driver/lib", "/usr/lib/wsl/lib")
_CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


@dataclass(frozen=True)
class Gpu:
    """One GPU. `minor` is the N of /dev/nvidiaN; `uuid` and `name` are empty where the driver does not tell."""

    minor: int
    uuid: str = ""
    name: str = ""


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that the driver drives, by number. Costs a few small files: no library and no process is needed."""
    cards = sorted(_CARDS.glob("*/information"), key=lambda path: path.parent.name)
    told = [gpu for path in cards if (gpu := _read(path)) is not None]
    if told:
        return tuple(told)
    minors = [path.name.removeprefix("nvidia") for path in _DEVICES.glob("nvidia*")]
    return tuple(Gpu(minor) for minor in sorted(int(minor) for minor in minors if minor.isdecimal()))


def usable(environ: Mapping[str, str] = os.environ) -> tuple[int, ...]:
    """The numbers of the GPUs that this process may use: all, or those that its CUDA_VISIBLE_DEVICES lists.

    As in CUDA, what follows an entry that names no GPU is ignored. Numbers there are nvidia-smi's.
    """
    all_of_them = gpus()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(range(len(all_of_them)))
    found: list[int] = []
    for entry in (word.strip() for word in visible.split(",")):
        number = _number(entry, all_of_them)
        if number is None or number in found:
            break
        found.append(number)
    return tuple(found)


def devices(numbers: tuple[int, ...]) -> list[str]:
    """The device files that a job needs for these GPUs; not all need exist. None for none."""
    if not numbers:
        return []
    known = gpus()
    minors = [known[number].minor if number < len(known) else number for number in numbers]
    return [str(_DEVICES / name) for name in (*(f"nvidia{minor}" for minor in minors), *_CONTROL)]


def visible_devices(numbers: tuple[int, ...]) -> str:
    """CUDA_VISIBLE_DEVICES for a job that could see all GPUs: by UUID, since CUDA numbers them by their speed."""
    known = gpus()
    return ",".join((known[number].uuid if number < len(known) else "") or str(number) for number in numbers)


def prepare(numbers: tuple[int, ...]) -> None:
    """Have the device files made that only root may make and CUDA would ask for: a job in a sandbox could not.

    On a machine without a display nobody has made them before the first CUDA program. NVIDIA's own program does it.
    """
    files = devices(numbers)[: len(numbers) + 2]
    program = shutil.which("nvidia-modprobe")
    if program is None or all(Path(file).exists() for file in files):
        return
    minors = [file.rpartition("nvidia")[2] for file in files[: len(numbers)]]
    command = [program, "-u", *(word for minor in ("0", *minors) for word in ("-c", minor))]
    subprocess.run(command, capture_output=True, timeout=30, check=False)  # where it fails, CUDA says so to the job


def driver_folder() -> Path | None:
    """The folder of the driver's libraries where the dynamic loader does not find them by itself; else None."""
    try:
        if _LIBRARY.encode() in _LOADER_CACHE.read_bytes():
            return None
    except OSError:
        pass
    named = [word for word in os.environ.get("LD_LIBRARY_PATH", "").split(":") if word]
    return next((Path(word) for word in (*named, *_DRIVER_FOLDERS) if Path(word, _LIBRARY).exists()), None)


def _read(information: Path) -> Gpu | None:
    """A card's file below /proc, lines of "Name: \t value"."""
    try:
        lines = [line.partition(":") for line in information.read_text().splitlines()]
    except OSError:
        return None
    told = {name.strip(): value.strip() for name, _, value in lines}
    minor = told.get("Device Minor", "")
    uuid = told.get("GPU UUID", "")
    if not minor.isdecimal():
        return None
    return Gpu(int(minor), uuid if re.fullmatch(r"GPU-[0-9a-f-]+", uuid) else "", told.get("Model", ""))


def _number(entry: str, known: tuple[Gpu, ...]) -> int | None:
    """The number that an entry of CUDA_VISIBLE_DEVICES means: a number, or the beginning of a UUID."""
    if entry.isdecimal():
        return int(entry) if int(entry) < len(known) else None
    if not entry.startswith("GPU-"):
        return None
    matching = [number for number, gpu in enumerate(known) if gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None
