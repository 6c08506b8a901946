"""Text for people: safe on a terminal, measured in its cells, with counts and times in words.

Rule 1: text is truncated between characters as a reader sees them, never inside one, and its
width is the number of terminal cells that it takes.

Rule 2: data from upstream never controls the terminal: control characters are spelled out.

Rule 3: nothing here prints, reads a clock or looks at a terminal.  Width, time and whether to
use colours are arguments.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Literal
from unicodedata import category, east_asian_width

from ..model.entities import Ref
from ..model.values import file_size as file_size
from ..model.values import moment
from ..model.visible import EMOJI_STYLE, JOINER, SHAPING
from ..model.visible import json_text as json_text
from ..model.visible import sanitize as sanitize

NULL = "–"  # loaded, and empty upstream; a value that was never loaded is blank

CLUSTER = 8  # characters that may make one cell: a letter with all its accents
REGIONAL = range(0x1F1E6, 0x1F200)  # letters; two of them are a flag
SKINS = range(0x1F3FB, 0x1F400)  # skin colours of the emoji before them
PAINTED = re.compile(r"(\033\[(?:[012]|3[123])m|\n)")  # what we write to a terminal on purpose

UUID_SIZE = 36  # characters of a UUID: every hash is at least as long
HASH = (  # compiled when a text is long enough: that takes longer than most commands need for all else
    "([0-9a-f]{10})[0-9a-f]{30}(?:[0-9a-f]{24})?|([0-9a-f]{8})-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
)

Colour = Literal["bold", "dim", "red", "green", "yellow"]
CODES: dict[Colour, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
STATUS_COLOURS: dict[str, Colour] = {
    "completed": "green",
    "running": "green",
    "partial": "yellow",
    "paused": "yellow",
    "interrupted": "yellow",
    "failed": "red",
    "cancelled": "dim",
}


# -- characters ------------------------------------------------------------------------------


def sanitize_lines(text: str) -> str:
    """Lines of ours, with their colours; whatever else could control the terminal is spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if PAINTED.fullmatch(one) else sanitize(one) for one in PAINTED.split(text))


def clusters(text: str) -> Iterator[str]:
    """The characters as a reader sees them: a letter with its accents, a flag, a joined emoji."""
    cluster = ""
    for character in text:
        if cluster and not _continues(cluster, character):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _continues(cluster: str, character: str) -> bool:
    code, last = ord(character), cluster[-1]
    if code in REGIONAL:
        return len(cluster) == 1 and ord(cluster) in REGIONAL
    if 0x1160 <= code <= 0x11FF:  # the vowel and the end of a Korean syllable
        return 0x1100 <= ord(cluster[0]) <= 0x11FF
    joined = last == JOINER and code > 0x2000
    return joined or code in SKINS or category(character)[0] == "M" or character in SHAPING


def display_width(text: str, most: int | None = None) -> int:
    """How many cells the text takes on a terminal; ``most`` for more, without reading all of it."""
    if text.isascii():
        return len(text) if most is None else min(len(text), most)
    taken = 0
    for cluster in clusters(text if most is None else text[: most * CLUSTER]):
        taken += _cluster_width(cluster)
        if most is not None and taken >= most:
            return most
    return taken


def _cluster_width(cluster: str) -> int:
    first = cluster[0]
    if EMOJI_STYLE in cluster or ord(first) in REGIONAL or east_asian_width(first) in "WF":
        return 2
    return 0 if category(first) in ("Mn", "Me", "Cf") else 1


