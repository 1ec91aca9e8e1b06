"""Limits on memory and disk, by the kernel and without it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clary.host import limits, watch
from clary.host.layout import HostFolder
from clary.host.limits import ControlGroup
from clary.host.spec import Limits

LIMITS = Limits(cpus=1, memory_bytes=64 * 2**20, max_runtime_seconds=9)
EAT = "x=[]\nwhile True: x.append(bytearray(b'1')*2**20)"
EAT_SLOWLY = "import time\nx=[]\nwhile True:\n  x.append(bytearray(b'1')*2**20)\n  time.sleep(0.01)"


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    group = limits.create(f"test-{os.getpid()}", LIMITS)
    if not group.limits_memory:
        pytest.skip("needs control groups that this user may write to (the memory controller)")
    yield group
    group.remove()


def test_the_kernel_kills_what_takes_too_much_memory(group: ControlGroup) -> None:
    done = subprocess.run(group.entering([sys.executable, "-c", EAT]), check=False)
    assert done.returncode == -9
    assert group.out_of_memory_kills() == 1


def test_removing_a_group_kills_what_is_in_it(group: ControlGroup) -> None:
    process = subprocess.Popen(group.entering(["sleep", "999"]))
    while not group.holds(process.pid):
        assert process.poll() is None
    limits.remove(f"test-{os.getpid()}")
    assert process.wait(5) == -9
    assert not any(folder.exists() for folder in group.folders)


def test_without_control_groups_memory_is_watched(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", EAT_SLOWLY])
    told: list[tuple[str, str]] = []
    passed = threading.Event()

    def on_excess(kind: str, sentence: str) -> None:
        told.append((kind, sentence))
        passed.set()

    watching = watch.Watch(process.pid, HostFolder(tmp_path), ControlGroup(), LIMITS, on_excess)
    assert passed.wait(20)
    watching.stop()
    process.kill()
    process.wait()
    assert told[0][0] == "memory"
    assert str(LIMITS.memory_bytes) in told[0][1]


def test_a_sparse_file_takes_no_disk(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").write_bytes(b"1" * 2**20)
    assert 2**20 <= watch.tree_bytes(tmp_path) < 2**21
