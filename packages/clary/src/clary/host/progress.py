"""Progress of long work, told as messages of a host's phase."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from clary.host.spec import Phase

SECONDS_APART = 1.0


class Told(Protocol):
    """Where news of a phase goes: the host's reporter."""

    def tell(self, phase: Phase, message: str) -> None: ...


class Progress:
    """Tells messages of one phase, at most one a second.

    Of those that come faster the newest is told once the second is over: it may be the last for minutes.
    """

    def __init__(self, reporter: Told, phase: Phase) -> None:
        self._reporter = reporter
        self._phase = phase
        self._lock = threading.Lock()
        self._told_at = float("-inf")
        self._newest: str | None = None  # what a timer will tell

    def __call__(self, message: str) -> None:
        with self._lock:
            waiting = self._newest is not None
            pause = self._told_at + SECONDS_APART - time.monotonic()
            if not waiting and pause <= 0:
                self._tell(message)
                return
            self._newest = message
            if not waiting:
                timer = threading.Timer(pause, self._tell_newest)
                timer.daemon = True
                timer.start()

    def _tell_newest(self) -> None:
        with self._lock:
            message, self._newest = self._newest, None
            if message is not None:
                self._tell(message)

    def _tell(self, message: str) -> None:
        self._told_at = time.monotonic()
        self._reporter.tell(self._phase, message)
