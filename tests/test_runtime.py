"""The runtime: the order of its parts, failed starts, one sync at a time, and repeated syncs."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from max.connector import Installation
from max.core import InstallationInfo, Store, SyncOptions
from max.errors import (
    BadCredentials,
    Interrupted,
    LoaderFault,
    NotFound,
    Offline,
    StorageError,
    SyncError,
    SyncRunning,
    UnknownName,
    UpstreamBroken,
)
from max.model.entities import Ref
from max.model.loaders import Env, Loader, PageRequest
from max.model.plan import Step, SyncPlan
from max.model.query import Page
from max.model.tasks import Status, SyncResult
from max.runtime import InstallationRuntime, LifecycleManager, RepeatedSync, interval_seconds
from max.storage.sqlite import MEMORY, SqliteDatabase
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests import virtual_time
from tests.postgres_server import shared_url
from tests.sample import SampleConfig, SampleRoot, Thing, sample, seed

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def runtime(path: Path | str = MEMORY, **changes: Any) -> InstallationRuntime:
    """A runtime that is not started, of the sample connector with some changes."""
    info = InstallationInfo("sample", "default", "abc", {}, 0.0)
    secrets = CredentialProvider(MemoryCredentials(), ())
    return InstallationRuntime(info, sample(**changes), SampleConfig(), secrets, SqliteDatabase(path))


def using(one: InstallationRuntime, body: Callable[[InstallationRuntime], Awaitable[T]]) -> T:
    """Run a body on a started runtime, of which nothing may be left."""

    async def main() -> T:
        await one.start()
        try:
            return await body(one)
        finally:
            await one.stop()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(main())


class Gate:
    """A loader that waits until the gate opens, and reports that it was called."""

    def __init__(self) -> None:
        self.reached, self.opened, self.calls = asyncio.Event(), asyncio.Event(), 0

    def loader(self) -> Loader[Any]:
        """The sample's only loader, behind this gate."""

        @Loader.collection(SampleRoot.things, brings=[Thing.title])
        async def list_things(
            parent: Ref[SampleRoot], request: PageRequest, env: Env[SampleConfig]
        ) -> Page[Thing]:
            self.calls += 1
            self.reached.set()
            await self.opened.wait()
            return Page([Thing("0", title="one")])

        return list_things


# -- services -------------------------------------------------------------------------------


class Service:
    """Records what is done to it; ``fails`` names the call that raises."""

    def __init__(self, name: str, said: list[str], *, fails: str = "") -> None:
        self.name, self.said, self.fails = name, said, fails

    async def start(self) -> None:
        """Begin."""
        self._do("start")

    async def stop(self) -> None:
        """End."""
        self._do("stop")

    def _do(self, what: str) -> None:
        self.said.append(f"{what} {self.name}")
        if what == self.fails:
            raise UpstreamBroken(f"{self.name} does not {what}")


def test_services_start_in_order_and_stop_in_reverse_and_can_start_again() -> None:
    said: list[str] = []
    manager = LifecycleManager(Service("a", said), Service("b", said))

    async def main() -> None:
        for _ in range(2):
            await manager.start()
            await manager.stop()
            await manager.stop()

    asyncio.run(main())
    assert said == ["start a", "start b", "stop b", "stop a"] * 2


def test_when_a_service_fails_to_start_those_before_it_are_stopped() -> None:
    said: list[str] = []
    manager = LifecycleManager(Service("a", said), Service("b", said, fails="start"), Service("c", said))
    with pytest.raises(UpstreamBroken, match="b does not start"):
        asyncio.run(manager.start())
    assert said == ["start a", "start b", "stop a"]


def test_when_a_service_fails_to_stop_the_others_are_stopped() -> None:
    said: list[str] = []
    manager = LifecycleManager(Service("a", said), Service("b", said, fails="stop"))

    async def main() -> None:
        await manager.start()
        await manager.stop()

    with pytest.raises(UpstreamBroken, match="b does not stop"):
        asyncio.run(main())
    assert said[2:] == ["stop b", "stop a"]


