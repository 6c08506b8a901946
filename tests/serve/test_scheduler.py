"""The scheduler, in this event loop and in real processes, with a service that is a folder of files."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max import Project, Scheduler, ScheduleStatus, SyncOptions
from max.model.tasks import Status, SyncRun
from max.projects.audit import audit_rows
from tests.daemons import ROOT
from tests.database_files import data_file
from tests.waiting import PATIENCE, until

LOOK = 0.05  # seconds
FULL = SyncOptions(full=True)


class Clock:
    """The time of day, which a test sets."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class World:
    """A project with installations of the connector flaky, each with a folder that is its service."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names, self.clock = folder, names or ("one",), Clock()
        (folder / "connectors").mkdir(parents=True)
        copy(ROOT / "tests" / "max_flaky.py", folder / "connectors")

    def place(self, name: str = "one") -> Path:
        return self.folder / name

    def hold(self, *names: str) -> None:
        for name in names or self.names:
            (self.place(name) / "hold").touch()

    def go_on(self, *names: str) -> None:
        for name in names or self.names:
            (self.place(name) / "hold").unlink(missing_ok=True)

    def pages(self, name: str = "one") -> list[str]:
        file = self.place(name) / "pages"
        return file.read_text().split() if file.exists() else []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Project]:
        folder = Project.open(self.folder, create=True)
        async with folder as made, Project(made.manager, clock=self.clock) as project:
            known = {one.name for one in await project.installations()}
            for name in self.names:
                if name not in known:
                    self.place(name).mkdir()
                    await project.connect("flaky", name, config={"place": str(self.place(name))})
            yield project

    def scheduler(self, project: Project, **more: Any) -> Scheduler:
        return Scheduler(project, **{"look": LOOK, "clock": self.clock, **more})

    def is_asked_to_pause(self, project: Project, name: str = "one") -> bool:
        path = data_file(project.manager, project.manager.target(f"flaky:{name}"))
        with closing(sqlite3.connect(path)) as known:
            return ("pause",) in known.execute("SELECT command FROM _max_sync").fetchall()

    def runs(self, project: Project, name: str = "one") -> list[SyncRun]:
        """The syncs of an installation, oldest first."""
        info = project.manager.target(f"flaky:{name}")
        if not data_file(project.manager, info).exists():
            return []
        with project.read(info) as reader:
            return reader.runs(100)[::-1]


async def settled(project: Project, scheduler: Scheduler) -> None:
    """Wait until nothing is due, and no sync runs."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await project.schedules()
            if all(one.outlook.turn == "later" for one in found) and not scheduler.under_way:
                return
            await asyncio.sleep(0.02)


async def scheduled(project: Project, name: str = "one", **more: Any) -> ScheduleStatus:
    return await project.schedule(f"flaky:{name}", **{"every": "15m", "jitter": 0, **more})


def test_a_scheduled_sync_runs_and_its_record_says_which_schedule_began_it(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project) as scheduler:
            await scheduled(project, name="one")
            await settled(project, scheduler)
            (run,) = world.runs(project)
            assert (run.status, run.schedule) == (Status.COMPLETED, "default")
            (row,) = [one for one in audit_rows(project.manager) if one.action == "sync"]
            assert (row.via, row.outcome) == ("schedule:default", "done")
            (status,) = await project.schedules()
            await until(lambda: scheduler.next_at == status.outlook.at)
            assert status.last is not None
            assert (status.last.slot, status.last.skipped) == (status.schedule.made_at, "")

    asyncio.run(scenario())


def test_an_installation_may_have_several_schedules_with_options_of_their_own(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project) as scheduler:
            await scheduled(project)
            await settled(project, scheduler)
            nightly = {"every": "1d", "options": SyncOptions(only=("Thing",))}
            await project.schedule("flaky", "nightly", jitter=0, **nightly)  # type: ignore[arg-type]
            await settled(project, scheduler)
            assert [run.schedule for run in world.runs(project)] == ["default", "nightly"]
            assert len(await project.schedules("flaky")) == 2
            assert await project.unschedule("flaky", "nightly") == ["nightly"]

    asyncio.run(scenario())


