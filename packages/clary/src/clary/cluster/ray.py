"""The cluster of a Ray: its nodes' machines, each host of a job an actor on one of them. See docs/how-to/ray.md.

Ray itself is spoken to by another process (`ray_link`), which is started again when it ends; until then hosts go on and
report to the server as ever, and jobs wait.
"""

from __future__ import annotations

import hashlib
import ipaddress
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from clary.cluster import ray_local
from clary.cluster.base import Cluster, HostState, Node, Placement, PlacesTaken, Resources
from clary.cluster.local import NODE_NAME, LocalCluster, is_of_ray
from clary.cluster.machine import address_towards, own_addresses
from clary.cluster.packing import pack
from clary.cluster.ray_process import Away, RayProcess
from clary.host.network import PORTS_VARIABLE
from clary.host.serving_spec import AnySpec
from clary.host.spec import HostReport, HostSpec
from clary.settings import Settings

ROOM_SECONDS = 10.0
_NODES_SECONDS = 1.0  # how old what is known of the nodes may be
_PATIENCE_SECONDS = 60.0  # for which a start waits while Ray cannot be reached


class RayHandle(BaseModel):
    """What is recorded of a host: its actor by name, and where that is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ray"] = "ray"
    group: str
    actor: str
    node: str
    local: str  # the supervisor, as its own node knows it


@dataclass(frozen=True)
class RayNode:
    """A node of the Ray cluster. `here`: on the server's machine."""

    node: Node
    address: str
    here: bool


class RayCluster:
    """Runs hosts on the nodes of a Ray cluster.

    Args:
        settings: `cluster` says which Ray, `home` is used for hosts on this machine.
        command: what runs a supervisor on a node; tests run another program.
        room_seconds: how long a start waits for what others on the cluster hold.
    """

    def __init__(
        self, settings: Settings, command: Sequence[str] | None = None, room_seconds: float = ROOM_SECONDS
    ) -> None:
        self._settings = settings
        self._home = settings.home
        self.local = LocalCluster(settings)
        self._owner = "clary-" + hashlib.sha256(f"{platform.node()} {settings.home}".encode()).hexdigest()[:8]
        self._command, self._room_seconds = command, room_seconds
        self._link = RayProcess(self._order, log=settings.home / "ray.log")
        self._known: tuple[float, tuple[RayNode, ...]] = (0.0, ())
        self._only_here = is_loopback(settings.url_for_hosts)

    def problem(self) -> str:
        if self._link.problem:
            return f"Ray cannot be reached: {self._link.problem}"
        left_out = [node for node in self.ray_nodes() if not self._is_usable(node)]
        if left_out:
            return (
                f"{len(left_out)} node(s) of the Ray cluster are not used: they could not reach the server at "
                f"{self._settings.url_for_hosts}. Start it with `clary up --host 0.0.0.0`."
            )
        return ""

    def ray_nodes(self) -> tuple[RayNode, ...]:
        """The nodes that Ray says are alive; none while it cannot be reached."""
        at, nodes = self._known
        if time.monotonic() - at < _NODES_SECONDS:
            return nodes
        try:
            found = self._link.look("nodes")
        except OSError:  # Away, or about to be
            found = []
        own = own_addresses()
        nodes = tuple(
            RayNode(
                Node(
                    item["id"],
                    Resources(cpus=item["cpus"], memory_bytes=item["memory_bytes"], gpus=item["gpus"]),
                    label=f"{item['hostname']} ({item['address']})",
                ),
                address=item["address"],
                here=item["address"] in own,
            )
            for item in found
        )
        self._known = (time.monotonic(), nodes)
        return nodes

    def nodes(self) -> tuple[Node, ...]:
        return tuple(node.node for node in self.ray_nodes() if self._is_usable(node))

    def prepare(self) -> None:
        return

    def close(self) -> None:
        self._link.close()
        self.local.close()

    def place(self, wanted: tuple[Resources, ...], taken: tuple[Placement, ...]) -> tuple[Placement, ...] | None:
        return pack(self.nodes(), wanted, taken)

    def start(self, spec: AnySpec, placement: Placement, together: tuple[Placement, ...] = ()) -> str:
        places = together or (placement,)
        known = {node.node.name: node for node in self._awaited_nodes()}
        gone = [place.node for place in places if place.node not in known]
        if gone:
            raise PlacesTaken(f"The Ray node {gone[0][:8]} left the cluster before the job's hosts were started.")
        spec = _on_their_network(spec, [known[place.node].address for place in places])
        group = f"{self._owner}-{_job_of(spec)}"
        actor = f"{group}/{spec.host_id}"
        local = self._link.call(
            "start",
            group=group,
            actor=actor,
            bundles=[_bundle(place.resources) for place in places],
            nodes=[place.node for place in places],
            index=_index_of(spec),
            spec=spec.model_dump_json(),
            home=str(self._home) if known[placement.node].here else None,
            room_seconds=self._room_seconds,
            patience=_PATIENCE_SECONDS,
        )
        return RayHandle(group=group, actor=actor, node=placement.node, local=local).model_dump_json()

    def state(self, handle: str) -> HostState:
        if not is_of_ray(handle):
            return self.local.state(handle)
        host = RayHandle.model_validate_json(handle)
        try:
            seen = self._link.look("state", actor=host.actor, node=host.node, handle=host.local)
        except Away:
            return HostState("running")  # as far as is known: whoever cannot be asked has not been lost
        return HostState(seen["status"], seen["detail"])

    def unreported(self, handle: str) -> HostReport | None:
        if not is_of_ray(handle):
            return self.local.unreported(handle)
        host = RayHandle.model_validate_json(handle)
        report = self._link.call("unreported", actor=host.actor, handle=host.local)
        return None if report is None else HostReport.model_validate_json(report)

    def end(self, handle: str) -> None:
        if not is_of_ray(handle):
            return self.local.end(handle)
        host = RayHandle.model_validate_json(handle)
        self._link.call("end", actor=host.actor, handle=host.local, patience=_PATIENCE_SECONDS)
        return None

    def clean(self, handle: str) -> None:
        if not is_of_ray(handle):
            return self.local.clean(handle)
        host = RayHandle.model_validate_json(handle)
        self._link.call("clean", group=host.group, actor=host.actor, handle=host.local, patience=_PATIENCE_SECONDS)
        return None

    def _awaited_nodes(self) -> Sequence[RayNode]:
        """The nodes, once Ray can be reached again."""
        nodes = self.ray_nodes()
        if not nodes:
            self._link.call("nodes", patience=_PATIENCE_SECONDS)
            self._known = (0.0, ())
            nodes = self.ray_nodes()
        return nodes

    def _is_usable(self, node: RayNode) -> bool:
        return node.here or not self._only_here

    def _order(self) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """What the link is told, and its variables. Starts a Ray of this machine where that is wanted."""
        address = self._settings.ray_address
        variables: Mapping[str, str] = {"RAY_USAGE_STATS_ENABLED": "0"}
        if address is None:
            address, variables = ray_local.ensure(self._home)
        order = {
            "address": address,
            "owner": self._owner,
            "version": version("clary"),
            "command": self._command,
        }
        return order, variables


