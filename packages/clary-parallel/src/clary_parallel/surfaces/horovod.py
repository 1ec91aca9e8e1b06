"""Horovod's interface for TensorFlow 2: ranks, collectives on tensors and objects, optimizer and tape.

Behaviour as documented for Horovod 0.28. What is offered and what is not: docs/reference/horovod.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clary_parallel.data import device_exchange, graph, world
from clary_parallel.data.agreement import Call
from clary_parallel.data.compression import Compression, Compressor
from clary_parallel.data.gradients import DistributedGradientTape as _Tape
from clary_parallel.data.gradients import GradientReducer
from clary_parallel.data.optimizer import distribute
from clary_parallel.data.sync_batch_norm import SyncBatchNormalization
from clary_parallel.data.variables import broadcast_variables as _broadcast_variables
from clary_parallel.data.world import init as _init
from clary_parallel.data.world import is_initialized, local_rank, local_size, rank, shutdown, size
from clary_parallel.errors import NotOffered, no_such_name
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import pairwise
from clary_parallel.surfaces import horovod_elastic as elastic
from clary_parallel.surfaces.horovod_sessions import BroadcastGlobalVariablesHook, broadcast_global_variables
from clary_parallel.surfaces.keras_habits import accept_older_scripts
from clary_parallel.transport.base import Operation

Average = "average"
Sum = "sum"
Min = "min"
Max = "max"
Product = "product"
global_process_set = "all ranks"

NOT_OFFERED = {
    "Adasum": "use op=Average or op=Sum; with many ranks, LearningRateWarmupCallback keeps training stable.",
    "ProcessSet": "all ranks take part in each call. For groups: clary_parallel.data.world.transport().group().",
    "add_process_set": "all ranks take part in each call. For groups: clary_parallel.data.world.transport().group().",
    "PartialDistributedGradientTape": "use DistributedGradientTape on the variables to be averaged, and a second "
    "tf.GradientTape for the local ones.",
    "start_timeline": "use the TensorFlow profiler: tf.profiler.experimental.start(logdir).",
    "stop_timeline": "use the TensorFlow profiler: tf.profiler.experimental.stop().",
    "run": "start the ranks with mpirun: mpirun -n 2 python train.py.",
}


def not_offered(module: str, name: str) -> Exception:
    """The error for a name that a compatible module does not have."""
    return no_such_name(module, name, NOT_OFFERED, "horovod.md")


def init(comm: Any = None, process_sets: Any = None) -> None:
    """Join the other ranks. Sub-communicators and process sets are not offered."""
    if comm is not None or process_sets:
        raise NotOffered("init(comm=...) and init(process_sets=...) are not offered: all ranks of mpirun train.")
    _init()


def cross_rank() -> int:
    """The number of this rank's host among the hosts that have a rank with this local rank."""
    places: list[int] = world.transport().allgather_object(local_rank())
    return sum(1 for place in places[: rank()] if place == local_rank())


def cross_size() -> int:
    """How many hosts have a rank with this local rank."""
    places: list[int] = world.transport().allgather_object(local_rank())
    return places.count(local_rank())


def is_homogeneous() -> bool:
    """Whether every host has as many ranks."""
    return len(set(world.transport().allgather_object(local_size()))) == 1


def mpi_threads_supported() -> bool:
    """True: mpi4py asks for them."""
    return True


def mpi_enabled() -> bool:
    """True: ranks talk by MPI."""
    return True


def mpi_built() -> bool:
    """True: ranks talk by MPI."""
    return True


def not_built() -> int:
    """No: of gloo, NCCL, DDL, CCL, CUDA and ROCm nothing is built in. Where NCCL sums gradients, it is TensorFlow's."""
    return 0


def size_op(process_set_id: int = 0, name: str | None = None) -> Any:
    """`size` as a tensor."""
    return tf.constant(size(), name=name)


def rank_op(name: str | None = None) -> Any:
    """`rank` as a tensor."""
    return tf.constant(rank(), name=name)


def local_size_op(name: str | None = None) -> Any:
    """`local_size` as a tensor."""
    return tf.constant(local_size(), name=name)


