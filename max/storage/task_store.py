"""The tasks of one installation in SQLite: how they move, and what moves with them.

Rule 1: what a task stores and its own new state are one transaction, fenced by the sync's
worker and the task's attempt: who lost the lease stores nothing.

Rule 2: a container counts the children that have not ended; nobody ever counts rows, so a
task costs the same among eight siblings and among eighty thousand.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from ..core import TaskStore
from ..errors import LeaseLost, NotFound, SyncError, SyncRunning
from ..model.delivery import WriteResult
from ..model.tasks import (
    BLOCKED,
    CHILDREN_PAGE,
    HEARTBEAT,
    MOVES,
    ExpandTask,
    Failure,
    GroupTask,
    NewTask,
    Outcome,
    RemoveTask,
    ResumedSync,
    Settlement,
    SettleResult,
    State,
    Status,
    SyncCommand,
    SyncResult,
    SyncRun,
    Task,
    failure_of,
    read_spec,
)
from ..model.values import Json
from .catalogue import migrate
from .database import Connection, Database
from .leases import describe_worker
from .sync_log import (
    FAILURE_COLUMNS,
    GIVE_BACK,
    MIGRATIONS,
    UNFINISHED,
    apply_command,
    finish,
    guard,
    release_tasks,
    request,
    result,
    resume_tasks,
    run,
    runs,
    unfinished,
    unfinished_runs,
)

CHILDREN_BOUND = 2_000  # children of one task that wait at a time
MAX_CRASHES = 5  # ends of the process, in a row, that a task may see
SUSPECT_CRASHES = 2  # from so many on, a task runs alone, so that it proves itself or its guilt
KEPT_SYNCS = 100  # finished syncs that are remembered
PRUNED_AT_ONCE = 5_000  # task rows deleted in one transaction
NOTHING = WriteResult({})
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: ids are typed by people

INSERT_TASK = """
    INSERT INTO _max_task (sync, parent, after, kind, spec, state, children, unfinished,
                           created_at, changed_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

CLAIM = f"""
    UPDATE _max_task
       SET state = '{State.RUNNING}', attempt = attempt + 1, tries = tries + 1,
           changed_at = :now
     WHERE {guard(State.RUNNING)}
       AND id IN (SELECT id FROM _max_task
                   WHERE sync = :sync AND state = '{State.PENDING}' AND not_before <= :now
                     AND crashes BETWEEN :least AND :most
                   ORDER BY not_before, id
                   LIMIT :limit)
    RETURNING id, sync, parent, kind, spec, attempt, tries, crashes
"""

DUE = f"""
    SELECT min(not_before), count(*) FROM _max_task
     WHERE sync = :sync AND state = '{State.PENDING}' AND crashes <= :most
"""

SETTLE = {
    to: f"""
    UPDATE _max_task
       SET state = '{to}',
           tries = CASE WHEN :progress THEN {1 if to is State.RUNNING else 0} ELSE tries END,
           crashes = CASE WHEN :progress THEN 0 ELSE crashes END,
           spec = coalesce(:spec, spec),
           not_before = :not_before,
           more = :more,
           children = children + :children,
           unfinished = unfinished + :unfinished,
           failed = failed + :failed,
           error = :error,
           changed_at = :now
     WHERE id = :id AND attempt = :attempt AND state = '{State.RUNNING}' AND {guard(to)}
"""
    for to in MOVES[State.RUNNING]
}

COMPLETE = f"""
    UPDATE _max_task SET state = '{State.COMPLETED}', tries = 0, crashes = 0, changed_at = ?
     WHERE id = ? AND attempt = ? AND state = '{State.RUNNING}'
"""  # what most tasks come to, for a third of the time

COUNT_DOWN = """
    UPDATE _max_task SET unfinished = unfinished - ?, failed = failed + ? WHERE id = ?
"""

LOOK = f"""
    SELECT id, parent, kind, unfinished, more, children > 0 AND failed = children
      FROM _max_task
     WHERE id IN (SELECT value FROM json_each(?)) AND state = '{State.AWAITING_CHILDREN}'
"""

DEPENDENTS = f"""
    SELECT id, after, kind FROM _max_task
     WHERE after IN (SELECT value FROM json_each(?)) AND state = '{State.NEW}'
"""

FAIL_WITH_CHILDREN = f"""
    UPDATE _max_task
       SET state = '{State.AWAITING_CHILDREN}', more = 0,
           children = children + 1, failed = failed + 1, changed_at = ?
     WHERE id = ? AND {guard(State.AWAITING_CHILDREN)}
"""


def move_to(to: State, extra: str = "") -> str:
    """The statement that moves a task, ``(now, …, id)``, if MOVES allows it."""
    return f"UPDATE _max_task SET state = '{to}', changed_at = ?{extra} WHERE id = ? AND {guard(to)}"


INSERT_FAILURE = (
    f"INSERT INTO _max_failure ({FAILURE_COLUMNS}) VALUES ({', '.join('?' for _ in Failure._names)})"
)

# -- SQLite -------------------------------------------------------------------------------


class SqliteTaskStore(TaskStore):
    """Tasks beside the entities, in the same database, so that one transaction holds both.

    ``version`` is the connector's: every failure is recorded with it.
    """

    def __init__(self, database: Database, *, version: str = "") -> None:
        self._database, self._version = database, version

    async def start(self) -> None:
        """Create or upgrade the tables."""
        await self._database.transact(lambda connection: migrate(connection, "execution", MIGRATIONS))

    async def begin(self, plan: Json, root: NewTask, *, worker: str, now: float) -> str:
        """Sync row, worker row and every task of the plan in one transaction."""

        def work(connection: Connection) -> str:
            _abandon_others(connection, worker, now)
            inside = self._inside(connection, _next_id(connection, now), now)
            inside.begin(json.dumps(plan), root, worker)
            return inside.sync

        return await self._database.transact(work)

    async def resume(self, sync: str, *, worker: str, now: float) -> ResumedSync:
        """The leases of the dead are free again in the transaction that takes the sync over."""

        def work(connection: Connection) -> ResumedSync:
            found = run(connection, sync, now=now)
            if found.status.final:
                raise SyncError(f"sync {found.id} has already ended ({found.status})")
            if found.status is Status.RUNNING and found.worker != worker:
                raise SyncRunning(found.id, describe_worker(found.worker or ""))
            dead = self._inside(connection, found.id, now).resume(worker, died=found.worker != worker)
            values = {name: getattr(found, name) for name in SyncRun._names}
            crashed = found.worker not in (None, worker)
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
        """A savepoint for each settlement, one commit for all of them and the claims."""

        def work(connection: Connection) -> SettleResult:
            inside = self._inside(connection, sync, now)
            status, command, owner = inside.sync_row()
            if status.final and not settlements:
                return SettleResult((), (), status, command)
            if owner != worker:
                raise LeaseLost(f"sync {sync} is no longer this process's", hint="another one took it over")
            outcomes = inside.settle(settlements, command)
            inside.add_up(requests)
            inside.advance()
            inside.sign(worker)
            status, command, _ = inside.sync_row()
            if status is not Status.RUNNING or command is not SyncCommand.RUN:
                return SettleResult(outcomes, (), status, command)
            return SettleResult(outcomes, *inside.claim(claim, alone=alone))

        return await self._database.transact(work)

    async def apply_command(self, sync: str, *, worker: str, now: float) -> Status:
        """Nothing changes when the worker lost the sync, or when it is to run after all."""

        def work(connection: Connection) -> Status:
            inside = self._inside(connection, sync, now)
            _, command, owner = inside.sync_row()
            if owner == worker:
                apply_command(connection, sync, command, now=now)
            return inside.sync_row()[0]

        return await self._database.transact(work)

    async def release(self, sync: str, *, worker: str, now: float) -> None:
        """Tasks, sync and worker row in one transaction; nothing when the sync is not ours."""

        def work(connection: Connection) -> None:
            if self._inside(connection, sync, now).sync_row()[2] == worker:
                release_tasks(connection, sync)

        await self._database.transact(work)

    async def request(self, sync: str, command: SyncCommand, *, now: float) -> None:
        """Write down what is wanted, for whichever process works at the sync."""
        await self._database.transact(lambda connection: request(connection, sync, command, now=now))

    async def unfinished(self, *, worker: str, now: float) -> str | None:
        """Asks the operating system which workers of this machine still live."""
        return await self._database.read(lambda connection: unfinished(connection, worker=worker, now=now))

    async def runs(self, limit: int, *, now: float) -> list[SyncRun]:
        """From the syncs' own rows; no task is looked at."""
        return await self._database.read(lambda connection: runs(connection, limit, now=now))

    async def result(self, sync: str, *, now: float) -> SyncResult:
        """The sync's row and its failures, read in one snapshot."""
        return await self._database.read(lambda connection: result(connection, sync, now=now))

    async def prune(self) -> None:
        """In many small transactions, so that nobody waits long for the write lock."""
        while await self._database.transact(_prune_some):
            pass

    def _inside(self, connection: Connection, sync: str, now: float) -> _Transaction:
        return _Transaction(connection, sync, now, self._version)


def _next_id(connection: Connection, now: float) -> str:
    """Seconds and some chance, in 10 letters; always greater than the newest, which is never pruned."""
    chance = int.from_bytes(os.urandom(2), "big") & 0x7FFF
    number = (int(now) << 15) | chance
    newest = connection.execute("SELECT max(id) FROM _max_sync").fetchone()[0]
    if newest is not None:
        last = 0
        for letter in newest:
            last = last * 32 + ALPHABET.index(letter)
        number = max(number, last + 1)
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(45, -5, -5))


