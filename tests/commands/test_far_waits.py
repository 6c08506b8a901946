"""A service that asks to wait for ever: the real commands show it and end, and no wait is that long.

The bounds have tests of their own: what an answer asks for in tests/upstream/test_http.py, what an
error and a limit keep in tests/upstream/test_operations.py, what is stored in
tests/contract/test_task_store.py, what is shown in tests/commands/test_text.py.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

import pytest

from max.errors import LONGEST_WAIT
from tests.hostile import Hostile, Project, answer

FAR = ["1e15", "99999999999", "Fri, 31 Dec 9999 23:59:59 -1200"]


@pytest.fixture(scope="module")
def service() -> Iterator[Hostile]:
    with Hostile().serving() as one:
        yield one


@pytest.fixture(scope="module")
def project(service: Hostile, tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("far"))
    made.connect(service.url)
    return made


@contextmanager
def waiting_sync(service: Hostile, project: Project, asked: str) -> Iterator[tuple[Any, Any]]:
    """A sync in a process of its own that waits as it was asked to, and its event that says so."""
    service.says = lambda _: answer(b"{}", f"Retry-After: {asked}", status="429 Slower")
    with project.begin("sync", "gated", "--discard-unfinished", "-o", "ndjson") as process:
        try:
            assert process.stdout is not None
            yield (
                process,
                next(one for one in map(json.loads, process.stdout) if one["event"] == "sync.waiting"),
            )
        finally:
            process.kill()


@pytest.mark.parametrize("asked", FAR)
def test_status_and_ctrl_c_end_well_while_a_sync_waits_for_a_far_time(
    service: Hostile, project: Project, asked: str
) -> None:
    with waiting_sync(service, project, asked) as (process, event):
        shown = json.loads(project.max("status", "--json"))["data"][0]["waiting"]
        assert f"waiting     until {shown['until'][:4]}" in project.max("status")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    latest = time.time() + LONGEST_WAIT + 1
    for until in (event["until"], shown["until"]):
        assert latest - 86_400 < datetime.fromisoformat(until).timestamp() <= latest
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    assert json.loads(output.splitlines()[-1])["status"] == "paused"


def test_a_far_time_that_was_stored_is_shown_and_a_sync_waits_no_longer_than_others(
    service: Hostile, project: Project
) -> None:
    with waiting_sync(service, project, "60") as (process, _):
        process.send_signal(signal.SIGSTOP)
        for stored in (1e15, 9e999):
            with closing(sqlite3.connect(project.database, isolation_level=None)) as file:
                file.execute("UPDATE _max_task SET not_before = ? WHERE state = 'pending'", [stored])
            assert "waiting     until 9999-12-31 23:59" in project.max("status")
            assert "9999-12-31T23:59:59Z" in project.max("status", "--json")
        process.send_signal(signal.SIGCONT)
        until = next(one["until"] for one in map(json.loads, process.stdout) if "until" in one)
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert datetime.fromisoformat(until).timestamp() <= time.time() + LONGEST_WAIT + 1
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
