"""Membership and removals: which listing has which row, which rows are missing, and which are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from max.engine import DatabaseEngine, DatabaseSyncMeta
from max.model.delivery import DeletionCandidates, DeletionScope, Delivery, FeedPage, ListingPage, ListingPass
from max.model.entities import Entity, FieldOf, ManyOf, Ref
from max.model.loaders import Loader, Resolver
from max.model.query import Page
from max.storage.postgres import PostgresDatabase
from max.storage.sqlite import MEMORY, SqliteDatabase
from tests.contract.places import SCHEMA, Person, Post, Store, Team, memory_database, using

pytestmark = pytest.mark.usefixtures("either")
A, B, C = (Team.ref(id) for id in "abc")
WHOLE = ("Team.people", "Team.posts")
Body = Callable[[Store], Awaitable[None]]


async def page(store: Store, team: Ref[Any], *ids: str, at: float, **more: Any) -> None:
    """Store a complete listing of a team's people on one page, received a second later."""
    many: ManyOf[Any, Any] = Team.people
    listing = ListingPage(
        team, many, more.pop("number", 0), more.pop("last", True), more.pop("began", at), **more
    )
    people = [Person(id, name=id) for id in ids]
    await store.receive(Delivery(people, at, listing, received_at=at + 1.0))


async def candidates(
    store: Store, since: float, look: float | None = None
) -> Mapping[str, DeletionCandidates]:
    """The deletion candidates by entity; ``look`` is when the second look began."""
    scope = DeletionScope(WHOLE, (), since, look)
    return {one.entity: one for one in await store.meta.deletion_candidates(scope)}


async def people(store: Store, team: Ref[Any]) -> set[str]:
    """The ids of a team's people."""
    return {one.id for one in (await store.engine.load_collection(team, Team.people)).items}


def teams(*ids: str) -> Callable[[Body], None]:
    """Run a body on a store with these teams."""

    def run(body: Body) -> None:
        async def main(store: Store) -> None:
            await store.engine.store(*map(Team, ids))
            await body(store)

        using(MEMORY, main)

    return run


# -- missing rows --------------------------------------------------------------------------------


def test_a_row_that_only_one_listing_can_hold_is_gone_when_that_misses_it() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, "1", at=20.0)
        found = await candidates(store, since=15.0)
        assert (found["Person"].proven, found["Person"].missing, found["Person"].total) == (1, 1, 2)
        assert await people(store, A) == {"1"}


def test_a_row_missing_since_before_the_sync_is_checked_again() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, "1", at=20.0)
        found = (await candidates(store, since=30.0))["Person"]
        assert (found.proven, found.missing, found.to_ask) == (0, 1, ["2"])
        await page(store, A, "1", at=40.0)
        assert (await candidates(store, since=30.0))["Person"].proven == 1


def test_a_row_in_another_listing_is_not_missing() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, B, "1", at=10.0)
        await page(store, A, at=20.0)
        assert await candidates(store, since=15.0) == {}


def test_a_row_that_appears_in_another_listing_is_no_longer_missing() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        assert set(await candidates(store, since=15.0)) == {"Person"}
        await page(store, B, "1", at=19.0)
        assert await candidates(store, since=15.0) == {}


def test_a_row_that_a_later_response_brings_is_no_longer_missing() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, at=20.0)
        await store.receive(Delivery([Person("1", name="late")], 19.0))
        await store.receive(Delivery([Person("2", name="came along")], 30.0))
        assert (await candidates(store, since=15.0))["Person"].proven == 1


def test_a_row_that_a_later_response_brings_invalid_exists() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        bad: Any = "old"
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        await store.receive(Delivery([Person("1", age=bad)], 30.0))
        assert await candidates(store, since=15.0) == {}


def test_an_older_response_does_not_undo_that_a_later_one_brought_a_row() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        await store.receive(Delivery([Person("1", name="new")], 40.0))
        await store.receive(Delivery([Person("1", name="old")], 25.0))
        assert await candidates(store, since=30.0) == {}


