"""The health of an installation: from its database, as a command, as events."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from max import Project
from max.core import InstallationInfo
from max.errors import BadCredentials, StorageCorrupt
from max.model.health import Health
from max.model.schedules import Schedule
from max.model.tasks import Status
from max.query.health import health, note
from max.query.schedules import put
from max.serve.health_watch import HealthWatch
from max.storage.event_log import events_after
from max.storage.sqlite import SqliteDatabase
from tests.command_line import Cli
from tests.database_files import reader, writer
from tests.scenes import NAMES, USERS, Source, Stage, named, play, users
from tests.virtual_time import later, now

INFO = InstallationInfo("scene", "default", "0123456789abcdef", {}, 5.0)
DATA = Path(".max/installations/acme/default/data.db")


def changes(path: Path) -> list[tuple[str, str]]:
    """What the health was and became, as events say."""
    with reader(path) as connection:
        page = events_after(connection, kinds=["health.changed"])
    return [(str(one.facts["before"]), str(one.facts["health"])) for one in page.events]


def test_each_change_of_health_is_one_event_in_the_transaction_of_the_syncs_end(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    no = BadCredentials("the token has expired")
    source = Source(users=[users("a")], name=[named, no, no, named])

    async def body(stage: Stage) -> None:
        for _ in range(2):
            assert (await stage.sync(USERS)).status is Status.COMPLETED
        for error in ("who are you?", "who are you?"):
            await stage.store.record_failure("seeder", BadCredentials(error), now=now())
        failed = health(SqliteDatabase(path), INFO, now=now())
        assert (failed.health, failed.reason) == (Health.FAILED, "who are you?")
        await later(1.0)
        assert (await stage.sync(USERS, NAMES)).status is Status.COMPLETED

    play(source, body, path)
    assert changes(path) == [("healthy", "failed"), ("failed", "healthy")]
    found = health(SqliteDatabase(path), INFO, now=time.time())
    assert (found.health, found.reason, found.installation) == (Health.HEALTHY, "", "scene:default")


def test_an_installation_without_a_database_waits_for_its_first_sync(tmp_path: Path) -> None:
    found = health(SqliteDatabase(tmp_path / "data.db"), INFO, now=9.0)
    assert (found.health, found.reason, found.since) == (Health.WAITING, "it was never synced", 5.0)
    assert note(SqliteDatabase(tmp_path / "data.db"), INFO, now=9.0) is Health.WAITING
    assert not (tmp_path / "data.db").exists()


def test_a_schedule_that_is_not_kept_degrades_and_is_noted_once(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def body(stage: Stage) -> None:
        await stage.sync(USERS)

    play(Source(users=[users("a")]), body, path)
    with reader(path) as connection:
        ended = int(connection.execute("SELECT max(finished_at) FROM _max_sync").fetchone()[0])
    put(SqliteDatabase(path), INFO, Schedule(name="default", made_at=ended - 30, every=60.0), now=ended)
    assert health(SqliteDatabase(path), INFO, now=ended + 61).health is Health.HEALTHY  # one slot was missed
    late = health(SqliteDatabase(path), INFO, now=ended + 91)
    assert (late.health, late.reason) == (Health.DEGRADED, "the data is older than its schedule asks for")
    assert late.since == ended + 30
    for _ in range(2):
        assert note(SqliteDatabase(path), INFO, now=ended + 91) is Health.DEGRADED
    assert changes(path) == [("healthy", "degraded")]


def test_looking_at_the_health_writes_nothing(cli: Cli) -> None:
    cli("sync", "acme:default")
    before = DATA.read_bytes()
    assert cli("health").status == 0
    assert (
        note(SqliteDatabase(DATA), InstallationInfo("acme", "default", "x", {}, 0.0), now=time.time())
        is Health.HEALTHY
    )
    assert DATA.read_bytes() == before


def test_the_command_says_how_each_is_and_its_exit_status_is_the_worst(cli: Cli) -> None:
    cli("init")
    assert cli("health").status == 0
    cli("sync", "acme:default")
    cli("connect", "acme:new", "--set", "users=2")
    cli("connect", "acme:broken", "--set", "users=2")
    assert cli("health").status == 0
    Path(".max/installations/acme/broken/data.db").write_bytes(b"no database at all" * 100)
    run = cli("health", "-o", "json")
    assert {one["installation"]: one["health"] for one in run.data["data"]} == {
        "acme:broken": "failed",
        "acme:default": "healthy",
        "acme:new": "waiting",
    }
    assert (run.status, cli("health", "acme:default").status) == (1, 0)
    assert cli("health").out.splitlines()[0].startswith("acme:broken  failed: ")


@pytest.mark.parametrize("words", [["health"], ["health", "acme"]])
def test_a_file_that_is_no_database_has_failed(cli: Cli, words: list[str]) -> None:
    cli("sync", "acme:default")
    DATA.write_bytes(b"no database, but something else" * 100)
    run = cli(*words)
    assert (run.status, "acme:default  failed: " in run.out) == (1, True), run


def test_the_daemon_records_what_changes_by_time_alone_once(tmp_path: Path, cli: Cli) -> None:
    cli("sync", "acme:default")
    cli("schedule", "acme:default", "--every", "60s")
    moment = time.time()
    watch = HealthWatch(Project.find(tmp_path), clock=lambda: moment)
    watch.look()
    assert changes(DATA) == []
    moment += 1_000
    watch.look()
    watch.look()
    assert changes(DATA) == [("healthy", "degraded")]


def test_a_watch_ends_with_its_service_and_may_be_stopped_twice(tmp_path: Path, cli: Cli) -> None:
    cli("sync", "acme:default")

    async def work() -> set[str]:
        watch = HealthWatch(Project.find(tmp_path), look=0.001)
        await watch.start()
        await asyncio.sleep(0)
        await watch.stop()
        await watch.stop()
        return {task.get_name() for task in asyncio.all_tasks()}

    assert "health" not in asyncio.run(work())


def test_max_status_says_what_is_wrong_and_as_json_how_every_installation_is(cli: Cli) -> None:
    cli("sync", "acme:default")
    assert "health" not in cli("status").out
    assert cli("status", "-o", "json").data["data"][0]["health"]["health"] == "healthy"
    cli("schedule", "acme:default", "--every", "60s")
    with writer(DATA) as connection:
        connection.execute("UPDATE _max_sync SET finished_at = finished_at - 1000")
        connection.execute("UPDATE _max_schedule SET made_at = made_at - 900")
    assert "  health      degraded: the data is older than its schedule asks for" in cli("status").out


def test_a_table_that_goes_while_a_sync_runs_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def losing(*_: object) -> object:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DROP TABLE _max_listing_page")
        return users("a")

    async def body(stage: Stage) -> None:
        with pytest.raises(StorageCorrupt, match="_max_listing_page is not there any more"):
            await stage.sync(USERS)

    play(Source(users=[losing]), body, path)
    found = health(SqliteDatabase(path), INFO, now=time.time())
    assert (found.health, "_max_listing_page" in found.reason) == (Health.FAILED, True)
