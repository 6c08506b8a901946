"""Reads the history of a repository from ``git log``, a page at a time.

Rule 1: one git process per history.  It runs on between two pages.

Rule 2: a listing covers the commits that the refs reached when it began: their tips are in
every cursor.  Commits made meanwhile do not disturb it, and a new process continues where
another one ended.

Rule 3: the tips of a complete listing are its sync token.  The next listing asks git for
``new tips ^old tips``; the commits of ``old tips ^new tips`` are gone.

Rule 4: content that git cannot read (a clone without it, or damage) costs its own commit alone its
line counts, and a tree its file changes.  Where it is damage, the listing fails at its end.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from max.connecting import UpstreamError

from .git_command import MISSING, Command, Tokens, damaged_content, is_partial, output, unreadable

# hash, parents, then name, address, seconds and "seconds zone" of both people, subject, body
HEADER = "%H %P %an %ae %at %ad %cn %ce %ct %cd %s %b"
HEADER_LENGTH = 1 + len(HEADER.split())
LOG = f"""
    log --stdin -z --format=tformat:commit%x00{HEADER.replace(" ", "%x00")}
    --date=raw --encoding=UTF-8 --diff-algorithm=myers
    -l1000 -O/dev/null --submodule=short --ignore-submodules=none --no-ext-diff --no-textconv
    --no-relative --no-color --no-notes --no-mailmap --no-decorate
"""
COUNTED = "--diff-merges=first-parent --raw --numstat --find-renames=50%"  # reads the files
NAMED = "--diff-merges=first-parent --raw --no-abbrev --find-renames=100%"  # reads the trees
BARE = "--no-patch"  # reads the commits
SUBMODULE, NOTHING = b"160000", b"000000"  # modes without a file


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
    blobs: tuple[bytes, ...] = ()  # the ids of its content, before and after


class Commit:
    """One commit, as git prints it; the parser adds up the lines of its changes."""

    __slots__ = ("author", "committer", "deletions", "header", "insertions", "sha")

    def __init__(self, header: Tokens) -> None:
        self.header = header
        self.sha = header[0].decode("ascii")
        self.author, self.committer = (header[2], header[3]), (header[6], header[7])
        self.insertions: int | None = 0
        self.deletions: int | None = 0


Shown = tuple[Commit, list[Change]]  # a commit with its changes


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
        commit.insertions = (commit.insertions or 0) + int(added)
        commit.deletions = (commit.deletions or 0) + int(removed)
        yield change._replace(insertions=int(added), deletions=int(removed))


def uncounted_change(commit: Commit, record: Tokens) -> Change:
    """A changed file, before its lines are counted."""
    before, after, old, new, status = record[0][1:].split(b" ")
    old_path = record[1] if len(record) == 3 else None
    mode = before if status == b"D" else after
    blobs = tuple(id for id, its in ((old, before), (new, after)) if its not in (SUBMODULE, NOTHING))
    return Change(commit.sha, record[-1], old_path, status[:1], mode, blobs=blobs)


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
    far, the last of them ``last``, and ``changes`` of the next one.  ``damaged`` is the first
    commit with content that is damaged, behind MISSING where git does not have it; ``ended``: all
    were given, and what is left is to say so.
    """

    now: Tips
    since: tuple[str, ...] | None = None
    gone: bool = False
    commits: int = 0
    changes: int = 0
    last: str = ""
    damaged: str = ""
    ended: bool = False

    @classmethod
    def parse(cls, cursor: str, sync_token: str | None) -> Position:
        """The inverse of str; the request's sync token is not repeated in its cursors."""
        tips, view, incremental, *place = json.loads(cursor)
        since = Tips.parse(sync_token).tips if incremental and sync_token is not None else None
        return cls(Tips(tuple(tips), view), since, *place)

    def __str__(self) -> str:
        place = (self.gone, self.commits, self.changes, self.last, self.damaged, self.ended)
        return json.dumps([self.now.tips, self.now.view, self.since is not None, *place])

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
        """What comes after the last of these commits: those that are gone, what is damaged, or nothing."""
        if not (self.gone or self.since is None or set(self.since) <= set(self.now.tips)):
            return replace(self.beginning(), gone=True)
        return replace(self, ended=True) if self.damaged else None


def uncounted(commit: Commit, named: Mapping[str, Shown]) -> Shown:
    """A commit whose lines git cannot count, with its changes where it can name them."""
    commit.insertions = commit.deletions = None
    changes = named[commit.sha][1] if commit.sha in named else []
    return commit, [one._replace(insertions=None, deletions=None) for one in changes]


