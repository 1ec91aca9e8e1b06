"""GPUs are told apart by the driver's own files. There is none here: the files are made up, as an H200's were read."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from clary.cli import checkup
from clary.host import gpu_usage, gpus
from clary.host.gpu_usage import GpuUsage
from clary.host.nvml import Nvml, NvmlError, Usage

INFORMATION = (
    "Model: \t\t NVIDIA H200\nIRQ:   \t\t 41\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\nDevice Minor: \t {minor}\n"
)
FIRST, SECOND = "GPU-71dac162-1e91-2884-ce09-ec8c9036d5b5", "GPU-b466d50f-ec79-ee68-479c-da011ca6da3d"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that stand for /proc and /dev of a machine whose device files are in another order than its bus."""
    for bus, uuid, minor in (("0000:06:00.0", FIRST, 1), ("0000:41:00.0", SECOND, 0)):
        card = tmp_path / "cards" / bus
        card.mkdir(parents=True)
        (card / "information").write_text(INFORMATION.format(uuid=uuid, minor=minor))
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / "dev" / name).touch()
    monkeypatch.setattr(gpus, "_CARDS", tmp_path / "cards")
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path / "dev")
    return tmp_path


def test_a_gpu_s_number_is_its_place_on_the_bus(machine: Path) -> None:
    assert [(gpu.minor, gpu.uuid, gpu.name) for gpu in gpus.gpus()] == [
        (1, FIRST, "NVIDIA H200"),
        (0, SECOND, "NVIDIA H200"),
    ]
    assert gpus.devices((0,))[0] == str(machine / "dev" / "nvidia1")
    assert gpus.devices((0,))[1:3] == [str(machine / "dev" / name) for name in ("nvidiactl", "nvidia-uvm")]
    assert gpus.visible_devices((1, 0)) == f"{SECOND},{FIRST}"


def test_no_gpu_is_no_device_and_nothing_visible(machine: Path) -> None:
    assert gpus.devices(()) == []
    assert gpus.visible_devices(()) == ""


def test_without_the_driver_s_files_devices_are_counted(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_CARDS", machine / "none")
    assert [gpu.minor for gpu in gpus.gpus()] == [0, 1]
    assert gpus.devices((1,))[0] == str(machine / "dev" / "nvidia1")
    assert gpus.visible_devices((1,)) == "1"


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [
        (None, (0, 1)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1", (1,)),
        ("1,0", (1, 0)),
        ("0,-1,1", (0,)),
        ("2,0", ()),
        (SECOND, (1,)),
        (FIRST[:8] + ", 1", (0, 1)),
        ("GPU-", ()),
        ("MIG-1", ()),
    ],
)
def test_the_server_uses_the_gpus_that_are_visible_to_it(
    machine: Path, visible: str | None, numbers: tuple[int, ...]
) -> None:
    assert gpus.usable({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == numbers


def test_device_files_that_nobody_has_made_yet_are_made_by_nvidia_s_program(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, called = machine / "nvidia-modprobe", machine / "called"
    program.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{machine}:{os.environ['PATH']}")
    gpus.prepare(())
    gpus.prepare((0,))
    assert not called.exists(), "all files are there"
    (machine / "dev" / "nvidia-uvm").unlink()
    gpus.prepare(())
    gpus.prepare((0,))
    assert called.read_text() == "-u -c 0 -c 1\n"


def test_the_driver_s_folder_is_named_only_where_the_loader_does_not_know_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "ld.so.cache"
    cache.write_bytes(b"glibc-ld.so.cache1.1\0libcuda.so.1\0/usr/lib/libcuda.so.1\0")
    monkeypatch.setattr(gpus, "_LOADER_CACHE", cache)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere::{tmp_path}")
    (tmp_path / "libcuda.so.1").touch()
    assert gpus.driver_folder() is None
    cache.write_bytes(b"glibc-ld.so.cache1.1\0libc.so.6\0")
    assert gpus.driver_folder() == tmp_path
    cache.unlink()
    assert gpus.driver_folder() == tmp_path


class StandIn:
    """Two GPUs that grow busier; the second one's memory is twice the first one's."""

    def __init__(self) -> None:
        self.asked = 0

    def usage(self, number: int) -> Usage:
        self.asked += 1
        if self.asked == 3:
            raise NvmlError("nvmlDeviceGetUtilizationRates: GPU is lost")
        return Usage(busy=10.0 * self.asked, memory_used=1 << 30, memory_total=(4 << 30) * (1 + number))


def test_readings_are_averages_added_up_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_usage, "Nvml", StandIn)
    usage = GpuUsage((0, 1))
    assert usage.readings() == {}
    usage.sample()  # 10 and 20
    usage.sample()  # an error: no sample
    usage.sample()  # 40 and 50
    assert usage.readings() == {"GPUUtilization": (30 + 90) / 2, "GPUMemoryUtilization": 25 + 12.5}
    assert usage.readings() == {}


def test_a_host_without_gpus_does_not_open_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_usage, "Nvml", None)
    usage = GpuUsage(())
    usage.sample()
    assert usage.readings() == {}


def test_doctor_says_when_the_driver_s_library_cannot_be_used(machine: Path) -> None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pass
    else:
        pytest.skip("NVIDIA's library is here")
    with pytest.raises(NvmlError, match=r"libnvidia-ml\.so\.1"):
        Nvml()
    found = checkup.gpu()
    assert (found.state, "libnvidia-ml.so.1" in found.detail) == ("missing", True)
    assert found.cost
    assert found.mend
