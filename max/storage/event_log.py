"""The event log: what happened to an installation, for those who follow it.

**Who writes.**  An event is written in the transaction of what it reports, so it is there exactly
when that is.  There is one writer at a time, so events become visible in the order of their numbers:
a reader that has read up to a number has missed none before it.

**Numbers.**  An event's number is the time in milliseconds, or one more than the newest number if that
is greater.  So numbers increase even when a clock is set back, and an older copy of the file, or a
new file in its place, does not use again the numbers that readers have seen.

**Expiry.**  The oldest events are deleted; ``floor`` is the number of the newest deleted one.  What
follows a cursor before the floor is no longer complete: CursorExpired.  The newest event is kept.

**Example.**  The events 10, 11, 15 and 20; the floor is 9.

    after 9     10, 11, 15, 20
    after 12    15, 20
    after 20    nothing yet
    after 8     CursorExpired: 9 was deleted
    after 21    CursorExpired: the file was replaced by an older one
    after None  10, 11, 15, 20

A file without the tables, of an older Max, has no events.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

from ..errors import CursorExpired
from ..model.event_log import EventPage, LoggedEvent, LoggedKind
from ..model.struct import checked
from ..model.values import Json
from .catalogue import has_part, migrate, only_row
from .database import Connection, decoding

PAGE = 500  # events that are read or deleted at a time
KEPT = 10_000  # events that are kept, at most
KEPT_FOR = 90 * 86_400.0  # seconds for which they are kept
LONGEST_TEXT = 500  # characters of a fact
LAST = 2**52  # the greatest number that comes from a time: every program can read it

OWNER = "event log"  # of these tables, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_event (
        number {row_id},
        at     REAL NOT NULL,
        kind   TEXT NOT NULL,
        sync   TEXT,
        facts  TEXT NOT NULL
    );
    CREATE TABLE _max_event_floor (number INTEGER NOT NULL);
    INSERT INTO _max_event_floor VALUES (0)
    """,
)
BOUNDS = """
    SELECT number, coalesce((SELECT max(number) FROM _max_event), number) FROM _max_event_floor
"""
INSERT = "INSERT INTO _max_event (number, at, kind, sync, facts) VALUES (?, ?, ?, ?, ?)"
COLUMNS = "number, at, kind, sync, facts"
AFTER = f"SELECT {COLUMNS} FROM _max_event WHERE number > :after ORDER BY number LIMIT :limit"
OF_KINDS = f"""
    SELECT {COLUMNS} FROM _max_event WHERE number > :after AND kind IN {{set:kinds}}
     ORDER BY number LIMIT :limit
"""
NEWEST = f"SELECT {COLUMNS} FROM _max_event WHERE kind = ? ORDER BY number DESC LIMIT 1"
OLDEST = "SELECT number, at FROM _max_event WHERE number < ? ORDER BY number LIMIT ?"
NEWEST_TIME = "SELECT number, at FROM _max_event ORDER BY number DESC LIMIT 1"
COUNT = "SELECT count(*) FROM _max_event"


# -- writing -----------------------------------------------------------------------------------


def record_event(
    connection: Connection,
    kind: LoggedKind,
    facts: Mapping[str, Json],
    *,
    now: float,
    sync: str | None = None,
) -> int:
    """Record what happens in the caller's transaction; the event's number.

    ``facts`` are small JSON data without secrets: who can read the data can read them.  Long
    texts are cut.  ``now`` is in seconds since the epoch.
    """
    if not has_part(connection, OWNER, MIGRATIONS):  # which is much quicker to ask than to migrate
        migrate(connection, OWNER, MIGRATIONS)
    _, newest = _bounds(connection)
    number = max(newest + 1, min(int(now * 1_000), LAST))
    text = json.dumps({name: _short(value) for name, value in facts.items()})
    connection.execute(INSERT, (number, now, kind, sync, text))
    return number


def _short(value: Json) -> Json:
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}…"
    return value


def expire_events(connection: Connection, kept: int = KEPT, kept_for: float = KEPT_FOR) -> bool:
    """Delete events that are too many, or too much older than the newest: some; whether more may follow."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return False
    surplus = connection.execute(COUNT).fetchone()[0] - kept
    newest, at = connection.execute(NEWEST_TIME).fetchone() or (0, 0.0)
    oldest = connection.execute(OLDEST, (newest, PAGE)).fetchall()
    expired = takewhile(lambda one: one[0] < surplus or one[1][1] < at - kept_for, enumerate(oldest))
    numbers = [number for _, (number, _) in expired]
    if numbers:
        connection.execute("DELETE FROM _max_event WHERE number <= ?", (numbers[-1],))
        connection.execute("UPDATE _max_event_floor SET number = ?", (numbers[-1],))
    return len(numbers) == PAGE


# -- reading -----------------------------------------------------------------------------------


def events_after(
    connection: Connection,
    after: int | None = None,
    *,
    kinds: Collection[str] = (),
    limit: int = PAGE,
) -> EventPage:
    """The events behind a cursor, oldest first; None: from the oldest that is kept.

    ``kinds``: these alone.  CursorExpired when events behind the cursor were deleted, or when it is
    of a newer file than this one.
    """
    if not has_part(connection, OWNER, MIGRATIONS):
        return EventPage((), after or 0, more=False)
    floor, newest = _bounds(connection)
    start = floor if after is None else after
    if not floor <= start <= newest:
        raise _expired(start > newest)
    values: dict[str, Any] = {"after": start, "limit": limit}
    if kinds:
        values["kinds"] = connection.dialect.array(sorted(kinds))
    rows = connection.execute(connection.dialect.sql(OF_KINDS if kinds else AFTER), values).fetchall()
    events = _events(rows)
    more = len(events) == limit and limit > 0
    return EventPage(events, events[-1].number if more else newest, more)


def newest_event(connection: Connection) -> int:
    """The cursor behind everything that has happened; 0 when there are no events."""
    return _bounds(connection)[1] if has_part(connection, OWNER, MIGRATIONS) else 0


def newest_of(connection: Connection, kind: LoggedKind) -> LoggedEvent | None:
    """The newest event of a kind that is kept, if any."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return None
    return next(iter(_events(connection.execute(NEWEST, (kind,)).fetchall())), None)


def _bounds(connection: Connection) -> tuple[int, int]:
    """The floor, and the newest number."""
    with decoding("event"):
        floor, newest = only_row(connection, BOUNDS, "_max_event_floor")
        return int(floor), int(newest)


def _events(rows: Sequence[Sequence[Any]]) -> list[LoggedEvent]:
    with decoding("event"):
        return [
            checked(LoggedEvent(number, float(at), kind, sync, json.loads(text)))
            for number, at, kind, sync, text in rows
        ]


def _expired(is_newer: bool) -> CursorExpired:
    if is_newer:
        return CursorExpired(
            "the cursor is newer than the newest event: the database was replaced by an older one",
            hint="read the data again, and follow it without a cursor",
        )
    return CursorExpired(
        "the cursor has expired: events after it are no longer stored",
        hint="read the data again, and follow it without a cursor",
    )
