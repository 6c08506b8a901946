"""Installations and syncs as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os.path import relpath
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ..core import InstallationInfo
from ..model.values import Json
from .tables import Column, Table
from .text import (
    NULL,
    PLAIN,
    Paint,
    ago,
    cell,
    clock_time,
    counted,
    duration,
    file_size,
    first_few,
    iso_time,
    number,
    pad,
    sanitize,
    short_age,
    truncate,
    until,
    wrapped,
)

if TYPE_CHECKING:
    from ..model.health import InstallationHealth
    from ..model.schedules import ScheduleStatus
    from ..model.tasks import Failure, SyncResult, SyncRun
    from ..projects.manager import InstallationWork
    from ..query.reader import SyncState
    from .move_view import Moving


# The names in the JSON of an installation, of its status and of a sync.
CONTENTS = ("complete", "syncedAt", "rows", "bytes", "database")
INSTALLATION = (
    *("installation", "connector", "name", "id", "config", "connectedAt", "status", *CONTENTS),
    "moving",
)
INSTALLATION_STATUS = (
    "installation",
    "id",
    "lastSync",
    "unfinished",
    "waiting",
    "work",
    "schedules",
    "health",
    "moving",
    *CONTENTS,
)
RUN = (
    "id",
    "status",
    "startedAt",
    "finishedAt",
    "resumed",
    "counts",
    "removed",
    "quarantined",
    "requests",
    "failed",
    "notes",
    "schedule",
)
INDENT = 14  # cells before what a line of a status says
OLD = 86_400.0  # seconds: older data is said to be old
HEALTH = ("health", "reason", "since")  # of max status
BECAME = {"created": "new", "updated": "changed", "removed": "removed", "restored": "back"}  # of rows
SHOWN_FAILURES = 10  # failures that a summary lists; `max runs show` lists all of them


def installation_json(info: InstallationInfo) -> dict[str, Json]:
    """An installation as JSON data; its configuration holds no secret."""
    return {
        "installation": str(info),
        "connector": info.connector,
        "name": info.name,
        "id": info.id,
        "config": dict(info.config),
        "connectedAt": iso_time(info.connected_at),
    }


def installation_row(status: InstallationStatus, now: float) -> list[str]:
    """A row of ``max ls``."""
    info = status.info
    settings = " ".join(f"{key}={cell(value)}" for key, value in info.config.items() if value)
    return [str(info), *status.brief(now), settings]


class InstallationStatus(NamedTuple):
    """An installation, its last sync (None: never synced, or not asked for) and its rows by entity.

    ``waiting``: until when all tasks of a running sync wait, and how many they are; ``reason``: why.
    ``state`` is None when there is no database at ``path`` yet, or it is ``damaged``; ``size`` is that of
    the database, in bytes.  ``idle`` says why its schedules are not followed.  ``health`` is None where
    it was not asked for, ``moving`` where it is not being moved.  ``work`` is what ``workers`` have to
    do for it; None where there can be none.
    """

    info: InstallationInfo
    last: SyncRun | None = None
    rows: Mapping[str, int] = MappingProxyType({})
    waiting: tuple[float, int] | None = None
    reason: str = ""
    state: SyncState | None = None
    path: str = ""
    size: int = 0
    damaged: bool = False
    schedules: Sequence[ScheduleStatus] = ()
    idle: str = ""
    health: InstallationHealth | None = None
    moving: Moving | None = None
    work: InstallationWork | None = None
    workers: int = 0

    def brief(self, now: float) -> list[str]:
        """Its status in a word, when it was last synced as a whole, its rows and the size of its file."""
        if self.state is None:
            return ["damaged" if self.damaged else "never synced", NULL, NULL, NULL]
        word = "being moved" if self.moving else self.state.status or "never synced"
        return [word, ago(self.state.synced_at, now), number(sum(self.rows.values())), file_size(self.size)]

    def listed(self) -> dict[str, Json]:
        """For ``max ls -o json``."""
        state = self.state
        return {
            **installation_json(self.info),
            "status": None if state is None else state.status,
            "complete": state is not None and state.complete,
            "syncedAt": None if state is None else iso_time(state.synced_at),
            "rows": None if state is None else sum(self.rows.values()),
            "bytes": None if state is None else self.size,
            "database": self.path,
            "moving": None if self.moving is None else self.moving.to_json(),
        }

    @property
    def unfinished(self) -> str | None:
        """The id of the last sync when it has not ended."""
        return self.last.id if self.last and not self.last.status.final else None

    def to_json(self) -> dict[str, Json]:
        """For ``max status -o json``."""
        last = None if self.last is None else run_json(self.last)
        known: dict[str, Json] = {"lastSync": last, "unfinished": self.unfinished, "rows": dict(self.rows)}
        if self.waiting is not None:
            due, tasks = self.waiting
            known["waiting"] = {"until": iso_time(due), "tasks": tasks, "reason": self.reason}
        if self.state is not None:
            known |= {"complete": self.state.complete, "syncedAt": iso_time(self.state.synced_at)}
        known |= {"database": self.path, "bytes": self.size} if self.path else {}
        if self.health is not None:
            from .health import health_json

            known["health"] = {n: v for n, v in health_json(self.health).items() if n in HEALTH}
        if self.moving is not None:
            known["moving"] = self.moving.to_json()
        if self.work is not None:
            known["work"] = {
                "asked": self.work.asked,
                "worker": self.work.worker,
                "problem": self.work.problem,
                "nextAt": iso_time(self.work.next_at),
            }
        if self.schedules:
            from .schedule_view import schedule_json

            known["schedules"] = [schedule_json(one) for one in self.schedules]
        return {"installation": str(self.info), "id": self.info.id, **known}


def status_text(
    status: InstallationStatus, now: float, paint: Paint = PLAIN, width: int | None = None
) -> list[str]:
    """One installation's status as text, with what to do when something is left to do."""
    info, last = status.info, status.last
    lines = [paint(str(info), "bold")]
    for place, words in enumerate(status.moving.lines(now) if status.moving else ()):
        lines.append(f"  {'moving' if place == 0 else '':<10}  {words}")
    if last is None and status.moving:
        return lines
    if last is None:
        begin = _work_lines(status, now) or [f"  never synced; start with: max sync {info}"]
        return [*lines, *begin, *_schedule_lines(status, now)]
    when = ago(last.finished_at or last.started_at, now)
    lines.append(f"  last sync   {paint.status(last.status)}, {when} ({last.id})")
    lines += [*_waiting_lines(status, now), *_work_lines(status, now), *_health_lines(status, now, paint)]
    if last.failed:
        lines.append(f"  failures    {number(last.failed)}; list them with: max runs show {last.id}")
    if status.unfinished and last.status != "running":
        lines.append(f"  unfinished  continue with: max resume {info}")
    lines += _schedule_lines(status, now)
    return [*lines, *_data_lines(status, width), *_next_lines(status, now, paint)]


