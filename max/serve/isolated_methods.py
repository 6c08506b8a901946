"""The methods of a project whose installations work in processes of their own.

What needs a connector's code is answered by such a process, so that none of it runs in this one: what begins
a sync, by the runtime; what is in RUN_CODE, whole.  A new source has no process yet: one is started for
its onboarding, whose questions cross to the caller, and ends with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionLost, RunnerFailed
from ..model.settings import DEFAULTS
from .method import PROMPTER, Method
from .methods import Methods
from .remote_runtime import RemoteRuntime
from .supervisor import NotStarted, Runner

if TYPE_CHECKING:
    from .client import Client

RUN_CODE = ("connect", "invalidate", "schedule")


class IsolatedMethods(Methods):
    """The methods of a daemon that isolates its installations."""

    async def _written(self, method: Method, arguments: dict[str, Any]) -> Any:
        if method.name not in RUN_CODE or (method.name == "schedule" and not arguments.get("only")):
            return await super()._written(method, arguments)
        if "installation" not in arguments:
            async with self._for_onboarding() as client:
                return await ask(client, method, arguments)
        runtime = await self.project.prepared(arguments["installation"])
        if not isinstance(runtime, RemoteRuntime):
            return await super()._written(method, arguments)
        return await runtime.ask(lambda client: ask(client, method, arguments))

    @asynccontextmanager
    async def _for_onboarding(self) -> AsyncIterator[Client]:
        """The client of a process that belongs to no installation, which ends at the end."""
        try:
            runner = await Runner.start(self.project.manager, "", DEFAULTS)
        except NotStarted as failed:  # what it printed may hold a secret, and nothing says which
            raise RunnerFailed(f"the process of the onboarding {failed.reason}") from failed
        try:
            yield runner.client
        except ConnectionLost:
            await runner.has_ended(1.0)
            raise RunnerFailed(f"the process of the onboarding {runner.reason}") from None
        finally:
            await runner.stop()


async def ask(client: Client, method: Method, arguments: dict[str, Any]) -> Any:
    """What another process answers to a call that came here."""
    prompts = {PROMPTER: arguments[PROMPTER]} if PROMPTER in arguments else {}
    given = {name: value for name, value in arguments.items() if name != PROMPTER}
    return await getattr(client, method.name)(**given, **prompts)
