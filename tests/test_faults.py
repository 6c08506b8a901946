"""Faulty sources, networks and disks: the status is honest, stored rows are right, and syncs go on.

``MAX_SHARED_SECONDS`` says for how long two processes share a project (2 by default).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import pytest

from max import InstallationRuntime, Status, SyncResult
from max.connecting import (
    BadCredentials,
    Env,
    Loader,
    Operation,
    Page,
    PageRequest,
    PermissionDenied,
    QuotaExceeded,
    Ref,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamMissing,
)
from max.errors import StorageError
from max.projects.folder import ProjectFolder
from max.storage.database import Connection
from max.testing import FOREVER, FakeClock, Fault, FaultKind
from tests.sample import SampleRoot, Thing, sample
from tests.scripted import PAGES, SIZE, records, runtime, sync, synced, tables, upstream

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
SHARED = float(os.environ.get("MAX_SHARED_SECONDS", "2"))

FIRST, MIDDLE, LAST = 0, PAGES // 2, PAGES - 1
UNTRUE = [FaultKind.REPEAT, FaultKind.SKIP]  # faults that no retry mends
REFUSED = [FaultKind.FORBIDDEN, FaultKind.NOT_MODIFIED, FaultKind.EMPTY]  # the same
HARMLESS = [FaultKind.DUPLICATE, FaultKind.WRONG_TOTAL]  # on one page: a total may change during a listing
PASSING = [kind for kind in FaultKind if kind not in (*UNTRUE, *REFUSED)]
PLACES = [FIRST, MIDDLE, LAST]
CODES = {
    FaultKind.REPEAT: "upstream.changed",
    FaultKind.SKIP: "upstream.changed",
    FaultKind.TRUNCATE: "upstream.broken",
    FaultKind.GARBAGE: "upstream.broken",
    FaultKind.SLOW: "upstream.offline",
    FaultKind.RESET: "upstream.offline",
    FaultKind.RATE_LIMIT: "upstream.quota",
    FaultKind.EXPIRE: "upstream.credentials",
    FaultKind.EMPTY: "upstream.changed",
    FaultKind.DROP: "upstream.offline",
    FaultKind.ERROR: "upstream.broken",
    FaultKind.FORBIDDEN: "upstream.permission",
    FaultKind.NOT_MODIFIED: "upstream.changed",
}
LASTING = [kind for kind in FaultKind if kind not in HARMLESS]
UPSTREAM = {
    "thing": [(one["id"], one["title"], None) for one in records("thing")],
    "label": [(one["id"], one["title"], None) for one in records("label")],
    "links": [
        (f"ScriptedRoot.{kind}s", "root", one["id"]) for kind in ("label", "thing") for one in records(kind)
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


# -- faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PLACES)
@pytest.mark.parametrize("kind", PASSING)
def test_a_temporary_fault_is_survived_and_no_page_is_fetched_twice(
    kind: FaultKind, page: int, path: Path
) -> None:
    clock, service = FakeClock(), upstream()
    service.inject(Fault(kind, "/things", page))

    async def main() -> SyncResult:
        async with service:
            return await sync(service.url, path, clock)

    result = clock.run(main())
    assert (result.status, result.failures) == (Status.COMPLETED, ())
    assert tables(path) == UPSTREAM
    assert len(service.served) == service.served.total() == 2 * PAGES


lasting = [*product(UNTRUE, PLACES, [1]), *product(LASTING, [MIDDLE], [FOREVER])]


@pytest.mark.parametrize(("kind", "page", "times"), lasting)
def test_a_lasting_fault_is_reported_and_the_next_sync_ends_equal_to_upstream(
    kind: FaultKind, page: int, times: int, path: Path
) -> None:
    clock, service = FakeClock(), upstream()
    service.inject(Fault(kind, "/things", page, times))

    async def main() -> None:
        async with service:
            check_lasting_fault(await sync(service.url, path, clock), kind, page, path)
            assert max(service.served.values()) == 1
            service.served.clear()
            service.inject()
            assert (await sync(service.url, path, clock)).status is Status.COMPLETED

    clock.run(main())
    assert tables(path) == UPSTREAM
    assert len(service.served) == service.served.total() == 2 * PAGES


def check_lasting_fault(result: SyncResult, kind: FaultKind, page: int, path: Path) -> None:
    """Partial, with the reason and what to do; what is stored is true, and reaches to the kind."""
    assert result.status is Status.PARTIAL
    assert {failure.code for failure in result.failures} == {CODES[kind]}
    assert all(failure.hint and failure.what for failure in result.failures)
    stored = tables(path)
    assert set(stored["thing"]) <= set(UPSTREAM["thing"])
    before = UPSTREAM["thing"][: page * SIZE]
    assert len(set(stored["thing"]) & set(before)) >= len(before) - SIZE * (kind is FaultKind.SKIP)
    if kind is not FaultKind.EXPIRE:  # that hits the next request
        assert stored["label"] == UPSTREAM["label"]
        assert "ScriptedRoot:root" in result.failures[0].what
        assert len(result.failures) == 1


@pytest.mark.parametrize("kind", UNTRUE)
@pytest.mark.parametrize("page", PLACES)
def test_an_incomplete_listing_removes_no_row(kind: FaultKind, page: int, path: Path) -> None:
    clock, service = FakeClock(), upstream()

    async def main() -> list[int]:
        links = []
        async with service:
            for faults in ([], [Fault(kind, "/things", page)], []):
                service.inject(*faults)
                await sync(service.url, path, clock)
                links.append(len(tables(path)["links"]))
                service.listings["/things"] = records("thing", PAGES * SIZE - 1)
        return links

    assert clock.run(main()) == [2 * PAGES * SIZE, 2 * PAGES * SIZE, 2 * PAGES * SIZE - 1]


def test_a_rate_limit_is_waited_out_durably_and_no_request_comes_early(path: Path) -> None:
    clock, service = FakeClock(), upstream()
    service.inject(Fault(FaultKind.RATE_LIMIT, "/things", MIDDLE, retry_after=120.0))

    async def stop_when_stormy(one: InstallationRuntime) -> float:
        await one.start()
        handle = await one.sync()
        async for progress in handle.progress():
            if progress.due is not None and progress.running == 0:
                break
        await one.stop()
        return progress.due or 0.0

    async def main() -> tuple[float, SyncResult]:
        async with service:
            due = await stop_when_stormy(runtime(service.url, path, clock))
            assert due > clock() + 5.0
            left = 2 * PAGES - service.served.total()
            service.requests.clear()
            clock.advance(due - clock() - 5.0)
            result = await sync(service.url, path, clock)
            assert clock() >= due
            assert service.requests.total() == left
            return due, result

    due, result = clock.run(main())
    assert due >= FakeClock()() + 120.0
    assert (result.status, tables(path)) == (Status.COMPLETED, UPSTREAM)
    assert max(service.served.values()) == 1


# -- the network is cut ----------------------------------------------------------------------


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that is taken, so that no process can listen on it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield int(one.getsockname()[1])


def no_such_name(*_: object, **__: object) -> NoReturn:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def cut(how: str, path: Path) -> SyncResult:
    """A sync without a network, in one of four ways."""
    clock, service = FakeClock(), upstream()
    kind = FaultKind.RESET if how == "reset" else FaultKind.SLOW
    service.inject(Fault(kind, "/things", FIRST, FOREVER), Fault(kind, "/labels", FIRST, FOREVER))

    async def main() -> SyncResult:
        async with service:
            addresses = {"refused": f"http://127.0.0.1:{port}", "dns": "http://no-such-host.invalid"}
            return await sync(addresses.get(how, service.url), path, clock)

    with deaf_port() as port:
        return clock.run(main())


@pytest.mark.parametrize("how", ["refused", "dns", "reset", "time-out"])
def test_with_the_network_cut_nothing_says_token(
    how: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "dns":  # the resolver is another machine and may be slow
        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    result = cut(how, path)
    assert result.status is Status.FAILED
    assert [failure.code for failure in result.failures] == ["upstream.offline"] * 2
    words = " ".join(f"{one.message} {one.hint}" for one in result.failures).lower()
    assert "network" in words
    assert not [word for word in ("token", "credential", "password", "401", "log in") if word in words]


# -- every failure has a class -----------------------------------------------------------------

RAISED = [
    (ConnectionRefusedError("refused"), "upstream.offline"),
    (TimeoutError(), "upstream.offline"),
    (OSError(errno.ENETUNREACH, "network is unreachable"), "upstream.offline"),
    (BadCredentials("it was refused", hint="connect again"), "upstream.credentials"),
    (PermissionDenied("not for you", hint="ask for it"), "upstream.permission"),
    (PermissionError("/var/log/thing"), "upstream.permission"),
    (QuotaExceeded("slower", hint="later"), "upstream.quota"),
    (UpstreamChanged("what is this", hint="update"), "upstream.changed"),
    (UpstreamBroken("down", hint="later"), "upstream.broken"),
    (UpstreamMissing("gone", hint="deleted?"), "upstream.missing"),
    (FileNotFoundError("/var/log/thing"), "upstream.missing"),
    (OSError(errno.EMFILE, "too many open files"), "connector.fault"),
    (KeyError("items"), "connector.fault"),
    (AssertionError(), "connector.fault"),
]


@pytest.mark.parametrize(
    ("raised", "code"), RAISED, ids=lambda one: one if isinstance(one, str) else repr(one)
)
def test_every_failed_operation_has_one_error_class_with_a_hint(
    raised: Exception, code: str, path: Path
) -> None:
    async def fail(context: object, input: None) -> None:
        raise raised

    failing = Operation("sample:thing:list", fail)

    @Loader.collection(SampleRoot.things, brings=[Thing.title])
    async def list_things(parent: Ref[SampleRoot], request: PageRequest, env: Env[Any]) -> Page[Thing]:
        await env.run(failing, None)
        return Page([])

    result, _ = synced(sample(loaders=[list_things], operations=[failing]), path, SampleRoot.things)
    assert [failure.code for failure in result.failures] == [code]
    assert result.status is Status.FAILED
    assert all(failure.hint and failure.message for failure in result.failures)


# -- the power is cut ------------------------------------------------------------------------

CHILD = """
import asyncio, sys, time
from pathlib import Path
from tests.scripted import sync
asyncio.run(sync(sys.argv[1], Path(sys.argv[2]), time.time))
"""
WAL_HEADER, FRAME_HEADER = 32, 24  # bytes, as SQLite's file format says


def killed_in_mid_sync(path: Path) -> None:
    """The file and its log as a process leaves them that was killed after some pages."""
    service = upstream()

    async def main() -> None:
        async with service:
            words = [sys.executable, "-c", CHILD, service.url, str(path)]
            child = await asyncio.create_subprocess_exec(*words, env=ENVIRONMENT, cwd=ROOT)
            service.inject(Fault(FaultKind.SLOW, "/things", LAST))
            reached = asyncio.create_task(service.reached(f"/things?cursor=page-{LAST}"))
            ended = asyncio.create_task(child.wait())
            await asyncio.wait([reached, ended], return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            assert child.returncode is None
            child.kill()
            await ended

    asyncio.run(main())


def frames(wal: bytes) -> Iterator[tuple[int, bool]]:
    """Where each frame of a log ends, and whether a commit ends there."""
    page = int.from_bytes(wal[8:12], "big")
    for start in range(WAL_HEADER, len(wal) - FRAME_HEADER - page + 1, FRAME_HEADER + page):
        yield start + FRAME_HEADER + page, wal[start + 4 : start + 8] != b"\0\0\0\0"


def content(path: Path) -> tuple[object, ...]:
    """What a database holds once it is opened after a power cut; it must be sound."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return tuple((name, *connection.execute(f'SELECT * FROM "{name}"').fetchall()) for name in names)
    finally:
        connection.close()


