"""The HTTP client: every answer of a service, or its absence, is data or one error."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import (
    Auth,
    BadCredentials,
    BearerAuth,
    BudgetHeaders,
    Credential,
    HttpClient,
    HttpRequest,
    HttpResponse,
    InvalidAnswers,
    Json,
    KeyAuth,
    Offline,
    Operation,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Secret,
    Transport,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
)
from max.errors import LONGEST_WAIT, MissingExtra
from max.testing import credentials_for
from max.upstream.http import ErrorReader, retry_after, service_time
from max.upstream.operations import Limits, OperationRunner
from max.upstream.redaction import Redactor
from tests.answering import Upstream, answer

V = TypeVar("V")
TOKEN = "tok-3141592653589793"  # not a secret of anybody's
AUTH = BearerAuth(Secret(TOKEN))


def talk(upstream: Upstream, work: Callable[[HttpClient], Awaitable[V]], *, timeout: float = 60.0) -> V:
    """Call a function with a client of an upstream."""

    async def main() -> V:
        async with (
            upstream.serving() as url,
            HttpClient(url, credentials_for(url), auth=AUTH, timeout=timeout, max_bytes=10_000) as client,
        ):
            return await work(client)

    return asyncio.run(main())


def get(*answers: bytes | None, path: str = "/thing", timeout: float = 60.0) -> Json:
    """The data that a client reads from an upstream's answers."""
    return talk(Upstream(*answers), lambda client: client.get(path), timeout=timeout)


def error_of(*answers: bytes | None, timeout: float = 60.0) -> UpstreamError:
    """The error that a client raises for an upstream's answers."""
    with pytest.raises(UpstreamError) as caught:
        get(*answers, timeout=timeout)
    return caught.value


# -- good answers ------------------------------------------------------------------------


def test_the_body_is_json_data() -> None:
    assert get(answer(200, '{"a": [1, "é"]}'.encode())) == {"a": [1, "é"]}


def test_a_compressed_body_is_decoded() -> None:
    assert get(answer(200, gzip.compress(b"[1]"), content_encoding="gzip")) == [1]


def test_an_answer_without_a_body_is_none() -> None:
    assert get(answer(204, b"")) is None


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_thousands_of_digits_costs_its_row_alone(sign: str) -> None:
    body = f'[{{"id": 1, "n": 7}}, {{"id": 2, "n": {sign}{"9" * 6_000}}}]'.encode()
    response = HttpResponse(HttpRequest("GET", "https://h/x"), 200, {}, body)
    assert response.json() == [{"id": 1, "n": 7}, {"id": 2, "n": float(f"{sign}inf")}]


def test_a_request_sends_json_with_the_token_and_the_parameters() -> None:
    upstream = Upstream(answer(201, b"[]"))
    talk(upstream, lambda c: c.request("POST", "/things?a=1", params={"b": "x y&z"}, json={"c": "é"}))
    (heard,) = upstream.heard
    assert heard.startswith("POST /things?a=1&b=x+y%26z HTTP/1.1")
    assert f"authorization: Bearer {TOKEN}\r\n" in heard
    assert heard.endswith('{"c":"\\u00e9"}')


def test_a_base_address_with_a_path_keeps_it() -> None:
    upstream = Upstream(answer(200))

    async def main() -> None:
        async with upstream.serving() as url, HttpClient(f"{url}/v2/", credentials_for(url)) as client:
            await client.get("/thing")

    asyncio.run(main())
    assert upstream.heard[0].startswith("GET /v2/thing ")


def test_connections_are_reused() -> None:
    async def ten(client: HttpClient) -> int:
        for _ in range(10):
            await client.get("/")
        return 10

    upstream = Upstream(answer(200))
    assert (talk(upstream, ten), upstream.connections) == (10, 1)


def test_connections_of_requests_at_one_time_are_reused() -> None:
    async def forty(client: HttpClient) -> None:
        for _ in range(5):
            await asyncio.gather(*(client.get(f"/{number}") for number in range(8)))

    upstream = Upstream(answer(200))
    talk(upstream, forty)
    assert (len(upstream.heard), upstream.connections) == (40, 8)


def test_no_more_connections_stay_open_than_are_kept_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("max.upstream.http.CONNECTIONS", 3)

    async def twice(client: HttpClient) -> None:
        for _ in range(2):
            await asyncio.gather(*(client.get(f"/{number}") for number in range(8)))

    upstream = Upstream(answer(200))
    talk(upstream, twice)
    assert upstream.connections == 8 + 5


def test_a_connection_that_was_not_used_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("max.upstream.http.KEPT", -1.0)  # every one has been unused for longer

    async def two(client: HttpClient) -> None:
        await client.get("/")
        await client.get("/")

    upstream = Upstream(answer(200))
    talk(upstream, two)
    assert upstream.connections == 2


