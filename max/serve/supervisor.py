"""Supervision: the process in which an installation's connector runs is started, watched and ended.

    daemon, or a program                       runner: python -m max.serve.runner
      RemoteRuntime → Supervisor → Client ──── stdin, stdout ───→ Methods → InstallationRuntime → connector
                                  last words ←─── stderr

What a connector can do to its process costs its own installation only:

- it ends the process (``os._exit``, a fault in a C library, the kernel when memory is short): the next
  one goes on with the sync, after a wait that doubles each time;
- it blocks the process (a loop without end): a process that does not answer for ``runner_seconds`` is
  killed;
- it takes memory: the process ends itself beyond ``runner_memory``;
- it leaves processes behind: the whole group of the process is killed with it.

**Restarts.**  Those in a row are counted in which the sync achieved nothing: it stored no row, and gave up no
task.  So a long sync may be restarted any number of times, and one that ends its process every time is given
up.  A task that was running in five crashes is failed by the task store; then its sync goes on without it.

**Rest.**  A process without work ends after ``runner_minutes``, or when what it was started from has
changed: the installation's file, its secrets, its connector.  The next call starts another one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..core import in_thread, logger
from ..errors import (
    ConnectionLost,
    Interrupted,
    MaxError,
    NotFound,
    ProjectError,
    RecordingError,
    RunnerFailed,
    StorageError,
)
from ..model.event_log import LoggedKind
from ..model.settings import prefix_words
from ..model.tasks import Status
from ..projects.audit import audited_call
from ..query.reader import open_reader
from ..storage.event_log import record_event
from ..upstream.redaction import MARK, Redactor
from .client import Client

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.settings import Settings
    from ..model.tasks import SyncResult
    from ..model.values import Json
    from ..projects.manager import ProjectManager

MODULE = f"{__package__}.runner"
MOST_CRASHES = 8  # in a row without an achievement; a task fails after five
FIRST_WAIT, LONGEST_WAIT = 0.2, 60.0  # seconds before the next start
STARTING = 60.0  # seconds that a process may take to speak
GRACE = 6.0  # seconds that it may take to end when it is asked to
DUMP = 1.0  # seconds in which a deaf process may say where it is
LOOK = 5.0  # seconds between two looks at a process, at most
TAIL = 16_000  # bytes of what a process printed that are kept
WORDS = 4_000  # characters of its last words
LINES = 480  # characters of them in an event
CALLS = 6  # lines of a traceback
NEWEST_FIRST = "(most recent call first):"  # in the traceback of a fault
SHOWN = 12  # lines of them that a person sees at once
LINE = 65_536  # bytes that one read may bring
OVER_MEMORY = 86  # the exit status of a process that used more memory than it may

log = logger("runner")


class Link(Protocol):
    """The way to the process in which an installation works."""

    @property
    def info(self) -> InstallationInfo:
        """The installation."""

    @property
    def started_at(self) -> float:
        """Since when that process works, in seconds since the epoch; 0: there is none."""

    def use(self) -> AbstractAsyncContextManager[Client]:
        """The client, as long as it is used; what answers is started when nothing does."""

    async def explain(self, client: Client, lost: ConnectionLost) -> MaxError:
        """The error of a connection that ended."""

    async def recover(self, error: MaxError, sync: str) -> SyncResult | None:
        """Return when it is time to go on with a sync whose process ended: None, or how it has ended.

        Raises the error when to go on is pointless.
        """

    async def unfinished(self) -> str | None:
        """The sync that a process which has just ended had begun, and that can go on; None without one."""

    async def close(self) -> None:
        """End what this has started; it may be used again."""

    def audited(self, action: str, **facts: Json) -> AbstractAsyncContextManager[object]:
        """Record a change that is asked for there, unless that process does so."""


class NotStarted(Exception):
    """A process ended, or took too long, before it answered: why, and what it printed, secrets included."""

    def __init__(self, reason: str, printed: str) -> None:
        super().__init__(reason)
        self.reason, self.printed = reason, printed


class Runner:
    """One process of an installation, and the client that asks it."""

    def __init__(self, process: asyncio.subprocess.Process, seconds: float) -> None:
        self.process, self.seconds = process, seconds
        self.started_at = time.time()
        self.stopping = False  # it was asked to end
        self.ended_for = ""  # why it was killed
        self.failure: RunnerFailed | None = None  # how it ended, once that is known
        self._open = AsyncExitStack()
        self._tail = bytearray()
        self._draining: asyncio.Task[None] | None = None
        self._listening = asyncio.create_task(self._listen())
        self._ending = asyncio.create_task(self._end())
        self.client: Client

    @classmethod
    async def start(cls, manager: ProjectManager, name: str, settings: Settings) -> Runner:
        """Start the process of an installation and wait until it speaks; NotStarted.

        Without a name it is one for a source that is not connected yet.
        """
        spawning = asyncio.create_task(spawn(command(manager, name, settings), manager.root))
        try:
            process = await asyncio.shield(spawning)
        except OSError as error:
            raise NotStarted(f"cannot be started: {error.filename}: {error.strerror}", "") from error
        except asyncio.CancelledError:
            with suppress(OSError):  # it may have begun already
                await cls(await spawning, settings.runner_seconds).stop()
            raise
        runner = cls(process, settings.runner_seconds)
        try:
            async with asyncio.timeout(STARTING):
                over = Client.over(*cast(Any, (process.stdout, process.stdin)))  # they are pipes
                runner.client = await runner._open.enter_async_context(over)
        except BaseException as error:
            if isinstance(error, TimeoutError):
                runner.kill(f"said nothing for {STARTING:g} s")
            await runner.stop()
            if isinstance(error, MaxError | TimeoutError):
                raise NotStarted(runner.reason, runner.printed) from error
            raise
        return runner

    @property
    def ended(self) -> bool:
        """Whether the process is gone, with its group."""
        return self._ending.done()

    @property
    def reason(self) -> str:
        """Why it ended, in words that go on after "the process of acme:default"."""
        status = self.process.returncode
        if self.ended_for:
            return self.ended_for
        if status == OVER_MEMORY:
            return "used more memory than it may"
        if status is not None and status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    @property
    def printed(self) -> str:
        """The end of what it printed on stderr."""
        return bytes(self._tail).decode("utf-8", "replace")

    async def _listen(self) -> None:
        stderr = self.process.stderr
        while stderr is not None and (chunk := await stderr.read(LINE)):
            self._tail += chunk
            del self._tail[:-TAIL]

    async def _end(self) -> None:
        """Wait for the end of the process; then end what it has left behind."""
        await self.process.wait()
        self._signal(signal.SIGKILL)
        await asyncio.wait([self._listening], timeout=DUMP)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)  # it leads its group

    async def answers(self) -> bool:
        """Whether its loop still turns: it answers in time, or has ended."""
        asked = asyncio.create_task(self.client.ping())
        try:
            for _ in range(2):  # twice the half: this process itself may have been stopped meanwhile
                await asyncio.wait(
                    {asked, self._ending}, timeout=self.seconds / 2, return_when=FIRST_COMPLETED
                )
                if asked.done() or self.ended:
                    return True
            return False
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def has_ended(self, within: float | None = None) -> bool:
        """Wait for the end of the process, for so many seconds; whether it has ended."""
        await asyncio.wait([self._ending], timeout=within)
        return self.ended

    def kill(self, reason: str) -> None:
        """End the process at once; on its way it says in which line of Python it is."""
        self.ended_for = self.ended_for or f"was ended: it {reason}"
        self._signal(signal.SIGABRT)
        asyncio.get_running_loop().call_later(DUMP, self._kill_now)

    def _kill_now(self) -> None:
        if not self.ended:
            self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End the process: its input ends, so that it leaves its sync where it is; then by force."""
        self.stopping = True
        await self._open.aclose()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._draining = self._draining or asyncio.create_task(self._drain())
        for step in (None, signal.SIGTERM, signal.SIGKILL):
            if step is not None:
                self._signal(step)
            if await self.has_ended(GRACE if step is None else DUMP):
                break
        await asyncio.wait([self._draining], timeout=DUMP)

    async def _drain(self) -> None:
        """Read what is written to no one, so that the writer is not kept from its end."""
        stdout = self.process.stdout
        while stdout is not None and await stdout.read(LINE):
            pass


