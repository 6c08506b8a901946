"""Secrets on the disk: one JSON file that its owner alone can read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from ..core import in_thread
from .files import FileLock, broken, encoded, locked, read_object, replace_file, translated

CREDENTIALS = "credentials.json"
LOCK = "credentials.lock"  # locked while a secret is renewed, for as long as the service takes
RENEWAL_TIMEOUT = 120.0  # seconds to wait for another process that renews a secret


class FileCredentials:
    """A CredentialStore: one JSON file that its owner alone can read.

    Safe beside other tasks and other processes: no change is lost.  ``timeout`` is how many
    seconds to wait for another process that renews a secret.
    """

    def __init__(self, path: Path, *, timeout: float = RENEWAL_TIMEOUT) -> None:
        self.path, self.timeout = path, timeout

    async def get(self, name: str) -> str | None:
        """The secret, or None."""
        return (await in_thread(self.read)).get(name)

    async def set(self, name: str, secret: str) -> None:
        """Keep a secret; it is on the disk when this returns."""
        await self.update({name: secret})

    async def update(self, secrets: Mapping[str, str]) -> None:
        """Keep several secrets in one step; they are on the disk when this returns."""
        await in_thread(lambda: self.change(lambda kept: kept | dict(secrets)))

    async def delete(self, name: str) -> None:
        """Forget a secret; not an error when there is none."""
        await in_thread(lambda: self.change(lambda kept: {n: s for n, s in kept.items() if n != name}))

    async def names(self) -> list[str]:
        """The names of the secrets, sorted."""
        return sorted(await in_thread(self.read))

    @asynccontextmanager
    async def renewal_lock(self) -> AsyncIterator[None]:
        """Hold the lock for renewing secrets; a thread waits for it, not the event loop."""
        lock = FileLock(self.path.with_name(LOCK))
        try:
            await in_thread(lambda: lock.acquire(self.timeout))
            yield
        finally:
            lock.release()

    @contextmanager
    def blocking_renewal_lock(self) -> Iterator[None]:
        """The same lock, for code that may block."""
        lock = FileLock(self.path.with_name(LOCK))
        try:
            lock.acquire(self.timeout)
            yield
        finally:
            lock.release()

    def read(self) -> dict[str, str]:
        """Every secret by its name; blocks."""
        secrets = read_object(self.path) if self.path.exists() else {}
        if not all(isinstance(secret, str) for secret in secrets.values()):
            raise broken(self.path, "every secret must be a text")
        return secrets

    def change(self, update: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Replace the secrets by what ``update`` returns for them; blocks until it is on the disk."""
        with translated(self.path.parent), locked(self.path.parent):
            replace_file(self.path, encoded(update(self.read())))
