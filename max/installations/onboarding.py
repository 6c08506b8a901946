"""Configuration and onboarding: from what people type to what a connector is given.

Rule 1: a configuration is read once, checked whole (every value that does not fit is named
with its path), and cannot be changed afterwards, at any depth.

Rule 2: onboarding stores nothing.  It returns what is to be kept, so that one which fails or
is interrupted leaves nothing behind.

Rule 3: without a prompter nothing is asked: the defaults stand, what is missing is listed
together with how to give it, and the connector's validations still run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ..errors import ConnectorError, InvalidAnswers, MaxError, Mismatch, UsageError
from ..model.values import Json
from ..upstream.credentials import CredentialProvider, MemoryCredentials, Secret
from .config import (
    _fields,
    as_text,
    config_defaults,
    config_types,
    config_values,
    plain,
    read_config,
    read_values,
)

SHOWN_OPTIONS = 10  # how many options an error lists


# -- values ------------------------------------------------------------------------------------


# -- configuration ---------------------------------------------------------------------------


# -- onboarding ------------------------------------------------------------------------------


class Prompter(Protocol):
    """Who can be asked.  An interruption leaves as an exception, and ends the onboarding."""

    async def text(self, prompt: str, default: str | None) -> str:
        """One line; the default when nothing was typed, "" when there is none."""

    async def secret(self, prompt: str) -> str:
        """One line that is shown nowhere; "" when nothing was typed."""

    async def choose(self, prompt: str, options: Sequence[Option], several: bool) -> Sequence[str]:
        """The values of the options chosen: one, or any number when ``several``."""

    async def confirm(self, prompt: str) -> bool:
        """Yes or no."""

    def say(self, line: str) -> None:
        """Show something."""


@dataclass(frozen=True)
class OnboardingResult:
    """What an onboarding came to: plain configuration values, and secrets by credential.

    ``found`` is what validations said while nobody was there to be told.
    """

    config: dict[str, Json]
    secrets: dict[str, str] = field(repr=False)
    found: tuple[str, ...] = ()


async def onboard(
    connector: AnyConnector,
    prompter: Prompter | None,
    given: Mapping[str, object],
    secrets: Mapping[str, str],
) -> OnboardingResult:
    """Run a connector's onboarding; what is given is not asked for.

    InvalidAnswers when something given does not fit, or nobody can be asked for what is
    missing.  The error of a failed validation, when it is not to be tried again.
    """
    run = _Onboarding(connector, prompter, given, secrets)
    await run.walk()
    return run.result()


def check_answers(
    connector: AnyConnector, config: Mapping[str, object], secrets: Mapping[str, str]
) -> OnboardingResult:
    """What is stored for these values; asks neither a person nor the service.

    InvalidAnswers names every value and secret that is invalid, unknown or missing.
    """
    run = _Onboarding(connector, None, config, secrets)
    run.require_secrets()
    return run.result()


def needs_answers(connector: AnyConnector) -> bool:
    """Whether connecting takes more than the defaults."""
    answers = config_defaults(connector.config)
    if config_types(connector.config).keys() - answers.keys():
        return True
    secrets = [step for step in steps_of(connector) if isinstance(step, SecretInput)]
    optional = {step.credential.name for step in secrets if not _wanted(step, answers)}
    return any(one.required and one.name not in optional for one in connector.credentials)


def steps_of(connector: AnyConnector) -> list[OnboardingStep]:
    """The connector's steps, after one for each thing that is required and has none.

    A connector with code of its own may bring such things itself, so nothing is added there.
    """
    steps = connector.onboarding
    if any(isinstance(step, RunCode | SignIn) for step in steps):
        return list(steps)
    keys = {step.key for step in steps if isinstance(step, Input | Select)}
    asked = {step.credential.name for step in steps if isinstance(step, SecretInput)}
    needed = config_types(connector.config).keys() - config_defaults(connector.config).keys() - keys
    inputs = [Input(one.name, one.name) for one in _fields(connector.config) if one.name in needed]
    wanted = [one for one in connector.credentials if one.required and one.name not in asked]
    return [*inputs, *(SecretInput(one, one.description or one.name) for one in wanted), *steps]


def _wanted(step: OnboardingStep, answers: Answers) -> bool:
    """Whether the step's condition holds."""
    return step.when is None or step.when(MappingProxyType(dict(answers)))


