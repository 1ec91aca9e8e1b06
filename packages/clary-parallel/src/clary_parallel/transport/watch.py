"""Who is stuck: every process says what it does on a board that rank 0 keeps, and watches its own waits.

MPI cannot leave a call in which a peer never arrives, nor say who is missing. So a thread of each process looks at the
call that the process is in; when it lasts longer than the patience, it asks the board what the others do, prints a
message that names them, and ends the process. The board is a small TCP server in rank 0, apart from MPI, so that it
answers while MPI is stuck; without it (no connection) the message only lacks the others' state.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from clary_parallel.transport.base import STUCK_EXIT_CODE


@dataclass(frozen=True)
class Doing:
    """A call that a thread is in. `number` counts the group's collectives; 0 for a message."""

    call: str
    group: str
    number: int
    peers: tuple[int, ...]
    since: float


class Watch:
    """The watching thread of one process. Peers are world ranks; `roles` says what messages call them besides."""

    def __init__(self, rank: int, patience: float, board: tuple[str, int, str] | None) -> None:
        self.rank = rank
        self.patience = patience
        self.roles: dict[int, str] = {}
        self._board = board
        self._inside: dict[int, Doing] = {}  # By thread.
        self._begun: dict[str, int] = {}  # How many collectives of each group this process began.
        self._last = "nothing yet"
        self._left = time.monotonic()
        self._stop = threading.Event()
        self._connection: socket.socket | None = None
        self._lines: Any = None
        self._tell()
        threading.Thread(target=self._run, daemon=True, name="clary_parallel watch").start()

    @contextlib.contextmanager
    def inside(self, call: str, group: str, peers: tuple[int, ...], counted: bool) -> Generator[None]:
        """Around each call that may wait: which group's, and on whom it waits."""
        number = 0
        if counted:
            number = self._begun[group] = self._begun.get(group, 0) + 1
        thread = threading.get_ident()
        self._inside[thread] = Doing(call, group, number, peers, time.monotonic())
        try:
            yield
        finally:
            self._inside.pop(thread, None)  # Gone, if a call was left without its end and the thread made others.
            self._last, self._left = call, time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(min(1.0, self.patience / 8)):
            self._tell()
            doing = self._longest()
            if doing is not None and time.monotonic() - doing.since > self.patience:
                end_process(self._message(doing), STUCK_EXIT_CODE)

    def _longest(self) -> Doing | None:
        return min(list(self._inside.values()), key=lambda doing: doing.since, default=None)

    def _message(self, doing: Doing) -> str:
        states = self._ask()
        waiting = f"rank {self.rank} waited {self.patience:g} s in {doing.call}"
        if states is None:
            return f"{waiting} for rank {_listed(doing.peers)} (their state is unknown: rank 0's board is gone)"
        late = [
            rank
            for rank in doing.peers
            if not doing.number or states.get(rank, {"begun": {}})["begun"].get(doing.group, 0) < doing.number
        ]
        # All have come to the call, so one of them must have stopped in the middle of it.
        late = late or [rank for rank in doing.peers if states.get(rank, {"age": 1e9})["age"] > self.patience / 2]
        told = "; ".join(_described(self._named(rank), states.get(rank)) for rank in late)
        return f"{waiting} for rank {_listed(tuple(late) or doing.peers)}. {told}".rstrip()

    def _named(self, rank: int) -> str:
        return f"{rank} ({self.roles[rank]})" if rank in self.roles else str(rank)

    def _tell(self) -> None:
        doing = self._longest()
        since = self._left if doing is None else doing.since
        state = {
            "call": None if doing is None else doing.call,
            "last": self._last,
            "for": round(time.monotonic() - since, 1),
            "begun": dict(self._begun),
        }
        self._say({"rank": self.rank, "state": state})

    def _ask(self) -> dict[int, Any] | None:
        if not self._say({"ask": True}):
            return None
        try:
            line = self._lines.readline()
            return {int(rank): state for rank, state in json.loads(line).items()}
        except (OSError, ValueError):
            return None

    def _say(self, message: dict[str, Any]) -> bool:
        if self._board is None:
            return False
        host, port, token = self._board
        try:
            if self._connection is None:
                self._connection = socket.create_connection((host, port), timeout=2)
                self._lines = self._connection.makefile("r")
                self._connection.sendall(token.encode() + b"\n")
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return False
        return True


def start_board(host: str) -> tuple[int, str]:
    """Start the board in this process; return its port and the token that its clients must show."""
    token = secrets.token_hex(16)
    states: dict[int, tuple[float, Any]] = {}

    class Client(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if not secrets.compare_digest(self.rfile.readline(100).strip(), token.encode()):
                return
            for line in self.rfile:
                message = json.loads(line)
                if "ask" in message:
                    now = time.monotonic()
                    told = {rank: {**state, "age": round(now - seen, 1)} for rank, (seen, state) in states.items()}
                    self.wfile.write(json.dumps(told).encode() + b"\n")
                else:
                    states[message["rank"]] = (time.monotonic(), message["state"])

        def finish(self) -> None:
            with contextlib.suppress(OSError):  # The client is gone: nothing is left to flush.
                super().finish()

    class Board(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that broke off: its last state stays, with its age."""

    board = Board((host, 0), Client)
    threading.Thread(target=board.serve_forever, daemon=True, name="clary_parallel board").start()
    return board.server_address[1], token


def end_process(reason: str, code: int, before: Callable[[], None] | None = None) -> None:
    """Print a reason and end this process at once; the launcher ends the other ranks."""
    print(f"clary_parallel: {reason}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if before is not None:
        before()
    os._exit(code)


def _described(rank: str, state: Any) -> str:
    if state is None:
        return f"Rank {rank} was never heard of"
    doing = f"in {state['call']}" if state["call"] else f"in none of our calls; its last was {state['last']}"
    if state["age"] > 5 + 2 * min(1.0, state["for"]):
        return f"Rank {rank} was last heard of {state['age']:g} s ago, {doing}: its process is stopped or cut off"
    return f"Rank {rank} is alive, and has been for {state['for']:g} s {doing}"


def _listed(ranks: tuple[int, ...]) -> str:
    return ", ".join(map(str, ranks))
