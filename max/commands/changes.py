"""changes: what changed in the rows, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..model.changes import Change
from .framework import Answer, Options, Parser, json_stream, paint
from .tables import MOST
from .text import Colour, Paint, cell, iso_time, json_text, pad, short_time, truncate

if TYPE_CHECKING:
    from ..model.changes import ChangePage
    from ..model.values import Json

COLOURS: dict[str, Colour] = {"created": "green", "removed": "red", "restored": "yellow"}
KIND = 8  # cells of the longest kind of change
PAGE = 1_000  # changes that are read at a time


def configure_changes(parser: Parser) -> None:
    """``max changes INSTALLATION``."""
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
    notes: list[str] = []
    changes = Changes(options)
    if options.output == "text":
        return Answer(changes_text(changes, notes), notes)
    if options.output == "json":
        return Answer(json_stream({}, map(change_row, changes), changes.meta))
    return Answer(changes_ndjson(changes))


class Changes:
    """The changes that the options ask for, read a page at a time; ``last`` is the newest page."""

    last: ChangePage

    def __init__(self, options: Options) -> None:
        self._options = options

    def __iter__(self) -> Iterator[Change]:
        left, since = self._options.limit, self._options.since
        with self._options.reading() as reader:
            while True:
                size = PAGE if left is None else min(left, PAGE)
                self.last = reader.changes(since, entity=self._options.entity or None, limit=size)
                yield from self.last.items
                left = None if left is None else left - len(self.last.items)
                if not self.last.more or left == 0:
                    return
                since = self.last.cursor

    def meta(self) -> dict[str, Json]:
        """Where to continue, and whether more changes follow already."""
        return {"hasMore": self.last.more, "cursor": self.last.cursor}


def change_row(change: Change) -> dict[str, Json]:
    """A change as JSON data, its time first."""
    return {"at": iso_time(change.at), **change.to_dict()}


def changes_ndjson(changes: Changes) -> Iterator[str]:
    """A line for each change, then one with the cursor that continues after them."""
    yield from map(json_text, map(change_row, changes))
    yield json_text({"_meta": changes.meta()})


def changes_text(changes: Changes, notes: list[str]) -> Iterator[str]:
    """A line for each change, and below an update one for each field."""
    shown = False
    for change in changes:
        shown = True
        yield from change_lines(change, paint())
    found = "" if shown else "nothing changed; "
    follows = "more follow" if changes.last.more else "continue later with"
    notes.append(f"{found}{follows}: --since {changes.last.cursor}")


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
