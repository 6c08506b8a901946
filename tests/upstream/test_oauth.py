"""OAuth tokens: renewed before they expire, once for all callers, stored before they are used."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import (
    BadCredentials,
    CredentialProvider,
    HttpClient,
    MaxError,
    OAuth,
    OAuthTokens,
    Offline,
    Operation,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
)
from max.installations.credential_file import FileCredentials
from max.testing import FakeClock
from max.upstream.credentials import CredentialStore, MemoryCredentials
from max.upstream.hosts import Hosts
from max.upstream.oauth import REFUSALS
from max.upstream.operations import Call, Limits, Next, OperationRunner, Wrapper
from tests.token_service import CLIENT, DAY, GRACE, SECRET, TokenService, instead, lost

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
OAUTH = OAuth("sample", "/token")
KEPT = {"access_token": "access-0", "refresh_token": "refresh-0", "client_secret": SECRET}


async def get_thing(http: HttpClient, input: None) -> str:
    """The token with which the service was called."""
    token: str = (await http.get("/thing"))["token"]
    return token


THING = Operation("sample:thing:get", get_thing, retry=Retry(base=0.001))


class Client:
    """What an installation has: tokens, a client that sends them, and a runner."""

    def __init__(self, tokens: OAuthTokens, http: HttpClient, around: Wrapper) -> None:
        self.tokens, self.http = tokens, http
        self.caller = OperationRunner(Limits(), renew=tokens.renew, wrappers=[around], jitter=lambda: 0.0)

    async def thing(self) -> str:
        """The token with which a thing is read now."""
        return await self.caller.run(THING, self.http, None)

    async def things(self, number: int) -> set[str]:
        """The tokens of many concurrent reads."""
        return set(await asyncio.gather(*(self.thing() for _ in range(number))))


async def through(call: Call, next: Next) -> Any:
    """A middleware that does nothing."""
    return await next(call)


@asynccontextmanager
async def client(
    service: TokenService,
    store: CredentialStore,
    oauth: OAuth = OAUTH,
    around: Wrapper = through,
    **given: Any,
) -> AsyncIterator[Client]:
    """A client of the service with the stored tokens."""
    credentials = CredentialProvider(store, oauth.credentials, Hosts.of(service.url))
    how: dict[str, Any] = {"clock": service.clock, "client_id": CLIENT} | given
    tokens = oauth.tokens(credentials, service.url, **how)
    async with HttpClient(service.url, credentials, auth=tokens) as http:
        try:
            yield Client(tokens, http, around)
        finally:
            await tokens.stop()


def kept(service: TokenService, **secrets: str) -> MemoryCredentials:
    """A store after connecting, with the token's expiry."""
    return MemoryCredentials({**KEPT, "expires_at": str(service.clock() + service.lifetime), **secrets})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def service(clock: FakeClock) -> Iterator[TokenService]:
    with TokenService(clock=clock).serving() as service:
        yield service


def ask(service: TokenService, store: CredentialStore, **how: Any) -> str:
    """The token with which a new installation reads a thing."""

    async def main() -> str:
        async with client(service, store, **how) as one:
            return await one.thing()

    return asyncio.run(main())


# -- when --------------------------------------------------------------------------------------


