"""Schemas: what they refuse, how they are found, and that JSON keeps them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from max.errors import SchemaError, UnknownName
from max.model.entities import Entity, Field, FieldOf, Many, Ref
from max.model.schema import Relationship, Schema, snake_case
from tests.model.tracker import SCHEMA, Issue, Repository, User
from tests.strategies import schemas


@pytest.mark.parametrize(
    ("name", "table"),
    [("AcmeUser", "acme_user"), ("HTTPRoute", "http_route"), ("User2", "user2"), ("GitHub", "git_hub")],
)
def test_a_name_in_snake_case(name: str, table: str) -> None:
    assert snake_case(name) == table


@settings(deadline=None, max_examples=60)
@given(schemas())
def test_p9_a_schema_is_equal_after_json(schema: Schema) -> None:
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    for name, entity in schema.entities.items():
        copy = again.entities[name]
        assert copy._title == entity._title
        assert copy.types().keys() == entity.types().keys()
        for field, holds in entity.types().items():
            assert copy.types()[field].expected == holds.expected
    assert list(again.relationships) == list(schema.relationships)


def test_a_schema_as_json_describes_entities_fields_and_collections() -> None:
    described = SCHEMA.to_json()
    assert [one["name"] for one in described["entities"]] == ["User", "Repository", "Issue"]
    assert described["roots"] == ["Repository"]
    user, repository, _ = described["entities"]
    assert user["description"] == "A person with an account."
    assert user["fields"] == [
        {
            "name": "login",
            "kind": "text",
            "optional": False,
            "target": None,
            "description": "what they type",
            "searchable": True,
            "brief": False,
        }
    ]
    assert repository["collections"] == [
        {"name": "issues", "child": "Issue", "by": "repository", "description": ""},
        {"name": "members", "child": "User", "by": None, "description": "who may write"},
    ]


def test_only_texts_are_searchable() -> None:
    counted = named("Counted", __annotations__={"votes": "Field[int]"}, votes=Field("", searchable=True))
    with pytest.raises(SchemaError, match=r"Counted\.votes is searchable, but does not hold text"):
        Schema([counted])


def test_stored_schemas_without_searchable_can_be_read() -> None:
    data = SCHEMA.to_json()
    del data["entities"][0]["fields"][0]["searchable"]
    assert not Schema.from_json(data).entities["User"]._fields["login"].searchable


def test_a_title_and_brief_fields_are_part_of_the_schema_and_inherited() -> None:
    class Note(Entity, title="subject"):
        subject: Field[str] = Field()
        state: Field[int] = Field(brief=True)

    class Reply(Note):
        pass

    class Memo(Note, title="heading"):
        heading: Field[str] = Field()

    note, reply, memo = Schema([Note, Reply, Memo]).to_json()["entities"]
    assert (note["title"], reply["title"], memo["title"]) == ("subject", "subject", "heading")
    assert [one["brief"] for one in note["fields"]] == [False, True]


@pytest.mark.parametrize(
    ("title", "message"),
    [("subjekt", "Note has no field subjekt, which its title names"), ("votes", r"Note\.votes is the title")],
)
def test_a_title_that_names_no_text_is_refused(title: str, message: str) -> None:
    body = {"__module__": __name__, "__annotations__": {"votes": "Field[int]"}, "votes": Field()}
    note: type[Entity] = type("Note", (Entity,), body, title=title)
    with pytest.raises(SchemaError, match=message):
        Schema([note])


def test_stored_schemas_without_titles_can_be_read() -> None:
    data = SCHEMA.to_json()
    del data["entities"][0]["title"], data["entities"][0]["fields"][0]["brief"]
    assert Schema.from_json(data).entities["User"]._title is None


def test_a_schema_lists_its_relationships() -> None:
    assert SCHEMA.relationships == [
        Relationship("Repository", "owner", "User", many=False),
        Relationship("Repository", "issues", "Issue", many=True),
        Relationship("Repository", "members", "User", many=True),
        Relationship("Issue", "repository", "Repository", many=False),
        Relationship("Issue", "author", "User", many=False),
    ]


@pytest.mark.parametrize("name", ["Repository", "repository", "REPOSITORY"])
def test_an_entity_is_found_by_its_name_in_any_case(name: str) -> None:
    assert SCHEMA.entity(name) is Repository


def test_an_entity_is_found_by_the_name_of_its_view() -> None:
    class Task(Entity):
        """Something to do."""

    schema = Schema([Task], connector="demo")
    assert [schema.entity(name) for name in ("demo_task", "DEMO_TASK", "task")] == [Task] * 3


def test_an_unknown_entity_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown entity 'Isue'") as caught:
        SCHEMA.entity("Isue")
    assert caught.value.candidates == ["Issue"]


def test_a_schema_is_compared_by_content() -> None:
    assert Schema([User]) == Schema([User])
    assert Schema([User]) != Schema([User], roots=[User])
    assert Schema([User]) != "User"


def named(name: str, **body: Any) -> Any:
    """An entity made without a class statement."""
    return type(name, (Entity,), body)


def test_a_schema_refuses_contradictions_and_reserved_tables() -> None:
    with pytest.raises(SchemaError, match="share a name"):
        Schema([User, named("User")])
    with pytest.raises(SchemaError, match="HTTPRoute and HttpRoute would share the table http_route"):
        Schema([named("HttpRoute"), named("HTTPRoute")])
    with pytest.raises(SchemaError, match="root Issue is not among"):
        Schema([User], roots=[Issue])
    for name in ("_MaxTask", "SqliteStat"):
        with pytest.raises(SchemaError, match="is reserved"):
            Schema([named(name)])


def test_a_schema_refuses_a_ref_or_collection_to_an_entity_outside_of_it() -> None:
    with pytest.raises(SchemaError, match=r"Repository\.issues leads to Issue"):
        Schema([Repository, User])
    with pytest.raises(SchemaError, match=r"Repository\.owner leads to User"):
        Schema([Repository, Issue, named("User")])


@pytest.mark.parametrize("field", ["author", "title"])
def test_the_inverse_of_a_collection_must_be_the_childs_ref_to_the_parent(field: str) -> None:
    def back() -> FieldOf[Any, Any]:
        return FieldOf(Issue, field)

    shelf = named("Shelf", issues=Many(by=back), __annotations__={"issues": Many[Issue]})
    with pytest.raises(SchemaError, match=rf"Shelf\.issues: by=Issue\.{field} is not a ref of Issue"):
        Schema([*SCHEMA.entities.values(), shelf])


def test_entities_declared_inside_a_function_find_each_other_through_the_schema() -> None:
    class Parent(Entity):
        children_here: Many[Child] = Many()

    class Child(Entity):
        parent: Field[Ref[Parent]] = Field()

    schema = Schema([Parent, Child])
    assert Child.types()["parent"].target is Parent
    assert [relation.target for relation in schema.relationships] == ["Child", "Parent"]


def test_conventions_are_part_of_the_schema_and_inherited() -> None:
    class Bug(Entity, conventions={"open": "votes > 0"}):
        votes: Field[int] = Field()

    class Crash(Bug, conventions={"loud": "votes > 9"}):
        pass

    bug, crash = Schema([Bug, Crash]).to_json()["entities"]
    assert bug["conventions"] == {"open": "votes > 0"}
    assert crash["conventions"] == {"open": "votes > 0", "loud": "votes > 9"}
    again = Schema.from_json(Schema([Bug, Crash]).to_json())
    assert again.entities["Crash"]._conventions == crash["conventions"]


def test_stored_schemas_without_conventions_can_be_read() -> None:
    data = SCHEMA.to_json()
    del data["entities"][0]["conventions"]
    assert Schema.from_json(data).entities["User"]._conventions == {}
