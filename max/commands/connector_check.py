"""connector check: what is wrong with a connector, as far as that can be known without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConnectorError, SchemaError
from .connector import file_of, named_connector
from .framework import Answer, Options, paint
from .parser import Parser
from .text import Colour, counted

if TYPE_CHECKING:
    from .authoring.check import Finding

COLOURS: dict[str, Colour] = {"problem": "red", "advice": "yellow"}


def configure_connector_check(parser: Parser) -> None:
    """``max connector check PATH``."""
    parser.answers_rows = True
    parser.add_argument(
        "connector", metavar="PATH", help="a connector's file, or the name of a CONNECTOR that Max knows"
    )
    parser.add_argument("--no-types", action="store_true", help="leave out mypy, which takes some seconds")
    parser.add_examples(
        "max connector check connectors/max_notes.py", "max connector check linear --no-types"
    )


def run_connector_check(options: Options) -> Answer:
    """Say what is wrong, and what a colleague would mention; exit status 1 for a problem."""
    from .authoring.check import COLUMNS, findings, found_in_error, has_mypy, types_of

    notes: list[str] = []
    named = _named_file(options.connector)
    try:
        connector, given = named_connector(options)
    except (ConnectorError, SchemaError) as error:
        found, file, name = [found_in_error(error, named)], named, options.connector
    else:
        file, name = given or file_of(connector), connector.name
        found = findings(connector, file) if file else []
    if file is not None and file.is_file() and not options.no_types:
        if has_mypy():
            found += [one for one in types_of(file) if not _is_same(one, found)]
        else:
            notes.append("types are not checked: pip install mypy")
    has_problem = any(one.level == "problem" for one in found)
    summary = _counts(found) if found else f"{name} is fine"
    after = "" if has_problem else f"; next: max connector test {options.connector}"
    return options.listing(
        [one.to_json() for one in found],
        lambda: _lines(found),
        [*notes, f"{summary}{after}"],
        columns=COLUMNS,
        head={"connector": name},
        status=int(has_problem),
    )


def _named_file(word: str) -> Path | None:
    """The file that the command's word names; None for the name of a connector."""
    file = Path(word)
    return file if file.suffix == ".py" or "/" in word else None


def _counts(found: Sequence[Finding]) -> str:
    counts = Counter(one.level for one in found)
    return f"{counted(counts['problem'], 'problem')}, {counted(counts['advice'], 'piece')} of advice"


def _is_same(one: Finding, found: Sequence[Finding]) -> bool:
    return any(other.level == "problem" and other.line == one.line and one.line for other in found)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    colour = paint()
    for one in found:
        place = f"{one.file}:{one.line}" if one.line else one.file
        what = f"{one.attribute}: " if one.attribute else ""
        yield f"{place}: {colour(one.level, COLOURS[one.level])}: {what}{one.message}"
        if one.hint:
            yield f"  {one.hint}"
