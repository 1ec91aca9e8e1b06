"""TF_CONFIG on each host of a job, and the parameter servers beside the script."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance_cases import config_of_hosts

from clary_toolkit.training import tensorflow_cluster
from clary_toolkit.training.environment import TrainingEnvironment
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths
from clary_toolkit.training.runners import Launch
from toolkit_lab import SOURCE

PARAMETER_SERVER = {"sagemaker_parameter_server_enabled": "true"}
MIRRORED = {"sagemaker_multi_worker_mirrored_strategy_enabled": "true"}
# Instead of TensorFlow: a server that listens where it is told to and says so.
STAND_IN = """
import json, os, socket, sys
class compat:
    class v1:
        class train:
            class Server:
                def __init__(self, cluster, job_name, task_index, protocol):
                    port = int(cluster[job_name][task_index].split(":")[1])
                    self.listener = socket.create_server(("127.0.0.1", port))
                    open(os.environ["STARTED"], "w").write(json.dumps([job_name, task_index, os.getpid()]))
                def join(self):
                    while True:
                        self.listener.accept()
"""


@pytest.fixture(autouse=True)
def names_of_containers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The hosts' addresses, as in namespaces of their own; tests may change them."""
    addresses = {"algo-1": "10.0.0.1", "algo-2": "10.0.0.2"}
    by_name, any_kind = socket.gethostbyname, socket.getaddrinfo
    monkeypatch.setattr(socket, "gethostbyname", lambda name: addresses.get(name) or by_name(name))
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *more: any_kind(addresses.get(name, name), *more))
    return addresses


def launch_on(host: str, hyperparameters: dict[str, str], folder: Path, job: str = "job", **variables: str) -> Launch:
    config = config_of_hosts(host, {"homogeneousCluster": ("algo-1", "algo-2")})
    environment = TrainingEnvironment(Paths(str(folder)), {"TRAINING_JOB_NAME": job}, hyperparameters, config, {})
    launch = Launch(environment, "PROGRAM", [sys.executable, "-c", ""], variables)
    launch.folder = str(folder)
    return launch


def mirrored_config(host: str, folder: Path) -> dict[str, object]:
    seen: list[Launch] = []
    tensorflow_cluster.run_mirrored(launch_on(host, MIRRORED, folder), seen.append)
    return json.loads(seen[0].variables["TF_CONFIG"])


def test_hosts_on_machines_of_others_have_ports_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARY_PORTS", "shared")
    addresses = mirrored_config("algo-2", tmp_path)["cluster"]["worker"]  # type: ignore[index]
    ports = [int(address.rpartition(":")[2]) for address in addresses]
    assert len(set(ports)) == 2
    assert all(20000 <= port < 32768 for port in ports)


def test_mirrored_hosts_are_workers_on_awss_port(tmp_path: Path) -> None:
    assert mirrored_config("algo-2", tmp_path) == {
        "cluster": {"worker": ["algo-1:8890", "algo-2:8890"]},
        "environment": "cloud",
        "task": {"index": 1, "type": "worker"},
    }


def test_parameter_servers_are_on_every_host_and_the_first_is_the_master(tmp_path: Path) -> None:
    environment = launch_on("algo-1", PARAMETER_SERVER, tmp_path).environment
    assert tensorflow_cluster.parameter_server_cluster(environment) == {
        "master": ["algo-1:2222"],
        "ps": ["algo-1:2223", "algo-2:2223"],
        "worker": ["algo-2:2222"],
    }


def test_hosts_that_share_a_network_have_ports_of_their_own(
    names_of_containers: dict[str, str], tmp_path: Path
) -> None:
    names_of_containers.update({"algo-1": "127.70.0.1", "algo-2": "127.70.0.2"})
    cluster = tensorflow_cluster.parameter_server_cluster(launch_on("algo-1", PARAMETER_SERVER, tmp_path).environment)
    same = tensorflow_cluster.parameter_server_cluster(launch_on("algo-2", PARAMETER_SERVER, tmp_path).environment)
    other = launch_on("algo-1", PARAMETER_SERVER, tmp_path, job="another").environment
    ports = [address.split(":")[1] for addresses in cluster.values() for address in addresses]
    assert len(set(ports)) == 4
    assert cluster == same
    assert cluster != tensorflow_cluster.parameter_server_cluster(other)


def start_host(host: str, folder: Path, script: Callable[[Launch], object]) -> threading.Thread:
    """One host of a job; its server says that it has started in the file `started` of its folder."""
    own = folder / host
    own.mkdir()
    (own / "tensorflow.py").write_text(STAND_IN)
    variables = {"PYTHONPATH": f"{own}:{SOURCE}", "STARTED": str(own / "started"), "CLARY_LAUNCH_TOKEN": "secret"}
    launch = launch_on(host, PARAMETER_SERVER, own, str(folder), **variables)  # the ports are the test's own
    thread = threading.Thread(target=tensorflow_cluster.run_with_parameter_servers, args=(launch, script))
    thread.start()
    return thread


