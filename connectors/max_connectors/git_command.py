"""Runs ``git`` commands for the git connector, and reads what they print.

Rule 1: a command runs nothing that the repository's configuration names (pagers, signature
checks, external diffs, text conversions), uses no network and takes no lock.

Rule 2: output is read in small chunks, so memory and the event loop never hold more of a
long output than the records that were asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from max.connecting import MaxError, PermissionDenied, UpstreamChanged, UpstreamError, UpstreamMissing

CHUNK = 1 << 15  # bytes parsed before other tasks run: about 2 ms

SETTINGS = (
    *("log.showRoot=true", "log.showSignature=false", "core.fsmonitor=false", "gc.auto=0"),
    *(f"core.attributesFile={os.devnull}", "core.bigFileThreshold=512m"),
)
ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # for a git that does not know GIT_NO_LAZY_FETCH
}
KEPT = ("GIT_CONFIG_", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES")  # of the caller's GIT_ variables
NO_GIT = "install git 2.31 or newer and make sure that it is on the PATH"
MISSING = "?"  # before an object that git does not have, as git writes it
COMPLETE = "git fetch --refetch --no-filter"
PARTIAL = "a partial clone: some of its content is missing, and Max does not fetch it"
FAULTS: tuple[tuple[str, type[UpstreamError], str, str], ...] = (  # git's words, the error, message, hint
    (
        "dubious own",
        PermissionDenied,
        "owned by another user",
        "git config --global --add safe.directory {path}",
    ),
    ("not a git repository", UpstreamMissing, "not a git repository", "give the path of one or run git init"),
    ("cannot change to", UpstreamMissing, "no such directory", "give the path of a repository"),
    ("ermission denied", PermissionDenied, "not readable", "check who owns the files"),
    ("romisor", UpstreamError, PARTIAL, f"complete it: {COMPLETE}"),
    ("unrecognized argument", UpstreamError, "this git is too old", NO_GIT),
)

Tokens = list[bytes]  # the NUL-terminated texts of one record


def prose(raw: bytes) -> str:
    """A message as text: bytes that are not UTF-8 become ``\\xhh``."""
    return raw.decode("utf-8", "backslashreplace")


def require_git() -> None:
    """MaxError unless there is a git to run."""
    if shutil.which("git") is None:
        raise MaxError("the git connector needs the git command, which is not on the PATH", hint=NO_GIT)


def environment() -> dict[str, str]:
    """The environment of every git: the caller's, without what would point it at another repository."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(KEPT)}
    return kept | ENVIRONMENT


def failure_of(path: str, arguments: Sequence[str], stderr: str) -> UpstreamError:
    """A failed command as an error that says what to do."""
    for phrase, error, meaning, hint in FAULTS:
        if phrase in stderr:
            return error(f"{path}: {meaning}", hint=hint.format(path=shlex.quote(path)), git=stderr)
    fatal = [line for line in stderr.splitlines() if line.startswith(("fatal:", "error:"))]
    return UpstreamError(
        f"{path}: git {arguments[0]} failed: {(fatal or [stderr])[0]}",
        hint="run git fsck to find the damage; after a repair, sync with --full",
        git=stderr,
    )


def is_partial(error: UpstreamError) -> bool:
    """Whether git failed because the repository is a partial clone."""
    return PARTIAL in error.message


def damaged_content(path: str, sha: str) -> UpstreamError:
    """The error for a history in which git could not read all of the content; MISSING is before a commit."""
    what, hint = "is damaged", "run git fsck to find the damage; after a repair, sync with --full"
    if sha.startswith(MISSING):
        what = "is not in this clone"
        hint = f"a partial clone needs its remote, and {COMPLETE}; in any other, {hint}"
    return UpstreamError(
        f"{path}: some content {what}, first that of commit {sha.removeprefix(MISSING)};"
        " its commits have no line counts",
        hint=hint,
    )


def unreadable(token: bytes) -> UpstreamChanged:
    """The error for output in a form that git does not document."""
    return UpstreamChanged(
        f"git answered {prose(token[:60])!r}, which this connector does not understand",
        hint="this git may be newer than the connector: update Max",
    )


