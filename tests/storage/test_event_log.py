"""The event log: numbers, cursors and expiry, against a plain list."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.errors import CursorExpired
from max.model.event_log import LoggedKind
from max.storage.event_log import (
    LONGEST_TEXT,
    PAGE,
    events_after,
    expire_events,
    newest_event,
    newest_of,
    record_event,
)
from max.storage.sqlite import SqliteConnection, connect, transaction
from tests.database_files import reader, writer

DAY = 86_400.0


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    """An empty database, outside a transaction."""
    with closing(connect(":memory:", cache=100)) as opened:
        yield opened


def record(connection: SqliteConnection, now: float, kind: LoggedKind = LoggedKind.SYNC_BEGUN) -> int:
    """One event at a time."""
    with transaction(connection):
        return record_event(connection, kind, {"at": now}, now=now)


def numbers(connection: SqliteConnection, after: int | None = None, **rest: Any) -> list[int]:
    """The numbers of every event behind a cursor, page after page."""
    found: list[int] = []
    while True:
        page = events_after(connection, after, **rest)
        found += [one.number for one in page.events]
        after = page.cursor
        if not page.more:
            return found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.floats(-5 * DAY, 5 * DAY)),
        st.tuples(st.just("expire"), st.integers(0, 6)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 4), st.data())
def test_p31_reading_from_any_cursor_yields_every_later_event_in_order_without_gaps(
    steps: list[tuple[str, float]], limit: int, data: st.DataObject
) -> None:
    with closing(connect(":memory:", cache=100)) as connection:
        now, kept, everything = 1e9, list[int](), list[int]()
        for what, value in steps:
            if what == "record":
                now += value  # the clock is also set back
                everything.append(record(connection, now))
                kept.append(everything[-1])
            else:
                with transaction(connection):
                    expire_events(connection, kept=int(value), kept_for=1e12)
                kept = kept[-max(1, int(value)) :]
        assert everything == sorted(set(everything))
        assert numbers(connection, limit=limit) == kept
        cursor = data.draw(st.sampled_from([0, *everything]))
        lost = [one for one in everything if one > cursor and one not in kept]
        if lost:
            with pytest.raises(CursorExpired, match="no longer stored"):
                events_after(connection, cursor)
        else:
            assert numbers(connection, cursor, limit=limit) == [one for one in kept if one > cursor]


def test_a_follower_that_waits_for_some_kinds_does_not_read_the_others_again(
    connection: SqliteConnection,
) -> None:
    wanted = [record(connection, 5.0, LoggedKind.SYNC_ENDED)]
    for n in range(3):
        record(connection, 6.0 + n)
    page = events_after(connection, kinds=["sync.ended"], limit=5)
    assert [one.number for one in page.events] == wanted
    assert page.cursor == newest_event(connection)


def test_what_is_expired_by_its_age_is_the_oldest_part_and_never_the_newest_event(
    connection: SqliteConnection,
) -> None:
    found = [record(connection, day * DAY) for day in (1, 2, 50, 3, 60)]
    with transaction(connection):
        assert not expire_events(connection, kept_for=20 * DAY)
    assert numbers(connection) == found[2:]  # what came behind one that is kept stays
    found.append(record(connection, 1_000 * DAY))
    with transaction(connection):
        expire_events(connection, kept_for=20 * DAY)
    assert numbers(connection) == found[-1:]


def test_many_events_expire_a_page_at_a_time(connection: SqliteConnection) -> None:
    with transaction(connection):
        for _ in range(2 * PAGE + 10):
            record_event(connection, LoggedKind.SYNC_BEGUN, {}, now=1.0)
    rounds = 1
    with transaction(connection):
        while expire_events(connection, kept=4):
            rounds += 1
    assert (rounds, len(numbers(connection))) == (3, 4)


def test_an_event_is_there_exactly_when_its_transaction_is(connection: SqliteConnection) -> None:
    record(connection, 1.0)
    with suppress(ZeroDivisionError), transaction(connection):
        record_event(connection, LoggedKind.SYNC_ENDED, {}, now=2.0)
        raise ZeroDivisionError
    assert [one.kind for one in events_after(connection).events] == ["sync.begun"]


def test_no_number_comes_twice_when_an_older_copy_of_the_file_is_put_back(tmp_path: Path) -> None:
    path, copy = tmp_path / "data.db", tmp_path / "copy.db"
    with writer(path) as connection:
        record_event(connection, LoggedKind.SYNC_BEGUN, {}, now=100.0)
    shutil.copy(path, copy)
    with writer(path) as connection:
        seen = [record_event(connection, LoggedKind.SYNC_ENDED, {}, now=101.0) for _ in range(3)]
    copy.replace(path)
    with reader(path) as connection, pytest.raises(CursorExpired, match="replaced by an older one"):
        events_after(connection, seen[-1])
    with writer(path) as connection:
        later = record_event(connection, LoggedKind.SYNC_BEGUN, {}, now=102.0)
    with reader(path) as connection:
        assert numbers(connection, seen[-1]) == [later]


def test_a_file_without_the_tables_has_no_events(connection: SqliteConnection) -> None:
    assert events_after(connection).events == ()
    assert (events_after(connection, 17).cursor, newest_event(connection)) == (17, 0)
    assert newest_of(connection, LoggedKind.SYNC_ENDED) is None
    assert not expire_events(connection)


def test_the_newest_of_a_kind_is_found_and_long_texts_are_cut(connection: SqliteConnection) -> None:
    with transaction(connection):
        for text in ("old", "x" * 10_000):
            record_event(connection, LoggedKind.SYNC_FAILURES, {"message": text}, now=1.0, sync="abc")
        record_event(connection, LoggedKind.SYNC_ENDED, {}, now=1.0)
    found = newest_of(connection, LoggedKind.SYNC_FAILURES)
    assert found is not None
    assert (found.sync, len(str(found.facts["message"]))) == ("abc", LONGEST_TEXT + 1)


def test_a_clock_far_in_the_future_gives_numbers_that_every_program_can_read(
    connection: SqliteConnection,
) -> None:
    assert record(connection, 1e300) == 2**52
    assert record(connection, 1.0) == 2**52 + 1
