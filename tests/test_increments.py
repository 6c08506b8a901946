"""Increments: the next listing begins at the bookmark of the last complete one and misses nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from max.connector import Connector
from max.core import Store
from max.engine import DatabaseEngine, DatabaseSyncMeta
from max.errors import SyncTokenRefused
from max.execution import SyncContext, SyncExecutor
from max.model.delivery import ListingState
from max.model.entities import Entity, Field, Many, ManyOf, Ref
from max.model.loaders import Loader, PageRequest, Watermark
from max.model.plan import Step, SyncPlan
from max.model.query import Batch, Page
from max.model.schema import Schema
from max.model.tasks import Status, SyncResult
from max.storage.leases import new_worker
from max.storage.sqlite import MEMORY
from max.storage.task_store import DatabaseTaskStore
from max.sync.context import MOMENT
from max.sync.pagination import PageTracker, first_position
from max.testing import FakeClock, runtime
from max.upstream.operations import Limits, OperationRunner
from tests.sample import SampleConfig, sample
from tests.scenes import PatientDatabase, run
from tests.upstream_model import EPOCH, KINDS, ROOT, Group, Item, Root
from tests.upstream_world import ALLOWED, RIGHT, Event, Request, Sync, World, play
from tests.virtual_time import now

LOOSE, GROUPS = repr(Group.loose), repr(Root.groups)
INCREMENTAL = ("newest", "oldest", "token")


async def synced(world: World, sync: Sync = Sync()) -> SyncResult:  # noqa: B008  # it is never changed
    """The result of one sync that was not killed."""
    result = await world.sync(sync)
    assert result is not None
    return result


def furnish(world: World, items: int = 5) -> None:
    """One group with loose items."""
    world.upstream.create(Group, "g", (GROUPS, ROOT.id))
    for number in range(items):
        world.upstream.create(Item, f"i{number}", (LOOSE, "g"))


def listed(world: World, many: ManyOf[Any, Any] = Group.loose) -> list[Request]:
    """The requests for a collection since the last call."""
    requests, world.requests = world.requests, []
    return [one for one in requests if one.name == repr(many)]


async def listing_state(world: World) -> ListingState:
    """The state of the listing of the group's items."""
    await world.open()
    known = await world.meta.listing_state(Group.ref("g"), Group.loose)
    await world.close()
    return known


# -- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INCREMENTAL)
def test_the_next_sync_asks_only_for_changes(kind: str) -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        assert [one.page.cursor is None for one in listed(world)] == [True, False, False]
        world.upstream.touch("i1", "changed")
        await synced(world)
        (request,) = listed(world)
        assert (request.page.sync_token, request.page.since) != (None, None)
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


def test_a_watermark_asks_for_changes_at_or_after_the_highest_value() -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        listed(world)
        await synced(world)
        newest = max(thing.changed for thing in world.upstream.things.values())
        assert [one.page.since for one in listed(world)] == [EPOCH + timedelta(seconds=newest)]

    for kind in ("newest", "oldest"):
        play(body, loose=kind)


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_during_a_listing_is_not_missed_by_the_next(kind: str, number: int) -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world, Sync([], {number: Event("touch", 3), number + 1: Event("touch", 5, 1)}))
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_created_during_a_listing_is_not_missed_by_the_next(kind: str) -> None:
    async def body(world: World) -> None:
        furnish(world)
        for number in (3, 4, 5):
            await synced(world, Sync([Event("touch", 1)], {number: Event("item", number, 0)}))
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


@pytest.mark.parametrize("trouble", ["denied", "kill", "pause", "again", "offline"])
@pytest.mark.parametrize("kind", INCREMENTAL)
def test_a_bookmark_moves_only_with_a_complete_listing(kind: str, trouble: str) -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        before = await listing_state(world)
        for number in range(5):
            world.upstream.touch(f"i{number}", "changed")
        # the second page of three, in all tries
        await world.sync(Sync([], {number: Event(trouble) for number in range(4, 9)}))
        assert (await listing_state(world)).bookmark == before.bookmark is not None
        await synced(world, Sync(restart=True))
        assert (await listing_state(world)).bookmark != before.bookmark
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


