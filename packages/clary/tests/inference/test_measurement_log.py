"""What was measured reaches CloudWatch's tables, late if it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from clary.inference import measurement_log
from clary.inference.measurements import Measurements
from clary.services import invocation_metrics
from clary.state import metrics
from clary.state.database import Database
from clary.state.migrate import upgrade


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'clary.db'}"
    upgrade(url)
    database = Database(url)
    yield database
    database.close()


async def test_what_was_measured_is_recorded_at_the_latest_when_the_front_ends(database: Database) -> None:
    measurements, stop = Measurements(), asyncio.Event()

    async def deliver(batch: bytes) -> bool:
        readings, timestamp_ms = measurement_log.decoded(batch)
        invocation_metrics.record(database, readings, timestamp_ms)
        return True

    logging = asyncio.create_task(measurement_log.run(measurements, deliver, stop))
    for microseconds in range(1000, 2000):
        measurements.count("e", "v", 200, microseconds / 1e6, microseconds / 1e6 + 0.0005, 1)
    measurements.count("e", "v", 400, 0.001, 0.0015, 1)
    stop.set()
    await logging
    dimensions = (("EndpointName", "e"), ("VariantName", "v"))
    with database.reading() as session:

        def statistic(name: str) -> metrics.Statistic:
            series = metrics.find_series(session, metrics.INVOCATION_NAMESPACE, name, dimensions)
            (found,) = metrics.statistics(session, series, start_ms=0, end_ms=1 << 50, period_ms=1 << 50)
            return found

        assert statistic("Invocations").total == 1001
        assert statistic("Invocation4XXErrors").total == 1
        assert statistic("Invocation4XXErrors").sample_count == 1001
        latency = statistic("ModelLatency")
        assert (latency.minimum, latency.maximum, latency.sample_count) == (1000.0, 2000.0, 1001)
        assert latency.total / latency.sample_count == pytest.approx(1499, rel=0.01)
        assert statistic("OverheadLatency").minimum == pytest.approx(500, rel=0.01)
        assert latency.unit == "Microseconds"


async def test_measurements_wait_while_nobody_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement_log, "RECORD_SECONDS", 0.01)
    measurements, stop = Measurements(), asyncio.Event()
    offered: list[bytes] = []
    taken: list[int] = []

    async def deliver(batch: bytes) -> bool:
        offered.append(batch)
        if len(offered) < 4:
            measurements.count("e", "v", 200, 0.001, 0.002, 1)
            return False
        readings, _ = measurement_log.decoded(batch)
        taken.append(next(reading.count for reading in readings if reading.name == "Invocations"))
        return True

    measurements.count("e", "v", 200, 0.001, 0.002, 1)
    logging = asyncio.create_task(measurement_log.run(measurements, deliver, stop))
    async with asyncio.timeout(20):
        while sum(taken) < 4:
            await asyncio.sleep(0.005)
    stop.set()
    await logging
    assert offered[0] == offered[1], "the oldest is offered first"
    assert sum(taken) == 4
