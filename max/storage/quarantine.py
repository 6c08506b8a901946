"""Quarantine: invalid rows are kept aside, so that one of them does not fail its whole page.

Rule 1: nothing is dropped in silence.  Quarantined rows are counted in the sync's result, and
kept with the invalid value, what was expected, and the whole row as it came.

Rule 2: a row that was stored before stays as it was, stale, and in its collections: the invalid
row proves that it exists.

Rule 3: a row leaves the quarantine when every invalid field has come again and is valid, when
it is removed, when the listing that brought it is complete without it, or goes with its parent,
and, if a feed brought it and it is not stored, when the feed starts over.
While it is there, it may hold any row that is looked for: see deletion_evidence.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import InvalidEntity, shown
from ..model.columns import EncodedRows
from ..model.delivery import Delivery, ListingPage
from ..model.entities import Entity, as_it_came, values_of
from ..model.mapping import MappedRows
from ..model.migrations import SchemaPolicy
from ..model.mismatches import invalid_fields, mismatches_of, short_path
from ..model.struct import Struct, checked
from ..model.values import InvalidValue, Json, is_id, is_json, storable
from .catalogue import has_part, migrate
from .database import Connection, RenameOwner, Targets, decoding
from .freshness import Freshness
from .oversize import too_large
from .rows import TableMapping

OWNER = "quarantine"  # of this table, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_quarantine (
        entity     TEXT NOT NULL,
        id         TEXT NOT NULL,
        digest     TEXT NOT NULL,  -- of a row whose id is invalid, or empty
        expected   TEXT NOT NULL,
        actual     TEXT NOT NULL,
        fields     TEXT NOT NULL,
        row        TEXT NOT NULL,
        collection TEXT,
        parent     TEXT,
        sync       TEXT,
        at         REAL NOT NULL,
        PRIMARY KEY (entity, id, digest)
    ) {by_key}
    """,
    "ALTER TABLE _max_quarantine ADD COLUMN inside TEXT NOT NULL DEFAULT ''",  # the place in JSON data
)
KEEP = """
    INSERT INTO _max_quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (entity, id, digest) DO UPDATE
       SET expected = excluded.expected, actual = excluded.actual, fields = excluded.fields,
           row = excluded.row, collection = excluded.collection, parent = excluded.parent,
           sync = excluded.sync, at = excluded.at, inside = excluded.inside
"""
KEPT = """
    SELECT entity, id, expected, actual, fields, inside, row, sync, at FROM _max_quarantine
     WHERE entity = :entity OR :entity IS NULL
     ORDER BY entity, id, digest
"""
CHANGE_IDS = (  # two rows may change places, so they go through a digest that no row has
    """
    UPDATE _max_quarantine SET id = ({new} id), digest = 'new'
     WHERE entity = :entity AND digest = '' AND EXISTS ({new} id)
    """,
    """
    DELETE FROM _max_quarantine WHERE entity = :entity AND digest = ''
       AND id IN (SELECT id FROM _max_quarantine WHERE entity = :entity AND digest = 'new')
    """,
    "UPDATE _max_quarantine SET digest = '' WHERE entity = :entity AND digest = 'new'",
)
# A row that comes twice in a sync, as in a second listing, counts once.
KNOWN = "UPDATE _max_quarantine SET sync = sync WHERE entity = ? AND id = ? AND digest = ? AND sync = ?"
IS_KEPT = "SELECT 1 FROM _max_quarantine WHERE entity = ? AND digest = '' LIMIT 1"
KEPT_FIELDS = """
    SELECT id, fields FROM _max_quarantine WHERE entity = :entity AND digest = '' AND id IN {set:ids}
"""
DELETE = "DELETE FROM _max_quarantine WHERE entity = ? AND id = ?"
NAMED = "UPDATE _max_quarantine SET at = :at WHERE entity = :entity AND id IN {set:ids} AND at < :at"


