"""What a loader keeps beside the database: ``env.keep``."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from max import Project, Recording, Replay
from max.connecting import (
    Entity,
    Env,
    Field,
    Loader,
    Many,
    Page,
    PageRequest,
    Query,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    operation,
)
from max.errors import StorageFull, UsageError
from max.model.tasks import Status
from max.storage import moves
from max.storage.kept_files import MOST_BYTES, StoredFiles
from max.storage.postgres import PostgresDatabase
from max.sync.kept_files import KeptFiles
from tests.postgres_server import new_schema, shared_url
from tests.replays import run
from tests.sample import sample


class Box(Entity):
    """Holds the letters."""

    letters: Many[Letter] = Many()


class Letter(Entity):
    """Its text is kept in a file."""

    content: Field[str] = Field()
    before: Field[int] = Field()


@operation("sample:letter:download")
async def download(context: object, id: str) -> bytes:
    return f"text of {id}".encode()


@Loader.collection(Box.letters, brings=[Letter.content, Letter.before])
async def letters(parent: Ref[Box], request: PageRequest, env: Env[Any]) -> Page[Letter]:
    id = request.cursor or "1"
    stored = await env.fetch(Query(Letter).where(Letter.before.ge(0)))
    name = await env.keep(await env.run(download, id))
    return Page([Letter(id, content=name, before=len(stored.items))], next="2" if id == "1" else None)


async def seed(context: Any, store: Store) -> SyncPlan:
    await store.store(Box("all"))
    return SyncPlan([Step.for_root(Box.ref("all")).load_collection(Box.letters)])


CONNECTOR: dict[str, Any] = {
    "schema": Schema([Box, Letter], roots=[Box]),
    "loaders": [letters],
    "seeder": seed,
    "operations": [download],
}
TEXT = b"text of 1"
NAME = hashlib.sha256(TEXT).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path below it."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_a_row_names_the_file_that_holds_its_content_beside_the_database(tmp_path: Path) -> None:
    outcome = run(sample(**CONNECTOR), None, database=tmp_path / "data.db")
    assert outcome.stored["Letter"][0]["content"] == NAME
    assert (tmp_path / "files" / NAME[:2] / NAME).read_bytes() == TEXT
    assert len(contents(tmp_path / "files")) == 2


def test_a_loader_reads_the_rows_that_its_earlier_pages_have_stored() -> None:
    assert [one["before"] for one in _letters()] == [0, 1]


def _letters() -> list[dict[str, Any]]:
    @Loader.collection(Box.letters, brings=[Letter.content, Letter.before])
    async def letters(parent: Ref[Box], request: PageRequest, env: Env[Any]) -> Page[Letter]:
        id = request.cursor or "1"
        before = len((await env.fetch(Query(Letter).select(Letter.content))).items)
        return Page([Letter(id, content=id, before=before)], next="2" if id == "1" else None)

    return list(run(sample(**(CONNECTOR | {"loaders": [letters]})), None).stored["Letter"])


def test_a_replay_keeps_the_same_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    recorded = run(sample(**CONNECTOR), Recording(tmp_path / "calls"), database=first / "data.db")
    replayed = run(sample(**CONNECTOR), Replay(tmp_path / "calls"), database=second / "data.db")
    assert replayed.stored == recorded.stored
    assert contents(second / "files") == contents(first / "files") != {}


def test_an_installation_in_memory_keeps_no_files_and_says_so() -> None:
    outcome = run(sample(**CONNECTOR), None)
    assert outcome.result.status is not Status.COMPLETED
    assert outcome.result.failures[0].message == "an installation in memory keeps no files"


@pytest.mark.postgres
def test_an_installation_on_a_server_keeps_them_there_each_once() -> None:
    place = PostgresDatabase(shared_url(), new_schema())
    try:
        outcome = run(sample(**CONNECTOR), None, database=f"{place.url}#{place.schema}")
        assert outcome.result.status is Status.COMPLETED
        assert outcome.stored["Letter"][0]["content"] == NAME
        files = StoredFiles(place)

        async def again() -> None:
            await place.start()
            assert await files.keep(TEXT) == NAME
            with pytest.raises(UsageError, match="more than the 67,108,864"):
                await files.keep(bytes(MOST_BYTES + 1))
            await place.stop()

        asyncio.run(again())
        with place.reader() as connection:
            kept = connection.execute("SELECT name, content FROM _max_kept_file").fetchall()
            assert "_max_kept_file" not in [table.name for table in moves.survey(connection)]
        assert sorted(content for _, content in kept) == [TEXT, b"text of 2"]
        assert all(hashlib.sha256(content).hexdigest() == name for name, content in kept)
    finally:
        place.delete()


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    asyncio.run(KeptFiles(tmp_path / "files").keep(TEXT))
    place = tmp_path / "files" / NAME[:2] / NAME
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (place, place.parent, place.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_the_same_content_is_written_once_and_half_of_it_is_written_again(tmp_path: Path) -> None:
    kept, place = KeptFiles(tmp_path / "files"), tmp_path / "files" / NAME[:2] / NAME
    assert asyncio.run(kept.keep(TEXT)) == NAME
    before = place.stat().st_ino
    asyncio.run(kept.keep(TEXT))
    assert place.stat().st_ino == before
    place.write_bytes(TEXT[:3])  # of a disk that lost its end
    asyncio.run(kept.keep(TEXT))
    assert place.read_bytes() == TEXT


def test_a_write_that_fails_leaves_no_file_and_names_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="No space left on device"):
        asyncio.run(KeptFiles(tmp_path / "files").keep(TEXT))
    assert contents(tmp_path) == {}


def test_a_name_never_means_less_than_the_whole_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, folder = [], tmp_path / "files"
    flush = os.fsync

    def watched(descriptor: int) -> None:
        seen.append({name: data for name, data in contents(folder).items() if Path(name).name[0] != "."})
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    asyncio.run(KeptFiles(folder).keep(TEXT))
    assert seen[0] == {}
    assert all(data == TEXT for step in seen for data in step.values())


def test_the_error_of_a_loader_without_a_folder_says_what_to_do() -> None:
    with pytest.raises(UsageError) as caught:
        asyncio.run(KeptFiles().keep(TEXT))
    assert "database on a disk" in caught.value.hint


@pytest.mark.parametrize("linked", [False, True])
def test_the_files_go_with_their_installation(tmp_path: Path, linked: bool) -> None:
    async def main() -> None:
        async with Project.open(tmp_path / "project", create=True) as project:
            info = await project.connect("acme")
            folder = tmp_path / "project" / ".max" / "installations" / "acme" / "default"
            if linked:
                folder = folder.rename(tmp_path / "elsewhere")
                (tmp_path / "project" / ".max" / "installations" / "acme" / "default").symlink_to(folder)
            await KeptFiles(folder / "files").keep(TEXT)
            await project.disconnect(info)

    asyncio.run(main())
    assert [one for one in tmp_path.rglob("*") if one.name == NAME] == []
