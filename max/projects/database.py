"""A project in Postgres: its installations are rows, and each has its data in a schema of its own.

    max                        installation, credential: what a folder has in files
    max_audit                  who changed what; its rows stay when a change is undone
    max_acme_default           the data of acme:default
    max__acme_default_2_…      that of acme:default-2: names that are no plain words end in a digest

Rule 1: a change is one transaction under the lock of the project's schema: all of it or nothing, in whatever
process and on whatever host.  So a crash leaves nothing to clear.

Rule 2: secrets are sealed (``encryption``) with a key that is not in the database.

Rule 3: nothing lies on the disk of a host.  A folder may lead to the project: its ``.max/project.json`` names
the URL, without a password, which comes from where libpq finds it (PGPASSFILE, a service, PGPASSWORD).

Rule 4: a role of the server that has the rights may read and write; who made the folder matters for
that folder alone: for its connectors, and for whether its URL is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from ..errors import MaxError, MoveRefused, ProjectError, StorageEmpty, StorageError, UsageError
from ..installations.credential_file import StoredSecrets
from ..installations.encryption import Keys, KeySource, keys_of_environment
from ..installations.files import changed_names, version_of
from ..installations.project_connectors import ProjectConnectors
from ..model.settings import InstallationInfo, invalid_settings, read_settings, update_settings
from ..model.values import Json
from ..storage import postgres_project as rows
from ..storage.postgres import PostgresDatabase, exists, pool_of, translated
from ..storage.postgres_project import StoredInstallation
from .database_credentials import DatabaseCredentials, sealed
from .manager import (
    InstallationWork,
    MovedInstallation,
    ProjectManager,
    move_is_running,
    name_of,
    refuse_moving,
)

if TYPE_CHECKING:
    from ..core import SyncLease
    from ..installations.onboarding import OnboardingResult
    from ..model.soundness import Finding
    from ..storage.database import Connection, Database
    from ..storage.postgres_leases import LeaseKeeper
    from ..storage.postgres_work import WorkTable
    from ..upstream.operations import FlowController
    from .manager import InstallationSecrets

SCHEMA = "max"  # of a project, unless its URL names another one behind #
PROJECT_SCHEMA = re.compile(r"[a-z][a-z0-9]{0,15}")  # no underscore: what begins with it is this project's
WORD = re.compile(r"[a-z0-9]+")
WORDS = re.compile(r"[a-z0-9][a-z0-9_]*")
LONGEST = 63  # bytes of a schema's name
CLOCKS = 5.0  # seconds by which two clocks may differ: those that a time server sets differ by far less
ID_BYTES = 8  # of an installation's random id


def without_password(url: str) -> str:
    """A URL for messages and for other processes."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(one for one in parts.query.split("&") if not one.startswith("password="))
    netloc = f"{user.partition(':')[0]}{at}{host}"
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def refuse_password(url: str) -> None:
    """UsageError for a URL that holds a password, where it would be seen or kept, and for what is no URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(
            f"that is no URL of a database: {error}", hint="write postgresql://USER@HOST:PORT/DATABASE"
        ) from None
    if ":" in parts.netloc.rpartition("@")[0] or "password" in dict(parse_qsl(parts.query)):
        raise UsageError(
            "a password in a URL is seen by other users, and would be kept on the disk",
            hint="leave it out; libpq finds it in ~/.pgpass, PGPASSFILE, or the service that PGSERVICE names",
        )


def schema_of(project: str, connector: str, name: str) -> str:
    """The schema with the data of an installation.

    Where the connector's name is of small letters, digits and ``_``, and the installation's of small
    letters and digits, it is both with ``_`` between: the last one ends the connector's name.  Any other has
    a second ``_`` behind the project, where no connector's name begins, and ends in a digest of both names.
    """
    plain = f"{project}_{connector}_{name}"
    if WORDS.fullmatch(connector) and WORD.fullmatch(name) and len(plain) <= LONGEST:
        return plain
    from hashlib import sha256

    digest = sha256(f"{connector}:{name}".encode()).hexdigest()[:16]
    readable = re.sub(r"[^a-z0-9]+", "_", f"{connector}_{name}".lower())
    return f"{project}__{readable[: LONGEST - len(project) - len(digest) - 3]}_{digest}"


class ProjectDatabase(ProjectManager):
    """The installations of one project.  Safe beside other threads, processes and hosts.

    ``url`` is ``postgresql://user@host/database``; behind ``#`` it may name the schema of the project.
    ``root`` is the folder that leads to it, if one does.  ``keys`` finds the keys of its secrets when one is
    read or written; without it, the environment says where they are.
    """

    def __init__(
        self,
        url: str,
        *,
        root: Path | None = None,
        trusted: bool = False,
        keys: KeySource = keys_of_environment,
    ) -> None:
        self._url, _, schema = url.partition("#")
        self._schema = schema or SCHEMA
        if not PROJECT_SCHEMA.fullmatch(self._schema):
            raise UsageError(
                f"{self._schema!r} cannot be the schema of a project",
                hint="use up to 16 small letters and digits, with a letter first",
            )
        self._shown = without_password(url)
        self._root, self._trusted, self._keys = root, trusted, keys
        self._pool = pool_of(self._url)
        self._main = PostgresDatabase(self._url, self._schema, pool=self._pool)
        self._connectors = ProjectConnectors(root, self._allow_connectors)
        self._known_keys: Keys | None = None
        self._leases: LeaseKeeper | None = None
        self._has_work = False

    @classmethod
    def open(
        cls,
        url: str,
        *,
        create: bool = False,
        root: Path | None = None,
        trusted: bool = False,
        keys: KeySource = keys_of_environment,
    ) -> Self:
        """The project of a database; with ``create`` it is made where there is none, else ProjectError.

        StorageNewer when a newer Max made it; StorageDenied, StorageUnreachable and StorageMissing when the
        server says no, cannot be reached, or has no such database.
        """
        project = cls(url, root=root, trusted=trusted, keys=keys)
        if create:
            project.make()
        else:
            with project._reading():
                pass
        return project

    def make(self, *, with_audit: bool = True) -> None:
        """Make the project's tables, or bring them to the newest version; nothing changes when it is.

        Without ``with_audit`` that is not recorded: the audit comes from elsewhere.
        """
        new = not self._main.is_there()
        with self._main.writer() as connection:
            rows.make(connection)
        if new and with_audit:
            with self.audited("init"):
                pass

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._main.reader() as connection, translated(self._main.label):
                if not rows.is_made(connection):
                    raise StorageEmpty("there is no project")
                yield connection
        except StorageEmpty:
            hint = f"make one with: max init --database {self._shown}"
            raise ProjectError(f"there is no project in {self._shown}", hint=hint) from None

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction that changes the project; its tables are brought to the newest version before."""
        self.refuse_foreign()
        with self._main.writer() as connection:
            rows.make(connection)
            yield connection

    def close(self) -> None:
        """Close the connections that nothing uses; the project may be used again."""
        self._pool.close()

    # -- what it is

    @property
    def label(self) -> str:
        """The folder that leads to it, or its URL without a password."""
        return self._shown if self._root is None else str(self._root)

    @property
    def address(self) -> str:
        """Its URL without a password."""
        return self._shown

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    # -- reading

    def _stored(self) -> list[StoredInstallation]:
        with self._reading() as connection:
            return rows.installations(connection)

    def _readings(self) -> Iterator[InstallationInfo | ProjectError]:
        return map(_info_or_problem, self._stored())

    def target(self, text: str) -> InstallationInfo:
        """The installation that ``connector:name``, ``connector`` or the beginning of an id means."""
        return _info(self._named(text))

    def removable(self, text: str) -> InstallationInfo:
        """``target``, also of an installation whose settings are of a newer Max."""
        one = self._named(text)
        return InstallationInfo(one.connector, one.name, one.id, dict(one.config), one.connected_at)

    def by_id(self, id: str) -> InstallationInfo:
        """The installation with an id; ProjectError when it is gone."""
        with self._reading() as connection:
            one = rows.installation(connection, id)
        if one is None:
            raise ProjectError(f"the installation {id} was disconnected")
        return _info(one)

    def _named(self, text: str) -> StoredInstallation:
        if ":" in text:  # one row, where there may be thousands
            with self._reading() as connection:
                one = rows.named(connection, *text.split(":", 1))
            if one is not None:
                return one
        known = {str(one): one for one in self._stored()}
        infos = [InstallationInfo(one.connector, one.name, one.id, {}, 0.0) for one in known.values()]
        return known[name_of(text, [*known], lambda: infos)]

    def version(self, info: InstallationInfo) -> object:
        """What differs after an installation's configuration, secrets or connector were changed."""
        files: list[Path] = []
        with suppress(MaxError, OSError):
            files = self._connectors.files(info)
        with self._reading() as connection:
            one = rows.installation(connection, info.id)
        return None if one is None else one.version, {str(path): version_of(path) for path in files}

    def place_of(self, info: InstallationInfo) -> str:
        """Its row."""
        return f"{self._main.label}, the row {info.id} of installation"

    def findings(self) -> Iterator[Finding]:
        """Whether the server's clock is right, and its secrets can be opened with the key that is given."""
        from ..model.soundness import Finding, failed, warning

        began = time()
        with self._reading() as connection:
            version, clock = rows.server(connection)
            ahead = clock - (began + time()) / 2
            sealed = rows.any_secret(connection)
        yield Finding("place", f"it is in {self._shown}: PostgreSQL {version}")
        side = "ahead of" if ahead > 0 else "behind"
        fact = f"the server's clock is {abs(ahead):.1f} s {side} this machine's"
        hint = "set both by a time server: ages and schedules are counted by them"
        yield warning("clock", fact, hint) if abs(ahead) > CLOCKS else Finding("clock", fact)
        if sealed is not None:
            one, about = sealed
            try:
                self._all_keys().open(one.key, one.sealed, *about, one.name)
                yield Finding("key", f"the key {one.key} is there, and opens what it has sealed")
            except MaxError as error:
                yield failed("key", error)

    # -- data

    def _place(self, info: InstallationInfo) -> str:
        return schema_of(self._schema, info.connector, info.name)

    def has_data(self, info: InstallationInfo) -> bool:
        """Whether the installation's schema is there."""
        return self.database(info).is_there()

    def place_of_data(self, info: InstallationInfo) -> str:
        """The server, the database and the schema."""
        return self.database(info).label

    def database(self, info: InstallationInfo) -> PostgresDatabase:
        """The installation's data, or where it will be, for reading."""
        return PostgresDatabase(
            self._url,
            self._place(info),
            durability=info.settings.durability,
            pool=self._pool,
            reader=f"{self._schema}_reader",
        )

    def writable_database(self, info: InstallationInfo) -> PostgresDatabase:
        """The same for writing; ProjectError when the installation is gone."""
        self.refuse_foreign()
        with self._reading() as connection:
            _now(connection, info)
        return self.database(info)

    @property
    def leases(self) -> LeaseKeeper:
        """The leases that this process has in the project."""
        if self._leases is None:
            from ..storage.postgres_leases import LeaseKeeper

            self._leases = LeaseKeeper(self.work_table())
        return self._leases

    def lease(self, info: InstallationInfo, database: Database) -> SyncLease:
        """A row that says which process of which host syncs the installation, and until when."""
        from ..storage.postgres_leases import PostgresLease

        if not isinstance(database, PostgresDatabase):
            raise StorageError(f"{database.label} is in no server")
        return PostgresLease(self.leases, info, database)

    def flow(self, info: InstallationInfo, secrets: InstallationSecrets) -> FlowController:
        """Limits that every process shares which calls for the same account."""
        from ..upstream.oauth import OAuth
        from ..upstream.shared_limits import SharedLimits
        from .account_limits import AccountLimits

        def account() -> str:
            known, origin = secrets.stored()
            if known.keys() & {OAuth.ACCESS_TOKEN.name, OAuth.REFRESH_TOKEN.name}:
                return info.id  # they change, and no other installation has the same ones
            values = [known[name] for name in sorted(known)]
            return self._all_keys().digest(info.connector, origin or "", *values) if known else info.id

        return SharedLimits(AccountLimits(self.work_table(), account))

    def ask(self, info: InstallationInfo, what: Mapping[str, Json]) -> None:
        """Ask a worker for a sync."""
        self.refuse_foreign()
        self.work_table().ask(info.id, what)

    def workers(self) -> int:
        """How many workers have sent a heartbeat of late."""
        from ..storage.postgres_work import WORKERS

        with self._reading() as connection:  # a command that reads asks this: it makes nothing
            if not connection.dialect.columns(connection, "worker"):
                return 0  # an older Max has made the project
            return int(connection.execute(WORKERS.format(worker="worker")).fetchone()[0])

    def work(self, info: InstallationInfo) -> InstallationWork | None:
        """What workers have to do for an installation; nothing is made or changed."""
        from ..storage.leases import describe_worker
        from ..storage.postgres_work import WANTED

        with self._reading() as connection:
            has_work = bool(connection.dialect.columns(connection, "work"))
            found = (
                connection.execute(WANTED.format(work="work"), (info.id,)).fetchone() if has_work else None
            )
        if found is None:
            return None
        asked, owner, problem, next_at = found
        return InstallationWork(asked, owner and describe_worker(owner), problem, next_at)

    def wake(self, info: InstallationInfo) -> None:
        """Have a worker look at an installation at once."""
        self.work_table().wake(info.id)

    def work_table(self) -> WorkTable:
        """What the installations want, and who has their leases."""
        from ..storage.postgres_work import WorkTable

        if not self._has_work:
            self.make()  # an older Max may have made the project
            self._has_work = True
        return WorkTable(self._url, self._schema, self._main.label, self._pool)

    def credentials(self, info: InstallationInfo, destination: str | None = None) -> DatabaseCredentials:
        """The installation's secrets, for one origin alone when a ``destination`` is given."""
        from .audit import InstallationAudit

        audit = InstallationAudit(self, info)
        return DatabaseCredentials(self._main, info, self._all_keys, destination=destination, audit=audit)

    def _all_keys(self) -> Keys:
        """The keys, which are looked for once."""
        if self._known_keys is None:
            self._known_keys = self._keys()
        return self._known_keys

    # -- writing

    def audit_database(self, copy: Path | None = None) -> Database:
        """The project's audit, or a copy of it in a file, for reading."""
        if copy is not None:
            from ..storage.sqlite import SqliteDatabase

            return SqliteDatabase(copy)
        return PostgresDatabase(self._url, f"{self._schema}_audit", pool=self._pool)

    def writable_audit(self) -> Database:
        """The same for writing."""
        return self.audit_database()

    def free_name(self, connector: str, name: str | None) -> str:
        """The name that a new installation would have; as ``ProjectFolder.free_name``."""
        return _free_name(self._stored(), connector, name)

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
        """Store a new installation, in one transaction."""
        from .folder import check_name

        check_name("connector", connector)
        names = {"config": sorted(config), "secrets": sorted(secrets)}
        keys = self._all_keys() if secrets else None  # a missing key is an error before anything is done
        with (
            self.audited("connect", f"{connector}:{name or ''}", **names) as facts,
            self._writing() as connection,
        ):
            known = rows.installations(connection)
            for one in known if exist_ok else ():
                if str(one) == f"{connector}:{name}":
                    return _info(one)
            name = _free_name(known, connector, name)
            id = os.urandom(ID_BYTES).hex()
            place = schema_of(self._schema, connector, name)
            made = StoredInstallation(id, connector, name, place, config, {}, now, destination, 1)
            rows.add(connection, made)
            if keys is not None:
                given = StoredSecrets(dict(secrets), destination)
                rows.replace_secrets(connection, id, sealed(keys, id, given), destination)
            facts |= {"name": name, "id": id}
            return _info(made)

    def reconfigure(
        self, info: InstallationInfo, revise: Callable[[InstallationInfo, StoredSecrets], OnboardingResult]
    ) -> InstallationInfo:
        """Replace an installation's configuration and secrets in one transaction."""
        with (
            self.audited("reconfigure", info) as facts,
            self.credentials(info).blocking_renewal_lock(),
            self._writing() as connection,
        ):
            now = _info(_now(connection, info))
            refuse_moving(self, info)
            credentials = self.credentials(now)
            stored = credentials.stored_in(connection)
            found = revise(now, stored)
            new = StoredSecrets(found.secrets, found.destination)
            facts |= {
                "config": changed_names(now.config, found.config),
                "secrets": changed_names(stored.secrets, found.secrets),
            }
            if new != stored:
                credentials.replace_in(connection, new)
            if found.config != now.config:
                rows.configure(connection, info.id, found.config, found.destination)
            return _info(_now(connection, info))

    def change_settings(self, info: InstallationInfo, **settings: Json) -> InstallationInfo:
        """Change some settings; UsageError when one is unknown or invalid, and nothing is changed then."""
        with self.audited("change_settings", info, **settings), self._writing() as connection:
            one = _now(connection, info)
            refuse_moving(self, info)
            update_settings(_info(one).settings, settings)
            if settings:
                rows.change_settings(connection, info.id, {**one.settings, **settings})
            return _info(_now(connection, info))

    def remove(self, info: InstallationInfo, *, keep_data: bool, moving: bool = False) -> None:
        """Remove an installation with its secrets, and its data unless ``keep_data``, in one transaction.

        StorageMoving while it is being moved, unless ``moving``.
        """
        with self.audited("disconnect", info, keep_data=keep_data), self._writing() as connection:
            if not moving:
                refuse_moving(self, info)
            rows.remove(connection, _now(connection, info), keep_data=keep_data)

    # -- moving

    @contextmanager
    def changing(self, info: InstallationInfo) -> Iterator[InstallationInfo]:
        """Hold the lock under which the project is changed."""
        with self._writing() as connection:
            yield _info(_now(connection, info))

    @contextmanager
    def moving_alone(self) -> Iterator[None]:
        """Hold a lock of the server, in a transaction that is open for as long."""
        with self._main.reader() as connection:
            with translated(self._main.label):
                is_free = rows.hold_moves(connection, self._schema)
            if not is_free:
                raise move_is_running(self._shown)
            yield

    def is_moving(self) -> bool:
        """Whether another process, on any host, holds the lock."""
        with self._reading() as connection:
            return rows.are_moves_held(connection, self._schema)

    def leaving(self, info: InstallationInfo) -> MovedInstallation:
        """All of an installation but its data."""
        with self._reading() as connection:
            one = _now(connection, info)
            stored = self.credentials(_info(one)).stored_in(connection)
        return MovedInstallation(_info(one), one.settings, stored)

    def check_arrival(self, one: MovedInstallation) -> None:
        """ProjectError when its name or its schema is taken, or there is no key for its secrets."""
        self.refuse_foreign()
        if one.secrets.secrets:
            self._all_keys()
        if self._main.is_there():
            with self._main.reader() as connection, translated(self._main.label):
                rows.refuse_others(connection)
                self._check_arrival(connection, one.info)

    def _check_arrival(self, connection: Connection, info: InstallationInfo) -> None:
        known = rows.installations(connection) if rows.is_made(connection) else []
        place = self._place(info)
        _free_name(known, info.connector, info.name)
        if any(one.id == info.id for one in known):
            raise MoveRefused(f"{self._shown} has an installation with the id {info.id} already")
        if exists(connection, place):
            raise MoveRefused(
                f"the schema {place} is there already: data that was kept when {info} was disconnected,"
                " or another program's",
                hint="rename or drop it, and move again",
            )

    def arriving(self, info: InstallationInfo) -> PostgresDatabase:
        """The data of an installation that is to come."""
        schema = f"{self._schema}__arriving_{info.id}"[:LONGEST]
        return PostgresDatabase(self._url, schema, pool=self._pool, reader=f"{self._schema}_reader")

    def admit(self, coming: Sequence[MovedInstallation]) -> None:
        """Their rows, their secrets, and the names of their schemas, in one transaction."""
        keys = self._all_keys() if any(one.secrets.secrets for one in coming) else None
        with self._writing() as connection:
            for info, settings, given in coming:
                self._check_arrival(connection, info)
                place, config = self._place(info), dict(info.config)
                if exists(connection, staged := self.arriving(info).schema):
                    rows.rename_schema(connection, staged, place)
                made = (info.id, info.connector, info.name, place, config, settings, info.connected_at)
                rows.add(connection, StoredInstallation(*made, given.destination, 1))
                if keys is not None and given.secrets:
                    rows.replace_secrets(connection, info.id, sealed(keys, info.id, given), given.destination)

    def drop_arriving(self, info: InstallationInfo) -> None:
        """Drop its schema."""
        self.arriving(info).delete()

    def rotate_keys(self) -> int:
        """Seal every secret with the first key; how many were sealed with another one.

        One transaction: KeyWrong when one cannot be opened, and nothing is changed then.
        """
        keys, changed = self._all_keys(), 0
        with self.audited("rotate_keys", key=keys.newest) as facts, self._writing() as connection:
            for one in rows.installations(connection):
                old = [secret for secret in rows.secrets(connection, one.id) if secret.key != keys.newest]
                if old:
                    stored = self.credentials(_info(one)).stored_in(connection)
                    rows.replace_secrets(connection, one.id, sealed(keys, one.id, stored), stored.destination)
                    changed += len(old)
            facts["secrets"] = changed
        return changed


