"""Schedules as text and as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ..model.schedules import USUAL, Turn
from ..model.values import Json
from .terminal import print_note
from .text import iso_time, sanitize, until

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.schedules import ScheduleStatus
    from ..model.tasks import SyncRun
    from ..projects.manager import ProjectManager
    from .framework import Options

T = TypeVar("T")

SCHEDULE = (  # the names in the JSON of a schedule
    "installation",
    "name",
    "on",
    "every",
    "cron",
    "zone",
    "jitter",
    "options",
    "state",
    "next",
    "reason",
    "failures",
    "failsSince",
    "lastSlot",
    "lastAt",
    "lastSkipped",
)


def schedule_json(status: ScheduleStatus) -> dict[str, Json]:
    """A schedule as JSON data: when it is, when its next sync is due, and what became of its newest slot."""
    schedule, ahead, trouble, last = status.schedule, status.outlook, status.trouble, status.last
    return {
        "installation": str(status.installation),
        "name": schedule.name,
        "on": schedule.on,
        "every": schedule.every,
        "cron": schedule.cron,
        "zone": None if schedule.cron is None else schedule.zone,
        "jitter": schedule.jitter,
        "options": dict(schedule.options),
        "state": str(ahead.turn),
        "next": iso_time(ahead.at),
        "reason": ahead.reason or None,
        "failures": 0 if trouble is None else trouble.failures,
        "failsSince": None if trouble is None else iso_time(trouble.since),
        "lastSlot": None if last is None else iso_time(last.slot),
        "lastAt": None if last is None else iso_time(last.at),
        "lastSkipped": None if last is None else last.skipped or None,
    }


def timing_words(status: ScheduleStatus) -> str:
    """When a schedule is and with which options, such as ``every 15m`` or ``0 2 * * * UTC --full``."""
    return " ".join([status.schedule.timing, *option_words(status.schedule.options)])


def option_words(options: Mapping[str, Json]) -> list[str]:
    """The options of a sync as they are typed."""
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, list | tuple):
            words.append(f"{option} {','.join(map(str, value))}")
        elif value:
            words.append(f"{option} {value:g}s" if isinstance(value, int | float) else f"{option} {value}")
    return words


def state_words(status: ScheduleStatus, now: float) -> str:
    """When the next sync is due, or why there is none."""
    ahead, trouble = status.outlook, status.trouble
    if ahead.turn is Turn.OFF:
        return "off" if not status.schedule.on else sanitize(ahead.reason)
    if ahead.turn is Turn.FIRE:
        return "due"
    if ahead.turn is Turn.WAIT:
        return f"due, waits: {sanitize(ahead.reason)}"
    if ahead.turn is Turn.SKIP:
        return f"due, left out: {sanitize(ahead.reason)}"
    when = "never" if ahead.at is None else f"at {until(ahead.at, now)}"
    if trouble is None:
        return f"next {when}"
    times = "once" if trouble.failures == 1 else f"{trouble.failures} times in a row"
    return f"next try {when}; failed {times}: {sanitize(trouble.reason)}"


def status_words(status: ScheduleStatus, now: float) -> str:
    """What ``max status`` says of a schedule."""
    name = "" if status.schedule.name == USUAL else f"{status.schedule.name}, "
    return f"{sanitize(name + timing_words(status))}: {state_words(status, now)}"


def before_schedule(
    options: Options, project: ProjectManager, info: InstallationInfo, work: Callable[[], T]
) -> T:
    """Do what no sync may disturb: a scheduled one has to stop for it, which is said on stderr."""
    from ..errors import SyncRunning
    from ..query.schedules import running_sync, stop_running

    try:
        return work()
    except SyncRunning:
        found = running_sync(project.database(info), None, now=time.time())
        if found is None:
            raise
    if not options.quiet:
        print_note(waiting_words(info, found[0], "stop"))
    stop_running(project.writable_database(info), info, found[0])
    return work()


def waiting_words(info: InstallationInfo, run: SyncRun, what: str) -> str:
    """For what a command waits: ``what`` is stop or end."""
    return f"waiting for the scheduled sync {run.id} of {info} to {what}"


def daemon_note(project: ProjectManager) -> str:
    """What is to be done so that schedules are followed; empty while a daemon or a worker does."""
    from ..projects.manager import folder_of
    from ..serve.daemon_folder import DaemonFolder

    if project.workers():
        return ""
    if project.root is None:  # a database without a folder, where no daemon can run
        return "no worker is there, which follows schedules; start one: max worker"
    folder = DaemonFolder.if_any(folder_of(project))
    if folder is not None and folder.is_running():
        return ""
    return "no daemon runs, which follows schedules; start one: max daemon start"
