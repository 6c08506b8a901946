"""The protocol: JSON lines over a duplex stream of bytes, such as a socket or a process's standard streams.

The server speaks first; then each side sends messages, of which each is one line:

    server   {"max": "0.1.0", "protocol": 1}
    client   {"id": 1, "method": "search", "params": {"installation": "acme", …}}
             {"id": 1, "answer": "…", "prompt": 2}        to a prompt
             {"id": 1, "took": 32}                        events that were read, of a call with a window
             {"cancel": 1}
    server   {"schema": "<digest>", "is": {…}}            before the first message that needs it
             {"id": 1, "event": …}                        of a stream
             {"id": 1, "prompt": {"kind": "text", …, "number": 2}}
             {"id": 1, "result": …}                       or
             {"id": 1, "error": {"code", "message", "hint", "data"}}

Rule 1: a call gets exactly one result or error, whatever becomes of it; events and prompts come before.

Rule 2: pending work has a bound.  A connection has at most ``calls`` open calls and all connections
together ``all_calls``; a call beyond that is refused at once with DaemonBusy and is not begun.  A
message has a greatest size.  A call with a ``window`` sends no more events than that before some were
taken, so that a slow reader of one stream delays nothing else on its connection; without a window the
connection itself delays.

Rule 3: cancelling ends the wait at once, and a client that goes away cancels its calls.  A call that is
cancelled too late has its result, as rule 1 says, and a caller that asked for a change can hear of it.  A
client that takes nothing for ``patience`` seconds is dropped.

Rule 4: a message that is wrong is answered in words, and the connection lives: the next line is the next
message.  Without an id in it the answer has the id null.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core import logger
from ..errors import (
    ConnectionLost,
    DaemonBusy,
    DaemonStopping,
    Interrupted,
    MaxError,
    MethodFault,
    ProtocolError,
)
from ..model.values import Json
from .json_lines import CHUNK, LineSplitter, read_line, to_line
from .methods import find_method
from .streams import CallCancelled, Stream
from .wire import Encoded, Wire

if TYPE_CHECKING:
    from ..installations.onboarding import Prompter
    from .methods import Methods

PROTOCOL = 1
LONGEST = 16_000_000  # bytes of a message to a server
LONGEST_ANSWER = 1_000_000_000  # bytes of a message to a client, which asked for it
WINDOW = 256  # events of a stream that a client holds before it says that it took some
RETRY_AFTER = 1.0  # seconds after which a refused call may be tried again
BUFFER = 256_000  # bytes that wait to be sent before a connection makes its calls wait
FAREWELL = 1.0  # seconds that the last messages of a connection may take

log = logger("serve")


class Bounds:
    """What all connections of one server may ask at once, and whether it takes calls at all."""

    def __init__(
        self, *, calls: int = 64, all_calls: int = 512, longest: int = LONGEST, patience: float = 60.0
    ) -> None:
        self.calls, self.all_calls, self.longest, self.patience = calls, all_calls, longest, patience
        self.open_calls = 0
        self.stopping = False

    def admit(self, of_connection: int) -> None:
        """DaemonBusy or DaemonStopping when one more call of a connection may not begin."""
        if self.stopping:
            raise DaemonStopping("the daemon is stopping", hint="ask again when it runs, or without it")
        if of_connection >= self.calls:
            raise DaemonBusy(
                f"{self.calls} calls of this connection are open already", retry_after=RETRY_AFTER
            )
        if self.open_calls >= self.all_calls:
            raise DaemonBusy(f"the daemon has {self.all_calls} open calls already", retry_after=RETRY_AFTER)

    def stop(self) -> None:
        """Take no more calls."""
        self.stopping = True


async def serve_connection(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    methods: Methods,
    bounds: Bounds,
) -> None:
    """Answer one client until it goes away.  Cancelled, it ends the open calls with DaemonStopping."""
    messages = Messages(reader, writer, bounds.longest, bounds.patience)
    await _ServerConnection(messages, methods, bounds).run()


class Messages:
    """Messages over a stream of bytes, in both directions."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        longest: int,
        patience: float | None = None,
    ) -> None:
        self._reader, self._writer, self._patience = reader, writer, patience
        self._splitter, self._ended = LineSplitter(longest), False
        self._lines: deque[bytes | None] = deque()  # that were read; None: one was too long
        self._sending = asyncio.Lock()
        writer.transport.set_write_buffer_limits(BUFFER)

    async def read(self) -> dict[str, Json] | None:
        """The next message; None at the end, ProtocolError for one that cannot be understood."""
        while not self._lines:
            if self._ended:
                return None
            try:
                chunk = await self._reader.read(CHUNK)
            except OSError:
                chunk = b""
            self._ended = not chunk
            self._lines.extend(self._splitter.feed(chunk))
        return self._decoded(self._lines.popleft())

    def _decoded(self, line: bytes | None) -> dict[str, Json]:
        if line is None:
            raise ProtocolError(f"a message has at most {self._splitter.longest:,} bytes")
        try:
            message = read_line(line)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        if not isinstance(message, dict):
            raise ProtocolError("a message is a JSON object")
        return message

    async def send(self, *messages: Mapping[str, Json]) -> None:
        """Send messages one behind the other; waits while the other side does not read.

        ConnectionLost when it went away, or took nothing for as long as it may.
        """
        async with self._sending:
            try:
                self._writer.write(b"".join(map(to_line, messages)))
                await self._drain()
            except (OSError, RuntimeError) as error:
                raise ConnectionLost(f"the connection ended: {error or type(error).__name__}") from error

    async def _drain(self) -> None:
        left = self._writer.transport.get_write_buffer_size()
        while True:
            try:
                async with asyncio.timeout(self._patience):
                    return await self._writer.drain()
            except TimeoutError:
                left, before = self._writer.transport.get_write_buffer_size(), left
                if left >= before:
                    self.drop()
                    raise ConnectionLost(f"nothing was read for {self._patience:g} s") from None

    def send_soon(self, message: Mapping[str, Json]) -> None:
        """Send a short message without waiting; nothing happens when the other side is gone."""
        with suppress(OSError, RuntimeError):
            self._writer.write(to_line(message))

    def drop(self) -> None:
        """End the connection without a word."""
        transport = self._writer.transport
        if not transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()

    async def close(self) -> None:
        """End the connection once what was sent has gone, or after a moment."""
        self._writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._writer.wait_closed()
        self.drop()


