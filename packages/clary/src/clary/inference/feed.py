"""Keeps the router's table as the record has it, and brings what was measured into the record.

The record is read a few times a second by one row; a change that this process makes itself is taken up at once. While
the record cannot be read, the router goes on with the table that it has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from clary.inference.measurements import NAMESPACE, Measurements, Reading
from clary.inference.router import Router
from clary.state import changes, metrics
from clary.state.database import Database
from clary.state.routing import routing_table, routing_version

POLL_SECONDS = 0.2
RECORD_SECONDS = 5.0

_log = logging.getLogger(__name__)


async def run(database: Database, router: Router, measurements: Measurements, stop: asyncio.Event) -> None:
    """Feed the router until `stop`; then record what is left."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def notice(kind: str, _name: str) -> None:
        if kind == "endpoint":
            loop.call_soon_threadsafe(changed.set)

    end = changes.listen(database, notice)
    recording = asyncio.create_task(_record_regularly(database, measurements))
    stopping = asyncio.create_task(stop.wait())
    version = -1
    turn = asyncio.Lock()  # or an older table could be taken up after a newer one

    async def refresh() -> None:
        nonlocal version
        async with turn:
            version = await _refresh(database, router, version)

    router.refresh = refresh
    try:
        while not stop.is_set():
            await refresh()
            waiting = asyncio.create_task(changed.wait())
            await asyncio.wait((waiting, stopping), timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            changed.clear()
    finally:
        router.refresh = None
        end()
        stopping.cancel()
        recording.cancel()
        with suppress(asyncio.CancelledError):
            await recording
        await asyncio.to_thread(_record, database, measurements.take())


async def _refresh(database: Database, router: Router, version: int) -> int:
    """Take the table up if it is newer than `version`; returns the version that the router has now."""
    try:
        if await asyncio.to_thread(routing_version, database) == version:
            return version
        table = await asyncio.to_thread(routing_table, database)
    except Exception:  # noqa: BLE001 - the boundary: models go on being served whatever has become of the record
        _log.exception("the routing table could not be read; requests go where they went before")
        await asyncio.sleep(1.0)
        return version
    router.apply(table)
    return table.version


async def _record_regularly(database: Database, measurements: Measurements) -> None:
    while True:
        await asyncio.sleep(RECORD_SECONDS)
        readings = measurements.take()
        if readings:
            await asyncio.to_thread(_record, database, readings)


def _record(database: Database, readings: list[Reading]) -> None:
    if not readings:
        return
    now = time.time_ns() // 1_000_000
    samples = [
        metrics.Sample(
            namespace=NAMESPACE,
            name=reading.name,
            dimensions=(("EndpointName", reading.endpoint), ("VariantName", reading.variant)),
            timestamp_ms=now,
            sample_count=reading.count,
            total=reading.value * reading.count,
            minimum=reading.value,
            maximum=reading.value,
            unit=reading.unit,
        )
        for reading in readings
    ]
    try:
        with database.transaction() as session:
            metrics.record(session, samples)
    except Exception:  # noqa: BLE001 - the boundary: measurements are lost rather than invocations
        _log.exception("%d measurements of endpoints could not be recorded", len(samples))
