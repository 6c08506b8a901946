"""Queries and pages: what callers ask for, and what loaders and queries return.

A query is data: it holds no connection, can be built anywhere, and any engine can run it.  Each
method returns a new query and checks its arguments at once, so a mistake is reported where it was
made and not where the query runs.

**Pages continue by key, not by offset.**  The order of a query always ends with the id, so every
row has a place of its own.  A cursor is the place of a page's last row: its sort values and its id.
The next page is "the first rows behind that place".  Therefore a page costs the same wherever it
lies, rows that come or go between two pages shift nothing, and no row is seen twice or skipped.  A
cursor fits only its own entity and order.  How it becomes SQL is storage's business
(storage/query_sql.py); here it is an opaque text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar, cast

from ..errors import UnknownName, UsageError
from .entities import (
    ID,
    NOTHING_GIVEN,
    E,
    Entity,
    FieldOf,
    FieldType,
    P,
    Ref,
    V,
    field_names,
    find_field,
    find_name,
    path_name,
)
from .filters import AllOf, AnyOf, Compare, Filter, Not, Op, Some, Synced
from .struct import Struct
from .values import Json, Kind

C = TypeVar("C")
PAGE_SIZE = 1000  # entities that a query reads at a time
DEPTH = 8  # how deep a filter may nest; a database parses statements with limited memory
NO_LIMIT = 2**62  # the limit of a query that reads everything


class Page(Struct, Generic[V]):
    """What a loader returns for one page: its items, and ``next``, the cursor of the page after it.

    ``next`` is None on the last page.  ``also`` are entities of other types from the same response.
    ``removed`` are refs that the source says are gone.  ``sync_token`` is the source's bookmark,
    which the next sync gets once this listing is complete.  ``complete_snapshot`` on a first page
    says that the source could not use the request's bookmark and lists everything; a loader that
    learns this from an error raises SyncTokenRefused instead, and is called again without it.

    Two numbers prove that a listing is complete; a listing that contradicts them fails and removes
    nothing.  ``total`` is how many items the source says it has.  ``size`` is how many items a
    page may hold, for sources whose last page is always shorter.

    ``failed`` has, by id, the error of each item that the page names and that could not be read.  It
    exists, so it is not removed.  An error that may pass is tried again, for these ids alone; every
    other one is a failure of the listing, which the next sync lists again.

    ``validator`` is a text of the source's by which it can say later that the page is as it was:
    the next request for the page has it, and ``Page.unchanged()`` is the answer.
    """

    items: Sequence[V]
    next: str | None = None
    also: Sequence[Entity] = ()
    removed: Sequence[Ref[Any]] = ()
    sync_token: str | None = None
    complete_snapshot: bool = False
    total: int | None = None
    size: int | None = None
    failed: Mapping[str, Exception] = MappingProxyType({})
    validator: str | None = None
    not_modified: bool = False

    @classmethod
    def unchanged(cls) -> Page[Any]:
        """The page is as it was when it was stored: its rows exist, and are as old as this request."""
        return Page((), not_modified=True)

    @classmethod
    def read(
        cls,
        entity: type[E],
        rows: Iterable[Json],
        given: Mapping[FieldOf[E, Any], object] = NOTHING_GIVEN,
        *,
        fields: Iterable[FieldOf[E, Any]] | None = None,
        next: str | None = None,
        also: Sequence[Entity] = (),
        removed: Sequence[Ref[Any]] = (),
        sync_token: str | None = None,
        complete_snapshot: bool = False,
        total: int | None = None,
        size: int | None = None,
        failed: Mapping[str, Exception] = MappingProxyType({}),
    ) -> Page[E]:
        """A page of the records that rows of a service's data describe, as Entity.read reads each.

        It is read field by field, which is faster, and its entities are made only when asked for.
        """
        from .mapping import read_rows  # commands that read what is stored do without

        items = read_rows(entity, rows, given, fields)
        return Page(items, next, also, removed, sync_token, complete_snapshot, total, size, failed)


class Batch(Struct, Generic[E]):
    """What a batch loader returns: entities, and by id the error of each ref that failed.

    A ref that is in neither is missing upstream.
    """

    items: Sequence[E]
    failed: Mapping[str, Exception] = MappingProxyType({})

    @classmethod
    def read(
        cls,
        entity: type[P],
        rows: Iterable[Json],
        given: Mapping[FieldOf[P, Any], object] = NOTHING_GIVEN,
        *,
        fields: Iterable[FieldOf[P, Any]] | None = None,
        failed: Mapping[str, Exception] = MappingProxyType({}),
    ) -> Batch[P]:
        """A batch of the records that rows of a service's data describe; see Page.read."""
        from .mapping import read_rows

        return Batch(read_rows(entity, rows, given, fields), failed)


