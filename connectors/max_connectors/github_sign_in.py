"""Signing in at GitHub: a token of a person, or the key of a GitHub App.

A person's token is sent as it is.  An App signs a request with its key (RS256), and gets a token of
its installation, which is good for an hour.  It is kept and renewed like any OAuth token; only the
form of the request is GitHub's own.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from max.connecting import (
    BadCredentials,
    Credential,
    CredentialProvider,
    HttpClient,
    HttpRequest,
    HttpResponse,
    Json,
    MissingExtra,
    OAuth,
    OAuthTokens,
    Secret,
    Transport,
    UpstreamChanged,
)

from .github_api import HEADERS, GithubConfig, read_error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LIFE = 540  # seconds that a signed request may be good for; GitHub allows ten minutes
EARLIER = 60  # seconds by which our clock may be ahead of GitHub's

TOKEN = Credential("token", "a personal access token, classic or fine-grained", required=False)
PRIVATE_KEY = Credential("private_key", "the private key of a GitHub App, a PEM file", required=False)
OAUTH = OAuth("github", token_path="/token", read_error=read_error)  # _Exchange asks elsewhere
INSTALLED = "ghs_"  # how tokens of an installation begin


class App:
    """A GitHub App, which signs its own requests for tokens.

    ``keep_out`` keeps each signed request out of what is written.
    """

    def __init__(self, app_id: str, key: Secret, keep_out: Callable[[str, str], None]) -> None:
        self._app_id, self._text, self._keep_out = app_id, key, keep_out
        self._key: RSAPrivateKey | None = None

    def load(self) -> None:
        """Read the key; BadCredentials when it is none, MissingExtra without cryptography."""
        try:
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError as error:
            raise MissingExtra("github-app", "cryptography", "signing in as a GitHub App") from error
        try:
            key = load_pem_private_key(self._text.reveal().encode(), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise BadCredentials(
                f"github: the credential {PRIVATE_KEY.name} is no private RSA key in PEM format",
                hint=f"give the file that GitHub made: --credential {PRIVATE_KEY.name}=file:PATH",
            )
        self._key = key

    def grant(self, now: float) -> Mapping[str, str]:
        """What requests a token at a time, in seconds since the epoch."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        if self._key is None:
            self.load()
        assert self._key is not None  # load raises instead
        claims = {"iat": int(now) - EARLIER, "exp": int(now) + LIFE, "iss": self._app_id}
        unsigned = f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}"
        signed = f"{unsigned}.{encoded(self._key.sign(unsigned.encode(), PKCS1v15(), SHA256()))}"
        self._keep_out("assertion", signed)
        return {"assertion": signed}


class _Exchange(Transport):
    """Turns an OAuth request for a token into GitHub's, and its answer into OAuth's."""

    def __init__(self, http: HttpClient, installation_id: str) -> None:
        self._http, self._installation = http, installation_id

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """Ask for a token of the installation with the signed request."""
        signed = parse_qs((request.body or b"").decode())["assertion"][0]
        response = await self._http.request(
            "POST",
            "/app/installations/{}/access_tokens",
            self._installation,
            headers={"authorization": f"Bearer {signed}"},
        )
        data = response.json()
        try:
            until = datetime.fromisoformat(data["expires_at"])
            seconds = (until - parsedate_to_datetime(response.headers["date"])).total_seconds()
            answer = {"access_token": data["token"], "expires_in": seconds}
        except (KeyError, TypeError, ValueError):
            raise UpstreamChanged(
                f"{response.request}: the answer has no token with its end", hint="update the connector"
            ) from None
        return HttpResponse(request, 200, {}, json.dumps(answer).encode())


def app_tokens(
    config: GithubConfig, key: Secret, credentials: CredentialProvider
) -> tuple[App, HttpClient, OAuthTokens]:
    """The App, the client that asks for its tokens, and the tokens of its installation."""
    if not config.app_id or not config.installation_id:
        raise BadCredentials(
            "github: a GitHub App needs app_id and installation_id",
            hint="run max connect again, with --set app_id=… --set installation_id=…",
        )
    app = App(config.app_id, key, credentials.keep_out)
    http = HttpClient(config.base_url, credentials, headers=HEADERS, read_error=read_error)
    exchange = _Exchange(http, config.installation_id)
    tokens = OAUTH.tokens(
        credentials,
        config.base_url,
        grant=app.grant,
        transport=exchange,
        account=f"{config.app_id}/{config.installation_id}",  # tokens of an hour keep their pages' tags
    )
    return app, http, tokens


def part(data: Json) -> str:
    """JSON data as a part of a token."""
    return encoded(json.dumps(data, separators=(",", ":")).encode())


def encoded(data: bytes) -> str:
    """Base64 for URLs, without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")
