"""TF_CONFIG on each host of a job, and the parameter servers beside the script."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from conformance_cases import config_of_hosts

from clary_toolkit.training import tensorflow_cluster
from clary_toolkit.training.environment import TrainingEnvironment
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
    real = socket.gethostbyname
    monkeypatch.setattr(socket, "gethostbyname", lambda name: addresses.get(name) or real(name))
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


def test_the_parameter_server_lives_as_long_as_the_script(names_of_containers: dict[str, str], tmp_path: Path) -> None:
    names_of_containers.update({"algo-1": "127.70.0.1", "algo-2": "127.70.0.2"})
    (tmp_path / "tensorflow.py").write_text(STAND_IN)
    started = tmp_path / "started"
    job = str(tmp_path)  # its ports are the test's own
    launch = launch_on(
        "algo-1", PARAMETER_SERVER, tmp_path, job, PYTHONPATH=f"{tmp_path}:{SOURCE}", STARTED=str(started)
    )
    seen: list[dict[str, object]] = []

    def script(inner: Launch) -> None:
        config = json.loads(inner.variables["TF_CONFIG"])
        seen.append(config)
        _connect(int(config["cluster"]["ps"][0].split(":")[1]))

    tensorflow_cluster.run_with_parameter_servers(launch, script)
    assert seen[0]["task"] == {"index": 0, "type": "master"}
    name, index, pid = json.loads(started.read_text())
    assert (name, index) == ("ps", 0)
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_keeps_its_server_until_the_master_has_ended(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as master:
        address = f"127.0.0.1:{master.getsockname()[1]}"
        waiting = threading.Thread(target=tensorflow_cluster._wait_for_master, args=(address,))
        waiting.start()
        master.accept()[0].close()
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()


def _connect(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the parameter server did not listen"
            time.sleep(0.05)
