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
PRIVATE_KEY = Credential("private_key", "a service account's JSON key file", required=False)


class ServiceAccount:
    """A service account, which signs its own requests for tokens (RFC 7523).

    ``key`` is its private key as PEM, ``email`` its address.  ``audience`` is the token endpoint.
    ``subject`` is the user for whom it acts, empty for itself.  ``keep_out`` keeps each signed request
    out of what is written.
    """

    def __init__(
        self, key: Secret, email: str, audience: str, subject: str, keep_out: Callable[[str, str], None]
    ) -> None:
        self._pem, self._email, self._audience, self._subject = key, email, audience, subject
        self._keep_out = keep_out
        self._key: RSAPrivateKey | None = None

    def load(self) -> None:
        """Read the key, in a thread: importing the library takes long.

        BadCredentials when it is no private key; MissingExtra without cryptography.
        """
        try:
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError as error:
            raise MissingExtra("google", "cryptography", "signing in as a service account") from error
        try:
            key = load_pem_private_key(self._pem.reveal().encode(), None)
        except (ValueError, TypeError) as error:
            raise wrong_key("its private key cannot be read") from error
        if not isinstance(key, RSAPrivateKey) or not self._email:
            raise wrong_key("its private key is no RSA key" if self._email else "the account is not known")
        self._key = key

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


def read_key_file(text: str) -> tuple[str, str] | None:
    """The address and the private key in a key file; None for a text that is no JSON, perhaps a key itself.

    BadCredentials, which repeats none of it, when something is missing.
    """
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        data = json.loads(text)
    except ValueError:
        raise wrong_key("it is not JSON") from None
    if not isinstance(data, dict) or data.get("type") != "service_account":
        raise wrong_key("it is the key file of something else")
    email, key = data.get("client_email"), data.get("private_key")
    if not isinstance(email, str) or not isinstance(key, str):
        raise wrong_key("its address or its private key is missing")
    return email, key


def wrong_key(problem: str) -> BadCredentials:
    """The error for a key file that cannot be used."""
    return BadCredentials(
        f"google_drive: the service account's key cannot be used: {problem}",
        hint=f"connect again with its JSON key file: --credential {PRIVATE_KEY.name}=file:PATH",
    )


def part(data: Json) -> str:
    """JSON data as a part of a token."""
    return encoded(json.dumps(data, separators=(",", ":")).encode())


def encoded(data: bytes) -> str:
    """Base64 for URLs, without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")
