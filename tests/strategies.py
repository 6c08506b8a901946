"""Strategies of the property tests: names, schemas, valid and invalid values."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

from hypothesis import strategies as st

from max.model.entities import RESERVED, Entity, Field, FieldOf, FieldType, Many, Ref, Scope
from max.model.filters import AllOf, AnyOf, Compare, Filter, Not, Op, Synced
from max.model.schema import Schema, snake_case
from max.model.values import Json, Kind

KEYWORDS = [
    "order",
    "group",
    "select",
    "class",
    "from",
    "None",
    "index",
    "rowid",
    "name",
    "id_",
    "values",
    "self",
]
ANNOTATIONS = {
    Kind.TEXT: "str",
    Kind.INTEGER: "int",
    Kind.REAL: "float",
    Kind.BOOLEAN: "bool",
    Kind.DATETIME: "datetime",
    Kind.DATE: "date",
    Kind.JSON: "list[Json]",
}
__all__ = [
    "Json",
    "Many",
    "Ref",
    "date",
    "datetime",
]  # the annotations of drawn entities are read in this module


# -- values ---------------------------------------------------------------------------------

# NUL is stored as another character, so what comes back differs: it has tests of its own.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
ids = texts.filter(bool)
offsets = st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-14 * 60, 14 * 60))
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.one_of(st.just(UTC), offsets))
json_data: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
FITTING: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: texts,
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.REAL: st.floats(allow_nan=False, allow_infinity=False),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATETIME: moments,
    Kind.DATE: st.dates(),
    Kind.JSON: json_data.filter(lambda data: data is not None),
}


def iso_forms(moment: datetime) -> list[str]:
    """The ISO 8601 texts by which upstreams send a moment."""
    utc = moment.astimezone(UTC)
    plain, micro = utc.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0"), f"{utc.microsecond:06}"
    day, clock = plain.split("T")
    offset = moment.isoformat()
    compact = f"{plain.replace('-', '').replace(':', '')}.{micro}Z"
    fractions = [f"{plain}.{micro}{more}Z" for more in ("", "000", "999")]
    return [
        *fractions,
        f"{plain},{micro}Z",
        f"{day} {clock}.{micro}+00:00",
        offset,
        offset.replace("T", " "),
        compact,
    ]


def fitting(holds: FieldType) -> st.SearchStrategy[Any]:
    """Valid values of a field."""
    if holds.kind is Kind.REF:
        plain: st.SearchStrategy[Any] = st.builds(Ref, st.just(holds.target), ids)
    else:
        plain = st.lists(json_data, max_size=3) if holds.shape == "list[json]" else FITTING[holds.kind]
    return st.none() | plain if holds.optional else plain


class Nowhere(tzinfo):
    """A zone without an offset: its datetimes count as naive."""

    def utcoffset(self, moment: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


def circle() -> list[Any]:
    """A list that contains itself."""
    data: list[Any] = []
    data.append(data)
    return data


class Thing(Entity):
    """The target of drawn refs."""


class Other(Entity):
    """Another entity, which is no valid target."""


EAST, WEST = timezone(timedelta(hours=9)), timezone(timedelta(hours=-9))
NOTHING: frozenset[Kind] = frozenset()
ANY_TEXT = frozenset({Kind.TEXT, Kind.JSON})
ANY_NUMBER = frozenset({Kind.REAL, Kind.JSON})
ODDITIES: list[tuple[Any, frozenset[Kind]]] = [
    (True, frozenset({Kind.BOOLEAN, Kind.JSON})),
    (False, frozenset({Kind.BOOLEAN, Kind.JSON})),
    (0, frozenset({Kind.INTEGER}) | ANY_NUMBER),
    (2**53, frozenset({Kind.INTEGER}) | ANY_NUMBER),
    (2**53 + 1, frozenset({Kind.INTEGER, Kind.JSON})),
    (2**60, frozenset({Kind.INTEGER}) | ANY_NUMBER),
    (10**20, ANY_NUMBER),
    (10**400, frozenset({Kind.JSON})),
    (3.0, frozenset({Kind.INTEGER}) | ANY_NUMBER),
    (2.0**63, ANY_NUMBER),
    (-(2.0**63), frozenset({Kind.INTEGER}) | ANY_NUMBER),
    (2.5, ANY_NUMBER),
    (2**63 - 1, frozenset({Kind.INTEGER, Kind.JSON})),
    (-(2**63), frozenset({Kind.INTEGER}) | ANY_NUMBER),
    (2**63, ANY_NUMBER),
    (-(2**63) - 1, frozenset({Kind.JSON})),
    (10**4000, NOTHING),
    (-0.0, frozenset({Kind.INTEGER}) | ANY_NUMBER),
    (1e308, ANY_NUMBER),
    (float("nan"), NOTHING),
    (float("inf"), NOTHING),
    (-float("inf"), NOTHING),
    (3 + 0j, NOTHING),
    ("", ANY_TEXT),
    ("a\0b", ANY_TEXT),
    ("\ud800", NOTHING),
    (b"bytes", NOTHING),
    (datetime(2026, 1, 31, 9, 30), NOTHING),
    (datetime(2026, 1, 31, 9, 30, tzinfo=Nowhere()), NOTHING),
    (datetime(2026, 1, 31, 9, 30, tzinfo=EAST), frozenset({Kind.DATETIME})),
    (datetime(1, 1, 1, tzinfo=EAST), NOTHING),
    (datetime(9999, 12, 31, 23, tzinfo=WEST), NOTHING),
    (datetime(9999, 12, 31, 23, tzinfo=UTC), frozenset({Kind.DATETIME})),
    (date(2026, 1, 31), frozenset({Kind.DATE})),
    ("2026-01-31", ANY_TEXT | {Kind.DATE}),
    ("20260131", ANY_TEXT | {Kind.DATE}),
    ("2026-02-30", ANY_TEXT),
    ("2026-W05-6", ANY_TEXT | {Kind.DATE}),
    ("2026-01-31T09:30:00", ANY_TEXT),
    ("2026-01-31T09:30:00Z", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T09:30Z", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T09:30:00.5Z", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T09:30:00.123456789Z", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T09:30:00+0530", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T09:30:00-05", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T24:00:01Z", ANY_TEXT),
    ("2026-01-31T24:00:00Z", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T24:00:00.000000001Z", ANY_TEXT),
    ("2026-01-31T09:30:60Z", ANY_TEXT),
    ("2016-12-31T23:59:60Z", ANY_TEXT | {Kind.DATETIME}),
    ("2016-12-31T15:59:60.5-08:00", ANY_TEXT | {Kind.DATETIME}),
    ("2016-12-31T23:59:60-08:00", ANY_TEXT),
    ("2016-12-31T23:59:61Z", ANY_TEXT),
    ("2026-01-31T09:30:00z", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31t09:30:00-00:00", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31 09:30:00+23:59", ANY_TEXT | {Kind.DATETIME}),
    ("2026-01-31T09:30:00+24:00", ANY_TEXT),
    ("0000-01-01T00:00:00Z", ANY_TEXT),
    ("9999-12-31T24:00:00Z", ANY_TEXT),
    ("9999-12-31T24:00:00+01:00", ANY_TEXT | {Kind.DATETIME}),
    ("0001-01-01T00:00:00+09:00", ANY_TEXT),
    ("9999-12-31T23:00:00-09:00", ANY_TEXT),
    ([1, {"a": [None, "b"]}], frozenset({Kind.JSON})),
    ([float("nan")], NOTHING),
    ({"a": "\ud800"}, NOTHING),
    ({"\ud800": 1}, NOTHING),
    ({1: "a"}, NOTHING),
    ([10**4000], NOTHING),
    ((1, 2), NOTHING),
    ({1, 2}, NOTHING),
    (circle(), NOTHING),
    (object(), NOTHING),
    (Thing.ref("7"), frozenset({Kind.REF})),
    (Thing.ref(""), NOTHING),
    (Thing.ref("a\0b"), NOTHING),
    (Thing.ref("\udfff"), NOTHING),
    (Other.ref("7"), NOTHING),
    (Ref(Thing, "7", Scope("elsewhere")), NOTHING),
    (Thing("7"), NOTHING),
]


def with_number_kinds(value: float) -> tuple[Any, frozenset[Kind]]:
    """A float, which is an integer's value when it is whole and fits into 64 bits."""
    whole = abs(value) <= 2.0**63 and value != 2.0**63 and value == int(value)
    return value, ANY_NUMBER | ({Kind.INTEGER} if whole else NOTHING)


