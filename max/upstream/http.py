"""The HTTP client that connectors use: what a service answered, or which error it means.

Rule 1: a status, a body, a lost connection and a broken answer each become the one error of
errors.py that says what to do next.  Nothing here tries again: the operation around the call does.

Rule 2: requests go to hosts that the connector declares, and to no others.  Headers, and with
them the credential, go to the client's own origin alone; no message holds a secret that was
given out, a header's value or a query string.

Rule 3: what an answer's headers say of a budget is heard: when it is used up, everybody who
shares the limit of the operation under way waits until it is full again.

The library that speaks HTTP stands behind ``Transport``, so that a test or an embedding
program can put another in its place.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias
from urllib.parse import quote_plus, urlencode, urljoin, urlsplit

from ..core import Lifecycle
from ..errors import (
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
from ..model.values import Json
from .credentials import CredentialProvider, Secret
from .hosts import read_address
from .operations import block_limit

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 30.0  # seconds to connect, and between two pieces of an answer
LARGEST = 64 * 2**20  # bytes of a decoded answer
REDIRECTS = 5  # followed at most
FOLLOWED = ("GET", "HEAD")  # what may be asked again elsewhere
CONDITIONS = ("if-none-match", "if-modified-since")  # headers to which 304 is a good answer
CONNECTIONS = 32  # kept open for the next request
QUOTED = 200  # characters of the service's own words that a message repeats
SECRET = 6  # characters from which a secret is looked for in messages
PIECE = 10  # characters by which the beginning of a longer one is known
LONGEST = 31 * 86_400.0  # seconds; a budget that says to be empty for longer is not believed

Refusal: TypeAlias = tuple[type[UpstreamError], str, str]  # the error, what happened, what to do

ERRORS: Mapping[int, Refusal] = {
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
    """What is sent; its repr holds neither headers nor query.  ``label`` tells it apart in messages."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    label: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, [self.method, urlsplit(self.url).path, self.label]))


@dataclass(frozen=True)
class HttpResponse:
    """What came back: header names in lower case, the body decoded and whole."""

    request: HttpRequest
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Json:
        """The body as JSON data, None when there is none; UpstreamBroken when it is neither."""
        return self._data

    @cached_property
    def _data(self) -> Json:
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

    def link(self, rel: str = "next") -> str | None:
        """The whole address that the Link header gives for a relation; None when it gives none."""
        target: str
        for target, parameters in LINK.findall(self.headers.get("link", "")):
            for name, quoted, bare in PARAMETER.findall(parameters):
                if name.lower() == "rel" and rel in (quoted or bare).lower().split():
                    return urljoin(self.request.url, target)
        return None


LINK = re.compile(r'<([^<>]*)>((?:[^<>,"]|"[^"]*")*)')  # an address, and what follows up to the next one
PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"([^"]*)"|([^\s;"]*))')


class Transport(Protocol):
    """Whatever can send one request; safe for concurrent callers."""

    async def send(self, request: HttpRequest, *, largest: int) -> HttpResponse:
        """The answer, whatever its status; redirects are not followed.

        Offline when there is none, UpstreamBroken when it is cut short or its decoded body is
        longer than ``largest`` bytes.
        """


# -- credentials in headers ------------------------------------------------------------------


class Auth(Protocol):
    """What makes a request the installation's own; asked before every request."""

    async def headers(self) -> Mapping[str, str]:
        """The headers that carry the credential; BadCredentials when there is none to carry."""


@dataclass(frozen=True)
class BearerAuth(Auth):
    """``Authorization: Bearer …``."""

    secret: Secret

    def __post_init__(self) -> None:
        checked_token(self.secret.reveal())

    async def headers(self) -> Mapping[str, str]:
        """The same for every request."""
        return {"authorization": f"Bearer {self.secret.reveal()}"}


@dataclass(frozen=True)
class KeyAuth(Auth):
    """A key as it is, without a word before it, in a header of that name."""

    secret: Secret
    header: str = "authorization"

    def __post_init__(self) -> None:
        checked_token(self.secret.reveal())

    async def headers(self) -> Mapping[str, str]:
        """The same for every request."""
        return {self.header: self.secret.reveal()}


