from __future__ import annotations

import asyncio
import copy
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connector import Answers, Connector, Input, NoConfig, Option, RunCode, SecretInput, Select, Validate
from max.errors import (
    BadCredentials,
    ConnectorError,
    InvalidAnswers,
    LoaderFault,
    MissingExtra,
    UsageError,
    shown,
)
from max.installations.config import ValueType, as_text, config_values, read_config
from max.installations.onboarding import OnboardingResult, check_answers, needs_answers, onboard
from max.installations.secret_sources import read_secret
from max.model.values import Json
from max.upstream.credentials import Credential, CredentialProvider, Secret
from tests.sample import sample


@dataclass(frozen=True)
class Settings:
    url: str
    pages: int = 10
    share: float = 0.5
    archived: bool = False
    since: int | None = None
    teams: Sequence[str] = ()
    labels: Mapping[str, Json] = field(default_factory=dict)


def settings_of(**values: object) -> Settings:
    return read_config(Settings, {"url": "u"} | values, subject="the configuration")


# -- configuration -------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab"),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text("xyz", max_size=3), inside, max_size=3)
    ),
    max_leaves=6,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
lists, entries = st.lists(st.text("ab"), max_size=3), st.dictionaries(st.text("ab"), json_values, max_size=3)

# Each type with values that fit it, and values of JSON's other types that do not.
TYPES: dict[str, tuple[Any, st.SearchStrategy[Any], st.SearchStrategy[Any]]] = {
    "text": (str, st.text(), st.none() | st.integers() | lists),
    "whole": (int, st.integers(), st.none() | st.booleans() | finite | st.just("five") | lists),
    "real": (float, finite, st.none() | st.booleans() | st.sampled_from([math.nan, math.inf, "x"]) | lists),
    "flag": (bool, st.booleans(), st.none() | st.integers() | finite | st.just("maybe")),
    "maybe": (int | None, st.none() | st.integers(), st.booleans() | st.just("x") | lists),
    "many": (list[str], lists, st.none() | st.integers() | entries),
    "deep": (dict[str, Any], entries, st.none() | st.integers() | lists | st.just("{")),
    "any": (Any, json_values, st.just(math.nan) | st.just([math.inf]) | st.just({"a": {1}})),
}
names = st.lists(st.sampled_from(sorted(TYPES)), min_size=1, unique=True)


def made_config(chosen: Sequence[str]) -> type[Any]:
    """A configuration class with these keys, none of which has a default."""
    return dataclasses.make_dataclass("Made", [(name, TYPES[name][0]) for name in chosen], frozen=True)


def depths(value: object) -> Iterator[object]:
    """The value and everything inside of it."""
    yield value
    inside: Sequence[object] = ()
    if isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, list | tuple):
        inside = value
    for one in inside:
        yield from depths(one)


def spoil(value: Any) -> None:
    """Change a list or a dict at every depth."""
    for one in list(depths(value)):
        if isinstance(one, list):
            one.append("changed")
        elif isinstance(one, dict):
            one["changed"] = True


