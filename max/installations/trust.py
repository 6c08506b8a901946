"""Trust: whose code runs in a project, and which folders of other users are refused.

Rule 1: a project is data.  Its own connectors run when this user made the project on this machine,
or allowed them once.  Both are recorded outside the project, by its path: a project that was made
here is known again by its id, one that was allowed by the content of its connectors, so that
changed content is asked for again.

Rule 2: a folder that another user owns, or that every user may write to, is never trusted through
a record: its content may change between the check and the use.

Rule 3: MAX_TRUST names folders that are trusted with all that lies in them, even another user's.
It is for machines without a home: containers, continuous integration.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import ProjectError, ProjectUntrusted
from ..model.struct import Struct
from ..model.values import Json
from .files import CONNECTORS, FOLDER, INSTALLATIONS, encoded, locked, read_object, replace_file, translated
from .home import home_folder

VARIABLE = "MAX_TRUST"  # trusted folders, separated as in PATH
RECORDS = "trust"
IDENTITY = "project.json"  # in .max: the project's id, and where it is kept if not in its folder
ANYBODY = stat.S_IWOTH  # every user may write
MOST_FILES = 100_000  # in connectors/
CACHE = "__pycache__"  # Python's own; a project's connectors are compiled from their source


class TrustRecord(Struct):
    """What was recorded of a project: its id when this user made it or trusts it always, else a digest."""

    project: Path
    since: float  # seconds since the epoch
    id: str | None = None
    connectors: str | None = None  # the digest of the content that was allowed


# -- folders of other users --------------------------------------------------------------------


def refuse_exposed(root: Path, *, above: bool = False) -> None:
    """ProjectUntrusted when another user may have written a project's files.

    ``above``: it was not named but found above the current folder, so that the folders in which it
    lies count as well.
    """
    if _is_listed(root):
        return
    for place in _places(root):
        if problem := _exposure(place):
            raise _untrusted(root, f"{place}: {problem}")
    for folder in (root, *root.parents) if above else ():
        mode = folder.stat().st_mode
        if mode & ANYBODY and not mode & stat.S_ISVTX:
            words = f"{root / FOLDER}: every user may replace it, since {folder} has mode {_octal(mode)}"
            raise _untrusted(root, words)


def _places(root: Path) -> Iterator[Path]:
    """The folders of a project's files: each may be a link to another user's."""
    place = root / FOLDER
    yield from (place, place / INSTALLATIONS)
    for pattern in ("[!.]*", "[!.]*/[!.]*"):
        yield from sorted(filter(Path.is_dir, (place / INSTALLATIONS).glob(pattern)))


def _exposure(path: Path) -> str:
    """Why a file or folder may be another user's work; "" when it is this user's, or cannot be reached."""
    try:
        found = [path.lstat(), path.stat()]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
    owners = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        owners.add(int(os.environ["SUDO_UID"]))  # as git: sudo acts for this user
    for one in found:
        if one.st_uid not in owners:
            return f"it belongs to {_user(one.st_uid)}, not to {_user(os.geteuid())}"
    if found[1].st_mode & ANYBODY:
        return f"every user may write to it (mode {_octal(found[1].st_mode)})"
    return ""


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _octal(mode: int) -> str:
    return f"{stat.S_IMODE(mode):04o}"


def _untrusted(root: Path, problem: str) -> ProjectUntrusted:
    hint = (
        "nothing in it was run or written; make it yours with chown and chmod go-w, make a project of your"
        f" own with max init, or set {VARIABLE}={root} to trust it as it is"
    )
    return ProjectUntrusted(problem, hint=hint, project=str(root))


def _is_listed(root: Path) -> bool:
    """Whether MAX_TRUST names the folder, or one above it."""
    for text in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        place = Path(text).expanduser()
        if not place.is_absolute():
            raise ProjectError(
                f"{VARIABLE} names {text!r}, which is not an absolute path",
                hint=f"write it with its folders, such as {VARIABLE}={Path.cwd()}",
            )
        if root.is_relative_to(place.resolve()):
            return True
    return False


# -- a project's own connectors ------------------------------------------------------------------


def refuse_untrusted(root: Path) -> None:
    """ProjectUntrusted unless a project's own connectors may run.

    A folder that is no project yet is one that this user is making.
    """
    if _is_listed(root):
        return
    refuse_exposed(root)
    for path in (root / CONNECTORS, *_inside(root / CONNECTORS)):
        if problem := _exposure(path):
            raise _untrusted(root, f"{path}: {problem}")
    if not (root / FOLDER).exists():
        return
    found = read_record(root)
    problem = "were not made by this user on this machine, and may come from anywhere"
    if found is not None and trusts(found):
        return
    if found is not None and found.connectors is not None:
        problem = "have changed since they were allowed"
    raise ProjectUntrusted(
        f"the project's own connectors in {root / CONNECTORS} {problem}; they were not run",
        hint=f"read them, then allow them with: max trust {root} (without a home folder: {VARIABLE}={root})",
        project=str(root),
    )


def trusts(record: TrustRecord) -> bool:
    """Whether a record still holds for what its project is now."""
    if record.connectors is not None:
        return record.connectors == digest(record.project)
    return record.id is not None and record.id == _identity(record.project)


def digest(root: Path) -> str:
    """A digest of everything in a project's ``connectors/``: names and content."""
    from hashlib import sha256

    whole = sha256()
    with translated(root / CONNECTORS):
        for path in _inside(root / CONNECTORS):
            whole.update(os.fsencode(f"{path.relative_to(root)}\0{path.is_file()}\0"))
            if path.is_file():  # a pipe or a device is never read
                whole.update(sha256(path.read_bytes()).digest())
            elif path.is_symlink():
                whole.update(os.fsencode(f"{path.readlink()}\0"))
    return whole.hexdigest()


