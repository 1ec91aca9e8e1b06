"""A Ray of one machine that Clary starts for itself: `clary up --cluster ray` without an address.

It lasts beyond the server, as its jobs do, and is found again by a file in the home folder. Its ports are open on the
machine's network, as Ray's always are: a token that only the home folder holds keeps others out.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from clary.cluster.machine import machine_resources
from clary.cluster.processes import pids_with_environment

_MARK = "CLARY_LOCAL_RAY"
_FILE = "ray.json"
_OBJECT_STORE_BYTES = 80_000_000  # nothing of Clary's goes through it: the least that Ray takes
_END_SECONDS = 20.0


class NoRay(Exception):
    """Ray could not be started, and why."""


def ensure(home: Path) -> tuple[str, Mapping[str, str]]:
    """The address of the home folder's own Ray, started when it does not run, and the variables that open it.

    Raises:
        NoRay: it does not start.
    """
    path = home / _FILE
    if path.exists():
        known = json.loads(path.read_text())
        if _is_whole(home) and _answers(known["address"]):
            return known["address"], _variables(known["token"])
        end(home)
    token = secrets.token_hex(24)
    port = _free_port()
    address = _start(home, port, token)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"address": address, "token": token}, file)
    part.replace(path)
    return address, _variables(token)


def exists(home: Path) -> bool:
    """Whether one was started and not ended."""
    return (home / _FILE).exists()


def end(home: Path) -> bool:
    """End the home folder's own Ray and what it runs; whether there was one."""
    pids = _pids(home)
    deadline = time.monotonic() + _END_SECONDS
    number = signal.SIGTERM
    while left := _pids(home):
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline - _END_SECONDS / 2:
            number = signal.SIGKILL
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    (home / _FILE).unlink(missing_ok=True)
    return bool(pids)


def _start(home: Path, port: int, token: str) -> str:
    have = machine_resources()
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"),
        *("--include-dashboard=false", "--include-log-monitor=false", "--log-color=false"),
        f"--port={port}",
        f"--ray-client-server-port={_free_port()}",
        f"--num-cpus={max(1, int(have.cpus))}",
        f"--num-gpus={int(have.gpus)}",
        f"--memory={have.memory_bytes}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CLARY_", "AWS_", "RAY_"))}
    environment = {**plain, **_variables(token), _MARK: str(home), "RAY_memory_monitor_refresh_ms": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-8:]
        raise NoRay("Ray does not start on this machine:\n" + "\n".join(f"    {line}" for line in last))
    return f"{_address_in(done.stdout + done.stderr)}:{port}"


def _address_in(said: str) -> str:
    """Ray takes the machine's address on its network, whatever it is told."""
    for line in said.splitlines():
        if "Local node IP:" in line:
            return line.rpartition("Local node IP:")[2].strip()
    return "127.0.0.1"


def _variables(token: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}


def _pids(home: Path) -> set[int]:
    return pids_with_environment(f"{_MARK}={home}") - {os.getpid()}


def _is_whole(home: Path) -> bool:
    commands = [(Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")[0] for pid in _pids(home)]
    return all(any(command.endswith(program) for command in commands) for program in (b"/gcs_server", b"/raylet"))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
