"""A service of the author's own rows: it lists them in a dialect, and fails on request."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime

from ..model.values import Json
from .dialects import Cursors, Dialect, Part, Relay, asks_for, cut
from .server import STATUSES, FaultKind, Handler, LocalServer, Request, Response

Rows = Sequence[Json] | Callable[[Request], Sequence[Json]]

TOKEN = "POST /token"  # noqa: S105  # the route that issues a new bearer token


@dataclass(frozen=True)
class Fault:
    """A fault on one page: ``page`` counts from 0 in the listing at ``path``.

    It happens this many ``times``; after that the page is sent as it is.  ``retry_after`` goes with
    a status: seconds, or a text, such as a date.
    """

    kind: FaultKind
    path: str
    page: int
    times: int = 1
    retry_after: float | str | None = None


@dataclass(frozen=True)
class RateLimit:
    """At most so many ``calls`` in each window of ``per`` seconds; then ``status``, with Retry-After.

    Every answer says what is left, and when the window ends, in seconds since the epoch.
    """

    calls: int
    per: float
    status: int = 429
    remaining: str = "x-ratelimit-remaining"
    reset: str = "x-ratelimit-reset"


class ScriptedUpstream(LocalServer):
    """An HTTP service that lists the given rows, with the faults that were injected.

    ``listings`` has the rows by path, or a function of the Request that returns them; a ``{}`` in the
    path means any one piece, ``GET path/ID`` is one row.  A name without a slash is a connection of
    GraphQL: it is listed by every POST whose query asks for it.  Change the rows whenever you like.

    ``dialect`` says how it pages; ``dialects`` has that of single paths.  ``routes`` has what else it
    answers, by ``"GET /me"``: data, a Response, or a function of the Request that returns one.
    With ``token``, every request needs the newest bearer token, which ``POST /token`` renews.
    ``etags`` and ``modified`` (a field with times) answer conditions with 304.  ``served`` counts
    every complete page, ``unchanged`` every 304, both by address.
    """

    def __init__(
        self,
        listings: Mapping[str, Rows],
        *,
        page_size: int = 10,
        token: str | None = None,
        dialect: Dialect | None = None,
        dialects: Mapping[str, Dialect] | None = None,
        routes: Mapping[str, Json | Response | Handler] | None = None,
        key: str = "id",
        etags: bool = False,
        modified: str | None = None,
        limit: RateLimit | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(clock)
        self.listings, self.page_size, self.token = dict(listings), page_size, token
        self.dialect, self.dialects = dialect or Cursors(), dict(dialects or {})
        self.routes, self.key = {TOKEN: self._new_token, **(routes or {})}, key
        self.etags, self.modified, self.limit = etags, modified, limit
        self.served: Counter[str] = Counter()
        self.unchanged: Counter[str] = Counter()
        self._faults: dict[Fault, int] = {}
        self._tokens = 0
        self._window = (-math.inf, 0)  # when it began, and the calls in it

    def inject(self, *faults: Fault) -> None:
        """Have these faults from now on, and no others."""
        self._faults = {fault: fault.times for fault in faults}

    def expire(self) -> None:
        """Refuse the token from now on; ``POST /token`` tells the next one."""
        self._tokens += 1
        self.token = f"renewed-{self._tokens}"

    def address(self, request: Request) -> str:
        """The target; of a question in GraphQL, also what it asks for."""
        name = self._connection(request)
        after = request.get("variables.after") if name else None
        return f"{request.target}{f'#{name}' if name else ''}{f'?after={after}' if after else ''}"

    def sent(self, request: Request, response: Response) -> None:
        """Count a page that has arrived."""
        if response.status == 304:
            self.unchanged[self.address(request)] += 1
        elif response.status == 200 and self._is_listing(request):
            self.served[self.address(request)] += 1

    # -- answering ---------------------------------------------------------------------------

    async def answer(self, request: Request) -> tuple[Response, FaultKind | None]:
        """The rate limit first, then the token, then the data."""
        headers = self._limit_headers()
        if self.limit and self._window[1] > self.limit.calls:
            wait = {
                **headers,
                "retry-after": f"{math.ceil(self._window[0] + self.limit.per - self._clock())}",
            }
            return Response({"error": "too many requests"}, self.limit.status, wait), None
        response, kind = await self._routed(request)
        return replace(response, headers={**headers, **response.headers}), kind

    def _limit_headers(self) -> dict[str, str]:
        if self.limit is None:
            return {}
        began, calls = self._window
        fresh = self._clock() >= began + self.limit.per
        self._window = began, calls = (self._clock(), 1) if fresh else (began, calls + 1)
        left, end = max(0, self.limit.calls - calls), math.ceil(began + self.limit.per)
        return {self.limit.remaining: str(left), self.limit.reset: str(end)}

    async def _routed(self, request: Request) -> tuple[Response, FaultKind | None]:
        for route, handler in self.routes.items():
            method, _, path = route.rpartition(" ")
            pieces = _pieces(path, request.path)
            if pieces is not None and method in ("", request.method):
                if route != TOKEN and (refused := self._refused(request)):
                    return refused, None
                return await _handled(handler, replace(request, pieces=pieces)), None
        for path, rows in self.listings.items():
            if (at := self._matched(path, request)) is not None:
                return self._listed(path, rows, at)
        return self._one_row(request), None

    def _listed(self, path: str, rows: Rows, request: Request) -> tuple[Response, FaultKind | None]:
        """A page, and the fault with which it is sent."""
        default = self.dialect if path.startswith("/") or isinstance(self.dialect, Relay) else Relay()
        dialect = self.dialects.get(path, default)
        everything = dialect.chosen(rows(request) if callable(rows) else rows, request)
        part = cut(everything, *dialect.place(request, self.page_size))
        fault = self._due(path, part.number)
        kind = fault.kind if fault else None
        if kind is FaultKind.EXPIRE:
            self.expire()
        if refused := self._refused(request):
            return refused, None
        if fault and kind in STATUSES and kind is not FaultKind.EXPIRE:
            asked = fault.retry_after
            wait = f"{asked:g}" if isinstance(asked, int | float) else asked
            headers = {} if wait is None else {"retry-after": wait}
            return Response({"error": kind.replace("_", " ")}, STATUSES[kind], headers), kind
        response = dialect.answer(request, _spoilt(part, everything, kind))
        return self._conditional(request, response, part.rows), kind

    def _one_row(self, request: Request) -> Response:
        """The row at ``path/ID``, or 404."""
        path, _, id = request.path.rpartition("/")
        for name, rows in self.listings.items():
            if (at := self._matched(name, replace(request, target=path))) is not None:
                if refused := self._refused(request):
                    return refused
                for row in rows(at) if callable(rows) else rows:
                    if str(row[self.key]) == id:
                        return self._conditional(request, Response(row), [row])
                return Response({"error": "no such row"}, 404)
        return Response({"error": "no such listing"}, 404)

    def _conditional(self, request: Request, response: Response, rows: Sequence[Json]) -> Response:
        """The answer, or 304 when the request has a condition that says so."""
        headers = dict(response.headers)
        if self.etags:
            text = json.dumps([response.data, headers.get("link")]).encode()
            headers["etag"] = f'"{hashlib.sha256(text).hexdigest()[:16]}"'
        times = [row[self.modified] for row in rows if row.get(self.modified)] if self.modified else []
        if times:
            headers["last-modified"] = formatdate(max(map(_seconds, times)), usegmt=True)
        if _is_unchanged(request, headers):
            return Response(status=304, headers=headers)
        return replace(response, headers=headers)

    def _refused(self, request: Request) -> Response | None:
        if self.token is None or request.headers.get("authorization") == f"Bearer {self.token}":
            return None
        return Response({"error": "unknown token"}, 401)

    def _new_token(self, request: Request) -> Response:
        self.expire()
        return Response({"token": self.token})

    def _due(self, path: str, page: int) -> Fault | None:
        for fault, left in self._faults.items():
            if (fault.path, fault.page) == (path, page) and left > 0:
                self._faults[fault] = left - 1
                return fault
        return None

    def _matched(self, path: str, request: Request) -> Request | None:
        """The request with the pieces of a listing's path; None when it is for another one."""
        if not path.startswith("/"):
            return replace(request, pieces=(path,)) if asks_for(request, path) else None
        pieces = _pieces(path, request.path)
        return None if pieces is None else replace(request, pieces=pieces)

    def _connection(self, request: Request) -> str | None:
        names = (name for name in self.listings if not name.startswith("/"))
        return next((name for name in names if asks_for(request, name)), None)

    def _is_listing(self, request: Request) -> bool:
        return any(self._matched(path, request) is not None for path in self.listings)


