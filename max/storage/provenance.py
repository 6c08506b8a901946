"""Where a database's rows come from: a service or a replay, never both.

A database that holds a replay says so itself, so that a sync of the service is not mixed into it.
"""

from __future__ import annotations

from ..core import RecordingInfo
from ..errors import RecordingError
from ..model.schema import Schema
from .catalogue import has_part, migrate
from .database import Connection, Database, quoted, reading

REPLAY = "CREATE TABLE _max_replay (installation TEXT NOT NULL, recorded_at TEXT NOT NULL)"
NEWEST = "SELECT installation, recorded_at FROM _max_replay ORDER BY recorded_at DESC LIMIT 1"


def replayed(connection: Connection) -> tuple[str, str] | None:
    """The installation whose recordings were replayed here, and when the newest was recorded."""
    if not has_part(connection, "replay", [REPLAY]):
        return None
    found: tuple[str, str] | None = connection.execute(NEWEST).fetchone()
    return found


def holds_rows(connection: Connection, schema: Schema) -> bool:
    """Whether any entity of the schema has a row."""
    names = [f"_{schema.table(entity)}" for entity in schema.entities]
    tables = [name for name in names if connection.dialect.columns(connection, name)]
    return any(connection.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 1").fetchone() for name in tables)


def admit_sync(connection: Connection, schema: Schema, replay_of: RecordingInfo | None) -> bool:
    """Check that a sync, or the replay of a recording, may write here; whether there are no rows yet.

    A replay is noted in the database.  RecordingError when synced and replayed rows would mix.
    """
    is_empty, source = not holds_rows(connection, schema), replayed(connection)
    if replay_of is not None:
        _check_replay(source, is_empty, replay_of)
        migrate(connection, "replay", [REPLAY])
        noted = replay_of.installation, replay_of.recorded_at
        connection.execute("INSERT INTO _max_replay VALUES (?, ?)", noted)
    elif source is not None:
        raise RecordingError(
            f"this installation holds the replay of a recording that was made at {source[1]}",
            hint="replay into it again with --replay, or connect the service under another name",
        )
    return is_empty


def discard_replay(database: Database, schema: Schema, replay_of: RecordingInfo) -> None:
    """Delete the database of an earlier replay, when the recorded sync began without rows.

    The database must not be open.  RecordingError when it holds anything but a replay of the
    same installation; then it stays.
    """
    if not database.is_there():
        return
    with reading(database) as connection:
        source = replayed(connection)
        _check_replay(source, not holds_rows(connection, schema), replay_of)
    if source is not None and replay_of.began_empty:
        database.delete()


def _check_replay(source: tuple[str, str] | None, is_empty: bool, replay_of: RecordingInfo) -> None:
    if (source is None and is_empty) or (source is not None and source[0] == replay_of.installation):
        return
    rows = "synced rows" if source is None else "another installation's replay"
    raise RecordingError(
        f"this installation holds {rows}; a replay must not mix with them",
        hint=f"replay into a new installation: max sync {replay_of.connector}:NAME --replay FILE",
    )
