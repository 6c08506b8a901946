"""The task graph: what a plan, or a retry, becomes in the task store.

A plan is a list of steps, each for one entity or for all; a step in brackets is concurrent:

    1  Root:1: load collection users
    2  [all User: load fields name, mail  |  all User: load collection teams]

    group "the plan"                            its children run one after the other
    ├── load_collection  Root:1 users               step 1, one page after another
    ├── group "all User: … | all User: …"           step 2, its children run side by side
    │   ├── group "all User: load fields …"             two loaders, so two tasks
    │   │   ├── expand  all User: name                      loader load_names
    │   │   └── expand  all User: mail                      loader load_mails
    │   └── expand  all User: teams
    └── remove  what is gone                        always last

An ``expand`` task creates its children while it runs, since the users of step 2 are known only
after step 1: one ``load_fields`` task a batch of ids, or one ``load_collection`` task a parent.
A task begins when the one before it has ended.  A step for all rows of an entity is blocked, and
recorded as a failure, when every step before it that brings such rows has failed or is blocked.
A step for one row depends on no other, and ``remove`` finds out for itself what is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core import SyncOptions
from ..errors import UsageError
from ..model.entities import FieldOf, ManyOf, find_name
from ..model.hooks import COUNTED
from ..model.inline import inline_collections
from ..model.loaders import STATIC, Loader, Resolver
from ..model.plan import Concurrent, Step, SyncPlan
from ..model.tasks import (
    BLOCKED,
    ExpandTask,
    Failure,
    FeedRoot,
    FollowTask,
    GroupTask,
    ListTask,
    LoadFieldsTask,
    NewTask,
    RemoveTask,
    read_spec,
)
from ..model.values import Json


def expand(plan: SyncPlan, resolver: Resolver, options: SyncOptions, *, now: float) -> NewTask:
    """The task graph of a plan.

    UnknownName or UsageError when the plan or the options name what the schema or the loaders
    do not have.
    """
    plan.check(resolver.schema)
    builder = _GraphBuilder(plan, resolver, options, now)
    steps = []
    for step in plan.steps:
        if isinstance(step, Concurrent):
            inside = tuple(task for one in step.steps for task in builder.step(one))
            if inside:
                steps.append(NewTask(GroupTask(str(step), needs=()), inside))
        else:
            steps += builder.step(step)
        builder.end_step()
    if options.only and not steps:
        raise UsageError(f"no step of the plan brings {', '.join(options.only)}")
    group = GroupTask(options=options_json(options))
    return NewTask(group, (*steps, NewTask(builder.removal())), chained=True)


def options_json(options: SyncOptions) -> dict[str, Json]:
    """The options that differ from their defaults, as JSON data."""
    values = {name: getattr(options, name) for name in SyncOptions._names}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != getattr(SyncOptions, name)
    }


class _GraphBuilder:
    """Builds the tasks of one plan's steps, as the options say."""

    def __init__(self, plan: SyncPlan, resolver: Resolver, options: SyncOptions, now: float) -> None:
        self._resolver, self._options, self._now = resolver, options, now
        self._steps = plan.flat()
        self._named = named_fields(options.only, resolver)
        self._bringing: dict[str, list[str]] = {}  # by entity, the tasks of the steps until here
        self._new: list[tuple[str, str]] = []
        self._feeds: list[FeedRoot] = [  # several roots may follow one feed
            (step.entity, step.id or "", step.names[0]) for step in self._steps if step.operation == "follow"
        ]

    def step(self, step: Step) -> list[NewTask]:
        """The tasks of one step, each with what it needs."""
        tasks = self.tasks(step)
        needs = tuple(self._bringing.get(step.entity, ())) if step.id is None else ()
        for task in tasks:
            for entity in self._brought_by(step):
                self._new.append((entity, task.spec.describe()))
        return [_needing(task, needs) for task in tasks]

    def end_step(self) -> None:
        """What the steps until here bring is there for those that follow."""
        for entity, description in self._new:
            self._bringing.setdefault(entity, []).append(description)
        self._new.clear()

    def _brought_by(self, step: Step) -> set[str]:
        """The entities of which a step may bring rows."""
        if step.operation == "load_fields":
            return set()
        if step.operation == "follow":
            brought = {field.entity for field in self._resolver.feed_loader(step.names[0]).brings}
        else:
            many: ManyOf[Any, Any] = ManyOf(self._resolver.schema.entity(step.entity), step.names[0])
            brings = self._resolver.collection_loader(many).brings
            brought = {many.child, *(field.entity for field in brings)}
        members = {many.child for one in brought for many in inline_collections(one)}
        return {one.__name__ for one in brought | members}

    def tasks(self, step: Step) -> list[NewTask]:
        """The tasks of one step: none when ``only`` names nothing of it."""
        if step.operation == "load_fields":
            return self._load_fields(step)
        if step.operation == "follow":
            return self._follow(step)
        many: ManyOf[Any, Any] = ManyOf(self._resolver.schema.entity(step.entity), step.names[0])
        if not self._resolver.is_listed(many):
            raise UsageError(
                f"no loader lists {many!r}: its members come along with other responses",
                hint="leave the step out",
            )
        loader = self._resolver.collection_loader(many)
        if not self._is_named((*loader.brings, FieldOf(many.child, "id"))):
            return []
        known: dict[str, Any] = {"since": self._since(loader), "everything": self._options.full}
        if self._options.check_deletes:  # also what was listed lately, or is covered by a feed
            everything = self._options.full or loader.sweep is None  # else nothing shows what is gone
            known = {"since": self._now, "everything": everything, "sweep": True}
        else:
            known["covered_by"] = self._covering(many)
        if step.id is not None:
            return [NewTask(ListTask(step.entity, step.names[0], step.id, **known))]
        task = ExpandTask(step.entity, "load_collection", step.names, matching=step.matching, **known)
        return [NewTask(task)]

    def _load_fields(self, step: Step) -> list[NewTask]:
        entity, loads = self._resolver.schema.entity(step.entity), []
        for loader, names in self._homes(step).items():
            fields: list[FieldOf[Any, Any]] = [FieldOf(entity, name) for name in names]
            fields = [field for field in fields if self._is_named([field])]
            if not fields:
                continue
            known: dict[str, Any] = {"since": self._since(loader), "covered_by": self._covering(*fields)}
            names = [field.name for field in fields]
            if step.id is None:
                known |= {"loader": loader.name, "matching": step.matching}
                loads.append(NewTask(ExpandTask(step.entity, "load_fields", tuple(names), **known)))
            else:
                task = LoadFieldsTask(step.entity, tuple(names), loader.name, (step.id,), **known)
                loads.append(NewTask(task))
        return loads if len(loads) <= 1 else [NewTask(GroupTask(str(step)), tuple(loads))]

    def _follow(self, step: Step) -> list[NewTask]:
        loader = self._resolver.feed_loader(step.names[0])
        if not self._is_named(loader.brings):
            return []
        since, full = self._since(loader), self._options.full
        return [NewTask(FollowTask(step.entity, loader.name, step.id or "", since, full))]

    def removal(self) -> RemoveTask:
        """The last task."""
        collections = {
            f"{step.entity}.{step.names[0]}"
            for step in self._steps
            if step.operation == "load_collection" and step.matching is None
        }
        return RemoveTask(
            tuple(sorted(collections)), tuple(self._feeds), self._now, self._options.allow_removals
        )

    # freshness

    def _since(self, loader: Loader[Any]) -> float:
        """The time before which a request is too old."""
        options, now = self._options, self._now
        if options.full:
            return now
        declared = loader.ttl or (STATIC if loader.refresh_when is not None else None)
        ttl = None if declared is None else declared.total_seconds()
        if options.missing_only and loader.kind != "feed":
            return 0.0 if ttl is None else now - ttl
        return now - max(ttl or 0.0, options.if_stale or 0.0)

    def _covering(self, *what: ManyOf[Any, Any] | FieldOf[Any, Any]) -> FeedRoot | None:
        """The feed that the plan follows and that covers all of these, with one of its roots; None."""
        feeds = {self._resolver.feed_covering(one) for one in what}
        feed = feeds.pop() if len(feeds) == 1 and not self._options.full else None
        return next((one for one in self._feeds if feed is not None and one[2] == feed.name), None)

    # fields

    def _is_named(self, fields: Sequence[FieldOf[Any, Any]]) -> bool:
        return not self._named or any(field in self._named for field in fields)

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


