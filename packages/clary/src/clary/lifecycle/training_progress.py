"""What a training job's record must say and order next, given what its hosts have reported.

Pure but for the rows that it is handed: `advance` may be run on rows that are thrown away, to learn whether there is
anything to do, and again on locked ones to do it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clary.host.spec import Ending, Phase
from clary.lifecycle.failure_reasons import failure_reason
from clary.state.training_jobs import TERMINAL_STATUSES, TrainingHost, TrainingJob, move_to

ABORT_GRACE = dt.timedelta(seconds=10)  # for the last log lines of a host whose job has failed elsewhere
_FAILURES = frozenset({"ScriptFailed", "OutOfMemory", "ClientError", "InternalError"})
_ORDER = list(Phase)
_IMAGE = "Downloading the training image"
_STAGES: tuple[tuple[Phase, str, str], ...] = (
    (Phase.PREPARING_IMAGE, "Downloading", _IMAGE),
    (Phase.DOWNLOADING, "Downloading", "Downloading input data"),
    (Phase.TRAINING, "Training", "Training image download completed. Training in progress."),
    (Phase.UPLOADING, "Uploading", "Uploading generated training model"),
)
_STOPPED = {
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job wait time exceeded MaxWaitTimeInSeconds provided",
}


@dataclass(frozen=True)
class HostAction:
    """Something to do outside the database for one host.

    start: have its supervisor started; kill: it does not end by itself; release: clean away what it leaves.
    """

    kind: Literal["start", "kill", "release"]
    host_id: str


def advance(job: TrainingJob, at: dt.datetime) -> list[HostAction]:
    """Bring the record of a placed job up to date with its hosts, and say what is to be done for them.

    Args:
        job: with its hosts loaded.
        at: now.
    """
    hosts = [host for host in job.hosts if host.attempt == job.attempt]
    if job.stage == "placed":
        _follow_phases(job, hosts)
        _begin_stopping(job, hosts, at)
        _give_orders(hosts, at)
        if not all(host.ending for host in hosts):
            return _unfinished(hosts, at)
        _conclude(job, hosts, at)
    if job.stage == "releasing" and all(host.released for host in hosts):
        job.stage = "settled" if job.status in TERMINAL_STATUSES else "queued"
    return [HostAction("release", host.host_id) for host in hosts if not host.released]


def finish(job: TrainingJob, cause: str, at: dt.datetime, *, failure: str | None = None) -> None:
    """Give a job its terminal status.

    Args:
        job: not finished yet.
        cause: Completed, Failed, or one of the causes of a stop.
        at: when it ended.
        failure: the FailureReason of one that failed.
    """
    if cause in _STOPPED:
        move_to(job, cause, _STOPPED[cause], at, status="Stopped")
    else:
        move_to(job, cause, f"Training job {cause.lower()}", at, status=cause)
    job.failure_reason = failure
    job.training_end_time = at
    if job.warm_pool_status:
        job.warm_pool_status = "Terminated"


def stop_job(job: TrainingJob, cause: str, at: dt.datetime) -> None:
    """Record that a job of whatever stage is to stop; `_give_orders` passes it on to its hosts."""
    job.stop_cause = job.stop_cause or cause
    message = "Stopping the training job" if cause == "Stopped" else _STOPPED[cause]
    move_to(job, "Stopping", message, at, status="Stopping")


def _follow_phases(job: TrainingJob, hosts: Sequence[TrainingHost]) -> None:
    """Turn the hosts' phases into the job's transitions: it has reached what all of its hosts have reached."""
    for phase, status, message in _STAGES:
        times = [_reached(host, phase) for host in hosts]
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return
        at = max(known)
        if job.training_start_time is None:
            job.training_start_time = at
        if job.status == "Stopping" and status != "Uploading":
            continue
        been = [transition["Status"] for transition in _of_this_attempt(job)]
        # While it is the last one its message follows the hosts; the image's is over once one of them downloads input.
        if status not in been or (
            status == been[-1] and (phase is not Phase.PREPARING_IMAGE or _is_last(hosts, phase))
        ):
            move_to(job, status, message + _detail(hosts, phase), at)


def _of_this_attempt(job: TrainingJob) -> list[dict[str, Any]]:
    starts = [index for index, transition in enumerate(job.transitions) if transition["Status"] == "Starting"]
    return job.transitions[starts[-1] if starts else 0 :]


def _reached(host: TrainingHost, phase: Phase) -> dt.datetime | None:
    """When a host came to a phase or, if it skipped it, to one behind it. Ending is not reaching."""
    for change in host.phases:
        if change["phase"] != Phase.ENDED and _ORDER.index(Phase(change["phase"])) >= _ORDER.index(phase):
            return dt.datetime.fromisoformat(change["timestamp"])
    return None


def _is_last(hosts: Sequence[TrainingHost], phase: Phase) -> bool:
    """Whether no host has come to the phase after this one."""
    following = _ORDER[_ORDER.index(phase) + 1]
    return all(_reached(host, following) is None for host in hosts)


def _detail(hosts: Sequence[TrainingHost], phase: Phase) -> str:
    for host in hosts:
        for change in reversed(host.phases):
            if change["phase"] == phase and change.get("message"):
                return f": {change['message']}"
    return ""


def _begin_stopping(job: TrainingJob, hosts: Sequence[TrainingHost], at: dt.datetime) -> None:
    """MaxWaitTimeInSeconds counts from the creation; a host's own limit ends the whole job."""
    endings = {host.ending["cause"] for host in hosts if host.ending}
    if job.status == "Stopping" or endings & _FAILURES or all(host.ending for host in hosts):
        if "MaxRuntimeExceeded" in endings:
            job.stop_cause = job.stop_cause or "MaxRuntimeExceeded"
        return
    wait = job.request["StoppingCondition"].get("MaxWaitTimeInSeconds")
    if "MaxRuntimeExceeded" in endings:
        stop_job(job, "MaxRuntimeExceeded", at)
    elif "Stopped" in endings:
        stop_job(job, "Stopped", at)
    elif wait and at > job.creation_time + dt.timedelta(seconds=wait):
        stop_job(job, "MaxWaitTimeExceeded", at)