def test_a_request_that_is_cancelled_takes_no_connection_from_others() -> None:
    upstream = Upstream(b"", answer(200))

    async def main(client: HttpClient) -> None:
        slow = asyncio.create_task(client.get("/slow"))
        while not upstream.heard:  # noqa: ASYNC110 - it is the request that is answered with nothing
            await asyncio.sleep(0)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await client.get("/") == {}

    talk(upstream, main)


def test_a_form_is_sent_with_the_headers_of_the_request() -> None:
    upstream = Upstream(answer(200))
    form, headers = {"a": "x y", "b": "é&"}, {"x-one": "1"}
    talk(upstream, lambda c: c.request("POST", "/token", form=form, headers=headers))
    (heard,) = upstream.heard
    assert "content-type: application/x-www-form-urlencoded\r\n" in heard.lower()
    assert "x-one: 1\r\n" in heard
    assert heard.endswith("\r\n\r\na=x+y&b=%C3%A9%26")


def test_a_head_request_has_no_body() -> None:
    upstream = Upstream(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-one: 1\r\n\r\n")
    response = talk(upstream, lambda client: client.request("HEAD", "/thing"))
    assert (response.headers["x-one"], response.json()) == ("1", None)


def test_not_modified_is_a_good_answer_to_a_condition() -> None:
    upstream = Upstream(b"HTTP/1.1 304 Same\r\netag: x\r\n\r\n")
    headers = {"if-none-match": "x"}
    assert talk(upstream, lambda c: c.request("GET", "/thing", headers=headers)).status == 304
    with pytest.raises(UpstreamChanged, match="304"):
        talk(upstream, lambda client: client.get("/thing"))


# -- headers, whatever their case ----------------------------------------------------------------


def test_a_condition_counts_whatever_the_case_of_its_name() -> None:
    upstream = Upstream(b"HTTP/1.1 304 Same\r\nETag: x\r\n\r\n")
    response = talk(upstream, lambda c: c.request("GET", "/thing", headers={"If-None-Match": "x"}))
    assert (response.status, response.headers["ETag"], response.headers.get("etag")) == (304, "x", "x")
    assert "ETAG" in response.headers


def test_a_header_replaces_the_clients_own_whatever_its_case() -> None:
    upstream = Upstream(answer(200))
    headers = {"Accept": "text/csv", "AUTHORIZATION": "Basic mine"}
    talk(upstream, lambda c: c.request("GET", "/", headers=headers))
    lines = [line.lower() for line in upstream.heard[0].split("\r\n")]
    assert [line for line in lines if line.startswith(("accept:", "authorization:"))] == [
        "accept: text/csv",
        f"authorization: bearer {TOKEN}",
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-One": "1", "x-one": "2"},
        {"x-one": "a\r\nx-two: hidden"},
        {"x-one": "hidden\n"},
        {"x-one": "hidd\u00e9n"},
        {"x one": "hidden"},
        {"": "hidden"},
    ],
)
def test_a_header_that_cannot_be_sent_is_a_mistake_and_its_value_is_not_shown(
    headers: dict[str, str],
) -> None:
    upstream = Upstream(answer(200))
    with pytest.raises(ValueError, match="header") as caught:
        talk(upstream, lambda c: c.request("GET", "/", headers=headers))
    assert "hidd" not in str(caught.value)
    assert upstream.heard == []


def test_a_cookie_of_the_service_is_not_kept() -> None:
    upstream = Upstream(answer(200, set_cookie="session=abcdef; Path=/; Domain=127.0.0.1"))

    async def twice(client: HttpClient) -> None:
        for _ in range(2):
            await client.get("/")

    talk(upstream, twice)
    assert [one for one in upstream.heard if "cookie" in one.lower()] == []


# -- paths and their pieces ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "path"),
    [
        ("7", "/repos/7/x"),
        (7, "/repos/7/x"),
        ("a/b", "/repos/a%2Fb/x"),
        ("../../admin/delete?all=1#", "/repos/..%2F..%2Fadmin%2Fdelete%3Fall%3D1%23/x"),
        ("%2e%2e", "/repos/%252e%252e/x"),
        ("{}\r\n", "/repos/%7B%7D%0D%0A/x"),
        ("ü ", "/repos/%C3%BC%20/x"),
    ],
)
def test_a_piece_of_a_path_stays_within_its_segment(id: str | int, path: str) -> None:
    upstream = Upstream(answer(200))
    talk(upstream, lambda client: client.get("/repos/{}/x", id, params={"a": "1"}))
    assert upstream.heard[0].startswith(f"GET {path}?a=1 HTTP/1.1\r\n")


