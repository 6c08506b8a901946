"""Installations in processes of their own: real ones, which are really killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from max import Project
from max.core import Runtime, SyncOptions
from max.daemon import Daemon
from max.errors import Interrupted, LoaderFault, MaxError, RunnerFailed, SyncError
from max.model.event_log import LoggedKind
from max.model.sync_events import EventKind
from max.model.tasks import Status, SyncResult
from max.projects.manager import folder_of
from max.serve import supervisor
from max.serve.remote_runtime import RemoteRuntime, isolated
from max.serve.supervisor import Supervisor
from max.storage.event_log import events_after
from tests.database_files import data_file, reader
from tests.waiting import until

SECRET = "t0p-s3cr3t"
WILD = Path(__file__).parents[1] / "max_wild.py"
Made = Project[Runtime]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Waits between restarts are short, and the project is this user's own."""
    monkeypatch.setenv("MAX_HOME", str(tmp_path / "h"))
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.001)


@asynccontextmanager
async def project_in(folder: Path) -> AsyncIterator[Made]:
    """A project with the wild connector, whose runtimes are isolated."""
    (folder / "connectors").mkdir(parents=True, exist_ok=True)
    (folder / "connectors" / WILD.name).write_text(WILD.read_text())
    async with Project.open(folder, create=True, runtimes=isolated) as project:
        yield project


async def wild(project: Made, name: str = "default", settings: Any = None, **config: Any) -> RemoteRuntime:
    """A runtime of a new installation of the wild connector."""
    config["notes"] = str(notes(project, name))
    info = await project.connect("wild", name, config=config, secrets={"token": SECRET})
    if settings:
        await project.change_settings(info, **settings)
    found = await project.prepared(str(info))
    assert isinstance(found, RemoteRuntime)
    return found


def notes(project: Made, name: str = "default") -> Path:
    """The file with a line for each request of an installation."""
    return folder_of(project.manager) / f"{name}.txt"


def pages_asked(project: Made, name: str = "default") -> list[int]:
    """The pages that were asked for, in order."""
    file = notes(project, name)
    return [int(line.split()[0]) for line in file.read_text().splitlines()] if file.exists() else []


def pid_of(runtime: RemoteRuntime) -> int:
    """The process of an installation, which there is."""
    assert isinstance(runtime.link, Supervisor)
    assert runtime.link.pid is not None
    return runtime.link.pid


def run(
    tmp_path: Path, scenario: Callable[[Made], Coroutine[Any, Any, None]], seconds: float = 240.0
) -> None:
    """Run a scenario in a project; its processes end with it."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds), project_in(tmp_path / "p") as project:
            await scenario(project)

    asyncio.run(bounded())


async def completed(runtime: Runtime, options: SyncOptions | None = None) -> SyncResult:
    """The result of a sync."""
    return await (await runtime.sync(options or SyncOptions())).completion()


def is_there(pid: int) -> bool:
    """Whether a process exists, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# -- what a connector can do to its process -------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "reason", "settings"),
    [
        ("exit", "ended with status 3", {}),
        ("segfault", "was ended by SIGSEGV", {}),
        ("loop", "did not answer for 1 s", {"runner_seconds": 1}),
        ("memory", "used more memory than it may", {"runner_memory": 150}),
    ],
)
def test_what_ends_its_process_costs_its_own_installation_only(
    tmp_path: Path, does: str, reason: str, settings: dict[str, Any]
) -> None:
    """Five crashes fail the task that ran in each; the sync ends with that failure, and others go on."""

    async def scenario(project: Made) -> None:
        bad = await wild(project, "bad", settings, does=does)
        good = await wild(project, "good", pages=5)
        one, other = await bad.sync(), await good.sync()
        assert (await other.completion()).counts == {"Beast": 10}
        result = await one.completion()
        assert result.status is Status.PARTIAL
        assert [failure.code for failure in result.failures] == ["sync"]
        assert result.counts == {"Beast": 2}  # the page before is stored, and is not asked for again
        assert pages_asked(project, "bad") == [0, 1, 1, 1, 1, 1]
        assert pages_asked(project, "good") == [0, 1, 2, 3, 4]
        said = [str(facts["reason"]) for facts in crashes(project, "wild:bad")]
        assert len(said) == 5
        assert all(reason in one for one in said), said

    run(tmp_path, scenario)


