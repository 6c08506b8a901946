"""The log of a daemon: its file, its lines, and how it is read."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from max.serve.daemon_log import Lines, LogFile, follow, parsed, tail
from max.upstream.redaction import Redactor
from tests.daemons import ROOT

CAPTURED = """
import os, sys
sys.path.insert(0, {root!r})
from max.serve import daemon_log
daemon_log.MOST_BYTES = 2_000
import logging
log = daemon_log.set_up_log({path!r}, capture=True, clean=str)
for number in range(100):
    print("print", number, flush=True)
    os.write(2, b"written %d\\n" % number)
    logging.getLogger("max.test").info("logged %d", number)
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    """A logger that writes into ``log`` in the test's folder, without the secret "tomato-soup"."""
    redactor = Redactor()
    redactor.learn("tomato-soup")
    handler = LogFile(str(tmp_path / "log"), capture=False)
    handler.setFormatter(Lines(redactor.message))
    logger = logging.Logger("max.part")
    logger.addHandler(handler)
    yield logger
    handler.close()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


class TestTheFile:
    def test_a_line_has_time_level_part_and_message(self, log: logging.Logger, tmp_path: Path) -> None:
        log.warning("two %s", "words")
        (line,) = lines(tmp_path / "log")
        found = parsed(line)
        assert (found["level"], found["part"], found["message"]) == ("WARNING", "max.part", "two words")
        assert str(found["time"])[10:11] == "T"
        assert parsed("anything: else") == {
            "time": None,
            "level": None,
            "part": None,
            "message": "anything: else",
        }

    def test_it_is_readable_by_its_owner_alone(self, log: logging.Logger, tmp_path: Path) -> None:
        log.info("one")
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600

    def test_secrets_are_left_out_also_of_tracebacks(self, log: logging.Logger, tmp_path: Path) -> None:
        log.error("token tomato-soup")
        try:
            raise ValueError("no tomato-soup today")
        except ValueError:
            log.exception("it failed")
        text = (tmp_path / "log").read_text()
        assert ("tomato" in text, "ValueError: no *** today" in text) == (False, True)

    def test_what_a_service_wrote_controls_no_terminal(self, log: logging.Logger, tmp_path: Path) -> None:
        log.info("\x1b[2J\u202eabc\r")
        assert "\\x1b[2J" in (tmp_path / "log").read_text()
        assert not {"\x1b", "\u202e", "\r"} & set((tmp_path / "log").read_text())

    def test_it_rotates_and_keeps_three_older_ones(self, log: logging.Logger, tmp_path: Path) -> None:
        (handler,) = log.handlers
        assert isinstance(handler, LogFile)
        handler.maxBytes = 300
        for number in range(40):
            log.info("line %d", number)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1", "log.2", "log.3"]
        assert {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()} == {0o600}
        assert all(one.stat().st_size <= 300 for one in tmp_path.iterdir())

    def test_a_link_in_its_place_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            LogFile(str(tmp_path / "log"), capture=False)
        assert not (tmp_path / "elsewhere").exists()

    def test_it_is_made_again_when_it_was_removed(self, log: logging.Logger, tmp_path: Path) -> None:
        log.info("one")
        (tmp_path / "log").unlink()
        log.info("two")
        assert [parsed(one)["message"] for one in lines(tmp_path / "log")] == ["two"]

    def test_what_is_printed_goes_where_the_log_is_also_after_it_rotated(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        done = subprocess.run(
            [sys.executable, "-c", CAPTURED.format(root=str(ROOT), path=str(path))],
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr) == ("", "")
        assert (tmp_path / "log.1").exists()
        last = [line for line in lines(path) if line][-3:]
        assert last[:2] == ["print 99", "written 99"]
        assert parsed(last[2])["message"] == "logged 99"


class TestReading:
    def test_the_last_lines_come_from_the_older_file_where_the_log_has_too_few(self, tmp_path: Path) -> None:
        (tmp_path / "log.1").write_text("a\nb\nc\n")
        (tmp_path / "log").write_text("d\ne\n")
        assert tail(tmp_path / "log", 2) == ["d", "e"]
        assert tail(tmp_path / "log", 4) == ["b", "c", "d", "e"]
        assert tail(tmp_path / "log", 99) == ["a", "b", "c", "d", "e"]
        assert tail(tmp_path / "none", 9) == []

    def test_following_loses_no_line_that_comes_while_the_last_ones_are_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("one\ntwo\n")
        following = follow(path, 1, idle=lambda: pytest.fail("a line was lost"))
        assert next(following) == "two"
        with path.open("a") as opened:
            opened.write("three\n")
        assert next(following) == "three"

    def test_following_shows_each_new_line_whole_and_goes_on_in_the_file_that_takes_its_place(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "log"
        path.write_text("one\n")

        def add(text: str) -> None:
            with path.open("a") as opened:
                opened.write(text)

        def rotate() -> None:
            add("four\n")
            path.rename(tmp_path / "log.1")

        steps: list[Callable[[], object]] = [
            partial(add, "two\nth"),
            partial(add, "ree\n"),
            rotate,
            partial(add, "five\n"),
        ]
        seen = []
        for line in follow(path, 1, idle=lambda: steps and steps.pop(0)(), poll=0.001):
            seen.append(line)
            if line == "five":
                break
        assert seen == ["one", "two", "three", "four", "five"]
