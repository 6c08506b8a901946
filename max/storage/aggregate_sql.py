"""Aggregate SQL: the groups of a query as one SELECT, and their values.

The rows are grouped by an inner statement, which is what a person would write.  Around it the
groups are ranked by their order: equal ones share a rank, so a cut at a rank never parts them, and
what is cut off is counted in the same pass.

Rule 1: a sum of integers is exact, also beyond 64 bits.  It is added up in two halves of 32 bits,
the carry is taken to the upper one, and Python puts them together.

Rule 2: whether values are loaded is asked only where some are not: a look for the first such row is
much cheaper than a second column to group by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..model.aggregate import EACH, Group, Grouping, Groups, Key, Measure
from ..model.query import Query
from ..model.values import Kind
from .database import FALSE, Connection, quoted
from .query_sql import Statement, run
from .rows import TableMapping, decode_column

HALF = 32  # bits
LOWER = 2**HALF - 1


def groups(
    connection: Connection,
    mappings: Mapping[str, TableMapping[Any]],
    query: Query[Any],
    grouping: Grouping,
) -> Groups[Any]:
    """The groups of a query's rows, whatever its order, its fields and its limit."""
    partial = [key for key in grouping.keys if _has_unknown(connection, mappings, query, key)]
    sql, values = select(mappings, query, grouping, partial)
    rows = run(connection, sql, values)
    made = _titled(connection, mappings, grouping, _decoded(grouping, partial, rows))
    if not rows:
        return Groups(grouping, made, 0)
    *_, all_groups, all_rows = rows[0]
    more_rows = all_rows - sum(one.count for one in made)
    if any(key.unit == EACH for key in grouping.keys):  # a row is in several groups, so their sum is no total
        all_rows = _count(connection, mappings, query)
    return Groups(grouping, made, all_rows, all_groups - len(made), more_rows)


def _has_unknown(
    connection: Connection, mappings: Mapping[str, TableMapping[Any]], query: Query[Any], key: Key[Any, Any]
) -> bool:
    """Whether a key has a value that is not loaded."""
    statement = Statement(mappings, query.entity)
    unknown = _unknown(statement, key)
    where = f"{_where(statement, query)} AND {unknown}"
    return bool(run(connection, f"SELECT 1 {statement.source} WHERE {where} LIMIT 1", statement.values))


def _count(connection: Connection, mappings: Mapping[str, TableMapping[Any]], query: Query[Any]) -> int:
    statement = Statement(mappings, query.entity)
    where = _where(statement, query)
    return int(run(connection, f"SELECT count(*) {statement.source} WHERE {where}", statement.values)[0][0])


def select(
    mappings: Mapping[str, TableMapping[Any]],
    query: Query[Any],
    grouping: Grouping,
    partial: Sequence[Key[Any, Any]] = (),
) -> tuple[str, list[Any]]:
    """The statement of the groups, to be read by ``_decoded``.

    ``partial`` are the keys of which some values are not loaded; they have a column that says so.
    """
    statement = Statement(mappings, query.entity)
    columns = {key.name: _key(statement, key) for key in grouping.keys}
    unknown = [_unknown(statement, key) for key in partial]
    grouped = [f"{sql} AS k{n}" for n, sql in enumerate([*columns.values(), *unknown])]
    measured = [f"{sql} AS m{n}" for n, sql in enumerate(_measures(statement, grouping.measures))]
    inner = f"SELECT {', '.join([*grouped, 'count(*) AS n', *measured])} {statement.source}"
    inner += f" WHERE {_where(statement, query)}"
    if grouped:
        inner += f" GROUP BY {', '.join(str(n) for n in range(1, len(grouped) + 1))}"
    keys = [f"k{n} ASC NULLS LAST" for n in range(len(grouped))]
    rank = ", ".join(_order(grouping)) or "n"
    sql = (
        f"SELECT * FROM (SELECT g.*, rank() OVER (ORDER BY {rank}) AS r, count(*) OVER () AS all_groups,"
        f" sum(n) OVER () AS all_rows FROM ({inner}) AS g) AS ranked WHERE r <= {grouping.top}"
        f" ORDER BY {', '.join(['r', *keys])}"
    )
    return sql, statement.values


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


def _where(statement: Statement, query: Query[Any]) -> str:
    return f"t._removed_at IS NULL AND ({statement.condition(query.filter)})"


def _key(statement: Statement, key: Key[Any, Any]) -> str:
    """The values of a key as SQL."""
    path = key.field.path
    if key.unit == EACH:
        return statement.member(path)
    column = statement.column(path)
    return statement.mapping.dialect.truncated(column, key.unit) if key.unit else column


def _unknown(statement: Statement, key: Key[Any, Any]) -> str:
    path = key.field.path
    return f"({statement.column(path)} IS NULL AND NOT coalesce({statement.known(path)}, {FALSE}))"


def _measures(statement: Statement, measures: Sequence[Measure]) -> Iterator[str]:
    """The columns of each measure: two of a sum of integers, one of any other."""
    for one in measures:
        column = statement.column(one.field.path)
        if _is_halved(one):
            yield f"sum({column} >> {HALF}) + (sum({column} & {LOWER}) >> {HALF})"
            yield f"sum({column} & {LOWER}) & {LOWER}"
        else:
            yield f"{one.function}({column})"


def _is_halved(measure: Measure) -> bool:
    return measure.function == "sum" and measure.field.type.kind is Kind.INTEGER


def _order(grouping: Grouping) -> list[str]:
    """The ORDER BY terms of the groups; empty values come last in both directions."""
    columns = {key.name: [f"k{n}"] for n, key in enumerate(grouping.keys)} | {grouping.count: ["n"]}
    at = 0
    for one in grouping.measures:
        size = 1 + _is_halved(one)
        columns[one.name] = [f"m{n}" for n in range(at, at + size)]
        at += size
    return [
        f"{column} {'DESC' if term.descending else 'ASC'} NULLS LAST"
        for term in grouping.order
        for column in columns[term.column]
    ]


def _decoded(
    grouping: Grouping, partial: Sequence[Key[Any, Any]], rows: Sequence[tuple[Any, ...]]
) -> list[Group]:
    """The groups of the statement's rows."""
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    count = len(grouping.keys)
    values = [decode_column(key.holds, columns[n]) for n, key in enumerate(grouping.keys)]
    unknown = dict(zip(partial, columns[count : count + len(partial)], strict=True))
    at = count + len(partial)
    counts, measures = columns[at], dict(_measured(grouping.measures, columns[at + 1 :]))
    nothing = (False,) * len(rows)
    missing = [unknown.get(key, nothing) for key in grouping.keys]
    names = [key.name for key in grouping.keys]
    return [
        Group(
            {n: v[row] for n, v, lost in zip(names, values, missing, strict=True) if not lost[row]},
            counts[row],
            {name: column[row] for name, column in measures.items()},
        )
        for row in range(len(rows))
    ]


def _measured(
    measures: Sequence[Measure], columns: Sequence[Sequence[Any]]
) -> Iterator[tuple[str, Sequence[Any]]]:
    """The values of each measure; UsageError when a sum is beyond all floats."""
    left = iter(columns)
    for one in measures:
        column = next(left)
        if _is_halved(one):
            pairs = zip(column, next(left), strict=True)
            yield one.name, [None if high is None else (high << HALF) + low for high, low in pairs]
            continue
        if one.holds.kind is Kind.REAL and not all(v is None or math.isfinite(v) for v in column):
            raise UsageError(f"{one.name}: the values add up to more than a float can hold")
        yield one.name, decode_column(one.holds, column)
