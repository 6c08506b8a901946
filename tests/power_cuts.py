"""Power cuts while Max writes, on the simulated disk of tests/power.py.

``python -m tests.power_cuts 2400`` makes so many cuts in all and prints the table of docs/durability.md.

Two workloads run, each with both durabilities: the engine alone, and whole syncs (the engine, the task
store, the executor).  The power may fail before each sync of a file and after each commit.  What is
then left of the files is opened by the SQLite of Python, checked, and compared with what had been
committed: each commit's content is known by its digest.  Names are searchable: the index of full text
and the change log are written with the rows, and fit them after a sync to its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args
from unittest import mock

from max.connector import Installation
from max.core import InstallationInfo, Store
from max.engine import DatabaseEngine
from max.errors import StorageFull
from max.model.delivery import Delivery
from max.model.plan import SyncPlan
from max.model.query import Batch
from max.model.settings import Settings
from max.query.find import check_index
from max.runtime import InstallationRuntime
from max.storage import sqlite
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests.power import Disk, PowerConnection
from tests.sample import SampleConfig, sample
from tests.scenes import LOADERS, MAILS, NAMES, ROOT, SCHEMA, USERS, Root, User, users

CHECKOUT = Path(__file__).parent.parent
PAGES = 3  # of the listing that a sync reads, two users on each
ROUNDS = 3  # syncs, each of which finds other names
RESUMED = 20  # of so many cuts one is followed by a sync to its end
FULL = 600  # writes that the syncs need at least
CHECKPOINT = 60_000  # bytes of log, so that pages are moved into the file now and then
Durability = sqlite.Durability


class Content(NamedTuple):
    """What a file holds: a digest of every row, and the newest number of the change log."""

    digest: str
    newest_change: int


class Cut(NamedTuple):
    """A power cut: how many commits had returned, and what was found; None for a damaged file."""

    acknowledged: int
    found: Content | None


class Result(NamedTuple):
    """What some cuts left behind."""

    cuts: int
    damaged: int = 0
    half: int = 0  # a content that no commit left
    lost: int = 0  # a commit that had returned is missing
    given_again: int = 0  # numbers of the change log that had been seen are free again
    resumed: int = 0  # were followed by a sync that ended as an undisturbed one

    def __add__(self, other: Any) -> Result:
        return Result(*map(sum, zip(self, other, strict=True)))


# -- what a file holds -------------------------------------------------------------------------


def content(execute: Callable[[str], Any]) -> Content:
    """What is stored, by any connection."""
    names = [row[0] for row in execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    digest = hashlib.sha256()
    for name in names:
        digest.update(repr((name, list(execute(f'SELECT * FROM "{name}"')))).encode())
    newest = 0
    if "_max_change" in names:
        newest = next(iter(execute("SELECT coalesce(max(id), 0) FROM _max_change")))[0]
    return Content(digest.hexdigest(), newest)


def recovered(path: Path) -> Content | None:
    """What SQLite makes of a file after a power cut; None when it is damaged."""
    with closing(sqlite3.connect(path)) as connection:
        try:
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return None
            return content(lambda sql: connection.execute(sql).fetchall())
        except sqlite3.DatabaseError:
            return None


NOTHING = content(lambda sql: [])


# -- one run -------------------------------------------------------------------------------------


class Run:
    """One run of a workload, with one cut wherever the power may fail."""

    def __init__(self, folder: Path, seed: str, most: int, *, room: int | None = None) -> None:
        self._most, self._folder = most, folder
        self.commits = [NOTHING]  # what each left, the first being none
        self.cuts: list[Cut] = []
        self._draw = random.Random(seed)
        self._disk = Disk(self._cut, room=room)

    def _cut(self) -> None:
        if len(self.cuts) < self._most:
            image = self._disk.image(self._folder / "image", self._draw)
            if not len(self.cuts) % RESUMED:
                shutil.copytree(image.parent, self._folder / f"kept-{len(self.cuts)}")
            self.cuts.append(Cut(len(self.commits) - 1, recovered(image)))

    def _committed(self, connection: PowerConnection) -> None:
        self.commits.append(content(lambda sql: list(connection.connection.execute(sql))))
        self._cut()

    @contextmanager
    def powered(self) -> Iterator[Path]:
        """Max uses the disk; the path of the database."""

        def opened(path: str, access: str = "mode=rwc") -> PowerConnection:
            return PowerConnection(path, access, self._committed)

        (self._folder / "disk").mkdir()
        with mock.patch.object(sqlite, "_open", opened), mock.patch.object(sqlite, "CHECKPOINT", CHECKPOINT):
            yield self._folder / "disk" / "data.db"
        self._disk.unregister()

    def result(self) -> Result:
        """What the cuts left behind: the last acknowledged content, or that of the commit under way."""
        place: dict[Content, int] = {}  # the first commit that left it: some change nothing
        for number, left in enumerate(self.commits):
            place.setdefault(left, number)
        total = Result(len(self.cuts))
        for acknowledged, found in self.cuts:
            left_by = place.get(found) if found else None
            seen = self.commits[acknowledged].newest_change
            total += Result(
                0,
                damaged=found is None,
                half=found is not None and left_by is None,
                lost=left_by is not None and left_by < place[self.commits[acknowledged]],
                given_again=found is not None and found.newest_change < seen,
            )
        return total


# -- workloads -----------------------------------------------------------------------------------


async def engine_alone(path: Path, settings: Settings) -> None:
    """Stores, tombstones and tidying up, without tasks."""
    database = SqliteDatabase(path, durability=settings.durability)
    await database.start()
    engine = DatabaseEngine(database, sample(schema=SCHEMA, loaders=LOADERS).resolver, settings=settings)
    await engine.start()
    for number in range(12):
        at = 1_000.0 + number
        some = [
            User(f"u{n}", name=f"Name {n} at {number}" * 5, size=n) for n in range(number * 3, number * 5)
        ]
        await engine.store(Root(ROOT.id, title=f"{number}"), *some, requested_at=at)
        gone = Delivery((), at, removed=[User.ref(f"u{number * 2}")])
        await database.transact(engine.prepare_write(gone).work)
        if number % 4 == 3:
            await engine.tidy(at)
    await engine.stop()
    await database.stop()


class Source:
    """Pages of two users each, whose names tell the round."""

    def __init__(self, round: int) -> None:
        self.round = round

    async def ask(self, name: str, what: Any, env: Any) -> Any:
        """The answer to a loader."""
        if name == "name":
            return User(what, name=f"{what} in round {self.round}", phone="1")
        if name == "mails":
            return Batch([User(id, mail=f"{id}@{self.round}") for id in what])
        page = int(what or 0)
        return users(f"{page}a", f"{page}b", next=str(page + 1) if page < PAGES - 1 else None)


async def seed(context: Source, store: Store) -> SyncPlan:
    """List the users, then load two fields of each."""
    await store.store(Root(ROOT.id))
    return SyncPlan([USERS, NAMES, MAILS])


async def sync(path: Path, settings: Settings, round: int) -> list[tuple[Any, ...]]:
    """Begin a sync, or resume the one that is unfinished; every user's name and mail in the end."""

    async def initialise(config: object, credentials: CredentialProvider) -> Installation[Source]:
        return Installation(context=Source(round))

    connector = sample(schema=SCHEMA, loaders=LOADERS, seeder=seed, initialise=initialise)
    info = InstallationInfo("sample", "default", "abc", {}, 0.0, settings)
    secrets = CredentialProvider(MemoryCredentials(), ())
    database = SqliteDatabase(path, durability=settings.durability)
    runtime = InstallationRuntime(info, connector, SampleConfig(), secrets, database)
    await runtime.start()
    try:
        result = await (await runtime.sync()).completion()
        assert result.status == "completed", result
        found = await runtime.engine.query(User).all()
        return sorted((user.id, user.name, user.mail) for user in found)
    finally:
        await runtime.stop()


