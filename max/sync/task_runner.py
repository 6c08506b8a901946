"""The task runner: does what a task's spec says, and turns the result into a settlement.

Rule 1: loaders return data and never store it.  What a page brought, where the listing goes on
and the task's own state are one settlement, which the sync loop commits.

Rule 2: the place where the next listing begins is stored with the last page alone.  When the
source no longer accepts that place, everything is listed, and the sync notes it.

Rule 3: rows that listings miss are removed at the end of a sync, once every place where they
could be has been checked, and not at all when there are suspiciously many.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from ..errors import (
    LeaseLost,
    Offline,
    StorageError,
    SuspiciousRemoval,
    SyncTokenRefused,
    UpstreamMissing,
)
from ..model.delivery import (
    DeletionCandidates,
    DeletionScope,
    Delivery,
    FeedPage,
    KnownPage,
    ListingPass,
    ListingState,
    StoredPage,
    Write,
)
from ..model.entities import Entity, FieldOf, ManyOf, Ref
from ..model.loaders import CollectionLoader, Loader
from ..model.mapping import ids_of
from ..model.plan import filter_from_json
from ..model.query import Batch, Page
from ..model.tasks import (
    CHILDREN_PAGE,
    HEARTBEAT,
    ExpandTask,
    Failure,
    FeedRoot,
    FollowTask,
    ListingPosition,
    ListTask,
    LoadFieldsTask,
    NewTask,
    Outcome,
    RemoveTask,
    Settlement,
    State,
    Task,
    TaskSpec,
    failure_of,
)
from ..upstream.conditions import Conditions
from ..upstream.operations import CallsStopped
from .context import LoaderEnv, RawCache, SyncContext
from .declared import Declared
from .loader_calls import LoaderCaller
from .pagination import PageTracker, first_position, listing_page, page_request
from .retries import may_pass, run_again
from .unread_items import UnreadItems

TRIES_OF_MISSING = 3  # of a task for a row that the source does not have, and that may just be gone
MOST_PASSES = 3  # over one listing, until two in a row show the same
LOOKS = 2  # at every place where a missing row may be

BY_LOADER = ""  # in place of a request: the validator that a loader gave

Validators: TypeAlias = Mapping[str, tuple[str, ...]]
Commit = Callable[[Settlement], Awaitable[Outcome]]


class TaskRunner:
    """Runs one task at a time for each caller: calls its loader and settles what that returned.

    ``commit`` stores a page after which the task continues; the task's end is the settlement
    that ``run`` returns.
    """

    def __init__(self, context: SyncContext, cache: RawCache, commit: Commit) -> None:
        self._context, self._cache, self._commit = context, cache, commit
        self._meta, self._resolver = context.meta, context.connector.resolver
        self._reached: dict[int, TaskSpec] = {}  # by task, the spec that its last page stored
        self._calls: dict[int, tuple[LoaderEnv, asyncio.Task[Any] | None]] = {}  # of loaders, by task
        self._overdue: set[int] = set()  # tasks whose call was cancelled at its deadline
        self._checked = 0.0
        self._loader_calls = LoaderCaller(context.connector, context.credentials)
        self._declared = Declared(context.connector)
        self._unread = UnreadItems(context, self._declared, self._loader_calls, self._calling)
        self._runs: dict[str, Callable[[Task, Any], Awaitable[Settlement | None]]] = {
            ExpandTask.kind: self._expand,
            LoadFieldsTask.kind: self._load_fields,
            ListTask.kind: self._list,
            FollowTask.kind: self._follow,
            RemoveTask.kind: self._remove,
        }

    async def run(self, task: Task) -> Settlement | None:
        """Run a task to its end or its failure; None when it stopped between two pages.

        Raises StorageError and cancellation only.
        """
        try:
            return await self._attempt(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.id not in self._overdue or current is None or current.uncancel():
                raise
            return self.failed(task, self._overdue_error())
        finally:
            self._reached.pop(task.id, None)
            self._overdue.discard(task.id)

    async def _attempt(self, task: Task) -> Settlement | None:
        try:
            return await self._runs[task.spec.kind](task, task.spec)
        except CallsStopped:
            return Settlement(task, State.PENDING)  # it has begun nothing, and no try is used up
        except LeaseLost:
            return None  # another worker has the task now
        except StorageError:
            raise
        except UpstreamMissing as error:
            return await self._missing(task, error)
        except Exception as error:
            return self.failed(task, error)

    def _overdue_error(self) -> Offline:
        minutes = self._context.settings.loader_minutes
        return Offline(
            f"the loader did not return within {minutes:g} minutes",
            hint="if the service is that slow, raise the setting loader_minutes",
        )

    @contextmanager
    def _calling(self, task: Task, at: float, loader: Loader[Any]) -> Iterator[LoaderEnv]:
        """What the call of a loader gets that begins now, at ``at``; until its end it has a deadline."""
        env = LoaderEnv(self._context, task, self._cache, at, loader)
        self._calls[task.id] = env, asyncio.current_task()
        try:
            yield env
        finally:
            del self._calls[task.id]

    def cancel_overdue(self) -> None:
        """Cancel the calls of loaders that are past their deadline; looks once a second at most."""
        now = self._context.clock()
        if now - self._checked < HEARTBEAT:
            return
        self._checked = now
        for id, (env, running) in self._calls.items():
            if now >= env.deadline and running is not None and id not in self._overdue:
                self._overdue.add(id)
                running.cancel()

    async def _missing(self, task: Task, error: UpstreamMissing, at: float | None = None) -> Settlement:
        """A 404 to a request that began at a time is no failure of a row that this sync is about to remove.

        Rows of an entity that lists its own kind are listed beside those that list them, so one
        that is gone may be known to be missing a little later.
        """
        spec: Any = task.spec
        id = task.spec.single_id
        ref = None if id is None else self._declared.ref(spec.entity, id)
        if ref is None or not await self._meta.is_pending_removal(ref):
            if ref is not None and _lists_itself(ref.entity) and task.tries < TRIES_OF_MISSING:
                return run_again(self._context, task, task.tries, error)
            return self.failed(task, error)
        if at is None or not (isinstance(spec, LoadFieldsTask) and spec.verify):
            return Settlement(task, State.COMPLETED)
        gone = Delivery((), at, removed=[ref], received_at=self._context.now(), sync=task.sync)
        return Settlement(task, State.COMPLETED, writes=[self._context.engine.prepare_write(gone)])

    def failed(self, task: Task, error: Exception) -> Settlement:
        """Retry later what may pass; everything else has failed."""
        now = self._context.clock()
        tries = 1 if task.id in self._reached else task.tries
        if may_pass(error, tries):
            return run_again(self._context, task, tries, error)
        if isinstance(task.spec, LoadFieldsTask) and task.spec.verify:
            return Settlement(task, State.COMPLETED)  # the source did not say; a look follows
        reached = task._replace(spec=self._reached.get(task.id, task.spec))
        is_rest = isinstance(task.spec, LoadFieldsTask) and task.spec.is_rest
        state = State.COMPLETED if is_rest else State.FAILED
        return Settlement(task, state, failures=(failure_of(reached, error, now),))

    async def _stored(self, page: Settlement) -> bool:
        """Store a page after which the task continues; False when it must stop here."""
        if (await self._commit(page)).state is not State.RUNNING:
            return False
        self._reached[page.task.id] = page.spec or page.task.spec
        return True

    async def _too_old(self, since: float, covered_by: FeedRoot | None) -> float:
        """The time before which a request is too old: of what a feed covers, when it last started over."""
        if covered_by is None:
            return since
        begun = await self._meta.feed_begun(covered_by[2])
        return since if begun is None else min(since, begun)

    # fan-out

    async def _expand(self, task: Task, spec: ExpandTask) -> Settlement:
        entity = self._declared.entity(spec.entity)
        where: dict[str, Any] = {
            "before": await self._too_old(spec.since, spec.covered_by),
            "matching": spec.matching and filter_from_json(entity, spec.matching),
            "after": spec.after,
            "limit": CHILDREN_PAGE,
        }
        if spec.operation == "load_fields":
            ids = await self._meta.stale_ids(entity, spec.names, **where)
        else:
            many: ManyOf[Any, Any] = ManyOf(entity, spec.names[0])
            ids = await self._meta.unlisted_ids(many, proven=spec.recheck, known=spec.known, **where)
        return Settlement(
            task,
            State.AWAITING_CHILDREN,
            spec.replace(after=ids[-1]) if ids else None,
            children=[NewTask(child) for child in self._children(spec, ids)],
            more=len(ids) == CHILDREN_PAGE,
            progress=True,
        )

    def _children(self, spec: ExpandTask, ids: Sequence[str]) -> list[TaskSpec]:
        if spec.operation == "load_collection":
            many, everything, sweep = spec.names[0], spec.everything, spec.sweep
            listing = ListTask(
                spec.entity, many, "", everything=everything, sweep=sweep, recheck=spec.recheck
            )
            return [listing.replace(id=id) for id in ids]
        return [load for _, load in self._declared.loads(spec, ids)]

    # collections

    async def _list(self, task: Task, spec: ListTask) -> Settlement | None:
        parent, loader = self._declared.listed(spec)
        state = await self._meta.listing_state(parent, loader.lists)
        begun: Any = await self._begin_pass(spec, state)
        if begun.position is None:
            return Settlement(task, State.COMPLETED)
        most, name = self._context.settings.listing_rows, f"{parent}.{spec.collection}"
        tracker = PageTracker(name, begun.position, loader.watermark, stable=loader.stable, most=most)
        whole = spec.everything or spec.recheck or spec.ids_only
        asks = self._context.conditional and state.has_known and not whole
        while True:
            if tracker.position.ended:
                settlement = await self._end_pass(task, begun, tracker)
            else:
                settlement = await self._next_page(task, begun, tracker, asks=asks)
            if settlement.state is not State.RUNNING:
                return settlement
            if not await self._stored(settlement):
                return None
            begun = settlement.spec or begun

    async def _begin_pass(self, spec: ListTask, known: ListingState) -> ListTask:
        """The task with the position at which it goes on or begins; without one when nothing is to do."""
        position = spec.position
        if position is None:
            if await self._is_listed(spec, known):
                return spec
        elif (await self._pass(spec, position)).newest:
            return spec
        elif (known.listed_at or 0.0) > (position.began or 0.0):
            return spec.replace(position=None)  # a later pass has listed everything
        spec = spec.replace(unread=(), rest=False)
        loader = self._declared.listed(spec)[1]
        everything = spec.everything or spec.ids_only
        position = first_position(None if everything else known.bookmark)
        return spec.replace(position=position, sweep=spec.sweep or self._sweep_is_due(loader, known))

    async def _pass(self, spec: ListTask, position: ListingPosition) -> ListingPass:
        """What is stored of this pass; one that has stored nothing yet is the newest."""
        parent, loader = self._declared.listed(spec)
        if position.began is None:
            return ListingPass(True)
        return await self._meta.listing_pass(parent, loader.lists, position.began)

    async def _next_page(self, task: Task, spec: ListTask, tracker: PageTracker, *, asks: bool) -> Settlement:
        """The next page, as the settlement of a task that continues or ends with it.

        It ``asks`` for pages that are known whether they are as they were.
        """
        parent, loader = self._declared.listed(spec)
        cursor, number = tracker.position.cursor, tracker.position.number
        key = self._key(loader, parent, tracker.position)
        stored = None
        if asks and tracker.position.passes == 1:
            stored = await self._meta.known_page(parent, loader.lists, number, key)
        page, at, notes, validators = await self._request(
            task, loader, parent, tracker, ids_only=spec.ids_only, stored=stored
        )
        if tracker.position.number < number:  # it began again, at everything: what was left is there as well
            spec = spec.replace(unread=())
        is_last = tracker.take(page)
        again, failures = self._unread.sort(task, spec, tracker, cursor, page.failed)
        spec = spec.replace(unread=(*spec.unread, *again))
        listing = listing_page(spec, parent, loader, tracker, last=is_last and not spec.unread)
        known = _known_page(key, page, validators) if tracker.problem is None else None
        listing = listing.replace(unread=tuple(page.failed), known=known, not_modified=page.not_modified)
        delivery = Delivery(
            *(page.items, at, listing, page.removed, None),
            received_at=self._context.now(),
            sync=task.sync,
            also=page.also,
        )
        return self._settled(task, spec, tracker, delivery, notes, failures)

    async def _end_pass(self, task: Task, spec: ListTask, tracker: PageTracker) -> Settlement:
        """The end of a pass whose rows are stored: close the listing, or read it once more."""
        parent, loader = self._declared.listed(spec)
        position, found = tracker.position, await self._pass(spec, tracker.position)
        if spec.unread and found.newest:
            return await self._unread.read(task, spec, tracker, is_first=task.id in self._reached)
        if not found.newest:
            return Settlement(task, State.COMPLETED)
        tracker.count(found.shown)
        proven = tracker.is_proven(found.shown)
        doubtful = (spec.recheck or (found.unseen and not position.delta)) and not position.nameless
        if tracker.problem is None and doubtful and not proven and position.passes < MOST_PASSES:
            tracker.repeat()
            return Settlement(task, State.RUNNING, spec.replace(position=tracker.position), progress=True)
        listing = listing_page(spec, parent, loader, tracker, last=tracker.problem is None)
        number = position.number  # a first page would begin another pass
        listing = listing.replace(number=number, proven=proven, sweeps=proven or not found.unseen)
        at = self._context.now()
        return self._settled(task, spec, tracker, Delivery((), at, listing, received_at=at, sync=task.sync))

    def _settled(
        self,
        task: Task,
        spec: ListTask,
        tracker: PageTracker,
        delivery: Delivery,
        notes: Sequence[str] = (),
        failures: Sequence[Failure] = (),
    ) -> Settlement:
        """What a page or the end of a pass brings; after a listing of changes a sweep may follow."""
        spec = spec.replace(position=tracker.position)
        write = self._context.engine.prepare_write(delivery)
        writes = [write.uncounted() if spec.recheck or spec.ids_only else write]
        if tracker.problem is not None:
            failure = failure_of(task, tracker.problem, self._context.clock())
            return Settlement(task, State.FAILED, spec, writes, failures=(*failures, failure), notes=notes)
        page = Settlement(task, State.RUNNING, spec, writes, failures=failures, progress=True, notes=notes)
        if delivery.listing is None or not delivery.listing.last:
            return page
        if tracker.position.failed and tracker.position.failed == tracker.position.listed:
            return page._replace(state=State.FAILED)
        if not (tracker.position.delta and spec.sweep and self._declared.listed(spec)[1].sweep is not None):
            return page._replace(state=State.COMPLETED)
        ids = ListTask(spec.entity, spec.collection, spec.id, ids_only=True)
        return page._replace(state=State.AWAITING_CHILDREN, children=[NewTask(ids)])

    def _key(
        self, loader: CollectionLoader[Any, Any, Any], parent: Ref[Any], position: ListingPosition
    ) -> str:
        """How a page is asked for: what comes in another way is another page."""
        asked = [position.cursor, position.sync_token, sorted(map(repr, loader.brings))]
        return json.dumps([self._context.connector.version, loader.name, str(parent), *asked])

    async def _is_listed(self, spec: ListTask, known: ListingState) -> bool:
        if known.listed_at is None or spec.since is None:
            return False
        return known.listed_at >= await self._too_old(spec.since, spec.covered_by)

    def _sweep_is_due(self, loader: CollectionLoader[Any, Any, Any], known: ListingState) -> bool:
        if loader.sweep is None:
            return False
        return known.swept_at is None or self._context.now() - known.swept_at >= loader.sweep.total_seconds()

    async def _request(
        self,
        task: Task,
        loader: Loader[Any],
        of: Ref[Any],
        tracker: PageTracker,
        *,
        ids_only: bool = False,
        stored: StoredPage | None = None,
    ) -> tuple[Page[Any], float, Sequence[str], Validators]:
        """The next page, when its request began, notes for people, and by what it can be known again."""
        at = self._context.now()
        tracker.begin(at)
        position = tracker.position
        with self._calling(task, at, loader) as env:
            known = stored.known.validators if stored is not None and _may_be_whole(stored) else {}
            validator = next(iter(known.get(BY_LOADER, ())), None)
            request = page_request(position, loader, ids_only=ids_only).replace(validator=validator)
            if known:
                env.conditions = Conditions(known)
            try:
                page = await self._loader_calls.page(loader, of, request, env)
            except SyncTokenRefused as error:
                if position.sync_token is None:
                    raise
                tracker.restart(at)
                everything = page_request(tracker.position, loader, ids_only=ids_only)
                env.conditions = env.conditions and Conditions()
                page = await self._loader_calls.page(loader, of, everything, env)
                return page, at, [f"{tracker.name}: {error.message}; everything was requested instead"], {}
        resumed = position.sync_token is not None and position.number == 0 and tracker.uses_token
        if page.complete_snapshot and resumed:
            return page, at, [f"{tracker.name}: the source named everything, not only what changed"], {}
        if page.not_modified:
            page = self._loader_calls.as_stored(loader, page, stored if known else None)
        return page, at, [], _validators(page, env.conditions)

    # feeds

    async def _follow(self, task: Task, spec: FollowTask) -> Settlement | None:
        root, loader = self._declared.ref(spec.entity, spec.id), self._declared.feed(spec.feed)
        position = spec.position
        if position is None:
            known = await self._meta.feed_state(root, loader.name)
            if known.listed_at is not None and known.listed_at >= spec.since:
                return Settlement(task, State.COMPLETED)
            position = first_position(None if spec.everything else known.bookmark)
        most = self._context.settings.listing_rows
        tracker = PageTracker(f"{root}: feed {loader.name}", position, most=most)
        while True:
            page, at, notes, _ = await self._request(task, loader, root, tracker)
            tracker.take(page)
            position = tracker.position
            began, initial = position.began or at, not position.delta
            changes = FeedPage(
                root, loader.name, position.ended, page.sync_token, began, initial, position.number == 1
            )
            delivery = Delivery(
                page.items,
                at,
                None,
                page.removed,
                changes,
                received_at=self._context.now(),
                sync=task.sync,
                also=page.also,
            )
            write = self._context.engine.prepare_write(delivery)
            spec = spec.replace(position=position)
            if tracker.problem is not None:
                raise tracker.problem
            state = State.COMPLETED if position.ended else State.RUNNING
            settlement = Settlement(task, state, spec, [write], progress=True, notes=notes)
            if position.ended:
                return settlement
            if not await self._stored(settlement):
                return None

    # removal

    async def _remove(self, task: Task, spec: RemoveTask) -> Settlement:
        """Ask for the few, look at every place for the others, then remove what is certainly gone."""
        if spec.left:
            return self._look(task, spec)
        found = await self._meta.deletion_candidates(_deletion_scope(spec))
        uncertain = [one for one in found if one.proven < one.missing]
        spec, requests = self._ask(spec, uncertain)
        if requests:
            return Settlement(task, State.AWAITING_CHILDREN, spec, children=requests, more=True)
        if uncertain and len(spec.looks) < LOOKS:
            spec = self._begin_look(spec, uncertain)
            scope = _deletion_scope(spec)
            return self._look(task, spec, [] if scope.look is None else [self._meta.prepare_look(scope)])
        return self._end_removal(task, spec, found)

    def _end_removal(self, task: Task, spec: RemoveTask, found: Sequence[DeletionCandidates]) -> Settlement:
        """Remove what is certainly gone, and nothing that hangs together with suspiciously many rows."""
        suspicious = [one for one in found if self._is_suspicious(spec, one.proven, one.total)]
        kept = {entity for one in suspicious for entity in one.related}
        certain = [one.entity for one in found if one.proven and one.entity not in kept]
        writes = [self._meta.prepare_removal(certain, _deletion_scope(spec))] if found else []
        errors = [SuspiciousRemoval(one.entity, one.proven, one.total) for one in suspicious]
        failures = [failure_of(task, error, self._context.clock()) for error in errors]
        state = State.FAILED if failures else State.COMPLETED
        return Settlement(task, state, spec, writes, failures=failures)

    def _is_suspicious(self, spec: RemoveTask, rows: int, total: int) -> bool:
        """Whether so many rows of an entity are gone that a person has to allow their removal."""
        share, floor = self._context.settings.removal_share, self._context.settings.removal_floor
        few = rows <= floor and rows < max(total, 2) and share > 0
        return not (spec.allow or few) and rows > share * total

    def _ask(
        self, spec: RemoveTask, uncertain: Sequence[DeletionCandidates]
    ) -> tuple[RemoveTask, list[NewTask]]:
        """The tasks that request missing rows by their ids, once for each entity."""
        new = [one for one in uncertain if one.to_ask and one.entity not in spec.asked]
        new = [one for one in new if not self._is_suspicious(spec, one.missing, one.total)]
        spec = spec.replace(asked=(*spec.asked, *(one.entity for one in new)))
        return spec, [NewTask(request) for one in new for request in self._requests(one)]

    def _requests(self, found: DeletionCandidates) -> list[LoadFieldsTask]:
        """The tasks that request missing rows by their ids; none where that takes more than listing."""
        entity = self._declared.entity(found.entity)
        loaders = {
            loader for name in entity.types() if (loader := self._resolver.loader_for(FieldOf(entity, name)))
        }
        for loader in sorted(loaders, key=lambda one: one.name):
            name = next(field.name for field in loader.brings if field.entity is entity)
            tasks = self._declared.loads(LoadFieldsTask(found.entity, (name,), loader.name, ()), found.to_ask)
            if len(tasks) <= found.places:
                return [one.replace(verify=True) for _, one in tasks]
        return []

    def _begin_look(self, spec: RemoveTask, uncertain: Sequence[DeletionCandidates]) -> RemoveTask:
        """Look at every place where uncertain rows may be; what this sync has listed counts as the first."""
        entities = [self._declared.entity(one.entity) for one in uncertain]
        left = [repr(many) for many in self._resolver.places_of(*entities)]
        began = self._context.now() if spec.looks else spec.since
        return spec.replace(looks=(*spec.looks, began), left=tuple(left))

    def _look(self, task: Task, spec: RemoveTask, writes: Sequence[Write] = ()) -> Settlement:
        """List the next collection wherever that was not done since the look began."""
        entity, _, name = spec.left[0].partition(".")
        many: ManyOf[Any, Any] = ManyOf(self._declared.entity(entity), name)
        feed, since = self._resolver.feed_covering(many), spec.looks[-1]
        roots = [one for one in spec.feeds if feed is not None and one[2] == feed.name]
        children: list[TaskSpec] = []
        if self._resolver.is_listed(many):
            known = repr(many) not in spec.collections  # a place that was never listed holds nothing
            look = ExpandTask(entity, "load_collection", (name,), since, recheck=True, known=known)
            children.append(look.replace(covered_by=next(iter(roots), None)))
        elif many.inline and not self._resolver.collections_bringing(many.field):
            home = self._resolver.loader_for(many.field)  # else the rows come with a feed, or the seeder
            children += [ExpandTask(entity, "load_fields", (name,), since, home.name)] if home else []
        children += [FollowTask(entity, name, id, since) for entity, id, name in roots]
        spec = spec.replace(left=spec.left[1:])
        state = State.AWAITING_CHILDREN
        tasks = [NewTask(one) for one in children]
        return Settlement(task, state, spec, writes, children=tasks, more=True)

    # fields

    async def _load_fields(self, task: Task, spec: LoadFieldsTask) -> Settlement:
        refs = [self._declared.ref(spec.entity, id) for id in spec.ids]
        if spec.since is not None and not await self._is_stale(refs[0], spec, spec.since):
            return Settlement(task, State.COMPLETED)
        calls = self._declared.loads(spec, spec.ids)
        if len(calls) > 1:
            return Settlement(task, State.AWAITING_CHILDREN, children=[NewTask(one) for _, one in calls])
        loader, at = calls[0][0], self._context.now()
        try:
            with self._calling(task, at, loader) as env:
                batch = await self._loader_calls.batch(loader, refs, env)
        except UpstreamMissing as error:
            return await self._missing(task, error, at)
        return await self._loaded(task, spec, refs, batch, at)

    async def _loaded(
        self, task: Task, spec: LoadFieldsTask, refs: Sequence[Ref[Any]], batch: Batch[Any], at: float
    ) -> Settlement:
        """Store what came; what may pass is requested again, without the others."""
        loaded = {*ids_of(batch.items)}
        left = [ref for ref in refs if ref.id in batch.failed or ref.id not in loaded]
        tries = 1 if loaded else task.tries
        again = {ref.id: batch.failed[ref.id] for ref in left if may_pass(batch.failed.get(ref.id), tries)}
        left = [ref for ref in left if ref.id not in again]
        failures = await self._failures(task, left, batch) if left and not spec.verify else []
        writes = self._brought(task, spec, left, batch, at)
        if again:
            rest = spec.replace(ids=tuple(again), is_rest=spec.is_rest or bool(loaded))
            waiting = run_again(self._context, task, tries, *again.values())
            return waiting._replace(spec=rest, writes=writes, failures=failures, progress=bool(loaded))
        has_failed = len(failures) == len(refs) and not spec.is_rest
        state = State.FAILED if has_failed else State.COMPLETED
        return Settlement(task, state, None, writes, failures=failures, progress=True)

    def _brought(
        self, task: Task, spec: LoadFieldsTask, left: Sequence[Ref[Any]], batch: Batch[Any], at: float
    ) -> list[Write]:
        """What a batch brought, and of missing rows which the source does not have."""
        gone = [ref for ref in left if spec.verify and _is_missing(batch.failed.get(ref.id))]
        if not (batch.items or gone):
            return []
        received = self._context.now()
        delivery = Delivery(batch.items, at, removed=gone, received_at=received, sync=task.sync)
        return [self._context.engine.prepare_write(delivery).uncounted()]  # a listing has counted them

    async def _is_stale(self, ref: Ref[Any], spec: LoadFieldsTask, since: float) -> bool:
        fields: list[FieldOf[Any, Any]] = [FieldOf(ref.entity, name) for name in spec.names]
        before = await self._too_old(since, spec.covered_by)
        return bool(await self._meta.stale(ref, fields, before=before))

    async def _failures(self, task: Task, refs: Sequence[Ref[Any]], batch: Batch[Any]) -> list[Failure]:
        """The refs that failed or that the batch left out, unless they are about to be removed."""
        now = self._context.clock()
        failures = []
        for ref in refs:
            error = batch.failed.get(ref.id)
            if error is None:
                error = UpstreamMissing(f"{ref} does not exist upstream", hint="it may have been deleted")
            if _is_missing(error) and await self._meta.is_pending_removal(ref):
                continue
            failures.append(failure_of(task, error, now, ref.id))
        return failures


def _may_be_whole(stored: StoredPage) -> bool:
    """Whether a page that was not modified is the whole of what it was.

    The answer to a full last page may be the same although there is a next one now.
    """
    known = stored.known
    return known.next is not None or (known.size is not None and len(stored.items) < known.size)


def _validators(page: Page[Any], conditions: Conditions | None) -> Validators:
    """By what a page that has come can be known again, by request."""
    found = {} if conditions is None else dict(conditions.validators)
    return found if page.validator is None else {**found, BY_LOADER: (page.validator,)}


def _known_page(key: str, page: Page[Any], validators: Validators) -> KnownPage | None:
    """What is remembered of a page; nothing of one with more than rows."""
    if not validators or page.failed or page.removed or page.sync_token or page.complete_snapshot:
        return None
    return KnownPage(key, validators, page.next, page.total, page.size)


def _lists_itself(entity: type[Entity]) -> bool:
    """Whether an entity has a collection of its own kind, as folders have."""
    return entity in entity.children().values()


def _is_missing(error: Exception | None) -> bool:
    """Whether the source says of an id that it left out, or that failed, that it does not exist."""
    return error is None or isinstance(error, UpstreamMissing)


def _deletion_scope(spec: RemoveTask) -> DeletionScope:
    feeds = [root[2] for root in spec.feeds]
    look = spec.looks[-1] if len(spec.looks) == LOOKS else None
    return DeletionScope(spec.collections, feeds, spec.since, look)
