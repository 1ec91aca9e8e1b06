"""Where operations stand in a picture: in rows, each below those that it takes tensors from, and lines between them.

A tensor that is taken more than one row below has a lane of its own in the rows between, beside their boxes, so that no
line crosses a box. Rows are put in an order in which few lines cross (each item where the mean of its neighbours is),
and items are moved towards their neighbours as far as the ones beside them let them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clary_parallel.graph import Graph

WIDE, TALL = 156, 20
_ROW, _APART, _LANE = 46, 12, 10
_SWEEPS = 6


@dataclass(frozen=True)
class Arrangement:
    """A graph laid out; lengths are in pixels.

    Args:
        spots: The left upper corner of each operation's box, WIDE × TALL.
        routes: For each pair (source, taker) the points of its line: the source's lower edge, its lane, the taker's
            upper edge.
        width: Of the whole.
        height: Of the whole.
    """

    spots: tuple[tuple[float, float], ...]
    routes: dict[tuple[int, int], tuple[tuple[float, float], ...]]
    width: float
    height: float


@dataclass
class _Item:
    """An operation, or a place in its lane."""

    operation: int
    is_box: bool
    above: list[_Item]
    below: list[_Item]
    x: float = 0.0
    place: float = 0.0

    @property
    def half(self) -> float:
        return (WIDE if self.is_box else _LANE) / 2


def arrange(graph: Graph) -> Arrangement:
    """Lay out a graph from top to bottom."""
    depth = [0] * len(graph.operations)
    last = [0] * len(graph.operations)
    for index, operation in enumerate(graph.operations):
        depth[index] = max((depth[source] + 1 for source in operation.inputs), default=0)
        for source in operation.inputs:
            last[source] = max(last[source], depth[index])
    _pull_down_inputs(graph, depth)
    rows: list[list[_Item]] = [[] for _ in range(max(depth, default=0) + 1)]
    lanes: list[list[_Item]] = []
    for index in range(len(graph.operations)):
        lanes.append([_Item(index, True, [], [])])
        lanes[index] += [_Item(index, False, [], []) for _ in range(depth[index] + 1, last[index])]
        for step, item in enumerate(lanes[index]):
            rows[depth[index] + step].append(item)
            if step:
                _join(lanes[index][step - 1], item)
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            _join(lanes[source][depth[index] - 1 - depth[source]], lanes[index][0])
    _order(rows)
    _place(rows)
    left = min((item.x - item.half for row in rows for item in row), default=0.0)
    for row in rows:
        for item in row:
            item.x = round(4 * (item.x - left)) / 4
    spots = tuple((lanes[index][0].x - WIDE / 2, float(depth[index] * _ROW)) for index in range(len(depth)))
    routes: dict[tuple[int, int], tuple[tuple[float, float], ...]] = {}
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            points = [(lanes[source][0].x, depth[source] * _ROW + float(TALL))]
            for step in range(1, depth[index] - depth[source]):
                x, y = lanes[source][step].x, (depth[source] + step) * _ROW
                points += [(x, float(y)), (x, float(y + TALL))]
            routes[source, index] = (*points, (lanes[index][0].x, float(depth[index] * _ROW)))
    width = max((item.x + item.half for row in rows for item in row), default=0.0)
    return Arrangement(spots, routes, width, float(len(rows) * _ROW - _ROW + TALL))


def _pull_down_inputs(graph: Graph, depth: list[int]) -> None:
    """What takes nothing itself stands right above its first taker."""
    first: dict[int, int] = {}
    for index, operation in enumerate(graph.operations):
        for source in operation.inputs:
            first[source] = min(first.get(source, depth[index]), depth[index])
    for index, operation in enumerate(graph.operations):
        if not operation.inputs and index in first:
            depth[index] = first[index] - 1


def _join(upper: _Item, lower: _Item) -> None:
    upper.below.append(lower)
    lower.above.append(upper)


def _order(rows: list[list[_Item]]) -> None:
    """Sort rows downwards by the items above, upwards by those below, several times."""
    for row in rows:
        for number, item in enumerate(row):
            item.place = number
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted = {id(item): _mean([near.place for near in _near(item, down)], item.place) for item in row}
            row.sort(key=lambda item, wanted=wanted: wanted[id(item)])
            # Places count in widths, so that rows of unlike numbers of items compare.
            for number, item in enumerate(row):
                item.place = number - (len(row) - 1) / 2


def _place(rows: list[list[_Item]]) -> None:
    """Move items over, or under, their neighbours, in the order of their row."""
    for row in rows:
        _spread(row, [0.0] * len(row))
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            _spread(row, [_mean([near.x for near in _near(item, down)], item.x) for item in row])


def _spread(row: list[_Item], wanted: Sequence[float]) -> None:
    """Items as near as possible (least squares) to where they want to be, none over another.

    Runs of items that press on each other move as one, to the mean of what they want.
    """
    offset = 0.0
    offsets: list[float] = []
    for number, item in enumerate(row):
        if number:
            offset += row[number - 1].half + item.half + _APART
        offsets.append(offset)
    runs: list[tuple[float, int]] = []
    for number in range(len(row)):
        total, count = wanted[number] - offsets[number], 1
        while runs and runs[-1][0] / runs[-1][1] > total / count:
            before, many = runs.pop()
            total, count = total + before, count + many
        runs.append((total, count))
    number = 0
    for total, count in runs:
        for _ in range(count):
            row[number].x = total / count + offsets[number]
            number += 1


def _near(item: _Item, down: bool) -> list[_Item]:
    return item.above if down else item.below


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
