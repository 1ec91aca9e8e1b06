"""A step function while TensorFlow traces it: the model's call, and the gradients that it asks for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from clary_parallel.frameworks import keras, tf
from clary_parallel.modelparallel.calls import Call, Slot
from clary_parallel.modelparallel.copies import copy_of
from clary_parallel.modelparallel.parts import Parts, Way
from clary_parallel.pipelining import held

_thread = threading.local()


class StepError(ValueError):
    """A step function that cannot be run in stages; the message says what stands in the way, and the way out."""


class Tracing:
    """A step function being traced: the model's call and the gradients that were asked for."""

    def __init__(self, graph: Any, microbatch: int | None) -> None:
        self.graph, self.microbatch = graph, microbatch
        self.parts: Parts | None = None
        self.way: Way | None = None
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.losses: Any = None
        self.loss: Any = None
        self.seeds: list[Any] = []
        self.gradients: list[tuple[Any, Any]] = []
        self.direct: list[tuple[int, Any]] = []

    def call(self, parts: Parts, arguments: Any, options: Any, training: bool) -> Any:
        """The model's call: its inputs are noted, its outputs are placeholders."""
        if self.parts is not None:
            raise StepError(
                "A function under @smp.step may call its smp.DistributedModel once, and this one does so twice. Make "
                "one call on joined inputs (tf.concat), or put both calls into the model's own call."
            )
        if tf.compat.v1.get_default_graph() is not self.graph:
            raise StepError(
                "The smp.DistributedModel is called inside a tf.cond, a loop over tensors or another tf.function. Call "
                "it in the body of the function under @smp.step."
            )
        tensors: list[Any] = []

        def slot(item: Any) -> Any:
            if not is_tensor(item):
                return item
            tensors.append(_as_input(item, parts.model))
            return Slot(len(tensors) - 1)

        structure = keras.tree.map_structure(slot, (arguments, options))
        if not tensors:
            raise StepError("The smp.DistributedModel is called without a tensor. Give it the step's inputs.")
        specs = tuple((tuple(tensor.shape.as_list()), tensor.dtype.name) for tensor in tensors)
        with tf.init_scope(), held.fetching(None):
            way = parts.way(Call(structure, specs, training, self.microbatch))
        self.parts, self.way = parts, way
        self.inputs = [tf.identity(tensors[number]) for number in way.order]
        for tensor in keras.tree.flatten(way.traced.structure):
            shape = list(tensor.shape)
            if shape and shape[0] is None:
                shape[0] = self.microbatch
            self.outputs.append(tf.compat.v1.placeholder(tensor.dtype, shape))
        return keras.tree.pack_sequence_as(way.traced.structure, self.outputs)

    def added_losses(self) -> Any:
        """The sum of the losses that the model's layers add: one more output of the model, the last one."""
        if self.losses is None:
            assert self.way is not None
            self.way = self.way.with_losses()
            with self.graph.as_default():
                self.losses = tf.compat.v1.placeholder(tf.float32, ())
            self.outputs.append(self.losses)
        return self.losses

    def knows(self, variable: Any) -> bool:
        """Whether a variable is of the model that is called here."""
        return self.parts is not None and _tracked(variable, self.parts) is not None

    def gradients_of(self, loss: Any, variables: Sequence[Any]) -> list[Any]:
        """Gradients of a loss: placeholders for the model's variables, ordinary gradients for others."""
        if self.parts is None:
            raise StepError("Gradients are asked for before the smp.DistributedModel is called.")
        loss = tf.convert_to_tensor(loss)
        if self.loss is None:
            self.loss = loss
            self.seeds = tf.gradients(tf.reduce_sum(loss), self.outputs, unconnected_gradients="none")
            if all(seed is None for seed in self.seeds):
                raise StepError("The loss does not depend on the outputs of the smp.DistributedModel.")
        elif self.loss is not loss:
            raise StepError(
                "A function under @smp.step may ask for the gradients of one loss. Add the losses up, or write a step "
                "for each."
            )
        return [self._gradient_of(variable) for variable in variables]

    def _gradient_of(self, variable: Any) -> Any:
        assert self.parts is not None
        known = _tracked(variable, self.parts)
        if known is not None and self.parts.owner(known) != self.parts.job.model.rank:
            return None
        handle = value_of(variable)
        around = tf.gradients(tf.reduce_sum(self.loss), handle)[0]
        if known is None:
            if tf.gradients(self.inputs, handle)[0] is not None:
                raise StepError(
                    f"Variable {variable.name!r} is no part of the smp.DistributedModel, and its inputs depend on it. "
                    "Put it into a layer of the model."
                )
            return None if around is None else tf.convert_to_tensor(around)
        for kept, placeholder in self.gradients:
            if kept is known:
                return placeholder
        placeholder = tf.compat.v1.placeholder(known.dtype, known.shape)
        if around is not None:
            self.direct.append((len(self.gradients), tf.convert_to_tensor(around)))
        self.gradients.append((known, placeholder))
        return placeholder


def current() -> Tracing | None:
    """The step function that is being traced on this thread."""
    tracing: Tracing | None = getattr(_thread, "tracing", None)
    return tracing


@contextlib.contextmanager
def traced(tracing: Tracing) -> Generator[None]:
    """Make a tracing the current one of this thread inside the block."""
    before = getattr(_thread, "tracing", None)
    _thread.tracing = tracing
    try:
        # What the function reads of other ranks' variables, outside the model's call, are copies.
        with held.fetching(copy_of):
            yield
    finally:
        _thread.tracing = before


def _as_input(item: Any, model: Any) -> Any:
    """A tensor as the model gets it: floats in the type in which it computes, as Keras casts them."""
    tensor = tf.convert_to_tensor(value_of(item))
    wanted = getattr(getattr(model, "user", model), "compute_dtype", None)
    if wanted and tensor.dtype.is_floating and tensor.dtype.name != wanted:
        return tf.cast(tensor, wanted)
    return tensor


def _tracked(variable: Any, parts: Parts) -> Any:
    """The Keras variable of the model behind a variable that a user names; None if it is no part of the model."""
    for known, _ in parts.all_variables():
        if known is variable or (not held.is_absent(known) and known.value is variable):
            return known
    return None


def value_of(variable: Any) -> Any:
    """TensorFlow's variable of a Keras variable; anything else as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def is_tensor(item: Any) -> bool:
    """Whether something is a tensor, a variable or an array."""
    return tf.is_tensor(item) or isinstance(item, tf.Variable | keras.Variable | np.ndarray)
