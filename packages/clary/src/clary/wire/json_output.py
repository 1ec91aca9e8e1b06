"""Encoding: from what an operation answers to JSON. Each shape is compiled once; members that are None are left out."""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Callable
from typing import Any

import orjson

from clary.wire.compiled import Compiled

Encode = Callable[[Any], Any]
_PLAIN = frozenset(("string", "integer", "long", "boolean"))


class Encoder:
    """Compiles the output shapes of one service. None stands for a value that goes out as it is."""

    def __init__(self) -> None:
        self._compiled = Compiled[Encode | None]()

    def compile(self, shape: Any) -> Encode | None:
        """The function that makes a value of this shape ready for JSON, or None where nothing is to be done."""
        return self._compiled.of(shape, self._function)

    def _function(self, shape: Any) -> Encode | None:
        kind: str = shape.type_name
        if kind in _PLAIN or (kind == "structure" and shape.is_document_type):
            return None
        if kind == "structure":
            members: dict[str, tuple[str, Encode | None]] = {}
            encode = _structure(members)
            self._compiled.begin(shape, encode)
            for name, member in shape.members.items():
                members[name] = (member.serialization.get("name", name), self.compile(member))
            return encode
        if kind == "list":
            return _list(self.compile(shape.member))
        if kind == "map":
            return _map(self.compile(shape.value))
        if kind == "timestamp":
            return _iso if shape.serialization.get("timestampFormat") == "iso8601" else _epoch
        return _blob if kind == "blob" else _real


def dumps(value: Any) -> bytes:
    """The bytes of a JSON document."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def _structure(members: dict[str, tuple[str, Encode | None]]) -> Encode:
    def encode(value: Any) -> dict[str, Any]:
        encoded: dict[str, Any] = {}
        for name, item in value.items():
            if item is not None and (member := members.get(name)) is not None:
                wire_name, function = member
                encoded[wire_name] = item if function is None else function(item)
        return encoded

    return encode


def _list(function: Encode | None) -> Encode:
    def encode(value: Any) -> list[Any]:
        return list(value) if function is None else [function(item) for item in value]

    return encode


def _map(function: Encode | None) -> Encode:
    def encode(value: Any) -> dict[str, Any]:
        return dict(value) if function is None else {name: function(item) for name, item in value.items()}

    return encode


def _epoch(value: dt.datetime) -> float:
    return round(value.timestamp(), 3)


def _iso(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _blob(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _real(value: float) -> float | str:
    value = float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
