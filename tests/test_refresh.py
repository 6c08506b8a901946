"""``refresh_when``: what hangs on a row is fetched again when a field of the row moved, and only then."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from max.connecting import (
    Batch,
    Entity,
    Env,
    Field,
    Installation,
    Loader,
    Many,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    Watermark,
)
from max.core import InstallationInfo, SyncOptions
from max.errors import ConnectorError
from max.execution import NO_OPTIONS
from max.model.delivery import Delivery
from max.model.tasks import Status, SyncResult
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests.sample import SampleConfig, sample

ROOT = Path(__file__).parent.parent
NOW = 1_900_000_000.0  # seconds since the epoch: when the clock of a test begins
DAY = timedelta(days=1)


class Repo(Entity):
    """Lists the pulls."""

    pushed: Field[int] = Field()
    pulls: Many[Pull] = Many()
    tags: Many[Tag] = Many()


class Tag(Entity):
    """Hangs on the root."""


class Pull(Entity):
    """A pull request; ``version`` moves with whatever hangs on it."""

    version: Field[int | None] = Field()
    title: Field[str] = Field()
    size: Field[int] = Field()
    reviews: Many[Review] = Many()


class Review(Entity):
    """A review of a pull."""

    text: Field[str] = Field()
    at: Field[datetime] = Field()


@dataclass
class Service:
    """What exists upstream, what was asked for, and what it refuses."""

    pulls: dict[str, int | None]  # versions
    reviews: dict[str, list[str]] = field(default_factory=dict)  # by pull
    pushed: int = 0
    asked: list[str] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    since: list[datetime | None] = field(default_factory=list)
    now: float = NOW
    sizes_inline: bool = False  # listing pulls also brings their sizes
    account: str = "first"

    def ask(self, what: str) -> None:
        """A request, refused or not."""
        self.asked.append(what)
        if what in self.forbidden:
            raise PermissionDenied(f"{what}: it was arranged so")

    def taken(self) -> list[str]:
        """The requests since the last call, sorted."""
        taken, self.asked = sorted(self.asked), []
        return taken


def loaders(declared: dict[str, Any]) -> dict[str, Loader[Any]]:
    """The loaders; ``declared`` is what those of sizes and reviews say of when they fetch again."""

    @Loader.collection(Repo.pulls, brings=[Pull.version, Pull.title, Pull.size])
    async def pulls(parent: Ref[Repo], request: PageRequest, env: Env[Service]) -> Page[Pull]:
        env.context.ask("pulls")
        rows = [Pull(id, version=v, title=f"pull {id}") for id, v in env.context.pulls.items()]
        sized = [Pull(id, version=v, title="", size=1) for id, v in env.context.pulls.items()]
        return Page(sized if env.context.sizes_inline else rows)

    @Loader.collection(Repo.tags, refresh_when=Repo.pushed)
    async def tags(parent: Ref[Repo], request: PageRequest, env: Env[Service]) -> Page[Tag]:
        env.context.ask("tags")
        return Page([Tag("t")])

    @Loader.entity_batched(Pull.size, size=2, **declared)
    async def sizes(refs: Sequence[Ref[Pull]], env: Env[Service]) -> Batch[Pull]:
        env.context.ask("sizes " + "".join(sorted(ref.id for ref in refs)))
        return Batch([Pull(ref.id, size=env.context.pulls[ref.id] or 0) for ref in refs])

    @Loader.collection(Pull.reviews, brings=[Review.text, Review.at], **declared)
    async def reviews(parent: Ref[Pull], request: PageRequest, env: Env[Service]) -> Page[Review]:
        env.context.ask(f"reviews {parent.id}")
        env.context.since.append(request.since)
        at = datetime.fromisoformat("2026-01-01T00:00:00Z")
        return Page([Review(one, text=one, at=at) for one in env.context.reviews.get(parent.id, ())])

    return {loader.name: loader for loader in (pulls, tags, sizes, reviews)}


STEPS = (
    Step.for_root(Repo.ref("r")).load_collection(Repo.pulls),
    Step.for_all(Pull).load_fields(Pull.size),
    Step.for_all(Pull).load_collection(Pull.reviews),
)
WATCHING = {"refresh_when": Pull.version}


def runtime(
    service: Service,
    path: Path,
    declared: dict[str, Any] = WATCHING,
    steps: Sequence[Step] = STEPS,
    **changes: Any,
) -> InstallationRuntime:
    """An installation of the service that is not started."""

    async def seed(context: Service, store: Store) -> SyncPlan:
        await store.store(Repo("r", pushed=context.pushed))
        return SyncPlan(list(steps))

    async def initialise(config: Any, credentials: Any) -> Installation[Service]:
        return Installation(service)

    attributes: dict[str, Any] = {
        "schema": Schema([Repo, Tag, Pull, Review], roots=[Repo]),
        "loaders": list(loaders(declared).values()),
        "seeder": seed,
        "initialise": initialise,
    }
    secrets = CredentialProvider(MemoryCredentials(), ())
    connector = sample(**(attributes | changes))
    info = InstallationInfo("sample", "default", "abc", {"account": service.account}, 0.0)
    return InstallationRuntime(
        info, connector, SampleConfig(), secrets, SqliteDatabase(path), clock=lambda: service.now
    )


class Copy:
    """A copy of a service in a file; each sync is a process of its own, an hour after the last."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.path = service, folder / "data.db"

    def sync(self, options: SyncOptions = NO_OPTIONS, **changes: Any) -> list[str]:
        """The requests of one sync."""
        self.service.now += 3_600
        self.result = asyncio.run(self._sync(options, changes))
        return self.service.taken()

    async def _sync(self, options: SyncOptions, changes: dict[str, Any]) -> SyncResult:
        async with Running(runtime(self.service, self.path, **changes)) as one:
            return await (await one.sync(options)).completion()

    async def _reviews(self) -> list[str]:
        async with Running(runtime(self.service, self.path)) as one:
            return sorted(review.id for review in await one.engine.query(Review).all())

    def reviews(self) -> list[str]:
        """The ids of the reviews that are stored."""
        return asyncio.run(self._reviews())


