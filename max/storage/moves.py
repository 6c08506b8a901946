"""Moves: the tables of one database become those of another, of the same kind or not.

**While it moves** nothing may write: triggers on every table of ours refuse it, whatever program that is and
however long the move takes, also when its process was killed.  Reading goes on.  ``_max_move`` says where it
goes, and ``handing_over`` that the other place may have it already: until then the move can be taken back.

**The copy** goes through each table in the order of its key, some hundred rows at a time.  What the target
has between two keys is compared with them, and replaced where it differs.  So a copy that was ended anywhere
is gone on with by doing it again: what is there is read, and not written.

**The proof** is the same pass without the writing: every row, in its types, between the same keys.

**Example.**  Pages of two rows; the process was killed after the first one.

    source    1 Ada, 2 Bob | 3 Cyd, 4 Dan | 5 Eve
    target    1 Ada, 2 Bob |              |
    again     equal        | written      | written, and nothing is behind 5

**What is not copied** is made again, in the words of the target: views, indexes, triggers, and the index of
texts.  Contents that a connector keeps are no rows in another place: ``postgres_contents`` reads and writes
them.  What users made in the database is refused by name, since no other database may understand it.

Rule: no statement here knows which database it is for.  Everything is read in the order of keys, and never
held as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from ..errors import MaxError, MoveRefused, StorageNewer
from ..model.mismatches import short_path
from ..model.schema import table_name
from ..model.values import Kind
from . import (
    catalogue,
    change_log,
    event_log,
    full_text,
    inbox,
    kept_files,
    provenance,
    quarantine,
    schedules,
    sync_log,
)
from . import table_writer as engine
from .catalogue import has_part, is_catalogued, migrate
from .database import MOVING, TRUE, Connection, Database, Limits, decoding, quoted
from .ddl import build_indexes, create_views
from .move_mark import MARK, Mark, mark_of, put_mark
from .oversize import WIDEST, is_held
from .rows import MOVED
from .table_writer import TableWriter
from .tables import read_schema
from .users_own import dropping, listed, users_own

PAGE = 500  # rows that are compared at a time
TOGETHER = 10  # pages in one transaction
GUARD = "_max_moved:"  # how the triggers begin that refuse to write
INDEX = "_max_find"  # the index of texts, and what it is made of
UNGUARDED = ("_max_object", MARK)  # the target's own
UNCOPIED = (*UNGUARDED, kept_files.TABLE)
OF_ROWS = f"owner <> '{kept_files.OWNER}'"  # the rows of _max_migration that are copied
EVENTS = ("INSERT", "UPDATE", "DELETE")
PARTS = {
    part.OWNER: part.MIGRATIONS
    for part in (engine, sync_log, event_log, quarantine, change_log, schedules, inbox, full_text)
} | {"replay": (provenance.REPLAY,)}
CONNECTOR = "connector:"  # how the owner of a connector's own migrations begins
FOREIGN = "it was not written by Max as it is now; correct the row where it is, and move again"
STAYS = "keep it where it is, which holds more, or have its connector leave out what is too large"


class CopiedTable(NamedTuple):
    """A table that is copied: its columns, those of its key, and how many rows it has.

    ``entity`` is the name of the entity of its rows; empty for a table of Max's own.  ``where`` is SQL
    that is true of the rows that are copied.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: int
    entity: str = ""
    where: str = TRUE

    def named(self, row: Sequence[Any]) -> str:
        """A row, for people."""
        values = dict(zip(self.columns, row, strict=True))
        if self.entity:
            return short_path(self.entity, values["_id"])
        return f"{self.name} {', '.join(str(values[name]) for name in self.key)}".strip()


Counted = Callable[[int], None]  # is called with each so many rows that are done


# -- while it moves ----------------------------------------------------------------------------


