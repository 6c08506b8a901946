"""Execution: plans become tasks, loaders are called, and each result or failure is recorded."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.commands.foreground import note_of
from max.errors import (
    BadCredentials,
    LeaseLost,
    Offline,
    QuotaExceeded,
    StorageError,
    SyncError,
    UnknownName,
    UpstreamBroken,
    UpstreamMissing,
    UsageError,
)
from max.execution import NO_OPTIONS, SyncExecutor
from max.model.delivery import Delivery
from max.model.entities import Ref
from max.model.loaders import Env, Loader, PageRequest
from max.model.plan import Step, SyncPlan
from max.model.query import Batch, Page
from max.model.schema import Schema
from max.model.tasks import CHILDREN_PAGE, ExpandTask, LoadFieldsTask, NewTask, Status, SyncResult
from max.storage.leases import new_worker
from max.sync.retries import TRIES
from max.sync.task_graph import expand
from max.upstream.operations import Limit, Operation, Retry, operation
from tests.sample import sample
from tests.scenes import (
    LOADERS,
    MAILS,
    NAMES,
    NOTES,
    RAW,
    ROOT,
    SCHEMA,
    USERS,
    Note,
    Root,
    Source,
    Stage,
    User,
    named,
    outcome,
    play,
    slow,
    users,
)
from tests.versions import made
from tests.virtual_time import later, now

ALICE, BOB = User.ref("a"), User.ref("b")


def down(*args: Any) -> UpstreamBroken:
    """The error of a source that is down."""
    return UpstreamBroken("it is down")


def failed(result: SyncResult) -> list[tuple[str, str]]:
    """What failed, with the code of each failure."""
    return [(one.what, one.code) for one in result.failures]


# -- from a plan to tasks ---------------------------------------------------------------------


def loader_and_names(task: NewTask) -> tuple[str, tuple[str, ...]]:
    """The loader and the fields of a task that loads fields."""
    assert isinstance(task.spec, ExpandTask | LoadFieldsTask)
    return task.spec.loader, task.spec.names


def test_a_plan_becomes_one_chain_of_steps_and_concurrent_groups() -> None:
    resolver = sample(schema=SCHEMA, loaders=LOADERS).resolver
    root = expand(SyncPlan([USERS, Step.concurrent([NAMES, MAILS])]), resolver, NO_OPTIONS, now=5.0)
    assert (root.spec.kind, root.chained) == ("group", True)
    assert [child.spec.kind for child in root.children] == ["load_collection", "group", "remove"]
    inside = root.children[1]
    assert [loader_and_names(child)[0] for child in inside.children] == ["load_name", "load_mails"]
    assert inside.chained is False


def test_fields_of_several_loaders_become_one_task_each() -> None:
    resolver = sample(schema=SCHEMA, loaders=LOADERS).resolver
    step = Step.for_one(ALICE).load_fields(User.name, User.mail, User.phone)
    group, _ = expand(SyncPlan([step]), resolver, NO_OPTIONS, now=0.0).children
    assert [loader_and_names(child)[1] for child in group.children] == [("name", "phone"), ("mail",)]


def test_a_field_that_only_comes_with_a_listing_cannot_be_a_step() -> None:
    resolver = sample(schema=SCHEMA, loaders=LOADERS).resolver
    with pytest.raises(UsageError, match=r"User\.size cannot be loaded by itself.*list_users"):
        expand(SyncPlan([Step.for_all(User).load_fields(User.size)]), resolver, NO_OPTIONS, now=0.0)


def test_a_plan_with_an_unknown_field_is_refused() -> None:
    resolver = sample(schema=SCHEMA, loaders=LOADERS).resolver
    with pytest.raises(UnknownName, match="unknown field 'nam'"):
        expand(SyncPlan([Step("User", "load_fields", ("nam",))]), resolver, NO_OPTIONS, now=0.0)


# -- what loaders return ---------------------------------------------------------------------


def test_each_kind_of_loader_stores_its_fields() -> None:
    async def mails(ids: list[str], env: Any) -> Batch[User]:
        shared = await env.raw(RAW)
        return Batch([User(id, mail=shared + id) for id in ids])

    async def body(stage: Stage) -> dict[str, User]:
        result = await stage.sync(USERS, NAMES, MAILS)
        assert (result.status, result.counts) == (Status.COMPLETED, {"User": 4})
        return await stage.users()

    source = Source(
        users=[users("a", "bb", next="2"), users("c", "d")], name=[named], mails=[mails], raw=["@"]
    )
    stored = play(source, body)
    assert stored["bb"] == User("bb", name="Name bb", phone="1", mail="@bb", size=2)
    assert [what for name, what in source.asked if name in ("users", "mails")] == [
        None,
        "2",
        ["a", "bb", "c"],
        ["d"],
    ]


def test_entities_that_come_with_a_page_are_stored_and_counted() -> None:
    page = Page([Note("n", text="hi", author=ALICE)], also=[User("a", name="Alice")])

    async def body(stage: Stage) -> dict[str, User]:
        result = await stage.sync(NOTES)
        assert result.counts == {"Note": 1, "User": 1}
        assert (await stage.engine.load_collection(ROOT, Root.notes)).items == page.items
        return await stage.users()

    assert play(Source(notes=[page]), body) == {"a": User("a", name="Alice")}


def test_fields_that_this_sync_stored_are_not_fetched_again() -> None:
    notes = Page([Note("n", text="hi", author=ALICE)], also=[User("a", name="Alice")])
    source = Source(users=[users("a", "b")], notes=[notes], name=[named])
    result = outcome(source, USERS, NOTES, NAMES, Step.for_one(ALICE).load_fields(User.name))
    assert result.status is Status.COMPLETED
    assert [what for name, what in source.asked if name == "name"] == ["b"]


def test_what_is_stored_is_freed_at_once_and_not_when_garbage_is_collected() -> None:
    async def body(stage: Stage) -> list[object]:
        gc.disable()
        try:
            await stage.sync(USERS, NAMES)
            return [one for one in gc.get_objects() if type(one) is Delivery]
        finally:
            gc.enable()

    assert play(Source(users=[users("a", "b", "c")], name=[named]), body) == []


def test_the_next_sync_fetches_again() -> None:
    async def body(stage: Stage) -> int:
        await stage.sync(USERS, NAMES)
        await later(1.0)
        await stage.sync(USERS, NAMES)
        return int(stage.source.count("name"))

    assert play(Source(users=[users("a", "b")], name=[named]), body) == 4


def test_a_step_for_all_loads_the_entities_that_match_its_filter() -> None:
    source = Source(users=[users("a", "bb", "ccc")], name=[named])
    outcome(source, USERS, Step.for_all(User, where=User.size.gt(1)).load_fields(User.name))
    assert sorted(what for name, what in source.asked if name == "name") == ["bb", "ccc"]


def test_a_step_without_entities_completes() -> None:
    assert outcome(Source(), NAMES, MAILS).status is Status.COMPLETED
    assert outcome(Source()).status is Status.COMPLETED
    assert outcome(Source(), Step.concurrent([])).status is Status.COMPLETED


def test_more_targets_than_a_page_of_children_are_all_loaded() -> None:
    many = [f"{n:05}" for n in range(2 * CHILDREN_PAGE + 5)]
    source = Source(users=[users(*many)], mails=[all_mails])
    assert outcome(source, USERS, MAILS).status is Status.COMPLETED
    assert sorted(id for name, ids in source.asked if name == "mails" for id in ids) == many


async def all_mails(ids: list[str], env: Any) -> Batch[User]:
    """The mail of each user."""
    return Batch([User(id, mail=f"{id}@x") for id in ids])


def test_concurrent_steps_run_side_by_side_and_the_next_waits_for_both() -> None:
    async def body(stage: Stage) -> None:
        await stage.sync(Step.concurrent([USERS, NOTES]), NAMES)
        assert now() == pytest.approx(7.0)

    page = Page([Note("n", text="hi", author=ALICE)])
    source = Source(users=[slow(3.0, users("a"))], notes=[slow(5.0, page)], name=[slow(2.0, named)])
    play(source, body)
    assert source.times == [0.0, 0.0, pytest.approx(5.0)]


def test_no_more_tasks_than_the_cap_run_at_once() -> None:
    running, most = 0, 0

    async def counted(id: str, env: Any) -> User:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await later(1.0)
        running -= 1
        return await named(id, env)

    source = Source(users=[users(*"abcdefghij")], name=[counted])
    assert play(source, lambda stage: stage.sync(USERS, NAMES), cap=4).status is Status.COMPLETED
    assert most == 4


def test_calls_of_the_sync_are_counted_by_operation() -> None:
    @operation("scene:user:get")
    async def get(context: Any, id: str) -> User:
        return User(id, name="x", phone="1")

    async def through(id: str, env: Any) -> User:
        return await env.run(get, id)  # type: ignore[no-any-return]

    async def body(stage: Stage) -> list[Any]:
        one = await stage.sync(USERS, NAMES)
        await later(1.0)
        two = await stage.sync(NAMES)
        return [one.requests, two.requests]

    expected = {"scene:user:get": 2}
    assert play(Source([get], users=[users("a", "b")], name=[through]), body) == [expected, expected]


# -- retries ----------------------------------------------------------------------------------


def test_a_temporary_failure_is_retried_after_growing_waits() -> None:
    source = Source(users=[Offline("away"), down(), users("a")])
    assert outcome(source, USERS).status is Status.COMPLETED
    assert [b - a for a, b in pairwise(source.times)] == [pytest.approx(2.0), pytest.approx(4.0)]


def test_no_request_is_sent_before_the_time_that_the_service_named() -> None:
    source = Source(users=[QuotaExceeded("slow down", retry_after=300.0), users("a")])
    assert outcome(source, USERS).status is Status.COMPLETED
    assert source.times[1] >= 300.0


def test_a_task_without_progress_fails_after_its_tries() -> None:
    source = Source(users=[down()])
    result = outcome(source, USERS)
    assert (result.status, len(source.asked)) == (Status.FAILED, TRIES)
    assert failed(result) == [("Root:r: load collection users", "upstream.broken")]
    assert result.failures[0].attempt == TRIES


def test_a_stored_page_resets_the_count_of_tries() -> None:
    down_often = [down()] * (TRIES - 1)
    source = Source(users=[*down_often, users("a", next="2"), *down_often, users("b")])
    assert outcome(source, USERS).status is Status.COMPLETED


def test_progress_on_the_last_try_allows_another_failure() -> None:
    pages = [*[down()] * (TRIES - 1), users("a", next="2"), down(), users("b")]
    assert outcome(Source(users=pages), USERS).status is Status.COMPLETED


def test_half_a_surrogate_pair_in_an_error_is_an_escape_where_it_is_stored_or_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(
        users=[Offline("away \ud800"), UpstreamMissing("no \udfff", hint="see \ud800")], notes=[down()]
    )
    result = outcome(source, USERS)
    (failure,) = result.failures
    assert (result.status, failure.message, failure.hint) == (Status.FAILED, "no \\udfff", "see \\ud800")
    assert "\\udfff" in caplog.text
    assert caplog.text.isascii()


@pytest.mark.parametrize("word", ["next", "sync_token"])
def test_half_a_surrogate_pair_in_a_bookmark_fails_its_listing_alone(word: str) -> None:
    bookmark: dict[str, Any] = {word: "a\ud800"}
    result = outcome(Source(users=[users("a", **bookmark), users("b")]), USERS)
    assert (result.status, len(result.failures)) in {
        (Status.COMPLETED, 0),
        (Status.FAILED, 1),
        (Status.PARTIAL, 1),
    }


def test_a_permanent_failure_is_not_retried() -> None:
    source = Source(users=[BadCredentials("the token is wrong")])
    assert outcome(source, USERS).status is Status.FAILED
    assert len(source.asked) == 1


TWICE: dict[str, Sequence[Any]] = {  # what comes first and passes, and what comes then
    "a task": [down(), users("a")],
    "an item of a page": [users("a", failed={"b": down()}), users("a", "b")],
}


@pytest.mark.parametrize("what", TWICE)
def test_a_clock_that_is_set_right_before_a_failure_is_stored_makes_no_wait_longer(what: str) -> None:
    ahead, source = [31_536_000.0], Source(users=TWICE[what], name=[named])

    def chance() -> float:  # is asked for when a wait is chosen
        ahead[0] = 0.0
        return 1.0

    async def body(stage: Stage) -> Status:
        clock = replace(stage.executor.context, clock=lambda: now() + ahead[0], jitter=chance)
        executor = SyncExecutor(stage.store, clock, worker=new_worker())
        await executor.start()
        try:
            async with asyncio.timeout(60):
                return (await (await executor.begin(SyncPlan([USERS]))).completion()).status
        finally:
            await executor.stop()

    assert play(source, body) is Status.COMPLETED
    assert ahead == [0.0]


def test_a_wait_is_durable(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def first(stage: Stage) -> str:
        handle = await stage.begin(USERS)
        await later(1.5)  # the first attempt has failed at 0
        return handle.id

    async def second(stage: Stage) -> Status:
        handle = await stage.executor.resume(id)
        await later(1.0)
        assert not source.asked, "the wait is not over"
        return (await handle.completion()).status

    id = play(Source(users=[QuotaExceeded("wait", retry_after=60.0)]), first, path)
    source = Source(users=[users("a")])
    assert play(source, second, path) is Status.COMPLETED
    assert source.times == [pytest.approx(60.0)]


def test_waiting_does_not_spin() -> None:
    async def body(stage: Stage) -> int:
        settle, calls = stage.store.settle, 0

        async def counted(*args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            return await settle(*args, **named)

        stage.store.settle = counted  # type: ignore[method-assign]
        await stage.sync(USERS)
        return calls

    waiting = Source(users=[QuotaExceeded("wait", retry_after=100.0), users("a")])
    assert play(waiting, body) < 110
    stuck = Source(users=[slow(100.0, users("a"))])
    assert play(stuck, body) < 110


# -- failures ---------------------------------------------------------------------------------


def test_a_ref_that_fails_does_not_fail_its_batch() -> None:
    async def mails(ids: list[str], env: Any) -> Batch[User]:
        return Batch([User(id, mail="x") for id in ids if id not in "bc"], {"b": BadCredentials("not yours")})

    async def body(stage: Stage) -> SyncResult:
        result = await stage.sync(USERS, MAILS, NAMES)
        assert (await stage.users())["a"].mail == "x"
        return result

    result = play(Source(users=[users(*"abcd")], mails=[mails], name=[named]), body)
    assert result.status is Status.PARTIAL
    assert failed(result) == [
        ("User:b: load fields mail", "upstream.credentials"),
        ("User:c: load fields mail", "upstream.missing"),
    ]
    assert result.failures[1].message == "User:c does not exist upstream"


def later_ok(*answers: Any) -> Source:
    """Mails of the users a to d; a batch of answers fails some of them, by id, and the next ones do not."""
    batches = list(answers)

    async def mails(ids: list[str], env: Any) -> Batch[User]:
        failing = batches.pop(0) if batches else {}
        return Batch([User(id, mail="x") for id in ids if id not in failing], failing)

    return Source(users=[users(*"abcd")], mails=[mails], name=[named])


def mail_requests(source: Source) -> list[list[str]]:
    """The ids of each request for mails, in order."""
    return [ids for name, ids in source.asked if name == "mails"]


def test_a_ref_whose_failure_may_pass_is_requested_again_without_its_batch() -> None:
    source = later_ok({"b": QuotaExceeded("slow down", retry_after=60.0)})
    result = outcome(source, USERS, MAILS)
    assert (result.status, result.failures) == (Status.COMPLETED, ())
    assert mail_requests(source) == [["a", "b", "c"], ["d"], ["b"]]
    assert source.times[-1] >= 60.0


def test_of_a_batch_final_failures_are_recorded_at_once_and_the_others_retried() -> None:
    source = later_ok({"a": BadCredentials("no"), "b": down(), "c": Offline("away")})
    result = outcome(source, USERS, MAILS, NAMES)
    assert failed(result) == [("User:a: load fields mail", "upstream.credentials")]
    assert mail_requests(source) == [["a", "b", "c"], ["d"], ["b", "c"]]
    assert source.count("name") == 4, "the next step is not blocked"


def test_a_ref_that_fails_at_every_try_is_one_failure_and_its_batch_has_not_failed() -> None:
    source = later_ok(*[{"b": down(), "d": down()}] * 99)
    source.answers["users"] = [users(*"abc")]
    result = outcome(source, USERS, MAILS, NAMES)
    assert failed(result) == [("User:b: load fields mail", "upstream.broken")]
    assert mail_requests(source) == [["a", "b", "c"], *[["b"]] * TRIES]
    assert (result.status, source.count("name")) == (Status.PARTIAL, 3)


def test_a_batch_of_which_every_ref_fails_backs_off_and_fails() -> None:
    source = later_ok(*[dict.fromkeys("abcd", down())] * 99)
    source.answers["users"] = [users(*"abc")]
    result = outcome(source, USERS, MAILS, NAMES)
    assert [one.id for one in result.failures] == ["a", "b", "c"]
    assert source.count("name") == 3, "other fields of the same rows do not depend on these"
    assert mail_requests(source) == [["a", "b", "c"]] * TRIES
    assert [b - a for a, b in pairwise(source.times[1 : 1 + TRIES])] == pytest.approx([2.0, 4.0, 8.0, 16.0])


def test_the_rest_of_a_batch_waits_in_the_database(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def first(stage: Stage) -> str:
        handle = await stage.begin(USERS, MAILS)
        await later(1.5)
        return handle.id

    async def second(stage: Stage) -> SyncResult:
        return await (await stage.executor.resume(begun)).completion()

    begun = play(later_ok({"b": QuotaExceeded("slow down", retry_after=60.0)}), first, path)
    source = later_ok()
    assert play(source, second, path).status is Status.COMPLETED
    assert source.asked == [("mails", ["b"])]
    assert source.times == [pytest.approx(60.0)]


def test_a_failure_blocks_only_the_steps_after_it() -> None:
    page = Page([Note("n", text="hi", author=ALICE)], also=[User("a", name="A")])
    source = Source(users=[BadCredentials("no")], notes=[page], name=[named])
    result = outcome(source, Step.concurrent([USERS, NOTES]), NAMES)
    assert (result.status, result.counts) == (Status.PARTIAL, {"Note": 1, "User": 1})
    assert failed(result) == [("Root:r: load collection users", "upstream.credentials")]


def test_a_sync_that_stored_no_row_has_failed() -> None:
    source = Source(users=[BadCredentials("no")], notes=[Page([])])
    result = outcome(source, Step.concurrent([USERS, NOTES]))
    assert (result.status, result.counts) == (Status.FAILED, {})


def test_a_sync_that_stored_fields_alone_is_partial() -> None:
    async def body(stage: Stage) -> SyncResult:
        await stage.sync(USERS)
        await later(1.0)
        return await stage.sync(Step.concurrent([NAMES, NOTES]))

    source = Source(users=[users("a")], name=[named], notes=[BadCredentials("no")])
    result = play(source, body)
    assert (result.status, result.counts) == (Status.PARTIAL, {})


def test_a_retry_never_discards_a_sync_that_has_not_ended() -> None:
    source = Source(users=[users("a", next="2"), BadCredentials("no"), slow(5.0, users("b", next="3"))])

    async def body(stage: Stage) -> None:
        old = await stage.sync(USERS)
        assert old.status is Status.PARTIAL
        paused = await stage.begin(USERS)
        await paused.pause()
        assert (await paused.completion()).status is Status.PAUSED
        with pytest.raises(SyncError, match=f"sync {paused.id} has not ended") as caught:
            await stage.executor.retry(old.id)
        assert "max resume" in caught.value.hint
        assert (await paused.status()).status is Status.PAUSED
        await paused.cancel()
        assert (await (await stage.executor.retry(old.id)).completion()).counts

    play(source, body)


def test_while_a_sync_waits_its_progress_names_the_host_and_the_cause() -> None:
    refused = QuotaExceeded("too many requests (429)", retry_after=300.0, host="api.example.com")
    source = Source(users=[refused, users("a")])

    async def body(stage: Stage) -> None:
        handle = await stage.begin(USERS)
        await later(20.0)
        notes = {note_of(one) async for one in handle.progress() if one.due}
        assert notes
        for note in notes:
            assert note.startswith("again ")
            assert note.endswith(", try 2 of 5: api.example.com: too many requests (429)")

    play(source, body)


def test_while_every_call_waits_for_its_turn_the_progress_names_the_limit() -> None:
    async def load(context: Any, id: str) -> User:
        return User(id, name="x", phone="1")

    get = Operation("scene:user:get", load, limit=Limit("scene:hourly", calls=2, per=3600.0))

    async def through(id: str, env: Any) -> User:
        return await env.run(get, id)  # type: ignore[no-any-return]

    async def body(stage: Stage) -> set[str]:
        handle = await stage.begin(USERS, NAMES)
        return {note_of(one) async for one in handle.progress()}

    assert play(Source([get], users=[users("a", "b", "c")], name=[through]), body) == {
        "",
        "waiting for scene:hourly",
    }


def test_while_a_call_waits_for_its_next_attempt_the_progress_says_why() -> None:
    failures = iter([Offline("no answer from api.example.com"), down()])

    async def load(context: Any, id: str) -> User:
        for error in failures:
            raise error
        return User(id, name="x", phone="1")

    patient = Retry(base=40, cap=40)
    get = Operation("scene:user:get", load, limit=Limit("scene:hourly"), retry=patient)

    async def through(id: str, env: Any) -> User:
        return await env.run(get, id)  # type: ignore[no-any-return]

    async def body(stage: Stage) -> list[str]:
        handle = await stage.begin(USERS, NAMES)
        return list(dict.fromkeys([note_of(one) async for one in handle.progress()]))

    assert play(Source([get], users=[users("a")], name=[through]), body) == [
        "",
        "trying again, no answer from api.example.com",
        "trying again, it is down",
    ]


def test_blocked_steps_name_the_step_that_failed() -> None:
    result = outcome(Source(users=[BadCredentials("no")]), USERS, NAMES, Step.concurrent([MAILS]))
    assert result.status is Status.FAILED
    assert [one.message for one in result.failures] == ["no"] + ["blocked by step " + str(USERS)] * 2
    assert result.failed == 1  # what did not run is no failure of its own


def test_a_repeated_cursor_ends_the_listing_with_a_failure() -> None:
    source = Source(users=[users("a", next="2"), users("b", next="3"), users("c", next="2")])
    result = outcome(source, USERS)
    assert (result.status, len(source.asked)) == (Status.PARTIAL, 3)
    assert "'2' came twice" in result.failures[0].message


def test_a_sync_without_network_fails_and_stores_nothing() -> None:
    source = Source(users=[Offline("no network")], notes=[Offline("no network")])
    result = outcome(source, Step.concurrent([USERS, NOTES]), NAMES)
    assert (result.status, result.counts, result.failed) == (Status.FAILED, {}, 2)


class OwnBase(BaseException):
    """An error that only ``except BaseException`` catches."""


async def recurses(ids: list[str], env: Any) -> Any:
    """A bug without end."""
    return await recurses(ids, env)


class Unshowable:
    """Something that cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("step", "answers", "message"),
    [
        (USERS, {"users": [KeyError("title")]}, "list_users raised KeyError: 'title' (scenes.py, line"),
        (USERS, {"users": [ZeroDivisionError()]}, "list_users raised ZeroDivisionError (scenes.py"),
        (USERS, {"users": [[User("a")]]}, "list_users must return a Page, got list [User('a')]"),
        (USERS, {"users": [None]}, "list_users must return a Page, got null"),
        (USERS, {"users": [Page([Root("a")])]}, "must return items of User, got Root Root('a')"),
        (USERS, {"users": [Page([User("a", name="x")])]}, "only the fields in its brings, without name"),
        (
            USERS,
            {"users": [users("a", also=[Note("n")])]},
            "entities of User, got Note Note('n')",
        ),
        (
            NAMES,
            {"name": [User("zz", name="x")]},
            "must return only the User that were requested, got User User('zz'",
        ),
        (NAMES, {"name": [Batch([])]}, "must return a User, got Batch Batch("),
        (MAILS, {"mails": [User("a")]}, "must return a Batch, got User User('a')"),
        (
            MAILS,
            {"mails": [Batch([Note("a")])]},
            "must return only the User that were requested, got Note Note('a')",
        ),
        (MAILS, {"mails": [Batch([User("a", size=1)])]}, "only the fields in its brings, without size"),
        (MAILS, {"mails": [LeaseLost("not mine")]}, "load_mails raised LeaseLost: not mine"),
        (MAILS, {"mails": [StorageError("its own")]}, "load_mails raised StorageError: its own"),
        (MAILS, {"mails": [asyncio.CancelledError()]}, "load_mails raised CancelledError"),
        (MAILS, {"mails": [SystemExit(0)]}, "load_mails raised SystemExit: 0 (scenes.py, line"),
        (MAILS, {"mails": [KeyboardInterrupt()]}, "load_mails raised KeyboardInterrupt (scenes.py, line"),
        (MAILS, {"mails": [GeneratorExit()]}, "load_mails raised GeneratorExit"),
        (MAILS, {"mails": [MemoryError()]}, "load_mails raised MemoryError"),
        (MAILS, {"mails": [recurses]}, "load_mails raised RecursionError: maximum recursion depth exceeded"),
        (MAILS, {"mails": [OwnBase("mine")]}, "load_mails raised OwnBase: mine"),
        (
            MAILS,
            {"mails": [BaseExceptionGroup("g", [SystemExit("stop")])]},
            "load_mails raised SystemExit: stop",
        ),
        (MAILS, {"mails": [ExceptionGroup("g", [KeyError("x")])]}, "load_mails raised KeyError: 'x'"),
        (MAILS, {"mails": [ExceptionGroup("g", [BadCredentials("wrong")])]}, "wrong"),
        (MAILS, {"mails": [Unshowable()]}, "must return a Batch, got Unshowable that cannot be printed"),
    ],
)
def test_a_bug_of_a_loader_is_one_failure_and_the_sync_continues(
    step: Step, answers: dict[str, list[Any]], message: str
) -> None:
    notes = Page([Note("n", text="hi", author=ALICE)], also=[User("a", name="A")])
    given_by: dict[str, list[Any]] = {"users": [users("a")], "notes": [notes]}
    source = Source(**given_by | answers)
    seeded = [] if step is USERS else [USERS]
    since = Step.for_one(ALICE).load_fields(User.phone) if step is NAMES else step
    result = outcome(source, *seeded, Step.concurrent([since, NOTES]))
    assert result.status is Status.PARTIAL
    assert [one.message for one in result.failures if message in one.message], result.failures
    assert result.failed == 1
    assert result.counts["Note"] == 1


