"""Asks a new environment's own Python whether it works and what it needs from outside."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from clary.images.errors import ImageError
from clary.images.interpreters import uv_environment

# Shown by every sandbox.
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin")
_TIMEOUT_SECONDS = 900  # a first import on a busy machine
# Runs on every Python from 3.7. The maps name the libraries that the interpreter and the framework really loaded.
_PROGRAM = """
import importlib, json, os, sys, sysconfig
import bz2, ctypes, lzma, sqlite3, ssl, zlib
module = sys.argv[1]
version = importlib.import_module(module).__version__ if module else "%d.%d.%d" % sys.version_info[:3]
with open("/proc/self/maps") as maps:
    libraries = sorted({line.split(None, 5)[5].strip() for line in maps if len(line.split(None, 5)) == 6})
print("\\n" + json.dumps({
    "version": version,
    "python": "%d.%d.%d" % sys.version_info[:3],
    "site_packages": sysconfig.get_paths()["purelib"],
    "prefix": sys.base_prefix,
    "libraries": [path for path in libraries if path.startswith("/") and os.path.exists(path)],
}))
"""


@dataclass(frozen=True)
class Findings:
    """What an environment says of itself. `site_packages` is relative to its root."""

    version: str
    python: str
    site_packages: str
    outside: tuple[str, ...]


def examine(root: Path, module: str) -> Findings:
    """Imports `module` (none if empty) in the environment at `root` and reports.

    Raises:
        ImageError: it cannot be imported on this machine.
    """
    python = root / "bin" / "python"
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _PROGRAM, module],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            env={**uv_environment(), "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"It was installed but did not start within {_TIMEOUT_SECONDS} s.") from None
    if answer.returncode:
        cause = f"signal {-answer.returncode}" if answer.returncode < 0 else f"exit code {answer.returncode}"
        last = " ".join(answer.stderr.strip().splitlines()[-1:]) or "no message"
        hint = " The processor may lack instructions (AVX) that it is compiled for." if answer.returncode == -4 else ""
        raise ImageError(f"It was installed but does not start on this machine: {cause}, {last}.{hint}")
    said = json.loads(answer.stdout.strip().splitlines()[-1])
    return Findings(
        version=said["version"],
        python=said["python"],
        site_packages=os.path.relpath(said["site_packages"], root),
        outside=_outside(root, python, said["prefix"], said["libraries"]),
    )


def _outside(root: Path, python: Path, prefix: str, libraries: list[str]) -> tuple[str, ...]:
    """The folders beyond the system's and the image's own, without those inside others of them."""
    interpreter = python.readlink()
    wanted = {Path(prefix), Path(prefix).resolve(), interpreter.parent.parent, interpreter.resolve().parent.parent}
    wanted |= {Path(library).parent for library in libraries}
    inside = (root, root.resolve(), *(Path(folder) for folder in _SYSTEM))
    left = {path for path in wanted if not any(path.is_relative_to(folder) for folder in inside)}
    tops = {path for path in left if not any(path != other and path.is_relative_to(other) for other in left)}
    return tuple(sorted(map(str, tops)))
