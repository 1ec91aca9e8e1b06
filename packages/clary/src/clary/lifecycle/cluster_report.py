"""What `clary status` shows of the machines: what each has and who holds it, and who waits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from clary.cluster.base import Cluster, Node
from clary.settings import Settings
from clary.state.database import Database
from clary.state.places import Reservation, reservations
from clary.state.training_jobs import TrainingJob

_GIB = 1024**3


def report(database: Database, cluster: Cluster, settings: Settings) -> dict[str, Any]:
    """The cluster now, as plain data.

    Args:
        database: the record.
        cluster: of jobs.
        settings: with the address at which hosts reach the server.
    """
    nodes = cluster.nodes()
    with database.reading() as session:
        taken = reservations(session)
        queue = list(
            session.scalars(select(TrainingJob.name).where(TrainingJob.stage == "queued").order_by(TrainingJob.id))
        )
    return {
        "kind": settings.cluster,
        "problem": cluster.problem(),
        "server_for_hosts": settings.url_for_hosts,
        "nodes": [_node(node, [item for item in taken if item.node == node.name]) for node in nodes],
        "queue": queue,
    }


def _node(node: Node, held: list[Reservation]) -> dict[str, Any]:
    return {
        "name": node.label or node.name,
        "id": node.name,
        "cpus": node.total.cpus,
        "memory_gib": round(node.total.memory_bytes / _GIB, 1),
        "gpus": node.total.gpus,
        "cpus_taken": round(sum(item.cpus for item in held), 3),
        "memory_gib_taken": round(sum(item.memory_bytes for item in held) / _GIB, 1),
        "gpus_taken": sum(item.gpus for item in held),
        "hosts": sorted(item.owner for item in held),
    }
