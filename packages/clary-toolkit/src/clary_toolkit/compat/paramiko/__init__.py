"""The part of paramiko that SDK v3's MPI driver uses: whether another host of the job can be reached.

A paramiko that is installed wins over this one. Connections go by `clary_toolkit.training.secure_shell`.
"""

from __future__ import annotations

import os

from clary_toolkit.compat.paramiko import client, waits
from clary_toolkit.compat.paramiko.client import AutoAddPolicy, MissingHostKeyPolicy, RejectPolicy, SSHException
from clary_toolkit.training import secure_shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["AutoAddPolicy", "MissingHostKeyPolicy", "RejectPolicy", "SSHClient", "SSHException", "client"]


class SSHClient:
    """Says whether a host of this job hears this one. It runs no commands: `ssh HOST COMMAND` does."""

    def __enter__(self) -> SSHClient:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def load_system_host_keys(self, filename: str | None = None) -> None:
        """Hosts of a job know one another by the job's secret."""

    def set_missing_host_key_policy(self, policy: object) -> None:
        """Hosts of a job know one another by the job's secret."""

    def connect(self, hostname: str, port: int = 22, **_: object) -> None:
        """Try the host; raises SSHException when it does not answer or is no host of this job."""
        if not secure_shell.can_connect(hostname, os.environ):
            raise SSHException("{} does not answer, or is no host of this job".format(hostname))

    def close(self) -> None:
        """Nothing is left open."""


waits.shorten()


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        "paramiko.{} is not in Clary's stand-in for paramiko: add paramiko to requirements.txt.".format(name)
    )
