"""The git connector agrees with git itself, for any history.

Expected values come from other commands than those the connector runs: rev-list for commits and
their parents, log --shortstat for lines, diff-tree for files.
"""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max_connectors import git as git_connector
from max_connectors.git import (
    ROOT,
    Git,
    GitAuthor,
    GitBranch,
    GitCommit,
    GitConfig,
    GitFileChange,
    GitTag,
    connector,
)
from max_connectors.git_log import length_of

from max.cli import main
from max.connecting import Env, MaxError, Page, PageRequest, PermissionDenied, UpstreamError, UpstreamMissing
from max.connector import RunCode, Validate
from max.model.entities import E, V
from max.model.loaders import CollectionLoader, In, Out, OutsideCall, RawLoader
from max.model.mismatches import check_entity
from max.model.query import Query, QueryPage
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from max.upstream.operations import Limits, Operation, OperationRunner
from tests.git_repositories import History, git, linear, lines, make, needs_git, parents, rev_list, shortstat

pytestmark = needs_git
NO_CREDENTIALS = CredentialProvider(MemoryCredentials(), [])
SLACK = 1 << 20  # bytes that the last 15,000 commits of a history may cost


class Reading(Env[Git]):
    """The env of a loader outside a sync."""

    installation, version, sync, task, attempt, deadline = "i", "1", "s", 1, 1, None

    def __init__(self, path: Path, **sizes: int) -> None:
        self._git = Git(str(path), **sizes)
        self._caller = OperationRunner(Limits())

    @property
    def context(self) -> Git:
        return self._git

    async def run(self, operation: OutsideCall[Git, In, Out], input: In) -> Out:
        assert isinstance(operation, Operation)
        result: Out = await self._caller.run(operation, self._git, input)
        return result

    async def raw(self, loader: RawLoader[Git, V]) -> V:
        raise NotImplementedError

    async def stored(self, entity: type[E], id: str) -> E:
        raise NotImplementedError

    async def fetch(self, query: Query[E]) -> QueryPage[E]:
        raise NotImplementedError

    async def keep(self, data: bytes) -> str:
        raise NotImplementedError


Loading = CollectionLoader[Any, Any, Git]


async def pages_of(
    path: Path,
    loader: Loading = git_connector.load_commits,
    *,
    sync_token: str | None = None,
    crashes: Callable[[], bool] = lambda: False,
    **sizes: int,
) -> list[Page[Any]]:
    """Every page of a listing; after each page for which ``crashes`` is true, another process continues."""
    env, pages, cursor = Reading(path, **sizes), list[Page[Any]](), None
    try:
        while not pages or cursor is not None:
            pages.append(await loader.load(ROOT, PageRequest(cursor, sync_token), env))
            cursor = pages[-1].next
            if crashes():
                await env.context.commits.stop()
                env = Reading(path, **sizes)
    finally:
        await env.context.commits.stop()
    return pages


def listing(path: Path, loader: Loading = git_connector.load_commits, **options: Any) -> list[Page[Any]]:
    """``pages_of`` without an event loop; also checks that all values fit their fields."""
    pages = asyncio.run(pages_of(path, loader, **options))
    wrong = [m for page in pages for one in [*page.items, *page.also] for m in check_entity(one)]
    assert wrong == []
    return pages


def commits_of(pages: list[Page[Any]]) -> dict[str, GitCommit]:
    """The commits of all pages; checks that each came once."""
    found = [commit for page in pages for commit in page.items]
    assert len({commit.id for commit in found}) == len(found)
    return {commit.id: commit for commit in found}


def changes_of(pages: list[Page[Any]]) -> dict[str, GitFileChange]:
    """The file changes of all pages; checks that each came once."""
    found = [one for page in pages for one in page.also if isinstance(one, GitFileChange)]
    assert len({change.id for change in found}) == len(found)
    return {change.id: change for change in found}


def removed_of(pages: list[Page[Any]], entity: type[Any]) -> set[str]:
    """The ids of one type that a listing removes."""
    return {ref.id for page in pages for ref in page.removed if ref.entity is entity}


def only_commit(path: Path) -> GitCommit:
    (commit,) = commits_of(listing(path)).values()
    return commit


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make(tmp_path / "repository")


# -- any history ---------------------------------------------------------------------------

PATHS = [
    b"a",
    b"dir/b",
    b"b\xff",
    b"l\nf",
    b"t\tb",
    b'"q"',
    b"\\xff",
    b"\xff",
    b"\xc3\xbc",
    b":100644 a",
    b"commit",
]
EDITS = st.dictionaries(
    st.sampled_from(PATHS), st.none() | st.sampled_from([b"", b"1\n2\n", b"1\n2\n3\n", b"\0b"]), max_size=4
)
WORDS = st.sampled_from(
    [b"", b"one\n", b"one\n\nbody\n", b"\xff\xfe", b":100644", b"1\t2\tx", b"commit", b"\n\n a\n"]
)
STEP = st.tuples(st.integers(0, 2), EDITS, WORDS, st.lists(st.integers(0, 30), max_size=4))
STEPS = st.lists(STEP, max_size=12)


