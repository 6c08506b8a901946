"""Tasks: what there is to do, the states of that work, and what is recorded of a sync.

Rule 1: MOVES has every state and every move between states.  The SQL guards in storage are
built from it, so a move that it does not allow cannot be stored.

Rule 2: a task may run twice (the process crashed after the work, before the commit), so its
work must be safe to repeat.  What a task stores and its new state are one transaction, fenced
by worker and attempt: a worker that lost the lease stores nothing.

Rule 3: a spec holds names, ids and times only, so that stored work survives an upgrade of the
connector.  Its JSON has a format number, and a format that this version does not know is refused.

Times are seconds since the epoch and are always passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from ..errors import SyncError, describe
from .delivery import Write, WriteResult
from .plan import map_paths
from .schema import snake_case
from .struct import Struct
from .values import Json

CHILDREN_PAGE = 1_000  # child tasks that one task creates at a time
BLOCKED = "sync.blocked"  # the code of what did not run because something before it failed
FORMAT = 1  # of a spec as JSON
HEARTBEAT = 1.0  # seconds, at most, between two signs of life of a worker
NOTHING: Mapping[str, Any] = MappingProxyType({})

# -- states -------------------------------------------------------------------------------


class State(StrEnum):
    """The state of a task."""

    NEW = "new"  # waits for the task before it
    PENDING = "pending"  # may be claimed once its time has come
    RUNNING = "running"  # leased to a worker
    AWAITING_CHILDREN = "awaiting_children"  # continues, or ends, when its children have ended
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"  # stopped between two pages until the sync is resumed


MOVES: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.PENDING, State.AWAITING_CHILDREN, State.FAILED, State.CANCELLED}),
    State.PENDING: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset(
        {
            State.RUNNING,  # a page is stored and the task continues
            State.PENDING,  # runs again, or goes back to the queue
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
    """The status of a sync.  INTERRUPTED is never stored: it is RUNNING without a live worker."""

    RUNNING = "running"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether no other status can follow."""
        return self not in (Status.RUNNING, Status.PAUSED, Status.INTERRUPTED)


