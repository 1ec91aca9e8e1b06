from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from clary.cli.server import _cluster_rows as cluster_rows

if TYPE_CHECKING:
    from conftest import Clary


def test_up_down_and_status_agree_about_the_server(clary: Clary, empty_home: Path) -> None:
    before = clary("status", "--json")
    assert (before.returncode, json.loads(before.stdout)["running"]) == (3, False)

    started = clary("up", "--detach", "--json")
    assert started.returncode == 0, started.stderr
    url = json.loads(started.stdout)["url"]
    with urllib.request.urlopen(f"{url}/_clary/health") as reply:
        assert json.loads(reply.read())["status"] == "ready"
    status = json.loads(clary("status", "--json").stdout)
    assert (status["running"], status["url"], status["jobs"]["running"]) == (True, url, 0)
    assert set(status["processes"]) == {"front", "api"}
    assert status["memory_mib"] > 50

    assert [node["name"] for node in status["cluster"]["nodes"]] == ["local"]
    assert status["cluster"]["queue"] == []

    again = clary("up", "--detach")
    assert again.returncode == 1
    assert "already running" in again.stderr

    stopped = json.loads(clary("down", "--json").stdout)
    assert stopped["stopped"]
    assert clary("status").returncode == 3
    assert not (empty_home / "server.json").exists()


def test_down_without_a_server_is_no_error(clary: Clary) -> None:
    done = clary("down")
    assert done.returncode == 0
    assert "No server is running" in done.stderr


def test_a_taken_port_is_refused_with_its_owner_and_a_way_out(clary: Clary, empty_home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = clary("up", "--detach", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "cannot be used" in done.stderr
    assert f"Process {os.getpid()} holds it" in done.stderr
    assert "--port" in done.stderr


def test_a_server_that_cannot_start_says_why(clary: Clary) -> None:
    done = clary("up", "--detach", "--database-url", "nonsense://")
    assert done.returncode == 1
    assert "ended at once" in done.stderr
    assert "nonsense" in done.stderr


def test_a_server_in_the_foreground_ends_with_its_terminal(
    empty_home: Path, port: int, plain_environment: Callable[..., dict[str, str]]
) -> None:
    process = _up(plain_environment(empty_home, CLARY_PORT=str(port)))
    _read_until(process, "Ctrl-C")
    record = json.loads((empty_home / "server.json").read_text())
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert not any(Path(f"/proc/{pid}").exists() for pid in (record["pid"], *record["processes"].values()))


def test_a_server_in_the_foreground_may_be_ended_while_it_starts(
    empty_home: Path, port: int, plain_environment: Callable[..., dict[str, str]]
) -> None:
    process = _up(plain_environment(empty_home, CLARY_PORT=str(port)))
    deadline = time.monotonic() + 60
    while not (empty_home / "server.lock").exists():  # the server has begun, and says nothing yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert (process.returncode, told) == (0, "Starting Clary\n")
    assert not (empty_home / "server.json").exists()
    while any(str(empty_home) in " ".join(found.info["cmdline"] or ()) for found in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline, "the store goes on"
        time.sleep(0.05)


def test_ctrl_c_ends_a_server_in_the_foreground_in_order(
    empty_home: Path, port: int, plain_environment: Callable[..., dict[str, str]]
) -> None:
    process = _up(plain_environment(empty_home, CLARY_PORT=str(port)))
    _read_until(process, "Ctrl-C")
    record = json.loads((empty_home / "server.json").read_text())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to every process at once
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert "Clary has ended; jobs go on" in told
    assert "Traceback" not in told
    assert not any(Path(f"/proc/{pid}").exists() for pid in (record["pid"], *record["processes"].values()))


def test_two_runs_at_once_start_one_server(
    clary: Clary, empty_home: Path, port: int, plain_environment: Callable[..., dict[str, str]]
) -> None:
    environment = plain_environment(empty_home, CLARY_PORT=str(port))
    command = [
        sys.executable,
        "-m",
        "clary.cli",
        "run",
        "--",
        sys.executable,
        "-c",
        "import os; print(os.environ['AWS_ENDPOINT_URL'])",
    ]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    urls = {process.communicate(timeout=90)[0].strip() for process in both}
    assert len(urls) == 1, urls
    assert clary("down").returncode == 0


def test_a_cluster_that_does_not_exist_is_refused_before_a_server_starts(clary: Clary, empty_home: Path) -> None:
    refused = clary("up", "--detach", "--cluster", "slurm")
    assert refused.returncode == 1
    assert "There is no such cluster: 'slurm'." in refused.stderr
    assert not (empty_home / "server.log").exists()


def test_status_shows_how_many_gpus_of_one_machine_are_taken() -> None:
    node = {"name": "local", "cpus": 8, "memory_gib": 30.0, "gpus": 2, "hosts": ["job"]}
    taken = {"cpus_taken": 2, "memory_gib_taken": 4.0, "gpus_taken": 0.5}
    assert cluster_rows({"kind": "local", "nodes": [{**node, **taken}], "queue": []}) == [("GPUs", "0.5 of 2 taken")]
    assert cluster_rows({"kind": "local", "nodes": [{**node, **taken, "gpus": 0}], "queue": []}) == []


def _up(environment: dict[str, str]) -> subprocess.Popen[str]:
    """A server in the foreground."""
    command = [sys.executable, "-m", "clary.cli", "up"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    told = ""
    while text not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
