"""The log of a daemon: a file that rotates, without secrets, and what other code prints into it.

Logging is set up in the process of the daemon alone, and while ``max serve`` answers.  Each line is
``TIME LEVEL PART: message``; what a service or a connector wrote in a message controls no terminal.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

from ..model.visible import sanitize

MOST_BYTES = 1_000_000  # of one file
OLDER = 3  # files that are kept beside it
LINE = re.compile(r"(\S+Z) (DEBUG|INFO|WARNING|ERROR|CRITICAL) ([^ :]+): (.*)")


class LogFile(RotatingFileHandler):
    """The file, its owner's alone.  With ``capture`` stdout and stderr of the process go there, too.

    Prints and a crash of the interpreter write to the descriptors themselves, so they follow the file
    when it rotates.
    """

    def __init__(self, path: str, *, capture: bool) -> None:
        self._capture = capture
        super().__init__(path, maxBytes=MOST_BYTES, backupCount=OLDER, encoding="utf-8", errors="replace")

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(
            self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        if self._capture:
            for number in (1, 2):
                os.dup2(descriptor, number)
        return open(descriptor, "a", encoding="utf-8", errors="replace")  # noqa: PTH123

    def reopen(self) -> None:
        """Open the file at its path again: another program moved it away."""
        self.acquire()
        try:
            if self.stream is not None:
                self.stream.close()
            self.stream = self._open()
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; its file is made again when it was removed."""
        with suppress(OSError):
            if not os.path.exists(self.baseFilename):  # noqa: PTH110
                self.reopen()
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A disk that is full does not stop the daemon."""


class Lines(logging.Formatter):
    """Records as lines, without secrets and without characters that control a terminal."""

    converter = staticmethod(time.gmtime)

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines; a traceback has several."""
        return "\n".join(map(sanitize, self._clean(super().format(record)).split("\n")))


@contextmanager
def errors_shown(clean: Callable[[str], str], level: int = logging.ERROR) -> Iterator[None]:
    """Log errors to stderr meanwhile: for a process that answers in the foreground and keeps no log.

    ``clean`` removes secrets from a text.  ``level`` is the least that is logged.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(Lines(clean))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def set_up_log(path: str, *, capture: bool, clean: Callable[[str], str]) -> LogFile:
    """Log into a file; without ``capture`` to stderr as well, unless that is the file.

    ``clean`` removes secrets from a text.
    """
    file = LogFile(path, capture=capture)
    handlers: list[logging.Handler] = [file]
    if not capture and not _is_same_file(sys.stderr, path):
        handlers.append(logging.StreamHandler(sys.stderr))
    for one in handlers:
        one.setFormatter(Lines(clean))
        logging.getLogger().addHandler(one)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger(__name__.partition(".serve.")[0]).setLevel(logging.INFO)
    return file


def _is_same_file(stream: IO[str], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))  # noqa: PTH116
    except (OSError, ValueError):
        return False


# -- reading it ----------------------------------------------------------------------------------


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, also of the file before it; fewer when there are no more."""
    found: list[str] = []
    with suppress(FileNotFoundError):
        found = _last_lines(path, lines)
    return _with_older(path, found, lines)


def _with_older(path: Path, found: list[str], lines: int) -> list[str]:
    """The last lines of a log, with those of the file before it when they are fewer than so many."""
    if len(found) < lines:
        with suppress(FileNotFoundError):
            return [*_last_lines(path.with_name(f"{path.name}.1"), lines - len(found)), *found]
    return found


def _last_lines(path: Path, lines: int) -> list[str]:
    whole = path.read_text("utf-8", "replace").split("\n")[:-1]  # MOST_BYTES, or a little more
    return whole[len(whole) - min(lines, len(whole)) :]


def follow(path: Path, lines: int, *, idle: Callable[[], object], poll: float = 0.2) -> Iterator[str]:
    """The last lines of a log, and then each new one; never ends.

    It goes on in the file that takes its place.  ``idle`` is called before each wait.
    """
    opened = None
    with suppress(FileNotFoundError):
        opened = path.open(encoding="utf-8", errors="replace", newline="\n")
    *whole, rest = opened.read().split("\n") if opened else [""]  # what is written from now on follows
    try:
        yield from _with_older(path, whole[len(whole) - min(lines, len(whole)) :], lines)
        while True:
            for part in opened or ():
                rest += part
                if rest.endswith("\n"):
                    yield rest[:-1]
                    rest = ""
            idle()
            time.sleep(poll)
            with suppress(FileNotFoundError):
                if opened is None or not os.path.samestat(os.fstat(opened.fileno()), path.stat()):
                    fresh = path.open(encoding="utf-8", errors="replace", newline="\n")
                    for part in opened or ():  # what was written before it was moved away
                        yield part.rstrip("\n")
                    if opened is not None:
                        opened.close()
                    opened, rest = fresh, ""
    finally:
        if opened is not None:
            opened.close()


def parsed(line: str) -> dict[str, str | None]:
    """A line as data: time, level, part and message; one that something printed is a message alone."""
    found = LINE.fullmatch(line)
    time, level, part, message = found.groups() if found else (None, None, None, line)
    return {"time": time, "level": level, "part": part, "message": message}
