"""The daemon as a service in an event loop; tests/serve/test_daemon_process.py has it as a process."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import rmtree

import pytest

from max import MethodCall, __version__
from max.core import in_thread
from max.daemon import Daemon, DaemonOptions
from max.errors import DaemonRunning, UsageError
from max.projects.folder import ProjectFolder
from max.serve.client import Client
from max.serve.daemon_folder import DaemonFolder
from max.serve.daemon_lock import amend


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProjectFolder]:
    """A project, in a home of its own, which is short: paths of sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="max-") as home:
        monkeypatch.setenv("MAX_HOME", home)
        yield ProjectFolder.init(tmp_path / "project")


def test_a_daemon_answers_at_its_socket_until_it_is_stopped(project: ProjectFolder) -> None:
    async def scenario() -> None:
        daemon = Daemon(project)
        for _ in range(2):
            await daemon.start()
            reader, writer = await asyncio.open_unix_connection(daemon.lock.socket)
            assert json.loads(await reader.readline()) == {"max": __version__, "protocol": 1}
            writer.close()
            await daemon.stop()
            assert not daemon.lock.folder.is_running()
            assert not daemon.lock.folder.has_socket()

    asyncio.run(scenario())


def test_a_second_daemon_of_the_project_is_refused_and_changes_nothing(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("max.serve.daemon_lock.PATIENCE", 0.05)

    async def scenario() -> None:
        first, second = Daemon(project), Daemon(project)
        await first.start()
        with pytest.raises(DaemonRunning):
            await second.start()
        await second.stop()
        assert first.lock.folder.has_socket()
        await first.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lost", ["daemon.pid", "project.json", "daemon.sock", "the folder", "the short folder"]
)
def test_whatever_leads_to_a_daemon_is_made_again(
    project: ProjectFolder, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lost == "the short folder":  # in which the socket is, where its path would be too long
        monkeypatch.setenv("MAX_HOME", str(tmp_path / ("long" * 30)))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))

    def lose(folder: DaemonFolder) -> None:
        if lost == "the folder":
            rmtree(folder.path)
        elif lost == "the short folder":
            rmtree(Path(folder.socket).parent)
        else:
            Path(folder.file(lost)).unlink()

    async def scenario() -> None:
        daemon = Daemon(project)
        await daemon.start()
        async with Client.at(daemon.lock.socket) as before:
            await in_thread(lambda: lose(daemon.folder))
            assert await daemon.look() == ""
            found = DaemonFolder(project.root)
            assert (found.is_running(), found.pid(), found.has_socket()) == (True, os.getpid(), True)
            assert found.description()["root"] == str(project.root)
            async with Client.at(found.socket) as after:
                assert await after.installations() == await before.installations() == []
        await daemon.stop()

    asyncio.run(scenario())


def test_a_daemon_without_its_project_has_a_reason_to_end(project: ProjectFolder) -> None:
    async def scenario() -> str:
        daemon = Daemon(project)
        await daemon.start()
        assert await daemon.look() == ""
        await in_thread(lambda: rmtree(project.root))
        reason = await daemon.look()
        await daemon.stop()
        return reason

    assert asyncio.run(scenario()) == f"the project {project.root} is gone"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"idle_stop": 5, "http": "127.0.0.1:1", "isolate": False}, DaemonOptions(5.0, "127.0.0.1:1", False)),
        ({"idle_stop": "soon", "http": 7, "isolate": "no", "later": 1}, DaemonOptions()),
        (None, DaemonOptions()),
        ([], DaemonOptions()),
    ],
)
def test_options_are_read_back_and_what_is_unknown_has_its_default(
    data: object, expected: DaemonOptions
) -> None:
    assert DaemonOptions.from_json(data) == expected
    assert DaemonOptions.from_json(expected.to_json()) == expected


def test_middlewares_are_around_each_call_that_comes_to_a_daemon(project: ProjectFolder) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def refusing(call: MethodCall) -> AsyncIterator[None]:
        seen.append(call.method)
        if call.method == "audit":
            raise UsageError("not today")
        yield

    async def scenario() -> None:
        daemon = Daemon(project, middlewares=[refusing])
        await daemon.start()
        try:
            async with Client.at(daemon.lock.socket) as client:
                assert await client.installations() == []
                with pytest.raises(UsageError, match="not today"):
                    await client.audit()
        finally:
            await daemon.stop()

    asyncio.run(scenario())
    assert seen == ["installations", "audit"]


@pytest.mark.parametrize("restarted", [True, False])
def test_only_a_restart_goes_on_with_what_was_under_way(project: ProjectFolder, restarted: bool) -> None:
    project.add("acme", None, {}, {}, now=0.0)

    async def scenario() -> None:
        await in_thread(lambda: amend(DaemonFolder(project.root), syncing=["acme:default"], resume=restarted))
        daemon = Daemon(project, DaemonOptions(isolate=False))
        await daemon.start()
        resuming = [one for one in asyncio.all_tasks() if one.get_name() == "resume acme:default"]
        await asyncio.gather(*resuming)
        assert len(resuming) == len(daemon.project.list_runtimes()) == restarted
        await daemon.stop()
        assert daemon.folder.description().get("resume") is None

    asyncio.run(scenario())
