"""Draws curves.svg: the simulator's speed-up and memory over micro-batches, at the settings of the papers.

Run: uv run python docs/explanation/charts/curves.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clary_parallel.schedule import Costs, Schedule, interleaved, interleaved_virtual, simple, simulate, zero_bubble

MICROBATCHES = (1, 2, 4, 8, 16, 32, 64)
COLOURS = ("#3465a4", "#4e9a06", "#c17d11", "#75507b", "#a40000")
Curve = tuple[str, list[float]]


def speed_up(make: Callable[[int], Schedule], devices: int) -> list[float]:
    """Over one device, for each number of micro-batches; of all layers a forward takes 1, a backward 2."""
    found: list[float] = []
    for microbatches in MICROBATCHES:
        schedule = make(microbatches)
        share = devices / schedule.stages
        costs = Costs(forward=share, backward=2 * share, weight=share)
        found.append(3 * devices * microbatches / simulate(schedule, costs).step_time)
    return found


def held(make: Callable[[int], Schedule], devices: int) -> list[float]:
    """Activations of the fullest device, in micro-batches of one device's share of the layers."""
    found: list[float] = []
    for microbatches in MICROBATCHES:
        schedule = make(microbatches)
        costs = Costs(activation_bytes=devices / schedule.stages)
        found.append(float(np.max(simulate(schedule, costs).peak_bytes)))
    return found


def panel(title: str, curves: Sequence[Curve], left: int, top_value: float) -> list[str]:
    """One set of axes with its curves."""
    width, height, top = 300, 200, 40
    parts = [f'<text x="{left}" y="24" font-size="13">{title}</text>']
    parts.append(f'<path d="M{left},{top} V{top + height} H{left + width}" fill="none" stroke="#555"/>')
    step = width / (len(MICROBATCHES) - 1)
    for place, microbatches in enumerate(MICROBATCHES):
        parts.append(
            f'<text x="{left + place * step:.0f}" y="{top + height + 16}" text-anchor="middle">{microbatches}</text>'
        )
    for share in (0.25, 0.5, 0.75, 1.0):
        y = top + height * (1 - share)
        parts.append(f'<path d="M{left},{y:.1f} h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{top_value * share:g}</text>')
    for number, (name, values) in enumerate(curves):
        points = " ".join(
            f"{left + place * step:.1f},{top + height * (1 - min(value / top_value, 1)):.1f}"
            for place, value in enumerate(values)
        )
        colour = COLOURS[number]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = top + height + 38 + 16 * number
        parts.append(
            f'<path d="M{left},{y - 4} h22" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{left + 28}" y="{y}">{name}</text>'
        )
    return parts


def main() -> None:
    """Write the picture."""
    gpipe = [
        (f"simple, {devices} devices", speed_up(lambda m, k=devices: simple(k, m), devices)) for devices in (2, 4, 8)
    ]
    eight: list[tuple[str, Callable[[int], Schedule]]] = [
        ("simple and interleaved (1F1B)", lambda m: interleaved(8, m)),
        ("interleaved, 2 stages a device", lambda m: interleaved_virtual(8, m, 2)),
        ("interleaved, 4 stages a device", lambda m: interleaved_virtual(8, m, 4)),
        ("zero-bubble", lambda m: zero_bubble(8, m)),
    ]
    memory = [("simple", held(lambda m: simple(8, m), 8)), *((name, held(make, 8)) for name, make in eight)]
    memory[1] = ("interleaved (1F1B)", memory[1][1])
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1130 370" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        *panel("Speed-up over one device (GPipe's settings)", gpipe, 40, 8),
        *panel("Speed-up of 8 devices, by schedule", [(name, speed_up(make, 8)) for name, make in eight], 420, 8),
        *panel("Micro-batches held by the fullest of 8", memory, 800, 32),
        '<text x="1120" y="362" text-anchor="end" fill="#555">horizontal: micro-batches of a batch</text></svg>',
    ]
    (Path(__file__).parent / "curves.svg").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
