"""The HTTP client that connectors use: what a service answered, or which error it means.

Rule 1: a status, a lost connection and a broken body each become the one error of errors.py
that says what to do next.  Nothing here tries again: the operation around the call does.

Rule 2: headers, and with them the token, go to the client's own origin and nowhere else; no
message holds a header's value or a query string.

The library that speaks HTTP stands behind ``Transport``, so that a test or an embedding
program can put another in its place.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from .core import Lifecycle
from .entities import Json
from .errors import (
    BadCredentials,
    InvalidAnswers,
    Mismatch,
    MissingExtra,
    Offline,
    PermissionDenied,
    QuotaExceeded,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
)

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 30.0  # seconds to connect, and between two pieces of an answer
LARGEST = 64 * 2**20  # bytes of a decoded answer
REDIRECTS = 5  # followed at most, within the origin
CONNECTIONS = 32  # kept open for the next request
QUOTED = 200  # characters of the service's own words that a message repeats
SECRET = 6  # characters from which a header's value is looked for in messages

ERRORS: Mapping[int, tuple[type[UpstreamError], str, str]] = {
    401: (
        BadCredentials,
        "the credential was refused",
        "connect again with a credential that is valid",
    ),
    403: (
        PermissionDenied,
        "the credential may not do this",
        "give it the permission upstream, or connect with another one",
    ),
    404: (UpstreamMissing, "not found", "it is gone, or hidden from this credential"),
    408: (QuotaExceeded, "the service gave up waiting", "try again later"),
    410: (UpstreamMissing, "gone", "it existed once and does not any more"),
    429: (QuotaExceeded, "too many requests", "the sync waits and goes on"),
}
REFUSED = (UpstreamChanged, "the request was refused", "the service may have changed; update the connector")
BROKEN = (UpstreamBroken, "the service failed", "try again later")


# -- requests and answers ----------------------------------------------------------------


@dataclass(frozen=True)
class HttpRequest:
    """What is sent; its repr holds neither headers nor query."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.method} {urlsplit(self.url).path}"


@dataclass(frozen=True)
class HttpResponse:
    """What came back: header names in lower case, the body decoded and whole."""

    request: HttpRequest
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Json:
        """The body as JSON data, None when there is none; UpstreamBroken when it is neither."""
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise UpstreamBroken(
                f"{self.request}: the answer is not JSON ({len(self.body)} bytes)",
                hint="a proxy or an outage may stand between; try again later",
                status=self.status,
            ) from error


class Transport(Protocol):
    """Whatever can send one request; safe for concurrent callers."""

    async def send(self, request: HttpRequest, *, largest: int) -> HttpResponse:
        """The answer, whatever its status; redirects are not followed.

        Offline when there is none, UpstreamBroken when it is cut short or its decoded body is
        longer than ``largest`` bytes.
        """


# -- the client ---------------------------------------------------------------------------


class HttpClient(Lifecycle):
    """Talks JSON with one service; ``token`` is sent as a bearer.

    A transport given by the caller stays the caller's to close.  Safe for concurrent callers
    of one event loop.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        largest: int = LARGEST,
        transport: Transport | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self._origin = _origin(urlsplit(self.base_url))
        self._headers = {"accept": "application/json", **(headers or {})}
        if token is not None:
            self._headers["authorization"] = f"Bearer {checked_token(token)}"
        self._secrets = {part for value in (headers or {}).values() for part in (value, *value.split())}
        self._secrets |= {token} if token else set()
        self._timeout, self._largest = timeout, largest
        self._given, self._own = transport, None if transport else _Httpx2(self.base_url, timeout)

    async def start(self) -> None:
        """Be ready; the first request opens the first connection."""
        if self._own:
            self._own.open()

    async def stop(self) -> None:
        """Close every connection."""
        if self._own:
            await self._own.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"HttpClient({self.base_url!r})"

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        """The JSON data at a path."""
        return (await self.request("GET", path, params=params)).json()

    async def request(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Json = None
    ) -> HttpResponse:
        """An answer of status 2xx; an UpstreamError for every other one.

        ``path`` is joined to the base address.  A whole address, such as a service gives for
        its next page, is accepted when it has the same origin.
        """
        url = self._within(path)
        if params:
            url += ("&" if urlsplit(url).query else "?") + urlencode(params)
        headers = self._headers if json is None else {**self._headers, "content-type": "application/json"}
        response = await self._send(HttpRequest(method, url, headers, _body(json)))
        for _ in range(REDIRECTS):
            if method != "GET" or not _is_redirect(response):
                break
            target = self._within(urljoin(response.request.url, response.headers["location"]))
            response = await self._send(HttpRequest(method, target, headers))
        if not 200 <= response.status < 300:
            raise self._error(response)
        return response

    async def _send(self, request: HttpRequest) -> HttpResponse:
        transport = self._given or self._own
        assert transport  # noqa: S101  # one of the two is set by the constructor
        try:
            return await transport.send(request, largest=self._largest)
        except UpstreamError as error:
            error.message = self._scrubbed(error.message)
            error.args = (error.message,)
            raise

    def _within(self, path: str) -> str:
        if not path.startswith(("http://", "https://")):
            return f"{self.base_url}/{path.lstrip('/')}"
        there = _origin(urlsplit(path))
        if there != self._origin:
            raise UpstreamChanged(
                f"{self._origin[1]} sends us to {there[0]}://{there[1]}, where the credential must not go",
                hint="connect again with the service's new address, if it moved",
            )
        return path

    def _error(self, response: HttpResponse) -> UpstreamError:
        status = response.status
        kind, what, hint = ERRORS.get(status, BROKEN if status >= 500 else REFUSED)
        words = self._scrubbed(own_words(response.body))
        return kind(
            f"{response.request}: {what} ({status}){f': {words}' if words else ''}",
            hint=hint,
            retry_after=retry_after(response.headers.get("retry-after", ""), time.time()),
            status=status,
        )

    def _scrubbed(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            if len(secret) >= SECRET:
                text = text.replace(secret, "***")
        return text


def checked_url(url: str) -> str:
    """An address without its last slash; InvalidAnswers when it is no plain http(s) one."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        wrong = Mismatch("base_url", "an address like https://api.example.com", url, secret="@" in url)
        raise InvalidAnswers("the service's address cannot be used", [wrong])
    return url.rstrip("/")


