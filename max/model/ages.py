"""What is said about the age of stored data: how old each field is, and what was marked as stale.

An age counts from when the request began that brought a value.  What was never fetched, or was
invalidated since, has no age and is counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .struct import Struct

if TYPE_CHECKING:
    from .delivery import AgeHistogram
    from .entities import Entity
    from .values import Json

QUANTILES = {"youngest": 0.0, "median": 0.5, "p90": 0.9, "oldest": 1.0}


class FieldAge(Struct):
    """How old one thing is: ``kind`` is ``field``, ``listing`` (a collection) or ``feed``.

    ``of`` is how many there are: rows, parents, or places where the feed is followed.  An entity
    without fields has a line of its own, of kind ``entity`` and without ages.
    """

    kind: str
    entity: str | None
    name: str
    of: int
    ages: AgeHistogram

    def __str__(self) -> str:
        return f"{self.entity}.{self.name}" if self.kind == "field" else self.name

    def quantiles(self) -> dict[str, float | None]:
        """The ages of QUANTILES, in seconds; None when nothing has an age."""
        return {name: quantile(self.ages, share) for name, share in QUANTILES.items()}

    def to_json(self) -> Json:
        """As JSON data; ages are in seconds, null when there is none."""
        owner = {} if self.entity is None else {"entity": self.entity}
        counts = {"rows" if self.kind in ("field", "entity") else "places": self.of, "never": self.ages.never}
        return {"kind": self.kind, **owner, self.kind: self.name, **counts, **self.quantiles()}


def quantile(ages: AgeHistogram, share: float) -> float | None:
    """The age that this share of all ages does not exceed; None when nothing has an age."""
    wanted, seen = share * sum(rows for _, rows in ages.ages), 0
    for age, rows in ages.ages:
        seen += rows
        if seen >= wanted:
            return age
    return None


class Invalidated(Struct):
    """Fields of an entity that were marked as stale, in how many rows."""

    entity: type[Entity]
    fields: tuple[str, ...]
    rows: int


class Invalidation(Struct):
    """What was marked as stale, and what the next sync does about it.

    ``listings`` says how many lists of each collection it reads in full, ``loaders`` which fields
    each loader fetches.  ``unfinished`` is the id of a sync that is paused or interrupted: it does
    not fetch again what it has already.
    """

    fields: tuple[Invalidated, ...]
    listings: Mapping[str, int]
    loaders: Mapping[str, Sequence[str]]
    unfinished: str | None
