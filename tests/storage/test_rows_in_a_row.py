"""Rows that lie together in their table: reading them together gives what a search for each gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from max.model.delivery import Delivery, ListingPage
from max.model.schema import Schema
from max.storage import rows, table_writer
from max.storage.sqlite import MEMORY, SqliteConnection, transaction
from max.storage.table_writer import TableWriter
from tests.sample import writer
from tests.versions import made

SHELF = made("Shelf", {}, things=("Thing", None))
THING = made("Thing", {"name": "str", "size": "float | None"})
SCHEMA = Schema([SHELF, THING], roots=[SHELF])
NEVER = 10**9  # rows: more than any page has


class Brought(NamedTuple):
    """A page: the ids that it lists, those whose size has changed or did not come, and what is gone.

    ``delta``: it lists only what changed.
    """

    ids: list[int]
    changed: frozenset[int]
    nameless: frozenset[int]
    gone: frozenset[int]
    shelf: int
    delta: bool = False


KNOWN = 12  # things that are stored before, in order
FIRST = Brought(list(range(KNOWN)), frozenset(), frozenset(), frozenset(), 0)


@st.composite
def pages(draw: st.DrawFn) -> Brought:
    """Mostly ids in order, as sources list them; one has another's place, or they are in any order."""
    first = draw(st.integers(0, 8))
    ids = list(range(first, first + draw(st.integers(1, 8))))
    if draw(st.booleans()):
        ids[draw(st.integers(0, len(ids) - 1))] = draw(st.integers(0, 2 * KNOWN))
        ids = [*dict.fromkeys(ids)]
    if draw(st.integers(0, 3)) == 0:
        ids = draw(st.permutations(ids))
    some = st.frozensets(st.integers(0, KNOWN), max_size=2)
    return Brought(ids, draw(some), draw(some), draw(some), draw(st.integers(0, 1)), draw(st.booleans()))


@contextmanager
def lying_together_from(many: int) -> Iterator[None]:
    """Rows are read together when a page has so many."""
    with ExitStack() as patches:
        for module in (rows, table_writer):
            patches.enter_context(patch.object(module, "MANY", many))
        patches.enter_context(patch.object(table_writer, "PROBED", 2))
        yield


def store(connection: SqliteConnection, tables: TableWriter, number: int, page: Brought) -> None:
    """Store a page as the whole of a listing."""
    shelf, at = SHELF.ref(f"s{page.shelf}"), 10.0 + number
    things = []
    for id in page.ids:
        values: dict[str, Any] = {"size": number * 0.5 if id in page.changed else None}
        values |= {} if id in page.nameless else {"name": f"name of {id}"}
        things.append(THING(f"t{id}", **values))
    gone = [THING.ref(f"t{id}") for id in page.gone - {*page.ids}]
    listing = ListingPage(shelf, SHELF.things, 0, True, at, delta=page.delta)
    with transaction(connection):
        tables.write(connection, Delivery(things, at, listing, gone))


def everything(pages: Sequence[Brought], many: int) -> dict[str, list[Any]]:
    """Every row of every table after these listings."""
    opened = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)
    with closing(opened) as connection, lying_together_from(many):
        tables = writer(SCHEMA)
        with transaction(connection):
            tables.apply(connection)
            tables.write(connection, Delivery([SHELF("s0"), SHELF("s1")], 1.0))
        for number, page in enumerate([FIRST, *pages]):
            store(connection, tables, number, page)
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [name for (name,) in connection.execute(sql).fetchall()]
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names}


@given(st.lists(pages(), min_size=1, max_size=6))
def test_rows_that_are_read_together_are_stored_as_rows_that_are_looked_up_one_by_one(
    listed: list[Brought],
) -> None:
    assert everything(listed, 2) == everything(listed, NEVER)


def test_an_unchanged_listing_writes_no_row_and_a_changed_one_only_what_changed() -> None:
    opened = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)
    with closing(opened) as connection:
        tables = writer(SCHEMA)
        with transaction(connection):
            tables.apply(connection)
            tables.write(connection, Delivery([SHELF("s0")], 1.0))
        page = Brought(list(range(50)), frozenset(), frozenset(), frozenset(), 0)
        store(connection, tables, 0, page)
        written: list[str] = []
        connection.set_trace_callback(written.append)
        store(connection, tables, 1, page)
        assert not [sql for sql in written if sql.startswith('INSERT INTO "_thing"')]
        store(connection, tables, 2, page._replace(changed=frozenset([7])))
        (upsert,) = [sql for sql in written if sql.startswith('INSERT INTO "_thing"')]
        assert "'t7'" in upsert
        assert "'t8'" not in upsert
        sizes = connection.execute('SELECT _id FROM "_thing" WHERE size IS NOT NULL').fetchall()
        assert sizes == [("t7",)]