def test_a_failed_page_keeps_the_pages_before_it() -> None:
    async def body(stage: Stage) -> list[str]:
        result = await stage.sync(USERS)
        assert (result.status, result.failed) == (Status.PARTIAL, 1)
        return list(await stage.users())

    assert play(Source(users=[users("a", next="2"), KeyError("x")]), body) == ["a"]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["ok", "bad", "bug", "retry"]), min_size=1, max_size=12))
def test_p6_failures_touch_only_their_own_dependants(fates: list[str]) -> None:
    async def fate(id: str, env: Any) -> Any:
        kind = fates[int(id)]
        if kind == "retry" and env.attempt == 1:
            raise down()
        if kind == "bug":
            raise ZeroDivisionError
        return BadCredentials("no") if kind == "bad" else await named(id, env)

    async def checked(id: str, env: Any) -> Any:
        answer = await fate(id, env)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def body(stage: Stage) -> tuple[SyncResult, dict[str, User]]:
        result = await stage.sync(USERS, Step.concurrent([NAMES, MAILS]), NOTES)
        return result, await stage.users()

    ids = [str(n) for n in range(len(fates))]
    source = Source(users=[users(*ids)], name=[checked], mails=[all_mails], notes=[Page([])])
    result, stored = play(source, body)
    broken = {id for id in ids if fates[int(id)] in ("bad", "bug")}
    assert {one.id for one in result.failures} == broken
    assert result.status is (Status.PARTIAL if broken else Status.COMPLETED)
    assert all("mail" in repr(user) for user in stored.values())
    assert source.count("notes") == 1
    assert {id for id, user in stored.items() if "name" in repr(user)} == set(ids) - broken


