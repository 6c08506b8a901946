"""Webhooks over HTTP: what a service sends to ``/hooks/INSTALLATION``, and what it is answered.

Rule 1: no token is asked for.  The signature is the identity, and the connector's own rule checks it, in the
process of the installation: this one has neither its code nor its secret.

Rule 2: 200 says that the hook is stored, or need not be.  Services send again what is answered
otherwise, and Linear takes no other status for success.

Rule 3: an unknown sender learns nothing: the words are the same whatever was wrong.  The log has the reason.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..core import Lifecycle, in_thread, logger
from ..errors import DaemonBusy, HookRefused, LoaderFault, MaxError, StorageError, UsageError
from ..model.actor import acting_as
from ..upstream.webhooks import LONGEST_BODY

if TYPE_CHECKING:
    from ..model.values import Json
    from .methods import Methods

AT_ONCE = 16  # hooks that are checked and stored at the same time
RETRY_AFTER = 60.0  # seconds, when an installation cannot take one
SOON = 1.0  # seconds, when others are being stored
WORDS = {
    400: "the body is no JSON object",
    401: "the signature is not that of this installation's service",
    404: "no webhook is received here",
    413: "the body is too long",
    415: "a webhook has a body of application/json",
    500: "the connector could not read this webhook",
    503: "try again later",
}

log = logger("hooks")


class HookAnswer(NamedTuple):
    """What a service is answered: the status of HTTP, JSON data, and after how many seconds to try again."""

    status: int
    data: Mapping[str, Json]
    retry_after: float | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers beside those of every answer."""
        after = self.retry_after
        return [] if after is None else [("retry-after", f"{math.ceil(after)}")]


class Hooks(Lifecycle):
    """Takes hooks for the installations of a project.

    As a service it begins with those that a process before this one has left in an inbox.
    """

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._open = 0
        self._left: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Have left hooks fetched, in the background; returns at once."""
        self._left = asyncio.create_task(self._fetch_left(), name="hooks that were left")

    async def _fetch_left(self) -> None:
        project = self._methods.project
        for info in await project.installations():
            with suppress(MaxError):
                if await in_thread(partial(self._has_left, str(info))):
                    await (await project.runtime(str(info))).process_hooks()

    async def stop(self) -> None:
        """Look no further; what was answered is on the disk."""
        if self._left is not None:
            self._left.cancel()
            await asyncio.wait([self._left])

    def _has_left(self, installation: str) -> bool:
        with suppress(StorageError), self._methods.project.read(installation) as reader:
            return reader.has_hooks()
        return False

    async def receive(self, installation: str, headers: Mapping[str, str], body: bytes) -> HookAnswer:
        """Take a hook, with its headers by name in small letters."""
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refusal(415)
        if len(body) > LONGEST_BODY:
            return refusal(413)
        if self._open >= AT_ONCE:
            return refusal(503, SOON)
        self._open += 1
        try:
            with acting_as("hook"):
                text = base64.b64encode(body).decode()
                receipt = await self._methods.receive_hook(installation, headers, text)
        except MaxError as error:
            log.warning("a hook of %.100s is not taken: %s", installation, error)
            return answer_to(error)
        finally:
            self._open -= 1
        return HookAnswer(200, {"state": str(receipt.state)})


def answer_to(error: MaxError) -> HookAnswer:
    """What the sender of a hook learns of an error."""
    if isinstance(error, HookRefused):
        return refusal(error.status)
    if isinstance(error, DaemonBusy):
        return refusal(503, error.retry_after)
    if isinstance(error, UsageError):  # there is no such installation
        return refusal(404)
    return refusal(500) if isinstance(error, LoaderFault) else refusal(503, RETRY_AFTER)


def refusal(status: int, retry_after: float | None = None) -> HookAnswer:
    """A status with its words."""
    error = {"code": "hook.refused", "message": WORDS[status], "hint": "", "data": {}}  # as every error
    return HookAnswer(status, {"error": error}, retry_after)
