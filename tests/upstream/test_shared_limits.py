"""Limits that several hosts share: what is lent, to whom, and for how long it counts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.errors import QuotaExceeded
from max.projects.account_limits import AccountLimits
from max.projects.database import ProjectDatabase
from max.storage.postgres import PostgresDatabase
from max.upstream.operations import Limit, Operation, Retry
from max.upstream.shared_limits import Lent, Loan, SharedLimits, lend, lent_seconds
from tests.postgres_server import shared_url

NONE = Loan(0.0, 0, "")
HOSTS = 3
CALLS = st.lists(
    st.tuples(st.integers(0, HOSTS - 1), st.sampled_from([0.0, 0.01, 0.4, 3.0, 9.0]), st.integers(1, 3)),
    max_size=60,
)


class Host:
    """What one host has borrowed, and how much of it is spent."""

    def __init__(self) -> None:
        self.ends, self.lent, self.spent, self.id = 0.0, 0, 0, ""


@given(calls=CALLS, limit=st.builds(Limit, st.just("l"), calls=st.integers(3, 12), per=st.just(10.0)))
def test_p34_no_window_holds_more_calls_than_its_limit_over_hosts_that_borrow_and_die(
    calls: list[tuple[int, float, int]], limit: Limit
) -> None:
    hosts, loans, begun, now = [Host() for _ in range(HOSTS)], [NONE][:0], [], 0.0
    for number, (which, later, points) in enumerate(calls):
        now += later
        if later == 9.0:
            hosts[which] = Host()  # it died, and its successor knows nothing
        host = hosts[which]
        if now >= host.ends or host.lent - host.spent < points:
            spent = Loan(0.0, host.spent, host.id)
            loans, lent = lend(loans, limit, points, f"{number}", spent, now)
            if not lent.points:
                assert lent.wait > 0
                continue
            host.ends, host.lent, host.spent, host.id = now + lent_seconds(limit), lent.points, 0, f"{number}"
        host.spent += points
        begun.append((now, points))
    for first, _ in begun:
        inside = [points for at, points in begun if first <= at < first + limit.per]
        assert sum(inside) <= (limit.calls or 0)


def test_points_that_were_not_spent_are_lent_again_and_a_question_that_is_repeated_lends_once() -> None:
    limit = Limit("l", calls=8, per=80.0)
    loans, first = lend([], limit, 8, "a", NONE, 0.0)
    assert (first, lend(loans, limit, 8, "a", NONE, 1.0)[1]) == (Lent(8), Lent(8))
    assert lend(loans, limit, 1, "b", NONE, 1.0)[1] == Lent(0, wait=84.0)
    assert lend(loans, limit, 5, "b", Loan(0.0, 3, "a"), 1.0)[1] == Lent(5)
    assert lend(loans, limit, 8, "b", NONE, 85.0)[1] == Lent(8)


@pytest.fixture
def project() -> Iterator[ProjectDatabase]:
    schema = f"l{os.getpid()}"
    yield ProjectDatabase.open(f"{shared_url()}#{schema}", create=True)
    with PostgresDatabase(shared_url(), "public").writer() as connection:
        for name in (schema, f"{schema}_audit"):
            connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


async def nothing(context: None, input: None) -> None:
    """The call."""


@pytest.mark.postgres
class TestInPostgres:
    """The row of a limit, which hosts change one after the other."""

    def test_p34_hosts_that_ask_at_once_are_lent_no_more_than_the_limit(
        self, project: ProjectDatabase
    ) -> None:
        limit = Limit("l", calls=10, per=100_000.0)
        hosts = [AccountLimits(project.work_table(), lambda: "account") for _ in range(4)]

        async def main() -> list[Lent]:
            asked = [hosts[n % 4].borrow(limit, 1, f"{n}", NONE) for n in range(12)]
            return await asyncio.gather(*asked)

        lent = asyncio.run(main())
        assert sum(one.points for one in lent) == 10
        assert {one.wait > 0 for one in lent if not one.points} == {True}

    def test_the_row_of_a_limit_that_no_host_has_used_for_a_day_goes_and_one_that_counts_stays(
        self, project: ProjectDatabase
    ) -> None:
        daily, short = Limit("daily", calls=10, per=200_000.0), Limit("short", calls=10, per=1.0)

        async def borrow(account: str, limit: Limit) -> None:
            await AccountLimits(project.work_table(), lambda: account).borrow(limit, 1, "", NONE)

        def names(days_later: float = 0.0) -> set[str]:
            with PostgresDatabase(shared_url(), f"l{os.getpid()}").writer() as connection:
                connection.execute("UPDATE share SET ends = ends - ?", (86_400 * days_later,))
                return {name for (name,) in connection.execute("SELECT name FROM share").fetchall()}

        asyncio.run(borrow("gone", short))
        asyncio.run(borrow("gone", daily))
        assert names(days_later=1.1) == {"short", "daily"}
        asyncio.run(borrow("another", Limit("free")))
        assert names() == {"daily", "free"}

    @pytest.mark.parametrize(
        "damage", ["x", "", "null", "1", "[[1]]", '{"a": 1}', '[["a", 1, "b"]]', '[[1e999, 1, "b"]]']
    )
    def test_loans_that_make_no_sense_are_forgotten(self, project: ProjectDatabase, damage: str) -> None:
        limit, host = Limit("l", calls=10, per=60.0), AccountLimits(project.work_table(), lambda: "account")
        asyncio.run(host.borrow(limit, 10, "1", NONE))
        assert asyncio.run(host.borrow(limit, 1, "2", NONE)).wait > 0
        with PostgresDatabase(shared_url(), f"l{os.getpid()}").writer() as connection:
            connection.execute("UPDATE share SET loans = ?", (damage,))
        assert asyncio.run(host.borrow(limit, 10, "3", NONE)).points == 10
        assert asyncio.run(host.borrow(limit, 1, "4", NONE)).wait > 0

    def test_p34_a_wait_for_which_the_service_asked_one_host_holds_for_the_others(
        self, project: ProjectDatabase
    ) -> None:
        limit = Limit("l")
        call = Operation("a:b:c", nothing, limit=limit, retry=Retry(max_wait=0))

        async def main() -> list[str]:
            one, other, third = (
                SharedLimits(AccountLimits(project.work_table(), lambda name=name: name))  # type: ignore[misc]
                for name in ("account", "account", "another")
            )
            await one.acquire(call)
            one.block_for(call, 3_000.0)
            await asyncio.gather(*(task for task in asyncio.all_tasks() if "block" in task.get_name()))
            with pytest.raises(QuotaExceeded, match="the service asked to wait"):
                await other.acquire(call, max_wait=1.0)
            await third.acquire(call, max_wait=1.0)
            return other.blocked_limits()

        assert asyncio.run(main()) == ["l"]
