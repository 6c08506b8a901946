"""What holds for any sync: isolation, time-outs, bounded work, single failures can be repeated."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import LeaseLost, PermissionDenied, QuotaExceeded, UpstreamBroken
from max.model.delivery import Delivery
from max.model.tasks import (
    BLOCKED,
    GroupTask,
    ListTask,
    LoadFieldsTask,
    NewTask,
    Settlement,
    State,
    Status,
    SyncResult,
    Task,
    failure_of,
    read_spec,
)
from max.storage.leases import new_worker
from max.storage.sqlite import SqliteConnection
from max.upstream.operations import Limit, Operation, Retry
from tests.scenes import NAMES, ROOT, USERS, Source, Stage, User, build, named, play, run, users
from tests.virtual_time import later, now

# -- P6: isolation -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A step that loads one user, or fails to."""

    fails: bool


@dataclass(frozen=True)
class Group:
    """Steps side by side, or one after the other."""

    inside: Sequence[Tree]
    chained: bool


Tree: TypeAlias = Leaf | Group
LEAVES = st.builds(Leaf, st.booleans())
TREES = st.recursive(LEAVES, lambda inside: st.builds(Group, st.lists(inside, max_size=4), st.booleans()))


class Model:
    """What should become of a tree: which leaves are requested and which are blocked, by number."""

    def __init__(self, tree: Tree) -> None:
        self.failed: set[str] = set()
        self.well: set[str] = set()
        self.blocked: set[str] = set()
        self._numbers = map(str, count())
        self.task = self._walk(tree, blocked=False)[0]

    def _walk(self, tree: Tree, *, blocked: bool) -> tuple[NewTask, bool]:
        """The task, and whether it fails."""
        if isinstance(tree, Leaf):
            id = next(self._numbers)
            (self.blocked if blocked else self.failed if tree.fails else self.well).add(id)
            return NewTask(LoadFieldsTask("User", ("name",), "load_name", (id,))), blocked or tree.fails
        children, fates, stuck = [], [], blocked
        for one in tree.inside:
            child, failed = self._walk(one, blocked=stuck)
            children.append(child)
            fates.append(failed)
            stuck = blocked or (tree.chained and failed)
        fails = blocked or (bool(fates) and all(fates))
        return NewTask(GroupTask("a group"), children, tree.chained), fails


async def became(stage: Stage, model: Model) -> SyncResult:
    """The result of a sync of the model's tree."""
    worker = stage.executor.worker
    root = NewTask(GroupTask(), [model.task])
    sync = await stage.store.begin([], root, worker=worker, now=now())
    begun = await stage.store.result(sync, now=now())
    return begun if begun.status.final else await (await stage.executor.resume(sync)).completion()


def refusing(failing: set[str]) -> Source:
    """Names for all users but some, each after its own time."""

    async def name(id: str, env: Any) -> User:
        await later(int(id) % 3)
        if id in failing:
            raise PermissionDenied(f"{id} is closed")
        return await named(id, env)

    return Source(name=[name])


@given(st.lists(TREES, min_size=1, max_size=2))
@settings(deadline=None, max_examples=40)
def test_p6_a_failure_affects_its_own_dependents_and_nothing_else(trees: list[Tree]) -> None:
    models = [Model(tree) for tree in trees]

    async def main() -> list[tuple[set[str], set[str], set[str]]]:
        stages = [await build(refusing(model.failed), cap=3) for model in models]
        try:
            results = await asyncio.gather(*map(became, stages, models))
            return [
                (
                    {one.id or "" for one in result.failures if one.code != BLOCKED},
                    {one.id or "" for one in result.failures if one.code == BLOCKED},
                    set(await stage.users()),
                )
                for stage, result in zip(stages, results, strict=True)
            ]
        finally:
            for stage in stages:
                await stage.executor.stop()
                await stage.database.stop()

    assert run(main()) == [(model.failed, model.blocked, model.well) for model in models]


