"""Training jobs and their hosts: the record that services write, controllers drive and hosts report into.

Sorts of functions: hot reads (`read_training_job`) use Core and build no objects; the host reports' functions
(`find_host`, `token_matches`, `record_host_report`) and the controller's work within a session of the caller.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, bindparam, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from clary.state.database import Base, Database, Name, UtcDateTime
from clary.state.leases import Leased

if TYPE_CHECKING:
    from clary.state.endpoints import EndpointReplica

TERMINAL_STATUSES = frozenset({"Completed", "Failed", "Stopped"})


class TrainingJob(Leased, Base):
    """One training job.

    `request` is CreateTrainingJob's request without its tags, with AWS's defaults filled in: what Describe echoes.
    `transitions` are SecondaryStatusTransitions with times as seconds since the epoch.
    `stage` is the controllers' own: "queued" until its hosts have a place, "placed" while they work, "releasing" when
    all have ended and are being cleaned away, then "settled", or "queued" again when the job is retried.
    """

    __tablename__ = "training_jobs"
    __table_args__ = (
        # The name is in it for NameContains: looking for it in the whole rows takes twelve times as long.
        Index(None, "creation_time", "id", "name"),
        Index(None, "status", "creation_time"),
        Index(None, "stage", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)  # the queue's order
    name: Mapped[str] = mapped_column(Name, unique=True)
    arn: Mapped[str] = mapped_column(String(256))
    status: Mapped[str] = mapped_column(String(32))
    secondary_status: Mapped[str] = mapped_column(String(32))
    creation_time: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    last_modified_time: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)
    training_start_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    training_end_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    warm_pool_status: Mapped[str | None] = mapped_column(String(16))
    failure_reason: Mapped[str | None] = mapped_column(Text)
    model_artifact: Mapped[str | None] = mapped_column(Text)
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    transitions: Mapped[list[Any]] = mapped_column(JSON)
    final_metrics: Mapped[list[Any]] = mapped_column(JSON, default=list)

    stage: Mapped[str] = mapped_column(String(16), default="queued")
    queue_deadline: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)  # from Max{Pending,Wait}TimeInSeconds
    attempt: Mapped[int] = mapped_column(default=0)  # 0: not placed yet
    stop_cause: Mapped[str | None] = mapped_column(String(32))  # Stopped, MaxRuntimeExceeded, MaxWaitTimeExceeded

    hosts: Mapped[list[TrainingHost]] = relationship(
        back_populates="job", order_by="TrainingHost.attempt, TrainingHost.position", cascade="all, delete-orphan"
    )


class TrainingHost(Base):
    """One attempt of one host of a training job: where it is, what it was told and what it reported.

    A host that is not `released` takes its resources. `phases` is the host's whole history as it reported it,
    `ending` its HostReport.ending; `wanted`, `start_ordered` and `merge_ordered` answer its reports.
    """

    __tablename__ = "training_hosts"

    host_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("training_jobs.id", ondelete="CASCADE"), index=True)
    job_name: Mapped[str] = mapped_column(String(63))
    attempt: Mapped[int]
    position: Mapped[int]  # 0 is algo-1
    name: Mapped[str] = mapped_column(String(16))  # algo-1 … algo-N
    instance_type: Mapped[str] = mapped_column(String(64))
    instance_group: Mapped[str] = mapped_column(String(64))
    node: Mapped[str] = mapped_column(String(255))
    cpus: Mapped[float]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    gpus: Mapped[float] = mapped_column(default=0)
    gpu_indices: Mapped[list[Any]] = mapped_column(JSON, default=list)
    handle: Mapped[str | None] = mapped_column(Text)  # the cluster's, once started
    token_hash: Mapped[str] = mapped_column(String(64))
    log_stream: Mapped[str] = mapped_column(String(512))
    created_time: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    reported_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    phase: Mapped[str] = mapped_column(String(32), default="Starting")
    phases: Mapped[list[Any]] = mapped_column(JSON, default=list)
    ending: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    ended_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    logs_received: Mapped[int] = mapped_column(BigInteger, default=0)
    metrics_received: Mapped[int] = mapped_column(BigInteger, default=0)
    wanted: Mapped[str] = mapped_column(String(8), default="run")
    aborted_time: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    start_ordered: Mapped[bool] = mapped_column(default=False)
    merge_ordered: Mapped[bool] = mapped_column(default=False)
    released: Mapped[bool] = mapped_column(default=False, index=True)

    job: Mapped[TrainingJob] = relationship(back_populates="hosts")


_TABLE: Any = TrainingJob.__table__
_DESCRIBED = [
    _TABLE.c[name]
    for name in (
        "name",
        "arn",
        "status",
        "secondary_status",
        "creation_time",
        "last_modified_time",
        "training_start_time",
        "training_end_time",
        "warm_pool_status",
        "failure_reason",
        "model_artifact",
        "request",
        "transitions",
        "final_metrics",
    )
]
_DESCRIBE = select(*_DESCRIBED).where(_TABLE.c.name == bindparam("wanted_name"))


def read_training_job(database: Database, name: str) -> RowMapping | None:
    """What DescribeTrainingJob tells of a job, by column name, or None when there is no such job."""
    rows = database.query(_DESCRIBE, {"wanted_name": name})
    return rows[0]._mapping if rows else None  # pyright: ignore[reportPrivateUsage] (public in all but its name)


def find_training_job(session: Session, name: str, *, for_update: bool = False) -> TrainingJob | None:
    """The job of this name, locked against other writers when it is to be changed."""
    query = select(TrainingJob).where(TrainingJob.name == name)
    return session.scalars(query.with_for_update() if for_update else query).first()


def unreleased_hosts(session: Session) -> Sequence[TrainingHost]:
    """The hosts that take resources now."""
    return session.scalars(select(TrainingHost).where(TrainingHost.released.is_(False))).all()


def request_stop(session: Session, job: TrainingJob, cause: str, at: dt.datetime) -> None:
    """Record that the job is to stop, and order its hosts to: their next report is answered with it."""
    job.stop_cause = job.stop_cause or cause
    job.last_modified_time = at
    session.execute(
        update(TrainingHost)
        .where(TrainingHost.job_id == job.id, TrainingHost.ending.is_(None), TrainingHost.wanted == "run")
        .values(wanted="stop")
    )


def hash_token(token: str) -> str:
    """What is kept of a host's report token."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_host(session: Session, host_id: str) -> TrainingHost | None:
    """The host that reports under this id."""
    return session.get(TrainingHost, host_id)


