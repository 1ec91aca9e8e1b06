"""A connection without a request is given up; one that is used is not."""

from __future__ import annotations

import asyncio

import uvicorn

from clary.front import protocol


async def _hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_a_client_that_never_finishes_its_head_is_given_up(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    config = uvicorn.Config(
        _hello, port=0, http=protocol.PromptProtocol, ws="none", lifespan="off", log_config=None, interface="asgi3"
    )
    config.load()
    loop = asyncio.get_running_loop()
    state = uvicorn.server.ServerState()
    server = await loop.create_server(lambda: protocol.PromptProtocol(config, state, {}), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    try:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
        writer.close()
    finally:
        server.close()
