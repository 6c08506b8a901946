"""Secrets in texts: removed from what people read, sealed in what must work again."""

from __future__ import annotations

import asyncio
import json
from base64 import b32encode, b64encode, encodebytes
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import Credential, CredentialProvider, Secret, SyncTokenRefused, UpstreamBroken
from max.upstream.credentials import MADE, MemoryCredentials
from max.upstream.redaction import CLOSE, MARK, OPEN, Redactor, forms_of, parts_of, unsealed

TOKEN = Credential("token")
secrets = st.text(st.characters(codec="utf-8"), min_size=6, max_size=30).filter(lambda one: one.strip())
texts = st.lists(st.sampled_from([OPEN, CLOSE, "token.0.0", "&a=", "x"]) | st.text(max_size=9), max_size=6)


def provider(token: str) -> CredentialProvider:
    """A provider that has read a token."""
    made = CredentialProvider(MemoryCredentials({"token": token}), [TOKEN])
    asyncio.run(made.get(TOKEN))
    return made


@given(secret=secrets, around=texts, data=st.data())
@settings(max_examples=200)
def test_p41_a_sealed_cursor_has_no_secret_and_comes_back_as_it_was(
    secret: str, around: list[str], data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from(forms_of(secret)))
    cursor, credentials = form.join(around), provider(secret)
    sealed = credentials.redactor.seal(cursor)
    assert asyncio.run(credentials.unseal(sealed)) == cursor
    if len(around) > 1:
        assert secret not in sealed.replace(OPEN, "").replace(CLOSE, "") or secret in "token.0123456789"


@given(texts)
def test_what_a_service_sends_cannot_pass_for_a_sealed_secret(around: list[str]) -> None:
    cursor, credentials = f"{OPEN}token.0.0{CLOSE}".join(around), provider("a-secret-token")
    assert "a-secret-token" not in asyncio.run(credentials.unseal(credentials.redactor.seal(cursor)))


def test_a_renewed_secret_takes_the_place_of_the_old_one_also_in_another_process() -> None:
    sealed = provider("old token/1").redactor.seal(f"/x?t={quote('old token/1', safe='')}&u=1")
    assert "old" not in sealed
    later = CredentialProvider(MemoryCredentials({"token": "new/2"}), [TOKEN])  # has read nothing yet
    assert asyncio.run(later.unseal(sealed)) == "/x?t=new%2F2&u=1"


@pytest.mark.parametrize("left", [{}, {"other": "a-secret"}])
def test_a_cursor_whose_secret_is_gone_is_refused_with_its_name(left: dict[str, str]) -> None:
    sealed = provider("a-secret-token").redactor.seal("/x?t=a-secret-token")
    later = CredentialProvider(MemoryCredentials(left), [Credential("other")])
    with pytest.raises(SyncTokenRefused, match="a secret that is gone: token"):
        asyncio.run(later.unseal(sealed))


def test_a_part_of_a_secret_and_its_encodings_have_their_own_places() -> None:
    key = json.dumps({"private_key": "correct horse battery", "id": "7"})
    credentials = provider(key)
    cursor = f"a={b64encode(b'correct horse battery').decode()}"
    sealed = credentials.redactor.seal(cursor)
    assert "Y29ycmVjd" not in sealed
    assert unsealed(sealed, lambda name: key) == cursor
    assert parts_of(key) == [key, "correct horse battery"]


def test_a_text_without_secrets_stays_as_it_is() -> None:
    credentials = provider("a-secret-token")
    assert credentials.redactor.seal("page-2") == "page-2"
    assert credentials.redactor.message("nothing of it: a-secret") == "nothing of it: a-secret"
    assert CredentialProvider(MemoryCredentials(), []).redactor.message("x") == "x"


@given(secret=st.text("abcdefgh1234", min_size=16, max_size=40), cut=st.integers(11, 40))
def test_p41_a_message_holds_neither_a_secret_nor_the_beginning_of_one(secret: str, cut: int) -> None:
    redactor = provider(secret).redactor
    said = [secret, b64encode(b"x" + secret.encode()).decode(), secret.encode().hex()]
    for one in (redactor.message(f"is {text[:cut]}") for text in said[::2]):
        assert one == f"is {MARK}"
    assert secret[:11] not in json.dumps(redactor.facts({"a": [said, {"b": said}]}))


