"""The SQLite task store: what a fault leaves behind, and what any history keeps to."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from max.core import Arrival, Listing
from max.engine import SqliteEngine
from max.errors import MaxError, StorageError, SyncError, SyncRunning
from max.sqlite import MEMORY, Database
from max.task_store import SqliteTaskStore
from max.tasks import (
    LEASE,
    NewTask,
    Settled,
    Settlement,
    State,
    Status,
    Task,
    TaskKind,
    Wanted,
    new_worker,
)
from tests.contract.places import SCHEMA, Person, Team, parts
from tests.contract.test_task_store import HERE, done, expansion, failed, group, load, waits

T = TypeVar("T")
RED = Team.ref("red")


class Place:
    """An installation's database, with everything that shares it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.engine = SqliteEngine(database, SCHEMA, parts)
        self.store = SqliteTaskStore(database)
        self.sync = ""

    async def begin(self, *steps: NewTask) -> list[Task]:
        """Begin a sync and claim what can be."""
        self.sync = await self.store.begin([], group(*steps, chained=True), worker=HERE, now=1.0)
        return list((await self.settle()).claimed)

    async def settle(self, *settlements: Settlement, claim: int = 9) -> Settled:
        """Settle and claim."""
        return await self.store.settle(
            self.sync, settlements, worker=HERE, claim=claim, alone=True, requests={"a:b:c": 1}, now=1.5
        )

    def page(self, task: Task, number: int, size: int = 3, *, last: bool = True) -> Settlement:
        """A page of people, with which the task has ended or goes on."""
        people = [Person(f"p{number}-{n}", name="Ada " * 9, score=float(n)) for n in range(size)]
        listing = Listing(RED, Team.people, number, last, mark="m")
        write = self.engine.writing(Arrival(people, 2.0, listing))
        state = State.COMPLETED if last else State.RUNNING
        return Settlement(task, state, {**task.payload, "cursor": number}, [write], progress=True)

    async def dump(self) -> list[str]:
        """All that is durable, whatever the sync's id."""
        lines = await self.database.read(lambda connection: list(connection.iterdump()))
        return [line.replace(self.sync, "SYNC") for line in lines]


def using(path: str | Path, body: Callable[[Place], Awaitable[T]]) -> T:
    """Run a body on a database that is open."""

    async def main() -> T:
        database = Database(path)
        await database.start()
        try:
            place = Place(database)
            await place.engine.start()
            await place.store.start()
            return await body(place)
        finally:
            await database.stop()

    return asyncio.run(main())


# -- faults ---------------------------------------------------------------------------------


class Denies:
    """Makes the nth thing that SQLite is asked to do fail, once."""

    def __init__(self, nth: int) -> None:
        self.left, self.armed = nth, False

    def __call__(self, *action: object) -> int:
        """What SQLite asks before each action."""
        self.left -= self.armed
        return sqlite3.SQLITE_DENY if self.armed and self.left == 0 else sqlite3.SQLITE_OK


def end_of_a_page(place: Place) -> Callable[[Task], Sequence[Settlement]]:
    """A task's last page: rows, links, freshness, mark, cursor, its own state, its parent, the next step."""
    return lambda task: [place.page(task, 0)]


def a_fan_out(place: Place) -> Callable[[Task], Sequence[Settlement]]:
    """A task makes children and waits for them."""
    return lambda task: [waits(task, *map(load, "abc"))]


def a_failure(place: Place) -> Callable[[Task], Sequence[Settlement]]:
    """A task fails, what waited is blocked, and the sync ends."""
    return lambda task: [failed(task)]


@pytest.mark.parametrize("kind", [end_of_a_page, a_fan_out, a_failure])
def test_a_fault_anywhere_in_a_settlement_leaves_the_old_state_or_the_new_one(kind: Any) -> None:
    def after(nth: int) -> tuple[list[str], list[str], bool]:
        async def body(place: Place) -> tuple[list[str], list[str], bool]:
            (task,) = await place.begin(expansion(), load("next"))
            old, denies = await place.dump(), Denies(nth)
            await place.database.read(lambda c: c.set_authorizer(denies))
            denies.armed = True
            with suppress(StorageError):
                await place.store.settle(
                    place.sync, kind(place)(task), worker=HERE, claim=0, alone=True, requests={}, now=1.5
                )
            denies.armed = False
            return old, await place.dump(), denies.left > 0

        return using(MEMORY, body)

    _, new, _ = after(0)
    faults, finished = 0, False
    while not finished:
        faults += 1
        old, found, finished = after(faults)
        assert found == (new if finished else old), f"fault {faults}"
    assert faults > 10


