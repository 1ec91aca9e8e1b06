"""The API process: operations, the reports of hosts, and the controllers; it starts the object store and watches it.

It is the one that writes the record. The front passes on to it what it has authenticated.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.metadata
import logging
import pkgutil
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import clary.services
from clary.cluster import choice
from clary.cluster.base import Clusters
from clary.front import handover
from clary.front.api import Api
from clary.front.credentials import CredentialStore
from clary.front.permissions import check as check_permission
from clary.front.reports import Reports
from clary.inference import measurement_log
from clary.lifecycle import cluster_report, loop
from clary.server.http import serving
from clary.server.stopping import stopped_by_signals
from clary.services import host_reports, invocation_metrics, registry
from clary.services.registry import Answer
from clary.settings import Settings
from clary.state.database import Database
from clary.state.migrate import DatabaseUnusable, upgrade
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore
from clary.storage.errors import StoreError, StoreUnreachable
from clary.storage.seaweed import EmbeddedStore, Store, open_store
from clary.storage.seaweed_config import StoreFailed
from clary.wire.dispatch import Dispatcher, Handler
from clary.wire.errors import AwsError
from clary.wire.messages import OperationCall

_IDLE_SECONDS = 7 * 86400  # the front keeps connections: one that is closed under a request would leave it in doubt
_STORE_PATIENCE = 10.0  # seconds for which a request waits for a store that is away: less than a client waits

_log = logging.getLogger("clary.server")


def prepare(settings: Settings) -> None:
    """Bring the record up to date, before any process uses it.

    Raises:
        SystemExit: it cannot be used, with the reason.
    """
    try:
        upgrade(settings.resolved_database_url)
    except DatabaseUnusable as error:
        sys.exit(f"clary: {error}")


def main(settings: Settings, ready: Callable[[], None]) -> None:
    """Serve on the socket that the front passes requests to, until SIGTERM."""
    try:
        uvloop.run(_serve(settings, ready))
    except StoreFailed as error:
        sys.exit(f"clary: {error}")


async def _serve(settings: Settings, ready: Callable[[], None]) -> None:
    stop = stopped_by_signals()
    async with AsyncExitStack() as stack:
        credentials = CredentialStore(settings.home, settings)
        store = open_store(settings)
        stack.push_async_callback(store.stop)
        await store.start()
        database = Database(settings.resolved_database_url)
        stack.callback(database.close)
        objects = ObjectStore(store.access, patience=_STORE_PATIENCE)
        stack.push_async_callback(objects.close)
        await _ensure_default_bucket(objects, settings)
        dispatcher = Dispatcher(load_handlers(settings, database, objects, credentials), settings.region)
        of_hosts = choice.for_hosts(settings)
        clusters = choice.choose(of_hosts)
        api = Api(
            dispatcher.handle,
            Reports(lambda host_id, token, report: host_reports.receive(database, host_id, token, report)),
            record=lambda batch: _record(database, batch),
            health=lambda: {
                "status": "ready",
                "store": _store_status(store),
                "version": _version(),
            },
            cluster=lambda: cluster_report.report(database, clusters.jobs, of_hosts),
        )
        await stack.enter_async_context(_lifecycle(database, clusters, store.access, of_hosts, credentials, stop))
        listener = stack.enter_context(handover.listen(settings.home))
        stack.callback(handover.unlisten, settings.home)
        await stack.enter_async_context(
            serving(api, listener, protocol=HttpToolsProtocol, idle_seconds=_IDLE_SECONDS, date_header=False)
        )
        ready()
        await asyncio.to_thread(_settle, dispatcher)
        await stop.wait()


def load_handlers(
    settings: Settings, database: Database, objects: ObjectStore, credentials: CredentialStore
) -> Mapping[tuple[str, str], Handler]:
    """The table of operations for the dispatcher: every module of `services` registers its own when imported."""
    for module in pkgutil.iter_modules(clary.services.__path__, "clary.services."):
        importlib.import_module(module.name)

    def bind(function: registry.Operation) -> Handler:
        def handle(call: OperationCall) -> Answer | Awaitable[Answer]:
            check_permission(call.caller, call.service, call.operation)
            context = registry.Context(settings, database, objects, call.caller, call.request_id, credentials)
            answer = function(context, dict(call.params))
            return answer if isinstance(answer, Mapping) else _with_store(answer)

        return handle

    return {name: bind(function) for name, function in registry.operations().items()}


async def _with_store(answer: Awaitable[Answer]) -> Answer:
    """An operation that waits may wait for the store; a store that is away is no fault of the request."""
    try:
        return await answer
    except StoreUnreachable as error:
        raise AwsError("ServiceUnavailable", f"{error} Try again in a moment.", status=503) from error


async def _ensure_default_bucket(objects: ObjectStore, settings: Settings) -> None:
    """The bucket that the SDKs derive for themselves; an S3 of the user's own may refuse it."""
    try:
        await objects.create_bucket(settings.default_bucket)
    except StoreError as error:
        _log.warning("the default bucket %s could not be made: %s", settings.default_bucket, error)


def _store_status(store: Store) -> str:
    if not isinstance(store, EmbeddedStore):
        return "external"
    return "ready" if store.memory_bytes() is not None else "restarting"


@asynccontextmanager
async def _lifecycle(
    database: Database,
    clusters: Clusters,
    access: StoreAccess,
    settings: Settings,
    credentials: CredentialStore,
    stop: asyncio.Event,
) -> AsyncGenerator[None]:
    """The controllers, running within the block. Their unexpected end ends the process: jobs would stand still."""
    task = asyncio.create_task(loop.run(database, clusters, access, settings, credentials, stop))
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        stop.set()
        await task


def _settle(dispatcher: Dispatcher) -> None:
    """Load what the first requests need, then keep the garbage collector from walking it again and again."""
    dispatcher.warm()
    gc.collect()
    gc.freeze()


def _record(database: Database, batch: bytes) -> None:
    readings, timestamp_ms = measurement_log.decoded(batch)
    invocation_metrics.record(database, readings, timestamp_ms)


def _version() -> str:
    return importlib.metadata.version("clary")
