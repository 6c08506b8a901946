"""Pagination: how a listing goes from page to page, and what speaks for it being complete.

A source that repeats a cursor or a page, ends before its own total, or stops at a full page
without a next one has not listed everything.  Nor has one that never ends: that sends only empty
pages, or more rows than the setting ``listing_rows`` allows.  What it sent is kept, but the listing
does not count as complete: nothing is removed because of it, and the next sync lists again.

A complete listing may still have skipped a row.  Where pages are numbered, a row that is deleted
meanwhile moves all later ones up, one of them onto a page that was already read:

    page 1   a b    then a is deleted
    page 2   d      c is now on page 1; the listing is complete, and c exists

So a listing is *proven* only if it has one page, if it is declared stable, if the number of rows
that it showed is the total that the source gave with every page, or if the pass before it showed
the same rows in the same order.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

from ..errors import UpstreamChanged
from ..model.delivery import ListingPage
from ..model.entities import Ref
from ..model.loaders import CollectionLoader, Loader, PageRequest, Watermark
from ..model.mapping import column_of, have_ids, ids_of
from ..model.query import Page
from ..model.tasks import ListingPosition, ListTask
from ..model.values import are_ids, datetime_of, datetime_text, is_datetime

EMPTY_PAGES = 1_000  # in a row, after which a listing has no end
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # the earliest time that sources can be expected to read
EARLIEST = "1970"  # a watermark before it is no time of a change; many sources cannot read such times


def first_position(sync_token: str | None) -> ListingPosition:
    """The position before the first page of a listing that begins at a sync token, or at everything."""
    return ListingPosition(sync_token=sync_token, newest=sync_token, delta=sync_token is not None)


class PageTracker:
    """Follows one listing page by page and collects what speaks against it.

    ``position`` is stored with the task.  The cursors and pages seen so far (a few bytes each)
    are not: after a crash, a source that repeats itself is detected one round later.  A listing may
    name ``most`` rows; 0 means any number.
    """

    def __init__(
        self,
        name: str,
        position: ListingPosition,
        watermark: Watermark | None = None,
        *,
        stable: bool = False,
        most: int = 0,
    ) -> None:
        self.name, self.position = name, position
        self.problem: UpstreamChanged | None = None
        self._watermark, self._stable, self._most = watermark, stable, most
        self._empty = 0  # pages in a row
        self._cursors = {hash(position.cursor)}
        self._pages: set[int] = set()

    def begin(self, began: float) -> None:
        """Set when the first request began, unless that is known."""
        if self.position.began is None:
            self.position = self.position.replace(began=began)

    def restart(self, began: float) -> None:
        """Begin at everything, without the sync token; ``began`` is when that was first requested."""
        self._start(first_position(None).replace(began=began))

    def give_up(self, number: int) -> None:
        """So many items of the listing could not be read."""
        self.position = self.position.replace(failed=self.position.failed + number)

    def repeat(self) -> None:
        """Begin another pass over the same, to see whether it shows the same."""
        past = self.position
        self._start(first_position(past.sync_token).replace(repeats=past.content, passes=past.passes + 1))

    def _start(self, position: ListingPosition) -> None:
        self.position, self._empty = position, 0
        self._cursors, self._pages = {hash(None)}, set()

    @property
    def uses_token(self) -> bool:
        """Whether the source gives the sync token; a time cannot be refused, only be ignored."""
        return self._watermark is None

    @property
    def _needs_count(self) -> bool:
        """Whether the pages alone do not prove that the listing skipped no row."""
        position = self.position
        several = position.number > 1 and (position.total is not None or not self._is_stable)
        return several or position.nameless

    @property
    def _is_stable(self) -> bool:
        """A row that changes moves to the first page of changes that are sorted newest first."""
        newest_first = self._watermark is not None and self._watermark.newest_first
        return self._stable and not (newest_first and self.position.delta)

    def is_proven(self, shown: int) -> bool:
        """Whether a listing that has ended and showed this many different rows cannot have skipped one."""
        position = self.position
        if position.nameless:  # it may be any of the rows that were left out
            return False
        if position.number <= 1 or self._is_stable or position.repeats == position.content:
            return True
        return position.total == (shown, shown) and not position.delta

    def take(self, page: Page[Any]) -> bool:
        """Count a page; whether the listing is complete with it, and certainly so."""
        named = [*ids_of(page.items), *page.failed]
        position, ids = self.position, repr(named).encode()
        changes = {**self._newest(page), **_total(page, position)}
        if position.number == 0 and page.complete_snapshot:
            changes["delta"] = False
        self.position = position.replace(
            **changes,
            content=crc32(ids, position.content),
            number=position.number + 1,
            cursor=page.next,
            ended=page.next is None,
            listed=position.listed + len(named),
            token=page.sync_token,
            nameless=position.nameless or not (have_ids(page.items) and are_ids(list(page.failed))),
        )
        self._set_problem(self._repeated_page(ids, len(named)) or self._endless(page) or self._end(page))
        return self.position.ended and self.problem is None and not self._needs_count

    def _end(self, page: Page[Any]) -> str:
        """What is wrong with the cursor of a page, or with the end of the listing."""
        if page.next is not None:
            return self._repeated_cursor(page.next)
        if self.position.total is None:
            return _is_full(page)
        if self.position.number > 1:
            return ""
        return self._falls_short(len({*map(repr, ids_of(page.items))}) + len(page.failed))

    def count(self, shown: int) -> None:
        """Compare how many different rows the whole listing showed with its total."""
        self._set_problem(self._falls_short(shown))

    def _set_problem(self, evidence: str) -> None:
        if evidence:
            self.problem = UpstreamChanged(
                f"{self.name}: {evidence}",
                hint="what came is kept and nothing is removed; sync again, or update the connector",
                page=self.position.number - 1,
                listed=self.position.listed,
            )

    def _newest(self, page: Page[Any]) -> dict[str, Any]:
        """Where the next listing may begin, when this one is sorted by its watermark.

        A time after this listing began is no bookmark: whatever changes until then would be
        skipped.
        """
        watermark = self._watermark
        if watermark is None or (watermark.newest_first and self.position.number > 0):
            return {}
        now = datetime_text(datetime.fromtimestamp(self.position.began or 0.0, UTC))
        values = column_of(page.items, watermark.field.name)
        times = [datetime_text(value) for value in values if is_datetime(value)]
        times = [time for time in [*times, self.position.newest] if time and EARLIEST <= time <= now]
        return {"newest": max(times, default=None)}

    def _repeated_cursor(self, cursor: str) -> str:
        if hash(cursor) in self._cursors:
            return f"the cursor {cursor!r:.200} came twice; the listing has no end"
        self._cursors.add(hash(cursor))
        return ""

    def _endless(self, page: Page[Any]) -> str:
        """Why a listing whose cursors are all new has no end."""
        self._empty = 0 if page.items or page.also or page.removed or page.failed else self._empty + 1
        if self._empty >= EMPTY_PAGES and page.next is not None:
            return f"{self._empty:,} pages in a row were empty; the listing has no end"
        if self._most and self.position.listed > self._most:
            return f"it lists more than {self._most:,} rows, the most that the setting listing_rows allows"
        return ""

    def _repeated_page(self, ids: bytes, size: int) -> str:
        """A page that came before, under another cursor; a listing of changes may repeat itself."""
        if not size or self.position.delta:
            return ""
        page_hash = hash(ids)
        if page_hash in self._pages:
            return f"page {self.position.number} brought the same {size} items as one before"
        self._pages.add(page_hash)
        return ""

    def _falls_short(self, shown: int) -> str:
        """Why the listing cannot be whole; any number within a total that changed is accepted."""
        position = self.position
        if position.total is None or position.delta:
            return ""
        least, most = position.total
        if least <= shown <= most:
            return ""
        total = f"{least}" if least == most else f"{least} to {most}"
        return f"the source says that it has {total} items, and listed {shown}"


def _total(page: Page[Any], position: ListingPosition) -> dict[str, Any]:
    if page.total is None:
        return {}
    least, most = position.total or (page.total, page.total)
    return {"total": (min(least, page.total), max(most, page.total))}


def _is_full(page: Page[Any]) -> str:
    """Why a last page cannot be the last."""
    number = len(page.items) + len(page.failed)
    if page.size is not None and number >= page.size:
        return f"the last page is full ({number} items) and names no next one"
    return ""


def listing_page(
    spec: ListTask,
    parent: Ref[Any],
    loader: CollectionLoader[Any, Any, Any],
    tracker: PageTracker,
    *,
    last: bool,
) -> ListingPage:
    """The page that the tracker has just taken."""
    position = tracker.position
    return ListingPage(
        parent,
        loader.lists,
        position.number - 1,
        last,
        position.began or 0.0,
        delta=position.delta,
        bookmark=position.token if tracker.uses_token else position.newest,
        ids_only=spec.ids_only,
        whole=not position.failed,
    )


def page_request(position: ListingPosition, loader: Loader[Any], *, ids_only: bool) -> PageRequest:
    """The request for a page: its cursor, and since when."""
    watermark = loader.watermark if isinstance(loader, CollectionLoader) else None
    token = position.sync_token
    if watermark is None:
        return PageRequest(position.cursor, token, ids_only=ids_only)
    overlap = watermark.overlap or timedelta(0)
    since = None if token is None else max(datetime_of(token), EPOCH + overlap) - overlap
    return PageRequest(position.cursor, since=since, ids_only=ids_only)
