"""The work of a project in Postgres: which installations want something, and who has the right to do it.

**One row an installation.**  ``due`` is when a worker has to look at it; NULL: nothing is wanted.  A sync
was asked for, the slot of a schedule comes, or a sync was interrupted: which of these it is, the worker finds
out when it looks.  So the oldest work is the first entry of one index, however many installations there are.

**A lease is the same row.**  ``owner`` has the right to sync the installation until ``due``, which its
heartbeats move on.  Without them that time comes, as it does for any other work: the worker that looks takes
the lease over, and finds a sync that was interrupted.  So no one has to watch over the others.

    due 09:00   owner -    wanted                            anyone may claim it
    due 09:20   owner A    A works; a heartbeat moves it on
    due 09:20   owner A    at 09:21: A is dead, or cut off    anyone may claim it

**The fence.**  Each claim counts ``attempt`` up.  A sync knows the attempt that it was given, and each of
its transactions reads the row's behind the lock of its schema (``postgres.Fence``).  A claim takes no such
lock: a transaction that was under way may still be committed, and what the new owner reads in its first one,
which waits for that lock, is what that left.

**Processes that die.**  ``lost`` counts those that ended in a row during an installation's work.  Where
several were at work in the same one, nothing says which of them ended it; so after the second time they are
suspect, and a worker has one suspect at most.  The guilty one then ends its process without the others, and
its count alone goes on.  After a single end, as of a host, all of them go on at once.

All times are those of the server, ``clock_timestamp()``, so clocks of hosts do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import StorageCorrupt
from ..model.values import Json
from .database import NONSENSE, quoted
from .postgres import DIALECT, PostgresConnection, connect, patiently, translated
from .postgres_dialect import NOW, is_lost
from .postgres_pool import Pool

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
LEASE = 20.0  # seconds for which a lease is valid after a heartbeat
BEAT = 4.0  # seconds between two heartbeats
UNUSED = 86_400.0  # seconds for which the row of a limit stays that says nothing any more
SUSPECT = 2  # processes in a row that ended during its work make an installation suspect
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0  # seconds until work is tried again that could not begin
WORK_TABLES = """
    CREATE TABLE work (
        installation TEXT PRIMARY KEY REFERENCES installation (id) ON DELETE CASCADE,
        due          REAL,
        owner        TEXT,
        attempt      BIGINT NOT NULL DEFAULT 0,
        again        BOOLEAN NOT NULL DEFAULT FALSE,
        asked        TEXT,
        failures     INTEGER NOT NULL DEFAULT 0,
        problem      TEXT
    ) WITH (fillfactor = 50);
    CREATE INDEX work_due ON work (due) WHERE due IS NOT NULL;
    INSERT INTO work (installation, due) SELECT id, 0 FROM installation;
    CREATE TABLE worker (
        id    TEXT PRIMARY KEY,
        until REAL NOT NULL
    );
    CREATE TABLE share (
        account       TEXT NOT NULL,
        name          TEXT NOT NULL,
        loans         TEXT NOT NULL,
        blocked_until REAL NOT NULL,
        PRIMARY KEY (account, name)
    )
"""
SHARES_END = """
    ALTER TABLE share ADD COLUMN ends REAL NOT NULL DEFAULT 0;
    CREATE INDEX share_ends ON share (ends)
"""  # when nothing that a row says holds any more
LOST_PROCESSES = "ALTER TABLE work ADD COLUMN lost INTEGER NOT NULL DEFAULT 0"
LOST = "lost + CASE WHEN owner IS NULL THEN 0 ELSE 1 END"
CLAIMED = f"""
    UPDATE {{work}} AS w
       SET owner = ?, attempt = attempt + 1, due = {NOW} + {LEASE}, again = FALSE,
           lost = one.lost
      FROM one WHERE w.installation = one.installation
    RETURNING w.installation, w.attempt, one.owner, w.asked, w.failures, w.lost
