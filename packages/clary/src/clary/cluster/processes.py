"""Processes by Linux's /proc: who one is for certain, who belongs to a host, and ending them all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started: str  # "<boot id>:<clock ticks since boot>"


@dataclass(frozen=True)
class _Stat:
    pid: int
    state: str
    parent: int
    session: int
    started_ticks: str


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a process that lives now."""
    stat = _stat(pid)
    return None if stat is None or stat.state in "ZX" else ProcessIdentity(pid, f"{_boot_id()}:{stat.started_ticks}")


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether this very process still runs. A zombie does not."""
    return identify(identity.pid) == identity


def pids_with_environment(entry: str) -> set[int]:
    """The processes that were started with this "NAME=value" in their environment and that we may look into."""
    wanted = entry.encode()
    return {pid for pid in _all_pids() if wanted in _read_environment(pid).split(b"\0")}


def kill_tree(root: ProcessIdentity | None, belongs: Callable[[], set[int]], deadline_seconds: float) -> set[int]:
    """Kill a process, its session and descendants, and whatever `belongs` names, until nothing is left.

    Args:
        root: the leader of the session, or None when it is not known.
        belongs: looked up again each round, since what is dying may still fork.
        deadline_seconds: when to give up.

    Returns:
        The processes that would not die: in an uninterruptible call to a device, for instance.
    """
    deadline = time.monotonic() + deadline_seconds
    victims: set[int] = set()
    while True:
        stats = {stat.pid: stat for pid in _all_pids() if (stat := _stat(pid)) is not None and stat.state not in "ZX"}
        victims |= belongs()
        if root is not None:
            if is_alive(root):
                victims.add(root.pid)
            # A number that another process bears by now is another session's.
            if is_alive(root) or root.pid not in stats:
                victims |= {pid for pid, stat in stats.items() if stat.session == root.pid}
        victims = _with_descendants(victims & stats.keys(), stats) - {os.getpid()}
        if not victims or time.monotonic() > deadline:
            return victims
        for pid in victims:
            _kill(pid)
        time.sleep(0.005)


def _with_descendants(roots: set[int], stats: dict[int, _Stat]) -> set[int]:
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending.extend(children.get(pid, ()))
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir(_PROC) if entry.isdecimal()]  # noqa: PTH208 (twice as fast)


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name, in parentheses, may itself hold spaces and parentheses: the fields follow the last one.
    fields = text[text.rfind(")") + 2 :].split()
    return _Stat(pid, fields[0], int(fields[1]), int(fields[3]), fields[19])


def _read_environment(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


@lru_cache(maxsize=1)
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