# -- the side that answers -------------------------------------------------------------------


class _Call:
    """One open call: the task that answers it, and what it waits for."""

    def __init__(self, id: Json, window: int | None) -> None:
        self.id, self.window = id, window
        self.task: asyncio.Task[None] | None = None
        self.reason: MaxError = Interrupted("the call was cancelled")  # why it ends, when it is cancelled
        self.answered = False  # its result or error is being sent, and is sent whatever happens
        self.taken = asyncio.Event()
        self.prompts: dict[int, asyncio.Future[Json]] = {}


class _ServerConnection:
    """One connection of a server."""

    def __init__(self, messages: Messages, methods: Methods, bounds: Bounds) -> None:
        self._messages, self._methods, self._bounds = messages, methods, bounds
        self._wire = Wire()
        self._sent: set[str] = set()  # digests of schemas that the client has
        self._calls: dict[Json, _Call] = {}

    async def run(self) -> None:
        """Answer until the client goes away."""
        from .. import __version__

        try:
            await self._messages.send({"max": __version__, "protocol": PROTOCOL})
            while (message := await self._next()) is not None:
                await self._take(message)
        except ConnectionLost:
            pass
        except asyncio.CancelledError:
            await self._end_calls(DaemonStopping("the daemon is stopping", hint="ask again when it runs"))
            raise
        finally:
            await self._end_calls(None)
            await self._messages.close()

    async def _next(self) -> dict[str, Json] | None:
        while True:
            try:
                return await self._messages.read()
            except ProtocolError as error:
                await self._send_error(None, error)

    async def _take(self, message: dict[str, Json]) -> None:
        """Do what a message says."""
        if "cancel" in message:
            self._cancel(self._calls.get(_id(message["cancel"])))
        elif "method" in message:
            await self._begin(message)
        elif "took" in message:
            call, took = self._calls.get(_id(message.get("id"))), message["took"]
            if call is not None and call.window is not None and type(took) is int and took > 0:
                call.window += took
                call.taken.set()
        elif "prompt" in message:
            call, number = self._calls.get(_id(message.get("id"))), message["prompt"]
            waiting = call.prompts.pop(number, None) if call is not None and type(number) is int else None
            if waiting is not None and not waiting.done():
                waiting.set_result(message.get("answer"))
        else:
            await self._send_error(None, ProtocolError("a message has a method, an answer or a cancel"))

    async def _begin(self, message: dict[str, Json]) -> None:
        """Begin a call, or refuse it."""
        id, window = _id(message.get("id")), message.get("window")
        try:
            if id is None:
                raise ProtocolError("a call has an id: a text or a whole number")
            if id in self._calls:
                raise ProtocolError(f"the call {id!r} is open already")
            if window is not None and (type(window) is not int or window < 1):
                raise ProtocolError("a window is a whole number of events")
            self._bounds.admit(len(self._calls))
        except MaxError as error:
            await self._send_error(None if id in self._calls else id, error)
            return
        call = self._calls[id] = _Call(id, window)
        self._bounds.open_calls += 1
        call.task = asyncio.create_task(self._answer(call, message))
        call.task.add_done_callback(lambda _: self._ended(call))
        await asyncio.sleep(0)  # it begins, so that what cancels it is answered

    def _ended(self, call: _Call) -> None:
        self._calls.pop(call.id, None)
        self._bounds.open_calls -= 1

    async def _answer(self, call: _Call, message: dict[str, Json]) -> None:
        """Answer a call: its events, and then its result or error."""
        error: MaxError | None = None
        end = Encoded(None)
        try:
            end = await self._result(call, message)
        except asyncio.CancelledError:
            error = call.reason
        except MaxError as raised:
            error = raised
        call.answered = True
        with suppress(ConnectionLost):
            if error is None:
                await self._send({"id": call.id}, "result", end)
            else:
                await self._send_error(call.id, error)

    async def _result(self, call: _Call, message: dict[str, Json]) -> Encoded:
        name, params = message["method"], message.get("params", {})
        if not isinstance(name, str) or not isinstance(params, dict):
            raise ProtocolError('"method" is a text, and "params" an object')
        find_method(name)
        prompter = (
            RemotePrompter(call.prompts, partial(self._send_prompt, call)) if message.get("prompts") else None
        )
        try:
            answer = self._methods.answer(name, params, prompter)
            if isinstance(answer, Stream):
                async with aclosing(answer):
                    async for item in answer:
                        await self._send_event(call, self._wire.encode(item))
                    return self._wire.encode(await answer.result())
            return self._wire.encode(await answer)
        except MaxError:
            raise
        except Exception as error:
            log.exception("the method %s failed", name)
            raise fault(name, error) from error

    async def _send_prompt(self, call: _Call, prompt: dict[str, Json]) -> None:
        await self._messages.send({"id": call.id, "prompt": prompt})

    async def _send_event(self, call: _Call, item: Encoded) -> None:
        while call.window is not None and call.window <= 0:
            call.taken.clear()
            await call.taken.wait()
        if call.window is not None:
            call.window -= 1
        await self._send({"id": call.id}, "event", item)

    async def _send(self, head: dict[str, Json], name: str, encoded: Encoded) -> None:
        new = [digest for digest in encoded.schemas if digest not in self._sent]
        self._sent.update(new)
        needed = {"schemas": list(encoded.schemas)} if encoded.schemas else {}
        known = [{"schema": digest, "is": self._wire.schemas.text(digest)} for digest in new]
        await self._messages.send(*known, {**head, name: encoded.data, **needed})

    async def _send_error(self, id: Json, error: MaxError) -> None:
        encoded = self._wire.encode(error)
        await self._send({"id": id}, "error", encoded._replace(data=encoded.data["$error"]))

    def _cancel(self, call: _Call | None) -> None:
        if call is not None and call.task is not None and not call.answered:
            call.task.cancel()

    async def _end_calls(self, reason: MaxError | None) -> None:
        """Cancel every open call; one that does not end soon is left behind."""
        calls = list(self._calls.values())
        for call in calls:
            call.reason = reason or call.reason
            self._cancel(call)
        if calls:
            await asyncio.wait([call.task for call in calls if call.task is not None], timeout=FAREWELL)


