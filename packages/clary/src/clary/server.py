"""The server: one process that assembles the front, the API, the store and the controllers, and ends them in order.

`python -m clary.server` runs it with the settings of the environment until SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import fcntl
import gc
import importlib
import importlib.metadata
import logging
import os
import pkgutil
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import orjson
import uvicorn
import uvloop

import clary.services
from clary.front.app import Front
from clary.front.credentials import CredentialStore
from clary.front.permissions import check as check_permission
from clary.front.protocol import PromptProtocol
from clary.front.reports import Reports
from clary.front.s3 import S3Proxy
from clary.inference import feed
from clary.inference.capture import Capture
from clary.inference.data_plane import DataPlane
from clary.inference.measurements import Measurements
from clary.inference.router import Router
from clary.services import host_reports, registry
from clary.services.job_places import addresses_of, recorded_jobs
from clary.services.registry import Answer
from clary.settings import Settings, current_settings
from clary.state.database import Database
from clary.state.migrate import DatabaseTooNew, upgrade
from clary.state.routing import routing_table
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore
from clary.storage.errors import StoreError, StoreUnreachable
from clary.storage.seaweed import EmbeddedStore, Store, open_store
from clary.storage.seaweed_config import StoreFailed
from clary.wire.dispatch import Dispatcher, Handler
from clary.wire.errors import AwsError
from clary.wire.messages import OperationCall

_DRAIN_SECONDS = 5  # for requests that are being answered when the server is told to end
_IDLE_SECONDS = 75  # a kept connection without a request; longer than botocore's pool keeps one
_STORE_PATIENCE = 10.0  # seconds for which a request waits for a store that is away: less than a client waits

_log = logging.getLogger("clary.server")


class StartError(Exception):
    """The server cannot start, and why."""


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    `server.json` in the home folder says where the server is, from when it is ready until it ends.

    Raises:
        StartError: another server uses the home folder or the port.
    """
    started = dt.datetime.now(dt.UTC)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stack.enter_context(_only_server_of(settings.home))
        listener = stack.enter_context(_listen(settings))
        credentials = CredentialStore(settings.home, settings)
        store = open_store(settings)
        stack.push_async_callback(store.stop)
        database, _ = await asyncio.gather(asyncio.to_thread(_open_database, settings), store.start())
        stack.callback(database.close)
        objects = ObjectStore(store.access, patience=_STORE_PATIENCE)
        stack.push_async_callback(objects.close)
        await _ensure_default_bucket(objects, settings)
        dispatcher = Dispatcher(load_handlers(settings, database, objects, credentials), settings.region)
        s3 = _s3_front(store, settings, database)
        stack.push_async_callback(s3.close)
        measurements = Measurements()
        router = Router(measurements)
        stack.callback(router.close)
        await stack.enter_async_context(_routing(database, router, measurements))
        capture = Capture()
        await stack.enter_async_context(_capturing(capture, objects))
        front = Front(
            inference=DataPlane(router, capture),
            credentials=credentials,
            dispatch=dispatcher.handle,
            s3=s3,
            reports=Reports(lambda host_id, token, report: host_reports.receive(database, host_id, token, report)),
            health=lambda: {
                "status": "ready",
                "store": _store_status(store),
                "version": _version(),
                "region": settings.region,
                "account_id": settings.account_id,
            },
        )
        await stack.enter_async_context(_lifecycle(database, store.access, settings, credentials, stop))
        await stack.enter_async_context(_http(front, listener))
        stack.enter_context(_announced(settings, started))
        _log.info("Clary is ready at %s", settings.url)
        await asyncio.to_thread(_settle, dispatcher)
        await stop.wait()
        _log.info("Clary ends; jobs go on")


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


def main() -> None:
    """Run the server of this process's settings."""
    settings = current_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _configure_log(settings.home / "server.log")
    try:
        uvloop.run(serve(settings))
    except (StartError, StoreFailed, DatabaseTooNew) as error:
        sys.exit(f"clary: {error}")


async def _ensure_default_bucket(objects: ObjectStore, settings: Settings) -> None:
    """The bucket that the SDKs derive for themselves; an S3 of the user's own may refuse it."""
    try:
        await objects.create_bucket(settings.default_bucket)
    except StoreError as error:
        _log.warning("the default bucket %s could not be made: %s", settings.default_bucket, error)


def _s3_front(store: Store, settings: Settings, database: Database) -> S3Proxy:
    return S3Proxy(
        lambda: store.access,
        settings,
        embedded=isinstance(store, EmbeddedStore),
        owner_of=lambda names: asyncio.to_thread(recorded_jobs, database, names),
        named_prefixes=lambda job: asyncio.to_thread(addresses_of, database, job),
    )


def _store_status(store: Store) -> str:
    if not isinstance(store, EmbeddedStore):
        return "external"
    return "ready" if store.memory_bytes() is not None else "restarting"


def _open_database(settings: Settings) -> Database:
    upgrade(settings.resolved_database_url)
    return Database(settings.resolved_database_url)


@asynccontextmanager
async def _routing(database: Database, router: Router, measurements: Measurements) -> AsyncGenerator[None]:
    """The router's table kept up to date, and its measurements recorded, within the block."""
    router.apply(await asyncio.to_thread(routing_table, database))  # complete before the first request
    stop = asyncio.Event()
    task = asyncio.create_task(feed.run(database, router, measurements, stop))
    try:
        yield
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _capturing(capture: Capture, objects: ObjectStore) -> AsyncGenerator[None]:
    """Captured invocations brought to the store within the block, the last ones at its end."""
    stop = asyncio.Event()
    task = asyncio.create_task(capture.run(objects, stop))
    try:
        yield
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _lifecycle(
    database: Database, access: StoreAccess, settings: Settings, credentials: CredentialStore, stop: asyncio.Event
) -> AsyncGenerator[None]:
    """The controllers, running within the block. Their unexpected end ends the server: jobs would stand still."""
    from clary.cluster.local import LocalCluster
    from clary.lifecycle import loop

    task = asyncio.create_task(loop.run(database, LocalCluster(settings), access, settings, credentials, stop))
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _http(front: Front, listener: socket.socket) -> AsyncGenerator[None]:
    config = uvicorn.Config(
        front,
        http=PromptProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _HttpServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    waiting = asyncio.create_task(server.listening.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process before its store."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def _settle(dispatcher: Dispatcher) -> None:
    """Load what the first requests need, then keep the garbage collector from walking it again and again."""
    dispatcher.warm()
    gc.collect()
    gc.freeze()


@contextmanager
def _only_server_of(home: Path) -> Generator[None]:
    with (home / "server.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another Clary runs with the home folder {home}. Stop it with `clary down`, or set CLARY_HOME."
            ) from None
        yield


@contextmanager
def _listen(settings: Settings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"port {settings.port} of {settings.host} cannot be used: {error.strerror}. Set CLARY_PORT to another."
            ) from None
        yield listener


@contextmanager
def _announced(settings: Settings, started: dt.datetime) -> Generator[None]:
    path = settings.home / "server.json"
    fresh = path.with_suffix(".json.new")
    fresh.write_bytes(orjson.dumps({"pid": os.getpid(), "url": settings.url, "started": started.isoformat()}))
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _version() -> str:
    return importlib.metadata.version("clary")


def _configure_log(path: Path) -> None:
    """Log to stderr, and to the file too unless stderr is that file already."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if not path.exists() or not os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat()):
        handlers.append(logging.FileHandler(path))
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=handlers)
    for name in ("alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
