"""What a host carries from the store and to it: inputs before the command, results after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from clary.host.layout import HostFolder
    from clary.host.spec import HostSpec


class TransferError(Exception):
    """Something could not be carried; the message is a sentence for the user.

    Arguments:
        message: what failed and why.
        by_request: whether the request is the cause (a bucket that does not exist), not the platform.
    """

    def __init__(self, message: str, *, by_request: bool) -> None:
        super().__init__(message)
        self.by_request = by_request


class Transfers(Protocol):
    """Carries a host's data.

    Contract: every method blocks until all is done, may be called again after a failure, retries what can be retried,
    and raises `TransferError` otherwise.
    """

    def download(self, spec: HostSpec, folder: HostFolder) -> None:
        """Fill the channels' folders, and checkpoints that an earlier attempt left."""
        ...

    def follow(self, spec: HostSpec, folder: HostFolder, report: Callable[[str], None]) -> Callable[[], None]:
        """Send checkpoints and TensorBoard logs as they are written; calling the result sends the rest and ends it.

        Arguments:
            report: told what could not be sent for the time being.
        """
        ...

    def upload(self, spec: HostSpec, folder: HostFolder, *, with_model: bool) -> str | None:
        """Bring a single host's model (if wanted) and output to the store; returns the model's address."""
        ...

    def stage(self, spec: HostSpec, folder: HostFolder) -> None:
        """Bring one host's part to the staging address."""
        ...

    def merge(self, spec: HostSpec, folder: HostFolder) -> str | None:
        """Make one model and one output of this host's part and all staged ones; returns the model's address."""
        ...
