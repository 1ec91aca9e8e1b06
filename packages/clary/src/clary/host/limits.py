"""Memory and processor limits of a host by control groups, versions 2 and 1.

A group is made for each host below the nearest group that this process may write to. Where there is none (an
ordinary user without delegation), the caller watches the processes' memory instead: see `watch`.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host import processes

if TYPE_CHECKING:
    from clary.host.spec import Limits

_ROOT = Path("/sys/fs/cgroup")
_PARENT = "clary"
_PERIOD_MICROSECONDS = 100_000


@dataclass(frozen=True)
class ControlGroup:
    """The groups of one host: one folder in version 2, one for each controller in version 1."""

    memory: Path | None = None
    cpu: Path | None = None
    folders: tuple[Path, ...] = field(default=())

    @property
    def limits_memory(self) -> bool:
        """Whether the kernel itself enforces the memory limit."""
        return self.memory is not None

    def entering(self, command: list[str]) -> list[str]:
        """`command`, run inside the groups from its first instruction on."""
        if not self.folders:
            return command
        writes = "; ".join(f'echo 0 > "{folder}/cgroup.procs" 2>/dev/null' for folder in self.folders)
        return ["/bin/sh", "-c", f'{writes}; exec "$@"', "clary-host", *command]

    def holds(self, pid: int) -> bool:
        """Whether a process really is inside: moving it needs rights over the groups it comes from, too."""
        if self.memory is None:
            return False
        with suppress(OSError):
            return str(pid) in (self.memory / "cgroup.procs").read_text().split()
        return False

    def out_of_memory_kills(self) -> int:
        """How many processes the kernel killed for memory."""
        if self.memory is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError, ValueError):
                for line in (self.memory / name).read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        return 0

    def memory_in_use(self) -> int | None:
        """Bytes in use, without file pages that the kernel would give back at once."""
        if self.memory is None:
            return None
        with suppress(OSError, ValueError):
            current, reclaimable = (
                ("memory.current", "inactive_file")
                if (self.memory / "memory.current").exists()
                else ("memory.usage_in_bytes", "total_inactive_file")
            )
            total = int((self.memory / current).read_text())
            for line in (self.memory / "memory.stat").read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == reclaimable:
                    return max(total - int(value), 0)
        return None

    def remove(self, seconds: float = 2.0) -> None:
        """Kill what is still inside and remove the groups."""
        deadline = time.monotonic() + seconds
        for folder in self.folders:
            while folder.exists():
                with suppress(OSError):
                    for word in (folder / "cgroup.procs").read_text().split():
                        processes.send(int(word), signal.SIGKILL)
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)


def create(host_id: str, limits: Limits) -> ControlGroup:
    """Make the groups of a host and set its limits; what cannot be limited here is left out."""
    try:
        return _create_version_2(host_id, limits) if _is_version_2() else _create_version_1(host_id, limits)
    except OSError:
        remove(host_id)
        return ControlGroup()


def remove(host_id: str) -> None:
    """Remove the groups of a host whose supervisor is gone."""
    roots = {parent for parent in (_version_2_parent(),) if parent} if _is_version_2() else set(_version_1_parents())
    folders = tuple(folder for root in roots if (folder := root / _name(host_id)).is_dir())
    ControlGroup(folders=folders).remove()


def _name(host_id: str) -> str:
    return "host-" + "".join(character if character.isalnum() else "-" for character in host_id)


def _is_version_2() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _create_version_2(host_id: str, limits: Limits) -> ControlGroup:
    parent = _version_2_parent()
    if parent is None:
        return ControlGroup()
    folder = parent / _name(host_id)
    folder.mkdir(exist_ok=True)
    controllers = (folder / "cgroup.controllers").read_text().split()
    if "memory" in controllers:
        (folder / "memory.max").write_text(str(limits.memory_bytes))
        with suppress(OSError):
            (folder / "memory.swap.max").write_text("0")
    if "cpu" in controllers:
        (folder / "cpu.max").write_text(f"{_quota(limits)} {_PERIOD_MICROSECONDS}")
    return ControlGroup(
        memory=folder if "memory" in controllers else None,
        cpu=folder if "cpu" in controllers else None,
        folders=(folder,),
    )


def _version_2_parent() -> Path | None:
    """The group to make hosts' groups in: one whose children get the memory controller and that we may write to."""
    own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].strip("/")
    candidates = [_ROOT / own, *(_ROOT / own).parents]
    for folder in candidates[: len(Path(own).parts) + 1]:
        with suppress(OSError):
            if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.procs", os.W_OK):
                continue
            if "memory" in (folder / "cgroup.subtree_control").read_text().split():
                return folder
            if folder == _ROOT:
                (folder / "cgroup.subtree_control").write_text("+memory +cpu")
                return folder
    return None


def _create_version_1(host_id: str, limits: Limits) -> ControlGroup:
    made: dict[str, Path] = {}
    for controller, parent in zip(("memory", "cpu"), _version_1_parents(), strict=True):
        with suppress(OSError):
            folder = parent / _name(host_id)
            folder.mkdir(parents=True, exist_ok=True)
            if controller == "memory":
                (folder / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
                with suppress(OSError):
                    (folder / "memory.memsw.limit_in_bytes").write_text(str(limits.memory_bytes))
            else:
                (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
                (folder / "cpu.cfs_quota_us").write_text(str(_quota(limits)))
            made[controller] = folder
    return ControlGroup(memory=made.get("memory"), cpu=made.get("cpu"), folders=tuple(made.values()))


def _version_1_parents() -> tuple[Path, Path]:
    return (_ROOT / "memory" / _PARENT, _ROOT / "cpu" / _PARENT)


def _quota(limits: Limits) -> int:
    return max(int(limits.cpus * _PERIOD_MICROSECONDS), 1000)
