"""Whether a schedule can run: complete, every dependency met, no deadlock, no more held than it promises."""

from __future__ import annotations

import numpy as np

from clary_parallel.schedule.actions import Action, Schedule, Work
from clary_parallel.schedule.simulate import Costs, DeadlockError, simulate


class ScheduleError(ValueError):
    """A schedule that would not run, or that breaks its promise of memory."""


def check(schedule: Schedule) -> None:
    """Check that a schedule can be executed as it stands.

    Each rank sends a result as soon as it has it, without waiting for its receiver, and waits for what an action
    needs. Under these rules the checker asserts that

    - each stage's actions stand on the stage's rank, each exactly once, a backward after its forward, a gradient of
      weights after its backward;
    - the ranks never wait for each other in a circle;
    - on each channel (the forward or the backward one of two neighbouring stages) messages are consumed in the order in
      which they are sent, so that a transport may be a queue;
    - no rank holds more forwards at once than `in_flight` says.

    Raises:
        ScheduleError: Which rule is broken, and by which action.
    """
    _complete(schedule)
    _ordered_on_ranks(schedule)
    try:
        simulate(schedule, Costs())
    except DeadlockError as error:
        raise ScheduleError(str(error)) from error
    _channels_are_queues(schedule)
    _within_memory(schedule)


def held(schedule: Schedule) -> np.ndarray:
    """Forwards held on each rank after each action, shape (R, actions): until the last gradient of each is done."""
    last = Work.WEIGHT if schedule.splits_backward else Work.BACKWARD
    change = (schedule.work == Work.FORWARD).astype(np.int64) - (schedule.work == last)
    return np.cumsum(change, axis=1)


def _complete(schedule: Schedule) -> None:
    kinds = [Work.FORWARD]
    if schedule.trains:
        kinds = list(Work) if schedule.splits_backward else [Work.FORWARD, Work.BACKWARD]
    wanted = schedule.stages * schedule.microbatches * len(kinds)
    identity = (schedule.work * schedule.stages + schedule.stage).astype(np.int64)
    identity = identity * schedule.microbatches + schedule.microbatch
    if schedule.work.size != wanted or len(np.unique(identity)) != wanted:
        raise ScheduleError(
            f"Schedule {schedule.name!r} must hold each of its {wanted} actions once. "
            f"Received: {schedule.work.size} actions, {len(np.unique(identity))} of them different."
        )
    own = np.arange(schedule.ranks)[:, None]
    misplaced = np.argwhere(schedule.stage % schedule.ranks != own)
    if len(misplaced):
        rank, slot = misplaced[0]
        raise ScheduleError(f"{_action(schedule, rank, slot)} stands on rank {rank}, which does not run that stage.")


def _ordered_on_ranks(schedule: Schedule) -> None:
    slots = _slots(schedule)
    for earlier, later in ((Work.FORWARD, Work.BACKWARD), (Work.BACKWARD, Work.WEIGHT)):
        wrong = np.argwhere((slots[later] >= 0) & (slots[earlier] > slots[later]))
        if len(wrong):
            stage, microbatch = wrong[0]
            raise ScheduleError(f"{Action(stage, microbatch, later)} stands before its {earlier.name.lower()}.")


def _channels_are_queues(schedule: Schedule) -> None:
    slots = _slots(schedule)
    if schedule.stages < 2:
        return
    for work, sender, receiver in (
        (Work.FORWARD, slice(0, -1), slice(1, None)),
        (Work.BACKWARD, slice(1, None), slice(0, -1)),
    ):
        if work is Work.BACKWARD and not schedule.trains:
            continue
        sent = np.argsort(slots[work][sender], axis=1)
        taken = np.argsort(slots[work][receiver], axis=1)
        wrong = np.argwhere((sent != taken).any(axis=1))
        if len(wrong):
            raise ScheduleError(
                f"Stage {range(schedule.stages)[sender][wrong[0, 0]]} sends its {work.name.lower()} results in another "
                "order than its neighbour takes them."
            )


def _within_memory(schedule: Schedule) -> None:
    if not schedule.trains:
        return
    peak = held(schedule).max(axis=1)
    for rank, (most, bound) in enumerate(zip(peak, schedule.in_flight, strict=True)):
        if most > bound:
            raise ScheduleError(
                f"Rank {rank} holds {most} forwards at once; schedule {schedule.name!r} allows {bound}."
            )


def _slots(schedule: Schedule) -> np.ndarray:
    """Position of each action in its rank's order, shape (3, stages, microbatches); -1 where there is none."""
    slots = np.full((len(Work), schedule.stages, schedule.microbatches), -1, np.int64)
    position = np.broadcast_to(np.arange(schedule.work.shape[1]), schedule.work.shape)
    slots[schedule.work, schedule.stage, schedule.microbatch] = position
    return slots


def _action(schedule: Schedule, rank: int, slot: int) -> Action:
    return Action(
        int(schedule.stage[rank, slot]), int(schedule.microbatch[rank, slot]), Work(int(schedule.work[rank, slot]))
    )
