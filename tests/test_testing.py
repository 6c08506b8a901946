"""The helpers for connector authors: a clock whose waits take no time, a service with faults."""

from __future__ import annotations

import asyncio
import doctest
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

import max.testing
from max.connecting import (
    BadCredentials,
    BearerAuth,
    HttpClient,
    Json,
    Offline,
    QuotaExceeded,
    Secret,
    UpstreamBroken,
    UpstreamMissing,
)
from max.testing import PAUSE, START, FakeClock, Fault, FaultKind, ScriptedUpstream, credentials_for

V = TypeVar("V")


def upstream(token: str | None = None) -> ScriptedUpstream:
    """A service with five things, two on a page, and an empty listing."""
    return ScriptedUpstream({"/things": [{"id": n} for n in range(5)], "/none": []}, page_size=2, token=token)


def talk(
    service: ScriptedUpstream, work: Callable[[HttpClient], Awaitable[V]], token: str | None = None
) -> V:
    """Call a function with a client of the service, on a fake clock."""

    async def main() -> V:
        async with (
            service,
            HttpClient(
                service.url, credentials_for(service.url), auth=BearerAuth(Secret(token)) if token else None
            ) as client,
        ):
            return await work(client)

    return FakeClock().run(main())


async def walk(client: HttpClient) -> list[list[int]]:
    """The ids on every page of the things."""
    pages, cursor = [], ""
    while cursor is not None:
        page = await client.get(f"/things?cursor={cursor}" if cursor else "/things")
        pages.append([one["id"] for one in page["items"]])
        cursor = page["next"]
        assert page["total"] == 5
    return pages


def page_at(
    service: ScriptedUpstream, address: str = "/things?cursor=page-1", token: str | None = None
) -> Json:
    """What the service answers at an address."""
    return talk(service, lambda client: client.get(address), token)


def test_the_example_runs() -> None:
    outcome = doctest.testmod(max.testing)
    assert outcome.attempted > 5
    assert outcome.failed == 0


# -- the clock ---------------------------------------------------------------------------


def test_a_sleep_moves_the_clock_and_takes_no_time() -> None:
    clock, begun = FakeClock(), time.monotonic()
    clock.run(asyncio.sleep(86_400.0))
    assert clock() == START + 86_400.0
    assert time.monotonic() - begun < 60.0


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock, woken = FakeClock(0.0), []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((seconds, clock()))

    async def main() -> None:
        await asyncio.gather(*(sleeper(seconds) for seconds in (7200.0, 0.0, 0.5, 60.0)))

    clock.run(main())
    assert [seconds for seconds, _ in woken] == [0.0, 0.5, 60.0, 7200.0]
    assert all(abs(at - seconds) < 1e-6 for seconds, at in woken)


def test_a_thread_has_real_time_while_no_task_sleeps() -> None:
    clock = FakeClock()
    assert clock.run(asyncio.to_thread(lambda: sum(range(1_000_000)))) == 499_999_500_000
    assert clock() == START


def test_the_clock_can_be_moved_by_hand() -> None:
    clock = FakeClock(100.0)
    clock.advance(5.0)
    assert clock() == 105.0


# -- the upstream --------------------------------------------------------------------------


def test_a_service_lists_everything_and_counts_pages_by_address() -> None:
    service = upstream()
    assert talk(service, walk) == [[0, 1], [2, 3], [4]]
    pages = ["/things", "/things?cursor=page-1", "/things?cursor=page-2"]
    assert dict(service.served) == dict(service.requests) == dict.fromkeys(pages, 1)


def test_an_empty_listing_is_one_page_and_an_unknown_one_is_not_found() -> None:
    assert page_at(upstream(), "/none") == {"items": [], "next": None, "total": 0}
    with pytest.raises(UpstreamMissing, match="no such listing"):
        page_at(upstream(), "/unknown")


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_listing_requires_the_current_token(token: str | None) -> None:
    service = upstream("Right-1")
    with pytest.raises(BadCredentials):
        page_at(service, token=token)
    assert service.served.total() == 0
    assert page_at(service, token="Right-1")["items"] == [{"id": 2}, {"id": 3}]


