"""Projects: what is checked when an installation is connected, and its warm runtimes."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from max.core import InstallationInfo
from max.errors import InvalidAnswers, ProjectError, StorageError, SyncError, UnknownName, UpstreamBroken
from max.installations.onboarding import OnboardingResult
from max.model.tasks import Status
from max.model.values import Json
from max.project import Project
from max.projects.folder import ProjectFolder
from max.projects.manager import folder_of
from max.upstream.operations import Limits
from tests.database_files import data_file, installation_file
from tests.off_loop import file_calls
from tests.sample import Thing, events, refusals, source

NOW = 1_700_000_000.25


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(ProjectFolder.init(tmp_path))


@pytest.fixture
def running(project: Project) -> Iterator[Project]:
    """A project with a connector of its own, and installations one, two and stuck."""
    folder = folder_of(project.manager) / "connectors"
    folder.mkdir()
    (folder / "max_sample.py").write_text(source("sample"))
    for name in ("one", "two", "stuck"):
        project.manager.add("sample", name, {"things": 3, "prefix": name}, {}, now=NOW)
    events.clear()
    yield project
    sys.modules.pop("max_sample", None)


class TestOpening:
    """``Project.open``."""

    def test_a_project_is_found_from_below_and_not_made_twice(self, running: Project) -> None:
        below = folder_of(running.manager) / "a" / "b"
        below.mkdir(parents=True)

        async def main() -> None:
            for create in (False, True):
                async with Project.open(below, create=create) as project:
                    assert folder_of(project.manager) == folder_of(running.manager)

        asyncio.run(main())
        assert not (below / ".max").exists()

    def test_a_folder_becomes_a_project_when_it_may(self, tmp_path: Path) -> None:
        async def main() -> None:
            with pytest.raises(ProjectError, match="there is no project in"):
                async with Project.open(tmp_path):
                    pytest.fail("there is none")
            async with Project.open(tmp_path / "new", create=True) as project:
                assert await project.installations() == []

        asyncio.run(main())
        assert (tmp_path / "new" / ".max").is_dir()

    def test_its_runtimes_are_stopped_at_the_end_even_after_an_error(self, running: Project) -> None:
        async def main() -> None:
            async with Project.open(folder_of(running.manager)) as project:
                await project.runtime("sample", "one")
                assert repr(project) == f"Project({str(folder_of(running.manager))!r}, 1 in use)"
                raise UpstreamBroken("midway")

        with pytest.raises(UpstreamBroken, match="midway"):
            asyncio.run(main())
        assert events == ["initialise one", "stop one"]


LOCKED = """
from dataclasses import dataclass
from max.connecting import Credential, Input, SecretInput
from tests.sample import sample

@dataclass(frozen=True)
class Config:
    things: int
    url: str = ""
    prefix: str = "locked"

