"""Mapping: from a service's data to entities, as the sources of their fields say.

Rule 1: a source is a path (``user.id``) or a function of a row's data.  A path goes through objects;
through a list it gives the value of each member.  Without a source, a field is read from its own name.

Rule 2: values are converted by the field's type (see ``converted``), by column: Page.read collects the
values of a page field by field, and storing checks and encodes each column as a whole.  Entities are
made only when one is asked for.  Both ways give the same rows.

Rule 3: what cannot be read costs its row, never the page.  In place of its value is the
InvalidValue that says why, and the row goes where every invalid row goes: into the quarantine.
What the data lacks is empty in a field that may be empty, and invalid in any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from itertools import islice
from operator import attrgetter, itemgetter
from types import NoneType
from typing import Any, cast, overload

from ..errors import NOTHING, MaxError, Nothing
from .columns import Column, EncodedRows, InvalidColumn, encode_column, encode_kinds, encode_one, id_lists
from .entities import E, Entity, FieldOf, FieldType, Ref, Source, entity_of
from .mismatches import ID_EXPECTED
from .struct import short
from .values import InvalidValue, Json, Kind, are_ids, datetime_of, is_id

# The types of a column that needs no conversion; whatever is in a JSON column stays as it is.
AS_THEY_ARE: Mapping[Kind, frozenset[type]] = {
    Kind.TEXT: frozenset({str}),
    Kind.INTEGER: frozenset({int}),
    Kind.REAL: frozenset({float, int}),
    Kind.BOOLEAN: frozenset({bool}),
    Kind.DATETIME: frozenset({str, datetime}),
    Kind.DATE: frozenset({str, date}),
}
# The types that the text of a value may be parsed to.
PARSED: Mapping[Kind, tuple[type, ...]] = {
    Kind.INTEGER: (int, float),
    Kind.REAL: (int, float),
    Kind.BOOLEAN: (bool,),
}
LONGEST_NUMBER = 100  # characters of a number as a text
NONE_NAMED: Mapping[str, Any] = {}
_VALUES, _GIVEN, _INLINE = attrgetter("_values"), attrgetter("_given"), attrgetter("_inline")
Given = Mapping[FieldOf[E, Any], object]  # values that the data does not have, or functions of a row's data


# -- rows ------------------------------------------------------------------------------------


class MappedRows(Sequence[E]):
    """Rows of one entity as they were read from data: for each field a column of the data's values.

    ``ids`` are texts, or what is in place of an id that cannot be read.  As a sequence it has
    entities, each made when it is asked for.  ``asked`` names the fields that the caller named.
    ``named`` has the members of inline collections, each once; the column has their ids.
    ``made``: a connector has made them as entities; the columns have their values, with ids in place of
    refs, and are not converted.
    It is known by its type, since isinstance is slow for what is a Sequence.
    """

    __slots__ = ("_encoded", "_have_ids", "asked", "columns", "entity", "ids", "made", "named")

    def __init__(
        self,
        entity: type[E],
        ids: Sequence[Any],
        columns: Mapping[str, Column],
        asked: Collection[str],
        named: Mapping[str, MappedRows[Any]] = NONE_NAMED,
        *,
        made: bool = False,
    ) -> None:
        self.entity, self.ids, self.columns, self.asked, self.made = entity, ids, columns, asked, made
        self.named = {name: rows for name, rows in named.items() if name in columns}
        self._encoded: tuple[EncodedRows, Sequence[E]] | None = None
        self._have_ids: bool | None = None

    def narrowed(self, declared: Mapping[type[Entity], Collection[str]]) -> MappedRows[E]:
        """The same rows with the fields that are declared, and with those that the caller named."""
        if self.made:
            return self
        names = declared.get(self.entity, ())
        columns = {n: column for n, column in self.columns.items() if n in names or n in self.asked}
        if len(columns) == len(self.columns) and not self.named:
            return self
        named = {name: rows.narrowed(declared) for name, rows in self.named.items()}
        return type(self)(self.entity, self.ids, columns, (), named)

    def picked(self, places: Sequence[int]) -> MappedRows[E]:
        """Some of the rows."""
        if len(places) == len(self.ids):
            return self
        columns = {name: [column[at] for at in places] for name, column in self.columns.items()}
        ids = [self.ids[at] for at in places]
        return type(self)(self.entity, ids, columns, self.asked, self.named, made=self.made)

    def encoded(self) -> tuple[EncodedRows, Sequence[E]]:
        """The valid rows as a database holds them, and the invalid ones as entities."""
        if self._encoded is None:
            self._encoded = self._encode()
        return self._encoded

    def have_ids(self) -> bool:
        """Whether every row has a valid id."""
        if self._have_ids is None:
            self._have_ids = are_ids(self.ids)
        return self._have_ids

    def _encode(self) -> tuple[EncodedRows, Sequence[E]]:
        types = self.entity.types()
        wrong = set() if self.have_ids() else {at for at, id in enumerate(self.ids) if not is_id(id)}
        columns = []
        for name, column in self.columns.items():
            encoded, invalid = (_encoded_made if self.made else _encoded)(types[name], column)
            columns.append(encoded)
            wrong.update(invalid)
        rows = EncodedRows(tuple(self.columns), cast("list[str]", self.ids), columns)
        if wrong:
            rows = rows.picked([at for at in range(len(self.ids)) if at not in wrong], rows.names)
        return rows, [self[at] for at in sorted(wrong)]

    @overload
    def __getitem__(self, at: int) -> E: ...
    @overload
    def __getitem__(self, at: slice) -> list[E]: ...
    def __getitem__(self, at: int | slice) -> E | list[E]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        raw = {n: column[at] for n, column in self.columns.items()}
        if self.made:
            refs = self.entity._ref_fields()
            values = {n: _ref_of(refs[n], one) if n in refs else one for n, one in raw.items()}
            return self.entity(self.ids[at], **values)
        return _made(self.entity, self.ids[at], raw, (), self.named)

    def member(self, id: str) -> E:
        """The record with this id."""
        return self[self.ids.index(id)]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[E]:
        return map(self.__getitem__, range(len(self.ids)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # a value that holds lists

    def __repr__(self) -> str:
        return short(list(self))


class ReadValues(dict[str, Any]):
    """The values of an entity that was read; its loader's ``brings`` says which of them count."""

    asked: Collection[str] = ()


