from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import InvalidEntity
from max.model.delivery import Delivery, ListingPage, WriteResult
from max.model.entities import Entity, Field, Many, Ref
from max.model.loaders import CollectionLoader, Loader, Resolver
from max.model.migrations import (
    ChangeKey,
    DropEntity,
    DropField,
    Migration,
    MigrationStep,
    RenameEntity,
    RenameField,
    SchemaContract,
    SchemaPolicy,
)
from max.model.mismatches import check_entity
from max.model.query import Page, Query
from max.model.schema import Schema
from max.model.values import Json, Kind
from max.storage.quarantine import Quarantined, quarantined
from max.storage.sqlite import SqliteConnection
from max.storage.table_writer import TableWriter
from max.upstream.credentials import Secret
from tests.contract.places import dump, memory_connection, transaction
from tests.sample import writer
from tests.strategies import ids, samples
from tests.versions import made


class Thing(Entity):
    """A row that may be invalid."""

    name: Field[str] = Field()
    size: Field[int] = Field()
    more: Field[Json] = Field()


class Shelf(Entity):
    """A parent that lists things."""

    things: Many[Thing] = Many()


SCHEMA = Schema([Shelf, Thing], roots=[Shelf])
ASIDE = SchemaPolicy("shelves")
STRICT = SchemaPolicy("shelves", contracts={"Thing": SchemaContract.STRICT})
SHELF = Shelf.ref("a")
BAD: Any = "large"


@pytest.fixture
def connection(either: None) -> Iterator[Any]:
    with memory_connection() as held:
        yield held


def opened(
    connection: SqliteConnection, policy: SchemaPolicy = ASIDE, schema: Schema = SCHEMA
) -> TableWriter:
    """The tables of a connector with a contract for things."""
    tables = writer(schema, policy)
    with transaction(connection):
        tables.apply(connection)
    return tables


def receive(
    connection: SqliteConnection,
    tables: TableWriter,
    *things: Entity,
    at: float = 5.0,
    sync: str = "s",
    **more: Any,
) -> WriteResult:
    """Store a whole listing of the shelf."""
    listing = ListingPage(SHELF, Shelf.things, 0, last=True, began_at=at)
    with transaction(connection):
        return tables.write(connection, Delivery(things, at, listing, sync=sync, **more))


def things(connection: SqliteConnection, tables: TableWriter) -> Sequence[Thing]:
    return tables.fetch(connection, Query(Thing)).items


def reasons(connection: SqliteConnection) -> dict[str, str]:
    """The first invalid field of each quarantined row."""
    return {one.id: one.path for one in quarantined(connection)}


# -- invalid rows -------------------------------------------------------------------------


def test_an_invalid_row_is_quarantined_and_its_page_is_stored(connection: SqliteConnection) -> None:
    tables = opened(connection)
    stored = receive(connection, tables, Thing("1", name="x", size=1), Thing("2", name="y", size=BAD))
    assert stored == WriteResult({"Thing": 1}, quarantined=1)
    assert things(connection, tables) == [Thing("1", name="x", size=1)]
    assert quarantined(connection) == [
        Quarantined(
            "Thing",
            "2",
            "Thing:2.size",
            "an integer of at most 64 bits",
            "'large'",
            ("size",),
            {"id": "2", "name": "y", "size": "large"},
            "s",
            5.0,
        )
    ]


def test_an_invalid_row_with_a_strict_contract_fails_the_page(connection: SqliteConnection) -> None:
    tables = opened(connection, STRICT)
    with pytest.raises(InvalidEntity, match=r"Thing:2\.size"):
        receive(connection, tables, Thing("1", size=1), Thing("2", size=BAD))
    assert things(connection, tables) == []
    assert reasons(connection) == {}


def test_each_entity_of_a_page_has_its_own_contract(connection: SqliteConnection) -> None:
    other = made("Other", {"size": "int"})
    policy = SchemaPolicy("shelves", contracts={"Other": SchemaContract.STRICT})
    tables = opened(connection, policy, Schema([Shelf, Thing, other]))
    with pytest.raises(InvalidEntity, match=r"Other:1\.size"), transaction(connection):
        tables.write(connection, Delivery([Thing("1", size=BAD), other("1", size=BAD)], 5.0))
    assert reasons(connection) == {}


