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
import io
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from ..errors import DaemonBusy, RunDirect
from ..installations.project_folder import ProjectFolder
from ..serve.streams import End, Stream
from .console import CONSOLE, Console
from .forward import likeness

if TYPE_CHECKING:
    from typing import TextIO

    from ..core import InstallationInfo
    from ..serve.methods import Parts
    from .framework import Options

MOST = 32  # commands at once, each with a thread and a database
CHUNK = 16_384  # characters that are sent together
DELAY = 0.05  # seconds after which less is sent
PATIENCE = 3_600.0  # seconds that a command waits for its caller to take something
RETRY = 1.0  # seconds after which another command may have ended
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
        if list(call.likeness) != self._likeness:
            raise RunDirect("the daemon was started with other code, another environment or another zone")
        if self._open >= self._most:
            raise DaemonBusy(f"{self._most} commands are running", retry_after=RETRY)
        outlet = Outlet(self._patience)
        console = ForwardedConsole(call, self._root, outlet)
        work = (list(call.words), console, outlet)
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
            status = self._run(words)
            outlet.send()
            outcome.set_result(status)
        except LeftToCaller as error:
            outcome.set_exception(RunDirect(str(error)))
        except BaseException as error:
            outcome.set_exception(error)
        outlet.end(outcome, self._ended)

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
        return found

    def check(self, options: Options) -> None:
        if (getattr(options, "limit", None) or 0) > LARGEST:
            raise LeftToCaller("it may need much memory")

    def expect_status(self, status: int) -> None:
        self._outlet.add("status", str(status))


class PartStream(io.TextIOBase):
    """One of the output streams of a caller."""

    def __init__(self, outlet: Outlet, kind: str, columns: int) -> None:
        self._outlet, self._kind, self.columns = outlet, kind, columns

    def isatty(self) -> bool:
        return self.columns >= 0

    def write(self, text: str) -> int:
        self._outlet.add(self._kind, text)
        return len(text)

    def flush(self) -> None:
        if self._kind == "out":
            self._outlet.add("flush", "")


class ReadingFolder(ProjectFolder):
    """A project of which everything can be read, without the code that it brings along."""

    @property
    def registry(self) -> NoReturn:
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

    The thread adds parts and waits while the loop still has two lots of them; the loop takes them.
    """

    def __init__(self, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._lots: asyncio.Queue[Parts | Future[int]] = asyncio.Queue(1)
        self._patience = patience
        self._parts: Parts = []
        self._size, self._sent = 0, time.monotonic()
        self.closed = False

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
        if self._parts:
            parts, self._parts, self._size = self._parts, [], 0
            self._hand_over(parts)
            self._sent = time.monotonic()

    def end(self, outcome: Future[int], ended: Callable[[], None]) -> None:
        """Hand over how the command ended, and call ``ended`` in the loop."""
        with suppress(Gone):
            self._hand_over(outcome)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(ended)

    def _hand_over(self, lot: Parts | Future[int]) -> None:
        if self.closed:
            raise Gone
        try:
            asyncio.run_coroutine_threadsafe(self._lots.put(lot), self._loop).result(self._patience)
        except (TimeoutError, asyncio.CancelledError, RuntimeError) as error:  # the last: the loop is closed
            self.closed = True
            raise Gone from error

    # -- in the loop

    async def lots(self) -> AsyncGenerator[Parts | End[int], None]:
        """The parts as they come, and the exit status."""
        while True:
            lot = await self._lots.get()
            if isinstance(lot, Future):
                yield End(lot.result())
                return
            yield lot

    def close(self) -> None:
        """Take nothing more: a thread that waits goes on, and learns of it."""
        self.closed = True
        while not self._lots.empty():
            self._lots.get_nowait()
