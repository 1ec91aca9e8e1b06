"""`clary run` and `clary env`: a command, or a shell, whose AWS clients all speak to the server."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from typing import Annotated

import typer

from clary.cli import environment, server_process
from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import CliError

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The command and its arguments.")],
    home: HomeOption = None,
    sdk_polling: Annotated[
        bool, typer.Option("--sdk-polling", help="Keep the SageMaker SDK's own waits of 5 to 30 seconds.")
    ] = False,
) -> None:
    """Run a command whose AWS clients speak to Clary; starts the server when none runs.

    The exit code is the command's own. Example: clary run -- python train_with_sagemaker.py
    """
    folder = resolve_home(home)
    program = shutil.which(command[0])
    if program is None:
        raise CliError(f"There is no command {command[0]!r}.", "Give a program on PATH, or its path.", exit_code=127)
    server = server_process.ensure(folder)
    child = child_environment(server, sdk_polling=sdk_polling)
    raise typer.Exit(_run_through(program, command, child))


def child_environment(server: server_process.RunningServer, *, sdk_polling: bool) -> dict[str, str]:
    """This process's variables, changed so that a child's AWS clients speak to the server."""
    inherited = dict(os.environ)
    for name in environment.cleared(inherited):
        del inherited[name]
    access = environment.access_to(server)
    return {**inherited, **environment.variables(server.home, access, inherited, sdk_polling=sdk_polling)}


def _run_through(program: str, command: list[str], child: dict[str, str]) -> int:
    """Run the command in our place: it has the terminal, gets our signals, and its end is ours."""
    try:
        process = subprocess.Popen(command, executable=program, env=child)
    except OSError as error:
        raise CliError(f"{command[0]} cannot be run: {error.strerror}.", exit_code=126) from None
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    # Ctrl-C reaches the whole foreground group, so the command has it already; a lone SIGINT is passed on.
    signal.signal(signal.SIGINT, lambda received, _frame: None if _has_terminal() else process.send_signal(received))
    code = process.wait()
    return 128 - code if code < 0 else code


def _has_terminal() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def env(
    home: HomeOption = None,
    shell: Annotated[
        str | None, typer.Option(help="bash, zsh, sh, fish, csh or powershell.  [default: from $SHELL]")
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Print what undoes it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what makes a shell use the server: eval "$(clary env)"."""
    folder = resolve_home(home)
    if unset:
        names = environment.OURS
        print(json.dumps(names) if as_json else "\n".join(_unset_line(_dialect(shell), name) for name in names))
        return
    server = server_process.require(folder)
    values = environment.variables(folder, environment.access_to(server), os.environ)
    removed = environment.cleared(os.environ)
    if as_json:
        print(json.dumps(values, indent=2))
        return
    dialect = _dialect(shell)
    for name in removed:
        print(_unset_line(dialect, name))
    for name, value in values.items():
        print(_set_line(dialect, name, value))


def _dialect(shell: str | None) -> str:
    name = (shell or os.path.basename(os.environ.get("SHELL") or "sh")).lower()  # noqa: PTH119
    families = {"csh": "csh", "tcsh": "csh", "fish": "fish", "powershell": "powershell", "pwsh": "powershell"}
    if name in families:
        return families[name]
    if name in ("bash", "zsh", "sh", "dash", "ksh", "ash"):
        return "sh"
    if shell:
        raise CliError(f"Unknown shell {shell!r}.", "Give one of bash, zsh, sh, fish, csh, powershell.", exit_code=2)
    return "sh"


def _set_line(dialect: str, name: str, value: str) -> str:
    if dialect == "fish":
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{escaped}';"
    if dialect == "csh":
        return f"setenv {name} {shlex.quote(value)};"
    if dialect == "powershell":
        doubled = value.replace("'", "''")
        return f"$Env:{name} = '{doubled}'"
    return f"export {name}={shlex.quote(value)}"


def _unset_line(dialect: str, name: str) -> str:
    return {
        "fish": f"set -e {name};",
        "csh": f"unsetenv {name};",
        "powershell": f"Remove-Item -ErrorAction Ignore Env:{name}",
    }.get(dialect, f"unset {name}")
