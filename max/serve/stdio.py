"""A connection over the standard streams: one message a line, stdout carries messages alone.

Rule 1: stdout's own descriptor is taken away before anything else runs.  What a connector, a
library or a child process prints goes to stderr.

Rule 2: requests are answered one after the other, in the order in which they came; a thread reads
ahead, so that a request can be cancelled while it waits or runs.

Rule 3: the end of the input ends the process, after what was asked is answered.  A reader that
went away ends it as well: there is no one left to answer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..model.values import Json
from .json_lines import CHUNK, LineSplitter, take_stdout
from .mcp import INVALID, Refusal, decoded

if TYPE_CHECKING:
    from .mcp import Connection

LONGEST = 1_000_000  # bytes of a message; a longer one is refused without being kept


def serve(
    connection: Connection, encode: Callable[[Json], str], interrupt: Callable[[], None] = lambda: None
) -> None:
    """Answer until the input ends.

    ``encode`` writes an answer on one line; ``interrupt`` ends what runs when its request is
    cancelled, and is called from another thread.
    """
    output = take_stdout()
    inbox = Inbox(interrupt)
    threading.Thread(target=inbox.fill, args=(lines(0),), name="max-mcp-input", daemon=True).start()
    try:
        for message in inbox:
            answer = message.to_json(None) if isinstance(message, Refusal) else connection.answer(message)
            if answer is not None and not inbox.was_cancelled(message):
                _write(output, f"{encode(answer)}\n".encode("utf-8", "backslashreplace"))
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        os.close(output)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def lines(descriptor: int) -> Iterator[bytes | Refusal]:
    """The lines of a descriptor until its end; a Refusal for one that is too long."""
    splitter, chunk = LineSplitter(LONGEST), b" "
    while chunk:
        chunk = os.read(descriptor, CHUNK)
        for line in splitter.feed(chunk):
            yield too_long() if line is None else line


def too_long() -> Refusal:
    """The refusal of a line whose id was not read."""
    return Refusal(INVALID, f"a message has at most {LONGEST:,} bytes")


class Inbox:
    """Messages as they come, and which of them were cancelled.  Filled by one thread, read by another."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._waiting: SimpleQueue[Json | Refusal] = SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[str | int] = set()  # ids of requests that are not answered yet
        self._cancelled: set[str | int] = set()
        self._running: str | int | None = None
        self._interrupt = interrupt

    def fill(self, source: Iterator[bytes | Refusal]) -> None:
        """Read a source to its end."""
        for line in source:
            try:
                message = decoded(line) if isinstance(line, bytes) else line
            except Refusal as refusal:
                message = refusal
            if not self._cancels(message):
                with self._lock:
                    self._open |= ids(message)
                self._waiting.put(message)
        self._waiting.put(END)

    def _cancels(self, message: Json | Refusal) -> bool:
        """Whether a message cancels a request; then that is remembered, when the request is open."""
        if not isinstance(message, dict) or message.get("method") != "notifications/cancelled":
            return False
        params = message.get("params")
        id = params.get("requestId") if isinstance(params, dict) else None
        with self._lock:
            if not isinstance(id, str | int) or id not in self._open:
                return True
            self._cancelled.add(id)
            running = id == self._running
        if running:
            self._interrupt()
        return True

    def __iter__(self) -> Iterator[Json | Refusal]:
        """Each message that was not cancelled before its turn, until the end."""
        while (message := self._waiting.get()) is not END:
            with self._lock:
                mine = ids(message)
                self._running = next(iter(mine), None)
                skipped = bool(mine) and mine <= self._cancelled
            if not skipped:
                yield message
            with self._lock:
                self._running = None
                self._open -= mine
                self._cancelled -= mine

    def was_cancelled(self, message: Json | Refusal) -> bool:
        """Whether a request was cancelled while it ran."""
        with self._lock:
            mine = ids(message)
            return bool(mine) and mine <= self._cancelled


END = object()


def ids(message: Json | Refusal) -> set[str | int]:
    """The id of a request, or those of a batch."""
    several = message if isinstance(message, list) else [message]
    found = (one.get("id") for one in several if isinstance(one, dict) and "method" in one)
    return {id for id in found if isinstance(id, str | int) and not isinstance(id, bool)}
