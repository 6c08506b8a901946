"""Cron texts: which moments they mean, against two oracles, and what is said about a wrong one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import InvalidSchedule, UnknownName
from max.model.cron import find_zone, newest_moment, next_moment, parse_cron

MINUTE, DAY = 60, 86_400
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # until 2011 its clocks changed at 00:01
    "America/Santiago",  # they change at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # which left out a whole day
    "Asia/Kathmandu",
)


def seconds(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def shown(moment: int | None, zone: str) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, ZoneInfo(zone)).isoformat(" ", "minutes")


def several(text: str, zone: str, start: int, number: int) -> list[str]:
    found = []
    moment: int | None = start
    for _ in range(number):
        assert moment is not None
        moment = next_moment(text, zone, moment)
        found.append(shown(moment, zone))
    return found


# -- oracles ---------------------------------------------------------------------------------


@lru_cache
def changes(zone: str) -> list[int]:
    """The days on which the clocks of a zone change."""
    place, found = ZoneInfo(zone), []
    days = range(seconds("1990-01-01"), seconds("2037-01-01"), DAY)
    offsets = [datetime.fromtimestamp(day, place).utcoffset() for day in days]
    for day, before, after in zip(days, offsets, offsets[1:], strict=False):
        if before != after:
            found.append(day)
    return found or [seconds("2026-03-29")]


class Fields:
    """Generated fields of a text, and the numbers that each means."""

    def __init__(self, texts: list[str], numbers: list[set[int]]) -> None:
        self.text, self.numbers = " ".join(texts), numbers
        self.follows_time = texts[0].startswith("*") or texts[1].startswith("*")
        self.either = not (texts[2].startswith("*") or texts[4].startswith("*"))

    def __repr__(self) -> str:
        return self.text

    def has_day(self, day: date) -> bool:
        of_month, of_week = day.day in self.numbers[2], day.isoweekday() % 7 in self.numbers[4]
        by_day = (of_month or of_week) if self.either else (of_month and of_week)
        return by_day and day.month in self.numbers[3]

    def has(self, local: datetime) -> bool:
        return (
            local.minute in self.numbers[0] and local.hour in self.numbers[1] and self.has_day(local.date())
        )


@st.composite
def cron_fields(draw: st.DrawFn) -> Fields:
    texts, numbers = [], []
    for least, most, often in ((0, 59, 0.3), (0, 23, 0.3), (1, 31, 0.8), (1, 12, 0.9), (0, 6, 0.8)):
        kind = draw(st.sampled_from(["*", "*/", "list", "range"])) if draw(st.floats(0, 1)) > often else "*"
        if least == 0 and most == 59 and draw(st.booleans()):
            kind = "list"
        if kind == "*":
            texts.append("*")
            numbers.append(set(range(least, most + 1)))
        elif kind == "*/":
            step = draw(st.integers(1, most))
            texts.append(f"*/{step}")
            numbers.append(set(range(least, most + 1, step)))
        elif kind == "range":
            first = draw(st.integers(least, most))
            last = draw(st.integers(min(first + 1, most), most))
            first = min(first, last - 1)  # cronsim takes 5-5/2 for 5/2
            step = draw(st.integers(1, 5))
            texts.append(f"{first}-{last}/{step}")
            numbers.append(set(range(first, last + 1, step)))
        else:
            some = draw(st.sets(st.integers(least, most), min_size=1, max_size=4))
            texts.append(",".join(map(str, sorted(some))))
            numbers.append(some)
    return Fields(texts, numbers)


def expected(fields: Fields, zone: str, first: int, last: int) -> list[int]:
    """The moments between two, by looking at every minute of the clock on the wall."""
    place = ZoneInfo(zone)
    minutes = range(first, last, MINUTE)
    walls = [datetime.fromtimestamp(moment, place).replace(tzinfo=None, fold=0) for moment in minutes]
    if fields.follows_time:
        return [moment for moment, wall in zip(minutes, walls, strict=True) if fields.has(wall)]
    comes = {wall: moment for moment, wall in reversed([*zip(minutes, walls, strict=True)])}
    found, wanted = set(), walls[0]
    while wanted < walls[-1]:
        if fields.has(wanted):  # when the clock is first beyond it, where it skips it
            beyond = (m for m, wall in zip(minutes, walls, strict=True) if wall >= wanted)
            found.add(comes[wanted] if wanted in comes else next(beyond))
        wanted += timedelta(minutes=1)
    return sorted(found)


def walked(text: str, zone: str, first: int, last: int) -> Iterator[int]:
    moment = next_moment(text, zone, first - 1)
    while moment is not None and moment < last:
        yield moment
        moment = next_moment(text, zone, moment)


@settings(max_examples=100, deadline=None)
@given(cron_fields(), st.sampled_from(ZONES), st.data())
def test_the_moments_are_those_of_a_clock_on_the_wall_also_where_it_changes(
    fields: Fields, zone: str, data: st.DataObject
) -> None:
    change = data.draw(st.sampled_from(changes(zone)))
    first, last = change - DAY, change + 2 * DAY
    try:
        parse_cron(fields.text)
    except InvalidSchedule:  # such as 31 February
        assert expected(fields, zone, first, last) == []
        return
    found = expected(fields, zone, first, last)
    assert [shown(one, zone) for one in walked(fields.text, zone, first, last)] == [
        shown(one, zone) for one in found
    ]
    at = data.draw(st.integers(first, last - 1))
    before = found[: bisect_right(found, at)]
    newest = newest_moment(fields.text, zone, at)
    assert (before and before[-1]) == ([] if newest is None or newest < first else newest)


@settings(max_examples=100, deadline=None)
@given(cron_fields(), st.integers(seconds("1995-01-01"), seconds("2035-01-01")))
def test_the_next_moment_is_that_of_another_implementation(fields: Fields, after: int) -> None:
    try:
        other = next(CronSim(fields.text, datetime.fromtimestamp(after, UTC)))
    except CronSimError:  # such as 31 February
        with pytest.raises(InvalidSchedule):
            parse_cron(fields.text)
    else:
        assert next_moment(fields.text, "UTC", after) == int(other.timestamp())


# -- by hand ---------------------------------------------------------------------------------


def test_a_daily_time_that_the_clock_skips_happens_when_it_is_set_forward() -> None:
    start = seconds("2026-03-28 12:00", "Europe/Berlin")
    assert several("30 2 * * *", "Europe/Berlin", start, 2) == [
        "2026-03-29 03:00+02:00",
        "2026-03-30 02:30+02:00",
    ]


def test_a_daily_time_that_comes_twice_happens_once() -> None:
    start = seconds("2026-10-24 12:00", "Europe/Berlin")
    assert several("30 2 * * *", "Europe/Berlin", start, 2) == [
        "2026-10-25 02:30+02:00",
        "2026-10-26 02:30+01:00",
    ]


def test_a_rhythm_follows_the_time_that_passes() -> None:
    start = seconds("2026-10-25 01:59", "Europe/Berlin")
    assert several("*/30 * * * *", "Europe/Berlin", start, 5) == [
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:30+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 02:30+01:00",
        "2026-10-25 03:00+01:00",
    ]
    forward = seconds("2026-03-29 01:29", "Europe/Berlin")
    assert several("*/30 * * * *", "Europe/Berlin", forward, 2) == [
        "2026-03-29 01:30+01:00",
        "2026-03-29 03:00+02:00",
    ]


def test_when_both_days_are_limited_one_is_enough() -> None:
    start = seconds("2026-11-01")
    assert several("0 0 13 * fri", "UTC", start, 3) == [
        "2026-11-06 00:00+00:00",
        "2026-11-13 00:00+00:00",
        "2026-11-20 00:00+00:00",
    ]


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("0 7 * * mon-fri", "2026-11-30 07:00+00:00"),
        ("0 7 * * MON-FRI", "2026-11-30 07:00+00:00"),
        ("0 0 L * *", "2026-11-30 00:00+00:00"),
        ("0 0 L feb *", "2027-02-28 00:00+00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00+00:00"),
        ("0 0 * * 7", "2026-11-29 00:00+00:00"),
        ("0 0 * * 0", "2026-11-29 00:00+00:00"),
        ("@daily", "2026-11-29 00:00+00:00"),
        ("5/20 3 * * *", "2026-11-29 03:05+00:00"),
        ("0 22-23,4 * * *", "2026-11-28 22:00+00:00"),
    ],
)
def test_what_crontabs_have_is_understood(text: str, following: str) -> None:
    assert several(text, "UTC", seconds("2026-11-28 12:00"), 1) == [following]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has 0 fields, not five"),
        ("0 7 * *", "has 4 fields, not five"),
        ("0 7 * * * *", "has 6 fields, not five"),
        ("60 7 * * *", "the minute: a number from 0 to 59\n  60 7 * * *\n  ^"),
        ("0 24 * * *", "the hour: a number from 0 to 23\n  0 24 * * *\n    ^"),
        ("0 7 * * mon-fry", "or sun to sat\n  0 7 * * mon-fry\n              ^"),
        ("0 7 * foo *", "or jan to dec\n  0 7 * foo *\n        ^"),
        ("*/0 * * * *", "after / comes a number from 1 to 59\n  */0 * * * *\n    ^"),
        ("0  17-9 * * *", "17-9 ends before it begins\n  0  17-9 * * *\n     ^"),
        ("1,,2 * * * *", "a number from 0 to 59\n  1,,2 * * * *\n    ^"),
        ("0 0 31 feb *", "no such month has that day\n  0 0 31 feb *\n      ^"),
        ("0 0 32 * *", "a number from 1 to 31, or L"),
        ("0 0 ² * *", "a number from 1 to 31, or L"),
        ("-1 * * * *", "a number from 0 to 59"),
        ("0 0 * * mon#2", "or sun to sat"),
    ],
)
def test_a_wrong_text_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InvalidSchedule) as raised:
        parse_cron(text)
    assert problem in raised.value.message


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("0159*/,-lmon jan@#?²") | st.characters(), max_size=20))
def test_any_text_is_understood_or_refused_in_words(text: str) -> None:
    try:
        cron = parse_cron(text)
    except InvalidSchedule:
        return
    assert min(len(cron.minutes), len(cron.hours), len(cron.months)) > 0


def test_an_unknown_time_zone_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownName, match="unknown time zone 'Europe/Berln'") as raised:
        find_zone("Europe/Berln")
    assert "Europe/Berlin" in raised.value.hint


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "Europe", "\0", "x" * 300])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(UnknownName):
        find_zone(name)