# -- P8: time-outs and late results --------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_p8_after_a_time_out_all_permits_return_and_teardown_runs(hangs: list[int], permits: int) -> None:
    begun, torn_down = Counter[str](), Counter[str]()

    async def fetch(context: object, id: str) -> User:
        begun[id] += 1
        try:
            if begun[id] <= hangs[int(id)]:
                await asyncio.Event().wait()
            return User(id, name="n", phone="1")
        finally:
            torn_down[id] += 1

    limit = Limit("scene:api", concurrency=permits)
    operation = Operation("scene:user:get", fetch, limit=limit, retry=Retry(attempts=1), deadline=5.0)

    async def name(id: str, env: Any) -> Any:
        return await env.run(operation, id)

    async def body(stage: Stage) -> set[str]:
        ids = [str(number) for number in range(len(hangs))]
        await stage.engine.store(*map(User, ids))
        async with asyncio.timeout(600.0):  # without its permits it would wait for ever
            assert (await stage.sync(NAMES)).status is Status.COMPLETED
        flow = stage.executor.context.runner._flow
        async with asyncio.timeout(0.001):
            for _ in range(permits):
                await flow.acquire(operation)
        return {id for id, user in (await stage.users()).items() if user.name == "n"}

    assert play(Source([operation], name=[name]), body) == {str(number) for number in range(len(hangs))}
    assert begun == torn_down == Counter({str(id): times + 1 for id, times in enumerate(hangs)})


def end_of(task: Task, state: State, stage: Stage) -> Settlement:
    """An end of an attempt, with rows that it would store."""
    writes = [stage.engine.prepare_write(Delivery([User("late", name="too late", phone="0")], 9.0))]
    failures = [failure_of(task, UpstreamBroken("down"), 9.0)] if state is State.FAILED else []
    children = [NewTask(task.spec)] if state is State.AWAITING_CHILDREN else []
    return Settlement(task, state, task.spec, writes, children, failures)


ENDS = st.sampled_from([State.RUNNING, State.PENDING, State.COMPLETED, State.FAILED, State.AWAITING_CHILDREN])


@given(st.lists(ENDS, min_size=1, max_size=4), st.integers(1, 3), st.booleans())
@settings(deadline=None, max_examples=20)
def test_p8_a_late_result_changes_no_row(late: list[State], crashes: int, taken: bool) -> None:
    async def body(stage: Stage) -> None:
        def dump(connection: SqliteConnection) -> list[str]:
            return list(connection.iterdump())

        async def settle(*ends: Settlement, claim: int) -> Any:
            return await stage.store.settle(
                sync, ends, worker=worker, claim=claim, alone=True, requests={}, now=5.0
            )

        worker = new_worker()
        step = Model(Leaf(fails=False)).task
        sync = await stage.store.begin([], step, worker=worker, now=5.0)
        old = [*(await settle(claim=1)).claimed]
        for _ in range(crashes):
            await stage.store.release(sync, worker=worker, now=5.0)
            worker = new_worker() if taken else worker
            await stage.store.resume(sync, worker=worker, now=5.0)
            old += (await settle(claim=1)).claimed
        before = await stage.database.read(dump)
        ends = [end_of(task, state, stage) for task in old[:-1] for state in late]
        outcomes = (await settle(*ends, claim=0)).outcomes
        assert [type(one.error) for one in outcomes] == [LeaseLost] * len(ends)
        assert await stage.database.read(dump) == before
        assert (await settle(end_of(old[-1], State.COMPLETED, stage), claim=0)).status is Status.COMPLETED

    play(None, body)


# -- P43: bounded work ---------------------------------------------------------------------------

BOUND, PAGE = 40, 20  # children that wait at a time, and that are created at a time


