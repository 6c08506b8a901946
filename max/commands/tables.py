"""Tables whose columns fit a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from .text import PLAIN, Paint, display_width, pad, truncate

GAP = 2  # cells between two columns
LEAST = 8  # cells that a column of prose keeps when the terminal is narrow
MOST = 60  # cells that a column of prose takes at most
UNALIGNED = 200  # cells of a column where there is no limit; a longer cell is shown whole


class Column:
    """A column: its name, whether it holds numbers, and whether it must not be truncated.

    One that may be truncated keeps ``least`` cells and takes at most ``most``.  A first column that is
    ``whole`` is cut all the same where it leaves no room for the others: to half a line, or when it
    ``yields`` to LEAST.
    """

    __slots__ = ("least", "most", "name", "right", "whole", "yields")

    def __init__(
        self,
        name: str,
        *,
        right: bool = False,
        whole: bool = False,
        yields: bool = False,
        least: int = LEAST,
        most: int = MOST,
    ) -> None:
        self.name, self.right, self.whole, self.yields = name, right, whole or right, yields
        self.least, self.most = least, most


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
    pairs = list(zip(columns, natural, strict=True))
    natural = [size if column.whole else min(size, column.most) for column, size in pairs]
    least = [size if column.whole else min(size, column.least) for column, size in pairs]
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
