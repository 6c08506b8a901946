"""Pagination: a listing is complete only where the source says that it ends.

A source that repeats a cursor or a page, ends before its own total, or stops at a full page
without a next one has not listed everything.  Nor has one that never ends: that sends only empty
pages, or more rows than the setting ``listing_rows`` allows.  What it sent is kept, but the listing
does not count as complete: nothing is removed because of it, and the next sync lists again.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from ..errors import UpstreamChanged
from ..model.entities import values_of
from ..model.loaders import Watermark
from ..model.query import Page
from ..model.tasks import ListingPosition
from ..model.values import datetime_text, is_datetime, is_id

EMPTY_PAGES = 1_000  # in a row, after which a listing has no end


def first_position(sync_token: str | None, began: float | None = None) -> ListingPosition:
    """The position before the first page of a listing that begins at a sync token, or at everything."""
    return ListingPosition(
        began=began, sync_token=sync_token, newest=sync_token, delta=sync_token is not None
    )


class PageTracker:
    """Follows one listing page by page and collects what speaks against it.

    ``position`` is stored with the task.  The cursors and pages seen so far (a few bytes each)
    are not: after a crash, a source that repeats itself is detected one round later.  A listing may
    name ``most`` rows; 0 means any number.
    """

    def __init__(
        self, name: str, position: ListingPosition, watermark: Watermark | None = None, *, most: int = 0
    ) -> None:
        self.name, self.position = name, position
        self.problem: UpstreamChanged | None = None
        self._watermark, self._most = watermark, most
        self._cursors = {hash(position.cursor)}
        self._pages: set[int] = set()
        self._empty = 0  # pages in a row

    def begin(self, began: float) -> None:
        """Set when the first request began, unless that is known."""
        if self.position.began is None:
            self.position = self.position.replace(began=began)

    def restart(self, began: float) -> None:
        """Begin at everything, without the sync token; ``began`` is when that was first requested."""
        self.position = first_position(None, began)
        self._cursors, self._pages = {hash(None)}, set()

    @property
    def uses_token(self) -> bool:
        """Whether the source gives the sync token; a time cannot be refused, only be ignored."""
        return self._watermark is None

    @property
    def consistent(self) -> bool:
        """Whether rows that a complete listing left out do not exist.

        A total that changed says that rows came or went meanwhile, and numbered pages may then
        have skipped one.  A row whose id is invalid may be any of those that were left out.
        """
        least, most = self.position.total or (0, 0)
        return least == most and not self.position.nameless

    @property
    def saw_everything(self) -> bool:
        """Whether the listing has named every row that existed all the time.

        In a listing that is sorted newest first, a row that changes meanwhile moves to the
        first page, which then is another one; the next listing names it.
        """
        newest_first = self._watermark is not None and self._watermark.newest_first
        return self.consistent and not (newest_first and self.position.number > 1)

    def take(self, page: Page[Any]) -> bool:
        """Count a page; whether the listing is complete with it, and without a problem."""
        changes = {**self._counts(page), **self._newest(page)}
        if self.position.number == 0 and page.complete_snapshot:
            changes["delta"] = False
        self.position = self.position.replace(**changes)
        evidence = self._repeated_cursor(page) if page.next is not None else self._falls_short(page)
        evidence = self._repeated_page(page) or evidence or self._endless(page)
        if evidence:
            self.problem = UpstreamChanged(
                f"{self.name}: {evidence}",
                hint="what came is kept and nothing is removed; sync again, or update the connector",
                page=self.position.number,
                listed=self.position.listed,
            )
        self.position = self.position.replace(number=self.position.number + 1, cursor=page.next)
        return page.next is None and self.problem is None

    def _counts(self, page: Page[Any]) -> dict[str, Any]:
        counts: dict[str, Any] = {"listed": self.position.listed + len(page.items)}
        if not all(is_id(item.id) for item in page.items):
            counts["nameless"] = True
        if page.total is not None:
            least, most = self.position.total or (page.total, page.total)
            counts["total"] = (min(least, page.total), max(most, page.total))
        return counts

    def _newest(self, page: Page[Any]) -> dict[str, Any]:
        """Where the next listing may begin, when this one is sorted by its watermark."""
        watermark = self._watermark
        if watermark is None or (watermark.newest_first and self.position.number > 0):
            return {}
        changes: dict[str, Any] = {}
        if watermark.newest_first:
            changes["first"] = f"{crc32(repr([item.id for item in page.items]).encode()):08x}"
        values = [values_of(item).get(watermark.field.name) for item in page.items]
        times = [datetime_text(value) for value in values if is_datetime(value)]
        known = [] if self.position.newest is None else [self.position.newest]
        return {**changes, "newest": max([*times, *known], default=None)}

    def _repeated_cursor(self, page: Page[Any]) -> str:
        cursor = hash(page.next)
        if cursor in self._cursors:
            return f"the cursor {page.next!r:.200} came twice; the listing has no end"
        self._cursors.add(cursor)
        return ""

    def _endless(self, page: Page[Any]) -> str:
        """Why a listing whose cursors are all new has no end."""
        self._empty = 0 if page.items or page.also or page.removed else self._empty + 1
        if self._empty >= EMPTY_PAGES and page.next is not None:
            return f"{self._empty:,} pages in a row were empty; the listing has no end"
        if self._most and self.position.listed > self._most:
            return f"it lists more than {self._most:,} rows, the most that the setting listing_rows allows"
        return ""

    def _repeated_page(self, page: Page[Any]) -> str:
        """A page that came before, under another cursor; a listing of changes may repeat itself."""
        if not page.items or self.position.delta:
            return ""
        page_hash = hash(repr([item._values["id"] for item in page.items]))  # an id may be anything
        if page_hash in self._pages:
            number = self.position.number + 1
            return f"page {number} brought the same {len(page.items)} items as one before"
        self._pages.add(page_hash)
        return ""

    def _falls_short(self, page: Page[Any]) -> str:
        """Why the last page cannot be the last; any number within a total that changed is accepted."""
        position = self.position
        if position.total is not None and not position.delta:
            least, most = position.total
            if least <= position.listed <= most:
                return ""
            total = f"{least}" if least == most else f"{least} to {most}"
            return f"the source says that it has {total} items, and listed {position.listed}"
        if page.size is not None and len(page.items) >= page.size:
            return f"the last page is full ({len(page.items)} items) and names no next one"
        return ""
