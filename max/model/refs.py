"""Refs: what points at an entity without loading it, and the same as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from .struct import Struct

if TYPE_CHECKING:
    from .entities import Entity

E = TypeVar("E", bound="Entity")
P = TypeVar("P", bound="Entity")


class Scope(Struct):
    """Where a ref is valid: inside its own installation (None), or anywhere, naming its installation."""

    installation: str | None = None


LOCAL = Scope()


class Ref(Generic[E]):
    """Points at one entity without loading it.

    Inside one installation a ref is a plain id.  ``within`` makes one that names its
    installation, for answers that mix several installations.
    """

    __slots__ = ("entity", "id", "scope")

    entity: type[E]
    id: str
    scope: Scope

    def __init__(self, entity: type[E], id: str, scope: Scope = LOCAL) -> None:
        self.entity, self.id, self.scope = entity, id, scope

    @staticmethod
    def of(entity: P) -> Ref[P]:
        """The ref that points at a record."""
        return Ref(type(entity), entity.id)

    @property
    def key(self) -> RefKey:
        """The ref as data, without the class."""
        return RefKey(self.entity.__name__, self.id, self.scope.installation)

    def within(self, installation: str) -> Ref[E]:
        """The same ref, naming its installation."""
        return Ref(self.entity, self.id, Scope(installation))

    def local(self) -> Ref[E]:
        """The same ref as its own installation stores it: a plain id."""
        return Ref(self.entity, self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.key == other.key

    def __hash__(self) -> int:
        return hash((self.entity.__name__, self.id, self.scope.installation))

    def __repr__(self) -> str:
        text = str(self.key)
        return text if text.isprintable() else repr(text)[1:-1]  # an id may hold any text


class RefKey(Struct):
    """A ref as data: ``Entity:id``, or ``installation/Entity:id`` across installations.

    The first ``:`` ends the head: an id may hold any text, but entity names are identifiers and
    installation ids contain neither ``/`` nor ``:``.
    """

    entity: str
    id: str
    installation: str | None = None

    def __str__(self) -> str:
        head = f"{self.installation}/" if self.installation else ""
        return f"{head}{self.entity}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> RefKey:
        """The inverse of ``str``; ValueError when the text is not a ref."""
        head, colon, id = text.partition(":")
        installation, slash, entity = head.rpartition("/")
        if not colon or not entity.isidentifier() or (slash and not installation) or "/" in installation:
            raise ValueError(f"{text!r} is not a ref; write Entity:id")
        return cls(entity, id, installation or None)
