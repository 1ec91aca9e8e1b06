"""Leases: who works on a row now.

A worker claims rows, works outside any session, and applies its result only while its token is still on the row:

    for lease in claim(database, TrainingJob, TrainingJob.status == "InProgress", limit=4):
        with keep(database, lease):              # extends it in the background
            result = slow_work(lease.key)
        with lease.apply(database) as session:   # LeaseLost when another has taken the row meanwhile
            session.get(TrainingJob, lease.key)...

A worker that dies leaves its lease to expire; another then takes the row. Expiry is judged by the database's own
clock, so that servers whose clocks differ agree. The same code is right on SQLite and PostgreSQL, with any number of
workers (tests/state/conformance.py).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Float, Function, String, inspect, literal, or_, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.orm.attributes import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler

from clary.state.database import Database

DEFAULT_SECONDS = 30.0


class LeaseLost(Exception):
    """The lease expired and another worker has the row, or the row is gone. What was to be applied is not."""


class Leased:
    """The columns of a table whose rows can be claimed. Mix into a model."""

    lease_token: Mapped[str | None] = mapped_column(String(32), default=None)
    lease_expires: Mapped[float | None] = mapped_column(Float(53), default=None)  # seconds since the epoch


class _Clock(Function[float]):
    """The database's clock, in seconds since the epoch."""

    inherit_cache = True

    def __init__(self) -> None:
        super().__init__("clary_clock", type_=Float(53))


@compiles(_Clock, "sqlite")
def _(_element: _Clock, _compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Clock, "postgresql")
def _(_element: _Clock, _compiler: SQLCompiler, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@dataclass(frozen=True)
class Lease:
    """A claim on one row, valid until it expires or is released."""

    model: type[Leased]
    key: Any  # the row's primary key
    token: str
    seconds: float

    def extend(self, database: Database) -> None:
        """Let the lease run for its whole time again; raises LeaseLost when it is not ours any more."""
        with database.transaction() as session:
            self._hold(session)

    @contextmanager
    def apply(self, database: Database, *, release: bool = True) -> Generator[Session]:
        """A transaction that holds the row and commits only when the lease is ours; then gives the lease back.

        Args:
            release: False keeps the lease, run to its whole time again, for a further step.
        """
        with database.transaction() as session:
            self._hold(session)
            yield session
            session.flush()
            if release:
                session.execute(self._update().values(lease_token=None, lease_expires=None))

    def release(self, database: Database) -> None:
        """Give the row back without a result. Does nothing when the lease is lost."""
        with database.transaction() as session:
            session.execute(self._update().values(lease_token=None, lease_expires=None))

    def _hold(self, session: Session) -> None:
        held = session.execute(self._update().values(lease_expires=_Clock() + self.seconds))
        if held.rowcount != 1:  # pyright: ignore[reportAttributeAccessIssue]
            raise LeaseLost(f"the lease on {self.model.__name__} {self.key!r} is held by another or the row is gone")

    def _update(self) -> Any:
        key = _key(self.model)
        return (
            update(self.model)
            .where(key == self.key, self.model.lease_token == self.token)
            .execution_options(synchronize_session=False)
        )


def claim(
    database: Database,
    model: type[Leased],
    *where: ColumnElement[bool],
    limit: int = 1,
    seconds: float = DEFAULT_SECONDS,
    order_by: Any = None,
) -> list[Lease]:
    """Claim rows that satisfy `where` and that nobody holds: each row goes to one worker only.

    Args:
        model: a mapped class with `Leased` mixed in and a primary key of one column.
        where: conditions on its columns.
        limit: the most rows to claim.
        seconds: how long the claim lasts unless it is extended.
        order_by: which rows first; the primary key by default.
    """
    key = _key(model)
    token = secrets.token_hex(16)
    free = or_(model.lease_token.is_(None), model.lease_expires < _Clock())
    candidates = select(key).where(free, *where).order_by(key if order_by is None else order_by).limit(limit)
    if not database.query(candidates):
        return []  # the usual answer: no write lock is taken for it
    candidates = candidates.with_for_update(skip_locked=True)
    taken = (
        update(model)
        .where(key.in_(candidates.scalar_subquery()), free)
        .values(lease_token=token, lease_expires=_Clock() + literal(seconds, Float(53)))
        .returning(key)
        .execution_options(synchronize_session=False)
    )
    with database.transaction() as session:
        keys = session.execute(taken).scalars().all()
    return [Lease(model, found, token, seconds) for found in keys]


@contextmanager
def keep(database: Database, lease: Lease) -> Generator[threading.Event]:
    """Extend a lease from a thread of its own, every third of its time, until the block ends.

    Yields:
        An event that is set when the lease is lost: long work looks at it and gives up.
    """
    ended, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.wait(lease.seconds / 3):
            try:
                lease.extend(database)
            except LeaseLost:
                lost.set()
                return

    heart = threading.Thread(target=beat, name=f"lease-{lease.key}", daemon=True)
    heart.start()
    try:
        yield lost
    finally:
        ended.set()
        heart.join()


def _key(model: type[Leased]) -> InstrumentedAttribute[Any]:
    columns = inspect(model).primary_key
    if len(columns) != 1:
        raise TypeError(f"{model.__name__} has a primary key of {len(columns)} columns: leases need one of one column")
    return inspect(model).get_property_by_column(columns[0]).class_attribute
