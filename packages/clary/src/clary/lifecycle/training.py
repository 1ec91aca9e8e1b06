"""The controller of training jobs: from the queue through their hosts to the end, one small recorded step at a time.

Every step may be repeated: after kill -9 of the server the next one finds in the record, and asks the cluster, how far
things are. Methods block; the loop runs them on threads.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session, object_session, selectinload

from clary.cluster.base import Cluster, Placement, PlacesTaken
from clary.front.credentials import CredentialStore
from clary.host.spec import Ending, HostSpec
from clary.lifecycle.failure_reasons import capacity_reason
from clary.lifecycle.host_specs import host_spec
from clary.lifecycle.tokens import report_token
from clary.lifecycle.training_placement import NeverFits, find_place, placement_of, record_hosts
from clary.lifecycle.training_progress import HostAction, advance, finish
from clary.services import host_reports
from clary.settings import Settings
from clary.state import metrics
from clary.state.database import Database, now
from clary.state.leases import Lease, LeaseLost, claim, keep
from clary.state.places import hold, reservations
from clary.state.training_jobs import TERMINAL_STATUSES, TrainingHost, TrainingJob, move_to
from clary.storage.access import StoreAccess

PENDING_AFTER = dt.timedelta(seconds=1)  # a place that is just being cleaned up is no waiting to tell of
LEASE_SECONDS = 5.0  # what a job waits at most when the server that was working on it is killed
_LIVENESS_SECONDS = 1.0
_EXIT_SECONDS = 5.0  # a supervisor whose ending is recorded has this long to tidy up by itself
_NEWCOMERS_AT_ONCE = 200

_log = logging.getLogger(__name__)


class TrainingController:
    """Drives training jobs. Several may run on one database: a lease on the job's row keeps them apart."""

    kind = "training job"

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        store: StoreAccess | None,
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
        """The jobs, by id, for which there is a step to take now. Reads only, but for hosts that are found lost."""
        if time.monotonic() - self._looked_for_lost > _LIVENESS_SECONDS:
            self._record_lost_hosts()
            self._looked_for_lost = time.monotonic()
        with self._database.reading() as session:
            return self._due_in_queue(session) + self._due_at_work(session)

    def step(self, resource_id: int) -> None:
        """Take every step that can be taken for a job now. Does nothing when another controller is at it."""
        for lease in claim(
            self._database,
            TrainingJob,
            TrainingJob.id == resource_id,
            TrainingJob.stage != "settled",
            seconds=LEASE_SECONDS,
        ):
            try:
                with keep(self._database, lease):
                    actions = self._place(lease)
                    while actions:
                        actions = self._perform(lease, actions[0])
            except LeaseLost:
                _log.warning("lost the lease on training job %s: another server goes on with it", resource_id)
            finally:
                lease.release(self._database)

    def _due_at_work(self, session: Session) -> list[int]:
        """Try the next step of each job on rows that are thrown away; nothing may be flushed on the way."""
        with session.no_autoflush:
            jobs = session.scalars(
                select(TrainingJob)
                .where(TrainingJob.stage.in_(("placed", "releasing")))
                .options(selectinload(TrainingJob.hosts))
            ).all()
            return [
                job.id
                for job in jobs
                if advance(job, now()) or any(session.is_modified(row) for row in (job, *job.hosts))
            ]

    def _due_in_queue(self, session: Session) -> list[int]:
        queued = select(TrainingJob.id).where(TrainingJob.stage == "queued").order_by(TrainingJob.id)
        ended = or_(TrainingJob.stop_cause.is_not(None), TrainingJob.queue_deadline < now())
        waited = TrainingJob.creation_time < now() - PENDING_AFTER
        newcomers = and_(TrainingJob.secondary_status != "Pending", waited)
        due = list(session.scalars(queued.where(or_(ended, newcomers)).limit(_NEWCOMERS_AT_ONCE)))
        head = session.get(TrainingJob, _head_of_queue(session) or 0)
        if head is not None and head.id not in due:
            try:
                if find_place(self._cluster, head, reservations(session)) is not None:
                    due.append(head.id)
            except NeverFits:
                due.append(head.id)
        return due

    def _place(self, lease: Lease) -> list[HostAction]:
        """Give a queued job its hosts, or end it, or let it wait; say what is to be done for its hosts."""

        def change(job: TrainingJob) -> None:
            at = now()
            if job.stage != "queued":
                return
            place, missing = self._find_place(job)
            if job.stop_cause:
                finish(job, job.stop_cause, at)
            elif job.queue_deadline and job.queue_deadline < at:
                wait = job.request["StoppingCondition"].get("MaxWaitTimeInSeconds")
                finish(job, "MaxWaitTimeExceeded" if wait else "Stopped", at)
            elif missing:
                finish(job, "Failed", at, failure=capacity_reason(missing))
            elif place is not None:
                record_hosts(job, place, self._credentials, now())  # under the lock: in the order of the queue
            elif at >= job.creation_time + PENDING_AFTER:
                move_to(job, "Pending", "Training job waiting for capacity", at)
            if job.status in TERMINAL_STATUSES:
                job.stage = "settled"

        return self._record(lease, change)

    def _find_place(self, job: TrainingJob) -> tuple[tuple[Placement, ...] | None, str]:
        """Where the job may go, if it is the head of the queue; otherwise, or in words, why nowhere."""
        session = object_session(job)
        assert session is not None
        if job.stop_cause or _head_of_queue(session) != job.id:
            return None, ""
        hold(session)  # endpoints are given places too
        try:
            return find_place(self._cluster, job, reservations(session)), ""
        except NeverFits as error:
            return None, str(error)

    def _record(self, lease: Lease, change: Callable[[TrainingJob], None]) -> list[HostAction]:
        """Change a job's rows, bring them up to date with what its hosts reported, and say what is to be done next."""
        with lease.apply(self._database, release=False) as session:
            job = session.get_one(TrainingJob, lease.key, options=[selectinload(TrainingJob.hosts)])
            change(job)
            session.flush()  # new rows get their defaults
            if job.stage in ("queued", "settled"):
                return []
            was_finished = job.status in TERMINAL_STATUSES
            actions = advance(job, now())
            if job.status in TERMINAL_STATUSES and not was_finished:
                job.final_metrics = _final_metrics(session, job)
            return actions

    def _perform(self, lease: Lease, action: HostAction) -> list[HostAction]:
        """Do something for one host outside the database and record it."""
        with self._database.reading() as session:
            host = session.get_one(TrainingHost, action.host_id)
            spec = self._spec(host) if action.kind == "start" else None
            together = tuple(placement_of(other) for other in _attempt_of(host))
        match action.kind:
            case "start":
                assert spec is not None
                try:
                    change = self._start(spec, placement_of(host), together)
                except PlacesTaken as error:
                    return self._record(lease, partial(_without_a_place, host_id=action.host_id, reason=str(error)))
            case "kill":
                change = self._kill(host.handle)
            case "release":
                change = self._release(host.handle)
        return self._record(lease, lambda job: change(_host_of(job, action.host_id)))

    def _start(
        self, spec: HostSpec, placement: Placement, together: tuple[Placement, ...]
    ) -> Callable[[TrainingHost], None]:
        try:
            handle = self._cluster.start(spec, placement, together)
        except PlacesTaken:
            raise
        except Exception as error:  # noqa: BLE001 (recorded as the ending of the host)
            _log.exception("host %s did not start", spec.host_id)
            ending = Ending(cause="InternalError", message=f"The host could not be started: {error}")
            return lambda host: _end(host, ending)
        return lambda host: setattr(host, "handle", handle)

    def _kill(self, handle: str | None) -> Callable[[TrainingHost], None]:
        """End a host that was told to and has not, or that was never started."""
        if handle is not None:
            self._cluster.end(handle)
        return lambda host: _end(host, Ending(cause="Stopped", message="Ended with the job's other hosts."))

    def _release(self, handle: str | None) -> Callable[[TrainingHost], None]:
        """Clean away what a host leaves, then give its resources to the next."""
        if handle is not None:
            deadline = time.monotonic() + _EXIT_SECONDS
            while self._cluster.state(handle).status == "running" and time.monotonic() < deadline:
                time.sleep(0.01)
            self._cluster.clean(handle)
        return lambda host: setattr(host, "released", True)

    def _spec(self, host: TrainingHost) -> HostSpec:
        return host_spec(
            host.job,
            host,
            _attempt_of(host),
            token=report_token(self._credentials, host.host_id),
            nodes=self._cluster.nodes(),
            settings=self._settings,
            credentials=self._credentials,
            store=self._store,
        )

    def _record_lost_hosts(self) -> None:
        """Give hosts whose supervisor is gone the ending that they could not report."""
        unfinished = self._database.query(
            select(TrainingHost.host_id, TrainingHost.handle).where(
                TrainingHost.released.is_(False), TrainingHost.ending.is_(None), TrainingHost.handle.is_not(None)
            )
        )
        for host_id, handle in unfinished:
            seen = self._cluster.state(handle)
            if seen.status == "running":
                continue
            left = self._cluster.unreported(handle)
            if left is not None:
                host_reports.receive(self._database, host_id, report_token(self._credentials, host_id), left)
            ending = Ending(cause="InternalError", message=f"The host was lost: {seen.detail or 'it left no report'}.")
            with self._database.transaction() as session:
                # What it reported with its last breath counts: only a host without an ending gets this one.
                session.execute(
                    update(TrainingHost)
                    .where(TrainingHost.host_id == host_id, TrainingHost.ending.is_(None))
                    .values(ending=ending.model_dump(mode="json"), ended_time=now())
                )


