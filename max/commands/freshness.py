"""How old what is stored is, what counts as stale, and how much of it a sync asks for anew.

Rule 1: to look costs no network and no connector.  Only ``max invalidate`` loads a connector, to
tell what the next sync fetches, and starts nothing of it.

Rule 2: an age is counted from when the request began that brought a value.  What was never asked
for, or was invalidated since, has none, and is counted apart.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from ..core import InstallationInfo
from ..errors import MaxError, SyncRunning, UsageError
from ..model.delivery import AgeHistogram
from ..model.entities import Compare, Entity, FieldOf, Op, RefKey, find_name
from ..model.query import Query
from ..model.struct import Struct
from ..storage.freshness import newest
from ..storage.tables import Tables
from .framework import (
    Answer,
    Options,
    Parser,
    Reading,
    add_target,
    answer,
    examples,
    found_project,
    listing,
    paint,
    reading,
    synced_database,
)
from .query import add_filter, asked_filter
from .tables import Column, table
from .terminal import width
from .text import counted, number

if TYPE_CHECKING:
    from ..installations.project_folder import ProjectFolder
    from ..model.entities import Filter
    from ..model.loaders import Resolver
    from ..model.schema import Schema
    from ..model.values import Json
    from ..storage.database import Connection

SPANS = ((129_600, 86_400, "d"), (5_400, 3_600, "h"), (90, 60, "min"))  # from, in, as; in seconds
SHOWN_FIELDS = 3  # that are named in one cell


# -- how much a sync asks for ------------------------------------------------------------------


# -- freshness ---------------------------------------------------------------------------------


class Aged(Struct):
    """How old one thing is: a field of an entity, a collection, or a feed.

    ``of`` is how many there are: rows, parents, or places where the feed is followed.  An entity
    without fields stands for itself, without ages.
    """

    kind: str
    entity: str | None
    name: str
    of: int
    ages: AgeHistogram

    def __str__(self) -> str:
        return f"{self.entity}.{self.name}" if self.kind == "field" else self.name

    def to_json(self) -> Json:
        """For ``-o json``; ages are in seconds, null when there is none."""
        owner = {} if self.entity is None else {"entity": self.entity}
        counts = {"rows" if self.kind in ("field", "entity") else "places": self.of, "never": self.ages.never}
        shares = {"youngest": 0.0, "median": 0.5, "p90": 0.9, "oldest": 1.0}
        ages = {name: quantile(self.ages, share) for name, share in shares.items()}
        return {"kind": self.kind, **owner, self.kind: self.name, **counts, **ages}

    def cells(self) -> list[str]:
        """The cells of its counts and ages; without an age, blank."""
        found = [quantile(self.ages, share) for share in (0.0, 0.5, 0.9, 1.0)]
        ages = ["" if age is None else span(age) for age in found]
        return [number(self.of), number(self.ages.never), *ages]


def quantile(ages: AgeHistogram, share: float) -> float | None:
    """The age that this share of what has one does not exceed; None when nothing has."""
    wanted, seen = share * sum(rows for _, rows in ages.ages), 0
    for age, rows in ages.ages:
        seen += rows
        if seen >= wanted:
            return age
    return None


def span(seconds: float) -> str:
    """An age as short as it can be told: ``42 s``, ``5 min``, ``3 h``, ``12 d``."""
    for least, unit, name in SPANS:
        if seconds >= least:
            return f"{number(int(seconds // unit))} {name}"
    return f"{int(seconds)} s"


def configure_freshness(parser: Parser) -> None:
    """``max freshness INSTALLATION [ENTITY[.FIELD]]``."""
    add_target(parser)
    parser.add_argument("what", nargs="?", metavar="ENTITY[.FIELD]", help="only this one, field by field")
    parser.set_defaults(run=run_freshness)
    examples(
        parser,
        "max freshness acme:default",
        "max freshness acme:default AcmeUser",
        "max freshness acme:default AcmeUser.timezone -o json",
        "max search acme:default AcmeUser --filter '_age(timezone) > 1d'   (which ones)",
        "",
        "An age is counted from when the request began. Half of what has one is as young as the median;",
        "never: not asked for yet, or invalidated since.",
    )


def run_freshness(options: Options) -> Answer:
    """How old every field is, and how long ago what was listed."""
    with reading(options) as open:
        open.tables.need_newest()
        fields, others = looked_at(open, options.what, time.time())
        roots = frozenset(entity.__name__ for entity in open.tables.schema.roots)

    def text() -> Iterator[str]:
        if options.what is None:
            yield from overview(fields, others, roots)
        else:
            yield from ages_table(["field"], [[str(one), *one.cells()] for one in fields], "rows")
        if others:
            yield ""
            yield from ages_table(["listing"], [[str(one), *one.cells()] for one in others], "places")

    return listing(options, [one.to_json() for one in [*fields, *others]], text)


def looked_at(open: Reading, what: str | None, now: float) -> tuple[list[Aged], list[Aged]]:
    """The fields that are meant; and the listings and feeds that bring them, unless it is one field."""
    entities, field = asked_entities(open.tables.schema, what)
    fields = [one for entity in entities for one in aged_fields(open, entity, field, now)]
    if field:
        return fields, []
    lists = [one for entity in entities for one in aged_listings(open, entity, now)]
    return fields, [*lists, *aged_feeds(open, now)]


def asked_entities(schema: Schema, what: str | None) -> tuple[list[type[Entity]], str | None]:
    """The entities that ``Entity`` or ``Entity.field`` means, or all, and the field."""
    if what is None:
        return list(schema.entities.values()), None
    entity, field = named(schema, what)
    return [entity], field


def named(schema: Schema, text: str) -> tuple[type[Entity], str | None]:
    """``Entity`` or ``Entity.field`` in any case; UnknownName with the nearest, UsageError for an id."""
    name, dot, field = text.partition(".")
    entity = schema.entity(name)
    if not dot:
        return entity, None
    if field in entity.children():
        child = entity.children()[field].__name__
        raise UsageError(f"{entity.__name__}.{field} is a collection", hint=f"write {child}")
    found = find_name(entity, field)
    if found == "id":
        raise UsageError("an id has no age of its own", hint=f"write {entity.__name__}")
    return entity, found


def aged(kind: str, entity: str | None, name: str, ages: AgeHistogram) -> Aged:
    """A thing of which each place is counted in its ages."""
    return Aged(kind, entity, name, ages.never + sum(rows for _, rows in ages.ages), ages)


def aged_fields(open: Reading, entity: type[Entity], field: str | None, now: float) -> list[Aged]:
    """The fields of an entity, or one of them."""
    layout, name = open.tables.layout(entity), entity.__name__
    if not layout.types:
        return [
            Aged("entity", name, name, open.tables.count(open.connection, Query(entity)), AgeHistogram([], 0))
        ]
    fields = [field] if field else list(layout.types)
    found = open.tables.freshness.ages(open.connection, layout, fields, now=now)
    return [aged("field", name, one, ages) for one, ages in found.items()]


def aged_listings(open: Reading, entity: type[Entity], now: float) -> list[Aged]:
    """The collections that list an entity."""
    membership, name = open.tables.membership, entity.__name__
    return [
        aged("listing", name, repr(many), membership.ages(open.connection, many, now=now))
        for many in membership.listing(entity)
    ]


def aged_feeds(open: Reading, now: float) -> list[Aged]:
    """The feeds that are followed."""
    found = open.tables.membership.feeds(open.connection, now=now)
    return [aged("feed", None, name, ages) for name, ages in found.items()]


def overview(fields: Sequence[Aged], others: Sequence[Aged], roots: Container[str | None]) -> list[str]:
    """A line for each lot of an entity's fields that nothing shown tells apart."""
    listed = {one.entity for one in others if one.ages.ages}
    lots: dict[tuple[str | None, str], list[Aged]] = {}
    for one in fields:
        lots.setdefault((one.entity, "|".join(one.cells())), []).append(one)
    several = Counter(entity for entity, _ in lots)
    rows = []
    for (entity, _), lot in lots.items():
        names = "all" if several[entity] == 1 else some([one.name for one in lot])
        rows.append([entity or "", *lot_cells(lot[0], names, entity in listed, entity in roots)])
    return ages_table(["entity", "fields"], rows, "rows")


