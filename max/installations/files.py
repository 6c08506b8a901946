"""Files of a project: how they are read, replaced in one step, locked and removed."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..core import InstallationInfo
from ..errors import Mismatch, Offline, ProjectError, UsageError
from ..model.settings import misfits, read_settings
from ..model.values import Json, is_datetime

if TYPE_CHECKING:
    pass


T = TypeVar("T")
INSTALLATION = "installation.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
ID_BYTES = 8  # of an installation's random id
PATIENCE = 120.0  # seconds to wait for another one that renews a secret
POLL = 0.02  # seconds between two looks at whether it has ended


def check_name(kind: str, name: str) -> None:
    """UsageError unless a name can be a folder's, here and on any other machine."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of {'an' if kind[0] in 'aeiou' else 'a'} {kind}",
            hint="use up to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit",
        )


def read_installation(folder: Path) -> InstallationInfo:
    """What a folder's installation.json says; ProjectError when it cannot be used."""
    path = folder / INSTALLATION
    data = read_object(path)
    id, config, at = data.get("id"), data.get("config"), data.get("connectedAt")
    settings = data.get("settings", {})
    checks = (
        ("connector", f"{folder.parent.name!r}, as its folder", data.get("connector") == folder.parent.name),
        ("name", f"{folder.name!r}, as its folder", data.get("name") == folder.name),
        ("id", "letters and digits", isinstance(id, str) and NAME.fullmatch(id)),
        ("config", "an object", isinstance(config, dict)),
        ("connectedAt", "a time such as 2026-01-31T09:30:00Z", isinstance(at, str) and is_datetime(at)),
        ("settings", "an object", isinstance(settings, dict)),
    )
    for key, expected, fits in checks:
        if not fits:
            raise broken(path, str(Mismatch(key, expected, data.get(key), secret=key == "config")))
    for wrong in misfits(settings):
        raise broken(path, f"settings.{wrong}")
    connected_at = datetime.fromisoformat(str(at)).timestamp()
    return InstallationInfo(
        folder.parent.name, folder.name, str(id), dict(config or {}), connected_at, read_settings(settings)
    )


def read_object(path: Path) -> dict[str, Json]:
    """A file's JSON object; ProjectError says what is wrong with it."""
    with translated(path):
        text = path.read_bytes()
    try:
        data = json.loads(text)
    except ValueError as error:
        raise broken(path, f"it is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise broken(path, "it holds no JSON object")
    return data


def broken(path: Path, problem: str) -> ProjectError:
    """The error for a file that somebody damaged."""
    return ProjectError(
        f"{path} is broken: {problem}",
        hint="correct it, or delete it and connect again; data.db beside it is kept and used again",
        path=str(path),
    )


def encoded(data: Json) -> bytes:
    """JSON as people read it; ASCII, so that even names that are no UTF-8 come back the same."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode("ascii")


def write_file(path: Path, data: bytes) -> None:
    """Make a file that its owner alone can read; it is on the disk when this returns."""
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
    beside.unlink(missing_ok=True)  # of a writer that was killed
    try:
        write_file(beside, data)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder with what it holds; not an error when there is none."""
    if folder.exists():
        from shutil import rmtree

        rmtree(folder)


def remove_empty(*folders: Path) -> None:
    """Remove those of the folders that hold nothing."""
    for folder in folders:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, against other threads and processes alike; a crash frees it."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class FileLock:
    """The right to be alone, taken in one thread and given back in any; a crash gives it back.

    An object is for one turn.  Giving it back before it was had ends the wait for it.
    """

    def __init__(self, path: Path) -> None:
        import threading

        self.path = path
        self._released, self._handing = threading.Event(), threading.Lock()
        self._descriptor: int | None = None

    def take(self, patience: float) -> None:
        """Block until nobody else has it; Offline after so many seconds."""
        with translated(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait(descriptor, patience)
        except BaseException:
            os.close(descriptor)
            raise
        with self._handing:
            self._descriptor = descriptor
        if self._released.is_set():
            self.release()

    def _wait(self, descriptor: int, patience: float) -> None:
        import fcntl

        until = time.monotonic() + patience
        while not self._released.is_set():
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise self._busy(patience) from None
            self._released.wait(POLL)
        return None

    def _busy(self, patience: float) -> Offline:
        return Offline(
            f"{self.path.parent}: somebody else has been renewing its credentials for {patience:g} s",
            hint="it waits for the service; try again later, or stop it",
            path=str(self.path),
        )

    def release(self) -> None:
        """Give it back; not an error when that was done before."""
        self._released.set()
        with self._handing:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the machine's refusals into ProjectError, once."""
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


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread of its own, so that none is left behind."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    thread = ThreadPoolExecutor(1, "max-project")
    result = asyncio.get_running_loop().run_in_executor(thread, work)
    try:
        return await result
    finally:  # work that nobody waits for any more ends by itself, and its thread with it
        thread.shutdown(wait=not result.cancelled())
