"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="The folder that holds everything.  [env: CLARY_HOME; default: ~/.clary]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def resolve_home(home: Path | None) -> Path:
    """The home folder: the option, else CLARY_HOME, else ~/.clary."""
    chosen = home or (Path(os.environ["CLARY_HOME"]) if os.environ.get("CLARY_HOME") else Path.home() / ".clary")
    return chosen.expanduser().absolute()