class _Onboarding:
    """One walk through a connector's steps."""

    def __init__(
        self,
        connector: AnyConnector,
        prompter: Prompter | None,
        given: Mapping[str, object],
        secrets: Mapping[str, str],
    ) -> None:
        self._connector, self._prompter = connector, prompter
        self._steps = steps_of(connector)
        self._holds = config_types(connector.config)
        self._subject = f"what connecting {connector.name} was given"
        wrong: list[Mismatch] = []
        read = read_values(self._holds, given, wrong)
        wrong += self._wrong_secrets(secrets)
        if wrong:
            raise InvalidAnswers(f"{self._subject} does not fit", wrong, hint=self._hint())
        self._answers = config_defaults(connector.config) | read
        self._kept = MemoryCredentials(secrets)  # one for all steps: a validation may renew a secret
        self._secrets = self._kept.secrets
        self._settled = {*given, *secrets}  # not to be asked for
        self._missing: list[Mismatch] = []
        self._found: list[str] = []

    def _wrong_secrets(self, secrets: Mapping[str, str]) -> list[Mismatch]:
        known = {one.name for one in self._connector.credentials}
        wrong = [name for name in secrets if name not in known]
        candidates = ", ".join(sorted(known)) or "it needs none"
        empty = [name for name in secrets if name in known and not secrets[name]]
        return [
            *(
                Mismatch(name, f"another credential ({candidates})", secrets[name], secret=True)
                for name in wrong
            ),
            *(Mismatch(name, "a secret that is not empty", secrets[name], secret=True) for name in empty),
        ]

    def _hint(self) -> str:
        keys = f"--set key=value (keys: {', '.join(self._holds)})" if self._holds else ""
        names = ", ".join(one.name for one in self._connector.credentials)
        secrets = f"--credential name=env:VAR, file:PATH or - (names: {names})" if names else ""
        return "give " + " and ".join(filter(None, [keys, secrets])) if keys or secrets else ""

    async def walk(self) -> None:
        """Take every step whose condition holds."""
        since = 0  # the first step whose answers no validation has seen yet
        for position, step in enumerate(self._steps):
            if isinstance(step, Validate):
                await self._validate(step, self._steps[since:position])
                since = position + 1
            else:
                await self._take(step)

    def require_secrets(self) -> None:
        """Note which secrets are missing, without taking any other step."""
        self._require_values()
        required = [one for one in self._steps if isinstance(one, SecretInput) and one.credential.required]
        for step in required:
            if step.credential.name not in self._secrets and self._applies(step):
                self._miss_secret(step.credential.name)

    def _require_values(self) -> None:
        for key, holds in self._holds.items():
            if key not in self._answers and key not in {one.path for one in self._missing}:
                self._miss(key, holds.expected)

    def result(self) -> OnboardingResult:
        """What is to be kept; InvalidAnswers when something is missing."""
        asked = {step.credential.name for step in self._steps if isinstance(step, SecretInput)}
        self._require_values()
        for one in self._connector.credentials:
            if one.required and one.name not in self._secrets and one.name not in asked:
                self._miss_secret(one.name)
        if self._missing:
            raise InvalidAnswers(
                f"connecting {self._connector.name} needs answers", self._missing, hint=self._hint()
            )
        values = {key: value for key, value in self._answers.items() if key in self._holds}
        config = read_config(self._connector.config, values, subject=self._subject)
        return OnboardingResult(config_values(config), dict(self._secrets), tuple(self._found))

    def _miss(self, key: str, expected: str) -> None:
        self._missing.append(Mismatch(key, f"{expected} (--set {key}=…)", None))

    def _miss_secret(self, name: str) -> None:
        self._missing.append(Mismatch(name, f"a secret (--credential {name}=env:VAR)", None))

    @property
    def _view(self) -> Answers:
        return MappingProxyType(dict(self._answers))

    @property
    def _provider(self) -> CredentialProvider:
        hosts = self._connector.hosts_for(self._answers)
        return CredentialProvider(self._kept, self._connector.credentials, hosts)

    def _applies(self, step: OnboardingStep) -> bool:
        """Whether to take a step; conditions may fail on answers that are missing."""
        try:
            return _wanted(step, self._answers)
        except KeyError as error:
            if self._missing:
                return False
            raise ConnectorError(
                f"{self._connector.name}: a condition of its onboarding reads {error}, which nothing has set"
            ) from error

    async def _take(self, step: OnboardingStep) -> None:
        if not self._applies(step):
            return
        match step:
            case Input():
                await self._input(step)
            case SecretInput():
                await self._secret(step)
            case Select():
                await self._select(step)
            case RunCode() if not self._missing:
                self._join(await step.run(self._view, self._provider))
            case SignIn() if not self._missing:
                await self._sign_in(step)

    async def _input(self, step: Input) -> None:
        known = step.key in self._answers
        if step.key in self._settled:
            return
        if self._prompter is not None:
            await self._ask(step, self._prompter, as_text(self._answers[step.key]) if known else None)
        elif not known:
            self._miss(step.key, self._holds[step.key].expected)

    async def _ask(self, step: Input, prompter: Prompter, default: str | None) -> None:
        """Ask until what is typed fits; the default leaves the answer as it is."""
        while (text := await prompter.text(step.prompt, default)) != default:
            wrong: list[Mismatch] = []
            value = self._holds[step.key].read(text, step.key, wrong)
            if not wrong and (text or value is None):
                self._answers[step.key] = value
                return
            prompter.say(str(wrong[0]) if wrong else f"{step.key} is needed")

    async def _secret(self, step: SecretInput) -> None:
        name, required = step.credential.name, step.credential.required
        known = name in self._secrets
        if name in self._settled:
            return
        if self._prompter is None:
            if required and not known:
                self._miss_secret(name)
            return
        prompt = f"{step.prompt} (empty: as before)" if known else step.prompt
        while not (text := await self._prompter.secret(prompt)) and required and not known:
            self._prompter.say(f"{name} is needed")
        if text:
            self._secrets[name] = text

    async def _sign_in(self, step: SignIn) -> None:
        names, prompter = {one.name for one in step.credentials}, self._prompter
        if prompter is None or names & self._settled:
            return
        if not names & self._secrets.keys() or await prompter.confirm("Sign in again?"):
            self._join(await step.run(self._view, self._provider, prompter.say))

    async def _select(self, step: Select) -> None:
        settled, known = step.key in self._settled, step.key in self._answers
        if known and not settled and self._prompter is None:
            return
        if self._missing:  # the service cannot be asked yet
            if not known:
                self._miss(step.key, self._holds[step.key].expected)
            return
        options = await step.options(self._view, self._provider)
        values = [value for value, _ in options]
        expected = f"{'some' if step.several else 'one'} of {', '.join(values[:SHOWN_OPTIONS]) or 'nothing'}"
        if settled:
            self._check_choice(step, values, expected)
        elif self._prompter is None:
            self._miss(step.key, expected)
        else:
            await self._choose(step, self._prompter, options)

    async def _choose(self, step: Select, prompter: Prompter, options: Sequence[Option]) -> None:
        if not options and not step.several:
            raise UsageError(f"{self._connector.name} offers nothing to choose for {step.key!r}")
        picked = await prompter.choose(step.prompt, options, step.several)
        self._join({step.key: list(picked) if step.several else picked[0]})

    def _check_choice(self, step: Select, values: Sequence[str], expected: str) -> None:
        """InvalidAnswers when what was given is not among the options."""
        answer = self._answers[step.key]
        chosen = {as_text(one) for one in (answer or () if step.several else [answer])}
        if not chosen <= set(values):
            wrong = Mismatch(step.key, expected, plain(answer))
            raise InvalidAnswers(f"{self._subject} does not fit", [wrong], hint=self._hint())

    def _join(self, answers: Mapping[str, Any]) -> None:
        """Take answers in: secrets under a credential's name, values under a key, others for later steps."""
        wrong: list[Mismatch] = []
        declared = {one.name for one in self._connector.credentials}
        for key, value in answers.items():
            if isinstance(value, Secret) and key in declared:
                self._secrets[key] = value.reveal()
            elif key in self._holds:
                self._answers[key] = self._holds[key].read(value, key, wrong)
            else:
                self._answers[key] = value
        if wrong:
            raise InvalidAnswers(f"what {self._connector.name}'s own onboarding brought does not fit", wrong)

    async def _validate(self, step: Validate, before: Sequence[OnboardingStep]) -> None:
        """Check the answers; while that fails and somebody wants to try again, ask anew."""
        while not self._missing and self._applies(step):
            try:
                line = await step.check(self._view, self._provider)
            except MaxError as error:
                if self._prompter is None:
                    raise
                self._prompter.say(error.render())
                if not await self._prompter.confirm("Change the answers and try again?"):
                    raise
            else:
                if self._prompter is not None:
                    self._prompter.say(line)
                else:
                    self._found.append(line)
                return
            self._settled.clear()  # what was given may be what is wrong
            for earlier in before:
                await self._take(earlier)


# -- secrets from outside ------------------------------------------------------------------------
