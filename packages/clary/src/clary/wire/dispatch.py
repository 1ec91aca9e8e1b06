"""From a request to its response: find the operation, read its parameters, call its handler, write the answer."""

from __future__ import annotations

import inspect
import logging
import uuid
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from clary.wire import routing
from clary.wire.errors import AwsError, UnsupportedOperation
from clary.wire.messages import Caller, OperationCall, WireRequest, WireResponse
from clary.wire.operations import operation
from clary.wire.responses import error_response, json_type
from clary.wire.services import BY_NAME

Handler = Callable[[OperationCall], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]

MAX_INFLATED = 32 << 20

_log = logging.getLogger(__name__)


class Dispatcher:
    """Answers API requests from a table of handlers. Safe to use from several threads and event loops.

    Args:
        handlers: by botocore's service name and the operation's name. A handler answers or raises AwsError.
        region: the region that Clary plays; kept for handlers' error texts.
    """

    def __init__(self, handlers: Mapping[tuple[str, str], Handler], region: str) -> None:
        self._handlers = dict(handlers)
        self.region = region

    async def handle(self, request: WireRequest, caller: Caller) -> WireResponse:
        """The response to an authenticated request. Never raises: what goes wrong is an answer too."""
        request_id = str(uuid.uuid4())
        route: routing.Route | None = None
        try:
            request = _inflated(request)
            route = routing.find(request)
            service = route.service.name
            compiled = operation(service, route.operation, route.protocol)
            handler = self._handlers.get((service, route.operation))
            if handler is None:
                raise UnsupportedOperation(service, route.operation)
            params = compiled.read(request, route)
            answer = handler(OperationCall(service, route.operation, params, caller, request_id, request.headers))
            if inspect.isawaitable(answer):
                answer = await answer
            return compiled.write(answer, request_id, json_type(request, service))
        except AwsError as error:
            return self._refuse(error, request, route, request_id)
        except Exception:  # noqa: BLE001 - the boundary: whatever a handler lets through is recorded here
            name = f"{route.service.name}.{route.operation}" if route else request.path
            _log.exception("request %s: %s failed", request_id, name)
            text = f"Clary failed to answer {name}. The server's log tells why, under request {request_id}."
            return self._refuse(AwsError("InternalFailure", text, status=500), request, route, request_id)

    def warm(self) -> None:
        """Load every model that has handlers and compile their operations, so that no request waits for it."""
        for service, name in self._handlers:
            operation(service, name, BY_NAME[service].protocol)

    def _refuse(
        self, error: AwsError, request: WireRequest, route: routing.Route | None, request_id: str
    ) -> WireResponse:
        protocol = route.protocol if route else routing.protocol_of(request)
        return error_response(error, request, protocol, route.service.name if route else None, request_id)


def _inflated(request: WireRequest) -> WireRequest:
    """The request with its body as it was before the client compressed it: botocore does for large PutMetricData.

    Raises:
        AwsError: it is not gzip, or too large.
    """
    if request.headers.get("content-encoding", "").lower() != "gzip":
        return request
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(request.body, MAX_INFLATED)
    except zlib.error as error:
        raise AwsError("SerializationException", f"The request body is not valid gzip: {error}") from None
    if inflater.unconsumed_tail:
        text = f"The request body is over {MAX_INFLATED} bytes when decompressed"
        raise AwsError("RequestEntityTooLargeException", text, status=413)
    if not inflater.eof:
        raise AwsError("SerializationException", "The request body ends within its gzip stream")
    return replace(request, body=body)
