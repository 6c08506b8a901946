"""Signing in at Google: a person with a browser, or a service account with its key.

Google's refresh tokens do not rotate.  They end when access is revoked, after six months without
use, and after seven days while the application is in testing; then the person connects again.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from max.connecting import BadCredentials, BrowserSignIn, Credential, Json, MissingExtra, OAuth, Secret

from .google_drive_api import read_error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SCOPE = "https://www.googleapis.com/auth/drive.readonly"
TOKEN_PATH = "/token"  # below token_url
LIFE = 3600  # seconds that a signed request for a token may be good for
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

OAUTH = OAuth("google_drive", token_path=TOKEN_PATH, read_error=read_error)
BROWSER = BrowserSignIn(
    OAUTH,
    "https://accounts.google.com/o/oauth2/v2/auth",
    [SCOPE],
    extra={"access_type": "offline", "prompt": "consent"},  # else there is no refresh token
    base_url="token_url",
)
SERVICE_KEY = Credential("service_account_key", "the JSON key file of a service account", required=False)


class ServiceAccount:
    """A service account, which signs its own requests for tokens (RFC 7523).

    ``audience`` is the token endpoint.  ``subject`` is the user for whom it acts, empty for itself.
    ``keep_out`` keeps the key and each signed request out of what is written.
    """

    def __init__(
        self, key: Secret, audience: str, subject: str, keep_out: Callable[[str, str], None]
    ) -> None:
        self._text, self._audience, self._subject, self._keep_out = key, audience, subject, keep_out
        self._email = ""
        self._key: RSAPrivateKey | None = None

    def load(self) -> None:
        """Read the key, in a thread: importing the library takes long.

        BadCredentials when it is no key of a service account; MissingExtra without cryptography.
        """
        data = key_data(self._text)
        try:
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError as error:
            raise MissingExtra("google", "cryptography", "signing in as a service account") from error
        try:
            key = load_pem_private_key(data["private_key"].encode(), None)
        except (ValueError, TypeError) as error:
            raise wrong_key("its private_key cannot be read") from error
        if not isinstance(key, RSAPrivateKey):
            raise wrong_key("its private_key is no RSA key")
        self._keep_out("private_key", data["private_key"])
        self._email, self._key = data["client_email"], key

    def grant(self, now: float) -> Mapping[str, str]:
        """The form that requests a token at a time, in seconds since the epoch."""
        if self._key is None:
            self.load()
        claims = {
            "iss": self._email,
            "scope": SCOPE,
            "aud": self._audience,
            "iat": int(now),
            "exp": int(now) + LIFE,
            **({"sub": self._subject} if self._subject else {}),
        }
        unsigned = f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}"
        assertion = f"{unsigned}.{encoded(self._signature(unsigned.encode()))}"
        self._keep_out("assertion", assertion)
        return {"grant_type": JWT_BEARER, "assertion": assertion}

    def _signature(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        assert self._key is not None  # grant has loaded it
        return self._key.sign(data, PKCS1v15(), SHA256())


def key_data(key: Secret) -> Mapping[str, str]:
    """The parts of a key file; BadCredentials, which repeats none of it, when one is missing."""
    try:
        data = json.loads(key.reveal())
    except ValueError:
        raise wrong_key("it is not JSON") from None
    kind = data.get("type") if isinstance(data, dict) else None
    if kind != "service_account":
        raise wrong_key("it is not of the type service_account")
    for name in ("client_email", "private_key"):
        if not isinstance(data.get(name), str):
            raise wrong_key(f"it has no {name}")
    return {name: data[name] for name in ("client_email", "private_key")}


def wrong_key(problem: str) -> BadCredentials:
    """The error for a key file that cannot be used."""
    return BadCredentials(
        f"google_drive: the credential {SERVICE_KEY.name} cannot be used: {problem}",
        hint="give the JSON key file of a service account:"
        f" --credential {SERVICE_KEY.name}=file:PATH (with --update if it is connected)",
    )


def part(data: Json) -> str:
    """JSON data as a part of a token."""
    return encoded(json.dumps(data, separators=(",", ":")).encode())


def encoded(data: bytes) -> str:
    """Base64 for URLs, without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")
