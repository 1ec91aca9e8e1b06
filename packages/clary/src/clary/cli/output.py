"""How commands speak: results on stdout, notes and progress on stderr, errors as sentences with an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class CliError(Exception):
    """A mistake or a fault that the person at the terminal can act on.

    Args:
        problem: what was wrong, with the value.
        remedy: what to do next.
        exit_code: 1 for a failure, 2 for wrong use, 3 when no server runs.
    """

    def __init__(self, problem: str, remedy: str = "", *, exit_code: int = 1) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.exit_code = exit_code


def stdout() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """The console for notes, progress and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(sentence: str) -> None:
    """A note for the person at the terminal."""
    print(sentence, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """A result for a program: one JSON document on stdout."""
    print(json.dumps(value, indent=2, default=str))


def print_columns(
    rows: Sequence[Sequence[str]], *, bold_first: bool = False, colour: Mapping[str, str] | None = None
) -> None:
    """Print rows in aligned columns, never cut or wrapped: a long name stays whole, whatever the width.

    Args:
        rows: the cells; the last of a row may hold several lines.
        bold_first: show the first column in bold on a terminal.
        colour: styles of cells by the word that they begin with.
    """
    from rich.text import Text

    count = max((len(row) for row in rows), default=0)
    widths = [max((len(row[i]) for row in rows if i < len(row) - 1), default=0) for i in range(count)]
    console = stdout()
    for row in rows:
        line = Text()
        for i, cell in enumerate(row):
            last = i == len(row) - 1
            style = (colour or {}).get(cell.split(" ")[0], "bold" if bold_first and i == 0 else "")
            indented = cell.replace("\n", "\n" + " " * (sum(widths[:i]) + 2 * i))
            line.append(indented if last else cell.ljust(widths[i]) + "  ", style)
        console.print(line)


@contextmanager
def working(sentence: str) -> Generator[None]:
    """Show that something takes a while: a spinner with the time on a terminal, the bare sentence elsewhere."""
    console = stderr()
    if not console.is_terminal:
        say(sentence)
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(sentence, total=None)
        yield
