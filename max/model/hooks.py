"""Hooks: what a service sends by itself, once its connector has read it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from .plan import Step
from .struct import Struct

HOOK = "webhook"  # in place of a schedule's name, of syncs that hooks begin
COUNTED = "hooks"  # the option of such a sync: how many hooks it is for


class HookState(StrEnum):
    """What became of a hook whose signature is right."""

    STORED = "stored"  # what it says will be fetched
    REPEATED = "repeated"  # it has come before
    LATE = "late"  # it was sent too long ago, or its time is missing
    IGNORED = "ignored"  # it says of nothing that is copied here that it has changed


class HookReceipt(Struct):
    """What became of a hook; ``number`` counts those that are stored, and is None for others."""

    state: HookState
    number: int | None = None


class ReadHook(Struct):
    """A hook as it is stored: ``id`` and ``digest`` name it and its body.

    ``steps`` fetch what has changed, ``removed`` are the entities and ids of rows that are gone.
    """

    id: str
    digest: str
    steps: Sequence[Step]
    removed: Sequence[tuple[str, str]]


class PendingHook(Struct):
    """A stored hook that is not worked through; ``tries`` of it have failed."""

    number: int
    tries: int
    steps: Sequence[Step]
    removed: Sequence[tuple[str, str]]


class HookWork(Struct):
    """What several hooks ask for together: each step once, and which rows are gone."""

    numbers: Sequence[int]
    steps: Sequence[Step]
    removed: Sequence[tuple[str, str]]


def collapse(hooks: Sequence[PendingHook]) -> HookWork:
    """What hooks ask for together, in the order in which they came.

    The last word about a row counts: one that is gone is not fetched.  A step is done once, where it was
    asked for last, since what it fetches is newer than all hooks.
    """
    steps: dict[Step, None] = {}
    removed: dict[tuple[str, str], None] = {}
    for hook in hooks:
        for step in hook.steps:
            steps.pop(step, None)
            steps[step] = None
            removed.pop((step.entity, step.id or ""), None) if step.operation == "load_fields" else None
        for row in hook.removed:
            removed[row] = None
            for step in [one for one in steps if (one.entity, one.id) == row]:
                del steps[step]
    return HookWork([one.number for one in hooks], [*steps], [*removed])
