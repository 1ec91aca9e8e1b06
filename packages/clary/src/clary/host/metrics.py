"""Values that a job prints, found by the regular expressions of its MetricDefinitions."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import regex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clary.host.output_capture import Line
    from clary.host.spec import MetricDefinition

_SECONDS_A_LINE = 0.25
_TIMEOUTS_ALLOWED = 5


class MetricFinder:
    """Applies each definition to each line; the first group of the first match is the value.

    An expression that is no valid one, or that again and again takes too long, is left out and named in `notices`.
    """

    def __init__(self, definitions: Sequence[MetricDefinition]) -> None:
        self._patterns: list[tuple[str, Any]] = []
        self._timeouts: dict[str, int] = {}
        self.notices: list[str] = []
        for definition in definitions:
            try:
                self._patterns.append((definition.name, regex.compile(definition.regex)))
            except regex.error as error:
                self.notices.append(f"The regular expression of metric {definition.name!r} is not valid: {error}.")

    def find(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """The metric points of some lines, without their sequence. A `\\r` begins a new line here."""
        points: list[dict[str, Any]] = []
        for at, text in lines:
            for part in text.split("\r"):
                for name, pattern in tuple(self._patterns):
                    value = self._value(name, pattern, part)
                    if value is not None:
                        points.append(point(name, value, at))
        return points

    def _value(self, name: str, pattern: Any, text: str) -> float | None:
        try:
            match = pattern.search(text, timeout=_SECONDS_A_LINE)
        except TimeoutError:
            self._timeouts[name] = self._timeouts.get(name, 0) + 1
            if self._timeouts[name] >= _TIMEOUTS_ALLOWED:
                self._patterns = [entry for entry in self._patterns if entry[0] != name]
                self.notices.append(
                    f"The regular expression of metric {name!r} takes too long and is no longer applied."
                )
            return None
        if match is None:
            return None
        found: str | None = match.group(1) if match.re.groups else match.group(0)
        try:
            return float(found) if found is not None else None
        except ValueError:
            return None


def point(name: str, value: float, at_milliseconds: int, *, instance: bool = False) -> dict[str, Any]:
    """A metric point in the form of a report, without its sequence."""
    at = dt.datetime.fromtimestamp(at_milliseconds / 1000, dt.UTC)
    return {"name": name, "value": value, "timestamp": at.isoformat(), "instance": instance}
