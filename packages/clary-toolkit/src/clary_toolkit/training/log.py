"""The launcher's own lines on standard error, in the form AWS's toolkit gives them.

The logging module is not used: loading it costs every job several milliseconds before its script starts.
"""

from __future__ import annotations

import sys
import time

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
_NAMES = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR"}
_threshold = INFO


def configure(level: int) -> None:
    """Leave out lines below `level` (the hyperparameter `sagemaker_container_log_level`)."""
    global _threshold
    _threshold = level


def debug(message: str) -> None:
    _write(DEBUG, message)


def info(message: str) -> None:
    _write(INFO, message)


def warning(message: str) -> None:
    _write(WARNING, message)


def error(message: str) -> None:
    _write(ERROR, message)


def _write(level: int, message: str) -> None:
    if level < _threshold:
        return
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    line = "{},{:03d} sagemaker-training-toolkit {:<8} {}\n".format(
        stamp, int(now * 1000) % 1000, _NAMES[level], message
    )
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads the log any more; the script is still to be run to its end
