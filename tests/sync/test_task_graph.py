"""The task graph of a plan with options, and of a retry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from max import InstallationInfo, InstallationRuntime, Status, SyncResult
from max.connecting import (
    Batch,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Installation,
    Loader,
    Many,
    NoConfig,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
)
from max.core import SyncOptions
from max.errors import NotFound, SyncError, UsageError
from max.model.loaders import Resolver
from max.model.tasks import GroupTask
from max.storage.sqlite import SqliteDatabase
from max.sync.task_graph import expand, named_fields, options_json
from max.upstream.credentials import MemoryCredentials


class Shelf(Entity):
    """Has books."""

    books: Many[Book] = Many()


class Library(Entity):
    """The root."""

    shelves: Many[Shelf] = Many()


class Book(Entity):
    """Something to read."""

    title: Field[str] = Field()
    author: Field[str] = Field()


@dataclass
class Source:
    """What is closed for now, and what was requested."""

    closed: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.closed:
            raise PermissionDenied(f"{what} is closed")


@Loader.collection(Library.shelves)
async def shelves(parent: Ref[Library], request: PageRequest, env: Env[Source]) -> Page[Shelf]:
    env.context.ask("shelves")
    return Page([Shelf("a"), Shelf("b")])


@Loader.collection(Shelf.books, brings=[Book.title])
async def books(parent: Ref[Shelf], request: PageRequest, env: Env[Source]) -> Page[Book]:
    page = int(request.cursor or 0)
    env.context.ask(f"{parent.id}{page}")
    return Page([Book(f"{parent.id}{page}", title="x")], next=str(page + 1) if page < 2 else None)


@Loader.entity_batched(Book.author, size=10)
async def authors(refs: Sequence[Ref[Book]], env: Env[Source]) -> Batch[Book]:
    closed = env.context.closed
    env.context.asked += [f"author of {ref.id}" for ref in refs]
    found = [Book(ref.id, author="Ada") for ref in refs if f"author of {ref.id}" not in closed]
    failed = {ref.id: PermissionDenied("closed") for ref in refs if f"author of {ref.id}" in closed}
    return Batch(found, failed)


async def seed(context: Source, store: Store) -> SyncPlan:
    await store.store(Library("l"))
    return SyncPlan(
        [
            Step.for_root(Library.ref("l")).load_collection(Library.shelves),
            Step.for_all(Shelf).load_collection(Shelf.books),
            Step.for_all(Book).load_fields(Book.author),
        ]
    )


Body = Callable[[InstallationRuntime], Awaitable[None]]


def using(source: Source, body: Body) -> None:
    async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[Source]:
        return Installation(source)

    async def main() -> None:
        connector = Connector(
            name="library",
            description="Books.",
            schema=Schema([Library, Shelf, Book], roots=[Library]),
            loaders=[shelves, books, authors],
            seeder=seed,
            initialise=initialise,
            config=NoConfig,
        )
        info = InstallationInfo("library", "default", "id", {}, 0.0)
        credentials = CredentialProvider(MemoryCredentials(), [])
        runtime = InstallationRuntime(info, connector, NoConfig(), credentials, SqliteDatabase(":memory:"))
        await runtime.start()
        try:
            await body(runtime)
        finally:
            await runtime.stop()

    asyncio.run(main())


async def synced(runtime: InstallationRuntime) -> SyncResult:
    return await (await runtime.sync()).completion()


async def retry(runtime: InstallationRuntime, sync: str | None = None) -> SyncResult:
    return await (await runtime.retry_failed(sync)).completion()


def test_a_retry_requests_only_the_refs_that_failed() -> None:
    source = Source({"author of a1"})

    async def body(runtime: InstallationRuntime) -> None:
        assert (await synced(runtime)).status is Status.PARTIAL
        source.closed.clear()
        source.asked.clear()
        assert (await retry(runtime)).status is Status.COMPLETED
        assert source.asked == ["author of a1"]
        assert (await runtime.engine.load(Book.ref("a1"))).author == "Ada"

    using(source, body)


def test_a_retried_listing_continues_at_the_page_that_failed() -> None:
    source = Source({"b1"})

    async def body(runtime: InstallationRuntime) -> None:
        assert (await synced(runtime)).status is Status.PARTIAL
        source.closed.clear()
        source.asked.clear()
        assert (await retry(runtime)).status is Status.COMPLETED
        assert source.asked == ["b1", "b2"]
        listed = await runtime.engine.load_collection(Shelf.ref("b"), Shelf.books)
        assert [book.id for book in listed.items] == ["b0", "b1", "b2"]

    using(source, body)


def test_a_retry_runs_the_blocked_steps() -> None:
    source = Source({"shelves"})

    async def body(runtime: InstallationRuntime) -> None:
        first = await synced(runtime)
        assert (first.status, [one.code for one in first.failures][1:]) == (
            Status.FAILED,
            ["sync.blocked", "sync.blocked"],
        )
        source.closed.clear()
        assert (await retry(runtime)).status is Status.COMPLETED
        assert await runtime.engine.query(Book).where(Book.author.eq("Ada")).count() == 6

    using(source, body)


def test_a_retry_that_fails_can_be_retried_by_its_id() -> None:
    source = Source({"author of a1"})

    async def body(runtime: InstallationRuntime) -> None:
        first = await synced(runtime)
        second = await retry(runtime, first.id)
        assert (second.status, second.failures[0].id) == (Status.FAILED, "a1")
        source.closed.clear()
        assert (await retry(runtime, second.id)).status is Status.COMPLETED

    using(source, body)


def test_a_sync_without_failures_cannot_be_retried() -> None:
    async def body(runtime: InstallationRuntime) -> None:
        with pytest.raises(SyncError, match="no sync yet"):
            await runtime.retry_failed()
        done = await synced(runtime)
        with pytest.raises(SyncError, match="nothing failed"):
            await runtime.retry_failed()
        with pytest.raises(NotFound, match="no sync 'nosuch'"):
            await runtime.retry_failed("nosuch")
        assert done.status is Status.COMPLETED

    using(Source(), body)


def test_discarding_an_unfinished_sync_cancels_it_and_begins_another() -> None:
    source = Source()

    async def body(runtime: InstallationRuntime) -> None:
        handle = await runtime.sync()
        await handle.pause()
        paused = await handle.completion()
        assert paused.status is Status.PAUSED
        fresh = await (await runtime.sync(discard_unfinished=True)).completion()
        assert (fresh.id != paused.id, fresh.status) == (True, Status.COMPLETED)
        assert (await handle.status()).status is Status.CANCELLED

    using(source, body)


# -- options ---------------------------------------------------------------------------------


@Loader.collection(Library.shelves, sweep=timedelta(days=1))
async def shelves_by_token(parent: Ref[Library], request: PageRequest, env: Env[Source]) -> Page[Shelf]:
    return Page([], sync_token="1")


SCHEMA = Schema([Library, Shelf, Book], roots=[Library])
RESOLVER = Resolver(SCHEMA, [shelves_by_token, books, authors])
PLAN = SyncPlan(
    [
        Step.for_root(Library.ref("l")).load_collection(Library.shelves),
        Step.for_all(Shelf).load_collection(Shelf.books),
        Step.for_all(Book).load_fields(Book.author),
    ]
)


def specs(options: SyncOptions) -> list[Any]:
    """The specs of the plan's steps."""
    return [task.spec for task in expand(PLAN, RESOLVER, options, now=1000.0).children[:-1]]


