"""changes: what changed in the rows, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..model.changes import Change
from .framework import Answer, Ending, Options, Parser, paint
from .tables import MOST
from .text import Colour, Paint, cell, iso_time, pad, short_time, truncate

if TYPE_CHECKING:
    from ..model.changes import ChangePage
    from ..model.values import Json
    from ..query.reader import Reader

COLUMNS = ("at", "kind", "entity", "id", "sync", "old", "new", "cursor")  # of a change as JSON data
COLOURS: dict[str, Colour] = {"created": "green", "removed": "red", "restored": "yellow"}
KIND = 8  # cells of the longest kind of change
PAGE = 1_000  # changes that are read at a time


def configure_changes(parser: Parser) -> None:
    """``max changes INSTALLATION``."""
    parser.answers_rows = True
    parser.add_target()
    parser.add_argument(
        "--since", metavar="CURSOR", help="only later changes; `now` gives none, but the newest cursor"
    )
    parser.add_argument("--entity", metavar="ENTITY", help="only this one")
    parser.add_limit("changes (default: all)")
    parser.add_examples(
        "max changes acme:default",
        "max changes acme:default --entity AcmeTask --since CURSOR -o ndjson",
        "max changes acme:default --since now -o json",
    )


def run_changes(options: Options) -> Answer:
    """The changes, oldest first, as they are read; with the cursor that continues after them."""
    return options.while_reading(partial(changed, options))


def changed(options: Options, reader: Reader) -> Answer:
    """The changes of one installation, read while they are printed."""
    changes = Changes(options, reader)

    def notes() -> Iterator[str]:
        if not changes.last.more:
            found = "" if changes.shown else "nothing changed; "
            yield f"{found}continue later with: --since {changes.last.cursor}"

    return options.listing(
        map(change_row, changes),
        lambda: changes_text(changes),
        notes(),
        columns=COLUMNS,
        ending=changes.ending,
    )


class Changes:
    """The changes that the options ask for, read a page at a time; ``last`` is the newest page."""

    last: ChangePage

    def __init__(self, options: Options, reader: Reader) -> None:
        self._options, self._reader, self.shown = options, reader, 0

    def __iter__(self) -> Iterator[Change]:
        limit, since = self._options.limit, self._options.since
        while True:
            size = PAGE if limit is None else min(limit - self.shown, PAGE)
            self.last = self._reader.changes(since, entity=self._options.entity or None, limit=size)
            self.shown += len(self.last.items)
            yield from self.last.items
            if not self.last.more or self.shown == limit:
                return
            since = self.last.cursor

    def ending(self) -> Ending:
        """Where to continue, and whether more changes follow already."""
        page = self.last
        return Ending(self.shown, None, page.more, page.cursor, ("--since", page.cursor))


def change_row(change: Change) -> dict[str, Json]:
    """A change as JSON data, its time first."""
    return {"at": iso_time(change.at), **change.to_dict()}


def changes_text(changes: Changes) -> Iterator[str]:
    """A line for each change, and below an update one for each field."""
    for change in changes:
        yield from change_lines(change, paint())


def change_lines(change: Change, paint: Paint) -> Iterator[str]:
    """Time, kind and row of a change; for an update, the old and the new value of each field."""
    kind = paint(pad(change.kind, KIND), COLOURS.get(change.kind))
    yield f"{short_time(change.at)}  {kind}  {change.ref!r}"
    if change.kind == "updated":
        for name in {**change.old, **change.new}:
            old, new = (shown_value(side, name) for side in (change.old, change.new))
            yield f"  {paint(name, 'dim')}: {old} → {new}"


def shown_value(side: Mapping[str, Any], name: str) -> str:
    """A field's value on one line, or "(not loaded)"."""
    return truncate(cell(side[name], MOST), MOST) if name in side else "(not loaded)"
