"""Query SQL: a Query as one SELECT, and the cursors that page through its order.

Rule 1: every condition is true or false.  NULL never makes a third value: a comparison
with an empty value is false, and NOT is its exact complement.

Rule 2: a page begins after a key (the order's values and the id), never at an offset.  So a
page costs the same wherever it begins, and no row is seen twice or left out.

Example: after ``due_date = 2026-03-01, id = 7`` in the order ``due_date, id`` come the rows with
that date and a greater id, and those with a later date.  Empty dates come last, so a page that
ends among the filled ones goes on with the empty ones, in a statement of its own that uses the index.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from ..errors import InvalidCursor, UnknownName, UsageError
from ..model.columns import encode_one
from ..model.entities import ID, Entity, FieldOf, FieldType
from ..model.filters import AllOf, AnyOf, Compare, Filter, Not, Op, Some, Synced
from ..model.query import Order, Query, check_item, check_value
from ..model.values import REPLACED, InvalidValue, Kind, is_text, is_valid, read_integer, read_real
from .database import FALSE, TRUE, Connection, joined, quoted
from .rows import NEVER, TableMapping

JOINS = 50  # refs of a statement; SQLite joins at most 64 tables
# Each part reads an index alone, where to look at each row whether it was removed would read all of them.
COUNT_ALL = """
    SELECT (SELECT count(*) FROM {table}) - (SELECT count(*) FROM {table} WHERE _removed_at IS NOT NULL)
