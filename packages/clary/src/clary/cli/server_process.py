"""The server as a process: is one running, start it, wait until it answers, stop it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.cli.output import CliError, say, working

START_TIMEOUT = 60.0  # seconds; the store needs about three on its first start
STOP_TIMEOUT = 45.0


@dataclass(frozen=True)
class RunningServer:
    """A server that answers. `pid` is its parent process, `processes` are those that it watches, by name."""

    home: Path
    url: str
    pid: int
    started: str
    health: Mapping[str, Any]
    processes: Mapping[str, int]


def find(home: Path) -> RunningServer | None:
    """The server of this home folder, or None when none runs or it does not answer."""
    try:
        record = json.loads((home / "server.json").read_text())
        url, pid = str(record["url"]), int(record["pid"])
        processes = {str(name): int(number) for name, number in record.get("processes", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not is_alive(pid):
        return None
    health = health_of(url)
    if health is None:
        return None
    return RunningServer(home, url, pid, str(record.get("started", "")), health, processes)


def require(home: Path) -> RunningServer:
    """The server of this home folder; an error that says how to start one when there is none."""
    server = find(home)
    if server is None:
        raise CliError(f"No server is running for {home}.", "Start one with `clary up`.", exit_code=3)
    return server


def ensure(home: Path) -> RunningServer:
    """The server of this home folder, started in the background when none runs."""
    server = find(home)
    if server is not None:
        return server
    with starting(home):
        server = find(home)
        if server is None:
            say(f"No server is running for {home}: starting one (stop it with `clary down`).")
            process = launch(home, last_settings(home), detached=True)
            server = wait_until_ready(home, process)
    return server


def launch(home: Path, settings: Mapping[str, str], *, detached: bool) -> subprocess.Popen[bytes]:
    """Start `python -m clary.server`.

    Args:
        home: the home folder, made when missing.
        settings: further `CLARY_*` variables for the server.
        detached: in a session of its own with its output in the log, so that it outlives the terminal.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = {**os.environ, **settings, "CLARY_HOME": str(home)}
    port = int(environment.get("CLARY_PORT") or 7700)
    _refuse_a_taken_port(environment.get("CLARY_HOST") or "127.0.0.1", port)
    command = [sys.executable, "-m", "clary.server"]
    (home / "server.json").unlink(missing_ok=True)
    with log_file(home).open("ab") as log:
        output = log if detached else None
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=detached,
            cwd=home if detached else None,
        )


def remember_settings(home: Path, settings: Mapping[str, str]) -> None:
    """Keep what `clary up` was given, so that a server that `clary run` starts is the same one."""
    descriptor = os.open(home / "up.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # may hold an S3 key
    with os.fdopen(descriptor, "w") as file:
        json.dump(dict(settings), file, indent=2)


def last_settings(home: Path) -> dict[str, str]:
    """What the last `clary up` of this home folder was given."""
    try:
        return {str(name): str(value) for name, value in json.loads((home / "up.json").read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def wait_until_ready(home: Path, process: subprocess.Popen[bytes]) -> RunningServer:
    """Wait until the server answers; an error with the end of its log when it does not."""
    deadline = time.monotonic() + START_TIMEOUT
    with working("Starting Clary"):
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise CliError(
                    f"The server ended at once, with exit code {process.returncode}.{_log_tail(home)}",
                    f"Its whole log is {log_file(home)}.",
                )
            server = find(home)
            if server is not None:
                return server
            time.sleep(0.05)
    process.terminate()
    raise CliError(
        f"The server did not answer within {START_TIMEOUT:.0f} seconds.{_log_tail(home)}",
        f"Its whole log is {log_file(home)}; `clary doctor` looks for the usual causes.",
    )


def stop(server: RunningServer) -> None:
    """Ask the server to end, and wait until it has."""
    os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    with working("Stopping Clary"):
        while is_alive(server.pid):
            if time.monotonic() > deadline:
                raise CliError(
                    f"The server (process {server.pid}) is still running {STOP_TIMEOUT:.0f} seconds after SIGTERM.",
                    f"See {log_file(server.home)}; `kill -9 {server.pid}` loses no record.",
                )
            time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def health_of(url: str) -> dict[str, Any] | None:
    """What the server says of itself, or None when it does not answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/_clary/health", timeout=3) as reply:
            content = json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            try:
                content = json.loads(error.read())
            except ValueError:
                return None
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def log_file(home: Path) -> Path:
    """Where the server writes what happens to it."""
    return home / "server.log"


def _refuse_a_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CliError(
                f"Port {port} of {host} cannot be used: {error.strerror}.{_owner_of(port)}",
                "Stop what holds it, or choose another: `clary up --port 7701`.",
            ) from None


def _owner_of(port: int) -> str:
    """Who listens on a port, where the system lets us see it."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == "LISTEN" and connection.pid and tuple(connection.laddr)[1:] == (port,):
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline())[:100] or process.name()
                return f" Process {process.pid} holds it ({command})."
    except (psutil.Error, OSError):
        pass
    return ""


def _log_tail(home: Path) -> str:
    """The last lines of the server's log, for an error message."""
    try:
        lines = log_file(home).read_text(errors="replace").splitlines()[-12:]
    except OSError:
        return ""
    return "\n" + "\n".join(f"    {line}" for line in lines) if lines else ""


@contextmanager
def starting(home: Path) -> Generator[None]:
    """Two `clary run` at once start one server: the second waits here, then finds it."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
