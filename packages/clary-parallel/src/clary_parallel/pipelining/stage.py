"""A stage as compiled TensorFlow functions: forward, backward and gradients of weights for one micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np
import tensorflow as tf

from clary_parallel.pipelining.layout import StageLayout
from clary_parallel.pipelining.phases import Phases
from clary_parallel.schedule.execute import Arrays, Spec

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


@dataclass(frozen=True)
class Compiled:
    """A stage's functions for one size of micro-batch.

    Args:
        phases: Forward, backward (of training, in one or two phases).
        fused: All phases as one; for the last stage of training.
        again: The backward when it computes the forward again.
        takes: What crosses the boundary before the stage.
        gives: What crosses the boundary after it.
        with_gradient: Numbers of the variables that get a gradient.
        adds_losses: Whether layers of the stage add losses of their own (regularisation).
    """

    phases: Phases
    fused: Phases | None
    again: Phases | None
    takes: tuple[Crossing, ...]
    gives: tuple[Crossing, ...]
    with_gradient: tuple[int, ...]
    adds_losses: bool


@dataclass
class Feed:
    """What a rank supplies itself to a stage for one micro-batch.

    Args:
        inputs: Arrays of the model's inputs that the stage reads.
        targets: Flat targets, on the last stage.
        sample_weights: Flat sample weights, on the last stage.
        share: The micro-batch's share of the batch, by which its loss counts.
    """

    inputs: list[Any]
    targets: list[Any]
    sample_weights: list[Any]
    share: float


@dataclass
class Results:
    """What a step leaves on a stage, by micro-batch."""

    outputs: dict[int, list[Any]] = field(default_factory=dict[int, list[Any]])
    losses: dict[int, Any] = field(default_factory=dict[int, Any])
    own_losses: dict[int, Any] = field(default_factory=dict[int, Any])


class Stage:
    """The compiled functions, accumulated gradients and per-step state of one stage; a `StageProgram`.

    Args:
        layout: The stage.
        loss: The loss of the model's outputs, on the last stage.
        training: Whether there are backwards.
        split: Whether gradients of weights are a phase of their own.
        gradients: One variable for each trainable variable of the stage, in which gradients of micro-batches add up.
        recompute: Whether the backward computes the forward again instead of taking its intermediate results.
    """

    def __init__(
        self,
        layout: StageLayout,
        loss: LossFunction | None,
        training: bool,
        split: bool,
        gradients: Sequence[Any],
        recompute: bool,
    ) -> None:
        self.layout, self.loss, self.training, self.split = layout, loss, training, split
        self.variables = [variable.value for variable in layout.network.trainable_variables]
        self.gradients = gradients
        self.recompute = recompute and training
        self._state = [variable.value for variable in layout.network.non_trainable_variables]
        self.feeds: list[Feed] = []
        self.results = Results()
        self._compiled: dict[Any, Compiled] = {}
        self._current: list[Compiled] = []
        self._saved: dict[int, dict[str, Any]] = {}
        self._begun: dict[int, tuple[list[Any], list[Any]]] = {}

    def begin(self, feeds: list[Feed], compiled: list[Compiled]) -> None:
        """Begin a step with what this rank supplies for each micro-batch."""
        self.feeds, self._current = feeds, compiled
        self.results, self._saved, self._begun = Results(), {}, {}

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
        if self.recompute:
            self._begun[microbatch] = arguments, [tf.identity(variable) for variable in self._state]
        fetched = self._current[microbatch].phases.call(0, arguments, saved)
        return self._keep(microbatch, fetched)

    def backward(self, microbatch: int, gradients: Arrays) -> Arrays:
        """See `StageProgram`."""
        saved = self._saved[microbatch]
        arriving = [tf.convert_to_tensor(item) for item in gradients]
        again = self._current[microbatch].again
        if again is None:
            fetched = self._current[microbatch].phases.call(1, arriving, saved)
        else:
            fetched = self._again(again, microbatch, arriving, saved)
        if not self.split:
            del self._saved[microbatch]
        return [_array(tensor) for tensor in fetched]

    def weight(self, microbatch: int) -> None:
        """See `StageProgram`."""
        current = self._current[microbatch]
        phases, number = (current.phases, 2) if current.again is None else (current.again, 1)
        phases.call(number, [], self._saved.pop(microbatch))

    def forward_and_backward(self, microbatch: int, inputs: Arrays) -> Arrays:
        """See `StageProgram`."""
        fused = self._current[microbatch].fused
        if fused is None:
            self.forward(microbatch, inputs)
            return self.backward(microbatch, ())
        fetched = fused.call(0, self._arguments(microbatch, inputs), {})
        sent_back = sum(crossing.has_gradient for crossing in self._current[microbatch].takes)
        self._keep(microbatch, fetched[: len(fetched) - sent_back])
        return [_array(tensor) for tensor in fetched[len(fetched) - sent_back :]]

    def compile(self, takes: tuple[Crossing, ...], feed: Feed) -> Compiled:
        """The stage's functions for what crosses the boundary before it and what its rank supplies: traced once."""
        own = [_spec(item) for item in (*feed.inputs, *feed.targets, *feed.sample_weights)]
        key = (takes, tuple((tuple(spec.shape), spec.dtype.name) for spec in own))
        if key not in self._compiled:
            self._compiled[key] = self._trace(takes, feed, own)
        return self._compiled[key]

    def _again(self, again: Phases, microbatch: int, arriving: list[Any], saved: dict[str, Any]) -> list[Any]:
        """Forward and backward from where the forward began: the same dropout, and running means as they are now."""
        arguments, begun = self._begun.pop(microbatch)
        now = [tf.identity(variable) for variable in self._state]
        for variable, value in zip(self._state, begun, strict=True):
            variable.assign(value)
        fetched = again.call(0, [*arguments, *arriving], saved)
        for variable, value in zip(self._state, now, strict=True):
            variable.assign(value)
        return fetched

    def _arguments(self, microbatch: int, inputs: Arrays) -> list[Any]:
        feed = self.feeds[microbatch]
        own = [*feed.inputs, *feed.targets, *feed.sample_weights, np.float32(feed.share)]
        return [tf.convert_to_tensor(item) for item in (*inputs, *own)]

    def _keep(self, microbatch: int, fetched: list[Any]) -> Arrays:
        """Keep the losses (and the model's outputs, on the last stage); return what is sent on."""
        outputs, loss, own_loss = fetched[:-2], fetched[-2], fetched[-1]
        self.results.losses[microbatch], self.results.own_losses[microbatch] = loss, own_loss
        if self.loss is not None:
            self.results.outputs[microbatch] = outputs
            return ()
        return [_array(tensor) for tensor in outputs]

    def _trace(self, takes: tuple[Crossing, ...], feed: Feed, own: list[Any]) -> Compiled:
        seen: dict[str, Any] = {}

        def whole(*arguments: Any) -> Any:
            crossed, rest = list(arguments[: len(takes)]), list(arguments[len(takes) : -1])
            share = arguments[-1]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                sources = [tensor for tensor, crossing in zip(crossed, takes, strict=True) if crossing.has_gradient]
                tape.watch(sources)
                tape.watch(self.variables)
                outputs, gives, loss, own_loss = self._forward(takes, crossed, rest, feed, share)
                total = loss + own_loss
            seen["forward"] = {op.name for op in tf.compat.v1.get_default_graph().get_operations()}
            seen["fetches"] = [[*outputs, loss, own_loss]]
            seen["gives"], seen["arriving"], seen["adds"], seen["with_gradient"] = gives, [], [], []
            if self.training:
                self._backward(tape, sources, outputs, gives, total, seen)
            return [tensor for fetch in seen["fetches"] for tensor in fetch]

        specs = [tf.TensorSpec(crossing.shape, crossing.dtype) for crossing in takes] + own
        signature = [*specs, tf.TensorSpec((), tf.float32)]
        concrete = tf.function(whole, input_signature=signature, autograph=False).get_concrete_function()
        effects = [op for op in concrete.graph.control_outputs if op.name in seen["forward"]]
        arguments = list(concrete.inputs[: len(specs) + 1])
        forward, fused, again = seen["fetches"][0], None, None
        # Of inference, and of a forward that keeps nothing, this is all.
        phases = Phases(concrete, [forward], [arguments], [effects])
        if self.training:
            back = seen["fetches"][1]
            if self.loss is not None and not self.split:
                fused = Phases(concrete, [[*forward, *back]], [arguments], [[*effects, *seen["adds"]]])
            # Gradients of weights are added with the backward, or in a phase of their own.
            fetches, adds = ([back, []], [[], seen["adds"]]) if self.split else ([back], [seen["adds"]])
            free = [[]] if self.split else []
            if self.recompute:
                both = [[*arguments, *seen["arriving"]], *free]
                again = Phases(concrete, fetches, both, [[*effects, *adds[0]], *adds[1:]])
            else:
                phases = Phases(concrete, [forward, *fetches], [arguments, seen["arriving"], *free], [effects, *adds])
        gives, with_gradient = tuple(seen["gives"]), tuple(seen["with_gradient"])
        return Compiled(phases, fused, again, takes, gives, with_gradient, bool(self.layout.network.losses))

    def _forward(
        self, takes: tuple[Crossing, ...], crossed: list[Any], rest: list[Any], feed: Feed, share: Any
    ) -> tuple[list[Any], list[Crossing], Any, Any]:
        """Run the network: what goes on, as it crosses, the loss, and the losses that layers of this stage add."""
        layout = self.layout
        values: dict[int, Any] = {}
        masks: dict[int, Any] = {}
        for tensor, crossing in zip(crossed, takes, strict=True):
            (masks if crossing.is_mask else values)[id(layout.takes[crossing.tensor])] = tensor
        for key, mask in masks.items():
            values[key]._keras_mask = mask
        inputs, targets = rest[: len(feed.inputs)], rest[len(feed.inputs) :]
        made = layout.network([values[id(tensor)] for tensor in layout.uses] + inputs, training=self.training)
        for tensor, value in zip(layout.makes, keras.tree.flatten(made), strict=True):
            values[id(tensor)] = value
        added = layout.network.losses
        own_loss = tf.cast(tf.add_n(added), tf.float32) * share if added else tf.zeros(())
        if self.loss is not None:
            outputs = [values[id(tensor)] for tensor in layout.gives]
            labels, weights = targets[: len(feed.targets)], targets[len(feed.targets) :]
            loss = tf.cast(self.loss(labels, outputs, weights, share), tf.float32) * share if labels else tf.zeros(())
            return [tf.identity(value) for value in outputs], [], loss, own_loss
        outputs: list[Any] = []
        gives: list[Crossing] = []
        for number, tensor in enumerate(layout.gives):
            value = values[id(tensor)]
            mask = getattr(value, "_keras_mask", None)
            for item, is_mask in ((value, False), (mask, True)):
                if item is not None:
                    outputs.append(tf.identity(item))
                    gives.append(Crossing(number, is_mask, tuple(item.shape.as_list()), item.dtype.name))
        return outputs, gives, tf.zeros(()), own_loss

    def _backward(
        self, tape: Any, sources: list[Any], outputs: list[Any], gives: list[Crossing], loss: Any, seen: dict[str, Any]
    ) -> None:
        """Gradients of what came over the boundary, and additions of gradients of weights."""
        goals: list[Any] = [loss]
        seeds: list[Any] = [tf.ones(())]
        for output, crossing in zip(outputs, gives, strict=False):
            if crossing.has_gradient:
                arriving = tf.compat.v1.placeholder(output.dtype, output.shape)
                seen["arriving"].append(arriving)
                goals.append(output)
                seeds.append(arriving)
        found = tape.gradient(goals, [*sources, *self.variables], output_gradients=seeds)
        back = [
            tf.zeros_like(source) if gradient is None else tf.convert_to_tensor(gradient)
            for source, gradient in zip(sources, found[: len(sources)], strict=True)
        ]
        seen["fetches"].append(back)
        for number, gradient in enumerate(found[len(sources) :]):
            if gradient is not None:
                seen["with_gradient"].append(number)
                seen["adds"].append(self.gradients[number].assign_add(tf.convert_to_tensor(gradient), read_value=False))


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor's memory as an array, without a copy where the framework allows it."""
    try:
        return np.ascontiguousarray(np.asarray(memoryview(tensor)))
    except (TypeError, ValueError, BufferError):
        return np.ascontiguousarray(tensor.numpy())


def _spec(item: Any) -> Any:
    return tf.TensorSpec(item.shape, item.dtype)
