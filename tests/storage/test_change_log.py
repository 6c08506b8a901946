"""The change log: what is recorded, how readers follow it, and that a replay gives the rows."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from max.connecting import Env, Loader, Page, PageRequest, UpstreamBroken
from max.core import InstallationInfo
from max.engine import DAY, DatabaseEngine
from max.errors import CursorExpired, HistoryError, InvalidCursor, StorageCorrupt, UnknownName
from max.model.changes import ALL_ROWS, NOW, Change, ChangeFeed
from max.model.delivery import Delivery
from max.model.entities import Entity, Field, Ref, values_of
from max.model.loaders import UnknownLoaders
from max.model.migrations import (
    NO_POLICY,
    ChangeKey,
    ChangeType,
    DropField,
    Migration,
    RenameEntity,
    RenameField,
    SchemaPolicy,
)
from max.model.schema import Schema
from max.model.settings import Settings
from max.runtime import InstallationRuntime
from max.storage.change_log import PAGE, changed_by
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase
from max.testing import FakeClock
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests.contract.places import SCHEMA, Person, Post, Team, database_at, parts
from tests.sample import SampleConfig, SampleRoot, Thing, list_things, sample
from tests.strategies import records

T = TypeVar("T")
ON, OFF = (Settings(history=history, history_days=90) for history in ("changes", "off"))
NOON = 1_800_000_000.0
RED = Team.ref("red")
EncodedRows = dict[str, dict[str, Any]]


class Place:
    """A database that can be opened with any history setting and any schema."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.engine = DatabaseEngine(database, UnknownLoaders(SCHEMA))

    async def open(
        self, settings: Settings = ON, schema: Schema = SCHEMA, policy: SchemaPolicy = NO_POLICY
    ) -> DatabaseEngine:
        """A new engine on it."""
        self.engine = DatabaseEngine(
            self.database, UnknownLoaders(schema, parts), settings=settings, policy=policy
        )
        await self.engine.start()
        return self.engine

    async def receive(self, *entities: Entity, at: float = NOON, **more: Any) -> None:
        """Store a delivery."""
        await self.database.transact(self.engine.prepare_write(Delivery(entities, at, **more)))

    async def remove(self, *refs: Ref[Any], at: float = NOON) -> None:
        """Store tombstones."""
        await self.receive(at=at, removed=refs)

    async def recorded(
        self, since: str | None = ALL_ROWS, entity: type[Entity] | None = None
    ) -> list[Change]:
        """The changes after a cursor."""
        return [change async for change in self.engine.changes(since=since, entity=entity)]

    async def sql(self, text: str) -> list[Any]:
        """Run SQL as another tool would."""
        reads = text.lstrip().startswith(("SELECT", "PRAGMA"))
        work = (lambda c: c.execute(text).fetchall()) if reads else (lambda c: [c.execute(text)])
        rows: list[Any] = await self.database.transact(work)
        return rows

    async def rows(self) -> EncodedRows:
        """Every row as a query returns it."""
        found: EncodedRows = {}
        for entity in self.engine.schema.entities.values():
            for one in await self.engine.query(entity).all():
                found[repr(Ref.of(one))] = without_id(values_of(one))
        return found


@asynccontextmanager
async def placed(path: Path | str = MEMORY) -> Any:
    """A place whose database is open."""
    database = database_at(path)
    await database.start()
    try:
        yield Place(database)
    finally:
        await database.stop()


def using(body: Callable[[Place], Awaitable[T]], path: Path | str = MEMORY) -> T:
    """Run a body on a place."""

    async def main() -> T:
        async with placed(path) as place:
            return await body(place)

    return asyncio.run(main())


def recorded(body: Callable[[Place], Awaitable[T]]) -> T:
    """Run a body on a place whose history is on."""

    async def main(place: Place) -> T:
        await place.open()
        return await body(place)

    return using(main)


def without_id(values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "id"}


def replayed(changes: Iterable[Change], rows: EncodedRows | None = None) -> EncodedRows:
    """The rows that changes lead to; each must fit what was there before it."""
    rows = {} if rows is None else rows
    for change in changes:
        key = repr(change.ref)
        before = rows.pop(key, {})
        if change.kind != "updated":
            assert same(before, change.old), "the old values must be those before the change"
        assert all(same(before[name], value) for name, value in change.old.items())
        if change.kind != "removed":
            rows[key] = {n: v for n, v in before.items() if n not in change.old} | dict(change.new)
    return rows


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and have the same types: 1 is neither 1.0 nor True."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return repr(one) == repr(other)


# -- what is recorded -----------------------------------------------------------------------


