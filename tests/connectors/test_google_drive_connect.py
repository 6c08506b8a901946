"""Connecting Google Drive: by browser, by a service account's key, and what is chosen then."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from max_connectors import google_drive_sign_in
from max_connectors.google_drive import connector
from max_connectors.google_drive_sign_in import SCOPE, ServiceAccount

from max import OnboardingResult, Prompter, Status, onboard
from max.connecting import BadCredentials, BrowserSignIn, Secret, SignIn
from max.errors import InvalidAnswers, MissingExtra
from max.installations.credential_file import StoredSecrets
from max.upstream.recording import Recording
from tests.drive_fake import CLIENT, SECRET, TOKEN, Copy, account, needs_fake

pytestmark = needs_fake
ROBOT = "robot@acme.iam.gserviceaccount.com"
NOTHING: Mapping[str, Any] = {}


@pytest.fixture
def fake() -> Iterator[Any]:
    with account() as served:
        yield served


@cache
def private_key() -> rsa.RSAPrivateKey:
    """One key for all tests: making one takes long."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def pem(key: Any) -> str:
    """A private key as key files have it."""
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, none)
    return text.decode()


def key_file(**changes: Any) -> str:
    """A service account's key file."""
    data = {"type": "service_account", "client_email": ROBOT, "private_key": pem(private_key())}
    return json.dumps({**data, "private_key_id": "1", "token_uri": "x", **changes}, indent=2)


def hire(fake: Any) -> str:
    """A key file whose account the fake knows; it checks every signature."""
    numbers = private_key().public_key().public_numbers()
    fake.service_accounts[ROBOT] = (numbers.n, numbers.e)
    fake.clock._frozen = None  # requests for tokens are dated by the machine's clock
    fake.clock._offset = 0.0
    return key_file()


def signer(fake: Any) -> str:
    """The key that connecting keeps of a key file."""
    hire(fake)
    return pem(private_key())


class Person(Prompter):
    """Types prepared lines, chooses prepared options, and records questions and output."""

    def __init__(self, *lines: str, chosen: Sequence[str] = ()) -> None:
        self.lines, self.chosen, self.asked, self.shown = list(lines), chosen, list[str](), list[str]()
        self.options: Sequence[tuple[str, str]] = ()

    async def text(self, prompt: str, default: str | None) -> str:
        return await self.secret(prompt)

    async def secret(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.lines.pop(0)

    async def choose(self, prompt: str, options: Sequence[tuple[str, str]], several: bool) -> Sequence[str]:
        self.options = options
        return self.chosen

    async def confirm(self, prompt: str) -> bool:
        return True

    def say(self, line: str) -> None:
        self.shown.append(line)


def connect(
    fake: Any, person: Person | None, values: Mapping[str, Any] = NOTHING, **credentials: str
) -> OnboardingResult:
    """The result of connecting."""
    given = {"base_url": fake.url, "token_url": fake.url, **values}
    return asyncio.run(onboard(connector, person, given, credentials))


class TestByBrowser:
    """A person signs in."""

    def test_a_person_signs_in_and_chooses_among_the_drives(
        self, fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        addresses: list[str] = []
        browse(fake, addresses, monkeypatch)
        person = Person(CLIENT["client_id"], SECRET, chosen=["D1"])
        found = connect(fake, person)
        assert person.options == [
            ("my-drive", "My Drive, with what others share with the account"),
            ("D1", "Team"),
        ]
        assert found.config["drives"] == ["D1"]
        assert (found.config["account"], found.config["root_folder"]) == ("1", "root")
        assert found.secrets.keys() == {"access_token", "refresh_token", "expires_at", "client_secret"}
        assert "google_drive: Me <me@acme.test>" in person.shown
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(addresses[0]).query))
        assert (query["access_type"], query["prompt"], query["scope"]) == ("offline", "consent", SCOPE)
        assert query["code_challenge_method"] == "S256"

    def test_a_given_refresh_token_needs_no_browser(self, fake: Any) -> None:
        found = connect(fake, None, CLIENT, refresh_token=TOKEN, client_secret=SECRET)
        assert found.config["account"] == "1"
        assert found.secrets["refresh_token"] == TOKEN

    def test_a_wrong_client_differs_from_an_ended_grant(self, fake: Any) -> None:
        with pytest.raises(BadCredentials, match="invalid_client") as wrong:
            connect(fake, None, CLIENT, refresh_token=TOKEN, client_secret="GOCSPX-another-one")
        assert "client secret" in wrong.value.hint
        with pytest.raises(BadCredentials, match="invalid_grant") as ended:
            connect(fake, None, CLIENT, refresh_token="1//ended-long-ago", client_secret=SECRET)
        assert "connect again" in ended.value.hint

    def test_an_installation_keeps_its_account(self, fake: Any) -> None:
        with pytest.raises(BadCredentials, match="another account"):
            connect(fake, None, {**CLIENT, "account": "99"}, refresh_token=TOKEN, client_secret=SECRET)

    def test_a_script_without_a_credential_names_what_is_missing(self, fake: Any) -> None:
        with pytest.raises(InvalidAnswers, match="private_key: expected a secret"):
            connect(fake, None)

    def test_a_drive_that_does_not_exist_is_refused(self, fake: Any) -> None:
        with pytest.raises(InvalidAnswers, match="drives: expected some of my-drive, D1"):
            connect(fake, None, {**CLIENT, "drives": ["D9"]}, refresh_token=TOKEN, client_secret=SECRET)


