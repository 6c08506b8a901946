"""Entities: what a connector declares once, typed everywhere.

    class Issue(Entity):
        title: Field[str] = Field()
        assignee: Field[Ref[User] | None] = Field()
        comments: Many[Comment] = Many()

**Declared once.**  The annotation is the only place where a field's type is written.  Columns,
checks, filters and JSON follow from it, and so does the type checker: ``Issue.title`` on the class
is a handle (FieldOf) for queries, plans and loaders; ``issue.title`` on an instance is a ``str``.

**Not loaded is not empty.**  An instance is a partial record: ``Issue("7", assignee=None)`` knows
that upstream has no assignee, and knows nothing of the title.  Reading the title raises
FieldNotLoaded; it never gives None.  Filters keep the same distinction: ``assignee.is_null()`` finds
rows where upstream says empty, ``~title.is_loaded()`` finds rows where nothing was fetched yet.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from operator import attrgetter
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    Never,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    dataclass_transform,
    overload,
)

from ..errors import NOTHING, FieldNotLoaded, SchemaError, UnknownName, UsageError
from .filters import Compare, Filter, Op, Some, Synced
from .json_types import ANY, json_reader, json_type, type_name
from .refs import LOCAL as LOCAL
from .refs import Ref as Ref
from .refs import RefKey as RefKey
from .refs import Scope as Scope
from .struct import LazySignature, Struct, short
from .values import (
    EXPECTED,
    READERS,
    InvalidValue,
    Json,
    Kind,
    date_text,
    datetime_text,
    is_id,
    is_valid,
)

if TYPE_CHECKING:
    from .aggregate import Key, Unit

V = TypeVar("V")
W = TypeVar("W")
E = TypeVar("E", bound="Entity")
P = TypeVar("P", bound="Entity")

REFS = 8  # that a path goes through; a database joins a table for each
NOTHING_GIVEN: Mapping[Any, object] = types.MappingProxyType({})
RESERVED = frozenset({"ref", "types", "children", "to_dict"})  # Entity's own names; no field may take them


# -- field types -------------------------------------------------------------------------


class FieldType(Struct):
    """What a field holds: its kind, whether None is allowed, a ref's target, the type of JSON data.

    ``inside`` is the entity of a list of refs, which is stored as a JSON array of ids.  ``choices`` are
    the values of an enumeration, and ``enum`` its class, which a schema that was read does not have.
    """

    kind: Kind
    optional: bool = False
    target: type[Entity] | None = None
    shape: str = ANY
    inside: type[Entity] | None = None
    choices: tuple[str, ...] = ()
    enum: type[StrEnum] | None = None

    @classmethod
    def of(cls, hint: object, where: str) -> FieldType:
        """The type that an annotation means; SchemaError names ``where`` when no column can hold it."""
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        options = typing.get_args(hint) if union else (hint,)
        plain = [one for one in options if one is not types.NoneType]
        optional = len(plain) < len(options)
        found = cls._of_one(plain[0], optional, where) if len(plain) == 1 else None
        if found is not None:
            return found
        raise SchemaError(
            f"{where} is annotated {type_name(hint)}, which no column can hold",
            hint="use str, StrEnum, int, float, bool, datetime, date, Json, list[…], dict[…], Ref[…], | None",
        )

    @classmethod
    def _of_one(cls, hint: Any, optional: bool, where: str) -> FieldType | None:
        """The type that an annotation other than a union means; None when no column can hold it."""
        if chosen := _enumeration(hint):
            enum = hint if isinstance(hint, type) else None
            return cls(Kind.TEXT, optional, choices=chosen, enum=cast("type[StrEnum] | None", enum))
        kind, inside = PYTHON_KINDS.get(typing.get_origin(hint) or hint), typing.get_args(hint)
        if kind is Kind.REF:
            return cls(kind, optional, _entity_of(inside, where))
        if kind is not Kind.JSON:
            return None if kind is None else cls(kind, optional)
        if inside and typing.get_origin(inside[0]) is Ref:
            return cls.refs(_entity_of(typing.get_args(inside[0]), where), optional)
        return cls(kind, optional or hint is Any, None, json_type(hint, where))  # JSON has a null of its own

    @classmethod
    def refs(cls, inside: type[Entity], optional: bool = False) -> FieldType:
        """A list of refs, each at most once, in the order in which they came."""
        return cls(Kind.JSON, optional, None, REFS_SHAPE, inside)

    @property
    def members(self) -> Kind | None:
        """What a list of texts, numbers or refs holds; None for everything else."""
        return Kind.REF if self.inside else MEMBERS.get(self.shape)

    @property
    def label(self) -> str:
        """The kind in words: ``text``, ``a ref to User``, ``list[str]``."""
        if self.inside:
            return f"list[Ref[{self.inside.__name__}]]"
        if self.kind is Kind.JSON:
            return self.shape
        return f"a ref to {self.target.__name__}" if self.target else str(self.kind)

    @property
    def expected(self) -> str:
        """The valid values, in words."""
        if self.choices:
            *most, last = [*self.choices, *["null"] * self.optional]
            return f"{', '.join(most)} or {last}" if most else last
        words = self.label if self.target or self.shape != ANY else EXPECTED[self.kind]
        return f"{words}, or null" if self.optional else words

    def read(self, value: object) -> Any:
        """A value as the database holds it: times as text in UTC, refs as ids; InvalidValue."""
        if value is None:
            if self.optional:
                return None
            raise InvalidValue(self.expected, None)
        if self.kind is Kind.REF:
            return self._id_of(value)
        if self.inside:
            return self._ids_of(value, self.inside)
        if self.choices:
            return self._choice_of(value)
        try:
            return json_reader(self.shape)(value) if self.kind is Kind.JSON else READERS[self.kind](value)
        except InvalidValue as wrong:
            if isinstance(value, InvalidValue):  # in place of a value that could not be read
                raise value from None
            if not wrong.path:
                wrong.expected = self.expected
            raise

    def _id_of(self, value: object) -> str:
        if (
            isinstance(value, Ref)
            and value.scope.installation is None
            and self.points_at(value.entity)
            and is_id(value.id)
        ):
            return str(value.id)
        raise value if isinstance(value, InvalidValue) else InvalidValue(self.expected, value)

    def points_at(self, entity: object) -> bool:
        """Whether a ref to this entity fits: by name, since an installation may have classes of its own."""
        return self.target is not None and getattr(entity, "__name__", "") == self.target.__name__

    def _ids_of(self, value: object, inside: type[Entity]) -> list[str]:
        """The ids of a list of refs, records or ids, each once; InvalidValue names the place."""
        if isinstance(value, InvalidValue):
            raise value
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise InvalidValue(self.expected, value)
        ids = [_id_inside(one, inside) for one in value]
        if None in ids:
            at = ids.index(None)
            raise InvalidValue(f"a ref to {inside.__name__}", as_it_came(value[at]), f"[{at}]")
        return list(dict.fromkeys(cast("list[str]", ids)))

    def _choice_of(self, value: object) -> str:
        if isinstance(value, InvalidValue):
            raise value
        if not isinstance(value, str) or value not in self.choices:
            raise InvalidValue(self.expected, value)
        return str(value)

    def check(self, value: object) -> bool:
        """Whether a value is valid."""
        return is_valid(self.read, value)

    def to_json(self, value: Any) -> Json:
        """A valid value as JSON data: times in UTC with ``Z``, refs as ids."""
        if self.inside and value is not None:
            return self.read(value)
        if self.enum and value is not None:
            return str(value)
        write = WRITERS.get(self.kind)
        return value if value is None or write is None else write(value)

    def from_json(self, data: Json) -> Any:
        """The inverse of to_json."""
        if data is None:
            return None
        if self.kind is Kind.DATETIME:
            return datetime.fromisoformat(data)
        if self.kind is Kind.DATE:
            return date.fromisoformat(data)
        if self.kind is Kind.REF:
            return Ref(cast("type[Entity]", self.target), data)
        return [Ref(self.inside, id) for id in data] if self.inside else self.of_text(data)

    def of_text(self, text: Any) -> Any:
        """The member of the enumeration; a text that it lacks, as an older one may have stored, stays."""
        return text if self.enum is None or text not in self.choices else self.enum(text)


def _enumeration(hint: object) -> tuple[str, ...]:
    """The values of a StrEnum, or of a Literal of texts; empty for everything else."""
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return tuple(one.value for one in hint)
    texts = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    return texts if all(isinstance(one, str) for one in texts) else ()


def _entity_of(arguments: tuple[object, ...], where: str, of: str = "Ref") -> type[Entity]:
    """The entity inside ``Ref[…]`` or ``Many[…]``."""
    entity = arguments[0] if arguments else None
    if isinstance(entity, type) and issubclass(entity, Entity):
        return entity
    got = f", but {type_name(entity)}" if arguments else ""
    raise SchemaError(f"{where} does not name one entity{got}", hint=f"write it in brackets: {of}[User]")


def _id_inside(one: object, inside: type[Entity]) -> str | None:
    """The id that a member of a list of refs names: a ref's, a record's, or itself; None when invalid."""
    if isinstance(one, Ref) and one.entity.__name__ == inside.__name__ and one.scope.installation is None:
        one = one.id
    elif isinstance(one, Entity) and type(one).__name__ == inside.__name__:
        one = one._values["id"]
    return str(one) if is_id(one) else None


ID = FieldType(Kind.TEXT)
REFS_SHAPE = "list[Ref]"  # of a list of refs; ``inside`` says to what


WRITERS: dict[Kind, Callable[[Any], Json]] = {  # of valid values; the other kinds are JSON data already
    Kind.INTEGER: int,
    Kind.REAL: float,
    Kind.DATETIME: lambda value: f"{datetime_text(value)}Z",
    Kind.DATE: date_text,
    Kind.REF: attrgetter("id"),
}
PYTHON_KINDS: dict[object, Kind] = {
    str: Kind.TEXT,
    int: Kind.INTEGER,
    float: Kind.REAL,
    bool: Kind.BOOLEAN,
    datetime: Kind.DATETIME,
    date: Kind.DATE,
    Any: Kind.JSON,
    list: Kind.JSON,
    dict: Kind.JSON,
    Ref: Kind.REF,
}
MEMBERS = {
    f"list[{python.__name__}{empty}]": kind
    for python, kind in ((str, Kind.TEXT), (int, Kind.INTEGER), (float, Kind.REAL), (bool, Kind.BOOLEAN))
    for empty in ("", " | None")
}


# -- fields -------------------------------------------------------------------------------


class FieldOf(Generic[E, V]):
    """A field of one entity class, for queries, plans and loaders: ``Issue.title``."""

    __slots__ = ("entity", "name", "via")

    def __init__(self, entity: type[E], name: str, via: FieldOf[Any, Any] | None = None) -> None:
        self.entity, self.name, self.via = entity, name, via

    @property
    def type(self) -> FieldType:
        """What the field holds."""
        owner: Any = self.via.type.target if self.via else self.entity
        found: FieldType = ID if self.name == "id" else owner.types()[self.name]
        return found

    @property
    def path(self) -> tuple[FieldOf[Any, Any], ...]:
        """The refs that lead to the field, in their order, and the field."""
        return (*self.via.path, self) if self.via else (self,)

    @overload
    def to(self: FieldOf[E, Ref[P]], field: FieldOf[P, W]) -> FieldOf[E, W]: ...
    @overload
    def to(self: FieldOf[E, Ref[P] | None], field: FieldOf[P, W]) -> FieldOf[E, W]: ...
    def to(self: FieldOf[E, Any], field: FieldOf[P, W]) -> FieldOf[E, W]:
        """A field of the entity that this ref points at: ``Issue.assignee.to(User.email)``.

        It may be a ref, through which ``to`` leads on, up to REFS refs.
        """
        if self.type.target is not field.entity:
            raise TypeError(f"{self!r} does not point at {field.entity.__name__}")
        found: FieldOf[E, Any] = self
        for step in field.path:
            found = FieldOf(self.entity, step.name, found)
        if len(found.path) > REFS + 1:
            raise ValueError(f"{found!r} goes through more than {REFS} refs")
        return found

    @overload
    def per(self: FieldOf[E, datetime] | FieldOf[E, date], unit: Unit) -> Key[E, str]: ...
    @overload
    def per(
        self: FieldOf[E, datetime | None] | FieldOf[E, date | None], unit: Unit
    ) -> Key[E, str | None]: ...
    def per(self: FieldOf[E, Any], unit: Unit) -> Key[E, Any]:
        """A unit of a time or a date to group by: ``Task.updated_at.per("month")`` gives ``2026-01``."""
        from .aggregate import Key

        return Key(self, unit)

    def each(self: FieldOf[E, list[W]] | FieldOf[E, list[W] | None]) -> Key[E, W | None]:
        """The members of a list to group by; rows with an empty list are the group None."""
        from .aggregate import EACH, Key

        return Key(self, EACH)

    def eq(self, value: V) -> Filter[E]:
        """Equal; ``eq(None)`` finds values that are empty upstream."""
        return Compare(self.path, Op.EQ, value)

    def ne(self, value: V) -> Filter[E]:
        """Loaded and not equal."""
        return Compare(self.path, Op.NE, value)

    def lt(self, value: V) -> Filter[E]:
        """Less than."""
        return Compare(self.path, Op.LT, value)

    def le(self, value: V) -> Filter[E]:
        """Less than or equal."""
        return Compare(self.path, Op.LE, value)

    def gt(self, value: V) -> Filter[E]:
        """Greater than."""
        return Compare(self.path, Op.GT, value)

    def ge(self, value: V) -> Filter[E]:
        """Greater than or equal."""
        return Compare(self.path, Op.GE, value)

    def contains(self: FieldOf[E, str] | FieldOf[E, str | None], text: str) -> Filter[E]:
        """Contains the text, ignoring case."""
        return Compare(self.path, Op.CONTAINS, text)

    def starts_with(self: FieldOf[E, str] | FieldOf[E, str | None], text: str) -> Filter[E]:
        """Begins with the text; case matters."""
        return Compare(self.path, Op.STARTS_WITH, text)

    def is_in(self, values: Iterable[V]) -> Filter[E]:
        """Equal to one of the values."""
        if isinstance(values, str):
            raise TypeError(f"{self!r}.is_in() takes a list of values, not one text")
        return Compare(self.path, Op.IN, tuple(values))

    @overload
    def has(self: FieldOf[E, list[W]], item: W) -> Filter[E]: ...
    @overload
    def has(self: FieldOf[E, list[W] | None], item: W) -> Filter[E]: ...
    def has(self: FieldOf[E, Any], item: object) -> Filter[E]:
        """The list has this item: a text, a number, a boolean or None."""
        return Compare(self.path, Op.HAS, item)

    def is_null(self) -> Filter[E]:
        """Loaded, and empty upstream."""
        return Compare(self.path, Op.EQ, None)

    def is_loaded(self) -> Filter[E]:
        """A loader has fetched the field, even if it is empty upstream."""
        return Compare(self.path, Op.IS_LOADED)

    def synced_before(self, at: float) -> Filter[E]:
        """Last fetched before ``at`` (seconds since the epoch), never fetched, or invalidated since."""
        return Synced(self.path, Op.LT, at)

    def synced_since(self, at: float) -> Filter[E]:
        """Last fetched at or after ``at`` (seconds since the epoch), and not invalidated since."""
        return Synced(self.path, Op.GE, at)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FieldOf) and (self.entity, self.name, self.via) == (
            other.entity,
            other.name,
            other.via,
        )

    def __hash__(self) -> int:
        return hash((self.entity, self.name, self.via))

    def __repr__(self) -> str:
        head = repr(self.via) if self.via else self.entity.__name__
        return f"{head}.{self.name}"


def find_field(entity: type[E], path: str) -> FieldOf[E, Any]:
    """The field at a path that a person wrote, in any case: ``title``, ``assignee.team.name``.

    UnknownName suggests the nearest field; UsageError when the path leads nowhere, or through more
    than REFS refs.
    """
    first, *rest = path.split(".", REFS + 1)
    field: FieldOf[E, Any] = FieldOf(entity, find_name(entity, first))
    if len(rest) > REFS:
        raise UsageError(f"a path goes through at most {REFS} refs")
    for name in rest:
        target = field.type.target
        if target is None:
            _refuse_collection(field.path[-1].entity, field.name)
            raise UsageError(
                f"{path_name(field)} holds {field.type.label}; only a ref has fields behind a dot"
            )
        field = FieldOf(entity, find_name(target, name), field)
    return field


def path_name(field: FieldOf[Any, Any]) -> str:
    """A field as filters and columns name it: ``title``, ``assignee.name``."""
    return ".".join(step.name for step in field.path)


def find_name(entity: type[Entity], name: str) -> str:
    """The declared name of a field or ``id``, given in any case; UnknownName suggests the nearest."""
    known = {known.casefold(): known for known in ("id", *entity.types())}
    if name.casefold() in known:
        return known[name.casefold()]
    _refuse_collection(entity, name)
    raise UnknownName("field", name, known.values(), where=entity.__name__)


def _refuse_collection(entity: type[Entity], name: str) -> None:
    """UsageError when this is a collection, of which a field was asked for."""
    many = find_collection(entity, name)
    if many is not None:
        raise UsageError(f"{many.name} is a collection; query {many.child.__name__} instead")


def find_collection(entity: type[P], name: str) -> ManyOf[P, Any] | None:
    """The collection with this name, given in any case."""
    known = {known.casefold(): known for known in entity.children()}
    return ManyOf(entity, known[name.casefold()]) if name.casefold() in known else None


def field_names(fields: Sequence[FieldOf[Any, Any]]) -> tuple[str, ...]:
    """The names of an entity's own fields; ValueError for a field behind a ref."""
    for field in fields:
        if field.via:
            raise ValueError(f"{field!r} belongs to another entity; name the ref itself")
    return tuple(field.name for field in fields)


