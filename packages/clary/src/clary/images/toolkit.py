"""Puts the toolkit into an environment, and the commands `train` and `serve` with it.

The toolkit is linked in, not installed, so that a new version of Clary brings its own toolkit to the environments that
are already built, in one atomic step and without building anything again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

_PACKAGE = "clary_toolkit"
_HOOK_FILE = "clary_toolkit_hooks.pth"
_COMMAND = """#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
import sys

from {module} import main

sys.exit(main())
"""
_COMMANDS = {"train": "clary_toolkit.training.launcher", "serve": "clary_toolkit.serving.server"}


def source() -> Path:
    """The toolkit's own folder, of the workspace or of the installed package."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The package clary-toolkit is not installed beside clary.", name=_PACKAGE)
    return Path(spec.submodule_search_locations[0])


def digest() -> str:
    """Twelve characters that change with any of the toolkit's files."""
    return _digest(_state(source()))


def is_current(site_packages: Path) -> bool:
    """Whether the environment has the toolkit of this Clary. Three system calls and the toolkit's file dates."""
    try:
        current = (site_packages / _PACKAGE).readlink().parent.name == digest()
        return current and (site_packages.parents[2] / "bin" / "serve").exists()
    except OSError:
        return False


def install(root: Path, site_packages: Path) -> None:
    """Gives the environment at `root` this Clary's toolkit, in place of any other.

    The caller holds the image's lock. Jobs that run go on: only a link changes, and the toolkit before this one stays.
    """
    folder = root / "toolkit" / digest()
    if not (folder / _PACKAGE).exists():
        fresh = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(source(), fresh / _PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        subprocess.run([root / "bin" / "python", "-I", "-m", "compileall", "-q", fresh], check=False)
        fresh.rename(folder)
    link, fresh_link = site_packages / _PACKAGE, site_packages / f".{_PACKAGE}-{os.getpid()}"
    before = link.readlink().parent.name if link.is_symlink() else folder.name
    fresh_link.unlink(missing_ok=True)
    fresh_link.symlink_to(os.path.relpath(folder / _PACKAGE, site_packages))
    fresh_link.replace(link)
    hook = folder / _PACKAGE / _HOOK_FILE  # what every Python of a job runs as it starts
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
def _digest(state: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    base = os.path.commonpath([path for path, _, _ in state])
    for path, _, _ in state:
        total.update(os.path.relpath(path, base).encode() + b"\0" + Path(path).read_bytes() + b"\0")
    return total.hexdigest()[:12]
