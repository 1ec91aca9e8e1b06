"""CloudWatch Logs as boto3 and the SDKs use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from clary.state import log_pages, logs
from clary.state.database import Database

GROUP = "/aws/sagemaker/TrainingJobs"
NOW = int(time.time() * 1000)


@pytest.fixture
def client(clients: Callable[[str], Any]) -> Any:
    client = clients("logs")
    client.create_log_group(logGroupName=GROUP)
    return client


def _put(client: Any, stream: str, *events: tuple[int, str]) -> None:
    if not client.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix=stream)["logStreams"]:
        client.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    client.put_log_events(
        logGroupName=GROUP,
        logStreamName=stream,
        logEvents=[{"timestamp": NOW + offset, "message": message} for offset, message in events],
    )


def _get(client: Any, stream: str = "s", **options: Any) -> Any:
    return client.get_log_events(logGroupName=GROUP, logStreamName=stream, **options)


def _filter(client: Any, **options: Any) -> list[str]:
    return [event["message"] for event in client.filter_log_events(logGroupName=GROUP, **options)["events"]]


def _messages(answer: Any) -> list[str]:
    return [event["message"] for event in answer["events"]]


def _code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return caught.value.response["Error"]["Code"]


def test_events_come_back_in_order_of_time_then_of_arrival(client: Any) -> None:
    _put(client, "s", (0, "a"), (5, "c"))
    _put(client, "s", (5, "d"), (9, "e"))
    _put(client, "s", (1, "b"))
    answer = _get(client, startFromHead=True)
    assert _messages(answer) == ["a", "b", "c", "d", "e"]
    assert answer["events"][0]["timestamp"] == NOW
    assert answer["events"][0]["ingestionTime"] >= NOW - 1000


def test_paging_forward_ends_with_an_empty_page_and_the_same_token(client: Any) -> None:
    _put(client, "s", *((number, str(number)) for number in range(25)))
    seen: list[str] = []
    answer = _get(client, startFromHead=True, limit=10)
    pages = 0
    while answer["events"]:
        pages += 1
        seen += _messages(answer)
        token = answer["nextForwardToken"]
        answer = _get(client, nextToken=token, startFromHead=True, limit=10)
    assert pages == 3
    assert seen == [str(number) for number in range(25)]
    assert answer["nextForwardToken"] == token
    _put(client, "s", (30, "later"))
    assert _messages(_get(client, nextToken=token, startFromHead=True)) == ["later"]


def test_the_tail_is_the_default_and_pages_backward(client: Any) -> None:
    _put(client, "s", *((number, str(number)) for number in range(25)))
    answer = _get(client, limit=10)
    assert _messages(answer) == [str(number) for number in range(15, 25)]
    answer = _get(client, limit=10, nextToken=answer["nextBackwardToken"])
    assert _messages(answer) == [str(number) for number in range(5, 15)]
    answer = _get(client, limit=10, nextToken=answer["nextBackwardToken"])
    assert _messages(answer) == [str(number) for number in range(5)]
    token = answer["nextBackwardToken"]
    answer = _get(client, limit=10, nextToken=token)
    assert _messages(answer) == []
    assert answer["nextBackwardToken"] == token
    assert _messages(_get(client, limit=2, nextToken=answer["nextForwardToken"])) == ["0", "1"]


def test_an_empty_stream_can_be_followed_from_its_tail(client: Any) -> None:
    client.create_log_stream(logGroupName=GROUP, logStreamName="s")
    answer = _get(client)
    assert answer["events"] == []
    _put(client, "s", (0, "first"))
    assert _messages(_get(client, nextToken=answer["nextForwardToken"])) == ["first"]


def test_start_time_is_included_and_end_time_is_not(client: Any) -> None:
    _put(client, "s", *((number, str(number)) for number in range(6)))
    assert _messages(_get(client, startTime=NOW + 2, endTime=NOW + 4, startFromHead=True)) == ["2", "3"]
    assert _messages(_get(client, startTime=NOW + 2, endTime=2**62 + 9, limit=1)) == ["5"]


def test_a_page_holds_at_most_a_megabyte(client: Any, database: Database) -> None:
    client.create_log_stream(logGroupName=GROUP, logStreamName="s")
    with database.transaction() as session:
        stream = log_pages.stream_id(session, log_pages.group_id(session, GROUP) or 0, "s") or 0
        logs.append(session, stream, [(NOW, "x" * 100_000)] * 25)
    sizes: list[int] = []
    answer = _get(client, startFromHead=True)
    while answer["events"]:
        sizes.append(len(answer["events"]))
        answer = _get(client, startFromHead=True, nextToken=answer["nextForwardToken"])
    assert sizes == [10, 10, 5]


def test_a_line_over_the_limit_becomes_consecutive_events(client: Any, database: Database) -> None:
    line = "aé€😀" * 1_000_000  # 10 MB
    client.create_log_stream(logGroupName=GROUP, logStreamName="s")
    with database.transaction() as session:
        stream = log_pages.stream_id(session, log_pages.group_id(session, GROUP) or 0, "s") or 0
        logs.append(session, stream, [(NOW, "before"), (NOW, line), (NOW, "after")])
    seen: list[str] = []
    answer = _get(client, startFromHead=True)
    while answer["events"]:
        seen += _messages(answer)
        answer = _get(client, startFromHead=True, nextToken=answer["nextForwardToken"])
    assert seen[0] == "before"
    assert seen[-1] == "after"
    assert "".join(seen[1:-1]) == line
    assert max(len(piece.encode()) for piece in seen) <= 256 * 1024


def test_texts_that_a_database_cannot_hold_are_kept_as_near_as_can_be(client: Any, database: Database) -> None:
    client.create_log_stream(logGroupName=GROUP, logStreamName="s")
    with database.transaction() as session:
        stream = log_pages.stream_id(session, log_pages.group_id(session, GROUP) or 0, "s") or 0
        logs.append(session, stream, [(NOW, "nul \0 here"), (NOW, "half \ud800 pair"), (NOW, "")])
    assert _messages(_get(client)) == ["nul \u2400 here", "half ? pair", " "]


def test_streams_are_found_by_prefix_and_fifty_a_page(client: Any) -> None:
    for number in range(60):
        client.create_log_stream(logGroupName=GROUP, logStreamName=f"job/algo-{number:02}")
    client.create_log_stream(logGroupName=GROUP, logStreamName="job-2/algo-1")
    first = client.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix="job/", orderBy="LogStreamName")
    assert len(first["logStreams"]) == 50
    second = client.describe_log_streams(
        logGroupName=GROUP, logStreamNamePrefix="job/", orderBy="LogStreamName", nextToken=first["nextToken"]
    )
    names = [stream["logStreamName"] for stream in first["logStreams"] + second["logStreams"]]
    assert names == [f"job/algo-{number:02}" for number in range(60)]
    assert "nextToken" not in second


def test_streams_sort_by_their_last_event(client: Any) -> None:
    for stream, offset in (("a", 5), ("b", 9), ("c", 1)):
        _put(client, stream, (offset, stream))
    client.create_log_stream(logGroupName=GROUP, logStreamName="empty")
    pages = client.get_paginator("describe_log_streams").paginate(
        logGroupName=GROUP, orderBy="LastEventTime", descending=True, PaginationConfig={"PageSize": 2}
    )
    streams = [stream for page in pages for stream in page["logStreams"]]
    assert [stream["logStreamName"] for stream in streams] == ["b", "a", "c", "empty"]
    assert streams[0]["firstEventTimestamp"] == streams[0]["lastEventTimestamp"] == NOW + 9
    assert streams[0]["storedBytes"] == 27
    assert "lastEventTimestamp" not in streams[3]
    with pytest.raises(ClientError, match="Cannot order by LastEventTime"):
        client.describe_log_streams(logGroupName=GROUP, orderBy="LastEventTime", logStreamNamePrefix="a")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["INFO start", "ERROR disk full", "WARN slow disk", "ERROR net down"]),
        ("ERROR", ["ERROR disk full", "ERROR net down"]),
        ("ERROR disk", ["ERROR disk full"]),
        ("ERROR -disk", ["ERROR net down"]),
        ('"disk full"', ["ERROR disk full"]),
        ('-"disk full" disk', ["WARN slow disk"]),
        ("?WARN ?INFO", ["INFO start", "WARN slow disk"]),
        ("%^E.*n$%", ["ERROR net down"]),
        ("error", []),
    ],
)
def test_events_are_filtered_by_pattern(client: Any, pattern: str, expected: list[str]) -> None:
    _put(client, "s", (0, "INFO start"), (1, "ERROR disk full"), (2, "WARN slow disk"), (3, "ERROR net down"))
    assert _filter(client, filterPattern=pattern) == expected


@pytest.mark.parametrize("pattern", ["{ $.a = 1 }", "[a, b]", '"open', "%(%", "%(a|aa)+$%"])
def test_a_pattern_that_cannot_be_read_is_refused(client: Any, pattern: str) -> None:
    _put(client, "s", (0, "a" * 60 + "b"))
    with pytest.raises(ClientError, match="Invalid filter pattern") as caught:
        _filter(client, filterPattern=pattern)
    assert _code(caught) == "InvalidParameterException"


def test_a_search_interleaves_streams_and_pages(client: Any) -> None:
    for number in range(5):
        _put(client, f"job/{number}", *((offset * 5 + number, f"{offset}-{number}") for offset in range(8)))
    _put(client, "other/0", (3, "not this"))
    expected = [f"{offset}-{number}" for offset in range(8) for number in range(5)]
    seen: list[str] = []
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=GROUP, logStreamNamePrefix="job/", PaginationConfig={"PageSize": 7}
    )
    sizes = [len(page["events"]) for page in pages if seen.extend(event["message"] for event in page["events"]) is None]
    assert seen == expected
    assert max(sizes) == 7
    assert _filter(client, logStreamNames=["job/1"]) == [f"{offset}-1" for offset in range(8)]
    assert _filter(client, startTime=NOW + 3, endTime=NOW + 5, logStreamNamePrefix="job/") == ["0-3", "0-4", "1-0"]
    ids = {event["eventId"] for event in client.filter_log_events(logGroupName=GROUP)["events"]}
    assert len(ids) == 41


def test_events_of_one_millisecond_are_neither_lost_nor_doubled_by_paging(client: Any) -> None:
    for stream in ("a", "b", "c"):
        _put(client, stream, *((0, f"{stream}{number}") for number in range(5)))
    for newest_first in (False, True):
        seen: list[str] = []
        token: dict[str, Any] = {}
        while True:
            answer = client.filter_log_events(logGroupName=GROUP, limit=4, startFromHead=not newest_first, **token)
            seen += _messages(answer)
            if "nextToken" not in answer:
                break
            token = {"nextToken": answer["nextToken"]}
        assert len(seen) == 15
        assert sorted(seen, reverse=newest_first) == seen


def test_groups_are_listed_by_prefix_and_pattern(client: Any) -> None:
    for name in ("/aws/x", "/my/y", "/my/Z"):
        client.create_log_group(logGroupName=name)
    pages = client.get_paginator("describe_log_groups").paginate(PaginationConfig={"PageSize": 1})
    assert [group["logGroupName"] for page in pages for group in page["logGroups"]] == [
        GROUP,
        "/aws/x",
        "/my/Z",
        "/my/y",
    ]
    assert [g["logGroupName"] for g in client.describe_log_groups(logGroupNamePrefix="/my/")["logGroups"]] == [
        "/my/Z",
        "/my/y",
    ]
    (found,) = client.describe_log_groups(logGroupNamePattern="MY/Y")["logGroups"]
    assert found["arn"] == "arn:aws:logs:us-east-1:000000000000:log-group:/my/y:*"


def test_what_is_deleted_is_gone_with_its_events(client: Any, database: Database) -> None:
    _put(client, "a", (0, "a"))
    _put(client, "b", (0, "b"))
    client.delete_log_stream(logGroupName=GROUP, logStreamName="a")
    assert _filter(client) == ["b"]
    client.delete_log_group(logGroupName=GROUP)
    with database.reading() as session:
        assert session.query(logs.LogEvent).count() == 0
    with pytest.raises(ClientError) as caught:
        client.delete_log_group(logGroupName=GROUP)
    assert _code(caught) == "ResourceNotFoundException"


def test_events_out_of_range_are_rejected_and_the_others_kept(client: Any) -> None:
    client.create_log_stream(logGroupName=GROUP, logStreamName="s")
    day = 86_400_000
    answer = client.put_log_events(
        logGroupName=GROUP,
        logStreamName="s",
        logEvents=[
            {"timestamp": NOW - 20 * day, "message": "old"},
            {"timestamp": NOW, "message": "fits"},
            {"timestamp": NOW + day, "message": "future"},
        ],
    )
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 2}
    assert _messages(_get(client)) == ["fits"]


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([(1, "b"), (0, "a")], "must be in chronological order"),
        ([(0, "x" * (1 << 20))], "Log event too large: 1048602 bytes exceeds limit of 1048576"),
        ([(0, "x" * 600_000), (0, "x" * 600_000)], "Upload too large"),
        ([(-2 * 86_400_000, "a"), (0, "b")], "cannot span more than 24 hours"),
    ],
)
def test_a_batch_that_aws_refuses_is_refused(client: Any, events: list[tuple[int, str]], text: str) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        _put(client, "s", *events)
    assert _code(caught) == "InvalidParameterException"


@pytest.mark.parametrize(
    ("call", "arguments", "code", "text"),
    [
        ("create_log_group", {"logGroupName": GROUP}, "ResourceAlreadyExistsException", "already exists"),
        ("create_log_stream", {"logGroupName": "no", "logStreamName": "s"}, "ResourceNotFoundException", "log group"),
        ("get_log_events", {"logGroupName": GROUP, "logStreamName": "no"}, "ResourceNotFoundException", "log stream"),
        ("get_log_events", {"logStreamName": "s"}, "InvalidParameterException", "logGroupIdentifier or logGroupName"),
        ("describe_log_streams", {"logGroupName": GROUP, "nextToken": "x"}, "InvalidParameterException", "nextToken"),
        ("describe_log_groups", {"nextToken": "x"}, "InvalidParameterException", "nextToken"),
        ("filter_log_events", {"logGroupName": "no"}, "ResourceNotFoundException", "log group does not exist"),
        (
            "filter_log_events",
            {"logGroupName": GROUP, "logStreamNames": ["no"]},
            "ResourceNotFoundException",
            "log stream does not exist",
        ),
    ],
)
def test_mistakes_are_answered_as_aws_does(
    client: Any, call: str, arguments: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        getattr(client, call)(**arguments)
    assert _code(caught) == code


def test_a_made_up_event_token_is_refused(client: Any) -> None:
    _put(client, "s", (0, "a"))
    with pytest.raises(ClientError, match="The specified nextToken is invalid"):
        _get(client, nextToken="f/12/s")


def test_a_group_is_also_named_by_its_arn(client: Any) -> None:
    _put(client, "s", (0, "a"))
    arn = f"arn:aws:logs:us-east-1:000000000000:log-group:{GROUP}"
    assert _messages(client.get_log_events(logGroupIdentifier=arn, logStreamName="s")) == ["a"]
