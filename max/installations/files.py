"""Files of a project: how they are read, replaced in one step, locked and removed."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ..errors import Offline, ProjectError
from ..model.values import Json, refuse_constant

T = TypeVar("T")
FOLDER = ".max"  # of a project, in its folder
INSTALLATIONS = "installations"  # in it
CONNECTORS = "connectors"  # a project's own, beside it
CREDENTIALS = "credentials.json"  # of an installation
LOCK = "credentials.lock"  # locked while a secret is renewed, for as long as the service takes
INSTALLATION = "installation.json"  # beside it
KEPT = "files"  # the folder of contents that a connector keeps, beside the database
MOST_BYTES = 10_000_000  # of a file of a project that is read whole
POLL = 0.02  # seconds between two attempts to lock a file


def read_object(path: Path) -> dict[str, Json]:
    """A file's JSON object; ProjectError says what is wrong with it."""
    text = content(path)
    try:
        data = json.loads(text, parse_constant=refuse_constant)
    except ValueError as error:
        raise broken(path, f"it is not JSON ({error})") from error
    except RecursionError:
        raise broken(path, "it is nested too deeply") from None
    if not isinstance(data, dict):
        raise broken(path, "it holds no JSON object")
    return data


def content(path: Path) -> bytes:
    """The bytes of a plain file; a pipe or a device in its place is neither waited for nor read."""
    with translated(path):
        if path.is_symlink() and not path.exists():
            raise broken(path, "it is a link that leads nowhere")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise broken(path, f"it is a {_kind(found.st_mode)}, not a file")
            if found.st_size > MOST_BYTES:
                raise broken(path, f"it has {found.st_size:,} bytes, more than {MOST_BYTES:,}")
            return os.read(descriptor, MOST_BYTES + 1)
        finally:
            os.close(descriptor)


def place_within(path: Path, folder: Path) -> Path:
    """Where a path really is, within a folder that another person may have made, such as one that was cloned.

    ProjectError when a link leads out of the folder.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise ProjectError(
            f"{path} is a link that leads out of {folder}, to {real}",
            hint="nothing was written; name that place itself, or remove the link",
            path=str(path),
        )
    return real


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "device")


def broken(path: Path, problem: str) -> ProjectError:
    """The error for a file whose content is damaged."""
    return ProjectError(
        f"{path} is broken: {problem}",
        hint="correct it, or delete it and connect again; data.db beside it is kept and used again",
        path=str(path),
    )


def encoded(data: Json) -> bytes:
    """Indented JSON; in ASCII, so that even names that are no valid UTF-8 survive."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode("ascii")


def changed_names(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The names whose values differ, sorted."""
    return sorted(name for name in {*before, *after} if before.get(name, ...) != after.get(name, ...))


def write_file(path: Path, data: bytes) -> None:
    """Make a file that only its owner can read; it is on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content in one step.  The caller holds the folder's lock."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)  # left by a writer that was killed
    try:
        write_file(beside, data)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk: names that were added, replaced or removed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder with what it holds, or what is in its place alone; not an error when there is none."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
    else:
        from shutil import rmtree

        rmtree(folder)


def remove_empty(*folders: Path) -> None:
    """Remove those of the folders that hold nothing."""
    for folder in folders:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock against other threads and processes; a crash releases it."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a pipe would be waited for
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def free_lock(folder: Path, *, shared: bool = False, patience: float = 0.0) -> Iterator[bool]:
    """Hold a folder's lock when it is free, or becomes so within ``patience`` seconds; whether it is held.

    Several may hold it ``shared``.
    """
    import fcntl

    with translated(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until, is_held = time.monotonic() + patience, False
        while not is_held:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                is_held = True
            if not is_held and time.monotonic() >= until:
                break
            if not is_held:
                time.sleep(POLL)
        yield is_held
    finally:
        os.close(descriptor)


class FileLock:
    """A lock on a file, acquired in one thread and released in any; a crash releases it.

    An object is used once.  Releasing it while ``acquire`` waits ends that wait.
    """

    def __init__(self, path: Path) -> None:
        import threading

        self.path = path
        self._released, self._guard = threading.Event(), threading.Lock()
        self._descriptor: int | None = None

    def acquire(self, timeout: float) -> None:
        """Block until the lock is free; Offline after so many seconds."""
        with translated(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait(descriptor, timeout)
        except BaseException:
            os.close(descriptor)
            raise
        with self._guard:
            self._descriptor = descriptor
        if self._released.is_set():
            self.release()

    def _wait(self, descriptor: int, timeout: float) -> None:
        import fcntl

        until = time.monotonic() + timeout
        while not self._released.is_set():
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Offline(
                        f"{self.path.parent}: another process has been renewing its credentials"
                        f" for {timeout:g} s",
                        hint="it waits for the service; try again later, or stop that process",
                        path=str(self.path),
                    ) from None
            self._released.wait(POLL)
        return None

    def release(self) -> None:
        """Release the lock; not an error when that was done before."""
        self._released.set()
        with self._guard:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an OSError into a ProjectError that says what to do."""
    try:
        yield
    except OSError as error:
        hints = {
            "Permission denied": "make it accessible for this user, or choose another folder",
            "Read-only file system": "choose a folder on another disk",
            "No space left on device": "free some space on the disk; nothing was changed",
        }
        problem = error.strerror or str(error)
        place = error.filename or path
        raise ProjectError(f"{place}: {problem}", hint=hints.get(problem, ""), path=str(place)) from error


def version_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
