"""The helpers for connector authors: a clock whose waits take no time, a service with faults."""

from __future__ import annotations

import asyncio
import base64
import doctest
import socket
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import max.testing.dialects
from max import Status, SyncResult
from max.connecting import (
    BadCredentials,
    BearerAuth,
    GraphQL,
    HttpClient,
    HttpResponse,
    Json,
    Offline,
    PermissionDenied,
    QuotaExceeded,
    RelayConnection,
    Secret,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamMissing,
)
from max.testing import (
    LINKS,
    PAUSE,
    START,
    Cursors,
    Dialect,
    FakeClock,
    Fault,
    FaultKind,
    FaultyProxy,
    Offsets,
    Pages,
    Part,
    ProxyFault,
    RateLimit,
    Relay,
    Request,
    Response,
    ScriptedUpstream,
    credentials_for,
    cut,
    runtime,
)
from max.testing.clock import GRACE
from max.testing.watch import HostWatch, files_with
from max.upstream.hosts import Hosts
from tests import scripted

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
    for module in (max.testing, max.testing.dialects):
        outcome = doctest.testmod(module)
        assert outcome.attempted >= 3
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


def test_a_thread_of_an_executor_has_the_time_that_it_needs_while_a_timer_waits() -> None:
    clock = FakeClock()

    async def main() -> str:
        async with asyncio.timeout(1.0):
            await asyncio.to_thread(time.sleep, 10 * GRACE)
            return "done"

    assert clock.run(main()) == "done"


class CountingClock(FakeClock):
    """Counts how often it moved: each move takes real time."""

    moves = 0

    def advance(self, seconds: float) -> None:
        self.moves += 1
        super().advance(seconds)


def test_an_hour_that_a_source_asks_for_takes_two_moves_a_minute(tmp_path: Path) -> None:
    """A sync shows every second that it lives; in fake time that would be 3,600 moves."""
    clock, service = CountingClock(), scripted.upstream()
    service.inject(Fault(FaultKind.RATE_LIMIT, "/things", 1, retry_after=3600.0))

    async def main() -> SyncResult:
        async with service:
            return await scripted.sync(service.url, tmp_path / "data.db", clock)

    assert clock.run(main()).status is Status.COMPLETED
    assert clock() - START >= 3600.0
    assert clock.moves < 600


# -- dialects --------------------------------------------------------------------------------

ROWS: list[Json] = [{"id": str(n), "at": f"2026-01-0{n + 1}T00:00:00Z", "n": n} for n in range(5)]
WALKS: dict[str, tuple[Dialect, Callable[[HttpResponse], tuple[list[Json], str | None]], str]] = {
    "links": (LINKS, lambda answer: (answer.json(), answer.link()), "/rows?per_page=2"),
    "hubspot": (
        Cursors(cursor="after", items="results", next="paging.next.after", total="", ends="missing"),
        lambda answer: (answer.json()["results"], next_after(answer.json())),
        "/rows?limit=2",
    ),
    "google": (
        Cursors(cursor="pageToken", limit="pageSize", items="files", next="nextPageToken", total=""),
        lambda answer: (answer.json()["files"], token_of(answer.json())),
        "/rows?pageSize=2",
    ),
    "address": (
        Cursors(items="value", next="@odata.nextLink", as_address=True),
        lambda answer: (answer.json()["value"], answer.json()["@odata"]["nextLink"]),
        "/rows?limit=2",
    ),
}


def next_after(data: Json) -> str | None:
    """The next address of a service with ``paging.next.after``."""
    return f"/rows?limit=2&after={data['paging']['next']['after']}" if "paging" in data else None


def token_of(data: Json) -> str | None:
    """The next address of a service with ``nextPageToken``."""
    return f"/rows?pageSize=2&pageToken={data['nextPageToken']}" if data["nextPageToken"] else None


