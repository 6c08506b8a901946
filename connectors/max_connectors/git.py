"""Git: any local repository, read through the ``git`` command.

Rule 1: one git process per history.  ``git log`` runs on between two pages and is read in
small chunks; memory and the event loop never see more of it than a page.

Rule 2: a listing stands on the tips that it found at its beginning.  They are in its
cursor, so commits made meanwhile do not disturb it, and a new process goes on where the
old one died.  The tips are also the mark: the next sync asks for ``tips ^marked``, and what
``marked ^tips`` holds is gone.

Rule 3: reading a repository runs nothing that its configuration names (pagers, signature
checks, external diffs, text conversions), asks no network and takes no lock.

What is counted: changes are against the first parent, so a merge shows what it brought to
the branch it was made on; renames are found as ``git log -M`` finds them.  Authors are as
recorded, without ``.mailmap``: that file changes, and old commits are not read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shlex
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from max.connecting import (
    Answers,
    Connector,
    CredentialProvider,
    Engine,
    Entity,
    Env,
    Field,
    Input,
    Installation,
    Limit,
    Loader,
    Many,
    MaxError,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    RunCode,
    Schema,
    Step,
    SyncPlan,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
    Validate,
    operation,
    run_operation,
)

PAGE_COMMITS = 500  # commits of a page, at most
PAGE_CHANGES = 4000  # file changes of a page, at most; a larger commit goes over several pages
PAGE_REFS = 2000  # branches or tags of a page; a page is one short command
TURN = 100  # entities made before other tasks have their turn: about 2 ms
CHUNK = 1 << 15  # bytes parsed before other tasks have their turn: about 2 ms
PATIENCE = 600.0  # seconds for one page: a cold disk and a large rename take their time
ROOT_ID = "repository"  # an installation holds one repository, wherever it is moved


# -- entities ----------------------------------------------------------------------------


class GitRepository(Entity):
    """The repository: its one root."""

    name: Field[str] = Field("the name of its directory")
    bare: Field[bool] = Field("whether it has no working tree")
    shallow: Field[bool] = Field("whether its history is cut off somewhere")
    object_format: Field[str] = Field("the hash that names its objects: sha1 or sha256")
    head_branch: Field[str | None] = Field("the branch HEAD stands for, born or not; null when detached")
    head: Field[Ref[GitCommit] | None] = Field("the commit HEAD is at; null before the first one")
    commits: Many[GitCommit] = Many("every commit that some ref reaches", by=lambda: GitCommit.repository)
    branches: Many[GitBranch] = Many("local and remote-tracking ones", by=lambda: GitBranch.repository)
    tags: Many[GitTag] = Many("annotated and lightweight ones", by=lambda: GitTag.repository)


class GitAuthor(Entity):
    """A name with an address, exactly as commits and tags record it; the id holds both."""

    name: Field[str] = Field("the name as recorded")
    email: Field[str] = Field("the e-mail address as recorded, in its own case")


class GitCommit(Entity):
    """A commit that some ref reaches; the id is its full hash."""

    repository: Field[Ref[GitRepository]] = Field("the repository it is in")
    author: Field[Ref[GitAuthor]] = Field("who wrote the change")
    committer: Field[Ref[GitAuthor]] = Field("who made the commit")
    authored_at: Field[datetime | None] = Field(
        "when it was written, held within the years 1 to 9999; null when git cannot read the time"
    )
    author_offset: Field[int | None] = Field("the author's clock, in minutes east of UTC")
    committed_at: Field[datetime | None] = Field("when the commit was made; as authored_at")
    committer_offset: Field[int | None] = Field("the committer's clock, in minutes east of UTC")
    subject: Field[str] = Field("the first paragraph of the message, on one line")
    body: Field[str] = Field("the rest of the message; bytes that are no text appear as \\xhh")
    parents: Field[list[str]] = Field("the ids of its parents, the first one being its own branch")
    insertions: Field[int] = Field("lines added, against the first parent; binary files count none")
    deletions: Field[int] = Field("lines removed, against the first parent")
    changes: Many[GitFileChange] = Many("what it did to files", by=lambda: GitFileChange.commit)


class GitFileChange(Entity):
    """What a commit did to one file, against its first parent; the id is ``commit:path``."""

    commit: Field[Ref[GitCommit]] = Field("the commit that did it")
    path: Field[str] = Field("the file's path; bytes that are no text appear as \\xhh")
    old_path: Field[str | None] = Field("the path before a rename")
    status: Field[str] = Field("added, modified, deleted, renamed or retyped (a file became a link, …)")
    kind: Field[str] = Field("file, symlink or submodule")
    insertions: Field[int | None] = Field("lines added; null for a binary file")
    deletions: Field[int | None] = Field("lines removed; null for a binary file")


class GitBranch(Entity):
    """A local or remote-tracking branch; the id is its full ref name."""

    repository: Field[Ref[GitRepository]] = Field("the repository it is in")
    name: Field[str] = Field("its short name: main, origin/main")
    head: Field[Ref[GitCommit] | None] = Field("its newest commit; null when it names no commit")
    remote: Field[bool] = Field("whether it is a copy of another repository's branch")
    current: Field[bool] = Field("whether it is checked out here")
    upstream: Field[Ref[GitBranch] | None] = Field("the branch that it follows")
    stands_for: Field[str | None] = Field("the full name of another ref, when it is only a name for it")


class GitTag(Entity):
    """A tag, annotated or lightweight; the id is its full ref name."""

    repository: Field[Ref[GitRepository]] = Field("the repository it is in")
    name: Field[str] = Field("its short name: v1.0")
    annotated: Field[bool] = Field("whether it has a tagger and a message of its own")
    target: Field[Ref[GitCommit] | None] = Field("the commit it leads to; null for a tree or a file")
    target_id: Field[str] = Field("the hash of what it leads to")
    target_type: Field[str] = Field("commit, tree or blob")
    tagger: Field[Ref[GitAuthor] | None] = Field("who made the tag, when that is recorded")
    tagged_at: Field[datetime | None] = Field("when the tag was made; null when not recorded")
    tagger_offset: Field[int | None] = Field("the tagger's clock, in minutes east of UTC")
    message: Field[str | None] = Field("an annotated tag's message, without its signature")


ROOT = GitRepository.ref(ROOT_ID)
SCHEMA = Schema(
    [GitRepository, GitCommit, GitAuthor, GitFileChange, GitBranch, GitTag], roots=[GitRepository]
)


# -- bytes to values -----------------------------------------------------------------------

ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z
LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
KINDS = {b"160000": "submodule", b"120000": "symlink"}
STATUSES = {b"A": "added", b"M": "modified", b"D": "deleted", b"R": "renamed", b"T": "retyped"}


def prose(raw: bytes) -> str:
    """A message as text: bytes that are not UTF-8 become ``\\xhh``."""
    return raw.decode("utf-8", "backslashreplace")


def name_of(raw: bytes) -> str:
    """A path, person or ref as text; no two are alike.

    Where an escape occurs, written by us or as it came, backslashes are doubled: the file
    whose name is the byte ff and the file whose name is ``\\xff`` stay two.
    """
    text = prose(raw)
    if "\\" not in text or not ESCAPE.search(text):
        return text
    return prose(raw.replace(b"\\", b"\\\\"))


def moment(seconds: bytes) -> datetime | None:
    """A recorded time, held within what a datetime can say; None when there is none."""
    if not seconds:
        return None
    number = int(seconds[:20])  # what is cut off is beyond the last second anyway
    return EPOCH + timedelta(seconds=max(FIRST_SECOND, min(number, LAST_SECOND)))


def offset(raw_date: bytes) -> int | None:
    """The minutes east of UTC of ``1700000000 +0530``, however absurd; None when there are none."""
    if not raw_date:
        return None
    number = int(raw_date.split()[-1])
    hours, minutes = divmod(abs(number), 100)
    return (hours * 60 + minutes) * (1 if number >= 0 else -1)


def author_of(name: bytes, email: bytes) -> GitAuthor:
    """The person of a recorded name and address: the id says both, so no two records differ."""
    shown, address = name_of(name), name_of(email)
    return GitAuthor(f"{shown} <{address}>" if shown else f"<{address}>", name=shown, email=address)


# -- the git command -----------------------------------------------------------------------

SETTINGS = ("log.showRoot=true", "log.showSignature=false", "core.fsmonitor=false", "gc.auto=0")
ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # for a git that does not know the variable above
}
KEPT = ("GIT_CONFIG_", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES")  # of git's own variables
NO_GIT = "install git (2.31 or newer) and see that it is on the PATH"
PARTIAL = "a partial clone: not all its content is here, and Max does not fetch it"
FAULTS: tuple[tuple[str, type[UpstreamError], str, str], ...] = (  # what git says, what we say
    (
        "dubious own",
        PermissionDenied,
        "owned by another user",
        "git config --global --add safe.directory {path}",
    ),
    ("not a git repository", UpstreamMissing, "no git repository", "give the path of one, or run git init"),
    ("cannot change to", UpstreamMissing, "no such directory", "give the path of a repository"),
    ("ermission denied", PermissionDenied, "not readable", "see who owns the files"),
    ("romisor", UpstreamError, PARTIAL, "complete it: git fetch --refetch --no-filter"),
    ("unrecognized argument", UpstreamError, "this git is too old", NO_GIT),
)


def environment() -> dict[str, str]:
    """The environment of every git: ours, without what would lead it to another repository."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(KEPT)}
    return ours | ENVIRONMENT