class Quarantined(Struct):
    """A row in quarantine: its first invalid value, and the whole row as JSON data.

    ``fields`` names every invalid field; ``at`` is when the row was requested, or was last named by a
    listing of ids, in seconds since the epoch.  ``id`` is empty when the id itself is invalid.
    """

    entity: str
    id: str
    path: str
    expected: str
    actual: str
    fields: tuple[str, ...]
    row: Json
    sync: str | None
    at: float

    @property
    def place(self) -> str:
        """The first invalid field, and the place in its JSON data: ``labels[3]``."""
        return self.path.removeprefix(f"{short_path(self.entity, self.id or self.row['id'])}.")


class ValidatedRows(NamedTuple):
    """The valid rows of one entity, encoded; the ids of the invalid ones.

    ``quarantined`` counts the invalid rows that this sync had not met before.
    """

    mapping: TableMapping[Any]
    groups: Sequence[EncodedRows]
    invalid: Sequence[str] = ()
    quarantined: int = 0

    @property
    def existing(self) -> Sequence[EncodedRows]:
        """Every row that is proven to exist; of the invalid ones the id alone."""
        return [*self.groups, EncodedRows((), list(self.invalid), [])] if self.invalid else self.groups


class Quarantine(RenameOwner):
    """Separates invalid rows from valid ones, unless an entity's contract is strict."""

    def __init__(self, policy: SchemaPolicy, freshness: Freshness) -> None:
        self._policy, self._freshness = policy, freshness
        self.mask: Callable[[Json], Json] = lambda data: data  # removes secrets from what is kept

    def apply(self, connection: Connection) -> None:
        """Create the table, unless it is there."""
        migrate(connection, OWNER, MIGRATIONS)

    def validate(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        entities: Sequence[Entity],
        delivery: Delivery,
        *,
        strict: bool,
    ) -> ValidatedRows:
        """Encode the valid rows and keep the invalid ones; InvalidEntity when that is not allowed."""
        if type(entities) is MappedRows:
            read, invalid = entities.encoded()
            groups = [read.once_each()] if read.ids else []
            wrong = [(one, invalid_fields(one)) for one in invalid]
        else:
            groups, wrong = _separated(mapping, entities)
        groups, large = _held(connection, mapping, groups)
        wrong = [*wrong, *large]
        if wrong and (strict or self._policy.is_strict(mapping.entity.__name__)):
            raise InvalidEntity([mismatch for one in wrong for mismatch in mismatches_of(*one)])
        rows = ValidatedRows(mapping, groups, [one.id for one, _ in wrong if is_id(one.id)])
        self.release(connection, rows)
        return rows._replace(quarantined=self._keep(connection, mapping, wrong, delivery)) if wrong else rows

    def _keep(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        wrong: Sequence[tuple[Entity, Mapping[str, InvalidValue]]],
        delivery: Delivery,
    ) -> int:
        """Keep invalid rows; how many of them this sync had not kept yet."""
        rows = [_row(one, fields, delivery, self.mask) for one, fields in wrong]
        keys = {row[:3] for row in rows}
        known = connection.executemany(KNOWN, [(*key, delivery.sync) for key in keys]).rowcount
        connection.executemany(KEEP, rows)
        for one, _ in wrong:
            names = [name for name in values_of(one) if name in mapping.types]
            if is_id(one.id) and names:
                at = delivery.requested_at
                self._freshness.record(connection, mapping, [one.id], names, synced_at=None, recorded_at=at)
        return len(keys) - known

    def release(self, connection: Connection, rows: ValidatedRows) -> None:
        """Delete the rows whose invalid fields, but for hidden ones, have all come again and are valid."""
        entity, dialect = rows.mapping.entity.__name__, connection.dialect
        if connection.execute(IS_KEPT, (entity,)).fetchone() is None:
            return
        for group in rows.groups:
            values = {"entity": entity, "ids": dialect.array(group.ids)}
            kept = connection.execute(dialect.sql(KEPT_FIELDS), values).fetchall()
            known = rows.mapping.types.keys()
            valid = [id for id, fields in kept if known & set(json.loads(fields)) <= {*group.names}]
            connection.executemany(DELETE, [(entity, id) for id in valid])

    def note_named(
        self, connection: Connection, entity: type[Entity], groups: Sequence[EncodedRows], at: float
    ) -> None:
        """Rows that a listing of ids names exist, although it does not say what is in them."""
        ids = connection.dialect.array(id for rows in groups for id in rows.ids)
        values = {"entity": entity.__name__, "ids": ids, "at": at}
        connection.execute(connection.dialect.sql(NAMED), values)

    def close(self, connection: Connection, listing: ListingPage) -> None:
        """Delete the rows that a complete listing of everything did not bring again, or name."""
        if not listing.delta and listing.sweeps:
            sql = "DELETE FROM _max_quarantine WHERE collection = ? AND parent = ? AND at < ?"
            connection.execute(sql, (repr(listing.collection), listing.parent.id, listing.began_at))

    # -- migrations -----------------------------------------------------------------------

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """Rows follow the name of their entity, and that of the entity whose listing brought them."""
        connection.execute("UPDATE _max_quarantine SET entity = ? WHERE entity = ?", (new, old))
        connection.execute(
            "UPDATE _max_quarantine SET collection = :new || substr(collection, length(:old) + 1)"
            " WHERE substr(collection, 1, length(:old) + 1) = :old || '.'",
            {"old": old, "new": new},
        )

    def rename_field(self, connection: Connection, entity: str, old: str, new: str, targets: Targets) -> None:
        """Rows follow the names of their fields, and of the collection that brought them."""
        sql = "UPDATE _max_quarantine SET collection = ? WHERE collection = ?"
        connection.execute(sql, (f"{entity}.{new}", f"{entity}.{old}"))
        self._rename_fields(connection, entity, lambda name: new if name == old else name)

    def drop_field(self, connection: Connection, entity: str, name: str) -> None:
        """Rows are not kept for a field that is gone, nor for a collection whose listing is."""
        connection.execute("DELETE FROM _max_quarantine WHERE collection = ?", (f"{entity}.{name}",))
        self._rename_fields(connection, entity, lambda one: None if one == name else one)

    def _rename_fields(self, connection: Connection, entity: str, new: Callable[[str], str | None]) -> None:
        """Give the fields of an entity other names, or (None) drop them; a row with no invalid one goes."""
        sql = "SELECT id, digest, fields, row FROM _max_quarantine WHERE entity = ?"
        for id, digest, fields, row in connection.execute(sql, (entity,)).fetchall():
            names = [name for one in json.loads(fields) if (name := new(one))]
            values = {name: value for one, value in json.loads(row).items() if (name := new(one))}
            which, key = "WHERE entity = ? AND id = ? AND digest = ?", (entity, id, digest)
            if names:
                texts = json.dumps(names), json.dumps(values, ensure_ascii=False)
                connection.execute(f"UPDATE _max_quarantine SET fields = ?, row = ? {which}", (*texts, *key))
            else:
                connection.execute(f"DELETE FROM _max_quarantine {which}", key)

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """The rows of the entity go."""
        connection.execute("DELETE FROM _max_quarantine WHERE entity = ?", (entity,))

    def change_ids(self, connection: Connection, entity: str, ids: str, parents: Sequence[str]) -> None:
        """Rows follow their ids, and the parents whose listings brought them; without a parent they go."""
        new = f"SELECT new FROM {ids} WHERE old = "
        for statement in CHANGE_IDS:
            connection.execute(statement.format(new=new), {"entity": entity})
        names = [(name,) for name in parents]
        gone = f"DELETE FROM _max_quarantine WHERE collection = ? AND NOT EXISTS ({new} parent)"
        connection.executemany(gone, names)
        follow = f"UPDATE _max_quarantine SET parent = ({new} parent) WHERE collection = ?"
        connection.executemany(follow, names)