@pytest.mark.parametrize("name", WALKS)
def test_a_client_that_follows_a_dialect_gets_every_row_once(name: str) -> None:
    dialect, read, first = WALKS[name]
    service = ScriptedUpstream({"/rows": ROWS}, dialect=dialect)

    async def work(client: HttpClient) -> list[Json]:
        found: list[Json] = []
        address = first
        while address:
            rows, following = read(await client.request("GET", address))
            found, address = [*found, *rows], following or ""
        return found

    assert talk(service, work) == ROWS
    assert service.served.total() == service.requests.total() == 3


@pytest.mark.parametrize("total", ["total", ""])
def test_offsets_with_and_without_a_total(total: str) -> None:
    service = ScriptedUpstream({"/rows": ROWS}, dialect=Offsets(total=total))
    page = page_at(service, "/rows?offset=3&limit=3")
    assert page == {"items": ROWS[3:], **({"total": 5} if total else {})}


def test_numbered_pages_begin_where_the_service_counts_from() -> None:
    at_zero = ScriptedUpstream({"/rows": ROWS}, dialect=Pages(first=0))
    assert page_at(at_zero, "/rows?page=1&per_page=2")["items"] == ROWS[2:4]
    assert (
        page_at(ScriptedUpstream({"/rows": ROWS}, dialect=Pages()), "/rows?page=1&per_page=2")["items"]
        == ROWS[:2]
    )


def test_links_name_the_first_previous_next_and_last_page() -> None:
    service = ScriptedUpstream({"/rows": ROWS}, dialect=LINKS)

    async def work(client: HttpClient) -> list[str]:
        answers = [await client.request("GET", f"/rows?page={n}&per_page=2") for n in (1, 2, 3)]
        return [
            ",".join(rel for rel in ("first", "prev", "next", "last") if answer.link(rel))
            for answer in answers
        ]

    assert talk(service, work) == ["next,last", "first,prev,next,last", "first,prev"]


def test_a_total_may_be_a_header() -> None:
    service = ScriptedUpstream({"/rows": ROWS}, dialect=Pages(items="", total="X-Total-Count"))
    answer = talk(service, lambda client: client.request("GET", "/rows?per_page=2"))
    assert (answer.json(), answer.headers["x-total-count"]) == (ROWS[:2], "5")


@pytest.mark.parametrize("edges", [False, True])
def test_a_connection_is_found_by_its_name_in_the_query(edges: bool) -> None:
    service = ScriptedUpstream({"rows": ROWS, "others": []}, dialect=Relay(edges=edges))

    async def work(client: HttpClient) -> list[Json]:
        found: list[Json] = []
        after = None
        while True:
            variables = {"first": 2, "after": after}
            data = await GraphQL(client).query(
                "query($first: Int) { rows(first: $first) { nodes { id } } }", variables
            )
            part = RelayConnection.of(data, "rows") if not edges else None
            nodes = part.nodes if part else [edge["node"] for edge in data["rows"]["edges"]]
            found += nodes
            info = data["rows"]["pageInfo"]
            if not info["hasNextPage"]:
                return found
            after = info["endCursor"]

    assert talk(service, work) == ROWS
    assert list(service.served) == ["/graphql#rows", "/graphql#rows?after=at-2", "/graphql#rows?after=at-4"]


def test_a_search_by_post_pages_by_its_body() -> None:
    service = ScriptedUpstream({"/rows/search": ROWS}, dialect=Cursors(cursor="after"))

    async def work(client: HttpClient) -> Json:
        return (await client.request("POST", "/rows/search", json={"limit": 2, "after": "page-1"})).json()

    assert talk(service, work)["items"] == ROWS[2:4]


def test_rows_are_left_out_by_time_number_and_value() -> None:
    dialect = Cursors(since={"since": "at", "least": "n"}, equal={"id": "id"})
    service = ScriptedUpstream({"/rows": ROWS}, dialect=dialect)
    assert page_at(service, "/rows?since=2026-01-03T00:00:00Z")["items"] == ROWS[2:]
    assert page_at(service, "/rows?least=4")["items"] == ROWS[4:]
    assert page_at(service, "/rows?id=1")["items"] == ROWS[1:2]


