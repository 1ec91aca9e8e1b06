"""Replicas that come, go, die and hang: no request is lost that could be answered."""

from __future__ import annotations

import collections
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError


def ask(client: Any, endpoint: str, body: str = "x") -> str:
    answer = client.invoke_endpoint(EndpointName=endpoint, Body=body)
    return json.loads(answer["Body"].read())["name"]


def test_variants_get_requests_by_their_weights(plane: Any, client: Any, replica: Any, variant: Any) -> None:
    plane.route("weighted", variant(replica, name="a", weight=3), variant(replica, name="b", weight=1))
    counts = collections.Counter(
        client.invoke_endpoint(EndpointName="weighted", Body=b"x")["InvokedProductionVariant"] for _ in range(200)
    )
    assert 110 <= counts["a"] <= 185
    assert counts["a"] + counts["b"] == 200


def test_the_replica_with_the_least_to_do_gets_the_request(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    plane.route("loaded", variant(stand_in("a"), stand_in("b")))
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(ask, client, "loaded", "slow 1.5")
        time.sleep(0.3)
        quick = {ask(client, "loaded") for _ in range(10)}
        assert quick == {"a", "b"} - {slow.result()}


def test_a_killed_replica_costs_no_request_where_there_is_another(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    first, second = stand_in("a"), stand_in("b")
    plane.route("two", variant(first, second))
    stop = threading.Event()

    def keep_asking() -> int:
        asked = 0
        while not stop.is_set():
            ask(client, "two", "slow 0.01")
            asked += 1
        return asked

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking) for _ in range(8)]
        time.sleep(0.3)
        first.kill()
        time.sleep(0.3)
        stop.set()
        assert sum(each.result() for each in asking) > 20  # and none of them raised


