"""Postgres: one writer, what is tried again, what each error says, and what a caller's own SQL may do."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from max.engine import DatabaseEngine
from max.errors import (
    InvalidSql,
    SqlLimit,
    StorageBusy,
    StorageDenied,
    StorageEmpty,
    StorageError,
    StorageMissing,
    StorageReadOnly,
    StorageTimeout,
    StorageUnreachable,
    UsageError,
)
from max.model.delivery import Delivery, ListingPage
from max.model.loaders import UnknownLoaders
from max.storage.postgres import PostgresConnection, PostgresDatabase
from max.storage.postgres_dialect import numbered, short_name
from tests.contract.places import SCHEMA, Person, Team, parts
from tests.postgres_server import Server, new_schema, server, shared_url

pytestmark = pytest.mark.postgres
MAKE = "CREATE TABLE one (number INTEGER NOT NULL, name TEXT)"


@pytest.fixture
def database() -> Iterator[PostgresDatabase]:
    """A schema with a table."""
    one = PostgresDatabase(shared_url(), new_schema())
    with one.writer() as connection:
        connection.execute(MAKE)
    yield one
    one.delete()


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that these tests may end and set up as they like."""
    with server() as one:
        yield one


def put(number: int) -> Any:
    """The work that stores a number."""
    return lambda connection: connection.execute("INSERT INTO one (number) VALUES (?)", (number,))


def open_many(opened: ExitStack, database: PostgresDatabase, number: int) -> None:
    """Open so many readers at once."""
    for _ in range(number):
        opened.enter_context(database.reader())


def numbers(database: PostgresDatabase) -> list[int]:
    with database.reader() as connection:
        return [number for (number,) in connection.execute("SELECT number FROM one ORDER BY number")]


class TestTransactions:
    """All of it or nothing, one after the other."""

    def test_p1_what_raises_undoes_everything_and_the_next_work_goes_on(
        self, database: PostgresDatabase
    ) -> None:
        def fails(connection: PostgresConnection) -> None:
            put(1)(connection)
            raise ValueError("no")

        async def main() -> None:
            await database.start()
            with pytest.raises(ValueError, match="no"):
                await database.transact(fails)
            await database.transact(put(2))
            await database.stop()

        asyncio.run(main())
        assert numbers(database) == [2]

    def test_a_writer_waits_for_another_process_and_then_sees_what_it_wrote(
        self, database: PostgresDatabase
    ) -> None:
        seen: list[int] = []
        waits = threading.Event()

        def second() -> None:
            with PostgresDatabase(database.url, database.schema).writer() as connection:
                seen.append(connection.execute("SELECT count(*) FROM one").fetchone()[0])

        with database.writer() as connection:
            thread = threading.Thread(target=second)
            thread.start()
            sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while connection.execute(sql).fetchone() == (0,):
                waits.wait(0.01)
            put(1)(connection)
            assert seen == []
        thread.join()
        assert seen == [1]

    def test_readers_of_one_moment_wait_for_no_writer(self, database: PostgresDatabase) -> None:
        count = "SELECT count(*) FROM one"
        with database.reader() as reading:
            assert reading.execute(count).fetchone() == (0,)
            with database.writer() as writing:
                put(1)(writing)
                assert reading.execute(count).fetchone() == (0,)
            assert reading.execute(count).fetchone() == (0,)
        assert numbers(database) == [1]

    def test_a_failed_statement_that_was_passed_over_stores_nothing_and_says_so(
        self, database: PostgresDatabase
    ) -> None:
        def hides(connection: PostgresConnection) -> None:
            put(1)(connection)
            with pytest.raises(connection.dialect.errors):
                connection.execute("SELECT 1 / 0")

        async def main() -> None:
            await database.start()
            try:
                with pytest.raises(StorageError, match="undone"):
                    await database.transact(hides)
            finally:
                await database.stop()

        asyncio.run(main())
        assert numbers(database) == []

    def test_a_deadlock_is_tried_again(self, database: PostgresDatabase) -> None:
        tries: list[int] = []

        def work(connection: PostgresConnection) -> None:
            tries.append(1)
            put(len(tries))(connection)
            if len(tries) < 3:
                connection.execute("DO $max$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $max$")

        async def main() -> None:
            await database.start()
            await database.transact(work)
            await database.stop()

        asyncio.run(main())
        assert numbers(database) == [3]

    def test_an_unchanged_page_writes_no_row_and_no_load_but_its_own(self) -> None:
        database = PostgresDatabase(shared_url(), new_schema())
        red = Team.ref("red")
        people = [Person(str(n), name=f"p{n}", score=1.0) for n in range(120)]

        async def main() -> tuple[int, int]:
            await database.start()
            engine = DatabaseEngine(database, UnknownLoaders(SCHEMA, parts))
            await engine.start()
            written = []
            for at in (100.0, 200.0):
                page = ListingPage(red, Team.people, 0, True, at)
                await database.transact(engine.prepare_write(Delivery(people, at, page)))
                written.append(
                    await database.read(
                        lambda c: c.execute("SELECT max(xmin::text::bigint) FROM _person").fetchone()[0]
                    )
                )
            await engine.stop()
            await database.stop()
            return written[0], written[1]

        first, second = asyncio.run(main())
        database.delete()
        assert first == second, "no version of a row is of the second transaction"


