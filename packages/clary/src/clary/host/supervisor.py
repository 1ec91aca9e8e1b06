"""The one flow of a host: image and inputs, the command, results, the ending.

    STARTING → PREPARING_IMAGE → DOWNLOADING → READY → TRAINING → UPLOADING → ENDED

Image, inputs and network are made ready side by side. A host that is one of several waits in READY for the server's
word; one alone goes straight on.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clary.host import containers, layout, limits, network, processes, remote_shell, sandbox
from clary.host.command_run import CommandRun
from clary.host.control import Control, Task
from clary.host.layout import HostFolder
from clary.host.progress import Progress
from clary.host.report import Reporter
from clary.host.sandbox import Plan, SandboxError
from clary.host.spec import Ending, HostSpec, Phase
from clary.host.transfers import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clary.host.image_layer import Image
    from clary.host.limits import ControlGroup
    from clary.host.network import Network
    from clary.host.serving_spec import AnySpec
    from clary.host.transfers import Transfers
    from clary.images.own import OwnImage

    PrepareImage = Callable[[HostSpec, Callable[[str], None]], Image | OwnImage]

_MERGE_SECONDS_AFTER_STOP = 120.0
_FOLDER_CHECK_SECONDS = 5.0


class ImageUnavailable(Exception):
    """The image cannot be had; the message is a sentence for the user."""


class EarlyEnd(Exception):
    """The host ends before its command was started."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.cause)
        self.ending = ending


@dataclass(frozen=True)
class _Ready:
    image: Image | OwnImage
    network: Network


def supervise(root: Path, prepare_image: PrepareImage, transfers: Transfers) -> Ending:
    """Bring one host from its order to its end; returns when the server has recorded the end.

    Arguments:
        root: the host's folder, with the `HostSpec` in host.json.
        prepare_image: makes the environment that the job runs in, telling its progress.
        transfers: carries inputs from the store and results to it.
    """
    folder = HostFolder(root)
    spec = HostSpec.model_validate_json(folder.spec.read_bytes())

    def live(group: ControlGroup, control: Control, reporter: Reporter) -> Ending:
        return _live(spec, folder, group, control, reporter, prepare_image, transfers)

    return oversee(spec, folder, live)


def oversee(spec: AnySpec, folder: HostFolder, live: Callable[[ControlGroup, Control, Reporter], Ending]) -> Ending:
    """Let a host of any kind live, and see that its end, whatever it is, leaves nothing behind and is recorded.

    Arguments:
        spec: what was ordered.
        folder: the host's.
        live: does the host's work and says how it ended; may raise what becomes the ending.
    """
    os.environ[processes.HOST_ID_VARIABLE] = spec.host_id  # programs that the supervisor itself starts are found by it
    control = Control()
    reporter = Reporter(spec, folder, control.apply)
    reporter.enter(Phase.STARTING)
    group = limits.create(spec.host_id, spec.limits)
    if group.folders:
        (folder.root / "cgroup").write_text(str(group.folders[0]))
    try:
        ending = live(group, control, reporter)
    except EarlyEnd as early:
        ending = early.ending
    except (SandboxError, ImageUnavailable) as error:
        ending = Ending(cause="ClientError", message=str(error))
    except TransferError as error:
        ending = Ending(cause="ClientError" if error.by_request else "InternalError", message=str(error))
    except Exception as error:  # noqa: BLE001 (the boundary: whatever goes wrong is the host's ending, on record)
        traceback.print_exc()
        ending = Ending(cause="InternalError", message=f"{type(error).__name__}: {error}")
    processes.kill_host(spec.host_id)
    containers.remove_all(folder.root, spec.host_id)
    group.remove()
    network.clean(spec.host_id)
    reporter.end(ending)
    while not reporter.delivered.wait(_FOLDER_CHECK_SECONDS):
        if not folder.spec.exists():
            break  # the cluster has removed the host: nobody waits for its report
    return ending


def _live(
    spec: HostSpec,
    folder: HostFolder,
    group: ControlGroup,
    control: Control,
    reporter: Reporter,
    prepare_image: PrepareImage,
    transfers: Transfers,
) -> Ending:
    ready = _make_ready(spec, folder, control, reporter, prepare_image, transfers)
    chosen = sandbox.choose(spec, ready.image)
    notices = [*spec.notices, *ready.image.notices, ready.network.notice]
    reporter.enter(Phase.READY)
    if len(spec.peers) > 1:
        reporter.await_order(True)
        control.wait(lambda: control.start_ordered or control.wanted != "run")
        reporter.await_order(False)
        leave_if_stopped(control)
    for text in filter(None, notices):
        reporter.notice(text)
    plan = Plan(
        spec=spec,
        folder=folder,
        image=ready.image,
        group=group,
        hosts=ready.network.hosts,
        network_namespace=ready.network.namespace,
        resolv_conf=ready.network.resolv_conf,
        system_programs=remote_shell.make(folder.system_programs) if remote_shell.is_needed(spec) else None,
    )
    send_the_rest = transfers.follow(spec, folder, reporter.notice)
    run = CommandRun(plan, chosen, control, reporter, spec.metric_definitions)
    reporter.enter(Phase.TRAINING)
    ending = run.finish()
    if control.wanted == "abort":
        return ending
    return _upload(spec, folder, control, reporter, transfers, ending, send_the_rest)


