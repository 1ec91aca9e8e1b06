"""SageMaker Metrics: the values that training scripts put by step, and their series.

The metrics of a trial component are kept in a namespace of their own that CloudWatch does not show; those that
MetricDefinitions found in a training job's log are read from where CloudWatch has them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from clary.services.cloudwatch import HIDDEN_NAMESPACES
from clary.services.registry import Context, in_thread, operation
from clary.state import metrics
from clary.state.logs import now_ms
from clary.state.metrics import Dimensions

_NAMESPACE = HIDDEN_NAMESPACES + "sagemaker-metrics"
_TWO_WEEKS_MS, _TWO_HOURS_MS = 14 * 24 * 3_600_000, 2 * 3_600_000
_PERIODS_MS = {"OneMinute": 60_000, "FiveMinute": 300_000, "OneHour": 3_600_000}
_MAX_VALUES = 10_000

# Points as (value, count), in order of time.
_STATISTICS: dict[str, Callable[[Sequence[tuple[float, float]]], float]] = {
    "Min": lambda points: min(value for value, _ in points),
    "Max": lambda points: max(value for value, _ in points),
    "Avg": lambda points: sum(value * count for value, count in points) / sum(count for _, count in points),
    "Count": lambda points: sum(count for _, count in points),
    "StdDev": lambda points: statistics.pstdev(value for value, _ in points),
    "Last": lambda points: points[-1][0],
}


@operation("sagemaker-metrics")
@in_thread
def batch_put_metrics(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    dimensions = (("TrialComponentName", str(params["TrialComponentName"])),)
    samples: list[metrics.Sample] = []
    errors: list[dict[str, Any]] = []
    now = now_ms()
    for index, datum in enumerate(params["MetricData"]):
        timestamp_ms = int(datum["Timestamp"].timestamp() * 1000)
        if not math.isfinite(datum["Value"]) or not now - _TWO_WEEKS_MS <= timestamp_ms <= now + _TWO_HOURS_MS:
            errors.append({"Code": "VALIDATION_ERROR", "MetricIndex": index})
            continue
        step = datum.get("Step")
        samples.append(
            metrics.value_sample(_NAMESPACE, datum["MetricName"], dimensions, timestamp_ms, datum["Value"], step=step)
        )
    with context.database.transaction() as session:
        metrics.record(session, samples)
    return {"Errors": errors} if errors else {}


@operation("sagemaker-metrics")
@in_thread
def batch_get_metrics(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    return {"MetricQueryResults": [_result(context, query) for query in params["MetricQueries"]]}


def _result(context: Context, query: dict[str, Any]) -> dict[str, Any]:
    by_step = query["XAxisType"] == "IterationNumber"
    place = _place(query["ResourceArn"])
    if place is None:
        return _refused(
            f"Clary has no metrics of {query['ResourceArn']}: expected a training job or a trial component."
        )
    if by_step != (query["Period"] == "IterationNumber"):
        return _refused("The Period IterationNumber belongs to the XAxisType IterationNumber, and only to it.")
    namespace, dimensions = place
    with context.database.reading() as session:
        series = metrics.find_series(session, namespace, query["MetricName"], dimensions)
        points = metrics.points(session, series, by_step=by_step)
    x_values: list[int] = []
    y_values: list[float] = []
    start, end = query.get("Start"), query.get("End")
    for x, group in groupby(points, key=lambda point: _x_value(point, query["Period"])):
        if x is None or (start is not None and x < start) or (end is not None and x > end):
            continue
        x_values.append(x)
        y_values.append(
            _STATISTICS[query["MetricStat"]](
                [(point.total / point.sample_count, point.sample_count) for point in group]
            )
        )
    status = "Complete" if len(x_values) <= _MAX_VALUES else "Truncated"
    return {"Status": status, "XAxisValues": x_values[:_MAX_VALUES], "MetricValues": y_values[:_MAX_VALUES]}


def _x_value(point: Any, period: str) -> int | None:
    """The step, or the period's start in seconds since the epoch."""
    if period == "IterationNumber":
        return point.step
    return point.timestamp_ms // _PERIODS_MS[period] * _PERIODS_MS[period] // 1000


def _place(arn: str) -> tuple[str, Dimensions] | None:
    kind, _, name = arn.split(":", 5)[5].partition("/")
    if kind == "training-job":
        return metrics.TRAINING_NAMESPACE, (("TrainingJobName", name),)
    if kind == "experiment-trial-component":
        return _NAMESPACE, (("TrialComponentName", name),)
    return None


def _refused(message: str) -> dict[str, Any]:
    return {"Status": "ValidationError", "Message": message, "XAxisValues": [], "MetricValues": []}
