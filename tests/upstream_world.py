"""Processes that copy a changing upstream, one after the other, in virtual time.

Each is a runtime, as a program has it.  It may be killed: what it would still write is lost, and the
next one finds the file as it was left.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from max.connector import Installation, NoConfig
from max.core import Store, SyncOptions
from max.errors import (
    Interrupted,
    NotFound,
    Offline,
    PermissionDenied,
    StorageEmpty,
    StorageError,
    SyncError,
    UpstreamBroken,
)
from max.execution import NO_OPTIONS, SyncHandle
from max.model.loaders import PageRequest
from max.model.plan import SyncPlan
from max.model.query import Page
from max.model.settings import InstallationInfo, Settings
from max.model.tasks import BLOCKED, Status, SyncCommand, SyncResult
from max.query.maintenance import request
from max.runtime import InstallationRuntime
from max.storage.database import Connection
from max.storage.postgres import PostgresDatabase
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from max.upstream.recording import UpstreamAccess
from tests.contract.places import database_at, lasting_place
from tests.sample import sample
from tests.scenes import Patient, run
from tests.upstream_model import (
    COLLECTIONS,
    NICKED,
    ROOT,
    SCHEMA,
    TAGS,
    Box,
    Group,
    Item,
    Keeper,
    Root,
    State,
    Tag,
    Upstream,
    loaders,
    plan,
    signature,
)
from tests.virtual_time import later

T = TypeVar("T")

START = 1_900_000_000.0  # seconds since the epoch: when virtual time begins
RIGHT = SyncOptions(check_deletes=True, allow_removals=True)
ALLOWED = SyncOptions(allow_removals=True)
EAGER = Settings(removal_share=0.5)
AT_ONCE = 3  # tasks that run side by side
JUMPS = (0.0, 3_600.0, -86_400.0, 30.0, -31_536_000.0)  # seconds by which a clock may be off

LIES_OF_FEEDS = ("again", "twice", "miscount")
LIES = (*LIES_OF_FEEDS, "unread", "forgone")
LIES_OF_IDS = ("unread", "forgone", "withheld")
UNREAD = {"unread": UpstreamBroken, "forgone": PermissionDenied}  # what becomes of an item, and why


class Request(NamedTuple):
    """A request: for which collection or feed, and for which parent."""

    name: str
    parent: str
    page: PageRequest


@dataclass(frozen=True)
class Event:
    """An event: its name, and two numbers that choose what it affects."""

    what: str
    a: int = 0
    b: int = 0


@dataclass(frozen=True)
class Sync:
    """One sync of a history: what happens before it, and before its nth answers.

    ``dies`` is at which of its transactions the process is killed, counted from 0.
    """

    before: Sequence[Event] = ()
    during: dict[int, Event] = field(default_factory=dict)
    restart: bool = False  # discard the unfinished sync
    options: SyncOptions = NO_OPTIONS
    dies: int | None = None
    retry: int | None = None  # the failures of one of the syncs before, if there are any


@dataclass(frozen=True)
class History:
    """The events of an upstream, and the syncs among them."""

    kinds: tuple[str, ...]
    feed: bool
    polite: bool
    delays: tuple[int, ...]  # seconds before and after each answer, in turn
    syncs: tuple[Sync, ...] = ()
    narrow: bool = False  # the listings of loose items do not say in which box an item is
    watched: bool = False  # a parent changes with what is in it, and its collections are listed then alone
    conditional: bool = False  # pages have validators, and are not sent again when they are as they were
    nicks: tuple[str, ...] = ("listed",) * len(NICKED)  # how they are loaded
    plain: bool = False  # the first of the undisturbed syncs looks for changes alone


def change(upstream: Upstream, event: Event) -> None:
    """Let an event happen upstream, if it can."""
    a, b, groups, boxes = event.a, event.b, upstream.of(Group), upstream.of(Box)
    if event.what == "group" and f"g{a % 5}" not in upstream.things:
        upstream.create(Group, f"g{a % 5}", (repr(Root.groups), ROOT.id))
    elif event.what == "crowd":
        for number in range(5):
            change(upstream, Event("group", number))
            change(upstream, Event("item", 6 + number, a))
    elif event.what == "box" and groups:
        place(upstream, Box, f"b{a % 4}", {(repr(Group.boxes), groups[b % len(groups)])})
    elif event.what == "item" and groups:
        loose = {(repr(Group.loose), groups[b % len(groups)])}
        boxed = {(repr(Box.items), boxes[b % len(boxes)])} if boxes else loose
        two = {*loose, (repr(Group.loose), groups[(b + 1) % len(groups)])}
        place(upstream, Item, f"i{a % 6}", (boxed, loose, boxed | loose, two)[a // 6 % 4])
    elif event.what == "tag" and (items := upstream.of(Item)):
        some = [items[b % len(items)], items[(b + a // 3) % len(items)]]
        place(upstream, Tag, f"t{a % 3}", {(TAGS, item) for item in some})
    elif event.what == "forget":
        upstream.life += 1
    elif event.what == "heal":
        upstream.heal()
    elif upstream.things and event.what in ("touch", "delete", "nick", "spoil"):
        id = sorted(upstream.things)[a % len(upstream.things)]
        if event.what == "nick":
            upstream.rename(id, f"nick {b}")
        elif event.what == "spoil":
            upstream.spoil(id)
        else:
            upstream.touch(id, f"title {b}") if event.what == "touch" else upstream.delete(id)


def place(upstream: Upstream, kind: Any, id: str, places: set[tuple[str, str]]) -> None:
    """Something is created, restored or moved."""
    if id in upstream.things:
        upstream.put(id, places)
    else:
        upstream.create(kind, id, *places)


def lie(event: Event, request: PageRequest, page: Page[Any]) -> Page[Any]:
    """The page as a source sends it that repeats a cursor or a row, counts wrongly, or fails to read one.

    Of what is requested by ids, it may leave out the values of a row.
    """
    if event.what in UNREAD and page.items:
        at = event.a % len(page.items)
        error = UNREAD[event.what]("it could not be read")
        items = [item for number, item in enumerate(page.items) if number != at]
        return page.replace(items=items, failed={page.items[at].id: error})
    if event.what == "withheld" and page.items:
        at = event.a % len(page.items)
        items = [type(one)(one.id) if number == at else one for number, one in enumerate(page.items)]
        return page.replace(items=items)
    if event.what == "again" and request.cursor is not None and page.next is not None:
        return page.replace(next=request.cursor)
    if event.what == "twice" and page.items:
        return page.replace(items=[*page.items, page.items[0]])
    if event.what == "miscount" and page.total is not None:
        return page.replace(total=max(0, page.total + event.a % 5 - 2))
    return page


def signatures(page: Page[Any]) -> list[str]:
    """The rows of a page; where it leads may change without them, as where a header says it."""
    return [signature(one) if "tags" in one._values else repr(one._values) for one in page.items]


class Mortal(Patient):
    """A database of a process that may be killed: later writes are lost.

    ``left`` is how many transactions it still lives to see.
    """

    dead = False
    left: int | None = None
    killed: asyncio.Event

    def kill(self) -> None:
        """End the process."""
        self.dead = True
        self.killed.set()

    async def transact(self, work: Callable[[Any], T]) -> T:
        """Run work in one transaction, unless the process was killed."""
        if self.left is not None and not self.dead:
            self.left -= 1
            if self.left < 0:
                self.kill()
        if self.dead:
            raise StorageError("killed")
        return await super().transact(work)


class MortalFile(Mortal, SqliteDatabase):
    """A file of such a process."""


class MortalSchema(Mortal, PostgresDatabase):
    """A schema of a server."""


class Unhurried(UpstreamAccess):
    """Waits before a retry are the longest that there may be."""

    def jitter(self) -> float:
        """No chance."""
        return 1.0


class World:
    """An upstream and its copy in a database, from one process to the next.

    ``place`` is a file, or ``postgresql://…#schema``.
    """

    def __init__(self, history: History, place: str | Path) -> None:
        self.history, self.place = history, place
        self.loop = asyncio.get_running_loop()  # also of the clock that a database's thread reads
        kinds = {repr(many): kind for many, kind in zip(COLLECTIONS, history.kinds, strict=True)}
        # What a feed alone brought of another account's row is not asked for again: it is only stale.
        moves = any(event.what == "source" for sync in history.syncs for event in sync.before)
        narrow = history.narrow and not (history.feed and moves)
        self.upstream = Upstream(
            kinds,
            history.feed,
            polite=history.polite,
            narrow=narrow,
            watched=history.watched,
            nicks=dict(zip(NICKED, history.nicks, strict=True)),
        )
        self.connector = sample(
            name="model",
            schema=SCHEMA,
            loaders=loaders(self.upstream, self.ask),
            seeder=self._seed,
            initialise=self._initialise,
            config=NoConfig,
        )
        self.during: dict[int, Event] = {}
        self.asked = self.unchanged = 0
        self.requests: list[Request] = []
        self.settings, self.set_back = EAGER, 0.0  # seconds by which the clock is off
        self.forbidden: set[str] = set()  # parents whose collections may not be read
        self.past: list[str] = []  # syncs
        self.cancelled: set[str] = set()
        self.handle: SyncHandle | None = None
        self.killed = asyncio.Event()

    async def _initialise(self, config: NoConfig, credentials: CredentialProvider) -> Installation[NoConfig]:
        return Installation(config)

    async def _seed(self, context: NoConfig, store: Store) -> SyncPlan:
        await store.store(Root(ROOT.id))
        return plan(self.upstream)

    @property
    def info(self) -> InstallationInfo:
        """The installation, as it is configured now."""
        config = {"account": self.upstream.account}
        return InstallationInfo("model", "default", "1", config, START, self.settings)

    async def ask(
        self, name: str, parent: str, request: PageRequest, answer: Callable[[], Page[Any]]
    ) -> Page[Any]:
        """A request: it takes time, and events happen before its response."""
        self.asked += 1
        number, delays = self.asked, self.history.delays
        self.requests.append(Request(name, parent, request))
        await later(delays[number % len(delays)])
        event = self.during.pop(number, Event("nothing"))
        await self._disturb(event)
        change(self.upstream, event)
        if parent in self.forbidden:
            raise PermissionDenied(f"{parent} may not be read")
        page = answer()
        await later(delays[number * 7 % len(delays)])
        believed = LIES_OF_FEEDS if name == "feed" else LIES if name in self.upstream.kinds else LIES_OF_IDS
        answered = lie(event, request, page) if event.what in believed else page
        if self.history.conditional and name in self.upstream.kinds:
            answered = answered.replace(validator=f"{signatures(answered)} of {answered.total}")
            if answered.validator == request.validator:
                self.unchanged += 1
                return Page.unchanged()
        if answered.total != page.total:  # it may agree by chance with a listing that was shifted
            self.upstream.steady.clear()
        return answered

    def clock(self) -> float:
        """This machine's time."""
        return START + self.loop.time() - self.set_back

    async def _disturb(self, event: Event) -> None:
        errors = {"broken": UpstreamBroken, "offline": Offline, "denied": PermissionDenied}
        what, places = event.what, [*self.upstream.of(Group), *self.upstream.of(Box)]
        if what in errors:
            raise errors[what]("it was drawn so")
        if what == "forbid" and places:
            self.forbidden.add(places[event.a % len(places)])
        if what == "clock":
            self.set_back = JUMPS[event.a % len(JUMPS)]
        if self.handle is not None:
            await self._steer(self.handle, what)
        if what == "stop":
            self.killed.set()
            await asyncio.Event().wait()
        if what in ("kill", "cancel and kill"):
            self.database.kill()
            await asyncio.Event().wait()

    async def _steer(self, handle: SyncHandle, what: str) -> None:
        """What a program does to its sync."""
        if what in ("pause", "hesitate"):
            await handle.pause()
        if what == "hesitate":
            assert await handle.resume() is handle
        if what in ("cancel", "cancel and kill"):
            await handle.cancel()
            self.cancelled.add(handle.id)
        if what == "join":
            assert (await self.runtime.sync()).id == handle.id

    async def open(self) -> None:
        """A process begins."""
        self.killed = asyncio.Event()
        url, _, schema = str(self.place).partition("#")
        self.database: Mortal = MortalSchema(url, schema) if schema else MortalFile(self.place)
        self.database.killed = self.killed
        credentials = CredentialProvider(MemoryCredentials(), ())
        parts = self.info, self.connector, NoConfig(), credentials, self.database
        self.runtime = InstallationRuntime(*parts, recording=Unhurried(), clock=self.clock)
        await self.runtime.start()
        self.engine, self.meta = self.runtime._engine, self.runtime.sync_meta
        assert self.runtime._live is not None
        self.runtime._live.executor.cap = AT_ONCE

    async def close(self) -> None:
        """The process ends, or was killed."""
        await self.runtime.stop()
        if self.database.dead:
            with database_at(self.place).writer() as connection:
                _make_worker_dead(connection)

    async def _before(self, event: Event) -> None:
        """What happens while no process runs: another account has rows with the same ids that are older."""
        if event.what == "source":
            self.upstream.replace(event.a)
        elif event.what == "abandon":
            with contextlib.suppress(SyncError, StorageEmpty):
                ended = request(database_at(self.place), self.info, SyncCommand.CANCEL, now=self.clock())
                self.cancelled.add(ended.id)
        elif event.what in ("forbid", "clock"):
            await self._disturb(event)
        change(self.upstream, event)

    async def sync(self, one: Sync) -> SyncResult | None:
        """The result of one sync in a process of its own; None when it was killed."""
        for event in one.before:
            await self._before(event)
        await self.open()
        try:
            hidden = await self.hidden()
            result = await self._run(one)
            new = await self.hidden() - hidden
            assert not new & self.upstream.steady, f"hidden, and still there: {new & self.upstream.steady}"
            return result
        finally:
            self.handle = None
            await self.close()

    async def _run(self, one: Sync) -> SyncResult | None:
        self.during, self.asked = dict(one.during), 0
        self.database.left = one.dies
        try:
            handle = await self._begin(one)
        except StorageError:
            assert self.killed.is_set()
            return None
        assert self.asked == 0
        assert handle.id not in self.cancelled, "it is over for good"
        if handle.id not in self.past:
            self.upstream.begin()
        self.past.append(handle.id)
        self.handle = handle
        ended, killed = asyncio.create_task(handle.completion()), asyncio.create_task(self.killed.wait())
        await asyncio.wait([ended, killed], return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        if not self.killed.is_set():
            return await self._ended(handle, await ended)
        await self.runtime.stop()
        outcome = await asyncio.gather(ended, return_exceptions=True)
        assert isinstance(outcome[0], Interrupted | StorageError)
        return None

    async def _begin(self, one: Sync) -> SyncHandle:
        """Retry an old sync, or begin one; what is unfinished goes on with the options it was begun with."""
        if one.retry is not None and self.past:
            with contextlib.suppress(SyncError, NotFound):
                return await self.runtime.retry_failed(self.past[-1 - one.retry % len(self.past)])
        if one.restart:
            return await self.runtime.sync(one.options, discard_unfinished=True)
        with contextlib.suppress(SyncError):
            return await self.runtime.sync(one.options)
        return await self.runtime.sync()

    async def _ended(self, handle: SyncHandle, result: SyncResult) -> SyncResult:
        """A sync that was cancelled is over for good."""
        self.database.left = None
        if result.status is not Status.CANCELLED:  # what was under way was the rest of it
            self.cancelled.discard(handle.id)
        else:
            self.cancelled.add(handle.id)  # perhaps before the command to it returned
            commands: list[Callable[[], Awaitable[object]]] = [handle.resume, handle.pause, handle.cancel]
            for command in commands:
                with pytest.raises(SyncError):
                    await command()
        return result

    async def hidden(self) -> set[str]:
        """The ids of the rows that are hidden, also of a process that is dead."""
        sql = 'SELECT _id FROM "{}" WHERE _removed_at IS NOT NULL'
        tables = [mapping.table for mapping in self.engine.tables._mappings.values()]
        with database_at(self.place).reader() as connection:
            return {id for table in tables for (id,) in connection.execute(sql.format(table))}

    async def state(self) -> State:
        """What the database holds."""
        await self.open()
        rows, members = {}, {}
        for kind in (*NICKED, Keeper):
            stored: list[Any] = await self.engine.query(kind).all()
            rows[kind.__name__] = {signature(one) for one in stored}
        for many in (*COLLECTIONS, Item.tags):
            parents: list[Any] = await self.engine.query(many.parent).all()
            pages = [(one.id, await self.engine.load_collection(one.ref(one.id), many)) for one in parents]
            members[repr(many)] = {f"{id}/{child.id}" for id, page in pages for child in page.items}
        await self.close()
        return rows, members


def _make_worker_dead(connection: Connection) -> None:
    """Make the worker look like a dead process, by changing its start."""
    for table, column in (("_max_sync", "worker"), ("_max_worker", "id")):
        for (worker,) in connection.execute(f"SELECT {column} FROM {table}").fetchall():
            if worker is not None:
                *system, pid, _, serial = worker.split("/")
                dead = "/".join([*system, pid, "0", serial])
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (dead, worker))