class SyncCommand(StrEnum):
    """What any process may request of a sync; its worker applies it at the next page."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


# -- specs --------------------------------------------------------------------------------

FeedRoot: TypeAlias = tuple[str, str, str]  # the entity and the id of a feed's root, and the loader's name
UnreadItems: TypeAlias = (
    "tuple[str | None, tuple[str, ...], float]"  # their page's cursor, ids, seconds to wait
)
Target: TypeAlias = Callable[[str, str], "str | None"]  # where a ref or a collection leads


class ListingPosition(Struct):
    """How far a listing or a feed has come; replaced with every page.

    ``number`` counts pages from 0, ``cursor`` is the next page's; ``ended``: there is none.
    ``began`` is when the first request began, and names the pass.  ``sync_token`` is where the
    last listing ended, ``newest`` where this one would.  ``delta``: only changes are listed.
    ``listed`` counts items, ``total`` has the least and the most that the source said it has,
    ``token`` is the sync token that came last.  ``content`` is a hash of the ids so far;
    ``repeats`` is that of the whole pass before, when this one only repeats it, and ``passes``
    counts them.  ``nameless``: the id of some row is invalid.  ``failed`` counts the items that
    could not be read.
    """

    number: int = 0
    cursor: str | None = None
    began: float | None = None
    sync_token: str | None = None
    newest: str | None = None
    delta: bool = False
    listed: int = 0
    total: tuple[int, int] | None = None
    token: str | None = None
    content: int = 0
    repeats: int | None = None
    passes: int = 1
    ended: bool = False
    nameless: bool = False
    failed: int = 0


def _plain(value: Any) -> Json:
    """Records and tuples as JSON data."""
    if isinstance(value, Struct):
        return {name: _plain(one) for name, one in vars(value).items() if one is not None}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _tuples(value: Json) -> Any:
    """JSON data with a tuple for each list."""
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


# What differs in JSON, by the name of the field.
TO_JSON: dict[str, Callable[[Any], Json]] = {
    **dict.fromkeys(("names", "ids", "covered_by", "collections", "asked", "looks", "left", "needs"), list),
    **dict.fromkeys(("feeds", "position", "unread"), _plain),
}
FROM_JSON: dict[str, Callable[[Json], Any]] = {
    **dict.fromkeys(("names", "ids", "covered_by", "collections", "asked", "looks", "left", "needs"), tuple),
    **dict.fromkeys(("feeds", "unread"), _tuples),
    "position": lambda data: ListingPosition(**_tuples(data)),
}


class TaskSpec(Struct):
    """What a task is to do.

    Of what it fetches, only rows that were last requested before ``since`` are requested
    again; those that the feed ``covered_by`` covers stay fresh for as long as it is followed.

    ``needs`` describes the steps of the plan that bring the rows of this one: when each of them has
    failed, it is blocked.  None: it is blocked when the task before it has failed.
    """

    kind: ClassVar[str]
    words: ClassVar[str]  # a format of the spec
    _nested: ClassVar[tuple[str, ...]] = ()  # fields that differ in JSON

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._nested = tuple(name for name in cls._names if name in TO_JSON)

    def describe(self) -> str:
        """The task in the words of the plan: ``AcmeUser:7: load fields name``."""
        return self.words.format(self)

    @property
    def single_id(self) -> str | None:
        """The id of the one entity that the task is about; None when there are several, or all."""
        ids = getattr(self, "ids", None) or [getattr(self, "id", None)]
        return ids[0] if len(ids) == 1 else None

    def to_json(self) -> dict[str, Json]:
        """The spec as JSON data; what was not given is left out."""
        data = {name: one for name, one in vars(self).items() if one is not None and one is not False}
        for name in self._nested:
            if name in data:
                data[name] = TO_JSON[name](data[name])
        return {"v": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Self:
        """The inverse of to_json; SyncError for a format that this version does not know."""
        values = dict(data)
        version = values.pop("v", None)
        if version != FORMAT:
            raise _unknown(f"format {version}")
        for name in cls._nested:
            if name in values:
                values[name] = FROM_JSON[name](values[name])
        spec = cls.__new__(cls)  # of a known format: nothing needs a check
        spec.__dict__.update(values)
        return spec

    def rename_entity(self, old: str, new: str) -> Self:
        """The spec after an entity was renamed."""
        return self._renamed(_Renaming(old, new_entity=new))

    def rename_field(self, entity: str, old: str, new: str, target: Target = lambda *names: None) -> Self:
        """The spec after a field or a collection was renamed; ``target`` is for filters that follow refs."""
        return self._renamed(_Renaming(entity, entity, old, new, target=target))

    def replace_ids(self, entity: str, new_id: Callable[[str], str]) -> Self:
        """The spec after the ids of an entity changed."""
        return self._renamed(_Renaming(entity, entity, new_id=new_id))

    def _renamed(self, renaming: _Renaming) -> Self:
        entity = getattr(self, "entity", "")
        return self.replace(
            **{
                name: RENAMED[name](renaming, entity, value)
                for name, value in vars(self).items()
                if name in RENAMED
            }
        )


class GroupTask(TaskSpec):
    """Does nothing itself and ends when its children have ended.

    ``options`` are the sync's, as JSON data, in the group of the whole plan.
    """

    kind, words = "group", "{0.step}"
    step: str = "the plan"
    options: Mapping[str, Json] = NOTHING
    needs: tuple[str, ...] | None = None


class ExpandTask(TaskSpec):
    """Creates a task for each stored entity that needs one, a page of ids at a time.

    ``names`` are fields, or one collection, as ``operation`` says.  ``matching`` is a filter as
    JSON data; the next page of ids begins after the id ``after``.  ``everything``, ``sweep`` and
    ``recheck`` are those of each ListTask.  ``known``: only parents whose collection was listed before.
    """

    kind = "expand"
    entity: str
    operation: str
    names: tuple[str, ...]
    since: float
    loader: str = ""
    covered_by: FeedRoot | None = None
    matching: Json = None
    after: str = ""
    everything: bool = False
    sweep: bool = False
    recheck: bool = False
    known: bool = False
    needs: tuple[str, ...] | None = None

    def describe(self) -> str:
        """``all AcmeUser: load fields name``."""
        return f"all {self.entity}: {self.operation.replace('_', ' ')} {', '.join(self.names)}"


class LoadFieldsTask(TaskSpec):
    """Loads fields of some entities with one call of a loader.

    ``is_rest``: others of its batch are stored, so that its failure is not the whole batch's.
    ``verify``: the rows are missing; the source's word that one does not exist removes it.
    """

    kind = "load_fields"
    entity: str
    names: tuple[str, ...]
    loader: str
    ids: tuple[str, ...]
    since: float | None = None
    covered_by: FeedRoot | None = None
    is_rest: bool = False
    verify: bool = False
    needs: tuple[str, ...] | None = None

    def describe(self) -> str:
        """``AcmeUser:7 and 2 more: load fields name``."""
        more = f" and {len(self.ids) - 1} more" if len(self.ids) > 1 else ""
        return f"{self.entity}:{self.ids[0]}{more}: load fields {', '.join(self.names)}"


class ListTask(TaskSpec):
    """Lists a collection of one parent, page by page.

    ``everything``: without the sync token.  ``sweep``: when only changes were listed, a listing
    of all ids follows, the one with ``ids_only``.  ``recheck``: it looks for rows that are
    missing elsewhere, so it must be proven complete; rows that it finds are not counted again.
    ``unread`` are items that could not be read and are asked for again at the end of the pass: the
    cursor of their page, their ids, and the time before which that is too early.  ``rest``: only those.
    """

    kind, words = "load_collection", "{0.entity}:{0.id}: load collection {0.collection}"
    entity: str
    collection: str
    id: str
    since: float | None = None
    covered_by: FeedRoot | None = None
    everything: bool = False
    sweep: bool = False
    ids_only: bool = False
    recheck: bool = False
    position: ListingPosition | None = None
    unread: tuple[UnreadItems, ...] = ()
    rest: bool = False
    needs: tuple[str, ...] | None = None


class FollowTask(TaskSpec):
    """Asks a feed what has changed below its root.  ``everything``: without the sync token."""

    kind, words = "follow", "{0.entity}:{0.id}: follow {0.feed}"
    entity: str
    feed: str
    id: str
    since: float
    everything: bool = False
    position: ListingPosition | None = None
    needs: tuple[str, ...] | None = None


class RemoveTask(TaskSpec):
    """Removes what is missing upstream, at the end of a sync that began at ``since``.

    ``collections`` (``Entity.name``) are those that the sync lists of every parent, ``feeds``
    those that it follows.  ``allow``: any number of rows may be removed.  ``asked`` names the
    entities whose missing rows were requested one by one.  ``looks`` has when each look at every
    place began, and ``left`` the collections that the present one has still to list.
    """

    kind, words = "remove", "what is gone"
    collections: tuple[str, ...]
    feeds: tuple[FeedRoot, ...]
    since: float
    allow: bool = False
    asked: tuple[str, ...] = ()
    looks: tuple[float, ...] = ()
    left: tuple[str, ...] = ()


class _Renaming(NamedTuple):
    """An entity, one of its fields or its ids are renamed."""

    entity: str
    new_entity: str
    field: str = ""
    new_field: str = ""
    new_id: Callable[[str], str] | None = None
    target: Target = lambda *names: None

    def of(self, entity: str) -> str:
        return self.new_entity if entity == self.entity else entity

    def name(self, entity: str, name: str) -> str:
        return self.new_field if (entity, name) == (self.entity, self.field) else name

    def id(self, entity: str, id: str) -> str:
        return self.new_id(id) if self.new_id is not None and entity == self.entity else id

    def root(self, root: FeedRoot) -> FeedRoot:
        return self.of(root[0]), self.id(*root[:2]), root[2]

    def path(self, path: str) -> str:
        entity, _, name = path.partition(".")
        return f"{self.of(entity)}.{self.name(entity, name)}"

    def steps(self, entity: str, path: Sequence[str]) -> tuple[list[str], str]:
        """A filter's path, each name one of what the one before it leads to, and what the last leads to."""
        steps = []
        for name in path:
            steps.append(self.name(entity, name))
            entity = self.target(entity, name) or ""
        return steps, entity

    def asked(self, text: str) -> str:
        """``Entity`` or ``Entity.field`` as a person wrote it, in any case."""
        entity, dot, name = text.partition(".")
        if entity.casefold() not in (self.entity.casefold(), snake_case(self.entity)):
            return text
        entity = entity if self.new_entity == self.entity else self.new_entity
        return entity + dot + (self.new_field if name.casefold() == self.field.casefold() else name)


