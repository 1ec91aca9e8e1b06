"""The server's end of `ray_link`: that process is kept running, and asked from any thread."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from clary.cluster.base import PlacesTaken

COMMAND = (sys.executable, "-P", "-m", "clary.cluster.ray_link")
_LOOK_SECONDS = 6.0  # longer than `ray_link` takes to learn why a host is gone
_SILENCE_SECONDS = 10.0
_LONGEST_SECONDS = 180.0
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)

_log = logging.getLogger(__name__)

Order = Callable[[], tuple[Mapping[str, Any], Mapping[str, str]]]
"""What the process is told first, and its variables beside this process's own; asked before each start."""


class Away(OSError):
    """Ray cannot be reached now."""


class RayProcess:
    """Keeps the process running from now until `close`. Safe to use from several threads.

    Args:
        order: see `Order`; what it raises is a reason to try again later.
        log: where the process's own output goes.
        command: the process.
    """

    def __init__(self, order: Order, log: Path, command: tuple[str, ...] = COMMAND) -> None:
        self._order, self._log_file, self._command = order, log, command
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._connected = self._closed = False
        self._waiting: dict[int, Future[Any]] = {}
        self._number = 0
        self._silent_until = 0.0
        self.problem = "it is being connected to"
        threading.Thread(target=self._run, name="ray", daemon=True).start()

    def look(self, operation: str, **arguments: Any) -> Any:
        """The result of an operation that only looks. A Ray that does not answer soon is not asked for a while.

        Raises:
            Away: Ray cannot be reached, or does not answer.
            OSError: the operation failed; the text says why.
        """
        if time.monotonic() < self._silent_until:
            raise Away("Ray does not answer")
        try:
            return self.call(operation, seconds=_LOOK_SECONDS, **arguments)
        except TimeoutError:
            self._silent_until = time.monotonic() + _SILENCE_SECONDS
            raise Away("Ray does not answer") from None

    def call(
        self, operation: str, *, patience: float = 0.0, seconds: float = _LONGEST_SECONDS, **arguments: Any
    ) -> Any:
        """The result of an operation of `ray_link`.

        Args:
            patience: seconds to wait for Ray while it cannot be reached.
            seconds: to wait for the answer; TimeoutError after them.

        Raises:
            Away: Ray cannot be reached, or was lost meanwhile.
            PlacesTaken: what a start needs is held by others.
            OSError: the operation failed; the text says why.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._connected or self._closed, patience) or self._closed:
                raise Away(f"Ray cannot be reached: {self.problem}")
            assert self._process is not None
            assert self._process.stdin is not None
            self._number += 1
            number, future = self._number, Future[Any]()
            self._waiting[number] = future
            request = {"id": number, "do": operation, "with": arguments}
            try:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            except OSError as error:
                self._waiting.pop(number, None)
                raise Away(f"Ray cannot be reached: {error}") from error
        return future.result(seconds)

    def close(self) -> None:
        """End the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            process = self._process
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def _run(self) -> None:
        failures = 0
        while not self._closed:
            began = time.monotonic()
            try:
                self._serve()
                problem = "its connection was lost"
            except Exception as error:  # noqa: BLE001 (the boundary of the thread: kept as the problem, tried again)
                problem = str(error)
            failures = 0 if time.monotonic() - began > 60 else failures + 1
            with self._changed:
                self._connected = False
                self.problem = problem.strip().splitlines()[-1].strip()  # of a traceback, what it says at last
                lost, self._waiting = self._waiting, {}
            for future in lost.values():
                future.set_exception(Away(f"Ray cannot be reached: {problem}"))
            with self._changed:
                if not self._closed:
                    _log.warning("Ray cannot be reached: %s; trying again", problem)
                self._changed.wait_for(lambda: self._closed, _PAUSES[min(failures, len(_PAUSES) - 1)])

    def _serve(self) -> None:
        """One life of the process; raises what keeps it from connecting."""
        order, variables = self._order()
        own = {name: value for name, value in os.environ.items() if not name.startswith(("CLARY_", "AWS_"))}
        with self._log_file.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                env={**own, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C is the server's to handle
            )
        assert process.stdin is not None
        assert process.stdout is not None
        with self._changed:
            self._process = process
            if self._closed:
                process.kill()
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            first = json.loads(process.stdout.readline() or b'{"error": "the process that speaks with it has ended"}')
            if "error" in first:
                raise OSError(first["error"])
            with self._changed:
                self._connected, self.problem = True, ""
                self._changed.notify_all()
            for line in process.stdout:
                self._answered(json.loads(line))
        finally:
            process.kill()
            process.wait()

    def _answered(self, answer: Mapping[str, Any]) -> None:
        with self._changed:
            future = self._waiting.pop(answer["id"], None)
        if future is None:
            return
        if "error" in answer:
            kind = PlacesTaken if answer["no_room"] else OSError
            future.set_exception(kind(answer["error"]))
        else:
            future.set_result(answer["result"])
