"""Which kind of project a place leads to: a folder's files, or a database.

A folder's ``.max/project.json`` may name the URL of a database.  It is used in a project that this user
made on this machine or has allowed (``max trust``), and in no other: it would have this user's own password
sent to a server that another user has named.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ProjectError, ProjectUntrusted
from .files import FOLDER, encoded, locked, read_object, replace_file, translated
from .project_folder import ProjectFolder

if TYPE_CHECKING:
    from .encryption import KeySource
    from .project_database import ProjectDatabase
    from .project_manager import ProjectManager

IDENTITY = "project.json"  # in .max
DATABASE = "database"  # in that file: the URL
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
    from .project_database import refuse_password

    refuse_password(database)
    root = None
    try:
        root = ProjectFolder.find(place, trusted=trusted).root
    except ProjectUntrusted:
        raise
    except ProjectError:
        pass
    return _database(database, root=root, trusted=trusted)


def led_from(folder: ProjectFolder, *, keys: KeySource | None = None) -> ProjectManager:
    """The project to which a folder leads: its own, or that of a database.

    ProjectUntrusted when the folder names a database, and was neither made by this user nor allowed.
    """
    url = database_of(folder.root)
    if url is None:
        return folder
    if not folder.trusted:
        from .trust import is_recorded

        folder.refuse_foreign()
        if not is_recorded(folder.root):
            raise ProjectUntrusted(
                f"{folder.root} leads to the database {url}, and was not made by this user on this machine",
                hint=f"if you know that server: max trust {folder.root}",
                project=str(folder.root),
            )
    return _database(url, root=folder.root, trusted=folder.trusted, keys=keys)


def at_place(place: str, *, trusted: bool = False) -> ProjectManager:
    """The project whose label this is, in another process; no folder above is looked at."""
    if is_url(place):
        return _database(place, trusted=trusted)
    return led_from(ProjectFolder(Path(place), trusted=trusted))


def database_of(root: Path) -> str | None:
    """The URL that a folder names; None when its project is in its files."""
    file = root / FOLDER / IDENTITY
    with translated(file):
        if not file.exists() or f'"{DATABASE}"'.encode() not in file.read_bytes():
            return None
    url = read_object(file).get(DATABASE)
    return url if is_url(url if isinstance(url, str) else "") else None


def make_in_database(path: Path | str, url: str) -> ProjectManager:
    """Make a project in a database, where there is none, and a folder that leads to it.

    UsageError for a URL with a password; ProjectError when the folder has installations in files, or leads
    elsewhere.
    """
    from .project_database import refuse_password

    refuse_password(url)
    root = Path(path).resolve()
    known = database_of(root)
    if known not in (None, url):
        raise ProjectError(f"{root} leads to {known} already", hint="name another folder")
    if known is None and (root / FOLDER).is_dir() and ProjectFolder(root).installations():
        raise ProjectError(f"{root} has installations in its files", hint="name another folder")
    _database(url, create=True)
    folder = ProjectFolder.init(root, leads_elsewhere=True)
    file = root / FOLDER / IDENTITY
    with translated(file), locked(file.parent):
        kept = read_object(file) if file.exists() else {}
        if kept.get(DATABASE) != url:
            replace_file(file, encoded(kept | {DATABASE: url}))
    return _database(url, root=root, trusted=folder.trusted)


def _database(
    url: str,
    *,
    root: Path | None = None,
    create: bool = False,
    trusted: bool = False,
    keys: KeySource | None = None,
) -> ProjectDatabase:
    from .encryption import keys_of_environment
    from .project_database import ProjectDatabase

    return ProjectDatabase.open(
        url, create=create, root=root, trusted=trusted, keys=keys or keys_of_environment
    )
