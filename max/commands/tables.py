"""Tables whose columns fit a terminal, and entities as rows or as a list of fields."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.entities import Entity, FieldType, values_of
from ..model.values import Kind
from .text import PLAIN, Paint, beginning, cell, display_width, full_text, pad, sanitize, truncate

GAP = 2  # cells between two columns
LEAST = 8  # cells that a column of prose keeps when the terminal is narrow
MOST = 60  # cells that a column of prose takes at most
UNALIGNED = 200  # cells of a column where there is no limit; a longer cell is shown whole
NUMBERS = frozenset({Kind.INTEGER, Kind.REAL})


class Column:
    """A column: its name, whether it holds numbers, and whether it must not be truncated.

    A first column that is ``whole`` is cut all the same where it leaves no room for the others:
    to half a line, or when it ``yields`` to LEAST.
    """

    __slots__ = ("name", "right", "whole", "yields")

    def __init__(self, name: str, *, right: bool = False, whole: bool = False, yields: bool = False) -> None:
        self.name, self.right, self.whole, self.yields = name, right, whole or right, yields


class Table:
    """Columns with widths that fit a terminal, computed from the first rows.

    ``width`` counts cells; None sets no limit, and a cell wider than UNALIGNED sticks out of its
    column.  ``hidden`` names the columns that found no room.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        width: int | None,
        paint: Paint = PLAIN,
    ) -> None:
        self._paint, self._limited = paint, width is not None
        most = UNALIGNED if width is None else width
        natural = [
            max([display_width(column.name, most), *(display_width(row[i], most) for row in rows)])
            for i, column in enumerate(columns)
        ]
        self._widths = fitted(columns, natural, width)
        self._columns = columns[: len(self._widths)]
        self.hidden = [column.name for column in columns[len(self._widths) :]]

    def header(self) -> str:
        """The names of the columns."""
        return self._paint(self.line([column.name for column in self._columns]), "bold")

    def line(self, row: Sequence[str]) -> str:
        """A row's cells in their columns."""
        parts = [
            pad(truncate(text, width) if self._limited else text, width, right=column.right)
            for text, width, column in zip(row, self._widths, self._columns, strict=False)
        ]
        return (" " * GAP).join(parts).rstrip()

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """The header, the rows, and a last line when columns found no room."""
        hidden = [self._paint(f"no room for {', '.join(self.hidden)}; use -o json", "dim")]
        return [self.header(), *map(self.line, rows), *(hidden if self.hidden else [])]


def fitted(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """The width of each column that has room; the last columns are dropped when all are at LEAST."""
    if width is None:
        return list(natural)
    natural = [
        size if column.whole else min(size, MOST) for column, size in zip(columns, natural, strict=True)
    ]
    least = [
        size if column.whole else min(size, LEAST) for column, size in zip(columns, natural, strict=True)
    ]
    lacking = sum(least) + GAP * (len(least) - 1) - width
    if lacking > 0 and len(least) > 1:
        kept = LEAST if columns[0].yields else width // 2
        least[0] = max(least[0] - lacking, min(least[0], kept))
    while len(least) > 1 and sum(least) + GAP * (len(least) - 1) > width:
        least.pop()
    least[0] = min(least[0], max(width, 1))
    return shared_out(least, natural, width - sum(least) - GAP * (len(least) - 1))


def shared_out(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Give the free room in equal shares to the columns that need more."""
    widths = list(least)
    while room > 0 and (growing := [i for i, size in enumerate(widths) if size < natural[i]]):
        share = max(room // len(growing), 1)
        for i in growing[:room]:
            step = min(share, natural[i] - widths[i])
            widths[i] += step
            room -= step
    return widths


def entity_columns(entity: type[Entity], fields: Sequence[str], *, chosen: bool = False) -> list[Column]:
    """The columns of a search: the id first, which yields to ``chosen`` fields, numbers on the right."""
    types, first = entity.types(), Column("id", whole=True, yields=chosen)
    return [first, *(_column(name, types[name]) for name in fields if name != "id")]


def _column(name: str, holds: FieldType) -> Column:
    short = holds.kind in (Kind.BOOLEAN, Kind.DATE, Kind.DATETIME)
    return Column(name, right=holds.kind in NUMBERS, whole=short)


def entity_row(entity: Entity, fields: Sequence[str], width: int | None = None) -> list[str]:
    """The cells of an entity on a line of a width; a field that is not loaded is blank."""
    values = values_of(entity)
    others = (cell(values[n], width) if n in values else "" for n in fields if n != "id")
    return [beginning(entity.id, width), *others]


def entity_lines(entity: Entity, fields: Sequence[str], paint: Paint = PLAIN) -> list[str]:
    """An entity with a line for each field; further lines of a text are indented below it."""
    values = values_of(entity)
    names = ["id", *(name for name in fields if name != "id")]
    width = max(map(display_width, names))
    lines = [paint(f"{type(entity).__name__}:{sanitize(entity.id)}", "bold")]
    for name in names:
        text = full_text(values[name]) if name in values else "(not loaded)"
        first, *more = text.split("\n")
        lines.append(f"  {paint(pad(name, width), 'dim')}  {first}".rstrip())
        lines += [f"{' ' * (width + 4)}{line}".rstrip() for line in more]
    return lines
