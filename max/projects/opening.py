"""Which kind of project a place leads to: a folder's files, or a database.

A folder's ``.max/project.json`` may name the URL of a database.  It is used in a project that this user
made on this machine or has allowed (``max trust``), and in no other: it would have this user's own password
sent to a server that another user has named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MoveRefused, NoProject, ProjectError, ProjectUntrusted
from ..installations.files import FOLDER, content, encoded, locked, read_object, replace_file, translated
from ..installations.trust import IDENTITY
from ..model.settings import InstallationInfo
from .folder import ProjectFolder

if TYPE_CHECKING:
    from ..installations.encryption import KeySource
    from .database import ProjectDatabase
    from .manager import ProjectManager
    from .moving import Move

DATABASE = "database"  # in that file: the URL
LEAVING = "leaving"  # while a project is moved: where it was, and what is left of it is; HERE: in the folder
HERE = "."
VARIABLE = "MAX_DATABASE"
SCHEMES = ("postgresql://", "postgres://")


def is_url(place: Path | str) -> bool:
    """Whether a place is the URL of a database, and no folder."""
    return isinstance(place, str) and place.startswith(SCHEMES)


def open_project(
    place: Path | str, *, create: bool = False, trusted: bool = False, keys: KeySource | None = None
) -> ProjectManager:
    """The project of a URL, of a folder, or of the nearest folder above; ProjectError when there is none.

    With ``create`` it is made where there is none.  ``keys`` finds the keys of a database's secrets.
    """
    if is_url(place):
        return _database(str(place), create=create, keys=keys)
    return led_from(ProjectFolder.open(place, create=create, trusted=trusted), keys=keys)


def find_project(place: Path | str, *, trusted: bool = False, database: str = "") -> ProjectManager:
    """``open_project`` of what is there; ``database`` is the URL that ``MAX_DATABASE`` names, if it does."""
    if not database:
        return open_project(place, trusted=trusted)
    from .database import refuse_password

    refuse_password(database)
    root = None
    with suppress(NoProject):
        root = ProjectFolder.find(place, trusted=trusted).root
    return _database(database, root=root, trusted=trusted)


def led_from(folder: ProjectFolder, *, keys: KeySource | None = None) -> ProjectManager:
    """The project to which a folder leads: its own, or that of a database.

    ProjectUntrusted when the folder names a database, and was neither made by this user nor allowed.
    """
    url = database_of(folder.root)
    if url is None:
        return folder
    _refuse_unknown(folder, url)
    return _database(url, root=folder.root, trusted=folder.trusted, keys=keys)


def _refuse_unknown(folder: ProjectFolder, url: str) -> None:
    """ProjectUntrusted when a folder that leads to a database was neither made by this user nor allowed."""
    if not folder.trusted:
        from ..installations.trust import is_recorded

        folder.refuse_foreign()
        if not is_recorded(folder.root):
            raise ProjectUntrusted(
                f"{folder.root} leads to the database {url}, and was not made by this user on this machine",
                hint=f"if you know that server: max trust {folder.root}",
                project=str(folder.root),
            )


def at_place(place: str, *, trusted: bool = False) -> ProjectManager:
    """The project whose label this is, in another process; no folder above is looked at."""
    if is_url(place):
        return _database(place, trusted=trusted)
    return led_from(ProjectFolder(Path(place), trusted=trusted))


def database_of(root: Path) -> str | None:
    """The URL that a folder names; None when its project is in its files."""
    file = root / FOLDER / IDENTITY
    with translated(file):
        if not file.exists():
            return None
    text = content(file).strip()
    if text[:1] + text[-1:] == b"{}" and f'"{DATABASE}"'.encode() not in text:
        return None  # most commands need no JSON, which is slow to import
    url = read_object(file).get(DATABASE)
    return url if is_url(url if isinstance(url, str) else "") else None


def make_in_database(path: Path | str, url: str) -> ProjectManager:
    """Make a project in a database, where there is none, and a folder that leads to it.

    UsageError for a URL with a password; ProjectError when the folder has installations in files, or leads
    elsewhere.
    """
    from .database import refuse_password

    refuse_password(url)
    root = Path(path).resolve()
    known = database_of(root)
    if known not in (None, url):
        raise ProjectError(f"{root} leads to {known} already", hint="name another folder")
    if known is None and (root / FOLDER).is_dir() and ProjectFolder(root).installations():
        raise ProjectError(f"{root} has installations in its files", hint="name another folder")
    _database(url, create=True)
    folder = ProjectFolder.init(root, leads_elsewhere=True)
    _note(root, {DATABASE: url})
    return _database(url, root=root, trusted=folder.trusted)


def _note(root: Path, values: dict[str, str | None]) -> None:
    """Replace values of a folder's project.json in one step; None takes one away, and others stay."""
    file = root / FOLDER / IDENTITY
    with translated(file), locked(file.parent):
        kept = read_object(file) if file.exists() else {}
        new = {key: one for key, one in {**kept, **values}.items() if one is not None}
        if new != kept:
            replace_file(file, encoded(new))