def complaint_of(path: str, arguments: Sequence[str], complaint: str) -> UpstreamError:
    """What git said on its way out, as an error that says what to do."""
    for phrase, error, meaning, hint in FAULTS:
        if phrase in complaint:
            return error(f"{path}: {meaning}", hint=hint.format(path=shlex.quote(path)), git=complaint)
    fatal = [line for line in complaint.splitlines() if line.startswith(("fatal:", "error:"))]
    return UpstreamError(
        f"{path}: git {arguments[0]} failed: {(fatal or [complaint])[0]}",
        hint="git fsck tells what is damaged; after a repair, sync with --full",
        git=complaint,
    )


Struct = list[bytes]  # NUL-ended tokens that belong together


class Command:
    """One git command: its output in chunks or in records, its end checked, its process reaped.

    ``length`` says of a record's first token how many tokens the record has.
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
        self._fine = (0, 1) if absent else (0,)  # 1: what was asked for does not exist
        self._length = length
        self._process: asyncio.subprocess.Process | None = None
        self._records: deque[Struct] = deque()
        self._tokens: list[bytes] = []
        self._parts = [b""]  # the token that has no end yet

    async def start(self) -> None:
        """Run git, in a session of its own: Ctrl-C is ours to handle.

        A git whose reader has died ends at its next write.
        """
        settings = [part for setting in SETTINGS for part in ("-c", setting)]
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # stop closes it
        try:
            with tempfile.TemporaryFile() as stdin:
                stdin.write("".join(f"{line}\n" for line in self._lines).encode())
                stdin.seek(0)
                self._process = await asyncio.create_subprocess_exec(
                    *("git", "--no-pager", *settings, "-C", self._path, *self._arguments),
                    stdin=stdin,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=self._complaints,
                    env=environment(),
                    start_new_session=True,
                    limit=CHUNK,
                )
        except (FileNotFoundError, PermissionError) as error:
            raise MaxError(f"git cannot be run: {error.strerror}", hint=NO_GIT) from error
        finally:
            if self._process is None:
                self._complaints.close()

    async def stop(self) -> None:
        """End git, if it has not ended, and give everything back; records that were read stay."""
        process, self._process = self._process, None
        if process is None or process.stdout is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        while await process.stdout.read(CHUNK):
            pass  # a pipe that is not read to its end is never closed
        await process.wait()
        self._complaints.close()

    async def read(self) -> bytes:
        """Some output; empty once git has ended well, an error when it has not."""
        if self._process is None or self._process.stdout is None:
            return b""
        chunk = await self._process.stdout.read(CHUNK)
        if not chunk:
            if await self._process.wait() not in self._fine:
                self._complaints.seek(0)
                said = prose(self._complaints.read(CHUNK)).strip()
                raise complaint_of(self._path, self._arguments, said)
            await self.stop()
        return chunk

    async def take(self) -> Struct | None:
        """The next record, or None when git has ended well and everything was given."""
        while not self._records:
            chunk = await self.read()
            if not chunk:
                self._check_end()
                return None
            self._parse(chunk)
            await asyncio.sleep(0)  # a pipe that is always full would never let others run
        return self._records.popleft()

    def _parse(self, chunk: bytes) -> None:
        self._parts.append(chunk)
        if b"\0" not in chunk:
            return
        *ended, rest = b"".join(self._parts).split(b"\0")
        self._parts, tokens, at = [rest], self._tokens + ended, 0
        while at < len(tokens):
            first = tokens[at].lstrip(b"\n")  # git puts an empty line between some records
            end = at + self._length(first)
            if end > len(tokens):
                break
            self._records.append([first, *tokens[at + 1 : end]])
            at = end
        self._tokens = tokens[at:]

    def _check_end(self) -> None:
        rest = b"".join([*self._tokens, *self._parts]).strip()
        if rest:
            raise unreadable(rest)


def unreadable(token: bytes) -> UpstreamChanged:
    """The error for output of another shape than git documents."""
    return UpstreamChanged(
        f"git answered {prose(token[:60])!r}, which this connector does not understand",
        hint="this git may be newer than the connector: update Max",
    )


# -- commits: parsing ------------------------------------------------------------------------

# hash, parents, then name, address, seconds and "seconds zone" of both people, subject, body
HEADER = "%H %P %an %ae %at %ad %cn %ce %ct %cd %s %b"
HEADER_LENGTH = 1 + len(HEADER.split())
LOG = f"""
    log --stdin -z --raw --numstat --format=tformat:commit%x00{HEADER.replace(" ", "%x00")}
    --date=raw --encoding=UTF-8 --diff-merges=first-parent --diff-algorithm=myers --find-renames=50%
    -l1000 -O/dev/null --submodule=short --ignore-submodules=none --no-ext-diff --no-textconv
    --no-relative --no-color --no-notes --no-mailmap --no-decorate
