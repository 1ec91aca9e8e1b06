"""Search expressions: which resources satisfy a tree of filters.

A property is a path in the resource's description, as in the model of its shape: "TrainingJobStatus",
"InputDataConfig.ChannelName" (any element of a list), "HyperParameters.lr", "Metrics.accuracy", "Tags.team".
The shape says what kind of value it is: text, number, time or boolean.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clary.wire.errors import ValidationError

Description = Mapping[str, Any]
Matcher = Callable[[Description], bool]

_MAX_CONDITIONS = 50
_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "GreaterThan": lambda value, wanted: value > wanted,
    "GreaterThanOrEqualTo": lambda value, wanted: value >= wanted,
    "LessThan": lambda value, wanted: value < wanted,
    "LessThanOrEqualTo": lambda value, wanted: value <= wanted,
}
_TEXT_ONLY = ("Contains", "In")


def compile_expression(expression: Mapping[str, Any], shape: Any) -> Matcher:
    """A function that tells whether a resource's description satisfies a SearchExpression.

    Args:
        expression: the request's member.
        shape: botocore's shape of the resource, for instance TrainingJob.

    Raises:
        ValidationError: a property that the resource has not, a value that does not fit it, too many conditions.
    """
    conditions = list(_conditions(expression))
    if len(conditions) > _MAX_CONDITIONS:
        raise ValidationError(
            f"A SearchExpression can hold at most {_MAX_CONDITIONS} filters, nested ones included. "
            f"Received: {len(conditions)}"
        )
    if sum(condition.get("Operator") == "Contains" for condition in conditions) > 1:
        raise ValidationError("'CONTAINS' operator usage limit of 1 exceeded.")
    return _compile(expression, shape)


def property_kind(path: str, shape: Any) -> str:
    """What kind of value a property is: "text", "number", "time", "boolean" or "any" (numbers as texts).

    Raises:
        ValidationError: the resource has no such property.
    """
    first, _, rest = path.partition(".")
    if first == "Metrics" and rest:
        return "number"
    if first == "Tags" and rest:
        return "text"
    current = shape
    parts = path.split(".")
    for number, part in enumerate(parts):
        while current.type_name == "list":
            current = current.member
        if current.type_name == "map":
            return "any" if parts[number:] else "structure"
        if current.type_name != "structure" or part not in current.members:
            raise ValidationError(f"Unknown property name: {path!r} is not a property of {shape.name}.")
        current = current.members[part]
    while current.type_name == "list":
        current = current.member
    kinds = {"string": "text", "timestamp": "time", "boolean": "boolean", "structure": "structure", "map": "structure"}
    return kinds.get(current.type_name, "number")


def property_values(description: Any, path: str) -> list[Any]:
    """The values of a property: none when it is not there, several in a list."""
    first, _, rest = path.partition(".")
    if first == "Metrics" and rest and isinstance(description, Mapping):
        return [one["Value"] for one in description.get("FinalMetricDataList", ()) if one["MetricName"] == rest]
    if first == "Tags" and rest and isinstance(description, Mapping):
        return [one["Value"] for one in description.get("Tags", ()) if one["Key"] == rest]
    return list(_walk(description, path))


def _walk(value: Any, path: str) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk(item, path)
    elif not path:
        if value is not None:
            yield value
    elif isinstance(value, Mapping):
        first, _, rest = path.partition(".")
        if path in value:  # the key of a map may itself hold dots
            yield from _walk(value[path], "")
        elif first in value:
            yield from _walk(value[first], rest)


def _conditions(expression: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from expression.get("Filters", ())
    for nested in expression.get("NestedFilters", ()):
        yield from nested["Filters"]
    for inner in expression.get("SubExpressions", ()):
        yield from _conditions(inner)


def _compile(expression: Mapping[str, Any], shape: Any) -> Matcher:
    parts = [
        *(_filter(condition, shape) for condition in expression.get("Filters", ())),
        *(_nested(nested, shape) for nested in expression.get("NestedFilters", ())),
        *(_compile(inner, shape) for inner in expression.get("SubExpressions", ())),
    ]
    if not parts:
        raise ValidationError("A SearchExpression must hold at least one subexpression, filter, or nested filter.")
    combine = any if expression.get("Operator") == "Or" else all
    return lambda description: combine(part(description) for part in parts)


def _nested(nested: Mapping[str, Any], shape: Any) -> Matcher:
    """Satisfied when one element of the list satisfies all filters."""
    path = nested["NestedPropertyName"]
    if property_kind(path, shape) != "structure":
        raise ValidationError(f"NestedPropertyName must name a list of structures. Received: {path!r}")
    tests: list[Matcher] = []
    for condition in nested["Filters"]:
        name: str = condition["Name"]
        full = name if name == path or name.startswith(f"{path}.") else f"{path}.{name}"
        tests.append(_test(condition, full.removeprefix(f"{path}."), property_kind(full, shape)))
    return lambda description: any(all(test(item) for test in tests) for item in property_values(description, path))


def _filter(condition: Mapping[str, Any], shape: Any) -> Matcher:
    return _test(condition, condition["Name"], property_kind(condition["Name"], shape))


def _test(condition: Mapping[str, Any], path: str, kind: str) -> Matcher:
    operator = condition.get("Operator", "Equals")
    if operator in ("Exists", "NotExists"):
        if "Value" in condition:
            raise ValidationError(f"The operator {operator} takes no Value. Received: {condition['Value']!r}")
        return lambda description: bool(property_values(description, path)) == (operator == "Exists")
    if "Value" not in condition:
        raise ValidationError(f"The filter on {condition['Name']!r} with the operator {operator} needs a Value.")
    if kind == "structure":
        raise ValidationError(f"{condition['Name']!r} is a structure: only Exists and NotExists apply to it.")
    given: str = condition["Value"]
    if operator in _TEXT_ONLY and kind not in ("text", "any"):
        raise ValidationError(f"The operator {operator} is only supported for text properties, not {path!r}.")
    if operator in _ORDERINGS and kind in ("text", "boolean"):
        raise ValidationError(f"The operator {operator} is not supported for text properties such as {path!r}.")
    matches = _value_test(operator, given, kind, path)
    if operator == "NotEquals":
        return lambda description: not any(matches(value) for value in property_values(description, path))
    return lambda description: any(matches(value) for value in property_values(description, path))


def _value_test(operator: str, given: str, kind: str, path: str) -> Callable[[Any], bool]:
    """Whether one value fits; NotEquals is tested as Equals, and turned round by the caller."""
    if operator == "Contains":
        return lambda value: given in str(value)
    if operator == "In":
        choices = {choice.strip() for choice in given.split(",")}
        return lambda value: str(value) in choices
    order = _ORDERINGS.get(operator, lambda value, wanted: value == wanted)
    if kind == "text":
        return lambda value: str(value) == given
    if kind == "boolean":
        return lambda value: str(value).lower() == given.lower()
    if kind == "time":
        wanted = _to_time(given, path)
        return lambda value: order(_seconds(value), wanted)
    number = _to_number(given)
    if kind == "number":
        if number is None:
            raise ValidationError(f"The property {path!r} is a number. Received: {given!r}")
        return lambda value: order(float(value), number)
    if number is None:
        if operator in _ORDERINGS:
            raise ValidationError(f"The operator {operator} on {path!r} needs a number. Received: {given!r}")
        return lambda value: str(value) == given
    return lambda value: _compare_as_number(order, value, number, given)


def _compare_as_number(order: Callable[[Any, Any], bool], value: Any, number: float, given: str) -> bool:
    """Compare a text that may be a number: with an integer, decimals count as integers, as AWS has it."""
    own = _to_number(str(value))
    if own is None:
        return False
    return order(int(own) if _is_integer(given) and own == own and abs(own) != float("inf") else own, number)


def _is_integer(text: str) -> bool:
    return text.strip().lstrip("+-").isdigit()


def _to_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _to_time(text: str, path: str) -> float:
    try:
        return _seconds(dt.datetime.fromisoformat(text))
    except ValueError:
        raise ValidationError(
            f"The property {path!r} is a time of the form YYYY-mm-ddTHH:MM:SS. Received: {text!r}"
        ) from None


def _seconds(value: Any) -> float:
    """Seconds since the epoch; a time without a zone is in UTC. The description may hold either form."""
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()
    return float(value)


def sort_key(values: Sequence[Any], kind: str) -> tuple[int, Any]:
    """What a property's values sort by: resources without it come first, numbers before other texts."""
    if not values:
        return (0, 0)
    value = values[0]
    if kind == "time":
        return (1, _seconds(value))
    if kind == "number":
        return (1, float(value))
    number = _to_number(str(value)) if kind == "any" else None
    return (1, number) if number is not None else (2, str(value))
