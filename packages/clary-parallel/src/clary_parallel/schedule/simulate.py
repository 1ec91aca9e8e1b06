"""What a schedule will cost, before it runs: step time, bubble, peak memory, and when each action runs.

Time follows from the data flow alone: an action starts when its rank is free and what it needs has arrived. All ranks
advance together, one action a round, in a handful of array operations; a thousand stages with thousands of
micro-batches take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clary_parallel.schedule.actions import Action, Schedule, Work

Floats = npt.NDArray[np.float64]
PerStage = float | Floats


class DeadlockError(RuntimeError):
    """The ranks of a schedule wait for each other in a circle."""


@dataclass(frozen=True)
class Costs:
    """What the simulator charges. Times in seconds (or any unit), memory in bytes; one number, or one a stage.

    Args:
        forward: Time of a stage's forward for a micro-batch.
        backward: Time of a stage's whole backward; a split backward takes `backward - weight`.
        weight: The part of the backward that computes gradients of weights; read by schedules that split it, and with
            `inputs_first`.
        communication: Time from the end of an action until its result is at the next rank; it delays the receiver
            and not the sender. For stages on one rank it is nothing.
        overhead: Time that each action takes besides its work.
        update: Time of the optimizer at the end of a step.
        activation_bytes: What a forward keeps until its gradients are done.
        weight_bytes: What a stage holds all the time: weights, gradients and optimizer state.
        inputs_first: Whether a rank that has no forwards left sends gradients on before it computes those of weights,
            as `execute` does. The published theories of schedules send them at the end of the backward.
    """

    forward: PerStage = 1.0
    backward: PerStage = 2.0
    weight: PerStage = 1.0
    communication: PerStage = 0.0
    overhead: float = 0.0
    update: PerStage = 0.0
    activation_bytes: PerStage = 0.0
    weight_bytes: PerStage = 0.0
    inputs_first: bool = False


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the simulator says.

    Args:
        schedule: The schedule that was simulated.
        start: When each action starts, shape (R, actions).
        end: When each action ends, shape (R, actions).
        step_time: From the first start to the end of the last rank's update.
        bubble: Share of the ranks' time in which they wait: 1 - busy / (R · step time).
        peak_bytes: Most memory of each rank, shape (R,).
        sent: Messages between ranks in a step.
    """

    schedule: Schedule
    start: Floats
    end: Floats
    step_time: float
    bubble: float
    peak_bytes: Floats
    sent: int


def simulate(schedule: Schedule, costs: Costs | None = None) -> Prediction:
    """Predict a step.

    Args:
        schedule: Which actions each rank executes, in which order.
        costs: What the actions cost; by default a forward 1 and a backward 2.

    Raises:
        DeadlockError: The ranks would wait for each other for ever.

    Example:
        >>> from clary_parallel.schedule import interleaved
        >>> round(simulate(interleaved(2, 8)).bubble, 3)  # (R - 1) / (M + R - 1)
        0.111
    """
    costs = costs or Costs()
    durations = _durations(schedule, costs)
    start, end = _advance(
        schedule, durations, _per_stage(costs.communication, schedule.stages), _sooner(schedule, costs)
    )
    update = _per_rank(schedule, _per_stage(costs.update, schedule.stages))
    step_time = float((end[:, -1] + update).max())
    busy = float((end - start).sum() + update.sum())
    bubble = 1.0 - busy / (schedule.ranks * step_time) if step_time > 0 else 0.0
    boundaries = schedule.stages - 1 if schedule.ranks > 1 else 0
    sent = boundaries * schedule.microbatches * (2 if schedule.trains else 1)
    return Prediction(schedule, start, end, step_time, max(bubble, 0.0), _peak_bytes(schedule, costs), sent)


def _durations(schedule: Schedule, costs: Costs) -> Floats:
    """Time of each action, shape (R, actions)."""
    stages = schedule.stages
    backward = _per_stage(costs.backward, stages)
    if schedule.splits_backward:
        backward = backward - _per_stage(costs.weight, stages)
    table = np.stack([_per_stage(costs.forward, stages), backward, _per_stage(costs.weight, stages)])
    if (table < 0).any():
        raise ValueError(
            f"Costs must not be negative, and a backward not shorter than its weight part. Received: {costs}."
        )
    return table[schedule.work, schedule.stage] + costs.overhead


def _sooner(schedule: Schedule, costs: Costs) -> Floats:
    """How long before its end an action sends its results, shape (R, actions)."""
    if schedule.splits_backward or not (costs.inputs_first and schedule.trains):
        return np.zeros(schedule.work.shape)
    without_forwards = np.arange(schedule.work.shape[1]) > schedule.last_forward[:, None]
    return np.where(without_forwards, _per_stage(costs.weight, schedule.stages)[schedule.stage], 0.0)


