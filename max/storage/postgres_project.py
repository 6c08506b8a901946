"""The tables of a project that is kept in Postgres: its installations, and their secrets, which are sealed.

Every function runs inside a transaction of its caller.  A writing one has the lock of the project's schema,
so that changes of a project follow one another, in whatever process and on whatever host.  ``place`` is
the schema with an installation's data; no two installations have the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..errors import ProjectError
from ..model.values import Json
from .catalogue import has_part, is_catalogued, migrate
from .database import Connection, decoding, quoted
from .postgres import lock_number
from .postgres import patiently as patiently
from .postgres import translated as translated
from .postgres_work import LOST_PROCESSES, SHARES_END, WORK_TABLES

OWNER = "project"  # of these tables, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE installation (
        id           TEXT PRIMARY KEY,
        connector    TEXT NOT NULL,
        name         TEXT NOT NULL,
        place        TEXT NOT NULL UNIQUE,
        config       TEXT NOT NULL,
        settings     TEXT NOT NULL,
        connected_at REAL NOT NULL,
        destination  TEXT,
        version      INTEGER NOT NULL,
        UNIQUE (connector, name)
    );
    CREATE TABLE credential (
        installation TEXT NOT NULL REFERENCES installation (id) ON DELETE CASCADE,
        name         TEXT NOT NULL,
        key          TEXT NOT NULL,
        sealed       TEXT NOT NULL,
        PRIMARY KEY (installation, name)
    )
    """,
    WORK_TABLES,
    SHARES_END,
    LOST_PROCESSES,
)
COLUMNS = "id, connector, name, place, config, settings, connected_at, destination, version"
ALL = f"SELECT {COLUMNS} FROM installation ORDER BY connector, name"
ONE = f"SELECT {COLUMNS} FROM installation WHERE id = ?"
NAMED = f"SELECT {COLUMNS} FROM installation WHERE connector = ? AND name = ?"
ADD = f"INSERT INTO installation ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)"
CONFIGURE = "UPDATE installation SET config = ?, destination = ?, version = version + 1 WHERE id = ?"
SET = "UPDATE installation SET settings = ?, version = version + 1 WHERE id = ?"
TOUCH = "UPDATE installation SET destination = ?, version = version + 1 WHERE id = ?"
SECRETS = "SELECT name, key, sealed FROM credential WHERE installation = ? ORDER BY name"
SEAL = "INSERT INTO credential (installation, name, key, sealed) VALUES (?, ?, ?, ?)"
ANY_SEALED = """
    SELECT i.id, i.destination, c.name, c.key, c.sealed
      FROM credential AS c JOIN installation AS i ON i.id = c.installation LIMIT 1
"""
SERVER = "SELECT current_setting('server_version'), CAST(extract(epoch FROM clock_timestamp()) AS float8)"
HOLD = "SELECT pg_advisory_xact_lock(?)"
TRY = "SELECT pg_try_advisory_xact_lock(?)"
# The catalogue shows the 64 bits of a lock in two halves.
IS_HELD = """
    SELECT EXISTS (
        SELECT 1 FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) = ?
    )
"""


class StoredInstallation(NamedTuple):
    """The row of an installation; ``version`` grows with each change of it or of its secrets.

    ``problem`` says what of it makes no sense, and is empty here.
    """

    id: str
    connector: str
    name: str
    place: str
    config: Mapping[str, Json]
    settings: Mapping[str, Json]
    connected_at: float
    destination: str | None
    version: int
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.connector}:{self.name}"


class SealedSecret(NamedTuple):
    """A secret as it is stored: the id of the key that sealed it, and the sealed text."""

    name: str
    key: str
    sealed: str


def make(connection: Connection) -> None:
    """Bring the project's tables to the newest version; StorageNewer when a newer Max made them.

    ProjectError as of ``refuse_others``.
    """
    refuse_others(connection)
    migrate(connection, OWNER, MIGRATIONS)


def refuse_others(connection: Connection) -> None:
    """ProjectError when the schema is another program's; an empty one is not."""
    others = [] if is_catalogued(connection) else connection.dialect.objects(connection)
    if others:
        (schema,) = connection.execute("SELECT current_schema()").fetchone()
        raise ProjectError(
            f"the schema {schema} is another program's: it has the {others[0][0]} {others[0][1]}",
            hint="name another one behind the URL, such as #crm: postgresql://USER@HOST/DATABASE#crm",
        )


def is_made(connection: Connection) -> bool:
    """Whether there is a project here; StorageNewer when a newer Max made it."""
    return has_part(connection, OWNER, MIGRATIONS)


def installations(connection: Connection) -> list[StoredInstallation]:
    """Every installation, sorted by name."""
    return [_read(row) for row in connection.execute(ALL).fetchall()]


def installation(connection: Connection, id: str) -> StoredInstallation | None:
    """The installation with an id."""
    row = connection.execute(ONE, (id,)).fetchone()
    return None if row is None else _read(row)


