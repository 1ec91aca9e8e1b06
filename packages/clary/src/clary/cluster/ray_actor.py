"""What runs on a Ray node for one host of a job: an actor that starts the host's supervisor there and looks after it.

Sent to the node as it is here, so it imports Clary's own modules only when it is used: a node whose Python does not
have them can say so. The supervisor is tied to the actor: when Ray gives the node up, no host of it goes on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_NOT_A_HOSTS = ("RAY_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_OWNER = "actor.json"


class HostActor:
    """One host. Made by `clary.cluster.ray_link`; its methods answer plain data, and errors as {"error": a sentence}.

    Arguments:
        version: of Clary, the server's.
        home: the folder for hosts and images; None for the node's own, CLARY_HOME or ~/.clary.
        command: another program in the supervisor's place, for tests of the cluster alone.
    """

    def __init__(self, version: str, home: str | None, command: list[str] | None = None) -> None:
        self._home = Path(home or os.environ.get("CLARY_HOME") or Path.home() / ".clary")
        self._cluster: Any = None
        self._problem = _missing(version)
        if self._problem:
            return
        from clary.host.standby import TIED_COMMAND, Tied

        environment = {name: value for name, value in os.environ.items() if not _is_not_a_hosts(name)}
        self._starter = Tied(environment, command or TIED_COMMAND)
        self._starter.prepare()  # it imports while this process does
        from clary.cluster.base import Resources
        from clary.cluster.local import LocalCluster
        from clary.settings import Settings

        total = Resources(cpus=0, memory_bytes=0)
        self._cluster = LocalCluster(Settings(home=self._home), standby=self._starter, total=total)

    def start(self, spec: str) -> dict[str, Any]:
        """Start the host, unless it is started already; its handle on this node.

        The order's folder of images and numbers of GPUs are replaced by this node's.
        """
        if self._problem:
            return {"error": self._problem}
        import ray

        from clary.cluster.base import Placement, Resources
        from clary.host.serving_spec import read_spec

        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        try:
            indices = tuple(int(gpu) for gpu in gpus)
        except ValueError:
            return {"error": f"This node's GPUs are named {gpus}; Clary needs their numbers: start Ray on the node "
                    "with CUDA_VISIBLE_DEVICES unset or a list of numbers."}  # fmt: skip
        _sweep(self._home / "hosts")
        order = read_spec(spec)
        limits = order.limits.model_copy(update={"gpu_indices": indices})
        order = order.model_copy(update={"limits": limits, "images_home": str(self._home / "images")})
        folder = self._home / "hosts" / order.host_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _own(folder)
        placement = Placement(node="", resources=Resources(cpus=0, memory_bytes=0))
        try:
            handle = self._cluster.start(order, placement)
        except OSError as error:
            return {"error": f"The supervisor could not be started: {error}"}
        self._starter.close()
        return {"handle": handle}

    def state(self, handle: str) -> dict[str, Any]:
        """What has become of the supervisor."""
        seen = self._cluster.state(handle)
        return {"status": seen.status, "detail": seen.detail}

    def unreported(self, handle: str) -> dict[str, Any]:
        """What the host had to report and perhaps could not."""
        report = self._cluster.unreported(handle)
        return {"report": None if report is None else report.model_dump_json()}

    def end(self, handle: str) -> dict[str, Any]:
        """Kill the host and all that it started."""
        try:
            self._cluster.end(handle)
        except OSError as error:
            return {"error": str(error)}
        return {}

    def clean(self, handle: str) -> dict[str, Any]:
        """Remove what the host leaves on this node."""
        try:
            self._cluster.clean(handle)
        except OSError as error:
            return {"error": str(error)}
        return {}


def _missing(version: str) -> str:
    """Why this node's Python cannot run hosts; empty when it can."""
    import importlib.metadata
    import platform
    import sys

    where = f"the node {platform.node()} ({sys.executable})"
    advice = f"Install it there, pip install 'clary[ray]=={version}', and start Ray from that Python."
    try:
        found = importlib.metadata.version("clary")
    except importlib.metadata.PackageNotFoundError:
        return f"The Python of {where} does not have Clary. {advice}"
    if found != version:
        return f"The Python of {where} has Clary {found}, the server is {version}. {advice}"
    return ""


def _is_not_a_hosts(name: str) -> bool:
    return name.startswith(("CLARY_", "AWS_", *_NOT_A_HOSTS))


def _own(folder: Path) -> None:
    """Note whose the folder is, so that what a killed actor leaves can be told from what a living one uses."""
    from clary.cluster.processes import identify

    me = identify(os.getpid())
    assert me is not None
    (folder / _OWNER).write_text(json.dumps([me.pid, me.started]))


def _sweep(hosts: Path) -> None:
    """Remove the folders of hosts whose actor is gone: nobody will ask for what is in them."""
    import shutil

    from clary.cluster.processes import ProcessIdentity, is_alive

    for owner in hosts.glob(f"*/{_OWNER}"):
        try:
            pid, started = json.loads(owner.read_text())
        except (OSError, ValueError):
            continue  # just being written, or just being removed
        if not is_alive(ProcessIdentity(pid, started)):
            shutil.rmtree(owner.parent, ignore_errors=True)
