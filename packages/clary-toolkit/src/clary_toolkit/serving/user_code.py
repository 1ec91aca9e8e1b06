"""The code that came with the model: its requirements, its libraries and its inference.py."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile

from clary_toolkit.serving import log
from clary_toolkit.serving.errors import StartupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

HANDLERS = ("handler", "input_handler", "output_handler")
FUNCTIONS = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")
_LONGEST = 2000


def install(folder: str) -> None:
    """Put the code's folder and its lib on the path; without a lib, install its requirements.txt.

    Raises StartupError with what pip said.
    """
    requirements, libraries = os.path.join(folder, "requirements.txt"), os.path.join(folder, "lib")
    if os.path.isdir(libraries):
        _add(libraries)
        if os.path.exists(requirements):
            log.info("{} is left alone: {} is there".format(requirements, libraries))
    elif os.path.exists(requirements):
        _pip(requirements)
    if os.path.isdir(folder):
        _add(folder)


def find_script(folder: str, program: str) -> str | None:
    """The path of the code's script: `program` (SAGEMAKER_PROGRAM), else inference.py; None where there is neither."""
    for name in (program, "inference.py"):
        path = os.path.join(folder, name)
        if name.endswith(".py") and os.path.isfile(path):
            return path
    return None


def load(path: str, name: str = "inference") -> ModuleType:
    """Import the script as a module. Raises StartupError where that fails or it has none of the functions."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StartupError("{} cannot be imported as Python".format(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        log.exception("{} failed as it was imported".format(path))
        raise StartupError("{} failed as it was imported: {}: {}".format(path, type(error).__name__, error)) from error
    if not has_handlers(module) and not has_functions(module):
        raise StartupError(
            "Handlers are not implemented correctly in user script. {} has neither `handler`, nor `input_handler` "
            "with `output_handler`, nor any of {}.".format(path, ", ".join(FUNCTIONS))
        )
    return module


def has_handlers(module: ModuleType) -> bool:
    """Whether it has what AWS's TensorFlow Serving image calls."""
    return hasattr(module, "handler") or (hasattr(module, "input_handler") and hasattr(module, "output_handler"))


def has_functions(module: ModuleType) -> bool:
    """Whether it has any function of sagemaker-inference."""
    return any(hasattr(module, name) for name in FUNCTIONS)


def _pip(requirements: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "-r", requirements]
    packages = sysconfig.get_paths()["purelib"]
    if not os.access(packages, os.W_OK):
        target = tempfile.mkdtemp(prefix="clary-requirements-")
        command += ["--target", target]
        _add(target)
    log.info("Installing {}".format(requirements))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
    )
    text = done.stdout.decode("utf-8", "replace")
    sys.stderr.write(text)
    if done.returncode:
        lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()[-5:]
        raise StartupError("pip could not install {}:\n{}".format(requirements, "\n".join(lines)[:_LONGEST]))
    importlib.invalidate_caches()


def _add(folder: str) -> None:
    """Put a folder first on the path, of processes that the user's code starts too."""
    sys.path.insert(0, folder)
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder + (os.pathsep + known if known else "")