TOKEN, KEY = Credential("token"), Credential("key")
connector = sample(
    name="locked",
    config=Config,
    credentials=[TOKEN, KEY],
    onboarding=[SecretInput(KEY, "Key", when=lambda answers: answers["url"] != "")],
)
"""


@pytest.fixture
def locked(running: Project) -> Iterator[Project]:
    """The same, with a connector that needs a value and a secret, and with an url another secret."""
    (folder_of(running.manager) / "connectors" / "max_locked.py").write_text(LOCKED)
    yield running
    sys.modules.pop("max_locked", None)


def stored_secrets(project: Project, name: str) -> dict[str, str]:
    return project.manager.credentials(project.manager.target(name)).read()


class TestConnecting:
    """``connect`` and ``reconfigure`` check what they are given."""

    def test_what_is_not_given_has_its_default(self, locked: Project) -> None:
        info = asyncio.run(locked.connect("locked", config={"things": "4"}, secrets={"token": "x"}))
        assert (str(info), info.config) == (
            "locked:default",
            {"things": 4, "url": "", "prefix": "locked"},
        )
        assert stored_secrets(locked, "locked") == {"token": "x"}
        assert info.connected_at > NOW

    @pytest.mark.parametrize(
        ("config", "secrets", "wrong"),
        [
            ({"thing": 4}, {"token": "x"}, ["thing"]),
            ({"things": "many", "colour": 1}, {"tokn": "hunter2"}, ["things", "colour", "tokn"]),
            ({"things": 4}, {"token": ""}, ["token"]),
            ({}, {}, ["things", "token"]),
            ({"things": 4, "url": "u"}, {"token": "x"}, ["key"]),
        ],
    )
    def test_everything_wrong_is_named_and_nothing_is_stored(
        self, locked: Project, config: dict[str, Json], secrets: dict[str, str], wrong: list[str]
    ) -> None:
        before = locked.manager.installations()
        with pytest.raises(InvalidAnswers) as caught:
            asyncio.run(locked.connect("locked", config=config, secrets=secrets))
        assert [one.path for one in caught.value.mismatches] == wrong
        assert "hunter2" not in caught.value.render()
        assert locked.manager.installations() == before

    def test_an_unknown_connector_is_refused_with_the_nearest(self, running: Project) -> None:
        with pytest.raises(UnknownName, match="unknown connector 'sampel'") as caught:
            asyncio.run(running.connect("sampel"))
        assert "sample" in caught.value.candidates

    def test_reconfiguring_changes_what_is_given_and_keeps_the_rest(self, locked: Project) -> None:
        async def main() -> None:
            given = {"things": 4, "url": "u"}
            await locked.connect("locked", config=given, secrets={"token": "x", "key": "y"})
            info = await locked.reconfigure("locked", config={"things": 5}, secrets={"token": "z"})
            assert info.config == {"things": 5, "url": "u", "prefix": "locked"}
            with pytest.raises(InvalidAnswers, match="things: expected a whole number"):
                await locked.reconfigure(info, config={"things": "many"}, secrets={"token": "never"})

        asyncio.run(main())
        assert stored_secrets(locked, "locked") == {"token": "z", "key": "y"}
        assert locked.manager.target("locked").config["things"] == 5


class TestEnsuring:
    """``ensure``: an installation is there afterwards, with these values."""

    def test_it_is_connected_once_however_often_it_is_called(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                runtimes = await asyncio.gather(*(project.ensure("sample", things=1) for _ in range(5)))
                assert len(set(runtimes)) == 1
                await (await runtimes[0].sync()).completion()
                assert await runtimes[0].engine.query(Thing).count() == 1
                assert await project.ensure("sample") is runtimes[0]
                assert await project.ensure("sample", things="1") is runtimes[0]

        asyncio.run(main())
        assert running.manager.target("sample:default").config == {"things": 1, "prefix": "thing"}

    def test_one_that_exists_gets_the_values_and_keeps_its_others(self, running: Project) -> None:
        async def main() -> InstallationInfo:
            async with running as project:
                return (await project.ensure("sample", "two", things=7)).info

        info = asyncio.run(main())
        assert info == running.manager.target("sample:two")
        assert info.config == {"things": 7, "prefix": "two"}

    def test_secrets_are_used_to_connect_only(self, locked: Project) -> None:
        async def main() -> None:
            async with locked as project:
                for secret, things in [("first", 1), ("second", 1), ("third", 2)]:
                    runtime = await project.ensure("locked", secrets={"token": secret}, things=things)
                    await runtime.stop()
                    await project.stop_all()

        asyncio.run(main())
        assert stored_secrets(locked, "locked") == {"token": "first"}
        assert locked.manager.target("locked").config["things"] == 2

    def test_a_runtime_in_use_does_not_change_its_configuration(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                await project.runtime("sample", "one")
                with pytest.raises(ProjectError, match="sample:one is in use here"):
                    await project.ensure("sample", "one", things=9)

        asyncio.run(main())
        assert running.manager.target("sample:one").config["things"] == 3

    @pytest.mark.parametrize("first", [Project.ensure, Project.runtime])
    def test_a_runtime_never_has_other_values_than_those_that_were_asked_for(
        self, running: Project, first: Any
    ) -> None:
        async def main() -> list[Any]:
            async with running as project:
                changed = [
                    project.ensure("sample", "one", things=5),
                    project.ensure("sample", "one", prefix="p"),
                ]
                both = asyncio.gather(first(project, "sample", "one"), *changed, return_exceptions=True)
                return list(await both)

        _, things, prefix = asyncio.run(main())
        config = running.manager.target("sample:one").config
        for found, name, value in ((things, "things", 5), (prefix, "prefix", "p")):
            if isinstance(found, ProjectError):
                assert config[name] != value
            else:
                assert (found.info.config, config[name]) == (config, value)

    def test_a_stopped_runtime_is_built_again_with_the_new_values(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                runtime = await project.runtime("sample", "one")
                await runtime.stop()
                changed = await project.ensure("sample", "one", prefix="new")
                assert changed is not runtime
                assert changed is await project.runtime("sample", "one")

        asyncio.run(main())
        assert events == ["initialise one", "stop one", "initialise new", "stop new"]

    def test_a_misspelt_value_is_named(self, running: Project) -> None:
        with pytest.raises(InvalidAnswers, match=r"thing: expected another key \(things"):
            asyncio.run(running.ensure("sample", thing=1))
        assert not any(info.name == "default" for info in running.manager.installations())


class TestWithoutARuntime:
    """``read``, ``request``, ``invalidate`` and ``migrate`` on what an earlier sync has stored."""

    def test_what_is_stored_is_read_and_marked_as_stale(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                await (await (await project.runtime("sample", "one")).sync()).completion()
            marked = await project.invalidate("sample:one", Thing.title, where="title = 'one 1'")
            assert [field.rows for field in marked.fields] == [1]
            assert (await project.migrate("sample:one")).changes == ()

        asyncio.run(main())
        with running.read("sample:one") as reader:
            assert reader.count("Thing") == 3
            [age] = reader.freshness("Thing.title")
            assert age.ages.never == 1

    def test_an_unfinished_sync_takes_requests_and_a_finished_one_does_not(
        self, running: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.sample.unanswered", {"one"})

        async def main() -> list[Status]:
            async with running as project:
                await (await project.runtime("sample", "one")).sync()
                await project.stop_all()
                paused = (await project.request("sample:one", "pause")).status
                cancelled = (await project.request("sample:one", "cancel")).status
                with pytest.raises(SyncError, match="no sync of sample:one is unfinished"):
                    await project.request("sample:one", "pause")
                return [paused, cancelled]

        assert asyncio.run(main()) == [Status.PAUSED, Status.CANCELLED]

    def test_what_was_never_synced_is_refused(self, running: Project) -> None:
        with (
            pytest.raises(StorageError, match="sample:one has never been synced"),
            running.read("sample:one"),
        ):
            pytest.fail("there is nothing to read")
        with pytest.raises(StorageError, match="sample:one has never been synced"):
            asyncio.run(running.invalidate("sample:one", "Thing"))


class TestLoop:
    """No method does file or lock work in the loop's thread."""

    def test_a_thousand_installations_are_listed_beside_the_loop(self, project: Project) -> None:
        info = project.manager.add("acme", "n0", {}, {}, now=NOW)
        first = installation_file(project.manager, info)
        for number in range(1, 1000):
            file = first.parents[1] / f"n{number}" / first.name
            file.parent.mkdir()
            file.write_text(first.read_text().replace('"n0"', f'"n{number}"'))

        async def main() -> list[InstallationInfo]:
            loop, turns = asyncio.get_running_loop(), 0

            def turn() -> None:
                nonlocal turns
                turns += 1
                if not done.is_set():
                    loop.call_soon(turn)

            done = asyncio.Event()
            await project.target("acme:n1")  # what the first call imports does not count
            turn()
            with file_calls() as found:
                listed = await project.installations()
            done.set()
            assert found == []
            assert turns > 1
            return listed

        assert len(asyncio.run(main())) == 1000

    def test_every_other_method_works_beside_the_loop(self, running: Project) -> None:
        async def main() -> None:
            project = running
            assert await project.installations()  # what the first call imports does not count
            with file_calls() as found:
                info = await project.connect("sample", config={"things": 1})
                await project.reconfigure(info, config={"things": 2})
                await project.change_settings(info, history="changes")
                assert await project.problems() == []
                assert await project.target("sample:default") != info
                runtime = await project.ensure("sample")
                await (await runtime.sync()).completion()
                await runtime.freshness()
                await runtime.invalidate(Thing)
                await project.stop_all()
                await project.invalidate(info, "Thing.title")
                await project.migrate(info)
                await project.disconnect(info)
            assert found == []

        asyncio.run(main())


