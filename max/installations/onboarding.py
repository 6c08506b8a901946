"""Onboarding: from what a person or a program answers to what is stored of an installation.

Rule 1: onboarding stores nothing.  It returns what to store, so that one which fails or is
interrupted leaves nothing behind.

Rule 2: a secret that is kept goes only to the origin that it was given for.  When the answers lead
to another one, it is dropped before anything is sent, and has to be given again.

Rule 3: without a prompter nothing is asked.  The defaults apply, everything that is missing is
listed together with the option that gives it, and the connector's validations still run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from ..connector import (
    Answers,
    AnyConnector,
    Input,
    OnboardingStep,
    Option,
    RunCode,
    SecretInput,
    Select,
    SignIn,
    Validate,
)
from ..errors import ConnectorError, InvalidAnswers, LoaderFault, MaxError, Mismatch, MissingExtra, UsageError
from ..model.values import Json, is_text
from ..upstream.connector_code import connector_code, fault_of, returned, wrong_return
from ..upstream.credentials import CredentialProvider, MemoryCredentials, Secret
from ..upstream.hosts import PLACEHOLDER, names_host, read_address
from .config import as_text, config_defaults, config_types, config_values, plain, read_config, read_values
from .credential_file import StoredSecrets

SHOWN_OPTIONS = 10  # how many options an error lists
ADDRESS = "an http(s) address or a host, such as https://api.example.com"


class Prompter(Protocol):
    """Asks a person.  An interruption is raised as an exception, and ends the onboarding."""

    async def text(self, prompt: str, default: str | None) -> str:
        """One line; the default when nothing was typed, "" when there is none."""

    async def secret(self, prompt: str) -> str:
        """One line that is not shown while it is typed; "" when nothing was typed."""

    async def choose(self, prompt: str, options: Sequence[Option], several: bool) -> Sequence[str]:
        """The values of the options chosen: one, or any number when ``several``."""

    async def confirm(self, prompt: str) -> bool:
        """Yes or no."""

    def say(self, line: str) -> None:
        """Show a line."""


@dataclass(frozen=True)
class OnboardingResult:
    """What to store of an installation: plain configuration values, and secrets by credential.

    ``messages`` are the lines that validations returned when there was no prompter to show them.
    ``destination`` is the origin, or several, to which the configuration sends the secrets.
    """

    config: dict[str, Json]
    secrets: dict[str, str] = field(repr=False)
    messages: tuple[str, ...] = ()
    destination: str | None = None


def destination_of(connector: AnyConnector, config: Mapping[str, object]) -> str:
    """The origins that a configuration names: where it sends secrets besides the connector's own hosts."""
    keys = {filled[1] for pattern in connector.hosts if (filled := PLACEHOLDER.fullmatch(pattern))}
    found: set[str] = set()
    for key, value in config.items():
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and text and (key in keys or "://" in text):
                try:
                    found.add(str(read_address(text)[0]))
                except ValueError:
                    found.add(text.lower())
    return ", ".join(sorted(found))


async def onboard(
    connector: AnyConnector,
    prompter: Prompter | None,
    given: Mapping[str, object],
    secrets: Mapping[str, str],
    *,
    kept: StoredSecrets | None = None,
) -> OnboardingResult:
    """Run a connector's onboarding; what is given is not asked, nor what is ``kept`` of before.

    InvalidAnswers when something given is invalid, or something is missing without a prompter.
    The error of a requirement, or of a validation that fails; with a prompter the questions before a
    validation that failed are asked again.
    """
    for number, requirement in enumerate(connector.requires):
        with connector_code(connector.name, f"requires[{number}]"):
            requirement()
    run = _Onboarding(connector, prompter, given, secrets, kept)
    await run.walk()
    return run.result()


