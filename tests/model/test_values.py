"""Values: times as text that sorts in time order."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from max.model.entities import (
    FieldType,
)
from max.model.values import Kind, datetime_of, datetime_text
from tests.strategies import iso_forms, moments


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