def test_a_secret_is_not_shown(connection: SqliteConnection) -> None:
    tables = opened(connection)
    secret: Any = Secret("hunter2")
    receive(connection, tables, Thing("1", name=secret))
    (one,) = quarantined(connection)
    assert one.actual == "Secret Secret(***)"
    assert not any("hunter2" in line for line in dump(connection))


def test_rows_without_an_id_are_kept_each_once(connection: SqliteConnection) -> None:
    tables = opened(connection)
    nameless: list[Any] = [None, "", 7, "a\0b"]
    for at, sync, new in ((5.0, "s", 4), (6.0, "s", 0), (7.0, "t", 4)):
        found = receive(connection, tables, *(Thing(id, name="x") for id in nameless), at=at, sync=sync)
        assert found.quarantined == new
    assert [one.id for one in quarantined(connection)] == [""] * 4
    assert [one.row["id"] for one in quarantined(connection)].count(7) == 1


def test_a_tombstone_without_a_valid_id_is_kept_and_the_others_are_obeyed(
    connection: SqliteConnection,
) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=1), Thing("2", size=2))
    nameless: list[Any] = ["", None, 2, "\ud800", {"id": "2"}]
    removed = [Thing.ref("1"), *(Thing.ref(id) for id in nameless)]
    with transaction(connection):
        stored = tables.write(connection, Delivery([], 6.0, removed=removed))
    assert (stored.removed, stored.quarantined) == (1, len(nameless))
    assert things(connection, tables) == [Thing("2", size=2)]
    assert {one.path.rpartition(".")[2] for one in quarantined(connection)} == {"id"}


def test_a_row_that_came_along_is_quarantined_too(connection: SqliteConnection) -> None:
    other = made("Other", {"size": "int"})
    tables = opened(connection, schema=Schema([Shelf, Thing, other]))
    stored = receive(connection, tables, Thing("1", size=1), other("1", size=BAD), other("2", size=2))
    assert stored == WriteResult({"Thing": 1, "Other": 1}, quarantined=1)
    assert reasons(connection) == {"1": "Other:1.size"}


def test_the_place_of_an_invalid_value_follows_the_name_of_its_field(connection: SqliteConnection) -> None:
    thing = made("Thing", {"name": "str", "size": "list[int]", "more": "Json"})
    shelf = made("Shelf", {}, things=("Thing", None))
    tables = opened(connection, schema=Schema([shelf, thing], roots=[shelf]))
    with transaction(connection):
        tables.write(connection, Delivery([thing("1", size=[1, "2"])], 5.0))
    item = made("Thing", {"name": "str", "weights": "list[int]", "more": "Json"})
    rack = made("Shelf", {}, things=("Thing", None))
    policy = SchemaPolicy("shelves", (Migration("weights", RenameField("Thing", "size", "weights")),))
    opened(connection, policy, Schema([rack, item], roots=[rack]))
    (one,) = quarantined(connection)
    assert (one.path, one.place, one.actual) == ("Thing:1.weights[1]", "weights[1]", "'2'")


def test_making_a_record_never_fails_for_a_value() -> None:
    odd: list[Any] = [None, "", {}, object(), float("nan"), "\ud800"]
    for value in odd:
        one = Thing(value, name=value, size=value, more=value)
        assert repr(one)
        assert check_entity(one)


@pytest.mark.usefixtures("either")
@settings(max_examples=100)
@given(st.lists(st.tuples(ids, samples, samples), max_size=5, unique_by=lambda one: one[0]))
def test_every_row_is_stored_or_quarantined(
    drawn: list[tuple[str, tuple[Any, frozenset[Kind]], tuple[Any, frozenset[Kind]]]],
) -> None:
    with memory_connection() as connection:
        tables = opened(connection)
        rows = [Thing(id, name=name, size=size) for id, (name, _), (size, _) in drawn]
        stored = receive(connection, tables, *rows)
        found = {one.id for one in things(connection, tables)}
    fits = {id for id, (_, name), (_, size) in drawn if Kind.TEXT in name and Kind.INTEGER in size}
    assert found == fits
    assert stored.quarantined == len(drawn) - len(fits)


@pytest.mark.usefixtures("either")
@settings(max_examples=50)
@given(st.lists(samples, min_size=1, max_size=3))
def test_p12_a_quarantined_row_names_path_expected_and_actual(
    drawn: list[tuple[Any, frozenset[Kind]]],
) -> None:
    with memory_connection() as connection:
        tables = opened(connection)
        receive(connection, tables, *(Thing(str(n), size=value) for n, (value, _) in enumerate(drawn)))
        kept = {one.id: one for one in quarantined(connection)}
    wrong = {str(n) for n, (_, fits) in enumerate(drawn) if Kind.INTEGER not in fits}
    assert kept.keys() == wrong
    assert {one.path for one in kept.values()} == {f"Thing:{id}.size" for id in wrong}
    assert all(one.expected == "an integer of at most 64 bits" and one.actual for one in kept.values())