def with_kinds(kinds: Iterable[Kind]) -> Any:
    """Pair a value with the kinds of field that accept it."""
    return lambda value: (value, frozenset(kinds))


# A value, and the kinds of field that accept it, known from how the value was made.
samples: st.SearchStrategy[tuple[Any, frozenset[Kind]]] = st.one_of(
    st.sampled_from(ODDITIES),
    st.integers(-(2**53), 2**53).map(with_kinds([Kind.INTEGER, Kind.REAL, Kind.JSON])),
    st.floats(allow_nan=False, allow_infinity=False).map(with_number_kinds),
    texts.map(lambda text: f"#{text}").map(with_kinds(ANY_TEXT)),
    moments.map(with_kinds([Kind.DATETIME])),
    moments.flatmap(lambda m: st.sampled_from(iso_forms(m))).map(with_kinds([*ANY_TEXT, Kind.DATETIME])),
    st.dates().map(with_kinds([Kind.DATE])),
    st.dates().map(date.isoformat).map(with_kinds([*ANY_TEXT, Kind.DATE])),
    st.lists(json_data, max_size=3).map(with_kinds([Kind.JSON])),
    st.builds(Ref, st.just(Thing), ids).map(with_kinds([Kind.REF])),
)


# -- schemas --------------------------------------------------------------------------------


