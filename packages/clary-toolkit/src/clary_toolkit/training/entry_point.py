"""The entry point: which kind it is, whether its name is safe, and the command that runs it."""

from __future__ import annotations

import os

from clary_toolkit.training.errors import ClientError

PROGRAM, PACKAGE, COMMAND = "program", "package", "command"

# The names that AWS's toolkit takes since 5.1: nothing that a shell or the interpreter could read as more than a path
# below the code folder. (No regular expression: compiling it would cost each job a millisecond.)
_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-/")
_EXAMPLE = "Set `entry_point` (hyperparameter sagemaker_program) to a path in your source directory, such as train.py."


def check_name(name: str) -> None:
    """Raise ClientError unless `name` is a plain relative path that stays in the code folder."""
    if not name:
        raise ClientError("No entry point was given. " + _EXAMPLE)
    if not _ALLOWED.issuperset(name) or name[0] in "+-/" or name.endswith("/") or "//" in name:
        raise ClientError(
            "The entry point {!r} is not usable as a path: only letters, digits and . _ + - / may stand in it, and it "
            "may not begin with - or /. {}".format(name, _EXAMPLE)
        )
    if any(part in (".", "..") for part in name.split("/")):
        raise ClientError("The entry point {!r} has a segment . or .. in it. {}".format(name, _EXAMPLE))


def kind_of(name: str, code_folder: str) -> str:
    """A shell script or other executable (COMMAND), a Python file (PROGRAM) or, beside a setup.py, a PACKAGE."""
    if name.endswith(".sh"):
        return COMMAND
    if os.path.exists(os.path.join(code_folder, "setup.py")):
        return PACKAGE
    return PROGRAM if name.endswith(".py") else COMMAND


def locate(name: str, code_folder: str) -> str:
    """The real path of the entry point. Raises ClientError where it leads out of the code folder or is not there."""
    root = os.path.realpath(code_folder)
    path = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath([root, path]) != root:
        raise ClientError("The entry point {!r} leads out of the source directory. {}".format(name, _EXAMPLE))
    if not os.path.exists(path):
        there = sorted(os.listdir(root))
        listing = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "") if there else "nothing"
        raise ClientError("The entry point {!r} is not in the source directory, which holds: {}.".format(name, listing))
    return path


def command(name: str, kind: str, python: str, arguments: list[str]) -> list[str]:
    """The command line, run in the code folder, that starts the entry point."""
    if kind == PACKAGE:
        return [python, "-m", name[:-3] if name.endswith(".py") else name] + arguments
    if kind == PROGRAM:
        return [python, "--", name] + arguments
    import shlex

    return ["/bin/sh", "-c", "./{} {}".format(shlex.quote(name), " ".join(shlex.quote(word) for word in arguments))]