class QueryPage(Struct, Generic[E]):
    """What a query returns: entities, and the ``cursor`` of the next page, None on the last."""

    items: Sequence[E]
    cursor: str | None = None

    def to_dicts(self) -> list[dict[str, Json]]:
        """Each entity as JSON data; fields that are not loaded are left out."""
        return [one.to_dict() for one in self.items]


class RowPage(Struct):
    """A page of rows, a column for each path: an entity's own fields, and fields behind its refs.

    ``columns`` are in the order of ``paths`` and hold Python values; None is an empty value, or one
    that is not loaded: ``unloaded`` has the places of those, as ``(row, column)``.  A field behind an
    empty ref is empty; behind a ref to a row that is not stored it is not loaded.  ``cursor`` is
    that of the next page, None on the last.
    """

    paths: tuple[FieldOf[Any, Any], ...]
    columns: Sequence[Sequence[Any]]
    unloaded: frozenset[tuple[int, int]] = frozenset()
    cursor: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each column: ``title``, ``assignee.name``."""
        return tuple(path_name(path) for path in self.paths)

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The values of each row."""
        return list(zip(*self.columns, strict=True))

    def to_dicts(self) -> list[dict[str, Json]]:
        """Each row as JSON data, by column; what is not loaded is left out."""
        texts = [
            list(map(path.type.to_json, column))
            for path, column in zip(self.paths, self.columns, strict=True)
        ]
        names = self.names
        found = [dict(zip(names, row, strict=True)) for row in zip(*texts, strict=True)]
        for row, column in self.unloaded:
            del found[row][names[column]]
        return found


OF_TEXTS = (Op.CONTAINS, Op.STARTS_WITH)  # their values are texts, whatever the field holds


class Order(Struct):
    """One field to sort by; empty values come last, in both directions, unless ``nulls_first``."""

    path: tuple[FieldOf[Any, Any], ...]
    descending: bool = False
    nulls_first: bool = False

    def __str__(self) -> str:
        words = [path_name(self.path[-1]), *["desc"] * self.descending, *["nulls:first"] * self.nulls_first]
        return ":".join(words)


