"""The places of replicas: beside training jobs and other endpoints, all that a plan lacks together or none."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from clary.cluster.base import Cluster, Placement
from clary.cluster.instance_types import serving_resources
from clary.front.credentials import CredentialStore
from clary.lifecycle.endpoint_progress import Vacancy
from clary.lifecycle.tokens import report_token
from clary.lifecycle.training_placement import NeverFits, placement_of, what_is_missing
from clary.state.database import now
from clary.state.endpoints import Endpoint, EndpointReplica
from clary.state.places import Reservation, hold, reservations
from clary.state.training_jobs import hash_token


def fill(
    session: Session, cluster: Cluster, credentials: CredentialStore, endpoint: Endpoint, vacancies: Sequence[Vacancy]
) -> bool:
    """Give vacancies their places: rows of replicas, which are the reservation. False when they have to wait.

    Raises:
        NeverFits: waiting would not help.
    """
    hold(session)
    places = _find_places(cluster, endpoint, vacancies, reservations(session))
    if places is None:
        return False
    at = now()
    for vacancy, place in zip(vacancies, places, strict=True):
        number = secrets.token_hex(9)[:17]
        host_id = f"{endpoint.name[:20]}-{number}"  # short: a socket's path has 107 characters
        endpoint.replicas.append(
            EndpointReplica(
                host_id=host_id,
                endpoint_name=endpoint.name,
                generation=vacancy.generation,
                variant=vacancy.variant,
                position=vacancy.position,
                attempt=vacancy.attempt,
                instance_type=vacancy.instance_type,
                node=place.node,
                cpus=place.resources.cpus,
                memory_bytes=place.resources.memory_bytes,
                gpus=place.resources.gpus,
                gpu_indices=list(place.gpu_indices),
                token_hash=hash_token(report_token(credentials, host_id)),
                log_stream=f"{vacancy.variant}/i-{number}",
                created_time=at,
                start_after=vacancy.start_after,
                phase="Starting",
                phases=[],
                routed=False,
                wanted="run",
                logs_received=0,
                metrics_received=0,
            )
        )
    return True


def _find_places(
    cluster: Cluster, endpoint: Endpoint, vacancies: Sequence[Vacancy], taken: Sequence[Reservation]
) -> tuple[Placement, ...] | None:
    nodes = cluster.nodes()
    if not nodes:
        return None
    wanted = tuple(serving_resources(vacancy.instance_type, nodes)[0] for vacancy in vacancies)
    places = cluster.place(wanted, tuple(placement_of(item) for item in taken))
    if places is None and any(resources.gpus for resources in wanted):
        # Two generations of one endpoint may share GPUs for the time of an update: it would never end otherwise.
        older = {r.host_id for r in endpoint.replicas if r.generation < vacancies[0].generation}
        shared = [replace(item, gpus=0, gpu_indices=()) if item.host_id in older else item for item in taken]
        places = cluster.place(wanted, tuple(placement_of(item) for item in shared))
    if places is None and cluster.place(wanted, ()) is None:
        raise NeverFits(what_is_missing(wanted, nodes, "endpoint's"))
    return places
