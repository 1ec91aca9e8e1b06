"""What a host uses while its job runs: the readings that SageMaker shows as instance metrics, and the memory peak.

Percentages follow SageMaker: CPUUtilization counts 100 for each core, the others are 100 when all is in use.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clary.host import processes
from clary.host.gpu_usage import GpuUsage
from clary.host.metrics import point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clary.host.layout import HostFolder
    from clary.host.limits import ControlGroup
    from clary.host.spec import Limits

SAMPLE_SECONDS = 1.0
REPORT_SECONDS = 30.0


@dataclass
class InstanceMetrics:
    """Samples a process tree, and what `others` names besides, each second in a thread of its own; hands over readings.

    Readings are given at the start, each `REPORT_SECONDS`, and at the end, so that a short job has some.
    """

    root: int
    folder: HostFolder
    group: ControlGroup
    limits: Limits
    on_points: Callable[[list[dict[str, Any]]], None]
    others: Callable[[], Iterable[int]] = tuple
    peak_memory: int = 0
    memory: int = 0
    _started: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _gpus: GpuUsage = field(default_factory=lambda: GpuUsage(()))
    _cpu: float = 0.0
    _reported_cpu: float = 0.0
    _reported_at: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Begin to sample."""
        self._thread = threading.Thread(target=self._run, name="instance-metrics", daemon=True)
        self._thread.start()

    def stop(self, cpu_seconds: float) -> None:
        """Take the last reading. `cpu_seconds` is what the whole tree used, as the kernel counted it at its end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2)
        self._cpu = max(self._cpu, cpu_seconds)
        self._report()

    def _run(self) -> None:
        self._gpus = GpuUsage(self.limits.gpu_indices)  # here: waking the driver can take seconds
        self._sample()
        self._report()
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()
            if time.monotonic() - self._reported_at >= REPORT_SECONDS:
                self._report()

    def _sample(self) -> None:
        self._gpus.sample()
        trees = [processes.usage(root) for root in (self.root, *self.others())]
        if not trees[0].processes:
            return
        self._cpu = max(self._cpu, sum(tree.cpu_seconds for tree in trees))
        in_group = self.group.memory_in_use() if self.group.holds(self.root) else None
        self.memory = sum(tree.memory_bytes for tree in trees) if in_group is None else in_group
        self.peak_memory = max(self.peak_memory, self.memory)

    def _report(self) -> None:
        now, at = time.monotonic(), time.time_ns() // 1_000_000
        elapsed = max(now - self._reported_at, 0.01)
        cpu = 100 * (self._cpu - self._reported_cpu) / elapsed
        self._reported_cpu, self._reported_at = self._cpu, now
        readings = {
            "CPUUtilization": min(max(cpu, 0.0), 100.0 * (os.cpu_count() or 1)),
            "MemoryUtilization": 100 * self.memory / self.limits.memory_bytes,
            "DiskUtilization": _disk(self.folder),
            **self._gpus.readings(),
        }
        self.on_points([point(name, round(value, 3), at, instance=True) for name, value in readings.items()])


def _disk(folder: HostFolder) -> float:
    with suppress(OSError):
        disk = os.statvfs(folder.root)
        return 100 * (1 - disk.f_bavail / max(disk.f_blocks, 1))
    return 0.0
