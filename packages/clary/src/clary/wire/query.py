"""The Query protocol: forms in, XML out. STS and IAM speak it, and CloudWatch with older SDKs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from clary.wire.errors import AwsError
from clary.wire.messages import WireRequest
from clary.wire.text import from_text, to_text

_MAX_FIELDS = 10_000
_MAX_DEPTH = 32
_FORM = "application/x-www-form-urlencoded"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Tree = dict[str, Any]


def is_form(request: WireRequest) -> bool:
    """Whether the request could be of the Query protocol, which has one path."""
    if request.path not in ("", "/"):
        return False
    return request.headers.get("content-type", "").startswith(_FORM) or "Action=" in request.query


def read_form(request: WireRequest) -> dict[str, str]:
    """The parameters of query string and body.

    Raises:
        AwsError: MalformedQueryString, where they are no form.
    """
    try:
        pairs = _pairs(request.query)
        if request.headers.get("content-type", "").startswith(_FORM):
            pairs += _pairs(request.body.decode())
    except ValueError as error:
        raise AwsError("MalformedQueryString", f"The query string is malformed: {error}") from None
    form = dict(pairs)
    if any("\0" in value for value in form.values()):
        raise AwsError("MalformedQueryString", "The query string is malformed: it holds a NUL character")
    return form


def read_params(form: Mapping[str, str], shape: Any) -> Tree:
    """The members of an input shape, by member name, as JSON-like values."""
    tree: Tree = {}
    for name, value in form.items():
        parts = name.split(".")
        if len(parts) > _MAX_DEPTH:
            continue
        node = tree
        for part in parts[:-1]:
            below = node.setdefault(part, {})
            if not isinstance(below, dict):
                below = node[part] = {}
            node = below
        if not isinstance(node.get(parts[-1]), dict):
            node[parts[-1]] = value
    return _structure(shape, tree)


def write_answer(operation: Any, namespace: str, answer: Mapping[str, Any], request_id: str) -> bytes:
    """The XML document of an operation's result."""
    shape = operation.output_shape
    body = "" if shape is None else _members_xml(shape, answer)
    wrapper = None if shape is None else shape.serialization.get("resultWrapper")
    if wrapper:
        body = f"<{wrapper}>{body}</{wrapper}>"
    name = f"{operation.name}Response"
    metadata = f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
    return f'<{name} xmlns="{namespace}">{body}{metadata}</{name}>'.encode()


def write_error(error: AwsError, code: str, namespace: str, request_id: str) -> bytes:
    """The XML document of an error."""
    kind = "Sender" if error.status < 500 else "Receiver"
    fields = "".join(f"<{name}>{xml_text(str(value))}</{name}>" for name, value in error.fields.items())
    return (
        f'<ErrorResponse xmlns="{namespace}"><Error><Type>{kind}</Type><Code>{xml_text(code)}</Code>'
        f"<Message>{xml_text(error.message)}</Message>{fields}</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    ).encode()


def xml_text(text: str) -> str:
    """Text as XML 1.0 can hold it: markup escaped, characters that it forbids replaced."""
    return escape(_NOT_XML.sub("\ufffd", text), {'"': "&quot;", "\r": "&#13;"})


def _pairs(text: str) -> list[tuple[str, str]]:
    if not text:
        return []
    return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)


def _structure(shape: Any, node: Any) -> Any:
    if not isinstance(node, dict):
        return {} if node == "" else node
    tree: Tree = node
    found: Tree = {}
    for name, member in shape.members.items():
        wire_name = member.serialization.get("name", name)
        if member.type_name == "list" and member.serialization.get("flattened"):
            wire_name = member.member.serialization.get("name", wire_name)
        if wire_name in tree:
            found[name] = _value(member, tree[wire_name])
    return found


def _value(shape: Any, node: Any) -> Any:
    if shape.type_name == "structure":
        return _structure(shape, node)
    if shape.type_name == "list":
        return _list(shape, node)
    if shape.type_name == "map":
        return _map(shape, node)
    return node if isinstance(node, dict) else from_text(shape, node)


def _list(shape: Any, node: Any) -> Any:
    if node == "":
        return []
    if isinstance(node, dict) and not shape.serialization.get("flattened"):
        node = node.get(shape.member.serialization.get("name", "member"), node)
    return [_value(shape.member, item) for item in _numbered(node)]


def _map(shape: Any, node: Any) -> Any:
    if node == "":
        return {}
    if isinstance(node, dict) and not shape.serialization.get("flattened"):
        node = node.get("entry", node)
    key = shape.key.serialization.get("name", "key")
    value = shape.value.serialization.get("name", "value")
    found: Tree = {}
    for entry in _numbered(node):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise AwsError("SerializationException", "A map needs entries of key and value")
        found[entry[key]] = _value(shape.value, entry[value]) if value in entry else None
    return found


def _numbered(node: Any) -> list[Any]:
    """The elements of {"1": …, "2": …} in order of their numbers."""
    if not isinstance(node, dict) or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in node):
        raise AwsError("SerializationException", "A list needs elements that are numbered from 1")
    return [node[key] for key in sorted(node, key=int)]


def _xml(name: str, shape: Any, value: Any) -> str:
    if shape.type_name == "structure":
        return f"<{name}>{_members_xml(shape, value)}</{name}>"
    if shape.type_name == "list":
        if shape.serialization.get("flattened"):
            inner = shape.member.serialization.get("name", name)
            return "".join(_xml(inner, shape.member, item) for item in value)
        inner = shape.member.serialization.get("name", "member")
        return f"<{name}>{''.join(_xml(inner, shape.member, item) for item in value)}</{name}>"
    if shape.type_name == "map":
        key, below = shape.key.serialization.get("name", "key"), shape.value.serialization.get("name", "value")
        pairs = [f"{_xml(key, shape.key, k)}{_xml(below, shape.value, v)}" for k, v in value.items()]
        if shape.serialization.get("flattened"):
            return "".join(f"<{name}>{pair}</{name}>" for pair in pairs)
        return f"<{name}>{''.join(f'<entry>{pair}</entry>' for pair in pairs)}</{name}>"
    return f"<{name}>{xml_text(to_text(shape, value))}</{name}>"


def _members_xml(shape: Any, value: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for name, member in shape.members.items():
        if (item := value.get(name)) is not None:
            parts.append(_xml(member.serialization.get("name", name), member, item))
    return "".join(parts)
