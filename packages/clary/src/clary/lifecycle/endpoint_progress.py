"""What an endpoint's record must say and order next, given what its replicas have reported.

Pure but for the rows that it is handed and the places that it asks for: `advance` may be run on rows that are thrown
away, to learn whether there is anything to do, and again on locked ones to do it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clary.host.spec import Ending, Phase
from clary.lifecycle.failure_reasons import capacity_reason, replica_reason, timeout_reason
from clary.lifecycle.traffic_shifting import due_share, step
from clary.lifecycle.training_placement import NeverFits
from clary.state.endpoints import Endpoint, EndpointReplica, changed_variant

DRAIN = dt.timedelta(seconds=2)  # until the routers have learnt of it and the requests that they had sent are answered
STOP_GRACE = dt.timedelta(seconds=75)  # a request may take 60 seconds, and SIGKILL follows SIGTERM after 30 idle ones
_START_ATTEMPTS = 3  # of a replica whose host fails by no fault of the model
_SETTLED = dt.timedelta(seconds=60)  # a replica that served as long begins with no failures behind it
_MAX_HOLD_BACK = 60.0


@dataclass(frozen=True)
class Vacancy:
    """A replica that is wanted and not there. `attempt` counts the failures at its position before this one."""

    generation: int
    variant: str
    position: int
    instance_type: str
    attempt: int = 0
    start_after: dt.datetime | None = None


@dataclass(frozen=True)
class ReplicaAction:
    """Something to do outside the database.

    start: have its supervisor started; kill: it does not end by itself; release: clean away what it leaves;
    forget: the endpoint is deleted and has no replicas any more.
    """

    kind: Literal["start", "kill", "release", "forget"]
    host_id: str = ""


Fill = Callable[[Endpoint, Sequence[Vacancy]], bool]
"""Give vacancies their places and rows, all or none; whether it did. Raises NeverFits."""


def advance(endpoint: Endpoint, at: dt.datetime, fill: Fill) -> list[ReplicaAction]:
    """Bring an endpoint's record up to date with its replicas, and say what is to be done for them.

    Args:
        endpoint: with its replicas loaded.
        at: now.
        fill: gives places.
    """
    for replica in endpoint.replicas:
        if replica.ready_time is None and replica.address and replica.phase == Phase.READY and not replica.ending:
            replica.ready_time = at
    if endpoint.status == "Deleting":
        _retire(endpoint.replicas, at, at_once=True)
    else:
        _bring_up(endpoint, at, fill)
        _keep_up(endpoint, at, fill)
    _stop_drained(endpoint, at)
    if endpoint.status == "RollingBack" and all(_is_of(replica, endpoint.serving) for replica in endpoint.replicas):
        _settle(endpoint, "InService", at, failure=endpoint.failure_reason)
    return _actions(endpoint, at)


def _bring_up(endpoint: Endpoint, at: dt.datetime, fill: Fill) -> None:
    """Start what the target plan wants; let it take over once all of it serves; give it up if it cannot."""
    plan = endpoint.target
    if plan is None or endpoint.status == "Failed":
        return
    replicas = [replica for replica in endpoint.replicas if _is_of(replica, plan)]
    reason = _why_given_up(endpoint, plan, replicas, at)
    if reason is None:
        try:
            _fill_up(endpoint, plan, at, fill)
        except NeverFits as error:
            reason = capacity_reason(str(error))
    if reason is not None:
        _give_up(endpoint, plan, reason, at)
    elif all(sum(_serves(r) and r.variant == v["name"] for r in replicas) >= v["count"] for v in plan["variants"]):
        _move_traffic(endpoint, plan, replicas, at)
    elif plan.get("shift"):
        _route(replicas)


def _why_given_up(
    endpoint: Endpoint, plan: Mapping[str, Any], replicas: Sequence[EndpointReplica], at: dt.datetime
) -> str | None:
    limit = _policy(endpoint).get("MaximumExecutionTimeoutInSeconds")
    if limit and endpoint.target_since and at > endpoint.target_since + dt.timedelta(seconds=limit):
        return timeout_reason(limit)
    for replica in replicas:
        if replica.ending is None:
            continue
        ending = Ending.model_validate(replica.ending)
        if ending.cause != "InternalError" or replica.attempt + 1 >= _START_ATTEMPTS:
            return replica_reason(ending, variant=replica.variant)
    return None


def _give_up(endpoint: Endpoint, plan: Mapping[str, Any], reason: str, at: dt.datetime) -> None:
    _retire([replica for replica in endpoint.replicas if _is_of(replica, plan)], at, at_once=True)
    if endpoint.serving is None:
        _settle(endpoint, "Failed", at, failure=reason)
    else:
        endpoint.target = None
        _settle(endpoint, "RollingBack", at, failure=reason)


def _move_traffic(
    endpoint: Endpoint, plan: dict[str, Any], replicas: Sequence[EndpointReplica], at: dt.datetime
) -> None:
    """Give the new fleet the share of the requests that it is to have by now; all of it in the end."""
    routing = _policy(endpoint).get("TrafficRoutingConfiguration", {})
    shift: Mapping[str, Any] | None = plan.get("shift")
    share = due_share(routing, shift, sum(v["count"] for v in plan["variants"] if not v["shadow"]), at)
    if endpoint.serving is None or share >= 1:
        _take_over(endpoint, {name: value for name, value in plan.items() if name != "shift"}, at)
        return
    _route(replicas)
    if shift is None or share != shift["share"]:
        endpoint.target = {**plan, "shift": step(share, at)}


def _route(replicas: Sequence[EndpointReplica]) -> None:
    for replica in replicas:
        replica.routed = _serves(replica) and not _leaves(replica)


def _take_over(endpoint: Endpoint, plan: dict[str, Any], at: dt.datetime) -> None:
    """From now on requests go to the new replicas; the old ones answer those that they have and are then stopped."""
    old = [replica for replica in endpoint.replicas if not _is_of(replica, plan)]
    endpoint.serving, endpoint.target = plan, None
    _retire(old, at)
    _settle(endpoint, "InService", at)


def _keep_up(endpoint: Endpoint, at: dt.datetime, fill: Fill) -> None:
    """Have the serving plan's replicas: replace the dead, add and remove as its desired counts say."""
    if endpoint.serving is None:
        return
    scaling = endpoint.status == "Updating" and endpoint.target is None
    reason = _why_not_scaled(endpoint, endpoint.serving) if scaling else None
    try:
        if reason is None:
            _fill_up(endpoint, endpoint.serving, at, fill)
    except NeverFits as error:
        reason = capacity_reason(str(error))
    if reason is not None and scaling:
        _undo_scaling(endpoint, endpoint.serving, reason, at)
    plan = endpoint.serving
    for variant in plan["variants"]:
        live = [r for r in endpoint.replicas if _is_of(r, plan) and r.variant == variant["name"] and not _leaves(r)]
        _retire([replica for replica in live if replica.position >= variant["desired_count"]], at)
        _route(live)
        reached = sum(replica.routed for replica in live) >= variant["desired_count"]
        plan = changed_variant(
            plan,
            variant["name"],
            weight=variant["desired_weight"],
            count=variant["desired_count"] if reached else variant["count"],
        )
    endpoint.serving = plan
    if scaling and endpoint.status == "Updating" and _is_as_desired(plan):
        _settle(endpoint, "InService", at)


