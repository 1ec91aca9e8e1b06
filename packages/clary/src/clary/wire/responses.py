"""Errors as responses, in the form of each protocol."""

from __future__ import annotations

from functools import cache
from typing import Any

from clary.wire import query
from clary.wire.errors import AwsError
from clary.wire.json_output import dumps
from clary.wire.messages import WireRequest, WireResponse
from clary.wire.services import BY_NAME, Protocol, model

# What the Query protocol calls the errors that every protocol has.
_QUERY_CODES = {
    "SerializationException": "MalformedInput",
    "UnknownOperationException": "InvalidAction",
    "ValidationException": "ValidationError",
}


def error_response(
    error: AwsError, request: WireRequest, protocol: Protocol, service: str | None, request_id: str
) -> WireResponse:
    """The response that tells an error.

    Args:
        service: botocore's name, where it is known: its model may give the error a status and members of its own.
    """
    shape = _error_shape(service, error.code) if service else None
    status = error.status
    if shape is not None and status == 400:
        status = shape.metadata.get("error", {}).get("httpStatusCode", status)
    headers = {"x-amzn-requestid": request_id}
    if protocol == "query":
        code = _QUERY_CODES.get(error.code, error.code)
        if shape is not None:
            code = shape.metadata.get("error", {}).get("code", shape.name)
        namespace = model(service).metadata.get("xmlNamespace", "") if service else ""
        body = query.write_error(error, code, namespace, request_id)
        return WireResponse(status, headers | {"content-type": "text/xml"}, body)
    code = shape.name if shape is not None else error.code
    message = "message"
    if shape is not None and "Message" in shape.members:
        message = "Message"
    content = {message: error.message, **error.fields}
    headers["x-amzn-errortype"] = code
    if protocol == "rest-json":
        return WireResponse(status, headers | {"content-type": "application/json"}, dumps(content))
    if service and _is_query_compatible(service):
        kind = "Sender" if status < 500 else "Receiver"
        query_code = code if shape is None else shape.metadata.get("error", {}).get("code", code)
        headers["x-amzn-query-error"] = f"{query_code};{kind}"
    headers["content-type"] = json_type(request, service)
    return WireResponse(status, headers, dumps({"__type": code, **content}))


def json_type(request: WireRequest, service: str | None) -> str:
    """The content type of an answer in JSON: the request's version, else the service's."""
    asked = request.headers.get("content-type", "")
    if asked in ("application/x-amz-json-1.0", "application/x-amz-json-1.1"):
        return asked
    return f"application/x-amz-json-{BY_NAME[service].json_version if service else '1.1'}"


@cache
def _error_shape(service: str, code: str) -> Any:
    """The model's shape of an error, by the shape's name or by its code in the Query protocol."""
    for shape in model(service).error_shapes:
        if code in (shape.name, shape.metadata.get("error", {}).get("code")):
            return shape
    return None


def _is_query_compatible(service: str) -> bool:
    return "awsQueryCompatible" in model(service).metadata
