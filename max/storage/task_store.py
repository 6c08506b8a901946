"""The task store: the queue of one installation, in the same database as its rows.

Each method is one transaction.  What a transaction of ``settle`` does, and why, is at the top of
settlement.py; what is recorded of syncs is in sync_log.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from ..core import TaskStore
from ..errors import LeaseLost, StorageError, SyncError
from ..model.event_log import LoggedKind
from ..model.tasks import (
    NewTask,
    ResumedSync,
    Settlement,
    SettleResult,
    Status,
    SyncCommand,
    SyncResult,
    SyncRun,
    start_failure,
)
from ..model.values import Json
from .catalogue import migrate
from .database import Connection, Database, decoding
from .event_log import expire_events
from .health import note_health
from .settlement import SyncTransaction
from .sync_log import (
    MIGRATIONS,
    OWNER,
    UNFINISHED,
    apply_command,
    finish_sync,
    release_tasks,
    request,
    result,
    run,
    running_elsewhere,
    runs,
    unfinished,
    unfinished_runs,
)

KEPT_SYNCS = 100  # finished syncs that are kept
PRUNED_AT_ONCE = 5_000  # task rows deleted in one transaction
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: ids are typed by people
LIVE = f"SELECT id FROM _max_sync WHERE {UNFINISHED}"
KEPT = f"SELECT id FROM _max_sync ORDER BY id DESC LIMIT {KEPT_SYNCS}"
OLD = f"SELECT id FROM _max_sync WHERE NOT {UNFINISHED} AND id NOT IN ({KEPT})"
PRUNE = f"""
    DELETE FROM _max_task
     WHERE id IN (SELECT id FROM _max_task WHERE sync NOT IN ({LIVE}) LIMIT {PRUNED_AT_ONCE})
