"""A plan as a picture: the model's graph, one colour a stage."""

from __future__ import annotations

from html import escape

from clary_parallel.partitioning.plan import Plan
from clary_parallel.partitioning.report import duration, size

_OPERATIONS_AT_MOST = 3000


def draw_plan(plan: Plan) -> str:
    """Draw the graph with its stages coloured, as an SVG document.

    Operations are placed by how many operations come before them; lines are tensors; a line between two colours is
    sent from rank to rank. Hovering over an operation shows what it costs.

    Raises:
        ValueError: The graph is too large to look at.
    """
    operations = plan.graph.operations
    if len(operations) > _OPERATIONS_AT_MOST:
        raise ValueError(f"A picture shows up to {_OPERATIONS_AT_MOST} operations. Received: {len(operations)}.")
    depth = [0] * len(operations)
    for index, operation in enumerate(operations):
        depth[index] = max((depth[source] + 1 for source in operation.inputs), default=0)
    taken: dict[int, int] = {}
    spot: list[tuple[float, float]] = []
    across, down, wide, tall = 34, 24, 26, 14
    top = 26 + 16 * ((len(plan.stages) + 3) // 4)
    for index in range(len(operations)):
        row = taken.get(depth[index], 0)
        taken[depth[index]] = row + 1
        spot.append((12 + depth[index] * across, top + row * down))
    width = max(int(24 + (max(depth, default=0) + 1) * across), 760)
    height = top + max(taken.values(), default=1) * down + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, stage in enumerate(plan.stages):
        x, y = 12 + number % 4 * 185, 16 + number // 4 * 16
        text = f"stage {number}: {size(stage.weight_bytes)}, {duration(stage.seconds)}"
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{_colour(number, len(plan.stages))}"/>')
        parts.append(f'<text x="{x + 14}" y="{y}">{text}</text>')
    for index, operation in enumerate(operations):
        for source in operation.inputs:
            (x1, y1), (x2, y2) = spot[source], spot[index]
            crosses = plan.stage_of[source] >= 0 and plan.stage_of[source] != plan.stage_of[index]
            style = 'stroke="#c00" stroke-width="1.6"' if crosses else 'stroke="#aaa" stroke-width="0.8"'
            parts.append(f'<path d="M{x1 + wide},{y1 + tall / 2} L{x2},{y2 + tall / 2}" fill="none" {style}/>')
    for index, operation in enumerate(operations):
        stage = plan.stage_of[index]
        where = f"stage {stage}" if stage >= 0 else "at every stage"
        words = (
            f"{operation.name} ({operation.kind}), {where}: weights {size(operation.weight_bytes)}, "
            f"output {size(operation.output_bytes)}, {duration(operation.seconds)}"
        )
        x, y = spot[index]
        fill = _colour(stage, len(plan.stages)) if stage >= 0 else "#ddd"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{wide}" height="{tall}" rx="3" fill="{fill}">'
            f"<title>{escape(words)}</title></rect>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _colour(stage: int, stages: int) -> str:
    return f"hsl({360 * stage / max(stages, 1):.0f},65%,62%)"
