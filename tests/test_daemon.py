"""The daemon as a service in an event loop; tests/serve/test_daemon_process.py has it as a process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from max import __version__
from max.daemon import Daemon
from max.errors import DaemonRunning
from max.installations.project_folder import ProjectFolder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectFolder:
    """A project, in a home of its own."""
    monkeypatch.setenv("MAX_HOME", str(tmp_path / "h"))
    return ProjectFolder.init(tmp_path / "project")


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
