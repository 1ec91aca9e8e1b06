"""The schedules, one pure function each.

| name | order on a rank | activations held |
|---|---|---|
| simple | all forwards, then all backwards (GPipe, arXiv:1811.06965) | M |
| interleaved | backwards as early as possible, 1F1B (PipeDream-Flush, arXiv:2006.09503) | R − rank |
| interleaved_virtual | the same with several stages a rank (Megatron-LM, arXiv:2104.04473) | more, of smaller stages |
| zero_bubble | backward split; gradients of weights fill the gaps (ZB-H1, arXiv:2401.10241) | R |
| forward_only | forwards only: evaluation and prediction | 0 |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clary_parallel.schedule.actions import Integers, Schedule, Work


def simple(ranks: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards.

    Args:
        ranks: Number of devices, one stage each.
        microbatches: Number of micro-batches.

    Example:
        >>> [str(action) for action in simple(2, 2).actions(0)]
        ['F0 of stage 0', 'F1 of stage 0', 'B0 of stage 0', 'B1 of stage 0']
    """
    _positive(ranks, microbatches)
    order = np.arange(microbatches, dtype=np.int32)
    row_microbatch = np.concatenate([order, order])
    row_work = np.repeat(np.array([Work.FORWARD, Work.BACKWARD], np.int32), microbatches)
    stage = np.repeat(np.arange(ranks, dtype=np.int32)[:, None], 2 * microbatches, axis=1)
    shape = (ranks, 2 * microbatches)
    return Schedule(
        "simple",
        ranks,
        ranks,
        microbatches,
        stage,
        np.broadcast_to(row_microbatch, shape),
        np.broadcast_to(row_work, shape),
        (microbatches,) * ranks,
    )


def interleaved(ranks: int, microbatches: int) -> Schedule:
    """Each backward as early as possible: a rank warms up, then alternates one forward and one backward (1F1B).

    Example:
        >>> [str(action) for action in interleaved(2, 2).actions(1)]
        ['F0 of stage 1', 'B0 of stage 1', 'F1 of stage 1', 'B1 of stage 1']
    """
    return _one_forward_one_backward("interleaved", ranks, 1, microbatches)


def interleaved_virtual(ranks: int, microbatches: int, virtual: int = 2) -> Schedule:
    """1F1B with `virtual` stages a rank: a smaller bubble for more messages.

    Micro-batches advance in groups of `ranks` (a few more where that does not divide) through one stage of the rank
    after the other; backwards take the stages in the reverse order.

    Args:
        ranks: Number of devices.
        microbatches: Number of micro-batches; a multiple of `ranks` gives the smallest bubble.
        virtual: Stages a rank.
    """
    _positive(ranks, microbatches, virtual)
    return _one_forward_one_backward("interleaved_virtual", ranks, virtual, microbatches)


def zero_bubble(ranks: int, microbatches: int) -> Schedule:
    """1F1B with the backward split in two: gradients of weights wait, and fill what would be idle.

    A backward sends the gradient of its input on at once. Rank r keeps up to r gradients of weights waiting, so that
    every rank holds at most as much as the first rank of 1F1B.

    Example:
        >>> [str(action) for action in zero_bubble(2, 2).actions(1)][:4]
        ['F0 of stage 1', 'B0 of stage 1', 'F1 of stage 1', 'B1 of stage 1']
    """
    _positive(ranks, microbatches)
    count = 3 * microbatches
    microbatch = np.empty((ranks, count), np.int32)
    work = np.empty((ranks, count), np.int32)
    order = np.arange(microbatches)
    for rank in range(ranks):
        warmup = min(ranks - 1 - rank, microbatches)
        # When each action comes due on this rank; a stable sort by that time is its order.
        forward_at = np.where(order < warmup, -1.0, (order - warmup) * 1.0)
        backward_at = order + 0.3
        weight_at = order + rank + 0.6
        at = np.concatenate([forward_at, backward_at, weight_at])
        by_time = np.argsort(at, kind="stable")
        microbatch[rank] = np.tile(order, 3)[by_time]
        work[rank] = np.repeat([int(kind) for kind in Work], microbatches)[by_time]
    stage = np.repeat(np.arange(ranks, dtype=np.int32)[:, None], count, axis=1)
    bound = (min(ranks, microbatches),) * ranks
    return Schedule("zero_bubble", ranks, ranks, microbatches, stage, microbatch, work, bound)


def forward_only(ranks: int, microbatches: int, virtual: int = 1) -> Schedule:
    """Forwards only, as evaluation and prediction need them."""
    _positive(ranks, microbatches, virtual)
    chunk, order = _grouped_order(ranks, virtual, microbatches)
    shape = (ranks, len(order))
    stage = chunk[None, :] * np.int32(ranks) + np.arange(ranks, dtype=np.int32)[:, None]
    work = np.zeros(shape, np.int32)
    return Schedule(
        "forward_only",
        ranks,
        ranks * virtual,
        microbatches,
        stage,
        np.broadcast_to(order, shape),
        work,
        (len(order),) * ranks,
    )


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "simple": simple,
    "interleaved": interleaved,
    "interleaved_virtual": interleaved_virtual,
    "zero_bubble": zero_bubble,
    "forward_only": forward_only,
}
"""The schedules by name."""


