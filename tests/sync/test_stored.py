"""What a loader reads of the rows that are stored already: ``env.stored``."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from max import Recording, Replay
from max.connecting import (
    Entity,
    Env,
    Field,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    operation,
)
from max.errors import NotFound, StorageError
from max.model.tasks import Failure, Status
from tests.replays import Outcome, run
from tests.sample import sample


class Shelf(Entity):
    """Holds the books."""

    books: Many[Book] = Many()


class Chapter(Entity):
    """A part of a book."""

    heading: Field[str] = Field()


class Book(Entity):
    """Its chapters are listed by its path, which is no id."""

    path: Field[str] = Field()
    pages: Field[int] = Field()
    chapters: Many[Chapter] = Many()


class Stranger(Entity):
    """No entity of the schema."""


@operation("sample:book:list")
async def list_books(context: object, input: None) -> list[str]:
    return ["1", "2"]


@operation("sample:chapter:list")
async def list_chapters(context: object, path: str) -> list[str]:
    return [f"{path}/one", f"{path}/two"]


@Loader.collection(Shelf.books, brings=[Book.path])
async def books(parent: Ref[Shelf], request: PageRequest, env: Env[Any]) -> Page[Book]:
    return Page([Book(id, path=f"of-{id}") for id in await env.run(list_books, None)])


@Loader.entity(Book.pages)
async def pages(ref: Ref[Book], env: Env[Any]) -> Book:
    return Book(ref.id, pages=len((await env.stored(Book, ref.id)).path))


@Loader.collection(Book.chapters, brings=[Chapter.heading])
async def chapters(parent: Ref[Book], request: PageRequest, env: Env[Any]) -> Page[Chapter]:
    found = await env.run(list_chapters, (await env.stored(Book, parent.id)).path)
    return Page([Chapter(heading, heading=heading) for heading in found])


async def seed(context: Any, store: Store) -> SyncPlan:
    await store.store(Shelf("all"))
    return SyncPlan(
        [
            Step.for_root(Shelf.ref("all")).load_collection(Shelf.books),
            Step.for_all(Book).load_fields(Book.pages),
            Step.for_all(Book).load_collection(Book.chapters),
        ]
    )


def library(**changes: Any) -> Any:
    """The connector, with some attributes changed."""
    attributes: dict[str, Any] = {
        "schema": Schema([Shelf, Book, Chapter], roots=[Shelf]),
        "loaders": [books, pages, chapters],
        "seeder": seed,
        "operations": [list_books, list_chapters],
    }
    return sample(**(attributes | changes))


def reading(entity: Any, id: Any) -> Any:
    """The connector whose loader of pages reads this."""

    @Loader.entity(Book.pages)
    async def pages(ref: Ref[Book], env: Env[Any]) -> Book:
        await env.stored(entity, id)
        return Book(ref.id, pages=1)

    return library(loaders=[books, pages, chapters])


def failures(outcome: Outcome) -> list[Failure]:
    assert outcome.result.status is Status.PARTIAL
    return list(outcome.result.failures)


def test_a_loader_reads_every_stored_field_of_a_row() -> None:
    outcome = run(library(), None)
    assert outcome.result.status is Status.COMPLETED
    assert [(one["path"], one["pages"]) for one in outcome.stored["Book"]] == [("of-1", 4), ("of-2", 4)]
    assert outcome.stored["Book:2.chapters"] == ["of-2/one", "of-2/two"]


def test_a_replay_reads_the_rows_that_it_has_stored(tmp_path: Path) -> None:
    recorded = run(library(), Recording(tmp_path / "calls"), database=tmp_path / "data.db")
    replayed = run(library(), Replay(tmp_path / "calls"))
    assert replayed.result.status is Status.COMPLETED
    assert replayed.stored == recorded.stored


def test_a_row_that_is_not_stored_fails_the_task_that_asked_and_no_other() -> None:
    @Loader.collection(Book.chapters, brings=[Chapter.heading])
    async def chapters(parent: Ref[Book], request: PageRequest, env: Env[Any]) -> Page[Chapter]:
        await env.stored(Book, "1" if parent.id == "1" else "9")
        return Page([Chapter("a", heading="a")])

    outcome = run(library(loaders=[books, pages, chapters]), None)
    (failure,) = failures(outcome)
    assert (failure.code, failure.message) == (NotFound.code, "no Book '9'")
    assert failure.hint == (
        "sample: loader chapters asked for it: an earlier step must bring it, unless it is gone upstream"
    )
    assert [one["id"] for one in outcome.stored["Chapter"]] == ["a"]


@pytest.mark.parametrize(
    ("entity", "id"), [(Stranger, "1"), (Book, Book.ref("1")), (Book, ""), ("Book", "1")]
)
def test_what_is_no_entity_of_the_schema_or_no_id_is_a_fault_with_the_loaders_name(
    entity: Any, id: Any
) -> None:
    failure = failures(run(reading(entity, id), None))[0]
    assert failure.code == "connector.fault"
    assert failure.message.startswith("sample: loader pages asked for a stored row of ")
    assert "env.stored(Repository, parent.id)" in failure.hint


def test_a_raw_loader_reads_stored_rows_too() -> None:
    @Loader.raw
    async def longest(env: Env[Any]) -> int:
        return len((await env.stored(Book, "1")).path) + 100

    @Loader.entity(Book.pages)
    async def pages(ref: Ref[Book], env: Env[Any]) -> Book:
        return Book(ref.id, pages=await env.raw(longest))

    outcome = run(library(loaders=[books, pages, chapters, longest]), None)
    assert {one["pages"] for one in outcome.stored["Book"]} == {104}


@pytest.mark.parametrize("through_raw", [False, True])
def test_a_database_that_cannot_be_read_ends_the_sync_and_is_no_fault_of_the_loader(
    tmp_path: Path, through_raw: bool
) -> None:
    def rename(old: str, new: str) -> None:
        other = sqlite3.connect(tmp_path / "data.db", isolation_level=None)
        other.execute("PRAGMA legacy_alter_table = ON")
        other.execute(f"ALTER TABLE {old} RENAME TO {new}")
        other.close()

    @Loader.raw
    async def breaks(env: Env[Any]) -> Book:
        rename("_sample_book", "taken_away")
        try:
            return await env.stored(Book, "1")
        finally:
            rename("taken_away", "_sample_book")

    @Loader.entity(Book.pages)
    async def pages(ref: Ref[Book], env: Env[Any]) -> Book:
        await (env.raw(breaks) if through_raw else breaks.load(env))
        return Book(ref.id, pages=1)

    broken = library(loaders=[books, pages, chapters, breaks])
    with pytest.raises(StorageError, match="_sample_book"):
        run(broken, None, database=tmp_path / "data.db")


def test_reading_does_not_wait_for_the_event_loop_to_be_free() -> None:
    """Other coroutines run while the row is read."""
    ran: list[str] = []

    @Loader.entity(Book.pages)
    async def pages(ref: Ref[Book], env: Env[Any]) -> Book:
        asyncio.get_running_loop().call_soon(ran.append, ref.id)
        await env.stored(Book, ref.id)
        assert ref.id in ran
        return Book(ref.id, pages=1)

    assert run(library(loaders=[books, pages, chapters]), None).result.status is Status.COMPLETED
