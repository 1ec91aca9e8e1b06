"""The one flow of a replica: image and model, the server, its health, its restarts, its end.

    STARTING → PREPARING_IMAGE → DOWNLOADING → READY → ENDED

READY is reported, with the address, when the server first answers its ping. A server that dies, or that hangs, is
started again: the replica then is STARTING, without an address, until the ping is answered again.
"""

from __future__ import annotations

import socket
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host import ending, sandbox
from clary.host.control import Task
from clary.host.layout import HostFolder
from clary.host.ping import is_socket, ping
from clary.host.sandbox import SOCKET_NAME, Plan
from clary.host.serving_process import ServingProcess
from clary.host.serving_spec import ReplicaSpec
from clary.host.spec import Ending, Phase
from clary.host.supervisor import EarlyEnd, leave_if_stopped, oversee, throttled
from clary.host.transfers import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from clary.host.control import Control
    from clary.host.image_layer import Image
    from clary.host.limits import ControlGroup
    from clary.host.report import Reporter
    from clary.host.serving_spec import ModelSource, ServingContainer
    from clary.host.spec import Limits, Peer
    from clary.storage.access import StoreAccess

    PrepareImage = Callable[[str, str, Callable[[str], None]], Image]
    FetchModel = Callable[[ModelSource, StoreAccess, Path], None]

