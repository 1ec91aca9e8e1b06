"""Which images there are, and what each is made of: from an image URI to a recipe that `build` can follow.

Images are matched by repository and tag, whatever the account and region: AWS's `tensorflow-training` with its older
names (`sagemaker-tensorflow-scriptmode`, `sagemaker-tensorflow`), `tensorflow/tensorflow`, and plain `python`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from clary.images import ingredients
from clary.images.errors import ImageError
from clary.images.reference import ImageReference, parse
from clary.images.releases import (
    TensorFlowRelease,
    cuda_lock,
    python_distance,
    python_lock,
    python_versions,
    releases,
    serving_pins,
    tensorflow_lock,
)

# Part of every digest: raise it when the way environments are laid out changes.
_LAYOUT = 1

_TENSORFLOW = ("tensorflow-training", "sagemaker-tensorflow-scriptmode", "sagemaker-tensorflow", "tensorflow")
_INFERENCE = ("tensorflow-inference", "tensorflow-inference-eia", "sagemaker-tensorflow-serving")
_SUPPORTED = "tensorflow-training:<version>-<cpu|gpu>-<py…> (TensorFlow 1.13 to {newest}) and python:<version>"
_TENSORFLOW_TAG = re.compile(
    r"(?P<version>\d+(?:\.\d+){0,2}|latest)(?:-(?P<device>cpu|gpu))?(?:-(?P<py>py\d+))?(?:-.+)?"
)
_PYTHON_TAG = re.compile(r"(?P<version>\d+(?:\.\d+){0,2}|latest)(?:-.+)?")
_NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")


@dataclass(frozen=True)
class FrameworkImage:
    """The recipe of an environment.

    Args:
        uri: the image as it was asked for.
        name: what the environment is called, for instance "tensorflow-2.19.1-cpu-py312".
        framework: "tensorflow" or "python".
        version: of TensorFlow; of Python for a plain one.
        device: "gpu" where CUDA's packages are in it.
        python: "3.12".
        requirements: every package with its exact version.
        notices: how this differs from what the URI says, for the head of the job's log.
        additions: further packages, put in once the environment is built; the folder is the same with and without them.
        tensorflow_io: the same, for scripts that train.
        serving: further packages, for the word `serve` alone; the folder is the same with and without them.
    """

    uri: str
    name: str
    framework: str
    version: str
    device: str
    python: str
    requirements: tuple[str, ...]
    notices: tuple[str, ...] = ()
    additions: tuple[str, ...] = ()
    tensorflow_io: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()

    @cached_property
    def folder(self) -> str:
        """The name of the environment's folder: equal for equal recipes, whatever URI asked for them."""
        recipe = json.dumps([_LAYOUT, self.python, self.requirements]).encode()
        return f"{self.name}-{hashlib.sha256(recipe).hexdigest()[:12]}"


def resolve(uri: str, *, gpu: bool | None = None) -> FrameworkImage:
    """The recipe of `uri`. Costs no more than reading a small file.

    Args:
        uri: an image URI, of any account and region.
        gpu: whether this machine has an NVIDIA GPU; None looks.

    Raises:
        ImageError: Clary has no recipe for it. The error names the nearest image that there is.
    """
    reference = parse(uri)
    if reference.name in _TENSORFLOW:
        return _resolve_tensorflow(uri, reference, has_nvidia_gpu() if gpu is None else gpu)
    if reference.name == "python":
        return _resolve_python(uri, reference)
    raise _unknown(uri, reference)


def resolve_serving(uri: str, *, gpu: bool | None = None) -> FrameworkImage:
    """The recipe of an image that is to serve a model: `tensorflow-inference`, or any that `resolve` knows.

    The environment is the one that trains: the toolkit in it brings both commands, `train` and `serve`. What serving
    needs besides is added to it, where `serve` alone finds it.

    Raises:
        ImageError: Clary has no recipe for it. The error names the nearest image that there is.
    """
    reference = parse(uri)
    if reference.name in _INFERENCE:
        image = _resolve_tensorflow(uri, reference, has_nvidia_gpu() if gpu is None else gpu)
    else:
        image = resolve(uri, gpu=gpu)
    if image.framework != "tensorflow":
        return image
    release = next(release for release in releases() if release.version == image.version)
    return replace(image, serving=serving_pins(release, image.python), tensorflow_io=())


