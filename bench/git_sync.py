"""A git repository's first and second sync: processor time, and memory that does not grow."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .measure import ENVIRONMENT, Measured, Row, measured, report

SMALL, LARGE = 5_000, 20_000  # commits


def run() -> None:
    """Sync two sizes, and the larger one again."""
    with tempfile.TemporaryDirectory() as folder:
        small = first_sync(Path(folder), SMALL)
        large = first_sync(Path(folder), LARGE)
        again = measured(command("sync", "git"), Path(folder) / str(LARGE))
    report(
        "git_sync",
        [
            Row(
                "first sync",
                f"{LARGE / large.cpu:,.0f} commits/CPU s",
                large.cpu / small.cpu,
                "5,000 commits",
            ),
            Row("second sync", f"{again.cpu:.2f} s CPU", again.cpu / large.cpu, "the first"),
            Row("peak memory", f"{large.peak / 1024:.0f} MB", large.peak / small.peak, "5,000 commits"),
        ],
    )


def command(*words: str) -> list[str]:
    """A command of Max that ends by telling its own peak memory, without that of git."""
    program = (
        "import resource, sys; from max.cli import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    return [sys.executable, "-c", program, *words]


def first_sync(folder: Path, commits: int) -> Measured:
    """Make a repository, connect it and sync it."""
    place = folder / str(commits)
    repository = place / "repository"
    repository.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    line = ["git", "-C", str(repository), "fast-import", "--quiet"]
    with subprocess.Popen(line, stdin=subprocess.PIPE) as importing:
        assert importing.stdin is not None
        for part in history(commits):
            importing.stdin.write(part)
    for words in (["init"], ["connect", "git", "--set", "path=repository"]):
        subprocess.run(command(*words), cwd=place, env=ENVIRONMENT, check=True, capture_output=True)
    return measured(command("sync", "git"), place)


def history(commits: int) -> Iterator[bytes]:
    """A fast-import stream: a line of commits, every tenth of them a merge."""
    for number in range(1, commits + 1):
        at = 1_600_000_000 + number * 60
        message = f"Change number {number}\n\nWhy it was made."
        content = f"content {number}\n"
        lines = [
            f"commit refs/heads/main\nmark :{number}\n",
            f"committer Person {number % 50} <p{number % 50}@example.com> {at} +0200\n",
            f"data {len(message)}\n{message}\n",
            f"from :{number - 1}\n" if number > 1 else "",
            f"merge :{number - 5}\n" if number % 10 == 0 else "",
            f"M 100644 inline folder/file-{number % 200}.txt\ndata {len(content)}\n{content}\n",
        ]
        yield "".join(lines).encode()
