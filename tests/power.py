"""A simulated disk: it forgets what was not synced when its power is cut.

Max runs on it as it is; only the connection is made by apsw, whose virtual file system can be written
in Python.  SQLite's files lie in a real folder, and the disk notes what was written to each since it
was last synced.  ``image`` draws what is left of the files after a power cut:

- nothing of the unsynced writes, all of them, their beginning, or any of their sectors;
- sectors of which only a part was written;
- names of files that were created or deleted, as long as their folder was not synced.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import apsw

from max.model.values import Kind
from max.storage.sqlite import BUSY_TIMEOUT, SqliteConnection, insert_rows
from max.storage.sqlite_dialect import SqliteDialect

SECTOR = 512  # bytes that a disk writes at once, or tears
VFS = "power"


class Write:
    """Bytes that were written, or with None a file that was cut at a place."""

    def __init__(self, place: int, data: bytes | None) -> None:
        self.place, self.data = place, data

    def apply(self, content: bytearray) -> None:
        """Write all of it."""
        if self.data is None:
            del content[self.place :]
            return
        content.extend(bytes(max(0, self.place - len(content))))
        content[self.place : self.place + len(self.data)] = self.data

    def sectors(self) -> list[Write]:
        """Its parts that reach a disk one by one."""
        if self.data is None:
            return [self]
        first = SECTOR - self.place % SECTOR
        starts = [0, *range(first, len(self.data), SECTOR)]
        ends = [*starts[1:], len(self.data)]
        return [Write(self.place + a, self.data[a:b]) for a, b in zip(starts, ends, strict=True)]

    def torn(self, draw: random.Random) -> Write:
        """The beginning of it."""
        return self if self.data is None else Write(self.place, self.data[: draw.randrange(len(self.data))])


class DiskFile:
    """What a disk holds of one file, and what it was asked to write since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.pending: list[Write] = []
        self.is_named = False  # its name would survive a power cut
        self.is_deleted = False

    def sync(self) -> None:
        """All of it is on the disk."""
        for write in self.pending:
            write.apply(self.synced)
        self.pending = []

    def image(self, draw: random.Random) -> bytes | None:
        """What is left after a power cut; None when the name is lost."""
        if (not self.is_named or self.is_deleted) and draw.random() < 0.5:
            return None
        content, pending = bytearray(self.synced), self.pending
        style = draw.choice(["nothing", "all", "beginning", "sectors", "torn"])
        if style == "nothing":
            pending = []
        elif style == "beginning":
            pending = pending[: draw.randint(0, len(pending))]
        elif style != "all":
            kept = draw.random()
            parts = [part for write in pending for part in write.sectors()]
            pending = [part for part in parts if draw.random() < kept]
        if style == "torn":
            pending = [part.torn(draw) if draw.random() < 0.2 else part for part in pending]
        for write in pending:
            write.apply(content)
        return bytes(content)


class Disk(apsw.VFS):
    """The disk.  ``cut`` is called wherever the power may fail: before each sync, after each commit.

    It is full after ``room`` writes, if that is set.
    """

    def __init__(self, cut: Callable[[], None], *, room: int | None = None) -> None:
        super().__init__(VFS, "")
        self.files: dict[str, DiskFile] = {}
        self.cut, self.room = cut, room

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file on the disk; temporary files have no name and are not on it."""
        path = name if isinstance(name, str | None) else name.filename()
        return apsw.VFSFile("", name, flags) if path is None else OpenFile(self, path, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        """Delete a file; its name comes back when the folder was not synced."""
        super().xDelete(name, sync)
        if sync:
            self.files.pop(name, None)
        elif name in self.files:
            self.files[name].is_deleted = True

    def sync_names(self) -> None:
        """The folder is on the disk."""
        self.files = {name: file for name, file in self.files.items() if not file.is_deleted}
        for file in self.files.values():
            file.is_named = True

    def image(self, folder: Path, draw: random.Random) -> Path:
        """Write what a power cut leaves to a folder; the path of the database there."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, file in self.files.items():
            content = file.image(draw)
            if content is not None:
                (folder / Path(name).name).write_bytes(content)
        return folder / "data.db"


