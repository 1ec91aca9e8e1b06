"""What the gateway before a replica's containers adds to an invocation: one container, and two in series, in turn.

The containers are servers that answer at once, so that only the way to them is measured. A bare call goes to one's Unix
socket, the others through the gateway's. All keep their connections and send the same body.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from clary.host.gateway import Gateway, Stage
from measure import Measurement, report
from serving_overhead import bare_request, call, serve_replica

MEDIAN_BAR_MS, P99_BAR_MS = 1.0, 4.0


def serve_gateway(home: Path, containers: int) -> None:
    """A gateway before some containers, until the process is ended."""
    names = [f"container-{number}" for number in range(1, containers + 1)]
    gateway = Gateway(home / f"gateway-{containers}.sock", [Stage(name) for name in names], direct=False)
    for name in names:
        gateway.serve_from(name, str(home / f"{name}.sock"))
    print("ready", flush=True)
    signal.pause()


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


def run(home: Path, calls: int) -> list[Measurement]:
    paths = {
        "bare": home / "container-1.sock",
        "one container": home / "gateway-1.sock",
        "two in series": home / "gateway-2.sock",
    }
    connections = {name: connect(path) for name, path in paths.items()}
    request = bare_request()
    times: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(calls + 200):
        for name, connection in connections.items():
            took = call(connection, request)
            if number >= 200:
                times[name].append(took)
        time.sleep(0.001)
    bare = times.pop("bare")
    measurements = [Measurement("bare call, median", median(bare), "ms")]
    for name, values in times.items():
        added = median(values) - median(bare)
        late = quantiles(values, n=100)[98] - median(bare)
        measurements += [
            Measurement(f"{name}, added, median", added, "ms", "bare call", MEDIAN_BAR_MS, added <= MEDIAN_BAR_MS),
            Measurement(f"{name}, added, p99", late, "ms", "bare call", P99_BAR_MS, late <= P99_BAR_MS),
        ]
    return measurements


def start(home: Path, role: str, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, __file__, "--role", role, str(home), *arguments], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise SystemExit(f"the {role} did not start")
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        role, home, what = arguments.role
        if role == "container":
            asyncio.run(serve_replica(Path(home) / what))
        else:
            serve_gateway(Path(home), int(what))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        processes = [start(home, "container", f"container-{number}.sock") for number in (1, 2)]
        processes += [start(home, "gateway", str(containers)) for containers in (1, 2)]
        try:
            report("gateway", run(home, arguments.calls))
        finally:
            for process in processes:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
