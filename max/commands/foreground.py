"""A sync in the foreground: its progress on stderr, and what Ctrl-C does to it.

The first Ctrl-C (or SIGTERM) pauses the sync after the requests under way; the second ends the
process at once.  Neither loses anything: a page is stored as a whole or not at all.

With ``-o ndjson`` events replace the progress, as lines of JSON on stdout.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO, cast

from ..core import EventStream, InstallationInfo, Runtime, Sync
from ..errors import Interrupted
from ..model.sync_events import Event, Progress
from ..model.tasks import SyncResult
from ..project import Project
from ..serve.streams import CallCancelled
from ..upstream.recording import UpstreamAccess
from . import streams
from .console import console
from .terminal import ProgressView, elapsed_time
from .text import counted, json_text, sanitize, until

Begin = Callable[[Runtime], Awaitable[Sync]]

TICK = 1.0  # seconds between two looks at the clock
SILENCE = 5.0  # seconds without news after which a sync says so
TRY = re.compile(r"try \d+ of \d+: ")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Foreground:
    """Runs one sync: its progress goes to ``stream``, or with ``events`` its events to stdout.

    ``exit_status`` is that of a process which a signal ended: 143 after SIGTERM, as supervisors expect.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        events: bool = False,
        quiet: bool = False,
        expected: Mapping[str, int] | None = None,
    ) -> None:
        self._view = ProgressView(stream, now=time.monotonic(), expected=expected)
        self._events, self._quiet = events, quiet
        self.exit_status = Interrupted.exit_status
        self._handle: Sync | None = None
        self._runtime: Runtime | None = None
        self._interruptions = 0
        self._pausing: asyncio.Task[None] | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self._interruptions > 0

    async def sync(
        self,
        project: Project[Runtime],
        info: InstallationInfo,
        begin: Begin,
        recording: UpstreamAccess | None = None,
    ) -> SyncResult:
        """Begin or continue a sync, and wait for its end or its pause."""
        with self._signals():
            try:
                async with project:
                    runtime = await project.runtime(info.connector, info.name, recording=recording)
                    self._runtime = runtime
                    try:
                        self._handle = await begin(runtime)
                    except CallCancelled as cancelled:
                        self._handle = await self._begun_elsewhere(cancelled)
                    return await self._completion(info, self._handle)
            except asyncio.CancelledError:
                if not self._interruptions:
                    raise
                hint = f"nothing is lost; start again with: max sync {info}"
                ended = Interrupted("interrupted before the sync began", hint=hint)
                ended.exit_status = self.exit_status
                raise ended from None
            finally:
                self._view.clear()

    async def _completion(self, info: InstallationInfo, handle: Sync) -> SyncResult:
        shown = self._write(info, handle.events()) if self._events else self._watch(handle)
        showing = asyncio.create_task(shown)
        try:
            result = await handle.completion()
        finally:
            if not self._events:
                showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            if self._pausing is not None:
                await asyncio.gather(self._pausing, return_exceptions=True)  # it may come too late
        if not showing.cancelled():
            showing.result()
        return result

    async def _watch(self, handle: Sync) -> None:
        """Show the progress as it changes, and every second how the time goes on."""
        began, clock = time.monotonic(), time.time()
        newest: list[Progress] = []
        waiting = Waiting()

        def show() -> None:
            for one in [] if self._quiet else newest:
                now = time.monotonic()
                self._view.show(one.counts, waiting.note(one, clock + now - began), now=now)

        async def tick() -> None:
            while True:
                await asyncio.sleep(TICK)
                show()

        ticking = asyncio.create_task(tick())
        try:
            async for one in handle.progress():
                newest[:] = [one]
                show()
        finally:
            ticking.cancel()

    async def _write(self, info: InstallationInfo, events: EventStream) -> None:
        """Write a line for each event, in a thread: a slow reader does not stop the sync."""

        def write(batch: Sequence[Event]) -> None:
            for one in batch:
                streams.write(f"{json_text({**one.to_json(), 'installation': str(info)})}\n")
            streams.flush()

        with suppress(streams.OutputFailed):  # the result, which comes last, fails in the same way
            while batch := await events.batch():
                await asyncio.to_thread(write, batch)

    # -- signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Handle the signals where the loop can; elsewhere Ctrl-C ends the sync, which can be resumed."""
        loop, main = asyncio.get_running_loop(), cast("asyncio.Task[SyncResult]", asyncio.current_task())
        taken: list[signal.Signals] = []
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                with suppress(NotImplementedError):
                    loop.add_signal_handler(number, self._interrupt, main, number)
                    taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    async def _begun_elsewhere(self, cancelled: CallCancelled) -> Sync:
        """The sync that another process had begun before it knew of the interruption; it is paused."""
        if not self._interruptions:
            raise cancelled
        await asyncio.wait([cancelled.answer], timeout=TICK)
        if not cancelled.answer.done():
            self._view.say(f"the daemon does not answer yet; {self._to_leave()}")
        handle: Sync | None = await cancelled.answer
        if handle is None:
            raise cancelled
        self._pause(handle)
        return handle

    def _interrupt(self, main: asyncio.Task[SyncResult], number: signal.Signals) -> None:
        self._interruptions += 1
        self.exit_status = 128 + number
        if self._interruptions > 1:
            self._leave()
        running = self._handle or self._begun()
        if running is None:
            main.cancel()
            return
        self._pause(running)

    def _pause(self, running: Sync) -> None:
        self._view.say(f"pausing after the requests under way; {self._to_leave()}")
        self._pausing = asyncio.create_task(running.pause())

    def _to_leave(self) -> str:
        again = "press Ctrl-C again" if self.exit_status == 128 + signal.SIGINT else "SIGTERM again"
        return f"{again} to leave at once"

    def _begun(self) -> Sync | None:
        """The sync that has begun, though the call that began it has not returned yet."""
        latest = None if self._runtime is None else self._runtime.latest
        return None if latest is None or latest.done else latest

    def _leave(self) -> NoReturn:
        """End the process without waiting, as a crash would."""
        self._view.say("left at once; the stored data is kept, and the same command continues")
        if not self._events:  # otherwise its reader may have stopped reading
            console().stdout.flush()
        os._exit(self.exit_status)