def read_rows(
    entity: type[E], rows: Iterable[Json], given: Given[E], fields: Iterable[FieldOf[E, Any]] | None
) -> MappedRows[E]:
    """Rows of data as rows of an entity; TypeError for a field of another entity."""
    rows = rows if isinstance(rows, list) else list(rows)
    sources, asked = _sources(entity, given, fields)
    missing = {name: None if holds.optional else NOTHING for name, holds in entity.types().items()}
    columns = {n: _column(rows, source, missing.get(n, NOTHING)) for n, source in sources.items()}
    ids = columns.pop("id")
    if set(map(type, ids)) != {str}:
        ids = list(map(_id_of, ids))
    named = {}
    for name in columns.keys() & entity._inline:
        columns[name], named[name] = _named(entity.children()[name], columns[name])
    return MappedRows(entity, ids, columns, asked, named)


def _named(child: type[E], column: Column) -> tuple[Column, MappedRows[E]]:
    """The members that rows name in themselves: their ids for each row, and all of them, each once.

    A member is an object, of which every field is read, or an id; null is an empty list.  Of members
    that have one id the last one counts.
    """
    lists = [[] if one is None else one for one in column]
    members = [member for some in lists if type(some) is list for member in some]
    rows, named = _read_members(child, members)
    each = iter(named)
    ids = [[*islice(each, len(some))] if type(some) is list else some for some in lists]
    if members and not rows:  # each is an id
        return ids, MappedRows(child, [*dict.fromkeys(filter(_is_text, named))], {}, ())
    last = sorted({id: at for at, id in enumerate(rows.ids) if isinstance(id, str)}.values())
    return ids, rows.picked(last)


def _read_members(child: type[E], members: Column) -> tuple[MappedRows[E], list[Any]]:
    """The members that are objects, as rows, and the id of each member."""
    rows = read_rows(child, [one for one in members if type(one) is dict], {}, None)
    known = iter(rows.ids)
    return rows, [next(known) if type(one) is dict else _id_of(one) for one in members]


def _is_text(id: object) -> bool:
    return isinstance(id, str)


def read_one(entity: type[E], data: Json, given: Given[E], fields: Iterable[FieldOf[E, Any]] | None) -> E:
    """One row of data as an entity."""
    rows = read_rows(entity, [data], given, fields)
    columns = {name: column[0] for name, column in rows.columns.items()}
    return _made(entity, rows.ids[0], columns, rows.asked, rows.named)