def server_of(folder: Path) -> tuple[str, int, Path]:
    """Job name, index and /proc entry of a host's parameter server."""
    name, index, pid = json.loads((folder / "started").read_text())
    return name, index, Path(f"/proc/{pid}")


def test_every_host_and_its_server_last_until_the_masters_script_has_ended(
    names_of_containers: dict[str, str], tmp_path: Path
) -> None:
    names_of_containers.update({"algo-1": "127.70.0.1", "algo-2": "127.70.0.2"})
    trained = threading.Event()
    tasks: list[object] = []
    marks: list[Path] = []

    def master_script(launch: Launch) -> None:
        config = json.loads(launch.variables["TF_CONFIG"])
        tasks.append(config["task"])
        for address in config["cluster"]["ps"]:
            _connect(int(address.split(":")[1]))
        assert trained.wait(20)

    def worker_script(launch: Launch) -> None:
        tasks.append(json.loads(launch.variables["TF_CONFIG"])["task"])
        marks.append(Path(launch.variables["CLARY_MASTER_ENDED"]))

    worker = start_host("algo-2", tmp_path, worker_script)
    master = start_host("algo-1", tmp_path, master_script)
    _wait_for(lambda: all((tmp_path / host / "started").exists() for host in ("algo-1", "algo-2")) and len(tasks) == 2)
    servers = [server_of(tmp_path / host) for host in ("algo-1", "algo-2")]
    assert [(name, index) for name, index, _ in servers] == [("ps", 0), ("ps", 1)]
    assert worker.is_alive()
    assert not marks[0].exists()
    assert all(process.exists() for *_, process in servers)
    trained.set()
    master.join(20)
    worker.join(20)
    assert not worker.is_alive()
    assert not any(process.exists() for *_, process in servers)
    assert tasks.count({"index": 0, "type": "master"}) == tasks.count({"index": 0, "type": "worker"}) == 1


def test_a_workers_script_is_told_when_the_masters_has_ended(
    names_of_containers: dict[str, str], tmp_path: Path
) -> None:
    names_of_containers.update({"algo-1": "127.70.0.1", "algo-2": "127.70.0.2"})
    worker = start_host(
        "algo-2", tmp_path, lambda launch: _wait_for(Path(launch.variables["CLARY_MASTER_ENDED"]).exists)
    )
    start_host("algo-1", tmp_path, lambda launch: None).join(20)
    worker.join(20)
    assert not worker.is_alive()


def test_the_masters_server_outlasts_the_script_of_a_host_that_began_late(
    names_of_containers: dict[str, str], tmp_path: Path
) -> None:
    names_of_containers.update({"algo-1": "127.70.0.1", "algo-2": "127.70.0.2"})

    def late_script(launch: Launch) -> None:
        _wait_for(Path(launch.variables["CLARY_MASTER_ENDED"]).exists)
        _connect(int(json.loads(launch.variables["TF_CONFIG"])["cluster"]["ps"][0].split(":")[1]))
        connected.set()

    connected = threading.Event()
    worker = start_host("algo-2", tmp_path, late_script)
    master = start_host("algo-1", tmp_path, lambda launch: _wait_for((tmp_path / "algo-1" / "started").exists))
    worker.join(60)
    master.join(20)
    assert connected.is_set()
    assert not master.is_alive()
    assert not server_of(tmp_path / "algo-1")[2].exists()


def test_a_master_that_ends_while_a_host_tidies_up_leaves_it_in_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master_has_done = threading.Event()
    remove = os.rmdir

    class Listener:
        def first_has_done(self, within_seconds: float) -> bool:
            return master_has_done.wait(within_seconds)

    def end_then_remove(path: str, **options: Any) -> None:
        master_has_done.set()
        _wait_for(lambda: all(thread.name != "marks the master's end" for thread in threading.enumerate()))
        remove(path, **options)

    folder = tmp_path / "folder"
    folder.mkdir()
    with tensorflow_cluster._marked(Listener(), str(folder)) as path:  # type: ignore[arg-type]
        assert not Path(path).exists()
    monkeypatch.setattr(os, "rmdir", end_then_remove)
    shutil.rmtree(folder)
    assert not folder.exists()


def test_several_hosts_need_the_jobs_secret(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="CLARY_LAUNCH_TOKEN"):
        tensorflow_cluster.run_with_parameter_servers(
            launch_on("algo-1", PARAMETER_SERVER, tmp_path), lambda launch: None
        )


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _connect(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the parameter server did not listen"
            time.sleep(0.05)