class TestExpiry:
    """A token is used while it is valid, and renewed shortly before it expires."""

    @settings(deadline=None, max_examples=25)
    @given(
        lifetime=st.sampled_from([100.0, 1800.0, DAY]),
        waits=st.lists(st.floats(0, 1.2), max_size=6),
        callers=st.integers(1, 5),
    )
    def test_p29_a_token_is_renewed_between_expiry_minus_skew_and_expiry(
        self, lifetime: float, waits: list[float], callers: int
    ) -> None:
        clock = FakeClock()
        expected, due = 0, lifetime - min(OAUTH.skew, lifetime)

        async def main() -> None:
            nonlocal expected, due
            async with client(service, kept(service)) as one:
                for wait in waits:
                    clock.advance(wait * lifetime)
                    elapsed = clock() - began
                    if elapsed >= due:
                        expected, due = expected + 1, elapsed + lifetime - min(OAUTH.skew, lifetime / 2)
                    assert await one.things(callers) == {f"access-{expected}"}
                    assert service.refreshes == expected

        with TokenService(clock=clock, lifetime=lifetime).serving() as service:
            began = clock()
            asyncio.run(main())
        assert len(service.opened) == callers * len(waits), "a token was refused"

    @pytest.mark.parametrize(
        "said", [0, -1, "0", "never", None, True, 1e-9, 1e15, 1e308, 10**400, math.inf, "nan", [], {}]
    )
    def test_a_token_without_a_usable_lifetime_is_used_until_it_is_refused(
        self, service: TokenService, said: object
    ) -> None:
        service.faults = [lambda answer: (answer[0], {**answer[1], "expires_in": said})]
        store = MemoryCredentials({name: KEPT[name] for name in ("refresh_token", "client_secret")})

        async def main() -> None:
            async with client(service, store) as one:
                for _ in range(20):
                    assert await one.things(1) == {"access-1"}

        asyncio.run(main())
        assert service.refreshes == 1
        assert ask(service, store) == "access-1", "another process uses the stored one"

    def test_an_outage_of_the_endpoint_does_no_harm_while_the_old_token_is_valid(
        self, service: TokenService, clock: FakeClock
    ) -> None:
        store, service.faults = kept(service), [instead(503, "")] * 20
        clock.advance(DAY - OAUTH.skew)
        assert ask(service, store) == "access-0"
        clock.advance(OAUTH.skew)
        with pytest.raises(UpstreamBroken):
            ask(service, store)
        service.faults = []
        assert ask(service, store) == "access-1"

    def test_a_valid_stored_token_is_used_without_a_renewal(self, service: TokenService) -> None:
        assert ask(service, kept(service)) == "access-0"
        assert service.seen == []

    def test_without_an_access_token_the_first_request_gets_one(self, service: TokenService) -> None:
        store = MemoryCredentials({"refresh_token": "refresh-0", "client_secret": SECRET})
        assert ask(service, store) == "access-1"
        assert float(store.secrets["expires_at"].split()[0]) == service.clock() + DAY

    def test_a_token_without_a_known_expiry_is_used_until_it_is_refused(
        self, service: TokenService, clock: FakeClock
    ) -> None:
        clock.advance(DAY / 2)
        assert ask(service, MemoryCredentials(KEPT)) == "access-0"
        clock.advance(DAY)
        assert ask(service, MemoryCredentials(KEPT)) == "access-1"

    def test_without_any_token_the_error_says_how_to_provide_one(self, service: TokenService) -> None:
        with pytest.raises(BadCredentials, match="there is no OAuth token for sample") as caught:
            ask(service, MemoryCredentials())
        assert "--credential refresh_token=env:" in caught.value.hint
        assert service.seen == []

    def test_an_access_token_alone_cannot_be_renewed(self, service: TokenService) -> None:
        service.expire()
        with pytest.raises(BadCredentials, match="no OAuth token"):
            ask(service, MemoryCredentials({"access_token": "access-0"}))
        assert service.opened == ["access-0"]


# -- once ----------------------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from pathlib import Path
from max.installations.credential_file import FileCredentials
from tests.upstream.test_oauth import client
from tests.token_service import TokenService

async def main(path, url, callers):
    async with client(TokenService(url=url), FileCredentials(Path(path))) as one:
        print("ready", flush=True)
        sys.stdin.readline()
        print(*await one.things(int(callers)))

