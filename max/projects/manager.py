"""ProjectManager: what a program and the commands need of a project, wherever that is kept.

``ProjectFolder`` keeps it in files, ``ProjectDatabase`` in Postgres.  Everything here is synchronous and may
block; ``Project`` offers the same to an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from ..errors import MaxError, MoveRefused, ProjectError, StorageMoving, UnknownName, UsageError
from ..model.settings import InstallationInfo
from ..model.values import Json

if TYPE_CHECKING:
    from ..connector import Connector
    from ..core import SyncLease
    from ..installations.credential_file import FileCredentials, StoredSecrets
    from ..installations.onboarding import OnboardingResult
    from ..installations.project_connectors import ProjectConnectors
    from ..installations.registry import ConnectorRegistry
    from ..model.soundness import Finding
    from ..storage.database import Database
    from ..storage.move_mark import Mark
    from ..upstream.operations import FlowController
    from .database_credentials import DatabaseCredentials

    InstallationSecrets: TypeAlias = FileCredentials | DatabaseCredentials
    Revise: TypeAlias = Callable[[InstallationInfo, StoredSecrets], OnboardingResult]


class MovedInstallation(NamedTuple):
    """All of an installation but its data: what another project needs to have it.

    ``settings`` are as they were written, also those that this version does not know.
    """

    info: InstallationInfo
    settings: Mapping[str, Json]
    secrets: StoredSecrets


class InstallationWork(NamedTuple):
    """What workers have to do for an installation.

    ``asked``: a sync was asked for that has not begun; ``worker``: the process that has its lease now;
    ``problem``: why its work could not begin, of late; ``next_at``: when it is looked at again, in seconds
    since the epoch by the server's clock, None: when something is asked for.
    """

    asked: bool
    worker: str | None
    problem: str | None
    next_at: float | None


class ProjectManager(Protocol):
    """The installations of one project.  Safe beside other threads and processes.

    Besides what is asked of it, this class has what is the same wherever a project is kept.
    """

    _root: Path | None
    _trusted: bool
    _connectors: ProjectConnectors

    @property
    def label(self) -> str:
        """Which project it is, for messages, and for another process that opens it; no secret."""

    @property
    def address(self) -> str:
        """Where it is kept, whichever folder leads there: a folder, or a URL; no secret."""

    @property
    def root(self) -> Path | None:
        """The folder in which it was found: of its own connectors, and of its daemon; None without one."""
        return self._root

    @property
    def trusted(self) -> bool:
        """Whether its own connectors run, whatever is recorded."""
        return self._trusted

    def refuse_foreign(self, *, above: bool = False) -> None:
        """ProjectUntrusted when another user may have written its folder: it can only be read then.

        ``above``: the folder was not named but found, and is not even read.
        """
        if self._root is not None and not self._trusted:
            from ..installations.trust import refuse_exposed  # what only reads needs none of it

            refuse_exposed(self._root, above=above)

    def _allow_connectors(self) -> None:
        """ProjectUntrusted when the connectors of its folder must not run."""
        if self._root is not None and not self._trusted:
            from ..installations.trust import refuse_untrusted

            refuse_untrusted(self._root)

    def close(self) -> None:
        """Give up what is kept between two calls, such as connections; the project may be used again."""

    # -- reading

    def _readings(self) -> Iterable[InstallationInfo | ProjectError]:
        """Every installation, or what is wrong with it, sorted by name."""

    def installations(self) -> list[InstallationInfo]:
        """Every installation that can be read, sorted by name."""
        return [one for one in self._readings() if isinstance(one, InstallationInfo)]

    def problems(self) -> list[ProjectError]:
        """What is wrong with each installation that ``installations`` leaves out."""
        return [one for one in self._readings() if isinstance(one, ProjectError)]

    def target(self, text: str) -> InstallationInfo:
        """The installation that ``connector:name``, ``connector`` or the beginning of an id means.

        A connector alone means its only installation, and goes before an id.  UnknownName when
        there is none; UsageError, naming the candidates, when there are several.
        """

    def removable(self, text: str) -> InstallationInfo:
        """``target``, also of an installation that cannot be read, which has neither id nor config."""

    def version(self, info: InstallationInfo) -> object:
        """What differs after an installation's configuration, secrets or connector were changed."""

    def place_of(self, info: InstallationInfo) -> str:
        """Where the installation is written down, for people."""

    def findings(self) -> Iterable[Finding]:
        """Whether the place is sound where the project is kept; nothing is written."""

    # -- connectors

    @property
    def registry(self) -> ConnectorRegistry:
        """The connectors that can be used here, the project's own among them."""
        return self._connectors.registry

    def connector(self, info: InstallationInfo) -> Connector[Any, Any]:
        """The connector of an installation: in the version that its settings pin, if they do.

        As the registry's ``resolve``; ConnectorError when the pinned folder has no such connector.
        """
        return self._connectors.connector(info)

    def connector_files(self, info: InstallationInfo) -> list[Path]:
        """The files of an installation's connector, and those beside it, which are not imported.

        ConnectorError when there is none.
        """
        return self._connectors.files(info)

    # -- data

    def has_data(self, info: InstallationInfo) -> bool:
        """Whether the installation's database is there: it was synced, or has a schedule."""

    def place_of_data(self, info: InstallationInfo) -> str:
        """Where the installation's data is, or will be, for people."""

    def database(self, info: InstallationInfo) -> Database:
        """The installation's data, or where it will be, for reading."""

    def writable_database(self, info: InstallationInfo) -> Database:
        """The same for writing.

        ProjectError when another installation has its name, ProjectUntrusted where nothing may be written.
        """

    def lease(self, info: InstallationInfo, database: Database) -> SyncLease | None:
        """The right to sync the installation, where processes of several hosts may; else None.

        ``database`` is the one that its runtime writes, which checks the lease.
        """

    def flow(self, info: InstallationInfo, secrets: InstallationSecrets) -> FlowController | None:
        """What shares the limits of the installation's account between hosts, where there are several."""

    def ask(self, info: InstallationInfo, what: Mapping[str, Json]) -> None:
        """Ask a worker for a sync: ``options``, ``discard_unfinished``, or ``retry`` with the id of one.

        UsageError where there are no workers.
        """

    def workers(self) -> int:
        """How many workers live, on any host, that do its syncs."""

    def work(self, info: InstallationInfo) -> InstallationWork | None:
        """What workers have to do for an installation; None where there are none."""

    def wake(self, info: InstallationInfo) -> None:
        """Have a worker look at an installation, where there are some: a schedule of it was changed."""

    def credentials(self, info: InstallationInfo, destination: str | None = None) -> InstallationSecrets:
        """The installation's secrets, for one origin alone when a ``destination`` is given."""

    # -- writing

    def audit_database(self, copy: Path | None = None) -> Database:
        """The project's audit, or a copy of it in a file, for reading."""

    def writable_audit(self) -> Database | None:
        """The same for writing; None when this user may not write to the project."""

    def audited(
        self, action: str, what: InstallationInfo | str = "", /, **facts: Json
    ) -> AbstractContextManager[dict[str, Json]]:
        """Record a change in the project's audit: ``with project.audited("change_settings", info):``."""
        from .audit import audited  # what only reads needs none of it

        return audited(self, action, what, **facts)

    def free_name(self, connector: str, name: str | None) -> str:
        """The name that a new installation would have: the first free default for None.

        UsageError when it cannot be one; ProjectError when it is taken, also by one that differs from it
        in case alone.
        """

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

        Nothing is compared with what the connector declares.  ``now`` is in seconds since the epoch,
        ``destination`` the origin for which the secrets are.  Data that ``remove`` kept under the same
        name is used again.  With ``exist_ok`` an installation of that very name is returned as it is.
        """

    def reconfigure(self, info: InstallationInfo, revise: Revise) -> InstallationInfo:
        """Replace an installation's configuration and secrets in one step, also when this is killed.

        ``revise`` gets the installation and its secrets as they are now, and returns what to store.
        No other process changes them meanwhile.
        """

    def change_settings(self, info: InstallationInfo, **settings: Json) -> InstallationInfo:
        """Change some settings.  UsageError when one is unknown or invalid; nothing is changed then.

        StorageMoving while the installation is being moved, as of ``reconfigure``.
        """

    def remove(self, info: InstallationInfo, *, keep_data: bool, moving: bool = False) -> None:
        """Remove an installation with its secrets, and its data unless ``keep_data``.

        StorageMoving while it is being moved, unless ``moving``.
        """

    # -- moving: an installation comes from another project, or goes there

    def changing(self, info: InstallationInfo) -> AbstractContextManager[InstallationInfo]:
        """Be the only one who changes or removes an installation, which is given as it is now.

        ProjectError when it is gone.
        """

    def moving_alone(self) -> AbstractContextManager[None]:
        """Be the only one who moves something out of the project, or takes that back; a crash ends it.

        MoveRefused while another one does.
        """

    def is_moving(self) -> bool:
        """Whether a move out of the project is under way."""

    def leaving(self, info: InstallationInfo) -> MovedInstallation:
        """All of an installation but its data.

        MoveRefused when something is noted of it that only a folder holds; KeyMissing and KeyWrong.
        """

    def check_arrival(self, one: MovedInstallation) -> None:
        """ProjectError when it cannot come: its name is taken, or there is no key for its secrets."""

    def arriving(self, info: InstallationInfo) -> Database:
        """The data of an installation that is to come, under a name by which none is found."""

    def admit(self, coming: Sequence[MovedInstallation]) -> None:
        """Take in the installations that were to come: from this step on they are here, with their data.

        On a server it is one transaction for all; in a folder the renaming of a folder for each.
        """

    def drop_arriving(self, info: InstallationInfo) -> None:
        """Remove the data of an installation that was to come, if there is any."""

    def rotate_keys(self) -> int:
        """Seal every secret with the first key; how many were sealed with another one.

        UsageError where secrets are in files, which no key seals.
        """


def move_is_running(label: str) -> MoveRefused:
    """The error while another move out of the project is under way."""
    return MoveRefused(
        f"another process is moving something out of {label}",
        hint="let it end, and run this again; max status says what is being moved",
    )


def refuse_moving(project: ProjectManager, info: InstallationInfo) -> None:
    """StorageMoving while an installation is being moved: the other place may have all of it already."""
    from ..storage.database import FINISH_MOVE, MOVING  # much of what is done here needs no storage

    if move_mark(project, info) is not None:
        raise StorageMoving(f"{info}: {MOVING}", hint=FINISH_MOVE)


def move_mark(project: ProjectManager, info: InstallationInfo) -> Mark | None:
    """Where an installation is being moved to; None when nothing is known of a move."""
    from ..storage.database import reading
    from ..storage.move_mark import mark_of

    with suppress(MaxError), reading(project.database(info)) as connection:
        return mark_of(connection)
    return None


def finishing(target: str, installation: str = "") -> str:
    """The command that moves an installation, or a whole project, to a place."""
    from shlex import quote

    return " ".join(["max move", *filter(None, [installation]), "--to", quote(target)])


def ways_out(info: InstallationInfo, mark: Mark) -> tuple[str, str | None]:
    """The command that goes on with a move, and the one that takes it back.

    None for the second one when the other place may have it already.
    """
    undo = None if mark.handing_over else f"max move {info} --undo"
    return finishing(mark.target, "" if mark.whole else str(info)), undo


def folder_of(project: ProjectManager) -> Path:
    """The project's folder; ProjectError where a folder is needed and there is none: for a daemon."""
    if project.root is None:
        raise ProjectError(
            f"{project.label} was opened without a folder, and a daemon or connectors of its own need one",
            hint="make one that leads to it: max init DIR --database URL",
        )
    return project.root


def name_of(text: str, names: Sequence[str], infos: Callable[[], Sequence[InstallationInfo]]) -> str:
    """The ``connector:name`` among these that a text means: as it is, by its connector, or by an id."""
    found = [name for name in names if text in (name, name.partition(":")[0])]
    found = found or [str(info) for info in infos() if text and info.id.startswith(text)]
    if not found:
        raise UnknownName("installation", text, names)
    if len(found) > 1:
        problem = f"{text!r} may be any of {', '.join(found)}"
        raise UsageError(problem, hint="write it as connector:name", candidates=found)
    return found[0]