def shown(row: str, history: History) -> str:
    """What listings show of a row.

    Where the listing of its new place names no boxes, and that of its box has only what changed in it,
    that an item has left the box is found by the look for removals alone.
    """
    return re.sub("box=[^,]*, ", "", row) if history.narrow else row


async def after_plain_sync(world: World) -> dict[str, Any]:
    """What is not as a sync without options promises that is not disturbed.

    It fetches whatever has come or changed.  What is gone it sees where every listing on the way to
    it is of everything; elsewhere it may ask for a row that is gone.  Where all of what a step asks for is,
    the steps behind it are blocked, as the result says, and what they load is not promised.
    """
    history = world.history
    result = await world.sync(Sync(restart=True, options=ALLOWED))
    assert result is not None
    (rows, members), (there, whose) = await world.state(), world.upstream.state()
    seen = {kind: {shown(one, history) for one in rows[kind]} for kind in there}
    due = {kind: {shown(one, history) for one in there[kind]} for kind in there}
    full, there_is = world.upstream.in_full(), (None, *world.upstream.things)
    partly = {many.child.__name__ for many in COLLECTIONS if many not in full}
    partly |= {"Tag"} if "Item" in partly else set()  # items name them
    blocked = {one.entity for one in result.failures if one.code == BLOCKED}
    found = {
        "status": [] if result.status.final and result.status is not Status.CANCELLED else [result.status],
        "failures": [one for one in result.failures if one.code != BLOCKED and one.id in there_is],
        "lacking": {kind: lost for kind in there if kind not in blocked and (lost := due[kind] - seen[kind])},
        "left over": {kind: more for kind in {*there} - partly if (more := seen[kind] - due[kind])},
        "members": {many: members[repr(many)] for many in full if members[repr(many)] != whose[repr(many)]},
    }
    return {what: some for what, some in found.items() if some}


