"""Sorting, filtering and paging, seen through ListTrainingJobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from sqlalchemy import text

from clary.state.database import Database

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def client(clients: Callable[[str], Any]) -> Any:
    return clients("sagemaker")


@pytest.fixture
def add(add_job: Callable[..., Any]) -> Callable[..., Any]:
    """Add a job that was created so many minutes after START, and changed an hour later."""

    def add(name: str, minute: float, status: str = "Completed") -> None:
        at = START + dt.timedelta(minutes=minute)
        add_job(name, status=status, creation_time=at, last_modified_time=at + dt.timedelta(hours=1))

    return add


def _names(client: Any, **options: Any) -> list[str]:
    pages = client.get_paginator("list_training_jobs").paginate(**options)
    return [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]


def test_the_newest_come_first_ten_a_page(client: Any, add: Callable[..., None]) -> None:
    for number in range(12):
        add(f"job-{number:02}", number)
    answer = client.list_training_jobs()
    assert [job["TrainingJobName"] for job in answer["TrainingJobSummaries"]] == [
        f"job-{number:02}" for number in range(11, 1, -1)
    ]
    assert "NextToken" in answer


@pytest.mark.parametrize("sort_by", ["Name", "CreationTime", "Status"])
@pytest.mark.parametrize("order", ["Ascending", "Descending"])
def test_every_order_is_the_same_in_any_size_of_page(
    client: Any, add: Callable[..., None], sort_by: str, order: str
) -> None:
    for number in range(13):
        add(f"j{number * 7 % 13:02}", number // 3, status=("Failed", "Completed")[number % 2])
    options = {"SortBy": sort_by, "SortOrder": order}
    whole = _names(client, **options, MaxResults=100)
    assert len(set(whole)) == 13
    for size in (1, 4, 13):
        assert _names(client, **options, MaxResults=size) == whole
    opposite = "Ascending" if order == "Descending" else "Descending"
    assert _names(client, SortBy=sort_by, SortOrder=opposite, MaxResults=100) == whole[::-1]


def test_rows_added_between_two_pages_repeat_and_hide_nothing(client: Any, add: Callable[..., None]) -> None:
    for number in range(6):
        add(f"old-{number}", number)
    first = client.list_training_jobs(MaxResults=3)
    add("new", 100)
    second = client.list_training_jobs(MaxResults=3, NextToken=first["NextToken"])
    names = [job["TrainingJobName"] for page in (first, second) for job in page["TrainingJobSummaries"]]
    assert names == [f"old-{number}" for number in range(5, -1, -1)]
    assert "NextToken" not in second


def test_filters_narrow_the_list(client: Any, add: Callable[..., None]) -> None:
    add("mnist-a", 0, "Failed")
    add("mnist-B", 10)
    add("cifar-a", 20, "InProgress")
    assert _names(client, NameContains="mnist") == ["mnist-B", "mnist-a"]
    assert _names(client, NameContains="b") == []
    assert _names(client, StatusEquals="Failed") == ["mnist-a"]
    assert _names(client, CreationTimeAfter=START + dt.timedelta(minutes=5)) == ["cifar-a", "mnist-B"]
    assert _names(client, CreationTimeBefore=START + dt.timedelta(minutes=5)) == ["mnist-a"]
    assert _names(client, LastModifiedTimeAfter=START + dt.timedelta(minutes=75)) == ["cifar-a"]
    assert _names(client, LastModifiedTimeBefore=START + dt.timedelta(minutes=75), StatusEquals="Completed") == [
        "mnist-B"
    ]


def test_a_token_of_another_order_or_a_made_up_one_is_refused(client: Any, add: Callable[..., None]) -> None:
    for number in range(3):
        add(f"job-{number}", number)
    token = client.list_training_jobs(MaxResults=1)["NextToken"]
    with pytest.raises(ClientError, match="Invalid NextToken") as caught:
        client.list_training_jobs(MaxResults=1, NextToken=token, SortBy="Name")
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    with pytest.raises(ClientError, match="ValidationException"):
        client.list_training_jobs(NextToken="made-up")


def test_the_usual_lists_are_answered_by_an_index(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL plans by the rows that it has: a table of none tells nothing")
    for order in ("creation_time DESC, id DESC", "name"):
        plan = database.query(text(f"EXPLAIN QUERY PLAN SELECT arn FROM training_jobs ORDER BY {order} LIMIT 11"))
        assert "USING INDEX" in plan[0].detail, plan
        assert not any("TEMP B-TREE FOR ORDER BY" in row.detail for row in plan), plan
