"""Webhooks: what a service sends by itself when something has changed, and how it is known to be its own.

Rule 1: the signature is the sender's identity.  It is checked over the bytes as they came, in constant
time, before any of them is read.

Rule 2: a hook says what to fetch, and no value of it is stored: what is fetched is newer than the hook,
in whatever order hooks come.  What it says is gone is the exception: there is nothing to fetch.

Rule 3: reading a hook makes no call.  The function of the connector gets data and returns data.

An example: a service signs the body, and says in it when it was sent, in milliseconds.

    Linear-Signature: 766e1d90a96e2f5ecec342a99c5552999dd95d49250171b902d703fd674f5086
    {"type": "Comment", "action": "update", "data": {"id": "…"}, "webhookTimestamp": 1676056940508}
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import HookRefused
from ..model.entities import Ref
from ..model.plan import Step
from ..model.struct import Struct
from ..model.values import Json
from .credentials import Credential, Secret

LONGEST_BODY = 25 * 1024 * 1024  # bytes; GitHub sends no more
LONGEST_ID = 200  # characters of a delivery's id
IN_MILLISECONDS = 1e11  # a time that is greater is in milliseconds: in seconds it is the year 5138
ALGORITHMS = ("sha256", "sha512", "sha1")


class HookChanges(Struct):
    """What a hook says has changed: ``steps`` fetch it, and ``removed`` are rows that are gone.

    A step is as in a plan: ``Step.for_one(ref).load_fields(…)`` fetches one row, and
    ``Step.for_one(parent).load_collection(…)`` lists what changed in a collection.  Each is for one row,
    which is stored already or is fetched.  Without both the hook is of no interest.
    """

    steps: Sequence[Step] = ()
    removed: Sequence[Ref[Any]] = ()


class Hook(Struct):
    """A hook whose signature is right: its headers, by name in small letters, and its body as JSON data."""

    headers: Mapping[str, str]
    payload: Json


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """How a service signs its hooks, and what they say.

    - ``secret``: the declared credential with which it signs.
    - ``signature``: the header with the signature: an HMAC of the body with
      ``algorithm`` (sha256, sha512 or sha1), written in ``encoding`` (hex or base64) after ``prefix``.
    - ``changes``: ``(hook) -> HookChanges``, without async: what has changed.
    - ``delivery``: the header with an id that is another one for each hook, and the same when a hook is
      sent again.
    - ``sent_at``: the name in the body, or the header, of the time at which it was sent, in seconds or
      milliseconds since the epoch.  A hook that is ``tolerance`` seconds older or newer is not taken.
    """

    secret: Credential
    signature: str
    changes: Callable[[Hook], HookChanges]
    prefix: str = ""
    algorithm: str = "sha256"
    encoding: str = "hex"
    delivery: str | None = None
    sent_at: str | None = None
    tolerance: float = 60.0

    def sign(self, secret: str, body: bytes) -> str:
        """The header of a body that the service signs with a secret."""
        digest = hmac.new(secret.encode(), body, self.algorithm).digest()
        return self.prefix + (digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode())

    def check(self, secret: Secret, headers: Mapping[str, str], body: bytes) -> None:
        """HookRefused unless the service has signed the body; the names of headers are in small letters."""
        given = headers.get(self.signature.lower(), "")
        expected = self.sign(secret.reveal(), body)
        if not hmac.compare_digest(given.strip().encode(), expected.encode()):
            what = "has no signature" if not given else "has another signature than its secret makes"
            raise HookRefused(
                f"the hook {what} ({self.signature})",
                hint=f"give the service's signing secret: max connect NAME --update --credential"
                f" {self.secret.name}=env:VARIABLE",
            )

    def read(self, headers: Mapping[str, str], body: bytes) -> Hook:
        """A body that was checked, as data; HookRefused when it is no JSON object."""
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            raise HookRefused(
                "the hook's body is no JSON object", hint="let the service send application/json", status=400
            )
        return Hook(dict(headers), payload)

    def id_of(self, hook: Hook, body: bytes) -> str:
        """The id of a hook, which is the same when it is sent again."""
        given = hook.headers.get(self.delivery.lower(), "") if self.delivery else ""
        return given[:LONGEST_ID] or digest_of(body)

    def is_timely(self, hook: Hook, now: float) -> bool:
        """Whether a hook was sent now, in seconds since the epoch, give or take the tolerance."""
        if self.sent_at is None:
            return True
        given = hook.payload.get(self.sent_at, hook.headers.get(self.sent_at.lower()))
        try:
            sent = float(given)
        except (TypeError, ValueError):
            return False
        sent = sent / 1_000 if sent > IN_MILLISECONDS else sent
        return abs(now - sent) <= self.tolerance


def digest_of(body: bytes) -> str:
    """What names a body."""
    return hashlib.sha256(body).hexdigest()
