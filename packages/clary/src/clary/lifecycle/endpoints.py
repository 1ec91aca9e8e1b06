"""The controller of endpoints: from a plan through its replicas to service, one small recorded step at a time.

Every step may be repeated: after kill -9 of the server the next one finds in the record, and asks the cluster, how far
things are. Replicas serve on meanwhile. Methods block; the loop runs them on threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session, selectinload

from clary.cluster.base import Cluster
from clary.front.credentials import CredentialStore
from clary.host.serving_spec import ReplicaSpec
from clary.host.spec import Ending
from clary.lifecycle import endpoint_placement
from clary.lifecycle.endpoint_progress import Fill, ReplicaAction, Vacancy, advance
from clary.lifecycle.replica_specs import replica_spec
from clary.lifecycle.tokens import report_token
from clary.lifecycle.training_placement import placement_of
from clary.services import host_reports
from clary.settings import Settings
from clary.state import changes, tags
from clary.state.database import Database, now
from clary.state.endpoints import Endpoint, EndpointReplica
from clary.state.leases import Lease, LeaseLost, claim, keep
from clary.state.routing import routing_changed
from clary.storage.access import StoreAccess

LEASE_SECONDS = 5.0  # what an endpoint waits at most when the server that was working on it is killed
_LIVENESS_SECONDS = 1.0
_EXIT_SECONDS = 5.0  # a supervisor whose ending is recorded has this long to tidy up by itself

_Change = Callable[[Session, Endpoint], None]
_log = logging.getLogger(__name__)


class EndpointController:
    """Drives endpoints. Several may run on one database: a lease on the endpoint's row keeps them apart."""

    kind = "endpoint"

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        store: StoreAccess,
        settings: Settings,
        credentials: CredentialStore,
    ) -> None:
        self._database = database
        self._cluster = cluster
        self._store = store
        self._settings = settings
        self._credentials = credentials
        self._looked_for_lost = 0.0

    def due(self) -> list[int]:
        """The endpoints, by id, for which there is a step to take now: found by trying on rows that are thrown away."""
        if time.monotonic() - self._looked_for_lost > _LIVENESS_SECONDS:
            self._record_lost_replicas()
            self._looked_for_lost = time.monotonic()
        with self._database.reading() as session, session.no_autoflush:
            endpoints = session.scalars(select(Endpoint).options(selectinload(Endpoint.replicas))).all()
            return [
                endpoint.id
                for endpoint in endpoints
                if advance(endpoint, now(), self._filling(session))
                or any(session.is_modified(row) for row in (endpoint, *endpoint.replicas))
            ]

    def step(self, resource_id: int) -> None:
        """Take every step that can be taken for an endpoint now. Does nothing when another controller is at it."""
        for lease in claim(self._database, Endpoint, Endpoint.id == resource_id, seconds=LEASE_SECONDS):
            try:
                with keep(self._database, lease):
                    actions = self._record(lease, _nothing)
                    while actions:
                        actions = self._perform(lease, actions[0])
            except LeaseLost:
                _log.warning("lost the lease on endpoint %s: another server goes on with it", resource_id)
            finally:
                lease.release(self._database)

    def _record(self, lease: Lease, change: _Change) -> list[ReplicaAction]:
        """Change an endpoint's rows, bring them up to date with what replicas reported, and say what is to be done."""
        with lease.apply(self._database, release=False) as session:
            endpoint = session.get_one(Endpoint, lease.key, options=[selectinload(Endpoint.replicas)])
            before = _routed(endpoint)
            change(session, endpoint)
            actions = advance(endpoint, now(), self._filling(session))
            rerouted = _routed(endpoint) != before
            if rerouted:
                routing_changed(session)
        if rerouted:
            changes.announce(self._database, "endpoint", endpoint.name)
        return actions

    def _filling(self, session: Session) -> Fill:
        def fill(endpoint: Endpoint, vacancies: Sequence[Vacancy]) -> bool:
            return endpoint_placement.fill(session, self._cluster, self._credentials, endpoint, vacancies)

        return fill

    def _perform(self, lease: Lease, action: ReplicaAction) -> list[ReplicaAction]:
        """Do something outside the database and record it."""
        if action.kind == "forget":
            self._forget(lease)
            return []
        with self._database.reading() as session:
            replica = session.get_one(EndpointReplica, action.host_id)
            spec = self._spec(replica) if action.kind == "start" else None
        match action.kind:
            case "start":
                assert spec is not None
                change = self._start(spec, replica)
            case "kill":
                change = self._kill(replica)
            case "release":
                change = self._release(replica)
        return self._record(lease, change)

    def _start(self, spec: ReplicaSpec, replica: EndpointReplica) -> _Change:
        try:
            handle = self._cluster.start(spec, placement_of(replica))
        except Exception as error:  # noqa: BLE001 (recorded as the ending of the replica)
            _log.exception("replica %s did not start", spec.host_id)
            return _ended(spec.host_id, "InternalError", f"The host could not be started: {error}")
        return lambda _, endpoint: setattr(_replica_of(endpoint, spec.host_id), "handle", handle)

    def _kill(self, replica: EndpointReplica) -> _Change:
        """End a replica that was told to and has not, or that was never started."""
        if replica.handle is not None:
            self._cluster.end(replica.handle)
        return _ended(replica.host_id, "Stopped", "It was not needed any more.")

    def _release(self, replica: EndpointReplica) -> _Change:
        """Clean away what a replica leaves, then give its resources to others. Its log stays."""
        if replica.handle is not None:
            deadline = time.monotonic() + _EXIT_SECONDS
            while self._cluster.state(replica.handle).status == "running" and time.monotonic() < deadline:
                time.sleep(0.01)
            self._cluster.clean(replica.handle)
        return lambda _, endpoint: endpoint.replicas.remove(_replica_of(endpoint, replica.host_id))

    def _forget(self, lease: Lease) -> None:
        with lease.apply(self._database, release=False) as session:
            endpoint = session.get_one(Endpoint, lease.key)
            if endpoint.status == "Deleting" and not endpoint.replicas:
                tags.remove_all(session, endpoint.arn)
                session.delete(endpoint)
                routing_changed(session)
        changes.announce(self._database, "endpoint", endpoint.name)

    def _spec(self, replica: EndpointReplica) -> ReplicaSpec:
        return replica_spec(
            replica.endpoint,
            replica,
            token=report_token(self._credentials, replica.host_id),
            nodes=self._cluster.nodes(),
            settings=self._settings,
            credentials=self._credentials,
            store=self._store,
        )

    def _record_lost_replicas(self) -> None:
        """Give replicas whose supervisor is gone the ending that they could not report."""
        unfinished = self._database.query(
            select(EndpointReplica.host_id, EndpointReplica.handle).where(
                EndpointReplica.ending.is_(None), EndpointReplica.handle.is_not(None)
            )
        )
        for host_id, handle in unfinished:
            seen = self._cluster.state(handle)
            if seen.status == "running":
                continue
            left = self._cluster.unreported(handle)
            if left is not None:
                host_reports.receive(self._database, host_id, report_token(self._credentials, host_id), left)
            message = f"The host was lost: {seen.detail or 'it left no report'}."
            with self._database.transaction() as session:
                # What it reported with its last breath counts: only a replica without an ending gets this one.
                session.execute(
                    update(EndpointReplica)
                    .where(EndpointReplica.host_id == host_id, EndpointReplica.ending.is_(None))
                    .values(ending=_ending("InternalError", message), ended_time=now())
                )


def _routed(endpoint: Endpoint) -> tuple[object, ...]:
    """All of an endpoint that the routing table is made of."""
    replicas = sorted((replica.host_id, replica.address or "") for replica in endpoint.replicas if replica.routed)
    shift = (endpoint.target or {}).get("shift")
    return endpoint.status, endpoint.serving, shift, replicas


def _nothing(_session: Session, _endpoint: Endpoint) -> None: ...


def _replica_of(endpoint: Endpoint, host_id: str) -> EndpointReplica:
    return next(replica for replica in endpoint.replicas if replica.host_id == host_id)


def _ended(host_id: str, cause: str, message: str) -> _Change:
    """Record an ending that the replica did not report itself; one that it did report stays."""

    def change(_session: Session, endpoint: Endpoint) -> None:
        replica = _replica_of(endpoint, host_id)
        if replica.ending is None:
            replica.ending, replica.ended_time = _ending(cause, message), now()

    return change


def _ending(cause: str, message: str) -> dict[str, object]:
    return Ending.model_validate({"cause": cause, "message": message}).model_dump(mode="json")
