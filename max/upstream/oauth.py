"""OAuth: access tokens that are renewed before they expire, once for all callers.

Rule 1: a renewal holds the store's renewal lock, among all tasks and processes, and reads the
store first.  A refresh token may be good for one use only, and the token that another process
got serves this one, too.

Rule 2: a new pair of tokens is stored durably before it is used.  A process that is killed before
that loses an answer and nothing else: the old refresh token is still stored and is sent again,
which services that rotate refresh tokens accept for a while.

Rule 3: the input and the output of the renewing operation contain no secret.
"""

from __future__ import annotations

import asyncio
import math
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, cast
from urllib.parse import quote_plus

from ..core import Lifecycle
from ..errors import BadCredentials, UpstreamBroken, UpstreamChanged, UpstreamError
from ..model.struct import Struct
from ..model.values import Json
from .credentials import Credential, CredentialProvider, Secret
from .http import Auth, ErrorReader, HttpClient, HttpResponse, Transport, checked_token
from .operations import Limit, Operation, Retry, last_attempt, run_operation

SHORTEST_LIFE = 1.0  # seconds; a shorter lifetime of a token is taken for none
SKEW = 120.0  # seconds before its expiry from which a token is renewed
DEADLINE = 30.0  # seconds for one request to the token endpoint
FINGERPRINT = 12  # hexadecimal digits that identify a token
REFUSALS, WITHIN = 10, 60.0  # renewals after a refusal, at most, and in how many seconds

# What services answer when access has ended, when the client is wrong, and when they fail for a while.
ENDED = ("invalid_grant", "bad_refresh_token", "expired_token", "token_expired")
WRONG_CLIENT = ("invalid_client", "unauthorized_client", "incorrect_client_credentials")
TEMPORARY = ("temporarily_unavailable", "server_error", "internal_failure", "slow_down")


