"""Decoding: from JSON-like values to what botocore would have, every constraint of the model checked on the way.

`Compiler` turns a shape into a function once; calling it is all that a request costs. The function returns the decoded
value, raises `Invalid` with every constraint that fails, or SerializationException for a value of a wrong type.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from clary.wire.compiled import Compiled
from clary.wire.constraints import (
    Invalid,
    Problem,
    enum_text,
    length_texts,
    matcher,
    pattern_text,
    shown,
    string_texts,
    wrong_type,
)
from clary.wire.errors import AwsError

Check = Callable[[Any], Any]

_EPOCH = re.compile(r"-?\d{9,12}(\.\d{1,9})?")
_MATCH_ANYTHING = ("[\\S\\s]*", "[\\s\\S]*", "(?s).*")
_NULL = "Member must not be null"
_WHOLE_NUMBERS = {"integer": ("Integer", 2**31), "long": ("Long", 2**63)}


class Compiler:
    """Compiles the shapes of one service.

    Args:
        by_member: structures are keyed by member name instead of by the name that JSON has for it.
    """

    def __init__(self, *, by_member: bool = False) -> None:
        self._by_member = by_member
        self._compiled = Compiled[Check]()

    def compile(self, shape: Any) -> Check:
        """The function that decodes and checks a value of this shape."""
        return self._compiled.of(shape, getattr(self, f"_{shape.type_name}"))

    def _structure(self, shape: Any, by_member: bool | None = None) -> Check:
        if shape.is_document_type:
            return _anything
        by_member = self._by_member if by_member is None else by_member
        members: dict[str, tuple[str, Check]] = {}
        check = _structure(shape, members)
        self._compiled.begin(shape, check)
        for name, member in shape.members.items():
            wire_name = name if by_member else member.serialization.get("name", name)
            members[wire_name] = (name, self.compile(member))
        return check

    def compile_input(self, shape: Any) -> Check:
        """The function for an operation's input when its members come from several places, keyed by member name."""
        return self._compiled.of(shape, lambda shape: self._structure(shape, by_member=True))

    def _list(self, shape: Any) -> Check:
        member = shape.member
        return _list(shape, self.compile(member), _scalar_texts(member))

    def _map(self, shape: Any) -> Check:
        return _map(shape, self.compile(shape.key), self.compile(shape.value))

    def _string(self, shape: Any) -> Check:
        return _string(shape)

    def _integer(self, shape: Any) -> Check:
        return _whole_number(shape)

    _long = _integer

    def _float(self, shape: Any) -> Check:
        return _real_number(shape)

    _double = _float

    def _boolean(self, shape: Any) -> Check:
        return _boolean

    def _timestamp(self, shape: Any) -> Check:
        return timestamp

    def _blob(self, shape: Any) -> Check:
        return _blob(shape)


def timestamp(value: Any) -> dt.datetime:
    """An aware datetime from seconds since 1970, ISO 8601 or RFC 822."""
    try:
        if type(value) in (int, float):
            return dt.datetime.fromtimestamp(value, dt.UTC)
        if isinstance(value, str):
            moment = _parsed(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError, OSError, TypeError):
        raise AwsError("SerializationException", f"{shown(value)} is not a timestamp") from None
    raise wrong_type(value, "Timestamp")


def _parsed(text: str) -> dt.datetime:
    if not text.isascii():
        raise ValueError(text)
    if _EPOCH.fullmatch(text):
        return dt.datetime.fromtimestamp(float(text), dt.UTC)
    return dt.datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)


def open_enum(name: str) -> bool:
    """Whether values beyond the model's are welcome: any machine has its own instance types."""
    return name.endswith("InstanceType")