@pytest.mark.parametrize("kind", INCREMENTAL)
def test_a_listing_that_resumes_keeps_its_bookmark(kind: str) -> None:
    async def body(world: World) -> None:
        furnish(world)
        paused = await synced(world, Sync([], {4: Event("pause")}))
        assert paused.status is Status.PAUSED
        for number in range(5):
            world.upstream.touch(f"i{number}", "changed")
        assert (await synced(world)).id == paused.id
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


def test_a_full_sync_asks_for_everything_and_moves_the_bookmark() -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        listed(world)
        await synced(world, Sync(options=RIGHT.replace(full=True)))
        assert {one.page.since for one in listed(world)} == {None}
        await synced(world)
        assert len(listed(world)) == 1

    play(body, loose="oldest")


# -- refused marks -------------------------------------------------------------------------------


@pytest.mark.parametrize("polite", [True, False])
def test_a_refused_sync_token_falls_back_to_a_full_listing_and_says_so(polite: bool) -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        world.upstream.delete("i2")
        world.upstream.gone.clear()  # the source no longer knows that it existed
        world.upstream.life += 1
        result = await synced(world)
        assert (result.status, len(result.notes), result.removed) == (Status.COMPLETED, 1, 1)
        assert ("too old" in result.notes[0]) == polite
        assert await world.state() == world.upstream.state()
        assert (await synced(world)).notes == ()

    play(body, loose="token", polite=polite)


def test_a_sync_token_refused_between_two_pages_restarts_the_feed() -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        for number in range(5):
            world.upstream.touch(f"i{number}", "changed")
        world.upstream.delete("i4")
        world.upstream.gone.clear()
        result = await synced(world, Sync([], {2: Event("forget")}))
        assert (result.status, len(result.notes)) == (Status.COMPLETED, 1)
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, feed=True)


def test_a_restarted_listing_forgets_the_total_of_the_first_attempt() -> None:
    tracker = PageTracker("items", first_position("a token"))
    tracker.take(Page([Item("i")], "more", total=1))
    tracker.restart(10.0)
    assert tracker.take(Page([Item("i"), Item("j")], total=2))
    assert (tracker.problem, tracker.is_proven(2)) == (None, True)


# -- sweeps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INCREMENTAL)
def test_a_sweep_of_ids_follows_when_due_or_requested(kind: str) -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        world.upstream.delete("i2")
        world.upstream.gone.clear()
        listed(world)
        assert (await synced(world)).removed == 0
        assert {one.page.ids_only for one in listed(world)} == {False}
        assert (await synced(world, Sync(options=RIGHT))).removed == 1
        assert {one.page.ids_only for one in listed(world)} == {False, True}
        world.upstream.delete("i3")
        world.upstream.gone.clear()
        world.set_back = -3651 * 86_400.0
        assert (await synced(world)).removed == 1
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


def test_only_a_full_listing_counts_as_a_sweep_and_keeps_the_bookmark() -> None:
    async def body(world: World) -> None:
        furnish(world)
        await synced(world)
        before = await listing_state(world)
        await synced(world)
        assert (await listing_state(world)).swept_at == before.swept_at
        await synced(world, Sync(options=RIGHT))
        after = await listing_state(world)
        assert (after.bookmark, after.full_at) == (before.bookmark, before.full_at)
        assert (after.swept_at or 0.0) > (before.swept_at or 0.0)

    play(body, loose="oldest")


# -- feeds ---------------------------------------------------------------------------------------


def names(world: World) -> list[str]:
    """The collections and feeds that were requested since the last call."""
    requests, world.requests = world.requests, []
    return [one.name for one in requests]


