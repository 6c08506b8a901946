"""The settle transaction: what tasks did, what follows from it, and what runs next, in one commit.

**What is recorded.**  A task has its state, the number of its claims (``attempt``), and how many
children it has, how many have not ended, and how many failed.  These counts are kept up to date
and rows are never counted, so a task costs the same among eight siblings and eighty thousand.

**Three phases**, always in this order:

1. *Store.*  Each settlement moves its task, runs its writes (rows, listings, removals) and adds
   its children and failures.  All share one savepoint.  When one cannot be stored, each is tried
   in a savepoint of its own, so that only the bad one is lost.
2. *Follow up.*  Each ended task is counted at its parent and starts the task that waited for it,
   or fails it as blocked.  A parent whose children have ended ends as well, and so on until
   nothing moves.  With its root task the sync ends.
3. *Claim.*  The oldest tasks whose time has come are leased to the worker.

**The invariant.**  What a task stores and its new state are committed together, once per attempt.
The transaction checks that the sync is still the worker's, and each move names the attempt: a
worker that lost its lease stores nothing.

**Example.**  A task that created three children, A, B and C.  B is the last one, and fails.

    A  completed            parent: 3 children, 1 unfinished, 0 failed; awaiting_children
    B  running
    C  completed

    1. store       B is failed, and its failure is recorded
    2. follow up   the parent has 0 unfinished and 1 failed child: it is completed (it would fail
                   if all three had), and the step after it is pending
    3. claim       that step is running

**After a crash** the last commit holds.  Tasks that were running still say so, and their worker is
dead: ``resume`` makes them pending and counts a crash for each.  Their work is done again, so it
must be safe to repeat.  A task that was running in several crashes in a row then runs alone, to
show whether it is the cause, and fails after MAX_CRASHES.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from ..core import logger
from ..errors import LONGEST_WAIT, LeaseLost, NotFound, SuspiciousRemoval, SyncError
from ..model.delivery import WriteResult, run_writes
from ..model.event_log import LoggedKind
from ..model.hooks import COUNTED
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
    Settlement,
    State,
    Status,
    SyncCommand,
    Task,
    failure_of,
    read_spec,
)
from ..model.values import Json, Kind, storable
from .database import Connection, decoding
from .event_log import record_event
from .sync_log import FAILURE_COLUMNS, FIRST_ERROR, RETURN_TO_QUEUE, finish_sync, guard, resume_tasks
from .table_writer import check_made

CHILDREN_BOUND = 2_000  # children of one task that wait at a time
MAX_CRASHES = 5  # crashes in a row after which a task fails
SUSPECT_CRASHES = 2  # crashes in a row after which a task runs alone
NARROW = ("only", COUNTED)  # options of a sync that says nothing of the other rows
SHORT_WAIT = 10.0  # seconds; a wait that is not longer is no event

TASK_COLUMNS = "id, sync, parent, kind, spec, attempt, tries, crashes"
INSERT_SYNC = """
    INSERT INTO _max_sync (id, plan, state, command, worker, started_at, narrow, schedule)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
INSERT_TASK = """
    INSERT INTO _max_task (sync, parent, after, kind, spec, state, children, unfinished,
                           created_at, changed_at)
    {rows}
"""
TASK_KINDS = (Kind.TEXT, *[Kind.INTEGER] * 2, *[Kind.TEXT] * 3, *[Kind.INTEGER] * 2, *[Kind.REAL] * 2)
INSERT_ONE_TASK = f"{INSERT_TASK.format(rows='VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)')} RETURNING id"
# A task that was running in several crashes is claimed only when it may run alone (``:least``, ``:most``).
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
    RETURNING {TASK_COLUMNS}
"""
DUE = f"""
    SELECT min(not_before), count(*), ({FIRST_ERROR.format("sync = :sync AND crashes <= :most")})
      FROM _max_task
     WHERE sync = :sync AND state = '{State.PENDING}' AND crashes <= :most
