"""The HTTP face: methods, errors and streams over a real socket, and who is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from max.errors import MaxError, ProjectError, ProjectUntrusted, UsageError
from max.serve.http_access import Access, Tokens, host_name, read_tokens
from max.serve.http_app import RequestBounds
from max.serve.methods import METHODS
from max.serve.protocol import Bounds
from max.serve.wire import Wire
from tests.serve.http_face import TOKEN, WIRE, Face, events_of, run


class TestMethods:
    """Calls and their answers."""

    def test_a_call_is_a_post_of_its_parameters(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            page = await face.call("search", installation="acme", entity="AcmeUser", limit=2)
            assert all({"id", "active", "email"} <= one.keys() for one in page["items"])
            assert page["cursor"]
            assert await face.call("count", installation="acme", entity="AcmeUser") > 2

        run(synced, work)

    def test_what_reads_can_be_asked_with_a_url(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            query = {"installation": "acme", "entity": "AcmeUser", "limit": "2", "where": "active = true"}
            found = await face.client.get("/v1/search", params=query)
            assert found.status_code == 200, found.text
            assert len(found.json()["result"]["items"]) == 2
            found = await face.client.get("/v1/find?text=a&installations=acme&installations=acme:default")
            assert found.status_code == 200, found.text
            head = await face.client.head("/v1/installations")
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) > 10

        run(synced, work)

    def test_a_program_that_is_max_gets_every_value_unchanged(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            ask = {"installation": "acme", "entity": "AcmeTask", "limit": 3}
            answer = await face.client.post("/v1/search", json=ask, headers={"accept": WIRE})
            assert answer.headers["content-type"] == WIRE
            direct = await face.app.methods.search("acme", "AcmeTask", limit=3)
            assert Wire().encode(Wire().decode_whole(answer.json()["result"])) == Wire().encode(direct)

        run(synced, work)

    def test_every_error_has_its_status_and_its_facts(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            status, error = await face.error("count", installation="acme", entity="AcmeUsr")
            assert (status, error["code"]) == (400, "usage.unknown")
            assert "AcmeUser" in error["message"] + error["hint"]
            status, error = await face.error("get", installation="acme", entity="AcmeUser", id="none")
            assert (status, error["code"]) == (404, "not_found")
            status, error = await face.error("count", installation="acme")
            assert (status, error["code"]) == (400, "usage")
            status, error = await face.error("count", installation=7, entity="AcmeUser")
            assert (status, error["code"]) == (400, "usage")

        run(synced, work)

    def test_what_is_no_call_is_refused_in_words(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            client = face.client
            asked = {
                404: client.post("/v1/nothing", json={}),
                405: client.get("/v1/invalidate"),
                413: client.post("/v1/count", content=b" " * 2_000_000, headers=JSON),
                415: client.post("/v1/count", content=b"a=b", headers={"content-type": "text/plain"}),
                400: client.post("/v1/count", content=b"[1]", headers=JSON),
            }
            for status, asking in asked.items():
                answer = await asking
                assert (answer.status_code, answer.json()["error"]["code"]) == (status, "http.refused")
            for body in (b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000):
                answer = await client.post("/v1/count", content=body, headers=JSON)
                assert answer.status_code == 400, body[:20]
            assert (await client.delete("/v1/count")).headers["allow"] == "POST, GET, HEAD"

        run(synced, work)

    def test_read_only_leaves_out_what_writes(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            for name, method in METHODS.items():
                answer = await face.client.post(f"/v1/{name}", json={"nothing": 1})
                assert answer.status_code == (400 if method.reads and not method.local else 404), name

        run(synced, work, read_only=True)

    def test_what_is_for_this_machine_alone_is_not_there(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            described = (await face.client.get("/openapi.json")).json()["paths"]
            for name in [name for name, method in METHODS.items() if method.local]:
                for verb in ("POST", "GET"):
                    answer = await face.client.request(verb, f"/v1/{name}")
                    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "http.refused"), name
                assert f"/v1/{name}" not in described

        assert METHODS["command"].local
        run(synced, work)

    def test_one_request_too_many_is_503_and_says_when_to_come_again(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            answer = await face.client.post("/v1/installations")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "daemon.busy")
            assert answer.headers["retry-after"] == "1"
            assert (await face.client.get("/health")).status_code == 200

        run(synced, work, bounds=Bounds(all_calls=0))

    def test_a_body_that_drips_is_408(self, synced: Path) -> None:
        async def drip() -> Any:
            for _ in range(50):
                yield b" "
                await asyncio.sleep(0.01)

        async def work(face: Face) -> None:
            answer = await face.client.post("/v1/count", content=drip(), headers=JSON)
            assert answer.status_code == 408

        run(synced, work, request=RequestBounds(body_time=0.1))

    def test_no_odd_value_of_any_parameter_is_a_bug(self, own: Path) -> None:
        odd: dict[str, list[Any]] = {
            "string": ["", "\x00", "\ud800", "../..", "9" * 400],
            "integer": [-1, 2**63, 10**400],
            "number": [-1, 1e308, 2**70, 10**400],
            "array": [[], ["\ud800"], [1], [None], [{}]],
            "object": [{}, {"\x00": 1}, {"a": "\ud800"}],
        }
        needed = {"installation": "acme", "entity": "AcmeUser", "what": ["AcmeUser"], "statement": "SELECT 1"}

        async def work(face: Face) -> None:
            for name, method in METHODS.items():
                if name == "events":  # it does not end
                    continue
                rest = {key: needed[key] for key in method.parameters if key in needed}
                for key, one in method.parameters.items():
                    for value in [value for kind in one.kinds for value in odd.get(kind, [])]:
                        content = json.dumps({**rest, key: value}).encode()
                        answer = await face.client.post(f"/v1/{name}", content=content, headers=JSON_ALONE)
                        assert answer.status_code != 500, (name, key, value, answer.text)

        run(own, work)

    def test_a_bug_is_500_and_does_not_show_its_place(
        self, synced: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(*given: object) -> None:
            raise ZeroDivisionError("oops")

        async def work(face: Face) -> None:
            monkeypatch.setattr(face.app.methods, "_answer", broken)
            status, error = await face.error("installations")
            assert (status, error["code"]) == (500, "daemon.fault")
            assert "Traceback" not in json.dumps(error)

        run(synced, work)


JSON = {"content-type": "application/json"}
JSON_ALONE = {**JSON, "accept": "application/json"}


def answer_to(prompt: Any) -> Any:
    """An answer that fits a question."""
    assert prompt["number"] < 10, prompt
    if prompt["kind"] == "choose":
        return [value for value, _ in prompt["options"]][-1:]
    return True if prompt["kind"] == "confirm" else prompt.get("default") or ""


class TestStreams:
    """Server-sent events."""

    def test_a_sync_streams_its_events_and_ends_with_its_result(self, own: Path) -> None:
        async def work(face: Face) -> None:
            ask = {"installation": "acme", "full": True}
            async with face.client.stream("POST", "/v1/sync", json=ask) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                *events, end = [one async for one in events_of(answer)]
            assert (end.event, end.data["result"]["status"]) == ("end", "completed")
            assert {one.event for one in events} == {"message"}
            assert "loaded" in json.dumps([one.data for one in events]) or len(events) > 3

        run(own, work)

    def test_a_caller_that_reads_only_json_gets_the_end_of_a_stream_alone(self, own: Path) -> None:
        async def work(face: Face) -> None:
            headers = {"accept": "application/json"}
            answer = await face.client.post("/v1/sync", json={"installation": "acme"}, headers=headers)
            assert answer.json()["result"]["status"] == "completed"

        run(own, work)

    def test_an_error_before_the_first_event_is_the_status(self, own: Path) -> None:
        async def work(face: Face) -> None:
            status, error = await face.error("sync", installation="nothing")
            assert (status, error["code"]) == (400, "usage.unknown")

        run(own, work)

    def test_a_call_that_asks_a_person_asks_over_the_stream(self, own: Path) -> None:
        async def work(face: Face) -> None:
            asked = {"connector": "acme", "name": "asked"}
            headers = {"accept": "text/event-stream"}
            questions = []
            async with face.client.stream("POST", "/v1/connect", json=asked, headers=headers) as answer:
                async for one in events_of(answer):
                    if one.event == "end":
                        assert one.data["result"]["name"] == "asked", one.data
                        break
                    questions.append(one.data["prompt"])
                    said = {"answer": answer_to(one.data)}
                    done = await face.client.post(one.data["answer_at"], json=said)
                    assert done.status_code == 204
                    again = await face.client.post(one.data["answer_at"], json=said)
                    assert again.status_code == 404
            assert questions

        run(own, work)

    def test_a_stream_with_nothing_to_say_sends_comments(
        self, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def forever(*given: object) -> None:
            await asyncio.Event().wait()

        async def work(face: Face) -> None:
            monkeypatch.setattr(face.app.methods, "_answer", forever)
            headers = {"accept": "text/event-stream"}
            async with face.client.stream("POST", "/v1/installations", headers=headers) as answer:
                async for line in answer.aiter_lines():
                    if line == ":":
                        break
            for _ in range(1_000):
                if not face.app.open_streams:
                    break
                await asyncio.sleep(0.01)
            assert (face.app.open_streams, face.app.bounds.open_calls) == (0, 0)

        run(own, work, request=RequestBounds(keep_alive=0.05))

    def test_when_it_stops_each_stream_ends_with_a_word(
        self, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def forever(*given: object) -> None:
            await asyncio.Event().wait()

        async def work(face: Face) -> None:
            monkeypatch.setattr(face.app.methods, "_answer", forever)
            headers = {"accept": "text/event-stream"}
            async with face.client.stream("POST", "/v1/installations", headers=headers) as answer:
                await face.app.stop()
                [end] = [one async for one in events_of(answer)]
            assert (end.event, end.data["error"]["code"]) == ("end", "daemon.stopping")

        run(own, work, request=RequestBounds(keep_alive=0.05))

    def test_one_stream_too_many_is_503(self, own: Path) -> None:
        async def work(face: Face) -> None:
            status, error = await face.error("sync", installation="acme")
            assert (status, error["code"]) == (503, "daemon.busy")

        run(own, work, request=RequestBounds(streams=0))


def digests(folder: Path) -> dict[str, str]:
    """The content of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


