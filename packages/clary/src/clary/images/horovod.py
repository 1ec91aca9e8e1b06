"""The real Horovod, compiled against an image's TensorFlow when the first job by MPI asks for it.

Horovod's last release builds against TensorFlow up to 2.15; newer images have clary_parallel's modules of that name
(docs/reference/horovod.md), which also serve where it cannot be compiled, from Python 3.8 on. Compiling takes two
minutes and is done once an image; what became of it stands in a file in the image's folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from uv import find_uv_bin

from clary.images import leases
from clary.images.catalog import FrameworkImage
from clary.images.interpreters import uv_environment

VERSION = "0.28.1"
TOOLS = ("c++", "cmake", "make")

_LAST_TENSORFLOW = (2, 15)
_RECORD = "horovod.txt"
# cloudpickle is all that Horovod imports and images lack; this one runs on Python 3.6 to 3.12.
_REQUIREMENTS = ("cloudpickle==2.2.1", f"horovod=={VERSION}")
_VARIABLES = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITH_MPI": "1",
    "HOROVOD_WITHOUT_GLOO": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def fits(image: FrameworkImage) -> bool:
    """Whether Horovod can be built against this image's TensorFlow."""
    if image.framework != "tensorflow":
        return False
    major, minor = image.version.split(".")[:2]
    return (int(major), int(minor)) <= _LAST_TENSORFLOW


def ensure(
    image: FrameworkImage, root: Path, progress: Callable[[str], None], path: str | None = None
) -> tuple[str, ...]:
    """Build Horovod into the image at `root` where it is not there yet; returns lines for the head of the job's log.

    Blocks for minutes the first time. What fails is not tried again for this image, except that a machine without
    compilers is looked at anew for every job.

    Args:
        image: a recipe that `fits`.
        root: its folder; this process uses the image.
        progress: called with a sentence for people.
        path: where compilers are looked for; None: this process's PATH.
    """
    if not _record(root):
        missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
        if missing:
            return (f"Horovod cannot be compiled: this machine has no {' and no '.join(missing)}. {_instead(image)}",)
        with leases.building(root.parent, root.name, progress) as lock:
            if not _record(root):  # while we waited, another may have built it
                lock.report(f"Compiling Horovod {VERSION} for {image.name}, once; this takes minutes")
                progress(f"Compiling Horovod {VERSION} for {image.name}, once; this takes minutes")
                failure = _build(root, lock)
                _write(root, f"failed: {failure}" if failure else VERSION)
    state = _record(root)
    if state == VERSION:
        return ()
    reason = state.removeprefix("failed: ")
    return (
        f"Horovod could not be compiled for this image ({reason}). {_instead(image)} "
        f"`clary images rm {image.name}` makes Clary try again.",
    )


def _build(root: Path, lock: leases.BuildLock) -> str:
    """Why it failed, in a few lines; empty when it is there."""
    python = root / "bin" / "python"
    # What is compiled fits this TensorFlow alone; from its cache uv would give it to every image of the same Python.
    options = ("--no-cache", "--reinstall", "--no-deps", "--no-build-isolation")
    install = ["pip", "install", "--python", str(python), *options, *_REQUIREMENTS]
    variables = {**uv_environment(), **_VARIABLES}
    variables["PATH"] = f"{root / 'bin'}:{variables.get('PATH', os.defpath)}"
    done = subprocess.run(
        [find_uv_bin(), *install],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        pass_fds=(lock.descriptor,),
    )
    if done.returncode == 0:
        program = "import horovod.tensorflow"
        done = subprocess.run([python, "-c", program], env=variables, capture_output=True, text=True, check=False)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return " ".join(said[-3:])[-500:] or f"exit code {done.returncode}" if done.returncode else ""


def _instead(image: FrameworkImage) -> str:
    minor = int(image.python.partition(".")[2])
    if minor >= 8:
        return "Clary's own module serves scripts that import it: docs/reference/horovod.md."
    return (
        f"Scripts that import it fail: Clary's own module needs Python 3.8, and this image has {image.python}. Use an "
        "image with Python 3.8 or later, or install a compiler, cmake and make."
    )


def _record(root: Path) -> str:
    try:
        return (root / _RECORD).read_text().strip()
    except OSError:
        return ""


def _write(root: Path, text: str) -> None:
    fresh = root / f".{_RECORD}"
    fresh.write_text(text + "\n")
    fresh.replace(root / _RECORD)