def test_the_options_decide_since_when_each_step_loads() -> None:
    assert [one.since for one in specs(SyncOptions())] == [1000.0] * 3
    assert [one.since for one in specs(SyncOptions(if_stale=60.0))] == [940.0] * 3
    assert [one.since for one in specs(SyncOptions(missing_only=True))] == [0.0] * 3
    everything = specs(SyncOptions(full=True))
    assert [one.since for one in everything] == [1000.0] * 3
    assert [one.everything for one in everything[:2]] == [True, True]


def test_check_deletes_lists_what_was_listed_recently() -> None:
    marked, books, authors = specs(SyncOptions(check_deletes=True))
    assert (marked.since, marked.sweep, marked.everything) == (1000.0, True, False)
    assert (books.since, books.sweep, books.everything) == (1000.0, True, True)
    assert authors.sweep is False


def test_the_graph_stores_the_options_that_differ_from_their_defaults() -> None:
    def remembered(options: SyncOptions) -> object:
        spec = expand(PLAN, RESOLVER, options, now=0.0).spec
        return GroupTask.from_json(json.loads(json.dumps(spec.to_json()))).options

    assert remembered(SyncOptions()) == {}
    given = SyncOptions(only=("Book", "Shelf"), if_stale=1.5, allow_removals=True)
    assert remembered(given) == {"only": ["Book", "Shelf"], "if_stale": 1.5, "allow_removals": True}
    assert remembered(given) == options_json(given)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (["book.AUTHOR"], {"author"}),
        (["Book"], {"id", "title", "author"}),
        (["book.title", "BOOK.id"], {"title", "id"}),
        (["shelf"], {"id"}),
    ],
)
def test_only_names_entities_and_fields_in_any_case(only: list[str], names: set[str]) -> None:
    assert {field.name for field in named_fields(only, RESOLVER)} == names


@pytest.mark.parametrize("only", ["Boko", "Book.autor", "Shelf.books", ""])
def test_only_refuses_unknown_names_and_collections(only: str) -> None:
    with pytest.raises(UsageError):
        named_fields([only], RESOLVER)