def _waiting_lines(status: InstallationStatus, now: float) -> list[str]:
    """Until when nothing of its sync can run, and why."""
    if status.waiting is None:
        return []
    due, tasks = status.waiting
    lines = [f"  waiting     until {until(due, now)}, {counted(tasks, 'task')}"]
    return lines + ([f"              {sanitize(status.reason)}"] if status.reason else [])


def _health_lines(status: InstallationStatus, now: float, paint: Paint) -> list[str]:
    """What is wrong, where something is."""
    if status.health is None or status.health.health in ("healthy", "waiting"):
        return []
    from .health import health_words

    return [f"  health      {health_words(status.health, now, paint)}"]


def _work_lines(status: InstallationStatus, now: float) -> list[str]:
    """Which process syncs it, and why none does that should."""
    work = status.work
    if work is None:
        return []
    lines = [f"  worker      {sanitize(work.worker)}"] if work.worker else []
    if work.problem:
        lines.append(f"  problem     {sanitize(work.problem)}")
        again = f"tried again at {until(work.next_at, now)}" if work.next_at and not work.worker else ""
        lines.append(f"{'':{INDENT}}{again and f'{again}; '}at once with: max sync {status.info} --ask")
    elif work.asked:
        begins = "begins when a worker has room" if status.workers else "start a worker: max worker"
        lines.append(f"  asked       for a sync; {begins}")
    return lines