def checked_token(token: str) -> str:
    """A token that a header can carry; BadCredentials when it cannot, as after a careless paste."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadCredentials(
            "the credential is empty or holds characters that no token has",
            hint="connect again; leave out spaces, quotes and line ends",
        )
    return token


def retry_after(text: str, now: float) -> float | None:
    """Seconds from ``now`` that a Retry-After header asks for: a number, or a date in the past or future."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = _until(text, now)
    return max(0.0, seconds) if abs(seconds) < float("inf") else None


def own_words(body: bytes) -> str:
    """What the service itself says about its error, on one short line; empty when it says nothing."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    found = data
    for key in ("error", "message", "detail"):
        if isinstance(found, dict):
            found = found.get(key, found)
    return " ".join(found.split())[:QUOTED] if isinstance(found, str) else ""


def _until(text: str, now: float) -> float:
    from email.utils import parsedate_to_datetime  # slow to import, and seldom needed

    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return float("inf")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now


def _origin(url: SplitResult) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.hostname or "", url.port or default


def _is_redirect(response: HttpResponse) -> bool:
    return response.status in (301, 302, 303, 307, 308) and "location" in response.headers


def _body(data: Json) -> bytes | None:
    return None if data is None else json.dumps(data, separators=(",", ":")).encode()


# -- the transport that is used when none is given ------------------------------------------


class _Httpx2(Transport):
    """httpx2 as a Transport; connections are kept open and used again."""

    def __init__(self, base_url: str, timeout: float) -> None:
        self._secure, self._timeout = base_url.startswith("https:"), timeout
        self._client: httpx2.AsyncClient | None = None

    def open(self) -> httpx2.AsyncClient:
        """The open client; MissingExtra when the library is not installed."""
        if self._client is None:
            try:
                import httpx2
            except ImportError as error:
                raise MissingExtra("http", "httpx2", "talking to a service over HTTP") from error
            self._client = httpx2.AsyncClient(
                timeout=self._timeout,
                verify=self._secure,  # plain http loads no certificates: a third of the start-up
                limits=httpx2.Limits(max_keepalive_connections=CONNECTIONS),
            )
        return self._client

    async def aclose(self) -> None:
        """Close every connection; it may be opened again."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def send(self, request: HttpRequest, *, largest: int) -> HttpResponse:
        """As Transport says; what httpx2 raises is translated here and nowhere else."""
        client, answered = self.open(), False
        import httpx2

        call = client.stream(request.method, request.url, headers=dict(request.headers), content=request.body)
        try:
            async with call as response:
                answered = True
                body = await _read(request, response.aiter_bytes(), largest)
                return HttpResponse(request, response.status_code, dict(response.headers), body)
        except httpx2.RequestError as error:
            if answered and isinstance(error, httpx2.RemoteProtocolError | httpx2.DecodingError):
                raise UpstreamBroken(
                    f"{request}: the answer was cut short or is damaged", hint="try again later"
                ) from error
            raise _offline(request, error) from error


async def _read(request: HttpRequest, pieces: AsyncIterator[bytes], largest: int) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > largest:
            raise UpstreamBroken(
                f"{request}: the answer is longer than {largest:,} bytes", hint="ask for smaller pages"
            )
    return bytes(body)


def _offline(request: HttpRequest, error: Exception) -> Offline:
    host = urlsplit(request.url).netloc
    reason = str(error) or type(error).__name__
    return Offline(f"{request}: no answer from {host}: {reason}", hint="check the network and the address")
