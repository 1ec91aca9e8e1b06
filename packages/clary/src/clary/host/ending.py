"""From what was seen of a job's command to its `Ending`: the cause, and the words that say why."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Literal

from clary.host.spec import Ending

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_FAILURE_CHARACTERS = 1024
_LAST_LINES = 20
_TRACEBACK_LINES = 40
_TRACEBACK = "Traceback (most recent call last):"

Cause = Literal["Stopped", "MaxRuntimeExceeded", "OutOfMemory", "ClientError", "InternalError"]


def derive(
    *,
    exit_code: int,
    ended_by: Cause | None,
    message: str,
    out_of_memory_kills: int,
    failure_file: Path,
    tail: Sequence[str],
    peak_memory: int | None,
) -> Ending:
    """The ending of a command that ran.

    Arguments:
        exit_code: the command's, or 128 + n when signal n killed it.
        ended_by: why the host itself ended the command, if it did.
        message: the sentence for a ClientError or InternalError.
        out_of_memory_kills: how many processes the kernel killed for memory.
        failure_file: where the job may have said why it failed.
        tail: the last lines of output.
        peak_memory: bytes, the most that was seen in use.
    """
    cause = ended_by or "Completed"
    if ended_by is None and exit_code != 0:
        cause = "OutOfMemory" if out_of_memory_kills else "ScriptFailed"
    good = cause in {"Completed", "Stopped", "MaxRuntimeExceeded"}
    return Ending(
        cause=cause,
        exit_code=exit_code,
        signal=signal_name(exit_code),
        failure_text=failure_text(failure_file),
        last_lines=() if good else why(tail),
        message=message,
        peak_memory_bytes=peak_memory,
    )


def signal_name(exit_code: int) -> str | None:
    """The signal that an exit code over 128 stands for, for instance "SIGKILL" for 137."""
    try:
        return signal.Signals(exit_code - 128).name if exit_code > 128 else None
    except ValueError:
        return None


def failure_text(path: Path) -> str:
    """The first 1024 characters of the failure file; empty when there is none. Links are not followed."""
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        text = file.read(4 * MAX_FAILURE_CHARACTERS + 4).decode("utf-8", "replace")
    return text[:MAX_FAILURE_CHARACTERS].replace("\x00", "\ufffd")


def why(tail: Sequence[str]) -> tuple[str, ...]:
    """The last Python traceback in some lines, or else the last lines themselves."""
    lines = [line.rpartition("\r")[2].rstrip() for line in tail]
    starts = [index for index, line in enumerate(lines) if line.strip().endswith(_TRACEBACK)]
    if starts:
        start = starts[-1]
        indent = len(lines[start]) - len(lines[start].lstrip())
        end = start + 1
        while end < len(lines) and not _ends_traceback(lines[end], indent):
            end += 1
        traceback = lines[start : end + 1]
        if len(traceback) > _TRACEBACK_LINES:
            traceback = [traceback[0], "  …", *traceback[2 - _TRACEBACK_LINES :]]
        return tuple(traceback)
    return tuple([line for line in lines if line][-_LAST_LINES:])


def _ends_traceback(line: str, indent: int) -> bool:
    """The line that names the exception stands as far left as the traceback's first."""
    return bool(re.match(rf"\s{{{indent}}}[A-Za-z_][\w.]*(:|$)", line))
