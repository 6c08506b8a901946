"""Whatever happens in an account, and whenever: after two calm syncs the copy is equal to it.

One is enough but for what a full listing before it has missed: that sync removes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from max_connectors import google_drive
from max_connectors import google_drive_paths as paths
from max_connectors.google_drive import connector

from max import Status
from max.connecting import Retry
from tests.drive_fake import FOLDER, START, Copy, account, grant, needs_fake, person

pytestmark = needs_fake
FOLDERS = ("folder0", "folder1", "deep", "deeper", "extra", "folder9")  # the last two may come later
NUMBERS = st.integers(0, 60)
ACTIONS = (
    "make",
    "rename",
    "move",
    "trash",
    "remove",
    "lose",
    "share",
    "cross",
    "drive",
    "fault",
    "sync",
    "during",
    "full",
)
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), NUMBERS, NUMBERS), min_size=3, max_size=14)


class World:
    """An account in which things happen; each by two numbers, so that any two numbers do."""

    def __init__(self, fake: Any, copy: Copy) -> None:
        self.fake, self.copy, self.made = fake, copy, 0
        for number in range(5):  # a page holds all files of one moment, as it does with pages of 1,000
            fake.files[f"folder{number}"]["createdTime"] = fake.clock.iso(START - number)

    def do(self, action: str, one: int, other: int) -> None:
        """Let something happen."""
        happen: Callable[[int, int], None] = getattr(self, action)
        happen(one, other)

    def file(self, number: int) -> str:
        """One of the files that exist, folders too; never the top folder."""
        known: list[str] = sorted(self.fake.files.keys() - {"root"})
        return known[number % len(known)]

    def put(self, id: str, **values: Any) -> None:
        """Change a file; when it changes its drive, both logs say so."""
        before = self.fake.files.get(id, {}).get("driveId")
        if "driveId" in values and values["driveId"] is None:
            del values["driveId"]
            self.fake.files[id].pop("driveId", None)
        self.fake.put(id, **values)
        if id in self.fake.files and self.fake.files[id].get("driveId") != before:
            self.fake.changes.append({**self.fake.changes[-1], "_drive": before})

    def folder(self, number: int, drive: str | None) -> str:
        """A folder of a drive, or its top."""
        known: list[str] = [
            id
            for id in (*FOLDERS, "team", *sorted(self.fake.files))
            if (file := self.fake.files.get(id))
            and file["mimeType"] == FOLDER
            and file.get("driveId") == drive
        ]
        return [drive or "root", *known][number % (len(known) + 1)]

    def above(self, id: str) -> set[str]:
        """A file and the folders above it."""
        found: set[str] = set()
        at: str | None = id
        while at is not None and at not in found:
            found.add(at)
            at = next(iter(self.fake.files.get(at, {}).get("parents", [])), None)
        return found

    def make(self, one: int, other: int) -> None:
        """A new file or folder; now and then one that is older than its folder."""
        self.made += 1
        id = FOLDERS[one % len(FOLDERS)] if one % 3 == 0 else f"made{self.made}"
        if id in self.fake.files:
            return
        kind = FOLDER if one % 3 == 0 or one % 5 == 0 else "text/plain"
        drive = "D1" if "D1" in self.fake.drives and other % 4 == 0 else None
        values: dict[str, Any] = {"driveId": drive, "owners": []} if drive else {}
        at = self.fake.clock.iso(START + 60 * other) if one % 2 else self.fake.clock.iso()
        self.fake.put(
            id,
            name=f"Made {id}",
            mimeType=kind,
            parents=[self.folder(other, drive)],
            createdTime=at,
            **values,
        )

    def rename(self, one: int, other: int) -> None:
        self.put(self.file(one), name=f"name {other}")

    def move(self, one: int, other: int) -> None:
        """Into another folder of its drive, never into one below itself."""
        id = self.file(one)
        into = self.folder(other, self.fake.files[id].get("driveId"))
        if id not in self.above(into):
            self.put(id, parents=[into])

    def trash(self, one: int, other: int) -> None:
        self.put(self.file(one), trashed=bool(other % 2))

    def remove(self, one: int, _: int) -> None:
        """For good; what is below a folder stays visible."""
        self.fake.remove(self.file(one))

    def lose(self, one: int, other: int) -> None:
        """Access, and later perhaps get it back."""
        id = self.file(one)
        file = self.fake.files[id]
        self.fake.remove(id)
        if other % 2:
            self.fake.files[id] = file
            self.put(id)

    def share(self, one: int, other: int) -> None:
        ids = {1, other % 7 + 2, one % 5 + 2}
        self.put(
            self.file(one), permissions=[grant(id) for id in sorted(ids)], sharingUser=person(other % 9 + 2)
        )

    def cross(self, one: int, other: int) -> None:
        """A file, not a folder, goes to another drive."""
        id = self.file(one)
        file = self.fake.files[id]
        if file["mimeType"] != FOLDER and "D1" in self.fake.drives:
            drive = None if file.get("driveId") else "D1"
            self.put(id, driveId=drive, parents=[self.folder(other, drive)])

    def drive(self, one: int, other: int) -> None:
        """The shared drive gets another name."""
        self.fake.drives["D1"]["name"] = f"Drive {other}"

    def fault(self, one: int, other: int) -> None:
        """One of the next requests fails, some so that the sync cannot end."""
        kinds: list[dict[str, Any]] = [{"status": 500}, {"status": 403}, {"drop": True}, {"garbage": True}]
        body = {"error": {"errors": [{"reason": "domainPolicy"}]}}
        kinds.append({"status": 403, "body": body})
        self.fake.inject("GET", skip=other % 20, **kinds[one % len(kinds)])

    def during(self, one: int, other: int) -> None:
        """Something happens while the next sync is under way."""
        action = ("rename", "move", "remove", "make", "cross", "share")[one % 6]
        self.fake.inject("GET", call=lambda _: self.do(action, other, one), skip=other % 15)

    def sync(self, one: int, other: int) -> None:
        self.copy.sync(allow_removals=True)
        self.fake.faults.clear()

    def full(self, one: int, other: int) -> None:
        self.copy.sync(allow_removals=True, full=True)
        self.fake.faults.clear()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, short walks and no waits."""
    monkeypatch.setattr(google_drive, "PAGE", 4)
    monkeypatch.setattr(paths, "STEP", 3)
    monkeypatch.setattr(paths, "GROUP", 2)
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=4, base=0.001, cap=0.01))


def calm(world: World) -> list[str]:
    """What is wrong after two calm syncs."""
    world.fake.faults.clear()
    world.copy.sync(allow_removals=True)
    result = world.copy.sync(allow_removals=True)
    assert result.status is Status.COMPLETED, result
    return world.copy.differences()


@settings(max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_after_any_history_two_calm_syncs_make_the_copy_equal(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, account(files=4) as fake:
        world = World(fake, Copy(Path(folder), fake, root_folder="root"))
        for action, one, other in steps:
            world.do(action, one, other)
        assert calm(world) == []
