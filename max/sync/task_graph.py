"""Expansion: which tasks a sync consists of, when it does a plan and when it retries what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core import SyncOptions
from ..errors import UsageError
from ..model.entities import FieldOf, ManyOf, known_name
from ..model.loaders import Loader, Resolver
from ..model.plan import Concurrent, Step, SyncPlan
from ..model.tasks import BLOCKED, Failure, NewTask, TaskKind
from ..model.values import Json

Roots = Mapping[str, tuple[str, str]]  # entity and id of the root of each feed that a plan follows


def expand(plan: SyncPlan, resolver: Resolver, options: SyncOptions, *, now: float) -> NewTask:
    """The task graph of a plan: its steps one after the other, concurrent ones side by side.

    At the end comes the removal of what was found gone.  UnknownName or UsageError when the
    plan or the options name what the schema or the loaders do not have.
    """
    plan.check(resolver.schema)
    expansion = _GraphBuilder(plan, resolver, options, now)
    steps = []
    for step in plan.steps:
        if isinstance(step, Concurrent):
            inside = tuple(task for one in step.steps for task in expansion.tasks(one))
            if inside:
                steps.append(NewTask(TaskKind.GROUP, {"step": str(step)}, inside))
        else:
            steps += expansion.tasks(step)
    if options.only and not steps:
        raise UsageError(f"no step of the plan brings {', '.join(options.only)}")
    removal = NewTask(TaskKind.REMOVE, expansion.removal())
    payload = {"step": "the plan", "options": asked(options)}
    return NewTask(TaskKind.GROUP, payload, (*steps, removal), chained=True)


def asked(options: SyncOptions) -> dict[str, Json]:
    """What is asked for beyond a plan, as JSON data: the options that are not as they always are."""
    values = {name: getattr(options, name) for name in SyncOptions._names}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != getattr(SyncOptions, name)
    }


class _GraphBuilder:
    """One plan on its way to tasks, with what was asked for beside it."""

    def __init__(self, plan: SyncPlan, resolver: Resolver, options: SyncOptions, now: float) -> None:
        self._resolver, self._options, self._now = resolver, options, now
        self._steps = plan.flat()
        self._wanted = wanted(options.only, resolver)
        self._feeds = {
            step.names[0]: (step.entity, step.id) for step in self._steps if step.operation == "follow"
        }

    def tasks(self, step: Step) -> list[NewTask]:
        """The tasks of one step: none when nothing of it is wanted."""
        base = {"entity": step.entity, "operation": step.operation}
        if step.operation == "load_fields":
            return self._load_fields(step, base)
        if step.operation == "follow":
            return self._follow(step, base)
        many: ManyOf[Any, Any] = ManyOf(self._resolver.schema.entity(step.entity), step.names[0])
        loader = self._resolver.collection_loader(many)
        if not self._is_wanted((*loader.brings, FieldOf(many.child, "id"))):
            return []
        payload = {**base, "names": list(step.names), **self._since(loader, many)}
        if self._options.check_deletes:  # whatever was listed lately, or is covered by a feed
            payload |= {"since": self._now, "sweeping": True}
            payload.pop("feed", None)
            if loader.sweep is None:  # only by listing everything can it tell what is gone
                payload["full"] = True
        return [self._target(step, payload)]

    def _load_fields(self, step: Step, base: Mapping[str, Any]) -> list[NewTask]:
        loads = []
        for loader, names in self._homes(step).items():
            fields: list[FieldOf[Any, Any]] = [
                FieldOf(self._resolver.schema.entity(step.entity), name) for name in names
            ]
            chosen = [field for field in fields if self._is_wanted([field])]
            if chosen:
                payload = {**base, "names": [field.name for field in chosen], "loader": loader.name}
                loads.append(self._target(step, {**payload, **self._since(loader, *chosen)}))
        if len(loads) <= 1:
            return loads
        return [NewTask(TaskKind.GROUP, {"step": str(step)}, tuple(loads))]

    def _follow(self, step: Step, base: Mapping[str, Any]) -> list[NewTask]:
        loader = self._resolver.feed_loader(step.names[0])
        if not self._is_wanted(loader.brings):
            return []
        payload = {**base, "names": list(step.names), "id": step.id}
        return [NewTask(TaskKind.FOLLOW, {**payload, **self._since(loader)})]

    def _target(self, step: Step, payload: dict[str, Any]) -> NewTask:
        """One task for one target, or one that makes a task for each."""
        if step.id is None:
            return NewTask(TaskKind.EXPAND, {**payload, "matching": step.matching, "after": ""})
        if step.operation == "load_collection":
            return NewTask(TaskKind.LOAD_COLLECTION, {**payload, "id": step.id})
        return NewTask(TaskKind.LOAD_FIELDS, {**payload, "ids": [step.id]})

    def removal(self) -> dict[str, Any]:
        """What the last task knows: where things can be, and whether it may remove whatever is gone."""
        whole = {
            f"{step.entity}.{step.names[0]}"
            for step in self._steps
            if step.operation == "load_collection" and step.matching is None
        }
        payload = {"step": "what is gone", "whole": sorted(whole), "since": self._now}
        payload |= {"again": {}, "looks": {}, "looked": []}
        return {**payload, "allow": self._options.allow_removals, "feeds": self._feeds}

    # what is old enough

    def _since(self, loader: Loader[Any], *what: ManyOf[Any, Any] | FieldOf[Any, Any]) -> dict[str, Any]:
        """From which time on an answer is young enough, and the feed that vouches for older ones."""
        options, now = self._options, self._now
        if options.full:
            return {"since": now, "full": True}
        ttl = None if loader.ttl is None else loader.ttl.total_seconds()
        feeds = {self._resolver.feed_covering(one) for one in what}
        feed = feeds.pop() if len(feeds) == 1 else None
        told = {} if feed is None or feed.name not in self._feeds else {"feed": self._told(feed.name)}
        if options.missing_only and loader.kind != "feed":
            return {"since": 0.0 if ttl is None else now - ttl, **told}
        return {"since": now - max(ttl or 0.0, options.if_stale or 0.0), **told}

    def _told(self, feed: str) -> list[Any]:
        return [*self._feeds[feed], feed]

    # what is wanted

    def _is_wanted(self, fields: Sequence[FieldOf[Any, Any]]) -> bool:
        return not self._wanted or any(field in self._wanted for field in fields)

    def _homes(self, step: Step) -> dict[Loader[Any], list[str]]:
        """The step's fields by the loader that fetches them for given refs."""
        entity = self._resolver.schema.entity(step.entity)
        homes: dict[Loader[Any], list[str]] = {}
        for name in step.names:
            field: FieldOf[Any, Any] = FieldOf(entity, name)
            loader = self._resolver.loader_for(field)
            if loader is None:
                bringing = ", ".join(one.name for one in self._resolver.loaders if field in one.brings)
                raise UsageError(
                    f"{field!r} cannot be loaded by itself: it only comes along with"
                    f" {bringing or 'the seeder'}",
                    hint="load the collection that brings it instead",
                )
            homes.setdefault(loader, []).append(name)
        return homes


