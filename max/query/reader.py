"""The Reader: one snapshot of an installation's data, for code without an event loop.

    with project.read("acme:default") as reader:
        page = reader.search("AcmeTask", where="status = todo", order_by="due_date:desc", limit=20)
        print(reader.count("AcmeTask"), [task.title for task in page.items])

Rule 1: everything that one Reader answers belongs to one moment, however long it is used.

Rule 2: it never writes, and needs neither the connector nor the network: the database describes
itself.  Entities and fields go by their names, in any case, or by their classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ..errors import (
    CursorExpired,
    HistoryError,
    MaxError,
    StorageCorrupt,
    StorageEmpty,
    UnknownName,
    UsageError,
)
from ..model.entities import Entity, FieldOf, Ref, RefKey
from ..model.filters import Filter
from ..model.query import Query, QueryPage, RowPage, columns_of, parse_fields, parse_paths
from ..storage.database import interruptible as interruptible
from ..storage.database import reading
from ..storage.tables import Tables, check_connector, refuse_foreign

if TYPE_CHECKING:
    from pathlib import Path

    from ..core import InstallationInfo
    from ..model.aggregate import By, Fields, Grouping, Groups
    from ..model.changes import ChangePage, ChangeSummary
    from ..model.loaders import Resolver
    from ..model.migrations import SchemaPolicy
    from ..model.schema import Schema
    from ..model.tasks import SyncResult, SyncRun
    from ..model.text_search import Found
    from ..storage.change_log import ChangeLog
    from ..storage.database import Connection, Database, Values
    from ..storage.move_mark import Mark as Mark
    from ..storage.quarantine import Quarantined as Quarantined
    from ..storage.schema_diff import MigrationPlan as MigrationPlan
    from ..storage.schema_diff import SchemaChange as SchemaChange
    from ..storage.sync_state import SyncState as SyncState
    from .ages import FieldAge
    from .sql import SqlAnswer as SqlAnswer

T = TypeVar("T")
OneOrSeveral: TypeAlias = str | type[Entity] | Sequence[str | type[Entity]] | None  # None: all
Where: TypeAlias = str | Filter[Any] | Sequence[str | Filter[Any]] | None
LIMIT = 1_000  # rows of an answer whose caller names no limit
TIMEOUT = 10.0  # seconds that a statement may take
FOUND = 20  # hits of a text search, likewise


@contextmanager
def open_reader(database: Database, info: InstallationInfo) -> Iterator[Reader]:
    """A Reader of an installation's database; StorageEmpty when it was never synced."""
    with synced(database, info).reader() as connection:
        yield Reader(info, connection, database, now=time.time())


@contextmanager
def own_reader(database: Database, info: InstallationInfo) -> Iterator[Connection]:
    """A connection that reads; StorageForeign when the data are another connector's."""
    with reading(database) as connection:
        check_connector(connection, info.connector)
        yield connection


@contextmanager
def own_writer(database: Database, info: InstallationInfo) -> Iterator[Connection]:
    """A transaction that writes; StorageForeign when the data are another connector's."""
    with database.writer() as connection:
        check_connector(connection, info.connector)
        yield connection


def synced(database: Database, info: InstallationInfo) -> Database:
    """The database of an installation; StorageEmpty when there is none."""
    if not database.is_there():
        raise StorageEmpty(f"{info} has never been synced", hint=f"start with: max sync {info}")
    return database


def unsynced(info: InstallationInfo) -> SyncState:
    """The state of an installation that has no database yet."""
    from ..storage.sync_state import never_synced  # seldom needed

    return never_synced(str(info))


def conditions_of(where: Where) -> Sequence[str | Filter[Any]]:
    """What ``where`` names, one by one."""
    return [] if where is None else [where] if isinstance(where, str | Filter) else where


def read_ref(text: str, info: InstallationInfo) -> tuple[str, str]:
    """Entity and id of ``Entity:id``; UsageError when it is no ref, or one of another installation."""
    try:
        key = RefKey.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if key.installation not in (None, info.id):
        raise UsageError(f"{key} belongs to another installation than {info}", hint="name that one")
    return key.entity, key.id


