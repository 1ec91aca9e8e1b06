"""What the router measured, as points of CloudWatch: Invocations, ModelLatency and their like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clary.state import metrics
from clary.state.database import Database


class Reading(Protocol):
    """`count` times the same value of one metric of one variant; `inference.measurements.Reading` is one."""

    @property
    def endpoint(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def count(self) -> int: ...


def record(database: Database, readings: Sequence[Reading], timestamp_ms: int) -> None:
    """Record readings that were taken at one time, in milliseconds since 1970."""
    samples = [
        metrics.Sample(
            namespace=metrics.INVOCATION_NAMESPACE,
            name=reading.name,
            dimensions=(("EndpointName", reading.endpoint), ("VariantName", reading.variant)),
            timestamp_ms=timestamp_ms,
            sample_count=reading.count,
            total=reading.value * reading.count,
            minimum=reading.value,
            maximum=reading.value,
            unit=reading.unit,
        )
        for reading in readings
    ]
    with database.transaction() as session:
        metrics.record(session, samples)
