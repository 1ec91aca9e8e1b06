"""The constraints of a service model: the tests, and the sentences in which AWS reports what fails them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from clary.wire.errors import AwsError

MAX_PROBLEMS = 50
_MAX_SHOWN = 1000
_PATTERN_SECONDS = 0.05


@dataclass(frozen=True)
class Problem:
    """One constraint that one value fails. `path` is as AWS writes it: "tags.1.member.key"."""

    path: str
    shown: str | None  # None: the value is secret
    constraint: str

    def under(self, label: str) -> Problem:
        """The same problem, seen from the value that holds this one."""
        return replace(self, path=f"{label}.{self.path}" if self.path else label)

    def __str__(self) -> str:
        value = "Value" if self.shown is None else f"Value {self.shown}"
        return f"{value} at '{self.path}' failed to satisfy constraint: {self.constraint}"


class Invalid(Exception):
    """A value fails constraints."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems[:MAX_PROBLEMS]

    def error(self, code: str) -> AwsError:
        """AWS's error that names every problem."""
        count = len(self.problems)
        head = f"{count} validation error{'' if count == 1 else 's'} detected: "
        return AwsError(code, head + "; ".join(map(str, self.problems)))


def wrong_type(value: Any, wanted: str) -> AwsError:
    """The error for a JSON value of another type than the model's."""
    if isinstance(value, dict):
        text = "Start of structure or map found where not expected."
    elif isinstance(value, list):
        text = "Start of list found where not expected"
    elif wanted in ("list", "map", "structure"):
        text = "Unexpected field type"
    else:
        kind = {str: "STRING_VALUE", bool: "TRUE_VALUE" if value else "FALSE_VALUE"}.get(
            type(value),  # pyright: ignore[reportUnknownArgumentType]
            "NUMBER_VALUE",
        )
        article = "an" if wanted[0] in "AEIO" else "a"
        text = f"{kind} can not be converted to {article} {wanted}"
    return AwsError("SerializationException", text)


def shown(value: Any) -> str:
    """A value between quotes as AWS shows it in a validation error; null stands bare."""
    if value is None:
        return "null"
    text = _java(value)
    if len(text) > _MAX_SHOWN:
        text = text[:_MAX_SHOWN] + "..."
    return f"'{text}'"


def _java(value: Any) -> str:
    if value is True or value is False:
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_java, value[:_MAX_SHOWN])) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_java(item)}" for key, item in list(value.items())[:_MAX_SHOWN]) + "}"
    return str(value)


def length_texts(least: int | None, most: int | None) -> list[str]:
    """The constraints on a length, as AWS writes them."""
    texts: list[str] = []
    if most is not None:
        texts.append(f"Member must have length less than or equal to {most}")
    if least is not None:
        texts.append(f"Member must have length greater than or equal to {least}")
    return texts


def string_texts(metadata: Mapping[str, Any], enum: bool) -> list[str]:
    """Every constraint on a string, as AWS lists them where the string is an element."""
    texts = length_texts(metadata.get("min"), metadata.get("max"))
    if "pattern" in metadata:
        texts.append(pattern_text(metadata["pattern"]))
    if enum:
        texts.append(enum_text(metadata["enum"]))
    return texts


def pattern_text(pattern: str) -> str:
    return f"Member must satisfy regular expression pattern: {pattern}"


def enum_text(values: list[str]) -> str:
    return f"Member must satisfy enum value set: [{', '.join(values)}]"


@cache
def matcher(pattern: str) -> Callable[[str], object]:
    r"""A test whether a whole string matches a pattern written for Java: true, or false in a boolean context.

    Java's \w, \d and \s are ASCII. What `re` cannot read goes to `regex`; so does a pattern that can take exponential
    time (a repeated group holding a repetition), because `regex` knows a time limit.
    """
    translated = _ESCAPES.sub(lambda found: _JAVA[found[0]], pattern)
    translated = _BRACED_END.sub(r"$", translated)
    if not _NESTED_REPETITION.search(translated):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                return re.compile(translated, re.ASCII).fullmatch
        except re.error:
            pass
    return _slow_matcher(translated)


def _slow_matcher(pattern: str) -> Callable[[str], bool]:
    import regex

    try:
        compiled = regex.compile(pattern, regex.UNICODE if "\\p{" in pattern else regex.ASCII)
    except regex.error:
        return lambda text: True  # a pattern that no engine reads constrains nothing

    def matches(text: str) -> bool:
        try:
            return compiled.fullmatch(text, timeout=_PATTERN_SECONDS) is not None
        except TimeoutError:
            return False

    return matches


# What Java writes otherwise. Surrogates stand for all characters beyond the basic plane.
_JAVA = {
    "\\uD800\\uDC00-\\uDBFF\\uDFFF": "\U00010000-\U0010ffff",
    "\\p{Alnum}": "a-zA-Z0-9",
    "\\p{ASCII}": "[\\x00-\\x7f]",
    "\\p{Print}": "\\x20-\\x7e",
    "\\z": "\\Z",
    "\\w-_": "\\w\\-_",
}
_ESCAPES = re.compile("|".join(re.escape(text) for text in _JAVA))
_BRACED_END = re.compile(r"\$\{\d+,\d+\}$")
_NESTED_REPETITION = re.compile(r"[*+}]\)[*+{]|\(\[[^]]*\][*+][^()]*\)[*+{]")
