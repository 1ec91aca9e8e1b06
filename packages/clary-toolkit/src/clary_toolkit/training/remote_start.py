"""How one host of a job starts a program on another: what ssh does on AWS, without its server, keys or accounts.

A host that takes part listens on a port of its own and runs what the first host asks it to. Only who knows the job's
token is heard; the platform gives it to the job's hosts and to nobody else.

    python -m clary_toolkit.training.remote_start HOST COMMAND…    what mpirun calls in place of ssh
"""

from __future__ import annotations

import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from clary_toolkit.training import log, process, rank_ends
from clary_toolkit.training.errors import ClientError, StoppedBeforeStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PORT = 7890
"""Where hosts listen that have an address of their own; see `cluster_ports`."""
PORT_VARIABLE = "CLARY_LAUNCH_PORTS"
"""For the agent: a JSON object of ports by host."""
TOKEN_VARIABLE = "CLARY_LAUNCH_TOKEN"
"""The job's secret, set by the platform on every host of a job that has several."""

_PATIENCE_SECONDS = 3600.0  # as AWS's master waits for its workers
_LONGEST_REQUEST = 1 << 20
_ENDS_SECONDS = 5.0
# Which ranks have to end after SIGTERM. 120 s after a stop the platform kills what is left.
_STOPPED_SECONDS, _FAILED_SECONDS = 110.0, 10.0


class Listener:
    """A host that runs programs for the job's first host, until that one says that it has done.

    Args:
        host: its own name, at whose address it listens.
        port: the port.
        token: the job's secret.
        environ: the whole environment of what is run.
        folder: where it runs.
    """

    def __init__(self, host: str, port: int, token: str, environ: Mapping[str, str], folder: str) -> None:
        self._token, self._folder = token, folder
        self._ends = tempfile.mkdtemp(prefix="ranks-")
        self._environ = {**environ, rank_ends.FOLDER_VARIABLE: self._ends}
        self._ended = threading.Event()
        self._greeted = threading.Event()
        self._closed = threading.Event()
        self._lost = False
        try:
            self._socket = socket.socket()
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((socket.gethostbyname(host), port))
            self._socket.listen(64)
        except OSError as error:
            raise ClientError("{} cannot listen on its port {}: {}".format(host, port, error)) from error
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        """Return when the first host has done.

        A SIGTERM goes to the ranks that run here; the first host has one too, and waits for them all to end.

        Raises ClientError when the first host never came or went away before it had done, StoppedBeforeStart on SIGTERM
        before it came.
        """
        deadline = time.monotonic() + patience_seconds
        told = False
        while not self._ended.wait(0.2):
            if self._greeted.is_set():
                told = told or (process.is_stopping() and process.terminate_ranks())
                continue
            if process.is_stopping():
                raise StoppedBeforeStart("The job was stopped (SIGTERM) before the first host had started its script.")
            if time.monotonic() > deadline:
                raise ClientError("The job's first host did not call this one within {:.0f} s".format(patience_seconds))
        _let_ranks_end(told)
        self.close()
        if self._lost:
            raise ClientError("The job's first host went away before its script had ended.")

    def first_has_done(self, within_seconds: float) -> bool:
        """Whether the first host says within this time that it has done, or is gone."""
        return self._ended.wait(within_seconds)

    def close(self) -> None:
        """Take part no more: the first host sees that this one has ended."""
        self._closed.set()
        self._socket.close()
        shutil.rmtree(self._ends, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed: the job is done
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            request = _read(lines)
            if not hmac.compare_digest(str(request.get("token", "")).encode(), self._token.encode()):
                return
            if "run" in request:
                _answer(connection, {"exit": self._run(str(request["run"]), lines)})
            elif request.get("ends"):
                _answer(connection, {"ends": rank_ends.of_this_host(self._ends)})
            elif request.get("hold"):
                self._greeted.set()
                _answer(connection, {"held": True})
                self._lost = not _read(lines).get("done")
                self._ended.set()
                self._closed.wait()  # the connection lasts as long as this host takes part

    def _run(self, command: str, lines: Any) -> int:
        child = subprocess.Popen(
            ["/bin/sh", "-c", command], cwd=self._folder, env=self._environ, start_new_session=True
        )

        def end_with_the_caller() -> None:
            if not lines.readline() and child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)

        threading.Thread(target=end_with_the_caller, daemon=True).start()
        return child.wait()


