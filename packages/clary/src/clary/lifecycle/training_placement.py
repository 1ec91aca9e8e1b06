"""The queue: which training job may start, and the hosts that it then gets. First come, first served."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from dataclasses import replace

from clary.cluster.base import Cluster, Node, Placement, Resources
from clary.cluster.instance_types import gpus_asked, resources_for
from clary.front.credentials import CredentialStore
from clary.lifecycle.host_specs import instance_types_of
from clary.lifecycle.tokens import report_token
from clary.state.endpoints import EndpointReplica
from clary.state.places import Reservation
from clary.state.training_jobs import TrainingHost, TrainingJob, hash_token, move_to

_GIB = 1024**3


class NeverFits(Exception):
    """The machines here cannot hold the job even when they are empty. The text says what is missing."""


def find_place(cluster: Cluster, job: TrainingJob, taken: Sequence[Reservation]) -> tuple[Placement, ...] | None:
    """A placement for every host of a job, or None when it has to wait.

    Args:
        cluster: where.
        job: waiting.
        taken: what other hosts hold now. Endpoints are there to stay: the job is scaled to what they leave.

    Raises:
        NeverFits: waiting would not help.
    """
    nodes = cluster.nodes()
    types = instance_types_of(job.request)
    if not nodes:
        return None
    wanted = resources_for([instance_type for instance_type, _ in types], beside_lasting(nodes, taken))
    gpus = gpus_asked(job.request.get("Environment", {}))
    if gpus is not None and any(node.total.gpus for node in nodes):
        wanted = tuple(replace(item, gpus=gpus) for item in wanted)
    place = cluster.place(wanted, tuple(placement_of(reservation) for reservation in taken))
    if place is None and cluster.place(wanted, ()) is None:
        raise NeverFits(what_is_missing(wanted, nodes, "job's"))
    return place


def record_hosts(
    job: TrainingJob, placements: Sequence[Placement], credentials: CredentialStore, at: dt.datetime
) -> None:
    """Reserve the places: the rows of the hosts of a new attempt are the reservation."""
    job.attempt += 1
    job.stage = "placed"
    alone = len(placements) == 1
    for position, (placement, (instance_type, group)) in enumerate(
        zip(placements, instance_types_of(job.request), strict=True)
    ):
        name = f"algo-{position + 1}"
        host_id = f"{job.name[:32]}-{position + 1}-{secrets.token_hex(6)}"
        job.hosts.append(
            TrainingHost(
                host_id=host_id,
                job_name=job.name,
                attempt=job.attempt,
                position=position,
                name=name,
                instance_type=instance_type,
                instance_group=group,
                node=placement.node,
                cpus=placement.resources.cpus,
                memory_bytes=placement.resources.memory_bytes,
                gpus=placement.resources.gpus,
                gpu_indices=list(placement.gpu_indices),
                token_hash=hash_token(report_token(credentials, host_id)),
                log_stream=f"{job.name}/{name}-{int(at.timestamp())}",
                created_time=at,
                phases=[],
                start_ordered=alone,  # it has nobody to wait for
                merge_ordered=alone,
            )
        )
    move_to(job, "Starting", "Preparing the instances for training", at)


def beside_lasting(nodes: Sequence[Node], taken: Sequence[Reservation]) -> tuple[Node, ...]:
    """The machines with the processors and memory that endpoints leave. GPUs stay: a job waits for one, it does not
    run without."""
    left: list[Node] = []
    for node in nodes:
        lasting = [item for item in taken if item.lasting and item.node == node.name]
        rest = Resources(
            cpus=max(node.total.cpus - sum(item.cpus for item in lasting), 0.0),
            memory_bytes=max(node.total.memory_bytes - sum(item.memory_bytes for item in lasting), 0),
            gpus=node.total.gpus,
        )
        left.append(Node(node.name, rest))
    return tuple(left)


def placement_of(host: TrainingHost | EndpointReplica | Reservation) -> Placement:
    """The place that a host's row reserves."""
    resources = Resources(cpus=host.cpus, memory_bytes=host.memory_bytes, gpus=host.gpus)
    return Placement(node=host.node, resources=resources, gpu_indices=tuple(host.gpu_indices))


def what_is_missing(wanted: Sequence[Resources], nodes: Sequence[Node], whose: str) -> str:
    """Why hosts cannot be placed even on empty machines, in a sentence. `whose` is for instance "job's"."""
    asked = _amount(
        sum(item.cpus for item in wanted), sum(item.memory_bytes for item in wanted), sum(item.gpus for item in wanted)
    )
    there = _amount(
        sum(node.total.cpus for node in nodes),
        sum(node.total.memory_bytes for node in nodes),
        sum(node.total.gpus for node in nodes),
    )
    machines = "this machine has" if len(nodes) == 1 else f"the {len(nodes)} machines have"
    return f"The {whose} {len(wanted)} host(s) need at least {asked}; {machines} {there} for jobs."


def _amount(cpus: float, memory_bytes: int, gpus: float) -> str:
    return f"{cpus:g} CPUs, {memory_bytes / _GIB:.1f} GiB of memory and {gpus:g} GPUs"