def test_when_the_clock_was_ahead_it_is_unknown_when_a_missing_row_was_brought() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        await store.receive(Delivery([Person("1", name="came along")], 90_000.0))
        await store.meta.prepare("here", now=30.0)
        assert (await candidates(store, since=30.0))["Person"].to_ask == ["1"]


def test_with_several_possible_listings_all_are_read_twice() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        await page(store, B, at=30.0)
        first = (await candidates(store, since=15.0))["Person"]
        assert (first.proven, first.missing) == (0, 1)
        await page(store, A, at=50.0)
        assert (await candidates(store, since=15.0, look=40.0))["Person"].proven == 0
        await page(store, B, at=50.0)
        assert (await candidates(store, since=15.0, look=40.0))["Person"].proven == 1


def test_a_row_missing_only_in_the_second_look_is_kept_until_the_next_sync() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, "2", at=20.0)
        await page(store, B, at=20.0)
        await page(store, A, at=50.0)
        await page(store, B, at=50.0)
        found = (await candidates(store, since=15.0, look=40.0))["Person"]
        assert (found.proven, found.missing) == (1, 2)


def test_a_parent_outside_the_plan_is_checked_only_if_it_was_listed_before() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        found = await store.meta.deletion_candidates(DeletionScope((), (), 15.0))
        assert [(one.proven, one.missing) for one in found] == [(1, 1)]


# -- listings that prove less --------------------------------------------------------------------


@pytest.mark.parametrize("listing", [{"delta": True}, {"sweeps": False}, {"last": False}])
def test_a_listing_of_only_some_members_makes_no_row_missing(listing: dict[str, Any]) -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, "1", at=20.0, **listing)
        assert await candidates(store, since=15.0) == {}
        assert await people(store, A) == {"1", "2"}


def test_an_unproven_listing_does_not_count_as_a_look() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        await page(store, A, at=50.0)
        await page(store, B, at=50.0, proven=False)
        assert (await candidates(store, since=15.0, look=40.0))["Person"].proven == 0
        await page(store, B, at=60.0, delta=True)
        assert (await candidates(store, since=15.0, look=40.0))["Person"].proven == 1


# -- passes --------------------------------------------------------------------------------------


def test_a_pass_counts_the_different_rows_that_it_shows() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", "3", at=10.0)
        await page(store, A, "1", "2", at=20.0, last=False)
        await page(store, A, "2", "1", at=21.0, last=False, number=1, began=20.0)
        assert await store.meta.listing_pass(A, Team.people, 20.0) == ListingPass(True, 2, unseen=True)
        await page(store, A, "3", at=22.0, last=False, number=2, began=20.0)
        assert await store.meta.listing_pass(A, Team.people, 20.0) == ListingPass(True, 3)


def test_a_page_of_a_pass_that_a_later_one_has_replaced_only_stores_its_rows() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, "1", at=20.0, last=False)
        await page(store, A, "1", "2", at=30.0, last=False)
        await page(store, A, "9", at=40.0, number=1, began=20.0)
        assert await store.meta.listing_pass(A, Team.people, 20.0) == ListingPass(False)
        assert await candidates(store, since=15.0) == {}
        assert await people(store, A) == {"1", "2"}
        assert (await store.meta.listing_state(A, Team.people)).listed_at == 10.0
        assert await store.engine.query(Person).count() == 3
        assert (await candidates(store, since=45.0))["Person"].to_ask == ["9"]


def test_ids_alone_restore_removed_rows_and_store_no_new_ones() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await store.receive(Delivery([], 15.0, removed=[Person.ref("1")]))
        listing = ListingPage(A, Team.people, 0, True, 20.0, ids_only=True)
        await store.receive(Delivery([Person("1"), Person("2")], 20.0, listing))
        assert [one.id for one in await store.engine.query(Person).all()] == ["1"]
        assert await people(store, A) == {"1"}


