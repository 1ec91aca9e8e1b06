"""CloudWatch: metrics put by jobs and scripts, and the statistics of them."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from sqlalchemy.orm import Session

from clary.services.registry import Context, in_thread, operation
from clary.state import metrics
from clary.state.database import now
from clary.state.logs import now_ms
from clary.state.metrics import Dimensions, MetricSeries, Sample, Statistic
from clary.wire.errors import AwsError
from clary.wire.pagination import decode_token, encode_token

# What sagemaker-metrics keeps is in namespaces of this beginning, which is none of CloudWatch's.
HIDDEN_NAMESPACES = ":"
_MAX_DATAPOINTS = 1440
_PAGE_DATAPOINTS = 100_800
_LIST_PAGE = 500
_PERCENTILE = re.compile(r"^p(\d{1,2}(?:\.\d{1,10})?|100)$")
_SIMPLE: dict[str, Callable[[Statistic], float]] = {
    "SampleCount": lambda found: found.sample_count,
    "Average": lambda found: found.total / found.sample_count,
    "Sum": lambda found: found.total,
    "Minimum": lambda found: found.minimum,
    "Maximum": lambda found: found.maximum,
}


@operation("cloudwatch", accepted_without_effect=("EntityMetricData.Entity", "StrictEntityValidation"))
@in_thread
def put_metric_data(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    of_entities = [datum for entity in params.get("EntityMetricData", ()) for datum in entity.get("MetricData", ())]
    data = [*params.get("MetricData", ()), *of_entities]
    if not data:
        raise AwsError("MissingParameter", "The parameter MetricData is required.")
    if len(data) > 1000:
        _invalid(f"The collection MetricData must not have a size greater than 1000. Received: {len(data)}")
    samples = [
        sample for number, datum in enumerate(data, 1) for sample in _samples(params["Namespace"], number, datum)
    ]
    with context.database.transaction() as session:
        metrics.record(session, samples)
    return {}


@operation("cloudwatch")
@in_thread
def get_metric_statistics(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    wanted, extended = params.get("Statistics", []), params.get("ExtendedStatistics", [])
    if not wanted and not extended:
        raise AwsError(
            "MissingParameter", "At least one of the parameters Statistics and ExtendedStatistics is required."
        )
    if wanted and extended:
        _bad_combination("Statistics and ExtendedStatistics cannot be given in the same request.")
    for name in extended:
        _percentile(name)
    start, end, period = _range(params["StartTime"], params["EndTime"], params["Period"])
    count = -(-(end - start) // period)
    if count > _MAX_DATAPOINTS:
        _bad_combination(
            f"You have requested up to {count} datapoints, which exceeds the limit of {_MAX_DATAPOINTS}. You may "
            "reduce the datapoints requested by increasing Period, or decreasing the time range."
        )
    query = {"start_ms": start, "end_ms": end, "period_ms": period}
    with context.database.reading() as session:
        series = metrics.find_series(
            session, params["Namespace"], params["MetricName"], _dimensions(params), params.get("Unit")
        )
        found = metrics.statistics(session, series, **query)
        values = metrics.weighted_values(session, series, **query) if extended else {}
    datapoints: list[dict[str, Any]] = []
    for statistic in found:
        datapoint: dict[str, Any] = {"Timestamp": _time(start + statistic.bucket * period), "Unit": statistic.unit}
        datapoint |= {name: _SIMPLE[name](statistic) for name in wanted}
        if extended:
            weighted = values.get((statistic.bucket, statistic.unit))
            if not weighted:
                continue
            datapoint["ExtendedStatistics"] = {
                name: _weighted_percentile(weighted, _percentile(name)) for name in extended
            }
        datapoints.append(datapoint)
    return {"Label": params["MetricName"], "Datapoints": datapoints}


@operation("cloudwatch", accepted_without_effect=("LabelOptions",))
@in_thread
def get_metric_data(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    queries = params["MetricDataQueries"]
    ids = [query["Id"] for query in queries]
    if len(set(ids)) < len(ids):
        _invalid("The values of the parameter Id in MetricDataQueries must be unique.")
    ascending = params.get("ScanBy") == "TimestampAscending"
    with context.database.reading() as session:
        results = [_query(session, query, params["StartTime"], params["EndTime"]) for query in queries]
    skip = _offset(params["NextToken"]) if params.get("NextToken") else 0
    room = min(params.get("MaxDatapoints") or _PAGE_DATAPOINTS, _PAGE_DATAPOINTS)
    answer: list[dict[str, Any]] = []
    passed = 0
    for query, points in zip(queries, results, strict=True):
        if not query.get("ReturnData", True):
            continue
        ordered = points if ascending else points[::-1]
        part = ordered[max(skip - passed, 0) : max(skip + room - passed, 0)]
        complete = skip + room >= passed + len(ordered)
        if part or (skip == 0 and not ordered):
            answer.append(
                {
                    "Id": query["Id"],
                    "Label": query.get("Label") or query["MetricStat"]["Metric"]["MetricName"],
                    "Timestamps": [timestamp for timestamp, _ in part],
                    "Values": [value for _, value in part],
                    "StatusCode": "Complete" if complete else "PartialData",
                }
            )
        passed += len(ordered)
    reached = {"NextToken": encode_token({"offset": skip + room})} if passed > skip + room else {}
    return {"MetricDataResults": answer, "Messages": [], **reached}


@operation("cloudwatch", accepted_without_effect=("IncludeLinkedAccounts", "OwningAccount"))
@in_thread
def list_metrics(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    after = _offset(params["NextToken"]) if params.get("NextToken") else 0
    where = [~MetricSeries.namespace.startswith(HIDDEN_NAMESPACES, autoescape=True)]
    if "Namespace" in params:
        where.append(MetricSeries.namespace == params["Namespace"])
    if "MetricName" in params:
        where.append(MetricSeries.name == params["MetricName"])
    since = now_ms() - (3 if params.get("RecentlyActive") else 14 * 24) * 3_600_000
    listed: dict[str, dict[str, Any]] = {}
    with context.database.reading() as session:
        while True:
            series = metrics.series_page(session, *where, after_id=after, limit=_LIST_PAGE)
            newest = metrics.newest_point_ms(session, (one.id for one in series))
            for one in series:
                if newest.get(one.id, 0) < since or not _has_dimensions(one, params.get("Dimensions", ())):
                    continue
                dimensions = [{"Name": name, "Value": value} for name, value in one.dimensions]
                metric = {"Namespace": one.namespace, "MetricName": one.name, "Dimensions": dimensions}
                listed[metrics.identity(one.namespace, one.name, tuple(map(tuple, one.dimensions)), "")] = metric
            if len(series) < _LIST_PAGE:
                return {"Metrics": list(listed.values())}
            after = series[-1].id
            if len(listed) >= _LIST_PAGE:
                return {"Metrics": list(listed.values()), "NextToken": encode_token({"offset": after})}


def dimensions_of(pairs: Iterable[dict[str, str]]) -> Dimensions:
    """Dimensions as the record keeps them: sorted, since their order has no meaning."""
    return tuple(sorted((pair["Name"], pair["Value"]) for pair in pairs))


def _dimensions(params: dict[str, Any]) -> Dimensions:
    return dimensions_of(params.get("Dimensions", ()))


def _has_dimensions(series: MetricSeries, filters: Sequence[dict[str, str]]) -> bool:
    own = dict(series.dimensions)
    return all(one["Name"] in own and one.get("Value", own[one["Name"]]) == own[one["Name"]] for one in filters)


def _samples(namespace: str, number: int, datum: dict[str, Any]) -> list[Sample]:
    member = f"MetricData.member.{number}"
    given = [name for name in ("Value", "Values", "StatisticValues") if name in datum]
    if len(given) != 1:
        received = " and ".join(given) or "none of them"
        _bad_combination(
            f"Exactly one of the parameters {member}.Value, {member}.Values and {member}.StatisticValues must be "
            f"specified. Received: {received}"
        )
    dimensions = _dimensions(datum)
    timestamp_ms = int(datum.get("Timestamp", now()).timestamp() * 1000)
    age_hours = (now_ms() - timestamp_ms) / 3_600_000
    if not -2 <= age_hours <= 14 * 24:
        _invalid(f"The parameter {member}.Timestamp must be within the last two weeks and the next two hours.")
    unit = datum.get("Unit", "None")
    if "StatisticValues" in datum:
        found = datum["StatisticValues"]
        count, total, least, most = (found[key] for key in ("SampleCount", "Sum", "Minimum", "Maximum"))
        _check_numbers(member, (count, total, least, most))
        if count <= 0 or least > most:
            _invalid(f"The parameter {member}.StatisticValues needs a positive SampleCount and Minimum up to Maximum.")
        return [Sample(namespace, datum["MetricName"], dimensions, timestamp_ms, count, total, least, most, unit)]
    values: list[float] = datum.get("Values", [datum.get("Value")])
    counts: list[float] = datum.get("Counts", [1.0] * len(values))
    if not values or len(values) > 150 or len(counts) != len(values):
        _invalid(
            f"The parameter {member}.Values must hold 1 to 150 values, and Counts as many. "
            f"Received: {len(values)} values and {len(counts)} counts"
        )
    _check_numbers(member, (*values, *counts))
    if min(counts) <= 0:
        _invalid(f"The parameter {member}.Counts must hold positive numbers. Received: {min(counts)}")
    return [
        metrics.value_sample(namespace, datum["MetricName"], dimensions, timestamp_ms, value, count=count, unit=unit)
        for value, count in zip(values, counts, strict=True)
    ]


def _check_numbers(member: str, numbers: Iterable[float]) -> None:
    for number in numbers:
        if not math.isfinite(number) or abs(number) > 2.0**360:
            _invalid(f"The parameter {member} holds a number that is not between -2^360 and 2^360. Received: {number}")


def _query(
    session: Session, query: dict[str, Any], start_time: dt.datetime, end_time: dt.datetime
) -> list[tuple[dt.datetime, float]]:
    """The values that one MetricDataQuery asks for, oldest first."""
    if "Expression" in query or "MetricStat" not in query:
        kind = "the metric math expression " + repr(query["Expression"]) if "Expression" in query else "no MetricStat"
        _invalid(
            f"Clary computes statistics of single metrics: MetricDataQueries {query['Id']!r} needs a MetricStat. "
            f"Received: {kind}"
        )
    stat, metric = query["MetricStat"], query["MetricStat"]["Metric"]
    if "Namespace" not in metric or "MetricName" not in metric:
        _invalid(f"The MetricStat of {query['Id']!r} needs a Metric with Namespace and MetricName.")
    start, end, period = _range(start_time, end_time, stat["Period"])
    series = metrics.find_series(
        session, metric["Namespace"], metric["MetricName"], _dimensions(metric), stat.get("Unit")
    )
    range_ = {"start_ms": start, "end_ms": end, "period_ms": period}
    if stat["Stat"] in _SIMPLE:
        compute = _SIMPLE[stat["Stat"]]
        found = metrics.statistics(session, series, **range_)
        return [(_time(start + one.bucket * period), compute(one)) for one in found]
    percentile = _percentile(stat["Stat"])
    weighted = metrics.weighted_values(session, series, **range_)
    return [
        (_time(start + bucket * period), _weighted_percentile(values, percentile))
        for (bucket, _), values in sorted(weighted.items())
        if values
    ]


def _range(start: dt.datetime, end: dt.datetime, period: int) -> tuple[int, int, int]:
    """Start (rounded down to the minute, or to the period when that is shorter), end and period in milliseconds."""
    if start >= end:
        _invalid("The parameter StartTime must be less than the parameter EndTime.")
    if period not in (1, 5, 10, 20, 30) and period % 60:
        _invalid(f"The parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60. Received: {period}")
    grain = min(period, 60)
    return int(start.timestamp()) // grain * grain * 1000, int(end.timestamp() * 1000), period * 1000


def _percentile(name: str) -> float:
    parts = _PERCENTILE.match(name)
    if parts is None:
        _invalid(
            f"The statistic {name!r} is not one that Clary computes. Expected {', '.join(_SIMPLE)} or a percentile "
            "such as p50 or p99.9."
        )
    return float(parts[1])


def _weighted_percentile(values: list[tuple[float, float]], percentile: float) -> float:
    """The value below which `percentile` per cent of the samples lie, interpolated between neighbours.

    Args:
        values: (value, count), sorted by value.
    """
    target = (sum(count for _, count in values) - 1) * percentile / 100
    passed = 0.0
    for number, (value, count) in enumerate(values):
        if target <= passed + count - 1 or number == len(values) - 1:
            return value
        if target < passed + count:
            fraction = target - (passed + count - 1)
            return value + (values[number + 1][0] - value) * fraction
        passed += count
    raise AssertionError("values is never empty")


def _offset(token: str) -> int:
    try:
        offset = decode_token(token).get("offset")
    except AwsError:
        offset = None
    if not isinstance(offset, int):
        raise AwsError("InvalidNextToken", "The specified NextToken is invalid. Use that of the previous page.")
    return offset


def _time(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def _invalid(message: str) -> NoReturn:
    raise AwsError("InvalidParameterValue", message)


def _bad_combination(message: str) -> NoReturn:
    raise AwsError("InvalidParameterCombination", message)
