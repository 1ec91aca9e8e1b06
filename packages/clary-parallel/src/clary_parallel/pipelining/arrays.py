"""Between numpy buffers, which transports move, and tensors: without a copy where the framework allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from clary_parallel.schedule.execute import ALIGNMENT


def tensor_of(item: Any) -> Any:
    """An array as a tensor. It shares the array's memory where that is possible, so the array must not change."""
    # Small ones are copied: kernels may take over the memory of what nobody else holds, and a copy costs nothing.
    if isinstance(item, np.ndarray) and item.nbytes >= ALIGNMENT and item.ctypes.data % ALIGNMENT == 0:
        try:
            return tf.experimental.dlpack.from_dlpack(item.__dlpack__())
        except (BufferError, TypeError):  # A type that the exchange format lacks (bfloat16), or a read-only array.
            pass
    return tf.convert_to_tensor(item)


def array_of(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor's memory as an array, without a copy where the framework allows it."""
    try:
        return np.ascontiguousarray(np.asarray(memoryview(tensor)))
    except (TypeError, ValueError, BufferError):
        return np.ascontiguousarray(tensor.numpy())
