"""The public port as an ASGI application: tells S3 from the API, authenticates, bounds, and hands over.

What answers comes in as callables, so that the front and the API can be two processes one day.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

from clary.front import authentication
from clary.front.credentials import CredentialStore
from clary.front.reports import Reports
from clary.wire.errors import AwsError
from clary.wire.json_output import dumps
from clary.wire.messages import Caller, WireRequest, WireResponse

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Dispatch = Callable[[WireRequest, Caller], Awaitable[WireResponse]]
S3Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Inference(Protocol):
    """What answers invocations of models; `inference.data_plane.DataPlane` is one."""

    def handles(self, request: WireRequest) -> bool:
        """Whether a request is an invocation."""
        ...

    async def handle(self, request: WireRequest, caller: Caller) -> WireResponse:
        """The response to an authenticated one; never raises."""
        ...


AUTHENTICATION = "clary.authentication"
"""The scope's key under which the S3 handler finds the request's `wire.sigv4.Authentication`."""

OWN_ROUTES = "/_clary/"
MAX_BODY = 8 << 20
MAX_INFERENCE_BODY = 6_291_456
BODY_SECONDS = 60.0
SEND_SECONDS = 60.0  # a client that takes nothing of its answer for so long is given up

_log = logging.getLogger(__name__)


class Front:
    """The application.

    Args:
        credentials: whose keys are whose.
        dispatch: answers API requests; never raises.
        s3: an ASGI application for authenticated S3 requests; finds the `Authentication` in its scope.
        reports: takes the reports of hosts.
        health: what `GET /_clary/health` tells.
        inference: answers invocations; without it the dispatcher does.
    """

    def __init__(
        self,
        *,
        credentials: CredentialStore,
        dispatch: Dispatch,
        s3: S3Handler,
        reports: Reports,
        health: Callable[[], dict[str, Any]],
        inference: Inference | None = None,
    ) -> None:
        self._credentials = credentials
        self._dispatch = dispatch
        self._s3 = s3
        self._reports = reports
        self._health = health
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = _request(scope)
        if request.path.startswith(OWN_ROUTES):
            await _send(send, request, await self._own(request, receive))
            return
        family = authentication.family_of(request)
        if family != "s3":
            response = await self._api(request, family, receive)
            if response.stream is None:
                await _send(send, request, response)
            else:
                await _send_stream(send, receive, response)
            return
        try:
            scope[AUTHENTICATION] = authentication.authenticate_s3(request, self._credentials)
        except AwsError as error:
            await _send(send, request, authentication.refusal(error, request, family))
            return
        await self._s3(scope, receive, send)

    async def _api(self, request: WireRequest, family: authentication.Family, receive: Receive) -> WireResponse:
        inference = self._inference if self._inference and self._inference.handles(request) else None
        try:
            claim = authentication.claim_api(request, self._credentials, family)
            body = await _read(receive, request, MAX_INFERENCE_BODY if inference else MAX_BODY)
            caller = authentication.authenticate_api(claim, body, family).caller
        except AwsError as error:
            if inference and error.status == 413:  # AWS tells this one by its status alone
                return _problem(413, f"HTTP content length exceeded {MAX_INFERENCE_BODY} bytes.")
            return authentication.refusal(error, request, family)
        if inference:
            return await inference.handle(replace(request, body=body), caller)
        return await self._dispatch(replace(request, body=body), caller)

    async def _own(self, request: WireRequest, receive: Receive) -> WireResponse:
        """Clary's own routes: health, and the reports of hosts."""
        parts = request.path.removeprefix(OWN_ROUTES).split("/")
        if parts == ["health"] and request.method in ("GET", "HEAD"):
            return WireResponse(200, {"content-type": "application/json"}, dumps(self._health()))
        if len(parts) == 3 and parts[0] == "hosts" and parts[2] == "report" and request.method == "POST":
            try:
                body = await _read(receive, request, self._reports.max_body)
            except AwsError as error:
                return _problem(error.status, error.message)
            return await self._reports.receive(parts[1], request.headers.get("authorization", ""), body)
        return _problem(404, f"Clary has no route {request.method} {request.path}")


async def _read(receive: Receive, request: WireRequest, limit: int) -> bytes:
    """The body, complete.

    Raises:
        AwsError: it is too large, does not come in time, or the client went away.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or len(declared) > 15 or int(declared) > limit:
        raise AwsError("RequestEntityTooLargeException", f"The request body is over {limit} bytes", status=413)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise AwsError("RequestTimeout", "The client closed the connection within the request", status=408)
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise AwsError(
                        "RequestEntityTooLargeException", f"The request body is over {limit} bytes", status=413
                    )
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        text = f"The request body did not arrive within {BODY_SECONDS:.0f} seconds"
        raise AwsError("RequestTimeout", text, status=408) from None


async def _send(send: Send, request: WireRequest, response: WireResponse) -> None:
    headers = _headers(response)
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else response.body})


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


def _request(scope: Scope) -> WireRequest:
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


def _problem(status: int, message: str) -> WireResponse:
    return WireResponse(status, {"content-type": "application/json"}, dumps({"message": message}))
