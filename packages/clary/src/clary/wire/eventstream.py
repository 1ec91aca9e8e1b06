"""Event streams: the binary frames in which AWS sends a result piece by piece.

A frame is its length, the length of its headers, a CRC-32 of both, the headers, the payload and a CRC-32 of it all.
Source: "Amazon event stream specification", Smithy 2.0.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from clary.wire.errors import AwsError
from clary.wire.json_output import Encoder, dumps
from clary.wire.text import to_text

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7
_MAX_HEADER_BYTES = 32767


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame."""
    head = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack("!I", crc32(prelude)) + head + payload
    return message + struct.pack("!I", crc32(message))


def event_frame(shape: Any, event: Mapping[str, Any], encoder: Encoder) -> bytes:
    """The frame of one event.

    Args:
        shape: the event stream's shape: a union of the events' structures.
        event: one member of it by name, {"PayloadPart": {"Bytes": b"…"}}.
    """
    ((name, members),) = event.items()
    structure = shape.members[name]
    headers = {":message-type": "event", ":event-type": name}
    body: dict[str, Any] = {}
    for member_name, member in structure.members.items():
        value = members.get(member_name)
        if value is None:
            continue
        if member.serialization.get("eventheader"):
            headers[member_name] = to_text(member, value)
        elif not member.serialization.get("eventpayload"):
            body[member_name] = value
        elif member.type_name == "blob":
            return frame(headers | {":content-type": "application/octet-stream"}, bytes(value))
        elif member.type_name == "string":
            return frame(headers | {":content-type": "text/plain"}, str(value).encode())
        else:
            encode = encoder.compile(member)
            return frame(headers | {":content-type": "application/json"}, dumps(encode(value) if encode else value))
    encode = encoder.compile(structure)
    return frame(headers | {":content-type": "application/json"}, dumps(encode(body) if encode else body))


def error_frame(error: AwsError) -> bytes:
    """The frame that ends a stream with an error."""
    headers = {":message-type": "exception", ":exception-type": error.code, ":content-type": "application/json"}
    return frame(headers, dumps({"Message": error.message, "message": error.message, **error.fields}))


def _header(name: str, value: str) -> bytes:
    label, content = name.encode(), value.encode()[:_MAX_HEADER_BYTES]
    return struct.pack("!B", len(label)) + label + struct.pack("!BH", _STRING, len(content)) + content