"""


class DatabaseTaskStore(TaskStore):
    """Tasks in the database of the rows, so that one transaction holds both.

    ``version`` is the connector's: every failure is recorded with it.
    """

    def __init__(self, database: Database, *, version: str = "") -> None:
        self._database, self._version = database, version

    async def start(self) -> None:
        """Create or upgrade the tables."""
        await self._database.transact(lambda connection: migrate(connection, OWNER, MIGRATIONS))

    async def begin(
        self,
        plan: Json,
        root: NewTask,
        *,
        worker: str,
        now: float,
        notes: Sequence[str] = (),
        schedule: str | None = None,
    ) -> str:
        """The sync, its worker and every task of the plan in one transaction."""

        def work(connection: Connection) -> str:
            for found in unfinished_runs(connection, now=now):
                if found.status is Status.RUNNING and found.worker != worker:
                    raise running_elsewhere(found)
                apply_command(connection, found.id, SyncCommand.CANCEL, now=now)
            transaction = self._on(connection, _next_id(connection, now), now)
            transaction.begin(json.dumps(plan), root, worker, schedule)
            transaction.add_notes(notes)
            return transaction.sync

        return await self._database.transact(work)

    async def record_failure(
        self, what: str, error: Exception, *, now: float, schedule: str | None = None
    ) -> str:
        """The sync and its one failure in one transaction; other syncs stay as they are."""

        def work(connection: Connection) -> str:
            migrate(connection, OWNER, MIGRATIONS)  # this may be the first that happens
            sync = _next_id(connection, now)
            self._on(connection, sync, now).fail_start(start_failure(sync, what, error, now), schedule)
            finish_sync(connection, sync, Status.FAILED, now=now)
            note_health(connection, now=now)
            return sync

        return await self._database.transact(work)

    async def resume(self, sync: str, *, worker: str, now: float) -> ResumedSync:
        """The tasks of a dead process are pending again in the transaction that takes the sync over."""

        def work(connection: Connection) -> ResumedSync:
            found = run(connection, sync, now=now)
            if found.status.final:
                raise SyncError(f"sync {found.id} has already ended ({found.status})")
            if found.status is Status.RUNNING and found.worker != worker:
                raise running_elsewhere(found)
            transaction, crashed = self._on(connection, found.id, now), found.worker not in (None, worker)
            transaction.record(LoggedKind.SYNC_RESUMED, {"crashed": True} if crashed else {})
            dead = transaction.resume(worker, died=found.worker != worker)
            values = {name: getattr(found, name) for name in SyncRun._names}
            return ResumedSync(**values, crashed=crashed, died=tuple(dead))

        return await self._database.transact(work)

    async def settle(
        self,
        sync: str,
        settlements: Sequence[Settlement],
        *,
        worker: str,
        claim: int,
        alone: bool,
        requests: Mapping[str, int],
        now: float,
    ) -> SettleResult:
        """A savepoint for the settlements, one commit for all of them and the claims."""
        if any(write.database is not self._database for one in settlements for write in one.writes):
            raise StorageError("a write was prepared for another database than the tasks are in")

        def work(connection: Connection) -> SettleResult:
            transaction = self._on(connection, sync, now)
            status, command, owner = transaction.read_sync()
            if status.final and not settlements:
                return SettleResult((), (), status, command)
            if owner != worker:
                raise LeaseLost(f"this process lost sync {sync}", hint="another process took it over")
            outcomes = transaction.store(settlements, command)
            transaction.add_counts(requests)
            transaction.follow_up()
            transaction.beat(worker)
            if transaction.has_ended:
                status, command, _ = transaction.read_sync()
                note_health(connection, now=now)
            if status is not Status.RUNNING or command is not SyncCommand.RUN:
                return SettleResult(outcomes, (), status, command)
            claims = transaction.claim(claim, alone=alone)
            if alone and settlements and not claims[0]:
                transaction.record_wait(*claims[3:])
            return SettleResult(outcomes, *claims)

        return await self._database.transact(work)

    async def apply_command(self, sync: str, *, worker: str, now: float) -> Status:
        """Nothing changes when the worker lost the sync, or when the command is to run."""

        def work(connection: Connection) -> Status:
            transaction = self._on(connection, sync, now)
            _, command, owner = transaction.read_sync()
            if owner == worker:
                apply_command(connection, sync, command, now=now)
            return transaction.read_sync()[0]

        return await self._database.transact(work)

    async def release(self, sync: str, *, worker: str, now: float) -> None:
        """Tasks, sync and worker in one transaction; nothing changes when the worker lost the sync."""

        def work(connection: Connection) -> None:
            transaction = self._on(connection, sync, now)
            status, _, owner = transaction.read_sync()
            if owner == worker:
                release_tasks(connection, sync)
                if status is Status.RUNNING:
                    transaction.record(LoggedKind.SYNC_INTERRUPTED, {})

        await self._database.transact(work)

    async def request(self, sync: str, command: SyncCommand, *, now: float, worker: str = "") -> None:
        """Record the command for the process that runs the sync, or apply it when none does."""

        def work(connection: Connection) -> None:
            if worker:
                self._on(connection, sync, now).beat(worker)
            request(connection, sync, command, now=now)

        await self._database.transact(work)

    async def unfinished(self, *, worker: str, now: float) -> str | None:
        """Asks the operating system which workers of this machine are alive."""
        return await self._database.read(lambda connection: unfinished(connection, worker=worker, now=now))

    async def runs(self, limit: int, *, now: float) -> list[SyncRun]:
        """From the syncs' own rows; no task is read."""
        return await self._database.read(lambda connection: runs(connection, limit, now=now))

    async def result(self, sync: str, *, now: float) -> SyncResult:
        """The sync and its failures, read in one snapshot."""
        return await self._database.read(lambda connection: result(connection, sync, now=now))

    async def prune(self) -> None:
        """In many small transactions, so that the write lock is never held for long."""
        while await self._database.transact(_prune_some):
            pass

    def _on(self, connection: Connection, sync: str, now: float) -> SyncTransaction:
        return SyncTransaction(connection, sync, now, self._version)


def _next_id(connection: Connection, now: float) -> str:
    """A new sync's id: seconds and a random part, in 10 letters, greater than every id before.

    The newest sync is never pruned, so that this holds even if the clock is set back.
    """
    chance = int.from_bytes(os.urandom(2), "big") & 0x7FFF
    number = (int(now) << 15) | chance
    newest = connection.execute("SELECT max(id) FROM _max_sync").fetchone()[0]
    if newest is not None:
        last = 0
        with decoding("sync"):
            for letter in newest:
                last = last * 32 + ALPHABET.index(letter)
        number = max(number, last + 1)
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(45, -5, -5))


def _prune_some(connection: Connection) -> bool:
    pruned = connection.execute(PRUNE).rowcount
    connection.execute(f"DELETE FROM _max_failure WHERE sync IN ({OLD})")
    connection.execute(f"DELETE FROM _max_sync WHERE id IN ({OLD})")
    return expire_events(connection) or pruned > 0
