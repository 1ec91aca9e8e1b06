"""Tags of resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from clary.state import tags
from clary.state.database import Database

ARN = "arn:aws:sagemaker:us-east-1:000000000000:training-job/"

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def client(clients: Callable[[str], Any], add_job: Callable[..., Any]) -> Any:
    add_job("job")
    return clients("sagemaker")


def _tags(**values: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


def test_tags_are_added_replaced_and_removed(client: Any) -> None:
    assert client.add_tags(ResourceArn=ARN + "job", Tags=_tags(team="a", stage="x"))["Tags"] == _tags(
        stage="x", team="a"
    )
    client.add_tags(ResourceArn=ARN + "job", Tags=_tags(team="b"))
    client.delete_tags(ResourceArn=ARN + "job", TagKeys=["stage", "never there"])
    assert client.list_tags(ResourceArn=ARN + "job")["Tags"] == _tags(team="b")


def test_a_resource_has_at_most_fifty_tags(client: Any) -> None:
    client.add_tags(ResourceArn=ARN + "job", Tags=_tags(**{f"k{number}": "" for number in range(50)}))
    client.add_tags(ResourceArn=ARN + "job", Tags=_tags(k0="new value"))
    with pytest.raises(ClientError, match="cannot have more than 50 tags"):
        client.add_tags(ResourceArn=ARN + "job", Tags=_tags(one_more=""))


def test_many_tags_come_in_pages(client: Any, database: Database) -> None:
    with database.transaction() as session:
        tags.put(session, ARN + "job", _tags(**{f"k{number:03}": "" for number in range(120)}))
    pages = list(client.get_paginator("list_tags").paginate(ResourceArn=ARN + "job"))
    assert [len(page["Tags"]) for page in pages] == [50, 50, 20]
    assert len({tag["Key"] for page in pages for tag in page["Tags"]}) == 120


@pytest.mark.parametrize(
    ("arn", "given", "text"),
    [
        (ARN + "job", _tags(**{"aws:x": "1"}), "aws: prefixed tag key names are not allowed"),
        (ARN + "job", [*_tags(a="1"), *_tags(a="2")], "Duplicate tag keys"),
        (ARN + "no", _tags(a="1"), "Could not find resource"),
        (ARN.replace("training-job", "spaceship") + "x", _tags(a="1"), "cannot be tagged: Clary keeps tags of"),
    ],
)
def test_tags_that_aws_refuses_are_refused(client: Any, arn: str, given: list[dict[str, str]], text: str) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        client.add_tags(ResourceArn=arn, Tags=given)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_the_tags_of_a_deleted_resource_go_with_it(database: Database) -> None:
    with database.transaction() as session:
        tags.put(session, "a", _tags(x="1"))
        tags.put(session, "b", _tags(x="2"))
        tags.remove_all(session, "a")
        assert tags.get_many(session, ["a", "b"]) == {"b": _tags(x="2")}
