"""GitHub's connector under faults: limits, broken answers, expired tokens, kills, secrets."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from max_connectors import github, github_api
from max_connectors.github import connector
from max_connectors.github_api import read_error

from max import Status
from max.connecting import (
    BadCredentials,
    HttpRequest,
    HttpResponse,
    InvalidAnswers,
    PermissionDenied,
    QuotaExceeded,
    Retry,
)
from max.upstream.hosts import read_address
from max.upstream.recording import Recording
from max.upstream.replay import Replay
from tests.github_copy import Copy
from tests.github_data import change, repo_of
from tests.github_fake import TOKEN, Fake, served


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=4, base=0.002, cap=0.01))


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five rows, so that a small service has several."""
    monkeypatch.setattr(github, "PAGE", 5)
    monkeypatch.setattr(github_api, "PAGE", 5)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with served() as fake:
        yield fake


@pytest.fixture
def copy(fake: Fake, tmp_path: Path) -> Copy:
    return Copy(tmp_path, fake)


SECONDARY = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}
FAULTS: list[dict[str, Any]] = [
    {"status": 403, "headers": {"Retry-After": "0"}, "body": SECONDARY},
    {"status": 429, "headers": {"Retry-After": "0"}},
    {"status": 500},
    {"status": 502},
    {"drop": True},
    {"truncate": True},
    {"garbage": True},
]
REQUESTS = [  # each kind of request, and the pages of the longer listings
    *(r"/user/repos", r"/issues\?", r"/issues\?.*since", r"/issues/comments", r"/issues/comments.*since"),
    *(r"/pulls\?", r"/pulls/4$", r"/reviews", r"/pulls/comments", r"/labels", r"/milestones", r"/releases"),
    *(
        r"/commits\?.*per_page=1\b",
        r"/commits\?.*page=1\b",
        r"/commits\?.*page=2\b",
        r"/teams\?",
        r"/members",
    ),
]


def test_every_fault_of_every_request_is_retried(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=4 * len(FAULTS), base=0.002, cap=0.01))
    hits = [copy.fake.inject(f"GET .*{request}", **fault) for request in REQUESTS for fault in FAULTS]
    assert (copy.sync().status, copy.differences()) == (Status.COMPLETED, [])
    assert [one.pattern for one in hits if not one.hits] == []
    change(copy.fake)
    copy.fake.faults.clear()
    hits = [copy.fake.inject(r"/compare/", **fault) for fault in FAULTS]
    assert (copy.sync().status, copy.differences()) == (Status.COMPLETED, [])
    assert [one for one in hits if not one.hits] == []


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_listing_that_fails_for_good_removes_nothing_and_the_next_sync_brings_the_rest(
    copy: Copy, request_: str
) -> None:
    copy.fake.inject(f"GET .*{request_}", status=403, body={"message": "no"}, times=None)
    assert copy.sync().status is not Status.COMPLETED or request_ == r"/teams\?"
    copy.fake.faults.clear()
    assert copy.sync().status is Status.COMPLETED
    assert copy.differences() == []


# -- limits ----------------------------------------------------------------------------------------


def answer(status: int, message: str, **headers: str) -> HttpResponse:
    """A response with GitHub's own words."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = f'{{"message": "{message}"}}'.encode()
    return HttpResponse(HttpRequest("GET", "https://api.github.com/a"), status, named, body)


def test_a_used_up_limit_is_no_missing_permission() -> None:
    said = read_error(answer(403, "API rate limit exceeded", x_ratelimit_remaining="0"))
    assert isinstance(said, QuotaExceeded)
    assert said.retry_after is None  # the client takes it from the headers


def test_a_secondary_limit_that_does_not_say_how_long_lasts_a_minute() -> None:
    said = read_error(answer(403, SECONDARY["message"], x_ratelimit_remaining="4000"))
    assert isinstance(said, QuotaExceeded)
    assert said.retry_after == 60
    said = read_error(answer(429, "slow down", retry_after="7"))
    assert isinstance(said, QuotaExceeded)
    assert said.retry_after is None  # the client takes it from the header


def test_the_hourly_limit_is_waited_for_and_not_exceeded(copy: Copy) -> None:
    copy.fake.remaining = 20
    copy.fake.reset = int(copy.fake.clock()) + 120 + 2  # two seconds after the sync begins
    assert copy.sync().status is Status.COMPLETED
    assert [one for one in copy.fake.requests() if one.status == 403] == []
    assert copy.differences() == []


REFUSALS = [
    ({"x_github_sso": "required; url=https://github.com/orgs/octo/sso?secret"}, "no", "Configure SSO"),
    (
        {"x_accepted_github_permissions": "issues=read"},
        "Resource not accessible by integration",
        "issues: read",
    ),
    ({"x_accepted_oauth_scopes": "repo", "x_oauth_scopes": "user"}, "Must have rights", "scopes repo"),
    ({}, "Must have admin rights", "use another credential"),
]


@pytest.mark.parametrize(("headers", "message", "words"), REFUSALS)
def test_a_missing_permission_is_named(headers: Mapping[str, str], message: str, words: str) -> None:
    said = read_error(answer(403, message, **headers))
    assert isinstance(said, PermissionDenied)
    assert message in str(said)
    assert words in said.hint
    assert "secret" not in f"{said} {said.hint}"


def test_a_refused_token_is_said_in_words(copy: Copy) -> None:
    copy.fake.tokens.clear()
    result = copy.sync()
    assert result.status is Status.FAILED
    assert "GitHub does not accept the credential (Bad credentials)" in result.failures[0].message
    assert "make a new one" in result.failures[0].hint


# -- Apps ------------------------------------------------------------------------------------------

KEY = rsa.generate_private_key(65537, 2048)


def pem(key: rsa.RSAPrivateKey = KEY) -> str:
    """A private key as GitHub gives it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


