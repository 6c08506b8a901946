"""Random schemas with random data, random changes of them, and every old query that could be asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from max.errors import MaxError
from max.model.delivery import Delivery, ListingPage
from max.model.entities import Entity, FieldOf, ManyOf, Ref, values_of
from max.model.filters import Compare, Filter, Op
from max.model.migrations import NO_POLICY, DropField, Migration, RenameField, SchemaPolicy
from max.model.plan import filter_from_json, filter_to_json
from max.model.query import Order, Query, QueryPage
from max.model.schema import Schema
from max.model.values import Json, Kind
from max.storage.sqlite import SqliteConnection
from max.storage.table_writer import TableWriter
from tests.contract.places import transaction
from tests.sample import writer
from tests.strategies import records

NAMES = ["a", "b", "c", "d", "order"]
LoadGroups = Callable[[type[Entity]], Sequence[tuple[str, ...]]]
IDS = ["1", "2", "3"]
KINDS = tuple(str(kind) for kind in Kind)
kinds = st.sampled_from(KINDS)


def one_field(name: str, kind: str, optional: bool, entities: Sequence[str], draw: st.DrawFn) -> Json:
    """A field as a schema's JSON declares it."""
    target = draw(st.sampled_from(entities)) if kind == Kind.REF else None
    return {"name": name, "kind": kind, "optional": optional, "target": target, "description": ""}


@st.composite
def schema_data(draw: st.DrawFn, of: Sequence[str] = KINDS) -> Json:
    """One or two entities with a few fields of some kinds, which may list one another."""
    names = ["First", "Second"][: draw(st.integers(1, 2))]
    entities = []
    for name in names:
        fields = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
        lists = draw(st.booleans())
        many = {"name": "members", "child": draw(st.sampled_from(names)), "by": None, "description": ""}
        drawn = [
            one_field(field, draw(st.sampled_from(of)), draw(st.booleans()), names, draw) for field in fields
        ]
        collections = [many] if lists else []
        entities.append({"name": name, "description": "", "fields": drawn, "collections": collections})
    return {"entities": entities, "roots": []}


class Upgrade(NamedTuple):
    """What a connector declares after it was changed: the schema, and how that came about."""

    data: Json
    policy: SchemaPolicy


@st.composite
def upgrades(draw: st.DrawFn, old: Json, changes: Sequence[str] = ()) -> Upgrade:
    """The same schema after a few changes."""
    data, steps = copy.deepcopy(old), []
    for _ in range(draw(st.integers(0, 3))):
        entity = draw(st.sampled_from(data["entities"]))
        change = draw(st.sampled_from(changes or sorted(CHANGES)))
        steps += CHANGES[change](entity, [one["name"] for one in data["entities"]], draw)
    return Upgrade(data, SchemaPolicy("drawn", (Migration("drawn", *steps),) if steps else ()))


