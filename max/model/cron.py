"""Cron: the moments that a text such as ``0 7 * * mon-fri`` means in a time zone.

**The fields** are minute, hour, day of the month, month and day of the week: ``*``, numbers, ranges
``1-5``, lists ``1,15``, steps ``*/15`` and ``8-18/2``, names ``mon`` and ``jan``.  Sunday is 0 or 7, ``L`` is
a month's last day.  When both fields of days are limited, one of them is enough, as in every cron.

**When clocks change**, the rule is that of Debian's cron.  A text with a certain hour and minute means
events of a day, so each happens once:

    30 2 * * *     the night in which 02:00 becomes 03:00: at 03:00, the moment of the change
                   the night in which 03:00 becomes 02:00: at the first 02:30

A text whose minute or hour begins with ``*`` means a rhythm, so it follows the time that really passes:
what the clock skips does not happen, and what it repeats happens twice.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from calendar import monthrange
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from ..errors import InvalidSchedule, UnknownName
from .struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

DAY, MONTH, WEEKDAY = "day of the month", "month", "day of the week"
FIELDS = {  # the least and the greatest number of each
    "minute": (0, 59),
    "hour": (0, 23),
    DAY: (1, 31),
    MONTH: (1, 12),
    WEEKDAY: (0, 7),
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMES = {MONTH: (MONTHS, 1), WEEKDAY: (WEEKDAYS, 0)}  # and the number of the first
SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
LAST = "l"  # the last day of a month
LAST_DAY = -1  # its number here
FURTHEST = 50 * 366  # days: a text that means no moment in so many means none
EXAMPLE = 'five fields: minute, hour, day, month, day of the week, such as "0 7 * * mon-fri"'


class Cron(Struct):
    """What a text means, without a zone.

    ``follows_time``: it means a rhythm.  ``either``: the day of the month or that of the week is enough.
    ``last``: also the last day of the month.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    last: bool
    either: bool
    follows_time: bool

    def has_day(self, day: date) -> bool:
        """Whether something happens on a day of the calendar."""
        if day.month not in self.months:
            return False
        of_month = day.day in self.days or (self.last and day.day == monthrange(day.year, day.month)[1])
        of_week = day.isoweekday() % 7 in self.weekdays
        return (of_month or of_week) if self.either else (of_month and of_week)


def next_moment(text: str, zone: str, after: float) -> int | None:
    """The first moment after one, in seconds since the epoch; None when there is none in fifty years."""
    return _nearest(text, zone, after, 1)


def newest_moment(text: str, zone: str, at: float) -> int | None:
    """The last moment that is not after ``at``; None when there is none in fifty years."""
    return _nearest(text, zone, at, -1)


def _nearest(text: str, zone: str, moment: float, step: int) -> int | None:
    cron = parse_cron(text)
    here = datetime.fromtimestamp(moment, UTC).astimezone(find_zone(zone)).date()
    for distance in range(-1, FURTHEST):
        day = here + timedelta(days=distance * step)
        if not cron.has_day(day):
            continue
        found = _beside(_moments(text, zone, day), moment, step)
        if found is None:
            continue
        # A clock that is set back around midnight mixes two days.
        other = _beside(_moments(text, zone, day + timedelta(days=step)), moment, step)
        both = [found] if other is None else [found, other]
        return min(both) if step > 0 else max(both)
    return None


def _beside(moments: Sequence[int], moment: float, step: int) -> int | None:
    """The first of sorted moments after one, or with a negative step the last that is not."""
    place = bisect_right(moments, moment) - (step < 0)
    return moments[place] if 0 <= place < len(moments) else None


@lru_cache(maxsize=256)
def _moments(text: str, zone: str, day: date) -> tuple[int, ...]:
    """The moments of one day of the calendar."""
    cron, place = parse_cron(text), find_zone(zone)
    if not cron.has_day(day):
        return ()
    found: set[int] = set()
    for hour in cron.hours:
        for minute in cron.minutes:
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=place)
            first, second = (int(local.replace(fold=fold).timestamp()) for fold in (0, 1))
            if first <= second:  # two of them where the clock is set back
                found |= {first, second} if cron.follows_time else {first}
            elif not cron.follows_time:  # the clock skips it
                found.add(_change_between(second, first, place))
    return tuple(sorted(found))