def _advance(schedule: Schedule, durations: Floats, communication: Floats, sooner: Floats) -> tuple[Floats, Floats]:
    """Start and end of each action, by data flow."""
    ranks, count = schedule.work.shape
    stages, microbatches = schedule.stages, schedule.microbatches
    width = microbatches + 1
    # When each result arrives at who needs it, one flat table: forwards of stage s in block s + 1 and backwards of
    # stage s in block stages + 2 + s, so that block 0 (before the first stage) and block stages + 1 + stages (after
    # the last) stand for what is there from the start. NaN: not there yet.
    blocks = 2 * stages + 3
    arrival = np.full(blocks * width, np.nan)
    arrival[:width] = 0.0
    arrival[(2 * stages + 2) * width :] = 0.0
    delay = communication if schedule.ranks > 1 else np.zeros_like(communication)

    work, stage, microbatch = schedule.work, schedule.stage.astype(np.int64), schedule.microbatch.astype(np.int64)
    forward, backward = work == Work.FORWARD, work == Work.BACKWARD
    needs = np.where(forward, stage, np.where(backward, stages + 3 + stage, 0)) * width + np.where(
        forward | backward, microbatch, microbatches
    )
    # A gradient of weights makes nothing that another action waits for: it lands in a column that nobody reads.
    gives = np.where(forward, stage + 1, np.where(backward, stages + 2 + stage, stages + 1)) * width + np.where(
        forward | backward, microbatch, microbatches
    )
    hop = np.where(forward | backward, np.append(delay, 0.0)[np.where(forward, stage, np.maximum(stage - 1, 0))], 0.0)
    hop = hop - sooner

    start, end = np.empty((ranks, count)), np.empty((ranks, count))
    position, free = np.zeros(ranks, np.int64), np.zeros(ranks)
    rows = np.arange(ranks)
    flat_needs, flat_gives, flat_hop, flat_cost = needs.ravel(), gives.ravel(), hop.ravel(), durations.ravel()
    flat_start, flat_end = start.ravel(), end.ravel()
    while len(rows):
        at = rows * count + position[rows]
        arrived = arrival[flat_needs[at]]
        ready = ~np.isnan(arrived)
        if not ready.all():
            if not ready.any():
                raise DeadlockError(_explain(schedule, rows, position))
            at, arrived = at[ready], arrived[ready]
            moving = rows[ready]
        else:
            moving = rows
        begin = np.maximum(free[moving], arrived)
        finish = begin + flat_cost[at]
        flat_start[at], flat_end[at], free[moving] = begin, finish, finish
        arrival[flat_gives[at]] = finish + flat_hop[at]
        position[moving] += 1
        if (position[moving] == count).any():
            rows = rows[position[rows] < count]
    return start, end


def _peak_bytes(schedule: Schedule, costs: Costs) -> Floats:
    """Most bytes that each rank holds."""
    stages = schedule.stages
    activation = _per_stage(costs.activation_bytes, stages)
    standing = _per_rank(schedule, _per_stage(costs.weight_bytes, stages))
    size = activation[schedule.stage]
    if not schedule.trains:
        return standing + size.max(axis=1)
    last = Work.WEIGHT if schedule.splits_backward else Work.BACKWARD
    change = np.where(schedule.work == Work.FORWARD, size, np.where(schedule.work == last, -size, 0.0))
    return standing + np.cumsum(change, axis=1).max(axis=1)


def _explain(schedule: Schedule, rows: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> str:
    waiting: list[str] = []
    for rank in rows[:4]:
        slot = position[rank]
        action = Action(
            int(schedule.stage[rank, slot]), int(schedule.microbatch[rank, slot]), Work(int(schedule.work[rank, slot]))
        )
        waiting.append(f"rank {rank} at {action}")
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    return f"Schedule {schedule.name!r} stops: its ranks wait for each other ({', '.join(waiting)}{more})."


def _per_stage(value: PerStage, stages: int) -> Floats:
    values = np.asarray(value, np.float64)
    if values.ndim and values.shape != (stages,):
        raise ValueError(
            f"Costs are one number or one for each of the {stages} stages. Received: shape {values.shape}."
        )
    return np.broadcast_to(values, (stages,))


def _per_rank(schedule: Schedule, values: Floats) -> Floats:
    """Sum over the stages of each rank."""
    return values.reshape(schedule.virtual, schedule.ranks).sum(axis=0)
