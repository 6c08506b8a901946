"""What every place that keeps secrets has in common: a CredentialStore from reading all and changing some."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from ..core import in_thread

if TYPE_CHECKING:
    from .credential_file import StoredSecrets


class SecretAudit(Protocol):
    """Who is to know that secrets were used: the audit of an installation."""

    def read(self, names: Iterable[str]) -> None:
        """Secrets of these names were read."""

    def renewed(self, names: Iterable[str]) -> None:
        """Secrets of these names were replaced."""


GIVEN = "secrets that were given"  # what a digest of them is about


class SecretStore(ABC):
    """The secrets of one installation, kept where ``stored`` and ``change`` find them."""

    _recorded = False  # whether the audit has a row for the first reading

    def unrecorded(self) -> Self:
        """The same for the one who only looks whether they can be read: the audit has no row of it."""
        self._recorded = True
        return self

    async def get(self, name: str) -> str | None:
        """The secret, or None."""
        return (await in_thread(self.read)).get(name)

    async def set(self, name: str, secret: str) -> None:
        """Keep a secret; it is stored when this returns."""
        await self.update({name: secret})

    async def update(self, secrets: Mapping[str, str]) -> None:
        """Keep several secrets in one step; they are stored when this returns."""
        await in_thread(lambda: self.change(lambda kept: kept | dict(secrets)))

    async def delete(self, name: str) -> None:
        """Forget a secret; not an error when there is none."""
        await in_thread(lambda: self.change(lambda kept: {n: s for n, s in kept.items() if n != name}))

    async def names(self) -> list[str]:
        """The names of the secrets, sorted."""
        return sorted(await in_thread(self.read))

    def read(self) -> dict[str, str]:
        """Every secret by its name; blocks."""
        return self.stored().secrets

    @abstractmethod
    def stored(self) -> StoredSecrets:
        """Every secret by its name, and the origin that they were given for; blocks."""

    @abstractmethod
    def digest(self, secrets: Mapping[str, str]) -> str:
        """What is the same for the same secrets, and tells nothing of them to one without a key; blocks.

        Empty for none.  KeyMissing where the key is the operator's.
        """

    @abstractmethod
    def change(self, update: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Replace the secrets by what ``update`` returns for them; blocks until they are stored."""
