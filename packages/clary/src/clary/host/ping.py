"""The health check of a serving container: GET /ping answers 200 within two seconds.

Source: "Use your own inference code with hosting services", section "How your container should respond to health
check (ping) requests".
"""

from __future__ import annotations

import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

_FINISH_SECONDS = 0.25
_REQUEST = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def ping(address: str, seconds: float) -> str:
    """Why a server is not well, in words that continue "its ping"; empty when it is.

    Arguments:
        address: a Unix socket's path, or host:port.
        seconds: within which the answer's first line must be there.
    """
    deadline = time.monotonic() + seconds
    try:
        with _connect(address, seconds) as connection:
            connection.sendall(_REQUEST)
            head = b""
            while b"\r\n" not in head and len(head) < 4096:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                data = connection.recv(4096)
                if not data:
                    break
                head += data
            _let_it_finish(connection)
    except TimeoutError:
        return f"was not answered within {seconds:g} seconds"
    except OSError as error:
        return f"could not be sent: {error.strerror or error}"
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return "was not answered in HTTP"
    return "" if words[1] == b"200" else f"was answered with status {words[1].decode()}"


def is_socket(path: Path) -> bool:
    """Whether a Unix socket lies at a path. A link to one elsewhere, which a container might put there, is none."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _let_it_finish(connection: socket.socket) -> None:
    """Wait a moment for the other end to close: some servers write an empty body after the head, and log that they
    could not."""
    connection.settimeout(_FINISH_SECONDS)
    with suppress(OSError):
        while connection.recv(4096):
            pass


def _connect(address: str, seconds: float) -> socket.socket:
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)
