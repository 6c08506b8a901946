"""Paging by keyset through 1,000,000 rows: the last page against the first, in any order."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

from max import Query
from max.core import Order
from max.queries import write_cursor

from .measure import Row, fresh_paths, interleaved, report
from .records import make, running, sync
from .resync import Ticket, tickets

RECORDS = 1_000_000
PAGE = 50  # entities
ROUNDS = 5

ORDERS: dict[str, tuple[int, tuple[Order, ...]]] = {  # how often in a round, and the order
    "id": (100, ()),
    "owner (index)": (20, (Order(Ticket.owner.path),)),
    "owner, descending (index)": (20, (Order(Ticket.owner.path, True),)),
    "votes, descending; score": (1, (Order(Ticket.votes.path, True), Order(Ticket.score.path))),
}


def run() -> None:
    """First and last pages in several orders."""
    rows = []
    with fresh_paths() as path, asyncio.Runner() as runner:
        place, source = path(), tickets(make, RECORDS)
        runner.run(sync(source, place))
        stack = AsyncExitStack()
        engine = runner.run(stack.enter_async_context(running(source, place))).engine
        for name, (calls, order) in ORDERS.items():
            first = Query(Ticket, order=order, size=PAGE)
            last = first.after(cursor_of_last_page(place, first))

            async def asking(query: Query[Ticket], calls: int = calls) -> None:
                for _ in range(calls):
                    assert len((await engine.fetch(query)).items) == PAGE

            timings = interleaved(
                {
                    "first": lambda first=first, asking=asking: runner.run(asking(first)),  # type: ignore[misc]
                    "last": lambda last=last, asking=asking: runner.run(asking(last)),  # type: ignore[misc]
                },
                ROUNDS,
            )
            each = f"{timings['last'].wall / calls * 1e3:.2f} ms"
            ratio = timings["last"].cpu / timings["first"].cpu
            wall = timings["last"].wall / timings["first"].wall
            rows.append(Row(f"last page by {name}", each, ratio, "the first page", "≤ 2", wall))
        runner.run(stack.aclose())
    report("paging", rows)


def cursor_of_last_page(place: Path, query: Query[Ticket]) -> str:
    """The cursor behind all but the last rows, found from the other end."""
    columns = [term.path[-1].name for term in query.order]
    back = [
        f"{name} {'ASC' if term.descending else 'DESC'}"
        for name, term in zip(columns, query.order, strict=True)
    ]
    sql = f"""
        SELECT {", ".join([*columns, "_id"])} FROM ticket
         ORDER BY {", ".join([*back, "_id DESC"])} LIMIT 1 OFFSET {PAGE}
    """
    with closing(sqlite3.connect(place)) as connection:
        return write_cursor(query, connection.execute(sql).fetchone())
