"""The contents of Google Drive's files, kept beside the database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from max_connectors.google_drive_api import EXPORTS, MOST_BYTES

from max import Json, Status
from max.errors import InvalidAnswers
from max.projects.kept_contents import contents_of, copy_contents
from max.storage.postgres import PostgresDatabase
from max.storage.sqlite import SqliteDatabase
from max.upstream.recording import Recording
from max.upstream.replay import Replay
from tests import drive_fake
from tests.drive_fake import DOCUMENT, FOLDER, SHORTCUT, Copy, account, needs_fake
from tests.postgres_server import new_schema, shared_url
from tests.storage.test_moves import carry

pytestmark = needs_fake
KINDS = ("text/", "application/json", "application/pdf", *EXPORTS)


@pytest.fixture
def fake() -> Iterator[Any]:
    with account() as served:
        yield served


@pytest.fixture
def copy(fake: Any, tmp_path: Path) -> Copy:
    return Copy(tmp_path, fake, root_folder="root", contents=True)


def content_of(fake: Any, id: str) -> bytes:
    """A file's content as the fake gives it."""
    file = fake.files[id]
    word = "text of " if file["mimeType"] in EXPORTS else "content of "
    data: bytes = fake.content.get(id, f"{word}{file['name']}".encode())
    return data


def kept(copy: Copy) -> dict[str, bytes]:
    """The kept files, by their names; every one is in its place, and whole."""
    found = {}
    for file in (copy.folder / "files").rglob("*"):
        if file.is_file() and not file.name.startswith("."):  # what a killed process was writing
            assert file.parent.name == file.name[:2]
            found[file.name] = file.read_bytes()
            assert hashlib.sha256(found[file.name]).hexdigest() == file.name
    return found


def check(copy: Copy, *without: str) -> None:
    """Every wanted file names a kept file with its content, but for those ``without``."""
    files, rows = kept(copy), copy.rows()["DriveFile"]
    for id, file in copy.fake.files.items():
        wanted = file["mimeType"].startswith(KINDS) and not file["trashed"] and id not in without
        name: Any = rows[id].get("content")
        assert (name is not None) == wanted, id
        if wanted:
            assert files[name] == content_of(copy.fake, id)
            assert rows[id]["content_size"] == len(files[name])
            assert rows[id]["content_type"] == EXPORTS.get(file["mimeType"], file["mimeType"])


def downloads(copy: Copy) -> list[str]:
    """The ids of the files whose contents were asked for since the last call."""
    log = [one for one in copy.fake.log if one.q("alt") == "media" or one.path.endswith("/export")]
    copy.fake.log.clear()
    return [one.path.split("/")[4] for one in log]


def test_each_row_names_the_kept_file_that_holds_its_content(copy: Copy) -> None:
    assert copy.sync().status is Status.COMPLETED
    check(copy)


def test_contents_are_kept_only_when_they_are_asked_for(fake: Any, tmp_path: Path) -> None:
    copy = Copy(tmp_path, fake)
    copy.sync()
    assert downloads(copy) == []
    assert not (tmp_path / "files").exists()


def test_only_contents_that_have_changed_are_asked_for_again(copy: Copy) -> None:
    copy.sync()
    first = downloads(copy)
    assert len(first) == len(set(first)) > 20
    copy.sync()
    assert downloads(copy) == []
    copy.fake.put("file0", md5Checksum="0" * 32)
    copy.fake.content["file0"] = b"new"
    document = next(id for id, file in copy.fake.files.items() if file["mimeType"] == DOCUMENT)
    copy.fake.put(document)
    copy.fake.put("file5", name="renamed", modifiedTime=copy.fake.files["file5"]["modifiedTime"])
    copy.sync()
    assert sorted(downloads(copy)) == sorted(["file0", document])
    assert copy.rows()["DriveFile"]["file0"]["content"] == hashlib.sha256(b"new").hexdigest()


def test_the_same_content_is_kept_once(copy: Copy) -> None:
    copy.fake.content |= dict.fromkeys(["file0", "shared0", "leaf"], b"the same")
    copy.sync()
    rows = copy.rows()["DriveFile"]
    assert len({rows[id]["content"] for id in ("file0", "shared0", "leaf")}) == 1
    check(copy)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"reason": "exportSizeLimitExceeded"}, "larger than the 10 MB"),
        ({"reason": "cannotDownloadFile"}, "does not allow downloads"),
        ({"reason": "cannotDownloadAbusiveFile"}, "malware"),
    ],
)
def test_a_content_that_drive_does_not_give_is_no_failure_and_says_why(
    copy: Copy, values: Json, reason: str
) -> None:
    body = {"error": {"errors": [values]}}
    copy.fake.inject(r"files/leaf\?.*alt=media", status=403, body=body)
    assert copy.sync().status is Status.COMPLETED
    assert reason in copy.rows()["DriveFile"]["leaf"]["content_problem"]
    check(copy, "leaf")
    downloads(copy)
    copy.sync()
    assert downloads(copy) == []