# -- what loaders get ------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, TRIES - 1), min_size=1, max_size=4))
def test_p27_env_has_the_facts_of_every_call(failures: list[int]) -> None:
    answers: list[Any] = []
    for number, before in enumerate(failures):
        following = str(number) if number < len(failures) - 1 else None
        answers += [*[down()] * before, users(str(number), next=following)]
    source = Source(users=answers, name=[named])

    async def body(stage: Stage) -> str:
        return (await stage.sync(USERS, NAMES)).id

    sync = play(source, body)
    for env in source.envs:
        assert (env.installation, env.version, env.sync, env.context) == ("inst", "7", sync, source)
    assert [env.deadline for env in source.envs] == pytest.approx([at + 3600.0 for at in source.times])
    listing, names = source.envs[: len(answers)], source.envs[len(answers) :]
    begun = [1 + sum(isinstance(one, Exception) for one in answers[:n]) for n in range(len(answers))]
    assert [env.attempt for env in listing] == begun
    assert len({env.task for env in listing}) == 1
    assert len({env.task for env in names} | {listing[0].task}) == len(failures) + 1


async def never(what: Any, env: Env[Any]) -> Any:
    """A loader that does not return."""
    await asyncio.Event().wait()


def test_a_call_past_its_deadline_is_cancelled_and_retried() -> None:
    source = Source(users=[users("a", next="2"), never, users("b")])
    result = outcome(source, USERS)
    assert (result.status, result.counts) == (Status.COMPLETED, {"User": 2})
    assert [env.attempt for env in source.envs] == [1, 1, 2]
    begun, again = source.times[1:]
    assert begun + 3600.0 <= again <= begun + 3605.0


