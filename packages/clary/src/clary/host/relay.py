"""Carries connections from a host's network namespace to a server on this machine's loopback."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_CHUNK = 256 * 1024


def serve(listener_file: int, port: int) -> None:
    """Accept on a listening socket, wherever it was made, and join each connection to 127.0.0.1:`port` out here.

    Returns at once; the threads end with the process.
    """
    threading.Thread(target=_accept, args=(listener_file, port), name=f"relay-{port}", daemon=True).start()


def _accept(listener_file: int, port: int) -> None:
    with socket.socket(fileno=listener_file) as listener:
        while True:
            inside, _ = listener.accept()
            threading.Thread(target=_join, args=(inside, port), daemon=True).start()


def _join(inside: socket.socket, port: int) -> None:
    try:
        outside = socket.create_connection(("127.0.0.1", port), timeout=10)
    except OSError:
        inside.close()
        return
    outside.settimeout(None)
    for end in (inside, outside):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = threading.Thread(target=_copy, args=(outside, inside), daemon=True)
    back.start()
    _copy(inside, outside)
    back.join()
    inside.close()
    outside.close()


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            destination.sendall(data)
    with suppress(OSError):
        destination.shutdown(socket.SHUT_WR)
