"""Puts the toolkit and the parallel library into an environment, and the commands `train` and `serve` with them.

They are linked in, not installed, so that a new version of Clary brings its own to the environments that are already
built, without building anything again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

_PACKAGES = ("clary_toolkit", "clary_parallel")
_HOOK_FILE = "clary_toolkit_hooks.pth"
_COMMAND = """#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
import sys

from {module} import main

sys.exit(main())
"""
_COMMANDS = {"train": "clary_toolkit.training.launcher", "serve": "clary_toolkit.serving.server"}


def sources() -> dict[str, Path]:
    """The packages' own folders, of the workspace or of the installed packages, by name."""
    return {name: _source(name) for name in _PACKAGES}


def _source(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"The package {name} is not installed beside clary.", name=package)
    return Path(spec.submodule_search_locations[0])


def digest() -> str:
    """Twelve characters that change with any file of the packages."""
    return _digest(tuple((name, _state(folder)) for name, folder in sources().items()))


def is_current(site_packages: Path) -> bool:
    """Whether the environment has the packages of this Clary. A few system calls and the packages' file dates."""
    try:
        current = digest()
        linked = all((site_packages / package).readlink().parent.name == current for package in _PACKAGES)
        return linked and (site_packages.parents[2] / "bin" / "serve").exists()
    except OSError:
        return False


def install(root: Path, site_packages: Path) -> None:
    """Gives the environment at `root` this Clary's packages, in place of any other.

    The caller holds the image's lock. Jobs that run go on: only links change, and the packages before these stay.
    """
    folder = root / "toolkit" / digest()
    if not folder.exists():
        fresh = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        for name, source in sources().items():
            shutil.copytree(source, fresh / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        subprocess.run([root / "bin" / "python", "-I", "-m", "compileall", "-qq", fresh], check=False)
        fresh.rename(folder)
    before = folder.name
    for name in _PACKAGES:
        link, fresh_link = site_packages / name, site_packages / f".{name}-{os.getpid()}"
        before = link.readlink().parent.name if link.is_symlink() else before
        fresh_link.unlink(missing_ok=True)
        fresh_link.symlink_to(os.path.relpath(folder / name, site_packages))
        fresh_link.replace(link)
    hook = folder / _PACKAGES[0] / _HOOK_FILE  # what every Python of a job runs as it starts
    if hook.exists():
        shutil.copy(hook, site_packages / _HOOK_FILE)
    else:
        (site_packages / _HOOK_FILE).unlink(missing_ok=True)
    for name, module in _COMMANDS.items():
        command = root / "bin" / name
        command.write_text(_COMMAND.format(module=module))
        command.chmod(0o755)
    for old in (root / "toolkit").iterdir():
        if old.name not in (folder.name, before):
            shutil.rmtree(old, ignore_errors=True)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and date of every file: enough to notice a change, cheaper than reading them."""
    found: list[tuple[str, int, int]] = []
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.name != "__pycache__":
                        pending.append(Path(entry.path))
                elif not entry.name.endswith(".pyc"):
                    status = entry.stat()
                    found.append((entry.path, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


@lru_cache(maxsize=4)
def _digest(states: tuple[tuple[str, tuple[tuple[str, int, int], ...]], ...]) -> str:
    total = hashlib.sha256()
    for package, state in states:
        base = os.path.commonpath([path for path, _, _ in state])
        for path, _, _ in state:
            total.update(f"{package}/{os.path.relpath(path, base)}".encode() + b"\0" + Path(path).read_bytes() + b"\0")
    return total.hexdigest()[:12]
