"""Account fields: what an account adds to the entities of its connector.

Customers of a CRM give its records properties of their own.  A connector finds them with
``discover``, and for that installation they are fields like all others.

Rule 1: an installation has entities of its own then: subclasses of the connector's, under the same
names.  Two installations in one process may therefore have different fields.

Rule 2: a field keeps its name as long as its source is the same, whatever is added beside it; and no
name is given to two fields.  The connector's own fields come first.

Rule 3: a loader that brings every field of an entity brings those of the account, too.

Example: a contact of the connector has ``first_name``; the account has the property ``Shoe size``.
The entity of the installation has ``first_name`` and ``shoe_size``, which is read from the source
``properties.Shoe size`` of the data.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Optional, TypeVar, cast

from ..errors import LoaderFault, MaxError, SchemaError, shown
from .entities import RESERVED, Entity, Field, FieldOf, FieldType, Many, ManyOf, Ref, entity_of
from .loaders import Added, Loader, RawLoader, Resolver
from .schema import Schema
from .struct import Struct
from .values import Json, Kind

T = TypeVar("T")

MOST_COLUMNS = 1_800  # of fields and groups of them; SQLite allows 2,000, and some are for bitmaps and orders
TEXT = FieldType.of(Optional[str], "")  # noqa: UP045  # in place of the type of a field that is gone
LONGEST_NAME = 60  # characters; other databases cut names at 63 bytes
LONGEST_WORDS = 300  # characters of a description that the account's people wrote
WORDS = frozenset("AND OR NOT IN IS HAS NULL LOADED TRUE FALSE".casefold().split(" "))  # of filters


class AccountField(Struct):
    """A field that an account has of its own, as ``discover`` finds it.

    ``name`` is the source's own, which may be any text; the field gets it in small letters, with
    ``_`` between them.  ``type`` is str, int, float, bool, datetime, date or a list of such; the field
    may always be empty.  ``source`` is the path where the row's data has it; without one, the data has
    it under the name itself.
    ``label`` is what people call it; it begins the description.
    """

    name: str
    type: Any
    label: str = ""
    description: str = ""
    source: str = ""
    searchable: bool = False

    @property
    def where(self) -> str:
        """Its place in a row's data, which is also what it is known by."""
        return self.source or self.name

    @property
    def words(self) -> str:
        """Label and description as one text."""
        texts = [" ".join(text.split()) for text in (self.label, self.description)]
        return ": ".join(dict.fromkeys(filter(None, texts)))[:LONGEST_WORDS]


class AddedField(Struct):
    """An account's field under the name that it has here; a ``flat`` source is one key, also with dots.

    One that is ``gone`` is no field now.  Its values are kept, so no other one may get its name.
    """

    holds: FieldType
    source: str
    flat: bool
    description: str = ""
    searchable: bool = False
    gone: bool = False


Found = Mapping[type[Entity], "Sequence[AccountField] | Exception"]  # what discover returns


# -- what was found ------------------------------------------------------------------------


def with_found(resolver: Resolver, present: Resolver, found: object) -> tuple[Resolver, list[str]]:
    """The connector's resolver with what ``discover`` found, and notes about what could not be had.

    An entity that it does not name keeps the fields that it has at ``present``, and so does one whose
    fields it could not ask for.  When nothing differs, it is the present resolver itself.
    LoaderFault for anything but fields of the schema's entities.
    """
    known = present.added or {}
    added, notes = dict(known), list[str]()
    for entity, fields in _checked(resolver.schema, found).items():
        name = entity.__name__
        if isinstance(fields, Exception):
            words = fields.message if isinstance(fields, MaxError) else str(fields)
            notes.append(f"{name}: its own fields of this account could not be read: {words}")
            continue
        before, sources = known.get(name, {}), {field.where for field in fields}
        gone = {old: one.replace(gone=True) for old, one in before.items() if one.source not in sources}
        room = max(0, MOST_COLUMNS - 2 * len(entity.types()) - 2 - len(gone))
        added[name] = gone | named_fields(entity, fields[:room], before)
        if len(fields) > room:
            notes.append(
                f"{name}: {len(fields) - room:,} of the account's {len(fields):,} fields are left out"
            )
    if _without_empty(added) == _without_empty(known):
        return present, notes
    return with_added(resolver, added), notes


