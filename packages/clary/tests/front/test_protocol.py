"""A connection without a request is given up, as is one whose client may leave a body out; one that is used is not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import uvicorn

from clary.front import protocol


async def _hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _reading(scope, receive, send):
    message = await receive()
    assert message["body"] == b"body"
    await _hello(scope, receive, send)


@asynccontextmanager
async def serving(application):
    """The address of a server that speaks the protocol."""
    config = uvicorn.Config(
        application, port=0, http=protocol.PromptProtocol, ws="none", lifespan="off", log_config=None, interface="asgi3"
    )
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol.PromptProtocol(config, state, {}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def test_a_client_that_never_finishes_its_head_is_given_up(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    async with serving(_hello) as address:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
        writer.close()


ASKING = b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"


async def test_a_client_that_is_answered_before_it_sends_its_body_learns_that_the_connection_ends():
    async with serving(_hello) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(ASKING)
        said = await asyncio.wait_for(reader.read(), 10)  # to the end of the connection
        assert said.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in said
        writer.close()


async def test_a_client_that_is_told_to_send_its_body_keeps_its_connection():
    async with serving(_reading) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(2):
            writer.write(ASKING)
            assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"body")
            said = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
            assert said.startswith(b"HTTP/1.1 200")
            assert b"connection: close" not in said
        writer.close()


PUTTING = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
TOO_MANY = b"\x18\x00\x00\x00of a file that grew"


async def test_a_request_with_bytes_too_many_is_answered_and_its_connection_ends():
    async with serving(_reading) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(PUTTING + TOO_MANY)
        said = await asyncio.wait_for(reader.read(), 10)  # to the end of the connection
        assert said.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in said
        assert said.endswith(b"ok")
        writer.close()


async def test_bytes_too_many_that_come_after_the_answer_get_none():
    async with serving(_reading) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(PUTTING)
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
        writer.write(TOO_MANY + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_what_is_no_request_at_all_is_refused():
    async with serving(_hello) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"\x18\x00\x00\x00bytes\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 400")
        writer.close()
