"""OAuth: access tokens that are renewed before they expire, once for everybody.

Rule 1: whoever renews is alone, among the tasks and processes that share the store, and looks
into the store first: a refresh token may be good for one use, and what another one brought
serves everybody.

Rule 2: a new pair is on the disk before anybody uses it.  Whoever is killed before has lost an
answer and nothing else: the old refresh token is still kept and is sent again, for which
services that rotate them answer the same for a while.

Rule 3: what the operation that renews is given, and gives, holds no secret.
"""

from __future__ import annotations

import asyncio
import math
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias, cast
from urllib.parse import quote_plus

from ..core import Lifecycle
from ..errors import BadCredentials, UpstreamBroken, UpstreamChanged, UpstreamError
from ..model.values import Json
from .credentials import Credential, CredentialProvider, Secret
from .http import Auth, HttpClient, HttpResponse, Meaning, Transport, checked_token
from .operations import Limit, Operation, Retry, last_attempt, run_operation

SKEW = 120.0  # seconds before its expiry from which a token is renewed
DEADLINE = 30.0  # seconds for one request to the token endpoint
MARK = 12  # hexadecimal digits by which a refresh token is known again
REFUSALS, WITHIN = 10, 60.0  # tokens that are renewed at most because they were refused, in so many seconds

# What services call it: the end of what was granted, a wrong client, and what may pass.
GONE = ("invalid_grant", "bad_refresh_token", "expired_token", "token_expired")
STRANGER = ("invalid_client", "unauthorized_client", "incorrect_client_credentials")
PASSING = ("temporarily_unavailable", "server_error", "internal_failure", "slow_down")


