"""What hosts report: log lines, metrics, phases and endings go into the record, orders come back.

A report is one transaction. It may come twice, or come after one that was sent later: lines, metrics, phases and the
ending that are recorded already change nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select, Update, bindparam, select, update
from sqlalchemy.orm import Session

from clary.host.spec import HostOrders, HostReport, LogLine, MetricPoint
from clary.state import changes, metrics
from clary.state.database import Database, UtcDateTime, now, table_of
from clary.state.endpoints import EndpointReplica
from clary.state.logs import append_in_order
from clary.state.training_jobs import TrainingHost, hash_token, record_host_report
from clary.wire.errors import AccessDenied

_Item = TypeVar("_Item", LogLine, MetricPoint)

TRAINING_LOG_GROUP = "/aws/sagemaker/TrainingJobs"

ENDPOINT_LOG_GROUPS = "/aws/sagemaker/Endpoints/"


@dataclass(frozen=True)
class _Table:
    """Where the hosts of one kind are kept, and the statements on it that most reports take."""

    model: type[TrainingHost | EndpointReplica]
    look_up: Select[Any]
    take_counters: Update


def _table(model: type[TrainingHost | EndpointReplica], *own_columns: str) -> _Table:
    """Built once: each host reports four times a second, and building a statement costs more than running it."""
    host = table_of(model).c
    read = ("host_id", "token_hash", "log_stream", "phases", "ending", "wanted", "logs_received", "metrics_received")
    wanted = host.host_id == bindparam("wanted_host")
    return _Table(
        model,
        select(*(host[name] for name in (*read, *own_columns))).where(wanted),
        update(table_of(model))
        .where(
            wanted,
            host.logs_received == bindparam("old_logs"),
            host.metrics_received == bindparam("old_metrics"),
        )
        .values(
            logs_received=bindparam("new_logs"),
            metrics_received=bindparam("new_metrics"),
            reported_time=bindparam("at", type_=UtcDateTime()),
        ),
    )


_TABLES = (
    _table(TrainingHost, "job_name", "name", "start_ordered", "merge_ordered"),
    _table(EndpointReplica, "endpoint_name", "variant", "address"),
)


def receive(database: Database, host_id: str, token: str, report: HostReport) -> HostOrders:
    """Record a report and say what the host is to do.

    Args:
        database: the record.
        host_id: the host in the address that was called.
        token: the bearer token that came with the report.
        report: what the host says.

    Raises:
        AccessDenied: the token is not this host's, or the report is about another host. An unknown host is
            no error: its job was deleted, and it is told to abort.
    """
    if report.host_id != host_id:
        raise AccessDenied(f"the report is of host {report.host_id!r} but was sent as {host_id!r}", status=403)
    table, seen = _look_up(database, host_id)
    if seen is None:
        return _abort(report)
    if not hmac.compare_digest(seen.token_hash, hash_token(token)):
        raise AccessDenied(f"the token is not that of host {host_id!r}", status=403)
    phases = [change.model_dump(mode="json") for change in report.phases]
    moved = report.address is not None and report.address != getattr(seen, "address", report.address)
    if moved or not _is_history(phases, seen.phases) or (report.ending is not None and seen.ending is None):
        return _record_all(database, table, host_id, phases, report)
    logs, points = _continuing(report.logs, seen.logs_received), _continuing(report.metrics, seen.metrics_received)
    if not logs and not points:
        return _orders(seen)  # most reports of a quiet script: nothing is written for them
    with database.transaction() as session:
        if _take_counters(session, table, seen, logs, points):
            _record(session, seen, logs, points)
            return _orders(seen, logs, points)
    return _record_all(database, table, host_id, phases, report)  # the same host's report came in twice at once


def _record_all(
    database: Database, table: _Table, host_id: str, phases: list[dict[str, Any]], report: HostReport
) -> HostOrders:
    """Take a report over with what the controllers look at: phases and the ending."""
    with database.transaction() as session:
        host = session.get(table.model, host_id, with_for_update=True)
        if host is None:
            return _abort(report)
        logs, points = _continuing(report.logs, host.logs_received), _continuing(report.metrics, host.metrics_received)
        _record(session, host, logs, points)
        changed = record_host_report(
            host,
            phases=phases,
            ending=None if report.ending is None else report.ending.model_dump(mode="json"),
            logs_received=logs[-1].sequence + 1 if logs else 0,
            metrics_received=points[-1].sequence + 1 if points else 0,
            at=now(),
        )
        if isinstance(host, EndpointReplica) and report.address and report.address != host.address:
            host.address, changed = report.address, True
        orders = _orders(host)
    if changed:
        of_endpoint = isinstance(host, EndpointReplica)
        changes.announce(
            database, *(("endpoint", host.endpoint_name) if of_endpoint else ("training-job", host.job_name))
        )
    return orders


def _look_up(database: Database, host_id: str) -> tuple[_Table, Any]:
    for table in _TABLES:
        rows = database.query(table.look_up, {"wanted_host": host_id})
        if rows:
            return table, rows[0]
    return _TABLES[0], None


def _take_counters(session: Session, table: _Table, seen: Any, logs: list[LogLine], points: list[MetricPoint]) -> bool:
    """Move the host's counters on, unless another report has moved them since they were looked up."""
    parameters = {
        "wanted_host": seen.host_id,
        "old_logs": seen.logs_received,
        "old_metrics": seen.metrics_received,
        "new_logs": logs[-1].sequence + 1 if logs else seen.logs_received,
        "new_metrics": points[-1].sequence + 1 if points else seen.metrics_received,
        "at": now(),
    }
    return session.connection().execute(table.take_counters, parameters).rowcount == 1