def check(connection: Connection, target: str) -> Mark | None:
    """The mark of a move to a target that has begun; None when none has.

    SyncRunning while a process is syncing; MoveRefused when it is being moved elsewhere.
    """
    mark = mark_of(connection)
    if mark is None:
        sync_log.refuse_while_syncing(connection, clock=time.time)
    elif mark.target != target:
        raise MoveRefused(
            f"it is being moved to {mark.target} already",
            hint="finish that move, or take it back: max move INSTALLATION --undo",
        )
    return mark


def freeze(connection: Connection, target: str, *, whole: bool = False) -> None:
    """Let nothing be written until ``thaw``; nothing changes when that is so.  Errors as of ``check``.

    ``whole``: the whole project goes there.
    """
    if check(connection, target) is not None:
        return
    sql = connection.dialect.sql
    for table in () if is_catalogued(connection) else catalogue.TABLES:
        connection.execute(sql(table))
    for table in _tables(connection):
        for event in () if table in UNGUARDED else EVENTS:
            name = f"{GUARD}{event.lower()}:{table}"
            body = connection.dialect.refusal(MOVING)
            catalogue.put(
                *(connection, "trigger", name, table),
                connection.dialect.trigger(name, table, event, TRUE, body),
            )
    put_mark(connection, Mark(target, time.time(), whole))


def thaw(connection: Connection) -> None:
    """Let everything be written again; nothing changes when that is so."""
    if mark_of(connection) is not None:
        catalogue.drop(connection, "trigger", begins=GUARD)
        connection.execute(f"DROP TABLE {MARK}")


def _tables(connection: Connection) -> list[str]:
    """The tables of a database, without what the database itself, or its index of texts, is made of."""
    found = [one.name for one in connection.dialect.objects(connection) if one.kind == "table"]
    own = catalogue.tables_of(full_text.MIGRATIONS)
    return [one for one in found if one in own or not one.startswith((INDEX, "sqlite_"))]


# -- what is copied ----------------------------------------------------------------------------


