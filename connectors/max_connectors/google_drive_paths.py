"""Paths: where each file is, from the folders that are stored.

Drive gives a file's folder, not its path.  A path is made of the names of the folders above, so a folder
that is renamed, moved or lost changes the path of everything below it, of which Drive says nothing.

Rule 1: a path comes from stored names and parents, never from another path.  So it does not matter in
which order files come, and no request is made.

Rule 2: what is below a changed folder is walked in steps of bounded size, each a page of the listing
that brought the folder.  The folder's own path is stored with the last step.  Whatever ends the
listing before that, the next one brings the folder again, finds that its path is wrong, and walks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from max.connecting import Env, Json, Query, Ref

from .google_drive_entities import FOLDER, Drive, DriveFile, Row, first_parent

STEP = 4000  # rows that one step of a walk reads, about
GROUP = 200  # folders whose children are read together, and rows that are read by id
SLASH = "\N{DIVISION SLASH}"  # in place of a slash within a name


@dataclass
class Place:
    """Where a file is: its name, and the folder that holds it.  ``path`` is the one that is stored."""

    name: str
    parent: str | None
    folder: bool
    path: str = ""
    permissions: Sequence[str] = ()


@dataclass
class Walk:
    """What is left to walk: folders on a stack, each group with the last child that was read.

    ``ends`` are the folders whose walk it is; their own paths are stored last.
    """

    stack: list[tuple[list[str], str]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, data: Json) -> Walk:
        """The inverse of to_json."""
        return cls([(list(ids), after) for ids, after in data["stack"]], list(data["ends"]))

    def to_json(self) -> Json:
        """The walk as JSON data, for a cursor."""
        return {"stack": self.stack, "ends": self.ends}

    def push(self, folders: Sequence[str]) -> None:
        """Walk these folders next."""
        if folders:
            self.stack.append((list(folders), ""))

    def next(self) -> tuple[list[str], str]:
        """The next folders to read, and the child behind which to go on."""
        ids, after = self.stack.pop()
        if len(ids) > GROUP:
            self.stack.append((ids[GROUP:], ""))
        return ids[:GROUP], after


class Tree:
    """The stored folders and files of a drive, as far as they are needed, below rows that have just come."""

    def __init__(self, env: Env[Any], drive: str, name: str) -> None:
        self._env, self._drive, self._name = env, drive, clean(name)
        self._places: dict[str, Place | None] = {}  # by id; None: it cannot be seen
        self._came: set[str] = set()  # the ids of rows that have just come; they have their paths

    async def stored(self, ids: Iterable[str]) -> dict[str, Place]:
        """Those of the files that are stored, as they are stored."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, Place] = {}
        for at in range(0, len(wanted), GROUP):
            some = wanted[at : at + GROUP]
            query = Query(DriveFile).where(DriveFile.id.is_in(some)).select(*FIELDS).limit(GROUP)
            found |= {one.id: place_of(one) for one in (await self._env.fetch(query)).items}
        return found

    def put(self, rows: Iterable[Row], gone: Iterable[str]) -> None:
        """Rows that have just come, and files that are gone; they hold over what is stored."""
        self._places |= dict.fromkeys(gone)
        for row in rows:
            self._came.add(row["id"])
            self._places[row["id"]] = Place(row["name"], first_parent(row), row["mimeType"] == FOLDER)

    async def read_above(self, ids: Iterable[str]) -> None:
        """Read every folder above these files that is not known yet."""
        missing = set(ids) - self._places.keys()
        while True:
            places = self._places
            above = {place.parent for place in places.values() if place and place.parent}
            missing = (missing | above) - places.keys() - {self._drive}
            if not missing:
                return
            found = await self.stored(sorted(missing))
            self._places |= {id: found.get(id) for id in missing}
            missing = set()

    def path(self, id: str) -> str:
        """The path of a file whose folders were read: from the drive, or from the first that can be seen."""
        names: list[str] = []
        seen: set[str] = set()
        at: str | None = id
        while at is not None and at not in seen:
            if at == self._drive:
                return "/" + "/".join([self._name, *reversed(names)])
            seen.add(at)
            place = self._places.get(at)
            if place is None:
                break
            names.append(clean(place.name))
            at = place.parent
        return "/".join(reversed(names))

    async def orphans(self) -> list[str]:
        """The folders that are not stored and through which stored paths lead nevertheless."""
        found: dict[str, None] = {}
        drive, parent = DriveFile.drive.eq(Ref(Drive, self._drive)), DriveFile.parent
        gone = (
            ~parent.to(DriveFile.name).is_loaded() & parent.ne(None) & parent.ne(DriveFile.ref(self._drive))
        )
        query = Query(DriveFile).where(drive, gone, DriveFile.path.contains("/")).select(parent)
        cursor: str | None = None
        while True:
            page = await self._env.fetch(query.after(cursor))
            found |= dict.fromkeys(one.parent.id for one in page.items if one.parent)
            cursor = page.cursor
            if cursor is None:
                return list(found)

    async def walk(self, walk: Walk) -> list[DriveFile]:
        """One step: the stored files below changed folders whose paths are others now."""
        moved: list[DriveFile] = []
        left = STEP
        while walk.stack and left > 0:
            folders, after = walk.next()
            await self.read_above(folders)
            below = Query(DriveFile).where(DriveFile.parent.is_in(map(DriveFile.ref, folders)))
            below = below.where(DriveFile.id.gt(after)) if after else below
            children = (await self._env.fetch(below.select(*FIELDS).limit(STEP))).items
            left -= max(1, len(children))
            if len(children) == STEP:
                walk.stack.append((folders, children[-1].id))
            for one in children:
                self._places.setdefault(one.id, place_of(one))
            others = [one for one in children if one.id not in self._came and self._places.get(one.id)]
            moved += self._moved((one.id, one.path) for one in others)
            walk.push([one.id for one in children if self._is_folder(one.id)])
        return moved

    async def end(self, walk: Walk) -> list[DriveFile]:
        """The folders whose walk has ended, with their paths."""
        ends, walk.ends = await self.stored(walk.ends), []
        await self.read_above(ends)
        return self._moved((id, place.path) for id, place in ends.items())

    def _moved(self, stored: Iterable[tuple[str, str]]) -> list[DriveFile]:
        """The files, of these with the paths that are stored, whose path is another one now."""
        return [DriveFile(id, path=path) for id, old in stored if (path := self.path(id)) != old]

    def _is_folder(self, id: str) -> bool:
        place = self._places.get(id)
        return place is not None and place.folder


FIELDS = (DriveFile.name, DriveFile.parent, DriveFile.mime_type, DriveFile.path, DriveFile.permission_ids)


def place_of(file: DriveFile) -> Place:
    """The place of a stored file."""
    parent = file.parent.id if file.parent else None
    return Place(file.name, parent, file.mime_type == FOLDER, file.path, file.permission_ids or ())


def clean(name: str) -> str:
    """A name as a part of a path."""
    return name.replace("/", SLASH)
