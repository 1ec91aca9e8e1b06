"""The contract of a cluster: who may place hosts, start them, look after them and end them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from clary.host.serving_spec import AnySpec
from clary.host.spec import HostReport


@dataclass(frozen=True)
class Resources:
    """An amount of a machine."""

    cpus: float
    memory_bytes: int
    gpus: float = 0


@dataclass(frozen=True)
class Placement:
    """Where one host goes. `node` is the cluster's own name for a machine."""

    node: str
    resources: Resources
    gpu_indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: all that it has, before any job. `label` is what people call it."""

    name: str
    total: Resources
    label: str = ""


@dataclass(frozen=True)
class HostState:
    """What the cluster sees of a host's supervisor, whatever the host itself last reported."""

    status: Literal["running", "exited", "lost"]  # lost: gone without having been asked or having reported
    detail: str = ""


class PlacesTaken(Exception):
    """The places of a job, which seemed free, cannot be had now. None of its hosts was started; it may wait."""


class Cluster(Protocol):
    """Runs hosts on one or more machines.

    Contract, for every implementation (tests/cluster_conformance.py holds it):
    - `place` is all or nothing, takes no resource itself, and is a pure function of the nodes and what is `taken`:
      the reservation is whatever the caller records.
    - `start` is idempotent by `spec.host_id`: a second call finds the first one's supervisor and returns its handle.
    - the supervisor outlives the process that started it; `state` works from any process that has the handle.
    - `end` leaves nothing of the host running, whatever state its supervisor is in, and may be called twice.
    - methods may block; callers run them outside the event loop. They are safe to call from several threads.
    """

    def nodes(self) -> tuple[Node, ...]:
        """The machines, alive now."""
        ...

    def problem(self) -> str:
        """What is wrong with the cluster as a whole, in a sentence; empty when nothing is."""
        ...

    def prepare(self) -> None:
        """Get ready for the next start, so that it is quick. Called once the server is up; may do nothing."""
        ...

    def close(self) -> None:
        """Give back what `prepare` holds. Hosts go on."""
        ...

    def place(self, wanted: tuple[Resources, ...], taken: tuple[Placement, ...]) -> tuple[Placement, ...] | None:
        """A placement for each of `wanted` beside what is `taken`, or None when they do not all fit now."""
        ...

    def start(self, spec: AnySpec, placement: Placement, together: tuple[Placement, ...] = ()) -> str:
        """Start the host's supervisor and return a handle, a string that can be recorded.

        Args:
            spec: what the host is told.
            placement: its own place.
            together: the places of all hosts of its job in the order of `spec.peers`, this one's included; none of
                them is started where not all of them can be had. Empty for a host alone.

        Raises:
            PlacesTaken: they cannot be had now.
            OSError: the host cannot be started.
        """
        ...

    def state(self, handle: str) -> HostState:
        """What has become of a supervisor."""
        ...

    def unreported(self, handle: str) -> HostReport | None:
        """All that a lost host had to report, as far as it can still be read; it may repeat what was received."""
        ...

    def end(self, handle: str) -> None:
        """Kill the host and all that it started, at once."""
        ...

    def clean(self, handle: str) -> None:
        """Remove the host's folder and network; called when its ending is recorded."""
        ...


@dataclass(frozen=True)
class Clusters:
    """Where hosts of either kind run: the same cluster for both where it is one machine.

    `elsewhere` tells that hosts of jobs may be on machines that do not reach the store, only the server.
    """

    jobs: Cluster
    endpoints: Cluster
    elsewhere: bool = False
