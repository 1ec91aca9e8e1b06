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
        if self.expect_100_continue:
            self._close_if_answered_early()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.scope[COMPLETE] = True  # type: ignore[typeddict-unknown-key]

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. Behind a request with a body it may be that body's end, and is no request to answer.

        TensorFlow's file system for S3 sends more than the content-length that it declares when a file grows while it
        is written out. Its request is answered, and the connection ends: a client makes its next request on another
        one, while it would take a 400 for that request's answer.
        """
        cycle: Any = self.cycle
        if cycle is None or not cycle.scope.get(COMPLETE) or cycle.scope["method"] not in ("PUT", "POST"):
            super().send_400_response(msg)
            return
        self._in_head = False
        cycle.keep_alive = False
        if cycle.response_complete:
            self.transport.close()

    def _close_if_answered_early(self) -> None:
        """A client that asked whether to send its body, and gets its answer instead, may leave the body out. What it
        sent next on the connection would be taken for that body: the answer says that the connection ends.
        """
        cycle: Any = self.cycle
        send = cycle.send

        async def send_closing(message: Any) -> None:
            if not cycle.response_started and cycle.waiting_for_100_continue and not cycle.scope.get(COMPLETE):
                cycle.keep_alive = False
            await send(message)

        cycle.send = send_closing

    def _await_head(self) -> None:
        self._awaited = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_came(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None
