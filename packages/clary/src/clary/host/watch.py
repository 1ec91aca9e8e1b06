"""Looks after the limits that the kernel does not enforce: memory without control groups, and disk always."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from clary.host import processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clary.host.layout import HostFolder
    from clary.host.limits import ControlGroup
    from clary.host.spec import Limits

_MEMORY_SECONDS = 0.25
_DISK_SECONDS = 1.0
_DISK_SHARE = 20  # a walk through the job's files may take one part in this many of the time
KEPT_FREE_BYTES = 64 * 1024 * 1024


class Watch:
    """Calls `on_excess(kind, sentence)` once, in its own thread, when a limit is passed: kind "memory" or "disk"."""

    def __init__(
        self,
        root: int,
        folder: HostFolder,
        group: ControlGroup,
        limits: Limits,
        on_excess: Callable[[str, str], None],
    ) -> None:
        self._root, self._folder, self._group, self._limits, self._on_excess = root, folder, group, limits, on_excess
        self._stop = threading.Event()
        threading.Thread(target=self._disk, name="watch-disk", daemon=True).start()
        threading.Thread(target=self._memory, name="watch-memory", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()

    def _memory(self) -> None:
        if self._group.holds(self._root):
            return
        limit = self._limits.memory_bytes
        while not self._stop.wait(_MEMORY_SECONDS):
            used = processes.usage(self._root).memory_bytes
            if used > limit and (used := processes.proportional_memory(self._root) or used) > limit:
                self._on_excess("memory", f"The host's processes used {used} bytes of memory; the limit is {limit}.")
                return

    def _disk(self) -> None:
        pause = _DISK_SECONDS
        while not self._stop.wait(pause):
            began = time.monotonic()
            if sentence := disk_excess(self._folder, self._limits.disk_bytes):
                self._on_excess("disk", sentence)
                return
            pause = max(_DISK_SECONDS, _DISK_SHARE * (time.monotonic() - began))


def disk_excess(folder: HostFolder, limit: int | None) -> str:
    """A sentence for the user when the job's files pass their limit or the disk is full; empty when all is well."""
    disk = os.statvfs(folder.root)
    free = disk.f_bavail * disk.f_frsize
    if free < KEPT_FREE_BYTES:
        return (
            f"The disk that holds {folder.root} is full ({free // 2**20} MiB left), so the job was ended. "
            "Free some space on it, then start the job again."
        )
    if limit is None:
        return ""
    used = sum(tree_bytes(path) for path in folder.written_by_the_job)
    if used <= limit:
        return ""
    return (
        f"The job's files take {used / 2**30:.2f} GiB, more than the {limit / 2**30:.2f} GiB of its volume. "
        "Raise VolumeSizeInGB (volume_size in the SDK), or write less."
    )


def tree_bytes(path: Path) -> int:
    """Bytes that the files below a folder take on disk; holes in sparse files take none."""
    total, folders = 0, [os.fspath(path)]
    while folders:
        with suppress(OSError):
            for entry in os.scandir(folders.pop()):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
