"""Which machine each host of a job goes to: all of them together or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clary.cluster.base import Node, Placement, Resources

_EPSILON = 1e-6  # shares of a CPU are fractions: their sum may miss a whole number by a rounding error


@dataclass
class _Room:
    """What a machine has left while a placement is being looked for."""

    node: Node
    cpus: float
    memory_bytes: int
    gpu_indices: list[int] = field(default_factory=list[int])

    def holds(self, wanted: Resources) -> bool:
        return (
            self.cpus + _EPSILON >= wanted.cpus
            and self.memory_bytes >= wanted.memory_bytes
            and len(self.gpu_indices) >= wanted.gpus
        )

    def take(self, wanted: Resources) -> Placement:
        indices = tuple(self.gpu_indices[: int(wanted.gpus)])
        self._remove(wanted, indices)
        return Placement(node=self.node.name, resources=wanted, gpu_indices=indices)

    def occupy(self, placement: Placement) -> None:
        self._remove(placement.resources, placement.gpu_indices)

    def _remove(self, resources: Resources, gpu_indices: Sequence[int]) -> None:
        self.cpus -= resources.cpus
        self.memory_bytes -= resources.memory_bytes
        self.gpu_indices = [index for index in self.gpu_indices if index not in gpu_indices]


def pack(
    nodes: Sequence[Node], wanted: Sequence[Resources], taken: Sequence[Placement]
) -> tuple[Placement, ...] | None:
    """A placement for every host, the emptiest machine first, or None when they do not all fit.

    Args:
        nodes: the machines, alive now.
        wanted: what each host needs.
        taken: what other hosts hold; those on machines that are gone hold nothing.
    """
    rooms = {
        node.name: _Room(node, node.total.cpus, node.total.memory_bytes, list(range(int(node.total.gpus))))
        for node in nodes
    }
    for placement in taken:
        if placement.node in rooms:
            rooms[placement.node].occupy(placement)
    # The largest hosts first, or small ones could take the only machine that a large one fits on.
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i].gpus, wanted[i].cpus), reverse=True)
    placed: dict[int, Placement] = {}
    for index in order:
        fitting = [room for room in rooms.values() if room.holds(wanted[index])]
        if not fitting:
            return None
        placed[index] = max(fitting, key=lambda room: room.cpus).take(wanted[index])
    return tuple(placed[index] for index in range(len(wanted)))