def test_a_dialect_of_ones_own_has_the_same_faults() -> None:
    class Skips(Dialect):
        """``?skip=``, and whether there is more."""

        def place(self, request: Request, size: int) -> tuple[int, int]:
            return request.count("skip", 0), size

        def answer(self, request: Request, part: Part) -> Response:
            return Response({"results": list(part.rows), "more": part.next is not None})

    service = ScriptedUpstream({"/rows": ROWS}, dialect=Skips(), page_size=2)
    service.inject(Fault(FaultKind.EMPTY, "/rows", 1), Fault(FaultKind.DUPLICATE, "/rows", 2))
    assert page_at(service, "/rows?skip=2") == {"results": [], "more": True}
    assert page_at(service, "/rows?skip=4") == {"results": [ROWS[3], ROWS[4]], "more": False}


# -- the rest of a service ----------------------------------------------------------------------


def test_one_row_has_an_address_of_its_own() -> None:
    service = ScriptedUpstream(
        {"/rows": ROWS, "/repos/{}/issues": lambda request: [{"id": request.pieces[0]}]}
    )
    assert page_at(service, "/rows/3") == ROWS[3]
    assert page_at(service, "/repos/max/issues")["items"] == [{"id": "max"}]
    with pytest.raises(UpstreamMissing, match="no such row"):
        page_at(service, "/rows/9")


def test_routes_answer_with_data_or_by_a_function() -> None:
    async def double(request: Request) -> Response:
        return Response({"twice": 2 * request.data["n"]}, status=201)

    service = ScriptedUpstream({}, routes={"GET /me": {"id": "ada"}, "POST /double": double}, token="t")

    async def work(client: HttpClient) -> list[Json]:
        posted = await client.request("POST", "/double", json={"n": 4})
        return [await client.get("/me"), posted.status, posted.json()]

    assert talk(service, work, "t") == [{"id": "ada"}, 201, {"twice": 8}]
    with pytest.raises(BadCredentials):
        page_at(service, "/me")


@pytest.mark.parametrize("condition", ["etag", "last-modified"])
def test_an_unchanged_page_answers_304_until_a_row_changes(condition: str) -> None:
    service = ScriptedUpstream({"/rows": [dict(row) for row in ROWS]}, etags=True, modified="at")
    asked = {"etag": "if-none-match", "last-modified": "if-modified-since"}[condition]

    async def work(client: HttpClient) -> list[int]:
        first = await client.request("GET", "/rows")
        headers = {asked: first.headers[condition]}
        second = await client.request("GET", "/rows", headers=headers)
        service.listings["/rows"][0]["at"] = "2026-02-01T00:00:00Z"  # type: ignore[index]  # they are rows
        third = await client.request("GET", "/rows", headers=headers)
        return [first.status, second.status, third.status]

    assert talk(service, work) == [200, 304, 200]
    assert (service.served["/rows"], service.unchanged["/rows"]) == (2, 1)


def test_a_rate_limit_says_what_is_left_and_refuses_what_is_above_it() -> None:
    clock = FakeClock()
    service = ScriptedUpstream({"/rows": ROWS}, limit=RateLimit(2, per=60.0))

    async def main() -> list[Any]:
        async with service, HttpClient(service.url, credentials_for(service.url)) as client:
            seen: list[Any] = [
                (await client.request("GET", "/rows")).headers["x-ratelimit-remaining"] for _ in range(2)
            ]
            try:
                await client.get("/rows")
            except QuotaExceeded as error:
                seen.append(error.retry_after)
            await asyncio.sleep(60.0)
            return [*seen, (await client.get("/rows"))["total"]]

    assert clock.run(main()) == ["1", "0", 60.0, 5]