"""
SHORTEN_WAITS = f"""
    UPDATE _max_task
       SET not_before = CASE WHEN changed_at > :now THEN :now ELSE changed_at END
                      + CASE WHEN not_before - changed_at > {LONGEST_WAIT} THEN {LONGEST_WAIT}
                             ELSE not_before - changed_at END,
           changed_at = :now
     WHERE sync = :sync AND state = '{State.PENDING}' AND not_before > :now
       AND (changed_at > :now OR not_before - changed_at > {LONGEST_WAIT} + 1)
"""
# A statement for each state that a running task can come to, with the guard that MOVES gives it.
SETTLE = {
    to: f"""
    UPDATE _max_task
       SET state = '{to}',
           tries = CASE WHEN :progress THEN {1 if to is State.RUNNING else 0} ELSE tries - :returned END,
           crashes = CASE WHEN :progress THEN 0 ELSE crashes END,
           spec = coalesce(:spec, spec),
           not_before = CASE WHEN :wait > 0 THEN :now + :wait ELSE 0 END,
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
    UPDATE _max_task SET state = '{State.COMPLETED}', tries = 0, crashes = 0, changed_at = :now
     WHERE id IN {{numbers:ids}} AND attempt = :attempt AND state = '{State.RUNNING}'
"""  # how most tasks end
LOG = logger("storage")
COUNT_DOWN = "UPDATE _max_task SET unfinished = unfinished - ?, failed = failed + ? WHERE id = ?"
CONTAINERS = f"""
    SELECT id, parent, kind, unfinished, more, children > 0 AND failed = children
      FROM _max_task WHERE id IN {{numbers:ids}} AND state = '{State.AWAITING_CHILDREN}'
"""
DEPENDENTS = f"SELECT id, after, kind FROM _max_task WHERE after IN {{numbers:ids}} AND state = '{State.NEW}'"
OF_STEPS = f"""
    sync = :sync AND parent IN (SELECT id FROM _max_task WHERE sync = :sync AND kind = '{GroupTask.kind}')
"""
# An expansion that failed waits for the children that it has; its failure counts as one more of them.
FAIL_WITH_CHILDREN = f"""
    UPDATE _max_task
       SET state = '{State.AWAITING_CHILDREN}', more = 0,
           children = children + 1, failed = failed + 1, changed_at = ?
     WHERE id = ? AND {guard(State.AWAITING_CHILDREN)}
"""
INSERT_FAILURE = (
    f"INSERT INTO _max_failure ({FAILURE_COLUMNS}) VALUES ({', '.join('?' for _ in Failure._names)})"
)
# Not more often than others have to know; also when the last one is ahead, since the clock was set back.
BEAT = f"""
    INSERT INTO _max_worker (id, heartbeat_at) VALUES (:worker, {{clock:now}})
    ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at
     WHERE _max_worker.heartbeat_at NOT BETWEEN excluded.heartbeat_at - {HEARTBEAT} AND excluded.heartbeat_at
"""
ADD_COUNTS = """
    UPDATE _max_sync SET counts = ?, requests = ?, removed = removed + ?, quarantined = quarantined + ?,
                         deliveries = deliveries + ?
     WHERE id = ?
