"""Entities: what their annotations mean, and what a record, a ref and a filter promise."""

from __future__ import annotations

import copy
import inspect
import json
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from max.errors import FieldNotLoaded, SchemaError, UnknownName, UsageError, shown
from max.model.constructors import write_constructor
from max.model.entities import (
    REFS,
    Entity,
    Field,
    FieldType,
    Many,
    Ref,
    RefKey,
    Scope,
    entity_of,
    field_names,
    find_field,
    path_name,
    values_of,
)
from max.model.filters import AllOf, AnyOf, Filter, Not, Op
from max.model.mismatches import check_entity
from max.model.query import Page, Query
from max.model.values import Json, Kind
from tests.strategies import ODDITIES, Thing, fitting, samples


class User(Entity):
    """A person with an account."""

    login: Field[str] = Field()
    email: Field[str | None] = Field("where to write")
    manager: Field[Ref[User] | None] = Field()


class Issue(Entity):
    """A report."""

    title: Field[str] = Field()
    votes: Field[int] = Field()
    weight: Field[float | None] = Field()
    open: Field[bool] = Field()
    opened_at: Field[datetime] = Field()
    due: Field[date | None] = Field()
    extra: Field[Json] = Field()
    labels: Field[list[str]] = Field()
    assignee: Field[Ref[User] | None] = Field()
    watchers: Many[User] = Many("gets a message")


def declared(annotation: Any = None, **fields: Any) -> Any:
    """An entity declared without the help of a type checker."""
    hints = {} if annotation is None else {"__annotations__": dict.fromkeys(fields, annotation)}
    return type("Sample", (Entity,), {**fields, **hints})


# -- references -----------------------------------------------------------------------------

installations = st.none() | st.text("abcdef0123456789-", min_size=1)


@drawn(st.sampled_from(["User", "Größe", "日本"]), st.text() | st.text(":/aA"), installations)
def test_a_ref_key_is_equal_after_text_for_any_id(entity: str, id: str, home: str | None) -> None:
    key = RefKey(entity, id, home)
    assert RefKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["", "User", ":7", "7:User", "a/b/User:1", "/User:1", "a/:1", "my user:1"])
def test_a_text_that_is_not_a_ref_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write Entity:id"):
        RefKey.parse(text)


def test_refs_are_equal_when_entity_id_and_scope_are() -> None:
    ref = User.ref("7")
    assert ref == Ref(User, "7") == Ref.of(User("7"))
    assert ref not in (User.ref("8"), Ref(Issue, "7"), "User:7")
    assert len({ref, User.ref("7"), ref.within("a"), ref.within("b")}) == 3


@drawn(st.text())
def test_the_repr_of_a_ref_is_printable_for_any_id(id: str) -> None:
    assert repr(User.ref(id)).isprintable()
    assert repr(User.ref("a b/ä:7")) == "User:a b/ä:7"
    assert all(str(one).isprintable() for one in check_entity(Issue(id, assignee=Ref(User, id, Scope(id)))))


def test_a_ref_names_its_installation_only_outside_of_it() -> None:
    abroad = User.ref("7").within("acme-1")
    assert str(abroad) == "acme-1/User:7"
    assert abroad.scope == Scope("acme-1")
    assert abroad != User.ref("7")
    assert abroad.local() == User.ref("7")


# -- field types ----------------------------------------------------------------------------


def test_the_annotation_says_what_a_field_holds() -> None:
    types = Issue.types()
    assert types["title"] == FieldType(Kind.TEXT)
    assert types["weight"] == FieldType(Kind.REAL, optional=True)
    assert types["open"] == FieldType(Kind.BOOLEAN)
    assert types["opened_at"] == FieldType(Kind.DATETIME)
    assert types["due"] == FieldType(Kind.DATE, optional=True)
    assert types["labels"] == FieldType(Kind.JSON, shape="list[str]")
    assert types["assignee"] == FieldType(Kind.REF, optional=True, target=User)
    assert Issue.children() == {"watchers": User}


def test_a_json_field_may_be_null() -> None:
    assert Issue.types()["extra"].check(None)
    assert not Issue.types()["labels"].check(None)


@pytest.mark.parametrize(
    "hint", [bytes, int | str, None, set[str], object, Enum, int | str | None, Literal[1]]
)
def test_an_annotation_that_no_column_can_hold_is_refused(hint: object) -> None:
    with pytest.raises(SchemaError, match=r"Issue\.x is annotated .* no column can hold"):
        FieldType.of(hint, "Issue.x")


