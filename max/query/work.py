"""What an installation wants now, for a worker that has its lease."""

from __future__ import annotations

from typing import NamedTuple

from ..core import InstallationInfo
from ..model.hooks import HOOK
from ..model.schedules import ScheduleStatus, Turn
from ..model.tasks import Status, SyncRun
from ..storage import schedules
from ..storage.database import Database, reading
from ..storage.sync_log import goes_on, is_ending, unfinished_runs

WAITS = 30.0  # seconds until a slot is looked at again that waits for a sync


class NextWork(NamedTuple):
    """What is to be done: a schedule whose slot is due, or a sync that goes on.

    ``next_at``: when to look again where there is neither, in seconds since the epoch; None: when asked.
    """

    due: ScheduleStatus | None = None
    goes_on: SyncRun | None = None
    next_at: float | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do now."""
        return self.due is None and self.goes_on is None

    @property
    def is_of_hooks(self) -> bool:
        """Whether the sync that goes on fetches what hooks said."""
        return self.goes_on is not None and self.goes_on.schedule == HOOK


def next_work(database: Database, info: InstallationInfo, *, now: float) -> NextWork:
    """What an installation wants; a sync that seems to run has lost its process, as its lease is here."""
    if not database.is_there():
        return NextWork()
    with reading(database) as connection:
        found = schedules.statuses(connection, info, now=now)
        stopped = [
            one
            for one in unfinished_runs(connection, now=now)
            if one.status is Status.RUNNING or (goes_on(connection, one) and not is_ending(connection, one))
        ]
    due = [one for one in found if one.outlook.turn in (Turn.FIRE, Turn.SKIP)]
    times = [one.outlook.at for one in found if one.outlook.turn is Turn.LATER and one.outlook.at is not None]
    times += [now + WAITS for one in found if one.outlook.turn is Turn.WAIT]
    oldest = min(due, key=lambda one: one.outlook.at or 0.0, default=None)
    return NextWork(oldest, stopped[0] if stopped else None, min(times, default=None))