def _give_orders(hosts: Sequence[TrainingHost], at: dt.datetime) -> None:
    failed = any(host.ending and host.ending["cause"] in _FAILURES for host in hosts)
    stopping = hosts[0].job.status == "Stopping"
    ready = all(_ORDER.index(Phase(host.phase)) >= _ORDER.index(Phase.READY) for host in hosts)
    leader, others = hosts[0], hosts[1:]
    merge = leader.phase == Phase.UPLOADING and not failed and all(host.ending for host in others)
    for host in hosts:
        if host.ending:
            continue
        if failed and host.wanted != "abort":
            host.wanted, host.aborted_time = "abort", at
        elif stopping and host.wanted == "run":
            host.wanted = "stop"
        host.start_ordered = host.start_ordered or (ready and not failed)
    leader.merge_ordered = leader.merge_ordered or merge


def _unfinished(hosts: Sequence[TrainingHost], at: dt.datetime) -> list[HostAction]:
    actions: list[HostAction] = []
    for host in hosts:
        if host.ending:
            continue
        if host.handle is None:
            if host.wanted == "run":
                actions.append(HostAction("start", host.host_id))
            else:
                actions.append(HostAction("kill", host.host_id))
        elif host.aborted_time and at > host.aborted_time + ABORT_GRACE:
            actions.append(HostAction("kill", host.host_id))
    return actions


def _conclude(job: TrainingJob, hosts: Sequence[TrainingHost], at: dt.datetime) -> None:
    """Every host has ended: the job's status, or another attempt."""
    job.stage = "releasing"
    endings = [(host, Ending.model_validate(host.ending)) for host in hosts]
    failures = [(host, ending) for host, ending in endings if ending.cause in _FAILURES]
    failures.sort(key=lambda pair: pair[0].ended_time or at)
    job.model_artifact = endings[0][1].model_artifact
    if failures:
        host, ending = failures[0]
        internal = ending.cause == "InternalError"
        if internal and job.stop_cause:
            finish(job, job.stop_cause, at)
            return
        retries = job.request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0)
        if internal and job.attempt <= retries:
            message = f"Retrying after an internal error, attempt {job.attempt + 1} of {retries + 1}: {ending.message}"
            move_to(job, "Restarting", message, at)
            return
        reason = failure_reason(ending, host=host.name, hosts=len(hosts), memory_limit_bytes=host.memory_bytes)
        finish(job, "Failed", at, failure=reason)
        return
    finish(job, job.stop_cause or "Completed", at)