class OpenFile(apsw.VFSFile):
    """A file that SQLite has opened on the disk."""

    def __init__(self, disk: Disk, path: str, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk, self._path = disk, path
        known = disk.files.get(path)
        if known is None or known.is_deleted:
            disk.files[path] = DiskFile()

    def _note(self, write: Write) -> None:
        self._disk.files[self._path].pending.append(write)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        """Write, and note it."""
        if self._disk.room is not None:
            if self._disk.room <= 0:
                raise apsw.exception_for(apsw.SQLITE_FULL)
            self._disk.room -= 1
        super().xWrite(data, offset)
        self._note(Write(offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        """Cut the file, and note it."""
        super().xTruncate(size)
        self._note(Write(size, None))

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Bring the file to the disk; with a new journal or log goes its folder, as SQLite does it."""
        self._disk.cut()
        file = self._disk.files[self._path]
        file.sync()
        if not file.is_named and not self._path.endswith(".db"):
            self._disk.sync_names()


# -- the connection ---------------------------------------------------------------------------


class PowerCursor:
    """The rows of a statement, all of them read."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows, self.rowcount = iter(rows), rowcount

    def fetchone(self) -> Any:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Any:
        return self._rows


class PowerConnection:
    """What Max uses of sqlite3.Connection, on the simulated disk; ``committed`` hears of each commit."""

    dialect = SqliteDialect()
    is_immutable = False

    def __init__(self, path: str, access: str, committed: Callable[[PowerConnection], None]) -> None:
        flags = apsw.SQLITE_OPEN_READONLY if "mode=ro" in access else apsw.SQLITE_OPEN_READWRITE
        if "mode=rwc" in access:
            flags |= apsw.SQLITE_OPEN_CREATE
        self._committed, self._writes = committed, False
        self.connection = _translated(lambda: apsw.Connection(path, flags=flags, vfs=VFS))
        self.connection.set_busy_timeout(int(BUSY_TIMEOUT * 1000))

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self.connection.in_transaction)

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> PowerCursor:
        """Run one statement to its end."""
        rows = _translated(lambda: list(self.connection.execute(sql, _plain(values))))
        cursor = PowerCursor(rows, self.connection.changes())
        self._writes = self._writes or sql == "BEGIN IMMEDIATE"
        if sql == "COMMIT" and self._writes:
            self._writes = False
            self._committed(self)
        return cursor

    def executemany(self, sql: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> PowerCursor:
        """Run one statement for each row of values."""
        return PowerCursor([], sum(self.execute(sql, values).rowcount for values in rows))

    def execute_each(self, sql: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> list[Any]:
        """Run one statement for each row of values; the first row that each of them returns."""
        return [self.execute(sql, values).fetchone() for values in rows]

    def insert(
        self, sql: str, kinds: Sequence[Kind], columns: Sequence[Sequence[Any]], constants: Sequence[Any] = ()
    ) -> None:
        """Run an INSERT whose ``{rows}`` are these."""
        insert_rows(cast(SqliteConnection, self), sql, columns, constants)

    def rollback(self) -> None:
        """Undo what the open transaction did."""
        if self.in_transaction:
            _translated(lambda: self.connection.execute("ROLLBACK"))

    def close(self) -> None:
        """Close it."""
        _translated(self.connection.close)


def _plain(values: Any) -> Any:
    """Values without subclasses of str, which apsw does not bind."""
    if isinstance(values, Mapping):
        return {name: str(one) if isinstance(one, str) else one for name, one in values.items()}
    return tuple(str(one) if isinstance(one, str) else one for one in values)


def _translated(work: Callable[[], Any]) -> Any:
    """What work returns; apsw's errors as those of sqlite3."""
    try:
        return work()
    except apsw.Error as error:
        known = (
            sqlite3.IntegrityError if isinstance(error, apsw.ConstraintError) else sqlite3.OperationalError
        )
        same = known(str(error))
        same.sqlite_errorcode = getattr(error, "extendedresult", 0)
        raise same from error
