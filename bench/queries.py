"""Warm queries, against the same SQL by hand."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing

from max import Engine

from .measure import Row, fresh_paths, interleaved, report
from .records import make, running, sync
from .resync import Person, Ticket, tickets

RECORDS = 100_000
ROUNDS = 7
PAGE = 50  # entities

SELECT = f"SELECT _id, {', '.join(Ticket.types())}, _loaded FROM _records_ticket WHERE _removed_at IS NULL"
SCAN = f"{SELECT} AND votes = ? AND score < ? ORDER BY _id LIMIT {PAGE + 1}"
INDEXED = f"{SELECT} AND owner = ? ORDER BY _id LIMIT {PAGE + 1}"
NO_LIMIT = f"{SELECT} ORDER BY _id"
VOTES, SCORE, OWNER = 7, 10_000.0, "person-57"

Ask = Callable[[Engine], Awaitable[object]]
ASKED: dict[str, tuple[int, str, str, tuple[object, ...], Ask]] = {
    "scan": (
        5,
        "≤ 1.1",
        SCAN,
        (VOTES, SCORE),
        lambda engine: (
            engine.query(Ticket).where(Ticket.votes.eq(VOTES), Ticket.score.lt(SCORE)).limit(PAGE).page()
        ),
    ),
    "indexed page of 50": (
        300,
        "≤ 3",
        INDEXED,
        (OWNER,),
        lambda engine: engine.query(Ticket).where(Ticket.owner.eq(Person.ref(OWNER))).limit(PAGE).page(),
    ),
    "everything, as entities": (1, "", NO_LIMIT, (), lambda engine: engine.query(Ticket).all()),
}


def run() -> None:
    """A scan that finds a page, a page by an index, and every row as an entity."""
    source = tickets(make, RECORDS)
    rows = []
    with fresh_paths() as path, asyncio.Runner() as runner:
        place = path()
        runner.run(sync(source, place))
        stack = AsyncExitStack()
        runtime = runner.run(stack.enter_async_context(running(source, place)))
        with closing(sqlite3.connect(place)) as connection:
            for name, (calls, must, sql, values, ask) in ASKED.items():

                async def asking(calls: int = calls, ask: Ask = ask) -> None:
                    for _ in range(calls):
                        await ask(runtime.engine)

                def by_hand(calls: int = calls, sql: str = sql, values: tuple[object, ...] = values) -> None:
                    for _ in range(calls):
                        connection.execute(sql, values).fetchall()

                timings = interleaved({"hand": by_hand, "Max": lambda: runner.run(asking())}, ROUNDS)
                ours, reference = timings["Max"], timings["hand"]
                each = f"{ours.wall / calls * 1e3:.2f} ms"
                ratio, wall = ours.cpu / reference.cpu, ours.wall / reference.wall
                rows.append(Row(name, each, ratio, "the same SQL", must, wall))
        runner.run(stack.aclose())
    report("queries", rows)