def live(history: History) -> dict[str, tuple[Any, Any]]:
    """Run a history and one undisturbed sync; the differences between copy and upstream."""

    async def main(path: str | Path) -> dict[str, tuple[Any, Any]]:
        world = World(history, path)
        for one in history.syncs:
            await world.sync(one)
        world.forbidden.clear()
        world.upstream.heal()
        plain = await after_plain_sync(world) if history.plain else {}
        result = await world.sync(Sync(restart=True, options=RIGHT))
        ended = None if result is None else (result.status, result.failures)
        (rows, members), (there, whose) = await world.state(), world.upstream.state()
        compared = {
            "plain": (plain, {}),
            "end": (ended, (Status.COMPLETED, ())),
            "rows": (rows, there),
            "members": (members, whose),
        }
        return {what: (now, due) for what, (now, due) in compared.items() if now != due}

    with tempfile.TemporaryDirectory() as folder, lasting_place(Path(folder) / "data.db") as place:
        return run(main(place))


def play(
    body: Callable[[World], Awaitable[T]],
    *,
    groups: str = "full",
    boxes: str = "full",
    loose: str = "full",
    items: str = "full",
    feed: bool = False,
    polite: bool = True,
    narrow: bool = False,
    nicks: tuple[str, ...] = ("listed",) * len(NICKED),
) -> T:
    """Run a body on a world whose collections are listed in these ways."""

    async def main(path: str | Path) -> T:
        history = History((groups, boxes, loose, items), feed, polite, (1,), narrow=narrow, nicks=nicks)
        return await body(World(history, path))

    with tempfile.TemporaryDirectory() as folder, lasting_place(Path(folder) / "data.db") as place:
        return run(main(place))
