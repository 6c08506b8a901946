"""Rows: entities as the columns of a table, and back.

Rule 1: values are checked and encoded a column at a time.  The types of a whole column are
looked up in C; only a column with something unusual in it is checked value by value.

Rule 2: NULL never says whether a field was loaded.  Every field has a bit, and a row's bitmap
``_loaded`` has the bits of the fields that any response brought.  62 bits fit a column; wider
entities have ``_loaded_1`` and so on.

Example: name has bit 0 and mail bit 1.  After a response with a name and no mail a row is
``('Ada', NULL, 1)``: mail is not loaded.  After one that says that there is no mail it is
``('Ada', NULL, 3)``: mail is empty.  An upsert sets bits (``_loaded | excluded._loaded``) and
never clears one, so a partial response leaves the other fields as they were.

Rule 3: no column says how old a row is.  Each load group (fields that always
arrive together) has a column with the id of the load that last brought it, and ``_max_load``
says when that load was requested.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import repeat
from operator import attrgetter
from types import NoneType
from typing import Any, Generic, cast

from ..errors import InvalidEntity
from ..model.entities import LOCAL, E, Entity, FieldType, Ref, check_entity
from ..model.values import (
    INTEGER_LIMIT,
    REPLACED,
    InvalidValue,
    Kind,
    are_ids,
    datetime_of,
    is_id,
    utc_text,
)
from .database import Dialect, quoted

BITS = 62  # fields in one bitmap: it stays positive, and exact in every JSON reader that has integers

SLICE = 500  # rows that are decoded at once

NEVER = "-1e999"  # before every time, as SQL writes it

PLAIN: dict[Kind, frozenset[type]] = {
    Kind.TEXT: frozenset({str}),
    Kind.INTEGER: frozenset({int}),
    Kind.REAL: frozenset({float, int}),
    Kind.BOOLEAN: frozenset({bool}),
    Kind.DATETIME: frozenset({datetime}),
    Kind.DATE: frozenset({date}),
    Kind.REF: frozenset({Ref}),
}

ISO_SIGNS = ((4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":"))  # where ISO 8601 has which sign

DECODERS: dict[Kind, Callable[[Any], Any]] = {  # of immutable values, which entities may share
    Kind.BOOLEAN: bool,
    Kind.DATETIME: datetime_of,
    Kind.DATE: date.fromisoformat,
}

Column = Sequence[Any]

_JSON = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
)  # json.dumps makes one a call
_TARGET, _ID, _SCOPE = attrgetter("entity"), attrgetter("id"), attrgetter("scope")
_ZONE = attrgetter("tzinfo")


class InvalidColumn(Exception):
    """A value of the column is invalid; the caller finds out which."""


def json_text(value: Any) -> str:
    """JSON data as it is stored."""
    return _JSON.encode(value)


def encode_one(holds: FieldType, value: Any) -> Any:
    """A value as it is stored; InvalidValue."""
    read = holds.read(value)
    if read is None:
        return None
    if holds.kind is Kind.JSON:
        return json_text(read)
    return int(read) if holds.kind is Kind.BOOLEAN else read


def decode_column(holds: FieldType, column: Column) -> Column:
    """A column as Python values; of equal ones only the first is decoded."""
    if holds.kind is Kind.JSON:  # lists and dicts, which no two entities may share
        return [None if stored is None else json.loads(stored) for stored in column]
    if holds.kind is Kind.REF:
        target = cast("type[Entity]", holds.target)
        values: dict[Any, Any] = {stored: Ref(target, stored) for stored in set(column)}
    elif holds.kind in DECODERS:
        decode = DECODERS[holds.kind]
        values = {stored: decode(stored) for stored in set(column) if stored is not None}
    else:
        return column
    values[None] = None
    return list(map(values.__getitem__, column))


def encode_column(holds: FieldType, column: Column) -> Column:
    """A whole column as it is stored; InvalidColumn when a value is invalid."""
    kinds = set(map(type, column))
    if NoneType in kinds:
        if not holds.optional:
            raise InvalidColumn
        kinds.discard(NoneType)
    if not kinds:
        return column
    if holds.kind is Kind.DATETIME and kinds == {str}:
        return _iso_datetime(holds, column, [v for v in column if v is not None])
    plain = PLAIN.get(holds.kind)
    if plain is None or not kinds <= plain:
        return _encode_each(holds, column)
    return _ENCODE_PLAIN[holds.kind](holds, column, [v for v in column if v is not None])


def _encode_each(holds: FieldType, column: Column) -> Column:
    try:
        return [encode_one(holds, value) for value in column]
    except InvalidValue:
        raise InvalidColumn from None


def _joined(values: list[str]) -> str:
    """All texts as one; InvalidColumn when UTF-8 cannot encode them."""
    joined = "".join(values)
    if not joined.isascii():
        try:
            joined.encode()
        except UnicodeEncodeError:
            raise InvalidColumn from None
    return joined


def _plain_text(_: FieldType, column: Column, values: list[str]) -> Column:
    if "\0" not in _joined(values):
        return column
    return [value and value.replace("\0", REPLACED) for value in column]


def _plain_integer(_: FieldType, column: Column, values: list[int]) -> Column:
    if min(values) < -INTEGER_LIMIT or max(values) >= INTEGER_LIMIT:
        raise InvalidColumn
    return column


def _plain_real(_: FieldType, column: Column, values: list[float]) -> Column:
    try:
        floats = list(map(float, values))
    except OverflowError:  # of an integer
        raise InvalidColumn from None
    if floats != values or not all(map(math.isfinite, floats)):
        raise InvalidColumn
    return floats if len(floats) == len(column) else [value and float(value) for value in column]


def _plain_datetime(holds: FieldType, column: Column, values: list[datetime]) -> Column:
    if set(map(id, map(_ZONE, values))) != {id(UTC)}:
        return _encode_each(holds, column)
    widths = set(map(len, texts := list(map(datetime.isoformat, values))))
    if len(texts) < len(column) or len(widths) > 1:
        return [None if value is None else utc_text(value) for value in column]
    return [text[:19] for text in texts] if widths == {25} else [text[:26].rstrip("0") for text in texts]


def _iso_datetime(holds: FieldType, column: Column, values: list[str]) -> Column:
    """Texts as APIs send them, ``2026-01-31T09:30:00.125Z``, stored as they are without the zone."""
    if not _same_shape(values):
        return _encode_each(holds, column)
    try:
        for _ in map(datetime.fromisoformat, values):
            pass
    except ValueError:  # there is a leap second, or an invalid time
        return _encode_each(holds, column)
    end = _common_end(values)
    if end is None:
        return [None if value is None else value[:-1].rstrip("0").rstrip(".") for value in column]
    return [value and value[:end] for value in column]


def _same_shape(values: list[str]) -> bool:
    """Whether all are UTC times of one width, seen by the nth characters of all of them at once.

    Then only the moments are left to be checked.
    """
    width, joined = len(values[0]), "".join(values)
    if width not in (20, 24, 27) or len(set(map(len, values))) > 1 or "T24" in joined:
        return False
    signs = (*ISO_SIGNS, (19, "Z" if width == 20 else "."), (width - 1, "Z"))
    return all(set(joined[at::width]) == {sign} for at, sign in signs)


def _common_end(values: list[str]) -> int | None:
    """Where all texts end without trailing zeros and the zone; None when not at one place."""
    width, joined = len(values[0]), "".join(values)
    if width == 20 or all(set(joined[at::width]) == {"0"} for at in range(20, width - 1)):
        return 19
    return None if "0" in joined[width - 2 :: width] else width - 1


def _plain_date(_: FieldType, column: Column, values: list[date]) -> Column:
    return [None if value is None else value.isoformat() for value in column]


def _plain_ref(holds: FieldType, column: Column, values: list[Ref[Any]]) -> Column:
    targets, scopes = set(map(_TARGET, values)), set(map(id, map(_SCOPE, values)))
    ids = list(map(_ID, values))
    if targets != {holds.target} or set(map(type, ids)) != {str} or scopes != {id(LOCAL)}:
        return _encode_each(holds, column)
    if not are_ids(ids):
        raise InvalidColumn
    return ids if len(ids) == len(column) else [None if value is None else value.id for value in column]


_ENCODE_PLAIN: dict[Kind, Callable[[FieldType, Column, list[Any]], Column]] = {
    Kind.TEXT: _plain_text,
    Kind.INTEGER: _plain_integer,
    Kind.REAL: _plain_real,
    Kind.BOOLEAN: lambda _, column, values: column,
    Kind.DATETIME: _plain_datetime,
    Kind.DATE: _plain_date,
    Kind.REF: _plain_ref,
}


class EncodedRows:
    """Entities of one type with the same fields: their ids and their encoded columns."""

    def __init__(self, names: tuple[str, ...], ids: list[str], columns: list[Column]) -> None:
        self.names, self.ids, self.columns = names, ids, columns

    def tuples(self, *constants: Any) -> Iterator[tuple[Any, ...]]:
        """``(id, *values, *constants)`` of each entity, for executemany."""
        return zip(self.ids, *self.columns, *map(repeat, constants), strict=False)

    def picked(self, positions: Sequence[int], names: tuple[str, ...]) -> EncodedRows:
        """Some of the rows, with some of their fields."""
        columns = [self.columns[self.names.index(name)] for name in names]
        ids = [self.ids[at] for at in positions]
        return EncodedRows(names, ids, [[column[at] for at in positions] for column in columns])


class TableMapping(Generic[E]):
    """How one entity type is stored in its table: columns, bits, encoders and decoders.

    ``bits`` numbers the fields.  ``load_groups`` numbers the groups of fields that arrive
    together: each group has a column that names the load which last brought it.
    """

    def __init__(
        self,
        dialect: Dialect,
        entity: type[E],
        table: str,
        bits: dict[str, int],
        load_groups: dict[str, int],
    ) -> None:
        self.dialect, self.entity, self.table = dialect, entity, table
        self.types = dict(entity.types())
        self.bits, self.load_groups = bits, load_groups
        self.upserts: dict[tuple[tuple[str, ...], tuple[int, ...], int], str] = {}  # statements, once written
        self.covered: dict[tuple[str, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}  # load groups
        self.bitmaps = [bitmap_column(number) for number in range(1 + max(bits.values(), default=0) // BITS)]
        self.load_columns = {group: load_column(group) for group in sorted({0, *load_groups.values()})}

    def sql(self, template: str) -> str:
        """The statement of a template for this table; see database.py."""
        return self.dialect.sql(template, table=self.table)

    def bitmap_values(self, names: Iterable[str]) -> list[int]:
        """The bits of some fields, one number for each bitmap."""
        bitmaps = [0] * len(self.bitmaps)
        for name in names:
            number, bit = divmod(self.bits[name], BITS)
            bitmaps[number] |= 1 << bit
        return bitmaps

    def place(self, name: str) -> tuple[str, int]:
        """Where the row says that a field is loaded: the column of the bitmap, and the bit's value."""
        number, bit = divmod(self.bits[name], BITS)
        return self.bitmaps[number], 1 << bit

    def loaded(self, name: str, alias: str) -> str:
        """SQL that is true when a field of the row is loaded."""
        bitmap, bit = self.place(name)
        return f"({alias}.{quoted(bitmap)} & {bit}) <> 0"

    def brought(self, name: str) -> str:
        """SQL that is true when the load ``p`` brought a field."""
        number, bit = divmod(self.bits[name], BITS)
        return f"(p.{load_bitmap(number)} & {1 << bit}) <> 0"

    def synced(self, name: str, alias: str) -> str:
        """SQL for when a field of the row was last synced: by its load, or by a later record of its own."""
        column, entity = quoted(load_column(self.load_groups[name])), self.entity.__name__
        load = (
            f"(SELECT p.requested_at FROM _max_load AS p WHERE p.id = {alias}.{column}"
            f" AND {self.brought(name)} AND {speaks_for(alias)})"
        )
        own = (
            f"FROM _max_freshness AS x WHERE x.entity = '{entity}' AND x.row = {alias}._row"
            f" AND x.field = '{name}'"
        )
        return (
            f"CASE WHEN coalesce((SELECT x.recorded_at {own}), {NEVER}) >= coalesce({load}, {NEVER})"
            f" THEN (SELECT x.synced_at {own}) ELSE {load} END"
        )

    def encode(self, entities: Sequence[Entity]) -> list[EncodedRows]:
        """Rows grouped by the fields that they have; InvalidEntity names every invalid value."""
        groups = _by_fields(self._once_each(entities))
        try:
            return [self._encode_group(names, records) for names, records in groups.items()]
        except InvalidColumn:
            raise InvalidEntity([m for one in entities for m in check_entity(one)]) from None

    def _once_each(self, entities: Sequence[Entity]) -> list[dict[str, Any]]:
        """The values of each entity; when one comes twice, the later fields replace the earlier."""
        records = [entity._values for entity in entities]
        if len({str(values["id"]) for values in records}) == len(records):
            return records
        wrong = [mismatch for one in entities for mismatch in check_entity(one)]
        if wrong:
            raise InvalidEntity(wrong)
        merged: dict[str, dict[str, Any]] = {}
        for values in records:
            merged[values["id"]] = merged.get(values["id"], {}) | values
        return list(merged.values())

    def _encode_group(self, keys: tuple[str, ...], records: list[dict[str, Any]]) -> EncodedRows:
        names = tuple(name for name in keys if name != "id")
        ids = [record["id"] for record in records]
        if set(map(type, ids)) != {str}:
            ids = [str(id) if is_id(id) else "" for id in ids]
        if not are_ids(ids):
            raise InvalidColumn
        columns = [encode_column(self.types[n], [record[n] for record in records]) for n in names]
        return EncodedRows(names, ids, columns)

    def decode(self, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[E]:
        """Entities from ``(id, *names, *bitmaps)`` rows; fields whose bit is not set are left out.

        A slice at a time: no other thread runs while C code converts a hundred thousand rows.
        """
        starts = range(0, len(rows), SLICE)
        return [one for start in starts for one in self._decode(names, rows[start : start + SLICE])]

    def _decode(self, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[E]:
        ids, *columns = zip(*rows, strict=True)
        values, bitmaps = columns[: len(names)], columns[len(names) :]
        decoded = [
            decode_column(self.types[name], column) for name, column in zip(names, values, strict=True)
        ]
        keys = ("id", *names)
        records = list(map(dict, map(zip, repeat(keys), zip(ids, *decoded, strict=True))))
        complete = self.bitmap_values(names)
        pairs = zip(complete, bitmaps, strict=True)
        if any(bits & wanted != wanted for wanted, column in pairs for bits in set(column)):
            for record, bits in zip(records, zip(*bitmaps, strict=True), strict=True):
                self._drop_unloaded(record, names, bits)
        return self._entities(records)

    def _drop_unloaded(self, record: dict[str, Any], names: Sequence[str], bitmaps: Sequence[int]) -> None:
        for name in names:
            number, bit = divmod(self.bits[name], BITS)
            if not bitmaps[number] >> bit & 1:
                del record[name]

    def _entities(self, records: Iterable[dict[str, Any]]) -> list[E]:
        """Entities made without their constructor, since stored values have been checked."""
        entity, made = self.entity, []
        for record in records:
            one = object.__new__(entity)
            one._values = record
            made.append(one)
        return made


def _by_fields(records: list[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Records grouped by the fields that they have; usually all have the same."""
    shapes = set(map(tuple, records))
    if len(shapes) == 1:
        return {shapes.pop(): records}
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for values in records:
        groups.setdefault(tuple(values), []).append(values)
    return groups


def speaks_for(alias: str) -> str:
    """SQL that is true when the load ``p``, which brought a row, is still that of its last listing."""
    return (
        f"(p.listing IS NULL OR EXISTS (SELECT 1 FROM _max_membership AS k WHERE k.listing = p.listing"
        f" AND k.child = {alias}._row AND k.generation >= p.generation))"
    )


def bitmap_column(number: int) -> str:
    """The column of one bitmap of the fields that were loaded."""
    return f"_loaded_{number}" if number else "_loaded"


def load_bitmap(number: int) -> str:
    """The column of _max_load that has one bitmap of the fields that a load brought."""
    return f"fields_{number}" if number else "fields"


def load_column(group: int) -> str:
    """The column that names the load which last brought a group of fields."""
    return f"_load_{group}" if group else "_load"