def _head_of_queue(session: Session) -> int | None:
    return session.scalar(select(TrainingJob.id).where(TrainingJob.stage == "queued").order_by(TrainingJob.id).limit(1))


def _host_of(job: TrainingJob, host_id: str) -> TrainingHost:
    return next(host for host in job.hosts if host.host_id == host_id)


def _attempt_of(host: TrainingHost) -> list[TrainingHost]:
    """All hosts of the attempt that is under way, in order."""
    return [other for other in host.job.hosts if other.attempt == host.job.attempt]


def _without_a_place(job: TrainingJob, host_id: str, reason: str) -> None:
    """Let a job wait, or end, whose places could not be had: this was no attempt. A host that already runs was one."""
    hosts = [host for host in job.hosts if host.attempt == job.attempt]
    if any(host.handle for host in hosts):
        _end(_host_of(job, host_id), Ending(cause="InternalError", message=f"The host could not be started: {reason}"))
        return
    for host in hosts:
        job.hosts.remove(host)
    job.attempt -= 1
    job.stage = "queued"
    if not job.stop_cause:
        move_to(job, "Pending", f"Training job waiting for capacity: {reason}", now())


def _end(host: TrainingHost, ending: Ending) -> None:
    """Record an ending that the host did not report itself; one that it did report stays."""
    if host.ending is not None:
        return
    host.ending = ending.model_dump(mode="json")
    host.ended_time = now()


def _final_metrics(session: Session, job: TrainingJob) -> list[dict[str, object]]:
    defined: Iterable[dict[str, str]] = job.request["AlgorithmSpecification"].get("MetricDefinitions", ())
    names = {metric["Name"] for metric in defined}
    return [
        {"MetricName": final.name, "Value": final.value, "Timestamp": final.timestamp_ms / 1000}
        for final in metrics.final_values(session, job.name)
        if final.name in names
    ]
