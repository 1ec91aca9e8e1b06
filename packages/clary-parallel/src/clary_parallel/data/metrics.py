"""Metrics over all ranks, exactly as one process would compute them on the joined data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clary_parallel.data.variables import summed
from clary_parallel.frameworks import keras
from clary_parallel.older_pythons import paired


def joined_results(metrics: Sequence[Any], results: Any) -> Any:
    """Call `results()` with every metric in the state that all ranks' samples give; each rank's own state comes back.

    Keras' metrics keep sums (a total and a count, true positives, a confusion matrix), so states add up. A metric of
    the user's own class that derives from keras.metrics.Metric itself may keep anything: its result is averaged.
    """
    own = [metric for metric in flattened(metrics) if not _adds_up(metric)]
    variables = [variable for metric in flattened(metrics) if _adds_up(metric) for variable in metric.variables]
    before = [np.asarray(variable) for variable in variables]
    for variable, value in paired(variables, summed(before, "metrics")):
        variable.assign(value)
    try:
        answer = results()
    finally:
        for variable, value in paired(variables, before):
            variable.assign(value)
    return _averaged(answer, {metric.name for metric in own}) if own else answer


def flattened(metrics: Sequence[Any]) -> list[Any]:
    """Metrics with those inside composite metrics (Keras' CompileMetrics) instead of the composites."""
    found: list[Any] = []
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        found.extend(flattened(inner) if inner is not None else [metric])
    return found


def _adds_up(metric: Any) -> bool:
    classes = [kind for kind in type(metric).__mro__ if kind.__module__.split(".")[0] in ("keras", "tf_keras")]
    return classes[0] is not keras.metrics.Metric and classes[0].__name__ != "Metric"


def _averaged(answer: dict[str, Any], names: set[str]) -> dict[str, Any]:
    chosen = sorted(name for name in answer if name in names)
    values = summed([np.asarray(answer[name], np.float64) for name in chosen], "results of metrics")
    from clary_parallel.data import world

    return {**answer, **{name: value / world.size() for name, value in paired(chosen, values)}}
