"""Whether a database is sound: it can be read, is whole, of a version that is known, and has all of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ..errors import DAMAGED, MaxError
from ..model.soundness import Finding, failed, few, problem, warning
from ..model.values import file_size
from . import audit_log, catalogue
from .catalogue import has_part
from .database import NONSENSE, Connection, Database
from .sqlite import CHECKPOINT
from .sqlite import library as library
from .table_writer import check_parts, parts
from .tables import check_connector

# A sync moves the log into the file whenever it holds CHECKPOINT bytes: several times as much as that, and
# as the data, is there only where a program reads on and on.
MUCH = 4


def database_findings(database: Database, connector: str, *, deep: bool) -> Iterator[Finding]:
    """What is found in the database of an installation; ``deep`` takes longer, and compares more."""
    if not database.is_there():
        yield Finding("data", "nothing is stored yet; the first sync makes its database")
        return
    integrity, version = partial(_integrity, deep=deep), partial(_version, connector=connector)
    with database.reader() as connection:
        yield _size(database)
        yield from _found(database, connection, integrity=integrity, version=version, objects=_objects)


def audit_findings(database: Database) -> Iterator[Finding]:
    """What is found in the database of a project's audit, without which nothing can be changed or synced."""
    if database.is_there():
        with database.reader() as connection:
            yield from _found(database, connection, audit=_audit)


def _found(
    database: Database, connection: Connection, **checks: Callable[[Connection], Finding | None]
) -> Iterator[Finding]:
    """What some checks find; nothing more is looked at after an error of the database."""
    for name, check in checks.items():
        try:
            found = check(connection)
        except MaxError as error:
            error.locate(database.label)
            found = failed(name, error)
        except (*NONSENSE, connection.dialect.errors) as error:
            yield failed(name, connection.dialect.error(database.label, error))
            return
        if found is not None:
            yield found


def _audit(connection: Connection) -> Finding:
    has_part(connection, audit_log.OWNER, audit_log.MIGRATIONS)
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


def _objects(connection: Connection) -> Finding | None:
    if not catalogue.is_catalogued(connection):
        return None
    lost, done = [" ".join(one) for one in catalogue.lost(connection)], catalogue.versions(connection)
    for owner, known in parts().items():
        lost += [f"index {name}" for name in catalogue.lost_indexes(connection, known[: done.get(owner, 0)])]
    if not lost:
        return Finding("objects", "all indexes, views and triggers that Max made are there")
    hint = "the next sync makes them again; until then answers may be slow, or lack what has changed"
    return warning("objects", f"gone: {few(lost)}", hint)
