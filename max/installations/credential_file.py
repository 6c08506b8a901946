"""Secrets on the disk: one JSON file that its owner alone can read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .files import (
    PATIENCE,
    FileLock,
    broken,
    encoded,
    in_thread,
    locked,
    read_object,
    replace_file,
    translated,
)

if TYPE_CHECKING:
    pass


CREDENTIALS = "credentials.json"
LOCK = "credentials.lock"  # held by whoever renews a secret, for as long as the service takes


class FileCredentials:
    """A CredentialStore: one JSON file that its owner alone can read.

    Safe beside other tasks and other processes: no change is lost.
    """

    def __init__(self, path: Path, *, patience: float = PATIENCE) -> None:
        self.path, self.patience = path, patience

    async def get(self, name: str) -> str | None:
        """The secret, or None."""
        return (await in_thread(self._read)).get(name)

    async def set(self, name: str, secret: str) -> None:
        """Keep a secret; it is on the disk when this returns."""
        await in_thread(lambda: self.change(lambda kept: kept | {name: secret}))

    async def update(self, secrets: Mapping[str, str]) -> None:
        """Keep several secrets in one step; they are on the disk when this returns."""
        await in_thread(lambda: self.change(lambda kept: kept | dict(secrets)))

    async def delete(self, name: str) -> None:
        """Forget a secret; not an error when there is none."""
        await in_thread(lambda: self.change(lambda kept: {n: s for n, s in kept.items() if n != name}))

    async def names(self) -> list[str]:
        """Which secrets are kept."""
        return sorted(await in_thread(self._read))

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be the only one to renew secrets; the wait for another one is a thread's."""
        lock = FileLock(self.path.with_name(LOCK))
        try:
            await in_thread(lambda: lock.take(self.patience))
            yield
        finally:
            lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The same for code that may block."""
        lock = FileLock(self.path.with_name(LOCK))
        try:
            lock.take(self.patience)
            yield
        finally:
            lock.release()

    def _read(self) -> dict[str, str]:
        secrets = read_object(self.path) if self.path.exists() else {}
        if not all(isinstance(secret, str) for secret in secrets.values()):
            raise broken(self.path, "every secret must be a text")
        return secrets

    def change(self, update: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Replace what is kept by what ``update`` makes of it; blocks until it is on the disk."""
        with translated(self.path.parent), locked(self.path.parent):
            replace_file(self.path, encoded(update(self._read())))
