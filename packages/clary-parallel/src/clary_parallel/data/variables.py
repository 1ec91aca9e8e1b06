"""Variables that all ranks must agree on: broadcast at the start, averaged where each rank has its own view."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from clary_parallel.data import graph, world
from clary_parallel.data.agreement import Call
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import paired


def broadcast_variables(variables: Iterable[Any], root: int = 0) -> Any:
    """Give every rank the root's values, now or as a step of the tf.function that calls this.

    The variables' shapes and types must agree. In a graph of TensorFlow 1 it is the operation that is returned, for a
    session to run.
    """
    known = list(variables)
    if not tf.executing_eagerly():
        tensors = [tf.convert_to_tensor(variable) for variable in known]
        received = graph.broadcast(tensors, root, "variables")
        assigned = [variable.assign(value) for variable, value in paired(known, received)]
        return tf.group(*(item for item in assigned if item is not None))
    values = [_value(variable) for variable in known]
    agreement = world.agreement()
    agreement.agree(_call("broadcast", "variables", values, f"from rank {root}"))
    for variable, value in paired(known, values):
        received = np.array(value, order="C")
        agreement.transport.broadcast(received.reshape(-1), root)
        if agreement.transport.rank != root:
            variable.assign(received)
    return None


def average_variables(variables: Iterable[Any]) -> None:
    """Give every rank the mean of floating variables, such as BatchNormalization's moving statistics."""
    known = [variable for variable in variables if "float" in _name(variable.dtype)]
    agreement = world.agreement()
    if agreement.transport.size == 1 or not known:
        return
    values = [_value(variable) for variable in known]
    agreement.agree(_call("average", "variables", values))
    joined = np.concatenate([np.asarray(value, np.float64).reshape(-1) for value in values])
    agreement.transport.allreduce(joined)
    joined /= agreement.transport.size
    start = 0
    for variable, value in paired(known, values):
        variable.assign(joined[start : start + value.size].reshape(value.shape).astype(value.dtype))
        start += value.size


def summed(values: list[Any], what: str) -> list[Any]:
    """The sums over the ranks of some arrays, in one exchange, made in float64."""
    agreement = world.agreement()
    if agreement.transport.size == 1 or not values:
        return values
    agreement.agree(_call("sum", what, values))
    joined = np.concatenate([np.asarray(value, np.float64).reshape(-1) for value in values])
    agreement.transport.allreduce(joined)
    results: list[Any] = []
    start = 0
    for value in values:
        results.append(joined[start : start + value.size].reshape(value.shape).astype(value.dtype))
        start += value.size
    return results


def _value(variable: Any) -> Any:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)


def _name(dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype))


def _call(kind: str, what: str, values: list[Any], settings: str = "") -> Call:
    return Call(kind, what, tuple((value.dtype.name, value.shape) for value in values), settings)
