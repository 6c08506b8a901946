"""A sync over HTTP is killed again and again, and loses nothing.

``MAX_KILLS`` says how many kills there are in all (8 by default).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from max.query.find import check_index
from max.storage.sqlite import SqliteDatabase

ROOT = Path(__file__).parent.parent
KILLS = int(os.environ.get("MAX_KILLS", "8"))
PAGE = 100  # records
TABLES = ("acme_workspace", "acme_user", "acme_project", "acme_task")
SIZE = ["--workspaces", "2", "--projects", "10", "--tasks", "1000", "--users", "20", "--files", "0"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}


class Acme:
    """The demo service as a process of its own, with what it counted."""

    def __init__(self) -> None:
        words = [
            sys.executable,
            "-m",
            "max_connectors.acme",
            "serve",
            "--port",
            "0",
            "--page-size",
            str(PAGE),
            *SIZE,
        ]
        self.process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
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
def acme() -> Iterator[Acme]:
    service = Acme()
    yield service
    service.stop()


class Home:
    """A project that is connected to the service."""

    def __init__(self, folder: Path, acme: Acme) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = folder / ".max" / "installations" / "acme" / "default" / "data.db"
        self.environment = {**ENVIRONMENT, "ACME_TOKEN": acme.token}
        self.run("init")
        self.run("connect", "acme", "--set", f"base_url={acme.url}", "--credential", "token=env:ACME_TOKEN")

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

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # killed before the tables were created
        finally:
            connection.close()

    def entities(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every entity row, without the load that brought it."""
        found = {}
        for table in TABLES:
            columns = [row[1] for row in self.rows(f"PRAGMA table_info({table})")]
            kept = [f'"{c}"' for c in columns if not c.startswith("_load") and c != "_row"]
            found[table] = self.rows(f"SELECT {', '.join(kept)} FROM {table} ORDER BY 1")
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


def task_pages(pages: dict[str, int]) -> dict[tuple[str, int], int]:
    """How often each page of each project's tasks was served, by project and page number."""
    served: dict[tuple[str, int], int] = {}
    for address, times in pages.items():
        parts = urlsplit(address)
        if parts.path.endswith("/tasks"):
            cursor = parse_qs(parts.query).get("cursor", [""])[0]
            padded = cursor + "=" * (-len(cursor) % 4)
            after = int(urlsafe_b64decode(padded).decode().partition(">")[2] or 0)
            served[parts.path.split("/")[3], after // PAGE] = times
    return served


def test_a_sync_killed_at_random_moments_ends_like_an_undisturbed_one(acme: Acme, tmp_path: Path) -> None:
    undisturbed = Home(tmp_path / "undisturbed", acme)
    undisturbed.run("sync", "acme")
    expected = undisturbed.entities()
    assert len(expected["acme_task"]) == 20_000
    draw = random.Random(KILLS)
    kills, number = 0, 0
    while kills < KILLS:
        home = Home(tmp_path / f"killed-{number}", acme)
        kills += kill_until_done(home, acme, draw, KILLS - kills)
        number += 1
        assert home.entities() == expected
        assert check_index(SqliteDatabase(home.path)) == [], (
            "the index has the texts of these rows and no others"
        )


def kill_until_done(home: Home, acme: Acme, draw: random.Random, most: int) -> int:
    """Sync, killing each run after some more pages, until one ends; how many were killed."""
    kills = 0
    while True:
        finished, before = home.finished_pages(), task_pages(acme.stats()["pages"])
        process = home.begin("sync", "acme")
        killed = kills < most and killed_after(process, acme, draw.randint(1, 40))
        _, errors = process.communicate()
        assert process.returncode == (-signal.SIGKILL if killed else 0), errors
        after = task_pages(acme.stats()["pages"])
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
