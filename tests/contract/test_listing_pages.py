"""Pages of a listing that is listed again: one that shows the same children is one line to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from max.model.delivery import Delivery, ListingPage
from max.model.entities import ManyOf
from max.storage.sqlite import MEMORY
from tests.contract.places import Person, Store, Team, place, using

__all__ = ["place"]
TEAM = Team.ref("t")
PEOPLE: ManyOf[Team, Person] = Team.people
NUMBERS = range(70)  # pages of twenty and more are looked up by the numbers of their rows


def person(id: str, name: str) -> Person:
    """A row with all fields that a listing brings."""
    return Person(id, name=name, age=None, active=None, seen=None, born=None, extra=None, boss=None)


class Pass(NamedTuple):
    """What happens before a pass over the team's people, and its pages; it ends with them or breaks off."""

    gone: list[str]
    alone: list[str]
    pages: list[list[str]]
    ends: bool
    repeats: int | None


@st.composite
def passes(draw: st.DrawFn) -> list[Pass]:
    """Passes over a list that changes a little in between, as lists do."""
    size = draw(st.sampled_from([2, 3, 25]))
    listed = [str(number) for number in NUMBERS[: draw(st.sampled_from([5, 60]))]]
    found = []
    for _ in range(draw(st.integers(2, 5))):
        some = st.lists(st.sampled_from(NUMBERS).map(str), max_size=2)
        for id in draw(some):
            listed = [one for one in listed if one != id]
        front, twice = draw(some), draw(some)
        listed = [*dict.fromkeys(front), *(one for one in listed if one not in front)]
        shown = [*listed]
        for id in twice:  # a page may show again what another one has shown, when rows shift
            shown.insert(draw(st.integers(0, len(shown))), id)
        pages = [shown[at : at + size] for at in range(0, len(shown), size)] or [[]]
        ends = draw(st.sampled_from([True, True, True, False]))
        left = len(pages) if ends else draw(st.integers(0, len(pages) - 1))
        repeats = draw(st.none() | st.sampled_from(range(max(left, 1))))
        found.append(Pass(draw(some), draw(some), pages[:left], ends, repeats))
    return found


def times(pages: list[list[str]], repeats: int | None) -> Iterator[tuple[int, list[str]]]:
    """The pages with their numbers; one of them may come twice, as after a crash."""
    for number, ids in enumerate(pages):
        yield number, ids
        if number == repeats:
            yield number, ids


async def check_history(store: Store, history: list[Pass]) -> None:
    """Have the passes happen; after each the members and their ages are what the pages have said."""
    await store.engine.store(Team("t"))
    now, members, age = 0.0, set[str](), dict[str, float]()
    for one in history:
        now += 1.0
        await store.receive(Delivery([], now, removed=[Person.ref(id) for id in one.gone]))
        members -= {*one.gone}
        now += 1.0
        await store.receive(Delivery([person(id, "alone") for id in one.alone], now))
        age |= dict.fromkeys(one.alone, now)
        began, shown = now + 1.0, set[str]()
        for number, ids in times(one.pages, one.repeats):
            now += 1.0
            last = one.ends and number == len(one.pages) - 1
            page = ListingPage(TEAM, PEOPLE, number, last, began)
            rows = [person(id, "listed") for id in dict.fromkeys(ids)]
            await store.receive(Delivery(rows, now, page, received_at=now))
            shown |= {*ids}
            members |= {*ids}
            age |= dict.fromkeys(ids, now)
            if not last:
                found = await store.meta.listing_pass(TEAM, PEOPLE, began)
                assert (found.shown, found.unseen) == (len(shown), not members <= shown)
        members = shown if one.ends else members
        listed = await store.engine.load_collection(TEAM, PEOPLE, limit=1000)
        assert {row.id for row in listed.items} == members
        for id in members:  # what a pass that broke off has not shown may be of any age
            known = await store.meta.synced_at(Person.ref(id), Person.name)
            assert known == age[id] or (known is None and id not in shown), id


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=passes())
@pytest.mark.usefixtures("either")
def test_members_and_their_ages_are_what_the_pages_said(history: list[Pass]) -> None:
    using(MEMORY, lambda store: check_history(store, history))


async def list_pages(store: Store, *pages: Sequence[int], at: float, ends: bool = True) -> None:
    """List people, each page a little later than the one before."""
    for number, ids in enumerate(pages):
        page = ListingPage(TEAM, PEOPLE, number, ends and number == len(pages) - 1, at)
        rows, then = [person(str(id), "listed") for id in ids], at + number / 100
        await store.receive(Delivery(rows, then, page, received_at=then))


async def list_all(store: Store, ids: range, *, size: int, at: float) -> None:
    """List people in pages of a size."""
    await list_pages(store, *(ids[first : first + size] for first in range(0, len(ids), size)), at=at)