"""


class Change(NamedTuple):
    """One file of one commit, as git tells it."""

    sha: str
    path: bytes
    old_path: bytes | None
    status: bytes
    mode: bytes
    insertions: int | None = 0
    deletions: int | None = 0


class Commit:
    """One commit, as git tells it; its lines are counted while its changes pass by."""

    __slots__ = ("author", "committer", "deletions", "header", "insertions", "sha")

    def __init__(self, header: Struct) -> None:
        self.header = header
        self.sha = header[0].decode("ascii")
        self.author, self.committer = (header[2], header[3]), (header[6], header[7])
        self.insertions = self.deletions = 0


Piece = Change | Commit


def length_of(token: bytes) -> int:
    """How many tokens the record of a log has that begins with this one.

    A commit is its header, then ``:modes hashes status`` with a path or two for every file,
    then ``added removed path`` (or an empty path, and two) for every file.
    """
    if token == b"commit":
        return HEADER_LENGTH
    if token[:1] == b":":
        return 3 if token[token.rindex(b" ") + 1 :][:1] in (b"R", b"C") else 2
    if token[:1].isdigit() or token[:1] == b"-":
        return 1 if token.split(b"\t", 2)[2] else 3
    raise unreadable(token)


class Counting:
    """Turns the records of a log into pieces: a commit's changes, then the commit with its sums."""

    def __init__(self) -> None:
        self._commit: Commit | None = None
        self._announced: deque[Change] = deque()

    def add(self, record: Struct | None) -> Iterator[Piece]:
        """The pieces that a record completes, or the end of the log."""
        if record is None or record[0] == b"commit":
            yield from self._announced
            self._announced.clear()
            if self._commit:
                yield self._commit
            self._commit = Commit(record[1:]) if record else None
        elif self._commit is None:
            raise unreadable(record[0])
        elif record[0][:1] == b":":
            self._announced.append(announced(self._commit, record))
        else:
            yield from self._count(self._commit, record)

    def _count(self, commit: Commit, record: Struct) -> Iterator[Piece]:
        """A counted file; git leaves those out of which no line differs."""
        added, removed, path = record[0].split(b"\t", 2)
        while self._announced and self._announced[0].path != (path or record[-1]):
            yield self._announced.popleft()
        if not self._announced:
            raise unreadable(record[0])
        change = self._announced.popleft()
        if added == b"-":
            yield change._replace(insertions=None, deletions=None)
            return
        commit.insertions += int(added)
        commit.deletions += int(removed)
        yield change._replace(insertions=int(added), deletions=int(removed))


