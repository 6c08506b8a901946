"""Values: what is valid, and as what it is stored."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from max.model.columns import InvalidColumn, encode_column
from max.model.entities import (
    FieldType,
)
from max.model.values import (
    JSON_DEPTH,
    InvalidValue,
    Kind,
    are_ids,
    datetime_of,
    datetime_text,
    is_datetime,
    is_id,
    is_json,
    is_valid,
    read_integer,
    read_json,
    read_real,
)
from tests.strategies import iso_forms, moments

MICRO = 1_000_000  # microseconds in a second
DAY = 86_400 * MICRO


@settings(deadline=None)
@drawn(moments)
def test_every_way_to_write_a_time_is_stored_as_the_same_text(moment: datetime) -> None:
    texts = {datetime_text(moment), *map(datetime_text, iso_forms(moment))}
    assert len(texts) == 1
    assert datetime_of(texts.pop()) == moment


@settings(deadline=None)
@drawn(st.lists(moments, min_size=2, max_size=6), st.integers(0, 7))
def test_stored_times_sort_by_time_order(some: list[datetime], form: int) -> None:
    near = [moment + timedelta(microseconds=step) for moment in some for step in (1, 10, 999_999)]
    by_time = [datetime_text(moment) for moment in sorted([*some, *near])]
    assert sorted(datetime_text(iso_forms(m)[form]) for m in [*some, *near]) == by_time


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00"),
        ("2026-01-31T09:30:00.500Z", "2026-01-31T09:30:00.5"),
        ("2026-01-31T09:30:00.000000Z", "2026-01-31T09:30:00"),
        ("2026-01-31T09:30:10.000Z", "2026-01-31T09:30:10"),
        ("2026-01-31T09:30:00.123456789Z", "2026-01-31T09:30:00.123456"),
        ("2026-01-31T09:30:00,123Z", "2026-01-31T09:30:00.123"),
        ("2026-01-31T093000.12345Z", "2026-01-31T09:30:00.12345"),
        ("2026-W05-6T09:30:00Z", "2026-01-31T09:30:00"),
        ("2026-01-31 09:30:00+00:00", "2026-01-31T09:30:00"),
        ("2026-01-31T01:30:00+0530", "2026-01-30T20:00:00"),
        ("2026-01-31T09:30Z", "2026-01-31T09:30:00"),
        ("20260131T093000Z", "2026-01-31T09:30:00"),
    ],
)
def test_a_time_from_upstream_is_stored_in_one_form(text: str, stored: str) -> None:
    assert FieldType(Kind.DATETIME).check(text)
    assert datetime_text(text) == stored


# -- RFC 3339, against arithmetic that knows nothing of Python's datetime -----------------------


@st.composite
def rfc3339(draw: st.DrawFn) -> tuple[str, int | None]:
    """A text by the grammar of RFC 3339, and its microseconds in UTC since the year 0, or None.

    None: it is no time, or one that Python cannot hold, as any that is written with the year 0.
    """
    year = draw(st.integers(0, 9999) | st.sampled_from([0, 1, 999, 1000, 9998, 9999]))
    month = draw(st.integers(1, 12) | st.sampled_from([1, 12]))
    day = draw(st.integers(1, days_of(year, month)) | st.sampled_from([1, days_of(year, month)]))
    hour = draw(st.integers(0, 24) | st.sampled_from([23, 24]))
    minute, second = (
        draw(st.sampled_from([0, 59]) | st.integers(0, 59)),
        draw(st.integers(0, 60) | st.just(60)),
    )
    if hour == 24 and draw(st.booleans()):
        minute = second = 0
    fraction = draw(st.from_regex(r"\A(\.[0-9]{1,12})?\Z") | st.sampled_from(["", ".0", ".999999999"]))
    minutes = draw(st.integers(0, 23 * 60 + 59) | st.just(0))
    sign = draw(st.sampled_from([1, -1]))
    zone = f"{'+' if sign > 0 else '-'}{minutes // 60:02}:{minutes % 60:02}"
    if minutes == 0:
        zone = draw(st.sampled_from(["Z", "z", "+00:00", "-00:00"]))
    text = f"{year:04}-{month:02}-{day:02}{draw(st.sampled_from('Tt '))}{hour:02}:{minute:02}:{second:02}"
    whole = (days_before(year, month) + day - 1) * 1440 + hour * 60 + minute - sign * minutes
    micro = int(fraction[1:7].ljust(6, "0")) if fraction else 0
    at: int | None = (whole * 60 + second) * MICRO + micro
    if hour == 24 and (minute or second or fraction.strip(".0")):
        at = None
    if second == 60:
        at = (whole * 60 + 60) * MICRO - 1 if whole % 1440 == 1439 and hour < 24 else None
    if year == 0 or (at is not None and not days_before(1, 1) * DAY <= at < days_before(10_000, 1) * DAY):
        at = None
    return f"{text}{fraction}{zone}", at


def days_of(year: int, month: int) -> int:
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    return [31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]


def days_before(year: int, month: int) -> int:
    """Days from the beginning of the year 0 to that of a month."""
    past = year - 1
    leaps = past // 4 - past // 100 + past // 400 + 1 if year else 0
    return 365 * year + leaps + sum(days_of(year, one) for one in range(1, month))


def written(at: int) -> str:
    """Microseconds since the year 0 as a stored time."""
    days, rest = divmod(at, DAY)
    year = days // 366
    while days_before(year + 1, 1) <= days:
        year += 1
    month = max(one for one in range(1, 13) if days_before(year, one) <= days)
    seconds, micro = divmod(rest, MICRO)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    fraction = f".{micro:06}".rstrip("0").rstrip(".")
    return f"{year:04}-{month:02}-{days - days_before(year, month) + 1:02}T{clock}{fraction}"


@settings(deadline=None, max_examples=300)
@drawn(rfc3339())
def test_every_time_of_rfc_3339_is_read_as_arithmetic_reads_it(sample: tuple[str, int | None]) -> None:
    text, at = sample
    assert is_datetime(text) is (at is not None)
    if at is not None:
        stored = datetime_text(text)
        assert stored == written(at)
        assert datetime_text(datetime_of(stored)) == stored
        assert encode_column(FieldType(Kind.DATETIME), [text, text]) == [stored, stored]


@settings(deadline=None)
@drawn(st.lists(rfc3339(), min_size=2, max_size=8))
def test_stored_times_of_any_year_sort_as_they_follow_one_another(
    samples: list[tuple[str, int | None]],
) -> None:
    times = sorted((at, text) for text, at in samples if at is not None)
    stored = [datetime_text(text) for _, text in times]
    assert stored == sorted(stored)


@pytest.mark.parametrize("number", range(3))
def test_a_leap_second_among_plain_times_of_one_width_is_read(number: int) -> None:
    texts = ["2016-12-31T23:59:58Z", "2016-12-31T23:59:59Z", "2017-01-01T00:00:00Z"]
    texts[number] = "2016-12-31T23:59:60Z"
    column = encode_column(FieldType(Kind.DATETIME), texts)
    assert column[number] == "2016-12-31T23:59:59.999999"


# -- numbers, texts and JSON data -----------------------------------------------------------------


@settings(deadline=None)
@drawn(st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 2**53 + 1, 10**400, True]))
def test_a_number_is_read_as_an_integer_or_a_float_if_that_is_equal_to_it(value: float) -> None:
    plain = not isinstance(value, bool) and (isinstance(value, int) or math.isfinite(value))
    whole = plain and value == int(value) and -(2**63) <= int(value) < 2**63
    exact = plain and (isinstance(value, float) or (abs(value) < 2**1024 and int(float_of(value)) == value))
    assert is_valid(read_integer, value) is whole
    assert is_valid(read_real, value) is exact
    if whole:
        assert (read_integer(value), type(read_integer(value))) == (value, int)
    if exact:
        assert (read_real(value), type(read_real(value))) == (value, float)
    for kind, fits in ((Kind.INTEGER, whole), (Kind.REAL, exact)):
        if fits:
            stored = encode_column(FieldType(kind, optional=True), [value, None, value])
            assert list(stored) == [value, None, value]
        else:
            with pytest.raises(InvalidColumn):
                encode_column(FieldType(kind), [value, 1])


def test_a_column_of_floats_is_checked_as_a_whole_although_it_is_a_tuple() -> None:
    assert encode_column(FieldType(Kind.REAL), (1.5, 2)) == [1.5, 2.0]


def float_of(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return 0.5


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([float("nan")], "[0]"),
        ({"a": [1, {"b c": "\ud800"}]}, ".a[1]['b c']"),
        ({"a": {1: 2}}, ".a[1]"),
        ([[(1, 2)]], "[0][0]"),
        ([10**4000], "[0]"),
    ],
)
def test_what_is_no_json_data_is_named_by_its_place(value: object, place: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_json(value)
    assert caught.value.path == place


def test_data_of_any_depth_is_read_or_refused() -> None:
    for depth, fits in ((JSON_DEPTH, True), (JSON_DEPTH + 1, False), (100_000, False)):
        data: Any = []
        for _ in range(depth - 1):
            data = [data]
        assert is_json(data) is fits


IDS = st.one_of(
    st.text(max_size=3), st.sampled_from(["", "\0", "a\0", "\ud83d", "\ude00", "é", 1, None, "x" * 10_001])
)


@drawn(st.lists(IDS, max_size=4))
def test_many_ids_are_judged_as_each_of_them_is(ids: list[object]) -> None:
    assert are_ids(ids) == all(map(is_id, ids))