def _separated(
    mapping: TableMapping[Any], entities: Sequence[Entity]
) -> tuple[list[EncodedRows], list[tuple[Entity, dict[str, InvalidValue]]]]:
    """The valid ones, encoded, and the invalid ones with what is wrong with each."""
    try:
        return mapping.encode(entities), []
    except InvalidEntity:
        checked = [(one, invalid_fields(one)) for one in entities]
        groups = mapping.encode([one for one, wrong in checked if not wrong])
        return groups, [(one, wrong) for one, wrong in checked if wrong]


def _held(
    connection: Connection, mapping: TableMapping[Any], groups: Sequence[EncodedRows]
) -> tuple[list[EncodedRows], list[tuple[Entity, dict[str, InvalidValue]]]]:
    """The rows that the database can hold, and those that are too large for it, with what is."""
    held: list[EncodedRows] = []
    wrong: list[tuple[Entity, dict[str, InvalidValue]]] = []
    for rows in groups:
        if not (large := too_large(connection, mapping, rows)):
            held.append(rows)
            continue
        refused = rows.picked([*large], rows.names).tuples(*mapping.bitmap_values(rows.names))
        wrong += zip(mapping.decode(rows.names, [*refused]), large.values(), strict=True)
        if len(large) < len(rows.ids):
            held.append(rows.picked([at for at in range(len(rows.ids)) if at not in large], rows.names))
    return held, wrong


