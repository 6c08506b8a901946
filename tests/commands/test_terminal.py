"""The terminal: questions and answers, hidden secrets, the progress line."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from max.commands.terminal import (
    ERASE,
    ProgressView,
    TerminalPrompter,
    colours,
    interruptible,
    is_terminal,
    width,
)
from max.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


class Screen(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> TerminalPrompter:
    """A prompter; ``type_`` sets its input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return TerminalPrompter()


def type_(text: str) -> None:
    assert isinstance(sys.stdin, io.StringIO)
    sys.stdin.write(text)
    sys.stdin.seek(0)


OPTIONS = [("a", "The first"), ("b", "The second"), ("c", "The third")]


@pytest.mark.parametrize(("line", "answer"), [("mine\n", "mine"), ("  mine \n", "mine"), ("\n", "yours")])
def test_an_empty_line_gives_the_default(
    typed: TerminalPrompter, capsys: pytest.CaptureFixture[str], line: str, answer: str
) -> None:
    type_(line)
    assert asyncio.run(typed.text("Name", "yours")) == answer
    assert capsys.readouterr() == ("", "Name [yours]: ")


def test_without_a_default_an_empty_line_is_empty_text(typed: TerminalPrompter) -> None:
    type_("\n")
    assert asyncio.run(typed.text("Name", None)) == ""


def test_end_of_input_is_an_error(typed: TerminalPrompter) -> None:
    with pytest.raises(UsageError, match="the input ended"):
        asyncio.run(typed.text("Name", "yours"))


@pytest.mark.parametrize(("line", "answer"), [("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False)])
def test_only_yes_confirms(typed: TerminalPrompter, line: str, answer: bool) -> None:
    type_(line)
    assert asyncio.run(typed.confirm("Really?")) is answer


def test_choose_asks_again_until_the_number_is_valid(
    typed: TerminalPrompter, capsys: pytest.CaptureFixture[str]
) -> None:
    type_("x\n4\n1,2\n2\n")
    assert asyncio.run(typed.choose("Which?", OPTIONS, several=False)) == ["b"]
    asked = capsys.readouterr().err
    assert "   2  The second\n" in asked
    assert asked.count("write one number from 1 to 3") == 3


def test_an_option_may_be_chosen_by_its_value(typed: TerminalPrompter) -> None:
    type_("d\nb\n")
    assert asyncio.run(typed.choose("Which?", OPTIONS, several=False)) == ["b"]
    assert sys.stdin.read() == ""


def test_several_may_be_chosen_or_none(typed: TerminalPrompter) -> None:
    type_("3, 1\n\n")
    chosen = [asyncio.run(typed.choose("Which?", OPTIONS, several=True)) for _ in range(2)]
    assert chosen == [["c", "a"], []]


def test_shown_lines_are_sanitized(typed: TerminalPrompter, capsys: pytest.CaptureFixture[str]) -> None:
    typed.say("a\x1b[2J\nb")
    assert capsys.readouterr().err == "a\\x1b[2J\nb\n"


def test_the_interrupt_handler_is_restored_after_a_question() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("refused", [b"", b"hunter2\xff\n"], ids=["valid", "first no UTF-8"])
def test_a_secret_is_not_shown_while_it_is_typed(tmp_path: Path, refused: bytes) -> None:
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    terminal, inside = pty.openpty()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
    words = [sys.executable, "-m", "max", "connect", "acme"]
    secrets = [(b"printed: ", typed) for typed in (refused, b"hunter2\n") if typed]
    script = [(b"): ", b"http://127.0.0.1:9\n"), *secrets, (b":9]: ", b"\x04")]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    ) as process:
        os.close(inside)
        shown = converse(terminal, script)
    assert (process.returncode, b"127.0.0.1:9" in shown, b"hunter2" in shown) == (2, True, False)
    assert shown.count(b"that is not UTF-8 text") == bool(refused)
    assert not (tmp_path / ".max").exists()


def converse(terminal: int, script: list[tuple[bytes, bytes]]) -> bytes:
    """Answer each prompt when it is the end of the output; returns all output."""
    shown = b""
    with open(terminal, "r+b", buffering=0) as screen:
        while True:
            try:
                more = screen.read(1024)
            except OSError:  # on Linux: the other side has closed
                return shown
            if not more:
                return shown
            shown += more
            answer = next((one for one in script if shown.endswith(one[0])), None)
            if answer:
                script.remove(answer)
                screen.write(answer[1])


# -- capabilities -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Screen(), {}, True),
        (Screen(), {"NO_COLOR": "1"}, False),
        (Screen(), {"NO_COLOR": ""}, True),
        (Screen(), {"TERM": "dumb"}, False),
        (Screen(), {"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "0"}, False),
        (Screen(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_need_a_capable_terminal_that_allows_them(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, environment: dict[str, str], expected: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colours(stream) is expected


def test_a_width_is_from_the_environment_or_a_default_and_a_pipe_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    assert (width(Screen()), width(io.StringIO())) == (33, None)
    monkeypatch.setenv("COLUMNS", "0")
    assert width(Screen()) == 80


def test_a_closed_stream_is_not_a_terminal() -> None:
    closed = Screen()
    closed.close()
    assert not is_terminal(closed)


# -- progress ----------------------------------------------------------------------------------


def test_a_terminal_updates_one_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    view = ProgressView(screen, now=0.0)
    view.show({"User": 0}, "", now=0.01)
    view.show({"User": 100}, "", now=1.0)
    view.show({"User": 300}, "", now=2.0)
    view.clear()
    view.clear()
    assert screen.getvalue() == f"{ERASE}1 s  100/s  User 100{ERASE}2 s  150/s  User 300{ERASE}"


@pytest.mark.parametrize("kind", [io.StringIO, Screen], ids=["pipe", "dumb terminal"])
def test_what_cannot_redraw_a_line_gets_one_now_and_then(
    kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = kind()
    view = ProgressView(stream, now=0.0)
    for second in range(25):
        view.show({"User": second * 10}, "", now=float(second))
    view.clear()
    assert stream.getvalue() == "10 s  10/s  User 100\n20 s  10/s  User 200\n"


def test_rows_from_before_a_resume_do_not_count_for_the_rate() -> None:
    stream = io.StringIO()
    view = ProgressView(stream, now=0.0)
    view.show({"User": 10_000}, "", now=0.0)
    view.show({"User": 10_100}, "", now=10.0)
    assert stream.getvalue() == "10 s  10/s  User 10,100\n"


def test_a_sync_that_lists_everything_again_says_its_share_and_the_time_left() -> None:
    stream = io.StringIO()
    view = ProgressView(stream, now=0.0, expected={"User": 1_000, "Team": 1_000})
    for at, counts in (
        (0.0, {}),
        (10.0, {"User": 99}),
        (20.0, {"User": 1_200, "Team": 200}),
        (30.0, {"User": 1_200, "Team": 999}),
        (40.0, {"User": 1_200, "Team": 1_000}),
    ):
        view.show(counts, "", now=at)
    assert [line.partition("  User")[0] for line in stream.getvalue().splitlines()] == [
        "10 s  10/s  4%",
        "20 s  70/s  60%, about 12 s left  Team 200",
        "30 s  73/s  99%, about 1 s left  Team 999",
        "40 s  55/s  Team 1,000",
    ]


def test_say_replaces_the_progress_line() -> None:
    screen = Screen()
    view = ProgressView(screen, now=0.0)
    view.show({}, "", now=1.0)
    view.say("pausing")
    assert screen.getvalue() == f"{ERASE}1 s  starting{ERASE}pausing\n"
