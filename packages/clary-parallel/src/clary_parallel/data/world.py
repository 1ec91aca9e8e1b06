"""The ranks of this job, as the program that runs here sees them: one transport and one agreement a process."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import os
import threading
from typing import TYPE_CHECKING

from clary_parallel.data import choice
from clary_parallel.data.agreement import Agreement
from clary_parallel.errors import Disagreement, ParallelError
from clary_parallel.transport import Transport, mpi
from clary_parallel.transport.inprocess import solo

if TYPE_CHECKING:
    from clary_parallel.data.collectives import Collectives

_lock = threading.Lock()
_agreement: Agreement | None = None
_collectives: Collectives | None = None


def init() -> None:
    """Join the other ranks of this job; alone when no MPI launcher started this process. May be called again.

    Call it before TensorFlow makes its first tensor: where ranks have GPUs, each takes its own, and gradients are
    summed on them (see `choice`).
    """
    global _agreement, _collectives
    with _lock:
        if _agreement is None:
            wanted = choice.wanted()
            ranks = mpi.connect() if mpi.launched() else solo()
            if isinstance(ranks, mpi.MpiTransport) and ranks.size > 1:
                _collectives = _set_up(ranks, wanted)
            _agreement = Agreement(ranks)
            atexit.register(_leave)


def _set_up(ranks: mpi.MpiTransport, wanted: str) -> Collectives | None:
    # Whether TensorFlow has to be asked at all, on any rank: it takes seconds to import.
    hidden = wanted == "auto" and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    ask = wanted != "mpi" and not hidden and importlib.util.find_spec("tensorflow") is not None
    if not any(ranks.allgather_object(ask)):
        return None
    return importlib.import_module("clary_parallel.data.collectives").set_up(ranks)


def join(ranks: Transport) -> None:
    """Make some ranks that are connected already this program's world: a group of a job that is divided."""
    global _agreement
    with _lock:
        if _agreement is not None:
            raise ParallelError("The ranks are connected already: call init() once, or leave it to smp.init().")
        if choice.wanted() in ("nccl", "ring"):
            raise ParallelError(
                f"{choice.VARIABLE}={choice.wanted()} cannot be had: ranks that smp.init() divides into groups sum "
                "gradients by MPI. Leave the variable out."
            )
        _agreement = Agreement(ranks)
        atexit.register(_leave)


def is_initialized() -> bool:
    """Whether `init` was called."""
    return _agreement is not None


def agreement() -> Agreement:
    """The job's agreement; an error before `init`."""
    if _agreement is None:
        raise ParallelError("The ranks are not connected yet: call clary_parallel.init() (or hvd.init()) first.")
    return _agreement


def transport() -> Transport:
    """The job's transport; an error before `init`."""
    return agreement().transport


def collectives() -> Collectives | None:
    """TensorFlow's collectives among all ranks, where those sum gradients; None where MPI does."""
    return _collectives


def rank() -> int:
    """This process's number in the job, from 0."""
    return transport().rank


def size() -> int:
    """How many processes the job has."""
    return transport().size


def local_rank() -> int:
    """This process's number on its host, from 0."""
    return transport().local_rank


def local_size() -> int:
    """How many of the job's processes run on this host."""
    return transport().local_size


def shutdown() -> None:
    """Leave the job; waits until all ranks do."""
    global _agreement, _collectives
    with _lock:
        if _agreement is not None:
            leaving, _agreement, _collectives = _agreement, None, None
            leaving.leave()
            leaving.transport.close()


def _leave() -> None:
    # When the others go on, they raise this error too and tell it; this rank has nothing left to do but to end.
    if _agreement is not None:
        with contextlib.suppress(Disagreement):
            shutdown()
