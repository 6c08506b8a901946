"""The inbox: hooks that a service has sent, until what they say is fetched.

Rule 1: a hook is stored before the service gets its answer, in one transaction with its event.

Rule 2: a hook leaves when what it says is stored.  A process that ends before that leaves it here, and the
next one does it again: to fetch a row twice does no harm.

Rule 3: its id is kept for a while, since services send again what they do not know to have come.  An id is
not signed, so a removal is known by its body as well: a person who has seen one cannot have it done again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import DaemonBusy
from ..model.event_log import LoggedKind
from ..model.hooks import HookReceipt, HookState, PendingHook, ReadHook
from ..model.plan import SyncPlan
from .catalogue import has_part, migrate
from .database import Connection, decoding
from .event_log import record_event

OWNER = "inbox"  # of this table, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_inbox (
        number      {serial},
        id          TEXT NOT NULL,
        digest      TEXT NOT NULL,
        received_at REAL NOT NULL,
        steps       TEXT NOT NULL,
        removed     TEXT NOT NULL,
        tries       INTEGER NOT NULL DEFAULT 0,
        not_before  REAL NOT NULL DEFAULT 0,
        error       TEXT,
        done_at     REAL
    );
    CREATE UNIQUE INDEX _max_inbox_id ON _max_inbox (id);
    CREATE INDEX _max_inbox_digest ON _max_inbox (digest);
    CREATE INDEX _max_inbox_pending ON _max_inbox (number) WHERE done_at IS NULL
    """,
)
KEPT_FOR = 7 * 86_400.0  # seconds for which the id of a hook is remembered; GitHub sends again for 3 days
MOST_PENDING = 10_000  # beyond it the service is asked to send again later
RETRY_AFTER = 60.0  # seconds
PRUNED = 100  # in the transaction of one that comes
MOST_TRIES = 5
FIRST_WAIT, LONGEST_WAIT = 30.0, 3_600.0  # seconds before a hook is tried again, doubled each time
SHOWN = 10  # steps that an event names

SEEN = (
    "SELECT 1 FROM _max_inbox WHERE id = :id OR (digest = :digest AND :removes AND removed <> '[]') LIMIT 1"
)
COUNT = "SELECT count(*) FROM _max_inbox WHERE done_at IS NULL"
INSERT = """
    INSERT INTO _max_inbox (id, digest, received_at, steps, removed) VALUES (?, ?, ?, ?, ?) RETURNING number
"""
PRUNE = f"""
    DELETE FROM _max_inbox WHERE number IN (
        SELECT number FROM _max_inbox WHERE done_at < ? ORDER BY number LIMIT {PRUNED})
"""
PENDING = """
    SELECT number, tries, steps, removed FROM _max_inbox
     WHERE done_at IS NULL AND not_before <= :now ORDER BY number LIMIT :limit
"""
NEXT = "SELECT min(not_before) FROM _max_inbox WHERE done_at IS NULL"
DONE = "UPDATE _max_inbox SET done_at = ?, steps = '[]', error = NULL WHERE number = ? AND done_at IS NULL"
FAILED = "UPDATE _max_inbox SET tries = ?, error = ?, not_before = ?, done_at = ? WHERE number = ?"


def store(connection: Connection, hook: ReadHook, *, now: float) -> HookReceipt:
    """Store a hook that was read, unless it has come before; ``now`` is in seconds since the epoch.

    DaemonBusy when so many wait that something must be wrong.
    """
    migrate(connection, OWNER, MIGRATIONS)  # this may be the first one
    seen = {"id": hook.id, "digest": hook.digest, "removes": bool(hook.removed)}
    if connection.execute(SEEN, seen).fetchone():
        return HookReceipt(HookState.REPEATED)
    if connection.execute(COUNT).fetchone()[0] >= MOST_PENDING:
        raise DaemonBusy(
            f"{MOST_PENDING:,} hooks wait for a sync that can fetch what they say",
            hint="see what keeps it: max status",
            retry_after=RETRY_AFTER,
        )
    connection.execute(PRUNE, (now - KEPT_FOR,))
    steps = json.dumps([step.to_json() for step in hook.steps])
    values = (hook.id, hook.digest, now, steps, json.dumps([list(one) for one in hook.removed]))
    number = int(connection.execute(INSERT, values).fetchone()[0])
    removed = [f"{entity}:{id}" for entity, id in hook.removed[:SHOWN]]
    named = {"fetches": [str(step) for step in hook.steps[:SHOWN]], "removed": removed}
    facts = {"number": number, **{name: some for name, some in named.items() if some}}
    record_event(connection, LoggedKind.HOOK_RECEIVED, facts, now=now)
    return HookReceipt(HookState.STORED, number)


def pending(connection: Connection, limit: int, *, now: float) -> list[PendingHook]:
    """The hooks that can be worked through now, in the order in which they came."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return []
    rows = connection.execute(PENDING, {"now": now, "limit": limit}).fetchall()
    with decoding("hook"):
        return [
            PendingHook(
                number,
                tries,
                SyncPlan.from_json(json.loads(steps)).flat(),
                [(entity, id) for entity, id in json.loads(removed)],
            )
            for number, tries, steps, removed in rows
        ]


def due_at(connection: Connection) -> float | None:
    """When the next hook can be worked through, in seconds since the epoch; None when there is none."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return None
    found = connection.execute(NEXT).fetchone()[0]
    return None if found is None else float(found)


def done(connection: Connection, numbers: Sequence[int], *, now: float) -> None:
    """What these hooks say is stored."""
    connection.executemany(DONE, [(now, number) for number in numbers])


def failed(connection: Connection, hooks: Sequence[PendingHook], error: str, *, now: float) -> None:
    """What these hooks say could not be fetched; they are tried again, a few times."""
    for hook in hooks:
        tries = hook.tries + 1
        at = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0**hook.tries)
        ended = now if tries >= MOST_TRIES else None
        connection.execute(FAILED, (tries, error, at, ended, hook.number))
