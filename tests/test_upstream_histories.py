"""Whatever becomes of an upstream and of the syncs that copy it: in the end the copy is right.

A history is drawn as data: what happens upstream between syncs and between two answers of one,
which answers fail, where the process is killed or the sync is paused.  After it one sync is left
alone, and the database must equal the upstream; and no sync may ever hide what upstream had at
every moment since it began.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from max.execution import NO_OPTIONS
from tests.upstream_model import COLLECTIONS, KINDS, NICKED, NICKS
from tests.upstream_world import ALLOWED, RIGHT, Event, History, Sync, live

CHANGES = (
    *("crowd", "group", "box", "item", "item", "tag", "tag", "touch", "nick", "nick"),
    *("delete", "delete", "forget", "spoil", "heal"),
)
DISTURBANCES = (
    "broken",
    "offline",
    "denied",
    "again",
    "kill",
    "stop",
    "pause",
    "hesitate",
    "cancel",
    "cancel and kill",
    "join",
    "twice",
    "miscount",
    "forbid",
    "clock",
    "unread",
    "forgone",
    "withheld",
)
NUMBERS = st.integers(0, 23)
EVENTS = st.builds(Event, st.sampled_from(CHANGES), NUMBERS, NUMBERS)
TROUBLE = st.builds(Event, st.sampled_from(DISTURBANCES), NUMBERS)
BETWEEN = st.builds(Event, st.sampled_from(("source", "forbid", "clock", "abandon")), NUMBERS)
OPTIONS = st.sampled_from(
    [
        NO_OPTIONS,
        RIGHT,
        ALLOWED.replace(full=True),
        ALLOWED.replace(missing_only=True),
        ALLOWED.replace(if_stale=30.0),
        ALLOWED.replace(only=("Item",)),
        ALLOWED.replace(only=("Item.title", "Group")),
    ]
)
SYNCS = st.builds(
    Sync,
    st.lists(EVENTS | EVENTS | EVENTS | BETWEEN, max_size=8),
    st.dictionaries(st.integers(1, 12) | st.integers(1, 40), EVENTS | EVENTS | EVENTS | TROUBLE, max_size=12),
    st.booleans(),
    OPTIONS,
    st.none() | st.none() | st.integers(0, 60),
    st.none() | st.integers(0, 3),
)
HISTORIES = st.builds(
    History,
    st.tuples(*[st.sampled_from(KINDS)] * len(COLLECTIONS)),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple),
    st.lists(SYNCS, min_size=1, max_size=5).map(tuple),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.tuples(*[st.just("listed") | st.sampled_from(NICKS)] * len(NICKED)),
    st.booleans(),
)


@pytest.mark.usefixtures("either")
@given(HISTORIES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_the_copy_ends_equal_to_upstream_and_no_existing_row_was_ever_hidden(history: History) -> None:
    assert live(history) == {}
