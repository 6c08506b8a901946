"""Durable tasks: what may happen to them, and what of a sync is remembered.

Rule 1: every state and every move between states is in MOVES.  The guards of the SQL below
are built from it, so a move that the table does not allow cannot be stored.

Rule 2: a task may run more than once (a crash after the work, before the record), so
whatever it does must be safe to do twice.  What it stores and its own new state are one
transaction, fenced by worker and attempt: who lost the lease stores nothing.

Rule 3: everything is plain synchronous code over a connection, which a command without an
event loop may call as well.  Times are seconds since the epoch and always passed in.

How tasks move stands in task_store.py, what they do in execution.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from ..errors import describe
from .delivery import Write, WriteResult
from .struct import Struct
from .values import Json

CHILDREN_PAGE = 1_000  # targets that a task hands on at a time

BLOCKED = "sync.blocked"  # the code of what did not run because something before it failed

# -- states -------------------------------------------------------------------------------


class State(StrEnum):
    """Where a task stands."""

    NEW = "new"  # waits for the task before it
    PENDING = "pending"  # may be claimed once its time has come
    RUNNING = "running"  # leased to a worker
    AWAITING_CHILDREN = "awaiting_children"  # goes on, or ends, when its children have
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"  # stopped between two pages, until the sync is resumed


MOVES: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.PENDING, State.AWAITING_CHILDREN, State.FAILED, State.CANCELLED}),
    State.PENDING: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset(
        {
            State.RUNNING,  # a page is stored, and the task goes on
            State.PENDING,  # tried again, or given back
            State.AWAITING_CHILDREN,
            State.COMPLETED,
            State.FAILED,
            State.CANCELLED,
            State.PAUSED,
        }
    ),
    State.AWAITING_CHILDREN: frozenset({State.PENDING, State.COMPLETED, State.FAILED, State.CANCELLED}),
    State.PAUSED: frozenset({State.PENDING, State.CANCELLED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


class Status(StrEnum):
    """How a sync stands.  INTERRUPTED is never stored: it is RUNNING without a living worker."""

    RUNNING = "running"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self not in (Status.RUNNING, Status.PAUSED, Status.INTERRUPTED)


class SyncCommand(StrEnum):
    """What any process may ask of a sync; its worker obeys at the next page."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class TaskKind(StrEnum):
    """What a task does."""

    GROUP = "group"  # nothing itself: it ends when its children have
    EXPAND = "expand"  # makes a child for each target, a page at a time
    LOAD_FIELDS = "load_fields"
    LOAD_COLLECTION = "load_collection"
    FOLLOW = "follow"  # asks a feed what has changed
    REMOVE = "remove"  # at the end, what was found gone


# -- data ---------------------------------------------------------------------------------
# Tuples, since several are made for every task.

Payload = Mapping[str, Json]


class NewTask(NamedTuple):
    """A task to be: names and keys only.  ``chained`` children run one after the other."""

    kind: TaskKind
    payload: Payload
    children: Sequence[NewTask] = ()
    chained: bool = False


class Task(NamedTuple):
    """A claimed task: RUNNING, and nobody else's.

    ``attempt`` counts every claim and fences it; ``tries`` those since it last got further.
    """

    id: int
    sync: str
    parent: int | None
    kind: TaskKind
    payload: Payload
    attempt: int
    tries: int
    crashes: int


class Failure(Struct):
    """What failed, why, and all that is needed to try just that again."""

    sync: str
    task: int
    kind: str
    what: str
    entity: str | None
    id: str | None
    code: str
    message: str
    hint: str
    attempt: int
    at: float
    input: Json
    version: str = ""  # of the connector


