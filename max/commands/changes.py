"""changes: what changed in the rows, and when.

Text is for people: the newest changes first, a screenful of them, with the rows' titles.  The other
formats are for programs that follow the changes: oldest first, all of them, with the cursor that
continues after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any

from ..model.changes import ALL_ROWS, KINDS, NOW, Change, ChangeSummary, read_since
from .framework import Answer, Ending, Options, paint
from .parser import Parser
from .tables import MOST
from .terminal import line_width
from .text import Colour, Paint, cell, display_width, iso_time, number, pad, short_time, truncate, zone_note

if TYPE_CHECKING:
    from ..model.changes import ChangePage
    from ..model.entities import Entity
    from ..model.values import Json
    from ..query.reader import Reader

COLOURS: dict[str, Colour] = {"created": "green", "removed": "red", "restored": "yellow"}
KIND = 8  # cells of the longest kind of change
PAGE = 1_000  # changes that are read at a time
SHOWN = 50  # changes that text shows
INDENT = 18  # cells before a field of an update
LEAST_TITLE = 8  # cells that a title or a value is worth showing in
COLUMNS = ("at", "kind", "entity", "id", "title", "sync", "old", "new", "cursor")


def configure_changes(parser: Parser) -> None:
    """``max changes [INSTALLATION]``."""
    parser.answers_rows = True
    parser.add_target(optional=True)
    parser.add_argument(
        "--since",
        metavar="WHEN",
        help="from a time on (yesterday, 1d, 2026-11-26, 2026-11) or after a cursor; beginning: every row"
        " as it was before the oldest change, then all changes; now: only the newest cursor",
    )
    parser.add_argument("--until", metavar="WHEN", help="up to a time, with all of it")
    parser.add_list("--entity", "ENTITY,…", "only these")
    parser.add_list("--fields", "FIELD,…", "only these fields, and of the updates those of one of them")
    parser.add_argument("--summary", action="store_true", help="count the rows that came, changed and went")
    parser.add_limit(f"changes (default: {SHOWN} in text, else all)")
    parser.add_examples(
        "max changes acme:default --since yesterday",
        "max changes acme:default --since 2026-11 --until 2026-11 --summary",
        "max changes acme:default --entity AcmeTask --fields status,assignee",
        "max changes acme:default --since CURSOR -o ndjson",
        "",
        "Text shows the newest changes first. The other formats have the oldest first, for programs",
        "that follow the changes: each has its cursor, and --since CURSOR continues after it.",
    )


def run_changes(options: Options) -> Answer:
    """The changes, as they are read; or what they come to."""
    options.entities = options.entity.split(",") if options.entity else []
    if options.summary:
        with options.reading() as reader:
            return summed_up(options, reader)
    return options.while_reading(lambda reader: listed(options, reader))


def listed(options: Options, reader: Reader) -> Answer:
    """Every change."""
    changes = Changes(options, reader)
    return options.listing(
        starmap(change_row, changes),
        lambda: changes_text(changes),
        changes.notes,
        columns=COLUMNS,
        ending=changes.ending,
    )


class Changes:
    """The changes that the options ask for, with the titles of their rows, read a page at a time."""

    page: ChangePage  # the last one that was read

    def __init__(self, options: Options, reader: Reader) -> None:
        self._options, self.reader = options, reader
        self.newest_first = options.output == "text" and options.since != ALL_ROWS
        self.limit = options.limit or (SHOWN if options.output == "text" else None)
        self.shown, self.notes = 0, list[str]()
        self.wanted = None if options.since is None else read_since(options.since, reader.now)

    def __iter__(self) -> Iterator[tuple[Change, str | None]]:
        options, since = self._options, self._options.since
        fields = options.fields.split(",") if options.fields else ()
        while True:
            self.page = self.reader.changes(
                since,
                until=options.until,
                entity=options.entities,
                fields=fields,
                newest_first=self.newest_first,
                limit=PAGE if self.limit is None else min(self.limit - self.shown, PAGE),
            )
            self.shown += len(self.page.items)
            titles = self.reader.titles({change.ref for change in self.page.items})
            yield from ((change, titles.get(change.ref)) for change in self.page.items)
            if self.newest_first or not self.page.more or self.shown == self.limit:
                self.notes += doubts(self.wanted, self.page.since)
                return
            since = self.page.cursor

    def ending(self) -> Ending:
        """Where the last page ended.  Programs always go on at its cursor; people ask for more."""
        options, page = self._options, self.page
        total = None
        if not options.fields and options.since != ALL_ROWS:
            total = self.reader.count_changes(options.since, until=options.until, entity=options.entities)
        if self.newest_first:
            more = str(4 * self.shown)
            return Ending(
                self.shown, total, page.more, page.cursor, ("--limit", more), f"more: --limit {more}"
            )
        return Ending(self.shown, total, page.more, page.cursor, ("--since", page.cursor))


def change_row(change: Change, title: str | None) -> dict[str, Json]:
    """A change as JSON data, its time and its row first."""
    data = {"at": iso_time(change.at), "title": title, **change.to_dict()}
    return {name: data[name] for name in COLUMNS}


def changes_text(changes: Changes) -> Iterator[str]:
    """A line for each change, and below an update one for each field."""
    colours, room = paint(), line_width()
    for change, title in changes:
        yield from change_lines(change, title, room, colours)
    if not changes.shown:
        changes.notes.append(nothing(changes.wanted))
    elif room is not None:
        changes.notes.append(zone_note())
    if changes.wanted == NOW:
        changes.notes.append(f"continue later with: --since {changes.page.cursor}")


def change_lines(change: Change, title: str | None, room: int | None, paint: Paint) -> Iterator[str]:
    """Time, kind, row and its title; for an update, the old and the new value of each field."""
    kind = paint(pad(change.kind, KIND), COLOURS.get(change.kind))
    at = short_time(change.at, room)
    head = f"{at}  {pad(change.kind, KIND)}  {change.ref!r}"
    left = MOST if room is None else room - display_width(head) - 2
    shown = f"  {truncate(cell(title, left), left)}" if title and left >= LEAST_TITLE else ""
    yield f"{at}  {kind}  {change.ref!r}{shown}"
    if change.kind == "updated":
        for name in {**change.old, **change.new}:
            line = f"{' ' * INDENT}{paint(name, 'dim')}: "
            space = MOST if room is None else max(room - INDENT - len(name) - 5, 2 * LEAST_TITLE) // 2
            old, new = (shown_value(side, name, space) for side in (change.old, change.new))
            yield f"{line}{old} → {new}"


def shown_value(side: Mapping[str, Any], name: str, room: int) -> str:
    """A field's value on one line, or "(not loaded)"."""
    return truncate(cell(side[name], room), room) if name in side else "(not loaded)"


