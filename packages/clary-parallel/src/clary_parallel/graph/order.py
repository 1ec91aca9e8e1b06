"""Lines: a graph's operations contracted to blocks that cannot be parted, in an order in which they can run.

A stage is a run of consecutive blocks of a line. Where the graph is a chain there is one line, and the best partition
of the line is the best partition. Elsewhere several lines are tried.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clary_parallel.graph.graph import Graph


@dataclass(frozen=True, eq=False)
class Line:
    """Blocks in running order.

    Args:
        blocks: Indices of the operations of each block; operations that every rank has at hand are in none.
        cut_bytes: Bytes that cross each boundary, shape (blocks + 1,): boundary k is before block k. A tensor that
            skips several stages crosses, and is counted at, each boundary between its producer and its last consumer.
        is_chain: Whether each block only takes outputs of the block before it, so that there is no other line.
    """

    blocks: tuple[tuple[int, ...], ...]
    cut_bytes: npt.NDArray[np.float64]
    is_chain: bool


def lines(graph: Graph, earliest: Sequence[int] | None = None) -> list[Line]:
    """The lines of a graph that are worth trying: the model's own order, depth first, and least bytes alive first.

    Args:
        graph: The graph.
        earliest: For each operation the first stage that it may be in (see `partitioning.pins`); lines keep to it.

    Returns:
        One line if the graph is a chain, else up to three.
    """
    block_of, members = _blocks(graph)
    successors, predecessors = _block_edges(graph, block_of, len(members))
    rank = [0] * len(members)
    if earliest:
        for block in _own_order(predecessors, successors, rank):
            own_rank = max((earliest[index] for index in members[block]), default=0)
            rank[block] = max([own_rank, *(rank[source] for source in predecessors[block])])
    own = _own_order(predecessors, successors, rank)
    first = _line(graph, own, members, block_of, predecessors)
    if first.is_chain:
        return [first]
    found = [first]
    sizes = [sum(graph.operations[index].output_bytes for index in block) for block in members]
    for order in (_depth_first(predecessors, successors, rank), _least_alive(predecessors, successors, rank, sizes)):
        if order != own:
            found.append(_line(graph, order, members, block_of, predecessors))
    return found


def _blocks(graph: Graph) -> tuple[list[int], list[tuple[int, ...]]]:
    """The block of each operation (-1: at hand everywhere), and the operations of each block.

    Operations that share weights stay together, and with them all that lies on a path between them: a block is a
    strongly connected component of the graph in which each group is a circle.
    """
    count = len(graph.operations)
    placed = [not operation.replicated for operation in graph.operations]
    if not graph.together:
        block_of, members = [-1] * count, list[tuple[int, ...]]()
        for index in range(count):
            if placed[index]:
                block_of[index] = len(members)
                members.append((index,))
        return block_of, members
    follows: list[list[int]] = [[] for _ in range(count)]
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            if placed[source]:
                follows[source].append(index)
    for group in graph.together:
        for here, there in zip(group, (*group[1:], group[0]), strict=True):
            follows[here].append(there)
    components = [component for component in _components(follows) if placed[component[0]]]
    members = sorted((tuple(sorted(component)) for component in components), key=lambda block: block[0])
    block_of = [-1] * count
    for number, block in enumerate(members):
        for index in block:
            block_of[index] = number
    return block_of, members


def _components(follows: list[list[int]]) -> list[list[int]]:
    """Strongly connected components (Tarjan, without recursion: models are thousands of operations deep)."""
    count = len(follows)
    number, low, on_stack = [-1] * count, [0] * count, [False] * count
    stack: list[int] = []
    components: list[list[int]] = []
    clock = 0
    for root in range(count):
        if number[root] != -1:
            continue
        path = [(root, 0)]
        while path:
            node, edge = path.pop()
            if edge == 0:
                number[node] = low[node] = clock
                clock += 1
                stack.append(node)
                on_stack[node] = True
            descended = False
            for position in range(edge, len(follows[node])):
                after = follows[node][position]
                if number[after] == -1:
                    path.append((node, position + 1))
                    path.append((after, 0))
                    descended = True
                    break
                if on_stack[after]:
                    low[node] = min(low[node], number[after])
            if descended:
                continue
            if low[node] == number[node]:
                component: list[int] = []
                while not component or component[-1] != node:
                    component.append(stack.pop())
                    on_stack[component[-1]] = False
                components.append(component)
            if path:
                parent = path[-1][0]
                low[parent] = min(low[parent], low[node])
    return components


def _block_edges(graph: Graph, block_of: list[int], count: int) -> tuple[list[list[int]], list[set[int]]]:
    successors: list[list[int]] = [[] for _ in range(count)]
    predecessors: list[set[int]] = [set() for _ in range(count)]
    for index, operation in enumerate(graph.operations):
        here = block_of[index]
        if here < 0:
            continue
        for source in operation.inputs:
            before = block_of[source]
            if before >= 0 and before != here and before not in predecessors[here]:
                predecessors[here].add(before)
                successors[before].append(here)
    return successors, predecessors


def _own_order(predecessors: list[set[int]], successors: list[list[int]], rank: list[int]) -> list[int]:
    """The model's own order, as far as blocks and ranks allow it."""
    waiting = [len(before) for before in predecessors]
    ready = [(rank[block], block) for block, left in enumerate(waiting) if not left]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, block = heapq.heappop(ready)
        order.append(block)
        for after in successors[block]:
            waiting[after] -= 1
            if not waiting[after]:
                heapq.heappush(ready, (rank[after], after))
    return order


