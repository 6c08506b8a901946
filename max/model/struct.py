"""The small record class: immutable data without the cost of importing dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import (
    ClassVar,
    Never,
    Self,
    dataclass_transform,
)


@dataclass_transform(frozen_default=True)
class Struct:
    """Immutable data: the annotations are the fields, in order, as in a frozen dataclass.

    It exists because importing ``dataclasses`` costs more processor time than the whole
    of this module, and every command would pay for it.
    """

    _names: ClassVar[tuple[str, ...]] = ()
    _known: ClassVar[frozenset[str]] = frozenset()
    _required: ClassVar[frozenset[str]] = frozenset()  # those that have no default

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = [n for n, hint in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(hint)]
        cls._names = tuple(dict.fromkeys([*cls._names, *own]))
        cls._known = frozenset(cls._names)
        cls._required = frozenset(name for name in cls._names if not hasattr(cls, name))

    def __init__(self, *args: object, **named: object) -> None:
        values = dict(zip(self._names, args, strict=False))
        values.update(named)
        if len(values) < len(args) + len(named) or not self._required <= values.keys() <= self._known:
            raise TypeError(self._problem(args, named))
        self.__dict__.update(values)

    def _problem(self, args: Sequence[object], named: Mapping[str, object]) -> str:
        """Why no record can be made of these arguments, of which one is missing, unknown or given twice."""
        given = {*self._names[: len(args)], *named}
        missing, unknown = self._required - given, given - self._known
        if missing:
            return f"{type(self).__name__} misses {', '.join(n for n in self._names if n in missing)}"
        if unknown:
            return f"{type(self).__name__} has no {', '.join(n for n in named if n in unknown)}"
        return f"{type(self).__name__} takes {', '.join(self._names)}"

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self._names)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({inside})"

    def replace(self, **changes: object) -> Self:
        """A copy with some fields changed."""
        return type(self)(**(vars(self) | changes))
