"""Unread items: what a page named and could not read is asked for again, alone.

**What is recorded.**  A page says which of its items failed, by id.  The page is stored without them,
and the listing goes on.  What may pass is kept in the task's spec, in the transaction of the page: the
cursor of the page, the ids, and the time before which asking is too early.  What cannot pass has
failed, with a task of its own that ``max retry`` can run.

**The invariant.**  A listing is not closed while the task has unread items, so nothing is removed
because of it.  An unread item is named, hence it exists: it keeps its membership, its values and
their age, whether it comes in the end or not.

**Example.**  A page at cursor ``p2`` has the items 5, 6 and 7; 6 is busy and 7 is forbidden.

    the page     5 is stored; the task has (p2, (6,), in two seconds); 7 has failed
    the end      of the pass: 6 is asked for alone, by the entity's own loaders if they bring what the
                 listing brings, else with its page, from which 6 alone is taken
    6 comes      the listing is closed, with 7 as a failure of its own
    6 is busy    the task waits longer; after TRIES without progress 6 has failed as well

**After a crash** the spec says what is left.  An item that was asked for and not stored is asked for
once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..errors import LONGEST_WAIT, LeaseLost, StorageError, UpstreamMissing
from ..model.delivery import Delivery
from ..model.entities import Entity
from ..model.loaders import Loader
from ..model.tasks import (
    Failure,
    ListingPosition,
    ListTask,
    LoadFieldsTask,
    Settlement,
    State,
    Task,
    failure_of,
)
from ..model.tasks import UnreadItems as Unread
from .context import LoaderEnv, SyncContext
from .declared import Declared
from .loader_calls import LoaderCaller
from .pagination import PageTracker, listing_page, page_request
from .retries import delay, may_pass, run_again

Calling = Callable[[Task, float, Loader[Any]], AbstractContextManager[LoaderEnv]]
Items = tuple[Sequence[Entity], Mapping[str, Exception]]  # what came, and the errors of what did not


class UnreadItems:
    """Sorts and reads what pages could not read; ``calling`` is what a call of a loader runs in."""

    def __init__(
        self, context: SyncContext, declared: Declared, loader_calls: LoaderCaller, calling: Calling
    ) -> None:
        self._context, self._declared = context, declared
        self._loader_calls, self._calling = loader_calls, calling

    def sort(
        self,
        task: Task,
        spec: ListTask,
        tracker: PageTracker,
        cursor: str | None,
        errors: Mapping[str, Exception],
        tries: int = 1,
    ) -> tuple[list[Unread], list[Failure]]:
        """Of items of the page at a cursor: what is asked for again, and what has failed."""
        passing = {id: error for id, error in errors.items() if may_pass(error, tries)}
        again: list[Unread] = []
        if passing:
            again.append((cursor, tuple(passing), delay(self._context, tries, *passing.values())))
        lost = {id: error for id, error in errors.items() if id not in passing}
        tracker.give_up(len(lost))
        child, now = self._declared.listed(spec)[1].lists.child.__name__, self._context.clock()
        position, failures = tracker.position.replace(ended=True), []
        for id, error in lost.items():
            rest = spec.replace(position=position, unread=((cursor, (id,), 0.0),), rest=True)
            failure = failure_of(task._replace(spec=rest), error, now)
            failures.append(failure.replace(what=f"{failure.what}: {child}:{id}", entity=child, id=id))
        return again, failures

    async def read(self, task: Task, spec: ListTask, tracker: PageTracker, *, is_first: bool) -> Settlement:
        """Ask again for what the spec names, after the wait that it names, and for nothing else.

        ``is_first``: in this run the task has stored something, so the tries are counted from one.
        """
        if wait := _wait(spec.unread):
            return Settlement(task, State.PENDING, _waited(spec), wait=wait, returned=True)
        parent, loader = self._declared.listed(spec)
        read: list[Delivery] = []
        again: list[Unread] = []
        failures: list[Failure] = []
        reasons: list[Exception] = []
        for cursor, ids, _ in spec.unread:
            at = self._context.now()
            entities, errors = await self._items(task, spec, tracker.position.replace(cursor=cursor), ids, at)
            tries = 1 if is_first or len(errors) < len(ids) else task.tries
            passing, lost = self.sort(task, spec, tracker, cursor, errors, tries)
            again, failures = [*again, *passing], [*failures, *lost]
            reasons += [error for error in errors.values() if may_pass(error, tries)]
            listing = listing_page(spec, parent, loader, tracker, last=False)
            listing = listing.replace(late=True, number=tracker.position.number)
            read.append(Delivery(entities, at, listing, sync=task.sync))
        writes = [self._context.engine.prepare_write(one) for one in read if one.entities]
        if spec.recheck or spec.ids_only:
            writes = [one.uncounted() for one in writes]
        spec = spec.replace(position=tracker.position, unread=tuple(again))
        done = Settlement(task, State.RUNNING, spec, writes, failures=failures, progress=bool(writes))
        return self._settled(done, spec, reasons)

    def _settled(self, done: Settlement, spec: ListTask, reasons: Sequence[Exception]) -> Settlement:
        """The settlement with what follows: another try of what may pass, the listing, or the end."""
        if spec.unread:
            error = run_again(self._context, done.task, done.task.tries, reasons[0]).error
            wait = _wait(spec.unread)
            return done._replace(state=State.PENDING, spec=_waited(spec), wait=wait, error=error)
        if spec.rest:
            return done._replace(state=State.FAILED if done.failures else State.COMPLETED)
        return done._replace(progress=True)

    async def _items(
        self, task: Task, spec: ListTask, position: ListingPosition, ids: Sequence[str], at: float
    ) -> Items:
        """Some items of a page with what came along.

        The entity's own loaders are asked where they bring all that the listing brings; else the page is.
        """
        parent, loader = self._declared.listed(spec)
        child = loader.lists.child
        names = tuple(field.name for field in loader.brings if field.entity is child)
        try:
            if names and not spec.ids_only and self._declared.loads_alone(child, names):
                return await self._items_by_id(task, LoadFieldsTask(child.__name__, names, "", ()), ids, at)
            with self._calling(task, at, loader) as env:
                request = page_request(position, loader, ids_only=spec.ids_only)
                page = await self._loader_calls.page(loader, parent, request, env)
        except (StorageError, LeaseLost):
            raise
        except Exception as error:
            return [], dict.fromkeys(ids, error)
        items = [item for item in page.items if item.id in ids]
        return [*items, *page.also], _errors(child, ids, items, page.failed)

    async def _items_by_id(self, task: Task, spec: LoadFieldsTask, ids: Sequence[str], at: float) -> Items:
        """The same from the entity's own loaders; an item counts when each of them brings it."""
        items: list[Entity] = []
        errors: dict[str, Exception] = {}
        for loader, call in self._declared.loads(spec, ids):
            refs = [self._declared.ref(spec.entity, id) for id in call.ids]
            with self._calling(task, at, loader) as env:
                batch = await self._loader_calls.batch(loader, refs, env)
            items += batch.items
            errors |= _errors(refs[0].entity, call.ids, batch.items, batch.failed)
        return [item for item in items if item.id not in errors], errors


def _wait(unread: Sequence[Unread]) -> float:
    """Seconds until all of them may be asked for; 0 for the times of day that older versions stored."""
    return max((wait for _, _, wait in unread if wait <= LONGEST_WAIT), default=0.0)


def _waited(spec: ListTask) -> ListTask:
    """The spec of a task that waits now: when it runs again, it asks at once."""
    return spec.replace(unread=tuple((cursor, ids, 0.0) for cursor, ids, _ in spec.unread))


def _errors(
    entity: type[Entity], ids: Sequence[str], items: Sequence[Entity], failed: Mapping[str, Exception]
) -> dict[str, Exception]:
    """The errors of those ids that a response did not bring."""
    loaded = {item.id for item in items}
    return {
        id: failed.get(id)
        or UpstreamMissing(
            f"{entity.ref(id)} was listed and did not come", hint="it may have been deleted; sync again"
        )
        for id in ids
        if id not in loaded
    }