class ManyOf(Generic[P, E]):
    """A collection of one parent entity, for plans and loaders: ``Repository.issues``."""

    __slots__ = ("name", "parent")

    def __init__(self, parent: type[P], name: str) -> None:
        self.parent, self.name = parent, name

    @property
    def inline(self) -> bool:
        """Whether the parent's own row names the members; if so, ``field`` is where."""
        return self.name in self.parent._inline

    @property
    def field(self) -> FieldOf[P, list[Ref[E]]]:
        """The list of refs that the parent's row has, of a collection that is inline."""
        return FieldOf(self.parent, self.name)

    @property
    def child(self) -> type[E]:
        """The entity that the collection lists."""
        return cast("type[E]", self.parent.children()[self.name])

    def has(self, condition: Filter[E]) -> Filter[P]:
        """Some child matches: ``Repository.issues.has(Issue.votes.gt(3))``."""
        return Some((), self, condition)

    @property
    def by(self) -> FieldOf[E, Any] | None:
        """The child's ref back to the parent, if the declaration names it."""
        declared = self.parent._collections[self.name].by
        return declared() if declared else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ManyOf) and (self.parent, self.name) == (other.parent, other.name)

    def __hash__(self) -> int:
        return hash((self.parent, self.name))

    def __repr__(self) -> str:
        return f"{self.parent.__name__}.{self.name}"


