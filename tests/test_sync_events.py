"""What syncs leave in the event log: each event in the transaction of what it reports."""

from __future__ import annotations

from pathlib import Path

from max.errors import BadCredentials, QuotaExceeded
from max.model.event_log import LoggedEvent
from max.model.plan import Step
from max.model.tasks import Status, SyncCommand
from max.storage.database import Connection
from max.storage.event_log import events_after
from tests.scenes import NAMES, NOTES, USERS, Source, Stage, named, play, slow, users
from tests.virtual_time import later, now


async def logged(stage: Stage) -> list[LoggedEvent]:
    """Every event of a sync so far."""
    events = (await stage.database.read(events_after)).events
    return [one for one in events if one.kind != "health.changed"]


def words(events: list[LoggedEvent]) -> list[str]:
    """The kinds of events; of an end its status."""
    return [f"{one.kind} {one.facts.get('status', '')}".strip() for one in events]


def test_a_sync_leaves_its_beginning_and_its_end_and_nothing_for_its_pages() -> None:
    source = Source(users=[users("a", next="2"), users("b", next="3"), users("c")], name=[named])

    async def body(stage: Stage) -> None:
        result = await stage.sync(USERS, NAMES)
        begun, ended = await logged(stage)
        assert (begun.kind, ended.kind) == ("sync.begun", "sync.ended")
        assert {begun.sync, ended.sync} == {result.id}
        assert (ended.at, ended.facts["seconds"]) == (result.finished_at, 0.0)
        assert (ended.facts["status"], ended.facts["counts"]) == ("completed", {"User": 3})

    play(source, body)


def test_an_ordinary_page_runs_no_statement_of_the_event_log() -> None:
    def statements(pages: int) -> int:
        found: list[str] = []

        async def body(stage: Stage) -> None:
            def trace(connection: Connection) -> None:
                connection.set_trace_callback(found.append)  # type: ignore[attr-defined]

            await stage.database.transact(trace)
            assert (await stage.sync(USERS)).counts == {"User": pages + 1}

        more = [users(f"u{n}", next=str(n + 1)) for n in range(pages)]
        play(Source(users=[*more, users("last")]), body)
        return sum("_max_event" in one for one in found)

    assert 0 < statements(2) == statements(12)


def test_failures_of_one_transaction_are_one_event_with_the_first_of_them() -> None:
    source = Source(users=[users("a", "b", "c")], name=[BadCredentials("the token has expired")])

    async def body(stage: Stage) -> None:
        await stage.sync(USERS, NAMES)
        events = await logged(stage)
        assert words(events)[0] == "sync.begun"
        assert words(events)[-1] == "sync.ended partial"
        failures = [one for one in events if one.kind == "sync.failures"]
        assert sum(int(str(one.facts["number"])) for one in failures) == events[-1].facts["failed"]
        assert {(one.facts["code"], one.facts["message"]) for one in failures} == {
            ("upstream.credentials", "the token has expired")
        }

    play(source, body)


def test_a_long_wait_is_one_event_however_many_heartbeats_it_lasts() -> None:
    source = Source(users=[QuotaExceeded("slow down", retry_after=300.0), users("a")])

    async def body(stage: Stage) -> None:
        began = now()
        await stage.sync(USERS)
        begun, waiting, ended = await logged(stage)
        assert (waiting.kind, waiting.sync) == ("sync.waiting", begun.sync)
        assert waiting.facts["tasks"] == 1
        assert float(str(waiting.facts["until"])) >= began + 300.0
        assert "slow down" in str(waiting.facts["reason"])
        assert ended.at >= began + 300.0

    play(source, body)


def test_a_short_wait_is_no_event() -> None:
    source = Source(users=[QuotaExceeded("slow down", retry_after=2.0), users("a")])

    async def body(stage: Stage) -> None:
        await stage.sync(USERS)
        assert words(await logged(stage)) == ["sync.begun", "sync.ended completed"]

    play(source, body)


def test_a_pause_a_stop_and_going_on_are_events() -> None:
    source = Source(users=[users("a", next="2"), slow(5.0, users("b", next="3")), slow(5.0, users("c"))])

    async def body(stage: Stage) -> None:
        handle = await stage.begin(USERS)
        await later(1.0)
        await handle.pause()
        await handle.completion()
        await stage.executor.resume(handle.id)
        await later(1.0)
        await stage.executor.stop()
        await stage.executor.start()
        await (await stage.executor.resume(handle.id)).completion()
        assert words(await logged(stage)) == [
            "sync.begun",
            "sync.paused",
            "sync.resumed",
            "sync.interrupted",
            "sync.resumed",
            "sync.ended completed",
        ]

    play(source, body)


def test_a_sync_that_another_one_replaces_or_a_person_cancels_has_ended() -> None:
    source = Source(users=[slow(50.0, users("a"))], notes=[slow(1.0, users("n"))])

    async def body(stage: Stage) -> None:
        first = await stage.begin(USERS)
        await first.pause()
        assert (await first.completion()).status is Status.PAUSED
        second = await stage.begin(USERS)
        await later(1.0)
        await stage.store.request(second.id, SyncCommand.CANCEL, now=now())
        await second.completion()
        events = await logged(stage)
        assert [(one.sync, one.facts["status"]) for one in events if one.kind == "sync.ended"] == [
            (first.id, "cancelled"),
            (second.id, "cancelled"),
        ]

    play(source, body)


def test_a_sync_that_cannot_begin_has_begun_failed_and_ended() -> None:
    async def body(stage: Stage) -> None:
        await stage.store.record_failure("seeder", BadCredentials("who are you?"), now=5.0)
        events = await logged(stage)
        assert words(events) == ["sync.begun", "sync.failures", "sync.ended failed"]
        assert events[1].facts["what"] == "seeder"

    play(Source(), body)


def test_p20_every_begun_sync_has_exactly_one_end_whatever_became_of_it(tmp_path: Path) -> None:
    source = Source(users=[users("a", next="2"), BadCredentials("no")], name=[named], notes=[KeyError("x")])

    async def body(stage: Stage) -> None:
        for steps in ((USERS,), (USERS, NAMES), (Step.concurrent([NAMES, NOTES]),)):
            await stage.sync(*steps)
        events = await logged(stage)
        begun = [one.sync for one in events if one.kind == "sync.begun"]
        assert [one.sync for one in events if one.kind == "sync.ended"] == begun
        assert len(begun) == 3

    play(source, body, tmp_path / "data.db")
