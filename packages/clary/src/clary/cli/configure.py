"""`clary configure`: an AWS profile for the server, so that `aws --profile clary …` and every SDK can use it."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from clary.cli import environment, server_process
from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import CliError, emit_json, say

_HEADER = re.compile(r"^\s*\[\s*(.+?)\s*\]")


def configure(
    home: HomeOption = None,
    profile: Annotated[str, typer.Option(help="The profile's name.")] = "clary",
    as_json: JsonOption = False,
) -> None:
    """Write an AWS profile for the server into ~/.aws. Everything else in those files stays as it is."""
    if not re.fullmatch(r"[\w.@+-]+", profile):
        raise CliError(f"A profile cannot be called {profile!r}.", "Use letters, digits and . _ - + @.", exit_code=2)
    server = server_process.require(resolve_home(home))
    access = environment.access_to(server)
    config = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    credentials = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    section = "default" if profile == "default" else f"profile {profile}"
    write_section(config, section, {"region": access.region, "output": "json", "endpoint_url": access.url})
    keys = {"aws_access_key_id": access.access_key, "aws_secret_access_key": access.secret_key}
    write_section(credentials, profile, keys)
    if as_json:
        emit_json({"profile": profile, "config": str(config), "credentials": str(credentials)})
        return
    say(f"Wrote profile {profile!r} to {config} and {credentials}.")
    print(f"aws --profile {profile} sagemaker list-training-jobs")


def write_section(path: Path, name: str, values: dict[str, str]) -> None:
    """Set values in one section of an INI file; all else, comments included, stays byte for byte.

    The file is replaced at once, never half written, and is readable by its owner only when it is new.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{path} cannot be read: {error}.", "Mend or move the file, then try again.") from None
    text = "".join(_merged(lines, name, values))
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    descriptor, fresh = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    Path(fresh).replace(target)


def _merged(lines: list[str], name: str, values: dict[str, str]) -> list[str]:
    start = next((i for i, line in enumerate(lines) if (m := _HEADER.match(line)) and m[1] == name), None)
    written = [f"{key} = {value}\n" for key, value in values.items()]
    if start is None:
        if lines and not lines[-1].endswith("\n"):
            lines = [*lines[:-1], lines[-1] + "\n"]
        separator = ["\n"] if lines and lines[-1].strip() else []
        return [*lines, *separator, f"[{name}]\n", *written]
    end = next((i for i in range(start + 1, len(lines)) if _HEADER.match(lines[i])), len(lines))
    # An indented line belongs to a nested setting and is not ours, whatever its name.
    kept = [line for line in lines[start + 1 : end] if line.split("=", 1)[0].rstrip() not in values]
    # Blank lines that separate this section from the next stay behind it.
    blanks = len(kept) - len("".join(kept).rstrip().splitlines()) if "".join(kept).strip() else len(kept)
    body, tail = (kept[:-blanks], kept[-blanks:]) if blanks else (kept, [])
    if body and not body[-1].endswith("\n"):
        body = [*body[:-1], body[-1] + "\n"]
    return [*lines[: start + 1], *written, *body, *tail, *lines[end:]]
