"""Collectives that check whether all ranks mean the same one.

Ranks that call different collectives, or the same one with other shapes, would wait for ever or mix up their numbers.
So each collective begins with a handshake: the greatest and the least of a 64-bit code of the call, in one reduction
of 16 bytes (a few microseconds on one host). When the codes differ, ranks tell each other what they wanted; all
raise the same Disagreement, which lists it by rank.

A rank that has run out of data may `join`: it takes part in the others' reductions with zeros until all have joined.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from clary_parallel.errors import Disagreement, ParallelError
from clary_parallel.transport.base import Transport


@dataclass(frozen=True)
class Call:
    """What a rank is about to do. Ranks agree when their calls are equal.

    kind: "allreduce", "allgather", ...; what: a user's word for it ("gradients, bucket 1 of 3"); of: types and shapes.
    """

    kind: str
    what: str = ""
    of: tuple[tuple[str, tuple[int, ...]], ...] = ()
    settings: str = ""
    code: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        text = repr((self.kind, self.what, self.of, self.settings))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        object.__setattr__(self, "code", int.from_bytes(digest, "little", signed=True) >> 1)

    def __str__(self) -> str:
        shown = ", ".join(f"{kind}{list(shape)}" for kind, shape in self.of[:4])
        more = f", ... {len(self.of)} tensors" if len(self.of) > 4 else ""
        return " ".join(
            part for part in (self.kind, self.what, f"({shown}{more})" if shown else "", self.settings) if part
        )


JOIN = Call("join")
EXIT = Call("the end of its program")


class Agreement:
    """The handshake among the ranks of a transport. One thread at a time."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        # What went wrong last inside TensorFlow, which reports it as text only.
        self.failure: ParallelError | None = None

    def agree(self, call: Call) -> None:
        """Return when every rank makes this call or has joined; raise Disagreement on every rank otherwise."""
        if not self._equal(call):
            self._settle(call)

    def join(self, take_part: Callable[[Call], None]) -> int:
        """Take part in what the others do, by `take_part`, until every rank has joined; return the last one to join."""
        last = self.transport.rank
        while not self._equal(JOIN):
            call, last = self._settle(JOIN)
            take_part(call)
        return last

    def leave(self) -> None:
        """Say that this rank's program has ended. Waits for the others as long as they work without this rank."""
        self.transport.patience = math.inf
        if not self._equal(EXIT):
            self._settle(EXIT)

    def _equal(self, call: Call) -> bool:
        if self.transport.size == 1:
            return True
        codes = np.array([call.code, -call.code], np.int64)
        self.transport.allreduce(codes, "max")
        return bool(codes[0] == call.code and codes[1] == -call.code)

    def _settle(self, mine: Call) -> tuple[Call, int]:
        """Learn what the others want: one call beside joins is agreement. Returns it and its last rank."""
        calls: list[Call] = self.transport.allgather_object(mine)
        wanted = {call for call in calls if call != JOIN}
        if len(wanted) == 1 and EXIT not in wanted:
            (call,) = wanted
            return call, max(rank for rank, each in enumerate(calls) if each == call)
        raise Disagreement(_told(calls))


def _told(calls: list[Call]) -> str:
    lines = [f"  rank {rank}: {call}" for rank, call in enumerate(calls)]
    ended = [str(rank) for rank, call in enumerate(calls) if call == EXIT]
    if ended:
        hint = (
            f"Rank {', '.join(ended)} came to the end of its program while the others go on. Do all ranks make the "
            "same number of steps? Give each as many batches, or let ranks that run out call join()."
        )
    else:
        hint = (
            "All ranks must make the same calls with the same shapes in the same order: the same model, the same "
            "number of steps, and no collective call inside `if rank() == 0`."
        )
    return "Ranks want different things:\n" + "\n".join(lines) + "\n" + hint
