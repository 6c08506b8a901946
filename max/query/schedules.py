"""The schedules of an installation, for code without an event loop: each call is one transaction.

An installation that was never synced has no database yet.  Its schedule makes the file, which then holds
schedules and no data.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from ..core import InstallationInfo
from ..errors import SyncError, UsageError
from ..model.schedules import Outlook, Schedule, ScheduleStatus, Turn
from ..model.tasks import Status, SyncCommand, SyncRun
from ..model.values import Json
from ..storage import schedules as stored
from ..storage.database import Database, reading
from ..storage.sync_log import options_of, unfinished_runs
from .maintenance import request
from .reader import own_reader, own_writer

LOOK = 0.1  # seconds between two looks at a sync of another process that is to stop


def statuses(database: Database, info: InstallationInfo, *, now: float) -> list[ScheduleStatus]:
    """Each schedule of an installation, and what comes next; empty when there is none."""
    if not database.is_there():
        return []
    with own_reader(database, info) as connection:
        return stored.statuses(connection, info, now=now)


def put(database: Database, info: InstallationInfo, schedule: Schedule, *, now: float) -> ScheduleStatus:
    """Store a schedule, in place of one with its name; InvalidSchedule when it cannot be followed."""
    schedule.check()
    with own_writer(database, info) as connection:
        stored.put_schedule(connection, schedule)
        return _named(stored.statuses(connection, info, now=now), (schedule.name,))[0]


def switch(
    database: Database, info: InstallationInfo, names: Sequence[str], *, on: bool, now: float
) -> list[ScheduleStatus]:
    """Turn schedules on or off, all of them without names; UnknownName, and nothing is changed then."""
    if not database.is_there():
        raise no_schedule(info)
    with own_writer(database, info) as connection:
        chosen = _chosen(stored.schedules(connection), info, names)
        for name in chosen:
            stored.switch_schedule(connection, name, on=on, now=now)
        return _named(stored.statuses(connection, info, now=now), chosen)


def remove(database: Database, info: InstallationInfo, names: Sequence[str]) -> list[str]:
    """Delete schedules, all of the installation without names; their names.  UnknownName, as ``switch``."""
    if not database.is_there():
        raise no_schedule(info)
    with own_writer(database, info) as connection:
        chosen = _chosen(stored.schedules(connection), info, names)
        stored.remove_schedules(connection, chosen)
        return chosen


def claim(
    database: Database, info: InstallationInfo, name: str, *, worker: str, now: float
) -> Outlook | None:
    """Handle the slot of a schedule that is due: what the caller is to do about it, if anything."""
    with database.writer() as connection:
        return stored.claim(connection, name, info.id, worker=worker, now=now)


def finish(database: Database, name: str, problem: str | None, *, worker: str, now: float) -> None:
    """Record how the sync of a schedule ended: why it failed, empty when it did not, None: not known."""
    with database.writer() as connection:
        stored.finish(connection, name, problem, worker=worker, now=now)


def give_up(database: Database, name: str, *, worker: str) -> None:
    """Leave a claimed slot to other processes."""
    with database.writer() as connection:
        stored.give_up(connection, name, worker=worker)


def running_sync(
    database: Database, options: Mapping[str, Json] | None, *, now: float
) -> tuple[SyncRun, bool] | None:
    """The scheduled sync that is running, and whether it fetches what these options say; None without one."""
    if not database.is_there():
        return None
    with reading(database) as connection:
        for run in unfinished_runs(connection, now=now):
            if run.status is Status.RUNNING and run.schedule:
                return run, options is not None and options_of(connection, run.id) == dict(options)
    return None


def stop_running(database: Database, info: InstallationInfo, run: SyncRun) -> None:
    """Cancel a scheduled sync, in any process, and wait until it has stopped; what it stored stays."""
    with suppress(SyncError):  # it has just ended
        request(database, info, SyncCommand.CANCEL, now=time.time())
    while (found := running_sync(database, None, now=time.time())) is not None and found[0].id == run.id:
        time.sleep(LOOK)


def no_schedule(info: InstallationInfo) -> UsageError:
    """The error that an installation has no schedule."""
    return UsageError(f"{info} has no schedule", hint=f"make one: max schedule {info} --every 15m")


def next_due(found: Collection[ScheduleStatus]) -> float | None:
    """When the next sync of some schedules begins, in seconds since the epoch; None: never."""
    times = [
        one.outlook.at for one in found if one.outlook.at is not None and one.outlook.turn is not Turn.OFF
    ]
    return min(times, default=None)


def _chosen(known: Sequence[Schedule], info: InstallationInfo, names: Sequence[str]) -> list[str]:
    if not known:
        raise no_schedule(info)
    return [*names] or [one.name for one in known]


def _named(found: Sequence[ScheduleStatus], names: Collection[str]) -> list[ScheduleStatus]:
    return [one for one in found if one.schedule.name in names]
