"""Collectives on TensorFlow tensors, eager or inside tf.function.

A collective in a graph is a `numpy_function`: measured on two processes, one call on a fused buffer is within 5 to 10 %
of a compiled operation, and needs no compiler. Ranks must run collectives in one order, but a graph's operations run in
any; so each collective of a function waits for the one that was traced before it. A graph of TensorFlow 1 is run in
parts: there the exchanges of one call wait for each other, and calls are independent (`begin_call`).
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clary_parallel.data import world
from clary_parallel.data.agreement import Call
from clary_parallel.data.fusion import Pool, allreduce_fused, allreduce_half
from clary_parallel.errors import ParallelError
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import paired
from clary_parallel.transport.base import Operation

Tensor = Any
_last: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_pool = Pool()
_one_at_a_time = threading.Lock()
FUSED = "fused allreduce"
HALF = (tf.float16, tf.bfloat16)


def collective(function: Callable[..., Any], inputs: Sequence[Tensor], types: Sequence[Any]) -> list[Tensor]:
    """Run a function of numpy arrays as a step of the graph, after the graph's earlier collectives."""
    guard: Any = _one_at_a_time if _of_sessions() else contextlib.nullcontext()

    def run(*arrays: Any) -> Any:
        try:
            with guard:
                return function(*arrays)
        except ParallelError as error:
            world.agreement().failure = error
            raise

    if tf.executing_eagerly():
        outputs = tf.numpy_function(run, inputs, list(types))
    else:
        graph = tf.compat.v1.get_default_graph()
        before = _last.get(graph)
        with tf.control_dependencies([] if before is None else [before]):
            outputs = tf.numpy_function(run, inputs, list(types))
        first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        _last[graph] = first.op
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def begin_call() -> None:
    """Let the collectives that follow in a graph of TensorFlow 1 run without those of earlier calls."""
    if _of_sessions():
        _last.pop(tf.compat.v1.get_default_graph(), None)


def _of_sessions() -> bool:
    """Whether a graph of TensorFlow 1 is being made, of which a session runs parts."""
    return not tf.executing_eagerly() and not hasattr(tf.compat.v1.get_default_graph(), "outer_graph")


def mean_of_bucket(
    tensors: Sequence[Tensor], what: str, weight: Tensor, *, average: bool = True, check: Check | None = None
) -> list[Tensor]:
    """The weighted mean (or the sum) over ranks of some tensors of one floating type, in one exchange.

    Args:
        what: a user's word for them, in errors.
        weight: scalar; this rank's weight in the mean.
        check: looks at (local, reduced) arrays, raises.
    """
    half = tensors[0].dtype in HALF

    def exchange(weight_here: Any, *arrays: Any) -> list[Any]:
        agreement = world.agreement()
        agreement.agree(_call(FUSED, what, arrays, "average" if average else "sum"))
        reduce = allreduce_half if half else _fused
        reduced = reduce(agreement.transport, arrays, float(weight_here), average=average)
        if check is not None:
            check(arrays, reduced)
        return reduced

    outputs = collective(exchange, [tf.cast(weight, tf.float32), *tensors], [tensor.dtype for tensor in tensors])
    for output, tensor in paired(outputs, tensors):
        output.set_shape(tensor.shape)
    return outputs