def truncate(text: str, width: int) -> str:
    """The beginning of a text, at most ``width`` cells; ``…`` marks that more follows."""
    if len(text) * 2 <= width or display_width(text, width + 1) <= width:
        return text
    taken, kept = 0, []
    for cluster in clusters(text):
        taken += _cluster_width(cluster)
        if taken >= width:
            break
        kept.append(cluster)
    return "".join(kept) + "…" if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text, filled up with spaces to a width."""
    space = " " * (width - display_width(text, width))
    return space + text if right else text + space


class Paint:
    """Colours, or none: ``paint(text, "bold")``."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, text: str, colour: Colour | None) -> str:
        return f"\033[{CODES[colour]}m{text}\033[0m" if self.on and colour else text

    def status(self, status: str, width: int = 0) -> str:
        """A sync's status in its colour, padded."""
        return self(pad(status, width), STATUS_COLOURS.get(status))


PLAIN = Paint(on=False)


# -- counts and times -----------------------------------------------------------------------------------


def number(count: int) -> str:
    """A count with separators: ``20,000``."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def folded(text: str, room: int | None) -> list[str]:
    """The words of a text on lines of at most ``room`` cells; a longer word has a line of its own."""
    lines = [""]
    for word in text.split(" ") if room is not None else [text]:
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if room is None or not lines[-1] or display_width(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def wrapped(parts: Sequence[str], room: int | None) -> list[str]:
    """The parts with commas between them, on as many lines of ``room`` cells as it takes."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if room is None or not lines[-1] or display_width(longer) < room:
            lines[-1] = longer
        else:
            lines[-1] += ","
            lines.append(part)
    return lines


def duration(seconds: float) -> str:
    """A duration: ``40 ms``, ``4.2 s``, ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 0.95:
        return f"{max(round(seconds * 1000), 0)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"


def first_few(names: Sequence[str]) -> str:
    """The first names, and how many more there are: ``a, b, c and 2 more``."""
    return _and_more(names, len(names) if len(names) <= 4 else 3)  # "and 1 more" is as long as a name


def names_that_fit(names: Sequence[str], room: int | None) -> str:
    """The first names, as many as ``room`` cells hold, and how many more there are."""
    if room is None:
        return ", ".join(names)
    shown = next(
        (n for n in range(len(names), 1, -1) if display_width(_and_more(names, n), room + 1) <= room), 1
    )
    return _and_more(names, shown)


def _and_more(names: Sequence[str], shown: int) -> str:
    more = f" and {len(names) - shown} more" if shown < len(names) else ""
    return f"{', '.join(names[:shown])}{more}"


SHORT_AGES = ((129_600, 86_400, "d"), (5_400, 3_600, "h"), (90, 60, "min"))  # from, unit; in seconds


def short_age(seconds: float) -> str:
    """An age in one unit: ``42 s``, ``5 min``, ``3 h``, ``12 d``."""
    for least, unit, name in SHORT_AGES:
        if seconds >= least:
            return f"{number(int(seconds // unit))} {name}"
    return f"{int(seconds)} s"


AGES = ((86_400 * 365, "year"), (86_400 * 30, "month"), (86_400, "day"), (3600, "hour"), (60, "minute"))


def ago(at: float | None, now: float) -> str:
    """How long ago a time was: ``3 days ago``; "never" for None."""
    if at is None:
        return "never"
    for seconds, unit in AGES:
        count = int((now - at) // seconds)
        if count >= 1:
            return f"{counted(count, unit)} ago"
    return "just now"


def until(due: float, now: float) -> str:
    """A future time on the local clock: ``14:03``, ``14:03:20``, ``2026-02-01 00:10``.

    It is rounded up, so that it never names a time that is too early: to the minute, or to the
    second when it is near.
    """
    step = 1 if due - now < 120 else 60
    then = moment(math.ceil(due / step) * step if math.isfinite(due) else due, None)  # the reader's own zone
    if then.date() != moment(now, None).date():
        return then.isoformat(" ", "minutes")
    return f"{then:%H:%M:%S}" if step == 1 else f"{then:%H:%M}"


def short_time(at: float | None, width: int | None = None) -> str:
    """Seconds since the epoch as ``2026-01-31 09:30``: local on a terminal, which has a width, else UTC."""
    if at is None:
        return NULL
    return moment(at).isoformat(" ", "minutes")[:16] if width is None else cell(moment(at), width)


def time_to_second(at: float, width: int | None) -> str:
    """A time to the second: local on a terminal, which has a width, else UTC."""
    return (moment(at) if width is None else local_time(moment(at))).isoformat(" ", "seconds")[:19]


def clock_time(at: float, width: int | None) -> str:
    """A past time: on a terminal ``09:30``, with the date unless it is today's; elsewhere in UTC."""
    if width is None:
        return f"{short_time(at)} UTC"
    local, today = local_time(moment(at)), local_time(moment(time.time()))
    return f"{local:%H:%M}" if local.date() == today.date() else local.isoformat(" ", "minutes")[:16]


