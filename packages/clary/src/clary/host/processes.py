"""Reading and ending process trees through /proc.

Every process of a host carries `CLARY_HOST_ID` in its environment, so leftovers can be found whoever their parent is.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HOST_ID_VARIABLE = "CLARY_HOST_ID"
CONTAINER_VARIABLE = "CLARY_CONTAINER"  # tells the processes of one of a host's containers from the others'
_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


@dataclass(frozen=True)
class Usage:
    """What a process tree uses now."""

    processes: int
    memory_bytes: int
    cpu_seconds: float


def tree(root: int) -> list[int]:
    """`root` and its descendants, parents before children; empty when `root` is gone."""
    if not (_PROC / str(root)).exists():
        return []
    found = [root]
    for pid in found:
        found.extend(children(pid))
    return found


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    result: list[int] = []
    with suppress(OSError):
        for task in os.scandir(f"/proc/{pid}/task"):
            with suppress(OSError):
                result += [int(word) for word in Path(f"{task.path}/children").read_text().split()]
    return result


def usage(root: int) -> Usage:
    """Memory and processor time of a tree. Memory is the sum of resident sets: shared pages count for each process."""
    memory, cpu = 0, 0.0
    pids = tree(root)
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            memory += int(fields[21]) * _PAGE
            cpu += sum(int(field) for field in fields[11:15]) / _TICKS
    return Usage(len(pids), memory, cpu)


def proportional_memory(root: int) -> int:
    """Memory of a tree with shared pages counted once; dearer to read than `usage`."""
    total = 0
    for pid in tree(root):
        with suppress(OSError, IndexError, ValueError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def stop_recipients(main: int) -> list[int]:
    """Whom a stop order's SIGTERM is for.

    The topmost processes of the tree that handle SIGTERM get it: a shell or a driver that would merely die, and take
    the script with it, is passed over for the script that wants to save its model. When none handles it, `main`.
    """
    handlers: list[int] = []
    level = [main]
    while level:
        below: list[int] = []
        for pid in level:
            if _handles_sigterm(pid):
                handlers.append(pid)
            else:
                below += children(pid)
        level = below
    return handlers or [main]


def of_host(host_id: str, container: str = "") -> list[int]:
    """Every process that carries this host's mark, and the container's where one is named; the caller excepted."""
    marks = {f"{HOST_ID_VARIABLE}={host_id}".encode()}
    if container:
        marks.add(f"{CONTAINER_VARIABLE}={container}".encode())
    found: list[int] = []
    for entry in os.scandir(_PROC):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if marks <= set(Path(f"{entry.path}/environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
    return found


def kill_host(
    host_id: str, seconds: float = 5.0, spare: frozenset[int] = frozenset(), container: str = ""
) -> list[int]:
    """Kill every process of a host, or of one of its containers, and those that it forks meanwhile.

    Returns what is left after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while left := [pid for pid in of_host(host_id, container) if pid not in spare and not _is_zombie(pid)]:
        for pid in left:
            send(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return []


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def exists(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    return (_PROC / str(pid)).exists() and not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return True


def _handles_sigterm(pid: int) -> bool:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & _SIGTERM_BIT)
    return False