def add(history: History, steps: list[tuple[int, dict[bytes, bytes | None], bytes, list[int]]]) -> None:
    """Commits on three branches; a parent is any earlier commit, two and more make merges."""
    for branch, files, message, chosen in steps:
        numbers = dict.fromkeys(1 + n % history.commits for n in chosen) if history.commits else {}
        history.commit(f"b{branch}", files, parents=list(numbers), message=message)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a new repository for each example of a property."""
    return lambda: make(tmp_path_factory.mktemp("example") / "r", "--bare")


SIZES = st.fixed_dictionaries({"page_commits": st.integers(1, 5), "page_changes": st.integers(1, 6)})


@settings(deadline=None, max_examples=25)
@given(STEPS, SIZES, st.data())
def test_each_commit_comes_once_whatever_the_page_size_and_crashes(
    fresh: Callable[[], Path], steps: list[Any], sizes: dict[str, Any], data: st.DataObject
) -> None:
    path, history = fresh(), History()
    add(history, steps)
    history.write(path)
    pages = listing(path, crashes=lambda: data.draw(st.booleans()), **sizes)
    commits, changes = commits_of(pages), changes_of(pages)
    assert commits.keys() == set(rev_list(path))
    assert {sha: commit.parents for sha, commit in commits.items()} == parents(path)
    lines_of = {sha: (commit.insertions, commit.deletions) for sha, commit in commits.items()}
    assert lines_of == shortstat(path)
    assert counted(changes) == {sha: found for sha, found in lines_of.items() if any(found)}
    assert changes.keys() == files_of(path)


def counted(changes: dict[str, GitFileChange]) -> dict[str, tuple[int, int]]:
    """The lines of each commit, as the sum of its file changes."""
    sums: dict[str, tuple[int, int]] = {}
    for change in changes.values():
        added, removed = sums.get(change.commit.id, (0, 0))
        sums[change.commit.id] = (added + (change.insertions or 0), removed + (change.deletions or 0))
    return {sha: found for sha, found in sums.items() if any(found)}


def files_of(path: Path) -> set[str]:
    """``commit:path`` of every file that each commit changed, from one git command for each."""
    found = set()
    for sha, (first, *_) in {sha: own or [""] for sha, own in parents(path).items()}.items():
        trees = [first, sha] if first else ["--root", sha]
        names = git(
            path, "diff-tree", "-r", "-z", "-M", "--no-commit-id", "--diff-filter=d", "--name-only", *trees
        )
        gone = git(
            path, "diff-tree", "-r", "-z", "-M", "--no-commit-id", "--diff-filter=D", "--name-only", *trees
        )
        found |= {f"{sha}:{git_connector.name_of(name)}" for name in (names + gone).split(b"\0") if name}
    return found


@settings(deadline=None, max_examples=25)
@given(STEPS, STEPS, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=2), SIZES, st.data())
def test_a_second_listing_gives_exactly_the_difference(
    fresh: Callable[[], Path],
    before: list[Any],
    after: list[Any],
    moved: list[tuple[int, int]],
    sizes: dict[str, Any],
    data: st.DataObject,
) -> None:
    path, history = fresh(), History()
    add(history, before)
    history.write(path)
    old, old_pages = set(rev_list(path)), listing(path)
    add(history, after)
    for branch, number in moved if history.commits else []:
        history.reset(f"refs/heads/b{branch}", 1 + number % history.commits)
    history.write(path)
    new = set(rev_list(path))
    pages = listing(
        path, sync_token=old_pages[-1].sync_token, crashes=lambda: data.draw(st.booleans()), **sizes
    )
    assert commits_of(pages).keys() == new - old
    assert removed_of(pages, GitCommit) == old - new
    assert {ref.entity for page in pages for ref in page.removed} <= {GitCommit}


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_different_names_stay_different(one: bytes, other: bytes) -> None:
    assert (git_connector.name_of(one) == git_connector.name_of(other)) == (one == other)


def test_a_name_that_looks_like_an_escape_differs_from_the_escaped_byte() -> None:
    assert git_connector.name_of(b"\xff") == "\\xff"
    assert git_connector.name_of(b"\\xff") == "\\\\xff"
    assert git_connector.name_of(b"CORP\\ada") == "CORP\\ada"


# -- what a commit holds ---------------------------------------------------------------------


def test_a_commit_has_its_people_times_offsets_and_message(repository: Path) -> None:
    history = History()
    history.commit(
        author=b"Ada L <Ada@Example.com>", when=b"1700000000 -0330", message=b"One\nline\n\nBody\n\nmore\n"
    )
    history.write(repository)
    commit = only_commit(repository)
    assert (commit.subject, commit.body) == ("One line", "Body\n\nmore")
    assert commit.author == GitAuthor.ref("Ada L <Ada@Example.com>") == commit.committer
    assert commit.authored_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert commit.author_offset == commit.committer_offset == -210


def test_a_message_in_another_encoding_is_decoded(repository: Path) -> None:
    history = History()
    name = "Jörg <j@x>".encode("latin-1")
    history.commit(message="Grüße\n".encode("latin-1"), encoding=b"ISO-8859-1", author=name)
    history.write(repository)
    commit = only_commit(repository)
    assert (commit.subject, commit.author.id) == ("Grüße", "Jörg <j@x>")


def test_bytes_that_are_not_text_are_escaped(repository: Path) -> None:
    history = History()
    history.commit(message=b"a\xffb\n", author=b"J\xf6rg <j@x>")
    history.write(repository)
    commit = only_commit(repository)
    assert (commit.subject, commit.author.id) == ("a\\xffb", "J\\xf6rg <j@x>")


@pytest.mark.parametrize(
    ("written", "moment", "offset"),
    [
        (b"0 +0000", datetime(1970, 1, 1, tzinfo=UTC), 0),
        (b"99999999999999 +0000", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), 0),
        (b"%d +0000" % 10**40, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), 0),
        (b"1 +9999", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 99 * 60 + 99),
        (b"1 -510000", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), -5100 * 60),
        (b"-100 +0000", None, None),
        (b"yesterday", None, None),
        (b"", None, None),
    ],
)
def test_an_impossible_time_is_limited_to_the_years_1_to_9999(
    repository: Path, written: bytes, moment: datetime | None, offset: int | None
) -> None:
    tree = git(repository, "mktree").strip()
    who = b"Ada <ada@x> " + written
    text = b"tree %s\nauthor %s\ncommitter %s\n\nx\n" % (tree, who, who)
    store_commit(repository, text)
    commit = only_commit(repository)
    assert (commit.authored_at, commit.author_offset) == (moment, offset)
    assert (commit.committed_at, commit.committer_offset) == (moment, offset)


def store_commit(path: Path, text: bytes) -> str:
    """Set main to a commit of exactly these bytes, even if they are invalid."""
    (sha,) = lines(path, "hash-object", "-t", "commit", "-w", "--stdin", "--literally", stdin=text)
    (path / ".git/refs/heads/main").write_text(f"{sha}\n")
    return sha


def test_a_commit_without_author_and_committer_is_read(repository: Path) -> None:
    tree = git(repository, "mktree").strip()
    store_commit(repository, b"tree %s\nauthor x\ncommitter <>\n\nbare\n" % tree)
    commit = only_commit(repository)
    assert (commit.subject, commit.authored_at, commit.committed_at) == ("bare", None, None)


def test_file_changes_have_status_and_kind(repository: Path) -> None:
    history = History()
    first = history.commit(files={b"old": b"1\n2\n3\n", b"dead": b"1\n", b"bin": b"\0"})
    link, module = b"M 120000 inline link\ndata 1\na", b"M 160000 %s sub" % (b"1" * 40)
    history.commit(files={b"dead": None, b"bin": b"\0\1"}, parents=[first], raw=[b"R old new", link, module])
    history.write(repository)
    pages = listing(repository)
    newest = pages[0].items[0].id
    changes = {c.path: c for c in changes_of(pages).values() if c.commit.id == newest}
    assert {path: (c.status, c.kind, c.insertions, c.deletions) for path, c in changes.items()} == {
        "new": ("renamed", "file", 0, 0),
        "dead": ("deleted", "file", 0, 1),
        "bin": ("modified", "file", None, None),
        "link": ("added", "symlink", 1, 0),
        "sub": ("added", "submodule", 1, 0),
    }
    assert changes["new"].old_path == "old"


def test_a_merge_is_counted_against_its_first_parent(repository: Path) -> None:
    history = History()
    base = history.commit(files={b"base": b"0\n"})
    sides = [history.commit(f"s{n}", {b"side%d" % n: b"1\n" * n}, parents=[base]) for n in (1, 2, 3)]
    raw = [b"M 100644 inline side%d\ndata %d\n%s" % (n, 2 * n, b"1\n" * n) for n in (1, 2, 3)]
    history.commit(parents=[base, *sides], raw=raw)
    history.write(repository)
    octopus = next(c for c in commits_of(listing(repository)).values() if len(c.parents) == 4)
    assert (octopus.insertions, octopus.deletions) == (6, 0)


def test_an_author_is_the_same_record_on_every_page(repository: Path) -> None:
    history = History()
    for number in range(6):
        history.commit(
            author=[b"Ada <a@x>", b"ADA <a@x>", b"Ada <A@x>"][number % 3], parents=[number] if number else []
        )
    history.write(repository)
    pages = listing(repository, page_commits=1)
    authors = [one for page in pages for one in page.also if isinstance(one, GitAuthor)]
    assert len(authors) == 6
    assert {a.id: (a.name, a.email) for a in authors} == {
        "Ada <a@x>": ("Ada", "a@x"),
        "ADA <a@x>": ("ADA", "a@x"),
        "Ada <A@x>": ("Ada", "A@x"),
    }


# -- odd repositories ------------------------------------------------------------------------


def test_a_repository_without_commits_is_empty(repository: Path) -> None:
    (page,) = listing(repository)
    assert (list(page.items), page.next) == ([], None)
    root = asyncio.run(Git(str(repository)).repository())
    assert (root.name, root.head_branch, root.head) == ("repository", "main", None)


def test_without_refs_every_commit_is_gone(repository: Path) -> None:
    history = History()
    history.commit()
    history.write(repository)
    (page,) = listing(repository)
    git(repository, "update-ref", "-d", "refs/heads/main")
    pages = listing(repository, sync_token=page.sync_token)
    assert removed_of(pages, GitCommit) == {page.items[0].id}


def test_detached_heads_of_all_working_trees_are_tips(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "main")
    for place in (repository, repository.parent / "other"):
        if place != repository:
            git(repository, "worktree", "add", "--quiet", "--detach", str(place))
        git(place, "checkout", "--quiet", "--detach")
        git(place, "commit", "--quiet", "--allow-empty", "-m", place.name)
    assert {c.subject for c in commits_of(listing(repository)).values()} == {"main", "repository", "other"}
    assert commits_of(listing(repository.parent / "other")).keys() == set(rev_list(repository))
    assert asyncio.run(Git(str(repository)).repository()).head_branch is None


def test_a_shallow_clone_ends_at_its_edge_and_deepening_lists_everything_again(tmp_path: Path) -> None:
    whole = linear(tmp_path / "whole.git", 30)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=5", f"file://{whole}", str(clone))
    pages = listing(clone)
    assert commits_of(pages).keys() == set(rev_list(clone))
    assert asyncio.run(Git(str(clone)).repository()).shallow
    git(clone, "fetch", "--quiet", "--unshallow")
    assert commits_of(listing(clone, sync_token=pages[-1].sync_token)).keys() == set(rev_list(clone))


def test_a_sync_token_whose_commits_were_deleted_lists_everything(repository: Path) -> None:
    history = History()
    history.commit(message=b"old\n")
    history.write(repository)
    sync_token = listing(repository)[-1].sync_token
    git(repository, "update-ref", "-d", "refs/heads/main")
    (repository / ".git/objects").joinpath("pack").rename(repository / "away")
    for loose in (repository / ".git/objects").glob("??/*"):
        loose.unlink()
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "new")
    pages = listing(repository, sync_token=sync_token)
    assert [c.subject for c in commits_of(pages).values()] == ["new"]
    assert pages[0].complete_snapshot, "the mark could not be used, so this is everything"
    assert not listing(repository, sync_token=pages[-1].sync_token)[0].complete_snapshot


def test_a_repositorys_configuration_changes_no_result_and_runs_nothing(repository: Path) -> None:
    history = History()
    history.commit(files={b"sub/a": b"1\n2\n", b"old": b"1\n2\n3\n", b".gitattributes": b"* diff=evil\n"})
    history.commit(parents=[1], raw=[b"R old new"], files={b"sub/a": b"2\n"})
    history.write(repository)
    git(repository, "checkout", "--quiet", "main")
    calm = listing(repository)
    ran, hooks, attributes = repository / "ran", repository / "hooks", repository / "attributes"
    attributes.write_text("* -diff\n")
    hooks.mkdir()
    for name in ("post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (hooks / name).chmod(0o755)
    for key, value in {
        "diff.evil.textconv": f"touch {ran}; cat", "diff.evil.command": f"touch {ran}; true",
        "diff.external": f"touch {ran}; true", "core.fsmonitor": f"touch {ran}; true",
        "core.pager": f"touch {ran}; cat", "gpg.program": f"touch {ran}; true", "log.showSignature": "true",
        "diff.renames": "false", "diff.relative": "true", "log.mailmap": "true", "log.showRoot": "false",
        "log.date": "iso", "i18n.logOutputEncoding": "latin1", "color.ui": "always",
        "core.attributesFile": str(attributes), "core.bigFileThreshold": "1", "core.quotePath": "true",
        "diff.algorithm": "patience", "diff.renameLimit": "1", "diff.orderFile": str(attributes),
        "diff.noprefix": "true", "diff.submodule": "log", "diff.ignoreSubmodules": "all",
        "log.diffMerges": "off", "log.decorate": "full", "log.abbrevCommit": "true", "log.follow": "true",
        "format.pretty": "oneline", "core.abbrev": "4", "core.hooksPath": str(hooks), "core.ssh": "x",
        "core.alternateRefsCommand": f"touch {ran}", "core.askPass": f"touch {ran}",
        "uploadpack.packObjectsHook": f"touch {ran}", "core.commentChar": ";", "core.editor": f"touch {ran}",
    }.items():  # fmt: skip
        git(repository, "config", key, value)
    assert listing(repository / "sub")[0].items == calm[0].items
    assert set(changes_of(listing(repository / "sub"))) == set(changes_of(calm))
    assert not ran.exists()


def test_the_callers_environment_changes_no_result_and_runs_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    history.commit(files={b"a": b"1\n2\n3\n"})
    history.commit(parents=[1], raw=[b"R a b"])
    history.write(repository)
    calm = listing(repository)
    other, ran = make(repository.parent / "other"), repository.parent / "ran"
    hostile = {
        **{f"GIT_{name}": str(other / ".git") for name in ("DIR", "COMMON_DIR")},
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / "x"),
        "GIT_NAMESPACE": "n",
        "GIT_OBJECT_DIRECTORY": str(other),
        "GIT_REPLACE_REF_BASE": "refs/heads",
        "GIT_SHALLOW_FILE": "x",
        **{f"GIT_{name}": f"touch {ran}" for name in ("EXTERNAL_DIFF", "PAGER", "ASKPASS", "SSH_COMMAND")},
        "GIT_DIFF_OPTS": "--unified=0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NOTES_REF": "refs/heads/main",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "log.showSignature",
        "GIT_CONFIG_VALUE_0": "true",
        "GIT_CONFIG_KEY_1": "diff.renames",
        "GIT_CONFIG_VALUE_1": "false",
        "GIT_TRACE2": str(ran),
        "LC_ALL": "de_DE.UTF-8",
        "PAGER": f"touch {ran}",
        "TZ": "Asia/Tokyo",
        "GIT_TRACE": str(ran),
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    assert [page.items for page in listing(repository)] == [page.items for page in calm]
    assert changes_of(listing(repository)) == changes_of(calm)
    assert repository_of(repository).name == "repository"
    assert not ran.exists()


# -- continuing ----------------------------------------------------------------------------------


def test_commits_made_during_a_listing_come_with_the_next_one(repository: Path) -> None:
    history = History()
    for number in range(6):
        history.commit(parents=[number] if number else [])
    history.write(repository)
    before = set(rev_list(repository))

    def write() -> bool:
        git(repository, "commit", "--quiet", "--allow-empty", "-m", "late")
        return True

    pages = listing(repository, page_commits=2, crashes=write)
    assert commits_of(pages).keys() == before
    later = commits_of(listing(repository, sync_token=pages[-1].sync_token))
    assert {commit.subject for commit in later.values()} == {"late"}
    assert len(later) == len(pages)


def test_a_second_listing_of_the_same_history_is_one_empty_page(repository: Path) -> None:
    history = History()
    history.commit()
    history.write(repository)
    (page,) = listing(repository)
    (again,) = listing(repository, sync_token=page.sync_token)
    assert (again.items, again.also, again.removed, again.sync_token) == ([], [], (), page.sync_token)


def test_a_cursor_of_another_commit_order_starts_the_listing_over(repository: Path) -> None:
    history = History()
    for number in range(5):
        history.commit(parents=[number] if number else [])
    history.write(repository)

    async def main() -> list[str]:
        env = Reading(repository, page_commits=2)
        page = await git_connector.load_commits.load(ROOT, PageRequest(), env)
        cursor = (page.next or "").replace(page.items[-1].id, "0" * 40, 2)
        await env.context.commits.stop()
        later = Reading(repository)
        found = [
            c.id for c in (await git_connector.load_commits.load(ROOT, PageRequest(cursor), later)).items
        ]
        await later.context.commits.stop()
        return found

    assert set(asyncio.run(main())) == set(rev_list(repository))


def test_a_page_requested_twice_is_the_same(repository: Path) -> None:
    history = History()
    for number in range(7):
        history.commit(parents=[number] if number else [], files={b"f%d" % number: b"1\n"})
    history.write(repository)

    async def main() -> tuple[Page[Any], ...]:
        env = Reading(repository, page_commits=2)
        first = await git_connector.load_commits.load(ROOT, PageRequest(), env)
        twice = [await git_connector.load_commits.load(ROOT, PageRequest(first.next), env) for _ in range(2)]
        await env.context.commits.stop()
        return tuple(twice)

    once, again = asyncio.run(main())
    assert once.items == again.items
    assert once.next == again.next


def test_stop_ends_a_running_git_log(large: Path) -> None:
    async def main() -> int | None:
        env = Reading(large, page_commits=1)
        await git_connector.load_commits.load(ROOT, PageRequest(), env)
        command = env.context.commits._command
        assert command is not None
        process = command._process
        assert process is not None
        await env.context.commits.stop()
        await env.context.commits.stop()
        return process.returncode

    assert asyncio.run(main()) == -9


# -- branches and tags ---------------------------------------------------------------------------


def test_branches_are_local_and_remote_with_their_heads(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    git(whole, "commit", "--quiet", "--allow-empty", "-m", "one")
    git(tmp_path, "clone", "--quiet", str(whole), str(tmp_path / "clone"))
    (head,) = rev_list(whole)
    (page,) = listing(tmp_path / "clone", git_connector.load_branches)
    found = {b.id: (b.name, b.remote, b.current, b.symref, b.upstream) for b in page.items}
    origin = "refs/remotes/origin/main"
    assert found == {
        "refs/heads/main": ("main", False, True, None, GitBranch.ref(origin)),
        "refs/remotes/origin/HEAD": ("origin/HEAD", True, False, origin, None),
        origin: ("origin/main", True, False, None, None),
    }
    assert {b.head.id for b in page.items} == {head}


def test_tags_name_commits_trees_and_files_also_through_other_tags(repository: Path) -> None:
    history = History()
    history.commit(files={b"a": b"1\n"})
    history.tag("annotated", 1, b"Version one\n\nwith words\n")
    history.write(repository)
    for words in (
        ["light", "main"],
        ["tree", "main^{tree}"],
        ["blob", "main:a"],
        ["-m", "n", "nested", "annotated"],
    ):
        git(repository, "-c", "tag.gpgSign=false", "tag", *words)
    git(repository, "tag", "-m", "of a file", "file", "main:a")
    (page,) = listing(repository, git_connector.load_tags)
    found = {t.name: (t.annotated, t.target_type, t.target is None, t.message) for t in page.items}
    assert found == {
        "annotated": (True, "commit", False, "Version one\n\nwith words"),
        "light": (False, "commit", False, None),
        "tree": (False, "tree", True, None),
        "blob": (False, "blob", True, None),
        "nested": (True, "commit", False, "n"),
        "file": (True, "blob", True, "of a file"),
    }
    annotated = next(t for t in page.items if t.name == "annotated")
    assert (annotated.tagger, annotated.tagger_offset) == (GitAuthor.ref("Ada <ada@example.com>"), 60)


def test_a_tag_without_tagger_or_with_an_impossible_time_is_read(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    (head,) = rev_list(repository)
    for name, tagger in {"none": b"", "late": b"tagger A <a> 99999999999999 +0000\n"}.items():
        text = b"object %s\ntype commit\ntag x\n%s\nhello\n" % (head.encode(), tagger)
        (sha,) = lines(repository, "hash-object", "-t", "tag", "-w", "--stdin", "--literally", stdin=text)
        git(repository, "update-ref", f"refs/tags/{name}", sha)
    (page,) = listing(repository, git_connector.load_tags)
    found: dict[str, GitTag] = {tag.name: tag for tag in page.items}
    assert (found["none"].tagger, found["none"].tagged_at, found["none"].message) == (None, None, "hello")
    assert found["late"].tagged_at == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_many_refs_come_in_pages_without_repetition(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    (head,) = rev_list(repository)
    count = 2 * git_connector.PAGE_REFS + 1
    orders = b"".join(b"create refs/tags/t\xff%d %s\n" % (n, head.encode()) for n in range(count))
    git(repository, "update-ref", "--stdin", stdin=orders)
    pages = listing(repository, git_connector.load_tags)
    assert [len(page.items) for page in pages] == [git_connector.PAGE_REFS, git_connector.PAGE_REFS, 1]
    assert len({tag.id for page in pages for tag in page.items}) == count


# -- errors --------------------------------------------------------------------------------


def examined(path: Path | str) -> str:
    """What onboarding shows for a path."""

    async def main() -> str:
        answers: dict[str, Any] = {"path": str(path)}
        shown = ""
        for step in connector.onboarding:
            if isinstance(step, RunCode):
                answers |= await step.run(answers, NO_CREDENTIALS)
            elif isinstance(step, Validate):
                shown = await step.check(answers, NO_CREDENTIALS)
        return shown

    return asyncio.run(main())


def test_onboarding_shows_the_size_of_the_repository(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    git(repository, "branch", "second")
    assert examined(repository) == "git: 1 commit on 2 branches"


def test_a_relative_path_and_one_that_begins_with_a_dash_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "-c")
    monkeypatch.chdir(tmp_path)
    assert examined("-c") == "git: 0 commits on 0 branches"
    assert Git("-c").path == str(tmp_path / "-c")


@pytest.mark.parametrize("path", ["", "a\0b", "nowhere", "file", "."])
def test_a_path_without_a_repository_is_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UpstreamMissing) as caught:
        examined(path)
    assert "give the path" in caught.value.hint


def test_a_missing_git_is_an_error_with_a_hint(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(MaxError, match="git cannot be run") as caught:
        examined(repository)
    assert "install git" in caught.value.hint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_repository_of_another_user_is_refused_with_the_command_that_allows_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (repository, repository / ".git"):
        os.chown(place, 12345, 12345)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(PermissionDenied) as caught:
        examined(repository)
    assert f"safe.directory {repository}" in caught.value.hint


def test_a_damaged_repository_fails_with_the_message_of_git(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    old = rev_list(repository)[1]
    (repository / ".git/objects" / old[:2] / old[2:]).unlink()
    with pytest.raises(UpstreamError, match=old) as caught:
        listing(repository)
    assert "git fsck" in caught.value.hint


def test_output_in_an_unknown_form_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="does not understand"):
        length_of(b"something new")


# -- content that git cannot read ------------------------------------------------------------------


def cloned(source: Path, *options: str) -> Path:
    """A clone without some of the content."""
    git(source, "config", "uploadpack.allowFilter", "true")
    clone = source.parent / "clone"
    git(source, "clone", "--quiet", *options, f"file://{source}", str(clone))
    git(clone, "config", "remote.origin.uploadpack", f"touch {clone}/fetched; git-upload-pack")
    return clone


def counts_of(pages: list[Page[Any]]) -> dict[str, int | None]:
    """The lines that each commit added, by its subject."""
    return {commit.subject: commit.insertions for commit in commits_of(pages).values()}


@pytest.fixture
def three(repository: Path) -> Path:
    """A history in which files are added, changed and renamed."""
    history = History()
    history.commit(files={b"d/a": b"1\n2\n3\n"}, message=b"first\n")
    history.commit(files={b"d/a": b"1\n2\n4\n"}, parents=[1], message=b"second\n")
    history.commit(files={b"b": b"new\n"}, parents=[2], raw=[b"R d/a d/c"], message=b"third\n")
    history.write(repository)
    git(repository, "checkout", "--quiet", "main")
    return repository


@pytest.mark.parametrize("sizes", [{}, {"page_commits": 1, "page_changes": 1}])
def test_a_clone_without_files_has_every_commit_and_path(three: Path, sizes: dict[str, Any]) -> None:
    pages = listing(cloned(three, "--filter=blob:none"), **sizes)
    whole = listing(three)
    assert counts_of(pages) == {"first": None, "second": None, "third": 1}, "what is checked out is there"
    changes = {one.id: one for page in pages for one in page.also if isinstance(one, GitFileChange)}
    assert changes.keys() == changes_of(whole).keys()
    assert {one.id: one.parents for one in commits_of(pages).values()} == parents(three)
    lines = {change.path: change.insertions for change in changes.values()}
    assert lines == {"d/a": None, "d/c": 0, "b": 1}
    assert not (three.parent / "clone" / "fetched").exists()


def test_a_clone_without_folders_has_every_commit(three: Path) -> None:
    git(three, "checkout", "--quiet", "main~1")
    git(three, "merge", "--quiet", "--no-ff", "-m", "merge", "main")
    git(three, "branch", "merged")
    pages = listing(cloned(three, "--filter=tree:0", "--bare"))
    assert counts_of(pages) == dict.fromkeys(["first", "second", "third", "merge"])
    assert changes_of(pages) == {}


def test_what_a_clone_has_fetched_since_is_read_by_a_full_listing(three: Path) -> None:
    clone = cloned(three, "--filter=blob:none", "--bare")
    assert None in counts_of(listing(clone)).values()
    git(clone, "config", "--unset", "remote.origin.uploadpack")
    git(clone, "fetch", "--quiet", "--refetch", "--no-filter", "origin")
    assert counts_of(listing(clone)) == counts_of(listing(three))


def spoil(repository: Path, name: str, content: bytes | None) -> None:
    """Replace an object of a repository, or delete it; all of them are files of their own afterwards."""
    sha = git(repository, "rev-parse", name).decode().strip()
    objects = repository / ".git/objects"
    for pack in objects.glob("pack/*.pack"):
        moved = pack.rename(repository / "away.pack")
        git(repository, "unpack-objects", "-q", stdin=moved.read_bytes())
    for left in objects.glob("pack/*"):
        left.unlink()
    place = objects / sha[:2] / sha[2:]
    place.chmod(0o644)
    place.unlink() if content is None else place.write_bytes(content)


@pytest.mark.parametrize("option", ["blob:none", "tree:0"])
def test_what_a_clone_without_its_remote_lacks_is_reported_as_missing(three: Path, option: str) -> None:
    clone = cloned(three, f"--filter={option}", "--bare")
    git(clone, "remote", "remove", "origin")
    with pytest.raises(
        UpstreamError, match="some content is not in this clone, first that of commit"
    ) as caught:
        listing(clone)
    assert "git fetch --refetch --no-filter" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "not in this clone"), (b"", "damaged"), (b"garbage", "damaged")],
    ids=["missing", "empty", "damaged"],
)
def test_damaged_content_costs_its_own_commits_their_lines_and_is_reported_at_the_end(
    three: Path, content: bytes | None, words: str
) -> None:
    damaged = rev_list(three)[0]  # it renames the file that the one before it changed
    spoil(three, "main~1:d/a", content)
    seen: list[Page[Any]] = []

    async def read() -> None:
        env, cursor = Reading(three), None
        while True:
            page = await git_connector.load_commits.load(ROOT, PageRequest(cursor, None), env)
            seen.append(page)
            cursor = page.next

    with pytest.raises(UpstreamError, match=f"{words}, first that of commit {damaged}") as caught:
        asyncio.run(read())
    assert "git fsck" in caught.value.hint
    assert counts_of(seen) == {"first": 3, "second": None, "third": None}
    assert {change.path for change in changes_of(seen).values()} == {"d/a", "d/c", "b"}
    assert all(page.sync_token is None for page in seen)


def test_a_damaged_folder_costs_its_own_commits_their_files(three: Path) -> None:
    spoil(three, "main~1^{tree}", b"garbage")
    with pytest.raises(UpstreamError, match="damaged"):
        listing(three)


def test_a_sync_of_a_damaged_history_is_partial_and_keeps_every_commit(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(three, "main~1:d/a", b"garbage")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert main(["connect", "git", "--set", f"path={three}"]) == 0
    assert main(["sync", "git"]) == 3
    assert "some content is damaged" in capsys.readouterr().out
    assert main(["count", "git", "GitCommit"]) == 0
    assert capsys.readouterr().out == "3\n"


# -- names ---------------------------------------------------------------------------------------


def repository_of(path: Path | str) -> git_connector.GitRepository:
    return asyncio.run(Git(str(path)).repository())


def test_a_repository_has_its_name_wherever_the_path_leads_into_it(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    (repository / "src" / "deep").mkdir(parents=True)
    other, bare = repository.parent / "other", repository.parent / "mirror.git"
    git(repository, "worktree", "add", "--quiet", "--detach", str(other))
    (other / "sub").mkdir()
    git(repository, "clone", "--quiet", "--bare", str(repository), str(bare))
    link = repository.parent / "link"
    link.symlink_to(repository / "src")
    inside = [
        repository,
        repository / "src" / "deep",
        repository / ".git",
        repository / ".git" / "refs",
        link,
    ]
    assert {repository_of(path).name for path in [*inside, other, other / "sub"]} == {"repository"}
    assert {repository_of(path).name for path in (bare, bare / "refs")} == {"mirror"}


def test_a_submodule_and_a_git_folder_elsewhere_leave_the_name_of_the_folder(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    above = make(repository.parent / "above")
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--name", "hidden")
    git(above, *add, str(repository), "libs/part")
    (above / "libs/part/sub").mkdir()
    assert {repository_of(above / "libs" / place).name for place in ("part", "part/sub")} == {"part"}
    apart = make(repository.parent / "apart", f"--separate-git-dir={repository.parent / 'store'}")
    assert repository_of(apart).name == "apart"


@pytest.mark.parametrize("name", [b"a\nb", b"a\n", b"\xff", "\u2028\x85".encode(), b"\x1b[31m", b"-x", b" "])
def test_a_repository_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    path = make(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    git(path, "commit", "--quiet", "--allow-empty", "-m", "one")
    assert repository_of(path).name == git_connector.name_of(name)
    assert len(commits_of(listing(path))) == 1


@pytest.mark.parametrize("branch", ["rel\u2028ease", "rel\x85ease", "HEAD", "a/b", "heads/x", "\u202e", "é"])
def test_the_branch_of_head_has_its_whole_name(repository: Path, branch: str) -> None:
    git(repository, "symbolic-ref", "HEAD", f"refs/heads/{branch}")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    git(repository, "update-ref", f"refs/tags/{branch}", "HEAD")
    assert repository_of(repository).head_branch == branch
    (page,) = listing(repository, git_connector.load_branches)
    assert [(one.name, one.current) for one in page.items] == [(branch, True)]
    assert examined(repository) == "git: 1 commit on 1 branch"


def test_refs_named_like_options_and_revisions_are_only_names(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "one")
    names = ["-x", "--all", "HEAD", "^main", "a" * 200]
    for name in [name for name in names if not name.startswith("^")]:
        git(repository, "update-ref", f"refs/heads/{name}", "HEAD")
        git(repository, "update-ref", f"refs/tags/{name}", "HEAD")
    assert len(commits_of(listing(repository))) == 1
    (page,) = listing(repository, git_connector.load_tags)
    assert {tag.name for tag in page.items} == {"-x", "--all", "HEAD", "a" * 200}


# -- the connector at full size -----------------------------------------------------------------


def test_every_field_is_described() -> None:
    described = connector.schema.to_json()["entities"]
    assert all(entity["description"] for entity in described)
    assert all(part["description"] for one in described for part in one["fields"] + one["collections"])


def test_an_installation_is_healthy_when_git_can_read_it(repository: Path) -> None:
    async def main() -> str:
        installation = await connector.initialise(GitConfig(str(repository)), NO_CREDENTIALS)
        assert installation.health is not None
        assert installation.stop is not None
        shown = await installation.health()
        await installation.stop()
        return shown

    assert asyncio.run(main()) == "git: 0 commits on 0 branches"


async def read_all(path: str) -> list[tuple[int, int]]:
    """After each page of a listing: the number of commits so far, and the peak memory."""
    env, count, cursor, peaks = Reading(Path(path)), 0, None, []
    while True:
        page = await git_connector.load_commits.load(ROOT, PageRequest(cursor), env)
        count, cursor = count + len(page.items), page.next
        peaks.append((count, tracemalloc.get_traced_memory()[1]))
        if cursor is None:
            return peaks


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository of 20,000 commits."""
    return linear(tmp_path_factory.mktemp("large") / "repository.git", 20_000)