def _record(session: Session, host: Any, logs: list[LogLine], points: list[MetricPoint]) -> None:
    if logs:
        lines = [(line.timestamp_ms, line.message) for line in logs]
        endpoint = getattr(host, "endpoint_name", None)
        group = ENDPOINT_LOG_GROUPS + endpoint if endpoint else TRAINING_LOG_GROUP
        append_in_order(session, group, host.log_stream, lines)
    metrics.record(session, [_sample(host, point) for point in points])


def _orders(host: Any, logs: Sequence[LogLine] = (), points: Sequence[MetricPoint] = ()) -> HostOrders:
    return HostOrders(
        wanted=host.wanted,
        start=getattr(host, "start_ordered", True),  # a replica waits for no other, and merges nothing
        merge=getattr(host, "merge_ordered", False),
        logs_received=logs[-1].sequence + 1 if logs else host.logs_received,
        metrics_received=points[-1].sequence + 1 if points else host.metrics_received,
        ending_received=host.ending is not None,
    )


def _abort(report: HostReport) -> HostOrders:
    """The orders to a host whose job is gone: it need not send anything again."""
    return HostOrders(
        wanted="abort",
        ending_received=True,
        logs_received=report.logs[-1].sequence + 1 if report.logs else 0,
        metrics_received=report.metrics[-1].sequence + 1 if report.metrics else 0,
    )


def _is_history(phases: list[dict[str, Any]], recorded: list[Any]) -> bool:
    """Whether the reported phases are recorded: all of them, or, in a report that comes late, the first of them."""
    return phases == recorded[: len(phases)]


def _continuing(items: Sequence[_Item], received: int) -> list[_Item]:
    """The items that are new. None when one before them is missing: the host sends again from `received` on."""
    if not items or items[0].sequence > received:
        return []
    return [item for item in items if item.sequence >= received]


def _sample(host: Any, point: MetricPoint) -> metrics.Sample:
    """A reading of the instance belongs to the host or variant, what the script printed to the job.

    What a replica reports beside readings of the instance is about its models, and durations of those are in
    microseconds.
    """
    endpoint = getattr(host, "endpoint_name", None)
    if endpoint:
        namespace = metrics.ENDPOINT_NAMESPACE if point.instance else metrics.INVOCATION_NAMESPACE
        dimensions = (("EndpointName", endpoint), ("VariantName", host.variant))
    else:
        namespace = metrics.TRAINING_NAMESPACE
        of_host = ("Host", f"{host.job_name}/{host.name}")
        dimensions = (of_host if point.instance else ("TrainingJobName", host.job_name),)
    timestamp_ms = int(point.timestamp.timestamp() * 1000)
    unit = "Percent" if point.instance and point.name.endswith("Utilization") else "None"
    if endpoint and point.name.endswith("Time"):
        unit = "Microseconds"
    return metrics.value_sample(namespace, point.name, dimensions, timestamp_ms, point.value, unit=unit)
