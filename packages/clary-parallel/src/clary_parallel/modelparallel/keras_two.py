"""Calls of Keras 2 and of TensorFlow that scripts for SageMaker's library make, on Keras 3.

`install` adds what Keras 3 has no more (get_gradients, reset_states, variables(), schedules without a name), and lets
norms over all gradients count the gradients of all partitions.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clary_parallel.data import graph
from clary_parallel.frameworks import keras, tf
from clary_parallel.modelparallel import job, tracing
from clary_parallel.pipelining.update import one_after_another

_Optimizer: Any = keras.optimizers.Optimizer
_installed: list[bool] = []


class _Variables(list[Any]):
    """A list that may be called too, as Keras 2 had it: optimizer.variables()."""

    def __call__(self) -> _Variables:
        return self


def install() -> None:
    """Add the calls; once a process."""
    if _installed:
        return
    _installed.append(True)
    _Optimizer.get_gradients = get_gradients
    _Optimizer.compute_gradients = compute_gradients
    _make_callable()
    _let_apply_nothing()
    _clip_over_partitions()
    _agree_on_overflow()
    _let_schedules_have_no_name()
    keras.metrics.Metric.reset_states = _reset_states
    _tapes_of_steps()


def get_gradients(optimizer: Any, loss: Any, params: Sequence[Any]) -> list[Any]:
    """The gradients of a loss by variables; inside a step function over all stages of its model."""
    step = tracing.current()
    if step is not None and step.parts is not None:
        return step.gradients_of(loss, params)
    values = [item.value if isinstance(item, keras.Variable) else item for item in params]
    return list(tf.gradients(loss, values))


def compute_gradients(optimizer: Any, loss: Any, var_list: Sequence[Any], **options: Any) -> list[tuple[Any, Any]]:
    """Pairs of gradient and variable."""
    return list(zip(get_gradients(optimizer, loss, var_list), var_list, strict=True))


def _reset_states(metric: Any) -> None:
    metric.reset_state()


def _make_callable() -> None:
    plain: Any = _Optimizer.variables.fget

    def variables(optimizer: Any) -> _Variables:
        return _Variables(plain(optimizer))

    _Optimizer.variables = property(variables)


def _let_schedules_have_no_name() -> None:
    """In Keras 2 learning-rate schedules could be given name=None."""
    for schedule in vars(keras.optimizers.schedules).values():
        if isinstance(schedule, type) and "name" in inspect.signature(schedule).parameters:
            _name_by_default(schedule)


def _name_by_default(schedule: Any) -> None:
    plain: Any = schedule.__init__

    @functools.wraps(plain)
    def begin(self: Any, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **options)
        self.name = self.name or schedule.__name__

    schedule.__init__ = begin


def _let_apply_nothing() -> None:
    """A partition may have no weights: then its rank has nothing to apply."""
    plain: Any = _Optimizer.apply_gradients

    def apply_gradients(optimizer: Any, grads_and_vars: Any, *arguments: Any, **options: Any) -> Any:
        pairs = list(grads_and_vars)
        if pairs:
            return plain(optimizer, pairs, *arguments, **options)
        return optimizer.iterations.assign_add(1)

    _Optimizer.apply_gradients = apply_gradients


def _clip_over_partitions() -> None:
    """global_clipnorm of optimizers, tf.linalg.global_norm and tf.clip_by_global_norm count all partitions."""
    plain_norm: Any = tf.linalg.global_norm
    plain_clip: Any = tf.clip_by_global_norm

    def global_norm(t_list: Sequence[Any], name: str | None = None) -> Any:
        norm = plain_norm(t_list, name)
        return _over_partitions(norm) if _fit_this_part(t_list) else norm

    def clip_by_global_norm(
        t_list: Sequence[Any], clip_norm: Any, use_norm: Any = None, name: str | None = None
    ) -> Any:
        norm = global_norm(t_list) if use_norm is None else use_norm
        return plain_clip(t_list, clip_norm, norm, name)

    tf.linalg.global_norm = global_norm
    tf.clip_by_global_norm = clip_by_global_norm
    plain_apply: Any = _Optimizer.apply

    def apply(optimizer: Any, grads: Sequence[Any], trainable_variables: Any = None) -> Any:
        if not _fit_this_part(grads):
            return plain_apply(optimizer, grads, trainable_variables)
        limit, factor = optimizer.global_clipnorm, None
        if limit:
            norm = global_norm(list(grads))
            factor = limit / tf.maximum(norm, tf.cast(limit, norm.dtype))
            if optimizer.gradient_accumulation_steps or tf.executing_eagerly():
                grads, factor = [None if item is None else item * tf.cast(factor, item.dtype) for item in grads], None
        optimizer.global_clipnorm = None
        try:
            # In eager code each update ends before the next begins.
            with contextlib.nullcontext() if tf.executing_eagerly() else one_after_another(optimizer, factor):
                return plain_apply(optimizer, grads, trainable_variables)
        finally:
            optimizer.global_clipnorm = limit

    _Optimizer.apply = apply


def _agree_on_overflow() -> None:
    """LossScaleOptimizer skips a step whose gradients are not finite: on all ranks, if on one."""
    scaling: Any = keras.optimizers.LossScaleOptimizer
    plain: Any = scaling.apply

    def apply(optimizer: Any, grads: Sequence[Any], trainable_variables: Any = None) -> Any:
        if _fit_this_part(grads):
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(item)) for item in grads if item is not None])
            everywhere = tf.equal(_over_partitions(tf.cast(tf.logical_not(finite), tf.float32)), 0.0)
            grads = [
                None if item is None else tf.where(everywhere, item, tf.constant(math.nan, item.dtype))
                for item in grads
            ]
        return plain(optimizer, grads, trainable_variables)

    scaling.apply = apply


def _fit_this_part(tensors: Sequence[Any]) -> bool:
    """Whether tensors are, one by one, of the shapes of this rank's trainable variables of a parted model."""
    from clary_parallel.modelparallel.model import parted_models

    if job.current().model.size == 1:
        return False
    shapes = [None if item is None else tuple(item.shape) for item in tensors]
    return any(shapes == [tuple(item.shape) for item in model.trainable_variables] for model in parted_models())


def _over_partitions(norm: Any) -> Any:
    ranks = job.current().model

    def add_up(square: Any) -> Any:
        total = np.array([square], np.float64)
        ranks.allreduce(total)
        return np.float32(total[0])

    (total,) = graph.collective(add_up, [tf.square(tf.cast(norm, tf.float32))], [tf.float32])
    total.set_shape(())
    return tf.cast(tf.sqrt(total), norm.dtype)


def _tapes_of_steps() -> None:
    """A tape inside a step function differentiates over all stages, as get_gradients does."""
    plain: Any = tf.GradientTape.gradient

    def gradient(tape: Any, target: Any, sources: Any, *arguments: Any, **options: Any) -> Any:
        step = tracing.current()
        flat = keras.tree.flatten(sources)
        parts = None if step is None else step.parts
        if step is None or parts is None or not any(step.knows(item) for item in flat):
            return plain(tape, target, sources, *arguments, **options)
        if arguments or options.get("output_gradients") is not None:
            raise tracing.StepError("A tape inside @smp.step takes no output_gradients: multiply the loss instead.")
        return keras.tree.pack_sequence_as(sources, step.gradients_of(target, flat))

    tf.GradientTape.gradient = gradient
