"""Where threads that are ranks meet: mailboxes for messages, a table of arrivals for collectives, under one lock."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clary_parallel.errors import Aborted, PeerStuck
from clary_parallel.transport.base import Buffer

Value = TypeVar("Value")


@dataclass
class Shared:
    """What all groups of one run share: the lock, and the reason why the run failed."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    failure: str | None = None

    def fail(self, reason: str) -> None:
        with self.changed:
            self.failure = self.failure or reason
            self.changed.notify_all()

    def check(self) -> None:
        if self.failure is not None:
            raise Aborted(self.failure)


class Place:
    """Where the ranks of one group meet: mailboxes for messages, a table of arrivals for collectives."""

    def __init__(self, size: int, shared: Shared) -> None:
        self.size = size
        self.shared = shared
        self._mail: dict[tuple[int, int, int], deque[Buffer]] = defaultdict(deque)
        self._turns: dict[tuple[int, int, int], deque[object]] = defaultdict(deque)
        self._arrivals: dict[int, dict[int, Any]] = {}
        self._left: dict[int, int] = defaultdict(int)
        self._last = ["nothing yet"] * size
        self._parts: dict[tuple[int, tuple[int, ...]], Place] = {}

    def post(self, key: tuple[int, int, int], message: Buffer) -> None:
        with self.shared.changed:
            self.shared.check()
            self._mail[key].append(message)
            self.shared.changed.notify_all()

    def expect(self, key: tuple[int, int, int]) -> Callable[[], Buffer | None]:
        """Queue for the next message; receives of one sender and tag are served in the order they were posted."""
        turn = object()
        with self.shared.changed:
            self._turns[key].append(turn)

        def take() -> Buffer | None:
            if not self._mail[key] or self._turns[key][0] is not turn:
                return None
            self._turns[key].popleft()
            self.shared.changed.notify_all()
            return self._mail[key].popleft()

        return take

    def arrive(self, rank: int, number: int, call: str, value: Any) -> Callable[[], list[Any] | None]:
        with self.shared.changed:
            self.shared.check()
            self._arrivals.setdefault(number, {})[rank] = value
            self._last[rank] = f"{call} (call {number})"
            self.shared.changed.notify_all()

        def collect() -> list[Any] | None:
            arrived = self._arrivals[number]
            if len(arrived) < self.size:
                return None
            self._left[number] += 1
            if self._left[number] == self.size:
                del self._arrivals[number], self._left[number]
            return [arrived[peer] for peer in range(self.size)]

        return collect

    def missing(self, number: int) -> str:
        absent = [rank for rank in range(self.size) if rank not in self._arrivals.get(number, {})]
        return "; ".join(f"rank {rank}, which did last: {self._last[rank]}" for rank in absent)

    def wait(self, done: Callable[[], Value | None], patience: float, stuck: Callable[[], str]) -> Value:
        end = time.monotonic() + patience
        with self.shared.changed:
            while True:
                self.shared.check()
                value = done()
                if value is not None:
                    return value
                left = end - time.monotonic()
                if not self.shared.changed.wait(min(left, threading.TIMEOUT_MAX)) and time.monotonic() >= end:
                    self.shared.failure = stuck()
                    self.shared.changed.notify_all()
                    raise PeerStuck(self.shared.failure)

    def part(self, number: int, ranks: tuple[int, ...]) -> Place:
        with self.shared.changed:
            return self._parts.setdefault((number, ranks), Place(len(ranks), self.shared))
