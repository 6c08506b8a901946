"""A proxy in front of any service: it forwards requests, and makes them fail on request."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from .clock import real_time
from .server import STATUSES, FaultKind, LocalServer, Request, Response

OWN = ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "accept-encoding")
RENEWALS = re.compile(r"token|oauth", re.IGNORECASE)  # in a path: where new credentials come from
CREDENTIALS = re.compile(r"authorization|key|token", re.IGNORECASE)  # in a header's name
TIMEOUT = 60.0  # seconds that the service behind may take


@dataclass(frozen=True)
class ProxyFault:
    """A fault of the requests that ``matches`` chooses: each of them fails this many ``times``."""

    kind: FaultKind
    times: int = 1
    retry_after: float | None = None
    matches: Callable[[Request], bool] = lambda request: True


class FaultyProxy(LocalServer):
    """Forwards every request to the service at ``target``, except those that shall fail.

    The service's own address in an answer becomes the proxy's, so that a next page is requested here
    too.  The message of an error repeats the credential, as careless services do.
    """

    def __init__(self, target: str, *, clock: Callable[[], float] | None = None) -> None:
        super().__init__(clock)
        self.target = target.rstrip("/")
        self.failed: Counter[FaultKind] = Counter()  # requests that failed on purpose
        self._fault: ProxyFault | None = None
        self._seen: Counter[tuple[str, str, bytes]] = Counter()
        self._refused: set[str] = set()  # credentials
        self._pauses: set[asyncio.Task[None]] = set()

    def inject(self, fault: ProxyFault | None) -> None:
        """Have this fault from now on, and no other."""
        self._fault = fault
        self._seen.clear()

    def expire(self, request: Request) -> None:
        """Refuse the credential of a request from now on."""
        self._refused.add(credential_of(request))

    def accept_all(self) -> None:
        """Refuse no credential any more."""
        self._refused.clear()

    async def answer(self, request: Request) -> tuple[Response, FaultKind | None]:
        """The service's answer, or a fault."""
        fault, key = self._fault, (request.method, request.target, request.body)
        if credential_of(request) in self._refused and not RENEWALS.search(request.path):
            return self._error(request, FaultKind.EXPIRE), FaultKind.EXPIRE
        if fault is None or not fault.matches(request) or self._seen[key] >= fault.times:
            return await self._forwarded(request), None
        self._seen[key] += 1
        self.failed[fault.kind] += 1
        if fault.kind in STATUSES:
            wait = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
            return replace(self._error(request, fault.kind), headers=wait), fault.kind
        if fault.kind in (FaultKind.DROP, FaultKind.GARBAGE):
            return Response(), fault.kind
        return await self._forwarded(request), fault.kind

    def _error(self, request: Request, kind: FaultKind) -> Response:
        said = f"{kind.replace('_', ' ')}: {request.target} {credential_of(request)}"
        return Response({"error": {"message": said}}, STATUSES[kind])

    async def _forwarded(self, request: Request) -> Response:
        response = await asyncio.to_thread(self._exchange_with_service, request)
        if response.status in (429, 503):  # its own limit: only real time ends that
            pause = asyncio.create_task(_pause(response.headers))
            self._pauses.add(pause)
            pause.add_done_callback(self._pauses.discard)
        return response

    def _exchange_with_service(self, request: Request) -> Response:
        """Send a request on; 502 when the service does not answer."""
        import http.client  # only tests need it

        parts = urlsplit(self.target)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=TIMEOUT)
        headers = {name: value for name, value in request.headers.items() if name not in OWN}
        try:
            connection.request(request.method, parts.path + request.target, request.body or None, headers)
            answer = connection.getresponse()
            body, given = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        except (OSError, http.client.HTTPException) as error:
            return Response({"error": f"{self.target} does not answer: {error}"}, 502)
        finally:
            connection.close()
        here, there = self.url.encode(), self.target.encode()
        shown = {name: value.replace(self.target, self.url) for name, value in given.items()}
        shown = {name: value for name, value in shown.items() if name not in OWN}
        return Response(status=answer.status, headers=shown, body=body.replace(there, here))


def credential_of(request: Request) -> str:
    """The headers of a request that may be its credential, as one text."""
    return ", ".join(value for name, value in request.headers.items() if CREDENTIALS.search(name))


async def _pause(headers: Mapping[str, str]) -> None:
    """Let real time pass until the service would answer again."""
    asked = headers.get("retry-after", "")
    with real_time():
        await asyncio.sleep(float(asked) if asked.isdecimal() else 1.0)