def check_answers(
    connector: AnyConnector,
    config: Mapping[str, object],
    secrets: Mapping[str, str],
    *,
    kept: StoredSecrets | None = None,
) -> OnboardingResult:
    """What to store for these values; asks neither a person nor the service.

    InvalidAnswers names every value and secret that is invalid, unknown or missing.
    """
    run = _Onboarding(connector, None, config, secrets, kept)
    run.require_secrets()
    return run.result()


def revised(
    connector: AnyConnector,
    former: Mapping[str, Json],
    stored: StoredSecrets,
    config: Mapping[str, object],
    secrets: Mapping[str, str],
) -> OnboardingResult:
    """``check_answers`` for an installation of which some values and secrets change; the others stay."""
    return check_answers(connector, {**former, **config}, secrets, kept=bound(connector, former, stored))


def bound(connector: AnyConnector, config: Mapping[str, Json], stored: StoredSecrets) -> StoredSecrets:
    """Stored secrets with their origin, which is that of the configuration when none was noted."""
    if stored.destination not in (None, destination_of(connector, config)):
        return stored
    complete = config_defaults(connector.config) | dict(config)  # what a newer connector added, too
    return StoredSecrets(stored.secrets, destination_of(connector, complete))


def needs_answers(connector: AnyConnector) -> bool:
    """Whether connecting takes more than the defaults; it may when a step runs code or signs in."""
    if any(isinstance(step, RunCode | SignIn) for step in connector.onboarding):
        return True
    try:
        check_answers(connector, {}, {})
    except UsageError:
        return True
    return False


def steps_of(connector: AnyConnector) -> list[OnboardingStep]:
    """The connector's steps, after one for each required value or secret that has none.

    No step is added when one runs the connector's own code, which may get such things itself.
    """
    steps = connector.onboarding
    if any(isinstance(step, RunCode | SignIn) for step in steps):
        return list(steps)
    keys = {step.key for step in steps if isinstance(step, Input | Select)}
    secrets = {step.credential.name for step in steps if isinstance(step, SecretInput)}
    defaults = config_defaults(connector.config)
    inputs = [Input(key, key) for key in config_types(connector.config) if key not in {*defaults, *keys}]
    missing = [one for one in connector.credentials if one.required and one.name not in secrets]
    return [*inputs, *(SecretInput(one, one.description or one.name) for one in missing), *steps]


def _condition_holds(step: OnboardingStep, answers: Answers) -> bool:
    return step.when is None or step.when(MappingProxyType(dict(answers)))


def _code_of(step: OnboardingStep) -> object:
    return getattr(step, "run", None) or getattr(step, "options", None)