def test_one_huge_allocation_fails_its_task_alone(tmp_path: Path) -> None:
    """The system refuses it; Python raises MemoryError, which is a failure like any other."""

    async def scenario(project: Made) -> None:
        bad = await wild(project, does="huge", settings={"runner_memory": 500})
        result = await completed(bad)
        assert [one.code for one in result.failures] == [LoaderFault.code]
        assert crashes(project, "wild") == []

    run(tmp_path, scenario)


def test_a_process_that_ends_now_and_then_does_not_keep_its_sync_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restarts count only when nothing was stored in between: two in a row would be too many here."""
    monkeypatch.setattr(supervisor, "MOST_CRASHES", 2)

    async def scenario(project: Made) -> None:
        bad = await wild(project, does="exit", pages=50, at=10, every=True, times=1)
        result = await completed(bad)
        assert (result.status, result.counts) == (Status.COMPLETED, {"Beast": 100})
        assert len(crashes(project, "wild")) == 4

    run(tmp_path, scenario)


def test_a_sync_whose_process_always_ends_before_anything_is_given_up_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MOST_CRASHES", 3)

    async def scenario(project: Made) -> None:
        bad = await wild(project, does="segfault", at=0)
        handle = await bad.sync()
        kinds = [event.kind async for event in handle.events()]
        with pytest.raises(RunnerFailed) as failed:
            await handle.completion()
        assert "was ended by SIGSEGV, 3 times in a row" in failed.value.message
        assert "Segmentation fault" in failed.value.last_words
        assert "misbehave" in failed.value.last_words  # the place in the connector
        assert "the token is ***" in failed.value.last_words
        assert SECRET not in str([failed.value.describe(), crashes(project, "wild")])
        assert kinds[-1] is EventKind.SYNC_FAILED
        assert pages_asked(project) == [0, 0, 0]
        (health,) = await project.health("wild")
        assert (str(health.health), "3 times in a row" in health.reason) == ("failed", True)

    run(tmp_path, scenario)


def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, does="refuse")
        with pytest.raises(RunnerFailed, match="the process of wild:default ended with status 4"):
            await bad.sync()
        await project.change_settings("wild", runner_prefix="no-such-command -x")
        with pytest.raises(RunnerFailed, match="cannot be started: no-such-command"):
            await bad.health()

    run(tmp_path, scenario)


def test_p8_what_a_loader_has_started_is_gone_with_its_process(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, does="child", at=0, settings={"runner_seconds": 1})
        handle = await bad.sync()
        await until(lambda: bool(crashes(project, "wild")) if handle.id else False)
        await handle._runtime.stop()
        child = int(notes(project).with_suffix(".child").read_text())
        await until(lambda: not is_there(child))
        assert "misbehave" in str(crashes(project, "wild")[0]["last_words"])  # where the loop was

    run(tmp_path, scenario)


def test_what_a_connector_prints_is_no_message(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, does="print")
        assert (await completed(bad)).status is Status.COMPLETED

    run(tmp_path, scenario)


# -- a runtime is a runtime ------------------------------------------------------------------------


def test_a_remote_sync_gives_the_results_events_and_progress_of_a_local_one(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, pages=4)
        async with project_in(tmp_path / "q") as other, Project.open(tmp_path / "q") as local:
            await wild(other, pages=4)
            runtimes: list[Runtime] = [bad, await local.runtime("wild")]
            found = []
            for runtime in runtimes:
                handle = await runtime.sync()
                events = handle.events()
                seen = [one async for one in handle.progress()]
                result = await handle.completion()
                assert handle.done
                kinds = [event.kind async for event in events]
                last = seen[-1]
                ends = (kinds[0], kinds[-1])  # a late listener gets the start of what runs
                found.append((result.status, result.counts, ends, last.status, last.counts))
                assert (await handle.status()).status is Status.COMPLETED
            assert found[0] == found[1]

    run(tmp_path, scenario)


def test_errors_come_as_they_were_raised(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, does="wait")
        handle = await bad.sync()
        with pytest.raises(SyncError, match="was begun with other options") as refused:
            await bad.sync(SyncOptions(full=True))
        assert type(refused.value) is SyncError
        with pytest.raises(MaxError, match="unknown entity 'Beest'"):
            await bad.invalidate("Beest.name")
        await handle.cancel()
        assert (await handle.completion()).status is Status.CANCELLED

    run(tmp_path, scenario)


def test_a_sync_elsewhere_is_joined_paused_resumed_and_stopped(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, does="wait", times=1)
        handle = await bad.sync()
        await until(lambda: len(pages_asked(project)) == 2)
        assert await bad.sync() is handle
        assert project.syncing() == [bad.info]
        await bad.stop()
        with pytest.raises(Interrupted):
            await handle.completion()
        again = await (await project.runtime("wild")).sync()
        assert again.id == handle.id
        assert (await again.completion()).counts == {"Beast": 6}

    run(tmp_path, scenario)


def test_a_pause_is_obeyed_at_the_next_page_and_a_resumed_sync_goes_on(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, pages=400)
        handle = await bad.sync()
        await handle.pause()
        assert (await handle.completion()).status is Status.PAUSED
        again = await handle.resume()
        assert again.id == handle.id
        assert (await again.completion()).counts == {"Beast": 800}
        assert sorted(set(pages_asked(project))) == sorted(pages_asked(project))

    run(tmp_path, scenario)


# -- rest and change -------------------------------------------------------------------------------


def test_a_process_without_work_ends_and_another_one_starts_when_it_is_needed(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, settings={"runner_minutes": 0.001})
        await bad.health()
        first = pid_of(bad)
        await until(lambda: not is_there(first))
        assert not bad.started_at
        assert str(first) not in await bad.health()

    run(tmp_path, scenario)


def test_a_changed_connector_setting_or_secret_is_used_at_once(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project)
        said = [await bad.health()]
        file = folder_of(project.manager) / "connectors" / WILD.name
        file.write_text(file.read_text().replace("VERSION = 1", "VERSION = 2"))
        said.append(await bad.health())
        await project.change_settings("wild", runner_seconds=7)
        said.append(await (await project.runtime("wild")).health())
        await project.reconfigure("wild", secrets={"token": "another-secret"})
        said.append(await (await project.runtime("wild")).health())
        assert [one.partition(",")[0] for one in said] == ["version 1", *3 * ["version 2"]]
        assert len(set(said)) == 4
        assert said[-1] == await (await project.runtime("wild")).health()  # now nothing has changed

    run(tmp_path, scenario)


def test_an_installation_that_is_disconnected_meanwhile_has_no_process_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK", 0.05)

    async def scenario(project: Made) -> None:
        bad = await wild(project)
        await bad.health()
        first = pid_of(bad)
        project.manager.remove(bad.info, keep_data=False)  # as another process does
        await until(lambda: not is_there(first))
        with pytest.raises(MaxError, match="unknown installation"):
            await bad.health()

    run(tmp_path, scenario)


def test_a_prefix_comes_before_the_command_and_the_command_holds_no_secret(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, settings={"runner_prefix": "env PREFIXED=1"})
        await bad.health()
        process = Path(f"/proc/{pid_of(bad)}")
        assert b"PREFIXED=1" in (process / "environ").read_bytes()
        for file in ("cmdline", "environ"):
            assert SECRET.encode() not in (process / file).read_bytes()

    if sys.platform == "linux":
        run(tmp_path, scenario)


PARENT = """
import asyncio, sys
from max import Project
from max.serve.remote_runtime import isolated

