"""What this host has: processors and accelerators."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_CPU_QUOTA = "/sys/fs/cgroup/cpu.max"
_DEVICES = "/dev"


def count_cpus() -> int:
    """Processors this job may use: those it may be scheduled on, or fewer where its control group has a quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open(_CPU_QUOTA, encoding="ascii") as file:
            quota, period = file.read().split()[:2]
        return max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return allowed


def count_gpus(environ: Mapping[str, str]) -> int:
    """NVIDIA GPUs this job may use.

    They are counted by their device files, because asking nvidia-smi, as AWS's toolkit does, takes up to seconds where
    no process keeps the driver awake. CUDA_VISIBLE_DEVICES, which AWS's ignores, narrows the count: hosts share GPUs.
    """
    try:
        devices = [name for name in os.listdir(_DEVICES) if name.startswith("nvidia") and name[6:].isdigit()]
    except OSError:
        devices = []
    count = len(devices) or _ask_nvidia_smi(environ)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not count:
        return count
    listed = 0
    for entry in visible.split(","):
        if not entry.strip() or entry.strip().startswith("-"):
            break  # CUDA itself ignores what follows an invalid entry
        listed += 1
    return min(count, listed)


def _ask_nvidia_smi(environ: Mapping[str, str]) -> int:
    """GPUs without device files of their own, as under WSL."""
    if not os.path.exists(os.path.join(_DEVICES, "dxg")):
        return 0
    output = _output_of(["nvidia-smi", "--list-gpus"], environ)
    return sum(1 for line in output.splitlines() if line.startswith("GPU "))


def count_neurons(environ: Mapping[str, str], instance_type: str) -> int:
    """Cores of AWS's Neuron accelerators."""
    if "trn2.48xlarge" in instance_type:
        return 64
    if not any(os.path.exists(os.path.join(_DEVICES, "neuron{}".format(index))) for index in range(16)):
        return 0
    import json

    try:
        return sum(item.get("nc_count", 0) for item in json.loads(_output_of(["neuron-ls", "-j"], environ)))
    except (ValueError, AttributeError, TypeError):
        return 0


def _output_of(command: list[str], environ: Mapping[str, str]) -> str:
    import subprocess

    try:
        return subprocess.check_output(command, env=dict(environ), stderr=subprocess.DEVNULL).decode("utf-8", "replace")
    except (OSError, subprocess.CalledProcessError):
        return ""
