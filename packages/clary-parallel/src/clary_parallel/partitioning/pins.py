"""Operations that the user put into a stage by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from clary_parallel.graph import Graph, Line

Indices = npt.NDArray[np.int64]


class PinError(ValueError):
    """Pins that contradict the order in which the model runs, or each other."""


def pinned_stages(graph: Graph, pins: Mapping[str, int], partitions: int) -> dict[int, int]:
    """Pins by operation number.

    Raises:
        PinError: A pin names no operation, an input, or a partition that does not exist.
    """
    pinned: dict[int, int] = {}
    for name, stage in pins.items():
        if not 0 <= stage < partitions:
            raise PinError(f"Operation {name!r} is pinned to partition {stage}; there are {partitions}, from 0.")
        try:
            index = graph.index(name)
        except KeyError as error:
            raise PinError(str(error.args[0])) from error
        if not graph.operations[index].replicated:
            pinned[index] = stage
    return pinned


def earliest_stages(graph: Graph, pinned: Mapping[int, int]) -> list[int]:
    """For each operation the first stage that pins allow: the latest pin on any path to it.

    Raises:
        PinError: An operation is pinned before one that it needs.
    """
    earliest = [0] * len(graph.operations)
    because = [-1] * len(graph.operations)
    group_of = {index: group for group in graph.together for index in group}
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            if earliest[source] > earliest[index]:
                earliest[index], because[index] = earliest[source], because[source]
        pin = pinned.get(index)
        if pin is not None:
            if earliest[index] > pin:
                raise PinError(
                    f"Operation {operation.name!r} is pinned to partition {pin}, but needs "
                    f"{graph.operations[because[index]].name!r}, which is pinned to the later partition "
                    f"{earliest[index]}. Stages run in order: pin it to the same partition or a later one."
                )
            earliest[index], because[index] = pin, index
    for group in graph.together:
        stages = {pinned[index] for index in group if index in pinned}
        if len(stages) > 1:
            names = ", ".join(graph.operations[index].name for index in group_of[group[0]] if index in pinned)
            raise PinError(
                f"Operations {names} share weights and must be in one partition. Received: {sorted(stages)}."
            )
    return earliest


def start_ranges(line: Line, pinned: Mapping[int, int], stages: int) -> tuple[Indices, Indices]:
    """The first and last block that may start each stage, two arrays of shape (stages,).

    Raises:
        PinError: A block that cannot be parted holds two pins.
    """
    low, high = np.zeros(stages, np.int64), np.full(stages, len(line.blocks), np.int64)
    for place, block in enumerate(line.blocks):
        wanted = {pinned[index] for index in block if index in pinned}
        if len(wanted) > 1:
            raise PinError(
                f"A block of operations that cannot be parted is pinned to partitions {sorted(wanted)}: operations "
                "that share weights, and what lies between them, stay together."
            )
        for stage in wanted:
            low[stage + 1 :] = np.maximum(low[stage + 1 :], place + 1)
            high[: stage + 1] = np.minimum(high[: stage + 1], place)
    return low, high


def manual_assignment(graph: Graph, pinned: Mapping[int, int], default: int) -> Sequence[int]:
    """The stage of each operation when nothing is chosen automatically; -1 for those at hand everywhere.

    Raises:
        PinError: An operation would be in an earlier stage than one that it needs.
    """
    stage_of = [
        -1 if operation.replicated else pinned.get(index, default) for index, operation in enumerate(graph.operations)
    ]
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            if stage_of[index] >= 0 and stage_of[source] > stage_of[index]:
                how = "is pinned to" if index in pinned else "falls into the default"
                raise PinError(
                    f"Operation {operation.name!r} {how} partition {stage_of[index]}, but needs "
                    f"{graph.operations[source].name!r} of the later partition {stage_of[source]}. Stages run in order:"
                    f" pin it to partition {stage_of[source]} or a later one, or let auto_partition=True choose."
                )
    for group in graph.together:
        if len({stage_of[index] for index in group}) > 1:
            names = ", ".join(graph.operations[index].name for index in group)
            raise PinError(f"Operations {names} share weights and must be in one partition.")
    return stage_of