def _abandon_others(connection: Connection, worker: str, now: float) -> None:
    for found in unfinished_runs(connection, now=now):
        if found.status is Status.RUNNING and found.worker != worker:
            raise SyncRunning(found.id, describe_worker(found.worker or ""))
        apply_command(connection, found.id, SyncCommand.CANCEL, now=now)


def _prune_some(connection: Connection) -> int:
    living = f"SELECT id FROM _max_sync WHERE {UNFINISHED}"
    gone = connection.execute(
        f"DELETE FROM _max_task WHERE id IN "
        f"(SELECT id FROM _max_task WHERE sync NOT IN ({living}) LIMIT {PRUNED_AT_ONCE})"
    ).rowcount
    kept = f"SELECT id FROM _max_sync ORDER BY id DESC LIMIT {KEPT_SYNCS}"
    old = f"SELECT id FROM _max_sync WHERE NOT {UNFINISHED} AND id NOT IN ({kept})"
    connection.execute(f"DELETE FROM _max_failure WHERE sync IN ({old})")
    connection.execute(f"DELETE FROM _max_sync WHERE id IN ({old})")
    return gone


class _Transaction:
    """What one open transaction does to one sync."""

    def __init__(self, connection: Connection, sync: str, now: float, version: str) -> None:
        self.connection, self.sync, self.now, self._version = connection, sync, now, version
        self._ended: list[tuple[int, int | None, bool]] = []  # id, parent, failed
        self._look_at: set[int] = set()
        self._stored: list[WriteResult] = []

    def sync_row(self) -> tuple[Status, SyncCommand, str | None]:
        """Status as stored, what is wanted, and whose it is."""
        row = self.connection.execute(
            "SELECT state, command, worker FROM _max_sync WHERE id = ?", (self.sync,)
        ).fetchone()
        if row is None:
            raise NotFound("sync", self.sync)
        return Status(row[0]), SyncCommand(row[1]), row[2]

    # beginning

    def begin(self, plan: str, root: NewTask, worker: str) -> None:
        """Store the sync and its graph, and start what waits for nothing."""
        self.connection.execute(
            "INSERT INTO _max_sync (id, plan, state, command, worker, started_at) VALUES (?, ?, ?, ?, ?, ?)",
            (self.sync, plan, Status.RUNNING, SyncCommand.RUN, worker, self.now),
        )
        self.sign(worker)
        self._begin_task(self._insert(root, None, None))
        self.advance()

    def _insert(self, task: NewTask, parent: int | None, after: int | None) -> int:
        values = self._row(task, parent, after, State.NEW)
        id = int(self.connection.execute(f"{INSERT_TASK} RETURNING id", values).fetchone()[0])
        previous = None
        for child in task.children:
            previous = self._insert(child, id, previous if task.chained else None)
        return id

    def _row(self, task: NewTask, parent: int | None, after: int | None, state: State) -> tuple[object, ...]:
        size = len(task.children)
        spec = json.dumps(task.spec.to_json())
        return (self.sync, parent, after, task.spec.kind, spec, state, size, size, self.now, self.now)

    def _begin_task(self, id: int) -> None:
        """A task's turn has come: it may be claimed; a group's children begin instead."""
        kind = self.connection.execute("SELECT kind FROM _max_task WHERE id = ?", (id,)).fetchone()[0]
        to = State.AWAITING_CHILDREN if kind == GroupTask.kind else State.PENDING
        self.connection.execute(move_to(to), (self.now, id))
        if to is State.AWAITING_CHILDREN:
            for child in self._waiting_children(id, "AND after IS NULL"):
                self._begin_task(child)
            self._look_at.add(id)

    def _waiting_children(self, id: int, condition: str = "") -> list[int]:
        query = f"SELECT id FROM _max_task WHERE parent = ? AND state = '{State.NEW}' {condition} ORDER BY id"
        return [row[0] for row in self.connection.execute(query, (id,))]

    def resume(self, worker: str, *, died: bool) -> list[Task]:
        """Make this worker the sync's; ``died``: who held the leases ended without a word.

        The attempts that ended so, with their tasks.
        """
        self.connection.execute(
            "UPDATE _max_sync SET state = ?, command = ?, worker = ?, resumed = 1 WHERE id = ?",
            (Status.RUNNING, SyncCommand.RUN, worker, self.sync),
        )
        self.sign(worker)
        dead = self._under_way() if died else []
        for task in dead:
            if task.crashes >= MAX_CRASHES - 1:
                self._fail_deadly(task)
        self.connection.execute(GIVE_BACK, (int(died), self.sync))
        resume_tasks(self.connection, self.sync)
        self.advance()
        return dead

    def _under_way(self) -> list[Task]:
        rows = self.connection.execute(
            "SELECT id, sync, parent, kind, spec, attempt, tries, crashes FROM _max_task"
            f" WHERE sync = ? AND state = '{State.RUNNING}' ORDER BY id",
            (self.sync,),
        )
        return [_task_of(row) for row in rows]

    def _fail_deadly(self, task: Task) -> None:
        error = SyncError(
            f"the process ended {MAX_CRASHES} times in a row while this task ran",
            hint="look for what ends it: memory, a crash in the connector's libraries",
        )
        self.connection.execute(FAIL_WITH_CHILDREN, (self.now, task.id))
        self._record([failure_of(task, error, self.now)])
        self._look_at.add(task.id)

    def sign(self, worker: str) -> None:
        """Leave a sign of life, unless there is a recent one."""
        self.connection.execute(
            "INSERT INTO _max_worker VALUES (:worker, :now) ON CONFLICT (id) DO UPDATE"
            f" SET heartbeat_at = :now WHERE heartbeat_at NOT BETWEEN :now - {HEARTBEAT} AND :now",
            {"worker": worker, "now": self.now},
        )

    # settling

    def settle(self, settlements: Sequence[Settlement], command: SyncCommand) -> list[Outcome]:
        """Store settlements: all of them, or, when one cannot be stored, each by itself."""
        self.connection.execute("SAVEPOINT settlement")
        try:
            outcomes = self._store(settlements, command)
        except Exception as error:
            dialect = self.connection.dialect
            if isinstance(error, dialect.errors) and dialect.is_fatal(self.connection, error):
                raise
            self.connection.execute("ROLLBACK TO settlement")
            self.connection.execute("RELEASE settlement")
            if len(settlements) == 1:
                return [Outcome(State.RUNNING, error=_own_error(settlements[0].task, error, dialect.errors))]
            return [self.settle([one], command)[0] for one in settlements]
        self.connection.execute("RELEASE settlement")
        return outcomes

    def _store(self, settlements: Sequence[Settlement], command: SyncCommand) -> list[Outcome]:
        states = [_state_after(one, command) for one in settlements]
        self._move(settlements, states)
        stored = [[write(self.connection) for write in one.writes] for one in settlements]
        self._remember(settlements)
        for one, to in zip(settlements, states, strict=True):
            if to is State.AWAITING_CHILDREN:
                self._look_at.add(one.task.id)
            elif not MOVES[to]:
                self._ended.append((one.task.id, one.task.parent, to is State.FAILED))
        self._stored += chain.from_iterable(stored)
        return [Outcome(to, _sum(some)) for to, some in zip(states, stored, strict=True)]

    def _remember(self, settlements: Sequence[Settlement]) -> None:
        """What is to be done because of them, what failed, and what there is to say."""
        rows = [
            self._row(child, one.task.id, None, State.PENDING)
            for one in settlements
            for child in one.children
        ]
        self.connection.executemany(INSERT_TASK, rows)
        self._record([failure for one in settlements for failure in one.failures])
        self._note([note for one in settlements for note in one.notes])

    def _move(self, settlements: Sequence[Settlement], states: Sequence[State]) -> None:
        by_statement: dict[str, list[Any]] = {}
        for one, to in zip(settlements, states, strict=True):
            if to is State.COMPLETED and one.spec is None and not (one.children or one.failures):
                by_statement.setdefault(COMPLETE, []).append((self.now, one.task.id, one.task.attempt))
            else:
                by_statement.setdefault(SETTLE[to], []).append(self._values(one, to))
        for statement, values in by_statement.items():
            if self.connection.executemany(statement, values).rowcount < len(values):
                raise LeaseLost(
                    f"task {settlements[0].task.id} is no longer this attempt's",
                    hint="nothing of it was stored",
                )

    def _values(self, one: Settlement, to: State) -> dict[str, object]:
        failed = to is State.AWAITING_CHILDREN and bool(one.failures)  # its own work counts as a child
        return {
            "id": one.task.id,
            "attempt": one.task.attempt,
            "spec": None if one.spec is None else json.dumps(one.spec.to_json()),
            "progress": one.progress,
            "not_before": one.not_before,
            "more": one.more,
            "children": len(one.children) + failed,
            "unfinished": len(one.children),
            "failed": int(failed),
            "error": one.failures[0].message if one.failures else one.error and one.error["message"],
            "now": self.now,
        }

    def _record(self, failures: Sequence[Failure]) -> None:
        if failures:
            rows = [(*one._values()[:-2], json.dumps(one.input), self._version) for one in failures]
            self.connection.executemany(INSERT_FAILURE, rows)

    def _note(self, notes: Sequence[str]) -> None:
        """Keep what a person should know, each once."""
        for note in notes:
            self.connection.execute(
                "UPDATE _max_sync SET notes = json_insert(notes, '$[#]', ?1) WHERE id = ?2"
                " AND NOT EXISTS (SELECT 1 FROM json_each(notes) WHERE value = ?1)",
                (note, self.sync),
            )

    def add_up(self, requests: Mapping[str, int]) -> None:
        """Add what was stored and asked to the sync's own counts."""
        if not self._stored and not requests:
            return
        total = _sum(self._stored)
        row = self.connection.execute(
            "SELECT counts, requests FROM _max_sync WHERE id = ?", (self.sync,)
        ).fetchone()
        counts = Counter(json.loads(row[0])) + Counter(total.counts)
        calls = Counter(json.loads(row[1])) + Counter(requests)
        self.connection.execute(
            "UPDATE _max_sync SET counts = ?, requests = ?, removed = removed + ?,"
            " quarantined = quarantined + ?, deliveries = deliveries + ? WHERE id = ?",
            (
                json.dumps(counts),
                json.dumps(calls),
                total.removed,
                total.quarantined,
                len(self._stored),
                self.sync,
            ),
        )

    # following up

    def advance(self) -> None:
        """Follow up what has ended: dependents, parents, the sync itself, until nothing moves."""
        while self._ended or self._look_at:
            ended, self._ended = self._ended, []
            self._unblock(ended)
            self._count_down(ended)
            if any(parent is None for _, parent, _ in ended):
                finish(self.connection, self.sync, self._final_status(), now=self.now)
            self._end_containers()

    def _unblock(self, ended: Sequence[tuple[int, int | None, bool]]) -> None:
        failed = {id: failed for id, _, failed in ended}
        rows = self.connection.execute(DEPENDENTS, (json.dumps(list(failed)),)).fetchall()
        for id, after, kind in rows:
            if failed[after] and kind != RemoveTask.kind:  # which finds out for itself what is certain
                self._block(id, self._what(after))
            else:
                self._begin_task(id)

    def _what(self, id: int) -> str:
        task, blocked_by = self._read(id)
        return blocked_by or task.spec.describe()

    def _read(self, id: int) -> tuple[Task, str | None]:
        """A task, and what blocked it."""
        *row, blocked_by = self.connection.execute(
            "SELECT id, sync, parent, kind, spec, attempt, tries, crashes, blocked_by FROM _max_task"
            " WHERE id = ?",
            (id,),
        ).fetchone()
        return _task_of(row), blocked_by

    def _block(self, id: int, cause: str) -> None:
        """Fail a task that waited for one that failed, and what stands inside it."""
        task, _ = self._read(id)
        for child in self._waiting_children(id):
            self._block(child, cause)
        if not isinstance(task.spec, GroupTask):
            error = SyncError(f"blocked by step {cause}", hint="retry that first")
            self._record([failure_of(task, error, self.now, code=BLOCKED)])
        # the next one that waits names the first cause
        self.connection.execute(move_to(State.FAILED, ", blocked_by = ?"), (self.now, cause, id))
        self._ended.append((id, task.parent, True))

    def _count_down(self, ended: Sequence[tuple[int, int | None, bool]]) -> None:
        done = Counter(parent for _, parent, _ in ended if parent is not None)
        failed = Counter(parent for _, parent, failed in ended if failed)
        rows = [(number, failed[parent], parent) for parent, number in done.items()]
        self.connection.executemany(COUNT_DOWN, rows)
        self._look_at |= done.keys()

    def _end_containers(self) -> None:
        ids, self._look_at = json.dumps(sorted(self._look_at)), set()
        for id, parent, kind, left, more, all_failed in self.connection.execute(LOOK, (ids,)).fetchall():
            # who removes wants to know what its children have found; who expands only wants room
            room = 0 if kind == RemoveTask.kind else CHILDREN_BOUND - CHILDREN_PAGE
            if more and left <= room:
                self.connection.execute(move_to(State.PENDING), (self.now, id))
            elif not more and left == 0:
                to = State.FAILED if all_failed else State.COMPLETED
                self.connection.execute(move_to(to), (self.now, id))
                self._ended.append((id, parent, bool(all_failed)))

    def _final_status(self) -> Status:
        failed = self.connection.execute(
            "SELECT 1 FROM _max_failure WHERE sync = ? LIMIT 1", (self.sync,)
        ).fetchone()
        if not failed:
            return Status.COMPLETED
        query = "SELECT deliveries FROM _max_sync WHERE id = ?"
        stored = self.connection.execute(query, (self.sync,)).fetchone()[0]
        return Status.PARTIAL if stored else Status.FAILED

    # claiming

    def claim(self, limit: int, *, alone: bool) -> tuple[list[Task], Status, SyncCommand, float | None, int]:
        """Lease tasks whose time has come, the oldest first; when there are none, when the next is due."""
        claimed = self._take(limit, 0, SUSPECT_CRASHES - 1)
        if alone and limit and not claimed:
            claimed = self._take(1, SUSPECT_CRASHES, MAX_CRASHES)
        due, waiting = None, 0
        if not claimed:
            most = MAX_CRASHES if alone else SUSPECT_CRASHES - 1
            due, waiting = self.connection.execute(DUE, {"sync": self.sync, "most": most}).fetchone()
        return claimed, Status.RUNNING, SyncCommand.RUN, due, waiting

    def _take(self, limit: int, least: int, most: int) -> list[Task]:
        values = {"sync": self.sync, "now": self.now, "limit": limit}
        rows = self.connection.execute(CLAIM, {**values, "least": least, "most": most}).fetchall()
        return sorted(map(_task_of, rows))


