"""Names and texts of a proposed connector: whatever a service calls things, Python and Max accept them."""

from __future__ import annotations

import keyword
from dataclasses import make_dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max import Schema
from max.commands.authoring.proposal import entity_name, field_name, one_line, singular, snake, written_field
from max.connecting import Entity, Field
from max.errors import UsageError

ODD = st.one_of(
    st.text(max_size=30), st.sampled_from([*keyword.kwlist, "id", "ref", "Date", "toDict", "read"])
)


@given(st.lists(ODD, max_size=12))
def test_fields_of_any_names_make_an_entity(words: list[str]) -> None:
    names: list[str] = []
    for word in words:
        names.append(field_name(word, "Thing", names))
    annotations = dict.fromkeys(names, Field[str])
    made: type[Entity] = type(
        "Thing", (Entity,), {"__annotations__": annotations, **{name: Field() for name in names}}
    )
    Schema([made], roots=[made])  # SchemaError for a name that no table can have
    assert [*made.types()] == names
    make_dataclass("Row", names)  # TypeError for a keyword, or a name that comes twice


@given(ODD, st.lists(st.sampled_from(["Page", "Thing", "Record", "PageRecord"])))
def test_an_entity_of_any_name_is_a_new_class(word: str, taken: list[str]) -> None:
    name = entity_name(word, taken)
    assert name.isidentifier()
    assert not keyword.iskeyword(name)
    assert name[0].isupper()
    assert name not in {*taken, "Page", "Field", "Entity", "Account", "None", "Exception"}


@given(st.text())
def test_a_description_becomes_one_printable_line_that_ends_no_docstring(text: str) -> None:
    found = one_line(text)
    assert (found.isprintable(), '"' in found, len(found) <= 90) == (True, False, True)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("createdAt", "created_at"), ("HTTPServer", "http_server"), ("Line-Items", "line_items"), ("é!", "")],
)
def test_words_of_services_become_names(word: str, expected: str) -> None:
    assert snake(word) == expected


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("companies", "company"),
        ("boxes", "box"),
        ("issues", "issue"),
        ("statuses", "statuse"),  # what a person then renames
        ("news", "news"),
        ("status", "status"),
    ],
)
def test_plurals_become_what_one_row_is_called(many: str, one: str) -> None:
    assert singular(many) == one


@pytest.mark.parametrize("text", ["", ":int", "a:", "a=", "a=b..c", "a:text", "a:int:b"])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        written_field(text, "Thing", [])


def test_a_field_is_written_with_its_type_and_place() -> None:
    found = written_field("dueDate:date=meta.due", "Task", [])
    assert (found.name, found.annotation, found.source) == ("due_date", "date | None", "meta.due")
