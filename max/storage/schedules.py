"""Schedules as they are stored, in the database of their installation.

**The claim.**  Who wants to begin the sync of a slot stores the slot's name first.  That is one
transaction, which looks at everything again: of any number of processes one gets the slot, and the others
find it handled.  The claim has the name of its worker until the slot's sync has ended.  A slot whose worker
is gone, and whose sync never began, is lost: the next that looks claims it again.  A sync that had begun is
interrupted then, and goes on.

**Trouble** is the one row that says that the installation fails.  A try claims it by moving the time of the
next one, as if it had failed already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import SyncError, UnknownName
from ..model.event_log import LoggedKind
from ..model.schedules import (
    MEMORY,
    Handled,
    Known,
    Outlook,
    Schedule,
    ScheduleStatus,
    Trouble,
    Turn,
    Unfinished,
    outlook,
    wait_after,
)
from ..model.settings import InstallationInfo
from ..model.struct import checked
from ..model.tasks import Status
from .catalogue import has_part, migrate
from .database import Connection, decoding
from .event_log import record_event
from .leases import is_gone
from .sync_log import finished_well, goes_on, has_begun, is_ending, options_of, unfinished_runs

OWNER = "schedules"  # of these tables, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_schedule (
        name    TEXT PRIMARY KEY,
        made_at INTEGER NOT NULL,
        rule    TEXT NOT NULL,
        options TEXT NOT NULL,
        enabled INTEGER NOT NULL
    ) {by_key};
    CREATE TABLE _max_schedule_slot (
        schedule TEXT NOT NULL,
        slot     INTEGER NOT NULL,
        at       REAL NOT NULL,
        skipped  TEXT NOT NULL,
        worker   TEXT,
        PRIMARY KEY (schedule, slot)
    ) {by_key};
    CREATE TABLE _max_schedule_trouble (
        id       INTEGER PRIMARY KEY CHECK (id = 1),
        failures INTEGER NOT NULL,
        since    REAL NOT NULL,
        at       REAL NOT NULL,
        reason   TEXT NOT NULL,
        schedule TEXT NOT NULL,
        next_try REAL NOT NULL
    )
    """,
)
RULE = ("every", "cron", "zone", "jitter")  # what of a schedule is its rule
PUT = """
    INSERT INTO _max_schedule (name, made_at, rule, options, enabled) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET made_at = excluded.made_at, rule = excluded.rule,
                                     options = excluded.options, enabled = excluded.enabled
"""
# What a clock has handled that was ahead is forgotten; of what is a day ago the newest is kept, since it may
# be the last slot that has come.
PRUNE = """
    DELETE FROM _max_schedule_slot
     WHERE schedule = :schedule
       AND (slot > :now + :memory
            OR slot < (SELECT max(slot) FROM _max_schedule_slot
                        WHERE schedule = :schedule AND slot <= :now - :memory))
"""
HANDLE = """
    INSERT INTO _max_schedule_slot (schedule, slot, at, skipped, worker) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (schedule, slot) DO UPDATE
       SET at = excluded.at, skipped = excluded.skipped, worker = excluded.worker
"""
SLOTS = "SELECT slot, at, skipped FROM _max_schedule_slot WHERE schedule = ?"
CLAIMED = "SELECT slot, at, worker FROM _max_schedule_slot WHERE schedule = ? AND worker IS NOT NULL"
END = "UPDATE _max_schedule_slot SET worker = NULL WHERE schedule = ? AND worker = ?"
GIVE_UP = "UPDATE _max_schedule_slot SET worker = '' WHERE schedule = ? AND worker = ?"
PUT_TROUBLE = """
    INSERT INTO _max_schedule_trouble VALUES (1, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET failures = excluded.failures, since = excluded.since, at = excluded.at,
        reason = excluded.reason, schedule = excluded.schedule, next_try = excluded.next_try
"""
TROUBLE = "SELECT failures, since, at, reason, schedule, next_try FROM _max_schedule_trouble"


# -- the schedules -----------------------------------------------------------------------------