"""


def move_to(to: State, extra: str = "") -> str:
    """The statement that moves a task, ``(now, …, id)``, if MOVES allows it."""
    return f"UPDATE _max_task SET state = '{to}', changed_at = ?{extra} WHERE id = ? AND {guard(to)}"


class EndedTask(NamedTuple):
    """A task that has ended and that nothing has followed up yet."""

    id: int
    parent: int | None
    failed: bool


class SyncTransaction:
    """One open transaction on one sync; ``version`` is the connector's, for failures."""

    def __init__(self, connection: Connection, sync: str, now: float, version: str) -> None:
        self.connection, self.sync, self.now, self._version = connection, sync, now, version
        self._ended: list[EndedTask] = []
        self._containers: set[int] = set()  # tasks that may have been waiting for the last child
        self._stored: list[WriteResult] = []
        self.has_ended = False  # the sync, by what was followed up

    def read_sync(self) -> tuple[Status, SyncCommand, str | None]:
        """The stored status, the command and the worker; NotFound."""
        sql = "SELECT state, command, worker FROM _max_sync WHERE id = ?"
        row = self.connection.execute(sql, (self.sync,)).fetchone()
        if row is None:
            raise NotFound("sync", self.sync)
        with decoding("sync"):
            return Status(row[0]), SyncCommand(row[1]), row[2]

    def beat(self, worker: str) -> None:
        """Record the worker's heartbeat, unless there is a recent one."""
        beat = self.connection.dialect.sql(BEAT)
        self.connection.execute(beat, {"worker": worker, "now": self.now})

    # -- beginning and resuming -----------------------------------------------------------

    def begin(self, plan: str, root: NewTask, worker: str, schedule: str | None = None) -> None:
        """Store the sync and its task graph, and start the tasks that wait for no other."""
        narrow = isinstance(root.spec, GroupTask) and not root.spec.options.keys().isdisjoint(NARROW)
        values = (self.sync, plan, Status.RUNNING, SyncCommand.RUN, worker, self.now, int(narrow), schedule)
        self.connection.execute(INSERT_SYNC, values)
        self.beat(worker)
        options = dict(root.spec.options) if isinstance(root.spec, GroupTask) else {}
        facts = {name: value for name, value in options.items() if value}
        by = {"schedule": schedule} if schedule else {}
        self.record(LoggedKind.SYNC_BEGUN, {**by, **({"options": facts} if facts else {})})
        self._start_task(self._insert(root, None, None))
        self.follow_up()

    def record(self, kind: LoggedKind, facts: Mapping[str, Json]) -> None:
        """Record an event of the sync."""
        record_event(self.connection, kind, facts, now=self.now, sync=self.sync)

    def fail_start(self, failure: Failure, schedule: str | None) -> None:
        """Store a sync that has no task, and why; the caller gives it its status."""
        values = (self.sync, "[]", Status.RUNNING, SyncCommand.RUN, None, self.now, 0, schedule)
        self.connection.execute(INSERT_SYNC, values)
        self.record(LoggedKind.SYNC_BEGUN, {"schedule": schedule} if schedule else {})
        self._record_failures([failure])

    def _insert(self, task: NewTask, parent: int | None, after: int | None) -> int:
        values = self._task_row(task, parent, after, State.NEW)
        id = int(self.connection.execute(INSERT_ONE_TASK, values).fetchone()[0])
        previous = None
        for child in task.children:
            previous = self._insert(child, id, previous if task.chained else None)
        return id

    def _task_row(
        self, task: NewTask, parent: int | None, after: int | None, state: State
    ) -> tuple[object, ...]:
        size = len(task.children)
        spec = json.dumps(task.spec.to_json())
        return (self.sync, parent, after, task.spec.kind, spec, state, size, size, self.now, self.now)

    def _start_task(self, id: int) -> None:
        """A task no longer waits: it may be claimed, or, if it is a group, its children may."""
        spec = self._read_task(id)[0].spec
        needs = getattr(spec, "needs", None)
        if needs and (cause := self._missing_need(needs)):
            self._block(id, cause)
            return
        to = State.AWAITING_CHILDREN if isinstance(spec, GroupTask) else State.PENDING
        self.connection.execute(move_to(to), (self.now, id))
        if to is State.AWAITING_CHILDREN:
            for child in self._new_children(id, "AND after IS NULL"):
                self._start_task(child)
            self._containers.add(id)

    def _new_children(self, id: int, condition: str = "") -> list[int]:
        query = f"SELECT id FROM _max_task WHERE parent = ? AND state = '{State.NEW}' {condition} ORDER BY id"
        return [row[0] for row in self.connection.execute(query, (id,))]

    def resume(self, worker: str, *, died: bool) -> list[Task]:
        """Give the sync to a worker; the attempts that a crash ended.

        ``died``: the process that held the leases ended without releasing them.
        """
        self.connection.execute(
            "UPDATE _max_sync SET state = ?, command = ?, worker = ?, resumed = 1 WHERE id = ?",
            (Status.RUNNING, SyncCommand.RUN, worker, self.sync),
        )
        self.beat(worker)
        dead = self._running_tasks() if died else []
        for task in dead:
            if task.crashes >= MAX_CRASHES - 1:
                self._fail_crashing(task)
        self.connection.execute(RETURN_TO_QUEUE, (int(died), self.sync))
        resume_tasks(self.connection, self.sync)
        self.follow_up()
        return dead

    def _running_tasks(self) -> list[Task]:
        sql = f"SELECT {TASK_COLUMNS} FROM _max_task WHERE sync = ? AND state = '{State.RUNNING}' ORDER BY id"
        with decoding("task"):
            return [task_of(row) for row in self.connection.execute(sql, (self.sync,))]

    def _fail_crashing(self, task: Task) -> None:
        error = SyncError(
            f"the process ended {MAX_CRASHES} times in a row while this task ran",
            hint="look for what ends it: memory, or a crash in the connector's libraries",
        )
        self.connection.execute(FAIL_WITH_CHILDREN, (self.now, task.id))
        self._record_failures([failure_of(task, error, self.now)])
        self._containers.add(task.id)

    # -- 1. store -------------------------------------------------------------------------

    def store(self, settlements: Sequence[Settlement], command: SyncCommand) -> list[Outcome]:
        """Store settlements: all of them, or, when one cannot be stored, each by itself."""
        self.connection.execute("SAVEPOINT settlement")
        try:
            outcomes = self._store(settlements, command)
        except Exception as error:
            dialect = self.connection.dialect
            foreign = isinstance(error, dialect.errors)
            if foreign and dialect.is_fatal(self.connection, error):
                raise
            self.connection.execute("ROLLBACK TO SAVEPOINT settlement")
            self.connection.execute("RELEASE SAVEPOINT settlement")
            if len(settlements) > 1:
                why = type(error).__name__  # its words may hold a secret
                LOG.info("%d settlements failed together (%s): each goes alone", len(settlements), why)
                return [self.store([one], command)[0] for one in settlements]
            if foreign:
                check_made(self.connection)  # without a table of ours nothing more can be stored
            own = _own_error(settlements[0].task, error) if foreign else error
            return [Outcome(State.RUNNING, error=own)]
        self.connection.execute("RELEASE SAVEPOINT settlement")
        return outcomes

    def _store(self, settlements: Sequence[Settlement], command: SyncCommand) -> list[Outcome]:
        states = [_state_after(one, command) for one in settlements]
        self._move(settlements, states)
        results = iter(run_writes(self.connection, [write for one in settlements for write in one.writes]))
        stored = [list(islice(results, len(one.writes))) for one in settlements]
        self._add_children(settlements)
        self._record_failures([failure for one in settlements for failure in one.failures])
        self.add_notes([note for one in settlements for note in one.notes])
        self._note_ends(settlements, states)
        self._stored += chain.from_iterable(stored)
        return [Outcome(to, _sum(some)) for to, some in zip(states, stored, strict=True)]

    def _note_ends(self, settlements: Sequence[Settlement], states: Sequence[State]) -> None:
        for one, to in zip(settlements, states, strict=True):
            if to is State.AWAITING_CHILDREN:
                self._containers.add(one.task.id)
            elif not MOVES[to]:
                self._ended.append(EndedTask(one.task.id, one.task.parent, to is State.FAILED))

    def _add_children(self, settlements: Sequence[Settlement]) -> None:
        rows = [
            self._task_row(child, one.task.id, None, State.PENDING)
            for one in settlements
            for child in one.children
        ]
        self.connection.insert(INSERT_TASK, TASK_KINDS, list(zip(*rows, strict=True)))

    def _move(self, settlements: Sequence[Settlement], states: Sequence[State]) -> None:
        completed: dict[int, list[int]] = {}  # by attempt
        others: dict[State, list[Any]] = {}
        for one, to in zip(settlements, states, strict=True):
            if to is State.COMPLETED and one.spec is None and not (one.children or one.failures):
                completed.setdefault(one.task.attempt, []).append(one.task.id)
            else:
                others.setdefault(to, []).append(self._values(one, to))
        dialect, moved = self.connection.dialect, 0
        for attempt, ids in completed.items():
            values = {"now": self.now, "ids": dialect.array(ids), "attempt": attempt}
            moved += self.connection.execute(dialect.sql(COMPLETE), values).rowcount
        for to, rows in others.items():
            moved += self.connection.executemany(SETTLE[to], rows).rowcount
        if moved < len(settlements):
            raise LeaseLost(
                f"this attempt of task {settlements[0].task.id} lost its lease",
                hint="nothing of it was stored",
            )

    def _values(self, one: Settlement, to: State) -> dict[str, object]:
        failed = to is State.AWAITING_CHILDREN and bool(one.failures)  # its own work counts as a child
        return {
            "id": one.task.id,
            "attempt": one.task.attempt,
            "spec": None if one.spec is None else json.dumps(one.spec.to_json()),
            "progress": bool(one.progress),
            "returned": int(one.returned),
            "wait": one.wait,
            "more": int(one.more),
            "children": len(one.children) + failed,
            "unfinished": len(one.children),
            "failed": int(failed),
            "error": _reason(one),
            "now": self.now,
        }

    def _record_failures(self, failures: Sequence[Failure]) -> None:
        if failures:
            failures = [
                one.replace(what=storable(one.what), message=storable(one.message), hint=storable(one.hint))
                for one in failures
            ]
            rows = [(*one._values()[:-2], json.dumps(one.input), self._version) for one in failures]
            self.connection.executemany(INSERT_FAILURE, rows)
            first = next((one for one in failures if one.code != BLOCKED), None)
            if first is not None:  # what is blocked follows from one that has failed
                words = {"what": first.what, "code": first.code, "message": first.message}
                self.record(LoggedKind.SYNC_FAILURES, {"number": len(failures), **words})

    def add_notes(self, notes: Sequence[str]) -> None:
        """Add sentences about the sync, each once."""
        if notes:
            row = self.connection.execute("SELECT notes FROM _max_sync WHERE id = ?", (self.sync,)).fetchone()
            text = json.dumps(list(dict.fromkeys([*json.loads(row[0]), *notes])))
            self.connection.execute("UPDATE _max_sync SET notes = ? WHERE id = ?", (text, self.sync))

    def add_counts(self, requests: Mapping[str, int]) -> None:
        """Add what was stored and requested to the sync's counts."""
        if not self._stored and not requests:
            return
        total = _sum(self._stored)
        sql = "SELECT counts, requests FROM _max_sync WHERE id = ?"
        counts, calls = map(json.loads, self.connection.execute(sql, (self.sync,)).fetchone())
        rows, calls = Counter(counts) + Counter(total.counts), Counter(calls) + Counter(requests)
        deliveries = sum(bool(one.counts or one.removed or one.uncounted) for one in self._stored)
        numbers = (total.removed, total.quarantined, deliveries)
        self.connection.execute(ADD_COUNTS, (json.dumps(rows), json.dumps(calls), *numbers, self.sync))

    # -- 2. follow up ---------------------------------------------------------------------

    def follow_up(self) -> None:
        """Follow up what has ended: dependents, parents, the sync itself, until nothing moves."""
        while self._ended or self._containers:
            ended, self._ended = self._ended, []
            self._start_dependents(ended)
            self._count_down(ended)
            if any(one.parent is None for one in ended):
                self.has_ended = True
                finish_sync(self.connection, self.sync, self._final_status(), now=self.now)
            self._end_containers()

    def _start_dependents(self, ended: Sequence[EndedTask]) -> None:
        failed = {one.id: one.failed for one in ended}
        for id, after, kind in self._select(DEPENDENTS, list(failed)):
            task, _ = self._read_task(id)
            if failed[after] and kind != RemoveTask.kind and getattr(task.spec, "needs", None) is None:
                before, blocked_by = self._read_task(after)
                self._block(id, blocked_by or before.spec.describe())
            else:
                self._start_task(id)

    def _missing_need(self, needs: Sequence[str]) -> str:
        """What blocked the last of the steps that a task needs, when all have failed; else nothing."""
        sql = f"SELECT {TASK_COLUMNS}, blocked_by, state FROM _max_task WHERE {OF_STEPS} ORDER BY id"
        causes = []
        for *row, blocked_by, state in self.connection.execute(sql, {"sync": self.sync}).fetchall():
            described = task_of(row).spec.describe()
            if described in needs:
                if state != State.FAILED:
                    return ""
                causes.append(blocked_by or described)
        return causes[0] if causes else ""

    def _select(self, template: str, ids: Sequence[int]) -> list[Any]:
        dialect = self.connection.dialect
        return self.connection.execute(dialect.sql(template), {"ids": dialect.array(ids)}).fetchall()

    def _read_task(self, id: int) -> tuple[Task, str | None]:
        """A task, and what blocked it."""
        sql = f"SELECT {TASK_COLUMNS}, blocked_by FROM _max_task WHERE id = ?"
        *row, blocked_by = self.connection.execute(sql, (id,)).fetchone()
        return task_of(row), blocked_by

    def _block(self, id: int, cause: str) -> None:
        """Fail a task that waited for a failed one, and its children.

        It records the first cause, so that tasks that wait for it can name that.
        """
        task, _ = self._read_task(id)
        for child in self._new_children(id):
            self._block(child, cause)
        if not isinstance(task.spec, GroupTask):
            error = SyncError(f"blocked by step {cause}", hint="retry that first")
            self._record_failures([failure_of(task, error, self.now, code=BLOCKED)])
        self.connection.execute(move_to(State.FAILED, ", blocked_by = ?"), (self.now, cause, id))
        self._ended.append(EndedTask(id, task.parent, failed=True))

    def _count_down(self, ended: Sequence[EndedTask]) -> None:
        done = Counter(one.parent for one in ended if one.parent is not None)
        failed = Counter(one.parent for one in ended if one.failed)
        rows = [(number, failed[parent], parent) for parent, number in done.items()]
        self.connection.executemany(COUNT_DOWN, rows)
        self._containers |= done.keys()

    def _end_containers(self) -> None:
        ids, self._containers = sorted(self._containers), set()
        for id, parent, kind, left, more, all_failed in self._select(CONTAINERS, ids):
            # a RemoveTask goes on when all its checks are done, an ExpandTask as soon as there is room
            room = 0 if kind == RemoveTask.kind else CHILDREN_BOUND - CHILDREN_PAGE
            if more and left <= room:
                self.connection.execute(move_to(State.PENDING), (self.now, id))
            elif not more and left == 0:
                to = State.FAILED if all_failed else State.COMPLETED
                self.connection.execute(move_to(to), (self.now, id))
                self._ended.append(EndedTask(id, parent, bool(all_failed)))

    def _final_status(self) -> Status:
        """What stored nothing has failed, unless all that it refused is to remove rows."""
        sql = """
            SELECT deliveries, quarantined, count(f.task), count(CASE WHEN f.code <> ? THEN 1 END)
              FROM _max_sync AS s LEFT JOIN _max_failure AS f ON f.sync = s.id
             WHERE s.id = ? GROUP BY s.id
        """
        values = (SuspiciousRemoval.code, self.sync)
        stored, quarantined, failed, others = self.connection.execute(sql, values).fetchone()
        if not failed:
            return Status.PARTIAL if quarantined else Status.COMPLETED
        return Status.PARTIAL if stored or not others else Status.FAILED

    # -- 3. claim -------------------------------------------------------------------------

    def claim(
        self, limit: int, *, alone: bool
    ) -> tuple[list[Task], Status, SyncCommand, float | None, int, str]:
        """Lease the oldest tasks whose time has come; when there are none, say when the next is due."""
        claimed = self._claim(limit, 0, SUSPECT_CRASHES - 1)
        if alone and limit and not claimed:
            claimed = self._claim(1, SUSPECT_CRASHES, MAX_CRASHES)
        due = reason = None
        waiting = 0
        if not claimed:
            most = {"sync": self.sync, "most": MAX_CRASHES if alone else SUSPECT_CRASHES - 1}
            due, waiting, reason = self._due(most)
            if due is not None and due > self.now and self._shorten_waits():
                due, waiting, reason = self._due(most)
        return claimed, Status.RUNNING, SyncCommand.RUN, due, waiting, reason or ""

    def record_wait(self, due: float | None, waiting: int, reason: str) -> None:
        """Record that nothing can run until a time, if that is long."""
        if due is not None and due - self.now > SHORT_WAIT:
            self.record(LoggedKind.SYNC_WAITING, {"until": due, "tasks": waiting, "reason": reason})

    def _due(self, most: dict[str, Any]) -> tuple[float | None, int, str | None]:
        """When the next task may begin, how many wait, and why."""
        due, waiting, reason = self.connection.execute(DUE, most).fetchone()
        with decoding("task"):
            return None if due is None else float(due), waiting, reason

    def _shorten_waits(self) -> bool:
        """Count waits again from now that a clock stored which was ahead, or that are absurd."""
        return self.connection.execute(SHORTEN_WAITS, {"sync": self.sync, "now": self.now}).rowcount > 0

    def _claim(self, limit: int, least: int, most: int) -> list[Task]:
        values = {"sync": self.sync, "now": self.now, "limit": limit, "least": least, "most": most}
        rows = self.connection.execute(CLAIM, values).fetchall()
        with decoding("task"):
            return sorted(map(task_of, rows))