def _spoilt(part: Part, everything: Sequence[Json], kind: FaultKind | None) -> Part:
    """A part of a listing with a fault in it."""
    if kind is FaultKind.SKIP:
        return cut(everything, part.start + part.size, part.size)
    if kind is FaultKind.REPEAT:
        return part._replace(next=part.start)
    if kind is FaultKind.EMPTY:
        return part._replace(rows=[])
    if kind is FaultKind.DUPLICATE:
        before = everything[max(0, part.start - 1) : part.start] or part.rows[-1:]
        return part._replace(rows=[*before, *part.rows])
    if kind is FaultKind.WRONG_TOTAL:
        return part._replace(total=part.total + 1)
    return part


def _pieces(pattern: str, path: str) -> tuple[str, ...] | None:
    """What each ``{}`` is in a path; None when the path is another one."""
    found = re.fullmatch("([^/]+)".join(map(re.escape, pattern.split("{}"))), path)
    return found.groups() if found else None


async def _handled(handler: Json | Response | Handler, request: Request) -> Response:
    made = handler(request) if callable(handler) else handler
    made = await made if inspect.isawaitable(made) else made
    return made if isinstance(made, Response) else Response(made)


def _seconds(time: str | float) -> float:
    """Seconds since the epoch of a time of a row."""
    if isinstance(time, int | float):
        return float(time)
    moment = datetime.fromisoformat(time)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_unchanged(request: Request, headers: Mapping[str, str]) -> bool:
    """Whether a request's condition says that its sender has this answer already."""
    if (etag := request.headers.get("if-none-match")) is not None:
        return etag == headers.get("etag")
    since, at = request.headers.get("if-modified-since"), headers.get("last-modified")
    return bool(since and at) and parsedate_to_datetime(str(since)) >= parsedate_to_datetime(str(at))
