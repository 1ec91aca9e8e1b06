"""The one flow of a replica: images and models, its containers, their health and restarts, its end.

    STARTING → PREPARING_IMAGE → DOWNLOADING → READY → ENDED

READY is reported, with the address, when every container has answered its ping. A server that dies, or that hangs, is
started again: the replica then is STARTING, without an address, until the ping is answered again. One container with
one model is addressed itself; before several, or several models, stands the `gateway`.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clary.host import container_plan, sandbox
from clary.host.container_keeper import ContainerKeeper, Kept, Patience
from clary.host.control import Task
from clary.host.layout import HostFolder
from clary.host.metrics import point
from clary.host.progress import Progress
from clary.host.sandbox import SOCKET_NAME, SandboxError
from clary.host.serving_process import ServingProcess
from clary.host.serving_spec import ReplicaSpec
from clary.host.spec import Ending, Phase
from clary.host.supervisor import leave_if_stopped, oversee
from clary.host.transfers import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from clary.host.control import Control
    from clary.host.gateway import Gateway, Stage
    from clary.host.image_layer import Image
    from clary.host.limits import ControlGroup
    from clary.host.model_cache import CallContainer, ModelCache
    from clary.host.output_capture import Line
    from clary.host.report import Reporter
    from clary.host.serving_spec import ModelSource, ServingContainer
    from clary.images.own import OwnImage
    from clary.storage.access import StoreAccess

    PrepareImage = Callable[[str, str, Callable[[str], None]], Image | OwnImage]
    FetchModel = Callable[[ModelSource, StoreAccess, Path], None]

_LONGEST_SOCKET_PATH = 96  # the kernel takes 107 bytes; some room for names that servers make of it
_GATEWAY = "gateway.sock"

__all__ = ["Patience", "serve_replica"]


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
        images = _make_ready(spec, folder, control, reporter, prepare_image, fetch_model)
        for text in dict.fromkeys((*spec.notices, *(notice for image in images for notice in image.notices))):
            reporter.notice(text)
        with _socket_folder(folder) as sockets:
            return _Replica(spec, folder, images, group, sockets, control, reporter, patience or Patience()).run()

    return oversee(spec, folder, live)


def _make_ready(
    spec: ReplicaSpec,
    folder: HostFolder,
    control: Control,
    reporter: Reporter,
    prepare_image: PrepareImage,
    fetch_model: FetchModel,
) -> list[Image | OwnImage]:
    """Images and models, side by side; the first failure ends it."""
    reporter.enter(Phase.PREPARING_IMAGE)
    progress = Progress(reporter, Phase.PREPARING_IMAGE)
    uris = list(dict.fromkeys(container.image for container in spec.containers))
    images = {uri: Task(control, "image", partial(prepare_image, uri, spec.images_home, progress)) for uri in uris}
    models: list[Task[None]] = []
    for container in spec.containers:
        inside = container_plan.make_folders(folder, container)
        if container.model is not None and container.mode == "SingleModel":
            models.append(Task(control, "model", partial(fetch_model, container.model, spec.store, inside.model)))
        if (shared := container_plan.shared_code(container)) is not None:
            models.append(Task(control, "code", partial(fetch_model, shared, spec.store, inside.opt_ml / "code")))
    tasks: list[Task[Image | OwnImage] | Task[None]] = [*images.values(), *models]
    deadline = time.monotonic() + spec.model_download_seconds

    def failed() -> bool:
        return control.wanted != "run" or any(task.error for task in tasks)

    if not control.wait(lambda: failed() or all(task.done for task in models), deadline - time.monotonic()):
        names = " and ".join(container.model.s3_uri for container in spec.containers if container.model)
        raise TransferError(
            f"The model {names} was not there after {spec.model_download_seconds} seconds, the endpoint's "
            "ModelDataDownloadTimeoutInSeconds.",
            by_request=True,
        )
    control.wait(lambda: failed() or all(task.done for task in tasks))
    leave_if_stopped(control)
    for task in tasks:
        if task.error is not None:
            raise task.error
    reporter.enter(Phase.DOWNLOADING)
    return [images[container.image].result for container in spec.containers]


class _Replica:
    """All containers of a replica; it serves while each of them does, and ends when one of them has to."""

    def __init__(
        self,
        spec: ReplicaSpec,
        folder: HostFolder,
        images: Sequence[Image | OwnImage],
        group: ControlGroup,
        sockets: Path,
        control: Control,
        reporter: Reporter,
        patience: Patience,
    ) -> None:
        self._spec, self._folder, self._images, self._group = spec, folder, images, group
        self._sockets, self._control, self._reporter, self._patience = sockets, control, reporter, patience
        self._several = len(spec.containers) > 1
        self._addresses: dict[str, str | None] = dict.fromkeys(container.hostname for container in spec.containers)
        self._roots: dict[int, int] = {}  # of containers that are not below this process
        self._changing = threading.Lock()
        self._endings: list[Ending] = []
        needed = self._several or any(container.mode == "MultiModel" for container in spec.containers)
        self._gateway = self._make_gateway() if needed else None

    def run(self) -> Ending:
        """To the end of the replica."""
        keepers = [
            ContainerKeeper(self._kept(number, container), self._control, self._reporter, self._patience)
            for number, container in enumerate(self._spec.containers)
        ]
        if not self._several:
            return keepers[0].run()
        for keeper in keepers:
            threading.Thread(target=self._run_one, args=(keeper,), name="container", daemon=True).start()
        self._control.wait(lambda: len(self._endings) == len(keepers))
        return next((ending for ending in self._endings if ending.cause != "Stopped"), self._endings[0])

    def _run_one(self, keeper: ContainerKeeper) -> None:
        try:
            ending = keeper.run()
        except SandboxError as error:
            ending = Ending(cause="ClientError", message=str(error))
        except Exception as error:  # noqa: BLE001 (the boundary of the thread: it is the replica's ending, on record)
            ending = Ending(cause="InternalError", message=f"{type(error).__name__}: {error}")
        self._endings.append(ending)
        self._control.notify()

    def _wanted(self) -> Literal["run", "stop", "abort"]:
        """What the server wants; when one container has ended by itself, the others are of no use."""
        return "abort" if any(ending.cause != "Stopped" for ending in self._endings) else self._control.wanted

    def _kept(self, number: int, container: ServingContainer) -> Kept:
        sockets = self._sockets
        if self._gateway is not None:
            sockets = self._sockets / str(number)
            sockets.mkdir(exist_ok=True)
        return Kept(
            title=f"The container {container.hostname}" if self._several else "The primary container",
            variant=self._spec.variant,
            startup_seconds=self._spec.startup_seconds,
            socket=sockets / SOCKET_NAME,
            start=partial(self._start, number, container, sockets),
            wanted=self._wanted,
            serves_at=partial(self._serves_at, container.hostname),
            before_stop=self._drain,
        )

    def _start(self, number: int, container: ServingContainer, sockets: Path, port: int) -> ServingProcess:
        """One run of a container. Of several, the first one's run measures what all of them use."""
        image = self._images[number]
        plan = container_plan.make(self._spec, self._folder, container, image, self._group, sockets, port)
        chosen = sandbox.choose(plan.spec, image)
        if not self._several:
            return ServingProcess(plan, chosen, self._control, self._reporter.log, self._reporter.measure)
        log = partial(self._log, f"[{container.hostname}] ")
        measure = self._reporter.measure if number == 0 else None
        process = ServingProcess(
            plan, chosen, self._control, log, measure, os.getpid(), lambda: tuple(self._roots.values())
        )
        if process.root is not None:
            self._roots[number] = process.root
        return process

    def _log(self, prefix: str, lines: Sequence[Line]) -> None:
        self._reporter.log([(at, prefix + text) for at, text in lines])

    def _serves_at(self, hostname: str, address: str | None, message: str) -> None:
        with self._changing:
            self._addresses[hostname] = address
            if self._gateway is not None:
                self._gateway.serve_from(hostname, address)
            if self._several:
                message = f"{hostname}: {message}"
            if all(self._addresses.values()):
                self._reporter.serve_at(self._gateway.address if self._gateway else address)
                self._reporter.enter(Phase.READY, message)
            elif address is None:
                self._reporter.serve_at(None)
                self._reporter.enter(Phase.STARTING, message)

    def _drain(self) -> None:
        if self._gateway is not None:
            self._gateway.drain(self._patience.stop, lambda: self._control.wanted == "abort")

    def _make_gateway(self) -> Gateway:
        from clary.host.gateway import Gateway, Stage

        def stage(container: ServingContainer) -> Stage:
            several_models = container.mode == "MultiModel" and container.model is not None
            return Stage(container.hostname, partial(self._make_models, container) if several_models else None)

        stages = [stage(container) for container in self._spec.containers]
        return Gateway(self._sockets / _GATEWAY, stages, direct=self._spec.direct)

    def _make_models(self, container: ServingContainer, call: CallContainer) -> ModelCache:
        from clary.host.model_cache import ModelCache
        from clary.host.model_disk import ModelDisk
        from clary.storage.client import ObjectStore

        assert container.model is not None
        image = self._images[self._spec.containers.index(container)]
        own = container_plan.folder_of(self._folder, container)
        disk = ModelDisk(container.model.s3_uri, ObjectStore(self._spec.store, patience=20.0), own.models)
        return ModelCache(
            disk,
            call,
            container_plan.models_inside(image, own),
            self._measure,
            keep=container.keeps_models,
            wait_seconds=self._patience.model_wait,
            load_seconds=self._patience.model_load,
        )

    def _measure(self, name: str, value: float) -> None:
        of_instance = name == "LoadedModelCount"
        self._reporter.measure([point(name, value, time.time_ns() // 1_000_000, instance=of_instance)])


@contextmanager
def _socket_folder(folder: HostFolder) -> Generator[Path]:
    """A folder for the servers' sockets: the host's own, unless its path is longer than a socket's may be."""
    own = folder.root / "sockets"
    if len(bytes(own / SOCKET_NAME)) <= _LONGEST_SOCKET_PATH:
        own.mkdir(exist_ok=True)
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="clary-", ignore_cleanup_errors=True) as short:
        yield Path(short)
