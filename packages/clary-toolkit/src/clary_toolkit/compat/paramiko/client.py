"""paramiko.client: what a client of SSH does with a host that it does not know."""

from __future__ import annotations


class SSHException(Exception):
    """A host cannot be reached."""


class MissingHostKeyPolicy:
    """Called by paramiko for unknown hosts; not called here, where hosts know one another by the job's secret."""

    def missing_host_key(self, client: object, hostname: str, key: object) -> None:
        """Accept the host."""


class AutoAddPolicy(MissingHostKeyPolicy):
    """Accepts every host."""


class RejectPolicy(MissingHostKeyPolicy):
    """Accepts no host."""
