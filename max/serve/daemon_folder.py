"""Where the daemon of a project is found, and whether it lives.

    <MAX_HOME or the platform's folder for user data>/daemons/<12 hex of sha256(project root)>/    0700
      project.json      the project's root, the daemon's version and options, and where its socket is
      daemon.sock       0600; elsewhere when its path would be too long for the system
      daemon.pid        its process id; on the second line the name of its process, with its start
      daemon.disabled   no daemon may start while it is there
      daemon.log        0600; daemon.log.1 … are older
      http.token        0600; what programs show that ask over HTTP

Rule 1: a daemon lives while its process holds the lock of the folder.  The system releases it when the
process ends, however it ends, so that no file is a sign of life and none that a crash left is in the way.
Only the holder writes the other files.

Rule 2: the process id is that of the holder, and a signal is sent when the process that has it now began
when the holder did: ids are given again.

Rule 3: this module imports ``os`` and little else, since every command looks here first.
"""

from __future__ import annotations

import os
import stat
import sys

from ..installations.home import home_folder

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.values import Json

DAEMONS = "daemons"
DIGITS = 12  # of the digest of the project's root
SOCKET, PID, DISABLED, LOG = "daemon.sock", "daemon.pid", "daemon.disabled", "daemon.log"
HTTP_TOKEN = "http.token"  # noqa: S105 - the name of a file
DESCRIPTION = "project.json"
# in it: the installations of which a sync was under way at the end, and whether the next daemon resumes them
SYNCING, RESUME = "syncing", "resume"
ADDRESS = "address"  # in it: the URL of the HTTP face
LONGEST = 107 if sys.platform == "linux" else 103  # bytes in the path of a unix socket
OTHERS = stat.S_IRWXG | stat.S_IRWXO  # every right of the group and of all users


class DaemonFolder:
    """The files of one project's daemon.  Making an object reads and writes nothing.

    ``root`` is the project's folder, absolute and resolved, as ``ProjectFolder.root`` is.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self.path = os.path.join(home_folder(), DAEMONS, digest(os.fsencode(self.root))[:DIGITS])

    @classmethod
    def if_any(cls, root: str | os.PathLike[str]) -> DaemonFolder | None:
        """The folder; None where this user has no place for one, so that no daemon can run."""
        from ..errors import ProjectError

        try:
            return cls(root)
        except ProjectError:
            return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root!r})"

    def file(self, name: str) -> str:
        """The path of one of the folder's files."""
        return os.path.join(self.path, name)

    # -- the socket

    @property
    def socket(self) -> str:
        """The path of the socket, where a daemon listens or would; empty when only a running one knows it."""
        usual = self.file(SOCKET)
        if len(os.fsencode(usual)) <= LONGEST:
            return usual
        elsewhere = self.description().get("socket")
        return elsewhere if isinstance(elsewhere, str) else ""

    def has_socket(self) -> bool:
        """Whether a socket of this user is there: the cheapest question, which a crash may answer wrongly."""
        try:
            found = os.lstat(self.socket)
        except OSError:
            return False
        return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()

    def socket_place(self) -> str:
        """The same for the daemon that will listen there: makes a short folder when it needs one.

        ProjectError when there is none that only this user can write to.
        """
        usual = self.file(SOCKET)
        if len(os.fsencode(usual)) <= LONGEST:
            return usual
        name = f"{os.path.basename(self.path)}.sock"
        for folder in short_folders():
            place = os.path.join(folder, name)
            if len(os.fsencode(place)) <= LONGEST and is_private(folder):
                return place
        from ..errors import ProjectError
        from ..installations.home import HOME

        problem = f"{usual}: the path is too long for a socket ({LONGEST} bytes)"
        raise ProjectError(problem, hint=f"set {HOME} to a shorter one, or TMPDIR to a short folder")

    # -- what is written about it

    def description(self) -> Mapping[str, Json]:
        """The content of project.json; empty when there is none that can be read."""
        import json

        try:
            found = json.loads(_beginning(self.file(DESCRIPTION), 1_000_000))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def is_disabled(self) -> bool:
        """Whether no daemon may start."""
        return os.path.exists(self.file(DISABLED))

    # -- the process

    def is_running(self) -> bool:
        """Whether a process holds the folder's lock."""
        import fcntl

        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def pid(self) -> int | None:
        """The process id of the holder; None if unknown."""
        try:
            first = _beginning(self.file(PID), 1_000).partition("\n")[0][:20].strip()
        except OSError:
            return None
        return int(first) if first.isdecimal() else None

    def holder(self) -> str:
        """The process that holds or held the lock, named as ``new_worker`` does; empty if unknown."""
        try:
            return _beginning(self.file(PID), 1_000).partition("\n")[2].strip()
        except OSError:
            return ""


def _beginning(path: str, most: int) -> str:
    """The first bytes of a file, as text; a pipe in its place is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes in hex, without the libraries of ``hashlib``."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]  # until 3.11
        except ImportError:
            from hashlib import sha256
    found: str = sha256(data).hexdigest()
    return found


def short_folders() -> list[str]:
    """Folders for sockets with a short path, the best first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    own = f"max-{os.geteuid()}"
    places = [os.path.join(runtime, "max")] if os.path.isabs(runtime) else []
    temporary = os.environ.get("TMPDIR", "")
    return [*places, *(os.path.join(one, own) for one in (temporary, "/tmp") if os.path.isabs(one))]  # noqa: S108


def is_private(folder: str) -> bool:
    """Whether a folder is this user's alone; it is made when there is none, with its parents."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & OTHERS


def known_roots() -> list[str]:
    """The root of every project that has, or had, a daemon on this machine, sorted."""
    try:
        names = os.listdir(os.path.join(home_folder(), DAEMONS))
    except OSError:
        return []
    return sorted(filter(None, map(root_of, names)))


def root_of(name: str) -> str:
    """The project's root of a folder below ``daemons``; empty when that is no daemon's folder."""
    folder = DaemonFolder("/")
    folder.path = os.path.join(home_folder(), DAEMONS, name)
    found = folder.description().get("root")
    return found if isinstance(found, str) and digest(os.fsencode(found))[:DIGITS] == name else ""
