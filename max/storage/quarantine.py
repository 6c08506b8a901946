"""Quarantine: rows that do not fit what their entity declares, kept aside instead of lost.

Rule 1: nothing is dropped in silence.  What is kept aside is counted in the sync's result, with
the value that did not fit, what was expected, and the whole row as it came.

Rule 2: a row that is stored already stays as it was, stale, and in its collections: what came
of it proves that it is there.

Rule 3: a row leaves when all that did not fit has come again and fits, when it is removed
upstream, or when the listing that brought it is complete without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import InvalidEntity, Mismatch, shown
from ..model.delivery import Delivery, ListingPage
from ..model.entities import Entity, Ref, check_entity, values_of
from ..model.migrations import SchemaContract, SchemaPolicy
from ..model.struct import Struct
from ..model.values import Json, is_id, is_json
from .catalogue import migrate
from .database import Connection, RenameOwner
from .freshness import Freshness
from .rows import EncodedRows, TableMapping

MIGRATIONS = (
    """
    CREATE TABLE _max_quarantine (
        entity   TEXT NOT NULL,
        id       TEXT NOT NULL,
        nameless TEXT NOT NULL,
        path     TEXT NOT NULL,
        expected TEXT NOT NULL,
        actual   TEXT NOT NULL,
        fields   TEXT NOT NULL,
        row      TEXT NOT NULL,
        list     TEXT,
        sync     TEXT,
        at       REAL NOT NULL,
        PRIMARY KEY (entity, id, nameless)
    ) WITHOUT ROWID
    """,
)
KEEP = "INSERT OR REPLACE INTO _max_quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
KEPT = """
    SELECT entity, id, path, expected, actual, fields, row, sync, at FROM _max_quarantine
     WHERE :entity IS NULL OR entity = :entity
     ORDER BY entity, id, nameless
     LIMIT :limit
"""


class Quarantined(Struct):
    """A row that is kept aside: the first value that did not fit, and the row as JSON data.

    ``fields`` names everything that did not fit; ``at`` is when it was asked for, in seconds
    since the epoch.  ``id`` is empty when even that did not fit.
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


class ValidatedRows(NamedTuple):
    """The rows of one entity that fit, encoded; the ids of those that do not, and how many these are."""

    mapping: TableMapping[Any]
    groups: Sequence[EncodedRows]
    aside: Sequence[str] = ()
    quarantined: int = 0

    @property
    def seen(self) -> Sequence[EncodedRows]:
        """All that an answer has shown to exist."""
        return [*self.groups, EncodedRows((), list(self.aside), [])] if self.aside else self.groups