def test_a_full_disk_is_one_error_and_the_sync_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        (task,) = await place.begin(load("list"))
        old = await place.dump()
        await place.database.transact(set_room(0))
        with pytest.raises(StorageError, match="full") as caught:
            await place.settle(place.page(task, 0, size=5_000))
        assert caught.value.hint == "free some space on the disk; what was stored before is safe"
        assert await place.dump() == old
        await place.database.transact(set_room(1_000_000))
        await place.store.resume(place.sync, worker=HERE, now=3.0)
        (again,) = (await place.settle()).claimed
        assert (await place.settle(place.page(again, 0, size=5_000))).status is Status.COMPLETED
        assert await place.engine.query(Person).count() == 5_000

    using(tmp_path / "data.db", body)


def set_room(pages: int) -> Callable[[sqlite3.Connection], None]:
    """Let the file grow by so many pages."""

    def work(connection: sqlite3.Connection) -> None:
        size = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {size + pages}")

    return work


def test_a_value_that_no_row_can_hold_fails_its_task_alone() -> None:
    def too_big(connection: sqlite3.Connection) -> Any:
        connection.execute("SELECT zeroblob(2000000000)")

    async def body(place: Place) -> None:
        bad, good = await place.begin(group(load("a"), load("b")))
        settled = await place.settle(Settlement(bad, State.COMPLETED, writes=[too_big]), place.page(good, 0))
        assert isinstance(settled.outcomes[0].error, SyncError)
        assert "string or blob too big" in str(settled.outcomes[0].error)
        assert settled.outcomes[1].state is State.COMPLETED
        assert (await place.settle(failed(bad))).status is Status.PARTIAL

    using(MEMORY, body)


def test_what_a_task_costs_does_not_grow_with_its_siblings() -> None:
    async def steps(place: Place, siblings: int) -> int:
        (task,) = await place.begin(expansion())
        children = (await place.settle(waits(task, *map(load, map(str, range(siblings)))))).claimed
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 1

        await place.database.read(lambda c: c.set_progress_handler(count, 50))
        await place.settle(*map(done, children))
        await place.database.read(lambda c: c.set_progress_handler(None, 0))
        return counted

    few = using(MEMORY, lambda place: steps(place, 50))
    many = using(MEMORY, lambda place: steps(place, 1_900))
    assert many < few * 1.5


