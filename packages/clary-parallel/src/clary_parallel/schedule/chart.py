"""The chart of a schedule: rows are devices, cells are F0…Fn, B0…Bn, time goes to the right. As SVG or as text."""

from __future__ import annotations

import colorsys
from html import escape

import numpy as np

from clary_parallel.schedule.actions import Work
from clary_parallel.schedule.simulate import Prediction

_CELLS_AT_MOST = 20_000
_SMALLEST_LETTERS = 6.0
_NAMES = {Work.FORWARD: "forward", Work.BACKWARD: "backward", Work.WEIGHT: "gradients of weights"}
_HUES = {Work.FORWARD: 214, Work.BACKWARD: 140, Work.WEIGHT: 38}


def draw_svg(prediction: Prediction, width: int = 1000, row: int = 30) -> str:
    """Draw a simulated (or measured) step.

    Args:
        prediction: Where each action starts and ends.
        width: Width of the time axis in pixels.
        row: Height of a device's row in pixels.

    Returns:
        An SVG document. Blue is forward, green backward, amber the gradient of weights; a rank's later stages are
        darker. Empty space is the bubble.

    Raises:
        ValueError: The schedule is too large to look at.
    """
    schedule = prediction.schedule
    if schedule.work.size > _CELLS_AT_MOST:
        raise ValueError(
            f"A chart shows up to {_CELLS_AT_MOST} cells. Received: {schedule.work.size} actions. "
            "Draw a smaller schedule of the same shape."
        )
    left, top, bottom = 84, 34, 26
    scale = width / float(prediction.end.max())
    height = top + row * schedule.ranks + bottom
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 12} {height}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(_caption(prediction))}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20" fill="#222">{escape(_caption(prediction))}</text>',
    ]
    for rank in range(schedule.ranks):
        y = top + rank * row
        parts.append(f'<text x="8" y="{y + row * 0.65:.1f}" fill="#222">device {rank}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width}" height="{row - 4}" fill="#f1f1f1"/>')
        for slot, action in enumerate(schedule.actions(rank)):
            x, end = left + prediction.start[rank, slot] * scale, left + prediction.end[rank, slot] * scale
            light = 78 - 30 * (action.stage // schedule.ranks) / max(schedule.virtual - 1, 1)
            label = f"{action.work.letter}{action.microbatch}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{end - x:.1f}" height="{row - 4}" '
                f'fill="{_colour(action.work, light)}" stroke="white" stroke-width="0.7">'
                f"<title>{action}</title></rect>"
            )
            letters = min(12.0, (end - x - 1) / (0.62 * len(label)))
            if letters >= _SMALLEST_LETTERS:
                at = f'x="{(x + end) / 2:.1f}" y="{y + row * 0.57:.1f}" font-size="{letters:.1f}"'
                parts.append(f'<text {at} text-anchor="middle" fill="#111">{label}</text>')
    parts.append(f'<text x="{left}" y="{height - 8}" fill="#555">time →</text>')
    works = sorted({action.work for rank in range(schedule.ranks) for action in schedule.actions(rank)})
    for number, work in enumerate(works):
        x = left + width - 170 * (len(works) - number)
        parts.append(f'<rect x="{x}" y="{height - 18}" width="12" height="12" fill="{_colour(work, 78)}"/>')
        parts.append(f'<text x="{x + 17}" y="{height - 8}" fill="#555">{work.letter}: {_NAMES[work]}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def draw_text(prediction: Prediction, columns: int = 120) -> str:
    """Draw a simulated step for a terminal: one line a device, dots are the bubble.

    Args:
        prediction: Where each action starts and ends.
        columns: Most characters of the time axis. Where labels don't fit, cells are their letters only.

    Example:
        >>> from clary_parallel.schedule import interleaved, simulate
        >>> print(draw_text(simulate(interleaved(2, 2))))  # doctest: +NORMALIZE_WHITESPACE
        interleaved: 2 devices, 2 micro-batches, bubble 33.3 %
        device 0  F0F1....B0··..B1··
        device 1  ..F0B0··F1B1··....
    """
    schedule = prediction.schedule
    longest = len(str(schedule.microbatches - 1)) + 1
    shortest = float((prediction.end - prediction.start).min())
    total = float(prediction.end.max())
    # A cell of the shortest action takes its label; charts that would be too wide are squeezed.
    wanted = round(total / shortest * longest) if shortest > 0 else columns
    width = min(wanted, max(columns, 1))
    lines = [_caption(prediction)]
    margin = len(f"device {schedule.ranks - 1}")
    for rank in range(schedule.ranks):
        row = np.full(width, ".")
        for slot, action in enumerate(schedule.actions(rank)):
            first = round(float(prediction.start[rank, slot]) / total * width)
            first = min(first, width - 1)
            last = max(round(float(prediction.end[rank, slot]) / total * width), first + 1)
            label = f"{action.work.letter}{action.microbatch}"
            text = label if len(label) <= last - first else action.work.letter
            row[first:last] = list(text.ljust(last - first, "·"))[: last - first]
        lines.append(f"{f'device {rank}'.ljust(margin)}  {''.join(row)}")
    return "\n".join(lines)


def _colour(work: Work, light: float) -> str:
    # As hexadecimal numbers: many programs that show SVG paint hsl() black.
    red, green, blue = colorsys.hls_to_rgb(_HUES[work] / 360, light / 100, 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _caption(prediction: Prediction) -> str:
    schedule = prediction.schedule
    stages = f", {schedule.stages} stages" if schedule.virtual > 1 else ""
    return (
        f"{schedule.name}: {schedule.ranks} devices{stages}, {schedule.microbatches} micro-batches, "
        f"bubble {prediction.bubble * 100:.1f} %"
    )
