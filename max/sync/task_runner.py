"""The task runner: does what a task says, and settles what that brings.

Rule 1: loaders return and never store.  What a page brought, where the listing goes on and the
task's own state are one settlement, which somebody else commits.

Rule 2: where a listing or a feed goes on next time is remembered with its last page alone.  A
source that no longer knows the place is asked for everything, and the sync says so.

Rule 3: what listings have found gone is removed at the end of a sync, when every place where it
could be was looked at; and not at all when it is suspiciously much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from ..errors import (
    LeaseLost,
    StorageError,
    SuspiciousRemoval,
    SyncError,
    SyncTokenRefused,
    UpstreamError,
    UpstreamMissing,
    describe,
)
from ..model.delivery import (
    DeletionCandidates,
    DeletionScope,
    Delivery,
    FeedPage,
    ListingPage,
    ListingState,
    Transaction,
    Write,
    WriteResult,
)
from ..model.entities import FieldOf, ManyOf, Ref
from ..model.loaders import BatchLoader, CollectionLoader, FeedLoader, Loader, PageRequest
from ..model.plan import filter_from_json
from ..model.query import Batch, Page
from ..model.tasks import (
    CHILDREN_PAGE,
    Failure,
    NewTask,
    Outcome,
    Payload,
    Settlement,
    State,
    Task,
    TaskKind,
    failure_of,
    single_id,
)
from ..model.values import datetime_of
from .context import LoaderEnv, RawCache, SyncContext
from .loader_calls import LoaderCaller
from .pagination import PageTracker, beginning

TRIES = 5  # of a task, without getting further in between
FIRST_DELAY, LONGEST_DELAY = 2.0, 900.0  # seconds before a failed task is tried again, doubled each time
LOOKS = 8  # rounds in which a sync looks everywhere for what it finds gone of one entity
VAIN = 2  # such rounds in a row that bring nothing: somewhere one cannot look
FEW = 10  # rows that may always be removed

Commit = Callable[[Settlement], Awaitable[Outcome]]


class TaskRunner:
    """Does what a task says: calls its loader and settles what that brings.

    ``commit`` stores a page after which the task goes on; how it ends is the settlement that
    ``run`` returns.
    """

    def __init__(self, surroundings: SyncContext, shared: RawCache, commit: Commit) -> None:
        self._surroundings, self._shared, self._commit = surroundings, shared, commit
        self._further: dict[int, Payload] = {}  # where tasks are that stored a page since they were claimed
        self._resolver = surroundings.connector.resolver
        self._asking = LoaderCaller(surroundings.connector)
        self._loaders = {loader.name: loader for loader in surroundings.connector.loaders}
        self._kinds: dict[TaskKind, Callable[[Task], Awaitable[Settlement | None]]] = {
            TaskKind.EXPAND: self._expand,
            TaskKind.LOAD_FIELDS: self._load_fields,
            TaskKind.LOAD_COLLECTION: self._load_collection,
            TaskKind.FOLLOW: self._follow,
            TaskKind.REMOVE: self._remove,
        }

    async def run(self, task: Task) -> Settlement | None:
        """Run a task to its end, be it a failure; None when it stopped between two pages.

        Only StorageError and cancellation leave.
        """
        try:
            return await self._kinds[task.kind](task)
        except LeaseLost:
            return None  # somebody else decides about the task now
        except StorageError:
            raise
        except UpstreamMissing as error:
            return await self._missing(task, error)
        except Exception as error:
            return self.failed(task, error)
        finally:
            self._further.pop(task.id, None)

    async def _missing(self, task: Task, error: UpstreamMissing) -> Settlement:
        """What is below something that this sync has found gone is missing rightly."""
        id = single_id(task.payload)
        if id is not None:
            ref = self._resolver.schema.entity(task.payload["entity"]).ref(id)
            if await self._surroundings.meta.is_pending_removal(ref):
                return Settlement(task, State.COMPLETED)
        return self.failed(task, error)

    def failed(self, task: Task, error: Exception) -> Settlement:
        """Try again later what may pass; everything else has failed."""
        now = self._surroundings.clock()
        tries = 1 if task.id in self._further else task.tries
        if isinstance(error, UpstreamError) and error.retryable and tries < TRIES:
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (tries - 1))
            delay *= 0.5 + self._surroundings.draw() / 2
            wait = max(delay, error.retry_after or 0.0)
            return Settlement(task, State.PENDING, not_before=now + wait, error=describe(error))
        reached = task._replace(payload=self._further.get(task.id, task.payload))
        return Settlement(task, State.FAILED, failures=(failure_of(reached, error, now),))

    async def _stored(self, page: Settlement) -> bool:
        """Store a page after which the task goes on; False when it shall not go on now."""
        if (await self._commit(page)).state is not State.RUNNING:
            return False
        self._further[page.task.id] = page.payload or {}
        return True

    async def _before(self, payload: Payload) -> float:
        """What was asked for before this time is to be asked for again."""
        since: float = payload["since"]
        if "feed" in payload:
            entity, id, feed = payload["feed"]
            root = self._resolver.schema.entity(entity).ref(id)
            begun = (await self._surroundings.meta.feed_state(root, feed)).full_at
            return since if begun is None else min(since, begun)
        return since

    # fan-out

    async def _expand(self, task: Task) -> Settlement:
        payload = task.payload
        entity = self._resolver.schema.entity(payload["entity"])
        matching = payload["matching"] and filter_from_json(entity, payload["matching"])
        where: dict[str, Any] = {"before": await self._before(payload), "matching": matching}
        where |= {"after": payload["after"], "limit": CHILDREN_PAGE}
        if payload["operation"] == "load_fields":
            ids = await self._surroundings.meta.stale_ids(entity, payload["names"], **where)
        else:
            many: ManyOf[Any, Any] = ManyOf(entity, payload["names"][0])
            ids = await self._surroundings.meta.unlisted_ids(many, **where)
        going_on = {**payload, "after": ids[-1]} if ids else payload
        more = len(ids) == CHILDREN_PAGE
        children = self._children(payload, ids)
        return Settlement(
            task, State.AWAITING_CHILDREN, going_on, children=children, more=more, progress=True
        )

    def _children(self, payload: Payload, ids: Sequence[str]) -> list[NewTask]:
        kept = ("entity", "operation", "names", "full", "sweeping")
        base = {name: payload[name] for name in kept if name in payload}
        if payload["operation"] == "load_collection":
            return [NewTask(TaskKind.LOAD_COLLECTION, {**base, "id": id}) for id in ids]
        loader = self._home(payload)
        size = loader.size if isinstance(loader, BatchLoader) else 1
        base["loader"] = loader.name
        batches = [ids[start : start + size] for start in range(0, len(ids), size)]
        return [NewTask(TaskKind.LOAD_FIELDS, {**base, "ids": list(batch)}) for batch in batches]

    # collections

    async def _load_collection(self, task: Task) -> Settlement | None:
        payload = dict(task.payload)
        entity = self._resolver.schema.entity(payload["entity"])
        many: ManyOf[Any, Any] = ManyOf(entity, payload["names"][0])
        parent = Ref(entity, payload["id"])
        loader = self._resolver.collection_loader(many)
        if "number" not in payload and not await self._begin_listing(payload, loader, parent):
            return Settlement(task, State.COMPLETED)
        scan = PageTracker(f"{parent}.{many.name}", payload, loader.watermark)
        while True:
            arrival, following, notes = await self._load_page(task, loader, parent, scan)
            write = self._surroundings.engine.prepare_write(arrival)
            writes = [uncounting(write) if "again" in payload or "ids_only" in payload else write]
            if scan.problem is not None:
                failure = failure_of(task, scan.problem, self._surroundings.clock())
                return Settlement(task, State.FAILED, payload, writes, failures=(failure,), notes=notes)
            if following is None:
                state, children = State.COMPLETED, self._sweep(payload, loader)
                if children:
                    state = State.AWAITING_CHILDREN
                return Settlement(task, state, payload, writes, children=children, progress=True, notes=notes)
            page = Settlement(task, State.RUNNING, dict(payload), writes, progress=True, notes=notes)
            if not await self._stored(page):
                return None

    async def _begin_listing(
        self, payload: dict[str, Any], loader: CollectionLoader[Any, Any, Any], parent: Ref[Any]
    ) -> bool:
        """Set out from where the last listing has ended; False when that was lately enough."""
        listed = await self._surroundings.meta.listing_state(parent, loader.lists)
        fresh = listed.listed_at is not None and "since" in payload
        if fresh and (listed.listed_at or 0.0) >= await self._before(payload):
            return False
        everything = payload.get("full") or payload.get("ids_only")
        payload |= beginning(None if everything else listed.bookmark)
        payload["sweeping"] = payload.get("sweeping", False) or self._sweep_is_due(loader, listed)
        return True

    def _sweep_is_due(self, loader: CollectionLoader[Any, Any, Any], listed: ListingState) -> bool:
        if loader.sweep is None:
            return False
        swept_at = listed.swept_at
        return swept_at is None or self._surroundings.now() - swept_at >= loader.sweep.total_seconds()

    def _sweep(self, payload: Payload, loader: CollectionLoader[Any, Any, Any]) -> list[NewTask]:
        """After a listing of what has changed: the listing of what there is, when it is due."""
        if not payload["delta"] or not payload.get("sweeping") or loader.sweep is None:
            return []
        base = {name: payload[name] for name in ("entity", "operation", "names", "id")}
        return [NewTask(TaskKind.LOAD_COLLECTION, {**base, "ids_only": True})]

    async def _load_page(
        self, task: Task, loader: CollectionLoader[Any, Any, Any], parent: Ref[Any], scan: PageTracker
    ) -> tuple[Delivery, str | None, Sequence[str]]:
        """The page as it is to be stored, the cursor of the next one, and what there is to say."""
        page, at, notes = await self._ask(task, loader, parent, scan)
        payload, watermark = scan.payload, loader.watermark
        number, complete = payload["number"], scan.take(page)
        listing = ListingPage(
            parent,
            loader.lists,
            number,
            complete,
            delta=payload["delta"],
            bookmark=page.sync_token if watermark is None else payload["newest"],
            began_at=payload["began"],
            sweeps=scan.proven,
            sure=scan.sure,
            first_page=payload.get("first"),
            ids_only=payload.get("ids_only", False),
        )
        entities = [*page.items, *page.also]
        received = self._surroundings.now()
        arrival = Delivery(entities, at, listing, page.removed, None, received_at=received, sync=task.sync)
        return arrival, page.next, notes

    async def _ask(
        self, task: Task, loader: Loader[Any], of: Ref[Any], scan: PageTracker
    ) -> tuple[Page[Any], float, Sequence[str]]:
        """The next page, when its request began, and what to say of it."""
        env = LoaderEnv(self._surroundings, task, self._shared)
        payload, at = scan.payload, self._surroundings.now()
        if payload["began"] is None:
            payload["began"] = at
        try:
            page = await self._asking.page(loader, of, _request(payload, loader), env)
            resumes = payload["mark"] is not None and payload["number"] == 0 and scan.by_token
            refused = page.complete_snapshot and resumes
        except SyncTokenRefused as error:
            if payload["mark"] is None:
                raise
            scan.restart(at)
            page = await self._asking.page(loader, of, _request(payload, loader), env)
            return page, at, [f"{scan.name}: {error.message}; asked for everything instead"]
        notes = [f"{scan.name}: the source named everything, not only what changed"] if refused else []
        return page, at, notes

    # feeds

    async def _follow(self, task: Task) -> Settlement | None:
        payload = dict(task.payload)
        root = Ref(self._resolver.schema.entity(payload["entity"]), payload["id"])
        loader = self._resolver.feed_loader(payload["names"][0])
        if "number" not in payload:
            known = await self._surroundings.meta.feed_state(root, loader.name)
            if known.listed_at is not None and known.listed_at >= payload["since"]:
                return Settlement(task, State.COMPLETED)
            payload |= beginning(None if payload.get("full") else known.bookmark)
        scan = PageTracker(f"{root}: feed {loader.name}", payload)
        while True:
            page, at, notes = await self._ask(task, loader, root, scan)
            write = self._surroundings.engine.prepare_write(self._changes(task, loader, root, scan, page, at))
            if scan.problem is not None:
                raise scan.problem
            if page.next is None:
                return Settlement(task, State.COMPLETED, payload, [write], progress=True, notes=notes)
            going_on = Settlement(task, State.RUNNING, dict(payload), [write], progress=True, notes=notes)
            if not await self._stored(going_on):
                return None

    def _changes(
        self,
        task: Task,
        loader: FeedLoader[Any, Any],
        root: Ref[Any],
        scan: PageTracker,
        page: Page[Any],
        at: float,
    ) -> Delivery:
        """A page of a feed as it is to be stored."""
        complete = scan.take(page)
        began, anew = scan.payload["began"], not scan.payload["delta"]
        changes = FeedPage(root, loader.name, complete, page.sync_token, began, anew)
        return Delivery([*page.items, *page.also], at, None, page.removed, changes, sync=task.sync)

    # removal

    async def _remove(self, task: Task) -> Settlement:
        payload, meta = dict(task.payload), self._surroundings.meta
        found = await self._gone(payload)
        children = self._look_again(payload, found)
        if children:
            return Settlement(task, State.AWAITING_CHILDREN, payload, children=children, more=True)
        suspicious = [one for one in found if one.proven and self._is_suspicious(payload, one)]
        certain = [one.entity for one in found if one.proven and one not in suspicious]
        if certain:
            writes = [meta.prepare_removal(certain, _looking(payload))]
            return Settlement(task, State.AWAITING_CHILDREN, payload, writes, more=True, progress=True)
        now = self._surroundings.clock()
        errors = [SuspiciousRemoval(one.entity, one.proven, one.total) for one in suspicious]
        failures = [failure_of(task, error, now) for error in errors]
        state = State.FAILED if failures else State.COMPLETED
        return Settlement(task, state, failures=failures)

    async def _gone(self, payload: dict[str, Any]) -> list[DeletionCandidates]:
        """What is found gone; where everywhere was looked at once, the second round begins now."""
        found = await self._surroundings.meta.deletion_candidates(_looking(payload))
        again = payload["again"]
        seen = [one for one in found if one.unproven and not (one.to_check or one.feeds)]
        new = [one.entity for one in seen if one.entity not in again]
        if not new:
            return found
        payload["again"] = {**again, **dict.fromkeys(new, self._surroundings.now())}
        return await self._surroundings.meta.deletion_candidates(_looking(payload))

    def _is_suspicious(self, payload: Payload, found: DeletionCandidates) -> bool:
        share = self._surroundings.settings.removal_share
        return not payload["allow"] and found.proven > max(FEW, share * found.total)

    def _look_again(self, payload: dict[str, Any], found: Sequence[DeletionCandidates]) -> list[NewTask]:
        """The tasks that look where something may be that was found gone: a part of a round at a time."""
        seeking = [one for one in found if (one.to_check or one.feeds) and _is_worth_it(payload, one)]
        left = [place for place in _places(seeking) if list(place) > payload["looked"]]
        if len(left) > CHILDREN_PAGE:
            left = left[:CHILDREN_PAGE]
            payload["looked"] = list(left[-1])
        else:
            payload["looked"] = []
            payload["looks"] = {**payload["looks"], **{one.entity: _looks(payload, one) for one in seeking}}
        return [self._look(payload, *place) for place in left]

    def _look(self, payload: Payload, many: str, id: str) -> NewTask:
        """The task that lists one collection, or follows the feed of a name."""
        since = self._surroundings.now()
        if not many:
            entity, root = payload["feeds"][id]
            follow = {"entity": entity, "operation": "follow", "names": [id], "id": root}
            return NewTask(TaskKind.FOLLOW, {**follow, "since": since})
        entity, _, name = many.partition(".")
        base = {"entity": entity, "operation": "load_collection", "names": [name], "id": id}
        return NewTask(TaskKind.LOAD_COLLECTION, {**base, "since": since, "again": True})

    # fields

    async def _load_fields(self, task: Task) -> Settlement:
        payload = task.payload
        entity = self._resolver.schema.entity(payload["entity"])
        refs = [Ref(entity, id) for id in payload["ids"]]
        if "since" in payload:
            fields: list[FieldOf[Any, Any]] = [FieldOf(entity, name) for name in payload["names"]]
            before = await self._before(payload)
            if not await self._surroundings.meta.stale(refs[0], fields, before=before):
                return Settlement(task, State.COMPLETED)
        loader = self._home(payload)
        env = LoaderEnv(self._surroundings, task, self._shared)
        at = self._surroundings.now()
        batch = await self._asking.batch(loader, refs, env)
        failures = await self._failures(task, refs, batch)
        state = State.FAILED if len(failures) == len(refs) else State.COMPLETED
        write = self._surroundings.engine.prepare_write(Delivery(batch.items, at, sync=task.sync))
        writes = [uncounting(write)] if batch.items else []
        return Settlement(task, state, writes=writes, failures=failures, progress=True)

    def _home(self, payload: Payload) -> Loader[Any]:
        """The loader that a task names; after an upgrade without it, whichever fetches the same fields."""
        named = self._loaders.get(payload["loader"])
        if named is not None:
            return named
        entity = self._resolver.schema.entity(payload["entity"])
        homes = {self._resolver.loader_for(FieldOf(entity, name)) for name in payload["names"]}
        home = homes.pop()
        if homes or home is None:
            raise SyncError(
                f"{payload['entity']}: no loader {payload['loader']} any more, nor one for all its fields",
                hint="the connector has changed; begin a new sync",
            )
        return home

    async def _failures(self, task: Task, refs: Sequence[Ref[Any]], batch: Batch[Any]) -> list[Failure]:
        """Each ref that failed, or that did not come."""
        now = self._surroundings.clock()
        come = {item.id for item in batch.items}
        failures = []
        for ref in refs:
            error = batch.failed.get(ref.id)
            if error is None and ref.id not in come:
                error = UpstreamMissing(f"{ref} does not exist upstream", hint="it may have been deleted")
            if isinstance(error, UpstreamMissing) and await self._surroundings.meta.is_pending_removal(ref):
                continue
            if error is not None:
                failures.append(failure_of(task, error, now, ref.id))
        return failures


def _looks(payload: Payload, found: DeletionCandidates) -> list[int]:
    """With the next round, how many there were, how many in vain, and how many places are left."""
    left = len(found.feeds) + sum(map(len, found.to_check.values()))
    rounds, vain, before = payload["looks"].get(found.entity, (0, 0, -1))
    return [rounds + 1, vain + 1 if left == before else 0, left]


def _is_worth_it(payload: Payload, found: DeletionCandidates) -> bool:
    rounds, vain, _ = _looks(payload, found)
    return rounds <= LOOKS and vain < VAIN


def _looking(payload: Payload) -> DeletionScope:
    return DeletionScope(payload["whole"], list(payload["feeds"]), payload["since"], payload["again"])


def _places(found: Sequence[DeletionCandidates]) -> list[tuple[str, str]]:
    """The collections to list, each with a parent's id, and under no name the feeds to follow."""
    places = {(many, id) for one in found for many, ids in one.to_check.items() for id in ids}
    return sorted(places | {("", feed) for one in found for feed in one.feeds})


def _request(payload: Payload, loader: Loader[Any]) -> PageRequest:
    """What a loader is asked for: the page, and since when."""
    watermark = loader.watermark if isinstance(loader, CollectionLoader) else None
    ids_only = payload.get("ids_only", False)
    if watermark is None:
        return PageRequest(payload["cursor"], payload["mark"], ids_only=ids_only)
    sync_token, overlap = payload["mark"], watermark.overlap or timedelta(0)
    since = None if sync_token is None else datetime_of(sync_token) - overlap
    return PageRequest(payload["cursor"], since=since, ids_only=ids_only)


def uncounting(write: Write) -> Write:
    """A sync counts the rows that it lists, once: more of them, or another look, are no more rows."""

    def work(transaction: Transaction) -> WriteResult:
        return write(transaction).replace(counts={})

    return work
