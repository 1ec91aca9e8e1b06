"""The few steps between ASGI and the wire's values, the same in the front and in the API process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from clary.wire.errors import AwsError
from clary.wire.json_output import dumps
from clary.wire.messages import WireRequest, WireResponse

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

COMPLETE = "clary.complete"
"""The scope's key that is there once the whole body has come: nobody need wait for it then (`front.protocol`)."""

BODY_SECONDS = 60.0
SEND_SECONDS = 60.0  # a client that takes nothing of its answer for so long is given up

_log = logging.getLogger(__name__)


def request_of(scope: Scope) -> WireRequest:
    """The request of a scope, its body still unread."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    return WireRequest(
        method=scope["method"],
        path=raw_path.decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
    )


async def read_body(scope: Scope, receive: Receive, request: WireRequest, limit: int) -> bytes:
    """The body of a scope's request, complete.

    Raises:
        AwsError: it is too large, does not come in time, or the client went away.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or len(declared) > 15 or int(declared) > limit:
        raise AwsError("RequestEntityTooLargeException", f"The request body is over {limit} bytes", status=413)
    if COMPLETE in scope:
        return await _all_chunks(receive, limit)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _all_chunks(receive, limit)
    except TimeoutError:
        text = f"The request body did not arrive within {BODY_SECONDS:.0f} seconds"
        raise AwsError("RequestTimeout", text, status=408) from None


async def _all_chunks(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise AwsError("RequestTimeout", "The client closed the connection within the request", status=408)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise AwsError("RequestEntityTooLargeException", f"The request body is over {limit} bytes", status=413)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def send_response(send: Send, receive: Receive, request: WireRequest, response: WireResponse) -> None:
    """Send a response, whole or as it comes."""
    if response.stream is not None:
        await _send_stream(send, receive, response)
        return
    headers = _headers(response)
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else response.body})


def problem(status: int, message: str) -> WireResponse:
    """An error of one of Clary's own routes."""
    return WireResponse(status, {"content-type": "application/json"}, dumps({"message": message}))


async def _send_stream(send: Send, receive: Receive, response: WireResponse) -> None:
    """Send a body as it comes; when the client goes away, or takes nothing any more, what makes it is ended."""
    assert response.stream is not None
    gone = asyncio.ensure_future(receive())  # the request is complete: all that can come is the connection's end
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": _headers(response)})
        async for piece in response.stream:
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if gone.done():
                return
        await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        _log.info("a client took nothing of a streamed answer for %.0f seconds", SEND_SECONDS)
    finally:
        gone.cancel()
        if isinstance(response.stream, AsyncGenerator):
            await response.stream.aclose()


def _headers(response: WireResponse) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in response.headers.items()]