def lot_cells(one: Aged, names: str, listed: bool, root: bool) -> list[str]:
    """What is said of fields that are as old as this one."""
    cells = one.cells()
    if one.of == 0:
        return ["none there" if listed else "never listed", *cells]
    if one.kind == "entity":
        return ["has no fields", cells[0]]
    if root and one.ages.never == one.of:  # nobody asks for it: each sync begins with storing it
        return [f"{names}, kept by the seeder", cells[0]]
    return [names, *cells]


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    if len(names) <= SHOWN_FIELDS + 1:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN_FIELDS])} and {len(names) - SHOWN_FIELDS} more"


def ages_table(names: Sequence[str], rows: Sequence[Sequence[str]], counts: str) -> list[str]:
    """Names on the left, counts and ages on the right."""
    first, *others = names
    numbers = [counts, "never", "youngest", "median", "90 %", "oldest"]
    columns = [Column(first, whole=True), *map(Column, others)]
    columns += [Column(name, right=True) for name in numbers]
    filled = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return table(columns, filled, width(sys.stdout), paint())


# -- invalidate --------------------------------------------------------------------------------


class Chosen(Struct):
    """Fields of an entity's rows, of those alone that fit a filter."""

    entity: type[Entity]
    fields: tuple[str, ...]
    matching: Filter[Any] | None


