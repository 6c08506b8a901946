"""Secrets in a database: sealed rows, which nothing opens without a key.

Rule 1: secrets reach only the origin that they were given for, as those in a file.  A row is sealed for its
installation, its origin and its name, so that no other row can take its place.

Rule 2: a renewal holds a lock of the server, so that of all processes on all hosts one renews a secret.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from ..core import in_thread
from ..errors import ProjectError
from ..installations.credential_file import RENEWAL_TIMEOUT, StoredSecrets, refuse_other_origin
from ..installations.files import changed_names
from ..installations.secret_store import GIVEN, SecretStore
from ..model.settings import InstallationInfo
from ..storage import postgres_project as rows
from ..storage.postgres_project import SealedSecret

if TYPE_CHECKING:
    from ..installations.encryption import Keys
    from ..storage.database import Connection, Database
    from .audit import InstallationAudit


def sealed(keys: Keys, id: str, given: StoredSecrets) -> list[SealedSecret]:
    """The secrets of an installation as they are stored."""
    return [
        SealedSecret(name, keys.newest, keys.seal(secret, id, given.destination, name))
        for name, secret in given.secrets.items()
    ]


class DatabaseCredentials(SecretStore):
    """A CredentialStore: sealed rows of one installation.  A server that is restarted is waited for.

    Safe beside other tasks, processes and hosts: no change is lost.  ``database`` is the project's.  With
    ``destination``, the origin to which they are sent, it gives no others: BadCredentials.  The ``audit`` has
    a row for the first reading, for the first one in each renewal, and for each change.
    """

    timeout = RENEWAL_TIMEOUT

    def __init__(
        self,
        database: Database,
        info: InstallationInfo,
        keys: Callable[[], Keys],
        *,
        destination: str | None = None,
        audit: InstallationAudit | None = None,
    ) -> None:
        self._database, self._info, self._keys = database, info, keys
        self._destination, self._audit = destination, audit

    @asynccontextmanager
    async def renewal_lock(self) -> AsyncIterator[None]:
        """Hold the lock for renewing secrets; a thread waits for it, not the event loop."""
        held = ExitStack()
        try:
            await in_thread(lambda: rows.patiently(lambda: held.enter_context(self.blocking_renewal_lock())))
            self._recorded = False
            yield
        finally:
            await in_thread(held.close)

    @contextmanager
    def blocking_renewal_lock(self) -> Iterator[None]:
        """The same lock, for code that may block; StorageLocked after ``timeout``."""
        with self._database.reader() as connection:
            with rows.translated(self._database.label):
                rows.hold(connection, self._info.id, seconds=self.timeout)
            yield

    def stored(self) -> StoredSecrets:
        """Every secret by its name, and the origin that they were given for; blocks.

        BadCredentials when they were given for another origin; KeyMissing and KeyWrong.
        """

        def once() -> StoredSecrets:
            with self._database.reader() as connection, rows.translated(self._database.label):
                return self.stored_in(connection)

        return rows.patiently(once)

    def stored_in(self, connection: Connection) -> StoredSecrets:
        """The same inside of the caller's transaction."""
        one = rows.installation(connection, self._info.id)
        if one is None:
            raise ProjectError(f"{self._info} was disconnected")
        found = rows.secrets(connection, one.id)
        refuse_other_origin(self._info, one.destination, self._destination, bool(found))
        keys = self._keys() if found else None
        secrets = {
            name: keys.open(key, text, one.id, one.destination, name)
            for name, key, text in found
            if keys is not None
        }
        if self._audit is not None and secrets and not self._recorded:
            self._audit.read(secrets)
            self._recorded = True
        return StoredSecrets(secrets, one.destination)

    def digest(self, secrets: Mapping[str, str]) -> str:
        """With the key that seals."""
        return self._keys().digest(GIVEN, *chain(*sorted(secrets.items()))) if secrets else ""

    def change(self, update: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Replace the secrets by what ``update`` returns for them; blocks until they are stored."""
        before, after = rows.patiently(lambda: self._changed(update))
        if self._audit is not None:  # afterwards: a secret that the service has renewed must not be lost
            self._audit.renewed(changed_names(before, after))

    def _changed(
        self, update: Callable[[dict[str, str]], dict[str, str]]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The secrets before and after a change."""
        with self._database.writer() as connection:
            stored = self.stored_in(connection)
            kept = self._destination if stored.destination is None else stored.destination
            updated = update(stored.secrets)
            self.replace_in(connection, StoredSecrets(updated, kept))
        return stored.secrets, updated

    def replace_in(self, connection: Connection, new: StoredSecrets) -> None:
        """Replace the secrets inside of the caller's transaction."""
        keys = self._keys() if new.secrets else None
        texts = [] if keys is None else sealed(keys, self._info.id, new)
        rows.replace_secrets(connection, self._info.id, texts, new.destination)
