"""Reads the JSON of a request, tells what is wrong with it in TensorFlow Serving's words, and makes a predict request
of whatever AWS's container takes for one."""

from __future__ import annotations

import json
import re

from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.json_tensors import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REQUEST_KEYS = ("instances", "inputs", "examples")
# Python's words for a mistake → RapidJSON's, which TensorFlow Serving's clients know.
_MISTAKES = (
    ("Expecting property name", "Missing a name for object member."),
    ("Expecting ':'", "Missing a colon after a name of object member."),
    ("Expecting ','", "Missing a comma or } after an object member, or a comma or ] after an array element."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid \\u", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\escape", "Invalid escape character in string."),
    ("Invalid control character", "Invalid encoding in string."),
    ("Extra data", "The document root must not be followed by other values."),
)
_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"|-?\bInf\b', re.S)
_SPACE = re.compile(r"[\s,]*")


def read(body: bytes) -> Any:
    """The document, NaN, Infinity and Inf included. Raises InvalidArgument with the mistake and its place."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            "JSON Parse error: Invalid encoding in string. at offset: {}".format(error.start)
        ) from None
    if not text.strip():
        raise InvalidArgument("JSON Parse error: The document is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if "Inf" in text:
            spelled = _TOKENS.sub(_spell, text)
            if spelled != text:
                return read(spelled.encode())
        raise _parse_error(error) from None
    except RecursionError:
        raise InvalidArgument("JSON Parse error: The document is nested too deeply") from None


def read_request(body: bytes) -> dict[str, Any]:
    """A predict, classify or regress request of TensorFlow Serving's REST interface."""
    document = read(body)
    if not isinstance(document, dict):
        raise InvalidArgument("JSON Value: {} Is not object".format(show(document)))
    return document


def read_invocation(body: bytes) -> dict[str, Any]:
    """The request that AWS's container makes of a JSON body: a request as it is, anything else as its instances.

    A list of lists or of objects is the instances; any other value is one instance; values on lines, or one after the
    other, are an instance each.
    """
    try:
        document = read(body)
    except InvalidArgument as error:
        if "must not be followed" not in error.message:
            raise
        return {"instances": read_many(body)}
    if isinstance(document, dict):
        return document if any(key in document for key in REQUEST_KEYS) else {"instances": [document]}
    if isinstance(document, list) and document and isinstance(document[0], (list, dict)):
        return {"instances": document}
    return {"instances": [document]}


def read_many(body: bytes) -> list[Any]:
    """The values that stand one after the other in the body, on lines of their own or not (json lines, jsons)."""
    text = body.decode("utf-8-sig", "replace")
    decoder = json.JSONDecoder()
    values: list[Any] = []
    place = _after_space(text, 0)
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise _parse_error(error) from None
        values.append(value)
        place = _after_space(text, place)
    if not values:
        raise InvalidArgument("JSON Parse error: The document is empty")
    return values


def _after_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _spell(match: re.Match[str]) -> str:
    return match.group().replace("Inf", "Infinity") if match.group()[0] != '"' else match.group()


def _parse_error(error: json.JSONDecodeError) -> InvalidArgument:
    text = next((text for start, text in _MISTAKES if error.msg.startswith(start)), "Invalid value.")
    return InvalidArgument("JSON Parse error: {} at offset: {}".format(text, error.pos))
