"""Aggregate SQL: the groups of a query as one SELECT, and their values.

The rows are grouped by an inner statement, which is what a person would write.  Around it the
groups are ranked by their order: equal ones share a rank, so a cut at a rank never parts them, and
what is cut off is counted in the same pass.

Rule 1: a sum of integers is exact, also beyond 64 bits.  Where SQL's own sum overflows, it is added up
once more in two halves of 32 bits; the carry is taken to the upper one, and Python puts them together.

Rule 2: NULL may mean empty or not loaded.  A field that cannot be empty tells by itself.  For the
others the rows are grouped once more by whether they are loaded, but only where there is a NULL, and a
row that has one because it is not loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..model.aggregate import EACH, Group, Grouping, Groups, Key, Measure
from ..model.columns import decode_column
from ..model.query import Query
from ..model.values import Kind
from .database import FALSE, Connection, quoted
from .query_sql import Statement, count, run
from .rows import TableMapping

HALF = 32  # bits
BEYOND_FLOATS = "the values add up to more than a float can hold"
LOWER = 2**HALF - 1


def groups(
    connection: Connection,
    mappings: Mapping[str, TableMapping[Any]],
    query: Query[Any],
    grouping: Grouping,
) -> Groups[Any]:
    """The groups of a query's rows, whatever its order, its fields and its limit."""
    form = _Form(connection, mappings, query, grouping)
    rows = form.rows()
    if not rows:
        return Groups(grouping, [], 0)
    made = _titled(connection, mappings, grouping, form.decoded(rows))
    all_groups, all_rows, _ = rows[0][-3:]
    more_rows = all_rows - sum(one.count for one in made)
    if any(key.unit == EACH for key in grouping.keys):  # a row is in several groups, so their sum is no total
        all_rows = run(connection, *count(mappings, query))[0][0]
    more = all_groups - len(made)
    nulls = form.nulls() if more and len(grouping.keys) == 1 else None
    return Groups(grouping, made, all_rows, more, more_rows, nulls)


class _Form:
    """The statement of one grouping: plain at first, and with more columns where its answer shows the need.

    ``partial`` are the keys with values that are not loaded and might be empty; each has a column
    that says which it is.  ``halved``: sums of integers have two columns.
    """

    def __init__(
        self,
        connection: Connection,
        mappings: Mapping[str, TableMapping[Any]],
        query: Query[Any],
        grouping: Grouping,
    ) -> None:
        self._connection, self._mappings = connection, mappings
        self._query, self._grouping = query, grouping
        self._doubtful = [key for key in grouping.keys if _may_be_empty(key)]
        self._partial: list[Key[Any, Any]] = []
        self._halved = False

    def rows(self) -> list[tuple[Any, ...]]:
        """``(*keys, *whether partial ones are not loaded, count, *measures, rank, groups, rows, doubt)``."""
        rows = self._run()
        if rows and rows[0][-1]:
            self._partial = [key for key in self._doubtful if self._has_unknown(key)]
            rows = self._run() if self._partial else rows
        return rows

    def _run(self) -> list[tuple[Any, ...]]:
        try:
            return run(self._connection, *self._select())
        except self._connection.dialect.errors as error:
            if self._connection.dialect.is_beyond_floats(error):
                real = [one.name for one in self._grouping.measures if one.holds.kind is Kind.REAL]
                raise UsageError(f"{', '.join(real)}: {BEYOND_FLOATS}") from error
            if self._halved or not self._connection.dialect.is_overflow(error):
                raise
            self._halved = True
            return self._run()

    def _has_unknown(self, key: Key[Any, Any]) -> bool:
        statement = Statement(self._mappings, self._query.entity)
        unknown = _unknown(statement, key)
        where = f"{self._where(statement)} AND {unknown}"
        sql = f"SELECT 1 {statement.source} WHERE {where} LIMIT 1"
        return bool(run(self._connection, sql, statement.values))

    def nulls(self) -> tuple[int, int]:
        """How many rows have an empty value of the only key, and how many one that is not loaded."""
        statement, (key,) = Statement(self._mappings, self._query.entity), self._grouping.keys
        column = _key(statement, key)
        lost = f"CASE WHEN {_unknown(statement, key)} THEN 1 ELSE 0 END" if _may_be_empty(key) else "1"
        where = f"{self._where(statement)} AND {column} IS NULL"
        sql = f"SELECT {lost}, count(*) {statement.source} WHERE {where} GROUP BY 1"
        found = dict(run(self._connection, sql, statement.values))
        return found.get(0, 0), found.get(1, 0)

    def _where(self, statement: Statement) -> str:
        return f"t._removed_at IS NULL AND ({statement.condition(self._query.filter)})"

    def _select(self) -> tuple[str, list[Any]]:
        statement = Statement(self._mappings, self._query.entity)
        keys = [_key(statement, key) for key in self._grouping.keys]
        keys += [_unknown(statement, key) for key in self._partial]
        columns = [f"{sql} AS k{n}" for n, sql in enumerate(keys)]
        columns.append("count(*) AS n")
        columns += [f"{sql} AS m{n}" for n, sql in enumerate(self._measures(statement))]
        where = self._where(statement)  # before the source, to which the filter's refs add joins
        inner = f"SELECT {', '.join(columns)} {statement.source} WHERE {where}"
        if keys:
            inner += f" GROUP BY {', '.join(str(n) for n in range(1, len(keys) + 1))}"
        empty = [f"k{n} IS NULL" for n, key in enumerate(self._grouping.keys) if key in self._doubtful]
        doubt = f"max(CASE WHEN {' OR '.join(empty)} THEN 1 ELSE 0 END) OVER ()" if empty else "0"
        order = ", ".join(["r", *(f"k{n} ASC NULLS LAST" for n in range(len(keys)))])
        sql = (
            f"SELECT * FROM (SELECT g.*, rank() OVER (ORDER BY {', '.join(self._order()) or 'n'}) AS r,"
            f" count(*) OVER () AS all_groups, sum(n) OVER () AS all_rows, {doubt} AS doubt"
            f" FROM ({inner}) AS g) AS ranked WHERE r <= {self._grouping.top} ORDER BY {order}"
        )
        return sql, statement.values

    def _measures(self, statement: Statement) -> Iterator[str]:
        for one in self._grouping.measures:
            column = statement.column(one.field.path)
            if self._is_halved(one):
                yield f"sum({column} >> {HALF}) + (sum({column} & {LOWER}) >> {HALF})"
                yield f"CAST(sum({column} & {LOWER}) AS INTEGER) & {LOWER}"
            elif one.function == "avg" and one.field.type.kind is Kind.REAL:
                yield f"sum({column}) / count({column})"  # an avg of Postgres adds up squares, which overflow
            else:
                yield f"{one.function}({column})"

    def _is_halved(self, measure: Measure) -> bool:
        return self._halved and measure.function == "sum" and measure.field.type.kind is Kind.INTEGER

    def _order(self) -> list[str]:
        """The ORDER BY terms of the groups; empty values come last in both directions."""
        grouping, at = self._grouping, 0
        columns = {key.name: [f"k{n}"] for n, key in enumerate(grouping.keys)} | {grouping.count: ["n"]}
        for one in grouping.measures:
            size = 1 + self._is_halved(one)
            columns[one.name] = [f"m{n}" for n in range(at, at + size)]
            at += size
        return [
            f"{column} {'DESC' if term.descending else 'ASC'} NULLS LAST"
            for term in grouping.order
            for column in columns[term.column]
        ]

    # -- the answer

    def decoded(self, rows: Sequence[tuple[Any, ...]]) -> list[Group]:
        """The groups of the statement's rows."""
        columns, keys = list(zip(*rows, strict=True)), self._grouping.keys
        values = {key.name: _decoded(key, columns[n]) for n, key in enumerate(keys)}
        at = len(keys) + len(self._partial)
        flags = dict(zip(self._partial, columns[len(keys) : at], strict=True))
        loaded = {
            key.name: [not lost for lost in flags[key]]
            if key in flags
            else [value is not None or key in self._doubtful for value in columns[n]]
            for n, key in enumerate(keys)
        }
        counts, measures = columns[at], dict(self._measured(columns[at + 1 :]))
        return [
            Group(
                {name: column[row] for name, column in values.items() if loaded[name][row]},
                counts[row],
                {name: column[row] for name, column in measures.items()},
            )
            for row in range(len(rows))
        ]

    def _measured(self, columns: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Sequence[Any]]]:
        """The values of each measure; UsageError when a sum is beyond all floats."""
        left = iter(columns)
        for one in self._grouping.measures:
            column = next(left)
            if self._is_halved(one):
                pairs = zip(column, next(left), strict=True)
                yield one.name, [None if high is None else (high << HALF) + low for high, low in pairs]
                continue
            if one.holds.kind is Kind.REAL and not all(v is None or math.isfinite(v) for v in column):
                raise UsageError(f"{one.name}: {BEYOND_FLOATS}")
            yield one.name, decode_column(one.holds, column)