def _let_ranks_end(told: bool) -> None:
    """Give this host's ranks, told once, time to end: with this process all others here end."""
    began = time.monotonic()
    if not told and not process.terminate_ranks():
        return
    while process.ranks_here():
        if time.monotonic() - began > (_STOPPED_SECONDS if process.is_stopping() else _FAILED_SECONDS):
            return
        time.sleep(0.05)


class Held:
    """The connections of the first host to the others: while they last, those run what it asks for.

    Args:
        ports: by host.
        token: the job's secret.
    """

    def __init__(self, ports: Mapping[str, int], token: str, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._ports, self._token = ports, token
        self._connections = [
            _call(host, port, {"token": token, "hold": True}, patience_seconds) for host, port in ports.items()
        ]
        self._untold = list(self._connections)

    def ends(self, patience_seconds: float = _ENDS_SECONDS) -> tuple[list[rank_ends.RankEnd], list[str]]:
        """How the ranks of these hosts ended, and the hosts of which nothing can be heard any more."""
        ends: list[rank_ends.RankEnd] = []
        lost: list[str] = []
        for host, port in self._ports.items():
            try:
                with _call(host, port, {"token": self._token, "ends": True}, patience_seconds) as connection:
                    connection.settimeout(_ENDS_SECONDS)
                    with connection.makefile("rb") as lines:
                        ends += rank_ends.parsed(_read(lines)["ends"])
            except (ClientError, KeyError):
                lost.append(host)
        return ends, lost

    def outlast(self) -> None:
        """Tell them that the script has ended, and return when they have ended, too, or on SIGTERM."""
        self._tell()
        for connection in self._connections:
            connection.settimeout(0.2)
            while not process.is_stopping() and not _is_closed(connection):
                pass

    def release(self) -> None:
        """Tell them that the script has ended."""
        self._tell()
        for connection in self._connections:
            connection.close()

    def _tell(self) -> None:
        untold, self._untold = self._untold, []
        for connection in untold:
            try:
                _answer(connection, {"done": True})
            except OSError as error:
                log.warning("A host of the job could not be told that the script has ended: {}".format(error))


def token_of(variables: Mapping[str, str], wanting: str) -> str:
    """The job's secret. Raises ClientError, which says that `wanting` it is in vain, where there is none."""
    token = variables.get(TOKEN_VARIABLE, "")
    if not token:
        raise ClientError(
            "{} the job's secret in the variable {}, which this platform has not set.".format(wanting, TOKEN_VARIABLE)
        )
    return token


def run_there(host: str, command: str, environ: Mapping[str, str], patience_seconds: float = 30.0) -> int:
    """Run a shell command on another host of the job; its exit code. Its output is that host's."""
    port = json.loads(environ[PORT_VARIABLE])[host]
    request: dict[str, object] = {"token": environ[TOKEN_VARIABLE], "run": command}
    with _call(host, port, request, patience_seconds) as connection:
        with connection.makefile("rb") as lines:
            return int(_read(lines).get("exit", 255))


def _call(host: str, port: int, request: dict[str, object], patience_seconds: float) -> socket.socket:
    """A connection on which the request was sent; waits until the host listens."""
    deadline = time.monotonic() + patience_seconds
    pause = 0.05
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=10)
            connection.settimeout(None)
            _answer(connection, request)
            return connection
        except OSError as error:
            if process.is_stopping():
                raise StoppedBeforeStart("The job was stopped (SIGTERM) before its script started.") from error
            if time.monotonic() > deadline:
                raise ClientError("The host {!r} cannot be reached on port {}: {}".format(host, port, error)) from error
        time.sleep(pause)
        pause = min(pause * 2, 1.0)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other end has gone, as far as is known within the connection's timeout."""
    try:
        return not connection.recv(4096)
    except socket.timeout:
        return False
    except OSError:
        return True


def _answer(connection: socket.socket, message: Mapping[str, object]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _read(lines: Any) -> dict[str, Any]:
    """The next message; an empty one where there is none that can be read."""
    try:
        return json.loads(lines.readline(_LONGEST_REQUEST))
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    sys.exit(run_there(sys.argv[1], " ".join(sys.argv[2:]), os.environ))