"""

_COMPARISONS = {Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">="}


class Statement:
    """One SELECT while it is composed: its joins, its conditions, its values."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]], entity: type[Entity]) -> None:
        self._mappings = mappings
        self.mapping: TableMapping[Any] = mappings[entity.__name__]
        self._joins: dict[str, str] = {}
        self.values: list[Any] = []

    @property
    def source(self) -> str:
        """The FROM clause, with the entities reached through refs."""
        return " ".join([f"FROM {quoted(self.mapping.table)} AS t", *self._joins.values()])

    def column(self, path: Sequence[FieldOf[Any, Any]]) -> str:
        """The last field of a path as SQL; each ref before it joins its target."""
        alias, mapping = self._owner(path)
        name = path[-1].name
        if name != "id" and name not in mapping.types:
            raise UnknownName("field", name, ["id", *mapping.types], where=mapping.entity.__name__)
        return f"{alias}.{quoted('_id' if name == 'id' else name)}"

    def loaded(self, path: Sequence[FieldOf[Any, Any]]) -> str:
        """SQL that is true when the last field of the path is loaded."""
        alias, mapping = self._owner(path)
        name = path[-1].name
        return f"{alias}._id IS NOT NULL" if name == "id" else mapping.loaded(name, alias)

    def known(self, path: Sequence[FieldOf[Any, Any]]) -> str:
        """SQL that is true when a path's value is known: loaded, or empty since a ref on the way is."""
        if len(path) == 1:
            return self.loaded(path)
        ref = path[:-1]
        there = f"coalesce({self.loaded(path)}, {FALSE})"
        return f"CASE WHEN {self.column(ref)} IS NULL THEN {self.known(ref)} ELSE {there} END"

    def _owner(self, path: Sequence[FieldOf[Any, Any]]) -> tuple[str, TableMapping[Any]]:
        """The alias and the mapping of the entity that has the last field; paths share their joins."""
        alias, mapping = "t", self.mapping
        for steps, ref in enumerate(path[:-1], 1):
            target = mapping.types[ref.name].target if ref.name in mapping.types else None
            if target is None:
                raise UsageError(f"{ref!r} is not a ref, so no field can be named through it")
            mapping, column = self._mappings[target.__name__], f"{alias}.{quoted(ref.name)}"
            alias = quoted(f"via {'.'.join(one.name for one in path[:steps])}")
            self._joins[alias] = (
                f"LEFT JOIN {quoted(mapping.table)} AS {alias}"
                f" ON {alias}._id = {column} AND {alias}._removed_at IS NULL"
            )
        if len(self._joins) > JOINS:
            raise UsageError(f"more than {JOINS} different refs in one question", hint="ask several")
        return alias, mapping

    def member(self, path: Sequence[FieldOf[Any, Any]], kind: Kind) -> str:
        """The members of a list as SQL: a row comes once for each different one, at least once."""
        column = self.column(path)
        alias = quoted(f"each {'.'.join(one.name for one in path)}")
        self._joins[alias] = f"LEFT JOIN {self.mapping.dialect.members(column, kind)} AS {alias} ON {TRUE}"
        value = f"{alias}.value"
        return f"CAST({value} AS {self.mapping.dialect.types[kind]})" if kind is Kind.REAL else value

    def bind(self, value: Any) -> str:
        """A value as a parameter of the statement."""
        self.values.append(value)
        return "?"

    # -- conditions ---------------------------------------------------------------------

    def condition(self, filter: Filter[Any] | None) -> str:
        """A filter as SQL that is true or false (or NULL, which counts as false)."""
        if filter is None:
            return TRUE
        if isinstance(filter, Not):
            return f"NOT coalesce({self.condition(filter.part)}, {FALSE})"
        if isinstance(filter, Compare):
            return self._comparison(filter)
        if isinstance(filter, Synced):
            return self._synced(filter)
        if isinstance(filter, Some):
            return self._some(filter)
        parts = [f"({self.condition(one)})" for one in cast("AllOf[Any] | AnyOf[Any]", filter).parts]
        if isinstance(filter, AllOf):
            return joined("AND", parts) or TRUE
        return joined("OR", parts) or FALSE

    def _comparison(self, filter: Compare[Any]) -> str:
        column = self.column(filter.path)
        if filter.op is Op.IS_LOADED:
            return self.known(filter.path)
        if filter.op is Op.EQ and filter.value is None:
            return f"{column} IS NULL AND {self.known(filter.path)}"
        holds = ID if filter.path[-1].name == "id" else filter.path[-1].type
        if filter.op is Op.HAS:
            return self._item(filter, column, holds)
        if filter.op is Op.IN:
            return self._membership(filter, column, holds)
        if filter.op in (Op.CONTAINS, Op.STARTS_WITH):
            return self._text(filter.op, column, str(filter.value))
        value = self._encoded(holds, filter.value, filter.path[-1])
        if filter.op is Op.EQ:
            return f"{column} = {self.bind(value)}"
        if filter.op is Op.NE:
            return f"{column} IS DISTINCT FROM {self.bind(value)} AND {self.known(filter.path)}"
        return f"{column} {_COMPARISONS[filter.op]} {self.bind(value)}"

    def _synced(self, filter: Synced[Any]) -> str:
        alias, mapping = self._owner(filter.path)
        name = filter.path[-1].name
        if name == "id":
            raise UsageError(f"{filter.path[-1]!r} has no age", hint="name a field")
        if name not in mapping.types:
            raise UnknownName("field", name, mapping.types, where=mapping.entity.__name__)
        synced = f"coalesce({mapping.synced(name, alias)}, {NEVER})"
        there = f"{self.column(filter.path[:-1])} IS NOT NULL AND " if len(filter.path) > 1 else ""
        return f"{there}{synced} {_COMPARISONS[filter.op]} {self.bind(filter.at)}"

    def _item(self, filter: Compare[Any], column: str, holds: FieldType) -> str:
        check_item(filter.path[-1], filter.value)
        return self.mapping.dialect.has_item(column, self.bind, holds.read([filter.value])[0])

    def _some(self, filter: Some[Any]) -> str:
        """The parents of the children that match, which one statement finds from the children's side."""
        parent = self.column((*filter.path, FieldOf(filter.many.parent, "id")))
        children = Statement(self._mappings, filter.many.child)
        children.values = self.values
        there = "t._removed_at IS NULL"
        if filter.many.by is not None:
            back = f"t.{quoted(filter.many.by.name)}"
            of, members, there = back, "", f"{there} AND {back} IS NOT NULL"
        else:
            of = "l.parent"
            members = (
                " JOIN _max_membership AS m ON m.child = t._row JOIN _max_listing AS l"
                f" ON l.id = m.listing AND l.collection = {self.bind(repr(filter.many))}"
            )
        condition = children.condition(filter.part)
        return f"{parent} IN (SELECT {of} {children.source}{members} WHERE {there} AND ({condition}))"

    def _membership(self, filter: Compare[Any], column: str, holds: FieldType) -> str:
        values = [self._encoded(holds, value, filter.path[-1]) for value in filter.value]
        dialect = self.mapping.dialect
        named = self.bind(dialect.array(value for value in values if value is not None))
        inside = f"{column} IN {dialect.set_of(named, holds.kind)}"
        if None in values:
            return f"{inside} OR ({column} IS NULL AND {self.known(filter.path)})"
        return inside

    def _encoded(self, holds: FieldType, value: Any, field: FieldOf[Any, Any]) -> Any:
        try:
            return None if value is None else encode_one(holds, value)
        except InvalidValue:
            check_value(field, value)  # which says what the field holds
            raise

    def _text(self, op: Op, column: str, text: str) -> str:
        text = text.replace("\0", REPLACED)
        if op is Op.STARTS_WITH:
            return f"substr({column}, 1, {len(text)}) = {self.bind(text)}"
        return self.mapping.dialect.contains(column, self.bind, text)

    # -- order --------------------------------------------------------------------------

    def order(self, terms: Sequence[Order]) -> str:
        """The ORDER BY clause; the id settles ties, so the order is total."""
        words = [
            f"{self.column(term.path)} {'DESC' if term.descending else 'ASC'}"
            f" NULLS {'FIRST' if term.nulls_first else 'LAST'}"
            for term in terms
        ]
        return ", ".join([*words, "t._id ASC"])

    def after(self, terms: Sequence[Order], values: Sequence[Any]) -> str:
        """True for the rows behind a key."""
        if not terms:
            return f"t._id > {self.bind(values[0])}"
        near = self.near(terms, values)
        return f"{near} OR {self.far(terms[0])}" if has_far(terms, values) else near

    def near(self, terms: Sequence[Order], values: Sequence[Any]) -> str:
        """True for the rows behind a key whose first field is empty or filled as the key's is."""
        column, value = self.column(terms[0].path), values[0]
        if value is None:
            return f"({column} IS NULL AND ({self.after(terms[1:], values[1:])}))"
        sign = "<" if terms[0].descending else ">"
        return (
            f"({column} {sign}= {self.bind(value)} AND ({column} {sign} {self.bind(value)}"
            f" OR ({column} = {self.bind(value)} AND ({self.after(terms[1:], values[1:])}))))"
        )

    def far(self, term: Order) -> str:
        """True for the other rows behind it."""
        return f"{self.column(term.path)} IS {'NOT ' if term.nulls_first else ''}NULL"


