"""Git: any local repository, read through the ``git`` command.

``git_command.py`` runs git, ``git_log.py`` reads the history; this module has the entities, the
loaders and the connector.

Changes are counted against the first parent, so a merge shows what it brought to the branch it
was made on.  Renames are those that ``git log -M`` finds.  Authors are taken as recorded, without
``.mailmap``: that file changes, and old commits are not read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from max.connecting import (
    Answers,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Input,
    Installation,
    Json,
    Limit,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    RunCode,
    Schema,
    Step,
    Store,
    SyncPlan,
    UpstreamMissing,
    Validate,
    operation,
    run_operation,
)

from .git_command import Command, Tokens, output, prose, require_git
from .git_log import Change, Commit, CommitLog, LogPage, Position, Tips

T = TypeVar("T")
E = TypeVar("E", bound=Entity)

PAGE_COMMITS = 500  # the most commits of a page
PAGE_CHANGES = 4000  # the most file changes of a page; a larger commit takes several pages
PAGE_REFS = 2000  # branches or tags of a page; a page is one short command
YIELD_EVERY = 100  # entities made before other tasks run: about 2 ms
DEADLINE = 600.0  # seconds for one page: a cold disk and a large rename take time
ROOT_ID = "repository"  # an installation holds one repository, even after it is moved


# -- entities ----------------------------------------------------------------------------


class GitRepository(Entity, title="name"):
    """The repository, the root of everything else."""

    name: Field[str] = Field("the name of its directory")
    bare: Field[bool] = Field("whether it has no working tree")
    shallow: Field[bool] = Field("whether its history is cut off somewhere")
    object_format: Field[str] = Field("the hash that names its objects: sha1 or sha256")
    head_branch: Field[str | None] = Field("the branch that HEAD names; null when detached", brief=True)
    head: Field[Ref[GitCommit] | None] = Field(
        "the commit that HEAD is at; null before the first one", brief=True
    )
    commits: Many[GitCommit] = Many("every commit that a ref reaches", by=lambda: GitCommit.repository)
    branches: Many[GitBranch] = Many("local and remote-tracking branches", by=lambda: GitBranch.repository)
    tags: Many[GitTag] = Many("annotated and lightweight tags", by=lambda: GitTag.repository)


class GitAuthor(Entity, title="name"):
    """A name and an address, exactly as commits and tags record them; the id holds both."""

    name: Field[str] = Field("the name as recorded", searchable=True)
    email: Field[str] = Field(
        "the e-mail address as recorded, upper and lower case kept", searchable=True, brief=True
    )


class GitCommit(Entity, title="subject"):
    """A commit that a ref reaches; the id is its full hash."""

    repository: Field[Ref[GitRepository]] = Field("the repository it is in")
    author: Field[Ref[GitAuthor]] = Field("who wrote the change", brief=True)
    committer: Field[Ref[GitAuthor]] = Field("who made the commit")
    authored_at: Field[datetime | None] = Field(
        "when it was written, limited to the years 1 to 9999; null when git cannot read the time", brief=True
    )
    author_offset: Field[int | None] = Field("the author's time zone, in minutes east of UTC")
    committed_at: Field[datetime | None] = Field("when the commit was made; limits as for authored_at")
    committer_offset: Field[int | None] = Field("the committer's time zone, in minutes east of UTC")
    subject: Field[str] = Field("the first paragraph of the message, on one line", searchable=True)
    body: Field[str] = Field(
        "the rest of the message; bytes that are not UTF-8 appear as \\xhh", searchable=True
    )
    parents: Field[list[str]] = Field("the ids of its parents; the first one is on its own branch")
    insertions: Field[int | None] = Field(
        "lines added, against the first parent; none for binary files; null when git cannot read the content",
        brief=True,
    )
    deletions: Field[int | None] = Field(
        "lines removed, against the first parent; null as for insertions", brief=True
    )
    changes: Many[GitFileChange] = Many("the files that it changed", by=lambda: GitFileChange.commit)


class GitFileChange(Entity, title="path"):
    """What a commit did to one file, against its first parent; the id is commit:path."""

    commit: Field[Ref[GitCommit]] = Field("the commit that made the change", brief=True)
    path: Field[str] = Field("the file's path; bytes that are not UTF-8 appear as \\xhh", searchable=True)
    old_path: Field[str | None] = Field("the path before a rename")
    status: Field[str] = Field(
        "added, modified, deleted, renamed or retyped (a file became a link, …)", brief=True
    )
    kind: Field[str] = Field("file, symlink or submodule")
    insertions: Field[int | None] = Field(
        "lines added; null for a binary file, or content git cannot read", brief=True
    )
    deletions: Field[int | None] = Field("lines removed; null as for insertions", brief=True)


class GitBranch(Entity, title="name"):
    """A local or remote-tracking branch; the id is its full ref name."""

    repository: Field[Ref[GitRepository]] = Field("the repository it is in")
    name: Field[str] = Field("its short name: main, origin/main", searchable=True)
    head: Field[Ref[GitCommit] | None] = Field("its newest commit; null when it names no commit", brief=True)
    remote: Field[bool] = Field("whether it is a copy of another repository's branch")
    current: Field[bool] = Field("whether it is checked out here", brief=True)
    upstream: Field[Ref[GitBranch] | None] = Field("the branch that it tracks")
    symref: Field[str | None] = Field("the full name of the ref that it points to, for a symbolic ref")


class GitTag(Entity, title="name"):
    """A tag, annotated or lightweight; the id is its full ref name."""

    repository: Field[Ref[GitRepository]] = Field("the repository it is in")
    name: Field[str] = Field("its short name: v1.0", searchable=True)
    annotated: Field[bool] = Field("whether it has a tagger and a message")
    target: Field[Ref[GitCommit] | None] = Field("the tagged commit; null for a tree or a file", brief=True)
    target_id: Field[str] = Field("the hash of the tagged object")
    target_type: Field[str] = Field("commit, tree or blob")
    tagger: Field[Ref[GitAuthor] | None] = Field("who made the tag; null when not recorded")
    tagged_at: Field[datetime | None] = Field("when the tag was made; null when not recorded", brief=True)
    tagger_offset: Field[int | None] = Field("the tagger's time zone, in minutes east of UTC")
    message: Field[str | None] = Field("an annotated tag's message, without its signature", searchable=True)


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


def name_of(raw: bytes) -> str:
    """A path, person or ref as text; two different names stay different.

    A name with an escape in it, made here or found, gets its backslashes doubled: the file
    named by the byte ff and the file named ``\\xff`` must not become one.
    """
    text = prose(raw)
    if "\\" not in text or not ESCAPE.search(text):
        return text
    return prose(raw.replace(b"\\", b"\\\\"))


def moment(seconds: bytes) -> datetime | None:
    """A recorded time, limited to the range of datetime; None when there is none."""
    if not seconds:
        return None
    number = int(seconds[:20])  # more digits are beyond the last second anyway
    return EPOCH + timedelta(seconds=max(FIRST_SECOND, min(number, LAST_SECOND)))


def offset(raw_date: bytes) -> int | None:
    """The minutes east of UTC in ``1700000000 +0530``, not checked; None when there are none."""
    if not raw_date:
        return None
    number = int(raw_date.split()[-1])
    hours, minutes = divmod(abs(number), 100)
    return (hours * 60 + minutes) * (1 if number >= 0 else -1)


def author_of(name: bytes, email: bytes) -> GitAuthor:
    """The person of a recorded name and address; the id holds both, so it determines the record."""
    shown, address = name_of(name), name_of(email)
    return GitAuthor(f"{shown} <{address}>" if shown else f"<{address}>", name=shown, email=address)


# -- branches and tags -----------------------------------------------------------------------

BRANCH = "refname objecttype objectname HEAD symref upstream"
TAG = """
    refname objecttype objectname taggername taggeremail:trim taggerdate:raw contents contents:signature
