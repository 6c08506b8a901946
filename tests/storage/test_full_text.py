"""Full text: what is found, that the index follows every change, and what mends it."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.engine import DatabaseEngine
from max.errors import StorageError, UsageError
from max.model.delivery import Delivery
from max.model.entities import Entity, Field
from max.model.loaders import UnknownLoaders
from max.model.migrations import (
    NO_POLICY,
    ChangeType,
    Migration,
    RenameEntity,
    RenameField,
    SchemaPolicy,
)
from max.model.schema import Schema
from max.model.text_search import Found, TextQuery
from max.storage import full_text, sqlite_full_text
from max.storage.postgres import PostgresDatabase
from max.storage.sqlite import MEMORY, SqliteDatabase
from tests.contract.places import database_at

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

    engine: DatabaseEngine

    def __init__(self, database: SqliteDatabase | PostgresDatabase) -> None:
        self.database = database

    async def open(self, schema: Schema = SCHEMA, policy: SchemaPolicy = NO_POLICY) -> None:
        self.engine = DatabaseEngine(self.database, UnknownLoaders(schema), policy=policy)
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
        mappings = self.engine.tables.mappings
        return await self.database.transact(lambda c: full_text.problems(c, mappings))

    async def sql(self, text: str) -> list[Any]:
        """Run SQL as another tool would."""
        rows = text.startswith("SELECT")
        return await self.database.transact(
            lambda c: c.execute(text).fetchall() if rows else [c.execute(text)]
        )

    async def objects(self) -> set[str]:
        """The names of all that the database has."""
        return {one.name for one in await self.database.read(lambda c: c.dialect.objects(c))}

    async def drop_trigger(self, name: str, table: str) -> None:
        """Take a trigger of ours away, as a user might."""
        await self.database.transact(lambda c: c.execute(c.dialect.drop_trigger(name, table)))


@asynccontextmanager
async def placed(path: Path | str = MEMORY) -> Any:
    database = database_at(path)
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

    @pytest.mark.usefixtures("either")
    def test_every_word_must_occur_in_any_case_and_without_accents(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "Fix the Audit", "in the café"), note("2", "audit", "tea"))
            assert await place.found("audit CAFE") == ["1"]
            assert sorted(await place.found("audit")) == ["1", "2"]
            assert await place.found("audit coffee") == []

        using(body)

    @pytest.mark.usefixtures("either")
    def test_a_word_in_the_title_counts_more_than_one_in_the_text(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "Tea", "the audit of tea"), note("2", "The audit of", "tea tea tea"))
            assert await place.found("audit") == ["2", "1"]

        using(body)

    @pytest.mark.usefixtures("either")
    def test_a_short_text_is_more_about_its_words_than_a_long_one_that_repeats_them(self) -> None:
        async def body(place: Place) -> None:
            long = " ".join(["audit", *(f"word{number}" for number in range(40))])
            await place.store(note("1", "The audit of a day", long), note("2", "audit.png"))
            assert await place.found("audit") == ["2", "1"]

        using(body)

    @pytest.mark.usefixtures("either")
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

    @pytest.mark.usefixtures("either")
    def test_parts_of_names_are_found_and_parts_of_words_in_prose_are_not(self) -> None:
        async def body(place: Place) -> None:
            await place.store(Paper("1", name="sqlite_utils/db.py"), note("2", "x", "some sqlites of mine"))
            assert await place.found("lite_ut") == ["1"]
            assert await place.found("utils/db") == ["1"]
            assert await place.found("qlite") == ["1"]

        using(body)

    @pytest.mark.usefixtures("either")
    def test_words_of_scripts_without_spaces_are_found_however_short(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "x", "これは監査ログの説明です 終わり"), note("2", "y", "説明 です"))
            assert await place.found("監査ログ") == ["1"]
            assert await place.found("監査") == ["1"]
            assert sorted(await place.found("説明")) == ["1", "2"]
            assert await place.found("監査 終わり") == ["1"]

        using(body)

    @pytest.mark.usefixtures("either")
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

    @pytest.mark.usefixtures("either")
    def test_the_total_counts_what_the_limit_leaves_out(self) -> None:
        async def body(place: Place) -> None:
            await place.store(*[note(str(i), f"audit {i}") for i in range(30)], Paper("p", name="preaudit"))
            found = await place.find("audit", limit=7)
            assert (len(found.hits), found.total) == (7, 31)
            assert [hit.id for hit in (await place.find("audit", limit=31)).hits][-1] == "p"

        using(body)


class TestFollowing:
    """The index has what the visible rows have."""

    @pytest.mark.usefixtures("either")
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

    @pytest.mark.usefixtures("either")
    def test_nothing_is_made_where_nothing_is_searchable(self) -> None:
        async def body(place: Place) -> None:
            await place.open(Schema([Plain]))
            await place.store(Plain("1", title="audit"))
            names = await place.objects()
            assert not {name for name in names if "find" in name}

        async def main() -> None:
            database = database_at(MEMORY)
            await database.start()
            try:
                await body(Place(database))
            finally:
                await database.stop()

        asyncio.run(main())

    @pytest.mark.usefixtures("either")
    def test_rows_from_before_are_indexed_after_a_sync(self) -> None:
        async def body(place: Place) -> None:
            await place.open(Schema([BARE, Plain]))
            await place.store(BARE("1", name="audit"), BARE("2", name="gone"))
            await place.store(at=NOON + 1, removed=[BARE.ref("2")])
            await place.open(Schema([Paper, Plain]))
            assert (await place.found("audit"), (await place.find("audit")).unindexed) == ([], 1)
            assert await place.problems() == ["1 rows are not indexed yet"]
            await place.engine.tidy(NOON + 2)
            assert (await place.found("audit"), await place.found("gone")) == (["1"], [])
            assert await place.problems() == []
            await place.open(Schema([BARE, Plain]))
            names = await place.objects()
            assert not {name for name in names if name.startswith("_max_find") and "_entity" not in name} - {
                "_max_find_pending"
            }
            await place.open(Schema([Paper, Plain]))
            await place.engine.tidy(NOON + 2)
            assert await place.found("audit") == ["1"]

        using(body)

    @pytest.mark.usefixtures("either")
    def test_a_write_beside_the_first_index_is_noted_and_indexed_with_the_rest(self) -> None:
        async def body(place: Place) -> None:
            await place.open(Schema([BARE, Plain]))
            await place.store(*[BARE(str(i), name=f"audit-{i}") for i in range(50)])
            await place.open(Schema([Paper, Plain]))
            await place.store(Paper("7", name="changed"), Paper("new", name="new"), at=NOON + 1)
            await place.store(at=NOON + 1, removed=[Paper.ref("8")])
            assert (await place.find("changed")).unindexed == 50
            await place.engine.tidy(NOON + 2)
            assert (await place.find("audit")).total == 48
            assert (await place.found("changed"), await place.found("new")) == (["7"], ["new"])
            assert await place.problems() == []

        using(body)

    @pytest.mark.usefixtures("either")
    def test_the_first_index_tells_how_much_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(full_text, "PAGE", 20)
        reported: list[str] = []

        async def body(place: Place) -> None:
            await place.open(Schema([BARE, Plain]))
            await place.store(*[BARE(str(i), name="audit") for i in range(50)])
            await place.open(Schema([Paper, Plain]))
            await place.engine.tidy(NOON + 2, reported.append)

        using(body)
        assert reported == ["indexing texts: 30 rows left", "indexing texts: 10 rows left"]

    @pytest.mark.usefixtures("either")
    def test_what_another_program_writes_is_found_after_the_next_sync(self) -> None:
        async def body(place: Place) -> None:
            await place.store(Paper("1", name="old"), Paper("2", name="old"))
            await place.sql("UPDATE _paper SET name = 'new' WHERE _id = '1'")
            await place.sql("DELETE FROM _paper WHERE _id = '2'")
            assert (await place.find("old")).unindexed == 2
            await place.store(Paper("3", name="third"), at=NOON + 1)
            assert (await place.found("old"), await place.found("new")) == ([], ["1"])
            assert await place.problems() == []

        using(body)

    @pytest.mark.usefixtures("either")
    def test_an_index_follows_renames_and_is_built_again_where_values_change(self) -> None:
        class Sheet(Entity):
            label: Field[str] = Field(searchable=True)

        steps = (
            Migration("a better name", RenameEntity("Paper", "Sheet"), RenameField("Sheet", "name", "label")),
            Migration("other words", ChangeType("Sheet", "label", using="replaced by {}".format)),
        )

        async def body(place: Place) -> None:
            await place.store(Paper("1", name="audit"), note("2", "audit"))
            later = Schema([Note, Sheet, Plain])
            await place.open(later, SchemaPolicy("c", steps[:1]))
            assert sorted(await place.found("audit")) == ["1", "2"], "the index is as it was"
            assert await place.problems() == []
            await place.store(Sheet("3", label="another"), at=NOON + 1)
            assert await place.found("another") == ["3"]
            await place.open(Schema([Note, Plain]), SchemaPolicy("c", steps[:1]))
            await place.engine.tidy(NOON + 2)
            assert (await place.found("audit"), await place.problems()) == (["2"], [])
            await place.open(later, SchemaPolicy("c", steps[:1]))
            await place.engine.tidy(NOON + 3)
            assert sorted(await place.found("audit")) == ["1", "2"], "it was hidden, and is back"
            assert await place.problems() == []
            await place.open(later, SchemaPolicy("c", steps))
            await place.engine.tidy(NOON + 4)
            assert sorted(await place.found("replaced by")) == ["1", "3"]
            assert await place.problems() == []

        using(body)

    def test_an_interrupted_first_index_goes_on_with_the_next_sync(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(full_text, "PAGE", 20)

        async def before(place: Place) -> None:
            await place.open(Schema([BARE, Plain]))
            await place.store(*[BARE(str(i), name=f"audit {i}") for i in range(50)])
            await place.open(Schema([Paper, Plain]))
            assert await place.database.transact(place.engine.tables.full_text.index_page) == 30

        async def after(place: Place) -> None:
            found = await place.find("audit")
            assert (found.total, found.unindexed) == (20, 30)
            await place.store(Paper("new", name="audit"), at=NOON + 1)
            await place.engine.tidy(NOON + 2)
            assert (await place.find("audit")).total == 51
            assert await place.problems() == []

        using(before, tmp_path / "data.db")
        using(after, tmp_path / "data.db")

    def test_a_sqlite_without_full_text_stores_and_says_so_and_another_one_indexes_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path, file = tmp_path / "new.db", tmp_path / "data.db"
        with monkeypatch.context() as lacking:
            lacking.setattr(sqlite_full_text, "AVAILABLE", "SELECT 0")

            async def stores(place: Place) -> None:
                await place.store(note("1", "audit"))
                assert "_max_find" not in {n for (n,) in await place.sql("SELECT name FROM sqlite_master")}
                with pytest.raises(StorageError, match=r"no full-text search \(FTS5\)"):
                    await place.find("audit")

            using(stores, path)
        using(lambda place: place.store(note("1", "old"), note("2", "old")), file)
        with monkeypatch.context() as lacking:
            lacking.setattr(sqlite_full_text, "AVAILABLE", "SELECT 0")

            async def changes(place: Place) -> None:
                await place.store(note("1", "new"), note("3", "new"), at=NOON + 1)
                await place.store(at=NOON + 1, removed=[Note.ref("2")])
                await place.engine.tidy(NOON + 2)

            using(changes, file)

        async def finds(place: Place) -> None:
            await place.engine.tidy(NOON + 3)
            assert sorted(await place.found("new")) == ["1", "3"]
            assert (await place.found("old"), await place.problems()) == ([], [])

        using(finds, file)

        async def first(place: Place) -> None:
            await place.engine.tidy(NOON + 3)
            assert await place.found("audit") == ["1"]

        using(first, path)


class TestMending:
    """What the check sees, and what the rebuild mends."""

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            ("DELETE FROM _max_find_data WHERE id > 10", "the index of words does not fit"),
            ("DELETE FROM _max_find_part_data WHERE id > 10", "the index of parts of words does not fit"),
            ("DELETE FROM _max_find_docsize WHERE rowid % 2", "rows are not in the index"),
            ("INSERT INTO _max_find_docsize VALUES (77, x'0101')", "1 rows are in the index that are not"),
            ("INSERT INTO _max_find(_max_find) VALUES ('delete-all')", "41 rows are not in the index"),
            ("DROP TRIGGER; UPDATE _note SET title = 'x'", "does not fit the stored"),
        ],
    )
    def test_a_damaged_index_is_seen_and_mended(self, damage: str, says: str) -> None:
        async def body(place: Place) -> None:
            await place.store(*[note(str(i), f"audit {i}", "of logs") for i in range(40)])
            await place.store(Paper("p", name="sqlite_utils/db.py"))
            assert await place.problems() == []
            for statement in damage.split("; "):
                if statement == "DROP TRIGGER":
                    await place.drop_trigger("_max_find:1.update", "_note")
                else:
                    await place.sql(statement)
            found = await place.problems()
            assert any(says in one for one in found), found
            await place.database.transact(place.engine.tables.full_text.rebuild)
            while await place.database.transact(place.engine.tables.full_text.index_page):
                pass
            assert await place.problems() == []
            title = "x" if "UPDATE" in damage else "audit"
            assert (await place.find(f"{title} of")).total == 40
            assert await place.found("lite_ut") == ["p"]

        using(body)

    @pytest.mark.parametrize(
        "damage",
        [
            "DELETE FROM _max_find_data",
            "DELETE FROM _max_find_part_config",
            "DROP TABLE _max_find_data",
            "DROP TABLE _max_find_part_data",
            "DROP TABLE _max_find_config",
            "DROP TABLE _max_find_docsize",
            "DROP TABLE _max_find",
        ],
    )
    def test_an_index_that_cannot_be_opened_is_built_again(self, damage: str, tmp_path: Path) -> None:
        path = tmp_path / "data.db"

        async def before(place: Place) -> None:
            await place.store(*[note(str(i), f"audit {i}", "of logs") for i in range(40)])

        async def after(place: Place) -> None:
            await place.database.transact(place.engine.tables.full_text.rebuild)
            while await place.database.transact(place.engine.tables.full_text.index_page):
                pass
            assert await place.problems() == []
            assert (await place.find("audit of")).total == 40

        using(before, path)
        with closing(sqlite3.connect(path)) as file, file:
            file.execute(damage)
        using(after, path)

    @pytest.mark.usefixtures("either")
    def test_a_trigger_that_a_user_dropped_comes_back_and_the_index_is_built_again(self) -> None:
        async def body(place: Place) -> None:
            await place.store(note("1", "audit"))
            await place.drop_trigger("_max_find:1.update", "_note")
            await place.sql("UPDATE _note SET title = 'silent'")
            await place.open()
            await place.engine.tidy(NOON + 2)
            assert (await place.found("audit"), await place.found("silent")) == ([], ["1"])
            assert await place.problems() == []

        using(body)


# -- the oracle --------------------------------------------------------------------------------

WORDS = ["audit", "log", "Logs", "café", "kestrel", "db", "ü", "監査", "監査ログの", "x9"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=4).flatmap(
    lambda words: st.sampled_from(["-", "_", " ", "/", ""]).map(lambda between: between.join(words))
)
IDS = st.sampled_from("abc")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("note"), IDS, TEXTS, st.none() | TEXTS),
        st.tuples(st.just("part"), IDS, TEXTS),
        st.tuples(st.just("paper"), IDS, TEXTS),
        st.tuples(st.just("remove"), IDS),
        st.tuples(st.just("purge")),
        st.tuples(st.just("plain schema")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("rebuild")),
        st.tuples(st.just("by hand"), IDS, TEXTS),
    ),
    min_size=5,
    max_size=12,
)
ACCENTS = str.maketrans("éü", "eu")


def tokens(text: str) -> list[str]:
    """The words of a text, as the index reads them."""
    return re.findall(r"[^\W_]+", text.translate(ACCENTS).casefold())


def says(words: list[str], text: str) -> bool:
    """Whether words stand in a text one after the other."""
    said = tokens(text)
    return any(said[at : at + len(words)] == words for at in range(len(said) - len(words) + 1))


def is_name(text: str) -> bool:
    return " " not in text or any("\u2e80" <= one <= "\u9fff" for one in text)


def naive(query: str, rows: Mapping[str, tuple[str, str]]) -> set[str]:
    """The rows that a query finds: all terms as words, or all of them as parts of names."""
    terms = query.split()
    found = set()
    for key, (title, text) in rows.items():
        parts = "\n".join(one for one in (title, text) if is_name(one)).casefold()
        as_words = all(any(says(tokens(term), one) for one in (title, text)) for term in terms)
        short = [term for term in terms if len(term) < 3]
        can_be_parts = all("\u2e80" <= one <= "\u9fff" for term in short for one in term)
        if as_words or (can_be_parts and all(term.casefold() in parts for term in terms)):
            found.add(key)
    return found


@pytest.mark.usefixtures("either")
@settings(max_examples=60)
@given(
    STEPS,
    st.lists(
        st.lists(st.sampled_from([*WORDS, "audit-log", "og", "estr", "査ロ"]), min_size=1, max_size=2),
        max_size=4,
    ),
)
def test_after_any_history_what_is_found_is_what_a_naive_search_of_the_visible_rows_finds(
    steps: list[Any], queries: list[list[str]]
) -> None:
    async def body(place: Place) -> None:
        at = NOON
        for kind, *values in steps:
            at += 1
            await step(place, kind, values, at)
        await place.open()
        await place.engine.tidy(at)
        assert await place.problems() == []
        rows = {
            f"Note:{id}": (title, body or "")
            for id, title, body in await place.sql(
                "SELECT _id, coalesce(title, ''), body FROM _note WHERE _removed_at IS NULL"
            )
        }
        rows |= {
            f"Paper:{id}": (name, "")
            for id, name in await place.sql("SELECT _id, name FROM _paper WHERE _removed_at IS NULL")
        }
        for query in queries:
            text = " ".join(query)
            found = await place.find(text, limit=100)
            assert {f"{hit.entity}:{hit.id}" for hit in found.hits} == naive(text, rows), text
            assert found.total == len(found.hits)

    using(body)


async def step(place: Place, kind: str, values: list[Any], at: float) -> None:
    """One step of a history."""
    if kind == "note":
        await place.store(note(*values), at=at)
    elif kind == "part":  # a partial load: the body stays
        await place.store(Note(values[0], title=values[1]), at=at)
    elif kind == "paper":
        await place.store(Paper(values[0], name=values[1]), at=at)
    elif kind == "remove":
        await place.store(at=at, removed=[Note.ref(values[0]), Paper.ref(values[0])])
    elif kind == "purge":
        await place.engine.tidy(at + 1e9)
    elif kind == "plain schema":  # an upgrade to a connector that has nothing searchable, and back
        await place.open(Schema([bare_note(), bare(), Plain]))
        await place.store(BARE("a", name="while away"), at=at)
        await place.open()
    elif kind == "restart":
        await place.open()
    elif kind == "rebuild":
        await place.database.transact(place.engine.tables.full_text.rebuild)
    else:
        quoted = values[1].replace("'", "''")
        await place.sql(f"UPDATE _note SET title = '{quoted}' WHERE _id = '{values[0]}'")


def bare() -> type[Any]:
    """A Paper whose name is not searchable."""

    class Paper(Entity):
        name: Field[str] = Field()

    return Paper


BARE = bare()


def bare_note() -> type[Any]:
    """A Note of which nothing is searchable."""

    class Note(Entity):
        title: Field[str] = Field()
        body: Field[str | None] = Field()
        secret: Field[str] = Field()

    return Note
