"""A strict OAuth service, for test_oauth.py.

A refresh token is good once.  When it is sent again, the answer is repeated for a while (the
grace period); after that the whole grant ends, as in services that suspect a theft.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

DAY = 86_400.0  # seconds: how long an access token is good
GRACE = 1800.0  # seconds: how long an answer is repeated
CLIENT, SECRET = "the-client", "client/secret+of&ours"
Answer = tuple[int, Any]  # status and body
Fault = Callable[[Answer], Answer | None]  # changes an answer; None: the answer is lost


@dataclass
class TokenService:
    """The token endpoint ``/token``, and ``/thing``, which requires a valid access token."""

    clock: Callable[[], float] = time.time
    lifetime: float = DAY
    rotates: bool = True
    secret: str | None = SECRET  # None: a public client
    faults: list[Fault] = field(default_factory=list)  # for the next tokens
    seen: list[dict[str, str]] = field(default_factory=list)  # every form
    refreshes: int = 0  # new pairs that were made
    opened: list[str] = field(default_factory=list)  # the tokens of requests for a thing
    on_open: Callable[[str], None] = lambda token: None
    mark: str = ""  # part of every token
    url: str = ""

    def __post_init__(self) -> None:
        self._access = {f"access-0{self.mark}": self.clock() + self.lifetime}
        self._refresh = f"refresh-0{self.mark}"
        self._replays: dict[str, tuple[float, Answer]] = {}
        self._lock = threading.Lock()
        self.over = False  # whether the grant has ended
        self.codes: dict[str, dict[str, str]] = {}  # the request for each code

    def expire(self) -> None:
        """Refuse every access token that was issued so far."""
        self._access.clear()

    @contextmanager
    def serving(self) -> Iterator[TokenService]:
        """Listen on a free port."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"service": self}))
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def thing(self, path: str, authorization: str) -> Answer:
        """A thing; errors repeat the token, as a careless service does."""
        token = authorization.removeprefix("Bearer ")
        self.on_open(token)
        with self._lock:
            self.opened.append(token)
            good = self._access.get(token, 0.0) > self.clock()
        if path == "/forbidden":
            return 403, {"message": f"{authorization} may not see this"}
        return (200, {"token": token}) if good else (401, {"message": f"{authorization} has expired"})

    def token(self, form: dict[str, str]) -> Answer | None:
        """The answer of the token endpoint, changed by the next fault."""
        with self._lock:
            self.seen.append(form)
            answer = self._exchange(form)
            fault = self.faults.pop(0) if self.faults else lambda answer: answer
        return fault(answer)

    def _exchange(self, form: Mapping[str, str]) -> Answer:
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT, self.secret):
            return 401, {"error": "invalid_client"}
        if form["grant_type"] == "client_credentials":
            return 200, self._pair()
        if form["grant_type"] == "authorization_code":
            return self._first_pair(form)
        given = form.get("refresh_token", "")
        until, answer = self._replays.get(given, (0.0, (400, {"error": "invalid_grant"})))
        if until > self.clock() and not self.over:
            return answer
        if given != self._refresh or self.over:
            self.over = True
            return 400, {"error": "invalid_grant", "error_description": f"no such token: {given}"}
        pair = self._pair()
        if self.rotates:
            pair["refresh_token"] = self._refresh = f"refresh-{self.refreshes}{self.mark}"
            self._replays[given] = self.clock() + GRACE, (200, pair)
        return 200, pair

    def authorize(self, url: str) -> dict[str, str]:
        """A person signs in at the address and agrees: the parameters of the redirect."""
        asked = dict(parse_qsl(urlsplit(url).query))
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def _first_pair(self, form: Mapping[str, str]) -> Answer:
        asked = self.codes.pop(form["code"], {})
        digest = sha256(form["code_verifier"].encode()).digest()
        if (asked.get("code_challenge"), asked.get("redirect_uri")) != (
            urlsafe_b64encode(digest).decode().rstrip("="),
            form["redirect_uri"],
        ):
            return 400, {"error": "invalid_grant"}
        self._refresh = "refresh-signed-in"
        return 200, {**self._pair(), "refresh_token": self._refresh}

    def _pair(self) -> dict[str, Any]:
        self.refreshes += 1
        token = f"access-{self.refreshes}{self.mark}"
        self._access[token] = self.clock() + self.lifetime
        return {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime}


class _Handler(BaseHTTPRequestHandler):
    service: TokenService
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """A thing."""
        self._send(self.service.thing(self.path, self.headers.get("authorization", "")))

    def do_POST(self) -> None:
        """A token."""
        form = dict(parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
        how, _, pair = self.headers.get("authorization", "").partition(" ")
        if how == "Basic":
            form["client_id"], form["client_secret"] = map(unquote_plus, b64decode(pair).decode().split(":"))
            form["how"] = "basic"
        self._send(self.service.token(form))

    def _send(self, answer: Answer | None) -> None:
        if answer is None:  # the answer is lost
            self.close_connection = True
            return
        status, data = answer
        body = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def lost(answer: Answer) -> None:
    """The service has issued the tokens, and the answer is lost."""


def instead(status: int, body: object) -> Fault:
    """Another answer."""
    return lambda answer: (status, body)