def connector_files(root: Path) -> list[Path]:
    """Everything that runs or is read when a project's own connectors run."""
    return [path for path in _inside(root / CONNECTORS) if path.is_file()]


def _inside(folder: Path) -> Iterator[Path]:
    """Everything in a folder, in a fixed order, also behind links, without Python's caches.

    ProjectError when there is too much, as behind a link to the whole disk.
    """
    walked: set[tuple[int, int]] = set()  # a link may lead back
    count = 0
    for place, folders, files in os.walk(folder, followlinks=True):
        found = Path(place).stat()
        if (found.st_dev, found.st_ino) in walked:
            folders.clear()
            continue
        walked.add((found.st_dev, found.st_ino))
        folders[:] = sorted(name for name in folders if name != CACHE)
        count += len(folders) + len(files)
        if count > MOST_FILES:
            raise ProjectError(
                f"{folder} holds more than {MOST_FILES:,} files, of which the last are in {place}",
                hint="keep only connectors and what they need there; a link may lead to a large folder",
                path=str(folder),
            )
        yield from (Path(place, name) for name in sorted([*folders, *files]))


def _identity(root: Path) -> str | None:
    """The id in a project's ``.max``; None when it has none."""
    with suppress(ProjectError):
        found = read_object(root / FOLDER / IDENTITY).get("id")
        return found if isinstance(found, str) else None
    return None


# -- records -------------------------------------------------------------------------------------


def _records() -> Path:
    """The folder of the records; ProjectError when there is no place for them."""
    return Path(home_folder()) / RECORDS


def _file(root: Path) -> Path:
    from hashlib import sha256

    return _records() / f"{sha256(os.fsencode(root)).hexdigest()[:24]}.json"


def read_record(root: Path) -> TrustRecord | None:
    """What was recorded of a project; None when nothing was, or nothing that can be read."""
    with suppress(ProjectError, OSError):
        file = _file(root)
        found = _read(file)
        return found if found is not None and found.project == root else None
    return None


def records() -> list[TrustRecord]:
    """Everything that was recorded, sorted by path."""
    with translated(folder := _records()):
        files = sorted(folder.glob("*.json"))
    found = []
    for file in files:
        with suppress(ProjectError, OSError):
            found.append(_read(file))
    return sorted(filter(None, found), key=lambda one: one.project)


def _read(file: Path) -> TrustRecord | None:
    if _exposure(file) or _exposure(file.parent):
        return None
    data = read_object(file)
    values = [data.get(name) for name in ("project", "since", "id", "connectors")]
    path, since, id, connectors = values
    if not isinstance(path, str) or not isinstance(since, int | float):
        return None
    if not all(one is None or isinstance(one, str) for one in (id, connectors)):
        return None
    return TrustRecord(Path(path), float(since), id, connectors)


def record_made(root: Path) -> None:
    """Record that this user made a project, or trusts whatever its connectors become."""
    id = _identity(root)
    if id is None:
        id = os.urandom(8).hex()
        file = root / FOLDER / IDENTITY
        with locked(root / FOLDER):
            kept = read_object(file) if file.exists() else {}
            replace_file(file, encoded(kept | {"id": id}))
    _write(root, {"id": id})


def is_recorded(root: Path) -> bool:
    """Whether this user made a project on this machine, or has allowed it, or MAX_TRUST names it."""
    return _is_listed(root) or read_record(root) is not None


def record_allowed(root: Path) -> None:
    """Record that this user allows a project's connectors as they are now."""
    _write(root, {"connectors": digest(root)})


def _write(root: Path, data: dict[str, Json]) -> None:
    with translated(file := _file(root)):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(file.parent):
            replace_file(file, encoded({"project": str(root), "since": time.time(), **data}))


def forget(root: Path) -> bool:
    """Remove what was recorded of a project; whether there was something."""
    with translated(file := _file(root)):
        there = file.exists()
        file.unlink(missing_ok=True)
    return there