def test_retry_after_may_be_a_date_by_the_clock_that_the_date_header_shows() -> None:
    clock = FakeClock()
    service = upstream()
    date = formatdate(START + 90.0, usegmt=True)
    service.inject(Fault(FaultKind.RATE_LIMIT, "/things", 0, retry_after=date))

    async def main() -> float | None:
        async with service, HttpClient(service.url, credentials_for(service.url)) as client:
            with pytest.raises(QuotaExceeded) as caught:
                await client.get("/things")
            return caught.value.retry_after

    assert clock.run(main()) == pytest.approx(90.0, abs=1.0)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        (FaultKind.DROP, Offline),
        (FaultKind.ERROR, UpstreamBroken),
        (FaultKind.FORBIDDEN, PermissionDenied),
        (FaultKind.NOT_MODIFIED, UpstreamChanged),
    ],
)
def test_a_refusal_is_not_counted_as_served(kind: FaultKind, seen: type[Exception]) -> None:
    service = upstream()
    service.inject(Fault(kind, "/things", 1))
    with pytest.raises(seen):
        page_at(service)
    assert (service.requests.total(), service.served.total()) == (1, 0)


def test_rows_can_change_at_the_nth_request() -> None:
    service = upstream()
    service.at(2, lambda: service.listings.update({"/things": []}))
    assert talk(service, lambda client: client.get("/things"))["total"] == 5
    assert page_at(service, "/things")["total"] == 0


def test_a_runtime_of_a_connector_needs_neither_project_nor_file() -> None:
    async def main() -> tuple[Status, int]:
        async with (
            scripted.upstream() as service,
            runtime(scripted.connector, {"url": service.url, "totals": True}) as one,
        ):
            result = await (await one.sync()).completion()
            return result.status, await one.engine.query(scripted.Thing).count()

    assert FakeClock().run(main()) == (Status.COMPLETED, scripted.PAGES * scripted.SIZE)


# -- properties ---------------------------------------------------------------------------------

FOLLOWED: dict[str, tuple[Dialect, Callable[[Response], list[Json]], Callable[[Response], str | None]]] = {
    "cursors": (
        Cursors(),
        lambda answer: list(answer.data["items"]),
        lambda answer: answer.data["next"] and f"/rows?cursor={answer.data['next']}",
    ),
    "addresses": (
        Cursors(as_address=True),
        lambda answer: list(answer.data["items"]),
        lambda answer: answer.data["next"],
    ),
    "links": (
        LINKS,
        lambda answer: list(answer.data),
        lambda answer: next_link(answer.headers.get("link", "")),
    ),
}


def next_link(header: str) -> str | None:
    """The next address of a Link header."""
    return next((part[1 : part.index(">")] for part in header.split(", ") if 'rel="next"' in part), None)