# -- any history ------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Syncs that processes begin, work at, pause, cancel and die over, beside a plain model.

    Every process is one of another machine, so that it is dead when its lease has passed.
    """

    @initialize()
    def open(self) -> None:
        """A new store; the model knows of no sync."""
        self.runner = asyncio.Runner()
        self.database = Database(MEMORY)
        self.run(self.database.start())
        self.store = SqliteTaskStore(self.database)
        self.run(self.store.start())
        self.now, self.workers = 1000.0, 0
        self.ids: list[str] = []
        self.final: dict[str, Status] = {}
        self.ended: set[int] = set()
        self.restart()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the loop do something."""
        return self.runner.run(work)

    def restart(self) -> None:
        """A new process, which knows of nothing."""
        self.workers += 1
        self.worker = f"machine{self.workers}/boot/1/1/x"
        self.sync: str | None = None
        self.tasks: list[Task] = []

    def teardown(self) -> None:
        """Close what is open."""
        self.run(self.database.stop())
        self.runner.close()

    @precondition(lambda self: self.sync is None)
    @rule(steps=st.lists(st.integers(0, 3), max_size=3), chained=st.booleans())
    def begin(self, steps: list[int], chained: bool) -> None:
        """Begin a sync with groups of so many tasks, unless someone is at one."""
        plan = group(*(group(*map(load, "abc"[:size])) for size in steps), chained=chained)
        try:
            id = self.run(self.store.begin([], plan, worker=self.worker, now=self.now))
        except SyncRunning:
            return
        assert not self.ids or id > max(self.ids)
        self.ids.append(id)
        self.sync = id

    @precondition(lambda self: self.sync is None)
    @rule()
    def resume(self) -> None:
        """Take over what was left, if it is free."""
        try:
            id = self.run(self.store.unfinished(worker=self.worker, now=self.now))
        except SyncRunning:
            return
        if id is not None:
            self.run(self.store.resume(id, worker=self.worker, now=self.now))
            self.sync = id

    @precondition(lambda self: self.sync is not None)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Some tasks end, go on or are tried again; new ones are claimed."""
        count = data.draw(st.integers(0, len(self.tasks)))
        ending, self.tasks = self.tasks[:count], self.tasks[count:]
        settlements = [
            data.draw(st.sampled_from([done, failed, lambda t: Settlement(t, State.PENDING)]))(task)
            for task in ending
        ]
        settled = self.run(
            self.store.settle(
                self.sync or "",
                settlements,
                worker=self.worker,
                claim=2,
                alone=not self.tasks,
                requests={},
                now=self.now,
            )
        )
        assert all(outcome.error is None for outcome in settled.outcomes)
        self.ended |= {one.task.id for one in settlements if one.state is not State.PENDING}
        assert not self.ended & {task.id for task in settled.claimed}, "what has ended never runs again"
        self.tasks += settled.claimed
        if settled.status is Status.RUNNING and settled.wanted is Wanted.RUN:
            assert self.tasks or settled.due is not None, "a sync that goes on has something to do"
        elif settled.status is Status.RUNNING and not self.tasks:
            status = self.run(self.store.obey(self.sync or "", worker=self.worker, now=self.now))
            assert status in (Status.PAUSED, Status.CANCELLED)
            self.sync = None
        elif settled.status is not Status.RUNNING:
            self.sync, self.tasks = None, []

    @precondition(lambda self: self.ids)
    @rule(wanted=st.sampled_from(Wanted))
    def request(self, wanted: Wanted) -> None:
        """Anybody asks the newest sync for something."""
        try:
            self.run(self.store.request(self.ids[-1], wanted, now=self.now))
        except MaxError as error:
            assert "already ended" in str(error) or "being cancelled" in str(error)

    @rule()
    def crash(self) -> None:
        """The process dies, and its lease passes."""
        self.now += LEASE
        self.restart()

    @rule()
    def crash_before_the_lease_has_passed(self) -> None:
        """The process dies; nobody can know yet."""
        self.restart()

    @precondition(lambda self: self.sync is not None)
    @rule()
    def release(self) -> None:
        """The process stops in good order."""
        self.run(self.store.release(self.sync or "", worker=self.worker, now=self.now))
        self.sync, self.tasks = None, []

    @rule()
    def prune(self) -> None:
        """Forget what can be."""
        self.run(self.store.prune())

    @invariant()
    def every_sync_keeps_its_id_and_its_one_final_status(self) -> None:
        """What the store says of each sync agrees with all that it ever said."""
        if not hasattr(self, "ids"):
            return
        found = self.run(self.store.runs(1000, now=self.now))
        assert [run.id for run in found] == self.ids[::-1]
        assert sum(not run.status.final for run in found) <= 1
        for run in found:
            if run.status.final:
                assert self.final.setdefault(run.id, run.status) is run.status
                assert (run.finished_at is not None, run.worker) == (True, None)
            else:
                assert run.id not in self.final, "what has ended does not begin again"
                assert run.id == self.ids[-1]


def test_p3_ids_are_unique_and_each_sync_reaches_exactly_one_final_status() -> None:
    Histories.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
    case = Histories.TestCase()
    case.runTest()
    assert case.settings.max_examples == 40


def test_p3_ids_are_unique_over_processes_that_begin_at_the_same_time(tmp_path: Path) -> None:
    async def begin(number: int) -> list[str]:
        database = Database(tmp_path / "data.db")
        await database.start()
        try:
            store, found = SqliteTaskStore(database), []
            await store.start()
            for _ in range(20):
                found.append(await store.begin([], group(), worker=new_worker(), now=5.0))
            return found
        finally:
            await database.stop()

    async def main() -> list[list[str]]:
        return await asyncio.gather(begin(0), begin(1))

    found = [id for some in asyncio.run(main()) for id in some]
    assert len(set(found)) == 40
    assert {len(id) for id in found} == {10}


def test_the_kinds_of_tasks_are_what_history_holds() -> None:
    assert list(TaskKind) == ["group", "expand", "load_fields", "load_collection"]
