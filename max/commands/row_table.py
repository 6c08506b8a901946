"""An entity's rows for a person: which columns a line has room for, and what they say.

Without a choice of fields the title gets the room.  Behind it come the brief fields, then the
others as far as they fit, long prose last.  A column with one value in every row is left out and
named in a note.  A ref is shown by its target's title.  Where there is no terminal, nothing is
left out and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from ..model.entities import Entity, FieldOf, path_name
from ..model.query import RowPage
from ..model.values import Kind
from .tables import GAP, LEAST, MOST, Column, Table
from .text import (
    NULL,
    PLAIN,
    Paint,
    cell,
    display_width,
    full_text,
    names_that_fit,
    pad,
    sanitize,
    truncate,
    zone_note,
)

if TYPE_CHECKING:
    from ..query.reader import Reader

LEAST_TITLE = 40  # cells of the title before another column gets any; on a narrow line half of it
WHOLE_TITLE = 72  # cells of the title before a column that is not brief gets any
LEAST_BRIEF = 12  # cells to which a brief column shrinks before it is left out
LONGEST_OTHER = 30  # cells; a text that is wider, and not brief, is prose
NUMBERS = (Kind.INTEGER, Kind.REAL)
SHORT_KINDS = (Kind.BOOLEAN, Kind.DATE, Kind.DATETIME, *NUMBERS)  # which are shown whole or not at all

KEY, TITLE, BRIEF, OTHER, PROSE = range(5)  # why a column is shown; earlier ones get room first

Path: TypeAlias = FieldOf[Any, Any]


class Shown:
    """A column with its cells; ``size`` is how many cells of a line the widest one takes."""

    __slots__ = ("cells", "field", "role", "size")

    def __init__(self, field: Path, role: int, cells: Sequence[str], size: int) -> None:
        self.field, self.role, self.cells, self.size = field, role, cells, size

    @property
    def short(self) -> bool:
        """Whether it is shown whole or not at all."""
        return self.field.type.kind in SHORT_KINDS

    def least(self, width: int) -> int:
        """The cells that it keeps on a line of ``width``."""
        if self.role == KEY:
            return min(self.size, max(width // 4, LEAST_BRIEF))
        if self.role == TITLE:
            return min(self.size, LEAST_TITLE, width // 2)
        return self.size if self.short else min(self.size, LEAST_BRIEF)

    def most(self, width: int) -> int:
        """The cells that it should have before columns that are not brief get any."""
        if self.role == KEY:
            return self.least(width)
        return min(self.size, WHOLE_TITLE if self.role == TITLE else MOST)

    def column(self, width: int | None, *, chosen: bool) -> Column:
        """How the table draws it: one of ``chosen`` fields shrinks rather than being left out."""
        return Column(
            path_name(self.field),
            right=self.field.type.kind in NUMBERS,
            whole=self.short or (chosen and self.role == KEY),
            yields=chosen,
            least=LEAST if chosen or width is None else self.least(width),
            most=self.size if self.role <= TITLE else MOST,
        )


def fields_in_order(entity: type[Entity]) -> dict[Path, int]:
    """The id, the title, the brief fields, then the others in the order of their declaration.

    Where nothing is declared brief, everything is.
    """
    roles = {"id": KEY, **({entity._title: TITLE} if entity._title else {})}
    brief = [name for name in entity.types() if entity._fields[name].brief]
    for name in brief or ([] if entity._title else entity.types()):
        roles.setdefault(name, BRIEF)
    for name in entity.types():
        roles.setdefault(name, OTHER)
    return {FieldOf(entity, name): role for name, role in roles.items()}


def title_of(field: Path) -> Path | None:
    """The title of what a ref points at, by which the ref is shown; None when there is none."""
    target = field.type.target
    return FieldOf(field.entity, target._title, field) if target is not None and target._title else None


def with_titles(fields: Iterable[Path]) -> tuple[Path, ...]:
    """The fields, and behind them the titles by which their refs are shown."""
    fields = tuple(fields)
    return tuple(dict.fromkeys([*fields, *(title for field in fields if (title := title_of(field)))]))


def with_names(reader: Reader, page: RowPage) -> RowPage:
    """The page, whose lists of refs have the titles of what they point at, where they are known."""
    lists = [place for place, path in enumerate(page.paths) if path.type.inside is not None]
    if not lists:
        return page
    titles = reader.titles({ref for place in lists for refs in page.columns[place] for ref in refs or ()})
    columns = list(page.columns)
    for place in lists:
        columns[place] = [refs and [titles.get(ref, ref.id) for ref in refs] for refs in columns[place]]
    return page.replace(columns=columns)


class RowTable:
    """The table of a query's rows, laid out by the first page.

    ``chosen`` are the fields that the caller named, or None.  ``width`` counts cells; None is no
    terminal.  Each page must have the columns ``paths``.  ``notes`` are complete after the last line.
    """

    def __init__(
        self, entity: type[Entity], chosen: Sequence[Path] | None, width: int | None, paint: Paint = PLAIN
    ) -> None:
        self._width, self._paint = width, paint
        self._free = chosen is None and width is not None
        self._roles = fields_in_order(entity)
        if chosen is not None:
            fields = (FieldOf(entity, "id"), *chosen)
            self._roles = {field: min(self._roles.get(field, BRIEF), BRIEF) for field in fields}
        self.paths = with_titles(self._roles)
        self._table: Table | None = None
        self.notes: list[str] = []

    def lines(self, page: RowPage, *, more: bool = False) -> Iterator[str]:
        """The lines of a page, below a header if it is the first; ``more`` when other pages follow it."""
        if not page.columns[0]:
            return
        cells = {field: self._cells(page, field) for field in self._roles}
        if self._table is None:
            self._table = self._lay_out(cells, more=more)
            yield self._table.header()
        yield from map(self._table.line, zip(*(cells[field] for field in self._roles), strict=True))

    def _cells(self, page: RowPage, field: Path) -> list[str]:
        """A column as text; a ref by its target's title where that is known."""
        place, title = page.paths.index(field), title_of(field)
        values = page.columns[place]
        if title is not None:
            names = page.columns[page.paths.index(title)]
            values = [name or value for name, value in zip(names, values, strict=True)]
        cells = [cell(value, self._width) for value in values]
        for row in [row for row, column in page.unloaded if column == place]:
            cells[row] = ""
        return cells

    def _lay_out(self, cells: dict[Path, list[str]], *, more: bool) -> Table:
        """The table for the cells of the first page, and the columns that it has."""
        shown = [self._shown(field, role, cells[field]) for field, role in self._roles.items()]
        if self._free:
            shown = self._with_room(shown if more else self._different(shown))
        self._roles = {one.field: one.role for one in shown}
        table = Table(
            [one.column(self._width, chosen=not self._free) for one in shown],
            list(zip(*(one.cells for one in shown), strict=True)),
            self._width,
            self._paint,
        )
        self._leave_out(table.hidden)
        if self._width is not None and any(one.field.type.kind is Kind.DATETIME for one in shown):
            self.notes.append(zone_note())
        return table

    def _shown(self, field: Path, role: int, cells: Sequence[str]) -> Shown:
        if self._width is None:  # nothing has to fit
            return Shown(field, role, cells, 0)
        size = max(len(path_name(field)), *(display_width(text, self._width) for text in cells))
        shown = Shown(field, role, cells, size)
        if role == OTHER and size > LONGEST_OTHER and not shown.short:
            shown.role = PROSE
        return shown

    def _different(self, shown: Sequence[Shown]) -> list[Shown]:
        """The columns that do not say the same in every row."""
        alike = [one for one in shown if one.role > TITLE and len(one.cells) > 1 and len(set(one.cells)) == 1]
        said = [
            (one.cells[0] == NULL, f"{path_name(one.field)} = {truncate(one.cells[0], LONGEST_OTHER)}")
            for one in alike
            if one.cells[0]
        ]
        if said:
            self._note("in every row: ", [text for _, text in sorted(said, key=itemgetter(0))])
        return [one for one in shown if one not in alike]

    def _with_room(self, shown: Sequence[Shown]) -> list[Shown]:
        """The columns for which a line has room, prose last."""
        width, kept, used = self._width or 0, [], -GAP
        for one in shown:
            if one.role <= BRIEF and (one.role == KEY or used + GAP + one.least(width) <= width):
                kept.append(one)
                used += GAP + one.least(width)
        used = sum(GAP + one.most(width) for one in kept) - GAP
        for one in sorted(shown, key=lambda one: one.role):
            if one.role > BRIEF and used + GAP + one.most(width) <= width:
                kept.append(one)
                used += GAP + one.most(width)
        self._leave_out([path_name(one.field) for one in shown if one not in kept])
        return kept

    def _leave_out(self, names: Sequence[str]) -> None:
        if names:
            self._note("no room for ", names, ": --fields, or -o json")

    def _note(self, head: str, names: Sequence[str], tail: str = "") -> None:
        """A note on one line, with as many names as that holds."""
        room = None if self._width is None else self._width - len(head) - len(tail)
        self.notes.append(f"{head}{names_that_fit(names, room)}{tail}")


def record_lines(page: RowPage, fields: Sequence[Path], width: int | None, paint: Paint = PLAIN) -> list[str]:
    """The only row of a page with a line for each field; further lines of a text are indented below it."""
    values = {path: column[0] for path, column in zip(page.paths, page.columns, strict=True)}
    unloaded = {page.paths[column] for _, column in page.unloaded}
    names = [path_name(field) for field in fields]
    size = max(map(display_width, names))
    lines = [paint(f"{fields[0].entity.__name__}:{sanitize(values[fields[0]])}", "bold")]
    for name, field in zip(names, fields, strict=True):
        title = title_of(field)
        text = full_text(values[field], local=width is not None)
        if title is not None and values[title]:
            text += f"  {cell(values[title], width)}"
        first, *more = ("(not loaded)" if field in unloaded else text).split("\n")
        lines.append(f"  {paint(pad(name, size), 'dim')}  {first}".rstrip())
        lines += [f"{' ' * (size + 4)}{line}".rstrip() for line in more]
    return lines
