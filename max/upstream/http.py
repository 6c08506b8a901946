"""The HTTP client for connectors: the answer of a service, or the error that it means.

Rule 1: a bad status, a bad body, a lost connection and a damaged answer each become one error of
errors.py, which says what to do next.  Nothing is repeated here: the operation around the
call does that.

Rule 2: requests go only to hosts that the connector declares.  Headers, and with them the
credential, go only to the client's own origin.  No message contains a known secret, the value
of a header or a query string; nor does a line of the log.

Rule 3: an answer costs no more memory than it may have bytes, and no more time than the operation's
deadline.  One that is too long is cut while it is unpacked, and is not asked for again.

Rule 4: rate limit headers are obeyed.  When a budget is used up, every operation that shares the
limit of the current one waits until it is full again.

The HTTP library is behind ``Transport``, so a test or an embedding program can replace it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias
from urllib.parse import urlencode, urljoin, urlsplit

from ..core import Lifecycle, in_thread
from ..errors import (
    LONGEST_WAIT,
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
    bounded_wait,
)
from ..model.values import Json
from .conditions import conditions_now
from .credentials import CredentialProvider, Secret
from .hosts import check_path, check_segments, filled, read_address
from .operations import LOG, block_limit, in_operation, last_attempt

if TYPE_CHECKING:
    import ssl

    import httpx2

    from .redaction import Redactor

TIMEOUT = 30.0  # seconds to connect, and between two parts of an answer
DEADLINE = 300.0  # seconds for a whole answer outside of any operation, which has a deadline of its own
MAX_BYTES = 64 * 2**20  # of a decoded answer
REDIRECTS = 5  # followed at most
FOLLOWED = ("GET", "HEAD")  # methods whose redirects are followed
CONDITIONS = ("if-none-match", "if-modified-since")  # headers to which 304 is a good answer
LIBRARY_LOGS = ("httpx2", *(f"httpcore2.{part}" for part in ("connection", "http11", "proxy", "socks")))
CONNECTIONS = 32  # kept open for later requests
KEPT = 5.0  # seconds that an unused connection is kept open
QUOTED = 200  # characters of the service's own message that an error repeats
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # zlib finds out which
WAITS = 16  # parts of a Retry-After header that are read

ErrorKind: TypeAlias = tuple[type[UpstreamError], str, str]  # the error, what happened, what to do

ERRORS: Mapping[int, ErrorKind] = {
    401: (BadCredentials, "the credential was refused", "connect again with a valid credential"),
    403: (PermissionDenied, "the credential lacks a permission", "grant it in the service, or connect again"),
    404: (UpstreamMissing, "not found", "it is gone, or hidden from this credential"),
    408: (QuotaExceeded, "the service timed out", "try again later"),
    410: (UpstreamMissing, "gone", "it no longer exists"),
    429: (QuotaExceeded, "too many requests", "try again later"),
}
REFUSED = (UpstreamChanged, "the request was refused", "the service may have changed; update the connector")
REDIRECTED = (
    UpstreamChanged,
    "it redirects on and on, or where no request may follow",
    "the service has another address now; connect again with that, or update the connector",
)
BROKEN = (UpstreamBroken, "the service failed", "try again later")


# -- requests and responses --------------------------------------------------------------------


class Headers(Mapping[str, str]):
    """Headers by name, whatever its case; the names come out in lower case, and repr shows no value.

    ValueError when two names differ in their case alone.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._values = {name.lower(): value for name, value in given.items()}
        if len(self._values) < len(given):
            raise ValueError(f"a header is given twice, in upper and lower case: {', '.join(given)}")

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Headers:
        """The headers themselves, or made of a mapping."""
        return given if isinstance(given, Headers) else cls(given)

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