def _add(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    taken = {one["name"] for one in entity["fields"]} | {*entity.get("dropped", ())}
    free = [name for name in NAMES if name not in taken]
    if free:
        place = draw(st.integers(0, len(entity["fields"])))
        name = draw(st.sampled_from(free))
        entity["fields"].insert(place, one_field(name, draw(kinds), draw(st.booleans()), names, draw))
    return []


def _taken(entity: Json, draw: st.DrawFn) -> Json | None:
    return draw(st.sampled_from(entity["fields"])) if entity["fields"] else None


def _remove(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    if field := _taken(entity, draw):
        entity["fields"].remove(field)
    return []


def _toggle(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    if field := _taken(entity, draw):
        field["optional"] = not field["optional"]
    return []


def _loosen(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    if field := _taken(entity, draw):
        field["optional"] = True
        field["kind"] = "real" if field["kind"] == "integer" else field["kind"]
    return []


def _retype(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    if field := _taken(entity, draw):
        field |= one_field(field["name"], draw(kinds), field["optional"], names, draw)
    return []


def _widen(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    for field in entity["fields"]:
        field["kind"] = "real" if field["kind"] == "integer" else field["kind"]
    return []


def _rename(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    if field := _taken(entity, draw):
        old, field["name"] = field["name"], field["name"] + "_new"
        entity.setdefault("dropped", []).append(old)  # an empty field of the old name would break no query
        return [RenameField(entity["name"], old, field["name"])]
    return []


def _drop(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    if field := _taken(entity, draw):
        entity["fields"].remove(field)
        entity.setdefault("dropped", []).append(field["name"])  # what comes back empty breaks no query
        return [DropField(entity["name"], field["name"])]
    return []


def _unlist(entity: Json, names: Sequence[str], draw: st.DrawFn) -> list[Any]:
    entity["collections"] = []
    return []


CHANGES = {
    "add": _add,
    "remove": _remove,
    "toggle": _toggle,
    "loosen": _loosen,
    "retype": _retype,
    "widen": _widen,
    "rename": _rename,
    "drop": _drop,
    "unlist": _unlist,
}


# -- data --------------------------------------------------------------------------------


@st.composite
def partitions(draw: st.DrawFn, data: Json) -> LoadGroups:
    """Which fields arrive together, at random."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for entity in data["entities"]:
        names = [field["name"] for field in entity["fields"]]
        cut = draw(st.integers(0, len(names)))
        groups[entity["name"]] = [part for part in (tuple(names[:cut]), tuple(names[cut:])) if part]
    return lambda entity: groups[entity.__name__]


def applied(
    connection: SqliteConnection, data: Json, parts: LoadGroups | None, policy: SchemaPolicy = NO_POLICY
) -> TableWriter:
    """Make a database fit a schema."""
    tables = writer(Schema.from_json(data), policy, parts)
    with transaction(connection):
        tables.apply(connection)
    return tables


@st.composite
def deliveries(draw: st.DrawFn, tables: TableWriter) -> list[Delivery]:
    """What answers of different times bring: whole pages, pages of lists, and records alone."""
    found = []
    for number, entity in enumerate(tables.schema.entities.values()):
        for at in (10.0 + number, 20.0 + number):
            ids = draw(st.lists(st.sampled_from(IDS), unique=True))
            rows = [draw(records(entity, st.just(id))) for id in ids]
            lists = [
                ListingPage(parent.ref("1"), ManyOf(parent, many), 0, True, at)
                for parent in tables.schema.entities.values()
                for many, child in parent.children().items()
                if child is entity
            ]
            listing = draw(st.sampled_from([None, *lists]))
            found.append(Delivery(rows, at, listing))
    return found


def stored(connection: SqliteConnection, tables: TableWriter, some: Sequence[Delivery]) -> None:
    """Store what arrived."""
    for delivery in some:
        with transaction(connection):
            tables.write(connection, delivery)


# -- old queries ---------------------------------------------------------------------------


def plain(one: Entity) -> dict[str, Any]:
    """A record's values, free of classes."""
    return {n: v.id if isinstance(v, Ref) else v for n, v in values_of(one).items()}


def answers(
    connection: SqliteConnection, old: TableWriter, tables: TableWriter, asked: Sequence[Sequence[Question]]
) -> Iterator[Any]:
    """The answers to queries of each entity of the old schema, given by some tables; None where refused."""
    for (name, entity), some in zip(old.schema.entities.items(), asked, strict=True):
        for question in some:
            yield _asked(connection, tables, name, question)
        for many in entity.children():
            for id in IDS:
                yield _members(connection, tables, name, many, id)


class Question(NamedTuple):
    """A query as data: fields to select, a filter, a field to sort by."""

    fields: tuple[str, ...] | None
    filter: Json
    order: str | None


def questions(connection: SqliteConnection, tables: TableWriter, entity: type[Entity]) -> list[Question]:
    """Everything, each field alone, sorted by each, and filtered by each value that is stored."""
    rows = tables.fetch(connection, Query(tables.schema.entity(entity.__name__))).items
    asked = [Question(None, None, None)]
    for name, holds in entity.types().items():
        field: FieldOf[Any, Any] = FieldOf(entity, name)
        asked += [Question((name,), None, None), Question(None, None, name)]
        conditions: list[Filter[Any]] = [Compare(field.path, Op.EQ, None), Compare(field.path, Op.IS_LOADED)]
        found = [values_of(row)[name] for row in rows if name in values_of(row)]
        if holds.kind is not Kind.REF:
            conditions += [Compare(field.path, Op.EQ, value) for value in found]
        asked += [Question(None, filter_to_json(one), None) for one in conditions]
    return asked


def _asked(connection: SqliteConnection, tables: TableWriter, name: str, question: Question) -> Any:
    try:
        entity = tables.schema.entity(name)
        condition = question.filter and filter_from_json(entity, question.filter)
        order = () if question.order is None else (Order(FieldOf(entity, question.order).path),)
        query: Query[Any] = Query(entity, condition, order, question.fields)
        page = tables.fetch(connection, query)
    except MaxError:
        return None
    return [plain(one) for one in page.items]


def _members(connection: SqliteConnection, tables: TableWriter, name: str, many: str, id: str) -> Any:
    entity = tables.schema.entity(name)
    if many not in entity.children():
        return None
    page: QueryPage[Any] = tables.collection(connection, entity.ref(id), ManyOf(entity, many))
    return [plain(one) for one in page.items]