# -- a row that is stored already --------------------------------------------------------------


def test_a_stored_row_stays_as_it_was_and_is_stale(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", name="x", size=1), at=5.0)
    receive(connection, tables, Thing("1", name="y", size=BAD), at=6.0)
    assert things(connection, tables) == [Thing("1", name="x", size=1)]
    assert tables.freshness.synced_at(connection, Thing.ref("1"), ["name", "size"]) == [None, None]


def test_a_stored_row_is_not_swept(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=1), Thing("2", size=2), at=5.0)
    receive(connection, tables, Thing("1", size=BAD), at=6.0)
    members = tables.collection(connection, SHELF, Shelf.things).items
    assert [one.id for one in members] == ["1"]
    assert connection.execute("SELECT row FROM _max_missing").fetchall() == [(2,)]


# -- leaving -----------------------------------------------------------------------------------


def test_a_row_that_is_valid_again_leaves(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), Thing("2", size=BAD), at=5.0)
    receive(connection, tables, Thing("1", size=1), Thing("2", size=BAD), at=6.0)
    assert reasons(connection) == {"2": "Thing:2.size"}
    assert things(connection, tables) == [Thing("1", size=1)]


def test_a_row_stays_until_every_invalid_field_has_come_again(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", name="x", size=BAD), at=5.0)
    with transaction(connection):
        tables.write(connection, Delivery([Thing("1", name="y")], 6.0))
    assert reasons(connection) == {"1": "Thing:1.size"}
    with transaction(connection):
        tables.write(connection, Delivery([Thing("1", size=3)], 7.0))
    assert reasons(connection) == {}


def test_a_row_that_is_removed_upstream_leaves(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), Thing("2", size=BAD), at=5.0)
    with transaction(connection):
        tables.write(connection, Delivery([], 6.0, removed=[Thing.ref("1")]))
    assert reasons(connection) == {"2": "Thing:2.size"}
    receive(connection, tables, at=7.0)
    assert reasons(connection) == {}


def test_a_listing_of_changes_releases_no_row(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), at=5.0)
    delta = ListingPage(SHELF, Shelf.things, 0, last=True, delta=True, began_at=6.0)
    with transaction(connection):
        tables.write(connection, Delivery([], 6.0, delta))
    assert reasons(connection) == {"1": "Thing:1.size"}


def test_a_listing_of_ids_releases_no_row(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), at=5.0)
    ids_only = ListingPage(SHELF, Shelf.things, 0, last=True, began_at=6.0, ids_only=True)
    with transaction(connection):
        tables.write(connection, Delivery([Thing("1")], 6.0, ids_only))
    assert reasons(connection) == {"1": "Thing:1.size"}


def test_a_row_leaves_that_a_listing_of_ids_names_no_more(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), Thing("2", size=BAD), at=5.0)
    for at, some in ((6.0, [Thing("1"), Thing("2")]), (7.0, [Thing("2")])):
        ids_only = ListingPage(SHELF, Shelf.things, 0, last=True, began_at=at, ids_only=True)
        with transaction(connection):
            tables.write(connection, Delivery(some, at, ids_only))
    assert reasons(connection) == {"2": "Thing:2.size"}


def test_a_row_leaves_with_the_parent_whose_listing_brought_it(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), at=5.0)
    other = ListingPage(Shelf.ref("b"), Shelf.things, 0, last=True, began_at=5.0)
    with transaction(connection):
        tables.write(connection, Delivery([Thing("2", size=BAD)], 5.0, other))
        tables.write(connection, Delivery([], 6.0, removed=[SHELF]))
    assert reasons(connection) == {"2": "Thing:2.size"}


