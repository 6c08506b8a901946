"""The contract of every TaskStore: claims, settlements, what follows from them, and the log."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from max.core import TaskStore
from max.errors import (
    LONGEST_WAIT,
    LeaseLost,
    NotFound,
    SyncError,
    SyncRunning,
    UpstreamBroken,
    UsageError,
    describe,
)
from max.model.delivery import Write, WriteResult
from max.model.tasks import (
    CHILDREN_PAGE,
    ExpandTask,
    GroupTask,
    ListingPosition,
    ListTask,
    LoadFieldsTask,
    NewTask,
    Outcome,
    Settlement,
    SettleResult,
    State,
    Status,
    SyncCommand,
    SyncResult,
    Task,
    failure_of,
)
from max.storage.leases import LEASE, new_worker, this_system
from max.storage.postgres import PostgresDatabase
from max.storage.settlement import CHILDREN_BOUND
from max.storage.sync_log import request
from max.storage.sync_state import sync_state
from max.storage.task_store import KEPT_SYNCS, DatabaseTaskStore
from tests.contract.places import database_at, place, postgres_place

__all__ = ["place"]
T = TypeVar("T")

HERE = new_worker()
REUSED = f"host/{this_system()}/{os.getpid()}/1/x"  # this process's pid with another start
GONE = f"host/{this_system()}/4194305/1/x"  # greater than any pid
ELSEWHERE = "elsewhere/boot/pid:[1]/1/1/x"


class Desk:
    """A store with a clock and one worker, unless another is given."""

    def __init__(self, store: TaskStore, database: object) -> None:
        self.store, self.database, self.now, self.sync = store, database, 1000.0, ""

    async def begin(self, *children: NewTask, chained: bool = True, worker: str = HERE) -> str:
        """Begin a sync of a plan with these steps."""
        root = group(*children, chained=chained)
        self.sync = await self.store.begin([], root, worker=worker, now=self.now)
        return self.sync

    async def settle(
        self, *settlements: Settlement, claim: int = 100, alone: bool = True, worker: str = HERE, **calls: int
    ) -> SettleResult:
        """Settle and claim."""
        return await self.store.settle(
            self.sync,
            on(self.database, settlements),
            worker=worker,
            claim=claim,
            alone=alone,
            requests=calls,
            now=self.now,
        )

    async def claim(self, worker: str = HERE, *, alone: bool = True) -> list[Task]:
        """Claim all tasks."""
        return list((await self.settle(worker=worker, alone=alone)).claimed)

    async def resume(self, worker: str = HERE) -> None:
        """Resume the sync."""
        await self.store.resume(self.sync, worker=worker, now=self.now)

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, also by the clock of a server."""
        self.now += seconds
        if isinstance(self.database, PostgresDatabase):
            sql = "UPDATE _max_worker SET heartbeat_at = heartbeat_at - ?"
            await self.database.transact(lambda known: known.execute(sql, (seconds,)))

    async def result(self) -> SyncResult:
        """The result so far."""
        return await self.store.result(self.sync, now=self.now)

    async def request(self, command: SyncCommand) -> None:
        """Give a command."""
        await self.store.request(self.sync, command, now=self.now)


def load(id: str = "1") -> NewTask:
    """A step that loads one thing."""
    return NewTask(LoadFieldsTask("Thing", ("title",), "load_title", (id,)))


LISTING = ListTask("Thing", "parts", "1")
PAGE_2 = LISTING.replace(position=ListingPosition(1, "2"))


def listing() -> NewTask:
    """A step that lists the parts of one thing."""
    return NewTask(LISTING)


def expansion() -> NewTask:
    """A step that creates a task for each thing."""
    return NewTask(ExpandTask("Thing", "load_fields", ("title",), 0.0))


def group(*children: NewTask, chained: bool = False) -> NewTask:
    """Steps side by side, or one after the other."""
    return NewTask(GroupTask("a group"), children, chained)


