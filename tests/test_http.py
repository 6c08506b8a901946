"""The HTTP client: every answer of a service, and every lack of one, has its meaning."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max import (
    BadCredentials,
    HttpClient,
    HttpRequest,
    HttpResponse,
    InvalidAnswers,
    Json,
    Offline,
    PermissionDenied,
    QuotaExceeded,
    Transport,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
)
from max.errors import MissingExtra
from max.http import retry_after

V = TypeVar("V")
TOKEN = "tok-3141592653589793"  # not a secret of anybody's


def answer(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Upstream:
    """A service on a real socket that answers with given bytes, one after the other, and remembers.

    None closes the connection without a word, an empty answer says nothing for ever.
    """

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.heard: list[str] = []
        self.url = ""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it is closed; what was given last is said again."""
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = [
                    line[16:] for line in head.lower().split("\r\n") if line.startswith("content-length: ")
                ]
                body = await reader.readexactly(int(length[0])) if length else b""
                self.heard.append(head + body.decode())
                said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if said is None:
                    break
                writer.write(said)
                if said.endswith(b"..."):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen on a free port; gives the address."""
        server = await asyncio.start_server(self.converse, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self.url
        finally:
            server.close()
            await server.wait_closed()


def talk(upstream: Upstream, work: Callable[[HttpClient], Awaitable[V]], *, timeout: float = 5.0) -> V:
    """Do something with a client of an upstream."""

    async def main() -> V:
        async with (
            upstream.serving() as url,
            HttpClient(url, token=TOKEN, timeout=timeout, largest=10_000) as client,
        ):
            return await work(client)

    return asyncio.run(main())


def get(*answers: bytes | None, path: str = "/thing", timeout: float = 5.0) -> Json:
    """What a client makes of an upstream's answers."""
    return talk(Upstream(*answers), lambda client: client.get(path), timeout=timeout)


def error_of(*answers: bytes | None, timeout: float = 5.0) -> UpstreamError:
    """The error that a client makes of an upstream's answers."""
    with pytest.raises(UpstreamError) as caught:
        get(*answers, timeout=timeout)
    return caught.value


# -- good answers ------------------------------------------------------------------------


def test_the_body_is_given_as_json_data() -> None:
    assert get(answer(200, '{"a": [1, "é"]}'.encode())) == {"a": [1, "é"]}


def test_a_compressed_body_is_decoded() -> None:
    assert get(answer(200, gzip.compress(b"[1]"), content_encoding="gzip")) == [1]


def test_an_answer_without_a_body_is_none() -> None:
    assert get(answer(204, b"")) is None


def test_what_is_sent_is_json_with_the_token_and_the_parameters() -> None:
    upstream = Upstream(answer(201, b"[]"))
    talk(upstream, lambda c: c.request("POST", "/things?a=1", params={"b": "x y&z"}, json={"c": "é"}))
    (heard,) = upstream.heard
    assert heard.startswith("POST /things?a=1&b=x+y%26z HTTP/1.1")
    assert f"authorization: Bearer {TOKEN}\r\n" in heard
    assert heard.endswith('{"c":"\\u00e9"}')


def test_a_base_address_with_a_path_keeps_it() -> None:
    upstream = Upstream(answer(200))

    async def main() -> None:
        async with upstream.serving() as url, HttpClient(f"{url}/v2/") as client:
            await client.get("/thing")

    asyncio.run(main())
    assert upstream.heard[0].startswith("GET /v2/thing ")


def test_connections_are_used_again() -> None:
    async def ten(client: HttpClient) -> int:
        for _ in range(10):
            await client.get("/")
        return 10

    upstream = Upstream(answer(200))
    accepted: list[object] = []
    converse = upstream.converse

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        await converse(reader, writer)

    upstream.converse = counted  # type: ignore[method-assign]  # counts what it passes on
    assert (talk(upstream, ten), len(accepted)) == (10, 1)


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
def test_a_status_is_the_error_that_says_what_to_do(status: int, meant: type[UpstreamError]) -> None:
    error = error_of(answer(status))
    assert type(error) is meant
    assert error.hint
    assert error.data["status"] == status
    assert error.message.startswith("GET /thing: ")


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_is_asked_for_is_in_the_error(status: int) -> None:
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
def test_the_services_own_words_are_repeated_when_it_has_some(body: bytes, words: str) -> None:
    assert error_of(answer(422, body)).message == f"GET /thing: the request was refused (422){words}"


# -- Retry-After -----------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_a_date_is_as_good_as_its_number_of_seconds(seconds: int, moment: datetime) -> None:
    now = moment.replace(microsecond=0, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert retry_after(date, now.timestamp()) == retry_after(str(seconds), 0.0) == seconds


@given(st.text() | st.floats().map(str))
def test_no_text_makes_an_endless_or_a_negative_wait(text: str) -> None:
    wait = retry_after(text, 1e9)
    assert wait is None or 0 <= wait < float("inf")


def test_a_date_that_has_passed_means_now_and_nonsense_means_nothing() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 2e9) == 0.0
    assert [retry_after(text, 0.0) for text in ("", "soon", "nan", "inf", "1e999")] == [None] * 5


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
def test_a_body_that_is_no_json_or_cut_short_is_a_broken_service(said: bytes) -> None:
    error = error_of(said)
    assert type(error) is UpstreamBroken
    assert error.retryable