class TestIdentity:
    """Who is refused."""

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"authorization": "Bearer"},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": f"Bearer {TOKEN[:-1]}"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": TOKEN},
            {"authorization": f"Bearer {TOKEN.upper()}"},
        ],
    )
    def test_p35_without_identity_every_method_on_every_route_is_refused(
        self, own: Path, headers: dict[str, str]
    ) -> None:
        async def work(face: Face) -> None:
            async with httpx2.AsyncClient(base_url=face.server.address, headers=headers) as stranger:
                paths = ["/ready", "/metrics", "/openapi.json", "/mcp", "/events?installation=acme"]
                paths += [f"/v1/{name}" for name in METHODS] + ["/v1/nothing", "/prompts/a/1", "/", "/x"]
                for path in paths:
                    for verb in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                        body = {"installation": "acme", "what": ["AcmeUser"], "settings": {}}
                        answer = await stranger.request(verb, path, json=body)
                        assert answer.status_code == 401, (verb, path)
                        assert answer.headers["www-authenticate"].startswith("Bearer")
                assert (await stranger.get("/health")).json() == {"status": "alive"}

        before = digests(own)
        run(own, work)
        assert digests(own) == before

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::2]:80"])
    def test_a_name_that_is_not_ours_is_421(self, synced: Path, host: str) -> None:
        async def work(face: Face) -> None:
            answer = await face.client.post("/v1/installations", headers={"host": host})
            assert answer.status_code == 421
            assert (await face.client.get("/health", headers={"host": host})).status_code == 200

        run(synced, work)

    @pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
    def test_every_name_of_this_machine_alone_is_ours(self, synced: Path, host: str) -> None:
        async def work(face: Face) -> None:
            answer = await face.client.post("/v1/installations", headers={"host": host})
            assert answer.status_code == 200

        run(synced, work)

    def test_a_page_of_another_origin_is_403_and_gets_no_leave_to_read(self, synced: Path) -> None:
        async def work(face: Face) -> None:
            for origin in ("http://evil.example", "null", "http://localhost:1", ""):
                answer = await face.client.post("/v1/installations", headers={"origin": origin})
                assert answer.status_code == 403, origin
                assert not any(name.startswith("access-control") for name in answer.headers)
            answer = await face.client.post("/v1/installations", headers={"origin": face.server.address})
            assert answer.status_code == 200

        run(synced, work)

    def test_the_caller_of_a_call_is_the_name_of_its_token(
        self, synced: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from max.model.actor import actor

        seen = []

        async def look(*given: object) -> None:
            seen.append(actor().via)

        async def work(face: Face) -> None:
            monkeypatch.setattr(face.app.methods, "_answer", look)
            await face.call("installations")
            assert seen == ["http:http"]

        run(synced, work)


class TestTokens:
    """The file of tokens."""

    def test_it_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "token"
        first = read_tokens(path, create=True)
        assert path.stat().st_mode & 0o777 == 0o600
        token = path.read_text().strip()
        assert len(token) >= 32
        assert first.name_of(f"Bearer {token}".encode()) == "http"
        assert read_tokens(path, create=True).name_of(f"bearer {token}".encode()) == "http"
        assert token not in repr(first)

    def test_it_may_hold_several_with_names(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text(f"# for the build\nci {'c' * 20}\n\n{'d' * 20}\n")
        path.chmod(0o600)
        tokens = read_tokens(path)
        assert [tokens.name_of(b"Bearer " + one * 20) for one in (b"c", b"d", b"e")] == ["ci", "http", None]

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_one_that_others_may_read_or_write_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "token"
        path.write_text("x" * 20)
        path.chmod(mode)
        with pytest.raises(ProjectUntrusted, match="by others"):
            read_tokens(path)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "has no token"),
            ("# nothing\n", "has no token"),
            ("short\n", "at least 16"),
            ("a b c\n", "line 1"),
            (f"a {'x' * 20}\na {'y' * 20}\n", "line 2"),
            ("ä" * 20, "at least 16"),
        ],
    )
    def test_a_file_that_is_wrong_is_an_error_that_shows_no_token(
        self, tmp_path: Path, text: str, words: str
    ) -> None:
        path = tmp_path / "token"
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(MaxError, match=words) as caught:
            read_tokens(path)
        assert "x" * 20 not in caught.value.render()

    def test_what_is_no_file_is_an_error_in_words(self, tmp_path: Path) -> None:
        with pytest.raises(ProjectError, match="No such file"):
            read_tokens(tmp_path / "none")
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(ProjectError, match="is no file"):
            read_tokens(tmp_path / "pipe")

    @pytest.mark.parametrize("tokens", ["", "short", "x y" * 10, {}, {"a": "x"}])
    def test_a_token_that_can_be_guessed_is_refused(self, tokens: Any) -> None:
        with pytest.raises(UsageError):
            Tokens(tokens)

    @pytest.mark.parametrize(
        ("host", "name"),
        [
            ("localhost:80", "localhost"),
            ("a", "a"),
            ("[::1]:80", "::1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("", ""),
        ],
    )
    def test_the_name_of_a_host_has_no_port(self, host: str, name: str) -> None:
        assert host_name(host) == name
        with suppress(MaxError):
            Access(Tokens(TOKEN), hosts=[host]).check_origin({b"host": host.encode()}, "http")