# -- P7 ----------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(st.sets(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=2))
def test_p7_a_failing_installation_backs_off_every_other_one_fires_and_one_probe_restores_it(
    tmp_path_factory: pytest.TempPathFactory, failing: set[str]
) -> None:
    world = World(tmp_path_factory.mktemp("p7") / "p", "one", "two", "three")

    async def scenario() -> None:
        async with world.open() as project:
            for name in failing:
                (world.place(name) / "refuse").touch()
            for name in world.names:
                await scheduled(project, name, every="1m")
            async with world.scheduler(project) as scheduler:
                for _ in range(8):
                    await settled(project, scheduler)
                    world.clock.ahead += 60
                await settled(project, scheduler)
                for name in world.names:
                    tries = 9 if name not in failing else 4  # after 0, 1, 3 and 7 minutes
                    assert len(world.runs(project, name)) == tries, name
                for name in failing:
                    (world.place(name) / "refuse").unlink()
                world.clock.ahead += 8 * 60
                await settled(project, scheduler)
                assert all(one.trouble is None for one in await project.schedules())
                world.clock.ahead += 60
                await settled(project, scheduler)
                for name in world.names:
                    last = [run.status for run in world.runs(project, name)[-2:]]
                    assert last == [Status.COMPLETED] * 2, name

    asyncio.run(scenario())


def test_a_status_says_why_an_installation_fails_and_when_it_is_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project) as scheduler:
            (world.place() / "refuse").touch()
            await scheduled(project)
            await settled(project, scheduler)
            (status,) = await project.schedules()
            assert status.trouble is not None
            assert (status.trouble.failures, "the token is invalid" in status.trouble.reason) == (1, True)
            assert status.outlook.at is not None
            assert 0 < status.outlook.at - world.clock() <= 60

    asyncio.run(scenario())


# -- how many, and who goes first ------------------------------------------------------------------