def test_a_body_without_end_is_not_read_to_the_end() -> None:
    assert "longer than 10,000 bytes" in error_of(answer(200, b"1" * 10_001)).message
    assert (
        "longer than" in error_of(answer(200, gzip.compress(b"1" * 10**6), content_encoding="gzip")).message
    )


# -- no answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [None, b""])
def test_a_service_that_says_nothing_is_offline(said: bytes | None) -> None:
    error = error_of(said, timeout=0.05)
    assert type(error) is Offline
    assert "no answer from 127.0.0.1" in error.message


def test_a_service_that_is_not_there_is_offline() -> None:
    async def main() -> None:
        async with Upstream(None).serving() as url:
            pass
        async with HttpClient(url) as client:
            await client.get("/")

    with pytest.raises(Offline, match="no answer from"):
        asyncio.run(main())


# -- secrets -------------------------------------------------------------------------------------


def test_no_message_repeats_the_token_though_the_service_does() -> None:
    error = error_of(answer(401, f'{{"error": "bad token {TOKEN}"}}'.encode()))
    assert "bad token ***" in error.message
    assert TOKEN not in f"{error} {error!r} {error.describe()} {error.render()}"


def test_no_message_holds_a_query() -> None:
    with pytest.raises(UpstreamMissing) as caught:
        get(answer(404), path="/thing?key=hidden")
    assert "hidden" not in str(caught.value)


def test_the_client_and_its_requests_show_no_header() -> None:
    request = HttpRequest("GET", "http://h/x?key=hidden", {"authorization": TOKEN})
    shown = f"{HttpClient('http://h', token=TOKEN)!r} {request!r} {request}"
    assert TOKEN not in shown
    assert "hidden" not in shown


@pytest.mark.parametrize("token", ["", "two words", "line\nend", "ünicode"])
def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(BadCredentials) as caught:
        HttpClient("http://h", token=token)
    assert not token or token not in str(caught.value)


# -- where requests go ---------------------------------------------------------------------------


def test_a_redirect_within_the_origin_is_followed() -> None:
    moved = answer(302, location="/elsewhere?page=2")
    upstream = Upstream(moved, answer(200, b"[7]"))
    assert talk(upstream, lambda client: client.get("/thing")) == [7]
    assert upstream.heard[1].startswith("GET /elsewhere?page=2 ")


@pytest.mark.parametrize("elsewhere", ["http://localhost:1/", "https://127.0.0.1/", "//evil.example/x"])
def test_a_redirect_to_another_origin_is_not_followed(elsewhere: str) -> None:
    error = error_of(answer(302, location=elsewhere))
    assert type(error) is UpstreamChanged
    assert "must not go" in error.message


def test_redirects_in_a_circle_end() -> None:
    upstream = Upstream(answer(302, location="/thing"))
    with pytest.raises(UpstreamChanged, match="302"):
        talk(upstream, lambda client: client.get("/thing"))
    assert len(upstream.heard) == 6


def test_what_is_written_is_never_redirected() -> None:
    upstream = Upstream(answer(307, location="/elsewhere"), answer(200))
    with pytest.raises(UpstreamChanged, match="307"):
        talk(upstream, lambda client: client.request("POST", "/thing", json={}))
    assert len(upstream.heard) == 1


def test_the_address_of_a_next_page_is_used_when_it_has_the_same_origin() -> None:
    upstream = Upstream(answer(200, b"[2]"))
    assert talk(upstream, lambda client: client.get(f"{upstream.url}/x?p=2")) == [2]
    assert upstream.heard[0].startswith("GET /x?p=2 ")


def test_the_address_of_another_origin_is_refused_before_anything_is_sent() -> None:
    upstream = Upstream(answer(200))
    with pytest.raises(UpstreamChanged, match=r"evil\.example"):
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
        HttpClient(url)
    assert "pass" not in str(caught.value)


# -- transports and lifecycle ----------------------------------------------------------------------


class Echo(Transport):
    """Answers with what it was asked."""

    async def send(self, request: HttpRequest, *, largest: int) -> HttpResponse:
        """The request's own method and address."""
        return HttpResponse(request, 200, {}, f'["{request.method}", "{request.url}"]'.encode())


def test_another_transport_takes_the_place_of_the_network() -> None:
    client = HttpClient("https://h", transport=Echo())
    assert asyncio.run(client.get("x", {"a": "1"})) == ["GET", "https://h/x?a=1"]


def test_a_client_may_be_stopped_twice_and_started_again() -> None:
    async def main() -> list[Json]:
        async with Upstream(answer(200, b"[1]")).serving() as url:
            client = HttpClient(url)
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
        asyncio.run(HttpClient("http://h").start())
    assert caught.value.hint == "pip install 'max-sync[http]'"


def test_importing_the_client_does_not_import_the_library() -> None:
    code = "import sys, max.http; sys.exit('httpx2' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