class TestServers:
    """What becomes of work when the server goes, comes back, or refuses."""

    def test_work_goes_on_after_the_server_was_started_again(self, own: Server) -> None:
        database = PostgresDatabase(own.url, "restarted")

        async def main() -> None:
            await database.start()
            await database.transact(lambda c: c.execute(MAKE))
            await database.transact(put(1))
            own.stop()
            own.start()
            await database.transact(put(2))
            assert await database.read(lambda c: c.execute("SELECT count(*) FROM one").fetchone()) == (2,)
            await database.stop()

        asyncio.run(main())
        assert numbers(database) == [1, 2]

    def test_work_whose_connection_ends_before_the_commit_is_done_again_and_once(self, own: Server) -> None:
        database = PostgresDatabase(own.url, "ended")
        tries: list[int] = []

        def work(connection: PostgresConnection) -> None:
            tries.append(1)
            put(7)(connection)
            if len(tries) == 1:
                with PostgresDatabase(own.url, "ended").reader() as other:
                    pid = connection.raw.info.backend_pid
                    other.execute("SELECT pg_terminate_backend(CAST(? AS int))", (pid,))

        async def main() -> None:
            await database.start()
            await database.transact(lambda c: c.execute(MAKE))
            await database.transact(work)
            await database.stop()

        asyncio.run(main())
        assert (numbers(database), len(tries)) == ([7], 2)

    def test_a_commit_whose_answer_was_lost_is_found_in_the_server_and_not_done_twice(
        self, own: Server
    ) -> None:
        database = PostgresDatabase(own.url, "answered")
        tries: list[int] = []

        class Losing:
            """A connection that commits, and whose answer does not come."""

            def __init__(self, raw: Any) -> None:
                self._raw = raw

            def __getattr__(self, name: str) -> Any:
                return getattr(self._raw, name)

            def execute(self, sql: str, *values: Any, **more: Any) -> Any:
                import psycopg

                found = self._raw.execute(sql, *values, **more)
                if sql == "COMMIT":
                    self._raw.close()
                    raise psycopg.OperationalError("the connection was lost")
                return found

        def work(connection: PostgresConnection) -> None:
            tries.append(1)
            put(8)(connection)
            connection.raw = cast(Any, Losing(connection.raw))

        async def main() -> None:
            await database.start()
            await database.transact(lambda c: c.execute(MAKE))
            await database.transact(work)
            await database.stop()

        asyncio.run(main())
        assert (numbers(database), len(tries)) == ([8], 1)

    def test_each_refusal_is_an_error_of_its_own_without_the_password(self, own: Server) -> None:
        with PostgresDatabase(own.url, "refusing").writer() as connection:
            connection.execute("CREATE ROLE guest LOGIN PASSWORD 'right'")
            connection.execute("CREATE ROLE plain LOGIN")
            connection.execute(MAKE)
        rules = own.data / "pg_hba.conf"
        before = rules.read_text()
        rules.write_text("local all guest scram-sha-256\n" + before)
        own.stop(signal.SIGINT)
        own.start()
        folder = own.folder
        cases = [
            (f"postgresql://guest:s3cret@/postgres?host={folder}", StorageDenied),
            (f"postgresql://nobody_here@/postgres?host={folder}", StorageDenied),
            (f"postgresql://plain@/postgres?host={folder}", StorageDenied),
            (f"postgresql://postgres:s3cret@/absent?host={folder}", StorageMissing),
            (f"postgresql://postgres:s3cret@/postgres?host={folder}/none", StorageUnreachable),
            ("postgresql://postgres:s3cret@127.0.0.1:1/postgres", StorageUnreachable),
        ]
        for url, kind in cases:
            with pytest.raises(kind) as raised, PostgresDatabase(url, "new_one").writer():
                pass
            assert type(raised.value) is kind, url
            assert "s3cret" not in f"{raised.value} {raised.value.hint} {vars(raised.value)}"
            assert raised.value.hint

    def test_a_server_that_only_reads_and_one_without_places_say_so(self, own: Server) -> None:
        with PostgresDatabase(own.url, "full").writer() as connection:
            connection.execute(MAKE)
        only = f"{own.url}&options=-cdefault_transaction_read_only%3Don"
        own.stop(signal.SIGINT)
        own.start(max_connections="4", superuser_reserved_connections="0")
        try:
            assert numbers(PostgresDatabase(only, "full")) == []
            with ExitStack() as opened, pytest.raises(StorageBusy):
                open_many(opened, PostgresDatabase(own.url, "full"), 8)
        finally:
            own.stop(signal.SIGINT)
            own.start()

    def test_a_statement_beyond_the_servers_time_says_so(self, database: PostgresDatabase) -> None:
        slow = "SET LOCAL statement_timeout TO 20; SELECT pg_sleep(60)"
        with pytest.raises(StorageTimeout), database.writer() as connection:
            connection.execute(slow)

    def test_a_reader_writes_nothing(self, database: PostgresDatabase) -> None:
        async def main() -> None:
            await database.start()
            try:
                with pytest.raises(StorageReadOnly):
                    await database.read(put(1))
            finally:
                await database.stop()

        asyncio.run(main())

    def test_a_schema_that_is_not_there_is_empty(self) -> None:
        with pytest.raises(StorageEmpty), PostgresDatabase(shared_url(), "none_of_this_name").reader():
            pass
        for name in ("", "pg_mine", "x" * 64):
            with pytest.raises(StorageError, match="name of a schema"):
                PostgresDatabase(shared_url(), name)


