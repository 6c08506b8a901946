"""Fleets for tests: services of acme, their installations in a project in Postgres, and real workers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from max_connectors.acme_service import KINDS, Server, Service, Settings

from max.installations.encryption import new_key
from max.projects.database import ProjectDatabase
from max.storage.postgres import PostgresDatabase
from tests.postgres_server import Server as PostgresServer

ROOT = Path(__file__).parent.parent
Worker: TypeAlias = "subprocess.Popen[str]"
TABLES = {"workspace": "name", "user": "name", "project": "name", "task": "title", "file": "name"}
LOG = """
    CREATE TABLE lease_log (
        number bigint GENERATED ALWAYS AS IDENTITY, installation text, attempt bigint, before text,
        due double precision, owner text, at double precision
    );
    CREATE FUNCTION log_lease() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO SCHEMA.lease_log (installation, attempt, before, due, owner, at)
        VALUES (NEW.installation, NEW.attempt, OLD.owner, OLD.due, NEW.owner,
                extract(epoch FROM clock_timestamp()));
        RETURN NEW;
    END $$;
    CREATE TRIGGER log_lease AFTER UPDATE ON work FOR EACH ROW
      WHEN (NEW.attempt <> OLD.attempt) EXECUTE FUNCTION log_lease()
"""  # each lease that was given: to whom, and until when the one before had it


class Sources:
    """Services of acme over HTTP, one for each name, in a thread of their own."""

    def __init__(self, names: Sequence[str], host: str = "127.0.0.1", **settings: Any) -> None:
        self.services = {
            name: Service(Settings(seed=number, **settings)) for number, name in enumerate(names)
        }
        self.urls: dict[str, str] = {}
        self._host, self._loop = host, asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        async def start() -> list[Server]:
            return [await Server(one, "t").start(self._host) for one in self.services.values()]

        self._thread.start()
        self._servers = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        self.urls = {name: one.url for name, one in zip(self.services, self._servers, strict=True)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def stop() -> None:
            for one in self._servers:
                await one.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def served(self, name: str) -> int:
        """How many pages a service has sent."""
        return self.services[name].pages.total()

    def again(self, name: str) -> int:
        """How many of them were sent before."""
        return sum(times - 1 for times in self.services[name].pages.values())

    def rows(self, name: str) -> dict[str, dict[str, str]]:
        """What a service has: of each kind the names, by id."""
        tenant = self.services[name].tenant
        found: dict[str, dict[str, str]] = {}
        for kind, column in TABLES.items():
            parents = found[KINDS[kind].parent] if KINDS[kind].parent else [""]
            listed = [one for parent in parents for one in tenant.page(KINDS[kind], parent, 0, 10**6)[0]]
            found[kind] = {one["id"]: one[column] for one in listed}
        return found


class Fleet:
    """A project in Postgres with an installation for each service, and its workers."""

    def __init__(self, url: str, folder: Path, sources: Mapping[str, str]) -> None:
        self.url, self.folder = url, folder
        (folder / "keys").write_text(new_key())
        (folder / "keys").chmod(0o600)
        self.environment = {
            **os.environ,
            "MAX_HOME": str(folder / "home"),
            "MAX_KEY": f"file:{folder / 'keys'}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")]),
        }
        self.environment.pop("MAX_DATABASE", None)
        self.workers: list[Worker] = []
        self.server, _, schema = url.partition("#")
        self.schema = schema or "max"
        self.project = ProjectDatabase.open(url, create=True, keys=self.keys)
        for name, address in sources.items():
            config = {"base_url": address}
            self.project.add("acme", name, config, {"token": "t"}, now=time.time(), destination=address)
        self.ids = {one.name: one.id for one in self.project.installations()}
        self.table = self.project.work_table()
        with PostgresDatabase(self.server, self.schema).writer() as connection:
            connection.raw.execute(LOG.replace("SCHEMA", self.schema))

    def keys(self) -> Any:
        """The keys of the project."""
        from max.installations.encryption import keys_from

        return keys_from(f"file:{self.folder / 'keys'}")

    # -- workers and commands

    def work(self, *words: str, before: Sequence[str] = ()) -> Worker:
        """Start a worker; ``before`` are words in front of its command, such as those of a namespace."""
        command = [*before, *self.command("worker", "--database", self.url, *words)]
        number = len(self.workers)
        with (self.folder / f"worker-{number}").open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, text=True
            )
        self.workers.append(process)
        return process

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "max", *words]

    def max(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of another host to its end."""
        environment = {**self.environment, "MAX_DATABASE": self.url}
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def said(self, number: int) -> str:
        """What a worker has printed."""
        return (self.folder / f"worker-{number}").read_text()

    def end(self) -> None:
        """End every worker, whatever it does."""
        for one in self.workers:
            if one.poll() is None:
                one.send_signal(signal.SIGCONT)
                one.kill()
            one.wait()

    # -- what is there

    def owner(self, name: str) -> Worker | None:
        """The worker that has the lease of an installation."""
        owner = self.table.leased_by(self.ids[name])
        pid = owner.split("/")[-3] if owner else ""
        return next((one for one in self.workers if str(one.pid) == pid), None)

    def owned(self, worker: Worker) -> list[str]:
        """The installations whose leases a worker has."""
        return [name for name in self.ids if self.owner(name) is worker]

    def completed(self) -> set[str]:
        """The installations whose newest sync is completed."""
        return {name for name in self.ids if self.status(name) == "completed"}

    def expire(self, name: str) -> None:
        """Let the time of a lease be over."""
        with PostgresDatabase(self.server, self.schema).writer() as connection:
            connection.execute("UPDATE work SET due = 0 WHERE installation = ?", (self.ids[name],))

    def rows(self, name: str, sql: str, schema: str = "") -> list[Any]:
        """What a statement answers in the schema of an installation, or in another one."""
        info = self.project.by_id(self.ids[name])
        database = PostgresDatabase(self.server, schema) if schema else self.project.database(info)
        if not database.is_there():
            return []
        with database.reader() as connection:
            return connection.execute(sql).fetchall()

    def status(self, name: str) -> str:
        """The status of the newest sync; empty before the first."""
        if not self.rows(name, "SELECT to_regclass('_max_sync') WHERE to_regclass('_max_sync') IS NOT NULL"):
            return ""
        found = self.rows(name, "SELECT state FROM _max_sync ORDER BY id DESC LIMIT 1")
        return found[0][0] if found else ""

    def in_flight(self, name: str) -> int:
        """How many tasks of an installation are claimed."""
        return int(self.rows(name, "SELECT count(*) FROM _max_task WHERE state = 'running'")[0][0])

    def restart(self, server: PostgresServer, worker: Worker, again: dict[str, int], **settings: str) -> None:
        """Restart the server; what the worker has in flight then may be fetched ``again``."""
        names = [name for name in self.owned(worker) if self.status(name) == "running"]
        before = {name: self.in_flight(name) for name in names}
        server.stop()
        server.start(**settings)
        for name in names:
            again[name] += max(before[name], self.in_flight(name))

    def stored(self, name: str) -> dict[str, dict[str, str]]:
        """What is stored: of each kind the names, by id."""
        return {
            kind: dict(self.rows(name, f"SELECT id, {column} FROM acme_{kind}"))
            for kind, column in TABLES.items()
        }

    def held_by_two(self) -> list[Any]:
        """The leases that were given while another one still had them."""
        (any_name, *_) = self.ids
        sql = """
            SELECT a.installation, a.attempt, a.before, a.due, a.at FROM lease_log AS a
             WHERE a.before IS NOT NULL AND a.due > a.at
                OR EXISTS (SELECT 1 FROM lease_log AS b WHERE b.installation = a.installation
                            AND b.attempt = a.attempt AND b.number <> a.number)
        """
        return self.rows(any_name, sql, self.schema)

    def taken_over(self) -> int:
        """How many leases were given whose owner had not given them back."""
        (any_name, *_) = self.ids
        sql = "SELECT count(*) FROM lease_log WHERE before IS NOT NULL AND before <> owner"
        return int(self.rows(any_name, sql, self.schema)[0][0])


@contextmanager
def fleet(url: str, folder: Path, sources: Mapping[str, str]) -> Iterator[Fleet]:
    """A project with its workers, which end whatever happens."""
    one = Fleet(url, folder, sources)
    try:
        yield one
    finally:
        one.end()
