"""Carries connections between a host's network namespace and this machine: from one listening socket to one address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

_CHUNK = 256 * 1024


def serve(listener_file: int, port: int) -> Callable[[], None]:
    """Accept on a listening socket, wherever it was made, and join each connection to 127.0.0.1:`port` from here.

    Returns at once; the threads end with the process, or when what is returned is called.
    """
    listener = socket.socket(fileno=listener_file)
    threading.Thread(target=_accept, args=(listener, port), name=f"relay-{port}", daemon=True).start()

    def close() -> None:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which a mere close would not
        listener.close()

    return close


def _accept(listener: socket.socket, port: int) -> None:
    while True:
        try:
            inside, _ = listener.accept()
        except OSError:
            return  # closed
        threading.Thread(target=_join, args=(inside, port), daemon=True).start()


def _join(inside: socket.socket, port: int) -> None:
    try:
        outside = socket.create_connection(("127.0.0.1", port), timeout=10)
    except OSError:
        inside.close()
        return
    outside.settimeout(None)
    for end in (inside, outside):
        if end.family != socket.AF_UNIX:
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
