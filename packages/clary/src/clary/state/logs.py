"""Log groups, streams and events: the tables and what writes them. `state.log_pages` reads them.

An event's place in its stream is (timestamp, position): by time, and in the order of arrival within a millisecond.
The primary key is that place, so the table itself is laid out in reading order.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Integer,
    Text,
    UniqueConstraint,
    bindparam,
    case,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from clary.state.database import Base, Name, table_of

BigKey = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in a column of type INTEGER
MAX_EVENT_BYTES = 256 * 1024
EVENT_OVERHEAD_BYTES = 26  # what AWS adds to each message when it measures a page or a batch


class LogGroup(Base):
    """A log group, for instance /aws/sagemaker/TrainingJobs."""

    __tablename__ = "log_groups"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)  # kmsKeyId, logGroupClass, tags


class LogStream(Base):
    """A stream of a group. `next_position` numbers its events in the order of their arrival, from 1."""

    __tablename__ = "log_streams"
    __table_args__ = (UniqueConstraint("group_id", "name"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    group_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("log_groups.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Name)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    first_event_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_event_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_ingestion_ms: Mapped[int | None] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    next_position: Mapped[int] = mapped_column(BigInteger, default=1)


class LogEvent(Base):
    """One event: at most MAX_EVENT_BYTES of text."""

    __tablename__ = "log_events"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    stream_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("log_streams.id", ondelete="CASCADE"), primary_key=True
    )
    timestamp_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    ingestion_ms: Mapped[int] = mapped_column(BigInteger)
    message: Mapped[str] = mapped_column(Text)


_STREAM = table_of(LogStream).c
# Built once: a host reports four times a second, and building a statement costs more than running it.
_INSERT = insert(table_of(LogEvent))
_EARLIEST, _LATEST = bindparam("earliest", type_=BigInteger()), bindparam("latest", type_=BigInteger())
_ADVANCE = (
    update(table_of(LogStream))
    .where(_STREAM.id == bindparam("stream"))
    .values(
        next_position=_STREAM.next_position + bindparam("count"),
        first_event_ms=case((_STREAM.first_event_ms < _EARLIEST, _STREAM.first_event_ms), else_=_EARLIEST),
        last_event_ms=case((_STREAM.last_event_ms > _LATEST, _STREAM.last_event_ms), else_=_LATEST),
        last_ingestion_ms=bindparam("ingestion"),
        stored_bytes=_STREAM.stored_bytes + bindparam("size"),
    )
    .returning(_STREAM.next_position)
)
_FIND = select(_STREAM.id, _STREAM.last_event_ms).where(
    _STREAM.name == bindparam("stream"),
    _STREAM.group_id == select(LogGroup.id).where(LogGroup.name == bindparam("group")).scalar_subquery(),
)


def now_ms() -> int:
    """The current time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def create_group(session: Session, name: str, details: Mapping[str, Any] | None = None) -> int | None:
    """Create a group and return its id; None when it exists already."""
    return _create(session, LogGroup, name=name, created_ms=now_ms(), details=dict(details or {}))


def create_stream(session: Session, group_id: int, name: str) -> int | None:
    """Create a stream and return its id; None when it exists already."""
    return _create(
        session, LogStream, group_id=group_id, name=name, created_ms=now_ms(), stored_bytes=0, next_position=1
    )


def ensure_group(session: Session, name: str) -> int:
    """The id of a group, which is created when it is not there."""
    found = session.scalar(select(LogGroup.id).where(LogGroup.name == name))
    if found is None:
        found = create_group(session, name)
    return found if found is not None else session.scalars(select(LogGroup.id).where(LogGroup.name == name)).one()


def delete_group(session: Session, name: str) -> bool:
    """Remove a group with all its streams and events; False when there is none of that name."""
    return bool(session.scalars(delete(LogGroup).where(LogGroup.name == name).returning(LogGroup.id)).all())


def delete_stream(session: Session, group_id: int, name: str) -> bool:
    """Remove a stream with all its events; False when there is none of that name."""
    gone = delete(LogStream).where(LogStream.group_id == group_id, LogStream.name == name).returning(LogStream.id)
    return bool(session.scalars(gone).all())


def append(session: Session, stream_id: int, lines: Iterable[tuple[int, str]]) -> None:
    """Append events to a stream, in the order given; a long line becomes several consecutive events.

    Args:
        lines: (milliseconds since the epoch, text).
    """
    ingestion = now_ms()
    events: list[dict[str, Any]] = [
        {"stream_id": stream_id, "timestamp_ms": timestamp, "ingestion_ms": ingestion, "message": piece}
        for timestamp, text in lines
        for piece in split_message(storable(text))
    ]
    if not events:
        return
    times = [event["timestamp_ms"] for event in events]
    advance = {
        "stream": stream_id,
        "count": len(events),
        "earliest": min(times),
        "latest": max(times),
        "ingestion": ingestion,
        "size": sum(len(event["message"].encode()) + EVENT_OVERHEAD_BYTES for event in events),
    }
    connection = session.connection()
    after: int = connection.execute(_ADVANCE, advance).scalar_one()
    for position, event in enumerate(events, start=after - len(events)):
        event["position"] = position
    connection.execute(_INSERT, events)


def append_in_order(session: Session, group: str, stream: str, lines: Sequence[tuple[int, str]]) -> None:
    """Append the lines of a stream's one writer so that they are read as written, even if its clock is set back.

    Args:
        group: the group's name; it and the stream are created when they are not there.
        stream: the stream's name.
        lines: (milliseconds since the epoch, text).
    """
    names = {"group": group, "stream": stream}
    found = session.connection().execute(_FIND, names).first()
    if found is None:
        create_stream(session, ensure_group(session, group), stream)
        found = session.connection().execute(_FIND, names).one()
    times = itertools.accumulate((timestamp for timestamp, _ in lines), max, initial=found.last_event_ms or 0)
    next(times)
    append(session, found.id, ((time, text) for time, (_, text) in zip(times, lines, strict=True)))


def storable(text: str) -> str:
    """A text as both databases and the API's contract can hold it.

    PostgreSQL has no NUL in texts; lone surrogates cannot be encoded; a message has at least one character.
    """
    if "\0" in text:
        text = text.replace("\0", "\u2400")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return text or " "


def split_message(text: str) -> Iterator[str]:
    """The text in pieces of at most MAX_EVENT_BYTES of UTF-8, none cut within a character."""
    if len(text) * 4 <= MAX_EVENT_BYTES:
        yield text
        return
    data = text.encode()
    start = 0
    while len(data) - start > MAX_EVENT_BYTES:
        end = start + MAX_EVENT_BYTES
        while data[end] & 0xC0 == 0x80:  # the middle of a character
            end -= 1
        yield data[start:end].decode()
        start = end
    yield data[start:].decode()


def _create(session: Session, model: type[Base], **values: Any) -> int | None:
    dialect = session.get_bind().dialect.name
    insert_into = postgresql.insert(model) if dialect == "postgresql" else sqlite.insert(model)
    statement = insert_into.values(**values).on_conflict_do_nothing().returning(table_of(model).c.id)
    return session.execute(statement).scalar_one_or_none()