class TestRuntimes:
    """``runtime``, ``list_runtimes`` and ``stop_all``."""

    def test_a_runtime_is_warm_the_second_time(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                runtime = await project.runtime("sample", "one")
                assert await project.runtime("sample:one") is runtime
                assert await project.runtime(runtime.info.id) is runtime
                assert await project.runtime("sample", "two") is not runtime

        asyncio.run(main())
        assert events == ["initialise one", "initialise two", "stop two", "stop one"]

    def test_a_flow_controller_is_the_runtimes_from_its_start(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                flow = Limits()
                runtime = await project.runtime("sample", "one", flow=flow)
                assert runtime.flow is flow
                assert await project.runtime("sample", "one") is runtime
                assert await project.runtime("sample", "one", flow=flow) is runtime
                with pytest.raises(ProjectError, match="sample:one is in use here without that flow"):
                    await project.runtime("sample", "one", flow=Limits())

        asyncio.run(main())

    def test_concurrent_first_calls_build_one_runtime(self, running: Project) -> None:
        async def main() -> int:
            async with running as project:
                return len(set(await asyncio.gather(*(project.runtime("sample", "one") for _ in range(20)))))

        assert asyncio.run(main()) == 1
        assert events == ["initialise one", "stop one"]

    def test_after_a_failed_build_the_next_call_builds_again(self, running: Project) -> None:
        async def main() -> list[object]:
            async with running as project:
                refusals.append(UpstreamBroken("not today"))
                asked = (project.runtime("sample", "one") for _ in range(3))
                return await asyncio.gather(*asked, return_exceptions=True)

        kinds = sorted(type(one).__name__ for one in asyncio.run(main()))
        assert kinds == ["InstallationRuntime", "InstallationRuntime", "UpstreamBroken"]

    def test_after_a_failed_build_a_corrected_configuration_is_used(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                refusals.append(UpstreamBroken("not today"))
                with pytest.raises(UpstreamBroken, match="not today"):
                    await project.runtime("sample", "one")
                assert project.list_runtimes() == []
                await project.reconfigure("sample:one", config={"prefix": "corrected"})
                await project.runtime("sample", "one")

        asyncio.run(main())
        assert events == ["initialise one", "initialise corrected", "stop corrected"]

    def test_a_cancelled_call_does_not_cancel_the_others(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                first, second = (asyncio.create_task(project.runtime("sample", "one")) for _ in range(2))
                await asyncio.sleep(0)
                first.cancel()
                assert (await second).info.name == "one"
                assert first.cancelled()

        asyncio.run(main())
        assert events[-1] == "stop one"

    def test_the_configuration_is_read_and_the_data_synced(self, running: Project) -> None:
        async def main() -> list[str]:
            async with running as project:
                runtime = await project.runtime("sample", "two")
                await (await runtime.sync()).completion()
                things = await runtime.engine.query(Thing).all()
                assert data_file(project.manager, runtime.info).exists()
                return [thing.title for thing in things]

        assert asyncio.run(main()) == ["two 0", "two 1", "two 2"]

    def test_runtimes_are_listed_with_the_time_of_their_start(self, running: Project) -> None:
        async def main() -> None:
            before = time.time()
            async with running as project:
                await project.runtime("sample", "one")
                [(info, started_at)] = project.list_runtimes()
                assert str(info) == "sample:one"
                assert before <= started_at <= time.time()
            assert project.list_runtimes() == []

        asyncio.run(main())
        assert running.list_runtimes() == []

    def test_the_others_are_stopped_when_one_fails_to_stop(self, running: Project) -> None:
        async def main() -> None:
            await running.runtime("sample", "one")
            await running.runtime("sample", "stuck")
            with pytest.raises(UpstreamBroken, match="it cannot be stopped"):
                await running.stop_all()
            assert running.list_runtimes() == []
            await running.stop_all()

        asyncio.run(main())
        assert events[-2:] == ["stop stuck", "stop one"]

    def test_a_project_that_was_stopped_can_be_used_again(self, running: Project) -> None:
        async def main() -> None:
            first, same = await asyncio.gather(*(running.runtime("sample", "one") for _ in range(2)))
            await running.stop_all()
            assert await running.runtime("sample", "one") is not first is same
            await running.stop_all()

        asyncio.run(main())
        asyncio.run(main())
        assert events == ["initialise one", "stop one"] * 4

    def test_a_stopped_runtime_starts_again(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                runtime = await project.runtime("sample", "one")
                await runtime.stop()
                assert project.list_runtimes() == []
                assert await project.runtime("sample", "one") is runtime
                assert len(project.list_runtimes()) == 1

        asyncio.run(main())
        assert events == ["initialise one", "stop one"] * 2

    def test_no_thread_is_left_behind(self, running: Project) -> None:
        async def main() -> set[threading.Thread]:
            before = set(threading.enumerate())
            async with running as project:
                await project.runtime("sample", "one")
            return {one for one in threading.enumerate() if one.is_alive()} - before

        assert asyncio.run(main()) == set()

    def test_a_query_of_a_text_and_an_unknown_command_are_refused_at_the_call(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                runtime = await project.runtime("sample", "one")
                with pytest.raises(TypeError, match="takes an entity's class, not 'Thing'"):
                    runtime.engine.query("Thing")  # type: ignore[arg-type]  # what this is about
                with pytest.raises(UnknownName, match="unknown command 'paus'"):
                    await project.request(runtime.info, "paus")  # type: ignore[arg-type]  # so is this

        asyncio.run(main())

    def test_an_installation_in_use_is_not_disconnected(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                runtime = await project.runtime("sample", "one")
                with pytest.raises(ProjectError, match="sample:one is in use here"):
                    await project.disconnect(runtime.info)

            await running.disconnect("sample:one")
            assert [info.name for info in await running.installations()] == ["stuck", "two"]

        asyncio.run(main())

    def test_a_copy_with_the_same_id_is_refused(self, running: Project) -> None:
        one, two = running.manager.target("sample:one"), running.manager.target("sample:two")
        path = installation_file(running.manager, two)
        path.write_text(path.read_text().replace(two.id, one.id))

        async def main() -> None:
            async with running as project:
                await project.runtime("sample", "one")
                with pytest.raises(
                    ProjectError, match="sample:one and sample:two have the same id"
                ) as caught:
                    await project.runtime("sample", "two")
                assert str(path) in caught.value.hint

        asyncio.run(main())
        assert events == ["initialise one", "stop one"]

    def test_a_configuration_that_is_no_longer_valid_is_refused(self, running: Project) -> None:
        info = running.manager.target("sample:one")
        wrong = OnboardingResult({"things": "many", "colour": 1}, {})
        running.manager.reconfigure(info, lambda *now: wrong)
        with pytest.raises(InvalidAnswers, match="the configuration of sample:one is invalid"):
            asyncio.run(running.runtime("sample", "one"))
        assert running.list_runtimes() == []
