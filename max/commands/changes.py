"""What the commands do that are about how data is kept: its settings, and what changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..core import InstallationInfo
from ..errors import CursorExpired, HistoryError
from ..model.changes import Change, ChangePage, change_json
from ..storage.change_log import PAGE
from .framework import (
    Answer,
    Options,
    Parser,
    add_target,
    at_least_one,
    examples,
    paint,
    reading,
)
from .tables import MOST
from .text import Colour, Paint, cell, compact, cut, moment, padded, stamp

if TYPE_CHECKING:
    from ..model.values import Json

COLOURS: dict[str, Colour] = {"created": "green", "removed": "red", "restored": "yellow"}
KIND = 8  # cells of the longest kind of change


# -- configure --------------------------------------------------------------------------------


# -- changes ----------------------------------------------------------------------------------


def configure_changes(parser: Parser) -> None:
    """``max changes INSTALLATION``."""
    add_target(parser)
    parser.add_argument(
        "--since", metavar="CURSOR", help="only what came after; now: nothing but the newest cursor"
    )
    parser.add_argument("--entity", metavar="ENTITY", help="only this one")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="changes (default: all)")
    parser.set_defaults(run=run_changes)
    examples(
        parser,
        "max changes acme:default  (once there is: max settings acme:default history=changes)",
        "max changes acme:default --entity AcmeTask --since CURSOR -o ndjson",
        "max changes acme:default --since now -o json",
    )


def run_changes(options: Options) -> Answer:
    """What changed, oldest first, as it is read; with the cursor from which to go on."""
    notes: list[str] = []
    lines = {"text": changes_text, "json": changes_json, "ndjson": changes_ndjson}[options.output]
    return Answer(lines(options, notes), notes)


def pages(options: Options) -> Iterator[ChangePage]:
    """The changes that the options ask for, a page at a time; there is always one."""
    left, since = options.limit, options.since
    with reading(options) as open:
        entity = open.entity(options.entity) if options.entity else None
        while True:
            size = PAGE if left is None else min(left, PAGE)
            with naming(open.info):
                page = open.tables.history.page(open.connection, since, entity=entity, limit=size)
            yield page
            left = None if left is None else left - len(page.items)
            if not page.more or left == 0:
                return
            since = page.cursor


@contextmanager
def naming(info: InstallationInfo) -> Iterator[None]:
    """Have it said of which installation nothing is recorded."""
    try:
        yield
    except CursorExpired:
        raise
    except HistoryError as error:
        hint = f"turn it on with: max settings {info} history=changes"
        if info.settings.history != "off":
            hint = f"it begins with: max sync {info}"
        raise HistoryError(f"{info}: {error.message}", hint=hint) from error


def meta(page: ChangePage) -> dict[str, Json]:
    """Where to go on, and whether there is more already."""
    return {"hasMore": page.more, "cursor": page.cursor}


def row(change: Change) -> dict[str, Json]:
    """A change as JSON data, its time first."""
    return {"at": stamp(change.at), **change_json(change)}


def changes_ndjson(options: Options, notes: list[str]) -> Iterator[str]:
    """A line for each change; at the end from which cursor to go on."""
    for page in pages(options):
        yield from map(compact, map(row, page.items))
    yield compact({"_meta": meta(page)})


def changes_json(options: Options, notes: list[str]) -> Iterator[str]:
    """``{"data", "hasMore", "cursor"}``, written as it is read."""
    separator = '{"data":['
    for page in pages(options):
        for one in page.items:
            yield separator + compact(row(one))
            separator = ","
    head = separator if separator != "," else ""
    yield f"{head}],{compact(meta(page))[1:]}"


def changes_text(options: Options, notes: list[str]) -> Iterator[str]:
    """A line for each change, and below an update one for each field."""
    shown = False
    for page in pages(options):
        for change in page.items:
            shown = True
            yield from change_lines(change, paint())
    found = "" if shown else "nothing changed; "
    notes.append(f"{found}{'more follow' if page.more else 'go on later with'}: --since {page.cursor}")


def change_lines(change: Change, paint: Paint) -> Iterator[str]:
    """When what became of what; of an update each field as it was and as it is."""
    kind = paint(padded(change.kind, KIND), COLOURS.get(change.kind))
    yield f"{moment(change.at)}  {kind}  {change.ref!r}"
    if change.kind == "updated":
        for name in {**change.old, **change.new}:
            old, new = (shown_value(side, name) for side in (change.old, change.new))
            yield f"  {paint(name, 'dim')}: {old} → {new}"


def shown_value(side: Mapping[str, Any], name: str) -> str:
    """A field's value on one line, or that there is none."""
    return cut(cell(side[name]), MOST) if name in side else "(not loaded)"
