"""The SQLite task store: what a fault leaves behind, and what holds for any history of syncs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.engine import DatabaseEngine
from max.errors import StorageError, SyncError, SyncRunning
from max.model.delivery import Delivery, ListingPage, Write
from max.model.loaders import UnknownLoaders
from max.model.tasks import SPECS, NewTask, Settlement, SettleResult, State, Status, SyncCommand, Task
from max.storage.leases import LEASE, new_worker
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase
from max.storage.task_store import DatabaseTaskStore
from tests.contract.places import SCHEMA, Person, Team, parts
from tests.contract.test_task_store import HERE, done, expansion, failed, group, load, on, waits

T = TypeVar("T")
RED = Team.ref("red")


class Place:
    """An installation's database, with its engine and its task store."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database
        self.engine = DatabaseEngine(database, UnknownLoaders(SCHEMA, parts), clock=lambda: 1.0)
        self.store = DatabaseTaskStore(database)
        self.sync = ""

    async def begin(self, *steps: NewTask) -> list[Task]:
        """Begin a sync and claim what can be."""
        self.sync = await self.store.begin([], group(*steps, chained=True), worker=HERE, now=1.0)
        return list((await self.settle()).claimed)

    async def settle(self, *settlements: Settlement, claim: int = 9) -> SettleResult:
        """Settle and claim."""
        return await self.store.settle(
            self.sync,
            on(self.database, settlements),
            worker=HERE,
            claim=claim,
            alone=True,
            requests={"a:b:c": 1},
            now=1.5,
        )

    def page(self, task: Task, number: int, size: int = 3, *, last: bool = True) -> Settlement:
        """A page of people; the task completes with it, or goes on."""
        people = [Person(f"p{number}-{n}", name="Ada " * 9, score=float(n)) for n in range(size)]
        listing = ListingPage(RED, Team.people, number, last, 2.0, bookmark="m")
        write = self.engine.prepare_write(Delivery(people, 2.0, listing))
        state = State.COMPLETED if last else State.RUNNING
        spec = task.spec.replace(loader=f"page {number}")
        return Settlement(task, state, spec, [write], progress=True)

    async def dump(self) -> list[str]:
        """The whole database as SQL, with SYNC in place of the sync's id, and LOG in that of the log's."""
        lines = await self.database.read(lambda connection: list(connection.iterdump()))
        name = "SELECT name FROM _max_change_log"
        log = await self.database.read(lambda connection: connection.execute(name).fetchone()[0])
        return [line.replace(self.sync, "SYNC").replace(log, "LOG") for line in lines]


def using(path: str | Path, body: Callable[[Place], Awaitable[T]]) -> T:
    """Run a body on a database that is open."""

    async def main() -> T:
        database = SqliteDatabase(path)
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
    """Makes the nth action of SQLite fail, once."""

    def __init__(self, nth: int) -> None:
        self.left, self.armed = nth, False

    def __call__(self, *action: object) -> int:
        """What SQLite asks before each action."""
        self.left -= self.armed
        return sqlite3.SQLITE_DENY if self.armed and self.left == 0 else sqlite3.SQLITE_OK


def end_of_a_page(place: Place) -> Callable[[Task], Sequence[Settlement]]:
    """A task's last page: rows, members, freshness, bookmark, cursor, and the states of tasks."""
    return lambda task: [place.page(task, 0)]


def a_fan_out(place: Place) -> Callable[[Task], Sequence[Settlement]]:
    """A task creates children and waits for them."""
    return lambda task: [waits(task, *map(load, "abc"))]


def a_failure(place: Place) -> Callable[[Task], Sequence[Settlement]]:
    """A task fails, the next step is blocked, and the sync ends."""
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


def set_room(pages: int) -> Callable[[SqliteConnection], None]:
    """Limit the growth of the file to some pages."""

    def work(connection: SqliteConnection) -> None:
        size = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {size + pages}")

    return work