def test_at_most_so_many_scheduled_syncs_run_at_once(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e")
    world = World(tmp_path / "p", *names)

    async def scenario() -> None:
        async with world.open() as project:
            world.hold()
            for name in names:
                await scheduled(project, name)
            async with world.scheduler(project, most=2) as scheduler:
                await until(lambda: sum("1" in world.pages(name) for name in names) == 2)
                for _ in range(5):  # it looks again, and begins no more
                    scheduler._changed.set()
                    await asyncio.sleep(0)
                    assert len(project.syncing()) == 2
                world.go_on()
                await settled(project, scheduler)
                assert all(len(world.runs(project, name)) == 1 for name in names)

    asyncio.run(scenario())


def test_a_person_who_asks_for_something_else_goes_first(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project) as scheduler:
            world.hold()
            await scheduled(project)
            await until(lambda: "1" in world.pages())
            runtime = await project.runtime("flaky")
            handle = await runtime.sync(FULL)
            world.go_on()
            assert (await handle.completion()).status is Status.COMPLETED
            await settled(project, scheduler)
            assert [(run.status, run.schedule) for run in world.runs(project)] == [
                (Status.CANCELLED, "default"),
                (Status.COMPLETED, None),
            ]
            (status,) = await project.schedules()
            assert (status.trouble, status.outlook.turn) == (None, "later")  # at its next slot
            with project.read("flaky") as reader:
                assert reader.count("Thing") == 3

    asyncio.run(scenario())


def test_a_person_who_asks_for_the_same_joins(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project):
            world.hold()
            await scheduled(project, options=FULL)
            await until(lambda: "1" in world.pages())
            runtime = await project.runtime("flaky")
            handle = await runtime.sync(FULL)
            world.go_on()
            result = await handle.completion()
            assert [run.id for run in world.runs(project)] == [result.id]
            assert result.schedule == "default"

    asyncio.run(scenario())


def test_a_retry_of_what_failed_goes_first_too(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project):
            world.hold()
            await scheduled(project)
            await until(lambda: "1" in world.pages())
            runtime = await project.runtime("flaky")
            with pytest.raises(Exception, match="nothing to retry"):
                await runtime.retry_failed()
            assert world.runs(project)[0].status is Status.CANCELLED

    asyncio.run(scenario())


def test_a_slot_waits_for_the_sync_of_a_person_with_other_options(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project) as scheduler:
            world.hold()
            runtime = await project.runtime("flaky")
            handle = await runtime.sync(FULL)
            await until(lambda: "1" in world.pages())
            status = await scheduled(project)
            assert (status.outlook.turn, status.outlook.reason) == ("wait", f"sync {handle.id} is running")
            await asyncio.sleep(3 * LOOK)
            assert len(world.runs(project)) == 1
            world.go_on()
            await handle.completion()
            await settled(project, scheduler)
            assert [run.schedule for run in world.runs(project)] == [None, "default"]

    asyncio.run(scenario())


# -- processes that end ------------------------------------------------------------------------------


def test_an_interrupted_scheduled_sync_goes_on_in_the_next_process(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def first() -> None:
        async with world.open() as project, world.scheduler(project):
            world.hold()
            await scheduled(project)
            await until(lambda: "1" in world.pages())

    async def second() -> None:
        world.go_on()
        async with world.open() as project, world.scheduler(project) as scheduler:
            await settled(project, scheduler)
            (run,) = world.runs(project)
            assert (run.status, run.resumed) == (Status.COMPLETED, True)

    asyncio.run(first())
    asyncio.run(second())
    assert world.pages().count("0") == 1  # a page that was stored is not fetched again


def test_a_sync_that_was_paused_for_a_restart_goes_on_and_one_that_a_person_paused_does_not(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "p", "one", "two")

    async def first() -> None:
        async with world.open() as project:
            world.hold()
            for name in world.names:
                await scheduled(project, name)
            async with world.scheduler(project):
                await until(lambda: all("1" in world.pages(name) for name in world.names))
                await project.request("flaky:two", "pause")
                world.go_on("two")
                await until(lambda: [one.name for one in project.syncing()] == ["one"])
            pausing = asyncio.create_task(project.pause_all(PATIENCE))
            await until(lambda: world.is_asked_to_pause(project))
            world.go_on("one")
            await pausing

    async def second() -> None:
        async with world.open() as project:
            assert [run.status for run in world.runs(project, "two")] == [Status.PAUSED]
            async with world.scheduler(project):
                await until(lambda: world.runs(project)[0].status is Status.COMPLETED)
                world.clock.ahead += 900
                await until(lambda: len(world.runs(project)) == 2)
                (status,) = await project.schedules("flaky:two")
                assert status.last is not None
                assert status.last.skipped.endswith("is paused")
                assert [run.status for run in world.runs(project, "two")] == [Status.PAUSED]

    asyncio.run(first())
    asyncio.run(second())


# -- clocks, and changes ---------------------------------------------------------------------------------


def test_a_clock_that_is_set_forward_begins_one_sync_and_one_that_is_set_back_none(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project) as scheduler:
            await scheduled(project)
            await settled(project, scheduler)
            world.clock.ahead += 5 * 3_600
            await until(lambda: len(world.runs(project)) == 2)
            await settled(project, scheduler)
            world.clock.ahead -= 5 * 3_600
            await asyncio.sleep(4 * LOOK)
            assert len(world.runs(project)) == 2
            world.clock.ahead += 900  # the slots between were missed, not handled
            await until(lambda: len(world.runs(project)) == 3)

    asyncio.run(scenario())


def test_a_change_through_the_project_is_noticed_at_once(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project, look=1e6) as scheduler:
            await scheduled(project)
            await until(lambda: world.runs(project) and world.runs(project)[0].status is Status.COMPLETED)
            await until(lambda: scheduler.next_at is not None)
            await project.switch_schedules("flaky", on=False)
            await until(lambda: scheduler.next_at is None)
            assert len(world.runs(project)) == 1
            await project.switch_schedules("flaky", on=True)  # by itself it looks no more
            await until(lambda: scheduler.next_at is not None)

    asyncio.run(scenario())


def max_in(world: World, *words: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command, pipe = [sys.executable, "-m", "max", *words], subprocess.PIPE
    return subprocess.Popen(command, cwd=world.folder, env=environment, stdout=pipe, stderr=pipe, text=True)


async def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate)
    return process.returncode, out, err


def test_a_change_of_another_process_is_noticed(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project):
            status, out, err = await ended(
                max_in(world, "schedule", "flaky", "--every", "15m", "--jitter", "0")
            )
            assert (status, "every 15m" in out) == (0, True), err
            await until(lambda: world.runs(project) and world.runs(project)[0].status is Status.COMPLETED)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("words", "to", "statuses"),
    [
        (["--full"], "stop", [Status.CANCELLED, Status.COMPLETED]),
        ([], "end", [Status.COMPLETED, Status.COMPLETED]),
    ],
)
def test_a_command_says_for_which_scheduled_sync_of_another_process_it_waits(
    tmp_path: Path, words: list[str], to: str, statuses: list[Status]
) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project):
            world.hold()
            await scheduled(project)
            await until(lambda: "1" in world.pages())
            process = max_in(world, "sync", "flaky", *words)
            assert process.stderr is not None
            said = await asyncio.to_thread(process.stderr.readline)
            (run,) = world.runs(project)
            assert said == f"waiting for the scheduled sync {run.id} of flaky:one to {to}\n"
            if to == "stop":
                await until(lambda: world.runs(project)[0].status is Status.CANCELLED)
            world.go_on()
            status, out, err = await ended(process)
            assert (status, [run.status for run in world.runs(project)]) == (0, statuses), out + err
            assert [run.schedule for run in world.runs(project)] == ["default", None]

    asyncio.run(scenario())


