"""SDK v3's MPI driver finds ssh, sshd and paramiko that reach the job's own hosts and nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clary_toolkit.training import remote_start, secure_shell
from toolkit_lab import SOURCE

_COMPAT = SOURCE / "clary_toolkit" / "compat"


@dataclass
class Hosts:
    """Two hosts on two loopback addresses; the second one's sshd runs."""

    environ: dict[str, str]
    home: Path


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(_COMPAT)]),
        "TRAINING_JOB_NAME": f"job-{os.getpid()}-{time.monotonic_ns()}",
        remote_start.TOKEN_VARIABLE: "secret",
    }
    for name in ("127.0.0.2", "127.0.0.3"):
        config = tmp_path / name / "input" / "config"
        config.mkdir(parents=True)
        told = {"current_host": name, "hosts": ["127.0.0.2", "127.0.0.3"]}
        (config / "resourceconfig.json").write_text(json.dumps(told))
    second = {**environ, "SAGEMAKER_BASE_DIR": str(tmp_path / "127.0.0.3"), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "clary_toolkit.training.secure_shell", "sshd", "-D"]
    server = subprocess.Popen(command, env=second)
    yield Hosts({**environ, "SAGEMAKER_BASE_DIR": str(tmp_path / "127.0.0.2")}, tmp_path)
    server.kill()
    server.wait()


def test_a_command_runs_on_the_other_host(hosts: Hosts) -> None:
    line = ["-x", "-o", "BatchMode=yes", "root@127.0.0.3", "touch", "said;", "exit", "7"]
    assert secure_shell.run_there(line, hosts.environ) == 7
    assert (hosts.home / "said").exists()


def test_a_host_without_the_secret_is_not_heard(hosts: Hosts) -> None:
    environ = {**hosts.environ, remote_start.TOKEN_VARIABLE: "guess"}
    assert secure_shell.run_there(["127.0.0.3", "touch", "said"], environ) == 255
    assert not (hosts.home / "said").exists()


def test_hosts_of_others_are_left_to_the_real_ssh(hosts: Hosts, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "ssh").write_text('#!/bin/sh\necho "$@" > "$REAL_SAID"\n')
    (real / "ssh").chmod(0o755)
    environ = {**hosts.environ, "PATH": f"{real}:/usr/bin:/bin", "REAL_SAID": str(tmp_path / "said")}
    assert secure_shell.run_there(["-p", "2222", "example.com", "ls"], environ) == 0
    assert (tmp_path / "said").read_text() == "-p 2222 example.com ls\n"


def test_paramiko_says_whether_a_host_answers(hosts: Hosts) -> None:
    program = """
import paramiko
class Policy(paramiko.client.MissingHostKeyPolicy): pass
with paramiko.SSHClient() as client:
    client.load_system_host_keys()
    client.set_missing_host_key_policy(Policy())
    client.connect("127.0.0.3", port=22)
    try:
        client.connect("example.com")
    except paramiko.SSHException as error:
        print(error)
try:
    paramiko.RSAKey
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], env=hosts.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "example.com does not answer, or is no host of this job" in done.stdout
    assert "add paramiko to requirements.txt" in done.stdout


def test_the_server_ends_with_the_process_that_started_it(hosts: Hosts) -> None:
    environ = {**hosts.environ, "TRAINING_JOB_NAME": f"other-{time.monotonic_ns()}"}
    program = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'clary_toolkit.training.secure_shell', 'sshd']\n"
        "print(subprocess.Popen(command).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin
    assert parent.stdout
    server = int(parent.stdout.readline())
    assert secure_shell.can_connect("127.0.0.2", environ, 20)
    parent.stdin.close()
    assert parent.wait() == 0
    deadline = time.monotonic() + 20
    while _alive(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_drivers_wait_of_half_a_minute_is_short_and_the_tries_that_it_counts_are_not(tmp_path: Path) -> None:
    driver = tmp_path / "distributed_drivers" / "mpi_utils.py"
    driver.parent.mkdir()
    driver.write_text("import time\nimport paramiko\n")
    program = """
import time
slept = []
time.sleep = slept.append
from distributed_drivers import mpi_utils
mpi_utils.time.sleep(30)
mpi_utils.time.sleep(5)
time.sleep(30)
print(slept, mpi_utils.time.time is time.time)
"""
    path = os.pathsep.join([str(SOURCE), str(_COMPAT), str(tmp_path)])
    environ = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "[0.25, 5, 30] True\n", done.stderr