def local_rank_op(name: str | None = None) -> Any:
    """`local_rank` as a tensor."""
    return tf.constant(local_rank(), name=name)


gloo_built = gloo_enabled = nccl_built = ddl_built = ccl_built = cuda_built = rocm_built = not_built


def allreduce(
    tensor: Any,
    average: bool | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    op: str | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    name: str | None = None,
    process_set: Any = None,
    ignore_name_scope: bool = False,
) -> Any:
    """The mean over ranks (or op: Sum, Min, Max, Product) of a tensor or IndexedSlices.

    Differentiable for Average and Sum.
    """
    operation = _operation(average, op)
    _only_all_ranks(process_set)
    what = name or ""
    if isinstance(tensor, tf.IndexedSlices):
        if operation not in (Average, Sum):
            raise NotOffered(f"allreduce of IndexedSlices with op={operation} is not offered: make it dense first.")
        values, whole = _scaled(tensor.values, prescale_factor * postscale_factor), tensor.values.dtype.is_integer
        mean = operation == Average and not whole
        given_slices = tf.IndexedSlices(values, tensor.indices, tensor.dense_shape)
        result = graph.mean_of_slices(given_slices, what, tf.constant(1.0), average=mean)
        if operation == Average and whole:
            return tf.IndexedSlices(result.values // tf.cast(size(), values.dtype), result.indices, result.dense_shape)
        return result
    given = tf.convert_to_tensor(tensor)

    @tf.custom_gradient
    def run(value: Any) -> Any:
        sent, context = compression.compress(_scaled(value, prescale_factor))
        result = compression.decompress(_reduced(sent, what, operation), context)

        def gradient(upstream: Any) -> Any:
            if operation not in (Average, Sum):
                raise NotOffered(f"The gradient of allreduce with op={operation} is not defined.")
            return _scaled(_reduced(upstream, f"gradient of {what}", operation), prescale_factor * postscale_factor)

        return _scaled(result, postscale_factor), gradient

    return run(given)


def grouped_allreduce(tensors: Sequence[Any], *arguments: Any, **named: Any) -> list[Any]:
    """`allreduce` of several tensors."""
    return [allreduce(tensor, *arguments, **named) for tensor in tensors]


def allgather(tensor: Any, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None) -> Any:
    """Everyone's tensors along the first axis, whose length may differ between ranks. Differentiable."""
    _only_all_ranks(process_set)
    what = name or ""

    @tf.custom_gradient
    def run(value: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            mine = tf.shape(value, tf.int64)[:1]
            lengths = graph.allgather(mine, f"lengths of {what}")
            with tf.control_dependencies([lengths]):
                total = _reduced(upstream, f"gradient of {what}", Sum)
            start = tf.reduce_sum(lengths[: rank()])
            return total[start : start + mine[0]]

        return graph.allgather(value, what), gradient

    return run(tf.convert_to_tensor(tensor))


def grouped_allgather(tensors: Sequence[Any], **named: Any) -> list[Any]:
    """`allgather` of several tensors."""
    return [allgather(tensor, **named) for tensor in tensors]


def broadcast(
    tensor: Any, root_rank: int, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None
) -> Any:
    """The root's tensor. Differentiable: the root has the sum of all ranks' gradients."""
    _only_all_ranks(process_set)
    root, what = _root(root_rank), name or ""

    @tf.custom_gradient
    def run(value: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            total = _reduced(upstream, f"gradient of {what}", Sum)
            return total if rank() == root else tf.zeros_like(total)

        (received,) = graph.broadcast([value], root, what)
        return received, gradient

    return run(tf.convert_to_tensor(tensor))


def broadcast_(variables: Sequence[Any], root_rank: int, name: str | None = None, process_set: Any = None) -> Any:
    """Give every rank the root's values of some variables, and return these."""
    done = broadcast_variables(variables, root_rank, process_set)
    if tf.executing_eagerly():
        return list(variables)
    with tf.control_dependencies([done]):
        return [variable.read_value() for variable in variables]


def reducescatter(
    tensor: Any,
    device_dense: str = "",
    compression: type[Compressor] = Compression.none,
    op: str | None = None,
    name: str | None = None,
    process_set: Any = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Any:
    """This rank's rows of the mean (or op: Sum) over ranks; the first ranks have one more where they do not divide."""
    if op not in (None, Average, Sum):
        raise NotOffered(f"reducescatter averages or adds up (op=Average or op=Sum). Received: op={op!r}")
    whole = allreduce(
        tensor,
        compression=compression,
        op=op,
        name=name,
        process_set=process_set,
        prescale_factor=prescale_factor,
        postscale_factor=postscale_factor,
    )
    each, more = tf.shape(whole)[0] // size(), tf.shape(whole)[0] % size()
    start = rank() * each + tf.minimum(rank(), more)
    return whole[start : start + each + tf.cast(rank() < more, tf.int32)]


def grouped_reducescatter(tensors: Sequence[Any], *arguments: Any, **named: Any) -> list[Any]:
    """`reducescatter` of several tensors."""
    return [reducescatter(tensor, *arguments, **named) for tensor in tensors]


def alltoall(tensor: Any, splits: Any = None, name: str | None = None, process_set: Any = None) -> Any:
    """Send rows of a tensor to each rank (splits: how many to each; default: equal shares). Eager only.

    Returns the rows received, in the order of ranks; with splits, also how many came from each.
    """
    _only_all_ranks(process_set)
    rows = np.ascontiguousarray(tf.convert_to_tensor(tensor).numpy())
    counts = np.full(size(), len(rows) // size()) if splits is None else np.asarray(splits)
    if len(counts) != size() or counts.sum() != len(rows):
        raise ValueError(f"splits must give the {len(rows)} rows to {size()} ranks. Received: {counts.tolist()}")
    world.agreement().agree(Call("alltoall", name or "", ((rows.dtype.name, rows.shape[1:]),)))
    bounds = [0, *np.cumsum(counts)]
    pieces = [rows[low:high].reshape(-1).view(np.uint8) for low, high in pairwise(bounds)]
    received = [piece.view(rows.dtype).reshape(-1, *rows.shape[1:]) for piece in world.transport().alltoall(pieces)]
    joined = tf.constant(np.concatenate(received))
    return joined if splits is None else (joined, tf.constant([len(piece) for piece in received], tf.int32))


def broadcast_variables(variables: Any, root_rank: int, process_set: Any = None, inplace: bool = False) -> Any:
    """Give every rank the root's values of some variables; inside tf.function when the graph runs.

    In a graph of TensorFlow 1, the operation that does so.
    """
    _only_all_ranks(process_set)
    known: Any = variables() if callable(variables) else variables
    return _broadcast_variables(known, _root(root_rank))


def broadcast_object(
    obj: Any, root_rank: int = 0, session: Any = None, name: str | None = None, process_set: Any = None
) -> Any:
    """The root's object (anything that pickles)."""
    world.agreement().agree(Call("broadcast_object", name or ""))
    return world.transport().broadcast_object(obj, _root(root_rank))


def broadcast_object_fn(root_rank: int = 0, session: Any = None, name: str | None = None) -> Callable[[Any], Any]:
    """A function that broadcasts its argument."""
    return lambda obj: broadcast_object(obj, root_rank, session, name)


def allgather_object(obj: Any, session: Any = None, name: str | None = None, process_set: Any = None) -> list[Any]:
    """Everyone's objects, by rank."""
    world.agreement().agree(Call("allgather_object", name or ""))
    return world.transport().allgather_object(obj)


def barrier(process_set: Any = None) -> None:
    """Return when every rank has called it."""
    world.agreement().agree(Call("barrier"))


def join(device: int = -1) -> int:
    """Take part in the others' allreduces with zeros until all ranks have joined; return the last one to join."""
    return world.agreement().join(device_exchange.zeros_for)


def DistributedGradientTape(  # noqa: N802 (Horovod's name)
    gradtape: Any,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    sparse_as_dense: bool = False,
    op: str = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    process_set: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """A tape whose gradients are averaged over the ranks."""
    _only_all_ranks(process_set)
    return _Tape(gradtape, _reducer(compression, sparse_as_dense, op))


def DistributedOptimizer(  # noqa: N802 (Horovod's name)
    optimizer: Any,
    name: str | None = None,
    use_locking: bool = False,
    device_dense: str = "",
    device_sparse: str = "",
    compression: type[Compressor] = Compression.none,
    sparse_as_dense: bool = False,
    backward_passes_per_step: int = 1,
    op: str = Average,
    gradient_predivide_factor: float = 1.0,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: Any = None,
    process_set: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """A Keras optimizer, or one of tf.compat.v1.train, that averages its gradients over the ranks."""
    _only_all_ranks(process_set)
    if not (hasattr(optimizer, "learning_rate") or isinstance(optimizer, tf.compat.v1.train.Optimizer)):
        raise NotOffered(
            f"DistributedOptimizer of {type(optimizer).__module__}.{type(optimizer).__name__} is not offered by Clary: "
            "it takes optimizers of Keras and of tf.compat.v1.train. For others, use DistributedGradientTape."
        )
    return distribute(
        optimizer,
        _reducer(compression, sparse_as_dense, op),
        backward_passes_per_step,
        add_up=not average_aggregated_gradients,
    )


def _reducer(compression: type[Compressor], sparse_as_dense: bool, op: str) -> GradientReducer:
    operation = _operation(None, op)
    if operation not in (Average, Sum):
        raise NotOffered(f"Gradients are averaged or added up (op=Average or op=Sum). Received: op={op!r}")
    return GradientReducer(compression, sparse_as_dense=sparse_as_dense, average=operation == Average)


def _operation(average: bool | None, op: str | None) -> str:
    if average is not None and op is not None:
        raise ValueError("Give average or op to allreduce, not both.")
    operation = op or (Sum if average is False else Average)
    if operation not in (Average, Sum, Min, Max, Product):
        raise NotOffered(f"op={operation!r} is not offered by Clary: use Average, Sum, Min, Max or Product.")
    return operation


def _reduced(tensor: Any, what: str, operation: str) -> Any:
    if operation == Product:
        return tf.reduce_prod(graph.allgather(tensor[tf.newaxis], what), 0)
    combine: dict[str, Operation] = {Average: "sum", Sum: "sum", Min: "min", Max: "max"}
    result = graph.allreduce(tensor, what, combine[operation])
    if operation != Average:
        return result
    ranks = tf.cast(size(), result.dtype)
    return result // ranks if result.dtype.is_integer else result / ranks


def _scaled(tensor: Any, factor: float) -> Any:
    """The product, as Horovod makes it: of whole numbers in float64, of half floats in float32."""
    if factor == 1:
        return tensor
    kind = tensor.dtype
    wide = tf.float64 if kind.is_integer else tf.float32 if kind in graph.HALF else kind
    return tf.cast(tf.cast(tensor, wide) * tf.cast(factor, wide), kind)


def _root(root_rank: int) -> int:
    if not 0 <= root_rank < size():
        raise ValueError(f"There is no rank {root_rank} among {size()} ranks (0 to {size() - 1}).")
    return root_rank


def _only_all_ranks(process_set: Any) -> None:
    if process_set not in (None, global_process_set):
        raise NotOffered(f"process_set=... is not offered by Clary: {NOT_OFFERED['ProcessSet']}")


accept_older_scripts()

__all__ = [
    "Average", "BroadcastGlobalVariablesHook", "Compression", "DistributedGradientTape", "DistributedOptimizer",
    "Max", "Min", "Product", "Sum", "SyncBatchNormalization", "allgather", "allgather_object", "allreduce",
    "alltoall", "barrier", "broadcast", "broadcast_", "broadcast_global_variables", "broadcast_object",
    "broadcast_object_fn", "broadcast_variables", "ccl_built", "cross_rank", "cross_size", "cuda_built",
    "ddl_built", "elastic", "global_process_set", "gloo_built", "gloo_enabled", "grouped_allgather",
    "grouped_allreduce", "grouped_reducescatter", "init", "is_homogeneous", "is_initialized", "join", "local_rank",
    "local_rank_op", "local_size", "local_size_op", "mpi_built", "mpi_enabled", "mpi_threads_supported",
    "nccl_built", "rank", "rank_op", "reducescatter", "rocm_built", "shutdown", "size", "size_op",
]  # fmt: skip
