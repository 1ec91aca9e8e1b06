"""An optimizer whose gradients are averaged over the ranks before they are applied."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from clary_parallel.data import sharded_state
from clary_parallel.data.compression import Compression, Compressor
from clary_parallel.data.gradients import GradientReducer, variable_name
from clary_parallel.errors import NotOffered
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import paired

Tensor = Any


def DistributedOptimizer(  # noqa: N802 (the name that the field uses)
    optimizer: Any,
    *,
    compression: type[Compressor] = Compression.none,
    accumulate: int = 1,
    bucket_bytes: int | None = None,
    sparse_as_dense: bool = False,
    check_finite: bool = False,
) -> Any:
    """Make a Keras optimizer average its gradients over the ranks, for loops of your own; returns the same object.

    The settings are those of `data_parallel`, which does this by itself.
    """
    reducer = GradientReducer(compression, bucket_bytes, sparse_as_dense, check_finite=check_finite)
    return distribute(optimizer, reducer, accumulate)


def distribute(
    optimizer: Any, reducer: GradientReducer, accumulate: int = 1, *, add_up: bool = False, share_state: bool = False
) -> Any:
    """Make a Keras optimizer average its gradients over the ranks; returns the same object.

    Averaging comes first, so clipping and loss scaling see the mean, as they would in one process. The class stays the
    optimizer's own, so models are saved and loaded as ever.

    Args:
        optimizer: of Keras 3, of legacy Keras (tf_keras), or of TensorFlow 1 (tf.compat.v1.train).
        accumulate: exchange and apply only at each accumulate-th call.
        add_up: apply the sum of the accumulated calls' gradients instead of their mean.
        share_state: each rank keeps its share of the state (`sharded_state`); Keras 3 only.
    """
    if isinstance(optimizer, tf.compat.v1.train.Optimizer):
        if accumulate > 1 or share_state:
            raise NotOffered("Optimizers of tf.compat.v1.train exchange gradients at each step: use a Keras optimizer.")
        _distribute_session(optimizer, reducer)
        return optimizer
    if accumulate < 1:
        raise ValueError(f"Gradients are accumulated over 1 call or more. Received: {accumulate}")
    if getattr(optimizer, "_clary_reducer", None) is not None:
        raise ValueError("This optimizer is distributed already: wrap it once, or let data_parallel(model) do it.")
    update = sharded_state.shard(optimizer) if share_state else None
    optimizer._clary_reducer = reducer
    optimizer._clary_again = functools.partial(distribute, reducer=reducer, accumulate=accumulate, add_up=add_up)
    accumulator = _Accumulator(reducer, accumulate, accumulate if add_up else 1) if accumulate > 1 else None
    if hasattr(optimizer, "apply"):
        _distribute_keras3(optimizer, reducer, accumulator, update or optimizer.apply)
    else:
        _distribute_legacy(optimizer, reducer, accumulator)
    return optimizer


def lift(outer: Any) -> None:
    """Let an optimizer that scales losses average gradients in place of the distributed one inside it.

    It looks whether gradients are finite; were they averaged after that, ranks could differ in what they do.
    """
    inner: Any = getattr(outer, "inner_optimizer", None)
    if getattr(inner, "_clary_reducer", None) is None or getattr(outer, "_clary_reducer", None) is not None:
        return
    again = inner._clary_again
    for name in ("apply", "apply_gradients"):
        inner.__dict__.pop(name, None)
    inner._clary_reducer = None
    again(outer)


def _distribute_keras3(
    optimizer: Any, reducer: GradientReducer, accumulator: _Accumulator | None, update: sharded_state.Update
) -> None:
    def apply(grads: Sequence[Tensor], trainable_variables: Any = None) -> None:
        variables = optimizer._trainable_variables if trainable_variables is None else list(trainable_variables)
        names = [variable_name(variable) for variable in variables]
        if accumulator is None:
            update(reducer.reduce(grads, names), variables)
            return
        if not optimizer.built:
            with tf.init_scope():
                optimizer.build(variables)
        accumulator.step(grads, names, lambda means: update(means, variables))

    optimizer.apply = apply


def _distribute_legacy(optimizer: Any, reducer: GradientReducer, accumulator: _Accumulator | None) -> None:
    original = optimizer.apply_gradients

    def apply_gradients(grads_and_vars: Any, *arguments: Any, **named: Any) -> Any:
        pairs = [(gradient, variable) for gradient, variable in grads_and_vars]
        names = [variable_name(variable) for _, variable in pairs]
        gradients = [gradient for gradient, _ in pairs]

        def apply(means: Sequence[Tensor]) -> Any:
            return original([(mean, variable) for mean, (_, variable) in paired(means, pairs)], *arguments, **named)

        if accumulator is None:
            return apply(reducer.reduce(gradients, names))
        if hasattr(optimizer, "build"):
            with tf.init_scope():
                optimizer.build([variable for _, variable in pairs])
        accumulator.step(gradients, names, apply)
        return optimizer.iterations

    optimizer.apply_gradients = apply_gradients


def _distribute_session(optimizer: Any, reducer: GradientReducer) -> None:
    original = optimizer.compute_gradients

    def compute_gradients(*arguments: Any, **named: Any) -> Any:
        pairs = original(*arguments, **named)
        names = [variable_name(variable) for _, variable in pairs]
        means = reducer.reduce([gradient for gradient, _ in pairs], names)
        return [(mean, variable) for mean, (_, variable) in paired(means, pairs)]

    optimizer.compute_gradients = compute_gradients


class _Accumulator:
    """Adds up weighted gradients over some calls, then exchanges and applies their mean."""

    def __init__(self, reducer: GradientReducer, calls: int, factor: int) -> None:
        self._reducer = reducer
        self._calls = calls
        self._factor = factor
        self._sums: list[Any] = []
        self._weight: Any = None
        self._count: Any = None

    def step(self, gradients: Sequence[Tensor | None], names: Sequence[str], apply: Callable[[list[Any]], Any]) -> None:
        """Add one call's gradients; at the last call of a round, apply."""
        present = [index for index, gradient in enumerate(gradients) if gradient is not None]
        dense = [tf.convert_to_tensor(gradients[index]) for index in present]
        self._create(dense)
        weight = self._reducer.weight_now()
        adds = [
            total.assign_add(gradient * tf.cast(weight, gradient.dtype))
            for total, gradient in paired(self._sums, dense)
        ]
        with tf.control_dependencies([*adds, self._weight.assign_add(weight)]):
            count = self._count.assign_add(1)

        def finish() -> None:
            total = self._weight.read_value()
            divisor = (total if self._reducer.average else float(self._calls)) / self._factor
            means: list[Any] = [None] * len(gradients)
            for index, summed in paired(present, self._sums):
                means[index] = summed.read_value() / tf.cast(divisor, summed.dtype)
            apply(self._reducer.reduce(means, names, total))
            for variable in (*self._sums, self._weight, self._count):
                variable.assign(tf.zeros_like(variable))

        with tf.control_dependencies([count]):
            if tf.executing_eagerly():
                if int(count) >= self._calls:
                    finish()
            else:
                tf.cond(count >= self._calls, lambda: _done(finish), lambda: tf.constant(False))

    def _create(self, gradients: Sequence[Tensor]) -> None:
        if self._count is None:
            with tf.init_scope():
                self._sums = [
                    tf.Variable(tf.zeros(gradient.shape, gradient.dtype), trainable=False) for gradient in gradients
                ]
                self._weight = tf.Variable(0.0, trainable=False)
                self._count = tf.Variable(0, trainable=False)


def _done(action: Callable[[], None]) -> Tensor:
    action()
    return tf.constant(True)