"""
CLAIM = f"""
    WITH one AS (
        SELECT installation, owner, {LOST} AS lost FROM {{work}}
         WHERE due <= (SELECT {NOW}) AND NOT installation = ANY (?) AND (? OR {LOST} < {SUSPECT})
         ORDER BY owner IS NULL, due LIMIT ? FOR UPDATE SKIP LOCKED
    ) {CLAIMED}
"""  # what a dead host has begun goes on first
# The lease of this owner, and that of one who is gone, are taken before they are due.
TAKE = f"""
    WITH one AS (
        SELECT installation, CASE WHEN owner <> ? THEN owner END AS owner,
               lost + CASE WHEN owner <> ? THEN 1 ELSE 0 END AS lost FROM {{work}}
         WHERE installation = ? AND (owner IS NULL OR owner IN (?, ?) OR due <= {NOW}) FOR UPDATE
    ) {CLAIMED}
"""
LEASED_BY = "SELECT owner FROM {work} WHERE installation = ?"
KEEP = f"""
    UPDATE {{work}} SET due = {NOW} + {LEASE} WHERE owner = ? AND installation = ANY (?)
    RETURNING installation, attempt
"""
# ``again``: something was wanted while the lease was held, so that it is due at once.
GIVE_BACK = f"""
    UPDATE {{work}}
       SET owner = NULL, again = FALSE, failures = ?, lost = ?,
           problem = CASE WHEN again THEN NULL ELSE ? END,
           due = CASE WHEN again THEN {NOW}
                      WHEN ? AND asked IS NULL THEN NULL ELSE greatest({NOW}, ?) END
     WHERE installation = ? AND owner = ? AND attempt = ?
    RETURNING due <= {NOW}
"""
BEGUN = "UPDATE {work} SET asked = NULL WHERE installation = ? AND attempt = ? AND asked = ?"
# While a worker has it, ``due`` is the end of its lease: ``again`` makes it due when that is given back.
WAKE = f"""
    UPDATE {{work}} SET again = owner IS NOT NULL,
           due = CASE WHEN owner IS NULL THEN least(due, {NOW}) ELSE due END
     WHERE installation = ?
"""
ASK = f"""
    UPDATE {{work}} SET asked = ?, problem = NULL, again = owner IS NOT NULL,
           due = CASE WHEN owner IS NULL THEN least(due, {NOW}) ELSE due END
     WHERE installation = ?
"""
WANTED = f"""
    SELECT asked IS NOT NULL, CASE WHEN due > {NOW} THEN owner END, problem,
           CASE WHEN owner IS NULL THEN due END
      FROM {{work}} WHERE installation = ?
"""
NEXT = f"""
    SELECT min(due), {NOW} FROM {{work}}
     WHERE due IS NOT NULL AND NOT installation = ANY (?) AND (? OR {LOST} < {SUSPECT})
"""
SHOW_WORKER = f"""
    INSERT INTO {{worker}} (id, until) VALUES (?, {NOW} + {LEASE})
    ON CONFLICT (id) DO UPDATE SET until = excluded.until
"""
FORGET_WORKERS = f"DELETE FROM {{worker}} WHERE id = ? OR until < {NOW} - {LEASE}"
WORKERS = f"SELECT count(*) FROM {{worker}} WHERE until > {NOW}"


SHARE = f"""
    INSERT INTO {{share}} (account, name, loans, blocked_until) VALUES (?, ?, '[]', 0)
    ON CONFLICT (account, name) DO UPDATE SET account = excluded.account
    RETURNING loans, blocked_until, {NOW}
"""  # waits for others that change the same, and then says what they have left
PUT_SHARE = f"""
    WITH unused AS (
        DELETE FROM {{share}} WHERE (account, name) IN (
            SELECT account, name FROM {{share}} WHERE ends < {NOW} - {UNUSED}
             ORDER BY ends LIMIT 10 FOR UPDATE SKIP LOCKED) AND (account, name) <> (?, ?)
    )
    UPDATE {{share}} SET loans = ?, blocked_until = ?, ends = ? WHERE account = ? AND name = ?
