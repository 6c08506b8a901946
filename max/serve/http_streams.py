"""Answers that come in parts, as server-sent events.

    data: {…}                  an event; ``id:`` is the cursor behind it, where it has one

    event: prompt              a question: {"kind": "text", "prompt": …, "answer_at": "/prompts/…"}
    data: {…}

    event: end                 the last one: {"result": …} or {"error": {…}}
    data: {…}

Rule 1: what goes wrong in the first moment is the answer's status; later it is the stream's end.

Rule 2: a reader that takes nothing is dropped, and delays nothing but its own stream.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core import in_thread, logger
from ..errors import DaemonBusy, DaemonStopping, HttpRefused, MaxError
from ..model.values import Json
from .plain_json import plain
from .protocol import RemotePrompter, fault
from .streams import Stream
from .wire import Wire

if TYPE_CHECKING:
    from ..model.asgi import Send
    from .http_app import HttpApp, Request
    from .method import Method

PLAIN, EVENTS = "application/json", "text/event-stream"
WIRE = "application/vnd.max+json"  # the type of answers that Client reads: nothing is lost in them
FIRST = 1.0  # seconds in which an error is still the answer's status
CURSORS = ("cursor", "number")  # the attribute of an event that is the cursor behind it

log = logger("http")


class Part(NamedTuple):
    """One part of a stream: ``event``, ``prompt`` or ``end``."""

    kind: str
    value: Any = None
    error: MaxError | None = None


class Prompts:
    """The questions that are open, by the address at which each is answered."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, asyncio.Future[Json]]] = {}

    @asynccontextmanager
    async def call(self) -> AsyncIterator[tuple[str, dict[int, asyncio.Future[Json]]]]:
        """A call that may ask: its name in addresses, and its questions."""
        name = secrets.token_urlsafe(16)
        self._open[name] = {}
        try:
            yield name, self._open[name]
        finally:
            del self._open[name]

    def answer(self, call: str, number: str, answer: Json) -> None:
        """Answer a question; HttpRefused when it is not open."""
        found = self._open.get(call, {})
        waiting = found.pop(int(number), None) if number.isdecimal() and len(number) < 10 else None
        if waiting is None or waiting.done():
            raise HttpRefused(404, "this question is not open", hint="it was answered, or its call ended")
        waiting.set_result(answer)


class EventStream:
    """The answer of a method as server-sent events."""

    def __init__(self, app: HttpApp, method: Method, params: dict[str, Json], request: Request) -> None:
        self._app, self._method, self._params, self._request = app, method, params, request
        self._bounds = app.request_bounds
        self._wire = Wire()
        self._as_wire = WIRE in request.accepts
        self._parts: asyncio.Queue[Part] = asyncio.Queue(1)  # the source waits for the reader

    async def send(self, send: Send) -> None:
        """Send it, until its end or until its reader is gone."""
        if self._app.open_streams >= self._bounds.streams:
            raise DaemonBusy(f"{self._bounds.streams} streams are open already", retry_after=1.0)
        self._app.open_streams += 1
        source = asyncio.create_task(self._fill())
        gone = asyncio.create_task(self._gone())
        stopping = asyncio.create_task(self._app.stopping.wait())
        try:
            await self._copy(send, gone, stopping)
        finally:
            self._app.open_streams -= 1
            for task in (source, gone, stopping):
                task.cancel()
            await asyncio.wait([source, gone, stopping])

    async def _gone(self) -> None:
        """Return when the reader is gone."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    # -- the source

    async def _fill(self) -> None:
        """Put every part of the answer into the queue."""
        try:
            async with self._app.prompts.call() as (call, questions):
                asking = RemotePrompter(questions, lambda prompt: self._put_prompt(call, prompt))
                result = await self._result(asking if self._method.prompts else None)
            end = Part("end", result)
        except MaxError as error:
            end = Part("end", error=error)
        except Exception as error:
            log.exception("the method %s failed", self._method.name)
            end = Part("end", error=fault(self._method.name, error))
        await self._parts.put(end)

    async def _result(self, prompter: RemotePrompter | None) -> Any:
        answer = self._app.methods.answer(self._method.name, self._params, prompter)
        if not isinstance(answer, Stream):
            return await answer
        async with aclosing(answer):
            async for item in answer:
                await self._parts.put(Part("event", item))
            return await answer.result()

    async def _put_prompt(self, call: str, prompt: dict[str, Json]) -> None:
        await self._parts.put(Part("prompt", {**prompt, "answer_at": f"/prompts/{call}/{prompt['number']}"}))

    # -- the reader

    async def _copy(self, send: Send, gone: asyncio.Task[None], stopping: asyncio.Task[Any]) -> None:
        """Copy the parts to the reader; comments while there are none."""
        begun, patience = False, FIRST
        while True:
            part = await self._next(patience, gone, stopping)
            if gone.done():
                return
            if not begun and part is not None and part.error is not None:
                raise part.error
            if not begun:
                await send(HEAD)
                begun, patience = True, self._bounds.keep_alive
            last = part is not None and part.kind == "end"
            if part is None:
                data = b":\n\n"
            else:  # the result may be large
                data = await in_thread(partial(self._text, part)) if last else self._text(part)
            message = {"type": "http.response.body", "body": data, "more_body": not last}
            try:
                async with asyncio.timeout(self._bounds.write_time):
                    await send(message)
            except TimeoutError:
                raise ConnectionResetError("the reader takes nothing") from None
            if last:
                return

    async def _next(
        self, patience: float, gone: asyncio.Task[None], stopping: asyncio.Task[Any]
    ) -> Part | None:
        """The next part; None when there is none for so long, or the reader is gone."""
        getting = asyncio.create_task(self._parts.get())
        try:
            await asyncio.wait(
                [getting, gone, stopping], timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if getting.done():
                return getting.result()
        finally:
            getting.cancel()
            with suppress(asyncio.CancelledError):
                await getting
        if stopping.done():
            return Part("end", error=DaemonStopping("the daemon is stopping", hint="ask again when it runs"))
        return None

    def _text(self, part: Part) -> bytes:
        """A part as the text of an event."""
        data: Json
        lines = [] if part.kind == "event" else [f"event: {part.kind}"]
        if part.error is not None:
            data = {"error": self._encoded(part.error)}
        elif part.kind == "end":
            data = {"result": self._encoded(part.value)}
        else:
            data = part.value if part.kind == "prompt" else self._encoded(part.value)
            cursor = next((getattr(part.value, name) for name in CURSORS if hasattr(part.value, name)), None)
            lines += [] if cursor is None else [f"id: {cursor}"]
        lines.append(f"data: {json.dumps(data, separators=(',', ':'))}")
        return "\n".join([*lines, "", ""]).encode("utf-8")

    def _encoded(self, value: Any) -> Json:
        return self._wire.encode_whole(value) if self._as_wire else plain(value)


HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # a proxy must not hold events back
    ],
}
