"""Installing what the user's code needs, by the pip of the environment it will run in."""

from __future__ import annotations

import os

from clary_toolkit.training import entry_point, log, process
from clary_toolkit.training.errors import (
    CommandFailed,
    InstallModuleError,
    InstallRequirementsError,
    StoppedBeforeStart,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE = "requirements.txt"
_LONGEST = 2000


def install(kind: str, folder: str, python: str, environ: Mapping[str, str]) -> None:
    """Install the package (kind PACKAGE) and requirements.txt where there are such; nothing for a shell script.

    Raises InstallModuleError or InstallRequirementsError with what pip said.
    """
    has_requirements = os.path.exists(os.path.join(folder, _FILE))
    if kind == entry_point.PACKAGE:
        log.info("Installing the package in {}".format(folder))
        words = ["install", "."] + (["-r", _FILE] if has_requirements else [])
        _pip(words, InstallModuleError, folder, python, environ)
    elif kind == entry_point.PROGRAM and has_requirements:
        log.info("Installing dependencies from {}".format(_FILE))
        _pip(["install", "-r", _FILE], InstallRequirementsError, folder, python, environ)


def _pip(words: list[str], failure: type[CommandFailed], folder: str, python: str, environ: Mapping[str, str]) -> None:
    command = [python, "-m", "pip"] + words
    outcome = process.run(command, folder, environ)
    if process.is_stopping():
        raise StoppedBeforeStart("The job was stopped (SIGTERM) while pip was installing what its script needs.")
    if outcome.exit_code != 0:
        raise failure(command, outcome.exit_code, _complaint(outcome.tail))


def _complaint(tail: bytes) -> str:
    """pip's own error lines; where it gave none, its last lines."""
    import re

    lines = [line.rstrip() for line in tail.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\s*(ERROR:|error:|.*No module named|.*Invalid requirement)", line)]
    return "\n".join(errors or lines[-5:])[:_LONGEST]