@pytest.fixture
def app(fake: Fake, tmp_path: Path) -> Copy:
    """A copy that signs in as an installed App."""
    fake.app = ("123", "77", KEY.public_key())
    return Copy(tmp_path, fake, {"private_key": pem()}, app_id="123", installation_id="77")


def test_an_app_signs_its_request_for_a_token_and_copies_what_it_may_see(app: Copy) -> None:
    assert app.sync().status is Status.COMPLETED
    assert app.differences() == []
    assert app.fake.issued == 1
    assert app.sync().status is Status.COMPLETED  # the token is kept for the next process
    assert app.fake.issued == 1


@pytest.mark.parametrize("request_", [r"/installation/repositories", r"/issues\?", r"/pulls/4$", r"/commits"])
def test_p29_a_token_that_expires_at_any_request_is_renewed_once(app: Copy, request_: str) -> None:
    app.fake.inject(f"GET .*{request_}", call=app.fake.tokens.clear)
    assert app.sync().status is Status.COMPLETED
    assert app.differences() == []
    assert app.fake.issued == 2


@pytest.mark.parametrize(("left", "issued"), [(600, 1), (100, 2)])
def test_p29_a_token_is_renewed_two_minutes_before_it_expires_and_not_sooner(
    app: Copy, left: float, issued: int
) -> None:
    app.sync()
    _, _, fingerprint = app.secrets.secrets["expires_at"].partition(" ")
    app.secrets.secrets["expires_at"] = f"{time.time() + left} {fingerprint}"
    app.sync()
    assert app.fake.issued == issued
    assert {one.status for one in app.fake.log} <= {200, 201, 304, 409}


def test_another_key_is_said_in_words(app: Copy) -> None:
    app.secrets.secrets["private_key"] = pem(rsa.generate_private_key(65537, 2048))
    result = app.sync()
    assert result.status is Status.FAILED
    assert "JSON web token could not be decoded" in result.failures[0].message


@pytest.mark.parametrize(
    "text", ["", "no key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"]
)
def test_what_is_no_key_is_said_without_repeating_it(app: Copy, text: str) -> None:
    app.secrets.secrets["private_key"] = text or " "
    with pytest.raises(BadCredentials, match="no private RSA key") as raised:
        app.sync()
    assert "AAAA" not in repr(raised.value)


def test_an_app_without_its_numbers_is_asked_for_them(app: Copy) -> None:
    app.values["installation_id"] = ""
    with pytest.raises(BadCredentials, match="needs app_id and installation_id"):
        app.sync()


# -- kills, recordings, secrets ----------------------------------------------------------------------


@pytest.mark.parametrize("requests", [2, 9, 17, 30, 44])
def test_a_killed_sync_goes_on_where_it_was(copy: Copy, requests: int) -> None:
    copy.killed_after(requests)
    before = [one.target for one in copy.fake.requests() if "/commits?" in one.target and one.status == 200]
    assert copy.apart().returncode == 0
    assert copy.differences() == []
    after = [one.target for one in copy.fake.requests()]
    assert not {one for one in before[:-2] if "per_page=1&" not in f"{one}&"} & set(after)


def test_a_sync_of_changes_that_is_killed_again_and_again_ends_with_the_same(copy: Copy) -> None:
    assert copy.apart().returncode == 0
    change(copy.fake)
    for requests in (3, 9, 6):
        copy.killed_after(requests)
    assert copy.apart().returncode == 0
    assert copy.differences() == []


