"""What goes wrong with a Postgres in the middle of a sync: each error is its own, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import pytest

from max.errors import (
    StorageBusy,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageLocked,
    StorageMissing,
    StorageReadOnly,
    StorageTimeout,
    StorageUnreachable,
)
from max.installations.encryption import keys_from, new_key
from max.model.tasks import Status
from max.project import Project
from max.projects.database import ProjectDatabase
from max.storage import postgres
from max.storage.postgres import PostgresDatabase
from tests.postgres_server import START, Server, binaries, server, unprivileged

if TYPE_CHECKING:
    import psycopg

pytestmark = pytest.mark.postgres
TABLES = ("acme_workspace", "acme_user", "acme_project", "acme_task")
SMALL = {"workspaces": 1, "users": 3, "projects": 2, "tasks": 20, "files": 1}
EVERY = 15  # rows of tasks, of which a page has 20


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that these tests may end and set up as they like, with a project that was synced."""
    with server() as one:
        asyncio.run(synced(one.url, "whole"))
        asyncio.run(synced(one.url, "small", **SMALL))
        yield one


@pytest.fixture
def name(own: Server) -> Iterator[str]:
    """The name of an installation of the test's own, which is gone afterwards."""
    yield "fault"
    if own.process is None:
        own.start()
    for schema in ("max_acme_fault",):
        PostgresDatabase(own.url, schema).delete()
    with PostgresDatabase(own.url, "max").writer() as connection:
        connection.execute("DELETE FROM installation WHERE name = 'fault'")


async def synced(url: str, name: str, **size: Any) -> Status:
    """The end of a sync."""
    async with Project.open(url, create=True) as project:
        runtime = await project.ensure("acme", name, **size)
        return (await (await runtime.sync()).completion()).status


def stored(own: Server, name: str) -> list[list[object]]:
    """All that the views of an installation show."""
    with PostgresDatabase(own.url, f"max_acme_{name}").reader() as connection:
        return [connection.execute(f"SELECT * FROM {one} ORDER BY id").fetchall() for one in TABLES]


def ask(own: Server, sql: str) -> None:
    """Have the server do something, outside of every installation."""
    with PostgresDatabase(own.url, "max").writer() as connection:
        connection.execute(sql)


def ask_outside(own: Server, sql: str) -> None:
    """Have the server do what it does outside of transactions alone."""
    raw = connected(own)
    raw.execute(sql)
    raw.close()


def fails(own: Server, name: str, *faults: str) -> None:
    """Have the server fail in each of these ways, one after the other, as it stores tasks, in mid-page."""
    listed = ", ".join(f"'{one}'" for one in faults)
    with PostgresDatabase(own.url, f"max_acme_{name}").writer() as connection:
        connection.execute("CREATE SEQUENCE seen; CREATE SEQUENCE failed")  # which no rollback undoes
        connection.execute(
            f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $max$"
            f" DECLARE faults text[] := ARRAY[{listed}]; fault text; BEGIN"
            f" IF nextval('seen') % {EVERY} = 0 THEN fault := faults[nextval('failed')]; END IF;"
            f" IF fault = 'lost' THEN PERFORM pg_terminate_backend(pg_backend_pid());"
            f" ELSIF fault <> '' THEN RAISE EXCEPTION USING ERRCODE = fault; END IF;"
            f" RETURN NEW; END $max$"
        )
        connection.execute(
            "CREATE TRIGGER fault BEFORE INSERT ON _acme_task FOR EACH ROW EXECUTE FUNCTION fault()"
        )


def failed(own: Server, name: str) -> int:
    """How often the server has failed so."""
    with PostgresDatabase(own.url, f"max_acme_{name}").reader() as connection:
        return int(connection.execute("SELECT last_value FROM failed").fetchone()[0])


async def made(url: str, name: str, **size: Any) -> None:
    """Make an installation with its tables, and no rows."""
    async with Project.open(url, create=True) as project:
        await project.ensure("acme", name, **size)


