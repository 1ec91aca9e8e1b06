"""Builds an image: a virtual environment with exactly the recipe's packages, made once and shared by every job.

uv links the packages from its cache into each environment, so that environments share on disk what they have in common.
An environment is built in a folder of its own and renamed into place when it is whole: a process killed at any moment
leaves either nothing or a complete image.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from clary.images import additions, leases, probe, record, serving_packages, toolkit
from clary.images.catalog import FrameworkImage
from clary.images.errors import ImageError
from clary.images.interpreters import find_or_install, uv_environment
from clary.images.nearest import nearest_buildable
from clary.images.record import ImageRecord

_BUILDING = ".building"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What AWS's images set for every script. Their KMP_AFFINITY is left out: it binds threads to the first cores, which
# several jobs on one machine would then share.
_AWS_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "UTF-8",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "DLC_CONTAINER_TYPE": "training",
}
_TENSORFLOW_ENVIRONMENT = {"SAGEMAKER_TRAINING_MODULE": "sagemaker_tensorflow_container.training:main"}
# What uv says that is worth a person's while; it lists every package besides.
_TELLING = re.compile(r"Resolved|Downloading|Downloaded|Building|Built|Prepared|Installed|Bytecode compiled")


@dataclass(frozen=True)
class BuiltImage:
    """An environment that is there.

    Args:
        root: the environment's folder. A sandbox shows it, read-only, at this very path.
        python: its interpreter.
        environment: variables to set for whatever runs in it, PATH included.
        command_train: what the word `train` means.
        command_serve: what the word `serve` means.
        read_only_paths: the folders beside `root` that a sandbox must show: where the base interpreter lives.
        notices: how it differs from what was asked for: lines for the head of the job's log.
    """

    root: Path
    python: Path
    environment: dict[str, str]
    command_train: tuple[str, ...]
    command_serve: tuple[str, ...]
    read_only_paths: tuple[Path, ...]
    notices: tuple[str, ...] = ()

    def release(self) -> None:
        """Says that this process no longer uses the image. The end of the process says so as well."""
        leases.release(self.root.parent, self.root.name)


def ensure(image: FrameworkImage, images_home: Path, progress: Callable[[str], None]) -> BuiltImage:
    """The environment of `image`, built first where it is not there yet.

    Blocks. Any number of processes may ask at once: one builds, the others wait and are shown its progress. The image
    counts as in use until this process ends. With the image there this costs a few system calls.

    Args:
        image: the recipe, from `catalog.resolve`.
        images_home: the folder of all images.
        progress: called with a sentence for people at every step of a build.

    Raises:
        ImageError: it cannot be built here; the error says why, and which image can.
    """
    root = images_home.absolute() / image.folder
    leases.use(root.parent, root.name)
    try:
        found = _whole(root)
        if found is None or not _is_current(image, root, found):
            found = _prepare(image, root, progress)
    except BaseException:
        leases.release(root.parent, root.name)
        raise
    return _built(image, root, found)


def _whole(root: Path) -> ImageRecord | None:
    """The record of the image at `root`, unless the Python that it stands on has gone from this machine."""
    found = record.read(root)
    return found if found and (root / "bin" / "python").exists() else None


def _is_current(image: FrameworkImage, root: Path, found: ImageRecord) -> bool:
    return toolkit.is_current(root / found.site_packages) and not _missing(image, root)


def _built(image: FrameworkImage, root: Path, found: ImageRecord) -> BuiltImage:
    environment = {**_AWS_ENVIRONMENT, "PATH": f"{root / 'bin'}:{_SYSTEM_PATH}"}
    if found.framework == "tensorflow":
        environment |= _TENSORFLOW_ENVIRONMENT
    if found.library_paths:
        environment["LD_LIBRARY_PATH"] = ":".join(str(root / path) for path in found.library_paths)
        environment |= _compiler_variables(root, found)
    python = root / "bin" / "python"
    return BuiltImage(
        root=root,
        python=python,
        environment=environment,
        command_train=(str(python), str(root / "bin" / "train")),
        command_serve=(str(python), str(root / "bin" / "serve")),
        read_only_paths=tuple(Path(path) for path in found.outside),
        notices=image.notices + _missing(image, root),
    )


def _missing(image: FrameworkImage, root: Path) -> tuple[str, ...]:
    """What the image has not got of what `_complete` adds, and what that costs: lines for the head of the job's log."""
    missing: list[str] = []
    for room, pins, _, cost in _added(image):
        if not room.is_current(root, pins):
            missing.append(f"{' and '.join(pins)} could not be installed: {cost}.")
    return tuple(missing)


def _added(image: FrameworkImage):
    """What a built image gets besides: who adds it, the packages, what for, and what it costs to be without."""
    return (
        (additions, image.additions, "MPI", "MPI cannot be started"),
        (serving_packages, image.serving, "serving", "TensorFlow computes, and there is no gRPC"),
    )


def _prepare(image: FrameworkImage, root: Path, progress: Callable[[str], None]) -> ImageRecord:
    """Builds the image, or gives a built one this Clary's toolkit, as the only process to do so."""
    with leases.building(root.parent, root.name, progress) as lock:

        def tell(message: str) -> None:
            lock.report(message)
            progress(message)

        found = _whole(root)
        try:
            if found is None:
                found = _build(image, root, lock, tell)
            elif not toolkit.is_current(root / found.site_packages):
                toolkit.install(root, root / found.site_packages)
            _complete(image, root, lock, tell)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ImageError(
                f"The disk that holds {root.parent} is full, so {image.name} cannot be built. "
                "`clary images ls` shows what images take up; `clary images rm` removes one."
            ) from None
        finally:
            lock.clear()
        return found