def announced(commit: Commit, record: Struct) -> Change:
    """A changed file whose lines are not counted yet."""
    before, after, _, _, status = record[0][1:].split(b" ")
    old_path = record[1] if len(record) == 3 else None
    mode = before if status == b"D" else after
    return Change(commit.sha, record[-1], old_path, status[:1], mode)


# -- commits: reading ------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """What a complete listing had seen: the tips of every ref, and the view of their history.

    The view changes with what git itself hides or replaces (the edge of a shallow clone,
    replaced commits): then the difference of two sets of tips says nothing.
    """

    tips: tuple[str, ...]
    view: str

    @classmethod
    def parse(cls, text: str) -> Mark:
        """The inverse of str."""
        data = json.loads(text)
        return cls(tuple(data["tips"]), data["view"])

    def __str__(self) -> str:
        return json.dumps(vars(self))


@dataclass(frozen=True)
class Position:
    """Where a listing stands: what its cursor says.

    ``since`` are the tips of the mark that it starts from, None when it lists everything.
    ``gone``: it is at the commits that no ref reaches any more.  ``commits`` were given so
    far, ``last`` being the last of them, and ``changes`` of the one that comes next.
    """

    now: Mark
    since: tuple[str, ...] | None = None
    gone: bool = False
    commits: int = 0
    changes: int = 0
    last: str = ""

    @classmethod
    def parse(cls, cursor: str, sync_token: str | None) -> Position:
        """The inverse of str, for the request's own mark, which no cursor repeats."""
        *now, delta, gone, commits, changes, last = json.loads(cursor)
        since = Mark.parse(sync_token).tips if delta and sync_token is not None else None
        return cls(Mark(tuple(now[0]), now[1]), since, gone, commits, changes, last)

    def __str__(self) -> str:
        place = (self.since is not None, self.gone, self.commits, self.changes, self.last)
        return json.dumps([self.now.tips, self.now.view, *place])

    @property
    def revisions(self) -> list[str]:
        """What git shall list, a line each."""
        shown, hidden = self.now.tips, self.since or ()
        if self.gone:
            shown, hidden = hidden, shown
        return [*shown, *(f"^{sha}" for sha in hidden)] if shown else []

    def beginning(self) -> Position:
        """The same listing before its first commit."""
        return replace(self, commits=0, changes=0, last="")

    def following(self) -> Position | None:
        """What comes when this list of commits has ended: what is gone since the mark, or nothing."""
        if self.gone or self.since is None or set(self.since) <= set(self.now.tips):
            return None
        return replace(self.beginning(), gone=True)


