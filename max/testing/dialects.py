"""How services page, each as a small value: which part of a listing a request asks for, and how it is sent.

A dialect of your own is a class with the two methods of ``Dialect``:

    >>> class Skips(Dialect):
    ...     def place(self, request, size):
    ...         return request.count("skip", 0), size
    ...
    ...     def answer(self, request, part):
    ...         return Response({"results": list(part.rows), "more": part.next is not None})
    >>> part = cut([1, 2, 3], *Skips().place(Request("GET", "/things?skip=2"), 2))
    >>> Skips().answer(Request("GET", "/things?skip=2"), part).data
    {'results': [3], 'more': False}

Parameters are read from the address, else from the JSON body at a dotted path: a search by POST needs
no dialect of its own.  Keys of an answer are dotted paths as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..model.values import Json
from .server import Request, Response


class Part(NamedTuple):
    """The part of a listing that a request asks for: its rows, and where they are."""

    rows: Sequence[Json]
    start: int  # the place of the first row, from 0
    size: int  # rows of a full page
    total: int  # rows of the listing
    next: int | None  # where the next page starts; None on the last

    @property
    def number(self) -> int:
        """The page's number, from 0."""
        return self.start // self.size


def cut(rows: Sequence[Json], start: int, size: int) -> Part:
    """The part of a listing that begins at a place."""
    end = start + size
    return Part(rows[start:end], start, size, len(rows), end if end < len(rows) else None)