@dataclass(frozen=True)
class OAuth:
    """How a service gives out tokens; a connector declares its ``credentials`` and its ``renewal``.

    ``name`` is the connector's, ``token_path`` where tokens are given, below the address that
    ``tokens`` gets.  ``basic``: the client's id and secret go into the header Authorization,
    not into the form.  ``skew`` is how many seconds before its expiry a token is renewed.
    ``meaning`` is for the service's errors that are not OAuth's, as for HttpClient.
    """

    ACCESS_TOKEN: ClassVar = Credential(
        "access_token", "OAuth: what requests carry; renewed before it expires", required=False
    )
    REFRESH_TOKEN: ClassVar = Credential(
        "refresh_token", "OAuth: what a new access token is got with", required=False
    )
    CLIENT_SECRET: ClassVar = Credential(
        "client_secret", "OAuth: the application's own secret, if it has one", required=False
    )
    EXPIRES_AT: ClassVar = Credential(
        "expires_at",
        "when the access token expires, in seconds since the epoch",
        required=False,
        secret=False,
    )

    name: str
    token_path: str
    basic: bool = False
    skew: float = SKEW
    meaning: Meaning | None = None
    renewal: Operation[OAuthTokens, str, float | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limit = Limit(f"{self.name}:token", concurrency=1)
        retry = Retry(attempts=2, base=0.1, max_wait=0.0)  # the operation that needs the token tries longer
        renewal = Operation(f"{self.name}:token:renew", _renew, limit=limit, retry=retry, deadline=DEADLINE)
        object.__setattr__(self, "renewal", renewal)

    @property
    def credentials(self) -> Sequence[Credential]:
        """What is kept of it, and what ``--credential`` may give."""
        return self.ACCESS_TOKEN, self.REFRESH_TOKEN, self.EXPIRES_AT, self.CLIENT_SECRET

    def tokens(
        self,
        credentials: CredentialProvider,
        base_url: str,
        *,
        client_id: str = "",
        grant: Grant | None = None,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> OAuthTokens:
        """The tokens of one installation: the ``auth`` of its HttpClient, and its ``renew``.

        ``grant`` is for services that take something else than a refresh token.
        """
        http = HttpClient(base_url, credentials, timeout=DEADLINE, transport=transport)
        return OAuthTokens(self, credentials, http, client_id, grant, clock)


Grant: TypeAlias = Callable[[float], Mapping[str, str]]  # a time → the form that asks for a token then


# -- the tokens of one installation -----------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """What the store holds; a token without a known expiry is good until it is refused."""

    access: Secret | None = None
    expires_at: float = math.inf  # seconds since the epoch
    lifetime: float = math.inf  # seconds from when it was asked for, if that was here

    def is_due(self, now: float, skew: float) -> bool:
        """Whether to renew; of a life that is shorter than two skews, the first half is used."""
        return self.access is None or now >= self.expires_at - min(skew, self.lifetime / 2)


# With which token the request went out that the current task has made last: whose it was, in which attempt.
_USED: ContextVar[tuple[OAuthTokens, object, Secret] | None] = ContextVar("the token in use", default=None)


class OAuthTokens(Auth, Lifecycle):
    """An access token that is good whenever it is asked for.

    Safe for all tasks of one event loop, and beside other processes with the same store.
    """

    def __init__(
        self,
        oauth: OAuth,
        credentials: CredentialProvider,
        http: HttpClient,
        client_id: str,
        grant: Grant | None,
        clock: Callable[[], float],
    ) -> None:
        self._oauth, self._credentials, self._http = oauth, credentials, http
        self._client_id, self._grant, self._clock = client_id, grant, clock
        self._kept: _Kept | None = None  # None: nobody has looked yet
        self._renewing: asyncio.Task[None] | None = None
        self._ended: tuple[object, BadCredentials] | None = None  # with what we were turned away
        self._refusals: deque[float] = deque(maxlen=REFUSALS)  # when each was

    async def start(self) -> None:
        """Be ready; the first request reads what is kept."""
        await self._http.start()

    async def stop(self) -> None:
        """End a renewal that is under way; an answer that has come is kept first."""
        renewing, self._renewing = self._renewing, None
        if renewing is not None and not renewing.done():
            renewing.cancel()
            await asyncio.wait([renewing])
        await self._http.stop()

    def __repr__(self) -> str:
        return f"OAuthTokens({self._oauth.name!r})"

    async def headers(self) -> Mapping[str, str]:
        """The header with a token that is good now; an UpstreamError when none is to be had."""
        kept = self._kept or await self._look()
        if kept.is_due(self._clock(), self._oauth.skew):
            kept = await self._renewed_in_time(kept)
        if kept.access is None:
            raise self._nothing_kept()
        _USED.set((self, last_attempt(), kept.access))
        return {"authorization": f"Bearer {checked_token(kept.access.reveal())}"}

    async def renew(self) -> None:
        """Get another token, since the one that the current task used last was refused.

        Nothing to do when there is another one by now.  BadCredentials when the service refuses
        even those that it has just given.
        """
        held, used = self._kept.access if self._kept else None, _USED.get()
        known = used is not None and used[0] is self and used[1] is last_attempt()
        refused = used[2] if used is not None and known else held  # else a task of the attempt's own asked
        if refused == held:
            if self._renewing is None or self._renewing.done():
                self._count_refusal()
            await self._renewed(refused)

    def _count_refusal(self) -> None:
        """BadCredentials when it is one too many in a short time."""
        now = self._clock()
        if len(self._refusals) == REFUSALS and now - self._refusals[0] < WITHIN:
            raise BadCredentials(
                f"{self._oauth.name} refuses every token that it gives",
                hint="check what the account and the application may do; then connect again",
            )
        self._refusals.append(now)

    def _nothing_kept(self) -> BadCredentials:
        return BadCredentials(
            f"no OAuth token of {self._oauth.name} is kept",
            hint="connect again, or give one with --credential refresh_token=env:VARIABLE",
        )

    # -- renewing ------------------------------------------------------------------------------

    async def _renewed_in_time(self, kept: _Kept) -> _Kept:
        """What there is after a renewal; the old token, while it is good, when that failed in passing."""
        try:
            await self._renewed(None)
        except UpstreamError as error:
            if not error.retryable or kept.access is None or self._clock() >= kept.expires_at:
                raise
        return self._kept or kept

    async def _renewed(self, refused: Secret | None) -> None:
        """Wait for the renewal that is under way, or a new one; whoever stops waiting does not end it."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(refused))
            self._renewing.add_done_callback(_notice_failure)
        await asyncio.shield(self._renewing)

    async def _renew(self, refused: Secret | None) -> None:
        async with self._credentials.renewal_lock():
            kept = await self._look()
            if kept.access != refused and not kept.is_due(self._clock(), self._oauth.skew):
                return  # another process was faster
            asked_with = [
                await self._credentials.find(one) for one in (OAuth.REFRESH_TOKEN, OAuth.CLIENT_SECRET)
            ]
            if self._ended is not None and self._ended[0] == asked_with:
                raise self._ended[1]
            try:
                await run_operation(self._oauth.renewal, self, "refresh" if self._grant is None else "grant")
            except BadCredentials as error:
                self._ended = asked_with, error
                raise

    async def _look(self) -> _Kept:
        """What the store holds now; the expiry is read first, so that it is never that of a later token."""
        expires = await self._credentials.find(OAuth.EXPIRES_AT)
        access = await self._credentials.find(OAuth.ACCESS_TOKEN)
        refresh = await self._credentials.find(OAuth.REFRESH_TOKEN)
        seconds, _, mark = (expires.reveal() if expires else "").partition(" ")
        if mark and mark != _mark(refresh):
            access = None  # somebody has connected again since: perhaps as somebody else
        found = _Kept(access, _seconds(seconds))
        if self._kept is None or replace(self._kept, lifetime=math.inf) != found:
            self._kept = found
        return self._kept

    async def exchange(self) -> float | None:
        """Get a new token and keep it: for how many seconds it is good, None when nobody knows.

        One attempt; for whoever is alone.
        """
        asked_at = self._clock()
        form = self._grant(asked_at) if self._grant else await self._refresh_form()
        answer = await self._ask(form)
        lifetime = _seconds(answer.get("expires_in"))
        kept = _Kept(Secret(answer["access_token"]), asked_at + lifetime, lifetime)
        await _to_the_end(self._keep(kept, answer.get("refresh_token")))
        return lifetime if math.isfinite(lifetime) else None

    async def _refresh_form(self) -> Mapping[str, str]:
        refresh = await self._credentials.find(OAuth.REFRESH_TOKEN)
        if refresh is None:
            raise self._nothing_kept()
        return {"grant_type": "refresh_token", "refresh_token": refresh.reveal()}

    async def _ask(self, form: Mapping[str, str]) -> dict[str, Json]:
        """What the token endpoint answers to a form, as the client that we are."""
        secret = await self._credentials.find(OAuth.CLIENT_SECRET)
        client = {"client_id": self._client_id} if self._client_id else {}
        headers = {}
        if secret is not None and self._oauth.basic:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(secret.reveal())}"
            client, headers = {}, {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        elif secret is not None:
            client["client_secret"] = secret.reveal()
        response = await self._http.request(
            "POST", self._oauth.token_path, form={**form, **client}, headers=headers, meaning=self._meaning
        )
        return cast("dict[str, Json]", response.json())

    def _meaning(self, response: HttpResponse) -> UpstreamError | None:
        return token_error(response) or (self._oauth.meaning(response) if self._oauth.meaning else None)

    async def _keep(self, kept: _Kept, refresh: Json) -> None:
        """Have a new token on the disk; only then is it used."""
        assert kept.access is not None  # noqa: S101  # it was just given
        secrets = {OAuth.ACCESS_TOKEN: kept.access}
        if isinstance(refresh, str) and refresh:  # a service that rotates them; others let us keep ours
            secrets[OAuth.REFRESH_TOKEN] = Secret(refresh)
        mark = _mark(secrets.get(OAuth.REFRESH_TOKEN) or await self._credentials.find(OAuth.REFRESH_TOKEN))
        secrets[OAuth.EXPIRES_AT] = Secret(f"{kept.expires_at} {mark}")
        await self._credentials.save(secrets)
        self._kept = kept


async def _renew(tokens: OAuthTokens, how: str) -> float | None:
    return await tokens.exchange()


def token_error(response: HttpResponse) -> UpstreamError | None:
    """What an answer of a token endpoint means that gives no token; None when its status may tell.

    Some services say it with status 200.
    """
    good = 200 <= response.status < 300
    try:
        data = response.json()
    except UpstreamBroken as error:
        return error if good else None
    said = data if isinstance(data, dict) else {}
    code = next((one for key in ("error", "status", "code") if isinstance(one := said.get(key), str)), "")
    known = _known_error(f"{response.request}: the token was not renewed ({code})", code.lower())
    if known is not None or not good:
        return known
    if isinstance(said.get("access_token"), str) and said["access_token"]:
        return None
    return UpstreamChanged(
        f"{response.request}: the answer holds no access token{f' ({code})' if code else ''}",
        hint="the service may have changed; update the connector",
    )


def _known_error(what: str, code: str) -> UpstreamError | None:
    if code in GONE:
        return BadCredentials(
            what,
            hint="connect again (max connect NAME --update): access was revoked, or what is kept is too old",
        )
    if code in STRANGER:
        return BadCredentials(what, hint="check the client id and the client secret, and connect again")
    return UpstreamBroken(what, hint="try again later") if code in PASSING else None


def _mark(refresh: Secret | None) -> str:
    """By what a refresh token is known again without being told."""
    from hashlib import sha256  # slow to import, and seldom needed

    return sha256(refresh.reveal().encode()).hexdigest()[:MARK] if refresh else ""


def _seconds(value: object) -> float:
    """A number of seconds, or its text; infinite when it is none."""
    try:
        seconds = float(cast(Any, value))
    except (TypeError, ValueError):
        return math.inf
    return math.inf if math.isnan(seconds) else seconds


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it whole, even for somebody who is cancelled meanwhile."""
    doing = asyncio.ensure_future(work)
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def _notice_failure(renewing: asyncio.Task[None]) -> None:
    """A failure is told to those who wait; when nobody does any more, it is no fault of the loop's."""
    if not renewing.cancelled():
        renewing.exception()
