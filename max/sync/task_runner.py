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
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ..errors import (
    LeaseLost,
    Offline,
    StorageError,
    SuspiciousRemoval,
    SyncError,
    SyncTokenRefused,
    UpstreamError,
    UpstreamMissing,
    bounded_wait,
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
from ..model.entities import Entity, FieldOf, ManyOf, Ref
from ..model.loaders import BatchLoader, CollectionLoader, FeedLoader, Loader, PageRequest
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
    MissingSearch,
    NewTask,
    Outcome,
    RemoveTask,
    Settlement,
    State,
    Task,
    TaskSpec,
    failure_of,
)
from ..model.values import datetime_of
from ..upstream.operations import CallsStopped
from .context import LoaderEnv, RawCache, SyncContext
from .loader_calls import LoaderCaller
from .pagination import PageTracker, first_position

TRIES = 5  # of a task, without progress in between
FIRST_DELAY, LONGEST_DELAY = 2.0, 900.0  # seconds before a failed task runs again, doubled each time
MOST_ROUNDS = 8  # in which a sync checks every place where missing rows of one entity may be
VAIN_ROUNDS = 2  # rounds in a row that settled nothing: some place cannot be checked
FEW = 10  # rows that may always be removed

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
        self._loaders = {loader.name: loader for loader in context.connector.loaders}
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
            return await self._runs[task.spec.kind](task, task.spec)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.id not in self._overdue or current is None or current.uncancel():
                raise
            return self.failed(task, self._overdue_error())
        except CallsStopped:
            return Settlement(
                task, State.PENDING
            )  # it has begun nothing: it goes back, and no try is used up
        except LeaseLost:
            return None  # another worker has the task now
        except StorageError:
            raise
        except UpstreamMissing as error:
            return await self._missing(task, error)
        except Exception as error:
            return self.failed(task, error)
        finally:
            self._reached.pop(task.id, None)
            self._calls.pop(task.id, None)
            self._overdue.discard(task.id)

    def _overdue_error(self) -> Offline:
        minutes = self._context.settings.loader_minutes
        return Offline(
            f"the loader did not return within {minutes:g} minutes",
            hint="if the service is that slow, raise the setting loader_minutes",
        )

    def _env(self, task: Task, at: float) -> LoaderEnv:
        """What the call of a loader gets that begins now, at ``at``."""
        env = LoaderEnv(self._context, task, self._cache, at)
        self._calls[task.id] = env, asyncio.current_task()
        return env

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

    async def _missing(self, task: Task, error: UpstreamMissing) -> Settlement:
        """A 404 is no failure of a row that this sync is about to remove."""
        id = task.spec.single_id
        if id is not None and await self._meta.is_pending_removal(self._ref(task.spec, id)):
            return Settlement(task, State.COMPLETED)
        return self.failed(task, error)

    def failed(self, task: Task, error: Exception) -> Settlement:
        """Retry later what may pass; everything else has failed."""
        now = self._context.clock()
        tries = 1 if task.id in self._reached else task.tries
        if _may_pass(error, tries):
            return self._again(task, tries, error)
        reached = task._replace(spec=self._reached.get(task.id, task.spec))
        is_rest = isinstance(task.spec, LoadFieldsTask) and task.spec.is_rest
        state = State.COMPLETED if is_rest else State.FAILED
        return Settlement(task, state, failures=(failure_of(reached, error, now),))

    def _again(self, task: Task, tries: int, *errors: Exception) -> Settlement:
        """Run the task again: when the errors ask for it, and after no less than our own delay."""
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (tries - 1)) * (0.5 + self._context.jitter() / 2)
        asked = [bounded_wait(one.retry_after) or 0.0 for one in errors if isinstance(one, UpstreamError)]
        at = self._context.clock() + max(delay, *asked)
        return Settlement(task, State.PENDING, not_before=at, error=describe(errors[0]))

    async def _stored(self, page: Settlement) -> bool:
        """Store a page after which the task continues; False when it must stop here."""
        self._calls.pop(page.task.id, None)
        if (await self._commit(page)).state is not State.RUNNING:
            return False
        self._reached[page.task.id] = page.spec or page.task.spec
        return True

    async def _too_old(self, since: float, covered_by: FeedRoot | None) -> float:
        """The time before which a request is too old."""
        if covered_by is None:
            return since
        entity, id, feed = covered_by
        root = self._entity(entity).ref(id)
        begun = (await self._meta.feed_state(root, feed)).full_at
        return since if begun is None else min(since, begun)

    def _entity(self, name: str) -> type[Entity]:
        entity = self._resolver.schema.entities.get(name)
        if entity is None:
            raise _outdated(f"the schema has no {name}")
        return entity

    def _ref(self, spec: Any, id: str) -> Ref[Any]:
        return Ref(self._entity(spec.entity), id)

    # fan-out

    async def _expand(self, task: Task, spec: ExpandTask) -> Settlement:
        entity = self._entity(spec.entity)
        where: dict[str, Any] = {
            "before": await self._too_old(spec.since, spec.covered_by),
            "matching": spec.matching and filter_from_json(entity, spec.matching),
            "after": spec.after,
            "limit": CHILDREN_PAGE,
        }
        if spec.operation == "load_fields":
            ids = await self._meta.stale_ids(entity, spec.names, **where)
        else:
            ids = await self._meta.unlisted_ids(ManyOf(entity, spec.names[0]), **where)
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
            listing = ListTask(spec.entity, many, "", everything=everything, sweep=sweep)
            return [listing.replace(id=id) for id in ids]
        return [*self._loads(spec, ids)]

    # collections

    def _listed(self, spec: ListTask) -> tuple[Ref[Any], CollectionLoader[Any, Any, Any]]:
        """The parent, and the loader that lists its collection."""
        parent = self._ref(spec, spec.id)
        many: ManyOf[Any, Any] = ManyOf(parent.entity, spec.collection)
        if not self._resolver.is_listed(many):
            raise _outdated(f"no loader lists {many!r}")
        return parent, self._resolver.collection_loader(many)

    async def _list(self, task: Task, spec: ListTask) -> Settlement | None:
        parent, loader = self._listed(spec)
        position = spec.position
        if position is None:
            known = await self._meta.listing_state(parent, loader.lists)
            if await self._is_listed(spec, known):
                return Settlement(task, State.COMPLETED)
            position = first_position(None if spec.everything or spec.ids_only else known.bookmark)
            spec = spec.replace(sweep=spec.sweep or self._sweep_is_due(loader, known))
        most = self._context.settings.listing_rows
        tracker = PageTracker(f"{parent}.{spec.collection}", position, loader.watermark, most=most)
        while True:
            page = await self._settle_page(task, spec, tracker)
            if page.state is not State.RUNNING:
                return page
            if not await self._stored(page):
                return None

    async def _settle_page(self, task: Task, spec: ListTask, tracker: PageTracker) -> Settlement:
        """The next page, as the settlement of a task that continues or ends with it."""
        delivery, more, notes = await self._list_page(task, spec, tracker)
        spec = spec.replace(position=tracker.position)
        write = self._context.engine.prepare_write(delivery)
        writes = [uncounted(write) if spec.recheck or spec.ids_only else write]
        if tracker.problem is not None:
            failure = failure_of(task, tracker.problem, self._context.clock())
            return Settlement(task, State.FAILED, spec, writes, failures=(failure,), notes=notes)
        page = Settlement(task, State.RUNNING, spec, writes, progress=True, notes=notes)
        if more:
            return page
        if not (tracker.position.delta and spec.sweep and self._listed(spec)[1].sweep is not None):
            return page._replace(state=State.COMPLETED)
        ids = ListTask(spec.entity, spec.collection, spec.id, ids_only=True)  # after a listing of changes
        return page._replace(state=State.AWAITING_CHILDREN, children=[NewTask(ids)])

    async def _is_listed(self, spec: ListTask, known: ListingState) -> bool:
        if known.listed_at is None or spec.since is None:
            return False
        return known.listed_at >= await self._too_old(spec.since, spec.covered_by)

    def _sweep_is_due(self, loader: CollectionLoader[Any, Any, Any], known: ListingState) -> bool:
        if loader.sweep is None:
            return False
        return known.swept_at is None or self._context.now() - known.swept_at >= loader.sweep.total_seconds()

    async def _list_page(
        self, task: Task, spec: ListTask, tracker: PageTracker
    ) -> tuple[Delivery, bool, Sequence[str]]:
        """The next page as a delivery, whether more follow, and notes for people."""
        parent, loader = self._listed(spec)
        page, at, notes = await self._request(task, loader, parent, tracker, ids_only=spec.ids_only)
        number, complete = tracker.position.number, tracker.take(page)
        position = tracker.position
        listing = ListingPage(
            parent,
            loader.lists,
            number,
            complete,
            delta=position.delta,
            bookmark=page.sync_token if tracker.uses_token else position.newest,
            began_at=position.began,
            sweeps=tracker.consistent,
            sure=tracker.saw_everything,
            first_page=position.first,
            ids_only=spec.ids_only,
        )
        entities, received = [*page.items, *page.also], self._context.now()
        delivery = Delivery(entities, at, listing, page.removed, None, received_at=received, sync=task.sync)
        return delivery, page.next is not None, notes

    async def _request(
        self, task: Task, loader: Loader[Any], of: Ref[Any], tracker: PageTracker, *, ids_only: bool = False
    ) -> tuple[Page[Any], float, Sequence[str]]:
        """The next page, when its request began, and notes for people."""
        at = self._context.now()
        env = self._env(task, at)
        tracker.begin(at)
        position = tracker.position
        try:
            page = await self._loader_calls.page(loader, of, _page_request(position, loader, ids_only), env)
        except SyncTokenRefused as error:
            if position.sync_token is None:
                raise
            tracker.restart(at)
            everything = _page_request(tracker.position, loader, ids_only)
            page = await self._loader_calls.page(loader, of, everything, env)
            return page, at, [f"{tracker.name}: {error.message}; everything was requested instead"]
        resumed = position.sync_token is not None and position.number == 0 and tracker.uses_token
        if page.complete_snapshot and resumed:
            return page, at, [f"{tracker.name}: the source named everything, not only what changed"]
        return page, at, []

    # feeds

    async def _follow(self, task: Task, spec: FollowTask) -> Settlement | None:
        root, loader = self._ref(spec, spec.id), self._loaders.get(spec.feed)
        if not isinstance(loader, FeedLoader):
            raise _outdated(f"no feed is named {spec.feed}")
        position = spec.position
        if position is None:
            known = await self._meta.feed_state(root, loader.name)
            if known.listed_at is not None and known.listed_at >= spec.since:
                return Settlement(task, State.COMPLETED)
            position = first_position(None if spec.everything else known.bookmark)
        most = self._context.settings.listing_rows
        tracker = PageTracker(f"{root}: feed {loader.name}", position, most=most)
        while True:
            page, at, notes = await self._request(task, loader, root, tracker)
            complete, position = tracker.take(page), tracker.position
            began, initial = position.began or at, not position.delta
            changes = FeedPage(root, loader.name, complete, page.sync_token, began, initial)
            entities = [*page.items, *page.also]
            delivery = Delivery(entities, at, None, page.removed, changes, sync=task.sync)
            write = self._context.engine.prepare_write(delivery)
            spec = spec.replace(position=position)
            if tracker.problem is not None:
                raise tracker.problem
            state = State.COMPLETED if page.next is None else State.RUNNING
            settlement = Settlement(task, state, spec, [write], progress=True, notes=notes)
            if page.next is None:
                return settlement
            if not await self._stored(settlement):
                return None

    # removal

    async def _remove(self, task: Task, spec: RemoveTask) -> Settlement:
        spec, candidates = await self._candidates(spec)
        spec, children = self._recheck(spec, candidates)
        if children:
            return Settlement(task, State.AWAITING_CHILDREN, spec, children=children, more=True)
        suspicious = [one for one in candidates if one.proven and self._is_suspicious(spec, one)]
        certain = [one.entity for one in candidates if one.proven and one not in suspicious]
        if certain:
            writes = [self._meta.prepare_removal(certain, _deletion_scope(spec))]
            return Settlement(task, State.AWAITING_CHILDREN, spec, writes, more=True, progress=True)
        now = self._context.clock()
        errors = [SuspiciousRemoval(one.entity, one.proven, one.total) for one in suspicious]
        failures = [failure_of(task, error, now) for error in errors]
        state = State.FAILED if failures else State.COMPLETED
        return Settlement(task, state, failures=failures)

    async def _candidates(self, spec: RemoveTask) -> tuple[RemoveTask, list[DeletionCandidates]]:
        """What may be removed; where every place was checked once, the second round begins now."""
        found = await self._meta.deletion_candidates(_deletion_scope(spec))
        begun = spec.search.second_round
        checked = [one for one in found if one.unproven and not (one.to_check or one.feeds)]
        new = [one.entity for one in checked if one.entity not in begun]
        if not new:
            return spec, found
        second_round = {**begun, **dict.fromkeys(new, self._context.now())}
        spec = spec.replace(search=spec.search.replace(second_round=second_round))
        return spec, await self._meta.deletion_candidates(_deletion_scope(spec))

    def _is_suspicious(self, spec: RemoveTask, found: DeletionCandidates) -> bool:
        share = self._context.settings.removal_share
        return not spec.allow and found.proven > max(FEW, share * found.total)

    def _recheck(
        self, spec: RemoveTask, found: Sequence[DeletionCandidates]
    ) -> tuple[RemoveTask, list[NewTask]]:
        """The tasks that check where missing rows may be, at most a page of them at a time."""
        search = spec.search
        seeking = [one for one in found if (one.to_check or one.feeds) and _is_worthwhile(search, one)]
        left = [place for place in _places(seeking) if place > (search.last_place or ())]
        if len(left) > CHILDREN_PAGE:
            left = left[:CHILDREN_PAGE]
            search = search.replace(last_place=left[-1])
        else:
            rounds = {one.entity: _next_round(search, one) for one in seeking}
            search = search.replace(last_place=None, rounds={**search.rounds, **rounds})
        roots = {root[2]: root for root in spec.feeds}
        children = [NewTask(self._check(place, roots)) for place in left]
        return spec.replace(search=search), children

    def _check(self, place: tuple[str, str], roots: Mapping[str, FeedRoot]) -> TaskSpec:
        """The task that lists one collection of one parent, or follows one feed."""
        many, id = place
        since = self._context.now()
        if not many:
            entity, root, feed = roots[id]
            return FollowTask(entity, feed, root, since)
        entity, _, name = many.partition(".")
        return ListTask(entity, name, id, since, recheck=True)

    # fields

    async def _load_fields(self, task: Task, spec: LoadFieldsTask) -> Settlement:
        refs = [self._ref(spec, id) for id in spec.ids]
        if spec.since is not None and not await self._is_stale(refs[0], spec, spec.since):
            return Settlement(task, State.COMPLETED)
        calls = self._loads(spec, spec.ids)
        if len(calls) > 1:
            return Settlement(task, State.AWAITING_CHILDREN, children=[NewTask(one) for one in calls])
        loader, at = self._loaders[calls[0].loader], self._context.now()
        batch = await self._loader_calls.batch(loader, refs, self._env(task, at))
        loaded = {item.id for item in batch.items}
        failed = {ref.id: batch.failed.get(ref.id) for ref in refs if _is_left(ref, batch, loaded)}
        tries = 1 if loaded else task.tries
        again = {id: error for id, error in failed.items() if error and _may_pass(error, tries)}
        finally_failed = [ref for ref in refs if ref.id in failed and ref.id not in again]
        failures = await self._failures(task, finally_failed, batch)
        write = self._context.engine.prepare_write(Delivery(batch.items, at, sync=task.sync))
        done = Settlement(
            task, State.COMPLETED, writes=[uncounted(write)] if batch.items else [], failures=failures
        )
        if again:
            rest = spec.replace(ids=tuple(again), is_rest=spec.is_rest or bool(loaded))
            waiting = self._again(task, tries, *again.values())
            return waiting._replace(spec=rest, writes=done.writes, failures=failures, progress=bool(loaded))
        has_failed = len(failures) == len(refs) and not spec.is_rest
        return done._replace(state=State.FAILED if has_failed else State.COMPLETED, progress=True)

    async def _is_stale(self, ref: Ref[Any], spec: LoadFieldsTask, since: float) -> bool:
        fields: list[FieldOf[Any, Any]] = [FieldOf(ref.entity, name) for name in spec.names]
        before = await self._too_old(since, spec.covered_by)
        return bool(await self._meta.stale(ref, fields, before=before))

    def _loads(self, spec: ExpandTask | LoadFieldsTask, ids: Sequence[str]) -> list[LoadFieldsTask]:
        """The calls that load the fields of some ids, by the loaders that the connector has now.

        It may have been upgraded since the task was stored: a loader has another name, takes fewer
        ids at once, or no longer loads all the fields.
        """
        entity = self._entity(spec.entity)
        homes: dict[Loader[Any], list[str]] = {}
        for name in spec.names:
            field: FieldOf[Any, Any] = FieldOf(entity, name)
            home = self._resolver.loader_for(field)
            if home is None:
                raise _outdated(f"no loader loads {field!r} for given ids")
            homes.setdefault(home, []).append(name)
        tasks = []
        for loader, names in homes.items():
            size = loader.size if isinstance(loader, BatchLoader) else 1
            load = LoadFieldsTask(spec.entity, tuple(names), loader.name, ())
            tasks += [load.replace(ids=tuple(ids[at : at + size])) for at in range(0, len(ids), size)]
        return tasks

    async def _failures(self, task: Task, refs: Sequence[Ref[Any]], batch: Batch[Any]) -> list[Failure]:
        """The refs that failed or that the batch left out, unless they are about to be removed."""
        now = self._context.clock()
        failures = []
        for ref in refs:
            error = batch.failed.get(ref.id)
            if error is None:
                error = UpstreamMissing(f"{ref} does not exist upstream", hint="it may have been deleted")
            if isinstance(error, UpstreamMissing) and await self._meta.is_pending_removal(ref):
                continue
            failures.append(failure_of(task, error, now, ref.id))
        return failures


