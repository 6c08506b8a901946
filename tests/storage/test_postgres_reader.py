"""A caller's own SQL in Postgres: attacks on it, and the role that reads no more than it should."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from max.errors import InvalidSql, StorageDenied
from max.project import Project
from max.storage.database import Selection
from max.storage.postgres import PostgresConnection, PostgresDatabase, lock_number
from tests.postgres_server import shared_url

pytestmark = pytest.mark.postgres
numbers = itertools.count()
SECRET = "very secret"


def rows(connection: PostgresConnection, statement: str) -> Selection:
    """What a statement of a caller answers."""
    return connection.dialect.select(connection, statement, {}, limit=50, timeout=30)


@contextmanager
def schema_with(role: str) -> Iterator[PostgresDatabase]:
    """A schema with a table of one row, beside another one with a secret; read as a role, if one is named."""
    name = f"a{os.getpid()}x{next(numbers)}"
    main = PostgresDatabase(shared_url(), f"{name}_acme_one", reader=role and f"{name}_{role}")
    beside = PostgresDatabase(shared_url(), f"{name}_beside")
    with beside.writer() as connection:
        if role:
            connection.execute(f"CREATE ROLE {name}_{role} NOLOGIN")
        connection.execute(f"CREATE TABLE hidden AS SELECT '{SECRET}' AS word")
    with main.writer() as connection:
        connection.execute("CREATE TABLE one AS SELECT 1 AS number")
        connection.execute("CREATE SEQUENCE counter")
        connection.execute(
            "CREATE FUNCTION dblink(text) RETURNS text LANGUAGE sql VOLATILE AS $max$ SELECT $1 $max$"
        )
        for odd in ('"DoIt"', "do$it", '"a-b"', '"a""b"'):
            connection.execute(f"CREATE FUNCTION {odd}() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1'")
    try:
        yield main
    finally:
        main.delete()
        with beside.writer() as connection:
            if role:
                connection.execute(f"DROP OWNED BY {name}_{role}; DROP ROLE {name}_{role}")
        beside.delete()


@pytest.fixture(scope="module", params=["", "reader"])
def database(request: pytest.FixtureRequest) -> Iterator[PostgresDatabase]:
    """Read as the superuser that the tests are, which may do everything, and as a role that may not."""
    with schema_with(request.param) as one:
        yield one


READS_ELSEWHERE = [
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT PG_Read_File ('/etc/passwd')",
    "SELECT pg_catalog.pg_read_file('/etc/passwd')",
    "SELECT \"pg_read_file\"('/etc/passwd')",
    "SELECT pg_read_file/* /* */ */('/etc/passwd')",
    "SELECT pg_read_file -- a comment\n('/etc/passwd')",
    "SELECT U&\"pg_read\\005ffile\"('/etc/passwd')",
    "SELECT u&\"pg_read!005ffile\" UESCAPE '!' ('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT dblink('dbname=postgres')",
    "SELECT * FROM query_to_xml('SELECT 1', true, true, '')",
    "SELECT * FROM ts_stat('SELECT to_tsvector(word) FROM hidden')",
    "SELECT '/*' || pg_read_file('/etc/passwd') || '*/'",
    "SELECT E'\\'' || pg_read_file('/etc/passwd') || E'\\''",
    "SELECT $a$'$a$ || pg_read_file('/etc/passwd') || $a$'$a$",
]
LEAVES = [
    "SELECT set_config('role', 'none', true)",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT set_config('statement_timeout', '0', true)",
    "SET ROLE postgres",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SELECT 1; RESET ROLE; SELECT 2",
    "SELECT 1; COMMIT; DROP TABLE one",
    "COMMIT",
    "ROLLBACK TO SAVEPOINT _max_select",
    "DO $max$ BEGIN PERFORM 1; END $max$",
    "CALL nothing()",
    "PREPARE x AS SELECT 1",
]
DOES_MORE = [
    "COPY one TO PROGRAM 'touch {mark}'",
    "COPY (SELECT 1) TO '{mark}'",
    "SELECT lo_export(1, '{mark}')",
    "SELECT pg_advisory_lock({lock})",
    "SELECT pg_advisory_xact_lock({lock}) FROM one",
    "SELECT pg_try_advisory_lock({lock})",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT pg_notify('max', 'x')",
    "SELECT nextval('counter')",
    'SELECT "DoIt"()',
    "SELECT DO$IT ()",
    'SELECT "a-b"/* */()',
    """SELECT "a""b"()""",
    "SELECT * FROM one FOR UPDATE",
    "WITH gone AS (DELETE FROM one RETURNING *) SELECT * FROM gone",
    "INSERT INTO one VALUES (2)",
    "CREATE TEMP TABLE two (a int)",
    "SELECT * INTO two FROM one",
    "LOCK TABLE one",
    "LISTEN max",
    "EXPLAIN ANALYZE DELETE FROM one",
    "TRUNCATE one",
    "VACUUM one",
]


def test_no_attack_does_more_than_read_and_none_leaves_anything_behind(
    database: PostgresDatabase, tmp_path: Path
) -> None:
    mark, lock = tmp_path / "mark", lock_number(database.schema)
    tmp_path.chmod(0o777)
    with database.reader() as connection:
        before = connection.execute("SELECT current_user, session_user").fetchone()
        for statement in [*READS_ELSEWHERE, *LEAVES, *DOES_MORE]:
            with pytest.raises(InvalidSql):
                rows(connection, statement.format(mark=mark, lock=lock))
            assert rows(connection, "SELECT number FROM one").rows == [(1,)], statement
        assert connection.execute("SELECT current_user, session_user").fetchone() == before
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        assert connection.execute(held).fetchone() == (0,)
    assert not mark.exists()
    with database.writer() as connection:
        assert connection.execute("SELECT nextval('counter'), count(*) FROM one").fetchone() == (1, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*), max(number) FROM one",
        "SELECT round(random()) * 0, clock_timestamp() > now(), gen_random_uuid() IS NULL",
        "SELECT pg_total_relation_size('one') > 0",
        "SELECT * FROM one TABLESAMPLE bernoulli (100)",
        "SELECT 'set_config, and COPY one TO PROGRAM'",
        "WITH few (n) AS (VALUES (1), (2)) SELECT sum(n) OVER (ORDER BY n) FROM few",
        "(SELECT 1) UNION SELECT 2 ORDER BY 1",
        "TABLE one",
        "SELECT jsonb_path_query('{\"a\": 1}', '$.a'), to_char(now(), 'YYYY'), upper(string_agg('a', ','))",
    ],
)
def test_what_only_reads_is_answered(database: PostgresDatabase, statement: str) -> None:
    with database.reader() as connection:
        assert rows(connection, statement).rows


class TestTheReader:
    """A role of the project's name and ``_reader`` bounds what is read."""

    def test_reads_the_installation_and_nothing_beside_it(self) -> None:
        with schema_with("reader") as database, database.reader() as connection:
            beside = database.schema.replace("_acme_one", "_beside")
            assert rows(connection, "SELECT current_user").rows == [(database._reader,)]
            for statement in (f"SELECT word FROM {beside}.hidden", "SELECT rolpassword FROM pg_authid"):
                with pytest.raises(InvalidSql, match="permission denied"):
                    rows(connection, statement)

    def test_reads_a_table_that_is_made_later(self) -> None:
        with schema_with("reader") as database:
            with database.writer() as connection:
                connection.execute("CREATE TABLE later AS SELECT 2 AS number")
            with database.reader() as connection:
                assert rows(connection, "SELECT number FROM later").rows == [(2,)]

    def test_without_one_everything_of_max_is_read(self) -> None:
        with schema_with("") as database, database.reader() as connection:
            beside = database.schema.replace("_acme_one", "_beside")
            assert rows(connection, f"SELECT word FROM {beside}.hidden").rows == [(SECRET,)]

    def test_that_may_not_read_the_schema_is_an_error_and_no_wider_right(self) -> None:
        with schema_with("reader") as database:
            with database.writer() as connection:
                connection.execute(f"REVOKE USAGE ON SCHEMA {database.schema} FROM {database._reader}")
            with (
                database.reader() as connection,
                pytest.raises(StorageDenied, match="may not read the schema"),
            ):
                rows(connection, "SELECT 1")

    def test_that_max_may_not_become_is_an_error_and_no_wider_right(self) -> None:
        with schema_with("reader") as database:
            plain = f"plain_{database.schema}"
            with database.writer() as connection:
                connection.execute(
                    f"CREATE ROLE {plain} LOGIN; GRANT USAGE ON SCHEMA {database.schema} TO {plain}"
                )
            url = re.sub("postgres@", f"{plain}@", database.url)
            other = PostgresDatabase(url, database.schema, reader=database._reader)
            try:
                with other.reader() as connection, pytest.raises(StorageDenied, match="this user may not"):
                    rows(connection, "SELECT 1")
            finally:
                with database.writer() as connection:
                    connection.execute(f"DROP OWNED BY {plain}; DROP ROLE {plain}")

    def test_reads_several_installations_together(self) -> None:
        project_schema = f"q{os.getpid()}x{next(numbers)}"
        role = f"{project_schema}_reader"
        main = PostgresDatabase(shared_url(), project_schema)

        async def main_program() -> None:
            async with Project.open(f"{shared_url()}#{project_schema}", create=True) as project:
                with main.writer() as connection:
                    connection.execute(f"CREATE ROLE {role} NOLOGIN")
                for name in ("one", "two"):
                    runtime = await project.ensure("acme", name)
                    await (await runtime.sync()).completion()
                    await runtime.stop()
                by = "SELECT installation, count(*) FROM acme_user GROUP BY 1 ORDER BY 1"
                assert (await project.sql(by)).rows == [("acme:one", 20), ("acme:two", 20)]
                who = await project.sql("SELECT current_user, count(*) FROM acme_user")
                assert who.rows == [(role, 40)]
                for place in (project_schema, f"{project_schema}_audit"):
                    with pytest.raises(InvalidSql, match="permission denied"):
                        await project.sql(f"SELECT * FROM {place}.installation")
                for name in ("one", "two"):
                    await project.disconnect(f"acme:{name}")

        try:
            asyncio.run(main_program())
        finally:
            with main.writer() as connection:
                connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
            for place in (f"{project_schema}_audit", project_schema):
                PostgresDatabase(shared_url(), place).delete()
