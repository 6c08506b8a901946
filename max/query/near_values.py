"""Values that no row has: for an answer without rows, what the filter may have meant.

Only what a filter demands is looked at, never what it excludes.  A field's values are read from a
bounded number of rows, so that a wrong word costs about as much as the search that found nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..errors import brief, nearest
from ..model.entities import Entity, FieldOf, Ref
from ..model.filter_text import filter_text
from ..model.filters import AllOf, AnyOf, Compare, Filter, Op, Some
from ..model.query import Query
from ..model.values import Kind

if TYPE_CHECKING:
    from .reader import Reader

ROWS = 100_000  # of which the values of a field are read
VALUES = 1_000  # different ones that are compared with the wrong one
LONGEST = 60  # characters of a value that is named
LISTED = 12  # different values that are all named
HINTS = 3  # of one answer
KINDS = frozenset({Kind.TEXT, Kind.INTEGER, Kind.REF})  # that are looked at, and lists behind HAS


class _Demand(NamedTuple):
    """A filter demands that some row of an entity has this value.

    ``lead`` is how the filter comes to the row that a ref or an id names: ``assignee.``; ``verb`` is
    how it asks for a value there.
    """

    entity: type[Entity]
    name: str
    op: Op
    value: Any
    lead: str
    verb: str


def near_values(reader: Reader, query: Query[Any]) -> list[str]:
    """A line for each value that a query demands and no row has, with those that are near.

    ``no AcmeTask has status 'tood'; did you mean todo? (backlog, cancelled, done, todo)``
    """
    if query.filter is None:
        return []
    found: list[str] = []
    for one in dict.fromkeys(_demands(query.entity, query.filter, "")):
        if len(found) == HINTS:
            break
        if not _is_there(reader, one):
            found.append(_hint(reader, one))
    return found


def _demands(entity: type[Entity], condition: Filter[Any], before: str) -> Iterator[_Demand]:
    """What must be equal; ``before`` is the path of the collection whose children are meant."""
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.parts:
            yield from _demands(entity, part, before)
    elif isinstance(condition, Some):
        way = ".".join([*(field.name for field in condition.path), condition.many.name])
        yield from _demands(condition.many.child, condition.part, f"{before}{way}.")
    elif isinstance(condition, Compare) and condition.op in (Op.EQ, Op.IN, Op.HAS):
        yield from _compared(entity, condition, before)


def _compared(entity: type[Entity], condition: Compare[Any], before: str) -> Iterator[_Demand]:
    """The values that a comparison names, as far as those of its field are looked at."""
    *refs, field = condition.path
    if condition.op is not Op.HAS and field.type.kind not in KINDS:
        return
    steps = refs if field.name == "id" else condition.path
    lead = before + "".join(f"{step.name}." for step in steps)
    owner = cast("type[Entity]", refs[-1].type.target) if refs else entity
    op = Op.HAS if condition.op is Op.HAS else Op.EQ
    for value in condition.value if condition.op is Op.IN else (condition.value,):
        if isinstance(value, str | int | Ref):
            yield _Demand(owner, field.name, op, value, lead, "HAS" if before else "=")


def _is_there(reader: Reader, one: _Demand) -> bool:
    """Whether some row has the value; a ref's is there when its target is."""
    field: FieldOf[Any, Any] = FieldOf(one.entity, one.name)
    demanded: Filter[Any] = Compare(field.path, one.op, one.value)
    query = Query(one.entity, demanded)
    if isinstance(one.value, Ref):
        query = Query(one.value.entity, Compare((FieldOf(one.value.entity, "id"),), Op.EQ, one.value.id))
    return bool(reader.fetch(query.select("id").limit(1)).items)


def _hint(reader: Reader, one: _Demand) -> str:
    if one.name == "id" or isinstance(one.value, Ref):
        return _key_hint(reader, one)
    values = _values(reader, one.entity, one.name, items=one.op is Op.HAS)
    texts = [str(value) for value in values if len(str(value)) <= LONGEST]
    near: list[str] = []
    if isinstance(one.value, str):
        folded = one.value.casefold()
        near = [text for text in texts if text.casefold() == folded] or nearest(one.value, texts)
    words = f"no {one.entity.__name__} has {one.name} {brief(str(one.value))}"
    if near:
        words += f"; did you mean {' or '.join(near)}?"
    if texts and len(values) <= LISTED:
        words += f" ({', '.join(sorted(texts))})" if near else f"; it is one of: {', '.join(sorted(texts))}"
    return words


def _key_hint(reader: Reader, one: _Demand) -> str:
    """A person who writes a name in place of an id is shown the filter by the title."""
    entity = one.value.entity if isinstance(one.value, Ref) else one.entity
    id = one.value.id if isinstance(one.value, Ref) else str(one.value)
    words, title = f"no {entity.__name__} has the id {brief(id)}", entity._title
    if title is None or entity.types()[title].kind is not Kind.TEXT:
        return words
    field: FieldOf[Any, Any] = FieldOf(entity, title)
    named = reader.fetch(Query(entity, Compare(field.path, Op.CONTAINS, id)).select(title).limit(1)).items
    titles = [str(getattr(row, title)) for row in named] or nearest(id, _values(reader, entity, title))
    if not titles:
        return words
    value = filter_text(field.eq(titles[0])).partition(" = ")[2]
    return f"{words}; did you mean {one.lead}{title} {one.verb} {value}?"


def _values(reader: Reader, entity: type[Entity], name: str, *, items: bool = False) -> list[Any]:
    """Different values of a field, or items of its lists."""
    table = reader.schema.table(entity.__name__)
    statement = (
        f'SELECT DISTINCT "{name}" FROM (SELECT "{name}" FROM "{table}" WHERE "{name}" IS NOT NULL'
        f" LIMIT {ROWS}) AS known LIMIT {VALUES}"
    )
    stored = [row[0] for row in reader.sql(statement, limit=VALUES).rows]
    if not items:
        return stored
    lists = [json.loads(one) for one in stored]
    return list(
        dict.fromkeys(item for one in lists if isinstance(one, list) for item in one if isinstance(item, str))
    )