def test_a_document_that_is_too_large_to_export_says_so(copy: Copy) -> None:
    document = next(id for id, file in copy.fake.files.items() if file["mimeType"] == DOCUMENT)
    copy.fake.content[document] = b"x" * (10 * 1024 * 1024 + 1)
    assert copy.sync().status is Status.COMPLETED
    assert "10 MB" in copy.rows()["DriveFile"][document]["content_problem"]
    check(copy, document)


def test_a_content_above_the_cap_is_not_asked_for_and_an_exported_one_is_not_kept(
    fake: Any, tmp_path: Path
) -> None:
    copy = Copy(tmp_path, fake, contents=True, content_bytes=50)
    fake.put("leaf", log=False, size="51")
    document = next(id for id, file in fake.files.items() if file["mimeType"] == DOCUMENT)
    fake.content[document] = b"y" * 51
    assert copy.sync().status is Status.COMPLETED
    assert "leaf" not in downloads(copy)
    assert "more than the 50" in copy.rows()["DriveFile"][document]["content_problem"]
    check(copy, "leaf", document)


def test_a_sign_in_without_access_to_contents_is_a_failure(copy: Copy) -> None:
    body = {"error": {"errors": [{"reason": "insufficientPermissions"}]}}
    copy.fake.inject(r"files/leaf\?.*alt=media", status=403, body=body)
    result = copy.sync()
    assert (result.status, result.failures[0].code) == (Status.PARTIAL, "upstream.permission")
    assert "connect again" in result.failures[0].hint


def test_folders_shortcuts_and_trash_have_no_content(copy: Copy) -> None:
    copy.fake.put("leaf", log=False, trashed=True)
    copy.sync()
    check(copy)
    none = [id for id, file in copy.fake.files.items() if file["mimeType"] in (FOLDER, SHORTCUT)]
    assert not {*none, "leaf"} & set(downloads(copy))


def test_a_download_that_is_cut_off_leaves_no_part_of_it(copy: Copy) -> None:
    copy.fake.content["leaf"] = b"z" * 5000
    copy.fake.inject(r"files/leaf\?.*alt=media", truncate=100, times=2)
    assert copy.sync().status is Status.COMPLETED
    check(copy)


def test_a_killed_sync_asks_for_no_finished_content_again_and_leaves_whole_files(copy: Copy) -> None:
    copy.fake.inject("alt=media|export", call=lambda _: copy.process.kill(), skip=7)
    killed = copy.apart("contents")
    copy.fake.faults.clear()
    assert killed.returncode != 0
    kept(copy)
    finished = {id for id, row in copy.rows()["DriveFile"].items() if row.get("content")}
    downloads(copy)
    assert copy.apart("contents").returncode == 0
    assert not finished & set(downloads(copy))
    check(copy)


def test_p45_a_replay_keeps_the_same_contents(copy: Copy, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    copy.recording = lambda: Recording(calls)
    copy.sync()
    copy.recording = lambda: None
    (tmp_path / "again").mkdir()
    again = Copy(tmp_path / "again", root_folder="root", contents=True)
    again.values |= {"base_url": copy.fake.url, "token_url": copy.fake.url}
    again.recording = lambda: Replay(calls)
    assert again.sync().status is Status.COMPLETED
    assert again.rows() == copy.rows()
    assert kept(again) == kept(copy)


def test_a_cap_that_memory_could_not_hold_is_refused(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidAnswers, match="content_bytes"):
        Copy(tmp_path, fake, content_bytes=MOST_BYTES + 1).configured()


@pytest.mark.postgres
def test_contents_that_moved_into_a_database_are_not_asked_for_again_there(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.sync()
    files = kept(copy)
    here, there = SqliteDatabase(copy.folder / "data.db"), PostgresDatabase(shared_url(), new_schema())
    try:
        carry(here, there)
        copy_contents(contents_of(here), contents_of(there), lambda number: None)
        downloads(copy)
        monkeypatch.setattr(drive_fake, "SqliteDatabase", lambda path: there)
        copy.fake.put("file0", md5Checksum="0" * 32)
        copy.fake.content["file0"] = b"new"
        assert copy.sync().status is Status.COMPLETED
        assert downloads(copy) == ["file0"]
        found = {
            one.name: b"".join(contents_of(there).blocks(one.name)) for one in contents_of(there).listed()
        }
    finally:
        there.delete()
    assert found == files | {hashlib.sha256(b"new").hexdigest(): b"new"}