def configure_invalidate(parser: Parser) -> None:
    """``max invalidate INSTALLATION ENTITY[.FIELD] | ENTITY:ID …``."""
    add_target(parser)
    parser.add_argument(
        "what", nargs="+", metavar="ENTITY[.FIELD] | ENTITY:ID", help="what shall be asked for again"
    )
    add_filter(parser)
    parser.set_defaults(run=run_invalidate)
    examples(
        parser,
        "max invalidate acme:default AcmeUser:w1-u1",
        "max invalidate acme:default AcmeUser.timezone AcmeUser.last_seen_at",
        "max invalidate acme:default AcmeTask.title --filter 'status = done'",
        "",
        "The values stay and can be read; the next sync asks for them again, whatever their age.",
    )


def run_invalidate(options: Options) -> Answer:
    """Mark as stale; what the next sync makes of it."""
    project = found_project(options)
    info = project.target(options.target)
    resolver, notes = resolver_of(project, info)
    with changing(project, info) as (connection, tables):
        chosen = asked_fields(options, info, connection, tables)
        notes += refuse_running(connection)
        tables.membership.resolver = resolver
        at = max(time.time(), newest(connection))
        rows = [
            tables.invalidate(connection, Query(one.entity, one.matching), one.fields, at=at)
            for one in chosen
        ]
        lists = tables.membership.invalidated(connection, at=at)
    fetched = {} if resolver is None else fetching(resolver, chosen)
    data = {
        "installation": str(info),
        "invalidated": [
            {"entity": one.entity.__name__, "fields": list(one.fields), "rows": count}
            for one, count in zip(chosen, rows, strict=True)
        ],
        "listings": lists,
        "loaders": fetched,
    }
    notes += [f"next: max sync {info}, or just this: max sync {info} --missing-only"]
    return answer(options, data, lambda: invalidated_text(chosen, rows, lists, fetched), notes)


@contextmanager
def changing(project: ProjectFolder, info: InstallationInfo) -> Iterator[tuple[Connection, Tables]]:
    """An installation's tables, inside a transaction that changes them."""
    from ..storage.sqlite import READER_CACHE, connect, transaction, translated

    path = str(synced_database(project, info))
    with (
        translated(path),
        closing(connect(path, cache=READER_CACHE)) as connection,
        transaction(connection),
    ):
        tables = Tables.stored(connection)
        tables.need_newest()
        yield connection, tables


