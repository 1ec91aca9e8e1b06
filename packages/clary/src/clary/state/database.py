"""The database: SQLite in WAL mode by default, PostgreSQL by URL."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import orjson
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Engine,
    Executable,
    MetaData,
    Row,
    String,
    Table,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import NullPool
from sqlalchemy.types import JSON, TypeDecorator

SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",  # docs/decisions/0003: survives kill -9 of the server; measured beside FULL
    "foreign_keys=ON",
    "busy_timeout=30000",
    "cache_size=-16000",
    "journal_size_limit=67108864",
)


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An aware datetime, kept in UTC: SQLite has no zones of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[dt.datetime]:
        return dt.datetime

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        if dialect.name != "sqlite":
            return super().result_processor(dialect, coltype)
        read = dt.datetime.fromisoformat

        def process(value: str | None) -> dt.datetime | None:
            # SQLite hands out texts: reading them with their zone at once is several times faster than adding it.
            return None if value is None else read(value + "+00:00")

        return process


# A name that is sorted or searched by prefix: compared byte by byte, so that both databases agree on the order.
Name = String().with_variant(String(collation="C"), "postgresql")


class Base(DeclarativeBase):
    """The base of every table. Constraint names follow one convention so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dt.datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


def table_of(model: type[Base]) -> Table:
    """The table of a model, for statements that build no objects: they are several times faster."""
    return cast(Table, model.__table__)


def now() -> dt.datetime:
    """The current time, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


class Database:
    """One database and its sessions. Safe to share between threads; a session belongs to one thread.

    Three ways in, from the strictest to the fastest:
    - `transaction` reads and writes. On SQLite it takes the one write lock from its start, so that what it read
      still holds when it writes; never keep it open across slow work.
    - `reading` sees one consistent snapshot and never waits for a writer.
    - `query` runs one statement and answers its rows: no session, no transaction; for the hot reads.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # SQLite's own waiting for the lock polls with growing pauses; in one process a queue is fair and immediate.
        self._write_turn = threading.Lock() if self.is_sqlite else None
        self._writer: int | None = None
        writing = self.engine.execution_options(clary_begin="BEGIN IMMEDIATE")
        self._write_sessions = sessionmaker(writing, expire_on_commit=False)
        self._read_sessions = sessionmaker(self.engine, expire_on_commit=False)
        # For `query` each thread keeps a connection to a SQLite file: taking one from a pool costs more than a read.
        self._own = threading.local()
        self._unpooled = _engine(url, poolclass=NullPool) if self.is_sqlite else None
        self._kept: WeakSet[Connection] = WeakSet()  # weak: a connection goes with its thread
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Generator[Session]:
        """A session that commits when the block ends and rolls back when it raises."""
        if self._write_turn is None:
            with self._write_sessions.begin() as session:
                yield session
            return
        me = threading.get_ident()
        if self._writer == me:
            raise RuntimeError("a transaction is open in this thread already: pass its session on instead")
        with self._write_turn:
            self._writer = me
            try:
                with self._write_sessions.begin() as session:
                    yield session
            finally:
                self._writer = None

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A session that sees one snapshot; what it changes is thrown away."""
        with self._read_sessions() as session:
            yield session

    def query(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> list[Row[*tuple[Any, ...]]]:
        """The rows of one reading statement."""
        if self._unpooled is None:
            with self._autocommit.connect() as connection:
                return list(connection.execute(statement, parameters).all())
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._unpooled.connect().execution_options(clary_begin=None)
            self._kept.add(connection)
        return list(connection.execute(statement, parameters).all())

    def close(self) -> None:
        """Give back every connection. No other thread may use the database any more."""
        for connection in list(self._kept):
            connection.close()
        self.engine.dispose()


def _engine(url: str, **options: Any) -> Engine:
    parsed = make_url(url)
    options |= {"json_serializer": _to_json, "json_deserializer": orjson.loads}
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, options)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=24, **options)


def _sqlite(url: URL, options: dict[str, Any]) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 30}, **options)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing of itself: the event below does
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        begin = connection.get_execution_options().get("clary_begin", "BEGIN")
        if begin:
            connection.exec_driver_sql(begin)

    return engine


def _to_json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()