def test_pieces_fill_a_query_and_an_absolute_address_as_well() -> None:
    upstream = Upstream(answer(200))
    talk(upstream, lambda c: c.get("/x?a={}&b={}", "1&c=2", "#"))
    talk(upstream, lambda c: c.get(f"{upstream.url}/y/{{}}", "../z"))
    assert [one.split(" ")[1] for one in upstream.heard] == ["/x?a=1%26c%3D2&b=%23", "/y/..%2Fz"]


@pytest.mark.parametrize("id", [".", "..", "", "x" * 60_001, "\ud800"])
def test_a_piece_that_is_no_name_is_refused_before_anything_is_sent(id: str) -> None:
    upstream = Upstream(answer(200))
    with pytest.raises(PermissionDenied, match="an address that cannot be used") as caught:
        talk(upstream, lambda client: client.get("/repos/{}/x", id))
    assert len(str(caught.value)) < 200
    assert upstream.heard == []


@pytest.mark.parametrize("pieces", [(), ("a", "b"), (None,), (True,), ({"a": "1"},)])
def test_missing_and_wrong_pieces_are_mistakes(pieces: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"the path '/repos/\{\}/x'"):
        talk(Upstream(answer(200)), lambda client: client.get("/repos/{}/x", *pieces))


@pytest.mark.parametrize(
    "path",
    [
        "/repos/../../admin",
        "/repos/../../admin/delete?all=1#/x",
        "/repos/%2e%2E/x",
        "/repos/.%2e",
        "/repos/./x",
        "/repos/a#b",
        "/repos/a?b=1#c",
        "/repos//x",
        "//evil.example/x",
        "/repos/..\\x",
        "/repos/a\r\nb",
        "/repos/a\tb",
    ],
)
def test_a_path_that_leads_elsewhere_than_it_seems_is_refused(path: str) -> None:
    upstream = Upstream(answer(200))
    with pytest.raises(PermissionDenied, match="its path contains"):
        talk(upstream, lambda client: client.get(path))
    with pytest.raises(PermissionDenied, match=r"its path contains|undeclared|cannot be used"):
        talk(upstream, lambda client: client.get(f"{upstream.url}/x/../y"))
    assert upstream.heard == []


# -- statuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        (400, UpstreamChanged),
        (401, BadCredentials),
        (403, PermissionDenied),
        (404, UpstreamMissing),
        (405, UpstreamChanged),
        (408, QuotaExceeded),
        (410, UpstreamMissing),
        (422, UpstreamChanged),
        (429, QuotaExceeded),
        (500, UpstreamBroken),
        (503, UpstreamBroken),
        (599, UpstreamBroken),
    ],
)
def test_each_bad_status_is_one_error_with_a_hint(status: int, meant: type[UpstreamError]) -> None:
    error = error_of(answer(status))
    assert type(error) is meant
    assert error.hint
    assert error.data["status"] == status
    assert error.message.startswith("GET /thing: ")


@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_the_service_asks_for_is_in_the_error(status: int) -> None:
    assert error_of(answer(status, retry_after="17")).retry_after == 17.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "no such plan"}', ": no such plan"),
        (b'{"error": {"message": "no\\n such  plan"}}', ": no such plan"),
        (b'{"message": "no such plan"}', ": no such plan"),
        (b"<html>no</html>", ""),
        (b'{"error": 7}', ""),
    ],
)
def test_the_services_own_message_is_repeated(body: bytes, words: str) -> None:
    assert error_of(answer(422, body)).message == f"GET /thing: the request was refused (422){words}"


# -- what an answer means ---------------------------------------------------------------------


def meant(*answers: bytes, read_error: ErrorReader) -> tuple[Json, UpstreamError | None]:
    """The data or the error of answers, with a reader of errors."""

    async def main() -> tuple[Json, UpstreamError | None]:
        async with (
            Upstream(*answers).serving() as url,
            HttpClient(url, credentials_for(url), auth=AUTH, read_error=read_error) as client,
        ):
            try:
                return await client.get("/thing"), None
            except UpstreamError as error:
                return None, error

    return asyncio.run(main())


def says(response: HttpResponse) -> UpstreamError | None:
    """Reads errors that a service puts into the body, whatever the status."""
    words = response.json().get("wrong")
    kinds = {"slow": QuotaExceeded, "gone": UpstreamMissing}
    return kinds[words](f"{words}: {TOKEN}") if words in kinds else None


@pytest.mark.parametrize("status", [200, 400, 500])
def test_read_error_decides_whatever_the_status(status: int) -> None:
    _, error = meant(answer(status, b'{"wrong": "slow"}', retry_after="3"), read_error=says)
    assert type(error) is QuotaExceeded
    assert (error.retry_after, error.data["status"], error.message) == (3.0, status, "slow: ***")


