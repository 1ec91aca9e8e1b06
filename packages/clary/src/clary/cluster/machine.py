"""What this machine has: the CPUs, memory and GPUs that this process may use."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

from clary.cluster.base import Resources
from clary.host import gpus

GIB = 1024**3
_CGROUP = Path("/sys/fs/cgroup")


def machine_resources() -> Resources:
    """All that jobs together may use: what this process may, less some memory for the server and the store."""
    return Resources(cpus=_cpus(), memory_bytes=_memory_for_jobs(), gpus=len(gpus.usable()))


def own_addresses() -> frozenset[str]:
    """The IP addresses of this machine's interfaces, loopback's among them."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {item.address for items in psutil.net_if_addrs().values() for item in items if item.family in families}
    return frozenset(address.partition("%")[0] for address in found)


def address_towards(host: str) -> str:
    """This machine's own address on the way to another one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return probe.getsockname()[0]


def _cpus() -> float:
    allowed = float(len(os.sched_getaffinity(0)))
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdecimal():
        return min(allowed, max(1.0, int(quota[0]) / int(quota[1])))
    return allowed


def _memory_for_jobs() -> int:
    total = psutil.virtual_memory().total
    limit = _read(_CGROUP / "memory.max")
    if limit.isdecimal():
        total = min(total, int(limit))
    return total - min(2 * GIB, total // 5)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
