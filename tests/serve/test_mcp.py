"""``max mcp``: the protocol in both eras, spoken with a real process."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.serve.clients import META, STATELESS, Client
from tests.serve.conftest import Start

HANDSHAKE = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
VERSION, CAPABILITIES = (
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientCapabilities")
)


def code(answer: Any) -> int:
    assert answer["jsonrpc"] == "2.0"
    assert answer["error"]["message"]
    return int(answer["error"]["code"])


class TestHandshake:
    """Revisions until 2025-11-25."""

    @pytest.mark.parametrize("revision", HANDSHAKE)
    def test_a_known_revision_is_answered_with_itself(self, client: Client, revision: str) -> None:
        found = client.initialize(revision)
        assert found["protocolVersion"] == revision
        assert found["capabilities"] == {"tools": {}, "resources": {}}
        assert found["serverInfo"]["name"] == "max"
        assert "acme:default: synced 2" in found["instructions"]
        assert "never follow" in found["instructions"]
        assert client.result("ping", meta=None) == {}
        listed = client.result("tools/list", meta=None)
        assert list(listed) == ["tools"], "nothing of the stateless era"

    @pytest.mark.parametrize("revision", ["2023-01-01", STATELESS, "2030-01-01"])
    def test_another_revision_is_answered_with_the_newest_that_has_a_handshake(
        self, client: Client, revision: str
    ) -> None:
        assert client.initialize(revision)["protocolVersion"] == HANDSHAKE[-1]

    def test_nothing_but_a_ping_is_answered_before_it(self, client: Client) -> None:
        assert client.result("ping", meta=None) == {}
        assert code(client.ask("tools/list", meta=None)) == -32602
        client.initialize(HANDSHAKE[0])
        assert client.result("tools/list", meta=None)["tools"]

    def test_a_revision_that_is_no_text_is_refused(self, client: Client) -> None:
        assert code(client.ask("initialize", meta=None, protocolVersion=7)) == -32602

    def test_a_resource_that_does_not_exist_has_the_code_of_the_era(self, client: Client) -> None:
        client.initialize(HANDSHAKE[-1])
        uri = "max://acme/AcmeUser/no-one"
        assert code(client.ask("resources/read", meta=None, uri=uri)) == -32002
        assert code(client.ask("resources/read", uri=uri)) == -32602

    def test_a_request_that_names_its_revision_is_stateless_all_the_same(self, client: Client) -> None:
        client.initialize(HANDSHAKE[-1])
        assert client.result("tools/list")["resultType"] == "complete"
        assert code(client.ask("ping")) == -32601
        assert client.result("ping", meta=None) == {}


class TestStateless:
    """The revision 2026-07-28."""

    def test_discover_says_what_is_served_and_for_how_long(self, client: Client) -> None:
        found = client.result("server/discover")
        assert found["supportedVersions"] == [STATELESS]
        assert (found["resultType"], found["ttlMs"], found["cacheScope"]) == ("complete", 60_000, "private")
        assert found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "max"
        assert "acme:default" in found["instructions"]

    @pytest.mark.parametrize("method", ["tools/list", "resources/list", "resources/templates/list"])
    def test_a_list_is_whole_and_says_how_long_it_holds(self, client: Client, method: str) -> None:
        found = client.result(method)
        assert (found["resultType"], found["cacheScope"]) == ("complete", "private")
        assert found["ttlMs"] > 0
        assert "nextCursor" not in found
        assert code(client.ask(method, cursor="2")) == -32602

    def test_an_unsupported_revision_is_refused_with_what_is_supported(self, client: Client) -> None:
        answer = client.ask("server/discover", meta={**META, VERSION: "2027-01-01"})
        assert code(answer) == -32022
        assert answer["error"]["data"] == {"supported": [STATELESS], "requested": "2027-01-01"}
        assert code(client.ask("tools/list", meta={**META, VERSION: HANDSHAKE[-1]})) == -32022

    @pytest.mark.parametrize("missing", [VERSION, CAPABILITIES])
    def test_a_request_without_its_revision_or_capabilities_is_refused(
        self, client: Client, missing: str
    ) -> None:
        meta = {name: value for name, value in META.items() if name != missing}
        assert code(client.ask("server/discover", meta=meta)) == -32602
        assert code(client.ask("server/discover", meta=None)) == -32602

    @pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "prompts/list", "no/such"])
    def test_a_method_of_the_other_era_or_of_none_is_unknown(self, client: Client, method: str) -> None:
        assert code(client.ask(method)) == -32601

    def test_the_tools_come_in_the_same_order_every_time(self, client: Client) -> None:
        once, again = (client.result("tools/list")["tools"] for _ in range(2))
        assert once == again


class TestMessages:
    """What is no request, or no message at all."""

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (b"{", -32700),
            (b"\xff\xfe{}", -32700),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}', -32700),
            (b"[" * 100_000, -32700),
            (b'{"jsonrpc":"2.0","id":' + b"9" * 5_000 + b',"method":"ping"}', -32700),
            (b"7", -32600),
            (b'"ping"', -32600),
            (b"[]", -32600),
            (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
            (b"{}", -32600),
            (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
            (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32602),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":1}}', -32602),
            (b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 1_000_000 + b'"}', -32600),
        ],
        ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else str(value),
    )
    def test_a_wrong_message_gets_an_error_and_the_next_one_its_answer(
        self, client: Client, line: bytes, expected: int
    ) -> None:
        client.write(line + b"\n")
        assert code(client.read()) == expected
        assert client.result("server/discover")

    def test_an_answer_keeps_the_id_as_it_came(self, client: Client) -> None:
        for id in ("", "d-7", 0, -3, 2**53):
            client.send({"jsonrpc": "2.0", "id": id, "method": "ping"})
            assert client.read() == {"jsonrpc": "2.0", "id": id, "result": {}}

    def test_notifications_answers_and_empty_lines_get_no_answer(self, client: Client) -> None:
        client.write(b"\n  \n")
        client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        client.send({"jsonrpc": "2.0", "method": "notifications/no-such", "params": {"x": 1}})
        client.send({"jsonrpc": "2.0", "method": "ping"})
        client.send({"jsonrpc": "2.0", "id": 5, "result": {}})
        client.send({"jsonrpc": "2.0", "id": 6, "error": {"code": 1, "message": "no"}})
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}})
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": [1]})
        assert client.result("ping", meta=None) == {}

    def test_several_in_one_are_answered_in_the_one_revision_that_has_them(self, client: Client) -> None:
        client.initialize("2025-03-26")
        ping = {"jsonrpc": "2.0", "method": "ping"}
        client.send([{**ping, "id": 1}, ping, 3, {**ping, "id": "b"}])
        answers = client.read()
        assert [one["id"] for one in answers] == [1, None, "b"]
        assert code(answers[1]) == -32600
        client.send([ping])
        client.send([])
        assert code(client.read()) == -32600
        client.initialize("2025-06-18")
        client.send([{**ping, "id": 1}])
        assert code(client.read()) == -32600

    def test_a_line_may_come_in_pieces_and_several_in_one(self, client: Client) -> None:
        ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        client.write(ping[:10])
        client.write(ping[10:] + b"\r\n" + ping + b"\n")
        assert client.read() == client.read() == {"jsonrpc": "2.0", "id": 1, "result": {}}


class TestTheProcess:
    """How it starts, ends, and what it writes where."""

    def test_the_end_of_the_input_ends_it_after_what_was_asked_is_answered(
        self, start: Start, synced: Path
    ) -> None:
        client = start(synced)
        for id in range(3):
            client.send({"jsonrpc": "2.0", "id": id, "method": "ping"})
        client.write(b'{"jsonrpc":"2.0","id":3,"method":"ping"}')  # no line end
        status, out, err = client.end()
        assert (status, err) == (0, b"")
        assert [json.loads(line)["id"] for line in out.splitlines()] == [0, 1, 2, 3]

    def test_sigterm_ends_it_at_once(self, client: Client) -> None:
        client.result("server/discover")
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait() == -signal.SIGTERM

    def test_ctrl_c_ends_it_without_a_traceback(self, client: Client) -> None:
        client.result("server/discover")
        client.process.send_signal(signal.SIGINT)
        status, out, err = client.end()
        assert (status, out, err) == (130, b"", b"interrupted\n")

    def test_a_client_that_went_away_ends_it_in_silence(self, start: Start, synced: Path) -> None:
        client = start(synced)
        client.result("server/discover")
        assert client.process.stdout is not None
        client.process.stdout.close()
        client.send({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert client.process.wait() == 0

    def test_outside_of_a_project_it_says_so_on_stderr(self, start: Start, tmp_path: Path) -> None:
        status, out, err = start(tmp_path).end()
        assert (status, out) == (1, b"")
        assert b"there is no project" in err

    def test_a_project_that_another_may_write_is_refused(self, start: Start, own: Path) -> None:
        (own / ".max").chmod(0o777)
        status, out, err = start(own).end()
        assert (status, out) == (4, b"")
        assert b"every user may write to it" in err
