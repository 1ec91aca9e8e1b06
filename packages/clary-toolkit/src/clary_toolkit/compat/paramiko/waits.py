"""Shortens the wait of SDK v3's MPI driver, which imports paramiko, on the hosts beside the first.

It looks every 30 seconds whether the first host has written the file that says that the script has ended: every job
would last half a minute longer. Its shorter waits come before tries that it counts, and are left.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DRIVER = "distributed_drivers.mpi_utils"
_LONG_SECONDS, _POLL_SECONDS = 30, 0.25


class _Time:
    """A `time` module whose long sleeps are short."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(_POLL_SECONDS if seconds >= _LONG_SECONDS else seconds)


def shorten() -> None:
    """To be called when the driver imports paramiko. Does nothing where it is another program that does."""
    driver: Any = sys.modules.get(_DRIVER)
    if driver is not None and getattr(driver, "time", None) is time:
        driver.time = _Time()