class TestOwnSql:
    """What a caller's own statement may do, and what it answers."""

    def test_values_are_those_that_sqlite_answers(self, database: PostgresDatabase) -> None:
        sql = """
            SELECT 1 AS number, 2.5 AS real, 'x%' AS text, true AS truth, NULL AS nothing,
                   CAST('2026-01-31 09:30:00.5Z' AS timestamptz) AS at, CAST('2026-01-31' AS date) AS day,
                   CAST('{"a": [1, "ü"]}' AS jsonb) AS data, CAST('\\x0102' AS bytea) AS bytes,
                   :given AS given
        """
        with database.reader() as connection:
            found = connection.dialect.select(connection, sql, {"given": "ü"}, limit=5, timeout=30)
        at, day = "2026-01-31T09:30:00.5", "2026-01-31"
        assert found.rows == [(1, 2.5, "x%", 1, None, at, day, '{"a": [1, "ü"]}', b"\1\2", "ü")]
        assert found.types[:4] == ["INTEGER", "REAL", "TEXT", "BOOLEAN"]
        assert (found.names[0], found.more) == ("number", False)

    def test_more_rows_than_wanted_are_not_read(self, database: PostgresDatabase) -> None:
        with database.reader() as connection:
            sql = "SELECT * FROM generate_series(1, 200000)"
            found = connection.dialect.select(connection, sql, (), limit=2, timeout=30)
        assert (found.rows, found.more) == ([(1,), (2,)], True)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM one",
            "SELECT 1; COMMIT; DELETE FROM one",
            "WITH gone AS (DELETE FROM one RETURNING number) SELECT * FROM gone",
            "SELECT nextval('numbers')",
            "SELECT set_config('transaction_read_only', 'off', true); DELETE FROM one",
            "SELECT * INTO two FROM one",
            "COPY one TO PROGRAM 'true'",
            "",
            "-- nothing",
            "SELECT nothing FROM one",
            "SELECT :missing",
            "SELECT (",
        ],
    )
    def test_what_does_more_than_read_is_refused_and_the_snapshot_goes_on(
        self, database: PostgresDatabase, statement: str
    ) -> None:
        with database.writer() as connection:
            connection.execute("CREATE SEQUENCE numbers")
            put(1)(connection)
        with database.reader() as connection:
            with pytest.raises(InvalidSql):
                connection.dialect.select(connection, statement, {}, limit=5, timeout=30)
            found = connection.dialect.select(connection, "SELECT number FROM one", {}, limit=5, timeout=30)
            assert found.rows == [(1,)]
        assert numbers(database) == [1]

    def test_an_error_points_at_its_place(self, database: PostgresDatabase) -> None:
        with database.reader() as connection, pytest.raises(InvalidSql) as raised:
            connection.dialect.select(connection, "SELECT nothing FROM one", (), limit=5, timeout=30)
        assert raised.value.position == 7

    def test_a_statement_that_takes_too_long_ends(self, database: PostgresDatabase) -> None:
        with database.reader() as connection, pytest.raises(SqlLimit):
            connection.dialect.select(connection, "SELECT pg_sleep(60)", (), limit=5, timeout=0.05)

    def test_tables_are_those_of_people(self, database: PostgresDatabase) -> None:
        with database.writer() as connection:
            connection.execute("CREATE TABLE _max_hidden (a INTEGER)")
            connection.execute("CREATE VIEW shown AS SELECT number > 1 AS large FROM one")
        with database.reader() as connection:
            found = connection.dialect.tables(connection)
        assert [(one.name, one.kind, one.columns) for one in found] == [
            ("one", "table", [("number", "INTEGER"), ("name", "TEXT")]),
            ("shown", "view", [("large", "BOOLEAN")]),
        ]