@pytest.fixture(scope="module")
def small_bounds() -> Iterator[None]:
    """Bounds that a test can reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("max.sync.task_runner.CHILDREN_PAGE", PAGE)
        patch.setattr("max.storage.settlement.CHILDREN_PAGE", PAGE)
        patch.setattr("max.storage.settlement.CHILDREN_BOUND", BOUND)
        yield


@given(st.integers(0, 300), st.integers(1, 9), st.sets(st.integers(0, 300), max_size=20))
@settings(deadline=None, max_examples=15)
@pytest.mark.usefixtures("small_bounds")
def test_p43_pending_work_never_exceeds_its_bound(targets: int, cap: int, failing: set[int]) -> None:
    waiting: list[int] = []
    query = "SELECT count(*) FROM _max_task WHERE kind = 'load_fields' AND state IN ('pending', 'running')"

    async def body(stage: Stage) -> SyncResult:
        async def name(id: str, env: Any) -> User:
            waiting.append(await stage.database.read(lambda one: one.execute(query).fetchone()[0]))
            if int(id) in failing:
                raise PermissionDenied("closed")
            return await named(id, env)

        stage.source.answers["name"] = [name]
        await stage.engine.store(*(User(str(number)) for number in range(targets)))
        return await stage.sync(NAMES)

    result = play(Source(), body, cap=cap)
    assert max(waiting, default=0) <= BOUND
    assert (len(waiting), len(result.failures)) == (targets, sum(one < targets for one in failing))


@given(st.floats(1.0, 1e6), st.floats(0.0, 1.0), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_p43_cancelling_ends_a_wait_at_once(wait: float, share: float, tasks: int) -> None:
    async def body(stage: Stage) -> tuple[Status, float]:
        await stage.engine.store(*(User(str(number)) for number in range(tasks)))
        handle = await stage.begin(NAMES)
        await later(0.5 + min(wait * share * 0.9, 60.0))
        assert not handle.done
        began = now()
        await handle.cancel()
        return (await handle.completion()).status, now() - began

    source = Source(name=[QuotaExceeded("wait", retry_after=wait + 9.0)])
    assert play(source, body) == (Status.CANCELLED, 0.0)


# -- P44: failures are kept whole ----------------------------------------------------------------


class Library:
    """A listing of pages, then a name for each user; some requests fail until it is ``well``."""

    def __init__(self, pages: int, page: int | None, failing: Mapping[str, Exception]) -> None:
        self.pages, self.page, self.failing = pages, page, failing
        self.well = False
        self.source = Source(users=[self._list], name=[self._name])

    async def _list(self, cursor: str | None, env: Any) -> Any:
        number = int(cursor or 0)
        if number == self.page and not self.well:
            raise PermissionDenied("the page is closed")
        return users(str(number), next=str(number + 1) if number + 1 < self.pages else None)

    async def _name(self, id: str, env: Any) -> User:
        if id in self.failing and not self.well:
            raise self.failing[id]
        return await named(id, env)

    def attempts(self, name: str, what: str | None) -> int:
        """The last attempt that requested a user."""
        asked = zip(self.source.asked, self.source.envs, strict=True)
        return max(env.attempt for one, env in asked if one == (name, what))


ERRORS = st.sampled_from([PermissionDenied("closed"), UpstreamBroken("down")])


@st.composite
def libraries(draw: st.DrawFn) -> Library:
    """Any library in which something fails."""
    pages = draw(st.integers(1, 5))
    page = draw(st.none() | st.integers(0, pages - 1))
    ids = st.sampled_from([str(number) for number in range(pages)])
    failing = draw(st.dictionaries(ids, ERRORS, min_size=page is None))
    return Library(pages, page, failing)


@given(libraries())
@settings(deadline=None, max_examples=40)
def test_p44_the_row_of_a_failed_task_is_enough_to_retry_it_alone(library: Library) -> None:
    async def body(stage: Stage) -> None:
        first = await stage.sync(USERS, NAMES)
        expected: list[tuple[str, str | None]] = []
        for one in first.failures:
            kept = read_spec(one.kind, json.loads(json.dumps(one.input)))
            assert one.message
            if isinstance(kept, ListTask):
                assert kept.id == ROOT.id
                cursor = kept.position.cursor if kept.position else None  # none before the first page
                assert cursor == (str(library.page) if library.page else None)
                assert one.attempt == library.attempts("users", cursor)
                rest = range(library.page or 0, library.pages)
                expected += [("users", str(number) if number else None) for number in rest]
            elif one.code == BLOCKED:
                expected += [("name", str(number)) for number in range(library.pages)]
            else:
                assert (kept.single_id, one.code) == (one.id, library.failing[one.id or ""].code)  # type: ignore[attr-defined]  # every one is a MaxError
                assert one.attempt == library.attempts("name", one.id)
                expected.append(("name", one.id))
        library.well = True
        library.source.asked.clear()
        again = await (await stage.executor.retry()).completion()
        assert (again.status, Counter(library.source.asked)) == (Status.COMPLETED, Counter(expected))
        stored = await stage.users()
        assert {id: user.name for id, user in stored.items()} == {
            str(number): f"Name {number}" for number in range(library.pages)
        }

    play(library.source, body)