def test_a_new_row_is_recorded_with_all_its_loaded_fields() -> None:
    async def body(place: Place) -> list[Change]:
        await place.receive(Person("a", name="Ada", boss=None), received_at=NOON + 1, sync="s1")
        return await place.recorded()

    (change,) = recorded(body)
    assert (change.kind, change.ref, change.at, change.sync) == ("created", Person.ref("a"), NOON + 1, "s1")
    assert (change.old, change.new) == ({}, {"name": "Ada", "boss": None})


def test_an_update_records_only_what_changed_and_tells_empty_from_not_loaded() -> None:
    async def body(place: Place) -> list[Change]:
        await place.receive(Person("a", name="Ada", age=None, active=True))
        await place.receive(Person("a", name="Ada", age=7, boss=None, active=None), at=NOON + 1)
        await place.receive(Person("a", extra=None), at=NOON + 2)
        return await place.recorded()

    _, change, last = recorded(body)
    assert (last.kind, last.old, last.new) == ("updated", {}, {"extra": None})
    assert (change.kind, change.old) == ("updated", {"age": None, "active": True})
    assert change.new == {"age": 7, "boss": None, "active": None}


def test_a_removal_records_the_old_values_and_a_return_the_new_ones() -> None:
    async def body(place: Place) -> list[Change]:
        await place.receive(Post("1", title="x"))
        await place.remove(Post.ref("1"), at=NOON + 1)
        await place.receive(Post("1", title="y", team=RED), at=NOON + 2)
        return await place.recorded()

    _, went, came = recorded(body)
    assert (went.kind, went.old, went.new) == ("removed", {"title": "x"}, {})
    assert (came.kind, came.old, came.new) == ("restored", {}, {"title": "y", "team": RED})


def test_an_unchanged_row_is_not_recorded() -> None:
    async def body(place: Place) -> list[str]:
        posts = [Post(str(number), title="x") for number in range(3)]
        for at in (NOON, NOON + 1):
            await place.receive(*posts, at=at)
            await place.remove(Post.ref("none"), at=at)
        return [change.kind for change in await place.recorded()]

    assert recorded(body) == ["created"] * 3


def test_the_schema_has_no_words_that_the_older_sqlite_of_other_tools_refuses() -> None:
    async def body(place: Place) -> None:
        found = await place.sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        assert "_max_change:1.update" in {name for name, _ in found}
        assert [name for name, sql in found if "DISTINCT FROM" in sql or "STRICT" in sql] == []

    recorded(body)


def test_changes_by_other_tools_are_recorded() -> None:
    async def body(place: Place) -> list[Change]:
        await place.receive(Post("1", title="x"), Post("2", title="z"), sync="s1")
        await place.engine.tidy(NOON)
        await place.sql("UPDATE _post SET title = 'y' WHERE _id = '1'")
        await place.sql("UPDATE _post SET _id = '3' WHERE _id = '2'")
        await place.sql("DELETE FROM _post WHERE _id = '1'")
        return await place.recorded()

    _, _, updated, *moved, deleted = recorded(body)
    assert (updated.new, updated.sync) == ({"title": "y"}, None)
    assert [(c.kind, c.id) for c in moved] == [("removed", "2"), ("created", "3")]
    assert (deleted.kind, deleted.old) == ("removed", {"title": "y"})


@pytest.mark.parametrize("field", ["age", "score", "active", "seen", "born", "extra"])
def test_a_value_that_makes_no_sense_is_called_damage_as_in_its_row(field: str) -> None:
    async def body(place: Place) -> list[str]:
        empty: dict[str, Any] = {field: None}
        await place.receive(Person("a", **empty))
        await place.sql(f"UPDATE _person SET {field} = 'x'")
        await place.sql(
            """UPDATE _max_change SET new = replace(new, '"0.0"', '"x"')"""
        )  # as SQLite writes it
        errors = []
        for answer in (place.engine.query(Person).all(), place.recorded()):
            with pytest.raises(StorageCorrupt) as error:
                await answer
            errors.append(error.value.message.partition("what is stored")[2])
        return errors

    of_row, of_change = recorded(body)
    assert of_change == of_row
    assert of_row.startswith(" cannot be read: ")


def test_changes_as_json_hold_the_values_of_entities() -> None:
    async def body(place: Place) -> list[Change]:
        await place.receive(Post("1", title="x", team=RED), sync="s1")
        return await place.recorded()

    (change,) = recorded(body)
    data = change.to_dict()
    assert data.pop("cursor") == change.cursor
    assert data == {
        "kind": "created",
        "entity": "Post",
        "id": "1",
        "sync": "s1",
        "old": {},
        "new": {"title": "x", "team": "red"},
    }


