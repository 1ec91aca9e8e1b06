"""The router follows the record, and goes on without it; what it measured reaches CloudWatch's tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clary.inference import feed
from clary.inference.measurements import NAMESPACE, Measurements
from clary.state import changes, metrics
from clary.state.database import Database, now
from clary.state.endpoints import Endpoint, EndpointReplica
from clary.state.migrate import upgrade
from clary.state.routing import RoutingTable, routing_changed


class Router:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []

    def apply(self, table: RoutingTable) -> None:
        self.tables.append(table)

    @property
    def names(self) -> set[str]:
        return set(self.tables[-1].endpoints) if self.tables else set()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'clary.db'}"
    upgrade(url)
    database = Database(url)
    yield database
    database.close()


def add_endpoint(database: Database, name: str) -> None:
    plan: dict[str, Any] = {
        "generation": 1,
        "config": {},
        "models": {"m": {"PrimaryContainer": {"Image": "i"}}},
        "variants": [
            {"name": "AllTraffic", "model": "m", "shadow": False, "weight": 1.0, "desired_count": 1, "count": 1}
        ],
    }
    with database.transaction() as session:
        endpoint = Endpoint(
            name=name,
            arn=f"arn:aws:sagemaker:us-east-1:000000000000:endpoint/{name}",
            status="InService",
            creation_time=now(),
            last_modified_time=now(),
            serving=plan,
        )
        endpoint.replicas.append(
            EndpointReplica(
                host_id=f"{name}-1",
                endpoint_name=name,
                generation=1,
                variant="AllTraffic",
                position=0,
                instance_type="ml.m5.large",
                node="local",
                cpus=1,
                memory_bytes=1,
                token_hash="",
                log_stream="AllTraffic/i-1",
                created_time=now(),
                address=f"/{name}.sock",
                routed=True,
            )
        )
        session.add(endpoint)
        routing_changed(session)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_router_follows_the_record_and_goes_on_without_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 30)  # only announcements count
    router, stop = Router(), asyncio.Event()
    add_endpoint(database, "first")
    feeding = asyncio.create_task(feed.run(database, router, Measurements(), stop))  # type: ignore[arg-type]
    await until(lambda: router.names == {"first"})
    (variant,) = router.tables[-1].endpoints["first"].variants
    assert [replica.address for replica in variant.replicas] == ["/first.sock"]

    add_endpoint(database, "second")
    changes.announce(database, "endpoint", "second")
    await until(lambda: router.names == {"first", "second"})

    asked: list[Database] = []

    def away(database: Database) -> int:
        asked.append(database)
        raise OSError("the record is away")

    monkeypatch.setattr(feed, "routing_version", away)
    told = len(router.tables)
    changes.announce(database, "endpoint", "second")
    await until(lambda: bool(asked))
    assert len(router.tables) == told
    stop.set()
    await feeding


async def test_what_was_measured_is_recorded_at_the_latest_when_the_server_ends(database: Database) -> None:
    measurements, stop = Measurements(), asyncio.Event()
    feeding = asyncio.create_task(feed.run(database, Router(), measurements, stop))  # type: ignore[arg-type]
    for microseconds in range(1000, 2000):
        measurements.count("e", "v", 200, microseconds / 1e6, microseconds / 1e6 + 0.0005, 1)
    measurements.count("e", "v", 400, 0.001, 0.0015, 1)
    stop.set()
    await feeding
    dimensions = (("EndpointName", "e"), ("VariantName", "v"))
    with database.reading() as session:

        def statistic(name: str) -> metrics.Statistic:
            series = metrics.find_series(session, NAMESPACE, name, dimensions)
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
