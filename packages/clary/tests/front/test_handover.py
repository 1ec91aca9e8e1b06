"""What the front passes on reaches the API process as it came, waits for it, and is never done twice unasked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clary.front import handover
from clary.front.api import Api
from clary.front.handover import ApiClient
from clary.server.http import serving
from clary.wire.messages import Caller, WireRequest, WireResponse

CALLER = Caller("AKIA", "arn:aws:sts::0:assumed-role/r/é", "AROA:r", "000000000000", "us-east-1", "a-job")
DESCRIBE = WireRequest("POST", "/", "", {"x-amz-target": "SageMaker.DescribeTrainingJob"}, b"{}")
CREATE = WireRequest("POST", "/", "", {"x-amz-target": "SageMaker.CreateTrainingJob"}, b"{}")
Dispatch = Callable[[WireRequest, Caller], Awaitable[WireResponse]]


@contextlib.asynccontextmanager
async def api_process(home: Path, dispatch: Any = None, **parts: Any) -> AsyncIterator[None]:
    """The API process's end, in this process."""
    api = Api(
        dispatch, parts.pop("reports", None), record=parts.pop("record", print), health=lambda: {"status": "ready"}
    )
    with handover.listen(home) as listener:
        async with serving(api, listener, protocol=HttpToolsProtocol, idle_seconds=60, date_header=False):
            yield


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ApiClient]:
    client = ApiClient(tmp_path, patience=10)
    yield client
    client.close()


class Dispatched:
    """Notes what it was asked."""

    def __init__(self, response: WireResponse | None = None) -> None:
        self.asked: list[tuple[WireRequest, Caller]] = []
        self.response = response or WireResponse(201, {"content-type": "text/plain", "x-own": "1"}, b"answer")

    async def __call__(self, request: WireRequest, caller: Caller) -> WireResponse:
        self.asked.append((request, caller))
        return self.response


async def test_a_request_goes_on_as_it_came_with_its_caller(tmp_path: Path, client: ApiClient) -> None:
    dispatched = Dispatched()
    request = WireRequest(
        "PUT",
        "/experiments/a%2Fb%20c",
        "x=%20&y",
        {"host": "localhost", "x-amz-meta": "ü", "connection": "close", "transfer-encoding": "chunked"},
        b"\0body" * 1000,
    )
    async with api_process(tmp_path, dispatched):
        answer = await client.dispatch(request, CALLER)
    ((received, caller),) = dispatched.asked
    assert caller == CALLER
    assert (received.method, received.path, received.query) == ("PUT", "/experiments/a%2Fb%20c", "x=%20&y")
    assert received.body == request.body
    assert (received.headers["x-amz-meta"], received.headers["host"]) == ("ü", "localhost")
    assert answer == WireResponse(201, {"content-type": "text/plain", "x-own": "1"}, b"answer")


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "PATCH"])
async def test_every_method_gets_its_answer(tmp_path: Path, client: ApiClient, method: str) -> None:
    dispatched = Dispatched()
    async with api_process(tmp_path, dispatched):
        answer = await client.dispatch(WireRequest(method, "/experiments", "", {}), CALLER)
    assert answer.body == b"answer"
    assert [request.method for request, _ in dispatched.asked] == [method]


async def test_no_client_can_say_who_it_is(tmp_path: Path, client: ApiClient) -> None:
    dispatched = Dispatched()
    forged = WireRequest("POST", "/", "", {"x-clary-caller": '{"access_key": "somebody else"}'}, b"")
    async with api_process(tmp_path, dispatched):
        await client.dispatch(forged, CALLER)
    assert [caller for _, caller in dispatched.asked] == [CALLER]


async def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async with api_process(tmp_path, Dispatched()):
        assert (tmp_path / "api.sock").stat().st_mode & 0o777 == 0o600


