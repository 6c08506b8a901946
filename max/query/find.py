"""Finding rows by their words, in one installation or in several; and what keeps their index right.

Reader.find and runtime.find look through one installation, Project.find and ``max find`` through
several, whose answers ``merged`` puts into one order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import UnknownName, UsageError
from ..model.text_search import LIMIT, Found, TextQuery, merged
from ..storage import full_text
from ..storage.tables import Tables

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.entities import Entity
    from ..storage.database import Connection, Database
    from .reader import Reader

Entities = Sequence["str | type[Entity]"]


def find_in(
    connection: Connection,
    tables: Tables,
    installation: str,
    text: str,
    entities: Entities = (),
    *,
    limit: int = LIMIT,
    raw: bool = False,
) -> Found:
    """The rows of one installation in whose searchable fields all words of a text occur, best first.

    UsageError when there is no word in the text, when a raw query cannot be read, or when an entity
    has no searchable field.
    """
    query = TextQuery.parse(text, raw=raw)
    named = [one if isinstance(one, str) else one.__name__ for one in entities]
    kinds = [tables.schema.entity(name) for name in named or tables.schema.entities]
    names = [kind.__name__ for kind in kinds if full_text.searchable(kind)]
    if named and len(names) < len(kinds):
        lacking = next(kind.__name__ for kind in kinds if kind.__name__ not in names)
        raise UsageError(f"{lacking} has no searchable field", hint=f"see: max schema {installation}")
    return full_text.find(connection, tables.mappings, query, names, installation, limit)


def find(
    readers: Sequence[Reader],
    text: str,
    entities: Sequence[str] = (),
    *,
    limit: int = LIMIT,
    raw: bool = False,
) -> Found:
    """The rows of several installations; each is asked for the entities that it has.

    UnknownName for an entity that none of them has.
    """
    for name in entities:
        if readers and not any(_known(reader, [name]) for reader in readers):
            raise UnknownName("entity", name, sorted({one for r in readers for one in r.schema.entities}))
    answers: dict[str, Found] = {}
    for reader in readers:
        chosen = _known(reader, entities)
        if chosen or not entities:
            answers[str(reader.info)] = reader.find(text, chosen, limit=limit, raw=raw)
    if not answers:
        TextQuery.parse(text, raw=raw)  # a text without words is a mistake wherever nothing is stored
    return merged(answers, limit)


def _known(reader: Reader, names: Sequence[str]) -> list[str]:
    """Those of the names that an installation has an entity for."""
    found = []
    for name in names:
        with suppress(UnknownName):
            found.append(reader.entity(name).__name__)
    return found


# -- the index ---------------------------------------------------------------------------------


def check_index(database: Database) -> list[str]:
    """In what an index differs from the rows, in words; empty when it is sound.  Nothing is changed."""
    with database.writer() as connection:  # FTS5 checks its indexes for writers alone
        return full_text.problems(connection, Tables.stored(connection).mappings)


def rebuild_index(
    database: Database, info: InstallationInfo, report: Callable[[int], None] = lambda left: None
) -> int:
    """Empty an index and fill it from the rows; how many rows were indexed.

    ``report`` is called with how many are left.  A crash leaves the rest to the next sync.  SyncRunning
    while a process is syncing.
    """
    import time

    from ..storage import sync_log
    from ..storage.table_writer import TableWriter
    from ..storage.tables import refuse_foreign

    with database.writer() as connection:
        sync_log.refuse_while_syncing(connection, clock=time.time)
        tables = TableWriter.stored(connection)
        refuse_foreign(tables.schema.connector, info.connector)
        tables.full_text.rebuild(connection)
        total = left = full_text.unindexed(connection, tables.mappings)
    while left:
        report(left)
        with database.writer() as connection:
            left = tables.full_text.index_page(connection)
    return total
