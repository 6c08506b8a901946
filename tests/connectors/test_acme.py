"""Acme, the demo: the tenant, its service, and the connector with both an embedded and a served one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max_connectors.acme import (
    BATCH,
    ROOT_ID,
    Acme,
    AcmeConfig,
    AcmeFile,
    AcmeProject,
    AcmeRoot,
    AcmeTask,
    AcmeUser,
    AcmeWorkspace,
    Embedded,
    Ids,
    ListRequest,
    Source,
    connector,
    get_billing,
    initialise,
    list_users,
)
from max_connectors.acme_service import KINDS, Refused, Server, Service, Settings, Tenant

from max.connecting import (
    BadCredentials,
    BearerAuth,
    CredentialProvider,
    Entity,
    HttpClient,
    InvalidAnswers,
    Json,
    MaxError,
    Page,
    PageRequest,
    QuotaExceeded,
    Ref,
    Secret,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
    Validate,
)
from max.model.entities import E, ManyOf, values_of
from max.model.loaders import BatchLoader, CollectionLoader, EntityLoader, Loader, OutsideCall, RawLoader
from max.model.mapping import narrowed
from max.model.mismatches import check_entity
from max.model.query import Query, QueryPage
from max.testing import credentials_for
from max.upstream.credentials import MemoryCredentials
from max.upstream.operations import Limits, OperationRunner
from tests import virtual_time
from tests.waiting import PATIENCE

V = TypeVar("V")
ROOT = Path(__file__).parents[2]
TOKEN = "demo-token"  # not a secret
SMALL = Settings(workspaces=2, users=3, projects=2, tasks=7, files=2, page_size=3)
SMALL_SHA256 = "2d1946de3fdcca00eb04a7db9e0a898a1e9ae48cfdd5f148f1db189c86435a95"  # must never change


def ask(service: Service, path: str, method: str = "GET", body: Json = None, **query: str) -> Json:
    """The response of a service."""
    return asyncio.run(service.answer(method, path, query, body))


def pages(service: Service, path: str, **query: str) -> Iterator[Json]:
    """Every page of a listing; checks that no cursor repeats."""
    answer = ask(service, path, **query)
    yield answer
    while cursor := answer["next"]:
        answer = ask(service, path, cursor=cursor, **query)
        assert answer["next"] != cursor
        yield answer


def listed(service: Service, path: str, **query: str) -> list[Json]:
    """Every record of a listing."""
    return [record for page in pages(service, path, **query) for record in page["items"]]


def everything(service: Service) -> dict[str, Json]:
    """Every record of a tenant by id, from its listings."""
    found = {}
    below = {"workspaces": ("users", "projects"), "projects": ("tasks", "files")}
    waiting = ["/api/workspaces"]
    while waiting:
        path = waiting.pop()
        for record in listed(service, path):
            found[record["id"]] = record
            plural = path.rpartition("/")[2]
            waiting += [f"/api/{plural}/{record['id']}/{one}" for one in below.get(plural, ())]
    return found


# -- the tenant --------------------------------------------------------------------------


def digest(seed: int) -> str:
    """A hash of everything that a small tenant lists."""
    service = Service(Settings(**{**asdict(SMALL), "seed": seed}))
    details = ask(service, "/api/users", ids="w1-u1,w2-u3")
    text = json.dumps([everything(service), details, ask(service, "/api/workspaces/w1/billing")])
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_seed_always_gives_the_same_bytes() -> None:
    assert digest(1) == SMALL_SHA256
    assert digest(2) != SMALL_SHA256


def test_every_parent_has_the_configured_number_of_children() -> None:
    kinds = Counter(id.rpartition("-")[2][0] for id in everything(Service(SMALL)))
    assert kinds == {"w": 2, "u": 2 * 3, "p": 2 * 2, "t": 4 * 7, "f": 4 * 2}


def test_a_million_tasks_need_memory_only_for_changed_ones() -> None:
    tracemalloc.start()
    tenant = Tenant(Settings(workspaces=1, projects=1, tasks=1_000_000))
    records, _ = tenant.page(KINDS["task"], "w1-p1", 999_990, 100)
    tenant.update("w1-p1-t500000", {"title": "found"})
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record["id"] for record in records][-1] == "w1-p1-t1000000"
    assert tenant.get("w1-p1-t500000")["title"] == "found"
    assert used < 300_000  # bytes


@pytest.mark.parametrize(
    "id",
    [
        "",
        "w",
        "w0",
        "w01",
        "w3",
        "x1",
        "w1-t1",
        "w1-u4",
        "w1-p1-t8",
        "w1-p1-p1",
        "w1-",
        "-w1",
        "w١",
        "w1" * 99,
    ],
)
def test_an_unknown_id_is_refused(id: str) -> None:
    with pytest.raises(Refused) as refused:
        Tenant(SMALL).get(id)
    assert refused.value.status == 404


def test_a_new_record_gets_default_values_and_a_number_that_is_never_reused() -> None:
    tenant = Tenant(SMALL)
    first = tenant.create(KINDS["task"], "w1-p1", {"title": "new"})
    tenant.delete(first["id"])
    second = tenant.create(KINDS["task"], "w1-p1", {"title": "newer"})
    assert (first["id"], second["id"]) == ("w1-p1-t8", "w1-p1-t9")
    assert second.keys() == tenant.get("w1-p1-t1").keys()
    assert second["created_at"] == second["updated_at"] > first["created_at"]


def test_a_later_change_keeps_earlier_ones_and_has_a_later_time() -> None:
    tenant = Tenant(SMALL)
    before = tenant.get("w1-p1-t1")
    titled = tenant.update("w1-p1-t1", {"title": "new"})
    both = tenant.update("w1-p1-t1", {"priority": 4})
    assert both == {**before, "title": "new", "priority": 4, "updated_at": both["updated_at"]}
    assert before["updated_at"] < titled["updated_at"] < both["updated_at"]


def test_deleting_a_record_deletes_its_children_with_a_tombstone_for_each() -> None:
    service = Service(SMALL)
    below = {id for id in everything(service) if id.startswith("w1-p1")}
    ask(service, "/api/projects/w1-p1", "DELETE")
    feed = ask(service, "/api/changes", since="0", limit="100")
    assert {change["id"] for change in feed["items"] if change["deleted"]} == below
    assert not below & everything(service).keys()


@pytest.mark.parametrize(
    "values", [None, [], {"title": 1}, {"priority": True}, {"id": "x"}, {"colour": "red"}]
)
def test_invalid_values_are_refused_and_change_nothing(values: Json) -> None:
    service = Service(SMALL)
    before = everything(service)
    for method, path in [("PATCH", "/api/tasks/w1-p1-t1"), ("POST", "/api/projects/w1-p1/tasks")]:
        with pytest.raises(Refused) as refused:
            ask(service, path, method, values)
        assert refused.value.status == 400
    assert everything(service) == before


# -- listings and the change feed ------------------------------------------------------------


@given(size=st.integers(1, 12), gone=st.sets(st.integers(1, 9)), more=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_every_page_size_gives_every_record_once_and_in_order(size: int, gone: set[int], more: int) -> None:
    service = Service(Settings(workspaces=1, projects=1, tasks=9))
    for number in gone:
        ask(service, f"/api/tasks/w1-p1-t{number}", "DELETE")
    for _ in range(more):
        ask(service, "/api/projects/w1-p1/tasks", "POST", {})
    found = list(pages(service, "/api/projects/w1-p1/tasks", limit=str(size)))
    ids = [record["id"] for page in found for record in page["items"]]
    assert ids == [f"w1-p1-t{n}" for n in range(1, 10 + more) if n not in gone]
    assert all(len(page["items"]) == size for page in found[:-1])


def test_a_deletion_between_two_pages_skips_no_record() -> None:
    service = Service(SMALL)
    first = ask(service, "/api/projects/w1-p1/tasks")
    ask(service, "/api/tasks/w1-p1-t1", "DELETE")
    second = ask(service, "/api/projects/w1-p1/tasks", cursor=first["next"])
    assert [record["id"] for record in second["items"]] == ["w1-p1-t4", "w1-p1-t5", "w1-p1-t6"]


def test_a_cursor_of_another_listing_is_refused() -> None:
    service = Service(SMALL)
    cursor = ask(service, "/api/projects/w1-p1/tasks")["next"]
    for wrong in (cursor[:-1], cursor + "x", "é", "e30"):
        with pytest.raises(Refused):
            ask(service, "/api/projects/w1-p1/tasks", cursor=wrong)
    with pytest.raises(Refused):
        ask(service, "/api/projects/w1-p2/tasks", cursor=cursor)


written = st.sampled_from(["POST", "PATCH", "DELETE"])


@given(st.lists(st.tuples(written, st.integers(0, 200)), max_size=12), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_following_the_feed_gives_the_same_records_as_a_new_listing(
    writes: list[tuple[str, int]], size: int
) -> None:
    service = Service(Settings(workspaces=2, users=1, projects=1, tasks=2, files=1))
    mirror = everything(service)
    for method, number in writes:
        write(service, method, number)
    position, more = "0", True
    while more:
        answer = ask(service, "/api/changes", since=position, limit=str(size))
        for change in answer["items"]:
            mirror.pop(change["id"], None)
            if not change["deleted"]:
                mirror[change["id"]] = change["record"]
        position, more = answer["position"], answer["more"]
    assert mirror == everything(service)


def write(service: Service, method: str, number: int) -> None:
    """One random change of a tenant, if there is anything left to change."""
    ids = sorted(everything(service))
    if not ids:
        return
    id = ids[number % len(ids)]
    kind = service.tenant.kind(id)
    path = f"/api/{kind.plural}/{id}"
    if method == "POST":
        below = {"workspace": "projects", "project": "tasks"}.get(kind.name)
        path = f"{path}/{below}" if below else "/api/workspaces"
    ask(
        service, path, method, {} if method == "POST" else {"title" if kind.name == "task" else "name": "new"}
    )


def test_a_position_after_the_last_change_is_refused() -> None:
    with pytest.raises(Refused, match="list everything again"):
        ask(Service(SMALL), "/api/changes", since="1")


# -- faults and counters -----------------------------------------------------------------------


def test_requests_are_counted_by_path_and_pages_by_path_and_query() -> None:
    service = Service(SMALL)
    source = Embedded(service)
    for _ in range(2):
        asyncio.run(source.get("/api/workspaces", params={"limit": "1", "cursor": ""}))
    with pytest.raises(UpstreamMissing):
        asyncio.run(source.get("/api/projects/w9/tasks"))
    asyncio.run(source.get("/api/tenant"))
    stats = asyncio.run(source.get("/api/stats"))
    assert stats["requests"] == 3
    assert stats["paths"] == {"/api/workspaces": 2, "/api/projects/w9/tasks": 1}
    assert stats["pages"] == {"/api/workspaces?cursor=&limit=1": 2, "/api/tenant": 1}


def test_the_configured_share_of_requests_fails_and_always_the_same_ones() -> None:
    def outcome() -> list[bool]:
        service = Service(Settings(error_rate=0.25))
        return [fails(service) for _ in range(200)]

    assert 30 <= sum(outcome()) <= 70
    assert outcome() == outcome()


def fails(service: Service) -> bool:
    """Whether the next request fails on purpose."""
    try:
        ask(service, "/api/workspaces")
    except Refused as refused:
        return refused.status == 503
    return False


def test_too_many_requests_are_refused_with_the_time_to_wait() -> None:
    now = [100.0]
    service = Service(Settings(rate_limit=2), clock=lambda: now[0])
    ask(service, "/api/workspaces")
    now[0] += 0.25
    ask(service, "/api/workspaces")
    with pytest.raises(Refused) as refused:
        ask(service, "/api/workspaces")
    assert (refused.value.status, refused.value.retry_after) == (429, 0.75)
    now[0] += 0.75
    assert ask(service, "/api/workspaces")["items"]


def test_latency_delays_every_response_and_can_be_changed_at_run_time() -> None:
    async def main() -> float:
        service = Service(Settings())
        await service.answer("POST", "/api/faults", {}, {"latency_ms": 1500})
        await service.answer("GET", "/api/workspaces", {})
        return virtual_time.now()

    assert virtual_time.run(main()) == 1.5


@pytest.mark.parametrize("order", [None, {"latency": 1}, {"error_rate": "1"}, {"rate_limit": -1}])
def test_invalid_faults_are_refused(order: Json) -> None:
    with pytest.raises(Refused):
        ask(Service(SMALL), "/api/faults", "POST", order)


# -- the service behind HTTP ---------------------------------------------------------------------


def served(
    work: Callable[[HttpClient, Server], Awaitable[V]], tenant: Settings = SMALL, token: str = TOKEN
) -> V:
    """Run a function with a client of a tenant behind a real socket."""

    async def main() -> V:
        async with (
            Server(Service(tenant), TOKEN) as server,
            HttpClient(server.url, credentials_for(server.url), auth=BearerAuth(Secret(token))) as client,
        ):
            return await work(client, server)

    return asyncio.run(main())


def test_a_wrong_token_is_refused_and_changes_nothing() -> None:
    async def work(client: HttpClient, server: Server) -> None:
        for method, path in [("GET", "/api/workspaces"), ("DELETE", "/api/workspaces/w1")]:
            with pytest.raises(BadCredentials, match="token is missing or wrong"):
                await client.request(method, path)
        assert (await client.get("/api/stats"))["requests"] == 0
        assert server.service.tenant.position == 0

    served(work, token="demo")


def test_records_are_created_changed_and_deleted_over_http() -> None:
    async def work(client: HttpClient, server: Server) -> list[int]:
        made = await client.request("POST", "/api/workspaces/w1/users", json={"name": "Zoë"})
        path = f"/api/users/{made.json()['id']}"
        changed = await client.request("PATCH", path, json={"active": False})
        assert (await client.get(path))["name"] == "Zoë"
        gone = await client.request("DELETE", path)
        with pytest.raises(UpstreamMissing):
            await client.get(path)
        return [made.status, changed.status, gone.status]

    assert served(work) == [201, 200, 204]


@pytest.mark.parametrize(
    ("tenant", "path", "meant"),
    [
        (Settings(error_rate=1.0), "/api/workspaces", UpstreamBroken),
        (Settings(rate_limit=0.001), "/api/workspaces", QuotaExceeded),
        (SMALL, "/api/nowhere", UpstreamMissing),
        (SMALL, "/elsewhere", UpstreamMissing),
        (SMALL, "/api/workspaces?limit=many", UpstreamChanged),
        (SMALL, "/api/users", UpstreamChanged),
    ],
)
def test_embedded_and_served_tenants_raise_the_same_errors(
    tenant: Settings, path: str, meant: type[UpstreamError]
) -> None:
    address, _, query = path.partition("?")
    params = dict([query.split("=")]) if query else {}

    async def refusal(source: Source) -> tuple[type[UpstreamError], bool]:
        for _ in range(2):  # the first request is within the rate limit
            try:
                await source.get(address, params=params)
            except UpstreamError as error:
                return type(error), error.retry_after is not None
        raise AssertionError("both requests were answered")

    inside = asyncio.run(refusal(Embedded(Service(tenant))))
    assert inside == served(lambda client, _: refusal(client), tenant)
    assert inside[0] is meant


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /api/stats HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"GET /api/stats HTTP/1.1\r\ncontent-length: 9999999\r\n\r\n",
        b"GET /api/stats HTTP/1.1\r\nx: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_an_invalid_request_gets_a_response_and_the_service_continues(sent: bytes) -> None:
    async def work(client: HttpClient, server: Server) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(sent)
        said = await reader.readline()
        writer.close()
        await client.get("/api/stats")
        return said

    assert served(work) == b"HTTP/1.1 400 Bad Request\r\n"


def test_stopping_ends_open_requests() -> None:
    async def work(client: HttpClient, server: Server) -> None:
        waiting = asyncio.create_task(client.get("/api/workspaces"))
        while not server.service.paths:
            await client.get("/api/tenant")
        await server.stop()
        await server.stop()
        with pytest.raises(MaxError):
            await waiting

    served(work, Settings(latency_ms=60_000))


# -- the loaders -----------------------------------------------------------------------------------


@dataclass
class LoaderEnv:
    """The env of a loader, without a runtime."""

    context: Acme
    installation: str = "i"
    version: str = "1"
    sync: str = "s"
    task: int = 1
    attempt: int = 1
    deadline: float | None = None
    caller: OperationRunner = field(default_factory=lambda: OperationRunner(Limits()))
    known: dict[str, Any] = field(default_factory=dict)

    async def run(self, operation: OutsideCall[Acme, Any, V], input: object) -> V:
        """Run an operation with its limit and retries."""
        result: V = await self.caller.run(operation, self.context, input)  # type: ignore[arg-type]  # ours are Operations
        return result

    async def raw(self, loader: RawLoader[Acme, V]) -> V:
        """The value of a raw loader, loaded once."""
        if loader.name not in self.known:
            self.known[loader.name] = await loader.load(self)
        value: V = self.known[loader.name]
        return value

    def entity(self, entity: type[E]) -> type[E]:
        """The entity itself: no account has fields of its own."""
        return entity

    async def stored(self, entity: type[E], id: str) -> E:
        """A stored row; this connector reads none."""
        raise NotImplementedError

    async def fetch(self, query: Query[E]) -> QueryPage[E]:
        """Stored rows; this connector reads none."""
        raise NotImplementedError

    async def keep(self, data: bytes) -> str:
        """Keep content; this connector has none."""
        raise NotImplementedError


def brought(loader: Loader[Acme], items: Sequence[Entity]) -> list[Entity]:
    """What a sync takes of the records that a loader has read: the fields in its brings."""
    names = {field.entity: {one.name for one in loader.brings} for field in loader.brings}
    return [*narrowed(items, names)]


async def members(env: LoaderEnv, collection: ManyOf[Any, Any], parent: Ref[Any]) -> list[Entity]:
    """A whole collection, from its loader."""
    loader: CollectionLoader[Any, Any, Acme] = connector.resolver.collection_loader(collection)
    found: list[Entity] = []
    cursor: str | None = None
    while True:
        page: Page[Entity] = await loader.load(parent, PageRequest(cursor), env)
        items = brought(loader, page.items)
        assert all({*values_of(one)} - {"id"} == {f.name for f in loader.brings} for one in items)
        found += items
        cursor = page.next
        if cursor is None:
            return found


async def load_everything(acme: Acme) -> tuple[list[Entity], LoaderEnv]:
    """Every entity that the connector can load."""
    env = LoaderEnv(acme)
    found = await members(env, AcmeRoot.workspaces, AcmeRoot.ref(ROOT_ID))
    for workspace in list(found):
        for collection in (AcmeWorkspace.users, AcmeWorkspace.projects):
            found += await members(env, collection, Ref.of(workspace))
    for project in [one for one in found if isinstance(one, AcmeProject)]:
        for many in (AcmeProject.tasks, AcmeProject.files):
            found += await members(env, many, Ref.of(project))
    users = [Ref.of(one) for one in found if isinstance(one, AcmeUser)]
    home = connector.resolver.loader_for(AcmeUser.timezone)
    assert isinstance(home, BatchLoader)
    found += brought(home, (await home.load(users, env)).items)
    paid = connector.resolver.loader_for(AcmeWorkspace.plan)
    assert isinstance(paid, EntityLoader)
    found += brought(paid, [await paid.load(Ref.of(one), env) for one in found if type(one) is AcmeWorkspace])
    return found, env


@asynccontextmanager
async def installed(config: AcmeConfig, token: str | None = None) -> AsyncIterator[Acme]:
    """A started installation of the connector."""
    store = MemoryCredentials({"token": token} if token else {})
    credentials = CredentialProvider(store, connector.credentials, connector.hosts_for(config))
    installation = await initialise(config, credentials)
    if installation.start:
        await installation.start()
    try:
        yield installation.context
    finally:
        if installation.stop:
            await installation.stop()


def load(config: AcmeConfig) -> tuple[list[Entity], LoaderEnv]:
    """Every entity of an embedded tenant."""

    async def main() -> tuple[list[Entity], LoaderEnv]:
        async with installed(config) as acme:
            return await load_everything(acme)

    return asyncio.run(main())


CONFIG = AcmeConfig(**asdict(SMALL))


def test_embedded_and_served_tenants_give_equal_entities() -> None:
    async def outside(_: HttpClient, server: Server) -> list[Entity]:
        async with installed(AcmeConfig(base_url=server.url, page_size=2), TOKEN) as acme:
            return (await load_everything(acme))[0]

    inside, _ = load(CONFIG)
    assert inside == served(outside)


def test_every_field_of_every_entity_is_loaded_with_the_right_type() -> None:
    found, _ = load(CONFIG)
    assert [wrong for one in found for wrong in check_entity(one)] == []
    loaded: dict[type[Entity], set[str]] = {}
    for one in found:
        loaded.setdefault(type(one), {"id"}).update(values_of(one))
    for entity in (AcmeWorkspace, AcmeUser, AcmeProject, AcmeTask, AcmeFile):
        assert loaded[entity] == {"id", *entity.types()}


def test_refs_point_to_entities_that_exist() -> None:
    found, _ = load(CONFIG)
    there = {Ref.of(one) for one in found}
    refs = {value for one in found for value in values_of(one).values() if isinstance(value, Ref)}
    assert refs <= there
    assert {ref.entity for ref in refs} == {AcmeWorkspace, AcmeUser, AcmeProject}


def test_records_are_loaded_in_pages_and_batches_and_the_statuses_once() -> None:
    _, env = load(CONFIG)
    assert env.caller.calls == {
        "acme:workspace:list": 1,
        "acme:user:list": 2,
        "acme:project:list": 2,
        "acme:task:list": 4 * 3,
        "acme:file:list": 4,
        "acme:user:get": 1,
        "acme:billing:get": 2,
        "acme:status:list": 1,
    }


def test_failed_requests_are_retried() -> None:
    undisturbed, _ = load(CONFIG)
    config = AcmeConfig(**{**asdict(CONFIG), "error_rate": 0.3, "latency_ms": 10})

    async def main() -> list[Entity]:
        async with installed(config) as acme:
            return (await load_everything(acme))[0]

    assert virtual_time.run(main()) == undisturbed


def test_details_omit_a_deleted_user() -> None:
    async def main() -> list[str]:
        async with installed(CONFIG) as acme:
            home = connector.resolver.loader_for(AcmeUser.timezone)
            assert isinstance(home, BatchLoader)
            batch = await home.load([AcmeUser.ref("w1-u1"), AcmeUser.ref("w1-u99")], LoaderEnv(acme))
            return [user.id for user in batch.items]

    assert asyncio.run(main()) == ["w1-u1"]


def odd_workspaces(answer: Json) -> list[Entity]:
    """The workspaces of a service that answers so."""

    class Odd:
        async def get(self, path: str, *pieces: str | int, params: Mapping[str, str] | None = None) -> Json:
            return answer

    return asyncio.run(members(LoaderEnv(Acme(Odd(), "odd")), AcmeRoot.workspaces, AcmeRoot.ref(ROOT_ID)))


@pytest.mark.parametrize(("answer", "lacks"), [({"items": []}, "'next'"), ({"next": None}, "'items'")])
def test_a_page_without_an_expected_part_raises_upstream_changed(answer: Json, lacks: str) -> None:
    with pytest.raises(UpstreamChanged, match=lacks):
        odd_workspaces(answer)


def test_a_record_without_an_expected_value_is_invalid_by_itself() -> None:
    good = {"name": "W", "active": True, "owner": None, "created_at": "2026-01-01T00:00:00Z"}
    good |= {"updated_at": "2026-01-01T00:00:00Z"}
    rows = [{"id": "w1", **good}, {"id": "w2", **good, "name": None}]
    first, second = odd_workspaces({"items": rows, "next": None})
    assert check_entity(first) == []
    assert [one.path for one in check_entity(second)] == ["AcmeWorkspace:w2.name"]


@pytest.mark.parametrize("id", ["../../admin/delete?all=1#", "a/b", "a?b=1", "a#b", "%2e%2e"])
def test_an_id_from_the_service_never_becomes_another_path(id: str) -> None:
    async def ask(source: Source) -> None:
        acme = Acme(source, "somewhere")
        with pytest.raises(UpstreamMissing):
            await get_billing(acme, Ids((id,)))
        with pytest.raises(UpstreamMissing):
            await list_users(acme, ListRequest(id, None))

    async def asked(client: HttpClient, server: Server) -> list[str]:
        await ask(client)
        return list(server.service.paths)

    quoted = quote(id, safe="")
    expected = [f"/api/workspaces/{quoted}/billing", f"/api/workspaces/{quoted}/users"]
    embedded = Embedded(Service(SMALL))
    asyncio.run(ask(embedded))
    assert list(embedded.service.paths) == served(asked) == expected


# -- the connector ---------------------------------------------------------------------------------


def test_every_entity_field_and_collection_is_described() -> None:
    for entity in connector.schema.to_json()["entities"]:
        assert entity["description"], entity["name"]
        assert [
            one["name"] for one in entity["fields"] + entity["collections"] if not one["description"]
        ] == []


def test_the_configuration_and_the_settings_of_the_service_agree() -> None:
    embedded = asdict(AcmeConfig())
    assert (embedded.pop("base_url"), embedded.pop("changes")) == ("", True)
    assert embedded == asdict(Settings())


def test_the_batch_size_is_the_limit_of_the_service() -> None:
    home = connector.resolver.loader_for(AcmeUser.timezone)
    assert isinstance(home, BatchLoader)
    ids = ",".join(f"w1-u{n}" for n in range(1, home.size + 1))
    assert home.size == BATCH
    assert len(ask(Service(Settings(users=200)), "/api/users", ids=ids)["items"]) == BATCH


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"tasks": -1}, "tasks"), ({"error_rate": 2.0}, "error_rate"), ({"latency_ms": -1.0}, "latency_ms")],
)
def test_an_invalid_configuration_is_refused_by_both_sides(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidAnswers, match=key):
        AcmeConfig(**wrong)
    with pytest.raises(ValueError, match=key):
        Settings(**wrong)


def test_an_address_without_a_token_is_an_error_with_a_hint() -> None:
    async def main() -> None:
        async with installed(AcmeConfig(base_url="http://127.0.0.1:1")):
            pass

    with pytest.raises(BadCredentials, match="needs a token") as caught:
        asyncio.run(main())
    assert "--credential token=" in caught.value.hint


def validate(answers: Mapping[str, Any], secrets: Mapping[str, str]) -> Awaitable[str]:
    """The connector's check of the answers."""
    (step,) = [step for step in connector.onboarding if isinstance(step, Validate)]
    hosts = connector.hosts_for(answers)
    return step.check(answers, CredentialProvider(MemoryCredentials(secrets), connector.credentials, hosts))


