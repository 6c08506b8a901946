"""Two responses whose requests were under way together: which is newer is not known, and nothing is lost."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.model.delivery import DeletionScope, Delivery, FeedPage, KnownPage, ListingPage
from max.model.entities import Entity, Ref
from max.storage.sqlite import MEMORY
from tests.contract.places import Person, Store, Team, place, using

__all__ = ["place"]

RED, BLUE, ANN = Team.ref("red"), Team.ref("blue"), Person.ref("1")


def person(name: str, age: int = 7) -> Person:
    """Ann, under a name."""
    return Person("1", name=name, age=age)


def part(name: str, whole: bool, id: str = "1") -> Person:
    """Ann, or another, with all fields that arrive together, or with some of them."""
    if not whole:
        return Person(id, name=name, age=7)
    return Person(id, name=name, age=7, active=None, seen=None, born=None, boss=None, extra={})


async def full(store: Store, team: Ref[Team], *people: Person, asked: float, came: float) -> None:
    """The only page of a pass over everything."""
    listing = ListingPage(team, Team.people, 0, True, asked, bookmark=f"{team.id} {came}")
    await store.receive(Delivery(people, asked, listing, received_at=came))


async def listed(
    store: Store, team: Ref[Team], *people: Person, asked: float, came: float, began: float | None = None
) -> None:
    """The only page of a pass that asks for changes; the bookmark moves."""
    pass_began = asked if began is None else began
    listing = ListingPage(team, Team.people, 0, True, pass_began, delta=True, bookmark=f"{team.id} {came}")
    await store.receive(Delivery(people, asked, listing, received_at=came))


async def followed(store: Store, *some: Entity, asked: float, came: float, **more: Any) -> None:
    """A page of a feed, which is its last one."""
    feed = FeedPage(Person.ref("all"), "changes", True, "token", asked)
    await store.receive(Delivery(some, asked, changes=feed, received_at=came, **more))


async def loaded(store: Store, *some: Entity, asked: float, came: float, **more: Any) -> None:
    """The answer to a request for one row."""
    await store.receive(Delivery(some, asked, received_at=came, **more))


async def bookmark(store: Store, team: Ref[Team]) -> str | None:
    """From where the next pass goes on; None when it is of everything."""
    return (await store.meta.listing_state(team, Team.people)).bookmark


async def stale(store: Store) -> set[str]:
    """The fields of Ann that are to be fetched again."""
    return {field.name for field in await store.meta.stale(ANN, [Person.name, Person.age], before=0.5)}


class TestALaterRequestThatIsAnsweredAfterAPageOfAListing:
    """The page came after this request had begun, and may be newer, though it was asked for earlier."""

    def test_wins_and_both_listings_are_read_in_full(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("new"), asked=10.0, came=30.0)
            await listed(store, BLUE, person("old"), asked=20.0, came=40.0)
            marks = [await bookmark(store, team) for team in (RED, BLUE)]
            return (await store.engine.load(ANN)).name, marks, await stale(store)

        assert using(place, body) == ("old", [None, None], set())

    def test_leaves_the_listing_alone_where_both_say_the_same(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("same"), asked=10.0, came=30.0)
            await listed(store, BLUE, person("same"), asked=20.0, came=40.0)
            return await bookmark(store, RED), await bookmark(store, BLUE), await stale(store)

        assert using(place, body) == ("red 30.0", "blue 40.0", set())

    def test_leaves_it_alone_where_it_was_asked_for_after_the_page_had_come(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("old"), asked=10.0, came=30.0)
            await listed(store, BLUE, person("new"), asked=30.0, came=40.0)
            return await bookmark(store, RED), await stale(store)

        assert using(place, body) == ("red 30.0", set())

    @pytest.mark.parametrize("late", ["a row by itself", "a row that came along", "a page of a feed"])
    def test_is_of_any_kind(self, place: str, late: str) -> None:
        async def body(store: Store) -> str | None:
            await listed(store, RED, person("new"), asked=10.0, came=30.0)
            if late == "a row by itself":
                await loaded(store, person("old"), asked=20.0, came=40.0)
            elif late == "a page of a feed":
                await followed(store, person("old"), asked=20.0, came=40.0)
            else:
                listing = ListingPage(RED, Team.posts, 0, True, 20.0)
                await store.receive(Delivery([], 20.0, listing, received_at=40.0, also=[person("old")]))
            return await bookmark(store, RED)

        assert using(place, body) is None

    def test_counts_for_the_fields_that_the_page_brought(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("same"), asked=10.0, came=30.0)
            await loaded(store, Person("1", score=1.5), asked=5.0, came=6.0)
            await loaded(store, Person("1", score=2.5), asked=20.0, came=40.0)
            return await bookmark(store, RED), await store.meta.synced_at(ANN, Person.score)

        assert using(place, body) == ("red 30.0", 20.0)

    def test_counts_for_a_field_that_only_some_rows_of_the_page_had(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("same", age=8), Person("2", name="x"), asked=10.0, came=30.0)
            await loaded(store, person("same", age=7), asked=20.0, came=40.0)
            return await bookmark(store, RED), await stale(store)

        assert using(place, body) == (None, set())

    def test_is_compared_with_the_page_that_came_last(self, place: str) -> None:
        async def body(store: Store) -> str | None:
            await listed(store, RED, person("old"), asked=10.0, came=15.0)
            await listed(store, RED, person("new"), asked=16.0, came=30.0)
            await loaded(store, person("old"), asked=20.0, came=40.0)
            return await bookmark(store, RED)

        assert using(place, body) is None

    def test_is_seen_among_others_that_are_stored_with_it(self, place: str) -> None:
        async def body(store: Store) -> str | None:
            others = [Person(str(number), name="x") for number in range(2, 30)]
            await listed(store, RED, person("new"), *others, asked=10.0, came=30.0)
            later = [person("old"), *(Person(one.id, name="y") for one in others)]
            await listed(store, BLUE, *later, asked=20.0, came=40.0)
            return await bookmark(store, RED)

        assert using(place, body) is None

    def test_leaves_the_listing_alone_whatever_kinds_of_values_both_have(self, place: str) -> None:
        values: dict[str, Any] = {
            "name": "é\u0000\n'",
            "age": 2**53,
            "score": 1 / 3,
            "active": True,
            "seen": datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            "born": date(2030, 1, 2),
            "extra": {"b": [1, 1.5, None, "é"], "a": {}},
            "boss": Person.ref("2"),
        }

        async def body(store: Store) -> tuple[Any, ...]:
            for sign in (1, -1):  # one group of fields alone, and all of them
                await listed(store, RED, Person("1", **values), asked=10.0 * sign + 20, came=45.0)
                names = [*values][::sign][:7]
                same = Person("1", **{name: values[name] for name in names})
                await listed(store, BLUE, same, asked=40.0, came=46.0)
                await loaded(store, Person("1", **values), asked=41.0, came=47.0)
            return await bookmark(store, RED), await bookmark(store, BLUE), await stale(store)

        assert using(place, body) == ("red 45.0", "blue 46.0", set())

    def test_is_seen_where_the_field_was_stale_when_the_page_came(self, place: str) -> None:
        async def body(store: Store) -> str | None:
            await listed(store, RED, person("old"), asked=1.0, came=2.0)
            await store.meta.invalidate([ANN], ["name"], at=15.0)
            await listed(store, RED, Person("1", name="older"), asked=10.0, came=30.0)
            await listed(store, RED, asked=31.0, came=32.0)
            full = ListingPage(RED, Team.people, 0, True, 33.0, bookmark="full")
            await store.receive(Delivery([], 33.0, full.replace(sweeps=False), received_at=34.0))
            await loaded(store, Person("1", name="old"), asked=20.0, came=40.0)
            return await bookmark(store, RED)

        assert using(place, body) is None

    def test_leaves_it_alone_where_only_the_order_of_keys_in_json_differs(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, Person("1", extra={"a": 1, "b": [2]}), asked=10.0, came=30.0)
            await listed(store, BLUE, Person("1", extra={"b": [2], "a": 1}), asked=20.0, came=40.0)
            return await bookmark(store, RED), await bookmark(store, BLUE)

        assert using(place, body) == ("red 30.0", "blue 40.0")

    def test_counts_no_more_once_the_listing_was_read_in_full(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("new"), asked=10.0, came=30.0)
            await loaded(store, person("old"), asked=20.0, came=40.0)
            await full(store, RED, person("new"), asked=50.0, came=60.0)
            return (await store.engine.load(ANN)).name, await bookmark(store, RED), await stale(store)

        assert using(place, body) == ("new", "red 60.0", set())


def test_a_change_that_a_feed_named_is_not_lost_to_an_older_answer(place: str) -> None:
    async def body(store: Store) -> tuple[Any, ...]:
        await listed(store, BLUE, person("old"), asked=1.0, came=2.0)
        await followed(store, person("new"), asked=10.0, came=30.0)
        await loaded(store, person("old"), asked=20.0, came=40.0)
        return await bookmark(store, BLUE), await stale(store)

    assert using(place, body) == (None, set())


def test_a_row_in_no_listing_is_fetched_again(place: str) -> None:
    async def body(store: Store) -> set[str]:
        await loaded(store, person("old"), asked=20.0, came=25.0)
        await followed(store, person("new"), asked=10.0, came=30.0)
        return await stale(store)

    assert using(place, body) == {"name", "age"}


def test_what_no_listing_brings_is_fetched_again(place: str) -> None:
    async def body(store: Store) -> list[str]:
        await followed(store, Team("red", order="new"), asked=10.0, came=30.0)
        await loaded(store, Team("red", order="old"), asked=20.0, came=40.0)
        return [field.name for field in await store.meta.stale(RED, [Team.order], before=0.5)]

    assert using(place, body) == ["order"]


def test_a_page_that_is_listed_again_is_asked_for_whatever_its_validators_say(place: str) -> None:
    async def body(store: Store) -> list[bool]:
        known = KnownPage("key", {"": ("validator",)})
        listing = ListingPage(RED, Team.people, 0, True, 10.0, known=known)
        await store.receive(Delivery([person("new")], 10.0, listing, received_at=30.0))
        has_known = [(await store.meta.listing_state(RED, Team.people)).has_known]
        await loaded(store, person("old"), asked=20.0, came=40.0)
        return [*has_known, (await store.meta.listing_state(RED, Team.people)).has_known]

    assert using(place, body) == [True, False]


class TestAnEarlierRequest:
    """Its answer, when it comes last, replaces nothing."""

    def test_for_a_row_by_itself_has_nothing_listed_again(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("new"), asked=20.0, came=30.0)
            await loaded(store, person("old"), asked=10.0, came=40.0)
            return (await store.engine.load(ANN)).name, await bookmark(store, RED)

        assert using(place, body) == ("new", "red 30.0")

    def test_by_a_listing_has_it_read_in_full(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, RED, person("new"), asked=20.0, came=30.0)
            await listed(store, BLUE, person("old"), asked=10.0, came=40.0)
            return (await store.engine.load(ANN)).name, await bookmark(store, BLUE)

        assert using(place, body) == ("new", None)


def test_two_answers_without_a_bookmark_have_nothing_listed_again(place: str) -> None:
    async def body(store: Store) -> tuple[Any, ...]:
        await listed(store, BLUE, person("first"), asked=1.0, came=2.0)
        await loaded(store, Person("2", name="another"), asked=25.0, came=28.0)
        for asked, name in ((10.0, "earlier"), (20.0, "later")):
            posts = ListingPage(RED, Team.posts, 0, True, asked)
            await store.receive(Delivery([], asked, posts, received_at=asked + 20, also=[person(name)]))
        return (await store.engine.load(ANN)).name, await bookmark(store, BLUE)

    assert using(place, body) == ("later", "blue 2.0")


@pytest.mark.parametrize("whole", [True, False], ids=["whole rows", "parts of rows"])
class TestThreeRequestsThatOverlap:
    """A response in between that says the same as the page does not make it forgotten."""

    def test_the_one_in_between_came_after_the_page(self, place: str, whole: bool) -> None:
        async def body(store: Store) -> str | None:
            await listed(store, RED, part("new", whole), asked=10.0, came=30.0)
            await loaded(store, part("new", whole), asked=20.0, came=35.0)
            await loaded(store, part("old", whole), asked=25.0, came=40.0)
            return await bookmark(store, RED)

        assert using(place, body) is None

    def test_the_one_in_between_came_before_the_page(self, place: str, whole: bool) -> None:
        async def body(store: Store) -> str | None:
            await listed(store, RED, part("new", whole), asked=1.0, came=2.0)
            await loaded(store, part("new", whole), asked=20.0, came=28.0)
            await listed(store, RED, part("new", whole), asked=10.0, came=30.0)
            await loaded(store, part("old", whole), asked=25.0, came=40.0)
            return await bookmark(store, RED)

        assert using(place, body) is None


@pytest.mark.parametrize("whole", [True, False], ids=["whole rows", "parts of rows"])
def test_a_value_that_goes_there_and_back_is_not_lost_to_one_that_saw_it_between(
    place: str, whole: bool
) -> None:
    async def body(store: Store) -> str | None:
        await loaded(store, part("one", whole), asked=20.0, came=22.0)
        await listed(store, RED, part("one", whole), asked=10.0, came=30.0)  # answered last
        await loaded(store, part("two", whole), asked=25.0, came=40.0)
        return await bookmark(store, RED)

    assert using(place, body) is None


def test_another_pass_of_the_page_without_the_row_says_nothing_of_it(place: str) -> None:
    async def body(store: Store) -> list[str | None]:
        await full(store, RED, part("old", whole=True), asked=1.0, came=2.0)
        await full(store, RED, part("x", whole=True, id="2"), asked=10.0, came=30.0)
        await full(store, BLUE, part("new", whole=True), asked=20.0, came=40.0)
        return [await bookmark(store, team) for team in (RED, BLUE)]

    assert using(place, body) == ["red 30.0", "blue 40.0"]


@pytest.mark.parametrize("whole", [True, False], ids=["whole rows", "parts of rows"])
def test_a_page_that_came_when_the_clock_was_ahead_overlaps_with_nothing_now(place: str, whole: bool) -> None:
    async def body(store: Store) -> tuple[Any, ...]:
        await listed(store, RED, part("new", whole), asked=10.0, came=9_000.0)
        await store.meta.prepare("", now=1_000.0)
        await listed(store, BLUE, part("x", whole, id="2"), asked=1_000.5, came=1_003.0)
        await loaded(store, part("newer", whole), asked=1_001.0, came=1_004.0)
        water = [line for line in await store.state() if "_max_high_water" in line and "9000" in line]
        return await bookmark(store, RED), water

    assert using(place, body) == ("red 9000.0", [])


class TestATombstone:
    """What an overlapping page contradicts may be older or newer: the row is looked for."""

    def test_removes_what_was_known_before_it_was_asked_for(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, BLUE, person("there"), asked=1.0, came=2.0)
            await followed(store, asked=10.0, came=30.0, removed=[ANN])
            return await store.engine.query(Person).count(), await bookmark(store, BLUE)

        assert using(place, body) == (0, "blue 2.0")

    def test_removes_what_came_with_it(self, place: str) -> None:
        async def body(store: Store) -> int:
            await followed(store, person("last"), asked=10.0, came=30.0, removed=[ANN])
            await followed(store, part("last", whole=True), asked=40.0, came=50.0, removed=[ANN])
            return await store.engine.query(Person).count()

        assert using(place, body) == 0

    @pytest.mark.parametrize("asked", [5.0, 20.0], ids=["before it", "after it"])
    def test_removes_nothing_that_a_page_has_shown_meanwhile(self, place: str, asked: float) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, BLUE, person("there"), asked=asked, came=30.0)
            await followed(store, asked=10.0, came=40.0, removed=[ANN])
            return await store.engine.query(Person).count(), await bookmark(store, BLUE)

        assert using(place, body) == (1, None)

    def test_holds_against_a_page_that_was_asked_for_before_it_came(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, BLUE, person("there"), asked=1.0, came=2.0)
            await followed(store, asked=10.0, came=30.0, removed=[ANN])
            await listed(store, BLUE, person("there"), asked=20.0, came=40.0)
            return await store.engine.query(Person).count(), await bookmark(store, BLUE)

        assert using(place, body) == (0, None)

    def test_is_not_what_a_difference_in_values_means(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await loaded(store, person("old"), asked=10.0, came=30.0)
            await listed(store, BLUE, Person("2"), asked=15.0, came=35.0)
            await followed(store, person("new"), asked=20.0, came=40.0)
            scope = DeletionScope(["Team.people"], ["changes"], 50.0)
            return await store.engine.query(Person).count(), await store.meta.deletion_candidates(scope)

        assert using(place, body) == (2, [])

    def test_does_not_hold_against_a_feed_which_names_a_row_once(self, place: str) -> None:
        async def body(store: Store) -> tuple[Any, ...]:
            await listed(store, BLUE, person("there"), asked=1.0, came=2.0)
            await loaded(store, asked=10.0, came=30.0, removed=[ANN])
            await followed(store, person("back"), asked=20.0, came=40.0)
            scope = DeletionScope(["Team.people"], ["changes"], 50.0)
            missing = [one.missing for one in await store.meta.deletion_candidates(scope)]
            return await store.engine.query(Person).count(), missing

        assert using(place, body) == (1, [1])


def test_a_doubt_of_an_earlier_time_leaves_the_later_one(place: str) -> None:
    async def body(store: Store) -> str | None:
        await listed(store, RED, person("new"), asked=10.0, came=30.0)
        await listed(store, RED, person("new"), asked=35.0, came=45.0)
        full = ListingPage(RED, Team.people, 0, False, 50.0, bookmark="full")
        await store.receive(Delivery([person("full")], 50.0, full, received_at=60.0))
        await loaded(store, person("older"), asked=55.0, came=70.0)
        await listed(store, BLUE, asked=56.0, came=57.0)
        await followed(store, asked=40.0, came=49.0, removed=[ANN])
        end = full.replace(number=1, last=True)
        await store.receive(Delivery([], 75.0, end, received_at=80.0))
        return await bookmark(store, RED)

    assert using(place, body) is None


Answer = tuple[int, int, int, str]  # when it was asked for, how much later it was made and came, which team


@st.composite
def answers(draw: st.DrawFn) -> list[Answer]:
    """Requests for one row by two listings, and by itself; each asks again when its answer has come."""
    found: list[Answer] = []
    for team in ("red", "blue", "no listing"):
        at = 0
        for _ in range(draw(st.integers(1, 3))):
            asked = at + draw(st.integers(1, 4))
            made = asked + draw(st.integers(0, 4))
            at = made + draw(st.integers(0, 4))
            found.append((asked, made, at, team))
    return sorted(found, key=lambda one: one[2])


@pytest.mark.usefixtures("either")
@given(answers(), st.integers(0, 20), st.booleans())
def test_after_the_last_answer_the_copy_is_right_or_a_listing_is_read_in_full(
    some: list[Answer], changed: int, whole: bool
) -> None:
    async def body(store: Store) -> tuple[str, set[str | None]]:
        for asked, made, came, team in some:
            row = part("new" if made >= changed else "old", whole)
            if team == "no listing":
                await loaded(store, row, asked=float(asked), came=float(came))
            else:
                await listed(store, Team.ref(team), row, asked=float(asked), came=float(came))
        marks = {await bookmark(store, team) for team in (RED, BLUE)}
        return (await store.engine.load(ANN)).name, marks

    name, marks = using(MEMORY, body)
    truth = "new" if any(made >= changed for _, made, _, team in some if team != "no listing") else "old"
    assert name in (truth, "new") or None in marks