def test_a_collection_that_a_feed_covers_is_listed_once() -> None:
    async def body(world: World) -> None:
        furnish(world)
        world.upstream.create(Item, "x", (LOOSE, "g"))
        await synced(world, Sync([Event("box", 0), Event("item", 0)]))
        assert {"feed", "Group.boxes", "Box.items"} <= set(names(world))
        await synced(world, Sync([Event("item", 1), Event("touch", 0)]))
        assert set(names(world)) == {"feed", "Root.groups", "Group.loose"}
        assert await world.state() == world.upstream.state()

    play(body, feed=True)


def test_a_new_parent_is_listed_though_a_feed_covers_its_children() -> None:
    async def body(world: World) -> None:
        furnish(world, items=0)
        await synced(world)
        world.upstream.create(Group, "new", (GROUPS, ROOT.id))
        names(world)
        await synced(world)
        assert [one for one in names(world) if one == "Group.boxes"] == ["Group.boxes"]

    play(body, feed=True)


@pytest.mark.parametrize("number", range(1, 7))
def test_changes_while_a_feed_begins_are_in_the_feed(number: int) -> None:
    async def body(world: World) -> None:
        furnish(world)
        begun = [Event("box", 0), Event("item", 0), Event("item", 1)]
        await synced(world, Sync(begun, {number: Event("delete", 3), number + 1: Event("touch", 4, 1)}))
        await synced(world)
        assert await world.state() == world.upstream.state()

    play(body, feed=True)


class Doc(Entity):
    """A document with a long text that is fetched separately."""

    title: Field[str] = Field()
    text: Field[str] = Field()


class Shelf(Entity):
    """A shelf of documents."""

    docs: Many[Doc] = Many()


SHELF = Ref(Shelf, "s")