class BesideServer:
    """The part of a cluster on the server's own machine, for endpoints: the router reaches replicas by Unix sockets.

    That is Ray's nodes on this machine; where it has none here, replicas are plain processes as on a local cluster.

    Args:
        ray: the whole cluster.
    """

    def __init__(self, ray: RayCluster) -> None:
        self._ray = ray
        self.state, self.unreported, self.end, self.clean = ray.state, ray.unreported, ray.end, ray.clean

    def nodes(self) -> tuple[Node, ...]:
        return tuple(node.node for node in self._ray.ray_nodes() if node.here) or self._ray.local.nodes()

    def problem(self) -> str:
        return self._ray.problem()

    def prepare(self) -> None:
        return

    def close(self) -> None:
        return

    def place(self, wanted: tuple[Resources, ...], taken: tuple[Placement, ...]) -> tuple[Placement, ...] | None:
        return pack(self.nodes(), wanted, taken)

    def start(self, spec: AnySpec, placement: Placement, together: tuple[Placement, ...] = ()) -> str:
        cluster: Cluster = self._ray.local if placement.node == NODE_NAME else self._ray
        return cluster.start(spec, placement, together)


def is_loopback(url: str) -> bool:
    """Whether an address is one that other machines do not reach."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_url_for_hosts(settings: Settings) -> Settings:
    """The settings with an address at which other machines reach the server, where it listens on all of its own."""
    if settings.hosts_url or not settings.listens_everywhere:
        return settings
    host = urlsplit(f"//{(settings.ray_address or '').removeprefix('ray://')}").hostname
    try:
        address = address_towards(host if host and host != "auto" else "192.0.2.1")
    except OSError:  # no way there: hosts of other machines could not come here either
        return settings
    return settings.model_copy(update={"hosts_url": f"http://{address}:{settings.port}"})


def _bundle(resources: Resources) -> dict[str, float]:
    asked = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": float(resources.memory_bytes)}
    return {name: amount for name, amount in asked.items() if amount}


def _job_of(spec: AnySpec) -> str:
    """The same for all hosts of one attempt of a job; of one alone, its own."""
    if isinstance(spec, HostSpec) and len(spec.peers) > 1:
        return f"{spec.job_name}-{spec.attempt}"
    return spec.host_id


def _index_of(spec: AnySpec) -> int:
    return [peer.name for peer in spec.peers].index(spec.host) if isinstance(spec, HostSpec) else 0


def _on_their_network(spec: AnySpec, addresses: Sequence[str]) -> AnySpec:
    """What hosts on several machines are told of each other: the machines' addresses, as no network is theirs alone."""
    if not isinstance(spec, HostSpec) or len(set(addresses)) < 2:
        return spec
    if spec.network_isolation:
        raise OSError(
            f"The job's {len(addresses)} hosts are on several machines, where EnableNetworkIsolation cannot be had: "
            "they would have to talk over the machines' own network. Ask for hosts that fit on one machine."
        )
    peers = tuple(
        peer.model_copy(update={"address": address}) for peer, address in zip(spec.peers, addresses, strict=True)
    )
    environment = {**spec.environment, PORTS_VARIABLE: "shared"}
    return spec.model_copy(update={"peers": peers, "environment": environment})
