"""Surroundings: what a loader is given, and what the tasks of a sync share.

Rule: a value that loaders share is loaded by nobody's task: cancelling whoever asked first
takes it from nobody else, and loads that wait for one another are refused, not waited for.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from ..connector import Connector
from ..core import Engine, SyncMeta
from ..errors import LoaderFault
from ..model.entities import V
from ..model.loaders import Env, In, Out, OutsideCall, RawLoader
from ..model.settings import DEFAULTS, Settings
from ..model.tasks import Task
from ..upstream.operations import Operation, OperationRunner

Clock = Callable[[], float]  # seconds since the epoch
MOMENT = 1e-6  # seconds; about the least difference of two times in this century


class RawCache:
    """What raw loaders gave in this sync: each runs once, however many ask at the same time.

    A load belongs to nobody: it runs in the context in which the sync was begun, and goes on
    when the task that asked first is cancelled.
    """

    def __init__(self) -> None:
        self._loads: dict[RawLoader[Any, Any], asyncio.Task[Any]] = {}
        self._asked: dict[RawLoader[Any, Any], list[RawLoader[Any, Any]]] = {}  # by the raw loader that asked
        self._context = contextvars.copy_context()

    async def get(self, loader: RawLoader[Any, V], env: LoaderEnv) -> V:
        """The value; a load that failed is forgotten, so that the next one to ask tries again.

        LoaderFault when a raw loader asks for what waits for itself.
        """
        if env.asker is not None:
            self._refuse_circle(env.asker, loader)
        load = self._loads.get(loader)
        if load is None:
            load = asyncio.create_task(
                _awaited(loader.load(env.within(loader))), context=self._context.copy()
            )
            self._loads[loader] = load
            load.add_done_callback(partial(self._forget_failure, loader))
        return cast(V, await asyncio.shield(load))

    def _refuse_circle(self, asker: RawLoader[Any, Any], loader: RawLoader[Any, Any]) -> None:
        needed = [loader]
        for one in needed:
            needed += [other for other in self._asked.get(one, ()) if other not in needed]
        if asker in needed:
            raise LoaderFault(
                f"raw loader {asker.name} asks for {loader.name}, which waits for {asker.name}",
                hint="this is a bug of the connector: let one of them do without the other",
            )
        self._asked.setdefault(asker, []).append(loader)

    def _forget_failure(self, loader: RawLoader[Any, Any], load: asyncio.Task[Any]) -> None:
        if load.cancelled() or load.exception() is not None:
            del self._loads[loader]

    async def close(self) -> None:
        """End what nobody waits for any more."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)


async def _awaited(awaitable: Awaitable[V]) -> V:
    return await awaitable


class LoaderEnv(Env[Any]):
    """What one attempt of one task gives its loader; ``asker`` is the raw loader that it is for, if any."""

    def __init__(
        self,
        surroundings: SyncContext,
        task: Task,
        shared: RawCache,
        asker: RawLoader[Any, Any] | None = None,
    ) -> None:
        self._surroundings, self._task, self._shared = surroundings, task, shared
        self.asker = asker

    def within(self, loader: RawLoader[Any, Any]) -> LoaderEnv:
        """The same for a raw loader that runs on the task's behalf."""
        return LoaderEnv(self._surroundings, self._task, self._shared, loader)

    @property
    def context(self) -> Any:
        """What ``initialise`` built."""
        return self._surroundings.context

    @property
    def installation(self) -> str:
        """The installation's id."""
        return self._surroundings.installation

    @property
    def version(self) -> str:
        """The connector's version."""
        return self._surroundings.connector.version

    @property
    def sync(self) -> str:
        """The sync's id."""
        return self._task.sync

    @property
    def task(self) -> int:
        """The task's number."""
        return self._task.id

    @property
    def attempt(self) -> int:
        """How often the task has been begun."""
        return self._task.attempt

    @property
    def deadline(self) -> float | None:
        """Tasks have none; every operation has its own."""
        return None

    async def run(self, operation: OutsideCall[Any, In, Out], input: In) -> Out:
        """Run an operation through the chain."""
        if not isinstance(operation, Operation):
            raise LoaderFault(f"{operation!r} is no operation", hint="decorate it with @operation(…)")
        connector = self._surroundings.connector
        if operation not in connector.operations:
            raise LoaderFault(
                f"{connector.name} does not declare the operation {operation.name}",
                hint="nothing was asked; add it to the connector's operations=",
            )
        return cast(Out, await self._surroundings.runner.run(operation, self.context, input))

    async def raw(self, loader: RawLoader[Any, V]) -> V:
        """What a raw loader gives, loaded once in a sync."""
        return await self._shared.get(loader, self)


@dataclass
class MonotonicClock:
    """The earliest time that can come next, in seconds since the epoch."""

    at: float = 0.0


@dataclass(frozen=True)
class SyncContext:
    """What every task of an installation shares."""

    installation: str
    connector: Connector[Any, Any]
    context: Any
    engine: Engine
    meta: SyncMeta
    runner: OperationRunner
    clock: Clock = time.time
    jitter: Callable[[], float] = random.random
    settings: Settings = DEFAULTS
    floor: MonotonicClock = field(default_factory=MonotonicClock)

    def now(self) -> float:
        """When a request begins or has ended: later than whatever was before it, as no clock promises.

        What was listed after what is a matter of life and death for a row; so it is told apart
        even where the clock stands, or was set back behind what is stored.
        """
        at = max(self.clock(), self.floor.at)
        self.floor.at = at + MOMENT
        return at