def stores(number: int = 1) -> Write:
    """A write that stores some rows."""
    return Write(None, lambda transaction: WriteResult({"Thing": number}))


def on(database: object, settlements: Sequence[Settlement]) -> list[Settlement]:
    """The settlements with writes that were prepared for a database."""
    return [
        one._replace(writes=[Write(write.database or database, write.work) for write in one.writes])
        for one in settlements
    ]


def done(task: Task, **more: Any) -> Settlement:
    """The task completes."""
    return Settlement(task, State.COMPLETED, writes=[stores()], progress=True, **more)


def failed(task: Task) -> Settlement:
    """The task fails."""
    failure = failure_of(task, UpstreamBroken("it is down"), 0.0)
    return Settlement(task, State.FAILED, failures=[failure])


def waits(task: Task, *children: NewTask, more: bool = False) -> Settlement:
    """The task creates children and waits for them."""
    return Settlement(task, State.AWAITING_CHILDREN, children=children, more=more, progress=True)


def using(place: str, body: Callable[[Desk], Awaitable[T]]) -> T:
    """Run a body on an open store."""

    async def main() -> T:
        database = database_at(place)
        await database.start()
        try:
            store = DatabaseTaskStore(database)
            await store.start()
            return await body(Desk(store, database))
        finally:
            await database.stop()

    return asyncio.run(main())


def ids(tasks: Sequence[Task]) -> list[str]:
    """The id that each task loads."""
    return [str(task.spec.single_id) for task in tasks]


# -- claiming -------------------------------------------------------------------------------


def test_each_task_is_claimed_once_the_oldest_first(place: str) -> None:
    async def body(desk: Desk) -> list[list[str]]:
        await desk.begin(group(*map(load, "abc")))
        first = await desk.settle(claim=2)
        return [ids(first.claimed), ids(await desk.claim()), ids(await desk.claim())]

    assert using(place, body) == [["a", "b"], ["c"], []]


def test_steps_run_one_after_the_other(place: str) -> None:
    async def body(desk: Desk) -> list[list[str]]:
        await desk.begin(load("a"), load("b"))
        (first,) = await desk.claim()
        return [ids([first]), ids((await desk.settle(done(first))).claimed)]

    assert using(place, body) == [["a"], ["b"]]