def by_column(entities: Sequence[E]) -> Sequence[E]:
    """Entities of one type that have the same fields, by column; all others as they are.

    A page of rows is then looked at by column on all of its way, however its loader has made them.
    Only what a written constructor has made is by column; see constructors.py.
    """
    kinds = kinds_of(entities)
    if type(entities) is MappedRows or len(kinds) != 1:
        return entities
    try:
        given = list(map(_GIVEN, entities))
    except AttributeError:  # the loader returned something else
        return entities
    if set(map(type, given)) != {tuple}:
        return entities
    (entity,) = kinds
    *columns, ids = zip(*given, strict=True)
    found: dict[str, Column] = {}
    for name, column in zip(entity._given_names, columns, strict=False):
        if Nothing not in (types := set(map(type, column))):
            found[name] = column
        elif len(types) > 1:
            return entities
    if set(map(type, ids)) != {str}:
        return entities
    return MappedRows(cast("type[E]", entity), list(ids), found, (), made=True)


def joined_rows(several: Sequence[MappedRows[E]]) -> MappedRows[E]:
    """All rows of several that are of one entity, with the same fields, and that name no members."""
    first = several[0]
    columns = {name: [value for one in several for value in one.columns[name]] for name in first.columns}
    ids = [id for one in several for id in one.ids]
    return MappedRows(first.entity, ids, columns, first.asked, made=first.made)


def narrowed(
    entities: Sequence[Entity], declared: Mapping[type[Entity], Collection[str]]
) -> Sequence[Entity]:
    """The same records; of those that were read, the fields that are declared or that the caller named."""
    if type(entities) is MappedRows:
        return entities.narrowed(declared)
    is_read = ReadValues in set(map(type, map(_VALUES, entities)))
    if is_read or have_inline(entities):
        return [_narrowed_one(one, declared) for one in entities]
    return entities


def _narrowed_one(entity: E, declared: Mapping[type[Entity], Collection[str]]) -> E:
    values = entity._values
    if not isinstance(values, ReadValues) and values.keys().isdisjoint(entity._inline):
        return entity
    names, asked = declared.get(type(entity), ()), getattr(values, "asked", values)  # all, if not read
    keep = {n: value for n, value in values.items() if n in names or n in asked or n == "id"}
    for name in entity._inline:
        if isinstance(named := keep.get(name), list | tuple):
            keep[name] = [_narrowed_one(one, declared) if isinstance(one, Entity) else one for one in named]
    return type(entity)(**keep)


def ids_of(items: Sequence[Any]) -> Sequence[object]:
    """The id of each item, as it came."""
    return items.ids if type(items) is MappedRows else [item._values["id"] for item in items]


def have_ids(items: Sequence[Any]) -> bool:
    """Whether every item has a valid id."""
    return items.have_ids() if type(items) is MappedRows else are_ids(ids_of(items))


def shapes_of(items: Sequence[Entity]) -> dict[tuple[type[Entity], tuple[str, ...]], int]:
    """Which fields items of each entity have, and where the last one of that kind is."""
    if type(items) is MappedRows:
        return {(items.entity, ("id", *items.columns)): 0} if items.ids else {}
    return {(type(item), tuple(item._values)): at for at, item in enumerate(items)}


def kinds_of(items: Sequence[Entity]) -> Collection[type[Entity]]:
    """The entities of records, in the order of the first of each."""
    return (items.entity,) if type(items) is MappedRows else dict.fromkeys(map(type, items))


def have_inline(items: Sequence[Entity]) -> bool:
    """Whether some of the records may name members in inline collections."""
    return any(map(_INLINE, kinds_of(items)))


def column_of(items: Sequence[Any], name: str) -> Sequence[object]:
    """A field of each item that has it, as it came."""
    if type(items) is MappedRows:
        return items.columns.get(name, ())
    return [item._values[name] for item in items if name in item._values]


def _made(
    entity: type[E],
    id: Any,
    raw: Mapping[str, Any],
    asked: Collection[str],
    named: Mapping[str, MappedRows[Any]],
) -> E:
    """An entity with the values that its fields' types make of the data's."""
    types = entity.types()
    values = ReadValues((name, _value(entity, name, types[name], one)) for name, one in raw.items())
    for name, rows in named.items():
        if isinstance(values[name], list):
            values[name] = [rows.member(one.id) for one in values[name]]
    values["id"], values.asked = id, asked
    return entity_of(entity, values)


def _value(entity: type[Entity], name: str, holds: FieldType, raw: object) -> Any:
    """A value as Python has it, or what is wrong with it, and where the data has it."""
    try:
        return _python(holds, holds.read(converted(holds, raw)))
    except InvalidValue as wrong:
        source = entity._fields[name].source
        where = f", from {source}" if isinstance(source, str) and not wrong.path else ""
        actual = wrong.actual if wrong.path or raw is wrong else raw
        return InvalidValue(f"{wrong.expected}{where}", actual, wrong.path)


