"""Keeps one container of a replica serving: its start, its health, its restarts, its end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clary.host import ending
from clary.host.ping import is_socket, ping
from clary.host.spec import Ending

if TYPE_CHECKING:
    from clary.host.control import Control
    from clary.host.report import Reporter
    from clary.host.serving_process import ServingProcess


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds."""

    ping: float = 2.0
    between_pings_at_start: float = 0.1
    between_pings: float = 5.0
    hung: float = 70.0  # pings fail for longer than any invocation may last
    settle: float = 0.5  # after a stop order, until the router has seen that the replica drains
    stop: float = 30.0
    restarts: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # pauses; one more death is the end
    recovered: float = 60.0  # having been well for so long, its restarts are forgotten
    model_wait: float = 55.0  # a request for its model: an answer is there before boto3 gives up, after 60
    model_load: float = 360.0


class _Outcome(Enum):
    """Why a run of the server is over."""

    ORDERED = "the server no longer wants the replica"
    DIED = "it exited"
    NEVER_WELL = "it did not pass the ping in time"
    HUNG = "its ping failed for too long"
    EXCESS = "it passed a limit"


@dataclass(frozen=True)
class Kept:
    """One container that is to be kept serving.

    `title` names it at the beginning of a sentence; `start` starts a run of it that may listen on a port; `wanted` is
    what the server, or the end of a sibling, wants of it; `serves_at` is told where it serves, or None, and what has
    happened; `before_stop` waits until what is on its way to it is through.
    """

    title: str
    variant: str
    startup_seconds: int
    socket: Path
    start: Callable[[int], ServingProcess]
    wanted: Callable[[], Literal["run", "stop", "abort"]]
    serves_at: Callable[[str | None, str], None]
    before_stop: Callable[[], None]


class ContainerKeeper:
    """Runs a container again and again until it is not wanted, or there is no hope for it.

    `run` is called in a thread that lives as long as the container may: the container's life depends on it.
    """

    def __init__(self, kept: Kept, control: Control, reporter: Reporter, patience: Patience) -> None:
        self._kept, self._control, self._reporter, self._patience = kept, control, reporter, patience
        self._restarts = 0
        self._well_since: float | None = None
        self._was_ready = False
        self._last_ping = ""

    def run(self) -> Ending:
        """To the end of the container."""
        while True:
            self._kept.socket.unlink(missing_ok=True)
            self._well_since = None
            port = free_port()
            process = self._kept.start(port)
            for text in process.notices:
                self._reporter.notice(text)
            outcome = self._watch(process, process.address or f"127.0.0.1:{port}")
            if outcome is _Outcome.ORDERED:
                return self._stop(process)
            process.finish()
            if (problem := process.problem()) and outcome is _Outcome.DIED:
                return Ending(cause="InternalError", message=f"{problem}: {' '.join(process.tail[-3:])}")
            last = self._restarts >= len(self._patience.restarts)
            if not self._was_ready or last:
                return self._failed(process, outcome)
            pause = self._patience.restarts[self._restarts]
            self._restarts += 1
            what = self._what_happened(process, outcome)
            self._kept.serves_at(None, what)
            self._reporter.notice(f"{what}; it is started again.")
            self._control.wait(lambda: self._kept.wanted() != "run", pause)
            if self._kept.wanted() != "run":
                return Ending(cause="Stopped")

    def _watch(self, process: ServingProcess, port_address: str) -> _Outcome:
        """Ping the server until something is to be done about it."""
        began = time.monotonic()
        address: str | None = None
        failing_since: float | None = None
        wanted = self._kept.wanted
        while True:
            pause = self._patience.between_pings if address else self._patience.between_pings_at_start
            self._control.wait(
                lambda: wanted() != "run" or process.exit_code is not None or process.excess is not None, pause
            )
            if wanted() != "run":
                return _Outcome.ORDERED
            if process.excess is not None:
                return _Outcome.EXCESS
            if process.exit_code is not None:
                return _Outcome.DIED
            asked = address or (str(self._kept.socket) if is_socket(self._kept.socket) else port_address)
            self._last_ping = ping(asked, self._patience.ping)
            now = time.monotonic()
            if not self._last_ping:
                failing_since = None
                if address is None:
                    address = asked
                    self._well_since = now
                    self._was_ready = True
                    self._kept.serves_at(address, f"answered its ping {now - began:.1f} s after the start")
                elif self._well_since is not None and now - self._well_since > self._patience.recovered:
                    self._restarts = 0
            elif address is None:
                if now - began > self._kept.startup_seconds:
                    return _Outcome.NEVER_WELL
            else:
                failing_since = failing_since or now
                if now - failing_since > self._patience.hung:
                    return _Outcome.HUNG

    def _stop(self, process: ServingProcess) -> Ending:
        """Let the router see that no more is to be sent here, let the server finish, and end it."""
        if self._kept.wanted() == "stop":
            self._control.wait(lambda: self._kept.wanted() == "abort", self._patience.settle)
            self._kept.before_stop()
        if self._kept.wanted() == "stop":
            process.stop(self._patience.stop)
        else:
            process.finish()
        return Ending(cause="Stopped", exit_code=process.exit_code)

    def _failed(self, process: ServingProcess, outcome: _Outcome) -> Ending:
        code = process.exit_code
        subject = f"{self._kept.title} for production variant {self._kept.variant}"
        sentence = (
            f"{subject} ended again and again."
            if self._was_ready
            else f"{subject} did not pass the ping health check. Please check CloudWatch logs for this endpoint."
        )
        return Ending(
            cause="OutOfMemory" if process.out_of_memory else "ScriptFailed",
            exit_code=code,
            signal=ending.signal_name(code) if code is not None and outcome is _Outcome.DIED else None,
            last_lines=ending.why(process.tail),
            message=f"{sentence} {self._what_happened(process, outcome)}.",
        )

    def _what_happened(self, process: ServingProcess, outcome: _Outcome) -> str:
        """In words that are a sentence but for its full stop."""
        if process.excess is not None:
            return process.excess.sentence.removesuffix(".")
        if process.out_of_memory:
            return "The server was ended because it used more memory than the instance has"
        if outcome is _Outcome.DIED:
            name = ending.signal_name(process.exit_code or 0)
            return f"The server exited with code {process.exit_code}{f' ({name})' if name else ''}"
        if outcome is _Outcome.NEVER_WELL:
            return f"Its ping {self._last_ping}, {self._kept.startup_seconds} seconds after its start"
        return f"Its ping {self._last_ping}, for over {self._patience.hung:g} seconds"


def free_port() -> int:
    """A port of loopback that nothing listens on: replicas on one machine share its network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