# What in a spec names an entity, a field or an id; the entity is the spec's own, by its old name.
RENAMED: dict[str, Callable[[_Renaming, str, Any], object]] = {
    "entity": lambda new, entity, value: new.of(value),
    "names": lambda new, entity, value: tuple(new.name(entity, one) for one in value),
    "collection": lambda new, entity, value: new.name(entity, value),
    "id": lambda new, entity, value: new.id(entity, value),
    "ids": lambda new, entity, value: tuple(new.id(entity, one) for one in value),
    "after": lambda new, entity, value: "" if new.new_id and entity == new.entity else value,  # another order
    "covered_by": lambda new, entity, value: value and new.root(value),
    "feeds": lambda new, entity, value: tuple(map(new.root, value)),
    "collections": lambda new, entity, value: tuple(sorted(map(new.path, value))),
    "asked": lambda new, entity, value: tuple(map(new.of, value)),
    "looks": lambda new, entity, value: (),  # looking begins again
    "left": lambda new, entity, value: (),
    "unread": lambda new, entity, value: () if new.new_id else value,  # the next sync lists them again
    "matching": lambda new, entity, value: value and map_paths(value, entity, new.steps),
    "options": lambda new, entity, value: {
        name: [*map(new.asked, one)] if name == "only" else one for name, one in value.items()
    },
}

SPECS: dict[str, type[TaskSpec]] = {
    spec.kind: spec for spec in (GroupTask, ExpandTask, LoadFieldsTask, ListTask, FollowTask, RemoveTask)
}


