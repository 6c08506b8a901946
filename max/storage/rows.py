"""Rows: entities as the columns of a table, and back.

Rule 1: values are checked and encoded a column at a time (model/columns.py).

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

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Generic

from ..errors import InvalidEntity
from ..model.columns import EncodedRows, InvalidColumn, check_stored, decode_column, decode_ids, encode_column
from ..model.entities import E, Entity
from ..model.mismatches import check_entity
from ..model.values import Kind, are_ids, is_id
from .database import Connection, Dialect, joined, quoted

BITS = 62  # fields in one bitmap: it stays positive, and exact in every JSON reader that has integers

SLICE = 500  # rows that are decoded at once
MANY = 20  # rows for which it is worth a statement to see whether they lie together

MOVED = "_moved_at_"  # how the columns begin that have when a watched field moved
NEVER = "-1e308"  # before every time, as SQL writes it


class TableMapping(Generic[E]):
    """How one entity type is stored in its table: columns, bits, encoders and decoders.

    ``bits`` numbers the fields.  ``load_groups`` numbers the groups of fields that arrive
    together: each group has a column that names the load which last brought it.  ``watched`` names
    the field, by collections and fields, after whose moves they are fetched again.  ``shows_again``:
    loads say whom a page has shown again; tables of a Max before that can still be read.
    """

    def __init__(
        self,
        dialect: Dialect,
        entity: type[E],
        table: str,
        bits: dict[str, int],
        load_groups: dict[str, int],
        *,
        shows_again: bool = True,
    ) -> None:
        self.dialect, self.entity, self.table = dialect, entity, table
        self.types, self.refs = dict(entity.types()), entity._ref_fields()
        self.bits, self.load_groups, self.shows_again = bits, load_groups, shows_again
        self.upserts: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[str, tuple[Kind, ...]]] = {}
        self.covered: dict[tuple[str, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}  # load groups
        self.bitmaps = [bitmap_column(number) for number in range(1 + max(bits.values(), default=0) // BITS)]
        self.load_columns = {group: load_column(group) for group in sorted({0, *load_groups.values()})}
        self.watched: Mapping[str, str] = {}
        self.moved_columns: dict[str, str] = {}  # of the watched fields

    def watch(self, watched: Mapping[str, str]) -> None:
        """Note which fields are watched, before the first row is stored."""
        self.watched = watched
        self.moved_columns = {name: moved_column(self.bits[name]) for name in sorted(set(watched.values()))}

    def moved_at(self, name: str, alias: str) -> str | None:
        """SQL for when the field last moved after which a collection or a field is fetched again."""
        return f"{alias}.{quoted(self.moved_columns[self.watched[name]])}" if name in self.watched else None

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

    def unloading(self, names: Sequence[str]) -> str:
        """The beginning of a statement after which some fields of rows are not loaded; "" without any."""
        changes = [f"{quoted(name)} = NULL" for name in names]
        for bitmap, bits in zip(self.bitmaps, self.bitmap_values(names), strict=True):
            changes.append(f"{quoted(bitmap)} = {quoted(bitmap)} & ~{bits}")
        return f"UPDATE {{table}} SET {', '.join(changes)}" if names else ""

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
            f" AND {self.brought(name)} AND {self.speaks_for(alias)})"
        )
        own = (
            f"FROM _max_freshness AS x WHERE x.entity = '{entity}' AND x.row = {alias}._row"
            f" AND x.field = '{name}'"
        )
        return (
            f"CASE WHEN coalesce((SELECT x.recorded_at {own}), {NEVER}) >= coalesce({load}, {NEVER})"
            f" THEN (SELECT x.synced_at {own}) ELSE {load} END"
        )

    def speaks_for(self, alias: str) -> str:
        """SQL that is true when the load ``p``, which brought a row, is still that of its last listing."""
        again = " OR (k.page = p.number AND k.generation = p.since)" if self.shows_again else ""
        return (
            "(p.listing IS NULL OR EXISTS (SELECT 1 FROM _max_membership AS k WHERE k.listing = p.listing"
            f" AND k.child = {alias}._row AND (k.generation >= p.generation{again})))"
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
        check_stored(Kind.TEXT, ids)
        for column in bitmaps:
            check_stored(Kind.INTEGER, column)
        decoded = [
            decode_ids(column) if name in self.refs else decode_column(self.types[name], column)
            for name, column in zip(names, values, strict=True)
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
            one._given, one._kept = record, None
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


def in_a_row(
    connection: Connection, mapping: TableMapping[Any], ids: Sequence[str]
) -> tuple[int, int] | None:
    """The least and the greatest number of rows that may be numbered one after another, if there are many.

    Rows that a first listing brought together are, and later listings often bring the same.  Only
    the first and the last of them were looked at.
    """
    if len(ids) < MANY:
        return None
    sql = mapping.sql("SELECT min(_row), max(_row) FROM {table} WHERE _id IN (?, ?)")
    first, last = connection.execute(sql, (ids[0], ids[-1])).fetchone()
    return (first, last) if first is not None and last - first == len(ids) - 1 else None


def bitmap_column(number: int) -> str:
    """The column of one bitmap of the fields that were loaded."""
    return f"_loaded_{number}" if number else "_loaded"


def load_bitmap(number: int) -> str:
    """The column of _max_load that has one bitmap of the fields that a load brought."""
    return f"fields_{number}" if number else "fields"


def moved_column(bit: int) -> str:
    """The column that has when a response came that changed a watched field, in seconds since the epoch.

    It has the number of the field's bit, which no other name and no other field changes.
    """
    return f"{MOVED}{bit}"


def load_column(group: int) -> str:
    """The column that names the load which last brought a group of fields."""
    return f"_load_{group}" if group else "_load"


def known_upsert(
    mapping: TableMapping[Any], names: tuple[str, ...], load_groups: tuple[int, ...]
) -> tuple[str, tuple[Kind, ...]]:
    """The same as ``upsert``, composed once."""
    written = names, load_groups
    return mapping.upserts.get(written) or mapping.upserts.setdefault(written, upsert(mapping, *written))


def upsert(
    mapping: TableMapping[Any], names: tuple[str, ...], load_groups: tuple[int, ...]
) -> tuple[str, tuple[Kind, ...]]:
    """The statement that stores ``{rows}`` with these fields, and writes none that would not change.

    And the kinds of its columns.
    """
    loads = [quoted(load_column(group)) for group in load_groups]
    bitmaps = [quoted(bitmap) for bitmap in mapping.bitmaps]
    fields = [quoted(name) for name in names]
    moved = {name: quoted(mapping.moved_columns[name]) for name in names if name in mapping.moved_columns}
    columns = ['"_id"', *fields, *bitmaps, *loads, *moved.values()]
    kinds = [Kind.TEXT, *(mapping.types[name].kind for name in names)]
    kinds += [Kind.INTEGER] * len(bitmaps + loads) + [Kind.REAL] * len(moved)
    changes = [f"{c} = excluded.{c}" for c in (*fields, *loads)]
    changes += [f"{c} = t.{c} | excluded.{c}" for c in bitmaps]
    for name, column in moved.items():
        bitmap, bit = mapping.place(name)
        stays = (
            f"t.{quoted(name)} IS NOT DISTINCT FROM excluded.{quoted(name)}"
            f" AND (t.{quoted(bitmap)} & {bit}) <> 0 AND t.{column} > {NEVER}"
        )
        changes.append(f"{column} = CASE WHEN {stays} THEN t.{column} ELSE excluded.{column} END")
    differs = [f"t.{c} IS DISTINCT FROM excluded.{c}" for c in (*fields, *loads)]
    differs += [f"(t.{c} & excluded.{c}) <> excluded.{c}" for c in bitmaps]
    differs += [f"t.{c} = {NEVER}" for c in moved.values()]
    sql = (
        f"INSERT INTO {quoted(mapping.table)} AS t ({', '.join(columns)}) {{rows}}"
        f" ON CONFLICT (_id) DO UPDATE SET {', '.join([*changes, '_removed_at = NULL'])}"
        f" WHERE {joined('OR', [*differs, 't._removed_at IS NOT NULL'])}"
    )
    return sql, tuple(kinds)
