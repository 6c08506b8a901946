"""How rows leave Max: ndjson, CSV, TSV and Markdown, encoded line by line.

Rule 1: an encoder holds one row at a time, whatever their number.

Rule 2: CSV follows RFC 4180 (CRLF, quotes doubled); TSV escapes tabs, line ends and backslashes with
a backslash; lists and objects are JSON text.  Null is an empty cell; in CSV an empty text is ``""``.

Rule 3: a character that could control a terminal, or hide, is spelled out as JSON does, ``\\u001b``;
line ends and tabs inside a CSV cell alone stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime

from ..errors import UnknownName
from ..model.entities import Ref
from ..model.values import Json
from ..model.visible import HIDDEN, json_text, spelled_in_json

QUOTED = re.compile('[,"\r\n]|^\\s|\\s$')  # what makes a CSV cell need quotes
TSV_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside of a word is none
HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
LINE_ENDS = re.compile(r"\s*(?:\r\n|[\n\r\v\f\u2028\u2029])\s*")

Cells = Sequence[object]  # the values of a row, in the order of its columns
Encoder = Callable[[Sequence[str], Iterable[Cells]], Iterator[str]]


def encoded(format: str, columns: Sequence[str], rows: Iterable[Cells]) -> Iterator[str]:
    """The lines of a listing, without their last ``\\n``; UnknownName for a format without rows.

    A row has a value for each column: JSON data, a date, a datetime or a Ref.
    """
    encoder = ENCODERS.get(format)
    if encoder is None:
        raise UnknownName("format for rows", format, ENCODERS)
    return encoder(columns, rows)


def cells_of(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> Iterator[Cells]:
    """Rows given by name as rows of cells; what a row lacks is null."""
    return ([row.get(name) for name in columns] for row in rows)


def columns_of(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """The names that occur in any of the rows, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


# -- values ----------------------------------------------------------------------------------


def plain(value: object) -> Json:
    """A value as JSON data: times in UTC with ``Z``, refs as ids."""
    if isinstance(value, Ref):
        return value.id
    if isinstance(value, list) and value and isinstance(value[0], Ref):
        return [one.id for one in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def cell_text(value: object) -> str:
    """A value as the text of a cell: null is empty, lists and objects are JSON."""
    value = plain(value)
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# -- encoders --------------------------------------------------------------------------------


def ndjson_lines(columns: Sequence[str], rows: Iterable[Cells]) -> Iterator[str]:
    """A JSON object a line."""
    return (json_text(dict(zip(columns, map(plain, row), strict=True))) for row in rows)


def csv_lines(columns: Sequence[str], rows: Iterable[Cells]) -> Iterator[str]:
    """CSV: every line ends with CR here, and with LF when it is printed."""
    yield _csv_line(columns)
    for row in rows:
        yield _csv_line(row)


def _csv_line(row: Cells) -> str:
    line = ",".join(map(_csv_cell, row))
    return f"{line or chr(34) * 2}\r"  # an empty line would be no row


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    text = cell_text(value)
    if not text or QUOTED.search(text):
        text = '"{}"'.format(text.replace('"', '""'))
    return text if text.isascii() and text.isprintable() else HIDDEN.sub(_spelled_in_csv, text)


def _spelled_in_csv(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\r\n\t" else spelled_in_json(found)


def tsv_lines(columns: Sequence[str], rows: Iterable[Cells]) -> Iterator[str]:
    """TSV: no cell holds a tab or a line end, so every line is a row."""
    yield "\t".join(map(_tsv_cell, columns))
    for row in rows:
        yield "\t".join(map(_tsv_cell, row))


def _tsv_cell(value: object) -> str:
    text = cell_text(value)
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return HIDDEN.sub(spelled_in_json, text.translate(TSV_ESCAPES))


def markdown_lines(columns: Sequence[str], rows: Iterable[Cells]) -> Iterator[str]:
    """A Markdown table; what a value holds is text, and never markup."""
    yield _markdown_line(map(_markdown_cell, columns))
    yield _markdown_line("---" for _ in columns)
    for row in rows:
        yield _markdown_line(map(_markdown_cell, row))


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(value: object) -> str:
    text = MARKUP.sub(r"\\\g<0>", cell_text(value).replace("\t", " ").strip()).translate(HTML)
    return HIDDEN.sub(spelled_in_json, LINE_ENDS.sub("<br>", text))


ENCODERS: dict[str, Encoder] = {
    "ndjson": ndjson_lines,
    "csv": csv_lines,
    "tsv": tsv_lines,
    "markdown": markdown_lines,
}
