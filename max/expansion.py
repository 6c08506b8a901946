"""Expansion: which tasks a sync consists of, when it does a plan and when it retries what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .core import Concurrent, Resolver, Step, SyncPlan
from .entities import FieldOf
from .errors import UsageError
from .tasks import BLOCKED, Failure, NewTask, TaskKind


def expand(plan: SyncPlan, resolver: Resolver, *, since: float) -> NewTask:
    """The task graph of a plan: its steps one after the other, concurrent ones side by side.

    Fields that were synced at or after ``since`` are not fetched.  UnknownName or UsageError
    when the plan names what the schema or the loaders do not have.
    """
    plan.check(resolver.schema)
    steps = []
    for step in plan.steps:
        if isinstance(step, Concurrent):
            inside = tuple(_step(one, resolver, since) for one in step.steps)
            steps.append(NewTask(TaskKind.GROUP, {"step": str(step)}, inside))
        else:
            steps.append(_step(step, resolver, since))
    return NewTask(TaskKind.GROUP, {"step": "the plan"}, tuple(steps), chained=True)


def _step(step: Step, resolver: Resolver, since: float) -> NewTask:
    base = {"entity": step.entity, "operation": step.operation}
    if step.operation == "load_collection":
        return _target(step, {**base, "names": list(step.names)}, since)
    homes = _homes(step, resolver)
    loads = [
        _target(step, {**base, "names": names, "loader": loader}, since) for loader, names in homes.items()
    ]
    return loads[0] if len(loads) == 1 else NewTask(TaskKind.GROUP, {"step": str(step)}, tuple(loads))


def _target(step: Step, payload: dict[str, Any], since: float) -> NewTask:
    """One task for one target, or one that makes a task for each."""
    if step.id is None:
        return NewTask(TaskKind.EXPAND, {**payload, "matching": step.matching, "since": since, "after": ""})
    if step.operation == "load_collection":
        return NewTask(TaskKind.LOAD_COLLECTION, {**payload, "id": step.id})
    return NewTask(TaskKind.LOAD_FIELDS, {**payload, "ids": [step.id], "since": since})


def _homes(step: Step, resolver: Resolver) -> dict[str, list[str]]:
    """The step's fields by the loader that fetches them for given refs."""
    entity = resolver.schema.entity(step.entity)
    homes: dict[str, list[str]] = {}
    for name in step.names:
        field: FieldOf[Any, Any] = FieldOf(entity, name)
        loader = resolver.home(field)
        if loader is None:
            bringing = ", ".join(one.name for one in resolver.loaders if field in one.brings)
            raise UsageError(
                f"{field!r} cannot be loaded by itself: it only comes along with {bringing or 'the seeder'}",
                hint="load the collection that brings it instead",
            )
        homes.setdefault(loader.name, []).append(name)
    return homes


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
