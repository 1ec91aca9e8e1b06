"""Real servers on free ports, each with a home folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.client import Config

READY_SECONDS = 30


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """A server that runs, as its parent process."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def processes(self) -> dict[str, int]:
        """The front and the API process, by name."""
        return json.loads((self.home / "server.json").read_text())["processes"]

    def client(self, service: str, **options: Any) -> Any:
        keys = json.loads((self.home / "credentials.json").read_text())
        arguments = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": keys["access_key"],
            "aws_secret_access_key": keys["secret_key"],
            "config": Config(retries={"total_max_attempts": 1}),
        }
        return boto3.client(service, **{**arguments, **options})

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def discard(self) -> None:
        """End it at once, with its store, to which an end in order takes over a second: nobody needs its home again."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError, ValueError, psutil.Error):  # it has none, or none any more
            store = psutil.Process(json.loads((self.home / "store" / "process.json").read_text())["pid"])
            if any(str(self.home) in word for word in store.cmdline()):
                store.kill()


def _launch(home: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CLARY_HOME": str(home), "CLARY_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-m", "clary.server"], env=environment, stderr=subprocess.PIPE)


def _start(home: Path, port: int | None = None) -> Server:
    port = port or _free_port()
    process = _launch(home, port)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((home / "server.json").read_text())["pid"] == process.pid:
                return Server(home, port, process)
        time.sleep(0.02)
    process.kill()
    raise AssertionError((home / "server.log").read_text() if (home / "server.log").exists() else "no log")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return _free_port


@pytest.fixture(scope="session")
def launch() -> Callable[[Path, int], subprocess.Popen[bytes]]:
    """(home, port) → the process of a server that may not start."""
    return _launch


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """(home, port or a free one) → a server that is ready; it is ended after the test."""
    started: list[Server] = []

    def start_one(home: Path, port: int | None = None) -> Server:
        started.append(_start(home, port))
        return started[-1]

    yield start_one
    for server in started:
        server.discard()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = _start(tmp_path_factory.mktemp("home"))
    yield running
    running.discard()