def _complete(image: FrameworkImage, root: Path, lock: leases.BuildLock, progress: Callable[[str], None]) -> None:
    """Adds what a built image lacks. It can be used without: `_missing` says what that costs."""

    def uv(arguments: list[str | Path]) -> None:
        _uv(arguments, image, lock, progress)

    for room, pins, purpose, _ in _added(image):
        if room.is_current(root, pins):
            continue
        progress(f"Adding to {image.name} for {purpose}: {', '.join(pins)}")
        try:
            room.install(root, pins, uv)
        except ImageError as error:
            progress(error.reason)


def _build(image: FrameworkImage, root: Path, lock: leases.BuildLock, progress: Callable[[str], None]) -> ImageRecord:
    began = time.time()
    _sweep(root)
    try:
        interpreter = find_or_install(image.python, progress)
    except ImageError as error:
        raise ImageError(error.reason, nearest_buildable(image)) from None
    progress(f"Building {image.name}: {len(image.requirements)} packages on Python {image.python}")
    workshop = Path(tempfile.mkdtemp(dir=_workshops(root), prefix=f"{root.name}."))
    try:
        fresh = workshop / root.name
        _uv(
            [
                "venv",
                "--quiet",
                "--relocatable",
                "--no-project",
                "--prompt",
                image.name,
                "--python",
                interpreter,
                fresh,
            ],
            image,
            lock,
            progress,
        )
        requirements = fresh / "requirements.txt"
        requirements.write_text("\n".join(image.requirements) + "\n")
        install = ["pip", "install", "--python", fresh / "bin" / "python", "--no-deps", "--link-mode", "hardlink"]
        _uv([*install, "--compile-bytecode", "--requirements", requirements], image, lock, progress)
        progress(f"Trying {image.name}")
        try:
            findings = probe.examine(fresh, "tensorflow" if image.framework == "tensorflow" else "")
        except ImageError as error:
            raise ImageError(f"{image.name} cannot be used. {error.reason}") from None
        _alias_tensorflow(fresh / findings.site_packages, image)
        toolkit.install(fresh, fresh / findings.site_packages)
        made = ImageRecord(
            name=image.name,
            uri=image.uri,
            framework=image.framework,
            version=findings.version,
            device=image.device,
            python=findings.python,
            site_packages=findings.site_packages,
            outside=findings.outside,
            library_paths=_library_paths(fresh, findings.site_packages, image),
            packages=image.requirements,
            created=began,
            seconds=round(time.time() - began, 1),
        )
        record.write(fresh, made)
        os.sync()  # the whole tree reaches the disk before its name does: a power cut leaves no half image
        if root.exists():  # a folder without a record, or whose Python has gone
            root.rename(workshop / "before")
        fresh.rename(root)
        os.sync()
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    progress(f"Built {image.name} in {made.seconds:.0f} s")
    return made


def _workshops(root: Path) -> Path:
    folder = root.parent / _BUILDING
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sweep(root: Path) -> None:
    """Clears what a killed build of this image left. The build lock says that it has ended."""
    for left in _workshops(root).glob(f"{root.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _uv(
    arguments: list[str | Path], image: FrameworkImage, lock: leases.BuildLock, progress: Callable[[str], None]
) -> None:
    """Runs uv, passing on what it says. It holds the build lock too: see `leases.BuildLock`."""
    process = subprocess.Popen(
        [find_uv_bin(), *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(lock.descriptor,),
        env={"UV_HTTP_TIMEOUT": "120", **uv_environment()},
    )
    said: list[str] = []
    with process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                said.append(line.strip())
                if _TELLING.match(said[-1]):
                    progress(said[-1])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        reason = " ".join(line for line in said if line and not _TELLING.match(line))[-800:]
        if "No space left" in reason:
            raise OSError(errno.ENOSPC, "No space left on device")
        raise ImageError(f"{image.name} could not be built: {reason or f'uv ended with {process.returncode}'}")


def _alias_tensorflow(site_packages: Path, image: FrameworkImage) -> None:
    """Lets installers know that `tensorflow` is here, under whichever name its package has.

    Otherwise a requirements.txt that names tensorflow, or anything that depends on it, would download it a second time.
    """
    package = image.requirements[0].partition("==")[0]
    if image.framework != "tensorflow" or package == "tensorflow":
        return
    folder = f"tensorflow-{image.version}.dist-info"
    (site_packages / folder).mkdir()
    (site_packages / folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: tensorflow\nVersion: {image.version}\nSummary: Provided by {package}.\n"
    )
    (site_packages / folder / "INSTALLER").write_text("clary\n")
    (site_packages / folder / "RECORD").write_text(
        "".join(f"{folder}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD"))
    )


def _library_paths(root: Path, site_packages: str, image: FrameworkImage) -> tuple[str, ...]:
    """Where NVIDIA's packages keep their libraries. TensorFlow before 2.14, and 2.16 and the first 2.17 again, do not
    look there by themselves (github.com/tensorflow/tensorflow/issues/63362); to the others it makes no difference."""
    if image.framework != "tensorflow":
        return ()
    folders = sorted((root / site_packages / "nvidia").glob("*/lib"))
    return tuple(str(folder.relative_to(root)) for folder in folders)


def _compiler_variables(root: Path, found: ImageRecord) -> dict[str, str]:
    """Where XLA finds NVIDIA's compiler. Keras compiles its optimizers with XLA on GPUs from 2.11 on, and TensorFlow
    before 2.14 looks for the compiler only where the CUDA toolkit is installed for the whole machine."""
    compiler = root / found.site_packages / "nvidia" / "cuda_nvcc"
    numbers = tuple(int(part) for part in found.version.split(".")[:2])
    return {"XLA_FLAGS": f"--xla_gpu_cuda_data_dir={compiler}"} if numbers < (2, 14) and compiler.is_dir() else {}
