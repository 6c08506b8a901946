"""The small record class: immutable data without the cost of importing dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from reprlib import Repr
from typing import Any, ClassVar, Never, Self, TypeVar, dataclass_transform

LAST = 6e10  # seconds; further from the epoch is no time
SHORT = Repr()  # how values of a record are shown: long ones are cut
SHORT.maxstring = SHORT.maxother = 200  # characters
SHORT.maxtuple = SHORT.maxlist = SHORT.maxdict = 6  # items


class LazySignature:
    """Makes ``help()`` show a class's parameters with their types; imports ``inspect`` only then."""

    def __get__(self, instance: object, owner: Any) -> Any:
        if instance is not None:
            return None
        from inspect import Parameter, Signature

        hints = {
            n: h for base in reversed(owner.__mro__) for n, h in vars(base).get("__annotations__", {}).items()
        }
        parameters = [
            one.replace(annotation=hints.get(one.name, "Any")) for one in owner._parameters(Parameter)
        ]
        return Signature(parameters, __validate_parameters__=False)


@dataclass_transform(frozen_default=True)
class Struct:
    """Immutable data: the annotations are the fields, in order, as in a frozen dataclass.

    It exists because importing ``dataclasses`` takes more processor time than importing all of
    this folder, and every command would pay for it.
    """

    _names: ClassVar[tuple[str, ...]] = ()
    _known: ClassVar[frozenset[str]] = frozenset()
    _required: ClassVar[frozenset[str]] = frozenset()  # fields without a default
    __signature__: ClassVar[Any] = LazySignature()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = [n for n, hint in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(hint)]
        cls._names = tuple(dict.fromkeys([*cls._names, *own]))
        cls._known = frozenset(cls._names)
        cls._required = frozenset(name for name in cls._names if not hasattr(cls, name))
        if "__init__" in vars(cls):
            cls.__signature__ = None  # its own __init__ says it

    def __init__(self, *args: object, **named: object) -> None:
        if len(args) == len(self._names) and not named:  # the quick way
            self.__dict__.update(zip(self._names, args, strict=True))
            return
        number = len(args) + len(named)
        if args:
            named.update(zip(self._names, args, strict=False))
        if len(named) < number or not self._required <= named.keys() <= self._known:
            raise TypeError(self._problem(args, named))
        self.__dict__.update(named)

    @classmethod
    def _parameters(cls, make: Any) -> list[Any]:
        return [make(n, make.POSITIONAL_OR_KEYWORD, default=getattr(cls, n, make.empty)) for n in cls._names]

    def _problem(self, args: Sequence[object], named: Mapping[str, object]) -> str:
        """What is wrong with these arguments: one is missing, unknown or given twice."""
        given = {*self._names[: len(args)], *named}
        missing, unknown = self._required - given, given - self._known
        if missing:
            return f"{type(self).__name__} needs {', '.join(n for n in self._names if n in missing)}"
        if unknown:
            return f"{type(self).__name__} has no {', '.join(n for n in named if n in unknown)}"
        return f"{type(self).__name__} takes {', '.join(self._names)}, each once"

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._names)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:  # short: without the fields that have their defaults
        values = [(name, getattr(self, name), getattr(type(self), name, self)) for name in self._names]
        shown = [f"{name}={short(value, name)}" for name, value, default in values if value != default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self, **changes: object) -> Self:
        """A copy with some fields changed."""
        if not changes.keys() <= self._known:
            raise TypeError(self._problem(self._values(), changes))
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy


S = TypeVar("S", bound=Struct)
TYPES: dict[str, Any] = {  # by annotation
    "str": str,
    "str | None": str | None,
    "int": int,
    "float": float | int,
    "float | None": float | int | None,
    "Mapping[str, int]": Mapping,
    "Mapping[str, Json]": Mapping,
}
INSIDE: dict[str, tuple[Any, Any]] = {  # what each item of these is
    "Mapping[str, int]": (Mapping.values, int),
    "tuple[str, ...]": (tuple, str),
}


def checked(record: S) -> S:
    """The record, which was stored; TypeError when a value is not of the type that it declares."""
    of: type = type(record)
    for name, kind, items, inside in _declared(of):
        value = getattr(record, name)
        if not isinstance(value, kind) or (
            items and not all(isinstance(one, inside) for one in items(value))
        ):
            raise TypeError(f"{name} is {value!r}")
    return record


@cache
def _declared(record: type) -> list[tuple[str, Any, Any, Any]]:
    """The values of a record that can be checked: name, type, how to get the items, and their type."""
    declared = [pair for one in record.__mro__ for pair in vars(one).get("__annotations__", {}).items()]
    return [
        (name, TYPES.get(hint, object), *INSIDE.get(hint, (None, None)))
        for name, hint in declared
        if hint in TYPES or hint in INSIDE
    ]


def short(value: object, name: str = "") -> str:
    """A value in a few words, for a repr; what is named as a time, in seconds since the epoch, is one."""
    if isinstance(value, float) and name.endswith("at") and abs(value) < LAST:
        from datetime import UTC, datetime

        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return value.__name__ if isinstance(value, type) else SHORT.repr(value)
