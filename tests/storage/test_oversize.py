"""What Postgres cannot hold: a row that is too large is quarantined, and the rest of its page is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from max.errors import InvalidEntity, SchemaError
from max.model.constructors import write_constructor
from max.model.delivery import Delivery, ListingPage, WriteResult
from max.model.entities import Entity, Field, Many, Ref
from max.model.mapping import by_column
from max.model.query import Query
from max.model.schema import Schema
from max.storage.quarantine import quarantined
from tests.contract.places import is_on_postgres, memory_connection, transaction
from tests.sample import writer
from tests.versions import made

FIELDS = [f"f{number}" for number in range(1_000)]
Wide: Any = made("Wide", dict.fromkeys(FIELDS, "str | None"))


class Box(Entity):
    """Lists things, which may be in another box."""

    things: Many[Thing] = Many()
    held: Many[Thing] = Many(by=lambda: Thing.box)


class Thing(Entity):
    """Something with a name."""

    name: Field[str] = Field()
    box: Field[Ref[Box] | None] = Field()


class Pair(Entity):
    """Names its things itself."""

    things: Many[Thing] = Many(inline="things")


write_constructor(Thing)  # as a sync has it written
SCHEMA = Schema([Box, Thing, Wide], roots=[Box])
LONG_ID = "".join(map(chr, range(0x4E00, 0x4E00 + 700)))  # 2,100 bytes


SHORT, LONG = "x" * 20, "x" * 2_000  # bytes that stay in the row, and that leave a pointer in it
TABLES = writer(SCHEMA)
BOX = Box.ref("a")


@pytest.fixture
def connection(either: None) -> Iterator[Any]:
    with memory_connection() as held:
        with transaction(held):
            TABLES.apply(held)
        yield held


def wide(id: str, number: int, value: str = SHORT) -> Any:
    """A row of which so many fields are filled, the first ones."""
    return Wide(id, **dict.fromkeys(FIELDS[:number], value))


def receive(connection: Any, *entities: Entity, at: float = 5.0, **more: Any) -> WriteResult:
    """Store what one response brought."""
    with transaction(connection):
        return TABLES.write(connection, Delivery(entities, at, sync="s", **more))


def stored(connection: Any, entity: Any) -> dict[str, Any]:
    """The rows of an entity by id."""
    return {one.id: one for one in TABLES.fetch(connection, Query(entity)).items}


def aside(connection: Any) -> list[tuple[str, str]]:
    """The rows in quarantine."""
    return sorted((one.entity, one.id or one.row["id"]) for one in quarantined(connection))


def large(*rows: Any) -> list[Any]:
    """These on Postgres, none elsewhere."""
    return list(rows) if is_on_postgres() else []


# -- rows ---------------------------------------------------------------------------------


def test_a_row_that_is_too_large_costs_no_other_row_of_its_page(connection: Any) -> None:
    rows = [
        wide("many", 400),
        wide("few", 1),
        wide("long", 400, LONG),
        wide("more", 1_000),
        wide("most", 300),
    ]
    found = receive(connection, *rows)
    lost = large(("Wide", "many"), ("Wide", "more"))
    assert aside(connection) == lost
    assert found.quarantined == len(lost)
    assert stored(connection, Wide) == {one.id: one for one in rows if ("Wide", one.id) not in lost}


def test_it_says_what_is_too_large_for_what_and_what_to_do(connection: Any) -> None:
    receive(connection, wide("many", 400))
    expected = (
        "fewer filled fields: those of a row have 8,160 bytes in Postgres, where a long text counts 18"
        " (bring fewer, or keep the project in files)"
    )
    found = [(one.path, one.expected, one.actual) for one in quarantined(connection)]
    assert found == large(("Wide:many.f0", expected, "400"))


def test_a_row_that_grows_by_and_by_stays_as_it_was_and_is_stale(connection: Any) -> None:
    receive(connection, wide("a", 250))
    rest = dict.fromkeys(FIELDS[250:500], SHORT)
    receive(connection, Wide("a", **rest), Wide("b", **rest), at=6.0)
    assert aside(connection) == large(("Wide", "a"))
    found = stored(connection, Wide)
    assert found["a"] == (wide("a", 250) if is_on_postgres() else wide("a", 500))
    assert found["b"] == Wide("b", **rest)


def test_a_row_leaves_the_quarantine_when_it_fits(connection: Any) -> None:
    receive(connection, wide("a", 400))
    receive(connection, wide("a", 400, "short"), at=6.0)
    assert aside(connection) == []
    assert stored(connection, Wide) == {"a": wide("a", 400, "short")}


def test_a_row_that_just_fits_can_be_removed(connection: Any) -> None:
    sizes = [(number, size) for number in range(366, 380) for size in range(0, 20, 4)]
    empty, last = dict.fromkeys(FIELDS), FIELDS[-1]
    rows = [Wide(f"{n}-{k}", **empty | dict.fromkeys(FIELDS[:n], SHORT) | {last: "x" * k}) for n, k in sizes]
    receive(connection, *rows)  # some of them are less than 8 bytes below the limit
    kept = stored(connection, Wide)
    assert 0 < len(kept) < len(rows) if is_on_postgres() else len(kept) == len(rows)
    receive(connection, removed=[Wide.ref(id) for id in kept], at=6.0)
    assert stored(connection, Wide) == {}


def test_what_was_only_tried_is_no_change(connection: Any) -> None:
    tables = writer(SCHEMA)
    with transaction(connection):
        tables.apply(connection)
        tables.change_log.attach(connection, on=True)
        before = tables.change_log.page(connection, "now").cursor
        rows = [wide("many", 400), wide("few", 1), wide("long", 400, LONG)]
        tables.write(connection, Delivery(rows, 5.0, sync="s"))
        changes = tables.change_log.page(connection, before).items
    assert sorted(one.ref.id for one in changes) == sorted({"few", "long", "many"} - {*large("many")})


def test_a_program_that_stores_it_is_refused(connection: Any) -> None:
    delivery = Delivery([wide("a", 400), wide("b", 1)], 5.0)
    if not is_on_postgres():
        assert TABLES.write(connection, delivery, strict=True).counts == {"Wide": 2}
        return
    with (
        pytest.raises(InvalidEntity, match=r"Wide:a\.f0: expected fewer"),
        transaction(connection),
    ):
        TABLES.write(connection, delivery, strict=True)
    assert stored(connection, Wide) == {}


@pytest.mark.parametrize("number", [1_560, 1_580])
def test_an_entity_with_too_many_fields_is_refused(either: None, number: int) -> None:
    wide = made("Wide", {f"f{at}": "int | None" for at in range(number)})
    with memory_connection() as held, transaction(held):
        tables = writer(Schema([wide]))
        if not is_on_postgres() or number == 1_560:
            tables.apply(held)
            tables.write(held, Delivery([wide("1", f1559=3)], 5.0))
            assert tables.count(held, Query(wide)) == 1
            return
        with pytest.raises(
            SchemaError, match=r"Wide has 1,580 fields; with Max's own that are 1,6\d\d columns"
        ):
            tables.apply(held)


# -- ids ----------------------------------------------------------------------------------


def test_an_id_that_is_too_long_costs_no_other_row_of_its_page(connection: Any) -> None:
    rows = [Thing(LONG_ID, name="x", box=None), Thing("1", name="y", box=BOX)]
    rows += [Thing("2", name="z", box=Box.ref(LONG_ID))]
    listing = ListingPage(BOX, Box.things, 0, last=True, began_at=5.0)
    receive(connection, Box("a"))
    found = receive(connection, *rows, listing=listing)
    assert aside(connection) == large(("Thing", "2"), ("Thing", LONG_ID))
    assert found.quarantined == len(large(1, 2))
    assert list(stored(connection, Thing)) == (["1"] if is_on_postgres() else ["1", "2", LONG_ID])


def test_an_id_that_is_too_long_is_called_so(connection: Any) -> None:
    receive(connection, Thing(LONG_ID, name="x", box=None))
    expected = (
        "an id of at most 2,000 bytes, as an index of Postgres holds it (a project in files holds more)"
    )
    assert [one.expected for one in quarantined(connection)] == large(expected)


def test_a_listing_of_ids_with_one_that_is_too_long_is_stored(connection: Any) -> None:
    listing = ListingPage(BOX, Box.things, 0, last=True, began_at=5.0, ids_only=True)
    receive(connection, Box("a"), Thing("1", name="x", box=None))
    receive(connection, Thing("1"), Thing(LONG_ID), listing=listing)
    assert aside(connection) == large(("Thing", LONG_ID))
    assert TABLES.collection(connection, BOX, Box.things).items == [Thing("1", name="x", box=None)]


def test_a_row_that_names_a_member_whose_id_is_too_long_costs_no_other_row(connection: Any) -> None:
    many, one = (
        [Thing(f"{n:0100}", name="x", box=None) for n in range(50)],
        Thing(LONG_ID * 4, name="y", box=None),
    )
    with memory_connection() as held, transaction(held):
        tables = writer(Schema([Box, Thing, Pair], roots=[Box]))
        tables.apply(held)
        tables.write(held, Delivery([Pair("p", things=[*many, one]), Pair("q", things=many)], 5.0))
        assert aside(held) == large(("Pair", "p"), ("Thing", one.id))
        assert tables.collection(held, Pair.ref("q"), Pair.things).items == many
        found = tables.fetch(held, Query(Pair)).items
    assert [row.id for row in found] == (["q"] if is_on_postgres() else ["p", "q"])


def test_a_tombstone_of_an_id_that_is_too_long_costs_no_other_row(connection: Any) -> None:
    ids = LONG_ID * 4, "1"  # longer than an index of Postgres takes
    receive(connection, Thing("1", name="x", box=None), Thing("2", name="x", box=None))
    receive(connection, removed=[Thing.ref(id) for id in ids], at=6.0)
    assert list(stored(connection, Thing)) == ["2"]


def test_deliveries_that_are_stored_together_lose_but_what_is_too_large(connection: Any) -> None:
    rows = Thing("1", name="x", box=None), Thing(LONG_ID, name="y", box=None), Thing("2", name="z", box=None)
    some = [Delivery(by_column([one]), 5.0 + number, sync="s") for number, one in enumerate(rows)]
    with transaction(connection):
        found = TABLES.write_all(connection, some)
    assert [one.quarantined for one in found] == [0, len(large(1)), 0]
    assert sorted(stored(connection, Thing)) == sorted(
        ["1", "2"] if is_on_postgres() else ["1", "2", LONG_ID]
    )
