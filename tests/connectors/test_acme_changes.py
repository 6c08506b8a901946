"""Repeated syncs of Acme: the change feed saves requests and misses no change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from max_connectors.acme import (
    Acme,
    AcmeConfig,
    AcmeFile,
    AcmeTask,
    AcmeUser,
    AcmeWorkspace,
    Embedded,
    connector,
)
from max_connectors.acme_service import Service, Settings

from max import InstallationInfo, InstallationRuntime, SyncOptions, SyncResult
from max.connecting import CredentialProvider, Entity, Installation
from max.model.tasks import Status
from max.storage.sqlite import MEMORY, SqliteDatabase
from max.upstream.credentials import MemoryCredentials

T = TypeVar("T")
SMALL = Settings(workspaces=2, users=3, projects=2, tasks=4, files=1)
ENTITIES: list[type[Entity]] = list(connector.schema.entities.values())


def syncing(
    service: Service,
    body: Callable[[InstallationRuntime], Awaitable[T]],
    *,
    changes: bool = True,
    path: Path | str = MEMORY,
) -> T:
    """Run a function with an installation of a tenant that keeps its state between syncs."""

    async def initialise(config: AcmeConfig, credentials: CredentialProvider) -> Installation[Acme]:
        return Installation(Acme(Embedded(service), "here", changes=changes))

    async def main() -> T:
        info = InstallationInfo("acme", "default", "test", {}, 0.0)
        source = replace(connector, initialise=initialise)
        secrets = CredentialProvider(MemoryCredentials(), [])
        runtime = InstallationRuntime(info, source, AcmeConfig(), secrets, SqliteDatabase(path))
        await runtime.start()
        try:
            return await body(runtime)
        finally:
            await runtime.stop()

    return asyncio.run(main())


async def sync(runtime: InstallationRuntime, **options: Any) -> SyncResult:
    """One complete sync."""
    return await (await runtime.sync(SyncOptions(**options))).completion()


async def stored(runtime: InstallationRuntime) -> list[Any]:
    """Everything stored, as JSON."""
    found = [one for entity in ENTITIES for one in await runtime.engine.query(entity).all()]
    return [(type(one).__name__, one.to_dict()) for one in found]


def fresh(service: Service) -> list[Any]:
    """What a first sync without the feed stores."""

    async def body(runtime: InstallationRuntime) -> list[Any]:
        await sync(runtime)
        return await stored(runtime)

    return syncing(service, body, changes=False)


def change(service: Service, number: int) -> None:
    """One change; the number selects its kind and record."""
    tenant = service.tenant
    kinds = ["workspace", "user", "project", "task", "file"]
    ids = sorted(record["id"] for record in everything(service))
    if not ids:
        return
    id = ids[number // 3 % len(ids)]
    kind = tenant.kind(id)
    if number % 3 == 0:
        tenant.update(id, {"title" if kind.name == "task" else "name": f"changed {number}"})
    elif number % 3 == 1:
        tenant.delete(id)
    else:
        parent = id.rpartition("-")[0]
        tenant.create(kind, parent, {})
    assert kind.name in kinds


def everything(service: Service) -> list[Any]:
    """Every record of a tenant."""
    found: list[Any] = []

    def below(kind: str, parent: str) -> None:
        kinds = {"": ["workspace"], "workspace": ["user", "project"], "project": ["task", "file"]}
        for name in kinds.get(kind, []):
            from max_connectors.acme_service import KINDS

            records, _ = service.tenant.page(KINDS[name], parent, 0, 10_000)
            found.extend(records)
            for record in records:
                below(name, record["id"])

    below("", "")
    return found


def test_a_second_sync_of_an_unchanged_company_is_one_request() -> None:
    async def body(runtime: InstallationRuntime) -> list[Any]:
        results = [await sync(runtime) for _ in range(3)]
        return [(result.status, dict(result.requests), result.removed) for result in results[1:]]

    for size in (SMALL, Settings(workspaces=3, users=30, projects=10, tasks=40, files=3)):
        assert syncing(Service(size), body) == [(Status.COMPLETED, {"acme:change:list": 1}, 0)] * 2


def test_few_changes_cost_few_requests_in_a_large_company() -> None:
    service = Service(Settings(workspaces=2, users=20, projects=10, tasks=50, files=2))

    async def body(runtime: InstallationRuntime) -> Counter[str]:
        await sync(runtime)
        for number in range(10):
            service.tenant.update(f"w1-p{number + 1}-t1", {"title": "new"})
        service.tenant.update("w2-u3", {"name": "Zoë"})
        service.tenant.delete("w2-p1-t1")
        return Counter((await sync(runtime)).requests)

    asked = syncing(service, body)
    assert asked == {"acme:change:list": 1, "acme:status:list": 1, "acme:user:get": 1}


@given(st.lists(st.integers(0, 10_000), max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_following_the_feed_stores_the_same_as_a_first_sync(numbers: list[int], syncs: int) -> None:
    service = Service(SMALL)

    async def body(runtime: InstallationRuntime) -> list[Any]:
        await sync(runtime)
        for turn in range(syncs):
            for number in numbers[turn::syncs]:
                change(service, number)
            assert (await sync(runtime)).status is Status.COMPLETED
        return await stored(runtime)

    assert syncing(service, body) == fresh(service)


@given(st.lists(st.integers(0, 10_000), max_size=12))
@settings(deadline=None, max_examples=25)
def test_listings_without_the_feed_store_the_same(numbers: list[int]) -> None:
    service = Service(SMALL)

    async def body(runtime: InstallationRuntime) -> list[Any]:
        await sync(runtime)
        for number in numbers:
            change(service, number)
        assert (await sync(runtime, allow_removals=True)).status is Status.COMPLETED
        return await stored(runtime)

    assert syncing(service, body, changes=False) == fresh(service)


def test_another_company_at_the_same_address_is_listed_completely_with_a_note(tmp_path: Path) -> None:
    async def body(runtime: InstallationRuntime) -> tuple[SyncResult, int, list[Any]]:
        result = await sync(runtime, allow_removals=True)
        return result, await runtime.engine.query(AcmeTask).count(), await stored(runtime)

    first, tasks, _ = syncing(Service(SMALL), body, path=tmp_path / "data.db")
    other = Service(replace(SMALL, seed=2, tasks=3))
    second, fewer, found = syncing(other, body, path=tmp_path / "data.db")
    assert (first.notes, tasks, fewer) == ((), 16, 12)
    assert (second.status, second.removed) == (Status.COMPLETED, 4)
    assert "another company" in second.notes[0]
    assert found == [
        (kind, {**data, "source": "here"} if "source" in data else data) for kind, data in fresh(other)
    ]


def test_user_details_are_loaded_again_when_the_feed_names_the_user() -> None:
    service = Service(SMALL)

    async def body(runtime: InstallationRuntime) -> list[Any]:
        await sync(runtime)
        service.tenant.update("w1-u2", {"name": "Zoë"})
        asked = (await sync(runtime)).requests
        return [asked, await runtime.engine.load(AcmeUser.ref("w1-u2"))]

    asked, user = syncing(service, body)
    assert asked == {"acme:change:list": 1, "acme:user:get": 1}
    assert (user.name, bool(user.timezone)) == ("Zoë", True)


def test_a_full_sync_lists_everything_despite_the_feed() -> None:
    async def body(runtime: InstallationRuntime) -> list[Any]:
        first = await sync(runtime)
        again = await sync(runtime, full=True)
        return [first.requests, again.requests, first.counts, again.counts]

    first, again, counts, recounted = syncing(Service(SMALL), body)
    assert (first, counts) == (again, recounted)


def test_a_sync_of_some_entities_requests_only_those() -> None:
    async def body(runtime: InstallationRuntime) -> list[Any]:
        await sync(runtime)
        some = await sync(runtime, full=True, only=("AcmeFile", "AcmeWorkspace.plan"))
        files = await runtime.engine.query(AcmeFile).count()
        return [sorted(some.requests), files, await runtime.engine.query(AcmeWorkspace).count()]

    asked, files, workspaces = syncing(Service(SMALL), body)
    assert asked == ["acme:billing:get", "acme:change:list", "acme:file:list"]
    assert (files, workspaces) == (4, 2)


def test_a_second_check_for_deletes_counts_no_row_twice() -> None:
    service = Service(SMALL)

    async def body(runtime: InstallationRuntime) -> SyncResult:
        await sync(runtime)
        service.tenant.delete("w1-p1-t1")
        return await sync(runtime)

    result = syncing(service, body, changes=False)
    assert (result.removed, result.counts["AcmeTask"]) == (1, 15)
    assert result.requests["acme:task:list"] > 4