def schedules(connection: Connection) -> list[Schedule]:
    """The schedules of the installation, by name."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return []
    rows = connection.execute(
        "SELECT name, made_at, rule, options, enabled FROM _max_schedule ORDER BY name"
    ).fetchall()
    with decoding("schedule"):
        return [
            checked(Schedule(name, made_at, options=json.loads(options), on=bool(on), **json.loads(rule)))
            for name, made_at, rule, options, on in rows
        ]


def find_schedule(connection: Connection, name: str) -> Schedule:
    """The schedule with a name; UnknownName."""
    known = {one.name: one for one in schedules(connection)}
    if name not in known:
        raise UnknownName("schedule", name, known)
    return known[name]


def put_schedule(connection: Connection, schedule: Schedule) -> Schedule:
    """Store a schedule, in place of one with its name; as it is stored.

    One that has the same slots keeps them, and what has been handled: storing it again changes nothing.
    """
    schedule.check()
    migrate(connection, OWNER, MIGRATIONS)
    before = next((one for one in schedules(connection) if one.name == schedule.name), None)
    same = (
        before is not None
        and before.on
        and [before.every, before.cron, before.zone]
        == [
            schedule.every,
            schedule.cron,
            schedule.zone,
        ]
    )
    if before is not None and same:
        schedule = schedule.replace(made_at=before.made_at)
    else:
        connection.execute("DELETE FROM _max_schedule_slot WHERE schedule = ?", (schedule.name,))
    rule = {name: getattr(schedule, name) for name in RULE}
    values = (schedule.name, schedule.made_at, json.dumps(rule), json.dumps(dict(schedule.options)))
    connection.execute(PUT, (*values, int(schedule.on)))
    return schedule


def switch_schedule(connection: Connection, name: str, *, on: bool, now: float) -> None:
    """Turn a schedule on or off; one that is turned on begins with the slots from now on.  UnknownName."""
    found = find_schedule(connection, name)
    if found.on != on:
        put_schedule(connection, found.replace(on=on, made_at=int(now)))


def remove_schedules(connection: Connection, names: Sequence[str]) -> None:
    """Delete schedules; UnknownName when one does not exist, and nothing is deleted."""
    for name in names:
        find_schedule(connection, name)
        for table, column in (("_max_schedule", "name"), ("_max_schedule_slot", "schedule")):
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (name,))
    if not schedules(connection) and has_part(connection, OWNER, MIGRATIONS):
        connection.execute("DELETE FROM _max_schedule_trouble")


# -- what is known ------------------------------------------------------------------------------


def statuses(connection: Connection, info: InstallationInfo, *, now: float) -> list[ScheduleStatus]:
    """Each schedule of the installation, and what comes next."""
    found = []
    for schedule in schedules(connection):
        known = _known(connection, schedule, now)
        newest = max(_slots(connection, schedule), key=lambda one: one.at, default=None)
        ahead = outlook(schedule, known, now, info.id)
        found.append(ScheduleStatus(info, schedule, ahead, known.trouble, newest))
    return found


def _known(connection: Connection, schedule: Schedule, now: float) -> Known:
    handled = {one.slot for one in _slots(connection, schedule)} - _lost(connection, schedule)
    return Known(frozenset(handled), _trouble(connection, now), _unfinished(connection, now))


def _lost(connection: Connection, schedule: Schedule) -> set[int]:
    """The slots that were claimed, and whose worker is gone without having begun a sync."""
    claims = connection.execute(CLAIMED, (schedule.name,)).fetchall()
    with decoding("schedule"):
        return {
            slot
            for slot, at, worker in claims
            if (not worker or is_gone(worker)) and not has_begun(connection, schedule.name, since=at)
        }


def _slots(connection: Connection, schedule: Schedule) -> list[Handled]:
    rows = connection.execute(SLOTS, (schedule.name,)).fetchall()
    with decoding("schedule"):
        return [checked(Handled(*row)) for row in rows]


def _trouble(connection: Connection, now: float) -> Trouble | None:
    """Why the installation fails, unless a sync did not fail since then."""
    row = connection.execute(TROUBLE).fetchone()
    if row is None:
        return None
    with decoding("schedule"):
        found = checked(Trouble(*row))
    if finished_well(connection, since=found.at):
        return None
    longest = now + wait_after(found.failures)  # a clock that was ahead puts the next try far away
    return found.replace(next_try=min(found.next_try, longest))


def _unfinished(connection: Connection, now: float) -> Unfinished | None:
    runs = [one for one in unfinished_runs(connection, now=now) if not is_ending(connection, one)]
    for run in runs[:1]:
        status = Status.INTERRUPTED if goes_on(connection, run) else run.status
        try:
            options = options_of(connection, run.id)
        except SyncError:  # of a newer Max: its options are not these
            options = None
        return Unfinished(run.id, str(status), options, run.schedule)
    return None


# -- what happens -------------------------------------------------------------------------------


def claim(connection: Connection, name: str, installation: str, *, worker: str, now: float) -> Outlook | None:
    """Handle the slot of a schedule that is due: FIRE when the caller is to begin its sync, or SKIP.

    None when there is nothing to do: another process was faster, or it has to wait.  ``installation`` is
    its id.
    """
    schedule = next((one for one in schedules(connection) if one.name == name), None)
    if schedule is None:
        return None
    known = _known(connection, schedule, now)
    found = outlook(schedule, known, now, installation)
    if found.turn not in (Turn.FIRE, Turn.SKIP):
        return None
    if known.trouble is None:
        connection.execute("DELETE FROM _max_schedule_trouble")
    elif now >= known.trouble.next_try:
        following = now + wait_after(known.trouble.failures + 1)
        connection.execute("UPDATE _max_schedule_trouble SET next_try = ?", (following,))
    fires = found.turn is Turn.FIRE
    connection.execute(HANDLE, (name, found.slot, now, found.reason, worker if fires else None))
    connection.execute(PRUNE, {"schedule": name, "now": now, "memory": MEMORY})
    kind = LoggedKind.SCHEDULE_FIRED if fires else LoggedKind.SCHEDULE_SKIPPED
    more = {"reason": found.reason, "resumes": found.resumes}
    facts = {"schedule": name, "slot": found.slot, **{key: text for key, text in more.items() if text}}
    record_event(connection, kind, facts, now=now)
    return found


def finish(connection: Connection, name: str, problem: str | None, *, worker: str, now: float) -> None:
    """Record how the sync of a worker's slot ended.

    ``problem`` says why it failed, and is empty when it did not; None: that says nothing of the installation.
    """
    connection.execute(END, (name, worker))
    if problem is None:
        return
    if not problem:
        connection.execute("DELETE FROM _max_schedule_trouble")
        return
    before = _trouble(connection, now)
    failures, since = (1, now) if before is None else (before.failures + 1, before.since)
    values = (failures, since, now, problem, name, now + wait_after(failures))
    connection.execute(PUT_TROUBLE, values)


def give_up(connection: Connection, name: str, *, worker: str) -> None:
    """Leave a worker's slot to others: its sync has not begun, or goes on without this worker."""
    connection.execute(GIVE_UP, (name, worker))


def give_up_all(connection: Connection) -> None:
    """Leave every claimed slot to others: the process that claimed it has lost the installation's lease."""
    if has_part(connection, OWNER, MIGRATIONS):
        connection.execute("UPDATE _max_schedule_slot SET worker = '' WHERE worker IS NOT NULL")
