"""Ranks that are threads of one process: for tests, for the devices of one host, and for a program alone (one rank).

Everything goes through one meeting place (`Place`) under one lock, so it is simple before it is fast.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np

from clary_parallel.errors import Aborted, ParallelError
from clary_parallel.transport.base import Buffer, Operation, Request, Transport, default_patience
from clary_parallel.transport.meeting import Place, Shared

Result = TypeVar("Result")

_COMBINE: dict[str, Callable[[Buffer, Buffer], Buffer]] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def solo() -> InProcessTransport:
    """The transport of a program that runs alone: one rank."""
    return InProcessTransport(Place(1, Shared()), 0, default_patience())


def run_threads(size: int, program: Callable[[Transport], Result], patience: float | None = None) -> list[Result]:
    """Run a function as `size` ranks, one thread each; return what each returned, by rank.

    When ranks raise, the others are ended and the first error is raised here.
    """
    place = Place(size, Shared())
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        transport = InProcessTransport(place, rank, patience or default_patience())
        try:
            results[rank] = program(transport)
        except BaseException as error:  # noqa: BLE001 (handed to the caller's thread below)
            errors.append(error)
            place.shared.fail(f"rank {rank} failed with {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(rank,), daemon=True, name=f"rank {rank}") for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(size)]


class InProcessTransport:
    """One thread's view of its group. Made by `solo`, `run_threads` and `group`."""

    def __init__(self, place: Place, rank: int, patience: float) -> None:
        self._place = place
        self._rank = rank
        self._patience = patience
        self._calls = 0

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._place.size

    @property
    def local_rank(self) -> int:
        return self._rank

    @property
    def local_size(self) -> int:
        return self._place.size

    @property
    def patience(self) -> float:
        return self._patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._patience = seconds

    def isend(self, buffer: Buffer, peer: int, tag: int = 0) -> Request:
        self._check_peer(peer)
        self._place.post((self._rank, peer, tag), buffer.copy())
        return _Waiting(lambda: True, self._place, self._patience, lambda: "")

    def irecv(self, buffer: Buffer, peer: int, tag: int = 0, about: str = "") -> Request:
        self._check_peer(peer)
        take = self._place.expect((peer, self._rank, tag))

        def arrived() -> bool:
            message = take()
            if message is None:
                return False
            _fill(buffer, message, peer, tag)
            return True

        return _Waiting(
            arrived,
            self._place,
            self._patience,
            lambda: (
                f"rank {self._rank} waited {self._patience:g} s for a message of rank {peer} with tag {tag}"
                + (f" ({about})" if about else "")
            ),
        )

    def barrier(self) -> None:
        self._meet("barrier", None)

    def broadcast(self, buffer: Buffer, root: int = 0) -> None:
        sent = self._meet("broadcast", buffer.copy() if self._rank == root else None)
        np.copyto(buffer, sent[root])

    def allreduce(self, buffer: Buffer, operation: Operation = "sum") -> None:
        self.iallreduce(buffer, operation).wait()

    def iallreduce(self, buffer: Buffer, operation: Operation = "sum") -> Request:
        collect = self._start("allreduce", buffer.copy())

        def combined() -> bool:
            parts = collect()
            if parts is None:
                return False
            total = parts[0].copy()
            for part in parts[1:]:
                total = _COMBINE[operation](total, part)
            np.copyto(buffer, total)
            return True

        return _Waiting(combined, self._place, self._patience, self._stuck("allreduce", self._calls))

    def allgather(self, buffer: Buffer) -> list[Buffer]:
        return [part.copy() for part in self._meet("allgather", buffer.copy())]

    def allgather_joined(self, buffer: Buffer) -> Buffer:
        return np.concatenate(self.allgather(buffer))

    def alltoall(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        sent = self._meet("alltoall", [piece.copy() for piece in pieces])
        return [parts[self._rank].copy() for parts in sent]

    def allgather_object(self, value: Any) -> list[Any]:
        return [pickle.loads(part) for part in self._meet("allgather_object", pickle.dumps(value))]

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return pickle.loads(self._meet("broadcast_object", pickle.dumps(value if self._rank == root else None))[root])

    def group(self, ranks: Sequence[int]) -> Transport | None:
        wanted = tuple(ranks)
        self._meet("group", wanted)
        if self._rank not in wanted:
            return None
        place = self._place.part(self._calls, wanted)
        return InProcessTransport(place, wanted.index(self._rank), self._patience)

    def call_ranks(self, roles: Mapping[int, str]) -> None:
        """Nothing: its ranks are threads of one program."""

    def abort(self, reason: str) -> NoReturn:
        self._place.shared.fail(reason)
        raise Aborted(reason)

    def close(self) -> None:
        self._meet("close", None)

    def _check_peer(self, peer: int) -> None:
        if not 0 <= peer < self.size:
            raise ValueError(f"There is no rank {peer} among {self.size} ranks (0 to {self.size - 1}).")

    def _meet(self, call: str, value: Any) -> list[Any]:
        collect = self._start(call, value)
        return self._place.wait(collect, self._patience, self._stuck(call, self._calls))

    def _start(self, call: str, value: Any) -> Callable[[], list[Any] | None]:
        self._calls += 1
        return self._place.arrive(self._rank, self._calls, call, value)

    def _stuck(self, call: str, number: int) -> Callable[[], str]:
        return lambda: (
            f"rank {self._rank} waited {self._patience:g} s in {call} (call {number} of its group) for "
            f"{self._place.missing(number)}"
        )


@dataclass
class _Waiting:
    """A request whose end is a condition on the meeting place."""

    done: Callable[[], bool]
    place: Place
    patience: float
    stuck: Callable[[], str]
    finished: bool = False

    def test(self) -> bool:
        if not self.finished:
            with self.place.shared.changed:
                self.place.shared.check()
                self.finished = self.done()
        return self.finished

    def wait(self) -> None:
        if not self.finished:
            self.place.wait(lambda: self.done() or None, self.patience, self.stuck)
            self.finished = True


def _fill(buffer: Buffer, message: Buffer, peer: int, tag: int) -> None:
    if message.nbytes > buffer.nbytes:
        raise ParallelError(
            f"A message of rank {peer} with tag {tag} has {message.nbytes} bytes; "
            f"the buffer that receives it has {buffer.nbytes}."
        )
    received = message.reshape(-1).view(np.uint8)
    buffer.reshape(-1).view(np.uint8)[: received.size] = received
