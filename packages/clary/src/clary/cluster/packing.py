"""Which machine each host of a job goes to: all of them together or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clary.cluster.base import Node, Placement, Resources

_EPSILON = 1e-6  # shares of a CPU are fractions: their sum may miss a whole number by a rounding error


@dataclass
class _Room:
    """What a machine has left while a placement is being looked for. `gpus`: what is free of each, 1 when all is."""

    node: Node
    cpus: float
    memory_bytes: int
    gpus: list[float]

    def holds(self, wanted: Resources) -> bool:
        return (
            self.cpus + _EPSILON >= wanted.cpus
            and self.memory_bytes >= wanted.memory_bytes
            and self._gpus_for(wanted.gpus) is not None
        )

    def take(self, wanted: Resources) -> Placement:
        indices = self._gpus_for(wanted.gpus)
        assert indices is not None
        placement = Placement(node=self.node.name, resources=wanted, gpu_indices=indices)
        self.occupy(placement)
        return placement

    def occupy(self, placement: Placement) -> None:
        self.cpus -= placement.resources.cpus
        self.memory_bytes -= placement.resources.memory_bytes
        for index in placement.gpu_indices:
            if index < len(self.gpus):
                self.gpus[index] -= placement.resources.gpus / len(placement.gpu_indices)

    def _gpus_for(self, wanted: float) -> tuple[int, ...] | None:
        """Whole GPUs that nobody has a part of, or a part of the fullest that has it; None when there are none."""
        if 0 < wanted < 1:
            fitting = [index for index, free in enumerate(self.gpus) if free + _EPSILON >= wanted]
            return (min(fitting, key=lambda index: self.gpus[index]),) if fitting else None
        whole = [index for index, free in enumerate(self.gpus) if free + _EPSILON >= 1]
        return tuple(whole[: int(wanted)]) if len(whole) >= wanted else None


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
        node.name: _Room(node, node.total.cpus, node.total.memory_bytes, [1.0] * int(node.total.gpus)) for node in nodes
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
