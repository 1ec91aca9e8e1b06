"""A supervisor kept ready: its imports, a quarter of a second of work, are done before a job arrives.

For whoever starts hosts (`cluster`). A standby that is never used ends when the process that holds it ends.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

COMMAND = (sys.executable, "-P", "-m", "clary.host", "--wait")


class Standby:
    """Keeps one supervisor waiting. Safe to use from several threads.

    Arguments:
        environment: of the supervisors; `CLARY_HOST_ID` need not be there, each sets its own.
        command: what runs a supervisor that waits for its folder on standard input.
    """

    def __init__(self, environment: Mapping[str, str], command: Sequence[str] = COMMAND) -> None:
        self._environment, self._command = dict(environment), tuple(command)
        self._lock = threading.Lock()
        self._waiting: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Have one ready; does nothing when one is."""
        with self._lock:
            if self._waiting is None or self._waiting.poll() is not None:
                self._waiting = self._spawn()

    def start(self, folder: Path, before: Callable[[subprocess.Popen[bytes]], None]) -> subprocess.Popen[bytes]:
        """Give a host's folder to a supervisor, and return its process.

        Arguments:
            folder: the host's, with host.json in it.
            before: called with the process before it begins, so that it is on record even if this process dies now.
        """
        with self._lock:
            process, self._waiting = self._waiting, None
        if process is None or process.poll() is not None:
            process = self._spawn()
        before(process)
        assert process.stdin is not None
        process.stdin.write(f"{folder}\n".encode())
        process.stdin.close()
        threading.Thread(target=self.prepare, name="standby", daemon=True).start()
        return process

    def close(self) -> None:
        """End the one that waits."""
        with self._lock:
            if self._waiting is not None and self._waiting.stdin is not None:
                self._waiting.stdin.close()
                self._waiting.wait()
            self._waiting = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            env=self._environment,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
