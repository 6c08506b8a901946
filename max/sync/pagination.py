"""Listings that end where the source says: nothing is cut short in silence.

A source that repeats a cursor or a page, ends inside its own total, or stops at a full page
has not listed everything.  What it brought is kept, but its listing is not complete: nothing
is removed because of it, and the next sync lists again.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from ..errors import UpstreamChanged
from ..model.entities import values_of
from ..model.loaders import Watermark
from ..model.query import Page
from ..model.values import Json, datetime_text


def beginning(sync_token: str | None) -> dict[str, Json]:
    """What a task remembers of a listing before its first page; ``mark`` is the last one's.

    ``began`` is when its first request began, ``newest`` what its own mark would be so far.
    """
    place = {"number": 0, "cursor": None, "began": None}
    return {**place, "mark": sync_token, "newest": sync_token, "delta": sync_token is not None, "listed": 0}


class PageTracker:
    """One listing, page by page, with what speaks against it.

    ``payload`` is the task's own memory of it, as JSON data.  What only this process has seen
    (cursors and pages, a few bytes each) is forgotten with it: a source that repeats itself
    is then caught one round later.
    """

    def __init__(self, name: str, payload: dict[str, Any], watermark: Watermark | None = None) -> None:
        self.name, self.payload = name, payload
        self.problem: UpstreamChanged | None = None
        self._watermark = watermark
        self._cursors = {payload["cursor"]}
        self._pages: set[int] = set()

    def restart(self, began: float) -> None:
        """Begin anew, without the mark, at everything; ``began`` is when that was asked for."""
        self.payload |= {**beginning(None), "began": began}
        self.payload.pop("total", None)
        self._cursors, self._pages = {None}, set()

    @property
    def by_token(self) -> bool:
        """Whether the mark is the source's own; a time cannot be refused, only not be needed."""
        return self._watermark is None

    @property
    def proven(self) -> bool:
        """Whether what a complete listing has not named is not there.

        A total that moved says that something came or went meanwhile, and pages that count may
        have left something out.
        """
        least, most = self.payload.get("total", (0, 0))
        return bool(least == most)

    @property
    def sure(self) -> bool:
        """Whether everything was seen that was there from the beginning to the end.

        What changes while pages come newest first moves before the first of them: that page
        is another one then, and the next listing tells of it.
        """
        newest_first = self._watermark is not None and self._watermark.newest_first
        return self.proven and not (newest_first and self.payload["number"] > 1)

    def take(self, page: Page[Any]) -> bool:
        """Count a page in; whether the listing is complete with it, and sound."""
        payload = self.payload
        if payload["number"] == 0 and page.complete_snapshot:
            payload["delta"] = False
        if "listed" in payload:  # a task of an older version did not count
            self._count(page)
        self._look_for_newest(page)
        evidence = self._repeats(page) if page.next is not None else self._falls_short(page)
        evidence = self._page_again(page) or evidence
        if evidence:
            self.problem = UpstreamChanged(
                f"{self.name}: {evidence}",
                hint="what came is kept and nothing is removed; sync again, or update the connector",
                page=payload["number"],
                listed=payload.get("listed"),
            )
        payload |= {"number": payload["number"] + 1, "cursor": page.next}
        return page.next is None and self.problem is None

    def _count(self, page: Page[Any]) -> None:
        payload = self.payload
        payload["listed"] += len(page.items)
        if page.total is not None:
            least, most = payload.get("total", (page.total, page.total))
            payload["total"] = [min(least, page.total), max(most, page.total)]

    def _look_for_newest(self, page: Page[Any]) -> None:
        """Where the next listing may begin, of one that is sorted by its watermark."""
        watermark = self._watermark
        if watermark is None or (watermark.newest_first and self.payload["number"] > 0):
            return
        if watermark.newest_first:
            self.payload["first"] = f"{crc32(repr([item.id for item in page.items]).encode()):08x}"
        values = [values_of(item).get(watermark.field.name) for item in page.items]
        times = [datetime_text(value) for value in values if value is not None]
        known = self.payload.get("newest")
        self.payload["newest"] = max([*times, known] if known else times, default=None)

    def _repeats(self, page: Page[Any]) -> str:
        if page.next in self._cursors:
            return f"the cursor {page.next!r} came twice; the listing has no end"
        self._cursors.add(page.next)
        return ""

    def _page_again(self, page: Page[Any]) -> str:
        """A page that came before, under another cursor; a change feed may repeat itself."""
        if not page.items or self.payload["delta"]:
            return ""
        page_hash = hash(tuple(item._values["id"] for item in page.items))
        if page_hash in self._pages:
            return f"page {self.payload['number'] + 1} brought the same {len(page.items)} items as one before"
        self._pages.add(page_hash)
        return ""

    def _falls_short(self, page: Page[Any]) -> str:
        """Why the last page cannot be the last; a total that moved meanwhile is believed either way."""
        payload = self.payload
        if "total" in payload and not payload["delta"]:
            least, most = payload["total"]
            if least <= payload["listed"] <= most:
                return ""
            total = f"{least}" if least == most else f"{least} to {most}"
            return f"the source says that it has {total} items, and listed {payload['listed']}"
        if page.size is not None and len(page.items) >= page.size:
            return f"the last page is full ({len(page.items)} items) and names no next one"
        return ""
