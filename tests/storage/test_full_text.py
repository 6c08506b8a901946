"""Full text: what is found, that the index follows every change, and what mends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from max.engine import SqliteEngine
from max.errors import UsageError
from max.model.delivery import Delivery
from max.model.entities import Entity, Field
from max.model.loaders import UnknownLoaders
from max.model.migrations import NO_POLICY, SchemaPolicy
from max.model.schema import Schema
from max.model.text_search import Found, TextQuery
from max.storage import full_text
from max.storage.sqlite import MEMORY, SqliteDatabase

T = TypeVar("T")
NOON = 1_800_000_000.0


class Note(Entity):
    """Two searchable texts beside one that is not."""

    title: Field[str] = Field(searchable=True)
    body: Field[str | None] = Field(searchable=True)
    secret: Field[str] = Field()


class Paper(Entity):
    """One searchable text."""

    name: Field[str] = Field(searchable=True)


class Plain(Entity):
    """Nothing is searchable."""

    title: Field[str] = Field()


SCHEMA = Schema([Note, Paper, Plain])


class Place:
    """A database, and the engine on it."""

    engine: SqliteEngine

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database

    async def open(self, schema: Schema = SCHEMA, policy: SchemaPolicy = NO_POLICY) -> None:
        self.engine = SqliteEngine(self.database, UnknownLoaders(schema), policy=policy)
        await self.engine.start()

    async def store(self, *entities: Entity, at: float = NOON, **more: Any) -> None:
        await self.database.transact(self.engine.prepare_write(Delivery(entities, at, **more)))

    async def find(self, text: str, *entities: type[Entity], limit: int = 20, raw: bool = False) -> Found:
        names = [one.__name__ for one in entities] or list(self.engine.schema.entities)
        query, mappings = TextQuery.parse(text, raw=raw), self.engine.tables.mappings
        return await self.database.read(lambda c: full_text.find(c, mappings, query, names, "here", limit))

    async def found(self, text: str, *entities: type[Entity]) -> list[str]:
        """The ids of the hits, best first."""
        return [hit.id for hit in (await self.find(text, *entities)).hits]

    async def problems(self) -> list[str]:
        return await self.database.transact(full_text.problems)

    async def sql(self, text: str) -> list[Any]:
        """Run SQL as another tool would."""
        return await self.database.transact(lambda c: c.execute(text).fetchall())


@asynccontextmanager
async def placed(path: Path | str = MEMORY) -> Any:
    database = SqliteDatabase(path)
    await database.start()
    try:
        place = Place(database)
        await place.open()
        yield place
    finally:
        await database.stop()


def using(body: Callable[[Place], Awaitable[T]], path: Path | str = MEMORY) -> T:
    async def main() -> T:
        async with placed(path) as place:
            return await body(place)

    return asyncio.run(main())


def note(id: str, title: str, body: str | None = "", secret: str = "hidden") -> Note:
    return Note(id, title=title, body=body, secret=secret)


class TestFinding:
    """What a person types, and what is found."""

    def test_every_word_must_occur_in_any_case_and_without_accents(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "Fix the Audit", "in the café"), note("2", "audit", "tea"))
            assert await place.found("audit CAFE") == ["1"]
            assert sorted(await place.found("audit")) == ["1", "2"]
            assert await place.found("audit coffee") == []

        using(body)

    def test_a_word_in_the_title_counts_more_than_one_in_the_text(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "Tea", "the audit of tea"), note("2", "The audit of", "tea tea tea"))
            assert await place.found("audit") == ["2", "1"]

        using(body)

    def test_what_joins_words_does_not_matter_and_no_word_is_an_operator(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "the audit log"), Paper("2", name="audit-log-1.png"))
            assert sorted(await place.found("audit-log")) == ["1", "2"]
            assert sorted(await place.found("log audit")) == ["1", "2"]
            assert await place.found("log-audit") == []
            assert await place.found("audit OR tea") == []
            assert await place.found("title: audit") == []
            assert await place.found('audit* "the audit') == ["1"]

        using(body)

    def test_parts_of_names_are_found_and_parts_of_words_in_prose_are_not(self) -> None:
        async def body(place: Place) -> None:
            await place.store(Paper("1", name="sqlite_utils/db.py"), note("2", "x", "some sqlites of mine"))
            assert await place.found("lite_ut") == ["1"]
            assert await place.found("utils/db") == ["1"]
            assert await place.found("qlite") == ["1"]

        using(body)

    def test_words_of_scripts_without_spaces_are_found_however_short(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "x", "これは監査ログの説明です 終わり"), note("2", "y", "説明 です"))
            assert await place.found("監査ログ") == ["1"]
            assert await place.found("監査") == ["1"]
            assert sorted(await place.found("説明")) == ["1", "2"]
            assert await place.found("監査 終わり") == ["1"]

        using(body)

    def test_only_searchable_fields_of_the_chosen_entities_are_looked_through(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "audit"), Paper("2", name="audit"), Plain("3", title="audit"))
            assert sorted(await place.found("audit")) == ["1", "2"]
            assert await place.found("audit", Paper) == ["2"]
            assert await place.found("hidden") == []

        using(body)

    def test_raw_takes_the_syntax_of_fts5_and_says_what_is_wrong_with_it(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "audit", "tea"), note("2", "tea", "x"))
            found = await place.find("title: tea OR audit", raw=True)
            assert sorted(hit.id for hit in found.hits) == ["1", "2"]
            with pytest.raises(UsageError, match="the query cannot be read: fts5: syntax error"):
                await place.find("audit AND", raw=True)
            with pytest.raises(UsageError, match="no such column: nope"):
                await place.find("nope: audit", raw=True)

        using(body)

    def test_the_total_counts_what_the_limit_leaves_out(self) -> None:
        async def body(place: Place) -> None:
            await place.store(*[note(str(i), f"audit {i}") for i in range(30)], Paper("p", name="preaudit"))
            found = await place.find("audit", limit=7)
            assert (len(found.hits), found.total) == (7, 31)
            assert [hit.id for hit in (await place.find("audit", limit=31)).hits][-1] == "p"

        using(body)


class TestFollowing:
    """The index has what the visible rows have."""

    def test_a_change_a_removal_and_a_return_are_followed(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "write"), note("2", "other"))
            await place.store(note("1", "read"), at=NOON + 1)
            assert (await place.found("write"), await place.found("read")) == ([], ["1"])
            await place.store(at=NOON + 2, removed=[Note.ref("1")])
            assert await place.found("read") == []
            await place.store(note("1", "read"), at=NOON + 3)
            assert await place.found("read") == ["1"]
            assert await place.problems() == []

        using(body)

    def test_nothing_is_made_where_nothing_is_searchable(self) -> None:
        async def body(place: Place) -> None:
            await place.open(Schema([Plain]))
            await place.store(Plain("1", title="audit"))
            names = {name for (name,) in await place.sql("SELECT name FROM sqlite_master")}
            assert not {name for name in names if "find" in name}

        async def main() -> None:
            database = SqliteDatabase(MEMORY)
            await database.start()
            try:
                await body(Place(database))
            finally:
                await database.stop()

        asyncio.run(main())

    def test_rows_from_before_are_indexed_at_the_start(self) -> None:
        async def body(place: Place) -> None:
            await place.open(Schema([BARE, Plain]))
            await place.store(BARE("1", name="audit"), BARE("2", name="gone"))
            await place.store(at=NOON + 1, removed=[BARE.ref("2")])
            await place.open(Schema([Paper, Plain]))
            assert (await place.found("audit"), await place.found("gone")) == (["1"], [])
            assert await place.problems() == []
            await place.open(Schema([BARE, Plain]))
            names = {name for (name,) in await place.sql("SELECT name FROM sqlite_master")}
            assert not {name for name in names if name.startswith("_max_find") and "_entity" not in name} - {
                "_max_find_pending"
            }
            await place.open(Schema([Paper, Plain]))
            assert await place.found("audit") == ["1"]

        using(body)


def bare() -> type[Any]:
    """A Paper whose name is not searchable."""

    class Paper(Entity):
        name: Field[str] = Field()

    return Paper


BARE = bare()