def token_matches(host: TrainingHost | EndpointReplica, token: str) -> bool:
    """Whether the report's bearer token is this host's, compared in constant time."""
    return hmac.compare_digest(host.token_hash, hash_token(token))


def record_host_report(
    host: TrainingHost | EndpointReplica,
    *,
    phases: list[dict[str, Any]],
    ending: dict[str, Any] | None,
    logs_received: int,
    metrics_received: int,
    at: dt.datetime,
) -> bool:
    """Take over what a host reported. Phases and the ending are only ever added to; counters only grow.

    Args:
        host: the host's row, of the session in which its logs and metrics are recorded too.
        phases: PhaseChange as JSON (`phase`, `timestamp`, `message`), the whole history.
        ending: HostReport.ending as JSON; the first one reported stays.
        logs_received: the sequence below which every log line is now recorded.
        metrics_received: the same for metrics.
        at: now.

    Returns:
        Whether the controller should look at the job: the host's phase or message changed, or it ended.
    """
    host.reported_time = at
    host.logs_received = max(host.logs_received, logs_received)
    host.metrics_received = max(host.metrics_received, metrics_received)
    changed = False
    if phases and len(phases) >= len(host.phases) and phases != host.phases:
        host.phases = phases
        host.phase = str(phases[-1]["phase"])
        changed = True
    if ending is not None and host.ending is None:
        host.ending = ending
        host.ended_time = at
        changed = True
    return changed


def move_to(
    job: TrainingJob, secondary_status: str, message: str, at: dt.datetime, *, status: str | None = None
) -> bool:
    """Record a secondary status: a new transition, or the new message of the one that the job is in.

    Args:
        job: of a session that writes.
        secondary_status: "Downloading".
        message: the transition's StatusMessage.
        at: when it came about; never before the transition that it follows.
        status: the job's TrainingJobStatus, when that changes too. A terminal one closes the last transition.

    Returns:
        Whether anything was new.
    """
    transitions = [dict(transition) for transition in job.transitions]
    seconds = at.timestamp()
    last: dict[str, Any] = transitions[-1] if transitions else {}
    if last.get("Status") == secondary_status and last.get("StatusMessage") == message and status in (None, job.status):
        return False
    if last.get("Status") == secondary_status:
        last["StatusMessage"] = message
    else:
        if last:
            last["EndTime"] = seconds = max(seconds, last["StartTime"])
        transitions.append({"Status": secondary_status, "StartTime": seconds, "StatusMessage": message})
    if status in TERMINAL_STATUSES:
        transitions[-1]["EndTime"] = seconds
    job.transitions = transitions
    job.secondary_status = secondary_status
    job.status = status or job.status
    job.last_modified_time = max(at, job.last_modified_time)
    return True
