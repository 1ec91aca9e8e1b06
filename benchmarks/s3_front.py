"""How fast S3 is through Clary's port beside the store's own rate: one stream each way, and many small reads.

One boto3 client in one process, first to the store, then through the front, several times in turn; medians. The server
runs as always, in a process of its own.

Run: make bench NAME=s3_front
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config

from measure import Measurement, report

LARGE = 128 << 20
SMALL = 10 << 10
SMALL_READS = 300
ROUNDS = 5
BAR = 0.6
BUCKET = "s3-front-benchmark"


def start_server(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server on a free port, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "CLARY_HOME": str(home), "CLARY_PORT": str(port)}
    with (home / "server.out").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "clary.server"], env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not (home / "server.json").exists():
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit((home / "server.out").read_text())
        time.sleep(0.02)
    return server, f"http://127.0.0.1:{port}"


def client(endpoint: str, keys: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
        config=Config(retries={"max_attempts": 1}),
    )


def put_large(s3: Any, content: bytes) -> float:
    began = time.perf_counter()
    s3.put_object(Bucket=BUCKET, Key="large", Body=content)
    return len(content) / (time.perf_counter() - began) / 1e6


def get_large(s3: Any, _: bytes) -> float:
    began = time.perf_counter()
    body = s3.get_object(Bucket=BUCKET, Key="large")["Body"]
    size = 0
    while chunk := body.read(1 << 20):
        size += len(chunk)
    assert size == LARGE
    return size / (time.perf_counter() - began) / 1e6


def get_small(s3: Any, _: bytes) -> float:
    began = time.perf_counter()
    for number in range(SMALL_READS):
        assert len(s3.get_object(Bucket=BUCKET, Key=f"small/{number}")["Body"].read()) == SMALL
    return SMALL_READS / (time.perf_counter() - began)


WORKLOADS: tuple[tuple[str, Callable[[Any, bytes], float], str], ...] = (
    ("put, one stream", put_large, "MB/s"),
    ("get, one stream", get_large, "MB/s"),
    ("small gets (10 kB, one after another)", get_small, "1/s"),
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="clary-bench-") as folder:
        home = Path(folder)
        server, url = start_server(home)
        try:
            report("s3_front", measure(home, url, server.pid))
        finally:
            server.terminate()
            server.wait(30)


def measure(home: Path, url: str, server: int) -> list[Measurement]:
    store_port = json.loads((home / "store" / "ports.json").read_text())["s3.port"]
    direct = client(f"http://127.0.0.1:{store_port}", json.loads((home / "store" / "keys.json").read_text()))
    through = client(url, json.loads((home / "credentials.json").read_text()))
    through.create_bucket(Bucket=BUCKET)
    content = os.urandom(LARGE)
    for number in range(SMALL_READS):
        through.put_object(Bucket=BUCKET, Key=f"small/{number}", Body=content[:SMALL])
    rows: list[Measurement] = []
    for name, work, unit in WORKLOADS:
        rates: dict[str, list[float]] = {"direct": [], "through": []}
        for turn in range(ROUNDS + 1):
            for kind, s3 in (("direct", direct), ("through", through)):
                rate = work(s3, content)
                if turn:  # the first turn warms up
                    rates[kind].append(rate)
        own, ours = statistics.median(rates["direct"]), statistics.median(rates["through"])
        rows.append(Measurement(f"{name}: the store itself", own, unit, peer="SeaweedFS"))
        rows.append(Measurement(f"{name}: through Clary", ours, unit))
        rows.append(Measurement(f"{name}: ratio", ours / own, "", peer="SeaweedFS", bar=BAR, ok=ours / own >= BAR))
    store = json.loads((home / "store" / "process.json").read_text())["pid"]
    rows.append(Measurement("memory of the server afterwards", psutil.Process(server).memory_info().rss / 1e6, "MB"))
    rows.append(Measurement("memory of the store afterwards", psutil.Process(store).memory_info().rss / 1e6, "MB"))
    return rows


if __name__ == "__main__":
    main()
