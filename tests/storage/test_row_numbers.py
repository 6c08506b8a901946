"""Numbers of rows, listings and loads: none is ever given twice, so what knows one never means another."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from max.model.delivery import Delivery, ListingPage
from max.model.entities import Entity
from max.model.schema import Schema
from max.storage.sqlite import MEMORY, SqliteConnection, transaction
from max.storage.table_writer import TableWriter
from tests.sample import writer
from tests.versions import made


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    with closing(sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)) as opened:
        yield opened


def tables_of(connection: SqliteConnection, **lists: Any) -> TableWriter:
    """The tables of things, and of a shelf that may list them."""
    shelf = made("Shelf", {}, **lists)
    tables = writer(Schema([shelf, made("Thing", {"name": "str"})], roots=[shelf]))
    with transaction(connection):
        tables.apply(connection)
    return tables


def store(connection: SqliteConnection, tables: TableWriter, *ids: str, at: float, **more: Any) -> None:
    """Store things with names."""
    thing: Any = tables.schema.entity("Thing")
    with transaction(connection):
        tables.write(connection, Delivery([thing(id, name=f"name of {id}") for id in ids], at, **more))


def remove_and_purge(connection: SqliteConnection, tables: TableWriter, *refs: Any, at: float) -> None:
    """The source says that some rows are gone, and their retention is over."""
    with transaction(connection):
        tables.write(connection, Delivery([], at, removed=refs))
    for _ in range(100):
        with transaction(connection):
            if not tables.removals.purge(connection, at + 1.0):
                return
    raise AssertionError("purging does not end")


def shelf_and_thing(tables: TableWriter) -> tuple[Any, Any]:
    return tables.schema.entity("Shelf"), tables.schema.entity("Thing")


def test_the_number_of_a_purged_row_is_not_given_again_and_its_values_are_gone(
    connection: SqliteConnection,
) -> None:
    tables = tables_of(connection)
    _, thing = shelf_and_thing(tables)
    store(connection, tables, "1", "2", "3", at=5.0)
    remove_and_purge(connection, tables, thing.ref("2"), thing.ref("3"), at=6.0)
    assert connection.execute("SELECT _id, name, _row FROM _thing").fetchall() == [
        ("1", "name of 1", 1),
        ("3", None, 3),
    ]
    store(connection, tables, "4", at=7.0)
    assert connection.execute("SELECT _row FROM _thing WHERE _id = '4'").fetchall() == [(4,)]
    remove_and_purge(connection, tables, at=8.0)
    assert connection.execute("SELECT _id FROM _thing").fetchall() == [("1",), ("4",)]


def test_a_purged_row_that_comes_again_is_new(connection: SqliteConnection) -> None:
    tables = tables_of(connection)
    _, thing = shelf_and_thing(tables)
    store(connection, tables, "1", at=5.0)
    remove_and_purge(connection, tables, thing.ref("1"), at=6.0)
    store(connection, tables, "1", at=7.0)
    assert tables.load(connection, thing.ref("1")) == thing("1", name="name of 1")
    assert tables.freshness.synced_at(connection, thing.ref("1"), ["name"]) == [7.0]


def test_a_new_row_is_no_member_where_a_purged_one_was(connection: SqliteConnection) -> None:
    listing: dict[str, Any] = {"things": ("Thing", None)}
    tables = tables_of(connection, **listing)
    shelf, _ = shelf_and_thing(tables)
    page = ListingPage(shelf.ref("a"), shelf.things, 0, True, 5.0)
    store(connection, tables, "1", "2", at=5.0, listing=page)
    tables = tables_of(connection)  # the collection is hidden, and keeps its members
    remove_and_purge(connection, tables, tables.schema.entity("Thing").ref("2"), at=6.0)
    store(connection, tables, "3", at=7.0)
    tables = tables_of(connection, **listing)
    shelf, _ = shelf_and_thing(tables)
    members: list[Entity] = list(tables.collection(connection, shelf.ref("a"), shelf.things).items)
    assert [one.id for one in members] == ["1"]


def test_the_numbers_of_a_listing_and_of_its_loads_are_not_given_again(connection: SqliteConnection) -> None:
    tables = tables_of(connection, things=("Thing", None))
    shelf, _ = shelf_and_thing(tables)
    given = []
    for at, parent in ((5.0, "a"), (7.0, "b")):
        page = ListingPage(shelf.ref(parent), shelf.things, 0, True, at)
        store(connection, tables, parent, at=at, listing=page)
        given += connection.execute("SELECT id, (SELECT max(id) FROM _max_load) FROM _max_listing").fetchall()
        connection.execute("DELETE FROM _max_load")
        remove_and_purge(connection, tables, shelf.ref(parent), at=at + 1.0)
    assert given == [(1, 1), (2, 2)]
