"""SageMaker Metrics: values by step."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

ARN = "arn:aws:sagemaker:us-east-1:000000000000:"
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def client(clients: Callable[[str], Any]) -> Any:
    return clients("sagemaker-metrics")


def _put(client: Any, *data: tuple[int, float], component: str = "run") -> Any:
    return client.batch_put_metrics(
        TrialComponentName=component,
        MetricData=[{"MetricName": "loss", "Timestamp": NOW, "Step": step, "Value": value} for step, value in data],
    )


def _get(client: Any, stat: str, **options: Any) -> Any:
    query = {
        "MetricName": "loss",
        "ResourceArn": f"{ARN}experiment-trial-component/run",
        "MetricStat": stat,
        "Period": "IterationNumber",
        "XAxisType": "IterationNumber",
    }
    return client.batch_get_metrics(MetricQueries=[query | options])["MetricQueryResults"][0]


@pytest.mark.parametrize(
    ("stat", "expected"),
    [("Last", [1, 6]), ("Min", [1, 2]), ("Max", [3, 6]), ("Avg", [2, 4]), ("Count", [2, 2]), ("StdDev", [1, 2])],
)
def test_values_are_summed_up_by_step(client: Any, stat: str, expected: list[float]) -> None:
    assert "Errors" not in _put(client, (1, 2.0), (1, 6.0), (0, 3.0), (0, 1.0))
    _put(client, (0, 99.0), component="another")
    assert _get(client, stat)["XAxisValues"] == [0, 1]
    assert _get(client, stat)["MetricValues"] == expected
    assert _get(client, stat, Start=1)["XAxisValues"] == [1]


def test_values_are_summed_up_by_time(client: Any) -> None:
    _put(client, (0, 1.0), (1, 3.0))
    result = _get(client, "Avg", Period="OneHour", XAxisType="Timestamp")
    assert result["MetricValues"] == [2.0]
    assert result["XAxisValues"][0] == int(NOW.timestamp()) // 3600 * 3600


def test_each_bad_value_has_its_own_error_and_the_others_are_kept(client: Any) -> None:
    answer = client.batch_put_metrics(
        TrialComponentName="run",
        MetricData=[
            {"MetricName": "loss", "Timestamp": NOW - dt.timedelta(days=30), "Step": 0, "Value": 1.0},
            {"MetricName": "loss", "Timestamp": NOW, "Step": 0, "Value": 2.0},
            {"MetricName": "loss", "Timestamp": NOW + dt.timedelta(days=1), "Step": 1, "Value": 3.0},
        ],
    )
    assert answer["Errors"] == [
        {"Code": "VALIDATION_ERROR", "MetricIndex": 0},
        {"Code": "VALIDATION_ERROR", "MetricIndex": 2},
    ]
    assert _get(client, "Last")["MetricValues"] == [2.0]


def test_they_are_none_of_cloudwatchs_metrics(client: Any, clients: Callable[[str], Any]) -> None:
    _put(client, (0, 1.0))
    assert clients("cloudwatch").list_metrics()["Metrics"] == []


def test_what_a_training_job_printed_can_be_read_too(client: Any, clients: Callable[[str], Any]) -> None:
    clients("cloudwatch").put_metric_data(
        Namespace="/aws/sagemaker/TrainingJobs",
        MetricData=[{"MetricName": "loss", "Value": 7, "Dimensions": [{"Name": "TrainingJobName", "Value": "job"}]}],
    )
    arn = f"{ARN}training-job/job"
    assert _get(client, "Last", ResourceArn=arn, Period="OneMinute", XAxisType="Timestamp")["MetricValues"] == [7]


def test_a_query_that_cannot_be_answered_says_why(client: Any) -> None:
    assert _get(client, "Last", ResourceArn=f"{ARN}endpoint/e")["Status"] == "ValidationError"
    result = _get(client, "Last", Period="OneHour")
    assert result["Status"] == "ValidationError"
    assert "IterationNumber" in result["Message"]