def _python(holds: FieldType, read: Any) -> Any:
    """A value that was read, as instances have it."""
    if read is None:
        return None
    if holds.kind is Kind.DATETIME:
        return datetime_of(read)
    if holds.kind is Kind.DATE:
        return date.fromisoformat(read)
    if holds.inside is not None:
        return holds.from_json(read)
    if holds.kind is Kind.REF:
        return Ref(cast("type[Entity]", holds.target), read)
    return holds.of_text(read) if holds.enum else read


# -- sources ---------------------------------------------------------------------------------


def _sources(
    entity: type[E], given: Given[E], fields: Iterable[FieldOf[E, Any]] | None
) -> tuple[dict[str, Any], set[str]]:
    """Where each field comes from, the id too, and the names that the caller named.

    What is given, and is no function, is inside a tuple.
    """
    chosen = entity._fields if fields is None else ["id", *_names(entity, fields)]
    sources: dict[str, Any] = {name: source_of(entity, name) for name in chosen}
    for name, value in zip(_names(entity, given), given.values(), strict=True):
        sources[name] = value if callable(value) else (value,)
    asked = {*_names(entity, given), *(() if fields is None else chosen)}
    return sources, asked


def source_of(entity: type[Entity], name: str) -> Source:
    """Where data has a field: what its declaration says, or its name, in camel case if the schema says so."""
    declared = (entity._key or "id") if name == "id" else entity._fields[name].source
    if declared is not None:
        return declared
    return camel_case(name) if entity._camel_case else name


def sources_of(entity: type[Entity]) -> dict[str, Source]:
    """Where data has the id and each field: for connectors that ask for just the fields they declare."""
    return {name: source_of(entity, name) for name in entity._fields}


def camel_case(name: str) -> str:
    """``url_key`` → ``urlKey``."""
    head, *rest = name.split("_")
    return head + "".join(map(str.capitalize, rest))


def _names(entity: type[Entity], fields: Iterable[FieldOf[Any, Any]]) -> list[str]:
    names = []
    for field in fields:
        if not isinstance(field, FieldOf) or field.via or not issubclass(entity, field.entity):
            raise TypeError(f"{field!r} is not a field of {entity.__name__}")
        names.append(field.name)
    return names


def _column(rows: list[Json], source: Any, missing: object) -> Column:
    """What a source gives for each row; ``missing`` in place of what the data lacks."""
    if isinstance(source, tuple):
        return source * len(rows)
    if isinstance(source, str):
        found: list[Any] = rows
        for key in source.split("."):
            found = _step(found, key, missing)
        return found
    try:
        return list(map(source, rows))
    except Exception:
        return list(map(partial(_called, source), rows))


def _called(source: Callable[[Json], object], row: Json) -> object:
    """What a function gives for one row, or what it raised."""
    try:
        return source(row)
    except MaxError:
        raise
    except Exception as error:
        return InvalidValue("what its source can read", error)


def _step(values: list[Any], key: str, missing: object) -> list[Any]:
    """The value that each has under a key."""
    try:
        return list(map(itemgetter(key), values))
    except (KeyError, TypeError, IndexError):
        return [one.get(key, missing) if type(one) is dict else _inside(one, key, missing) for one in values]


def _inside(value: Any, key: str, missing: object) -> Any:
    """The value under a key of an object, or of each object in a list."""
    if value is None or value is NOTHING or isinstance(value, InvalidValue):
        return missing if value is None else value
    if isinstance(value, Mapping):
        return value.get(key, missing)
    if isinstance(value, list):
        found = [_inside(one, key, None) for one in value]
        return next((one for one in found if isinstance(one, InvalidValue)), found)
    return InvalidValue(f"an object with {key}", value)


# -- conversion ------------------------------------------------------------------------------


def _id_of(value: object) -> object:
    """An id as a text; anything but a text or a whole number is none."""
    if isinstance(value, str | InvalidValue):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return InvalidValue(ID_EXPECTED, value)


def _encoded(holds: FieldType, column: Column) -> tuple[Column, Sequence[int]]:
    """A column of data as a database holds it, and the places of the invalid values."""
    try:
        return _encoded_whole(holds, column), ()
    except InvalidColumn:
        return _encoded_each(holds, [converted(holds, value) for value in column])


