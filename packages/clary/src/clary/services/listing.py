"""Sorting, filtering and paging, the same for every List operation, done by the database.

A resource declares once how its List works:

    JOBS = Listing(
        sort_keys={"Name": jobs.name, "CreationTime": jobs.creation_time, "Status": jobs.status},
        tie=jobs.id,
        equals={"StatusEquals": jobs.status},
    )
    page = JOBS.page(database, [jobs.name, jobs.arn], params)

Pages are cut by the last row's sort key, not by a count of rows: rows that are added or deleted between two pages
neither repeat nor hide others.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Integer, Row, Select, String, bindparam, select, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from clary.state.database import Database
from clary.wire.errors import ValidationError
from clary.wire.pagination import decode_token, encode_token

DEFAULT_PAGE = 10
MAX_PAGE = 100


@dataclass(frozen=True)
class Page:
    """One page of rows. `next_token` is None at the end."""

    rows: Sequence[Row[*tuple[Any, ...]]]
    next_token: str | None

    def token_field(self) -> dict[str, str]:
        """NextToken as a member of the answer, where there is a next page."""
        return {"NextToken": self.next_token} if self.next_token else {}


@dataclass(frozen=True)
class Listing:
    """How the resources of one kind are listed.

    Args:
        sort_keys: the column behind each value of SortBy. "Name" is also what NameContains looks at; a time, for
            instance "CreationTime", is also what CreationTimeAfter and CreationTimeBefore compare.
        tie: a unique column that orders rows whose sort keys are equal.
        equals: the column behind each exact filter: {"StatusEquals": …}.
        times: further columns with After and Before members: {"LastModifiedTime": …}.
        default_sort: SortBy when the request has none.
        default_order: SortOrder when the request has none.
    """

    sort_keys: Mapping[str, ColumnElement[Any]]
    tie: ColumnElement[Any]
    equals: Mapping[str, ColumnElement[Any]] = field(default_factory=lambda: dict[str, ColumnElement[Any]]())
    times: Mapping[str, ColumnElement[Any]] = field(default_factory=lambda: dict[str, ColumnElement[Any]]())
    default_sort: str = "CreationTime"
    default_order: str = "Descending"
    # By what the request gives, not by its values: building and keying a statement costs more than running it.
    _statements: dict[Hashable, Select[*tuple[Any, ...]]] = field(
        default_factory=lambda: dict[Hashable, Select[*tuple[Any, ...]]](), compare=False
    )

    def page(
        self,
        database: Database,
        columns: Sequence[ColumnElement[Any]],
        params: Mapping[str, Any],
        *where: ColumnElement[bool],
    ) -> Page:
        """The page that a request asks for.

        Args:
            database: where the rows are.
            columns: what to read of each row.
            params: the request: MaxResults, NextToken, SortBy, SortOrder, NameContains, CreationTimeAfter, …
            where: further conditions.

        Raises:
            ValidationError: the token is not one of this listing, or SortBy names what cannot be sorted by.
        """
        sort_by = params.get("SortBy") or self.default_sort
        descending = (params.get("SortOrder") or self.default_order).lower().startswith("desc")
        key = self.sort_keys.get(sort_by)
        if key is None:
            expected = ", ".join(self.sort_keys)
            raise ValidationError(f"Cannot sort by {sort_by!r}. Expected one of: {expected}")
        keys = [key] if key is self.tie else [key, self.tie]
        limit = min(params.get("MaxResults") or DEFAULT_PAGE, MAX_PAGE)
        filters = tuple(name for name in self._filters if name in params and params[name] != "")
        values: dict[str, Any] = {name: params[name] for name in filters} | {"limit": limit + 1}
        if params.get("NextToken"):
            values |= _reached(params["NextToken"], keys, [sort_by, descending])
        shape = (sort_by, descending, filters, "after_0" in values, tuple(columns), where)
        statement = self._statements.get(shape)
        if statement is None:
            statement = self._statement(columns, keys, descending, filters, "after_0" in values).where(*where)
            if not where:  # those are made for one request
                self._statements[shape] = statement
        rows = database.query(statement, values)
        if len(rows) <= limit:
            return Page(rows, None)
        reached = [_to_token(value) for value in rows[limit - 1][-len(keys) :]]
        return Page(rows[:limit], encode_token({"by": [sort_by, descending], "after": reached}))

    @cached_property
    def _filters(self) -> dict[str, ColumnElement[bool]]:
        """The condition behind each filtering member of a request, on the parameter of its name."""
        found: dict[str, ColumnElement[bool]] = {}
        if "Name" in self.sort_keys:
            found["NameContains"] = contains(self.sort_keys["Name"], bindparam("NameContains", type_=String()))
        for name, column in {**self.sort_keys, **self.times}.items():
            if issubclass(column.type.python_type, dt.datetime):
                found[f"{name}After"] = column > bindparam(f"{name}After", type_=column.type)
                found[f"{name}Before"] = column < bindparam(f"{name}Before", type_=column.type)
        return found | {name: column == bindparam(name, type_=column.type) for name, column in self.equals.items()}

    def _statement(
        self,
        columns: Sequence[ColumnElement[Any]],
        keys: Sequence[ColumnElement[Any]],
        descending: bool,
        filters: Sequence[str],
        resumes: bool,
    ) -> Select[*tuple[Any, ...]]:
        place = [part.label(f"place_{number}") for number, part in enumerate(keys)]
        statement = select(*columns, *place).where(*(self._filters[name] for name in filters))
        if resumes:
            reached = tuple_(*(bindparam(f"after_{number}", type_=key.type) for number, key in enumerate(keys)))
            statement = statement.where(tuple_(*keys) < reached if descending else tuple_(*keys) > reached)
        ordered = (part.desc() if descending else part.asc() for part in keys)
        return statement.order_by(*ordered).limit(bindparam("limit", type_=Integer()))


class contains(FunctionElement[bool]):  # noqa: N801 - it is used as a function of SQL
    """Whether a text column holds a text, letter case and all: LIKE differs between the databases."""

    type = Boolean()
    inherit_cache = True


@compiles(contains, "sqlite")
def _(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)}) > 0"


@compiles(contains, "postgresql")
def _(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)}) > 0"


def _reached(token: str, keys: Sequence[ColumnElement[Any]], by: list[Any]) -> dict[str, Any]:
    """The sort key at which the page before ended, as the statement's parameters."""
    content = decode_token(token)
    after = content.get("after")
    if content.get("by") == by and isinstance(after, list) and len(after) == len(keys):
        try:
            return {f"after_{number}": _from_token(*pair) for number, pair in enumerate(zip(keys, after, strict=True))}
        except (TypeError, ValueError):
            pass
    raise ValidationError("Invalid NextToken: it belongs to another request or another sort order.")


def _to_token(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.datetime) else value


def _from_token(key: ColumnElement[Any], value: Any) -> Any:
    wanted = key.type.python_type
    if issubclass(wanted, dt.datetime):
        value = dt.datetime.fromisoformat(value)
    if not isinstance(value, wanted):
        raise TypeError(f"expected {wanted.__name__}, received {value!r}")
    return value
