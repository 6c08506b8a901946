"""Groups: rows that are counted, added up and compared by the values of some fields.

    query.count_by(Task.status)                        {"done": 39, "todo": 71}
    query.count_by(Task.due_date.per("month"), Task.assignee.to(User.name), sum=Task.estimate)
    reader.count_by("AcmeTask", "assignee.name,updated_at:month", top=5)

Rule 1: every row is in a group.  Empty values make a group of their own, and so do values that are
not loaded: what was never fetched is never counted as empty.

Rule 2: a ref groups by its target's id, so that two people of one name stay two groups; they are
shown by their titles.  Who wants one group for one name groups by the name: ``assignee.name``.

Rule 3: a list has no order and no equal, so its members are counted: ``tags:each``.  A row is in the
group of each different member.

Rule 4: where groups are cut off, those that are equal at the cut stay, and the rest is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar, cast

from ..errors import UnknownName, UsageError
from .entities import E, Entity, FieldOf, FieldType, find_field, path_name
from .struct import Struct
from .values import Json, Kind

V = TypeVar("V")
K = TypeVar("K")

Unit: TypeAlias = Literal["year", "quarter", "month", "week", "day", "hour"]
UNITS = ("year", "quarter", "month", "week", "day", "hour")
EACH = "each"
FUNCTIONS = ("sum", "avg", "min", "max")
MOST_KEYS = 8
TOP = 1_000  # groups of an answer whose caller names no number
NUMBERS = frozenset({Kind.INTEGER, Kind.REAL})
ORDERED = NUMBERS | {Kind.TEXT, Kind.DATETIME, Kind.DATE}
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Key(Struct, Generic[E, V]):
    """What rows are grouped by: a field, a time's ``unit``, or with the unit ``each`` a list's members.

    UsageError or UnknownName when a field does not have such a unit.
    """

    field: FieldOf[E, Any]
    unit: str = ""

    def __init__(self, field: FieldOf[E, Any], unit: str = "") -> None:
        super().__init__(field, unit)
        self._check()

    def _check(self) -> None:
        holds, name = self.field.type, path_name(self.field)
        if self.unit == EACH:
            if holds.members is None:
                raise UsageError(f"{name} holds {holds.label}; :each takes a list of texts or numbers")
        elif self.unit:
            if self.unit not in UNITS:
                raise UnknownName("unit", self.unit, [*UNITS, EACH], where=f"{name}:{self.unit}")
            if holds.kind not in (Kind.DATETIME, Kind.DATE):
                raise UsageError(f"{name} holds {holds.label}; :{self.unit} takes a time or a date")
            if self.unit == "hour" and holds.kind is Kind.DATE:
                raise UsageError(f"{name} holds dates, which have no hours", hint=f"write {name}:day")
        elif holds.kind is Kind.JSON:
            hint = (
                f"count by its members: {name}:each" if holds.members else "name a field that holds one value"
            )
            raise UsageError(f"{name} holds {holds.label}, which is no one value", hint=hint)

    @property
    def name(self) -> str:
        """As a person writes it: ``assignee.name``, ``updated_at:month``."""
        return f"{path_name(self.field)}:{self.unit}" if self.unit else path_name(self.field)

    @property
    def holds(self) -> FieldType:
        """The type of the group's values: of a unit a text such as ``2026-01``, of a list its members'."""
        if self.unit == EACH:
            of = self.field.type
            return FieldType(cast(Kind, of.members), optional=True, target=of.inside)
        return FieldType(Kind.TEXT, optional=True) if self.unit else self.field.type


class Measure(Struct):
    """A sum, an average or an extreme of a field; UsageError when the field has none."""

    function: str
    field: FieldOf[Any, Any]

    def __init__(self, function: str, field: FieldOf[Any, Any]) -> None:
        super().__init__(function, field)
        fitting = NUMBERS if function in ("sum", "avg") else ORDERED
        if field.type.kind not in fitting:
            what = "numbers" if fitting is NUMBERS else "numbers, texts, times and dates"
            problem = f"{path_name(field)} holds {field.type.label}; {function} takes {what}"
            raise UsageError(problem)

    @property
    def name(self) -> str:
        """The name of its column: ``sum_estimate``."""
        return f"{self.function}_{path_name(self.field)}"

    @property
    def holds(self) -> FieldType:
        """The type of the result."""
        return FieldType(Kind.REAL, optional=True) if self.function == "avg" else self.field.type


class GroupOrder(Struct):
    """A column of the groups to sort by: ``count``, a key's or a measure's name."""

    column: str
    descending: bool = False


class Grouping(Struct):
    """What becomes of a query's rows: by which keys, with which measures, how many groups."""

    keys: tuple[Key[Any, Any], ...] = ()
    measures: tuple[Measure, ...] = ()
    order: tuple[GroupOrder, ...] = ()
    top: int = TOP

    @property
    def count(self) -> str:
        """The name of the column with the number of rows; no field begins with ``_``."""
        return "_count" if "count" in [key.name for key in self.keys] else "count"

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in order."""
        return [*(key.name for key in self.keys), self.count, *(one.name for one in self.measures)]


class Group(Struct):
    """One group: its values and its measures by name, and how many rows it has.

    A value that is not loaded is left out of ``values``.  ``titles`` has what names the refs.
    """

    values: Mapping[str, Any]
    count: int
    measures: Mapping[str, Any] = NOTHING
    titles: Mapping[str, str] = NOTHING


class Groups(Mapping[K, int]):
    """How many rows each group has: a mapping from values to counts, in the order of the answer.

    The keys are the values of one field, or tuples of several; rows with a value that is not
    loaded are in ``groups`` and in ``not_loaded`` alone.  ``total`` counts the rows of all groups,
    ``more`` the groups that were cut off, and ``more_rows`` their rows.  ``empty`` and ``not_loaded``
    count rows without a value, of one field also those that were cut off.
    """

    def __init__(
        self,
        grouping: Grouping,
        groups: Sequence[Group],
        total: int,
        more: int = 0,
        more_rows: int = 0,
        nulls: tuple[int, int] | None = None,
    ) -> None:
        self.grouping, self.groups = grouping, list(groups)
        self.total, self.more, self.more_rows = total, more, more_rows
        names: list[str] = [key.name for key in grouping.keys]
        self._counts: dict[Any, int] = {}
        for group in groups:
            if len(group.values) == len(names):
                values = tuple(group.values[name] for name in names)
                self._counts[values[0] if len(names) == 1 else values] = group.count
        lost = sum(one.count for one in groups if len(one.values) < len(names))
        self.empty, self.not_loaded = nulls or (self._counts.get(None, 0), lost)

    def __getitem__(self, key: K) -> int:
        return self._counts[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        more = f", {self.more} more" if self.more else ""
        return f"Groups({self._counts!r}{more})"

    def to_dicts(self) -> list[dict[str, Json]]:
        """Each group as JSON data, by column; a value that is not loaded is left out."""
        keys, measures = self.grouping.keys, self.grouping.measures
        return [
            {k.name: k.holds.to_json(one.values[k.name]) for k in keys if k.name in one.values}
            | {self.grouping.count: one.count}
            | {m.name: m.holds.to_json(one.measures[m.name]) for m in measures}
            for one in self.groups
        ]

    def to_json(self) -> dict[str, Json]:
        """All of it as JSON data: ``{"groups": […], "total": 200, "more": 0, "moreRows": 0}``."""
        rest = {"total": self.total, "more": self.more, "moreRows": self.more_rows}
        return {"groups": self.to_dicts(), **rest}


Grouped: TypeAlias = "FieldOf[E, V] | Key[E, V]"


class GroupOptions(TypedDict, Generic[E], total=False):
    """What ``count_by`` takes beside the fields to group by."""

    sum: FieldOf[E, Any] | Sequence[FieldOf[E, Any]]
    avg: FieldOf[E, Any] | Sequence[FieldOf[E, Any]]
    min: FieldOf[E, Any] | Sequence[FieldOf[E, Any]]
    max: FieldOf[E, Any] | Sequence[FieldOf[E, Any]]
    order_by: str
    top: int


# -- reading what callers give --------------------------------------------------------------

Field: TypeAlias = "FieldOf[Any, Any] | str"
Fields: TypeAlias = "Field | Sequence[Field]"
By: TypeAlias = "Field | Key[Any, Any]"


def grouping(
    entity: type[Entity],
    by: By | Sequence[By] = (),
    *,
    order_by: str | None = None,
    top: int | None = None,
    **measures: Fields | None,
) -> Grouping:
    """The grouping that names, handles and texts mean; UsageError or UnknownName when they mean none.

    ``measures`` has the fields of ``sum``, ``avg``, ``min`` and ``max``.  Without an order the
    greatest groups come first; times come in their own order, unless only the ``top`` are wanted.
    """
    keys = tuple(dict.fromkeys(_key(entity, one) for one in _several(by)))
    if len(keys) > MOST_KEYS:
        raise UsageError(f"rows are grouped by at most {MOST_KEYS} fields, not by {len(keys)}")
    wanted = [(name, one) for name in FUNCTIONS for one in _several(measures.get(name))]
    chosen = [Measure(name, own_field(entity, one)) for name, one in wanted]
    made = Grouping(keys, tuple(dict.fromkeys(chosen)))
    _refuse_twins(made.columns)
    if top is not None and (not isinstance(top, int) or isinstance(top, bool) or top < 1):
        raise UsageError(f"top is a whole number from 1, not {top!r}")
    order = usual_order(made, top) if order_by is None else parse_group_order(made, order_by)
    return made.replace(order=order, top=TOP if top is None else top)


def _refuse_twins(columns: Sequence[str]) -> None:
    for name in columns:
        if columns.count(name) > 1:
            raise UsageError(
                f"{name} would be two columns: a field, and a result", hint="ask for one of them"
            )


def usual_order(grouping: Grouping, top: int | None) -> tuple[GroupOrder, ...]:
    """The order of groups whose caller names none: as their times come, or the greatest first."""
    if top is None and any(one.unit in UNITS for one in grouping.keys):
        return tuple(GroupOrder(one.name) for one in grouping.keys)
    return (GroupOrder(grouping.count, descending=True),)


def values_of_field(entity: type[Entity], field: By, limit: int | None = None) -> Grouping:
    """The grouping that gives the different values of a field; those of a list are its members."""
    if isinstance(field, str) and ":" not in field:
        found = find_field(entity, field.strip())
        field = Key(found, EACH) if found.type.members else found
    return grouping(entity, [field], order_by=None, top=TOP if limit is None else limit)


def parse_group_order(grouping: Grouping, text: str) -> tuple[GroupOrder, ...]:
    """The orders in ``"-sum_estimate,status"``; ``:desc`` and ``:asc`` end a term as well."""
    known = {name.casefold(): name for name in grouping.columns}
    found = []
    for term in text.split(","):
        name, descending = term.strip().casefold(), False
        for ending in (":asc", ":desc"):
            if name.endswith(ending):
                name, descending = name.removesuffix(ending), ending == ":desc"
        if name.startswith("-"):
            name, descending = name[1:], True
        if name not in known:
            raise UnknownName("column", name, grouping.columns, where="the groups")
        found.append(GroupOrder(known[name], descending))
    return tuple(found)


def _several(given: Any) -> list[Any]:
    """None, one thing or several as a list; a text may name several."""
    parts = [given] if isinstance(given, str | FieldOf | Key) else list(given or ())
    return [one for part in parts for one in (part.split(",") if isinstance(part, str) else [part])]


def _key(entity: type[Entity], given: By) -> Key[Any, Any]:
    if isinstance(given, str):
        path, _, unit = given.strip().partition(":")
        return Key(find_field(entity, path), unit.lower())
    made = given if isinstance(given, Key) else Key(own_field(entity, given))
    return made if made.field.entity is entity else Key(own_field(entity, made.field), made.unit)


def own_field(entity: type[Entity], given: object) -> FieldOf[Any, Any]:
    """A field of the entity itself; TypeError when it is another's."""
    if isinstance(given, str):
        return find_field(entity, given.strip())
    if not isinstance(given, FieldOf):
        raise TypeError(f"groups take fields of {entity.__name__}, or text, not {given!r}")
    if given.entity.__name__ != entity.__name__:  # by name: a schema that was read has its own classes
        raise TypeError(f"{given!r} is not a field of {entity.__name__}")
    return given if given.entity is entity else find_field(entity, path_name(given))