Source: TypeAlias = "str | Callable[[Json], object]"
Inverse: TypeAlias = "Callable[[], FieldOf[E, Ref[Any]] | FieldOf[E, Ref[Any] | None]]"


class Field(Generic[V]):
    """Declares one stored value; the annotation gives its type.

    ``description`` appears in ``max schema``.  ``source`` is where a service's data has the value,
    for ``read``: a path (``user.id``), or a function of a row's data; without it, the field's own
    name.  ``searchable`` is for texts in which people look for words.  ``brief`` fields are the
    first that a table shows, behind the title.
    """

    name: str

    def __init__(
        self,
        description: str = "",
        *,
        source: Source | None = None,
        searchable: bool = False,
        brief: bool = False,
    ) -> None:
        self.description, self.source = description, source
        self.searchable, self.brief = searchable, brief

    def __repr__(self) -> str:
        marks = "".join(f", {mark}=True" for mark in ("searchable", "brief") if getattr(self, mark))
        return f"Field({self.description!r}{marks})"

    def __set_name__(self, owner: type[Entity], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[E]) -> FieldOf[E, V]: ...
    @overload
    def __get__(self, instance: Entity, owner: object) -> V: ...
    def __get__(self, instance: Entity | None, owner: Any) -> FieldOf[Any, V] | V:
        if instance is None:
            return FieldOf(owner, self.name)
        values = instance._kept
        try:
            return cast(V, (instance._values if values is None else values)[self.name])
        except KeyError:
            raise FieldNotLoaded(type(instance).__name__, self.name) from None

    def __set__(self, instance: Never, value: V) -> None:
        # V types the constructor's parameter, and Never refuses every assignment.  frozen_default
        # would refuse it too, but loses the handle's type of inherited fields and of every id.
        raise AttributeError(f"{type(instance).__name__} is immutable")


