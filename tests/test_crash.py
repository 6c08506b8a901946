"""A sync over HTTP is killed again and again, and loses nothing: into a file, and into Postgres.

``MAX_KILLS`` says how many kills there are in all (8 by default, 4 on Postgres).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from max.errors import StorageEmpty
from max.query.find import check_index
from max.storage.database import Connection, Database
from tests.command_line import data_of
from tests.contract.places import lasting_project

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
TABLES = ("acme_workspace", "acme_user", "acme_project", "acme_task")
SIZE = ["--workspaces", "2", "--users", "20", "--files", "0"]
PAGES = 10  # of the tasks of each project
PROJECTS = {100: 10, 20: 3}  # of each workspace, by the size of a page


def environment(**more: str) -> dict[str, str]:
    """That of the processes."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")]), **more}


class Acme:
    """The demo service as a process of its own, with what it counted."""

    def __init__(self, page: int) -> None:
        self.page = page  # records
        self.tasks = 2 * PROJECTS[page] * PAGES * page
        sizes = [*SIZE, "--projects", str(PROJECTS[page]), "--page-size", str(page)]
        sizes += ["--tasks", str(page * PAGES)]
        words = [sys.executable, "-m", "max_connectors.acme", "serve", "--port", "0", *sizes]
        self.process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        self.url, self.token = started["url"], started["token"]

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/api/stats") as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()


@pytest.fixture
def acme(request: pytest.FixtureRequest, either: None) -> Iterator[Acme]:
    service = Acme(page=20 if "postgres" in request.node.name else 100)
    yield service
    service.stop()


class Home:
    """A project that is connected to the service."""

    def __init__(self, folder: Path, acme: Acme) -> None:
        folder.mkdir()
        self.folder = folder
        self.leading = lasting_project(folder)
        self.leading.__enter__()
        self.environment = environment(ACME_TOKEN=acme.token)
        self.run("init")
        self.run("connect", "acme", "--set", f"base_url={acme.url}", "--credential", "token=env:ACME_TOKEN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leading.__exit__(None, None, None)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "max", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *words: str) -> None:
        process = self.begin(*words)
        output, errors = process.communicate()
        assert process.returncode == 0, output + errors

    @property
    def database(self) -> Database:
        """Its data."""
        return data_of(folder=self.folder)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a statement answers; nothing before there are tables."""

        def read(connection: Connection) -> list[tuple[Any, ...]]:
            return list(connection.execute(query).fetchall())

        return self.read(read) or []

    def read(self, work: Callable[[Connection], T]) -> T | None:
        """The result of work in one snapshot; None when a kill came before the tables were created."""
        try:
            with self.database.reader() as connection:
                return work(connection) if connection.dialect.columns(connection, "_max_sync") else None
        except StorageEmpty:
            return None

    def entities(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every entity row, without the load that brought it."""
        found = {}
        for table in TABLES:
            columns = self.read(partial(columns_of, table)) or set()
            kept = [f'"{c}"' for c in sorted(columns) if not c.startswith("_load") and c != "_row"]
            found[table] = sorted(self.rows(f"SELECT {', '.join(kept)} FROM {table}"), key=repr)
        links = """
            SELECT collection, parent, t._id FROM _max_membership JOIN _max_listing ON id = listing
              JOIN _acme_task t ON t._row = child WHERE collection = 'AcmeProject.tasks' ORDER BY 1, 2, 3
        """
        return {**found, "links": self.rows(links)}

    def completed(self) -> bool:
        """Whether a completed sync is stored."""
        return bool(self.rows("SELECT 1 FROM _max_sync WHERE state = 'completed'"))

    def finished_pages(self) -> dict[str, int]:
        """How many pages of each project's tasks are stored."""
        query = """
            SELECT parent, count(*) FROM _max_load p JOIN _max_listing l ON l.id = p.listing
             WHERE collection = 'AcmeProject.tasks' GROUP BY parent
        """
        return dict(self.rows(query))


def columns_of(table: str, connection: Connection) -> set[str]:
    return connection.dialect.columns(connection, table)


def task_pages(acme: Acme) -> dict[tuple[str, int], int]:
    """How often each page of each project's tasks was served, by project and page number."""
    served: dict[tuple[str, int], int] = {}
    for address, times in acme.stats()["pages"].items():
        parts = urlsplit(address)
        if parts.path.endswith("/tasks"):
            cursor = parse_qs(parts.query).get("cursor", [""])[0]
            padded = cursor + "=" * (-len(cursor) % 4)
            after = int(urlsafe_b64decode(padded).decode().partition(">")[2] or 0)
            served[parts.path.split("/")[3], after // acme.page] = times
    return served


def test_a_sync_killed_at_random_moments_ends_like_an_undisturbed_one(acme: Acme, tmp_path: Path) -> None:
    with Home(tmp_path / "undisturbed", acme) as undisturbed:
        undisturbed.run("sync", "acme")
        expected = undisturbed.entities()
    assert len(expected["acme_task"]) == acme.tasks
    most = int(os.environ.get("MAX_KILLS", "4" if acme.page < 100 else "8"))
    draw = random.Random(most)
    kills, number = 0, 0
    while kills < most:
        with Home(tmp_path / f"killed-{number}", acme) as home:
            kills += kill_until_done(home, acme, draw, most - kills)
            assert home.entities() == expected
            assert check_index(home.database) == [], "the index has the texts of these rows and no others"
        number += 1


def kill_until_done(home: Home, acme: Acme, draw: random.Random, most: int) -> int:
    """Sync, killing each run after some more pages, until one ends; how many were killed."""
    kills = 0
    while True:
        finished, before = home.finished_pages(), task_pages(acme)
        process = home.begin("sync", "acme")
        killed = kills < most and killed_after(process, acme, draw.randint(1, 40))
        _, errors = process.communicate()
        assert process.returncode == (-signal.SIGKILL if killed else 0), errors
        after = task_pages(acme)
        for (project, page), times in after.items():
            if page < finished.get(project, 0):
                assert times == before[project, page], (
                    f"page {page} of {project} was finished, and fetched again"
                )
        kills += killed
        if not killed or home.completed():  # a kill may come after the last commit
            return kills


def killed_after(process: subprocess.Popen[str], acme: Acme, more: int) -> bool:
    """Kill a process after some more requests; False when it ended before."""
    wanted = acme.stats()["requests"] + more
    while process.poll() is None:
        if acme.stats()["requests"] >= wanted:
            process.kill()
            process.wait()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.002)
    return False
