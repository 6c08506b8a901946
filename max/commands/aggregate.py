"""count, values: entities in groups, and how often each value is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..model.aggregate import EACH, FUNCTIONS, NUMBERS, TOP, Group, Grouping, Groups, Key
from ..model.values import Json
from .console import console
from .framework import Answer, Ending, Options, paint, table
from .parser import Parser, at_least_one
from .tables import GAP, MOST, Column
from .terminal import is_terminal, line_width
from .text import cell, counted, display_width, number

if TYPE_CHECKING:
    from ..model.entities import Entity

BAR = 20  # cells of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"
NOT_LOADED = "(not loaded)"


def configure_count(parser: Parser) -> None:
    """``max count INSTALLATION ENTITY …``."""
    parser.answers_rows = True
    parser.add_target(before=("entity",))
    parser.add_argument("entity", metavar="ENTITY", help="what to count")
    parser.add_filter()
    about = "count groups: status, assignee.name, updated_at:month (year quarter month week day hour)"
    parser.add_list("--by", "FIELD[:UNIT],…", about)
    what = {"sum": "add up", "avg": "average", "min": "show the least of", "max": "show the greatest of"}
    for function in FUNCTIONS:
        parser.add_list(f"--{function}", "FIELD,…", f"also {what[function]} a field")
    about = "only the N greatest groups, and those that are equal to the last; the others are counted"
    parser.add_argument("--top", type=at_least_one, metavar="N", help=about)
    parser.add_list("--order-by", "COLUMN[:desc],…", "sort the groups: count, status, sum_estimate")
    parser.add_examples(
        "max count acme AcmeTask --filter 'assignee IS NULL' -o json",
        "max count acme AcmeTask --by status",
        "max count acme AcmeTask --by assignee.name,project.name --filter 'due_date < -1d' --top 5",
        "max count acme AcmeTask --by updated_at:month --sum estimate --max priority",
        "max count acme AcmeTask --by tags:each",
        "",
        "a ref groups by id and shows titles; ref.name groups by the text.  Times are UTC.",
    )


def run_count(options: Options) -> Answer:
    """How many entities match, or how many each group has."""
    named = {function: getattr(options, function) for function in FUNCTIONS}
    measures = {function: fields for function, fields in named.items() if fields is not None}
    if options.by is None and (options.top is not None or options.order_by):
        raise UsageError("--top and --order-by are for groups", hint="name what to group by: --by FIELD")
    with options.reading() as reader:
        entity = reader.entity(options.entity)
        if options.by is None and not measures:
            count = reader.count(entity, options.filter)
            near = [] if count else reader.near_values(reader.query(entity, options.filter))
            return _whole(options, entity, {"count": count}, near)
        groups = reader.count_by(
            entity,
            () if options.by is None else options.by,
            options.filter,
            order_by=options.order_by,
            top=options.top,
            **measures,
        )
    if options.by is None:
        return _whole(options, entity, groups.to_dicts()[0])
    notes = [] if groups.total else [_nothing(options, entity)]
    tail = groups.to_json()
    return options.listing(
        tail.pop("groups"),
        lambda: group_lines(groups),
        notes,
        columns=groups.grouping.columns,
        head={"type": entity.__name__},
        under="groups",
        tail=tail,
        ending=_ending(options, groups, "--top"),
    )


def _whole(
    options: Options, entity: type[Entity], columns: dict[str, Json], notes: Sequence[str] = ()
) -> Answer:
    """Counts and measures of all rows; a count alone has separators on a terminal, and none in a pipe."""
    at_terminal = is_terminal(console().stdout)
    texts = {n: number(v) if isinstance(v, int) and at_terminal else cell(v) for n, v in columns.items()}
    size = max(map(len, texts))
    lines = [*texts.values()] if len(texts) == 1 else [f"{n:<{size}}  {text}" for n, text in texts.items()]
    data = {"type": entity.__name__, **columns}
    shown = {**data, "notes": [*notes]} if notes else data
    return options.answer(shown, lambda: lines, notes, row=data)


def _ending(options: Options, groups: Groups[Any], option: str) -> Callable[[], Ending] | None:
    """How many of the groups are shown, and how all of them are asked for; a table says so itself."""
    shown = len(groups.groups)
    everything = shown + groups.more
    go_on = (option, str(everything)) if groups.more else None
    ending = Ending(shown, everything, more=groups.more > 0, go_on=go_on)
    return None if options.output == "text" else lambda: ending


def _nothing(options: Options, entity: type[Entity]) -> str:
    return f"no {entity.__name__} matches" if options.filter else f"there is no {entity.__name__}"


def configure_values(parser: Parser) -> None:
    """``max values INSTALLATION ENTITY.FIELD``."""
    parser.answers_rows = True
    parser.add_target(before=("field",))
    parser.add_argument(
        "field", metavar="ENTITY.FIELD", help="such as AcmeTask.status, AcmeTask.assignee.name"
    )
    parser.add_filter()
    parser.add_limit(f"values, the most frequent first (default {TOP:,})")
    parser.add_examples(
        "max values acme AcmeTask.status",
        "max values acme AcmeTask.tags",
        "max values acme AcmeTask.due_date:month --filter 'active = true'",
    )


def run_values(options: Options) -> Answer:
    """Each value of a field and how many rows have it; empty and not loaded ones apart."""
    name, _, field = options.field.partition(".")
    with options.reading() as reader:
        entity = reader.entity(name)
        if not field:
            raise UsageError("which field?", hint=f"write {entity.__name__}.FIELD; max schema lists them")
        groups = reader.values(entity, field, options.filter, limit=options.limit)
    (key,) = groups.grouping.keys
    rows = [
        {"value": one[key.name], "count": one[groups.grouping.count]}
        for one in groups.to_dicts()
        if one.get(key.name) is not None
    ]
    tail = {
        "distinct": len(groups.groups) + groups.more - bool(groups.empty) - bool(groups.not_loaded),
        "null": groups.empty,
        "notLoaded": groups.not_loaded,
        "total": groups.total,
        "more": groups.more,
    }
    notes = [] if groups.total else [_nothing(options, entity)]
    return options.listing(
        rows,
        lambda: group_lines(groups),
        notes,
        columns=("value", "count"),
        head={"type": entity.__name__, "field": key.name},
        under="values",
        tail=tail,
        ending=_ending(options, groups, "--limit"),
    )


# -- groups as a table -------------------------------------------------------------------------


def group_lines(groups: Groups[Any]) -> list[str]:
    """A table of groups; at a terminal with each group's share of the rows, and a bar."""
    keys, measures = groups.grouping.keys, groups.grouping.measures
    drawn = is_terminal(console().stdout)
    columns = _columns(groups.grouping, drawn=drawn)
    shared = _shared_titles(groups)
    most = max((one.count for one in groups.groups), default=1)
    rows = []
    for one in groups.groups:
        row = [_key_cell(one, key, shared) for key in keys]
        row.append(number(one.count) if drawn else str(one.count))
        row += [_measure_cell(one.measures[measure.name], drawn) for measure in measures]
        row += [f"{one.count / groups.total:.1%}", bar(one.count / most)] if drawn else []
        rows.append(row)
    room = line_width() if drawn else None
    size = len(columns) if room is None else _fitting(columns, rows, room)
    return [*table(columns[:size], [row[:size] for row in rows]), *_rest(groups)]


