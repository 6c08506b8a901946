"""GraphQL: a query's data, or the error that its body means, whatever the status."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.connecting import (
    BadCredentials,
    BudgetHeaders,
    GraphQL,
    HttpClient,
    HttpRequest,
    HttpResponse,
    Json,
    KeyAuth,
    Offline,
    Page,
    PermissionDenied,
    QuotaExceeded,
    RelayConnection,
    Secret,
    Transport,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
)
from max.testing import credentials_for
from max.upstream.graphql import CodeReader
from max.upstream.http import ERRORS, ErrorKind

URL = "https://api.example.com"
QUERY = "query Things($first: Int) { things(first: $first) { nodes { id } } }"


class Canned(Transport):
    """Answers every request with one body, and remembers the requests."""

    def __init__(self, body: Json | bytes, status: int = 200) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.asked: list[HttpRequest] = []

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """The answer."""
        self.asked.append(request)
        return HttpResponse(request, self.status, {}, self.body)

    def query(self, query: str = QUERY, **asked: Any) -> Json:
        """The data of a query."""
        client = HttpClient(URL, credentials_for(URL), transport=self)
        return asyncio.run(GraphQL(client).query(query, **asked))


def error_of(
    body: Json | bytes,
    status: int = 200,
    codes: dict[str, ErrorKind] | None = None,
    read_code: CodeReader = lambda error: None,
) -> UpstreamError:
    """The error that a body means."""
    client = HttpClient(URL, credentials_for(URL), transport=Canned(body, status))
    with pytest.raises(UpstreamError) as caught:
        asyncio.run(GraphQL(client, codes=codes, read_code=read_code).query(QUERY))
    return caught.value


def errors(code: str | None = None, **error: Json) -> Json:
    """A body with one error."""
    extensions = {} if code is None else {"code": code}
    return {"errors": [{"message": "no", "extensions": extensions, **error}], "data": None}


# -- asking ---------------------------------------------------------------------------------------


def test_a_query_returns_its_data() -> None:
    service = Canned({"data": {"things": {"nodes": []}}})
    assert service.query(variables={"first": 2}) == {"things": {"nodes": []}}
    (request,) = service.asked
    assert (request.method, request.url) == ("POST", f"{URL}/graphql")
    assert json.loads(request.body or b"") == {
        "query": QUERY,
        "variables": {"first": 2},
        "operationName": "Things",
    }


@pytest.mark.parametrize(
    ("query", "name", "sent"),
    [
        ("{ a }", "", None),
        ("query { a }", "", None),
        ("query A { a } query B { b }", "B", "B"),
        ("\n  mutation Save { a }", "", "Save"),
        ("query A { a }\nquery B { b }", "", None),
    ],
)
def test_a_query_is_sent_with_its_own_name(query: str, name: str, sent: str | None) -> None:
    service = Canned({"data": {"a": 1}})
    service.query(query, name=name)
    assert json.loads(service.asked[0].body or b"").get("operationName") == sent


def test_a_message_names_the_query() -> None:
    assert error_of(b"", 502).message == "POST /graphql Things: the service failed (502)"


# -- errors in bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 429, 500])
@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("RATELIMITED", QuotaExceeded),
        ("AUTHENTICATION_ERROR", BadCredentials),
        ("FORBIDDEN", PermissionDenied),
        ("NOT_FOUND", UpstreamMissing),
        ("INPUT_ERROR", UpstreamChanged),
        ("GRAPHQL_VALIDATION_FAILED", UpstreamChanged),
        ("INTERNAL_SERVER_ERROR", UpstreamBroken),
        ("lock timeout", UpstreamBroken),
    ],
)
def test_a_code_decides_whatever_the_status(status: int, code: str, meant: type[UpstreamError]) -> None:
    error = error_of(errors(code), status)
    assert type(error) is meant
    assert error.hint
    assert error.data["status"] == status


@pytest.mark.parametrize(
    ("status", "meant"),
    [(200, UpstreamChanged), (401, BadCredentials), (429, QuotaExceeded), (500, UpstreamBroken)],
)
def test_with_an_unknown_code_the_status_decides(status: int, meant: type[UpstreamError]) -> None:
    error = error_of(errors("ODD"), status)
    assert type(error) is meant
    assert "ODD" in error.message
    assert error.data["upstream_code"] == "ODD"


@pytest.mark.parametrize(
    "error",
    [
        {"type": "RATE_LIMITED"},
        {"extensions": {"type": "ratelimited"}},
        {"extensions": {"code": "ODD", "type": "ratelimited"}},
    ],
)
def test_a_code_may_be_in_other_places(error: Json) -> None:
    assert type(error_of(errors(**error))) is QuotaExceeded


def test_a_message_for_people_is_preferred() -> None:
    extensions = {"code": "INPUT_ERROR", "userPresentableMessage": "Query too\n complex."}
    message = error_of(errors(extensions=extensions), 400).message
    assert message == "POST /graphql Things: the query was refused (INPUT_ERROR, 400): Query too complex."
    assert error_of(errors("INPUT_ERROR"), 400).message.endswith(": no")


def test_a_connector_adds_codes_and_reads_more_precise_ones() -> None:
    def missing(error: Any) -> str | None:
        return "GONE" if "not found" in error["message"] else None

    codes = {"GONE": ERRORS[404], "INPUT_ERROR": ERRORS[429]}
    gone = errors("INPUT_ERROR", message="Entity not found: Thing")
    assert type(error_of(gone, codes=codes, read_code=missing)) is UpstreamMissing
    assert type(error_of(errors("INPUT_ERROR"), codes=codes, read_code=missing)) is QuotaExceeded


def test_data_beside_an_error_is_not_used() -> None:
    body = {"data": {"things": {"nodes": []}}, "errors": [{"message": "half of it"}]}
    assert "half of it" in error_of(body).message


@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": []}, [], 7, {"errors": []}, b""])
def test_a_good_answer_without_data_is_upstream_changed(body: Json | bytes) -> None:
    assert type(error_of(body)) is UpstreamChanged


def test_without_json_the_status_decides() -> None:
    assert type(error_of(b"<html>", 200)) is UpstreamBroken
    assert type(error_of(b"<html>", 401)) is BadCredentials


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["errors", "data", "extensions", "code", "type", "message"]), inner)
    ),
    max_leaves=12,
)


@given(json_data, st.sampled_from([200, 400, 500]))
def test_every_body_is_data_or_an_upstream_error(body: Json, status: int) -> None:
    try:
        data = Canned(body, status).query()
    except UpstreamError as error:
        message = error.message
        assert message.startswith("POST /graphql Things: ")  # either is right
    else:
        assert data == body["data"]
        assert not body.get("errors")


# -- connections -----------------------------------------------------------------------------------


def connection(nodes: Json, more: Json = False, cursor: Json = None) -> Json:
    """The data of a query for one page of a connection."""
    return {"things": {"nodes": nodes, "pageInfo": {"hasNextPage": more, "endCursor": cursor}}}


def test_a_connection_becomes_a_page() -> None:
    data = connection([{"id": "1"}, {"id": "2"}], more=True, cursor="c")
    assert RelayConnection.of(data, "things").page(lambda node: node["id"]) == Page(["1", "2"], next="c")


def test_the_last_page_has_no_next_even_with_a_cursor() -> None:
    assert RelayConnection.of({"team": connection([], cursor="c")}, "team", "things") == ([], None)


@pytest.mark.parametrize(
    ("data", "lacks"),
    [
        ({}, "nodes"),
        ({"things": None}, "nodes"),
        ({"things": {"edges": []}}, "nodes"),
        (connection(None), "nodes"),
        (connection([None]), "nodes"),
        ({"things": {"nodes": []}}, "hasNextPage"),
        (connection([], more=None), "hasNextPage"),
        (connection([], more="yes"), "hasNextPage"),
        (connection([], more=True), "endCursor"),
        (connection([], more=True, cursor=""), "endCursor"),
    ],
)
def test_an_incomplete_connection_is_an_error(data: Json, lacks: str) -> None:
    with pytest.raises(UpstreamChanged, match=f"^things: .*{lacks}"):
        RelayConnection.of(data, "things")


# -- a strict server with Linear's own schema ------------------------------------------------------

APIS = Path(__file__).parents[3] / "shared" / "apis"
USERS = """
query Users($first: Int, $after: String) {
  users(first: $first, after: $after) { nodes { id name } pageInfo { hasNextPage endCursor } }
}
"""
TOO_DEAR = "{ users(first: 250) { nodes { assignedIssues(first: 250) { nodes { id } } } } }"
BUDGETS = [
    BudgetHeaders("x-ratelimit-requests-remaining", "x-ratelimit-requests-reset", unit=0.001),
    BudgetHeaders(
        "x-ratelimit-complexity-remaining", "x-ratelimit-complexity-reset", cost="x-complexity", unit=0.001
    ),
]


class TestLinear:
    """The client with a server that executes queries on Linear's schema, when it is installed."""

    @pytest.fixture
    def linear(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The server's class."""
        if not (APIS / "apifakes").is_dir():
            pytest.skip("the servers of the real services' descriptions are not beside this repository")
        monkeypatch.syspath_prepend(APIS)
        return importlib.import_module("apifakes.linear").Linear

    def ask(self, server: Any, query: str = USERS, key: str | None = None, **variables: Json) -> Json:
        """The data of one query."""

        async def main() -> Json:
            auth = KeyAuth(Secret(key or server.API_KEY))
            client = HttpClient(server.url, credentials_for(server.url), auth=auth, budgets=BUDGETS)
            async with client:
                return await GraphQL(client, read_code=not_found).query(query, variables)

        return asyncio.run(main())

    def test_all_pages_are_read(self, linear: Any) -> None:
        with linear().seed(issues=0, users=5) as server:
            first = RelayConnection.of(self.ask(server, first=3), "users")
            second = RelayConnection.of(self.ask(server, first=3, after=first.next), "users")
        assert (len(first.nodes), len(second.nodes), second.next) == (3, 2, None)
        assert len({node["id"] for node in first.nodes + second.nodes}) == 5

    def test_a_rate_limit_with_status_400_waits_for_the_reset_in_milliseconds(self, linear: Any) -> None:
        with linear(requests_per_hour=1).seed(issues=0) as server:
            self.ask(server, first=1)
            with pytest.raises(QuotaExceeded, match="RATELIMITED, 400") as caught:
                self.ask(server, first=1)
        assert caught.value.retry_after == pytest.approx(3600.0, abs=5.0)

    def test_a_query_that_costs_more_than_the_points_left_waits(self, linear: Any) -> None:
        with linear(points_per_hour=20).seed(issues=0) as server:
            self.ask(server, first=5)
            with pytest.raises(QuotaExceeded) as caught:
                self.ask(server, first=5)
        assert caught.value.retry_after == pytest.approx(2160.0, abs=5.0)  # 12 of 20 are used

    @pytest.mark.parametrize(
        ("query", "meant", "message"),
        [
            ('{ issue(id: "nowhere") { id } }', UpstreamMissing, "Could not find referenced Issue"),
            ("{ users(first: 999) { nodes { id } } }", UpstreamChanged, "INVALID_INPUT, 400"),
            (TOO_DEAR, UpstreamChanged, "Maximum allowed: 10000"),
        ],
    )
    def test_each_of_its_errors_has_its_class(
        self, query: str, meant: type[UpstreamError], message: str, linear: Any
    ) -> None:
        with linear().seed(issues=1) as server, pytest.raises(meant, match=message):
            self.ask(server, query)

    @pytest.mark.parametrize(
        ("fault", "meant", "wait"),
        [
            ({"status": 429, "headers": {"Retry-After": "7"}}, QuotaExceeded, 7.0),
            ({"status": 400}, QuotaExceeded, None),
            ({"status": 503, "headers": {"Retry-After": "7"}}, UpstreamBroken, 7.0),
            ({"status": 500}, UpstreamBroken, None),
            ({"status": 403}, PermissionDenied, None),
            ({"garbage": True}, UpstreamBroken, None),
            ({"truncate": 30}, UpstreamBroken, None),
            ({"drop": True}, Offline, None),
        ],
    )
    def test_each_of_its_faults_has_its_class(
        self, fault: dict[str, Any], meant: type[UpstreamError], wait: float | None, linear: Any
    ) -> None:
        with linear().seed(issues=0) as server:
            server.inject("Users", **fault)
            with pytest.raises(UpstreamError) as caught:
                self.ask(server)
            assert len(RelayConnection.of(self.ask(server), "users").nodes) == 4
        assert (type(caught.value), caught.value.retry_after) == (meant, wait)

    def test_a_wrong_key_is_a_bad_credential(self, linear: Any) -> None:
        with linear() as server, pytest.raises(BadCredentials, match="AUTHENTICATION_ERROR, 401"):
            self.ask(server, key="lin_api_wrong")


def not_found(error: Any) -> str | None:
    """Linear reports a missing entity only in its message."""
    return "NOT_FOUND" if str(error.get("message")).startswith("Entity not found") else None
