"""Encoding: any value is decoded to an equal one, and no secret gets through in any encoding."""

from __future__ import annotations

import json
import math
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum, StrEnum
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import Batch, Entity, Field, Json, Page, PageRequest, Ref, Schema
from max.errors import (
    LoaderFault,
    MaxError,
    Offline,
    QuotaExceeded,
    RecordingError,
    UpstreamError,
    UpstreamMissing,
)
from max.model.entities import Scope
from max.model.tagged_json import canonical
from max.upstream.codec import Codec, decode_error
from max.upstream.credentials import Secret
from max.upstream.operations import Operation
from max.upstream.redaction import MARK, SHORTEST, Redactor


class Writer(Entity):
    """A writer."""

    name: Field[str | None] = Field()
    born: Field[datetime] = Field()
    friend: Field[Ref[Writer] | None] = Field()
    more: Field[Json] = Field()


class Stranger(Entity):
    """An entity of another schema."""

    name: Field[str] = Field()


class Colour(Enum):
    """An enum."""

    RED = "red"
    GREEN = 2


class Size(StrEnum):
    """An enum of texts."""

    SMALL = "s"


class Pair(NamedTuple):
    """A named tuple."""

    left: Any
    right: Any = None


@dataclass(frozen=True)
class Asked:
    """A dataclass."""

    of: Any
    cursor: str | None = None
    most: int = 100
    about: Mapping[str, Any] = field(default_factory=dict)


class Outer:
    """A class with a nested class."""

    @dataclass(frozen=True)
    class Inner:
        """The nested class."""

        value: Any


class TokenGone(UpstreamError):
    """A connector's own error."""

    code = "upstream.token_gone"

    def __init__(self, since: str) -> None:
        self.since = since
        super().__init__(f"gone since {since}", hint="list everything", since=since)


async def ask(context: None, input: Any) -> Any:
    """An operation of this module."""


SCHEMA = Schema([Writer])
OPERATION = Operation("test:thing:ask", ask)


def codec(*secrets: str) -> Codec:
    """A codec for the operation that removes these secrets."""
    clean = Redactor(tuple)
    for secret in secrets:
        clean.learn(secret)
    return Codec(OPERATION, SCHEMA, clean)


def again(value: object) -> Any:
    """A value after it was encoded, written, read and decoded."""
    return codec().decode(json.loads(json.dumps(codec().encode(value), ensure_ascii=False)))


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal in value and type, at every depth."""
    if type(left) is not type(right):
        return {type(left), type(right)} == {dict, MappingProxyType} and dict(left) == dict(right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(map(same, left.values(), right.values()))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Asked):
        return all(same(getattr(left, name), getattr(right, name)) for name in ("of", "cursor", "about"))
    if isinstance(left, MaxError):
        return (str(left), left.describe()) == (str(right), right.describe())
    return bool(left == right)


texts = st.text(st.characters(codec=None), max_size=8)  # halves of surrogate pairs, too
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
refs = st.builds(Ref, st.just(Writer), texts, st.sampled_from([Scope(), Scope("inst")]))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    texts,
    st.binary(max_size=8),
    st.datetimes(timezones=st.one_of(zones, st.none())),
    st.dates(),
    st.times(),
    st.decimals(allow_nan=False),
    st.sampled_from([Colour.RED, Colour.GREEN, Size.SMALL, PageRequest("c"), PageRequest(None, "m")]),
    refs,
    st.frozensets(st.integers()),
    st.sets(texts),
)


def containers(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values inside containers."""
    keys = st.one_of(texts, st.sampled_from(["$tuple", "$", "id"]))
    entities = st.builds(Writer, texts, name=inside, more=inside)
    return st.one_of(
        st.lists(inside, max_size=3),
        st.lists(inside, max_size=3).map(tuple),
        st.dictionaries(keys, inside, max_size=3),
        st.dictionaries(st.integers(), inside, max_size=2),
        st.builds(Asked, inside, about=st.dictionaries(texts, inside, max_size=2)),
        st.builds(Pair, inside, inside),
        st.builds(Outer.Inner, inside),
        st.builds(
            Page, st.lists(entities, max_size=2), texts, sync_token=texts, removed=st.lists(refs, max_size=1)
        ),
        st.builds(Batch, st.lists(entities, max_size=2)),
        entities,
    )


VALUES = st.recursive(leaves, containers, max_leaves=12)


