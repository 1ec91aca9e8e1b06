"""Values between the ranks that hold one model: variables from their owners, and tensors from the last stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clary_parallel.frameworks import tf
from clary_parallel.modelparallel.copies import copy_of
from clary_parallel.transport import Transport


def share_copies(owned: Sequence[tuple[Any, int]], ranks: Transport) -> None:
    """Give copies of variables the values that their owners have. Collective.

    Args:
        owned: Variables with the ranks that hold them.
        ranks: The ranks that hold one model.
    """
    if ranks.size == 1:
        return
    for variable, owner in owned:
        kind = tf.as_dtype(variable.dtype).as_numpy_dtype
        if np.dtype(kind).hasobject:
            continue
        value = np.array(variable.numpy(), order="C") if owner == ranks.rank else np.empty(variable.shape, kind)
        ranks.broadcast(value.reshape(-1).view(np.uint8), owner)
        if owner != ranks.rank:
            copy_of(variable).assign(value)


def share_tensors(tensors: Sequence[Any] | None, root: int, ranks: Transport) -> list[Any]:
    """The root's tensors on every rank. Collective; only the root's argument counts."""
    if ranks.size == 1:
        return list(tensors or ())
    arrays = [np.array(item.numpy(), order="C") for item in tensors or ()] if ranks.rank == root else []
    told = ranks.broadcast_object([(array.shape, array.dtype) for array in arrays], root)
    if ranks.rank != root:
        arrays = [np.empty(shape, dtype) for shape, dtype in told]
    for array in arrays:
        if array.dtype.hasobject:
            raise TypeError("Tensors of strings cannot leave the last stage. Return numbers.")
        ranks.broadcast(array.reshape(-1).view(np.uint8), root)
    if ranks.rank == root:
        return list(tensors or ())
    return [tf.convert_to_tensor(array) for array in arrays]
