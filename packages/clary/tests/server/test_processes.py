"""kill -9 of each process of a server: what it did is done again within moments, and the others go on meanwhile."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

BUCKET = "sagemaker-us-east-1-000000000000"


def eventually(look: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
    return found


def health(server: Any) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/_clary/health", timeout=20) as reply:
        return json.load(reply)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_killed_front_is_followed_by_another_and_nobody_is_refused(server: Any) -> None:
    before = server.processes
    os.kill(before["front"], signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: is_gone(before["front"]), "the front is dead")
    assert health(server)["status"] == "ready"  # a connection that is made now waits; it is neither refused nor reset
    print(f"the front is back after {time.monotonic() - began:.2f} s")
    after = eventually(lambda: server.processes if server.processes["front"] != before["front"] else None, "told")
    assert after["api"] == before["api"]


def test_requests_wait_for_a_killed_api_process(server: Any) -> None:
    before = server.processes
    os.kill(before["api"], signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: is_gone(before["api"]), "the API process is dead")
    assert server.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []
    print(f"the API process is back after {time.monotonic() - began:.2f} s")
    assert server.processes["front"] == before["front"]


def test_s3_goes_on_without_the_api_process_and_api_requests_wait_for_it(server: Any) -> None:
    s3, sagemaker = server.client("s3"), server.client("sagemaker")
    api = server.processes["api"]
    os.kill(api, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(sagemaker.list_training_jobs)
            s3.put_object(Bucket=BUCKET, Key="alone", Body=b"served by the front alone")
            assert s3.get_object(Bucket=BUCKET, Key="alone")["Body"].read() == b"served by the front alone"
            assert health(server)["status"] == "restarting"
            assert not waiting.done()
            os.kill(api, signal.SIGCONT)
            assert waiting.result(30)["TrainingJobSummaries"] == []
    finally:
        os.kill(api, signal.SIGCONT)
    assert health(server)["status"] == "ready"


@pytest.mark.slow
def test_what_the_api_process_had_acknowledged_is_there_after_its_death(server: Any) -> None:
    server.client("cloudwatch").put_metric_data(Namespace="k", MetricData=[{"MetricName": "kept", "Value": 1}])
    os.kill(server.processes["api"], signal.SIGKILL)
    assert len(server.client("cloudwatch").list_metrics(Namespace="k")["Metrics"]) == 1


@pytest.mark.slow
def test_when_the_parent_is_killed_nothing_goes_on_and_the_next_server_takes_over(start: Any, tmp_path: Path) -> None:
    first = start(tmp_path)
    first.client("s3").put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    orphans = first.processes
    first.process.kill()
    first.process.wait()
    again = start(tmp_path, first.port)
    assert all(is_gone(pid) for pid in orphans.values())
    assert again.client("s3").get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"


@pytest.mark.slow
def test_there_may_be_more_clients_than_files_that_a_shell_lets_its_programs_open(start: Any, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(400)]
    for client in clients:
        client.sendall(b"GET /_clary/health HTTP/1.1\r\nHost: here\r\n\r\n")
    assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}
    for client in clients:
        client.close()


def test_a_start_that_fails_leaves_nothing_running(launch: Any, free_port: Any, tmp_path: Path) -> None:
    (tmp_path / "clary.db").write_bytes(b"this is no database" * 100)
    process = launch(tmp_path, free_port())
    process.communicate(timeout=30)
    assert process.returncode == 1
    eventually(lambda: not _stores(tmp_path), "the store has ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_ended_while_it_starts_leaves_nothing_running(
    launch: Any, free_port: Any, tmp_path: Path, number: signal.Signals
) -> None:
    process = launch(tmp_path, free_port())
    eventually(lambda: _stores(tmp_path), "the store runs, and the server does not yet")
    process.send_signal(number)
    told = process.communicate(timeout=30)[1]
    assert (process.returncode, b"Traceback" in told) == (0, False), told
    eventually(lambda: not _stores(tmp_path), "the store has ended")


def _stores(home: Path) -> list[int]:
    """The processes of the home folder's store."""
    running = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and str(home) in _command(pid)]  # noqa: PTH208
    return [pid for pid in running if not is_gone(pid)]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