def task_of(row: Sequence[Any]) -> Task:
    """A task from its TASK_COLUMNS."""
    id, sync, parent, kind, spec, attempt, tries, crashes = row
    return Task(id, sync, parent, read_spec(kind, json.loads(spec)), attempt, tries, crashes)


def _reason(one: Settlement) -> str | None:
    """Which try a task waits for, and why; or why it failed."""
    if one.error is None:
        return storable(one.failures[0].message) if one.failures else None
    tries = f"try {one.error['try']} of {one.error['of']}: " if "try" in one.error else ""
    return storable(f"{tries}{one.error['message']}")


def _own_error(task: Task, error: Exception) -> SyncError:
    """The database refused one settlement and is otherwise well: the task's failure."""
    own = SyncError(f"task {task.id}: {error}", hint="nothing of this response was stored")
    own.__cause__ = error
    return own


def _state_after(one: Settlement, command: SyncCommand) -> State:
    """The state that a settlement leads to.

    A task with more pages pauses when the sync shall pause or be cancelled; cancelling follows
    when no task runs.  An expansion that failed still waits for the children that it has created.
    """
    if one.state is State.RUNNING and command is not SyncCommand.RUN:
        return State.PAUSED
    if one.state is State.FAILED and isinstance(one.task.spec, ExpandTask):
        return State.AWAITING_CHILDREN
    return one.state


def _sum(stored: Sequence[WriteResult]) -> WriteResult:
    if len(stored) == 1:
        return stored[0]
    counts: Counter[str] = Counter()
    removed = quarantined = 0
    for one in stored:
        counts.update(one.counts)
        removed, quarantined = removed + one.removed, quarantined + one.quarantined
    return WriteResult(dict(counts), removed, quarantined)