@dataclass
class Portion:
    """What one page holds, as git tells it, and where the next one begins."""

    commits: list[Commit] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    next: Position | None = None


class CommitLog:
    """The one ``git log`` of a listing, kept between its pages."""

    def __init__(self, path: str, page_commits: int, page_changes: int) -> None:
        self._path = path
        self._page_commits, self._page_changes = page_commits, page_changes
        self._command: Command | None = None
        self._position: Position | None = None

    async def read(self, position: Position) -> Portion:
        """The page that begins at a position: the running log's own, or any other.

        Whatever ends this call early ends the log as well: the next call begins anew.
        """
        if not position.revisions:  # git would take HEAD, which may be unborn
            return Portion(next=position.following())
        try:
            if position != self._position:
                position = await self._open(position)
            portion = await self._portion(position)
        except BaseException:
            await self.stop()
            raise
        goes_on = portion.next is not None and portion.next.gone == position.gone
        self._position = portion.next if goes_on else None
        return portion

    async def stop(self) -> None:
        """End the log."""
        self._position = None
        if self._command:
            await self._command.stop()

    async def _open(self, position: Position) -> Position:
        await self._start(position)
        if await self._skip(position):
            return position
        await self._start(position.beginning())  # giving all again is right, leaving some out is not
        return position.beginning()

    async def _start(self, position: Position) -> None:
        await self.stop()
        skip = f"--skip={max(position.commits - 1, 0)}"
        self._command = Command(self._path, *LOG.split(), skip, lines=position.revisions, length=length_of)
        self._counting, self._pieces, self._ended = Counting(), deque[Piece](), False
        await self._command.start()

    async def _skip(self, position: Position) -> bool:
        """Leave behind what was given; False when the order of the history is not what it was."""
        if position.commits:
            while isinstance(piece := await self._take(), Change):
                pass
            if piece is None or piece.sha != position.last:
                return False
        for _ in range(position.changes):
            await self._take()
        return True

    async def _take(self) -> Piece | None:
        while not self._pieces and not self._ended and self._command:
            record = await self._command.take()
            self._pieces.extend(self._counting.add(record))
            self._ended = record is None
        return self._pieces.popleft() if self._pieces else None

    async def _portion(self, position: Position) -> Portion:
        portion, open_changes = Portion(), position.changes
        while len(portion.commits) < self._page_commits and len(portion.changes) < self._page_changes:
            piece = await self._take()
            if piece is None:
                portion.next = position.following()
                return portion
            if isinstance(piece, Change):
                portion.changes.append(piece)
                open_changes += 1
            else:
                portion.commits.append(piece)
                open_changes = 0
        portion.next = replace(
            position,
            commits=position.commits + len(portion.commits),
            changes=open_changes,
            last=portion.commits[-1].sha if portion.commits else position.last,
        )
        return portion


# -- branches and tags -----------------------------------------------------------------------

BRANCH = "refname objecttype objectname HEAD symref upstream"
TAG = """
    refname objecttype objectname taggername taggeremail:trim taggerdate:raw contents contents:signature
"""


