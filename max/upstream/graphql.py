"""GraphQL over the HTTP client: one query, and its data or the error that it means.

Rule: the body's ``errors`` decide, whatever the status: services say "too many requests" in a
400 and "not found" in a 200.  Data that came beside an error is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

from ..errors import UpstreamBroken, UpstreamChanged, UpstreamError
from ..model.query import Page
from ..model.values import Json
from .http import BROKEN, ERRORS, HttpClient, HttpResponse, Refusal, by_status, is_good, short

V = TypeVar("V")
CodeOf: TypeAlias = Callable[[Mapping[str, Json]], str | None]

REFUSED = (UpstreamChanged, "the query was refused", "the service may have changed; update the connector")
NAMED = re.compile(r"^\s*(?:query|mutation)\s+(\w+)", re.MULTILINE)

CODES: Mapping[str, Refusal] = {
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
    """One endpoint that is asked queries.

    ``codes`` add to CODES, and win.  ``code_of`` is given each error of a body as it came and
    may name a code that says more than the error's own ``extensions.code``; None: it does not.
    """

    def __init__(
        self,
        client: HttpClient,
        path: str = "/graphql",
        *,
        codes: Mapping[str, Refusal] | None = None,
        code_of: CodeOf = lambda error: None,
    ) -> None:
        self._client, self._path = client, path
        self._codes, self._code_of = {**CODES, **(codes or {})}, code_of

    async def query(self, query: str, variables: Mapping[str, Json] | None = None, *, name: str = "") -> Json:
        """The data of the answer; an UpstreamError when it holds an error or no data.

        ``name`` is that of the operation, for a query text which holds several.
        """
        names = NAMED.findall(query)
        name = name or (names[0] if len(names) == 1 else "")
        asked = {"query": query, "variables": dict(variables or {})}
        if name:
            asked["operationName"] = name
        response = await self._client.request(
            "POST", self._path, json=asked, meaning=self._meaning, label=name
        )
        return response.json()["data"]

    def _meaning(self, response: HttpResponse) -> UpstreamError | None:
        try:
            body = response.json()
        except UpstreamBroken as broken:
            return broken if is_good(response) else None
        errors = body.get("errors") if isinstance(body, dict) else None
        if errors:
            return self._refusal(response, errors)
        if not is_good(response) or (isinstance(body, dict) and isinstance(body.get("data"), dict)):
            return None
        return UpstreamChanged(
            f"{response.request}: the answer has neither data nor errors",
            hint="the service may have changed; update the connector",
        )

    def _refusal(self, response: HttpResponse, errors: Json) -> UpstreamError:
        """The error that the first of a body's errors means."""
        first = errors[0] if isinstance(errors, list) else errors
        error = first if isinstance(first, dict) else {}
        codes = [code for code in (self._code_of(error), *own_codes(error)) if code]
        refusal = next((self._codes[code] for code in codes if code in self._codes), None)
        if refusal is None and not is_good(response):
            kind = type(by_status(response))
            refusal = kind, "the service answered with an error", "see what it says, and try again"
        kind, what, hint = refusal or REFUSED
        extensions = _mapping(error.get("extensions"))
        words = short(extensions.get("userPresentableMessage")) or short(error.get("message"))
        told = ", ".join([*codes[:1], str(response.status)])
        return kind(
            f"{response.request}: {what} ({told}){f': {words}' if words else ''}",
            hint=hint,
            upstream_code=next(iter(codes), None),
        )


def own_codes(error: Mapping[str, Json]) -> list[str]:
    """What an error calls itself, the most precise first, written as codes are."""
    extensions = _mapping(error.get("extensions"))
    names = [extensions.get("code"), extensions.get("type"), error.get("type")]
    return [re.sub(r"\W+", "_", name.strip()).upper() for name in names if isinstance(name, str)]


def _mapping(data: Json) -> Mapping[str, Json]:
    return data if isinstance(data, dict) else {}


class RelayConnection(NamedTuple):
    """One page of a Relay connection: its nodes, and the cursor after them (None on the last)."""

    nodes: list[Json]
    next: str | None

    @classmethod
    def of(cls, data: Json, *path: str) -> RelayConnection:
        """What stands at a path in the data; UpstreamChanged when it is no whole connection."""
        where = ".".join(path)
        for key in path:
            data = _mapping(data).get(key)
        nodes, info = _mapping(data).get("nodes"), _mapping(_mapping(data).get("pageInfo"))
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise _not_whole(where, "a list of nodes")
        more, cursor = info.get("hasNextPage"), info.get("endCursor")
        if not isinstance(more, bool):
            raise _not_whole(where, "pageInfo.hasNextPage")
        if more and not (isinstance(cursor, str) and cursor):
            raise _not_whole(where, "pageInfo.endCursor, though there is a next page")
        return cls(nodes, cursor if more else None)

    def page(self, make: Callable[[Json], V]) -> Page[V]:
        """The page as a loader returns it, each node made into an item."""
        return Page([make(node) for node in self.nodes], next=self.next)


def _not_whole(where: str, missing: str) -> UpstreamChanged:
    return UpstreamChanged(
        f"{where}: the answer lacks {missing}", hint="the service may have changed; update the connector"
    )