def test_a_large_history_is_read_completely_in_constant_memory(large: Path) -> None:
    tracemalloc.start()
    try:
        peaks = asyncio.run(read_all(str(large)))
    finally:
        tracemalloc.stop()
    read, peak = zip(*peaks, strict=True)
    assert read[-1] == int(lines(large, "rev-list", "--all", "--count")[0]) == 20_000
    assert peak[-1] < peak[len(peak) // 4] + SLACK


def test_a_commit_with_many_files_takes_several_pages(repository: Path) -> None:
    history = History()
    history.commit(files={b"f%d" % n: b"1\n" for n in range(25)})
    history.write(repository)
    pages = listing(repository, page_changes=10)
    assert [len(page.also) for page in pages] == [10, 10, 6]
    assert [len(page.items) for page in pages] == [0, 0, 1]
    assert pages[-1].items[0].insertions == 25


def test_other_tasks_run_while_a_history_is_read(large: Path) -> None:
    turns = 0

    async def main() -> None:
        reading = asyncio.create_task(read_all(str(large)))

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not reading.done():
                asyncio.get_running_loop().call_soon(turn)

        turn()
        await reading

    asyncio.run(main())
    assert turns > 20_000 / git_connector.YIELD_EVERY


class TestThroughTheCommandLine:
    """``max connect git`` and ``max sync git``, in a project of its own."""

    @pytest.fixture
    def home(self, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "home"
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert main(["connect", "git", "--set", f"path={repository}"]) == 0
        return folder

    def count(self, entity: str, capsys: pytest.CaptureFixture[str]) -> int:
        capsys.readouterr()
        assert main(["count", "git", entity, "-o", "json"]) == 0
        return int(json.loads(capsys.readouterr().out)["count"])

    def test_every_commit_of_rev_list_is_a_row(
        self, repository: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        history = History()
        for number in range(40):
            parents = [number] if number else []
            octopus = [number - 3, number - 7] if number % 10 == 9 else []
            history.commit(parents=[*parents, *octopus], files={b"f\xff%d" % number: b"x\n"})
        history.write(repository)
        assert main(["sync", "git"]) == 0
        assert self.count("GitCommit", capsys) == len(rev_list(repository))

    def test_a_rewritten_branch_removes_unreachable_commits(
        self, repository: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for message in ("one", "two", "three"):
            git(repository, "commit", "--quiet", "--allow-empty", "-m", message)
        assert main(["sync", "git"]) == 0
        git(repository, "reset", "--quiet", "--hard", "HEAD~2")
        git(repository, "commit", "--quiet", "--allow-empty", "-m", "another two")
        assert main(["sync", "git"]) == 0
        assert self.count("GitCommit", capsys) == len(rev_list(repository)) == 2

    def test_commits_that_git_deleted_are_removed_with_their_file_changes(
        self, repository: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("one", "two", "three"):
            (repository / name).write_text(name)
            git(repository, "add", name)
            git(repository, "commit", "--quiet", "-m", name)
        assert main(["sync", "git"]) == 0
        git(repository, "reset", "--quiet", "--hard", "HEAD~2")
        git(repository, "reflog", "expire", "--expire=now", "--all")
        git(repository, "gc", "--quiet", "--prune=now")
        assert main(["sync", "git"]) == 0
        assert self.count("GitCommit", capsys) == len(rev_list(repository)) == 1
        assert self.count("GitFileChange", capsys) == 1
