"""What the parts of a supervisor tell each other: orders, limits that were passed, work that is done."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from clary.host.spec import HostOrders


Result = TypeVar("Result")


@dataclass(frozen=True)
class Excess:
    """A limit that was passed, and the sentence that says so."""

    kind: str  # "memory" or "disk"
    sentence: str


class Control:
    """Shared by the supervisor's threads; the main one waits here."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.wanted: Literal["run", "stop", "abort"] = "run"
        self.start_ordered = False
        self.merge_ordered = False
        self.max_runtime_seconds: int | None = None
        self.excess: Excess | None = None

    def apply(self, orders: HostOrders) -> None:
        """Take note of the server's orders. An order to stop is never taken back."""
        with self._changed:
            if orders.wanted == "abort" or (orders.wanted == "stop" and self.wanted == "run"):
                self.wanted = orders.wanted
            self.start_ordered = self.start_ordered or orders.start
            self.merge_ordered = self.merge_ordered or orders.merge
            if orders.max_runtime_seconds is not None:
                self.max_runtime_seconds = orders.max_runtime_seconds
            self._changed.notify_all()

    def note_excess(self, kind: str, sentence: str) -> None:
        """Take note of a limit that was passed."""
        with self._changed:
            self.excess = self.excess or Excess(kind, sentence)
            self._changed.notify_all()

    def notify(self) -> None:
        """Say that something which a `wait` may be about has changed."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until a condition holds; False when it does not after `seconds`."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)


class Task(Generic[Result]):
    """A piece of work in a thread of its own. The thread is never joined: a supervisor that ends leaves it behind."""

    def __init__(self, control: Control, name: str, work: Callable[[], Result]) -> None:
        self._control, self._work = control, work
        self._result: list[Result] = []
        self.error: Exception | None = None
        self.done = False
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def result(self) -> Result:
        """What the work returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:  # noqa: BLE001 (raised again in the main thread by `result`)
            self.error = error
        self.done = True
        self._control.notify()