class Query(Struct, Generic[E]):
    """What to read: data until an engine runs it."""

    entity: type[E]
    filter: Filter[E] | None = None
    order: tuple[Order, ...] = ()
    fields: tuple[str, ...] | None = None
    size: int | None = None
    cursor: str | None = None

    def where(self, *conditions: Filter[E] | str, now: float | None = None) -> Self:
        """Only entities that match every condition: filters, or text in the filter language.

        ``where(Task.votes.gt(3), "status = todo AND due_date < +7d")``.  An age in a text counts
        from ``now``, in seconds since the epoch.  InvalidFilter or UnknownName when a text is wrong.
        """
        given = [_condition(self.entity, one, now) for one in conditions]
        parts = given if self.filter is None else [self.filter, *given]
        return self.replace(filter=AllOf(tuple(parts)) if len(parts) > 1 else next(iter(parts), None))

    def order_by(
        self, field: FieldOf[E, Any] | str, *, descending: bool = False, nulls_first: bool = False
    ) -> Self:
        """Sort by a field after those named before; the id comes last.

        A text may name several: ``"priority,-due_date"`` or ``"assignee.name:desc"``.  Rows whose
        value is empty or not loaded come last in both directions, unless ``nulls_first``.
        """
        if isinstance(field, str):
            terms = parse_order(self.entity, field, descending=descending, nulls_first=nulls_first)
        else:
            terms = (Order(_own(self.entity, field, "order_by").path, descending, nulls_first),)
        unique: dict[tuple[str, ...], Order] = {}
        for one in (*self.order, *terms):  # a second order of the same field decides nothing
            unique.setdefault(tuple(field.name for field in one.path), one)
        return self.replace(order=tuple(unique.values()))

    def __repr__(self) -> str:
        fields = None if self.fields is None else ",".join(self.fields)
        said = {
            "where": None if self.filter is None else str(self.filter),
            "order_by": ",".join(map(str, self.order)) or None,
            "select": fields,
            "limit": self.size,
            "after": self.cursor,
        }
        shown = [f", {name}={value!r}" for name, value in said.items() if value is not None]
        return f"{type(self).__name__}({self.entity.__name__}{''.join(shown)})"

    def select(self, *fields: FieldOf[E, Any] | str) -> Self:
        """Only these fields, as handles or names; the others read as not loaded."""
        names: list[str] = []
        for one in fields:
            if isinstance(one, str):
                names += parse_fields(self.entity, one)
            else:
                names += field_names([_own(self.entity, one, "select")])
        return self.replace(fields=tuple(dict.fromkeys(names)))

    def limit(self, size: int) -> Self:
        """At most this many entities."""
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"limit() takes a whole number, not {size!r}")
        if size < 0:
            raise ValueError(f"a limit is 0 or more, not {size}")
        return self.replace(size=min(size, NO_LIMIT))

    def after(self, cursor: str | None) -> Self:
        """Begin behind the page that gave this cursor; None begins at the start."""
        if not isinstance(cursor, str | None):
            raise TypeError(f"after() takes the cursor of a page, not {cursor!r}")
        return self.replace(cursor=cursor)


DIRECTIONS = {"asc": False, "desc": True}
NULLS = {"first": True, "last": False}


def parse_order(
    entity: type[Entity], text: str, *, descending: bool = False, nulls_first: bool = False
) -> tuple[Order, ...]:
    """The orders in ``"priority,-due_date,assignee.name:desc:nulls:first"``, with names in any case.

    Spaces do as well as colons: ``"due_date desc"``.  A term that does not say its direction, or where
    empty values come, goes as ``descending`` and ``nulls_first`` say.  UnknownName suggests the
    nearest field or word.
    """
    return tuple(_order(entity, term, descending, nulls_first) for term in text.split(","))


def _order(entity: type[Entity], term: str, descending: bool, nulls_first: bool) -> Order:
    path, *words = term.replace(":", " ").split() or [""]
    if path.startswith("-"):
        path, descending = path[1:], True
    where = f"order {term.strip()!r}"
    while words:
        word, *words = words
        if word.lower() in DIRECTIONS:
            descending = DIRECTIONS[word.lower()]
        elif word.lower() != "nulls":
            raise UnknownName("direction", word, [*DIRECTIONS, "nulls:first", "nulls:last"], where=where)
        elif not words or words[0].lower() not in NULLS:
            raise UnknownName("place of nulls", "".join(words[:1]), NULLS, where=where)
        else:
            nulls_first = NULLS[words.pop(0).lower()]
    return Order(find_field(entity, path).path, descending, nulls_first)


def parse_fields(entity: type[Entity], fields: str | Sequence[str]) -> tuple[str, ...]:
    """The declared names in ``"name,email"`` or a list of names, each once, given in any case."""
    words = fields.split(",") if isinstance(fields, str) else fields
    return tuple(dict.fromkeys(find_name(entity, word.strip()) for word in words))