def test_one_entity_can_be_followed_alone() -> None:
    async def body(place: Place) -> list[Any]:
        await place.receive(Post("1", title="x"), Team("red", order="1"))
        with pytest.raises(UnknownName):
            place.engine.changes(entity=type("Unknown", (Entity,), {}))
        return [change.ref for change in await place.recorded(entity=Team)]

    assert recorded(body) == [RED]


# -- replaying ------------------------------------------------------------------------------

IDS = st.sampled_from(["a", "b", "c\U0001f600"])
PEOPLE: st.SearchStrategy[Any] = records(Person, IDS)
ENTITIES = st.lists(PEOPLE | records(Post, IDS), max_size=4)
STEPS: st.SearchStrategy[tuple[str, list[Any]]] = st.one_of(
    st.tuples(st.just("receive"), ENTITIES),
    st.tuples(st.just("store"), ENTITIES),
    st.tuples(st.just("remove"), st.lists(st.builds(Person.ref, IDS) | st.builds(Post.ref, IDS))),
    st.tuples(st.sampled_from(["follow", "fold", "off", "on"]), st.just([])),
)
ODD = Person(
    "a", name="\0\x1b\x7f\u2028", age=2**63 - 1, score=1.7976931348623157e308, extra=[2**70, 5e-324, "\0"]
)
FOLDING = Settings(history="changes", history_days=30, removed_days=20)


BOTH: list[tuple[str, list[Any]]] = [("receive", [Person(id, name=id)]) for id in "ab"]


class Follower:
    """A reader that replays changes from its cursor, or from the beginning once that has expired."""

    def __init__(self) -> None:
        self.cursor = ALL_ROWS
        self.rows: EncodedRows = {}

    async def follow(self, place: Place) -> EncodedRows:
        """The rows as they are now."""
        feed = place.engine.changes(since=self.cursor)
        try:
            replayed([change async for change in feed], self.rows)
        except CursorExpired:
            self.cursor, self.rows = ALL_ROWS, {}
            return await self.follow(place)
        self.cursor = feed.cursor or ALL_ROWS
        return self.rows


async def take(place: Place, step: str, things: Sequence[Any], at: float) -> None:
    """Change the rows or the log in one way."""
    if step == "receive":
        await place.receive(*things, at=at)
    elif step == "store":
        await place.engine.store(*things)
    elif step == "remove":
        await place.remove(*things, at=at)
    elif step == "fold":  # the changes so far, and removed rows
        await place.engine.tidy(at + 30 * DAY)
    elif step in ("on", "off"):
        await place.open(FOLDING if step == "on" else OFF)


@pytest.mark.usefixtures("either")
@settings(max_examples=80)
@given(st.lists(STEPS, max_size=12))
@example([("receive", [ODD]), ("remove", [Person.ref("a")]), ("fold", []), ("receive", [Person("a", age=1)])])
@example([("receive", [Person("a", score=0.1 + 0.2, name="x")]), ("receive", [Person("a", score=None)])])
@example([*BOTH, ("fold", []), ("receive", [Person("a", age=1), Person("b", age=1)]), ("fold", [])])
@example([*BOTH, ("fold", []), ("off", []), ("remove", [Person.ref("a")]), ("on", [])])
def test_p31_from_any_cursor_the_changes_lead_to_the_rows(
    steps: list[tuple[str, list[Any]]],
) -> None:
    async def body(place: Place) -> None:
        await place.open(FOLDING)
        follower = Follower()
        for number, (step, things) in enumerate(steps):
            await take(place, step, things, NOON + number)
            if place.engine.tables.change_log.recording:
                changes = await place.recorded()
                assert same(replayed(changes), await place.rows()), "from the beginning"
                for at, change in enumerate(changes):
                    assert await place.recorded(change.cursor) == changes[at + 1 :], "in order, without gaps"
                assert step != "follow" or same(await follower.follow(place), await place.rows())

    using(body)


@settings(max_examples=100)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_a_float_comes_back_as_it_was(numbers: list[float]) -> None:
    async def body(place: Place) -> None:
        await place.receive(*(Person(str(n), score=score) for n, score in enumerate(numbers)))
        assert same(replayed(await place.recorded()), await place.rows())

    recorded(body)


