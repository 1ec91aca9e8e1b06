"""One real object store and one S3 front before it, for all tests of the session."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from clary.front.app import Front
from clary.front.credentials import CredentialStore
from clary.front.s3 import S3Proxy
from clary.settings import Settings
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore


class Loop:
    """An event loop in a thread of its own, for what outlives one test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[Any], seconds: float = 60) -> Any:
        async def wait() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(seconds)

    def start(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def store_loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def embedded_store(store_loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    store = EmbeddedStore(Settings(home=tmp_path_factory.mktemp("store-home")))
    store_loop.run(store.start())
    yield store
    store_loop.run(store.stop())


@pytest.fixture(scope="session")
def store_access(embedded_store: EmbeddedStore) -> StoreAccess:
    return embedded_store.access


_buckets = itertools.count(1)


@pytest.fixture
async def object_store(store_access: StoreAccess) -> Any:
    store = ObjectStore(store_access, patience=20)
    yield store
    await store.close()


@pytest.fixture
async def bucket(object_store: ObjectStore) -> str:
    """An empty bucket of the test's own."""
    name = f"test-{next(_buckets)}"
    await object_store.create_bucket(name)
    return name


@dataclass
class RunningFront:
    """A served S3 front: its address, whose keys open it, and what it believes of jobs."""

    url: str
    settings: Settings
    credentials: CredentialStore
    owners: dict[str, set[str]]  # per recorded job, the s3:// prefixes that its request names

    def client(self, *, job: str | None = None, **options: Any) -> Any:
        """A boto3 client, of the person who owns the keys or of a job."""
        import datetime as dt

        import boto3

        if job is None:
            root = self.credentials.root
            keys: dict[str, Any] = {"aws_access_key_id": root.access_key, "aws_secret_access_key": root.secret_key}
        else:
            arn = f"arn:aws:sts::{self.settings.account_id}:assumed-role/ClaryExecutionRole/SageMaker"
            issued = self.credentials.issue(arn, dt.timedelta(hours=1), job_name=job)
            keys = {
                "aws_access_key_id": issued.access_key,
                "aws_secret_access_key": issued.secret_key,
                "aws_session_token": issued.session_token,
            }
        return boto3.client("s3", endpoint_url=self.url, region_name=self.settings.region, **keys, **options)


@pytest.fixture(scope="session")
def s3_front(
    store_loop: Loop, embedded_store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningFront]:
    home: Path = tmp_path_factory.mktemp("front-home")
    settings = Settings(home=home)
    credentials = CredentialStore(home, settings)
    owners: dict[str, set[str]] = {}
    proxy = S3Proxy(
        lambda: embedded_store.access,
        settings,
        owner_of=lambda names: names & owners.keys(),
        named_prefixes=lambda job: owners.get(job, set()),
    )

    def refuse(*_: Any) -> Any:
        raise AssertionError("only S3 is served here")

    unused: Callable[..., Any] = refuse
    front = Front(credentials=credentials, dispatch=unused, s3=proxy, reports=unused, health=dict)  # type: ignore[arg-type]
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        front, http="httptools", ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    serving = store_loop.start(server.serve(sockets=[listener]))
    yield RunningFront(f"http://127.0.0.1:{listener.getsockname()[1]}", settings, credentials, owners)
    server.should_exit = True
    serving.result(30)
    store_loop.run(proxy.close())
