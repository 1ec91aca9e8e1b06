"""CloudWatch's metrics as boto3 and the SDKs use them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

START = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)).replace(second=0, microsecond=0)
ALL = ["SampleCount", "Average", "Sum", "Minimum", "Maximum"]


@pytest.fixture
def client(clients: Callable[[str], Any]) -> Any:
    return clients("cloudwatch")


def _at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def _put(client: Any, *data: dict[str, Any], name: str = "loss", namespace: str = "ns") -> None:
    client.put_metric_data(Namespace=namespace, MetricData=[{"MetricName": name, **datum} for datum in data])


def _statistics(client: Any, **options: Any) -> list[dict[str, Any]]:
    request = {
        "Namespace": "ns",
        "MetricName": "loss",
        "StartTime": START,
        "EndTime": _at(600),
        "Period": 60,
        **({} if "ExtendedStatistics" in options else {"Statistics": ALL}),
    }
    return client.get_metric_statistics(**request | options)["Datapoints"]


def _job(name: str) -> list[dict[str, str]]:
    return [{"Name": "TrainingJobName", "Value": name}]


def test_values_are_summed_up_by_period(client: Any) -> None:
    _put(client, *({"Timestamp": _at(second), "Value": value} for second, value in ((0, 1.0), (59.9, 3.0), (60, 10.0))))
    first, second = _statistics(client)
    assert first == {
        "Timestamp": START,
        "SampleCount": 2.0,
        "Average": 2.0,
        "Sum": 4.0,
        "Minimum": 1.0,
        "Maximum": 3.0,
        "Unit": "None",
    }
    assert (second["Timestamp"], second["Sum"]) == (_at(60), 10.0)


def test_counts_and_statistic_sets_weigh_as_many_values(client: Any) -> None:
    _put(
        client,
        {"Timestamp": _at(1), "Values": [2.0, 4.0], "Counts": [3.0, 1.0]},
        {"Timestamp": _at(2), "StatisticValues": {"SampleCount": 6, "Sum": 60, "Minimum": -1, "Maximum": 20}},
    )
    (found,) = _statistics(client)
    assert (found["SampleCount"], found["Sum"], found["Average"]) == (10, 70, 7)
    assert (found["Minimum"], found["Maximum"]) == (-1, 20)


def test_dimensions_must_be_the_same_but_not_in_order(client: Any) -> None:
    both = [{"Name": "b", "Value": "2"}, {"Name": "a", "Value": "1"}]
    _put(client, {"Timestamp": START, "Value": 1, "Dimensions": both}, {"Timestamp": START, "Value": 5})
    assert [point["Sum"] for point in _statistics(client, Dimensions=both[::-1])] == [1]
    assert [point["Sum"] for point in _statistics(client)] == [5]
    assert _statistics(client, Dimensions=both[:1]) == []


def test_units_are_kept_apart(client: Any) -> None:
    _put(client, {"Timestamp": START, "Value": 1, "Unit": "Bytes"}, {"Timestamp": START, "Value": 2, "Unit": "Percent"})
    assert sorted((point["Unit"], point["Sum"]) for point in _statistics(client)) == [("Bytes", 1), ("Percent", 2)]
    assert [point["Sum"] for point in _statistics(client, Unit="Percent")] == [2]


def test_percentiles_are_interpolated_between_values(client: Any) -> None:
    _put(client, {"Timestamp": START, "Values": [float(value) for value in range(1, 101)]})
    (found,) = _statistics(client, ExtendedStatistics=["p50", "p99", "p0.5", "p100"])
    assert found["ExtendedStatistics"] == pytest.approx({"p50": 50.5, "p99": 99.01, "p0.5": 1.495, "p100": 100})
    _put(client, {"Timestamp": START, "StatisticValues": {"SampleCount": 2, "Sum": 3, "Minimum": 1, "Maximum": 2}})
    assert _statistics(client, ExtendedStatistics=["p50"]) == []


def test_several_metrics_come_in_one_answer_in_either_order(client: Any) -> None:
    for name, factor in (("loss", 1), ("accuracy", 100)):
        _put(client, *({"Timestamp": _at(60 * k), "Value": factor * k} for k in range(3)), name=name)
    queries = [
        _metric_query("a", "loss", "Sum"),
        _metric_query("b", "accuracy", "p50"),
        _metric_query("c", "no", "Sum"),
    ]
    request = {"MetricDataQueries": queries, "StartTime": START, "EndTime": _at(600)}
    down = client.get_metric_data(**request)["MetricDataResults"]
    assert [result["Values"] for result in down] == [[2, 1, 0], [200, 100, 0], []]
    up = client.get_metric_data(**request, ScanBy="TimestampAscending")["MetricDataResults"]
    assert up[0]["Timestamps"] == [START, _at(60), _at(120)]
    assert [result["Label"] for result in up] == ["loss", "accuracy", "no"]
    assert {result["StatusCode"] for result in up} == {"Complete"}


def test_many_datapoints_come_in_pages(client: Any) -> None:
    for name in ("loss", "accuracy"):
        _put(client, *({"Timestamp": _at(60 * k), "Value": k} for k in range(5)), name=name)
    request = {
        "MetricDataQueries": [_metric_query("a", "loss", "Sum"), _metric_query("b", "accuracy", "Sum")],
        "StartTime": START,
        "EndTime": _at(600),
        "ScanBy": "TimestampAscending",
        "MaxDatapoints": 3,
    }
    seen: dict[str, list[float]] = {}
    token: dict[str, str] = {}
    for _ in range(4):
        answer = client.get_metric_data(**request, **token)
        for result in answer["MetricDataResults"]:
            seen.setdefault(result["Id"], []).extend(result["Values"])
        token = {"NextToken": answer["NextToken"]} if "NextToken" in answer else {}
    assert not token
    assert seen == {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3, 4]}


def test_metrics_are_listed_by_name_and_dimension(client: Any) -> None:
    for job in ("one", "two"):
        for name in ("loss", "accuracy"):
            _put(client, {"Timestamp": START, "Value": 1, "Dimensions": _job(job)}, name=name)
    _put(client, {"Value": 1, "Unit": "Count"}, {"Value": 1}, namespace="other")
    old = dt.datetime.now(dt.UTC) - dt.timedelta(hours=5)
    _put(client, {"Timestamp": old, "Value": 1}, namespace="old")
    assert len(client.list_metrics()["Metrics"]) == 6
    assert client.list_metrics(Namespace="other")["Metrics"] == [
        {"Namespace": "other", "MetricName": "loss", "Dimensions": []}
    ]
    (found,) = client.list_metrics(MetricName="loss", Dimensions=_job("two"))["Metrics"]
    assert found["Dimensions"] == _job("two")
    assert len(client.list_metrics(Dimensions=[{"Name": "TrainingJobName"}])["Metrics"]) == 4
    assert client.list_metrics(Namespace="old", RecentlyActive="PT3H")["Metrics"] == []


def test_more_than_a_page_of_metrics_is_listed_whole(client: Any) -> None:
    for part in range(2):
        data = [{"MetricName": f"m{part}-{number}", "Value": 1} for number in range(600)]
        client.put_metric_data(Namespace="ns", MetricData=data)
    pages = list(client.get_paginator("list_metrics").paginate(Namespace="ns"))
    assert len(pages) > 1
    assert len({metric["MetricName"] for page in pages for metric in page["Metrics"]}) == 1200


def _metric_query(identifier: str, name: str, stat: str) -> dict[str, Any]:
    metric = {"Namespace": "ns", "MetricName": name}
    return {"Id": identifier, "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}}


@pytest.mark.parametrize(
    ("datum", "code", "text"),
    [
        ({}, "InvalidParameterCombination", "Exactly one of"),
        ({"Value": 1, "Values": [1]}, "InvalidParameterCombination", "Received: Value and Values"),
        ({"Values": [1, 2], "Counts": [1]}, "InvalidParameterValue", "2 values and 1 counts"),
        ({"Value": 1e300}, "InvalidParameterValue", "2\\^360"),
        ({"Value": 1, "Timestamp": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}, "InvalidParameterValue", "two weeks"),
    ],
)
def test_data_that_aws_refuses_is_refused(client: Any, datum: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        _put(client, datum)
    assert caught.value.response["Error"]["Code"].startswith(code)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"EndTime": START}, "InvalidParameterValue", "StartTime must be less"),
        ({"Period": 61}, "InvalidParameterValue", "multiple of 60. Received: 61"),
        ({"Period": 1, "EndTime": _at(1500)}, "InvalidParameterCombination", "up to 1500 datapoints"),
        ({"ExtendedStatistics": ["tm90"]}, "InvalidParameterValue", "'tm90' is not one that Clary computes"),
    ],
)
def test_a_request_for_statistics_that_cannot_be_met_is_refused(
    client: Any, options: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        _statistics(client, **options)
    assert caught.value.response["Error"]["Code"].startswith(code)


def test_metric_math_is_refused_by_name(client: Any) -> None:
    with pytest.raises(ClientError, match="metric math expression 'a/2'"):
        client.get_metric_data(MetricDataQueries=[{"Id": "b", "Expression": "a/2"}], StartTime=START, EndTime=_at(60))
