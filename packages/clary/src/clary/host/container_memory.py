"""What a container uses of its memory, and whether the kernel killed any of it for that.

The control group of a container is the engine's: it is gone soon after the container's first process. So its last
count of kills is read at the moment when that process ends, which a pidfd tells.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host.limits import ControlGroup

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path("/sys/fs/cgroup")
_SECONDS = 5.0


@dataclass(frozen=True)
class Accounts(ControlGroup):
    """The control group of a container that an engine made. `memory` is None where that has no limit of memory."""

    ended: threading.Event = field(default_factory=threading.Event)
    last_count: list[int] = field(default_factory=list[int])
    engine_says: Callable[[], bool] = bool

    @staticmethod
    def of(pid: int, limit: int, engine_says: Callable[[], bool]) -> Accounts:
        """The accounts of the container whose first process is `pid`.

        Arguments:
            pid: which has not begun its program yet.
            limit: of memory, in bytes.
            engine_says: whether the engine saw it run out of memory; asked at the end.
        """
        accounts = Accounts(memory=_limited_group(pid, limit), engine_says=engine_says)
        threading.Thread(target=accounts.count_at_end, args=(pid,), name="accounts", daemon=True).start()
        return accounts

    def holds(self, pid: int) -> bool:
        """Whether the kernel keeps the container to its limit."""
        return self.memory is not None

    def out_of_memory_kills(self) -> int:
        """How many processes the kernel killed for memory. To be asked when the container has ended."""
        if not self.ended.wait(_SECONDS):
            return super().out_of_memory_kills()
        return max(self.last_count, default=0) or int(self.engine_says())

    def count_at_end(self, pid: int) -> None:
        """Wait for the end of a process and count at once."""
        try:
            file = os.pidfd_open(pid)
        except OSError:
            self.ended.set()
            return
        try:
            select.select([file], [], [])
            self.last_count.append(super().out_of_memory_kills())
        finally:
            os.close(file)
            self.ended.set()


def _limited_group(pid: int, limit: int) -> Path | None:
    """The nearest control group of a process that limits memory to at most `limit`."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    version_1 = not (_ROOT / "cgroup.controllers").exists()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) if version_1 else (controllers == ""):
            top = _ROOT / "memory" if version_1 else _ROOT
            name = "memory.limit_in_bytes" if version_1 else "memory.max"
            group = top / path.strip("/")
            while group != top:
                with suppress(OSError, ValueError):
                    if int((group / name).read_text()) <= limit:
                        return group
                group = group.parent
    return None
