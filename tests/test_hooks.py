"""Hooks: signed, stored before they are answered, and then fetched by a sync of just that."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import Hook, HookChanges, Step, Webhook
from max.errors import DaemonBusy, HookRefused, LoaderFault
from max.model.hooks import HookState, PendingHook, collapse
from max.model.tasks import Status
from max.runtime import InstallationRuntime
from max.storage import inbox
from tests.hooked import KEY, NOW, Board, Card, Service, runtime, signed

ROOT = Path(__file__).parent.parent


def using(one: InstallationRuntime, body: Callable[[InstallationRuntime], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        await one.start()
        try:
            return await body(one)
        finally:
            await one.stop()

    return asyncio.run(main())


async def synced(one: InstallationRuntime) -> None:
    await (await one.sync()).completion()


async def received(one: InstallationRuntime, payload: object, **more: Any) -> str:
    return (await one.receive_hook(*signed(payload, **more))).state


async def titles(one: InstallationRuntime) -> dict[str, str]:
    return {card.id: card.title for card in await one.engine.query(Card).all()}


def stored(path: Path) -> list[Any]:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT id, done_at IS NOT NULL FROM _max_inbox ORDER BY number").fetchall()


# -- what is fetched -----------------------------------------------------------------------


def test_a_hook_has_just_its_record_fetched() -> None:
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        service.asked.clear()
        service.cards["1"] = ("one", "changed")
        assert await received(one, {"note": "1"}) == HookState.STORED
        await one.hooks_done()
        assert service.asked == ["note 1"]
        assert (await one.engine.load(Card.ref("1"), Card.note)).note == "changed"

    using(runtime(service), body)


def test_a_hook_about_a_new_row_has_its_collection_listed() -> None:
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        service.asked.clear()
        service.cards["3"] = ("three", "c")
        await received(one, {"board": "b"})
        await one.hooks_done()
        assert service.asked == ["list"]
        assert await titles(one) == {"1": "one", "2": "two", "3": "three"}

    using(runtime(service), body)


def test_what_a_hook_says_is_gone_is_removed_without_a_request() -> None:
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        service.asked.clear()
        await received(one, {"gone": "2"})
        await one.hooks_done()
        assert (await titles(one), service.asked) == ({"1": "one"}, [])

    using(runtime(service), body)


def test_hooks_about_what_is_not_copied_fetch_nothing() -> None:
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        assert await received(one, {"board": "b"}) == HookState.STORED  # nothing was synced yet
        await one.hooks_done()
        await synced(one)
        service.asked.clear()
        for payload in ({"board": "other"}, {"note": "99"}, {"gone": "98"}):
            await received(one, payload)
        assert await received(one, {"ping": True}) == HookState.IGNORED
        await one.hooks_done()
        assert (service.asked, len(await titles(one))) == ([], 2)

    using(runtime(service), body)


def test_hooks_wait_for_the_sync_under_way_and_several_of_one_record_become_one_request() -> None:
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        release, listing = asyncio.Event(), asyncio.Event()

        async def before(what: str) -> None:
            listing.set()
            await release.wait()

        service.before = before
        handle = await one.sync()
        await listing.wait()
        for _ in range(20):
            await received(one, {"note": "1"})
        service.before = None
        release.set()
        await handle.completion()
        service.asked.clear()
        await one.hooks_done()
        assert service.asked == ["note 1"]

    using(runtime(service), body)


def test_a_sync_of_a_person_goes_first_and_the_hook_is_fetched_after_it() -> None:
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        asked, never = asyncio.Event(), asyncio.Event()

        async def before(what: str) -> None:
            asked.set()
            await never.wait()

        service.before = before
        await received(one, {"note": "1"})
        await asked.wait()
        service.before = None
        result = await (await one.sync()).completion()
        assert result.status is Status.COMPLETED
        assert service.asked.count("list") == 2
        await one.hooks_done()
        assert service.asked[-1] == "note 1"

    using(runtime(service), body)


def test_an_interrupted_sync_is_not_lost_to_a_hook(tmp_path: Path) -> None:
    service = Service()
    path = tmp_path / "data.db"

    async def interrupted(one: InstallationRuntime) -> str:
        listing, never = asyncio.Event(), asyncio.Event()

        async def before(what: str) -> None:
            listing.set()
            await never.wait()

        await synced(one)
        service.before = before
        handle = await one.sync()
        await listing.wait()
        return handle.id

    async def resumed(one: InstallationRuntime) -> str:
        service.before = None
        await received(one, {"board": "b"})
        for _ in range(20):  # turns in which the worker could begin
            await one._database.read(inbox.due_at)
        handle = await one.sync()
        await handle.completion()
        await one.hooks_done()
        return handle.id

    first = using(runtime(service, path), interrupted)
    assert using(runtime(service, path), resumed) == first
    assert stored(path)[0][1] == 1


def test_a_sync_that_hooks_began_is_no_sync_that_a_person_joins_or_goes_on_with(tmp_path: Path) -> None:
    service = Service()
    path = tmp_path / "data.db"

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        asked, never = asyncio.Event(), asyncio.Event()

        async def before(what: str) -> None:
            asked.set()
            await never.wait()

        service.before = before
        await received(one, {"note": "1"})
        await asked.wait()  # and here the process ends

    async def again(one: InstallationRuntime) -> None:
        service.before = None
        service.asked.clear()
        await synced(one)
        assert "list" in service.asked

    using(runtime(service, path), body)
    using(runtime(service, path), again)


def test_what_cannot_be_fetched_is_tried_again_and_given_up_at_last(tmp_path: Path) -> None:
    service, now = Service(), [NOW]
    path = tmp_path / "data.db"

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        del service.cards["1"]
        service.asked.clear()
        await received(one, {"note": "1"}, id="lost")
        await one._hooks.stop()
        for tries in range(1, inbox.MOST_TRIES + 1):
            assert stored(path) == [("lost", 0)]
            await one._work_through_hooks()
            wait = await one._work_through_hooks()
            assert (wait is None) == (tries == inbox.MOST_TRIES)
            now[0] += wait or 0.0
        assert stored(path) == [("lost", 1)]

    using(runtime(service, path, clock=lambda: now[0]), body)


# -- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Board-Signature": ""},
        {"X-Board-Signature": "sha256="},
        {"X-Board-Signature": "sha256=" + "0" * 64},
        {"X-Board-Signature": signed({"note": "1"})[0]["X-Board-Signature"].removeprefix("sha256=")},
        {"X-Board-Signature": signed({"note": "1"}, key="another")[0]["X-Board-Signature"]},
        {"X-Board-Signature": signed({"note": "2"})[0]["X-Board-Signature"]},
        {"X-Board-Signature": "sha256=\xe9\u20ac"},
    ],
)
def test_a_forged_hook_is_refused_and_leaves_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    path = tmp_path / "data.db"

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        before = rows(path)
        with pytest.raises(HookRefused) as refused:
            await one.receive_hook(headers, signed({"note": "1"})[1])
        assert refused.value.status == 401
        assert KEY not in str(refused.value.describe())
        assert rows(path) == before

    using(runtime(Service(), path), body)


def rows(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=40), st.sampled_from(["sha256=", ""]))
@settings(max_examples=50, deadline=None)
def test_no_bytes_pass_without_the_secret(body: bytes, key: bytes, prefix: str) -> None:
    from max.connecting import Secret
    from tests.hooked import WEBHOOK

    forged = prefix + WEBHOOK.sign(key.hex(), body).removeprefix("sha256=")
    with pytest.raises(HookRefused):
        WEBHOOK.check(Secret(KEY), {"x-board-signature": forged}, body)
    WEBHOOK.check(Secret(KEY), {"x-board-signature": WEBHOOK.sign(KEY, body)}, body)


@pytest.mark.parametrize("sent", [NOW - 61, NOW + 61, None])
def test_a_hook_of_another_time_is_not_taken(tmp_path: Path, sent: float | None) -> None:
    path = tmp_path / "data.db"

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        assert await received(one, {"note": "1"}, sent=sent) == HookState.LATE
        assert await received(one, {"note": "1"}, sent=NOW - 59, id="timely") == HookState.STORED

    using(runtime(Service(), path), body)
    assert [id for id, _ in stored(path)] == ["timely"]


def test_a_hook_that_is_sent_again_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def body(one: InstallationRuntime) -> list[str]:
        await synced(one)
        first = await received(one, {"note": "1"}, id="d1")
        await one.hooks_done()
        return [
            first,
            await received(one, {"note": "1"}, id="d1"),
            await received(one, {"note": "1"}, id="d2"),
        ]

    states = using(runtime(Service(), path), body)
    assert states == [HookState.STORED, HookState.REPEATED, HookState.STORED]
    assert [id for id, _ in stored(path)] == ["d1", "d2"]


def test_a_removal_that_someone_replays_below_another_id_removes_nothing() -> None:
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        await received(one, {"gone": "2"}, id="d1")
        await one.hooks_done()
        await received(one, {"board": "b"})  # it was restored
        await one.hooks_done()
        assert set(await titles(one)) == {"1", "2"}
        assert await received(one, {"gone": "2"}, id="forged") == HookState.REPEATED
        await one.hooks_done()
        assert set(await titles(one)) == {"1", "2"}

    using(runtime(service), body)


def test_a_flood_is_bounded_and_the_service_learns_when_to_send_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inbox, "MOST_PENDING", 5)
    path = tmp_path / "data.db"
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        never, listing = asyncio.Event(), asyncio.Event()

        async def before(what: str) -> None:
            listing.set()
            await never.wait()

        service.before = before
        await one.sync()
        await listing.wait()
        for _ in range(5):
            await received(one, {"note": "1"})
        with pytest.raises(DaemonBusy) as busy:
            await received(one, {"note": "1"})
        assert busy.value.retry_after > 0

    using(runtime(service, path), body)
    assert len(stored(path)) == 5


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'"text"', b"\xff", b"[" * 100_000])
def test_a_signed_body_that_is_no_object_is_refused(body: bytes) -> None:
    async def refused(one: InstallationRuntime) -> None:
        with pytest.raises(HookRefused) as error:
            await one.receive_hook(*signed(body))
        assert error.value.status == 400

    using(runtime(Service()), refused)


def test_without_a_secret_or_a_webhook_no_hook_is_taken() -> None:
    async def refused(one: InstallationRuntime) -> None:
        with pytest.raises(HookRefused) as error:
            await one.receive_hook(*signed({"note": "1"}, key=""))
        assert error.value.status == 404

    using(runtime(Service(), key=None), refused)
    using(runtime(Service(), key=""), refused)
    using(runtime(Service(), webhook=None), refused)


def raising(hook: Hook) -> HookChanges:
    return HookChanges([hook.payload["missing"]])


def unknown(hook: Hook) -> HookChanges:
    return HookChanges([Step("Nothing", "load_fields", ("x",), "1")])


def for_all(hook: Hook) -> HookChanges:
    return HookChanges([Step.for_all(Card).load_fields(Card.note)])


def no_changes(hook: Hook) -> Any:
    return None


def no_steps(hook: Hook) -> HookChanges:
    return HookChanges(["x"])  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", [raising, unknown, for_all, no_changes, no_steps])
def test_a_bug_of_the_function_that_reads_hooks_is_the_connectors_and_stores_nothing(
    wrong: Any, tmp_path: Path
) -> None:
    from tests import hooked

    async def body(one: InstallationRuntime) -> None:
        await synced(one)
        with pytest.raises(LoaderFault, match="board: webhook"):
            await one.receive_hook(*signed({"note": "1"}))

    webhook = Webhook(
        **{**{n: getattr(hooked.WEBHOOK, n) for n in ("secret", "signature", "prefix")}, "changes": wrong}
    )
    using(runtime(Service(), tmp_path / "data.db", webhook=webhook), body)


# -- kills ---------------------------------------------------------------------------------

KILLED = """
import asyncio, os, sys
from pathlib import Path
from tests.hooked import Service, runtime, signed

