"""Finds a Python interpreter of a given minor version: on this machine, else downloaded by uv."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from uv import find_uv_bin

from clary.images.errors import ImageError

# Where version managers keep Pythons that are on no PATH. uv looks at PATH and at its own.
_MANAGED = (
    "{PYENV_ROOT}/versions/{python}*/bin/python{python}",
    "~/.pyenv/versions/{python}*/bin/python{python}",
    "~/.asdf/installs/python/{python}*/bin/python{python}",
    "~/.local/share/mise/installs/python/{python}*/bin/python{python}",
    "~/*conda3/envs/*/bin/python{python}",
    "~/miniforge3/envs/*/bin/python{python}",
    "/opt/python/*/bin/python{python}",
    "/usr/local/bin/python{python}",
    "/usr/bin/python{python}",  # for where uv is told to find none but its own
)
_LEFT_OUT = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT")


def uv_environment() -> dict[str, str]:
    """The environment that uv runs in: this process's, without what would point it at other environments."""
    return {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}


def find(python: str) -> Path | None:
    """An interpreter of `python` ("3.7") that is on this machine and runs; None without one."""
    return _uv_find(python) or next((path for path in _candidates(python) if _runs(path, python)), None)


def at_hand(pythons: Sequence[str]) -> list[str]:
    """Those of `pythons` that are on this machine, as far as one look tells; `find` tries one in earnest."""
    command = [find_uv_bin(), "python", "list", "--only-installed", "--output-format", "json"]
    answer = subprocess.run(command, capture_output=True, text=True, env=uv_environment(), check=False)
    listed = json.loads(answer.stdout or "[]")
    seen = {"{major}.{minor}".format(**item["version_parts"]) for item in listed}
    return [python for python in pythons if python in seen or _candidates(python)]


def find_or_install(python: str, progress: Callable[[str], None]) -> Path:
    """An interpreter of `python`, which uv downloads where there is none.

    Raises:
        ImageError: there is none and it cannot be downloaded.
    """
    found = find(python)
    if found:
        return found
    progress(f"Downloading Python {python}")
    install = subprocess.run(
        [find_uv_bin(), "python", "install", "--no-progress", python],
        capture_output=True,
        text=True,
        env=uv_environment(),
        check=False,
    )
    found = _uv_find(python) if install.returncode == 0 else None
    if found is None:
        said = " ".join(line.strip() for line in install.stderr.splitlines() if line.strip())[-300:]
        raise ImageError(
            f"Python {python} is needed and could not be installed: {said or 'uv gave no reason'}. "
            f"Install it (for instance `uv python install {python}` or pyenv) and try again."
        )
    return found


def _uv_find(python: str) -> Path | None:
    """What uv finds. It is not told to be quiet: uv 0.13 then leaves out the answer as well."""
    answer = subprocess.run(
        [find_uv_bin(), "python", "find", "--system", "--no-project", "--no-python-downloads", python],
        capture_output=True,
        text=True,
        env=uv_environment(),
        check=False,
    )
    path = Path(answer.stdout.strip())
    return path if answer.returncode == 0 and answer.stdout.strip() and _runs(path, python) else None


def _candidates(python: str) -> list[Path]:
    root = os.environ.get("PYENV_ROOT", "~/.pyenv")
    patterns = (Path(item.format(python=python, PYENV_ROOT=root)).expanduser() for item in _MANAGED)
    return [path for pattern in patterns for path in sorted(Path("/").glob(str(pattern)[1:]), reverse=True)]


def _runs(path: Path, python: str) -> bool:
    """Whether `path` is a working interpreter of that version: a pyenv shim of another version is not."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [path, "-I", "-c", program], capture_output=True, text=True, timeout=20, env=uv_environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == python