@pytest.mark.parametrize("hint", [Ref, Ref[Any], Ref[User | Issue]])
def test_a_ref_that_does_not_name_its_entity_is_refused(hint: object) -> None:
    with pytest.raises(SchemaError, match=r"Issue\.x does not name one entity"):
        FieldType.of(hint, "Issue.x")


def test_a_collection_must_hold_entities() -> None:
    class Album(Entity):
        titles: Many[str] = Many()  # type: ignore[type-var]

    with pytest.raises(SchemaError, match=r"Album\.titles does not name one entity"):
        Album.children()


def test_a_field_without_annotation_is_refused_by_name() -> None:
    words = {None: "has no annotation", "str": "is annotated str", "Field": "is annotated Field"}
    for annotation, said in words.items():
        with pytest.raises(SchemaError, match=rf"Sample\.size {said}") as caught:
            declared(annotation, size=Field()).types()
        assert "size: Field[" in caught.value.hint


def test_an_entity_that_declares_the_id_again_is_refused_with_a_hint_at_its_key() -> None:
    with pytest.raises(SchemaError, match=r"Sample\.id: every entity has an id") as caught:
        declared("Field[str]", id=Field())
    assert "key=" in caught.value.hint


def test_an_annotation_with_an_unknown_name_is_refused() -> None:
    with pytest.raises(SchemaError, match="Sample is annotated with 'Nowhere'"):
        declared("Field[Nowhere]", x=Field()).types()


# -- checks ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=600)
@drawn(st.sampled_from(Kind), st.booleans(), samples)
def test_p13_field_check_agrees_with_a_naive_oracle(
    kind: Kind, optional: bool, sample: tuple[object, frozenset[Kind]]
) -> None:
    value, fits = sample
    holds = FieldType(kind, optional, Thing if kind is Kind.REF else None)
    assert holds.check(value) is (kind in fits)
    assert holds.check(None) is optional


@pytest.mark.parametrize("kind", Kind)
def test_p13_field_check_agrees_with_the_oracle_about_every_oddity(kind: Kind) -> None:
    holds = FieldType(kind, target=Thing if kind is Kind.REF else None)
    wrong = [shown(value) for value, fits in ODDITIES if holds.check(value) is not (kind in fits)]
    assert wrong == []


@settings(deadline=None)
@drawn(st.data())
def test_a_valid_value_is_equal_after_json(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(Kind))
    holds = FieldType(kind, data.draw(st.booleans()), Thing if kind is Kind.REF else None)
    value = data.draw(fitting(holds))
    again = holds.from_json(json.loads(json.dumps(holds.to_json(value))))
    assert holds.check(value)
    assert again == value


def test_checking_a_record_finds_every_invalid_value() -> None:
    wrong: Any = {"title": 7, "votes": True, "assignee": Issue.ref("1"), "due": "soon"}
    found = [one.describe() for one in check_entity(Issue("1", **wrong))]
    assert found == [
        {"path": "Issue:1.title", "expected": "text that UTF-8 can encode", "actual": "7"},
        {"path": "Issue:1.votes", "expected": "an integer of at most 64 bits", "actual": "True"},
        {
            "path": "Issue:1.due",
            "expected": "a date (or its ISO 8601 text), or null",
            "actual": "'soon'",
        },
        {"path": "Issue:1.assignee", "expected": "a ref to User, or null", "actual": "Ref Issue:1"},
    ]


@pytest.mark.parametrize("id", ["", 7, None, "\ud800", "a\0b"])
def test_an_id_is_a_text_that_is_not_empty(id: Any) -> None:
    (mismatch,) = check_entity(User(id))
    assert mismatch.path.endswith(".id")
    assert mismatch.expected == "a text that is not empty, without NUL, of at most 10,000 characters"


def test_a_ref_into_another_installation_is_an_invalid_value() -> None:
    issue = Issue("1", assignee=User.ref("7").within("acme-2"))
    (mismatch,) = check_entity(issue)
    assert mismatch.actual == "Ref acme-2/User:7"


# -- entities -------------------------------------------------------------------------------