def _encoded_made(holds: FieldType, column: Column) -> tuple[Column, Sequence[int]]:
    """The same of a column that has the values of entities, with ids in place of refs."""
    try:
        if holds.kind is Kind.REF:
            return _checked_ids(holds, column), ()
        return encode_column(holds, column), ()
    except InvalidColumn:
        target = holds.target
        return _encoded_each(holds, column if target is None else [_ref_of(target, one) for one in column])


def _ref_of(target: type[Entity], id: str | None) -> Ref[Any] | None:
    return None if id is None else Ref(target, id)


def _encoded_each(holds: FieldType, column: Column) -> tuple[Column, Sequence[int]]:
    encoded: list[Any] = []
    wrong = []
    for at, value in enumerate(column):
        try:
            encoded.append(encode_one(holds, value))
        except InvalidValue:
            encoded.append(None)
            wrong.append(at)
    return encoded, wrong


def _encoded_whole(holds: FieldType, column: Column) -> Column:
    """A whole column of data as a database holds it; InvalidColumn when a value is invalid."""
    if holds.inside is not None:
        ids = id_lists(column)
        return ids or encode_column(holds, [converted(holds, value) for value in column])
    if holds.kind is Kind.JSON:
        return encode_column(holds, column)
    if holds.kind is Kind.REF:
        column = _plain_ids(cast("type[Entity]", holds.target), column)
    kinds = set(map(type, column))
    if holds.kind is Kind.REF and kinds <= {str, NoneType}:
        return _checked_ids(holds, column)
    if kinds - {NoneType} <= AS_THEY_ARE.get(holds.kind, frozenset()):
        return encode_kinds(holds, column, kinds)
    return encode_column(holds, [converted(holds, value) for value in column])


def _checked_ids(holds: FieldType, column: Column) -> Column:
    """A column of the ids of refs; InvalidColumn when one is no id, or empty where that is not allowed."""
    ids = [id for id in column if id is not None]
    if not are_ids(ids) or (len(ids) < len(column) and not holds.optional):
        raise InvalidColumn
    return column


def _plain_ids(target: type[Entity], column: Column) -> Column:
    """The ids of a column of refs as texts, where all are objects with an id, or all are numbers."""
    kinds, source = set(map(type, column)) - {NoneType}, source_of(target, "id")
    if kinds == {dict} and isinstance(source, str):
        column = _column(list(column), source, None)
        kinds = set(map(type, column)) - {NoneType}
    return [None if one is None else str(one) for one in column] if kinds == {int} else column


def converted(holds: FieldType, value: Any) -> Any:
    """A value of data as a field of this type takes it; what cannot be converted stays as it is.

    A ref is an id, or an object that has one where its entity's data has it; a number is its text.
    A list of refs is a list of those.
    A number or a truth may be the text of one.  In a field that may be empty, but for texts and
    JSON data, an empty text is empty.
    """
    kind = holds.kind
    if kind is Kind.REF or holds.inside is not None:
        return _converted_ref(holds, value)
    if kind is Kind.JSON or value is None:
        return value
    if value is NOTHING or (value == "" and kind is not Kind.TEXT):
        return None if holds.optional else value
    return _parsed(value, PARSED[kind]) if kind in PARSED and isinstance(value, str) else value


def _converted_ref(holds: FieldType, value: Any) -> Any:
    """The ref, or the list of refs, that a value of data means; an empty one is None where it may be."""
    if holds.inside is not None:
        return [_ref(holds.inside, one) for one in value] if isinstance(value, list) else value
    target = cast("type[Entity]", holds.target)
    value = _id_in(target, value)
    if value is None or value is NOTHING or value == "":
        return None if holds.optional else value
    return _ref(target, value)


def _id_in(target: type[Entity], value: Any) -> Any:
    """The id of an object, where its entity's data has it; what is no object stays as it is."""
    return _column([value], source_of(target, "id"), NOTHING)[0] if isinstance(value, Mapping) else value


def _ref(target: type[Entity], value: Any) -> Any:
    """The ref that a value of data means; the value itself when it means none."""
    if isinstance(value, Ref):
        return value
    id = _id_of(_id_in(target, value))
    return Ref(target, id) if isinstance(id, str) else value


def _parsed(text: str, kinds: tuple[type, ...]) -> Any:
    """The number or the truth that a text is in JSON; the text itself when it is none."""
    try:
        value = json.loads(text) if len(text) <= LONGEST_NUMBER else text
    except ValueError:
        return text
    return value if type(value) in kinds else text