@pytest.mark.parametrize(("named", "bookmark"), [(["1"], "m"), (["1", "2"], None)], ids=["known", "unknown"])
def test_unknown_ids_make_the_next_listing_a_full_one(named: list[str], bookmark: str | None) -> None:
    @teams("a")
    async def _(store: Store) -> None:
        first = ListingPage(A, Team.people, 0, True, 10.0, bookmark="m")
        await store.receive(Delivery([Person("1", name="Ada")], 10.0, first))
        sweep = ListingPage(A, Team.people, 0, True, 20.0, ids_only=True)
        await store.receive(Delivery([Person(id) for id in named], 20.0, sweep))
        assert (await store.meta.listing_state(A, Team.people)).bookmark == bookmark


@pytest.mark.parametrize(("name", "bookmark"), [("Ada", "m"), ("Eve", None)], ids=["equal", "other"])
def test_a_listing_does_not_go_on_behind_a_value_that_a_later_request_kept_out(
    name: str, bookmark: str | None
) -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, B, "1", at=20.0)
        await store.receive(Delivery([Person("1", name="Ada")], 20.0))
        listing = ListingPage(A, Team.people, 0, True, 10.0, bookmark="m")
        await store.receive(Delivery([Person("1", name=name)], 10.0, listing, received_at=30.0))
        assert (await store.engine.load(Person.ref("1"))).name == "Ada"
        assert (await store.meta.listing_state(A, Team.people)).bookmark == bookmark
        whole = ListingPage(A, Team.people, 0, True, 40.0, bookmark="m")
        await store.receive(Delivery([Person("1", name=name)], 40.0, whole))
        assert (await store.meta.listing_state(A, Team.people)).bookmark == "m"


def test_a_listing_does_not_go_on_behind_a_row_that_a_later_request_removed() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await store.receive(Delivery([], 30.0, removed=[Person.ref("1")]))
        listing = ListingPage(A, Team.people, 0, True, 20.0, bookmark="m")
        await store.receive(Delivery([Person("1", name="Ada")], 20.0, listing, received_at=40.0))
        assert (await store.meta.listing_state(A, Team.people)).bookmark is None


# -- removing ------------------------------------------------------------------------------------


async def remove(store: Store, *entities: str, since: float, look: float | None = None) -> int:
    """Remove what is certainly gone, in one transaction."""
    database = store.engine._database  # type: ignore[attr-defined]  # the store's own
    write = store.meta.prepare_removal(entities, DeletionScope(WHOLE, (), since, look))
    return int((await database.transact(write)).removed)


def test_only_proven_rows_are_removed_and_counted() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, "2", at=20.0)
        assert await remove(store, "Person", since=15.0) == 0
        await page(store, B, at=50.0)
        await page(store, A, at=50.0)
        assert await remove(store, "Person", since=15.0, look=40.0) == 1
        assert [one.id for one in await store.engine.query(Person).all()] == ["2"]
        assert await remove(store, "Person", since=15.0, look=40.0) == 0


def test_a_removed_row_is_not_missing_and_can_return_in_its_listing() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, A, at=20.0)
        assert await remove(store, "Person", since=15.0) == 1
        assert await candidates(store, since=15.0) == {}
        await page(store, A, "1", at=30.0)
        assert await people(store, A) == {"1"}


def test_rows_that_only_a_removed_parent_listed_are_missing() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, B, "2", at=10.0)
        await store.receive(Delivery([], 20.0, removed=[A]))
        found = (await candidates(store, since=15.0))["Person"]
        assert (found.missing, found.proven) == (1, 0)
        assert await people(store, B) == {"2"}
        await page(store, B, "2", at=30.0)
        assert (await candidates(store, since=15.0))["Person"].proven == 1


def test_a_row_that_several_parents_listed_which_go_together_is_missing() -> None:
    @teams("a", "b", "c")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0)
        await page(store, B, "1", at=10.0)
        await store.receive(Delivery([], 20.0, removed=[A, B]))
        assert (await candidates(store, since=15.0))["Person"].to_ask == ["1"]