class Reader:
    """One snapshot of one installation; made by ``project.read``.  ``database`` is what it reads.

    ``now`` is the moment from which ages and relative times count, in seconds since the epoch.
    """

    def __init__(
        self, info: InstallationInfo, connection: Connection, database: Database, *, now: float
    ) -> None:
        self.info, self.now = info, now
        self._connection, self.database = connection, database

    def __repr__(self) -> str:
        return f"Reader({self.info})"

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """The connection; what goes wrong while stored data is read becomes a StorageError.

        The caller's words were checked before: an error of Python's own means that the data is damaged.
        """
        try:
            yield self._connection
        except MaxError as error:
            if isinstance(error, StorageCorrupt):
                error.locate(self.database.label)
            raise
        except Exception as error:
            raise self._connection.dialect.error(self.database.label, error) from error

    @cached_property
    def _tables(self) -> Tables:
        with self._reading() as connection:
            tables = Tables.stored(connection)
            refuse_foreign(tables.schema.connector, self.info.connector)
            return tables

    # -- entities -------------------------------------------------------------------------

    @property
    def schema(self) -> Schema:
        """The entities as they are stored; StorageEmpty before a sync has stored anything."""
        return self._tables.schema

    def entity(self, entity: str | type[Entity]) -> type[Entity]:
        """The stored form of an entity; UnknownName names the nearest."""
        return self.schema.entity(entity if isinstance(entity, str) else entity.__name__)

    def query(
        self,
        entity: str | type[Entity],
        where: Where = None,
        order_by: str | None = None,
        fields: str | Sequence[str] | None = None,
    ) -> Query[Any]:
        """A query from names and texts; UnknownName or UsageError when one cannot be meant.

        ``where`` is a filter, a text in the filter language, or several of which all must match.
        ``order_by`` is text such as ``due_date:desc,title``, ``fields`` text such as
        ``title,due_date``, or a list of names.
        """
        query: Query[Any] = Query(self.entity(entity)).where(*conditions_of(where), now=self.now)
        if order_by is not None:
            query = query.order_by(order_by)
        return query if fields is None else query.replace(fields=parse_fields(query.entity, fields))

    def fetch(self, query: Query[Any]) -> QueryPage[Any]:
        """One page of a query."""
        with self._reading() as connection:
            return self._tables.fetch(connection, query)

    def rows(self, query: Query[Any], paths: str | Sequence[str | FieldOf[Any, Any]]) -> RowPage:
        """One page of a query as columns, one for each path: ``"id,title,assignee.name"``.

        UnknownName for a path that does not exist.
        """
        chosen = parse_paths(query.entity, paths)
        with self._reading() as connection:
            return self._tables.rows(connection, query, chosen)

    def record(
        self, entity: str | type[Entity], id: str, paths: str | Sequence[str | FieldOf[Any, Any]]
    ) -> RowPage:
        """One row as a page of one, with the columns that ``rows`` would give; NotFound."""
        query = self.query(entity)
        key: FieldOf[Any, Any] = FieldOf(query.entity, "id")
        page = self.rows(query.where(key.eq(id)), paths)
        if not page.columns[0]:
            with self._reading() as connection:
                raise self._tables.not_found(connection, query.entity.ref(id))
        return page

    def search(
        self,
        entity: str | type[Entity],
        where: Where = None,
        *,
        order_by: str | None = None,
        fields: str | Sequence[str] | None = None,
        limit: int = LIMIT,
        after: str | None = None,
    ) -> QueryPage[Any]:
        """A page of entities; ``page.cursor`` is the cursor that ``after`` takes for the next one."""
        query = self.query(entity, where, order_by, fields)
        return self.fetch(query.limit(limit).after(after))

    def get(self, entity: str | type[Entity], id: str, fields: str | Sequence[str] | None = None) -> Any:
        """One entity with what is stored of it; NotFound."""
        kind = self.entity(entity)
        names = tuple(kind.types()) if fields is None else parse_fields(kind, fields)
        chosen: list[FieldOf[Any, Any]] = [FieldOf(kind, name) for name in names if name != "id"]
        with self._reading() as connection:
            return self._tables.load(connection, kind.ref(id), *chosen)

    def count(self, entity: str | type[Entity], where: Where = None) -> int:
        """How many entities fit a filter."""
        query = self.query(entity, where)
        with self._reading() as connection:
            return self._tables.count(connection, query)

    def near_values(self, query: Query[Any]) -> list[str]:
        """For a query without rows: a line for each value that it demands and no row has.

        The line names the values that are near: ``no AcmeTask has status 'tood'; did you mean todo?``
        """
        from .near_values import near_values  # few answers are empty

        return near_values(self, query)

    def count_by(
        self,
        entity: str | type[Entity],
        by: By | Sequence[By],
        where: Where = None,
        *,
        sum: Fields = (),
        avg: Fields = (),
        min: Fields = (),
        max: Fields = (),
        order_by: str | None = None,
        top: int | None = None,
    ) -> Groups[Any]:
        """The entities in groups: ``reader.count_by("AcmeTask", "assignee.name,updated_at:month")``.

        A time takes a unit (year, quarter, month, week, day, hour; in UTC), a list ``each``.  ``sum``
        and the others name fields to add up or compare.  ``order_by`` names columns of the groups
        (``"-sum_estimate"``); ``top`` keeps this many groups, and those that are equal at the cut.
        """
        from ..model.aggregate import grouping  # most questions make no groups

        kind = self.entity(entity)
        measures = {"sum": sum, "avg": avg, "min": min, "max": max}
        return self.groups(
            self.query(kind, where), grouping(kind, by, order_by=order_by, top=top, **measures)
        )

    def values(
        self,
        entity: str | type[Entity],
        field: By,
        where: Where = None,
        *,
        limit: int | None = None,
    ) -> Groups[Any]:
        """The different values of a field, or of a list's members, the most frequent first."""
        from ..model.aggregate import values_of_field

        kind = self.entity(entity)
        return self.groups(self.query(kind, where), values_of_field(kind, field, limit))

    def groups(self, query: Query[Any], grouping: Grouping) -> Groups[Any]:
        """The rows of a query in groups."""
        with self._reading() as connection:
            return self._tables.groups(connection, query, grouping)

    # -- many rows, for other programs

    def pages(self, query: Query[Any], paths: str | Sequence[str | FieldOf[Any, Any]]) -> Iterator[RowPage]:
        """All rows of a query up to its limit, as ``rows`` gives them; one page of them is in memory."""
        chosen = parse_paths(query.entity, paths)
        with self._reading() as connection:
            yield from self._tables.pages(connection, query, chosen)

    def to_arrow(
        self,
        entity: str | type[Entity],
        where: Where = None,
        *,
        fields: str | Sequence[str | FieldOf[Any, Any]] | None = None,
        order_by: str | None = None,
        limit: int | None = None,
    ) -> Any:
        """Rows as a ``pyarrow.Table``: all of them, or ``limit``; MissingExtra without the extra ``frames``.

        ``fields`` are the columns, also through refs: ``"id,title,assignee.name"``.
        """
        query = self.query(entity, where, order_by).replace(size=limit)
        with self._reading() as connection:
            return self._tables.arrow(connection, query, columns_of(query, fields))

    def to_pandas(self, entity: str | type[Entity], where: Where = None, **rest: Any) -> Any:
        """The same as a pandas DataFrame."""
        from ..model.frames import to_pandas

        return to_pandas(self.to_arrow(entity, where, **rest))

    def to_polars(self, entity: str | type[Entity], where: Where = None, **rest: Any) -> Any:
        """The same as a polars DataFrame."""
        from ..model.frames import to_polars

        return to_polars(self.to_arrow(entity, where, **rest))

    def arrow_batches(
        self, query: Query[Any], paths: Sequence[FieldOf[Any, Any]]
    ) -> tuple[Any, Iterator[Any]]:
        """The Arrow schema of a query's rows, and their batches, one of which is in memory."""
        with self._reading() as connection:
            return self._tables.arrow_batches(connection, query, paths)

    def copy_to(
        self, path: Path, selections: Sequence[tuple[str, Query[Any], Sequence[FieldOf[Any, Any]]]]
    ) -> list[int]:
        """Write the rows of queries into a new SQLite file, in a table each; how many each has."""
        from ..storage.copies import copy_rows

        with self._reading() as connection:
            return copy_rows(connection, self._tables, selections, path)

    def counts(self) -> dict[str, int]:
        """Rows by entity."""
        return {name: self.count(name) for name in self.schema.entities}

    def sql(
        self, statement: str, parameters: Values = (), *, limit: int = LIMIT, timeout: float = TIMEOUT
    ) -> SqlAnswer:
        """The first rows of a SELECT over the views; values are ``?`` in order or ``:names``.

        InvalidSql when it is wrong or no SELECT, SqlLimit after ``timeout`` seconds.
        """
        from .sql import run_sql

        with self._reading() as connection:
            return run_sql(connection, statement, parameters, limit=limit, timeout=timeout)

    def find(
        self,
        text: str,
        entities: Sequence[str | type[Entity]] | None = None,
        *,
        limit: int = FOUND,
        raw: bool = False,
    ) -> Found:
        """The rows in whose searchable fields a text's words occur, best first; no more than ``limit``.

        Without ``entities`` all are looked through.  ``raw`` is a query in the syntax of SQLite's FTS5.
        UsageError when there is no word in the text, when the raw query cannot be read, or when an
        entity has no searchable field.
        """
        from .find import find_in

        with self._reading() as connection:
            return find_in(
                connection, self._tables, str(self.info), text, entities or (), limit=limit, raw=raw
            )

    # -- what is known about them ---------------------------------------------------------

    def changes(
        self,
        since: str | None = None,
        *,
        until: str | None = None,
        entity: OneOrSeveral = None,
        fields: Sequence[str] = (),
        newest_first: bool = False,
        limit: int = LIMIT,
    ) -> ChangePage:
        """The changes after a cursor or from a time on; None for the oldest that is kept.

        ``since`` is a cursor, a time as in filters ("yesterday", "2026-11", "-3mo"; an age needs no
        sign), "now" for what is to come, or "beginning": that gives the rows from before the oldest
        change first, as created.  ``until`` is a time.  With ``fields`` the changes hold these alone, and
        updates of none of them are left out.  Newest first they come without a next page.
        HistoryError when nothing is recorded, CursorExpired when what followed is no longer kept.
        """
        names = self._field_names(entity, fields)
        more = {"fields": names, "newest_first": newest_first, "limit": limit}
        return self._changes(lambda log: log.page, since, until, entity, **more)

    def count_changes(
        self, since: str | None = None, *, until: str | None = None, entity: OneOrSeveral = None
    ) -> int:
        """How many changes there are, without the rows from before the oldest; the same errors."""
        return self._changes(lambda log: log.count, since, until, entity)

    def change_summary(
        self, since: str | None = None, *, until: str | None = None, entity: OneOrSeveral = None
    ) -> ChangeSummary:
        """How many rows of each entity came, changed and went, and which fields; the same errors."""
        return self._changes(lambda log: log.summary, since, until, entity)

    def _several(self, entity: OneOrSeveral) -> list[type[Entity]]:
        return [self.entity(one) for one in ([entity] if isinstance(entity, str | type) else entity or ())]

    def _field_names(self, entity: OneOrSeveral, fields: Sequence[str]) -> list[str]:
        """Fields of one of the entities at least; UnknownName for any other."""
        kinds = self._several(entity) or list(self.schema.entities.values())
        known = {name.casefold(): name for kind in kinds for name in kind.types()}
        for name in fields:
            if name.casefold() not in known:
                raise UnknownName("field", name, known.values())
        return [known[name.casefold()] for name in fields]

    def _changes(
        self,
        ask: Callable[[ChangeLog], Callable[..., T]],
        since: str | None,
        until: str | None,
        entity: OneOrSeveral,
        **more: Any,
    ) -> T:
        from ..model.changes import read_since, read_until  # most answers are of the rows as they are

        kinds = self._several(entity)
        place = None if since is None else read_since(since, self.now)
        end = None if until is None else read_until(until, self.now)
        try:
            with self._reading() as connection:
                return ask(self._tables.change_log)(connection, place, until=end, entities=kinds, **more)
        except CursorExpired:
            raise
        except HistoryError as error:
            hint = f"turn it on with: max settings {self.info} history=changes"
            if self.info.settings.history != "off":
                hint = f"recording starts with: max sync {self.info}"
            raise HistoryError(f"{self.info}: {error.message}", hint=hint) from error

    def titles(self, refs: Iterable[Ref[Any]]) -> dict[Ref[Any], str]:
        """The titles of these rows, also of removed ones, where their entity has one and it is loaded."""
        ids: dict[type[Entity], list[str]] = {}
        for ref in refs:
            if ref.entity._title is not None:
                ids.setdefault(ref.entity, []).append(ref.id)
        with self._reading() as connection:
            return {
                kind.ref(id): title
                for kind, some in ids.items()
                for id, title in self._tables.titles(connection, kind, some)
            }

    def freshness(self, what: str | None = None) -> list[FieldAge]:
        """How old every field is, and how long ago each collection and feed was listed to its end.

        ``what`` is ``Entity`` or ``Entity.field`` for these alone.
        """
        from .ages import ages

        with self._reading() as connection:
            return ages(connection, self._tables, what, now=self.now)

    def quarantine(
        self, entity: str | type[Entity] | None = None, *, limit: int = LIMIT
    ) -> list[Quarantined]:
        """Rows that were rejected and kept aside."""
        from ..storage.quarantine import quarantined

        name = None if entity is None else self.entity(entity).__name__
        with self._reading() as connection:
            check_connector(connection, self.info.connector)
            return quarantined(connection, entity=name, limit=limit)

    def has_hooks(self) -> bool:
        """Whether hooks are stored that were not worked through."""
        from ..storage.inbox import due_at

        with self._reading() as connection:
            return due_at(connection) is not None

    def schema_diff(self, resolver: Resolver, policy: SchemaPolicy) -> MigrationPlan:
        """What an upgrade to a connector's schema would do; nothing is written."""
        from ..storage.schema_evolution import plan

        with self._reading() as connection:
            return plan(connection, resolver, policy)

    # -- syncs ----------------------------------------------------------------------------

    @cached_property
    def state(self) -> SyncState:
        """Whether the rows are all there, and as of when; every answer says so."""
        from ..storage.sync_state import sync_state

        with self._reading() as connection:
            return sync_state(connection, str(self.info), now=self.now)

    @property
    def move_mark(self) -> Mark | None:
        """Where the installation is being moved to; None when it is not."""
        from ..storage.move_mark import mark_of

        with self._reading() as connection:
            return mark_of(connection)

    def runs(self, limit: int = LIMIT, *, beginning: str = "") -> list[SyncRun]:
        """The newest syncs whose id begins so, newest first; empty when there was none."""
        from ..storage.sync_log import runs

        with self._reading() as connection:
            check_connector(connection, self.info.connector)
            return runs(connection, limit, beginning=beginning, now=self.now)

    def check_idle(self) -> None:
        """SyncRunning when a process is syncing."""
        from ..storage.sync_log import refuse_while_syncing

        with self._reading() as connection:
            refuse_while_syncing(connection, clock=lambda: self.now)

    def run(self, id: str) -> SyncResult:
        """One sync with its failures, by its id or the beginning of that; NotFound."""
        from ..storage.sync_log import result

        with self._reading() as connection:
            check_connector(connection, self.info.connector)
            return result(connection, id, now=self.now)

    def waiting(self, sync: str) -> tuple[float, int, str] | None:
        """When the next task of a sync may begin, how many wait, and why; None when one can run now."""
        from ..storage.sync_log import waits

        with self._reading() as connection:
            return waits(connection, sync, now=self.now)