# -- starting and stopping ----------------------------------------------------------------------


def test_the_client_starts_after_the_database_and_stops_before_it() -> None:
    said: list[str] = []

    async def initialise(config: Any, credentials: Any) -> Installation[Any]:
        async def stop() -> None:
            said.append(f"stop; things stored: {await one.engine.query(Thing).count()}")

        said.append(f"initialise; things stored: {await one.engine.query(Thing).count()}")
        return Installation(context=config, stop=stop)

    async def body(one: InstallationRuntime) -> Status:
        return (await (await one.sync()).completion()).status

    one = runtime(initialise=initialise)
    assert using(one, body) is Status.COMPLETED
    assert said == ["initialise; things stored: 0", "stop; things stored: 2"]


def test_starting_and_stopping_twice_or_concurrently_happens_once() -> None:
    said: list[str] = []

    async def initialise(config: Any, credentials: Any) -> Installation[Any]:
        said.append("initialise")
        await asyncio.sleep(0)
        return Installation(context=config)

    async def main() -> None:
        one = runtime(initialise=initialise)
        await asyncio.gather(one.start(), one.start())
        assert one.started_at > 0
        await asyncio.gather(one.stop(), one.stop())
        assert one.started_at == 0
        await one.stop()

    asyncio.run(main())
    assert said == ["initialise"]


def test_a_stopped_runtime_starts_again_with_its_data(tmp_path: Path) -> None:
    async def sync(one: InstallationRuntime) -> int:
        await (await one.sync()).completion()
        return await one.engine.query(Thing).count()

    one = runtime(tmp_path / "data.db")
    assert using(one, sync) == 2
    assert using(one, lambda one: one.engine.query(Thing).count()) == 2  # in another event loop


def test_when_the_client_cannot_be_made_nothing_stays_started() -> None:
    async def initialise(config: Any, credentials: CredentialProvider) -> Installation[Any]:
        raise BadCredentials("the token is wrong")

    async def main() -> None:
        one = runtime(initialise=initialise)
        for _ in range(2):
            with pytest.raises(BadCredentials, match="the token is wrong"):
                await one.start()
        assert one.started_at == 0
        with pytest.raises(StorageError, match="not open"):
            await one.engine.query(Thing).count()

    asyncio.run(main())


def test_a_client_that_does_not_start_is_stopped() -> None:
    said: list[str] = []

    async def initialise(config: Any, credentials: Any) -> Installation[Any]:
        service = Service("client", said, fails="start")
        return Installation(context=config, start=service.start, stop=service.stop)

    with pytest.raises(UpstreamBroken, match="client does not start"):
        asyncio.run(runtime(initialise=initialise).start())
    assert said == ["start client", "stop client"]


def test_a_database_newer_than_the_code_is_refused_before_the_client_is_made(tmp_path: Path) -> None:
    async def newer(one: InstallationRuntime) -> None:
        sql = "INSERT INTO _max_migration VALUES ('execution', 99, 'x'), ('engine', 99, 'x')"
        await one._database.transact(lambda connection: connection.execute(sql).rowcount)

    async def initialise(config: Any, credentials: Any) -> Installation[Any]:
        raise AssertionError("the client must not be made")

    using(runtime(tmp_path / "data.db"), newer)
    with pytest.raises(StorageError, match="newer than this Max"):
        asyncio.run(runtime(tmp_path / "data.db", initialise=initialise).start())


def test_a_stopped_runtime_refuses_to_work() -> None:
    async def main() -> None:
        one = runtime()
        for attempt in (one.sync(), one.health(), one.retry_failed()):
            with pytest.raises(StorageError, match="not started") as caught:
                await attempt
            assert "start()" in caught.value.hint

    asyncio.run(main())
    assert runtime().started_at == 0


