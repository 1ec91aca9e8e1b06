"""The runtime API's operations that reach models: InvokeEndpoint and InvokeEndpointWithResponseStream.

From an authenticated request to its response, without the dispatcher: these are the two operations whose own cost
matters.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from urllib.parse import unquote

from clary.inference import errors
from clary.inference.capture import Capture, Invoked
from clary.inference.connection import Broken, StreamedAnswer, TooSlow
from clary.inference.router import Invocation, Router
from clary.wire.errors import AwsError
from clary.wire.eventstream import CONTENT_TYPE, error_frame, frame
from clary.wire.messages import Caller, WireRequest, WireResponse
from clary.wire.responses import error_response

PREFIX = "/endpoints/"
_WHOLE, _STREAMED = "invocations", "invocations-response-stream"
_SAGEMAKER = "x-amzn-sagemaker-"
_LONGEST = {
    "content-type": ("contentType", 1024),
    "accept": ("accept", 1024),
    _SAGEMAKER + "accept": ("accept", 1024),
    _SAGEMAKER + "custom-attributes": ("customAttributes", 1024),
    _SAGEMAKER + "target-model": ("targetModel", 1024),
    _SAGEMAKER + "target-variant": ("targetVariant", 63),
    _SAGEMAKER + "target-container-hostname": ("targetContainerHostname", 63),
    _SAGEMAKER + "inference-id": ("inferenceId", 64),
    _SAGEMAKER + "session-id": ("sessionId", 256),
    _SAGEMAKER + "prefix-aware-id": ("prefixAwareId", 64),
}
_FORWARDED = {
    "content-type": b"Content-Type",
    _SAGEMAKER + "custom-attributes": b"X-Amzn-SageMaker-Custom-Attributes",
    _SAGEMAKER + "target-model": b"X-Amzn-SageMaker-Target-Model",
    _SAGEMAKER + "target-container-hostname": b"X-Amzn-SageMaker-Target-Container-Hostname",
    _SAGEMAKER + "inference-id": b"X-Amzn-SageMaker-Inference-Id",
    _SAGEMAKER + "session-id": b"X-Amzn-SageMaker-Session-Id",
    _SAGEMAKER + "prefix-aware-id": b"X-Amzn-SageMaker-Prefix-Aware-Id",
}
_NOT_OFFERED = {
    _SAGEMAKER + "enable-explanations": "EnableExplanations needs an endpoint with an explainer, which Clary lacks.",
    _SAGEMAKER + "inference-component": "InferenceComponentName: Clary's endpoints have no inference components.",
}
_RETURNED = (
    _SAGEMAKER + "custom-attributes",
    _SAGEMAKER + "new-session-id",
    _SAGEMAKER + "closed-session-id",
)

_log = logging.getLogger(__name__)


class DataPlane:
    """Answers invocations.

    Args:
        router: sends them to replicas.
        capture: takes down the invocations of endpoints with data capture.
    """

    def __init__(self, router: Router, capture: Capture | None = None) -> None:
        self._router = router
        self._capture = capture or Capture()

    def handles(self, request: WireRequest) -> bool:
        """Whether a request is one of this room's."""
        return (
            request.method == "POST"
            and request.path.startswith(PREFIX)
            and request.path.rpartition("/")[2] in (_WHOLE, _STREAMED)
        )

    def refuse(self, request: WireRequest) -> WireResponse | None:
        """The response to an invocation that would only wait in vain; its body need not be read."""
        try:
            self._router.check_room(_endpoint_of(request))
        except AwsError as error:
            return _refusal(error, request, str(uuid.uuid4()))
        return None

    def coming(self, request: WireRequest) -> AbstractContextManager[None]:
        """While the body of an invocation is read."""
        return self._router.coming(_endpoint_of(request))

    async def handle(self, request: WireRequest, caller: Caller) -> WireResponse:
        """The response to an authenticated invocation. Never raises."""
        request_id = str(uuid.uuid4())
        try:
            streamed = request.path.endswith(_STREAMED)
            call = _invocation(_endpoint_of(request), request, caller, streamed=streamed)
            if streamed:
                return await self._streamed(call, request_id)
            return await self._whole(call, request, request_id)
        except AwsError as error:
            return _refusal(error, request, request_id)
        except Exception:  # noqa: BLE001 - the boundary: what goes wrong is recorded here, and is an answer too
            _log.exception("request %s: the invocation of %s failed", request_id, request.path)
            text = f"Clary failed to invoke the endpoint. The server's log tells why, under request {request_id}."
            return _refusal(AwsError("InternalFailure", text, status=500), request, request_id)

    async def _whole(self, call: Invocation, request: WireRequest, request_id: str) -> WireResponse:
        answer = await self._router.invoke(call)
        headers = {
            "x-amzn-requestid": request_id,
            "x-amzn-invoked-production-variant": answer.variant,
            "content-type": _text(answer.exchange.header(b"content-type")) or "application/octet-stream",
        }
        for name, value in answer.exchange.headers:
            if name.startswith(b"x-amzn-") and (known := name.decode("latin-1")) in _RETURNED:
                headers[known] = _text(value)
        body = answer.exchange.body
        if answer.capture is not None:
            invoked = Invoked(
                endpoint=call.endpoint,
                variant=answer.variant,
                content_type=request.headers.get("content-type", ""),
                body=request.body,
                answer_type=headers["content-type"],
                answer=body,
                inference_id=request.headers.get(_SAGEMAKER + "inference-id"),
                custom_attributes=request.headers.get(_SAGEMAKER + "custom-attributes"),
            )
            self._capture.note(answer.capture, invoked)
        return WireResponse(200, headers, body)

    async def _streamed(self, call: Invocation, request_id: str) -> WireResponse:
        stream = await self._router.invoke_streaming(call)
        answer = stream.answer
        headers = {
            "x-amzn-requestid": request_id,
            "x-amzn-invoked-production-variant": stream.variant,
            "content-type": CONTENT_TYPE,
            _SAGEMAKER + "content-type": _text(answer.header(b"content-type")) or "application/octet-stream",
        }
        attributes = answer.header(_RETURNED[0].encode())
        if attributes is not None:
            headers[_RETURNED[0]] = _text(attributes)
        return WireResponse(200, headers, stream=_frames(answer))


