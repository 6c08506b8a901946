"""Connections to Postgres: how many there are, how long they are kept, and a pooler in between."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

from max.model.tasks import Status
from max.project import Project
from max.storage.database import interruptible
from max.storage.postgres import PostgresDatabase, pool_of
from max.storage.postgres_pool import MOST_IDLE, Pool
from tests.postgres_server import START, new_schema, pooled, shared_url

pytestmark = pytest.mark.postgres
PID = "SELECT pg_backend_pid()"
MAKE = "CREATE TABLE IF NOT EXISTS one (number INTEGER NOT NULL)"


@pytest.fixture
def database() -> Iterator[PostgresDatabase]:
    """A schema with a table."""
    one = PostgresDatabase(shared_url(), new_schema())
    with one.writer() as connection:
        connection.execute(MAKE)
    yield one
    one.delete()


class Counting(Pool):
    """A pool that knows the connections which it has opened."""

    def __init__(self) -> None:
        self.opened: list[Any] = []
        inside = pool_of(shared_url())

        def connect() -> Any:
            self.opened.append(inside.take()[0])
            return self.opened[-1]

        super().__init__(connect)


def process_of(database: PostgresDatabase) -> int:
    """The process of the server that answers now."""
    with database.reader() as connection:
        return int(connection.execute(PID).fetchone()[0])


class TestAPool:
    """One after another, transactions use one connection."""

    def test_gives_databases_the_connection_that_was_used_last(self, database: PostgresDatabase) -> None:
        pool = Counting()
        same = [PostgresDatabase(database.url, database.schema, pool=pool) for _ in range(3)]
        assert len({process_of(one) for one in same}) == 1
        with same[0].writer(), same[1].reader(), same[2].reader():
            assert len(pool.opened) == 3
        assert {process_of(one) for one in same} <= {one.info.backend_pid for one in pool.opened}
        assert len(pool.opened) == 3
        pool.close()
        assert all(one.closed for one in pool.opened)
        assert process_of(same[0]) > 0
        pool.close()

    def test_keeps_no_more_than_a_few_and_none_when_it_is_gone(self, database: PostgresDatabase) -> None:
        pool = Counting()
        taken = [pool.take()[0] for _ in range(MOST_IDLE + 2)]
        for one in taken:
            pool.give(one)
        assert [one.closed for one in taken] == [False] * MOST_IDLE + [True] * 2
        del pool
        gc.collect()
        assert all(one.closed for one in taken)

    def test_opens_another_one_where_the_server_has_ended_those_that_were_kept(
        self, database: PostgresDatabase
    ) -> None:
        pool = Counting()
        one = PostgresDatabase(database.url, database.schema, pool=pool)
        with one.reader(), one.reader():
            pass
        ended = [raw.info.backend_pid for raw in pool.opened]
        with database.reader() as connection:
            for pid in ended:
                connection.execute("SELECT pg_terminate_backend(CAST(? AS int), 60000)", (pid,))
        assert process_of(one) not in ended
        with one.writer() as connection:
            assert connection.execute("SELECT count(*) FROM one").fetchone() == (0,)
        pool.close()

    def test_a_transaction_that_raised_leaves_nothing_to_the_next_one(
        self, database: PostgresDatabase
    ) -> None:
        pool = Counting()
        one = PostgresDatabase(database.url, database.schema, pool=pool)

        def fail() -> None:
            with one.writer() as connection:
                connection.execute("INSERT INTO one VALUES (1)")
                connection.execute("SET LOCAL statement_timeout TO 1")
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            fail()
        with one.reader() as connection:
            assert connection.execute("SELECT count(*) FROM one").fetchone() == (0,)
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
        assert len(pool.opened) == 1
        pool.close()

    def test_a_late_interruption_does_not_reach_who_has_the_connection_now(
        self, database: PostgresDatabase
    ) -> None:
        pool = Counting()
        one = PostgresDatabase(database.url, database.schema, pool=pool)
        with interruptible() as late, one.reader() as connection:
            connection.execute("SELECT 1")
        asked: list[int] = []
        with one.reader() as connection:
            first = connection.raw
            late.connections[0].raw = type("", (), {"cancel_safe": lambda self, **_: asked.append(1)})()  # type: ignore[attr-defined]
            late()
            assert (asked, connection.raw) == ([], first)
        with interruptible() as timely, one.reader() as connection:
            used = connection.raw
            timely()
        assert used.closed, "the interruption may still be on its way"
        pool.close()

    def test_a_project_uses_one_connection_for_its_questions_and_none_afterwards(self) -> None:
        url = f"{shared_url()}#p{new_schema().replace('_', '')}"
        schema = url.partition("#")[2]
        ours = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{schema}'"
        named = url.replace("?", f"?application_name={schema}&", 1)

        kept: list[Project] = []

        async def main() -> int:
            async with Project.open(named, create=True) as project:
                kept.append(project)
                await project.ensure("acme")
                await project.installations()
                await project.health()
                with PostgresDatabase(shared_url(), schema).reader() as connection:
                    return int(connection.execute(ours).fetchone()[0])

        assert 1 <= asyncio.run(main()) <= 4
        with PostgresDatabase(shared_url(), schema).reader() as connection:
            until = time.monotonic() + START
            while connection.execute(ours).fetchone() != (0,):  # a process takes a moment to end
                assert time.monotonic() < until
                connection.execute("SELECT pg_stat_clear_snapshot()")
        for one in ("acme_default", "audit"):
            PostgresDatabase(shared_url(), f"{schema}_{one}").delete()
        PostgresDatabase(shared_url(), schema).delete()


def test_a_project_syncs_and_answers_through_a_pooler_that_gives_out_sessions_by_the_transaction() -> None:
    schema = f"p{new_schema().replace('_', '')}"

    async def main(url: str) -> None:
        async with Project.open(url, create=True) as project:
            runtimes = [await project.ensure("acme", name) for name in ("one", "two", "three")]
            for _ in range(2):
                handles = [await runtime.sync() for runtime in runtimes]
                results = [await handle.completion() for handle in handles]
                assert {result.status for result in results} == {Status.COMPLETED}
            with project.read("acme:two") as reader:
                assert reader.counts()["AcmeUser"] == 20
            found = await project.sql("SELECT count(*) FROM acme_user")
            assert found.rows == [(60,)]
            for name in ("one", "two", "three"):
                await (await project.runtime("acme", name)).stop()
                await project.disconnect(f"acme:{name}")

    with pooled(shared_url()) as url:
        raw = pool_of(url).take()[0]
        assert raw.prepare_threshold is None
        raw.close()
        asyncio.run(main(f"{url}#{schema}"))
    for one in (f"{schema}_audit", schema):
        PostgresDatabase(shared_url(), one).delete()


def test_statements_are_prepared_where_there_is_no_pooler() -> None:
    raw = pool_of(shared_url()).take()[0]
    assert raw.prepare_threshold is not None
    raw.close()


def test_what_a_connection_has_forgotten_the_server_has_not_kept(database: PostgresDatabase) -> None:
    kept = "SELECT count(*) FROM pg_prepared_statements"
    with database.writer() as connection:
        for number in range(3):
            for _ in range(3):
                connection.execute("SELECT nspname FROM pg_namespace WHERE nspname = ?", (f"{number}",))
            assert connection.execute(kept).fetchone()[0] > 0
            connection.execute(f"CREATE TABLE made_{number} (id INTEGER)")
            assert connection.execute(kept).fetchone()[0] <= 1  # this one
