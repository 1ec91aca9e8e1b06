"""Tracing a stage: its forward, backward and gradients of weights for a size of micro-batch, as compiled functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np
import tensorflow as tf

from clary_parallel.pipelining.layout import StageLayout
from clary_parallel.pipelining.phases import Phases
from clary_parallel.schedule.execute import Spec

LossFunction = Callable[[Any, Any, Any, Any], Any]
"""(targets, outputs, sample weights, share of the batch) to a micro-batch's loss; the first three are flat lists."""


@dataclass(frozen=True)
class Crossing:
    """A tensor on its way over a boundary.

    Args:
        tensor: Which of the boundary's symbolic tensors.
        is_mask: Whether it is the tensor's Keras mask.
        shape: Its shape for this size of micro-batch.
        dtype: Its type's name.
    """

    tensor: int
    is_mask: bool
    shape: tuple[int, ...]
    dtype: str

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient comes back for it."""
        return not self.is_mask and tf.as_dtype(self.dtype).is_floating

    @property
    def spec(self) -> Spec:
        """As a buffer."""
        return self.shape, np.dtype(tf.as_dtype(self.dtype).as_numpy_dtype)


@dataclass
class Feed:
    """What a rank supplies itself to a stage for one micro-batch.

    Args:
        inputs: Arrays of the model's inputs that the stage reads.
        targets: Flat targets, on the last stage.
        sample_weights: Flat sample weights, on the last stage.
        share: The micro-batch's share of the batch, by which its loss counts.
        loss_scale: What gradients are multiplied with, so that small ones survive half precision.
    """

    inputs: list[Any]
    targets: list[Any]
    sample_weights: list[Any]
    share: float
    loss_scale: float = 1.0


@dataclass(frozen=True)
class StageCode:
    """What of a stage does not depend on a micro-batch's size.

    Args:
        layout: The stage.
        loss: The loss of the model's outputs, on the last stage.
        training: Whether there are backwards.
        gradients: One variable for each trainable variable of the stage, in which gradients of micro-batches add up.
        recompute: Whether the backward computes the forward again instead of taking its intermediate results.
        xla: Whether XLA compiles the stage's functions.
    """

    layout: StageLayout
    loss: LossFunction | None
    training: bool
    gradients: Sequence[Any]
    recompute: bool = False
    xla: bool = False


@dataclass(frozen=True)
class Compiled:
    """A stage's functions for one size of micro-batch.

    Args:
        phases: Forward; and of training backward and gradients of weights, unless `again` has them.
        again: Backward, which computes the forward again, and gradients of weights.
        takes: What crosses the boundary before the stage.
        gives: What crosses the boundary after it.
        with_gradient: Numbers of the variables that get a gradient.
        adds_losses: Whether layers of the stage add losses of their own (regularisation).
    """

    phases: Phases
    again: Phases | None
    takes: tuple[Crossing, ...]
    gives: tuple[Crossing, ...]
    with_gradient: tuple[int, ...]
    adds_losses: bool


@dataclass
class _Seen:
    """What tracing finds inside the graph: tensors and operations of it."""

    forward: list[Any] = field(default_factory=list[Any])
    forward_operations: set[str] = field(default_factory=set[str])
    gives: list[Crossing] = field(default_factory=list[Crossing])
    arriving: list[Any] = field(default_factory=list[Any])
    backward: list[Any] = field(default_factory=list[Any])
    sets: list[Any] = field(default_factory=list[Any])
    adds: list[Any] = field(default_factory=list[Any])
    with_gradient: list[int] = field(default_factory=list[int])


def trace_stage(code: StageCode, takes: tuple[Crossing, ...], feed: Feed, own: list[Any]) -> Compiled:
    """Trace a stage.

    Args:
        code: The stage.
        takes: What crosses the boundary before it.
        feed: What its rank supplies, as an example.
        own: The feed's arrays as specifications.
    """
    seen = _Seen()

    def whole(*arguments: Any) -> Any:
        crossed, rest = list(arguments[: len(takes)]), list(arguments[len(takes) : -2])
        share, scale = arguments[-2:]
        variables = [variable.value for variable in code.layout.network.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = [tensor for tensor, crossing in zip(crossed, takes, strict=True) if crossing.has_gradient]
            tape.watch(sources)
            tape.watch(variables)
            outputs, loss, own_loss = _forward(code, takes, crossed, rest, feed, share, seen)
            total = loss + own_loss
        seen.forward_operations = {op.name for op in tf.compat.v1.get_default_graph().get_operations()}
        seen.forward = [*outputs, loss, own_loss]
        if code.training:
            _backward(code, tape, sources, variables, outputs, total, scale, seen)
        return [*seen.forward, *seen.backward]

    specs = [tf.TensorSpec(crossing.shape, crossing.dtype) for crossing in takes] + own
    signature = [*specs, tf.TensorSpec((), tf.float32), tf.TensorSpec((), tf.float32)]
    concrete = tf.function(whole, input_signature=signature, autograph=False).get_concrete_function()
    arguments = list(concrete.inputs[: len(signature)])
    return _cut(code, concrete, arguments, seen, takes)


def sum_of_losses(losses: Sequence[Any]) -> Any:
    """Losses that layers add, as Keras counts them: each summed up, whatever its shape and type."""
    return sum((tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in losses), tf.zeros(()))


def _cut(code: StageCode, concrete: Any, arguments: list[Any], seen: _Seen, takes: tuple[Crossing, ...]) -> Compiled:
    """The traced graph as phases."""
    effects = [op for op in concrete.graph.control_outputs if op.name in seen.forward_operations]
    again = None
    ends = {"first": seen.sets, "later": seen.adds}
    if code.training and not code.recompute:
        fetches, given = [seen.forward, seen.backward, []], [arguments, seen.arriving, []]
        phases = Phases(concrete, fetches, given, [effects, [], []], **ends, xla=code.xla)
    else:
        phases = Phases(concrete, [seen.forward], [arguments], [effects], xla=code.xla)
        if code.training:
            fetches, given = [seen.backward, []], [[*arguments, *seen.arriving], []]
            again = Phases(concrete, fetches, given, [effects, []], **ends, xla=code.xla)
    gives, with_gradient = tuple(seen.gives), tuple(seen.with_gradient)
    return Compiled(phases, again, takes, gives, with_gradient, bool(code.layout.network.losses))


def _forward(
    code: StageCode,
    takes: tuple[Crossing, ...],
    crossed: list[Any],
    rest: list[Any],
    feed: Feed,
    share: Any,
    seen: _Seen,
) -> tuple[list[Any], Any, Any]:
    """Run the network: what goes on, as it crosses, the loss, and the losses that layers of this stage add."""
    layout = code.layout
    values: dict[int, Any] = {}
    masks: dict[int, Any] = {}
    for tensor, crossing in zip(crossed, takes, strict=True):
        (masks if crossing.is_mask else values)[id(layout.takes[crossing.tensor])] = tensor
    for key, mask in masks.items():
        values[key]._keras_mask = mask
    inputs, targets = rest[: len(feed.inputs)], rest[len(feed.inputs) :]
    made = layout.network([values[id(tensor)] for tensor in layout.uses] + inputs, training=code.training)
    for tensor, value in zip(layout.makes, keras.tree.flatten(made), strict=True):
        values[id(tensor)] = value
    own_loss = sum_of_losses(layout.network.losses) * share
    if code.loss is not None:
        outputs = [values[id(tensor)] for tensor in layout.gives]
        labels, weights = targets[: len(feed.targets)], targets[len(feed.targets) :]
        loss = tf.cast(code.loss(labels, outputs, weights, share), tf.float32) * share if labels else tf.zeros(())
        return [tf.identity(value) for value in outputs], loss, own_loss
    outputs: list[Any] = []
    for number, tensor in enumerate(layout.gives):
        value = values[id(tensor)]
        mask = getattr(value, "_keras_mask", None)
        for item, is_mask in ((value, False), (mask, True)):
            if item is not None:
                outputs.append(tf.identity(item))
                seen.gives.append(Crossing(number, is_mask, tuple(item.shape.as_list()), item.dtype.name))
    return outputs, tf.zeros(()), own_loss


def _backward(
    code: StageCode,
    tape: Any,
    sources: list[Any],
    variables: list[Any],
    outputs: list[Any],
    loss: Any,
    scale: Any,
    seen: _Seen,
) -> None:
    """Gradients of what came over the boundary, and additions of gradients of weights."""
    goals: list[Any] = [loss]
    seeds: list[Any] = [scale]
    for output, crossing in zip(outputs, seen.gives, strict=False):
        if crossing.has_gradient:
            arriving = tf.compat.v1.placeholder(output.dtype, output.shape)
            seen.arriving.append(arriving)
            goals.append(output)
            seeds.append(arriving)
    found = tape.gradient(goals, [*sources, *variables], output_gradients=seeds)
    seen.backward = [
        tf.zeros_like(source) if gradient is None else tf.convert_to_tensor(gradient)
        for source, gradient in zip(sources, found[: len(sources)], strict=True)
    ]
    for number, gradient in enumerate(found[len(sources) :]):
        if gradient is not None:
            seen.with_gradient.append(number)
            _accumulate(code.gradients[number], gradient, seen)


def _accumulate(total: Any, gradient: Any, seen: _Seen) -> None:
    """Two ways for a gradient into its variable: a step's first micro-batch sets it, the others add to it."""
    if isinstance(gradient, tf.IndexedSlices):
        # Of an embedding: only the rows that the micro-batch read.
        cleared = total.assign(tf.zeros(total.shape, total.dtype), read_value=False)
        with tf.control_dependencies([cleared]):
            seen.sets.append(
                tf.raw_ops.ResourceScatterAdd(resource=total.handle, indices=gradient.indices, updates=gradient.values)
            )
        seen.adds.append(
            tf.raw_ops.ResourceScatterAdd(resource=total.handle, indices=gradient.indices, updates=gradient.values)
        )
        return
    tensor = tf.convert_to_tensor(gradient)
    seen.sets.append(total.assign(tensor, read_value=False))
    seen.adds.append(total.assign_add(tensor, read_value=False))