_PART = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}


async def _frames(answer: StreamedAnswer) -> AsyncIterator[bytes]:
    """Each piece of the answer as an event; what goes wrong on the way is the last one."""
    try:
        async for piece in answer.pieces():
            yield frame(_PART, piece)
    except TooSlow:
        yield _stream_error("ModelInvocationTimeExceeded", errors.TIMED_OUT)
    except Broken:
        yield _stream_error("StreamBroken", "The container closed the connection before its response was complete.")


def _stream_error(code: str, message: str) -> bytes:
    return error_frame(AwsError("ModelStreamError", message, fields={"ErrorCode": code}))


def _endpoint_of(request: WireRequest) -> str:
    """The name in /endpoints/<name>/invocations."""
    return unquote(request.path.removeprefix(PREFIX).rpartition("/")[0])


def _invocation(name: str, request: WireRequest, caller: Caller, *, streamed: bool) -> Invocation:
    headers = request.headers
    lines = [b"POST /invocations HTTP/1.1\r\nHost: localhost\r\n"]
    target_variant = hostname = target_model = None
    for header, value in headers.items():
        limit = _LONGEST.get(header)
        if limit is not None and len(value) > limit[1]:
            raise errors.invalid(
                f"1 validation error detected: Value at '{limit[0]}' failed to satisfy constraint: Member must have "
                f"length less than or equal to {limit[1]}"
            )
        if header in _NOT_OFFERED:
            raise errors.invalid(_NOT_OFFERED[header])
        if header in _FORWARDED:
            lines.append(_FORWARDED[header] + b": " + value.encode("latin-1") + b"\r\n")
            if header == _SAGEMAKER + "target-container-hostname":
                hostname = value
            elif header == _SAGEMAKER + "target-model":
                target_model = value
        elif header == _SAGEMAKER + "target-variant":
            target_variant = value
    accept = headers.get(_SAGEMAKER + "accept" if streamed else "accept")
    if accept:
        lines.append(b"Accept: " + accept.encode("latin-1") + b"\r\n")
    lines.append(b"Content-Length: %d\r\n\r\n" % len(request.body))
    return Invocation(
        endpoint=name,
        target_variant=target_variant,
        head=b"".join(lines),
        body=request.body,
        received=time.perf_counter(),
        account_id=caller.account_id,
        target_model=target_model,
        container_hostname=hostname,
    )


def _refusal(error: AwsError, request: WireRequest, request_id: str) -> WireResponse:
    response = error_response(error, request, "rest-json", "sagemaker-runtime", request_id)
    if isinstance(error, errors.ServiceUnavailable):
        headers = {**response.headers, "retry-after": str(error.retry_after)}
        return WireResponse(response.status, headers, response.body)
    return response


def _text(value: bytes | None) -> str:
    return value.decode("latin-1") if value is not None else ""