"""


async def refs_page(
    path: str, fields: str, patterns: Sequence[str], cursor: str | None
) -> tuple[list[Tokens], str | None]:
    """A page of refs, and the cursor of the next page.

    The cursor is the last name given: refs are sorted by name, so one that is made or deleted
    meanwhile does not shift the others.
    """
    names = fields.split()
    format = "".join(f"%({name})%00" for name in names)
    words = ("for-each-ref", "--sort=refname", f"--format={format}", *patterns)
    command = Command(path, *words, length=lambda _: len(names))
    after = cursor.encode("latin-1") if cursor is not None else b""  # one character for each byte
    rows: list[Tokens] = []
    try:
        await command.start()
        while (row := await command.next_record()) is not None:
            if row[0] > after and len(rows) == PAGE_REFS:
                return rows, rows[-1][0].decode("latin-1")
            if row[0] > after:
                rows.append(row)
    finally:
        await command.stop()
    return rows, None


# -- the context -----------------------------------------------------------------------------


class Git:
    """One repository, and its log while a listing reads it."""

    def __init__(
        self, path: str, *, page_commits: int = PAGE_COMMITS, page_changes: int = PAGE_CHANGES
    ) -> None:
        self.path = absolute(path)
        self.commits = CommitLog(self.path, page_commits, page_changes)

    async def output(self, *arguments: str, lines: Iterable[str] = (), absent: bool = False) -> list[str]:
        """The output of a short command, as lines; with ``absent``, no lines when git finds nothing."""
        return list(map(os.fsdecode, await output(self.path, *arguments, lines=lines, absent=absent)))

    async def read_tips(self) -> Tips:
        """The present tips: of every ref, and the HEAD of every working tree."""
        tips = await self.output("rev-list", "--all", "--no-walk=unsorted")
        hidden = await self.output("for-each-ref", "--format=%(refname) %(objectname)", "refs/replace")
        common = await self.folder("--git-common-dir")
        view = hashlib.sha256("\n".join(hidden).encode())
        for file in (common / "shallow", common / "info" / "grafts"):
            view.update(b"\0" + (file.read_bytes() if file.is_file() else b""))
        return Tips(tuple(sorted(tips)), view.hexdigest()[:16])

    async def folder(self, which: str) -> Path:
        """A folder of the repository, whatever its name holds."""
        return Path("\n".join(await self.output("rev-parse", "--path-format=absolute", which)))

    async def name(self, *, bare: bool) -> str:
        """``/src/max``, a folder in it, its other working trees and ``/src/max.git`` are all ``max``."""
        place = await self.folder("--git-common-dir")
        if place.name == ".git":
            place = place.parent
        elif not bare and place == await self.folder("--git-dir"):  # a submodule, or a .git elsewhere
            place = await self.folder("--show-toplevel")
        return name_of(os.fsencode(place.name.removesuffix(".git")))

    async def has(self, objects: Sequence[str]) -> bool:
        """Whether all these objects still exist."""
        found = await self.output("cat-file", "--batch-check=%(objecttype)", lines=objects)
        return not any(line.endswith("missing") for line in found)

    async def peeled(self, objects: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """The type and hash of what each tag object tags, through any tags between."""
        asked = [f"{sha}^{{}}" for sha in objects]
        found = await self.output("cat-file", "--batch-check=%(objecttype) %(objectname)", lines=asked)
        ends = [line.split(" ") for line in found]
        return {sha: (kind, name) for sha, (kind, name) in zip(objects, ends, strict=True)}

    async def summary(self) -> str:
        """The size of the repository, in one line."""
        (commits,) = await self.output("rev-list", "--all", "--count")
        branches = await self.output("for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes")
        return f"git: {counted(int(commits), 'commit')} on {counted(len(branches), 'branch', 'es')}"

    async def repository(self) -> GitRepository:
        """The repository as it is now."""
        questions = ("--is-bare-repository", "--is-shallow-repository", "--show-object-format")
        bare, shallow, object_format = await self.output("rev-parse", *questions)
        branch = await self.output("symbolic-ref", "--quiet", "HEAD", absent=True)
        head = await self.output("rev-parse", "--quiet", "--verify", "HEAD^{commit}", absent=True)
        return GitRepository(
            ROOT_ID,
            name=await self.name(bare=bare == "true"),
            bare=bare == "true",
            shallow=shallow == "true",
            object_format=object_format,
            head_branch=name_of(os.fsencode(branch[0].removeprefix("refs/heads/"))) if branch else None,
            head=GitCommit.ref(head[0]) if head else None,
        )


def counted(number: int, noun: str, plural: str = "s") -> str:
    """``1 commit``, ``2 commits``."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def absolute(path: str) -> str:
    """The absolute path, as a sync may run in another folder; UpstreamMissing for an impossible one."""
    if not path or "\0" in path:
        raise UpstreamMissing(f"{path!r} is not a path", hint="give the path of a git repository")
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  # pathlib may raise


