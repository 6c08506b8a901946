"""Queries and pages: what callers ask for, and what loaders answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from .entities import AllOf, E, Entity, FieldOf, Filter, Ref, V, field_names
from .struct import Struct

C = TypeVar("C")
PAGE_SIZE = 1000  # entities that a query reads at a time
NO_LIMIT = 2**62  # the limit of a query that has none


class Page(Struct, Generic[V]):
    """Some of many things, and where the next page begins; ``next`` is None on the last.

    The rest is for loaders: ``also`` are entities of other types that came along, ``removed``
    the source's own word that things are gone, ``mark`` the source's sync token, which the
    next sync is given once this listing is complete.  ``complete_snapshot`` on a first page says that the
    request's mark could not be used, and the listing names everything (a loader that learns so
    from an error raises SyncTokenRefused instead, and is asked again without the mark).

    What a loader knows of the whole listing proves its end: ``total`` is how many items the
    source says that it has.  ``size`` is for sources whose last page is always a shorter one:
    how many items a page may hold.  A listing that disagrees has failed, and removes nothing.
    """

    items: Sequence[V]
    next: str | None = None
    also: Sequence[Entity] = ()
    removed: Sequence[Ref[Any]] = ()
    sync_token: str | None = None
    complete_snapshot: bool = False
    total: int | None = None
    size: int | None = None


class QueryPage(Struct, Generic[E]):
    """Some of the entities that match a query; ``cursor`` begins the next page, None on the last."""

    items: Sequence[E]
    cursor: str | None = None


class Batch(Struct, Generic[E]):
    """What came of several refs: entities, and the error of each ref that failed, by id.

    A ref that is in neither is missing upstream.
    """

    items: Sequence[E]
    failed: Mapping[str, Exception] = MappingProxyType({})


class Order(Struct):
    """One field to sort by; empty values come first, last when descending."""

    path: tuple[FieldOf[Any, Any], ...]
    descending: bool = False


class Query(Struct, Generic[E]):
    """What to read: pure data until an engine runs it."""

    entity: type[E]
    filter: Filter[E] | None = None
    order: tuple[Order, ...] = ()
    fields: tuple[str, ...] | None = None
    size: int | None = None
    cursor: str | None = None

    def where(self, *filters: Filter[E]) -> Query[E]:
        """Only what fits every filter."""
        parts = filters if self.filter is None else (self.filter, *filters)
        return self.replace(filter=AllOf(parts) if len(parts) > 1 else next(iter(parts), None))

    def order_by(self, field: FieldOf[E, Any], *, descending: bool = False) -> Query[E]:
        """Sort by a field, after those named before; the id settles what is left."""
        return self.replace(order=(*self.order, Order(field.path, descending)))

    def select(self, *fields: FieldOf[E, Any]) -> Query[E]:
        """Only these fields; the others read as not loaded."""
        return self.replace(fields=field_names(fields))

    def limit(self, size: int) -> Query[E]:
        """At most so many."""
        if size < 0:
            raise ValueError(f"a limit is 0 or more, not {size}")
        return self.replace(size=size)

    def after(self, cursor: str | None) -> Query[E]:
        """Begin where the page before ended."""
        return self.replace(cursor=cursor)
