"""Times as people write them: ``2025-07-11``, ``2025-07``, ``yesterday``, ``-3mo``.

Rule 1: a text means all the time that it names, from the first moment to the last: ``2025-07`` is
the whole of July, ``2025-07-11T09:30`` a minute.  A text with seconds, ``now``, and an age mean one
moment.

Rule 2: the calendar is UTC, whatever zone the computer is in.  A time of day may name its own zone.

Rule 3: a month or a year from a day is the same day of another month, or that month's last: a month
before 31 March is 28 February.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from .values import moment_of

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds
MONTHS = {"mo": 1, "y": 12}
AGE = re.compile(r"([+-])(\d{1,9})(mo|[smhdwy])", re.ASCII)
WORDS = {"yesterday": -1, "today": 0, "tomorrow": 1}  # days from the day of ``now``
LENGTH = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
AN_AGE = "an age such as 90s, 5m, 2h, 1d or 2w"
LONG = re.compile(r"(?P<year>\d{4})(-(?P<month>\d\d)|-W(?P<week>\d\d))?", re.ASCII)
SHORT = re.compile(r"\d{4}-?\d\d-?\d\d[Tt ](?P<clock>\d\d(:?\d\d)?)([Zz]|[+-]\d\d(:?\d\d)?)?", re.ASCII)
MICROSECOND = timedelta(microseconds=1)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


class NoNow(Exception):
    """The text counts from now, and no now was given."""


class Period(NamedTuple):
    """The first and the last moment of a time, in UTC; of a moment both are the same."""

    first: datetime
    last: datetime


class Days(NamedTuple):
    """The first and the last day of a time; of a day both are the same."""

    first: date
    last: date


def period_of(text: str, now: float | None) -> Period:
    """The time that a text means; ``now`` is in seconds since the epoch.

    ValueError or OverflowError when it means none, NoNow when it counts from now and that is None.
    """
    if text.lower() == "now":
        return Period(_from(now), _from(now))
    age = AGE.fullmatch(text)
    if age:
        moment = _moved(_from(now), age)
        return Period(moment, moment)
    try:
        days = days_of(text, now)
    except ValueError:
        moment, found = _in_utc(moment_of(text)), SHORT.fullmatch(text)
        if found is None:
            return Period(moment, moment)
        return Period(moment, moment + ((HOUR if len(found["clock"]) == 2 else MINUTE) - MICROSECOND))
    return Period(_midnight(days.first), _midnight(days.last) + (DAY - MICROSECOND))


def days_of(text: str, now: float | None) -> Days:
    """The days that a text means; as period_of, and ValueError also for a time of day and its units."""
    if text.lower() in (*WORDS, "now"):
        day = _from(now).date() + timedelta(days=WORDS.get(text.lower(), 0))
        return Days(day, day)
    age = AGE.fullmatch(text)
    if age:
        if age[3] in "smh":
            raise ValueError(text)
        day = _moved(_from(now), age).date()
        return Days(day, day)
    found = LONG.fullmatch(text)
    if found is None:
        day = date.fromisoformat(text)
        return Days(day, day)
    if found["week"]:
        first = date.fromisocalendar(int(found["year"]), int(found["week"]), 1)
        return Days(first, first + timedelta(days=6))
    first = date(int(found["year"]), int(found["month"] or 1), 1)
    return Days(first, _last_day(first.year, int(found["month"] or 12)))


def parse_duration(text: str) -> float:
    """The seconds in ``90s``, ``5m``, ``2h``, ``1d`` or ``2w``; ValueError for any other text."""
    match = LENGTH.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {AN_AGE}")
    return float(int(match[1]) * UNITS[match[2]])


def moved_months(moment: datetime, months: int) -> datetime:
    """The same day and time so many months later, or on the last day of that month; ValueError."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, _last_day(year, month + 1).day))


def _moved(moment: datetime, age: re.Match[str]) -> datetime:
    number = int(age[1] + age[2])
    if age[3] in MONTHS:
        return moved_months(moment, number * MONTHS[age[3]])
    return moment + timedelta(seconds=number * UNITS[age[3]])


def _last_day(year: int, month: int) -> date:
    if month == 12:
        return date(year, 12, 31)
    return date(year, month + 1, 1) - timedelta(days=1)


def _from(now: float | None) -> datetime:
    if now is None:
        raise NoNow
    return datetime.fromtimestamp(now, UTC)


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