class Supervisor(Link):
    """Supervises the process of one installation; a Link to it.

    ``manager`` is the project's.  Nothing is started before it is used.
    """

    def __init__(self, manager: ProjectManager, info: InstallationInfo) -> None:
        self._manager, self._info = manager, info
        self._runner: Runner | None = None
        self._watching: asyncio.Task[None] | None = None
        self._former: list[Runner] = []  # the newest ones: they may still have to be ended, or explained
        self._lock = asyncio.Lock()
        self._users, self._used_at = 0, 0.0
        self._origin: object = None
        self._crashes = 0
        self._achieved: object = None
        self._last_end: RunnerFailed | None = None

    def __repr__(self) -> str:
        state = f"process {self._runner.process.pid}" if self._runner is not None else "no process"
        return f"{type(self).__name__}({self._info}, {state})"

    @property
    def info(self) -> InstallationInfo:
        """The installation, as it was when its process began."""
        return self._info

    @property
    def started_at(self) -> float:
        """Since when its process works, in seconds since the epoch; 0: there is none."""
        return 0.0 if self._runner is None or self._runner.ended else self._runner.started_at

    @property
    def pid(self) -> int | None:
        """The id of its process, if there is one."""
        return self._runner.process.pid if self._runner is not None and not self._runner.ended else None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Client]:
        """The client of its process, as long as it is used; RunnerFailed when none can be started."""
        self._users += 1
        try:
            yield (await self._running()).client
        finally:
            self._users -= 1
            self._used_at = asyncio.get_running_loop().time()

    async def _running(self) -> Runner:
        async with self._lock:
            runner = self._runner
            if runner is not None and not runner.ended and self._users == 1 and await self._has_changed():
                await self._retire(runner)
            if runner is None or runner.ended or runner.stopping:
                runner = await self._start()
            return runner

    async def _start(self) -> Runner:
        self._info = await in_thread(self._current)
        self._origin = await in_thread(self._seen)
        try:
            runner = await Runner.start(self._manager, str(self._info), self._info.settings)
        except NotStarted as failed:
            printed = failed.printed
            words = await in_thread(lambda: self._cleaned(printed))
            error = failure_of(str(self._info), failed.reason, words)
            log.warning("%s", error)
            raise error from failed
        alive = [one for one in self._former[:-3] if not one.ended]
        self._former = [*alive, *self._former[-3:], runner]
        self._runner = runner
        self._watching = asyncio.create_task(self._watch(runner), name=f"runner of {self._info}")
        return runner

    def _current(self) -> InstallationInfo:
        """The installation as its file says now; ProjectError when another one has its name."""
        now = self._manager.target(str(self._info))
        if now.id != self._info.id:
            raise ProjectError(f"{self._info} was disconnected, and another one connected under its name")
        return now

    # -- what it was started from

    def _seen(self) -> object:
        """What a process is started from, in its version of now."""
        return self._manager.version(self._info)

    async def _has_changed(self) -> bool:
        return await in_thread(self._seen) != self._origin

    # -- watching

    async def _watch(self, runner: Runner) -> None:
        """Look at a process until it has ended or rests."""
        loop, settings = asyncio.get_running_loop(), self._info.settings
        self._used_at = loop.time()
        look = max(0.05, min(LOOK, settings.runner_seconds / 4, settings.runner_minutes * 60))
        while not await runner.has_ended(look) and not runner.stopping:
            if not self._users and (
                loop.time() - self._used_at >= settings.runner_minutes * 60 or await self._has_changed()
            ):
                async with self._lock:
                    if not self._users:
                        await self._retire(runner)
                        return
            elif not self._users:
                continue
            elif not await runner.answers():
                runner.kill(f"did not answer for {runner.seconds:g} s")
        if not runner.stopping:
            await self._failed(runner)

    async def _retire(self, runner: Runner) -> None:
        """End a process that does nothing."""
        if self._runner is runner:
            self._runner = None
        await runner.stop()

    # -- crashes

    async def explain(self, client: Client, lost: ConnectionLost) -> MaxError:
        """How the process of a client ended; Interrupted when it was asked to."""
        known = [one for one in self._former if one.client is client]
        if not known:
            return Interrupted(f"the process of {self._info} was stopped", hint="sync again to go on")
        (runner,) = known
        if runner.stopping:
            return Interrupted(f"the process of {self._info} was stopped", hint="sync again to go on")
        if not await runner.has_ended(DUMP):
            runner.kill("closed its connection")
            await runner.has_ended()
        return await self._failed(runner)

    async def _failed(self, runner: Runner) -> RunnerFailed:
        """The error of a process that ended by itself; it is recorded once."""
        words = "" if runner.failure else await in_thread(lambda: self._cleaned(runner.printed))
        if runner.failure is None:
            runner.failure = failure_of(str(self._info), runner.reason, words)
            self._crashes, self._last_end = self._crashes + 1, runner.failure
            log.warning("%s", runner.failure)
            await in_thread(lambda: self._record(runner))
        return failure_of(str(self._info), runner.reason, runner.failure.last_words)

    def _cleaned(self, text: str) -> str:
        """The end of what a process printed: without secrets and control characters."""
        redactor = Redactor()
        try:
            secrets = self._manager.credentials(self._info).read()
        except MaxError:
            return ""  # nothing says what in it is a secret
        for secret in secrets.values():
            try:
                redactor.learn(secret)
            except RecordingError:  # it is short
                text = text.replace(secret, MARK) if secret.strip() else text
        text = without_callers(redactor.message(text))
        return "".join(one if one.isprintable() or one == "\n" else " " for one in text).strip()[-WORDS:]

    def _record(self, runner: Runner) -> None:
        """Record an end in the installation's events, if it has data."""
        failure = runner.failure
        if failure is None or not self._manager.has_data(self._info):
            return
        self._record_crash(runner.reason, failure.last_words, crashes=self._crashes)

    def _record_crash(self, reason: str, last_words: str, **more: Json) -> None:
        facts = {"reason": reason, "last_words": last_words[-LINES:]}
        with suppress(StorageError), self._manager.database(self._info).writer() as connection:
            record_event(connection, LoggedKind.RUNNER_CRASHED, {**facts, **more}, now=time.time())

    async def recover(self, error: MaxError, sync: str) -> SyncResult | None:
        """Wait before a sync goes on; how it has ended, when it has; the error after too many crashes."""
        if isinstance(error, NotFound):  # another call has noticed the end of the process before
            error = self._last_end or error
        elif not isinstance(error, RunnerFailed):
            raise error
        result = await in_thread(lambda: self._result(sync))
        if result.status.final or result.status is Status.PAUSED:
            return result
        achieved = (dict(result.counts), len(result.failures))
        if achieved != self._achieved:
            self._achieved, self._crashes = achieved, 1
        if self._crashes >= MOST_CRASHES:
            self._crashes = 0
            words = f"{error.message}, {MOST_CRASHES} times in a row without getting on"
            last = getattr(error, "last_words", "")
            await in_thread(lambda: self._record_crash(words, last, crashes=MOST_CRASHES, given_up=True))
            raise RunnerFailed(words, hint=error.hint, last_words=last)
        await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self._crashes - 1)))
        return None

    async def unfinished(self) -> str | None:
        """The newest sync, when it has not ended; None else."""

        def newest() -> str | None:
            if not self._manager.has_data(self._info):
                return None
            with open_reader(self._manager.database(self._info), self._info) as reader:
                return next((run.id for run in reader.runs(1) if not run.status.final), None)

        return await in_thread(newest)

    def _result(self, sync: str) -> SyncResult:
        with open_reader(self._manager.database(self._info), self._info) as reader:
            return reader.run(sync)

    def audited(self, action: str, **facts: Json) -> AbstractAsyncContextManager[dict[str, Json]]:
        """Record a change here, where it is known who asks for it."""
        return audited_call(self._manager, action, self._info, **facts)

    async def close(self) -> None:
        """End the process; another one starts when it is used again."""
        async with self._lock:
            self._runner = None
            for runner in [one for one in self._former if not one.ended]:  # a stop may have been cancelled
                await runner.stop()
            if self._watching is not None:
                await asyncio.wait([self._watching])


