"""The command line: every command by name, and the boundary at which errors become sentences."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from clary.cli import configure, doctor, endpoints, images, jobs, quickstart, running, server
from clary.cli.output import CliError, say

app = typer.Typer(
    name="clary",
    help="SageMaker grown at home: train and deploy with the SageMaker SDKs on your own machine.",
    epilog="Begin with `clary quickstart`, or `clary up` and `clary run -- python your_script.py`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("up")(server.up)
app.command("down")(server.down)
app.command("status")(server.status)
app.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(running.run)
app.command("env")(running.env)
app.command("configure")(configure.configure)
app.add_typer(jobs.app, name="jobs")
app.add_typer(endpoints.app, name="endpoints")
app.command("invoke")(endpoints.invoke)
app.command("logs")(jobs.logs)
app.command("stop")(jobs.stop)
app.command("quickstart")(quickstart.quickstart)
app.command("doctor")(doctor.doctor)
app.add_typer(images.app, name="images")


def _version(value: bool) -> None:
    if value:
        from clary import __version__

        print(f"clary {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """SageMaker grown at home: train and deploy with the SageMaker SDKs on your own machine."""


def run() -> None:
    """Run the command line; exit with its code. A fault of ours is recorded in a file, not thrown at the user."""
    try:
        app(prog_name="clary")
    except CliError as error:
        say(f"Error: {error.problem}")
        if error.remedy:
            say(error.remedy)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone, as with `clary logs JOB | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:  # noqa: BLE001 - the boundary: recorded below
        say(f"Error: clary itself failed: {type(error).__name__}: {error}")
        say(f"The details are in {_record_fault()}; please report them.")
        sys.exit(70)


def _record_fault() -> Path:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="clary-fault-", suffix=".txt", delete=False) as file:
        file.write(f"{sys.argv}\n{traceback.format_exc()}")
    return Path(file.name)