def test_a_field_is_a_handle_on_the_class_and_a_value_on_a_record() -> None:
    issue = Issue("7", title="x")
    assert repr(Issue.title) == "Issue.title"
    assert issue.title == "x"
    assert issue.id == "7"
    assert dict(values_of(issue)) == {"id": "7", "title": "x"}


def test_reading_a_field_that_is_not_loaded_raises() -> None:
    issue = Issue("7", assignee=None)
    assert issue.assignee is None
    with pytest.raises(FieldNotLoaded, match=r"Issue\.title is not loaded"):
        issue.title  # noqa: B018


def test_reading_a_collection_from_a_record_raises() -> None:
    with pytest.raises(FieldNotLoaded, match="not loaded") as caught:
        Issue("7").watchers  # noqa: B018
    assert "load_collection" in caught.value.hint


def test_a_record_refuses_a_field_that_its_entity_does_not_have() -> None:
    unknown: Any = {"titel": "x"}
    with pytest.raises(TypeError, match="Issue has no field titel"):
        Issue("7", **unknown)


def test_a_records_values_cannot_be_set() -> None:
    issue: Any = Issue("7", title="x")
    for name in ("title", "watchers", "id"):
        with pytest.raises(AttributeError):
            setattr(issue, name, "y")
    with pytest.raises(TypeError):
        values_of(issue)["title"] = "y"  # type: ignore[index]
    assert issue == Issue("7", title="x")


def test_records_are_equal_when_they_have_the_same_fields_and_values() -> None:
    assert Issue("7", title="x") == Issue("7", title="x")
    assert Issue("7", assignee=None) != Issue("7")
    assert Issue("7") != User("7")
    assert repr(Issue("7", votes=3)) == "Issue('7', votes=3)"


def test_a_record_as_json_leaves_out_what_is_not_loaded() -> None:
    opened = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    issue = Issue("7", opened_at=opened, assignee=User.ref("u"), due=None, weight=2)
    whole = {"id": "7", "opened_at": "2026-01-31T09:30:00Z", "assignee": "u", "due": None, "weight": 2.0}
    assert issue.to_dict() == whole
    assert issue.to_dict(["due", "title"]) == {"id": "7", "due": None}


def test_help_shows_the_fields_of_an_entity() -> None:
    assert str(inspect.signature(Issue)).startswith("(id: 'Field[str]', *, title: 'Field[str]' = Ellipsis,")


def test_the_repr_of_records_and_filters_is_short() -> None:
    query = Query(Issue).where(Issue.votes.gt(3) & ~Issue.title.is_loaded() | Issue.assignee.is_null())
    assert repr(query) == "Query(Issue, where='votes > 3 AND NOT title IS LOADED OR assignee IS NULL')"
    query = query.where("votes = 1").order_by("-due").select("title").limit(5).after("x")
    assert repr(query).endswith("AND votes = 1', order_by='due:desc', select='title', limit=5, after='x')")
    assert repr(Issue.title.synced_before(0.0)) == "Filter(_age(title) = never)"
    assert len(repr(Page([Issue(str(n), title="x" * 1000) for n in range(10_000)]))) < 2_000
    assert repr(vars(User)["email"]) == "Field('where to write')"
    assert repr(vars(Issue)["watchers"]) == "Many('gets a message')"


@pytest.mark.parametrize("name", ["ref", "types", "children", "to_dict", "_hidden", "Id"])
def test_reserved_field_names_are_refused(name: str) -> None:
    with pytest.raises(SchemaError, match=name):
        declared(**{name: Field()})


def test_names_that_differ_in_case_alone_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"Sample\.NAME and \.name differ in case alone"):
        declared(name=Field(), NAME=Many())


@pytest.mark.parametrize("name", ["order", "group", "class", "self", "values", "mro", "größe"])
def test_words_of_sql_and_python_are_valid_field_names(name: str) -> None:
    sample = declared("Field[str]", **{name: Field()})
    record = sample("7", **{name: "x"})
    assert getattr(record, name) == "x"
    assert sample.types() == {name: FieldType(Kind.TEXT)}


def test_an_entity_inherits_the_fields_of_every_base() -> None:
    class Dated(Entity):
        at: Field[datetime] = Field()

    class Titled(Entity):
        title: Field[str] = Field()

    class Post(Dated, Titled):
        body: Field[str] = Field()

    assert set(Post.types()) == {"at", "title", "body"}
    assert Post("1", title="x").title == "x"