def make_schedule(name: str, ranks: int, microbatches: int, virtual: int = 1) -> Schedule:
    """A schedule by its name; `_only_forward`, the SageMaker SDK's word, means `forward_only`.

    Args:
        name: One of `SCHEDULES`.
        ranks: Number of devices.
        microbatches: Number of micro-batches.
        virtual: Stages a rank. More than one makes `interleaved` the schedule with virtual stages.

    Raises:
        ValueError: The name is unknown, or the schedule runs one stage a rank only.
    """
    if name in ("forward_only", "_only_forward"):
        return forward_only(ranks, microbatches, virtual)
    if name not in SCHEDULES:
        raise ValueError(f"There is no schedule {name!r}. Expected one of {', '.join(SCHEDULES)}.")
    if name in ("interleaved", "interleaved_virtual") and virtual > 1:
        return interleaved_virtual(ranks, microbatches, virtual)
    if virtual > 1:
        raise ValueError(
            f"Schedule {name!r} runs one stage on each rank. Received: virtual={virtual}. "
            "Use schedule='interleaved' for several stages a rank."
        )
    return SCHEDULES["interleaved" if name == "interleaved_virtual" else name](ranks, microbatches)


def _one_forward_one_backward(name: str, ranks: int, virtual: int, microbatches: int) -> Schedule:
    """Warm-up forwards, then one forward and one backward in turn, then the backwards that remain."""
    _positive(ranks, microbatches)
    chunk, order = _grouped_order(ranks, virtual, microbatches)
    count = len(order)
    warmups = _warmups(ranks, virtual, microbatches)
    stage = np.empty((ranks, 2 * count), np.int32)
    microbatch = np.empty((ranks, 2 * count), np.int32)
    work = np.empty((ranks, 2 * count), np.int32)
    for rank, warmup in enumerate(warmups):
        forward_slots = _forward_slots(count, warmup)
        backward_slots = np.setdiff1d(np.arange(2 * count), forward_slots, assume_unique=True)
        stage[rank, forward_slots] = chunk * ranks + rank
        stage[rank, backward_slots] = (virtual - 1 - chunk) * ranks + rank
        for slots, kind in ((forward_slots, Work.FORWARD), (backward_slots, Work.BACKWARD)):
            microbatch[rank, slots] = order
            work[rank, slots] = kind
    bound = tuple(min(warmup + 1, count) for warmup in warmups)
    return Schedule(name, ranks, ranks * virtual, microbatches, stage, microbatch, work, bound)


def _warmups(ranks: int, virtual: int, microbatches: int) -> list[int]:
    """Forwards before the first backward, less the one of the first pair."""
    if virtual == 1:
        return [min(ranks - 1 - rank, microbatches) for rank in range(ranks)]
    count = virtual * microbatches
    if ranks == 1:
        # One rank has no one to wait for: each group goes all the way forward, then back.
        return [virtual - 1]
    largest = int(_groups(ranks, microbatches)[1].max())
    return [min(2 * (ranks - rank - 1) + (virtual - 1) * largest, count) for rank in range(ranks)]


def _forward_slots(count: int, warmup: int) -> Integers:
    """Where a rank's forwards stand among its 2·count actions."""
    steady = warmup + 2 * np.arange(count - warmup, dtype=np.int32)
    return np.concatenate([np.arange(warmup, dtype=np.int32), steady])


def _grouped_order(ranks: int, virtual: int, microbatches: int) -> tuple[Integers, Integers]:
    """Forwards of a rank as (which of its stages, micro-batch): group after group, in each stage after stage."""
    if virtual == 1:
        return np.zeros(microbatches, np.int32), np.arange(microbatches, dtype=np.int32)
    index = np.arange(virtual * microbatches)
    chunk, microbatch = index // microbatches, index % microbatches
    group_of, _ = _groups(ranks, microbatches)
    by_group = np.lexsort((microbatch, chunk, group_of[microbatch]))
    return chunk[by_group].astype(np.int32), microbatch[by_group].astype(np.int32)


def _groups(ranks: int, microbatches: int) -> tuple[Integers, Integers]:
    """The group of each micro-batch, and the groups' sizes: even, and not under `ranks` while there are as many.

    A group smaller than the number of ranks would come round before the ranks before it are done, and they would wait
    for each other.
    """
    groups = max(microbatches // ranks, 1)
    group_of = np.arange(microbatches, dtype=np.int32) * groups // microbatches
    return group_of.astype(np.int32), np.bincount(group_of).astype(np.int32)


def _positive(ranks: int, microbatches: int, virtual: int = 1) -> None:
    for name, value in (("ranks", ranks), ("microbatches", microbatches), ("virtual", virtual)):
        if value < 1:
            raise ValueError(f"A schedule needs {name} of at least 1. Received: {name}={value}.")
