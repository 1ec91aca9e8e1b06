"""One rank's part of a pipeline: its stages, their compiled functions, and one step over a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from clary_parallel.pipelining.layout import StageLayout
from clary_parallel.pipelining.stage import Compiled, Crossing, Feed, LossFunction, Stage, StageCode
from clary_parallel.schedule import Schedule, make_schedule
from clary_parallel.schedule.execute import Observer, aligned_empty, execute
from clary_parallel.transport import Request, Transport

_DATA_TAG = 30_000


class NotFiniteError(ArithmeticError):
    """A loss became NaN or infinite; the message names the stage where it began."""


@dataclass(frozen=True)
class Settings:
    """How a pipeline runs.

    Args:
        partitions: Ranks of one pipeline.
        microbatches: Micro-batches of a batch.
        schedule: Name of the schedule.
        virtual: Stages a rank.
        recompute: Whether backwards compute intermediate results again.
        xla: Whether XLA compiles the stages' functions.
    """

    partitions: int
    microbatches: int
    schedule: str
    virtual: int
    recompute: bool = False
    xla: bool = False


@dataclass(frozen=True)
class Batch:
    """A batch as flat lists of arrays, the same on every rank as far as shapes go."""

    inputs: list[Any]
    targets: list[Any]
    sample_weights: list[Any]

    @property
    def size(self) -> int:
        """Number of examples."""
        return int(self.inputs[0].shape[0])


@dataclass(frozen=True)
class Outcome:
    """What a step gives on this rank.

    Args:
        loss: Loss of the batch, of all stages, with the losses that layers add. Known on every rank.
        parts: The model's flat outputs for each micro-batch; empty but on the last stage's rank.
    """

    loss: float
    parts: dict[int, list[Any]]

    @property
    def outputs(self) -> list[Any]:
        """The model's outputs for the whole batch, flat."""
        columns = zip(*(self.parts[number] for number in range(len(self.parts))), strict=True)
        return [np.concatenate([np.asarray(part) for part in column]) for column in columns]


