"""Times as people write them: each text means all the time that it names, and nothing else."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.model.periods import Days, NoNow, Period, days_of, moved_months, period_of

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MOMENTS = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)


def at(text: str) -> Period:
    return period_of(text, NOW.timestamp())


def days(text: str) -> Days:
    return days_of(text, NOW.timestamp())


def day(text: str) -> date:
    return date.fromisoformat(text)


@given(MOMENTS, st.sampled_from([4, 7, 10, 13, 16]))
def test_a_time_is_every_moment_whose_text_begins_with_it(moment: datetime, length: int) -> None:
    """The digits of ISO 8601 are the oracle: a year, a month, a day, an hour, a minute."""
    text = moment.isoformat(timespec="microseconds")[:length]
    first, last = at(text)
    assert first <= moment <= last
    assert all(one.isoformat(timespec="microseconds").startswith(text) for one in (first, last))
    if first > datetime(1000, 1, 1, tzinfo=UTC):
        assert not (first - MICROSECOND).isoformat().startswith(text)
    if last < datetime.max.replace(tzinfo=UTC):
        assert not (last + MICROSECOND).isoformat().startswith(text)


@given(st.dates(date(1000, 1, 1), date.max), st.sampled_from([4, 7, 10]))
def test_days_are_every_day_whose_text_begins_with_it(one: date, length: int) -> None:
    text = one.isoformat()[:length]
    first, last = days(text)
    assert first <= one <= last
    assert first.isoformat().startswith(text)
    assert last.isoformat().startswith(text)
    assert last == date.max or not (last + timedelta(days=1)).isoformat().startswith(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T09:30:00", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31T09:30:00.5Z", datetime(2026, 1, 31, 9, 30, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31 09:30:00+02:00", datetime(2026, 1, 31, 7, 30, tzinfo=UTC)),
        ("now", NOW),
        ("NOW", NOW),
        ("-90s", NOW - timedelta(seconds=90)),
        ("+5m", NOW + timedelta(minutes=5)),
        ("-12h", NOW - timedelta(hours=12)),
        ("-7d", NOW - timedelta(days=7)),
        ("+2w", NOW + timedelta(weeks=2)),
        ("-1mo", datetime(2026, 2, 28, 12, tzinfo=UTC)),
        ("+1mo", datetime(2026, 4, 30, 12, tzinfo=UTC)),
        ("-3mo", datetime(2025, 12, 31, 12, tzinfo=UTC)),
        ("+1y", datetime(2027, 3, 31, 12, tzinfo=UTC)),
        ("-0d", NOW),
    ],
)
def test_a_time_with_seconds_and_an_age_are_one_moment(text: str, moment: datetime) -> None:
    assert at(text) == (moment, moment)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("today", "2026-03-31", "2026-03-31"),
        ("Yesterday", "2026-03-30", "2026-03-30"),
        ("tomorrow", "2026-04-01", "2026-04-01"),
        ("2026-W05", "2026-01-26", "2026-02-01"),
        ("2026-W05-6", "2026-01-31", "2026-01-31"),
        ("20260131", "2026-01-31", "2026-01-31"),
        ("2024-02", "2024-02-01", "2024-02-29"),
        ("9999", "9999-01-01", "9999-12-31"),
        ("9999-12", "9999-12-01", "9999-12-31"),
    ],
)
def test_words_weeks_and_the_ends_of_the_calendar(text: str, first: str, last: str) -> None:
    assert days(text) == (day(first), day(last))
    whole = at(text)
    assert (whole.first.isoformat(), whole.last.isoformat()) == (
        f"{first}T00:00:00+00:00",
        f"{last}T23:59:59.999999+00:00",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-03-31"),
        ("-7d", "2026-03-24"),
        ("+1w", "2026-04-07"),
        ("-1mo", "2026-02-28"),
        ("-1y", "2025-03-31"),
    ],
)
def test_an_age_of_a_date_is_a_day(text: str, expected: str) -> None:
    assert days(text) == (day(expected), day(expected))


def test_a_minute_may_name_its_zone() -> None:
    first = datetime(2026, 1, 31, 7, 30, tzinfo=UTC)
    for text in ("2026-01-31T09:30+02:00", "20260131T0930+0200", "2026-01-31 08:30+01"):
        assert at(text) == (first, first + timedelta(minutes=1) - MICROSECOND)


def test_today_is_a_day_of_utc() -> None:
    before_midnight = datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert days_of("today", before_midnight).first == day("2026-03-31")
    assert days_of("today", before_midnight + 1).first == day("2026-04-01")


@given(MOMENTS, st.integers(-2000, 2000))
def test_months_keep_the_day_or_end_with_the_month(moment: datetime, months: int) -> None:
    number = moment.year * 12 + moment.month - 1 + months
    if not 12 <= number < 120_000:
        return
    moved = moved_months(moment, months)
    assert moved.year * 12 + moved.month - 1 == number
    assert moved.time() == moment.time()
    tomorrow_is_another_month = moved.year == 9999 or (moved + timedelta(days=1)).month != moved.month
    assert moved.day == moment.day or (moved.day < moment.day and tomorrow_is_another_month)


@pytest.mark.parametrize("text", ["today", "yesterday", "now", "-7d", "+1mo"])
def test_what_counts_from_now_needs_a_now(text: str) -> None:
    for reader in (period_of, days_of):
        with pytest.raises(NoNow):
            reader(text, None)


@pytest.mark.parametrize(
    "text",
    ["", "x", "7d", "-7", "-1.5d", "-7D", "2026-13", "2026-W60", "0000", "2026-02-30", "26-01", "today "],
)
def test_any_other_text_is_refused(text: str) -> None:
    for reader in (period_of, days_of):
        with pytest.raises(ValueError, match=r".*"):
            reader(text, NOW.timestamp())


@pytest.mark.parametrize("text", ["-5m", "+2h", "-90s", "2026-01-31T09:30", "2026-01-31T09:30:00Z"])
def test_a_date_has_no_time_of_day(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        days(text)


@pytest.mark.parametrize("text", ["-999999999w", "+999999999y", "-999999999mo", "+9000y"])
def test_an_age_beyond_the_calendar_is_refused(text: str) -> None:
    for reader in (period_of, days_of):
        with pytest.raises((ValueError, OverflowError)):
            reader(text, NOW.timestamp())
