"""Signing in with a browser, as part of connecting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import urlopen

import pytest

from max import OnboardingResult, onboard
from max.connecting import (
    BadCredentials,
    BrowserSignIn,
    Connector,
    InvalidAnswers,
    Json,
    MaxError,
    OAuth,
    Offline,
    PermissionDenied,
    SecretInput,
    SignIn,
)
from max.connector import NoConfig, OnboardingStep
from max.errors import ConnectorError, UsageError
from tests.sample import sample
from tests.token_service import CLIENT, SECRET, TokenService

OAUTH = OAuth("sample", "/token")
Browser = Callable[[str], object]


@dataclass(frozen=True)
class Config:
    """The service's address and the client's id."""

    base_url: str
    client_id: str = CLIENT


class Person:
    """A prompter that agrees to everything and remembers what is shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    async def text(self, prompt: str, default: str | None) -> str:
        """The default."""
        return default or ""

    async def secret(self, prompt: str) -> str:
        """The client's secret."""
        return SECRET

    async def choose(self, prompt: str, options: Any, several: bool) -> list[str]:
        """Nothing."""
        return []

    async def confirm(self, prompt: str) -> bool:
        """Yes."""
        self.shown.append(prompt)
        return True

    def say(self, line: str) -> None:
        """Remember it."""
        self.shown.append(line)


def connector(browser: Browser, **how: Any) -> Connector[Any, Any]:
    """A connector whose sign-in uses this browser."""
    sign_in = BrowserSignIn(OAUTH, "https://sample.test/authorize", ["read", "more"], show=browser, **how)
    steps: list[OnboardingStep] = [
        SecretInput(OAuth.CLIENT_SECRET, "Secret"),
        SignIn([OAuth.ACCESS_TOKEN, OAuth.REFRESH_TOKEN], sign_in),
    ]
    return sample(
        config=Config,
        credentials=OAUTH.credentials,
        hosts=["{base_url}"],
        operations=[OAUTH.renewal],
        onboarding=steps,
    )


def connect(
    service: TokenService,
    browser: Browser,
    person: Person | None = None,
    *,
    secrets: Mapping[str, str] = {},
    **how: Any,
) -> OnboardingResult:
    """The result of onboarding."""
    given = {"base_url": service.url}
    return asyncio.run(onboard(connector(browser, **how), person, given, secrets))


def visit(url: str) -> tuple[int, str]:
    """The response that a browser gets."""
    try:
        with urlopen(url) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def back(url: str, **said: str) -> str:
    """The address to which the service redirects after a sign-in."""
    return f"{dict(parse_qsl(urlsplit(url).query))['redirect_uri']}?{urlencode(said)}"


@pytest.fixture
def service() -> Iterator[TokenService]:
    with TokenService().serving() as service:
        yield service