def has_far(terms: Sequence[Order], values: Sequence[Any]) -> bool:
    """Whether both empty and filled values can come behind a key."""
    return bool(terms) and (values[0] is None) is terms[0].nulls_first


Columns: TypeAlias = "Callable[[Statement], list[str]]"  # what a statement selects


def own_fields(query: Query[Any]) -> Columns:
    """Selects ``(id, *fields, *bitmaps)``."""

    def columns(statement: Statement) -> list[str]:
        names = chosen(statement.mapping, query)
        return ["t._id", *(f"t.{quoted(n)}" for n in (*names, *statement.mapping.bitmaps))]

    return columns


def paths_with_marks(paths: Sequence[FieldOf[Any, Any]]) -> Columns:
    """Selects ``(*values of the paths, *whether each that goes through a ref is known, *bitmaps, id)``."""

    def columns(statement: Statement) -> list[str]:
        values = [statement.column(field.path) for field in paths]
        marks = [statement.known(field.path) for field in paths if field.via]
        return [*values, *marks, *(f"t.{quoted(one)}" for one in statement.mapping.bitmaps), "t._id"]

    return columns


def selects(
    mappings: Mapping[str, TableMapping[Any]], query: Query[Any], limit: int, columns: Columns
) -> Iterator[tuple[str, list[Any]]]:
    """The statements of one page, to be run in turn until there are enough rows.

    Each gives ``(*columns, *order values)`` and is one range of the first field of
    the order, so that an index on it leads straight to where the page begins.
    """
    if query.cursor is None:
        yield _select(mappings, query, limit, columns, lambda statement: TRUE)
        return
    key = read_cursor(query)
    if not query.order:
        yield _select(mappings, query, limit, columns, lambda statement: statement.after((), key))
        return
    yield _select(mappings, query, limit, columns, lambda statement: statement.near(query.order, key))
    if has_far(query.order, key):
        yield _select(mappings, query, limit, columns, lambda statement: statement.far(query.order[0]))