def _needing(task: NewTask, needs: tuple[str, ...]) -> NewTask:
    """A task whose rows these steps bring; a group begins, and each of its tasks looks for itself."""
    is_group = isinstance(task.spec, GroupTask)
    children = tuple(_needing(child, needs) for child in task.children)
    spec: Any = task.spec
    return task._replace(spec=spec.replace(needs=() if is_group else needs), children=children)


def named_fields(only: Sequence[str], resolver: Resolver) -> set[FieldOf[Any, Any]]:
    """The fields that ``Entity.field`` names, and all of an ``Entity`` with its id, in any case.

    UnknownName or UsageError for a text that names none.
    """
    found: set[FieldOf[Any, Any]] = set()
    for text in only:
        name, dot, field = text.partition(".")
        entity = resolver.schema.entity(name)
        child = entity.children().get(field)
        if child is not None and field not in entity.types():
            raise UsageError(f"{entity.__name__}.{field} is a collection", hint=f"write {child.__name__}")
        names = [find_name(entity, field)] if dot else ["id", *entity.types()]
        found |= {FieldOf(entity, one) for one in names}
    return found


def refetch_graph(plan: SyncPlan, resolver: Resolver, hooks: int, *, now: float) -> NewTask:
    """The task graph of what some hooks ask for: every step as if nothing of it were fresh.

    Nothing is removed at its end: a hook names what is gone.
    """
    graph = expand(plan, resolver, SyncOptions(), now=now)
    steps = tuple(map(_whatever_its_age, graph.children[:-1]))
    return NewTask(GroupTask(options={COUNTED: hooks}), steps, chained=True)