def wanted(only: Sequence[str], resolver: Resolver) -> set[FieldOf[Any, Any]]:
    """The fields that ``Entity`` and ``Entity.field`` mean, an entity's id standing for its rows.

    In any case; UnknownName or UsageError for a text that means none.
    """
    found: set[FieldOf[Any, Any]] = set()
    for text in only:
        name, dot, field = text.partition(".")
        entity = resolver.schema.entity(name)
        child = entity.children().get(field)
        if child is not None:
            raise UsageError(f"{entity.__name__}.{field} is a collection", hint=f"write {child.__name__}")
        names = [known_name(entity, field)] if dot else ["id", *entity.types()]
        found |= {FieldOf(entity, one) for one in names}
    return found


def retried(failures: Sequence[Failure]) -> NewTask:
    """The task graph of what failed: first what failed itself, then what was blocked by it.

    A failed ref is retried alone, a listing from the page at which it failed, and a step that
    was blocked as a whole; blocked steps run in the order of their plan.
    """
    failed = tuple(_again(one) for one in failures if one.code != BLOCKED)
    blocked = tuple(_again(one) for one in failures if one.code == BLOCKED)
    first = NewTask(TaskKind.GROUP, {"step": "what failed"}, failed)
    return NewTask(TaskKind.GROUP, {"step": "the retry"}, (first, *blocked), chained=True)


def _again(failure: Failure) -> NewTask:
    payload = dict(failure.input)
    if "ids" in payload and failure.id is not None:
        payload["ids"] = [failure.id]
    return NewTask(TaskKind(failure.kind), payload)
