"""What becomes of members that no row names any more: tags of items, in a changing upstream."""

from __future__ import annotations

from typing import Any

import pytest

from max.core import SyncOptions
from max.model.tasks import Status
from tests.upstream_model import KINDS, TAGS, Item, Tag
from tests.upstream_world import Event, Sync, World, change, play

FURNISHED = (*(Event("group", n) for n in range(2)), *(Event("item", n, n) for n in range(6)))
TENTH = 10  # request of a sync: for the nick of the third tag
ALLOWED = SyncOptions(allow_removals=True)


async def furnished(world: World) -> None:
    """Two groups with six items, of which two have a tag that no other has, and all are copied."""
    for event in FURNISHED:
        change(world.upstream, event)
    world.upstream.create(Tag, "t1", (TAGS, "i1"))
    world.upstream.create(Tag, "t2", (TAGS, "i2"), (TAGS, "i3"))
    await world.sync(Sync())
    assert await world.state() == world.upstream.state()


async def tags(world: World) -> dict[str, set[str]]:
    """The visible tags, and which item has which."""
    rows, members = await world.state()
    return {"tags": {one.split(",")[0] for one in rows["Tag"]}, "members": members[TAGS]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_no_row_names_any_more_is_removed_in_the_same_sync(kind: str) -> None:
    async def body(world: World) -> Any:
        await furnished(world)
        world.upstream.delete("t1")
        result = await world.sync(Sync(options=ALLOWED))
        assert result is not None
        assert (result.status, result.removed) == (Status.COMPLETED, 1)
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_one_row_drops_stays_with_the_other(kind: str) -> None:
    async def body(world: World) -> None:
        await furnished(world)
        world.upstream.begin()
        world.upstream.put("t2", {(TAGS, "i3")})
        await world.sync(Sync())
        assert await tags(world) == {"tags": {"id=t1", "id=t2"}, "members": {"i1/t1", "i3/t2"}}

    play(body, loose=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_moves_behind_the_listing_is_never_hidden(kind: str) -> None:
    """The sync itself asserts that nothing was hidden that existed all the time."""

    async def body(world: World) -> None:
        await furnished(world)
        for number in range(1, 12):
            world.upstream.begin()
            world.upstream.moved.clear()
            place = {(TAGS, f"i{number % 6}")}
            world.during = {}
            await world.sync(Sync(during={number: Event("tag", number % 3, number)}))
            world.upstream.put("t1", place)
        await world.sync(Sync(options=ALLOWED))
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


def test_with_a_row_go_the_members_that_only_it_named() -> None:
    async def body(world: World) -> None:
        await furnished(world)
        world.upstream.delete("i1")
        await world.sync(Sync(options=ALLOWED))
        assert (await tags(world))["tags"] == {"id=t2"}
        assert await world.state() == world.upstream.state()

    play(body)


def test_with_a_row_that_was_long_missing_goes_a_member_that_another_row_had_since() -> None:
    """While a group may not be read, an item that is gone from the other one may be in it."""

    async def body(world: World) -> None:
        await furnished(world)
        world.upstream.put("t1", {(TAGS, "i3")})
        world.upstream.delete("i1")
        world.forbidden.add("g0")
        await world.sync(Sync(options=ALLOWED))
        assert "i1/t1" in (await tags(world))["members"]
        world.forbidden.clear()
        world.upstream.delete("t1")
        await world.sync(Sync(options=ALLOWED))
        assert await world.state() == world.upstream.state()

    play(body)


def test_a_row_that_returns_names_its_members_again() -> None:
    async def body(world: World) -> None:
        await furnished(world)
        places = world.upstream.things["i1"].places
        world.upstream.delete("i1")
        await world.sync(Sync(options=ALLOWED))
        world.upstream.create(Item, "i1", *places)
        world.upstream.create(Tag, "t1", (TAGS, "i1"))
        await world.sync(Sync())
        assert await tags(world) == {"tags": {"id=t1", "id=t2"}, "members": {"i1/t1", "i2/t2", "i3/t2"}}

    play(body)


def test_a_member_that_returned_by_its_id_alone_is_removed_again_once_it_is_gone() -> None:
    """A retry of an older sync asks for it; no row names it then."""

    async def body(world: World) -> None:
        await furnished(world)
        world.upstream.create(Tag, "t3", (TAGS, "i1"))
        await world.sync(Sync(during={TENTH: Event("denied")}))
        assert world.requests[-1].name == "Tag.nick"
        places = world.upstream.things["t3"].places
        world.upstream.delete("t3")
        await world.sync(Sync(options=ALLOWED))
        assert "id=t3" not in (await tags(world))["tags"]
        world.upstream.create(Tag, "t3", *places)
        await world.sync(Sync(retry=1))
        assert "id=t3" in (await tags(world))["tags"]
        world.upstream.delete("t3")
        result = await world.sync(Sync(options=ALLOWED))
        assert result is not None
        assert result.status is Status.COMPLETED
        assert await world.state() == world.upstream.state()

    play(body, nicks=("listed", "listed", "listed", "one"))


def test_many_members_that_are_gone_at_once_wait_for_a_person() -> None:
    async def body(world: World) -> None:
        await furnished(world)
        for number in range(3, 12):
            world.upstream.create(Tag, f"t{number}", (TAGS, "i1"))
        await world.sync(Sync())
        for number in range(1, 12):
            world.upstream.delete(f"t{number}")
        world.settings = world.settings.replace(removal_floor=1)
        result = await world.sync(Sync())
        assert result is not None
        assert result.status is Status.PARTIAL
        assert len((await tags(world))["tags"]) == 11
        await world.sync(Sync(options=ALLOWED))
        assert await world.state() == world.upstream.state()

    play(body)
