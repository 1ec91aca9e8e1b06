"""Buckets of gradients summed on the devices by TensorFlow's collectives, with the checks and the weights by MPI.

An exchange is three steps of the graph, each after the one before, and exchanges are chained as all collectives are:
the handshake over MPI (which also tells everyone's weight and the instance key), the sum on the devices, and the news
that it is done. So all ranks start the same sums in the same order, and nobody waits unwatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clary_parallel.data import graph, world
from clary_parallel.data.agreement import Call
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import paired

if TYPE_CHECKING:
    from clary_parallel.data.collectives import Collectives

Tensor = Any
ON_DEVICES = "fused allreduce on the devices"
_GROUP = 1  # All ranks of the job; there is no other group.


def mean_of_bucket(
    tensors: Sequence[Tensor], what: str, weight: Tensor, *, average: bool = True, check: graph.Check | None = None
) -> list[Tensor]:
    """`graph.mean_of_bucket`, summed where `world.collectives` says. The tensors' shapes are known."""
    devices = world.collectives()
    if devices is None:
        return graph.mean_of_bucket(tensors, what, weight, average=average, check=check)
    of = tuple((tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors)
    call = Call(ON_DEVICES, what, of, "average" if average else "sum")

    def handshake(weight_here: Any) -> tuple[Any, Any]:
        world.agreement().agree(call)
        return _begin(devices, call, float(weight_here))

    def finish(*arrays: Any) -> Any:
        devices.finish()
        if check is not None:
            check(arrays[: len(tensors)], arrays[len(tensors) :])
        return np.zeros((), np.int32)

    with tf.device(devices.device):
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
    with tf.control_dependencies([flat]):
        key, scales = graph.collective(handshake, [tf.cast(weight, tf.float32)], [tf.int32, tf.float64])
    with tf.device(devices.device):
        reduced = _summed(devices, flat, key, scales)
        parts = tf.split(reduced, [tensor.shape.num_elements() for tensor in tensors])
        outputs = [tf.reshape(part, tensor.shape) for part, tensor in paired(parts, tensors)]
    with tf.control_dependencies([reduced]):
        (done,) = graph.collective(finish, [*tensors, *outputs] if check is not None else [], [tf.int32])
    if check is not None:
        # Nothing is done with means that are refused.
        with tf.control_dependencies([done]):
            outputs = [tf.identity(output) for output in outputs]
    return outputs


def zeros_for(call: Call) -> None:
    """`graph.zeros_for`, also for sums on the devices."""
    devices = world.collectives()
    if devices is None or call.kind != ON_DEVICES:
        graph.zeros_for(call)
        return
    key, scales = _begin(devices, call, 0.0)
    count = sum(int(np.prod(shape)) for _, shape in call.of)
    with tf.device(devices.device):
        _summed(devices, tf.zeros([count], tf.as_dtype(call.of[0][0])), tf.constant(key), tf.constant(scales))
    devices.finish()


def _begin(devices: Collectives, call: Call, weight: float) -> tuple[Any, Any]:
    """The instance key, and what each rank's gradients are multiplied with; after it, the sum is awaited."""
    transport: Any = world.transport()
    weights = transport.allgather_joined(np.array([weight]))
    if call.settings == "average":
        scales = weights / max(float(weights.sum()), float(np.finfo(np.float64).tiny))
    else:
        scales = np.ones(devices.size)
    key = np.int32(devices.key(call))
    devices.begin(transport)
    return key, scales


def _summed(devices: Collectives, flat: Tensor, key: Tensor, scales: Tensor) -> Tensor:
    group = {
        "group_size": devices.size,
        "group_key": _GROUP,
        "communication_hint": devices.hint,
        "ordering_token": [],
    }
    if flat.dtype not in graph.HALF:
        mine = flat * tf.cast(scales[devices.rank], flat.dtype)
        return tf.raw_ops.CollectiveReduceV2(input=mine, instance_key=key, merge_op="Add", final_op="Id", **group)
    # As `fusion.allreduce_half`: half the bytes travel, each rank sums one share in float32, all get all sums. What is
    # only moved is called float16, since gathering does not know bfloat16.
    count = tf.size(flat)
    padded = tf.bitcast(tf.pad(flat, [[0, -count % devices.size]]), tf.float16)
    shares = tf.raw_ops.CollectiveAllToAllV2(input=tf.reshape(padded, [devices.size, -1]), instance_key=key, **group)
    total = tf.tensordot(tf.cast(scales, tf.float32), tf.cast(tf.bitcast(shares, flat.dtype), tf.float32), 1)
    sent = tf.bitcast(tf.cast(total, flat.dtype), tf.float16)
    joined = tf.raw_ops.CollectiveGatherV2(input=sent, instance_key=key + 1, **group)
    return tf.bitcast(joined, flat.dtype)[:count]