def _why_not_scaled(endpoint: Endpoint, plan: Mapping[str, Any]) -> str | None:
    """Why instances that were to be added to a variant cannot serve, if they cannot."""
    for replica in endpoint.replicas:
        if not _is_of(replica, plan) or replica.ending is None or _was_told(replica):
            continue
        variant = next(item for item in plan["variants"] if item["name"] == replica.variant)
        if variant["count"] <= replica.position < variant["desired_count"]:
            return replica_reason(Ending.model_validate(replica.ending), variant=replica.variant)
    return None


def _undo_scaling(endpoint: Endpoint, plan: dict[str, Any], reason: str, at: dt.datetime) -> None:
    """The instances that were to be added cannot serve: keep those that do, and say why."""
    for variant in plan["variants"]:
        plan = changed_variant(plan, variant["name"], desired_count=variant["count"])
    endpoint.serving = plan
    _settle(endpoint, "RollingBack", at, failure=reason)


def _fill_up(endpoint: Endpoint, plan: Mapping[str, Any], at: dt.datetime, fill: Fill) -> bool:
    """Have a replica started at each position of a plan that has none; whether there is nothing to wait for."""
    vacancies = list(_vacancies(endpoint, plan, at))
    if not vacancies:
        return True
    placed = fill(endpoint, vacancies)
    endpoint.progress = "" if placed else "Waiting for memory or GPUs that other jobs and endpoints hold."
    return placed


