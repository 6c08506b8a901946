"""The other routes of the HTTP face: its description, figures for monitors, events, MCP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
from max_connectors.acme_service import Refused, Server, Service, Settings
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from max.serve.http_app import ROUTES
from max.serve.methods import METHODS
from max.serve.metrics import COUNTERS, GAUGES, exposition
from tests.database_files import data_file
from tests.serve.clients import META, STATELESS
from tests.serve.http_face import TOKEN, Face, events_of, run
from tests.serve.test_methods import examples_in


def figures(text: str) -> dict[tuple[str, ...], float]:
    """The values by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestDescription:
    """/openapi.json."""

    def test_it_is_valid_and_has_every_method_with_its_parameters(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            found = (await face.client.get("/openapi.json")).json()
            validate(found)
            assert {path for path in found["paths"] if path.startswith("/v1/")} == {
                f"/v1/{name}" for name, method in METHODS.items() if not method.local
            }
            search = found["paths"]["/v1/search"]["post"]
            schema = search["requestBody"]["content"]["application/json"]["schema"]
            assert schema["required"] == ["installation", "entity"]
            assert schema["properties"]["where"]["description"]
            others = {path for path in found["paths"] if not path.startswith("/v1/")}
            assert {path.replace("{installation}", "") for path in others} == {"/health", *ROUTES} - {
                "/v1/",
                "/prompts/",  # its addresses are in the questions
            }
            asked = {one["name"] for one in found["paths"]["/events"]["get"]["parameters"]}
            assert asked == METHODS["events"].parameters.keys()

        run(synced, work)

    def test_p18_the_plain_answer_of_every_method_fits_its_schema(self, own: Path) -> None:
        async def work(face: Face) -> None:
            found = (await face.client.get("/openapi.json")).json()
            answered = set()
            for name, given in examples_in(own):
                if METHODS[name].local:
                    continue
                answer = await face.client.post(f"/v1/{name}", json=given, headers=JSON_ALONE)
                assert answer.status_code != 500, (name, answer.text)
                responses = found["paths"][f"/v1/{name}"]["post"]["responses"]
                described = responses["200" if answer.status_code == 200 else "default"]
                schema = described["content"]["application/json"]["schema"]
                jsonschema.validate(answer.json(), {**schema, "components": found["components"]})
                answered |= {name} if answer.status_code == 200 else set()
            served = {name for name, one in METHODS.items() if not one.local}
            assert served - answered == {"retry_failed", "request", "receive_hook"}  # as in test_methods
            assert found["components"]["schemas"].keys() >= {"SyncResult", "InstallationInfo", "RowPage"}

        run(own, work)

    def test_groups_changes_and_classes_of_entities_are_plain_data(self, own: Path) -> None:
        async def work(face: Face) -> None:
            asked = {"installation": "acme", "entity": "AcmeTask", "where": "status = todo"}
            count = await face.call("count", **asked)
            assert await face.call("count_by", by="status", **asked) == {
                "groups": [{"status": "todo", "count": count}],
                "total": count,
                "more": 0,
                "moreRows": 0,
            }
            marked = await face.call("invalidate", installation="acme", what=["AcmeUser.email"])
            assert marked["fields"] == [{"entity": "AcmeUser", "fields": ["email"], "rows": 20}]
            await face.call("change_settings", installation="acme", settings={"history": "changes"})
            await face.client.post(
                "/v1/sync", json={"installation": "acme", "full": True}, headers=JSON_ALONE
            )
            changed = await face.call("changes", installation="acme", since="beginning", limit=1)
            assert min(one["at"] for one in changed["items"]) > 0

        run(own, work)

    def test_one_that_only_reads_says_nothing_of_what_writes(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            found = (await face.client.get("/openapi.json")).json()
            assert {p for p in found["paths"] if p.startswith("/v1/")} == {
                f"/v1/{name}" for name, method in METHODS.items() if method.reads and not method.local
            }
            assert not any(path.startswith("/hooks") for path in found["paths"])

        run(synced, work, read_only=True)


class TestFigures:
    """/metrics."""

    def test_p30_the_figures_are_the_counts_of_the_syncs_and_the_text_parses(self, own: Path) -> None:
        async def work(face: Face) -> None:
            for _ in range(2):
                await face.client.post(
                    "/v1/sync", json={"installation": "acme", "full": True}, headers=JSON_ALONE
                )
            answer = await face.client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            found, runs = figures(answer.text), await face.call("runs", installation="acme")
            assert len(runs) == 3
            of = "acme:default"
            assert found["max_syncs_total", of, "completed"] == 3
            for operation in runs[0]["requests"]:
                total = sum(one["requests"].get(operation, 0) for one in runs)
                assert found["max_requests_total", of, operation] == total > 0
            for entity in runs[0]["counts"]:
                stored = await face.call("count", installation="acme", entity=entity)
                assert found["max_rows", of, entity] == stored
            assert found["max_data_age_seconds", of] < 600
            assert found["max_health", of, "healthy"] == found["max_up", of] == 1
            assert found["max_events_total", of, "sync.ended"] >= 2
            again = figures((await face.client.get("/metrics")).text)
            assert again["max_events_total", of, "sync.ended"] == found["max_events_total", of, "sync.ended"]
            assert again["max_http_responses_total", "200"] > found["max_http_responses_total", "200"]

        run(own, work)

    def test_an_installation_that_cannot_be_read_is_down_and_hides_no_other(self, own: Path) -> None:
        async def work(face: Face) -> None:
            info = await face.app.methods.project.connect("acme", "broken")
            path = data_file(face.app.methods.project.manager, info)
            path.write_bytes(b"no database" * 1_000)
            found = figures((await face.client.get("/metrics")).text)
            assert (found["max_up", "acme:broken"], found["max_up", "acme:default"]) == (0, 1)

        run(own, work)

    @pytest.mark.parametrize("text", ['"', "\\", "a\nb", "\\n", "ä\u2028", '{}=,"\\\n'])
    def test_any_text_of_a_label_parses_back(self, text: str) -> None:
        [family] = text_string_to_metric_families(exposition([("max_up", {"installation": text}, 1.5)]))
        [sample] = family.samples
        assert (sample.labels, sample.value) == ({"installation": text}, 1.5)

    def test_every_figure_has_its_words(self) -> None:
        text = exposition([(name, {}, 1.0) for name in [*GAUGES, *COUNTERS]])
        families = list(text_string_to_metric_families(text))
        assert len(families) == len(GAUGES) + len(COUNTERS)
        assert all(one.documentation for one in families)


JSON_ALONE = {"accept": "application/json"}


class TestEvents:
    """/events."""

    def test_p31_reading_after_any_cursor_yields_every_later_event(self, own: Path) -> None:
        async def work(face: Face) -> None:
            for _ in range(2):
                sync = {"installation": "acme", "full": True}
                await face.client.post("/v1/sync", json=sync, headers=JSON_ALONE)
            found = await self.read(face, "/events?installation=acme&once=true")
            numbers = [one.data["number"] for one in found]
            assert len(found) >= 4
            assert numbers == sorted(set(numbers))
            assert all(one.id == one.data["cursor"] for one in found)
            for place, one in enumerate(found):
                url = f"/events?installation=acme&once=true&after={one.id}"
                assert await self.read(face, url) == found[place + 1 :]
                headers = {"last-event-id": one.id}
                assert (
                    await self.read(face, "/events?installation=acme&once=true", headers)
                    == found[place + 1 :]
                )

        run(own, work)

    def test_a_stream_ends_after_as_long_without_an_event_as_it_was_asked_to_wait(self, own: Path) -> None:
        async def work(face: Face) -> None:
            found = await self.read(face, "/events?installation=acme&once=true")
            assert await self.read(face, "/events?installation=acme&wait=0.05") == found
            asked = {"installation": "acme", "wait": 0.05}
            async with face.client.stream("POST", "/v1/events", json=asked) as answer:
                assert [one async for one in events_of(answer)][:-1] == found

        run(own, work)

    async def read(self, face: Face, url: str, headers: dict[str, str] | None = None) -> list[Any]:
        async with face.client.stream("GET", url, headers=headers or {}) as answer:
            assert answer.status_code == 200, await answer.aread()
            *events, end = [one async for one in events_of(answer)]
            assert (end.event, end.data) == ("end", {"result": None})
            return events

    def test_events_come_while_a_sync_runs_and_a_reader_that_waits_delays_it_not(self, own: Path) -> None:
        async def work(face: Face) -> None:
            async with face.client.stream("GET", "/events?installation=acme&after=now") as answer:
                sync = {"installation": "acme", "full": True}
                done = await face.client.post("/v1/sync", json=sync, headers=JSON_ALONE)
                assert done.json()["result"]["status"] == "completed"  # and not one event was read
                async for one in events_of(answer):
                    if one.data["kind"] == "sync.ended":
                        assert one.data["sync"] == done.json()["result"]["id"]
                        break

        run(own, work)

    def test_p26_the_events_of_an_installation_are_its_own_alone(self, own: Path) -> None:
        async def work(face: Face) -> None:
            other = await face.app.methods.project.connect("acme", "other")
            url = "/events?installation={}&once=true"
            assert await self.read(face, url.format(other)) == []
            for name in ("acme:default", str(other), "acme:default"):
                sync = {"installation": name, "full": True}
                await face.client.post("/v1/sync", json=sync, headers=JSON_ALONE)
            ids = {
                name: {one["id"] for one in await face.call("runs", installation=name)}
                for name in ("acme:default", str(other))
            }
            assert not ids["acme:default"] & ids[str(other)]
            for name, syncs in ids.items():
                found = await self.read(face, url.format(name))
                assert {one.data["installation"] for one in found} == {name}
                assert {one.data["sync"] for one in found if one.data["sync"]} == syncs
            everything = await self.read(face, "/events?once=true")
            assert {one.data["installation"] for one in everything} == set(ids)

        run(own, work)

    @pytest.mark.parametrize("after", ["~bad", "x"])
    def test_a_cursor_that_is_none_is_an_error_with_a_status(self, own: Path, after: str) -> None:
        async def work(face: Face) -> None:
            answer = await face.client.get(f"/events?installation=acme&after={after}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "usage.cursor")

        run(own, work)


def message(method: str, params: Any, *, id: int = 1) -> Any:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


class TestMcp:
    """/mcp, in both eras."""

    async def ask(self, face: Face, method: str, params: Any, headers: dict[str, str]) -> tuple[int, Any]:
        answer = await face.client.post("/mcp", json=message(method, params), headers=headers)
        return answer.status_code, answer.json()

    def stateless(self, method: str, name: str = "") -> dict[str, str]:
        named = {"mcp-name": name} if name else {}
        return {"mcp-protocol-version": STATELESS, "mcp-method": method, **named}

    def test_a_request_without_a_handshake_is_answered(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            method = "tools/call"
            params = {"name": "count", "arguments": {"entity": "AcmeUser"}, "_meta": META}
            status, answer = await self.ask(face, method, params, self.stateless(method, "count"))
            assert (status, answer["result"]["resultType"]) == (200, "complete")
            total = await face.call("count", installation="acme", entity="AcmeUser")
            assert answer["result"]["structuredContent"]["total"] == total

        run(synced, work)

    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({"mcp-method": "tools/list"}, 400, -32020),
            ({"mcp-protocol-version": STATELESS}, 400, -32020),
            ({"mcp-protocol-version": STATELESS, "mcp-method": "tools/call"}, 400, -32020),
            ({"mcp-protocol-version": STATELESS, "mcp-method": "=?base64?dG9vbHMvbGlzdA==?="}, 200, None),
            ({"mcp-protocol-version": STATELESS, "mcp-method": "=?base64?!?="}, 400, -32020),
        ],
    )
    def test_headers_that_do_not_say_what_the_body_says_are_400(
        self, synced: Path, headers: dict[str, str], status: int, code: int | None
    ) -> None:
        async def work(face: Face) -> None:
            found, answer = await self.ask(face, "tools/list", {"_meta": META}, headers)
            assert (found, answer.get("error", {}).get("code")) == (status, code)

        run(synced, work)

    def test_errors_of_the_protocol_have_their_status(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            unknown = await self.ask(face, "no/such", {"_meta": META}, self.stateless("no/such"))
            assert (unknown[0], unknown[1]["error"]["code"]) == (404, -32601)
            meta = {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}
            headers = {"mcp-protocol-version": "2099-01-01", "mcp-method": "tools/list"}
            newer = await self.ask(face, "tools/list", {"_meta": meta}, headers)
            assert (newer[0], newer[1]["error"]["code"]) == (400, -32022)
            for body in (b"{", b"\xff", b"[]"):
                kind = {"content-type": "application/json"}
                assert (await face.client.post("/mcp", content=body, headers=kind)).status_code in (200, 400)
            assert (await face.client.get("/mcp")).status_code == 405
            assert (await face.client.delete("/mcp")).status_code == 405

        run(synced, work)

    @pytest.mark.parametrize("revision", ["2025-03-26", "2025-06-18", "2025-11-25"])
    def test_a_client_with_a_handshake_is_answered_and_nothing_is_remembered(
        self, synced: Path, revision: str
    ) -> None:
        async def work(face: Face) -> None:
            hello = {
                "protocolVersion": revision,
                "capabilities": {},
                "clientInfo": {"name": "c", "version": "1"},
            }
            _, answer = await self.ask(face, "initialize", hello, {})
            assert answer["result"]["protocolVersion"] == revision
            note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            done = await face.client.post("/mcp", json=note, headers={"mcp-protocol-version": revision})
            assert (done.status_code, done.content) == (202, b"")
            _, answer = await self.ask(face, "tools/list", {}, {"mcp-protocol-version": revision})
            assert "resultType" not in answer["result"]
            assert len(answer["result"]["tools"]) > 5
            status, _ = await self.ask(face, "tools/list", {}, {"mcp-protocol-version": "1900-01-01"})
            assert status == 400

        run(synced, work)

    def test_the_tool_that_syncs_is_there_unless_it_only_reads(self, own: Path) -> None:
        async def work(face: Face) -> None:
            params = {"name": "sync", "arguments": {"installation": "acme"}}
            _, answer = await self.ask(face, "tools/call", params, {"mcp-protocol-version": "2025-11-25"})
            if face.app.read_only:
                assert answer["error"]["code"] == -32602
            else:
                assert answer["result"]["structuredContent"]["summary"]["status"] == "completed"

        run(own, work)
        run(own, work, read_only=True)


def test_ready_says_whether_the_project_can_be_read(own: Path) -> None:
    async def work(face: Face) -> None:
        assert (await face.client.get("/ready")).json() == {"status": "ready", "installations": 1}
        await face.app.stop()
        answer = await face.client.get("/ready")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "daemon.stopping")
        assert (await face.client.get("/health")).status_code == 200

    run(own, work)


class TestHooks:
    """/hooks/INSTALLATION, which ``serve/hooks.py`` answers."""

    def test_it_needs_no_token_and_tells_a_stranger_nothing(self, own: Path) -> None:
        async def work(face: Face) -> None:
            async with httpx2.AsyncClient(base_url=face.server.address) as stranger:
                for name in ("acme", "nothing", "acme:default", ""):
                    answer = await stranger.post(
                        f"/hooks/{name}", json={"a": 1}, headers={"host": "max.example"}
                    )
                    assert answer.status_code in (401, 404), (name, answer.text)
                    assert answer.json()["error"]["code"] == "hook.refused"
                assert (await stranger.post("/hooks/acme", content=b"x")).status_code == 415
                assert (await stranger.get("/hooks/acme")).status_code == 405

        run(own, work)

    def test_one_that_only_reads_takes_none(self, own: Path) -> None:
        async def work(face: Face) -> None:
            assert (await face.client.post("/hooks/acme", json={})).status_code == 404

        run(own, work, read_only=True)


OPERATIONS = {  # of acme, by the end of a path
    "/workspaces": "acme:workspace:list",
    "/projects": "acme:project:list",
    "/tasks": "acme:task:list",
    "/files": "acme:file:list",
    "/changes": "acme:change:list",
    "/billing": "acme:billing:get",
    "/statuses": "acme:status:list",
    "/tenant": "acme:tenant:get",
    "/api/users": "acme:user:get",
    "/users": "acme:user:list",
}


LISTINGS = {
    "AcmeWorkspace": "/workspaces",
    "AcmeUser": "/users",
    "AcmeProject": "/projects",
    "AcmeTask": "/tasks",
    "AcmeFile": "/files",
}


def figures_of(found: dict[tuple[str, ...], float], installation: str, name: str) -> dict[str, float]:
    """The values of a figure of an installation, by its other label."""
    return {key[2]: value for key, value in found.items() if key[:2] == (name, installation)}


class Counting(Service):
    """Acme's service, which counts what it was asked for and what it sent, and fails in two ways.

    The first request of each address gets a 503; a path that ends with ``broken`` is refused for good.
    """

    def __init__(self) -> None:
        super().__init__(Settings(workspaces=2, users=7, projects=3, tasks=5, page_size=4))
        self.broken = ""
        self.asked: Counter[str] = Counter()  # by operation
        self.sent: Counter[str] = Counter()  # rows, by their path's end
        self.refused: Counter[str] = Counter()  # for good, by path
        self._seen: set[str] = set()

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any = None) -> Any:
        """The service's own answer, or a fault."""
        end = next(one for one in OPERATIONS if path.endswith(one))
        self.asked[OPERATIONS[end]] += 1
        if end == self.broken:
            self.refused[path] += 1
            raise Refused(401, "not for you")
        address = f"{path}?{sorted(query.items())}"
        if address not in self._seen:
            self._seen.add(address)
            raise Refused(503, "try again", 0.0)
        answer = await super().answer(method, path, query, body)
        self.sent[end] += len(answer.get("items", ()))
        return answer


def test_p30_the_figures_are_the_service_s_own_counts_through_retries_and_errors(own: Path) -> None:
    async def work(face: Face) -> None:
        service = Counting()
        async with Server(service, TOKEN) as server:
            config, secrets = {"base_url": server.url}, {"token": TOKEN}
            await face.app.methods.project.connect("acme", "counted", config=config, secrets=secrets)
            statuses: Counter[str] = Counter()
            for broken in ("/tasks", "", "/billing"):
                service.broken = broken
                ask = {"installation": "acme:counted", "full": True}
                done = await face.client.post("/v1/sync", json=ask, headers=JSON_ALONE)
                statuses[done.json()["result"]["status"]] += 1
            found = figures((await face.client.get("/metrics")).text)
        counted = partial(figures_of, found, "acme:counted")
        assert statuses == {"partial": 2, "completed": 1} == counted("max_syncs_total")
        assert counted("max_requests_total") == service.asked
        loaded = {entity: service.sent[end] for entity, end in LISTINGS.items()}
        assert counted("max_loaded_rows_total") == loaded
        kept = counted("max_rows")
        for entity, parents, each in ("AcmeUser", 2, 7), ("AcmeProject", 2, 3), ("AcmeTask", 6, 5):
            assert kept[entity] == parents * each
        assert found["max_failed_tasks_total", "acme:counted"] == len(service.refused) == 8
        assert service.asked.total() > len(service.pages) + service.refused.total()  # some were repeated

    run(own, work)
