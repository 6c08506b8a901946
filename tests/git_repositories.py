"""Repositories for tests, written with ``git fast-import``, and what git itself says about them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
ADA = b"Ada <ada@example.com>"
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_NAME": "Ada" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "ada@example.com" for who in ("AUTHOR", "COMMITTER")},
}


def git(path: Path, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
    """The output of a git command; CalledProcessError when it fails."""
    words: list[str | bytes] = ["git", "-C", str(path), *arguments]
    answer = subprocess.run(words, input=stdin, capture_output=True, env=ENVIRONMENT, check=True)
    return answer.stdout


def lines(path: Path, *arguments: str | bytes, stdin: bytes = b"") -> list[str]:
    """The output of a git command as lines."""
    return git(path, *arguments, stdin=stdin).decode().splitlines()


def make(path: Path, *options: str) -> Path:
    """An empty repository whose first commit will make the branch ``main``."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--initial-branch=main", *options)
    return path


@cache
def quoted(path: bytes) -> bytes:
    """A path of any bytes, as fast-import reads it."""
    return b'"' + b"".join(b"\\%03o" % byte for byte in path) + b'"'


class History:
    """Builds fast-import streams.  Commits are numbered; a later stream may refer to earlier ones."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.commits = 0

    def commit(
        self,
        branch: str = "main",
        files: Mapping[bytes, bytes | None] | None = None,
        *,
        parents: Sequence[int] = (),
        message: bytes = b"A change\n",
        author: bytes = ADA,
        when: bytes = b"",
        encoding: bytes = b"",
        raw: Iterable[bytes] = (),
    ) -> int:
        """Add a commit and return its number; ``files`` gives contents by path, None deletes."""
        self.commits += 1
        when = when or b"%d +0000" % (1_700_000_000 + self.commits)
        head = [b"commit refs/heads/%s" % branch.encode(), b"mark :%d" % self.commits]
        head += [b"author %s %s" % (author, when), b"committer %s %s" % (author, when)]
        head += [b"encoding " + encoding] if encoding else []
        head += [b"data %d\n%s" % (len(message), message)]
        head += [b"%s :%d" % (b"merge" if i else b"from", parent) for i, parent in enumerate(parents)]
        self._parts += [*head, *raw]
        for path, content in (files or {}).items():
            self._parts += _file(path, content)
        return self.commits

    def reset(self, ref: str, number: int) -> None:
        """Point a ref at a commit."""
        self._parts.append(b"reset %s\nfrom :%d" % (ref.encode(), number))

    def tag(self, name: str, number: int, message: bytes, tagger: bytes = ADA + b" 1700000000 +0100") -> None:
        """Add an annotated tag."""
        text = b"tag %s\nfrom :%d\ntagger %s\ndata %d\n%s"
        self._parts.append(text % (name.encode(), number, tagger, len(message), message))

    def write(self, path: Path) -> None:
        """Write everything since the last call into a repository."""
        stream, self._parts = b"\n".join([*self._parts, b"done\n"]), []
        marks = path / ".marks"
        options = ("--quiet", "--force", "--done", "--depth=0", "--date-format=raw-permissive")
        git(
            path,
            *("-c", "core.compression=0", "fast-import"),  # speed, not size
            *options,
            f"--import-marks-if-exists={marks}",
            f"--export-marks={marks}",
            stdin=stream,
        )


def _file(path: bytes, content: bytes | None) -> list[bytes]:
    if content is None:
        return [b"D " + quoted(path)]
    return [b"M 100644 inline " + quoted(path), b"data %d\n%s" % (len(content), content)]


def rev_list(path: Path) -> list[str]:
    """Every commit that a ref reaches, from git rev-list."""
    return lines(path, "rev-list", "--all")


def parents(path: Path) -> dict[str, list[str]]:
    """The parents of every commit, from git rev-list."""
    rows = [line.split() for line in lines(path, "rev-list", "--all", "--parents")]
    return {sha: rest for sha, *rest in rows}


LOG = ("log", "--all", "--diff-merges=first-parent", "-M50%")


def shortstat(path: Path) -> dict[str, tuple[int, int]]:
    """The lines added and removed by every commit, from git log --shortstat."""
    found: dict[str, tuple[int, int]] = {}
    for line in lines(path, *LOG, "--format=%H", "--shortstat"):
        if re.fullmatch("[0-9a-f]{40}", line):
            sha = line
            found[sha] = (0, 0)
        elif line:
            added, removed = (re.search(rf"(\d+) {word}", line) for word in ("insertion", "deletion"))
            found[sha] = (int(added[1]) if added else 0, int(removed[1]) if removed else 0)
    return found


def linear(path: Path, count: int) -> Path:
    """A repository of many commits: side branches, merges, renames, odd names and encodings."""
    history, repository = History(), make(path, "--bare")
    tip = history.commit(files={b"start": b"1\n"})
    for number in range(2, count + 1):
        if number % 10 == 0:
            side = history.commit("side", {b"side": b"%d\n" % number}, parents=[tip])
        elif number % 10 == 1 and number > 10:
            tip = history.commit(parents=[tip, side], message=b"Merge \xff\n")
        else:
            name = b"dir-%d/%s" % (number % 50, [b"a", b"\xff", b"\xc3\xbc", b"l\nf"][number % 4])
            raw = [b"R start %s" % quoted(b"end")] if number == 7 else []
            tip = history.commit(files={name: b"%d\n" % number}, parents=[tip], raw=raw)
    history.write(repository)
    return repository