def test_requests_wait_for_the_only_replica_to_be_started_again(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    only = stand_in("a")
    plane.route("only", variant(only))
    with ThreadPoolExecutor(4) as pool:
        in_flight = [pool.submit(ask, client, "only", "slow 0.5") for _ in range(4)]
        time.sleep(0.2)
        only.kill()
        waiting = pool.submit(ask, client, "only")
        time.sleep(0.3)
        only.start()
        assert [each.result() for each in (*in_flight, waiting)] == ["a"] * 5


def test_requests_wait_for_a_server_that_listens_and_still_loads_its_model(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    plane.route("loading", variant(stand_in("a")))
    assert ask(client, "loading", "load first") == "a"


def test_a_request_that_kills_every_server_is_not_sent_for_ever(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    plane.route("poisoned", variant(stand_in("a"), stand_in("b"), stand_in("c")))
    with pytest.raises(ClientError) as caught:
        ask(client, "poisoned", "die")
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert ask(client, "poisoned") in {"a", "b", "c"}


def test_no_replica_for_too_long_is_unavailable_with_a_time_to_try_again(
    plane: Any, client: Any, stand_in: Any, variant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clary.inference.router.HOLD_SECONDS", 0.2)
    gone = stand_in("a")
    gone.kill()
    for name, replicas in (("gone", [gone]), ("none", [])):
        plane.route(name, variant(*replicas))
        with pytest.raises(ClientError) as caught:
            ask(client, name)
        assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"


def test_an_update_loses_no_request(plane: Any, client: Any, stand_in: Any, variant: Any) -> None:
    replicas = [stand_in(name) for name in "abcd"]
    plane.route("updated", variant(replicas[0]))
    stop = threading.Event()

    def keep_asking() -> set[str]:
        seen: set[str] = set()
        while not stop.is_set():
            seen.add(ask(client, "updated", "slow 0.005"))
        return seen

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking) for _ in range(8)]
        for replica in replicas[1:]:
            time.sleep(0.2)
            plane.route("updated", variant(replica))
        time.sleep(0.2)
        stop.set()
        assert set.union(*[each.result() for each in asking]) == set("abcd")


def test_a_connection_that_a_server_closed_while_it_was_kept_is_no_failure(
    plane: Any, client: Any, replica: Any, variant: Any
) -> None:
    plane.route("kept", variant(replica))
    for _ in range(10):
        assert client.invoke_endpoint(EndpointName="kept", Body=b"once")["Body"].read() == b"once"


def test_half_open_and_slow_clients_do_not_starve_others(plane: Any, client: Any, replica: Any, variant: Any) -> None:
    plane.route("busy", variant(replica))
    host, _, port = plane.url.removeprefix("http://").partition(":")
    opened = []
    for number in range(200):
        connection = socket.create_connection((host, int(port)))
        if number % 2:
            connection.sendall(b"POST /endpoints/busy/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
        opened.append(connection)
    began = time.monotonic()
    assert {ask(client, "busy") for _ in range(20)} == {"one"}
    assert time.monotonic() - began < 5
    for connection in opened:
        connection.close()


def test_a_shadow_variant_gets_a_copy_and_is_not_heard(
    plane: Any, client: Any, replica: Any, stand_in: Any, variant: Any
) -> None:
    shadow = stand_in("shadow")
    plane.route("shadowed", variant(replica), shadow_variants=(variant(shadow, name="shadow"),))
    plane.measurements.take()
    assert {ask(client, "shadowed") for _ in range(5)} == {"one"}
    deadline = time.monotonic() + 10
    counted: collections.Counter[str] = collections.Counter()
    while counted["shadow"] < 5 and time.monotonic() < deadline:
        for reading in plane.measurements.take():
            if reading.name == "Invocations":
                counted[reading.variant] += reading.count
        time.sleep(0.01)
    assert counted == {"AllTraffic": 5, "shadow": 5}


def test_invocations_and_their_times_are_measured(plane: Any, client: Any, replica: Any, variant: Any) -> None:
    plane.route("measured", variant(replica))
    plane.measurements.take()
    for body in ("x", "x", "status 400", "status 500", "slow 0.1"):
        try:
            client.invoke_endpoint(EndpointName="measured", Body=body)
        except ClientError:
            assert body.startswith("status")
    readings = plane.measurements.take()
    totals: dict[str, float] = collections.defaultdict(float)
    for reading in readings:
        assert (reading.endpoint, reading.variant) == ("measured", "AllTraffic")
        totals[reading.name] += reading.value * reading.count
    assert totals["Invocations"] == 5
    assert totals["Invocation4XXErrors"] == 1
    assert totals["Invocation5XXErrors"] == 1
    assert 100_000 < totals["ModelLatency"] < 1_000_000
    assert 0 < totals["OverheadLatency"] < 100_000
    assert sum(reading.count for reading in readings if reading.name == "ModelLatency") == 5


def test_a_part_of_the_requests_goes_to_the_fleet_that_takes_over(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    old, new = stand_in("old"), stand_in("new")
    plane.route("moving", variant(old), incoming=(variant(new),), incoming_share=0.25)
    counts = collections.Counter(ask(client, "moving") for _ in range(200))
    assert 25 <= counts["new"] <= 80
    plane.route("moving", variant(old), incoming=(variant(),), incoming_share=0.9)
    assert {ask(client, "moving") for _ in range(20)} == {"old"}


def test_a_shadow_that_hangs_or_dies_neither_slows_nor_fails_a_request(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    real, shadow = stand_in("real"), stand_in("shadow")
    plane.route("shadowed", variant(real), shadow_variants=(variant(shadow, name="Shadow"),))
    shadow.stop()
    began = time.monotonic()
    assert {ask(client, "shadowed") for _ in range(50)} == {"real"}
    assert time.monotonic() - began < 10, "none of them waited for the shadow"
    shadow.kill()
    assert {ask(client, "shadowed") for _ in range(20)} == {"real"}


def test_a_model_is_asked_for_where_it_was_loaded(plane: Any, client: Any, stand_in: Any, variant: Any) -> None:
    plane.route("many", variant(stand_in("a"), stand_in("b"), multi_model=True))

    def asked(model: str) -> str:
        answer = client.invoke_endpoint(EndpointName="many", Body="loaded", TargetModel=model)
        return json.loads(answer["Body"].read())["name"]

    for model in ("1.tar.gz", "2.tar.gz", "3.tar.gz"):
        first = asked(model)
        assert {asked(model) for _ in range(20)} == {first}
    readings = {reading.name for reading in plane.measurements.take() if reading.endpoint == "many"}
    assert {"ModelCacheHit", "ModelLoadingWaitTime"} <= readings


def refused(client: Any, endpoint: str, body: bytes | str) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        client.invoke_endpoint(EndpointName=endpoint, Body=body)
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def test_a_replica_that_is_full_is_not_asked_for_more_until_it_has_answered(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    plane.route("full", variant(stand_in("a")))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, client, "full", "queue 1.5") for _ in range(2)]
        time.sleep(0.3)
        assert refused(client, "full", "queue 0") == (503, "the queue is full")
        status, message = refused(client, "full", b"queue 0" + bytes(2_000_000))  # by the router, its body unread
        assert status == 503
        assert message.startswith("All instances of the endpoint full are busy")
        assert [each.result() for each in waiting] == ["a", "a"]
    assert ask(client, "full", "queue 0") == "a"


def test_what_a_full_replica_refuses_goes_to_another(plane: Any, client: Any, stand_in: Any, variant: Any) -> None:
    plane.route("one-full", variant(stand_in("a"), stand_in("b")))
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, client, "one-full", "queue 0.5") for _ in range(4)]
        assert sorted(each.result() for each in asking) == ["a", "a", "b", "b"]


def test_requests_whose_bodies_do_not_come_take_no_room(plane: Any, client: Any, stand_in: Any, variant: Any) -> None:
    plane.route("crowded", variant(stand_in("a")))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, client, "crowded", "queue 0.5") for _ in range(2)]
        time.sleep(0.2)
        assert refused(client, "crowded", "queue 0")[0] == 503  # from now on it gets two at once
        assert [each.result() for each in waiting] == ["a", "a"]
    host, _, port = plane.url.removeprefix("http://").partition(":")
    signed = signed_head(plane, "crowded", 100)
    opened = [socket.create_connection((host, int(port))) for _ in range(20)]
    for connection in opened:
        connection.sendall(signed)
    deadline = time.monotonic() + 10
    while True:
        try:
            assert ask(client, "crowded", "queue 0") == "a"
            break
        except ClientError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    for connection in opened:
        connection.close()