def _structure(shape: Any, members: dict[str, tuple[str, Check]]) -> Check:
    required = frozenset(shape.required_members)
    in_order = tuple(shape.required_members)
    is_union = shape.is_tagged_union

    def check(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong_type(value, "structure")
        decoded: dict[str, Any] = {}
        problems: list[Problem] = []
        for name, item in value.items():
            if item is None or (member := members.get(name)) is None:
                continue
            try:
                decoded[member[0]] = member[1](item)
            except Invalid as invalid:
                decoded[member[0]] = None
                label = _lower_first(member[0])
                problems += [problem.under(label) for problem in invalid.problems]
        if not required <= decoded.keys():
            missing = [name for name in in_order if name not in decoded]
            problems += [Problem(_lower_first(name), "null", _NULL) for name in missing]
        if problems:
            raise Invalid(problems)
        if is_union and len(decoded) != 1:
            text = f"Union {shape.name} must have exactly one member set, received: {sorted(decoded) or 'none'}"
            raise AwsError("SerializationException", text)
        return decoded

    return check


def _list(shape: Any, check_item: Check, texts: list[str] | None) -> Check:
    least, most = _bounds(shape)

    def check(value: Any) -> list[Any]:
        if type(value) is not list:
            raise wrong_type(value, "list")
        if not least <= len(value) <= most:
            raise Invalid(_length_problems(shape, value, least, most))
        try:
            if None not in value:
                return [check_item(item) for item in value]
        except Invalid:
            pass
        problems: list[Problem] = []
        for index, item in enumerate(value, 1):
            if item is None:
                problems.append(Problem(f"{index}.member", "null", _NULL))
                continue
            try:
                check_item(item)
            except Invalid as invalid:
                if texts is not None:  # AWS reports scalars at the list, with all that holds for each
                    constraint = f"Member must satisfy constraint: [{', '.join(texts)}]"
                    raise Invalid([Problem("", _show(shape, value), constraint)]) from None
                problems += [problem.under(f"{index}.member") for problem in invalid.problems]
        raise Invalid(problems)

    return check


def _map(shape: Any, check_key: Check, check_value: Check) -> Check:
    least, most = _bounds(shape)
    key_texts, value_texts = _scalar_texts(shape.key) or [], _scalar_texts(shape.value)

    def check(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong_type(value, "map")
        if not least <= len(value) <= most:
            raise Invalid(_length_problems(shape, value, least, most))
        decoded: dict[str, Any] = {}
        problems: dict[str, Problem] = {}
        for name, item in value.items():
            try:
                check_key(name)
            except Invalid:
                constraint = f"Map keys must satisfy constraint: [{', '.join(key_texts)}]"
                problems["keys"] = Problem("", _show(shape, value), constraint)
            if item is None:
                problems["null"] = Problem("", _show(shape, value), f"Map value must satisfy constraint: [{_NULL}]")
                continue
            try:
                decoded[name] = check_value(item)
            except Invalid as invalid:
                if value_texts is None:
                    problems |= {f"{name}.{p.path}": p.under(f"{name}.member") for p in invalid.problems}
                else:
                    constraint = f"Map value must satisfy constraint: [{', '.join(value_texts)}]"
                    problems["values"] = Problem("", _show(shape, value), constraint)
        if problems:
            raise Invalid(list(problems.values()))
        return decoded

    return check


def _string(shape: Any) -> Check:
    metadata = shape.metadata
    least, most = _bounds(shape)
    pattern: str | None = metadata.get("pattern")
    values: list[str] = [] if open_enum(shape.name) else metadata.get("enum", [])
    allowed = frozenset(values)

    def compile_first(text: str) -> bool:
        nonlocal matches
        matches = matcher(pattern or "")
        return matches(text)

    matches: Callable[[str], Any] = compile_first

    def refuse(value: Any) -> Invalid:
        if type(value) is not str:
            raise wrong_type(value, "String")
        problems = _length_problems(shape, value, least, most)
        if pattern is not None and len(value) <= most and not matches(value):
            problems.append(Problem("", _show(shape, value), pattern_text(pattern)))
        if allowed and value not in allowed:
            problems.append(Problem("", _show(shape, value), enum_text(values)))
        return Invalid(problems)

    def check_matching(value: Any) -> str:
        if type(value) is str and least <= len(value) <= most and matches(value) and (not allowed or value in allowed):
            return value
        raise refuse(value)

    def check_listed(value: Any) -> str:
        if type(value) is str and value in allowed:
            return value
        raise refuse(value)

    def check_length(value: Any) -> str:
        if type(value) is str and least <= len(value) <= most:
            return value
        raise refuse(value)

    if pattern is not None and pattern not in _MATCH_ANYTHING:
        return check_matching
    pattern = None
    return check_listed if allowed and "min" not in metadata and "max" not in metadata else check_length


def _whole_number(shape: Any) -> Check:
    wanted, limit = _WHOLE_NUMBERS[shape.type_name]
    least, most = _bounds(shape, -math.inf)

    def check(value: Any) -> int:
        if type(value) is not int:
            if type(value) is not float or not value.is_integer():
                raise wrong_type(value, wanted)
            value = int(value)
        if not -limit <= value < limit:
            raise wrong_type(value, wanted)
        if not least <= value <= most:
            raise Invalid(_range_problems(shape, value, least, most))
        return value

    return check


def _real_number(shape: Any) -> Check:
    least, most = _bounds(shape, -math.inf)

    def check(value: Any) -> float:
        if type(value) is not float:
            if type(value) is not int:
                raise wrong_type(value, shape.type_name.capitalize())
            value = float(value)
        if not math.isfinite(value):
            raise wrong_type(value, shape.type_name.capitalize())
        if not least <= value <= most:
            raise Invalid(_range_problems(shape, value, least, most))
        return value

    return check


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return value
    raise wrong_type(value, "Boolean")


def _blob(shape: Any) -> Check:
    least, most = _bounds(shape)

    def check(value: Any) -> bytes:
        if type(value) is str:
            try:
                value = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise AwsError("SerializationException", "Expected a value in base64") from None
        if type(value) is not bytes:
            raise wrong_type(value, "Blob")
        if not least <= len(value) <= most:
            problems = _length_problems(shape, value, least, most)
            raise Invalid([Problem("", "'java.nio.HeapByteBuffer'", problem.constraint) for problem in problems])
        return value

    return check


def _anything(value: Any) -> Any:
    return value


def _bounds(shape: Any, lowest: float = 0) -> tuple[float, float]:
    return shape.metadata.get("min", lowest), shape.metadata.get("max", math.inf)


def _scalar_texts(shape: Any) -> list[str] | None:
    """The constraints on a scalar as AWS lists them for elements; None for a structure, list or map."""
    if shape.type_name == "string":
        return string_texts(shape.metadata, enum="enum" in shape.metadata and not open_enum(shape.name))
    if shape.type_name in ("structure", "list", "map"):
        return None
    metadata = shape.metadata
    if shape.type_name == "blob":
        return length_texts(metadata.get("min"), metadata.get("max"))
    bounds = (("max", "less"), ("min", "greater"))
    return [_range_text(word, metadata[bound]) for bound, word in bounds if bound in metadata]


def _length_problems(shape: Any, value: Any, least: float, most: float) -> list[Problem]:
    texts: list[str] = []
    if len(value) > most:
        texts += length_texts(None, int(most))
    if len(value) < least:
        texts += length_texts(int(least), None)
    return [Problem("", _show(shape, value), text) for text in texts]


def _range_problems(shape: Any, value: float, least: float, most: float) -> list[Problem]:
    text = _range_text("less", most) if value > most else _range_text("greater", least)
    return [Problem("", _show(shape, value), text)]


def _range_text(word: str, bound: float) -> str:
    return f"Member must have value {word} than or equal to {bound}"


def _show(shape: Any, value: Any) -> str | None:
    return None if shape.metadata.get("sensitive") else shown(value)


def _lower_first(name: str) -> str:
    return name[:1].lower() + name[1:]
