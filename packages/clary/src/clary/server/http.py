"""An ASGI application on a socket that listens already."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

_DRAIN_SECONDS = 5  # for requests that are being answered when the process is told to end


@asynccontextmanager
async def serving(
    application: Any, listener: socket.socket, *, protocol: type[asyncio.Protocol], idle_seconds: int, date_header: bool
) -> AsyncGenerator[None]:
    """Answer requests within the block; at its end, those that are being answered are answered first.

    Args:
        application: in ASGI 3.
        listener: a socket that listens.
        protocol: uvicorn's, or one derived from it.
        idle_seconds: how long a kept connection may be without a request.
        date_header: whether each answer tells the time.
    """
    config = uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=date_header,
        proxy_headers=False,
        timeout_keep_alive=idle_seconds,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _HttpServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    waiting = asyncio.create_task(server.listening.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process before what it depends on."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()
