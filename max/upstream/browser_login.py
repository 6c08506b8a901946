"""Signing in with a browser: OAuth's authorization-code flow, during onboarding.

Rule 1: an attacker cannot inject a grant.  The code must arrive with the state that was generated
here, at this machine's loopback address, and is useless without the verifier (PKCE, S256).

Rule 2: onboarding stores the tokens, with all other answers or not at all.  A code, a verifier or
a token is never shown.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

from ..errors import BadCredentials, Offline, PermissionDenied, UsageError
from .credentials import CredentialProvider
from .oauth import OAuth
from .operations import run_operation

TIMEOUT = 300.0  # seconds to sign in
READ = 3.0  # seconds for the browser to send its request
LONGEST = 16_384  # bytes of the browser's request
PATH = "/callback"
PAGE = (
    "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {length}\r\n"
    "cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{body}"
)


def open_browser(url: str) -> None:
    """Open an address in this machine's browser, if there is one."""
    import webbrowser  # slow to import, and seldom needed

    with suppress(webbrowser.Error):
        webbrowser.open(url)


@dataclass(frozen=True)
class BrowserSignIn:
    """The code of a SignIn step: the person signs in at the service, and the tokens are stored.

    ``base_url`` and ``client_id`` are the names of configuration values.  ``separator`` joins
    the scopes, ``extra`` adds parameters to the address.  ``port`` is for services that compare
    the whole redirect address; 0 picks a free one.  ``timeout`` is in seconds.
    """

    oauth: OAuth
    authorize_url: str
    scopes: Sequence[str] = ()
    separator: str = " "
    extra: Mapping[str, str] = field(default_factory=dict)
    base_url: str = "base_url"
    client_id: str = "client_id"
    port: int = 0
    timeout: float = TIMEOUT
    show: Callable[[str], object] = open_browser

    async def __call__(
        self, answers: Mapping[str, Any], credentials: CredentialProvider, say: Callable[[str], None]
    ) -> Mapping[str, Any]:
        """Let the person sign in; PermissionDenied when they refuse, Offline when it takes too long."""
        client_id, verifier = answers[self.client_id], secrets.token_urlsafe(64)
        redirect = _Redirect(state=secrets.token_urlsafe(32))
        async with redirect.listening(self.port) as server:
            redirect_uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
            url = self.address(client_id, redirect_uri, redirect.state, verifier)
            say(f"Sign in with a browser; if none opens, go to: {url}")
            await asyncio.to_thread(self.show, url)
            code = await self._code(redirect)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        tokens = self.oauth.tokens(
            credentials, answers[self.base_url], client_id=client_id, grant=lambda now: form
        )
        try:
            await run_operation(self.oauth.renewal, tokens, "code")
        finally:
            await tokens.stop()
        return {}

    def address(self, client_id: str, redirect_uri: str, state: str, verifier: str) -> str:
        """The address at which the person signs in."""
        digest = sha256(verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        scope = {"scope": self.separator.join(self.scopes)} if self.scopes else {}
        return f"{self.authorize_url}?{urlencode({**query, **scope, **self.extra})}"

    async def _code(self, redirect: _Redirect) -> str:
        try:
            async with asyncio.timeout(self.timeout):
                return await redirect.code
        except TimeoutError as error:
            raise Offline(
                f"the sign-in was not completed within {self.timeout:g} s",
                hint="connect again, and open the address that is shown",
            ) from error


class _Redirect:
    """The server on the loopback address to which the service redirects the browser."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.code: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._connections: set[asyncio.Task[None]] = set()
        self._reading: set[asyncio.Task[None]] = set()  # those whose request has not come

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[asyncio.Server]:
        """Listen inside; afterwards the browser gets its page, and idle connections of it are closed."""
        try:
            server = await asyncio.start_server(self._accept, "127.0.0.1", port, limit=LONGEST)
        except OSError as error:
            raise UsageError(
                f"the sign-in needs port {port} on this machine: {error.strerror}",
                hint="stop the program that uses it, and connect again",
            ) from error
        try:
            yield server
        finally:
            server.close()
            for connection in self._reading:  # browsers open some that they may need
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._answer(reader, writer))
        for known in (self._connections, self._reading):
            known.add(connection)
            connection.add_done_callback(known.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and answer with a page that says what happened."""
        try:
            async with asyncio.timeout(READ):
                head = await reader.readuntil(b"\r\n\r\n")
                self._reading.discard(cast("asyncio.Task[None]", asyncio.current_task()))
                status, text = self._take(head.decode("latin-1").partition("\r\n")[0])
                body = f"<!doctype html><title>{text}</title><p>{text}"
                writer.write(PAGE.format(status=status, length=len(body.encode()), body=body).encode())
                await writer.drain()
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            pass  # not a redirected browser
        finally:
            writer.close()

    def _take(self, line: str) -> tuple[str, str]:
        """The status and the text for a request's first line; a valid one completes the sign-in."""
        method, target, _ = line.split(" ")
        url = urlsplit(target)
        found = {name: values[0] for name, values in parse_qs(url.query).items()}
        if method != "GET" or url.path != PATH or self.code.done():
            return "404 Not Found", "There is nothing here."
        if not compare_digest(found.get("state", "").encode(), self.state.encode()):
            return "400 Bad Request", "This sign-in was not started here."
        if "code" not in found:
            self.code.set_exception(_refused(found.get("error", "")))
            return "200 OK", "The sign-in was refused. You can close this window."
        self.code.set_result(found["code"])
        return "200 OK", "You are signed in. You can close this window."


def _refused(error: str) -> BadCredentials | PermissionDenied:
    if error == "access_denied":
        return PermissionDenied("the sign-in was refused", hint="connect again, and allow the access")
    known = error if error.isascii() and error.isidentifier() else "it gives no reason"
    return BadCredentials(
        f"the service refused the sign-in: {known}",
        hint="check the client id and the application's redirect address",
    )