def test_a_call_that_is_overdue_every_time_is_a_failure_that_names_the_setting() -> None:
    result = outcome(Source(users=[never]), USERS)
    (failure,) = result.failures
    assert (failure.code, failure.attempt) == ("upstream.offline", TRIES)
    assert "did not return within 60 minutes" in failure.message
    assert "loader_minutes" in failure.hint


def test_a_sync_cancelled_just_before_a_deadline_is_cancelled() -> None:
    async def body(stage: Stage) -> Status:
        handle = await stage.begin(USERS)
        await later(3599.0)
        await handle.cancel()
        return (await handle.completion()).status

    assert play(Source(users=[never]), body) is Status.CANCELLED


SECONDS = st.floats(0.0, 3.0)
MINE: ContextVar[str] = ContextVar("mine", default="unset")


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)), min_size=1, max_size=8), st.integers(1, 8)
)
def test_p23_a_task_sees_only_its_own_values_and_nothing_remains(
    waits: list[tuple[float, float]], cap: int
) -> None:
    seen: list[tuple[str, str]] = []

    async def marks(id: str, env: Any) -> User:
        seen.append(("unset", MINE.get()))
        MINE.set(id)
        before, after = waits[int(id)]
        await later(before)
        seen.append(("unset", await env.raw(RAW)))
        await later(after)
        seen.append((id, MINE.get()))
        return await named(id, env)

    async def shared(what: Any, env: Any) -> str:
        found = MINE.get()
        MINE.set("shared")
        await later(1.0)
        return found

    source = Source(users=[users(*map(str, range(len(waits))))], name=[marks], raw=[shared])
    threads = set(threading.enumerate())
    assert play(source, lambda stage: stage.sync(USERS, NAMES), cap=cap).status is Status.COMPLETED
    assert len(seen) == 3 * len(waits)
    assert all(expected == found for expected, found in seen)
    assert MINE.get() == "unset"
    assert set(threading.enumerate()) <= threads


