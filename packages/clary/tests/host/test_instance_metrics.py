"""What a host is seen to use."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clary.host import processes
from clary.host.instance_metrics import InstanceMetrics
from clary.host.layout import HostFolder
from clary.host.limits import ControlGroup
from clary.host.spec import Limits

HOLDS_100_MIB = "held = bytearray(100 << 20); print('holds', flush=True); input()"


def test_what_is_not_below_the_host_s_process_counts_where_it_is_named(tmp_path: Path) -> None:
    with _holding() as root, _holding() as other:
        for process in (root, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
        points: list[dict[str, Any]] = []
        limits = Limits(cpus=1, memory_bytes=2**30, max_runtime_seconds=1)
        metrics = InstanceMetrics(
            root.pid, HostFolder(tmp_path), ControlGroup(), limits, points.extend, lambda: (other.pid,)
        )
        metrics.start()
        deadline = time.monotonic() + 10
        while metrics.memory < 200 * 2**20:
            assert time.monotonic() < deadline, f"{metrics.memory} bytes were seen"
            time.sleep(0.01)
        assert metrics.memory > processes.usage(root.pid).memory_bytes
        metrics.stop(0.0)
        for process in (root, other):
            process.communicate("\n")
    memory = [point["value"] for point in points if point["name"] == "MemoryUtilization"]
    assert max(memory) > 100 * 200 / 1024


def _holding() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS_100_MIB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
