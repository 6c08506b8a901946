"""Credentials: what a connector declares, where secrets are kept, and what a connector may read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from ..errors import BadCredentials, SyncTokenRefused, UnknownName
from .connector_code import our_storage
from .hosts import NOWHERE, Hosts
from .redaction import SHORTEST, Redactor, sealed_names, unsealed

MADE = 4  # secrets of one name, made by the connector, that are kept out of what is written


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
    """A secret that a connector needs; ``--credential NAME=…`` and onboarding provide it.

    ``secret`` is false for a value that is kept with the secrets but may be shown, such as when
    they expire.
    """

    name: str
    description: str = ""
    required: bool = True
    secret: bool = True


class CredentialStore(Protocol):
    """Where the secrets of one installation are kept, by name."""

    async def get(self, name: str) -> str | None:
        """The secret, or None."""

    async def set(self, name: str, secret: str) -> None:
        """Store a secret; durable when this returns."""

    async def update(self, secrets: Mapping[str, str]) -> None:
        """Store several secrets, all or none of them; durable when this returns."""

    async def delete(self, name: str) -> None:
        """Delete a secret; not an error when there is none."""

    async def names(self) -> list[str]:
        """The names of the stored secrets."""

    def renewal_lock(self) -> AbstractAsyncContextManager[None]:
        """The lock for renewing secrets, among all tasks and processes that use this store.

        Reading and storing work without it and do not wait for it.  Offline when another holder
        keeps it for too long; a process that is killed gives it up.
        """


class MemoryCredentials(CredentialStore):
    """Secrets in memory only, for one event loop."""

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        self.secrets = dict(secrets or {})
        self._renewal = asyncio.Lock()

    async def get(self, name: str) -> str | None:
        """The secret, or None."""
        return self.secrets.get(name)

    async def set(self, name: str, secret: str) -> None:
        """Store a secret for the life of this object."""
        self.secrets[name] = secret

    async def update(self, secrets: Mapping[str, str]) -> None:
        """Store several secrets."""
        self.secrets.update(secrets)

    async def delete(self, name: str) -> None:
        """Delete a secret; not an error when there is none."""
        self.secrets.pop(name, None)

    async def names(self) -> list[str]:
        """The names of the stored secrets, sorted."""
        return sorted(self.secrets)

    @asynccontextmanager
    async def renewal_lock(self) -> AsyncIterator[None]:
        """The lock for renewing secrets; waits as long as it takes."""
        async with self._renewal:
            yield


class CredentialProvider:
    """What a connector may use: the secrets and the ``hosts`` that it declares, and no others.

    ``redactor`` keeps every secret that was read, saved or made here out of what is written.
    """

    def __init__(
        self, store: CredentialStore, declared: Sequence[Credential], hosts: Hosts = NOWHERE
    ) -> None:
        self.hosts, self.redactor = hosts, Redactor()
        self._store = store
        self._declared = {credential.name: credential for credential in declared}
        self._known_secrets: set[Secret] = set()
        self._newest: dict[str, str] = {}  # by name, the secrets that were read, saved or made
        self._made: dict[str, list[str]] = {}

    @property
    def known_secrets(self) -> frozenset[Secret]:
        """Every secret that was read or saved here so far; nothing that is written may contain one."""
        return frozenset(self._known_secrets)

    async def get(self, credential: Credential) -> Secret:
        """The secret; BadCredentials when it is missing."""
        secret = await self.find(credential)
        if secret is None:
            raise BadCredentials(
                f"the credential {credential.name!r} is missing",
                hint=f"connect again with --credential {credential.name}=env:VARIABLE",
                credential=credential.name,
            )
        return secret

    async def find(self, credential: Credential) -> Secret | None:
        """The secret, or None when it is missing."""
        self._check(credential)
        with our_storage():
            text = await self._store.get(credential.name)
        return None if text is None else self._remembered(credential, Secret(text))

    async def save(self, secrets: Mapping[Credential, Secret]) -> None:
        """Store renewed secrets, all or none of them; durable when this returns."""
        for credential, secret in secrets.items():
            self._check(credential)
            self._remembered(credential, secret)
        with our_storage():
            await self._store.update({one.name: secret.reveal() for one, secret in secrets.items()})

    @asynccontextmanager
    async def renewal_lock(self) -> AsyncIterator[None]:
        """The lock for renewing secrets; see CredentialStore."""
        async with AsyncExitStack() as held:
            with our_storage():
                await held.enter_async_context(self._store.renewal_lock())
            yield

    def keep_out(self, name: str, text: str) -> None:
        """Keep a secret that the connector made, such as a session's, out of what is written."""
        if text == self._newest.get(name) or len(text) < SHORTEST:
            return
        self._newest[name] = text
        if not self.redactor.knows(text):  # a credential as it is
            made = self._made.setdefault(name, [])
            made.append(text)
            self.redactor.learn(text, name)
            if len(made) > MADE:  # one that signs every request
                self.redactor.forget(made.pop(0))

    async def unseal(self, text: str) -> str:
        """The text that the redactor has sealed; SyncTokenRefused when a secret of it is gone."""
        names = sealed_names(text)
        for name in names & self._declared.keys() - self._newest.keys():
            await self.find(self._declared[name])
        try:
            return unsealed(text, self._newest.__getitem__)
        except LookupError as error:
            raise SyncTokenRefused(
                f"a stored cursor or sync token needs a secret that is gone: {', '.join(sorted(names))}",
                hint="sync again, which lists from the beginning",
            ) from error

    def _remembered(self, credential: Credential, secret: Secret) -> Secret:
        if credential.secret:
            text = self._newest[credential.name] = secret.reveal()
            self._known_secrets.add(secret)
            if len(text) >= SHORTEST:  # to remove a shorter one would damage everything else
                self.redactor.learn(text, credential.name)
        return secret

    def _check(self, credential: Credential) -> None:
        if credential.name not in self._declared:
            raise UnknownName("credential", credential.name, self._declared)
