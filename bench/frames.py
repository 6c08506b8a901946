"""A million rows into pandas, against ``pandas.read_sql`` by hand."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing

from max.model.frames import library

from .measure import Row, fresh_paths, interleaved, report
from .records import Item, listing, make, running, sync

RECORDS = 1_000_000
ROUNDS = 3
TIMES = ["created_at", "updated_at"]
pandas = library("pandas")
SELECT = "SELECT * FROM records_item"


def run() -> None:
    """All rows with all fields; by hand once as they come, and once with the times and booleans as such."""
    source = listing(make, RECORDS)
    with fresh_paths() as path, asyncio.Runner() as runner:
        place = path()
        runner.run(sync(source, place))
        stack = AsyncExitStack()
        runtime = runner.run(stack.enter_async_context(running(source, place)))
        with closing(sqlite3.connect(place)) as connection:

            def plain() -> None:
                pandas.read_sql(SELECT, connection)

            def typed() -> None:
                frame = pandas.read_sql(SELECT, connection)
                for name in TIMES:
                    frame[name] = pandas.to_datetime(frame[name], utc=True, format="ISO8601")
                frame["active"] = frame["active"].astype("boolean")

            async def asking() -> None:
                await runtime.engine.query(Item).to_pandas()

            runs = {"plain": plain, "typed": typed, "Max": lambda: runner.run(asking())}
            timings = interleaved(runs, ROUNDS)
        runner.run(stack.aclose())
    ours = timings["Max"]
    rows = []
    for name, what in {"typed": "read_sql, times and booleans", "plain": "read_sql as it comes"}.items():
        ratio, wall = ours.cpu / timings[name].cpu, ours.wall / timings[name].wall
        rows.append(Row(f"into pandas, beside {what}", f"{ours.cpu:.1f} s CPU", ratio, "by hand", "", wall))
    report("frames", rows)