def _now(connection: Connection, info: InstallationInfo) -> StoredInstallation:
    """An installation as it is now; ProjectError when it is gone."""
    one = rows.installation(connection, info.id)
    if one is None:
        raise ProjectError(f"{info} was disconnected")
    return one


def _info(one: StoredInstallation) -> InstallationInfo:
    """An installation from its row; ProjectError when that makes no sense to this Max."""
    wrong = one.problem or next((f"settings.{bad}" for bad in invalid_settings(one.settings)), "")
    if wrong:
        raise ProjectError(
            f"{one}: its row in the table installation cannot be used: {wrong}",
            hint=f"correct it, or: max disconnect {one}",
        )
    settings = read_settings(dict(one.settings))
    return InstallationInfo(one.connector, one.name, one.id, dict(one.config), one.connected_at, settings)


def _info_or_problem(one: StoredInstallation) -> InstallationInfo | ProjectError:
    try:
        return _info(one)
    except ProjectError as error:
        return error


def _free_name(known: list[StoredInstallation], connector: str, name: str | None) -> str:
    from .folder import check_name, default_name

    taken = {str(one).casefold() for one in known}
    if name is None:
        names = map(default_name, count(1))
        return next(one for one in names if f"{connector}:{one}".casefold() not in taken)
    check_name("installation", name)
    if f"{connector}:{name}".casefold() in taken:
        raise ProjectError(
            f"the name {connector}:{name} is taken",
            hint="choose another name, or disconnect that installation first",
        )
    return name