@pytest.mark.usefixtures("either")
def test_an_entity_with_many_fields_is_recorded_whole() -> None:
    names = [f"f{number}" for number in range(200)]
    body = {**{name: Field() for name in names}, "__annotations__": dict.fromkeys(names, "Field[int | None]")}
    wide: Any = type("Wide", (Entity,), {**body, "__module__": __name__})

    async def main(place: Place) -> tuple[list[Change], EncodedRows, EncodedRows]:
        await place.open(schema=Schema([wide]))
        await place.receive(wide("1", f0=1, f62=None, f199=3))
        await place.receive(wide("1", f61=61, f62=7, f150=None))
        changes = await place.recorded()
        await place.receive(wide("2"), at=NOON + 90 * DAY)
        await place.engine.tidy(NOON + 91 * DAY)
        return changes, replayed(await place.recorded()), await place.rows()

    (_, change), rebuilt, rows = using(main)
    assert (change.old, change.new) == ({"f62": None}, {"f61": 61, "f62": 7, "f150": None})
    assert rebuilt == rows


def test_a_killed_process_leaves_rows_and_their_changes_together(tmp_path: Path) -> None:
    path = str(tmp_path / "data.db")
    words = [sys.executable, "-c", WRITER, path]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})
    assert writer.stdout is not None
    for _ in range(5):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()

    async def body(place: Place) -> tuple[EncodedRows, EncodedRows]:
        await place.open()
        return replayed(await place.recorded()), await place.rows()

    rebuilt, rows = using(body, path)
    assert len(rows) >= 200
    assert same(rebuilt, rows)


WRITER = """
import asyncio, itertools, sys
from tests.storage.test_change_log import NOON, Person, placed

async def main():
    async with placed(sys.argv[1]) as place:
        await place.open()
        for number in itertools.count():
            ids = range(number * 50, number * 50 + 100)
            await place.receive(*(Person(str(id), name=f"{number}") for id in ids), at=NOON + number)
            print(number, flush=True)

asyncio.run(main())
"""


# -- on and off -----------------------------------------------------------------------------


def test_without_history_the_database_has_no_trace_of_it() -> None:
    async def body(place: Place) -> tuple[list[str], str]:
        await place.open(OFF)
        await place.receive(Post("1", title="x"))
        await place.engine.tidy(NOON)
        with pytest.raises(HistoryError) as raised:
            await place.recorded()
        return await place.database.read(lambda c: list(c.iterdump())), raised.value.render()

    dump, message = using(body)
    assert not [line for line in dump if "TRIGGER" in line or "_max_change" in line]
    assert message == (
        "changes are not recorded\n  turn it on with: max settings INSTALLATION history=changes; then sync"
    )


@pytest.mark.usefixtures("either")
def test_turning_history_on_records_the_rows_that_are_there() -> None:
    async def body(place: Place) -> list[Change]:
        await place.open(OFF)
        await place.receive(Post("1", title="x"), Post("2", title="y"))
        await place.remove(Post.ref("2"), at=NOON + 1)
        await place.open()
        return await place.recorded()

    (change,) = using(body)
    assert (change.kind, change.id, change.new, change.sync) == ("created", "1", {"title": "x"}, None)


@pytest.mark.usefixtures("either")
def test_turning_history_off_keeps_the_changes_until_they_are_too_old() -> None:
    async def body(place: Place) -> list[list[str]]:
        await place.open()
        await place.receive(Post("1", title="x"), Post("2", title="x"))
        await place.open(OFF)
        await place.receive(Post("3", title="x"))
        changes = [[change.id for change in await place.recorded()]]
        await place.engine.tidy(NOON + 89 * DAY)
        changes.append([change.id for change in await place.recorded()])
        for _ in range(2):
            await place.engine.tidy(NOON + 91 * DAY)
        with pytest.raises(HistoryError):
            await place.recorded()
        return changes

    assert using(body) == [["1", "2"]] * 2


@pytest.mark.usefixtures("either")
def test_turning_history_on_again_records_all_rows_and_expires_old_cursors() -> None:
    async def body(place: Place) -> list[str]:
        await place.open()
        await place.receive(Post("1", title="x"), Post("2", title="x"))
        cursor = (await place.recorded())[-1].cursor
        await place.open(OFF)
        await place.remove(Post.ref("1"), at=NOON + 1)
        await place.open()
        with pytest.raises(CursorExpired):
            await place.recorded(cursor)
        await place.engine.tidy(NOON)
        return [change.id for change in await place.recorded()]

    assert using(body) == ["2"]


def test_a_log_that_begins_without_rows_can_be_folded() -> None:
    async def body(place: Place) -> list[Change]:
        feed = place.engine.changes(since=NOW)
        assert [change async for change in feed] == []
        await place.engine.tidy(NOON)
        await place.receive(Post("1", title="x"))
        assert len(await place.recorded()) == 1
        return await place.recorded(feed.cursor)

    assert [change.id for change in recorded(body)] == ["1"]