def cut_at(path: Path, wal: bytes, size: int, place: Path) -> Path:
    """A copy of the database of which only so much of the log has reached the disk."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copy(path, place / "data.db")
    (place / "data.db-wal").write_bytes(wal[:size])
    return place / "data.db"


def test_a_truncated_write_ahead_log_opens_at_the_last_commit_and_resumes_to_the_same_end(path: Path) -> None:
    killed_in_mid_sync(path)
    wal = path.with_name("data.db-wal").read_bytes()
    ends = list(frames(wal))
    assert sum(commit for _, commit in ends) >= PAGES
    place, before = path.parent / "cut", content(cut_at(path, wal, 0, path.parent / "cut"))
    for number, (end, commit) in enumerate(ends):
        inside = end - 1 - number * 397 % (end - (ends[number - 1][0] if number else WAL_HEADER) - 1)
        assert content(cut_at(path, wal, inside, place)) == before
        now = content(cut_at(path, wal, end, place))
        assert commit or now == before
        if commit:
            damaged = wal[:inside] + bytes([wal[inside] ^ 0xFF]) + wal[inside + 1 :]
            assert content(cut_at(path, damaged, len(wal), place)) == before
            resumes(cut_at(path, wal, end, place))
        before = now


def resumes(path: Path) -> None:
    """A sync after a power cut ends equal to upstream and fetches no stored page again."""
    stored = stored_pages(path)
    clock, service = FakeClock(time.time()), upstream()

    async def main() -> SyncResult:
        async with service:
            return await sync(service.url, path, clock)

    assert clock.run(main()).status is Status.COMPLETED
    assert tables(path) == UPSTREAM
    assert len(service.served) == service.served.total() == 2 * PAGES - stored


def stored_pages(path: Path) -> int:
    """How many pages of both listings the file holds."""
    connection = sqlite3.connect(path)
    try:
        return int(
            connection.execute("SELECT count(*) FROM _max_load WHERE listing IS NOT NULL").fetchone()[0]
        )
    except sqlite3.OperationalError:
        return 0  # before the tables are created
    finally:
        connection.close()


# -- the disk is full --------------------------------------------------------------------------


async def limit_file(one: InstallationRuntime, more: int | None) -> None:
    """Limit the growth of the database to some pages; None for no limit."""

    def work(connection: Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {2**31 if more is None else pages + more}")

    await one._database.transact(work)


@pytest.mark.parametrize("room", [0, 1, 2, 4, 6, 8, 10])
def test_a_disk_that_fills_up_during_a_sync_loses_nothing(room: int, path: Path) -> None:
    long = [{**one, "title": one["title"] * 200} for one in records("thing")]
    clock, service = FakeClock(), upstream(long)

    async def main() -> None:
        async with service:
            one = runtime(service.url, path, clock)
            await one.start()
            await limit_file(one, room)
            with pytest.raises(StorageError, match="full") as caught:
                await (await one.sync()).completion()
            assert "free some space" in caught.value.hint
            await limit_file(one, None)
            stored = stored_pages(path)
            service.served.clear()
            result = await (await one.sync()).completion()
            assert (result.status, result.failures) == (Status.COMPLETED, ())
            assert service.served.total() == 2 * PAGES - stored
            await one.stop()

    clock.run(main())
    assert tables(path) == {**UPSTREAM, "thing": [(each["id"], each["title"], None) for each in long]}


# -- two processes -----------------------------------------------------------------------------

SHARER = """
import asyncio, json, sys, time
from max import Project
from max_connectors.acme import AcmeTask