PASSING = ("lost", "40001", "40P01")  # a serialisation failure, a deadlock
ENDING: dict[str, tuple[type[StorageError], str]] = {
    "53100": (StorageFull, "free some space"),
    "53400": (StorageError, "what was stored before is safe"),
    "55P03": (StorageLocked, "another process writes"),
    "57014": (StorageTimeout, "statement_timeout"),
    "25006": (StorageReadOnly, "connect to the primary"),
    "42501": (StorageDenied, "grant this role"),
}


def test_a_sync_goes_on_by_itself_after_a_lost_connection_a_conflict_and_a_deadlock(
    own: Server, name: str
) -> None:
    asyncio.run(made(own.url, name, **SMALL))
    fails(own, name, *PASSING)
    assert asyncio.run(synced(own.url, name, **SMALL)) is Status.COMPLETED
    assert failed(own, name) >= len(PASSING)
    assert stored(own, name) == stored(own, "small")


def test_a_sync_ends_with_an_error_of_its_own_after_any_other_fault_and_the_next_one_goes_on(
    own: Server, name: str
) -> None:
    asyncio.run(made(own.url, name, **SMALL))
    fails(own, name, *ENDING)
    for number, (kind, hint) in enumerate(ENDING.values(), 1):
        with pytest.raises(StorageError) as raised:
            asyncio.run(synced(own.url, name, **SMALL))
        assert (type(raised.value), failed(own, name)) == (kind, number)
        assert hint in raised.value.hint
    assert len(stored(own, name)[1]) == 3, "the users, which were stored before, are there"
    assert asyncio.run(synced(own.url, name, **SMALL)) is Status.COMPLETED
    assert stored(own, name) == stored(own, "small")


def test_a_sync_goes_on_by_itself_after_the_server_was_started_again(own: Server, name: str) -> None:
    async def main() -> None:
        async with Project.open(own.url, create=True) as project:
            runtime = await project.ensure("acme", name)
            handle = await runtime.sync()
            restarts = 0
            async for progress in handle.progress():
                if restarts < 2 and progress.counts.get("AcmeTask", 0) > restarts * 100:
                    restarts += 1
                    await asyncio.to_thread(own.stop)
                    await asyncio.to_thread(own.start)
            assert restarts == 2
            assert (await handle.completion()).status is Status.COMPLETED

    asyncio.run(main())
    assert stored(own, name) == stored(own, "whole")


