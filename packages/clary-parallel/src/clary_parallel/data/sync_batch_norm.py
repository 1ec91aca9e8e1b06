"""Batch normalisation with the statistics of all ranks' samples instead of a rank's own.

Costs two small sums over the ranks for each layer, in the forward pass and again in the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from clary_parallel.data import graph, world
from clary_parallel.frameworks import keras, tf

_is_legacy = hasattr(tf.keras.layers.BatchNormalization, "_fused_batch_norm")


class SyncBatchNormalization(tf.keras.layers.BatchNormalization):
    """BatchNormalization, of Keras 3 or legacy Keras, over the samples of all ranks, of which each may have as many.

    Arguments are those of BatchNormalization.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # Legacy Keras' fused kernel computes the statistics of its own samples inside.
        super().__init__(*arguments, **({**named, "fused": False} if _is_legacy else named))

    def _moments(self, inputs: Any, *arguments: Any, **named: Any) -> Any:
        return _of_all_ranks(super()._moments, inputs, *arguments, **named)


def synchronise(model: Any) -> None:
    """Give the BatchNormalization layers of a Keras 3 model the statistics of all ranks' samples."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and not isinstance(layer, SyncBatchNormalization):
            object.__setattr__(layer, "_moments", functools.partial(_of_all_ranks, layer._moments))


def _of_all_ranks(moments: Callable[..., Any], inputs: Any, *arguments: Any, **named: Any) -> Any:
    mean, variance = moments(inputs, *arguments, **named)
    if not world.is_initialized() or world.size() == 1:
        return mean, variance
    # E[x] and E[x²], weighted by samples, add up where variances do not; in float32, since float16 would overflow.
    kind = mean.dtype
    mean, variance = tf.cast(mean, tf.float32), tf.cast(variance, tf.float32)
    weight = tf.cast(tf.shape(inputs)[0], tf.float32)
    total = graph.allreduce(weight, "samples of a batch")
    mean, square = tf.unstack(_summed(tf.stack([mean, variance + tf.square(mean)]) * weight) / total)
    return tf.cast(mean, kind), tf.cast(tf.maximum(square - tf.square(mean), 0.0), kind)


@tf.custom_gradient
def _summed(statistics: Any) -> Any:
    def gradient(upstream: Any) -> Any:
        return graph.allreduce(upstream, "gradient of the statistics of a batch")

    return graph.allreduce(statistics, "statistics of a batch"), gradient
