"""Filters: conditions on one entity, which fields and collections make.

A filter is data.  filter_language.py reads one from text and filter_text.py writes it back; its SQL
is storage's business.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from .struct import Struct

if TYPE_CHECKING:
    from .entities import Entity, FieldOf, ManyOf

E = TypeVar("E", bound="Entity")


class Op(StrEnum):
    """How a filter compares, as the filter language spells it."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    CONTAINS = "~="
    STARTS_WITH = "^="
    IN = "IN"
    HAS = "HAS"
    IS_LOADED = "IS LOADED"


class Filter(Struct, Generic[E]):
    """A condition on one entity; combine with ``&``, ``|`` and ``~``.

    Every condition is true or false, never unknown: comparing an empty value is false, and the
    negation of that is true.  ``str`` gives it in the filter language.
    """

    def __str__(self) -> str:
        from .filter_text import filter_text  # few filters are shown

        return filter_text(self)

    def __repr__(self) -> str:
        return f"Filter({self})"

    def __and__(self, other: Filter[E]) -> Filter[E]:
        return AllOf((*self._parts_of(AllOf), *other._parts_of(AllOf)))

    def __or__(self, other: Filter[E]) -> Filter[E]:
        return AnyOf((*self._parts_of(AnyOf), *other._parts_of(AnyOf)))

    def _parts_of(self, kind: type[AllOf[E] | AnyOf[E]]) -> tuple[Filter[E], ...]:
        return self.parts if isinstance(self, kind) else (self,)  # a long chain is flat, not deep

    def __invert__(self) -> Filter[E]:
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError("a filter has no truth value; combine filters with &, | and ~")


class Compare(Filter[E]):
    """One field against one value; ``path`` begins with the refs that lead to it."""

    path: tuple[FieldOf[Any, Any], ...]
    op: Op
    value: Any = None


class Synced(Filter[E]):
    """When one field was last synced, compared with ``at``, in seconds since the epoch.

    "Never" is earlier than every time.  A field behind an empty ref matches nothing.
    """

    path: tuple[FieldOf[Any, Any], ...]
    op: Op
    at: float


class Some(Filter[E]):
    """True when some child of a collection matches ``part``; ``path`` has the refs that lead to a parent."""

    path: tuple[FieldOf[Any, Any], ...]
    many: ManyOf[Any, Any]
    part: Filter[Any]


class AllOf(Filter[E]):
    """True when every part is true."""

    parts: tuple[Filter[E], ...]


class AnyOf(Filter[E]):
    """True when at least one part is true."""

    parts: tuple[Filter[E], ...]


class Not(Filter[E]):
    """True when the part is false."""

    part: Filter[E]