def zone_note() -> str:
    """In which zone a terminal shows times, and in which filters read them."""
    names = dict.fromkeys(time.tzname[: 1 + bool(time.daylight)])
    if names.keys() <= {"UTC", "GMT", "Universal", "Zulu"} and not time.timezone:
        return "times are UTC"
    return f"times are local ({'/'.join(names)}); a filter's are UTC"


def iso_time(at: float | None) -> str | None:
    """Seconds since the epoch as ``2026-01-31T09:30:00Z``, for JSON."""
    return None if at is None else f"{moment(at).isoformat('T', 'seconds')[:19]}Z"


# -- values ----------------------------------------------------------------------------------


def cell(value: object, width: int | None = None) -> str:
    """A field's value on one line; a ref is its id.

    On a terminal, which has a ``width``, times are local and to the minute, hashes are cut, and of a
    long text only as much is looked at as can be shown.  Elsewhere (None) everything is exact.
    """
    if value is None or value == []:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return exact_time(value) if width is None else local_time(value).isoformat(" ", "minutes")[:16]
    if isinstance(value, date):
        return value.isoformat()
    return beginning(_text_of(value, cut=width is not None), width)


def _text_of(value: object, *, cut: bool) -> str:
    """A text, an id or a list of texts as it is, with ``cut`` hashes; everything else as JSON."""
    texts = [value] if isinstance(value, str | Ref) else value
    if isinstance(texts, list):
        texts = [one.id if isinstance(one, Ref) else one for one in texts]
    if isinstance(texts, list) and all(isinstance(one, str) for one in texts):
        return ", ".join(map(cut_hash, texts) if cut else texts)
    return json_text(texts)


def exact_time(value: datetime) -> str:
    """A time in UTC with all its digits: ``2026-01-31T09:30:00Z``."""
    return f"{value.astimezone(UTC).isoformat()[:-6]}Z"


def local_time(value: datetime) -> datetime:
    """The time in the reader's own zone; one at an end of the calendar stays in UTC."""
    try:
        return value.astimezone()
    except (OverflowError, ValueError, OSError):
        return value.astimezone(UTC)


def cut_hash(text: str) -> str:
    """A text that is a hash or a UUID as people quote it: its beginning; ``…`` when more follows."""
    if len(text) < UUID_SIZE or not (found := re.match(HASH, text)):
        return text
    return f"{found[1] or found[2]}{'…' if found.end() < len(text) else ''}"


def beginning(text: str, width: int | None) -> str:
    """The text on one line, or as much of it as ``width`` cells can show and ``…``."""
    most = None if width is None else width * CLUSTER + CLUSTER
    return sanitize(text) if most is None or len(text) <= most else f"{sanitize(text[:most])}…"


def full_text(value: object, *, local: bool = False) -> str:
    """A field's value as ``max get`` shows it: unshortened, and a ref names its entity."""
    if isinstance(value, Ref):
        return sanitize(str(value.key))
    if isinstance(value, datetime):
        return local_time(value).isoformat(" ", "seconds") if local else exact_time(value)
    if isinstance(value, str):
        return "\n".join(map(sanitize, value.splitlines()))
    return cell(value)