def nested(parts: Mapping[str, Json]) -> dict[str, Json]:
    """An object from dotted paths; a path that is empty is left out."""
    made: dict[str, Json] = {}
    for path, value in parts.items():
        *above, last = path.split(".")
        inner = made
        for key in above:
            inner = inner.setdefault(key, {})
        if path:
            inner[last] = value
    return made


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a service pages.

    ``since`` names the parameters that leave out older rows, each with the field that it is compared
    with: ``{"since": "updated_at"}``; ``equal`` the same for parameters that must be equal.  Texts are
    compared as they are: write times in rows in the form in which the connector sends them.
    """

    since: Mapping[str, str] = field(default_factory=dict)
    equal: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, rows: Sequence[Json], request: Request) -> Sequence[Json]:
        """The rows of a listing that match the request's filters."""
        for parameter, name in self.since.items():
            if (least := request.get(parameter)) is not None:
                rows = [row for row in rows if _at_least(row[name], least)]
        for parameter, name in self.equal.items():
            if (value := request.get(parameter)) is not None:
                rows = [row for row in rows if str(row[name]) == value]
        return rows

    def place(self, request: Request, size: int) -> tuple[int, int]:
        """Where the part that is asked for begins, from 0, and how many rows a full one has."""
        raise NotImplementedError

    def answer(self, request: Request, part: Part) -> Response:
        """The answer with a part of a listing."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Cursors(Dialect):
    """A token of the service leads to the next page: ``GET path?cursor=page-1``.

    HubSpot: ``Cursors(cursor="after", items="results", next="paging.next.after", total="")``; Google:
    ``Cursors(cursor="pageToken", limit="pageSize", items="files", next="nextPageToken", total="")``.  On
    the last page ``next`` is null, or missing with ``ends="missing"``.  With ``as_address`` it is the next
    page's whole address.
    """

    cursor: str = "cursor"
    limit: str = "limit"
    items: str = "items"
    next: str = "next"
    total: str = "total"
    ends: str = "null"
    as_address: bool = False

    def place(self, request: Request, size: int) -> tuple[int, int]:
        """The place that the cursor names."""
        size = request.count(self.limit, size)
        return int((request.get(self.cursor) or "page-0").removeprefix("page-")) * size, size

    def answer(self, request: Request, part: Part) -> Response:
        """``{"items", "next", "total"}``, under the names that were chosen."""
        following = None if part.next is None else f"page-{part.next // part.size}"
        if following and self.as_address:
            following = request.address(**{self.cursor: following})
        ends = following is None and self.ends == "missing"
        rows, next = list(part.rows), "" if ends else self.next
        return Response(nested({self.items: rows, next: following, self.total: part.total}))


@dataclass(frozen=True, kw_only=True)
class Offsets(Dialect):
    """The client counts rows: ``GET path?offset=20&limit=10``.  ``items=""`` sends the rows alone."""

    offset: str = "offset"
    limit: str = "limit"
    items: str = "items"
    total: str = "total"

    def place(self, request: Request, size: int) -> tuple[int, int]:
        """The place that the offset names."""
        return request.count(self.offset, 0), request.count(self.limit, size)

    def answer(self, request: Request, part: Part) -> Response:
        """``{"items", "total"}``, or the rows alone."""
        if not self.items:
            return Response(list(part.rows))
        return Response(nested({self.items: list(part.rows), self.total: part.total}))


@dataclass(frozen=True, kw_only=True)
class Pages(Dialect):
    """The client counts pages: ``GET path?page=2&per_page=10``, from ``first``.

    ``items=""`` sends the rows alone.  With ``links``, a Link header has the addresses of the first,
    previous, next and last page, as GitHub sends it.  ``total`` may be a key, or a header such as
    ``"X-Total-Count"``: a name with a capital letter.
    """

    page: str = "page"
    limit: str = "per_page"
    first: int = 1
    items: str = "items"
    total: str = "total"
    links: bool = False

    def place(self, request: Request, size: int) -> tuple[int, int]:
        """The place at which the page begins."""
        size = request.count(self.limit, size)
        return (request.count(self.page, self.first) - self.first) * size, size

    def answer(self, request: Request, part: Part) -> Response:
        """The rows, with the total and the links."""
        headers = {}
        if self.links and (links := self._links(request, part)):
            headers["link"] = links
        in_header = self.total[:1].isupper()
        if in_header:
            headers[self.total] = str(part.total)
        if not self.items:
            return Response(list(part.rows), headers=headers)
        total = "" if in_header else self.total
        return Response(nested({self.items: list(part.rows), total: part.total}), headers=headers)

    def _links(self, request: Request, part: Part) -> str:
        last = (part.total - 1) // part.size
        places = {"next": None if part.next is None else part.next // part.size}
        places["last"] = None if part.next is None else last
        places["first"] = places["prev"] = None
        if part.number:
            places["prev"], places["first"] = part.number - 1, 0
        return ", ".join(
            f'<{request.address(**{self.page: place + self.first})}>; rel="{name}"'
            for name, place in places.items()
            if place is not None
        )


LINKS = Pages(items="", total="", links=True)  # as GitHub has it


@dataclass(frozen=True, kw_only=True)
class Relay(Dialect):
    """A connection of GraphQL: ``{"data": {"issues": {"nodes", "pageInfo"}}}``.

    The variables ``first`` and ``after`` page.  With ``edges``, the rows come as ``edges`` with a
    ``node`` and a ``cursor`` each.  Each row is sent whole, whatever the query selects.  The connection
    is found by its name in the query; ``under`` is the path between ``data`` and it.
    """

    first: str = "variables.first"
    after: str = "variables.after"
    under: str = ""
    edges: bool = False

    def place(self, request: Request, size: int) -> tuple[int, int]:
        """The place behind the cursor."""
        start = int((request.get(self.after) or "at-0").removeprefix("at-"))
        return start, request.count(self.first, size)

    def answer(self, request: Request, part: Part) -> Response:
        """The connection, under the last piece of the request's route: its name."""
        end = f"at-{part.start + part.size if part.next is None else part.next}"
        shown: dict[str, Json] = {"pageInfo": {"hasNextPage": part.next is not None, "endCursor": end}}
        if self.edges:
            shown["edges"] = [
                {"node": row, "cursor": f"at-{part.start + n + 1}"} for n, row in enumerate(part.rows)
            ]
        else:
            shown["nodes"] = list(part.rows)
        return Response(nested({".".join(filter(None, ("data", self.under, request.pieces[-1]))): shown}))


def _at_least(value: Json, least: str) -> bool:
    """Whether a value of a row is no smaller than a parameter; numbers compare as numbers."""
    return value >= float(least) if isinstance(value, int | float) else str(value) >= least


def asks_for(request: Request, connection: str) -> bool:
    """Whether the query of a GraphQL request has a connection of this name."""
    query = request.data.get("query") if isinstance(request.data, dict) else None
    return isinstance(query, str) and re.search(rf"\b{re.escape(connection)}\s*[({{]", query) is not None
