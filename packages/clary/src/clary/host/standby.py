"""A supervisor kept ready: its imports, a quarter of a second of work, are done before a job arrives.

For whoever starts hosts (`cluster`). A standby that is never used ends when the process that holds it ends.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

COMMAND = (sys.executable, "-P", "-m", "clary.host", "--wait")
TIED_COMMAND = (*COMMAND, "--tied")


class Starter(Protocol):
    """What starts supervisors."""

    def prepare(self) -> None:
        """Have one ready."""
        ...

    def start(self, folder: Path, before: Callable[[subprocess.Popen[bytes]], None]) -> subprocess.Popen[bytes]:
        """Give a host's folder to a supervisor, after `before` was called with it, and return its process."""
        ...

    def close(self) -> None:
        """End one that waits."""
        ...


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
                self._waiting = _spawn(self._command, self._environment)

    def start(self, folder: Path, before: Callable[[subprocess.Popen[bytes]], None]) -> subprocess.Popen[bytes]:
        """Give a host's folder to a supervisor, and return its process.

        Arguments:
            folder: the host's, with host.json in it.
            before: called with the process before it begins, so that it is on record even if this process dies now.
        """
        with self._lock:
            process, self._waiting = self._waiting, None
        if process is None or process.poll() is not None:
            process = _spawn(self._command, self._environment)
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


class Tied:
    """Starts supervisors that end, each with all that is its host's, when this process ends, in whatever way.

    What ties one is its standard input, which stays open for as long as this process lives. For a process with one
    host: a first supervisor can be got ready, none is after it. Safe to use from several threads.

    Arguments:
        environment: of the supervisors.
        command: what runs one that waits for its folder on standard input, and ends at the input's end.
    """

    def __init__(self, environment: Mapping[str, str], command: Sequence[str] = TIED_COMMAND) -> None:
        self._environment, self._command = dict(environment), tuple(command)
        self._lock = threading.Lock()
        self._waiting: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> None:
        """Have one ready."""
        with self._lock:
            self._waiting.append(_spawn(self._command, self._environment))

    def start(self, folder: Path, before: Callable[[subprocess.Popen[bytes]], None]) -> subprocess.Popen[bytes]:
        """Give a host's folder to a supervisor, after `before` was called with it, and return its process."""
        with self._lock:
            process = self._waiting.pop() if self._waiting else _spawn(self._command, self._environment)
        before(process)
        assert process.stdin is not None
        process.stdin.write(f"{folder}\n".encode())
        process.stdin.flush()
        return process

    def close(self) -> None:
        """End one that waits."""
        with self._lock:
            for process in self._waiting:
                process.kill()
                process.wait()
            self._waiting.clear()


def _spawn(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
