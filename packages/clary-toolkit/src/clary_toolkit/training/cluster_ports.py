"""Ports on the hosts of a job.

Each host has a network of its own, as on AWS, and fixed ports. Where the hosts share one (loopback addresses, without
the privileges for more; several machines, whose addresses they bear), programs that bind a port on all addresses would
collide: there each host has ports of its own, which every host works out from the job's name.
"""

from __future__ import annotations

import os
import socket
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from clary_toolkit.training.environment import TrainingEnvironment

_FIRST, _COUNT = 20000, 10000  # below the ports that the kernel gives out, above those of a Ray on the machine
_VARIABLE = "CLARY_PORTS"
_FIXED = (2222, 2223, 8890, 7890)
"""The ports that are asked for here, each of which a host may need beside the others."""


def port_of(environment: TrainingEnvironment, host: str, port: int) -> int:
    """The port on `host` that stands for `port`, one of AWS's fixed ones."""
    return port_among(environment.distribution_hosts, environment.job_name or "", host, port)


def port_among(hosts: list[str], job_name: str, host: str, port: int) -> int:
    """The same for any hosts of a job, in an order that all of them know."""
    if len(hosts) == 1 or not _share_a_network(hosts):
        return port
    base = _FIRST + zlib.crc32(job_name.encode()) % _COUNT
    return base + len(_FIXED) * hosts.index(host) + _FIXED.index(port)


def _share_a_network(hosts: list[str]) -> bool:
    if os.environ.get(_VARIABLE) == "shared":
        return True
    try:
        return all(socket.gethostbyname(host).startswith("127.") for host in hosts)
    except OSError:
        return False
