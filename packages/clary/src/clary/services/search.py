"""Search over training jobs, and suggestions of the properties to search by.

What the database can decide (name, status, times) it decides; the rest of an expression is evaluated on each job's
description, in the order asked for, until the page is full.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Select, literal, select, tuple_
from sqlalchemy.orm import Session

from clary.services.listing import contains
from clary.services.registry import Context, in_thread, operation
from clary.services.search_expressions import compile_expression, property_kind, property_values, sort_key
from clary.services.training_description import describe
from clary.state import tags
from clary.state.database import UtcDateTime, table_of
from clary.state.training_jobs import TrainingJob
from clary.wire.errors import UnsupportedOperation, ValidationError
from clary.wire.pagination import decode_token, encode_token
from clary.wire.services import model

_DEFAULT_PAGE = 10
_PORTION = 500
_MAX_SUGGESTIONS = 10
_SUGGESTED_FROM = 200  # jobs whose hyperparameters, metrics and tags are suggested
_MAX_DEPTH = 4
_JOB = table_of(TrainingJob).c
_SORTED_BY_THE_DATABASE: dict[str, ColumnElement[Any]] = {
    "LastModifiedTime": _JOB.last_modified_time,
    "CreationTime": _JOB.creation_time,
    "TrainingJobName": _JOB.name,
    "TrainingJobStatus": _JOB.status,
}
_TEXT_COLUMNS: dict[str, ColumnElement[Any]] = {"TrainingJobName": _JOB.name, "TrainingJobStatus": _JOB.status}


@operation("sagemaker", accepted_without_effect=("VisibilityConditions",))
@in_thread
def search(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    _only_training_jobs("Search", params["Resource"])
    if params.get("CrossAccountFilterOption") == "CrossAccount":
        return {"Results": []}  # there is no other account
    shape = model("sagemaker").shape_for("TrainingJob")
    expression = params.get("SearchExpression")
    matches = compile_expression(expression, shape) if expression is not None else None
    sort_by = params.get("SortBy", "LastModifiedTime")
    kind = property_kind(sort_by, shape)
    descending = params.get("SortOrder", "Descending") == "Descending"
    limit = params.get("MaxResults", _DEFAULT_PAGE)
    by = [sort_by, descending]
    reached = _reached(params["NextToken"], by) if params.get("NextToken") else None
    where = _decided_by_the_database(expression or {})
    column = _SORTED_BY_THE_DATABASE.get(sort_by)
    with context.database.reading() as session:
        if column is not None:
            jobs = _in_order(session, where, column, descending, reached)
        else:
            jobs = _sorted_by_property(session, where, sort_by, kind, descending, reached)
        found = list(islice((job for job in jobs if matches is None or matches(job.described)), limit + 1))
    answer: dict[str, Any] = {"Results": [{"TrainingJob": job.described} for job in found[:limit]]}
    if len(found) > limit:
        answer["NextToken"] = encode_token({"by": by, "after": found[limit - 1].place})
    return answer


@operation("sagemaker")
@in_thread
def get_search_suggestions(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    _only_training_jobs("GetSearchSuggestions", params["Resource"])
    hint = params.get("SuggestionQuery", {}).get("PropertyNameQuery", {}).get("PropertyNameHint", "")
    names = _property_names(model("sagemaker").shape_for("TrainingJob"))
    with context.database.reading() as session:
        newest = _in_order(session, [], _JOB.last_modified_time, True, None)
        for job in islice(newest, _SUGGESTED_FROM):
            names.update(f"HyperParameters.{name}" for name in job.described.get("HyperParameters", ()))
            names.update(f"Metrics.{metric['MetricName']}" for metric in job.described.get("FinalMetricDataList", ()))
            names.update(f"Tags.{tag['Key']}" for tag in job.described.get("Tags", ()))
    fitting = sorted(name for name in names if hint.lower() in name.lower())
    fitting.sort(key=lambda name: not name.lower().startswith(hint.lower()))
    return {"PropertyNameSuggestions": [{"PropertyName": name} for name in fitting[:_MAX_SUGGESTIONS]]}


@dataclass(frozen=True)
class _Job:
    """A job's description, tags included, and where it stands in the order asked for: [sort key …, id]."""

    described: Mapping[str, Any]
    place: list[Any]


