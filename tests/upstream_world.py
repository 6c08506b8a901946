"""Processes that copy a changing upstream, one after the other, in virtual time.

A process may be killed: what it would still write is lost, and the next one finds the file as it
was left.
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

from max.core import SyncOptions
from max.engine import SqliteEngine, SqliteSyncMeta
from max.errors import (
    Interrupted,
    NotFound,
    Offline,
    PermissionDenied,
    StorageError,
    SyncError,
    UpstreamBroken,
)
from max.execution import NO_OPTIONS, SyncContext, SyncExecutor, SyncHandle
from max.model.loaders import PageRequest
from max.model.query import Page
from max.model.settings import Settings
from max.model.tasks import Status, SyncResult
from max.storage.database import Connection
from max.storage.leases import new_worker
from max.storage.postgres import PostgresDatabase
from max.storage.sqlite import SqliteDatabase
from max.storage.task_store import SqliteTaskStore
from max.upstream.operations import Limits, OperationRunner
from tests.contract.places import lasting_place
from tests.sample import sample
from tests.scenes import Patient, run
from tests.upstream_model import (
    COLLECTIONS,
    ROOT,
    SCHEMA,
    TAGS,
    Box,
    Group,
    Item,
    Root,
    State,
    Tag,
    Upstream,
    loaders,
    plan,
    signature,
)
from tests.virtual_time import later, now

T = TypeVar("T")

START = 1_900_000_000.0  # seconds since the epoch: when virtual time begins
RIGHT = SyncOptions(check_deletes=True, allow_removals=True)
ALLOWED = SyncOptions(allow_removals=True)
EAGER = Settings(removal_share=0.5)
JUMPS = (0.0, 3_600.0, -86_400.0, 30.0, -31_536_000.0)  # seconds by which a clock may be off

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
    elif upstream.things and event.what in ("touch", "delete"):
        id = sorted(upstream.things)[a % len(upstream.things)]
        upstream.touch(id, f"title {b}") if event.what == "touch" else upstream.delete(id)


def place(upstream: Upstream, kind: Any, id: str, places: set[tuple[str, str]]) -> None:
    """Something is created, restored or moved."""
    if id in upstream.things:
        upstream.put(id, places)
    else:
        upstream.create(kind, id, *places)


def lie(event: Event, request: PageRequest, page: Page[Any]) -> Page[Any]:
    """The page as a source sends it that repeats a cursor or a row, counts wrongly, or fails to read one."""
    if event.what in UNREAD and page.items:
        at = event.a % len(page.items)
        error = UNREAD[event.what]("it could not be read")
        items = [item for number, item in enumerate(page.items) if number != at]
        return page.replace(items=items, failed={page.items[at].id: error})
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


class World:
    """An upstream and its copy in a database, from one process to the next.

    ``place`` is a file, or ``postgresql://…#schema``.
    """

    def __init__(self, history: History, place: str | Path) -> None:
        self.history, self.place = history, place
        kinds = {repr(many): kind for many, kind in zip(COLLECTIONS, history.kinds, strict=True)}
        # What a feed alone brought of another account's row is not asked for again: it is only stale.
        moves = any(event.what == "source" for sync in history.syncs for event in sync.before)
        narrow = history.narrow and not (history.feed and moves)
        watched = history.watched
        self.upstream = Upstream(kinds, history.feed, polite=history.polite, narrow=narrow, watched=watched)
        self.connector = sample(name="model", schema=SCHEMA, loaders=loaders(self.upstream, self.ask))
        self.during: dict[int, Event] = {}
        self.asked = self.unchanged = 0
        self.requests: list[Request] = []
        self.settings, self.set_back = EAGER, 0.0  # seconds by which the clock is off
        self.source = 0  # of the configuration
        self.forbidden: set[str] = set()  # parents whose collections may not be read
        self.past: list[str] = []  # syncs
        self.handle: SyncHandle | None = None
        self.killed = asyncio.Event()

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
        answered = page if name == "feed" and event.what in UNREAD else lie(event, request, page)
        if self.history.conditional and name != "feed":
            answered = answered.replace(validator=f"{signatures(answered)} of {answered.total}")
            if answered.validator == request.validator:
                self.unchanged += 1
                return Page.unchanged()
        if answered.total != page.total:  # it may agree by chance with a listing that was shifted
            self.upstream.steady.clear()
        return answered

    def clock(self) -> float:
        """This machine's time."""
        return START + now() - self.set_back

    async def _disturb(self, event: Event) -> None:
        errors = {"broken": UpstreamBroken, "offline": Offline, "denied": PermissionDenied}
        what, places = event.what, [*self.upstream.of(Group), *self.upstream.of(Box)]
        if what in errors:
            raise errors[what]("it was drawn so")
        if what == "forbid" and places:
            self.forbidden.add(places[event.a % len(places)])
        if what == "clock":
            self.set_back = JUMPS[event.a % len(JUMPS)]
        if what == "pause" and self.handle is not None:
            await self.handle.pause()
        if what == "kill":
            self.database.kill()
            await asyncio.Event().wait()

    async def open(self) -> None:
        """A process begins."""
        self.killed = asyncio.Event()
        url, _, schema = str(self.place).partition("#")
        self.database: Mortal = MortalSchema(url, schema) if schema else MortalFile(self.place)
        self.database.killed = self.killed
        await self.database.start()
        resolver = self.connector.resolver
        self.engine = SqliteEngine(self.database, resolver)
        await self.engine.start()
        await self.engine.store(Root(ROOT.id))
        self.meta = SqliteSyncMeta(self.database, self.engine)
        self.executor = SyncExecutor(
            SqliteTaskStore(self.database),
            SyncContext(
                "model",
                self.connector,
                None,
                self.engine,
                self.meta,
                OperationRunner(Limits()),
                self.clock,
                lambda: 1.0,
                self.settings,
                str(self.source),
            ),
            worker=new_worker(),
            after=self.engine.tidy,
            cap=3,
        )
        await self.executor.start()

    async def close(self) -> None:
        """The process ends, or was killed."""
        await self.executor.stop()
        dead, self.database.dead, self.database.left = self.database.dead, False, None
        if dead:
            await self.database.transact(_make_worker_dead)
        await self.database.stop()

    def _change_source(self, event: Event) -> None:
        """Connect to another account, whose rows have the same ids and are older."""
        self.source += 1
        self.upstream.replace(event.a)

    async def sync(self, one: Sync) -> SyncResult | None:
        """The result of one sync in a process of its own; None when it was killed."""
        for event in one.before:
            if event.what == "source":
                self._change_source(event)
            elif event.what in ("forbid", "clock"):
                await self._disturb(event)
            change(self.upstream, event)
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
        unfinished = await self.executor.unfinished()
        self.during, self.asked = dict(one.during), 0
        if unfinished is not None and not one.restart:
            self.handle = await self.executor.resume(unfinished)
        else:
            self.upstream.begin()
            self.handle = await self._begin(one)
        self.past.append(self.handle.id)
        ended, killed = asyncio.create_task(self.handle.completion()), asyncio.create_task(self.killed.wait())
        self.database.left = one.dies
        await asyncio.wait([ended, killed], return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        if not self.killed.is_set():
            return await ended
        await self.executor.stop()
        outcome = await asyncio.gather(ended, return_exceptions=True)
        assert isinstance(outcome[0], Interrupted | StorageError)
        return None

    async def _begin(self, one: Sync) -> SyncHandle:
        if one.retry is not None and self.past:
            with contextlib.suppress(SyncError, NotFound):
                return await self.executor.retry(self.past[-1 - one.retry % len(self.past)])
        return await self.executor.begin(plan(self.upstream), one.options)

    async def hidden(self) -> set[str]:
        """The ids of the rows that are hidden."""

        def read(connection: Connection) -> set[str]:
            sql = 'SELECT _id FROM "{}" WHERE _removed_at IS NOT NULL'
            tables = [mapping.table for mapping in self.engine.tables._mappings.values()]
            return {id for table in tables for (id,) in connection.execute(sql.format(table))}

        return await self.database.read(read)

    async def state(self) -> State:
        """What the database holds."""
        await self.open()
        rows, members = {}, {}
        for kind in (Group, Box, Item, Tag):
            rows[kind.__name__] = {signature(one) for one in await self.engine.query(kind).all()}
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


def live(history: History) -> dict[str, tuple[Any, Any]]:
    """Run a history and one undisturbed sync; the differences between copy and upstream."""

    async def main(path: str | Path) -> dict[str, tuple[Any, Any]]:
        world = World(history, path)
        for one in history.syncs:
            await world.sync(one)
        world.forbidden.clear()
        lacking: dict[str, set[Any]] = {}
        if history.watched:  # what has moved is fetched, whether or not all listings show what is gone
            await world.sync(Sync(restart=True, options=ALLOWED))
            (rows, _), (there, _) = await world.state(), world.upstream.state()
            seen = {kind: {shown(one, history) for one in rows[kind]} for kind in there}
            lacking = {
                kind: lost
                for kind in there
                if (lost := {shown(one, history) for one in there[kind]} - seen[kind])
            }
        result = await world.sync(Sync(restart=True, options=RIGHT))
        ended = None if result is None else (result.status, result.failures)
        (rows, members), (there, whose) = await world.state(), world.upstream.state()
        compared = {
            "lacking": (lacking, {}),
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
) -> T:
    """Run a body on a world whose collections are listed in these ways."""

    async def main(path: str | Path) -> T:
        history = History((groups, boxes, loose, items), feed, polite, (1,), narrow=narrow)
        return await body(World(history, path))

    with tempfile.TemporaryDirectory() as folder, lasting_place(Path(folder) / "data.db") as place:
        return run(main(place))
