"""A project on the disk: its installations, as plain files.  Synchronous: it may block.

    .max/                               0700, found upward from the current folder, as git does
      project.json                      the project's id, by which a record of trust knows it again
      audit.db                          who changed what
      installations/<connector>/<name>/
        installation.json               connector, name, id, config, settings, connectedAt; others are kept
        credentials.json                0600; credentials.lock beside it, locked while they are renewed
        data.db

Rule 1: an installation exists when its installation.json does.  It is built beside the others,
under a name that no connector can have, and moved into place: a crash leaves it whole or absent.

Rule 2: a file is replaced, never changed, and its content is on the disk before it takes its
name: a crash leaves the old file or the new one.  Writers hold the folder's lock.

Rule 3: in another user's project nothing is written (``trust``), and what a crash left of a change is
cleared before the next one.

Rule 4: no absolute path is stored; the folder may be moved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from ..errors import MaxError, Mismatch, MoveRefused, NoProject, ProjectError, ProjectUntrusted, UsageError
from ..installations.files import (
    CREDENTIALS,
    FOLDER,
    INSTALLATION,
    INSTALLATIONS,
    KEPT,
    LOCK,
    broken,
    changed_names,
    encoded,
    free_lock,
    locked,
    read_object,
    remove_empty,
    remove_tree,
    replace_file,
    sync_folder,
    translated,
    version_of,
    write_file,
)
from ..installations.project_connectors import ProjectConnectors
from ..model.settings import InstallationInfo, invalid_settings, read_settings, update_settings
from ..model.values import Json, datetime_text, is_datetime
from .manager import MovedInstallation, ProjectManager, move_is_running, name_of, refuse_moving

if TYPE_CHECKING:
    from ..installations.credential_file import FileCredentials, StoredSecrets
    from ..installations.onboarding import OnboardingResult
    from ..model.soundness import Finding
    from ..storage.database import Database
    from ..storage.sqlite import SqliteDatabase

DATABASE = "data.db"
AUDIT = "audit.db"  # in .max
SECRET_FILES = (CREDENTIALS, f".{CREDENTIALS}.new")  # the second: of a writer that was killed
FILES = (*SECRET_FILES, LOCK, INSTALLATION, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", KEPT)
STAGED, GONE = ".new", ".gone"  # being added, being removed: no connector's name begins so
ARRIVING = ".arriving"  # the same, of one that comes from another project: it stays until that is done
KNOWN = ("connector", "name", "id", "config", "settings", "connectedAt")  # in installation.json
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?<!\.)", re.ASCII)
DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)  # of Windows
PATIENCE = 1.0  # seconds to wait for one who only looks whether a move is running
LAST_YEAR = 9999  # that Python knows
ID_BYTES = 8  # of an installation's random id


class ProjectFolder(ProjectManager):
    """The installations of one project.  Safe beside other threads and processes.

    Every method reads or writes files and returns when that is done; ``Project`` offers the
    same to an event loop.
    """

    _root: Path

    def __init__(self, root: Path, *, trusted: bool = False) -> None:
        self._root, self._trusted = root, trusted
        self._connectors = ProjectConnectors(root, self._allow_connectors)

    def close(self) -> None:
        """Nothing is kept."""

    @classmethod
    def find(cls, start: Path | str, *, trusted: bool = False) -> Self:
        """The project of a folder, or of the nearest folder above; NoProject when there is none.

        ProjectUntrusted when the one above is another user's, or others may replace it.
        """
        with translated(Path(start)):
            folder = Path(start).resolve()
        for candidate in (folder, *folder.parents):
            with suppress(PermissionError):  # a folder above that this user may not read
                if (candidate / FOLDER).is_dir():
                    found = cls(candidate, trusted=trusted)
                    if candidate != folder:
                        found.refuse_foreign(above=True)
                    return found
        hint = "make one with: max init" + (f" {folder}" if folder != Path.cwd() else "")
        raise NoProject(f"there is no project in {folder}, or above it", hint=hint)

    @classmethod
    def init(cls, path: Path | str, *, leads_elsewhere: bool = False) -> Self:
        """Make a folder a project, and the folder when there is none; nothing changes when it is one.

        A new project is recorded as this user's, so that its own connectors run.  One that leads to a
        database keeps no audit of its own.
        """
        project = cls(Path(path).resolve())
        with translated(project.root / FOLDER):
            project.root.mkdir(parents=True, exist_ok=True)
            project._trusted = _made(project.root / FOLDER)
            if not project.trusted:
                project.refuse_foreign()
            project._installations.mkdir(mode=0o700, exist_ok=True)
            ignored = project.root / FOLDER / ".gitignore"  # secrets and data stay out of repositories
            if not ignored.exists():
                replace_file(ignored, b"*\n")
                sync_folder(project.root)
        if project.trusted:
            from ..installations.trust import record_made

            with suppress(ProjectError):  # there may be no home to write to: MAX_TRUST is for that
                record_made(project.root)
        if project.trusted and not leads_elsewhere:
            with project.audited("init"):
                pass
        return project

    @classmethod
    def open(cls, path: Path | str, *, create: bool = False, trusted: bool = False) -> Self:
        """``find``; with ``create`` the folder becomes a project where there would be none."""
        try:
            return cls.find(path, trusted=trusted)
        except NoProject:
            if not create:
                raise
            return cls.init(path)

    @property
    def root(self) -> Path:
        """Its folder."""
        return self._root

    @property
    def label(self) -> str:
        """Its folder, as text."""
        return str(self.root)

    @property
    def address(self) -> str:
        """Its folder."""
        return str(self.root)

    # -- places ----------------------------------------------------------------------------

    @property
    def _installations(self) -> Path:
        return self.root / FOLDER / INSTALLATIONS

    def _folder(self, info: InstallationInfo) -> Path:
        return self._installations / info.connector / info.name

    def file(self, info: InstallationInfo) -> Path:
        """The installation's installation.json."""
        return self._folder(info) / INSTALLATION

    def place_of(self, info: InstallationInfo) -> str:
        """Its installation.json."""
        return str(self.file(info))

    def findings(self) -> Iterator[Finding]:
        """Whether its files can be used, are this user's alone, and have room."""
        from .soundness import folder_findings

        return folder_findings(self, self.root)

    def has_data(self, info: InstallationInfo) -> bool:
        """Whether the installation's database is there: it was synced, or has a schedule."""
        return (self._folder(info) / DATABASE).exists()

    def place_of_data(self, info: InstallationInfo) -> str:
        """Where the installation's data is, or will be, for people."""
        return str(self._folder(info) / DATABASE)

    def database(self, info: InstallationInfo) -> SqliteDatabase:
        """The installation's data, or where it will be, for reading."""
        from ..storage.sqlite import SqliteDatabase  # not every command reads data

        return SqliteDatabase(self._folder(info) / DATABASE, durability=info.settings.durability)

    def audit_database(self, copy: Path | None = None) -> SqliteDatabase:
        """The project's audit, or a copy of it, for reading."""
        from ..storage.sqlite import SqliteDatabase

        return SqliteDatabase(copy or self.root / FOLDER / AUDIT)

    def writable_audit(self) -> SqliteDatabase | None:
        """The same for writing; None when this user may not write to the project.

        Its file is made when there is none.  ProjectError when there is something else in its place.
        """
        place = self.root / FOLDER
        path = place / AUDIT
        try:
            self.refuse_foreign()
        except ProjectUntrusted:
            return None
        if not os.access(place, os.W_OK | os.X_OK):
            return None
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ProjectError(
                f"{path} is not a file of its own, so no change can be recorded",
                hint="move it away; the next change begins a new audit",
                path=str(path),
            )
        if not path.exists():
            with suppress(FileExistsError):  # another process was first
                write_file(path, b"")  # which only its owner can read
        return self.audit_database()

    def writable_database(self, info: InstallationInfo) -> SqliteDatabase:
        """The same for writing; ProjectUntrusted in a project of another user.

        What a crash left of a change is cleared before.
        """
        with self.changing(info):
            return self.database(info)

    @contextmanager
    def changing(self, info: InstallationInfo) -> Iterator[InstallationInfo]:
        """Lock an installation, clear what a crash left of a change, and give it as it is now.

        ProjectError when another one has its name.
        """
        folder = self._folder(info)
        self.refuse_foreign()
        if any(self._leftovers()):
            with self._writing():
                pass
        with translated(folder), locked(folder):
            (folder / SECRET_FILES[1]).unlink(missing_ok=True)
            now = read_installation(folder)
            if now.id != info.id:
                raise ProjectError(f"{info} was disconnected, and another one connected under its name")
            self.credentials(now).finish()
            yield now

    def _beside(self, name: str) -> Path:
        """A new place beside the installations, where an undeletable leftover is not in the way."""
        return self._installations / f"{name}-{os.urandom(4).hex()}"

    def _leftovers(self) -> list[Path]:
        """Halves of installations that a crash left, or a process that works on them now."""
        return [path for name in (STAGED, GONE) for path in self._installations.glob(f"{name}*")]

    def lease(self, info: InstallationInfo, database: Database) -> None:
        """None: one machine has the folder, and knows which of its processes live."""

    def flow(self, info: InstallationInfo, secrets: object) -> None:
        """None: the limits that the operations declare apply in each process."""

    def ask(self, info: InstallationInfo, what: Mapping[str, Json]) -> None:
        """UsageError: a folder has no workers."""
        raise UsageError(
            f"{self.label} is in files, which one machine has: it has no workers to ask",
            hint=f"sync it here: max sync {info}",
        )

    def workers(self) -> int:
        """0: a folder needs none."""
        return 0

    def work(self, info: InstallationInfo) -> None:
        """None: a folder has no workers."""

    def wake(self, info: InstallationInfo) -> None:
        """Nothing: the schedulers of this machine look at schedules by themselves."""

    def credentials(self, info: InstallationInfo, destination: str | None = None) -> FileCredentials:
        """The installation's secrets, for one origin alone when a ``destination`` is given."""
        from ..installations.credential_file import FileCredentials  # reading needs no secret
        from .audit import InstallationAudit

        path, audit = self._folder(info) / CREDENTIALS, InstallationAudit(self, info)
        return FileCredentials(path, info=info, destination=destination, audit=audit)

    def version(self, info: InstallationInfo) -> object:
        """What differs after an installation's configuration, secrets or connector were changed."""
        file = self.file(info)
        paths = [file, file.with_name(CREDENTIALS)]
        with suppress(MaxError, OSError):
            paths += self._connectors.files(info)
        return {str(path): version_of(path) for path in paths}

    # -- reading ---------------------------------------------------------------------------

    def _readings(self) -> Iterator[InstallationInfo | ProjectError]:
        for folder in self._folders().values():
            try:
                yield read_installation(folder)
            except ProjectError as error:
                yield error

    def _folders(self) -> dict[str, Path]:
        """The folder of every installation by ``connector:name``, sorted."""
        found = sorted(self._installations.glob("[!.]*/[!.]*"))
        there = [one for one in found if os.path.lexists(one / INSTALLATION) or not os.access(one, os.X_OK)]
        return {f"{folder.parent.name}:{folder.name}": folder for folder in there}

    def target(self, text: str) -> InstallationInfo:
        """The installation that ``connector:name``, ``connector`` or the beginning of an id means.

        A connector alone means its only installation, and goes before an id.  UnknownName when
        there is none; UsageError, naming the candidates, when there are several.
        """
        folders = self._folders()
        return read_installation(folders[self._named(text, folders)])

    def removable(self, text: str) -> InstallationInfo:
        """``target``, also of an installation whose file cannot be read, which has neither id nor config."""
        try:
            return self.target(text)
        except UsageError:
            raise
        except ProjectError:
            connector, _, name = self._named(text, self._folders()).partition(":")
            return InstallationInfo(connector, name, "", {}, 0.0)

    def _named(self, text: str, folders: Mapping[str, Path]) -> str:
        """The ``connector:name`` that a text means."""
        return name_of(text, [*folders], self.installations)

    # -- writing ---------------------------------------------------------------------------

    def add(
        self,
        connector: str,
        name: str | None,
        config: Mapping[str, Json],
        secrets: Mapping[str, str],
        *,
        now: float,
        destination: str | None = None,
        exist_ok: bool = False,
    ) -> InstallationInfo:
        """Store a new installation: all of it, or nothing when this raises or is killed.

        Nothing is compared with what the connector declares.  Without a name it is "default",
        then "default-2", ….  ``now`` is in seconds since the epoch, ``destination`` the origin for
        which the secrets are.  Data that ``remove`` kept
        under the same name is used again.  With ``exist_ok`` an installation of that very name
        is returned as it is.
        """
        from ..installations.credential_file import StoredSecrets

        check_name("connector", connector)
        names = {"config": sorted(config), "secrets": sorted(secrets)}
        with self.audited("connect", f"{connector}:{name or ''}", **names) as facts, self._writing():
            if exist_ok and f"{connector}:{name}" in self._folders():
                return read_installation(self._installations / connector / str(name))
            name = self.free_name(connector, name)
            data = {
                "connector": connector,
                "name": name,
                "id": os.urandom(ID_BYTES).hex(),
                "config": dict(config),
                "connectedAt": datetime_text(datetime.fromtimestamp(now, UTC)) + "Z",
            }
            folder = self._installations / connector / name
            self._place(
                folder, {CREDENTIALS: StoredSecrets(dict(secrets), destination).to_json(), INSTALLATION: data}
            )
            facts |= {"name": name, "id": data["id"]}
        return read_installation(folder)

    def free_name(self, connector: str, name: str | None) -> str:
        """The name that a new installation would have: the first free default for None.

        UsageError when it cannot be one; ProjectError when it is taken, also by one that differs from it
        in case alone.
        """
        taken = {one.casefold() for one in self._folders()}
        kept = {f"{one.parent.name}:{one.name}" for one in self._installations.glob("[!.]*/[!.]*")}

        def is_free(full: str) -> bool:
            alike = {one for one in kept if one.casefold() == full.casefold()}
            return full.casefold() not in taken and alike <= {full}

        if name is None:
            return next(one for one in map(default_name, count(1)) if is_free(f"{connector}:{one}"))
        check_name("installation", name)
        if not is_free(f"{connector}:{name}"):
            raise ProjectError(
                f"the name {connector}:{name} is taken",
                hint="choose another name, or disconnect that installation first",
            )
        return name

    def _place(self, folder: Path, files: Mapping[str, Json]) -> None:
        """Write the files beside, then move them to the folder in one step."""
        staged = self._beside(STAGED)
        try:
            staged.mkdir(mode=0o700)
            for name, data in files.items():
                write_file(staged / name, encoded(data))
            sync_folder(staged)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            if folder.exists():  # kept data; installation.json comes last, since it makes the installation
                for name in files:
                    (staged / name).replace(folder / name)
            else:
                staged.rename(folder)
            for changed in (folder, folder.parent, self._installations):
                sync_folder(changed)
        except BaseException:
            if not (folder / INSTALLATION).exists():
                (folder / CREDENTIALS).unlink(missing_ok=True)
            raise
        finally:
            with suppress(OSError):  # the next writer clears it
                remove_tree(staged)
            remove_empty(folder, folder.parent)

    def reconfigure(
        self, info: InstallationInfo, revise: Callable[[InstallationInfo, StoredSecrets], OnboardingResult]
    ) -> InstallationInfo:
        """Replace an installation's configuration and secrets in one step, also when this is killed.

        ``revise`` gets the installation and its secrets as they are now, and returns what to store.
        No other process changes them meanwhile.
        """
        self.refuse_foreign()
        with self.audited("reconfigure", info) as facts:
            return self._reconfigure(info, revise, facts)

    def _reconfigure(
        self,
        info: InstallationInfo,
        revise: Callable[[InstallationInfo, StoredSecrets], OnboardingResult],
        facts: dict[str, Json],
    ) -> InstallationInfo:
        from ..installations.credential_file import StoredSecrets

        renewing = self.credentials(info).blocking_renewal_lock()
        with renewing, self.changing(info) as now:  # a renewal must not overwrite these secrets
            refuse_moving(self, info)
            stored = self.credentials(now).stored()
            found = revise(now, stored)
            new = StoredSecrets(found.secrets, found.destination)
            facts |= {
                "config": changed_names(now.config, found.config),
                "secrets": changed_names(stored.secrets, found.secrets),
            }
            if new != stored and found.config != now.config:
                self.credentials(now).prepare(new)
            elif new != stored:
                self.credentials(now).replace(new)
            if found.config != now.config:
                self._update(info, config=found.config)
        with self.changing(info) as now:  # the former secrets go
            return now

    def _update(self, info: InstallationInfo, **values: Json) -> None:
        """Replace values of installation.json; those that Max does not know stay."""
        file = self.file(info)
        replace_file(file, encoded(read_object(file) | values))

    def change_settings(self, info: InstallationInfo, **settings: Json) -> InstallationInfo:
        """Change some settings: ``change_settings(info, history="changes")``.

        UsageError when one does not exist or its value is invalid; nothing is changed then.
        """
        with self.audited("change_settings", info, **settings), self.changing(info) as now:
            refuse_moving(self, info)
            update_settings(now.settings, settings)
            kept = read_object(self.file(info)).get("settings") or {}
            if settings:
                self._update(info, settings=kept | settings)
        return read_installation(self._folder(info))

    def remove(self, info: InstallationInfo, *, keep_data: bool, moving: bool = False) -> None:
        """Remove an installation with its secrets, and its data unless ``keep_data``.

        StorageMoving while it is being moved, unless ``moving``.  The secrets go first.  A folder that is a
        link is removed with the files that lie behind it.
        """
        folder = self._folder(info)
        with self.audited("disconnect", info, keep_data=keep_data), self._writing():
            if not folder.is_dir():  # a file, a pipe or a link that leads nowhere: it holds nothing of ours
                remove_tree(folder)
                return
            with locked(folder):
                if not moving:
                    refuse_moving(self, info)
                for name in (*SECRET_FILES, INSTALLATION if keep_data else LOCK):
                    (folder / name).unlink(missing_ok=True)
                sync_folder(folder)
            if not keep_data:
                for name in FILES if folder.is_symlink() else ():
                    remove_tree(folder / name)
                gone = folder.rename(self._beside(GONE))
                sync_folder(folder.parent)
                remove_tree(gone)
            remove_empty(folder, folder.parent)

    # -- moving ----------------------------------------------------------------------------

    @contextmanager
    def moving_alone(self) -> Iterator[None]:
        """Hold the lock of the project's own folder, which nothing else locks."""
        with free_lock(self.root, patience=PATIENCE) as is_free:
            if not is_free:
                raise move_is_running(self.label)
            yield

    def is_moving(self) -> bool:
        """Whether another one holds the lock."""
        with free_lock(self.root, shared=True) as is_free:
            return not is_free

    def leaving(self, info: InstallationInfo) -> MovedInstallation:
        """All of an installation but its data; MoveRefused when its file has what Max does not know."""
        data = read_object(self.file(info))
        if more := sorted(data.keys() - set(KNOWN)):
            raise MoveRefused(
                f"{self.file(info)} has {', '.join(more)}, which would be lost elsewhere",
                hint="note it in another place, and take it out of the file",
            )
        now = read_installation(self._folder(info))
        return MovedInstallation(now, data.get("settings") or {}, self.credentials(now).stored())

    def check_arrival(self, one: MovedInstallation) -> None:
        """ProjectError when its name is taken, or there is data under it; UsageError when it can be none."""
        info = one.info
        self.refuse_foreign()
        check_name("connector", info.connector)
        check_name("installation", info.id)
        self.free_name(info.connector, info.name)
        if os.path.lexists(self._folder(info)):
            raise MoveRefused(
                f"{self._folder(info)} is there already: data that was kept when {info} was disconnected",
                hint="move it away, and move again",
            )

    def arriving(self, info: InstallationInfo) -> SqliteDatabase:
        """The data of an installation that is to come; its folder is made."""
        from ..storage.sqlite import SqliteDatabase

        folder = self._arriving(info)
        with translated(folder):
            self._installations.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        return SqliteDatabase(folder / DATABASE)

    def _arriving(self, info: InstallationInfo) -> Path:
        check_name("installation", info.id)  # a database that others write could name any place
        return self._installations / f"{ARRIVING}-{info.id}"

    def admit(self, coming: Sequence[MovedInstallation]) -> None:
        """Give each folder its name, in one step, when everything is in it."""
        with self._writing():
            for one in coming:
                self.check_arrival(one)
            for one in coming:
                self.arriving(one.info)
                self._admit(one, self._arriving(one.info))

    def _admit(self, one: MovedInstallation, staged: Path) -> None:
        folder, at = self._folder(one.info), datetime.fromtimestamp(one.info.connected_at, UTC)
        values = {
            "connector": one.info.connector,
            "name": one.info.name,
            "id": one.info.id,
            "config": dict(one.info.config),
            "settings": dict(one.settings),
            "connectedAt": datetime_text(at) + "Z",
        }
        try:
            replace_file(staged / CREDENTIALS, encoded(one.secrets.to_json()))
            replace_file(staged / INSTALLATION, encoded(values))
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            staged.rename(folder)
        except BaseException:
            (staged / CREDENTIALS).unlink(missing_ok=True)
            raise
        for changed in (folder, folder.parent, self._installations):
            sync_folder(changed)

    def drop_arriving(self, info: InstallationInfo) -> None:
        """Remove its folder."""
        with translated(self._installations):
            remove_tree(self._arriving(info))

    def rotate_keys(self) -> NoReturn:
        """UsageError: secrets in files are sealed with no key."""
        raise UsageError(
            f"the secrets of {self.label} are in files, which no key seals",
            hint="keys are for a project in a database: max init --database URL",
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Lock the set of installations, and clear what a crash left in it."""
        self.refuse_foreign()
        with translated(self._installations):
            self._installations.mkdir(mode=0o700, exist_ok=True)
            with locked(self._installations):
                self._clear_leftovers()
                yield

    def _clear_leftovers(self) -> None:
        """Remove what a crash left: half of an installation, and secrets without one.

        What cannot be removed blocks nothing.
        """
        for leftover in self._leftovers():
            with suppress(OSError):
                remove_tree(leftover)
        for path in self._installations.glob(f"[!.]*/[!.]*/*{CREDENTIALS}*"):
            orphan = not os.path.lexists(path.with_name(INSTALLATION))
            if path.name in SECRET_FILES[not orphan :]:
                with suppress(OSError), locked(path.parent):
                    path.unlink(missing_ok=True)


def _made(folder: Path) -> bool:
    """Make a folder that only its owner can use; False when there is one."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def default_name(number: int) -> str:
    """The nth name that an installation has when none is given."""
    return "default" if number == 1 else f"default-{number}"


def check_name(kind: str, name: str) -> None:
    """UsageError unless a name can be a folder's, here and on any other machine."""
    if not NAME.fullmatch(name) or DEVICE.fullmatch(name):
        hint = "use up to 64 letters, digits, '-', '_' and '.', with a letter or digit first and no '.' last"
        if DEVICE.fullmatch(name):
            hint = "Windows keeps this name for a device; choose another one"
        article = "an" if kind[0] in "aeiou" else "a"
        raise UsageError(f"{name!r} cannot be the name of {article} {kind}", hint=hint)


def _is_moment(text: str) -> bool:
    """Whether a text is a time that can be shown in every time zone."""
    return is_datetime(text) and 1 < datetime.fromisoformat(text).year < LAST_YEAR


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
        ("connectedAt", "a time such as 2026-01-31T09:30:00Z", isinstance(at, str) and _is_moment(at)),
        ("settings", "an object", isinstance(settings, dict)),
    )
    for key, expected, valid in checks:
        if not valid:
            raise broken(path, str(Mismatch(key, expected, data.get(key), secret=key == "config")))
    for wrong in invalid_settings(settings):
        raise broken(path, f"settings.{wrong}")
    connected_at = datetime.fromisoformat(str(at)).timestamp()
    return InstallationInfo(
        folder.parent.name, folder.name, str(id), dict(config or {}), connected_at, read_settings(settings)
    )
