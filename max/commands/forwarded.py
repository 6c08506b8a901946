"""Commands that thin clients forward (``forward``), answered in the daemon.

Each runs in a thread of its own, as in a process of its own, with the console of its caller:
what it writes becomes parts, which cross the connection in their order.

Rule 1: a command that needs more than to read is left to its caller (``RunDirect``), before it printed
anything: other people's code, standard input, a file of the caller's, a change.

Rule 2: memory is bounded.  A command waits until its caller has taken what it wrote before; a caller that
takes nothing stops its own command alone, and after a while that ends and closes its database.  Beyond a
number of commands, more are refused: their callers run them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar, cast

from ..errors import ConnectionLost, DaemonBusy, RunDirect, UsageError
from ..projects.folder import ProjectFolder
from ..projects.opening import database_of
from ..query.reader import interruptible
from ..serve.streams import End, Stream
from .console import CONSOLE, Console
from .forward import likeness

if TYPE_CHECKING:
    from typing import TextIO

    from ..core import InstallationInfo
    from ..serve.methods import Parts
    from .framework import Options

T = TypeVar("T")
MOST = 32  # commands at once, each with a thread and a database
LOTS = 2  # of parts that the loop has not taken yet
CHUNK = 16_384  # characters that are sent together
DELAY = 0.05  # seconds after which less is sent
PATIENCE = 3_600.0  # seconds that a command waits for its caller to take something
RETRY = 1.0  # seconds after which another command may have ended
AGAIN = 0.05  # seconds until what goes on is interrupted once more
LARGEST = 10_000  # rows, at most, of an answer that is made as a whole


class Gone(BrokenPipeError):
    """The caller takes nothing more."""


class LeftToCaller(BaseException):
    """The command needs what only its caller's process has; no handler of errors may take it for one."""


class ForwardedCommands:
    """Answers the commands of thin clients: what the method ``command`` does.

    ``run`` runs a command line for the console of its thread, and returns its exit status.
    """

    def __init__(
        self,
        root: Path,
        run: Callable[[list[str]], int],
        *,
        most: int = MOST,
        patience: float = PATIENCE,
    ) -> None:
        self._root, self._run, self._most, self._patience = root, run, most, patience
        self._likeness = likeness()
        self._open = 0

    def __call__(self, *facts: Any) -> Stream[Parts, int]:
        """The parts of a command's output, and its exit status; ``facts`` are those of a ForwardedCall."""
        return Stream(self._answer(ForwardedCall(*facts)))

    async def _answer(self, call: ForwardedCall) -> AsyncGenerator[Parts | End[int], None]:
        """RunDirect when the caller must run the command itself, DaemonBusy when too many are running."""
        if len(call.columns) != 2 or not all(isinstance(one, str) for one in call.variables.values()):
            raise UsageError("columns are two numbers, and variables are texts")
        if list(call.likeness) != self._likeness:
            raise RunDirect("the daemon was started with other code, another environment or another zone")
        if self._open >= self._most:
            raise DaemonBusy(f"{self._most} commands are running", retry_after=RETRY)
        outlet = Outlet(self._patience, self._ended)
        work = (list(call.words), ForwardedConsole(call, self._root, outlet), outlet)
        threading.Thread(target=self._work, args=work, name="max-command", daemon=True).start()
        self._open += 1
        try:
            async for lot in outlet.lots():
                yield lot
        finally:
            outlet.close()

    def _work(self, words: list[str], console: ForwardedConsole, outlet: Outlet) -> None:
        """Run a command, in its thread."""
        outcome: Future[int] = Future()
        CONSOLE.set(console)
        try:
            with interruptible() as outlet.interrupt:
                status = self._run(words)
                outlet.send()
            if outlet.gave_up:
                raise Gone
            outcome.set_result(status)
        except Gone:
            outcome.set_exception(ConnectionLost(f"nothing of it was read for {self._patience:g} s"))
        except LeftToCaller as error:
            outcome.set_exception(RunDirect(str(error)))
        except BaseException as error:
            outcome.set_exception(error)
        outlet.end(outcome)

    def _ended(self) -> None:
        """A thread is about to end."""
        self._open -= 1


class ForwardedCall(NamedTuple):
    """What a thin client sends: the words, and what its process is like."""

    words: Sequence[str]
    folder: str
    columns: Sequence[int]  # of a line of stdout and of stderr; -1 where that is no terminal
    variables: Mapping[str, str]
    likeness: Sequence[str]


# -- the console -------------------------------------------------------------------------------------