def _without_empty(added: Added) -> Added:
    return {entity: fields for entity, fields in added.items() if fields}


def _checked(schema: Schema, found: object) -> Found:
    """What discover returned; LoaderFault when it is not what it should be."""
    if not isinstance(found, Mapping):
        raise _fault("fields by entity", found)
    for entity, fields in found.items():
        if entity not in schema.entities.values():
            raise _fault("fields of the schema's entities", entity)
        if isinstance(fields, Exception):
            continue
        if not isinstance(fields, Sequence) or isinstance(fields, str):
            raise _fault(f"a list of fields for {entity.__name__}", fields)
        for field in fields:
            if not isinstance(field, AccountField) or not _is_text(field.name) or _type_of(field) is None:
                raise _fault(f"AccountFields with a name and a type for {entity.__name__}", field)
    return found


def _is_text(name: object) -> bool:
    return isinstance(name, str) and name != ""


def _type_of(field: AccountField) -> FieldType | None:
    """The type of a field, which may be empty; None when an account cannot have such fields."""
    try:
        holds = FieldType.of(Optional[field.type], field.name)  # noqa: UP045  # it may be no type at all
    except (SchemaError, TypeError):
        return None
    return None if holds.kind is Kind.REF else holds


def _fault(expected: str, actual: object) -> LoaderFault:
    return LoaderFault(
        f"discover must return {expected}, got {shown(actual, 120)}", hint="this is a bug of the connector"
    )


def named_fields(
    entity: type[Entity], fields: Sequence[AccountField], known: Mapping[str, AddedField]
) -> dict[str, AddedField]:
    """The fields under valid names; one whose source is known keeps the name that it has."""
    names = {one.source: name for name, one in known.items()}
    own = {name.casefold() for name in (*entity._fields, *entity._collections)}
    kept = {
        one.where: names[one.where] for one in fields if names.get(one.where, "").casefold() not in own | {""}
    }
    taken = own | {name.casefold() for name in known}
    found: dict[str, AddedField] = {}
    for one in {field.where: field for field in fields}.values():
        name = kept.get(one.where) or valid_name(one.name, taken)
        taken.add(name.casefold())
        holds = cast("FieldType", _type_of(one))
        found[name] = AddedField(
            holds, one.where, not one.source, one.words, one.searchable and holds.kind is Kind.TEXT
        )
    return found


def valid_name(text: str, taken: Iterable[str]) -> str:
    """A name for a field: small letters, digits and ``_``; a number follows when another one has it."""
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:LONGEST_NAME].strip("_") or "field"
    name = f"field_{name}" if name[0].isdigit() else name
    if keyword.iskeyword(name) or name in WORDS or name in RESERVED or hasattr(Entity, name):
        name += "_"
    number, first = 2, name
    while name in taken:
        name, number = f"{first.rstrip('_')}_{number}", number + 1
    return name


# -- as data -------------------------------------------------------------------------------


def to_json(resolver: Resolver) -> Json:
    """Where the account's fields come from, by entity and field; what they hold, the schema says."""
    return {
        entity: {
            name: [one.source, one.flat, *(["gone"] if one.gone else [])] for name, one in fields.items()
        }
        for entity, fields in _without_empty(resolver.added or {}).items()
    }


def with_stored(resolver: Resolver, data: Json) -> Resolver:
    """The resolver with the account's fields that the schema in a database has, given as JSON data.

    The same resolver when its connector looks for none, or it has some already.
    """
    if resolver.added is None or resolver.added or not data or not data.get("account_fields"):
        return resolver
    stored = Schema.from_json(data).entities
    added: dict[str, dict[str, AddedField]] = {}
    for entity, sources in data["account_fields"].items():
        own = resolver.schema.entities.get(entity)
        taken = () if own is None else {name.casefold() for name in (*own._fields, *own._collections)}
        for name, (source, flat, *gone) in sources.items() if own is not None else ():
            if name.casefold() in taken:  # the connector has a field of this name now
                continue
            if gone:
                added.setdefault(entity, {})[name] = AddedField(TEXT, source, flat, gone=True)
            else:
                field, holds = stored[entity]._fields[name], stored[entity].types()[name]
                one = AddedField(holds, source, flat, field.description, field.searchable)
                added.setdefault(entity, {})[name] = one
    return with_added(resolver, added)


