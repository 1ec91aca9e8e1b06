"""Reaches into the network of a container that an engine made: `python -m clary.host.container_link` runs there.

A container has a loopback of its own. For it to reach Clary, which listens on this machine's, sockets are made inside
that listen on the same ports, and what they accept is joined to Clary out here (`let_out`). A server without any
network is reached the other way round: a process inside joins what a Unix socket out here accepts to it (`let_in`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from clary.host.relay import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_SECONDS = 30.0


class NoLink(Exception):
    """The container's network cannot be entered; the message says why."""


def let_out(pid: int, ports: Iterable[int], *, rootless: bool) -> list[Callable[[], None]]:
    """Make these ports of this machine's loopback answer inside a container too; returns what ends that.

    Arguments:
        pid: a process of the container.
        ports: of 127.0.0.1.
        rootless: whether the container has a user namespace, which is ours.
    """
    wanted = sorted(ports)
    if not wanted:
        return []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(_SECONDS)
        words = ["listen", str(theirs.fileno()), *map(str, wanted)]
        try:
            inside = subprocess.Popen(
                _entering(pid, words, rootless=rootless),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:  # util-linux's programs are not there
            raise NoLink(str(error)) from error
        theirs.close()
        try:
            _, files, _, _ = socket.recv_fds(ours, 1, len(wanted))
        except OSError as error:
            inside.kill()
            raise NoLink(str(error)) from error
        finally:
            _, said = inside.communicate()
    if len(files) != len(wanted):
        for file in files:
            os.close(file)
        raise NoLink(said.decode("utf-8", "replace").strip().rpartition("\n")[2] or "no reason was given")
    return [serve(file, port) for file, port in zip(files, wanted, strict=True)]


def let_in(pid: int, path: Path, port: int, *, rootless: bool) -> Callable[[], None]:
    """Make a Unix socket that is joined to a port of a container's loopback; returns what ends that.

    Arguments:
        pid: a process of the container.
        path: of the socket.
        port: on which the container's server listens.
        rootless: whether the container has a user namespace, which is ours.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        try:
            inside = subprocess.Popen(
                _entering(pid, ["serve", str(listener.fileno()), str(port)], rootless=rootless),
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise NoLink(str(error)) from error

    def close() -> None:
        inside.kill()
        inside.wait()

    return close


def _entering(pid: int, words: list[str], *, rootless: bool) -> list[str]:
    namespaces = ["--user", "--preserve-credentials", "--net"] if rootless else ["--net"]
    helper = [sys.executable, "-m", __name__, *words]
    return ["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", str(pid), *namespaces, "--", *helper]


def _main(action: str, file: int, ports: list[int]) -> None:
    if action == "listen":
        listeners = [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]
        with socket.socket(fileno=file) as connection:
            socket.send_fds(connection, [b"1"], [listener.fileno() for listener in listeners])
        return
    import threading

    serve(file, ports[0])
    threading.Event().wait()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]])