class Many(Generic[E]):
    """Declares a collection: the children that upstream lists under this entity.

    ``by`` names the child's ref to its parent: ``Many(by=lambda: Issue.repository)``.  Membership is
    then read from that ref; without it, it is stored beside the children.  A collection with ``by``
    needs no loader: its members may come along with other responses.  If no loader lists them,
    they are removed together with their parent.

    ``inline`` says that the parent's own row names its members, all of them, and where the service's
    data has them: ``labels: Many[Label] = Many(inline="labels")``.  The constructor takes them,
    ``Issue("1", labels=[Label("7", name="bug")])``, and no loader lists them.
    """

    name: str

    def __init__(
        self, description: str = "", *, by: Inverse[E] | None = None, inline: str | None = None
    ) -> None:
        self.description, self.by, self.inline = description, by, inline

    def __set_name__(self, owner: type[Entity], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[P]) -> ManyOf[P, E]: ...
    @overload
    def __get__(self, instance: Entity, owner: object) -> list[Ref[E]]: ...
    def __get__(self, instance: Entity | None, owner: Any) -> ManyOf[Any, E] | list[Ref[E]]:
        if instance is None:
            return ManyOf(owner, self.name)
        if self.name in instance._values:
            holds = type(instance).types()[self.name]
            return cast("list[Ref[E]]", holds.from_json(holds.to_json(instance._values[self.name])))
        hint = {"hint": "read it with engine.load_collection()"} if self.inline is None else {}
        raise FieldNotLoaded(type(instance).__name__, self.name, **hint)

    def __set__(self, instance: Never, value: Sequence[E]) -> None:  # as that of Field
        raise AttributeError(f"{type(instance).__name__} is immutable")

    def __repr__(self) -> str:
        inline = "" if self.inline is None else f", inline={self.inline!r}"
        return f"Many({self.description!r}{inline})"

    def field(self) -> Field[Any]:
        """The field that holds the refs of an inline collection."""
        found: Field[Any] = Field(self.description, source=self.inline)
        found.name = self.name
        return found