def resolve_for_smdistributed(uri: str, *, gpu: bool | None = None) -> FrameworkImage:
    """The recipe of an image whose scripts import SageMaker's distributed libraries: `resolve`'s, not on Python 3.7.

    AWS had them in images of that Python; the modules that stand in for them need the next, for which TensorFlow 2.2
    and later have wheels. Where there is none, the image is that of `resolve`.

    Raises:
        ImageError: as `resolve` does.
    """
    image = resolve(uri, gpu=gpu)
    if image.framework != "tensorflow" or image.python != "3.7":
        return image
    newer = resolve(f"tensorflow-training:{image.version}-{image.device}-py38", gpu=gpu)
    if newer.python != "3.8":
        return image
    said = f"SageMaker's distributed libraries need Python 3.8 here: TensorFlow {image.version} runs on it, not on 3.7."
    return replace(newer, uri=uri, notices=(*image.notices, said))


def resolve_by_name(uri: str, *, gpu: bool | None = None) -> FrameworkImage:
    """The recipe of `uri` for what its name says that it is for: serving for `tensorflow-inference`, else training.

    Raises:
        ImageError: Clary has no recipe for it. The error names the nearest image that there is.
    """
    return (resolve_serving if parse(uri).name in _INFERENCE else resolve)(uri, gpu=gpu)


def has_nvidia_gpu() -> bool:
    """Whether NVIDIA's driver is loaded on this machine."""
    return any(Path(path).exists() for path in _NVIDIA)


def _resolve_tensorflow(uri: str, reference: ImageReference, gpu: bool) -> FrameworkImage:
    match = _TENSORFLOW_TAG.fullmatch(reference.tag or "latest")
    if reference.tag is None and reference.digest:
        raise ImageError(
            f"{uri} names its content by a digest only, so its TensorFlow version cannot be told. "
            "Give the tag as well, for instance tensorflow-training:2.19-cpu-py312."
        )
    if match is None:
        raise ImageError(
            f"The tag {reference.tag!r} of {uri} names no TensorFlow version. "
            "Expected <version>-<cpu|gpu>-<py…>, for instance 2.19-cpu-py312.",
            reference.sibling("tensorflow-training", _tag(releases()[-1], _device(uri))),
        )
    py = match["py"]
    asked_device = match["device"] or "cpu"
    release = _release(match["version"], _exact_python(py), uri, reference, asked_device)
    python = _nearest_python(py, release)
    notices = _python_notice(uri, py, python, release)
    if asked_device == "gpu" and not gpu:
        notices += (
            f"{uri} is a GPU image, and this machine shows no NVIDIA GPU: "
            f"TensorFlow {release.version} runs on the CPU.",
        )
    device = "gpu" if asked_device == "gpu" and gpu else "cpu"
    lock = tensorflow_lock(release, python)
    if lock is None:
        raise ImageError(f"TensorFlow {release.version} has no list of packages for Python {python}.")
    cuda: tuple[str, ...] = ()
    package = release.cpu_package
    if device == "gpu":
        package, cuda = release.gpu_package, cuda_lock(release, python)
        if not cuda:
            notices += (
                f"NVIDIA publishes no packages of the CUDA that TensorFlow {release.version} needs. Where its "
                "libraries are not on this machine, TensorFlow says so and runs on the CPU.",
            )
    return FrameworkImage(
        uri=uri,
        name=f"tensorflow-{release.version}-{device}-{_py(python)}",
        framework="tensorflow",
        version=release.version,
        device=device,
        python=python,
        requirements=(f"{package}=={release.version}", *lock, *cuda),
        notices=notices,
        additions=ingredients.additions(python),
        tensorflow_io=ingredients.tensorflow_io(release.version, python),
    )


