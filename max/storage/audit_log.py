"""The audit log: one database of a project, with a row for each change and each reading of secrets.

**The chain.**  Each row has a digest of its own values and of the digest of the row before.  A row that
was changed, taken out, added or moved no longer fits what follows it.  ``_max_audit_head`` has the number and
the digest of the newest row, so that rows that were cut off at the end are missed.

**What this does not show.**  There is no secret in it: who may write the file can make the chain
again from any row on, head included.  Only a digest that was kept elsewhere shows that (``check``).

**Pruning.**  Old rows may be removed, once they were copied.  The transaction that removes them adds a row,
PRUNED, with the number and the digest of the last of them: the chain begins behind that one.  That row is in
the chain, so that taking away more rows than it names breaks the chain.

**Intent and outcome.**  A change is noted in ``_max_audit_intent`` before it begins.  When it has ended,
one transaction takes the note away and adds the row.  A note that is left means that its process
ended in between: the next one that writes adds its row, with the outcome ``unknown``.

**Example.**  Three rows; the second was changed by hand.

    1  connect   digest a = H("", 1, connect …)
    2  settings  digest b = H(a, 2, settings …)     the values no longer give b: row 2 was changed
    3  sync      digest c = H(b, 3, sync …)         fits b
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..model.audit import AuditCheck, AuditRow, Outcome
from ..model.values import Json
from .catalogue import has_part, migrate, only_row
from .database import NONSENSE, Connection, Database, decoding, quoted, reading
from .leases import is_gone

T = TypeVar("T")
PRUNED = "audit prune"  # the action of the row that says which were removed
FORGOTTEN = 86_400.0  # seconds after which a change has ended, where no system can say it
PAGE = 1_000  # rows that are checked at a time

OWNER = "audit"  # of these tables, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE audit (
        number       {row_id},
        began_at     REAL NOT NULL,
        at           REAL NOT NULL,
        "user"       TEXT NOT NULL,
        process      TEXT NOT NULL,
        via          TEXT NOT NULL,
        action       TEXT NOT NULL,
        installation TEXT NOT NULL,
        facts        TEXT NOT NULL,
        outcome      TEXT NOT NULL,
        code         TEXT NOT NULL,
        digest       TEXT NOT NULL
    );
    CREATE TABLE _max_audit_intent (
        id       {serial},
        began_at REAL NOT NULL,
        worker   TEXT NOT NULL,
        row      TEXT NOT NULL
    );
    CREATE TABLE _max_audit_head (
        number INTEGER NOT NULL,
        digest TEXT NOT NULL
    );
    INSERT INTO _max_audit_head VALUES (0, '')
    """,
)
COLUMNS = ", ".join(map(quoted, AuditRow._names))
INSERT = f"INSERT INTO audit ({COLUMNS}) VALUES ({', '.join('?' for _ in AuditRow._names)})"
INTENT = "INSERT INTO _max_audit_intent (began_at, worker, row) VALUES (?, ?, ?) RETURNING id"
INTENTS = "SELECT id, began_at, worker, row FROM _max_audit_intent ORDER BY id"
NEWEST = f"SELECT {COLUMNS} FROM audit WHERE at >= ? ORDER BY number DESC LIMIT ?"
FOLLOWING = f"SELECT {COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT {PAGE}"
HEAD = "SELECT number, digest FROM _max_audit_head"
MOVE_HEAD = "UPDATE _max_audit_head SET number = ?, digest = ?"
NEWEST_PRUNED = "SELECT facts FROM audit WHERE action = ? ORDER BY number DESC LIMIT 1"
FIRST_SINCE = "SELECT min(number) FROM audit WHERE at >= ?"
OLD = "SELECT number, digest FROM audit WHERE number < ? ORDER BY number DESC LIMIT 1"
PRUNE = "DELETE FROM audit WHERE number <= ?"
WHO = ("user", "process", "via", "action", "installation", "facts")  # what an intent knows