class TestValues:
    """Encoded values are decoded to equal ones."""

    @given(VALUES)
    @settings(max_examples=300)
    def test_p45_any_value_is_decoded_to_an_equal_one_of_the_same_type(self, value: Any) -> None:
        assert same(again(value), value)

    @given(VALUES)
    @settings(max_examples=100)
    def test_p45_equal_inputs_have_the_same_text(self, value: Any) -> None:
        asked = canonical(codec().encode_input(value))
        assert canonical(json.loads(asked)) == canonical(codec().encode_input(value)) == asked

    def test_json_data_is_encoded_as_it_is(self) -> None:
        data = {"items": [{"id": 7, "name": "Åsa", "tags": ["a", None, 1.5, True]}], "next": None}
        assert codec().encode(data) == data

    def test_a_batch_keeps_the_error_of_each_ref(self) -> None:
        gone = UpstreamMissing("7 is gone", hint="look for it", id="7")
        batch = again(Batch([Writer("1", name="Ada")], {"7": gone}))
        assert batch.items == [Writer("1", name="Ada")]
        assert same(batch.failed["7"], gone)

    def test_a_field_that_was_not_loaded_stays_not_loaded(self) -> None:
        assert again(Writer("1", name=None)) == Writer("1", name=None) != Writer("1")

    @pytest.mark.parametrize(
        "value",
        [object(), len, type("Local", (), {})(), Stranger("1", name="x"), Ref(Stranger, "1"), iter([]), 1j],
        ids=lambda value: type(value).__name__,
    )
    def test_a_value_that_cannot_be_decoded_is_refused_with_the_operation(self, value: object) -> None:
        with pytest.raises(
            RecordingError, match=r"test:thing:ask: a recording cannot hold (an|the) "
        ) as caught:
            codec().encode({"deep": [value]})
        assert "use JSON data, entities, or dataclasses" in caught.value.hint

    def test_another_class_with_a_known_name_is_refused(self) -> None:
        impostor = type("Asked", (), {})
        with pytest.raises(RecordingError, match="Asked"):
            codec().encode(impostor())

    def test_a_value_that_contains_itself_is_refused(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(RecordingError, match="nested too deep"):
            codec().encode(circle)


class TestInputs:
    """Inputs are encoded so that a later version has equal ones."""

    def test_fields_are_named_and_defaults_are_omitted(self) -> None:
        assert codec().encode_input(Asked("w1")) == {"of": "w1"}
        assert codec().encode_input(Asked("w1", "c", 100)) == {"of": "w1", "cursor": "c"}
        assert codec().encode_input(Pair(1)) == {"left": 1}
        assert codec().encode_input(PageRequest()) == {}

    def test_the_order_of_keys_and_members_does_not_matter(self) -> None:
        left, right = ({"a": 1, "b": {"x", "y"}}, {"b": {"y", "x"}, "a": 1})
        assert canonical(codec().encode_input(left)) == canonical(codec().encode_input(right))


class TestOtherVersions:
    """A recording of one version is read by another."""

    def test_removed_fields_are_ignored(self) -> None:
        value = {"$entity": "Writer", "values": {"id": "1", "name": "Ada", "shoe": 43}}
        assert codec().decode(value) == Writer("1", name="Ada")
        asked = codec().decode({"$data": "Asked", "fields": {"of": 1, "gone": 2}})
        assert asked == Asked(1)

    @pytest.mark.parametrize(
        "data",
        [
            {"$data": "Gone", "fields": {}},
            {"$data": "Asked", "fields": {}},
            {"$entity": "Gone", "values": {"id": "1"}},
            {"$enum": "Colour", "name": "BLUE"},
            {"$future": 1},
            {"$ref": 7},
            {"$enum": 7, "name": "RED"},
            {"$enum": "Asked", "name": "RED"},
            {"$enum": "json.JSONDecoder", "name": "x"},
            {"$enum": "math", "name": "pi"},
            {"$data": "json.JSONDecoder", "fields": {}},
            {"$data": "json.decoder.JSONDecoder", "fields": {}},
            {"$data": "Colour.RED", "fields": {}},
            {"$data": "codec", "fields": {}},
            {"$data": "Asked", "fields": ["of"]},
            {"$entity": "Writer", "values": ["id"]},
            {"$dict": [1]},
            {"$error": 7},
            {"$bytes": {}},
            [[[{"$tuple": 5}]]],
            {"$datetime": "soon"},
            {"$decimal": "much"},
        ],
        ids=str,
    )
    def test_a_removed_class_or_member_and_a_hostile_one_is_named(self, data: Json) -> None:
        with pytest.raises(RecordingError, match=r"test:thing:ask|a recorded error has no class"):
            codec().decode([data])

    def test_a_value_that_is_nested_too_deep_is_refused(self) -> None:
        deep: Json = 1
        for _ in range(5_000):
            deep = [deep]
        with pytest.raises(RecordingError, match="nested too deep"):
            codec().decode(deep)


class TestErrors:
    """A recorded error is raised again."""

    def decoded(self, error: Exception) -> Exception:
        return decode_error(json.loads(json.dumps(codec().encode_error(error))))

    def test_an_error_keeps_its_class_and_data(self) -> None:
        error = self.decoded(TokenGone("Monday"))
        assert isinstance(error, TokenGone)
        assert (error.since, error.describe()) == ("Monday", TokenGone("Monday").describe())
        assert str(error) == "gone since Monday"

    def test_a_wait_becomes_zero(self) -> None:
        error = self.decoded(QuotaExceeded("slow down", retry_after=60.0, status=429))
        assert isinstance(error, QuotaExceeded)
        assert (error.retry_after, error.data) == (0.0, {"status": 429, "retry_after": 60.0})
        assert isinstance(offline := self.decoded(Offline("no network")), Offline)
        assert offline.retry_after is None

    def test_an_error_of_a_removed_class_has_the_most_similar_one(self) -> None:
        data = {"class": "Renamed", "code": "upstream.quota", "message": "m", "hint": "", "data": {}}
        assert type(decode_error(data)) is QuotaExceeded
        assert type(decode_error(data | {"code": "unheard.of"})) is UpstreamError

    def test_only_facts_that_the_class_knows_become_attributes(self) -> None:
        hostile = {
            "since": "Monday",
            "exit_status": 0,
            "retryable": True,
            "retry_after": 9e9,
            "render": "no method",
            "describe": None,
            "__class__": "str",
            "args": [],
            "message": "another",
        }
        error = TokenGone("Monday")
        data = codec().encode_error(error) | {"data": hostile}
        made = decode_error(json.loads(json.dumps(data)))
        assert isinstance(made, TokenGone)
        assert vars(made).keys() == vars(error).keys()
        assert (made.since, made.message, made.exit_status, made.retryable) == (
            "Monday",
            error.message,
            1,
            False,
        )
        assert made.render()
        assert made.describe()["data"] == hostile

    @pytest.mark.parametrize(
        "data",
        [
            None,
            [],
            "x",
            {},
            {"class": "Offline"},
            {"class": 1, "message": "m"},
            {"class": "Offline", "code": 7, "message": "m", "hint": ""},
            {"class": "Offline", "code": "upstream.offline", "message": ["m"], "hint": ""},
            {"class": "Offline", "code": "upstream.offline", "message": "m"},
        ],
    )
    def test_an_error_without_its_parts_is_refused(self, data: Json) -> None:
        with pytest.raises(RecordingError, match="has no class or no message"):
            decode_error(data)

    def test_facts_that_are_none_are_left_out(self) -> None:
        data = {"class": "Offline", "code": "upstream.offline", "message": "m", "hint": "", "data": ["x"]}
        made = decode_error(data)
        assert isinstance(made, Offline)
        assert made.data == {}

    def test_a_python_error_becomes_a_loader_fault(self) -> None:
        error = self.decoded(KeyError("items"))
        assert isinstance(error, LoaderFault)
        assert "KeyError was raised when this was recorded: 'items'" in str(error)


# -- secrets -------------------------------------------------------------------------------------

secrets = st.text(st.characters(min_codepoint=33, codec="utf-8"), min_size=8, max_size=40)
DISGUISES: Mapping[str, Callable[[str], Any]] = {
    "plain": lambda secret: f"Bearer {secret}!",
    "key": lambda secret: {secret: 1},
    "bytes": lambda secret: b"\xff" + secret.encode(),
    "url": lambda secret: f"?token={quote(secret, safe='')}&",
    "form": lambda secret: f"token={quote_plus(secret)}",
    "path": lambda secret: f"/{quote(secret)}/",
    "url in url": lambda secret: quote(f"https://x/?t={quote(secret, safe='')}"),
    "json": lambda secret: json.dumps({"token": secret}),
    "utf-8 json": lambda secret: json.dumps({"token": secret}, ensure_ascii=False),
    "html": lambda secret: f"<b>{escape(secret)}</b>",
    "hex": lambda secret: secret.encode().hex(),
    "repr": lambda secret: f"{[secret]!r} {[secret]!a}",
    "base64": lambda secret: b64encode(secret.encode()).decode(),
    "basic": lambda secret: f"Basic {b64encode(f'ada:{secret}'.encode()).decode()}",
    "basic, user first": lambda secret: f"Basic {b64encode(f'ad:{secret}'.encode()).decode()}",
    "websafe": lambda secret: urlsafe_b64encode(f"{secret}:x".encode()).decode(),
    "error": lambda secret: UpstreamMissing(f"no {secret}", hint=secret, token=secret),
    "bug": lambda secret: ValueError(secret),
    "entity": lambda secret: Writer(secret, name=secret),
    "ref": lambda secret: Ref(Writer, secret),
    "request": lambda secret: PageRequest(cursor=secret),
    "secret": Secret,
}


class TestSecrets:
    """Secrets are removed while encoding."""

    @pytest.mark.parametrize("disguise", DISGUISES)
    @given(secret=secrets)
    @settings(max_examples=15)
    def test_p41_a_secret_is_in_no_byte_in_any_encoding(self, disguise: str, secret: str) -> None:
        value = DISGUISES[disguise](secret)
        for written in (codec(secret).encode([value]), codec(secret).encode_input(value)):
            line = json.dumps(written, ensure_ascii=False)
            assert not any(form in line for form in disguised(secret)), line
            assert MARK in line or disguise == "bytes"

    @given(secret=st.integers(10**SHORTEST, 10**12), around=st.integers(0, 99))
    def test_p41_a_secret_of_digits_is_in_no_number(self, secret: int, around: int) -> None:
        written = codec(str(secret)).encode([int(f"{around}{secret}"), secret, secret / 1000, 5])
        assert str(secret) not in json.dumps(written)
        assert written[1:] == [MARK, secret / 1000 if str(secret) not in repr(secret / 1000) else MARK, 5]

    def test_the_parts_of_a_secret_are_secret_too(self) -> None:
        pem = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nAgEAAoIBAQC7VJTUt9Us\n-----END KEY-----"
        assert "AgEAAoIBAQC7VJTUt9Us" not in str(codec(pem).encode(["x AgEAAoIBAQC7VJTUt9Us x"]))
        blob = json.dumps({"private_key": "correct horse battery", "type": "service"})
        assert codec(blob).encode("the correct horse battery staple") == f"the {MARK} staple"

    @pytest.mark.parametrize("key", ["access_token", "refresh_token", "client_secret"])
    def test_values_under_the_usual_names_of_tokens_are_secret(self, key: str) -> None:
        at = codec()
        assert at.encode({key: "fresh-token", "expires_in": 3600}) == {key: MARK, "expires_in": 3600}
        assert at.encode("fresh-token") == MARK

    def test_a_secret_that_is_learned_later_is_removed_from_then_on(self) -> None:
        known: list[Secret] = []
        clean = Redactor(lambda: known)
        assert clean.text("first second") == "first second"
        known.append(Secret("second"))
        clean.refresh()
        assert clean.text("first second") == f"first {MARK}"

    def test_a_secret_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(RecordingError, match="a secret of 3 characters") as caught:
            codec("abc")
        assert "abc" not in caught.value.render()
        codec("", " \n")  # is none

    def test_a_secret_that_equals_a_word_of_the_file_format_is_refused(self) -> None:
        clean = Redactor(lambda: [Secret("operation")])
        clean.refresh()
        with pytest.raises(RecordingError, match="a secret equals a word of the file format"):
            clean.check('{"operation": "x"}', "test:thing:ask")


def disguised(secret: str) -> list[str]:
    """The encodings that must not be found; of base64 the part that neighbours do not change."""
    raw = secret.encode()
    inner = {b64encode(b"\0" * n + raw).decode()[4:-4] for n in range(3)}
    inner |= {urlsafe_b64encode(b"\0" * n + raw).decode()[4:-4] for n in range(3)}
    return [secret, raw.hex(), quote(secret, safe=""), json.dumps(secret)[1:-1], *inner]


def test_every_kind_of_time_and_number_is_covered() -> None:
    moment = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    for value in (moment, moment.date(), date(1, 1, 1), time_of_day(9, 30), Decimal("1.10"), math.inf):
        assert same(again(value), value)
    assert math.isnan(again(math.nan))