class _Onboarding:
    """One walk through a connector's steps."""

    def __init__(
        self,
        connector: AnyConnector,
        prompter: Prompter | None,
        given: Mapping[str, object],
        secrets: Mapping[str, str],
        kept: StoredSecrets | None = None,
    ) -> None:
        self._connector, self._prompter = connector, prompter
        self._steps, self._types = steps_of(connector), config_types(connector.config)
        wrong: list[Mismatch] = []
        answers = read_values(self._types, given, wrong)
        wrong += self._wrong_secrets(secrets)
        if wrong:
            raise self._invalid(wrong)
        self._answers = config_defaults(connector.config) | answers
        kept = StoredSecrets({}) if kept is None else kept
        declared = {one.name for one in connector.credentials}
        known = {n: s for n, s in kept.secrets.items() if n in declared and s}
        self._undeclared = {n: s for n, s in kept.secrets.items() if n not in known}
        self._kept, self._kept_for = known.keys() - secrets.keys(), kept.destination
        self._store = MemoryCredentials(known | dict(secrets))  # a validation may renew a secret
        self._secrets = self._store.secrets
        self._given = {*given, *known, *secrets}  # not to be asked
        self._missing: list[Mismatch] = []
        self._messages: list[str] = []

    def _say(self, line: str) -> None:
        self._messages.append(line) if self._prompter is None else self._prompter.say(line)

    def _drop_kept(self) -> None:
        """Drop the kept secrets when the answers lead to another origin than theirs."""
        destination = destination_of(self._connector, self._answers)
        if self._kept_for not in (None, destination):
            for name in sorted(self._kept):
                self._secrets.pop(name, None)
                former, now = self._kept_for or "no address", destination or "no address"
                self._say(f"{name} was given for {former}, and is not kept for {now}")
            self._given -= self._kept
            self._kept, self._kept_for, self._undeclared = set(), None, {}

    def _wrong_secrets(self, secrets: Mapping[str, str]) -> list[Mismatch]:
        known = {one.name for one in self._connector.credentials}
        unknown = f"another credential ({', '.join(sorted(known)) or 'it needs none'})"
        valid = "a secret of UTF-8 text, not empty"
        expected = {name: valid for name, secret in secrets.items() if not secret or not is_text(secret)}
        expected |= {name: unknown for name in secrets if name not in known}
        return [Mismatch(name, words, secrets[name], secret=True) for name, words in expected.items()]

    def _hint(self) -> str:
        keys = f"--set key=value (keys: {', '.join(self._types)})" if self._types else ""
        names = ", ".join(one.name for one in self._connector.credentials)
        secrets = f"--credential name=env:VAR, file:PATH or - (names: {names})" if names else ""
        return "give " + " and ".join(filter(None, [keys, secrets])) if keys or secrets else ""

    def _invalid(self, wrong: Sequence[Mismatch]) -> InvalidAnswers:
        return InvalidAnswers(f"the answers for {self._connector.name} are invalid", wrong, hint=self._hint())

    async def walk(self) -> None:
        """Run every step whose condition holds."""
        self._drop_kept()
        since = 0  # the first step whose answers no validation has seen yet
        for position, step in enumerate(self._steps):
            if isinstance(step, Validate):
                await self._validate(step, self._steps[since:position])
                since = position + 1
            else:
                await self._run(step)

    def require_secrets(self) -> None:
        """Note which values and secrets are missing, without running a step.

        A condition may read what a step would have answered; its secret is then not required.
        """
        self._drop_kept()
        self._require_values()
        for step in self._steps:
            with suppress(KeyError):
                if isinstance(step, SecretInput) and self._holds(step):
                    self._require_secret(step)

    def _require_values(self) -> None:
        for key, type in self._types.items():
            if key not in self._answers and key not in {one.path for one in self._missing}:
                self._miss(key, type.expected)

    def _require_secret(self, step: SecretInput) -> None:
        if step.credential.required and step.credential.name not in self._secrets:
            self._miss_secret(step.credential.name)

    def result(self) -> OnboardingResult:
        """What to store; InvalidAnswers when something is missing."""
        self._drop_kept()
        steps = {step.credential.name for step in self._steps if isinstance(step, SecretInput)}
        self._require_values()
        for one in self._connector.credentials:
            if one.required and one.name not in self._secrets and one.name not in steps:
                self._miss_secret(one.name)
        if self._missing:
            raise InvalidAnswers(
                f"connecting {self._connector.name} needs answers", self._missing, hint=self._hint()
            )
        values = {key: value for key, value in self._answers.items() if key in self._types}
        config = read_config(
            self._connector.config, values, subject=f"the configuration of {self._connector.name}"
        )
        stored = config_values(config)
        self._check_addresses(stored)
        secrets, destination = self._undeclared | self._secrets, destination_of(self._connector, stored)
        return OnboardingResult(stored, secrets, tuple(self._messages), destination)

    def _check_addresses(self, values: Mapping[str, Json]) -> None:
        """InvalidAnswers when a value that names a host names none."""
        keys = [filled[1] for pattern in self._connector.hosts if (filled := PLACEHOLDER.fullmatch(pattern))]
        given = {key: value for key in keys if isinstance(value := values.get(key), str) and value}
        wrong = [Mismatch(key, ADDRESS, value) for key, value in given.items() if not names_host(value)]
        if wrong:
            raise self._invalid(wrong)

    def _miss(self, key: str, expected: str) -> None:
        self._missing.append(Mismatch.missing(key, f"{expected} (--set {key}=…)"))

    def _miss_secret(self, name: str) -> None:
        self._missing.append(Mismatch.missing(name, f"a secret (--credential {name}=env:VAR)"))

    @property
    def _view(self) -> Answers:
        return MappingProxyType(dict(self._answers))

    @contextmanager
    def _credentials(self, step: OnboardingStep) -> Iterator[CredentialProvider]:
        """What a step's own code gets; its errors say whose they are, and leave without secrets."""
        self._drop_kept()
        hosts = self._connector.hosts_for(self._answers)
        provider = CredentialProvider(self._store, self._connector.credentials, hosts)
        with provider.redactor.cleaning(), connector_code(self._connector.name, self._place(step)):
            yield provider

    def _place(self, step: OnboardingStep) -> str:
        """A step as errors name it: ``onboarding[2] Validate``."""
        return f"onboarding[{self._connector.onboarding.index(step)}] {type(step).__name__}"

    def _answers_of(self, step: OnboardingStep, value: object) -> Mapping[str, Any]:
        """What a step's code returned; LoaderFault unless it is a mapping by text."""
        name, place, expected = self._connector.name, self._place(step), "a mapping from names to answers"
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise wrong_return(name, place, expected, value, _code_of(step))
        return value

    def _options_of(self, step: Select, value: object) -> list[Option]:
        """What a step's code returned; LoaderFault unless it is a list of pairs of texts."""
        name, place, expected = self._connector.name, self._place(step), "a list of pairs (value, label)"
        if not isinstance(value, Sequence):
            raise wrong_return(name, place, expected, value, _code_of(step))
        for pair in value:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(is_text, pair)):
                raise wrong_return(name, place, expected, pair, step.options)
        return [(one, label) for one, label in value]

    def _applies(self, step: OnboardingStep) -> bool:
        """Whether to run a step; a condition may fail on answers that are missing."""
        try:
            return self._holds(step)
        except KeyError as error:
            if self._missing:
                return False
            raise ConnectorError(
                f"{self._connector.name}: a condition of its onboarding reads {error}, which nothing has set"
            ) from error

    def _holds(self, step: OnboardingStep) -> bool:
        """Whether a step's condition holds; KeyError when it reads an answer that is not there."""
        try:
            return _condition_holds(step, self._answers)
        except Exception as error:
            if isinstance(error, KeyError | MaxError):
                raise
            raise fault_of(self._connector.name, f"{self._place(step)}.when", error) from error

    async def _run(self, step: OnboardingStep) -> None:
        self._drop_kept()
        if not self._applies(step):
            return
        match step:
            case Input() if step.key not in self._given:
                await self._input(step)
            case SecretInput() if step.credential.name not in self._given:
                await self._secret(step)
            case Select():
                await self._select(step)
            case RunCode() if not self._missing:
                with self._credentials(step) as credentials:
                    answers = self._answers_of(step, await step.run(self._view, credentials))
                self._accept(answers)
            case SignIn() if not self._missing:
                await self._sign_in(step)

    async def _input(self, step: Input) -> None:
        """Ask until the answer is valid; the default leaves it as it is."""
        known, prompter = step.key in self._answers, self._prompter
        if prompter is None:
            if not known:
                self._miss(step.key, self._types[step.key].expected)
            return
        default = as_text(self._answers[step.key]) if known else None
        while (text := await prompter.text(step.prompt, default)) != default:
            wrong: list[Mismatch] = []
            value = self._types[step.key].read(text, step.key, wrong)
            if not wrong and (text or value is None):
                self._answers[step.key] = value
                return
            prompter.say(str(wrong[0]) if wrong else f"{step.key} is needed")

    async def _secret(self, step: SecretInput) -> None:
        name, prompter = step.credential.name, self._prompter
        if prompter is None:
            return self._require_secret(step)
        known = name in self._secrets
        prompt = f"{step.prompt} (empty: as before)" if known else step.prompt
        while not (text := await prompter.secret(prompt)) and step.credential.required and not known:
            prompter.say(f"{name} is needed")
        if text:
            self._secrets[name] = text
            self._kept.discard(name)
        return None

    async def _sign_in(self, step: SignIn) -> None:
        names, prompter = {one.name for one in step.credentials}, self._prompter
        if prompter is None and not self._secrets:
            self._miss_secret(self._connector.credentials[0].name)
        if prompter is None or names & self._given:
            return
        if not names & self._secrets.keys() or await prompter.confirm("Sign in again?"):
            with self._credentials(step) as credentials:
                answers = self._answers_of(step, await step.run(self._view, credentials, prompter.say))
            self._accept(answers)

    async def _select(self, step: Select) -> None:
        given, known, prompter = step.key in self._given, step.key in self._answers, self._prompter
        if known and not given and prompter is None:
            return
        if self._missing:  # the service cannot be asked yet
            if not known:
                self._miss(step.key, self._types[step.key].expected)
            return
        with self._credentials(step) as credentials:
            options = self._options_of(step, await step.options(self._view, credentials))
        values = [value for value, _ in options]
        expected = f"{'some' if step.several else 'one'} of {', '.join(values[:SHOWN_OPTIONS]) or 'nothing'}"
        if given:
            self._check_choice(step, values, expected)
        elif prompter is None:
            self._miss(step.key, expected)
        else:
            await self._choose(step, prompter, options)

    async def _choose(self, step: Select, prompter: Prompter, options: Sequence[Option]) -> None:
        if not options and not step.several:
            raise UsageError(f"{self._connector.name} offers nothing to choose for {step.key!r}")
        chosen = await prompter.choose(step.prompt, options, step.several)
        self._accept({step.key: list(chosen) if step.several else chosen[0]})

    def _check_choice(self, step: Select, values: Sequence[str], expected: str) -> None:
        """InvalidAnswers when the given answer is not among the options."""
        answer = self._answers[step.key]
        chosen = {as_text(one) for one in (answer or () if step.several else [answer])}
        if not chosen <= set(values):
            raise self._invalid([Mismatch(step.key, expected, plain(answer))])

    def _accept(self, answers: Mapping[str, Any]) -> None:
        """Add answers: secrets by credential, values by key, anything else for later steps."""
        wrong: list[Mismatch] = []
        declared = {one.name for one in self._connector.credentials}
        for key, value in answers.items():
            if isinstance(value, Secret) and key in declared:
                self._secrets[key] = value.reveal()
                self._kept.discard(key)
            elif key in self._types:
                self._answers[key] = self._types[key].read(value, key, wrong)
            else:
                self._answers[key] = value
        if wrong:
            raise InvalidAnswers(f"the answers of {self._connector.name}'s own code are invalid", wrong)

    async def _validate(self, step: Validate, before: Sequence[OnboardingStep]) -> None:
        """Check the answers; after a failure the questions before are asked again, while there are any.

        The answers so far are the defaults; an interruption ends it.
        """
        while not self._missing and self._applies(step):
            try:
                with self._credentials(step) as credentials:
                    said = await step.check(self._view, credentials)
                    place = self._place(step)
                    line = credentials.redactor.message(
                        returned(self._connector.name, place, "a line to show", str, said, step.check)
                    )
            except MaxError as error:
                answerable = any(isinstance(one, Input | SecretInput | Select | SignIn) for one in before)
                hopeless = isinstance(error, LoaderFault | MissingExtra)  # no answer helps
                if self._prompter is None or hopeless or not answerable:
                    raise
                self._prompter.say(f"{error.render()}\n")
            else:
                self._say(line)
                return
            self._given.clear()  # what was given may be what is wrong
            for earlier in before:
                await self._run(earlier)
