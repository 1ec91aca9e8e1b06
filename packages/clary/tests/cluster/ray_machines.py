"""A real Ray cluster of several nodes on this machine, and one node that stands for another machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

GIB = 1024**3
_NAMESPACE, _HERE, _THERE = "claryray", "10.214.77.1", "10.214.77.2"
_VARIABLES = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other tests' memory is no reason to end a host
    # A killed node, which refuses each check, is noticed after two seconds, not half a minute. One that a busy machine
    # holds up is not taken for killed: a check that is not answered fails after ten seconds.
    "RAY_health_check_period_ms": "100",
    "RAY_health_check_failure_threshold": "20",
}
_EACH = {"object_store_memory": 80_000_000, "include_log_monitor": False}


class RayMachines:
    """The cluster, its head without room for any host. `address` is what Clary is given."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address

    def add(self, *, cpus: int = 1, gpus: int = 0) -> Any:
        """Another node on this machine."""
        return self._cluster.add_node(num_cpus=cpus, num_gpus=gpus, memory=2 * GIB, **_EACH)

    def remove(self, node: Any) -> None:
        """Kill a node's processes, as when its machine loses power."""
        self._cluster.remove_node(node, allow_graceful=False)

    @contextmanager
    def elsewhere(self, home: Path) -> Generator[str]:
        """A node with a network and a home folder of its own; yields its address. What it has on disk stays here."""
        _ip(f"netns add {_NAMESPACE}")
        try:
            _ip(f"link add {_NAMESPACE} type veth peer name eth0 netns {_NAMESPACE}")
            _ip(f"addr add {_HERE}/30 dev {_NAMESPACE}", f"link set {_NAMESPACE} up")
            _ip(f"addr add {_THERE}/30 dev eth0", "link set eth0 up", "link set lo up", namespace=_NAMESPACE)
            _ip(f"route add default via {_HERE}", namespace=_NAMESPACE)
            command = ["ip", "netns", "exec", _NAMESPACE, sys.executable, "-m", "ray.scripts.scripts", "start"]
            command += [f"--address={self.address}", f"--node-ip-address={_THERE}", "--num-cpus=1"]
            command += [f"--memory={2 * GIB}", f"--object-store-memory={_EACH['object_store_memory']}"]
            environment = {**os.environ, "CLARY_HOME": str(home), "CLARY_TEST_MACHINE": str(home)}
            subprocess.run(command, env=environment, check=True, capture_output=True)
            yield _THERE
        finally:
            _kill(f"CLARY_TEST_MACHINE={home}")
            _ip(f"netns del {_NAMESPACE}")


def cannot_have_another_machine() -> str:
    """Why no node can stand for another machine here; empty when one can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "a node with a network of its own needs root and iproute2"
    return ""


@contextmanager
def running() -> Generator[RayMachines]:
    """A Ray whose head runs nothing; what it is set by is in the environment meanwhile."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(_VARIABLES)
    try:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "memory": 1, "include_dashboard": False, **_EACH}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield RayMachines(cluster)
        finally:
            cluster.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_for(look: Callable[[], Any], seconds: float = 60) -> Any:
    """What `look` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "the condition did not come about in time"
        time.sleep(0.05)
    return found


def _kill(mark: str) -> None:
    """End the processes that were started with this "NAME=value", and wait until they have."""
    name, _, value = mark.partition("=")
    victims: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value:
                process.kill()
                victims.append(process)
        except psutil.Error:
            continue
    psutil.wait_procs(victims, timeout=20)


def _ip(*lines: str, namespace: str | None = None) -> None:
    where = ["-n", namespace] if namespace else []
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
