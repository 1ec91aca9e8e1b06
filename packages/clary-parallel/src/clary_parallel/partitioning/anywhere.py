"""Cuts that follow no line: a stage may take any blocks, as long as tensors go on to later stages only.

What the first k stages hold together is a set of blocks that is closed: with each block it holds all that the block
needs. A plan is a chain of closed sets, one in the other, from nothing to everything. Where a graph has few closed sets
(narrow graphs: residual, attention and inception blocks one after the other) dynamic programming over them finds the
best plan of all. Where it has many, a plan along a line is improved block by block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clary_parallel.graph import Graph

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_SETS_AT_MOST = 1024
_WORK_AT_MOST = 30_000_000
_MOVES_AT_MOST = 200


@dataclass(frozen=True)
class Blocks:
    """Blocks of a graph, for cuts that follow no line.

    Args:
        needs: For each block those that it takes tensors from.
        loads: Load of each.
        a_byte: What a byte over a boundary costs the stages on both sides, each.
        pinned: The stage of some.
    """

    needs: tuple[frozenset[int], ...]
    loads: Floats
    a_byte: float
    pinned: Mapping[int, int]


def blocks_of(
    graph: Graph, members: Sequence[tuple[int, ...]], loads: Floats, a_byte: float, pinned: Mapping[int, int]
) -> tuple[Blocks, list[int]]:
    """Blocks of operations, and the block of each operation (-1: at hand everywhere).

    Args:
        graph: The operations.
        members: Operations of each block.
        loads: Load of each operation.
        a_byte: What a byte over a boundary costs the stages on both sides, each.
        pinned: Stage of some operations.
    """
    block_of = [-1] * len(graph.operations)
    for number, block in enumerate(members):
        for index in block:
            block_of[index] = number
    needs = [
        frozenset(block_of[source] for index in block for source in graph.operations[index].inputs) - {number, -1}
        for number, block in enumerate(members)
    ]
    sums = np.array([loads[list(block)].sum() for block in members])
    stages = {block_of[index]: stage for index, stage in pinned.items()}
    return Blocks(tuple(needs), sums, a_byte, stages), block_of


def best_anywhere(
    graph: Graph, blocks: Blocks, block_of: Sequence[int], stages: int, slack: float
) -> tuple[int, ...] | None:
    """The stage of each block in the best plan of all; None if there are too many closed sets, or no plan.

    The heaviest stage is as light as possible; within `slack` of that, the fewest bytes are sent.
    """
    limit = min(_SETS_AT_MOST, int((_WORK_AT_MOST / stages) ** 0.5))
    held = _closed_sets(blocks, limit)
    if held is None:
        return None
    sums = held @ blocks.loads
    missing = (~held).astype(np.float32)
    inside = (held.astype(np.float32) @ missing.T) == 0.0
    np.fill_diagonal(inside, val=False)
    sent = _sent(graph, held, block_of)
    exchanged = blocks.a_byte * np.where(held.all(axis=1), 0.0, sent)
    spans = np.where(inside, (sums + exchanged)[None, :] - (sums - exchanged)[:, None], np.inf)
    open_at = [_open_at(held, blocks.pinned, boundary, stages) for boundary in range(stages + 1)]
    lightest = np.where(open_at[0], 0.0, np.inf)
    for boundary in range(1, stages + 1):
        heaviest = np.maximum(lightest[:, None], spans).min(axis=0)
        lightest = np.where(open_at[boundary], heaviest, np.inf)
    best = float(lightest.min())
    if not np.isfinite(best):
        return None
    cheap = _fewest_bytes(spans, sent, open_at, best * (1 + slack) + 1e-12)
    tight = _fewest_bytes(spans, sent, open_at, best * (1 + 1e-12) + 1e-15)
    chain = tight if sent[tight].sum() <= sent[cheap].sum() else cheap
    stage_of = np.full(len(blocks.loads), stages)
    for boundary in range(stages, 0, -1):
        stage_of[held[chain[boundary]]] = boundary - 1
    return tuple(int(stage) for stage in stage_of)


def improved(
    graph: Graph, blocks: Blocks, block_of: Sequence[int], stage_of: Sequence[int], stages: int, slack: float
) -> tuple[int, ...]:
    """A plan made lighter, as long as one block in another stage makes the heaviest lighter or fewer bytes sent."""
    now = list(stage_of)
    whole = max(sum(item.output_bytes for item in graph.operations), 1) * stages
    followers: list[list[int]] = [[] for _ in now]
    for block, sources in enumerate(blocks.needs):
        for source in sources:
            followers[source].append(block)

    def loads_and_bytes(stage_of: list[int]) -> tuple[Floats, float]:
        boundaries = np.array([[stage <= last for stage in stage_of] for last in range(stages - 1)])
        sent = np.concatenate([[0.0], _sent(graph, boundaries, block_of) if stages > 1 else [], [0.0]])
        return np.bincount(stage_of, blocks.loads, stages) + blocks.a_byte * (sent[1:] + sent[:-1]), float(sent.sum())

    def score(stage_of: list[int]) -> float:
        loads, sent = loads_and_bytes(stage_of)
        return float(loads.max()) * (1 + slack * sent / whole)

    best = score(now)
    for _ in range(_MOVES_AT_MOST):
        loads, _ = loads_and_bytes(now)
        full = int(loads.argmax())
        found: tuple[float, list[int]] | None = None
        if now.count(full) == 1:
            break
        for block in (block for block, stage in enumerate(now) if stage == full and block not in blocks.pinned):
            first = max((now[source] for source in blocks.needs[block]), default=0)
            last = min((now[after] for after in followers[block]), default=stages - 1)
            for stage in {*range(first, last + 1)} - {full}:
                if loads[stage] + blocks.loads[block] < loads[full]:
                    moved = [stage if number == block else old for number, old in enumerate(now)]
                    here = score(moved)
                    if here < best * (1 - 1e-9) and (found is None or here < found[0]):
                        found = here, moved
        if found is None:
            break
        best, now = found
    return tuple(now)


def _closed_sets(blocks: Blocks, limit: int) -> Flags | None:
    """Every closed set of blocks as a row of flags, smaller ones first; None if there are more than the limit."""
    count = len(blocks.needs)
    masks = [sum(1 << source for source in sources) for sources in blocks.needs]
    found = [0]
    seen = {0}
    for held in found:
        for block in range(count):
            with_it = held | 1 << block
            if with_it not in seen and masks[block] & ~held == 0:
                seen.add(with_it)
                found.append(with_it)
        if len(found) > limit:
            return None
    return np.array([[bool(held >> block & 1) for block in range(count)] for held in found])


def _open_at(held: Flags, pinned: Mapping[int, int], boundary: int, stages: int) -> Flags:
    """Which sets the stages before a boundary may hold together."""
    if boundary in (0, stages):
        return np.asarray(held.sum(axis=1) == (0 if boundary == 0 else held.shape[1]))
    allowed = np.ones(len(held), bool)
    for block, stage in pinned.items():
        allowed &= held[:, block] == (stage < boundary)
    return allowed


def _sent(graph: Graph, held: Flags, block_of: Sequence[int]) -> Floats:
    """Bytes that leave each set of blocks, shape (sets,)."""
    takers: list[set[int]] = [set() for _ in graph.operations]
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            if block_of[index] >= 0:
                takers[source].add(block_of[index])
    sent = np.zeros(len(held))
    outputs = set(graph.outputs)
    for index, operation in enumerate(graph.operations):
        block = block_of[index]
        if block < 0:
            continue
        leaves = held[:, block] & (True if index in outputs else ~held[:, sorted(takers[index])].all(axis=1))
        sent += leaves * float(operation.output_bytes)
    return sent


def _fewest_bytes(spans: Floats, sent: Floats, open_at: Sequence[Flags], load: float) -> list[int]:
    """The set at each boundary: no stage above a load, the fewest bytes, then the most even loads."""
    # Bytes are whole numbers and these squares add up to less than 1: evenness never outweighs a byte.
    costs = np.where(spans <= load, 0.5 * (spans / max(load, 1e-300)) ** 2 / len(open_at), np.inf)
    best = np.where(open_at[0], 0.0, np.inf)
    came: list[npt.NDArray[np.int64]] = []
    for boundary in range(1, len(open_at)):
        totals = best[:, None] + costs
        came.append(totals.argmin(axis=0).astype(np.int64))
        leaving = sent if boundary < len(open_at) - 1 else np.zeros_like(sent)
        best = np.where(open_at[boundary], totals.min(axis=0) + leaving, np.inf)
    chain = [int(best.argmin())]
    for sources in reversed(came):
        chain.append(int(sources[chain[-1]]))
    return chain[::-1]