class Waiting:
    """What a sync waits for.  The cause and the try are kept in mind until something new is stored."""

    def __init__(self) -> None:
        self._rows, self._since = -1, 0.0
        self._try = self._cause = ""

    def note(self, progress: Progress, now: float) -> str:
        """What ``note_of`` says; during a request, why it is made again, or that nothing comes."""
        rows = sum(progress.counts.values())
        if rows != self._rows:
            self._rows, self._since, self._try, self._cause = rows, now, "", ""
        if progress.reason and (progress.running or progress.waiting):
            found = TRY.match(progress.reason)
            self._try = found[0] if found else self._try
            self._cause = progress.reason.removeprefix(found[0] if found else "")
            progress = progress._replace(reason=f"{self._try}{self._cause}")
        if note := note_of(progress, now):
            return note
        if self._cause:
            return f"trying again, {sanitize(f'{self._try}{self._cause}')}"
        if not progress.running or now - self._since < SILENCE:
            return ""
        return (
            f"nothing new for {elapsed_time(now - self._since)}" if rows else "waiting for the first answer"
        )


def note_of(progress: Progress, now: float | None = None) -> str:
    """What a sync is waiting for, and why; empty while a request of it is under way.

    ``now`` is in seconds since the epoch; without it, the moment of the progress.
    """
    limits, what = ", ".join(progress.limits), sanitize(progress.reason)
    if progress.running:
        return "" if not limits else f"trying again, {what}" if what else f"waiting for {limits}"
    if progress.due is None and not progress.waiting:  # the sync has stored all, and tidies up
        return what
    now = progress.at if now is None else now
    if progress.due is None or progress.due <= now:
        return ""
    again = f"again {_at_or_in(progress.due, now)}"
    tasks = f", {counted(progress.waiting, 'task')}" if progress.waiting > 1 else ""
    blocked = f", {limits} is blocked" if limits else ""
    return f"{again}{tasks}{blocked}{what and f', {what}'}"


def _at_or_in(due: float, now: float) -> str:
    """``in 12 s``; a later time by the clock: ``at 09:30``."""
    return f"in {math.ceil(due - now)} s" if due - now < 60 else f"at {until(due, now)}"
