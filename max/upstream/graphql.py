"""GraphQL over the HTTP client: the data of a query, or the error that its answer means.

Rule: the body's ``errors`` decide, whatever the status: services send "too many requests" with
status 400 and "not found" with 200.  Data beside an error is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

from ..errors import UpstreamBroken, UpstreamChanged, UpstreamError
from ..model.query import Page
from ..model.values import Json
from .http import BROKEN, ERRORS, ErrorKind, HttpClient, HttpResponse, error_by_status, is_success, one_line

V = TypeVar("V")
CodeReader: TypeAlias = Callable[[Mapping[str, Json]], str | None]

REFUSED = (UpstreamChanged, "the query was refused", "the service may have changed; update the connector")
NAMED = re.compile(r"^\s*(?:query|mutation)\s+(\w+)", re.MULTILINE)

CODES: Mapping[str, ErrorKind] = {
    "AUTHENTICATION_ERROR": ERRORS[401],
    "UNAUTHENTICATED": ERRORS[401],
    "FEATURE_NOT_ACCESSIBLE": ERRORS[403],
    "FORBIDDEN": ERRORS[403],
    "NOT_FOUND": ERRORS[404],
    "RATELIMITED": ERRORS[429],
    "RATE_LIMITED": ERRORS[429],
    "THROTTLED": ERRORS[429],
    "BAD_REQUEST": REFUSED,
    "BAD_USER_INPUT": REFUSED,
    "GRAPHQL_PARSE_FAILED": REFUSED,
    "GRAPHQL_VALIDATION_FAILED": REFUSED,
    "INPUT_ERROR": REFUSED,
    "INVALID_INPUT": REFUSED,
    "INTERNAL_ERROR": BROKEN,
    "INTERNAL_SERVER_ERROR": BROKEN,
    "LOCK_TIMEOUT": BROKEN,
}


class GraphQL:
    """Sends queries to one endpoint.

    ``codes`` are added to CODES and take precedence.  ``read_code`` is given the error of a body
    and may return a more precise code than its ``extensions.code``, or None.
    """

    def __init__(
        self,
        client: HttpClient,
        path: str = "/graphql",
        *,
        codes: Mapping[str, ErrorKind] | None = None,
        read_code: CodeReader = lambda error: None,
    ) -> None:
        self._client, self._path = client, path
        self._codes, self._read_code = {**CODES, **(codes or {})}, read_code

    async def query(self, query: str, variables: Mapping[str, Json] | None = None, *, name: str = "") -> Json:
        """The data of the answer; an UpstreamError when it has an error or no data.

        ``name`` selects the operation when the query text has several.
        """
        names = NAMED.findall(query)
        name = name or (names[0] if len(names) == 1 else "")
        body = {"query": query, "variables": dict(variables or {})}
        if name:
            body["operationName"] = name
        response = await self._client.request(
            "POST", self._path, json=body, read_error=self._read_error, label=name
        )
        return response.json()["data"]

    def _read_error(self, response: HttpResponse) -> UpstreamError | None:
        try:
            body = response.json()
        except UpstreamBroken as broken:
            return broken if is_success(response) else None
        errors = body.get("errors") if isinstance(body, dict) else None
        if errors:
            return self._first_error(response, errors)
        if not is_success(response) or (isinstance(body, dict) and isinstance(body.get("data"), dict)):
            return None
        return UpstreamChanged(
            f"{response.request}: the answer has neither data nor errors",
            hint="the service may have changed; update the connector",
        )

    def _first_error(self, response: HttpResponse, errors: Json) -> UpstreamError:
        """The first of a body's errors."""
        first = errors[0] if isinstance(errors, list) else errors
        error = first if isinstance(first, dict) else {}
        codes = [code for code in (self._read_code(error), *own_codes(error)) if code]
        known = next((self._codes[code] for code in codes if code in self._codes), None)
        if known is None and not is_success(response):
            kind = type(error_by_status(response))
            known = kind, "the service answered with an error", "read its message, and try again"
        kind, what, hint = known or REFUSED
        extensions = _mapping(error.get("extensions"))
        message = one_line(extensions.get("userPresentableMessage")) or one_line(error.get("message"))
        code = ", ".join([*codes[:1], str(response.status)])
        return kind(
            f"{response.request}: {what} ({code}){f': {message}' if message else ''}",
            hint=hint,
            upstream_code=next(iter(codes), None),
        )


def own_codes(error: Mapping[str, Json]) -> list[str]:
    """An error's own codes in CAPITALS, the most precise first."""
    extensions = _mapping(error.get("extensions"))
    names = [extensions.get("code"), extensions.get("type"), error.get("type")]
    return [re.sub(r"\W+", "_", name.strip()).upper() for name in names if isinstance(name, str)]


def _mapping(data: Json) -> Mapping[str, Json]:
    return data if isinstance(data, dict) else {}


class RelayConnection(NamedTuple):
    """One page of a Relay connection: its nodes, and the cursor of the next page (None on the last)."""

    nodes: list[Json]
    next: str | None

    @classmethod
    def of(cls, data: Json, *path: str) -> RelayConnection:
        """The connection at a path in the data; UpstreamChanged when it is incomplete."""
        where = ".".join(path)
        for key in path:
            data = _mapping(data).get(key)
        nodes, info = _mapping(data).get("nodes"), _mapping(_mapping(data).get("pageInfo"))
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise _incomplete(where, "a list of nodes")
        more, cursor = info.get("hasNextPage"), info.get("endCursor")
        if not isinstance(more, bool):
            raise _incomplete(where, "pageInfo.hasNextPage")
        if more and not (isinstance(cursor, str) and cursor):
            raise _incomplete(where, "pageInfo.endCursor, though there is a next page")
        return cls(nodes, cursor if more else None)

    def page(self, make: Callable[[Json], V]) -> Page[V]:
        """The page that a loader returns; ``make`` turns a node into an item."""
        return Page([make(node) for node in self.nodes], next=self.next)


def _incomplete(where: str, missing: str) -> UpstreamChanged:
    return UpstreamChanged(
        f"{where}: the answer lacks {missing}", hint="the service may have changed; update the connector"
    )
