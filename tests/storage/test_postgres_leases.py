"""Leases in rows: who may store what, what is found first, and what a process that is stopped holds."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import SyncTakenOver
from max.project import Project
from max.projects.database import ProjectDatabase
from max.serve.fleet import FleetWorker
from max.storage import postgres
from max.storage.postgres import Fence, PostgresConnection, PostgresDatabase
from max.storage.postgres_dialect import NOW
from max.storage.postgres_leases import LeaseKeeper, PostgresLease
from max.storage.postgres_work import BEAT, LEASE, Claim, WorkTable
from tests.postgres_server import shared_url
from tests.waiting import until

pytestmark = pytest.mark.postgres
LONGEST = 30.0  # seconds after which the work of a dead host goes on elsewhere
numbers = itertools.count()


class Work:
    """A project's table of work, with installations of no connector."""

    def __init__(self, project: ProjectDatabase, schema: str) -> None:
        self.project, self.table, self.schema = project, project.work_table(), schema

    def add(self, *names: str) -> list[str]:
        """The ids of new installations."""
        return [self.project.add("acme", name, {}, {}, now=1.0).id for name in names]

    def clear(self) -> None:
        with PostgresDatabase(shared_url(), self.schema).writer() as connection:
            connection.execute("DELETE FROM installation")

    def set(self, assignment: str, id: str) -> None:
        with PostgresDatabase(shared_url(), self.schema).writer() as connection:
            connection.execute(f"UPDATE work SET {assignment} WHERE installation = ?", (id,))

    def seen(self, id: str) -> tuple[Any, ...]:
        """Whether something is asked for, why it cannot begin, and when it is due."""
        with PostgresDatabase(shared_url(), self.schema).reader() as connection:
            sql = "SELECT asked IS NOT NULL, problem, due FROM work WHERE installation = ?"
            return tuple(connection.execute(sql, (id,)).fetchone())


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    schema = f"w{os.getpid()}x{next(numbers)}"
    found = Work(ProjectDatabase.open(f"{shared_url()}#{schema}", create=True), schema)
    yield found
    with PostgresDatabase(shared_url(), "public").writer() as connection:
        for name in (schema, f"{schema}_audit", f"{schema}_data"):
            connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@pytest.fixture
def empty(work: Work) -> Work:
    """The same, without an installation."""
    work.clear()
    return work