async def sync(project, runtime):
    result = await (await runtime.sync()).completion()
    assert str(result.status) == "completed", result

async def write(project, runtime):
    await runtime.engine.store(*[AcmeTask(f"mine-{n}", title=f"at {time.time()}") for n in range(50)])
    assert await runtime.engine.query(AcmeTask).where(AcmeTask.title.starts_with("at ")).count() == 50
    await runtime.engine.query(AcmeTask).order_by(AcmeTask.title).limit(20).all()

async def main(act, seconds):
    until, times = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        async with Project.open(".") as project:        # with new connections, now and then
            runtime = await project.runtime("acme")
            for _ in range(5):
                await act(project, runtime)
                times += 1
    print(json.dumps(times))

asyncio.run(main({"sync": sync, "write": write}[sys.argv[1]], float(sys.argv[2])))
"""


def test_processes_that_read_and_write_one_project_never_see_it_locked(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"workspaces": 1, "users": 20, "projects": 2, "tasks": 100, "files": 0}
    ProjectFolder.init(tmp_path).add("acme", None, sizes, {}, now=0.0)
    first = [sys.executable, "-c", SHARER, "sync", "0.01"]  # it removes what the source never had
    subprocess.run(first, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
    words = [[sys.executable, "-c", SHARER, role, str(SHARED)] for role in ("sync", "write", "write")]
    pipe = subprocess.PIPE
    sharers = [
        subprocess.Popen(one, cwd=tmp_path, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)
        for one in words
    ]
    said = [sharer.communicate() for sharer in sharers]
    assert [errors for _, errors in said] == [""] * len(sharers)
    assert min(json.loads(output) for output, _ in said) >= 5