def _whatever_its_age(task: NewTask) -> NewTask:
    spec: Any = task.spec
    if isinstance(spec, ListTask | LoadFieldsTask):
        spec = spec.replace(since=None, covered_by=None)
    return task._replace(spec=spec, children=tuple(map(_whatever_its_age, task.children)))


def retry_graph(failures: Sequence[Failure], *, now: float) -> NewTask:
    """The task graph of what failed: first what failed itself, then what it blocked, then the removal.

    A failed id runs again alone, a listing continues at the page that failed, and a blocked step
    runs as a whole; blocked steps run in the order of their plan.  A removal looks at every place
    again, since a row that was gone then may exist again.
    """
    failed = tuple(_retry(one, now) for one in failures if one.code != BLOCKED)
    blocked = tuple(_retry(one, now) for one in failures if one.code == BLOCKED)
    removal = [one for one in failed if isinstance(one.spec, RemoveTask)]
    first = NewTask(GroupTask("what failed"), tuple(one for one in failed if one not in removal))
    return NewTask(GroupTask("the retry"), (first, *blocked, *removal[:1]), chained=True)


def _retry(failure: Failure, now: float) -> NewTask:
    spec = read_spec(failure.kind, failure.input)
    if isinstance(spec, LoadFieldsTask):
        spec = spec.replace(ids=spec.ids if failure.id is None else (failure.id,), is_rest=False)
    if isinstance(spec, RemoveTask):
        spec = spec.replace(since=now, asked=(), looks=(), left=())
    return NewTask(spec)