@dataclass(frozen=True)
class HttpRequest:
    """A request; its repr shows neither headers nor query.  ``label`` identifies it in messages."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", Headers.of(self.headers))

    def __str__(self) -> str:
        return " ".join(filter(None, [self.method, urlsplit(self.url).path, self.label]))


@dataclass(frozen=True)
class HttpResponse:
    """A response: headers by name in any case, the body decoded and complete."""

    request: HttpRequest
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", Headers.of(self.headers))

    def json(self) -> Json:
        """The body as JSON data, None when it is empty; UpstreamBroken when it is not JSON."""
        return self._data

    @cached_property
    def _data(self) -> Json:
        if not self.body:
            return None
        try:
            return read_body(self.body)
        except (ValueError, RecursionError) as error:
            raise UpstreamBroken(
                f"{self.request}: the answer is not JSON ({len(self.body)} bytes)",
                hint="a proxy may have answered, or the service has an outage; try again later",
                status=self.status,
            ) from error

    def link(self, rel: str = "next") -> str | None:
        """The absolute address that the Link header gives for a relation; None when there is none.

        UpstreamChanged when it is not an address: a listing must not end there in silence.
        """
        target: str
        for target, parameters in LINK.findall(self.headers.get("link", "")):
            for name, quoted, bare in PARAMETER.findall(parameters):
                if name.lower() == "rel" and rel in (quoted or bare).lower().split():
                    return self._joined(target, rel)
        return None

    def _joined(self, target: str, rel: str) -> str:
        try:
            return urljoin(self.request.url, target)
        except ValueError as error:
            raise UpstreamChanged(
                f"{self.request}: the Link header's address for {rel!r} cannot be used",
                hint="nothing was sent there; the service may have changed",
            ) from error


NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # of a header, in lower case
LINK = re.compile(r'<([^<>]*)>((?:[^<>,"]|"[^"]*")*)')  # an address, and its parameters
PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"([^"]*)"|([^\s;"]*))')


class Transport(Protocol):
    """Sends requests; safe for concurrent callers."""

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """The response, whatever its status; redirects are not followed.

        Offline when there is none, UpstreamBroken when it is incomplete, and UpstreamChanged, as
        soon as that is known, when its decoded body has more than ``max_bytes`` bytes.
        """


# -- credentials in headers --------------------------------------------------------------------


class Auth(Protocol):
    """Authenticates requests; called before every request."""

    async def headers(self) -> Mapping[str, str]:
        """The headers with the credential; BadCredentials when it is missing."""

    async def identity(self) -> str:
        """The same text for as long as the credential is that of one account, however often it is renewed.

        An empty one, by default, when only the headers tell.  It is never sent or stored.
        """
        return ""


@dataclass(frozen=True)
class KeyAuth(Auth):
    """A key in the header with the name ``header``, behind a ``prefix``."""

    secret: Secret
    header: str = "authorization"
    prefix: str = ""

    def __post_init__(self) -> None:
        checked_token(self.secret.reveal())

    async def headers(self) -> Mapping[str, str]:
        """The same for every request."""
        return {self.header: f"{self.prefix}{self.secret.reveal()}"}


@dataclass(frozen=True)
class BearerAuth(KeyAuth):
    """``Authorization: Bearer …``."""

    prefix: str = "Bearer "


# -- budgets -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """What a response says about one rate limit of the service.

    ``remaining`` is what is left, ``cost`` what a request like this one uses.  ``reset`` is when
    the budget is full again, in seconds since the epoch, or from now when ``relative``.
    """

    remaining: float
    reset: float
    cost: float = 1.0
    relative: bool = False

    def wait(self, now: float) -> float:
        """Seconds until the budget allows another request like this one; 0 when it does now."""
        if self.remaining >= max(1.0, self.cost):
            return 0.0
        wait = self.reset if self.relative else self.reset - now
        return wait if 0 < wait <= LONGEST_WAIT else 0.0  # a longer one is an error of the service


BudgetReader: TypeAlias = Callable[[Mapping[str, str]], Budget | None]
ErrorReader: TypeAlias = Callable[[HttpResponse], UpstreamError | None]


@dataclass(frozen=True)
class BudgetHeaders:
    """Reads one budget from headers, whose names are in lower case: a BudgetReader.

    ``unit`` is seconds for one unit of the reset: 0.001 when it counts milliseconds.
    """

    remaining: str
    reset: str
    cost: str = ""  # the header with the cost of this request; without one the cost is 1
    unit: float = 1.0
    relative: bool = False  # the reset counts from now, not from the epoch

    def __call__(self, headers: Mapping[str, str]) -> Budget | None:
        """The budget; None when the headers are missing or are not numbers."""
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


# -- the client --------------------------------------------------------------------------------


class HttpClient(Lifecycle):
    """Exchanges JSON with one service, at the hosts that ``credentials`` has declared.

    ``headers``, and those of ``auth``, go with every request to the service's own origin.
    ``read_error`` is given every response, also a good one, and returns the error that it means;
    None leaves that to the status.  An error without ``retry_after`` gets the wait that the
    headers ask for.  ``budgets`` read the service's rate limits from each response.  ``timeout``
    is in seconds.

    A given transport is not closed here.  Safe for concurrent callers in one event loop.
    """

    def __init__(
        self,
        base_url: str,
        credentials: CredentialProvider,
        *,
        auth: Auth | None = None,
        headers: Mapping[str, str] | None = None,
        read_error: ErrorReader | None = None,
        budgets: Sequence[BudgetReader] = (),
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        transport: Transport | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self._origin = read_address(self.base_url)[0]
        credentials.hosts.check(self._origin)
        self._credentials, self._auth, self._read_error = credentials, auth, read_error
        self._headers = {"accept": "application/json", **_sendable(headers)}
        self._budgets = tuple(budgets)
        self._max_bytes = max_bytes
        self._own = None if transport else _Httpx2Transport(timeout, credentials.redactor)
        self._transport = transport or self._own

    async def start(self) -> None:
        """Do nothing: the first request connects, so that a replay does not need the library."""

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

    async def get(
        self,
        path: str,
        *pieces: str | int,
        params: Mapping[str, str] | None = None,
        conditional: bool = False,
    ) -> Json:
        """The JSON data at a path: ``get("/repos/{}/issues", id, params={"state": "all"})``."""
        response = await self.request("GET", path, *pieces, params=params, conditional=conditional)
        return response.json()

    async def request(
        self,
        method: str,
        path: str,
        *pieces: str | int,
        params: Mapping[str, str] | None = None,
        json: Json = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        read_error: ErrorReader | None = None,
        label: str = "",
        conditional: bool = False,
    ) -> HttpResponse:
        """A response with status 2xx, or 304 to a condition; an UpstreamError for every other one.

        ``path`` is joined to the base address.  Each ``{}`` in it takes one of ``pieces``, escaped: an
        id from the service can never lead to another path.  An absolute address, such as that of
        a next page, must have a declared host; the credential goes to no other origin.  ``json``
        or ``form`` is the body; ``read_error`` replaces the client's own.

        ``conditional``, in an operation that a loader runs for a page: the service may answer that
        nothing is modified.  Max then takes the page as it is stored, and the loader ends there.
        """
        kind, body = _body(json, form)
        url = self._address(path, pieces)
        if params:
            url += ("&" if "?" in url else "?") + urlencode(params)
        request = HttpRequest(method, url, {**kind, **_sendable(headers)}, body, label)
        page, digest, conditions = conditions_now(wanted=conditional), "", {}
        if page is not None:
            digest = await self._digest(request) if conditional else ""
            conditions = page.headers(digest)
            request = replace(request, headers={**request.headers, **conditions})
        response = await self._followed(request)
        error = self._error(response, read_error or self._read_error)
        if error is not None:
            self._credentials.redactor.clean(error)
            raise error
        if page is not None and digest:
            if conditions and response.status == 304:
                raise page.unchanged()
            page.answered(digest, response.headers)
        return response

    async def _followed(self, request: HttpRequest) -> HttpResponse:
        """The response to a request, at the address to which others lead."""
        response = await self._send(request)
        for _ in range(REDIRECTS if request.method in FOLLOWED and request.body is None else 0):
            if not _is_redirect(response):
                break
            response = await self._send(replace(request, url=self._redirected(response)))
        return response

    async def _digest(self, request: HttpRequest) -> str:
        """A short text that differs between requests, and between credentials, of which it tells nothing."""
        from hashlib import blake2b  # slow, and most requests do without

        headers = sorted({**self._headers, **request.headers}.items())
        sent = repr((request.method, request.url, headers, request.body)).encode()
        who = await self._identity() or repr(sorted((await self._authenticated()).items()))
        return blake2b(sent, digest_size=9).hexdigest() + blake2b(who.encode(), digest_size=2).hexdigest()

    def _address(self, path: str, pieces: Sequence[str | int]) -> str:
        """The absolute address of a path; PermissionDenied for one that leads elsewhere than it seems."""
        absolute = path.startswith(("http://", "https://"))
        try:
            if pieces or not absolute:
                path = filled(path, pieces)
            check_segments(path.partition("#")[0]) if absolute else check_path(path)
        except ValueError as error:
            raise _unusable(error) from None
        return path if absolute else f"{self.base_url}/{path.lstrip('/')}"

    async def _send(self, request: HttpRequest) -> HttpResponse:
        """Send to a declared host; the client's headers go only to its own origin."""
        try:
            origin, rest = read_address(request.url)
        except ValueError as error:
            raise _unusable(error) from None
        self._credentials.hosts.check(origin)
        headers = dict(request.headers) if origin == self._origin else _content_type(request.headers)
        if origin == self._origin:
            headers = {**self._headers, **headers, **await self._authenticated()}
        sent, began = replace(request, url=f"{origin}{rest}", headers=headers), time.perf_counter()
        assert self._transport  # noqa: S101  # one of the two is set by the constructor
        try:
            response = await self._transport.send(sent, max_bytes=self._max_bytes)
        except UpstreamError as error:
            self._credentials.redactor.clean(error)
            self._log(sent, error.code, began)
            raise
        self._log(sent, response.status, began)
        block_limit(self._budget_wait(response.headers))
        return response

    def _log(self, request: HttpRequest, outcome: int | str, began: float) -> None:
        if LOG.isEnabledFor(logging.DEBUG):
            call, url, ms = last_attempt(), urlsplit(request.url), (time.perf_counter() - began) * 1000
            name, attempt = (call.operation.name, call.attempt) if call else ("no operation", 1)
            path = self._credentials.redactor.message(url.path)
            place = (name, request.method, url.netloc, path, outcome)
            LOG.debug("%s: %s %s%s: %s in %.0f ms, attempt %d", *place, ms, attempt)

    async def _authenticated(self) -> dict[str, str]:
        if self._auth is None:
            return {}
        headers = _sendable(await self._auth.headers())
        for name, value in headers.items():
            self._credentials.keep_out(f"the header {name}", value)
            self._credentials.keep_out(f"the secret in {name}", value.partition(" ")[2])
        return headers

    async def _identity(self) -> str:
        """Whose the credential is; empty when its own headers are all that tells."""
        identity = getattr(self._auth, "identity", None)  # an Auth of one's own may have headers alone
        return await identity() if identity else ""

    def _redirected(self, response: HttpResponse) -> str:
        """Where a redirect leads; UpstreamChanged when it gives up encryption."""
        here, location = response.request.url, response.headers["location"]
        try:
            there = urljoin(here, location) if location.isprintable() else ""  # not an address
        except ValueError:
            there = ""
        if here.startswith("https:") and there.startswith("http:"):
            raise UpstreamChanged(
                f"{response.request}: the service redirects to an address without encryption",
                hint="nothing was sent there; connect again if the service has a new address",
            )
        return there

    def _budget_wait(self, headers: Mapping[str, str]) -> float:
        """Seconds until every used-up budget is full again; 0 when none is used up."""
        budgets = filter(None, [read(headers) for read in self._budgets])
        empty = [one for one in budgets if one.remaining < max(1.0, one.cost)]
        now = service_time(headers) if empty else 0.0
        return max((one.wait(now) for one in empty), default=0.0)

    def _error(self, response: HttpResponse, read_error: ErrorReader | None) -> UpstreamError | None:
        """The error that a response means, with the wait that its headers ask for."""
        error = read_error(response) if read_error else None
        if error is None and not is_success(response):
            error = error_by_status(response)
        if error is not None:
            error.data.setdefault("status", response.status)
            if error.retryable:
                error.data.setdefault("host", urlsplit(response.request.url).netloc)
            self._complete_wait(error, response.headers)
        return error

    def _complete_wait(self, error: UpstreamError, headers: Mapping[str, str]) -> None:
        asked = retry_after(headers.get("retry-after", ""), service_time(headers))
        wait = self._budget_wait(headers) if isinstance(error, QuotaExceeded) else 0.0
        if error.retry_after is None and (wait or asked):
            error.data["retry_after"] = error.retry_after = max(wait, asked or 0.0)