@given(count=st.integers(0, 40), size=st.integers(1, 9), name=st.sampled_from(sorted(FOLLOWED)))
def test_pages_of_any_size_hold_every_row_once_in_order(count: int, size: int, name: str) -> None:
    dialect, rows_of, next_of = FOLLOWED[name]
    rows: list[Json] = [{"id": n} for n in range(count)]
    found, address, pages = list[Json](), "/rows", 0
    while address:
        request = Request("GET", address, {"host": "h"})
        answer = dialect.answer(request, cut(rows, *dialect.place(request, size)))
        found, address, pages = [*found, *rows_of(answer)], next_of(answer) or "", pages + 1
    assert found == rows
    assert pages == (-(-count // size) or 1)


# -- what a connector does beside its requests -------------------------------------------------------


def test_a_connection_to_a_host_that_is_not_declared_is_refused_and_remembered() -> None:
    watch = HostWatch()
    with watch.allowing(Hosts.of("https://api.example.com")):
        for address in (("127.0.0.1", 9), ("169.254.1.1", 80)):
            with socket.socket() as one, pytest.raises(PermissionError, match="does not declare"):
                one.connect(address)
        with pytest.raises(PermissionError):
            socket.getaddrinfo("evil.example.com", 443)
    assert list(watch.refused) == ["127.0.0.1:9", "169.254.1.1:80", "evil.example.com:443"]
    with socket.socket() as one, pytest.raises(OSError):
        one.connect(("127.0.0.1", 9))  # nothing is watched any more
    assert len(watch.refused) == 3


@pytest.mark.parametrize("write", [str, lambda text: base64.b64encode(text.encode()).decode(), quote])
def test_a_secret_is_found_in_every_encoding_but_not_in_the_file_for_secrets(
    tmp_path: Path, write: Callable[[str], str]
) -> None:
    secret = "s3cret/with+signs"
    (tmp_path / "credentials.json").write_text(secret)
    assert files_with([secret], tmp_path) == ([], 0)
    (tmp_path / "log").write_bytes(b"\x00\xff" + write(secret).encode() + b"\xfe")
    assert files_with([secret], tmp_path) == ([tmp_path / "log"], 1)
    with pytest.raises(ValueError, match="too short"):
        files_with(["abc"], tmp_path)


# -- the proxy ----------------------------------------------------------------------------------------


def through(
    service: ScriptedUpstream,
    work: Callable[[FaultyProxy, HttpClient], Awaitable[V]],
    token: str | None = None,
) -> V:
    """Call a function with a proxy of the service and a client of the proxy, on a fake clock."""

    async def main() -> V:
        async with service, FaultyProxy(service.url) as proxy:
            auth = BearerAuth(Secret(token)) if token else None
            async with HttpClient(proxy.url, credentials_for(proxy.url), auth=auth) as client:
                return await work(proxy, client)

    return FakeClock().run(main())


def test_a_proxy_changes_nothing_but_the_address_of_the_service() -> None:
    service = ScriptedUpstream({"/rows": ROWS}, dialect=Cursors(as_address=True), page_size=2)

    async def work(proxy: FaultyProxy, client: HttpClient) -> list[Json]:
        found: list[Json] = []
        address = "/rows"
        while address:
            page = await client.get(address)
            assert page["next"] is None or page["next"].startswith(proxy.url)
            found, address = [*found, *page["items"]], page["next"]
        with pytest.raises(UpstreamMissing):
            await client.get("/nothing")
        return found

    assert through(service, work) == ROWS


def test_each_request_fails_so_many_times_and_a_body_makes_it_another_one() -> None:
    service = ScriptedUpstream({"/rows": ROWS})

    async def work(proxy: FaultyProxy, client: HttpClient) -> list[int]:
        proxy.inject(ProxyFault(FaultKind.ERROR, times=2))
        seen = []
        for body in ({"limit": 1}, {"limit": 1}, {"limit": 2}, {"limit": 1}):
            try:
                seen.append(len((await client.request("POST", "/rows", json=body)).json()["items"]))
            except UpstreamBroken:
                seen.append(0)
        return seen

    assert through(service, work) == [0, 0, 0, 1]


def test_a_credential_that_expired_is_refused_until_there_is_another_one() -> None:
    service = upstream("a-long-token")

    async def work(proxy: FaultyProxy, client: HttpClient) -> None:
        proxy.at(2, lambda: proxy.expire(proxy.log[-1]))
        await client.get("/things")
        with pytest.raises(BadCredentials):
            await client.get("/things")
        renewed = (await client.request("POST", "/token")).json()["token"]  # whose path says what it is
        auth = BearerAuth(Secret(renewed))
        async with HttpClient(proxy.url, credentials_for(proxy.url), auth=auth) as other:
            assert (await other.get("/things"))["total"] == 5

    through(service, work, "a-long-token")


def test_a_service_behind_the_proxy_that_is_gone_is_a_bad_gateway() -> None:
    async def main() -> None:
        with pytest.raises(UpstreamBroken, match=r"502.*does not answer"):
            async with (
                FaultyProxy("http://127.0.0.1:9") as proxy,
                HttpClient(proxy.url, credentials_for(proxy.url)) as client,
            ):
                await client.get("/")

    FakeClock().run(main())
