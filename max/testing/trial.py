"""One trial of a connector: a service, a proxy in front of it, and databases of their own.

Whatever a trial stores is compared as ``Snapshot``: every row of every entity, and who lists whom.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..connector import AnyConnector
from ..core import SyncOptions
from ..errors import UsageError
from ..installations.config import config_defaults
from ..installations.onboarding import OnboardingResult, onboard
from ..model.entities import ManyOf, Ref
from ..model.tasks import SyncResult
from ..model.values import Json
from ..upstream.credentials import MemoryCredentials
from ..upstream.hosts import PLACEHOLDER, Hosts
from ..upstream.recording import UpstreamAccess
from .harness import runtime
from .proxy import FaultyProxy
from .watch import HostWatch

if TYPE_CHECKING:
    from ..runtime import InstallationRuntime

Snapshot = Mapping[str, Mapping[str, Json]]  # by entity or collection, then by id


class Wrong(Exception):
    """A check failed; the text says what was seen."""


@dataclass
class Fake:
    """A service for ``max connector test``, and how a connector reaches it.

    ``service`` is a context manager, with or without async, whose value has ``url``: a
    ScriptedUpstream, or a fake of your own.  ``{url}`` in a text of ``config`` is the address to call;
    values that the connector's ``hosts`` name get it without being written.  ``change`` edits
    a row of the service, ``remove`` deletes one; what is left out is not tested.
    """

    service: Any
    config: Mapping[str, Json] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    change: Callable[[], object] | None = None
    remove: Callable[[], object] | None = None

    @classmethod
    def at(cls, url: str, config: Mapping[str, Json], credentials: Mapping[str, str]) -> Fake:
        """A service that runs elsewhere."""
        return cls(nullcontext(SimpleNamespace(url=url)), config, credentials)


@dataclass
class Trial:
    """A connector that is connected to a service through a proxy."""

    connector: AnyConnector
    fake: Fake
    proxy: FaultyProxy
    answers: OnboardingResult
    folder: Path
    credentials: MemoryCredentials

    @property
    def requests(self) -> int:
        """How many requests were sent so far."""
        return len(self.proxy.log)

    def at(self, name: str = "data", recording: UpstreamAccess | None = None) -> Runtime:
        """A runtime on the database of a name; ``async with trial.at() as it``."""
        path = self.folder / f"{name}.db"
        return runtime(
            self.connector, self.answers.config, self.credentials, database=path, recording=recording
        )

    async def sync(
        self, name: str = "data", *, recording: UpstreamAccess | None = None, **options: Any
    ) -> tuple[SyncResult, Snapshot]:
        """One sync into the database of a name, and what is stored then."""
        async with self.at(name, recording) as one:
            result = await (await one.sync(SyncOptions(**options))).completion()
            return result, await snapshot(one)

    async def fresh(self) -> Snapshot:
        """What a first sync stores now, in a database of its own."""
        return (await self.sync("fresh"))[1]

    async def edit(self, work: Callable[[], object]) -> None:
        """Change the data of the service."""
        made = work()
        if inspect.isawaitable(made):
            await made


Runtime = AbstractAsyncContextManager["InstallationRuntime"]


@asynccontextmanager
async def trial(connector: AnyConnector, fake: Fake, folder: Path, watch: HostWatch) -> AsyncIterator[Trial]:
    """Start a service and a proxy, connect to it, and refuse connections to other hosts meanwhile."""
    async with _entered(fake.service) as service, FaultyProxy(service.url) as proxy:
        config = answers(connector, fake.config, proxy.url)
        hosts = connector.hosts_for({**config_defaults(connector.config), **config})
        with watch.allowing(hosts, Hosts.of(proxy.url, proxy.target)):
            found = await onboard(connector, None, config, fake.credentials)
            proxy.log.clear()
            yield Trial(connector, fake, proxy, found, folder, MemoryCredentials(found.secrets))


@asynccontextmanager
async def _entered(service: Any) -> AsyncIterator[Any]:
    """The value of a context manager, with or without async."""
    if hasattr(service, "__aenter__"):
        async with service as entered:
            yield entered
    else:
        with service as entered:
            yield entered


def answers(connector: AnyConnector, config: Mapping[str, Json], url: str) -> dict[str, Json]:
    """The configuration with the service's address in it; UsageError when nothing can hold one."""
    keys = [filled[1] for pattern in connector.hosts if (filled := PLACEHOLDER.fullmatch(pattern))]
    made = {key: one.replace("{url}", url) if isinstance(one, str) else one for key, one in config.items()}
    made = {**dict.fromkeys(keys, url), **made}
    if url not in json.dumps(made):
        raise UsageError(
            f"no value of {connector.name}'s configuration holds the address of the service",
            hint='give the connector a base_url and hosts=["{base_url}"], or name the value: --set KEY={url}',
        )
    return made


async def snapshot(one: InstallationRuntime) -> Snapshot:
    """Every row that is stored, and which parent lists which child."""
    found: dict[str, dict[str, Json]] = {}
    schema = one.engine.schema
    for name, entity in schema.entities.items():
        rows = await one.engine.query(entity).all()
        found[name] = {row.id: row.to_dict() for row in rows}
        for child in entity.children():
            many: ManyOf[Any, Any] = ManyOf(entity, child)
            listed = {row.id: await _members(one, Ref(entity, row.id), many) for row in rows}
            found[f"{name}.{child}"] = {id: members for id, members in listed.items() if members}
    return found


async def _members(one: InstallationRuntime, parent: Ref[Any], many: ManyOf[Any, Any]) -> list[str]:
    ids: list[str] = []
    after = None
    while True:
        page = await one.engine.load_collection(parent, many, after=after)
        ids += [item.id for item in page.items]
        after = page.cursor
        if after is None:
            return sorted(ids)


def differences(before: Snapshot, after: Snapshot, limit: int = 3) -> list[str]:
    """What differs, as ``Entity:id.field``: the first few, and how many more."""
    found = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, {}), after.get(name, {})
        for id in sorted(old.keys() | new.keys()):
            if id not in new:
                found.append(f"{name}:{id} is missing")
            elif id not in old:
                found.append(f"{name}:{id} is new")
            elif old[id] != new[id]:
                found += _fields(f"{name}:{id}", old[id], new[id])
    more = [f"{len(found) - limit:,} more"] if len(found) > limit else []
    return [*found[:limit], *more]


def _fields(place: str, old: Json, new: Json) -> list[str]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [f"{place} differs"]
    return [f"{place}.{key} differs" for key in {**old, **new} if old.get(key, ...) != new.get(key, ...)]
