"""Kept files: contents beside the database, each under the SHA-256 of its bytes.

Rule 1: a name means whole content.  The bytes go into a file with another name, are flushed to the
disk, and only then get their name; so a row that holds the name was never ahead of the file.

Rule 2: a file is never changed.  The same content is kept once, however many rows name it, and keeping
it again does nothing; so whatever a killed process did is safe to do twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Protocol

from ..core import in_thread
from ..errors import StorageError, StorageFull, StorageReadOnly, UsageError

KINDS = {errno.ENOSPC: StorageFull, errno.EDQUOT: StorageFull, errno.EACCES: StorageReadOnly}
KINDS[errno.EROFS] = StorageReadOnly


class KeepsFiles(Protocol):
    """Where the contents of one installation are kept."""

    async def keep(self, data: bytes) -> str:
        """The name of a content, which is kept when this returns."""


class KeptFiles(KeepsFiles):
    """The kept files of one installation, in a folder that its owner alone can read.

    The folder is made when it is first needed; None for an installation in memory.  Safe for
    concurrent callers in any number of processes.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    async def keep(self, data: bytes) -> str:
        """The name of the file with this content; it is on the disk when this returns.

        UsageError for an installation in memory; StorageError when the disk is full or read-only.
        """
        folder = self.folder
        if folder is None:
            raise UsageError("an installation in memory keeps no files", hint="give it a database on a disk")
        return await in_thread(lambda: _keep(folder, data))


def _keep(folder: Path, data: bytes) -> str:
    name = hashlib.sha256(data).hexdigest()
    place = folder / name[:2] / name
    try:
        if not (place.is_file() and place.stat().st_size == len(data)):
            for one in (folder, place.parent):
                one.mkdir(mode=0o700, exist_ok=True)
            _write(place, data)
    except OSError as error:
        kind = KINDS.get(error.errno or 0, StorageError)
        raise kind(
            f"{place} cannot be written: {error.strerror}",
            hint="free some space, or make the folder writable; nothing was changed",
        ) from error
    return name


def _write(place: Path, data: bytes) -> None:
    """Give content its name, once all of it is on the disk."""
    beside = place.with_name(f".{place.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    for folder in (place.parent, place.parent.parent, place.parent.parent.parent):
        entries = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entries)
        finally:
            os.close(entries)
