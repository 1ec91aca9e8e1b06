"""What Clary's front and router add to an invocation, with SigV4 on: a routed call beside a bare one, in turn.

The replica is a small server that answers at once, so that only the way to it is measured. A bare call goes to its Unix
socket; a routed one through the public port: signature, routing, the same socket. Both keep their connections, and
send the same body. The signed request is the same bytes each time, so that the client's own signing is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httptools
import uvicorn
import uvloop
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from clary.front.app import Front
from clary.front.credentials import CredentialStore
from clary.front.protocol import PromptProtocol
from clary.inference.data_plane import DataPlane
from clary.inference.measurements import Measurements
from clary.inference.router import Router
from clary.settings import Settings
from clary.state.routing import RoutedEndpoint, RoutedReplica, RoutedVariant, RoutingTable
from measure import Measurement, report

BODY = b'{"instances": [[0.1, 0.2, 0.3, 0.4]]}'
ANSWER = b'{"predictions": [[0.5]]}'
MEDIAN_BAR_MS, P99_BAR_MS = 1.0, 4.0
CLIENTS = 64


class Replica(asyncio.Protocol):
    """Answers whatever it is asked."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
        self.transport.write(head + ANSWER)


async def serve_replica(path: Path) -> None:
    await asyncio.get_running_loop().create_unix_server(Replica, str(path))
    print("ready", flush=True)
    await asyncio.Event().wait()


async def serve_front(home: Path) -> None:
    """The front with its router, as the server assembles them."""

    async def refuse(*_: Any) -> Any:
        raise AssertionError("only invocations are sent here")

    router = Router(Measurements())
    replicas = (RoutedReplica("one", str(home / "replica.sock"), "AllTraffic/one"),)
    arn = "arn:aws:sagemaker:us-east-1:000000000000:endpoint/e"
    endpoint = RoutedEndpoint("e", arn, "InService", (RoutedVariant("AllTraffic", 1.0, replicas, 1),))
    router.apply(RoutingTable(1, {"e": endpoint}))
    front = Front(
        credentials=CredentialStore(home, Settings(home=home)),
        dispatch=refuse,
        s3=refuse,
        reports=None,  # type: ignore[arg-type]
        health=dict,
        inference=DataPlane(router),
    )
    config = uvicorn.Config(front, http=PromptProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve(sockets=[listener])


def bare_request() -> bytes:
    return (
        b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    )


def signed_request(home: Path, port: int) -> bytes:
    root = CredentialStore(home, Settings(home=home)).root
    url = f"http://127.0.0.1:{port}/endpoints/e/invocations"
    request = AWSRequest("POST", url, data=BODY, headers={"Content-Type": "application/json"})
    SigV4Auth(Credentials(root.access_key, root.secret_key), "sagemaker", "us-east-1").add_auth(request)
    headers = {**dict(request.headers), "Host": f"127.0.0.1:{port}", "Content-Length": str(len(BODY))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /endpoints/e/invocations HTTP/1.1\r\n{lines}\r\n".encode() + BODY


def call(connection: socket.socket, request: bytes) -> float:
    """Milliseconds from sending a request to the last byte of its answer."""
    began = time.perf_counter()
    connection.sendall(request)
    received = b""
    while not received.endswith(ANSWER):
        data = connection.recv(65536)
        if not data:
            raise SystemExit(f"the server closed the connection after {received!r}")
        received += data
        if not received.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the call failed: {received!r}")
    return 1000 * (time.perf_counter() - began)


async def throughput(port: int, request: bytes, seconds: float) -> float:
    """Answers a second to `CLIENTS` connections that each ask again as soon as they are answered."""
    count = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(request)
            await reader.readuntil(ANSWER)
            count += 1
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - began)


def run(home: Path, calls: int, seconds: float) -> list[Measurement]:
    processes = [start("replica", home), start("front", home)]
    try:
        lines = [process.stdout.readline().decode().strip() for process in processes if process.stdout]
        port = int(lines[1])
        bare, routed = socket.socket(socket.AF_UNIX), socket.create_connection(("127.0.0.1", port))
        bare.connect(str(home / "replica.sock"))
        routed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain, signed = bare_request(), signed_request(home, port)
        for _ in range(200):
            call(bare, plain), call(routed, signed)
        pairs = [(call(bare, plain), call(routed, signed)) for _ in range(calls)]
        rate = uvloop.run(throughput(port, signed, seconds))
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    bare_times, routed_times = ([pair[side] for pair in pairs] for side in (0, 1))
    added = median(routed_times) - median(bare_times)
    added_p99 = p99(routed_times) - p99(bare_times)
    return [
        Measurement("bare call, median", median(bare_times), "ms"),
        Measurement("routed and signed call, median", median(routed_times), "ms"),
        Measurement("added, median", added, "ms", "bare call", MEDIAN_BAR_MS, added <= MEDIAN_BAR_MS),
        Measurement("bare call, p99", p99(bare_times), "ms"),
        Measurement("routed and signed call, p99", p99(routed_times), "ms"),
        Measurement("added, p99", added_p99, "ms", "bare call", P99_BAR_MS, added_p99 <= P99_BAR_MS),
        Measurement(f"throughput at {CLIENTS} connections", rate, "1/s"),
    ]


def start(role: str, home: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--role", role, "--home", str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)


def p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000, help="of each kind")
    parser.add_argument("--seconds", type=float, default=5.0, help="of full load")
    parser.add_argument("--role", choices=("replica", "front"), help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "replica":
        uvloop.run(serve_replica(given.home / "replica.sock"))
    elif given.role == "front":
        uvloop.run(serve_front(given.home))
    else:
        with tempfile.TemporaryDirectory(prefix="clary-") as home:
            report("serving_overhead", run(Path(home), given.calls, given.seconds))


if __name__ == "__main__":
    main()