asyncio.run(main(*sys.argv[1:]))
"""


class TestOnce:
    """However many callers need a new token, the service issues one."""

    @settings(deadline=None, max_examples=5)
    @given(callers=st.integers(1, 12), expired=st.booleans())
    def test_p29_all_callers_of_a_process_share_one_renewal(self, callers: int, expired: bool) -> None:
        async def main(service: TokenService) -> set[str]:
            async with client(service, kept(service, expires_at="0" if expired else "")) as one:
                return await one.things(callers)

        with TokenService().serving() as service:
            service.expire()
            assert asyncio.run(main(service)) == {"access-1"}
        assert service.refreshes == len(service.seen) == 1

    def test_p29_all_processes_share_one_renewal(self, tmp_path: Path) -> None:
        second = threading.Event()  # another token is requested while the first answer is pending

        def gate(answer: Any) -> Any:
            second.wait(0.5)
            return answer

        def late(answer: Any) -> Any:
            second.set()
            return answer

        path = tmp_path / "credentials.json"
        path.write_text(json.dumps({**KEPT, "expires_at": "0"}))
        with TokenService(faults=[gate, late]).serving() as service:
            command = [sys.executable, "-c", WORKER, str(path), service.url, "4"]
            found = at_once([command] * 3)
        assert set(found) == {"access-1"}
        assert (service.refreshes, len(service.seen)) == (1, 1)

    def test_p29_a_renewal_serves_callers_that_are_refused_later_with_the_old_token(
        self, service: TokenService
    ) -> None:
        async def main() -> None:
            async with client(service, kept(service)) as one:
                await one.tokens.headers()
                service.expire()
                other = asyncio.create_task(one.things(1))
                assert await other == {"access-1"}
                await one.tokens.renew()  # for the headers that were got in the beginning
                assert await one.thing() == "access-1"

        asyncio.run(main())
        assert service.refreshes == 1

    def test_a_request_in_a_subtask_is_renewed_for_too(self, service: TokenService, clock: FakeClock) -> None:
        async def aside(http: HttpClient, input: None) -> str:
            return await asyncio.create_task(get_thing(http, input))

        async def main() -> list[str]:
            async with client(service, kept(service)) as one:
                first = await one.thing()
                clock.advance(DAY)
                second = await one.caller.run(fetching, one.http, None)
                service.expire()
                return [first, second, await one.caller.run(fetching, one.http, None)]

        fetching = Operation("sample:thing:fetch", aside)
        assert asyncio.run(main()) == ["access-0", "access-1", "access-2"]

    def test_direct_calls_of_renew_share_one_renewal(self, service: TokenService) -> None:
        async def main() -> str:
            async with client(service, kept(service)) as one:
                await one.tokens.headers()
                await asyncio.gather(*(one.tokens.renew() for _ in range(3 * REFUSALS)))
                return (await one.tokens.headers())["authorization"]

        assert asyncio.run(main()) == "Bearer access-1"
        assert service.refreshes == 1

    def test_cancelling_one_waiter_does_not_cancel_the_renewal(self, service: TokenService) -> None:
        async def note(call: Call, next: Next) -> Any:
            if call.operation is OAUTH.renewal:
                begun.set()
            return await next(call)

        async def main() -> str:
            async with client(service, kept(service, expires_at="0"), around=note) as one:
                first = asyncio.create_task(one.thing())
                second = asyncio.create_task(one.thing())
                await begun.wait()
                first.cancel()
                return await second

        begun = asyncio.Event()
        assert asyncio.run(main()) == "access-1"
        assert len(service.seen) == 1

    def test_a_service_that_refuses_its_own_tokens_is_not_called_for_ever(
        self, service: TokenService
    ) -> None:
        service.on_open = lambda token: service.expire()

        async def main() -> list[str | BaseException]:
            async with client(service, kept(service)) as one:
                return [await quietly(one.thing()) for _ in range(2 * REFUSALS)]

        found = asyncio.run(main())
        assert {type(one) for one in found} == {BadCredentials}
        assert "refuses the tokens that it issues" in str(found[-1])
        assert service.refreshes == REFUSALS


async def quietly(work: Coroutine[Any, Any, str]) -> str | BaseException:
    """The result or the error of an awaitable."""
    try:
        return await work
    except MaxError as error:
        return error


def at_once(commands: list[list[str]]) -> list[str]:
    """The last outputs of processes that continue together once each is ready."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=ENVIRONMENT, **pipes) for command in commands]
    try:
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in running:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        found = [one.communicate()[0].split() for one in running]
    finally:
        for one in running:
            one.kill()
            one.wait()
    return [word for words in found for word in words]


# -- kept before it is used ----------------------------------------------------------------------

KILLER = """
import asyncio, json, os, signal, sys
from pathlib import Path
from max.installations.credential_file import FileCredentials
from tests.upstream.test_oauth import client
from tests.projects.test_folder import sabotage
from tests.token_service import TokenService

async def thing(path, url):
    async with client(TokenService(url=url), FileCredentials(path)) as one:
        return await one.thing()

path, url, kills, used = Path(sys.argv[1]), sys.argv[2], 0, []
while True:
    child = os.fork()
    if not child:
        with sabotage(kills + 1, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            asyncio.run(thing(path, url))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    secrets = json.loads(path.read_text())
    assert secrets["client_secret"] and oct(path.stat().st_mode)[-3:] == "600"
    used.append(asyncio.run(thing(path, url)))
    if not os.WIFSIGNALED(status):
        break
    kills += 1
    path.write_text(json.dumps(json.loads(path.read_text()) | {"expires_at": "0"}))
print(json.dumps({"kills": kills, "used": used}))
"""