def _in_order(
    session: Session,
    where: Sequence[ColumnElement[bool]],
    column: ColumnElement[Any],
    descending: bool,
    reached: list[Any] | None,
) -> Iterator[_Job]:
    """Jobs as the database sorts them, fetched as far as they are looked at."""
    key = [column, _JOB.id]
    statement = select(table_of(TrainingJob), column.label("sort_key")).where(*where)
    statement = statement.order_by(*(part.desc() if descending else part.asc() for part in key)).limit(_PORTION)
    while True:
        portion = statement
        if reached is not None:
            value = dt.datetime.fromisoformat(reached[0]) if isinstance(column.type, UtcDateTime) else reached[0]
            place = tuple_(literal(value, column.type), literal(reached[1]))
            portion = statement.where(tuple_(*key) < place if descending else tuple_(*key) > place)
        jobs = _described(session, portion)
        yield from jobs
        if len(jobs) < _PORTION:
            return
        reached = jobs[-1].place


def _sorted_by_property(
    session: Session,
    where: Sequence[ColumnElement[bool]],
    path: str,
    kind: str,
    descending: bool,
    reached: list[Any] | None,
) -> list[_Job]:
    """Jobs sorted by a property that only their descriptions hold: all are looked at."""
    statement = select(table_of(TrainingJob), _JOB.id.label("sort_key")).where(*where)
    placed = [
        _Job(job.described, [*sort_key(property_values(job.described, path), kind), job.place[-1]])
        for job in _described(session, statement)
    ]
    placed.sort(key=lambda job: job.place, reverse=descending)
    if reached is None:
        return placed
    return [job for job in placed if (job.place < reached if descending else job.place > reached)]


def _described(session: Session, statement: Select[*tuple[Any, ...]]) -> list[_Job]:
    rows = session.execute(statement).mappings().all()
    tags_of = tags.get_many(session, (row["arn"] for row in rows))
    return [
        _Job(
            {**describe(row), "Tags": tags_of.get(row["arn"], [])},
            [_plain(row["sort_key"]), row["id"]],
        )
        for row in rows
    ]


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.datetime) else value


def _decided_by_the_database(expression: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Conditions that every match satisfies: those on the name and the status that stand in an And at the top."""
    if expression.get("Operator") == "Or":
        return []
    found: list[ColumnElement[bool]] = []
    for condition in expression.get("Filters", ()):
        column, value = _TEXT_COLUMNS.get(condition["Name"]), condition.get("Value", "")
        operator = condition.get("Operator", "Equals")
        if column is None or not value:
            continue
        if operator == "Equals":
            found.append(column == value)
        elif operator == "Contains":
            found.append(contains(column, value))
    return found


def _reached(token: str, by: list[Any]) -> list[Any]:
    content = decode_token(token)
    if content.get("by") != by:
        raise ValidationError("Invalid NextToken: it belongs to another request or another sort order.")
    return content["after"]


def _only_training_jobs(name: str, resource: str) -> None:
    if resource != "TrainingJob":
        raise UnsupportedOperation("sagemaker", f"{name} with Resource={resource}")


def _property_names(shape: Any, prefix: str = "", depth: int = 0) -> set[str]:
    """The paths of all properties of a shape."""
    names: set[str] = set()
    for member, inner in shape.members.items():
        path = f"{prefix}{member}"
        while inner.type_name == "list":
            inner = inner.member
        if inner.type_name == "structure" and depth < _MAX_DEPTH:
            names |= _property_names(inner, f"{path}.", depth + 1)
        elif inner.type_name != "map":
            names.add(path)
    return names
