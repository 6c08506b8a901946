"""freshness, invalidate: how old stored data is, and marking it as stale."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .framework import Answer, Options, table
from .parser import Parser
from .tables import Column
from .text import counted, first_few, number, short_age

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.loaders import Resolver
    from ..projects.manager import ProjectManager
    from ..query.ages import FieldAge
    from ..query.maintenance import Invalidation


def configure_freshness(parser: Parser) -> None:
    """``max freshness INSTALLATION [ENTITY[.FIELD]]``."""
    parser.answers_rows = True
    parser.add_target(before=("what",))
    parser.add_argument("what", nargs="?", metavar="ENTITY[.FIELD]", help="only this one, field by field")
    parser.add_examples(
        "max freshness acme:default",
        "max freshness acme:default AcmeUser",
        "max freshness acme:default AcmeUser.timezone -o json",
        "max search acme:default AcmeUser --filter '_age(timezone) > 1d'   (which rows)",
        "",
        "Ages count from the request. never = not fetched yet, or invalidated.",
    )


def run_freshness(options: Options) -> Answer:
    """How old every field is, and how long ago each collection was listed."""
    with options.reading() as reader:
        ages = reader.freshness(options.what)
        roots = frozenset(entity.__name__ for entity in reader.schema.roots)
    fields = [one for one in ages if one.kind in ("field", "entity")]
    listings = [one for one in ages if one not in fields]

    def text() -> Iterator[str]:
        if options.what is None:
            yield from overview(fields, listings, roots)
        else:
            yield from ages_table(["field"], [[str(one), *age_cells(one)] for one in fields], "rows")
        if listings:
            yield ""
            yield from ages_table(["listing"], [[str(one), *age_cells(one)] for one in listings], "places")

    return options.listing([one.to_json() for one in ages], text)


def age_cells(one: FieldAge) -> list[str]:
    """The counts and ages of one thing; blank where nothing has an age."""
    ages = ["" if age is None else short_age(age) for age in one.quantiles().values()]
    return [number(one.of), number(one.ages.never), *ages]


def overview(fields: Sequence[FieldAge], listings: Sequence[FieldAge], roots: Container[str]) -> list[str]:
    """A line for each group of an entity's fields that have the same counts and ages."""
    listed = {one.entity for one in listings if one.ages.ages}
    groups: dict[tuple[str, str], list[FieldAge]] = {}
    for one in fields:
        groups.setdefault((one.entity or "", "|".join(age_cells(one))), []).append(one)
    lines = Counter(entity for entity, _ in groups)
    rows = []
    for (entity, _), group in groups.items():
        names = "all" if lines[entity] == 1 else first_few([one.name for one in group])
        rows.append([entity, *group_cells(group[0], names, entity in listed, entity in roots)])
    return ages_table(["entity", "fields"], rows, "rows")


def group_cells(one: FieldAge, names: str, listed: bool, root: bool) -> list[str]:
    """The cells of a group of fields, of which ``one`` is the first."""
    cells = age_cells(one)
    if one.of == 0:
        return ["no rows" if listed else "never listed", *cells]
    if one.kind == "entity":
        return ["has no fields", cells[0]]
    if root and one.ages.never == one.of:  # no loader fetches it: each sync starts by storing it
        return [f"{names}, stored by the seeder", cells[0]]
    return [names, *cells]


def ages_table(names: Sequence[str], rows: Sequence[Sequence[str]], counts: str) -> list[str]:
    """A table with names on the left, counts and ages on the right."""
    first, *others = names
    numbers = [counts, "never", "youngest", "median", "90 %", "oldest"]
    columns = [Column(first, whole=True), *map(Column, others)]
    columns += [Column(name, right=True) for name in numbers]
    filled = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return table(columns, filled)


# -- invalidate --------------------------------------------------------------------------------


def configure_invalidate(parser: Parser) -> None:
    """``max invalidate INSTALLATION ENTITY[.FIELD] | ENTITY:ID …``."""
    parser.add_target()
    parser.add_argument(
        "what", nargs="+", metavar="ENTITY[.FIELD] | ENTITY:ID", help="what the next sync fetches again"
    )
    parser.add_filter()
    parser.add_examples(
        "max invalidate acme:default AcmeUser:w1-u1",
        "max invalidate acme:default AcmeUser.timezone AcmeUser.last_seen_at",
        "max invalidate acme:default AcmeTask.title --filter 'status = done'",
        "",
        "The values stay and can be read; the next sync fetches them again, whatever their age.",
    )


def run_invalidate(options: Options) -> Answer:
    """Mark stored values as stale, and show what the next sync does about it."""
    from ..query.maintenance import invalidate
    from .schedule_view import before_schedule

    project, info = options.found_target()
    resolver, notes = resolver_of(project, info)
    facts = {"what": list(options.what), "where": options.filter or ""}
    with project.audited("invalidate", info, **facts):
        database, what = project.writable_database(info), partial(invalidate, resolver=resolver)
        found = before_schedule(
            options,
            project,
            info,
            lambda: what(database, info, options.what, where=options.filter, now=time.time()),
        )
    data = {
        "installation": str(info),
        "invalidated": [
            {"entity": one.entity.__name__, "fields": list(one.fields), "rows": one.rows}
            for one in found.fields
        ],
        "listings": dict(found.listings),
        "loaders": {name: list(fields) for name, fields in found.loaders.items()},
    }
    if found.unfinished:
        unfinished = f"sync {found.unfinished} has not ended, and does not fetch again what it already has"
        notes.append(f"{unfinished}; sync once more after it")
    notes.append(f"next: max sync {info}, or only this: max sync {info} --missing-only")
    return options.answer(data, lambda: invalidated_text(found), notes)


def resolver_of(project: ProjectManager, info: InstallationInfo) -> tuple[Resolver | None, list[str]]:
    """The connector's resolver; None, with a note, when the connector cannot be loaded."""
    from ..errors import MaxError

    try:
        return project.connector(info).resolver, []
    except MaxError as error:
        words = f"the connector cannot be loaded ({error.message}), so every listing of these is read in full"
        return None, [words]


def invalidated_text(found: Invalidation) -> Iterator[str]:
    """What is stale now, and what the next sync does about it."""
    for one in found.fields:
        fields = "all fields" if len(one.fields) == len(one.entity.types()) else first_few(one.fields)
        yield f"stale: {fields} of {number(one.rows)} {one.entity.__name__}"
    for collection, count in found.listings.items():
        yield f"  reads in full: {collection} ({counted(count, 'list')})"
    for loader, names in found.loaders.items():
        yield f"  fetches again: {loader}, for {first_few(names)}"