class Running:
    """A runtime between its start and its stop."""

    def __init__(self, one: InstallationRuntime) -> None:
        self._one = one

    async def __aenter__(self) -> InstallationRuntime:
        await self._one.start()
        return self._one

    async def __aexit__(self, *_: object) -> None:
        await self._one.stop()


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A copy of four pulls, synced once."""
    copy = Copy(Service(dict.fromkeys("abcd", 1), {"a": ["a1"]}), tmp_path)
    assert copy.sync() == EVERYTHING
    return copy


EVERYTHING = ["pulls", "reviews a", "reviews b", "reviews c", "reviews d", "sizes ab", "sizes cd"]


def test_what_hangs_on_a_row_is_asked_for_again_when_the_field_moved_and_only_then(copy: Copy) -> None:
    assert copy.sync() == ["pulls"]
    copy.service.pulls |= {"b": 2, "d": 7}
    copy.service.reviews |= {"b": ["b1"], "c": ["unseen, since c did not move"]}
    assert copy.sync() == ["pulls", "reviews b", "reviews d", "sizes bd"]
    assert copy.reviews() == ["a1", "b1"]
    assert copy.sync() == ["pulls"]
    assert copy.result.status is Status.COMPLETED


def test_a_new_row_and_one_that_returns_are_fetched(copy: Copy) -> None:
    left = copy.service.pulls.pop("d")
    copy.service.pulls["e"] = 1
    assert copy.sync() == ["pulls", "reviews e", "sizes e"]
    copy.service.pulls["d"] = left
    assert copy.sync() == ["pulls", "reviews d"], "its size is what it was at this version"


def test_a_field_that_becomes_empty_or_is_no_longer_empty_has_moved(copy: Copy) -> None:
    for version in (None, 1):
        copy.service.pulls["c"] = version
        assert copy.sync() == ["pulls", "reviews c", "sizes c"]
    assert copy.sync() == ["pulls"]


def test_a_field_that_moved_there_and_back_between_two_syncs_has_not_moved(copy: Copy) -> None:
    copy.service.pulls["a"] = 2
    copy.service.pulls["a"] = 1
    assert copy.sync() == ["pulls"]


def test_other_fields_of_the_row_do_not_count(copy: Copy) -> None:
    copy.service.sizes_inline = True  # every title changes
    assert copy.sync() == ["pulls"]


def test_what_failed_is_asked_for_in_the_next_sync_and_nothing_else(copy: Copy) -> None:
    copy.service.pulls |= {"a": 2, "b": 2}
    copy.service.forbidden = {"reviews a"}
    assert copy.sync() == ["pulls", "reviews a", "reviews b", "sizes ab"]
    assert copy.result.status is Status.PARTIAL
    copy.service.forbidden = set()
    assert copy.sync() == ["pulls", "reviews a"]
    assert copy.sync() == ["pulls"]


def test_a_process_that_dies_before_the_detail_leaves_it_to_the_next_sync(copy: Copy) -> None:
    """The first sync ends after the parents: the plan of its process goes no further."""
    copy.service.pulls["b"] = 2
    assert copy.sync(steps=STEPS[:1]) == ["pulls"]
    assert copy.sync() == ["pulls", "reviews b", "sizes b"]


KILLED = """
import sys
from pathlib import Path
from tests.crashing import die_at_commit
from tests.test_refresh import Copy, Service