def test_what_is_listed_below_a_removed_parent_is_stored_and_missing() -> None:
    @teams("a", "b")
    async def _(store: Store) -> None:
        await page(store, B, at=10.0)
        await store.receive(Delivery([], 20.0, removed=[A]))
        await page(store, A, "1", at=30.0)
        assert [one.id for one in await store.engine.query(Person).all()] == ["1"]
        assert await people(store, A) == set()
        await page(store, B, at=50.0)
        assert (await candidates(store, since=45.0))["Person"].proven == 1


def test_a_parent_that_returns_is_listed_in_full() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", at=10.0, bookmark="m")
        await store.receive(Delivery([], 20.0, removed=[A]))
        await store.receive(Delivery([Team("a", order="1")], 30.0))
        assert (await store.meta.listing_state(A, Team.people)).bookmark is None


def test_a_missing_row_is_not_requested() -> None:
    @teams("a")
    async def _(store: Store) -> None:
        await page(store, A, "1", "2", at=10.0)
        await page(store, A, "1", at=20.0)
        assert await store.meta.stale_ids(Person, ["age"], before=30.0) == ["1"]


# -- feeds ---------------------------------------------------------------------------------------


@Loader.collection(Team.people)
async def list_people(parent: Ref[Team], request: Any, env: Any) -> Page[Person]:
    """Never called."""
    return Page([])


@Loader.collection(Team.posts, brings=[Post.title, Post.team])
async def list_posts(parent: Ref[Team], request: Any, env: Any) -> Page[Post]:
    """Never called."""
    return Page([])


@Loader.entity(*(FieldOf(Person, name) for name in Person.types()))
async def load_person(ref: Ref[Person], env: Any) -> Person:
    """Never called."""
    return Person(ref.id)


@Loader.feed(Team, brings=[Post.title, Post.team], covers=[])
async def posts_of_people(root: Ref[Team], request: Any, env: Any) -> Page[Entity]:
    """Never called."""
    return Page([], sync_token="0")


@Loader.feed(Team, brings=[Post.title, Post.team], covers=[Team.posts])
async def posts_feed(root: Ref[Team], request: Any, env: Any) -> Page[Entity]:
    """Never called."""
    return Page([], sync_token="0")


@Loader.collection(Team.people, brings=[Person.name, Post.title, Post.team])
async def list_people_with_posts(parent: Ref[Team], request: Any, env: Any) -> Page[Person]:
    """Never called."""
    return Page([])


class Fed:
    """An engine with a feed of posts."""

    def __init__(self, database: SqliteDatabase | PostgresDatabase, *loaders: Loader[Any]) -> None:
        resolver = Resolver(SCHEMA, loaders or (list_people, list_posts, load_person, posts_feed))
        self._database, self.engine = database, DatabaseEngine(database, resolver)
        self.meta = DatabaseSyncMeta(database, self.engine)

    async def read_feed(
        self,
        *posts: Post,
        at: float,
        last: bool = True,
        initial: bool = False,
        began: float | None = None,
        root: Ref[Team] = A,
    ) -> None:
        """Store a page of the feed."""
        changes = FeedPage(root, "posts_feed", last, f"token {at}", began or at, initial, began is None)
        await self._database.transact(self.engine.prepare_write(Delivery(posts, at, changes=changes)))

    async def list(self, team: Ref[Team], *posts: Post, at: float) -> None:
        """Store a listing of a team's posts."""
        listing = ListingPage(team, Team.posts, 0, last=True, began_at=at)
        delivery = Delivery(posts, at, listing, received_at=at + 1.0)
        await self._database.transact(self.engine.prepare_write(delivery))

    async def store(self, *posts: Post, at: float) -> None:
        """Store posts that a loader brought."""
        await self.receive(Delivery(posts, at))

    async def receive(self, delivery: Delivery) -> None:
        """Store a delivery."""
        await self._database.transact(self.engine.prepare_write(delivery))

    async def members(self) -> set[tuple[str, str]]:
        """The pairs of team and post that are stored as members."""
        sql = """
            SELECT l.parent, p._id FROM _max_membership AS k JOIN _max_listing AS l ON l.id = k.listing
              JOIN _post AS p ON p._row = k.child WHERE l.collection = 'Team.posts'
        """
        return set(await self._database.read(lambda one: one.execute(sql).fetchall()))

    async def missing(self) -> int:
        """How many posts are missing."""
        scope = DeletionScope(WHOLE, ["posts_feed"], 0.0)
        return sum(one.missing for one in await self.meta.deletion_candidates(scope))