def test_a_value_that_cannot_be_stored_fails_only_its_task() -> None:
    def too_big(connection: SqliteConnection) -> Any:
        connection.execute("SELECT zeroblob(2000000000)")

    async def body(place: Place) -> None:
        bad, good = await place.begin(group(load("a"), load("b")))
        settled = await place.settle(
            Settlement(bad, State.COMPLETED, writes=[Write(None, too_big)]), place.page(good, 0)
        )
        assert isinstance(settled.outcomes[0].error, SyncError)
        assert "string or blob too big" in str(settled.outcomes[0].error)
        assert settled.outcomes[1].state is State.COMPLETED
        assert (await place.settle(failed(bad))).status is Status.PARTIAL

    using(MEMORY, body)


def test_the_cost_of_a_task_does_not_grow_with_its_siblings() -> None:
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


def page(task: Task) -> Settlement:
    """The task has more pages."""
    return Settlement(task, State.RUNNING, progress=True)


def again(task: Task) -> Settlement:
    """The task waits for another try."""
    return Settlement(task, State.PENDING)


ENDS = [done, failed, page, page, page, again]


class History:
    """Syncs that processes begin, run, pause, cancel and die in, checked against a plain model.

    Every process is of another machine, so it counts as dead after its lease.
    """

    def __init__(self, place: Place) -> None:
        self.store, self.database = place.store, place.database
        self.now, self.processes = 1000.0, 0
        self.ids: list[str] = []
        self.final: dict[str, Status] = {}
        self.given: set[int] = set()  # tasks of the newest sync that were ever claimed
        self.ended: set[tuple[str, int]] = set()  # the sync and id of each task that ended
        self.restart()

    def restart(self) -> None:
        """A new process, which knows nothing."""
        self.processes += 1
        self.worker = f"machine{self.processes}/boot/1/1/x"
        self.sync: str | None = None
        self.tasks: list[Task] = []

    async def begin(self, chance: Random) -> None:
        """Begin a sync with groups of tasks, unless a process runs one."""
        steps = (group(*map(load, "abcd"[: chance.randrange(5)])) for _ in range(chance.randrange(4)))
        plan = group(*steps, chained=chance.random() < 0.5)
        with suppress(SyncRunning):
            self.sync = await self.store.begin([], plan, worker=self.worker, now=self.now)
            self.ids.append(self.sync)
            self.tasks, self.given = [], set()

    async def resume(self, chance: Random) -> None:
        """Resume the unfinished sync, if no process runs it."""
        with suppress(SyncRunning):
            id = await self.store.unfinished(worker=self.worker, now=self.now)
            if id is not None and self.sync is None:
                await self.store.resume(id, worker=self.worker, now=self.now)
                self.sync = id

    async def settle(self, chance: Random) -> None:
        """Some tasks end, go on or are tried again, and new ones are claimed."""
        if self.sync is None:
            await chance.choice([self.begin, self.resume, self.resume])(chance)
        if self.sync is None:
            return
        chance.shuffle(self.tasks)
        count = chance.randint(0, len(self.tasks))
        ending, self.tasks = self.tasks[:count], self.tasks[count:]
        settlements = on(self.database, [chance.choice(ENDS)(task) for task in ending])
        settled = await self.store.settle(
            self.sync,
            settlements,
            worker=self.worker,
            claim=2,
            alone=not self.tasks,
            requests={},
            now=self.now,
        )
        for task, outcome in zip(ending, settled.outcomes, strict=True):
            assert outcome.error is None
            self.tasks += [task] if outcome.state is State.RUNNING else []
            self.ended |= (
                {(task.sync, task.id)} if outcome.state in (State.COMPLETED, State.FAILED) else set()
            )
        assert not self.ended & {(task.sync, task.id) for task in settled.claimed}, (
            "an ended task never runs again"
        )
        self.tasks += settled.claimed
        self.given |= {task.id for task in settled.claimed}
        await self.follow(settled)

    async def follow(self, settled: SettleResult) -> None:
        """Do what a worker does next."""
        if settled.status is not Status.RUNNING:
            assert {(self.sync, id) for id in self.given} <= self.ended, "every claimed task has ended"
            self.sync, self.tasks = None, []
        elif settled.command is SyncCommand.RUN:
            assert self.tasks or settled.due is not None, "a running sync has work"
        elif not self.tasks:
            status = await self.store.apply_command(self.sync or "", worker=self.worker, now=self.now)
            assert status in (Status.PAUSED, Status.CANCELLED)
            self.sync = None

    async def request(self, chance: Random) -> None:
        """Give the newest sync a command."""
        wanted = chance.choice([SyncCommand.PAUSE] * 3 + [SyncCommand.RUN] * 4 + [SyncCommand.CANCEL])
        if self.ids:
            with suppress(SyncError):  # it has ended, or is being cancelled
                await self.store.request(self.ids[-1], wanted, now=self.now)

    async def waver(self, chance: Random) -> None:
        """Request a pause, and take it back before it is applied."""
        if len(self.tasks) > 1:
            with suppress(SyncError):  # it is being cancelled
                await self.store.request(self.sync or "", SyncCommand.PAUSE, now=self.now)
            await self.settle(chance)
        await self.request(chance)

    async def crash(self, chance: Random) -> None:
        """The process dies; others notice after its lease."""
        self.now += chance.choice([0.0, LEASE])
        self.restart()

    async def release(self, chance: Random) -> None:
        """The process stops and releases its sync."""
        if self.sync is not None:
            await self.store.release(self.sync, worker=self.worker, now=self.now)
            self.sync, self.tasks = None, []

    async def prune(self, chance: Random) -> None:
        """Prune."""
        await self.store.prune()

    async def check(self) -> None:
        """Check that every sync has kept its id and its final status."""
        found = await self.store.runs(1000, now=self.now)
        assert [run.id for run in found] == self.ids[::-1] == sorted(set(self.ids), reverse=True)
        for run in found:
            if run.status.final:
                assert self.final.setdefault(run.id, run.status) is run.status
                assert (run.finished_at is not None, run.worker) == (True, None)
            else:
                assert run.id not in self.final, "an ended sync does not begin again"
                assert run.id == self.ids[-1], "only the newest sync runs"