def test_a_row_that_was_requested_later_exists_though_it_is_invalid(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", name="x", size=1), at=5.0)
    receive(connection, tables, Thing("1", name="x", size=BAD), Thing("2", size=BAD), at=20.0)
    gone = [Thing.ref("1"), Thing.ref("2")]
    with transaction(connection):
        tables.write(connection, Delivery([], 10.0, removed=gone, received_at=30.0))
    assert things(connection, tables) == [Thing("1", name="x", size=1)]
    assert reasons(connection) == {"1": "Thing:1.size", "2": "Thing:2.size"}


def test_a_row_of_a_clock_that_was_ahead_leaves_as_others_do(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), at=1e9)
    with transaction(connection):
        tables.prepare(connection, "source", now=100.0, resumes=False)
    receive(connection, tables, at=101.0)
    assert reasons(connection) == {}


def test_an_upgrade_after_which_rows_may_be_valid_lists_them_in_full(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("1", size=BAD), at=5.0)
    thing = made("Thing", {"name": "str", "size": "int | None", "more": "Json"})
    shelf = made("Shelf", {}, things=("Thing", None))
    schema = Schema([shelf, thing], roots=[shelf])

    async def listed(parent: Ref[Any], request: Any, env: Any) -> Page[Any]:
        return Page([])

    brings = [thing.name, thing.size, thing.more]
    loader: CollectionLoader[Any, Any, Any] = Loader.collection(shelf.things, brings=brings)(listed)
    tables = TableWriter(schema, Resolver(schema, [loader]), ASIDE)
    with transaction(connection):
        tables.apply(connection)
    assert tables.membership.listing_state(connection, shelf.ref("a"), shelf.things).listed_at is None


def test_the_values_of_a_row_that_json_cannot_hold_are_shown(connection: SqliteConnection) -> None:
    tables = opened(connection)
    odd: Any = {1, 2}
    receive(connection, tables, Thing("1", name="x", more=odd, size=BAD))
    (one,) = quarantined(connection, entity="Thing", limit=1)
    assert one.row == {"id": "1", "name": "x", "more": "set {1, 2}", "size": "large"}
    assert one.fields == ("size", "more")


# -- migrations --------------------------------------------------------------------------------


def test_quarantined_rows_follow_new_names_and_leave_under_them(connection: SqliteConnection) -> None:
    receive(connection, opened(connection), Thing("1", name="x", size=BAD), at=5.0)
    item = made("Item", {"name": "str", "weight": "int", "more": "Json"})
    rack = made("Rack", {}, items=("Item", None))
    steps: list[MigrationStep] = [
        RenameEntity("Thing", "Item"),
        RenameField("Item", "size", "weight"),
        RenameEntity("Shelf", "Rack"),
        RenameField("Rack", "things", "items"),
    ]
    policy = SchemaPolicy("shelves", (Migration("new names", *steps),))
    tables = opened(connection, policy, Schema([rack, item], roots=[rack]))
    (one,) = quarantined(connection)
    assert (one.entity, one.path, one.fields) == ("Item", "Item:1.weight", ("weight",))
    assert one.row == {"id": "1", "name": "x", "weight": "large"}
    listing = ListingPage(rack.ref("a"), rack.items, 0, last=True, began_at=6.0)
    with transaction(connection):
        tables.write(connection, Delivery([], 6.0, listing))
    assert quarantined(connection) == []


def test_quarantined_rows_follow_ids_that_change_places(connection: SqliteConnection) -> None:
    key = made("Thing", {"name": "str", "size": "int", "more": "Json"})
    tables = opened(connection)
    receive(connection, tables, Thing("a", name="b", size=1), Thing("b", name="a", size=2), at=5.0)
    receive(connection, tables, Thing("a", name="b", size=BAD), Thing("b", name="a", size=BAD), at=6.0)
    policy = SchemaPolicy("shelves", (Migration("keys", ChangeKey("Thing", "name")),), ASIDE.contracts)
    shelf = made("Shelf", {}, things=("Thing", None))
    opened(connection, policy, Schema([shelf, key], roots=[shelf]))
    assert {one.id: one.row["name"] for one in quarantined(connection)} == {"a": "a", "b": "b"}


def test_the_quarantine_of_a_dropped_entity_is_empty(connection: SqliteConnection) -> None:
    receive(connection, opened(connection), Thing("1", size=BAD), at=5.0)
    shelf = made("Shelf", {})
    policy = SchemaPolicy("shelves", (Migration("gone", DropEntity("Thing")),))
    opened(connection, policy, Schema([shelf], roots=[shelf]))
    assert quarantined(connection) == []


