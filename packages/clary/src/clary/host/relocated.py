"""The way to run a job without bubblewrap: its /opt/ml is a folder that variables name.

Nothing is isolated. The job runs as the person who started Clary, and only programs that ask where their tree lies
(framework images, through the toolkit) can work.
"""

from __future__ import annotations

import ctypes
import signal
from typing import TYPE_CHECKING

from clary.host import gpus, image_layer, layout, processes
from clary.host.sandbox import (
    SOCKET_NAME,
    SOCKET_VARIABLE,
    Plan,
    Running,
    Sandbox,
    check_command,
    command,
    environment,
    start_with_output,
)

if TYPE_CHECKING:
    from clary.host.sandbox import Order

_PR_SET_CHILD_SUBREAPER = 36
# util-linux's program asks the kernel to kill the command when the supervisor dies.
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


def unsuitable(spec: Order) -> str:
    """Why a job cannot run relocated, in words that begin a sentence; empty when it can."""
    words = (*spec.entrypoint, *spec.arguments)
    if any(layout.OPT_ML in word for word in words):
        return f"This job's command needs the absolute path {layout.OPT_ML}"
    if spec.network_isolation:
        return "This job asks for network isolation"
    if len(spec.peers) > 1:
        return "A job with several hosts needs host names of its own"
    for what, synced in (("checkpoints", spec.checkpoint), ("TensorBoard logs", spec.tensorboard)):
        if synced is not None and not synced.local_path.startswith(layout.OPT_ML):
            return f"This job's {what} need the absolute path {synced.local_path}"
    return ""


class Relocated(Sandbox):
    """Runs the job's command as an ordinary child."""

    def start(self, plan: Plan) -> Running:
        """Start the command; raises `SandboxError` when it does not exist."""
        argv = list(command(plan.spec, plan.built))
        check_command(tuple(argv), plan)
        _adopt_orphans()
        path = f"{plan.built.root}/bin"
        if image_layer.can_layer(plan.built):
            image_layer.make_layer(plan.built, plan.folder.layer, plan.built.root)
            path = f"{plan.folder.layer}/bin:{path}"
            if argv[0].startswith(f"{plan.built.root}/bin/"):
                argv[0] = argv[0].replace(str(plan.built.root), str(plan.folder.layer), 1)
        variables = environment(plan.spec, plan.built, str(plan.folder.home), path) | {
            "SAGEMAKER_BASE_DIR": str(plan.folder.opt_ml),
            "TMPDIR": str(plan.folder.temporary),
            "CUDA_VISIBLE_DEVICES": gpus.visible_devices(plan.spec.limits.gpu_indices),
        }
        if plan.sockets is not None:
            variables[SOCKET_VARIABLE] = str(plan.sockets / SOCKET_NAME)
        command_line = plan.group.entering([*_DIE_WITH_PARENT, *argv])
        process, output = start_with_output(command_line, env=variables, cwd=plan.folder.opt_ml)
        return Running(process, output, sandboxed=False)

    def main_process(self, running: Running) -> int | None:
        """The child itself."""
        return running.process.pid

    def kill(self, running: Running) -> None:
        """All of them are below the process that was started."""
        for pid in reversed(processes.tree(running.process.pid)):
            processes.send(pid, signal.SIGKILL)

    def problem(self, running: Running) -> str:
        """There is no sandbox that could fail."""
        return ""

    def clean(self, running: Running) -> None:
        """Nothing is left that does not end with its processes."""


def _adopt_orphans() -> None:
    """Become the parent of processes that the job leaves behind, so that they stay below the supervisor."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
