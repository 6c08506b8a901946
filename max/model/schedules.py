"""Schedules: when installations are synced by themselves.

**Slots.**  A schedule is a row of moments, its slots: every fifteen minutes from when it was made, or those
of a cron text.  A slot is named by its moment, so every process knows the same slots.  It is handled once:
the process that handles it stores its name in the transaction in which it begins.

**What is due** is the newest slot that has come, unless it has been handled.  Older ones never are: those
that were missed collapse into one.  For example, every hour from 09:00, and the machine sleeps from 09:30
to 12:20:

    09:00   fired
    10:00   never looked at
    11:00   never looked at
    12:00   fired, at 12:20

**Clocks.**  Slots are moments of the wall clock, and what has been handled is kept for a day.  When a clock
is set back by an hour, the slots of that hour are known and do not fire again.  What a clock has handled that
was ahead by more than a day is forgotten, else a schedule could stop for a year.

**Failing.**  After a sync that failed an installation is tried again, by the schedule that failed, after a
minute, two, four … six hours at most.  Meanwhile the slots of all its schedules are skipped.  A sync that
does not fail ends this, no matter who began it.

``outlook`` is the whole rule: what fires, what is shown by ``max status``, and why, come from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType

from ..errors import InvalidSchedule
from .cron import find_zone, newest_moment, next_moment, parse_cron
from .periods import UNITS, parse_duration
from .settings import InstallationInfo
from .struct import Struct
from .values import Json

USUAL = "default"  # the name of a schedule whose maker names none
LEAST = 60.0  # seconds between two slots
MOST = 366 * 86_400.0
MEMORY = 86_400  # seconds for which slots are known that were handled
JITTER = 60.0  # seconds, at most, by which a sync begins later than its slot, when its maker says nothing
SHARE = 10  # the part of the time to the next slot which that is at most: a tenth
FIRST_WAIT, LONGEST_WAIT = 60.0, 6 * 3_600.0  # seconds after a failure
LONGEST_NAME = 40  # characters
NOTHING: Mapping[str, Json] = MappingProxyType({})


class Schedule(Struct):
    """When an installation is synced, and what such a sync fetches.

    Either ``every`` (seconds) or ``cron`` with ``zone`` is given.  ``jitter`` is the most seconds by which a
    sync begins after its slot; None: up to a minute.  ``options`` are those of the sync that differ from
    their defaults.  ``made_at``, in seconds since the epoch, is the first slot of ``every``.
    """

    name: str
    made_at: int
    every: float | None = None
    cron: str | None = None
    zone: str = "UTC"
    jitter: float | None = None
    options: Mapping[str, Json] = NOTHING
    on: bool = True

    @property
    def timing(self) -> str:
        """When it is, in words: ``every 15m``, or the cron text with its zone."""
        if self.every is None:
            return f"{self.cron} {self.zone}"
        unit = next(one for one in ("w", "d", "h", "m", "s") if self.every % UNITS[one] == 0 or one == "s")
        return f"every {self.every / UNITS[unit]:g}{unit}"

    def check(self) -> None:
        """InvalidSchedule, or UnknownName for the zone, unless it can be followed."""
        if (self.every is None) == (self.cron is None):
            raise InvalidSchedule("it needs either an interval or a cron text", hint="--every 15m, or --cron")
        if self.every is not None and not LEAST <= self.every <= MOST:
            problem = f"an interval lasts from a minute to a year, not {self.every:g} seconds"
            raise InvalidSchedule(problem, hint="such as --every 15m")
        if self.jitter is not None and not 0 <= self.jitter <= MOST:
            raise InvalidSchedule(f"a jitter of {self.jitter:g} seconds", hint="such as --jitter 5m; 0: none")
        if not self.name.strip() or len(self.name) > LONGEST_NAME or not self.name.isprintable():
            problem = f"a name has 1 to {LONGEST_NAME} characters, not {self.name[: 2 * LONGEST_NAME]!r}"
            raise InvalidSchedule(problem, hint="such as --name nightly")
        find_zone(self.zone)
        if self.cron is not None:
            parse_cron(self.cron)

    def next_slot(self, after: float) -> int | None:
        """The first slot after a moment; None when there is none in fifty years."""
        if self.cron is not None:
            return next_moment(self.cron, self.zone, after)
        return self._on_grid(after) + self._interval

    def newest_slot(self, at: float) -> int | None:
        """The last slot that is not after a moment."""
        if self.cron is not None:
            return newest_moment(self.cron, self.zone, at)
        return self._on_grid(at)

    @property
    def _interval(self) -> int:
        return max(1, round(self.every or LEAST))

    def _on_grid(self, at: float) -> int:
        """The multiple of the interval, counted from when it was made, that is not after a moment."""
        return self.made_at + int((at - self.made_at) // self._interval) * self._interval

    def begins(self, slot: int, installation: str) -> float:
        """When the sync of a slot begins: the same in every process, different for each installation."""
        following = self.next_slot(slot)
        gap = MOST if following is None else following - slot
        most = min(JITTER, gap / SHARE) if self.jitter is None else min(self.jitter, gap)
        digest = sha256(f"{installation}/{self.name}/{slot}".encode(errors="surrogatepass")).digest()
        return slot + most * (int.from_bytes(digest[:6], "big") / 2**48)


class Trouble(Struct):
    """An installation fails: how many scheduled syncs in a row, since when, and when one is tried again."""

    failures: int
    since: float
    at: float  # of the newest failure
    reason: str
    schedule: str  # whose sync failed
    next_try: float


class Unfinished(Struct):
    """A sync of the installation that has not ended; ``status`` is running, paused or interrupted.

    ``options`` are None when this version cannot read them.
    """

    id: str
    status: str
    options: Json = None
    schedule: str | None = None  # the name of the schedule that began it


class Turn(StrEnum):
    """What is to be done about a schedule now."""

    LATER = "later"  # its time has not come
    FIRE = "fire"
    SKIP = "skip"  # its slot is due, and is left out
    WAIT = "wait"  # its slot is due, and begins after the sync that is running
    OFF = "off"


class Outlook(Struct):
    """What becomes of a schedule: when its next sync is due (None: never), and the reason why it is not now.

    ``slot`` is the one that it is about.  ``resumes`` is the id of an interrupted sync that goes on first.
    """

    turn: Turn
    at: float | None = None
    slot: int | None = None
    reason: str = ""
    resumes: str | None = None


class Known(Struct):
    """What is stored of a schedule and its installation; ``handled`` are slots that fired or were skipped."""

    handled: Set[int]
    trouble: Trouble | None = None
    unfinished: Unfinished | None = None


def outlook(schedule: Schedule, known: Known, now: float, installation: str) -> Outlook:
    """What is to be done about a schedule now, and when it is next."""
    if not schedule.on:
        return Outlook(Turn.OFF, reason="it is off")
    due = due_slot(schedule, known, now)
    trouble = known.trouble
    if trouble is not None and trouble.schedule == schedule.name:
        if now < trouble.next_try:
            return Outlook(Turn.LATER, trouble.next_try, due, f"it fails: {trouble.reason}")
        slot = schedule.newest_slot(now) if due is None else due
        return _against(schedule, known, Outlook(Turn.FIRE, trouble.next_try, slot))
    if due is None:
        return _nothing_due(schedule, known, now, installation)
    begins = schedule.begins(due, installation)
    if now < begins:
        return Outlook(Turn.LATER, begins, due)
    if trouble is not None and now < trouble.next_try:
        return Outlook(Turn.SKIP, begins, due, f"the installation fails: {trouble.reason}")
    return _against(schedule, known, Outlook(Turn.FIRE, begins, due))


def _nothing_due(schedule: Schedule, known: Known, now: float, installation: str) -> Outlook:
    """When the next slot is; at once where the sync of the newest one was interrupted."""
    slot, following = schedule.newest_slot(now), schedule.next_slot(now)
    if known.trouble is None and slot is not None and _is_interrupted(schedule, known):
        return _against(schedule, known, Outlook(Turn.FIRE, float(slot), slot))
    if following is None:
        return Outlook(Turn.OFF, reason="it has no further slot")
    return Outlook(Turn.LATER, schedule.begins(following, installation), following)


def due_slot(schedule: Schedule, known: Known, now: float) -> int | None:
    """The newest slot that has come and was not handled.

    Slots before the schedule was made do not count, unless its clock was ahead then: it would never begin.
    """
    slot = schedule.newest_slot(now)
    if slot is None or slot in known.handled or slot < schedule.made_at <= now + LEAST:
        return None
    return slot


def _is_interrupted(schedule: Schedule, known: Known) -> bool:
    """Whether the process ended in which the schedule's own sync ran: then it goes on at once."""
    found = known.unfinished
    return found is not None and found.status == "interrupted" and found.schedule == schedule.name


