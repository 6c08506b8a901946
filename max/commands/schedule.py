"""schedule: when installations are synced by themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UsageError
from ..model.schedules import USUAL
from .console import console
from .framework import NOTHING_CONNECTED, Answer, Options, only_target, table
from .parser import Parser
from .schedule_view import SCHEDULE, daemon_note, schedule_json, state_words, timing_words
from .status import of_each
from .tables import Column

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.schedules import ScheduleStatus
    from ..projects.manager import ProjectManager

T = TypeVar("T")
ZONES = "zoneinfo/"  # what the name of a time zone follows in the path of its file
CHANGES = ("every", "cron", "on", "off", "remove")
WHEN = ("tz", "jitter", "full", "only", "if_stale", "check_deletes")  # belong to --every and --cron


def configure_schedule(parser: Parser) -> None:
    """``max schedule [INSTALLATION]``."""
    parser.answers_rows = True
    parser.add_target(optional=True)
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--every", metavar="INTERVAL", help="sync again and again: 15m, 2h, 1d")
    change.add_argument(
        "--cron", metavar="TEXT", help="sync at these times: minute, hour, day, month, day of the week"
    )
    change.add_argument("--off", action="store_true", help="begin no more syncs, until it is on again")
    change.add_argument("--on", action="store_true", help="follow the schedule again")
    change.add_argument("--remove", action="store_true", help="delete the schedule")
    parser.add_argument("--name", help=f"of several schedules, which one (default: {USUAL}, or all)")
    parser.add_argument("--tz", metavar="ZONE", help="the time zone of --cron (default: this machine's)")
    parser.add_argument(
        "--jitter", metavar="TIME", help="begin up to so much later (default: a minute at most)"
    )
    parser.add_argument("--full", action="store_true", help="fetch everything again, whatever its age")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ENTITY[.FIELD],…", help="fetch nothing but these"
    )
    parser.add_argument("--if-stale", metavar="AGE", help="fetch nothing that is younger: 5m, 2h, 1d")
    parser.add_argument(
        "--check-deletes", action="store_true", help="list everything that exists, to find deleted rows"
    )
    parser.add_examples(
        "max schedule acme:default --every 15m",
        "max schedule acme:default --name nightly --cron '0 2 * * *' --tz Europe/Berlin --full",
        "max schedule",
        "max schedule acme:default --off --name nightly",
        "max schedule acme:default --remove",
        "",
        "Schedules are followed while the project's daemon runs: max daemon start",
    )


def run_schedule(options: Options) -> Answer:
    """List the schedules, or change those of an installation."""
    project = options.found_project()
    refuse_left_over(options)
    if not any(getattr(options, name) for name in CHANGES):
        return listed(options, project)
    info = only_target(project, options.target)
    if options.every is not None or options.cron is not None:
        return answered(options, project, [scheduled(options, project, info)])
    names = [options.name] if options.name is not None else []
    from ..project import Project

    if options.remove:
        removed = run(Project(project).unschedule(info, *names))
        data = {"installation": str(info), "removed": removed}
        return options.answer(data, lambda: [f"{info}: removed {', '.join(removed)}"])
    return answered(options, project, run(Project(project).switch_schedules(info, *names, on=options.on)))


def refuse_left_over(options: Options) -> None:
    """UsageError for options that would have no effect."""
    if options.every is not None and options.tz is not None:
        raise UsageError("--tz goes with --cron: an interval is the same in every zone", hint="leave it out")
    if options.every is not None or options.cron is not None:
        return
    given = [name for name in WHEN if getattr(options, name) not in (None, False, [])]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} goes with --every or --cron", hint="max schedule --help"
        )
    changes = any(getattr(options, name) for name in CHANGES)
    if options.name is not None and not changes:
        raise UsageError("--name goes with a change: --every, --cron, --on, --off or --remove")


def scheduled(options: Options, project: ProjectManager, info: InstallationInfo) -> ScheduleStatus:
    """The schedule that the options describe, stored."""
    from ..core import SyncOptions
    from ..model.schedules import seconds_of
    from ..project import Project

    what = SyncOptions(
        full=options.full,
        only=tuple(word.strip() for words in options.only for word in words.split(",")),
        if_stale=seconds_of(options.if_stale, "age"),
        check_deletes=options.check_deletes,
    )
    return run(
        Project(project).schedule(
            info,
            USUAL if options.name is None else options.name,
            every=options.every,
            cron=options.cron,
            zone=options.tz or local_zone(),
            jitter=without_unit(options.jitter),
            options=what,
        )
    )


def without_unit(text: str | None) -> float | str | None:
    """``0`` alone needs no unit."""
    return 0.0 if text == "0" else text


def local_zone() -> str:
    """The name of the caller's time zone; UTC where the machine does not say it."""
    from ..model.cron import find_zone

    named = console().environment.get("TZ", "").removeprefix(":")
    try:
        path = os.fspath(Path("/etc/localtime").resolve())
    except OSError:
        path = ""
    for name in (named, path.partition(ZONES)[2]):
        try:
            return find_zone(name).key if name else "UTC"
        except UsageError:
            continue
    return "UTC"


def listed(options: Options, project: ProjectManager) -> Answer:
    """The schedules of all installations, or of one."""
    from ..query.schedules import statuses

    now = time.time()
    each, problems = of_each(
        project, options.target, lambda info: statuses(project.database(info), info, now=now)
    )
    found = [one for some in each for one in some]
    if not found and not problems:
        hint = "no schedule; make one: max schedule INSTALLATION --every 15m"
        problems = [hint if project.installations() else NOTHING_CONNECTED]
        return options.listing([], list, problems, columns=SCHEDULE)
    status = 0 if not problems or found else 1
    return answered(options, project, found, problems, status=3 if problems and found else status)


def answered(
    options: Options,
    project: ProjectManager,
    found: list[ScheduleStatus],
    notes: list[str] | None = None,
    *,
    status: int = 0,
) -> Answer:
    """Schedules as rows, and what is to be done so that they are followed."""
    now = time.time()
    idle = daemon_note(project) if any(one.schedule.on for one in found) else ""
    notes = [*(notes or []), *([idle] if idle else [])]

    def text() -> Iterator[str]:
        columns = [Column("installation", whole=True), Column("schedule", whole=True)]
        columns += [Column("when", whole=True), Column("state")]
        rows = [
            [str(one.installation), one.schedule.name, timing_words(one), state_words(one, now)]
            for one in found
        ]
        yield from table(columns, rows)

    rows = [schedule_json(one) for one in found]
    return options.listing(rows, text, notes, columns=SCHEDULE, status=status)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what an event loop needs."""
    import asyncio

    return asyncio.run(work)
