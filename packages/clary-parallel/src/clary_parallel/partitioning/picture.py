"""A plan as a picture: the model's graph, one colour a stage."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from html import escape

from clary_parallel.partitioning.arrangement import TALL, WIDE, arrange
from clary_parallel.partitioning.plan import Plan
from clary_parallel.partitioning.report import duration, size

_OPERATIONS_AT_MOST = 3000
_LETTERS = 24
_MARGIN, _LEGEND, _LEGEND_ROW = 16, 230, 18


def draw_plan(plan: Plan) -> str:
    """Draw the graph with its stages coloured, as an SVG document.

    The model runs from top to bottom; lines are tensors; a red line between two colours is sent from rank to rank.
    Hovering over an operation shows what it costs.

    Raises:
        ValueError: The graph is too large to look at.
    """
    operations = plan.graph.operations
    if len(operations) > _OPERATIONS_AT_MOST:
        raise ValueError(f"A picture shows up to {_OPERATIONS_AT_MOST} operations. Received: {len(operations)}.")
    arranged = arrange(plan.graph)
    columns = max(1, min(len(plan.stages), int(max(arranged.width, 2 * _LEGEND) // _LEGEND)))
    width = 2 * _MARGIN + max(arranged.width, columns * _LEGEND)
    top = 2 * _MARGIN + _LEGEND_ROW * -(-len(plan.stages) // columns)
    height = top + arranged.height + _MARGIN
    left = (width - arranged.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, stage in enumerate(plan.stages):
        x, y = _MARGIN + number % columns * _LEGEND, _MARGIN + number // columns * _LEGEND_ROW
        text = f"stage {number}: {size(stage.weight_bytes)}, {duration(stage.seconds)}"
        parts.append(
            f'<rect x="{x}" y="{y}" width="12" height="12" rx="2" fill="{_colour(number, len(plan.stages))}"/>'
        )
        parts.append(f'<text x="{x + 18}" y="{y + 10}" fill="#222">{text}</text>')
    inside, between = list[str](), list[str]()
    for (source, taker), points in arranged.routes.items():
        crosses = plan.stage_of[source] >= 0 and plan.stage_of[source] != plan.stage_of[taker]
        style = 'stroke="#c00" stroke-width="1.6"' if crosses else 'stroke="#999" stroke-width="1"'
        line = f'<path d="{_curve([(x + left, y + top) for x, y in points])}" fill="none" {style}/>'
        (between if crosses else inside).append(line)
    parts += inside + between
    for index, operation in enumerate(operations):
        stage = plan.stage_of[index]
        where = f"stage {stage}" if stage >= 0 else "at every stage"
        words = (
            f"{operation.name} ({operation.kind}), {where}: weights {size(operation.weight_bytes)}, "
            f"output {size(operation.output_bytes)}, {duration(operation.seconds)}"
        )
        x, y = arranged.spots[index][0] + left, arranged.spots[index][1] + top
        fill = _colour(stage, len(plan.stages)) if stage >= 0 else "#ddd"
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDE}" height="{TALL}" rx="4" fill="{fill}">'
            f"<title>{escape(words)}</title></rect>"
            f'<text x="{x + WIDE / 2:.1f}" y="{y + TALL - 6:.1f}" text-anchor="middle" fill="#111" '
            f'pointer-events="none">{escape(_short(operation.name))}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """A line that bends between rows and is straight beside boxes."""
    (x, y), *rest = points
    drawn = [f"M{x:.1f},{y:.1f}"]
    for x2, y2 in rest:
        middle = (y + y2) / 2
        drawn.append(
            f"L{x2:.1f},{y2:.1f}" if x == x2 else f"C{x:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"
        )
        x, y = x2, y2
    return " ".join(drawn)


def _short(name: str) -> str:
    """A name that fits into a box: its end tells layers apart."""
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS // 2 - 1]}…{name[-_LETTERS // 2 :]}"


def _colour(stage: int, stages: int) -> str:
    # As hexadecimal numbers: many programs that show SVG paint hsl() black.
    red, green, blue = colorsys.hls_to_rgb(stage / max(stages, 1), 0.76, 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
