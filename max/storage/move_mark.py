"""The mark of a move: a table that says where a database is being moved to.

It is there from the moment in which nothing may be written any more until the database is removed, or the
move was taken back.
"""

from __future__ import annotations

from typing import NamedTuple

from .catalogue import only_row
from .database import Connection, decoding

MARK = "_max_move"
MADE = f"""
    CREATE TABLE {MARK} (
        target       TEXT NOT NULL,
        since        REAL NOT NULL,
        whole        INTEGER NOT NULL,
        handing_over INTEGER NOT NULL,
        given        TEXT NOT NULL
    )
"""
COLUMNS = "target, since, whole, handing_over, given"


class Mark(NamedTuple):
    """Where an installation is being moved to, and since when, in seconds since the epoch.

    ``whole``: with its whole project.  ``handing_over``: the other place may have it already.  ``given`` is a
    digest of the secrets that were handed over, which tells nothing of them to one without its key.
    """

    target: str
    since: float
    whole: bool = False
    handing_over: bool = False
    given: str = ""


def mark_of(connection: Connection) -> Mark | None:
    """The mark of a database; None when it is not being moved, StorageCorrupt when that cannot be said."""
    if not connection.dialect.columns(connection, MARK):
        return None
    row = only_row(connection, f"SELECT {COLUMNS} FROM {MARK}", MARK)
    with decoding("mark of a move"):
        target, since, whole, handing_over, given = row
        return Mark(target, since, bool(whole), bool(handing_over), given)


def put_mark(connection: Connection, mark: Mark) -> None:
    """Mark a database that has no mark."""
    connection.execute(connection.dialect.sql(MADE))
    values = (mark.target, mark.since, int(mark.whole), int(mark.handing_over), mark.given)
    connection.execute(f"INSERT INTO {MARK} ({COLUMNS}) VALUES (?, ?, ?, ?, ?)", values)


def note_handing_over(connection: Connection, given: str = "") -> None:
    """From now on the other place may have it, with the secrets of this digest."""
    connection.execute(f"UPDATE {MARK} SET handing_over = 1, given = ?", (given,))