@given(
    secret=st.text("abcdefgh1234", min_size=16, max_size=40),
    width=st.integers(1, 20),
    before=st.integers(0, 80),
)
def test_p41_a_secret_that_is_wrapped_into_lines_is_removed(secret: str, width: int, before: int) -> None:
    redactor, breaks = provider(secret).redactor, ("\n", "\r\n  ", " ")
    lines = [secret[at : at + width] for at in range(0, len(secret), width)]
    assert {redactor.message(f"is {between.join(lines)}!") for between in breaks} == {f"is {MARK}!"}
    mime = encodebytes(b"." * before + secret.encode() + b"." * 60).decode()
    left = "".join(redactor.facts({"said": [mime]})["said"][0].split())
    inner = [b64encode(b"\0" * n + secret.encode())[4:-4].decode() for n in range(3)]
    assert not [one[at : at + 10] for one in inner for at in range(len(one) - 9) if one[at : at + 10] in left]


@given(secret=st.text("abcdefgh1234_Z/", min_size=12, max_size=40), data=st.data())
def test_p41_a_secret_whose_bytes_or_characters_are_written_as_numbers_is_removed(
    secret: str, data: st.DataObject
) -> None:
    pairs = [f"{ord(one):02x}" for one in secret]
    spelled = [between.join(pairs) for between in ("", ":", "-", " ", ", ")]
    spelled += ["".join(form.format(one) for one in pairs) for form in ("%{}", "\\x{}", "\\u00{}", "&#x{};")]
    said = data.draw(st.sampled_from(spelled))
    capitals = data.draw(st.lists(st.booleans(), min_size=len(said), max_size=len(said)))
    mixed = "".join(
        one.upper() if capital and one not in "xu" else one
        for one, capital in zip(said, capitals, strict=True)
    )
    assert provider(secret).redactor.message(f"is <{mixed}>") == f"is <{MARK}>"
    decimal = "".join(f"&#{ord(one)};" for one in secret)
    assert provider(secret).redactor.message(f"is <{decimal}>") == f"is <{MARK}>"
    shifted = b32encode(data.draw(st.binary(max_size=9)) + secret.encode() + b"!!!!!!").decode()
    assert b32encode(secret.encode()).decode()[:10] not in provider(secret).redactor.message(shifted)
    assert MARK in provider(secret).redactor.message(shifted)


def test_a_text_that_only_begins_with_an_escaped_character_of_a_secret_stays() -> None:
    for said in ("\\u0061\\u0062\\u0063", "&#97;&#98;", "%61%62%63", "61:62:63"):
        assert provider("a-secret-token").redactor.message(said) == said


def test_an_error_leaves_without_secrets_in_message_hint_facts_and_arguments() -> None:
    redactor = provider("a-secret-token").redactor
    error = UpstreamBroken(
        "no a-secret-token", hint="not a-secret-token", body={"a": ["a-secret-token"], "n": 1}
    )
    with pytest.raises(UpstreamBroken) as caught, redactor.cleaning():
        raise error
    assert "a-secret" not in f"{caught.value!r} {caught.value.describe()} {caught.value.render()}"
    assert caught.value.data == {"body": {"a": [MARK], "n": 1}}
    with pytest.raises(ValueError, match=r"^no \*\*\*$"), redactor.cleaning():
        raise ValueError("no a-secret-token")


def test_secrets_that_a_connector_makes_are_kept_out_and_the_oldest_forgotten() -> None:
    credentials = provider("a-secret-token")
    for number in range(MADE + 1):
        credentials.keep_out("the session", f"session-{number}-abcdef")
    credentials.keep_out("the header", "a-secret-token")
    credentials.keep_out("the header", "short")
    assert credentials.redactor.message("session-1-abcdef a-secret-token short") == f"{MARK} {MARK} short"
    assert credentials.redactor.message("session-0-abcdef") == "session-0-abcdef"
    assert credentials.known_secrets == {Secret("a-secret-token")}


def test_a_short_secret_of_a_connector_is_left_alone() -> None:
    assert provider("abc").redactor.message("abc") == "abc"
    assert isinstance(provider("").redactor, Redactor)
