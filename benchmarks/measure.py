"""What every benchmark shares: a measurement, the printed table and the results file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Measurement:
    """One figure. `bar` is what it must reach, `ok` whether it does; None where nothing was asked of it."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    bar: float | None = None
    ok: bool | None = None


def report(benchmark: str, measurements: Iterable[Measurement]) -> None:
    """Print the table and write results/<benchmark>.json."""
    rows = list(measurements)
    table = Table(title=benchmark)
    for column in ("measurement", "value", "unit", "peer", "bar", "ok"):
        table.add_column(column, justify="right" if column in ("value", "bar") else "left")
    for row in rows:
        verdict = "" if row.ok is None else ("yes" if row.ok else "NO")
        table.add_row(
            row.name, f"{row.value:.4g}", row.unit, row.peer or "", "" if row.bar is None else f"{row.bar:g}", verdict
        )
    Console(width=120).print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{benchmark}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
