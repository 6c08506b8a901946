"""Of two responses for one row, the one requested later wins, whichever arrives first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.model.delivery import Delivery
from max.model.entities import values_of
from max.storage.sqlite import MEMORY
from tests.contract.places import Person, Post, Store, Team, place, using

__all__ = ["place"]

TEAM, OTHER, ANN = Team.ref("t"), Team.ref("o"), Person.ref("1")


@dataclass(frozen=True)
class Response:
    """What one response said about a person: some fields, or that it is gone."""

    at: float
    fields: tuple[tuple[str, Any], ...] = ()
    gone: bool = False
    listed: bool = False  # on a page of a listing

    async def arrive(self, store: Store, number: int) -> None:
        """Store it."""
        if self.gone:
            await store.receive(Delivery([], self.at, removed=[ANN]))
        elif self.listed:
            await store.page(TEAM, Team.people, self.person(), at=self.at, number=number, last=False)
        else:
            await store.receive(Delivery([self.person()], self.at))

    def person(self) -> Person:
        """The person with these fields."""
        return Person("1", **dict(self.fields))


VALUES = st.fixed_dictionaries(
    {}, optional={"name": st.sampled_from("abc"), "age": st.none() | st.integers(0, 9), "score": st.just(1.5)}
).filter(bool)


@st.composite
def responses(draw: st.DrawFn) -> list[Response]:
    """Responses requested at different times, in the order in which they arrive."""
    times = draw(st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True))
    found = []
    for at in times:
        if draw(st.integers(0, 3)) == 0:
            found.append(Response(float(at), gone=True))
        else:
            fields = tuple(sorted(draw(VALUES).items()))
            found.append(Response(float(at), fields, listed=draw(st.booleans())))
    return found


async def seen(store: Store) -> dict[str, Any] | None:
    """The visible fields of the person."""
    found = await store.engine.query(Person).all()
    return {name: value for name, value in values_of(found[0]).items() if name != "id"} if found else None


@pytest.mark.usefixtures("either")
@given(responses())
def test_the_response_to_the_later_request_wins_in_any_order(some: Sequence[Response]) -> None:
    removed = max((one.at for one in some if one.gone), default=0.0)
    after = [one for one in some if not one.gone and one.at > removed]
    truth = {name: value for one in sorted(after, key=lambda one: one.at) for name, value in one.fields}

    async def body(store: Store) -> None:
        for number, one in enumerate(some):
            await one.arrive(store, number)
        found = await seen(store)
        assert (found is None) == (not after)
        if found is not None:  # fields from before a removal may still be stored, or not
            assert {name: value for name, value in found.items() if name in truth} == truth

    using(MEMORY, body)


def test_a_late_response_fills_fields_that_no_later_one_brought(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([Person("1", name="new")], 20.0))
        await store.receive(Delivery([Person("1", name="old", age=7)], 10.0))
        assert await seen(store) == {"name": "new", "age": 7}

    using(place, body)


def test_a_partial_response_never_clears_other_fields(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([Person("1", name="n", age=7)], 10.0))
        await store.receive(Delivery([Person("1", name="m")], 20.0))
        assert await seen(store) == {"name": "m", "age": 7}
        await store.receive(Delivery([Person("1", age=None)], 30.0))
        assert await seen(store) == {"name": "m", "age": None}

    using(place, body)


def test_a_late_page_does_not_restore_a_removed_row(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([Person("1", name="n")], 10.0))
        await store.receive(Delivery([], 30.0, removed=[ANN]))
        await store.page(TEAM, Team.people, Person("1", name="n"), at=20.0)
        assert await seen(store) is None
        assert not (await store.engine.load_collection(TEAM, Team.people)).items

    using(place, body)


def test_a_late_page_does_not_restore_a_row_removed_twice(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([], 10.0, removed=[ANN]))
        await store.receive(Delivery([], 30.0, removed=[ANN]))
        await store.receive(Delivery([Person("1", name="n")], 20.0))
        assert await seen(store) is None

    using(place, body)


def test_a_late_tombstone_does_not_remove_a_row_that_a_later_response_brought(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([Person("1", name="n")], 20.0))
        stored = await store.receive(Delivery([], 10.0, removed=[ANN]))
        assert (stored.removed, await seen(store)) == (0, {"name": "n"})

    using(place, body)


def test_a_later_response_restores_a_removed_row(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([], 10.0, removed=[ANN]))
        await store.receive(Delivery([Person("1", name="n")], 20.0))
        assert await seen(store) == {"name": "n"}

    using(place, body)


def test_a_row_that_returns_elsewhere_is_not_in_its_old_listing(place: str) -> None:
    async def body(store: Store) -> None:
        await store.page(TEAM, Team.people, Person("1", name="n"), at=10.0)
        await store.receive(Delivery([], 20.0, removed=[ANN]))
        await store.page(OTHER, Team.people, Person("1", name="n"), at=30.0, delta=True)
        assert not (await store.engine.load_collection(TEAM, Team.people)).items
        assert len((await store.engine.load_collection(OTHER, Team.people)).items) == 1

    using(place, body)


def test_each_row_of_a_page_is_compared_by_itself(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([Person("1", name="new")], 20.0))
        await store.page(TEAM, Team.people, Person("1", name="old"), Person("2", name="old"), at=10.0)
        names = {one.id: one.name for one in await store.engine.query(Person).all()}
        assert names == {"1": "new", "2": "old"}
        assert len((await store.engine.load_collection(TEAM, Team.people)).items) == 2

    using(place, body)


def test_a_row_without_a_time_is_older_than_any_response(place: str) -> None:
    async def body(store: Store) -> None:
        await store.engine.store(Person("1", name="undated"))
        await store.receive(Delivery([Person("1", name="dated")], 1.0))
        assert await seen(store) == {"name": "dated"}

    using(place, body)


def test_the_latest_request_is_known_to_a_clock_that_was_set_back(place: str) -> None:
    async def body(store: Store) -> None:
        assert await store.meta.prepare("", now=50.0) == 0.0
        await store.receive(Delivery([Person("1", name="n")], 20.0))
        assert await store.meta.prepare("", now=50.0) == 20.0
        await store.page(TEAM, Team.people, at=30.0)
        assert await store.meta.prepare("", now=50.0) == 30.0  # by an empty listing
        await store.receive(Delivery([], 40.0, removed=[ANN]))
        assert await store.meta.prepare("", now=50.0) == 40.0

    using(place, body)


def test_a_row_that_another_account_removed_returns_though_the_clock_is_set_back(place: str) -> None:
    async def body(store: Store) -> str:
        await store.meta.prepare("one", now=10_000.0)
        await store.page(TEAM, Team.people, Person("1", name="Ann"), at=9_980.0)
        await store.receive(Delivery([], 9_990.0, removed=[ANN]))
        await store.meta.prepare("another", now=10_000.0)
        hour_back = 6_400.0
        latest = await store.meta.prepare("another", now=hour_back)
        at = max(latest, hour_back) + 1.0
        await store.page(OTHER, Team.people, Person("2", name="Bob"), at=at + 1.0)  # it overtook the next
        await store.page(TEAM, Team.people, Person("1", name="Ann"), at=at)
        return (await store.engine.load(ANN)).name

    assert using(place, body) == "Ann"


def test_a_late_response_replaces_what_was_marked_as_stale(place: str) -> None:
    async def body(store: Store) -> str:
        await store.receive(Delivery([Post("1", title="stale", team=TEAM)], 20.0))
        await store.meta.invalidate([Post.ref("1")], ["title"], at=30.0)
        await store.receive(Delivery([Post("1", title="late", team=TEAM)], 15.0))
        return (await store.engine.load(Post.ref("1"))).title

    assert using(place, body) == "late"


def test_a_late_response_replaces_no_part_of_a_later_one_that_brought_more(place: str) -> None:
    async def body(store: Store) -> str:
        await store.receive(Delivery([Post("1", title="first")], 10.0))
        await store.receive(Delivery([Post("1", title="later", team=TEAM)], 20.0))
        await store.receive(Delivery([Post("1", title="late")], 15.0))
        return (await store.engine.load(Post.ref("1"))).title

    assert using(place, body) == "later"
