"""Processors and GPUs are counted as this job may use them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clary_toolkit.training import machine


def test_processors_are_those_the_job_may_run_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CPU_QUOTA", str(tmp_path / "absent"))
    assert machine.count_cpus() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "limit"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 10_000)])
def test_a_quota_of_the_control_group_limits_them(
    quota: str, limit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(machine, "_CPU_QUOTA", str(tmp_path / "cpu.max"))
    assert machine.count_cpus() == min(limit, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 4), ("", 0), ("0,2", 2), ("GPU-8f1,GPU-aa2,GPU-3", 3), ("0,-1,1", 1), ("0,1,2,3,4", 4)],
)
def test_gpus_are_device_files_narrowed_by_cuda_visible_devices(
    visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "_DEVICES", str(tmp_path))
    assert machine.count_gpus({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == count


def test_a_machine_without_gpus_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_DEVICES", str(tmp_path))
    assert machine.count_gpus({"CUDA_VISIBLE_DEVICES": "0"}) == 0
    assert machine.count_neurons({}, "ml.c5.xlarge") == 0
