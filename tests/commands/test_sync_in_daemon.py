"""Syncs that a command asks of a running daemon, whose installations work in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from tests.daemons import ROOT, Home, homed
from tests.waiting import PATIENCE, wait_until

NUMBERS = count(1)
QUICK = "runner_seconds=4"  # a look at its process every second


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A project with the connector flaky."""
    with homed(tmp_path_factory.mktemp("d")) as home:
        (home.project / "connectors").mkdir()
        copy(ROOT / "tests" / "max_flaky.py", home.project / "connectors")
        home.max("init")
        yield home


@pytest.fixture
def home(shared: Home) -> Home:
    """The same with a daemon: the one before, if it lives."""
    shared.max("daemon", "start")
    return shared


class Source:
    """An installation of it, and the folder that is its service."""

    def __init__(self, home: Home) -> None:
        self.home, self.name = home, f"flaky:s{next(NUMBERS)}"
        self.place = self.new_place()
        home.max("connect", self.name, "--set", f"place={self.place}")

    def new_place(self) -> Path:
        """A folder that can be its service."""
        place = self.home.project / f"service{next(NUMBERS)}"
        place.mkdir()
        return place

    def file(self, name: str) -> Path:
        """The file with which a service is shown what to do."""
        return self.place / name

    def pages(self) -> list[str]:
        """The pages that it was asked for."""
        return lines(self.file("pages"))

    def worker(self) -> int:
        """The process that asked for the newest page: neither this one nor the daemon."""
        pid = int(lines(self.file("workers"))[-1])
        assert pid not in (os.getpid(), self.home.pid())
        return pid

    def sync(self, *words: str, status: int = 0) -> dict[str, Any]:
        """Sync it; the result."""
        found: dict[str, Any] = self.home.json("sync", self.name, *words, status=status)
        return found

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A sync in a process of its own, which the service holds at the second page."""
        self.file("hold").touch()
        process = self.home.begin("sync", self.name, *words)
        wait_until(lambda: self.pages() == ["0", "1"])
        return process

    def is_to_pause(self) -> bool:
        """Whether the pause was written down that its sync obeys at the next page."""
        path = (
            self.home.project / ".max" / "installations" / "flaky" / self.name.partition(":")[2] / "data.db"
        )
        with closing(sqlite3.connect(path)) as connection:
            found: tuple[str] = connection.execute("SELECT command FROM _max_sync").fetchone()
            return found == ("pause",)

    def runs(self) -> list[tuple[str, str]]:
        """Its syncs, newest first."""
        return [(one["id"], one["status"]) for one in self.home.json("runs", self.name)["data"]]


@pytest.fixture
def source(home: Home) -> Iterator[Source]:
    """A new installation; its service holds none of the syncs of later tests."""
    made = Source(home)
    yield made
    for name in ("hold", "wait"):
        made.file(name).unlink(missing_ok=True)


def lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def is_gone(home: Home, pid: int) -> bool:
    return pid not in home.processes()


# -- a sync ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_pauses_the_sync_and_the_next_one_goes_on(
    source: Source, number: signal.Signals
) -> None:
    process = source.begin("-o", "ndjson")
    assert process.stdout is not None
    assert process.stderr is not None
    assert "sync.started" in process.stdout.readline()  # the command knows by now which sync it began
    process.send_signal(number)
    assert process.stderr.readline().startswith("pausing after the requests under way")
    wait_until(source.is_to_pause)
    source.file("hold").unlink()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err
    assert json.loads(out.splitlines()[-1])["status"] == "paused"
    ((id, status),) = source.runs()
    assert status == "paused"
    result = source.sync()
    assert (result["id"], result["status"], result["counts"]) == (id, "completed", {"Thing": 3})
    assert source.pages() == ["0", "1", "2"]
    source.worker()


@pytest.mark.parametrize("begins", [True, False])
def test_a_signal_before_the_daemon_has_answered_pauses_the_sync_that_has_begun_and_begins_none_otherwise(
    home: Home, source: Source, begins: bool
) -> None:
    source.file("wait").touch()
    source.file("hold").touch()
    process = home.begin("sync", source.name, "--json")
    wait_until(source.file("seeding").exists)
    if begins:  # and the daemon, which has passed the question on, hears nothing of it for now
        os.kill(home.pid(), signal.SIGSTOP)
        try:
            source.file("wait").unlink()
            wait_until(lambda: source.pages() == ["0", "1"])
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert "the daemon does not answer yet" in process.stderr.readline()
        finally:
            os.kill(home.pid(), signal.SIGCONT)
        wait_until(source.is_to_pause)
        source.file("hold").unlink()
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    if begins:
        found = json.loads(out)
        assert source.runs() == [(found["id"], "paused")]
        assert source.pages() == ["0", "1"]
    else:
        assert "interrupted before the sync began" in out + err
        assert (source.runs(), source.pages()) == ([], [])


def test_what_failed_is_repeated_and_nothing_else(source: Source) -> None:
    source.file("fail").touch()
    first = source.sync(status=3)
    assert (first["status"], [one["code"] for one in first["failures"]]) == ("partial", ["connector.fault"])
    assert source.pages() == ["0", "1"]
    source.file("fail").unlink()
    second = source.sync("--retry-failed")
    assert (second["status"], second["failures"]) == ("completed", [])
    assert source.runs() == [(second["id"], "completed"), (first["id"], "partial")]
    assert source.pages() == ["0", "1", "1", "2"]
    source.worker()


def test_all_installations_are_synced_also_behind_one_that_fails(home: Home, source: Source) -> None:
    bad, last = Source(home), Source(home)
    bad.file("refuse").touch()
    rows = {one["installation"]: one for one in home.json("sync", "--all", status=1)["data"]}
    assert list(rows) == [one["installation"] for one in home.json("ls")["data"]]
    assert rows[bad.name]["error"]["message"].endswith("the token is invalid")
    for one in (source, last):
        assert rows[one.name]["status"] == "completed"
        assert one.worker() != os.getpid()
    bad.file("refuse").unlink()
    home.json("sync", "--all")
    assert bad.pages() == ["0", "1", "2"]


def test_events_are_the_same_lines_as_without_the_daemon(home: Home, source: Source) -> None:
    shown = []
    for words, one in ([], source), (["--direct"], Source(home)):
        *events, result = map(json.loads, home.max("sync", one.name, "-o", "ndjson", *words).splitlines())
        assert {event["installation"] for event in events} == {one.name}
        assert result["counts"] == {"Thing": 3}
        shown.append([(event["event"], event.get("state")) for event in events])
    assert shown[0] == shown[1]
    assert len(shown[0]) > 5


def test_a_daemon_that_is_killed_in_mid_sync_leaves_clear_words_and_the_next_sync_goes_on(
    home: Home, source: Source
) -> None:
    process = source.begin()
    worker = source.worker()
    os.kill(home.pid(), signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert "the daemon ended before its answer" in err
    assert f"what was stored is kept; go on with: max resume {source.name}" in err
    assert "Traceback" not in err
    wait_until(lambda: is_gone(home, worker))  # it sees that nothing asks it any more
    ((id, status),) = source.runs()
    assert status == "interrupted"
    source.file("hold").unlink()
    home.max("daemon", "start")
    result = source.sync()
    assert (result["id"], result["status"], result["counts"]) == (id, "completed", {"Thing": 3})
    assert source.pages() == ["0", "1", "1", "2"]  # the page that was under way is asked for again


# -- what changes under a warm process ---------------------------------------------------------------


def test_a_sync_after_an_update_uses_the_new_configuration_in_a_new_process(source: Source) -> None:
    source.sync()
    before = source.worker()
    place = source.new_place()
    source.home.max("connect", source.name, "--update", "--set", f"place={place}")
    source.sync("--full")
    assert source.pages() == ["0", "1", "2"]
    source.place = place
    assert source.pages() == ["0", "1", "2"]
    assert source.worker() != before
    wait_until(lambda: is_gone(source.home, before))


def test_a_sync_after_a_change_of_settings_follows_them_in_a_new_process(source: Source) -> None:
    source.sync()
    before = source.worker()
    source.home.max("settings", source.name, "history=changes")
    source.file("grow").touch()
    source.sync("--full")
    assert source.worker() != before
    wait_until(lambda: is_gone(source.home, before))
    changes = source.home.json("changes", source.name)["data"]
    assert sorted(one["id"] for one in changes) == ["0", "1", "2"]


def test_a_disconnected_installation_has_no_process_and_its_name_is_free_again(source: Source) -> None:
    source.home.max("settings", source.name, QUICK)
    source.sync()
    before = source.worker()
    source.home.max("disconnect", source.name, "--yes")
    wait_until(lambda: is_gone(source.home, before))
    source.home.max("sync", source.name, status=2)
    assert f"unknown installation '{source.name}'" in source.home.err
    source.place = source.new_place()
    source.home.max("connect", source.name, "--set", f"place={source.place}")
    assert source.sync()["counts"] == {"Thing": 3}
    assert len(source.runs()) == 1
    assert source.worker() != before
