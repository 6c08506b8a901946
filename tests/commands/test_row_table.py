"""Rows for a person: the title gets the room, what is alike is left out, a ref is its target's title."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.commands.row_table import RowTable, record_lines, with_titles
from max.commands.text import display_width, zone_note
from max.model.entities import Entity, Field, Ref
from max.model.query import RowPage, parse_paths
from max.model.values import Json

HASH = "3fa2b1c9d0e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8"
UUID = "0f5c8a52-9d1e-4b7e-8a57-0c6d1f2e3a4b"


class Person(Entity, title="name"):
    """Someone."""

    name: Field[str] = Field()


class Note(Entity, title="subject"):
    """A note."""

    body: Field[str] = Field()
    votes: Field[int | None] = Field()
    made_at: Field[datetime | None] = Field()
    due: Field[date | None] = Field()
    author: Field[Ref[Person] | None] = Field(brief=True)
    subject: Field[str] = Field()
    state: Field[str] = Field(brief=True)
    tags: Field[list[str]] = Field()
    answers: Field[Ref[Note] | None] = Field()


class Plain(Entity):
    """It declares neither a title nor a brief field."""

    first: Field[str] = Field()
    second: Field[str] = Field()
    third: Field[str] = Field()


MADE_AT = datetime(2026, 1, 31, 9, 30, 15, tzinfo=UTC)
WRITE: dict[str, Any] = {
    "id": "n1",
    "subject": "Write",
    "state": "todo",
    "author": Person.ref("p1"),
    "author.name": "Ada",
    "votes": 7,
    "made_at": MADE_AT,
    "due": date(2026, 2, 1),
    "tags": ["a", "b"],
    "body": "word " * 30,
    "answers": None,
}
READ = WRITE | {"id": "n2", "subject": "Read", "state": "done", "author": Person.ref("p2"), "votes": 12}
READ |= {"author.name": None, "tags": []}


def page_of(entity: type[Entity], paths: Sequence[Any], rows: Sequence[dict[str, Any]]) -> RowPage:
    """A page as a Reader gives it; what a row does not have is not loaded."""
    paths = parse_paths(entity, paths)
    names = RowPage(tuple(paths), ()).names
    missing = [(at, n) for at, row in enumerate(rows) for n, name in enumerate(names) if name not in row]
    return RowPage(
        tuple(paths), [[row.get(name) for row in rows] for name in names], frozenset(missing), None
    )


def drawn(
    rows: Sequence[dict[str, Any]],
    width: int | None,
    fields: str | None = None,
    entity: type[Entity] = Note,
    **more: Any,
) -> tuple[list[str], list[str]]:
    """The lines and the notes of a table."""
    table = RowTable(entity, None if fields is None else parse_paths(entity, fields), width)
    return list(table.lines(page_of(entity, table.paths, rows), **more)), table.notes


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader's own zone: five hours behind UTC in winter."""
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_title_and_brief_fields_come_first_and_prose_last() -> None:
    (header, first, second), notes = drawn([WRITE, READ], 200)
    assert header.split() == ["id", "subject", "author", "state", "votes", "tags"]
    assert first.split() == ["n1", "Write", "Ada", "todo", "7", "a,", "b"]
    assert second.split() == ["n2", "Read", "p2", "done", "12", "–"]
    assert notes[0].startswith(f"in every row: body = {'word ' * 5}")
    assert notes[0].endswith("made_at = 2026-01-31 04:30, due = 2026-02-01, answers = –")
    (header, _), _ = drawn([WRITE], 200)
    assert header.split() == [
        *("id", "subject", "author", "state", "votes", "made_at", "due", "tags", "answers", "body"),
    ]


def test_a_column_that_may_differ_on_a_later_page_stays() -> None:
    (header, *_), notes = drawn([WRITE, READ], 200, more=True)
    assert "due" in header.split()
    assert not notes[0].startswith("in every row")


def test_a_narrow_line_keeps_the_title_and_says_what_found_no_room() -> None:
    rows = [WRITE | {"subject": "s" * 80}, READ]
    (header, first, _), notes = drawn(rows, 60)
    assert header.split() == ["id", "subject", "author", "state"]
    assert first == f"n1  {'s' * 40}…  Ada     todo"
    assert display_width(first) <= 60
    assert notes[1] == "no room for votes, tags: --fields, or -o json"


