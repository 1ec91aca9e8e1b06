"""SageMaker's data parallel library for TensorFlow (`smdistributed.dataparallel.tensorflow`)."""

from __future__ import annotations

from typing import Any

from clary_parallel.data.compression import Compression, Compressor
from clary_parallel.data.gradients import DistributedGradientTape as _Tape
from clary_parallel.data.gradients import GradientReducer
from clary_parallel.data.optimizer import distribute
from clary_parallel.errors import NotOffered, no_such_name
from clary_parallel.surfaces import horovod
from clary_parallel.surfaces.horovod import (
    BroadcastGlobalVariablesHook,
    broadcast,
    broadcast_global_variables,
    broadcast_variables,
    init,
    local_rank,
    local_size,
    rank,
    shutdown,
    size,
)


class ReduceOp:
    """How allreduce combines."""

    AVERAGE = horovod.Average
    SUM = horovod.Sum
    MIN = horovod.Min
    MAX = horovod.Max


NOT_OFFERED = {
    "overlap": "gradients are exchanged while the backward pass goes on without it: leave the call out.",
}


def not_offered(module: str, name: str) -> Exception:
    """The error for a name that the compatible module does not have."""
    return no_such_name(module, name, NOT_OFFERED)


def allreduce(
    tensor: Any = None,
    param_index: int = 0,
    num_params: int = 1,
    compression: type[Compressor] = Compression.none,
    op: str = ReduceOp.AVERAGE,
    *,
    grad: Any = None,
) -> Any:
    """The mean over ranks (or op) of the gradient of parameter `param_index` out of `num_params`.

    Older releases of the library call the tensor `grad`.
    """
    if (tensor is None) == (grad is None):
        raise TypeError("allreduce takes one tensor: allreduce(tensor, param_index, num_params).")
    tensor = grad if tensor is None else tensor
    return horovod.allreduce(tensor, compression=compression, op=op, name=f"parameter {param_index} of {num_params}")


def oob_allreduce(tensor: Any, compression: type[Compressor] = Compression.none, op: str = ReduceOp.AVERAGE) -> Any:
    """The mean over ranks (or op) of a tensor that is no gradient, such as a loss."""
    return horovod.allreduce(tensor, compression=compression, op=op)


def get_worker_comm() -> Any:
    """The mpi4py communicator of all ranks, for what has no call here (gather of evaluations, for instance)."""
    from mpi4py import MPI  # pyright: ignore[reportMissingImports]

    return MPI.COMM_WORLD


def DistributedGradientTape(  # noqa: N802 (the library's name)
    gradtape: Any,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    sparse_as_dense: bool = False,
    op: str = ReduceOp.AVERAGE,
) -> Any:
    """A tape whose gradients are averaged over the ranks."""
    return _Tape(gradtape, _reducer(compression, sparse_as_dense, op, device_dense, device_sparse, None))


def DistributedOptimizer(  # noqa: N802 (the library's name)
    optimizer: Any,
    name: str | None = None,
    use_locking: bool = False,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    sparse_as_dense: bool = False,
    op: str = ReduceOp.AVERAGE,
    bucket_cap_mb: int = 25,
) -> Any:
    """A Keras optimizer that averages its gradients over the ranks."""
    return distribute(
        optimizer, _reducer(compression, sparse_as_dense, op, device_dense, device_sparse, bucket_cap_mb << 20)
    )


def _reducer(
    compression: type[Compressor], sparse_as_dense: bool, op: str, dense: str, sparse: str, bucket: int | None
) -> GradientReducer:
    if dense or sparse:
        raise ValueError("device_dense and device_sparse are not supported.")
    if op not in (ReduceOp.AVERAGE, ReduceOp.SUM):
        raise NotOffered(f"Gradients are averaged or added up (ReduceOp.AVERAGE or SUM). Received: op={op!r}")
    return GradientReducer(compression, bucket, sparse_as_dense, average=op == ReduceOp.AVERAGE)


__all__ = [
    "BroadcastGlobalVariablesHook", "Compression", "DistributedGradientTape", "DistributedOptimizer", "ReduceOp",
    "allreduce", "broadcast", "broadcast_global_variables", "broadcast_variables", "get_worker_comm", "init",
    "local_rank", "local_size", "oob_allreduce", "rank", "shutdown", "size",
]  # fmt: skip