def mean_of_slices(slices: Any, what: str, weight: Tensor, *, average: bool = True) -> Any:
    """The weighted mean over ranks of an IndexedSlices (the gradient of an embedding): everyone's rows, scaled."""

    def exchange(weight_here: Any, values: Any, indices: Any) -> list[Any]:
        agreement = world.agreement()
        # Ranks may touch different numbers of rows: only the rest of the shape must agree.
        agreement.agree(_call("allgather", what, [values[:0], indices[:0]], "average" if average else "sum"))
        transport = agreement.transport
        if average:
            total = np.array([weight_here], np.float64)
            transport.allreduce(total)
            values = values * values.dtype.type(float(weight_here) / float(total[0]))
        raw = np.ascontiguousarray(values)
        rows = transport.allgather_joined(raw.view(np.uint16) if raw.dtype.itemsize == 2 else raw)
        return [rows.view(raw.dtype), transport.allgather_joined(np.ascontiguousarray(indices))]

    values, indices = collective(
        exchange,
        [tf.cast(weight, tf.float32), slices.values, slices.indices],
        [slices.values.dtype, slices.indices.dtype],
    )
    values.set_shape([None, *slices.values.shape[1:]])
    indices.set_shape([None])
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def allreduce(tensor: Tensor, what: str = "", operation: Operation = "sum") -> Tensor:
    """The element-wise sum, greatest or least over ranks of a tensor of any numeric type."""
    begin_call()
    kind = tensor.dtype
    widened = tf.cast(tensor, tf.float32) if kind in HALF else tensor

    def exchange(array: Any) -> Any:
        agreement = world.agreement()
        agreement.agree(_call("allreduce", what, [array], operation))
        result = np.array(array, copy=True, order="C")
        agreement.transport.allreduce(result.reshape(-1), operation)
        return result

    (output,) = collective(exchange, [widened], [widened.dtype])
    output.set_shape(tensor.shape)
    return tf.cast(output, kind)


def allgather(tensor: Tensor, what: str = "") -> Tensor:
    """Everyone's tensors, one after another along the first axis, whose length may differ between ranks."""
    begin_call()

    def exchange(array: Any) -> Any:
        agreement = world.agreement()
        agreement.agree(_call("allgather", what, [array[:0]]))
        raw = np.ascontiguousarray(array)
        joined = agreement.transport.allgather_joined(raw.view(np.uint16) if raw.dtype.itemsize == 2 else raw)
        return joined.view(raw.dtype)

    (output,) = collective(exchange, [tensor], [tensor.dtype])
    output.set_shape([None, *tensor.shape[1:]])
    return output


def broadcast(tensors: Sequence[Tensor], root: int, what: str = "") -> list[Tensor]:
    """The root's tensors."""
    begin_call()
    if not tensors:
        return []

    def exchange(*arrays: Any) -> list[Any]:
        agreement = world.agreement()
        agreement.agree(_call("broadcast", what, [np.asarray(array) for array in arrays], f"from rank {root}"))
        results = [np.array(array, copy=True, order="C") for array in arrays]
        for result in results:
            agreement.transport.broadcast(result.reshape(-1), root)
        return results

    outputs = collective(exchange, tensors, [tensor.dtype for tensor in tensors])
    for output, tensor in paired(outputs, tensors):
        output.set_shape(tensor.shape)
    return outputs


if TYPE_CHECKING:
    Check = Callable[[Sequence[Any], Sequence[Any]], None]


def zeros_for(call: Call) -> None:
    """What a rank that joined contributes to the others' call: nothing, with weight 0."""
    transport = world.transport()
    if call.kind not in (FUSED, "allreduce") or call.settings not in ("average", "sum"):
        raise NotImplementedError(f"A rank that has joined cannot take part in: {call}. Call it before join().")
    arrays = [np.zeros(shape, _numpy_type(kind)) for kind, shape in call.of]
    average = call.settings == "average"
    if call.kind != FUSED:
        transport.allreduce(arrays[0].reshape(-1))
    elif arrays[0].dtype.itemsize == 2:
        allreduce_half(transport, arrays, 0.0, average=average)
    else:
        _fused(transport, arrays, 0.0, average=average)


def _fused(transport: Any, arrays: Sequence[Any], weight: float, *, average: bool) -> list[Any]:
    return allreduce_fused(transport, arrays, weight, _pool, average=average)


def _numpy_type(name: str) -> Any:
    return tf.as_dtype(name).as_numpy_dtype


def _call(kind: str, what: str, arrays: Sequence[Any], settings: str = "") -> Call:
    return Call(kind, what, tuple((array.dtype.name, array.shape) for array in arrays), settings)