class TestFindingWork:
    """What is due for longest comes first, once."""

    def test_what_a_dead_host_has_begun_goes_on_before_anything_new(self, empty: Work) -> None:
        waiting, begun = empty.add("waiting", "begun")
        empty.set("due = 10", waiting)
        empty.set("due = 20, owner = 'dead', attempt = 1", begun)
        claims = [*empty.table.claim("a", [], 1), *empty.table.claim("b", [], 1)]
        assert [(one.installation, one.before) for one in claims] == [(begun, "dead"), (waiting, None)]

    def test_each_work_is_claimed_once_and_the_oldest_first(self, empty: Work) -> None:
        first, second, later, none = empty.add("first", "second", "later", "nothing")
        for id, due in ((second, 20), (first, 10), (later, 4_000_000_000), (none, "NULL")):
            empty.set(f"due = {due}", id)
        claimed = [empty.table.claim("a", [], 1), empty.table.claim("b", [], 5), empty.table.claim("c", [])]
        assert [[one.installation for one in some] for some in claimed] == [[first], [second], []]

    def test_it_is_the_first_entry_of_an_index_however_many_installations_there_are(
        self, empty: Work
    ) -> None:
        (id,) = empty.add("one")
        with PostgresDatabase(shared_url(), empty.schema).writer() as connection:
            sql = """
                INSERT INTO installation SELECT 'i' || n, 'acme', 'i' || n, 'p' || n, '{}', '{}', 0, NULL, 1
                  FROM generate_series(1, 2000) AS n
            """
            connection.execute(sql)
            connection.execute("INSERT INTO work SELECT id, 4e9 FROM installation WHERE id <> ?", (id,))
            connection.execute("ANALYZE work")
            plan = connection.execute(f"EXPLAIN {postgres_claim()}", ([], True, 1, "a")).fetchall()
        assert any("Index Scan using work_due" in line for (line,) in plan), plan
        assert not any("Seq Scan" in line for (line,) in plan), plan

    def test_what_is_asked_during_a_lease_is_due_when_it_is_given_back(self, empty: Work) -> None:
        (id,) = empty.add("one")
        (claim, again) = (claimed(empty.table, id), {"options": {"full": True}})
        empty.table.ask(id, again)
        assert empty.table.claim("b", []) == []
        empty.table.give_back("a", claim, next_at=None)
        assert [one.asked for one in empty.table.claim("b", [])] == [again]

    def test_what_was_asked_for_and_cannot_begin_is_asked_until_it_has_begun(self, empty: Work) -> None:
        (id,) = empty.add("one")
        empty.table.ask(id, {"options": {}})
        for claim in (claimed(empty.table, id), *empty.table.claim("a", [])):
            assert claim.asked == {"options": {}}
            empty.table.give_back("a", claim, next_at=4e9, failures=1, problem="no key")
            assert empty.seen(id) == (True, "no key", 4e9)
            assert empty.table.claim("b", []) == []
            empty.set("due = 0", id)
        (claim,) = empty.table.claim("a", [])
        empty.table.begun(claim)
        empty.table.give_back("a", claim, next_at=None)
        assert empty.seen(id) == (False, None, None)

    @pytest.mark.parametrize("request_text", ['[{"a": 1', "[[1]]", "null"])
    def test_a_request_that_makes_no_sense_is_a_problem_of_its_installation_alone(
        self, empty: Work, request_text: str
    ) -> None:
        wrong, other = (empty.project.add("nope", name, {}, {}, now=1.0) for name in ("wrong", "other"))
        empty.set(f"due = 0, asked = '{request_text}'", wrong.id)
        empty.table.ask(other.id, {})
        for claim in empty.table.claim("a", [], 2):
            empty.table.give_back("a", claim, next_at=0.0)

        async def main() -> None:
            worker = FleetWorker(Project(empty.project), look=0.01)
            await worker.start()
            await until(lambda: empty.seen(wrong.id)[1] and empty.seen(other.id)[1])
            await worker.stop()

        asyncio.run(main())
        assert "the stored request for a sync cannot be read" in empty.seen(wrong.id)[1]
        assert "max sync NAME --ask" in empty.seen(wrong.id)[1]
        assert "unknown connector 'nope'" in empty.seen(other.id)[1]

    def test_a_lease_that_another_one_has_cannot_be_given_back(self, empty: Work) -> None:
        (id,) = empty.add("one")
        old = claimed(empty.table, id)
        empty.set("due = 0", id)
        assert [one.before for one in empty.table.claim("b", [])] == ["a"]
        empty.table.give_back("a", old, next_at=None)
        assert empty.table.leased_by(id) == "b"
        assert empty.table.keep("a", [id]) == {}

    def test_the_work_of_a_dead_host_is_found_within_half_a_minute(self) -> None:
        from max.serve.fleet import LOOK

        assert BEAT + LEASE + LOOK <= LONGEST


def postgres_claim() -> str:
    """The statement that claims work, in a project's schema."""
    from max.storage.postgres_work import CLAIM

    return CLAIM.format(work="work")


def claimed(table: WorkTable, id: str) -> Claim:
    table.wake(id)
    (claim,) = table.claim("a", [])
    return claim


def put(number: int) -> Callable[[Any], Any]:
    return lambda connection: connection.execute("INSERT INTO one VALUES (?)", (number,))


STEPS = st.lists(st.tuples(st.sampled_from(["claim", "expire", "write"]), st.integers(0, 2)), max_size=14)