def _make_ready(
    spec: HostSpec,
    folder: HostFolder,
    control: Control,
    reporter: Reporter,
    prepare_image: PrepareImage,
    transfers: Transfers,
) -> _Ready:
    """Image, inputs and network, side by side; the first failure ends it."""
    isolated = network.needs_namespace(spec)
    layout.create(folder, spec, network.INTERFACE if isolated else network.shared(spec).interface)
    reporter.enter(Phase.PREPARING_IMAGE)
    image = Task(control, "image", lambda: prepare_image(spec, Progress(reporter, Phase.PREPARING_IMAGE)))
    inputs = Task(control, "inputs", lambda: transfers.download(spec, folder))
    net = Task(control, "connect", lambda: network.connect(spec) if isolated else network.shared(spec))
    tasks: list[Task[Image | OwnImage] | Task[None] | Task[Network]] = [image, inputs, net]

    def next_step() -> bool:
        return control.wanted != "run" or image.done or any(task.error for task in tasks)

    control.wait(next_step)
    if image.done and image.error is None:
        reporter.enter(Phase.DOWNLOADING)

    def finished() -> bool:
        return control.wanted != "run" or all(task.done for task in tasks) or any(task.error for task in tasks)

    control.wait(finished)
    leave_if_stopped(control)
    for task in tasks:
        if task.error is not None:
            raise task.error
    return _Ready(image.result, net.result)


def _upload(
    spec: HostSpec,
    folder: HostFolder,
    control: Control,
    reporter: Reporter,
    transfers: Transfers,
    ending: Ending,
    send_the_rest: Callable[[], None],
) -> Ending:
    """Bring the results to the store: the model of a job that went well or was stopped, other output always.

    Of several hosts each stages its part; algo-1 merges them at the server's word.
    """
    well = ending.cause in {"Completed", "Stopped", "MaxRuntimeExceeded"}
    reporter.enter(Phase.UPLOADING)
    is_first = spec.host == spec.peers[0].name
    try:
        _unless_aborted(control, send_the_rest)
        if len(spec.peers) == 1 or not well:
            work = partial(transfers.upload, spec, folder, with_model=well) if is_first else None
        elif not is_first:
            work = partial(transfers.stage, spec, folder)
        elif _await_merge(control, reporter, ending):
            work = partial(transfers.merge, spec, folder)
        else:
            work = partial(transfers.upload, spec, folder, with_model=True)
        artifact = _unless_aborted(control, work) if work is not None else None
    except TransferError as error:
        if not well:
            print(f"the output of the failed job was not uploaded: {error}", flush=True)
            return ending
        cause = "ClientError" if error.by_request else "InternalError"
        return ending.model_copy(update={"cause": cause, "message": f"Artifact upload failed: {error}"})
    return ending.model_copy(update={"model_artifact": artifact})


def _await_merge(control: Control, reporter: Reporter, ending: Ending) -> bool:
    """Whether the server says that every host has staged its part. After a stop it is not waited for long."""
    reporter.await_order(True)

    def ordered() -> bool:
        return control.merge_ordered or control.wanted == "abort"

    def ordered_or_stopped() -> bool:
        return ordered() or control.wanted == "stop"

    if ending.cause != "Completed" or control.wait(ordered_or_stopped):
        control.wait(ordered, _MERGE_SECONDS_AFTER_STOP)
    reporter.await_order(False)
    return control.merge_ordered


def _unless_aborted(control: Control, work: Callable[[], str | None]) -> str | None:
    """What `work` returns; nothing, at once, when the server orders an abort meanwhile."""
    if control.wanted == "abort":
        return None
    task = Task(control, "results", work)
    control.wait(lambda: task.done or control.wanted == "abort")
    return task.result if task.done else None


def leave_if_stopped(control: Control) -> None:
    """End the host before its command, when the server no longer wants it."""
    if control.wanted != "run":
        raise EarlyEnd(Ending(cause="Stopped"))