def _row(
    one: Entity, invalid: Mapping[str, InvalidValue], delivery: Delivery, mask: Callable[[Json], Json]
) -> tuple[Any, ...]:
    from hashlib import sha256  # slow, and rarely needed

    first, text, listing = next(iter(invalid.values())), row_text(one, mask), delivery.listing
    named = "id" not in invalid
    return (
        type(one).__name__,
        one.id if named else "",
        "" if named else sha256(text.encode()).hexdigest()[:16],
        storable(first.expected),
        mask(storable(shown(first.actual))),
        json.dumps(list(invalid)),
        text,
        repr(listing.collection) if listing is not None else None,
        listing.parent.id if listing is not None else None,
        delivery.sync,
        delivery.requested_at,
        storable(first.path),
    )


def row_text(one: Entity, mask: Callable[[Json], Json] = lambda data: data) -> str:
    """A row as JSON, whatever it holds; a value that JSON cannot hold is shown as errors show it."""
    types: Mapping[str, Any] = type(one).types()
    data: dict[str, Json] = {}
    for name, value in values_of(one).items():
        holds = types.get(name)
        if holds is not None and holds.check(value):
            data[name] = holds.to_json(value)
        else:
            came = as_it_came(value)
            data[name] = came if is_json(came) else storable(shown(came))
    return json.dumps(mask(data), ensure_ascii=False)


def quarantined_entities(connection: Connection) -> set[str]:
    """The entities that have rows in quarantine."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return set()
    return {row[0] for row in connection.execute("SELECT DISTINCT entity FROM _max_quarantine")}


def quarantined(
    connection: Connection, *, entity: str | None = None, limit: int | None = None
) -> list[Quarantined]:
    """The rows in quarantine, of all entities or of one; at most ``limit``."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return []
    sql, values = KEPT, {"entity": entity, "limit": limit}
    rows = connection.execute(sql if limit is None else f"{sql} LIMIT :limit", values).fetchall()
    found = []
    with decoding("quarantine"):
        for name, id, expected, actual, fields, inside, text, sync, at in rows:
            row, wrong = json.loads(text), tuple(json.loads(fields))
            path = f"{short_path(name, id or row['id'])}." + wrong[0] + inside
            found.append(checked(Quarantined(name, id, path, expected, actual, wrong, row, sync, at)))
    return found
