"""Averaging gradients: which travel together, in which form, with which weight."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clary_parallel.data import device_exchange, graph, world
from clary_parallel.data.compression import Compression, Compressor
from clary_parallel.data.fusion import plan
from clary_parallel.errors import NonFiniteGradient
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import paired

Tensor = Any


def default_bucket_bytes() -> int:
    """Buckets of 16 MiB where a second core can exchange one while the next is computed; else one bucket.

    Measured: with one core a rank, overlapping gains nothing, because waiting for a peer takes the core.
    """
    return 16 << 20 if len(os.sched_getaffinity(0)) > world.local_size() else 1 << 40


@dataclass
class GradientReducer:
    """How gradients are averaged over the ranks.

    compression: what they are turned into on the way (`Compression.none`, `.fp16`, `.bf16`).
    bucket_bytes: how large a bucket may be; None for `default_bucket_bytes`. A bucket is exchanged as soon as its
        gradients are computed, while the backward pass goes on.
    sparse_as_dense: turn IndexedSlices (gradients of embeddings) into dense tensors instead of gathering their rows.
    average: mean over ranks (weighted, see `weight`), or sum.
    check_finite: raise NonFiniteGradient, naming variables and ranks, when a result is NaN or infinite.
    weight: a function that returns this rank's weight in the mean (such as its number of samples); None: equal.
    """

    compression: type[Compressor] = Compression.none
    bucket_bytes: int | None = None
    sparse_as_dense: bool = False
    average: bool = True
    check_finite: bool = False
    weight: Callable[[], Tensor | None] | None = None

    def weight_now(self) -> Tensor:
        """This rank's weight in the mean, a scalar tensor."""
        weight = self.weight() if self.weight is not None else None
        return tf.constant(1.0) if weight is None else tf.cast(weight, tf.float32)

    def reduce(
        self, gradients: Sequence[Tensor | None], names: Sequence[str] | None = None, weight: Tensor | None = None
    ) -> list[Tensor | None]:
        """The gradients' means over the ranks; None stays None. Called by all ranks with the same shapes."""
        if world.size() == 1 and not self.check_finite:
            return list(gradients)
        graph.begin_call()
        names = list(names) if names is not None else [f"gradient {index}" for index in range(len(gradients))]
        weight = self.weight_now() if weight is None else weight
        results: list[Tensor | None] = list(gradients)
        dense: list[int] = []
        for index, gradient in enumerate(gradients):
            if gradient is None:
                continue
            if isinstance(gradient, tf.IndexedSlices):
                if not self.sparse_as_dense:
                    results[index] = self._slices(gradient, names[index], weight)
                    continue
                results[index] = tf.convert_to_tensor(gradient)
            dense.append(index)
        for index, value in self._dense([(index, results[index]) for index in dense], names, weight):
            results[index] = value
        return results

    def _slices(self, slices: Any, name: str, weight: Tensor) -> Any:
        values, restore = self.compression.compress(slices.values)
        packed = tf.IndexedSlices(values, slices.indices, slices.dense_shape)
        gathered = graph.mean_of_slices(packed, f"gradient of {name}", weight, average=self.average)
        return tf.IndexedSlices(
            self.compression.decompress(gathered.values, restore), gathered.indices, gathered.dense_shape
        )

    def _dense(
        self, given: Sequence[tuple[int, Tensor]], names: Sequence[str], weight: Tensor
    ) -> list[tuple[int, Tensor]]:
        packed = [self.compression.compress(tensor) for _, tensor in given]
        tensors = [tensor for tensor, _ in packed]
        cap = self.bucket_bytes or default_bucket_bytes()
        sizes = [int(np.prod(tensor.shape.as_list() or [1])) * tensor.dtype.size for tensor in tensors]
        buckets = plan([tensor.dtype.name for tensor in tensors], sizes, cap)
        done: list[tuple[int, Tensor]] = []
        for number, bucket in enumerate(buckets, 1):
            mine = [names[given[index][0]] for index in bucket.indices]
            what = "gradients" if len(buckets) == 1 else f"gradients, bucket {number} of {len(buckets)}"
            reduced = device_exchange.mean_of_bucket(
                [tensors[index] for index in bucket.indices],
                what,
                weight,
                average=self.average,
                check=_finite_check(mine) if self.check_finite else None,
            )
            for index, value in paired(bucket.indices, reduced):
                done.append((given[index][0], self.compression.decompress(value, packed[index][1])))
        return done


def _finite_check(names: Sequence[str]) -> graph.Check:
    def check(local: Sequence[Any], reduced: Sequence[Any]) -> None:
        # A NaN of one rank is in the mean of all, so all ranks come here together and can ask whose it is.
        if all(np.isfinite(array).all() for array in reduced):
            return
        bad = [
            f"{name} ({int(np.isnan(array).sum())} NaN, {int(np.isinf(array).sum())} infinite of {np.size(array)})"
            for name, array in paired(names, local)
            if not np.isfinite(array).all()
        ]
        told = world.transport().allgather_object(bad)
        lines = [f"  rank {rank}: {', '.join(found)}" for rank, found in enumerate(told) if found]
        raise NonFiniteGradient("Gradients are not finite:\n" + "\n".join(lines or ["  none here; the sum overflows"]))

    return check


class DistributedGradientTape:
    """A tf.GradientTape whose `gradient` returns means over the ranks.

    Everything else is the tape's own. Example:

        with tf.GradientTape() as tape:
            loss = loss_fn(labels, model(images, training=True))
        tape = DistributedGradientTape(tape)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
    """

    def __init__(self, tape: Any, reducer: GradientReducer | None = None) -> None:
        self._tape = tape
        self._reducer = reducer or GradientReducer()

    def __enter__(self) -> DistributedGradientTape:
        self._tape.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._tape.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tape, name)

    def gradient(self, target: Any, sources: Any, *arguments: Any, **named: Any) -> Any:
        """tf.GradientTape.gradient, averaged; sources may be nested as there."""
        gradients = self._tape.gradient(target, sources, *arguments, **named)
        flat = tf.nest.flatten(gradients)
        names = [variable_name(source) for source in tf.nest.flatten(sources)]
        return tf.nest.pack_sequence_as(gradients, self._reducer.reduce(flat, names))


def variable_name(variable: Any) -> str:
    """A variable's name with its layer: Keras' path, or TensorFlow's name."""
    return str(getattr(variable, "path", None) or getattr(variable, "name", "a tensor"))