def _select(
    mappings: Mapping[str, TableMapping[Any]],
    query: Query[Any],
    limit: int,
    columns_of: Columns,
    behind: Callable[[Statement], str],
) -> tuple[str, list[Any]]:
    statement = Statement(mappings, query.entity)
    columns = [*columns_of(statement), *(statement.column(term.path) for term in query.order)]
    where = ["t._removed_at IS NULL", f"({statement.condition(query.filter)})", f"({behind(statement)})"]
    order = statement.order(query.order)
    sql = (
        f"SELECT {', '.join(columns)} {statement.source} WHERE {' AND '.join(where)}"
        f" ORDER BY {order} LIMIT {limit}"
    )
    return sql, statement.values


def scan(
    mappings: Mapping[str, TableMapping[Any]], query: Query[Any], columns: Columns
) -> tuple[str, list[Any]]:
    """The statement of all rows of a query up to its limit, in its order; without one as they are stored."""
    if query.cursor is not None:
        raise UsageError("all rows are read from the first one; leave the cursor out")
    statement = Statement(mappings, query.entity)
    selected = ", ".join(columns(statement))
    where = f"t._removed_at IS NULL AND ({statement.condition(query.filter)})"
    order = statement.order(query.order) if query.order else "t._row"
    limit = "" if query.size is None else f" LIMIT {query.size}"
    return f"SELECT {selected} {statement.source} WHERE {where} ORDER BY {order}{limit}", statement.values


def count(mappings: Mapping[str, TableMapping[Any]], query: Query[Any]) -> tuple[str, list[Any]]:
    """The statement that counts the rows of a query."""
    if query.filter is None:
        return mappings[query.entity.__name__].sql(COUNT_ALL), []
    statement = Statement(mappings, query.entity)
    condition = statement.condition(query.filter)
    return (
        f"SELECT count(*) {statement.source} WHERE t._removed_at IS NULL AND ({condition})",
        statement.values,
    )


def chosen(mapping: TableMapping[Any], query: Query[Any]) -> list[str]:
    """The fields that a query selects; UnknownName for one that the entity does not have."""
    if query.fields is None:
        return list(mapping.types)
    for name in query.fields:
        if name not in mapping.types and name != "id":
            raise UnknownName("field", name, ["id", *mapping.types], where=mapping.entity.__name__)
    return [name for name in dict.fromkeys(query.fields) if name != "id"]


# -- running -------------------------------------------------------------------------------


def run(connection: Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    connection.dialect.prepare(connection, sql)
    return connection.execute(sql, values).fetchall()


# -- cursors --------------------------------------------------------------------------------


def _signature(query: Query[Any]) -> str:
    return ",".join([query.entity.__name__, *map(str, query.order)])


def write_cursor(query: Query[Any], values: Iterable[Any]) -> str:
    """The place behind a row as opaque text that knows its query's entity and order."""
    from base64 import urlsafe_b64encode  # slow to import, and most answers have no cursor

    text = json.dumps([_signature(query), *values], separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _is_key(value: object) -> bool:
    """Whether a column can be compared with a value of a cursor."""
    return value is None or is_text(value) or is_valid(read_integer, value) or is_valid(read_real, value)


def read_cursor(query: Query[Any]) -> list[Any]:
    """The place that the query's cursor means; InvalidCursor when it is not this query's."""
    from base64 import urlsafe_b64decode

    text = query.cursor or ""
    try:
        data = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError) as error:
        raise InvalidCursor("it is damaged") from error
    if not isinstance(data, list) or len(data) != len(query.order) + 2 or not isinstance(data[-1], str):
        raise InvalidCursor("it belongs to another order")
    if data[0] != _signature(query) or not all(map(_is_key, data)):
        raise InvalidCursor("it belongs to another entity or order")
    return data[1:]