def test_without_an_error_in_the_body_the_status_decides() -> None:
    assert meant(answer(200, b"{}"), read_error=says) == ({}, None)
    assert type(meant(answer(404, b"{}"), read_error=says)[1]) is UpstreamMissing


def test_the_wait_of_read_error_is_not_replaced_by_that_of_the_headers() -> None:
    error = QuotaExceeded("slower", retry_after=0.3)
    meant(answer(429, retry_after="200"), read_error=lambda response: error)
    assert error.retry_after == 0.3


def test_a_request_may_have_a_read_error_of_its_own() -> None:
    def gone(response: HttpResponse) -> UpstreamError:
        return UpstreamMissing(f"{response.request}: gone")

    with pytest.raises(UpstreamMissing, match=r"^GET /x a thing: gone$"):
        talk(Upstream(answer(200)), lambda c: c.request("GET", "/x?y=1", read_error=gone, label="a thing"))


# -- budgets ------------------------------------------------------------------------------------

POINTS = BudgetHeaders("x-left", "x-reset", cost="x-cost", unit=0.001)
numbers = st.floats().map(str) | st.text(max_size=5) | st.integers(-10, 10**13).map(str)


@given(st.dictionaries(st.sampled_from(["x-left", "x-reset", "x-cost"]), numbers))
def test_no_header_makes_an_endless_or_a_negative_wait(headers: dict[str, str]) -> None:
    budget = POINTS(headers)
    assert budget is None or 0 <= budget.wait(1e9) < float("inf")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"x-left": "0", "x-reset": "1000007000"}, 7.0),
        ({"x-left": "1", "x-reset": "1000007000"}, 0.0),
        ({"x-left": "9", "x-reset": "1000007000", "x-cost": "10"}, 7.0),
        ({"x-left": "0", "x-reset": "999999000", "x-cost": "0"}, 0.0),
        ({"x-left": "0", "x-reset": "9999999999999999"}, 0.0),
    ],
)
def test_a_used_up_budget_makes_calls_wait_until_its_reset(headers: dict[str, str], wait: float) -> None:
    budget = POINTS(headers)
    assert budget is not None
    assert budget.wait(1e6) == wait


def test_a_reset_may_be_relative_to_now() -> None:
    budget = BudgetHeaders("left", "window", unit=0.001, relative=True)({"left": "0", "window": "10000"})
    assert budget is not None
    assert budget.wait(1e9) == 10.0


def test_times_are_read_by_the_services_own_clock() -> None:
    assert service_time({"date": "Thu, 01 Jan 1970 00:01:00 GMT"}) == 60.0
    assert abs(service_time({"date": "nonsense"}) - time.time()) < 60


@pytest.mark.parametrize(("asked", "left", "waits"), [("5", "0", 7.0), ("9", "0", 9.0), ("5", "3", 5.0)])
def test_a_refusal_waits_for_the_later_of_retry_after_and_the_budgets(
    asked: str, left: str, waits: float
) -> None:
    date = "Thu, 01 Jan 1970 00:00:01 GMT"
    refused = answer(429, date=date, retry_after=asked, x_left=left, x_reset="8000")

    async def main() -> None:
        async with (
            Upstream(refused).serving() as url,
            HttpClient(url, credentials_for(url), budgets=[POINTS]) as client,
        ):
            await client.get("/")

    with pytest.raises(QuotaExceeded) as caught:
        asyncio.run(main())
    assert caught.value.retry_after == waits


# -- the next page ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "following"),
    [
        ('<https://h/x?page=2>; rel="next", <https://h/x?page=9>; rel="last"', "https://h/x?page=2"),
        (
            '<https://h/x?page=1>; rel="prev first", </x?page=3>;title="a, b; c";rel=next',
            "https://h/x?page=3",
        ),
        ('<?a=1,2;b=3>; rel="last NEXT"; type="x"', "https://h/x?a=1,2;b=3"),
        ('<https://h/x>; title="rel=next"', None),
        ('<https://h/x>; rel="nextish"', None),
        ("", None),
        ("nonsense; rel=next", None),
    ],
)
def test_the_link_to_the_next_page_is_found(header: str, following: str | None) -> None:
    response = HttpResponse(HttpRequest("GET", "https://h/x"), 200, {"link": header}, b"")
    assert response.link() == following


@given(st.text('<>;,="rel next', max_size=60))
def test_no_link_header_raises_an_error(header: str) -> None:
    response = HttpResponse(HttpRequest("GET", "https://h/x"), 200, {"link": header}, b"")
    assert response.link() is None or "next" in header