async def members(store: Store) -> set[int]:
    """The team's people."""
    listed = await store.engine.load_collection(TEAM, PEOPLE, limit=1000)
    return {int(row.id) for row in listed.items}


async def lines(store: Store, table: str) -> list[str]:
    """The lines of a table, as text."""
    return [line for line in await store.state() if table in line and "CREATE" not in line]


@pytest.mark.parametrize("size", [2, 25])
def test_a_pass_that_shows_the_same_writes_no_member(place: str, size: int) -> None:
    async def body(store: Store) -> None:
        await list_all(store, range(60), size=size, at=10.0)
        before = await lines(store, "_max_membership")
        await list_all(store, range(60), size=size, at=20.0)
        assert len(before) == 60
        assert await lines(store, "_max_membership") == before
        assert (await store.meta.synced_at(Person.ref("0"), Person.name)) == 20.0

    using(place, body)


def test_pages_that_a_listing_has_no_more_leave_no_line(place: str) -> None:
    async def body(store: Store) -> None:
        await list_all(store, range(60), size=10, at=10.0)
        assert len(await lines(store, "_max_listing_page")) == 6
        await list_all(store, range(15), size=10, at=20.0)
        assert len(await lines(store, "_max_listing_page")) == 2
        await store.receive(Delivery([], 30.0, removed=[TEAM]))
        assert await lines(store, "_max_listing_page") == []

    using(place, body)


def test_a_page_that_shows_as_many_others_is_another_one(place: str) -> None:
    async def body(store: Store) -> None:
        await list_all(store, range(60), size=25, at=10.0)
        await list_all(store, range(25, 60), size=25, at=20.0)
        assert await members(store) == {*range(25, 60)}

    using(place, body)


def test_a_page_that_shows_what_it_showed_before_another_pass_broke_off_is_another_one(place: str) -> None:
    async def body(store: Store) -> None:
        await list_all(store, range(25), size=25, at=10.0)
        await list_pages(store, range(25, 50), at=20.0, ends=False)
        await list_pages(store, range(25), at=30.0)
        assert await members(store) == {*range(25)}

    using(place, body)


def test_what_two_pages_have_shown_is_a_member_for_as_long_as_one_of_them_shows_it(place: str) -> None:
    async def body(store: Store) -> None:
        await list_pages(store, [0, 1], [2, 3], at=10.0)
        await list_pages(store, [0, 1], [1, 2], at=20.0)
        assert await members(store) == {0, 1, 2}
        await list_pages(store, [0, 5], [2], at=30.0)
        assert await members(store) == {0, 2, 5}

    using(place, body)


async def age(store: Store, id: str) -> float | None:
    """When the name of someone was last synced."""
    return await store.meta.synced_at(Person.ref(id), Person.name)


def test_who_left_a_page_by_a_listing_of_ids_is_not_as_fresh_as_it(place: str) -> None:
    async def body(store: Store) -> None:
        await list_pages(store, [0, 9], [2, 3], at=10.0)
        for number, ids in enumerate([[0, 2], [9, 3]]):
            page = ListingPage(TEAM, PEOPLE, number, number == 1, 20.0, ids_only=True)
            await store.receive(Delivery([Person(str(id)) for id in ids], 20.0 + number / 100, page))
        await list_pages(store, [0, 2], at=30.0, ends=False)
        assert (await age(store, "0"), await age(store, "9")) == (30.0, None)

    using(place, body)


@pytest.mark.parametrize("how", ["unread", "invalid"])
def test_who_left_a_page_and_could_not_be_read_on_another_is_not_as_fresh_as_it(place: str, how: str) -> None:
    async def body(store: Store) -> None:
        await list_pages(store, [0, 9], [2, 3], at=10.0)
        for at in (20.0, 30.0):
            await list_pages(store, [0, 2], at=at, ends=False)
            page = ListingPage(TEAM, PEOPLE, 1, True, at, unread=["9"] if how == "unread" else [])
            invalid = Person("9", name="listed", age="old")  # type: ignore[arg-type]
            rows = [person("3", "listed"), *([invalid] if how == "invalid" else [])]
            await store.receive(Delivery(rows, at + 0.01, page))
            assert (await age(store, "0"), await age(store, "9")) == (at, None)
        await list_pages(store, [0, 2], at=40.0, ends=False)
        assert (await age(store, "0"), await age(store, "9")) == (40.0, None)

    using(place, body)


def test_a_pass_that_brings_no_values_takes_no_ages(place: str) -> None:
    async def body(store: Store) -> None:
        await list_pages(store, [0, 1, 2], at=10.0)
        await list_pages(store, [0, 1, 2], at=20.0)
        for at in (30.0, 40.0):
            page = ListingPage(TEAM, PEOPLE, 0, False, at, ids_only=True)
            await store.receive(Delivery([Person("0"), Person("1")], at, page))
        assert [await age(store, id) for id in "012"] == [20.0] * 3

    using(place, body)
