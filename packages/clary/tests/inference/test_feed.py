"""The router follows the record, and goes on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clary.inference import feed
from clary.state.database import Database, now
from clary.state.endpoints import Endpoint, EndpointReplica
from clary.state.migrate import upgrade
from clary.state.routing import RoutingTable, routing_changed


class Router:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []
        self.refresh: Callable[[], Awaitable[object]] | None = None

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
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.01)
    router, stop = Router(), asyncio.Event()
    add_endpoint(database, "first")
    feeding = asyncio.create_task(feed.run(database, router, stop))  # type: ignore[arg-type]
    await until(lambda: router.names == {"first"})
    (variant,) = router.tables[-1].endpoints["first"].variants
    assert [replica.address for replica in variant.replicas] == ["/first.sock"]

    add_endpoint(database, "second")
    await until(lambda: router.names == {"first", "second"})

    asked: list[Database] = []

    def away(database: Database) -> int:
        asked.append(database)
        raise OSError("the record is away")

    monkeypatch.setattr(feed, "routing_version", away)
    told = len(router.tables)
    await until(lambda: bool(asked))
    assert len(router.tables) == told
    stop.set()
    await feeding


async def test_a_change_that_somebody_was_told_of_is_routed_without_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 30)
    router, stop = Router(), asyncio.Event()
    feeding = asyncio.create_task(feed.run(database, router, stop))  # type: ignore[arg-type]
    await until(lambda: bool(router.tables))
    add_endpoint(database, "new")
    assert router.refresh is not None
    await router.refresh()
    assert router.names == {"new"}
    stop.set()
    await feeding
