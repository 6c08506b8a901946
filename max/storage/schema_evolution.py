"""Schema evolution: a database that holds data comes to fit what its connector declares now.

Rule 1: everything is planned before anything is written; one thing that cannot be done safely
refuses the whole.

Rule 2: nothing is lost that was not dropped by a declaration.  A field or an entity that is no
longer declared is hidden, and comes back as it was.

Rule 3: planning, changing and recording that it was done are one transaction, under the write
lock: however many processes start, and wherever one is killed, it is done once or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import StorageError, StorageNewer
from ..model.loaders import Resolver
from ..model.migrations import NO_POLICY, SchemaContract, SchemaPolicy
from ..model.values import Json
from . import catalogue, full_text
from .catalogue import is_catalogued
from .change_log import interrupt
from .database import Connection, RenameOwner, decoding
from .ddl import build_indexes, create_table, create_views, number_fields, read_mappings, watch_fields
from .freshness import latest_request
from .quarantine import quarantined_entities
from .rows import TableMapping
from .schema_diff import MigrationPlan as MigrationPlan
from .schema_diff import Planner, SchemaChange, StoredEntity, bringing, hidden_rows, read_shape
from .schema_operations import SchemaOperations
from .tables import with_account_fields
from .users_own import CONDITIONS, FIRING, INDEXING, UsersOwn, dropping, users_own

LIST_IN_FULL = "UPDATE _max_listing SET invalidated_at = ? WHERE collection = ?"
AFTERWARDS = 1e-3  # seconds after the latest request: no listing that began before then counts as full
VALUES_STAY = frozenset({"new entity", "new field", "new collection", "renamed", "back", "members"})


def plan(connection: Connection, resolver: Resolver, policy: SchemaPolicy = NO_POLICY) -> MigrationPlan:
    """What it takes to make the database fit the resolver's schema; nothing is written.

    StorageError when a migration was edited after it ran, or the database is newer.
    """
    resolver = with_account_fields(connection, resolver)
    with decoding("schema"):
        shape = read_shape(connection, resolver.schema.connector)
    done = _recorded(connection, policy)
    known = len(policy.migrations)
    if shape is None:
        return MigrationPlan((), known, known, fresh=True)
    planner = Planner(connection, shape, resolver)
    planner.finish_drops()
    for number, migration in enumerate(policy.migrations[done:], done + 1):
        planner.version = number
        for change in migration.steps:
            planner.migrate(change)
    planner.version = None
    planner.compare()
    planner.refuse_what_stays()
    changes = tuple(_frozen(change, policy) for change in planner.changes)
    return MigrationPlan(changes, done, known, shape=shape)


def _recorded(connection: Connection, policy: SchemaPolicy) -> int:
    """How many migrations are recorded; StorageError when one was edited since."""
    if not is_catalogued(connection):
        return 0
    sql = "SELECT version, digest FROM _max_migration WHERE owner = ? ORDER BY version"
    done = connection.execute(sql, (policy.owner,)).fetchall()
    catalogue.check_record(policy.owner, [version for version, _ in done])
    if len(done) > len(policy.migrations):
        raise StorageNewer(
            f"the data is of schema version {len(done)}, which this connector does not know"
            f" ({policy.name} {len(policy.migrations)})",
            hint="install the newer connector again, or restore a backup from before its upgrade",
        )
    for (version, digest), migration in zip(done, policy.migrations, strict=False):
        if digest != migration.digest:
            raise StorageError(
                f"migration {version} of {policy.name} ({migration.purpose}) was changed after it ran",
                hint="restore it as it was released, and declare the new change in another migration",
            )
    return len(done)


def _frozen(change: SchemaChange, policy: SchemaPolicy) -> SchemaChange:
    """The change, refused when its entity's contract allows none."""
    exempt = change.refused or change.kind in ("new entity", "nothing")
    if exempt or policy.contract(change.owner) is not SchemaContract.FREEZE:
        return change
    hint = (
        f"{change.owner} is frozen: give it SchemaContract.QUARANTINE in the release that is to change it,"
        " or install the version before"
    )
    return change.replace(refused=hint, compatible=False, work=None)


# -- doing it ------------------------------------------------------------------------------


class _Alteration:
    """Tables are about to change: no other process may be syncing, and no view may be in the way.

    SQLite refuses to change a table while some view names what is not there, Postgres to change what a
    view reads.  So all views and triggers are taken away before the first change, and those of the user
    created again at the end.
    """

    def __init__(self, connection: Connection, policy: SchemaPolicy) -> None:
        self._connection, self._policy = connection, policy
        self._idle = self._begun = False
        self._own: list[UsersOwn] = []

    def begin(self) -> None:
        """SyncRunning when another process is syncing; called again it does nothing."""
        if not self._idle and self._policy.check_idle is not None:
            self._policy.check_idle(self._connection)
        self._idle = True
        self.take_away()

    def take_away(self) -> None:
        """Take away all views, triggers and rules: one of a user on a view of ours would go with that."""
        if self._begun:
            return
        self._own = users_own(self._connection)
        for one in reversed(self._remade):  # a view would take its triggers with it
            self._connection.execute(one.drop)
        for kind in ("trigger", "view"):
            catalogue.drop(self._connection, kind)
        self._begun = True

    def end(self) -> None:
        """Create the views, triggers and rules of the user again."""
        for one in self._remade:
            catalogue.create(self._connection, one.name, one.definition)

    @property
    def _remade(self) -> list[UsersOwn]:
        """In the order in which each can be made."""
        return [*self._of("view"), *self._of(*FIRING)]

    def _of(self, *kinds: str) -> list[UsersOwn]:
        return [one for one in self._own if one.kind in kinds]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """StorageError that lists what users made, when the database refuses a change beside it."""
        try:
            yield
        except self._connection.dialect.errors as error:
            own = self._of("column", *INDEXING, *CONDITIONS)
            own = [one for one in own if one.name in str(error)] or own
            if not own or self._connection.dialect.is_fatal(self._connection, error):
                raise
            message = f"the tables cannot be changed: {error}"
            raise StorageError(message, hint=f"nothing was changed; {dropping(own)}") from error


