"""Writes that need no sync: requests to a sync, marking data as stale, migrating."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme import AcmeUser

from max import Project, SyncOptions
from max.errors import NotFound, StorageError, SyncError, UsageError
from max.model.tasks import Status, SyncCommand
from tests.database_files import data_file

Test = Callable[[Project], Awaitable[object]]


def in_project(path: Path, test: Test, **config: float) -> None:
    """Run a test in a project with ``acme:default``, which was synced."""

    async def run() -> None:
        async with Project.open(path, create=True) as project:
            await project.connect("acme", config={"projects": 40, **config})
            runtime = await project.runtime("acme")
            await (await runtime.sync()).completion()
            await test(project)

    asyncio.run(run())


def test_a_paused_sync_can_be_cancelled_by_a_request(tmp_path: Path) -> None:
    async def test(project: Project) -> None:
        runtime = await project.runtime("acme")
        handle = await runtime.sync(SyncOptions(full=True))
        await project.request("acme", SyncCommand.PAUSE)
        assert (await handle.completion()).status is Status.PAUSED
        run = await project.request("acme", SyncCommand.CANCEL)
        assert (run.id, run.status) == (handle.id, Status.CANCELLED)

    in_project(tmp_path, test, latency_ms=20.0)  # so that the sync has not ended before the request is stored


def test_a_request_is_refused_when_no_sync_is_unfinished(tmp_path: Path) -> None:
    async def test(project: Project) -> None:
        with pytest.raises(SyncError, match="acme:default is unfinished; the last one is completed"):
            await project.request("acme", SyncCommand.PAUSE)

    in_project(tmp_path, test)


BEFORE = """
    DROP INDEX _max_load_received;
    ALTER TABLE _max_load DROP COLUMN received_at;
    ALTER TABLE _max_freshness DROP COLUMN received_at;
    ALTER TABLE _max_high_water DROP COLUMN marked_at;
    DELETE FROM _max_migration WHERE owner = 'engine' AND version >= 5
"""


def test_what_an_older_max_has_stored_is_invalidated_before_the_first_sync(tmp_path: Path) -> None:
    async def test(project: Project) -> None:
        with closing(
            sqlite3.connect(data_file(project.manager, project.manager.target("acme")))
        ) as connection:
            connection.executescript(BEFORE)
        (tasks,) = (await project.invalidate("acme", "AcmeTask", where="status = todo")).fields
        assert tasks.rows > 0

    in_project(tmp_path, test)


def test_invalidation_counts_rows_and_names_what_fetches_them_again(tmp_path: Path) -> None:
    async def test(project: Project) -> None:
        found = await project.invalidate("acme", AcmeUser.timezone, "AcmeTask.title", where=None)
        (users, tasks) = found.fields
        assert (users.entity.__name__, users.fields, users.rows) == ("AcmeUser", ("timezone",), 20)
        assert (tasks.fields, found.unfinished) == (("title",), None)
        assert found.loaders == {"user_details": ["AcmeUser.timezone"]}
        assert found.listings == {"AcmeProject.tasks": 80}
        with project.read("acme") as reader:
            (age,) = reader.freshness("AcmeUser.timezone")
            assert age.ages.never == 20

    in_project(tmp_path, test)


@pytest.mark.parametrize(
    ("what", "where", "error"),
    [
        (["AcmeUser:missing"], None, NotFound),
        (["AcmeUser.id"], None, UsageError),
        (["AcmeWorkspace.users"], None, UsageError),
        (["AcmeUser:w1-u1"], "active = true", UsageError),
        (["else/AcmeUser:w1-u1"], None, UsageError),
    ],
)
def test_an_invalidation_that_is_refused_changes_nothing(
    tmp_path: Path, what: list[Any], where: str | None, error: type[Exception]
) -> None:
    async def test(project: Project) -> None:
        with pytest.raises(error):
            await project.invalidate("acme", "AcmeTask", *what, where=where)
        with project.read("acme") as reader:
            assert all(one.ages.never == 0 for one in reader.freshness("AcmeTask"))

    in_project(tmp_path, test)


def test_migrating_an_up_to_date_installation_does_nothing(tmp_path: Path) -> None:
    async def test(project: Project) -> None:
        for dry_run in (True, False):
            plan = await project.migrate("acme", dry_run=dry_run)
            assert (plan.changes, plan.fresh, plan.compatible) == ((), False, True)

    in_project(tmp_path, test)


def test_before_the_first_sync_there_is_nothing_to_invalidate_or_to_migrate(tmp_path: Path) -> None:
    async def run() -> None:
        async with Project.open(tmp_path, create=True) as project:
            await project.connect("acme")
            assert (await project.migrate("acme")).fresh
            with pytest.raises(StorageError, match="has never been synced"):
                await project.invalidate("acme", "AcmeUser")

    asyncio.run(run())


def test_a_project_that_was_found_is_read_without_an_event_loop(tmp_path: Path) -> None:
    in_project(tmp_path, Project.installations)
    with Project.find(tmp_path).read("acme") as reader:
        assert reader.count("AcmeUser") == 20
        assert reader.run(reader.runs(1)[0].id).status is Status.COMPLETED
