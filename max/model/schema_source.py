"""A schema as Python: the entities of stored data as a typed module, without their connector.

Rule: the module passes mypy --strict and its SCHEMA equals the schema, whatever the names are.  A
name of the schema hides no name of the module: what both have is imported as ``_name``.
"""

from __future__ import annotations

import keyword
import re
from typing import Any

from .entities import Entity, FieldType, ManyOf
from .json_types import TOKEN
from .schema import Schema, description_of
from .values import Kind

TYPES = {
    Kind.TEXT: "str",
    Kind.INTEGER: "int",
    Kind.REAL: "float",
    Kind.BOOLEAN: "bool",
    Kind.DATETIME: "datetime",
    Kind.DATE: "date",
}
MODULES = {
    "builtins": ("bool", "dict", "float", "getattr", "int", "list", "str", "vars"),
    "datetime": ("date", "datetime"),
    "typing": ("Literal",),
    "max.connecting": ("Entity", "Field", "Json", "Many", "Ref", "Schema"),
}


def schema_source(schema: Schema) -> str:
    """The module; ``max schema --python`` prints it."""
    return _Source(schema).text()


class _Source:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        entities = schema.entities.values()
        self._inside = {name for one in entities for name in (*one._fields, *one._collections)}
        self._names = self._inside | schema.entities.keys()

    def text(self) -> str:
        """Imports, entities, and the schema."""
        entities, schema = self._schema.entities, self._name("SCHEMA")
        body = [line for one in entities.values() for line in self._entity(one)]
        hidden = [f"_{name}_ = {name}" for name in entities if name in self._inside]
        roots = ", ".join(root.__name__ for root in self._schema.roots)
        made = f"[{', '.join(entities)}], roots=[{roots}], connector={self._schema.connector!r}"
        head = ['"""The entities of stored data, as `max schema --python` prints them."""', ""]
        head += ["from __future__ import annotations", "", *self._imports()]
        return "\n".join([*head, *body, *hidden, f"{schema} = {self._name('Schema')}({made})", ""])

    def _name(self, name: str) -> str:
        """A name of the module, as it is written beside the schema's own."""
        return f"_{name}" if name in self._names else name

    def _imports(self) -> list[str]:
        lines = []
        for module, names in MODULES.items():
            wanted = [n if self._name(n) == n else f"{n} as _{n}" for n in names]
            if module == "builtins":
                wanted = [one for one in wanted if " as " in one]
            lines += [f"from {module} import {', '.join(wanted)}"] if wanted else []
        return lines

    def _entity(self, entity: type[Entity]) -> list[str]:
        named = [f"title={entity._title!r}"] if entity._title else []
        named += [f"conventions={dict(entity._conventions)!r}"] if entity._conventions else []
        base = ", ".join([self._name("Entity"), *named])
        lines = ["", "", f"class {entity.__name__}({base}):", f"    {description_of(entity)!r}", ""]
        collections = iter(entity.children().items())
        for name, holds in entity.types().items():
            if name in entity._collections:  # an inline one is in both lists, in their orders
                for other, child in collections:
                    lines += self._collection(entity, other, child)
                    if other == name:
                        break
                continue
            field = entity._fields[name]
            marks = [f"{mark}=True" for mark in ("searchable", "brief") if getattr(field, mark)]
            call = f"{self._name('Field')}({', '.join([repr(field.description), *marks])})"
            lines += self._declared(name, f"{self._name('Field')}[{self._type(holds)}]", call)
        for name, child in collections:
            lines += self._collection(entity, name, child)
        return lines

    def _collection(self, entity: type[Entity], name: str, child: type[Entity]) -> list[str]:
        many, of = entity._collections[name], ManyOf[Any, Any](entity, name)
        inverse = of.by
        by = f", by=lambda: {self._attribute(child.__name__, inverse.name)}" if inverse else ""
        by += f", inline={name!r}" if of.inline else ""
        call = f"{self._name('Many')}({many.description!r}{by})"
        return self._declared(name, f"{self._name('Many')}[{self._target(child)}]", call)

    def _declared(self, name: str, annotation: str, call: str) -> list[str]:
        """An attribute; one whose name is a word of Python is put where Python keeps the others.

        So is one that hides a method of Entity, which a type checker would refuse.
        """
        if not keyword.iskeyword(name) and name != Entity.read.__name__:
            return [f"    {name}: {annotation} = {call}"]
        names = self._name("vars")
        kept = f'{names}().setdefault("__annotations__", {{}})[{name!r}]'
        return [f"    {names}()[{name!r}] = {call}", f"    {kept} = {annotation!r}"]

    def _target(self, entity: type[Entity]) -> str:
        return f"_{entity.__name__}_" if entity.__name__ in self._inside else entity.__name__

    def _type(self, holds: FieldType) -> str:
        if holds.target:
            text = f"{self._name('Ref')}[{self._target(holds.target)}]"
        elif holds.inside:
            text = f"{self._name('list')}[{self._name('Ref')}[{self._target(holds.inside)}]]"
        elif holds.choices:
            text = f"{self._name('Literal')}[{', '.join(map(repr, holds.choices))}]"
        elif holds.kind is Kind.JSON:
            text = re.sub(TOKEN, lambda word: self._json_word(word[0]), holds.shape)
        else:
            text = self._name(TYPES[holds.kind])
        return f"{text} | None" if holds.optional else text

    def _json_word(self, word: str) -> str:
        named = word.isidentifier() and not keyword.iskeyword(word)
        return self._name("Json" if word == "json" else word) if named else word

    def _attribute(self, owner: str, name: str) -> str:
        found = f"{self._name('getattr')}({owner}, {name!r})"
        return found if keyword.iskeyword(name) else f"{owner}.{name}"