STEPS = ["settle"] * 12 + ["request"] * 4 + ["begin", "resume", "waver", "crash", "release", "prune"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(STEPS), min_size=60, max_size=90), st.integers(0, 2**32))
def test_p3_ids_are_unique_and_each_sync_reaches_exactly_one_final_status(
    steps: list[str], seed: int
) -> None:
    async def body(place: Place) -> None:
        history, chance = History(place), Random(seed)
        for step in steps:
            await getattr(history, step)(chance)
            await history.check()

    using(MEMORY, body)


def test_p3_ids_are_unique_over_processes_that_begin_at_the_same_time(tmp_path: Path) -> None:
    async def begin() -> list[str]:
        database = SqliteDatabase(tmp_path / "data.db")
        await database.start()
        try:
            store, found = DatabaseTaskStore(database), []
            await store.start()
            for _ in range(20):
                found.append(await store.begin([], group(), worker=new_worker(), now=5.0))
            return found
        finally:
            await database.stop()

    async def main() -> list[str]:
        one, two = await asyncio.gather(begin(), begin())
        return one + two

    found = asyncio.run(main())
    assert len(set(found)) == 40
    assert {len(id) for id in found} == {10}


def test_random_histories_use_every_kind_of_task() -> None:
    assert list(SPECS) == ["group", "expand", "load_fields", "load_collection", "follow", "remove"]


def test_a_write_for_another_database_is_refused_and_nothing_is_stored() -> None:
    async def body(place: Place) -> None:
        (task,) = await place.begin(load("a"))
        other = DatabaseEngine(SqliteDatabase(MEMORY), UnknownLoaders(SCHEMA, parts))
        write = other.prepare_write(Delivery([Person("1", name="Ada")], 2.0))
        with pytest.raises(StorageError, match="prepared for another database"):
            await place.settle(Settlement(task, State.COMPLETED, writes=[write]))
        assert await place.engine.query(Person).count() == 0
        assert (await place.settle(done(task))).status is Status.COMPLETED

    using(MEMORY, body)