class TestStored:
    """A new pair of tokens is on the disk before it is used."""

    def on_disk(self, tmp_path: Path, **secrets: str) -> FileCredentials:
        path = tmp_path / "credentials.json"
        path.write_text(json.dumps(KEPT | secrets))
        path.chmod(0o600)
        return FileCredentials(path)

    def test_p29_every_used_token_is_on_the_disk(self, service: TokenService, tmp_path: Path) -> None:
        def look(token: str) -> None:
            data = json.loads(store.path.read_text())
            pairs.append((token, data["access_token"], data["refresh_token"]))
            service.expire()  # so that the next one needs another

        store, pairs = self.on_disk(tmp_path), list[tuple[str, str, str]]()

        async def main() -> None:
            async with client(service, store) as one:
                await quietly(one.thing())

        service.on_open = look
        asyncio.run(main())
        assert pairs == [("access-0", "access-0", "refresh-0"), ("access-1", "access-1", "refresh-1")]

    def test_p29_a_process_killed_at_any_point_leaves_a_usable_store(self, tmp_path: Path) -> None:
        store = self.on_disk(tmp_path, expires_at="0")
        with TokenService().serving() as service:
            command = [sys.executable, "-c", KILLER, str(store.path), service.url]
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found, rounds = json.loads(done.stdout), service.refreshes
        assert found["kills"] >= 6
        assert (service.over, rounds) == (False, found["kills"] + 1), "each round makes one new pair"
        assert found["used"] == [f"access-{nth + 1}" for nth in range(rounds)]

    def test_p29_a_lost_answer_is_requested_again_with_the_same_refresh_token(
        self, service: TokenService
    ) -> None:
        service.faults = [lost]
        store = kept(service, expires_at="0")
        assert ask(service, store) == "access-1"
        assert [form["refresh_token"] for form in service.seen] == ["refresh-0"] * 2
        assert (service.refreshes, store.secrets["refresh_token"]) == (1, "refresh-1")

    def test_a_lost_answer_is_requested_again_outside_of_operations_too(self, service: TokenService) -> None:
        async def main() -> str:
            async with client(service, kept(service, expires_at="0")) as one:
                return (await one.tokens.headers())["authorization"]

        service.faults = [lost]
        assert asyncio.run(main()) == "Bearer access-1"

    @pytest.mark.parametrize(("later", "good"), [(GRACE - 1, True), (GRACE + 1, False)])
    def test_p29_a_later_process_gets_the_lost_answer_within_the_grace_period(
        self, later: float, good: bool, service: TokenService, clock: FakeClock
    ) -> None:
        service.faults, store = [lost] * 8, kept(service, expires_at="0")
        with pytest.raises(Offline):
            ask(service, store)
        clock.advance(later)
        service.faults = []
        if good:
            assert ask(service, store) == "access-1"
        else:
            with pytest.raises(BadCredentials):
                ask(service, store)
        assert store.secrets["refresh_token"] == ("refresh-1" if good else "refresh-0")

    def test_an_answer_that_has_arrived_is_stored_when_the_tokens_are_stopped(
        self, service: TokenService
    ) -> None:
        class Slow(MemoryCredentials):
            async def update(self, secrets: Any) -> None:
                begun.set()
                await asyncio.sleep(0.01)
                await super().update(secrets)

        async def main() -> None:
            async with client(service, store) as one:
                asking = asyncio.create_task(quietly(one.thing()))
                await begun.wait()
                await one.tokens.stop()
                asking.cancel()
                await asyncio.wait([asking])

        begun, store = asyncio.Event(), Slow(KEPT | {"expires_at": "0"})
        asyncio.run(main())
        assert store.secrets["refresh_token"] == "refresh-1"

    def test_without_rotation_the_refresh_token_stays(self, service: TokenService) -> None:
        service.rotates, store = False, kept(service, expires_at="0")
        assert ask(service, store) == "access-1"
        assert store.secrets["refresh_token"] == "refresh-0"


# -- refusals ----------------------------------------------------------------------------------