def at_once(client: Any, endpoint: str, body: str) -> int:
    answer = client.invoke_endpoint(EndpointName=endpoint, Body=body)
    return json.loads(answer["Body"].read())["at_once"]


def test_a_server_gets_no_more_than_it_can_work_on_and_the_others_wait_for_their_turn(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    plane.route("turns", variant(stand_in("a")))
    assert ask(client, "turns", "work 0") == "a"  # its answer says that it works on two
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(at_once, client, "turns", "work 0.05") for _ in range(16)]
        assert {each.result() for each in asking} <= {1, 2}


def test_a_server_that_says_how_many_it_takes_need_not_refuse_the_others_itself(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    plane.route("said", variant(stand_in("a")))
    assert ask(client, "said", "work 0") == "a"  # its answer says that it takes four
    with ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(ask, client, "said", "work 0.5") for _ in range(4)]
        time.sleep(0.2)
        status, message = refused(client, "said", "work 0")
        assert (status, message.startswith("All instances")) == (503, True)
        assert [each.result() for each in taken] == ["a"] * 4


def test_who_waits_for_a_turn_at_a_replica_that_is_taken_away_goes_to_another(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    first, second = stand_in("a"), stand_in("b")
    plane.route("moved", variant(first))
    assert ask(client, "moved", "work 0") == "a"
    with ThreadPoolExecutor(3) as pool:
        under_way = [pool.submit(ask, client, "moved", "work 1.5") for _ in range(2)]
        time.sleep(0.3)
        waiting = pool.submit(ask, client, "moved", "work 0")
        time.sleep(0.3)
        plane.route("moved", variant(second))
        assert waiting.result() == "b"
        assert not any(each.done() for each in under_way)
        assert [each.result() for each in under_way] == ["a", "a"]


def test_who_waits_in_vain_for_a_turn_is_told_to_try_again(
    plane: Any, client: Any, stand_in: Any, variant: Any
) -> None:
    replica = stand_in("a")
    plane.route("stuck", variant(replica, answer_seconds=0.5))
    assert ask(client, "stuck", "work 0") == "a"
    with ThreadPoolExecutor(2) as pool:
        stuck = [pool.submit(ask, client, "stuck", "work 3") for _ in range(2)]
        time.sleep(0.1)
        plane.route("stuck", variant(replica, answer_seconds=0.2))
        status, message = refused(client, "stuck", "work 0")
        assert (status, message.startswith("All instances")) == (503, True)
        for each in stuck:
            with pytest.raises(ClientError, match="timed out"):
                each.result()
    assert ask(client, "stuck", "work 0") == "a"  # the turns of those that were given up are free again


def signed_head(plane: Any, endpoint: str, length: int) -> bytes:
    """A request's head, for a body of so many bytes."""
    path = f"/endpoints/{endpoint}/invocations"
    request = AWSRequest("POST", plane.url + path, data=bytes(length))
    root = plane.credentials.root
    SigV4Auth(Credentials(root.access_key, root.secret_key), "sagemaker", "us-east-1").add_auth(request)
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items() if name.lower() != "host")
    host = plane.url.removeprefix("http://")
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{lines}\r\n".encode()