def test_a_shared_value_is_loaded_once_for_all_tasks() -> None:
    async def asks(id: str, env: Any) -> User:
        assert await env.raw(RAW) is await env.raw(RAW)
        return await named(id, env)

    source = Source(users=[users(*"abcdef")], name=[asks], raw=[slow(1.0, {"shared": 1})])
    assert outcome(source, USERS, NAMES).status is Status.COMPLETED
    assert source.count("raw") == 1


def test_each_sync_loads_shared_values_again() -> None:
    async def asks(id: str, env: Any) -> User:
        return User(id, name=await env.raw(RAW), phone="1")

    async def body(stage: Stage) -> str:
        await stage.sync(USERS, NAMES)
        await later(1.0)
        await stage.sync(NAMES)
        return (await stage.users())["a"].name

    assert play(Source(users=[users("a")], name=[asks], raw=["old", "new"]), body) == "new"


@pytest.mark.parametrize("raised", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), OwnBase()])
def test_a_shared_value_that_ends_the_process_fails_its_tasks_alone(raised: BaseException) -> None:
    async def mails(ids: list[str], env: Any) -> Batch[User]:
        return Batch([User(id, mail=await env.raw(RAW)) for id in ids])

    notes = Page([Note("n", text="hi", author=ALICE)], also=[User("a", name="A")])
    source = Source(users=[users("a")], mails=[mails], raw=[raised], notes=[notes])
    result = outcome(source, USERS, Step.concurrent([MAILS, NOTES]))
    assert (result.status, result.counts["Note"]) == (Status.PARTIAL, 1)
    (failure,) = result.failures
    assert f"raised {type(raised).__name__}" in failure.message