# -- loaders ---------------------------------------------------------------------------------


def commit_entity(commit: Commit) -> GitCommit:
    """A commit as an entity."""
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
    """A file change as an entity."""
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


async def make_all(make: Callable[[T], E], things: Sequence[T]) -> list[E]:
    """One entity for each thing; other tasks run in between."""
    made: list[E] = []
    for at in range(0, len(things), YIELD_EVERY):
        made += map(make, things[at : at + YIELD_EVERY])
        await asyncio.sleep(0)
    return made


async def page_of(log: LogPage, position: Position) -> Page[GitCommit]:
    """A page of the log as a loader's page; the last page carries the sync token."""
    next = str(log.next) if log.next else None
    token = None if next else str(position.now)
    if position.gone:  # the file changes of a removed commit are removed with it
        removed = [GitCommit.ref(commit.sha) for commit in log.commits]
        return Page((), next, removed=removed, sync_token=token)
    people = {person for commit in log.commits for person in (commit.author, commit.committer)}
    also: list[Entity] = [author_of(*person) for person in people]
    also += await make_all(change_entity, log.changes)
    return Page(await make_all(commit_entity, log.commits), next, also, sync_token=token)


async def first_position(git: Git, sync_token: str | None) -> Position:
    """Where a new listing begins: at what changed since the sync token, or at everything.

    Everything, when git has deleted commits of the token, or now shows another view of history.
    """
    now = await git.read_tips()
    if sync_token is not None:
        old = Tips.parse(sync_token)
        if old.view == now.view and await git.has(old.tips):
            return Position(now, old.tips)
    return Position(now)