def test_a_task_due_later_is_not_claimed_before(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin(load())
        (task,) = await desk.claim()
        settled = await desk.settle(Settlement(task, State.PENDING, wait=1060.0 - desk.now))
        assert (settled.claimed, settled.due, settled.waiting) == ([], 1060.0, 1)
        desk.now = 1059.9
        assert await desk.claim() == []
        desk.now = 1060.0
        (again,) = await desk.claim()
        assert (again.id, again.attempt, again.tries) == (task.id, 2, 2)

    using(place, body)


def test_progress_resets_the_tries_of_a_task(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin(listing())
        (task,) = await desk.claim()
        page = Settlement(task, State.RUNNING, PAGE_2, progress=True)
        outcome = (await desk.settle(page)).outcomes[0]
        assert outcome.state is State.RUNNING
        (again,) = (await desk.settle(Settlement(task, State.PENDING))).claimed
        assert (again.spec, again.attempt, again.tries) == (PAGE_2, 2, 2)

    using(place, body)


# -- what follows ---------------------------------------------------------------------------


def test_a_sync_completes_with_its_last_task(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(group(load("a"), load("b")), load("c"))
        one, two = await desk.claim()
        await desk.settle(done(one), reads=2)
        (three,) = (await desk.settle(done(two), reads=1)).claimed
        desk.now = 1007.0
        assert (await desk.settle(done(three))).status is Status.COMPLETED
        return await desk.result()

    result = using(place, body)
    assert (result.status, result.counts, result.requests) == (Status.COMPLETED, {"Thing": 3}, {"reads": 3})
    assert (result.started_at, result.finished_at, result.worker) == (1000.0, 1007.0, None)


@pytest.mark.parametrize("steps", [[], [group()], [group(group(), group())]])
def test_a_plan_without_work_completes_at_once(place: str, steps: list[NewTask]) -> None:
    async def body(desk: Desk) -> Status:
        await desk.begin(*steps)
        return (await desk.settle()).status

    assert using(place, body) is Status.COMPLETED


def test_an_expansion_without_children_ends_and_the_next_step_begins(place: str) -> None:
    async def body(desk: Desk) -> list[str]:
        await desk.begin(expansion(), load("next"))
        (task,) = await desk.claim()
        return ids((await desk.settle(waits(task))).claimed)

    assert using(place, body) == ["next"]


def test_a_child_may_end_before_its_parent_waits_for_it(place: str) -> None:
    async def body(desk: Desk) -> Status:
        await desk.begin(expansion())
        (task,) = await desk.claim()
        (child,) = (await desk.settle(Settlement(task, State.RUNNING, children=[load()]))).claimed
        assert (await desk.settle(done(child))).status is Status.RUNNING
        return (await desk.settle(waits(task))).status

    assert using(place, body) is Status.COMPLETED


def test_a_parent_that_has_more_children_to_make_goes_on_when_there_is_room(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin(expansion())
        (task,) = await desk.claim()
        many = [load(str(n)) for n in range(CHILDREN_BOUND)]
        children = (await desk.settle(waits(task, *many, more=True), claim=CHILDREN_BOUND)).claimed
        room = CHILDREN_BOUND - CHILDREN_PAGE
        assert (await desk.settle(*map(done, children[: CHILDREN_PAGE - 1]))).claimed == []
        (again,) = (await desk.settle(done(children[CHILDREN_PAGE - 1]))).claimed
        assert (again.id, len(children) - CHILDREN_PAGE) == (task.id, room)
        settled = await desk.settle(waits(again), *map(done, children[CHILDREN_PAGE:]))
        assert settled.status is Status.COMPLETED

    using(place, body)


def test_blocked_tasks_name_the_first_failure(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(load("a"), group(load("b"), group(load("c"))), load("d"))
        (first,) = await desk.claim()
        assert (await desk.settle(failed(first))).status is Status.FAILED
        return await desk.result()

    result = using(place, body)
    assert [one.id for one in result.failures] == list("abcd")
    assert {one.message for one in result.failures[1:]} == {"blocked by step Thing:a: load fields title"}
    assert {one.code for one in result.failures[1:]} == {"sync.blocked"}


def test_a_container_fails_only_if_all_its_children_fail(place: str) -> None:
    async def body(desk: Desk, fails: int) -> tuple[list[str], Status]:
        await desk.begin(group(load("a"), load("b")), load("next"))
        two = await desk.claim()
        settled = await desk.settle(*map(failed, two[:fails]), *map(done, two[fails:]))
        return ids(settled.claimed), settled.status

    assert using(place, lambda desk: body(desk, 1)) == (["next"], Status.RUNNING)


def test_a_failed_container_blocks_the_next_step(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(group(load("a"), load("b")), load("next"))
        await desk.settle(*map(failed, await desk.claim()))
        return await desk.result()

    result = using(place, body)
    assert result.status is Status.FAILED
    assert [one.message for one in result.failures] == ["it is down", "it is down", "blocked by step a group"]


def test_some_failures_make_a_sync_partial(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(group(load("a"), load("b")))
        one, two = await desk.claim()
        await desk.settle(done(one), failed(two))
        return await desk.result()

    result = using(place, body)
    assert (result.status, result.failed) == (Status.PARTIAL, 1)
    assert [one.what for one in result.failures] == ["Thing:b: load fields title"]
    assert result.failures[0].input == load("b").spec.to_json()


def test_an_expansion_that_fails_ends_when_its_children_have(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(expansion())
        (task,) = await desk.claim()
        (child,) = (await desk.settle(Settlement(task, State.RUNNING, children=[load()]))).claimed
        assert (await desk.settle(failed(task))).status is Status.RUNNING
        assert (await desk.settle(done(child))).status is Status.PARTIAL
        return await desk.result()

    assert using(place, body).counts == {"Thing": 1}


# -- one settlement is stored as a whole, or not at all ----------------------------------------


def test_a_settlement_that_cannot_be_stored_does_not_stop_the_others(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "max.storage")

    def refuses(transaction: Any) -> WriteResult:
        raise UpstreamBroken("no such value")

    async def body(desk: Desk) -> Sequence[Outcome]:
        await desk.begin(group(*map(load, "abc")))
        one, two, three = await desk.claim()
        bad = two, State.COMPLETED, None, [stores(), Write(None, refuses)], [load("child")]
        settled = await desk.settle(done(one), Settlement(*bad), done(three))
        assert (settled.claimed, (await desk.result()).counts) == ([], {"Thing": 2})
        assert (await desk.settle(failed(two))).status is Status.PARTIAL
        return settled.outcomes

    outcomes = using(place, body)
    assert caplog.messages == ["3 settlements failed together (UpstreamBroken): each goes alone"]
    assert [outcome.state for outcome in outcomes] == ["completed", "running", "completed"]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), UpstreamBroken, type(None)]


def test_an_attempt_that_lost_its_task_stores_nothing(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin(group(load("a"), load("b")))
        old, other = await desk.claim()
        (new,) = (await desk.settle(Settlement(old, State.PENDING))).claimed
        settled = await desk.settle(done(old), done(other))
        assert [type(one.error) for one in settled.outcomes] == [LeaseLost, type(None)]
        assert (await desk.result()).counts == {"Thing": 1}
        assert (await desk.settle(done(new))).status is Status.COMPLETED

    using(place, body)


def test_a_worker_that_lost_the_sync_stores_nothing(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(load(), worker=GONE)
        (task,) = await desk.claim(GONE)
        await desk.resume()
        with pytest.raises(LeaseLost, match="this process lost sync"):
            await desk.settle(done(task), worker=GONE)
        return await desk.result()

    assert using(place, body).counts == {}


# -- waits and clocks ------------------------------------------------------------------------


WAITS = {  # until when a task waits, what the clock says then, and until when it waits at most
    "as it was stored": (1060.0, 1010.0, 1060.0),
    "the clock was an hour ahead": (1060.0, 1000.0 - 3600.0, 1060.0 - 3600.0),
    "the clock was years ahead": (1060.0, 10.0, 70.0),
    "an absurd time": (1e15, 1010.0, 1010.0 + LONGEST_WAIT),
    "no time at all": (math.inf, 1010.0, 1010.0 + LONGEST_WAIT),
}


@pytest.mark.parametrize("why", WAITS)
def test_a_wait_is_no_longer_than_was_asked_for_whatever_the_clock_did(place: str, why: str) -> None:
    until, now, due = WAITS[why]

    async def body(desk: Desk) -> None:
        await desk.begin(load())
        (task,) = await desk.claim()
        error = describe(UpstreamBroken("it is down"))
        await desk.settle(Settlement(task, State.PENDING, wait=until - desk.now, error=error), claim=0)
        desk.now = now
        waiting = await desk.settle()
        assert (len(waiting.claimed), waiting.waiting) == (0, 1)
        assert waiting.due == pytest.approx(due, abs=11.0)
        assert waiting.reason == "it is down"
        desk.now = waiting.due or 0.0
        (again,) = (await desk.settle()).claimed
        assert again.tries == 2

    using(place, body)


# -- processes that end ----------------------------------------------------------------------


@pytest.mark.parametrize("worker", [GONE, REUSED], ids=["gone", "reused"])
def test_the_tasks_of_a_dead_process_can_be_claimed_at_once(place: str, worker: str) -> None:
    async def body(desk: Desk) -> list[Task]:
        await desk.begin(load(), worker=worker)
        await desk.claim(worker)
        assert (await desk.result()).status is Status.INTERRUPTED
        assert await desk.store.unfinished(worker=HERE, now=desk.now) == desk.sync
        await desk.resume()
        assert (await desk.result()).resumed
        return await desk.claim()

    (task,) = using(place, body)
    assert (task.attempt, task.tries, task.crashes) == (2, 1, 1)


def test_the_tasks_of_another_machine_can_be_claimed_after_its_lease(place: str) -> None:
    async def body(desk: Desk) -> Status:
        await desk.begin(load(), worker=ELSEWHERE)
        await desk.pass_by(LEASE - 10)
        await desk.settle(worker=ELSEWHERE)
        await desk.pass_by(LEASE - 10)
        with pytest.raises(SyncRunning, match="process 1 on elsewhere"):
            await desk.resume()
        await desk.pass_by(10)
        await desk.resume()
        return (await desk.result()).status

    assert using(place, body) is Status.RUNNING


@pytest.mark.postgres
@pytest.mark.parametrize("wrong", [-300.0, 300.0])
def test_a_host_whose_clock_is_wrong_is_not_dead_and_takes_no_dead_one_to_be_alive(wrong: float) -> None:
    """The server's clock says how old a heartbeat is, on each host."""

    async def body(desk: Desk) -> list[tuple[Status, str | None]]:
        right = desk.now = time.time()
        desk.now += wrong
        await desk.begin(load(), worker=ELSEWHERE)
        await desk.settle(worker=ELSEWHERE)
        seen = []
        for dead in (False, True):
            if dead:
                await desk.pass_by(LEASE)
            for desk.now in (right, right + wrong):
                assert isinstance(desk.database, PostgresDatabase)
                state = await desk.database.read(lambda known: sync_state(known, "acme", now=desk.now))
                seen.append(((await desk.result()).status, state.status))
        return seen

    with postgres_place() as place:
        seen = using(place, body)
    assert seen == [(Status.RUNNING, "running")] * 2 + [(Status.INTERRUPTED, "interrupted")] * 2


def test_a_sync_that_a_person_takes_from_its_worker_can_be_resumed_at_once(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(load(), worker=ELSEWHERE)
        (task,) = await desk.claim(ELSEWHERE)
        await desk.database.transact(  # type: ignore[attr-defined]
            lambda known: request(known, desk.sync, SyncCommand.RUN, now=desk.now, force=True)
        )
        await desk.resume()
        with pytest.raises(LeaseLost, match="this process lost sync"):
            await desk.settle(done(task), worker=ELSEWHERE)
        (again,) = await desk.claim()
        assert (again.attempt, again.crashes) == (2, 1)
        return await desk.result()

    result = using(place, body)
    assert (result.status, result.counts) == (Status.RUNNING, {})


def test_a_sync_that_another_process_runs_cannot_be_begun_or_resumed(place: str) -> None:
    async def body(desk: Desk) -> None:
        sync = await desk.begin(load())
        other = new_worker()  # this process is alive, and so are all its workers
        for attempt in (
            desk.store.resume(sync, worker=other, now=desk.now),
            desk.store.begin([], group(), worker=other, now=desk.now),
            desk.store.unfinished(worker=other, now=desk.now),
        ):
            with pytest.raises(SyncRunning) as caught:
                await attempt
            assert caught.value.sync == sync

    using(place, body)


def test_a_task_fails_after_five_crashes(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(group(load("deadly"), load("good")), worker=GONE)
        first = await desk.claim(GONE)
        await desk.settle(done(first[1]), worker=GONE)
        for crashes in range(1, 5):
            await desk.resume(GONE + str(crashes))
            (task,) = await desk.claim(GONE + str(crashes))
            assert task.crashes == crashes
        await desk.resume()
        return await desk.result()

    result = using(place, body)
    assert (result.status, result.counts) == (Status.PARTIAL, {"Thing": 1})
    assert result.failures[0].message == "the process ended 5 times in a row while this task ran"


def test_a_suspect_task_runs_alone(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin(group(load("suspect"), load("other")), worker=GONE)
        for crashes in range(2):
            worker = GONE + str(crashes)
            await desk.resume(worker)
            (task,) = (await desk.settle(claim=1, worker=worker)).claimed
        await desk.resume()
        assert ids(await desk.claim()) == ["other"]
        assert await desk.claim(alone=False) == []
        assert ids(await desk.claim()) == ["suspect"]
        assert task.spec.single_id == "suspect"

    using(place, body)


def test_releasing_a_sync_leaves_everything_as_it_was(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin(load())
        (task,) = await desk.claim()
        await desk.store.release(desk.sync, worker=HERE, now=desk.now)
        assert (await desk.result()).status is Status.INTERRUPTED
        await desk.resume(new_worker())
        with pytest.raises(LeaseLost):
            await desk.settle(done(task))
        await desk.store.release(desk.sync, worker=HERE, now=desk.now)  # it has lost the sync
        assert (await desk.result()).status is Status.RUNNING

    using(place, body)


# -- commands --------------------------------------------------------------------------------


def test_a_task_pauses_after_its_page_and_resumes_there(place: str) -> None:
    async def body(desk: Desk) -> Task:
        await desk.begin(listing())
        (task,) = await desk.claim()
        await desk.request(SyncCommand.PAUSE)
        page = Settlement(task, State.RUNNING, PAGE_2, [stores()], progress=True)
        settled = await desk.settle(page)
        assert (settled.outcomes[0].state, settled.command) == (State.PAUSED, SyncCommand.PAUSE)
        assert await desk.store.apply_command(desk.sync, worker=HERE, now=desk.now) is Status.PAUSED
        assert await desk.store.unfinished(worker=new_worker(), now=desk.now) == desk.sync
        await desk.resume()
        return (await desk.claim())[0]

    task = using(place, body)
    assert (task.spec, task.attempt) == (PAGE_2, 2)


def test_a_worker_that_pauses_its_own_sync_lives_though_its_clock_has_jumped(place: str) -> None:
    async def body(desk: Desk) -> State:
        await desk.begin(listing())
        (task,) = await desk.claim()
        desk.now += 86_400.0
        await desk.store.request(desk.sync, SyncCommand.PAUSE, now=desk.now, worker=HERE)
        page = Settlement(task, State.RUNNING, PAGE_2, [stores()], progress=True)
        return (await desk.settle(page)).outcomes[0].state

    assert using(place, body) is State.PAUSED


def test_a_cancelled_pause_lets_everything_continue(place: str) -> None:
    async def body(desk: Desk) -> Status:
        await desk.begin(group(load("a"), load("b")))
        one, two = await desk.claim()
        await desk.request(SyncCommand.PAUSE)
        await desk.settle(Settlement(one, State.RUNNING))
        await desk.request(SyncCommand.RUN)
        assert await desk.store.apply_command(desk.sync, worker=HERE, now=desk.now) is Status.RUNNING
        (again,) = await desk.claim()
        return (await desk.settle(done(again), done(two))).status

    assert using(place, body) is Status.COMPLETED


def test_a_cancelled_task_is_not_completed_by_its_last_page(place: str) -> None:
    async def body(desk: Desk) -> SyncResult:
        await desk.begin(load())
        (task,) = await desk.claim()
        await desk.request(SyncCommand.CANCEL)
        settled = await desk.settle(Settlement(task, State.RUNNING, writes=[stores()]))
        assert (settled.status, settled.claimed) == (Status.RUNNING, ())
        assert await desk.store.apply_command(desk.sync, worker=HERE, now=desk.now) is Status.CANCELLED
        return await desk.result()

    result = using(place, body)
    assert (result.status, result.counts, result.finished_at) == (Status.CANCELLED, {"Thing": 1}, 1000.0)


def test_cancelling_cannot_be_undone(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin(load())
        await desk.request(SyncCommand.CANCEL)
        for command in (SyncCommand.RUN, SyncCommand.PAUSE):
            with pytest.raises(SyncError, match="is being cancelled"):
                await desk.request(command)

    using(place, body)


@pytest.mark.parametrize(
    ("command", "status"), [(SyncCommand.PAUSE, "paused"), (SyncCommand.CANCEL, "cancelled")]
)
def test_a_command_for_a_sync_without_a_worker_applies_at_once(
    place: str, command: SyncCommand, status: str
) -> None:
    async def body(desk: Desk) -> str:
        await desk.begin(load(), worker=GONE)
        await desk.claim(GONE)
        await desk.request(command)
        return (await desk.result()).status

    assert using(place, body) == status


def test_a_sync_whose_process_died_while_cancelling_is_not_resumed(place: str) -> None:
    async def body(desk: Desk) -> Status:
        await desk.begin(load(), worker=ELSEWHERE)
        await desk.request(SyncCommand.CANCEL)
        await desk.pass_by(LEASE)
        assert await desk.store.unfinished(worker=HERE, now=desk.now) is None
        old, _ = desk.sync, await desk.begin(load())
        return (await desk.store.result(old, now=desk.now)).status

    assert using(place, body) is Status.CANCELLED


def test_an_ended_sync_cannot_change(place: str) -> None:
    async def body(desk: Desk) -> None:
        await desk.begin()
        for attempt in (desk.request(SyncCommand.PAUSE), desk.request(SyncCommand.CANCEL), desk.resume()):
            with pytest.raises(SyncError, match=r"has already ended \(completed\)"):
                await attempt

    using(place, body)


# -- memory ----------------------------------------------------------------------------------


def test_ids_grow_even_when_the_clock_is_set_back(place: str) -> None:
    async def body(desk: Desk) -> list[str]:
        found = []
        for desk.now in (1000.0, 2000.0, 500.0, 500.0):
            found.append(await desk.begin())
        runs = await desk.store.runs(10, now=desk.now)
        assert [run.id for run in runs] == found[::-1]
        return found

    found = using(place, body)
    assert found == sorted(set(found))


def test_a_new_sync_cancels_the_unfinished_one(place: str) -> None:
    async def body(desk: Desk) -> Status:
        left = await desk.begin(load(), worker=GONE)
        await desk.begin(load())
        return (await desk.store.result(left, now=desk.now)).status

    assert using(place, body) is Status.CANCELLED


def test_a_sync_is_found_by_the_start_of_its_id(place: str) -> None:
    async def body(desk: Desk) -> None:
        one, two = await desk.begin(), await desk.begin()
        assert (await desk.store.result(two, now=0.0)).id == two
        with pytest.raises(UsageError, match="several syncs begin with"):
            await desk.store.result(one[:5], now=0.0)
        with pytest.raises(NotFound, match="no sync 'zz'"):
            await desk.store.result("zz", now=0.0)

    using(place, body)


def test_pruning_deletes_the_oldest_syncs_and_nothing_of_running_ones(place: str) -> None:
    async def body(desk: Desk) -> tuple[int, list[str]]:
        for _ in range(KEPT_SYNCS + 2):
            await desk.begin(group(group()))
        await desk.begin(group(*map(load, "ab")))
        await desk.store.prune()
        return len(await desk.store.runs(1000, now=0.0)), ids(await desk.claim())

    assert using(place, body) == (KEPT_SYNCS, ["a", "b"])


def test_the_number_of_a_pruned_task_is_not_used_again(place: str) -> None:
    async def body(desk: Desk) -> tuple[int, int]:
        await desk.begin(group(load("a")))
        (first,) = await desk.claim()
        await desk.request(SyncCommand.CANCEL)
        await desk.store.apply_command(first.sync, worker=HERE, now=desk.now)
        await desk.store.prune()
        await desk.begin(group(load("b")))
        (second,) = await desk.claim()
        return first.id, second.id

    first, second = using(place, body)
    assert second > first


def test_starting_twice_keeps_the_data(place: str) -> None:
    async def body(desk: Desk) -> list[str]:
        await desk.begin(load("a"))
        await desk.store.start()
        return ids(await desk.claim())

    assert using(place, body) == ["a"]