# -- Retry-After -----------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_retry_after_may_be_a_date_or_seconds(seconds: int, moment: datetime) -> None:
    now = moment.replace(microsecond=0, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert retry_after(date, now.timestamp()) == retry_after(str(seconds), 0.0) == seconds


@given(st.text() | st.floats().map(str))
def test_no_text_makes_an_endless_or_a_negative_wait(text: str) -> None:
    wait = retry_after(text, 1e9)
    assert wait is None or 0 < wait <= LONGEST_WAIT


NO_WAITS = [
    "",
    "soon",
    "nan",
    "0",
    "-5",
    "-inf",
    "0.001",
    "Wed, 21 Oct 2015 07:28:00 GMT",
    ",,,",
    "GMT",
    "1_0",
    "٥",
]
FAR_WAITS = ["1e15", "99999999999", "inf", "1" * 5_000, "Fri, 31 Dec 9999 23:59:59 -1200"]


@pytest.mark.parametrize("text", [*NO_WAITS, "Fri, 31 Dec 99999 23:59:59 GMT", "Fri, 31 Dec 9999 -2400"])
def test_zero_a_negative_number_a_past_date_and_nonsense_are_no_wait(text: str) -> None:
    assert retry_after(text, 2e9) is None


@pytest.mark.parametrize("text", FAR_WAITS)
def test_a_wait_is_31_days_at_most(text: str) -> None:
    assert retry_after(text, 2e9) == LONGEST_WAIT


def test_of_several_retry_after_headers_the_longest_wait_counts() -> None:
    near, far = (format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True) for at in (2e9 + 60, 2e9 + 90))
    texts = ("5, 120", "120, soon", f"{near}, {far}", f"5, {near}", f"{near}, 7")
    assert [retry_after(text, 2e9) for text in texts] == [120.0, 120.0, 90.0, 60.0, 60.0]


# -- bodies that cannot be used ----------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        answer(200, b"<html>maintenance</html>"),
        answer(200, b'{"a": '),
        answer(200, b"\xff\xfe"),
        answer(200, b"[" * 9_000),
        answer(200, b"not gzip", content_encoding="gzip"),
        b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"a":...',
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{...",
    ],
)
def test_an_invalid_or_incomplete_body_is_a_broken_service(said: bytes) -> None:
    error = error_of(said)
    assert type(error) is UpstreamBroken
    assert error.retryable


def test_a_body_that_is_too_long_is_not_read_to_the_end() -> None:
    assert "longer than 10,000 bytes" in error_of(answer(200, b"1" * 10_001)).message
    assert (
        "longer than" in error_of(answer(200, gzip.compress(b"1" * 10**6), content_encoding="gzip")).message
    )


def test_a_body_that_is_too_long_is_not_asked_for_again() -> None:
    async def ask(client: HttpClient, path: str) -> Json:
        return await client.get(path)

    upstream = Upstream(answer(200, b"1" * 10_001))
    operation = Operation("t:thing:get", ask, retry=Retry(attempts=9, base=0.0))
    with pytest.raises(UpstreamChanged, match="longer than") as caught:
        talk(upstream, lambda client: OperationRunner(Limits()).run(operation, client, "/"))
    assert not caught.value.retryable
    assert len(upstream.heard) == 1


def test_a_body_that_is_announced_as_too_long_is_not_read_at_all() -> None:
    announced = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"  # and then nothing comes
    assert "longer than 10,000 bytes" in error_of(announced).message


def packed(encoding: str, data: bytes) -> bytes:
    """Data in one of the encodings that services use."""
    if encoding == "gzip":
        return gzip.compress(data)
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return zlib.compress(data) if encoding == "deflate" else bare.compress(data) + bare.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare"])
def test_a_compressed_bomb_is_cut_while_it_is_unpacked(encoding: str) -> None:
    bomb = answer(
        200, packed(encoding, bytes(50 * 2**20)), content_encoding=encoding.replace("bare", "deflate")
    )
    tracemalloc.start()
    try:
        error = error_of(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert type(error) is UpstreamChanged
    assert "longer than 10,000 bytes" in error.message


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare"])
def test_every_way_to_pack_a_body_is_read_also_in_small_parts(encoding: str) -> None:
    data = json.dumps([*range(2000)]).encode()[:9_000] + b"0]"
    body = packed(encoding, data)
    parts = b"".join(b"%x\r\n%s\r\n" % (1, body[n : n + 1]) for n in range(len(body)))
    name = encoding.replace("bare", "deflate").encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: %s\r\ntransfer-encoding: chunked\r\n\r\n" % name
    assert get(head + parts + b"0\r\n\r\n") == json.loads(data)


def test_a_body_packed_in_several_members_is_read_to_its_end() -> None:
    assert get(answer(200, gzip.compress(b"[1,") + gzip.compress(b"2]"), content_encoding="gzip")) == [1, 2]


@pytest.mark.parametrize("cut", [1, 9])
def test_a_packed_body_that_ends_too_early_is_damaged(cut: int) -> None:
    error = error_of(answer(200, gzip.compress(b"[1, 2, 3]")[:-cut], content_encoding="gzip"))
    assert type(error) is UpstreamBroken
    assert "incomplete or damaged" in error.message


# -- heads that cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 abc OK\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n",
        b"HTTP/1.1 200 OK\r\nx-a: b\0c\r\n",
        b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 200_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 50_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n",
    ],
)
def test_an_answer_that_is_not_http_is_a_broken_service_and_not_no_answer(head: bytes) -> None:
    error = error_of(head + b"\r\n{}...")
    assert type(error) is UpstreamBroken
    assert error.message.startswith("GET /thing: the answer is not valid HTTP (")
    assert len(error.message) < 300


