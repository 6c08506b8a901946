"""Inline collections: members that the row of their parent names, as an issue names its labels.

The field that holds the refs of an inline collection is stored like any other field.  The members
that came with it are rows of their own, which come along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .entities import Entity, ManyOf, Ref
from .mapping import MappedRows, have_inline


def inline_collections(entity: type[Entity]) -> list[ManyOf[Entity, Entity]]:
    """The inline collections of an entity."""
    return [ManyOf(entity, name) for name in entity._inline]


def inline_members(entities: Sequence[Entity]) -> list[Sequence[Entity]]:
    """The records that others name in their inline collections, and those that these name, each once.

    Of two that have one id, the values of the later one replace those of the earlier.  What is no
    record of the collection's entity is left out; it makes the row that names it invalid.
    """
    if type(entities) is MappedRows:
        return _named_in(entities)
    if not have_inline(entities):
        return []
    found: dict[tuple[type[Entity], str], Entity] = {}
    level: Iterable[Entity] = entities
    while level := [member for one in level if one._inline for member in _members(one)]:
        for member in level:
            key = type(member), member._values["id"]
            known = found.setdefault(key, member)
            if known is not member and known._values != member._values:
                found[key] = type(member)(**(known._values | member._values))
    return [list(found.values())] if found else []


def _named_in(rows: MappedRows[Entity]) -> list[Sequence[Entity]]:
    """The members that rows of data name, and those that these name; each collection has them once."""
    named = rows.named.values()
    return [*named, *(some for one in named for some in inline_members(one))]


def _members(one: Entity) -> list[Entity]:
    """The members that one record names."""
    members: list[Entity] = []
    children = type(one).children()
    for name in one._inline:
        named, child = one._values.get(name), children[name]
        if not isinstance(named, list | tuple):
            continue
        for member in named:
            if isinstance(member, Ref) and member.entity is child:
                member = child(member.id)
            if isinstance(member, child) and isinstance(member._values["id"], str):
                members.append(member)
    return members
