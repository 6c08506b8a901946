"""A process that lasts keeps no more after many calls than after few."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from max_connectors.acme import connector

from max.cli import LASTING, answer_words
from max.commands.forward import likeness
from max.commands.forwarded import ForwardedCommands
from max.engine import DatabaseEngine
from max.model.entities import Entity
from max.model.schema import Schema
from max.project import Project
from max.projects.folder import ProjectFolder
from max.serve.client import Client
from max.serve.methods import Methods
from max.serve.own_process import stay_small
from max.serve.socket import SocketServer
from max.storage import tables
from tests.daemons import ROOT, homed

NAME = "acme:default"
WARM, CALLS = 4, 20  # times that each question is asked before, and between the two counts
COMMANDS = [
    ["search", NAME, "AcmeUser"],
    ["count", NAME, "AcmeTask", "--filter", "status = todo"],
    ["sql", NAME, "SELECT count(*) FROM acme_task"],
    ["schema", NAME],
    ["status"],
    ["search", NAME, "Nothing"],  # an error is an answer, too
]
ARENA = 2**26  # bytes of address space that glibc's malloc takes for each arena beside the first


@pytest.fixture
def folder(tmp_path: Path) -> ProjectFolder:
    """A project with an installation that has empty tables."""
    folder = ProjectFolder.init(tmp_path)
    info = folder.add("acme", None, {}, {}, now=1_000.0)

    async def make() -> None:
        database = folder.database(info)
        await database.start()
        await DatabaseEngine(database, connector.resolver).start()
        await database.stop()

    asyncio.run(make())
    return folder


@asynccontextmanager
async def serving(folder: ProjectFolder) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Asks every question once, each on a connection of its own, of a server in this process."""
    path = folder.root / "s"
    server = SocketServer(path, Methods(Project(folder), ForwardedCommands(folder.root, answer_words)))
    await server.start()

    async def ask() -> None:
        for words in COMMANDS:
            async with Client.at(path) as client:
                await client.command(
                    words, folder=str(folder.root), columns=[-1, -1], variables={}, likeness=likeness()
                ).result()
        async with Client.at(path) as client:
            await client.search(NAME, "AcmeTask", limit=5)
            await client.sql("SELECT 1", of=[NAME])
            await client.state(NAME)
            await client.changes(NAME)
            await client.find("write")
            await client.installations()

    try:
        yield ask
    finally:
        await server.stop()


def held() -> Counter[str]:
    """How many objects of each kind are alive."""
    gc.collect()
    return Counter(type(one).__qualname__ for one in gc.get_objects())


def test_calls_leave_no_objects_behind(folder: ProjectFolder) -> None:
    async def grown() -> dict[str, int]:
        async with serving(folder) as ask:
            for _ in range(WARM):
                await ask()
            before = held()
            for _ in range(CALLS):
                await ask()
            return {name: more for name, more in (held() - before).items() if more >= CALLS}

    assert asyncio.run(grown()) == {}


def test_reading_again_makes_no_classes_of_entities(folder: ProjectFolder) -> None:
    async def classes() -> tuple[int, int]:
        async with serving(folder) as ask:
            await ask()
            gc.collect()
            with without_collection():
                before = len(Entity.__subclasses__())
                await ask()
                return before, len(Entity.__subclasses__())

    before, after = asyncio.run(classes())
    assert before == after


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside, nothing that refers to itself goes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_the_schemas_that_a_process_keeps_are_bounded() -> None:
    def text(number: int) -> str:
        one: type[Entity] = type(f"Bounded{number}", (Entity,), {"__module__": __name__})
        return json.dumps(Schema([one]).to_json())

    for number in range(3 * tables.SCHEMAS):
        tables._schema(text(number))
    gc.collect()
    kept = {one.__name__ for one in Entity.__subclasses__() if one.__name__.startswith("Bounded")}
    assert 0 < len(kept) <= tables.SCHEMAS


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how a process's memory is laid out")
def test_threads_of_a_daemon_share_one_heap(tmp_path: Path) -> None:
    with homed(tmp_path) as home:
        home.max("init")
        home.max("daemon", "start")
        for _ in range(4):
            home.max("status")
        assert heaps_of_threads(home.pid()) == []


def heaps_of_threads(pid: int) -> list[str]:
    """The heaps that glibc made for threads: each begins at a multiple of its size, and its end is unused."""
    found = []
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    for (place, used, *_), (behind, rest, *_) in pairwise(lines):
        (start, end), (unused, last) = (map(partial(int, base=16), one.split("-")) for one in (place, behind))
        is_heap = start % ARENA == 0 and (end, last) == (unused, start + ARENA)
        found += [place] if is_heap and (used, rest) == ("rw-p", "---p") else []
    return found


LARGE = """
import os
from pathlib import Path
from max.serve.own_process import stay_small

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

stay_small()
before = held()
_ = b"x" * 8_000_000
del _
_ = [b"x" * 1_000_000 for _ in range(12)]
del _
print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process holds")
def test_a_process_that_lasts_gives_back_what_large_blocks_have_taken() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4_000_000, "glibc keeps what it has learnt to keep"


def test_a_process_that_lasts_looks_for_cycles_as_often_as_python_does() -> None:
    usual = gc.get_threshold()
    try:
        gc.set_threshold(LASTING)
        stay_small()
        assert 0 < gc.get_threshold()[0] <= 2_000
    finally:
        gc.set_threshold(*usual)
