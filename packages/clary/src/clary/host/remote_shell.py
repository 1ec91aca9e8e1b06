"""`sshd` and `ssh` where SDK v3's MPI driver looks for them: in /usr/sbin, which comes before /usr/bin on PATH.

The driver that the SDK sends with a job starts /usr/sbin/sshd on every host and reaches the others by `ssh`. Both are
the toolkit's own (`clary_toolkit.training.secure_shell`), which know the job's hosts and nobody else. A sandbox has the
machine's /usr, read-only, so the job gets a /usr/sbin of links to the machine's programs with these two in place.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clary.host import sdk_drivers

if TYPE_CHECKING:
    from clary.host.spec import HostSpec

FOLDER = Path("/usr/sbin")
MACHINES_OWN = "/opt/clary/sbin"
"""Where the job finds the machine's own /usr/sbin."""

_PROGRAM = '#!/bin/sh\nexec python -m clary_toolkit.training.secure_shell {name} "$@"\n'


def is_needed(spec: HostSpec) -> bool:
    """Whether the job brings the SDK's drivers."""
    return any(channel.name == sdk_drivers.CHANNEL for channel in spec.channels)


def make(folder: Path) -> Path:
    """Fill `folder`, which a sandbox is to show at `FOLDER`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for own in FOLDER.iterdir():
        link = folder / own.name
        link.unlink(missing_ok=True)
        link.symlink_to(own.readlink() if own.is_symlink() else f"{MACHINES_OWN}/{own.name}")
    for name in ("sshd", "ssh"):
        program = folder / name
        program.unlink(missing_ok=True)
        program.write_text(_PROGRAM.format(name=name))
        program.chmod(0o755)
    return folder