class TestConfiguration:
    """``read_config``: from JSON data or typed text to the connector's frozen class."""

    def test_defaults_apply_where_nothing_is_given(self) -> None:
        assert settings_of() == Settings("u", labels={})

    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [
            ("pages", "7", 7),
            ("pages", "-7", -7),
            ("share", "1e-3", 0.001),
            ("share", "2", 2.0),
            ("archived", "yes", True),
            ("archived", "TRUE", True),
            ("archived", "0", False),
            ("since", "", None),
            ("since", "null", None),
            ("since", "5", 5),
            ("teams", "a, b,,c", ("a", "b", "c")),
            ("teams", "", ()),
            ("teams", '["a,b"]', ("a,b",)),
            ("labels", '{"a": [1]}', {"a": (1,)}),
            ("url", "", ""),
            ("url", "null", "null"),
        ],
    )
    def test_typed_text_is_read_as_the_keys_type(self, key: str, text: str, value: object) -> None:
        assert getattr(settings_of(**{key: text}), key) == value

    def test_every_invalid_key_is_listed_at_once(self) -> None:
        with pytest.raises(InvalidAnswers) as caught:
            read_config(Settings, {"pages": "x", "paegs": 1, "teams": ["a", 7]}, subject="acme")
        assert [one.path for one in caught.value.mismatches] == ["pages", "paegs", "teams[1]", "url"]
        assert "another key (pages)" in str(caught.value)
        assert caught.value.exit_status == 2

    def test_an_unknown_keys_value_may_be_a_secret_and_is_masked(self) -> None:
        with pytest.raises(InvalidAnswers) as caught:
            settings_of(token="hunter2")
        assert "hunter2" not in str(caught.value.describe())

    def test_the_message_of_the_connectors_own_check_is_kept(self) -> None:
        @dataclass(frozen=True)
        class Even:
            number: int = 0

            def __post_init__(self) -> None:
                if self.number % 2:
                    raise ValueError("number must be even")

        with pytest.raises(UsageError, match="acme is invalid: number must be even"):
            read_config(Even, {"number": 3}, subject="acme")

    def test_an_annotation_that_no_value_can_have_is_a_connector_error(self) -> None:
        odd = dataclasses.make_dataclass("Odd", [("path", Path)], frozen=True)
        with pytest.raises(ConnectorError, match=r"Odd.path is annotated .*Path"):
            read_config(odd, {}, subject="odd")

    @pytest.mark.parametrize(
        "value", [(), ("",), ("a", "b"), ("a,b",), ("[a",), (" a",), None, True, 2.5, "x"]
    )
    def test_a_value_as_text_reads_as_the_value(self, value: object) -> None:
        hints: dict[type, object] = {tuple: Sequence[str], bool: bool, float: float, str: str}
        wrong: list[Any] = []
        holds = ValueType.of(hints.get(type(value), int | None), "x")
        assert holds.read(as_text(value), "x", wrong) == value
        assert wrong == []

    @settings(deadline=None, max_examples=60)
    @given(names, st.data())
    def test_p32_nothing_of_a_configuration_can_be_changed(
        self, chosen: list[str], data: st.DataObject
    ) -> None:
        values = {name: data.draw(TYPES[name][1], label=name) for name in chosen}
        before = copy.deepcopy(values)
        config = read_config(made_config(chosen), values, subject="made")
        spoil(values)
        assert config_values(config) == before
        for name in chosen:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(config, name, None)
            for one in depths(getattr(config, name)):
                assert not isinstance(one, list | dict | set)
                if isinstance(one, Mapping | tuple):
                    with pytest.raises((TypeError, AttributeError)):
                        one[next(iter(one), 0)] = "changed"  # type: ignore[index]  # that is the point

    def test_p32_defaults_cannot_be_changed(self) -> None:
        labels = settings_of().labels
        with pytest.raises(TypeError):
            labels["a"] = 1  # type: ignore[index]  # that is the point

    @settings(deadline=None, max_examples=60)
    @given(names, st.data())
    def test_a_configuration_survives_json(self, chosen: list[str], data: st.DataObject) -> None:
        made = made_config(chosen)
        config = read_config(made, {n: data.draw(TYPES[n][1]) for n in chosen}, subject="made")
        assert read_config(made, config_values(config), subject="made") == config

    @settings(deadline=None, max_examples=100)
    @given(names, st.data())
    def test_p12_each_failing_key_has_path_expected_and_actual(
        self, chosen: list[str], data: st.DataObject
    ) -> None:
        bad = set(data.draw(st.lists(st.sampled_from(chosen), unique=True, min_size=1)))
        absent = set(data.draw(st.lists(st.sampled_from(sorted(bad)), unique=True)))
        values = {n: data.draw(TYPES[n][2 if n in bad else 1], label=n) for n in chosen if n not in absent}
        with pytest.raises(InvalidAnswers) as caught:
            read_config(made_config(chosen), values, subject="made")
        wrong = {one.path.partition(".")[0].partition("[")[0]: one for one in caught.value.mismatches}
        assert set(wrong) == bad
        for name, one in wrong.items():
            assert one.expected
            if one.path == name:
                assert one.actual == (shown(values[name]) if name in values else "nothing")

    @settings(deadline=None, max_examples=40)
    @given(st.text("secret0123", min_size=8), st.booleans())
    def test_p12_a_secrets_actual_is_masked(self, secret: str, known: bool) -> None:
        connector = sample(credentials=[Credential("key")])
        secrets = {"key": ""} if known else {"token": secret}
        with pytest.raises(InvalidAnswers) as caught:
            asyncio.run(onboard(connector, None, {"toke": secret}, secrets))
        assert [one.actual for one in caught.value.mismatches] == ["***", "***"]
        assert secret not in str(caught.value.describe()) + caught.value.render()


# -- onboarding ----------------------------------------------------------------------------------

TOKEN = Credential("token")