class Engine:
    """Runs steps of a pipeline on this rank.

    Args:
        layouts: All stages of the model.
        settings: How it runs.
        transport: The pipeline's ranks.
        loss: The loss of the model's outputs.
    """

    def __init__(
        self, layouts: Sequence[StageLayout], settings: Settings, transport: Transport, loss: LossFunction
    ) -> None:
        self.layouts, self.settings, self.transport = layouts, settings, transport
        self.owner = [layout.number % settings.partitions for layout in layouts]
        self.is_last = self.owner[-1] == transport.rank
        self.mine = [layout for layout in layouts if self.owner[layout.number] == transport.rank]
        self.variables = [variable for layout in self.mine for variable in layout.network.trainable_variables]
        self.gradients = [
            tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False) for variable in self.variables
        ]
        self.with_gradient: list[int] = []
        self.observer: Observer | None = None
        self._stages = {training: self._make_stages(loss, training) for training in (True, False)}
        self._known: dict[Any, list[tuple[dict[int, Compiled], bool]]] = {}
        self._schedules: dict[tuple[bool, int], Schedule] = {}

    def schedule(self, training: bool, microbatches: int) -> Schedule:
        """The schedule for a number of micro-batches."""
        key = (training, microbatches)
        if key not in self._schedules:
            name = self.settings.schedule if training and self.settings.schedule != "_only_forward" else "forward_only"
            self._schedules[key] = make_schedule(name, self.settings.partitions, microbatches, self.settings.virtual)
        return self._schedules[key]

    def step(self, batch: Batch, training: bool, loss_scale: float = 1.0, may_overflow: bool = False) -> Outcome:
        """Run a batch through the pipeline; in training, gradients of weights add up in `gradients`.

        The data of the pipeline's first rank counts: it is sent to the ranks that read it.

        Args:
            batch: The data.
            training: Whether there are backwards.
            loss_scale: What gradients are multiplied with.
            may_overflow: Whether a loss that is not finite is no error, because a smaller scale will mend it.

        Raises:
            NotFiniteError: The loss of a training step is not finite.
        """
        batch, sending = self._share_batch(batch)
        count = min(self.settings.microbatches, batch.size)
        if count < 1:
            raise ValueError("A batch must hold at least one example. Received: an empty batch.")
        edges = [round(batch.size * number / count) for number in range(count + 1)]
        schedule = self.schedule(training, count)
        stages = self._stages[training]
        feeds = {number: self._feeds(number, batch, edges, loss_scale) for number in stages}
        adds_losses = self._begin(stages, feeds, batch, edges, training)
        execute(schedule, stages, self.transport, self.observer)
        for request in sending:
            request.wait()
        loss = self._loss(stages, adds_losses)
        if training and not np.isfinite(loss) and not may_overflow:
            self._blame(loss, count, feeds, batch, edges)
        return Outcome(loss, stages[len(self.layouts) - 1].results.outputs if self.is_last else {})

    def synchronise(self) -> None:
        """Give every rank the weights of all stages, as their owners have them."""
        for layout in self.layouts:
            for variable in layout.network.variables:
                value = np.ascontiguousarray(np.asarray(variable.value))
                if value.dtype.hasobject:
                    continue
                self.transport.broadcast(value, self.owner[layout.number])
                if self.owner[layout.number] != self.transport.rank:
                    variable.assign(value)

    def _make_stages(self, loss: LossFunction, training: bool) -> dict[int, Stage]:
        stages: dict[int, Stage] = {}
        first = 0
        for layout in self.mine:
            count = len(layout.network.trainable_variables)
            last = layout.number == len(self.layouts) - 1
            own = self.gradients[first : first + count]
            recompute = self.settings.recompute and training
            code = StageCode(layout, loss if last else None, training, own, recompute, self.settings.xla)
            stages[layout.number] = Stage(code)
            first += count
        return stages

    def _share_batch(self, batch: Batch) -> tuple[Batch, list[Request]]:
        """Let the first rank's inputs and targets reach who reads them; the first rank's sends are under way."""
        if self.transport.size == 1:
            return batch, []
        ends: dict[int, set[int]] = {}
        count = len(batch.inputs)
        for layout in self.layouts:
            for number in layout.model_inputs:
                ends.setdefault(number, set()).add(self.owner[layout.number])
        for number in range(count, count + len(batch.targets) + len(batch.sample_weights)):
            ends.setdefault(number, set()).add(self.owner[-1])
        items = [*batch.inputs, *batch.targets, *batch.sample_weights]
        sending: list[Request] = []
        receiving: list[Request] = []
        for number, item in enumerate(items):
            for rank in sorted(ends.get(number, set()) - {0}):
                if self.transport.rank == 0:
                    sending.append(self.transport.isend(item, rank, _DATA_TAG + number))
                elif self.transport.rank == rank:
                    items[number] = aligned_empty(item.shape, item.dtype)
                    receiving.append(self.transport.irecv(items[number], 0, _DATA_TAG + number))
        for request in receiving:
            request.wait()
        targets = count + len(batch.targets)
        return Batch(items[:count], items[count:targets], items[targets:]), sending

    def _feeds(self, stage: int, batch: Batch, edges: list[int], loss_scale: float) -> list[Feed]:
        layout, last = self.layouts[stage], stage == len(self.layouts) - 1
        feeds: list[Feed] = []
        for begin, end in pairwise(edges):
            inputs = [batch.inputs[number][begin:end] for number in layout.model_inputs]
            targets = [item[begin:end] for item in batch.targets] if last else []
            weights = [item[begin:end] for item in batch.sample_weights] if last else []
            feeds.append(Feed(inputs, targets, weights, (end - begin) / batch.size, loss_scale))
        return feeds

    def _begin(
        self, stages: dict[int, Stage], feeds: dict[int, list[Feed]], batch: Batch, edges: list[int], training: bool
    ) -> bool:
        """Have every stage's functions for this batch's sizes; tell whether any stage adds losses of its own."""
        sizes = [end - begin for begin, end in pairwise(edges)]
        compiled: dict[int, dict[int, Compiled]] = {}
        adds_losses = False
        shapes = tuple(
            (item.shape[1:], str(item.dtype)) for item in (*batch.inputs, *batch.targets, *batch.sample_weights)
        )
        for size in sorted(set(sizes)):
            key = (training, size, len(batch.targets), len(batch.sample_weights), shapes)
            if key not in self._known:
                self._known[key] = [self._agree(stages, feeds, sizes.index(size))]
            compiled[size], adds = self._known[key][0]
            adds_losses = adds_losses or adds
        for number, stage in stages.items():
            stage.begin(feeds[number], [compiled[size][number] for size in sizes])
        return adds_losses

    def _agree(
        self, stages: dict[int, Stage], feeds: dict[int, list[Feed]], microbatch: int
    ) -> tuple[dict[int, Compiled], bool]:
        """Compile stage after stage: each learns from the one before what crosses their boundary."""
        compiled: dict[int, Compiled] = {}
        takes: tuple[Crossing, ...] = ()
        adds_losses = False
        first_variable = 0
        for layout in self.layouts:
            number = layout.number
            told: Any = None
            if number in stages:
                made = stages[number].compile(takes, feeds[number][microbatch])
                compiled[number] = made
                found = {first_variable + index for index in made.with_gradient}
                self.with_gradient = sorted({*self.with_gradient, *found})
                first_variable += len(layout.network.trainable_variables)
                told = (made.gives, made.adds_losses)
            takes, adds = self.transport.broadcast_object(told, self.owner[number])
            adds_losses = adds_losses or adds
        return compiled, adds_losses

    def _loss(self, stages: dict[int, Stage], adds_losses: bool) -> float:
        total = np.zeros(1)
        for stage in stages.values():
            total[0] += sum(float(loss) for loss in stage.results.losses.values())
            total[0] += sum(float(loss) for loss in stage.results.own_losses.values())
        if adds_losses:
            self.transport.allreduce(total)
        else:
            self.transport.broadcast(total, self.owner[-1])
        return float(total[0])

    def _blame(self, loss: float, count: int, feeds: dict[int, list[Feed]], batch: Batch, edges: list[int]) -> None:
        """Run the batch forwards once more and name the first stage whose results are not finite.

        Raises:
            NotFiniteError: Always.
        """
        stages = self._stages[True]
        self._begin(stages, feeds, batch, edges, True)
        found: list[tuple[int, int]] = []
        watched = {number: _Watched(stage, found.append) for number, stage in stages.items()}
        execute(self.schedule(False, count), watched, self.transport)
        everyone = [item for rank in self.transport.allgather_object(found) for item in rank]
        if not everyone:
            raise NotFiniteError(
                f"The loss is {loss}, though every stage's results were finite. Look at the loss function."
            )
        number, microbatch = min(everyone)
        names = self.layouts[number].names
        raise NotFiniteError(
            f"The loss is {loss}: it began in stage {number} of {len(self.layouts)} (operations {names[0]} to "
            f"{names[-1]}), in micro-batch {microbatch}. Its weights, or what it computes from finite inputs, are not."
        )


class _Watched:
    """A stage whose forward results are looked at."""

    def __init__(self, stage: Stage, tell: Callable[[tuple[int, int]], None]) -> None:
        self._stage, self._tell = stage, tell
        self.forward_specs, self.backward_specs = stage.forward_specs, stage.backward_specs
        self.backward, self.weight, self.forward_and_backward = stage.backward, stage.weight, stage.forward_and_backward

    def forward(self, microbatch: int, inputs: Sequence[np.ndarray[Any, Any]]) -> Sequence[np.ndarray[Any, Any]]:
        sent = self._stage.forward(microbatch, inputs)
        values = sent or [np.asarray(item) for item in self._stage.results.outputs.get(microbatch, [])]
        # Integers and truth values are always finite; NumPy does not count bfloat16 among its floating types.
        if not all(np.isfinite(value).all() for value in values if value.dtype.kind not in "iub"):
            self._tell((self._stage.layout.number, microbatch))
        return sent
