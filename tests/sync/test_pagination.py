"""A listing ends where its source says, or fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max import Status
from max.connecting import Env, Loader, Page, PageRequest, Ref
from max.model.tasks import ListingPosition, ListTask
from max.sync.pagination import EMPTY_PAGES, PageTracker, first_position
from tests.sample import SampleRoot, Thing, sample
from tests.scripted import synced

Pages = Sequence[Page[Thing]]


def things(first: int, many: int) -> list[Thing]:
    return [Thing(str(n), title="x") for n in range(first, first + many)]


def listing(*sizes: int, total: int | None = None, size: int | None = None) -> list[Page[Thing]]:
    """Pages with these numbers of items, linked by cursors."""
    pages, first = [], 0
    for number, many in enumerate(sizes):
        following = f"p{number + 1}" if number + 1 < len(sizes) else None
        pages.append(Page(things(first, many), next=following, total=total, size=size))
        first += many
    return pages


def take(pages: Pages, *, sync_token: str | None = None, resumed: bool = False) -> tuple[list[bool], str]:
    """After which pages the listing was complete, and the problem that it found."""
    tracker = PageTracker("SampleRoot:root.things", first_position(sync_token))
    complete, shown = [], set[str]()
    for page in pages:
        tracker.take(page)
        shown |= {item.id for item in page.items}
        if tracker.position.ended and tracker.problem is None:
            tracker.count(len(shown))
        complete.append(tracker.position.ended and tracker.problem is None)
        if tracker.problem is not None:
            return complete, tracker.problem.message
        if resumed:
            stored = ListTask("SampleRoot", "things", "root", position=tracker.position).to_json()
            read = ListTask.from_json(json.loads(json.dumps(stored))).position
            assert read == tracker.position
            tracker = PageTracker("SampleRoot:root.things", tracker.position)
    return complete, ""


# -- the tracker ------------------------------------------------------------------------


def test_a_listing_is_complete_with_its_last_page() -> None:
    assert take(listing(3, 3, 1)) == ([False, False, True], "")
    assert take(listing(0)) == ([True], "")


@pytest.mark.parametrize("cursor", ["p1", "p2"])
def test_a_repeated_cursor_is_refused(cursor: str) -> None:
    pages = listing(2, 2, 2)
    pages[2] = pages[2].replace(next=cursor)
    complete, problem = take(pages)
    assert complete == [False, False, False]
    assert problem == f"SampleRoot:root.things: the cursor {cursor!r} came twice; the listing has no end"


def test_a_resumed_listing_knows_the_cursor_that_it_began_with() -> None:
    tracker = PageTracker("it", ListingPosition(number=4, cursor="p4"))
    assert not tracker.take(Page(things(0, 2), next="p4"))
    assert tracker.problem is not None
    assert "'p4' came twice" in tracker.problem.message


def test_a_repeated_page_is_refused_unless_it_is_empty() -> None:
    again = [*listing(2, 2, 2)[:2], Page(things(0, 2))]
    assert "page 3 brought the same 2 items" in take(again)[1]
    assert take(listing(2, 0, 0, 1)) == ([False, False, False, True], "")


def test_a_listing_of_changes_may_repeat_itself_and_ignores_totals() -> None:
    pages = [Page(things(0, 1), next="p1", total=9), Page(things(0, 1), total=9)]
    assert take(pages, sync_token="m") == ([False, True], "")


@pytest.mark.parametrize(("total", "shown"), [(7, "7"), (4, "4")])
def test_a_wrong_total_is_reported_with_both_numbers(total: int, shown: str) -> None:
    complete, problem = take(listing(3, 3, total=total))
    assert complete == [False, False]
    assert problem.endswith(f"the source says that it has {shown} items, and listed 6")


@pytest.mark.parametrize(("arrived", "sound"), [(5, False), (6, True), (7, True), (8, True), (9, False)])
def test_any_number_within_a_total_that_changed_is_accepted(arrived: int, sound: bool) -> None:
    pages = listing(3, arrived - 3)
    pages[0], pages[1] = pages[0].replace(total=6), pages[1].replace(total=8)
    complete, problem = take(pages)
    assert complete == [False, sound]
    assert ("6 to 8 items" in problem) is not sound


@pytest.mark.parametrize("sync_token", [None, "m"])
def test_a_full_last_page_is_refused_where_the_last_page_is_always_shorter(
    sync_token: str | None,
) -> None:
    assert "the last page is full (3 items)" in take(listing(3, 3, size=3), sync_token=sync_token)[1]
    assert take(listing(3, 2, size=3), sync_token=sync_token) == ([False, True], "")


def test_a_full_last_page_is_accepted_with_a_matching_total() -> None:
    assert take(listing(3, 3, size=3, total=6)) == ([False, True], "")


def test_a_complete_snapshot_makes_it_a_full_listing() -> None:
    pages = listing(3, 3, total=7)
    pages[0] = pages[0].replace(complete_snapshot=True)
    assert "7 items, and listed 6" in take(pages, sync_token="m")[1]


def test_a_listing_of_empty_pages_ends_with_an_error_though_every_cursor_is_new() -> None:
    tracker = PageTracker("it", first_position(None))
    pages = 0
    while tracker.problem is None:
        pages += 1
        assert not tracker.take(Page([], next=f"p{pages}"))
    assert pages == EMPTY_PAGES
    assert tracker.problem.message == "it: 1,000 pages in a row were empty; the listing has no end"


def test_a_page_that_brought_something_begins_the_count_of_empty_pages_again() -> None:
    tracker = PageTracker("it", first_position(None))
    for number in range(2 * EMPTY_PAGES):
        brings = number == EMPTY_PAGES // 2
        tracker.take(Page([], next=f"p{number}", removed=[Thing.ref("1")] if brings else []))
        assert (tracker.problem is not None) is (number >= EMPTY_PAGES + EMPTY_PAGES // 2)
        if tracker.problem:
            break


def test_a_listing_may_be_bounded_and_says_which_setting_did_it() -> None:
    tracker = PageTracker("it", first_position(None), most=5)
    assert not tracker.take(Page(things(0, 5), next="p1"))
    assert tracker.problem is None
    assert not tracker.take(Page(things(5, 5), next="p2"))
    assert tracker.problem is not None
    assert "more than 5 rows, the most that the setting listing_rows allows" in tracker.problem.message


sizes = st.lists(st.integers(1, 4), min_size=2, max_size=8)


@given(sizes, st.data(), st.booleans())
@settings(deadline=None, max_examples=100)
def test_a_missing_page_is_detected_with_a_total(
    sizes: list[int], data: st.DataObject, resumed: bool
) -> None:
    pages = listing(*sizes, total=sum(sizes))
    assert take(pages, resumed=resumed) == ([False] * (len(pages) - 1) + [True], "")
    lost = data.draw(st.integers(0, len(pages) - 1))
    rest = [*pages[:lost], *pages[lost + 1 :]]
    rest[-1] = rest[-1].replace(next=None)
    assert not any(take(rest, resumed=resumed)[0])


@given(sizes, st.data(), st.booleans())
@settings(deadline=None, max_examples=100)
def test_a_page_in_place_of_another_is_detected(sizes: list[int], data: st.DataObject, total: bool) -> None:
    pages = listing(*sizes, total=sum(sizes) if total else None)
    lost = data.draw(st.integers(1, len(pages) - 1))
    instead = data.draw(st.integers(0, lost - 1))
    pages[lost] = pages[lost].replace(items=pages[instead].items)
    assert not any(take(pages)[0])


# -- in a sync ----------------------------------------------------------------------------


def test_an_inconsistent_listing_keeps_its_rows_removes_nothing_and_stores_no_sync_token(path: Path) -> None:
    asked: list[str | None] = []
    answers: list[Page[Any]] = [
        Page(things(0, 3), total=3, sync_token="first"),
        Page(things(1, 3), total=9, sync_token="second", complete_snapshot=True),
        Page(things(1, 2), total=2, sync_token="third", complete_snapshot=True),
    ]

    @Loader.collection(SampleRoot.things, brings=[Thing.title])
    async def list_things(parent: Ref[SampleRoot], request: PageRequest, env: Env[Any]) -> Page[Thing]:
        asked.append(request.sync_token)
        return answers.pop(0)

    connector = sample(loaders=[list_things])
    statuses, members = [], []
    for _ in range(3):
        result, ids = synced(connector, path, SampleRoot.things)
        statuses.append(result.status)
        members.append(ids)
    assert statuses == [Status.COMPLETED, Status.PARTIAL, Status.COMPLETED]
    assert members == [["0", "1", "2"], ["0", "1", "2", "3"], ["1", "2"]]
    assert asked == [None, "first", "first"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.db"
