"""A sync that kills its own process at its nth commit, for test_runtime.py.

``python -m tests.crashing FOLDER`` prints a JSON line for each n: what was requested from the source
before the kill and after it, what was stored in between, and all that was stored in the end.
``python -m tests.crashing FOLDER URL STEP KILLS`` does it in Postgres, for each STEPth n, again and again
until there were so many: now before a COMMIT is sent, and now after it, with its answer unheard.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count as counted
from pathlib import Path
from typing import Any

from max.connector import Installation
from max.core import InstallationInfo, Store
from max.errors import StorageEmpty
from max.model.plan import SyncPlan
from max.model.query import Batch
from max.runtime import InstallationRuntime
from max.storage import sqlite
from max.storage.postgres import PostgresDatabase
from max.storage.sqlite import SqliteConnection
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests.contract.places import database_at
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


def die_at_commit_of_postgres(nth: int, *, sent: bool) -> None:
    """End the process when the nth commit begins, or when it was ``sent`` and before it is heard of."""
    import psycopg

    left, execute = nth, psycopg.Connection.execute

    def watched(self: Any, query: Any, *values: Any, **named: Any) -> Any:
        nonlocal left
        left -= query == "COMMIT"
        if left < 0:
            if sent:
                self.pgconn.send_query(b"COMMIT")
                self.pgconn.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(self, query, *values, **named)

    psycopg.Connection.execute = watched  # type: ignore[method-assign]


async def sync(place: str, log: Path) -> None:
    """Begin or resume a sync, and run it to its end."""

    async def initialise(config: object, credentials: CredentialProvider) -> Installation[Source]:
        return Installation(context=Source(log))

    connector = sample(schema=SCHEMA, loaders=LOADERS, seeder=seed, initialise=initialise)
    secrets = CredentialProvider(MemoryCredentials(), ())
    info = InstallationInfo("sample", "default", "abc", {}, 0.0)
    runtime = InstallationRuntime(info, connector, SampleConfig(), secrets, database_at(place))
    await runtime.start()
    result = await (await runtime.sync()).completion()
    await runtime.stop()
    assert (result.status, result.counts) == ("completed", {"User": 2 * PAGES}), result


def in_a_child(place: str, log: Path, nth: int | None, *, sent: bool = False) -> bool:
    """Sync in a process of its own; whether it lived to the end."""
    child = os.fork()
    if child == 0:
        if nth is not None and "#" in place:
            die_at_commit_of_postgres(nth, sent=sent)
        elif nth is not None:
            die_at_commit(nth)
        asyncio.run(sync(place, log))
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def stored(place: str, query: str) -> Sequence[Any]:
    """What another process stored; nothing when it was killed before the tables were created."""
    with suppress(StorageEmpty), database_at(place).reader() as connection:
        table = query.split(" FROM ")[1].split()[0]
        if connection.dialect.columns(connection, table):
            return list(connection.execute(query).fetchall())
    return []


def asked(log: Path) -> list[Any]:
    """The requests to the source."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def killed_once(folder: Path, place: str, number: int, nth: int, *, sent: bool = False) -> bool:
    """Kill a sync at a commit, and let another process end it; whether the first one lived to its end."""
    first, second = (folder / f"{number}.{end}" for end in ("first", "second"))
    lived = in_a_child(place, first, nth, sent=sent)
    if "#" in place:
        with database_at(place).writer():
            pass  # what the server still does of the one that was killed has ended
    between, ended = stored(place, USERS_STORED), bool(stored(place, SYNCS_ENDED))
    if not lived:
        assert in_a_child(place, second, None)
    kinds = [kind for (kind,) in stored(place, EVENTS)]
    found = {"lived": lived, "ended": ended, "first": asked(first), "second": asked(second)}
    end = stored(place, USERS_STORED)
    print(json.dumps({**found, "between": between, "events": kinds, "end": end}), flush=True)
    return lived


def main(folder: Path, url: str = "", step: str = "1", kills: str = "0") -> None:
    """Kill at the first commit, the second, and so on, until a sync has fewer."""
    if not url:
        next(n for n in counted() if killed_once(folder, str(folder / f"{n}.db"), n, n))
        return
    number, turns = 0, 0
    while True:
        for nth in counted(turns % int(step), int(step)):
            database = PostgresDatabase(url, f"k{os.getpid()}_{number}")
            is_last = number >= int(kills)
            nth = 10_000 if is_last else nth
            lived = killed_once(folder, f"{url}#{database.schema}", number, nth, sent=bool(number % 2))
            database.delete()
            number += 1
            if is_last:
                return
            if lived:
                break
        turns += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
