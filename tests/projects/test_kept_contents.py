"""Contents that a connector has kept arrive whole, and are copied once, between folders and databases."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from max.errors import MoveRefused, ProjectError, StorageError, StorageMoving
from max.projects import kept_contents
from max.projects.kept_contents import FolderContents, contents_of, copy_contents, count_contents
from max.storage import postgres_contents
from max.storage.database import Database
from max.storage.kept_files import MOST_BYTES, Content, Contents, StoredFiles
from max.storage.moves import freeze
from max.storage.postgres import PostgresDatabase
from max.storage.sqlite import SqliteDatabase
from max.sync.kept_files import KeptFiles
from tests.contract.places import POSTGRES
from tests.postgres_server import new_schema, shared_url

SIX = (b"", b"one", b"exactly!", b"more than two blocks", b"\0\xff", b"last")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with contents."""
    return kept_in(tmp_path / "here", *SIX)


@pytest.fixture(params=["file", POSTGRES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The data to which contents are copied."""
    if request.param == "file":
        (tmp_path / "there").mkdir()
        yield SqliteDatabase(tmp_path / "there" / "data.db")
        return
    database = PostgresDatabase(shared_url(), new_schema())
    yield database
    database.delete()


@pytest.fixture
def target(place: Database, monkeypatch: pytest.MonkeyPatch) -> Contents:
    """The contents there; every block and page is small."""
    for module in (kept_contents, postgres_contents):
        monkeypatch.setattr(module, "BLOCK", 4)
        monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr(kept_contents, "TOGETHER", 8)
    return contents_of(place)


def kept_in(folder: Path, *contents: bytes) -> Path:
    """A folder in which a sync has kept contents."""
    folder.mkdir()
    for one in contents:
        asyncio.run(KeptFiles(folder / "files").keep(one))
    return folder / "files"


def copied(source: Contents, target: Contents) -> int:
    """Copy; how many are there now."""
    counts: list[int] = []
    copy_contents(source, target, counts.append)
    return sum(counts)


def content(contents: Contents) -> dict[str, bytes]:
    """All of them."""
    return {one.name: b"".join(contents.blocks(one.name)) for one in contents.listed()}


def test_contents_arrive_as_they_are_and_go_on_from_there_as_well(
    folder: Path, place: Database, target: Contents, tmp_path: Path
) -> None:
    source, back = FolderContents(folder), FolderContents(tmp_path / "back" / "files")
    (tmp_path / "back").mkdir()
    expected = {hashlib.sha256(one).hexdigest(): one for one in SIX}
    assert count_contents(source, target) == copied(source, target) == len(SIX)
    assert content(target) == expected
    assert [one.bytes for one in target.listed()] == [len(expected[name]) for name in sorted(expected)]
    assert copied(target, back) == len(SIX)
    assert content(back) == expected
    assert {path.name for path in back.folder.glob("*/*")} == {*expected}


@pytest.mark.postgres
def test_a_sync_keeps_more_beside_those_that_have_come_until_they_move_on(folder: Path) -> None:
    database = PostgresDatabase(shared_url(), new_schema())

    async def more() -> None:
        await database.start()
        assert await StoredFiles(database).keep(b"one") == hashlib.sha256(b"one").hexdigest()
        await StoredFiles(database).keep(b"more")
        await database.transact(lambda connection: freeze(connection, "elsewhere"))
        with pytest.raises(StorageMoving):
            await StoredFiles(database).keep(b"while it moves")
        await database.stop()

    try:
        copied(FolderContents(folder), contents_of(database))
        asyncio.run(more())
        assert sorted(content(contents_of(database)).values()) == sorted([*SIX, b"more"])
    finally:
        database.delete()


def test_a_copy_that_was_ended_reads_only_what_is_missing_or_damaged(
    folder: Path, target: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, blocks, read = FolderContents(folder), FolderContents.blocks, list[str]()
    monkeypatch.setattr(kept_contents, "TOGETHER", 1)

    def failing(self: FolderContents, name: str) -> Iterator[bytes]:
        if len(read) == 4:
            raise OSError(5, "the disk is broken")
        read.append(name)
        yield from blocks(self, name)

    with monkeypatch.context() as broken:
        broken.setattr(FolderContents, "blocks", failing)
        with pytest.raises((ProjectError, StorageError, OSError)):
            copied(source, target)
    there = [one.name for one in target.listed()]
    assert len(there) == 4
    target.put([(there[0], iter([b"damaged"]))])
    before, read = set(there[1:]), []

    def watched(self: FolderContents, name: str) -> Iterator[bytes]:
        read.append(name)
        return blocks(self, name)

    with monkeypatch.context() as spied:
        spied.setattr(FolderContents, "blocks", watched)
        copied(source, target)
    assert there[0] in read
    assert not before & {*read}
    assert len(read) == len(SIX) - len(before)
    assert content(target) == content(source)


def test_a_content_that_is_not_what_its_name_says_and_one_too_many_are_refused(
    folder: Path, target: Contents
) -> None:
    source = FolderContents(folder)
    file = max(folder.glob("*/*"))
    whole = file.read_bytes()
    file.write_bytes(b"damaged")
    with pytest.raises(MoveRefused, match=f"{file.name} is not what its name says"):
        copied(source, target)
    file.write_bytes(whole)
    target.put([("f" * 64, iter([b"extra"]))])
    with pytest.raises(MoveRefused, match=f"the contents differ at {'f' * 64}") as caught:
        copied(source, target)
    assert "--undo" in caught.value.hint


@pytest.mark.postgres
def test_a_content_that_is_too_large_for_a_database_is_refused_by_its_name(tmp_path: Path) -> None:
    name, here = "ab" + "0" * 62, FolderContents(tmp_path / "files")
    (tmp_path / "files/ab").mkdir(parents=True)
    with (tmp_path / "files/ab" / name).open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # which takes no space
    assert count_contents(here, FolderContents(tmp_path / "there")) == 1
    with pytest.raises(MoveRefused, match=f"{name} has 67,108,865 bytes, and a database keeps up to"):
        count_contents(here, contents_of(PostgresDatabase(shared_url(), new_schema())))


def test_a_large_content_is_never_held_as_a_whole(
    tmp_path: Path, place: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on its way there, nor on its way back."""
    block, blocks = 1 << 16, 40
    for module in (kept_contents, postgres_contents):
        monkeypatch.setattr(module, "BLOCK", block)
    source = FolderContents(kept_in(tmp_path / "here", os.urandom(block) * blocks))
    back = FolderContents(tmp_path / "back")
    copied(source, contents_of(place))
    tracemalloc.start()
    try:
        contents_of(place).put((one.name, source.blocks(one.name)) for one in source.listed())
        assert copied(contents_of(place), back) == 1
        assert tracemalloc.get_traced_memory()[1] < 20 * block
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["../../evil", "/evil", "", "A" * 64, "a" * 63])
def test_a_name_that_no_content_can_have_is_refused_and_writes_nothing(name: str, tmp_path: Path) -> None:
    """As a database has it that others write: it would be a place beside the folder."""

    class Hostile(FolderContents):
        def listed(self) -> Iterator[Content]:
            yield Content(name, 4)

        def blocks(self, name: str) -> Iterator[bytes]:
            yield b"evil"

    here, target = Hostile(tmp_path / "here"), FolderContents(tmp_path / "project" / "deep" / "files")
    with pytest.raises(MoveRefused, match="is not what its name says"):
        count_contents(here, target)
    with pytest.raises(MoveRefused, match="is not what its name says"):
        copied(here, target)
    assert [*tmp_path.rglob("*")] == []
