"""A connector in a runtime of its own, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..connector import Connector
from ..model.settings import InstallationInfo, Settings
from ..model.values import Json
from ..upstream.credentials import Credential, CredentialProvider, CredentialStore, MemoryCredentials
from ..upstream.hosts import Hosts
from ..upstream.recording import UpstreamAccess
from .clock import running_clock

if TYPE_CHECKING:
    from ..runtime import InstallationRuntime

Config = TypeVar("Config")


def credentials_for(*urls: str, **secrets: str) -> CredentialProvider:
    """What ``initialise`` is given: these addresses may be called, and these secrets exist."""
    declared = [Credential(name) for name in secrets]
    return CredentialProvider(MemoryCredentials(secrets), declared, Hosts.of(*urls))


@asynccontextmanager
async def runtime(
    connector: Connector[Config, Any],
    config: Config | Mapping[str, Json],
    credentials: Mapping[str, str] | CredentialStore | None = None,
    *,
    database: Path | str = ":memory:",
    recording: UpstreamAccess | None = None,
    settings: Settings | None = None,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[InstallationRuntime]:
    """A started runtime of a connector, without a project: ``async with runtime(connector, config) as it``.

    ``config`` is what the connector's configuration class makes, or a mapping with its values.
    ``credentials`` are texts by the names that the connector declares, or a store of them.  The
    database is in memory, or in the file that is named.  ``clock`` is the FakeClock that runs the
    loop, or the real time.
    """
    from ..installations.config import read_config
    from ..runtime import InstallationRuntime
    from ..storage.sqlite import SqliteDatabase

    values = dict(config) if isinstance(config, Mapping) else {}
    about = f"the configuration of {connector.name}"
    read = read_config(connector.config, values, subject=about) if isinstance(config, Mapping) else config
    info = InstallationInfo(
        connector.name, "default", f"{connector.name}-1", values, 0.0, settings or Settings()
    )
    store = MemoryCredentials(credentials) if isinstance(credentials, Mapping | None) else credentials
    provider = CredentialProvider(store, connector.credentials, connector.hosts_for(read))
    made = InstallationRuntime(
        info,
        connector,
        read,
        provider,
        SqliteDatabase(database, durability=info.settings.durability),
        recording=recording,
        clock=clock or running_clock(),
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