def columns_of(
    query: Query[Any], fields: str | Sequence[str | FieldOf[Any, Any]] | None = None
) -> tuple[FieldOf[Any, Any], ...]:
    """The columns of a query as paths: those named, or the id and the fields that it selects."""
    if fields is not None:
        return parse_paths(query.entity, fields)
    names = query.fields if query.fields is not None else tuple(query.entity.types())
    return parse_paths(query.entity, ("id", *names))


def parse_paths(entity: type[E], paths: str | Sequence[str | FieldOf[E, Any]]) -> tuple[FieldOf[E, Any], ...]:
    """The fields in ``"title,assignee.name"`` or in a list of names and handles, each once."""
    words = paths.split(",") if isinstance(paths, str) else paths
    found = (
        find_field(entity, word.strip()) if isinstance(word, str) else _own(entity, word, "rows")
        for word in words
    )
    return tuple(dict.fromkeys(found))


def _condition(entity: type[Entity], condition: object, now: float | None) -> Filter[Any]:
    """One argument of ``where`` as a filter; TypeError when it is not one, or is another entity's."""
    if isinstance(condition, str):
        from .filter_language import parse  # slow to import, and most queries have no text

        return parse(condition, entity, now=now)
    if not isinstance(condition, Filter):
        example = f"{entity.__name__}.{next((n for n in entity._fields if n != 'id'), 'id')}"
        hint = f"; == compares in Python: write {example}.eq(…)" if isinstance(condition, bool) else ""
        raise TypeError(f"where() takes filters or text, not {condition!r}{hint}")
    check_filter(entity, condition)
    return condition


def check_filter(entity: type[Entity], condition: Filter[Any], depth: int = 0) -> None:
    """TypeError when a filter is another entity's, UsageError for a value that its field cannot have."""
    if isinstance(condition, Compare | Synced):
        _own(entity, condition.path[0], "where")
        if isinstance(condition, Compare):
            _check_comparison(condition)
        return
    if depth == DEPTH:
        raise UsageError(f"a filter nests at most {DEPTH} deep", hint="combine several with where(a, b, …)")
    if isinstance(condition, Some):
        first = condition.path[0].entity if condition.path else condition.many.parent
        if first.__name__ != entity.__name__:
            raise TypeError(f"{condition.many!r} is not a collection of {entity.__name__}")
        check_filter(condition.many.child, condition.part, depth + 1)
        return
    combined = cast("AllOf[Any] | AnyOf[Any] | Not[Any]", condition)
    for part in (combined.part,) if isinstance(combined, Not) else combined.parts:
        check_filter(entity, part, depth + 1)


def _check_comparison(condition: Compare[Any]) -> None:
    field, op = condition.path[-1], condition.op
    if op is Op.HAS:
        check_item(field, condition.value)
    elif op is not Op.IS_LOADED:
        for value in condition.value if op is Op.IN else (condition.value,):
            check_value(field, value, ID if op in OF_TEXTS else None)


def check_item(field: FieldOf[Any, Any], item: object) -> None:
    """UsageError unless a field can be a list with this item."""
    if isinstance(item, list | dict) or field.type.kind is not Kind.JSON or not field.type.check([item]):
        raise UsageError(f"{field!r} holds {field.type.expected}, which cannot have {item!r}")


def check_value(field: FieldOf[Any, Any], value: object, holds: FieldType | None = None) -> None:
    """UsageError unless a field can be compared with a value; None means an empty one."""
    holds = holds or field.type
    if value is not None and not holds.check(value):
        raise UsageError(f"{field!r} holds {holds.expected}, not {value!r}")


def _own(entity: type[Entity], field: object, method: str) -> FieldOf[Any, Any]:
    """The field itself; TypeError unless it is a field of this entity."""
    if not isinstance(field, FieldOf):
        raise TypeError(f"{method}() takes fields of {entity.__name__}, or text, not {field!r}")
    if field.entity.__name__ != entity.__name__:  # by name: a schema that was read has its own classes
        raise TypeError(f"{field!r} is not a field of {entity.__name__}")
    return field