def test_records_that_can_no_longer_be_read_restart_the_log() -> None:
    async def body(place: Place) -> tuple[list[Change], EncodedRows]:
        await place.receive(Post("1", title="x"))
        (change,) = await place.recorded()
        await place.sql("""UPDATE _max_change_entity SET kinds = '{"0": "real"}' WHERE name = 'Post'""")
        await place.open()
        with pytest.raises(CursorExpired):
            await place.recorded(change.cursor)
        return await place.recorded(), await place.rows()

    changes, rows = recorded(body)
    assert replayed(changes) == rows


def test_an_unchanged_start_writes_nothing() -> None:
    def written(connection: SqliteConnection) -> tuple[int, Any]:
        version = connection.execute("PRAGMA schema_version").fetchone()[0]
        return connection.total_changes, version

    async def body(place: Place) -> tuple[Any, Any]:
        await place.receive(Post("1", title="x"))
        change_log = place.engine.tables.change_log
        before = await place.database.transact(written)
        await place.database.transact(lambda connection: change_log.attach(connection, on=True))
        return before, await place.database.transact(written)

    before, after = recorded(body)
    assert before == after


BROKEN = SampleConfig(prefix="broken")


@Loader.collection(SampleRoot.things, brings=[Thing.title])
async def list_nothing(parent: Ref[SampleRoot], request: PageRequest, env: Env[SampleConfig]) -> Page[Thing]:
    raise UpstreamBroken("out of order")


