"""Groups over a million rows, against the same SQL by hand."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing

from max import BoundQuery

from .measure import Row, fresh_paths, interleaved, report
from .records import Item, listing, make, running, sync

RECORDS = 1_000_000
ROUNDS = 5
VIEW = "records_item"

Ask = Callable[[BoundQuery[Item]], Awaitable[object]]
ASKED: dict[str, tuple[str, Ask]] = {
    "by status": (
        f"SELECT status, count(*) FROM {VIEW} GROUP BY 1 ORDER BY 2 DESC",
        lambda query: query.count_by(Item.status),
    ),
    "by month": (
        f"SELECT substr(created_at, 1, 7), count(*) FROM {VIEW} GROUP BY 1 ORDER BY 1",
        lambda query: query.count_by(Item.created_at.per("month")),
    ),
    "the 10 greatest of many groups": (
        f"SELECT owner, count(*) FROM {VIEW} GROUP BY 1 ORDER BY 2 DESC LIMIT 10",
        lambda query: query.count_by(Item.owner, top=10),
    ),
    "by status, with a sum": (
        f"SELECT status, count(*), sum(votes) FROM {VIEW} GROUP BY 1 ORDER BY 2 DESC",
        lambda query: query.count_by(Item.status, sum=Item.votes),
    ),
    "a sum of all": (f"SELECT sum(votes) FROM {VIEW}", lambda query: query.sum(Item.votes)),
}


def run() -> None:
    """Each question by Max and by hand, on the same file."""
    rows = []
    source = listing(make, RECORDS)
    with fresh_paths() as path, asyncio.Runner() as runner:
        place = path()
        runner.run(sync(source, place))
        stack = AsyncExitStack()
        runtime = runner.run(stack.enter_async_context(running(source, place)))
        with closing(sqlite3.connect(place)) as connection:
            connection.execute("PRAGMA cache_size = -65536")
            for name, (sql, ask) in ASKED.items():

                def by_hand(sql: str = sql) -> None:
                    connection.execute(sql).fetchall()

                async def asking(ask: Ask = ask) -> None:
                    await ask(runtime.engine.query(Item))

                timings = interleaved({"hand": by_hand, "Max": lambda: runner.run(asking())}, ROUNDS)
                ours, reference = timings["Max"], timings["hand"]
                ratio, wall = ours.cpu / reference.cpu, ours.wall / reference.wall
                rows.append(Row(name, f"{ours.cpu:.2f} s CPU", ratio, "the same SQL", "≤ 1.2", wall))
        runner.run(stack.aclose())
    report("aggregates", rows)
