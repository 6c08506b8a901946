"""Constructors: the ``__init__`` of an entity, written for its fields.

A loader makes a hundred thousand records, one by one.  The constructor that every entity inherits takes
any fields and keeps them in a dict.  A dict that holds a Ref is followed by the garbage collector, which
looks at each of its values again and again while the records are made: an eighth of a first sync.

The one that is written here keeps what it was given in a tuple, with ids in place of refs.  The
collector follows no such tuple for long, it takes half the time of a dict, and the tuples of a page
become columns in one step.  It accepts, refuses and means the same: the dict of values is made when one is
asked for, and whatever is unusual is given to the constructor that every entity inherits.

Every name of its own begins with _, as that of no field does.  Example, of an entity with a text and a ref:

    def __init__(_self, /, id, *, title=_NOTHING, owner=_NOTHING, **_others):
        if _others or _type(_self) is not _entity:
            return _inherited(_self, id, (title, owner), _others)
        if _type(owner) is _Ref and owner.entity is _0 and owner.scope is _LOCAL and _type(owner.id) is _str:
            _id0 = owner.id
        elif owner is None or owner is _NOTHING:
            _id0 = owner
        else:
            return _inherited(_self, id, (title, owner), _others)
        _self._given, _self._kept = (title, _id0, id), None
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any

from ..errors import NOTHING
from .entities import LOCAL, Entity, Ref


def write_constructor(entity: type[Entity]) -> None:
    """Have a constructor written for an entity, unless it has one or its fields cannot be parameters."""
    names = [name for name in entity._fields if name != "id"]
    is_ours = entity.__init__ is Entity.__init__ or hasattr(entity.__init__, "is_written")
    if "__init__" in vars(entity) or not is_ours or entity._inline:
        return
    if all(map(_is_parameter, names)):
        entity._given_names = (*names, "id")
        setattr(entity, "__init__", _written(entity, names))  # noqa: B010  # mypy knows it as a method


def _is_parameter(name: str) -> bool:
    """Whether Python takes the name of a field, which a description may have given, as it is."""
    return name.isascii() and name.isidentifier() and not iskeyword(name)


def _written(entity: type[Entity], names: Sequence[str]) -> Any:
    def inherited(self: Entity, id: str, given: tuple[object, ...], others: Mapping[str, Any]) -> None:
        values = zip(names, given, strict=True)
        Entity.__init__(self, id, **{name: one for name, one in values if one is not NOTHING}, **others)

    scope: dict[str, Any] = {"_NOTHING": NOTHING, "_Ref": Ref, "_LOCAL": LOCAL, "_type": type, "_str": str}
    scope |= {"_entity": entity, "_inherited": inherited}
    usual = f"return _inherited(_self, id, ({''.join(f'{name}, ' for name in names)}), _others)"
    lines = ["if _others or _type(_self) is not _entity:", f"    {usual}"]
    for number, (name, target) in enumerate(entity._ref_fields().items()):
        scope[f"_{number}"] = target
        is_target = f"{name}.entity is _{number} and {name}.scope is _LOCAL"
        lines += [
            f"if _type({name}) is _Ref and {is_target} and _type({name}.id) is _str:",
            f"    _id{number} = {name}.id",
            f"elif {name} is None or {name} is _NOTHING:",
            f"    _id{number} = {name}",
            "else:",
            f"    {usual}",
        ]
    ids = {name: f"_id{number}" for number, name in enumerate(entity._ref_fields())}
    kept = [ids.get(name, name) for name in names]
    lines.append(f"_self._given, _self._kept = ({', '.join([*kept, 'id'])},), None")
    parameters = ["*", *(f"{name}=_NOTHING" for name in names)] if names else []
    head = f"def __init__({', '.join(['_self', '/', 'id', *parameters, '**_others'])}):\n    "
    exec(head + "\n    ".join(lines), scope)  # noqa: S102  # the names of fields are identifiers
    made = scope["__init__"]
    made.is_written = True
    made.__qualname__, made.__module__ = f"{entity.__qualname__}.__init__", entity.__module__
    return made