class Syncs:
    """Syncs of one installation, each a minute after the other; each in a process of its own unless kept."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self.path, self.clock, self.ids = path, clock, list[str]()

    @asynccontextmanager
    async def runtime(self, config: SampleConfig, history: Any = "changes") -> Any:
        info = InstallationInfo(
            "sample", "default", "abc", {}, 0.0, Settings(history=history, removal_share=1)
        )
        credentials = CredentialProvider(MemoryCredentials(), ())
        made = sample(loaders=[list_nothing if config == BROKEN else list_things])
        runtime = InstallationRuntime(
            info, made, config, credentials, SqliteDatabase(self.path), clock=self.clock
        )
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.stop()

    async def sync(self, config: SampleConfig, history: Any = "changes") -> str:
        """The status of a sync."""
        async with self.runtime(config, history) as runtime:
            return await self.run(runtime)

    async def run(self, runtime: InstallationRuntime) -> str:
        """The status of a sync of a runtime."""
        handle = await runtime.sync()
        self.ids.append(handle.id)
        status = str((await handle.completion()).status)
        self.clock.advance(60)
        return status

    async def recorded(self, since: str | None = None, history: Any = "changes") -> list[Any]:
        """Kind, id and sync of each recorded change of a Thing."""
        async with self.runtime(SampleConfig(0), history) as runtime:
            changes = [change async for change in runtime.engine.changes(since=since, entity=Thing)]
        return [(change.kind, change.id, change.sync) for change in changes]


def syncing(tmp_path: Path, body: Callable[[Syncs], Awaitable[T]]) -> T:
    clock = FakeClock()

    async def main() -> T:
        return await body(Syncs(tmp_path / "data.db", clock))

    return clock.run(main())


def test_the_first_sync_is_not_recorded_and_every_later_change_names_its_sync(tmp_path: Path) -> None:
    async def body(syncs: Syncs) -> list[Any]:
        await syncs.sync(SampleConfig(2))
        assert await syncs.recorded() == []
        for config in (SampleConfig(2), SampleConfig(1, "other")):
            await syncs.sync(config)
        assert await syncs.recorded() == [
            ("updated", "0", syncs.ids[2]),
            ("removed", "1", syncs.ids[2]),
        ]
        return await syncs.recorded(ALL_ROWS)

    assert [change[:2] for change in syncing(tmp_path, body)] == [
        ("created", "0"),
        ("created", "1"),
        ("updated", "0"),
        ("removed", "1"),
    ]


def test_recording_begins_when_the_first_sync_has_ended_also_within_one_process(tmp_path: Path) -> None:
    async def body(syncs: Syncs) -> list[Any]:
        async with syncs.runtime(SampleConfig(1)) as runtime:
            await syncs.run(runtime)
            await runtime.engine.store(Thing("0", title="by hand"))
        return await syncs.recorded()

    assert syncing(tmp_path, body) == [("updated", "0", None)]


def test_a_first_sync_that_stored_nothing_does_not_count(tmp_path: Path) -> None:
    async def body(syncs: Syncs) -> list[Any]:
        assert await syncs.sync(BROKEN) == "failed"
        assert await syncs.sync(SampleConfig(2)) == "completed"
        return await syncs.recorded()

    assert syncing(tmp_path, body) == []


def test_a_first_sync_that_is_resumed_is_not_recorded(tmp_path: Path) -> None:
    async def body(syncs: Syncs) -> tuple[int, list[Any]]:
        async with syncs.runtime(SampleConfig(30)) as runtime:
            handle = await runtime.sync()
            await handle.pause()
            await handle.completion()
            before = await runtime.engine.query(Thing).count()
        assert await syncs.sync(SampleConfig(30)) == "completed"
        return before, await syncs.recorded()

    assert syncing(tmp_path, body) == (0, [])


def test_a_database_that_was_filled_without_history_is_recorded_from_the_next_sync_on(
    tmp_path: Path,
) -> None:
    async def body(syncs: Syncs) -> list[Any]:
        await syncs.sync(SampleConfig(2), "off")
        await syncs.sync(SampleConfig(1))
        return await syncs.recorded()

    ((kind, id, sync),) = syncing(tmp_path, body)
    assert (kind, id, sync is None) == ("removed", "1", False)


# -- cursors --------------------------------------------------------------------------------


def test_a_cursor_continues_after_its_change() -> None:
    async def body(place: Place) -> list[list[str]]:
        await place.receive(*(Post(id, title="x") for id in "abc"))
        first, second, third = await place.recorded()
        return [[change.id for change in await place.recorded(one.cursor)] for one in (first, second, third)]

    assert recorded(body) == [["b", "c"], ["c"], []]


def test_now_gives_the_newest_cursor_and_nothing_else() -> None:
    async def body(place: Place) -> tuple[list[Change], list[Change]]:
        await place.receive(Post("1", title="x"))
        feed = place.engine.changes(since=NOW)
        seen = [change async for change in feed]
        await place.receive(Post("2", title="x"))
        return seen, await place.recorded(feed.cursor)

    seen, later = recorded(body)
    assert (seen, [change.id for change in later]) == ([], ["2"])


def test_many_changes_come_in_pages_before_and_after_folding() -> None:
    count = 2 * PAGE + 1

    async def body(place: Place) -> tuple[list[str], list[str], list[str]]:
        await place.receive(*(Post(f"{number:05}", title="x") for number in range(count)))
        whole = [change.id for change in await place.recorded()]
        await place.receive(Post("new", title="x"), at=NOON + 90 * DAY)
        await place.engine.tidy(NOON + 91 * DAY)
        folded = await place.recorded()
        middle = await place.recorded(folded[PAGE + 3].cursor)
        return whole, [change.id for change in folded], [change.id for change in middle]

    whole, folded, middle = recorded(body)
    assert whole == [f"{number:05}" for number in range(count)]
    assert folded == [*whole, "new"]
    assert middle == folded[PAGE + 4 :]


def test_reading_that_stops_halfway_goes_on_from_its_cursor() -> None:
    async def body(place: Place) -> tuple[str | None, list[str]]:
        await place.receive(*(Post(id, title="x") for id in "abc"))
        feed: ChangeFeed = place.engine.changes()
        async for change in feed:
            if change.id == "b":
                break
        return feed.cursor, [change.id for change in await place.recorded(feed.cursor)]

    cursor, rest = recorded(body)
    assert cursor is not None
    assert rest == ["c"]


def test_a_reader_of_one_entity_moves_past_changes_of_others() -> None:
    async def body(place: Place) -> list[Change]:
        await place.receive(Team("red", order="1"))
        feed = place.engine.changes(entity=Team)
        assert [change.id async for change in feed] == ["red"]
        await place.receive(Post("1", title="x"), at=NOON + 1)
        later = place.engine.changes(since=feed.cursor, entity=Team)
        assert [change async for change in later] == []
        await place.receive(Post("2", title="x"), at=NOON + 99 * DAY)
        await place.engine.tidy(NOON + 100 * DAY)
        return await place.recorded(later.cursor, Team)

    assert recorded(body) == []


def test_a_cursor_before_folded_changes_has_expired() -> None:
    async def body(place: Place) -> str:
        await place.receive(Post("1", title="x"))
        (change,) = await place.recorded()
        for at in (NOON + 1, NOON + 90 * DAY):
            await place.receive(Post("1", title=f"{at}"), at=at)
        await place.engine.tidy(NOON + 91 * DAY)
        with pytest.raises(CursorExpired) as raised:
            await place.recorded(change.cursor)
        assert [change.new["title"] for change in await place.recorded()] == [
            f"{NOON + 1}",
            f"{NOON + 90 * DAY}",
        ]
        return raised.value.render()

    assert "--since now" in recorded(body)


def test_the_cursor_of_another_installation_is_refused() -> None:
    async def cursor(place: Place) -> str:
        await place.receive(Post("1", title="x"))
        return (await place.recorded())[-1].cursor

    other = recorded(cursor)

    async def body(place: Place) -> None:
        await place.receive(Post("1", title="x"), Post("2", title="x"))
        with pytest.raises(InvalidCursor, match="belongs to another installation"):
            await place.recorded(other)

    recorded(body)


@pytest.mark.parametrize("text", ["", "x", "!!", "bnVsbA", "WzEsMl0", "W10", "\u2028"])
def test_text_that_is_not_a_cursor_is_refused(text: str) -> None:
    async def body(place: Place) -> None:
        with pytest.raises(InvalidCursor, match="not a cursor of `max changes`"):
            await place.recorded(text)

    recorded(body)


# -- schemas that change ----------------------------------------------------------------------


def made(name: str, **hints: str) -> Any:
    """An entity as one version of a connector declares it."""
    fields: dict[str, Any] = {field: Field() for field in hints}
    return type(name, (Entity,), {**fields, "__annotations__": hints, "__module__": __name__})


@pytest.mark.usefixtures("either")
def test_a_new_field_is_recorded_from_then_on() -> None:
    old, new = made("Note", a="Field[str]"), made("Note", a="Field[str]", b="Field[float | None]")

    async def body(place: Place) -> tuple[list[Change], EncodedRows]:
        await place.open(schema=Schema([old]))
        await place.receive(old("1", a="x"))
        await place.open(schema=Schema([new]))
        await place.receive(new("1", a="x", b=0.5), new("2", b=None), at=NOON + 1)
        return await place.recorded(), await place.rows()

    changes, rows = using(body)
    assert [(change.kind, change.new) for change in changes[1:]] == [
        ("updated", {"b": 0.5}),
        ("created", {"b": None}),
    ]
    assert replayed(changes) == rows


@pytest.mark.usefixtures("either")
def test_values_of_a_new_field_are_recorded_before_the_first_change() -> None:
    old, new = made("Note", a="Field[str]"), made("Note", a="Field[str]", b="Field[str]")

    async def body(place: Place) -> tuple[list[Change], EncodedRows]:
        await place.open(schema=Schema([new]))
        await place.receive(new("1", a="x", b="y"), new("2", a="x"))
        await place.open(schema=Schema([old]))
        before = await place.recorded()
        assert [change.new for change in before] == [{"a": "x"}] * 2, "in the present schema"
        await place.open(schema=Schema([new]))
        return await place.recorded(before[-1].cursor), await place.rows()

    changes, rows = using(body)
    assert [(change.id, change.kind, change.new) for change in changes] == [("1", "updated", {"b": "y"})]
    assert rows["Note:1"] == {"a": "x", "b": "y"}


@pytest.mark.usefixtures("either")
def test_the_log_goes_on_after_renames() -> None:
    one, other = made("Note", a="Field[str]"), made("Remark", b="Field[str]")
    renamed = Migration("better names", RenameField("Note", "a", "b"), RenameEntity("Note", "Remark"))

    async def body(place: Place) -> tuple[list[Change], EncodedRows]:
        await place.open(schema=Schema([one]))
        await place.receive(one("1", a="x"))
        (created,) = await place.recorded()
        await place.open(schema=Schema([other]), policy=SchemaPolicy("notes", (renamed,)))
        await place.receive(other("1", b="y"), at=NOON + 1)
        assert [change.new for change in await place.recorded(created.cursor)] == [{"b": "y"}]
        return await place.recorded(), await place.rows()

    changes, rows = using(body)
    assert [(change.kind, change.ref, change.new) for change in changes] == [
        ("created", other.ref("1"), {"b": "x"}),
        ("updated", other.ref("1"), {"b": "y"}),
    ]
    assert replayed(changes) == rows


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    "change", [ChangeType("Note", "a", using=len), ChangeKey("Note", "key"), DropField("Note", "key")]
)
def test_a_migration_of_values_restarts_the_log(change: Any) -> None:
    old = made("Note", a="Field[str]", key="Field[str]")
    hints = {"a": "Field[int]" if isinstance(change, ChangeType) else "Field[str]", "key": "Field[str]"}
    if isinstance(change, DropField):
        del hints["key"]

    async def body(place: Place) -> tuple[EncodedRows, EncodedRows]:
        await place.open(schema=Schema([old]))
        await place.receive(old("1", a="xyz", key="k"))
        (created,) = await place.recorded()
        policy = SchemaPolicy("notes", (Migration("another schema", change),))
        await place.open(schema=Schema([made("Note", **hints)]), policy=policy)
        with pytest.raises(CursorExpired):
            await place.recorded(created.cursor)
        return replayed(await place.recorded()), await place.rows()

    rebuilt, rows = using(body)
    assert same(rebuilt, rows)
    assert len(rows) == 1


# -- what one sync changed ----------------------------------------------------------------------


def test_what_a_sync_changed_is_counted_without_what_others_did_meanwhile() -> None:
    async def body(place: Place) -> Any:
        await place.receive(Post("1", title="x"), Post("2", title="x"), at=NOON)
        await place.receive(Post("1", title="y"), Post("3", title="x"), at=NOON + 5, sync="s1")
        await place.receive(Post("2", title="y"), at=NOON + 6, sync="other")
        await place.receive(Post("1", title="z"), at=NOON + 7, sync="s1")
        await place.database.transact(
            lambda c: c.execute("UPDATE _max_change SET at = at - 9e8 WHERE kind = 'begun'")
        )
        return await place.database.read(lambda c: changed_by(c, "s1", since=NOON + 4))

    assert recorded(body) == {"Post": {"created": 1, "updated": 1}}


def test_what_a_sync_changed_is_read_from_the_newest_records_however_many_there_are() -> None:
    async def body(place: Place) -> list[int]:
        steps = []
        for number, size in enumerate([10, 2_000]):
            older = [Post(f"{number}-{id}", title="x") for id in range(size)]
            await place.receive(*older, at=NOON + 10 * number, sync="before")
            at, sync = NOON + 10 * number + 5, f"s{number}"
            await place.receive(Post("1", title=sync), at=at, sync=sync)
            found = await place.database.read(lambda c, at=at, sync=sync: steps_of(c, sync, at))
            steps.append(found)
        return steps

    few, many = recorded(body)
    assert many < 2 * few


def steps_of(connection: SqliteConnection, sync: str, since: float) -> int:
    """How many steps SQLite takes to count what a sync changed."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 1)
    try:
        assert changed_by(connection, sync, since=since)
    finally:
        connection.set_progress_handler(None, 1)
    return steps


