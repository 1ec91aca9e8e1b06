"""A host that ends with what started it: one that a cluster has given up must not go on beside its successor."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

from clary.host import limits, network, processes

if TYPE_CHECKING:
    from pathlib import Path

EXIT_CODE = 114


def end_at_the_end_of(file: int, folder: Path) -> None:
    """End this process and all of its host's when the other end of a pipe is closed. Returns at once.

    Arguments:
        file: the pipe's reading end, of which nobody else reads.
        folder: the host's, with host.json in it.
    """
    threading.Thread(target=_watch, args=(file, folder), name="tie", daemon=True).start()


def _watch(file: int, folder: Path) -> NoReturn:
    while os.read(file, 4096):
        pass
    print("what started this host is gone: ending it", flush=True)
    host_id = str(json.loads((folder / "host.json").read_bytes())["host_id"])
    for pid in reversed(processes.tree(os.getpid())[1:]):
        processes.send(pid, signal.SIGKILL)
    processes.kill_host(host_id)
    limits.remove(host_id)
    network.clean(host_id)
    os._exit(EXIT_CODE)