async def rows_after(
    path: str, fields: str, patterns: Sequence[str], cursor: str | None
) -> tuple[list[Struct], str | None]:
    """A page of refs, and the cursor of the next one.

    The cursor is the last name given: names come in their order, so refs that are made or
    deleted meanwhile move no other.
    """
    names = fields.split()
    layout = "".join(f"%({name})%00" for name in names)
    words = ("for-each-ref", "--sort=refname", f"--format={layout}", *patterns)
    command = Command(path, *words, length=lambda _: len(names))
    after = cursor.encode("latin-1") if cursor is not None else b""  # any bytes, a character each
    rows: list[Struct] = []
    try:
        await command.start()
        while (row := await command.take()) is not None:
            if row[0] > after and len(rows) == PAGE_REFS:
                return rows, rows[-1][0].decode("latin-1")
            if row[0] > after:
                rows.append(row)
    finally:
        await command.stop()
    return rows, None


# -- the context -----------------------------------------------------------------------------


class Git:
    """One repository, and the log that is being read."""

    def __init__(
        self, path: str, *, page_commits: int = PAGE_COMMITS, page_changes: int = PAGE_CHANGES
    ) -> None:
        self.path = absolute(path)
        self.commits = CommitLog(self.path, page_commits, page_changes)

    async def output(self, *arguments: str, lines: Iterable[str] = (), absent: bool = False) -> list[str]:
        """What a short command answers, as lines; with ``absent``, no lines when git finds nothing."""
        command, chunks = Command(self.path, *arguments, lines=lines, absent=absent), []
        try:
            await command.start()
            while chunk := await command.read():
                chunks.append(chunk)
        finally:
            await command.stop()
        return os.fsdecode(b"".join(chunks)).splitlines()

    async def sync_token(self) -> Mark:
        """The tips of every ref and every working tree's HEAD, now."""
        tips = await self.output("rev-list", "--all", "--no-walk=unsorted")
        hidden = await self.output("for-each-ref", "--format=%(refname) %(objectname)", "refs/replace")
        names = ("--git-path", "shallow", "--git-path", "info/grafts")
        files = await self.output("rev-parse", "--path-format=absolute", *names)
        view = hashlib.sha256("\n".join(hidden).encode())
        for file in map(Path, files):
            view.update(b"\0" + (file.read_bytes() if file.is_file() else b""))
        return Mark(tuple(sorted(tips)), view.hexdigest()[:16])

    async def has(self, objects: Sequence[str]) -> bool:
        """Whether all of these objects are still here."""
        found = await self.output("cat-file", "--batch-check=%(objecttype)", lines=objects)
        return not any(line.endswith("missing") for line in found)

    async def peeled(self, objects: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """The type and the hash of what tag objects lead to, through any tags between."""
        asked = [f"{sha}^{{}}" for sha in objects]
        found = await self.output("cat-file", "--batch-check=%(objecttype) %(objectname)", lines=asked)
        ends = [line.split(" ") for line in found]
        return {sha: (kind, name) for sha, (kind, name) in zip(objects, ends, strict=True)}

    async def summary(self) -> str:
        """What there is, in one line."""
        (commits,) = await self.output("rev-list", "--all", "--count")
        branches = await self.output("for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes")
        return f"git: {counted(int(commits), 'commit')} on {counted(len(branches), 'branch', 'es')}"

    async def repository(self) -> GitRepository:
        """The root, as it is now."""
        questions = ("--is-bare-repository", "--is-shallow-repository", "--show-object-format")
        bare, shallow, object_format = await self.output("rev-parse", *questions)
        branch = await self.output("symbolic-ref", "--quiet", "--short", "HEAD", absent=True)
        head = await self.output("rev-parse", "--quiet", "--verify", "HEAD^{commit}", absent=True)
        return GitRepository(
            ROOT_ID,
            name=repository_name(self.path),
            bare=bare == "true",
            shallow=shallow == "true",
            object_format=object_format,
            head_branch=name_of(os.fsencode(branch[0])) if branch else None,
            head=GitCommit.ref(head[0]) if head else None,
        )


def counted(number: int, noun: str, plural: str = "s") -> str:
    """``1 commit``, ``2 commits``."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def absolute(path: str) -> str:
    """The path from wherever a sync may run; UpstreamMissing for what can be no path."""
    if not path or "\0" in path:
        raise UpstreamMissing(f"{path!r} is no path", hint="give the path of a git repository")
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  # pathlib's may raise


def repository_name(path: str) -> str:
    """``/src/max``, ``/src/max/.git`` and ``/src/max.git`` are all ``max``."""
    place = Path(path)
    place = place.parent if place.name == ".git" else place
    return name_of(os.fsencode(place.name.removesuffix(".git")))


T = TypeVar("T")
E = TypeVar("E", bound=Entity)

# -- loaders ---------------------------------------------------------------------------------


def commit_entity(commit: Commit) -> GitCommit:
    """A commit as it is stored."""
    _, parents, _, _, authored, author_date, _, _, committed, commit_date, subject, body = commit.header
    return GitCommit(
        commit.sha,
        repository=ROOT,
        author=Ref.of(author_of(*commit.author)),
        committer=Ref.of(author_of(*commit.committer)),
        authored_at=moment(authored),
        author_offset=offset(author_date),
        committed_at=moment(committed),
        committer_offset=offset(commit_date),
        subject=prose(subject),
        body=prose(body).rstrip("\n"),
        parents=parents.decode("ascii").split(),
        insertions=commit.insertions,
        deletions=commit.deletions,
    )


def change_entity(change: Change) -> GitFileChange:
    """A file change as it is stored."""
    return GitFileChange(
        f"{change.sha}:{name_of(change.path)}",
        commit=GitCommit.ref(change.sha),
        path=name_of(change.path),
        old_path=name_of(change.old_path) if change.old_path is not None else None,
        status=STATUSES.get(change.status, prose(change.status)),
        kind=KINDS.get(change.mode, "file"),
        insertions=change.insertions,
        deletions=change.deletions,
    )


async def in_turns(make: Callable[[T], E], things: Sequence[T]) -> list[E]:
    """Make an entity of each thing; other tasks have their turn in between."""
    made: list[E] = []
    for at in range(0, len(things), TURN):
        made += map(make, things[at : at + TURN])
        await asyncio.sleep(0)
    return made


async def arrived(portion: Portion, next: str | None, sync_token: str | None) -> Page[GitCommit]:
    """A page of commits that refs reach, with their authors and changes."""
    people = {commit.author for commit in portion.commits} | {commit.committer for commit in portion.commits}
    also: list[Entity] = [author_of(*person) for person in people]
    also += await in_turns(change_entity, portion.changes)
    return Page(await in_turns(commit_entity, portion.commits), next, also, sync_token=sync_token)


async def departed(portion: Portion, next: str | None, sync_token: str | None) -> Page[GitCommit]:
    """A page of commits that no ref reaches any more; their changes go with them."""
    return Page(
        (), next, removed=[GitCommit.ref(commit.sha) for commit in portion.commits], sync_token=sync_token
    )


async def beginning(git: Git, sync_token: str | None) -> Position:
    """Where a new listing begins: at what is new since the mark, or at everything.

    A mark whose commits git has thrown away, or whose view of the history was another one,
    cannot be compared with what is there now.
    """
    now = await git.sync_token()
    if sync_token is not None:
        old = Mark.parse(sync_token)
        if old.view == now.view and await git.has(old.tips):
            return Position(now, old.tips)
    return Position(now)


@operation("git:repository:get", deadline=PATIENCE)
async def read_repository(git: Git, _: None) -> GitRepository:
    """The root, as it is now."""
    return await git.repository()


@operation("git:commit:log", limit=Limit("git log", concurrency=1), deadline=PATIENCE)
async def read_commits(git: Git, request: PageRequest) -> Page[GitCommit]:
    """One page of the commits that are new since the mark, then of those that are gone."""
    if request.cursor is not None:
        position = Position.parse(request.cursor, request.sync_token)
    else:
        position = await beginning(git, request.sync_token)
    portion = await git.commits.read(position)
    next = str(portion.next) if portion.next else None
    page_of = departed if position.gone else arrived
    page = await page_of(portion, next, None if next else str(position.now))
    return page.replace(complete_snapshot=request.sync_token is not None and position.since is None)


@operation("git:branch:list", deadline=PATIENCE)
async def read_branches(git: Git, request: PageRequest) -> Page[GitBranch]:
    """One page of the branches."""
    rows, next = await rows_after(git.path, BRANCH, ("refs/heads", "refs/remotes"), request.cursor)
    return Page([branch_entity(row) for row in rows], next)


@operation("git:tag:list", deadline=PATIENCE)
async def read_tags(git: Git, request: PageRequest) -> Page[GitTag]:
    """One page of the tags, with their taggers."""
    rows, next = await rows_after(git.path, TAG, ("refs/tags",), request.cursor)
    annotated = [row[2].decode("ascii") for row in rows if row[1] == b"tag"]
    targets = await git.peeled(annotated) if annotated else {}
    pairs = [tag_entities(row, targets) for row in rows]
    taggers = {tagger.id: tagger for _, tagger in pairs if tagger is not None}
    return Page([tag for tag, _ in pairs], next, list(taggers.values()))


def branch_entity(row: Struct) -> GitBranch:
    """A branch as it is stored."""
    ref_name, kind, sha, current, symref, upstream = row
    return GitBranch(
        name_of(ref_name),
        repository=ROOT,
        name=name_of(ref_name.split(b"/", 2)[2]),
        head=GitCommit.ref(sha.decode("ascii")) if kind == b"commit" else None,
        remote=ref_name.startswith(b"refs/remotes/"),
        current=current == b"*",
        upstream=GitBranch.ref(name_of(upstream)) if upstream else None,
        stands_for=name_of(symref) if symref else None,
    )


def tag_entities(row: Struct, targets: Mapping[str, tuple[str, str]]) -> tuple[GitTag, GitAuthor | None]:
    """A tag as it is stored, and its tagger."""
    ref_name, own_type, own_sha, name, email, date, contents, signature = row
    annotated, sha = own_type == b"tag", own_sha.decode("ascii")
    kind, target = targets[sha] if annotated else (own_type.decode("ascii"), sha)
    tagger = author_of(name, email) if name or email else None
    tag = GitTag(
        name_of(ref_name),
        repository=ROOT,
        name=name_of(ref_name.split(b"/", 2)[2]),
        annotated=annotated,
        target=GitCommit.ref(target) if kind == "commit" else None,
        target_id=target,
        target_type=kind,
        tagger=Ref.of(tagger) if tagger else None,
        tagged_at=moment(date.split(b" ")[0]),
        tagger_offset=offset(date),
        message=prose(contents.removesuffix(signature)).rstrip("\n") if annotated else None,
    )
    return tag, tagger


def fields_of(*entities: type[Entity]) -> list[Any]:
    """Every field of some entities: a listing brings whole records."""
    return [getattr(entity, name) for entity in entities for name in entity.types()]


@Loader.collection(GitRepository.commits, brings=fields_of(GitCommit, GitAuthor, GitFileChange))
async def load_commits(
    repository: Ref[GitRepository], request: PageRequest, env: Env[Git]
) -> Page[GitCommit]:
    """The history, newest first; with a mark, what was added to it and what was taken away."""
    return await env.run(read_commits, request)


@Loader.collection(GitRepository.branches, brings=fields_of(GitBranch))
async def load_branches(
    repository: Ref[GitRepository], request: PageRequest, env: Env[Git]
) -> Page[GitBranch]:
    """Every branch, by name."""
    return await env.run(read_branches, request)


@Loader.collection(GitRepository.tags, brings=fields_of(GitTag, GitAuthor))
async def load_tags(repository: Ref[GitRepository], request: PageRequest, env: Env[Git]) -> Page[GitTag]:
    """Every tag, by name."""
    return await env.run(read_tags, request)


# -- the connector ---------------------------------------------------------------------------


@dataclass(frozen=True)
class GitConfig:
    """Which repository."""

    path: str


async def seed(git: Git, engine: Engine) -> SyncPlan:
    """Store the repository; list its commits, branches and tags side by side."""
    repository = await run_operation(read_repository, git, None)
    await engine.store(repository)
    root = Step.for_root(ROOT)
    listings = [
        root.load_collection(GitRepository.commits),
        root.load_collection(GitRepository.branches),
        root.load_collection(GitRepository.tags),
    ]
    return SyncPlan([Step.concurrent(listings)])


async def initialise(config: GitConfig, credentials: CredentialProvider) -> Installation[Git]:
    """A repository to read; nothing runs yet."""
    git = Git(config.path)
    return Installation(context=git, stop=git.commits.stop, health=git.summary)


async def settle(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
    """Make the path absolute: a sync may run in another directory than this one."""
    return {"path": absolute(answers["path"])}


async def examine(answers: Answers, credentials: CredentialProvider) -> str:
    """Read the repository's size, which also shows that git can read it."""
    return await Git(answers["path"]).summary()


connector = Connector(
    name="git",
    description="the history of a local git repository: commits, authors, file changes, branches, tags",
    schema=SCHEMA,
    loaders=[load_commits, load_branches, load_tags],
    seeder=seed,
    initialise=initialise,
    config=GitConfig,
    onboarding=[Input("path", "Path of the repository"), RunCode(settle), Validate(examine)],
    operations=[read_repository, read_commits, read_branches, read_tags],
)