def following(body: Callable[[Fed], Awaitable[None]]) -> None:
    """Run a body on an engine with a feed."""

    async def main() -> None:
        database = memory_database()
        await database.start()
        fed = Fed(database)
        await fed.engine.start()
        await fed.engine.store(Team("a"), Team("b"))
        await body(fed)
        await database.stop()

    asyncio.run(main())


def post(id: str, team: Ref[Team] | None) -> Post:
    """A post of a team."""
    return Post(id, title=id, team=team)


def test_a_row_in_a_feed_moves_to_the_parent_it_points_at() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.list(A, post("1", A), post("2", A), at=10.0)
        await fed.read_feed(post("1", B), at=20.0)
        assert await fed.members() == {("b", "1"), ("a", "2")}
        await fed.read_feed(post("1", None), at=30.0)
        assert await fed.members() == {("a", "2")}
        assert await fed.missing() == 0  # the feed itself shows that it exists


def test_a_feed_adds_no_member_to_an_unknown_parent() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.list(A, post("1", A), at=10.0)
        await fed.read_feed(post("1", C), post("2", C), at=20.0)
        assert await fed.members() == set()
        await fed.read_feed(at=30.0, initial=True)
        assert await fed.missing() == 2


def test_a_row_in_a_feed_is_no_longer_missing() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.list(A, post("1", A), at=10.0)
        await fed.list(A, at=20.0)
        assert await fed.missing() == 1
        await fed.read_feed(post("1", B), at=19.0)
        assert await fed.missing() == 0


@pytest.mark.parametrize(("team", "stale"), [(A, []), (B, ["1"])], ids=["equal", "other"])
def test_a_value_of_a_feed_that_a_later_request_kept_out_is_fetched_again(
    team: Ref[Team], stale: list[str]
) -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.list(A, post("1", A), post("2", A), at=20.0)
        await fed.list(B, at=21.0)
        await fed.read_feed(post("1", team), at=10.0)
        assert await fed.meta.stale_ids(Post, ["team"], before=15.0) == stale
        listed_at = [(await fed.meta.listing_state(one, Team.posts)).listed_at for one in (A, B)]
        assert listed_at == ([None, None] if stale else [20.0, 21.0])


@pytest.mark.usefixtures("either")
def test_a_value_that_comes_with_the_rows_of_others_alone_is_listed_with_them_again() -> None:
    async def main() -> list[str | None]:
        database = memory_database()
        await database.start()
        fed = Fed(database, list_people_with_posts, load_person, posts_of_people)
        await fed.engine.start()
        await fed.engine.store(Team("a"))
        new, old = (Post("1", title=title, team=None) for title in ("new", "old"))
        first = ListingPage(A, Team.people, 0, True, 5.0, bookmark="m")
        await fed.receive(Delivery([], 5.0, first, received_at=6.0))
        named = FeedPage(A, "posts_of_people", True, "token", 10.0)
        await fed.receive(Delivery([new], 10.0, changes=named, received_at=25.0))
        marks = [(await fed.meta.listing_state(A, Team.people)).bookmark]
        following = ListingPage(A, Team.people, 0, True, 20.0, delta=True, bookmark="m")
        await fed.receive(Delivery([], 20.0, following, received_at=35.0, also=[old]))
        marks.append((await fed.meta.listing_state(A, Team.people)).bookmark)
        await database.stop()
        return marks

    assert asyncio.run(main()) == ["m", None]