def _change_between(before: int, after: int, zone: ZoneInfo) -> int:
    """The moment at which a clock is set forward, of which two moments on either side are given."""

    def offset(moment: int) -> timedelta | None:
        return datetime.fromtimestamp(moment, UTC).astimezone(zone).utcoffset()

    then = offset(after)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if offset(middle) == then else (middle, after)
    return after


def find_zone(name: str) -> ZoneInfo:
    """A time zone; UnknownName with the nearest names, or InvalidSchedule."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
    if not known:
        raise InvalidSchedule(
            f"the time zone {name!r} is unknown: this machine has no table of time zones",
            hint="install the package tzdata: pip install tzdata",
        )
    raise UnknownName("time zone", name, sorted(known))


# -- reading the text ------------------------------------------------------------------------


@lru_cache(maxsize=256)
def parse_cron(text: str) -> Cron:
    """What a text means; InvalidSchedule points at what means nothing."""
    words = [*re.finditer(r"\S+", SHORT.get(text.strip().lower(), text).lower())]
    if len(words) != len(FIELDS):
        raise InvalidSchedule(f"{text!r} has {counted(len(words))}, not five", text, hint=EXAMPLE)
    fields = [
        _Field(name, *FIELDS[name], text, word.start()) for name, word in zip(FIELDS, words, strict=True)
    ]
    minutes, hours, days, months, weekdays = (
        frozenset(field.numbers(word[0])) for field, word in zip(fields, words, strict=True)
    )
    cron = Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=days - {LAST_DAY},
        months=months,
        weekdays=frozenset(number % 7 for number in weekdays),
        last=LAST_DAY in days,
        either=not (words[2][0].startswith("*") or words[4][0].startswith("*")),
        follows_time=words[0][0].startswith("*") or words[1][0].startswith("*"),
    )
    longest = max(monthrange(2000, month)[1] for month in months)  # 2000 was a leap year
    if not cron.either and min(days) > longest:
        raise fields[2].problem("no such month has that day", 0)
    return cron


def counted(number: int) -> str:
    """``1 field``, ``3 fields``."""
    return f"{number} field{'' if number == 1 else 's'}"


class _Field:
    """One field of a text, which begins at ``place``: the numbers from ``least`` to ``most``."""

    def __init__(self, name: str, least: int, most: int, text: str, place: int) -> None:
        self._name, self._least, self._most = name, least, most
        self._text, self._place = text, place

    def numbers(self, word: str) -> Iterator[int]:
        """The numbers that a word means."""
        place = 0
        for part in word.split(","):
            yield from self._span(part, place)
            place += len(part) + 1

    def _span(self, part: str, place: int) -> range:
        """The numbers of one part of a list."""
        span, slash, step = part.partition("/")
        if span == LAST and self._name == DAY and not slash:
            return range(LAST_DAY, LAST_DAY + 1)
        least, most = self._least, self._most
        if span != "*":
            first, dash, end = span.partition("-")
            least = self._number(first, place)
            most = self._number(end, place + len(first) + 1) if dash else most if slash else least
        elif self._name == WEEKDAY:
            most = 6
        if slash and not (step.isascii() and step.isdigit() and 0 < int(step[:9]) <= self._most):
            problem = f"after / comes a number from 1 to {self._most}"
            raise self.problem(problem, place + len(span) + 1)
        if least > most:
            raise self.problem(f"{span} ends before it begins", place)
        return range(least, most + 1, int(step) if slash else 1)

    def _number(self, word: str, place: int) -> int:
        names, first = NAMES.get(self._name, ((), 0))
        if word in names:
            return names.index(word) + first
        if word.isascii() and word.isdigit() and len(word) < 3 and self._least <= int(word) <= self._most:
            return int(word)
        or_names = f", or {names[0]} to {names[-1]}" if names else ""
        or_last = ", or L" if self._name == DAY else ""
        raise self.problem(f"a number from {self._least} to {self._most}{or_names}{or_last}", place)

    def problem(self, what: str, place: int) -> InvalidSchedule:
        """The error about what is at a place of the field."""
        column = self._place + place + 1 if SHORT.get(self._text.strip().lower()) is None else 0
        return InvalidSchedule(f"the {self._name}: {what}", self._text, column, hint=EXAMPLE)
