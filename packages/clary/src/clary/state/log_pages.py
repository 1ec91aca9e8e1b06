"""Reading logs: pages of one stream in either direction, and a search over the streams of a group.

A `Place` is (timestamp, position), see `state.logs`. Every range is open at both ends: positions count from 1, so
(t, 0) lies before every event of the millisecond t.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, select, tuple_
from sqlalchemy.orm import Session

from clary.state.database import table_of
from clary.state.logs import EVENT_OVERHEAD_BYTES, LogEvent, LogGroup, LogStream

PAGE_BYTES = 1024 * 1024
PAGE_EVENTS = 10_000
SCAN_EVENTS = 100_000  # a search answers a page, perhaps an empty one, after looking at so many


class Place(NamedTuple):
    """Where an event stands in its stream."""

    timestamp_ms: int
    position: int


class StreamPlace(NamedTuple):
    """Where an event stands in a search over several streams."""

    timestamp_ms: int
    stream_id: int
    position: int


EventRow = Row[*tuple[Any, ...]]

LAST = Place(2**62, 0)
_EVENT = table_of(LogEvent).c
_STREAM = table_of(LogStream).c


@dataclass(frozen=True)
class StreamSpan:
    """A stream and the time between its first and its last event."""

    id: int
    name: str
    first_event_ms: int
    last_event_ms: int


@dataclass(frozen=True)
class Found:
    """One page of a search. `resume` is where the next one begins; None at the end."""

    events: list[tuple[StreamSpan, EventRow]]
    resume: StreamPlace | None


def group_id(session: Session, name: str) -> int | None:
    """The id of a group, or None."""
    return session.scalar(select(LogGroup.id).where(LogGroup.name == name))


def stream_id(session: Session, group: int, name: str) -> int | None:
    """The id of a stream, or None."""
    return session.scalar(select(LogStream.id).where(LogStream.group_id == group, LogStream.name == name))


def starts_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """A prefix condition that an index answers, equal on both databases."""
    return (column >= prefix) & (column < prefix + "\U0010ffff")


def page(
    session: Session, stream: int, *, after: Place, before: Place, newest_first: bool, limit: int = PAGE_EVENTS
) -> list[EventRow]:
    """The events between two places, in order of time, as many as a page holds from the end that is asked for.

    Args:
        newest_first: take the page from the newest end; the answer is oldest first in either case.
    """
    events: list[EventRow] = []
    size = 0
    for event in _walk(session, stream, after, before, newest_first):
        size += len(event.message.encode()) + EVENT_OVERHEAD_BYTES
        if events and size > PAGE_BYTES:
            break
        events.append(event)
        if len(events) >= limit:
            break
    return events[::-1] if newest_first else events


def search(
    session: Session,
    streams: Sequence[StreamSpan],
    *,
    start_ms: int,
    end_ms: int,
    resume: StreamPlace | None,
    newest_first: bool,
    matches: Callable[[str], bool],
    limit: int,
) -> Found:
    """The events of several streams, merged by time, that match.

    Args:
        start_ms: the earliest time, included.
        end_ms: the latest time, included.
        resume: where the page before ended.
    """
    found: list[tuple[StreamSpan, EventRow]] = []
    size = 0
    last = resume
    merged = _merge(session, streams, start_ms, end_ms, resume, newest_first)
    for scanned, (stream, event) in enumerate(merged, start=1):
        fits = matches(event.message)
        if fits:
            size += len(event.message.encode()) + EVENT_OVERHEAD_BYTES
            if found and (size > PAGE_BYTES or len(found) >= limit):
                return Found(found, last)
            found.append((stream, event))
        last = StreamPlace(event.timestamp_ms, stream.id, event.position)
        if scanned >= SCAN_EVENTS:
            return Found(found, last)
    return Found(found, None)


def spans(session: Session, group: int, *where: ColumnElement[bool]) -> list[StreamSpan]:
    """The streams of a group that hold events."""
    statement = select(_STREAM.id, _STREAM.name, _STREAM.first_event_ms, _STREAM.last_event_ms).where(
        _STREAM.group_id == group, _STREAM.first_event_ms.is_not(None), *where
    )
    return [StreamSpan(*row) for row in session.execute(statement)]


def _walk(session: Session, stream: int, after: Place, before: Place, newest_first: bool) -> Iterator[EventRow]:
    """The events between two places, fetched in growing portions: the first lines may be very long."""
    portion = 64
    place = tuple_(_EVENT.timestamp_ms, _EVENT.position)
    order = (_EVENT.timestamp_ms, _EVENT.position)
    columns = (_EVENT.timestamp_ms, _EVENT.position, _EVENT.ingestion_ms, _EVENT.message)
    while True:
        events = session.execute(
            select(*columns)
            .where(_EVENT.stream_id == stream, place > tuple_(*after), place < tuple_(*before))
            .order_by(*(column.desc() for column in order) if newest_first else order)
            .limit(portion)
        ).all()
        yield from events
        if len(events) < portion:
            return
        end = Place(events[-1].timestamp_ms, events[-1].position)
        if newest_first:
            before = end
        else:
            after = end
        portion = min(portion * 4, 4096)


def _merge(
    session: Session,
    streams: Sequence[StreamSpan],
    start_ms: int,
    end_ms: int,
    resume: StreamPlace | None,
    newest_first: bool,
) -> Iterator[tuple[StreamSpan, EventRow]]:
    """All events in order of (time, stream, position). A stream is opened when the merge reaches its first event."""
    sign = -1 if newest_first else 1
    if resume is not None and newest_first:
        end_ms = min(end_ms, resume.timestamp_ms)
    elif resume is not None:
        start_ms = max(start_ms, resume.timestamp_ms)
    waiting = [span for span in streams if span.first_event_ms <= end_ms and span.last_event_ms >= start_ms]
    waiting.sort(key=lambda span: (sign * _edge(span, newest_first), sign * span.id), reverse=True)
    heads: list[tuple[tuple[int, int, int], StreamSpan, EventRow, Iterator[EventRow]]] = []

    def push(span: StreamSpan, events: Iterator[EventRow]) -> None:
        event = next(events, None)
        if event is not None:
            key = (sign * event.timestamp_ms, sign * span.id, sign * event.position)
            heapq.heappush(heads, (key, span, event, events))

    while waiting or heads:
        while waiting and (not heads or sign * _edge(waiting[-1], newest_first) <= heads[0][0][0]):
            span = waiting.pop()
            after, before = _bounds(span, start_ms, end_ms, resume, newest_first)
            push(span, _walk(session, span.id, after, before, newest_first))
        if heads:
            _, span, event, events = heapq.heappop(heads)
            yield span, event
            push(span, events)


def _edge(span: StreamSpan, newest_first: bool) -> int:
    return span.last_event_ms if newest_first else span.first_event_ms


def _bounds(
    span: StreamSpan, start_ms: int, end_ms: int, resume: StreamPlace | None, newest_first: bool
) -> tuple[Place, Place]:
    after, before = Place(start_ms, 0), Place(end_ms + 1, 0)
    if resume is None:
        return after, before
    if span.id == resume.stream_id:
        reached = Place(resume.timestamp_ms, resume.position)
    else:
        # Streams with a lower number come first within a millisecond: theirs is done, the others' is to come.
        done = span.id < resume.stream_id
        reached = Place(resume.timestamp_ms + (1 if done else 0), 0)
    return (after, min(before, reached)) if newest_first else (max(after, reached), before)