# -- moving ------------------------------------------------------------------------------------


def move_of(project: ProjectManager, to: str, chosen: Sequence[InstallationInfo] | None) -> Move:
    """A move of some installations of a project, or of all of it (None), to a folder or a URL.

    Nothing is written yet.  The folder of a whole project leads to the new place afterwards; where it does so
    already, what a killed move has left behind is what is moved.  UsageError when all of it is there.
    """
    from .moving import Move, Places

    whole = chosen is None
    root = _leading(project) if whole else None
    target, make = _target(project, to, root, whole=whole)
    if root is None or target.root != root:
        places = Places(project, target, make)
    else:
        source = _left_behind(project, root, target) or project
        if is_url(to):
            _refuse_unknown(ProjectFolder(root, trusted=project.trusted), to)
        leads = {DATABASE: to if is_url(to) else None}
        left = HERE if isinstance(source, ProjectFolder) else source.address

        def lead() -> None:
            _note(root, {**leads, LEAVING: left})

        places = Places(source, target, make, lead, lambda: _note(root, {LEAVING: None}))
    return Move(places, places.source.installations() if chosen is None else chosen, whole=whole)


def _leading(project: ProjectManager) -> Path | None:
    """The folder that leads to a project; None when it was found in another way."""
    if project.root is None or isinstance(project, ProjectFolder):
        return project.root
    from .database import without_password

    url = database_of(project.root)
    return project.root if url is not None and without_password(url) == project.address else None


def _target(
    project: ProjectManager, to: str, root: Path | None, *, whole: bool
) -> tuple[ProjectManager, Callable[[], object]]:
    """The project of a place, which may not be there yet, and what makes it then.

    The audit of a new one comes with the project that is moved there, if all of it is.
    """
    if is_url(to):
        from ..installations.encryption import keys_of_environment
        from .database import ProjectDatabase, refuse_password

        refuse_password(to)
        trusted = root is not None and project.trusted
        there = ProjectDatabase(to, root=root, trusted=trusted, keys=keys_of_environment)
        return there, lambda: there.make(with_audit=not whole)
    path = Path(to).resolve()
    if not (path / FOLDER).is_dir():
        return ProjectFolder(path), lambda: ProjectFolder.init(path, leads_elsewhere=whole)
    folder = ProjectFolder(path, trusted=project.trusted and path == project.root)
    return (folder if path == root else led_from(folder)), lambda: None


def left_behind(project: ProjectManager) -> str | None:
    """Where a whole project was from which its folder leads away, when something is left there.

    A move was killed after it had handed everything over.
    """
    root = _leading(project)
    left = None if root is None else _left(root)
    return str(root) if left == HERE else left


def _left(root: Path) -> str | None:
    """What a folder has noted of that."""
    file = root / FOLDER / IDENTITY
    if not file.exists() or f'"{LEAVING}"'.encode() not in content(file):
        return None
    left = read_object(file).get(LEAVING)
    return left if isinstance(left, str) else None


def _left_behind(project: ProjectManager, root: Path, target: ProjectManager) -> ProjectManager | None:
    """What a killed move has left of a project that was handed over, whose folder leads to the target."""
    left = _left(root)
    if left is None:
        return None
    if target.address != project.address:
        raise MoveRefused(
            f"a move to {project.address} is not finished: something is left where the project was",
            hint=f"finish it first: max move --to {database_of(root) or HERE}",
        )
    return unopened(root if left == HERE else left, root=root, trusted=target.trusted)


def unopened(address: str | Path, *, root: Path | None = None, trusted: bool = False) -> ProjectManager:
    """The project of an address, wherever its folder leads; it is not looked at."""
    if not is_url(address):
        return ProjectFolder(Path(address), trusted=trusted)
    from ..installations.encryption import keys_of_environment
    from .database import ProjectDatabase

    return ProjectDatabase(str(address), root=root, trusted=trusted, keys=keys_of_environment)


def _database(
    url: str,
    *,
    root: Path | None = None,
    create: bool = False,
    trusted: bool = False,
    keys: KeySource | None = None,
) -> ProjectDatabase:
    from ..installations.encryption import keys_of_environment
    from .database import ProjectDatabase

    return ProjectDatabase.open(
        url, create=create, root=root, trusted=trusted, keys=keys or keys_of_environment
    )
