"""The public port as an ASGI application: tells S3 from the API, authenticates, bounds, and hands over.

What answers comes in as callables: the API is another process (`front.handover`).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from clary.front import authentication
from clary.front.asgi import COMPLETE, Receive, Scope, Send, problem, read_body, request_of, send_response
from clary.front.credentials import CredentialStore
from clary.wire.errors import AwsError
from clary.wire.json_output import dumps
from clary.wire.messages import Caller, WireRequest, WireResponse

Dispatch = Callable[[WireRequest, Caller], Awaitable[WireResponse]]
S3Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Health = Mapping[str, Any]


class Inference(Protocol):
    """What answers invocations of models; `inference.data_plane.DataPlane` is one."""

    def handles(self, request: WireRequest) -> bool:
        """Whether a request is an invocation."""
        ...

    def refuse(self, request: WireRequest) -> WireResponse | None:
        """The response to one whose body need not be read, because nothing can take it now."""
        ...

    def coming(self, request: WireRequest) -> AbstractContextManager[None]:
        """While the body of one is read."""
        ...

    async def handle(self, request: WireRequest, caller: Caller) -> WireResponse:
        """The response to an authenticated one; never raises."""
        ...


class ReportTaker(Protocol):
    """What takes the reports of hosts; `front.reports.Reports` is one."""

    async def receive(self, host_id: str, authorization: str, body: bytes) -> WireResponse:
        """The response to one report; never raises."""
        ...


AUTHENTICATION = "clary.authentication"
"""The scope's key under which the S3 handler finds the request's `wire.sigv4.Authentication`."""

OWN_ROUTES = "/_clary/"
MAX_BODY = 8 << 20
MAX_INFERENCE_BODY = 6_291_456
MAX_REPORT = 64 << 20  # a line of a log may be long, and a host that was alone for a while has many


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
        reports: ReportTaker,
        health: Callable[[], Health | Awaitable[Health]],
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
        request = request_of(scope)
        if request.path.startswith(OWN_ROUTES):
            await send_response(send, receive, request, await self._own(request, scope, receive))
            return
        family = authentication.family_of(request)
        if family != "s3":
            await send_response(send, receive, request, await self._api(request, family, scope, receive))
            return
        try:
            scope[AUTHENTICATION] = authentication.authenticate_s3(request, self._credentials)
        except AwsError as error:
            await send_response(send, receive, request, authentication.refusal(error, request, family))
            return
        await self._s3(scope, receive, send)

    async def _api(
        self, request: WireRequest, family: authentication.Family, scope: Scope, receive: Receive
    ) -> WireResponse:
        inference = self._inference if self._inference and self._inference.handles(request) else None
        try:
            claim = authentication.claim_api(request, self._credentials, family)
            if inference and (refusal := inference.refuse(request)):
                return refusal
            with inference.coming(request) if inference and COMPLETE not in scope else nullcontext():
                body = await read_body(scope, receive, request, MAX_INFERENCE_BODY if inference else MAX_BODY)
            caller = authentication.authenticate_api(claim, body, family).caller
        except AwsError as error:
            if inference and error.status == 413:  # AWS tells this one by its status alone
                return problem(413, f"HTTP content length exceeded {MAX_INFERENCE_BODY} bytes.")
            return authentication.refusal(error, request, family)
        if inference:
            return await inference.handle(replace(request, body=body), caller)
        return await self._dispatch(replace(request, body=body), caller)

    async def _own(self, request: WireRequest, scope: Scope, receive: Receive) -> WireResponse:
        """Clary's own routes: health, and the reports of hosts."""
        parts = request.path.removeprefix(OWN_ROUTES).split("/")
        if parts == ["health"] and request.method in ("GET", "HEAD"):
            health = self._health()
            told = await health if inspect.isawaitable(health) else health
            return WireResponse(200, {"content-type": "application/json"}, dumps(dict(told)))
        if len(parts) == 3 and parts[0] == "hosts" and parts[2] == "report" and request.method == "POST":
            try:
                body = await read_body(scope, receive, request, MAX_REPORT)
            except AwsError as error:
                return problem(error.status, error.message)
            return await self._reports.receive(parts[1], request.headers.get("authorization", ""), body)
        return problem(404, f"Clary has no route {request.method} {request.path}")
