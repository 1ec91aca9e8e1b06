"""The sandbox by bubblewrap: namespaces of its own for files, processes, IPC and host name.

The job sees /usr and a small /etc of the machine, read-only; its image; its own /opt/ml, /tmp, /dev/shm and home;
and nothing else: no other job, no file of Clary or of the person who started it. It is root there, as in a
container, in a user namespace and without any capability.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host import gpus, image_layer, processes, remote_shell
from clary.host.sandbox import (
    SOCKET_NAME,
    SOCKET_VARIABLE,
    SOCKETS_INSIDE,
    Plan,
    Running,
    Sandbox,
    check_command,
    command,
    environment,
    passed_on,
    start_with_output,
)

if TYPE_CHECKING:
    from clary.host.image_layer import Image

_HOME = "/root"
_MOUNTED_IMAGE = Path("/opt/clary/image")
_ETC = (
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "gai.conf",
    "host.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "pip.conf",
    "pki",
    "protocols",
    "services",
    "ssl",
    "timezone",
)
# Root may write here without any capability, and what is written holds for the whole machine.
_KERNEL_SETTINGS = ("acpi", "bus", "fs", "irq", "mtrr", "sys", "sysrq-trigger")


@lru_cache(maxsize=1)
def unavailable() -> str:
    """Why bubblewrap cannot be used here, in words that continue a sentence; empty when it can."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap (the program bwrap) is not installed"
    probe = subprocess.run(
        [program, *_user_namespace(), *_ISOLATION, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        return f"bubblewrap does not work on this machine ({probe.stderr.strip() or 'no reason given'})"
    return ""


class Bubblewrap(Sandbox):
    """Runs the job's command in namespaces of its own."""

    def start(self, plan: Plan) -> Running:
        """Start the command; raises `SandboxError` when it does not exist."""
        argv = command(plan.spec, plan.built)
        check_command(argv, plan)
        gpus.prepare(plan.spec.limits.gpu_indices)
        status, write_status = os.pipe()
        program = shutil.which("bwrap") or "bwrap"
        line = [program, "--json-status-fd", str(write_status), *arguments(plan), "--", *argv]
        if plan.network_namespace is not None:
            line = ["nsenter", f"--net={plan.network_namespace}", "--", *line]
        variables = environment(plan.spec, plan.built, _HOME, f"{plan.built.root}/bin")
        if plan.sockets is not None:
            variables[SOCKET_VARIABLE] = f"{SOCKETS_INSIDE}/{SOCKET_NAME}"
        try:
            process, output = start_with_output(plan.group.entering(line), env=variables, pass_fds=(write_status,))
        finally:
            os.close(write_status)
        return Running(process, output, sandboxed=True, status=status)

    def main_process(self, running: Running) -> int | None:
        """The process that is number 2 inside: number 1 is bubblewrap's own, which reaps orphans."""
        for first in processes.children(running.process.pid):
            for pid in processes.children(first):
                with suppress(OSError):
                    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                        if line.startswith("NSpid:") and line.split()[-1] == "2":
                            return pid
        return None

    def kill(self, running: Running) -> None:
        """All of them are below the process that was started."""
        for pid in reversed(processes.tree(running.process.pid)):
            processes.send(pid, signal.SIGKILL)

    def problem(self, running: Running) -> str:
        """bubblewrap reports an exit code only of a command that it could start."""
        if running.status is None:
            return ""
        if any("exit-code" in message for message in _messages(running.status)):
            return ""
        return "bubblewrap could not start the command"

    def clean(self, running: Running) -> None:
        """Nothing is left that does not end with its processes."""


def arguments(plan: Plan) -> list[str]:
    """bubblewrap's options for a plan. Secrets never stand here: a command line is everybody's to read."""
    spec, folder = plan.spec, plan.folder
    options = [*_user_namespace(), *_ISOLATION, "--unshare-uts", "--hostname", spec.host, "--cap-drop", "ALL"]
    options += ["--new-session", "--die-with-parent"]
    if spec.network_isolation and plan.network_namespace is None:
        options += ["--unshare-net"]
    options += ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]
    for name in _KERNEL_SETTINGS:
        options += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    options += ["--ro-bind-try", "/sys", "/sys", *_etc(plan)]
    options += ["--bind", str(folder.temporary), "/tmp", "--dir", "/var/tmp", "--dir", "/run", "--dir", "/mnt"]
    options += ["--bind", str(folder.home), _HOME, "--bind", str(folder.opt_ml), "/opt/ml"]
    if plan.system_programs is not None:
        options += ["--ro-bind", str(remote_shell.FOLDER), remote_shell.MACHINES_OWN]
        options += ["--ro-bind", str(plan.system_programs), os.path.realpath(remote_shell.FOLDER)]
    for path, shown in plan.read_only.items():
        options += ["--ro-bind", str(shown), path]
    if plan.sockets is not None:
        options += ["--bind", str(plan.sockets), SOCKETS_INSIDE]
    for path, place in folder.places_of(spec.checkpoint, spec.tensorboard).items():
        if not place.is_relative_to(folder.opt_ml):
            options += ["--bind", str(place), path]
    options += [*_image(plan), *_gpus(plan), "--chdir", "/"]
    return options


_ISOLATION = ("--unshare-pid", "--unshare-ipc")


def _user_namespace() -> tuple[str, ...]:
    """Root inside, whoever runs us; real root without user namespaces is still without any capability."""
    if os.getuid() == 0:
        return ("--unshare-user-try",)
    return ("--unshare-user", "--uid", "0", "--gid", "0")


def _etc(plan: Plan) -> list[str]:
    etc = plan.folder.etc
    hosts = "".join(f"{address}\t{name}\n" for name, address in plan.hosts.items())
    (etc / "hosts").write_text(f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{hosts}")
    (etc / "passwd").write_text(f"root:x:0:0:root:{_HOME}:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "hostname").write_text(plan.spec.host + "\n")
    options: list[str] = []
    for name in _ETC:
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ("hosts", "passwd", "group", "hostname"):
        options += ["--ro-bind", str(etc / name), f"/etc/{name}"]
    return [*options, "--ro-bind-try", str(plan.resolv_conf.resolve()), "/etc/resolv.conf"]


def _image(plan: Plan) -> list[str]:
    image = plan.built
    options: list[str] = []
    folders = [*image_layer.interpreter_folders(image), *image.read_only_paths, *_named_folders(image)]
    for folder in dict.fromkeys(folders):
        options += ["--ro-bind-try", str(folder), str(folder)]
    if image_layer.can_layer(image):
        image_layer.make_layer(image, plan.folder.layer, _MOUNTED_IMAGE)
        options += ["--ro-bind", str(image.root), str(_MOUNTED_IMAGE)]
        return [*options, "--bind", str(plan.folder.layer), str(image.root)]
    return [*options, "--ro-bind", str(image.root), str(image.root)]


def _named_folders(image: Image) -> list[Path]:
    """Folders and files outside the image that its variables, or pip's, name."""
    words = [*image.environment.get("PYTHONPATH", "").split(":"), *" ".join(passed_on().values()).split()]
    named = [Path(word) for word in words if word.startswith("/") and word != "/"]
    return [path for path in named if not path.is_relative_to("/usr") and not path.is_relative_to(image.root)]


def _gpus(plan: Plan) -> list[str]:
    """The job's GPUs; those of others have no device file inside, so that CUDA does not see them."""
    devices = gpus.devices(plan.spec.limits.gpu_indices)
    options = [word for device in devices for word in ("--dev-bind-try", device, device)]
    folder = gpus.driver_folder() if devices else None
    return options if folder is None else [*options, "--ro-bind-try", str(folder), str(folder)]


def _messages(file: int) -> list[dict[str, object]]:
    """bubblewrap's status messages so far; the pipe's other end is closed when it has ended."""
    text = b""
    while select.select([file], [], [], 1.0)[0] and (data := os.read(file, 65536)):
        text += data
    os.close(file)
    return [json.loads(line) for line in text.splitlines() if line.strip()]
