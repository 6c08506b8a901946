"""Paging by keyset through 1,000,000 rows: the last page against the first, in any order."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

from max import Query
from max.model.query import Order
from max.storage.query_sql import write_cursor

from .measure import Row, Run, Timing, fresh_paths, interleaved, report
from .records import make, running, sync
from .resync import Ticket, tickets

RECORDS = 1_000_000
PAGE = 50  # entities
ROUNDS = 5

ORDERS: dict[str, tuple[int, tuple[Order, ...]]] = {  # how often in a round, and the order
    "id": (100, ()),
    "owner (index)": (20, (Order(Ticket.owner.path),)),
    "owner, descending (index)": (20, (Order(Ticket.owner.path, True),)),
    "owner, empty ones first (index)": (20, (Order(Ticket.owner.path, nulls_first=True),)),
    "votes, descending; score": (1, (Order(Ticket.votes.path, True), Order(Ticket.score.path))),
}


def run() -> None:
    """First pages, some in the middle and last ones, in several orders."""
    rows: list[Row] = []
    with fresh_paths() as path, asyncio.Runner() as runner:
        place, source = path(), tickets(make, RECORDS)
        runner.run(sync(source, place))
        stack = AsyncExitStack()
        engine = runner.run(stack.enter_async_context(running(source, place))).engine

        async def ask(query: Query[Ticket], calls: int) -> None:
            for _ in range(calls):
                assert len((await engine.fetch(query)).items) == PAGE

        for name, (calls, order) in ORDERS.items():
            first = Query(Ticket, order=order, size=PAGE)
            pages = {
                "first": first,
                "middle": first.after(cursor_before(place, first, RECORDS // 2)),
                "last": first.after(cursor_before(place, first, PAGE)),
            }
            runs = {where: _again(runner, ask, page, calls) for where, page in pages.items()}
            rows += compared(name, calls, interleaved(runs, ROUNDS))
        runner.run(stack.aclose())
    report("paging", rows)


def _again(
    runner: asyncio.Runner, ask: Callable[[Query[Ticket], int], Coroutine[Any, Any, None]], *of: Any
) -> Run:
    """Ask in the loop that stays open, each time from the start."""
    return lambda: runner.run(ask(*of))


def compared(name: str, calls: int, timings: Mapping[str, Timing]) -> Iterator[Row]:
    """The pages that are not the first, against it."""
    first = timings["first"]
    for where in ("middle", "last"):
        page = timings[where]
        each = f"{page.wall / calls * 1e3:.2f} ms"
        ratio, wall = page.cpu / first.cpu, page.wall / first.wall
        yield Row(f"{where} page by {name}", each, ratio, "the first page", "≤ 2", wall)


def cursor_before(place: Path, query: Query[Ticket], left: int) -> str:
    """The cursor behind which so many rows are left, found from the other end."""
    columns = [term.path[-1].name for term in query.order]
    back = [
        f"{name} {'ASC' if term.descending else 'DESC'} NULLS {'LAST' if term.nulls_first else 'FIRST'}"
        for name, term in zip(columns, query.order, strict=True)
    ]
    sql = f"""
        SELECT {", ".join([*columns, "_id"])} FROM _records_ticket
         ORDER BY {", ".join([*back, "_id DESC"])} LIMIT 1 OFFSET {left}
    """
    with closing(sqlite3.connect(place)) as connection:
        return write_cursor(query, connection.execute(sql).fetchone())
