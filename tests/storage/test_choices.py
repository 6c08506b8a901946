"""Enumerations and lists of refs: declared, stored, read, filtered, counted and changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from max.errors import InvalidEntity, InvalidFilter
from max.model.delivery import Delivery
from max.model.entities import Entity, Field, FieldType, Many, Ref
from max.model.filter_language import parse
from max.model.loaders import UnknownLoaders
from max.model.migrations import ChangeKey, Migration, RenameEntity, SchemaPolicy
from max.model.query import Page, Query
from max.model.schema import Schema
from max.model.schema_source import schema_source
from max.model.values import Kind
from max.storage.sqlite import MEMORY, transaction
from max.storage.table_writer import TableWriter
from tests.contract.places import Store, using
from tests.versions import opened


class State(StrEnum):
    OPEN = "open"
    DONE = "all done"


class Person(Entity, title="name", key="login"):
    name: Field[str] = Field()


class Team(Entity):
    tasks: Many[Task] = Many()


class Task(Entity):
    state: Field[State] = Field("where it is")
    size: Field[Literal["s", "m"] | None] = Field()
    people: Field[list[Ref[Person]]] = Field("who does it")


SCHEMA = Schema([Person, Team, Task], roots=[Team])
ADA, BOB = Person.ref("ada"), Person.ref("bob")


async def filled(store: Store) -> None:
    await store.engine.store(Person("ada", name="Ada"), Person("bob", name="Bob"))
    await store.engine.store(
        Task("1", state=State.OPEN, size=None, people=[ADA, BOB]),
        Task("2", state=State.DONE, size="s", people=[BOB]),
        Task("3", state=State.DONE, size="m", people=[]),
    )


class TestTypes:
    def test_an_enumeration_is_a_text_with_its_values(self) -> None:
        holds = Task.types()["state"]
        assert (holds.kind, holds.choices, holds.enum) == (Kind.TEXT, ("open", "all done"), State)
        assert Task.types()["size"] == FieldType(Kind.TEXT, True, choices=("s", "m"))
        assert holds.expected == "open or all done"
        assert Task.types()["size"].expected == "s, m or null"

    @pytest.mark.parametrize("value", ["opened", "", 5, ["open"], Ref(Person, "open")])
    def test_a_value_that_the_enumeration_lacks_is_invalid(self, value: object) -> None:
        assert not Task.types()["state"].check(value)

    @pytest.mark.parametrize("value", ["ada", [ADA, 5], [Team.ref("1")], [None], [ADA.within("x")]])
    def test_a_list_of_refs_has_refs_to_its_entity_alone(self, value: object) -> None:
        assert not Task.types()["people"].check(value)

    def test_the_schema_as_data_has_both(self) -> None:
        again = Schema.from_json(SCHEMA.to_json())
        assert again == SCHEMA
        types = again.entities["Task"].types()
        assert types["state"].choices == ("open", "all done")
        assert types["people"].inside is again.entities["Person"]

    def test_the_module_of_the_schema_declares_both(self) -> None:
        source = schema_source(SCHEMA)
        assert "state: Field[Literal['open', 'all done']]" in source
        assert "people: Field[list[Ref[Person]]]" in source


class TestData:
    def test_both_are_read_from_data(self) -> None:
        row = {"id": 1, "state": "all done", "size": "s", "people": [{"login": "ada"}, "bob"]}
        task = Task.read(row)
        assert task == Task("1", state=State.DONE, size="s", people=[ADA, BOB])
        assert task.state is State.DONE

    def test_both_are_read_by_column_as_one_by_one(self) -> None:
        good = [{"id": n, "state": "open", "size": None, "people": ["ada"]} for n in range(3)]
        bad = [good[0] | {"id": 7, "state": "lost"}, good[0] | {"id": 8, "people": ["ada", 1.5]}]
        rows, wrong = Page.read(Task, [*good, *bad]).items.encoded()  # type: ignore[attr-defined]
        assert rows.ids == ["0", "1", "2"]
        assert [column[0] for column in rows.columns] == ["open", None, '["ada"]']
        assert [one.id for one in wrong] == ["7", "8"]


class TestStored:
    def test_what_is_stored_is_read_as_the_same(self) -> None:
        async def body(store: Store) -> list[Task]:
            await filled(store)
            return await store.engine.query(Task).order_by(Task.id).all()

        first, second, third = using(MEMORY, body, SCHEMA)
        assert first == Task("1", state=State.OPEN, size=None, people=[ADA, BOB])
        assert second.state is State.DONE
        assert third.people == []
        assert first.to_dict() == {"id": "1", "state": "open", "size": None, "people": ["ada", "bob"]}

    @pytest.mark.parametrize("value", ["lost", 1])
    def test_an_invalid_value_is_refused_with_the_valid_ones(self, value: Any) -> None:
        async def body(store: Store) -> None:
            await store.engine.store(Task("1", state=value))

        with pytest.raises(InvalidEntity, match=r"Task:1\.state: expected open or all done, got"):
            using(MEMORY, body, SCHEMA)

    @pytest.mark.parametrize(
        ("filter", "found"),
        [
            ("state = open", ["1"]),
            ('state = "all done"', ["2", "3"]),
            ("state != open", ["2", "3"]),
            ("state ~= do", ["2", "3"]),
            ("size IN (s, m)", ["2", "3"]),
            ("people HAS ada", ["1"]),
            ("people HAS Person:bob", ["1", "2"]),
            ("NOT people HAS bob", ["3"]),
        ],
    )
    def test_filters_find_both(self, filter: str, found: list[str]) -> None:
        async def body(store: Store) -> list[Task]:
            await filled(store)
            return await store.engine.query(Task).where(filter).order_by(Task.id).all()

        assert [one.id for one in using(MEMORY, body, SCHEMA)] == found
        assert parse(str(parse(filter, Task, now=0.0)), Task, now=0.0) == parse(filter, Task, now=0.0)

    def test_programs_filter_by_members_and_refs(self) -> None:
        async def body(store: Store) -> list[Sequence[Task]]:
            await filled(store)
            filters = [Task.state.eq(State.OPEN), Task.people.has(ADA), Task.size.is_in(["s"])]
            return [await store.engine.query(Task).where(one).all() for one in filters]

        assert [[one.id for one in found] for found in using(MEMORY, body, SCHEMA)] == [["1"], ["1"], ["2"]]

    def test_a_filter_with_a_value_that_the_enumeration_lacks_names_the_known_ones(self) -> None:
        with pytest.raises(InvalidFilter, match="state expects open or all done, got 'opne'"):
            parse("state = opne", Task, now=0.0)

    def test_rows_are_counted_by_the_members_of_a_list_of_refs(self) -> None:
        async def body(store: Store) -> dict[Any, int]:
            await filled(store)
            return dict(await store.engine.query(Task).count_by(Task.people.each()))

        assert using(MEMORY, body, SCHEMA) == {BOB: 2, ADA: 1, None: 1}


# -- upgrades --------------------------------------------------------------------------------


def after(schema: Schema, *steps: Any) -> tuple[dict[str, Any], dict[str, bool]]:
    """A task behind an upgrade to another schema, and which of its fields need not be fetched again."""
    migrations = (Migration("changed", *steps),) if steps else ()
    with closing(opened(Path(MEMORY))) as connection:
        tables = TableWriter(SCHEMA, UnknownLoaders(SCHEMA))
        task = Task("1", state=State.OPEN, size=None, people=[ADA])
        with transaction(connection):
            tables.apply(connection)
            tables.write(connection, Delivery([Person("ada", name="Ada"), task], 1.0))
        upgraded = TableWriter(schema, UnknownLoaders(schema), SchemaPolicy("tasks", migrations))
        with transaction(connection):
            upgraded.apply(connection)
        entity = schema.entities["Task"]
        (row,) = upgraded.fetch(connection, Query(entity)).items
        names = list(entity.types())
        times = upgraded.freshness.synced_at(connection, entity.ref("1"), names)
        fresh = {name: at is not None for name, at in zip(names, times, strict=True)}
        return row.to_dict(), fresh


def altered(**fields: dict[str, Any]) -> Schema:
    """The schema with other facts of some fields of a task."""
    data = SCHEMA.to_json()
    (task,) = (one for one in data["entities"] if one["name"] == "Task")
    task["fields"] = [one | fields.get(one["name"], {}) for one in task["fields"]]
    return Schema.from_json(data)


class TestUpgrades:
    @pytest.mark.parametrize(
        ("choices", "fresh"),
        [(["open", "all done", "lost"], True), ([], True), (["open"], False), (["lost"], False)],
    )
    def test_what_an_enumeration_may_lack_now_is_fetched_again(self, choices: list[str], fresh: bool) -> None:
        row, fetched = after(altered(state={"choices": choices}))
        assert (row["state"], fetched["state"], fetched["people"]) == ("open", fresh, True)

    def test_a_text_that_becomes_an_enumeration_is_fetched_again(self) -> None:
        _, fetched = after(altered(state={"choices": ["open"]}))
        assert not fetched["state"]

    def test_an_enumeration_that_lacks_a_stored_text_gives_it_as_it_is(self) -> None:
        holds = FieldType.of(State, "Task.state")
        assert (holds.of_text("lost"), holds.of_text("open")) == ("lost", State.OPEN)

    def test_a_list_follows_the_new_name_of_its_entity(self) -> None:
        data = SCHEMA.to_json()
        text = json.dumps(data).replace('"Person"', '"User"')
        row, fetched = after(Schema.from_json(json.loads(text)), RenameEntity("Person", "User"))
        assert (row["people"], fetched["people"]) == (["ada"], True)

    def test_a_list_is_fetched_again_when_the_ids_of_its_entity_change(self) -> None:
        data = SCHEMA.to_json()
        row, fetched = after(Schema.from_json(data), ChangeKey("Person", "name"))
        assert "people" not in row
        assert not fetched["people"]
