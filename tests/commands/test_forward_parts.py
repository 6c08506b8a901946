"""What a forwarded command writes arrives in its order and to the character, whatever it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.commands import streams
from max.commands.console import CONSOLE, Console, console
from max.commands.forward import Printer, decoder, encoded, likeness
from max.commands.forwarded import CHUNK, ForwardedCommands
from max.errors import RunDirect, UsageError
from max.serve.wire import Wire

ODD = ["", "\n", "\udc80 is no UTF-8", "x" * (CHUNK + 1), "é🦊" * CHUNK]
TEXTS = st.text(st.characters(), max_size=40) | st.sampled_from(ODD)
WRITES = st.lists(st.tuples(st.sampled_from(["out", "err"]), TEXTS) | st.just(("flush", "")), max_size=12)
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.integers() | st.text(st.characters()),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
)


class Paper(Console):
    """A console that keeps what is written, in its order."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []

    @property
    def stdout(self) -> TextIO:
        return cast("TextIO", Pen(self, "out"))

    @property
    def stderr(self) -> TextIO:
        return cast("TextIO", Pen(self, "err"))


class Pen:
    """One of its streams."""

    def __init__(self, paper: Paper, kind: str) -> None:
        self.paper, self.kind = paper, kind

    def write(self, text: str) -> None:
        self.paper.written.append((self.kind, text))

    def flush(self) -> None:
        if self.kind == "out":
            self.paper.written.append(("flush", ""))


def joined(writes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The writes with those to the same stream as one, and without empty ones."""
    found: list[tuple[str, str]] = []
    for kind, text in writes:
        if found and found[-1][0] == kind != "flush":
            found[-1] = (kind, found[-1][1] + text)
        elif text or kind == "flush":
            found.append((kind, text))
    return found


def facts(words: list[str]) -> tuple[Any, ...]:
    return words, ".", [-1, -1], {}, likeness()


async def messages(commands: ForwardedCommands, words: list[str]) -> list[dict[str, Any]]:
    """What the daemon sends about a command, as its caller reads it."""
    wire, decode = Wire(), decoder()
    stream = commands(*facts(words))
    found = [{"event": wire.encode(parts).data} async for parts in stream]
    found.append({"result": await stream.result()})
    return [decode(json.dumps(one)) for one in found]


@given(WRITES, st.integers(0, 255))
def test_p18_what_is_written_arrives_in_its_order_with_its_status(
    writes: list[tuple[str, str]], status: int
) -> None:
    def run(words: list[str]) -> int:
        own = console()
        own.expect_status(status)
        for kind, text in writes:
            stream = own.stderr if kind == "err" else own.stdout
            _ = stream.flush() if kind == "flush" else stream.write(text)
        return status

    commands = ForwardedCommands(Path("/"), run)
    paper, printer = Paper(), Printer()
    token = CONSOLE.set(paper)
    try:
        assert printer.print_answer(asyncio.run(messages(commands, []))) == status
    finally:
        CONSOLE.reset(token)
    assert joined(paper.written) == joined(writes)
    assert printer.status == status


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("status", [0, 3])
def test_a_full_device_is_reported_with_the_status_of_the_command(status: int) -> None:
    with Path("/dev/full").open("w") as device:

        class Full(Console):
            stdout = device

        token = CONSOLE.set(Full())
        try:
            with pytest.raises(streams.OutputFailed, match="No space left on device") as caught:
                Printer().print_answer([{"event": [["status", str(status)], ["out", "x"], ["flush", ""]]}])
        finally:
            CONSOLE.reset(token)
    assert caught.value.status == status


@given(PLAIN)
def test_data_is_written_and_read_as_json_does(value: Any) -> None:
    assert decoder()(json.dumps(value)) == value
    assert json.loads(encoded(value)) == value


def test_a_caller_whose_process_is_another_kind_is_refused_before_anything_runs() -> None:
    ran: list[list[str]] = []

    def run(words: list[str]) -> int:
        ran.append(words)
        return 0

    commands = ForwardedCommands(Path("/"), run)

    async def ask() -> None:
        words, folder, columns, variables, known = facts(["ls"])
        await commands(words, folder, columns, variables, [*known[:-1], "Asia/Kolkata"]).result()

    with pytest.raises(RunDirect, match="another zone"):
        asyncio.run(ask())
    assert ran == []


@pytest.mark.parametrize(("columns", "variables"), [([1], {}), ([1, 2, 3], {}), ([-1, -1], {"TERM": 7})])
def test_facts_that_no_caller_sends_are_refused(columns: list[int], variables: dict[str, Any]) -> None:
    commands = ForwardedCommands(Path("/"), lambda words: 0)

    async def ask() -> None:
        await commands(["ls"], ".", columns, variables, likeness()).result()

    with pytest.raises(UsageError, match="columns are two numbers"):
        asyncio.run(ask())
