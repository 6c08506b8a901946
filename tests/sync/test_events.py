"""Events: each start has one end, each names its task, and no listener delays a sync."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.commands.foreground import note_of
from max.commands.text import until
from max.errors import Interrupted, PermissionDenied, QuotaExceeded, StorageError, SyncError, UpstreamBroken
from max.execution import SyncExecutor, SyncHandle
from max.model.query import Page
from max.model.tasks import BLOCKED, SettleResult, Status, SyncResult
from max.storage.leases import new_worker, this_system
from max.storage.sync_log import waits
from max.storage.task_store import DatabaseTaskStore
from max.sync.events import BUFFER, EARLY, Event, EventKind, Events, Origin, log
from max.upstream.operations import Limit, Operation
from tests.scenes import NAMES, NOTES, USERS, Source, Stage, User, named, play, users
from tests.virtual_time import later, now

STARTS = {EventKind.SYNC_STARTED, EventKind.TASK_STARTED}
ENDS = {EventKind.SYNC_ENDED, EventKind.SYNC_FAILED, EventKind.TASK_ENDED, EventKind.TASK_FAILED}


def check_pairs(events: Sequence[Event]) -> None:
    """Each started has exactly one end, and attempts lie within their sync."""
    running: list[tuple[int | None, int | None]] = []
    begun = set()
    for event in events:
        key = (event.task, event.attempt)
        if event.kind in STARTS:
            assert bool(running) is (event.task is not None), f"{event} is in the wrong place"
            assert event.task is None or key not in begun, f"{event} begins twice"
            running.append(key)
            begun.add(key)
        else:
            assert key in running, f"{event} of something that is not running"
        if event.kind in ENDS:
            running.remove(key)
            assert event.task is not None or not running, f"{event} around {running}"
    assert events
    assert not running, f"no end of {running}"


async def rest(reader: Events) -> list[Event]:
    """All events of a listener until the end."""
    return [event async for event in reader]


# -- any sync ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """How upstream answers for each user, and what happens to the sync, and when."""

    ways: Sequence[str]
    stop: str
    after: float
    cap: int


COURSES = st.builds(
    Course,
    st.lists(st.sampled_from(["well", "broken", "flaky", "slow", "wrong"]), max_size=7),
    st.sampled_from(["nothing", "pause", "cancel", "stop", "kill"]),
    st.sampled_from(
        [0.3, 1.1, 1.6, 2.2, 3.2, 4.7]
    ),  # between transactions: a killed process publishes nothing of one
    st.integers(1, 4),
)


def upstream(ways: Sequence[str]) -> Source:
    """A listing of two pages, then a name for each user, each in its way."""
    tried: Counter[str] = Counter()

    async def name(id: str, env: Any) -> Any:
        way, tried[id] = ways[int(id)], tried[id] + 1
        await later(3.0 if way == "slow" else 0.5)
        if way == "broken" or (way == "flaky" and tried[id] == 1):
            raise UpstreamBroken("it is down") if way == "flaky" else PermissionDenied("it is closed")
        return "no user" if way == "wrong" else await named(id, env)

    async def page(cursor: str | None, env: Any) -> Page[User]:
        await later(0.5)
        half = len(ways) // 2
        ids = [str(number) for number in range(len(ways))]
        return users(*ids[half:]) if cursor else users(*ids[:half], next="2")

    return Source(users=[page], notes=[PermissionDenied("closed")], name=[name])


class Killed(SyncExecutor):
    """An executor of a process that is killed."""

    async def release_tasks(self, sync: str) -> None:
        """A killed process releases nothing."""


async def observed(stage: Stage, course: Course) -> tuple[list[Event], SyncResult]:
    """All events of a sync, from each process that runs it, and its result."""
    store = DatabaseTaskStore(stage.database, version="7")
    context, cap = stage.executor.context, course.cap
    if course.stop == "kill":
        dead = f"host/{this_system()}/4194999/1/dead"
        stage.executor = Killed(store, context, worker=dead, cap=cap)
    else:
        stage.executor = SyncExecutor(store, context, worker=new_worker(), cap=cap)
    await stage.executor.start()
    handle = await stage.begin(USERS, NAMES, NOTES, USERS)
    reader = handle.events()
    await later(course.after)
    seen = await stopped(stage, course, handle, reader)
    result = await store.result(handle.id, now=now())
    if not result.status.final:
        again = SyncExecutor(store, context, worker=new_worker(), cap=cap)
        await again.start()
        handle = await again.resume(handle.id)
        reader, result = handle.events(), await handle.completion()
        seen += await rest(reader)
    return seen, result


async def stopped(stage: Stage, course: Course, handle: SyncHandle, reader: Events) -> list[Event]:
    """Do to the sync what the course says; the events until then."""
    with suppress(SyncError):  # it may have ended
        if course.stop == "pause":
            await handle.pause()
        elif course.stop == "cancel":
            await handle.cancel()
        elif course.stop == "stop":
            await stage.executor.stop()
    if course.stop == "kill" and not handle.done:
        seen = await reader.batch()
        await stage.executor.stop()
        return seen
    with suppress(Interrupted):
        await handle.completion()
    return await rest(reader)


@given(COURSES)
@settings(deadline=None, max_examples=60)
def test_p20_each_started_event_has_exactly_one_end(course: Course) -> None:
    seen, result = play(upstream(course.ways), lambda stage: observed(stage, course))
    check_pairs(seen)
    assert seen[-1].facts["status"] == result.status


@given(COURSES)
@settings(deadline=None, max_examples=30)
def test_p22_each_event_and_each_failure_names_its_sync_and_task(course: Course) -> None:
    seen, result = play(upstream(course.ways), lambda stage: observed(stage, course))
    assert {event.origin for event in seen} == {Origin("inst", "scene", "7", result.id)}
    assert [event.at for event in seen] == sorted(event.at for event in seen)
    codes = set()
    for event in seen:
        whole = event.kind.startswith("sync.")
        assert whole is (event.task is None) is (event.attempt is None)
        assert event.to_json().keys() >= {"event", "at", *Origin._fields, "task", "attempt"}
        codes |= {(event.task, event.attempt, one["code"]) for one in event.facts.get("failures", ())}
    for one in result.failures:
        assert (one.sync, one.version, one.task > 0, one.at > 0) == (result.id, "7", True, True)
        assert one.code == BLOCKED or (one.task, one.attempt, one.code) in codes


# -- listeners -----------------------------------------------------------------------------------


def test_the_first_listener_misses_nothing_and_a_later_one_first_gets_the_start_of_what_is_running() -> None:
    async def body(stage: Stage) -> tuple[list[Event], list[Event]]:
        handle = await stage.begin(USERS, NAMES)
        await later(1.2)
        first, second = handle.events(), handle.events()
        seen = await rest(first), await rest(second)
        assert [event.kind for event in await rest(handle.events())] == [seen[0][0].kind, seen[0][-1].kind]
        return seen

    first, second = play(upstream(["slow", "well"]), body)
    for seen in (first, second):
        check_pairs(seen)
    assert sum(one.kind is EventKind.TASK_STORED and one.at < 1.0 for one in first) > 0
    assert not any(one.at < 1.0 and one.kind is EventKind.TASK_STORED for one in second)
    assert "User:0: load fields name" in [event.facts.get("what") for event in second[:3]]
    assert len(second) < len(first)


def test_a_sync_without_a_listener_keeps_no_more_than_its_first_events_for_one() -> None:
    async def body(stage: Stage) -> list[Event]:
        await stage.engine.store(*(User(str(number)) for number in range(EARLY)))
        handle = await stage.begin(NAMES)
        await handle.completion()
        return await rest(handle.events())

    assert [one.kind for one in play(Source(name=[named]), body)] == [
        EventKind.SYNC_STARTED,
        EventKind.SYNC_ENDED,
    ]


def test_a_listener_that_does_not_read_loses_events_and_learns_how_many() -> None:
    async def body(stage: Stage) -> tuple[Status, list[Event]]:
        await stage.engine.store(*(User(str(number)) for number in range(BUFFER)))
        handle = await stage.begin(NAMES)
        reader = handle.events()
        status = (await handle.completion()).status
        return status, await rest(reader)

    status, seen = play(Source(name=[named]), body)
    assert (status, len(seen)) == (Status.COMPLETED, BUFFER + 2)
    assert (seen[-2].kind, seen[-1].kind) == (EventKind.LOST, EventKind.SYNC_ENDED)
    assert seen[-2].facts["events"] + BUFFER == 3 * BUFFER + 2 * 12 + 1, (
        "three a task, two a page and the removal"
    )


def test_a_sync_stopped_before_it_ran_has_an_end() -> None:
    async def body(stage: Stage) -> list[Event]:
        handle = await stage.begin(USERS)
        reader = handle.events()
        await stage.executor.stop()
        assert (await stage.store.result(handle.id, now=now())).status is Status.INTERRUPTED
        return await rest(reader)

    seen = play(upstream(["well"]), body)
    check_pairs(seen)
    assert seen[-1].facts["status"] == "interrupted"


# -- logging -------------------------------------------------------------------------------------


def test_a_sync_logs_its_beginning_its_retries_its_failures_and_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "max.sync")
    source = Source(users=[UpstreamBroken("it is down"), users("a")], name=[PermissionDenied("closed")])
    result = play(source, lambda stage: stage.sync(USERS, NAMES))
    assert {record.name for record in caplog.records} == {"max.sync"}
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    prefix = f"sync {result.id} of inst: "
    assert all(words.startswith(prefix) for _, words in lines)
    at = "1970-01-01T00:00:02.000Z"
    assert [(level, words.removeprefix(prefix)) for level, words in lines] == [
        ("INFO", "began"),
        ("WARNING", f"task 2 runs again at {at}: Root:r: load collection users: it is down"),
        ("INFO", f"waiting until {at}, tasks: 1"),
        ("WARNING", "task 5 failed: User:a: load fields name: closed"),
        ("INFO", "partial"),
    ]


def test_a_sync_that_its_store_ends_logs_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def body(stage: Stage) -> None:
        async def broken(*arguments: object, **named: object) -> SettleResult:
            raise StorageError("the disk is full")

        stage.store.settle = broken  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            await stage.sync(USERS)

    play(Source(users=[users("a")]), body)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()[-29:]) == ("ERROR", "interrupted: the disk is full")


def test_without_logging_set_up_nothing_is_printed() -> None:
    """The package's logger has a handler, so that Python's last resort does not print warnings."""
    assert any(isinstance(one, logging.NullHandler) for one in logging.getLogger("max").handlers)
    assert log.name == "max.sync"
    assert log.level == logging.NOTSET


# -- waits ---------------------------------------------------------------------------------------


def test_a_waiting_event_has_its_end_its_tasks_and_its_limits() -> None:
    async def body(stage: Stage) -> list[Event]:
        handle = await stage.begin(USERS)
        reader = handle.events()

        async def ask(context: Source, input: None) -> None:
            """Not called."""

        operation = Operation("acme:user:get", ask, limit=Limit("acme:api"))
        stage.executor.context.runner._flow.block_for(operation, 900.0)
        await later(60.0)
        (note,) = [note_of(one) for one in [await anext(handle.progress())]]
        assert note == f"again at {until(900.0, now())}, acme:api is blocked, try 2 of 5: wait"
        wait = await stage.database.read(lambda one: waits(one, handle.id, now=60.0))
        assert wait is not None
        assert (round(wait[0]), wait[1]) == (900, 1)
        assert not await stage.database.read(lambda one: waits(one, handle.id, now=2000.0)), (
            "the task may begin"
        )
        await handle.completion()
        return await rest(reader)

    seen = play(Source(users=[QuotaExceeded("wait", retry_after=900.0), users("a")]), body)
    check_pairs(seen)
    (wait,) = [event.facts for event in seen if event.kind is EventKind.SYNC_WAITING]
    assert wait == {
        "until": pytest.approx(900.0, abs=1.0),
        "tasks": 1,
        "limits": ["acme:api"],
        "reason": "try 2 of 5: wait",
    }
    (one,) = [event.facts for event in seen if event.kind is EventKind.TASK_WAITING]
    assert one["error"]["code"] == "upstream.quota"


@pytest.mark.parametrize(
    ("wait", "shown"), [(600, "00:20"), (601, "00:21"), (30.2, "00:10:31"), (86_400, "1970-01-02 00:10")]
)
def test_a_future_time_is_shown_as_clock_time(
    monkeypatch: pytest.MonkeyPatch, wait: float, shown: str
) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert until(600.0 + wait, 600.0) == shown
    monkeypatch.undo()
    time.tzset()