@pytest.mark.parametrize("use", ["read", "change", "renew"])
def test_secrets_can_be_used_after_the_server_was_started_again(
    own: Server, name: str, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", new_key())
    project = ProjectDatabase.open(own.url, create=True, keys=lambda: keys_from("env:TEST_KEY"))
    secrets = project.credentials(project.add("acme", name, {}, {"token": "old"}, now=time.time()))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            own.start()

    async def renew() -> None:
        async with secrets.renewal_lock():
            await secrets.set("token", "new")

    uses = {
        "read": lambda: secrets.get("token"),
        "change": lambda: secrets.set("token", "new"),
        "renew": renew,
    }
    monkeypatch.setattr(postgres, "sleep", wait)
    own.stop()
    asyncio.run(uses[use]())
    assert (len(waits), secrets.read()["token"]) == (3, "old" if use == "read" else "new")
    project.close()


def test_a_sync_whose_server_stays_away_says_so_and_the_next_one_goes_on(
    own: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "WAITS", (0.01, 0.01))

    async def main() -> int:
        async with Project.open(own.url, create=True) as project:
            handle = await (await project.ensure("acme", name)).sync()
            async for progress in handle.progress():
                if progress.counts:
                    await asyncio.to_thread(own.stop)
                    break
            with pytest.raises(StorageUnreachable, match="postgresql://postgres@/postgres") as raised:
                await handle.completion()
            assert "start it again when the server answers" in raised.value.hint
            own.start()
            resumed = await (await project.runtime("acme", name)).sync()
            result = await resumed.completion()
            assert result.status is Status.COMPLETED
            return int(resumed.id == handle.id)

    assert asyncio.run(main()) == 1, "it is the same sync, at the page where it was"
    assert stored(own, name) == stored(own, "whole")


def test_a_database_that_may_only_be_read_says_so_when_it_is_written(own: Server) -> None:
    before = stored(own, "small")
    only = f"{own.url}&options=-cdefault_transaction_read_only%3Don"
    with pytest.raises(StorageReadOnly, match="read-only transaction"):
        asyncio.run(synced(only, "small", **SMALL))
    assert stored(own, "small") == before


@contextmanager
def standby_of(own: Server, folder: Path) -> Iterator[Server]:
    """A replica that follows the server."""
    place = binaries()
    assert place is not None
    folder.mkdir()
    one = Server(folder)
    command = [*unprivileged(folder), str(place / "pg_basebackup"), "-R", "--no-sync", "-c", "fast"]
    subprocess.run([*command, "-D", str(one.data), "-d", own.url], check=True, capture_output=True)
    try:
        one.start(hot_standby="on")
        yield one
    finally:
        one.stop()


def test_a_replica_is_read_and_says_so_when_it_is_written(own: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with standby_of(own, Path(own.folder) / "standby") as replica:
        assert stored(replica, "whole") == stored(own, "whole")
        with pytest.raises(StorageReadOnly, match="during recovery") as raised:
            asyncio.run(synced(replica.url, "whole"))
        assert "connect to the primary" in raised.value.hint

        async def asked() -> object:
            async with Project.open(replica.url) as project:
                await project.health()
                with project.read("acme:whole") as reader:
                    found = reader.find("a", limit=1), reader.freshness(), reader.runs()
                    assert all(found)
                sql = await project.sql("SELECT count(*) FROM acme_task", of=["acme:whole"])
                return sql.rows

        assert asyncio.run(asked()) == [(200,)]


def test_a_database_that_is_dropped_in_mid_sync_says_so(own: Server) -> None:
    ask_outside(own, "CREATE DATABASE passing")
    url = own.url.replace("/postgres?", "/passing?")

    async def main() -> None:
        async with Project.open(url, create=True) as project:
            handle = await (await project.ensure("acme")).sync()
            async for progress in handle.progress():
                if progress.counts.get("AcmeTask", 0):
                    await asyncio.to_thread(ask_outside, own, "DROP DATABASE passing WITH (FORCE)")
                    break
            with pytest.raises(StorageMissing, match="does not exist") as raised:
                await handle.completion()
            assert "create the database" in raised.value.hint

    asyncio.run(main())


def test_a_server_without_a_free_connection_is_waited_for(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.stop(signal.SIGINT)
    own.start(max_connections="4", superuser_reserved_connections="0")
    waits: list[float] = []
    pool = postgres.pool_of(own.url)
    database = PostgresDatabase(own.url, "max", pool=pool)
    with ExitStack() as others:

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                others.close()
            sleep(seconds)

        async def main() -> None:
            await database.start()
            pool.close()
            for _ in range(4):
                others.callback(connected(own).close)
            monkeypatch.setattr(postgres, "sleep", wait)
            assert await database.transact(lambda connection: connection.execute("SELECT 7").fetchone()) == (
                7,
            )
            await database.stop()

        asyncio.run(main())
    pool.close()
    assert len(waits) >= 3
    own.stop(signal.SIGINT)
    own.start()


def connected(own: Server) -> psycopg.Connection[Any]:
    """One of the server's connections, as soon as it gives one."""
    until = time.monotonic() + START
    while True:
        try:
            return postgres.connect(own.url, "the server")
        except StorageBusy:
            assert time.monotonic() < until


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_ends_the_sync_and_the_next_one_goes_on_when_there_is_space(
    own: Server, name: str
) -> None:
    disk = own.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        shutil.chown(disk, "postgres", "postgres")
        asyncio.run(made(own.url, name, **SMALL))
        ask_outside(own, f"CREATE TABLESPACE small LOCATION '{disk}'")
        ask(own, "ALTER TABLE max_acme_fault._acme_task SET TABLESPACE small")
        with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 8192)
        with pytest.raises(StorageFull, match="No space left") as raised:
            asyncio.run(synced(own.url, name, **SMALL))
        assert "free some space" in raised.value.hint
        (disk / "ballast").unlink()
        assert asyncio.run(synced(own.url, name, **SMALL)) is Status.COMPLETED
        assert stored(own, name) == stored(own, "small")
    finally:
        PostgresDatabase(own.url, "max_acme_fault").delete()
        ask_outside(own, "DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", str(disk)], check=True)