def asked_fields(
    options: Options, info: InstallationInfo, connection: Connection, tables: Tables
) -> list[Chosen]:
    """What the words name, an entity's fields together; NotFound for a ref to what is not stored."""
    ids: dict[type[Entity], list[str]] = {}
    fields: dict[type[Entity], list[str]] = {}
    for word in options.what:
        if ":" in word:
            entity, id = asked_id(word, info, tables.schema)
            tables.load(connection, entity.ref(id))
            ids.setdefault(entity, []).append(id)
        else:
            entity, field = named(tables.schema, word)
            fields.setdefault(entity, []).extend([field] if field else entity.types())
        if not entity.types():
            raise UsageError(f"{entity.__name__} has no fields that could be asked for")
    if ids and options.filter is not None:
        raise UsageError("--filter does not go with a ref, which names one already", hint="leave one out")
    by_id = [Chosen(entity, tuple(entity.types()), with_ids(entity, some)) for entity, some in ids.items()]
    return by_id + [
        Chosen(entity, tuple(dict.fromkeys(names)), asked_filter(options, entity))
        for entity, names in fields.items()
    ]


def asked_id(word: str, info: InstallationInfo, schema: Schema) -> tuple[type[Entity], str]:
    """The entity and the id of a ref."""
    try:
        key = RefKey.parse(word)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if key.installation not in (None, info.id):
        raise UsageError(f"{key} belongs to another installation than {info}", hint="name that one")
    return schema.entity(key.entity), key.id


def with_ids(entity: type[Entity], ids: Sequence[str]) -> Filter[Any]:
    """The filter that some ids fit."""
    field: FieldOf[Any, Any] = FieldOf(entity, "id")
    return Compare(field.path, Op.IN, tuple(ids))


def resolver_of(project: ProjectFolder, info: InstallationInfo) -> tuple[Resolver | None, list[str]]:
    """The connector's resolver; None, and what to know then, when the connector cannot be loaded."""
    try:
        return project.registry.resolve(info.connector).resolver, []
    except MaxError as error:
        words = f"the connector cannot be loaded ({error.message}), so every listing of these runs in full"
        return None, [words]


def refuse_running(connection: Connection) -> list[str]:
    """SyncRunning while answers are under way, which could pass for newer; what to know of a paused sync."""
    from ..model.tasks import Status
    from ..storage.leases import describe_worker
    from ..storage.sync_log import runs

    last = next(iter(runs(connection, 1, now=time.time())), None)
    if last is None or last.status.final:
        return []
    if last.status is Status.RUNNING:
        raise SyncRunning(last.id, describe_worker(last.worker or "////"))
    return [f"sync {last.id} has not ended: what it has asked for, only the sync after it asks for again"]


def fetching(resolver: Resolver, chosen: Sequence[Chosen]) -> dict[str, list[str]]:
    """The loaders that fetch stale fields for given refs, with the fields."""
    found: dict[str, list[str]] = {}
    for one in chosen:
        own = resolver.schema.entities.get(one.entity.__name__)
        named: list[FieldOf[Any, Any]] = [FieldOf(own, name) for name in one.fields] if own else []
        for field in named:
            home = resolver.loader_for(field)
            if home is not None:
                found.setdefault(home.name, []).append(repr(field))
    return {name: list(dict.fromkeys(fields)) for name, fields in found.items()}


def invalidated_text(
    chosen: Sequence[Chosen], rows: Sequence[int], lists: Mapping[str, int], fetched: Mapping[str, list[str]]
) -> Iterator[str]:
    """What is stale now, and what that makes the next sync do."""
    for one, count in zip(chosen, rows, strict=True):
        whole = len(one.fields) == len(one.entity.types())
        fields = "all fields" if whole else some(one.fields)
        yield f"stale: {fields} of {number(count)} {one.entity.__name__}"
    for collection, count in lists.items():
        yield f"  lists in full: {collection} ({counted(count, 'list')})"
    for loader, names in fetched.items():
        yield f"  asks again: {loader}, for {some(names)}"