@dataclass(frozen=True)
class Account:
    url: str = ""
    workspace: str | None = None
    teams: Sequence[str] = ()


@dataclass(frozen=True)
class Needy:
    url: str
    pages: int


class Scripted:
    """A prompter with prepared answers, which records what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.said: list[str] = []

    def _next(self, prompt: str) -> Any:
        self.asked.append(prompt)
        if not self.answers:
            raise KeyboardInterrupt
        return self.answers.pop(0)

    async def text(self, prompt: str, default: str | None) -> str:
        """The next answer; the default for None."""
        answer = self._next(prompt)
        return str((default or "") if answer is None else answer)

    async def secret(self, prompt: str) -> str:
        """The next answer."""
        return str(self._next(prompt))

    async def choose(self, prompt: str, options: Sequence[Option], several: bool) -> Sequence[str]:
        """The next answer, which names the options shown."""
        self.said.append(", ".join(label for _, label in options))
        return list(self._next(prompt))

    async def confirm(self, prompt: str) -> bool:
        """The next answer."""
        return bool(self._next(prompt))

    def say(self, line: str) -> None:
        """Note it."""
        self.said.append(line)


async def check_token(answers: Answers, credentials: CredentialProvider) -> str:
    if (await credentials.get(TOKEN)).reveal() != "right":
        raise BadCredentials("the token is wrong")
    return f"connected to {answers['url']}"


async def workspaces(answers: Answers, credentials: CredentialProvider) -> Sequence[Option]:
    await credentials.get(TOKEN)
    return [("w1", "First"), ("w2", "Second")]


def remote(answers: Answers) -> bool:
    return bool(answers["url"])


def account(*steps: Any, **changes: Any) -> Connector[Any, Any]:
    """A connector that needs a network, and a token, only when it has an url."""
    return sample(config=Account, credentials=[TOKEN], onboarding=steps, **changes)


FULL = (
    Input("url", "Address"),
    SecretInput(TOKEN, "Token", when=remote),
    Validate(check_token, when=remote),
    Select("workspace", "Workspace", workspaces, when=remote),
    Select("teams", "Teams", workspaces, several=True, when=remote),
)


def run(
    connector: Connector[Any, Any],
    prompter: Scripted | None,
    secrets: Mapping[str, str] | None = None,
    **given: object,
) -> OnboardingResult:
    return asyncio.run(onboard(connector, prompter, given, secrets or {}))


class TestWithPrompter:
    """Onboarding with a prompter."""

    def test_the_steps_run_in_order(self) -> None:
        prompter = Scripted("http://x", "right", ["w2"], ["w1", "w2"])
        done = run(account(*FULL), prompter)
        assert done.config == {"url": "http://x", "workspace": "w2", "teams": ["w1", "w2"]}
        assert done.secrets == {"token": "right"}
        assert prompter.asked == ["Address", "Token", "Workspace", "Teams"]
        assert prompter.said[0] == "connected to http://x"

    def test_steps_whose_condition_fails_are_left_out(self) -> None:
        prompter = Scripted(None)
        assert run(account(*FULL), prompter).config == {"url": "", "workspace": None, "teams": []}
        assert prompter.asked == ["Address"]

    def test_what_is_given_is_not_asked(self) -> None:
        prompter = Scripted(["w1"])
        done = run(account(*FULL), prompter, {"token": "right"}, url="u", teams="w1,w2")
        assert prompter.asked == ["Workspace"]
        assert done.config["teams"] == ["w1", "w2"]

    def test_an_invalid_answer_is_asked_again(self) -> None:
        prompter = Scripted("u", "many", "", "3")
        assert run(sample(config=Needy), prompter).config == {"url": "u", "pages": 3}
        assert prompter.said == [
            "pages: expected a whole number, got 'many'",
            "pages: expected a whole number, got ''",
        ]

    def test_a_required_secret_is_asked_until_it_is_given_and_an_optional_one_once(self) -> None:
        spare = Credential("spare", required=False)
        steps = [SecretInput(TOKEN, "Token"), SecretInput(spare, "Spare")]
        connector = sample(credentials=[TOKEN, spare], onboarding=steps)
        prompter = Scripted("", "x", "")
        assert run(connector, prompter).secrets == {"token": "x"}
        assert prompter.said == ["token is needed"]

    def test_after_a_failed_validation_its_questions_are_asked_again_straight_away(self) -> None:
        prompter = Scripted("u", "wrong", None, "right", ["w1"], [])
        assert run(account(*FULL), prompter).secrets == {"token": "right"}
        assert prompter.asked[:4] == ["Address", "Token", "Address", "Token (empty: as before)"]
        assert "the token is wrong" in prompter.said[0]

    def test_a_given_secret_that_fails_can_be_replaced(self) -> None:
        prompter = Scripted(None, "right", ["w1"], [])
        assert run(account(*FULL), prompter, {"token": "wrong"}, url="u").secrets == {"token": "right"}

    def test_a_failed_validation_that_no_answer_can_change_raises(self) -> None:
        async def check(answers: Answers, credentials: CredentialProvider) -> str:
            tries.append(1)
            assert len(tries) == 1, "nothing was asked that could change it"
            raise BadCredentials("the door is shut")

        tries: list[int] = []

        async def without_library(answers: Answers, credentials: CredentialProvider) -> str:
            raise MissingExtra("http", "httpx2", "this")

        with pytest.raises(BadCredentials, match="the door is shut"):
            run(sample(onboarding=[Validate(check)]), Scripted())
        prompter = Scripted("u", "u")
        with pytest.raises(MissingExtra):
            run(
                sample(config=Account, onboarding=[Input("url", "Address"), Validate(without_library)]),
                prompter,
            )
        assert prompter.asked == ["Address"]

    def test_an_interruption_ends_the_questions_that_are_asked_again(self) -> None:
        prompter = Scripted("u", "wrong")
        with pytest.raises(KeyboardInterrupt):
            run(account(*FULL), prompter)
        assert prompter.asked == ["Address", "Token", "Address"]

    def test_what_this_machine_lacks_is_known_before_the_first_question(self) -> None:
        def require_git() -> None:
            raise UsageError("git is not installed")

        prompter = Scripted("u")
        with pytest.raises(UsageError, match="git is not installed"):
            run(account(*FULL, requires=[require_git]), prompter)
        assert prompter.asked == []

    def test_an_interruption_is_raised(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(account(*FULL), Scripted("u"))

    def test_a_choice_without_options_is_an_error(self) -> None:
        async def none(answers: Answers, credentials: CredentialProvider) -> Sequence[Option]:
            return []

        with pytest.raises(UsageError, match="nothing to choose for 'workspace'"):
            run(account(Select("workspace", "Workspace", none)), Scripted("x"), {"token": "x"})

    def test_the_connectors_own_code_returns_values_and_secrets(self) -> None:
        async def sign_in(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
            return {"token": Secret("right"), "workspace": "w9", "device": 7}

        async def check(answers: Answers, credentials: CredentialProvider) -> str:
            return f"{answers['device']} {(await credentials.get(TOKEN)).reveal()}"

        prompter = Scripted()
        done = run(account(RunCode(sign_in), Validate(check)), prompter)
        assert (done.config["workspace"], done.secrets) == ("w9", {"token": "right"})
        assert prompter.said == ["7 right"]
        assert "right" not in repr(done)


class TestWithoutPrompter:
    """Onboarding without a prompter."""

    def test_the_defaults_apply(self) -> None:
        assert run(account(*FULL), None).config == {"url": "", "workspace": None, "teams": []}

    def test_everything_missing_is_listed_with_the_option_that_gives_it(self) -> None:
        with pytest.raises(InvalidAnswers) as caught:
            run(sample(config=Needy, credentials=[TOKEN]), None)
        assert [one.path for one in caught.value.mismatches] == ["url", "pages", "token"]
        assert "--set url=" in str(caught.value)
        assert "--credential token=env:" in str(caught.value)

    def test_a_secret_is_required_when_its_condition_holds(self) -> None:
        with pytest.raises(InvalidAnswers, match="token: expected a secret"):
            run(account(*FULL), None, url="u")

    def test_validations_still_run(self) -> None:
        with pytest.raises(BadCredentials, match="the token is wrong"):
            run(account(*FULL), None, {"token": "wrong"}, url="u")

    def test_a_given_choice_must_be_among_the_options(self) -> None:
        with pytest.raises(InvalidAnswers, match="teams: expected some of w1, w2, got list"):
            run(account(*FULL), None, {"token": "right"}, url="u", workspace="w1", teams="w1,w7")

    def test_a_missing_choice_is_listed_with_its_options(self) -> None:
        connector = sample(config=Needy, onboarding=[Select("url", "Which", options_of("a", "b"))])
        with pytest.raises(InvalidAnswers, match=r"url: expected one of a, b \(--set url="):
            run(connector, None, pages=1)

    def test_options_are_not_fetched_while_something_is_missing(self) -> None:
        steps = [SecretInput(TOKEN, "Token"), Select("url", "Which", workspaces), Input("pages", "Pages")]
        with pytest.raises(InvalidAnswers) as caught:
            run(sample(config=Needy, credentials=[TOKEN], onboarding=steps), None, pages=1)
        assert [one.path for one in caught.value.mismatches] == ["token", "url"]

    def test_what_the_connectors_own_code_does_not_return_is_missing(self) -> None:
        async def nothing(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
            return {}

        connector = sample(config=Needy, credentials=[TOKEN], onboarding=[RunCode(nothing)])
        assert needs_answers(connector)
        with pytest.raises(InvalidAnswers) as caught:
            run(connector, None, pages=1)
        assert [one.path for one in caught.value.mismatches] == ["url", "token"]

    def test_a_secret_that_depends_on_what_code_returns_is_not_required_before_it_runs(
        self,
    ) -> None:
        async def choose(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
            return {"with_token": True}

        def condition(answers: Answers) -> bool:
            return bool(answers["with_token"])

        steps = [RunCode(choose), SecretInput(TOKEN, "Token", when=condition)]
        connector = sample(credentials=[TOKEN], onboarding=steps)
        assert needs_answers(connector)
        assert check_answers(connector, {}, {"token": "right"}).secrets == {"token": "right"}
        assert check_answers(connector, {}, {}).secrets == {}

    @pytest.mark.parametrize("secret", ["", "half \ud800"])
    def test_a_secret_that_is_no_text_is_refused(self, secret: str) -> None:
        connector = sample(credentials=[TOKEN], onboarding=[SecretInput(TOKEN, "Token")])
        with pytest.raises(InvalidAnswers) as caught:
            check_answers(connector, {}, {"token": secret})
        assert [one.path for one in caught.value.mismatches] == ["token"]

    def test_what_the_connectors_own_code_returns_is_checked(self) -> None:
        async def nonsense(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
            return {"pages": "many"}

        with pytest.raises(InvalidAnswers, match="the answers of sample's own code are invalid"):
            run(sample(config=Needy, onboarding=[RunCode(nonsense)]), None, url="u")

    @pytest.mark.parametrize("step", [RunCode, Validate, partial(Select, "workspace", "Workspace")])
    def test_a_bug_in_a_step_names_the_line(self, step: Callable[[Any], Any]) -> None:
        async def broken(answers: Answers, credentials: CredentialProvider) -> Any:
            return answers["colour"]

        message = r"sample: onboarding\[0\] \w+ raised KeyError: 'colour' \(test_onboarding.py, line \d+\)"
        with pytest.raises(LoaderFault, match=message):
            run(account(step(broken)), Scripted(), {"token": "x"})

    @pytest.mark.parametrize(
        ("step", "value", "expected"),
        [
            (RunCode, None, "a mapping from names to answers, got null"),
            (RunCode, {1: "x"}, "a mapping from names to answers, got dict"),
            (Validate, None, "a line to show, got null"),
            (partial(Select, "workspace", "Workspace"), ["a"], "a list of pairs .*, got 'a'"),
            (partial(Select, "workspace", "Workspace"), None, "a list of pairs .*, got null"),
            (partial(Select, "workspace", "Workspace"), [("a", 1)], "a list of pairs .*, got tuple"),
        ],
    )
    def test_a_step_that_returns_something_else_is_named(
        self, step: Callable[[Any], Any], value: object, expected: str
    ) -> None:
        async def returns(answers: Answers, credentials: CredentialProvider) -> Any:
            return value

        message = rf"sample: onboarding\[0\] \w+ must return {expected}.*\(test_onboarding.py, line \d+\)"
        with pytest.raises(LoaderFault, match=message):
            run(account(step(returns)), Scripted(), {"token": "x"})

    def test_a_condition_and_a_requirement_that_fail_are_named(self) -> None:
        def broken(*_: object) -> bool:
            raise ZeroDivisionError("by zero")

        steps = [Input("url", "Address", when=broken)]
        with pytest.raises(LoaderFault, match=r"sample: onboarding\[0\] Input.when raised ZeroDivisionError"):
            run(sample(config=Needy, onboarding=steps), None)
        with pytest.raises(LoaderFault, match=r"sample: requires\[0\] raised ZeroDivisionError: by zero \("):
            run(sample(requires=[broken]), None)

    def test_a_condition_on_a_missing_answer_does_not_hide_what_is_missing(self) -> None:
        steps = [Input("url", "Address"), Input("pages", "Pages", when=remote)]
        with pytest.raises(InvalidAnswers) as caught:
            run(sample(config=Needy, onboarding=steps), None)
        assert [one.path for one in caught.value.mismatches] == ["url", "pages"]

    def test_a_condition_on_an_answer_that_nothing_sets_is_a_connector_error(self) -> None:
        connector = account(Input("url", "Address", when=lambda answers: answers["colour"]))
        with pytest.raises(ConnectorError, match="reads 'colour'"):
            run(connector, None, {"token": "x"})


def options_of(*values: str) -> Any:
    async def options(answers: Answers, credentials: CredentialProvider) -> Sequence[Option]:
        return [(value, value.upper()) for value in values]

    return options


class TestNeedsAnswers:
    """``needs_answers``: whether connecting takes more than the defaults."""

    @pytest.mark.parametrize(
        ("connector", "needs"),
        [
            (sample(config=NoConfig), False),
            (sample(), False),
            (sample(config=Needy), True),
            (account(), True),
            (account(*FULL), False),
            (account(SecretInput(TOKEN, "Token")), True),
            (sample(credentials=[Credential("spare", required=False)]), False),
        ],
    )
    def test_a_required_value_or_secret_needs_an_answer(
        self, connector: Connector[Any, Any], needs: bool
    ) -> None:
        assert needs_answers(connector) is needs


class TestSecretsFromOutside:
    """``read_secret``: the sources of ``--credential name=…``."""

    def test_a_variable_a_file_and_standard_input(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SAMPLE_TOKEN", "from env")
        (tmp_path / "token").write_text("from file\n")
        assert read_secret("env:SAMPLE_TOKEN", io.StringIO()) == "from env"
        assert read_secret(f"file:{tmp_path / 'token'}", io.StringIO()) == "from file"
        assert read_secret("-", io.StringIO(" two\nlines \r\n")) == " two\nlines "

    @pytest.mark.parametrize("spec", ["hunter2", "hunter:2", "env:", "file:", ""])
    def test_a_secret_on_the_command_line_is_refused_and_not_repeated(self, spec: str) -> None:
        with pytest.raises(UsageError, match="env:VARIABLE") as caught:
            read_secret(spec, io.StringIO())
        assert "hunter" not in caught.value.render()

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("env:NO_SUCH_VARIABLE", "variable NO_SUCH_VARIABLE is not set"),
            ("file:{folder}/none", "none cannot be read: No such file"),
            ("file:/dev/zero", "zero is longer than 1,000,000"),
            ("-", "standard input is empty"),
        ],
    )
    def test_a_source_without_a_secret_is_named(self, spec: str, words: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=words):
            read_secret(spec.format(folder=tmp_path), io.StringIO("\n"))

    @pytest.mark.parametrize("source", ["file", "env", "-"])
    def test_bytes_that_are_no_text_are_refused_and_not_repeated(
        self, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(UsageError, match="it is not UTF-8 text") as caught:
            self.read(source, b"hunter\xff", tmp_path, monkeypatch)
        assert "hunter" not in caught.value.render()

    @pytest.mark.parametrize("source", ["file", "env", "-"])
    def test_the_mark_with_which_editors_begin_a_file_is_no_part_of_the_secret(
        self, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.read(source, b"\xef\xbb\xbfs\xc3\xa9cret\r\n", tmp_path, monkeypatch) == "sécret"
        with pytest.raises(UsageError, match="is empty"):
            self.read(source, b"\xef\xbb\xbf\n", tmp_path, monkeypatch)

    @staticmethod
    def read(source: str, data: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """The secret that a source with these bytes gives."""
        monkeypatch.setenv("SAMPLE_TOKEN", os.fsdecode(data))
        (folder / "token").write_bytes(data)
        spec = {"file": f"file:{folder / 'token'}", "env": "env:SAMPLE_TOKEN", "-": "-"}[source]
        stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        return read_secret(spec, stdin)


@pytest.mark.parametrize("address", ["not a url", "https://", "ftp://a.example", "https://u:p@a.example"])
def test_a_configured_address_that_names_no_host_is_refused_when_it_is_given(address: str) -> None:
    with pytest.raises(InvalidAnswers, match="url: expected an http"):
        run(sample(config=Needy, hosts=["{url}"]), None, url=address, pages=1)