_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes; some room for names that servers make of it


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds."""

    ping: float = 2.0
    between_pings_at_start: float = 0.1
    between_pings: float = 5.0
    hung: float = 70.0  # pings fail for longer than any invocation may last
    settle: float = 0.5  # after a stop order, until the router has seen that the replica drains
    stop: float = 30.0
    restarts: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # pauses; one more death is the end
    recovered: float = 60.0  # having been well for so long, its restarts are forgotten


@dataclass(frozen=True)
class _ContainerOrder:
    """One container, as a sandbox wants it told."""

    host_id: str
    host: str
    image: str
    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: dict[str, str]
    own_variables: dict[str, str]
    limits: Limits
    network_isolation: bool
    checkpoint: None = None
    peers: Sequence[Peer] = ()


class _Outcome(Enum):
    """Why a run of the server is over."""

    ORDERED = "the server no longer wants the replica"
    DIED = "it exited"
    NEVER_WELL = "it did not pass the ping in time"
    HUNG = "its ping failed for too long"
    EXCESS = "it passed a limit"


def serve_replica(
    root: Path, prepare_image: PrepareImage, fetch_model: FetchModel, patience: Patience | None = None
) -> Ending:
    """Bring one replica from its order to its end; returns when the server has recorded the end.

    Arguments:
        root: the host's folder, with the `ReplicaSpec` in host.json.
        prepare_image: makes an image's environment, telling its progress.
        fetch_model: fills a folder with a model.
        patience: how long things may take.
    """
    folder = HostFolder(root)
    spec = ReplicaSpec.model_validate_json(folder.spec.read_bytes())

    def live(group: ControlGroup, control: Control, reporter: Reporter) -> Ending:
        image = _make_ready(spec, folder, control, reporter, prepare_image, fetch_model)
        for text in (*spec.notices, *image.notices):
            reporter.notice(text)
        with _socket_folder(folder) as sockets:
            plan = partial(_plan, spec, folder, image, group, sockets)
            return _Replica(spec, plan, sockets / SOCKET_NAME, control, reporter, patience or Patience()).run()

    return oversee(spec, folder, live)


def _make_ready(
    spec: ReplicaSpec,
    folder: HostFolder,
    control: Control,
    reporter: Reporter,
    prepare_image: PrepareImage,
    fetch_model: FetchModel,
) -> Image:
    """Image and model, side by side; the first failure ends it."""
    container = _only_container(spec)
    inside = _container_folder(folder, container)
    for path in (inside.model, inside.opt_ml / "code", inside.home, inside.temporary, inside.etc):
        path.mkdir(parents=True, exist_ok=True)
    inside.temporary.chmod(0o1777)
    source = container.model
    reporter.enter(Phase.PREPARING_IMAGE)
    progress = throttled(reporter, Phase.PREPARING_IMAGE)
    image = Task(control, "image", lambda: prepare_image(container.image, spec.images_home, progress))
    model = Task(control, "model", lambda: fetch_model(source, spec.store, inside.model) if source else None)
    deadline = time.monotonic() + spec.model_download_seconds

    def failed() -> bool:
        return control.wanted != "run" or image.error is not None or model.error is not None

    if not control.wait(lambda: failed() or model.done, deadline - time.monotonic()):
        raise TransferError(
            f"The model {source.s3_uri if source else ''} was not there after {spec.model_download_seconds} seconds, "
            "the endpoint's ModelDataDownloadTimeoutInSeconds.",
            by_request=True,
        )
    control.wait(lambda: failed() or image.done)
    leave_if_stopped(control)
    for task in (image, model):
        if task.error is not None:
            raise task.error
    reporter.enter(Phase.DOWNLOADING)
    return image.result


class _Replica:
    """Runs the server again and again until it is not wanted, or there is no hope for it."""

    def __init__(
        self,
        spec: ReplicaSpec,
        plan: Callable[[int], Plan],
        socket_path: Path,
        control: Control,
        reporter: Reporter,
        patience: Patience,
    ) -> None:
        self._spec, self._plan, self._socket = spec, plan, socket_path
        self._control, self._reporter, self._patience = control, reporter, patience
        self._restarts = 0
        self._well_since: float | None = None
        self._was_ready = False
        self._last_ping = ""

    def run(self) -> Ending:
        """To the end of the replica."""
        while True:
            self._socket.unlink(missing_ok=True)
            self._well_since = None
            port = _free_port()
            plan = self._plan(port)
            process = ServingProcess(plan, sandbox.choose(plan.spec), self._control, self._reporter)
            outcome = self._watch(process, f"127.0.0.1:{port}")
            if outcome is _Outcome.ORDERED:
                return self._stop(process)
            process.finish()
            if (problem := process.problem()) and outcome is _Outcome.DIED:
                return Ending(cause="InternalError", message=f"{problem}: {' '.join(process.tail[-3:])}")
            last = self._restarts >= len(self._patience.restarts)
            if not self._was_ready or last:
                return self._failed(process, outcome)
            pause = self._patience.restarts[self._restarts]
            self._restarts += 1
            what = self._what_happened(process, outcome)
            self._reporter.serve_at(None)
            self._reporter.enter(Phase.STARTING, what)
            self._reporter.notice(f"{what}; it is started again.")
            self._control.wait(lambda: self._control.wanted != "run", pause)
            if self._control.wanted != "run":
                return Ending(cause="Stopped")

    def _watch(self, process: ServingProcess, port_address: str) -> _Outcome:
        """Ping the server until something is to be done about it."""
        began = time.monotonic()
        address: str | None = None
        failing_since: float | None = None
        while True:
            pause = self._patience.between_pings if address else self._patience.between_pings_at_start
            self._control.wait(
                lambda: self._control.wanted != "run" or process.exit_code is not None or process.excess is not None,
                pause,
            )
            if self._control.wanted != "run":
                return _Outcome.ORDERED
            if process.excess is not None:
                return _Outcome.EXCESS
            if process.exit_code is not None:
                return _Outcome.DIED
            asked = address or (str(self._socket) if is_socket(self._socket) else port_address)
            self._last_ping = ping(asked, self._patience.ping)
            now = time.monotonic()
            if not self._last_ping:
                failing_since = None
                if address is None:
                    address = asked
                    self._well_since = now
                    self._note_ready(address, now - began)
                elif self._well_since is not None and now - self._well_since > self._patience.recovered:
                    self._restarts = 0
            elif address is None:
                if now - began > self._spec.startup_seconds:
                    return _Outcome.NEVER_WELL
            else:
                failing_since = failing_since or now
                if now - failing_since > self._patience.hung:
                    return _Outcome.HUNG

    def _note_ready(self, address: str, seconds: float) -> None:
        self._was_ready = True
        self._reporter.serve_at(address)
        self._reporter.enter(Phase.READY, f"answered its ping {seconds:.1f} s after the start")

    def _stop(self, process: ServingProcess) -> Ending:
        """Let the router see that no more is to be sent here, let the server finish, and end it."""
        if self._control.wanted == "stop":
            self._control.wait(lambda: self._control.wanted == "abort", self._patience.settle)
        if self._control.wanted == "stop":
            process.stop(self._patience.stop)
        else:
            process.finish()
        return Ending(cause="Stopped", exit_code=process.exit_code)

    def _failed(self, process: ServingProcess, outcome: _Outcome) -> Ending:
        code = process.exit_code
        sentence = (
            f"The primary container for production variant {self._spec.variant} did not pass the ping health check. "
            "Please check CloudWatch logs for this endpoint."
        )
        if self._was_ready:
            sentence = f"The primary container for production variant {self._spec.variant} ended again and again."
        return Ending(
            cause="OutOfMemory" if process.out_of_memory else "ScriptFailed",
            exit_code=code,
            signal=ending.signal_name(code) if code is not None and outcome is _Outcome.DIED else None,
            last_lines=ending.why(process.tail),
            message=f"{sentence} {self._what_happened(process, outcome)}.",
        )

    def _what_happened(self, process: ServingProcess, outcome: _Outcome) -> str:
        """In words that are a sentence but for its full stop."""
        if process.excess is not None:
            return process.excess.sentence.removesuffix(".")
        if process.out_of_memory:
            return "The server was ended because it used more memory than the instance has"
        if outcome is _Outcome.DIED:
            name = ending.signal_name(process.exit_code or 0)
            return f"The server exited with code {process.exit_code}{f' ({name})' if name else ''}"
        if outcome is _Outcome.NEVER_WELL:
            return f"Its ping {self._last_ping}, {self._spec.startup_seconds} seconds after its start"
        return f"Its ping {self._last_ping}, for over {self._patience.hung:g} seconds"


def _only_container(spec: ReplicaSpec) -> ServingContainer:
    first, *others = spec.containers
    if others:
        raise EarlyEnd(Ending(cause="ClientError", message="Containers in series are not offered yet."))
    return first


def _container_folder(folder: HostFolder, container: ServingContainer) -> HostFolder:
    return HostFolder(folder.root / "containers" / container.hostname)


def _plan(spec: ReplicaSpec, folder: HostFolder, image: Image, group: ControlGroup, sockets: Path, port: int) -> Plan:
    container = _only_container(spec)
    given = bool(container.entrypoint or container.arguments)
    order = _ContainerOrder(
        host_id=spec.host_id,
        host=container.hostname,
        image=container.image,
        entrypoint=container.entrypoint if given else image.command_serve,
        arguments=container.arguments,
        environment=container.environment,
        own_variables={"SAGEMAKER_BIND_TO_PORT": str(port), "DLC_CONTAINER_TYPE": "inference"},
        limits=spec.limits,
        network_isolation=spec.network_isolation,
    )
    return Plan(
        spec=order,
        folder=_container_folder(folder, container),
        image=image,
        group=group,
        hosts={container.hostname: "127.0.0.1"},
        sockets=sockets,
    )


@contextmanager
def _socket_folder(folder: HostFolder) -> Generator[Path]:
    """A folder for the server's socket: the host's own, unless its path is longer than a socket's may be."""
    own = folder.root / "sockets"
    if len(bytes(own / SOCKET_NAME)) <= _LONGEST_SOCKET_PATH:
        own.mkdir(exist_ok=True)
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="clary-", ignore_cleanup_errors=True) as short:
        yield Path(short)


def _free_port() -> int:
    """A port of loopback that nothing listens on: replicas on one machine share its network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
