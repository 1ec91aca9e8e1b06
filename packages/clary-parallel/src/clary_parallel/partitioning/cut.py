"""Where to cut a line into stages.

A stage's load is that of its blocks and of the tensors that it exchanges over its two boundaries: the load of blocks
i to j is `ends[j] - begins[i]`, sums of loads less or more what their boundaries exchange.

Two steps. First the lightest possible heaviest stage, exactly: bisection on its load, each time stage by stage the
boundaries that can be reached with it. Then, among cuts whose heaviest stage is at most `slack` heavier, those that
send the fewest bytes: dynamic programming over boundaries, each step a minimum over a window (of all such cuts where
exchange costs nothing; else of those whose every later start would do as well). Last, stages lighter than the heaviest
are evened out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_BISECTIONS = 100
_FIRST_STEP = 1e-3
_PRECISION = 1e-12
_TRADE_STEPS = 5
_SWEEPS = 10


@dataclass(frozen=True)
class Cut:
    """Boundaries of a line's stages.

    Args:
        starts: First block of each stage.
        heaviest: Load of the heaviest stage.
        sent: Bytes over all boundaries.
    """

    starts: tuple[int, ...]
    heaviest: float
    sent: float


@dataclass(frozen=True, eq=False)
class _Row:
    """A line with what its boundaries cost.

    Args:
        sums: Sums of loads up to each boundary, shape (blocks + 1,).
        begins: The same, less what the boundary exchanges.
        ends: The same, more what it exchanges.
        sent: Bytes over each boundary.
        low: The earliest boundary at which each stage may start, shape (stages,).
        high: The latest.
    """

    sums: Floats
    begins: Floats
    ends: Floats
    sent: Floats
    low: Indices
    high: Indices

    @property
    def blocks(self) -> int:
        return len(self.sums) - 1

    @property
    def stages(self) -> int:
        return len(self.low)

    def cut(self, starts: Sequence[int]) -> Cut:
        edges = np.array([*starts, self.blocks])
        heaviest = float((self.ends[edges[1:]] - self.begins[edges[:-1]]).max())
        return Cut(tuple(int(start) for start in starts), heaviest, float(self.sent[edges[1:-1]].sum()))


def cut_line(
    loads: Floats,
    cut_bytes: Floats,
    stages: int,
    low: Indices,
    high: Indices,
    slack: float = 0.0,
    load_a_byte: float = 0.0,
) -> Cut | None:
    """Cut a line.

    Args:
        loads: Load of each block, shape (blocks,); none negative.
        cut_bytes: Bytes over each boundary, shape (blocks + 1,).
        stages: How many stages, each of at least one block.
        low: The earliest block that may start each stage, shape (stages,).
        high: The latest block that may start each stage, shape (stages,).
        slack: How much heavier than necessary, as a share, the heaviest stage may be to send fewer bytes.
        load_a_byte: What a byte over a boundary costs the stage before it, and as much the stage after it.

    Returns:
        The cut; None if no cut keeps to `low` and `high`.
    """
    count = len(loads)
    sums = np.concatenate([[0.0], np.cumsum(loads)])
    exchanged = load_a_byte * cut_bytes
    exchanged[[0, -1]] = 0.0
    room = np.arange(stages)
    low = np.maximum(low, room)
    high = np.minimum(high, count - stages + room)
    low[0] = high[0] = 0
    # Each stage holds a block, so that the one before starts earlier and the one after later.
    low = np.maximum.accumulate(low - room) + room
    high = (np.minimum.accumulate((high - room)[::-1])[::-1] + room).astype(np.int64)
    if (low > high).any():
        return None
    row = _Row(sums, sums - exchanged, sums + exchanged, cut_bytes, low, high)
    lightest = _lightest(row)
    return _evened(_fewest_bytes(row, lightest, slack), row)


def _lightest(row: _Row) -> Cut:
    """A cut with the least possible load of the heaviest stage."""
    total = float(row.sums[-1])
    best = row.cut([int(start) for start in row.low])
    under, over = total / row.stages * (1 - 1e-9), best.heaviest
    # From below, since the least load is rarely far above the mean, and there few boundaries come into question.
    step = _FIRST_STEP
    for _ in range(_BISECTIONS):
        if over - under <= _PRECISION * over:
            break
        middle = min(under * (1 + step), (under + over) / 2)
        found = _within(row, middle)
        if found is None:
            under, step = middle, 4 * step
        else:
            best, over, step = found, found.heaviest, np.inf
    return best


def _within(row: _Row, load: float) -> Cut | None:
    """A cut none of whose stages is above a load, if there is one."""
    total, stages = float(row.sums[-1]), row.stages
    # Where each stage can start at all: those before it and those after it have only so much room.
    room = np.arange(stages) * load
    slight = 1e-12 * total
    first = np.maximum(row.low, np.searchsorted(row.sums, total - stages * load + room - slight))
    last = np.minimum(row.high, np.searchsorted(row.sums, room + slight, side="right") - 1)
    if (first > last).any():
        return None
    starts = [np.zeros(1, np.int64)]
    for stage in range(1, stages + 1):
        places = np.arange(first[stage], last[stage] + 1) if stage < stages else np.array([row.blocks])
        before = starts[-1]
        # Of the starts before each place the one that leaves the stage up to it the least load.
        nearest = np.concatenate([[-np.inf], np.maximum.accumulate(row.begins[before])])
        reached = places[row.ends[places] - nearest[np.searchsorted(before, places)] <= load]
        if len(reached) == 0:
            return None
        starts.append(reached)
    chosen = [row.blocks]
    for before in reversed(starts[:-1]):
        fits = before[(before < chosen[-1]) & (row.ends[chosen[-1]] - row.begins[before] <= load)]
        chosen.append(int(fits[np.argmin(row.sent[fits])]))
    return row.cut(chosen[:0:-1])


def _fewest_bytes(row: _Row, lightest: Cut, slack: float) -> Cut:
    """The cut that sends the fewest bytes with a heaviest stage within the slack, and as light as those bytes allow."""
    # A hair above the optimum, so that rounding in the sums does not exclude it.
    tight = lightest.heaviest * (1 + 1e-12)
    loose = lightest.heaviest * (1 + slack + 1e-12)
    exact = _least_bytes(row, tight) or lightest
    cheapest = (_least_bytes(row, loose) if slack else None) or exact
    # The same bytes with as little imbalance as they allow.
    if exact.sent <= cheapest.sent:
        return exact
    under, over = tight, min(loose, cheapest.heaviest)
    for _ in range(_TRADE_STEPS):
        middle = (under + over) / 2
        tried = _least_bytes(row, middle)
        if tried is not None and tried.sent <= cheapest.sent:
            cheapest, over = tried, min(middle, tried.heaviest)
        else:
            under = middle
    return cheapest


def _evened(cut: Cut, row: _Row) -> Cut:
    """The same heaviest stage and no more bytes, with the other stages evened out: boundaries move one by one."""
    edges = [*cut.starts, row.blocks]
    for _ in range(_SWEEPS):
        moved = False
        for stage in range(1, row.stages):
            first = max(edges[stage - 1] + 1, int(row.low[stage]))
            places = np.arange(first, min(edges[stage + 1] - 1, int(row.high[stage])) + 1)
            places = places[row.sent[places] <= row.sent[edges[stage]]]
            before, after = row.begins[edges[stage - 1]], row.ends[edges[stage + 1]]
            heavier = np.maximum(row.ends[places] - before, after - row.begins[places])
            now = max(row.ends[edges[stage]] - before, after - row.begins[edges[stage]])
            best = int(np.argmin(heavier))
            if heavier[best] < now * (1 - 1e-9):
                edges[stage], moved = int(places[best]), True
        if not moved:
            break
    return row.cut(edges[:-1])


def _least_bytes(row: _Row, load: float) -> Cut | None:
    """The cut that sends the fewest bytes with no stage above a load."""
    count, stages = row.blocks, row.stages
    boundaries = np.arange(count + 1)
    # The earliest start of a stage that ends at each boundary, from which on every start will do.
    later = np.minimum.accumulate(row.begins[::-1])[::-1]
    reach = np.searchsorted(later, row.ends - load, side="left").astype(np.int64)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    tables = [best]
    for stage in range(1, stages + 1):
        first, last = (count, count) if stage == stages else (int(row.low[stage]), int(row.high[stage]))
        after = np.full(count + 1, np.inf)
        ends = boundaries[first : last + 1]
        after[first : last + 1] = _window_minimum(tables[-1], reach[ends], ends)
        if stage < stages:
            after += row.sent
        tables.append(after)
    if not np.isfinite(tables[-1][count]):
        return None
    starts: list[int] = []
    end = count
    for stage in range(stages - 1, -1, -1):
        window = tables[stage][reach[end] : end]
        end = int(reach[end]) + int(np.argmin(window))
        starts.append(end)
    return row.cut(starts[::-1])


def _window_minimum(values: Floats, begins: Indices, ends: Indices) -> Floats:
    """min(values[begin:end]) for each window; infinity for an empty one."""
    widths = ends - begins
    result = np.full(len(ends), np.inf)
    level_of = np.where(widths > 0, np.log2(np.maximum(widths, 1)).astype(np.int64), -1)
    level, table = 0, values
    while len(table):
        here = level_of == level
        if here.any():
            result[here] = np.minimum(table[begins[here]], table[ends[here] - (1 << level)])
        if not (level_of > level).any():
            break
        table = np.minimum(table[: -(1 << level)], table[1 << level :])
        level += 1
    return result