def without_callers(text: str) -> str:
    """What a process printed, with the innermost calls of the traceback in which it ended, if it has one."""
    before, mark, calls = text.rpartition(NEWEST_FIRST)
    return f"{before}{mark}{chr(10).join(calls.splitlines()[:CALLS])}" if mark else text


def failure_of(name: str, reason: str, words: str) -> RunnerFailed:
    """The error of a process that ended, with the last lines that it printed."""
    lines = [f"  {line}" for line in words.splitlines()[-SHOWN:] if line.strip()]
    hint = "\n".join(["its last words:", *lines]) if lines else ""
    return RunnerFailed(f"the process of {name} {reason}", hint=hint, last_words=words)


async def spawn(words: Sequence[str], folder: Path | None) -> asyncio.subprocess.Process:
    """Start a command in a folder, or where this process is, with pipes to it; OSError."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *words,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        limit=LINE,
        cwd=folder,
        env=environment(),
        start_new_session=True,  # its own group; Ctrl-C is for those who supervise it
    )


def command(manager: ProjectManager, name: str, settings: Settings) -> list[str]:
    """The command of an installation's process, with its prefix.  It holds no secret."""
    trusted = ["--trusted"] if manager.trusted else []
    prefix = prefix_words(settings.runner_prefix) or []
    # -P: the folder in which it runs is the project's, and must not be searched for modules
    return [*prefix, sys.executable, "-P", "-m", MODULE, manager.label, name, *trusted]


def environment() -> dict[str, str]:
    """This process's environment, in which Python finds the same modules."""
    places = [str(Path(one).absolute()) for one in sys.path if one]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}
