"""A plan in words: a table of its stages."""

from __future__ import annotations

from clary_parallel.partitioning.plan import Plan


def describe_plan(plan: Plan) -> str:
    """A table for a terminal: each stage's operations, weights, activations, time and traffic.

    Args:
        plan: A partition of a model.
    """
    header = ("stage", "operations", "weights", "activations", "time", "sends on", "from", "to")
    rows: list[tuple[str, ...]] = [header]
    for number, stage in enumerate(plan.stages):
        names = [plan.graph.operations[index].name for index in stage.operations]
        rows.append(
            (
                str(number),
                str(len(names)),
                size(stage.weight_bytes),
                size(stage.activation_bytes),
                duration(stage.seconds),
                size(stage.sent_bytes) if number < len(plan.stages) - 1 else "-",
                names[0],
                names[-1],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [_row(rows[0], widths), "  ".join("-" * width for width in widths)]
    lines += [_row(row, widths) for row in rows[1:]]
    mean = 1.0 / len(plan.stages)
    proof = "the least possible" if plan.exact else f"no plan is below {plan.bound / mean:.2f} ×"
    lines.append("")
    lines.append(
        f"Heaviest stage: {plan.heaviest / mean:.2f} × the mean load ({proof}). Sizes are for one micro-batch."
    )
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    left = {6, 7}
    parts = [
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()