# -- entities and loaders ------------------------------------------------------------------


def with_added(resolver: Resolver, added: Added) -> Resolver:
    """The resolver of an installation whose account has these fields."""
    own = _entities(resolver.schema, added)
    roots = [own[root] for root in resolver.schema.roots]
    schema = Schema(list(own.values()), roots=roots, connector=resolver.schema.connector)
    return Resolver(schema, [_loader(loader, own, added) for loader in resolver.loaders], added)


def _entities(schema: Schema, added: Added) -> dict[type[Entity], type[Entity]]:
    """The installation's entities by the connector's."""
    own: dict[type[Entity], type[Entity]] = {}
    for name, entity in schema.entities.items():
        body: dict[str, Any] = {"__doc__": entity.__doc__, "__module__": entity.__module__}
        body |= {one: _field(field) for one, field in _present(added, name).items()}
        body |= {one: copy(many) for one, many in entity._collections.items()}
        own[entity] = type(name, (entity,), body)
    for entity, made in own.items():
        types = entity.types()
        made._types = {name: _moved(holds, own) for name, holds in types.items()}
        made._types |= {name: one.holds for name, one in _present(added, entity.__name__).items()}
        made._children = {name: own[child] for name, child in entity.children().items()}
        for many in made._collections.values():
            many.by = _inverse(many, own)
    return own


def _present(added: Added, entity: str) -> dict[str, AddedField]:
    """The fields of an entity that the account has now."""
    return {name: one for name, one in added.get(entity, {}).items() if not one.gone}


def _field(added: AddedField) -> Field[Any]:
    source = (lambda row: row.get(added.source)) if added.flat and "." in added.source else added.source
    return Field(added.description, searchable=added.searchable, source=source)


def _inverse(many: Many[Any], own: Mapping[type[Entity], type[Entity]]) -> Any:
    declared = many.by
    return None if declared is None else lambda: _moved(declared(), own)


def _loader(loader: Loader[Any], own: Mapping[type[Entity], type[Entity]], added: Added) -> Loader[Any]:
    """A loader that speaks of the installation's entities."""
    if isinstance(loader, RawLoader):
        return loader
    made = copy(loader)
    made.__dict__.update({name: _moved(value, own) for name, value in vars(loader).items()})
    for entity in dict.fromkeys(field.entity for field in loader.brings):
        implied = any(field.entity is entity for field in loader.implied)
        if implied or all(FieldOf(entity, name) in loader.brings for name in entity.types()):
            more = (FieldOf[Any, Any](own[entity], name) for name in _present(added, entity.__name__))
            made.brings = (*made.brings, *more)
    return made


def _moved(value: T, own: Mapping[type[Entity], type[Entity]]) -> T:
    """A value that may speak of the connector's entities, of the installation's instead."""
    moved: Any = value
    if isinstance(value, FieldOf):
        moved = FieldOf(own.get(value.entity, value.entity), value.name, _moved(value.via, own))
    elif isinstance(value, ManyOf):
        moved = ManyOf(own.get(value.parent, value.parent), value.name)
    elif isinstance(value, Struct):
        moved = value.replace(**{name: _moved(getattr(value, name), own) for name in value._names})
    elif isinstance(value, tuple):
        moved = tuple(_moved(one, own) for one in value)
    elif isinstance(value, type):
        moved = own.get(cast("type[Entity]", value), value)
    return cast(T, moved)


def of_installation(schema: Schema, entity: Entity) -> Entity:
    """A record as the installation has it, when a loader made it with the class of the connector."""
    own = schema.own(type(entity))
    if own is None or own is type(entity):
        return entity
    values = entity._values
    for name, many in own._collections.items():
        if many.inline is not None and isinstance(values.get(name), list | tuple):
            values = copy(values)
            values[name] = [_member(schema, one) for one in values[name]]
    return entity_of(own, values)


def _member(schema: Schema, member: object) -> object:
    """A member of an inline collection as the installation has it: a record or a ref."""
    if isinstance(member, Ref):
        return Ref(schema.own(member.entity) or member.entity, member.id, member.scope)
    return of_installation(schema, member) if isinstance(member, Entity) else member
