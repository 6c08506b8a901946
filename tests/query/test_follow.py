"""Following events: of each installation all of them, in order, and of no other one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max import Project
from max.core import InstallationInfo
from max.errors import CursorExpired, InvalidCursor
from max.model.event_log import InstallationEvent, LoggedKind
from max.query.follow import Follower
from max.storage.database import Database
from max.storage.event_log import expire_events, record_event
from max.storage.sqlite import SqliteDatabase
from tests.command_line import Cli
from tests.database_files import writer

NAMES = ("a", "b", "c")
KINDS = (LoggedKind.SYNC_BEGUN, LoggedKind.SYNC_ENDED)


class Installations:
    """Three installations with files of their own, and what happened to each."""

    def __init__(self, folder: Path) -> None:
        self.known = {n: InstallationInfo("acme", n, f"id{n}", {}, 0.0) for n in NAMES}
        self.paths = {n: folder / f"{n}.db" for n in NAMES}
        self.happened: list[tuple[str, int, LoggedKind]] = []

    def happen(self, name: str, kind: LoggedKind = LoggedKind.SYNC_BEGUN) -> None:
        """One more event of an installation."""
        with writer(self.paths[name]) as connection:
            number = record_event(connection, kind, {"of": name}, now=1e9)
        self.happened.append((name, number, kind))

    def follower(self, names: str, after: str | None = None, kinds: tuple[str, ...] = ()) -> Follower:
        """One that follows some of them."""

        def sources() -> list[tuple[InstallationInfo, Database]]:
            return [(self.known[n], SqliteDatabase(self.paths[n])) for n in names]

        return Follower(sources, after, single=len(names) == 1, kinds=kinds)


def seen(events: list[InstallationEvent]) -> dict[str, list[int]]:
    """The numbers of events by installation, in the order in which they came."""
    found: dict[str, list[int]] = {}
    for one in events:
        assert one.facts["of"] == one.installation.partition(":")[2]
        found.setdefault(one.installation.partition(":")[2], []).append(one.number)
    return found


@given(st.data())
def test_p26_p31_a_reader_gets_every_later_event_of_its_installations_in_order_and_of_no_other(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    world = Installations(tmp_path_factory.mktemp("events"))
    names = data.draw(st.sampled_from(["a", "b", "ab", "ca", "abc"]))
    kinds = data.draw(st.sampled_from([(), (KINDS[0],), KINDS]))
    follower = world.follower(names, kinds=kinds)
    read: list[InstallationEvent] = []
    for step in data.draw(st.lists(st.sampled_from([*NAMES, "read", "go on"]), max_size=30)):
        if step in NAMES:
            world.happen(step, data.draw(st.sampled_from(KINDS)))
        elif step == "read":
            read += follower.read()
        else:  # in another process, with the cursor of the newest event that was read
            follower = world.follower(names, read[-1].cursor if read else None, kinds)
    read += follower.read()
    expected = {n: [k for m, k, kind in world.happened if m == n and kind in (kinds or KINDS)] for n in names}
    assert seen(read) == {n: numbers for n, numbers in expected.items() if numbers}
    assert world.follower(names, follower.cursor, kinds).cursor == follower.cursor or not read


def test_a_reader_that_starts_now_gets_what_happens_from_then_on(tmp_path: Path) -> None:
    world = Installations(tmp_path)
    world.happen("a")
    follower = world.follower("ab", "now")
    world.happen("b")
    world.happen("a")
    assert seen([*follower.read()]) == {"a": [world.happened[2][1]], "b": [world.happened[1][1]]}
    assert [*follower.read()] == []


def test_an_installation_that_comes_later_is_followed_from_its_first_event(tmp_path: Path) -> None:
    world = Installations(tmp_path)
    world.happen("a")
    follower = world.follower("a" + "b", "now")
    world.happen("b")
    assert [one.installation for one in follower.read()] == ["acme:b"]


@pytest.mark.parametrize(
    ("names", "cursor"), [("a", "~e30"), ("ab", "17"), ("ab", "~%%"), ("a", "x"), ("ab", "~WzFd")]
)
def test_a_cursor_of_something_else_is_refused(tmp_path: Path, names: str, cursor: str) -> None:
    with pytest.raises(InvalidCursor, match="no place among the events"):
        Installations(tmp_path).follower(names, cursor)


def test_a_reader_that_comes_too_late_learns_that_events_are_gone(tmp_path: Path) -> None:
    world = Installations(tmp_path)
    world.happen("a")
    first = next(world.follower("a").read())
    for _ in range(3):
        world.happen("a")
    with writer(world.paths["a"]) as connection:
        expire_events(connection, kept=1)
    with pytest.raises(CursorExpired):
        next(world.follower("a", first.cursor).read())


def test_p31_a_reader_that_reads_nothing_holds_up_no_writer(tmp_path: Path) -> None:
    world = Installations(tmp_path)
    for _ in range(3):
        world.happen("a")
    follower = world.follower("a")
    slow = follower.read()
    next(slow)  # and then it does not go on
    world.happen("a")
    assert not Path(f"{world.paths['a']}-wal").exists()  # nothing else has the file open
    assert len([*slow, *follower.read()]) == 3


@pytest.fixture
def synced(cli: Cli, tmp_path: Path) -> Path:
    """A project whose installation was synced."""
    assert cli("sync", "acme:default").status == 0
    return tmp_path


def test_a_program_follows_a_sync_from_its_beginning_to_its_end(synced: Path) -> None:
    async def work() -> list[str]:
        kinds: list[str] = []
        async with Project.open(synced) as project:
            earlier = [one async for one in project.events("acme", once=True)]
            following = project.events("acme", earlier[-1].cursor)
            first = asyncio.ensure_future(anext(following))  # whenever it looks first, that is in time
            runtime = await project.runtime("acme")
            await (await runtime.sync()).completion()
            kinds.append((await first).kind)
            async for event in following:
                kinds.append(event.kind)
                if event.kind == "sync.ended":
                    break
            await following.aclose()
        return kinds

    assert asyncio.run(work()) == ["sync.begun", "sync.ended"]


@pytest.mark.parametrize("wait", [-1.0, 0.0, 0.05])
def test_a_reader_that_waits_for_so_long_ends_when_nothing_happens(synced: Path, wait: float) -> None:
    async def work() -> list[str]:
        async with Project.open(synced) as project:
            return [event.kind async for event in project.events("acme", wait=wait)]

    assert asyncio.run(work()) == ["sync.begun", "sync.ended"]


def test_what_happens_while_a_reader_waits_is_read_and_the_wait_begins_again(synced: Path) -> None:
    async def work() -> list[str]:
        async with Project.open(synced) as project:
            runtime = await project.runtime("acme")
            kinds = []
            async for event in project.events("acme", wait=0.05):
                kinds.append(event.kind)
                if len(kinds) in (2, 4):
                    await (await runtime.sync()).completion()
            return kinds

    assert asyncio.run(work()) == ["sync.begun", "sync.ended"] * 3


def test_a_wait_for_the_next_event_ends_at_once_when_it_is_cancelled(synced: Path) -> None:
    async def work() -> None:
        async with Project.open(synced) as project:
            waiting = asyncio.ensure_future(anext(project.events("acme", "now")))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(work())


def test_watch_shows_events_and_goes_on_behind_a_cursor(cli: Cli, synced: Path) -> None:
    assert [line.split("  ")[1] for line in cli("watch", "--once").out.splitlines()] == ["acme:default"] * 2
    begun, ended = cli("watch", "acme", "--once", "-o", "json").data["data"]
    assert (begun["kind"], ended["kind"]) == ("sync.begun", "sync.ended")
    after = cli("watch", "acme", "--once", "-o", "json", "--after", begun["cursor"]).data
    assert (after["data"], after["cursor"]) == ([ended], ended["cursor"])
    assert cli("watch", "--once", "--kinds", "sync.paused").out == ""
    assert cli("watch", "--once", "--after", "now", "-o", "json").data["data"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "json"], "never ends, which json cannot be"),
        (["--kinds", "sync.end"], "unknown kind of event 'sync.end'"),
        (["--after", "soon", "--once"], "no place among the events"),
        (["nothing", "--once"], "unknown installation 'nothing'"),
    ],
)
def test_watch_says_what_is_wrong_with_its_words(
    cli: Cli, synced: Path, words: list[str], message: str
) -> None:
    run = cli("watch", *words)
    assert (run.status, message in run.err) == (2, True), run.err


def test_p31_two_writings_at_the_same_moment_are_both_read(tmp_path: Path) -> None:
    world = Installations(tmp_path)
    world.happen("a")
    follower = world.follower("a")
    assert len([*follower.read()]) == 1
    before = world.paths["a"].stat()
    world.happen("a")
    os.utime(world.paths["a"], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len([*follower.read()]) == 1
