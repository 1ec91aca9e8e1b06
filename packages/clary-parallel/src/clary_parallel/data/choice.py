"""Who sums the gradients: MPI, or TensorFlow's collectives on the devices. Pure: needs neither MPI nor TensorFlow.

CLARY_PARALLEL_COLLECTIVES chooses by hand: `auto` (the default: NCCL where each rank has a GPU of its own, else MPI),
`mpi`, `nccl`, or `ring`, TensorFlow's own exchange over gRPC, which needs no GPU and takes the same way as `nccl`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clary_parallel.errors import Disagreement, ParallelError

VARIABLE = "CLARY_PARALLEL_COLLECTIVES"
KINDS = ("auto", "mpi", "nccl", "ring")


@dataclass(frozen=True)
class Seen:
    """What one rank wants and found in its process.

    gpu: its GPU, named so that no other has the name; None without one. obstacle: why TensorFlow's collectives cannot
    start in this process; empty when they can.
    """

    wanted: str
    gpu: str | None = None
    obstacle: str = ""


def wanted(environ: Mapping[str, str] = os.environ) -> str:
    """What CLARY_PARALLEL_COLLECTIVES asks for."""
    text = environ.get(VARIABLE, "auto")
    if text not in KINDS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(KINDS)}. Received: {text!r}")
    return text


def choose(seen: Sequence[Seen]) -> tuple[str, str]:
    """ "mpi", "nccl" or "ring" for all ranks, and why it is MPI although there are GPUs (empty when nothing is to say).

    Raises:
        Disagreement: when ranks want different things.
        ParallelError: when what was chosen by hand cannot be had.
    """
    if len({each.wanted for each in seen}) > 1:
        told = ", ".join(f"rank {rank}: {each.wanted}" for rank, each in enumerate(seen))
        raise Disagreement(f"{VARIABLE} must be the same on all ranks. Received: {told}")
    kind = seen[0].wanted
    if kind == "mpi" or (kind == "auto" and all(each.gpu is None for each in seen)):
        return "mpi", ""
    missing = "" if kind == "ring" else _without_a_gpu_of_its_own(seen)
    obstacles = [f"rank {rank}: {each.obstacle}" for rank, each in enumerate(seen) if each.obstacle]
    reason = missing or "".join(obstacles[:1])
    if kind == "auto":
        return ("mpi", reason) if reason else ("nccl", "")
    if reason:
        raise ParallelError(f"{VARIABLE}={kind} cannot be had: {reason}")
    return kind, ""


def gpu_of(count: int, local_rank: int) -> int | None:
    """Which of the GPUs that a process sees is its own: that of its local rank. None where it sees none."""
    return local_rank % count if count else None


def gpu_name(host: str, index: int, environ: Mapping[str, str] = os.environ) -> str:
    """A GPU's name among all hosts. Ranks whose launcher shows each another GPU all call theirs number 0."""
    shown = environ.get("CUDA_VISIBLE_DEVICES", "")
    listed = [name.strip() for name in shown.split(",") if name.strip()]
    return f"{host}'s GPU {listed[index] if index < len(listed) else index}"


def _without_a_gpu_of_its_own(seen: Sequence[Seen]) -> str:
    blind = [str(rank) for rank, each in enumerate(seen) if each.gpu is None]
    if blind:
        return f"rank {', '.join(blind)} sees no GPU (tf.config.list_physical_devices('GPU'))"
    ranks: defaultdict[str | None, list[str]] = defaultdict(list)
    for rank, each in enumerate(seen):
        ranks[each.gpu].append(str(rank))
    shared = [f"ranks {', '.join(those)} share {gpu}" for gpu, those in ranks.items() if len(those) > 1]
    return f"{shared[0]}, and NCCL wants a GPU for each: start fewer ranks" if shared else ""
