"""The loop that executes schedules, on threads, with stages of one number each."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from clary_parallel.errors import ParallelError
from clary_parallel.schedule import Schedule, forward_only, interleaved, interleaved_virtual, simple, zero_bubble
from clary_parallel.schedule.execute import Arrays, Spec, execute
from clary_parallel.transport.base import Transport
from clary_parallel.transport.inprocess import run_threads


class Scale:
    """y = factor · x; the model's loss is half the square of the last stage's y."""

    def __init__(self, number: int, stages: int) -> None:
        self.number, self.factor, self.first, self.last = number, number + 2.0, number == 0, number == stages - 1
        self.inputs: dict[int, np.ndarray[Any, Any]] = {}
        self.arrived: dict[int, np.ndarray[Any, Any]] = {}
        self.results: dict[int, np.ndarray[Any, Any]] = {}
        self.gradient = np.zeros(1)

    def forward_specs(self, microbatch: int) -> Sequence[Spec]:
        return [] if self.first else [((1,), np.dtype(np.float64))]

    def backward_specs(self, microbatch: int) -> Sequence[Spec]:
        return [] if self.last else [((1,), np.dtype(np.float64))]

    def forward(self, microbatch: int, inputs: Arrays) -> Arrays:
        self.inputs[microbatch] = np.array([microbatch + 1.0]) if self.first else inputs[0]
        self.results[microbatch] = self.factor * self.inputs[microbatch]
        return [] if self.last else [self.results[microbatch]]

    def backward(self, microbatch: int, gradients: Arrays, weights: bool) -> Arrays:
        arrived = self.arrived[microbatch] = self.results[microbatch] if self.last else gradients[0]
        if weights:
            self.weight(microbatch)
        return [] if self.first else [self.factor * arrived]

    def weight(self, microbatch: int) -> None:
        self.gradient = self.gradient + self.arrived.pop(microbatch) * self.inputs.pop(microbatch)

    def forward_and_backward(self, microbatch: int, inputs: Arrays, weights: bool) -> Arrays:
        self.forward(microbatch, inputs)
        return self.backward(microbatch, [], weights)


@pytest.mark.parametrize(
    "schedule",
    [simple(1, 3), simple(3, 5), interleaved(4, 7), interleaved_virtual(2, 5, 3), zero_bubble(3, 6), interleaved(3, 1)],
    ids=lambda schedule: f"{schedule.name}-{schedule.ranks}-{schedule.microbatches}",
)
def test_any_schedule_gives_the_gradients_of_the_whole(schedule: Schedule):
    def program(transport: Transport) -> dict[int, float]:
        mine = [stage for stage in range(schedule.stages) if schedule.rank_of(stage) == transport.rank]
        programs = {stage: Scale(stage, schedule.stages) for stage in mine}
        execute(schedule, programs, transport)
        assert not any(stage.inputs for stage in programs.values())
        return {number: float(stage.gradient[0]) for number, stage in programs.items()}

    found = {number: value for rank in run_threads(schedule.ranks, program) for number, value in rank.items()}

    product = np.prod([stage + 2.0 for stage in range(schedule.stages)])
    squares = sum((microbatch + 1.0) ** 2 for microbatch in range(schedule.microbatches))
    assert found == {stage: pytest.approx(product**2 / (stage + 2.0) * squares) for stage in range(schedule.stages)}


@pytest.mark.parametrize("schedule", [simple(3, 4), interleaved(3, 4), interleaved(3, 1)], ids=lambda item: item.name)
def test_gradients_go_on_before_those_of_weights_when_a_rank_has_no_forwards_left(schedule: Schedule):
    arrived = [threading.Event() for _ in range(schedule.stages)]

    class Patient(Scale):
        """Begins its last gradients of weights only when the stage before has its gradients."""

        def backward(self, microbatch: int, gradients: Arrays, weights: bool) -> Arrays:
            if microbatch == schedule.microbatches - 1:
                arrived[self.number].set()
            return super().backward(microbatch, gradients, weights)

        def weight(self, microbatch: int) -> None:
            if microbatch == schedule.microbatches - 1 and not self.first:
                assert arrived[self.number - 1].wait(5)
            super().weight(microbatch)

    def program(transport: Transport) -> float:
        stage = Patient(transport.rank, schedule.stages)
        execute(schedule, {transport.rank: stage}, transport)
        return float(stage.gradient[0])

    squares = sum((microbatch + 1.0) ** 2 for microbatch in range(schedule.microbatches))
    assert run_threads(3, program) == [pytest.approx(24.0**2 / factor * squares) for factor in (2.0, 3.0, 4.0)]


def test_forwards_alone_reach_the_last_stage():
    schedule = forward_only(3, 4, 2)

    def program(transport: Transport) -> dict[int, float]:
        programs = {stage: Scale(stage, 6) for stage in range(transport.rank, 6, 3)}
        execute(schedule, programs, transport)
        return {number: float(value[0]) for number, value in programs[transport.rank + 3].results.items()}

    last = run_threads(3, program)[2]

    assert last == {number: (number + 1) * 2.0 * 3 * 4 * 5 * 6 * 7 for number in range(4)}


def test_a_stage_that_waits_in_vain_says_for_whom():
    def program(transport: Transport) -> None:
        if transport.rank == 1:
            execute(interleaved(2, 2), {1: Scale(1, 2)}, transport)

    with pytest.raises(ParallelError, match="Stage 1 on rank 1 waited in vain for F0 of stage 0 from rank 0"):
        run_threads(2, program, patience=0.5)
