"""A workspace of Linear, first and again: requests and points beside the least, processor time a page.

The service is the fake that tests use, in a process of its own; without it nothing is measured.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .measure import CHECKOUT, Row, report, spent

sys.path.append(str(CHECKOUT / "connectors"))

ISSUES, COMMENTS = 2_000, 3  # comments of each issue
ROUNDS = 3


class Spent(NamedTuple):
    """The cost of a sync: requests and points of the service, CPU time of this process."""

    requests: int
    points: int
    cpu: float


def run() -> None:
    """A first sync and an unchanged one, repeated; the counts are the same each time."""
    from tests.linear_fake import why_not

    if why_not():
        print(f"\nlinear\n  skipped: {why_not()}")
        return
    with serving() as (url, counts):
        rounds = [syncs(url, counts) for _ in range(ROUNDS)]
    first, again = (min(syncs, key=lambda one: one.cpu) for syncs in zip(*rounds, strict=True))
    pages, points, listings = least()
    report(
        "linear",
        [
            Row("first sync", f"{first.requests} requests", first.requests / pages, "the least"),
            Row("", f"{first.points:,} points", first.points / points, "that of the rows alone"),
            Row("", f"{1000 * first.cpu / first.requests:.1f} ms CPU a page", 1.0, "itself"),
            Row("unchanged", f"{again.requests} requests", again.requests / listings, "one a collection"),
            Row("", f"{again.points:,} points", again.points / first.points, "the first"),
            Row("", f"{again.cpu:.2f} s CPU", again.cpu / first.cpu, "the first"),
        ],
    )


def least() -> tuple[int, float, int]:
    """Full pages of everything, the price of its rows alone, and how many collections there are."""
    from max_connectors.linear import PAGE, SOURCES

    from tests.linear_fake import fake_module

    fake = fake_module().Linear()
    rows = {"issues": ISSUES, "comments": ISSUES * COMMENTS, "teams": 2, "users": 4, "workflow_states": 10}
    rows |= {"labels": 3, "projects": 1, "cycles": 1}
    pages, points = 1, 0.0
    for source in SOURCES:
        text = f"{{ {source.connection}(first: 100) {{ nodes {source.selection} }} }}"
        document, _ = fake.engine.prepare(text, {}, None)
        points += fake.engine.complexity(document, {}, None) / 100 * rows.get(source.name, 0)
        pages += max(1, math.ceil(rows.get(source.name, 0) / PAGE))
    return pages, points, len(SOURCES)


def syncs(url: str, counts: Callable[[], tuple[int, int]]) -> tuple[Spent, Spent]:
    """The first sync of a new installation, and a second one."""
    from tests.linear_fake import Copy

    found = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        copy.values["base_url"] = url
        for _ in range(2):
            before = spent()
            copy.sync()
            found.append(Spent(*counts(), spent() - before))
    return found[0], found[1]


@contextmanager
def serving() -> Iterator[tuple[str, Callable[[], tuple[int, int]]]]:
    """The workspace's address, and what tells the requests and points since it was last asked."""
    command = [sys.executable, "-m", "bench.linear"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        lines, ask = server.stdout, server.stdin

        def counts() -> tuple[int, int]:
            print(file=ask, flush=True)
            requests, points = json.loads(lines.readline())
            return requests, points

        yield lines.readline().strip(), counts
        ask.close()


def serve() -> None:
    """Be that workspace, until the standard input ends."""
    from tests.linear_fake import fake_module

    fake = fake_module().Linear().seed(issues=ISSUES, comments=COMMENTS)
    paid, take = list[int](), fake.point_window.take

    def counted(cost: int) -> bool:
        paid.append(cost)
        return bool(take(cost))

    fake.point_window.take = counted
    with fake:
        fake._http.socket.listen(64)
        print(fake.url, flush=True)
        for _ in sys.stdin:
            print(json.dumps([len(paid), sum(paid)]), flush=True)
            paid.clear()


if __name__ == "__main__":
    serve()