async def whole_syncs(path: Path, settings: Settings) -> None:
    """Syncs that each find other names."""
    for round in range(ROUNDS):
        await sync(path, settings, round)


async def resume(path: Path, settings: Settings) -> None:
    """Whatever was cut: the next syncs end as they would have without it."""
    with searchable():
        await sync(path, settings, ROUNDS)  # one that was unfinished has asked for older names
        found = await sync(path, settings, ROUNDS)
    ids = sorted(f"{page}{letter}" for page in range(PAGES) for letter in "ab")
    assert found == [(id, f"{id} in round {ROUNDS}", f"{id}@{ROUNDS}") for id in ids], found
    assert check_index(SqliteDatabase(path)) == []
    with closing(sqlite3.connect(path)) as connection:
        hits = "SELECT count(*) FROM _max_find WHERE _max_find MATCH '{}'"
        assert connection.execute(hits.format(f"round {ROUNDS}")).fetchone() == (len(ids),)
        assert connection.execute(hits.format(f"round NOT {ROUNDS}")).fetchone() == (0,)


def searchable() -> Any:
    """While it is entered, users are found by their names, which costs the other tests too much."""
    return mock.patch.object(User._fields["name"], "searchable", True)


WORKLOADS: dict[str, Callable[[Path, Settings], Coroutine[Any, Any, None]]] = {
    "the engine": engine_alone,
    "whole syncs": whole_syncs,
}


