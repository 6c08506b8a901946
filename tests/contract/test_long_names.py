"""Names that are longer than the 63 bytes that Postgres has for one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from max.engine import DatabaseEngine
from max.model.entities import Entity, Field, Many, Ref
from max.model.schema import Schema
from max.storage.users_own import users_own
from tests.contract.places import Store, database_at, place, using

__all__ = ["place"]


class Desk(Entity):
    """What items lie on; the index of the collection has a longer name still."""

    items: Many[Item] = Many(by=lambda: Item.a_name_of_more_than_the_sixty_three_bytes_of_a_name_there_c)


class Item(Entity):
    """Two of its names differ at their very end."""

    a_name_of_more_than_the_sixty_three_bytes_of_a_name_there_a: Field[str] = Field()
    a_name_of_more_than_the_sixty_three_bytes_of_a_name_there_b: Field[str] = Field()
    a_name_of_more_than_the_sixty_three_bytes_of_a_name_there_c: Field[Ref[Desk]] = Field()


A, B, C = Item.types()


def test_two_long_names_that_differ_at_their_end_are_two_fields_also_when_opened_again(place: str) -> None:
    if place == ":memory:":
        pytest.skip("it cannot be opened again")
    schema = Schema([Desk, Item], roots=[Desk])

    async def store(store: Store, id: str) -> None:
        values: dict[str, Any] = {A: f"{id}, one", B: f"{id}, two", C: Desk.ref("d")}
        await store.engine.store(Item(id, **values))
        await cast(DatabaseEngine, store.engine).tidy(1.0)

    async def ask(store: Store) -> list[tuple[str, str]]:
        found = await store.engine.query(Item).order_by(f"-{B}").all()
        return [(getattr(one, A), getattr(one, B)) for one in found]

    using(place, lambda one: store(one, "x"), schema)
    using(place, lambda one: store(one, "y"), schema)
    assert using(place, ask, schema) == [("y, one", "y, two"), ("x, one", "x, two")]
    with database_at(place).reader() as connection:
        assert [one for one in users_own(connection) if one.kind != "table"] == []