class Library:
    """A feed that names documents without their texts, and records its requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.changed: list[str] = []
        self.answers: dict[str | None, Page[Entity]] = {}

    def loaders(self) -> Sequence[Loader[Any]]:
        """A listing, a text loader, and a feed that covers both."""

        @Loader.collection(Shelf.docs, brings=[Doc.title])
        async def docs(parent: Ref[Shelf], request: PageRequest, env: Any) -> Page[Doc]:
            self.asked.append("docs")
            return Page([Doc(id, title=id) for id in "abc"])

        @Loader.entity_batched(Doc.text)
        async def texts(refs: Sequence[Ref[Doc]], env: Any) -> Batch[Doc]:
            self.asked += [f"text {ref.id}" for ref in refs]
            return Batch([Doc(ref.id, text="long") for ref in refs])

        @Loader.feed(Shelf, brings=[Doc.title], covers=[Shelf.docs, Doc.text])
        async def changes(root: Ref[Shelf], request: PageRequest, env: Any) -> Page[Entity]:
            self.asked.append("changes")
            if request.sync_token is None:
                return Page([], sync_token="0")
            if self.answers:
                return self.answers[request.cursor]
            changed, self.changed = self.changed, []
            return Page([Doc(id, title="new") for id in changed], sync_token=f"{request.sync_token}1")

        return [docs, texts, changes]

    def sync(self, *before: Callable[[], object]) -> list[tuple[list[str], SyncResult]]:
        """The requests and result of each sync; the first one runs before any event."""

        connector = sample(schema=Schema([Shelf, Doc], roots=[Shelf]), loaders=self.loaders())
        root = Step.for_root(SHELF)
        steps = [root.follow("changes"), root.load_collection(Shelf.docs)]
        plan = SyncPlan([*steps, Step.for_all(Doc).load_fields(Doc.text)])
        results = []

        async def body(executor: SyncExecutor) -> None:
            for happens in (lambda: None, *before):
                happens()
                result = await (await executor.begin(plan)).completion()
                results.append((sorted(self.asked), result))
                self.asked.clear()

        executing(connector, Shelf("s"), body)
        return results


def executing(
    connector: Connector[Any, Any], root: Entity, body: Callable[[SyncExecutor], Awaitable[None]]
) -> None:
    """Run a body with an executor of a connector, in virtual time."""

    async def main() -> None:
        database = PatientDatabase(MEMORY)
        await database.start()
        engine = DatabaseEngine(database, connector.resolver)
        await engine.start()
        await engine.store(root)
        meta = DatabaseSyncMeta(database, engine)
        context = SyncContext(
            "i", connector, None, engine, meta, OperationRunner(Limits()), lambda: 1.9e9 + now()
        )
        executor = SyncExecutor(DatabaseTaskStore(database), context, worker=new_worker(), after=engine.tidy)
        await executor.start()
        await body(executor)
        await executor.stop()
        await database.stop()

    run(main())


def test_a_feed_makes_fields_stale_that_it_covers_and_does_not_bring() -> None:
    library = Library()
    (first, _), (second, _), (third, _) = library.sync(lambda: None, lambda: library.changed.append("b"))
    assert first == ["changes", "docs", "text a", "text b", "text c"]
    assert second == ["changes"]
    assert third == ["changes", "text b"]


def test_a_feed_that_names_everything_on_several_pages_starts_over() -> None:
    library = Library()

    def full() -> None:
        library.answers[None] = Page([Doc("a", title="1")], "more", complete_snapshot=True)
        library.answers["more"] = Page([Doc("b", title="2")], sync_token="9")

    (_, _), (second, result), (third, _) = library.sync(full, library.answers.clear)
    assert (second, len(result.notes)) == (["changes", "changes", "docs", "text a", "text b", "text c"], 1)
    assert third == ["changes"]


def test_a_feed_without_a_new_sync_token_fails() -> None:
    library = Library()

    def lost() -> None:
        library.answers[None] = Page([Doc("a", title="1")])

    (_, _), (_, result), (again, _) = library.sync(lost, library.answers.clear)
    assert (result.status, "new position" in result.failures[0].message) == (Status.FAILED, True)
    assert again == ["changes"]


class Wiki(Entity):
    """The root of some books."""

    books: Many[Book] = Many()


class Book(Entity):
    """A book of articles."""

    name: Field[str] = Field()
    articles: Many[Article] = Many(by=lambda: Article.book)


class Article(Entity):
    """An article, in a book or in none."""

    title: Field[str] = Field()
    book: Field[Ref[Book] | None] = Field()


class Wikis:
    """Two wikis of a book each, in which a feed says what has changed; it may forget its sync tokens."""

    def __init__(self) -> None:
        self.articles: dict[str, dict[str, tuple[str, bool]]] = {"v": {"1": ("old", True)}, "w": {}}
        self.changed: dict[str, list[str]] = {"v": [], "w": []}
        self.lost: set[str] = set()

    def connector(self) -> Connector[Any, Any]:
        """Lists of books and articles, and a feed that both wikis follow."""

        def article(wiki: str, id: str) -> Article:
            title, in_book = self.articles[wiki][id]
            return Article(id, title=title, book=Book.ref(wiki) if in_book else None)

        @Loader.collection(Wiki.books, brings=[Book.name])
        async def books(parent: Ref[Wiki], request: PageRequest, env: Any) -> Page[Book]:
            return Page([Book(parent.id, name="a book")])

        @Loader.collection(Book.articles, brings=[Article.title, Article.book])
        async def articles(parent: Ref[Book], request: PageRequest, env: Any) -> Page[Article]:
            there = self.articles[parent.id]
            return Page([article(parent.id, id) for id, (_, in_book) in there.items() if in_book])

        @Loader.feed(Wiki, brings=[Article.title, Article.book], covers=[Book.articles])
        async def changes(root: Ref[Wiki], request: PageRequest, env: Any) -> Page[Entity]:
            if request.sync_token is None:
                return Page([], sync_token="0")
            if root.id in self.lost:
                self.lost.discard(root.id)
                raise SyncTokenRefused("it is too old")
            changed, self.changed[root.id] = self.changed[root.id], []
            return Page([article(root.id, id) for id in changed], sync_token=f"{request.sync_token}1")

        async def seed(context: Any, store: Store) -> SyncPlan:
            await store.store(Wiki("v"), Wiki("w"))
            roots = [Step.for_root(Wiki.ref(id)) for id in "vw"]
            steps = [root.follow("changes") for root in roots]
            steps += [root.load_collection(Wiki.books) for root in roots]
            return SyncPlan([*steps, Step.for_all(Book).load_collection(Book.articles)])

        loaders = [books, articles, changes]
        return sample(schema=Schema([Wiki, Book, Article], roots=[Wiki]), loaders=loaders, seeder=seed)

    def sync(self, *before: Callable[[], object]) -> list[tuple[SyncResult, set[str]]]:
        """The result of each sync and the titles that are visible after it; the first is before any event."""
        results = []

        async def main() -> None:
            async with runtime(self.connector(), SampleConfig()) as copy:
                for happens in (lambda: None, *before):
                    happens()
                    result = await (await copy.sync(ALLOWED)).completion()
                    articles = await copy.engine.query(Article).all()
                    results.append((result, {one.title for one in articles}))

        FakeClock().run(main())
        return results


@pytest.mark.parametrize("wiki", ["v", "w"])
def test_what_a_feed_covers_is_listed_again_for_whichever_root_it_starts_over(wiki: str) -> None:
    wikis = Wikis()

    def unseen() -> None:
        wikis.lost.add(wiki)
        wikis.articles[wiki]["2"] = ("created while the token was too old", True)

    (_, first), (_, second) = wikis.sync(unseen)
    assert second - first == {"created while the token was too old"}


def test_a_row_in_no_listing_goes_when_a_feed_has_started_over_for_every_root() -> None:
    wikis = Wikis()

    def named() -> None:
        wikis.articles["v"]["2"], wikis.changed["v"] = ("in no book", False), ["2"]

    def unseen() -> None:
        del wikis.articles["v"]["2"]
        wikis.lost |= {"v", "w"}

    (_, _), (_, second), (result, third) = wikis.sync(named, unseen)
    assert (second, third, result.removed) == ({"old", "in no book"}, {"old"}, 1)


# -- overlap -------------------------------------------------------------------------------------


PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Dated(Entity):
    """A thing with the time of its last change."""

    changed: Field[datetime] = Field()


class Place(Entity):
    """The parent of dated things."""

    things: Many[Dated] = Many()


def test_an_overlap_is_subtracted_from_the_latest_watermark_that_is_no_time_to_come() -> None:
    asked: list[datetime | None] = []
    watermark = Watermark(Dated.changed, overlap=timedelta(minutes=5))

    @Loader.collection(Place.things, brings=[Dated.changed], watermark=watermark)
    async def things(parent: Ref[Place], request: PageRequest, env: Any) -> Page[Dated]:
        asked.append(request.since)
        return Page([Dated("i", changed=PAST), Dated("j", changed=PAST + timedelta(days=36_500))])

    plan = SyncPlan([Step.for_root(Place.ref("p")).load_collection(Place.things)])
    connector = sample(schema=Schema([Place, Dated], roots=[Place]), loaders=[things])

    async def body(executor: SyncExecutor) -> None:
        for _ in range(2):
            assert (await (await executor.begin(plan)).completion()).status is Status.COMPLETED

    executing(connector, Place("p"), body)
    assert asked == [None, PAST - timedelta(minutes=5)]


# -- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", [0, 3])
def test_a_clock_set_back_does_not_freeze_the_data(kind: str, items: int) -> None:
    async def body(world: World) -> None:
        furnish(world, items)
        await synced(world)
        world.set_back = 365 * 86_400.0
        world.upstream.create(Item, "new", (LOOSE, "g"))
        world.upstream.touch("g", "changed")
        await synced(world)
        assert await world.state() == world.upstream.state()
        world.upstream.delete("new")
        await synced(world, Sync(options=RIGHT))
        assert await world.state() == world.upstream.state()

    play(body, loose=kind)


def test_the_times_within_a_sync_strictly_increase() -> None:
    nothing: Any = None
    parts = (nothing, nothing, nothing, nothing, nothing)
    around = SyncContext("i", *parts, clock=lambda: 1_700_000_000.0)
    times = [around.now() for _ in range(1_000)]
    assert times == sorted(set(times))
    assert times[-1] - times[0] < 2_000 * MOMENT
