"""The REST-JSON protocol: members in path, query string, headers and body. The data planes speak it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from clary.wire.constraints import wrong_type
from clary.wire.errors import AwsError
from clary.wire.json_output import Encoder, dumps
from clary.wire.messages import WireRequest
from clary.wire.services import REST, Service, model
from clary.wire.text import from_text, to_text

_LABEL = re.compile(r"\{(\w+)(\+?)\}")


def match(method: str, path: str) -> tuple[Service, str, dict[str, str]] | None:
    """The service, operation and path labels of a request, or None where no REST service has such a path."""
    for verb, pattern, service, operation in _paths():
        if verb == method and (found := pattern.fullmatch(path)):
            labels = {name: unquote(value, errors="replace") for name, value in found.groupdict().items()}
            return service, operation, labels
    return None


def is_known_path(path: str) -> bool:
    """Whether a REST service answers at this path, whatever the method."""
    return any(pattern.fullmatch(path) for _, pattern, _, _ in _paths())


def read_params(shape: Any, request: WireRequest, labels: Mapping[str, str]) -> dict[str, Any]:
    """The members of an input shape, by member name, as JSON-like values."""
    query: dict[str, list[str]] = {}
    for name, value in _query_pairs(request.query):
        query.setdefault(name, []).append(value)
    found: dict[str, Any] = {}
    in_body: dict[str, str] = {}
    for name, member in shape.members.items():
        place, wire_name = member.serialization.get("location"), member.serialization.get("name", name)
        if place is None:
            in_body[wire_name] = name
        elif place == "uri" and wire_name in labels:
            found[name] = from_text(member, labels[wire_name])
        elif place == "querystring" and wire_name in query:
            found[name] = _from_query(member, query[wire_name])
        elif place == "header" and wire_name.lower() in request.headers:
            found[name] = _from_header(member, request.headers[wire_name.lower()])
        elif place == "headers":
            prefix = wire_name.lower()
            found[name] = {k[len(prefix) :]: v for k, v in request.headers.items() if k.startswith(prefix)}
    payload = shape.serialization.get("payload")
    if payload:
        found[payload] = _from_payload(shape.members[payload], request.body)
    elif in_body:
        body = load_object(request.body)
        found |= {in_body[name]: value for name, value in body.items() if name in in_body}
    return found


def write_answer(shape: Any, answer: Mapping[str, Any], encoder: Encoder) -> tuple[dict[str, str], bytes, int | None]:
    """Headers, body and, where a member says it, the status of an operation's result."""
    headers: dict[str, str] = {}
    status: int | None = None
    rest: dict[str, Any] = {}
    payload_name = None if shape is None else shape.serialization.get("payload")
    members: Mapping[str, Any] = {} if shape is None else shape.members
    for name, member in members.items():
        value = answer.get(name)
        if value is None or name == payload_name:
            continue
        place, wire_name = member.serialization.get("location"), member.serialization.get("name", name)
        if place == "header":
            headers[wire_name.lower()] = to_text(member, value, timestamps="rfc822")
        elif place == "headers":
            headers |= {f"{wire_name}{key}".lower(): str(item) for key, item in value.items()}
        elif place == "statusCode":
            status = int(value)
        else:
            rest[name] = value
    if payload_name:
        member = members[payload_name]
        value = answer.get(payload_name)
        if member.type_name in ("blob", "string"):
            headers.setdefault("content-type", "application/octet-stream")
            return headers, value.encode() if isinstance(value, str) else bytes(value or b""), status
        shape, rest = member, value or {}
    headers.setdefault("content-type", "application/json")
    encode = None if shape is None else encoder.compile(shape)
    return headers, dumps(encode(rest) if encode else rest), status


def load_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object; an empty body is an empty object.

    Raises:
        AwsError: SerializationException.
    """
    if not body:
        return {}
    value = load_json(body)
    if not isinstance(value, dict):
        raise wrong_type(value, "structure")
    return value


def load_json(body: bytes) -> Any:
    """A body as JSON; NUL characters, which no database keeps, are refused here once and for all."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise AwsError("SerializationException", f"The request body is not valid JSON: {error}") from None
    if b"\\u0000" in body and _holds_nul(value):
        raise AwsError("SerializationException", "The request body holds a NUL character (\\u0000)")
    return value


def _holds_nul(value: Any) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\0" in item:
                return True
        elif isinstance(item, dict):
            stack += [*item, *item.values()]
        elif isinstance(item, list):
            stack += item
    return False


def _query_pairs(query: str) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as error:
        raise AwsError("SerializationException", f"The query string is malformed: {error}") from None
    return pairs


def _from_query(member: Any, values: list[str]) -> Any:
    if member.type_name == "list":
        return [from_text(member.member, value) for value in values]
    return from_text(member, values[-1])


def _from_header(member: Any, text: str) -> Any:
    if member.serialization.get("jsonvalue"):
        try:
            return orjson.loads(base64.b64decode(text, validate=True)) if text else None
        except ValueError:
            raise AwsError("SerializationException", "A header does not hold JSON in base64") from None
    if member.type_name == "list":
        return [from_text(member.member, part.strip()) for part in text.split(",")]
    return from_text(member, text)


def _from_payload(member: Any, body: bytes) -> Any:
    if member.type_name == "blob":
        return body
    if member.type_name == "string":
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise AwsError("SerializationException", "The body is not UTF-8") from None
    return load_object(body)


@cache
def _paths() -> tuple[tuple[str, re.Pattern[str], Service, str], ...]:
    found: list[tuple[str, re.Pattern[str], Service, str]] = []
    for service in REST:
        operations = model(service.name)
        for name in operations.operation_names:
            http = operations.operation_model(name).http
            path = re.escape(http["requestUri"].partition("?")[0]).replace(r"\{", "{").replace(r"\}", "}")
            path = path.replace(r"\+}", "+}")
            pattern = _LABEL.sub(lambda label: f"(?P<{label[1]}>{'.+' if label[2] else '[^/]+'})", path)
            found.append((http["method"], re.compile(pattern), service, name))
    return tuple(found)
