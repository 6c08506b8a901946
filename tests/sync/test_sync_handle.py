"""The handle of a sync: pause, resume, cancel, status, completion and progress."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from max.errors import (
    Interrupted,
    LeaseLost,
    NotFound,
    QuotaExceeded,
    StorageError,
    SyncError,
    SyncRunning,
)
from max.model.plan import Step
from max.model.query import Page
from max.model.tasks import Status, SyncCommand, SyncResult
from max.storage.sqlite import SqliteConnection, transaction
from max.storage.sync_log import request
from max.upstream.operations import Limit, Operation
from tests.scenes import (
    NAMES,
    NOTES,
    RAW,
    USERS,
    Source,
    Stage,
    User,
    build,
    named,
    play,
    run,
    slow,
    users,
)
from tests.virtual_time import later, now


async def never(what: Any, env: Any) -> Any:
    """A response that never comes."""
    await asyncio.Event().wait()


# -- pausing, cancelling, stopping ---------------------------------------------------------------


def pages(count: int, seconds: float = 1.0) -> Source:
    """A listing of so many pages, each of which takes some seconds."""

    async def page(cursor: str | None, env: Any) -> Page[User]:
        await later(seconds)
        following = int(cursor or 0) + 1
        return users(cursor or "0", next=str(following) if following < count else None)

    return Source(users=[page], name=[named])


def test_a_pause_is_applied_after_the_current_page_and_resumed_there() -> None:
    async def body(stage: Stage) -> None:
        handle = await stage.begin(USERS)
        await later(1.5)
        await handle.pause()
        paused = await handle.completion()
        assert (paused.status, paused.counts) == (Status.PAUSED, {"User": 2})
        assert now() == pytest.approx(2.0)
        again = await handle.resume()
        assert again.id == handle.id
        result = await again.completion()
        assert (result.status, result.counts, result.resumed) == (Status.COMPLETED, {"User": 4}, True)

    source = pages(4)
    play(source, body)
    assert [what for _, what in source.asked] == [None, "1", "2", "3"]


def test_a_pause_that_was_not_applied_yet_can_be_taken_back() -> None:
    async def body(stage: Stage) -> Status:
        handle = await stage.begin(Step.concurrent([USERS, NOTES]))
        await later(0.5)
        await handle.pause()
        await later(1.0)  # users stop at their page; notes are under way
        assert await handle.resume() is handle
        return (await handle.completion()).status

    source = pages(3)
    source.answers["notes"] = [slow(9.0, Page([]))]
    assert play(source, body) is Status.COMPLETED
    assert source.count("users") == 3


def test_a_pause_taken_back_while_it_is_applied_has_no_effect() -> None:
    async def body(stage: Stage) -> Status:
        apply_command = stage.store.apply_command

        async def hesitates(sync: str, *, worker: str, now: float) -> Status:
            await stage.store.request(sync, SyncCommand.RUN, now=now)
            return await apply_command(sync, worker=worker, now=now)

        stage.store.apply_command = hesitates  # type: ignore[method-assign]
        handle = await stage.begin(USERS)
        await handle.pause()
        return (await handle.completion()).status

    assert play(pages(3), body) is Status.COMPLETED


def test_a_resume_just_after_the_pause_was_applied_gives_a_new_handle() -> None:
    async def body(stage: Stage) -> Status:
        result = stage.store.result

        async def slowly(sync: str, *, now: float) -> SyncResult:
            await later(1.0)
            return await result(sync, now=now)

        stage.store.result = slowly  # type: ignore[method-assign]
        handle = await stage.begin(USERS)
        await later(0.5)
        await handle.pause()
        await later(1.0)  # the page has ended at 1
        assert not handle.done
        again = await handle.resume()
        assert again is not handle
        return (await again.completion()).status

    assert play(pages(3), body) is Status.COMPLETED


def test_a_pause_while_a_task_waits_is_applied_at_once() -> None:
    async def body(stage: Stage) -> None:
        handle = await stage.begin(USERS)
        await later(10.0)
        await handle.pause()
        assert (await handle.completion()).status is Status.PAUSED
        assert now() < 12.0

    play(Source(users=[QuotaExceeded("wait", retry_after=900.0)]), body)


# How a loader asks for its user; each may hide that a call did not begin.
async def asks_plainly(id: str, env: Any) -> User:
    return await env.run(GET, id)  # type: ignore[no-any-return]


async def asks_in_a_group(id: str, env: Any) -> User:
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(env.run(GET, id))
    return asked.result()  # type: ignore[no-any-return]


async def asks_and_takes_what_came(id: str, env: Any) -> User:
    found: Any = (await asyncio.gather(env.run(GET, id), return_exceptions=True))[0]
    return found if isinstance(found, User) else User(id, name="?", phone="?")


async def asks_and_catches_everything(id: str, env: Any) -> User:
    try:
        return await env.run(GET, id)  # type: ignore[no-any-return]
    except BaseException as error:
        raise ValueError("it did not work") from error


async def asks_twice(id: str, env: Any) -> User:
    await env.run(GET, id)
    return await env.run(GET, id)  # type: ignore[no-any-return]


async def get_user(context: Source, id: str) -> User:
    """A call that takes ten seconds."""
    context.sent.append(id)  # type: ignore[attr-defined]
    await later(10.0)
    return User(id, name="x", phone="1")


GET = Operation("scene:user:get", get_user, limit=Limit("scene:one", concurrency=2))
ASKING = [asks_plainly, asks_in_a_group, asks_and_takes_what_came, asks_and_catches_everything, asks_twice]


def asking(how: Callable[[str, Any], Any]) -> Any:
    """Twenty users, of whom two are asked for at a time."""
    source: Any = Source([GET], users=[users(*map(str, range(20)))], name=[how])
    source.sent = []
    return source


@pytest.mark.parametrize("how", ASKING)
def test_a_pause_ends_with_the_calls_that_were_sent(how: Callable[[str, Any], Any]) -> None:
    source = asking(how)

    async def body(stage: Stage) -> SyncResult:
        handle = await stage.begin(USERS, NAMES)
        await later(5.0)
        await handle.pause()
        paused = await handle.completion()
        assert (paused.status, paused.failures, len(source.sent)) == (Status.PAUSED, (), 2)
        assert now() == pytest.approx(10.0)
        return await (await handle.resume()).completion()

    result = play(source, body)
    assert (result.status, result.failures) == (Status.COMPLETED, ())
    times = 2 if how is asks_twice else 1
    assert len(source.sent) == 20 * times + (2 if how is asks_twice else 0)


def test_tasks_that_went_back_have_used_up_no_try_and_begin_when_the_pause_is_taken_back() -> None:
    source = asking(asks_plainly)

    async def body(stage: Stage) -> SyncResult:
        handle = await stage.begin(USERS, NAMES)
        for at in (5.0, 6.0, 7.0, 8.0, 9.0):
            await later(at - now())
            await handle.pause()
            await later(0.2)
            assert await handle.resume() is handle
        return await handle.completion()

    result = play(source, body)
    assert (result.status, result.failures, len(source.sent)) == (Status.COMPLETED, (), 20)


def test_a_pause_does_not_wait_for_a_shared_value_that_waits_for_its_turn() -> None:
    async def shared(what: Any, env: Any) -> Any:
        return await env.run(GET, "shared")

    async def named_after(id: str, env: Any) -> User:
        return User(id, name=(await env.raw(RAW)).id, phone="1")

    source = asking(named_after)
    source.answers |= {"raw": [shared], "notes": [asks_plainly]}

    async def body(stage: Stage) -> SyncResult:
        stage.executor.context.runner._flow.block_for(GET, 8.0)
        handle = await stage.begin(USERS, NAMES)
        await later(2.0)
        await handle.pause()
        assert (await handle.completion()).status is Status.PAUSED
        assert (source.sent, now() < 3.0) == ([], True)
        return await (await handle.resume()).completion()

    assert play(source, body).status is Status.COMPLETED
    assert source.sent == ["shared"]


def test_cancel_does_not_wait_for_a_stuck_loader() -> None:
    async def body(stage: Stage) -> None:
        handle = await stage.begin(USERS)
        await later(5.0)
        await handle.cancel()
        result = await handle.completion()
        assert (result.status, result.counts) == (Status.CANCELLED, {"User": 1})
        assert now() == pytest.approx(5.0)
        with pytest.raises(SyncError, match=r"already ended \(cancelled\)"):
            await handle.resume()

    play(Source(users=[users("a", next="2"), never]), body)


@pytest.mark.parametrize(
    ("wanted", "status"), [(SyncCommand.PAUSE, Status.PAUSED), (SyncCommand.CANCEL, Status.CANCELLED)]
)
def test_another_connection_can_pause_and_cancel(tmp_path: Path, wanted: SyncCommand, status: str) -> None:
    path = tmp_path / "data.db"

    async def body(stage: Stage) -> Status:
        handle = await stage.begin(USERS)
        await later(1.5)
        other = sqlite3.connect(path, isolation_level=None, factory=SqliteConnection)
        with transaction(other):
            request(other, handle.id[:8], wanted, now=now())
        other.close()
        return (await handle.completion()).status

    source = pages(9)
    assert play(source, body, path) == status
    assert source.count("users") < 5


def test_a_cancelled_sync_does_not_affect_the_next_one() -> None:
    async def body(stage: Stage) -> list[Status]:
        handle = await stage.begin(USERS)
        await handle.cancel()
        first = await handle.completion()
        return [first.status, (await stage.sync(USERS)).status]

    assert play(pages(2), body) == [Status.CANCELLED, Status.COMPLETED]


def test_a_stopped_sync_is_interrupted_and_can_be_resumed(tmp_path: Path) -> None:
    path, source = tmp_path / "data.db", pages(5)

    async def first(stage: Stage) -> str:
        handle = await stage.begin(USERS)
        await later(2.5)
        waiting = asyncio.create_task(handle.completion())
        await later(0.0)
        await stage.executor.stop()
        with pytest.raises(Interrupted, match="was stopped before its end"):
            await waiting
        assert (await stage.store.result(handle.id, now=now())).status is Status.INTERRUPTED
        return handle.id

    async def second(stage: Stage) -> SyncResult:
        id = await stage.executor.unfinished()
        assert id == left
        return await (await stage.executor.resume(id or "")).completion()

    left = play(source, first, path)
    result = play(source, second, path)
    assert (result.status, result.counts) == (Status.COMPLETED, {"User": 5})
    assert [what for _, what in source.asked] == [None, "1", "2", "2", "3", "4"], (
        "only the page that was loading is requested again"
    )


def test_one_sync_at_a_time() -> None:
    async def body(stage: Stage) -> None:
        handle = await stage.begin(USERS)
        for attempt in (stage.begin(NAMES), stage.executor.resume(handle.id)):
            with pytest.raises(SyncRunning, match=f"sync {handle.id} is already running"):
                await attempt
        assert stage.executor.running is handle
        await handle.completion()
        assert stage.executor.running is None
        await stage.executor.stop()
        with pytest.raises(StorageError, match="not started"):
            await stage.begin(USERS)

    play(pages(1), body)


def test_a_sync_that_another_process_took_over_ends_here_with_lease_lost() -> None:
    async def body(stage: Stage) -> None:
        handle = await stage.begin(USERS)
        await later(0.5)
        await stage.database.transact(
            lambda c: (c.execute("UPDATE _max_sync SET worker = 'h/b/1/1/x'"), None)[1]
        )
        with pytest.raises(LeaseLost, match="this process lost sync"):
            await handle.completion()

    play(pages(3), body)


def test_a_full_disk_ends_the_sync_which_can_be_resumed(tmp_path: Path) -> None:
    def room(pages: int) -> Callable[[SqliteConnection], None]:
        def work(connection: SqliteConnection) -> None:
            size = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {size + pages}")

        return work

    async def body(stage: Stage) -> SyncResult:
        handle = await stage.begin(USERS)
        seen = asyncio.create_task(last_status(handle))
        await later(1.5)
        await stage.database.transact(room(0))
        with pytest.raises(StorageError, match="full") as caught:
            await handle.completion()
        assert "free some space" in caught.value.hint
        assert await seen is Status.INTERRUPTED
        await stage.database.transact(room(100_000))
        return await (await handle.resume()).completion()

    big = users(*(f"{n:0500}" for n in range(3000)))
    source = Source(users=[users("a", next="2"), slow(2.0, big)])
    result = play(source, body, tmp_path / "data.db")
    assert (result.status, result.counts) == (Status.COMPLETED, {"User": 3001})


# -- progress ---------------------------------------------------------------------------------


async def last_status(handle: Any) -> Status:
    """The last status in the progress."""
    status = Status.RUNNING
    async for one in handle.progress():
        status = one.status
    return status


def test_progress_counts_up_and_ends_with_the_sync() -> None:
    async def body(stage: Stage) -> list[tuple[Status, int]]:
        handle = await stage.begin(USERS)
        found = [(one.status, one.counts.get("User", 0)) async for one in handle.progress()]
        assert [one.status async for one in handle.progress()] == [Status.COMPLETED], "also after the end"
        return found

    found = play(pages(4), body)
    assert found == sorted(found, key=lambda one: one[1])
    assert found[-1] == (Status.COMPLETED, 4)
    assert {count for _, count in found} == {0, 1, 2, 3, 4}


def test_progress_has_the_end_of_a_wait() -> None:
    async def body(stage: Stage) -> list[tuple[int, int, float | None]]:
        handle = await stage.begin(USERS)
        return [(one.running, one.waiting, one.due) async for one in handle.progress()]

    found = play(Source(users=[QuotaExceeded("wait", retry_after=60.0), users("a")]), body)
    assert (0, 1, 60.0) in found


def test_a_slow_reader_of_the_progress_delays_nothing_and_gets_the_newest() -> None:
    async def body(stage: Stage) -> int:
        handle, reports = await stage.begin(USERS), 0
        async for _ in handle.progress():
            reports += 1
            await later(3.5)
        assert (await handle.status()).finished_at == pytest.approx(8.0)
        return reports

    assert play(pages(8), body) == 4


def test_the_sync_continues_without_its_readers_and_waiters() -> None:
    async def body(stage: Stage) -> Status:
        handle = await stage.begin(USERS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await handle.completion()
        async for _ in handle.progress():
            break
        return (await handle.completion()).status

    assert play(pages(3), body) is Status.COMPLETED


def test_a_failing_clean_up_still_ends_the_progress() -> None:
    async def body(stage: Stage) -> None:
        async def fails(now: float, report: Callable[[str], None]) -> None:
            raise StorageError("the index cannot be built")

        stage.executor._after = fails
        handle = await stage.begin(USERS)
        seen = asyncio.create_task(last_status(handle))
        with pytest.raises(StorageError, match="index"):
            await handle.completion()
        assert await seen is Status.COMPLETED
        assert (await handle.status()).status is Status.COMPLETED

    play(pages(1), body)


def test_stop_may_be_called_twice_and_without_a_sync() -> None:
    async def main() -> None:
        stage = await build(pages(1))
        await stage.executor.stop()
        await stage.executor.stop()
        with pytest.raises(NotFound):
            await stage.store.result("zz", now=0.0)
        await stage.database.stop()

    before = set(threading.enumerate())  # another test's thread may end meanwhile
    run(main())
    assert set(threading.enumerate()) <= before