def _id(value: Json) -> Json:
    """The id of a call; None when it is none."""
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def fault(name: str, error: Exception) -> MethodFault:
    """The answer of a method that raised what is no MaxError: a bug, or a file that cannot be read."""
    if isinstance(error, OSError):
        return MethodFault(f"{name}: {error.filename or 'the project'}: {error.strerror or error}")
    return MethodFault(
        f"{name} failed: {type(error).__name__}: {error}", hint="this is a bug of Max; its log has the place"
    )


class RemotePrompter:
    """Asks the person at the other end of a connection.

    ``waiting`` gets a future for each open question, by its number; ``send`` sends one.
    """

    def __init__(
        self,
        waiting: dict[int, asyncio.Future[Json]],
        send: Callable[[dict[str, Json]], Awaitable[None]],
    ) -> None:
        self._waiting, self._send = waiting, send
        self._number = 0
        self._lines: list[str] = []  # to show before the next question

    async def text(self, prompt: str, default: str | None) -> str:
        return str(await self._ask(kind="text", prompt=prompt, default=default))

    async def secret(self, prompt: str) -> str:
        return str(await self._ask(kind="secret", prompt=prompt))

    async def choose(self, prompt: str, options: Sequence[tuple[str, str]], several: bool) -> Sequence[str]:
        found = await self._ask(kind="choose", prompt=prompt, options=list(options), several=several)
        if not isinstance(found, list):
            raise ProtocolError("the answer to a choice is a list of values")
        return [str(one) for one in found]

    async def confirm(self, prompt: str) -> bool:
        return bool(await self._ask(kind="confirm", prompt=prompt))

    def say(self, line: str) -> None:
        self._lines.append(line)

    async def _ask(self, **prompt: Json) -> Json:
        self._number += 1
        answer = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        lines, self._lines = self._lines, []
        await self._send({**prompt, "lines": lines, "number": self._number})
        return await answer