def _against(schedule: Schedule, known: Known, fires: Outlook) -> Outlook:
    """What becomes of a slot that would fire, while a sync has not ended."""
    found = known.unfinished
    if found is None:
        return fires
    if found.status == "interrupted":
        return fires.replace(resumes=found.id)
    if found.status == "paused":
        return fires.replace(turn=Turn.SKIP, reason=f"sync {found.id} is paused")
    if found.schedule == schedule.name or found.options == dict(schedule.options):
        return fires.replace(turn=Turn.SKIP, reason=f"sync {found.id} is running, and fetches the same")
    return fires.replace(turn=Turn.WAIT, reason=f"sync {found.id} is running")


def seconds_of(length: float | str | timedelta | None, what: str = "interval") -> float | None:
    """A length of time in seconds; InvalidSchedule when it is none."""
    if isinstance(length, timedelta):
        return length.total_seconds()
    if not isinstance(length, str):
        return length
    try:
        return parse_duration(length)
    except ValueError:
        raise InvalidSchedule(f"{length!r} is no {what}", hint="such as 90s, 15m, 2h, 1d or 2w") from None


def wait_after(failures: int) -> float:
    """Seconds until an installation is tried again after so many failures in a row."""
    return float(min(FIRST_WAIT * 2 ** min(failures - 1, 20), LONGEST_WAIT))


class Handled(Struct):
    """A slot that has fired or was skipped, when, and why it was skipped; empty when it fired."""

    slot: int
    at: float
    skipped: str = ""


class ScheduleStatus(Struct):
    """A schedule of an installation, what comes next, and what became of its newest slot."""

    installation: InstallationInfo
    schedule: Schedule
    outlook: Outlook
    trouble: Trouble | None = None
    last: Handled | None = None