async def test_a_home_with_a_long_path_has_its_socket_too(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    home.mkdir()
    client = ApiClient(home)
    async with api_process(home, Dispatched()):
        assert (await client.dispatch(DESCRIBE, CALLER)).status == 201
    client.close()


async def test_a_request_waits_for_an_api_process_that_is_not_there_yet(tmp_path: Path, client: ApiClient) -> None:
    dispatched = Dispatched()
    async with api_process(tmp_path, dispatched):
        pass  # it has left its socket behind, and nobody listens
    waiting = asyncio.create_task(client.dispatch(CREATE, CALLER))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    async with api_process(tmp_path, dispatched):
        assert (await waiting).status == 201
    assert len(dispatched.asked) == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (DESCRIBE, [b'"__type":"ServiceUnavailable"', b"Nothing was done"]),
        (
            WireRequest("POST", "/", "", {"content-type": "application/x-www-form-urlencoded"}, b"Action=GetRole"),
            [b"<Code>ServiceUnavailable</Code>"],
        ),
        (WireRequest("POST", "/metrics", "", {}, b"{}"), [b'"message":', b"temporary failure of the server"]),
    ],
)
async def test_an_api_process_that_stays_away_is_told_as_aws_does(
    tmp_path: Path, request_: WireRequest, words: list[bytes]
) -> None:
    client = ApiClient(tmp_path, patience=0.1)
    answer = await client.dispatch(request_, CALLER)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert all(word in answer.body for word in words), answer.body
    assert (await client.receive("h", "Bearer t", b"{}")).status == 503
    assert not await client.measured(b"{}")
    assert await client.health() is None


@contextlib.asynccontextmanager
async def dying_first(home: Path) -> AsyncIterator[list[bytes]]:
    """An API process that reads its first request and dies of it; those that follow are answered."""
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).partition(b" ")[0])
        if len(requests) > 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, sock=handover.listen(home))
    async with server:
        yield requests


async def test_what_only_reads_is_asked_again_when_the_api_process_dies_of_it(
    tmp_path: Path, client: ApiClient
) -> None:
    async with dying_first(tmp_path) as requests:
        assert (await client.dispatch(DESCRIBE, CALLER)).body == b"ok"
        assert len(requests) == 2


async def test_what_changes_something_is_not_done_twice(tmp_path: Path, client: ApiClient) -> None:
    async with dying_first(tmp_path) as requests:
        answer = await client.dispatch(CREATE, CALLER)
        assert answer.status == 503
        assert b"may have been carried out" in answer.body
        assert len(requests) == 1


async def test_measurements_whose_fate_is_unknown_are_not_counted_twice(tmp_path: Path, client: ApiClient) -> None:
    async with dying_first(tmp_path):
        assert await client.measured(b"{}")


async def test_an_answer_that_comes_in_pieces_is_passed_on_in_pieces(tmp_path: Path, client: ApiClient) -> None:
    more = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await more.wait()
        yield b"second"

    async with api_process(tmp_path, Dispatched(WireResponse(200, {}, stream=pieces()))):
        answer = await client.dispatch(DESCRIBE, CALLER)
        assert answer.stream is not None
        stream = aiter(answer.stream)
        assert await anext(stream) == b"first"
        more.set()
        assert [piece async for piece in stream] == [b"second"]


async def test_reports_and_measurements_find_their_takers(tmp_path: Path, client: ApiClient) -> None:
    class Reports:
        async def receive(self, host_id: str, authorization: str, body: bytes) -> WireResponse:
            return WireResponse(200, {}, json.dumps([host_id, authorization, body.decode()]).encode())

    recorded: list[bytes] = []
    async with api_process(tmp_path, Dispatched(), reports=Reports(), record=recorded.append):
        answer = await client.receive("h-1", "Bearer t", b"report")
        assert json.loads(answer.body) == ["h-1", "Bearer t", "report"]
        assert await client.measured(b"batch")
        assert await client.health() == {"status": "ready"}
    assert recorded == [b"batch"]


async def test_measurements_that_cannot_be_recorded_now_are_kept(tmp_path: Path, client: ApiClient) -> None:
    def fail(batch: bytes) -> None:
        if batch == b"malformed":
            raise ValueError("no JSON")
        raise OSError("the record is away")

    async with api_process(tmp_path, Dispatched(), record=fail):
        assert not await client.measured(b"batch")
        assert await client.measured(b"malformed")
