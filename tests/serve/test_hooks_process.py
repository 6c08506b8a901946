"""Hooks to an installation with a process of its own, over the HTTP face of a real daemon that is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from max import Project
from tests.daemons import Home, homed
from tests.hooked import KEY, signed
from tests.waiting import wait_until

# Its service is a folder: ``cards`` has what it serves, ``asked`` a line for each request, and nothing is
# answered while there is a file ``hold``.  ``read`` has the processes that read hooks.
CONNECTOR = """
from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from max.connecting import Hook, HookChanges, Webhook
from tests.hooked import SECRET, Service, board, changes

PLACE = Path(__file__).parents[1] / "service"


class Folder(Service):
    async def ask(self, what: str) -> None:
        note("asked", what)
        while (PLACE / "hold").exists():
            await asyncio.sleep(0.01)
        self.cards = json.loads((PLACE / "cards").read_text())


def note(file: str, what: str) -> None:
    with (PLACE / file).open("a") as lines:
        lines.write(f"{os.getpid()} {what}\\n")


def noted(hook: Hook) -> HookChanges:
    note("read", str(hook.payload))
    return changes(hook)


WEBHOOK = Webhook(
    secret=SECRET,
    signature="X-Board-Signature",
    prefix="sha256=",
    delivery="X-Board-Delivery",
    sent_at="sent",
    changes=noted,
)
connector = board(Folder(), webhook=WEBHOOK)
"""


class Board:
    """A project with a daemon, and the service whose hooks it takes."""

    def __init__(self, home: Home) -> None:
        self.home, self.place = home, home.project / "service"
        for folder in (self.place, home.project / "connectors"):
            folder.mkdir()
        (home.project / "connectors" / "max_board.py").write_text(CONNECTOR)
        (home.project / "key").write_text(KEY)
        self.change(one="a", two="b")
        home.max("init")
        home.max("connect", "board", "--credential", f"webhook_secret=file:{home.project / 'key'}")
        home.max("connect", "acme")
        self.start()
        home.max("sync", "board")

    def start(self) -> None:
        """Start the daemon, unless it runs."""
        self.home.max("daemon", "start", "--http", "127.0.0.1:0")

    def change(self, **notes: str) -> None:
        """What the service has from now on: a note by card."""
        (self.place / "cards").write_text(json.dumps({card: ("title", note) for card, note in notes.items()}))

    def send(self, payload: Any, to: str = "board:default", **headers: str) -> httpx2.Response:
        """Send a hook, signed as the service signs it; the answer."""
        proper, body = signed(payload, sent=time.time())
        address = self.home.json("daemon", "status")["http"]
        kind = {"content-type": "application/json"}
        return httpx2.post(f"{address}/hooks/{to}", headers=kind | proper | headers, content=body, timeout=60)

    def lines(self, file: str) -> list[tuple[int, str]]:
        """What the service notes: the process, and what it asked for."""
        found = (self.place / file).read_text().splitlines() if (self.place / file).exists() else []
        return [(int(pid), what) for pid, _, what in (line.partition(" ") for line in found)]

    def note(self, card: str) -> str:
        """The note of a card as it is stored here."""
        return str(self.home.json("get", "board", f"Card:{card}")["data"]["note"])

    def waits(self) -> bool:
        """Whether a hook is stored that was not worked through."""
        with Project.find(self.home.project).read("board") as reader:
            return reader.has_hooks()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with homed(tmp_path_factory.mktemp("h")) as home:
        yield Board(home)


@pytest.fixture
def board(shared: Board) -> Board:
    """A project with a daemon, and nothing was asked of the service yet."""
    shared.start()
    for file in ("asked", "read"):
        (shared.place / file).unlink(missing_ok=True)
    return shared


def test_a_hook_is_read_and_its_row_fetched_in_the_process_of_the_installation(board: Board) -> None:
    board.change(one="a", two="news")
    answer = board.send({"note": "two"})
    assert (answer.status_code, answer.json()) == (200, {"state": "stored"}), board.home.log()
    wait_until(lambda: board.note("two") == "news")
    assert [what for _, what in board.lines("asked")] == ["note two"]
    readers = {pid for file in ("read", "asked") for pid, _ in board.lines(file)}
    assert len(readers) == 1
    assert readers <= board.home.processes() - {board.home.pid()}


@pytest.mark.parametrize(
    ("to", "headers", "status"),
    [
        ("board:default", {"X-Board-Signature": f"sha256={'0' * 64}"}, 401),
        ("board:default", {"X-Board-Signature": ""}, 401),
        ("board:nowhere", {}, 404),
        ("nothing", {}, 404),
        ("acme:default", {}, 404),  # it has no webhooks
        ("board%2Fdefault", {}, 404),
    ],
)
def test_a_hook_that_is_not_of_the_installations_service_leaves_nothing(
    board: Board, to: str, headers: dict[str, str], status: int
) -> None:
    answer = board.send({"note": "one"}, to, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "hook.refused")
    assert KEY not in answer.text + board.home.log()
    assert (board.lines("read"), board.lines("asked"), board.waits()) == ([], [], False)


def test_a_hook_that_was_answered_outlives_a_daemon_that_is_killed_at_once(board: Board) -> None:
    (board.place / "hold").touch()
    answer = board.send({"note": "one"})
    for pid in board.home.processes():
        os.kill(pid, signal.SIGKILL)
    assert (answer.status_code, answer.json()) == (200, {"state": "stored"}), board.home.log()
    wait_until(lambda: not board.home.processes())
    assert board.waits()
    board.change(one="after the kill")
    (board.place / "hold").unlink()
    board.start()
    wait_until(lambda: board.note("one") == "after the kill")
    wait_until(lambda: not board.waits())