def test_fields_that_were_chosen_keep_their_order_and_are_never_left_out() -> None:
    (header, first, _), notes = drawn([WRITE, READ], 100, "due,author.name,subject")
    assert (header.split(), notes) == (["id", "due", "author.name", "subject"], [])
    assert first.split() == ["n1", "2026-02-01", "Ada", "Write"]


def test_elsewhere_than_at_a_terminal_nothing_is_left_out_or_cut() -> None:
    (header, first, _), notes = drawn([WRITE | {"id": HASH}, READ], None)
    assert (len(header.split()), notes) == (10, [])
    assert first.startswith(f"{HASH}  Write")
    assert "2026-01-31T09:30:15Z" in first
    assert "word " * 30 in first


def test_hashes_and_uuids_are_cut_at_a_terminal() -> None:
    rows = [WRITE | {"id": HASH, "tags": [HASH, "x"]}, READ | {"id": f"{HASH}:a.py", "tags": [UUID]}]
    (_, first, second), _ = drawn(rows, 100, "tags")
    assert first.split() == ["3fa2b1c9d0", "3fa2b1c9d0,", "x"]
    assert second.split() == ["3fa2b1c9d0…", "0f5c8a52"]


def test_what_is_not_loaded_is_blank_and_what_is_empty_is_a_dash() -> None:
    (_, line), _ = drawn([{"id": "n3", "author": None, "state": "x"}], 80, "author,votes,state")
    assert line == "n3  –              x"


def test_a_ref_without_a_known_title_shows_its_id() -> None:
    (_, line), _ = drawn([{"id": "n3", "answers": Note.ref("n1")}], 80, "answers")
    assert line.split() == ["n3", "n1"]


def test_an_entity_that_declares_nothing_shares_the_room() -> None:
    rows = [{"id": "1", "first": "a" * 40, "second": "b" * 40, "third": "c" * 40}]
    (header, line), notes = drawn(rows, 60, entity=Plain)
    assert header.split() == ["id", "first", "second", "third"]
    assert display_width(line) <= 60
    assert notes == []


TEXTS = st.text(st.sampled_from("ab e\u0301日本語👩🏽‍💻🇩🇪\u200d"), max_size=80)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries({"subject": TEXTS, "state": TEXTS, "author.name": TEXTS, "body": TEXTS}),
        min_size=1,
        max_size=4,
    ),
    st.integers(20, 220),
)
def test_no_row_is_wider_than_the_terminal(rows: list[dict[str, Any]], width: int) -> None:
    lines, _ = drawn([WRITE | row for row in rows], width)
    assert max(map(display_width, lines)) <= width


def test_a_table_without_rows_has_no_header() -> None:
    assert drawn([], 80) == ([], [])


def test_times_name_their_zone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, line), notes = drawn([WRITE], 100, "made_at")
    assert line.split() == ["n1", "2026-01-31", "04:30"]
    assert notes == ["times are local (EST/EDT); a filter's are UTC"]
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert zone_note() == "times are UTC"


@pytest.mark.parametrize("at", [datetime.min, datetime.max])
def test_times_at_the_ends_of_the_calendar_are_shown(at: datetime) -> None:
    (_, line), _ = drawn([WRITE | {"made_at": at.replace(tzinfo=UTC)}], 100, "made_at")
    assert line.split()[1] in ("0001-01-01", "9999-12-31")


# -- one row ---------------------------------------------------------------------------------


def record(row: dict[str, Json], fields: str, width: int | None) -> list[str]:
    paths = parse_paths(Note, fields)
    return record_lines(page_of(Note, with_titles(paths), [row]), paths, width)


def test_one_row_has_a_line_for_each_field_and_is_not_truncated() -> None:
    lines = record(WRITE | {"subject": "Ada\nLovelace"}, "id,subject,made_at,author,votes,tags", None)
    assert lines == [
        "Note:n1",
        "  id       n1",
        "  subject  Ada",
        "           Lovelace",
        "  made_at  2026-01-31T09:30:15Z",
        "  author   Person:p1  Ada",
        "  votes    7",
        "  tags     a, b",
    ]
    assert record(WRITE, "id,made_at", 80)[2] == "  made_at  2026-01-31 04:30:15-05:00"
    assert record({"id": "n3"}, "id,subject", None)[2] == "  subject  (not loaded)"