def _may_be_empty(key: Key[Any, Any]) -> bool:
    """Whether NULL may mean that a value is empty; if not, it is not loaded."""
    return key.unit == EACH or any(step.type.optional for step in key.field.path)


def _key(statement: Statement, key: Key[Any, Any]) -> str:
    """The values of a key as SQL."""
    path = key.field.path
    if key.unit == EACH:
        return statement.member(path, key.holds.kind)
    column = statement.column(path)
    return statement.mapping.dialect.truncated(column, key.unit) if key.unit else column


def _decoded(key: Key[Any, Any], column: Sequence[Any]) -> Sequence[Any]:
    """The values of a key's column; of a list's members, great integers come as text."""
    if key.unit == EACH and key.holds.kind is Kind.INTEGER:
        return [None if one is None else int(one) for one in column]
    return decode_column(key.holds, column)


def _unknown(statement: Statement, key: Key[Any, Any]) -> str:
    """SQL that is true when a key's value is not loaded."""
    path = key.field.path
    return f"({statement.column(path)} IS NULL AND NOT coalesce({statement.known(path)}, {FALSE}))"


def _titled(
    connection: Connection, mappings: Mapping[str, TableMapping[Any]], grouping: Grouping, made: list[Group]
) -> list[Group]:
    """The groups with the titles of what their refs point at."""
    titles: list[dict[str, str]] = [{} for _ in made]
    for key in grouping.keys:
        target = key.holds.target
        if target is None or target._title is None:
            continue
        ids = {one.values[key.name].id for one in made if one.values.get(key.name) is not None}
        title, mapping = quoted(target._title), mappings[target.__name__]
        sql = f"SELECT _id, {title} FROM {{table}} WHERE _id IN {{set:ids}} AND {title} IS NOT NULL"
        values = {"ids": connection.dialect.array(sorted(ids))}
        found = dict(connection.execute(mapping.sql(sql), values).fetchall())
        for named, one in zip(titles, made, strict=True):
            ref = one.values.get(key.name)
            if ref is not None and ref.id in found:
                named[key.name] = found[ref.id]
    return [one.replace(titles=named) if named else one for one, named in zip(made, titles, strict=True)]