class ForwardedConsole(Console):
    """The console of a command whose caller is another process."""

    def __init__(self, call: ForwardedCall, root: Path, outlet: Outlet) -> None:
        self._call, self._root, self._outlet = call, root, outlet
        out, err = call.columns
        self._out, self._err = PartStream(outlet, "out", out), PartStream(outlet, "err", err)

    @property
    def stdin(self) -> NoReturn:
        raise LeftToCaller("it reads standard input")

    @property
    def stdout(self) -> TextIO:
        return cast("TextIO", self._out)

    @property
    def stderr(self) -> TextIO:
        return cast("TextIO", self._err)

    @property
    def environment(self) -> Mapping[str, str]:
        return self._call.variables

    def columns(self, stream: TextIO) -> int:
        return cast("PartStream", stream).columns

    def file(self, path: str) -> NoReturn:
        raise LeftToCaller(f"it needs the file {path}")

    def find_project(self, folder: str) -> ProjectFolder:
        found = ReadingFolder.find(Path(self._call.folder, folder))
        if found.root != self._root:
            raise LeftToCaller("it is about another project")
        if database_of(found.root) is not None:
            raise LeftToCaller("its project is in a database")
        return found

    def check(self, options: Options) -> None:
        if (getattr(options, "limit", None) or 0) > LARGEST:
            raise LeftToCaller("it may need much memory")

    def expect_status(self, status: int) -> None:
        self._outlet.add("status", str(status))


class PartStream:
    """One of the output streams of a caller: what commands use of a TextIO.

    It is none of ``io``'s: those are flushed when they are freed, in whatever thread that happens.
    """

    closed = False

    def __init__(self, outlet: Outlet, kind: str, columns: int) -> None:
        self._outlet, self._kind, self.columns = outlet, kind, columns

    def isatty(self) -> bool:
        return self.columns >= 0

    def write(self, text: str) -> int:
        self._outlet.add(self._kind, text)
        return len(text)

    def fileno(self) -> int:
        raise OSError("the stream is another process's")

    def flush(self) -> None:
        if self._kind == "out":
            self._outlet.add("flush", "")


class ReadingFolder(ProjectFolder):
    """A project of which everything can be read, without the code that it brings along."""

    @property
    def registry(self) -> NoReturn:
        raise LeftToCaller("it needs a connector")

    def connector(self, info: InstallationInfo) -> NoReturn:
        raise LeftToCaller("it needs a connector")

    def credentials(self, info: InstallationInfo, destination: str | None = None) -> NoReturn:
        raise LeftToCaller("it needs a secret")

    def _changing(self, info: InstallationInfo) -> NoReturn:
        raise LeftToCaller("it changes something")

    def _writing(self) -> NoReturn:
        raise LeftToCaller("it changes something")


# -- output ------------------------------------------------------------------------------------------


class Outlet:
    """What a command writes, on its way from its thread to the event loop.

    The thread adds parts, and waits while the loop has not taken those before; ``gave_up`` when it waited
    for too long.
    """

    def __init__(self, patience: float, ended: Callable[[], None]) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), ended
        self._lots: asyncio.Queue[Parts | Future[int]] = asyncio.Queue()
        self._room = threading.Semaphore(LOTS)
        self._patience = patience
        self._parts: Parts = []
        self._size, self._sent = 0, time.monotonic()
        self.closed = self.gave_up = self._finished = False
        self.interrupt: Callable[[], None] = lambda: None  # ends what the command reads

    # -- in the thread

    def add(self, kind: str, text: str) -> None:
        """Add a part; Gone when nothing is taken any more."""
        for start in range(0, len(text), CHUNK) if text else (0,):
            piece = text[start : start + CHUNK]
            if self._parts and self._parts[-1][0] == kind == "out":
                self._parts[-1][1] += piece
            else:
                self._parts.append([kind, piece])
            self._size += len(piece)
            if self._size >= CHUNK or time.monotonic() - self._sent > DELAY:
                self.send()

    def send(self) -> None:
        """Hand over the parts; Gone when nothing is taken any more."""
        if not self._parts:
            return
        parts, self._parts, self._size = self._parts, [], 0
        if self.closed or self.gave_up:
            raise Gone
        self.gave_up = not self._room.acquire(timeout=self._patience)
        if self.closed or self.gave_up:
            raise Gone
        self._to_loop(self._lots.put_nowait, parts)
        self._sent = time.monotonic()

    def end(self, outcome: Future[int]) -> None:
        """Hand over how the command ended."""
        self._to_loop(self._finish, outcome)

    def _to_loop(self, function: Callable[[T], None], value: T) -> None:
        with suppress(RuntimeError):  # the loop is closed: the daemon has ended
            self._loop.call_soon_threadsafe(function, value)

    # -- in the loop

    async def lots(self) -> AsyncGenerator[Parts | End[int], None]:
        """The parts as they come, and the exit status."""
        while True:
            lot = await self._lots.get()
            if isinstance(lot, Future):
                yield End(lot.result())
                return
            self._room.release()
            yield lot

    def close(self) -> None:
        """Take nothing more: the command ends with its next line, or with the statement that it waits for."""
        self.closed = True
        self._room.release()
        if not self._finished:
            self.interrupt()
            self._loop.call_later(AGAIN, self.close)  # it may have been between two statements

    def _finish(self, outcome: Future[int]) -> None:
        self._finished = True
        self._ended()
        self._lots.put_nowait(outcome)
