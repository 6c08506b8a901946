from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from max.connector import Connector
from max.core import InstallationInfo, Store
from max.errors import SchemaError, StorageError
from max.model.changes import ALL_ROWS
from max.model.delivery import Delivery, ListingPage
from max.model.entities import Entity, ManyOf, Ref, values_of
from max.model.loaders import EntityLoader, Env, Loader, PageRequest, UnknownLoaders
from max.model.migrations import (
    ChangeKey,
    ChangeType,
    DropField,
    Migration,
    RenameEntity,
    RenameField,
    SchemaContract,
    SchemaPolicy,
)
from max.model.plan import Step, SyncPlan
from max.model.query import Page, Query
from max.model.schema import Schema
from max.model.tasks import ExpandTask, LoadFieldsTask, RemoveTask, SyncResult, read_spec
from max.runtime import InstallationRuntime
from max.storage.catalogue import migrate
from max.storage.schema_evolution import plan
from max.storage.sqlite import SqliteConnection, SqliteDatabase
from max.storage.sync_log import MIGRATIONS as TASKS
from max.storage.sync_log import OWNER
from max.storage.table_writer import TableWriter
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests.contract.places import dump, memory_connection, transaction
from tests.sample import SampleConfig, sample, writer
from tests.schema_changes import (
    KINDS,
    Question,
    Upgrade,
    answers,
    applied,
    deliveries,
    partitions,
    questions,
    schema_data,
    stored,
    upgrades,
)
from tests.versions import LATEST, apply, carried, fill, made, opened, read, rows_of, structure

UPGRADES = list(combinations(range(1, LATEST + 1), 2))


@pytest.fixture
def connection(either: None) -> Iterator[Any]:
    with memory_connection() as held:
        yield held


# -- from every version to every later one -----------------------------------------------------


@pytest.mark.parametrize(("start", "end"), UPGRADES)
def test_p17_data_of_any_version_is_carried_to_any_later_one(
    connection: SqliteConnection, start: int, end: int
) -> None:
    fill(connection, apply(connection, start), rows_of(start))
    tables = apply(connection, end)
    assert read(connection, tables) == carried(rows_of(start), start, end)


@pytest.mark.parametrize(("start", "end"), UPGRADES)
def test_a_migrated_database_has_the_structure_of_a_fresh_one(
    connection: SqliteConnection, start: int, end: int
) -> None:
    fill(connection, apply(connection, start), rows_of(start))
    apply(connection, end)
    with memory_connection() as fresh:
        apply(fresh, end)
        migrated, new = structure(connection), structure(fresh)
    assert migrated == new


# -- what a plan says --------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(("kinds", "changes"), [(KINDS, ()), (("integer",), ("toggle", "widen"))])
@settings(max_examples=120)
@given(data=st.data())
def test_p14_a_plan_says_compatible_iff_every_old_query_works_after_the_upgrade(
    kinds: tuple[str, ...], changes: tuple[str, ...], data: st.DataObject
) -> None:
    declared = data.draw(schema_data(kinds))
    upgrade = data.draw(upgrades(declared, changes))
    with memory_connection() as connection:
        old = applied(connection, declared, data.draw(partitions(declared)))
        stored(connection, old, data.draw(deliveries(old)))
        asked = [questions(connection, old, entity) for entity in old.schema.entities.values()]
        before = list(answers(connection, old, old, asked))
        said = plan(connection, UnknownLoaders(Schema.from_json(upgrade.data)), upgrade.policy).compatible
        assert said is works(connection, old, upgrade, asked, before)


def works(
    connection: SqliteConnection,
    old: TableWriter,
    upgrade: Upgrade,
    asked: list[list[Question]],
    before: list[Any],
) -> bool:
    """Whether the upgrade really runs, and old queries give what they gave."""
    try:
        new = applied(connection, upgrade.data, None, upgrade.policy)
    except SchemaError:
        return False
    return None not in before and list(answers(connection, old, new, asked)) == before