class Settlement(NamedTuple):
    """What one task did, to be stored as a whole or not at all.

    ``writes`` run inside the transaction.  ``more``: an AWAITING_CHILDREN task wants to be
    claimed again as soon as its children leave room.  ``progress`` forgives earlier tries.
    ``error``, as ``describe`` gives it: why a PENDING task waits.  ``notes``: what a person
    should know of the sync, beside its status.
    """

    task: Task
    state: State
    payload: Payload | None = None
    writes: Sequence[Write] = ()
    children: Sequence[NewTask] = ()
    failures: Sequence[Failure] = ()
    not_before: float = 0.0
    more: bool = False
    progress: bool = False
    error: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


class Outcome(NamedTuple):
    """What became of a settlement: the task's state and what was stored, or the error."""

    state: State
    stored: WriteResult = WriteResult({})
    error: Exception | None = None


class SettleResult(NamedTuple):
    """What one call of ``settle`` came to: an outcome for each settlement, and the new work.

    ``due`` is when the next task may be claimed, None when that depends on those running.
    """

    outcomes: Sequence[Outcome]
    claimed: Sequence[Task]
    status: Status
    command: SyncCommand
    due: float | None = None
    waiting: int = 0


class SyncRun(Struct):
    """A sync as history shows it.  ``counts``: rows by entity, ``requests``: by operation."""

    id: str
    status: Status
    counts: Mapping[str, int]
    removed: int
    requests: Mapping[str, int]
    failed: int
    started_at: float
    finished_at: float | None
    resumed: bool
    worker: str | None
    plan: Json
    notes: tuple[str, ...]  # what a person should know of it, beside its status
    quarantined: int  # invalid rows that were kept aside


class SyncResult(SyncRun):
    """What a sync came to, with each thing that failed."""

    failures: tuple[Failure, ...]


class ResumedSync(SyncRun):
    """A sync as it was before it was resumed.

    ``crashed``: the process that was at it ended without a word, and the attempts in ``died`` with it.
    """

    crashed: bool
    died: tuple[Task, ...]


def describe_task(kind: TaskKind, payload: Payload) -> str:
    """A task in the words of the plan: ``AcmeUser:7: load fields name``."""
    if kind in (TaskKind.GROUP, TaskKind.REMOVE):
        return str(payload.get("step", "the plan"))
    ids = payload.get("ids") or ([payload["id"]] if payload.get("id") is not None else None)
    if ids is None:
        target = f"all {payload['entity']}"
    else:
        target = f"{payload['entity']}:{ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
    operation = str(payload.get("operation", kind)).replace("_", " ")
    return f"{target}: {operation} {', '.join(payload['names'])}"


def single_id(payload: Payload) -> str | None:
    """The id of the one thing that a task is about; None when there are several, or all."""
    ids = payload.get("ids") or [payload.get("id")]
    return ids[0] if len(ids) == 1 else None


def failure_of(task: Task, error: BaseException, at: float, id: str | None = None) -> Failure:
    """The record of a task's failure, or of one ref's within it."""
    payload = task.payload
    what = describe_task(task.kind, payload)
    if id is not None:
        what = describe_task(task.kind, {**payload, "ids": [id]})
    else:
        id = single_id(payload)
    return failure_record(task.sync, task.id, task.kind, payload, what, describe(error), task.attempt, at, id)


def failure_record(
    sync: str,
    task: int,
    kind: TaskKind,
    payload: Payload,
    what: str,
    error: Mapping[str, Any],
    attempt: int,
    at: float,
    id: str | None,
) -> Failure:
    """A failure from its parts; ``error`` is as ``describe`` gives it."""
    words: dict[str, Any] = {name: error[name] for name in ("code", "message", "hint")}
    rest: dict[str, Any] = {
        "entity": payload.get("entity"),
        "id": id,
        "attempt": attempt,
        "at": at,
        "input": dict(payload),
    }
    return Failure(sync=sync, task=task, kind=str(kind), what=what, **words, **rest)


# -- workers ------------------------------------------------------------------------------


# -- tables -------------------------------------------------------------------------------


# -- syncs, as history and other processes see them ------------------------------------------


# -- the protocol -------------------------------------------------------------------------
