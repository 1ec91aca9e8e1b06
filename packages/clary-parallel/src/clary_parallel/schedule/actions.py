"""What a schedule is: for each rank, the order of its actions (stage, micro-batch, forward | backward | weight).

Held as three integer arrays of shape (ranks, actions), so that a thousand stages with thousands of micro-batches are a
few arrays and not millions of objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int32]


class Work(IntEnum):
    """The kinds of work. In a schedule without WEIGHT actions, BACKWARD computes both gradients."""

    FORWARD = 0
    BACKWARD = 1
    WEIGHT = 2

    @property
    def letter(self) -> str:
        """The letter that charts show: F, B or W."""
        return self.name[0]


class Action(NamedTuple):
    """One piece of work of one rank."""

    stage: int
    microbatch: int
    work: Work

    def __str__(self) -> str:
        return f"{self.work.letter}{self.microbatch} of stage {self.stage}"


@dataclass(frozen=True, eq=False)
class Schedule:
    """The order of work on every rank.

    Args:
        name: Which schedule it is.
        ranks: Number of devices, R.
        stages: Number of stages, a multiple of R; stage s runs on rank s mod R.
        microbatches: Number of micro-batches, M.
        stage: Stage of each action, shape (R, actions).
        microbatch: Micro-batch of each action, shape (R, actions).
        work: `Work` of each action, shape (R, actions).
        in_flight: For each rank, how many forwards it may hold at most before their gradients are complete; the
            checker holds the schedule to it.
    """

    name: str
    ranks: int
    stages: int
    microbatches: int
    stage: Integers
    microbatch: Integers
    work: Integers
    in_flight: tuple[int, ...]

    @property
    def trains(self) -> bool:
        """Whether the schedule has backwards."""
        return bool((self.work != Work.FORWARD).any())

    @property
    def splits_backward(self) -> bool:
        """Whether gradients of weights are actions of their own."""
        return bool((self.work == Work.WEIGHT).any())

    @property
    def last_forward(self) -> Integers:
        """The place of each rank's last forward among its actions, shape (R,)."""
        from_the_end = np.argmax(self.work[:, ::-1] == Work.FORWARD, axis=1)
        return (self.work.shape[1] - 1 - from_the_end).astype(np.int32)

    @property
    def virtual(self) -> int:
        """Stages per rank."""
        return self.stages // self.ranks

    def rank_of(self, stage: int) -> int:
        """The rank that runs a stage."""
        return stage % self.ranks

    def actions(self, rank: int) -> Iterator[Action]:
        """The actions of a rank, in order."""
        columns = (self.stage[rank].tolist(), self.microbatch[rank].tolist(), self.work[rank].tolist())
        for stage, microbatch, work in zip(*columns, strict=True):
            yield Action(stage, microbatch, Work(work))
