"""A stage as a program of a schedule: forward, backward and gradients of weights, one micro-batch after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from clary_parallel.pipelining.arrays import array_of, tensor_of
from clary_parallel.pipelining.phases import Phases
from clary_parallel.pipelining.traced_stage import Compiled, Crossing, Feed, LossFunction, StageCode, trace_stage
from clary_parallel.schedule.execute import Arrays, Spec

__all__ = ["Compiled", "Crossing", "Feed", "LossFunction", "Results", "Stage", "StageCode"]


@dataclass
class Results:
    """What a step leaves on a stage, by micro-batch."""

    outputs: dict[int, list[Any]] = field(default_factory=dict[int, list[Any]])
    losses: dict[int, Any] = field(default_factory=dict[int, Any])
    own_losses: dict[int, Any] = field(default_factory=dict[int, Any])


class Stage:
    """The compiled functions and per-step state of one stage; a `StageProgram`.

    A step's first backward replaces what the variables of gradients hold, the others add to it.

    Args:
        code: What the stage computes, and into which variables gradients of micro-batches add up.
    """

    def __init__(self, code: StageCode) -> None:
        self.code, self.layout = code, code.layout
        self._state = [variable.value for variable in self.layout.network.non_trainable_variables]
        self.feeds: list[Feed] = []
        self.results = Results()
        self._compiled: dict[Any, Compiled] = {}
        self._current: list[Compiled] = []
        self._saved: dict[int, dict[str, Any]] = {}
        self._begun: dict[int, tuple[list[Any], list[Any]]] = {}
        self._factors: dict[float, Any] = {}
        self._is_first = True

    def begin(self, feeds: list[Feed], compiled: list[Compiled]) -> None:
        """Begin a step with what this rank supplies for each micro-batch."""
        self.feeds, self._current = feeds, compiled
        self.results, self._saved, self._begun = Results(), {}, {}
        self._is_first = True
        factors = {factor for feed in feeds for factor in (feed.share, feed.loss_scale)}
        self._factors = {factor: tf.constant(factor) for factor in factors}

    def forward_specs(self, microbatch: int) -> Sequence[Spec]:
        """See `StageProgram`."""
        return [crossing.spec for crossing in self._current[microbatch].takes]

    def backward_specs(self, microbatch: int) -> Sequence[Spec]:
        """See `StageProgram`."""
        return [crossing.spec for crossing in self._current[microbatch].gives if crossing.has_gradient]

    def forward(self, microbatch: int, inputs: Arrays) -> Arrays:
        """See `StageProgram`."""
        saved = self._saved[microbatch] = {}
        arguments = self._arguments(microbatch, inputs)
        if self.code.recompute:
            self._begun[microbatch] = arguments, [tf.identity(variable) for variable in self._state]
        fetched = self._current[microbatch].phases.call(0, arguments, saved)
        return self._keep(microbatch, fetched)

    def backward(self, microbatch: int, gradients: Arrays, weights: bool) -> Arrays:
        """See `StageProgram`."""
        saved = self._saved[microbatch]
        arriving = [tensor_of(item) for item in gradients]
        first = weights and self._begins()
        current = self._current[microbatch]
        if current.again is None:
            fetched = current.phases.call(1, arriving, saved, first, through=2 if weights else 1)
        else:
            fetched = self._again(current.again, microbatch, arriving, saved, first, weights)
        if weights:
            del self._saved[microbatch]
        return [array_of(tensor) for tensor in fetched]

    def weight(self, microbatch: int) -> None:
        """See `StageProgram`."""
        current = self._current[microbatch]
        phases, number = (current.phases, 2) if current.again is None else (current.again, 1)
        phases.call(number, [], self._saved.pop(microbatch), self._begins())

    def forward_and_backward(self, microbatch: int, inputs: Arrays, weights: bool) -> Arrays:
        """See `StageProgram`."""
        current = self._current[microbatch]
        if current.again is not None:
            self.forward(microbatch, inputs)
            return self.backward(microbatch, (), weights)
        saved: dict[str, Any] = {}
        first = weights and self._begins()
        through = 2 if weights else 1
        fetched = current.phases.call(0, self._arguments(microbatch, inputs), saved, first, through)
        if not weights:
            self._saved[microbatch] = saved
        sent_back = sum(crossing.has_gradient for crossing in current.takes)
        self._keep(microbatch, fetched[: len(fetched) - sent_back])
        return [array_of(tensor) for tensor in fetched[len(fetched) - sent_back :]]

    def compile(self, takes: tuple[Crossing, ...], feed: Feed) -> Compiled:
        """The stage's functions for what crosses the boundary before it and what its rank supplies: traced once."""
        own = [_spec(item) for item in (*feed.inputs, *feed.targets, *feed.sample_weights)]
        key = (takes, tuple((tuple(spec.shape), spec.dtype.name) for spec in own))
        if key not in self._compiled:
            self._compiled[key] = trace_stage(self.code, takes, feed, own)
        return self._compiled[key]

    def _begins(self) -> bool:
        """Whether gradients of weights are the step's first, which replace those of the step before."""
        first, self._is_first = self._is_first, False
        return first

    def _again(
        self, again: Phases, microbatch: int, arriving: list[Any], saved: dict[str, Any], first: bool, weights: bool
    ) -> list[Any]:
        """Forward and backward from where the forward began: the same dropout, and running means as they are now."""
        arguments, begun = self._begun.pop(microbatch)
        now = [tf.identity(variable) for variable in self._state]
        for variable, value in zip(self._state, begun, strict=True):
            variable.assign(value)
        fetched = again.call(0, [*arguments, *arriving], saved, first, through=1 if weights else 0)
        for variable, value in zip(self._state, now, strict=True):
            variable.assign(value)
        return fetched

    def _arguments(self, microbatch: int, inputs: Arrays) -> list[Any]:
        feed = self.feeds[microbatch]
        own = [*feed.inputs, *feed.targets, *feed.sample_weights]
        return [*map(tensor_of, (*inputs, *own)), self._factors[feed.share], self._factors[feed.loss_scale]]

    def _keep(self, microbatch: int, fetched: list[Any]) -> Arrays:
        """Keep the losses (and the model's outputs, on the last stage); return what is sent on."""
        outputs, loss, own_loss = fetched[:-2], fetched[-2], fetched[-1]
        self.results.losses[microbatch], self.results.own_losses[microbatch] = loss, own_loss
        if self.code.loss is not None:
            self.results.outputs[microbatch] = outputs
            return ()
        return [array_of(tensor) for tensor in outputs]


def _spec(item: Any) -> Any:
    return tf.TensorSpec(item.shape, item.dtype)