def test_a_failed_load_of_a_shared_value_is_repeated_for_the_next_task() -> None:
    async def asks(id: str, env: Any) -> User:
        await env.raw(RAW)
        return await named(id, env)

    source = Source(users=[users(*"abc")], name=[asks], raw=[slow(1.0, down()), slow(1.0, "shared")])
    assert outcome(source, USERS, NAMES).status is Status.COMPLETED
    assert source.count("raw") == 2, "the three tasks that waited for the first load failed with it"


def upgraded(
    *loaders: Loader[Any],
    path: Path,
    plan: Sequence[Any],
    source: Source,
    schema: Schema = SCHEMA,
    meanwhile: str = "SELECT 1",
) -> SyncResult:
    """The result of a sync that is interrupted, and goes on with other loaders."""

    async def body(stage: Stage) -> SyncResult:
        handle = await stage.begin(*plan)
        await later(1.0)
        await stage.executor.stop()
        await stage.database.transact(lambda connection: connection.execute(meanwhile).fetchall())
        connector = sample(name="scene", schema=schema, loaders=list(loaders))
        stage.executor.context = replace(stage.executor.context, connector=connector)
        await stage.executor.start()
        return await (await stage.executor.resume(handle.id)).completion()

    return play(source, body, path / "data.db")


def without(name: str) -> list[Loader[Any]]:
    """The loaders of the scene but one."""
    return [one for one in LOADERS if one.name != name]


