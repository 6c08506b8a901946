"""The terminal: what it can show, questions to the person at it, and a progress line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from ..errors import UsageError
from .console import console
from .streams import tell
from .text import display_width, duration, number, sanitize, sanitize_lines, truncate

if TYPE_CHECKING:
    from ..connector import Option

MOST_DIGITS = 6  # of $COLUMNS
FALLBACK_WIDTH = 80  # cells of a terminal that does not report its width
REDRAW = 0.1  # seconds between two updates of the progress line
LEAST_SHARE = 5  # per cent of the rows, after which the time that is left is worth saying
REPORT = 10.0  # seconds between two lines of progress where there is no terminal
ERASE = "\r\033[K"  # empties the line
REQUEST = re.compile(r"(?:[\w.-]+(?::\d+)?: )?[A-Z]+ /\S*: ")  # which a narrow line leaves out of an error


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream leads to a terminal."""
    return not stream.closed and stream.isatty()


def colours(stream: TextIO) -> bool:
    """Whether to use colours: on a terminal that is not dumb; FORCE_COLOR and NO_COLOR go before that."""
    if console().environment.get("NO_COLOR"):
        return False
    if console().environment.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return redraws(stream)


def redraws(stream: TextIO) -> bool:
    """Whether a line of a stream can be drawn again: on a terminal that is not dumb."""
    return is_terminal(stream) and console().environment.get("TERM") != "dumb"


def width(stream: TextIO) -> int | None:
    """How many cells a line has; None where there is no limit, as in a pipe."""
    if not is_terminal(stream):
        return None
    columns = console().environment.get("COLUMNS", "")[:MOST_DIGITS]
    if columns.isdecimal() and int(columns):
        return int(columns)
    return console().columns(stream) or FALLBACK_WIDTH


def line_width() -> int | None:
    """How many cells a line of stdout has; None where there is no limit."""
    return width(console().stdout)


def print_note(line: str) -> None:
    """Print a note on stderr at once, before the command's answer."""
    tell(console().stderr, f"{sanitize_lines(line)}\n")


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question at once, also inside an event loop, which would only record it."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class TerminalPrompter:
    """Asks on stderr and reads from stdin; secrets are not shown."""

    async def text(self, prompt: str, default: str | None) -> str:
        """One line; the default for an empty one."""
        return self._line(f"{prompt}{f' [{default}]' if default else ''}: ") or default or ""

    async def secret(self, prompt: str) -> str:
        """One line of UTF-8 text that does not appear on the screen."""
        from getpass import getpass

        from ..model.values import is_text

        while True:
            with interruptible(), suppress(UnicodeDecodeError):
                text = getpass(f"{sanitize(prompt)}: ", stream=console().stderr)
                if is_text(text):
                    return text
            self.say("that is not UTF-8 text")

    async def choose(self, prompt: str, options: Sequence[Option], several: bool) -> Sequence[str]:
        """Numbered options, chosen by number or value; it asks again until they are valid."""
        self.say("\n".join([prompt, *(f"  {n:>2}  {shown}" for n, (_, shown) in enumerate(options, 1))]))
        asked = "numbers, with commas (empty: none): " if several else "number or name: "
        while True:
            chosen = numbers(self._line(asked), [value for value, _ in options])
            if chosen is not None and (several or len(chosen) == 1):
                return [options[number - 1][0] for number in chosen]
            self.say(f"write {'numbers' if several else 'one number'} from 1 to {len(options)}")

    async def confirm(self, prompt: str) -> bool:
        """Yes or no; no for an empty line."""
        return self._line(f"{prompt} [y/N] ").lower() in ("y", "yes")

    def say(self, line: str) -> None:
        """A line on stderr."""
        print_note(line)

    def _line(self, prompt: str) -> str:
        tell(console().stderr, sanitize_lines(prompt))
        with interruptible():
            line = console().stdin.readline()
        if not line:
            raise UsageError(
                "the input ended before the question was answered",
                hint="give answers as options: --set key=value, --credential name=env:VAR, --yes",
            )
        return line.strip()


def numbers(line: str, values: Sequence[str]) -> list[int] | None:
    """``3, git`` as numbers of values, from 1 on; None when a word is neither a number nor a value."""
    words = [word.strip() for word in line.split(",") if word.strip()]
    found = [str(values.index(word) + 1) if word in values else word for word in words]
    if not all(word.isdecimal() and 1 <= int(word) <= len(values) for word in found):
        return None
    return list(map(int, found))


def progress_line(
    counts: Mapping[str, int], elapsed: float, rate: float, note: str, width: int | None, share: str = ""
) -> str:
    """A running sync on one line: seconds, rows per second, its share, rows by entity, what it waits for."""
    parts = [f"{name} {number(count)}" for name, count in sorted(counts.items())]
    parts = parts or ([] if note else ["starting"])
    speed = [f"{number(round(rate))}/s"] if rate >= 1 else []
    text = sanitize("  ".join(filter(None, [elapsed_time(elapsed), *speed, share, *parts, note])))
    if width is None:
        return text
    return truncate(text if display_width(text) <= width else REQUEST.sub("", text, count=1), width)


def share_done(counts: Mapping[str, int], expected: Mapping[str, int], rate: float) -> str:
    """``45%, about 50 s left`` of the rows that are expected, by entity; empty where none are."""
    left = sum(max(0, most - counts.get(name, 0)) for name, most in expected.items())
    if not counts or not left:
        return ""
    share = 100 - math.ceil(100 * left / sum(expected.values()))
    if share < LEAST_SHARE or rate < 1:
        return f"{share}%"
    return f"{share}%, about {elapsed_time(math.ceil(left / rate))} left"


def elapsed_time(elapsed: float) -> str:
    """Whole seconds that have gone by: ``42 s``, ``3 min 05 s``."""
    return duration(elapsed) if elapsed >= 60 else f"{int(elapsed)} s"


class ProgressView:
    """The progress of a sync: one line that is updated on a terminal, a line now and then elsewhere.

    Times are seconds of a monotonic clock, passed in.  ``expected`` are the rows that a sync will list,
    by entity, where that is known: as many as are stored, when it lists everything again.
    """

    def __init__(self, stream: TextIO, *, now: float, expected: Mapping[str, int] | None = None) -> None:
        self._stream, self._expected = stream, expected or {}
        self._live = redraws(stream)
        self._began = self._drawn = now
        self._before: int | None = None  # rows that an earlier process stored: not part of our rate
        self._visible = False

    def show(self, counts: Mapping[str, int], note: str, *, now: float) -> None:
        """Show the progress, unless it was shown a moment ago."""
        total = sum(counts.values())
        if self._before is None:
            self._before = total
        if now - self._drawn < (REDRAW if self._live else REPORT):
            return
        self._drawn = now
        elapsed = now - self._began
        room = width(self._stream)
        rate = (total - self._before) / elapsed
        share = share_done(counts, self._expected, rate)
        line = progress_line(counts, elapsed, rate, note, room and room - 1, share)
        tell(self._stream, f"{ERASE}{line}" if self._live else f"{line}\n")
        self._visible = self._live

    def say(self, line: str) -> None:
        """Print a line that stays, above the progress line."""
        self.clear()
        tell(self._stream, f"{line}\n")

    def clear(self) -> None:
        """Remove the progress line."""
        if self._visible:
            tell(self._stream, ERASE)
            self._visible = False