def doubts(wanted: str | float | None, since: float) -> list[str]:
    """A note when changes were asked for that are older than the log."""
    if not isinstance(wanted, float) or wanted >= since:
        return []
    return [f"recording began {short_time(since, line_width())}: what changed before is not known"]


def nothing(wanted: str | float | None) -> str:
    if not isinstance(wanted, float):
        return "nothing changed"
    return f"nothing changed since {short_time(wanted, line_width())}"


# -- the summary -------------------------------------------------------------------------------


def summed_up(options: Options, reader: Reader) -> Answer:
    """How many rows of each entity came, changed and went."""
    found = reader.change_summary(options.since, until=options.until, entity=options.entities)
    wanted = None if options.since is None else read_since(options.since, reader.now)
    notes = doubts(wanted, found.since)
    if not found.kinds:
        notes.append(nothing(wanted))
    rows = [summary_row(entity, found) for entity in found.kinds]
    text = partial(summary_text, found)
    return options.listing(rows, text, notes, columns=("entity", *KINDS, "fields"))


def summary_row(entity: type[Entity], found: ChangeSummary) -> dict[str, Json]:
    """The counts of an entity as JSON data."""
    kinds: dict[str, Json] = {kind: found.kinds[entity].get(kind, 0) for kind in KINDS}
    return {"entity": entity.__name__, **kinds, "fields": dict(found.fields[entity])}


def summary_text(found: ChangeSummary) -> Iterator[str]:
    """``AcmeTask  3 created, 5 updated (status 4, assignee 1)``."""
    names = max((len(entity.__name__) for entity in found.kinds), default=0)
    for entity, kinds in found.kinds.items():
        yield f"{pad(entity.__name__, names)}  {change_counts(kinds, found.fields[entity])}"


def change_counts(kinds: Mapping[str, int], fields: Mapping[str, int]) -> str:
    """``3 created, 5 updated (status 4, assignee 1)``."""
    inside = ", ".join(f"{name} {number(count)}" for name, count in fields.items())
    words = [f"{number(count)} {kind}" for kind, count in kinds.items()]
    return ", ".join(f"{one} ({inside})" if one.endswith("updated") and inside else one for one in words)