class Quarantine(RenameOwner):
    """Sorts out what does not fit, for the entities whose contract says so."""

    def __init__(self, policy: SchemaPolicy, freshness: Freshness) -> None:
        self._policy, self._freshness = policy, freshness

    def apply(self, connection: Connection) -> None:
        """Create or upgrade the table."""
        migrate(connection, "quarantine", MIGRATIONS)

    def sift(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        entities: Sequence[Entity],
        arrival: Delivery,
    ) -> ValidatedRows:
        """Encode what fits and keep aside what does not; InvalidEntity without such a contract."""
        try:
            sifted, unfit = ValidatedRows(mapping, mapping.encode(entities)), []
        except InvalidEntity:
            if self._policy.contract(mapping.entity.__name__) is not SchemaContract.QUARANTINE:
                raise
            wrong = [(one, check_entity(one)) for one in entities]
            unfit = [(one, mismatches) for one, mismatches in wrong if mismatches]
            groups = mapping.encode([one for one, mismatches in wrong if not mismatches])
            ids = [one.id for one, _ in unfit if is_id(one.id)]
            sifted = ValidatedRows(mapping, groups, ids, len({id(one) for one, _ in unfit}))
        self._release(connection, sifted)
        if unfit:
            self._keep(connection, mapping, unfit, arrival)
        return sifted

    def _keep(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        unfit: Sequence[tuple[Entity, Sequence[Mismatch]]],
        arrival: Delivery,
    ) -> None:
        rows = [_row(one, mismatches, arrival) for one, mismatches in unfit]
        connection.executemany(KEEP, rows)
        for one, _ in unfit:
            names = [name for name in values_of(one) if name in mapping.types]
            if is_id(one.id) and names:
                at = arrival.requested_at
                self._freshness.record(connection, mapping, [one.id], names, synced_at=None, recorded_at=at)

    def _release(self, connection: Connection, sifted: ValidatedRows) -> None:
        """Let go of the rows of which everything fits now."""
        entity = sifted.mapping.entity.__name__
        sql = "SELECT id, fields FROM _max_quarantine WHERE entity = ? AND nameless = ''"
        kept = {id: set(json.loads(fields)) for id, fields in connection.execute(sql, (entity,))}
        if kept:
            fit = [
                (entity, id)
                for rows in sifted.groups
                for id in rows.ids
                if kept.get(id, ALL) <= {*rows.names}
            ]
            connection.executemany("DELETE FROM _max_quarantine WHERE entity = ? AND id = ?", fit)

    def forget(self, connection: Connection, removed: Iterable[Ref[Any]]) -> None:
        """Let go of what is gone upstream."""
        names = [(ref.entity.__name__, ref.id) for ref in removed]
        connection.executemany("DELETE FROM _max_quarantine WHERE entity = ? AND id = ?", names)

    def close(self, connection: Connection, listing: ListingPage, began_at: float) -> None:
        """Let go of what a complete listing of everything, with its values, has not shown any more."""
        if not listing.delta and listing.sweeps and not listing.ids_only:
            sql = "DELETE FROM _max_quarantine WHERE list = ? AND at < ?"
            connection.execute(sql, (list_name(listing), began_at))

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """Rows follow their entity's name."""
        connection.execute("UPDATE _max_quarantine SET entity = ? WHERE entity = ?", (new, old))

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """The rows of the entity go."""
        connection.execute("DELETE FROM _max_quarantine WHERE entity = ?", (entity,))


ALL = frozenset({""})  # more than any row has: what is not kept aside is not let go


def list_name(listing: ListingPage) -> str:
    """Which list a row came with."""
    return f"{listing.collection!r} of {listing.parent.id}"


def _row(one: Entity, mismatches: Sequence[Mismatch], arrival: Delivery) -> tuple[Any, ...]:
    from hashlib import sha256  # slow, and nearly never needed

    first, text = mismatches[0], row_text(one)
    named = is_id(one.id)
    fields = [mismatch.path.rpartition(".")[2] for mismatch in mismatches]
    return (
        type(one).__name__,
        one.id if named else "",
        "" if named else sha256(text.encode()).hexdigest()[:16],
        *(_storable(words) for words in (first.path, first.expected, first.actual)),
        json.dumps(fields),
        text,
        list_name(arrival.listing) if arrival.listing is not None else None,
        arrival.sync,
        arrival.requested_at,
    )


def row_text(one: Entity) -> str:
    """A record as JSON, whatever it holds: what JSON has no word for is shown as errors show it."""
    types: Mapping[str, Any] = type(one).types()
    data: dict[str, Json] = {}
    for name, value in values_of(one).items():
        holds = types.get(name)
        if holds is not None and holds.check(value):
            data[name] = holds.to_json(value)
        else:
            data[name] = value if is_json(value) else _storable(shown(value))
    return json.dumps(data, ensure_ascii=False)


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def kept_entities(connection: Connection) -> set[str]:
    """The entities of which something is kept aside."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_max_quarantine'").fetchone():
        return set()
    return {row[0] for row in connection.execute("SELECT DISTINCT entity FROM _max_quarantine")}


def quarantined(connection: Connection, *, entity: str | None = None, limit: int = -1) -> list[Quarantined]:
    """What is kept aside, of all entities or of one; up to a limit, if it is not negative."""
    if not kept_entities(connection):
        return []
    found = []
    for name, id, path, expected, actual, fields, row, sync, at in connection.execute(
        KEPT, {"entity": entity, "limit": limit}
    ):
        data = json.loads(row)
        found.append(Quarantined(name, id, path, expected, actual, tuple(json.loads(fields)), data, sync, at))
    return found