@pytest.mark.parametrize(
    "line",
    [
        b"x-a: a\r\n  folded",
        b"x-a: caf\xe9 \xe4\xb8\xad",
        b"content-type: application/json; charset=\xff nonsense",
        b"content-encoding: identity",
        b"date: Wed, 99 Foo 99999 99:99:99 GMT",
        b"link: <http://[>; rel=prev",
    ],
)
def test_an_odd_header_does_not_spoil_a_good_answer(line: bytes) -> None:
    assert get(b"HTTP/1.1 200 OK\r\n" + line + b"\r\ncontent-length: 3\r\n\r\n[1]") == [1]


def test_a_next_page_at_an_invalid_address_is_an_error_and_not_the_end_of_the_listing() -> None:
    response = HttpResponse(HttpRequest("GET", "https://h/x"), 200, {"Link": "<http://[>; rel=next"}, b"")
    with pytest.raises(UpstreamChanged, match="'next' cannot be used"):
        response.link()


# -- no answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [None, b""])
def test_a_service_that_sends_nothing_is_offline(said: bytes | None) -> None:
    error = error_of(said, timeout=0.05)
    assert type(error) is Offline
    assert "no answer from 127.0.0.1" in error.message


def test_a_service_that_does_not_listen_is_offline() -> None:
    async def main() -> None:
        async with Upstream(None).serving() as url:
            pass
        async with HttpClient(url, credentials_for(url)) as client:
            await client.get("/")

    with pytest.raises(Offline, match="no answer from"):
        asyncio.run(main())