def after(connection: SqliteConnection, thing: Any, *steps: MigrationStep, **lists: Any) -> TableWriter:
    """The tables after an upgrade that declares things, and a shelf, otherwise."""
    shelf = made("Shelf", {}, **{"things": ("Thing", None), **lists})
    brings = [getattr(thing, name) for name in thing.types()]

    async def listed(parent: Ref[Any], request: Any, env: Any) -> Page[Any]:
        return Page([])

    loaders = []
    schema = Schema([shelf, thing], roots=[shelf])
    for name in shelf.children():
        loaders.append(Loader.collection(getattr(shelf, name), brings=brings)(listed))
    migrations = (Migration("changed", *steps),) if steps else ()
    policy = SchemaPolicy("shelves", migrations, ASIDE.contracts)
    tables = TableWriter(schema, Resolver(schema, loaders), policy)
    with transaction(connection):
        tables.apply(connection)
    return tables


WITHOUT_SIZE = {"name": "str", "more": "Json"}


def test_a_row_is_not_kept_for_a_dropped_field_and_its_listing_brings_it_again(
    connection: SqliteConnection,
) -> None:
    receive(connection, opened(connection), Thing("1", name="x", size=BAD), at=5.0)
    tables = after(connection, made("Thing", WITHOUT_SIZE), DropField("Thing", "size"))
    assert quarantined(connection) == []
    shelf: Any = tables.schema.entity("Shelf")
    assert tables.membership.listing_state(connection, shelf.ref("a"), shelf.things).listed_at is None


def test_a_row_whose_other_field_is_dropped_stays_without_it(connection: SqliteConnection) -> None:
    odd: Any = 7
    receive(connection, opened(connection), Thing("1", name=odd, size=BAD), at=5.0)
    after(connection, made("Thing", WITHOUT_SIZE), DropField("Thing", "size"))
    (one,) = quarantined(connection)
    assert (one.fields, one.row) == (("name",), {"id": "1", "name": 7})


def test_a_row_leaves_when_its_only_invalid_field_is_no_longer_declared(
    connection: SqliteConnection,
) -> None:
    receive(connection, opened(connection), Thing("1", name="x", size=BAD), at=5.0)
    thing = made("Thing", WITHOUT_SIZE)
    tables = after(connection, thing)
    with transaction(connection):
        tables.write(connection, Delivery([thing("1", name="x")], 6.0))
    assert quarantined(connection) == []


def test_a_row_goes_with_the_collection_that_brought_it(connection: SqliteConnection) -> None:
    receive(connection, opened(connection), Thing("1", size=BAD), at=5.0)
    thing = made("Thing", {"name": "str", "size": "int", "more": "Json"})
    steps: list[MigrationStep] = [DropField("Shelf", "things")]
    after(connection, thing, *steps, things=("Thing", None))
    assert quarantined(connection) == []


def test_a_row_goes_with_the_parent_whose_listing_brought_it(connection: SqliteConnection) -> None:
    shelf = made("Shelf", {"code": "str"}, things=("Thing", None))
    thing = made("Thing", {"name": "str", "size": "int", "more": "Json"})
    schema = Schema([shelf, thing], roots=[shelf])
    tables = opened(connection, schema=schema)
    with transaction(connection):
        tables.write(connection, Delivery([shelf("a", code="x"), shelf("b")], 1.0))
        for at, parent in ((5.0, "a"), (6.0, "b")):
            listing = ListingPage(shelf.ref(parent), shelf.things, 0, last=True, began_at=at)
            tables.write(connection, Delivery([thing(f"of {parent}", size=BAD)], at, listing))
    again = (
        made("Shelf", {"code": "str"}, things=("Thing", None)),
        made("Thing", {"name": "str", "size": "int", "more": "Json"}),
    )
    policy = SchemaPolicy("shelves", (Migration("keys", ChangeKey("Shelf", "code")),), ASIDE.contracts)
    opened(connection, policy, Schema(again, roots=again[:1]))
    assert [one.id for one in quarantined(connection)] == ["of a"]
    assert connection.execute("SELECT parent FROM _max_quarantine").fetchall() == [("x",)]


def test_a_quarantined_row_is_named_by_its_new_id(connection: SqliteConnection) -> None:
    tables = opened(connection)
    receive(connection, tables, Thing("a", name="b", size=1), at=5.0)
    receive(connection, tables, Thing("a", name="b", size=BAD), at=6.0)
    key = made("Thing", {"name": "str", "size": "int", "more": "Json"})
    after(connection, key, ChangeKey("Thing", "name"))
    assert reasons(connection) == {"b": "Thing:b.size"}
