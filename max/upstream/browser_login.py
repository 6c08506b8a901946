"""Signing in with a browser: the authorization-code flow of OAuth, for somebody who connects.

Rule 1: nobody can slip in a grant of their own.  The code must come with the state that we made
up, to this machine's own loopback address, and is worth nothing without the verifier (PKCE, S256).

Rule 2: what is got is kept by the onboarding, which keeps everything or nothing; a code, a
verifier or a token is never shown.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from ..errors import BadCredentials, Offline, PermissionDenied, UsageError
from .credentials import CredentialProvider
from .oauth import OAuth
from .operations import run_operation

PATIENCE = 300.0  # seconds for somebody to sign in
READ = 3.0  # seconds for a browser to say what it wants
LONGEST = 16_384  # bytes of a browser's request
PATH = "/callback"
PAGE = (
    "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {length}\r\n"
    "cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{body}"
)


def open_browser(url: str) -> None:
    """Show an address in the browser of whoever sits here, if there is one."""
    import webbrowser  # slow to import, and seldom needed

    with suppress(webbrowser.Error):
        webbrowser.open(url)


@dataclass(frozen=True)
class BrowserSignIn:
    """What a SignIn step runs: it sends somebody to the service, and keeps the tokens that come of it.

    ``base_url`` and ``client_id`` name the configuration values that hold them.  ``separator``
    stands between scopes, ``extra`` goes with the address, ``port`` is for services that know
    applications by their whole redirect address; 0 picks a free one.
    """

    oauth: OAuth
    authorize_url: str
    scopes: Sequence[str] = ()
    separator: str = " "
    extra: Mapping[str, str] = field(default_factory=dict)
    base_url: str = "base_url"
    client_id: str = "client_id"
    port: int = 0
    patience: float = PATIENCE
    show: Callable[[str], object] = open_browser

    async def __call__(
        self, answers: Mapping[str, Any], credentials: CredentialProvider, say: Callable[[str], None]
    ) -> Mapping[str, Any]:
        """Sign somebody in; PermissionDenied when they refuse, Offline when nobody comes in time."""
        client_id, verifier = answers[self.client_id], secrets.token_urlsafe(64)
        redirect = _Redirect(state=secrets.token_urlsafe(32))
        async with await self._listening(redirect) as server:
            back = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
            url = self.address(client_id, back, redirect.state, verifier)
            say(f"Sign in with a browser; if none opens, go to: {url}")
            await asyncio.to_thread(self.show, url)
            code = await self._code(redirect)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
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

    def address(self, client_id: str, back: str, state: str, verifier: str) -> str:
        """Where somebody signs in, and is then sent ``back``."""
        digest = sha256(verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": back,
            "state": state,
            "code_challenge": urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        scope = {"scope": self.separator.join(self.scopes)} if self.scopes else {}
        return f"{self.authorize_url}?{urlencode({**asked, **scope, **self.extra})}"

    async def _listening(self, redirect: _Redirect) -> asyncio.Server:
        try:
            return await asyncio.start_server(redirect.answer, "127.0.0.1", self.port, limit=LONGEST)
        except OSError as error:
            raise UsageError(
                f"the sign-in needs port {self.port} of this machine: {error.strerror}",
                hint="end the program that uses it, and connect again",
            ) from error

    async def _code(self, redirect: _Redirect) -> str:
        try:
            async with asyncio.timeout(self.patience):
                return await redirect.code
        except TimeoutError as error:
            raise Offline(
                f"nobody signed in within {self.patience:g} s",
                hint="connect again, and follow the address that is shown",
            ) from error


class _Redirect:
    """What waits on the loopback address for the browser to be sent back."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.code: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and tell whoever looks at the browser what came of it."""
        try:
            async with asyncio.timeout(READ):
                head = await reader.readuntil(b"\r\n\r\n")
            status, words = self._take(head.decode("latin-1").partition("\r\n")[0])
            body = f"<!doctype html><title>{words}</title><p>{words}"
            writer.write(PAGE.format(status=status, length=len(body.encode()), body=body).encode())
            await writer.drain()
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            pass  # no browser that was sent back
        finally:
            writer.close()

    def _take(self, line: str) -> tuple[str, str]:
        """The status and the words for a request's first line; a good one settles the code."""
        method, target, _ = line.split(" ")
        url = urlsplit(target)
        found = {name: values[0] for name, values in parse_qs(url.query).items()}
        if method != "GET" or url.path != PATH or self.code.done():
            return "404 Not Found", "There is nothing here."
        if not compare_digest(found.get("state", "").encode(), self.state.encode()):
            return "400 Bad Request", "This is not the sign-in that was begun here."
        if "code" not in found:
            self.code.set_exception(_refused(found.get("error", "")))
            return "200 OK", "The sign-in was refused. You can close this window."
        self.code.set_result(found["code"])
        return "200 OK", "You are signed in. You can close this window."


def _refused(error: str) -> BadCredentials | PermissionDenied:
    if error == "access_denied":
        return PermissionDenied("the sign-in was refused", hint="connect again, and allow what is asked for")
    known = error if error.isascii() and error.isidentifier() else "it does not say why"
    return BadCredentials(
        f"the service did not sign anybody in: {known}",
        hint="check the client id, and the redirect address that the application was registered with",
    )
