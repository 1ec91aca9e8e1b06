"""The cluster of one machine: this one. A host is a supervisor process with a folder of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from clary.cluster.base import HostState, Node, Placement, Resources
from clary.cluster.machine import machine_resources
from clary.cluster.packing import pack
from clary.cluster.processes import ProcessIdentity, identify, is_alive, kill_tree, pids_with_environment
from clary.host import containers, limits, network
from clary.host.gpus import usable
from clary.host.processes import HOST_ID_VARIABLE
from clary.host.serving_spec import AnySpec
from clary.host.spec import HostReport
from clary.host.standby import Standby, Starter
from clary.settings import Settings

NODE_NAME = "local"
_KILL_SECONDS = 10.0


class _Handle(BaseModel):
    """What is recorded of a started supervisor; `folder` also finds it when its process is gone."""

    model_config = ConfigDict(frozen=True)

    host_id: str
    folder: str
    pid: int
    started: str

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started)


class LocalCluster:
    """Runs hosts as processes of this machine, each in a session of its own that outlives the server.

    Args:
        settings: `home` holds a folder for each host.
        standby: what keeps a supervisor ready; tests keep another program.
        total: what the machine has for jobs, measured unless given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        standby: Starter | None = None,
        total: Resources | None = None,
    ) -> None:
        self._folders = settings.home / "hosts"
        self._standby: Starter = standby or Standby(supervisor_environment())
        self._nodes = (Node(NODE_NAME, total or machine_resources()),)
        self._gpus = usable() if total is None else None  # with a total, places name GPUs by their numbers
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._children_lock = threading.Lock()

    def nodes(self) -> tuple[Node, ...]:
        return self._nodes

    def problem(self) -> str:
        return ""

    def prepare(self) -> None:
        self._standby.prepare()

    def close(self) -> None:
        self._standby.close()

    def place(self, wanted: tuple[Resources, ...], taken: tuple[Placement, ...]) -> tuple[Placement, ...] | None:
        return pack(self._nodes, wanted, taken)

    def start(self, spec: AnySpec, placement: Placement, together: tuple[Placement, ...] = ()) -> str:
        folder = self._folders / spec.host_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            return (self._started_before(folder) or self._spawn(folder, self._numbered(spec))).model_dump_json()

    def state(self, handle: str) -> HostState:
        if is_of_ray(handle):
            return HostState("lost", "it was started on a Ray cluster, and the server runs without `--cluster` now")
        host = _Handle.model_validate_json(handle)
        exit_code = self._reap(host.pid)
        if is_alive(host.identity):
            return HostState("running")
        if exit_code == 0:
            return HostState("exited")
        return HostState("lost", _how_it_ended(exit_code, Path(host.folder)))

    def unreported(self, handle: str) -> HostReport | None:
        from clary.host.layout import HostFolder
        from clary.host.report import remaining

        if is_of_ray(handle):
            return None
        host = _Handle.model_validate_json(handle)
        folder = HostFolder(Path(host.folder))
        return remaining(folder, host.host_id) if folder.spool.is_dir() else None

    def end(self, handle: str) -> None:
        if is_of_ray(handle):
            return
        host = _Handle.model_validate_json(handle)
        left = kill_tree(
            host.identity, lambda: pids_with_environment(f"{HOST_ID_VARIABLE}={host.host_id}"), _KILL_SECONDS
        )
        self._reap(host.pid)
        containers.remove_all(Path(host.folder), host.host_id)
        limits.remove(host.host_id)
        if left:
            raise OSError(f"Processes {sorted(left)} of host {host.host_id} do not die; look at them with `ps -l`.")

    def clean(self, handle: str) -> None:
        if is_of_ray(handle):
            return
        host = _Handle.model_validate_json(handle)
        self.end(handle)
        network.clean(host.host_id)
        shutil.rmtree(host.folder, ignore_errors=True)

    def _started_before(self, folder: Path) -> _Handle | None:
        """The supervisor that an earlier call started, were that call's process killed at any moment.

        It is on record before it is told to begin. One that was chosen and never told has left no log, and has ended.
        """
        record = folder / "supervisor.json"
        if not record.exists():
            return None
        handle = _Handle.model_validate_json(record.read_bytes())
        return handle if is_alive(handle.identity) or (folder / "supervisor.log").exists() else None

    def _numbered(self, spec: AnySpec) -> AnySpec:
        """The order with the numbers of its GPUs on this machine: places count those that the server may use."""
        indices = spec.limits.gpu_indices
        if self._gpus is None or not indices:
            return spec
        numbers = tuple(self._gpus[index] for index in indices if index < len(self._gpus))
        return spec.model_copy(update={"limits": spec.limits.model_copy(update={"gpu_indices": numbers})})

    def _spawn(self, folder: Path, spec: AnySpec) -> _Handle:
        _write_private(folder / "host.json", spec.model_dump_json())
        handles: list[_Handle] = []

        def record(child: subprocess.Popen[bytes]) -> None:
            with self._children_lock:
                self._children[child.pid] = child
            # Until it is reaped a child keeps its number; one that has died already just has no identity any more.
            identity = identify(child.pid) or ProcessIdentity(child.pid, "ended")
            handles.append(self._record(folder, spec.host_id, identity))

        self._standby.start(folder, record)
        return handles[0]

    def _record(self, folder: Path, host_id: str, identity: ProcessIdentity) -> _Handle:
        handle = _Handle(host_id=host_id, folder=str(folder), pid=identity.pid, started=identity.started)
        _write_private(folder / "supervisor.json", handle.model_dump_json())
        return handle

    def _reap(self, pid: int) -> int | None:
        """The exit code of a supervisor that this process started and that has ended."""
        with self._children_lock:
            child = self._children.get(pid)
            return None if child is None else child.poll()


def is_of_ray(handle: str) -> bool:
    """Whether a host was started on a Ray cluster: a record may have hosts of a server that ran otherwise."""
    return handle.startswith('{"kind":"ray"')


def supervisor_environment() -> dict[str, str]:
    """This process's environment without its keys and settings: a supervisor has its own in host.json."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CLARY_", "AWS_"))}


def _write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only: it may hold keys."""
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold a folder against other threads and processes."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _how_it_ended(exit_code: int | None, folder: Path) -> str:
    if exit_code is None:
        ending = "its supervisor process is gone"
    elif exit_code < 0:
        ending = f"its supervisor process was killed by signal {-exit_code}"
    else:
        ending = f"its supervisor process exited with code {exit_code}"
    try:
        lines = (folder / "supervisor.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{ending}; its last words: {lines[-1][:300]}" if lines else ending