def evolve(
    connection: Connection, resolver: Resolver, policy: SchemaPolicy, owners: Sequence[RenameOwner]
) -> dict[str, TableMapping[Any]]:
    """Make the tables fit the resolver's schema, in the caller's transaction; how entities are stored then.

    SchemaError when that is not safe; nothing is changed then.
    """
    schema, found = resolver.schema, plan(connection, resolver, policy)
    found.check()
    lost = catalogue.forget_lost(connection)
    if "trigger" in lost:
        interrupt(connection)
        full_text.start_over(connection)
    alteration = _Alteration(connection, policy)
    if found.changes_data:
        alteration.begin()
    elif found.changes:
        alteration.take_away()
    operations = SchemaOperations(connection, schema.connector, owners)
    with alteration.explained():
        lacking = _perform(connection, operations, found, resolver)
        _record(connection, found, resolver, policy)
        for name, entity in schema.entities.items():
            table = f"_{schema.table(name)}"
            number_fields(connection, entity, table, resolver.load_groups(entity), alteration.begin)
    latest = latest_request(connection)
    connection.executemany(LIST_IN_FULL, [(latest + AFTERWARDS, name) for name in sorted(lacking)])
    mappings = read_mappings(connection, schema)
    for mapping in mappings.values():
        create_table(connection, mapping)
        watched = resolver.refreshed(mapping.entity)
        if watched is not None:
            watch_fields(connection, mapping, watched, since=latest, before_changing=alteration.begin)
    create_views(connection, mappings)
    alteration.end()
    if found.changes_data or "index" in lost:
        build_indexes(connection, mappings)
    return mappings


def _perform(
    connection: Connection, operations: SchemaOperations, found: MigrationPlan, resolver: Resolver
) -> set[str]:
    """Do what is planned; the collections whose listings bring what the rows lack then."""
    if any(change.work and change.kind not in VALUES_STAY for change in found.changes):
        interrupt(connection)
        full_text.start_over(connection)
    aside = quarantined_entities(connection)
    lacking: set[str] = set()
    for change in found.changes:
        if change.work is not None and change.work(operations):
            lacking |= listings_of(change, resolver)
        if change.kind != "nothing" and {change.entity, change.owner} & aside:
            lacking |= listings_of(change.replace(name=""), resolver)  # quarantined rows may be valid now
    return lacking


def listings_of(change: SchemaChange, resolver: Resolver) -> set[str]:
    """The collections to be listed in full because of a change."""
    entity = resolver.schema.entities.get(change.owner)
    if entity is None:
        return set()
    if change.name in entity.children():
        return {f"{change.owner}.{change.name}"}
    name = change.name if change.name in entity.types() and change.kind != "key" else ""
    return set(bringing(resolver, entity, name))


def _record(connection: Connection, found: MigrationPlan, resolver: Resolver, policy: SchemaPolicy) -> None:
    """Remember what was done, what is hidden, and the schema that the tables have now."""
    first = 0 if found.fresh else found.version
    rows = [
        (policy.owner, version, migration.digest)
        for version, migration in enumerate(policy.migrations, 1)
        if version > first
    ]
    connection.executemany("INSERT INTO _max_migration VALUES (?, ?, ?)", rows)
    hidden = sorted(_still_hidden(found.shape or {}))
    if hidden != sorted(hidden_rows(connection)):
        connection.execute("DELETE FROM _max_hidden")
        connection.executemany("INSERT INTO _max_hidden VALUES (?, ?, ?)", hidden)
    text = json.dumps(_stored_schema(resolver), ensure_ascii=False)
    if connection.execute("SELECT schema FROM _max_schema").fetchone() != (text,):
        connection.execute(
            "INSERT INTO _max_schema VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET schema = excluded.schema",
            (text,),
        )


def _stored_schema(resolver: Resolver) -> Json:
    """The schema as it is stored: with where the account's own fields come from."""
    if not resolver.added or not any(resolver.added.values()):
        return resolver.schema.to_json()
    from ..model.account_fields import to_json

    return {**resolver.schema.to_json(), "account_fields": to_json(resolver)}


def _still_hidden(shape: Mapping[str, StoredEntity]) -> Iterator[tuple[str, str, str]]:
    for entity in shape.values():
        if entity.hidden:
            yield entity.name, "", "{}"
        for name, field in entity.fields.items():
            if field.hidden:
                yield entity.name, name, json.dumps(field.declared, ensure_ascii=False)
