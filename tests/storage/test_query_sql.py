"""Queries: a page begins where its cursor says, found in an index when the order has one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from typing import Any

import pytest

from max import Query
from max.connecting import Entity, Field, Many, Ref, Schema
from max.errors import UsageError
from max.model.delivery import Delivery
from max.model.entities import FieldOf
from max.model.query import Order
from max.storage.query_sql import JOINS, count, own_fields, selects, write_cursor
from max.storage.sqlite import SqliteConnection
from tests.sample import writer
from tests.versions import made


class Shelf(Entity):
    """Its books are found by their own ref, so that the ref has an index."""

    books: Many[Book] = Many(by=lambda: Book.shelf)


class Book(Entity):
    """It is on a shelf, or on none."""

    shelf: Field[Ref[Shelf] | None] = Field()


TABLES = writer(Schema([Shelf, Book]))


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    """Tables with the indexes that a sync leaves."""
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        TABLES.apply(connection)
        TABLES.build_indexes(connection)
        yield connection


ORDERS = [Order(Book.shelf.path, *ways) for ways in product((False, True), repeat=2)]


def plans(connection: SqliteConnection, query: Query[Book]) -> list[str]:
    """How SQLite would find a page, a line for each range."""
    statements = selects(TABLES._mappings, query, 10, own_fields(query))
    return [
        connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchone()[-1] for sql, values in statements
    ]


def behind(order: Order, key: str | None) -> Query[Book]:
    """A page behind a book on this shelf."""
    query = Query(Book, order=(order,))
    return query.after(write_cursor(query, [key, "a book"]))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_first_page_is_read_in_the_order_of_the_index(connection: SqliteConnection, order: Order) -> None:
    (found,) = plans(connection, Query(Book, order=(order,)))

    assert "SCAN t USING INDEX" in found
    assert "shelf" in found


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_page_behind_a_value_begins_in_the_index(connection: SqliteConnection, order: Order) -> None:
    found = plans(connection, behind(order, "a shelf"))[0]

    assert "SEARCH t USING INDEX" in found
    assert "shelf" in found


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_page_behind_an_empty_value_begins_in_the_index(connection: SqliteConnection, order: Order) -> None:
    assert all("SEARCH t USING INDEX" in found for found in plans(connection, behind(order, None)))


def test_empty_and_filled_values_are_two_ranges_only_where_the_order_goes_from_one_to_the_other(
    connection: SqliteConnection,
) -> None:
    for order in ORDERS:
        after = {key: len(plans(connection, behind(order, key))) for key in (None, "a shelf")}

        assert after == ({None: 2, "a shelf": 1} if order.nulls_first else {None: 1, "a shelf": 2})


def test_all_rows_are_counted_by_indexes_and_no_row_is_read(connection: SqliteConnection) -> None:
    sql, values = count(TABLES._mappings, Query(Book))
    plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    looked_at = [line for line in plan if line.startswith(("SCAN", "SEARCH")) and "CONSTANT" not in line]
    assert looked_at
    assert all("COVERING INDEX" in line for line in looked_at)


def test_removed_rows_are_not_counted() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        tables = writer(Schema([Shelf, Book]))
        tables.apply(connection)
        tables.write(connection, Delivery([Book("1"), Book("2"), Book("3")], 1.0))
        tables.write(connection, Delivery((), 2.0, removed=[Book.ref("2")]))
        assert tables.count(connection, Query(Book)) == 2


# Columns of our tables, aliases, and words that SQL resolves as names when a column has them.
NAMES = "true false t l x k f n p row field entity parent listing child value key a b excluded select group"


def test_a_field_may_have_the_name_of_any_column_alias_or_word_of_sql() -> None:
    change = made("Change", dict.fromkeys(NAMES.split(), "str | None"))
    fields: list[FieldOf[Any, Any]] = [FieldOf(change, name) for name in NAMES.split()]
    rows = [change(id, **{field.name: f"{field.name} {id}" for field in fields}) for id in "12"]
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        tables = writer(Schema([change], connector="order"))
        tables.apply(connection)
        tables.change_log.attach(connection, on=True)
        tables.write(connection, Delivery(rows, 1.0))
        assert [one.to_dict() for one in tables.fetch(connection, Query(change)).items] == [
            one.to_dict() for one in rows
        ]
        for field in fields:
            query = Query(change).where(~field.eq(f"{field.name} 1")).order_by(field)
            assert [one.id for one in tables.fetch(connection, query).items] == ["2"]
            assert tables.invalidate(connection, query, [field.name], at=2.0) == 1
        assert len(tables.change_log.page(connection).items) == len(rows)


def test_too_many_different_refs_in_one_question_are_refused() -> None:
    """SQLite would join 64 tables and no more."""
    wide = made("Wide", {f"r{number}": "Ref[Wide]" for number in range(JOINS + 1)})
    tables = writer(Schema([wide], connector="wide"))
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        tables.apply(connection)
        some = [f"r{number}.id = x" for number in range(JOINS + 1)]
        assert tables.count(connection, Query(wide).where(*some[:-1])) == 0
        with pytest.raises(UsageError, match="more than 50 different refs"):
            tables.count(connection, Query(wide).where(*some))
