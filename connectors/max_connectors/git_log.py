"""Reads the history of a repository from ``git log``, a page at a time.

Rule 1: one git process per history.  It runs on between two pages.

Rule 2: a listing covers the commits that the refs reached when it began: their tips are in
every cursor.  Commits made meanwhile do not disturb it, and a new process continues where
another one ended.

Rule 3: the tips of a complete listing are its sync token.  The next listing asks git for
``new tips ^old tips``; the commits of ``old tips ^new tips`` are gone.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .git_command import Command, Tokens, unreadable

# hash, parents, then name, address, seconds and "seconds zone" of both people, subject, body
HEADER = "%H %P %an %ae %at %ad %cn %ce %ct %cd %s %b"
HEADER_LENGTH = 1 + len(HEADER.split())
LOG = f"""
    log --stdin -z --raw --numstat --format=tformat:commit%x00{HEADER.replace(" ", "%x00")}
    --date=raw --encoding=UTF-8 --diff-merges=first-parent --diff-algorithm=myers --find-renames=50%
    -l1000 -O/dev/null --submodule=short --ignore-submodules=none --no-ext-diff --no-textconv
    --no-relative --no-color --no-notes --no-mailmap --no-decorate
"""


# -- parsing ---------------------------------------------------------------------------------


class Change(NamedTuple):
    """One file of one commit, as git prints it."""

    sha: str
    path: bytes
    old_path: bytes | None
    status: bytes
    mode: bytes
    insertions: int | None = 0
    deletions: int | None = 0


class Commit:
    """One commit, as git prints it; the parser adds up the lines of its changes."""

    __slots__ = ("author", "committer", "deletions", "header", "insertions", "sha")

    def __init__(self, header: Tokens) -> None:
        self.header = header
        self.sha = header[0].decode("ascii")
        self.author, self.committer = (header[2], header[3]), (header[6], header[7])
        self.insertions = self.deletions = 0


def length_of(token: bytes) -> int:
    """The number of tokens in the record of a log that begins with this token.

    A commit is its header, then ``:modes hashes status`` with one or two paths for every file,
    then ``added removed path`` (or an empty path and two more tokens) for every file.
    """
    if token == b"commit":
        return HEADER_LENGTH
    if token[:1] == b":":
        return 3 if token[token.rindex(b" ") + 1 :][:1] in (b"R", b"C") else 2
    if token[:1].isdigit() or token[:1] == b"-":
        return 1 if token.split(b"\t", 2)[2] else 3
    raise unreadable(token)


class LogParser:
    """Turns the records of a log into changes and commits: a commit follows its own changes."""

    def __init__(self) -> None:
        self._commit: Commit | None = None
        self._uncounted: deque[Change] = deque()

    def add(self, record: Tokens | None) -> Iterator[Change | Commit]:
        """What this record completes; None is the end of the log."""
        if record is None or record[0] == b"commit":
            yield from self._uncounted
            self._uncounted.clear()
            if self._commit:
                yield self._commit
            self._commit = Commit(record[1:]) if record else None
        elif self._commit is None:
            raise unreadable(record[0])
        elif record[0][:1] == b":":
            self._uncounted.append(uncounted_change(self._commit, record))
        else:
            yield from self._count(self._commit, record)

    def _count(self, commit: Commit, record: Tokens) -> Iterator[Change]:
        """A file with its line counts; git prints none for a file whose lines are all the same."""
        added, removed, path = record[0].split(b"\t", 2)
        while self._uncounted and self._uncounted[0].path != (path or record[-1]):
            yield self._uncounted.popleft()
        if not self._uncounted:
            raise unreadable(record[0])
        change = self._uncounted.popleft()
        if added == b"-":
            yield change._replace(insertions=None, deletions=None)
            return
        commit.insertions += int(added)
        commit.deletions += int(removed)
        yield change._replace(insertions=int(added), deletions=int(removed))


def uncounted_change(commit: Commit, record: Tokens) -> Change:
    """A changed file, before its lines are counted."""
    before, after, _, _, status = record[0][1:].split(b" ")
    old_path = record[1] if len(record) == 3 else None
    mode = before if status == b"D" else after
    return Change(commit.sha, record[-1], old_path, status[:1], mode)


# -- where a listing is ----------------------------------------------------------------------


@dataclass(frozen=True)
class Tips:
    """The tips of every ref, and the view of the history behind them: a listing's sync token.

    The view changes with what git itself hides or replaces (the edge of a shallow clone,
    replaced commits).  Tips of two different views cannot be compared.
    """

    tips: tuple[str, ...]
    view: str

    @classmethod
    def parse(cls, text: str) -> Tips:
        """The inverse of str."""
        data = json.loads(text)
        return cls(tuple(data["tips"]), data["view"])

    def __str__(self) -> str:
        return json.dumps(vars(self))


@dataclass(frozen=True)
class Position:
    """Where a listing is: the content of its cursor.

    ``since`` are the tips of the sync token that it starts from, None when it lists everything.
    ``gone``: it has reached the commits that no ref reaches any more.  ``commits`` were given so
    far, the last of them ``last``, and ``changes`` of the next one.
    """

    now: Tips
    since: tuple[str, ...] | None = None
    gone: bool = False
    commits: int = 0
    changes: int = 0
    last: str = ""

    @classmethod
    def parse(cls, cursor: str, sync_token: str | None) -> Position:
        """The inverse of str; the request's sync token is not repeated in its cursors."""
        *now, incremental, gone, commits, changes, last = json.loads(cursor)
        since = Tips.parse(sync_token).tips if incremental and sync_token is not None else None
        return cls(Tips(tuple(now[0]), now[1]), since, gone, commits, changes, last)

    def __str__(self) -> str:
        place = (self.since is not None, self.gone, self.commits, self.changes, self.last)
        return json.dumps([self.now.tips, self.now.view, *place])

    @property
    def revisions(self) -> list[str]:
        """What git has to list, as lines of its standard input."""
        shown, hidden = self.now.tips, self.since or ()
        if self.gone:
            shown, hidden = hidden, shown
        return [*shown, *(f"^{sha}" for sha in hidden)] if shown else []

    def beginning(self) -> Position:
        """The same listing before its first commit."""
        return replace(self, commits=0, changes=0, last="")

    def following(self) -> Position | None:
        """What comes after the last of these commits: those that are gone, or nothing."""
        if self.gone or self.since is None or set(self.since) <= set(self.now.tips):
            return None
        return replace(self.beginning(), gone=True)