def test_the_sync_token_of_a_feed_moves_with_its_last_page() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.read_feed(at=10.0, initial=True)
        await fed.read_feed(post("1", A), at=20.0, last=False)
        assert (await fed.meta.feed_state(A, "posts_feed")).bookmark == "token 10.0"
        await fed.read_feed(at=21.0)
        known = await fed.meta.feed_state(A, "posts_feed")
        assert (known.bookmark, known.listed_at, known.full_at) == ("token 21.0", 21.0, 10.0)


def test_when_a_feed_starts_over_unlisted_rows_are_missing() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.read_feed(at=5.0, initial=True)
        await fed.list(A, post("1", A), at=10.0)
        await fed.read_feed(post("2", None), at=20.0)
        await fed.read_feed(at=30.0)
        assert await fed.missing() == 0
        await fed.read_feed(at=40.0, initial=True)
        assert await fed.missing() == 1
        await fed.read_feed(post("2", None), at=50.0)
        assert await fed.missing() == 0


def test_a_row_that_was_brought_while_a_feed_started_over_is_not_missing() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.list(A, at=12.0)
        bad: Any = 5
        await fed.store(*[post(id, None) for id in ("before", "since", "invalid since")], at=8.0)
        await fed.store(post("since", None), Post("invalid since", title=bad), at=15.0)
        await fed.read_feed(at=10.0, initial=True)  # its last page comes when the others are stored
        (found,) = await fed.meta.deletion_candidates(DeletionScope(WHOLE, ["posts_feed"], 9.0))
        assert (found.missing, found.proven, found.to_ask) == (1, 0, ["before"])


def test_a_page_that_is_read_again_does_not_bring_the_rows_that_it_had() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.read_feed(at=5.0, initial=True)
        await fed.list(A, post("1", A), post("2", A), at=10.0)
        await fed.read_feed(Post("1", team=None), at=20.0)  # its title is still from the listing
        await fed.list(A, post("2", A), at=40.0)
        await fed.read_feed(at=30.0, initial=True)
        assert await fed.missing() == 1


def test_a_feed_that_starts_over_for_one_root_does_not_speak_for_another() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.read_feed(at=5.0, initial=True)
        await fed.store(post("before", None), at=7.0)
        await fed.read_feed(at=10.0, initial=True, root=B)
        await fed.read_feed(post("since", None), at=20.0, root=B)
        await fed.read_feed(at=30.0, initial=True)
        (found,) = await fed.meta.deletion_candidates(DeletionScope(WHOLE, ["posts_feed"], 40.0))
        assert found.to_ask == ["before"]
        assert await fed.meta.feed_begun("posts_feed") == 30.0
        await fed.read_feed(at=50.0, initial=True, root=B)
        assert await fed.missing() == 2


def test_what_a_feed_that_starts_over_names_is_not_missing() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.read_feed(post("1", None), at=10.0)
        await fed.read_feed(post("3", None), at=11.0)
        await fed.read_feed(post("1", None), at=20.0, last=False, initial=True)
        await fed.read_feed(post("2", C), at=30.0, initial=True, began=20.0)
        (found,) = await fed.meta.deletion_candidates(DeletionScope(WHOLE, ["posts_feed"], 40.0))
        assert (found.missing, found.to_ask) == (1, ["3"])


def test_reading_a_feed_counts_as_reading_the_listings_it_covers() -> None:
    @following
    async def _(fed: Fed) -> None:
        await fed.read_feed(at=5.0, initial=True)
        await fed.list(A, post("1", A), at=10.0)
        await fed.list(B, at=10.0)
        await fed.list(A, at=20.0)
        scope = DeletionScope(WHOLE, ["posts_feed"], 15.0)
        (found,) = await fed.meta.deletion_candidates(scope)
        assert (found.missing, found.proven) == (1, 0)
        await fed.read_feed(at=30.0)
        (found,) = await fed.meta.deletion_candidates(scope.replace(look=25.0))
        assert (found.missing, found.proven) == (1, 1)