"""  # those of accounts that are gone, or have other secrets by now, go a few at a time


class Share(NamedTuple):
    """What is stored of a limit: its loans as JSON text; the rest in seconds since the epoch.

    ``ends`` is when the row says nothing any more: no loan counts, and no block holds.
    """

    loans: str
    blocked_until: float
    ends: float


class Claim(NamedTuple):
    """A lease that was just given, with what was asked of the installation.

    ``before`` is who had it and did not give it back.  ``request`` is what was asked, as it is stored.
    ``failures``: how often in a row the installation's work could not begin.  ``lost``: how many processes in
    a row have ended during it.
    """

    installation: str
    attempt: int
    before: str | None
    request: str | None
    failures: int
    lost: int

    @property
    def asked(self) -> Mapping[str, Json] | None:
        """What was asked, if anything was; StorageCorrupt when that makes no sense."""
        try:
            return None if self.request is None else dict(json.loads(self.request))
        except NONSENSE as error:
            hint = "ask for it again: max sync NAME --ask"
            raise StorageCorrupt("the stored request for a sync cannot be read", hint=hint) from error

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what ended its processes, or was beside that."""
        return self.lost >= SUSPECT


class WorkTable:
    """The work of one project, for code that may block.  Safe for several threads.

    Each call is one statement, and waits for no transaction of another process.  A server that is away for
    half a minute is waited for, unless the caller says otherwise.
    """

    def __init__(self, url: str, schema: str, label: str, pool: Pool) -> None:
        self._url, self._label, self._pool = url, label, pool
        self.name = f"{quoted(schema)}.work"
        self.channel = f"max_work_{schema}"
        self._names = {name: f"{quoted(schema)}.{name}" for name in ("work", "worker", "share")}

    # -- leases

    def claim(
        self, owner: str, without: Collection[str], limit: int = 1, *, suspects: bool = True
    ) -> list[Claim]:
        """Take the work that is due for longest, of installations that are not among ``without``.

        One of them is suspect at most; none without ``suspects``.
        """
        found = self._ask(CLAIM, ([*without], suspects, 1, owner))
        if found and limit > 1:
            found += self._ask(CLAIM, ([*without], False, limit - 1, owner))
        return [Claim(*row) for row in found]

    def take(self, owner: str, installation: str, *, gone: str = "") -> Claim | None:
        """Take the lease of an installation; None while another process has it, which is not ``gone``."""
        found = self._ask(TAKE, (owner, owner, installation, owner, gone, owner))
        return Claim(*found[0]) if found else None

    def leased_by(self, installation: str) -> str | None:
        """Who has the lease of an installation, or had it last without giving it back."""
        found = self._ask(LEASED_BY, (installation,))
        return found[0][0] if found else None

    def keep(self, owner: str, installations: Collection[str]) -> dict[str, int]:
        """A heartbeat: the leases that are still the owner's, each with its attempt."""
        return dict(self._ask(KEEP, (owner, [*installations]), patient=False))

    def give_back(
        self,
        owner: str,
        claim: Claim,
        *,
        next_at: float | None,
        failures: int = 0,
        lost: int = 0,
        problem: str | None = None,
    ) -> None:
        """End a lease; ``next_at`` is when the installation is due again, None: when it is asked.

        Nothing changes when another process has the lease by now.
        """
        values = (
            failures,
            lost,
            problem,
            next_at is None,
            next_at or 0.0,
            claim.installation,
            owner,
            claim.attempt,
        )
        if any(is_due for (is_due,) in self._ask(GIVE_BACK, values)):
            self.notify()

    # -- what is wanted

    def ask(self, installation: str, what: Mapping[str, Json]) -> None:
        """Want a sync; ``what`` is for the worker that begins it."""
        self._ask(ASK, (json.dumps(dict(what)), installation))
        self.notify()

    def begun(self, claim: Claim) -> None:
        """What was asked has begun; until then the next lease tries it again."""
        if claim.request is not None:
            self._ask(BEGUN, (claim.installation, claim.attempt, claim.request))

    def wake(self, installation: str) -> None:
        """Something of an installation has changed: a worker is to look at it."""
        self._ask(WAKE, (installation,))
        self.notify()

    def notify(self) -> None:
        """Have workers look at once."""
        self._ask("SELECT pg_notify(?, '')", (self.channel,))

    def next_due(self, without: Collection[str], *, suspects: bool = True) -> tuple[float | None, float]:
        """When the next work is due that ``claim`` may take, and the server's time, since the epoch."""
        due, now = self._ask(NEXT, ([*without], suspects))[0]
        return due, now

    # -- workers

    def show_worker(self, id: str) -> None:
        """A worker lives, for LEASE seconds."""
        self._ask(SHOW_WORKER, (id,), patient=False)

    def forget_worker(self, id: str) -> None:
        """A worker ends; those that died long ago are forgotten, too."""
        self._ask(FORGET_WORKERS, (id,), patient=False)

    def workers(self) -> int:
        """How many workers live."""
        return int(self._ask(WORKERS)[0][0])

    # -- limits

    def change_share(
        self, account: str, name: str, change: Callable[[str, float, float], tuple[Share, T]]
    ) -> T:
        """Change what is stored of a limit of an account, in a short transaction on its row.

        ``change`` gets the loans as JSON text, until when the limit is blocked, and the time; it returns what
        is stored then, and the answer.  It may run again after the server was away.
        """

        def within(raw: psycopg.Connection[Any]) -> T:
            connection = PostgresConnection(raw)
            with raw.transaction():
                row = connection.execute(SHARE.format(**self._names), (account, name)).fetchone()
                share, answer = change(*row)
                values = (account, name, *share, account, name)
                connection.execute(PUT_SHARE.format(**self._names), values)
            return answer

        return self._again(within)

    # -- the connection

    def listener(self) -> Listener:
        """A connection of the caller's own to which the server sends a word when work is wanted."""
        raw = connect(self._url, self._label)
        with translated(self._label):
            raw.execute(f"LISTEN {quoted(self.channel)}")
        return Listener(raw)

    def _ask(self, sql: str, values: Sequence[Any] = (), *, patient: bool = True) -> list[Any]:
        statement = sql.format(**self._names)
        return self._again(
            lambda raw: PostgresConnection(raw).execute(statement, values).fetchall(), patient=patient
        )

    def _again(self, once: Callable[[psycopg.Connection[Any]], T], *, patient: bool = True) -> T:
        """What ``once`` returns; it runs again on a new connection after one was lost."""
        return patiently(lambda: self._on_any(once), repeats=None if patient else 1)

    def _on_any(self, once: Callable[[psycopg.Connection[Any]], T]) -> T:
        """What ``once`` returns on a connection of the pool: one that was used may be lost long ago."""
        while True:
            with translated(self._label):
                raw, was_used = self._pool.take()
                try:
                    result = once(raw)
                except BaseException as error:
                    raw.close()
                    if not (was_used and is_lost(error)):
                        raise
                else:
                    self._pool.give(raw)
                    return result


class Listener:
    """Hears that work is wanted: an event loop waits until its ``fileno`` can be read."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw = raw
        self.fileno = raw.fileno()

    def heard(self) -> bool:
        """Whether work is wanted; True as well when the connection is lost, which ``is_lost`` says."""
        raw, found = self._raw.pgconn, False
        try:
            raw.consume_input()
            while raw.notifies() is not None:
                found = True
        except DIALECT.errors:
            self.close()
        return found or self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether nothing will be heard any more."""
        return bool(self._raw.closed)

    def close(self) -> None:
        """Hear nothing more."""
        self._raw.close()


def wait_after(failures: int) -> float:
    """Seconds until an installation is tried again whose work could not begin so often in a row."""
    return float(min(FIRST_WAIT * 2 ** min(failures - 1, 20), LONGEST_WAIT))