# -- the side that asks ------------------------------------------------------------------------


class _Asked:
    """One call of ours: what came for it and was not read yet."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Json]] = asyncio.Queue()  # no more than a window of them
        self.ended = False  # whether its result or its error was read


class ClientConnection:
    """The side of a connection that asks: sends calls, and gives each its answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._messages = Messages(reader, writer, LONGEST_ANSWER)
        self._wire = Wire()
        self._asked: dict[int, _Asked] = {}
        self._last = 0
        self._lost: MaxError | None = None
        self._late: set[asyncio.Task[Any]] = set()  # that wait for what became of cancelled calls
        self._reading: asyncio.Task[None] | None = None
        self.version = ""  # of Max, at the other side

    async def start(self) -> None:
        """Read the greeting; ProtocolError when the other side is of another version."""
        from .. import __version__

        greeting = await self._messages.read()
        if greeting is None:
            raise ConnectionLost("the connection ended before the greeting")
        known = {"max": __version__, "protocol": PROTOCOL}
        if {name: greeting.get(name) for name in known} != known:
            theirs = f"max {greeting.get('max')}, protocol {greeting.get('protocol')}"
            raise ProtocolError(
                f"the other side is {theirs:.100}, this one is max {__version__}, protocol {PROTOCOL}",
                hint="a daemon of this version: max daemon restart",
            )
        self.version = greeting["max"]
        self._reading = asyncio.create_task(self._read(), name="max-client")

    async def stop(self) -> None:
        """End the connection; open calls end with ConnectionLost."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._end(ConnectionLost("the connection was closed"))
        await self._messages.close()

    async def _read(self) -> None:
        try:
            while (message := await self._messages.read()) is not None:
                if "schema" in message:
                    self._wire.schemas.learn(message["is"])
                    continue
                asked = self._asked.get(message.get("id", 0))
                if asked is not None:
                    asked.messages.put_nowait(message)
                elif message.get("id") is None and "error" in message:
                    raise self._error(message)
            self._end(ConnectionLost("the connection ended before the answer", hint="is it still running?"))
        except asyncio.CancelledError:
            raise
        except MaxError as error:
            self._end(error)
        except Exception as error:
            self._end(ProtocolError(f"an answer cannot be read: {type(error).__name__}: {error}"))

    def _end(self, error: MaxError) -> None:
        if self._lost is None:
            self._lost = error
            for asked in self._asked.values():
                asked.messages.put_nowait({})

    def _error(self, message: dict[str, Json]) -> MaxError:
        found: MaxError = self._wire.decode({"$error": message["error"]}, message.get("schemas", ()))
        return found

    async def call(
        self,
        name: str,
        params: Mapping[str, Json],
        prompter: Prompter | None = None,
        *,
        changes: bool = False,
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """Ask a method: ``("event", …)`` for each event, and ``("result", …)`` at the end; or its error.

        Closing the generator early cancels the call.  When what ``changes`` something is cancelled, it
        raises CallCancelled.
        """
        if self._lost is not None:
            raise self._lost
        self._last += 1
        id, asked = self._last, _Asked()
        self._asked[id] = asked
        sent, taken, answer = False, 0, None
        try:
            prompts = {"prompts": True} if prompter is not None else {}
            message = {"id": id, "method": name, "params": params, "window": WINDOW, **prompts}
            await self._messages.send(message)
            sent = True
            while True:
                kind, value = await self._wanted(id, asked, prompter)
                yield kind, value
                if kind == "result":
                    return
                taken += 1
                if taken == WINDOW // 2:
                    await self._messages.send({"id": id, "took": taken})
                    taken = 0
        except asyncio.CancelledError:
            if not changes or not sent:
                raise
            answer = self._to_come(id, asked)
            raise CallCancelled(answer) from None
        finally:
            if answer is None:
                del self._asked[id]
            if not asked.ended and self._lost is None:
                self._forget(id)

    async def _wanted(self, id: int, asked: _Asked, prompter: Prompter | None) -> tuple[str, Any]:
        """The next event of a call, or its result, or its error; questions are answered meanwhile."""
        while not isinstance(came := await self._next(asked), MaxError):
            for kind in ("result", "event"):
                if kind in came:
                    return kind, self._decoded(came, kind)
            if "prompt" in came and prompter is not None:
                await self._prompt(id, came["prompt"], prompter)
        raise came

    def _to_come(self, id: int, asked: _Asked) -> asyncio.Task[Any]:
        """What comes for a call that is cancelled: its result, if the other side had it first; else None."""

        async def last() -> Any:
            while not isinstance(came := await self._next(asked), MaxError):
                if "result" in came:
                    return self._decoded(came, "result")
            return None

        def done(answer: asyncio.Task[Any]) -> None:
            del self._asked[id]
            self._late.discard(answer)

        answer = asyncio.create_task(last(), name="max-late")
        self._late.add(answer)
        answer.add_done_callback(done)
        return answer

    async def _next(self, asked: _Asked) -> dict[str, Json] | MaxError:
        """The next message for a call; its error, or why none will come."""
        if self._lost is not None and asked.messages.empty():
            return self._lost
        came = await asked.messages.get()
        asked.ended = "error" in came or "result" in came
        return self._error(came) if "error" in came else came

    def _decoded(self, message: dict[str, Json], name: str) -> Any:
        return self._wire.decode(message[name], message.get("schemas", ()))

    def _forget(self, id: int) -> None:
        """Cancel a call of which no more is wanted, without waiting for anything."""
        self._messages.send_soon({"cancel": id})

    async def _prompt(self, id: int, prompt: dict[str, Json], prompter: Prompter) -> None:
        for line in prompt.get("lines", ()):
            prompter.say(line)
        ask: Mapping[str, Callable[[], Coroutine[Any, Any, Any] | Awaitable[Any]]] = {
            "text": lambda: prompter.text(prompt["prompt"], prompt["default"]),
            "secret": lambda: prompter.secret(prompt["prompt"]),
            "choose": lambda: prompter.choose(
                prompt["prompt"], [(value, label) for value, label in prompt["options"]], prompt["several"]
            ),
            "confirm": lambda: prompter.confirm(prompt["prompt"]),
        }
        answer = await ask[prompt["kind"]]()
        answer = list(answer) if prompt["kind"] == "choose" else answer
        await self._messages.send({"id": id, "answer": answer, "prompt": prompt["number"]})
