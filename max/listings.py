"""Listings that end where the source says: nothing is cut short in silence.

A source that repeats a cursor or a page, ends inside its own total, or stops at a full page
has not listed everything.  What it brought is kept, but its listing is not complete: nothing
is removed because of it, and the next sync lists again.
"""

from __future__ import annotations

from typing import Any

from .core import Page
from .entities import Json
from .errors import UpstreamChanged


def beginning(mark: str | None) -> dict[str, Json]:
    """What a task remembers of a listing before its first page; ``mark`` is the last one's."""
    return {"number": 0, "cursor": None, "mark": mark, "delta": mark is not None, "listed": 0}


class Scan:
    """One listing, page by page, with what speaks against it.

    ``payload`` is the task's own memory of it, as JSON data.  What only this process has seen
    (cursors and pages, a few bytes each) is forgotten with it: a source that repeats itself
    is then caught one round later.
    """

    def __init__(self, name: str, payload: dict[str, Any]) -> None:
        self.payload = payload
        self.problem: UpstreamChanged | None = None
        self._name = name
        self._cursors = {payload["cursor"]}
        self._pages: set[int] = set()

    def take(self, page: Page[Any]) -> bool:
        """Count a page in; whether the listing is complete with it, and sound."""
        payload = self.payload
        if payload["number"] == 0 and page.full:
            payload["delta"] = False
        if "listed" in payload:  # a task of an older version did not count
            self._count(page)
        evidence = self._repeats(page) if page.next is not None else self._falls_short(page)
        evidence = self._page_again(page) or evidence
        if evidence:
            self.problem = UpstreamChanged(
                f"{self._name}: {evidence}",
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
