"""A plan: which operation runs in which stage, and what that costs each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from clary_parallel.graph import Graph, Line, lines
from clary_parallel.partitioning.anywhere import best_anywhere, blocks_of, improved
from clary_parallel.partitioning.cut import cut_line
from clary_parallel.partitioning.pins import earliest_stages, manual_assignment, pinned_stages, start_ranges

Optimize = Literal["memory", "speed"]

_MEMORY_WEIGHT = {"memory": 0.8, "speed": 0.2}
_COPIES_OF_WEIGHTS = 4
"""Weights, gradients, and the two slots of Adam."""
_NEXT_TO_NOTHING = 1e-12
BYTES_A_SECOND = 2e9
"""How fast a core hands tensors to another rank, or takes them: measured with MPI between processes of one host."""


@dataclass(frozen=True)
class Stage:
    """What one stage holds and does for one micro-batch.

    Args:
        operations: Numbers of its operations.
        weight_bytes: Weights stored on it.
        activation_bytes: What a forward keeps for the backward.
        seconds: Forward and backward.
        sent_bytes: Bytes that it sends to the next stage, tensors included that only pass through it.
    """

    operations: tuple[int, ...]
    weight_bytes: int
    activation_bytes: int
    seconds: float
    sent_bytes: int


@dataclass(frozen=True)
class Plan:
    """A partition of a graph.

    Args:
        graph: What was partitioned.
        stage_of: Stage of each operation; -1 for operations that every rank has at hand.
        stages: What each stage holds.
        heaviest: Load of the heaviest stage, with what it exchanges, as a share of the whole model's load.
        bound: No plan has a heaviest stage lighter than this share: the mean, or the heaviest block.
        exact: Whether no plan at all has a lighter heaviest stage, but for the slack given away to send fewer bytes:
            the graph is a chain of blocks, or all plans were looked at.
    """

    graph: Graph
    stage_of: tuple[int, ...]
    stages: tuple[Stage, ...]
    heaviest: float
    bound: float
    exact: bool


@dataclass(frozen=True, eq=False)
class Loads:
    """What there is to balance.

    Args:
        operations: Each operation's share of the load, shape (operations,); the sum is 1.
        a_byte: What a byte that crosses a boundary costs the stages on both sides, each.
    """

    operations: npt.NDArray[np.float64]
    a_byte: float = 0.0


def make_plan(
    graph: Graph,
    partitions: int,
    *,
    optimize: Optimize = "memory",
    memory_weight: float | None = None,
    slack: float | None = None,
    pins: Mapping[str, int] | None = None,
    auto_partition: bool = True,
    default_partition: int = 0,
    contiguous: bool = True,
    bytes_a_second: float = BYTES_A_SECOND,
) -> Plan:
    """Partition a graph into stages that run one after the other.

    The load of an operation is a weighted mean of its share of the model's memory (weights, gradients and optimizer
    state, and the activations of as many micro-batches as there are stages) and of its share of the model's time. To a
    stage's time belongs that of handing tensors on and back over its boundaries. The heaviest stage is made as light as
    possible; within `slack` of that, few bytes are sent.

    But for what is exchanged, a plan is never heavier than the bound on all plans plus the heaviest block (and the
    slack); `Plan.heaviest` and `Plan.bound` say how near it came. On a chain it is exact.

    Args:
        graph: The operations.
        partitions: How many stages.
        optimize: "memory" weighs memory with 0.8, "speed" with 0.2 (the SageMaker library's own numbers).
        memory_weight: Another weight of memory, from 0 to 1.
        slack: How much heavier than necessary, as a share, the heaviest stage may be to send fewer bytes; by default a
            twentieth of the weight of memory: a plan for time alone gives no time away.
        pins: Stage of operations, by name.
        auto_partition: Whether to choose stages for operations that are not pinned.
        default_partition: Where they go otherwise.
        contiguous: True: each stage is a run of operations in an order in which the model runs (the model's own,
            branch after branch, or with the fewest bytes alive). False: a stage may take any operations, as long as
            tensors go on to later stages only; it may be lighter, takes longer to find, and of a graph that is not
            too wide is the best of all.
        bytes_a_second: How fast tensors are handed from rank to rank; infinite: as if that took no time.

    Raises:
        ValueError: There are fewer blocks of operations than partitions.
        PinError: Pins contradict the model's order or each other.
    """
    if partitions < 1:
        raise ValueError(f"A plan needs partitions of at least 1. Received: partitions={partitions}.")
    weight = _MEMORY_WEIGHT.get(optimize) if memory_weight is None else memory_weight
    if weight is None or not 0.0 <= weight <= 1.0:
        raise ValueError(
            'A plan needs optimize="memory" or "speed" and memory_weight from 0 to 1. '
            f"Received: optimize={optimize!r}, memory_weight={memory_weight!r}."
        )
    slack = 0.05 * weight if slack is None else slack
    loads = operation_loads(graph, partitions, weight, bytes_a_second)
    pinned = pinned_stages(graph, pins or {}, partitions)
    if not auto_partition:
        if not 0 <= default_partition < partitions:
            raise ValueError(
                f"default_partition must be one of {partitions} partitions. Received: {default_partition}."
            )
        return plan_from_assignment(graph, manual_assignment(graph, pinned, default_partition), partitions, loads)
    candidates = lines(graph, earliest_stages(graph, pinned) if pinned else None)
    blocks = len(candidates[0].blocks)
    if blocks < partitions:
        raise ValueError(
            f"The model has {blocks} operations that can be parted, fewer than partitions={partitions}. Use at most "
            f"{blocks} partitions." + (" Operations that share weights count as one." if graph.together else "")
        )
    if contiguous:
        return _best_plan(graph, candidates, pinned, partitions, loads, slack)
    return _freest_plan(graph, candidates, pinned, partitions, loads, slack)


def operation_loads(
    graph: Graph, partitions: int, memory_weight: float, bytes_a_second: float = BYTES_A_SECOND
) -> Loads:
    """The load of a graph's operations and of what is exchanged; see `make_plan`."""
    memory = np.array(
        [_COPIES_OF_WEIGHTS * item.weight_bytes + partitions * item.activation_bytes for item in graph.operations],
        float,
    )
    seconds = np.array([item.seconds for item in graph.operations], float)
    parts = [(memory_weight, memory), (1.0 - memory_weight, seconds)]
    loads = np.zeros(len(graph.operations))
    for weight, values in parts:
        if values.sum() > 0:
            loads += weight * values / values.sum()
    if loads.sum() < _NEXT_TO_NOTHING:  # Nothing is known of what counts: operations count alike.
        loads = np.array([0.0 if item.replicated else 1.0 for item in graph.operations])
    sum_of_loads = max(loads.sum(), _NEXT_TO_NOTHING)
    # A tensor goes over a boundary, and its gradient comes back.
    a_byte = 2 / bytes_a_second * (1.0 - memory_weight) / seconds.sum() if seconds.sum() > 0 else 0.0
    return Loads(loads / sum_of_loads, a_byte / sum_of_loads)


def plan_from_assignment(
    graph: Graph, stage_of: Sequence[int], partitions: int, loads: Loads, exact: bool = False
) -> Plan:
    """A plan from the stage of each operation.

    Raises:
        ValueError: A partition has no operation.
    """
    members: list[list[int]] = [[] for _ in range(partitions)]
    for index, stage in enumerate(stage_of):
        if stage >= 0:
            members[stage].append(index)
    empty = [stage for stage, operations in enumerate(members) if not operations]
    if empty:
        raise ValueError(
            f"Partition {empty[0]} of {partitions} has no operation. Pin one to it, or use fewer partitions."
        )
    sent = _sent_bytes(graph, stage_of, partitions)
    stages = tuple(
        Stage(
            tuple(operations),
            sum(graph.operations[index].weight_bytes for index in operations),
            sum(graph.operations[index].activation_bytes for index in operations),
            sum(graph.operations[index].seconds for index in operations),
            sent[stage],
        )
        for stage, operations in enumerate(members)
    )
    exchanged = loads.a_byte * np.array([0, *sent], float)
    heaviest = max(
        float(loads.operations[operations].sum() + exchanged[stage] + exchanged[stage + 1])
        for stage, operations in enumerate(members)
    )
    bound = max(1.0 / partitions, float(loads.operations.max(initial=0.0)))
    return Plan(graph, tuple(stage_of), stages, heaviest, bound, exact)


def _best_plan(
    graph: Graph,
    candidates: list[Line],
    pinned: Mapping[int, int],
    partitions: int,
    loads: Loads,
    slack: float,
) -> Plan:
    best: tuple[float, Line, tuple[int, ...]] | None = None
    whole = max(sum(item.output_bytes for item in graph.operations), 1)
    for line in candidates:
        blocks = np.array([loads.operations[list(block)].sum() for block in line.blocks])
        low, high = start_ranges(line, pinned, partitions)
        cut = cut_line(blocks, line.cut_bytes, partitions, low, high, slack, loads.a_byte)
        if cut is None:
            continue
        # Lines compete on load first; bytes decide between those within the slack of each other.
        score = cut.heaviest * (1 + slack * cut.sent / (whole * partitions))
        if best is None or score < best[0]:
            best = (score, line, cut.starts)
    if best is None:
        raise ValueError(
            f"The pins leave no room for {partitions} partitions: each needs an operation of its own between its "
            "neighbours' pins. Pin fewer operations, or use fewer partitions."
        )
    _, line, starts = best
    stage_of = [-1] * len(graph.operations)
    edges = [*starts, len(line.blocks)]
    for stage in range(partitions):
        for block in line.blocks[edges[stage] : edges[stage + 1]]:
            for index in block:
                stage_of[index] = stage
    plan = plan_from_assignment(graph, stage_of, partitions, loads, line.is_chain and not pinned)
    heaviest_block = max(float(loads.operations[list(block)].sum()) for block in line.blocks)
    return replace(plan, bound=max(plan.bound, heaviest_block))


def _freest_plan(
    graph: Graph,
    candidates: list[Line],
    pinned: Mapping[int, int],
    partitions: int,
    loads: Loads,
    slack: float,
) -> Plan:
    """The best plan whose stages need not be runs of a line; of a wide graph one that is no worse than along a line."""
    members = candidates[0].blocks
    blocks, block_of = blocks_of(graph, members, loads.operations, loads.a_byte, pinned)
    stages = best_anywhere(graph, blocks, block_of, partitions, slack)
    exact = stages is not None and not pinned
    if stages is None:
        along = _best_plan(graph, candidates, pinned, partitions, loads, slack)
        stages = improved(graph, blocks, block_of, [along.stage_of[block[0]] for block in members], partitions, slack)
    stage_of = [stages[block] if block >= 0 else -1 for block in block_of]
    plan = plan_from_assignment(graph, stage_of, partitions, loads, exact)
    return replace(plan, bound=max(plan.bound, float(blocks.loads.max())))


def _sent_bytes(graph: Graph, stage_of: Sequence[int], partitions: int) -> list[int]:
    """Bytes over each boundary: a tensor passes through every stage up to the last that needs it."""
    last = [stage_of[index] for index in range(len(graph.operations))]
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            last[source] = max(last[source], stage_of[index])
    for output in graph.outputs:
        last[output] = partitions - 1
    sent = [0] * partitions
    for index, operation in enumerate(graph.operations):
        if stage_of[index] >= 0:
            for stage in range(stage_of[index], last[index]):
                sent[stage] += operation.output_bytes
    return sent
