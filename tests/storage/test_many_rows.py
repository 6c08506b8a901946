"""Many rows at a time: what a database holds then is what it holds when each comes alone."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.model.values import Kind
from max.storage.database import quoted
from max.storage.postgres import PostgresDatabase
from max.storage.postgres_dialect import array_text
from tests.contract.places import Person, Store, Team, memory_connection, transaction, using
from tests.postgres_server import new_schema, shared_url

COLUMNS = {
    "number": (Kind.INTEGER, st.integers(-(2**63), 2**63 - 1)),
    "text": (Kind.TEXT, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    "odd": (
        Kind.REF,
        st.sampled_from(["", "NULL", "{}", '"', "\\", '","', "\\N", "a\nb\t", "{1,2}", "None"]),
    ),
    "real": (Kind.REAL, st.floats(allow_nan=False, allow_infinity=False)),
    "truth": (Kind.BOOLEAN, st.sampled_from([0, 1])),
    "time": (Kind.DATETIME, st.datetimes().map(lambda at: at.isoformat(timespec="microseconds"))),
    "day": (Kind.DATE, st.dates(min_value=date(1000, 1, 1)).map(date.isoformat)),
    "data": (Kind.JSON, st.sampled_from(["null", '{"a":[1,"x"]}', '"\\u00e4\\\\"', "[]"])),
}
KINDS = [kind for kind, _ in COLUMNS.values()]
ROW = st.tuples(*(st.none() | values for _, values in COLUMNS.values()))
SAME = st.integers(0, len(COLUMNS) - 1)  # of the last columns, which have one value in every row
NAMES = ", ".join(map(quoted, COLUMNS))


def make(connection: Any, table: str) -> None:
    types = connection.dialect.types
    columns = [f"{quoted(name)} {types[kind]}" for name, (kind, _) in COLUMNS.items()]
    sql = f"CREATE TABLE {table} (_row {{row_id}}, {', '.join(columns)})"
    connection.execute(connection.dialect.sql(sql))


def stored(connection: Any, table: str) -> list[tuple[Any, ...]]:
    found = connection.execute(f"SELECT {NAMES} FROM {table} ORDER BY _row").fetchall()
    return [tuple((type(value), value) for value in row) for row in found]


@pytest.mark.usefixtures("either")
def test_p11_rows_that_are_stored_together_are_those_stored_one_by_one_and_in_order() -> None:
    with memory_connection() as connection:
        with transaction(connection):
            make(connection, "together")
            make(connection, "alone")

        @given(st.lists(ROW, max_size=130), SAME, st.sampled_from([0, 9, 100, 110]))
        def holds(drawn: list[tuple[Any, ...]], same: int, more: int) -> None:
            width = len(COLUMNS) - same
            constants = drawn[0][width:] if drawn else ()
            rows = [(*row[:width], *constants) for row in [*drawn, *drawn[:1] * more]]
            columns = list(zip(*rows, strict=True))[:width]
            with transaction(connection):
                connection.execute("DELETE FROM together")
                connection.execute("DELETE FROM alone")
                connection.insert(f"INSERT INTO together ({NAMES}) {{rows}}", KINDS, columns, constants)
                for row in rows:
                    places = ", ".join("?" * len(row))
                    connection.execute(f"INSERT INTO alone ({NAMES}) VALUES ({places})", row)
                wanted = [tuple((type(value), value) for value in row) for row in rows]
                assert stored(connection, "together") == stored(connection, "alone") == wanted

        holds()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(("rows", "width"), [(7_001, 10), (240, 300)])
def test_more_values_than_a_statement_may_have_parameters_are_stored(rows: int, width: int) -> None:
    names = [f"c{number}" for number in range(width)]
    with memory_connection() as connection, transaction(connection):
        connection.execute(f"CREATE TABLE wide ({', '.join(f'{name} INTEGER' for name in names)})")
        values = [tuple(range(row, row + width)) for row in range(rows)]
        sql = f"INSERT INTO wide ({', '.join(names)}) {{rows}}"
        connection.insert(sql, [Kind.INTEGER] * width, list(zip(*values, strict=True)))
        connection.insert(sql, [Kind.INTEGER] * width, [])
        connection.insert(sql, [Kind.INTEGER] * width, [[]], [0] * (width - 1))
        assert connection.execute("SELECT * FROM wide ORDER BY c0").fetchall() == values


@pytest.mark.usefixtures("either")
def test_a_statement_for_each_row_answers_with_the_first_row_of_each_in_their_order() -> None:
    sql = "INSERT INTO one (name) SELECT value FROM (SELECT ? AS value) AS s WHERE value <> '' RETURNING name"
    with memory_connection() as connection:
        connection.execute("CREATE TABLE one (name TEXT)")
        for names in ([], ["a"], [""], ["c", "", "b"]):
            found = connection.execute_each(sql, [(name,) for name in names])
            assert found == [(name,) if name else None for name in names]
        assert connection.executemany("UPDATE one SET name = ? WHERE name <> 'b'", [("d",)]).rowcount == 2


@pytest.mark.parametrize("longest", [2, 12, 120])
def test_columns_of_different_lengths_are_refused(longest: int) -> None:
    columns = [[1] * longest, [1] * (longest - 1)]
    with memory_connection() as connection:
        connection.execute("CREATE TABLE two (a INTEGER, b INTEGER, c INTEGER)")
        with pytest.raises((ValueError, connection.dialect.errors)), transaction(connection):
            connection.insert("INSERT INTO two (a, b, c) {rows}", [Kind.INTEGER] * 3, columns, [5])
        assert connection.execute("SELECT count(*) FROM two").fetchone() == (0,)


@pytest.mark.usefixtures("either")
def test_half_a_surrogate_pair_among_many_rows_is_refused_and_none_is_stored() -> None:
    with memory_connection() as connection:
        connection.execute("CREATE TABLE one (name TEXT)")
        with pytest.raises(UnicodeEncodeError), transaction(connection):
            connection.insert("INSERT INTO one (name) {rows}", [Kind.TEXT], [["a", "\ud800"]])
        assert connection.execute("SELECT count(*) FROM one").fetchone() == (0,)


@pytest.mark.postgres
class TestPostgres:
    """What is Postgres's own."""

    @pytest.mark.parametrize("texts", [["a\0b"], ["a", "\0"], ["\0", None], ["a\0", 'b"']])
    def test_a_nul_is_no_border_between_texts_but_refused(self, texts: list[str | None]) -> None:
        with pytest.raises(database_errors(), match="NUL"):
            array_text(texts)

    def test_a_real_that_is_no_number_or_endless_comes_back_as_it_is(self) -> None:
        database = PostgresDatabase(shared_url(), new_schema())
        with database.writer() as connection:
            connection.execute("CREATE TABLE one (_row INTEGER, real REAL)")
            rows = [(1, math.inf), (2, -math.inf), (3, math.nan), (4, 5e-324), (5, 1.7976931348623157e308)]
            columns = list(zip(*rows, strict=True))
            connection.insert("INSERT INTO one {rows}", [Kind.INTEGER, Kind.REAL], columns)
            found = [real for (real,) in connection.execute("SELECT real FROM one ORDER BY _row")]
        database.delete()
        assert list(map(repr, found)) == [repr(real) for _, real in rows]

    def test_a_scan_has_few_rows_in_memory_and_leaves_room_for_other_statements(self) -> None:
        database = PostgresDatabase(shared_url(), new_schema())
        try:
            with database.writer() as connection:
                endless = "SELECT n FROM (SELECT generate_series(1, 1000000000) AS n) AS s WHERE n > ?"
                first, second = connection.scan(endless, (5,)), connection.scan("SELECT 1 WHERE ? = 1", (1,))
                found = [next(first) for _ in range(1_500)]
                assert list(second) == [(1,)]
                found.append(next(first))
                assert connection.execute("SELECT count(*) FROM pg_cursors WHERE name <> ''").fetchone() == (
                    1,
                )
        finally:
            database.delete()
        assert found == [(number,) for number in range(6, 1_507)]

    def test_an_unchanged_page_writes_no_tuple_of_a_row(self) -> None:
        database = PostgresDatabase(shared_url(), new_schema())
        versions = "SELECT CAST(ctid AS text), CAST(xmin AS text) FROM _person ORDER BY _row"
        people = [Person(f"p{number}", name=f"person {number}", age=number) for number in range(30)]

        async def body(store: Store) -> list[Any]:
            found = []
            for at, page in ((100.0, people), (200.0, people), (300.0, people[1:] + people[:1])):
                await store.page(Team.ref("t"), Team.people, *page, at=at)
                with database.reader() as connection:
                    found.append(connection.execute(versions).fetchall())
            return found

        try:
            first, *later = using(f"{database.url}#{database.schema}", body)
        finally:
            database.delete()
        assert later == [first, first]


def database_errors() -> type[Exception]:
    """What psycopg raises."""
    import psycopg

    return psycopg.Error