@operation("git:repository:get", deadline=DEADLINE)
async def read_repository(git: Git, _: None) -> GitRepository:
    """The repository as it is now."""
    return await git.repository()


@operation("git:commit:log", limit=Limit("git log", concurrency=1), deadline=DEADLINE)
async def read_commits(git: Git, request: PageRequest) -> Page[GitCommit]:
    """One page of the commits since the sync token, then of those that are gone."""
    if request.cursor is not None:
        position = Position.parse(request.cursor, request.sync_token)
    else:
        position = await first_position(git, request.sync_token)
    page = await page_of(await git.commits.read(position), position)
    everything = request.sync_token is not None and position.since is None
    return page.replace(complete_snapshot=everything)


@operation("git:branch:list", deadline=DEADLINE)
async def read_branches(git: Git, request: PageRequest) -> Page[GitBranch]:
    """One page of the branches."""
    rows, next = await refs_page(git.path, BRANCH, ("refs/heads", "refs/remotes"), request.cursor)
    return Page([branch_entity(row) for row in rows], next)


@operation("git:tag:list", deadline=DEADLINE)
async def read_tags(git: Git, request: PageRequest) -> Page[GitTag]:
    """One page of the tags, with their taggers."""
    rows, next = await refs_page(git.path, TAG, ("refs/tags",), request.cursor)
    annotated = [row[2].decode("ascii") for row in rows if row[1] == b"tag"]
    targets = await git.peeled(annotated) if annotated else {}
    pairs = [tag_entities(row, targets) for row in rows]
    taggers = {tagger.id: tagger for _, tagger in pairs if tagger is not None}
    return Page([tag for tag, _ in pairs], next, list(taggers.values()))