def _schedule_lines(status: InstallationStatus, now: float) -> list[str]:
    """When the next syncs begin by themselves, and why not."""
    if not status.schedules:
        return []
    from .schedule_view import status_words

    words = [status_words(one, now) for one in status.schedules] + ([status.idle] if status.idle else [])
    return [f"  {'schedule' if place == 0 else '':<10}  {one}" for place, one in enumerate(words)]


def _data_lines(status: InstallationStatus, width: int | None) -> list[str]:
    """The rows by entity, those with most first, and where they are."""
    most = sorted(status.rows.items(), key=lambda pair: -pair[1])
    parts = [f"{number(count)} {name}" for name, count in most if count]
    total = counted(sum(status.rows.values()), "row")
    first, *more = wrapped(parts, width and width - INDENT)
    lines = [f"  data        {total}{f': {first}' if len(parts) < 2 and first else ''}"]
    if len(parts) > 1:
        lines += [" " * INDENT + line for line in (first, *more)]
    if status.path:
        is_file = "://" not in status.path
        near = relpath(status.path) if is_file else ".."
        path = sanitize(status.path if near.startswith("..") else near)
        lines.append(f"  {'file' if is_file else 'database':<10}  {path} ({file_size(status.size)})")
    return lines


def _next_lines(status: InstallationStatus, now: float, paint: Paint) -> list[str]:
    """What is to be done about data that is not whole, or old; else how to look at it."""
    info, last, state = status.info, status.last, status.state
    if last is None or state is None or status.unfinished or last.failed or status.moving:
        return []
    if state.complete and now - (state.synced_at or now) < OLD:
        return [f"  next        max schema {info} --brief"]
    age = f": the data is {short_age(now - state.synced_at)} old" if state.synced_at else ""
    return [paint(f"  next        max sync {info}{age}", "yellow")]


def run_json(run: SyncRun) -> dict[str, Json]:
    """A sync as JSON data."""
    return {
        "id": run.id,
        "status": str(run.status),
        "startedAt": iso_time(run.started_at),
        "finishedAt": iso_time(run.finished_at),
        "resumed": run.resumed,
        "counts": dict(run.counts),
        "removed": run.removed,
        "quarantined": run.quarantined,
        "requests": dict(run.requests),
        "failed": run.failed,
        "notes": list(run.notes),
        "schedule": run.schedule,
    }


def failure_json(failure: Failure) -> dict[str, Json]:
    """A failure as JSON data: what failed, why, what to do, and in which attempt of which task."""
    names = ("what", "entity", "id", "code", "message", "hint", "sync", "task", "attempt", "version")
    return {name: getattr(failure, name) for name in names} | {"at": iso_time(failure.at)}


def result_json(info: InstallationInfo, result: SyncResult) -> dict[str, Json]:
    """A sync's result as JSON data, with each failure."""
    failures = [failure_json(one) for one in result.failures]
    data = {"installation": str(info), **run_json(result), "changed": result.changed}
    return {**data, "failures": failures}


