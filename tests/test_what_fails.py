"""What fails, what it blocks, what happens to rows: each row of the table in docs/connectors.md."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from max.connecting import (
    BadCredentials,
    Batch,
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
    PermissionDenied,
    QuotaExceeded,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    UpstreamMissing,
)
from max.core import SyncOptions
from max.model.tasks import SyncResult
from max.runtime import InstallationRuntime
from max.testing import FakeClock, runtime

PAGE = Path(__file__).parent.parent / "docs" / "connectors.md"
TABLE = re.compile(r"^\| what fails \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.M)


class Account(Entity):
    """The root."""

    repositories: Many[Repository] = Many()


class Repository(Entity):
    """A parent."""

    name: Field[str] = Field()
    issues: Many[Issue] = Many()


class Issue(Entity):
    """A child, with a field that a second request brings."""

    title: Field[str] = Field()
    votes: Field[int] = Field()


class World:
    """The service: which repositories there are, their issues, and what fails now, by name."""

    def __init__(self) -> None:
        self.repositories: list[Any] = [{"id": name, "name": name} for name in ("a", "b")]
        self.issues = {"a": ["a1", "a2"], "b": ["b1"]}
        self.fails: dict[str, Exception] = {}
        self.unread: dict[str, Exception] = {}
        self.asked: list[str] = []

    def ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.fails:
            raise self.fails[name]


@Loader.raw
async def shared(env: Env[World]) -> str:
    env.context.ask("shared")
    return "shared"


@Loader.collection(Account.repositories, brings=Repository)
async def repositories(parent: Ref[Account], request: PageRequest, env: Env[World]) -> Page[Repository]:
    env.context.ask("repositories")
    return Page.read(Repository, env.context.repositories, failed=env.context.unread)


@Loader.collection(Repository.issues, brings=[Issue.title])
async def issues(parent: Ref[Repository], request: PageRequest, env: Env[World]) -> Page[Issue]:
    await env.raw(shared)
    page = request.cursor or "1"
    env.context.ask(f"issues of {parent.id}, page {page}")
    ids = env.context.issues[parent.id]
    shown, more = (ids[:1], "2") if page == "1" and len(ids) > 1 else (ids[int(page) - 1 :], None)
    return Page.read(Issue, [{"id": id, "title": id} for id in shown], next=more, total=len(ids))


@Loader.entity_batched(Issue.votes)
async def votes(refs: Sequence[Ref[Issue]], env: Env[World]) -> Batch[Issue]:
    env.context.ask("votes")
    fails = env.context.fails
    there = {id for ids in env.context.issues.values() for id in ids}
    failed = {ref.id: fails[ref.id] for ref in refs if ref.id in fails}
    found = [Issue(ref.id, votes=1) for ref in refs if ref.id in there and ref.id not in failed]
    return Batch(found, failed)


def started(world: World, database: Path) -> AbstractAsyncContextManager[InstallationRuntime]:
    async def seed(context: World, store: Store) -> SyncPlan:
        context.ask("seeder")
        await store.store(Account("x"))
        return SyncPlan(
            [
                Step.for_root(Account.ref("x")).load_collection(Account.repositories),
                Step.for_all(Repository).load_collection(Repository.issues),
                Step.for_all(Issue).load_fields(Issue.votes),
            ]
        )

    async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[World]:
        return Installation(world)

    connector = Connector(
        name="fails",
        description="What fails.",
        schema=Schema([Account, Repository, Issue], roots=[Account]),
        loaders=[repositories, issues, votes, shared],
        seeder=seed,
        initialise=initialise,
        config=NoConfig,
    )
    return runtime(connector, {}, database=database)


class Stage:
    """A world, and what is stored of it."""

    def __init__(self, world: World, one: InstallationRuntime) -> None:
        self.world, self.one = world, one

    async def sync(self, **options: Any) -> tuple[str, list[tuple[str, str]]]:
        """The status, and of each failure what failed and its code."""
        self.world.asked.clear()
        result: SyncResult = await (await self.one.sync(SyncOptions(**options))).completion()
        return str(result.status), [(failure.what, failure.code) for failure in result.failures]

    async def ids(self, entity: type[Entity]) -> list[str]:
        return [row.id for row in await self.one.engine.query(entity).all()]


async def one_item(stage: Stage) -> None:
    await stage.sync()
    stage.world.repositories.pop()
    stage.world.unread = {"b": PermissionDenied("for members only")}
    status, failures = await stage.sync()
    assert (status, len(failures)) == ("partial", 1)
    assert await stage.ids(Repository) == ["a", "b"]
    assert {"issues of a, page 1", "issues of b, page 1", "votes"} <= {*stage.world.asked}
    stage.world.fails = {"a1": PermissionDenied("no votes")}
    assert ("votes" in stage.world.asked, (await stage.sync())[0]) == (True, "partial")
    assert await stage.ids(Issue) == ["a1", "a2", "b1"]


async def one_parent(stage: Stage) -> None:
    await stage.sync()
    stage.world.issues = {"a": ["a3", "a1", "a2"], "b": ["b1", "b2"]}
    stage.world.fails = {"issues of a, page 2": PermissionDenied("no")}
    status, failures = await stage.sync()
    assert (status, [code for _, code in failures]) == ("partial", ["upstream.permission"])
    assert await stage.ids(Issue) == ["a1", "a2", "a3", "b1", "b2"]  # a1 and a2 did not come
    assert "votes" in stage.world.asked


async def one_row_step(stage: Stage) -> None:
    await stage.sync()
    stage.world.fails = {"repositories": PermissionDenied("no")}
    status, failures = await stage.sync()
    assert [code for _, code in failures] == ["upstream.permission", "sync.blocked", "sync.blocked"]
    assert (status, stage.world.asked) == ("failed", ["seeder", "repositories"])
    assert await stage.ids(Issue) == ["a1", "a2", "b1"]


async def all_rows_step(stage: Stage) -> None:
    stage.world.fails = {"issues of a, page 1": PermissionDenied("no")}
    assert (await stage.sync())[0] == "partial"
    assert "votes" in stage.world.asked  # one of the two listings came
    stage.world.fails["issues of b, page 1"] = PermissionDenied("no")
    status, failures = await stage.sync()
    assert [code for _, code in failures] == ["upstream.permission"] * 2 + ["sync.blocked"]
    assert (status, "votes" in stage.world.asked) == ("partial", False)
    assert await stage.ids(Issue) == ["b1"]


async def invalid_row(stage: Stage) -> None:
    stage.world.repositories = [{"id": "a", "name": 7}, {"id": "b", "name": "b"}]
    status, _ = await stage.sync()
    assert (status, await stage.ids(Repository)) == ("partial", ["b"])
    assert "issues of b, page 1" in stage.world.asked


async def waits(stage: Stage) -> None:
    stage.world.fails = {"issues of a, page 1": QuotaExceeded("later", retry_after=60.0)}
    status, failures = await stage.sync()
    assert (status, [code for _, code in failures]) == ("partial", ["upstream.quota"])
    assert stage.world.asked.count("issues of a, page 1") == 5
    assert await stage.ids(Issue) == ["b1"]


async def large_removal(stage: Stage) -> None:
    many = [f"a{number}" for number in range(40)]
    stage.world.issues["a"] = many
    await stage.sync()
    stage.world.issues["a"] = many[:2]
    status, _ = await stage.sync()
    assert (status, len(await stage.ids(Issue))) == ("partial", 41)
    status, _ = await stage.sync(allow_removals=True)
    assert (status, len(await stage.ids(Issue))) == ("completed", 3)


async def seeder(stage: Stage) -> None:
    await stage.sync()
    stage.world.fails = {"seeder": BadCredentials("no")}
    stage.world.asked.clear()
    with pytest.raises(BadCredentials):
        await stage.sync()
    assert stage.world.asked == ["seeder"]
    assert await stage.ids(Issue) == ["a1", "a2", "b1"]


async def raw_loader(stage: Stage) -> None:
    await stage.sync()
    stage.world.fails = {"shared": UpstreamMissing("gone")}
    status, failures = await stage.sync()
    assert [code for _, code in failures] == ["upstream.missing"] * 2 + ["sync.blocked"]
    assert (status, await stage.ids(Issue)) == ("partial", ["a1", "a2", "b1"])


PROOFS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "one ref of a batch": one_item,
    "the listing of one parent": one_parent,
    "a step for one row": one_row_step,
    "a step for all rows": all_rows_step,
    "an invalid row": invalid_row,
    "the wait for the service": waits,
    "a removal that is suspiciously large": large_removal,
    "the seeder": seeder,
    "a raw loader": raw_loader,
}


@pytest.mark.parametrize("what", PROOFS)
def test_what_fails_blocks_and_leaves_what_the_table_says(what: str, tmp_path: Path) -> None:
    async def main() -> None:
        world = World()
        async with started(world, tmp_path / "data.db") as one:
            check = PROOFS[what]
            await check(Stage(world, one))

    FakeClock().run(main())


def test_every_row_of_the_table_has_a_test() -> None:
    (rows,) = TABLE.findall(PAGE.read_text(encoding="utf-8"))
    named = [row.split(" | ")[0].removeprefix("| ") for row in rows.splitlines()]
    proven = [next((what for what in PROOFS if name.startswith(what)), name) for name in named]
    assert proven == list(PROOFS)
