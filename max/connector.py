"""Connectors: how Max is taught one source.

A connector is one frozen ``Connector``: its schema, its loaders, its seeder, what it asks
when somebody connects, and ``initialise``, which turns configuration and credentials into a
live ``Installation``.  Importing a connector touches neither network nor disk; every check
of its declarations runs when the Connector is made, and names the attribute at fault.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from .core import C, CollectionLoader, Loader, RawLoader, Resolver, Schema, Seeder
from .errors import BadCredentials, ConnectorError, UnknownName
from .operations import AnyOperation

Conf = TypeVar("Conf")
Answers = Mapping[str, Any]


# -- credentials -------------------------------------------------------------------------


class Secret:
    """A text that never shows itself: not in repr, str, format or a log."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True)
class Credential:
    """A secret that a connector needs: what ``--credential name=…`` and onboarding give."""

    name: str
    description: str = ""
    required: bool = True


class CredentialStore(Protocol):
    """Where the secrets of one installation are kept, by name."""

    async def get(self, name: str) -> str | None:
        """The secret, or None."""

    async def set(self, name: str, secret: str) -> None:
        """Keep a secret; durable when this returns."""

    async def delete(self, name: str) -> None:
        """Forget a secret; not an error when there is none."""

    async def names(self) -> list[str]:
        """Which secrets are kept."""


class MemoryCredentials(CredentialStore):
    """Secrets that are kept nowhere but here."""

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        self._secrets = dict(secrets or {})

    async def get(self, name: str) -> str | None:
        return self._secrets.get(name)

    async def set(self, name: str, secret: str) -> None:
        self._secrets[name] = secret

    async def delete(self, name: str) -> None:
        self._secrets.pop(name, None)

    async def names(self) -> list[str]:
        return sorted(self._secrets)


class CredentialProvider:
    """What a connector asks for its secrets: only those that it declares."""

    def __init__(self, store: CredentialStore, declared: Sequence[Credential]) -> None:
        self._store = store
        self._declared = {credential.name: credential for credential in declared}

    async def get(self, credential: Credential) -> Secret:
        """The secret; BadCredentials when none is kept."""
        secret = await self.find(credential)
        if secret is None:
            raise BadCredentials(
                f"the credential {credential.name!r} is missing",
                hint=f"connect again with --credential {credential.name}=env:VARIABLE",
                credential=credential.name,
            )
        return secret

    async def find(self, credential: Credential) -> Secret | None:
        """The secret, or None when none is kept."""
        if credential.name not in self._declared:
            raise UnknownName("credential", credential.name, self._declared)
        text = await self._store.get(credential.name)
        return None if text is None else Secret(text)


# -- installations -------------------------------------------------------------------------


@dataclass(frozen=True)
class Installation(Generic[C]):
    """A connector at work: its live context, and how to start, stop and examine it."""

    context: C
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    health: Callable[[], Awaitable[str]] | None = None  # one line for people; raises when ill


@dataclass(frozen=True)
class NoConfig:
    """The configuration of a connector that needs none."""


# -- onboarding ----------------------------------------------------------------------------

When = Callable[[Answers], bool]
Option = tuple[str, str]  # the value, and how a person sees it


@dataclass(frozen=True)
class Input:
    """Asks for one configuration value; its type and default are the configuration's own."""

    key: str
    prompt: str
    when: When | None = None


@dataclass(frozen=True)
class SecretInput:
    """Asks for one credential without showing it."""

    credential: Credential
    prompt: str
    when: When | None = None


@dataclass(frozen=True)
class Select:
    """Lets choose among options that may be asked from the service itself."""

    key: str
    prompt: str
    options: Callable[[Answers, CredentialProvider], Awaitable[Sequence[Option]]]
    several: bool = False
    when: When | None = None


@dataclass(frozen=True)
class Validate:
    """Checks the answers so far against the service; returns a line to show, raises MaxError."""

    check: Callable[[Answers, CredentialProvider], Awaitable[str]]
    when: When | None = None


@dataclass(frozen=True)
class Custom:
    """Runs the connector's own code; the mapping it returns joins the answers."""

    run: Callable[[Answers, CredentialProvider], Awaitable[Mapping[str, Any]]]
    when: When | None = None


OnboardingStep = Input | SecretInput | Select | Validate | Custom


# -- the connector -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Connector(Generic[Conf, C]):
    """How Max is taught one source.  Making one checks it; ConnectorError names what is wrong.

    ``config`` is a frozen dataclass: its fields are the configuration keys, with their types
    and defaults.
    """

    name: str
    description: str
    schema: Schema
    loaders: Sequence[Loader[C]]
    seeder: Seeder[C]
    initialise: Callable[[Conf, CredentialProvider], Awaitable[Installation[C]]]
    config: type[Conf]
    credentials: Sequence[Credential] = ()
    onboarding: Sequence[OnboardingStep] = ()
    operations: Sequence[AnyOperation] = ()
    version: str = "1"
    resolver: Resolver = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for position, loader in enumerate(self.loaders):
            check_loader(loader, f"{self.name}: loaders[{position}]")
        object.__setattr__(self, "resolver", Resolver(self.schema, self.loaders))


def check_loader(loader: object, where: str) -> None:
    """ConnectorError unless the loader's kind, signature and entity are known."""
    if not isinstance(loader, Loader) or not loader.kind:
        raise ConnectorError(f"{where} is {loader!r}, not a loader", hint="decorate it with @Loader.…")
    where = f"{where} {loader.name}"
    if not inspect.iscoroutinefunction(loader.function):
        raise ConnectorError(f"{where} is not an async function")
    try:
        inspect.signature(loader.function).bind(*range(loader.arguments))
    except TypeError as error:
        raise ConnectorError(f"{where} must take {loader.arguments} arguments: {error}") from error
    if len({f.entity for f in loader.brings}) > 1 and loader.kind.startswith("entity"):
        raise ConnectorError(f"{where} declares fields of more than one entity")
    if not loader.brings and not isinstance(loader, RawLoader | CollectionLoader):
        raise ConnectorError(f"{where} declares no field")
