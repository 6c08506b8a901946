"""Results as people read them: tables that fit, text that cannot harm the terminal, times in words.

Rule 1: a text is cut between characters as a reader sees them, never inside one, and is
measured in the cells that it takes on a terminal.

Rule 2: what comes from upstream is shown, never obeyed: control characters reach no terminal.

Rule 3: nothing here prints, reads a clock or looks at a terminal; width, time and whether to
use colours are arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import category, east_asian_width

from ..core import InstallationInfo
from ..model.entities import Entity, FieldType, ManyOf, Ref, values_of
from ..model.schema import Schema, description_of
from ..model.values import Json, Kind

if TYPE_CHECKING:
    from ..model.tasks import Failure, SyncResult, SyncRun

NULL = "–"  # loaded, and empty upstream; what was never loaded is blank
GAP = 2  # cells between two columns
LEAST = 8  # cells that a column of prose keeps when there is no room for all
MOST = 60  # cells that a column of prose takes when there is room for all
SHOWN_FAILURES = 10  # failures that a summary lists; `max runs show` lists all
NUMBERS = frozenset({Kind.INTEGER, Kind.REAL})

JOINER = "\u200d"  # makes one emoji of two
EMOJI_STYLE = "\ufe0f"  # the character before it is an emoji, two cells wide
HARMLESS_FORMATS = frozenset({JOINER, "\u200c", *map(chr, range(0xE0020, 0xE0080))})
REGIONAL = range(0x1F1E6, 0x1F200)  # two of them make a flag
SKINS = range(0x1F3FB, 0x1F400)  # colour the emoji before them
ESCAPED = {
    code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
}

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


def harmless(text: str) -> str:
    """The text on one line, with what would steer a terminal spelled out."""
    return text if text.isprintable() else "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    if character.isprintable() or character in HARMLESS_FORMATS:
        return character
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f\x85":
        return " "
    if category(character) in ("Cc", "Cf", "Cs"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return character


def clusters(text: str) -> Iterator[str]:
    """The characters as a reader sees them: a base with its accents, a flag, a joined emoji."""
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
    return joined or code in SKINS or category(character)[0] == "M" or character in HARMLESS_FORMATS


def cells(text: str) -> int:
    """How many cells a text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_cells, clusters(text)))


def _cells(cluster: str) -> int:
    first = cluster[0]
    if EMOJI_STYLE in cluster or ord(first) in REGIONAL or east_asian_width(first) in "WF":
        return 2
    return 0 if category(first) in ("Mn", "Me", "Cf") else 1


def cut(text: str, width: int) -> str:
    """The beginning of a text that takes at most ``width`` cells; ``…`` tells that it goes on."""
    if len(text) * 2 <= width or cells(text) <= width:
        return text
    taken, kept = 0, []
    for cluster in clusters(text):
        taken += _cells(cluster)
        if taken >= width:
            break
        kept.append(cluster)
    return "".join(kept) + "…" if width > 0 else ""


def padded(text: str, width: int, *, right: bool = False) -> str:
    """The text with spaces up to a width."""
    space = " " * (width - cells(text))
    return space + text if right else text + space


class Paint:
    """Colours, or none: ``paint(text, "bold")``."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, text: str, colour: Colour | None) -> str:
        return f"\033[{CODES[colour]}m{text}\033[0m" if self.on and colour else text

    def status(self, status: str, width: int = 0) -> str:
        """A sync's status in its colour, padded."""
        return self(padded(status, width), STATUS_COLOURS.get(status))


PLAIN = Paint(on=False)


# -- words -----------------------------------------------------------------------------------


def number(count: int) -> str:
    """A count with separators: ``20,000``."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """How long something took: ``40 ms``, ``4.2 s``, ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
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


AGES = ((86_400 * 365, "year"), (86_400 * 30, "month"), (86_400, "day"), (3600, "hour"), (60, "minute"))


