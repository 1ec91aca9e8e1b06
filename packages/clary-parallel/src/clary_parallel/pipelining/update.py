"""From a step's gradients to new weights: replicas' mean, loss scaling, clipping over all stages, the optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from clary_parallel.transport import Transport


class Update:
    """Applies the gradients of this rank's stages. Collective over the pipeline's ranks and its replicas.

    Args:
        optimizer: Keras's, built for the whole model; a `LossScaleOptimizer` is taken apart.
        variables: This rank's variables that get gradients, as Keras's.
        gradients: A variable with the gradient of each.
        transport: The pipeline's ranks.
        replicas: This rank and its likes in other replicas, if there are any.
        clip_norm: Largest norm of all stages' gradients together.
    """

    def __init__(
        self,
        optimizer: Any,
        variables: Sequence[Any],
        gradients: Sequence[Any],
        transport: Transport,
        replicas: Transport | None,
        clip_norm: float | None,
    ) -> None:
        self._optimizer, self._transport, self._replicas = optimizer, transport, replicas
        self._gradients, self._clip_norm = list(gradients), clip_norm
        self._scales = scales_losses(optimizer)
        inner = optimizer.inner_optimizer if self._scales else optimizer
        self._scaled_by_hand = float(getattr(inner, "loss_scale_factor", None) or 1.0)

        def apply() -> None:
            with one_after_another(inner):
                inner.apply([item.value() for item in self._gradients], list(variables))

        def apply_scaled(factor: Any) -> None:
            if inner.clipnorm or inner.clipvalue or inner.gradient_accumulation_steps:
                # What the optimizer does with each gradient first, it does with the scaled one.
                scaled = [item * tf.cast(factor, item.dtype) for item in self._gradients]
                inner.apply(scaled, list(variables))
                return
            with one_after_another(inner, factor):
                inner.apply([item.value() for item in self._gradients], list(variables))

        def squares() -> Any:
            return tf.add_n([tf.reduce_sum(tf.square(tf.cast(item, tf.float32))) for item in self._gradients])

        self._apply = tf.function(apply, autograph=False)
        self._apply_scaled = tf.function(apply_scaled, autograph=False)
        self._squares = tf.function(squares, autograph=False)

    def __call__(self) -> bool:
        """Change the weights; False if the step was left out because its gradients overflowed."""
        if self._replicas is not None:
            _average(self._gradients, self._replicas)
        factor = 1.0
        if self._scales or self._clip_norm is not None:
            squares = np.array([float(self._squares()) if self._gradients else 0.0])
            self._transport.allreduce(squares)
            if self._scales:
                factor = 1.0 / float(self._optimizer.dynamic_scale)
                self._adapt_scale(bool(np.isfinite(squares[0])))
                if not np.isfinite(squares[0]):
                    return False
            if self._clip_norm is not None:
                norm = float(np.sqrt(squares[0])) * factor / self._scaled_by_hand
                factor *= self._clip_norm / max(norm, self._clip_norm)
        if not self._gradients:
            return True
        if factor == 1.0:
            self._apply()
        else:
            self._apply_scaled(tf.constant(np.float32(factor)))
        return True

    def _adapt_scale(self, finite: bool) -> None:
        """Halve the scale when gradients overflow; double it after a long time in which they did not."""
        optimizer = self._optimizer
        if finite and int(optimizer.step_counter) < optimizer.dynamic_growth_steps - 1:
            optimizer.step_counter.assign(int(optimizer.step_counter) + 1)
            return
        optimizer.step_counter.assign(0)
        optimizer.dynamic_scale.assign(float(optimizer.dynamic_scale) * (2.0 if finite else 0.5))


def scales_losses(optimizer: Any) -> bool:
    """Whether an optimizer scales losses by a number that adapts (Keras's `LossScaleOptimizer`)."""
    return hasattr(optimizer, "inner_optimizer")


def loss_scale(optimizer: Any) -> float:
    """What gradients must be multiplied with for an optimizer that is built."""
    if scales_losses(optimizer):
        return float(optimizer.dynamic_scale)
    return float(getattr(optimizer, "loss_scale_factor", None) or 1.0)


@contextlib.contextmanager
def one_after_another(optimizer: Any, factor: Any = None) -> Generator[None]:
    """Inside a traced function: each variable's update waits for the one before, and its gradient is scaled only then.

    Otherwise TensorFlow may begin all updates at once, and hold as many temporary copies as there are weights.
    """
    ordinary = optimizer.update_step
    before: list[Any] = []

    def update_step(gradient: Any, variable: Any, *arguments: Any, **options: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        with tf.control_dependencies(before):
            gradient = tf.identity(gradient) if factor is None else gradient * tf.cast(factor, gradient.dtype)
        known = len(graph.get_operations())
        result = ordinary(gradient, variable, *arguments, **options)
        before[:] = [op for op in graph.get_operations()[known:] if op.type.startswith("Assign")]
        return result

    optimizer.update_step = update_step
    try:
        yield
    finally:
        del optimizer.update_step


def _average(gradients: Sequence[Any], replicas: Transport) -> None:
    """The mean of the replicas' gradients, in one buffer."""
    if not gradients:
        return
    arrays = [np.asarray(item) for item in gradients]
    buffer = np.concatenate([array.ravel().astype(np.float32, copy=False) for array in arrays])
    replicas.allreduce(buffer)
    buffer /= replicas.size
    start = 0
    for item, array in zip(gradients, arrays, strict=True):
        item.assign(buffer[start : start + array.size].reshape(array.shape).astype(array.dtype, copy=False))
        start += array.size
