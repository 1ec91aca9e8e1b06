"""A process made by fork: it has its parent's modules from the start, and ends when its parent ends, however that dies.

The parent has no threads and keeps no connection open when it forks.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

Work = Callable[[Callable[[], None]], None]
"""What a process does until SIGTERM. It calls its argument when ready, and raises SystemExit when it cannot be."""

LIFELINE_CUT = 113  # the exit code of a process that has outlived its parent

_PARENTS_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

_log = logging.getLogger(__name__)


class Lifeline:
    """A pipe whose writing end the parent alone holds: its reading end tells every child of the parent's death."""

    def __init__(self) -> None:
        self._held_by_children, self._held_by_parent = os.pipe()

    def watch(self) -> None:
        """In a child: end this process as soon as the parent has ended."""
        os.close(self._held_by_parent)
        threading.Thread(target=self._end_with_parent, name="lifeline", daemon=True).start()

    def _end_with_parent(self) -> NoReturn:
        os.read(self._held_by_children, 1)
        _log.error("the parent process is gone: ending at once")
        os._exit(LIFELINE_CUT)


@dataclass
class Child:
    """A process that was started. `news` is readable when it is ready or has ended."""

    name: str
    pid: int
    news: int
    started: float = field(default_factory=time.monotonic)
    ready: bool = False

    def read_news(self) -> None:
        """Take the news in: whether it is ready."""
        self.ready = bool(os.read(self.news, 1)) or self.ready


def start(name: str, work: Work, lifeline: Lifeline) -> Child:
    """Start a process."""
    news, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)  # one for the child waits until it is not the parent's
    pid = os.fork()
    if pid == 0:
        os.close(news)
        _run(work, lifeline, lambda: _tell(tell))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENTS_SIGNALS)
    os.close(tell)
    return Child(name, pid, news)


def _tell(news: int) -> None:
    os.write(news, b"!")
    os.close(news)


def _run(work: Work, lifeline: Lifeline, ready: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _PARENTS_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENTS_SIGNALS)
        lifeline.watch()
        work(ready)
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - the process's own boundary: nobody above could tell it
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