def _outdated(problem: str) -> SyncError:
    """A stored task cannot go on after an upgrade of the connector."""
    return SyncError(
        f"{problem} any more: the connector has changed", hint="the next sync does what it declares now"
    )


def _may_pass(error: Exception, tries: int) -> bool:
    """Whether a task runs again after an error of its latest try."""
    return isinstance(error, UpstreamError) and error.retryable and tries < TRIES


def _is_left(ref: Ref[Any], batch: Batch[Any], loaded: Collection[str]) -> bool:
    return ref.id in batch.failed or ref.id not in loaded


def _next_round(search: MissingSearch, found: DeletionCandidates) -> tuple[int, int, int]:
    """Rounds with the next one, how many of the last ones settled nothing, and how many places are left."""
    left = len(found.feeds) + sum(map(len, found.to_check.values()))
    rounds, vain, before = search.rounds.get(found.entity, (0, 0, -1))
    return rounds + 1, vain + 1 if left == before else 0, left


def _is_worthwhile(search: MissingSearch, found: DeletionCandidates) -> bool:
    rounds, vain, _ = _next_round(search, found)
    return rounds <= MOST_ROUNDS and vain < VAIN_ROUNDS


def _deletion_scope(spec: RemoveTask) -> DeletionScope:
    feeds = [root[2] for root in spec.feeds]
    return DeletionScope(spec.collections, feeds, spec.since, spec.search.second_round)


def _places(found: Sequence[DeletionCandidates]) -> list[tuple[str, str]]:
    """The collections to list, each with a parent's id, and under no name the feeds to follow."""
    places = {(many, id) for one in found for many, ids in one.to_check.items() for id in ids}
    return sorted(places | {("", feed) for one in found for feed in one.feeds})


def _page_request(position: ListingPosition, loader: Loader[Any], ids_only: bool) -> PageRequest:
    """The request for a page: its cursor, and since when."""
    watermark = loader.watermark if isinstance(loader, CollectionLoader) else None
    token = position.sync_token
    if watermark is None:
        return PageRequest(position.cursor, token, ids_only=ids_only)
    overlap = watermark.overlap or timedelta(0)
    since = None if token is None else datetime_of(token) - overlap
    return PageRequest(position.cursor, since=since, ids_only=ids_only)


def uncounted(write: Write) -> Write:
    """A write whose rows are not counted: a sync counts the rows that it lists, each once."""

    def work(transaction: Transaction) -> WriteResult:
        return write(transaction).replace(counts={})

    return Write(write.database, work)
