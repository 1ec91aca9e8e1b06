"""Metrics: series, their points, and what is computed of them.

A series is a namespace, a name, its dimensions and a unit. A point is what was put at one time: one value, a value
with a count, or a statistic set; one shape holds all three.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import JSON, BigInteger, ColumnElement, Float, ForeignKey, Index, String, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from clary.state.database import Base, Name, table_of
from clary.state.logs import BigKey

TRAINING_NAMESPACE = "/aws/sagemaker/TrainingJobs"
ENDPOINT_NAMESPACE = "/aws/sagemaker/Endpoints"  # how full instances are
INVOCATION_NAMESPACE = "AWS/SageMaker"  # invocations, and the models of multi-model endpoints

Dimensions = tuple[tuple[str, str], ...]  # (name, value), sorted

# Numbers points in the order of their recording: two may share a series and a millisecond.
_ordinals = itertools.count(time.time_ns())


class MetricSeries(Base):
    """One series. Dimensions are too long for an index: `dimensions_digest` stands for them, `identity` for all."""

    __tablename__ = "metric_series"
    __table_args__ = (Index(None, "namespace", "dimensions_digest", "name"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), unique=True)
    namespace: Mapped[str] = mapped_column(Name)
    name: Mapped[str] = mapped_column(Name)
    dimensions: Mapped[list[Any]] = mapped_column(JSON)
    dimensions_digest: Mapped[str] = mapped_column(String(64))
    unit: Mapped[str] = mapped_column(String(32))


class MetricPoint(Base):
    """What was put into a series at one time. `step` is the training step or epoch, where one was told."""

    __tablename__ = "metric_points"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    series_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("metric_series.id", ondelete="CASCADE"), primary_key=True
    )
    timestamp_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    ordinal: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    sample_count: Mapped[float] = mapped_column(Float(53))
    total: Mapped[float] = mapped_column(Float(53))
    minimum: Mapped[float] = mapped_column(Float(53))
    maximum: Mapped[float] = mapped_column(Float(53))
    step: Mapped[int | None] = mapped_column(BigInteger)


@dataclass(frozen=True)
class Sample:
    """One point to record."""

    namespace: str
    name: str
    dimensions: Dimensions
    timestamp_ms: int
    sample_count: float
    total: float
    minimum: float
    maximum: float
    unit: str = "None"
    step: int | None = None

    @property
    def identity(self) -> str:
        """The digest of the series."""
        return identity(self.namespace, self.name, self.dimensions, self.unit)


@dataclass(frozen=True)
class Statistic:
    """The points of one series within one period."""

    bucket: int  # counted from the start of the range
    unit: str
    sample_count: float
    total: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class FinalValue:
    """The last value of a metric."""

    name: str
    value: float
    timestamp_ms: int


_SERIES = table_of(MetricSeries).c
_POINT = table_of(MetricPoint).c


def value_sample(
    namespace: str,
    name: str,
    dimensions: Dimensions,
    timestamp_ms: int,
    value: float,
    *,
    count: float = 1.0,
    unit: str = "None",
    step: int | None = None,
) -> Sample:
    """A sample of one value, seen `count` times."""
    return Sample(namespace, name, dimensions, timestamp_ms, count, value * count, value, value, unit, step)


def identity(namespace: str, name: str, dimensions: Dimensions, unit: str) -> str:
    """The digest that makes a series unique."""
    return _digest([namespace, name, dimensions, unit])


def record(session: Session, samples: Sequence[Sample]) -> None:
    """Add points, creating the series that are new."""
    if not samples:
        return
    ids = _series_ids(session, {sample.identity: sample for sample in samples})
    session.connection().execute(
        insert(table_of(MetricPoint)),
        [
            {
                "series_id": ids[sample.identity],
                "timestamp_ms": sample.timestamp_ms,
                "ordinal": next(_ordinals),
                "sample_count": sample.sample_count,
                "total": sample.total,
                "minimum": sample.minimum,
                "maximum": sample.maximum,
                "step": sample.step,
            }
            for sample in samples
        ],
    )


def statistics(
    session: Session, series: Sequence[int], *, start_ms: int, end_ms: int, period_ms: int
) -> list[Statistic]:
    """Counts, sums and extremes per period and unit, in order of time.

    Args:
        series: ids of series of one metric, see `find_series`.
        start_ms: included; the first period begins here.
        end_ms: not included.
    """
    bucket = ((_POINT.timestamp_ms - start_ms) // period_ms).label("bucket")
    statement = (
        select(
            bucket,
            _SERIES.unit,
            func.sum(_POINT.sample_count),
            func.sum(_POINT.total),
            func.min(_POINT.minimum),
            func.max(_POINT.maximum),
        )
        .join_from(table_of(MetricPoint), table_of(MetricSeries), _POINT.series_id == _SERIES.id)
        .where(*_within(series, start_ms, end_ms))
        .group_by(bucket, _SERIES.unit)
        .order_by(bucket, _SERIES.unit)
    )
    return [Statistic(int(row[0]), row[1], row[2], row[3], row[4], row[5]) for row in session.execute(statement)]


def weighted_values(
    session: Session, series: Sequence[int], *, start_ms: int, end_ms: int, period_ms: int
) -> dict[tuple[int, str], list[tuple[float, float]] | None]:
    """The values with their counts per (period, unit), sorted; None where a statistic set hides the single values."""
    bucket = ((_POINT.timestamp_ms - start_ms) // period_ms).label("bucket")
    statement = (
        select(bucket, _SERIES.unit, _POINT.minimum, _POINT.maximum, _POINT.sample_count)
        .join_from(table_of(MetricPoint), table_of(MetricSeries), _POINT.series_id == _SERIES.id)
        .where(*_within(series, start_ms, end_ms))
        .order_by(_POINT.minimum)
    )
    found: dict[tuple[int, str], list[tuple[float, float]] | None] = {}
    for number, unit, minimum, maximum, count in session.execute(statement):
        values = found.setdefault((int(number), unit), [])
        if minimum != maximum:
            found[int(number), unit] = None
        elif values is not None:
            values.append((minimum, count))
    return found


def find_series(
    session: Session, namespace: str, name: str, dimensions: Dimensions, unit: str | None = None
) -> list[int]:
    """The ids of the series with exactly these dimensions: one for each unit, or that of `unit`."""
    statement = select(_SERIES.id).where(
        _SERIES.namespace == namespace, _SERIES.dimensions_digest == _digest(dimensions), _SERIES.name == name
    )
    return list(session.scalars(statement if unit is None else statement.where(_SERIES.unit == unit)))


def series_page(session: Session, *where: ColumnElement[bool], after_id: int, limit: int) -> list[MetricSeries]:
    """Series in the order of their creation."""
    statement = select(MetricSeries).where(MetricSeries.id > after_id, *where).order_by(MetricSeries.id).limit(limit)
    return list(session.scalars(statement))


def newest_point_ms(session: Session, series: Iterable[int]) -> dict[int, int]:
    """The time of the newest point of each series that has any."""
    statement = (
        select(_POINT.series_id, func.max(_POINT.timestamp_ms))
        .where(_POINT.series_id.in_(list(series)))
        .group_by(_POINT.series_id)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def points(session: Session, series: Sequence[int], *, by_step: bool) -> list[Any]:
    """Every point of the series as rows (timestamp_ms, step, total, sample_count), ordered by time or by step."""
    order = (_POINT.step, _POINT.timestamp_ms, _POINT.ordinal) if by_step else (_POINT.timestamp_ms, _POINT.ordinal)
    statement = (
        select(_POINT.timestamp_ms, _POINT.step, _POINT.total, _POINT.sample_count)
        .where(_POINT.series_id.in_(series))
        .order_by(*order)
    )
    return list(session.execute(statement))


def final_values(session: Session, job_name: str) -> list[FinalValue]:
    """The last value of every metric of a training job: what becomes its FinalMetricDataList."""
    series = select(_SERIES.id, _SERIES.name).where(
        _SERIES.namespace == TRAINING_NAMESPACE,
        _SERIES.dimensions_digest == _digest((("TrainingJobName", job_name),)),
    )
    found: list[FinalValue] = []
    for row in session.execute(series.order_by(_SERIES.id)).all():
        last = session.execute(
            select(_POINT.total, _POINT.sample_count, _POINT.timestamp_ms)
            .where(_POINT.series_id == row.id)
            .order_by(_POINT.timestamp_ms.desc(), _POINT.ordinal.desc())
            .limit(1)
        ).first()
        if last is not None:
            found.append(FinalValue(row.name, last.total / last.sample_count, last.timestamp_ms))
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value)).hexdigest()


def _within(series: Sequence[int], start_ms: int, end_ms: int) -> tuple[ColumnElement[bool], ...]:
    return _POINT.series_id.in_(series), _POINT.timestamp_ms >= start_ms, _POINT.timestamp_ms < end_ms


def _series_ids(session: Session, wanted: dict[str, Sample]) -> dict[str, int]:
    find = select(_SERIES.identity, _SERIES.id).where(_SERIES.identity.in_(list(wanted)))
    ids: dict[str, int] = {row.identity: row.id for row in session.execute(find)}
    missing = [
        {
            "identity": key,
            "namespace": sample.namespace,
            "name": sample.name,
            "dimensions": [list(dimension) for dimension in sample.dimensions],
            "dimensions_digest": _digest(sample.dimensions),
            "unit": sample.unit,
        }
        for key, sample in wanted.items()
        if key not in ids
    ]
    if missing:
        postgres = session.get_bind().dialect.name == "postgresql"
        into: Any = (postgresql if postgres else sqlite).insert(table_of(MetricSeries))
        session.connection().execute(into.on_conflict_do_nothing(), missing)
        ids = {row.identity: row.id for row in session.execute(find)}
    return ids
