"""Conditional pages: a page that the service calls not modified counts as if it had come again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from max import InstallationInfo, InstallationRuntime
from max.connecting import (
    BearerAuth,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    HttpClient,
    Installation,
    Json,
    Limit,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Schema,
    Secret,
    Step,
    Store,
    SyncPlan,
    operation,
)
from max.core import SyncOptions
from max.model.tasks import Status, SyncResult
from max.storage.sqlite import SqliteDatabase
from max.testing import credentials_for
from max.upstream.credentials import MemoryCredentials
from max.upstream.recording import Recording
from max.upstream.replay import Replay
from tests.scenes import run
from tests.upstream_model import ROOT as MODEL_ROOT
from tests.upstream_model import Group, Item, Root
from tests.upstream_world import ALLOWED, RIGHT, History, Sync, World

SIZE = 3


class Desk(Entity):
    """Has tickets."""

    tickets: Many[Ticket] = Many()


class Person(Entity):
    """Wrote one."""

    name: Field[str] = Field()


class Ticket(Entity):
    """A ticket."""

    title: Field[str] = Field()
    is_open: Field[bool] = Field()
    weight: Field[float] = Field()
    author: Field[Ref[Person] | None] = Field()


@dataclass(frozen=True)
class DeskConfig:
    """Where the service is."""

    url: str
    token: str = "one"


@dataclass
class Service:
    """A real HTTP server with ETags; pages are numbered, with the next one in the body."""

    tickets: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)  # path and status
    broken: set[str] = field(default_factory=set)  # paths that answer 503 once
    tag: str = "ETag"  # the name of its header
    url: str = ""
    body_bytes: int = 0

    def page(self, number: int) -> Json:
        """A page with its items."""
        some = self.tickets[(number - 1) * SIZE : number * SIZE]
        return {"items": some, "next": number + 1 if len(self.tickets) > number * SIZE else None}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ")[1]
                sent = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n"))}
                body = json.dumps(self.page(int(path.partition("page=")[2] or 1))["items"]).encode()
                etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
                full = json.dumps(self.page(int(path.partition("page=")[2] or 1))).encode()
                status, content = 200, full
                if path in self.broken:
                    self.broken.discard(path)
                    status, content = 503, b""
                elif sent.get("if-none-match") == etag:
                    status, content = 304, b""
                self.asked.append((path, status))
                self.body_bytes += len(content)
                lines = [
                    f"HTTP/1.1 {status} X",
                    f"{self.tag}: {etag}",
                    f"Content-Length: {len(content)}",
                    "",
                    "",
                ]
                writer.write("\r\n".join(lines).encode() + content)
                await writer.drain()
        writer.close()

    def statuses(self) -> list[int]:
        """The statuses since the last call."""
        asked, self.asked = self.asked, []
        return [status for _, status in asked]


@contextlib.asynccontextmanager
async def serving(number: int = 5) -> AsyncIterator[Service]:
    service = Service([ticket(n) for n in range(number)])
    server = await asyncio.start_server(service.answer, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()


def ticket(number: int, title: str = "a title") -> dict[str, Any]:
    return {"id": str(number), "title": title, "open": number % 2 == 0, "weight": number, "by": "p"}


API = Limit("desk", concurrency=4)


@operation("desk:ticket:list", limit=API)
async def list_tickets(client: HttpClient, page: str) -> Json:
    return await client.get("/tickets", params={"page": page}, conditional=True)


@operation("desk:ticket:twice", limit=API)
async def list_twice(client: HttpClient, page: str) -> Json:
    await client.get("/tickets", params={"page": "1"}, conditional=True)
    return await client.get("/tickets", params={"page": page}, conditional=True)


def made(answer: Json, **more: Any) -> Page[Ticket]:
    items = [
        Ticket(t["id"], title=t["title"], is_open=t["open"], weight=t["weight"], author=Person.ref(t["by"]))
        for t in answer["items"]
    ]
    also = [Person(id, name="Ada") for id in dict.fromkeys(t["by"] for t in answer["items"])]
    return Page(items, answer["next"] and str(answer["next"]), also=also, **more)


BRINGS: list[Any] = [Ticket.title, Ticket.is_open, Ticket.weight, Ticket.author, Person.name]


@Loader.collection(Desk.tickets, brings=BRINGS)
async def tickets(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
    return made(await env.run(list_tickets, request.cursor or "1"), size=SIZE)


async def seed(client: HttpClient, store: Store) -> SyncPlan:
    await store.store(Desk("desk"))
    return SyncPlan([Step.for_root(Desk.ref("desk")).load_collection(Desk.tickets)])


async def initialise(config: DeskConfig, credentials: CredentialProvider) -> Installation[HttpClient]:
    provider = credentials_for(config.url)
    client = HttpClient(config.url, provider, auth=BearerAuth(Secret(config.token)))
    return Installation(client, stop=client.stop)


def desk(loader: Any = tickets, version: str = "1", **more: Any) -> Connector[Any, Any]:
    declared: dict[str, Any] = {
        "name": "desk",
        "description": "Tickets.",
        "schema": Schema([Desk, Ticket, Person], roots=[Desk]),
        "loaders": [loader],
        "seeder": seed,
        "initialise": initialise,
        "config": DeskConfig,
        "operations": [list_tickets, list_twice],
        "version": version,
        "hosts": ["{url}"],
    }
    return Connector(**(declared | more))


async def sync(
    service: Service,
    path: Path,
    connector: Connector[Any, Any] | None = None,
    *,
    token: str = "one",
    account: str = "",
    before: Callable[[InstallationRuntime], Any] | None = None,
    options: SyncOptions = SyncOptions(),  # noqa: B008  # it is never changed
    recording: Any = None,
) -> tuple[SyncResult, list[str]]:
    """One sync in a runtime of its own, and the titles of the tickets after it."""
    info, provider = (
        InstallationInfo("desk", "default", "id", {"account": account}, 0.0),
        CredentialProvider(MemoryCredentials(), []),
    )
    config = DeskConfig(service.url, token)
    runtime = InstallationRuntime(
        info, connector or desk(), config, provider, SqliteDatabase(path), recording=recording
    )
    await runtime.start()
    try:
        if before is not None:
            await before(runtime)
        result = await (await runtime.sync(options)).completion()
        rows = await runtime.engine.query(Ticket).order_by(Ticket.weight).all()
        return result, [row.title for row in rows]
    finally:
        await runtime.stop()


def play(body: Callable[[Service, Path], Any], path: Path, number: int = 5) -> None:
    async def main() -> None:
        async with serving(number) as service:
            await body(service, path / "data.db")

    asyncio.run(main())


def test_an_unchanged_service_answers_304_for_every_page_and_ages_move(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        first, _ = await sync(service, path)
        assert service.statuses() == [200, 200]
        second, titles = await sync(service, path)
        assert service.statuses() == [304, 304]
        assert second.status is Status.COMPLETED
        assert (first.counts, second.counts) == ({"Ticket": 5, "Person": 1}, {"Ticket": 5})
        assert titles == ["a title"] * 5
        assert (second.removed, second.requests) == (0, {"desk:ticket:list": 2})

    play(body, tmp_path)


def test_what_was_not_modified_is_as_old_as_the_request_that_said_so(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        await sync(service, path)
        for _ in range(2):
            await sync(service, path, before=ages)

    seen: list[Any] = []

    async def ages(runtime: InstallationRuntime) -> None:
        meta = runtime._meta
        seen.append(await meta.synced_at(Ticket.ref("1"), Ticket.title))
        seen.append(await meta.synced_at(Person.ref("p"), Person.name))

    play(body, tmp_path)
    title, name, later_title, later_name = seen
    assert title < later_title
    assert name < later_name


def test_a_changed_page_comes_and_the_others_do_not(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        await sync(service, path)
        service.statuses()
        service.tickets[4]["title"] = "changed"
        _, titles = await sync(service, path)
        assert service.statuses() == [304, 200]
        assert titles == ["a title"] * 4 + ["changed"]
        await sync(service, path)
        assert service.statuses() == [304, 304]

    play(body, tmp_path)


def test_a_removed_row_is_removed_although_a_page_did_not_come(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        await sync(service, path)
        del service.tickets[4]
        service.statuses()
        result, titles = await sync(service, path)
        assert (result.removed, len(titles)) == (1, 4)
        assert service.statuses() == [304, 200, 200, 200], "the pass that proves it is asked for in full"

    play(body, tmp_path)


def test_a_page_that_comes_without_a_tag_is_forgotten(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        await sync(service, path)
        service.tag, service.tickets[0]["title"], service.tickets[4]["title"] = "X-Tag", "new", "new"
        await sync(service, path)
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT count(*) FROM _max_known_page").fetchall() == [(0,)]

    play(body, tmp_path)


def test_a_full_last_page_is_asked_for_without_a_condition(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        connector = desk(unsized)
        await sync(service, path, connector)
        service.tickets.append(ticket(6))
        service.statuses()
        _, titles = await sync(service, path, connector)
        assert service.statuses() == [304, 200, 200]
        assert len(titles) == 7

    play(body, tmp_path, 6)


@Loader.collection(Desk.tickets, brings=BRINGS)
async def unsized(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
    return made(await env.run(list_tickets, request.cursor or "1"))


def test_several_requests_for_a_page_get_no_condition(tmp_path: Path) -> None:
    @Loader.collection(Desk.tickets, brings=BRINGS)
    async def twice(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        await env.run(list_tickets, "1")
        return made(await env.run(list_tickets, request.cursor or "1"), size=SIZE)

    @Loader.collection(Desk.tickets, brings=BRINGS)
    async def in_one(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        return made(await env.run(list_twice, request.cursor or "1"), size=SIZE)

    async def body(service: Service, path: Path) -> None:
        for loader in (twice, in_one):
            for _ in range(2):
                await sync(service, path, desk(loader))
                assert service.statuses() == [200] * 4

    play(body, tmp_path)


def fewer() -> Any:
    """A loader of the same name that brings no weight."""

    @Loader.collection(Desk.tickets, brings=[*BRINGS[:2], *BRINGS[3:]])
    async def tickets(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        page = made(await env.run(list_tickets, request.cursor or "1"), size=SIZE)
        items = [
            Ticket(one.id, title=one.title, is_open=one.is_open, author=one.author) for one in page.items
        ]
        return page.replace(items=items)

    return tickets


@Loader.entity(Ticket.weight)
async def weight(ref: Ref[Ticket], env: Env[HttpClient]) -> Ticket:
    return Ticket(ref.id, weight=1.0)


@Loader.entity(Ticket.title)
async def title(ref: Ref[Ticket], env: Env[HttpClient]) -> Ticket:
    return Ticket(ref.id, title="a title")


def test_no_condition_is_sent_where_the_page_may_not_stand(tmp_path: Path) -> None:
    async def stored(runtime: InstallationRuntime) -> None:
        await runtime.engine.store(Ticket("1", title="by hand"))

    async def invalidated(runtime: InstallationRuntime) -> None:
        await runtime._meta.invalidate([Ticket.ref("1")], ["title"], at=runtime._clock())

    ways: list[dict[str, Any]] = [
        {"options": SyncOptions(full=True)},
        {"token": "two"},
        {"account": "another"},
        {"connector": desk(version="2")},
        {"connector": desk(loaders=[fewer(), weight])},
        {"before": invalidated},
    ]

    async def body(service: Service, path: Path) -> None:
        for number, way in enumerate(ways):
            file = path.with_name(f"{number}.db")
            await sync(service, file)
            service.statuses()
            await sync(service, file, **way)
            assert service.statuses() == [200, 200], way
        await sync(service, path)
        service.statuses()
        _, titles = await sync(service, path, before=stored)
        assert service.statuses() == [200, 304], "the other page is as it was"
        assert titles == ["a title"] * 5

    play(body, tmp_path)


def test_a_row_that_was_removed_here_comes_back_with_its_page(tmp_path: Path) -> None:
    async def removed(runtime: InstallationRuntime) -> None:
        sql = "UPDATE _desk_ticket SET _removed_at = 1 WHERE _id = '1'"
        await runtime._database.transact(lambda connection: connection.execute(sql))

    async def body(service: Service, path: Path) -> None:
        await sync(service, path)
        service.statuses()
        _, titles = await sync(service, path, before=removed)
        assert service.statuses() == [200, 304]
        assert len(titles) == 5

    play(body, tmp_path)


def test_an_invalidated_field_is_asked_for_although_a_loader_of_its_own_fetches_it(tmp_path: Path) -> None:
    async def invalidated(runtime: InstallationRuntime) -> None:
        await runtime._meta.invalidate([Ticket.ref("1")], ["title"], at=runtime._clock())

    async def body(service: Service, path: Path) -> None:
        connector = desk(loaders=[tickets, title])
        for before, due in ((None, 200), (None, 304), (invalidated, 200), (None, 304)):
            await sync(service, path, connector, before=before)
            assert service.statuses() == [due, due]

    play(body, tmp_path)


@pytest.mark.parametrize("first", ["another operation", "a request before it"])
def test_a_page_that_takes_one_request_more_than_before_gets_no_condition(tmp_path: Path, first: str) -> None:
    more = False

    @operation("desk:ticket:more", limit=API)
    async def list_more(client: HttpClient, page: str) -> Json:
        if more and first == "a request before it":
            await client.get("/tickets", params={"page": "9"})
        return await client.get("/tickets", params={"page": page}, conditional=True)

    @Loader.collection(Desk.tickets, brings=BRINGS)
    async def sometimes(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        if more and first == "another operation":
            await env.run(list_tickets, "9")
        return made(await env.run(list_more, request.cursor or "1"), size=SIZE)

    async def body(service: Service, path: Path) -> None:
        nonlocal more
        connector = desk(sometimes, operations=[list_tickets, list_more])
        await sync(service, path, connector)
        service.statuses()
        more = True
        await sync(service, path, connector)
        assert service.statuses() == [200] * 4

    play(body, tmp_path)


def test_an_attempt_that_is_repeated_asks_with_the_same_condition(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        await sync(service, path)
        service.statuses()
        service.broken = {"/tickets?page=1"}
        result, titles = await sync(service, path)
        assert service.statuses() == [503, 304, 304]
        assert (result.status, len(titles)) == (Status.COMPLETED, 5)

    play(body, tmp_path)


def test_a_recording_holds_every_page_and_its_replay_needs_none(tmp_path: Path) -> None:
    async def body(service: Service, path: Path) -> None:
        await sync(service, path)
        service.statuses()
        file = path.with_name("sync.jsonl")
        await sync(service, path, recording=Recording(file))
        assert service.statuses() == [200, 200]
        _, titles = await sync(service, path.with_name("other.db"), recording=Replay(file))
        assert service.statuses() == []
        assert titles == ["a title"] * 5

    play(body, tmp_path)


def test_a_condition_in_another_loader_is_refused_in_words(tmp_path: Path) -> None:
    @Loader.entity(Person.name)
    async def person(ref: Ref[Person], env: Env[HttpClient]) -> Person:
        await env.run(list_tickets, "1")
        return Person(ref.id, name="x")

    @Loader.collection(Desk.tickets, brings=[Ticket.title, Ticket.is_open, Ticket.weight, Ticket.author])
    async def bare(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        page = made(await env.run(list_tickets, request.cursor or "1"), size=SIZE)
        return page.replace(also=[Person(one.id) for one in page.also])

    async def seed_both(client: HttpClient, store: Store) -> SyncPlan:
        await store.store(Desk("desk"), Person("p"))
        steps = [Step.for_one(Person.ref("p")).load_fields(Person.name)]
        return SyncPlan(steps)

    async def body(service: Service, path: Path) -> None:
        connector = desk(bare, loaders=[bare, person], seeder=seed_both)
        result, _ = await sync(service, path, connector)
        (failure,) = result.failures
        assert "conditional=True is for the pages of a collection" in failure.message

    play(body, tmp_path)


def test_pages_belong_to_an_account_and_not_to_the_token_of_an_hour(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Hourly:
        """A token that is another one in every process."""

        token: str
        who: str

        async def headers(self) -> dict[str, str]:
            return {"authorization": f"Bearer {self.token}"}

        async def identity(self) -> str:
            return self.who

    def signed_in(token: str, who: str) -> Connector[Any, Any]:
        async def initialise(config: DeskConfig, credentials: CredentialProvider) -> Installation[HttpClient]:
            client = HttpClient(config.url, credentials_for(config.url), auth=Hourly(token, who))
            return Installation(client, stop=client.stop)

        return desk(initialise=initialise)

    async def body(service: Service, path: Path) -> None:
        for token, who, due in [
            ("one-hour", "ada", 200),
            ("next-hour", "ada", 304),
            ("next-hour", "bob", 200),
            ("third-hour", "", 200),
            ("fourth-hour", "", 200),
        ]:
            await sync(service, path, signed_in(token, who))
            assert service.statuses() == [due, due], (token, who)

    play(body, tmp_path)


# -- Page.unchanged by a loader's own validator -----------------------------------------------------


def test_a_loader_with_a_validator_of_its_own_says_that_a_page_is_unchanged(tmp_path: Path) -> None:
    asked: list[str | None] = []

    @Loader.collection(Desk.tickets, brings=BRINGS)
    async def by_word(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        asked.append(request.validator)
        if request.validator == "v1":
            return Page.unchanged()
        return made({"items": [ticket(1)], "next": None}, size=SIZE, validator="v1")

    async def body(service: Service, path: Path) -> None:
        for _ in range(2):
            result, titles = await sync(service, path, desk(by_word))
            assert (result.status, titles) == (Status.COMPLETED, ["a title"])

    play(body, tmp_path)
    assert asked == [None, "v1"]


def test_an_unchanged_page_that_is_not_known_is_the_loaders_fault(tmp_path: Path) -> None:
    @Loader.collection(Desk.tickets, brings=BRINGS)
    async def wrong(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        return Page.unchanged()

    async def body(service: Service, path: Path) -> None:
        result, _ = await sync(service, path, desk(wrong))
        (failure,) = result.failures
        assert "must return Page.unchanged() only where the request has a validator" in failure.message

    play(body, tmp_path)


@pytest.mark.parametrize("way", ["validator", "not_modified"])
def test_wrong_parts_are_refused(tmp_path: Path, way: str) -> None:
    @Loader.collection(Desk.tickets, brings=BRINGS)
    async def wrong(parent: Ref[Desk], request: PageRequest, env: Env[HttpClient]) -> Page[Ticket]:
        more: dict[str, Any] = {way: 7}
        return Page([], **more)

    async def body(service: Service, path: Path) -> None:
        result, _ = await sync(service, path, desk(wrong))
        (failure,) = result.failures
        assert f"Page.{way}" in failure.message

    play(body, tmp_path)


# -- histories -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", range(18))
def test_a_process_that_dies_at_any_write_has_validators_of_the_rows_that_it_stored(dies: int) -> None:
    """A validator newer than its rows would hide the change that came with it for ever."""

    async def body(path: Path) -> None:
        world = World(History(("full",) * 4, feed=False, polite=True, delays=(1,), conditional=True), path)
        world.upstream.create(Group, "g0", (repr(Root.groups), MODEL_ROOT.id))
        for number in range(5):
            world.upstream.create(Item, f"i{number}", (repr(Group.loose), "g0"))
        await world.sync(Sync())
        for number in (0, 3):
            world.upstream.touch(f"i{number}", "changed")
        await world.sync(Sync(dies=dies))
        world.unchanged = 0
        result = await world.sync(Sync(restart=dies % 2 == 0))
        assert result is not None
        assert result.status is Status.COMPLETED
        assert await world.state() == world.upstream.state()
        await world.sync(Sync())
        assert world.unchanged >= 2, "the two full pages with a next one"

    with tempfile.TemporaryDirectory() as folder:
        run(body(Path(folder) / "data.db"))


@pytest.mark.parametrize(("kind", "ids_only"), [("full", False), ("oldest", True)])
def test_a_second_look_and_a_sweep_ask_for_every_page(tmp_path: Path, kind: str, ids_only: bool) -> None:
    """They look for rows that are missing: what is stored proves nothing about those."""

    async def body() -> None:
        history = History((kind,) * 4, feed=False, polite=True, delays=(1,), conditional=True)
        world = World(history, tmp_path / "data.db")
        for number in range(2):
            world.upstream.create(Group, f"g{number}", (repr(Root.groups), MODEL_ROOT.id))
        for number in range(12):
            world.upstream.create(Item, f"i{number}", (repr(Group.loose), f"g{number % 2}"))
        await world.sync(Sync())
        world.upstream.delete("i0")
        world.requests.clear()
        await world.sync(Sync(options=RIGHT if ids_only else ALLOWED))
        assert await world.state() == world.upstream.state()
        asked = [(one.name, one.parent, one.page.replace(validator=None)) for one in world.requests]
        again = [
            one.page.validator
            for number, one in enumerate(world.requests)
            if (one.page.ids_only if ids_only else asked[number] in asked[:number])
        ]
        assert again
        assert set(again) == {None}
        assert ids_only or any(one.page.validator for one in world.requests), "the first look asks"

    run(body())
