"""Google Drive's connector against a strict fake of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from max_connectors import google_drive
from max_connectors import google_drive_paths as paths

from max.connecting import PermissionDenied
from max.model.tasks import Status
from tests.drive_fake import FOLDER, START, Copy, account, change, needs_fake, path_of

pytestmark = needs_fake


@pytest.fixture
def fake() -> Iterator[Any]:
    with account() as served:
        yield served


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five files, and walks of few steps."""
    monkeypatch.setattr(google_drive, "PAGE", 5)
    monkeypatch.setattr(paths, "STEP", 3)


@pytest.fixture
def copy(fake: Any, tmp_path: Path) -> Copy:
    return Copy(tmp_path, fake, root_folder="root")


def check_sync(copy: Copy, **options: Any) -> None:
    """A sync that completes, after which the copy is equal to the account."""
    result = copy.sync(**options)
    assert (result.status, result.failures) == (Status.COMPLETED, ())
    assert copy.differences() == []


class TestRows:
    """What a sync leaves is what the account has."""

    def test_a_first_sync_brings_everything(self, copy: Copy) -> None:
        check_sync(copy)

    def test_a_first_sync_of_many_pages_brings_everything(self, copy: Copy, small: None) -> None:
        check_sync(copy)

    def test_changes_of_every_kind_come_with_the_next_sync(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        change(copy.fake)
        check_sync(copy)

    def test_a_full_sync_after_changes_brings_the_same(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        change(copy.fake)
        check_sync(copy, full=True)

    def test_what_drive_says_is_gone_is_removed_with_its_permissions(self, copy: Copy) -> None:
        check_sync(copy)
        copy.fake.remove("mine")
        check_sync(copy)
        rows = copy.rows()
        assert "mine" not in rows["DriveFile"]
        assert not [id for id in rows["DrivePermission"] if id.startswith("mine/")]

    def test_a_file_to_which_access_was_lost_comes_back_with_it(self, copy: Copy) -> None:
        check_sync(copy)
        before = copy.fake.files["foreign"]
        copy.fake.remove("foreign")
        check_sync(copy)
        copy.fake.put("foreign", **{name: before[name] for name in before if name != "id"})
        copy.fake.files["foreign"].pop("parents", None)
        copy.fake.files["foreign"].pop("permissions", None)
        check_sync(copy)

    def test_trash_is_kept_and_marked(self, copy: Copy) -> None:
        check_sync(copy)
        copy.fake.put("leaf", trashed=True)
        check_sync(copy)
        assert copy.rows()["DriveFile"]["leaf"]["trashed"] is True

    def test_numbers_of_64_bits_are_exact(self, copy: Copy) -> None:
        check_sync(copy)
        assert copy.rows()["DriveFile"]["binary"]["size"] == 9_007_199_254_740_993

    def test_a_file_that_moves_between_drives_is_never_removed(self, copy: Copy) -> None:
        check_sync(copy)
        copy.fake.put("file4", driveId="D1", parents=["D1"])
        copy.fake.put("shared3", parents=["folder1"])
        moved = copy.fake.files["shared3"]
        moved.pop("driveId")
        copy.fake.changes[-1]["_drive"] = None
        copy.fake.changes.append({**copy.fake.changes[-1], "_drive": "D1"})  # it also left its drive
        check_sync(copy)


class TestPaths:
    """A folder that is renamed, moved or lost changes the paths below it, without a request."""

    def test_a_renamed_folder_renames_everything_below(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        copy.requests()
        copy.fake.put("folder1", name="Renamed")
        check_sync(copy)
        assert copy.rows()["DriveFile"]["leaf"]["path"] == "/My Drive/Renamed/Deep/Deeper/Q1\u2215Q2"
        assert copy.requests().count("changes") == 2

    def test_a_moved_folder_takes_everything_along(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        copy.fake.put("deep", parents=["folder4"])
        check_sync(copy)

    def test_folders_that_change_places_in_one_sync(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        copy.fake.put("deeper", parents=["root"], name="Top")
        copy.fake.put("deep", parents=["deeper"])
        copy.fake.put("folder1", parents=["deep"], name="Bottom")
        check_sync(copy)

    def test_a_folder_that_is_lost_leaves_what_is_below_it_without_a_drive(
        self, copy: Copy, small: None
    ) -> None:
        check_sync(copy)
        copy.fake.remove("folder1")
        check_sync(copy)
        assert copy.rows()["DriveFile"]["leaf"]["path"] == "Deep/Deeper/Q1\u2215Q2"

    def test_a_folder_that_only_a_full_listing_finds_gone_leaves_right_paths(
        self, copy: Copy, small: None
    ) -> None:
        check_sync(copy)
        del copy.fake.files["folder1"]  # the log does not say so
        copy.sync(full=True)
        assert "folder1" not in copy.rows()["DriveFile"]
        check_sync(copy)
        assert copy.rows()["DriveFile"]["leaf"]["path"] == "Deep/Deeper/Q1\u2215Q2"

    def test_a_folder_that_becomes_visible_gives_the_files_below_it_their_path(
        self, copy: Copy, small: None
    ) -> None:
        check_sync(copy)
        assert copy.rows()["DriveFile"]["lost"]["path"] == "below the invisible"
        copy.fake.put("hidden-folder", name="Found", mimeType=FOLDER, parents=["folder0"])
        check_sync(copy)
        assert copy.rows()["DriveFile"]["lost"]["path"] == "/My Drive/Folder 0/Found/below the invisible"

    def test_a_renamed_shared_drive_renames_everything_in_it(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        copy.fake.drives["D1"]["name"] = "Crew"
        check_sync(copy)
        assert copy.rows()["DriveFile"]["plan"]["path"] == "/Crew/Plans/2025"

    def test_a_walk_that_was_cut_off_is_done_by_the_next_sync(
        self, copy: Copy, small: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(12):  # more than one step reads
            copy.fake.put(f"child{number}", log=False, name=f"c{number}", parents=["deeper"])
        check_sync(copy)
        copy.fake.put("deep", name="Renamed")
        steps, walk = [0], paths.Tree.walk

        async def cut(self: paths.Tree, left: paths.Walk) -> list[Any]:
            steps[0] += 1
            if steps[0] > 3:
                raise PermissionDenied("cut off")
            return list(await walk(self, left))

        with monkeypatch.context() as patch:
            patch.setattr(paths.Tree, "walk", cut)
            assert copy.sync().status is Status.PARTIAL
        assert copy.differences() != []
        check_sync(copy)

    def test_folders_in_a_circle_have_an_end(self, copy: Copy) -> None:
        check_sync(copy)
        copy.fake.files["deep"]["parents"] = ["deeper"]  # as it may look between two pages
        copy.fake.put("deeper", name="Round")
        copy.fake.put("deep", name="And round")
        result = copy.sync()
        assert result.status is Status.COMPLETED
        assert copy.rows()["DriveFile"]["leaf"]["path"].endswith("Q1\u2215Q2")
        copy.fake.put("deep", parents=["folder1"])
        check_sync(copy)


class TestPages:
    """Whatever changes while the files are listed, none is missed."""

    def test_a_file_that_is_deleted_between_two_pages_hides_no_other(self, copy: Copy, small: None) -> None:
        def delete(_: Any) -> None:
            for id in ("file0", "file1"):  # both are on pages that were read
                copy.fake.remove(id)

        copy.fake.inject(r"v3/files\?corpora=user", call=delete, skip=3)
        assert copy.sync().status is Status.COMPLETED
        check_sync(copy)

    def test_what_changes_while_the_files_are_listed_comes_with_the_next_sync(
        self, copy: Copy, small: None
    ) -> None:
        copy.fake.inject(r"v3/files\?", call=lambda _: change(copy.fake), skip=4)
        assert copy.sync().status is Status.COMPLETED
        check_sync(copy)

    def test_files_of_one_moment_fill_several_pages(self, copy: Copy, small: None) -> None:
        at = copy.fake.clock.iso(START + 3000)
        for number in range(17):
            copy.fake.put(f"same{number}", log=False, createdTime=at)
        check_sync(copy)

    def test_after_a_refused_page_token_the_next_sync_lists_everything(self, copy: Copy, small: None) -> None:
        at = copy.fake.clock.iso(START + 3000)
        for number in range(17):
            copy.fake.put(f"same{number}", log=False, createdTime=at)
        body = {"error": {"errors": [{"reason": "invalid", "location": "pageToken"}]}}
        copy.fake.inject(r"v3/files\?.*createdTime.*pageToken", status=400, body=body)
        result = copy.sync()
        assert (result.status, result.failures[0].code) == (Status.PARTIAL, "upstream.sync_token")
        check_sync(copy)

    def test_an_order_that_drive_ignores_is_noticed(
        self, copy: Copy, small: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = copy.fake.files
        copy.fake.files = dict(sorted(files.items(), key=lambda one: one[0][::-1]))
        ignored = copy.fake.files_list

        def unsorted(request: Any, params: Any, body: Any) -> Any:
            return ignored(request, {**params, "orderBy": ""}, body)

        copy.fake.routes["drive.files.list"] = unsorted
        check_sync(copy)

    def test_a_search_that_was_incomplete_is_asked_for_again(self, copy: Copy) -> None:
        copy.fake.inject(r"v3/files\?", status=200, body={"incompleteSearch": True, "files": []})
        check_sync(copy)


class TestIncrements:
    """What a sync asks for."""

    def test_a_first_sync_asks_for_no_more_than_it_must(self, copy: Copy) -> None:
        check_sync(copy)
        found = copy.requests()
        shared = [id for id, file in copy.fake.files.items() if file.get("driveId")]
        lists = ["about", "drives", "changes/startPageToken", "files", "changes/startPageToken", "files"]
        assert sorted(found) == sorted([*lists, *(f"files/{id}/permissions" for id in shared)])

    def test_an_unchanged_account_costs_one_request_for_each_log_and_one_for_the_drives(
        self, copy: Copy
    ) -> None:
        check_sync(copy)
        copy.requests()
        check_sync(copy)
        assert sorted(copy.requests()) == ["changes", "changes", "drives"]

    def test_the_log_is_read_from_before_the_files_were_listed(self, copy: Copy) -> None:
        check_sync(copy)
        found = copy.requests()
        for name in ("files", "changes/startPageToken"):
            assert found.count(name) == 2
        assert found.index("changes/startPageToken") < found.index("files")

    def test_a_token_that_drive_no_longer_knows_leads_to_a_full_listing(self, copy: Copy) -> None:
        check_sync(copy)
        change(copy.fake)
        check_sync(copy)
        copy.fake.changes.clear()
        copy.fake.put("late", log=False)
        copy.fake.put("leaf", log=False, parents=["folder0"])
        copy.requests()
        check_sync(copy)
        assert copy.requests().count("files") == 2
        assert len(copy.fake.rejections) == 2
        copy.fake.rejections.clear()  # the token that the fake does not know is the point

    def test_of_several_changes_of_a_file_the_last_one_holds(self, copy: Copy) -> None:
        check_sync(copy)
        copy.fake.put("file5", name="once")
        copy.fake.remove("file5")
        copy.fake.put("file6", name="once")
        copy.fake.put("file6", name="twice")
        file = copy.fake.files["file7"]
        copy.fake.remove("file7")
        copy.fake.files["file7"] = file
        copy.fake.put("file7", name="back")
        check_sync(copy)


class TestDrives:
    """Drives that come, go, and are chosen."""

    def test_a_new_shared_drive_is_copied_by_the_next_sync(self, copy: Copy) -> None:
        check_sync(copy)
        copy.fake.drives["D2"] = {**copy.fake.drives["D1"], "id": "D2", "name": "More"}
        copy.fake.put("d2file", log=False, driveId="D2", parents=["D2"], owners=[], permissions=[])
        check_sync(copy)
        assert copy.rows()["DriveFile"]["d2file"]["path"] == "/More/d2file"

    def test_a_drive_that_is_gone_goes_with_its_files_and_asks_for_no_others(self, copy: Copy) -> None:
        check_sync(copy)
        copy.requests()
        del copy.fake.drives["D1"]
        for id in [id for id, file in copy.fake.files.items() if file.get("driveId") == "D1"]:
            del copy.fake.files[id]
        check_sync(copy, allow_removals=True)
        assert not [one for one in copy.requests() if "permissions" in one]

    def test_a_drive_that_cannot_be_reached_keeps_its_files(self, copy: Copy) -> None:
        check_sync(copy)
        before = copy.rows()["DriveFile"].keys()
        body = {"error": {"errors": [{"reason": "notFound", "location": "driveId"}]}}
        copy.fake.inject(r"changes\?.*driveId=D1", status=404, body=body)
        result = copy.sync()
        assert result.status is Status.PARTIAL
        assert "cannot be reached" in result.failures[0].message
        assert copy.rows()["DriveFile"].keys() == before

    def test_only_the_chosen_drives_are_copied(self, fake: Any, tmp_path: Path) -> None:
        copy = Copy(tmp_path, fake, drives=["D1"])
        assert copy.sync().status is Status.COMPLETED
        found = copy.rows()
        assert found["Drive"].keys() == {"D1"}
        assert {one["drive"] for one in found["DriveFile"].values()} == {"D1"}

    def test_my_drive_alone_asks_for_no_shared_drives(self, fake: Any, tmp_path: Path) -> None:
        copy = Copy(tmp_path, fake, drives=["my-drive"], root_folder="root")
        assert copy.sync().status is Status.COMPLETED
        assert "drives" not in copy.requests()
        assert copy.rows()["Drive"].keys() == {"root"}

    def test_a_file_that_went_to_a_drive_that_is_not_copied_is_removed(
        self, fake: Any, tmp_path: Path
    ) -> None:
        copy = Copy(tmp_path, fake, drives=["my-drive"], root_folder="root")
        copy.sync()
        fake.put("file4", driveId="D1", parents=["D1"])
        fake.changes.append({**fake.changes[-1], "_drive": None})  # it left My Drive, and can still be seen
        assert copy.sync().status is Status.COMPLETED
        assert "file4" not in copy.rows()["DriveFile"]


def test_every_row_of_a_large_tree_has_its_path(copy: Copy) -> None:
    parents = ["root", "folder0", "folder1"]
    for number in range(300):
        parent = parents[number * 7 % len(parents)]
        kind = FOLDER if number % 5 == 0 else "text/plain"
        at = copy.fake.clock.iso(START + 9000 - number)  # children are older than their folders
        copy.fake.put(
            f"n{number}", log=False, name=f"n{number}", mimeType=kind, parents=[parent], createdTime=at
        )
        if kind == FOLDER:
            parents.append(f"n{number}")
    check_sync(copy)
    copy.fake.put("n0", name="renamed", parents=["folder4"])
    check_sync(copy)
    found = copy.rows()["DriveFile"]
    assert all(found[id]["path"] == path_of(copy.fake, id) for id in copy.fake.files)
