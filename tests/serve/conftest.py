"""A synced project, and servers in it that end with the test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serve.clients import Client, environment

Start = Callable[..., Client]


@pytest.fixture(scope="session")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose project has a synced ``acme:default``; copied by tests that change it."""
    folder = tmp_path_factory.mktemp("synced")
    words = [sys.executable, "-m", "max", "sync", "acme:default"]
    subprocess.run(words, cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


@pytest.fixture
def own(synced: Path, tmp_path: Path) -> Path:
    """A copy of the synced project that a test may change."""
    return Path(shutil.copytree(synced, tmp_path / "own"))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers; each is ended after the test."""
    started: list[Client] = []

    def start(folder: Path, *words: str) -> Client:
        started.append(Client(folder, *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.fixture
def client(start: Start, synced: Path) -> Client:
    """A server of the synced project."""
    return start(synced)