@pytest.mark.usefixtures("either")
@settings(max_examples=100)
@given(st.data())
def test_p15_a_compatible_change_keeps_all_rows_and_marks_only_new_fields_stale(data: st.DataObject) -> None:
    declared = data.draw(schema_data())
    upgrade = data.draw(upgrades(declared, ["add", "loosen", "toggle"]))
    with memory_connection() as connection:
        old = applied(connection, declared, data.draw(partitions(declared)))
        stored(connection, old, data.draw(deliveries(old)))
        assume(plan(connection, UnknownLoaders(Schema.from_json(upgrade.data))).compatible)
        before = ages(connection, old)
        new = applied(connection, upgrade.data, data.draw(partitions(upgrade.data)))
        after = ages(connection, new)
        added = {field for field in fields_of(new) if field not in fields_of(old)}
        assert {key: at for key, at in after.items() if key[:2] not in added} == before
        assert {at for key, at in after.items() if key[:2] in added} <= {None}


def fields_of(tables: TableWriter) -> set[tuple[str, str]]:
    return {(name, field) for name, entity in tables.schema.entities.items() for field in entity.types()}


def ages(connection: SqliteConnection, tables: TableWriter) -> dict[tuple[str, str, str], float | None]:
    """When each field of each row was synced."""
    found: dict[tuple[str, str, str], float | None] = {}
    for name, entity in tables.schema.entities.items():
        names = list(entity.types())
        for one in tables.fetch(connection, Query(entity)).items:
            times = tables.freshness.synced_at(connection, entity.ref(one.id), names) if names else []
            found |= {(name, field, one.id): at for field, at in zip(names, times, strict=True)}
    return found


@pytest.mark.usefixtures("either")
@settings(max_examples=50)
@given(st.data())
def test_p17_renames_keep_values_and_their_age(data: st.DataObject) -> None:
    declared = data.draw(schema_data())
    upgrade = data.draw(upgrades(declared, ["rename"]))
    with memory_connection() as connection:
        old = applied(connection, declared, data.draw(partitions(declared)))
        stored(connection, old, data.draw(deliveries(old)))
        before, times = read(connection, old), ages(connection, old)
        new = applied(connection, upgrade.data, data.draw(partitions(upgrade.data)), upgrade.policy)
        after, later = read(connection, new), ages(connection, new)
    assert after == {
        entity: {id: {renamed(upgrade, entity, n): v for n, v in row.items()} for id, row in rows.items()}
        for entity, rows in before.items()
    }
    assert later == {(entity, renamed(upgrade, entity, n), id): at for (entity, n, id), at in times.items()}


def renamed(upgrade: Upgrade, entity: str, name: str) -> str:
    """What a field is called in the end."""
    for migration in upgrade.policy.migrations:
        for change in migration.steps:
            if isinstance(change, RenameField) and (change.entity, change.old) == (entity, name):
                name = change.new
    return name


