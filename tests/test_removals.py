"""Removals: rows deleted upstream are hidden, no others are, and suspicious removals need permission."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import (
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Installation,
    Loader,
    Many,
    NoConfig,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
)
from max.core import SyncOptions
from max.model.settings import Settings
from max.model.tasks import Status, SyncResult
from max.testing import runtime
from tests.contract.places import database_at, lasting_place
from tests.upstream_model import EPOCH, ROOT, TAGS, Box, Group, Item, Root, Tag, Upstream
from tests.upstream_world import RIGHT, Event, History, Sync, World, live, play

pytestmark = pytest.mark.usefixtures("either")
LOOSE, BOXES, ITEMS, GROUPS = map(repr, (Group.loose, Group.boxes, Box.items, Root.groups))
Body = Callable[[World], Awaitable[None]]


def furnish(upstream: Upstream, groups: int = 2, items: int = 0) -> None:
    """Some groups, with loose items in the first of them."""
    for number in range(groups):
        upstream.create(Group, f"g{number}", (GROUPS, ROOT.id))
    for number in range(items):
        upstream.create(Item, f"i{number:02}", (LOOSE, "g0"))


async def synced(world: World, sync: Sync = Sync()) -> SyncResult:  # noqa: B008  # it is never changed
    """The result of one sync that was not killed."""
    result = await world.sync(sync)
    assert result is not None
    return result


async def ids(world: World) -> set[str]:
    """The visible items."""
    rows, _ = await world.state()
    return {row.split("id=")[1].split(",")[0] for row in rows["Item"]}


async def members(world: World) -> set[str]:
    """The loose items of each group."""
    return (await world.state())[1][LOOSE]


def asked(world: World) -> Counter[str]:
    """The requests since the last call, by collection and parent."""
    requests, world.requests = world.requests, []
    return Counter(f"{one.name} {one.parent}" for one in requests)


# -- parents -------------------------------------------------------------------------------------


def test_a_row_that_loses_one_of_several_parents_stays() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Item, "i", (LOOSE, "g0"), (LOOSE, "g1"))
        await synced(world)
        world.upstream.begin()
        world.upstream.put("i", {(LOOSE, "g1")})
        result = await synced(world)
        assert (result.status, result.removed) == (Status.COMPLETED, 0)
        assert (await ids(world), await members(world)) == ({"i"}, {"g1/i"})

    play(body)


def test_a_row_that_loses_all_parents_is_removed() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Item, "i", (LOOSE, "g0"), (LOOSE, "g1"))
        await synced(world)
        world.upstream.delete("i")
        result = await synced(world)
        assert (result.status, result.removed, await ids(world)) == (Status.COMPLETED, 1, set())

    play(body)


@pytest.mark.parametrize(("before", "after"), [("g0", "g1"), ("g1", "g0")])
def test_a_row_that_moves_to_another_parent_is_never_removed(before: str, after: str) -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Item, "i", (LOOSE, before))
        await synced(world)
        world.upstream.begin()
        world.upstream.put("i", {(LOOSE, after)})
        assert (await synced(world)).removed == 0
        assert await members(world) == {f"{after}/i"}

    play(body)


def test_a_row_in_another_kind_of_collection_stays() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "i", (LOOSE, "g0"), (ITEMS, "b"))
        await synced(world)
        world.upstream.begin()
        world.upstream.put("i", {(ITEMS, "b")})
        assert (await synced(world)).removed == 0
        assert (await ids(world), await members(world)) == ({"i"}, set())

    play(body)


def test_children_go_with_their_parent_unless_another_parent_has_them() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "inside", (ITEMS, "b"))
        world.upstream.create(Item, "both", (ITEMS, "b"), (LOOSE, "g1"))
        await synced(world)
        world.upstream.delete("g0")
        result = await synced(world)
        assert (result.status, result.failures, result.removed) == (Status.COMPLETED, (), 3)
        assert await world.state() == world.upstream.state()

    play(body)


def test_a_row_that_is_there_when_it_is_asked_for_outlives_its_only_parent() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "i", (ITEMS, "b"))
        await synced(world)
        world.upstream.put("i", set())
        world.upstream.delete("b")
        assert ((await synced(world)).removed, await ids(world)) == (1, {"i"})
        assert ((await synced(world)).removed, await ids(world)) == (0, {"i"})
        world.upstream.delete("i")
        assert ((await synced(world)).removed, await ids(world)) == (1, set())

    play(body, nicks=("listed", "listed", "one", "listed"))


@pytest.mark.parametrize("items", ["full", "offset", "counted"])
def test_a_row_that_another_listing_shows_no_longer_names_the_parent_that_it_has_left(items: str) -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "before", (LOOSE, "g0"), (ITEMS, "b"))
        world.upstream.create(Item, "since", (ITEMS, "b"))
        await synced(world)
        assert await world.state() == world.upstream.state()
        world.upstream.begin()
        for id in ("before", "since"):
            world.upstream.put(id, {(LOOSE, "g0")})
        await synced(world)
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, items=items, narrow=True)


def test_a_row_that_outlives_its_parent_no_longer_names_it() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "i", (ITEMS, "b"), (LOOSE, "g1"))
        await synced(world)
        world.upstream.delete("b")
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, narrow=True)


def test_a_row_that_returns_to_the_parent_that_lost_it_names_it_again() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        await synced(world)
        world.upstream.delete("b")
        world.forbidden.add("g1")  # so that it may be there
        assert (await synced(world)).removed == 0
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.forbidden.clear()
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body)


def test_a_row_that_returns_without_its_parent_does_not_name_the_one_that_it_had() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "i", (ITEMS, "b"))
        await synced(world)
        world.upstream.delete("i")
        assert (await synced(world)).removed == 1
        world.upstream.create(Item, "i", (LOOSE, "g0"))
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, narrow=True)


def test_a_parent_that_a_response_names_while_its_listing_is_read_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "i", (LOOSE, "g0"), (ITEMS, "b"))
        await synced(world)
        world.upstream.begin()
        world.upstream.put("i", {(LOOSE, "g0")})
        answers, page = [], world.upstream.page

        def meanwhile(many: Any, parent: Any, request: Any) -> Page[Any]:
            if many == Box.items:
                item = Item("i", title="t", box=Ref(Box, "b"), changed=EPOCH)
                storing = world.engine.store(item, requested_at=world.clock())
                answers.append(asyncio.create_task(storing))
            return page(many, parent, request)

        monkeypatch.setattr(world.upstream, "page", meanwhile)
        await synced(world)
        assert answers
        _, listed = await world.state()
        assert (listed[ITEMS], listed[LOOSE]) == ({"b/i"}, {"g0/i"})

    play(body, narrow=True)


def test_a_removed_row_keeps_its_last_parent() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        world.upstream.create(Item, "i", (ITEMS, "b"))
        await synced(world)
        world.upstream.delete("i")
        assert (await synced(world)).removed == 1
        sql = f"SELECT box FROM {world.engine.tables.mapping(Item).table} WHERE _removed_at IS NOT NULL"
        with database_at(world.place).reader() as connection:
            assert connection.execute(sql).fetchall() == [("b",)]

    play(body, narrow=True)


def test_the_children_of_a_missing_row_are_not_requested_and_may_be_missing_too() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        await synced(world)
        world.upstream.delete("g0")
        asked(world)
        result = await synced(world)
        assert (result.status, result.failures) == (Status.COMPLETED, ())
        assert not [what for what in asked(world) if what.endswith(" g0")]

    play(body)


def test_a_root_stays_though_no_listing_has_it() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        await synced(world)
        world.upstream.delete("g0")
        world.upstream.delete("g1")
        assert (await synced(world, Sync(options=RIGHT))).removed == 2
        await world.open()
        assert await world.engine.query(Root).count() == 1
        await world.close()

    play(body)


# -- certainty -----------------------------------------------------------------------------------


def test_with_one_possible_listing_a_row_is_removed_without_another_check() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        await synced(world)
        world.upstream.delete("g1")
        asked(world)
        assert (await synced(world)).removed == 1
        assert asked(world) == {"Root.groups r": 1, "Group.boxes g0": 1, "Group.loose g0": 1}

    play(body)


def test_with_several_possible_listings_all_are_checked_once_more() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, items=2)
        await synced(world)
        world.upstream.delete("i00")
        asked(world)
        assert (await synced(world)).removed == 1
        assert set(asked(world).values()) == {2}

    play(body)


def test_without_missing_rows_nothing_is_checked_again() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, items=2)
        await synced(world)
        asked(world)
        assert (await synced(world)).removed == 0
        assert set(asked(world).values()) == {1}

    play(body)


def test_a_round_of_checks_is_split_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("max.sync.task_runner.CHILDREN_PAGE", 2)

    async def body(world: World) -> None:
        furnish(world.upstream, groups=5, items=2)
        await synced(world)
        world.upstream.delete("i00")
        asked(world)
        assert (await synced(world)).removed == 1
        assert {times for what, times in asked(world).items() if what.startswith("Group")} == {2}

    play(body)


def during(
    *syncs: Sync, kinds: Sequence[str] = ("full",) * 4, feed: bool = False, delays: Any = (1,)
) -> dict[str, Any]:
    """Run a history in which no existing row may be hidden; the differences at the end."""
    return live(History(tuple(kinds), feed, True, delays, syncs))


GROUP_0, GROUP_1, GROUP_2 = Event("group", 0), Event("group", 1), Event("group", 2)
IN_G0, IN_G1, IN_G2 = (Event("item", 6, number) for number in range(3))  # i0 is loose there


@pytest.mark.parametrize("number", range(2, 10))
def test_a_row_that_moves_before_and_during_a_sync_is_never_hidden(number: int) -> None:
    begin = Sync([GROUP_0, GROUP_1, GROUP_2, IN_G0])
    for there, back in ((IN_G1, IN_G2), (IN_G2, IN_G1)):
        assert during(begin, Sync([there], {number: back})) == {}
        assert during(begin, Sync([there], {number: back}), delays=(1, 3, 2)) == {}


@pytest.mark.parametrize("number", range(2, 8))
def test_a_row_that_moves_into_a_new_parent_during_the_sync_is_never_hidden(number: int) -> None:
    begin = Sync([GROUP_0, GROUP_1, IN_G0])
    assert during(begin, Sync([], {2: GROUP_2, number: IN_G2})) == {}
    assert during(begin, Sync([], {2: Event("box", 0, 1), number: Event("item", 0, 0)})) == {}


@pytest.mark.parametrize("number", range(1, 6))
def test_a_row_edited_during_a_newest_first_listing_is_never_hidden(number: int) -> None:
    kinds = ("newest", "full", "full", "full")
    full = SyncOptions(full=True, allow_removals=True)
    edited = Sync([], {number: Event("touch", 0)}, options=full)
    assert during(Sync([GROUP_0, GROUP_1, GROUP_2]), edited, kinds=kinds) == {}
    assert (
        during(
            Sync([GROUP_0, GROUP_1, GROUP_2]),
            Sync([], {number: Event("touch", 0)}, options=RIGHT),
            kinds=kinds,
        )
        == {}
    )


def test_a_long_newest_first_listing_still_finds_deleted_rows() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, groups=7)
        await synced(world)
        world.upstream.delete("g3")
        result = await synced(world, Sync(options=RIGHT))
        assert (result.status, result.removed) == (Status.COMPLETED, 1)

    play(body, groups="newest")


def test_a_row_known_only_from_a_feed_is_removed_when_the_feed_starts_over() -> None:
    boxed = Event("item", 21, 0)
    assert (
        during(
            Sync([GROUP_0]),
            Sync([boxed], {3: Event("denied"), 4: Event("denied")}),
            Sync([Event("delete", 1)], options=SyncOptions(full=True)),
            feed=True,
        )
        == {}
    )


def test_a_row_known_only_from_a_feed_is_removed_though_all_listings_are_empty() -> None:
    full = Sync([], options=SyncOptions(full=True))
    assert during(Sync([GROUP_2]), Sync([Event("item", 4)], {2: Event("delete", 0)}), full, feed=True) == {}


def test_a_row_known_from_a_feed_is_removed_though_its_parent_was_never_known() -> None:
    items = Sync([GROUP_1, Event("box", 1)], options=SyncOptions(only=("Item",)))
    assert during(Sync(), items, Sync([Event("delete", 1), Event("forget")]), feed=True) == {}


def test_a_feed_speaks_for_a_listing_only_when_that_was_proven_to_be_whole() -> None:
    furnished = Sync(
        [Event("crowd", 22, 8), Event("forbid", 23)],
        {
            6: Event("offline", 12),
            10: Event("broken", 2),
            11: Event("broken", 12),
            17: Event("denied", 18),
        },
    )
    another = Sync([Event("source", 15), Event("box", 22, 13)], dies=33, retry=0)
    moved = Sync([Event("box", 8, 5)], {3: Event("box", 7, 13)}, restart=True, retry=1)
    kinds = ("offset", "offset", "full", "counted")
    history = History(kinds, True, False, (1,), (furnished, another, moved), narrow=True)
    assert live(history) == {}


def test_a_missing_parent_is_not_checked_for_other_rows() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream)
        world.upstream.create(Box, "b", (BOXES, "g0"))
        await synced(world)
        world.upstream.delete("b")
        world.upstream.delete("g1")
        asked(world)
        result = await synced(world)
        assert (result.failures, result.removed) == ((), 2)
        assert not [what for what in asked(world) if what.endswith(" g1")]

    play(body)


def test_while_a_listing_cannot_be_checked_nothing_is_removed() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, items=1)
        await synced(world)
        world.upstream.delete("i00")
        denied = {number: Event("denied") for number in (4, 5, *range(6, 40))}
        result = await synced(world, Sync([], denied))
        assert (result.status, result.removed, await ids(world)) == (Status.PARTIAL, 0, {"i00"})
        assert (await synced(world)).removed == 1

    play(body)


@pytest.mark.parametrize("trouble", ["denied", "kill", "pause", "again"])
def test_a_listing_that_was_cut_short_removes_nothing(trouble: str) -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, groups=1, items=7)
        await synced(world)
        world.requests.clear()
        number = 4 if trouble == "again" else 3
        await world.sync(Sync([], {number: Event(trouble)}))
        assert len(await ids(world)) == 7
        world.upstream.delete("i03")
        assert (await synced(world, Sync(restart=True))).removed == 1

    play(body, groups="full")


# -- the guard -----------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 20))
@settings(max_examples=12)
def test_only_a_share_of_rows_or_a_few_of_them_are_removed_without_permission(
    rows: int, gone: int, share: float, floor: int
) -> None:
    gone = min(rows, gone)
    few = gone <= floor and gone < max(rows, 2) and share > 0
    expected = few or gone <= share * rows

    async def body(world: World) -> None:
        world.settings = Settings(removal_share=share, removal_floor=floor)
        furnish(world.upstream, groups=1, items=rows)
        await synced(world)
        for number in range(gone):
            world.upstream.delete(f"i{number:02}")
        result = await synced(world)
        assert (result.status is Status.COMPLETED, len(await ids(world))) == (
            expected,
            rows - gone if expected else rows,
        )

    play(body)


def test_a_suspicious_removal_is_reported_with_numbers_and_done_when_allowed() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, groups=1, items=40)
        await synced(world)
        for number in range(1, 40):
            world.upstream.delete(f"i{number:02}")
        refused = await synced(world)
        (failure,) = refused.failures
        assert (refused.status, failure.code) == (Status.PARTIAL, "sync.removals")
        assert "39 of 40 Item" in failure.message
        assert len(await ids(world)) == 40
        allowed = await synced(world, Sync(options=SyncOptions(allow_removals=True)))
        assert (allowed.status, allowed.removed, await ids(world)) == (Status.COMPLETED, 39, {"i00"})

    play(body)


def test_a_row_that_returned_after_a_refusal_stays_though_removals_are_allowed() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, groups=1, items=40)
        await synced(world)
        for number in range(40):
            world.upstream.delete(f"i{number:02}")
        assert (await synced(world)).status is Status.PARTIAL
        world.upstream.create(Item, "i07", (LOOSE, "g0"))
        missing_only = Sync(options=SyncOptions(missing_only=True, allow_removals=True))
        assert ((await synced(world, missing_only)).removed, await ids(world)) == (39, {"i07"})

    play(body)


def test_a_row_that_returned_after_a_refusal_stays_though_the_refusal_is_retried() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, groups=1, items=40)
        await synced(world)
        for number in range(1, 40):
            world.upstream.delete(f"i{number:02}")
        assert (await synced(world)).status is Status.PARTIAL
        world.upstream.create(Item, "i07", (LOOSE, "g0"))
        world.settings = Settings(removal_share=1)
        retry = await synced(world, Sync(retry=0))
        assert (retry.status, retry.removed, await ids(world)) == (Status.COMPLETED, 38, {"i00", "i07"})

    play(body)


# -- what is hidden ------------------------------------------------------------------------------


def test_a_row_that_returns_is_visible_again_with_new_values() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, items=1)
        await synced(world)
        world.upstream.delete("i00")
        await synced(world)
        world.upstream.create(Item, "i00", (LOOSE, "g1"))
        world.upstream.touch("i00", "back")
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body)


def test_a_row_removed_long_ago_is_deleted_with_all_its_records() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, groups=3, items=2)  # the newest group stays
        await synced(world)
        world.upstream.delete("i00")
        world.upstream.delete("g1")
        await synced(world)
        await world.open()
        assert len(await world.hidden()) == 2
        await world.close()
        world.set_back = -31 * 86_400.0
        await synced(world)
        await world.open()
        count = "SELECT (SELECT count(*) FROM _max_membership) - 3, (SELECT count(*) FROM _max_missing)"
        left = await world.database.read(lambda one: one.execute(count).fetchone())
        assert (await world.hidden(), left) == (set(), (0, 0))
        await world.close()

    play(body)


# -- several installations -----------------------------------------------------------------------


def test_interleaved_syncs_of_two_installations_do_not_touch_each_others_rows(tmp_path: Any) -> None:
    async def life(world: World, mine: str) -> None:
        furnish(world.upstream, groups=3)
        for number in range(4):
            world.upstream.create(Item, f"{mine}{number}", (LOOSE, f"g{number % 3}"))
            if number >= 2:
                world.upstream.delete(f"{mine}{number - 2}")
            await synced(world, Sync([], {3: Event("touch", number)}))
        await synced(world, Sync(options=RIGHT))
        assert await world.state() == world.upstream.state()
        assert await ids(world) == {f"{mine}2", f"{mine}3"}

    async def main(first: World) -> None:
        with lasting_place(tmp_path / "second.db") as place:
            await asyncio.gather(life(first, "a"), life(World(first.history, place), "b"))

    play(main, groups="newest", loose="oldest")


def test_a_row_that_a_missing_parent_held_and_that_moves_during_the_second_look_is_never_hidden() -> None:
    begin = Sync([GROUP_0, GROUP_1, Event("item", 8, 1), Event("item", 9, 1)])  # i2 and i3 are loose in g1
    moved = [Event("delete", 1), Event("item", 8, 0)]  # g1 is gone, and i2 is in g0
    for number in range(4, 7):  # before an answer there are more groups, and i2 is in g2
        assert during(begin, Sync(moved, {number: Event("crowd", 2)})) == {}


# -- deadlines -----------------------------------------------------------------------------------


def test_a_call_that_has_ended_at_its_deadline_with_a_404_does_not_stop_the_sync() -> None:
    groups = [Event("group", number) for number in range(3)]
    ahead = Sync(groups, {2: Event("delete", 0), 3: Event("clock", 2)})
    assert during(ahead, delays=(2,)) == {}


# -- what the plan leaves out ---------------------------------------------------------------------


class Shelf(Entity):
    """A root with three collections of things."""

    left: Many[Thing] = Many()
    right: Many[Thing] = Many()
    cellar: Many[Thing] = Many()


class Thing(Entity):
    """What lies there."""

    name: Field[str] = Field()


class Shelves:
    """What lies where, and which collections were asked for."""

    def __init__(self) -> None:
        self.things = {"left": ["a", "b"], "right": ["c"], "cellar": ["d"]}
        self.asked: list[str] = []

    def loader(self, name: str) -> Loader[Any]:
        """The loader of one collection."""

        async def load(parent: Ref[Shelf], request: PageRequest, env: Env[Any]) -> Page[Thing]:
            self.asked.append(name)
            return Page([Thing(id, name=id) for id in self.things[name]])

        load.__name__ = name
        return Loader.collection(getattr(Shelf, name), brings=Thing)(load)

    def connector(self) -> Connector[NoConfig, None]:
        """Its plan lists all but the cellar."""

        async def seed(context: None, store: Store) -> SyncPlan:
            await store.store(Shelf("s"))
            step = Step.for_root(Shelf.ref("s"))
            return SyncPlan([step.load_collection(Shelf.left), step.load_collection(Shelf.right)])

        async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[None]:
            return Installation(None)

        return Connector(
            name="shelves",
            description="Things on shelves.",
            schema=Schema([Shelf, Thing], roots=[Shelf]),
            loaders=[self.loader(name) for name in self.things],
            seeder=seed,
            initialise=initialise,
            config=NoConfig,
        )


def test_a_collection_that_the_plan_leaves_out_is_no_place_to_look_at() -> None:
    shelves = Shelves()

    async def body() -> list[str]:
        async with runtime(shelves.connector(), NoConfig()) as there:
            await (await there.sync()).completion()
            shelves.things["left"] = ["b"]
            result = await (await there.sync()).completion()
            assert (result.status, result.removed) == (Status.COMPLETED, 1)
            return [thing.id for thing in await there.engine.query(Thing).all()]

    assert asyncio.run(body()) == ["b", "c"]
    assert set(shelves.asked) == {"left", "right"}


# -- rows in quarantine --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boxes", "spoiled", "gone"),
    [("full", "g1", "g1"), ("full", "b", "g1"), ("newest", "b", "b")],
    ids=["with what came by its id", "with its parent", "named by no listing of ids"],
)
def test_an_invalid_row_that_is_gone_keeps_no_others(boxes: str, spoiled: str, gone: str) -> None:
    """It might have held them while it existed."""

    async def body(world: World) -> None:
        furnish(world.upstream, groups=3, items=3)
        world.upstream.create(Box, "b", (BOXES, "g2" if spoiled == "g1" else "g1"))
        thing = world.upstream.things[spoiled]
        thing.title, thing.nick = ("new", cast(Any, 5)) if spoiled == "g1" else (cast(Any, 5), thing.nick)
        await synced(world)
        world.upstream.delete(gone)
        assert (await synced(world, Sync(options=RIGHT))).status is Status.COMPLETED
        world.upstream.delete("i00")
        result = await synced(world, Sync(options=RIGHT))
        assert (result.status, result.removed, await ids(world)) == (Status.COMPLETED, 1, {"i01", "i02"})

    play(body, boxes=boxes, nicks=("one", "listed", "listed", "listed"))


@pytest.mark.parametrize("spoiled", ["b", "i"])
def test_an_invalid_row_in_a_parent_that_is_gone_keeps_nothing_that_the_parent_held(spoiled: str) -> None:
    """No listing of the parent comes to its end any more."""

    async def body(world: World) -> None:
        furnish(world.upstream, items=2)
        world.upstream.create(Item, "i", (LOOSE, "g1"))
        world.upstream.create(Tag, "t", (TAGS, "i"))
        await synced(world)
        world.upstream.create(Box, "b", (BOXES, "g1"))
        world.upstream.things[spoiled].title = cast(Any, 5)
        assert (await synced(world)).status is Status.PARTIAL
        world.upstream.delete("g1")
        assert (await synced(world, Sync(options=RIGHT))).status is Status.COMPLETED
        assert await world.state() == world.upstream.state()

    play(body)


def test_a_row_without_an_id_in_a_feed_keeps_no_others_once_the_feed_starts_over() -> None:
    async def body(world: World) -> None:
        furnish(world.upstream, items=3)
        world.upstream.create(Box, "b", (BOXES, "g1"))
        await synced(world)
        answer = world.upstream.changes
        world.upstream.changes = lambda request: answer(request).replace(  # type: ignore[method-assign]  # for one sync
            items=[Box("")]
        )
        assert (await synced(world)).status is Status.PARTIAL
        world.upstream.changes = answer  # type: ignore[method-assign]  # and no longer
        world.upstream.delete("i00")
        world.upstream.life += 1
        result = await synced(world, Sync(options=RIGHT))
        assert (result.status, await ids(world)) == (Status.COMPLETED, {"i01", "i02"})

    play(body, feed=True)


# -- rows that come along with others -------------------------------------------------------------


class Depot(Entity):
    """The root."""

    shelves: Many[Rack] = Many()


class Rack(Entity):
    """Brings its crates along."""

    crates: Many[Crate] = Many(by=lambda: Crate.rack)


class Crate(Entity):
    """Comes along with its rack, and brings its jars along."""

    rack: Field[Ref[Rack]] = Field()
    jars: Many[Jar] = Many(by=lambda: Jar.crate)


class Jar(Entity):
    """Comes along with its crate."""

    crate: Field[Ref[Crate]] = Field()


def test_what_came_along_with_a_removed_row_goes_with_it_down_to_the_last() -> None:
    racks = ["a", "b"]

    @Loader.collection(Depot.shelves, brings=[Rack, Crate.rack, Jar.crate])
    async def shelves(parent: Ref[Depot], request: PageRequest, env: Env[Any]) -> Page[Rack]:
        crates = [Crate(f"crate of {rack}", rack=Rack.ref(rack)) for rack in racks]
        jars = [Jar(f"jar in {crate.id}", crate=Crate.ref(crate.id)) for crate in crates]
        return Page([Rack(rack) for rack in racks], also=[*crates, *jars])

    async def seed(context: None, store: Store) -> SyncPlan:
        await store.store(Depot("d"))
        return SyncPlan([Step.for_root(Depot.ref("d")).load_collection(Depot.shelves)])

    async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[None]:
        return Installation(None)

    depot = Connector(
        name="depot",
        description="Racks, crates and jars.",
        schema=Schema([Depot, Rack, Crate, Jar], roots=[Depot]),
        loaders=[shelves],
        seeder=seed,
        initialise=initialise,
        config=NoConfig,
    )

    async def body() -> list[list[str]]:
        async with runtime(depot, NoConfig()) as there:
            await (await there.sync()).completion()
            racks.remove("a")
            result = await (await there.sync()).completion()
            assert (result.status, result.failures) == (Status.COMPLETED, ())
            engine = there.engine
            return [[one.id for one in await engine.query(kind).all()] for kind in (Rack, Crate, Jar)]

    assert asyncio.run(body()) == [["b"], ["crate of b"], ["jar in crate of b"]]