def _task_of(row: Sequence[Any]) -> Task:
    id, sync, parent, kind, spec, attempt, tries, crashes = row
    return Task(id, sync, parent, read_spec(kind, json.loads(spec)), attempt, tries, crashes)


def _own_error(task: Task, error: Exception, errors: type[Exception]) -> Exception:
    """What kept one settlement from being stored, as its task's failure: the database itself is well."""
    if not isinstance(error, errors):
        return error
    own = SyncError(f"task {task.id}: {error}", hint="nothing of this answer was stored")
    own.__cause__ = error
    return own


def _state_after(one: Settlement, command: SyncCommand) -> State:
    """Where a settlement leads.

    A task that would go on with its next page stops there when the sync shall; cancelling
    follows when nothing is under way.  An expansion fails when the children it has made have
    ended.
    """
    if one.state is State.RUNNING and command is not SyncCommand.RUN:
        return State.PAUSED
    if one.state is State.FAILED and isinstance(one.task.spec, ExpandTask):
        return State.AWAITING_CHILDREN
    return one.state


def _sum(stored: Sequence[WriteResult]) -> WriteResult:
    if len(stored) <= 1:
        return stored[0] if stored else NOTHING
    counts: Counter[str] = Counter()
    for one in stored:
        counts.update(one.counts)
    return WriteResult(
        dict(counts), sum(one.removed for one in stored), sum(one.quarantined for one in stored)
    )