def _resolve_python(uri: str, reference: ImageReference) -> FrameworkImage:
    match = _PYTHON_TAG.fullmatch(reference.tag or "latest")
    known = python_versions()
    if match is None:
        raise ImageError(
            f"The tag {reference.tag!r} of {uri} names no Python version.", reference.sibling("python", "3.12")
        )
    parts = match["version"].split(".")
    python = known[-1] if match["version"] in ("latest", "3") else ".".join(parts[:2])
    lock = python_lock(python)
    if lock is None:
        nearest = min(known, key=lambda version: python_distance(version, python))
        raise ImageError(
            f"{uri} asks for Python {match['version']}; there are images of Python {known[0]} to {known[-1]}.",
            reference.sibling("python", nearest),
        )
    notices: tuple[str, ...] = ()
    if len(parts) == 3:
        notices = (f"{uri} runs on the Python {python} that is on this machine, whichever its patch version.",)
    return FrameworkImage(
        uri=uri,
        name=f"python-{_py(python)}",
        framework="python",
        version=python,
        device="cpu",
        python=python,
        requirements=lock,
        notices=notices,
    )


def _release(version: str, python: str | None, uri: str, reference: ImageReference, device: str) -> TensorFlowRelease:
    """The release that `version` means: a short version means its newest patch (with a wheel for `python`)."""
    if version == "latest":
        return releases()[-1]
    numbers = tuple(int(part) for part in version.split("."))
    matching = [release for release in releases() if release.numbers[: len(numbers)] == numbers]
    if matching:
        return next((release for release in reversed(matching) if python in release.pythons), matching[-1])
    if numbers < releases()[0].numbers:
        nearest, reason = releases()[0], "has no wheel for Python 3.7, the oldest that training runs on"
        nearest = next(release for release in reversed(releases()) if release.minor == nearest.minor)
    else:
        minor = [release for release in releases() if release.numbers[:2] == numbers[:2]]
        nearest = minor[-1] if minor else releases()[-1]
        reason = "is none of the versions on PyPI that Clary knows"
    raise ImageError(
        f"TensorFlow {version}, which {uri} asks for, {reason}.",
        reference.sibling("tensorflow-training", _tag(nearest, device)),
    )


def _exact_python(py: str | None) -> str | None:
    """ "3.10" of "py310"; None of "py3", "py2" and nothing."""
    return f"3.{py[3:]}" if py and py.startswith("py3") and len(py) > 3 else None


def _nearest_python(py: str | None, release: TensorFlowRelease) -> str:
    if py and py.startswith("py2"):
        return release.pythons[0]
    wanted = _exact_python(py) or release.aws_python
    return min(release.pythons, key=lambda python: python_distance(python, wanted))


def _python_notice(uri: str, py: str | None, python: str, release: TensorFlowRelease) -> tuple[str, ...]:
    if py and py.startswith("py2"):
        return (
            f"{uri} asks for Python 2, which Clary does not run: the script runs on Python {python}. "
            "Code that only Python 2 understands (print statements, iteritems) fails.",
        )
    wanted = _exact_python(py)
    if wanted and wanted != python:
        return (
            f"{uri} asks for Python {wanted}; TensorFlow {release.version} is available for "
            f"{', '.join(release.pythons)} here: the script runs on Python {python}.",
        )
    return ()


def _unknown(uri: str, reference: ImageReference) -> ImageError:
    newest = releases()[-1]
    supported = _SUPPORTED.format(newest=newest.version)
    if reference.name in _INFERENCE:
        return ImageError(
            f"{uri} is an image that serves models; it cannot train.",
            reference.sibling("tensorflow-training", (reference.tag or "2.19-cpu").removesuffix("-eia")),
        )
    close = difflib.get_close_matches(reference.name, [*_TENSORFLOW[:-1], "python"], n=1)
    nearest = None
    if close:
        name = "python" if close[0] == "python" else "tensorflow-training"
        nearest = reference.sibling(name, reference.tag or _tag(newest, "cpu"))
    return ImageError(f"Clary has no recipe for the image {uri}. It builds {supported}.", nearest)


def _device(uri: str) -> str:
    """The device that a tag which cannot be read otherwise seems to mean."""
    return "gpu" if "-gpu" in uri else "cpu"


def _tag(release: TensorFlowRelease, device: str) -> str:
    return f"{release.version}-{device}-{_py(_nearest_python(None, release))}"


def _py(python: str) -> str:
    return "py" + python.replace(".", "")
