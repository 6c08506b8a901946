"""Writes that need no sync: marking data as stale, steering a sync, migrating the stored data.

Rule 1: each function is one transaction on the database of an installation: all of it, or nothing.

Rule 2: a process that is syncing is never disturbed: it reads a request at its next page, and
what it cannot bear (an invalidation, a migration) raises SyncRunning.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core import InstallationInfo
from ..errors import SyncError, UsageError
from ..model.ages import Invalidated as Invalidated
from ..model.ages import Invalidation as Invalidation
from ..model.entities import Entity, FieldOf, Ref
from ..model.query import Query
from ..model.tasks import SyncCommand, SyncRun
from ..storage import sync_log
from ..storage.freshness import latest_request
from ..storage.schema_evolution import MigrationPlan, plan
from ..storage.table_writer import TableWriter
from ..storage.tables import refuse_foreign, with_account_fields
from .ages import entity_and_field
from .reader import Where, conditions_of, open_reader, own_writer, read_ref, synced

if TYPE_CHECKING:
    from ..model.loaders import Resolver
    from ..model.migrations import SchemaPolicy
    from ..storage.database import Connection, Database


def invalidate(
    database: Database,
    info: InstallationInfo,
    what: Sequence[str | type[Entity] | FieldOf[Any, Any] | Ref[Any]],
    *,
    where: Where = None,
    resolver: Resolver | None,
    now: float,
) -> Invalidation:
    """Mark fields as stale: their values stay, and the next sync fetches them again.

    ``what`` holds ``Entity``, ``Entity.field`` and ``Entity:id``; ``where`` limits the first two.
    Without a resolver every listing of the entities is read in full.  NotFound for an id that is
    not stored; SyncRunning while a process is syncing, whose responses could pass for newer values.
    """
    with synced(database, info).writer() as connection:
        tables = TableWriter.stored(connection, resolver)
        refuse_foreign(tables.schema.connector, info.connector)
        tables.upgrade(connection)
        return mark_stale(connection, tables, info, what, where=where, now=now)


def mark_stale(
    connection: Connection,
    tables: TableWriter,
    info: InstallationInfo,
    what: Sequence[str | type[Entity] | FieldOf[Any, Any] | Ref[Any]],
    *,
    where: Where = None,
    now: float,
) -> Invalidation:
    """The same inside the caller's transaction; entities, fields and refs may stand for their names."""
    chosen = _selections(info, words_of(what), where, connection, tables, now)
    sync_log.refuse_while_syncing(connection, clock=lambda: now)
    unfinished = next(iter(sync_log.unfinished_runs(connection, now=now)), None)
    at = max(now, latest_request(connection))
    found = tuple(
        Invalidated(query.entity, fields, tables.invalidate(connection, query, fields, at=at))
        for query, fields in chosen
    )
    listings = tables.membership.count_invalidated(connection, at=at)
    loaders = _loaders(tables.membership.resolver, found)
    return Invalidation(found, listings, loaders, None if unfinished is None else unfinished.id)


def words_of(what: Sequence[str | type[Entity] | FieldOf[Any, Any] | Ref[Any]]) -> list[str]:
    """Entities, fields and refs as text."""
    return [one.__name__ if isinstance(one, type) else str(one) for one in what]


def _selections(
    info: InstallationInfo,
    what: Sequence[str],
    where: Where,
    connection: Connection,
    tables: TableWriter,
    now: float,
) -> list[tuple[Query[Any], tuple[str, ...]]]:
    """The rows and fields that the words name, each entity's together."""
    ids: dict[type[Entity], list[str]] = {}
    fields: dict[type[Entity], list[str]] = {}
    for word in what:
        if ":" in word:
            name, id = read_ref(word, info)
            entity = tables.schema.entity(name)
            tables.load(connection, entity.ref(id))
            ids.setdefault(entity, []).append(id)
        else:
            entity, field = entity_and_field(tables.schema, word)
            fields.setdefault(entity, []).extend([field] if field else entity.types())
        if not entity.types():
            raise UsageError(f"{entity.__name__} has no fields that could be fetched again")
    conditions = conditions_of(where)
    if ids and conditions:
        raise UsageError("a filter does not go with Entity:id, which names one row", hint="leave one out")
    found = [(Query(one).where(one.id.is_in(some)), tuple(one.types())) for one, some in ids.items()]
    for entity, names in fields.items():
        found.append((Query(entity).where(*conditions, now=now), tuple(dict.fromkeys(names))))
    return found


def _loaders(resolver: Resolver, invalidated: Sequence[Invalidated]) -> dict[str, list[str]]:
    """The loaders that fetch stale fields for given refs, with these fields."""
    found: dict[str, list[str]] = {}
    for one in invalidated:
        own = resolver.schema.entities.get(one.entity.__name__)
        named: list[FieldOf[Any, Any]] = [FieldOf(own, name) for name in one.fields] if own else []
        for field in named:
            home = resolver.loader_for(field)
            if home is not None:
                found.setdefault(home.name, []).append(repr(field))
    return {name: list(dict.fromkeys(fields)) for name, fields in found.items()}


def request(
    database: Database, info: InstallationInfo, command: SyncCommand, *, now: float, force: bool = False
) -> SyncRun:
    """Ask the newest sync to pause, to go on or to end, also in another process; the sync as it is then.

    It obeys at its next page; with ``force`` it is taken from its process, which is known to be gone.
    SyncError when the newest sync has ended.
    """
    with own_writer(synced(database, info), info) as connection:
        last = next(iter(sync_log.runs(connection, 1, now=now)), None)
        if last is None or last.status.final:
            ended = f"; the last one is {last.status}" if last else ""
            raise SyncError(
                f"no sync of {info} is unfinished{ended}", hint=f"start one with: max sync {info}"
            )
        sync_log.request(connection, last.id, command, now=now, force=force)
        return sync_log.run(connection, last.id, now=now)


def migrate(
    database: Database,
    info: InstallationInfo,
    resolver: Resolver,
    policy: SchemaPolicy,
    *,
    dry_run: bool = False,
) -> MigrationPlan:
    """Bring the stored data to what a connector declares; what was done, or would be with ``dry_run``.

    SchemaError when a change is refused, SyncRunning while a process is syncing.
    """
    known = len(policy.migrations)
    if not database.is_there():
        return MigrationPlan((), known, known, fresh=True)
    if dry_run:
        with open_reader(database, info) as reader:
            return reader.schema_diff(resolver, policy)
    policy = policy.replace(check_idle=partial(sync_log.refuse_while_syncing, clock=time.time))
    with database.writer() as connection:
        resolver = with_account_fields(connection, resolver)
        tables = TableWriter(resolver.schema, resolver, policy)
        found = plan(connection, resolver, policy)
        tables.apply(connection)
        tables.change_log.attach(connection, on=info.settings.history != "off")
    return found
