"""Google Drive's connector without Google: from recordings, and from the fake if it is available."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from max import Status
from max.upstream.replay import Replay
from tests.drive_fake import Copy, account, first_part, needs_fake, second_part
from tests.record_drive import FILES, FIRST, SECOND


@pytest.fixture(params=["recording", pytest.param("fake", marks=needs_fake)])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Copy]:
    """An installation before its first sync, of a recording or of the fake."""
    if request.param == "recording":
        yield Copy(tmp_path)
        return
    with account(FILES) as fake:
        yield Copy(tmp_path, fake)


def first(copy: Copy) -> Copy:
    """The installation after its first sync."""
    if copy.fake is None:
        copy.recording = partial(Replay, FIRST)
    assert first_part(copy).status is Status.COMPLETED
    return copy


def second(copy: Copy) -> Copy:
    """The installation after its second sync."""
    first(copy)
    if copy.fake is None:
        copy.recording = partial(Replay, SECOND)
    assert second_part(copy).status is Status.COMPLETED
    return copy


def test_the_first_sync_copies_everything(copy: Copy) -> None:
    rows = first(copy).rows()
    assert {name: len(found) for name, found in rows.items()} == {
        "Drive": 2,
        "DriveFile": FILES + 27,
        "DriveUser": 4,
        "DrivePermission": FILES
        + 27
        - 1
        + 2
        + 1
        + 1,  # one each; none of foreign; three of mine; two of team and plan
        "DriveAccount": 1,
    }


def test_files_have_paths_in_their_drive_and_without_it_where_a_folder_cannot_be_seen(copy: Copy) -> None:
    files = first(copy).rows()["DriveFile"]
    assert files["leaf"]["path"] == "/My Drive/Folder 1/Deep/Deeper/Q1\u2215Q2"
    assert files["plan"]["path"] == "/Team/Plans/2025"
    assert files["lost"]["path"] == "below the invisible"


def test_a_shortcut_names_its_target(copy: Copy) -> None:
    link = first(copy).rows()["DriveFile"]["link"]
    assert (link["shortcut_target"], link["shortcut_type"], link["size"]) == ("leaf", "text/plain", None)


def test_permissions_name_file_grantee_and_role(copy: Copy) -> None:
    permissions = first(copy).rows()["DrivePermission"]
    assert {one["grantee"]: one["role"] for one in permissions.values() if one["file"] == "mine"} == {
        "1": "owner",
        "7": "reader",
        "8": "writer",
    }
    assert permissions["plan/9"]["inherited"] is True


def test_the_second_sync_renames_moves_and_removes(copy: Copy) -> None:
    rows = second(copy).rows()
    files = rows["DriveFile"]
    assert files["leaf"]["path"] == "/My Drive/Folder 2/Deeper/Q1\u2215Q2"
    assert files["plan"]["path"] == "/Team/Old plans/2025"
    assert files["new"]["path"] == "/My Drive/New/new.txt"
    assert not {"file2", "shared1"} & files.keys()
    assert files["file1"]["trashed"] is True
    grants = {
        one["grantee"]: one["role"] for one in rows["DrivePermission"].values() if one["file"] == "mine"
    }
    assert grants == {"1": "owner", "7": "writer", "9": "reader"}