def named(connection: Connection, connector: str, name: str) -> StoredInstallation | None:
    """The installation with a name."""
    row = connection.execute(NAMED, (connector, name)).fetchone()
    return None if row is None else _read(row)


def _read(row: Sequence[object]) -> StoredInstallation:
    id, connector, name, place, config, settings, at, destination, version = row
    known = {"config": _object(config), "settings": _object(settings)}
    wrong = [f"{name}: expected an object" for name, one in known.items() if one is None]
    with decoding("row of an installation"):
        return StoredInstallation(
            *(str(id), str(connector), str(name), str(place)),
            *(known["config"] or {}, known["settings"] or {}, float(str(at))),
            None if destination is None else str(destination),
            int(str(version)),
            "; ".join(wrong),
        )


def _object(text: object) -> dict[str, Json] | None:
    """JSON text as an object; None when it is none."""
    with suppress(ValueError, RecursionError):
        found = json.loads(str(text))
        return found if isinstance(found, dict) else None
    return None


def add(connection: Connection, one: StoredInstallation) -> None:
    """Store a new installation."""
    texts = json.dumps(dict(one.config)), json.dumps(dict(one.settings))
    connection.execute(
        ADD, (one.id, one.connector, one.name, one.place, *texts, one.connected_at, one.destination)
    )
    connection.execute("INSERT INTO work (installation, due) VALUES (?, 0)", (one.id,))


def configure(connection: Connection, id: str, config: Mapping[str, Json], destination: str | None) -> None:
    """Replace the configuration of an installation, and the origin that its secrets are for."""
    connection.execute(CONFIGURE, (json.dumps(dict(config)), destination, id))


def change_settings(connection: Connection, id: str, settings: Mapping[str, Json]) -> None:
    """Replace the settings of an installation."""
    connection.execute(SET, (json.dumps(dict(settings)), id))


def remove(connection: Connection, one: StoredInstallation, *, keep_data: bool) -> None:
    """Remove an installation and its secrets, and its data unless ``keep_data``."""
    if not keep_data:
        connection.execute(HOLD, (lock_number(one.place),))  # no sync stores anything meanwhile
        connection.execute(f"DROP SCHEMA IF EXISTS {quoted(one.place)} CASCADE")
    connection.execute("DELETE FROM installation WHERE id = ?", (one.id,))


def rename_schema(connection: Connection, old: str, new: str) -> None:
    """Give a schema another name: what is in it stays as it is."""
    connection.execute(HOLD, (lock_number(old),))  # nothing is being written there
    connection.execute(f"ALTER SCHEMA {quoted(old)} RENAME TO {quoted(new)}")


def secrets(connection: Connection, id: str) -> list[SealedSecret]:
    """The secrets of an installation, sorted by name."""
    return [SealedSecret(*row) for row in connection.execute(SECRETS, (id,)).fetchall()]


def any_secret(connection: Connection) -> tuple[SealedSecret, tuple[str, str | None]] | None:
    """One of the secrets of all, with the id of its installation and the origin that it is for."""
    row = connection.execute(ANY_SEALED).fetchone()
    return None if row is None else (SealedSecret(*row[2:]), (row[0], row[1]))


def server(connection: Connection) -> tuple[str, float]:
    """The version of the server, and its clock in seconds since the epoch."""
    version, clock = connection.execute(SERVER).fetchone()
    return str(version), float(clock)


def replace_secrets(
    connection: Connection, id: str, sealed: Sequence[SealedSecret], destination: str | None
) -> None:
    """Replace all secrets of an installation, and the origin that they are for."""
    connection.execute("DELETE FROM credential WHERE installation = ?", (id,))
    connection.executemany(SEAL, [(id, *one) for one in sealed])
    connection.execute(TOUCH, (destination, id))


def hold(connection: Connection, id: str, *, seconds: float) -> None:
    """Hold the lock for renewing an installation's secrets until the transaction ends.

    StorageLocked when another process has it for so many seconds.
    """
    connection.execute(f"SET LOCAL lock_timeout TO '{seconds:.0f}s'")
    connection.execute("SET LOCAL idle_in_transaction_session_timeout TO 0")  # a service may answer slowly
    connection.execute(HOLD, (lock_number(f"renewal of {id}"),))


def hold_moves(connection: Connection, schema: str) -> bool:
    """Hold the lock for moving something out of a project until the transaction ends; False if it is held."""
    connection.execute("SET LOCAL idle_in_transaction_session_timeout TO 0")  # copying may take hours
    return bool(connection.execute(TRY, (_moves_of(schema),)).fetchone()[0])


def are_moves_held(connection: Connection, schema: str) -> bool:
    """Whether anyone holds that lock."""
    return bool(connection.execute(IS_HELD, (_moves_of(schema),)).fetchone()[0])


def _moves_of(schema: str) -> int:
    return lock_number(f"moves out of {schema}")
