"""Projects: what is checked when an installation is connected, and its warm runtimes."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from max.errors import InvalidAnswers, ProjectError, UpstreamBroken
from max.installations.project_folder import ProjectFolder
from max.project import Project
from tests.sample import Thing, events, refusals, source

NOW = 1_700_000_000.25


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(ProjectFolder.init(tmp_path))


# -- runtimes ------------------------------------------------------------------------------------


@pytest.fixture
def running(project: Project) -> Iterator[Project]:
    """A project with a connector of its own, and installations one, two and stuck."""
    folder = project.folder.root / "connectors"
    folder.mkdir()
    (folder / "max_sample.py").write_text(source("sample"))
    for name in ("one", "two", "stuck"):
        project.folder.add("sample", name, {"things": 3, "prefix": name}, {}, now=NOW)
    events.clear()
    yield project
    sys.modules.pop("max_sample", None)


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

    def test_however_many_ask_at_once_one_is_built(self, running: Project) -> None:
        async def main() -> int:
            async with running as project:
                return len(set(await asyncio.gather(*(project.runtime("sample", "one") for _ in range(20)))))

        assert asyncio.run(main()) == 1
        assert events == ["initialise one", "stop one"]

    def test_a_build_that_fails_is_tried_anew_by_the_next(self, running: Project) -> None:
        async def main() -> list[object]:
            async with running as project:
                refusals.append(UpstreamBroken("not today"))
                asked = (project.runtime("sample", "one") for _ in range(3))
                return [type(one).__name__ for one in await asyncio.gather(*asked, return_exceptions=True)]

        assert asyncio.run(main()) == ["UpstreamBroken", "InstallationRuntime", "InstallationRuntime"]

    def test_a_build_that_fails_is_forgotten_with_its_configuration(self, running: Project) -> None:
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

    def test_one_that_gives_up_waiting_does_not_spoil_it_for_the_others(self, running: Project) -> None:
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
                assert project.folder.database(runtime.info).exists()
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

    def test_one_that_fails_to_stop_does_not_keep_the_others(self, running: Project) -> None:
        async def main() -> None:
            await running.runtime("sample", "one")
            await running.runtime("sample", "stuck")
            with pytest.raises(UpstreamBroken, match="does not let go"):
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

    def test_a_runtime_that_its_user_stopped_starts_again(self, running: Project) -> None:
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

    def test_an_installation_in_use_is_not_disconnected(self, running: Project) -> None:
        async def main() -> None:
            async with running as project:
                runtime = await project.runtime("sample", "one")
                with pytest.raises(ProjectError, match="sample:one is in use here"):
                    await project.disconnect(runtime.info)

            await running.disconnect("sample:one")
            assert [info.name for info in await running.installations()] == ["stuck", "two"]

        asyncio.run(main())

    def test_a_copy_with_the_same_id_is_not_taken_for_the_original(self, running: Project) -> None:
        one, two = running.folder.target("sample:one"), running.folder.target("sample:two")
        path = running.folder.file(two)
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

    def test_a_configuration_that_does_not_fit_any_more_is_listed(self, running: Project) -> None:
        info = running.folder.target("sample:one")
        running.folder.reconfigure(info, {"things": "many", "colour": 1}, {})
        with pytest.raises(InvalidAnswers, match="the configuration of sample:one does not fit"):
            asyncio.run(running.runtime("sample", "one"))
        assert running.list_runtimes() == []
