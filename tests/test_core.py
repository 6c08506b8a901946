"""Bound queries: a query with the engine that answers it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from max.core import BoundQuery, Engine
from max.model.query import PAGE_SIZE, Query, QueryPage
from tests.model.tracker import Issue


class Answers:
    """An engine that has issues 0, 1, 2 …, and remembers what it was asked for."""

    def __init__(self, total: int) -> None:
        self.total, self.asked = total, list[Query[Any]]()

    async def fetch(self, query: Query[Any]) -> QueryPage[Issue]:
        self.asked.append(query)
        start, size = int(query.cursor or 0), query.size if query.size is not None else PAGE_SIZE
        end = min(start + size, self.total)
        issues = [Issue(str(number)) for number in range(start, end)]
        return QueryPage(issues, str(end) if end < self.total else None)

    async def count(self, query: Query[Any]) -> int:
        self.asked.append(query)
        return self.total


def bound(engine: Answers, now: float = 0.0) -> BoundQuery[Issue]:
    """A query of all issues."""
    return BoundQuery(cast("Engine", engine), Query(Issue), lambda: now)


def test_a_bound_query_is_a_query_and_every_step_keeps_its_engine() -> None:
    engine = Answers(3)
    query = bound(engine).where(Issue.votes.gt(3)).order_by("-title").select("title").limit(2).after("1")
    asyncio.run(query.page())
    assert asyncio.run(query.count()) == 3
    plain = Query(Issue).where(Issue.votes.gt(3)).order_by(Issue.title, descending=True)
    assert engine.asked == [query, query]
    assert query._values() == plain.select(Issue.title).limit(2).after("1")._values()


def test_ages_in_a_text_count_from_the_engines_clock() -> None:
    assert bound(Answers(0), now=100.0).where("_age(title) > 10s").filter == Issue.title.synced_before(90.0)
    explicit = bound(Answers(0), now=100.0).where("_age(title) > 10s", now=50.0)
    assert explicit.filter == Issue.title.synced_before(40.0)


def test_all_is_one_request_and_first_asks_for_one_row() -> None:
    engine = Answers(2 * PAGE_SIZE + 1)
    assert len(asyncio.run(bound(engine).all())) == 2 * PAGE_SIZE + 1
    assert len(asyncio.run(bound(engine).limit(5).all())) == 5
    assert asyncio.run(bound(engine).first()) == Issue("0")
    assert [query.size for query in engine.asked][1:] == [5, 1]
    assert asyncio.run(bound(Answers(0)).first()) is None


def test_iterating_reads_page_by_page_up_to_the_limit() -> None:
    async def ids(query: BoundQuery[Issue]) -> list[str]:
        return [issue.id async for issue in query]

    engine = Answers(2 * PAGE_SIZE + 1)
    assert len(asyncio.run(ids(bound(engine)))) == 2 * PAGE_SIZE + 1
    assert [query.size for query in engine.asked] == [PAGE_SIZE] * 3
    engine.asked.clear()
    assert len(asyncio.run(ids(bound(engine).limit(PAGE_SIZE + 7)))) == PAGE_SIZE + 7
    assert [query.size for query in engine.asked] == [PAGE_SIZE, 7]
    assert asyncio.run(ids(bound(engine).limit(0))) == []