def test_health_is_the_connectors_own_check() -> None:
    async def health() -> str:
        return "as Ada"

    async def initialise(config: Any, credentials: Any) -> Installation[Any]:
        return Installation(context=config, health=health)

    assert using(runtime(initialise=initialise), lambda one: one.health()) == "as Ada"
    assert using(runtime(), lambda one: one.health()) == "no check"


# -- syncing --------------------------------------------------------------------------------


def test_a_second_sync_joins_the_one_under_way() -> None:
    async def body(one: InstallationRuntime) -> tuple[Status, Status]:
        first, second = await asyncio.gather(one.sync(), one.sync())
        await gate.reached.wait()
        assert first is second is await one.sync()
        gate.opened.set()
        await first.completion()
        third = await one.sync()
        assert third.id > first.id
        return (await first.completion()).status, (await third.completion()).status

    gate = Gate()
    assert using(runtime(loaders=[gate.loader()]), body) == (Status.COMPLETED, Status.COMPLETED)
    assert gate.calls == 2


def test_a_paused_sync_goes_on_unless_it_is_discarded() -> None:
    async def body(one: InstallationRuntime) -> list[Status]:
        first = await one.sync()
        await first.pause()
        gate.opened.set()
        assert (await first.completion()).status in (Status.PAUSED, Status.COMPLETED)
        second = await one.sync()
        statuses = [(await second.completion()).status]
        third = await one.sync(discard_unfinished=True)
        return [*statuses, (await third.completion()).status]

    gate = Gate()
    assert using(runtime(loaders=[gate.loader()]), body) == [Status.COMPLETED, Status.COMPLETED]


FULL, ONLY = SyncOptions(full=True), SyncOptions(only=("Thing.title",), if_stale=0.5)


@pytest.mark.parametrize(("options", "others"), [(FULL, ONLY), (ONLY, FULL)])
def test_an_unfinished_sync_goes_on_with_the_same_options_only(
    tmp_path: Path, options: SyncOptions, others: SyncOptions
) -> None:
    async def body(one: InstallationRuntime) -> None:
        first = await one.sync(options)
        await gate.reached.wait()
        assert await one.sync(options) is first
        with pytest.raises(SyncError, match="was begun with other options"):
            await one.sync(others)
        await one.stop()
        with pytest.raises(Interrupted):
            await first.completion()
        await one.start()
        with pytest.raises(SyncError, match="was begun with other options"):
            await one.sync(others)
        gate.opened.set()
        second = await one.sync(options)
        assert ((await second.completion()).status, second.id) == (Status.COMPLETED, first.id)

    gate = Gate()
    using(runtime(tmp_path / "data.db", loaders=[gate.loader()]), body)


def test_stopping_interrupts_the_sync_and_the_next_sync_goes_on(tmp_path: Path) -> None:
    async def first(one: InstallationRuntime) -> str:
        handle = await one.sync()
        await gate.reached.wait()
        await one.stop()
        with pytest.raises(Interrupted, match=f"sync {handle.id} was stopped"):
            await handle.completion()
        return handle.id

    async def second(one: InstallationRuntime) -> tuple[str, Status, bool]:
        handle = await one.sync()
        result = await handle.completion()
        return handle.id, result.status, result.resumed

    gate = Gate()
    interrupted = using(runtime(tmp_path / "data.db", loaders=[gate.loader()]), first)
    assert using(runtime(tmp_path / "data.db"), second) == (interrupted, Status.COMPLETED, True)