def key(*, kw_only: Literal[False]) -> Any:
    """The upstream identifier: every record has one, and it is the only positional value."""
    return Field("the identifier upstream gives")


# -- entities -----------------------------------------------------------------------------


def refuse_reserved_names(entity: type[_Declared]) -> None:
    """SchemaError when a field's name is reserved, or differs from another in case alone."""
    seen: dict[str, str] = {}
    for name in [*entity._fields, *entity._collections]:
        if name.startswith("_") or name in RESERVED:
            raise SchemaError(
                f"{entity.__name__}.{name}: the name is reserved", hint="give the field another name"
            )
        if name == "id" and "id" in vars(entity) and entity.__mro__[1] is not _Declared:
            raise SchemaError(
                f"{entity.__name__}.id: every entity has an id, which is a text",
                hint="leave it out; key= in the class's brackets says where the data has it",
            )
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise SchemaError(
                f"{entity.__name__}.{name} and .{other} differ in case alone; column names ignore case"
            )


def _check_sources(entity: type[_Declared]) -> None:
    """SchemaError when a source is neither a path nor a function."""
    for name, source in [("id", entity._key), *((n, f.source) for n, f in entity._fields.items())]:
        path = isinstance(source, str) and all(source.split("."))
        if source is not None and not path and not callable(source):
            raise SchemaError(
                f"{entity.__name__}.{name} has the source {source!r}",
                hint="write a path, such as user.id, or a function of a row's data",
            )


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(key,))
class _Declared:
    # Every record sets both, the first one of its class as well: then Python keeps them without a dict of
    # each record, which the garbage collector would follow as well.
    _given: tuple[Any, ...] | dict[str, Any] | None  # what a written constructor or a database gave
    _kept: dict[str, Any] | None  # every value by name, from the first look on
    _given_names: ClassVar[tuple[str, ...]] = ()  # of each, the id last
    _refs: ClassVar[Mapping[str, type[Entity]] | None] = None  # the fields that are refs, of which entity
    _fields: ClassVar[dict[str, Field[Any]]] = {}
    _known: ClassVar[frozenset[str]] = frozenset()  # the names of the fields
    _collections: ClassVar[dict[str, Many[Any]]] = {}
    _inline: ClassVar[tuple[str, ...]] = ()  # the collections whose members come with the row
    _types: ClassVar[dict[str, FieldType] | None] = None
    _children: ClassVar[dict[str, type[Entity]] | None] = None
    _title: ClassVar[str | None] = None
    _conventions: ClassVar[Mapping[str, str]] = {}
    _key: ClassVar[Source | None] = None
    _camel_case: ClassVar[bool] = False
    _schema: ClassVar[Any] = None  # the Schema that it was read with, as JSON data
    __signature__ = LazySignature()

    def __init_subclass__(
        cls,
        *,
        title: str | None = None,
        key: Source | None = None,
        conventions: Mapping[str, str] | None = None,
    ) -> None:
        cls._title, cls._key = title or cls._title, key or cls._key
        cls._conventions = {**cls._conventions, **(conventions or {})}
        declared = {
            n: d
            for base in reversed(cls.__mro__)
            for n, d in vars(base).items()
            if not isinstance(d, classmethod)  # which would give its place to a field of that name
        }
        cls._collections = {n: m for n, m in declared.items() if isinstance(m, Many)}
        cls._inline = tuple(n for n, m in cls._collections.items() if m.inline is not None)
        declared |= {name: cls._collections[name].field() for name in cls._inline}
        cls._fields = {n: f for n, f in declared.items() if isinstance(f, Field)}
        cls._known = frozenset(cls._fields)
        cls._types = cls._children = cls._refs = None
        refuse_reserved_names(cls)
        _check_sources(cls)

    def __init__(self, /, id: str, **values: Any) -> None:
        if not self._known.issuperset(values):
            unknown = ", ".join(sorted(values.keys() - self._fields.keys()))
            listed = values.keys() & self._collections.keys() - self._fields.keys()
            hint = "; a row names members of a collection that is declared with inline=" if listed else ""
            raise TypeError(f"{type(self).__name__} has no field {unknown}{hint}")
        values["id"] = id
        self._given, self._kept = None, values

    def __getstate__(self) -> dict[str, Any]:
        """Where it is unpickled its class may not know yet which fields are refs."""
        return {**vars(self), "_given": None, "_kept": self._values}

    @property
    def _values(self) -> dict[str, Any]:
        """Every value by name.

        Of a stored record, and of one that a written constructor made, the refs are made at the first
        look at any value.  Until then it has nothing that the garbage collector follows: a hundred
        thousand dicts with refs held every thread for 60 ms, again and again while they were made.
        """
        if self._kept is None:
            self._kept = self._made_values()
        return self._kept

    def _made_values(self) -> dict[str, Any]:
        """The values that were given, with refs in place of their ids."""
        values: dict[str, Any]
        if isinstance(self._given, tuple):
            pairs = zip(self._given_names, self._given, strict=True)
            values = {name: one for name, one in pairs if one is not NOTHING}
        else:
            values = self._given or {}
        for name, entity in self._ref_fields().items():
            if type(id := values.get(name)) is str:
                values[name] = Ref(entity, id)
        return values

    @classmethod
    def _ref_fields(cls) -> Mapping[str, type[Entity]]:
        if cls._refs is None:
            types = cast("type[Entity]", cls).types().items()
            cls._refs = {n: cast("type[Entity]", t.target) for n, t in types if t.kind is Kind.REF}
        return cls._refs

    @classmethod
    def _parameters(cls, make: Any) -> list[Any]:
        named = [make(name, make.KEYWORD_ONLY, default=...) for name in cls._fields if name != "id"]
        return [make("id", make.POSITIONAL_OR_KEYWORD), *named]