# -- budgets ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """What an answer says of one of the service's limits.

    ``remaining`` is what is left, ``cost`` what a request like this one takes of it.  ``reset``
    is when it is full again, in seconds since the epoch, or from now when ``relative``.
    """

    remaining: float
    reset: float
    cost: float = 1.0
    relative: bool = False

    def wait(self, now: float) -> float:
        """Seconds until a request like this one can be paid again; 0 when it can be now."""
        if self.remaining >= max(1.0, self.cost):
            return 0.0
        wait = self.reset if self.relative else self.reset - now
        return wait if 0 < wait <= LONGEST else 0.0


BudgetReader: TypeAlias = Callable[[Mapping[str, str]], Budget | None]
Meaning: TypeAlias = Callable[[HttpResponse], UpstreamError | None]


@dataclass(frozen=True)
class BudgetHeaders:
    """Which headers (in lower case) tell of one budget: a BudgetReader.

    ``unit`` is how many seconds one of the reset is: 0.001 where it counts milliseconds.
    """

    remaining: str
    reset: str
    cost: str = ""  # the header that says what this request took; without one it took 1
    unit: float = 1.0
    relative: bool = False  # the reset counts from now, not from the epoch

    def __call__(self, headers: Mapping[str, str]) -> Budget | None:
        """The budget; None when the headers are absent or make no sense."""
        remaining, reset = _number(headers.get(self.remaining)), _number(headers.get(self.reset))
        if remaining is None or reset is None:
            return None
        return Budget(remaining, reset * self.unit, _number(headers.get(self.cost)) or 1.0, self.relative)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# -- the client ---------------------------------------------------------------------------


class HttpClient(Lifecycle):
    """Talks JSON with one service, at hosts that ``credentials`` says are declared.

    ``headers`` go with every request to the service's own origin, as those of ``auth`` do.
    ``meaning`` sees every answer, also a good one, and gives the error that it really is, or
    None to leave that to the status; an error without a ``retry_after`` gets what the headers
    ask for.  ``budgets`` read what is left of the service's limits from each answer.

    A transport given by the caller stays the caller's to close.  Safe for concurrent callers
    of one event loop.
    """

    def __init__(
        self,
        base_url: str,
        credentials: CredentialProvider,
        *,
        auth: Auth | None = None,
        headers: Mapping[str, str] | None = None,
        meaning: Meaning | None = None,
        budgets: Sequence[BudgetReader] = (),
        timeout: float = TIMEOUT,
        largest: int = LARGEST,
        transport: Transport | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self._origin = read_address(self.base_url)[0]
        credentials.hosts.check(self._origin)
        self._credentials, self._auth, self._meaning = credentials, auth, meaning
        self._headers = {"accept": "application/json", **(headers or {})}
        self._private: set[str] = set()  # the headers that auth gave, by name
        self._budgets = tuple(budgets)
        self._largest = largest
        self._given, self._own = transport, None if transport else _Httpx2(self.base_url, timeout)

    async def start(self) -> None:
        """Nothing yet: the first request opens what it needs, so that a replay needs no library."""

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
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Json = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        meaning: Meaning | None = None,
        label: str = "",
    ) -> HttpResponse:
        """An answer of status 2xx, or 304 to a condition; an UpstreamError for every other one.

        ``path`` is joined to the base address.  A whole address, such as a service gives for
        its next page, must lead to a declared host; the credential goes to no other origin.
        ``json`` or ``form`` is the body, ``meaning`` takes the place of the client's own.
        """
        kind, body = _body(json, form)
        url = path if path.startswith(("http://", "https://")) else f"{self.base_url}/{path.lstrip('/')}"
        if params:
            url += ("&" if "?" in url else "?") + urlencode(params)
        request = HttpRequest(method, url, {**kind, **(headers or {})}, body, label)
        response = await self._send(request)
        for _ in range(REDIRECTS):
            if method not in FOLLOWED or not _is_redirect(response):
                break
            response = await self._send(replace(request, url=self._redirected(response)))
        error = self._error(response, meaning or self._meaning)
        if error is not None:
            self._scrub(error, response.request)
            raise error
        return response

    async def _send(self, request: HttpRequest) -> HttpResponse:
        """Send to a declared host; headers go with it to the client's own origin alone."""
        try:
            origin, rest = read_address(request.url)
        except ValueError as error:
            raise PermissionDenied(
                f"a request was led to an address that cannot be used: {error}",
                hint="nothing was sent there; the service may have changed, or the connector is wrong",
            ) from None
        self._credentials.hosts.check(origin)
        headers = dict(request.headers) if origin == self._origin else _kind(request.headers)
        if origin == self._origin:
            headers = {**self._headers, **headers, **await self._authorised()}
        sent = replace(request, url=f"{origin}{rest}", headers=headers)
        transport = self._given or self._own
        assert transport  # noqa: S101  # one of the two is set by the constructor
        try:
            response = await transport.send(sent, largest=self._largest)
        except UpstreamError as error:
            self._scrub(error, sent)
            raise
        block_limit(self._budget_wait(response.headers))
        return response

    async def _authorised(self) -> dict[str, str]:
        if self._auth is None:
            return {}
        headers = {name.lower(): value for name, value in (await self._auth.headers()).items()}
        self._private.update(headers)
        return headers

    def _redirected(self, response: HttpResponse) -> str:
        """Where a redirect leads; UpstreamChanged when it gives up encryption."""
        here, location = response.request.url, response.headers["location"]
        try:
            there = urljoin(here, location) if location.isprintable() else ""  # which is no address
        except ValueError:
            there = ""
        if here.startswith("https:") and there.startswith("http:"):
            raise UpstreamChanged(
                f"{response.request}: the service sends us on without encryption, where we do not go",
                hint="connect again with the service's new address, if it moved",
            )
        return there

    def _budget_wait(self, headers: Mapping[str, str]) -> float:
        """Seconds until every budget that is used up is full again; 0 when none is."""
        budgets = filter(None, [read(headers) for read in self._budgets])
        empty = [one for one in budgets if one.remaining < max(1.0, one.cost)]
        now = service_time(headers) if empty else 0.0
        return max((one.wait(now) for one in empty), default=0.0)

    def _error(self, response: HttpResponse, meaning: Meaning | None) -> UpstreamError | None:
        """The error that an answer is, with the wait that its headers ask for."""
        error = meaning(response) if meaning else None
        if error is None and not is_good(response):
            error = by_status(response)
        if error is not None:
            error.data.setdefault("status", response.status)
            self._complete_wait(error, response.headers)
        return error

    def _complete_wait(self, error: UpstreamError, headers: Mapping[str, str]) -> None:
        asked = retry_after(headers.get("retry-after", ""), service_time(headers))
        wait = self._budget_wait(headers) if isinstance(error, QuotaExceeded) else 0.0
        if error.retry_after is None and (wait or asked is not None):
            error.data["retry_after"] = error.retry_after = max(wait, asked or 0.0)

    def _scrub(self, error: UpstreamError, request: HttpRequest) -> None:
        """Take out of an error the secrets that the service may have repeated."""
        secrets = {one.reveal() for one in self._credentials.known_secrets}
        for name in self._private & request.headers.keys():
            secrets |= {request.headers[name], request.headers[name].partition(" ")[2]}
        forms = {form for one in secrets if len(one) >= SECRET for form in (one, quote_plus(one))}
        error.message, error.hint = without(forms, error.message), without(forms, error.hint)
        error.args = (error.message,)