def runs_table(
    found: Sequence[tuple[InstallationInfo, SyncRun]], now: float, width: int | None, paint: Paint = PLAIN
) -> list[str]:
    """Syncs, a line each."""
    columns = [Column("sync", whole=True), Column("status", whole=True)]
    columns += [Column("installation"), Column("started")]
    columns += [Column(name, right=True) for name in ("took", "stored", "requests", "failed")]
    counts = [(sum(run.counts.values()), sum(run.requests.values()), run.failed) for _, run in found]
    rows = [
        [run.id, str(run.status), str(info), ago(run.started_at, now), _took(run), *map(number, numbers)]
        for (info, run), numbers in zip(found, counts, strict=True)
    ]
    widest = max([len("status"), *(len(row[1]) for row in rows)])
    header, *lines = Table(columns, rows, width, paint).lines(rows)
    for i, row in enumerate(rows):
        lines[i] = lines[i].replace(pad(row[1], widest), paint.status(row[1], widest), 1)
    return [header, *lines]


def _took(run: SyncRun) -> str:
    return NULL if run.finished_at is None else duration(run.finished_at - run.started_at)


def summary(
    info: InstallationInfo,
    result: SyncResult,
    width: int | None,
    paint: Paint = PLAIN,
    *,
    all_failures: bool = False,
    since: float | None = None,
    only: Sequence[str] = (),
) -> list[str]:
    """A sync's result as text: its status, rows by entity, failures with what to do.

    ``since`` is when the completed sync before this one began, ``only`` all that it fetched.
    """
    name = paint(str(info), "bold")
    if is_up_to_date(result, since):
        lines = [f"{name}: {_up_to_date(result, since, only, width, paint)}"]
    else:
        lines = [f"{name}: {_ended(result, paint)}", *(f"  {line}" for line in _rows_text(result))]
        removed = counted(result.removed, "row") if result.removed and not result.changed else ""
        lines.append(paint(f"  {_requests(result)}{removed and f', {removed} removed'}", "dim"))
    lines += [f"  {paint('note', 'yellow')}  {sanitize(note)}" for note in result.notes]
    if result.quarantined:
        rows = counted(result.quarantined, "invalid row")
        were = "was" if result.quarantined == 1 else "were"
        lines.append(paint(f"  {rows} {were} quarantined: max quarantine {info}", "yellow"))
    return [*lines, *failures_text(result.failures, width, paint, everything=all_failures, of=result.id)]


def _up_to_date(
    result: SyncResult, since: float | None, only: Sequence[str], width: int | None, paint: Paint
) -> str:
    """How a sync ended that found nothing new."""
    fresh = paint(f"{sanitize(', '.join(only))} up to date".lstrip(), "green")
    what = "everything is fresh; nothing was fetched"
    if result.requests:
        since_then = "" if since is None else f" since {clock_time(since, width)}"
        what = f"nothing changed{since_then}; {_requests(result)}"
    took = _took_at_once(result)
    return f"{fresh} ({what}{took and f', {took}'})"


def _ended(result: SyncResult, paint: Paint) -> str:
    """How a sync ended that stored something, or should have."""
    took = _took_at_once(result)
    changes = f": {changed_rows(_all_changed(result))}" if result.changed else ""
    timing = f" in {took}" if took else ", resumed" if result.resumed else ""
    by = f", begun by the schedule {sanitize(result.schedule)}" if result.schedule else ""
    return f"{paint.status(result.status)}{timing}{changes} (sync {result.id}{by})"


def _took_at_once(result: SyncResult) -> str:
    """How long a sync took that was not interrupted; empty for another."""
    return "" if result.finished_at is None or result.resumed else _took(result)


def _requests(result: SyncResult) -> str:
    return counted(sum(result.requests.values()), "request")


def is_up_to_date(result: SyncResult, since: float | None) -> bool:
    """Whether a sync after another found that nothing had changed."""
    if result.status != "completed" or result.quarantined:
        return False
    if result.changed is not None:
        return not result.changed
    return not (result.counts or result.removed) and (since is not None or not result.requests)


def changed_rows(kinds: Mapping[str, int]) -> str:
    """``3 new, 5 changed, 1 removed``."""
    return ", ".join(f"{number(kinds[kind])} {word}" for kind, word in BECAME.items() if kinds.get(kind))


def _all_changed(result: SyncResult) -> dict[str, int]:
    changed = (result.changed or {}).values()
    return {kind: sum(kinds.get(kind, 0) for kinds in changed) for kind in BECAME}