class Entity(_Declared):
    """One kind of thing that upstream keeps; an instance is a partial record of it.

    ``class Issue(Entity, title="subject")`` names the text by which people know a record: tables
    give it the room, and refs to it are shown by it.  ``key="node_id"`` is the source of the id, for
    ``read``; without it, ``id``.  ``conventions`` names what people mean by a
    word, as filters: ``{"open": "status NOT IN (done, cancelled)"}``; guides for agents have them.
    A subclass inherits all three.
    """

    id: Field[str] = key(kw_only=False)

    @classmethod
    def ref(cls, id: str) -> Ref[Self]:
        """The ref with this id."""
        return Ref(cls, id)

    @classmethod
    def read(
        cls,
        data: Json,
        given: Mapping[FieldOf[Self, Any], object] = NOTHING_GIVEN,
        *,
        fields: Iterable[FieldOf[Self, Any]] | None = None,
    ) -> Self:
        """The record that a service's data describes, read as the fields' sources and types say.

        ``given`` has what the data lacks: values, or functions of the data.  ``fields`` are those
        to read; without it all, of which a loader returns those in its ``brings``.  What cannot be
        read makes the record invalid, which costs its row when it is stored.
        """
        from .mapping import read_one  # commands that read what is stored do without

        return read_one(cls, data, given, fields)

    @classmethod
    def types(cls) -> Mapping[str, FieldType]:
        """The type of each field except the id; annotations are resolved at the first call."""
        if cls._types is None:
            resolve(cls, {})
        return cast("dict[str, FieldType]", cls._types)

    @classmethod
    def children(cls) -> Mapping[str, type[Entity]]:
        """The entity that each collection lists."""
        if cls._children is None:
            resolve(cls, {})
        return cast("dict[str, type[Entity]]", cls._children)

    def to_dict(self, fields: Iterable[str] | None = None) -> dict[str, Json]:
        """The record as JSON data, as ``max search -o json`` prints it; ``fields`` chooses.

        The id is always there.  Fields that are not loaded are left out.
        """
        values, types = self._values, type(self).types()
        names = values if fields is None else [name for name in fields if name in values]
        return {"id": values["id"]} | {n: types[n].to_json(values[n]) for n in names if n != "id"}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._values == self._values

    __hash__ = None  # type: ignore[assignment]  # a record is a value that may hold lists

    def __repr__(self) -> str:
        loaded = "".join(f", {k}={short(v)}" for k, v in self._values.items() if k != "id")
        return f"{type(self).__name__}({self._values['id']!r}{loaded})"


