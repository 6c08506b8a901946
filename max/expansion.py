"""Expansion: which tasks a sync begins with, when it does a plan anew or retries what failed."""

from __future__ import annotations

from collections.abc import Sequence

from .tasks import BLOCKED, Failure, NewTask, TaskKind


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
