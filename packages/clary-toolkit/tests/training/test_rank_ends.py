"""The rank that ended first is found though mpirun has told nothing of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clary_toolkit.training import failure, rank_ends
from clary_toolkit.training.remote_start import PORT_VARIABLE, TOKEN_VARIABLE, Held, Listener, run_there
from toolkit_lab import SOURCE


def start_rank(number: int, program: str, folder: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "clary_toolkit.training.rank", "algo-1,algo-2", "1", sys.executable, "-c", program],
        env={"PYTHONPATH": str(SOURCE), "OMPI_COMM_WORLD_RANK": str(number), rank_ends.FOLDER_VARIABLE: folder},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def said_in(folder: Path, rank: int) -> str:
    return json.loads((folder / str(rank)).read_text())["said"]


def test_a_rank_that_was_killed_says_so_to_its_host(tmp_path: Path) -> None:
    start_rank(1, "import os; print('step 1', flush=True); os.kill(os.getpid(), 9)", str(tmp_path)).communicate()
    assert said_in(tmp_path, 1) == (
        "[1,mpirank:1,algo-2]<stdout>:step 1\n"
        "[1,mpirank:1,algo-2]<stderr>:The script of this rank was killed by SIGKILL (signal 9)\n"
    )


def test_a_rank_that_exits_says_its_code_to_its_host(tmp_path: Path) -> None:
    start_rank(0, "raise SystemExit(3)", str(tmp_path)).communicate()
    assert said_in(tmp_path, 0) == "[1,mpirank:0,algo-1]<stderr>:The script of this rank ended with exit code 3\n"


def test_a_rank_that_mpirun_ended_is_no_reason(tmp_path: Path) -> None:
    rank = start_rank(0, "import time; print('up', flush=True); time.sleep(300)", str(tmp_path))
    assert rank.stdout
    assert rank.stdout.readline().endswith(b"up\n")
    rank.send_signal(signal.SIGTERM)
    rank.communicate()
    assert said_in(tmp_path, 0) == "[1,mpirank:0,algo-1]<stdout>:up\n"


def test_a_host_tells_its_first_ends_first(tmp_path: Path) -> None:
    for rank in (2, 0, 1):
        rank_ends.record(rank, f"rank {rank}".encode(), {rank_ends.FOLDER_VARIABLE: str(tmp_path)})
    told = rank_ends.of_this_host(str(tmp_path), patience_seconds=0)
    assert [end["said"] for end in told] == ["rank 2", "rank 0", "rank 1"]
    assert rank_ends.in_order(rank_ends.parsed(told[::-1])) == b"rank 2\nrank 0\nrank 1\n"


@pytest.fixture
def listener(tmp_path: Path) -> tuple[Listener, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE), "OMPI_COMM_WORLD_RANK": "1"}
    return Listener("127.0.0.1", port, "secret", environ, str(tmp_path)), port


def test_another_hosts_killed_rank_is_found_before_one_here_that_missed_it(
    listener: tuple[Listener, int], tmp_path: Path
) -> None:
    host, port = listener
    waiting = threading.Thread(target=host.wait)
    waiting.start()
    held = Held({"127.0.0.1": port}, "secret")
    rank = f"{sys.executable} -m clary_toolkit.training.rank algo-1,algo-2 1 /bin/sh -c 'kill -9 $$'"
    asking = {PORT_VARIABLE: json.dumps({"127.0.0.1": port}), TOKEN_VARIABLE: "secret"}
    assert run_there("127.0.0.1", rank, asking) == 137
    start_rank(0, "raise OSError('a peer has gone')", str(tmp_path)).communicate()
    elsewhere, lost = held.ends()
    held.release()
    waiting.join(30)
    here = rank_ends.parsed(rank_ends.of_this_host(str(tmp_path)))
    reason = failure.explain(rank_ends.in_order(here + elsewhere), "/opt/ml/code", lost)
    assert reason.message == "On rank 1 on algo-2: The script of this rank was killed by SIGKILL (signal 9)"


def test_a_host_that_has_gone_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = (
        "import os\nfrom clary_toolkit.training.remote_start import Listener\n"
        f"Listener('127.0.0.1', {port}, 'secret', os.environ, '/').wait()"
    )
    host = subprocess.Popen([sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)})
    held = Held({"127.0.0.1": port}, "secret")
    host.kill()
    host.wait()
    assert held.ends(patience_seconds=0.1) == ([], ["127.0.0.1"])
    held.release()