def _depth_first(predecessors: list[set[int]], successors: list[list[int]], rank: list[int]) -> list[int]:
    """Each branch to its end before the next one begins."""
    waiting = [len(before) for before in predecessors]
    stack = [block for block in reversed(range(len(waiting))) if not waiting[block]]
    order: list[int] = []
    while stack:
        block = stack.pop()
        order.append(block)
        for after in reversed(successors[block]):
            waiting[after] -= 1
            if not waiting[after]:
                stack.append(after)
    # Ranks never fall along an edge, so a stable sort by rank keeps the order one in which blocks can run.
    return sorted(order, key=lambda block: rank[block])


def _least_alive(
    predecessors: list[set[int]], successors: list[list[int]], rank: list[int], sizes: list[int]
) -> list[int]:
    """Always the block that adds the fewest bytes which later blocks still need."""
    waiting = [len(before) for before in predecessors]
    to_come = [len(after) for after in successors]

    def growth(block: int) -> int:
        freed = sum(sizes[before] for before in predecessors[block] if to_come[before] == 1)
        return (sizes[block] if successors[block] else 0) - freed

    ready = [(rank[block], growth(block), block) for block, left in enumerate(waiting) if not left]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, _, block = heapq.heappop(ready)
        order.append(block)
        for before in predecessors[block]:
            to_come[before] -= 1
        for after in successors[block]:
            waiting[after] -= 1
            if not waiting[after]:
                heapq.heappush(ready, (rank[after], growth(after), after))
    return order


def _line(
    graph: Graph, order: list[int], members: list[tuple[int, ...]], block_of: list[int], predecessors: list[set[int]]
) -> Line:
    count = len(order)
    position = [0] * count
    for place, block in enumerate(order):
        position[block] = place
    last_use = [-1] * len(graph.operations)
    for index, operation in enumerate(graph.operations):
        if block_of[index] < 0:
            continue
        for source in operation.inputs:
            if block_of[source] >= 0:
                last_use[source] = max(last_use[source], position[block_of[index]])
    for output in graph.outputs:
        if block_of[output] >= 0:
            last_use[output] = max(last_use[output], count - 1)
    change = np.zeros(count + 2)
    for index, used in enumerate(last_use):
        if block_of[index] >= 0 and used > position[block_of[index]]:
            change[position[block_of[index]] + 1] += graph.operations[index].output_bytes
            change[used + 1] -= graph.operations[index].output_bytes
    is_chain = all(predecessors[block] == ({order[place - 1]} if place else set()) for place, block in enumerate(order))
    return Line(tuple(members[block] for block in order), np.cumsum(change)[: count + 1], is_chain)