@Loader.entity(User.name, User.phone)
async def load_one_name(ref: Ref[User], env: Env[Source]) -> User:
    """The same under another name."""
    return await named(ref.id, env)


@Loader.entity_batched(User.name, User.phone, size=2)
async def load_name_of_two(refs: Sequence[Ref[User]], env: Env[Source]) -> Batch[User]:
    """The same for two users at once."""
    assert len(refs) <= 2
    return Batch([await named(ref.id, env) for ref in refs])


@Loader.entity(User.mail)
async def load_one_mail(ref: Ref[User], env: Env[Source]) -> User:
    """The mail of one user."""
    return User(ref.id, mail=f"{ref.id}@x")


@Loader.entity(User.phone)
async def load_phone(ref: Ref[User], env: Env[Source]) -> User:
    """The phone alone."""
    return User(ref.id, phone="1")


@Loader.entity(User.name)
async def load_name_alone(ref: Ref[User], env: Env[Source]) -> User:
    """The name alone."""
    return User(ref.id, name="x")


@pytest.mark.parametrize("other", [load_one_name, load_name_of_two])
def test_pending_tasks_survive_an_upgrade_that_gives_their_loader_another_name_or_kind(
    tmp_path: Path, other: Loader[Any]
) -> None:
    source = Source(users=[users("a", "b")], name=[slow(100.0, named)])
    loaders = [*without("load_name"), other]
    result = upgraded(*loaders, path=tmp_path, plan=[USERS, NAMES], source=source)
    assert (result.status, result.failures) == (Status.COMPLETED, ())