# -- filters --------------------------------------------------------------------------------


def test_a_filter_says_what_it_compares() -> None:
    condition: Any = Issue.votes.gt(3)
    assert (condition.path, condition.op, condition.value) == ((Issue.votes,), Op.GT, 3)
    assert Issue.title.is_in(iter(["a", "b"])) == Issue.title.is_in(["a", "b"])
    assert Issue.assignee.eq(User.ref("7")) != Issue.assignee.ne(User.ref("7"))


def test_filters_combine() -> None:
    one, two = Issue.votes.gt(3), Issue.title.contains("bug")
    assert one & two == AllOf((one, two))
    assert one | two == AnyOf((one, two))
    assert ~one == Not(one)
    assert hash(one & two) == hash(AllOf((one, two)))


def test_a_filter_has_no_truth_value() -> None:
    condition: Filter[Issue] = Issue.votes.gt(3)
    with pytest.raises(TypeError, match="combine filters with &"):
        bool(condition)
    with pytest.raises(TypeError, match="combine filters with &"):
        sorted([condition], key=lambda one: not one)


def test_a_filter_goes_through_refs() -> None:
    email = Issue.assignee.to(User.email)
    assert [field.name for field in email.path] == ["assignee", "email"]
    assert email.type == FieldType(Kind.TEXT, optional=True)
    assert repr(email) == "Issue.assignee.email"
    assert Issue.assignee.to(User.id).type == FieldType(Kind.TEXT)


def test_refs_are_followed_step_by_step_or_all_at_once() -> None:
    login = Issue.assignee.to(User.manager).to(User.login)
    assert [field.name for field in login.path] == ["assignee", "manager", "login"]
    assert login == Issue.assignee.to(User.manager.to(User.login)) == find_field(Issue, path_name(login))
    assert (repr(login), login.type) == ("Issue.assignee.manager.login", FieldType(Kind.TEXT))


def test_a_path_follows_a_limited_number_of_refs() -> None:
    field: Any = User.manager
    for _ in range(REFS - 1):
        field = field.to(User.manager)
    assert len(field.to(User.login).path) == REFS + 1
    with pytest.raises(ValueError, match="goes through more than 8 refs"):
        field.to(User.manager).to(User.login)
    with pytest.raises(UsageError, match="at most 8 refs"):
        find_field(User, "manager." * (REFS + 1) + "login")


def test_only_a_ref_leads_to_fields_of_its_target() -> None:
    ref: Any = Issue.assignee
    with pytest.raises(TypeError, match="does not point at User"):
        ref.to(User.email).to(User.login)
    with pytest.raises(TypeError, match="does not point at Issue"):
        ref.to(Issue.title)
    with pytest.raises(TypeError, match="does not point at User"):
        find_field(Issue, "title").to(User.email)


def test_is_in_refuses_a_single_text() -> None:
    with pytest.raises(TypeError, match="takes a list of values"):
        Issue.title.is_in("open")


def test_a_field_is_found_by_its_path_in_any_case() -> None:
    assert find_field(Issue, "TITLE") == Issue.title
    assert find_field(Issue, "assignee.Email") == Issue.assignee.to(User.email)
    with pytest.raises(UnknownName, match="unknown field 'titel' in Issue") as caught:
        find_field(Issue, "titel")
    assert caught.value.candidates[0] == "title"


def test_a_field_behind_a_ref_belongs_to_another_entity() -> None:
    assert field_names([Issue.title, Issue.id]) == ("title", "id")
    with pytest.raises(ValueError, match="belongs to another entity"):
        field_names([Issue.assignee.to(User.email)])


class Remembering:
    """What an author's class may be as well: it has a slot, and says what every other name is."""

    __slots__ = ("memo",)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"no {name}"


def test_an_entity_may_also_be_something_else_with_slots_and_names_of_its_own() -> None:
    class Odd(Remembering, Entity):
        title: Field[str] = Field()

    made = [Odd("1", title="a"), entity_of(Odd, {"id": "1", "title": "a"})]
    write_constructor(Odd)
    for one in [*made, Odd("1", title="a")]:
        object.__setattr__(one, "memo", 5)
        assert (one.title, vars(Remembering)["memo"].__get__(one), one.__getattr__("colour")) == (
            "a",
            5,
            "no colour",
        )
        assert copy.copy(one) == one