class Slow(Upstream):
    """Announces a long body and sends it slowly."""

    async def say(self, writer: asyncio.StreamWriter, said: bytes) -> None:
        """Send a head, then spaces for ever."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.002)  # under every time-out between two pieces


def test_a_slow_answer_is_ended_by_the_deadline_of_the_operation() -> None:
    async def ask(client: HttpClient, path: str) -> Json:
        return await client.get(path)

    slow = Operation("t:thing:get", ask, deadline=0.05, retry=Retry(attempts=1))
    with pytest.raises(Offline, match=r"within 0\.05 s"):
        talk(Slow(b""), lambda client: OperationRunner(Limits()).run(slow, client, "/"))


def test_a_call_outside_of_the_chain_is_ended_by_the_deadline_too() -> None:
    async def ask(client: HttpClient, path: str) -> Json:
        return await client.get(path)

    slow = Operation("t:thing:get", ask, deadline=0.05)
    with pytest.raises(Offline, match=r"within 0\.05 s"):
        talk(Slow(b""), lambda client: slow(client, "/"))


def test_a_request_outside_of_any_operation_has_a_deadline_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("max.upstream.http.DEADLINE", 0.05)
    with pytest.raises(Offline, match=r"GET /: no complete answer within 0\.05 s"):
        talk(Slow(b""), lambda client: client.get("/"))


# -- secrets -------------------------------------------------------------------------------------


def test_no_message_repeats_the_token_though_the_service_does() -> None:
    error = error_of(answer(401, f'{{"error": "bad token {TOKEN}"}}'.encode()))
    assert "bad token ***" in error.message
    assert TOKEN not in f"{error} {error!r} {error.describe()} {error.render()}"


def test_no_message_contains_a_query() -> None:
    with pytest.raises(UpstreamMissing) as caught:
        get(answer(404), path="/thing?key=hidden")
    assert "hidden" not in str(caught.value)


def test_no_message_repeats_a_known_secret() -> None:
    async def main() -> str:
        async with Upstream(answer(400, b'{"error": "client-secret-1 is wrong"}')).serving() as url:
            credentials = credentials_for(url, other="client-secret-1")
            await credentials.get(Credential("other"))
            async with HttpClient(url, credentials) as client:
                with pytest.raises(UpstreamChanged) as caught:
                    await client.get("/")
        return caught.value.message

    assert asyncio.run(main()) == "GET /: the request was refused (400): *** is wrong"


@settings(deadline=None, max_examples=60)
@given(
    secrets=st.sets(st.text("abc", min_size=10, max_size=40).map("secret-".__add__), min_size=1, max_size=3),
    left=st.integers(10, 40),
)
def test_p41_no_message_contains_a_secret_or_its_beginning(secrets: set[str], left: int) -> None:
    redactor = Redactor()
    for secret in secrets:
        redactor.learn(secret)
    for secret in secrets:
        assert redactor.message(f"{secret} {secret[:left]}") == "*** ***"
    assert redactor.message("a secret-a") == "a secret-a"


def test_a_token_that_the_message_cuts_off_is_removed() -> None:
    error = error_of(answer(422, f'{{"error": "{"x" * 185} {TOKEN}"}}'.encode()))
    assert error.message.endswith("x ***")


def test_the_client_and_its_requests_show_no_header() -> None:
    request = HttpRequest("GET", "http://h/x?key=hidden", {"authorization": TOKEN})
    shown = (
        f"{HttpClient('http://h', credentials_for('http://h'), auth=AUTH)!r} {request!r} {request} {AUTH!r}"
    )
    assert TOKEN not in shown
    assert "hidden" not in shown


@pytest.mark.parametrize("kind", [BearerAuth, KeyAuth])
@pytest.mark.parametrize("token", ["", "two words", "line\nend", "ünicode"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(
    kind: type[BearerAuth | KeyAuth], token: str
) -> None:
    with pytest.raises(BadCredentials) as caught:
        kind(Secret(token))
    assert not token or token not in str(caught.value)


# -- credentials -----------------------------------------------------------------------------------


def headers_of(auth: Auth, times: int = 1) -> list[str]:
    """The requests that a service gets, with their credential."""

    async def main() -> list[str]:
        upstream = Upstream(answer(302, location="/on"), answer(200))
        async with upstream.serving() as url, HttpClient(url, credentials_for(url), auth=auth) as client:
            for _ in range(times):
                await client.get("/")
        return upstream.heard

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("auth", "line"),
    [
        (BearerAuth(Secret("abc")), "authorization: Bearer abc\r\n"),
        (KeyAuth(Secret("lin_api_x")), "authorization: lin_api_x\r\n"),
        (KeyAuth(Secret("abc"), "X-Api-Key"), "x-api-key: abc\r\n"),
    ],
)
def test_a_credential_is_in_its_header_in_every_request(auth: Auth, line: str) -> None:
    first, redirected = headers_of(auth)
    assert line in first
    assert line in redirected


class Counting(Auth):
    """A new credential for every request."""

    number = 0

    async def headers(self) -> dict[str, str]:
        """The next credential; after the third there is none."""
        self.number += 1
        if self.number > 3:
            raise BadCredentials("there are no more")
        return {"Authorization": f"Bearer number-{self.number}"}


def test_auth_is_called_before_every_request() -> None:
    heard = headers_of(Counting(), 2)
    assert [line for one in heard for line in one.split("\r\n") if "Bearer" in line] == [
        f"authorization: Bearer number-{n}" for n in (1, 2, 3)
    ]


def test_without_a_credential_no_request_is_sent() -> None:
    with pytest.raises(BadCredentials, match="no more"):
        headers_of(Counting(), 3)


# -- where requests go ---------------------------------------------------------------------------


def test_a_redirect_within_the_origin_is_followed() -> None:
    moved = answer(302, location="/elsewhere?page=2")
    upstream = Upstream(moved, answer(200, b"[7]"))
    assert talk(upstream, lambda client: client.get("/thing")) == [7]
    assert upstream.heard[1].startswith("GET /elsewhere?page=2 ")


@pytest.mark.parametrize("elsewhere", ["http://localhost:1/", "https://127.0.0.1/", "//evil.example/x"])
def test_a_redirect_to_an_undeclared_host_is_not_followed(elsewhere: str) -> None:
    error = error_of(answer(302, location=elsewhere))
    assert type(error) is PermissionDenied
    assert str(error.data["host"]) in elsewhere


@pytest.mark.parametrize("elsewhere", ["ftp://127.0.0.1/", "http://[", "mailto:a@b", "http://u:p@127.0.0.1/"])
def test_a_redirect_to_an_invalid_address_is_not_followed(elsewhere: str) -> None:
    error = error_of(answer(302, location=elsewhere))
    assert type(error) is PermissionDenied
    assert "cannot be used" in error.message


def test_another_declared_host_gets_no_credential() -> None:
    async def main() -> tuple[Json, list[str]]:
        files, home = Upstream(answer(200, b"[3]")), Upstream(b"")
        async with files.serving() as there, home.serving() as here:
            home.answers = [answer(307, location=f"{there}/file")]
            async with HttpClient(here, credentials_for(here, there), auth=AUTH) as client:
                return await client.get("/thing"), files.heard

    data, (heard,) = asyncio.run(main())
    assert data == [3]
    assert heard.startswith("GET /file ")
    assert TOKEN not in heard


def test_a_redirect_from_plain_http_to_https_verifies_the_certificate() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parents[1] / "self_signed.pem")

    async def main() -> Json:
        home, other = Upstream(b""), Upstream(answer(200, b"[3]"))
        server = await asyncio.start_server(other.converse, "127.0.0.1", 0, ssl=context)
        there = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, home.serving() as here:
            home.answers = [answer(302, location=f"{there}/x")]
            async with HttpClient(here, credentials_for(here, there), auth=AUTH) as client:
                return await client.get("/thing")

    with pytest.raises(Offline, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(main())


def test_a_get_with_a_body_is_not_redirected() -> None:
    upstream = Upstream(answer(307, location="/elsewhere"), answer(200))
    with pytest.raises(UpstreamChanged, match="307"):
        talk(upstream, lambda client: client.request("GET", "/thing", json={"a": 1}))


def test_a_redirect_loop_ends() -> None:
    upstream = Upstream(answer(302, location="/thing"))
    with pytest.raises(UpstreamChanged, match=r"it redirects on and on.*\(302\)"):
        talk(upstream, lambda client: client.get("/thing"))
    assert len(upstream.heard) == 6


def test_a_post_is_never_redirected() -> None:
    upstream = Upstream(answer(307, location="/elsewhere"), answer(200))
    with pytest.raises(UpstreamChanged, match="307"):
        talk(upstream, lambda client: client.request("POST", "/thing", json={}))
    assert len(upstream.heard) == 1


def test_the_address_of_a_next_page_is_used_when_it_has_the_same_origin() -> None:
    upstream = Upstream(answer(200, b"[2]"))
    assert talk(upstream, lambda client: client.get(f"{upstream.url}/x?p=2")) == [2]
    assert upstream.heard[0].startswith("GET /x?p=2 ")


def test_the_address_of_a_next_page_may_have_an_empty_segment_and_a_fragment() -> None:
    upstream = Upstream(answer(200, b"[2]"))
    assert talk(upstream, lambda client: client.get(f"{upstream.url}/v1//x?p=2#top")) == [2]
    assert upstream.heard[0].startswith("GET /v1//x?p=2 ")


def test_the_address_of_an_undeclared_host_is_refused_before_anything_is_sent() -> None:
    upstream = Upstream(answer(200))
    with pytest.raises(PermissionDenied, match=r"evil\.example"):
        talk(upstream, lambda client: client.get("https://evil.example/x"))
    assert upstream.heard == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://h",
        "http://",
        "http://h:0",
        "http://h:x",
        "http://h?a=1",
        "http://u:pass@h",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidAnswers, match="base_url") as caught:
        HttpClient(url, credentials_for())
    assert "pass" not in str(caught.value)


# -- transports and lifecycle ----------------------------------------------------------------------


class Echo(Transport):
    """Answers with the request that it got."""

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """The request's method and address."""
        return HttpResponse(request, 200, {}, f'["{request.method}", "{request.url}"]'.encode())