def test_what_a_sync_changed_is_counted_although_the_clock_went_back() -> None:
    async def body(place: Place) -> Any:
        await place.receive(Post("1", title="x"), at=NOON, sync="before")
        await place.receive(Post("2", title="x"), at=NOON + 5, sync="s1")
        await place.receive(Post("3", title="x"), at=NOON - 60, sync="s1")
        await place.receive(Post("4", title="x"), at=NOON - 59, sync="s1")
        await place.database.transact(
            lambda c: c.execute("UPDATE _max_change SET at = at - 9e8 WHERE kind = 'begun'")
        )
        return await place.database.read(lambda c: changed_by(c, "s1", since=NOON + 4))

    assert recorded(body) == {"Post": {"created": 3}}


def test_a_row_that_went_and_came_back_is_summed_up_with_the_fields_that_differ() -> None:
    async def body(place: Place) -> Any:
        await place.receive(Post("1", title="x", team=None), Post("2", title="x", team=None))
        await place.receive(Post("3", title="x", team=None))
        cursor = (await place.recorded())[-1].cursor
        await place.remove(Post.ref("1"), Post.ref("2"), at=NOON + 1)
        await place.receive(Post("1", title="x", team=None), Post("2", title="y", team=None), at=NOON + 2)
        await place.receive(Post("3", title="y"), at=NOON + 3)
        log = place.engine.tables.change_log
        return await place.database.read(lambda c: log.summary(c, cursor))

    found = recorded(body)
    assert list(found.kinds.values()) == [{"updated": 3}]
    assert list(found.fields.values()) == [{"title": 2}], "two titles changed, and one row is as it was"


def test_a_row_that_was_gone_at_the_floor_is_not_among_the_rows_from_before() -> None:
    async def body(place: Place) -> list[Any]:
        await place.receive(Post("1", title="x"))
        await place.remove(Post.ref("1"), at=NOON + 1)
        await place.database.transact(lambda c: place.engine.tables.change_log.expire(c, NOON + 2))
        await place.receive(Post("1", title="x"), at=NOON + 3)
        return await place.recorded()

    assert [(change.kind, change.id) for change in recorded(body)] == [("restored", "1")]