def checked_url(url: str) -> str:
    """An address without its last slash; InvalidAnswers when it is not a plain http(s) address."""
    try:
        origin, rest = read_address(url)
    except ValueError:
        rest = "?"
    if "?" in rest or "#" in url:
        wrong = Mismatch("base_url", "an address like https://api.example.com", url, secret="@" in url)
        raise InvalidAnswers("the service's address cannot be used", [wrong])
    return f"{origin}{rest}".rstrip("/")


def error_by_status(response: HttpResponse) -> UpstreamError:
    """The error that a bad status means, with the service's own message when it has one."""
    of_class = {3: REDIRECTED, 4: REFUSED}.get(response.status // 100, BROKEN)
    kind, what, hint = ERRORS.get(response.status, of_class)
    message = own_message(response.body)
    return kind(
        f"{response.request}: {what} ({response.status}){f': {message}' if message else ''}",
        hint=hint,
        status=response.status,
    )


def checked_token(token: str) -> str:
    """A token that a header can hold; BadCredentials when it cannot, as after a careless paste."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadCredentials(
            "the credential is empty or has characters that no token has",
            hint="connect again; leave out spaces, quotes and line ends",
        )
    return token


def service_time(headers: Mapping[str, str]) -> float:
    """Seconds since the epoch by the service's clock (the Date header), or by ours without one."""
    at = _seconds_until(headers.get("date", ""), 0.0)
    return time.time() if math.isnan(at) else at


def retry_after(text: str, now: float) -> float | None:
    """Seconds from ``now`` that a Retry-After header asks for, as a number or a date.

    Of several headers, which arrive joined by commas, the longest wait counts.  None when nothing
    in it is a wait, or it is over.
    """
    words = [word for word in text.split(",")[:WAITS] if word.strip() and word.isascii() and "_" not in word]
    dates = [",".join(pair) for pair in pairwise(words)]  # a date has a comma in it, if any
    waits = [bounded_wait(word) for word in words]
    waits += [bounded_wait(_seconds_until(date, now)) for date in (*words, *dates)]
    return max(filter(None, waits), default=None)


def read_body(body: bytes) -> Json:
    """The JSON data of a body; ValueError when it is none.

    A number with more digits than Python reads is infinite: it fits no field, and costs its row alone.
    """
    try:
        return json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        return json.loads(body, parse_int=_whole)


def _whole(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def own_message(body: bytes) -> str:
    """The service's own message in an error's body, on one line; empty when there is none."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    found = data
    for key in ("error", "message", "detail"):
        if isinstance(found, dict):
            found = found.get(key, found)
    return one_line(found)


def one_line(text: Json) -> str:
    """A text on one line, shortened for a message; empty for anything but text."""
    return " ".join(text.split())[:QUOTED] if isinstance(text, str) else ""


def _seconds_until(text: str, now: float) -> float:
    """Seconds from ``now`` to a date; nan for what is none."""
    from email.utils import parsedate_to_datetime  # slow to import, and seldom needed

    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # it raises all of them
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now


def _is_redirect(response: HttpResponse) -> bool:
    return response.status in (301, 302, 303, 307, 308) and "location" in response.headers


def is_success(response: HttpResponse) -> bool:
    """Whether the status is 2xx, or 304 to a condition."""
    if response.status == 304:
        return any(name in response.request.headers for name in CONDITIONS)
    return 200 <= response.status < 300


def _unusable(error: ValueError) -> PermissionDenied:
    return PermissionDenied(
        f"a request has an address that cannot be used: {error}",
        hint="nothing was sent; give ids as pieces, get('/things/{}', id); or the service has changed",
    )


def _sendable(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers by their names in lower case; ValueError, without the value, for one that cannot be sent."""
    named = dict(Headers(headers or {}))
    for name, value in named.items():
        if not NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise ValueError(f"the header {name!r} has characters that no header can hold")
    return named


def _content_type(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers for another origin: no credential, only the type of the body."""
    return {"accept": "*/*"} | {name: headers[name] for name in ("content-type",) if name in headers}


def _body(data: Json, form: Mapping[str, str] | None) -> tuple[dict[str, str], bytes | None]:
    """The header with a body's type, and the body."""
    if form is not None:
        return {"content-type": "application/x-www-form-urlencoded"}, urlencode(form).encode()
    if data is None:
        return {}, None
    return {"content-type": "application/json"}, json.dumps(data, separators=(",", ":")).encode()


# -- the default transport ---------------------------------------------------------------------


class _CleanLog(logging.Filter):
    """Removes secrets from what the library logs: the address of each request, the headers of answers."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record stays, without secrets."""
        record.msg, record.args = self._redactor.message(record.getMessage()), ()
        return True


def require_http() -> None:
    """MissingExtra unless the extra ``http`` is installed; for ``requires`` of a connector."""
    try:
        import httpx2  # noqa: F401
    except ImportError as error:
        raise MissingExtra("http", "httpx2", "talking to a service over HTTP") from error


class _Httpx2Transport(Transport):
    """httpx2 as a Transport; connections are kept open and used again.

    Each of its clients has one connection, and serves one request at a time.  One client for all
    would ask the system about every idle connection, at both ends of each request: with 32
    requests at a time, that was a third of a sync's processor time.
    """

    def __init__(self, timeout: float, redactor: Redactor) -> None:
        self._timeout, self._log = timeout, _CleanLog(redactor)
        self._opening = asyncio.Lock()
        self._trust: dict[bool, ssl.SSLContext] = {}  # with encryption, and without
        self._clients: set[httpx2.AsyncClient] = set()  # every open one
        self._idle: list[tuple[str, float, httpx2.AsyncClient]] = []  # for which origin, since when

    async def aclose(self) -> None:
        """Close every connection; the next request opens one again, perhaps in another loop."""
        clients, self._clients = self._clients, set()
        self._idle, self._trust, self._opening = [], {}, asyncio.Lock()
        for name in LIBRARY_LOGS:
            logging.getLogger(name).removeFilter(self._log)
        for client in clients:
            await client.aclose()

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """As Transport says; MissingExtra when the library is not installed."""
        origin = "/".join(request.url.split("/", 3)[:3])
        client = self._taken(origin) or await self._opened(secure=origin.startswith("https:"))
        try:
            return await _exchange(client, request, max_bytes)
        finally:
            if client in self._clients:  # else it was closed meanwhile
                self._idle.append((origin, time.monotonic(), client))
                await self._close_unused()

    def _taken(self, origin: str) -> httpx2.AsyncClient | None:
        """The idle client that served an origin last, so that those which are not needed grow old."""
        for place in reversed(range(len(self._idle))):
            if self._idle[place][0] == origin:
                return self._idle.pop(place)[2]
        return None

    async def _close_unused(self) -> None:
        """Close the idle clients that are too many, or too old."""
        while len(self._idle) > CONNECTIONS or (self._idle and self._idle[0][1] < time.monotonic() - KEPT):
            client = self._idle.pop(0)[2]
            self._clients.remove(client)
            await client.aclose()

    async def _opened(self, *, secure: bool) -> httpx2.AsyncClient:
        """A new client; it connects at its first request."""
        async with self._opening:
            if secure not in self._trust:
                self._trust[secure] = await in_thread(lambda: self._prepared(secure))
            trust = self._trust[secure]
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx2

        client = httpx2.AsyncClient(
            timeout=self._timeout,
            verify=trust,
            headers={"accept-encoding": "gzip, deflate"},  # what _Unpacker reads
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none: they reach other origins
        )
        self._clients.add(client)
        return client

    def _prepared(self, secure: bool) -> ssl.SSLContext:
        """Which certificates are trusted.  They and the import would hold the loop for a tenth of a second.

        Without encryption none are loaded: a third of the start-up.
        """
        require_http()
        import http.cookiejar  # noqa: F401  # for the loop, which finds it imported

        import httpx2

        for name in LIBRARY_LOGS:
            logging.getLogger(name).addFilter(self._log)  # once, however often it is added
        return httpx2.create_ssl_context(verify=secure)


async def _exchange(client: httpx2.AsyncClient, request: HttpRequest, max_bytes: int) -> HttpResponse:
    """A request and its response; errors of httpx2 are translated here and nowhere else."""
    import httpx2

    answered = False
    call = client.stream(request.method, request.url, headers=dict(request.headers), content=request.body)
    try:
        async with call as response:
            answered = True
            body = await _read(request, response, max_bytes)
            return HttpResponse(request, response.status_code, dict(response.headers), body)
    except httpx2.RemoteProtocolError as error:
        if not answered and "without sending" in str(error):
            raise _offline(request, error) from error
        words = "is incomplete or damaged" if answered else f"is not valid HTTP ({one_line(str(error))})"
        raise UpstreamBroken(f"{request}: the answer {words}", hint="try again later") from error
    except httpx2.RequestError as error:
        raise _offline(request, error) from error


def _offline(request: HttpRequest, error: Exception) -> Offline:
    host, reason = urlsplit(request.url).netloc, one_line(str(error)) or type(error).__name__
    return Offline(f"no answer from {host}: {reason}", hint="check the network and the address")


async def _read(request: HttpRequest, response: httpx2.Response, max_bytes: int) -> bytes:
    """The unpacked body; it never takes more memory than ``max_bytes`` and the library's buffers."""
    announced = _number(response.headers.get("content-length"))
    if announced is not None and announced > max_bytes and request.method != "HEAD":
        raise _too_long(request, max_bytes)
    body, unpacker = bytearray(), _Unpacker(response.headers.get("content-encoding", ""))
    until = (
        math.inf if in_operation() else time.monotonic() + DEADLINE
    )  # of no loop: a fake clock skips waits
    try:
        async for piece in response.aiter_raw():
            if time.monotonic() > until:
                raise Offline(
                    f"{request}: no complete answer within {DEADLINE:g} s",
                    hint="the service is slow; try later",
                )
            body += unpacker.unpack(piece, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                raise _too_long(request, max_bytes)
        unpacker.check_end()
    except zlib.error as error:
        raise UpstreamBroken(
            f"{request}: the answer is incomplete or damaged", hint="try again later"
        ) from error
    return bytes(body)


def _too_long(request: HttpRequest, max_bytes: int) -> UpstreamChanged:
    return UpstreamChanged(
        f"{request}: the answer is longer than {max_bytes:,} bytes",
        hint="it was not read to its end, and is not asked for again; ask for smaller pages",
    )


class _Unpacker:
    """Unpacks gzip and deflate, no more at a time than is asked for; other bodies stay as they are."""

    def __init__(self, encoding: str) -> None:
        self._packed = encoding.strip().lower() in ("gzip", "x-gzip", "deflate")
        self._stream: zlib._Decompress | None = None
        self._head = b""  # the first byte; two say how the body is packed

    def unpack(self, data: bytes, most: int) -> bytes:
        """At most so many bytes; what is left over has no meaning when there are that many."""
        if not self._packed:
            return data[:most]
        if self._stream is None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return b""
            self._stream = zlib.decompressobj(_window(data))
        unpacked = self._stream.decompress(data, most)
        while self._stream.eof and self._stream.unused_data and len(unpacked) < most:  # one more member
            data, self._stream = self._stream.unused_data, zlib.decompressobj(GZIP_OR_ZLIB)
            unpacked += self._stream.decompress(data, most - len(unpacked))
        return unpacked

    def check_end(self) -> None:
        """zlib.error when the body ends within the packed data."""
        if self._head if self._stream is None else not self._stream.eof:
            raise zlib.error("incomplete")


def _window(data: bytes) -> int:
    """How zlib reads a body with this beginning: some services send deflate without its head."""
    has_head = data[:2] == b"\x1f\x8b" or (data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0)
    return GZIP_OR_ZLIB if has_head else -zlib.MAX_WBITS