@dataclass(frozen=True)
class OAuth:
    """How a service issues tokens; a connector declares its ``credentials`` and its ``renewal``.

    ``name`` is the connector's.  ``token_path`` is the path of the token endpoint below the
    address given to ``tokens``.  With ``basic`` the client's id and secret go into the header
    Authorization, not into the form.  A token is renewed ``skew`` seconds before it expires.
    ``read_error`` reads the service's errors that are not OAuth's, as for HttpClient.
    """

    ACCESS_TOKEN: ClassVar = Credential("access_token", "OAuth: sent with every request", required=False)
    REFRESH_TOKEN: ClassVar = Credential("refresh_token", "OAuth: gets new access tokens", required=False)
    CLIENT_SECRET: ClassVar = Credential("client_secret", "OAuth: the application's secret", required=False)
    EXPIRES_AT: ClassVar = Credential(
        "expires_at", "when the access token expires, seconds since the epoch", required=False, secret=False
    )

    name: str
    token_path: str
    basic: bool = False
    skew: float = SKEW
    read_error: ErrorReader | None = None
    renewal: Operation[OAuthTokens, str, float | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limit = Limit(f"{self.name}:token", concurrency=1)
        retry = Retry(attempts=2, base=0.1, max_wait=0.0)  # the operation that needs the token retries longer
        renewal = Operation(f"{self.name}:token:renew", _renew, limit=limit, retry=retry, deadline=DEADLINE)
        object.__setattr__(self, "renewal", renewal)

    @property
    def credentials(self) -> Sequence[Credential]:
        """What is stored, and what ``--credential`` may provide."""
        return self.ACCESS_TOKEN, self.REFRESH_TOKEN, self.EXPIRES_AT, self.CLIENT_SECRET

    def tokens(
        self,
        credentials: CredentialProvider,
        base_url: str,
        *,
        client_id: str = "",
        grant: Grant | None = None,
        account: str = "",
        transport: Transport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> OAuthTokens:
        """The tokens of one installation: the ``auth`` of its HttpClient, and its ``renew``.

        ``grant`` is for services that expect something other than a refresh token.  With one, ``account``
        says whose its tokens are, if they are always one account's.
        """
        http = HttpClient(base_url, credentials, timeout=DEADLINE, transport=transport)
        return OAuthTokens(self, credentials, http, client_id, grant, account, clock)


Grant: TypeAlias = Callable[[float], Mapping[str, str]]  # the time → the form that requests a token


# -- the tokens of one installation -----------------------------------------------------------


class _Stored(Struct):
    """The stored token; one without a known expiry is used until it is refused, not renewed before."""

    access: Secret | None = None
    expires_at: float = math.inf  # seconds since the epoch
    lifetime: float = math.inf  # seconds from the request to the expiry, if the request was ours
    account: str = ""  # whose it is, and those that replace it; empty: unknown

    def is_due(self, now: float, skew: float) -> bool:
        """Whether to renew; a token that lives for less than two skews is used for half of its life."""
        return self.access is None or now >= self.expires_at - min(skew, self.lifetime / 2)


# The token of the last request of the current task: whose it is, in which attempt.
_USED: ContextVar[tuple[OAuthTokens, object, Secret] | None] = ContextVar("token in use", default=None)


class OAuthTokens(Auth, Lifecycle):
    """Gives requests an access token that is valid now.

    Safe for concurrent tasks of one event loop, and for several processes with the same store.
    """

    def __init__(
        self,
        oauth: OAuth,
        credentials: CredentialProvider,
        http: HttpClient,
        client_id: str,
        grant: Grant | None,
        account: str,
        clock: Callable[[], float],
    ) -> None:
        self._oauth, self._credentials, self._http = oauth, credentials, http
        self._client_id, self._grant, self._clock = client_id, grant, clock
        self._account = account
        self._stored: _Stored | None = None  # None: not read yet
        self._renewing: asyncio.Task[None] | None = None
        self._final: tuple[object, BadCredentials] | None = None  # the last refused secrets, and the error
        self._refusals: deque[float] = deque(maxlen=REFUSALS)  # when access tokens were refused

    async def start(self) -> None:
        """Start the HTTP client; the first request reads the stored token."""
        await self._http.start()

    async def stop(self) -> None:
        """Cancel a renewal under way; an answer that has arrived is stored first."""
        renewing, self._renewing = self._renewing, None
        if renewing is not None and not renewing.done():
            renewing.cancel()
            await asyncio.wait([renewing])
        await self._http.stop()

    def __repr__(self) -> str:
        return f"OAuthTokens({self._oauth.name!r})"

    async def headers(self) -> Mapping[str, str]:
        """The header with a valid token; an UpstreamError when there is none and none can be got."""
        stored = self._stored or await self._read()
        if stored.is_due(self._clock(), self._oauth.skew):
            stored = await self._renewed_before_expiry(stored)
        if stored.access is None:
            raise self._no_token()
        _USED.set((self, last_attempt(), stored.access))
        return {"authorization": f"Bearer {checked_token(stored.access.reveal())}"}

    async def identity(self) -> str:
        """Whose the token is, and all that renewals bring; empty when that is unknown."""
        return (self._stored or await self._read()).account

    async def renew(self) -> None:
        """Replace the token that the current task used last, because it was refused.

        Does nothing when it was replaced already.  BadCredentials when the service also refuses
        the tokens that it has just issued.
        """
        current, used = self._stored.access if self._stored else None, _USED.get()
        known = used is not None and used[0] is self and used[1] is last_attempt()
        refused = used[2] if used is not None and known else current  # else a subtask made the request
        if refused == current:
            if self._renewing is None or self._renewing.done():
                self._count_refusal()
            await self._renewed(refused)

    def _count_refusal(self) -> None:
        """BadCredentials when too many tokens were refused in a short time."""
        now = self._clock()
        if len(self._refusals) == REFUSALS and now - self._refusals[0] < WITHIN:
            raise BadCredentials(
                f"{self._oauth.name} refuses the tokens that it issues",
                hint="check the permissions of the account and the application; then connect again",
            )
        self._refusals.append(now)

    def _no_token(self) -> BadCredentials:
        return BadCredentials(
            f"there is no OAuth token for {self._oauth.name}",
            hint="connect again, or add --credential refresh_token=env:VARIABLE",
        )

    # -- renewing --------------------------------------------------------------------------------

    async def _renewed_before_expiry(self, stored: _Stored) -> _Stored:
        """The token after a renewal; the old one when that failed for now and it is still valid."""
        try:
            await self._renewed(None)
        except UpstreamError as error:
            if not error.retryable or stored.access is None or self._clock() >= stored.expires_at:
                raise
        return self._stored or stored

    async def _renewed(self, refused: Secret | None) -> None:
        """Wait for the renewal under way, or a new one; cancelling one waiter does not cancel it."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(refused))
            self._renewing.add_done_callback(_notice_failure)
        await asyncio.shield(self._renewing)

    async def _renew(self, refused: Secret | None) -> None:
        async with self._credentials.renewal_lock():
            stored = await self._read()
            if stored.access != refused and not stored.is_due(self._clock(), self._oauth.skew):
                return  # another process has renewed it
            secrets = [
                await self._credentials.find(one) for one in (OAuth.REFRESH_TOKEN, OAuth.CLIENT_SECRET)
            ]
            if self._final is not None and self._final[0] == secrets:
                raise self._final[1]
            try:
                await run_operation(self._oauth.renewal, self, "refresh" if self._grant is None else "grant")
            except BadCredentials as error:
                self._final = secrets, error
                raise

    async def _read(self) -> _Stored:
        """The token in the store; the expiry is read first, so that it never belongs to a later token."""
        expires = await self._credentials.find(OAuth.EXPIRES_AT)
        access = await self._credentials.find(OAuth.ACCESS_TOKEN)
        refresh = await self._credentials.find(OAuth.REFRESH_TOKEN)
        words = [*(expires.reveal() if expires else "").split(" "), "", "", ""]
        seconds, fingerprint, account, of_access = words[:4]
        if fingerprint and fingerprint != _fingerprint(refresh):
            access = None  # the refresh token was replaced by connecting again, perhaps another account
        if access is None:
            account = _fingerprint(refresh)
        elif of_access != _fingerprint(access):
            account = ""  # the access token was given, perhaps another account's
        found = _Stored(access, _seconds(seconds), account=self._account if self._grant else account)
        if self._stored is None or self._stored.replace(lifetime=math.inf) != found:
            self._stored = found
        return self._stored

    async def exchange(self) -> float | None:
        """Get a new token and store it; its lifetime in seconds, None when the service does not say.

        One attempt; the caller holds the renewal lock.
        """
        requested_at = self._clock()
        form = self._grant(requested_at) if self._grant else await self._refresh_form()
        answer = await self._request_token(form)
        said = _seconds(answer.get("expires_in"))
        lifetime = said if said >= SHORTEST_LIFE else math.inf  # 0 and -1 are how services say "never"
        account = (self._stored or await self._read()).account
        stored = _Stored(Secret(answer["access_token"]), requested_at + lifetime, lifetime, account)
        await _uncancelled(self._store(stored, answer.get("refresh_token")))
        return lifetime if math.isfinite(lifetime) else None

    async def _refresh_form(self) -> Mapping[str, str]:
        refresh = await self._credentials.find(OAuth.REFRESH_TOKEN)
        if refresh is None:
            raise self._no_token()
        return {"grant_type": "refresh_token", "refresh_token": refresh.reveal()}

    async def _request_token(self, form: Mapping[str, str]) -> dict[str, Json]:
        """The token endpoint's answer to a form, to which the client's own id and secret are added."""
        secret = await self._credentials.find(OAuth.CLIENT_SECRET)
        client = {"client_id": self._client_id} if self._client_id else {}
        headers = {}
        if secret is not None and self._oauth.basic:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(secret.reveal())}"
            client, headers = {}, {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        elif secret is not None:
            client["client_secret"] = secret.reveal()
        response = await self._http.request(
            "POST",
            self._oauth.token_path,
            form={**form, **client},
            headers=headers,
            read_error=self._read_error,
        )
        return cast("dict[str, Json]", response.json())

    def _read_error(self, response: HttpResponse) -> UpstreamError | None:
        own = self._oauth.read_error
        return token_error(response) or (own(response) if own else None)

    async def _store(self, stored: _Stored, refresh: Json) -> None:
        """Store a new token durably, then use it."""
        assert stored.access is not None  # noqa: S101  # it was just issued
        secrets = {OAuth.ACCESS_TOKEN: stored.access}
        if isinstance(refresh, str) and refresh:  # services that do not rotate it send none
            secrets[OAuth.REFRESH_TOKEN] = Secret(refresh)
        token = secrets.get(OAuth.REFRESH_TOKEN) or await self._credentials.find(OAuth.REFRESH_TOKEN)
        if not (stored.account or self._grant):
            stored = stored.replace(account=_fingerprint(token))
        words = (stored.expires_at, _fingerprint(token), stored.account, _fingerprint(stored.access))
        secrets[OAuth.EXPIRES_AT] = Secret(" ".join(map(str, words)))
        await self._credentials.save(secrets)
        self._stored = stored


async def _renew(tokens: OAuthTokens, how: str) -> float | None:
    return await tokens.exchange()


def token_error(response: HttpResponse) -> UpstreamError | None:
    """The error that a token endpoint's answer means; None when its status decides.

    Some services report errors with status 200.
    """
    good = 200 <= response.status < 300
    try:
        data = response.json()
    except UpstreamBroken as error:
        return error if good else None
    said = data if isinstance(data, dict) else {}
    code = next((one for key in ("error", "status", "code") if isinstance(one := said.get(key), str)), "")
    known = _known_error(f"{response.request}: the service issued no token ({code})", code.lower())
    if known is not None or not good:
        return known
    if isinstance(said.get("access_token"), str) and said["access_token"]:
        return None
    return UpstreamChanged(
        f"{response.request}: the answer has no access token{f' ({code})' if code else ''}",
        hint="the service may have changed; update the connector",
    )


def _known_error(what: str, code: str) -> UpstreamError | None:
    if code in ENDED:
        return BadCredentials(
            what,
            hint="connect again (max connect NAME --update): access was revoked or has expired",
        )
    if code in WRONG_CLIENT:
        return BadCredentials(what, hint="check the client id and the client secret, and connect again")
    return UpstreamBroken(what, hint="try again later") if code in TEMPORARY else None


def _fingerprint(token: Secret | None) -> str:
    """Identifies a token without revealing it."""
    from hashlib import sha256  # slow to import, and seldom needed

    return sha256(token.reveal().encode()).hexdigest()[:FINGERPRINT] if token else ""


def _seconds(value: object) -> float:
    """A number of seconds, or its text; infinite for anything else."""
    try:
        seconds = math.inf if isinstance(value, bool) else float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        return math.inf
    return math.inf if math.isnan(seconds) else seconds


async def _uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Do all of the work, also when the caller is cancelled meanwhile."""
    doing = asyncio.ensure_future(work)
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def _notice_failure(renewing: asyncio.Task[None]) -> None:
    """Without waiters left, the loop must not report a failure as never retrieved."""
    if not renewing.cancelled():
        renewing.exception()
