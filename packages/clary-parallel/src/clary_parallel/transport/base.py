"""The contract of a transport: what ranks may ask, and what they may rely on.

Implementations: `mpi.MpiTransport` (processes, on one host or many), `inprocess.InProcessTransport` (threads of one
process; also the single rank of a program that nobody launched as ranks). All pass the same conformance suite
(tests/transport/conformance.py).

**Buffers** are C-contiguous numpy arrays that the caller owns. Nothing is copied for the caller's convenience: a buffer
given to `isend`, `irecv` or `iallreduce` must not be changed, read (irecv, iallreduce) or freed until its request is
done. Both sides of a message agree on its type and size beforehand. A shorter message leaves the rest of the buffer as
it was; a longer one is a bug of the caller, which not every transport can tell (Open MPI may crash). Types: bool,
(u)int8–64, float16 (and any other 2-byte type seen as uint16 in messages), float32, float64. Sums are of the numeric
types, float16 excluded.

**Order.** Messages from one rank to another with one tag arrive in the order in which they were sent. Different tags
do not wait for one another, so a receiver may post them in any order. Tags are integers from 0 to 32767.

**Collectives** (barrier, broadcast, allreduce, allgather, split, ...) are called by every rank of the transport, in the
same order. A transport does not check that; `data.agreement` does, for a small price, on top.

**Threads.** Any thread may call; two threads of one rank must not be in collectives of the same transport at once, nor
wait for the same request. Point-to-point calls of several threads may overlap each other and collectives.

**Progress** of a non-blocking call is only promised while some thread of the rank is inside a call of the transport
(`test` counts). Poll `test` between pieces of work where overlap matters.

**Patience.** No call waits for ever. One that has waited `patience` seconds (600 unless CLARY_PARALLEL_PATIENCE says
otherwise) ends the job: with PeerStuck where the wait can be left, by printing the same message and ending the process
with code 75 where it cannot (inside MPI). The message names the call, the ranks that did not come to it as far as
they can be told apart, and what each of them did last. A launcher such as mpirun then ends the other ranks.

**Failure.** `abort(reason)` ends all ranks: waits raise Aborted(reason), or the launcher kills them after the reason
was printed. A killed process is noticed by the launcher (mpirun: at once), not by the transport.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

import numpy as np

if TYPE_CHECKING:
    Buffer = np.ndarray[Any, Any]
else:
    Buffer = np.ndarray  # its subscripts need Python 3.9

Operation = Literal["sum", "max", "min"]

STUCK_EXIT_CODE = 75


def default_patience() -> float:
    """Seconds that a call waits for its peers: CLARY_PARALLEL_PATIENCE, or 600."""
    text = os.environ.get("CLARY_PARALLEL_PATIENCE", "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"CLARY_PARALLEL_PATIENCE must be a number of seconds above 0. Received: {text!r}")
    return seconds


class Request(Protocol):
    """A call that is under way."""

    def test(self) -> bool:
        """Make progress; return whether the call is done. Never waits."""
        ...

    def wait(self) -> None:
        """Return when the call is done, or raise as the transport's patience says."""
        ...


class Transport(Protocol):
    """The ranks of one group, seen from one of them. See the module's docstring for what may be relied on."""

    @property
    def rank(self) -> int:
        """This rank's number in the group, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many ranks the group has."""
        ...

    @property
    def local_rank(self) -> int:
        """This rank's number among the group's ranks on the same host, from 0."""
        ...

    @property
    def local_size(self) -> int:
        """How many ranks of the group are on this host."""
        ...

    @property
    def patience(self) -> float:
        """Seconds that a call waits before the job ends. May be set, also to infinity, for the calls that follow."""
        ...

    @patience.setter
    def patience(self, seconds: float) -> None: ...

    def isend(self, buffer: Buffer, peer: int, tag: int = 0) -> Request:
        """Send a buffer to a rank. Done means that the buffer may be used again, not that the peer has it.

        May not be done before the peer has posted its receive: two ranks that both `wait` for a send before they post
        their receives may be stuck.
        """
        ...

    def irecv(self, buffer: Buffer, peer: int, tag: int = 0, about: str = "") -> Request:
        """Receive into a buffer from a rank. `about` says what is received, for the message when it does not come."""
        ...

    def barrier(self) -> None:
        """Return when every rank has called it."""
        ...

    def broadcast(self, buffer: Buffer, root: int = 0) -> None:
        """Copy the root's buffer into everyone's, in place. Buffers have one size and type."""
        ...

    def allreduce(self, buffer: Buffer, operation: Operation = "sum") -> None:
        """Combine everyone's buffers element by element, in place. Every rank ends with bitwise the same result.

        Large buffers are reduced in pieces that stay in the processor's cache.
        """
        ...

    def iallreduce(self, buffer: Buffer, operation: Operation = "sum") -> Request:
        """`allreduce` that returns at once. Started in the same order on every rank; may be done in any order."""
        ...

    def allgather(self, buffer: Buffer) -> list[Buffer]:
        """Everyone's buffer, by rank. First axes may differ in length; the other axes and the type may not."""
        ...

    def allgather_joined(self, buffer: Buffer) -> Buffer:
        """`allgather` with the buffers one after another along the first axis, in one array."""
        ...

    def alltoall(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        """Send pieces[i] to rank i; return what each rank sent here. One type; all pieces are one-dimensional."""
        ...

    def allgather_object(self, value: Any) -> list[Any]:
        """Everyone's value (anything that pickles), by rank. For small things: names, shapes, settings."""
        ...

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """The root's value (anything that pickles)."""
        ...

    def group(self, ranks: Sequence[int]) -> Transport | None:
        """A transport among some ranks, numbered in the given order; None on a rank that is not among them.

        Collective over this transport: every rank calls it, and all with the same list, or with lists that do not
        overlap (then each list becomes a group: `group([0, 1])` on two ranks while the others call `group([2, 3])`).
        """
        ...

    def call_ranks(self, roles: Mapping[int, str]) -> None:
        """Say what ranks do in the job, for the message when one does not come; a transport may leave it out."""
        ...

    def abort(self, reason: str) -> NoReturn:
        """End every rank of the job, with a reason that the user reads."""
        ...

    def close(self) -> None:
        """Leave. Collective over all ranks of the job; the transport and its groups cannot be used afterwards."""
        ...