def _columns(grouping: Grouping, *, drawn: bool) -> list[Column]:
    """The columns of groups, at a terminal with the share and the bar."""
    columns = [Column(key.name, right=key.holds.kind in NUMBERS) for key in grouping.keys]
    columns.append(Column(grouping.count, right=True))
    columns += [Column(one.name, right=one.holds.kind in NUMBERS, whole=True) for one in grouping.measures]
    return [*columns, Column("share", right=True), Column("")] if drawn else columns


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> int:
    """How many columns to draw: the bar and the share, which are the last, give way to the others."""
    sizes = []
    for at, column in enumerate(columns):
        size = max(display_width(text, room) for text in [column.name, *(row[at] for row in rows)])
        sizes.append(size if column.whole else min(size, MOST))
    taken = sum(sizes) + GAP * (len(sizes) - 1)
    dropped = 0
    while dropped < 2 and taken > room:
        dropped += 1
        taken -= sizes[-dropped] + GAP
    return len(columns) - dropped


def _shared_titles(groups: Groups[Any]) -> set[str]:
    """The titles by which different refs would be shown."""
    refs = {(key, one.values[key], title) for one in groups.groups for key, title in one.titles.items()}
    names = Counter((key, title) for key, _, title in refs)
    return {title for (_, title), times in names.items() if times > 1}


def _key_cell(group: Group, key: Key[Any, Any], shared: set[str]) -> str:
    title = group.titles.get(key.name)
    if title is not None:
        return cell(f"{title} ({group.values[key.name].id})" if title in shared else title)
    return cell(group.values[key.name]) if key.name in group.values else NOT_LOADED


def _measure_cell(value: object, drawn: bool) -> str:
    """A measure; with separators at a terminal."""
    if isinstance(value, int | float):
        digits = "" if isinstance(value, int) else ".10g"
        return format(value, f"{',' if drawn else ''}{digits}")
    return cell(value)


def bar(share: float) -> str:
    """A bar of up to BAR cells, in eighths of a cell."""
    eighths = max(round(share * BAR * 8), 1)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def _rest(groups: Groups[Any]) -> Sequence[str]:
    """A line about the groups that were cut off."""
    if not groups.more:
        return []
    in_several = any(key.unit == EACH for key in groups.grouping.keys)
    rows = "" if in_several else f", {counted(groups.more_rows, 'row')}"
    return [paint()(f"… {counted(groups.more, 'more group')}{rows}", "dim")]
