"""How an update's new fleet takes the traffic over: all at once, a canary first, or in equal steps.

Source: TrafficRoutingConfig of BlueGreenUpdatePolicy, and "Blue/Green Deployments" in AWS's guide.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

_ALL = 1.0


def due_share(routing: Mapping[str, Any], shift: Mapping[str, Any] | None, instances: int, at: dt.datetime) -> float:
    """The share of the requests, from 0 to 1, that the new fleet is to get now that all of it serves.

    Args:
        routing: TrafficRoutingConfiguration.
        shift: the last step that was taken, as `step` makes it; None before the first.
        instances: how many the new fleet has.
        at: now.
    """
    kind = routing.get("Type", "ALL_AT_ONCE")
    if kind == "ALL_AT_ONCE":
        return _ALL
    size = _share(routing["CanarySize" if kind == "CANARY" else "LinearStepSize"], instances)
    if shift is None:
        return min(size, _ALL)
    since = dt.datetime.fromisoformat(shift["since"])
    if at < since + dt.timedelta(seconds=routing["WaitIntervalInSeconds"]):
        return shift["share"]
    after = _ALL if kind == "CANARY" else shift["share"] + size
    return _ALL if after > _ALL - 1e-6 else after


def step(share: float, at: dt.datetime) -> dict[str, Any]:
    """A step that is taken, as a plan records it."""
    return {"share": share, "since": at.isoformat()}


def _share(size: Mapping[str, Any], instances: int) -> float:
    if size["Type"] == "CAPACITY_PERCENT":
        return size["Value"] / 100
    return size["Value"] / max(instances, 1)
