"""Keeps the router's table as the record has it.

The record is read a few times a second by one row, and whenever somebody is told of a change (`Router.refresh`). While
it cannot be read, the router goes on with the table that it has.
"""

from __future__ import annotations

import asyncio
import logging

from clary.inference.router import Router
from clary.state.database import Database
from clary.state.routing import routing_table, routing_version

POLL_SECONDS = 0.2

_log = logging.getLogger(__name__)


async def run(database: Database, router: Router, stop: asyncio.Event) -> None:
    """Feed the router until `stop`."""
    version = -1
    turn = asyncio.Lock()  # or an older table could be taken up after a newer one

    async def refresh() -> None:
        nonlocal version
        async with turn:
            version = await _refresh(database, router, version)

    router.refresh = refresh
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            await refresh()
            await asyncio.wait((stopping,), timeout=POLL_SECONDS)
    finally:
        router.refresh = None
        stopping.cancel()


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