def test_the_answers_are_checked_by_asking_the_tenant() -> None:
    async def outside(_: HttpClient, server: Server) -> str:
        return await validate({"base_url": server.url}, {"token": TOKEN})

    async def inside() -> str:
        return await validate({"workspaces": 1}, {})

    assert served(outside) == "acme: 2 workspaces"
    assert asyncio.run(inside()) == "acme: 1 workspace"


def test_a_wrong_token_fails_the_check() -> None:
    async def outside(_: HttpClient, server: Server) -> str:
        return await validate({"base_url": server.url}, {"token": "another-token"})

    with pytest.raises(BadCredentials):
        served(outside)


# -- the command -------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that run ``python -m max_connectors.acme``."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    return [sys.executable, "-m", "max_connectors.acme", *arguments], {**os.environ, "PYTHONPATH": paths}


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], Json]]:
    """A served tenant in another process, and the line that it printed."""
    line, environment = command("serve", "--port", "0", *options)
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_address_and_ends_cleanly(number: signal.Signals) -> None:
    async def count(where: Json) -> int:
        url, auth = where["url"], BearerAuth(Secret(where["token"]))
        async with HttpClient(url, credentials_for(url), auth=auth) as client:
            page = await client.get("/api/projects/w1-p1/tasks")
            return len(page["items"])

    with serving("--tasks", "9", "--page-size", "7") as (process, where):
        assert where.keys() == {"url", "token"}
        assert asyncio.run(count(where)) == 7
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["serve", "--help"], 0, "POST   /api/faults"),
        (["--help"], 0, "examples:"),
        (["serve", "--error-rate", "2"], 2, "error_rate must be between 0 and 1"),
        (["serve", "--port", "99999"], 1, "cannot listen on 127.0.0.1:99999"),
        ([], 2, "serve"),
    ],
)
def test_the_command_has_help_and_usage_errors(arguments: list[str], status: int, words: str) -> None:
    line, environment = command(*arguments)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_copy_of_the_package_works_from_any_folder(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "connectors" / "max_connectors", tmp_path / "max_connectors")
    code = (
        "import asyncio, sys\n"
        "from max_connectors import acme\n"
        "assert 'max_connectors.acme_service' not in sys.modules and 'httpx2' not in sys.modules\n"
        "print(len(asyncio.run(acme.embedded(acme.AcmeConfig()).get('/api/workspaces'))['items']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