# -- writing -----------------------------------------------------------------------------------


def begin(database: Database, row: Mapping[str, Json], *, worker: str, now: float) -> int:
    """Note that a change begins; the note's id.  ``row`` has the columns of WHO."""
    with database.writer() as connection:
        migrate(connection, OWNER, MIGRATIONS)
        _end_lost(connection, now=now)
        values = (now, worker, json.dumps(dict(row)))
        return int(connection.execute(INTENT, values).fetchone()[0])


def end(
    database: Database, intent: int, outcome: Outcome, code: str, facts: Mapping[str, Json], *, now: float
) -> None:
    """Add the row of a change that has ended; ``facts`` are more than those of its beginning."""
    with database.writer() as connection:
        found = connection.execute(
            "DELETE FROM _max_audit_intent WHERE id = ? RETURNING began_at, row", (intent,)
        ).fetchone()
        if found is not None:  # else another process has taken this one for lost
            row = json.loads(found[1])
            row["facts"] = {**row["facts"], **facts}
            _append(connection, row, found[0], outcome, code, now=now)


def append(database: Database, row: Mapping[str, Json], *, now: float) -> None:
    """Add a row of something that needs no note before: a reading."""
    with database.writer() as connection:
        migrate(connection, OWNER, MIGRATIONS)
        _append(connection, row, now, "done", "", now=now)


def _end_lost(connection: Connection, *, now: float) -> None:
    """Add the rows of changes whose process has ended before it could."""
    for id, began_at, worker, text in connection.execute(INTENTS).fetchall():
        if is_gone(worker) or not 0 <= now - began_at < FORGOTTEN:
            connection.execute("DELETE FROM _max_audit_intent WHERE id = ?", (id,))
            with decoding("audit"):
                _append(connection, json.loads(text), began_at, "unknown", "", now=now)


def _append(
    connection: Connection,
    row: Mapping[str, Json],
    began_at: float,
    outcome: Outcome,
    code: str,
    *,
    now: float,
) -> None:
    number, before = _head(connection)
    values = [number + 1, began_at, now, *(row[name] for name in WHO), outcome, code]
    digest = _digest(before, values)
    values[WHO.index("facts") + 3] = json.dumps(row["facts"])
    connection.execute(INSERT, (*values, digest))
    connection.execute(MOVE_HEAD, (number + 1, digest))


def _head(connection: Connection) -> tuple[Any, ...]:
    """Number and digest of the newest row."""
    return only_row(connection, HEAD, "_max_audit_head")


def _digest(before: str, values: Sequence[Json]) -> str:
    """What a row's digest is, from that of the row before and its own values without the digest."""
    from hashlib import sha256  # slow to import

    text = json.dumps([before, *values], sort_keys=True, separators=(",", ":"))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def copy(database: Database, target: Database) -> None:
    """Write all rows into another audit log, which is new."""
    with database.reader() as source, target.writer() as made:
        migrate(made, OWNER, MIGRATIONS)
        number = 0
        while page := source.execute(FOLLOWING, (number,)).fetchall():
            made.executemany(INSERT, page)
            number = page[-1][0]
        made.execute(MOVE_HEAD, _head(source))


def is_in(database: Database, other: Database) -> bool:
    """Whether another audit log has the newest row of this one, and so all that are in its chain."""
    number, digest = _reading(database, _head, (0, ""))
    sql = "SELECT count(*) FROM audit WHERE number = ? AND digest = ?"
    values = (number, digest)
    return bool(_reading(other, lambda one: one.execute(sql, values).fetchone()[0], 0)) or not number


def prune(database: Database, row: Mapping[str, Json], *, before: float, until: int, now: float) -> int:
    """Remove the rows up to the first that ended at ``before`` or later; how many.

    Rows with numbers above ``until`` stay.  When some are removed, a row is added that says so.
    """
    with database.writer() as connection:
        first = connection.execute(FIRST_SINCE, (before,)).fetchone()[0]
        last = connection.execute(OLD, (until + 1 if first is None else min(first, until + 1),)).fetchone()
        if last is None:
            return 0
        removed = connection.execute(PRUNE, (last[0],)).rowcount
        facts: dict[str, Json] = {"rows": removed, "through": last[0], "digest": last[1]}
        _append(connection, {**row, "facts": {**row["facts"], **facts}}, now, "done", "", now=now)
    return removed


