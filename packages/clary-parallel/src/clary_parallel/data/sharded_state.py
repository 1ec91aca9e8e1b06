"""Optimizer state shared among the ranks (Rajbhandari et al., "ZeRO", 2020, stage 1).

Each variable has an owner: the rank that keeps its moments and updates it. Gradients are averaged as ever; then every
rank updates its own variables and all gather what the others updated. Memory for Adam's state falls from two copies of
the weights to two n-th parts; the gather sends the weights once more a step. Results are the same, clipping included.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clary_parallel.data import graph, world
from clary_parallel.data.agreement import Call
from clary_parallel.data.fusion import ALIGNMENT
from clary_parallel.data.ownership import owners
from clary_parallel.frameworks import keras, tf
from clary_parallel.older_pythons import paired

if TYPE_CHECKING:
    Update = Callable[[Sequence[Any], Sequence[Any]], None]


def shard(optimizer: Any) -> Update:
    """Make a Keras 3 optimizer keep this rank's share of its state; returns what applies averaged gradients.

    Raises ValueError for loss scaling and moving averages of weights, which look at all variables at once.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "shard_optimizer does not go with loss scaling (mixed_float16): each rank would look for overflow in its "
            "own share only. Use mixed_bfloat16, or leave shard_optimizer out."
        )
    if getattr(optimizer, "use_ema", False):
        raise ValueError("shard_optimizer does not go with use_ema=True, which needs every variable on each rank.")
    build, apply = optimizer.build, optimizer.apply

    def mine(variables: Sequence[Any]) -> list[int]:
        sizes = [int(np.prod(variable.shape)) for variable in variables]
        return [index for index, owner in enumerate(owners(sizes, world.size())) if owner == world.rank()]

    def build_share(variables: Sequence[Any]) -> None:
        build([variables[index] for index in mine(variables)])

    def update(means: Sequence[Any], variables: Sequence[Any]) -> None:
        if not optimizer.built:
            with tf.init_scope():
                build_share(variables)
        own = mine(variables)
        # By the norm of all gradients, where that is asked for; clipping the share again changes nothing.
        clipped = optimizer._clip_gradients(list(means))
        chosen = [index for index in own if clipped[index] is not None]
        if chosen:
            apply([clipped[index] for index in chosen], [variables[index] for index in chosen])
        else:
            optimizer.iterations.assign_add(1)
        _gather(variables)

    optimizer.build = build_share
    optimizer._clary_sharded = True
    return update


def whole_variables(optimizer: Any) -> list[Any]:
    """The optimizer's variables that all ranks have: without the state of single variables, where that is shared."""
    if not getattr(optimizer, "_clary_sharded", False):
        return list(optimizer.variables)
    common = (optimizer.iterations, optimizer._learning_rate)
    return [variable for variable in optimizer.variables if any(variable is each for each in common)]


def _gather(variables: Sequence[Any]) -> None:
    """Give every rank what the others updated."""
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    tensors = [tf.convert_to_tensor(variable) for variable in variables]
    kinds = [tensor.dtype.as_numpy_dtype for tensor in tensors]
    spaces = [-(-size * np.dtype(kind).itemsize // ALIGNMENT) * ALIGNMENT for size, kind in paired(sizes, kinds)]
    owner = owners(sizes, world.size())
    order = sorted(range(len(variables)), key=lambda index: (owner[index], index))
    starts = dict(paired(order, itertools.accumulate([0, *(spaces[index] for index in order[:-1])])))
    rank = world.rank()
    own = [index for index in order if owner[index] == rank]
    others = [index for index in range(len(variables)) if owner[index] != rank]

    def exchange(*arrays: Any) -> list[Any]:
        agreement = world.agreement()
        shapes = tuple((tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors)
        agreement.agree(Call("gather", "updated variables", shapes))
        sent = np.zeros(sum(spaces[index] for index in own), np.uint8)
        at = 0
        for index, array in paired(own, arrays):
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            sent[at : at + raw.size] = raw
            at += spaces[index]
        joined = agreement.transport.allgather_joined(sent)
        return [_part(joined, starts[index], sizes[index], kinds[index], tensors[index].shape) for index in others]

    if others:
        received = graph.collective(exchange, [tensors[index] for index in own], [kinds[index] for index in others])
        for index, value in paired(others, received):
            value.set_shape(tensors[index].shape)
            variables[index].assign(value)


def _part(joined: Any, start: int, size: int, kind: Any, shape: Any) -> Any:
    return joined[start : start + size * np.dtype(kind).itemsize].view(kind).reshape(tuple(shape))
