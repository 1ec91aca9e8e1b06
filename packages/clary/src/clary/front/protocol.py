"""HTTP connections that do not wait for ever: a client that opens one must send its request's head in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clary.front.asgi import COMPLETE

HEAD_SECONDS = 20.0


class PromptProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which bounds idle time between requests, with a bound on the time for a request's head.

    Bodies are bounded where they are read: an API request as a whole, a transfer of S3 by its own progress. The scope
    says when the body has come (`asgi.COMPLETE`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited: asyncio.TimerHandle | None = None
        self._in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self._awaited is None:  # most heads come in one piece and need no timer
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.scope[COMPLETE] = True  # type: ignore[typeddict-unknown-key]

    def _await_head(self) -> None:
        self._awaited = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_came(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None