class TestFencing:
    """A transaction under a lease that another process has by now stores nothing."""

    @settings(max_examples=15)
    @given(steps=STEPS)
    def test_p8_only_the_newest_owner_of_a_lease_stores_anything(
        self, work: Work, steps: list[tuple[str, int]]
    ) -> None:
        work.clear()
        (id,) = work.add("one")
        work.table.wake(id)

        async def main() -> None:
            owners = [PostgresDatabase(shared_url(), f"{work.schema}_data") for _ in range(3)]
            for one in owners:
                await one.start()
            await owners[0].transact(lambda c: c.execute("CREATE TABLE IF NOT EXISTS one (n INTEGER)"))
            await owners[0].transact(lambda c: c.execute("DELETE FROM one"))
            newest: int | None = None
            due, stored = True, []
            for number, (what, who) in enumerate(steps):
                if what == "expire":
                    work.set("due = 0", id)
                    due = True
                elif what == "claim":
                    found = work.table.claim(f"owner {who}", [])
                    assert bool(found) is due
                    for claim in found:
                        newest, due = who, False
                        owners[who].fence = Fence(work.table.name, id, claim.attempt)
                elif newest == who:
                    await owners[who].transact(put(number))
                    stored.append((number,))
                elif owners[who].fence is not None:
                    with pytest.raises(SyncTakenOver, match="has taken over this sync"):
                        await owners[who].transact(put(number))
            rows = await owners[0].read(lambda c: c.execute("SELECT n FROM one ORDER BY n").fetchall())
            assert rows == stored
            for one in owners:
                await one.stop()

        asyncio.run(main())

    def test_a_transaction_whose_process_is_stopped_holds_up_the_next_owner_for_a_while_alone(
        self, empty: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "IDLE", 1)
        (id,) = empty.add("one")
        old, new = (PostgresDatabase(shared_url(), f"{empty.schema}_data") for _ in range(2))
        old.fence = Fence(empty.table.name, id, claimed(empty.table, id).attempt)
        with old.writer():
            pass  # makes the schema
        stopped = old._session()
        connection = stopped.begin(postgres.WRITE)
        connection.execute("CREATE TABLE never (n INTEGER)")
        empty.set("due = 0", id)
        new.fence = Fence(empty.table.name, id, empty.table.claim("b", [])[0].attempt)
        with new.writer() as other:  # waits for the lock until the server has ended the other transaction
            assert other.dialect.columns(other, "never") == set()
        with pytest.raises(PostgresConnection.dialect.errors):
            connection.execute("INSERT INTO never VALUES (1)")
        stopped.rollback()
        with pytest.raises(SyncTakenOver):
            stopped.transact(put(1))

    def test_a_transaction_has_the_fence_of_the_moment_at_which_it_was_asked_for(self, empty: Work) -> None:
        (id,) = empty.add("one")
        claim = claimed(empty.table, id)
        empty.set("due = 0", id)
        assert empty.table.claim("b", [])  # so what waits for its turn is late

        async def main() -> None:
            database, under_way = PostgresDatabase(shared_url(), f"{empty.schema}_data"), threading.Event()
            await database.start()
            before = asyncio.create_task(database.transact(lambda _: under_way.wait()))
            await asyncio.sleep(0)
            database.fence = Fence(empty.table.name, id, claim.attempt)
            late = asyncio.create_task(
                database.transact(lambda c: c.execute("CREATE TABLE late (n INTEGER)"))
            )
            await asyncio.sleep(0)
            database.fence = None  # as when the lease is given back
            under_way.set()
            await before
            with pytest.raises(SyncTakenOver):
                await late
            await database.stop()

        asyncio.run(main())

    def test_a_lease_that_is_taken_during_a_heartbeat_does_no_harm(self, empty: Work) -> None:
        info = empty.project.add("acme", "one", {}, {}, now=1.0)
        keeper = LeaseKeeper(empty.table)

        class Meanwhile(PostgresLease):
            """While it is read, another one is taken."""

            @property
            def attempt(self) -> int:
                keeper._leases[f"another {len(keeper._leases)}"] = self
                return 0

        keeper._leases[info.id] = Meanwhile(keeper, info, PostgresDatabase(shared_url(), "unused"))
        keeper._keep()
        assert len(keeper._leases) > 1


