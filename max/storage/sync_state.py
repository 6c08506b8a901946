"""How whole and how old an installation's rows are, as the sync log says; read with every answer.

It is read on its own, since every reading command asks for it, and the sync log imports what syncing
needs.
"""

from __future__ import annotations

from typing import NamedTuple

from .catalogue import is_catalogued
from .database import Connection, decoding

# A completed sync of just a part (``{narrow}``) says nothing of the other rows.
NEWEST = """
    SELECT s.id, s.state, s.worker,
           (SELECT heartbeat_at FROM _max_worker AS w WHERE w.id = s.worker)
      FROM _max_sync AS s WHERE NOT (state = 'completed' AND {narrow}) ORDER BY s.id DESC LIMIT 1
"""
LAST_COMPLETED = "SELECT max(finished_at) FROM _max_sync WHERE state = 'completed' AND NOT {narrow}"
NAMED_ONLY = 0  # in place of the listing that lost a missing row: it stays, since a field names it
IS_DOUBTFUL = f"coalesce(m.listing, -1) <> {NAMED_ONLY}"  # whether a missing row still exists
UNCONFIRMED = f"SELECT count(*) FROM _max_missing AS m WHERE {IS_DOUBTFUL}"
WORDS = {  # by the newest sync's status: what it means for an answer, and the command that mends it
    "running": ("a sync is under way", "max status {info}"),
    "paused": ("the last sync is paused", "max resume {info}"),
    "interrupted": ("the last sync was interrupted", "max resume {info}"),
    "partial": ("the last sync was partial", "max runs show {sync}"),
    "failed": ("the last sync failed", "max runs show {sync}"),
    "completed": ("", ""),
    "cancelled": ("the last sync was cancelled", "max sync {info}"),
}


class SyncState(NamedTuple):
    """Whether an answer can be relied on as the whole, and as of when.

    ``complete``: the newest sync completed, and no other is under way.  ``synced_at`` is when the last
    completed one ended, in seconds since the epoch; None when none has.  ``status`` is that of the
    newest sync, None before the first.  ``warning`` is one line for a person, None when all is well.
    A completed sync of some fields only (``--only``) counts in none of them: it says nothing of the others.
    """

    complete: bool
    synced_at: float | None
    status: str | None
    warning: str | None


def sync_state(connection: Connection, installation: str, *, now: float) -> SyncState:
    """The state of an installation at this moment."""
    columns = connection.dialect.columns(connection, "_max_sync") if is_catalogued(connection) else ()
    if not columns:
        return never_synced(installation)
    narrow = "narrow <> 0" if "narrow" in columns else "FALSE"
    newest = connection.execute(NEWEST.format(narrow=narrow)).fetchone()
    if newest is None:
        return never_synced(installation)
    with decoding("sync"):
        sync, status, worker, heartbeat_at = newest
        if status == "running" and not _is_alive(connection, worker, heartbeat_at, now):
            status = "interrupted"
        last = connection.execute(LAST_COMPLETED.format(narrow=narrow)).fetchone()[0]
        synced_at = None if last is None else last + 0.0
        what, mend = WORDS[status]
    if what:
        never = "no sync has completed yet: " if synced_at is None else ""
        words = f"{installation}: {never}{what}, so rows may be missing or old; see: {mend}"
        return SyncState(False, synced_at, status, words.format(info=installation, sync=sync))
    rows = connection.execute(UNCONFIRMED).fetchone()[0]
    found = f"{rows:,} row{'' if rows == 1 else 's'} may be gone upstream; the next sync finds out"
    return SyncState(True, synced_at, status, f"{installation}: {found}" if rows else None)


def never_synced(installation: str) -> SyncState:
    """The state of an installation of which no sync has brought everything."""
    words = f"{installation}: no sync has completed yet, so rows may be missing; start with: max sync"
    return SyncState(False, None, None, f"{words} {installation}")


def _is_alive(connection: Connection, worker: str | None, heartbeat_at: float | None, now: float) -> bool:
    if worker is None or heartbeat_at is None:
        return False
    from .leases import clock_of, is_alive

    return is_alive(worker, heartbeat_at, clock_of(connection, now))
