"""Batches and losses as a pipeline needs them: flat lists of arrays, and losses that add up over micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np
import tensorflow as tf

from clary_parallel.pipelining.engine import Batch


class Given:
    """What the user gave: the structures of targets and sample weights, and what `compile` got.

    Not attributes of the model: Keras wraps those, and takes losses and metrics among them for its own.
    """

    targets: Any = None
    sample_weights: Any = None
    compiled_with: dict[str, Any]

    def __init__(self) -> None:
        self.compiled_with = {}


def flat_batch(x: Any, y: Any, weights: Any, model_inputs: Sequence[Any]) -> Batch:
    """A batch in the order of a model's inputs.

    Args:
        x: Inputs in any structure, or by the names of the model's inputs.
        y: Targets in any structure, or None.
        weights: Sample weights in any structure, or None.
        model_inputs: The model's symbolic inputs.
    """
    if isinstance(x, dict) and all(tensor.name in x for tensor in model_inputs):
        inputs = [x[tensor.name] for tensor in model_inputs]
    else:
        inputs = keras.tree.flatten(x)
    if len(inputs) != len(model_inputs):
        raise ValueError(f"The model takes {len(model_inputs)} inputs. Received: {len(inputs)}.")
    return Batch(
        [as_numbers(item) for item in inputs],
        [] if y is None else [as_numbers(item) for item in keras.tree.flatten(y)],
        [] if weights is None else [as_numbers(item) for item in keras.tree.flatten(weights)],
    )


def sums_losses(loss: Any) -> bool:
    """Whether losses are sums over the batch (otherwise they are means).

    Raises:
        ValueError: Some are and some are not, or a loss is neither: its micro-batches would not add up to the batch.
    """
    reductions = {getattr(item, "reduction", "sum_over_batch_size") for item in keras.tree.flatten(loss)}
    kinds = {
        "sum" if item == "sum" else "mean" for item in reductions if item in ("sum", "sum_over_batch_size", "mean")
    }
    if len(kinds) > 1 or not reductions <= {"sum", "sum_over_batch_size", "mean"}:
        raise ValueError(
            "A pipeline adds up the losses of micro-batches: all losses must have the reduction 'sum_over_batch_size', "
            f"or all 'sum'. Received: {sorted(str(item) for item in reductions)}."
        )
    return kinds == {"sum"}


def as_numbers(item: Any) -> Any:
    """An array of numbers."""
    array = np.ascontiguousarray(np.asarray(item))
    if array.dtype.hasobject:
        raise ValueError(
            "A pipeline takes numbers. Turn strings into numbers in the input pipeline (tf.data), not in the model."
        )
    return array


def joined(*parts: Any) -> Any:
    """Outputs of several batches as those of one."""
    return tf.concat(parts, axis=0)