def resolve(entity: type[Entity], neighbours: Mapping[str, type[Entity]]) -> None:
    """Read an entity's annotations; ``neighbours`` are entities that its module may not define."""
    try:
        hints = _hints(entity, dict(neighbours))
    except NameError as error:
        raise SchemaError(
            f"{entity.__name__} is annotated with {error.name!r}, which its module does not define",
            hint="declare the entities of one connector in one module, at the top level",
        ) from error
    where = entity.__name__
    entity._children = children = {
        name: _entity_of((_inside(hints, where, name, Many),), f"{where}.{name}", "Many")
        for name in entity._collections
    }
    entity._types = {
        name: FieldType.refs(children[name])
        if name in children
        else FieldType.of(_inside(hints, where, name, Field), f"{where}.{name}")
        for name in entity._fields
        if name != "id"
    }
    entity._refs = None


def _hints(entity: type[Entity], neighbours: dict[str, type[Entity]]) -> dict[str, Any]:
    """The evaluated annotations of fields and collections; NameError.

    Those of Entity itself are left out: in them ``Field`` is ours, also where an entity has that name.
    """
    hints: dict[str, Any] = {}
    for base in reversed(entity.__mro__[: entity.__mro__.index(Entity)]):
        names = vars(base).get("__annotations__", {})
        declared = {n: names[n] for n in (*entity._fields, *entity._collections) if n in names}
        within = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        hints |= typing.get_type_hints(types.SimpleNamespace(__annotations__=declared), within, neighbours)
    return hints


def _inside(hints: Mapping[str, Any], entity: str, name: str, kind: type) -> Any:
    arguments = typing.get_args(hints.get(name))
    if arguments and typing.get_origin(hints[name]) is kind:
        return arguments[0]
    said = f"is annotated {type_name(hints[name])}" if name in hints else "has no annotation"
    inside = type_name(hints[name]) if kind is Field and name in hints else "…"
    raise SchemaError(
        f"{entity}.{name} {said}", hint=f"write {name}: {kind.__name__}[{inside}] = {kind.__name__}(…)"
    )


def entity_of(entity: type[E], values: dict[str, Any]) -> E:
    """A record that keeps these values, the id included, as they are."""
    made = object.__new__(entity)
    made._given, made._kept = None, values
    return made


def values_of(entity: Entity) -> Mapping[str, Any]:
    """The loaded values of a record by field name, the id included."""
    return types.MappingProxyType(entity._values)


def as_it_came(value: object) -> object:
    """A value; in place of one that could not be read, what the data has."""
    return value.actual if isinstance(value, InvalidValue) else value