class TestSigningIn:
    """A person signs in with a browser, and the tokens are stored."""

    def test_the_tokens_are_stored_and_no_code_or_token_is_shown(self, service: TokenService) -> None:
        def browser(url: str) -> None:
            pages.append(visit(back(url, **service.authorize(url))))

        pages, person = list[tuple[int, str]](), Person()
        found = connect(service, browser, person)
        assert found.secrets["refresh_token"] == "refresh-signed-in"
        assert found.secrets["access_token"] == "access-1"
        assert [(status, "You are signed in" in page) for status, page in pages] == [(200, True)]
        shown = str(person.shown)
        assert "go to: https://sample.test/authorize?" in shown
        assert not any(one in shown for one in ("code-0", "access-1", service.seen[0]["code_verifier"]))

    def test_the_address_has_every_parameter_of_the_flow(self, service: TokenService) -> None:
        def browser(url: str) -> None:
            asked.update(parse_qsl(urlsplit(url).query))
            visit(back(url, **service.authorize(url)))

        asked: dict[str, str] = {}
        connect(service, browser, Person(), separator=",", extra={"prompt": "consent"})
        assert (asked["scope"], asked["prompt"], asked["code_challenge_method"]) == (
            "read,more",
            "consent",
            "S256",
        )
        assert service.seen[0]["redirect_uri"].startswith("http://127.0.0.1:")
        assert service.seen[0]["redirect_uri"] == asked["redirect_uri"]

    def test_a_code_with_another_state_is_refused(self, service: TokenService) -> None:
        def browser(url: str) -> None:
            answer = service.authorize(url)
            for state in ("", "another", answer["state"][:-1]):
                seen.append(visit(back(url, code="code-of-a-stranger", state=state))[0])
            seen.append(visit(back(url, code="code-of-a-stranger"))[0])
            seen.append(visit(back(url, **answer).replace("/callback", "/favicon.ico"))[0])
            seen.append(visit(back(url, **answer))[0])

        seen: list[int] = []
        assert connect(service, browser, Person()).secrets["access_token"] == "access-1"
        assert seen == [400, 400, 400, 400, 404, 200]
        assert [form["code"] for form in service.seen] == ["code-0"]

    def test_invalid_requests_get_no_answer(self, service: TokenService) -> None:
        def browser(url: str) -> None:
            port = urlsplit(back(url)).port
            for junk in (b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 40_000):
                with socket.create_connection(("127.0.0.1", port or 0)) as connection:
                    connection.sendall(junk)
            visit(back(url, **service.authorize(url)))

        assert connect(service, browser, Person()).secrets["access_token"] == "access-1"

    def test_an_idle_connection_of_the_browser_delays_and_breaks_nothing(
        self, service: TokenService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Browsers open connections that they may need; here they would be waited for until tomorrow."""
        monkeypatch.setattr("max.upstream.browser_login.READ", 86_400.0)
        idle: list[socket.socket] = []

        def browser(url: str) -> None:
            for begun in (b"", b"GET /callb"):
                idle.append(socket.create_connection(("127.0.0.1", urlsplit(back(url)).port or 0)))
                idle[-1].sendall(begun)
            pages.append(visit(back(url, **service.authorize(url))))

        pages: list[tuple[int, str]] = []
        assert connect(service, browser, Person()).secrets["access_token"] == "access-1"
        assert pages[0][0] == 200
        for connection in idle:
            with connection:
                assert connection.recv(1) == b""  # closed on the other side
        assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []

    @pytest.mark.parametrize(
        ("said", "kind", "words"),
        [
            ("access_denied", PermissionDenied, "the sign-in was refused"),
            ("invalid_scope", BadCredentials, "invalid_scope"),
            ("<script>", BadCredentials, "it gives no reason"),
        ],
    )
    def test_a_refused_sign_in_is_an_error_with_a_hint(
        self, said: str, kind: type[MaxError], words: str, service: TokenService
    ) -> None:
        def browser(url: str) -> None:
            visit(back(url, error=said, state=service.authorize(url)["state"]))

        with pytest.raises(kind, match=words):
            connect(service, browser, Person())
        assert service.seen == []

    def test_a_sign_in_that_takes_too_long_is_offline(self, service: TokenService) -> None:
        with pytest.raises(Offline, match=r"was not completed within 0\.01 s"):
            connect(service, lambda url: None, Person(), timeout=0.01)

    def test_a_port_in_use_is_named(self, service: TokenService) -> None:
        port = urlsplit(service.url).port
        with pytest.raises(UsageError, match=f"needs port {port} on this machine"):
            connect(service, lambda url: None, Person(), port=port)

    def test_a_code_of_another_verifier_is_refused(self, service: TokenService) -> None:
        def browser(url: str) -> None:
            answer = service.authorize(url)
            service.codes.clear()
            visit(back(url, **answer))

        with pytest.raises(BadCredentials, match="invalid_grant"):
            connect(service, browser, Person())


class TestTheStep:
    """When the sign-in step runs."""

    def refuse(self, url: str) -> Json:
        """Fail: no browser must be opened."""
        raise AssertionError(url)

    def test_without_a_prompter_no_browser_opens_and_the_missing_credential_is_named(
        self, service: TokenService
    ) -> None:
        with pytest.raises(InvalidAnswers, match="access_token: expected a secret"):
            connect(service, self.refuse)
        given = {"client_secret": SECRET}
        assert connect(service, self.refuse, secrets=given).secrets == given

    def test_with_a_given_credential_the_sign_in_is_skipped(self, service: TokenService) -> None:
        given = {"refresh_token": "refresh-0"}
        assert connect(service, self.refuse, Person(), secrets=given).secrets["refresh_token"] == "refresh-0"

    def test_the_step_may_name_declared_credentials_only(self) -> None:
        async def nothing(*_: object) -> dict[str, Any]:
            return {}

        with pytest.raises(ConnectorError, match="asks for the credential 'access_token'"):
            sample(config=NoConfig, onboarding=[SignIn([OAuth.ACCESS_TOKEN], nothing)])

    def test_the_step_is_called_with_a_function_that_shows_lines(self) -> None:
        async def mute(answers: Any, credentials: Any) -> dict[str, Any]:
            return {}

        with pytest.raises(ConnectorError, match="must accept 3 arguments"):
            sample(credentials=OAUTH.credentials, onboarding=[SignIn([OAuth.ACCESS_TOKEN], mute)])  # type: ignore[arg-type]  # on purpose
