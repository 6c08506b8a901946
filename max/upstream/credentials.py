"""Credentials: what a connector may ask for, where secrets are kept, and who is given them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from ..errors import BadCredentials, UnknownName
from .hosts import NOWHERE, Hosts


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
    """A secret that a connector needs: what ``--credential name=…`` and onboarding give.

    ``secret`` is false for what is kept with the secrets and may be seen, such as their expiry.
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
        """Keep a secret; durable when this returns."""

    async def update(self, secrets: Mapping[str, str]) -> None:
        """Keep several secrets in one step, all of them or none; durable when this returns."""

    async def delete(self, name: str) -> None:
        """Forget a secret; not an error when there is none."""

    async def names(self) -> list[str]:
        """Which secrets are kept."""

    def renewal_lock(self) -> AbstractAsyncContextManager[None]:
        """Be the only one to renew secrets, among all tasks and processes that use this store.

        Reading and keeping secrets needs it not, and does not wait for it.  Offline when another
        one stays inside for too long; one that is killed inside is out.
        """


class MemoryCredentials(CredentialStore):
    """Secrets that are kept nowhere but here, for one event loop."""

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        self.secrets = dict(secrets or {})
        self._renewal = asyncio.Lock()

    async def get(self, name: str) -> str | None:
        """The secret, or None."""
        return self.secrets.get(name)

    async def set(self, name: str, secret: str) -> None:
        """Keep a secret until this is gone."""
        self.secrets[name] = secret

    async def update(self, secrets: Mapping[str, str]) -> None:
        """Keep several secrets."""
        self.secrets.update(secrets)

    async def delete(self, name: str) -> None:
        """Forget a secret; not an error when there is none."""
        self.secrets.pop(name, None)

    async def names(self) -> list[str]:
        """Which secrets are kept, sorted."""
        return sorted(self.secrets)

    @asynccontextmanager
    async def renewal_lock(self) -> AsyncIterator[None]:
        """Be the only task to renew secrets; waits as long as it takes."""
        async with self._renewal:
            yield


class CredentialProvider:
    """What a connector may use: the secrets and the ``hosts`` that it declares, and no others."""

    def __init__(
        self, store: CredentialStore, declared: Sequence[Credential], hosts: Hosts = NOWHERE
    ) -> None:
        self.hosts = hosts
        self._store = store
        self._declared = {credential.name: credential for credential in declared}
        self._seen: set[Secret] = set()

    @property
    def seen(self) -> frozenset[Secret]:
        """Every secret that was given out or kept here so far: what nothing that is written may hold."""
        return frozenset(self._seen)

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
        self._check(credential)
        text = await self._store.get(credential.name)
        if text is None:
            return None
        return self._noted(credential, Secret(text))

    async def keep(self, secrets: Mapping[Credential, Secret]) -> None:
        """Keep secrets that the service renewed: all in one step, durable when this returns."""
        for credential, secret in secrets.items():
            self._check(credential)
            self._noted(credential, secret)
        await self._store.update({one.name: secret.reveal() for one, secret in secrets.items()})

    def renewal_lock(self) -> AbstractAsyncContextManager[None]:
        """Be the only one to renew secrets; see CredentialStore."""
        return self._store.renewal_lock()

    def _noted(self, credential: Credential, secret: Secret) -> Secret:
        if credential.secret:
            self._seen.add(secret)
        return secret

    def _check(self, credential: Credential) -> None:
        if credential.name not in self._declared:
            raise UnknownName("credential", credential.name, self._declared)