def read_spec(kind: str, data: Mapping[str, Json]) -> TaskSpec:
    """A spec of any kind from its JSON data; SyncError for a kind that this version does not know."""
    if kind not in SPECS:
        raise _unknown(f"kind {kind}")
    return SPECS[kind].from_json(data)


def _unknown(what: str) -> SyncError:
    return SyncError(
        f"a stored task has {what}, which this version of Max does not know",
        hint="continue it with the version that stored it, or begin a new sync",
    )


# -- tasks --------------------------------------------------------------------------------
# Named tuples, since several are created for every task.


class NewTask(NamedTuple):
    """A task to be created.  ``chained`` children run one after the other, others side by side."""

    spec: TaskSpec
    children: Sequence[NewTask] = ()
    chained: bool = False


class Task(NamedTuple):
    """A claimed task: RUNNING, and leased to one worker.

    ``attempt`` counts all claims and fences what is stored; ``tries`` counts those since the
    task last made progress, ``crashes`` the processes in a row that ended while it ran.
    """

    id: int
    sync: str
    parent: int | None
    spec: TaskSpec
    attempt: int
    tries: int
    crashes: int


class Failure(Struct):
    """What failed and why; ``input`` is the task's spec as JSON data, to retry just that."""

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

    ``spec`` replaces the task's.  ``writes`` run inside the transaction.  ``more``: an
    AWAITING_CHILDREN task is claimed again as soon as its children leave room.  ``progress``
    resets the count of tries.  ``error``, as ``describe`` gives it, is why a PENDING task waits.
    It waits for ``wait`` seconds from the moment at which this is stored: no clock that is set
    back in between makes that longer.  A ``returned`` one has begun nothing, so no try is counted.
    ``notes`` are sentences about the sync for people.
    """

    task: Task
    state: State
    spec: TaskSpec | None = None
    writes: Sequence[Write] = ()
    children: Sequence[NewTask] = ()
    failures: Sequence[Failure] = ()
    wait: float = 0.0
    more: bool = False
    progress: bool = False
    returned: bool = False
    error: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


class Outcome(NamedTuple):
    """The result of one settlement: the task's state and what was stored, or the error."""

    state: State
    stored: WriteResult = WriteResult({})
    error: Exception | None = None


class SettleResult(NamedTuple):
    """The result of one call of ``settle``: an outcome for each settlement, and the claimed tasks.

    ``due`` is when the next task may be claimed, None when that depends on those running;
    ``reason`` is the error for which it waits.
    """

    outcomes: Sequence[Outcome]
    claimed: Sequence[Task]
    status: Status
    command: SyncCommand
    due: float | None = None
    waiting: int = 0
    reason: str = ""


def failure_of(
    task: Task, error: BaseException, at: float, id: str | None = None, *, code: str = ""
) -> Failure:
    """The record of a task's failure, or of one id's within it; ``code`` replaces the error's."""
    spec, known = task.spec, describe(error)
    what = spec if id is None else spec.replace(ids=(id,))
    return Failure(
        sync=task.sync,
        task=task.id,
        kind=spec.kind,
        what=what.describe(),
        entity=getattr(spec, "entity", None),
        id=spec.single_id if id is None else id,
        code=code or known["code"],
        message=known["message"],
        hint=known["hint"],
        attempt=task.attempt,
        at=at,
        input=spec.to_json(),
    )


START = "start"  # the kind of a failure before the first task


def start_failure(sync: str, what: str, error: BaseException, at: float) -> Failure:
    """The record that a function of the connector failed before a sync had a task."""
    known = describe(error)
    return Failure(
        sync=sync,
        task=0,
        kind=START,
        what=what,
        entity=None,
        id=None,
        code=known["code"],
        message=known["message"],
        hint=known["hint"],
        attempt=1,
        at=at,
        input=None,
    )


# -- syncs --------------------------------------------------------------------------------


class SyncRun(Struct):
    """A sync as the log shows it.  ``counts``: rows by entity, ``requests``: calls by operation.

    ``failed`` counts failures, without what did not run because of one.  ``schedule`` is the name of the
    schedule that began it, if one did.
    """

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
    notes: tuple[str, ...]  # sentences for people, beside the status
    quarantined: int  # invalid rows that were kept aside
    schedule: str | None


class SyncResult(SyncRun):
    """The result of a sync, with each failure.

    ``changed`` counts the rows of each entity by what became of them, as ``ChangeSummary.kinds``
    does: rows that really changed, each once, also after a resume.  None: it was not recorded.
    """

    failures: tuple[Failure, ...]
    changed: Mapping[str, Mapping[str, int]] | None = None


class ResumedSync(SyncRun):
    """A sync as it was before it was resumed.

    ``crashed``: its process ended without releasing it; ``died`` are the attempts that this ended.
    """

    crashed: bool
    died: tuple[Task, ...]