async def main():
    one = runtime(Service(), Path(sys.argv[1]))
    await one.start()
    await (await one.sync()).completion()
    one._hooks.wake = lambda: os._exit(9)  # between storing and fetching
    await one.receive_hook(*signed({"note": "1"}))

asyncio.run(main())
"""


def test_a_kill_between_storing_and_fetching_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, cwd=ROOT)
    assert done.returncode == 9
    assert [is_done for _, is_done in stored(path)] == [0]
    service = Service()

    async def body(one: InstallationRuntime) -> None:
        await one.process_hooks()
        await one.hooks_done()

    using(runtime(service, path), body)
    assert service.asked == ["note 1"]
    assert [is_done for _, is_done in stored(path)] == [1]


# -- collapsing ----------------------------------------------------------------------------

STEPS = st.sampled_from(["1", "2", "3"]).map(lambda n: Step.for_one(Card.ref(n)).load_fields(Card.note))
LISTING = st.just(Step.for_one(Board.ref("b")).load_collection(Board.cards))
GONE = st.sampled_from(["1", "2", "3"]).map(lambda n: ("Card", n))


@given(st.lists(st.tuples(st.lists(STEPS | LISTING, max_size=2), st.lists(GONE, max_size=2)), max_size=8))
def test_of_many_hooks_the_last_word_about_each_row_counts(said: list[tuple[list[Step], list[Any]]]) -> None:
    hooks = [PendingHook(n, 0, steps, removed) for n, (steps, removed) in enumerate(said)]
    last: dict[Any, str] = {}  # the oracle: by row or listing, what was said of it last
    for steps, removed in said:
        last |= {(step.entity, step.id): "fetch" for step in steps}
        last |= dict.fromkeys(removed, "gone")
    work = collapse(hooks)
    assert {(step.entity, step.id) for step in work.steps} == {one for one, w in last.items() if w == "fetch"}
    assert set(work.removed) == {one for one, word in last.items() if word == "gone"}
    assert len(set(work.steps)) == len(work.steps)
    assert len(set(work.removed)) == len(work.removed)


def test_a_hook_is_an_event_and_its_sync_says_who_began_it(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def body(one: InstallationRuntime) -> Any:
        await synced(one)
        await received(one, {"note": "1"})
        await one.hooks_done()
        return (await one._store.runs(1, now=NOW))[0]

    run = using(runtime(Service(), path), body)
    assert (run.schedule, run.status) == ("webhook", Status.COMPLETED)
    with sqlite3.connect(path) as connection:
        events = connection.execute("SELECT kind, facts FROM _max_event ORDER BY number").fetchall()
    (facts,) = [json.loads(text) for kind, text in events if kind == "hook.received"]
    assert facts == {"number": 1, "fetches": ["Card:1: load fields note"]}
