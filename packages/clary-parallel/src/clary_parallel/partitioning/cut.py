"""Where to cut a line into stages.

Two exact steps. First the lightest possible heaviest stage: bisection on its load, since with a load given, making each
stage as long as it allows either works or nothing does. Then, among all cuts whose heaviest stage is at most `slack`
heavier, those that send the fewest bytes: dynamic programming over boundaries, each step a minimum over a window.
Last, stages lighter than the heaviest are evened out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_BISECTIONS = 60
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


def cut_line(
    loads: Floats, cut_bytes: Floats, stages: int, low: Indices, high: Indices, slack: float = 0.0
) -> Cut | None:
    """Cut a line.

    Args:
        loads: Load of each block, shape (blocks,); none negative.
        cut_bytes: Bytes over each boundary, shape (blocks + 1,).
        stages: How many stages, each of at least one block.
        low: The earliest block that may start each stage, shape (stages,).
        high: The latest block that may start each stage, shape (stages,).
        slack: How much heavier than necessary, as a share, the heaviest stage may be to send fewer bytes.

    Returns:
        The cut; None if no cut keeps to `low` and `high`.
    """
    count = len(loads)
    sums = np.concatenate([[0.0], np.cumsum(loads)])
    room = np.arange(stages)
    low = np.maximum(low, room)
    high = np.minimum(high, count - stages + room)
    low[0] = high[0] = 0
    best = _lightest(sums, stages, low, high)
    if best is None:
        return None
    cut = _fewest_bytes(sums, cut_bytes, low, high, best, slack)
    return None if cut is None else _evened(cut, sums, cut_bytes, low, high)


def _fewest_bytes(
    sums: Floats, cut_bytes: Floats, low: Indices, high: Indices, best: float, slack: float
) -> Cut | None:
    """The cut that sends the fewest bytes with a heaviest stage within the slack, and as light as those bytes allow."""
    # A hair above the optimum, so that rounding in the sums does not exclude it.
    tight = best * (1 + 1e-12)
    loose = best * (1 + slack) + 1e-12 * best
    cheapest = _least_bytes(sums, cut_bytes, low, high, loose)
    if slack == 0.0 or cheapest is None:
        return cheapest
    # The same bytes with as little imbalance as they allow.
    exact = _least_bytes(sums, cut_bytes, low, high, tight)
    if exact is not None and exact.sent <= cheapest.sent:
        return exact
    under, over = tight, min(loose, cheapest.heaviest)
    for _ in range(_TRADE_STEPS):
        middle = (under + over) / 2
        tried = _least_bytes(sums, cut_bytes, low, high, middle)
        if tried is not None and tried.sent <= cheapest.sent:
            cheapest, over = tried, min(middle, tried.heaviest)
        else:
            under = middle
    return cheapest


def _evened(cut: Cut, sums: Floats, cut_bytes: Floats, low: Indices, high: Indices) -> Cut:
    """The same heaviest stage and no more bytes, with the other stages evened out: boundaries move one by one."""
    edges = [*cut.starts, len(sums) - 1]
    for _ in range(_SWEEPS):
        moved = False
        for stage in range(1, len(cut.starts)):
            first = max(edges[stage - 1] + 1, int(low[stage]))
            places = np.arange(first, min(edges[stage + 1] - 1, int(high[stage])) + 1)
            places = places[cut_bytes[places] <= cut_bytes[edges[stage]]]
            heavier = np.maximum(sums[places] - sums[edges[stage - 1]], sums[edges[stage + 1]] - sums[places])
            now = max(sums[edges[stage]] - sums[edges[stage - 1]], sums[edges[stage + 1]] - sums[edges[stage]])
            best = int(np.argmin(heavier))
            if heavier[best] < now * (1 - 1e-9):
                edges[stage], moved = int(places[best]), True
        if not moved:
            break
    ends = np.array(edges)
    return Cut(tuple(edges[:-1]), float((sums[ends[1:]] - sums[ends[:-1]]).max()), float(cut_bytes[ends[1:-1]].sum()))


def _lightest(sums: Floats, stages: int, low: Indices, high: Indices) -> float | None:
    """The least possible load of the heaviest stage."""
    if (np.maximum.accumulate(low) > high).any() or not _fits(sums, stages, low, high, float(sums[-1])):
        return None
    under, over = float(sums[-1]) / stages * (1 - 1e-9), float(sums[-1])
    for _ in range(_BISECTIONS):
        middle = (under + over) / 2
        if _fits(sums, stages, low, high, middle):
            over = middle
        else:
            under = middle
        if over - under <= 1e-13 * over:
            break
    return over


def _fits(sums: Floats, stages: int, low: Indices, high: Indices, load: float) -> bool:
    """Whether stages of at most this load reach the end of the line, each made as long as it may be."""
    start = 0
    for stage in range(1, stages + 1):
        longest = int(np.searchsorted(sums, sums[start] + load, side="right")) - 1
        if stage == stages:
            return longest >= len(sums) - 1
        longest = min(longest, int(high[stage]))
        if longest < max(int(low[stage]), start + 1):
            return False
        start = longest
    return True


def _least_bytes(sums: Floats, cut_bytes: Floats, low: Indices, high: Indices, load: float) -> Cut | None:
    """The cut that sends the fewest bytes with no stage above a load."""
    count, stages = len(sums) - 1, len(low)
    boundaries = np.arange(count + 1)
    # The earliest start of a stage that ends at each boundary.
    reach = np.searchsorted(sums, sums - load, side="left").astype(np.int64)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    tables = [best]
    for stage in range(1, stages + 1):
        first, last = (count, count) if stage == stages else (int(low[stage]), int(high[stage]))
        after = np.full(count + 1, np.inf)
        ends = boundaries[first : last + 1]
        after[first : last + 1] = _window_minimum(tables[-1], reach[ends], ends)
        if stage < stages:
            after += cut_bytes
        tables.append(after)
    if not np.isfinite(tables[-1][count]):
        return None
    starts: list[int] = []
    end = count
    for stage in range(stages - 1, -1, -1):
        window = tables[stage][reach[end] : end]
        end = int(reach[end]) + int(np.argmin(window))
        starts.append(end)
    starts.reverse()
    edges = np.array([*starts, count])
    return Cut(tuple(starts), float((sums[edges[1:]] - sums[edges[:-1]]).max()), float(cut_bytes[edges[1:-1]].sum()))


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
