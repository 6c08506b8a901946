"""The formats of rows: what readers of CSV, TSV and Markdown make of them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from max_connectors.acme import AcmeUser

from max.commands.framework import FORMATS, TABULAR
from max.errors import UnknownName
from max.model.visible import HIDDEN
from max.query.formats import ENCODERS, cells_of, columns_of, encoded

# Text with everything that a format has to quote, and nothing that is spelled out for safety.
TEXTS = st.text(
    st.sampled_from("ab,;\"'\\|\t\r\n *_<>&`[]~$é漢#=") | st.characters(exclude_categories=["C", "Z"])
).filter(lambda text: not HIDDEN.search(re.sub("[\r\n\t]", "", text)))
VALUES = TEXTS | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.lists(VALUES, min_size=3, max_size=3))


def printed(format: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "".join(f"{line}\n" for line in encoded(format, columns, rows))


def text_of(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


@given(ROWS)
@example([["a\tb\\t", "c\n\r|", None], ['x"y,', "<b>", ""]])
def test_csv_reads_back_as_it_was(rows: list[list[object]]) -> None:
    read = list(csv.reader(io.StringIO(printed("csv", ["a", "b", "c"], rows), newline=""), strict=True))
    assert read == [["a", "b", "c"], *[[text_of(value) for value in row] for row in rows]]


def test_csv_has_the_line_ends_and_quotes_of_its_standard() -> None:
    rows: list[list[Any]] = [["a,b", 'say "x"', "two\nlines"], [" spaced", None, ""], [1, 2.5, True]]
    assert printed("csv", ["x", "y", "z"], rows) == (
        'x,y,z\r\n"a,b","say ""x""","two\nlines"\r\n" spaced",,""\r\n1,2.5,true\r\n'
    )


def test_a_csv_row_with_one_empty_cell_is_no_empty_line() -> None:
    assert printed("csv", ["x"], [[None]]) == 'x\r\n""\r\n'


@given(ROWS)
@example([["a\tb\\t", "c\n\r|", None], ['x"y,', "<b>", ""]])
def test_tsv_has_a_line_for_each_row_and_its_escapes_read_back(rows: list[list[object]]) -> None:
    first, *lines = printed("tsv", ["a", "b", "c"], rows).split("\n")[:-1]
    signs = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    read = [
        [re.sub(r"\\(.)", lambda found: signs[found[1]], text) for text in line.split("\t")] for line in lines
    ]
    assert first == "a\tb\tc"
    assert read == [[text_of(value) for value in row] for row in rows]


def markdown_cells(line: str) -> Iterator[str]:
    """The cells of a line of a Markdown table, as a reader sees them."""
    for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]:
        yield re.sub(r"\\([\\`*\[\]|~$_])", r"\1", cell.strip())


@given(ROWS)
@example([["a\tb\\t", "c\n\r|", None], ['x"y,', "<b>", ""]])
def test_markdown_keeps_each_row_on_a_line_with_its_cells_and_no_markup(rows: list[list[object]]) -> None:
    lines = printed("markdown", ["a", "b", "c"], rows).split("\n")[:-1]
    assert len(lines) == len(rows) + 2
    assert all(len(list(markdown_cells(line))) == 3 for line in lines)
    assert not any("<" in line.replace("<br>", "") for line in lines)


def test_markdown_escapes_what_would_be_markup() -> None:
    row = ["a|b", "<b>*x*</b>", "in_progress _x_\n[y](z)"]
    assert printed("markdown", ["a", "b", "c_d"], [row]).split("\n")[2] == (
        r"| a\|b | &lt;b&gt;\*x\*&lt;/b&gt; | in_progress \_x\_<br>\[y\](z) |"
    )


@pytest.mark.parametrize("format", TABULAR)
def test_characters_that_control_a_terminal_or_hide_are_spelled_out(format: str) -> None:
    hidden = "a\x1b[2J\x9b\u202e\u200b\x00\U000e0041"
    out = printed(format, [hidden], [[hidden], [{"x": hidden}]])
    assert not HIDDEN.search(re.sub("[\r\n\t]", "", out))
    assert "\\u001b[2J\\u009b\\u202e\\u200b\\u0000\\udb40\\udc41" in out.replace("\\[", "[").replace(
        "\\\\", "\\"
    )


@pytest.mark.parametrize("format", TABULAR)
def test_an_emoji_and_persian_keep_what_shapes_them(format: str) -> None:
    assert "👩\u200d💻 می\u200cخواهم ❤\ufe0f" in printed(
        format, ["x"], [["👩\u200d💻 می\u200cخواهم ❤\ufe0f"]]
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (10**30, str(10**30)),
        (0.1, "0.1"),
        (["a", {"b": None}], '["a",{"b":null}]'),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31, 9, 30, tzinfo=UTC), "2026-01-31T09:30:00Z"),
        (datetime(2026, 1, 31, 11, 30, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T09:30:00Z"),
        (AcmeUser.ref("u1"), "u1"),
    ],
)
def test_a_value_is_written_as_json_writes_it_and_text_as_it_is(value: object, text: str) -> None:
    assert printed("tsv", ["x", "y"], [[value, 1]]).split("\n")[1] == f"{text}\t1"


@given(ROWS)
@example([["a\tb\\t", "c\n\r|", None], ['x"y,', "<b>", ""]])
def test_ndjson_is_an_object_a_line(rows: list[list[object]]) -> None:
    lines = printed("ndjson", ["a", "b", "c"], rows).splitlines()
    assert [json.loads(line) for line in lines] == [dict(zip("abc", row, strict=True)) for row in rows]


@pytest.mark.parametrize("format", ENCODERS)
def test_rows_are_encoded_one_by_one(format: str) -> None:
    taken: list[int] = []

    def rows() -> Iterator[list[Any]]:
        for number in range(1_000_000):
            taken.append(number)
            yield [number]

    lines = encoded(format, ["n"], rows())
    next(line for line in lines if "3" in line)
    assert taken == [0, 1, 2, 3]


def test_a_format_without_rows_is_refused_and_names_those_with_rows() -> None:
    assert {*ENCODERS} == {*FORMATS} - {"text", "json"}
    with pytest.raises(UnknownName, match="unknown format for rows 'text'"):
        encoded("text", ["a"], [])


def test_rows_by_name_have_the_columns_that_any_of_them_has() -> None:
    rows: list[dict[str, object]] = [{"a": 1}, {"b": 2, "a": 3}]
    assert columns_of(rows) == ["a", "b"]
    assert list(cells_of(["b", "a"], rows)) == [[None, 1], [2, 3]]
