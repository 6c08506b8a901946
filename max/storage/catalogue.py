"""Catalogue: which parts of Max have tables in a database, and which views, indexes and triggers.

Two tables answer without asking the database's own schema: ``_max_migration`` has the versions
of each part's tables, ``_max_object`` everything else that Max has created.  A name with a colon
can be made by no entity, so what users create is never mistaken for ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import DAMAGED, StorageCorrupt, StorageError, StorageNewer
from ..model.soundness import few
from .database import Connection, quoted

TABLES = (
    """
    CREATE TABLE IF NOT EXISTS _max_migration (
        owner   TEXT NOT NULL,
        version INTEGER NOT NULL,
        digest  TEXT NOT NULL,
        PRIMARY KEY (owner, version)
    ) {by_key}
    """,
    """
    CREATE TABLE IF NOT EXISTS _max_object (
        name       TEXT PRIMARY KEY,
        kind       TEXT NOT NULL,
        place      TEXT NOT NULL,
        definition TEXT NOT NULL
    ) {by_key}
    """,
)
CREATED, DROPPED, FILLED = r"CREATE TABLE (\w+)", r"DROP TABLE (\w+)", r"INSERT INTO (\w+) VALUES"
OURS = r"_max_\w+:"  # begins the name of an index or a trigger
INDEX = r"\s*CREATE (?:UNIQUE )?INDEX (\w+)"
DROPPED_INDEX = r"DROP INDEX IF EXISTS (\w+)"  # by a migration, which has made another in its place
PUT = """
    INSERT INTO _max_object (name, kind, place, definition) VALUES (?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET place = excluded.place, definition = excluded.definition
"""


# -- versions ----------------------------------------------------------------------------------


def migrate(connection: Connection, owner: str, migrations: Sequence[str]) -> None:
    """Bring a part's tables to the newest version, inside the caller's transaction.

    Version n is the nth of ``migrations``, a template of statements ended by ``;``.  Each runs
    once.  StorageError when one was edited after it ran, or when the database has a version
    that this code does not know; nothing is changed then.
    """
    import hashlib  # slow, and reading does without

    if not is_catalogued(connection):
        for table in TABLES:
            connection.execute(connection.dialect.sql(table))
    has_part(connection, owner, migrations)
    rows = connection.execute("SELECT version, digest FROM _max_migration WHERE owner = ?", (owner,))
    done = dict(rows.fetchall())
    for version, script in enumerate(migrations, 1):
        same = (script, script.replace('"', ""))  # a name in quotes is the same name
        digest, unquoted = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in same)
        if done.get(version, digest) not in (digest, unquoted):
            raise StorageError(
                f"migration {owner} {version} was changed after it ran",
                hint="a Max that was never released made these tables: go on with that one, or move the file"
                " away (on a server: rename the schema), and the next sync fetches everything again",
            )
        statements = _statements(connection, script)
        if version in done:
            for statement in _lost_of(connection, statements, migrations).values():
                connection.execute(statement)
        else:
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO _max_migration VALUES (?, ?, ?)", (owner, version, digest))


def _statements(connection: Connection, script: str) -> list[str]:
    return list(filter(str.strip, connection.dialect.sql(script).split(";")))


def _lost_of(connection: Connection, statements: Sequence[str], migrations: Sequence[str]) -> dict[str, str]:
    """The statements of the indexes that a user has dropped, by name; writing relies on some of them."""
    indexes = {match[1]: one for one in statements if (match := re.match(INDEX, one))}
    replaced = re.findall(DROPPED_INDEX, ";".join(migrations))
    present = {*connection.dialect.names(connection), *replaced} if indexes else set()
    return {name: one for name, one in indexes.items() if name not in present}


def lost_indexes(connection: Connection, migrations: Sequence[str]) -> list[str]:
    """The indexes of these that a user has dropped; the next ``migrate`` makes them again."""
    scripts = [_statements(connection, one) for one in migrations]
    return [name for some in scripts for name in _lost_of(connection, some, migrations)]


def tables_of(migrations: Sequence[str]) -> set[str]:
    """The tables that are there once these migrations have run."""
    made: set[str] = set()
    for script in migrations:
        made |= {*re.findall(CREATED, script)}
        made -= {*re.findall(DROPPED, script)}
    return made


def refuse_gone(connection: Connection, tables: Iterable[str]) -> None:
    """StorageCorrupt when one of these tables is not there any more."""
    present, stored_name = connection.dialect.names(connection), connection.dialect.stored_name
    if gone := sorted(name for name in tables if stored_name(name) not in present):
        are = f"table {gone[0]} is" if len(gone) == 1 else f"tables {few(gone)} are"
        raise StorageCorrupt(f"the {are} not there any more", hint=DAMAGED)


def check_recorded(connection: Connection, views: Iterable[str]) -> None:
    """StorageCorrupt when one of these views, or an index or a trigger of ours, is not recorded."""
    stored_name = connection.dialect.stored_name
    present = connection.dialect.names(connection) - {*map(stored_name, names(connection))}
    ours = present & {*map(stored_name, views)} | {name for name in present if re.match(OURS, name)}
    if ours:
        raise StorageCorrupt(f"the table _max_object lacks {few(sorted(ours))}", hint=DAMAGED)


def check_filled(connection: Connection, migrations: Sequence[str]) -> None:
    """StorageCorrupt when a row that these migrations have put into a table is not there any more."""
    for table in re.findall(FILLED, ";".join(migrations)):
        if connection.execute(f"SELECT 1 FROM {quoted(table)} LIMIT 1").fetchone() is None:
            raise lost_row(table)


def only_row(connection: Connection, sql: str, table: str) -> tuple[Any, ...]:
    """The row of a table that always has one; StorageCorrupt without it."""
    found: tuple[Any, ...] | None = connection.execute(sql).fetchone()
    if found is None:
        raise lost_row(table)
    return found


def lost_row(table: str) -> StorageCorrupt:
    """A table that always has a row has none."""
    return StorageCorrupt(f"the table {table} has lost its row", hint=DAMAGED)


def versions(connection: Connection) -> dict[str, int]:
    """The version of each part's tables."""
    rows = connection.execute("SELECT owner, max(version) FROM _max_migration GROUP BY owner")
    return dict(rows.fetchall())


def has_part(connection: Connection, owner: str, migrations: Sequence[str]) -> bool:
    """Whether a part of Max has created its tables here; StorageNewer when a newer Max did."""
    if not is_catalogued(connection):
        return False
    sql = "SELECT version FROM _max_migration WHERE owner = ? ORDER BY version"
    versions = [version for (version,) in connection.execute(sql, (owner,)).fetchall()]
    _check_part(connection, owner, versions, migrations)
    return bool(versions)


def check_versions(connection: Connection, parts: Mapping[str, Sequence[str]]) -> None:
    """``has_part`` for several parts, by their owners, in one question."""
    if not is_catalogued(connection):
        return
    found: dict[str, list[object]] = {owner: [] for owner in parts}
    for owner, version in connection.execute("SELECT owner, version FROM _max_migration ORDER BY version"):
        found.setdefault(owner, []).append(version)
    for owner, migrations in parts.items():
        _check_part(connection, owner, found[owner], migrations)


def _check_part(
    connection: Connection, owner: str, versions: Sequence[object], migrations: Sequence[str]
) -> None:
    refuse_newer(owner, versions[-1] if versions else 0, len(migrations))
    check_record(owner, versions)
    first = None if versions else re.search(CREATED, migrations[0])
    if first is not None and connection.dialect.columns(connection, first[1]):
        raise StorageCorrupt(f"the tables of {owner} are there, without their version", hint=DAMAGED)


def is_catalogued(connection: Connection) -> bool:
    """Whether Max has ever created tables here, as this version lays them out."""
    return bool(connection.dialect.columns(connection, "_max_object"))


def is_older(connection: Connection) -> bool:
    """Whether the tables are of a Max before 0.1.0, which had no catalogue."""
    return bool(connection.dialect.columns(connection, "_max_migration")) and not is_catalogued(connection)


def check_record(owner: str, versions: Sequence[object]) -> None:
    """StorageCorrupt unless the versions that ran are recorded one after the other."""
    if [*versions] != [*range(1, len(versions) + 1)]:
        raise StorageCorrupt(f"the versions of {owner} are recorded as {versions}", hint=DAMAGED)


def refuse_newer(owner: str, version: object, known: int) -> None:
    """StorageNewer when a part's tables are of a version that this code does not know."""
    if isinstance(version, int) and version > known:
        raise StorageNewer(
            f"the database is newer than this Max ({owner} {version}, known {known})",
            hint="upgrade Max, or restore a backup from before the upgrade",
        )


# -- views, indexes and triggers ---------------------------------------------------------------


def put(connection: Connection, kind: str, name: str, place: str, definition: str) -> bool:
    """Create a view, an index or a trigger, or replace it when it was defined otherwise.

    ``place`` is the table that it belongs to.  True when something was created.
    """
    sql = "SELECT definition FROM _max_object WHERE name = ?"
    found = connection.execute(sql, (name,)).fetchone()
    if found is not None and found[0] == definition:
        return False
    if found is not None:
        _drop(connection, kind, name, place)
    create(connection, name, definition)
    connection.execute(PUT, (name, kind, place, definition))
    return True


def create(connection: Connection, name: str, definition: str) -> None:
    """Create a view, an index or a trigger; StorageError when something of the user is in its way."""
    try:
        connection.execute(definition)
    except connection.dialect.errors as error:
        if connection.dialect.is_fatal(connection, error):
            raise
        raise StorageError(
            f"{name} cannot be created: {error}",
            hint="nothing was changed; what you created in this database is in the way: rename or drop it",
        ) from error


def lost(connection: Connection) -> list[tuple[str, str]]:
    """Kind and name of the views, indexes and triggers of ours that a user dropped."""
    present, stored_name = connection.dialect.names(connection), connection.dialect.stored_name
    made = connection.execute("SELECT kind, name FROM _max_object ORDER BY name").fetchall()
    return [(kind, name) for kind, name in made if stored_name(name) not in present]


def forget_lost(connection: Connection) -> set[str]:
    """Forget the views, indexes and triggers of ours that a user dropped; the kinds of those."""
    found = lost(connection)
    connection.executemany("DELETE FROM _max_object WHERE name = ?", [(name,) for _, name in found])
    return {kind for kind, _ in found}


def names(connection: Connection) -> set[str]:
    """What Max has created: views, indexes and triggers."""
    return {name for (name,) in connection.execute("SELECT name FROM _max_object")}


def places(connection: Connection, kind: str) -> set[str]:
    """The tables that have views, indexes or triggers of ours."""
    rows = connection.execute("SELECT DISTINCT place FROM _max_object WHERE kind = ?", (kind,))
    return {place for (place,) in rows}


def drop(connection: Connection, kind: str, place: str = "", *, begins: str = "") -> None:
    """Drop all views, indexes or triggers of ours, or those of one table or whose names begin so."""
    sql = "SELECT name, place FROM _max_object WHERE kind = :kind AND :place IN ('', place)"
    for name, table in connection.execute(sql, {"kind": kind, "place": place}).fetchall():
        if not name.startswith(begins):
            continue
        _drop(connection, kind, name, table)
        connection.execute("DELETE FROM _max_object WHERE name = ?", (name,))


def _drop(connection: Connection, kind: str, name: str, place: str) -> None:
    if kind == "trigger":
        connection.execute(connection.dialect.drop_trigger(name, place))
    else:
        connection.execute(f"DROP {kind.upper()} IF EXISTS {quoted(name)}")