class TestProcessesThatDie:
    """An installation whose work ends its processes does not end all that there are."""

    def test_after_three_in_a_row_it_waits_and_says_so(self, empty: Work) -> None:
        info = empty.project.add("acme", "one", {}, {}, now=1.0)
        empty.set("due = 0, owner = 'the second', lost = 2", info.id)

        async def main() -> None:
            worker = FleetWorker(Project(empty.project), look=0.01)
            await worker.start()
            await until(lambda: not (worker._turns or is_due(empty, info.id)))
            await worker.stop()

        asyncio.run(main())
        with PostgresDatabase(shared_url(), empty.schema).writer() as connection:
            sql = f"SELECT owner, lost, problem, due > {NOW} FROM work WHERE installation = ?"
            row = connection.execute(sql, (info.id,)).fetchone()
        assert row == (None, 3, "3 processes in a row have ended during its work", True)

    def test_what_was_in_two_that_died_is_claimed_apart_until_one_outlives_it(self, empty: Work) -> None:
        one, another, calm = empty.add("one", "another", "calm")
        for id in (one, another):
            empty.set("due = 0, owner = 'the second', lost = 1", id)
        empty.set("due = 0", calm)
        found = {claim.installation: claim for claim in empty.table.claim("a", [], 3)}
        suspect = next(found[id] for id in (one, another) if id in found)
        assert (set(found), suspect.lost, suspect.is_suspect) == ({suspect.installation, calm}, 2, True)
        assert not found[calm].is_suspect
        assert empty.table.claim("a", [*found], 3, suspects=False) == []
        assert empty.table.next_due([*found], suspects=False)[0] is None
        assert empty.table.next_due([*found])[0] == 0.0
        (other,) = empty.table.claim("b", [], 3)  # another worker may take it
        assert other.is_suspect
        empty.table.give_back("a", suspect, next_at=0.0)
        empty.table.give_back("b", other, next_at=0.0, lost=other.lost)
        assert [claim.is_suspect for claim in empty.table.claim("c", [], 3, suspects=False)] == [False]

    def test_those_of_one_that_died_go_on_together(self, empty: Work) -> None:
        ids = empty.add("one", "two")
        for id in ids:
            empty.set("due = 0, owner = 'dead'", id)
        claims = empty.table.claim("a", [], 2)
        assert [(claim.installation in ids, claim.is_suspect) for claim in claims] == [(True, False)] * 2

    def test_a_worker_with_one_that_is_suspect_takes_no_other_one(self, empty: Work) -> None:
        infos = [empty.project.add("nope", name, {}, {}, now=1.0) for name in ("one", "two")]
        for info in infos:
            empty.set("due = 0, owner = 'the second', lost = 1", info.id)
        most = 0

        class Watched(FleetWorker):
            """It counts how many it has at once."""

            async def _turn(self, claim: Claim) -> None:
                nonlocal most
                most = max(most, len(self._suspects))
                await super()._turn(claim)

        async def main() -> None:
            worker = Watched(Project(empty.project), look=0.01)
            await worker.start()
            await until(lambda: not any(worker._turns or is_due(empty, one.id) for one in infos))
            await worker.stop()

        asyncio.run(main())
        assert most == 1


def is_due(work: Work, id: str) -> bool:
    """Whether no worker has done anything for an installation yet, or one does."""
    with PostgresDatabase(shared_url(), work.schema).writer() as connection:
        sql = "SELECT owner IS NOT NULL FROM work WHERE installation = ?"
        return bool(connection.execute(sql, (id,)).fetchone()[0])
