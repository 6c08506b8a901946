"""What users made in the database of an installation: indexes, views, triggers, columns and conditions.

Rule 1: an upgrade leaves it as it is.  Indexes follow names by themselves; views, triggers and rules
are taken away while tables change, and made again as they were.

Rule 2: where that cannot be, the plan names it before anything is written.  A column that something
of a user needs is emptied and stays.  What would break is refused, with the statement that drops it.
A view that names what is gone is only mentioned in SQLite: it keeps no sync from writing.  Postgres makes
no such view, so there it is refused as well.

Which names a statement uses is seen by its words, so a name may be found too often, never too rarely.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import catalogue
from .database import Connection, Dialect, StoredObject

FIRING = ("trigger", "rule")  # run with each write
INDEXING = ("index", "statistics")  # of values of any type, so these are made again
REQUIRED = "NOT NULL of column"
CONDITIONS = ("constraint", "foreign key", REQUIRED)  # that the values of a row have to meet
VIEWS = ("view", "materialized view", "view of another role")
NOT_REMADE = VIEWS[1:]


class UsersOwn(StoredObject):
    """What Max has not made."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"your {self.kind} {self.name}"

    def uses(self, dialect: Dialect, table: str, column: str = "") -> bool:
        """Whether it belongs to a table or its view, or names one, and names the column."""
        places = [dialect.stored_name(one) for one in (table, table.removeprefix("_"))]
        related = any(one == self.place or self.names(one) for one in places)
        return related and (not column or self.names(dialect.stored_name(column)) > 0)

    def names(self, name: str) -> int:
        """How often its definition names something."""
        return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", self.definition, re.IGNORECASE))


def users_own(connection: Connection) -> list[UsersOwn]:
    """What users made, in the order in which it was made.

    Tables of ours, and what belongs to them, begin with ``_max_``; a user may have begun a name so, too.
    """
    known = catalogue.names(connection) if catalogue.is_catalogued(connection) else ()
    ours = {*map(connection.dialect.stored_name, known)}
    found = [UsersOwn(*one) for one in connection.dialect.objects(connection)]
    found = [one for one in found if one.kind in VIEWS or not one.place.startswith("_max_")]
    return [one for one in found if one.name not in ours]


def with_readers(some: Sequence[UsersOwn], own: Sequence[UsersOwn]) -> list[UsersOwn]:
    """The same with what reads the views among them, in the order of ``own``."""
    found = [*some]
    for view in found:  # which grows
        if view.kind in VIEWS:
            found += [one for one in own if one not in found and one.names(view.name)]
    return [one for one in own if one in found]


def listed(some: Sequence[UsersOwn]) -> str:
    """Their names, for people."""
    return ", ".join(map(str, some))


def dropping(some: Sequence[UsersOwn]) -> str:
    """The hint with the statements that drop them, the newest first and columns last: so each works."""
    columns = [one for one in reversed(some) if one.kind == "column"]
    order = [*(one for one in reversed(some) if one not in columns), *columns]
    return f"drop what you made, and make it again afterwards: {'; '.join(one.drop for one in order)}"