async def main():
    async with Project.open(sys.argv[1], runtimes=isolated) as project:
        runtime = await project.runtime("wild")
        handle = await runtime.sync()
        print(runtime.link.pid, handle.id, flush=True)
        await handle.completion()

asyncio.run(main())
"""


@pytest.mark.parametrize("does", ["wait", "loop"])
def test_a_process_whose_parent_is_killed_ends_and_its_sync_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    async def scenario(project: Made) -> None:
        bad = await wild(project, does=does, times=1)
        parent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PARENT, str(folder_of(project.manager))),
            env=supervisor.environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        assert parent.stdout is not None
        pid, id = (await parent.stdout.readline()).decode().split()
        await until(lambda: len(pages_asked(project)) == 2)
        parent.kill()
        await parent.wait()
        await until(lambda: not is_there(int(pid)))
        handle = await bad.sync()
        assert handle.id == id
        assert (await handle.completion()).counts == {"Beast": 6}
        assert pages_asked(project) == [0, 1, 1, 2]

    run(tmp_path, scenario)


# -- one installation, one version -----------------------------------------------------------------


@pytest.mark.parametrize("runtimes", [isolated, None])
def test_p16_two_installations_pin_two_versions_and_neither_changes_the_other(
    tmp_path: Path, runtimes: Any
) -> None:
    async def scenario() -> None:
        async with project_in(tmp_path / "p") as made:
            root = folder_of(made.manager)
            for name in ("old", "new"):
                await wild(made, name, settings={"connectors": f"{name}/one"})
            for number, name in enumerate(("old", "new"), start=5):
                place = root / "connectors" / name / "one"
                place.mkdir(parents=True)
                text = WILD.read_text().replace("VERSION = 1", f"VERSION = {number}")
                (place / WILD.name).write_text(text)
        async with Project.open(root, **({"runtimes": runtimes} if runtimes else {})) as project:
            for name in ("old", "new", "old"):
                await completed(await project.runtime("wild", name), SyncOptions(full=True))
            for number, name in enumerate(("old", "new"), start=5):
                with project.read(f"wild:{name}") as found:
                    names = {str(row.to_dict()["name"]) for row in found.search("Beast").items}
                assert {one.partition(" ")[2] for one in names} == {f"of version {number}"}

    asyncio.run(scenario())


def test_a_pinned_connector_that_is_missing_or_elsewhere_is_refused_in_words(tmp_path: Path) -> None:
    async def scenario(project: Made) -> None:
        await wild(project, settings={"connectors": "nowhere"})
        async with Project.open(folder_of(project.manager)) as local:
            with pytest.raises(MaxError, match=r"wild:default uses the connector in .*nowhere"):
                await local.runtime("wild")
        for path in ("..", "../other", "/etc", "a//b", "./a", "a/../../b"):
            with pytest.raises(MaxError, match="connectors"):
                await project.change_settings("wild", connectors=path)

    run(tmp_path, scenario)


def test_a_pinned_connector_runs_only_in_a_trusted_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with project_in(tmp_path / "p") as project:
            place = folder_of(project.manager) / "connectors" / "own"
            place.mkdir()
            (place / WILD.name).write_text(WILD.read_text())
            await wild(project, settings={"connectors": "own"})
        monkeypatch.setenv("MAX_HOME", str(tmp_path / "another"))  # where no trust is recorded
        for runtimes in (isolated, None):
            options: Any = {"runtimes": runtimes} if runtimes else {}
            async with Project.open(tmp_path / "p", **options) as project:
                with pytest.raises(MaxError) as refused:
                    await project.runtime("wild")
                assert refused.value.code == "project.untrusted"
                assert not notes(project).exists()

    asyncio.run(scenario())


def crashes(project: Made, name: str) -> list[Any]:
    """The facts of the crashes of an installation's process."""
    info = project.manager.target(name)
    with reader(data_file(project.manager, info)) as connection:
        found = events_after(connection, None, kinds=[LoggedKind.RUNNER_CRASHED]).events
    return [one.facts for one in found]


# -- a daemon --------------------------------------------------------------------------------------


def test_max_sync_uses_the_runtime_of_the_daemon_which_runs_no_loader_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAX_CONNECTORS", raising=False)

    async def scenario(project: Made) -> None:
        await wild(project, does="segfault", times=2)
        await wild(project, "other")
        daemon = Daemon(project.manager)
        await daemon.start()
        try:
            words = [sys.executable, "-P", "-m", "max", "-C", str(folder_of(project.manager)), "sync"]
            for name in ("default", "other"):
                command = await asyncio.create_subprocess_exec(
                    *words, f"wild:{name}", "-o", "json", env=supervisor.environment(), stdout=-1, stderr=-1
                )
                out, err = await command.communicate()
                assert command.returncode == 0, err
                assert json.loads(out)["counts"] == {"Beast": 6}
            assert len(daemon.project.list_runtimes()) == 2
            pids = {int(line.split()[1]) for line in notes(project).read_text().splitlines()}
            assert len(pids) == 3
            assert os.getpid() not in pids
        finally:
            await daemon.stop()

    run(tmp_path, scenario)
