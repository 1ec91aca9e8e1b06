"""The front process: it answers on the public port, by itself for models and S3, by way of the API process otherwise.

It keeps nothing but the routing table, and reads the record for that alone; so it goes on while the API process is
away, and another front takes its place at once.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvloop

from clary.front.app import Front
from clary.front.credentials import CredentialStore
from clary.front.handover import ApiClient
from clary.front.protocol import PromptProtocol
from clary.front.s3 import S3Proxy
from clary.inference import feed, measurement_log
from clary.inference.capture import Capture
from clary.inference.data_plane import DataPlane
from clary.inference.measurements import Measurements
from clary.inference.router import Router
from clary.server.http import serving
from clary.server.stopping import stopped_by_signals
from clary.services.job_places import addresses_of, recorded_jobs
from clary.settings import Settings
from clary.state.database import Database
from clary.state.routing import routing_table
from clary.storage.known import KnownStore
from clary.wire.messages import Caller, WireRequest, WireResponse

_IDLE_SECONDS = 75  # a kept connection without a request; longer than botocore's pool keeps one
_YOUNG_OBJECTS = 50_000  # before garbage is looked for: many requests under way would be walked again and again
_STORE_PATIENCE = 10.0  # seconds for which captured invocations wait for a store that is away


def main(settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve on `listener` until SIGTERM."""
    uvloop.run(_serve(settings, listener, ready))


async def _serve(settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    stop = stopped_by_signals()
    async with AsyncExitStack() as stack:
        credentials = CredentialStore(settings.home, settings)
        database = Database(settings.resolved_database_url)
        stack.callback(database.close)
        api = ApiClient(settings.home)
        stack.callback(api.close)
        store = KnownStore(settings, patience=_STORE_PATIENCE)
        stack.push_async_callback(store.close)
        s3 = _s3_front(store, settings, database)
        stack.push_async_callback(s3.close)
        measurements = Measurements()
        router = Router(measurements)
        stack.callback(router.close)
        router.apply(await asyncio.to_thread(routing_table, database))  # complete before the first request
        capture = Capture()
        await stack.enter_async_context(_until_the_end(lambda end: feed.run(database, router, end)))
        await stack.enter_async_context(
            _until_the_end(lambda end: measurement_log.run(measurements, api.measured, end))
        )
        await stack.enter_async_context(_until_the_end(lambda end: capture.run(store, end)))
        front = Front(
            inference=DataPlane(router, capture),
            credentials=credentials,
            dispatch=_dispatch(api, router),
            s3=s3,
            reports=api,
            health=lambda: _health(api, settings),
        )
        await stack.enter_async_context(
            serving(front, listener, protocol=PromptProtocol, idle_seconds=_IDLE_SECONDS, date_header=True)
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS)
        ready()
        await stop.wait()


def _dispatch(api: ApiClient, router: Router) -> Callable[[WireRequest, Caller], Awaitable[WireResponse]]:
    async def dispatch(request: WireRequest, caller: Caller) -> WireResponse:
        response = await api.dispatch(request, caller)
        target = request.headers.get("x-amz-target", "")
        if "Endpoint" in target and router.refresh is not None:
            await router.refresh()  # whoever is told of a change finds it routed
        return response

    return dispatch


async def _health(api: ApiClient, settings: Settings) -> Mapping[str, Any]:
    told = await api.health()
    own = {"region": settings.region, "account_id": settings.account_id}
    return {**(told or {"status": "restarting", "store": "unknown"}), **own}


def _s3_front(store: KnownStore, settings: Settings, database: Database) -> S3Proxy:
    return S3Proxy(
        store.access,
        settings,
        embedded=store.embedded,
        owner_of=lambda names: asyncio.to_thread(recorded_jobs, database, names),
        named_prefixes=lambda job: asyncio.to_thread(addresses_of, database, job),
    )


@asynccontextmanager
async def _until_the_end(run: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncGenerator[None]:
    """Something that runs beside the block, and finishes its work at its end."""
    end = asyncio.Event()
    task = asyncio.ensure_future(run(end))
    try:
        yield
    finally:
        end.set()
        await task
