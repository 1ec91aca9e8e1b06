"""Ranks that talk: whole Python objects, sent, received, gathered.

As in SageMaker's library a broadcast is a message to each rank of a group, which those ranks take with `recv_from`.
Everything goes by ranks of the world, so that sender and receiver may name each other by different groups.
"""

from __future__ import annotations

import pickle
from enum import Enum
from typing import Any

import numpy as np

from clary_parallel.modelparallel import job
from clary_parallel.transport import Transport

_LENGTH_TAG, _CONTENT_TAG = 32_000, 32_001


class CommGroup(Enum):
    """Which ranks take part. Nothing is tensor parallel, so PP_GROUP is MP_GROUP and RDP_GROUP is DP_GROUP."""

    WORLD = "world"
    MP_GROUP = "model"
    DP_GROUP = "replicas"
    PP_GROUP = MP_GROUP
    RDP_GROUP = DP_GROUP


class RankType(Enum):
    """What a rank's number counts. PP_RANK is MP_RANK and RDP_RANK is DP_RANK."""

    WORLD_RANK = "world"
    MP_RANK = "model"
    DP_RANK = "replicas"
    PP_RANK = MP_RANK
    RDP_RANK = DP_RANK


def rank() -> int:
    """This process's number in the job, from 0."""
    return job.current().world.rank


def size() -> int:
    """How many processes the job has."""
    return job.current().world.size


def local_rank() -> int:
    """This process's number on its host, from 0."""
    return job.current().world.local_rank


def local_size() -> int:
    """How many of the job's processes run on this host."""
    return job.current().world.local_size


def mp_rank() -> int:
    """The partition that this process holds."""
    return job.current().model.rank


def mp_size() -> int:
    """How many processes hold one model: the number of partitions."""
    return job.current().model.size


def dp_rank() -> int:
    """The replica of the model of which this process holds a part."""
    return job.current().replicas.rank


def dp_size() -> int:
    """How many replicas of the model are trained."""
    return job.current().replicas.size


def tp_rank() -> int:
    """Always 0: nothing is tensor parallel."""
    return job.current().world.rank * 0


def tp_size() -> int:
    """Always 1: nothing is tensor parallel."""
    return job.current().world.size * 0 + 1


def get_mp_group() -> list[int]:
    """The world's ranks that hold this process's replica of the model."""
    return members(job.current(), "model")


def get_dp_group() -> list[int]:
    """The world's ranks that hold the same partition as this process."""
    return members(job.current(), "replicas")


def send(obj: Any, dest_rank: int, rank_type: RankType = RankType.WORLD_RANK) -> None:
    """Send an object (anything that pickles) to a rank, which calls `recv_from`."""
    here = job.current()
    _send(here.world, obj, [members(here, rank_type.value)[_checked(here, dest_rank, rank_type)]])


def recv_from(src_rank: int, rank_type: RankType = RankType.WORLD_RANK) -> Any:
    """The next object that a rank sent or broadcast to this one."""
    here = job.current()
    source = members(here, rank_type.value)[_checked(here, src_rank, rank_type)]
    length = np.zeros(1, np.int64)
    here.world.irecv(length, source, _LENGTH_TAG).wait()
    content = np.empty(int(length[0]), np.uint8)
    here.world.irecv(content, source, _CONTENT_TAG).wait()
    return pickle.loads(content.tobytes())


def broadcast(obj: Any, group: CommGroup = CommGroup.WORLD) -> None:
    """Send an object to all other ranks of a group; each takes it with `recv_from`."""
    here = job.current()
    _send(here.world, obj, [member for member in members(here, group.value) if member != here.world.rank])


def allgather(obj: Any, group: CommGroup = CommGroup.WORLD) -> list[Any]:
    """The objects of all ranks of a group, by rank. Every rank of the group calls it."""
    return _transport(job.current(), group.value).allgather_object(obj)


def barrier(group: CommGroup = CommGroup.WORLD) -> None:
    """Return when every rank of a group has called it."""
    _transport(job.current(), group.value).barrier()


def mp_barrier() -> None:
    """Return when all ranks of this replica of the model have called it."""
    barrier(CommGroup.MP_GROUP)


def dp_barrier() -> None:
    """Return when all ranks that hold the same partition have called it."""
    barrier(CommGroup.DP_GROUP)


def members(here: job.Job, kind: str) -> list[int]:
    """The world's ranks of this rank's group of a kind, in the group's order."""
    if kind == "world":
        return list(range(here.world.size))
    mine = next(group for group in here.groups if here.world.rank in group)
    return list(mine) if kind == "model" else [group[here.model.rank] for group in here.groups]


def _transport(here: job.Job, kind: str) -> Transport:
    return {"world": here.world, "model": here.model, "replicas": here.replicas}[kind]


def _checked(here: job.Job, number: int, rank_type: RankType) -> int:
    count = len(members(here, rank_type.value))
    if not 0 <= number < count:
        raise ValueError(f"There is no {rank_type.name} {number}: there are {count}, from 0.")
    return number


def _send(world: Transport, obj: Any, targets: list[int]) -> None:
    content = np.frombuffer(pickle.dumps(obj, pickle.HIGHEST_PROTOCOL), np.uint8).copy()
    length = np.array([content.size], np.int64)
    requests = [world.isend(length, target, _LENGTH_TAG) for target in targets]
    requests += [world.isend(content, target, _CONTENT_TAG) for target in targets]
    for request in requests:
        request.wait()
