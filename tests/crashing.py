"""A sync that kills its own process at its nth commit, for test_runtime.py.

``python -m tests.crashing FOLDER`` prints a JSON line for each n: what was requested from the source
before the kill and after it, what was stored in between, and all that was stored in the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from max.connector import Installation
from max.core import InstallationInfo, Store
from max.model.plan import SyncPlan
from max.model.query import Batch
from max.runtime import InstallationRuntime
from max.storage import sqlite
from max.storage.sqlite import SqliteConnection, SqliteDatabase
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests.sample import SampleConfig, sample
from tests.scenes import LOADERS, MAILS, NAMES, ROOT, SCHEMA, USERS, Root, User, users

PAGES = 5
USERS_STORED = "SELECT id, name, mail, size FROM sample_user ORDER BY id"
EVENTS = "SELECT kind FROM _max_event ORDER BY number"
SYNCS_ENDED = "SELECT id FROM _max_sync WHERE finished_at IS NOT NULL"


class Source:
    """Pages of two users each; every request is noted in a file before its response."""

    def __init__(self, log: Path) -> None:
        self.log = log

    async def ask(self, name: str, what: Any, env: Any) -> Any:
        """The arguments of a loader."""
        with self.log.open("a") as file:
            file.write(json.dumps([name, what]) + "\n")
        await asyncio.sleep(0)
        if name == "name":
            return User(what, name=f"Name {what}", phone="1")
        if name == "mails":
            return Batch([User(id, mail=f"{id}@x") for id in what])
        page = int(what or 0)
        return users(f"{page}a", f"{page}b", next=str(page + 1) if page < PAGES - 1 else None)


async def seed(context: Source, store: Store) -> SyncPlan:
    """List the users, then load two fields of each."""
    await store.store(Root(ROOT.id))
    return SyncPlan([USERS, NAMES, MAILS])


def die_at_commit(nth: int) -> None:
    """Make every connection from now on end the process when the nth commit begins."""
    left, connect = nth, sqlite.connect

    def watched(*args: Any, **named: Any) -> SqliteConnection:
        connection = connect(*args, **named)
        connection.set_trace_callback(count)
        return connection

    def count(statement: str) -> None:
        nonlocal left
        left -= statement == "COMMIT"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sqlite.connect = watched


async def sync(path: Path, log: Path) -> None:
    """Begin or resume a sync, and run it to its end."""

    async def initialise(config: object, credentials: CredentialProvider) -> Installation[Source]:
        return Installation(context=Source(log))

    connector = sample(schema=SCHEMA, loaders=LOADERS, seeder=seed, initialise=initialise)
    secrets = CredentialProvider(MemoryCredentials(), ())
    info = InstallationInfo("sample", "default", "abc", {}, 0.0)
    runtime = InstallationRuntime(info, connector, SampleConfig(), secrets, SqliteDatabase(path))
    await runtime.start()
    result = await (await runtime.sync()).completion()
    await runtime.stop()
    assert (result.status, result.counts) == ("completed", {"User": 2 * PAGES}), result


def in_a_child(path: Path, log: Path, nth: int | None) -> bool:
    """Sync in a process of its own; whether it lived to the end."""
    child = os.fork()
    if child == 0:
        if nth is not None:
            die_at_commit(nth)
        asyncio.run(sync(path, log))
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def stored(path: Path, query: str) -> Sequence[Any]:
    """What another process stored."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError:  # killed before the tables were created
        return []
    finally:
        connection.close()


def asked(log: Path) -> list[Any]:
    """The requests to the source."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def main(folder: Path) -> None:
    """Kill at the first commit, the second, and so on, until a sync has fewer."""
    nth, lived = 0, False
    while not lived:
        path, first, second = (folder / f"{nth}.{end}" for end in ("db", "first", "second"))
        lived = in_a_child(path, first, nth)
        between, ended = stored(path, USERS_STORED), bool(stored(path, SYNCS_ENDED))
        if not lived:
            assert in_a_child(path, second, None)
        kinds = [kind for (kind,) in stored(path, EVENTS)]
        found = {"lived": lived, "ended": ended, "first": asked(first), "second": asked(second)}
        print(
            json.dumps({**found, "between": between, "events": kinds, "end": stored(path, USERS_STORED)}),
            flush=True,
        )
        nth += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
