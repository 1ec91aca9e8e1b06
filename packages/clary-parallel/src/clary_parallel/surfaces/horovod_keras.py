"""Horovod's interface for Keras (`horovod.tensorflow.keras`, `horovod.keras`), for Keras 3 and legacy Keras alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from clary_parallel.data.compression import Compression, Compressor
from clary_parallel.frameworks import tf
from clary_parallel.surfaces import horovod_callbacks as callbacks
from clary_parallel.surfaces import horovod_elastic as elastic
from clary_parallel.surfaces.horovod import (
    Average,
    Max,
    Min,
    Sum,
    allgather_object,
    broadcast_global_variables,
    broadcast_object,
    broadcast_variables,
    init,
    is_initialized,
    local_rank,
    local_size,
    mpi_built,
    mpi_enabled,
    mpi_threads_supported,
    not_built,
    rank,
    shutdown,
    size,
)
from clary_parallel.surfaces.horovod import DistributedOptimizer as _DistributedOptimizer
from clary_parallel.surfaces.horovod import allgather as _allgather
from clary_parallel.surfaces.horovod import allreduce as _allreduce
from clary_parallel.surfaces.horovod import broadcast as _broadcast

gloo_built = gloo_enabled = nccl_built = ddl_built = ccl_built = cuda_built = rocm_built = not_built


def DistributedOptimizer(  # noqa: N802 (Horovod's name)
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: str = Average,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    **named: Any,
) -> Any:
    """A Keras optimizer that averages its gradients over the ranks."""
    return _DistributedOptimizer(
        optimizer,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        op=op,
        backward_passes_per_step=backward_passes_per_step,
        average_aggregated_gradients=average_aggregated_gradients,
        process_set=named.get("process_set"),
    )


def allreduce(value: Any, name: str | None = None, average: bool | None = None, **named: Any) -> Any:
    """The mean over ranks of a value, as numpy."""
    return np.asarray(_allreduce(tf.convert_to_tensor(value), average=average, name=name, **named))


def allgather(value: Any, name: str | None = None) -> Any:
    """Everyone's values along the first axis, as numpy."""
    return np.asarray(_allgather(tf.convert_to_tensor(value), name=name))


def broadcast(value: Any, root_rank: int, name: str | None = None) -> Any:
    """The root's value, as numpy."""
    return np.asarray(_broadcast(tf.convert_to_tensor(value), root_rank, name=name))


def load_model(
    filepath: str,
    custom_optimizers: Any = None,
    custom_objects: dict[str, Any] | None = None,
    compression: type[Compressor] = Compression.none,
    **named: Any,
) -> Any:
    """Load a model; its optimizer averages gradients over the ranks."""
    known = {kind.__name__: kind for kind in custom_optimizers or []}
    model = tf.keras.models.load_model(filepath, custom_objects={**known, **(custom_objects or {})}, **named)
    if model.optimizer is not None:
        DistributedOptimizer(model.optimizer, compression=compression)
    return model


__all__ = [
    "Average", "Compression", "DistributedOptimizer", "Max", "Min", "Sum", "allgather", "allgather_object",
    "allreduce", "broadcast", "broadcast_global_variables", "broadcast_object", "broadcast_variables", "callbacks",
    "ccl_built", "cuda_built", "ddl_built", "elastic", "gloo_built", "gloo_enabled", "init", "is_initialized",
    "load_model", "local_rank", "local_size", "mpi_built", "mpi_enabled", "mpi_threads_supported", "nccl_built",
    "rank", "rocm_built", "shutdown", "size",
]  # fmt: skip
