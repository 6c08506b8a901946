"""Whether a database is sound: it can be read, is whole, of a version that is known, and has all of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..errors import DAMAGED, MaxError
from ..model.soundness import Finding, failed, few, problem, warning
from ..model.values import file_size
from . import audit_log, catalogue
from .catalogue import has_part
from .database import NONSENSE, Connection, Database, decoding
from .move_mark import mark_of
from .sqlite import CHECKPOINT
from .sqlite import library as library
from .table_writer import check_made, check_parts, parts
from .tables import check_connector

if TYPE_CHECKING:
    from .schema_diff import Shape

# A sync moves the log into the file whenever it holds CHECKPOINT bytes: several times as much as that, and
# as the data, is there only where a program reads on and on.
MUCH = 4


def database_findings(database: Database, connector: str, *, deep: bool) -> Iterator[Finding]:
    """What is found in the database of an installation; ``deep`` takes longer, and compares more."""
    if not database.is_there():
        yield Finding("data", "nothing is stored yet; the first sync makes its database")
        return
    integrity = partial(_integrity, deep=deep)
    version, objects = partial(_version, connector=connector), partial(_objects, connector=connector)
    with database.reader() as connection:
        yield _size(database)
        yield from _found(database, connection, integrity=integrity, version=version, objects=objects)


def audit_findings(database: Database) -> Iterator[Finding]:
    """What is found in the database of a project's audit, without which nothing can be changed or synced."""
    if database.is_there():
        with database.reader() as connection:
            yield from _found(database, connection, audit=_audit)


def _found(
    database: Database, connection: Connection, **checks: Callable[[Connection], Finding | None]
) -> Iterator[Finding]:
    """What some checks find; nothing more is looked at after an error."""
    for name, check in checks.items():
        try:
            found = check(connection)
        except MaxError as error:
            error.locate(database.label)
            yield failed(name, error)
            return
        except (*NONSENSE, connection.dialect.errors) as error:
            yield failed(name, connection.dialect.error(database.label, error))
            return
        if found is not None:
            yield found


def _audit(connection: Connection) -> Finding:
    if has_part(connection, audit_log.OWNER, audit_log.MIGRATIONS):
        catalogue.refuse_gone(connection, catalogue.tables_of(audit_log.MIGRATIONS))
        catalogue.check_filled(connection, audit_log.MIGRATIONS)
    if found := connection.dialect.damage(connection, deep=False):
        return problem("audit", f"the database of the audit is damaged: {few(found)}", DAMAGED)
    return Finding("audit", "its database is sound: max audit --verify reads each row of it")


def _size(database: Database) -> Finding:
    size, log = database.size(), database.log_size()
    fact = f"{database.label} has {file_size(size)}"
    if log > MUCH * max(size, CHECKPOINT):
        fact += f", and its log {file_size(log)}: something keeps the log from being moved into it"
        hint = "end the program that reads on and on, such as a notebook or a backup, and sync: that moves it"
        return warning("data", fact, hint)
    return Finding("data", f"{fact}, and its log {file_size(log)}" if log else fact)


def _integrity(connection: Connection, *, deep: bool) -> Finding | None:
    found = connection.dialect.damage(connection, deep=deep)
    if found is None:
        return None
    if found:
        return problem("integrity", f"the database is damaged: {few(found)}", DAMAGED)
    also = ", and the indexes have what the tables have" if deep else ""
    return Finding("integrity", f"every page is sound{also}")


def _version(connection: Connection, *, connector: str) -> Finding | None:
    if not catalogue.is_catalogued(connection):
        return None  # nothing is stored yet
    check_connector(connection, connector)
    check_parts(connection)
    done = catalogue.versions(connection)
    if behind := [owner for owner, known in parts().items() if 0 < done.get(owner, 0) < len(known)]:
        fact = f"an older Max made its tables ({', '.join(behind)}); the next sync upgrades them"
        return Finding("version", fact)
    return Finding("version", "its tables are of this version of Max")


def check_whole(connection: Connection, connector: str) -> Shape | None:
    """What is stored; StorageCorrupt when a table of Max's, or a row that is always there, is gone."""
    from .schema_diff import check_shape, read_shape  # slow, and seldom needed

    if not catalogue.is_catalogued(connection):
        return None
    check_made(connection)
    with decoding("schema"):
        shape = read_shape(connection, connector)
    if shape is not None:
        check_shape(connection, shape, connector)
    return shape


def _objects(connection: Connection, *, connector: str) -> Finding | None:
    from .schema_diff import check_columns, columns_of

    if not catalogue.is_catalogued(connection):
        return None
    mark_of(connection)  # which says when its row is gone
    if shape := check_whole(connection, connector):
        check_columns(shape, connector, columns_of(connection, shape, connector))
    lost, done = [" ".join(one) for one in catalogue.lost(connection)], catalogue.versions(connection)
    for owner, known in parts().items():
        lost += [f"index {name}" for name in catalogue.lost_indexes(connection, known[: done.get(owner, 0)])]
    if not lost:
        return Finding("objects", "all tables, indexes, views and triggers that Max made are there")
    hint = "the next sync makes them again; until then answers may be slow, or lack what has changed"
    return warning("objects", f"gone: {few(lost)}", hint)
