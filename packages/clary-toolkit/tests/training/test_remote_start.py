"""One host of a job starts programs on another, and only the job's own hosts can."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clary_toolkit.training import remote_start
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.remote_start import Held, Listener, run_there
from toolkit_lab import SOURCE


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def listener(port: int, tmp_path: Path) -> Listener:
    return Listener("127.0.0.1", port, "secret", {**os.environ, "GREETING": "hello"}, str(tmp_path))


def asking(port: int, token: str = "secret") -> dict[str, str]:
    return {remote_start.PORT_VARIABLE: json.dumps({"127.0.0.1": port}), remote_start.TOKEN_VARIABLE: token}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_command_runs_in_the_hosts_folder_and_environment(listener: Listener, port: int, tmp_path: Path) -> None:
    assert run_there("127.0.0.1", 'echo "$GREETING" > said; exit 7', asking(port)) == 7
    assert (tmp_path / "said").read_text() == "hello\n"


def test_who_does_not_know_the_token_is_not_heard(listener: Listener, port: int, tmp_path: Path) -> None:
    assert run_there("127.0.0.1", "touch said", asking(port, token="guess")) == 255
    assert not (tmp_path / "said").exists()


@pytest.mark.parametrize("nonsense", [b"", b"\n", b"GET / HTTP/1.1\r\n\r\n", b'{"token": 3}\n', b"\xff\n"])
def test_nonsense_is_dropped_and_the_host_listens_on(listener: Listener, port: int, nonsense: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(nonsense)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert run_there("127.0.0.1", "exit 3", asking(port)) == 3


def test_the_host_takes_part_until_the_first_one_has_done(listener: Listener, port: int) -> None:
    waiting = threading.Thread(target=listener.wait)
    waiting.start()
    held = Held({"127.0.0.1": port}, "secret")
    assert waiting.is_alive()
    held.release()
    waiting.join(20)
    assert not waiting.is_alive()


def test_a_first_host_that_dies_is_told_apart_from_one_that_has_done(listener: Listener, port: int) -> None:
    program = (
        "from clary_toolkit.training.remote_start import Held\nimport os\n"
        f"Held({{'127.0.0.1': {port}}}, 'secret')\nos._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=False)
    with pytest.raises(ClientError, match="went away"):
        listener.wait()


def test_a_first_host_that_never_comes_is_waited_for_so_long(listener: Listener) -> None:
    with pytest.raises(ClientError, match="did not call this one within 0 s"):
        listener.wait(patience_seconds=0.1)


def test_a_host_that_cannot_be_reached_is_named(port: int) -> None:
    with pytest.raises(ClientError, match=f"The host '127.0.0.1' cannot be reached on port {port}: .*refused"):
        Held({"127.0.0.1": port}, "secret", patience_seconds=0.2)
    with pytest.raises(ClientError, match=f"The host '127.0.0.1' cannot be reached on port {port}"):
        run_there("127.0.0.1", "exit 0", asking(port), patience_seconds=0.2)


def test_what_runs_ends_with_the_one_who_asked_for_it(listener: Listener, port: int, tmp_path: Path) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-m", "clary_toolkit.training.remote_start", "127.0.0.1", "echo $$ > pid;", "exec sleep 300"],
        env={**os.environ, **asking(port), "PYTHONPATH": str(SOURCE)},
    )
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip()))
    pid = int((tmp_path / "pid").read_text())
    agent.kill()
    agent.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_port_that_is_taken_is_named(listener: Listener, port: int, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=f"127.0.0.1 cannot listen on its port {port}"):
        Listener("127.0.0.1", port, "secret", {}, str(tmp_path))