def test_stopping_while_the_seeder_runs_begins_no_sync(tmp_path: Path) -> None:
    seeding, seeded = asyncio.Event(), asyncio.Event()

    async def slowly(context: Any, store: Store) -> SyncPlan:
        await store.store(SampleRoot("root"))
        seeding.set()
        await seeded.wait()
        return SyncPlan([Step.for_root(SampleRoot.ref("root")).load_collection(SampleRoot.things)])

    async def body(one: InstallationRuntime) -> None:
        syncing = asyncio.create_task(one.sync())
        await seeding.wait()
        await one.stop()
        await one.start()
        seeded.set()
        with pytest.raises(StorageError, match="not started"):
            await syncing
        assert (await (await one.sync()).completion()).status is Status.COMPLETED

    using(runtime(tmp_path / "data.db", seeder=slowly), body)
    assert seeding.is_set()


OTHER = """
import asyncio, sys
from tests.test_runtime import Gate, runtime

async def main():
    gate = Gate()
    one = runtime(sys.argv[1], loaders=[gate.loader()])
    await one.start()
    handle = await one.sync()
    await gate.reached.wait()
    print(handle.id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_sync_of_another_process_is_refused_until_that_process_dies(tmp_path: Path) -> None:
    async def seeds(context: SampleConfig, store: Store) -> SyncPlan:
        seedings.append("here")
        return await seed(context, store)

    async def body(one: InstallationRuntime) -> None:
        with pytest.raises(SyncRunning) as caught:
            await one.sync()
        assert (caught.value.sync, caught.value.owner.split()[:2]) == (id, ["process", str(other.pid)])
        other.kill()
        other.wait()
        handle = await one.sync()
        assert (handle.id, (await handle.completion()).status) == (id, Status.COMPLETED)

    seedings: list[str] = []
    words = [sys.executable, "-c", OTHER, str(tmp_path / "data.db")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        id = other.stdout.readline().strip()
        using(runtime(tmp_path / "data.db", seeder=seeds), body)
    assert seedings == [], "nothing is asked of the service while another process syncs"


# -- syncing at an interval ---------------------------------------------------------------------


def ended(status: Status = Status.COMPLETED) -> SyncResult:
    return SyncResult("s", status, {}, 0, {}, 0, 0.0, 1.0, False, None, [], (), 0, None, ())


class TestRepeating:
    """``sync_every``: one sync after another, whatever becomes of each."""

    @pytest.mark.parametrize(
        ("interval", "seconds"),
        [("90s", 90), ("10m", 600), ("2h", 7200), (5, 5), (0.5, 0.5), (timedelta(minutes=1), 60)],
    )
    def test_an_interval_is_text_seconds_or_a_timedelta(self, interval: Any, seconds: float) -> None:
        assert interval_seconds(interval) == seconds

    @pytest.mark.parametrize("interval", ["soon", "10", "0s", "-5m", 0, -1, math.inf, math.nan, timedelta(0)])
    def test_an_interval_that_cannot_be_kept_is_refused_at_the_call(self, interval: Any) -> None:
        with pytest.raises(ValueError, match=r"an interval must|is not a"):
            runtime().sync_every(interval)

    @pytest.mark.parametrize("interval", [None, True, b"10m", ["10m"]])
    def test_what_is_no_interval_is_refused_at_the_call(self, interval: Any) -> None:
        with pytest.raises(TypeError, match="an interval is a text such as"):
            runtime().sync_every(interval)

    def test_a_runtime_that_is_not_started_is_refused_at_the_call(self) -> None:
        with pytest.raises(StorageError, match="not started"):
            runtime().sync_every("10m")

    def test_each_begins_an_interval_after_the_one_before_and_none_overlap(self) -> None:
        begun: list[float] = []

        async def sync() -> SyncResult:
            begun.append(virtual_time.now())
            await virtual_time.later(25 if len(begun) == 2 else 1)
            return ended()

        async def main() -> None:
            async with RepeatedSync(sync, 10, "sample:default"):
                await virtual_time.later(50)

        virtual_time.run(main())
        assert begun == [0, 10, 35, 45]

    def test_a_failure_is_kept_logged_and_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        outcomes: list[Any] = [Offline("no network"), Offline("still none"), ended(), ended(Status.PARTIAL)]
        seen: list[tuple[int, str, Status | None]] = []

        async def sync() -> SyncResult:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return cast("SyncResult", outcome)

        async def main() -> None:
            async with RepeatedSync(sync, 10, "sample:default") as repeated:
                for _ in range(4):
                    await virtual_time.later(10 if seen else 1)
                    status = repeated.result.status if repeated.result else None
                    seen.append((repeated.failures, str(repeated.error), status))
                assert repr(repeated) == "RepeatedSync(sample:default, every 10 s, 0 failures in a row)"
            assert repr(repeated) == "RepeatedSync(sample:default, every 10 s, stopped)"

        virtual_time.run(main())
        assert seen == [
            (1, "no network", None),
            (2, "still none", None),
            (0, "None", Status.COMPLETED),
            (0, "None", Status.PARTIAL),
        ]
        assert [record.getMessage() for record in caplog.records] == [
            "sync of sample:default failed, 1 in a row: no network",
            "sync of sample:default failed, 2 in a row: still none",
        ]

    def test_a_runtime_syncs_again_and_again_until_it_is_stopped(self) -> None:
        loaded, enough = 0, asyncio.Event()

        @Loader.collection(SampleRoot.things, brings=[Thing.title])
        async def list_things(
            parent: Ref[SampleRoot], request: PageRequest, env: Env[SampleConfig]
        ) -> Page[Thing]:
            nonlocal loaded
            loaded += 1
            if loaded == 3:
                enough.set()
            return Page([Thing(str(loaded), title="new each time")])

        async def body(one: InstallationRuntime) -> None:
            repeated = one.sync_every(0.001)
            await enough.wait()
            await one.stop()
            assert repeated.task.done()
            assert (repeated.error, repeated.failures) == (None, 0)
            await repeated.stop()

        using(runtime(loaders=[list_things]), body)

    def test_stopping_the_repetition_leaves_the_sync_under_way(self) -> None:
        async def body(one: InstallationRuntime) -> Status:
            async with one.sync_every("10m"):
                await gate.reached.wait()
            handle = await one.sync()
            gate.opened.set()
            return (await handle.completion()).status

        gate = Gate()
        assert using(runtime(loaders=[gate.loader()]), body) is Status.COMPLETED
        assert gate.calls == 1

    def test_one_that_is_stopped_at_once_never_syncs(self) -> None:
        async def body(one: InstallationRuntime) -> None:
            await one.sync_every("10m").stop()
            assert repr(one) == "InstallationRuntime(sample:default, started)"

        gate = Gate()
        using(runtime(loaders=[gate.loader()]), body)
        assert gate.calls == 0


# -- freshness --------------------------------------------------------------------------------


def test_freshness_and_sync_meta_say_how_old_a_field_is_and_invalidate_ends_it() -> None:
    async def body(one: InstallationRuntime) -> None:
        await (await one.sync()).completion()
        [age] = await one.freshness("Thing.title")
        assert (str(age), age.of, age.ages.never) == ("Thing.title", 2, 0)
        assert await one.sync_meta.synced_at(Thing.ref("0"), Thing.title) is not None
        marked = await one.invalidate(Thing.ref("0"))
        assert [(field.entity.__name__, field.fields, field.rows) for field in marked.fields] == [
            ("Thing", ("title",), 1)
        ]
        assert await one.sync_meta.synced_at(Thing.ref("0"), Thing.title) is None
        await one.invalidate(Thing.title, where="title = 'thing 1'")
        [age] = await one.freshness("Thing.title")
        assert age.ages.never == 2
        assert len(await one.freshness()) > 1

    using(runtime(), body)


def test_what_cannot_be_invalidated_is_refused() -> None:
    async def body(one: InstallationRuntime) -> None:
        gate.opened.set()
        await (await one.sync()).completion()
        with pytest.raises(UnknownName, match="unknown entity 'Thong'"):
            await one.invalidate("Thong")
        with pytest.raises(NotFound):
            await one.invalidate(Thing.ref("99"))

    gate = Gate()
    using(runtime(loaders=[gate.loader()]), body)


def test_nothing_is_invalidated_while_a_sync_is_under_way() -> None:
    async def body(one: InstallationRuntime) -> None:
        handle = await one.sync()
        await gate.reached.wait()
        assert repr(one) == f"InstallationRuntime(sample:default, sync {handle.id} is running)"
        with pytest.raises(SyncRunning):
            await one.invalidate(Thing)
        gate.opened.set()
        await handle.completion()
        await one.invalidate(Thing)

    gate = Gate()
    one = runtime(loaders=[gate.loader()])
    using(one, body)
    assert repr(one) == "InstallationRuntime(sample:default, stopped)"


# -- processes that are killed --------------------------------------------------------------------


def answered(users: list[list[Any]]) -> set[tuple[str, str | None]]:
    """The questions to which these users, as they are stored, are the answers."""
    pages = {("users", None if id == "0a" else id[:-1]) for id, *_ in users if id.endswith("a")}
    names = {("name", id) for id, name, *_ in users if name is not None}
    return pages | names | {("mails", id) for id, _, mail, _ in users if mail is not None}


def questions(asked: list[list[Any]]) -> set[tuple[str, str | None]]:
    """What was asked, one by one."""
    return {(name, one) for name, what in asked for one in (what if isinstance(what, list) else [what])}


@pytest.mark.parametrize("place", ["file", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_sync_killed_at_any_commit_fetches_nothing_again_that_is_stored(tmp_path: Path, place: str) -> None:
    kills = os.environ.get("MAX_KILLS", "6")
    words = [sys.executable, "-m", "tests.crashing", str(tmp_path)]
    words += [] if place == "file" else [shared_url(), "1" if int(kills) > 20 else "5", kills]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    *killed, undisturbed = map(json.loads, done.stdout.splitlines())
    killed = [one for one in killed if not one["lived"]]
    everything = questions(undisturbed["first"])
    assert (undisturbed["lived"], len(everything), answered(undisturbed["end"])) == (True, 25, everything)
    assert len(killed) > (12 if place == "file" else int(kills) // 2)
    for number, one in enumerate(killed):
        assert one["end"] == undisturbed["end"], f"killed at commit {number}"
        left = everything if one["ended"] else everything - answered(one["between"])
        assert questions(one["second"]) == left, f"killed at commit {number}"
        begun, ended = "sync.begun", "sync.ended"
        once = [[begun, ended], [begun, "sync.resumed", ended]]
        expected = [[begun, ended, begun, ended]] if one["ended"] else once
        assert one["events"] in expected, f"killed at commit {number}"


async def broken(*_: Any) -> Any:
    """A function of a connector with a bug."""
    raise KeyError("folder")


async def nothing(*_: Any) -> Any:
    """A function of a connector whose author forgot what it returns."""


def made(**parts: Any) -> Callable[..., Awaitable[Installation[Any]]]:
    """An ``initialise`` whose installation has these parts."""

    async def initialise(config: Any, credentials: Any) -> Installation[Any]:
        return Installation(config, **parts)

    return initialise


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initialise": broken}, "sample: initialise raised KeyError: 'folder' (test_runtime.py, line "),
        ({"initialise": nothing}, "sample: initialise must return an Installation, got null"),
        ({"initialise": made(start=broken)}, "sample: start raised KeyError: 'folder' (test_runtime.py, "),
        ({"initialise": made(stop=broken)}, "sample: stop raised KeyError: 'folder' (test_runtime.py, line "),
        ({"initialise": made(health=broken)}, "sample: health raised KeyError: 'folder' (test_runtime.py, "),
        ({"seeder": broken}, "sample: seeder raised KeyError: 'folder' (test_runtime.py, line "),
        ({"seeder": nothing}, "sample: seeder must return a SyncPlan, got null"),
    ],
)
def test_a_bug_of_a_connector_outside_of_its_loaders_names_the_function_and_the_line(
    changes: dict[str, Any], message: str
) -> None:
    async def main() -> None:
        one = runtime(**changes)
        await one.start()
        try:
            await (await one.sync()).completion()
            await one.health()
        finally:
            await one.stop()

    with pytest.raises(LoaderFault) as caught:
        asyncio.run(main())
    assert str(caught.value).startswith(message)
    assert caught.value.hint == "this is a bug of the connector"


def test_a_plan_with_something_that_is_no_step_says_how_a_step_ends() -> None:
    async def half(context: Any, store: Store) -> SyncPlan:
        await store.store(SampleRoot("root"))
        return SyncPlan([Step.for_root(SampleRoot.ref("root"))])  # type: ignore[list-item]

    async def body(one: InstallationRuntime) -> None:
        with pytest.raises(LoaderFault, match=r"a plan holds steps, got Target.*runtime.py") as caught:
            await one.sync()
        assert ".load_collection(" in caught.value.hint

    using(runtime(seeder=half), body)


# -- the connector fails before the first task ----------------------------------------------------


class Odd(BaseException):
    """An error that no ``except Exception`` sees."""


def other_root() -> SyncPlan:
    """A plan for a root that no seeder below stores."""
    return SyncPlan([Step.for_root(SampleRoot.ref("other")).load_collection(SampleRoot.things)])


def planned(*steps: Any) -> Callable[[], SyncPlan]:
    return lambda: SyncPlan(steps)


WRONG_SEEDERS: list[tuple[Any, str]] = [
    (KeyError("x"), r"seeder raised KeyError: 'x' \(test_runtime.py, line"),
    (SystemExit(0), r"seeder raised SystemExit: 0 \(test_runtime.py, line"),
    (KeyboardInterrupt(), r"seeder raised KeyboardInterrupt \(test_runtime.py, line"),
    (asyncio.CancelledError(), r"seeder raised CancelledError \(test_runtime.py, line"),
    (Odd("y"), r"seeder raised Odd: y \(test_runtime.py, line"),
    (ExceptionGroup("both", [KeyError("x")]), r"seeder raised KeyError: 'x'"),
    (UnknownName("credential", "other", ["token"]), r"seeder raised UnknownName: unknown credential 'other'"),
    (lambda: None, r"seeder must return a SyncPlan, got null \(test_runtime.py, line"),
    (
        lambda: Step("SampleRoot", "load_collection", ("things",), "root"),
        "seeder must return a SyncPlan, got Step",
    ),
    (planned(Step("Nothing", "load_collection", ("things",), "root")), "unknown entity 'Nothing'"),
    (planned(Step("SampleRoot", "load_collection", ("stuff",), "root")), "unknown collection 'stuff'"),
    (planned(Step("SampleRoot", "follow", ("news",), "root")), "unknown feed 'news'"),
    (planned(Step("Thing", "load_fields", ("title",))), "Thing.title cannot be loaded by itself"),
    (other_root, r"a plan for SampleRoot:other, which is not stored \(test_runtime.py, line"),
]


@pytest.mark.parametrize(("does", "message"), WRONG_SEEDERS, ids=[message for _, message in WRONG_SEEDERS])
def test_a_wrong_seeder_is_a_fault_with_its_place_and_a_failed_sync(
    does: Any, message: str, tmp_path: Path
) -> None:
    async def wrong(context: Any, store: Store) -> Any:
        await store.store(SampleRoot("root"))
        if isinstance(does, BaseException):
            raise does
        return does()

    async def body(one: InstallationRuntime) -> None:
        with pytest.raises(LoaderFault, match=f"sample: (seeder returned .*)?{message}") as caught:
            await one.sync()
        assert caught.value.code == "connector.fault"
        (run,) = await one._store.runs(10, now=0.0)
        result = await one._store.result(run.id, now=0.0)
        assert (run.status, run.failed, run.finished_at is not None) == (Status.FAILED, 1, True)
        (failure,) = result.failures
        assert (failure.what, failure.message) == ("seeder", caught.value.message)
        with pytest.raises(SyncError, match="failed before its first task"):
            await one.retry_failed()

    using(runtime(tmp_path / "data.db", seeder=wrong), body)


def test_an_error_of_the_service_in_the_seeder_says_where_it_happened_and_keeps_its_class() -> None:
    async def offline(context: Any, store: Store) -> SyncPlan:
        raise Offline("no network", hint="check it")

    async def body(one: InstallationRuntime) -> None:
        with pytest.raises(Offline, match="sample: seeder: no network"):
            await one.sync()
        (run,) = await one._store.runs(10, now=0.0)
        (failure,) = (await one._store.result(run.id, now=0.0)).failures
        assert (failure.code, failure.hint) == ("upstream.offline", "check it")

    using(runtime(seeder=offline), body)


INITIALISES: list[tuple[Any, str]] = [
    (KeyError("x"), r"initialise raised KeyError: 'x' \(test_runtime.py, line"),
    (SystemExit(3), r"initialise raised SystemExit: 3 \(test_runtime.py, line"),
    (
        lambda: SampleConfig(),
        r"initialise must return an Installation, got SampleConfig .*_runtime.py",
    ),
    (lambda: None, "initialise must return an Installation, got null"),
    (
        lambda: Installation(None, health=cast(Any, "fine")),
        "initialise raised TypeError: Installation: health is 'fine'",
    ),
]


@pytest.mark.parametrize(("does", "message"), INITIALISES, ids=[message for _, message in INITIALISES])
def test_a_wrong_initialise_is_a_fault_with_its_place_and_a_failed_sync(
    does: Any, message: str, tmp_path: Path
) -> None:
    async def wrong(config: Any, credentials: CredentialProvider) -> Any:
        if isinstance(does, BaseException):
            raise does
        return does()

    async def main() -> None:
        one = runtime(tmp_path / "data.db", initialise=wrong)
        with pytest.raises(LoaderFault, match=f"sample: {message}") as caught:
            await one.start()
        good = runtime(tmp_path / "data.db")
        await good.start()
        (run,) = await good._store.runs(10, now=0.0)
        (failure,) = (await good._store.result(run.id, now=0.0)).failures
        assert (run.status, failure.what) == (Status.FAILED, "initialise")
        assert failure.message == caught.value.message
        assert (await (await good.sync()).completion()).status is Status.COMPLETED
        await good.stop()

    asyncio.run(main())


def test_a_failed_start_does_not_disturb_a_sync_that_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def broken(config: Any, credentials: CredentialProvider) -> Any:
        raise KeyError("x")

    async def main() -> None:
        gate = Gate()
        first = runtime(path, loaders=[gate.loader()])
        await first.start()
        handle = await first.sync()
        await gate.reached.wait()
        await first.stop()
        with pytest.raises(LoaderFault):
            await runtime(path, initialise=broken).start()
        again = runtime(path)
        await again.start()
        resumed = await again.sync()
        assert resumed.id == handle.id
        assert (await resumed.completion()).status is Status.COMPLETED
        await again.stop()

    asyncio.run(main())


def test_a_listing_that_declares_a_sweep_and_brings_no_bookmark_is_refused() -> None:
    @Loader.collection(SampleRoot.things, brings=[Thing.title], sweep=timedelta(days=1))
    async def list_all(parent: Ref[SampleRoot], request: PageRequest, env: Env[Any]) -> Page[Thing]:
        return Page([Thing("0", title="one")])

    async def body(one: InstallationRuntime) -> None:
        result = await (await one.sync()).completion()
        (failure,) = result.failures
        assert "loader list_all must return a sync_token at the end" in failure.message

    using(runtime(loaders=[list_all]), body)