REFUSED = [
    (400, {"error": "invalid_grant"}, BadCredentials, "connect again"),
    (200, {"error": "bad_refresh_token", "error_description": "…"}, BadCredentials, "connect again"),
    (400, {"status": "BAD_REFRESH_TOKEN", "message": "…"}, BadCredentials, "connect again"),
    (401, {"error": "invalid_client"}, BadCredentials, "check the client id"),
    (401, {}, BadCredentials, "connect again"),
    (400, {"error": "temporarily_unavailable"}, UpstreamBroken, "try again later"),
    (503, "<html>", UpstreamBroken, "try again later"),
    (200, "<html>", UpstreamBroken, "try again later"),
    (429, {}, QuotaExceeded, ""),
    (403, {"error": "access_denied"}, PermissionDenied, ""),
    (200, {"hello": "there"}, UpstreamChanged, "update the connector"),
    (200, {"access_token": 7}, UpstreamChanged, "update the connector"),
    (200, [], UpstreamChanged, "update the connector"),
]


class TestRefusals:
    """Each failed renewal says what to do."""

    @pytest.mark.parametrize(("status", "body", "kind", "hint"), REFUSED)
    def test_an_answer_without_a_token_is_an_error_with_a_hint(
        self, status: int, body: object, kind: type[UpstreamError], hint: str, service: TokenService
    ) -> None:
        service.faults, store = [instead(status, body)] * 8, kept(service, expires_at="0")
        with pytest.raises(kind) as caught:
            ask(service, store)
        assert hint in caught.value.hint
        assert store.secrets == kept(service, expires_at="0").secrets
        assert (len(service.seen) > 1) == kind.retryable

    def test_a_temporary_failure_is_retried(self, service: TokenService) -> None:
        service.faults = [instead(503, ""), lost, instead(500, {}), instead(200, "<html>")]
        assert ask(service, kept(service, expires_at="0")) == "access-1"

    def test_an_error_that_repeats_a_secret_is_redacted(self, service: TokenService) -> None:
        service.faults = [instead(422, {"error": f"what is refresh-0 of {SECRET}?"})]
        with pytest.raises(UpstreamChanged) as caught:
            ask(service, kept(service, expires_at="0"))
        assert "what is *** of ***?" in str(caught.value)

    def test_a_revoked_grant_is_not_requested_again(self, service: TokenService) -> None:
        async def main() -> list[str | BaseException]:
            async with client(service, kept(service, expires_at="0", refresh_token="stolen")) as one:
                return [await quietly(one.thing()) for _ in range(3)]

        assert {type(one) for one in asyncio.run(main())} == {BadCredentials}
        assert len(service.seen) == 1

    def test_connecting_again_ends_the_refusals(self, service: TokenService) -> None:
        async def main() -> str:
            async with client(service, store) as one:
                await quietly(one.thing())
                await store.update(
                    {"refresh_token": "refresh-0", "access_token": "access-0", "expires_at": ""}
                )
                service.over = False
                return await one.thing()

        store = kept(service, expires_at="0", refresh_token="stolen")
        assert asyncio.run(main()) == "access-0"

    def test_an_access_token_of_another_refresh_token_is_not_used(self, service: TokenService) -> None:
        store = kept(service, expires_at="0")
        assert [ask(service, store), ask(service, store)] == ["access-1"] * 2
        service.rotates = False
        asyncio.run(store.update({"refresh_token": "refresh-0"}))  # connected again, with another account
        assert ask(service, store) == "access-1"
        assert len(service.seen) == 2, "it was asked for by the new refresh token"

    def test_an_undeclared_host_gets_no_request(self, service: TokenService) -> None:
        credentials = CredentialProvider(
            kept(service), OAUTH.credentials, Hosts.of("https://api.example.com")
        )
        with pytest.raises(PermissionDenied, match="does not declare the host"):
            OAUTH.tokens(credentials, service.url, client_id=CLIENT)
        assert service.seen == []


# -- who asks, and what is seen of it --------------------------------------------------------------