def browse(fake: Any, addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that signs in at once; the fake exchanges its code for the refresh token."""

    def show(url: str) -> None:
        addresses.append(url)
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
        answer = urllib.parse.urlencode({"state": query["state"], "code": "a-code"})
        with urllib.request.urlopen(f"{query['redirect_uri']}?{answer}") as page:
            page.read()

    given = fake.token

    def token(request: Any) -> Any:
        form = request.form()
        if form.get("grant_type") != "authorization_code":
            return given(request)
        assert form["code"] == "a-code"
        assert len(form["code_verifier"]) >= 43
        form = {"grant_type": "refresh_token", "refresh_token": TOKEN, **CLIENT, "client_secret": SECRET}
        request.body = urllib.parse.urlencode(form).encode()
        answer = given(request)
        answer.json["refresh_token"] = TOKEN
        return answer

    fake.extra["POST /token"] = token
    signing_in = BrowserSignIn(
        google_drive_sign_in.OAUTH,
        google_drive_sign_in.BROWSER.authorize_url,
        google_drive_sign_in.BROWSER.scopes,
        extra=google_drive_sign_in.BROWSER.extra,
        base_url="token_url",
        show=show,
    )
    (step,) = [one for one in connector.onboarding if isinstance(one, SignIn)]
    monkeypatch.setitem(step.__dict__, "run", signing_in)


class TestServiceAccount:
    """A service account signs its own requests for tokens."""

    def test_a_service_account_copies_what_it_can_see(self, fake: Any, tmp_path: Path) -> None:
        copy = Copy(tmp_path, fake, {"private_key": signer(fake)}, client_id="", service_account=ROBOT)
        assert copy.sync().status is Status.COMPLETED
        assert copy.differences() == []

    def test_its_token_is_renewed_when_it_expires_in_the_middle(self, fake: Any, tmp_path: Path) -> None:
        copy = Copy(tmp_path, fake, {"private_key": signer(fake)}, client_id="", service_account=ROBOT)
        fake.inject("shared5/permissions", call=lambda _: fake.tokens.expire_all())
        assert copy.sync().status is Status.COMPLETED
        assert len([one for one in fake.log if one.path == "/token"]) == 2

    def test_connecting_with_a_key_asks_for_no_sign_in(self, fake: Any) -> None:
        person = Person("")
        found = connect(fake, person, private_key=hire(fake))
        assert len(person.asked) == 1
        assert "User for whom" in person.asked[0]
        assert found.config["account"] == "1"
        assert found.config["service_account"] == ROBOT
        assert found.secrets["private_key"] == pem(private_key())  # and nothing else of the file
        assert "refresh_token" not in found.secrets

    def test_another_key_is_used_at_once_although_an_older_token_is_stored(self, fake: Any) -> None:
        found = connect(fake, None, private_key=hire(fake))
        asked = len([one for one in fake.log if one.path == "/token"])
        kept = StoredSecrets(found.secrets, fake.url)
        given = {"base_url": fake.url, "token_url": fake.url}
        asyncio.run(onboard(connector, None, given, {"private_key": key_file()}, kept=kept))
        assert len([one for one in fake.log if one.path == "/token"]) > asked

    def test_it_acts_for_the_named_user(self, fake: Any) -> None:
        forms = assertions(fake)
        connect(fake, None, {"subject": "ada@acme.test"}, private_key=hire(fake))
        assert claims(forms[0])["sub"] == "ada@acme.test"
        connect(fake, None, private_key=hire(fake))
        assert "sub" not in claims(forms[-1])

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("{", "it is not JSON"),
            ("[]", "it is the key file of something else"),
            (key_file(type="authorized_user"), "it is the key file of something else"),
            (key_file(client_email=None), "its address or its private key is missing"),
            (key_file(private_key="-----BEGIN PRIVATE KEY-----"), "its private key cannot be read"),
            (key_file(private_key=pem(ec.generate_private_key(ec.SECP256R1()))), "is no RSA key"),
            (pem(private_key()), "the account is not known"),
        ],
    )
    def test_a_wrong_key_file_is_refused_without_repeating_it(
        self, fake: Any, text: str, problem: str
    ) -> None:
        with pytest.raises(BadCredentials, match=problem) as caught:
            connect(fake, None, private_key=text.ljust(8))
        assert "BEGIN" not in str(caught.value)
        assert "private_key=file:PATH" in caught.value.hint

    def test_an_account_that_google_does_not_know_is_an_ended_grant(self, fake: Any) -> None:
        with pytest.raises(BadCredentials, match="invalid_grant"):
            connect(fake, None, private_key=key_file())
        fake.rejections.clear()  # the fake counts an unknown account as a mistake of the connector

    def test_without_the_library_the_error_names_the_extra(
        self, fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [one for one in sys.modules if one.startswith("cryptography")]:
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match="cryptography") as caught:
            connect(fake, None, private_key=hire_without_library(fake))
        assert "google" in caught.value.hint

    def test_p41_neither_key_nor_assertion_is_in_what_a_sync_leaves(self, fake: Any, tmp_path: Path) -> None:
        forms = assertions(fake)
        copy = Copy(tmp_path, fake, {"private_key": signer(fake)}, client_id="", service_account=ROBOT)
        copy.recording = lambda: Recording(tmp_path / "all.jsonl")
        echo = {"error": "temporarily_unavailable", "error_description": f"no {pem(private_key())}"}
        fake.inject("/token", status=503, body=echo)
        assert copy.sync().status is Status.COMPLETED
        lines = pem(private_key()).splitlines()[1:-1]
        known = [*forms, *lines, copy.secrets.secrets["access_token"]]
        for file in tmp_path.rglob("*"):
            if file.is_file():
                assert not [one for one in known if one.encode() in file.read_bytes()], file.name
        made: dict[str, str] = {}
        robot = ServiceAccount(Secret(pem(private_key())), ROBOT, "x", "", made.__setitem__)
        assert robot.grant(1.0)["assertion"] == made["assertion"]  # it is kept out of what is written
        assert lines[0] not in repr(ServiceAccount(Secret("x"), ROBOT, "x", "", lambda name, text: None))


FILE = key_file()


def hire_without_library(fake: Any) -> str:
    """A key file that was made while the library could be imported."""
    return FILE


def assertions(fake: Any) -> list[str]:
    """The signed requests that the fake gets from now on."""
    found: list[str] = []
    given = fake.check_jwt

    def check(text: str) -> Any:
        found.append(text)
        return given(text)

    fake.check_jwt = check
    return found


def claims(assertion: str) -> dict[str, Any]:
    """What a signed request claims."""
    part = assertion.split(".")[1]
    data: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return data


def test_health_shows_the_account(fake: Any, tmp_path: Path) -> None:
    copy = Copy(tmp_path, fake)

    async def main(runtime: Any) -> str:
        line: str = await runtime.health()
        return line

    assert asyncio.run(copy.open(main)) == "google_drive: Me <me@acme.test>"


def test_every_field_and_entity_is_described() -> None:
    for entity in connector.schema.entities.values():
        assert entity.__doc__
        declared = {**entity._fields, **entity._collections}
        assert [name for name, one in declared.items() if not getattr(one, "description", "")] == []