KINDS: list[tuple[str, Durability]] = [
    (workload, durability) for workload in WORKLOADS for durability in get_args(Durability)
]


def cut_power(workload: str, durability: Durability, cuts: int, folder: Path) -> Result:
    """Run a workload until the power was cut so often; what was left.

    Each run has a process of its own, which has ended when what it left is used.
    """
    total = Result(0)
    while total.cuts < cuts:
        place = folder / f"{workload} {durability} {total.cuts}"
        place.mkdir(parents=True)
        total += Result(*in_a_process("run", workload, durability, str(cuts - total.cuts), str(place)))
        if workload == "whole syncs":
            for kept in sorted(place.glob("kept-*")):
                asyncio.run(resume(kept / "data.db", Settings(history="changes", durability=durability)))
                total += Result(0, resumed=1)
        shutil.rmtree(place)
    return total


def fill_disk(room: int, folder: Path) -> Result:
    """Whole syncs on a disk that is full after so many writes; what is left, and the syncs after it."""
    place = folder / f"full {room}"
    place.mkdir()
    found = Result(*in_a_process("fill", str(room), str(place)))
    asyncio.run(resume(place / "disk" / "data.db", Settings(history="changes")))
    shutil.rmtree(place)
    return found + Result(0, resumed=1)


def in_a_process(*words: str) -> Any:
    """What this module prints for some words."""
    command = [sys.executable, "-m", "tests.power_cuts", *words]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fill(room: int, place: Path) -> Result:
    """The syncs on the full disk."""
    one, full = Run(place, "", 0, room=room), False
    with one.powered() as path, searchable():
        try:
            asyncio.run(whole_syncs(path, Settings(history="changes")))
        except StorageFull:
            full = True
    found = recovered(path)
    half = found is not None and found not in one.commits
    return Result(int(full), int(found is None), int(half), int(found != one.commits[-1]))


def run(workload: str, durability: Durability, most: int, place: Path) -> Result:
    """One run of a workload."""
    one = Run(place, place.name, most)
    with one.powered() as path, searchable():
        asyncio.run(WORKLOADS[workload](path, Settings(history="changes", durability=durability)))
    return one.result()


def main(cuts: int) -> None:
    """Make so many cuts in all, and print a table."""
    print(
        "| workload | durability | cuts | damaged | half a transaction | commits lost | numbers given again |"
    )
    print("|---|---|---|---|---|---|---|")
    resumed = 0
    with tempfile.TemporaryDirectory() as folder:
        for workload, durability in KINDS:
            found = cut_power(workload, durability, cuts // len(KINDS), Path(folder))
            values = (found.cuts, found.damaged, found.half, found.lost, found.given_again)
            print("|", " | ".join([workload, f"`{durability}`", *map(str, values)]), "|", flush=True)
            resumed += found.resumed
        full = sum((fill_disk(room, Path(folder)) for room in range(0, FULL, FULL // 30)), Result(0))
    print(f"\nAfter {resumed} of the cuts, syncs ended as they would have without it.")
    print(f"The disk was full in {full.cuts} more runs, each after another number of writes: {full}")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["run"]:
        kind: Durability = "full" if words[2] == "full" else "normal"
        print(json.dumps(run(words[1], kind, int(words[3]), Path(words[4]))))
    elif words[:1] == ["fill"]:
        print(json.dumps(fill(int(words[1]), Path(words[2]))))
    else:
        main(int(words[0]) if words else 2_400)
