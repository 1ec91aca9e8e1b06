"""A served front with a router, replicas that stand in for model servers, and boto3 clients."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
from botocore.config import Config

from clary.front.app import Front
from clary.front.credentials import CredentialStore
from clary.front.protocol import PromptProtocol
from clary.inference.capture import Capture
from clary.inference.data_plane import DataPlane
from clary.inference.measurements import Measurements
from clary.inference.router import Router
from clary.settings import Settings
from clary.state.routing import RoutedEndpoint, RoutedReplica, RoutedVariant, RoutingTable

REPLICA = Path(__file__).with_name("stand_in_replica.py")


@dataclass
class StandIn:
    """A replica: a process of its own behind a Unix socket."""

    name: str
    socket: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> StandIn:
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-S", "-E", str(REPLICA), str(self.socket), self.name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"listening\n"
        return self

    def stop(self) -> None:
        """Answer nothing any more, with all connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    @property
    def routed(self) -> RoutedReplica:
        return RoutedReplica(self.name, str(self.socket), f"AllTraffic/{self.name}")


@dataclass
class Plane:
    """The data plane under test."""

    url: str
    credentials: CredentialStore
    router: Router
    measurements: Measurements
    capture: Capture
    loop: asyncio.AbstractEventLoop
    _version: int = 0
    _endpoints: dict[str, RoutedEndpoint] = field(default_factory=dict)

    def client(self, **config: Any) -> Any:
        root = self.credentials.root
        return boto3.client(
            "sagemaker-runtime",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=root.access_key,
            aws_secret_access_key=root.secret_key,
            config=Config(retries={"max_attempts": 0}, **config),
        )

    def route(self, name: str, *variants: RoutedVariant, **changes: Any) -> str:
        """Publish an endpoint, in place of one of that name."""
        arn = f"arn:aws:sagemaker:us-east-1:000000000000:endpoint/{name}"
        self._endpoints[name] = RoutedEndpoint(name, arn, "InService", variants, **changes)
        self._version += 1
        table = RoutingTable(self._version, dict(self._endpoints))
        asyncio.run_coroutine_threadsafe(self._apply(table), self.loop).result(10)
        return name

    async def _apply(self, table: RoutingTable) -> None:
        self.router.apply(table)


def variant(*replicas: StandIn, name: str = "AllTraffic", weight: float = 1.0, **changes: Any) -> RoutedVariant:
    return RoutedVariant(name, weight, tuple(each.routed for each in replicas), max(len(replicas), 1), **changes)


@pytest.fixture(name="variant")
def variant_() -> Callable[..., RoutedVariant]:
    return variant


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    home = tmp_path_factory.mktemp("inference-home")
    credentials = CredentialStore(home, Settings(home=home))
    measurements = Measurements()
    router = Router(measurements)
    capture = Capture()

    async def refuse(*_: Any) -> Any:
        raise AssertionError("only invocations are served here")

    front = Front(
        credentials=credentials,
        dispatch=refuse,
        s3=refuse,
        reports=None,  # type: ignore[arg-type]
        health=dict,
        inference=DataPlane(router, capture),
    )
    config = uvicorn.Config(
        front, port=0, http=PromptProtocol, loop="uvloop", ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    loops: list[asyncio.AbstractEventLoop] = []
    started = threading.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        started.set()
        await task

    import uvloop

    thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
    thread.start()
    assert started.wait(20)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Plane(f"http://127.0.0.1:{port}", credentials, router, measurements, capture, loops[0])
    loops[0].call_soon_threadsafe(router.close)
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="session")
def client(plane: Plane) -> Any:
    return plane.client(max_pool_connections=20)


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], StandIn]]:
    folder = tmp_path_factory.mktemp("r")
    made: list[StandIn] = []

    def make(name: str = "one") -> StandIn:
        made.append(StandIn(name, folder / name).start())
        return made[-1]

    yield make
    for each in made:
        each.kill()


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """One that lives for the whole module: for tests that do not kill it."""
    made = StandIn("one", tmp_path_factory.mktemp("r") / "one").start()
    yield made
    made.kill()