# -- reading -----------------------------------------------------------------------------------


def rows(database: Database, *, since: float = 0.0, limit: int) -> list[AuditRow]:
    """The newest rows that ended at or after a time, the newest first; empty when there is no audit."""
    return _reading(
        database, lambda connection: _rows(connection.execute(NEWEST, (since, limit)).fetchall()), []
    )


def unfinished(database: Database) -> list[Mapping[str, Any]]:
    """What has begun and not ended: ``began_at``, ``worker`` and the values of WHO."""

    def read(connection: Connection) -> list[Mapping[str, Any]]:
        found = connection.execute(INTENTS).fetchall()
        with decoding("audit"):
            return [{"began_at": at, "worker": worker, **json.loads(row)} for _, at, worker, row in found]

    return _reading(database, read, [])


def check(database: Database, *, head: str = "") -> AuditCheck:
    """Whether the chain is whole.

    ``head`` is the digest of a row that was written down before, or its beginning: that row must
    still be there.
    """
    nothing = AuditCheck(tuple(_lost(head, found=False)), 0, "", 0)
    return _reading(database, lambda connection: _check(connection, head), nothing)


def _check(connection: Connection, head: str) -> AuditCheck:
    problems: list[str] = []
    pruned, before = _beginning(connection)
    number, found = pruned, False
    while page := connection.execute(FOLLOWING, (number,)).fetchall():
        for values in page:
            if values[0] != number + 1:
                problems.append(_missing(number + 1, values[0] - 1))
            elif _digest_of(before, values) != values[-1]:
                problems.append(f"row {values[0]} was changed, or does not belong behind the row before it")
            number, before = values[0], str(values[-1])
            found = found or before.startswith(head)
    last, digest = _head(connection)
    if last > number:
        problems.append(_missing(number + 1, last))
    elif (last, digest) != (number, before):
        problems.append(f"row {number} was not written by Max: the newest was row {last}")
    unfinished = connection.execute(f"SELECT count(*) FROM ({INTENTS}) AS intents").fetchone()[0]
    return AuditCheck((*problems, *_lost(head, found=found)), number, before, unfinished, pruned)


def _beginning(connection: Connection) -> tuple[int, str]:
    """The number and the digest of the row behind which the chain begins."""
    found = connection.execute(NEWEST_PRUNED, (PRUNED,)).fetchone()
    try:
        facts: Any = {"through": 0, "digest": ""} if found is None else json.loads(found[0])
        return int(facts["through"]), str(facts["digest"])
    except NONSENSE:  # it was changed, as its digest shows
        return 0, ""


def _lost(head: str, *, found: bool) -> list[str]:
    return [f"the row with the digest {head} is missing"] if head and not found else []


def _missing(first: int, last: int) -> str:
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"


def _digest_of(before: str, values: Sequence[Any]) -> str:
    place = AuditRow._names.index("facts")
    try:
        facts = json.loads(values[place])
    except (TypeError, ValueError):
        return ""
    return _digest(before, [*values[:place], facts, *values[place + 1 : -1]])


def _rows(found: Sequence[Sequence[Any]]) -> list[AuditRow]:
    named = [dict(zip(AuditRow._names, values, strict=True)) for values in found]
    with decoding("audit"):
        return [AuditRow(**{**one, "facts": json.loads(one["facts"])}) for one in named]


def _reading(database: Database, read: Callable[[Connection], T], nothing: T) -> T:
    if not database.is_there():
        return nothing
    with reading(database) as connection:
        return read(connection) if has_part(connection, OWNER, MIGRATIONS) else nothing