def branch_entity(row: Tokens) -> GitBranch:
    """A branch as an entity."""
    ref_name, kind, sha, current, symref, upstream = row
    return GitBranch(
        name_of(ref_name),
        repository=ROOT,
        name=name_of(ref_name.split(b"/", 2)[2]),
        head=GitCommit.ref(sha.decode("ascii")) if kind == b"commit" else None,
        remote=ref_name.startswith(b"refs/remotes/"),
        current=current == b"*",
        upstream=GitBranch.ref(name_of(upstream)) if upstream else None,
        symref=name_of(symref) if symref else None,
    )


def tag_entities(row: Tokens, targets: Mapping[str, tuple[str, str]]) -> tuple[GitTag, GitAuthor | None]:
    """A tag as an entity, and its tagger."""
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


@Loader.collection(GitRepository.commits, brings=[GitCommit, GitAuthor, GitFileChange], stable=True)
async def load_commits(
    repository: Ref[GitRepository], request: PageRequest, env: Env[Git]
) -> Page[GitCommit]:
    """The history, newest first; with a sync token, what was added to it and what is gone."""
    return await env.run(read_commits, request)


@Loader.collection(GitRepository.branches, brings=GitBranch, stable=True)
async def load_branches(
    repository: Ref[GitRepository], request: PageRequest, env: Env[Git]
) -> Page[GitBranch]:
    """Every branch, sorted by name."""
    return await env.run(read_branches, request)


@Loader.collection(GitRepository.tags, brings=[GitTag, GitAuthor], stable=True)
async def load_tags(repository: Ref[GitRepository], request: PageRequest, env: Env[Git]) -> Page[GitTag]:
    """Every tag, sorted by name."""
    return await env.run(read_tags, request)


# -- the connector ---------------------------------------------------------------------------


@dataclass(frozen=True)
class GitConfig:
    """Which repository to read."""

    path: str


async def seed(git: Git, store: Store) -> SyncPlan:
    """Store the repository, then list its commits, branches and tags at the same time."""
    repository = await run_operation(read_repository, git, None)
    await store.store(repository)
    root = Step.for_root(ROOT)
    listings = [
        root.load_collection(GitRepository.commits),
        root.load_collection(GitRepository.branches),
        root.load_collection(GitRepository.tags),
    ]
    return SyncPlan([Step.concurrent(listings)])


async def initialise(config: GitConfig, credentials: CredentialProvider) -> Installation[Git]:
    """The repository; no git command runs yet."""
    git = Git(config.path)
    return Installation(context=git, stop=git.commits.stop, health=git.summary)


async def make_absolute(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Json]:
    """Make the path absolute: a sync may run in another folder than this one."""
    return {"path": absolute(answers["path"])}


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Read the repository's size, which also shows that git can read it."""
    return await Git(answers["path"]).summary()


connector = Connector(
    name="git",
    description="The history of a local git repository: commits, authors, file changes, branches, tags.",
    schema=SCHEMA,
    loaders=[load_commits, load_branches, load_tags],
    seeder=seed,
    initialise=initialise,
    config=GitConfig,
    onboarding=[Input("path", "Path of the repository"), RunCode(make_absolute), Validate(check)],
    operations=[read_repository, read_commits, read_branches, read_tags],
    requires=[require_git],
)
