"""The HTTP client against a server that behaves in every way a server may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from clary.storage.http import Headers, HttpClient, Unreachable

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], object]


class Server:
    """Answers the nth connection by a script."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []

    async def __aenter__(self) -> HttpClient:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return HttpClient(f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}")

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while self.answers:
            head = await reader.read(1 << 20)
            if not head:
                break
            self.requests.append(head)
            answer = self.answers.pop(0)
            writer.write(answer.removesuffix(b"<close>"))
            await writer.drain()
            if answer.endswith(b"<close>"):
                break
        writer.close()


HEADERS: Headers = [(b"host", b"store")]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_connection_is_kept_for_the_next_request() -> None:
    server = Server(OK, OK)
    async with server as client:
        for _ in range(2):
            assert await (await client.send("GET", "/", HEADERS)).read() == b"ok"
    assert server.connections == 1


async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    server = Server(OK + b"<close>", OK)
    async with server as client:
        assert await (await client.send("GET", "/", HEADERS)).read() == b"ok"
        assert await (await client.send("PUT", "/", [*HEADERS, (b"content-length", b"1")], b"x")).read() == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end<close>", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_every_form_of_body_is_read(answer: bytes, body: bytes) -> None:
    async with Server(answer) as client:
        assert await (await client.send("GET", "/", HEADERS)).read() == body


async def test_the_answer_to_head_has_no_body() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", OK)
    async with server as client:
        response = await client.send("HEAD", "/", HEADERS)
        assert (await response.read(), response.header(b"content-length")) == (b"", "1000")
        assert await (await client.send("GET", "/", HEADERS)).read() == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize("answer", [b"<close>", b"nonsense\r\n\r\n<close>", b"HTTP/1.1 200 OK\r\nCont<close>"])
async def test_no_answer_is_an_error(answer: bytes) -> None:
    async with Server(answer) as client:
        with pytest.raises(Unreachable):
            await client.send("GET", "/", HEADERS)


async def test_a_body_cut_short_is_an_error() -> None:
    async with Server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc<close>") as client:
        response = await client.send("GET", "/", HEADERS)
        with pytest.raises(Unreachable):
            await response.read()


async def test_an_answer_before_the_end_of_the_body_ends_the_sending() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65536

    async with Server(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno") as client:
        response = await client.send("PUT", "/", [*HEADERS, (b"content-length", b"99999999999")], endless())
        assert (response.status, await response.read()) == (403, b"no")
        response.close()


async def test_a_body_that_fails_closes_the_connection_before_its_end() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("wrong checksum")

    server = Server(OK)
    async with server as client:
        with pytest.raises(ValueError, match="wrong checksum"):
            await client.send("PUT", "/", [*HEADERS, (b"content-length", b"2")], broken())
        client.close()


def test_an_endpoint_has_a_form() -> None:
    with pytest.raises(ValueError, match="Received: 'localhost:9000'"):
        HttpClient("localhost:9000")