class Everything(Container[bytes]):
    """Has whatever is asked for."""

    def __contains__(self, one: object) -> bool:
        return True


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
        if position.ended:
            raise damaged_content(self._path, position.damaged)
        if not position.revisions:  # git would take HEAD, which may not exist yet
            return LogPage(next=position.following())
        try:
            if position != self._position:
                position = await self._open(position)
            page = await self._read_page(position)
        except BaseException as error:
            await self.stop()
            if type(error) is not UpstreamError:
                raise
            return await self._salvage(position, error)
        continues = page.next is not None and page.next.gone == position.gone
        self._position = page.next if continues else None
        return page

    async def _salvage(self, position: Position, error: UpstreamError) -> LogPage:
        """A page of commits, each as far as git can read it."""
        position = await self._open(replace(position, changes=0), BARE)
        bare = await self._read_page(position)
        with_trees = await self._with_trees(bare.commits)
        named = await self._readable(with_trees, NAMED)
        whole = await self._whole(named)
        counted = await self._readable(whole, COUNTED)
        await self.stop()
        salvaged = {one.sha: counted.get(one.sha) or uncounted(one, named) for one in bare.commits}
        lost = "" if is_partial(error) else next((sha for sha in salvaged if sha not in counted), "")
        if lost and (lost not in with_trees or (lost in named and lost not in whole)):
            lost = MISSING + lost
        return self._salvaged_page(position, bare, salvaged, position.damaged or lost)

    async def _whole(self, named: Mapping[str, Shown]) -> list[str]:
        """Those of these commits of which git has every file that they change."""
        blobs = {sha: {id for one in changes for id in one.blobs} for sha, (_, changes) in named.items()}
        present = await self._present([id.decode("ascii") for ids in blobs.values() for id in ids])
        return [sha for sha in named if all(id in present for id in blobs[sha])]

    def _salvaged_page(
        self, position: Position, bare: LogPage, salvaged: Mapping[str, Shown], damaged: str
    ) -> LogPage:
        """The commits of a page as far as its changes reach; ``damaged`` is one that cannot be read."""
        page = LogPage(next=bare.next)
        for bare_commit in bare.commits:
            commit, changes = salvaged[bare_commit.sha]
            page.commits.append(commit)
            page.changes += changes
            if len(page.changes) >= self._page_changes and len(page.commits) < len(bare.commits):
                page.next = replace(position, commits=position.commits + len(page.commits), last=commit.sha)
                break
        if damaged:
            page.next = replace(page.next or replace(position, ended=True), damaged=damaged)
        return page

    async def _readable(self, shas: Sequence[str], how: str) -> dict[str, Shown]:
        """Those of these commits that git can read in a way, with their changes."""
        found: dict[str, Shown] = {}
        left, size = list(shas), len(shas)
        while left:
            asked = left[:size]
            given, failed = await self._given(asked, how)
            found |= given
            if failed and not given and size > 1:
                size = 1  # the first of them, or the one behind it, is what git cannot read
                continue
            left = left[max(len(given), 1) if failed else len(asked) :]
            size = size if failed else size * 4
        return found

    async def _given(self, shas: Sequence[str], how: str) -> tuple[dict[str, Shown], bool]:
        """The commits that git gives before it fails, and whether it fails."""
        given: dict[str, Shown] = {}
        changes: list[Change] = []
        try:
            await self._start(shas, how, "--no-walk=unsorted")
            while (item := await self._next()) is not None:
                if isinstance(item, Change):
                    changes.append(item)
                else:
                    given[item.sha], changes = (item, changes), []
        except UpstreamError:
            return given, True
        return given, False

    async def _with_trees(self, commits: Sequence[Commit]) -> list[str]:
        """Those of these commits of which git has the tree, and that of the first parent."""
        pairs = {one.sha: [one.sha, *one.header[1].decode("ascii").split()[:1]] for one in commits}
        asked = list({sha for pair in pairs.values() for sha in pair})
        shown = ("rev-list", "--stdin", "--no-walk=unsorted", "--format=%H %T")
        lines = await output(self._path, *shown, lines=asked)
        trees = dict(line.split(b" ") for line in lines[1::2])  # each after a line "commit …"
        has = await self._present(asked, "--filter=tree:1")
        missing = {sha.decode("ascii") for sha, tree in trees.items() if tree not in has}
        return [sha for sha, pair in pairs.items() if missing.isdisjoint(pair)]

    async def _present(self, names: Sequence[str], *options: str) -> Container[bytes]:
        """The objects that git has of these, or in these; all, when it cannot even say that."""
        words = ("rev-list", "--objects", "--ignore-missing", "--missing=print", "--no-walk", "--stdin")
        try:
            return {line.split(b" ")[0] for line in await output(self._path, *words, *options, lines=names)}
        except UpstreamError:
            return Everything()

    async def stop(self) -> None:
        """End the log."""
        self._position = None
        if self._command:
            await self._command.stop()

    async def _open(self, position: Position, how: str = COUNTED) -> Position:
        how = BARE if position.gone else how
        await self._start(position.revisions, how, f"--skip={max(position.commits - 1, 0)}")
        if await self._skip(position):
            return position
        await self._start(position.revisions, how)  # repeating commits is safe, omitting some is not
        return position.beginning()

    async def _start(self, lines: Sequence[str], how: str, *options: str) -> None:
        await self.stop()
        words = (*LOG.split(), *how.split(), *options)
        self._command = Command(self._path, *words, lines=lines, length=length_of)
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
