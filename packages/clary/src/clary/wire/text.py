"""Scalars that travel as text: in query strings, forms, headers and paths, and in XML."""

from __future__ import annotations

import base64
import datetime as dt
import math
import re
from email.utils import format_datetime
from typing import Any

from clary.wire.constraints import shown
from clary.wire.errors import AwsError

_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")
_REAL = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")
_BOOLEANS = {"true": True, "false": False}


def from_text(shape: Any, text: str) -> Any:
    """The JSON-like value that a text stands for; timestamps and blobs stay text, which their decoders read.

    Raises:
        AwsError: SerializationException where the text is no such value.
    """
    kind: str = shape.type_name
    if kind in ("integer", "long"):
        if _WHOLE.fullmatch(text):
            return int(text)
    elif kind in ("float", "double"):
        if _REAL.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    elif kind == "boolean":
        if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
    else:
        return text
    raise AwsError("SerializationException", f"{shown(text)} can not be converted to {kind.capitalize()}")


def to_text(shape: Any, value: Any, timestamps: str = "iso8601") -> str:
    """A scalar as text.

    Args:
        timestamps: the form of a timestamp whose shape names none: "iso8601" or "rfc822".
    """
    kind: str = shape.type_name
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "timestamp":
        return _moment(value, shape.serialization.get("timestampFormat", timestamps))
    if kind == "blob":
        return base64.b64encode(value).decode()
    return str(value)


def _moment(value: dt.datetime, form: str) -> str:
    if form == "unixTimestamp":
        return str(int(value.timestamp()))
    if form == "rfc822":
        return format_datetime(value.astimezone(dt.UTC).replace(microsecond=0), usegmt=True)
    return value.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
