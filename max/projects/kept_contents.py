"""Contents that a connector has kept, when its installation is moved: beside a file, or in a database.

Rule 1: what is there, whole, is not copied again.  So a copy that was ended anywhere is gone on with by doing
it again.

Rule 2: a content has arrived when as many bytes are there, and their SHA-256 is its name.

Rule 3: a name that no content can have is refused before anything is written: it may be another place.

Rule 4: blocks of a content are in memory, and pages of names; never all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import file_digest
from itertools import islice, zip_longest
from pathlib import Path

from ..errors import MoveRefused
from ..installations.files import KEPT, sync_folder, translated
from ..storage.database import Database
from ..storage.kept_files import Content, Contents

BLOCK = 1 << 20  # bytes of a file that are read at a time
PAGE = 100  # contents that are compared at a time: a server reads all bytes of so many in one statement
TOGETHER = 8 * 2**20  # bytes of contents that are kept in one step, or a single one that has more
NAME = re.compile("[0-9a-f]{64}")
FETCH = "fetch it again: max invalidate, then max sync; nothing was handed over"


def contents_of(database: Database) -> Contents:
    """The contents of the installation whose data a database has, or is to have."""
    if database.file is not None:
        return FolderContents(database.file.with_name(KEPT))
    from ..storage.postgres_contents import StoredContents  # a folder does without

    return StoredContents(database)


class FolderContents(Contents):
    """Those in a folder, which is made when there is something to keep."""

    most_bytes = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listed(self) -> Iterator[Content]:
        """Without what a killed process left of one, which begins with a dot."""
        with translated(self.folder):
            for below in sorted(self.folder.glob("*/")):
                for file in sorted(below.glob("[!.]*")):
                    if file.is_file():
                        yield Content(file.name, file.stat().st_size)

    def proven(self, names: Sequence[str]) -> dict[str, Content]:
        """Each is read."""
        found = {}
        with translated(self.folder):
            for name in names:
                place = self._place(name)
                if place.is_file():
                    with place.open("rb") as file:
                        found[name] = Content(file_digest(file, "sha256").hexdigest(), place.stat().st_size)
        return found

    def blocks(self, name: str) -> Iterator[bytes]:
        """Blocks of the file."""
        with translated(self.folder), self._place(name).open("rb") as file:
            while block := file.read(BLOCK):
                yield block

    def put(self, contents: Iterable[tuple[str, Iterator[bytes]]]) -> None:
        """Each has its name when all of it is on the disk."""
        with translated(self.folder):
            for name, blocks in contents:
                place = self._place(name)
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write(place, blocks)

    def _place(self, name: str) -> Path:
        return self.folder / name[:2] / name


def _write(place: Path, blocks: Iterator[bytes]) -> None:
    beside = place.with_name(f".{place.name}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(place)
    for folder in (place.parent, place.parent.parent, place.parent.parent.parent):
        sync_folder(folder)


def count_contents(source: Contents, target: Contents) -> int:
    """How many contents are to be copied; MoveRefused names one that the target cannot hold."""
    number, most = 0, target.most_bytes
    for one in _checked(source.listed()):
        number += 1
        if most is not None and one.bytes > most:
            raise MoveRefused(
                f"the content {one.name} has {one.bytes:,} bytes, and a database keeps up to {most:,}",
                hint="have its connector leave out what is larger and delete the file, or stay in a folder",
            )
    return number


def copy_contents(source: Contents, target: Contents, counted: Callable[[int], None]) -> None:
    """Copy what is missing, and compare all of it; MoveRefused when one did not arrive as its name says."""
    listed = _checked(source.listed())
    while page := list(islice(listed, PAGE)):
        names = [one.name for one in page]
        there = target.proven(names)
        for some in _groups([one for one in page if there.get(one.name) != one]):
            target.put((one.name, source.blocks(one.name)) for one in some)
            there |= target.proven([one.name for one in some])
        for one in page:
            if there.get(one.name) != one:
                raise _other_than_named(one)
        counted(len(page))
    for one, came in zip_longest(source.listed(), target.listed()):
        if one != came:
            raise MoveRefused(
                f"the contents differ at {(one or came).name}",
                hint="remove what was copied, and move again: max move INSTALLATION --undo",
            )


def _checked(contents: Iterable[Content]) -> Iterator[Content]:
    """The same; MoveRefused when a name is no SHA-256: a database may have one that leads elsewhere."""
    for one in contents:
        if not NAME.fullmatch(one.name):
            raise _other_than_named(one)
        yield one


def _other_than_named(one: Content) -> MoveRefused:
    name = one.name if NAME.fullmatch(one.name) else repr(one.name)[:80]
    return MoveRefused(f"the content {name} is not what its name says", hint=FETCH)


def _groups(contents: Sequence[Content]) -> Iterator[list[Content]]:
    """Contents that are kept in one step."""
    group: list[Content] = []
    for one in contents:
        if group and sum(other.bytes for other in group) + one.bytes > TOGETHER:
            yield group
            group = []
        group.append(one)
    if group:
        yield group