class TestWords:
    """How statements of ours become those of Postgres."""

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("SELECT ':a ? %' || :a || :b || :a", "SELECT ':a ? %' || $1 || $2 || $1"),
            ("SELECT '%' || x::text", "SELECT '%' || x::text"),
            ('SELECT "a?:b" FROM t WHERE x = ? + ?', 'SELECT "a?:b" FROM t WHERE x = $1 + $2'),
            (
                "CREATE TABLE t (a TEXT, b INTEGER, c REAL)",
                'CREATE TABLE t (a text COLLATE "C", b bigint, c double precision)',
            ),
            ("SELECT CAST(a AS TEXT) -- why? :no", "SELECT CAST(a AS text) -- why? :no"),
        ],
    )
    def test_quotes_and_comments_stay(self, ours: str, theirs: str) -> None:
        assert numbered(ours)[0] == theirs

    def test_long_names_stay_different(self) -> None:
        one, two = (f"_max_index:{'x' * 80}.{end}" for end in ("a", "b"))
        assert short_name(one) != short_name(two)
        assert len(short_name("ü" * 80).encode()) <= 63
        assert short_name("short") == "short"

    def test_texts_are_in_the_order_of_their_code_points_in_a_database_that_orders_as_people_do(
        self, own: Server
    ) -> None:
        import psycopg

        words = ["a", "B", "ä", "Z", "z", "", " ", "\U0001f600", "\uffee"]
        with psycopg.connect(own.url, autocommit=True) as admin:
            english = "CREATE DATABASE english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
            admin.execute(english)
        with PostgresDatabase(own.url.replace("/postgres?", "/english?"), "words").writer() as connection:
            connection.execute(MAKE)
            connection.executemany("INSERT INTO one VALUES (1, ?)", [(word,) for word in words])
            found = connection.execute("SELECT name FROM one ORDER BY name").fetchall()
        assert [word for (word,) in found] == sorted(words)

    def test_texts_are_folded_as_python_folds_them(self, database: PostgresDatabase) -> None:
        text = "".join(map(chr, [*range(32, 0x2FF), 0x1E9E, 0xFB01, 0x10400, 0x3A3, 0x3C2, 0x130]))
        with database.reader() as connection:
            assert connection.execute("SELECT _max_casefold(?)", (text,)).fetchone() == (text.casefold(),)


def test_a_raw_query_for_words_has_postgres_s_syntax(database: PostgresDatabase) -> None:
    from max.model.text_search import TextQuery

    with database.writer() as connection:
        index = connection.dialect.text_index
        index.create(connection)
        index.add(connection, "SELECT 5 AS id, 'the audit' AS title, 'of logs' AS text, '' AS part")
        found = index.find(connection, TextQuery.parse("audit & !tea", raw=True), [(0, 9)], 5)
        assert [id for id, _ in found.rows] == [5]
    with pytest.raises(UsageError, match="cannot be read"), database.reader() as connection:
        index.find(connection, TextQuery.parse("audit &", raw=True), [(0, 9)], 5)
