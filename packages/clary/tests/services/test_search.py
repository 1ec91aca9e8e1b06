"""Search over training jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from clary.state import tags
from clary.state.database import Database

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def client(clients: Callable[[str], Any], add_job: Callable[..., Any], database: Database) -> Any:
    """Four jobs: a, b, c and d, changed in this order."""
    for number, name in enumerate("abcd"):
        job = add_job(
            name,
            status=("Completed", "Failed")[number % 2],
            creation_time=START + dt.timedelta(days=3 - number),
            last_modified_time=START + dt.timedelta(days=number),
            HyperParameters={"lr": str(0.5 * number), "dotted.name": "x", "optimizer": ("adam", "sgd")[number // 2]},
            InputDataConfig=[_channel("train", f"s3://bucket/{name}"), _channel("test", "s3://other/data")],
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": number + 1, "VolumeSizeInGB": 1},
            EnableNetworkIsolation=number == 3,
            final_metrics=[{"MetricName": "accuracy", "Value": number / 4, "Timestamp": START.timestamp()}]
            if number
            else [],
        )
        with database.transaction() as session:
            tags.put(session, job.arn, [{"Key": "team", "Value": name.upper()}] if number < 2 else [])
    return clients("sagemaker")


def _channel(name: str, uri: str) -> dict[str, Any]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}}


def _filter(name: str, operator: str | None = None, value: str | None = None) -> dict[str, str]:
    given = {"Name": name, "Operator": operator, "Value": value}
    return {key: text for key, text in given.items() if text is not None}


def _search(client: Any, expression: dict[str, Any] | None = None, **options: Any) -> str:
    """The names found, in order, as one word."""
    given = {"SearchExpression": expression} if expression is not None else {}
    pages = client.get_paginator("search").paginate(Resource="TrainingJob", **given, **options)
    return "".join(found["TrainingJob"]["TrainingJobName"] for page in pages for found in page["Results"])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (_filter("TrainingJobName", "Equals", "b"), "b"),
        (_filter("TrainingJobName", value="b"), "b"),
        (_filter("TrainingJobName", "NotEquals", "b"), "acd"),
        (_filter("TrainingJobName", "In", "a, d,x"), "ad"),
        (_filter("TrainingJobStatus", "Contains", "omp"), "ac"),
        (_filter("Tags.team", "Exists"), "ab"),
        (_filter("Tags.team", "NotExists"), "cd"),
        (_filter("Tags.team", "Equals", "B"), "b"),
        (_filter("Metrics.accuracy", "GreaterThan", "0.25"), "cd"),
        (_filter("Metrics.accuracy", "GreaterThanOrEqualTo", "0.25"), "bcd"),
        (_filter("Metrics.accuracy", "NotExists"), "a"),
        (_filter("HyperParameters.lr", "LessThan", "0.6"), "ab"),
        (_filter("HyperParameters.lr", "LessThanOrEqualTo", "1"), "abcd"),  # decimals count as integers here
        (_filter("HyperParameters.optimizer", "Equals", "sgd"), "cd"),
        (_filter("HyperParameters.dotted.name", "Equals", "x"), "abcd"),
        (_filter("ResourceConfig.InstanceCount", "Equals", "3"), "c"),
        (_filter("CreationTime", "LessThan", "2026-01-02T12:00:00"), "cd"),
        (_filter("LastModifiedTime", "GreaterThanOrEqualTo", "2026-01-03T00:00:00Z"), "cd"),
        (_filter("EnableNetworkIsolation", "Equals", "true"), "d"),
        (_filter("InputDataConfig.ChannelName", "Equals", "test"), "abcd"),
        (_filter("InputDataConfig.DataSource.S3DataSource.S3Uri", "Contains", "bucket/c"), "c"),
        (_filter("FailureReason", "Exists"), ""),
    ],
)
def test_a_filter_finds_what_satisfies_it(client: Any, condition: dict[str, str], expected: str) -> None:
    assert _search(client, {"Filters": [condition]}, SortBy="TrainingJobName", SortOrder="Ascending") == expected


def test_a_nested_filter_wants_one_element_that_satisfies_all(client: Any) -> None:
    def nested(channel: str) -> dict[str, Any]:
        filters = [
            _filter("InputDataConfig.ChannelName", "Equals", channel),
            _filter("InputDataConfig.DataSource.S3DataSource.S3Uri", "Contains", "bucket"),
        ]
        return {"NestedFilters": [{"NestedPropertyName": "InputDataConfig", "Filters": filters}]}

    assert _search(client, nested("train"), SortBy="TrainingJobName", SortOrder="Ascending") == "abcd"
    assert _search(client, nested("test")) == ""


def test_expressions_combine_by_and_or(client: Any) -> None:
    failed, named = _filter("TrainingJobStatus", "Equals", "Failed"), _filter("TrainingJobName", "In", "a,b")
    assert _search(client, {"Filters": [failed, named]}) == "b"
    assert _search(client, {"Filters": [failed, named], "Operator": "Or"}) == "dba"
    inner = {"Filters": [failed, named], "Operator": "Or"}
    isolated = {"Filters": [_filter("EnableNetworkIsolation", "Equals", "false")]}
    assert _search(client, {"SubExpressions": [inner, isolated]}) == "ba"


@pytest.mark.parametrize(
    ("sort_by", "order", "expected"),
    [
        (None, None, "dcba"),
        ("CreationTime", "Descending", "abcd"),
        ("TrainingJobStatus", "Ascending", "acbd"),
        ("Metrics.accuracy", "Descending", "dcba"),
        ("HyperParameters.lr", "Ascending", "abcd"),
        ("ResourceConfig.InstanceCount", "Descending", "dcba"),
        ("Tags.team", "Ascending", "cdab"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_results_are_sorted_and_paged(
    client: Any, sort_by: str | None, order: str | None, expected: str, size: int
) -> None:
    options = {"SortBy": sort_by, "SortOrder": order} if sort_by else {}
    assert _search(client, **options, PaginationConfig={"PageSize": size}) == expected


def test_a_result_is_the_jobs_description_with_its_tags(client: Any) -> None:
    (found,) = client.search(
        Resource="TrainingJob", SearchExpression={"Filters": [_filter("TrainingJobName", "Equals", "b")]}
    )["Results"]
    job = found["TrainingJob"]
    assert job["Tags"] == [{"Key": "team", "Value": "B"}]
    assert job["HyperParameters"]["lr"] == "0.5"
    assert job["FinalMetricDataList"][0]["Value"] == 0.25
    assert job["CreationTime"] == START + dt.timedelta(days=2)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ({}, "at least one subexpression, filter, or nested filter"),
        ({"Filters": [_filter("Nonsense", "Equals", "x")]}, "'Nonsense' is not a property of TrainingJob"),
        ({"Filters": [_filter("TrainingJobName", "GreaterThan", "x")]}, "not supported for text"),
        ({"Filters": [_filter("CreationTime", "Contains", "x")]}, "only supported for text"),
        ({"Filters": [_filter("CreationTime", "Equals", "yesterday")]}, "YYYY-mm-ddTHH:MM:SS. Received: 'yesterday'"),
        ({"Filters": [_filter("Metrics.loss", "Equals", "low")]}, "is a number. Received: 'low'"),
        ({"Filters": [_filter("TrainingJobName", "Equals")]}, "needs a Value"),
        ({"Filters": [_filter("TrainingJobName", "Exists", "x")]}, "takes no Value"),
        ({"Filters": [_filter("InputDataConfig", "Equals", "x")]}, "is a structure"),
        (
            {"Filters": [_filter("TrainingJobName", "Contains", "x"), _filter("RoleArn", "Contains", "y")]},
            "'CONTAINS' operator usage limit of 1 exceeded",
        ),
        ({"SubExpressions": [{"Filters": [_filter("RoleArn", "Exists")] * 20}] * 3}, "at most 50 filters"),
    ],
)
def test_an_expression_that_cannot_be_evaluated_is_refused(client: Any, expression: dict[str, Any], text: str) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        _search(client, expression)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize("resource", ["ExperimentTrialComponent", "ModelPackageGroup", "Pipeline"])
def test_resources_that_are_not_searched_are_refused_by_name(client: Any, resource: str) -> None:
    with pytest.raises(ClientError, match=f"Resource={resource}") as caught:
        client.search(Resource=resource)
    assert caught.value.response["Error"]["Code"] == "UnsupportedOperation"


def test_properties_are_suggested_by_a_part_of_their_name(client: Any) -> None:
    def suggest(hint: str) -> list[str]:
        query = {"PropertyNameQuery": {"PropertyNameHint": hint}}
        answer = client.get_search_suggestions(Resource="TrainingJob", SuggestionQuery=query)
        return [one["PropertyName"] for one in answer["PropertyNameSuggestions"]]

    assert suggest("trainingjobs") == ["TrainingJobStatus"]
    assert suggest("accur") == ["Metrics.accuracy"]
    assert suggest("Tags.") == ["Tags.Key", "Tags.Value", "Tags.team"]
    assert len(suggest("")) == 10