def ago(at: float | None, now: float) -> str:
    """How long ago a moment was, in words; "never" for None."""
    if at is None:
        return "never"
    for seconds, unit in AGES:
        count = int((now - at) // seconds)
        if count >= 1:
            return f"{counted(count, unit)} ago"
    return "just now"


def until(due: float, now: float) -> str:
    """A time to come, as the clock on the wall shows it: ``14:03``, ``14:03:20``, ``2026-02-01 00:10``.

    Rounded up, so that nobody looks again too early: to the minute, or to the second when it is near.
    """
    step = 1 if due - now < 120 else 60
    then = datetime.fromtimestamp(-(-due // step) * step)  # local, as the reader's clock is
    if then.date() != datetime.fromtimestamp(now).date():
        return f"{then:%Y-%m-%d %H:%M}"
    return f"{then:%H:%M:%S}" if step == 1 else f"{then:%H:%M}"


def moment(at: float | None) -> str:
    """Seconds since the epoch as a short time in UTC."""
    return NULL if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def stamp(at: float | None) -> str | None:
    """Seconds since the epoch as JSON has times."""
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def compact(value: Json, *, indent: int | None = None) -> str:
    """JSON text in which no character steers a terminal."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=False, separators=separators, indent=indent)
    return text if text.isascii() and "\x7f" not in text else text.translate(ESCAPED)


# -- values ----------------------------------------------------------------------------------


def cell(value: object) -> str:
    """A field's value on one line, with times short and a ref as its id."""
    if value is None:
        return NULL
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
    if isinstance(value, Ref):
        return harmless(value.id)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return harmless(", ".join(value))
    return value.isoformat() if isinstance(value, date) else harmless(compact(value))


def whole_value(value: object) -> str:
    """A field's value as ``max get`` shows it: nothing is shortened, a ref names its entity."""
    if isinstance(value, Ref):
        return harmless(str(value.key))
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return "\n".join(map(harmless, value.splitlines()))
    return cell(value)


# -- tables ----------------------------------------------------------------------------------


class Column:
    """A column: its name, whether it holds numbers, and whether it must not be cut."""

    __slots__ = ("name", "right", "whole")

    def __init__(self, name: str, *, right: bool = False, whole: bool = False) -> None:
        self.name, self.right, self.whole = name, right, whole or right


class Table:
    """Columns with widths that fit a terminal, made from the first rows.

    ``width`` in cells, None for as wide as it comes.  ``hidden`` are the columns for which
    there was no room.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        width: int | None,
        paint: Paint = PLAIN,
    ) -> None:
        self._paint = paint
        natural = [
            max([cells(column.name), *(cells(row[i]) for row in rows)]) for i, column in enumerate(columns)
        ]
        self._widths = fitted(columns, natural, width)
        self._columns = columns[: len(self._widths)]
        self.hidden = [column.name for column in columns[len(self._widths) :]]

    def header(self) -> str:
        """The names of the columns."""
        return self._paint(self.line([column.name for column in self._columns]), "bold")

    def line(self, row: Sequence[str]) -> str:
        """A row's cells in their columns."""
        parts = [
            padded(cut(text, width), width, right=column.right)
            for text, width, column in zip(row, self._widths, self._columns, strict=False)
        ]
        return (" " * GAP).join(parts).rstrip()


def fitted(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """The width of each column that has room; the last ones have none when all are at their least."""
    if width is None:
        return list(natural)
    natural = [
        size if column.whole else min(size, MOST) for column, size in zip(columns, natural, strict=True)
    ]
    least = [
        size if column.whole else min(size, LEAST) for column, size in zip(columns, natural, strict=True)
    ]
    while len(least) > 1 and sum(least) + GAP * (len(least) - 1) > width:
        least.pop()
    least[0] = min(least[0], max(width, 1))
    return shared_out(least, natural, width - sum(least) - GAP * (len(least) - 1))


def shared_out(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Give room to the columns that want more, the same to each, until there is none."""
    widths = list(least)
    while room > 0 and (growing := [i for i, size in enumerate(widths) if size < natural[i]]):
        share = max(room // len(growing), 1)
        for i in growing[:room]:
            step = min(share, natural[i] - widths[i])
            widths[i] += step
            room -= step
    return widths


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None, paint: Paint = PLAIN
) -> list[str]:
    """Header and rows."""
    made = Table(columns, rows, width, paint)
    return [made.header(), *map(made.line, rows)]


def entity_columns(entity: type[Entity], fields: Sequence[str]) -> list[Column]:
    """The columns of a search: the id first, numbers on the right."""
    types = entity.types()
    return [Column("id", whole=True), *(_column(name, types[name]) for name in fields if name != "id")]


def _column(name: str, holds: FieldType) -> Column:
    short = holds.kind in (Kind.BOOLEAN, Kind.DATE, Kind.DATETIME)
    return Column(name, right=holds.kind in NUMBERS, whole=short)


def entity_row(entity: Entity, fields: Sequence[str]) -> list[str]:
    """The cells of a record; what is not loaded is blank."""
    values = values_of(entity)
    return [harmless(entity.id), *(cell(values[n]) if n in values else "" for n in fields if n != "id")]


def record(entity: Entity, fields: Sequence[str], paint: Paint = PLAIN) -> list[str]:
    """A record with a line for each field, longer texts indented below its name."""
    values = values_of(entity)
    names = ["id", *(name for name in fields if name != "id")]
    width = max(map(cells, names))
    lines = [paint(f"{type(entity).__name__}:{harmless(entity.id)}", "bold")]
    for name in names:
        text = whole_value(values[name]) if name in values else "(not loaded)"
        first, *more = text.split("\n")
        lines.append(f"  {paint(padded(name, width), 'dim')}  {first}".rstrip())
        lines += [f"{' ' * (width + 4)}{line}".rstrip() for line in more]
    return lines


# -- schemas ---------------------------------------------------------------------------------


def field_kind(holds: FieldType) -> str:
    """What a field holds: ``text``, ``ref to AcmeUser``; ``?`` when it may be empty."""
    target = f" to {holds.target.__name__}" if holds.target else ""
    return f"{holds.kind}{target}{'?' if holds.optional else ''}"


def schema_text(
    schema: Schema,
    entities: Sequence[type[Entity]],
    rows: Mapping[str, int],
    width: int | None,
    paint: Paint = PLAIN,
) -> list[str]:
    """Entities with their fields and collections; ``rows`` are counts by entity, where known."""
    lines: list[str] = []
    for entity in entities:
        count = f"  {counted(rows[entity.__name__], 'row')}" if entity.__name__ in rows else ""
        root = "  root" if entity in schema.roots else ""
        lines += [
            "",
            paint(entity.__name__, "bold") + paint(count + root, "dim"),
            f"  {description_of(entity)}",
        ]
        made = _members(entity)
        drawn = Table([Column("", whole=True), Column("", whole=True), Column("")], made, width and width - 2)
        lines += [f"  {drawn.line(row)}" for row in made]
    return lines[1:]


def _members(entity: type[Entity]) -> list[list[str]]:
    """Name, kind and description of the id, of each field and of each collection."""
    fields = entity._fields
    rows = [["id", "text", fields["id"].description]]
    rows += [[name, field_kind(holds), fields[name].description] for name, holds in entity.types().items()]
    for name, child in entity.children().items():
        many: ManyOf[Any, Any] = ManyOf(entity, name)
        by = f" by {many.by.name}" if many.by else ""
        rows.append([name, f"many {child.__name__}{by}", entity._collections[name].description])
    return [[harmless(text) for text in row] for row in rows]


def schema_json(schema: Schema, entities: Sequence[type[Entity]], rows: Mapping[str, int]) -> Json:
    """The schema as data, with the row count of each entity, where known."""
    data = schema.to_json()
    chosen = [one for one in data["entities"] if one["name"] in {e.__name__ for e in entities}]
    return {
        "entities": [one | {"rows": rows.get(one["name"])} for one in chosen],
        "roots": data["roots"],
        "relationships": [
            {"source": r.source, "field": r.field, "target": r.target, "many": r.many}
            for r in schema.relationships
            if r.source in {one["name"] for one in chosen}
        ],
    }


# -- installations ---------------------------------------------------------------------------


def installation_json(info: InstallationInfo) -> dict[str, Json]:
    """An installation as data; its configuration holds no secret."""
    return {
        "installation": str(info),
        "connector": info.connector,
        "name": info.name,
        "id": info.id,
        "config": dict(info.config),
        "connectedAt": stamp(info.connected_at),
    }


def installation_row(info: InstallationInfo, now: float) -> list[str]:
    """A line of ``max ls``."""
    settings = " ".join(f"{key}={cell(value)}" for key, value in info.config.items() if value)
    return [str(info), info.id[:8], ago(info.connected_at, now), settings]


class Standing:
    """How an installation stands: its last sync (None: never), and its rows by entity.

    ``waiting``: until when a running sync can only wait, and how many of its tasks do.
    """

    def __init__(
        self,
        info: InstallationInfo,
        last: SyncRun | None,
        rows: Mapping[str, int],
        waiting: tuple[float, int] | None = None,
    ) -> None:
        self.info, self.last, self.rows, self.waiting = info, last, rows, waiting

    @property
    def unfinished(self) -> str | None:
        """The id of the last sync when it has not ended."""
        return self.last.id if self.last and not self.last.status.final else None

    def to_json(self) -> dict[str, Json]:
        """For ``max status -o json``."""
        last = None if self.last is None else run_json(self.last)
        known = {"lastSync": last, "unfinished": self.unfinished, "rows": dict(self.rows)}
        return {"installation": str(self.info), "id": self.info.id, **known}


def status_text(standing: Standing, now: float, paint: Paint = PLAIN) -> list[str]:
    """One installation's standing for people, with what to do when something is left to do."""
    info, last = standing.info, standing.last
    lines = [paint(str(info), "bold")]
    if last is None:
        return [*lines, f"  never synced; begin with: max sync {info}"]
    when = ago(last.finished_at or last.started_at, now)
    lines.append(f"  last sync   {paint.status(last.status)}, {when} ({last.id})")
    if standing.waiting is not None:
        due, tasks = standing.waiting
        lines.append(f"  waiting     until {until(due, now)}, {counted(tasks, 'task')}")
    if last.failed:
        lines.append(f"  failures    {number(last.failed)}; list them with: max runs show {last.id}")
    if standing.unfinished and last.status != "running":
        lines.append(f"  unfinished  go on with: max resume {info}")
    total = sum(standing.rows.values())
    parts = ", ".join(f"{number(count)} {name}" for name, count in standing.rows.items() if count)
    return [*lines, f"  data        {counted(total, 'row')}{f': {parts}' if parts else ''}"]


# -- syncs -----------------------------------------------------------------------------------


def run_json(run: SyncRun) -> dict[str, Json]:
    """A sync as data."""
    return {
        "id": run.id,
        "status": str(run.status),
        "startedAt": stamp(run.started_at),
        "finishedAt": stamp(run.finished_at),
        "resumed": run.resumed,
        "counts": dict(run.counts),
        "removed": run.removed,
        "unfit": run.unfit,
        "requests": dict(run.requests),
        "failed": run.failed,
        "notes": list(run.notes),
    }


def failure_json(failure: Failure) -> dict[str, Json]:
    """One failure as data: what failed, why, what to do, and in which attempt of which task."""
    names = ("what", "entity", "id", "code", "message", "hint", "sync", "task", "attempt", "version")
    return {name: getattr(failure, name) for name in names} | {"at": stamp(failure.at)}


def result_json(info: InstallationInfo, result: SyncResult) -> dict[str, Json]:
    """What a sync came to, with each failure."""
    failures = [failure_json(one) for one in result.failures]
    return {"installation": str(info), **run_json(result), "failures": failures}


def runs_table(
    found: Sequence[tuple[InstallationInfo, SyncRun]], now: float, width: int | None, paint: Paint = PLAIN
) -> list[str]:
    """Syncs, a line each."""
    columns = [
        *(
            Column("sync", whole=True),
            Column("status", whole=True),
            Column("installation"),
            Column("started"),
        ),
        *(Column("took", right=True), Column("stored", right=True), Column("requests", right=True)),
        Column("failed", right=True),
    ]
    rows = [
        [
            *(run.id, str(run.status), str(info), ago(run.started_at, now), _took(run)),
            *(number(sum(run.counts.values())), number(sum(run.requests.values())), number(run.failed)),
        ]
        for info, run in found
    ]
    made = Table(columns, rows, width)
    widest = max([len("status"), *(len(row[1]) for row in rows)])
    lines = [made.line(row).replace(padded(row[1], widest), paint.status(row[1], widest), 1) for row in rows]
    return [paint(made.header(), "bold"), *lines]


def _took(run: SyncRun) -> str:
    return NULL if run.finished_at is None else duration(run.finished_at - run.started_at)


def summary(
    info: InstallationInfo,
    result: SyncResult,
    width: int | None,
    paint: Paint = PLAIN,
    *,
    all_failures: bool = False,
) -> list[str]:
    """What a sync came to: its status, rows by entity, failures with what to do."""
    took = f" in {_took(result)}" if result.finished_at is not None else ""
    resumed = ", resumed" if result.resumed else ""
    lines = [f"{paint(str(info), 'bold')}: {paint.status(result.status)}{took}{resumed} (sync {result.id})"]
    names = max(map(len, result.counts), default=0)
    digits = max((len(number(count)) for count in result.counts.values()), default=0)
    for name, count in sorted(result.counts.items()):
        lines.append(f"  {padded(name, names)}  {padded(number(count), digits, right=True)}")
    if not result.counts:
        lines.append(f"  {_nothing(result)}")
    removed = f", {counted(result.removed, 'row')} removed" if result.removed else ""
    lines.append(paint(f"  {counted(sum(result.requests.values()), 'request')}{removed}", "dim"))
    lines += [f"  {paint('note', 'yellow')}  {harmless(note)}" for note in result.notes]
    if result.unfit:
        aside = f"  {counted(result.unfit, 'row')} did not fit and stand aside: max quarantine {info}"
        lines.append(paint(aside, "yellow"))
    return [*lines, *failures_text(result.failures, width, paint, everything=all_failures, of=result.id)]


def _nothing(result: SyncResult) -> str:
    """Why no rows are counted: each request is, and of rows those alone that were listed."""
    if result.status != "completed":
        return "nothing was stored"
    if result.requests or result.removed:
        return "no rows were listed"
    return "nothing is stale, so nothing was asked for"


def failures_text(
    failures: Sequence[Failure], width: int | None, paint: Paint, *, everything: bool, of: str
) -> list[str]:
    """Failures with what to do, those with the same cause under one heading."""
    if not failures:
        return []
    shown = failures if everything else failures[:SHOWN_FAILURES]
    lines = [paint(f"{counted(len(failures), 'failure')}:", "red")]
    causes: dict[tuple[str, str], list[Failure]] = {}
    for one in shown:
        causes.setdefault((one.message, one.hint), []).append(one)
    for (message, hint), alike in causes.items():
        for one in alike:
            lines.append(f"  {_fit(one.what, width, 2)}")
            if everything:
                lines.append(f"    attempt {one.attempt}, {stamp(one.at)}")
        lines += [f"    {harmless(line)}" for line in message.splitlines()]
        lines += [f"    {paint(harmless(hint), 'dim')}"] if hint else []
    left = len(failures) - len(shown)
    return [*lines, f"  … and {number(left)} more: max runs show {of}"] if left else lines


def _fit(text: str, width: int | None, indent: int) -> str:
    return harmless(text) if width is None else cut(harmless(text), width - indent)


def progress_line(
    counts: Mapping[str, int], elapsed: float, rate: float, note: str, width: int | None
) -> str:
    """A running sync on one line: seconds, rows a second, rows by entity, and what it waits for."""
    parts = [f"{name} {number(count)}" for name, count in sorted(counts.items())]
    speed = [f"{number(round(rate))}/s"] if rate >= 1 else []
    clock = duration(elapsed) if elapsed >= 60 else f"{int(elapsed)} s"
    text = "  ".join([clock, *speed, *(parts or ["starting"]), *([note] if note else [])])
    return text if width is None else cut(text, width)