@pytest.mark.parametrize(
    ("page", "left"), [(0, [[2, 3], [4]]), (1, [[0, 1], [4]]), (2, [[0, 1], [2, 3], []])]
)
def test_a_skipped_page_is_missing_from_the_listing(page: int, left: list[list[int]]) -> None:
    service = upstream()
    service.inject(Fault(FaultKind.SKIP, "/things", page))
    assert talk(service, walk) == left


@pytest.mark.parametrize("page", [0, 1, 2])
def test_a_repeated_page_names_itself_as_the_next(page: int) -> None:
    service = upstream()
    service.inject(Fault(FaultKind.REPEAT, "/things", page))
    address = f"/things?cursor=page-{page}"
    assert page_at(service, address)["next"] == f"page-{page}"
    assert page_at(service, address)["next"] == (None if page == 2 else f"page-{page + 1}")


@pytest.mark.parametrize(
    ("kind", "seen"),
    [(FaultKind.TRUNCATE, UpstreamBroken), (FaultKind.GARBAGE, UpstreamBroken), (FaultKind.RESET, Offline)],
)
def test_an_incomplete_answer_is_not_counted_as_served(kind: FaultKind, seen: type[Exception]) -> None:
    service = upstream()
    service.inject(Fault(kind, "/things", 1))
    with pytest.raises(seen):
        page_at(service)
    assert (service.requests.total(), service.served.total()) == (1, 0)
    assert page_at(service)["next"] == "page-2"


def test_a_slow_answer_arrives_late() -> None:
    clock, service = FakeClock(), upstream()
    service.inject(Fault(FaultKind.SLOW, "/things", 1))

    async def main() -> Json:
        async with (
            service,
            HttpClient(service.url, credentials_for(service.url), timeout=3 * PAUSE) as client,
        ):
            return await client.get("/things?cursor=page-1")

    assert clock.run(main())["items"] == [{"id": 2}, {"id": 3}]
    assert clock() - START > 20 * PAUSE
    assert service.served.total() == 1


@pytest.mark.parametrize("retry_after", [None, 17.0])
def test_a_fault_happens_as_many_times_as_requested(retry_after: float | None) -> None:
    service = upstream()
    service.inject(Fault(FaultKind.RATE_LIMIT, "/things", 1, times=2, retry_after=retry_after))
    for _ in range(2):
        with pytest.raises(QuotaExceeded) as caught:
            page_at(service)
        assert caught.value.retry_after == retry_after
    assert page_at(service)["next"] == "page-2"


def test_a_token_that_expires_during_a_listing_is_refused_until_it_is_renewed() -> None:
    service = upstream("old")
    service.inject(Fault(FaultKind.EXPIRE, "/things", 1))

    async def work(client: HttpClient) -> str:
        await client.get("/things")
        for address in ("/things?cursor=page-1", "/things"):
            with pytest.raises(BadCredentials):
                await client.get(address)
        renewed: str = (await client.request("POST", "/token")).json()["token"]
        return renewed

    renewed = talk(service, work, "old")
    assert page_at(service, token=renewed)["next"] == "page-2"


def test_without_faults_the_listing_is_complete_again() -> None:
    service = upstream()
    service.inject(Fault(FaultKind.SKIP, "/things", 0), Fault(FaultKind.GARBAGE, "/things", 2))
    service.inject()
    assert talk(service, walk) == [[0, 1], [2, 3], [4]]


def test_reached_returns_when_the_address_is_requested() -> None:
    service = upstream()

    async def work(client: HttpClient) -> list[str]:
        waiting = asyncio.create_task(service.reached("/things"))
        before = list(service.requests)
        await asyncio.gather(client.get("/things"), waiting)
        await service.reached("/things")  # already was
        return before

    assert talk(service, work) == []
