"""Schedules and a real daemon: it follows them, is killed in the middle, and goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from tests.daemons import ROOT, Home, homed
from tests.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A project with an installation whose service is a folder, and a daemon."""
    with homed(tmp_path) as made:
        (made.project / "connectors").mkdir()
        copy(ROOT / "tests" / "max_flaky.py", made.project / "connectors")
        (made.project / "service").mkdir()
        made.max("init")
        made.max("connect", "flaky", "--set", f"place={made.project / 'service'}")
        made.max("daemon", "start")
        yield made


def runs(home: Home) -> list[dict[str, Any]]:
    """The syncs, oldest first."""
    found: list[dict[str, Any]] = home.json("runs")["data"]
    return found[::-1]


def ended(home: Home) -> list[tuple[str, str]]:
    return [(run["status"], run["schedule"]) for run in runs(home)]


def pages(home: Home) -> list[str]:
    file = home.project / "service" / "pages"
    return file.read_text().split() if file.exists() else []


def test_a_daemon_follows_a_schedule_that_a_command_makes(home: Home) -> None:
    home.max("schedule", "flaky", "--every", "15m", "--jitter", "0")
    wait_until(lambda: ended(home) == [("completed", "default")])
    assert home.err == ""  # a daemon runs
    status = home.json("status")["data"][0]["schedules"][0]
    assert (status["state"], status["lastSkipped"]) == ("later", None)


def test_a_daemon_that_was_killed_in_the_middle_of_a_scheduled_sync_goes_on_with_it(home: Home) -> None:
    (home.project / "service" / "hold").touch()
    home.max("schedule", "flaky", "--every", "15m", "--jitter", "0")
    wait_until(lambda: "1" in pages(home))
    pid = home.pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in home.processes())
    wait_until(lambda: ended(home) == [("interrupted", "default")])
    (home.project / "service" / "hold").unlink()
    home.max("daemon", "start")
    wait_until(lambda: ended(home) == [("completed", "default")])
    assert pages(home).count("0") == 1  # what was stored is not fetched again


def test_a_restart_pauses_a_scheduled_sync_and_goes_on_with_it(home: Home) -> None:
    (home.project / "service" / "hold").touch()
    home.max("schedule", "flaky", "--every", "15m", "--jitter", "0")
    wait_until(lambda: "1" in pages(home))
    stopping = home.begin("daemon", "stop")
    wait_until(home.is_asked_to_pause)
    (home.project / "service" / "hold").unlink()
    stopping.communicate()
    assert ended(home) in ([("paused", "default")], [("interrupted", "default")])
    home.max("daemon", "start")
    wait_until(lambda: ended(home) == [("completed", "default")])
    assert pages(home).count("0") == 1


def test_a_command_goes_before_the_daemons_scheduled_sync(home: Home) -> None:
    (home.project / "service" / "hold").touch()
    home.max("schedule", "flaky", "--every", "15m", "--jitter", "0")
    wait_until(lambda: "1" in pages(home))
    process = home.begin("sync", "flaky", "--full")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("waiting for the scheduled sync ")
    wait_until(lambda: ("cancelled", "default") in ended(home))
    (home.project / "service" / "hold").unlink()
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert ended(home) == [("cancelled", "default"), ("completed", None)]
