"""`clary doctor`: what this machine has for Clary, what is missing, what that costs, and what mends it."""

from __future__ import annotations

from typing import Literal

import typer

from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import emit_json, stdout, working

_MARKS = {"ok": ("green", "✓"), "missing": ("yellow", "!"), "broken": ("red", "✗")}


def doctor(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check this machine: what is missing, what that costs, and the command that mends it.

    Exits with 1 when something is broken that Clary cannot work without.
    """
    from dataclasses import asdict

    from clary.cli.checkup import examine

    with working("Looking at this machine"):
        findings = examine(resolve_home(home))
    if as_json:
        emit_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _print(finding.state, finding.name, finding.detail, finding.cost, finding.mend)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def _print(state: Literal["ok", "missing", "broken"], name: str, detail: str, cost: str, mend: str) -> None:
    from rich.text import Text

    colour, mark = _MARKS[state]
    console = stdout()
    console.print(Text.assemble((mark, colour), " ", (f"{name:<20}", "bold"), detail))
    if cost:
        console.print(Text(f"  {'':<20}Without it: {cost}"))
    if mend:
        console.print(Text.assemble(f"  {'':<20}Mend: ", (mend, "cyan")))
