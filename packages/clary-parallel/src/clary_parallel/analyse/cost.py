"""What an operation costs, estimated from its shapes: good enough to compare the operations of one model.

A weight of a dense, convolutional or recurrent layer is multiplied and added once for each position (pixel, time step,
example) that it is applied to; attention also multiplies every position with every other. All else is counted by its
outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

_FLOPS_A_SECOND = 2e10
_BYTES_A_SECOND = 5e9
_CALL_SECONDS = 2e-6
_NO_PRODUCTS = {"Embedding", "BatchNormalization", "LayerNormalization", "GroupNormalization", "Normalization"}


def estimate_flops(call: Any, microbatch: int) -> float:
    """Floating-point operations of a call's forward for a micro-batch."""
    made = sum(_count(tensor.shape, microbatch) for tensor in call.outputs)
    kind = type(call.operation).__name__
    if kind in _NO_PRODUCTS:
        return 5.0 * made
    kernels = [weight for weight in getattr(call.operation, "trainable_weights", ()) if len(weight.shape) >= 2]
    if not kernels or not call.inputs:
        return float(made)
    weights = sum(prod(weight.shape) for weight in kernels)
    recurrent = any(cls.__name__ in ("RNN", "Bidirectional") for cls in type(call.operation).__mro__)
    source = call.inputs[0] if recurrent or "Attention" in kind else call.outputs[0]
    positions = _count(source.shape, microbatch) / max(source.shape[-1] or 1, 1)
    flops = 2.0 * weights * positions
    if "Transpose" in kind:
        flops *= _count(call.inputs[0].shape, 1) / max(call.inputs[0].shape[-1] or 1, 1)
        flops /= max(_count(call.outputs[0].shape, 1) / max(call.outputs[0].shape[-1] or 1, 1), 1)
    if "Depthwise" in kind:
        flops /= max(call.inputs[0].shape[-1] or 1, 1)
    if "Attention" in kind and len(source.shape) >= 3:
        length = source.shape[1] or 1
        flops += 4.0 * _count(source.shape, microbatch) * length
    return flops


def estimate_seconds(flops: float, moved_bytes: float, passes: int = 3) -> float:
    """Time of a forward and backward on one core of these days: arithmetic, memory, and a call.

    Args:
        flops: Of the forward.
        moved_bytes: By the forward.
        passes: 1 for the forward, and 1 each for the gradients of the input and of the weights, where they are needed.
    """
    return passes * (flops / _FLOPS_A_SECOND + moved_bytes / _BYTES_A_SECOND + _CALL_SECONDS)


def _count(shape: Sequence[int | None], microbatch: int) -> int:
    first, *rest = (*shape,) or (1,)
    return (microbatch if first is None else first) * prod(1 if size is None else size for size in rest)
