"""Secrets on the disk: one JSON file that its owner alone can read.

    {"token": "…", "_for": "https://api.example.com"}

Rule 1: secrets reach only the origin that they were given for.  ``_for`` says which one; a configuration
that leads elsewhere does not get them.

Rule 2: a new configuration and its secrets become valid in one step.  The file keeps the former secrets
in ``_before``, with a digest of their configuration, while installation.json is replaced: until then
they are the valid ones, and a crash in between leaves the former installation whole.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ..core import in_thread
from ..errors import BadCredentials, ProjectError
from ..model.settings import InstallationInfo
from ..model.values import Json
from .files import (
    INSTALLATION,
    LOCK,
    FileLock,
    broken,
    changed_names,
    encoded,
    locked,
    read_object,
    replace_file,
    translated,
)
from .secret_store import GIVEN, SecretAudit, SecretStore

RENEWAL_TIMEOUT = 120.0  # seconds to wait for another process that renews a secret
KEY_BYTES = 32  # of the key of digests
FOR, BEFORE, CONFIG = "_for", "_before", "_config"  # names that no credential can have


class StoredSecrets(NamedTuple):
    """The secrets of an installation, and the origin that they were given for.

    It is None when it is unknown, and "" when the connector alone decides it, which needs no note.
    """

    secrets: dict[str, str]
    destination: str | None = None

    def to_json(self) -> dict[str, Json]:
        """The content of the file."""
        return self.secrets | ({FOR: self.destination} if self.destination else {})


def config_digest(config: Mapping[str, Json]) -> str:
    """A short digest of a configuration."""
    from hashlib import sha256

    return sha256(json.dumps(config, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def refuse_other_origin(
    info: InstallationInfo | None, given_for: str | None, destination: str | None, any_secrets: bool
) -> None:
    """BadCredentials when secrets were given for another origin than the one to which they would be sent."""
    if any_secrets and destination is not None and given_for not in (None, destination):
        raise BadCredentials(
            f"the secrets of {info} were given for {given_for or 'no address'},"
            f" not for {destination or 'no address'}; nothing was sent",
            hint=f"give them for it: max connect {info} --update --credential NAME=env:VARIABLE",
        )


class FileCredentials(SecretStore):
    """A CredentialStore: one JSON file that its owner alone can read.

    Safe beside other tasks and other processes: no change is lost.  ``timeout`` is how many
    seconds to wait for another process that renews a secret.  With ``info`` it has the secrets of
    that very installation in that configuration; with ``destination``, the origin to which they are
    sent, it gives no others: BadCredentials.  The ``audit`` has a row for the first reading, for
    the first one in each renewal, and for each change.
    """

    def __init__(
        self,
        path: Path,
        *,
        info: InstallationInfo | None = None,
        destination: str | None = None,
        timeout: float = RENEWAL_TIMEOUT,
        audit: SecretAudit | None = None,
    ) -> None:
        self.path, self.timeout = path, timeout
        self._audit = audit
        self._info, self._destination = info, destination
        self._digest = None if info is None else config_digest(info.config)

    @asynccontextmanager
    async def renewal_lock(self) -> AsyncIterator[None]:
        """Hold the lock for renewing secrets; a thread waits for it, not the event loop."""
        lock = FileLock(self.path.with_name(LOCK))
        try:
            await in_thread(lambda: lock.acquire(self.timeout))
            self._recorded = False
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

    def stored(self) -> StoredSecrets:
        """Every secret by its name, and the origin that they were given for; blocks.

        ProjectError when other users can read the file of an installation.
        """
        with translated(self.path):
            mode = self.path.stat().st_mode if self._info and self.path.exists() else 0
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ProjectError(
                f"{self.path}: other users can reach it (mode {stat.S_IMODE(mode):04o})",
                hint=f"chmod 600 {self.path}; where others could read it, replace the secrets as well",
                path=str(self.path),
            )
        stored = self._parse(self._valid(self._data()))
        if self._audit is not None and stored.secrets and not self._recorded:
            self._audit.read(stored.secrets)
            self._recorded = True
        return stored

    def digest(self, secrets: Mapping[str, str]) -> str:
        """With a random key that is kept in the file of the lock, which its owner alone can read."""
        if not secrets:
            return ""
        from .encryption import keyed_digest

        with translated(self.path):
            return keyed_digest(self._key(), GIVEN, *chain(*sorted(secrets.items())))

    def _key(self) -> bytes:
        """Made when it is first needed: a half that a crash left is replaced."""
        descriptor = os.open(self.path.with_name(LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            key = os.read(descriptor, KEY_BYTES)
            if len(key) < KEY_BYTES:
                key = os.urandom(KEY_BYTES)
                os.pwrite(descriptor, key, 0)
                os.fsync(descriptor)
            return key
        finally:
            os.close(descriptor)

    def change(self, update: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Replace the secrets by what ``update`` returns for them; blocks until it is on the disk."""
        with translated(self.path.parent), locked(self.path.parent):
            self._refuse_replaced()
            data = self._data()
            valid = self._valid(data)
            secrets, destination = self._parse(valid)
            kept = self._destination if destination is None else destination
            new = {CONFIG: valid[CONFIG]} if CONFIG in valid else {}
            updated = update(secrets)
            new |= StoredSecrets(updated, kept).to_json()
            self._write(new if valid is data else data | {BEFORE: new})
        if self._audit is not None:  # afterwards: a secret that the service has renewed must not be lost
            self._audit.renewed(changed_names(secrets, updated))

    # -- for the one who holds the lock of the folder -----------------------------------------

    def prepare(self, new: StoredSecrets) -> None:
        """Add the secrets of a new configuration; the former ones stay valid until it is written."""
        former = self._valid(self._data()) | {CONFIG: self._digest}
        self._write(new.to_json() | {BEFORE: {key: one for key, one in former.items() if key != BEFORE}})

    def finish(self) -> None:
        """Keep only the secrets that are valid for the installation's configuration."""
        data = self._data()
        if BEFORE in data:
            valid = self._valid(data)
            self._write({key: one for key, one in valid.items() if key not in (BEFORE, CONFIG)})

    def replace(self, new: StoredSecrets) -> None:
        """Replace the secrets."""
        self._write(new.to_json())

    def _write(self, data: Mapping[str, Json]) -> None:
        replace_file(self.path, encoded(dict(data)))

    def _data(self) -> dict[str, Json]:
        return read_object(self.path) if self.path.exists() else {}

    def _valid(self, data: dict[str, Json]) -> dict[str, Json]:
        """The part of the file that belongs to this configuration."""
        before = data.get(BEFORE)
        if isinstance(before, dict) and before.get(CONFIG) == self._digest:
            return before
        return data

    def _parse(self, data: Mapping[str, Json]) -> StoredSecrets:
        """The secrets; BadCredentials when they were given for another origin."""
        secrets: dict[str, Any] = {key: one for key, one in data.items() if key not in (FOR, BEFORE, CONFIG)}
        given_for = data.get(FOR)
        if not all(isinstance(secret, str) for secret in secrets.values()):
            raise broken(self.path, "every secret must be a text")
        if not isinstance(given_for, str | None):
            raise broken(self.path, f"{FOR} must be a text")
        refuse_other_origin(self._info, given_for, self._destination, bool(secrets))
        return StoredSecrets(secrets, given_for)

    def _refuse_replaced(self) -> None:
        """ProjectError when the installation was disconnected, or replaced by another of its name."""
        if self._info is None:
            return
        path = self.path.with_name(INSTALLATION)
        if not path.exists() or read_object(path).get("id") != self._info.id:
            raise ProjectError(f"{self._info} was disconnected; its secrets were not stored")