def _rows_text(result: SyncResult) -> list[str]:
    """The rows of each entity: how many changed, where that is recorded, else how many were stored."""
    names = max(map(len, result.changed or result.counts), default=0)
    if result.changed:
        return [
            f"{pad(name, names)}  {changed_rows(kinds)}" for name, kinds in sorted(result.changed.items())
        ]
    if not result.counts:
        return [
            "nothing was stored" if result.status != "completed" else "no new or changed rows were listed"
        ]
    digits = max(len(number(count)) for count in result.counts.values())
    return [
        f"{pad(name, names)}  {pad(number(count), digits, right=True)}"
        for name, count in sorted(result.counts.items())
    ]


def failures_text(
    failures: Sequence[Failure], width: int | None, paint: Paint, *, everything: bool, of: str
) -> list[str]:
    """Failures with what to do; those with the same cause share one message.

    What did not run because something before it failed is no failure of its own: it comes last.
    """
    if not failures:
        return []
    from ..model.tasks import BLOCKED  # loaded already: there are failures

    blocked = [one for one in failures if one.code == BLOCKED]
    failures = [one for one in failures if one.code != BLOCKED]
    if blocked and not everything and len({(one.message, one.hint) for one in failures}) == 1:
        return _one_cause(failures, len(blocked), width, paint, of)
    shown = failures if everything else failures[:SHOWN_FAILURES]
    lines = [paint(f"{counted(len(failures), 'failure')}:", "red")]
    for alike in _by_cause(shown):
        lines += _cause_lines(alike, width, paint, everything=everything)
    left = len(failures) - len(shown)
    lines += [f"  … and {number(left)} more: max runs show {of}"] if left else []
    return [*lines, *_blocked_lines(blocked, everything=everything)]


def _blocked_lines(blocked: Sequence[Failure], *, everything: bool) -> list[str]:
    """What did not run, on one line; nothing without any."""
    names = [sanitize(one.what) for one in blocked]
    listed = ", ".join(names) if everything else first_few(names)
    return [f"  {counted(len(names), 'step')} did not run because of this: {listed}"] if names else []


def _by_cause(failures: Iterable[Failure]) -> Iterable[list[Failure]]:
    """Those with the same message and hint together."""
    causes: dict[tuple[str, str], list[Failure]] = {}
    for one in failures:
        causes.setdefault((one.message, one.hint), []).append(one)
    return causes.values()


def _one_cause(
    failures: Sequence[Failure], blocked: int, width: int | None, paint: Paint, of: str
) -> list[str]:
    """One cause that stopped everything behind it, without its consequences."""
    one = failures[0]
    tries = f" ({one.attempt} tries)" if one.attempt > 1 else ""
    what = _fit(one.what, width, 2) if len(failures) == 1 else counted(len(failures), "step")
    lines = [paint(f"{sanitize(line)}", "red") for line in f"{one.message}{tries}".splitlines()]
    lines += [paint(sanitize(one.hint), "dim")] if one.hint else []
    lines += [f"{what} failed, {counted(blocked, 'step')} behind it not begun: max runs show {of}"]
    return [f"  {line}" for line in lines]


def _cause_lines(alike: Sequence[Failure], width: int | None, paint: Paint, *, everything: bool) -> list[str]:
    """What failed for the same reason, and that reason."""
    lines = []
    for one in alike:
        lines.append(f"  {_fit(one.what, width, 2)}")
        if everything:
            lines.append(f"    attempt {one.attempt}, {iso_time(one.at)}")
    lines += [f"    {sanitize(line)}" for line in alike[0].message.splitlines()]
    return lines + ([f"    {paint(sanitize(alike[0].hint), 'dim')}"] if alike[0].hint else [])


def _fit(text: str, width: int | None, indent: int) -> str:
    return sanitize(text) if width is None else truncate(sanitize(text), width - indent)