def _is_name(text: str) -> bool:
    plain = text.isidentifier() and unicodedata.normalize("NFKC", text) == text
    return plain and not text.startswith("_") and text.casefold() not in {*RESERVED, "id"}


letters = st.characters(categories=["Lu", "Ll", "Lo"], max_codepoint=0x3FFF)
field_names = st.sampled_from(KEYWORDS) | st.text(letters, min_size=1, max_size=5).filter(_is_name)
entity_names = st.text(letters, min_size=1, max_size=4).map(lambda text: f"E{text}").filter(_is_name)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """Entities with any names and kinds of fields, refs forward and back, and collections."""
    names = draw(st.lists(entity_names, min_size=1, max_size=3, unique_by=lambda n: snake_case(n).casefold()))
    entities = {name: draw(_entities(name, names)) for name in names}
    for name, entity in entities.items():
        back = draw(st.sampled_from(names))
        _point(entity, "xmembers", f"Many[{back}]", Many("members"))
        _point(entities[back], f"xback{name}", f"Field[Ref[{name}] | None]", Field())
        _point(entity, "xowned", f"Many[{back}]", Many(by=_inverse(entities[back], f"xback{name}")))
    for entity in entities.values():
        entity.__init_subclass__()
    return Schema(list(entities.values()), roots=[entities[draw(st.sampled_from(names))]])


def _point(entity: type[Entity], name: str, annotation: str, declared: Any) -> None:
    entity.__annotations__[name] = annotation
    setattr(entity, name, declared)
    declared.__set_name__(entity, name)


def _inverse(child: type[Entity], name: str) -> Any:
    return lambda: FieldOf(child, name)


@st.composite
def _entities(draw: st.DrawFn, name: str, neighbours: list[str]) -> type[Entity]:
    names = draw(st.lists(field_names, max_size=5, unique_by=str.casefold))
    plain = st.sampled_from([*ANNOTATIONS.values(), *(f"Ref[{other}]" for other in neighbours)])
    hints = {n: draw(plain) + draw(st.sampled_from(["", " | None"])) for n in names}
    words = [n for n, hint in hints.items() if hint.startswith("str")]
    searched = [n for n in words if draw(st.booleans())]
    body: dict[str, Any] = {
        n: Field(draw(texts), searchable=n in searched, brief=draw(st.booleans())) for n in names
    }
    body["__annotations__"] = {n: f"Field[{hint}]" for n, hint in hints.items()}
    title = draw(st.sampled_from([None, *words]))
    body |= {"__module__": __name__, "__doc__": "Some kind of thing."}
    entity: type[Entity] = type(name, (Entity,), body, title=title)
    return entity


def records(entity: type[Entity], id: st.SearchStrategy[str] = ids) -> st.SearchStrategy[Any]:
    """Partial records of an entity with valid values."""
    optional = {name: fitting(holds) for name, holds in entity.types().items()}
    values = st.fixed_dictionaries({}, optional=optional)
    return st.builds(lambda key, values: entity(key, **values), id, values)


# -- filters --------------------------------------------------------------------------------

EQUALS = (Op.EQ, Op.NE)
COMPARES = (*EQUALS, Op.LT, Op.LE, Op.GT, Op.GE)


@st.composite
def conditions(
    draw: st.DrawFn, entity: type[Entity], values: dict[str, st.SearchStrategy[Any]]
) -> Filter[Any]:
    """One comparison of a field in ``values`` with a value from there."""
    name = draw(st.sampled_from(sorted(values)))
    field: FieldOf[Any, Any] = FieldOf(entity, name)
    text = field.type.kind is Kind.TEXT
    ordered = field.type.kind not in (Kind.BOOLEAN, Kind.REF, Kind.JSON)
    ops = [*(COMPARES if ordered else EQUALS), Op.IN, Op.IS_LOADED]
    op = draw(st.sampled_from([*ops, Op.CONTAINS, Op.STARTS_WITH] if text else ops))
    if op is Op.IN:
        return Compare(field.path, op, tuple(draw(st.lists(values[name], max_size=3))))
    if op is Op.IS_LOADED:
        return Compare(field.path, op)
    return Compare(field.path, op, draw(values[name].filter(lambda v: v is not None or op in EQUALS)))


def filters(
    entity: type[Entity], values: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[Filter[Any]]:
    """Any combination of such comparisons."""
    return st.recursive(
        conditions(entity, values),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda parts: AllOf(tuple(parts)))
            | st.lists(inner, max_size=3).map(lambda parts: AnyOf(tuple(parts)))
            | inner.map(Not)
        ),
        max_leaves=5,
    )


@st.composite
def ages(draw: st.DrawFn, entity: type[Entity]) -> Filter[Any]:
    """A comparison of when a field was last synced with a time; the entity has fields."""
    field: FieldOf[Any, Any] = FieldOf(entity, draw(st.sampled_from(list(entity.types()))))
    at = draw(st.floats(0, 2e9))
    return Synced(field.path, draw(st.sampled_from([Op.LT, Op.LE, Op.GT, Op.GE])), at)
