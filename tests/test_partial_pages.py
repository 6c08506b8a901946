"""Partial pages: what of a page could not be read is asked for again, alone, and is never removed for it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from max.errors import (
    BadCredentials,
    Offline,
    PermissionDenied,
    QuotaExceeded,
    SyncTokenRefused,
    UpstreamBroken,
)
from max.model.entities import Entity, Field, Many, Ref
from max.model.loaders import Env, Loader, PageRequest, Watermark
from max.model.plan import Step
from max.model.query import Batch, Page
from max.model.schema import Schema
from max.model.tasks import Status, SyncResult
from max.sync.retries import TRIES
from tests.scenes import MAILS, NOTES, ROOT, USERS, Note, Source, Stage, User, outcome, play, users
from tests.scenes import Root as Users
from tests.upstream_model import ROOT as MODEL_ROOT
from tests.upstream_model import Group, Item, Root
from tests.upstream_world import RIGHT, Event, Sync, World
from tests.upstream_world import play as play_world
from tests.virtual_time import later


def down() -> UpstreamBroken:
    return UpstreamBroken("it is down")


def pages(source: Source) -> list[str | None]:
    """The cursors that were asked for, in order."""
    return [cursor for name, cursor in source.asked if name == "users"]


def failed(result: SyncResult) -> list[tuple[str, str]]:
    return [(one.what, one.code) for one in result.failures]


LISTING = "Root:r: load collection users: User:"


def test_an_item_whose_failure_may_pass_is_asked_for_again_after_its_wait_and_its_page_alone() -> None:
    source = Source(
        users=[
            users("a", next="2", failed={"b": QuotaExceeded("slow down", retry_after=60.0)}),
            users("c"),
            users("a", "b", next="2"),
        ]
    )

    async def body(stage: Stage) -> tuple[Status, list[str]]:
        result = await stage.sync(USERS)
        return result.status, sorted(await stage.users())

    assert play(source, body) == (Status.COMPLETED, ["a", "b", "c"])
    assert pages(source) == [None, "2", None]
    assert source.times[-1] >= 60.0


def test_an_item_whose_wait_an_older_version_stored_as_a_time_is_asked_for_at_once(tmp_path: Path) -> None:
    path, failing = tmp_path / "data.db", {"b": QuotaExceeded("slow down", retry_after=600.0)}
    source = Source(users=[users("a", failed=failing), users("a", "b")])

    async def first(stage: Stage) -> str:
        handle = await stage.begin(USERS)
        await later(30.0)
        return handle.id

    sync = play(source, first, path)

    async def second(stage: Stage) -> Status:
        async with asyncio.timeout(60):
            return (await (await stage.executor.resume(sync)).completion()).status

    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        stored = """replace(spec, '["b"], 0.0', '["b"], 1900000000.0')"""
        file.execute(f"UPDATE _max_task SET not_before = 0, spec = {stored} WHERE state = 'pending'")
        ((spec,),) = file.execute("SELECT spec FROM _max_task WHERE state = 'pending'").fetchall()
        assert "1900000000.0" in spec
    assert play(source, second, path) is Status.COMPLETED
    assert source.times[-1] < 60.0


def test_a_final_failure_of_an_item_is_recorded_with_its_id_and_not_tried_again() -> None:
    source = Source(users=[users("a", failed={"b": PermissionDenied("no")})], mails=[batch])
    result = outcome(source, USERS, MAILS)
    assert failed(result) == [(f"{LISTING}b", "upstream.permission")]
    assert (result.failures[0].entity, result.failures[0].id) == ("User", "b")
    assert result.status is Status.PARTIAL
    assert source.count("users") == 1
    assert source.count("mails") == 1, "the next step is not blocked"


async def batch(ids: list[str], env: Any) -> Any:
    return Batch([User(id, mail="x") for id in ids])


def test_an_item_that_fails_at_every_try_is_one_failure() -> None:
    source = Source(users=[users("a", failed={"b": down()})])
    result = outcome(source, USERS)
    assert failed(result) == [(f"{LISTING}b", "upstream.broken")]
    assert source.count("users") == 1 + TRIES


def test_a_listing_of_which_nothing_could_be_read_has_failed() -> None:
    source = Source(users=[users(failed={"a": PermissionDenied("no"), "b": PermissionDenied("no")})])
    result = outcome(source, USERS, MAILS)
    assert result.status is Status.FAILED
    assert failed(result)[-1] == ("all User: load fields mail", "sync.blocked")


def test_a_page_that_cannot_be_asked_for_again_fails_its_items_alone() -> None:
    source = Source(users=[users("a", failed={"b": Offline("away")}), BadCredentials("no")])
    result = outcome(source, USERS)
    assert failed(result) == [(f"{LISTING}b", "upstream.credentials")]
    assert result.status is Status.PARTIAL


def test_an_item_that_has_left_its_page_meanwhile_is_a_failure_and_the_next_sync_lists_it() -> None:
    source = Source(users=[users("a", failed={"b": down()}), users("a"), users("a", "b")])

    async def body(stage: Stage) -> tuple[list[tuple[str, str]], Status, list[str]]:
        first, second = await stage.sync(USERS), await stage.sync(USERS)
        return failed(first), second.status, sorted(await stage.users())

    assert play(source, body) == ([(f"{LISTING}b", "upstream.missing")], Status.COMPLETED, ["a", "b"])


def test_an_item_of_changes_that_were_given_up_is_not_asked_for_by_their_cursor() -> None:
    """When the source refuses the sync token on a later page, everything is listed, and with it the item."""
    changes = [users("a", next="2", failed={"b": down()}), SyncTokenRefused("it is too old")]
    everything = [users("a", next="9"), users("b", sync_token="x"), users("a")]
    source = Source(users=[users("a", "b", sync_token="w"), *changes, *everything])

    async def body(stage: Stage) -> tuple[Status, list[tuple[str, str]]]:
        await stage.sync(USERS)
        result = await stage.sync(USERS)
        return result.status, failed(result)

    assert play(source, body) == (Status.COMPLETED, [])
    assert pages(source) == [None, None, "2", None, "9"]


def test_a_retry_asks_for_what_could_not_be_read_and_for_nothing_else() -> None:
    source = Source(
        users=[users("a", next="2", failed={"b": PermissionDenied("no")}), users("c"), users("a", "b")]
    )

    async def body(stage: Stage) -> tuple[Status, list[str]]:
        await stage.sync(USERS)
        result = await (await stage.executor.retry()).completion()
        return result.status, sorted(await stage.users())

    assert play(source, body) == (Status.COMPLETED, ["a", "b", "c"])
    assert pages(source) == [None, "2", None]


def test_a_total_counts_what_could_not_be_read_once_however_late_it_came() -> None:
    source = Source(
        users=[
            users("a", next="2", total=3, failed={"b": down()}),
            users("c", total=3),
            users("a", "b", next="2", total=3),
        ]
    )
    assert outcome(source, USERS).failures == ()


def test_a_row_that_could_not_be_read_stays_a_member_as_old_as_it_was() -> None:
    source = Source(users=[users("a", "b"), users("a", failed={"b": PermissionDenied("no")})])

    async def body(stage: Stage) -> tuple[list[str], bool, bool]:
        await stage.sync(USERS)
        before = [await stage.meta.synced_at(Ref(User, id), User.size) for id in "ab"]
        await stage.sync(USERS)
        after = [await stage.meta.synced_at(Ref(User, id), User.size) for id in "ab"]
        members = await stage.engine.load_collection(ROOT, Users.users)
        return [one.id for one in members.items], before[0] < after[0], before[1] == after[1]  # type: ignore[operator]  # both are known

    assert play(source, body) == (["a", "b"], True, True)


# -- by the entity's own loader ------------------------------------------------------------------


class Shelf(Entity):
    """Holds books."""

    books: Many[Book] = Many()


class Book(Entity):
    """Has a loader of its own."""

    title: Field[str] = Field()
    changed: Field[datetime] = Field()


SHELF = Ref(Shelf, "r")


@Loader.collection(Shelf.books, brings=[Book.title, Book.changed], watermark=Watermark(Book.changed))
async def list_books(parent: Ref[Shelf], request: PageRequest, env: Env[Source]) -> Any:
    return await env.context.ask("books", request.since, env)


@Loader.entity(Book.title, Book.changed)
async def load_book(ref: Ref[Book], env: Env[Source]) -> Any:
    return await env.context.ask("book", ref.id, env)


LIBRARY: dict[str, Any] = {"schema": Schema([Shelf, Book], roots=[Shelf]), "loaders": [list_books, load_book]}
BOOKS = Step.for_root(SHELF).load_collection(Shelf.books)


def book(id: str, day: int = 1) -> Book:
    return Book(id, title=f"Title {id}", changed=datetime.fromtimestamp(day, UTC))


async def books(stage: Stage) -> list[str]:
    return [one.id for one in (await stage.engine.load_collection(SHELF, Shelf.books)).items]


def test_the_entitys_own_loader_is_asked_where_it_brings_all_that_the_listing_brings() -> None:
    source = Source(books=[Page([book("a")], failed={"b": down(), "c": down()})], book=[own])

    async def own_books(stage: Stage) -> tuple[Status, list[str]]:
        result = await stage.sync(BOOKS)
        return result.status, await books(stage)

    assert play(source, own_books, **LIBRARY) == (Status.COMPLETED, ["a", "b", "c"])
    assert source.asked == [("books", None), ("book", "b"), ("book", "c")]


async def own(id: str, env: Any) -> Book:
    return book(id)


# -- bookmarks -----------------------------------------------------------------------------------


def test_the_bookmark_stays_until_everything_was_read() -> None:
    source = Source(
        books=[
            Page([book("a", 3)], failed={"b": PermissionDenied("no")}),
            Page([book("a", 3), book("b", 2)]),
            Page([]),
        ],
        book=[own],
    )

    async def body(stage: Stage) -> list[Status]:
        await later(100)
        return [(await stage.sync(BOOKS)).status for _ in range(3)]

    statuses = play(source, body, **LIBRARY)
    assert statuses == [Status.PARTIAL, Status.COMPLETED, Status.COMPLETED]
    since = [None if one is None else one.second for _, one in source.asked]
    assert since == [None, None, 3], "the second sync lists everything that the first one did"


def test_a_bookmark_moves_with_what_came_at_a_second_try() -> None:
    source = Source(books=[Page([book("a", 3)], failed={"b": down()}), Page([])], book=[own])

    async def body(stage: Stage) -> None:
        await later(100)
        await stage.sync(BOOKS)
        await stage.sync(BOOKS)

    play(source, body, **LIBRARY)
    assert [what for name, what in source.asked if name == "books"][1].second == 3


# -- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        Page([User("a")], failed={"a": down()}),
        Page([User("a")], failed={"": down()}),
        Page([User("a")], failed={"b": "it is down"}),  # type: ignore[dict-item]  # the mistake
        Page([User("a")], failed=["b"]),  # type: ignore[arg-type]  # the mistake
    ],
)
def test_wrong_failures_are_refused_with_the_loader_and_the_page(page: Page[User]) -> None:
    (failure,) = outcome(Source(users=[page]), USERS).failures
    assert failure.code == "connector.fault"
    assert "loader list_users" in failure.message
    assert "Page.failed" in failure.message


# -- kills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", range(12))
def test_a_process_that_dies_at_any_write_loses_nothing_of_a_partial_page(dies: int) -> None:
    async def body(world: World) -> None:
        for number in range(2):
            world.upstream.create(Group, f"g{number}", (repr(Root.groups), MODEL_ROOT.id))
        for number in range(5):
            world.upstream.create(Item, f"i{number}", (repr(Group.loose), "g0"))
        unread = {n: Event("unread", n) for n in range(1, 12)}
        await world.sync(Sync(during=unread, dies=dies))
        result = await world.sync(Sync())
        assert result is not None
        assert result.status is Status.COMPLETED
        assert (await world.state()) == world.upstream.state()

    play_world(body)


def test_a_row_that_could_not_be_read_is_not_removed() -> None:
    async def body(world: World) -> None:
        world.upstream.create(Group, "g0", (repr(Root.groups), MODEL_ROOT.id))
        for number in range(4):
            world.upstream.create(Item, f"i{number}", (repr(Group.loose), "g0"))
        await world.sync(Sync())
        denied = {n: Event("forgone", n) for n in range(2, 20)}
        result = await world.sync(Sync(during=denied, options=RIGHT))
        assert result is not None
        assert result.status is Status.PARTIAL
        assert (await world.state())[0]["Item"] == world.upstream.state()[0]["Item"]

    play_world(body)


# -- what a failed step blocks -------------------------------------------------------------------


def test_a_step_for_one_row_runs_whatever_failed_before_it() -> None:
    source = Source(users=[BadCredentials("no")], notes=[Page([])])
    result = outcome(source, USERS, NOTES)
    assert failed(result) == [("Root:r: load collection users", "upstream.credentials")]
    assert source.count("notes") == 1


def test_a_step_for_all_rows_runs_when_one_of_the_steps_that_bring_them_did() -> None:
    came = Page([Note("n", text="t", author=Ref(User, "a"))], also=[User("a", name="Ada")])
    source = Source(users=[BadCredentials("no")], notes=[came], mails=[batch])
    for steps in ((USERS, NOTES, MAILS), (NOTES, USERS, MAILS), (Step.concurrent([NOTES, USERS]), MAILS)):
        assert failed(outcome(source, *steps)) == [("Root:r: load collection users", "upstream.credentials")]
    assert source.count("mails") == 3


def test_a_step_is_blocked_when_every_step_that_brings_its_rows_failed_or_is_blocked() -> None:
    source = Source(users=[BadCredentials("no")], notes=[BadCredentials("no")], mails=[batch])
    result = outcome(source, USERS, NOTES, Step.concurrent([MAILS]))
    assert failed(result)[2:] == [("all User: load fields mail", "sync.blocked")]
    assert result.failures[2].message == f"blocked by step {USERS}"


def test_a_retry_runs_what_was_blocked_unless_what_it_needs_fails_again() -> None:
    source = Source(users=[BadCredentials("no"), BadCredentials("no"), users("a")], mails=[batch])

    async def body(stage: Stage) -> list[tuple[str, int]]:
        await stage.sync(USERS, MAILS)
        seen = []
        for _ in range(2):
            result = await (await stage.executor.retry()).completion()
            seen.append((str(result.status), source.count("mails")))
        return seen

    assert play(source, body) == [("failed", 0), ("completed", 1)]