def _vacancies(endpoint: Endpoint, plan: Mapping[str, Any], at: dt.datetime) -> Iterator[Vacancy]:
    for variant in plan["variants"]:
        mine = [r for r in endpoint.replicas if _is_of(r, plan) and r.variant == variant["name"]]
        held = {replica.position for replica in mine if not _leaves(replica)}
        for position in range(variant["desired_count"]):
            if position in held:
                continue
            dead = [replica for replica in mine if replica.position == position and not _was_told(replica)]
            attempt = max((_failures_in_a_row(replica) for replica in dead), default=0)
            yield Vacancy(
                generation=plan["generation"],
                variant=variant["name"],
                position=position,
                instance_type=variant["instance_type"],
                attempt=attempt,
                start_after=at + _hold_back(attempt) if attempt > 1 else None,
            )


def _failures_in_a_row(replica: EndpointReplica) -> int:
    served = replica.ready_time and replica.ended_time and replica.ended_time - replica.ready_time > _SETTLED
    return 1 if served else replica.attempt + 1


def _hold_back(attempt: int) -> dt.timedelta:
    """The first replacement starts at once, the next ones ever later: a model that always dies must not eat the CPU."""
    return dt.timedelta(seconds=min(2.0**attempt, _MAX_HOLD_BACK))


def _retire(replicas: Sequence[EndpointReplica], at: dt.datetime, *, at_once: bool = False) -> None:
    """Send replicas no more requests; stop them when they have answered those that they have, or at once."""
    for replica in replicas:
        replica.routed = False
        if replica.draining_since is None:
            replica.draining_since = at
        if at_once and replica.wanted == "run":
            replica.wanted, replica.stop_ordered_time = "stop", at


def _stop_drained(endpoint: Endpoint, at: dt.datetime) -> None:
    wait = dt.timedelta(seconds=_policy(endpoint).get("TerminationWaitInSeconds") or 0)
    for replica in endpoint.replicas:
        if replica.ending:
            replica.routed = False
        elif replica.draining_since and replica.wanted == "run" and at >= replica.draining_since + max(DRAIN, wait):
            replica.wanted, replica.stop_ordered_time = "stop", at


def _actions(endpoint: Endpoint, at: dt.datetime) -> list[ReplicaAction]:
    actions: list[ReplicaAction] = []
    for replica in endpoint.replicas:
        if replica.ending:
            actions.append(ReplicaAction("release", replica.host_id))
        elif replica.handle is None:
            if replica.wanted != "run":
                actions.append(ReplicaAction("kill", replica.host_id))
            elif replica.start_after is None or at >= replica.start_after:
                actions.append(ReplicaAction("start", replica.host_id))
        elif replica.stop_ordered_time and at > replica.stop_ordered_time + STOP_GRACE:
            actions.append(ReplicaAction("kill", replica.host_id))
    if endpoint.status == "Deleting" and not endpoint.replicas:
        actions.append(ReplicaAction("forget"))
    return actions


def _settle(endpoint: Endpoint, status: str, at: dt.datetime, *, failure: str | None = None) -> None:
    endpoint.status = status
    endpoint.failure_reason = failure
    endpoint.progress = ""
    endpoint.last_modified_time = at


def _policy(endpoint: Endpoint) -> Mapping[str, Any]:
    return (endpoint.deployment_config or {}).get("BlueGreenUpdatePolicy", {})


def _is_of(replica: EndpointReplica, plan: Mapping[str, Any] | None) -> bool:
    return plan is not None and replica.generation == plan["generation"]


def _serves(replica: EndpointReplica) -> bool:
    return replica.ready_time is not None and replica.phase == Phase.READY and replica.ending is None


def _leaves(replica: EndpointReplica) -> bool:
    """Whether it is dead or on its way out: its position is free for another."""
    return replica.ending is not None or replica.draining_since is not None


def _was_told(replica: EndpointReplica) -> bool:
    return replica.draining_since is not None


def _is_as_desired(plan: Mapping[str, Any]) -> bool:
    return all(variant["count"] == variant["desired_count"] for variant in plan["variants"])