class TestClients:
    """The client's id and secret are sent where the service expects them."""

    def test_the_secret_is_sent_in_the_form(self, service: TokenService) -> None:
        ask(service, kept(service, expires_at="0"))
        assert service.seen == [
            {
                "grant_type": "refresh_token",
                "refresh_token": "refresh-0",
                "client_id": CLIENT,
                "client_secret": SECRET,
            }
        ]

    def test_with_basic_the_secret_is_sent_in_the_header(self, service: TokenService) -> None:
        ask(service, kept(service, expires_at="0"), oauth=OAuth("sample", "/token", basic=True))
        assert service.seen[0]["how"] == "basic"

    def test_a_public_client_sends_no_secret(self, service: TokenService) -> None:
        service.secret = None
        store = MemoryCredentials({"refresh_token": "refresh-0"})
        assert ask(service, store) == "access-1"
        assert service.seen[0].keys() == {"grant_type", "refresh_token", "client_id"}

    def test_a_grant_of_the_connectors_own_replaces_the_refresh_token(
        self, service: TokenService, clock: FakeClock
    ) -> None:
        def grant(now: float) -> dict[str, str]:
            return {"grant_type": "client_credentials", "scope": f"read-{now:.0f}"}

        store = MemoryCredentials({"client_secret": SECRET})
        assert ask(service, store, grant=grant) == "access-1"
        clock.advance(2 * DAY)
        assert ask(service, store, grant=grant) == "access-2"
        assert service.seen[1]["scope"] == f"read-{clock():.0f}"

    def test_a_renewal_is_an_operation_of_the_sync_without_a_secret(self, service: TokenService) -> None:
        seen: list[str] = []

        async def watch(call: Call, next: Next) -> Any:
            output = await next(call)
            seen.append(f"{call.operation.name} {call.input!r} {call.context!r} {output!r}")
            return output

        ask(service, kept(service, expires_at="0"), around=watch)
        assert seen[0] == f"sample:token:renew 'refresh' OAuthTokens('sample') {DAY}"
        assert len(seen) == 2

    def test_a_renewal_does_not_block_the_loop(self, service: TokenService, tmp_path: Path) -> None:
        path = tmp_path / "credentials.json"
        path.write_text(json.dumps(KEPT | {"expires_at": "0"}))
        store = FileCredentials(path, timeout=0.05)

        async def main() -> int:
            turns, waiting = 0, asyncio.create_task(quietly(one_thing()))
            while not waiting.done():
                turns += 1
                await asyncio.sleep(0)
            assert "another process has been renewing" in str(await waiting)
            return turns

        async def one_thing() -> str:
            async with client(service, store) as one:
                headers = await one.tokens.headers()
                return headers["authorization"]

        with store.blocking_renewal_lock():
            assert asyncio.run(main()) > 5
        assert service.seen == []


# -- whose a token is ----------------------------------------------------------------------


class TestIdentity:
    """Known pages belong to an account, whose token is another one every hour."""

    def identity(
        self, service: TokenService, store: CredentialStore, *, renews: bool = False, **how: Any
    ) -> str:
        """The identity that a new process has, after its first request if it ``renews``."""

        async def main() -> str:
            async with client(service, store, **how) as one:
                before = await one.tokens.identity()
                if renews:
                    await one.thing()
                    assert await one.tokens.identity() == before or not before
                return await one.tokens.identity()

        return asyncio.run(main())

    @pytest.mark.parametrize("rotates", [True, False])
    def test_renewals_keep_it_from_the_first_request_on(
        self, service: TokenService, clock: FakeClock, rotates: bool
    ) -> None:
        service.rotates, store = (
            rotates,
            MemoryCredentials({one: KEPT[one] for one in KEPT if one != "access_token"}),
        )
        first = self.identity(service, store, renews=True)
        tokens = {store.secrets["access_token"]}
        assert first
        for _ in range(3):
            clock.advance(2 * DAY)
            assert self.identity(service, store, renews=True) == first
            tokens.add(store.secrets["access_token"])
        assert len(tokens) == 4, "each process had another token"

    def test_a_token_that_was_given_is_not_known_until_its_first_renewal(
        self, service: TokenService, clock: FakeClock
    ) -> None:
        store = kept(service)
        assert self.identity(service, store) == ""
        clock.advance(2 * DAY)
        renewed = self.identity(service, store, renews=True)
        clock.advance(2 * DAY)
        assert self.identity(service, store, renews=True) == renewed != ""

    @pytest.mark.parametrize("given", ["refresh_token", "access_token"])
    def test_another_token_that_is_given_may_be_another_accounts(
        self, service: TokenService, given: str
    ) -> None:
        store = MemoryCredentials({one: KEPT[one] for one in KEPT if one != "access_token"})
        before = self.identity(service, store, renews=True)
        store.secrets[given] = "another"
        assert self.identity(service, store) != before

    def test_a_grant_says_for_whom_its_tokens_stand(self, service: TokenService) -> None:
        def grant(now: float) -> dict[str, str]:
            return {"grant_type": "refresh_token", "refresh_token": "refresh-0"}

        service.rotates = False
        for account in ("", "robot 7"):
            store = MemoryCredentials({"client_secret": KEPT["client_secret"]})
            assert self.identity(service, store, renews=True, grant=grant, account=account) == account
