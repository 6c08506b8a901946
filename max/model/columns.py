"""Columns: the values of one field, checked and encoded many at a time.

The types of a whole column are looked up in C; only a column with something unusual in it is checked
value by value.  Encoded is what a database holds: times as text in UTC, refs as ids, JSON data as
text, truth as 0 and 1.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from itertools import repeat
from operator import add, attrgetter
from types import NoneType
from typing import Any, cast

from ..errors import DAMAGED, StorageCorrupt, shown
from .entities import LOCAL, Entity, FieldType, Ref
from .values import (
    INTEGER_LIMIT,
    REPLACED,
    InvalidValue,
    Kind,
    are_ids,
    datetime_of,
    utc_text,
)

PLAIN: dict[Kind, frozenset[type]] = {
    Kind.TEXT: frozenset({str}),
    Kind.INTEGER: frozenset({int}),
    Kind.REAL: frozenset({float, int}),
    Kind.BOOLEAN: frozenset({bool}),
    Kind.DATETIME: frozenset({datetime}),
    Kind.DATE: frozenset({date}),
    Kind.REF: frozenset({Ref}),
}

TEXTS: frozenset[type] = frozenset({str, NoneType})
STORED: dict[Kind, frozenset[type]] = {  # the types in which databases give the values that are no texts
    Kind.INTEGER: frozenset({int, NoneType}),
    Kind.REAL: frozenset({float, int, NoneType}),
    Kind.BOOLEAN: frozenset({int, bool, NoneType}),
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


def check_stored(kind: Kind, column: Column) -> None:
    """StorageCorrupt when a column holds what no value of its kind is stored as."""
    wrong = set(map(type, column)) - STORED.get(kind, TEXTS)
    if wrong:
        raise unreadable(no_value(kind, next(value for value in column if type(value) in wrong)))


def no_value(kind: Kind, value: object) -> str:
    """What is wrong with what is stored in place of a value of a kind."""
    return f"{shown(value)} is no {kind}"


def unreadable(problem: object) -> StorageCorrupt:
    """The error that what is stored is no value of its field."""
    return StorageCorrupt(f"what is stored cannot be read: {problem}", hint=DAMAGED)


def decode_column(holds: FieldType, column: Column) -> Column:
    """A column as Python values, of equal ones only the first is decoded; StorageCorrupt for nonsense."""
    check_stored(holds.kind, column)
    try:
        return _decode(holds, column)
    except (ValueError, TypeError, RecursionError) as error:
        raise unreadable(error) from error


def _decode(holds: FieldType, column: Column) -> Column:
    if holds.kind is Kind.JSON:
        return _decode_json(holds, column)
    if holds.kind is Kind.REF:
        target = cast("type[Entity]", holds.target)
        values: dict[Any, Any] = {stored: Ref(target, stored) for stored in set(column)}
    elif holds.kind in DECODERS or holds.enum:
        decode = DECODERS.get(holds.kind, holds.of_text)
        values = {stored: decode(stored) for stored in set(column) if stored is not None}
    else:
        return column
    values[None] = None
    return list(map(values.__getitem__, column))


def decode_ids(column: Column) -> Column:
    """The same ids, of which equal ones are one object; StorageCorrupt when one is no text."""
    check_stored(Kind.REF, column)
    return list(map({value: value for value in column}.__getitem__, column))


def _decode_json(holds: FieldType, column: Column) -> Column:
    """Lists and dicts, which no two entities may share."""
    values = [None if text is None else json.loads(text) for text in column]
    if (inside := holds.inside) is None:
        return values
    for ids in values:
        check_stored(Kind.REF, ids or ())
    return [None if ids is None else [Ref(inside, id) for id in ids] for ids in values]


def encode_column(holds: FieldType, column: Column) -> Column:
    """A whole column as it is stored; InvalidColumn when a value is invalid."""
    return encode_kinds(holds, column, set(map(type, column)))


def encode_kinds(holds: FieldType, column: Column, kinds: set[type]) -> Column:
    """The same for a column that has values of these types."""
    values = column
    if NoneType in kinds:
        if not holds.optional:
            raise InvalidColumn
        kinds = kinds - {NoneType}
        values = [value for value in column if value is not None]
    if not kinds:
        return column
    if holds.kind is Kind.DATETIME and kinds == {str}:
        return _iso_datetime(holds, column, values)
    if holds.choices:
        return _choices(holds, column)
    plain = PLAIN.get(holds.kind)
    if plain is None or not kinds <= plain:
        return _encode_each(holds, column)
    return _ENCODE_PLAIN[holds.kind](holds, column, values)


def _encode_each(holds: FieldType, column: Column) -> Column:
    try:
        return [encode_one(holds, value) for value in column]
    except InvalidValue:
        raise InvalidColumn from None


def _choices(holds: FieldType, column: Column) -> Column:
    known: dict[Any, str | None] = {one: one for one in holds.choices}
    try:
        return [None if value is None else known[value] for value in column]
    except (KeyError, TypeError):
        raise InvalidColumn from None


def id_lists(column: Column) -> Column | None:
    """Lists of ids as they are stored, each id once; None when anything in the column is unusual."""
    ids = [id for one in column if type(one) is list for id in one]
    if set(map(type, column)) != {list} or set(map(type, ids)) != {str} or not are_ids(ids):
        return None
    texts = ['","'.join(dict.fromkeys(one)) for one in column]
    if json_text("".join(ids)) != f'"{"".join(ids)}"':  # there is a sign that JSON escapes
        return None
    return [f'["{text}"]' if one else "[]" for one, text in zip(column, texts, strict=True)]


def _joined(values: Sequence[str]) -> str:
    """All texts as one; InvalidColumn when UTF-8 cannot encode them."""
    joined = "".join(values)
    if not joined.isascii():
        try:
            joined.encode()
        except UnicodeEncodeError:
            raise InvalidColumn from None
    return joined


def _plain_text(_: FieldType, column: Column, values: Sequence[str]) -> Column:
    if "\0" not in _joined(values):
        return column
    return [value and value.replace("\0", REPLACED) for value in column]


def _plain_integer(_: FieldType, column: Column, values: Sequence[int]) -> Column:
    if min(values) < -INTEGER_LIMIT or max(values) >= INTEGER_LIMIT:
        raise InvalidColumn
    return column


def _plain_real(_: FieldType, column: Column, values: Sequence[float]) -> Column:
    try:
        floats = list(map(float, values))
    except OverflowError:  # of an integer
        raise InvalidColumn from None
    if floats != list(values) or not all(map(math.isfinite, floats)):
        raise InvalidColumn
    return floats if len(floats) == len(column) else [value and float(value) for value in column]


def _plain_datetime(holds: FieldType, column: Column, values: Sequence[datetime]) -> Column:
    if set(map(id, map(_ZONE, values))) != {id(UTC)}:
        return _encode_each(holds, column)
    if len(values) < len(column):
        return [None if value is None else utc_text(value) for value in column]
    days = list(map(datetime.date, values))  # many times are of one day
    begun = {day: f"{day.isoformat()}T" for day in set(days)}
    clocks = list(map(time.isoformat, map(datetime.time, values)))
    widths = set(map(len, clocks))
    if widths == {15}:
        clocks = [clock.rstrip("0") for clock in clocks]
    elif widths != {8}:
        clocks = [clock if len(clock) == 8 else clock.rstrip("0") for clock in clocks]
    return list(map(add, map(begun.__getitem__, days), clocks))


def _iso_datetime(holds: FieldType, column: Column, values: Sequence[str]) -> Column:
    """Texts as APIs send them, ``2026-01-31T09:30:00.125Z``, stored as they are without the zone."""
    if not _same_shape(values):
        return _encode_each(holds, column)
    try:
        deque(map(datetime.fromisoformat, values), maxlen=0)
    except ValueError:  # there is a leap second, or an invalid time
        return _encode_each(holds, column)
    end = _common_end(values)
    if end is None:
        return [None if value is None else value[:-1].rstrip("0").rstrip(".") for value in column]
    if len(values) < len(column):
        return [value and value[:end] for value in column]
    return [value[:end] for value in values]


def _same_shape(values: Sequence[str]) -> bool:
    """Whether all are UTC times of one width, seen by the nth characters of all of them at once.

    Then only the moments are left to be checked.
    """
    width, joined = len(values[0]), "".join(values)
    if width not in (20, 24, 27) or len(set(map(len, values))) > 1 or "T24" in joined:
        return False
    signs = (*ISO_SIGNS, (19, "Z" if width == 20 else "."), (width - 1, "Z"))
    return all(joined[at::width] == sign * len(values) for at, sign in signs)


def _common_end(values: Sequence[str]) -> int | None:
    """Where all texts end without trailing zeros and the zone; None when not at one place."""
    width, joined = len(values[0]), "".join(values)
    if width == 20 or all(joined[at::width] == "0" * len(values) for at in range(20, width - 1)):
        return 19
    return None if "0" in joined[width - 2 :: width] else width - 1


def _plain_date(_: FieldType, column: Column, values: Sequence[date]) -> Column:
    return [None if value is None else value.isoformat() for value in column]


def _plain_ref(holds: FieldType, column: Column, values: Sequence[Ref[Any]]) -> Column:
    targets, scopes = set(map(_TARGET, values)), set(map(id, map(_SCOPE, values)))
    ids = list(map(_ID, values))
    if targets != {holds.target} and not all(map(holds.points_at, targets)):
        return _encode_each(holds, column)
    if set(map(type, ids)) != {str} or scopes != {id(LOCAL)}:
        return _encode_each(holds, column)
    if not are_ids(ids):
        raise InvalidColumn
    return ids if len(ids) == len(column) else [None if value is None else value.id for value in column]


_ENCODE_PLAIN: dict[Kind, Callable[[FieldType, Column, Column], Column]] = {
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

    def once_each(self) -> EncodedRows:
        """The same rows; of one that comes twice, the last."""
        if len(set(self.ids)) == len(self.ids):
            return self
        last = {id: at for at, id in enumerate(self.ids)}
        return self.picked([*last.values()], self.names)

    def picked(self, positions: Sequence[int], names: tuple[str, ...]) -> EncodedRows:
        """Some of the rows, with some of their fields."""
        columns = [self.columns[self.names.index(name)] for name in names]
        ids = [self.ids[at] for at in positions]
        return EncodedRows(names, ids, [[column[at] for at in positions] for column in columns])