def test_an_invalidation_has_a_scheduled_sync_of_another_process_stop(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project, world.scheduler(project):
            world.hold()
            await scheduled(project)
            await until(lambda: "1" in world.pages())
            (run,) = world.runs(project)
            status, out, err = await ended(max_in(world, "invalidate", "flaky", "Thing"))
            assert (status, f"waiting for the scheduled sync {run.id} of flaky:one to stop" in err) == (
                0,
                True,
            )
            assert "Thing" in out
            assert world.runs(project)[0].status is Status.CANCELLED

    asyncio.run(scenario())


FOLLOW = """
import asyncio, sys
from max import Project, Scheduler

async def main():
    async with Project.open(sys.argv[1]) as project, Scheduler(project, look=0.05):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def test_of_several_processes_that_follow_a_schedule_one_syncs(tmp_path: Path) -> None:
    world = World(tmp_path / "p")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    words = [sys.executable, "-c", FOLLOW, str(world.folder)]

    def begin_following() -> subprocess.Popen[str]:
        return subprocess.Popen(words, env={**os.environ, "PYTHONPATH": paths}, **pipes)

    async def scenario() -> None:
        async with world.open() as project:
            processes = [begin_following() for _ in range(3)]
            try:
                for one in processes:
                    assert await asyncio.to_thread(one.stdout.readline) == "ready\n"  # type: ignore[union-attr]
                await scheduled(project)
                await until(lambda: world.runs(project) and world.runs(project)[0].status is Status.COMPLETED)
                await asyncio.sleep(4 * LOOK)
                assert len(world.runs(project)) == 1
            finally:
                for one in processes:
                    one.kill()
                    one.communicate()

    asyncio.run(scenario())


# -- embedding -----------------------------------------------------------------------------------------


def test_a_scheduler_leaves_nothing_behind(tmp_path: Path) -> None:
    world = World(tmp_path / "p")

    async def scenario() -> None:
        async with world.open() as project:
            await scheduled(project)
            tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
            async with world.scheduler(project) as scheduler:
                await until(lambda: world.runs(project) and world.runs(project)[0].status is Status.COMPLETED)
                await scheduler.start()  # it is started already
            await scheduler.stop()
            await project.stop_all()
            assert asyncio.all_tasks() <= tasks
            assert set(threading.enumerate()) <= threads
            assert not project._schedule_watchers
            async with scheduler:  # it may start again
                assert scheduler._running is not None

    asyncio.run(scenario())


def test_a_database_that_cannot_be_read_keeps_no_other_installation_waiting(tmp_path: Path) -> None:
    world = World(tmp_path / "p", "one", "two")

    async def scenario() -> None:
        async with world.open() as project:
            for name in world.names:
                await scheduled(project, name)
            broken = data_file(project.manager, project.manager.target("flaky:one"))
            for file in broken.parent.glob("data.db*"):
                file.unlink()
            broken.write_bytes(b"this is no database, and was never one" * 100)
            async with world.scheduler(project):
                await until(lambda: world.runs(project, "two"))
                await until(lambda: world.runs(project, "two")[0].status is Status.COMPLETED)
                assert broken.read_bytes().startswith(b"this is no database")

    asyncio.run(scenario())
