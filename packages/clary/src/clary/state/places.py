"""What hosts hold of the machines: those of training jobs and the replicas of endpoints alike.

Whoever gives a host its place calls `hold`, reads `reservations` and records the host, all in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from clary.state.database import table_of
from clary.state.endpoints import EndpointReplica
from clary.state.training_jobs import TrainingHost

_LOCK = 0x706C61636573  # PostgreSQL's advisory lock on giving places


@dataclass(frozen=True)
class Reservation:
    """What one host holds. A `lasting` one is held until someone decides otherwise: jobs are fitted beside it."""

    host_id: str
    node: str
    cpus: float
    memory_bytes: int
    gpus: float
    gpu_indices: tuple[int, ...]
    lasting: bool
    owner: str  # the job's or endpoint's name


def hold(session: Session) -> None:
    """Let nobody else give places until this transaction ends. On SQLite its write lock does that already."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


def reservations(session: Session) -> list[Reservation]:
    """What is taken now."""
    host, replica = table_of(TrainingHost).c, table_of(EndpointReplica).c
    of_jobs = select(
        host.host_id, host.node, host.cpus, host.memory_bytes, host.gpus, host.gpu_indices, host.job_name
    ).where(host.released.is_(False))
    of_endpoints = select(
        replica.host_id,
        replica.node,
        replica.cpus,
        replica.memory_bytes,
        replica.gpus,
        replica.gpu_indices,
        replica.endpoint_name,
    )
    return [
        Reservation(host_id, node, cpus, memory, gpus, tuple(indices), lasting, owner)
        for lasting, statement in ((False, of_jobs), (True, of_endpoints))
        for host_id, node, cpus, memory, gpus, indices, owner in session.execute(statement)
    ]
