"""The ranks of a model parallel job: which of them hold one model (MP), and which the same part of one (DP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clary_parallel.data import world
from clary_parallel.errors import ParallelError
from clary_parallel.modelparallel.parameters import ParameterError, Parameters, job_parameters
from clary_parallel.partitioning import place
from clary_parallel.transport import Transport, mpi
from clary_parallel.transport.inprocess import solo


@dataclass(frozen=True)
class Job:
    """This rank's view of the job.

    Args:
        parameters: How the model is parted.
        world: All ranks.
        model: The ranks that hold one model together, in the order of its partitions.
        replicas: The ranks that hold the same partition of different replicas of the model.
        groups: Ranks of the world of each replica.
    """

    parameters: Parameters
    world: Transport
    model: Transport
    replicas: Transport
    groups: tuple[tuple[int, ...], ...]


_job: Job | None = None


def start(given: Mapping[str, Any] | None = None) -> Job:
    """Join the job's ranks and divide them into groups; every rank calls it, once.

    Raises:
        ParameterError: A parameter is wrong, or does not fit the number of ranks.
    """
    global _job
    if _job is not None:
        if given is not None and job_parameters(given) != _job.parameters:
            raise ParallelError("smp.init was called before, with other parameters. Call it once.")
        return _job
    parameters = job_parameters(given)
    if world.is_initialized():
        raise ParallelError(
            "The ranks were connected before smp.init(). Call smp.init() first; with Horovod set the parameter "
            '"horovod": True, and do not call hvd.init().'
        )
    everyone = mpi.connect() if mpi.launched() else solo()
    try:
        groups = place(everyone.size, parameters.partitions, parameters.placement_strategy)
    except ValueError as error:
        raise ParameterError(f"{error} In a job, that is processes_per_host times the number of hosts.") from error
    mine = next(group for group in groups if everyone.rank in group)
    place_of_mine = mine.index(everyone.rank)
    model = _group(everyone, mine)
    replicas = _group(everyone, [group[place_of_mine] for group in groups])
    everyone.call_ranks(
        {
            rank: f"partition {partition} of replica {replica}" if len(groups) > 1 else f"partition {partition}"
            for replica, group in enumerate(groups)
            for partition, rank in enumerate(group)
        }
    )
    world.join(replicas if parameters.horovod else everyone)
    _job = Job(parameters, everyone, model, replicas, tuple(tuple(group) for group in groups))
    return _job


def current() -> Job:
    """The job; an error before `start`."""
    if _job is None:
        raise ParallelError("Call smp.init() first, at the beginning of the script.")
    return _job


def started() -> bool:
    """Whether `start` was called."""
    return _job is not None


def _group(everyone: Transport, members: list[int]) -> Transport:
    group = everyone.group(members)
    if group is None:
        raise ParallelError(f"Rank {everyone.rank} is not in its own group {members}.")
    return group