def test_a_pending_batch_is_loaded_one_by_one_when_its_loader_takes_one(tmp_path: Path) -> None:
    source = Source(users=[users(*"abcde")], mails=[slow(100.0, all_mails)])
    loaders = [*without("load_mails"), load_one_mail]
    result = upgraded(*loaders, path=tmp_path, plan=[USERS, MAILS], source=source)
    assert (result.status, result.failures) == (Status.COMPLETED, ())


def test_a_pending_batch_is_divided_when_its_loader_takes_fewer_at_once(tmp_path: Path) -> None:
    @Loader.entity_batched(User.mail, size=2)
    async def load_mails(refs: Sequence[Ref[User]], env: Env[Source]) -> Batch[User]:
        assert len(refs) <= 2
        return await all_mails([ref.id for ref in refs], env)

    source = Source(users=[users(*"abcde")], mails=[slow(100.0, all_mails)])
    result = upgraded(*without("load_mails"), load_mails, path=tmp_path, plan=[USERS, MAILS], source=source)
    assert (result.status, result.failures) == (Status.COMPLETED, ())


def test_a_pending_task_whose_loader_was_split_in_two_goes_on_with_both(tmp_path: Path) -> None:
    source = Source(users=[users("a")], name=[slow(100.0, named)])
    plan = [USERS, Step.for_all(User).load_fields(User.name, User.phone)]
    loaders = [*without("load_name"), load_phone, load_name_alone]
    result = upgraded(*loaders, path=tmp_path, plan=plan, source=source)
    assert (result.status, result.failures) == (Status.COMPLETED, ())


def test_a_pending_task_whose_field_no_loader_fetches_any_more_says_so(tmp_path: Path) -> None:
    @Loader.collection(Root.users, brings=[User.name, User.phone, User.size])
    async def list_users(root: Ref[Root], request: PageRequest, env: Env[Source]) -> Page[User]:
        return users("a")

    source = Source(users=[users("a")], name=[slow(100.0, named)])
    loaders = [one for one in LOADERS if one.name not in ("load_name", "list_users")]
    result = upgraded(*loaders, list_users, path=tmp_path, plan=[USERS, NAMES], source=source)
    assert [(one.code, one.message) for one in result.failures] == [
        ("sync", "no loader loads User.name for given ids any more: the connector has changed")
    ]


LONELY = made("Root", {})
OTHER = made("Other", {})
FOLLOW = '{"v": 1, "entity": "Root", "feed": "news", "id": "r", "since": 0}'
TO_A_FEED = f"UPDATE _max_task SET kind = 'follow', spec = '{FOLLOW}' WHERE kind = 'load_collection'"


@pytest.mark.parametrize(
    ("schema", "meanwhile", "problem"),
    [
        (Schema([LONELY], roots=[LONELY]), "SELECT 1", "no loader lists Root.notes"),
        (Schema([OTHER], roots=[OTHER]), "SELECT 1", "the schema has no Root"),
        (SCHEMA, TO_A_FEED, "no feed is named news"),
    ],
)
def test_a_pending_listing_that_the_connector_no_longer_has_says_so(
    tmp_path: Path, schema: Schema, meanwhile: str, problem: str
) -> None:
    loaders = LOADERS if schema is SCHEMA else []
    source = Source(notes=[slow(100.0, Page([]))])
    result = upgraded(
        *loaders, path=tmp_path, plan=[NOTES], source=source, schema=schema, meanwhile=meanwhile
    )
    assert [(one.code, one.message) for one in result.failures] == [
        ("sync", f"{problem} any more: the connector has changed")
    ]


def test_a_task_of_an_unknown_format_ends_the_sync_and_stays_pending(tmp_path: Path) -> None:
    async def body(stage: Stage) -> str:
        handle = await stage.begin(USERS)
        await later(1.0)
        await stage.executor.stop()
        await stage.database.transact(
            lambda c: (
                c.execute("UPDATE _max_task SET spec = '{\"v\": 9}' WHERE kind = 'load_collection'"),
                None,
            )[1]
        )
        await stage.executor.start()
        with pytest.raises(SyncError, match="format 9, which this version of Max does not know"):
            await (await stage.executor.resume(handle.id)).completion()
        query = "SELECT state FROM _max_task WHERE kind = 'load_collection'"
        row = await stage.database.read(lambda c: c.execute(query).fetchone())
        return str(row[0])

    source = Source(users=[QuotaExceeded("wait", retry_after=60.0)])
    assert play(source, body, tmp_path / "data.db") == "pending"


def test_env_runs_operations_only() -> None:
    async def runs(id: str, env: Any) -> Any:
        return await env.run(named, id)

    result = outcome(Source(users=[users("a")], name=[runs]), USERS, NAMES)
    assert "is no operation" in result.failures[0].message


def test_a_row_that_is_missing_upstream_is_named_in_its_failure() -> None:
    source = Source(users=[users("a", "b")], name=[UpstreamMissing("no such user"), named])
    result = outcome(source, USERS, NAMES)
    assert (result.status, [one.id for one in result.failures]) == (Status.PARTIAL, ["a"])
    assert Ref(User, "a") == ALICE
