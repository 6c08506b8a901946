"""The lock that makes a process the daemon of a project, and the files that only its holder writes."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import in_thread
from ..errors import DaemonRunning, ProjectError
from ..installations.files import encoded, replace_file, translated
from ..storage.leases import describe_worker, new_worker
from .daemon_folder import DESCRIPTION, OTHERS, PID, DaemonFolder

if TYPE_CHECKING:
    from ..model.values import Json

PATIENCE = 1.0  # seconds for which a lock is tried: who asks whether a daemon lives holds it for a moment
POLL = 0.02  # seconds between two tries


class DaemonLock:
    """A service: while it is started, this process is the daemon of the project.

    ``facts`` are written into project.json, beside the root and the place of the socket.
    """

    def __init__(self, folder: DaemonFolder, facts: Mapping[str, Json]) -> None:
        self.folder, self._facts = folder, facts
        self.since = time.time()  # seconds since the epoch
        self.socket = ""  # where the daemon listens, once this is started
        self.before: Mapping[str, Json] = {}  # what project.json said when this was started
        self._held: int | None = None  # the folder, open and locked

    async def start(self) -> None:
        """Take the lock; DaemonRunning when another process has it, ProjectError when it cannot be had."""
        await in_thread(self.take)

    async def stop(self) -> None:
        """Remove the files that say that a daemon runs, and release the lock."""
        await in_thread(self.release)

    def take(self) -> None:
        """``start`` for code that may block."""
        if self._held is not None:
            return
        held = locked_folder(self.folder, PATIENCE)
        try:
            if self.folder.is_disabled():
                hint = "allow it again with: max daemon enable"
                raise ProjectError(f"the daemon of {self.folder.root} is disabled", hint=hint)
            self.before = self.folder.description()
            self._write()
        except BaseException:
            os.close(held)
            raise
        self._held = held

    def note(self, **facts: Json) -> None:
        """Add facts to project.json, for the next daemon; it blocks."""
        self._facts = {**self._facts, **facts}
        if self.holds():
            self._describe()

    def _write(self) -> None:
        """Write the files; what an earlier daemon left is replaced."""
        folder = self.folder
        self.socket = folder.socket_place()
        with translated(Path(folder.path)):
            Path(folder.file(PID)).unlink(missing_ok=True)  # of an earlier holder
            Path(self.socket).unlink(missing_ok=True)
            self._describe()
            replace_file(Path(folder.file(PID)), f"{os.getpid()}\n{new_worker()}\n".encode("ascii"))

    def _describe(self) -> None:
        folder = self.folder
        facts = {"root": folder.root, "socket": self.socket, "since": self.since, **self._facts}
        with translated(Path(folder.path)):
            replace_file(Path(folder.file(DESCRIPTION)), encoded(facts))

    def release(self) -> None:
        """``stop`` for code that may block."""
        held, self._held = self._held, None
        if held is not None:
            if is_at(held, self.folder.path):
                with suppress(OSError):
                    Path(self.folder.file(PID)).unlink()
            os.close(held)

    def holds(self) -> bool:
        """Whether this process can be found as the daemon: its folder and the files in it are there."""
        held, files = self._held, (PID, DESCRIPTION)
        known = all(Path(self.folder.file(name)).exists() for name in files)
        return held is not None and known and is_at(held, self.folder.path)

    def renew(self) -> None:
        """Make again what was removed; DaemonRunning when another process is the daemon by now."""
        if self._held is not None and is_at(self._held, self.folder.path):
            self._write()
        else:
            self.release()
            self.take()


def locked_folder(folder: DaemonFolder, patience: float) -> int:
    """The folder, open and locked, as a descriptor; it is made when there is none.

    DaemonRunning when another process holds the lock for so many seconds.
    """
    until = time.monotonic() + patience
    while True:
        make_private(folder)
        with translated(Path(folder.path)):
            held = os.open(folder.path, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(held, folder.path):  # else it was removed in between, and made again
                    return held
            except BlockingIOError:
                pass
            except OSError:
                os.close(held)
                raise
        os.close(held)
        if time.monotonic() >= until:
            raise DaemonRunning(
                f"{describe_worker(folder.holder())} is the daemon of {folder.root}",
                hint="max daemon status says more; max daemon restart starts it again",
                project=folder.root,
            )
        time.sleep(POLL)


def amend(folder: DaemonFolder, **facts: Json) -> None:
    """Change what project.json says for the next daemon; nothing is written while one runs."""
    with suppress(DaemonRunning):
        held = locked_folder(folder, 0.0)
        try:
            with translated(Path(folder.path)):
                data = {**folder.description(), "root": folder.root, **facts}
                replace_file(Path(folder.file(DESCRIPTION)), encoded(data))
        finally:
            os.close(held)


def is_at(descriptor: int, path: str) -> bool:
    """Whether an open folder is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), Path(path).stat())
    except OSError:
        return False


def make_private(folder: DaemonFolder) -> None:
    """Make a daemon's folder; ProjectError when another user can write to it, or could have made it."""
    path = Path(folder.path)
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = [path.parent.lstat(), path.lstat()]
    for place, one in zip((path.parent, path), found, strict=True):
        if not stat.S_ISDIR(one.st_mode) or one.st_uid != os.geteuid() or one.st_mode & OTHERS:
            raise ProjectError(
                f"{place}: the folder of daemons must be this user's alone (0700)",
                hint=f"make it yours with chown and chmod 700, or remove it: rm -r {place}",
            )
