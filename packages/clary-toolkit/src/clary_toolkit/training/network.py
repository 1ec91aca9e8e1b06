"""Waiting until the other hosts of the job can be found by their names."""

from __future__ import annotations

import os
import time

from clary_toolkit.training import log
from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from clary_toolkit.training.environment import TrainingEnvironment

_PATIENCE_SECONDS = 15 * 60.0


def wait_for_names(environment: TrainingEnvironment, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Return when every other host's name resolves. Raises ClientError naming the first that does not in time."""
    others = [host for host in environment.hosts if host != environment.current_host]
    if not others or os.environ.get("SM_STUDIO_LOCAL_MODE", "").lower() == "true":
        return
    import socket

    deadline = time.monotonic() + patience_seconds
    for host in others:
        pause = 0.05
        while True:
            try:
                socket.gethostbyname(host)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ClientError("The host {!r} of this job cannot be found: {}".format(host, error)) from error
                log.debug("Waiting for the name of {}: {}".format(host, error))
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
