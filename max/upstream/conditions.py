"""Conditions: a page that the service calls not modified (status 304) need not come again.

Rule 1: a condition is sent for a page of a listing alone, and only while the database holds what the
page brought (storage/known_pages.py).  The loader's code is the same with and without.

Rule 2: one request is one page.  When a loader makes several requests for a page, one of them
may be as it was while another is not, so none of them gets a condition.

Rule 3: a validator belongs to a request with all its headers, and to the credential that it was sent with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from ..errors import LoaderFault
from .operations import attempt_under_way

HEADERS = (("etag", "if-none-match"), ("last-modified", "if-modified-since"))
LONGEST = 500  # characters of a validator; a longer one is no ETag


class PageUnchanged(BaseException):
    """The page is as it was.  No loader catches it by mistake, as it is no Exception."""


class Conditions:
    """The requests that a loader makes for one page, and the validators of their last attempt.

    ``known`` has those with which the page came that is stored, by the digest of the request.
    """

    def __init__(self, known: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
        self._known = known
        self._attempt: object = None
        self._requests: list[str] = []
        self._found: dict[str, tuple[str, ...]] = {}
        self.calls = 0  # of operations and raw loaders
        self.is_unchanged = False

    def headers(self, request: str) -> dict[str, str]:
        """The conditions for a request, by its digest; "" is one without conditions."""
        attempt = attempt_under_way()
        if attempt is not self._attempt:
            self._attempt, self._requests, self._found = attempt, [], {}
        self._requests.append(request)
        values = self._known.get(request, ()) if self._is_alone else ()
        return {name: value for (_, name), value in zip(HEADERS, values, strict=False) if value}

    def answered(self, request: str, headers: Mapping[str, str]) -> None:
        """A response has come; its validators."""
        values = tuple(headers.get(name, "") for name, _ in HEADERS)
        if any(values) and all(len(one) <= LONGEST and one.isascii() for one in values):
            self._found[request] = values

    def unchanged(self) -> PageUnchanged:
        """What ends the call of the loader: the one request for the page was answered with 304."""
        self.is_unchanged = True
        return PageUnchanged()

    @property
    def _is_alone(self) -> bool:
        return len(self._requests) == 1 and self.calls == 1

    @property
    def validators(self) -> Mapping[str, tuple[str, ...]]:
        """What is to be remembered of the page; nothing when several requests made it."""
        return self._found if self._is_alone else {}


_PAGE: ContextVar[tuple[Conditions | None, Any] | None] = ContextVar("the page that is loaded", default=None)


@contextmanager
def loading(conditions: Conditions | None, operation: Any) -> Iterator[None]:
    """Inside, an operation runs for a loader, for a page of a collection if there are conditions."""
    if conditions is not None:
        conditions.calls += 1
    outer = _PAGE.set((conditions, operation))
    try:
        yield
    finally:
        _PAGE.reset(outer)


def conditions_now(*, wanted: bool) -> Conditions | None:
    """The conditions of the page for which a request is about to be made; None outside of any.

    LoaderFault when conditions are ``wanted`` and the loader lists no collection.
    """
    page, attempt = _PAGE.get(), attempt_under_way()
    if page is None or attempt is None or attempt[1] is not page[1]:  # a request for a token, say
        return None
    if page[0] is None and wanted:
        raise LoaderFault(
            f"{page[1].name}: conditional=True is for the pages of a collection",
            hint="this is a bug of the connector: in other loaders, ask without it",
        )
    return page[0]
