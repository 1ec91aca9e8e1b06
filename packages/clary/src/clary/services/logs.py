"""CloudWatch Logs: groups, streams and events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from clary.services.log_patterns import compile_pattern
from clary.services.registry import Context, in_thread, operation
from clary.state import log_pages, logs
from clary.state.database import table_of
from clary.state.log_pages import Place, StreamPlace
from clary.state.logs import LogGroup, LogStream
from clary.wire.errors import AwsError, ResourceNotFound
from clary.wire.pagination import decode_token, encode_token

_DEFAULT_PAGE = 50  # the most that AWS answers, and the least that SDK v2 can follow: it pages without tokens
_TOKEN = re.compile(r"^(?P<direction>[fb])/(?P<timestamp>\d{28})(?P<position>\d{28})/s$")
_HOUR_MS = 3_600_000
_MAX_BATCH_BYTES = 1024 * 1024


@operation("logs")
@in_thread
def create_log_group(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    details = {key: params[key] for key in ("kmsKeyId", "logGroupClass", "tags") if key in params}
    with context.database.transaction() as session:
        if logs.create_group(session, params["logGroupName"], details) is None:
            raise AwsError("ResourceAlreadyExistsException", "The specified log group already exists")
    return {}


@operation("logs")
@in_thread
def delete_log_group(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    with context.database.transaction() as session:
        if not logs.delete_group(session, params["logGroupName"]):
            _no_group()
    return {}


@operation("logs")
@in_thread
def create_log_stream(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    with context.database.transaction() as session:
        group = _group(session, params)
        if logs.create_stream(session, group, params["logStreamName"]) is None:
            raise AwsError("ResourceAlreadyExistsException", "The specified log stream already exists")
    return {}


@operation("logs")
@in_thread
def delete_log_stream(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    with context.database.transaction() as session:
        if not logs.delete_stream(session, _group(session, params), params["logStreamName"]):
            _no_stream()
    return {}


@operation("logs", accepted_without_effect=("sequenceToken", "entity"))
@in_thread
def put_log_events(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    events = params["logEvents"]
    times = [event["timestamp"] for event in events]
    if times != sorted(times):
        _invalid("Log events in a single PutLogEvents request must be in chronological order.")
    sizes = [len(event["message"].encode("utf-8", "replace")) + logs.EVENT_OVERHEAD_BYTES for event in events]
    if max(sizes) > _MAX_BATCH_BYTES:
        _invalid(f"Log event too large: {max(sizes)} bytes exceeds limit of {_MAX_BATCH_BYTES}")
    if sum(sizes) > _MAX_BATCH_BYTES:
        _invalid(f"Upload too large: {sum(sizes)} bytes exceeds limit of {_MAX_BATCH_BYTES}")
    now = logs.now_ms()
    oldest, newest = now - 14 * 24 * _HOUR_MS, now + 2 * _HOUR_MS
    accepted = [event for event in events if oldest <= event["timestamp"] <= newest]
    if accepted and accepted[-1]["timestamp"] - accepted[0]["timestamp"] > 24 * _HOUR_MS:
        _invalid("The batch of log events in a single PutLogEvents request cannot span more than 24 hours.")
    with context.database.transaction() as session:
        stream = _stream(session, _group(session, params), params["logStreamName"])
        logs.append(session, stream, ((event["timestamp"], event["message"]) for event in accepted))
    answer: dict[str, Any] = {"nextSequenceToken": f"{now:056d}"}
    rejected: dict[str, int] = {}
    if times[0] < oldest:
        rejected["tooOldLogEventEndIndex"] = sum(time < oldest for time in times)
    if times[-1] > newest:
        rejected["tooNewLogEventStartIndex"] = sum(time <= newest for time in times)
    return answer | ({"rejectedLogEventsInfo": rejected} if rejected else {})


@operation("logs", accepted_without_effect=("accountIdentifiers", "includeLinkedAccounts"))
def describe_log_groups(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    limit = params.get("limit", _DEFAULT_PAGE)
    prefix, pattern = params.get("logGroupNamePrefix"), params.get("logGroupNamePattern")
    if prefix and pattern:
        _invalid("LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.")
    statement = select(LogGroup).order_by(LogGroup.name).limit(limit + 1)
    if prefix:
        statement = statement.where(log_pages.starts_with(table_of(LogGroup).c.name, prefix))
    if pattern:
        statement = statement.where(func.lower(LogGroup.name).contains(pattern.lower(), autoescape=True))
    if "logGroupIdentifiers" in params:
        statement = statement.where(LogGroup.name.in_([_name_of(given) for given in params["logGroupIdentifiers"]]))
    if "nextToken" in params:
        statement = statement.where(LogGroup.name > _after(params["nextToken"], str)[0])
    stored = select(func.coalesce(func.sum(LogStream.stored_bytes), 0))
    with context.database.reading() as session:
        groups = session.scalars(statement).all()
        sizes = {
            group.id: session.scalar(stored.where(LogStream.group_id == group.id)) or 0 for group in groups[:limit]
        }
    wanted_class = params.get("logGroupClass")
    described = [_describe_group(context, group, int(sizes[group.id])) for group in groups[:limit]]
    answer: dict[str, Any] = {
        "logGroups": [group for group in described if wanted_class in (None, group["logGroupClass"])]
    }
    if len(groups) > limit:
        answer["nextToken"] = encode_token({"after": [groups[limit - 1].name]})
    return answer


@operation("logs")
def describe_log_streams(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    limit, prefix = params.get("limit", _DEFAULT_PAGE), params.get("logStreamNamePrefix")
    descending = params.get("descending", False)
    by_time = params.get("orderBy") == "LastEventTime"
    if by_time and prefix:
        _invalid("Cannot order by LastEventTime with a logStreamNamePrefix.")
    stream = table_of(LogStream).c
    key = [func.coalesce(stream.last_event_ms, 0), stream.name] if by_time else [stream.name]
    with context.database.reading() as session:
        statement = select(table_of(LogStream)).where(stream.group_id == _group(session, params))
        if prefix:
            statement = statement.where(log_pages.starts_with(stream.name, prefix))
        if "nextToken" in params:
            reached = tuple_(*_after(params["nextToken"], *((int, str) if by_time else (str,))))
            statement = statement.where(tuple_(*key) < reached if descending else tuple_(*key) > reached)
        statement = statement.order_by(*(part.desc() if descending else part.asc() for part in key))
        rows: Sequence[Any] = session.execute(statement.limit(limit + 1)).all()
    group_arn = context.settings.arn(f"log-group:{_given_name(params)}", "logs")
    answer: dict[str, Any] = {"logStreams": [_describe_stream(group_arn, row) for row in rows[:limit]]}
    if len(rows) > limit:
        last = rows[limit - 1]
        answer["nextToken"] = encode_token({"after": [last.last_event_ms or 0, last.name] if by_time else [last.name]})
    return answer


@operation("logs", accepted_without_effect=("unmask",))
@in_thread
def get_log_events(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    start = Place(_bounded(params.get("startTime", -1)), 0)
    end = Place(_bounded(params["endTime"]), 0) if "endTime" in params else log_pages.LAST
    token = _event_token(params["nextToken"]) if "nextToken" in params else None
    forward = token[0] == "f" if token else params.get("startFromHead", False)
    after, before = start, end
    if token and forward:
        after = max(start, token[1])
    elif token:
        before = min(end, token[1])
    with context.database.reading() as session:
        stream = _stream(session, _group(session, params), params["logStreamName"])
        events = log_pages.page(
            session,
            stream,
            after=after,
            before=before,
            newest_first=not forward,
            limit=params.get("limit", log_pages.PAGE_EVENTS),
        )
    if events:
        oldest, newest = (Place(event.timestamp_ms, event.position) for event in (events[0], events[-1]))
    elif token and not forward:  # nothing older: the same token again, and forward from there
        oldest, newest = token[1], Place(token[1].timestamp_ms, max(token[1].position - 1, 0))
    else:
        newest = token[1] if token else Place(max(start.timestamp_ms, 0), 0)
        oldest = Place(newest.timestamp_ms, newest.position + 1)
    return {
        "events": [
            {"timestamp": event.timestamp_ms, "message": event.message, "ingestionTime": event.ingestion_ms}
            for event in events
        ],
        "nextForwardToken": f"f/{newest.timestamp_ms:028d}{newest.position:028d}/s",
        "nextBackwardToken": f"b/{oldest.timestamp_ms:028d}{oldest.position:028d}/s",
    }


@operation("logs", accepted_without_effect=("interleaved", "unmask"))
@in_thread
def filter_log_events(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    names, prefix = params.get("logStreamNames"), params.get("logStreamNamePrefix")
    if names and prefix:
        _invalid("logStreamNames and logStreamNamePrefix cannot be used together.")
    matches = compile_pattern(params.get("filterPattern", ""))
    newest_first, resume = not params.get("startFromHead", True), None
    if "nextToken" in params:
        timestamp, stream_id, position, backwards = _after(params["nextToken"], int, int, int, int)
        resume, newest_first = StreamPlace(timestamp, stream_id, position), bool(backwards)
    with context.database.reading() as session:
        group = _group(session, params)
        stream = table_of(LogStream).c
        where = [stream.name.in_(names)] if names else [log_pages.starts_with(stream.name, prefix)] if prefix else []
        spans = log_pages.spans(session, group, *where)
        if names and len(spans) < len(set(names)):
            for name in names:
                _stream(session, group, name)
        found = log_pages.search(
            session,
            spans,
            start_ms=_bounded(params.get("startTime", 0)),
            end_ms=_bounded(params.get("endTime", 2**62)),
            resume=resume,
            newest_first=newest_first,
            matches=matches,
            limit=params.get("limit", log_pages.PAGE_EVENTS),
        )
    answer: dict[str, Any] = {
        "events": [
            {
                "logStreamName": stream.name,
                "timestamp": event.timestamp_ms,
                "message": event.message,
                "ingestionTime": event.ingestion_ms,
                "eventId": f"{event.timestamp_ms:020d}{stream.id:018d}{event.position:018d}",
            }
            for stream, event in found.events
        ],
        "searchedLogStreams": [],
    }
    if found.resume:
        answer["nextToken"] = encode_token({"after": [*found.resume, int(newest_first)]})
    return answer


def _describe_group(context: Context, group: LogGroup, stored_bytes: int) -> dict[str, Any]:
    arn = context.settings.arn(f"log-group:{group.name}", "logs")
    return {
        "logGroupName": group.name,
        "creationTime": group.created_ms,
        "metricFilterCount": 0,
        "arn": f"{arn}:*",
        "logGroupArn": arn,
        "storedBytes": stored_bytes,
        "logGroupClass": group.details.get("logGroupClass", "STANDARD"),
    } | ({"kmsKeyId": group.details["kmsKeyId"]} if "kmsKeyId" in group.details else {})


def _describe_stream(group_arn: str, row: Any) -> dict[str, Any]:
    described = {
        "logStreamName": row.name,
        "creationTime": row.created_ms,
        "firstEventTimestamp": row.first_event_ms,
        "lastEventTimestamp": row.last_event_ms,
        "lastIngestionTime": row.last_ingestion_ms,
        "uploadSequenceToken": f"{row.next_position:056d}",
        "arn": f"{group_arn}:log-stream:{row.name}",
        "storedBytes": row.stored_bytes,
    }
    return {name: value for name, value in described.items() if value is not None}


def _given_name(params: dict[str, Any]) -> str:
    name, identifier = params.get("logGroupName"), params.get("logGroupIdentifier")
    if (name is None) == (identifier is None):
        _invalid("You must include either logGroupIdentifier or logGroupName, but not both.")
    return name if name is not None else _name_of(str(identifier))


def _name_of(identifier: str) -> str:
    return identifier.split(":log-group:", 1)[-1].removesuffix(":*") if identifier.startswith("arn:") else identifier


def _group(session: Session, params: dict[str, Any]) -> int:
    found = log_pages.group_id(session, _given_name(params))
    return found if found is not None else _no_group()


def _stream(session: Session, group: int, name: str) -> int:
    found = log_pages.stream_id(session, group, name)
    return found if found is not None else _no_stream()


def _bounded(time_ms: int) -> int:
    return min(time_ms, 2**62)  # a larger one does not fit the database's integers


def _event_token(token: str) -> tuple[str, Place]:
    parts = _TOKEN.match(token)
    if parts is None:
        _invalid("The specified nextToken is invalid.")
    return parts["direction"], Place(_bounded(int(parts["timestamp"])), _bounded(int(parts["position"])))


def _after(token: str, *types: type) -> list[Any]:
    """The sort key of the last item of the page before, from an opaque token."""
    try:
        key = decode_token(token).get("after")
    except AwsError:
        key = None
    if not isinstance(key, list) or [type(part) for part in key] != list(types):
        _invalid("The specified nextToken is invalid.")
    return key


def _invalid(message: str) -> NoReturn:
    raise AwsError("InvalidParameterException", message)


def _no_group() -> NoReturn:
    raise ResourceNotFound("The specified log group does not exist.", code="ResourceNotFoundException")


def _no_stream() -> NoReturn:
    raise ResourceNotFound("The specified log stream does not exist.", code="ResourceNotFoundException")