def test_p37_a_recording_has_every_attempt(copy: Copy, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    copy.recording = lambda: Recording(calls)
    copy.fake.inject(r"/issues\?", status=500, times=2)
    assert copy.sync().status is Status.COMPLETED
    lines = calls.read_text().splitlines()
    assert len([line for line in lines if '"call"' in line or '"operation"' in line]) == len(copy.fake.log)


def test_p45_a_recorded_sync_and_its_increment_replay_to_equal_rows(copy: Copy, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    copy.recording = lambda: Recording(calls)
    copy.sync()
    copy.recording = lambda: None
    (tmp_path / "again").mkdir()
    again = Copy(tmp_path / "again", None)
    again.values["base_url"] = copy.fake.url
    again.recording = lambda: Replay(calls)
    before = len(copy.fake.log)
    assert again.sync().status is Status.COMPLETED
    assert len(copy.fake.log) == before
    assert again.rows() == copy.rows()


def test_p41_no_secret_is_in_any_byte_that_a_sync_with_errors_leaves(app: Copy) -> None:
    app.recording = lambda: Recording(app.folder / "all.jsonl")
    issued = f"ghs_1{'x' * 30}"
    echo = {"message": f"what of {issued}?"}
    app.fake.inject(r"/issues\?", status=500, body=echo, times=2)
    app.fake.inject(r"/labels", status=403, body=echo, times=None)
    result = app.sync()
    assert result.status is Status.PARTIAL
    assert issued in app.fake.tokens
    known = {issued, *pem().split("\n")[1:-2]}
    assert not [one for one in known if one in repr(result)]
    for file in app.folder.rglob("*"):
        if file.is_file():
            assert not [one for one in known if one.encode() in file.read_bytes()], file.name


def test_p41_a_token_is_in_no_byte_either(fake: Fake, tmp_path: Path) -> None:
    token = f"ghp_{secrets.token_hex(20)}"
    fake.tokens[token] = float("inf")
    copy = Copy(tmp_path, fake, {"token": token})
    copy.recording = lambda: Recording(copy.folder / "all.jsonl")
    copy.fake.inject(r"/releases", status=403, body={"message": f"no {token}"}, times=None)
    result = copy.sync()
    assert result.status is Status.PARTIAL
    assert token not in repr(result)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes(), file.name


def test_p19_p40_only_the_configured_host_and_the_declared_operations_are_used(copy: Copy) -> None:
    copy.values["base_url"] = "https://api.github.com"
    _, credentials = copy.configured()
    credentials.hosts.check(read_address("https://api.github.com")[0])
    for url in ("https://github.com", "https://api.github.com.evil.test", "https://uploads.github.com"):
        with pytest.raises(PermissionDenied):
            credentials.hosts.check(read_address(url)[0])
    assert {one.name.partition(":")[0] for one in connector.operations} == {"github"}


@pytest.mark.parametrize("header", ["Location", "Link"])
def test_p19_no_request_goes_to_another_host(copy: Copy, header: str) -> None:
    there = "http://127.0.0.1:1/steal"
    value = there if header == "Location" else f'<{there}>; rel="next"'
    status = 302 if header == "Location" else 200
    copy.fake.inject("/user/repos", status=status, headers={header: value}, body=[], times=None)
    result = copy.sync()
    assert result.status is not Status.COMPLETED
    assert result.failures[0].code == "upstream.permission"


# -- connecting ------------------------------------------------------------------------------------


def test_without_a_credential_the_sync_says_how_to_give_one(copy: Copy) -> None:
    copy.secrets.secrets.clear()
    with pytest.raises(BadCredentials, match="no credential is stored"):
        copy.sync()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repositories", ["octocat"]),
        ("repositories", ["octo/../x"]),
        ("repositories", ["octo/.."]),
        ("leave_out", ["wikis"]),
        ("app_id", "one two"),
        ("installation_id", "../9"),
    ],
)
def test_a_wrong_configuration_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidAnswers, match="github"):
        github.GithubConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fixture", "words"), [("copy", "github: as ada"), ("app", "access to 4 repositories")]
)
def test_health_says_whose_credential_it_is(request: pytest.FixtureRequest, fixture: str, words: str) -> None:
    copy: Copy = request.getfixturevalue(fixture)

    async def line() -> str:
        config, credentials = copy.configured()
        installation = await github.initialise(config, credentials)
        assert installation.stop
        assert installation.health
        try:
            if installation.start:
                await installation.start()
            return await installation.health()
        finally:
            await installation.stop()

    assert words in asyncio.run(line())


def test_connecting_offers_the_repositories_and_refuses_a_wrong_name(copy: Copy) -> None:
    config, credentials = copy.configured()
    answers: Any = {**vars(config), "by_app": False}
    found = asyncio.run(github.repositories_to_choose(answers, credentials))
    names = sorted(one.row["full_name"] for one in copy.fake.repos.values())
    assert found == [(name, name) for name in names]
    assert asyncio.run(github.check(answers, credentials)) == "github: as ada"
    with pytest.raises(Exception, match="there is no repository octo/nothing"):
        asyncio.run(github.check({**answers, "repositories": ["octo/nothing"]}, credentials))
    assert TOKEN not in repr(found)
    assert repo_of(copy.fake, "octo/big")