def refuse_too_large(connection: Connection, tables: Sequence[CopiedTable], limits: Limits | None) -> None:
    """MoveRefused names an entity with too many fields for the target, or a row whose id is too long."""
    for table in tables:
        if limits is None or not table.entity:
            continue
        has, holds = f"{table.entity} has", f"and {limits.database} holds up to"
        if (number := len(table.columns)) > limits.columns:
            raise MoveRefused(f"{has} {number:,} columns, {holds} {limits.columns:,}", hint=STAYS)
        sql = f"SELECT _id FROM {quoted(table.name)} WHERE length(_id) > ?"
        for (id,) in connection.execute(sql, (limits.id // WIDEST,)):
            if isinstance(id, str) and not is_held(limits, id):
                has = f"{short_path(table.entity, id)} has an id of"
                raise MoveRefused(f"{has} {len(id.encode()):,} bytes, {holds} {limits.id:,}", hint=STAYS)


def survey(connection: Connection) -> list[CopiedTable]:
    """The tables to copy, sorted by name.

    MoveRefused names what users made, and columns that no one declared; StorageNewer when a newer Max made
    some part.
    """
    has_part(connection, kept_files.OWNER, kept_files.MIGRATIONS)
    versions = _versions(connection)
    kinds = _entities(connection)
    own = {table for table, _ in kinds.values()}
    made = [one for one in users_own(connection) if one.kind != "table" or one.name not in own]
    made = [one for one in made if not one.name.startswith("sqlite_")]
    if made:
        raise MoveRefused(f"another database may not understand {listed(made)}", hint=dropping(made))
    names = _tables_of_parts(versions)
    known = {*names, *own, *UNCOPIED, "_max_migration"}
    unknown = [one for one in _tables(connection) if one not in known and not one.startswith(INDEX)]
    if unknown:
        raise StorageNewer(f"this Max does not know the tables {', '.join(unknown)}", hint="upgrade Max")
    entities = {table: (entity, fields) for entity, (table, fields) in kinds.items()}
    return [_copied(connection, name, *entities.get(name, ("", None))) for name in sorted({*names, *own})]


def _tables_of_parts(versions: Mapping[str, int]) -> set[str]:
    """The tables that the migrations of these parts have made."""
    names = {"_max_migration"} if versions else set()
    for owner, version in versions.items():
        names |= catalogue.tables_of(PARTS.get(owner, ())[:version])
    return {one for one in names if not one.startswith(INDEX)}


def _versions(connection: Connection) -> dict[str, int]:
    """The version of each part that has tables here."""
    if not is_catalogued(connection):
        return {}
    sql = f"SELECT owner, max(version) FROM _max_migration WHERE {OF_ROWS} GROUP BY owner"
    found: dict[str, int] = dict(connection.execute(sql).fetchall())
    for owner in found:
        if owner in PARTS:
            has_part(connection, owner, PARTS[owner])
        elif not owner.startswith(CONNECTOR):
            raise StorageNewer(f"this Max does not know {owner}, which has tables here", hint="upgrade Max")
    return found


def _entities(connection: Connection) -> dict[str, tuple[str, dict[str, str]]]:
    """The table of each entity, hidden ones included, and the kind of each of its fields."""
    schema: Any = read_schema(connection)
    if schema is None:
        return {}
    with decoding("schema"):
        connector, names = schema["connector"], [one["name"] for one in schema["entities"]]
    names += [name for (name,) in connection.execute("SELECT DISTINCT entity FROM _max_hidden")]
    found: dict[str, tuple[str, dict[str, str]]] = {
        name: (f"_{table_name(connector, name)}", {}) for name in names
    }
    for entity, field, kind in connection.execute("SELECT entity, field, kind FROM _max_field"):
        found.setdefault(entity, (f"_{table_name(connector, entity)}", {}))[1][field] = kind
    return {name: one for name, one in found.items() if connection.dialect.columns(connection, one[0])}


def _copied(connection: Connection, name: str, entity: str, fields: Mapping[str, str] | None) -> CopiedTable:
    present = connection.dialect.columns(connection, name)
    columns = {one for one in present if fields is None or _internal(one)}
    if fields is not None and len(present) != len(columns) + len(fields):
        raise MoveRefused(
            f"the table {name} has columns that no field of {entity} is in:"
            f" {', '.join(sorted(present - columns - fields.keys()))}",
            hint="drop them, or bring the data up to date first: max migrate",
        )
    where = OF_ROWS if name == "_max_migration" else TRUE
    rows = connection.execute(f"SELECT count(*) FROM {quoted(name)} WHERE {where}").fetchone()[0]
    key = tuple(connection.dialect.key(connection, name))
    return CopiedTable(name, tuple(sorted({*columns, *(fields or ())})), key, int(rows), entity, where)


def _internal(column: str) -> str:
    """The type of a column that every table of an entity has, as ``ddl`` makes it; empty for a field."""
    if column.startswith("_loaded"):
        return "INTEGER NOT NULL DEFAULT 0"
    if column.startswith("_load"):
        return "INTEGER"
    if column.startswith(MOVED):
        return "REAL NOT NULL"
    return {"_id": "TEXT NOT NULL UNIQUE", "_removed_at": "REAL", "_row": "{row_id}"}.get(column, "")


# -- copying -----------------------------------------------------------------------------------


def prepare(source: Connection, target: Connection, tables: Sequence[CopiedTable]) -> None:
    """Have empty tables in the target, as the source has them; nothing changes when they are there."""
    if is_catalogued(target):
        catalogue.drop(target, "trigger")  # a copy that is done again is no change of a row
    for owner, version in _versions(source).items():
        migrate(target, owner, PARTS.get(owner, ())[:version])
    kinds = dict(_entities(source).values())
    for table in tables:
        present = target.dialect.columns(target, table.name)
        if table.entity and not present:
            lines = ", ".join(
                f"{quoted(one)} {_type(source, target, table.name, one, kinds[table.name])}"
                for one in table.columns
            )
            target.execute(target.dialect.sql(f"CREATE TABLE {{table}} ({lines})", table=table.name))
        for column in set(table.columns) - present if present and not table.entity else ():
            # what an owner has added beside its scripts: a bitmap of the loads
            target.execute(
                f"ALTER TABLE {quoted(table.name)} ADD COLUMN {quoted(column)} INTEGER NOT NULL DEFAULT 0"
            )


def _type(source: Connection, target: Connection, table: str, column: str, kinds: Mapping[str, str]) -> str:
    words = target.dialect.types[Kind(kinds[column])] if column in kinds else _internal(column)
    if column not in kinds and column.startswith(MOVED):
        sql = f"SELECT CAST(({source.dialect.default(source, table, column)}) AS REAL)"
        words += f" DEFAULT {float(source.execute(sql).fetchone()[0])!r}"
    return words


class _Page(NamedTuple):
    """Rows of a table behind the key ``low`` (None: from the first one on); ``last``: none is behind them."""

    low: tuple[Any, ...] | None
    rows: list[tuple[Any, ...]]
    last: bool


def _pages(connection: Connection, table: CopiedTable) -> Iterator[_Page]:
    """The rows of a table in the order of its key; a table without one has few, and is one page."""
    columns, low = ", ".join(map(quoted, table.columns)), None
    if not table.key:
        sql = f"SELECT {columns} FROM {quoted(table.name)} WHERE {table.where}"
        rows = connection.execute(sql).fetchall()
        yield _Page(None, sorted(rows, key=repr), last=True)
        return
    places = [table.columns.index(name) for name in table.key]
    order = ", ".join(map(quoted, table.key))
    while True:
        where = f"{table.where} AND {_behind(table)}" if low is not None else table.where
        sql = f"SELECT {columns} FROM {quoted(table.name)} WHERE {where} ORDER BY {order} LIMIT {PAGE}"
        rows = connection.execute(sql, low or ()).fetchall()
        yield _Page(low, rows, last=len(rows) < PAGE)
        if len(rows) < PAGE:
            return
        low = tuple(rows[-1][place] for place in places)


def _behind(table: CopiedTable, sign: str = ">") -> str:
    names, marks = ", ".join(map(quoted, table.key)), ", ".join("?" for _ in table.key)
    return f"({names}) {sign} ({marks})"


def _place(table: CopiedTable, page: _Page) -> tuple[str, list[Any]]:
    """Where the rows of a page are in the target, as the end of a statement, and its values."""
    parts, values = [table.where], list(page.low or ())
    if page.low is not None:
        parts.append(_behind(table))
    if not page.last:
        parts.append(_behind(table, "<="))
        values += [page.rows[-1][table.columns.index(name)] for name in table.key]
    return f" WHERE {' AND '.join(parts)}", values


def _there(connection: Connection, table: CopiedTable, page: _Page) -> list[tuple[Any, ...]]:
    """What the target has in place of a page: as many rows, and one more if there are any."""
    columns, (where, values) = ", ".join(map(quoted, table.columns)), _place(table, page)
    order = f" ORDER BY {', '.join(map(quoted, table.key))}" if table.key else ""
    sql = f"SELECT {columns} FROM {quoted(table.name)}{where}{order} LIMIT {len(page.rows) + 1}"
    rows = connection.execute(sql, values).fetchall()
    return rows if table.key else sorted(rows, key=repr)


def _same(some: Sequence[Sequence[Any]], others: Sequence[Sequence[Any]]) -> bool:
    """Whether rows are equal in value and type: 1 is neither True nor 1.0."""
    return list(some) == list(others) and all(
        list(map(type, one)) == list(map(type, other)) for one, other in zip(some, others, strict=True)
    )


def copy(source: Connection, target: Database, tables: Sequence[CopiedTable], counted: Counted) -> None:
    """Make the rows of the target those of the source, some pages in a transaction.

    What is equal already is not written.  MoveRefused names a row that the target does not take.
    """
    pages = ((table, page) for table in tables for page in _pages(source, table))
    while some := list(islice(pages, TOGETHER)):
        with target.writer() as connection:
            for table, page in some:
                if not _same(_there(connection, table, page), page.rows):
                    _replace(connection, table, page)
        counted(sum(len(page.rows) for _, page in some))


def _replace(connection: Connection, table: CopiedTable, page: _Page) -> None:
    where, values = _place(table, page)
    connection.execute(f"DELETE FROM {quoted(table.name)}{where}", values)
    marks = ", ".join("?" for _ in table.columns)
    sql = f"INSERT INTO {quoted(table.name)} ({', '.join(map(quoted, table.columns))}) VALUES ({marks})"
    connection.execute("SAVEPOINT move_page")
    try:
        connection.executemany(sql, page.rows)
    except (*_refusals(connection),) as error:
        if isinstance(error, connection.dialect.errors) and connection.dialect.is_fatal(connection, error):
            raise
        connection.execute("ROLLBACK TO move_page")
        for row in page.rows:
            _insert_alone(connection, table, sql, row)
    connection.execute("RELEASE move_page")


def _insert_alone(connection: Connection, table: CopiedTable, sql: str, row: tuple[Any, ...]) -> None:
    try:
        connection.execute(sql, row)
    except (*_refusals(connection),) as error:
        problem = " ".join(str(error).split("\n")[0].split())[:200]
        is_large = isinstance(error, connection.dialect.errors) and connection.dialect.is_too_large(error)
        raise MoveRefused(
            f"{table.named(row)} cannot be stored there: {problem}", hint=STAYS if is_large else FOREIGN
        ) from error


def _refusals(connection: Connection) -> tuple[type[Exception], ...]:
    """How a driver says that it, or its server, does not take a value."""
    return (connection.dialect.errors, ValueError, TypeError, OverflowError)


def complete(source: Connection, target: Database, tables: Sequence[CopiedTable]) -> None:
    """Have what is not copied: the next numbers, views, indexes, triggers, and the index of texts."""
    with target.writer() as connection:
        for table in tables:
            for name in table.key if len(table.key) == 1 else ():
                number = source.dialect.numbered(source, table.name, name)
                connection.dialect.number_after(connection, table.name, name, number)
        if read_schema(connection) is None:
            return
        made = TableWriter.stored(connection)
        create_views(connection, made.mappings)
        build_indexes(connection, made.mappings)
        made.change_log.go_on(connection)
        made.full_text.attach(connection)
    left = 1
    while left:
        with target.writer() as connection:
            left = made.full_text.index_page(connection)


# -- proving -----------------------------------------------------------------------------------


def verify(source: Connection, target: Connection, tables: Sequence[CopiedTable], counted: Counted) -> int:
    """Compare every row of both, in the order of keys; how many there are.

    MoveRefused names the first one that is not equal in value and type.
    """
    number = 0
    for table in tables:
        for page in _pages(source, table):
            there = _there(target, table, page)
            if not _same(there, page.rows):
                raise _difference(table, page.rows, there)
            number += len(page.rows)
            counted(len(page.rows))
    return number


def _difference(
    table: CopiedTable, rows: Sequence[tuple[Any, ...]], there: Sequence[tuple[Any, ...]]
) -> MaxError:
    """What is wrong with the first row that differs; no value is repeated."""
    problem = f"{table.name} has more rows there"
    for number, row in enumerate(rows):
        if number >= len(there) or not _same([there[number]], [row]):
            other = there[number] if number < len(there) else None
            problem = f"{table.named(row)} did not arrive"
            for name, value, came in zip(table.columns, row, other or (), strict=False):
                if not _same([[value]], [[came]]):
                    kinds = f"{type(value).__name__}, and arrived as {type(came).__name__}"
                    problem = f"{table.named(row)} did not arrive as it is: {name} is {kinds}"
                    break
            break
    return MoveRefused(problem, hint="nothing was handed over; correct the row where it is, and move again")