def without(secrets: Collection[str], text: str) -> str:
    """A text without any of these, nor the beginning of one whose rest was cut off."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    at = 0
    while at < len(text):
        same = max((_shared(secret, text[at:]) for secret in secrets), default=0)
        if same >= PIECE:
            text = f"{text[:at]}***{text[at + same :]}"
        at += 1
    return text


def _shared(one: str, other: str) -> int:
    """With how many characters two texts begin alike."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def checked_url(url: str) -> str:
    """An address without its last slash; InvalidAnswers when it is no plain http(s) one."""
    try:
        origin, rest = read_address(url)
    except ValueError:
        rest = "?"
    if "?" in rest or "#" in url:
        wrong = Mismatch("base_url", "an address like https://api.example.com", url, secret="@" in url)
        raise InvalidAnswers("the service's address cannot be used", [wrong])
    return f"{origin}{rest}".rstrip("/")


def by_status(response: HttpResponse) -> UpstreamError:
    """What the status of a bad answer means, in the service's own words where it has some."""
    kind, what, hint = ERRORS.get(response.status, BROKEN if response.status >= 500 else REFUSED)
    words = own_words(response.body)
    return kind(
        f"{response.request}: {what} ({response.status}){f': {words}' if words else ''}",
        hint=hint,
        status=response.status,
    )


def checked_token(token: str) -> str:
    """A token that a header can carry; BadCredentials when it cannot, as after a careless paste."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadCredentials(
            "the credential is empty or holds characters that no token has",
            hint="connect again; leave out spaces, quotes and line ends",
        )
    return token


def service_time(headers: Mapping[str, str]) -> float:
    """Seconds since the epoch by the clock of whoever answered, by ours when it does not tell."""
    wait = _until(headers.get("date", ""), 0.0)
    return wait if math.isfinite(wait) else time.time()


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
    return short(found)


def short(words: Json) -> str:
    """A text on one line, and no longer than a message can bear; empty for what is no text."""
    return " ".join(words.split())[:QUOTED] if isinstance(words, str) else ""


def _until(text: str, now: float) -> float:
    from email.utils import parsedate_to_datetime  # slow to import, and seldom needed

    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return float("inf")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now


def _is_redirect(response: HttpResponse) -> bool:
    return response.status in (301, 302, 303, 307, 308) and "location" in response.headers


def is_good(response: HttpResponse) -> bool:
    """Whether the status is what was asked for."""
    if response.status == 304:
        return any(name in response.request.headers for name in CONDITIONS)
    return 200 <= response.status < 300


def _kind(headers: Mapping[str, str]) -> dict[str, str]:
    """What another origin is told: nothing of the credential, only what a body is."""
    return {"accept": "*/*"} | {name: headers[name] for name in ("content-type",) if name in headers}


def _body(data: Json, form: Mapping[str, str] | None) -> tuple[dict[str, str], bytes | None]:
    """A body and the header that says what it is."""
    if form is not None:
        return {"content-type": "application/x-www-form-urlencoded"}, urlencode(form).encode()
    if data is None:
        return {}, None
    return {"content-type": "application/json"}, json.dumps(data, separators=(",", ":")).encode()


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
    return Offline(f"no answer from {host}: {reason}", hint="check the network and the address")
