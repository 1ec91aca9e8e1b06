"""The server's own lines on standard error; a process that reads them gets each as one write."""

from __future__ import annotations

import sys
import time
import traceback

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
_NAMES = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR"}
_LONGEST = 300  # characters of a refusal
_threshold = INFO


def configure(level: int) -> None:
    """Leave out lines below `level` (SAGEMAKER_CONTAINER_LOG_LEVEL)."""
    global _threshold
    _threshold = level


def is_debug() -> bool:
    """Whether each request is to have a line."""
    return _threshold <= DEBUG


def debug(message: str) -> None:
    _write(DEBUG, message)


def info(message: str) -> None:
    _write(INFO, message)


def warning(message: str) -> None:
    _write(WARNING, message)


def error(message: str) -> None:
    _write(ERROR, message)


def hint(refused: str, advice: str) -> None:
    """What helps against a request's refusal, beside the refusal's own words; nothing where there is no advice."""
    if advice:
        _write(INFO, "A request was refused ({}). {}".format(refused.split("\n", 1)[0][:_LONGEST], advice))


def exception(message: str) -> str:
    """An error line with the traceback of the exception being handled, which is returned."""
    trace = traceback.format_exc()
    _write(ERROR, message + "\n" + trace.rstrip())
    return trace


def _write(level: int, message: str) -> None:
    if level < _threshold:
        return
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    try:
        sys.stderr.write("{},{:03d} serve {:<8} {}\n".format(stamp, int(now * 1000) % 1000, _NAMES[level], message))
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody reads the log any more; requests are to be answered all the same