service = Service({"a": 1, "b": 2, "c": 1, "d": 1}, {"a": ["a1"], "b": ["b1"]}, now=float(sys.argv[2]))
copy = Copy(service, Path(sys.argv[1]))
die_at_commit(int(sys.argv[3]))
copy.sync()
"""


def test_a_process_killed_at_any_commit_leaves_the_detail_of_what_moved_to_the_next_one(copy: Copy) -> None:
    first, commits = copy.path.read_bytes(), 0
    copy.service.pulls["b"], copy.service.reviews["b"] = 2, ["b1"]
    for nth in range(1, 100, 2):
        for file in copy.path.parent.iterdir():
            file.unlink()
        copy.path.write_bytes(first)
        words = [sys.executable, "-c", KILLED, str(copy.path.parent), str(copy.service.now), str(nth)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert "reviews a" not in copy.sync()
        assert copy.reviews() == ["a1", "b1"]
        assert copy.sync() == ["pulls"], "nothing is left to fetch"
        commits = nth
    assert commits >= 5


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        (SyncOptions(full=True), EVERYTHING),
        (SyncOptions(missing_only=True), ["pulls", "reviews b", "sizes b"]),
        (SyncOptions(if_stale=1.0), ["pulls", "reviews b", "sizes b"]),
        (SyncOptions(if_stale=86_400.0), []),
        (SyncOptions(only=("Review",)), []),
        (SyncOptions(only=("Pull", "Review")), ["pulls", "reviews b", "sizes b"]),
        (
            SyncOptions(check_deletes=True),
            ["pulls", "reviews a", "reviews b", "reviews c", "reviews d", "sizes b"],
        ),
    ],
)
def test_the_options_of_a_sync(options: SyncOptions, requests: list[str], copy: Copy) -> None:
    copy.service.pulls["b"] = 2
    if not options.missing_only:
        assert copy.sync(options) == requests
    else:  # pulls that are not stale are not asked for: what moved was seen before
        copy.sync(steps=STEPS[:1])
        assert copy.sync(options) == requests[1:]


def test_a_time_to_live_beside_it_fetches_what_moved_or_is_older(copy: Copy) -> None:
    declared = WATCHING | {"ttl": DAY}
    copy.service.pulls["b"] = 2
    assert copy.sync(declared=declared) == ["pulls", "reviews b", "sizes b"]
    copy.service.now += 23 * 3_600
    old = ["pulls", "reviews a", "reviews c", "reviews d", "sizes ac", "sizes d"]
    assert copy.sync(declared=declared) == old


def test_what_was_invalidated_is_asked_for(copy: Copy) -> None:
    async def invalidate() -> None:
        async with Running(runtime(copy.service, copy.path)) as one:
            await one.invalidate(Pull.ref("c"))

    copy.service.now += 1
    asyncio.run(invalidate())
    assert copy.sync() == ["pulls", "sizes c"]


def test_one_row_that_a_step_names_is_asked_for_when_it_moved(copy: Copy) -> None:
    one = Step.for_one(Pull.ref("b"))
    steps = [STEPS[0], one.load_fields(Pull.size), one.load_collection(Pull.reviews)]
    assert copy.sync(steps=steps) == ["pulls"]
    copy.service.pulls |= {"a": 2, "b": 2}
    assert copy.sync(steps=steps) == ["pulls", "reviews b", "sizes b"]


def test_what_hangs_on_a_root_is_asked_for_when_the_seeder_stored_another_value(tmp_path: Path) -> None:
    copy = Copy(Service({}), tmp_path)
    steps = [Step.for_root(Repo.ref("r")).load_collection(Repo.tags)]
    assert [copy.sync(steps=steps) for _ in "12"] == [["tags"], []]
    copy.service.pushed = 5
    assert [copy.sync(steps=steps) for _ in "12"] == [["tags"], []]


def test_a_listing_of_changes_goes_on_from_its_mark(tmp_path: Path) -> None:
    watermark = Watermark(Review.at)

    def changed() -> dict[str, Any]:
        made = loaders(WATCHING)
        made["reviews"].__dict__["watermark"] = watermark
        return {"loaders": list(made.values())}

    copy = Copy(Service({"a": 1}, {"a": ["a1"]}), tmp_path)
    copy.sync(**changed())
    copy.service.pulls["a"] = 2
    copy.sync(**changed())
    assert copy.service.since == [None, datetime.fromisoformat("2026-01-01T00:00:00Z")]


def test_what_came_with_the_field_itself_is_not_asked_for(tmp_path: Path) -> None:
    copy = Copy(Service({"a": 1}, sizes_inline=True), tmp_path)
    assert copy.sync() == ["pulls", "reviews a"]
    copy.service.pulls["a"] = 2
    assert copy.sync() == ["pulls", "reviews a"]


# -- removals ------------------------------------------------------------------------------------


def test_a_row_that_is_gone_from_a_parent_that_moved_is_removed_without_asking_the_others(copy: Copy) -> None:
    """The others were seen unmoved, in both looks, so they cannot have it."""
    copy.service.pulls["a"] = 2
    copy.service.reviews["a"] = []
    requests = copy.sync(SyncOptions(allow_removals=True))
    assert requests == ["pulls", "pulls", "reviews a", "sizes a"]
    assert (copy.reviews(), copy.result.removed) == ([], 1)


def test_a_row_that_moved_to_another_parent_stays(copy: Copy) -> None:
    copy.service.pulls |= {"a": 2, "c": 2}
    copy.service.reviews = {"c": ["a1"]}
    copy.sync(SyncOptions(allow_removals=True))
    assert (copy.reviews(), copy.result.removed) == (["a1"], 0)


def test_rows_below_a_parent_that_was_not_asked_again_stay(copy: Copy) -> None:
    copy.service.reviews = {}
    assert (copy.sync(), copy.reviews()) == (["pulls"], ["a1"])
    copy.sync(SyncOptions(check_deletes=True, allow_removals=True))
    assert copy.reviews() == []


def test_a_place_whose_parent_is_not_seen_again_is_asked_itself(copy: Copy) -> None:
    """Only one pull is named, and nothing says that the others have not moved."""
    copy.service.pulls["a"] = 2
    copy.service.reviews["a"] = []
    copy.sync(steps=STEPS[:1])
    copy.service.forbidden = {"pulls"}
    steps = [Step.for_all(Pull).load_collection(Pull.reviews)]
    requests = copy.sync(SyncOptions(allow_removals=True), steps=steps)
    assert set(requests) >= {"reviews a", "reviews b", "reviews c", "reviews d"}
    assert copy.reviews() == ["a1"], "its parent's listing cannot be read, so a new place may have it"


# -- accounts and connectors that change ---------------------------------------------------------


def test_a_field_that_has_the_value_that_it_had_in_another_account_may_have_moved(copy: Copy) -> None:
    copy.service.account = "second"
    copy.sync(SyncOptions(only=("Review",)))  # which does not show the versions of this account
    copy.service.reviews["a"] = ["a1", "a2"]
    assert copy.sync() == EVERYTHING
    assert copy.reviews() == ["a1", "a2"]
    assert copy.sync() == ["pulls"]


def test_a_connector_that_begins_to_watch_fetches_everything_once(copy: Copy) -> None:
    """No move was noted until then, so everything may have moved."""
    static = {"ttl": timedelta.max}
    assert copy.sync(declared=static) == ["pulls"]
    copy.service.pulls["b"] = 2  # not noted, since it is not watched
    assert copy.sync(declared=static) == ["pulls"]
    assert copy.sync() == EVERYTHING
    assert copy.sync() == ["pulls"]


def test_a_database_without_the_column_gets_one(tmp_path: Path) -> None:
    copy = Copy(Service({"a": 1}), tmp_path)
    copy.sync(declared={})
    assert copy.sync() == ["pulls", "reviews a", "sizes a"]
    assert copy.sync() == ["pulls"]


# -- the order of responses ----------------------------------------------------------------------

PULL = Pull.ref("p")


def listed(began: float, version: int | None) -> Delivery:
    """A response that brings a pull with a version; it takes five seconds."""
    return Delivery([Pull("p", version=version)], began, received_at=began + 5)


def sized(began: float) -> Delivery:
    return Delivery([Pull("p", size=1)], began, received_at=began + 1)


@pytest.mark.parametrize(
    ("deliveries", "stale"),
    [
        ([listed(10, 1), sized(20)], False),
        ([listed(10, 1), sized(20), listed(30, 1)], False),
        ([listed(10, 1), sized(20), listed(30, 2)], True),
        ([listed(10, 1), sized(20), listed(30, 2), sized(40)], False),
        ([listed(10, 1), listed(30, 2), sized(32)], True),  # it may have been answered before the change
        ([listed(10, 1), sized(34), listed(30, 2)], True),
        ([listed(10, 1), sized(36), listed(30, 2)], False),
        ([listed(10, 1), sized(20), listed(5, 3)], False),  # an older answer is ignored
        ([sized(20), listed(10, 1)], False),
        ([sized(20), listed(30, 1)], True),  # not known before: it may have moved
        ([sized(20), listed(30, None)], True),
    ],
)
def test_a_detail_is_as_new_as_a_value_that_came_before_it_was_requested(
    deliveries: list[Delivery], stale: bool
) -> None:
    async def main(path: Path) -> tuple[list[str], bool]:
        async with Running(runtime(Service({}), path)) as one:
            engine, meta = one.engine, one.sync_meta
            for delivery in deliveries:
                write = engine.prepare_write(delivery)
                await cast(Any, write.database).transact(write.work)
            ids = await meta.stale_ids(Pull, ["size"], before=0.0)
            return ids, bool(await meta.stale(PULL, [Pull.size], before=0.0))

    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(main(Path(folder) / "data.db")) == (["p"] if stale else [], stale)


def test_a_clock_that_was_ahead_does_not_keep_everything_stale(copy: Copy) -> None:
    copy.service.now += 1_000_000
    copy.service.pulls["a"] = 2
    copy.sync()
    copy.service.now -= 1_000_000
    assert copy.sync() == ["pulls", "reviews a", "sizes a"], "their ages are unknown"
    assert copy.sync() == ["pulls"]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (Review.text, r"refresh_when=Review.text, which is not a field of Pull"),
        (Pull.reviews, r"refresh_when=Pull.reviews, which is not a field of Pull"),
        (Pull.id, r"refresh_when=Pull.id, which is not a field of Pull"),
        ("version", r"refresh_when='version', which is not a field of Pull"),
        (Pull.size, r"refresh_when=Pull.size, which no other loader brings"),
    ],
)
def test_a_field_that_cannot_be_watched_is_refused_when_the_connector_loads(field: Any, words: str) -> None:
    made = loaders({"refresh_when": field})
    made["pulls"].brings = (Pull.version, Pull.title)
    kept = [made[name] for name in ("pulls", "tags", "sizes")]
    reviews = loaders({})["reviews"]
    with pytest.raises(ConnectorError, match=words):
        sample(schema=Schema([Repo, Tag, Pull, Review], roots=[Repo]), loaders=[*kept, reviews])


def test_a_collection_that_a_feed_covers_is_not_refreshed_as_well() -> None:
    @Loader.feed(Repo, brings=[], covers=[Repo.tags])
    async def changes(root: Ref[Repo], request: PageRequest, env: Env[Any]) -> Page[Entity]:
        return Page([], sync_token="1")

    made = loaders({}).values()
    with pytest.raises(ConnectorError, match=r"refresh_when=Repo.pushed, and feed changes covers Repo.tags"):
        sample(schema=Schema([Repo, Tag, Pull, Review], roots=[Repo]), loaders=[*made, changes])