class Command:
    """One git command: reads its output as chunks or records and checks how it ends.

    ``length`` gives the number of tokens in a record, from the record's first token.
    """

    def __init__(
        self,
        path: str,
        *arguments: str,
        lines: Iterable[str] = (),
        absent: bool = False,
        length: Callable[[bytes], int] = len,
    ) -> None:
        self._path, self._arguments, self._lines = path, arguments, lines
        self._expected = (0, 1) if absent else (0,)  # 1: what was asked for does not exist
        self._length = length
        self._process: asyncio.subprocess.Process | None = None
        self._records: deque[Tokens] = deque()
        self._tokens: Tokens = []
        self._unfinished = [b""]  # chunks of the token that has not ended yet

    async def start(self) -> None:
        """Run git in a session of its own, so that Ctrl-C reaches this process alone.

        If this process dies, git ends at its next write.
        """
        settings = [part for setting in SETTINGS for part in ("-c", setting)]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # stop closes it
        try:
            with tempfile.TemporaryFile() as stdin:
                stdin.write("".join(f"{line}\n" for line in self._lines).encode())
                stdin.seek(0)
                self._process = await asyncio.create_subprocess_exec(
                    *("git", "--no-pager", *settings, "-C", self._path, *self._arguments),
                    stdin=stdin,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=self._stderr,
                    env=environment(),
                    start_new_session=True,
                    limit=CHUNK,
                )
        except (FileNotFoundError, PermissionError) as error:
            raise MaxError(f"git cannot be run: {error.strerror}", hint=NO_GIT) from error
        finally:
            if self._process is None:
                self._stderr.close()

    async def stop(self) -> None:
        """End git if it is still running, and release everything; records already read remain."""
        process, self._process = self._process, None
        if process is None or process.stdout is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        while await process.stdout.read(CHUNK):
            pass  # a pipe that is not read to its end is never closed
        await process.wait()
        self._stderr.close()

    async def read(self) -> bytes:
        """The next chunk of output; empty when git has succeeded, an error when it has failed."""
        if self._process is None or self._process.stdout is None:
            return b""
        chunk = await self._process.stdout.read(CHUNK)
        if not chunk:
            if await self._process.wait() not in self._expected:
                self._stderr.seek(0)
                stderr = prose(self._stderr.read(CHUNK)).strip()
                raise failure_of(self._path, self._arguments, stderr)
            await self.stop()
        return chunk

    async def next_record(self) -> Tokens | None:
        """The next record; None at the end of the output of a git that succeeded."""
        while not self._records:
            chunk = await self.read()
            if not chunk:
                rest = b"".join([*self._tokens, *self._unfinished]).strip()
                if rest:
                    raise unreadable(rest)
                return None
            self._parse(chunk)
            await asyncio.sleep(0)  # reading a pipe that is always full never yields by itself
        return self._records.popleft()

    def _parse(self, chunk: bytes) -> None:
        self._unfinished.append(chunk)
        if b"\0" not in chunk:
            return
        *ended, rest = b"".join(self._unfinished).split(b"\0")
        self._unfinished, tokens, at = [rest], self._tokens + ended, 0
        while at < len(tokens):
            first = tokens[at].lstrip(b"\n")  # git puts an empty line between some records
            end = at + self._length(first)
            if end > len(tokens):
                break
            self._records.append([first, *tokens[at + 1 : end]])
            at = end
        self._tokens = tokens[at:]


async def output(path: str, *arguments: str, lines: Iterable[str] = (), absent: bool = False) -> list[bytes]:
    """The output of a short command, as lines; with ``absent``, no lines when git finds nothing.

    A line ends with a line feed alone: a name may hold everything else that Unicode counts as an end.
    """
    command, chunks = Command(path, *arguments, lines=lines, absent=absent), list[bytes]()
    try:
        await command.start()
        while chunk := await command.read():
            chunks.append(chunk)
    finally:
        await command.stop()
    text = b"".join(chunks)
    return text.removesuffix(b"\n").split(b"\n") if text else []