# -- reading ---------------------------------------------------------------------------------


@dataclass
class LogPage:
    """The commits and changes of one page, as git prints them, and where the next page begins."""

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

    async def read(self, position: Position) -> LogPage:
        """The page that begins at a position: that of the running log, or any other.

        A failure or cancellation stops the running log; the next call starts another.
        """
        if not position.revisions:  # git would take HEAD, which may not exist yet
            return LogPage(next=position.following())
        try:
            if position != self._position:
                position = await self._open(position)
            page = await self._read_page(position)
        except BaseException:
            await self.stop()
            raise
        continues = page.next is not None and page.next.gone == position.gone
        self._position = page.next if continues else None
        return page

    async def stop(self) -> None:
        """End the log."""
        self._position = None
        if self._command:
            await self._command.stop()

    async def _open(self, position: Position) -> Position:
        await self._start(position)
        if await self._skip(position):
            return position
        await self._start(position.beginning())  # repeating commits is safe, omitting some is not
        return position.beginning()

    async def _start(self, position: Position) -> None:
        await self.stop()
        skip = f"--skip={max(position.commits - 1, 0)}"
        self._command = Command(self._path, *LOG.split(), skip, lines=position.revisions, length=length_of)
        self._parser, self._parsed, self._ended = LogParser(), deque[Change | Commit](), False
        await self._command.start()

    async def _skip(self, position: Position) -> bool:
        """Skip what was given before; False when the history's order has changed since."""
        if position.commits:
            while isinstance(item := await self._next(), Change):
                pass
            if item is None or item.sha != position.last:
                return False
        for _ in range(position.changes):
            await self._next()
        return True

    async def _next(self) -> Change | Commit | None:
        while not self._parsed and not self._ended and self._command:
            record = await self._command.next_record()
            self._parsed.extend(self._parser.add(record))
            self._ended = record is None
        return self._parsed.popleft() if self._parsed else None

    async def _read_page(self, position: Position) -> LogPage:
        page, open_changes = LogPage(), position.changes
        while len(page.commits) < self._page_commits and len(page.changes) < self._page_changes:
            item = await self._next()
            if item is None:
                page.next = position.following()
                return page
            if isinstance(item, Change):
                page.changes.append(item)
                open_changes += 1
            else:
                page.commits.append(item)
                open_changes = 0
        page.next = replace(
            position,
            commits=position.commits + len(page.commits),
            changes=open_changes,
            last=page.commits[-1].sha if page.commits else position.last,
        )
        return page