def test_another_transport_replaces_the_network() -> None:
    client = HttpClient("https://h", credentials_for("https://h"), transport=Echo())
    assert asyncio.run(client.get("x", params={"a": "1"})) == ["GET", "https://h/x?a=1"]


def test_a_client_may_be_stopped_twice_and_started_again() -> None:
    async def main() -> list[Json]:
        async with Upstream(answer(200, b"[1]")).serving() as url:
            client = HttpClient(url, credentials_for(url))
            for _ in range(2):
                await client.start()
                await client.start()
                first = await client.get("/")
                await client.stop()
                await client.stop()
            return [first]

    assert asyncio.run(main()) == [[1]]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtra) as caught:
        asyncio.run(HttpClient("http://h", credentials_for("http://h")).get("/"))
    assert caught.value.hint.rstrip("'").endswith("[http]")


def test_the_first_request_imports_the_library_in_a_thread_so_that_the_loop_stays_free() -> None:
    code = """
import asyncio, sys, threading, max.upstream.http, max.testing
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "httpx2":
            threads.append(threading.current_thread())
threads = []
sys.meta_path.insert(0, Watch())
client = max.upstream.http.HttpClient("http://localhost:1", max.testing.credentials_for("http://localhost:1"))
async def main():
    await asyncio.gather(client.get("/"), client.get("/"), return_exceptions=True)
    await client.stop()
asyncio.run(main())
sys.exit(len(threads) != 1 or threads[0] is threading.main_thread())
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_importing_and_starting_a_client_does_not_import_the_library() -> None:
    code = """
import asyncio, sys, max.upstream.http, max.testing
client = max.upstream.http.HttpClient("http://h", max.testing.credentials_for("http://h"))
asyncio.run(client.start())
sys.exit("httpx2" in sys.modules)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