# -- what is refused ---------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.data())
def test_p17_a_change_without_a_rule_is_refused_before_the_first_write(data: st.DataObject) -> None:
    declared = data.draw(schema_data().filter(lambda one: any(e["fields"] for e in one["entities"])))
    upgrade = data.draw(upgrades(declared, ["retype"]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.db"
        with closing(opened(path)) as connection:
            tables = applied(connection, declared, None)
            stored(connection, tables, data.draw(deliveries(tables)))
            refused = any(
                one.refused
                for one in plan(connection, UnknownLoaders(Schema.from_json(upgrade.data))).changes
            )
        assume(refused)
        before = path.read_bytes()
        with closing(opened(path)) as connection, pytest.raises(SchemaError, match="is stored as") as caught:
            applied(connection, upgrade.data, None)
        assert path.read_bytes() == before
        assert "ChangeType(" in caught.value.hint
        assert "nothing was changed" in caught.value.hint


def refusal(connection: SqliteConnection, one: Any, two: Any, *migrations: Migration) -> SchemaError:
    """Why a database of one schema cannot become one of the other."""
    applied_to(connection, one)
    before = dump(connection)
    with pytest.raises(SchemaError) as caught:
        applied_to(connection, two, *migrations)
    assert dump(connection) == before
    return caught.value


def applied_to(connection: SqliteConnection, declared: Any, *migrations: Migration) -> TableWriter:
    """Make a database fit some entities, whose connector is called ``drawn``."""
    entities = declared if isinstance(declared, list) else [declared]
    tables = writer(Schema(entities), SchemaPolicy("drawn", migrations))
    with transaction(connection):
        tables.apply(connection)
    return tables


THING = made("Thing", {"name": "str", "size": "int"})


def test_a_name_that_differs_in_case_alone_wants_a_rename(connection: SqliteConnection) -> None:
    error = refusal(connection, THING, made("Thing", {"Name": "str", "size": "int"}))
    assert error.message == "Thing.Name would take the column of name"
    assert 'RenameField("Thing", "name", "Name")' in error.hint


def test_an_entity_that_would_take_anothers_table_wants_a_rename(connection: SqliteConnection) -> None:
    error = refusal(connection, made("HTTPRoute", {}), made("HttpRoute", {}))
    assert error.message == "HttpRoute would take the table of HTTPRoute"
    assert 'RenameEntity("HTTPRoute", "HttpRoute")' in error.hint


def test_a_collection_of_another_entity_wants_the_old_one_dropped(connection: SqliteConnection) -> None:
    other = made("Other", {})
    one = [made("Root", {}, things=("Thing", None)), THING, other]
    two = [made("Root", {}, things=("Other", None)), THING, other]
    error = refusal(connection, one, two)
    assert "Root.things is stored as a collection of Thing" in error.message
    applied_to(connection, two, Migration("other things", DropField("Root", "things")))


def test_a_rename_onto_what_is_stored_is_refused(connection: SqliteConnection) -> None:
    migration = Migration("one name", RenameField("Thing", "name", "title"))
    both = made("Thing", {"name": "str", "title": "str"})
    error = refusal(connection, both, made("Thing", {"title": "str"}), migration)
    assert 'DropField("Thing", "title")' in error.hint


def test_two_rows_that_would_have_one_id_are_named(connection: SqliteConnection) -> None:
    tables = applied_to(connection, THING)
    rows = [THING("1", name="x", size=1), THING("2", name="x", size=2), THING("3", name="y", size=3)]
    stored(connection, tables, [Delivery(rows, 1.0)])
    key = Migration("names are ids", ChangeKey("Thing", "name"))
    assert "several rows have 'x'" in refusal(connection, THING, THING, key).message


def test_two_rows_whose_converted_values_would_be_one_id_are_named(connection: SqliteConnection) -> None:
    tables = applied_to(connection, THING)
    stored(connection, tables, [Delivery([THING("1", name="x"), THING("2", name="X")], 1.0)])
    lower = ChangeType("Thing", "name", using=lambda name: name.lower())
    error = refusal(connection, THING, THING, Migration("lower", lower, ChangeKey("Thing", "name")))
    assert "several rows have 'x'" in error.message


def test_a_removed_row_gives_its_new_id_up_to_one_that_is_there(connection: SqliteConnection) -> None:
    tables = applied_to(connection, THING)
    stored(connection, tables, [Delivery([THING("1", name="x", size=1), THING("2", name="x", size=2)], 1.0)])
    stored(connection, tables, [Delivery([], 2.0, removed=[THING.ref("1")])])
    tables = applied_to(connection, THING, Migration("names are ids", ChangeKey("Thing", "name")))
    assert tables.fetch(connection, Query(THING)).items == [THING("x", name="x", size=2)]


@pytest.mark.parametrize("ref", ["old", "new", "row", "k"])
def test_a_ref_may_be_named_as_the_columns_of_the_table_of_new_ids(
    connection: SqliteConnection, ref: str
) -> None:
    note = made("Note", {ref: "Ref[Thing] | None"})
    tables = applied_to(connection, [THING, note])
    rows = [THING("1", name="x"), THING("2", name="y"), note("a", **{ref: THING.ref("2")})]
    stored(connection, tables, [Delivery(rows, 1.0)])
    tables = applied_to(connection, [THING, note], Migration("names are ids", ChangeKey("Thing", "name")))
    (kept,) = tables.fetch(connection, Query(note)).items
    assert values_of(kept)[ref] == THING.ref("y")


def test_an_edited_migration_is_refused(connection: SqliteConnection) -> None:
    title = made("Thing", {"title": "str", "size": "int"})
    applied_to(connection, title, Migration("better", RenameField("Thing", "name", "title")))
    applied_to(connection, title, Migration("a better name", RenameField("Thing", "name", "title")))
    with pytest.raises(StorageError, match=r"migration 1 of drawn .* was changed after it ran"):
        applied_to(connection, title, Migration("better", RenameField("Thing", "nick", "title")))


def test_data_of_a_newer_connector_is_refused(connection: SqliteConnection) -> None:
    title = made("Thing", {"title": "str", "size": "int"})
    applied_to(connection, title, Migration("better", RenameField("Thing", "name", "title")))
    with pytest.raises(StorageError, match="schema version 1, which this connector does not know"):
        applied_to(connection, THING)


def test_a_new_title_is_stored_without_a_migration(connection: SqliteConnection) -> None:
    applied_to(connection, THING)
    titled: type[Entity] = type("Thing", (THING,), {"__module__": __name__}, title="name")
    resolver = UnknownLoaders(Schema([titled]))
    assert plan(connection, resolver).changes == ()
    applied_to(connection, titled)
    kept = json.loads(connection.execute("SELECT schema FROM _max_schema").fetchone()[0])
    assert kept["entities"][0]["title"] == "name"


def test_new_conventions_are_stored_without_a_migration(connection: SqliteConnection) -> None:
    applied_to(connection, THING)
    said: type[Entity] = type("Thing", (THING,), {"__module__": __name__}, conventions={"big": "size > 9"})
    assert plan(connection, UnknownLoaders(Schema([said]))).changes == ()
    applied_to(connection, said)
    kept = json.loads(connection.execute("SELECT schema FROM _max_schema").fetchone()[0])
    assert kept["entities"][0]["conventions"] == {"big": "size > 9"}


# -- contracts ---------------------------------------------------------------------------------


def frozen(connection: SqliteConnection, *declared: type[Entity], frozen: str) -> None:
    """Make a database fit entities, one of which is frozen."""
    policy = SchemaPolicy("drawn", contracts={frozen: SchemaContract.FREEZE})
    with transaction(connection):
        writer(Schema(declared), policy).apply(connection)


def test_a_frozen_entity_is_not_changed_by_an_upgrade(connection: SqliteConnection) -> None:
    frozen(connection, THING, frozen="Thing")
    before = dump(connection)
    larger = made("Thing", {"name": "str", "size": "int", "more": "str"})
    with pytest.raises(SchemaError, match=r"Thing\.more is new") as caught:
        frozen(connection, larger, frozen="Thing")
    assert "SchemaContract.QUARANTINE" in caught.value.hint
    assert dump(connection) == before


def test_others_may_change_beside_a_frozen_entity(connection: SqliteConnection) -> None:
    frozen(connection, THING, frozen="Thing")
    frozen(connection, THING, made("Other", {"more": "str"}), frozen="Thing")
    frozen(connection, THING, made("Other", {"more": "str | None"}), frozen="Thing")
    assert connection.dialect.columns(connection, "other") >= {"id", "more"}


# -- what is hidden ----------------------------------------------------------------------------


def test_what_is_no_longer_declared_comes_back_with_its_values(connection: SqliteConnection) -> None:
    bare, other = made("Thing", {}), made("Other", {"thing": "Ref[Thing]"})
    tables = applied_to(connection, [THING, other])
    stored(
        connection, tables, [Delivery([THING("1", name="x", size=1), other("2", thing=THING.ref("1"))], 5.0)]
    )
    tables = applied_to(connection, bare)
    assert tables.fetch(connection, Query(bare)).items == [bare("1")]
    tables = applied_to(connection, [THING, other])
    assert tables.fetch(connection, Query(THING)).items == [THING("1", name="x", size=1)]
    assert tables.fetch(connection, Query(other)).items == [other("2", thing=THING.ref("1"))]
    assert tables.freshness.synced_at(connection, THING.ref("1"), ["name"]) == [None], (
        "it may have changed since"
    )


def test_what_was_hidden_may_be_renamed_after_all(connection: SqliteConnection) -> None:
    tables = applied_to(connection, THING)
    stored(connection, tables, [Delivery([THING("1", name="x", size=1)], 5.0)])
    applied_to(connection, made("Thing", {"size": "int"}))
    title = made("Thing", {"title": "str", "size": "int"})
    tables = applied_to(connection, title, Migration("better", RenameField("Thing", "name", "title")))
    assert tables.fetch(connection, Query(title)).items == [title("1", title="x", size=1)]


def test_a_dropped_field_gives_nothing_to_the_next_of_its_name(connection: SqliteConnection) -> None:
    tables = applied_to(connection, THING)
    stored(connection, tables, [Delivery([THING("1", name="x", size=1)], 5.0)])
    drop = Migration("no sizes", DropField("Thing", "size"))
    applied_to(connection, made("Thing", {"name": "str"}), drop)
    tables = applied_to(connection, THING, drop)
    assert tables.fetch(connection, Query(THING)).items == [THING("1", name="x")]
    assert tables.freshness.synced_at(connection, THING.ref("1"), ["name", "size"]) == [5.0, None]


def test_history_does_not_take_a_new_field_for_one_that_was_dropped(connection: SqliteConnection) -> None:
    def recorded(declared: Any, *migrations: Migration) -> TableWriter:
        tables = applied_to(connection, declared, *migrations)
        with transaction(connection):
            tables.change_log.attach(connection, on=True)
        return tables

    tables = recorded(THING)
    stored(connection, tables, [Delivery([THING("1", name="x", size=1)], 5.0)])
    other = made("Thing", {"name": "str", "weight": "int"})
    tables = recorded(other, Migration("by weight", DropField("Thing", "size")))
    (number,) = connection.execute("SELECT bit FROM _max_field WHERE field = 'weight'").fetchone()
    assert number == 2
    stored(connection, tables, [Delivery([other("1", weight=7)], 6.0)])
    items = tables.change_log.page(connection, ALL_ROWS).items
    found = [(change.kind, dict(change.new)) for change in items]
    assert found == [("created", {"name": "x"}), ("updated", {"weight": 7})]


def test_history_goes_on_under_new_names(connection: SqliteConnection) -> None:
    tables = applied_to(connection, THING)
    with transaction(connection):
        tables.change_log.attach(connection, on=True)
    stored(connection, tables, [Delivery([THING("1", name="x", size=1)], 5.0)])
    cursor = tables.change_log.page(connection).cursor
    item = made("Item", {"title": "str", "size": "int"})
    steps = RenameEntity("Thing", "Item"), RenameField("Item", "name", "title")
    tables = applied_to(connection, item, Migration("as people say", *steps))
    with transaction(connection):
        tables.change_log.attach(connection, on=True)
    stored(connection, tables, [Delivery([item("1", title="y")], 6.0)])
    (change,) = tables.change_log.page(connection, cursor).items
    assert (change.entity, dict(change.old), dict(change.new)) == (item, {"title": "x"}, {"title": "y"})
    first = tables.change_log.page(connection, ALL_ROWS).items[0]
    assert (first.entity, dict(first.new)) == (item, {"title": "x", "size": 1})


def test_more_fields_than_a_word_has_bits_may_come_and_go(connection: SqliteConnection) -> None:
    wide = made("Wide", {f"f{n}": "int" for n in range(61)})
    applied_to(connection, wide)
    wider = made("Wide", {f"f{n}": "int" for n in range(70)})
    tables = applied_to(connection, wider)
    stored(connection, tables, [Delivery([wider("1", f0=0, f60=60, f61=61, f69=69)], 5.0)])
    fewer = made("Wide", {f"f{n}": "int" for n in range(60, 70)})
    found = applied_to(connection, fewer).fetch(connection, Query(fewer)).items
    assert found == [fewer("1", f60=60, f61=61, f69=69)]


# -- what moves along --------------------------------------------------------------------------


@pytest.mark.parametrize("end", [3, 5])
def test_links_freshness_and_tasks_follow(connection: SqliteConnection, end: int) -> None:
    tables = apply(connection, 2)
    fill(connection, tables, rows_of(2))
    migrate(connection, OWNER, TASKS)
    load = LoadFieldsTask("Person", ("name",), "x", ("1",))
    issues = ExpandTask("Issue", "load_fields", ("name",), 0.0, matching=["=", ["name"], "x"])
    condition = ["any", ["=", ["owner", "name"], "Ada"], ["not", ["=", ["name"], "x"]]]
    gone = RemoveTask(("Root.people",), (("Person", "1", "x"),), 0.0, looks=(1.0,), left=("Root.people",))
    for number, one in enumerate([load, issues, issues.replace(matching=condition), gone]):
        sql = (
            "INSERT INTO _max_task (id, sync, kind, spec, state, created_at, changed_at)"
            " VALUES (?, 's', ?, ?, 'pending', 0, 0)"
        )
        connection.execute(sql, (number, one.kind, json.dumps(one.to_json())))
    tables = apply(connection, end)
    root, user = tables.schema.entities["Root"], tables.schema.entities["User"]
    members: Any = tables.collection(connection, root.ref("root"), ManyOf(root, "users")).items
    id = "u-1" if end == 5 else "1"
    assert {one.id for one in members} == set(carried(rows_of(2), 2, end)["User"])
    assert tables.freshness.synced_at(connection, user.ref(id), ["name", "age"]) == [100.0, 100.0]
    rows = connection.execute("SELECT kind, spec FROM _max_task ORDER BY id").fetchall()
    tasks = [read_spec(kind, json.loads(text)) for kind, text in rows]
    titled = issues.replace(names=("title",), matching=["=", ["title"], "x"])
    condition = ["any", ["=", ["owner", "name"], "Ada"], ["not", ["=", ["title"], "x"]]]
    assert tasks == [
        load.replace(entity="User", ids=(id,)),
        titled,
        titled.replace(matching=condition),
        RemoveTask(("Root.users",), (("User", id, "x"),), 0.0),
    ]


# -- what the next sync fetches ------------------------------------------------------------------


@asynccontextmanager
async def running(connector: Connector[Any, Any], path: Path) -> AsyncIterator[InstallationRuntime]:
    """A started runtime."""
    info = InstallationInfo("sample", "default", "1", {}, 0.0)
    credentials = CredentialProvider(MemoryCredentials(), ())
    runtime = InstallationRuntime(info, connector, SampleConfig(), credentials, SqliteDatabase(path))
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


class Calls:
    """A connector in two versions, and what its loaders were asked."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def connector(self, version: int, **changes: Any) -> Connector[Any, Any]:
        """Things with a note of their own; in version 2 also with a size that is listed, and a body."""
        more = {"size": "int", "body": "str"} if version > 1 else {}
        thing = made("Thing", {"name": "str", "note": "str", **more})
        root = made("Root", {}, things=("Thing", None))
        day = timedelta(days=1)

        @Loader.collection(root.things, brings=[thing.name, *([thing.size] if more else [])])
        async def list_things(parent: Ref[Any], request: PageRequest, env: Env[Any]) -> Page[Any]:
            self.made.append(f"list since {request.sync_token}")
            values: dict[str, Any] = {"size": 3} if more else {}
            items = [] if request.sync_token else [thing(id, name=id, **values) for id in ("1", "2")]
            return Page(items, sync_token="m")

        def fetching(name: str) -> EntityLoader[Any, Any]:
            async def fetch(ref: Ref[Any], env: Env[Any]) -> Entity:
                self.made.append(f"{name} of {ref.id}")
                fetched: Entity = thing(ref.id, **{name: "text"})
                return fetched

            fetch.__name__ = f"fetch_{name}"
            return Loader.entity(getattr(thing, name), ttl=day)(fetch)

        async def seed(context: object, store: Store) -> SyncPlan:
            await store.store(root("root"))
            names = ["note", *(["body"] if more else [])]
            steps = [Step.for_all(thing).load_fields(getattr(thing, name)) for name in names]
            return SyncPlan([Step.for_root(root.ref("root")).load_collection(root.things), *steps])

        loaders = [list_things, fetching("note"), *([fetching("body")] if more else [])]
        schema = Schema([root, thing], roots=[root])
        return sample(schema=schema, loaders=loaders, seeder=seed, **changes)

    def sync(self, path: Path, version: int, **changes: Any) -> list[str]:
        """Sync an installation with a version; what its loaders were asked."""
        self.made.clear()

        async def main() -> None:
            async with running(self.connector(version, **changes), path) as runtime:
                result = await (await runtime.sync()).completion()
            assert result.status == "completed"

        asyncio.run(main())
        return sorted(self.made)


def test_p15_only_new_fields_are_fetched_and_what_is_only_listed_is_listed_in_full(tmp_path: Path) -> None:
    calls, path = Calls(), tmp_path / "data.db"
    assert calls.sync(path, 1) == ["list since None", "note of 1", "note of 2"]
    assert calls.sync(path, 1) == ["list since m"]
    assert calls.sync(path, 2) == ["body of 1", "body of 2", "list since None"]
    assert calls.sync(path, 2) == ["list since m"]


def test_what_could_not_be_converted_is_fetched_for_those_rows_alone(tmp_path: Path) -> None:
    calls, path = Calls(), tmp_path / "data.db"
    calls.sync(path, 1)
    with closing(opened(path)) as connection:
        connection.execute("UPDATE _sample_thing SET note = 'bad' WHERE _id = '2'")

    def using(note: str) -> str:
        if note == "bad":
            raise ValueError(note)
        return note.upper()

    migration = Migration("louder", ChangeType("Thing", "note", using=using))
    assert calls.sync(path, 1, migrations=[migration]) == ["list since m", "note of 2"]
    with closing(opened(path)) as connection:
        assert connection.execute("SELECT note FROM sample_thing ORDER BY id").fetchall() == [
            ("TEXT",),
            ("text",),
        ]


def test_lists_of_an_entity_with_another_name_or_key_go_on(connection: SqliteConnection) -> None:
    leaf = made("Leaf", {})
    one = [made("Tree", {"key": "str"}, leaves=("Leaf", None)), leaf]
    two = [made("Plant", {"key": "str"}, leaves=("Leaf", None)), leaf]
    tables, tree = applied_to(connection, one), one[0]
    rows = [tree("1", key="2"), tree("2", key="1"), tree("3", key="")]  # two change places, one has none
    stored(connection, tables, [Delivery(rows, 4.0)])
    for id in ("1", "2", "3"):
        listing = ListingPage(tree.ref(id), ManyOf(tree, "leaves"), 0, True, 5.0, bookmark=f"m{id}")
        stored(connection, tables, [Delivery([leaf(f"of {id}")], 5.0, listing)])
    tables = applied_to(
        connection, two, Migration("", RenameEntity("Tree", "Plant"), ChangeKey("Plant", "key"))
    )
    leaves: Any = ManyOf(two[0], "leaves")
    found = {id: tables.collection(connection, two[0].ref(id), leaves).items for id in ("1", "2", "3")}
    assert found == {"1": [leaf("of 2")], "2": [leaf("of 1")], "3": []}
    assert tables.membership.listing_state(connection, two[0].ref("1"), leaves).bookmark == "m2"


def test_rows_that_an_upgrade_dropped_are_listed_again(tmp_path: Path) -> None:
    calls, path = Calls(), tmp_path / "data.db"
    calls.sync(path, 1)
    with closing(opened(path)) as connection:
        connection.execute("UPDATE _sample_thing SET name = '' WHERE _id = '2'")
    migrations = [Migration("names are ids", ChangeKey("Thing", "name"))]
    assert calls.sync(path, 1, migrations=migrations) == ["list since None", "note of 2"]


def versioned(name: str, field: str, asked: asyncio.Event | None, **more: Any) -> Connector[Any, Any]:
    """Things with a note, under names of choice; with an event, their loader sets it and never answers."""
    thing = made(name, {field: "str"})
    root = made("Root", {}, things=(name, None))

    @Loader.collection(root.things)
    async def list_things(parent: Ref[Any], request: PageRequest, env: Env[Any]) -> Page[Any]:
        return Page([thing("1"), thing("2")])

    async def fetch(ref: Ref[Any], env: Env[Any]) -> Entity:
        if asked is not None:
            asked.set()
            await asyncio.Event().wait()
        fetched: Entity = thing(ref.id, **{field: f"{field} of {ref.id}"})
        return fetched

    fetch.__name__ = f"fetch_{field}"
    loaders = [list_things, Loader.entity(getattr(thing, field))(fetch)]

    async def seed(context: object, store: Store) -> SyncPlan:
        await store.store(root("root"))
        fields = Step.for_all(thing).load_fields(getattr(thing, field))
        return SyncPlan([Step.for_root(root.ref("root")).load_collection(root.things), fields])

    schema = Schema([root, thing], roots=[root])
    return sample(schema=schema, loaders=loaders, seeder=seed, **more)


def test_a_sync_that_was_interrupted_goes_on_under_new_names(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    steps = RenameEntity("Thing", "Item"), RenameField("Item", "note", "remark")
    migrations = [Migration("as people say", *steps)]

    async def main() -> tuple[SyncResult, list[Entity]]:
        asked = asyncio.Event()
        async with running(versioned("Thing", "note", asked), path) as runtime:
            await runtime.sync()
            await asked.wait()
        async with running(versioned("Item", "remark", None, migrations=migrations), path) as runtime:
            result = await (await runtime.sync()).completion()
            item: Any = runtime.engine.schema.entity("Item")
            return result, await runtime.engine.query(item).all()

    result, items = asyncio.run(main())
    assert (result.status, result.resumed) == ("completed", True)
    assert [values_of(one) for one in items] == [{"id": id, "remark": f"remark of {id}"} for id in ("1", "2")]


# -- processes ---------------------------------------------------------------------------------


def forked(work: Callable[[], None]) -> int:
    """Run work in a process of its own, which ends with it; its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def test_eight_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    path, log = tmp_path / "data.db", tmp_path / "converted"
    with closing(opened(path)) as connection:
        tables = applied_to(connection, THING)
        stored(connection, tables, [Delivery([THING("1", name="x", size=1)], 1.0)])
    ready, go = os.pipe()

    def using(size: int) -> int:
        with log.open("a") as file:
            file.write("once\n")
        return size * 60

    def start() -> None:
        os.close(go)
        os.read(ready, 1)  # ends when the other side is closed: for all at once
        with closing(opened(path)) as connection:
            applied_to(connection, THING, Migration("minutes", ChangeType("Thing", "size", using=using)))

    children = [forked(start) for _ in range(8)]
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    os.close(ready)
    with closing(opened(path)) as connection:
        assert connection.execute("SELECT size FROM thing").fetchall() == [(60,)]
    assert log.read_text() == "once\n"


def test_a_migration_that_is_killed_anywhere_is_done_or_was_never_begun(tmp_path: Path) -> None:
    origin = tmp_path / "origin.db"
    with closing(opened(origin)) as connection:
        fill(connection, apply(connection, 1), rows_of(1))
        old = state(connection)
    with closing(opened(copied(origin, tmp_path / "whole.db"))) as connection:
        steps: list[str] = []
        connection.set_trace_callback(steps.append)
        apply(connection, LATEST)
        connection.set_trace_callback(None)
        new = state(connection)
    assert len(steps) > 100
    for number in range(1, len(steps), 7):
        path = copied(origin, tmp_path / f"{number}.db")
        child = forked(lambda path=path, number=number: killed(path, number))  # type: ignore[misc]
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        with closing(opened(path)) as connection:
            assert state(connection) == old
            apply(connection, LATEST)
            assert state(connection) == new


def copied(origin: Path, path: Path) -> Path:
    """Another database of the same content."""
    with (
        closing(sqlite3.connect(origin, factory=SqliteConnection)) as one,
        closing(sqlite3.connect(path, factory=SqliteConnection)) as other,
    ):
        one.backup(other)
    return path


def state(connection: SqliteConnection) -> list[str]:
    """All that is durable."""
    return dump(connection)


def killed(path: Path, number: int) -> None:
    """Migrate, and be killed at the nth statement."""
    left = iter(range(number))

    def count(_: str) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    connection = opened(path)
    connection.set_trace_callback(count)
    apply(connection, LATEST)
