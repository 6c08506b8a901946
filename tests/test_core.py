from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import ConnectorError, InvalidFilter, SchemaError, UnknownName, UsageError
from max.model.entities import AllOf, Entity, Field, FieldOf, Many, Ref
from max.model.loaders import Env, Loader, PageRequest, Resolver
from max.model.plan import Step, SyncPlan, filter_from_json, filter_to_json
from max.model.query import Batch, Page, Query, QueryPage
from max.model.schema import Relationship, Schema, snake_case
from tests.strategies import ages, filters, fitting, ids, schemas, texts


class User(Entity):
    """Someone with an account.

    This paragraph is for readers of the code.
    """

    login: Field[str] = Field("what they type", searchable=True)


class Repository(Entity):
    """A code repository."""

    name: Field[str] = Field()
    owner: Field[Ref[User] | None] = Field()
    issues: Many[Issue] = Many(by=lambda: Issue.repository)
    members: Many[User] = Many("who may write")


class Issue(Entity):
    """A report."""

    title: Field[str] = Field()
    votes: Field[int | None] = Field()
    repository: Field[Ref[Repository]] = Field()
    author: Field[Ref[User] | None] = Field()


SCHEMA = Schema([User, Repository, Issue], roots=[Repository])


# -- schemas --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "table"),
    [("AcmeUser", "acme_user"), ("HTTPRoute", "http_route"), ("User2", "user2"), ("GitHub", "git_hub")],
)
def test_a_table_is_named_for_people(name: str, table: str) -> None:
    assert snake_case(name) == table


@settings(deadline=None, max_examples=60)
@given(schemas())
def test_p9_a_schema_is_equal_after_json(schema: Schema) -> None:
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    for name, entity in schema.entities.items():
        copy = again.entities[name]
        assert copy.types().keys() == entity.types().keys()
        for field, holds in entity.types().items():
            assert copy.types()[field].expected == holds.expected
    assert list(again.relationships) == list(schema.relationships)


def test_a_schema_as_json_is_what_people_and_agents_read() -> None:
    described = SCHEMA.to_json()
    assert [one["name"] for one in described["entities"]] == ["User", "Repository", "Issue"]
    assert described["roots"] == ["Repository"]
    user, repository, _ = described["entities"]
    assert user["description"] == "Someone with an account."
    assert user["fields"] == [
        {
            "name": "login",
            "kind": "text",
            "optional": False,
            "target": None,
            "description": "what they type",
            "searchable": True,
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


def test_a_schema_of_an_older_version_is_read_without_what_it_cannot_say() -> None:
    data = SCHEMA.to_json()
    del data["entities"][0]["fields"][0]["searchable"]
    assert not Schema.from_json(data).entities["User"]._fields["login"].searchable


def test_a_schema_tells_who_points_at_whom() -> None:
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


def test_an_unknown_entity_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown entity 'Isue'") as caught:
        SCHEMA.entity("Isue")
    assert caught.value.candidates == ["Issue", "User"]


def test_a_schema_is_compared_by_content() -> None:
    assert Schema([User]) == Schema([User])
    assert Schema([User]) != Schema([User], roots=[User])
    assert Schema([User]) != "User"


def named(name: str, **body: Any) -> Any:
    """An entity made without a class statement."""
    return type(name, (Entity,), body)


def test_a_schema_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(SchemaError, match="share a name"):
        Schema([User, named("User")])
    with pytest.raises(SchemaError, match="HTTPRoute and HttpRoute would share one table"):
        Schema([named("HttpRoute"), named("HTTPRoute")])
    with pytest.raises(SchemaError, match="root Issue is not among"):
        Schema([User], roots=[Issue])
    for name in ("_MaxTask", "SqliteStat"):
        with pytest.raises(SchemaError, match="not ours to make"):
            Schema([named(name)])


def test_a_schema_refuses_a_ref_or_collection_that_leads_outside() -> None:
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


# -- queries --------------------------------------------------------------------------------


def test_a_query_is_never_changed_only_followed_by_another() -> None:
    query = Query(Issue)
    query.where(Issue.votes.gt(3)).order_by(Issue.title, descending=True).select(Issue.title).limit(5)
    assert query == Query(Issue)
    with pytest.raises(AttributeError, match="immutable"):
        query.size = 3  # type: ignore[misc]


def test_conditions_of_a_query_all_hold() -> None:
    one, two = Issue.votes.gt(3), Issue.title.contains("bug")
    assert Query(Issue).where(one).filter == one
    assert Query(Issue).where(one).where(two).filter == AllOf((one, two))
    assert Query(Issue).where(one, two).filter == AllOf((one, two))
    assert Query(Issue).where().filter is None
    assert Query(Issue).where(one).where().filter == one


def test_an_order_keeps_what_was_named_before() -> None:
    query = Query(Issue).order_by(Issue.votes, descending=True).order_by(Issue.author.to(User.login))
    assert [([f.name for f in o.path], o.descending) for o in query.order] == [
        (["votes"], True),
        (["author", "login"], False),
    ]


def test_a_query_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(ValueError, match="0 or more, not -1"):
        Query(Issue).limit(-1)
    with pytest.raises(ValueError, match=r"Issue\.author\.login belongs to another entity"):
        Query(Issue).select(Issue.author.to(User.login))


# -- what a query refuses when it is built ----------------------------------------------------


def test_a_condition_may_be_text_in_the_filter_language() -> None:
    query = Query(Issue).where("votes > 3 AND author.login = ada", Issue.title.contains("bug"))
    author = Issue.author.to(User.login).eq("ada")
    assert query.filter == AllOf((Issue.votes.gt(3) & author, Issue.title.contains("bug")))


def test_ages_in_a_text_count_from_the_now_that_is_given() -> None:
    assert Query(Issue).where("_age(title) > 10s", now=100.0).filter == Issue.title.synced_before(90.0)
    with pytest.raises(InvalidFilter, match="pass now="):
        Query(Issue).where("_age(title) > 10s")


def test_a_comparison_of_python_is_refused_with_what_to_write() -> None:
    wrong: Any = Issue.title == "x"
    with pytest.raises(TypeError, match=r"== compares in Python: write Issue\.title\.eq\("):
        Query(Issue).where(wrong)


@pytest.mark.parametrize("wrong", [None, 3, Issue.title, Issue, ["votes > 3"]])
def test_a_condition_that_is_neither_filter_nor_text_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"where\(\) takes filters or text, not"):
        Query(Issue).where(wrong)


def test_a_field_of_another_entity_is_refused_wherever_it_is_named() -> None:
    query, login = Query(Issue), FieldOf[Any, Any](User, "login")
    inside = ~(Issue.title.eq("x") | login.synced_before(1.0))
    refused: list[tuple[Any, tuple[Any, ...]]] = [
        (query.where, (login.eq("ada"),)),
        (query.where, (Issue.votes.gt(3) & inside,)),
        (query.order_by, (login,)),
        (query.select, (Issue.title, login)),
    ]
    for method, arguments in refused:
        with pytest.raises(TypeError, match=r"User\.login is not a field of Issue"):
            method(*arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("votes", [("votes", False)]),
        ("-votes", [("votes", True)]),
        ("VOTES:desc", [("votes", True)]),
        ("votes:asc, -author.LOGIN", [("votes", False), ("author.login", True)]),
        ("id", [("id", False)]),
    ],
)
def test_an_order_may_be_text(text: str, expected: list[tuple[str, bool]]) -> None:
    orders = Query(Issue).order_by(text).order
    assert [(".".join(field.name for field in one.path), one.descending) for one in orders] == expected


def test_the_direction_in_a_text_wins_over_the_argument() -> None:
    orders = Query(Issue).order_by("votes:asc,title,-id", descending=True).order
    assert [one.descending for one in orders] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("titel", "unknown field 'titel' in Issue"),
        ("author.logn", "unknown field 'logn' in User"),
        ("title.x", "title holds text; only a ref has fields behind a dot"),
        ("author.login.x", "one ref at most"),
        ("votes:up", "unknown direction 'up'"),
        ("", "unknown field ''"),
    ],
)
def test_an_order_that_means_nothing_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Query(Issue).order_by(text)


def test_a_collection_is_not_a_field() -> None:
    query: Any = Query(Repository)
    with pytest.raises(TypeError, match=r"order_by\(\) takes fields of Repository, or text"):
        query.order_by(Repository.issues)
    for method, text in [(query.order_by, "issues"), (query.where, "issues = 1")]:
        with pytest.raises(UsageError, match="issues is a collection; query Issue instead"):
            method(text)


def test_fields_may_be_chosen_by_name() -> None:
    assert Query(Issue).select("TITLE, votes", Issue.author, "title").fields == ("title", "votes", "author")
    with pytest.raises(UnknownName, match="unknown field 'titel' in Issue"):
        Query(Issue).select("titel")


@pytest.mark.parametrize("size", ["5", 5.0, True, None])
def test_a_limit_is_a_whole_number(size: Any) -> None:
    with pytest.raises(TypeError, match="a whole number"):
        Query(Issue).limit(size)


def test_a_page_begins_after_a_cursor_and_nothing_else() -> None:
    page: Any = QueryPage([], "abc")
    assert Query(Issue).after(page.cursor).after(None).cursor is None
    with pytest.raises(TypeError, match=r"after\(\) takes the cursor of a page"):
        Query(Issue).after(page)


# -- filters as data --------------------------------------------------------------------------


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "id": ids,
    "title": texts,
    "votes": fitting(Issue.types()["votes"]),
    "author": fitting(Issue.types()["author"]),
}


@settings(deadline=None)
@given(filters(Issue, VALUES))
def test_a_filter_is_equal_after_json(condition: Any) -> None:
    data = json.loads(json.dumps(filter_to_json(condition)))
    assert filter_from_json(Issue, data) == condition


@settings(deadline=None)
@given(st.data())
def test_a_filter_of_every_kind_of_field_is_equal_after_json(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    entity = data.draw(st.sampled_from(list(schema.entities.values())))
    values = {"id": ids} | {name: fitting(holds) for name, holds in entity.types().items()}
    condition = data.draw(filters(entity, values))
    assert filter_from_json(entity, json.loads(json.dumps(filter_to_json(condition)))) == condition


def test_a_filter_through_a_ref_is_equal_after_json() -> None:
    condition = Issue.author.to(User.login).is_in(["ada", "bob"]) & ~Issue.author.to(User.id).eq("7")
    assert filter_to_json(condition)[1] == ["IN", ["author", "login"], ["ada", "bob"]]
    assert filter_from_json(Issue, filter_to_json(condition)) == condition


@settings(deadline=None)
@given(filters(Issue, VALUES), ages(Issue), st.booleans())
def test_a_filter_of_ages_is_equal_after_json(other: Any, age: Any, negated: bool) -> None:
    condition = (~age if negated else age) | other
    assert filter_from_json(Issue, json.loads(json.dumps(filter_to_json(condition)))) == condition


def test_a_filter_of_an_age_through_a_ref_is_equal_after_json() -> None:
    condition = Issue.author.to(User.login).synced_before(1_800_000_000.25)
    assert filter_to_json(condition) == ["synced", "<", ["author", "login"], 1_800_000_000.25]
    assert filter_from_json(Issue, filter_to_json(condition)) == condition


def test_a_stored_filter_of_a_field_that_is_gone_names_it() -> None:
    with pytest.raises(UnknownName, match="unknown field 'colour' in Issue"):
        filter_from_json(Issue, ["=", ["colour"], "red"])


# -- plans ----------------------------------------------------------------------------------

PLAN = SyncPlan(
    [
        Step.for_root(Repository.ref("max")).load_collection(Repository.issues),
        Step.concurrent(
            [
                Step.for_all(User).load_fields(User.login),
                Step.for_all(Issue, where=Issue.votes.gt(3)).load_fields(Issue.title, Issue.votes),
            ]
        ),
        Step.for_one(User.ref("a:b/c")).load_fields(User.login),
    ]
)


def test_a_plan_is_equal_after_json() -> None:
    again = SyncPlan.from_json(json.loads(json.dumps(PLAN.to_json())))
    assert again == PLAN
    assert again.steps == PLAN.steps


def test_a_plan_made_of_a_list_equals_one_made_of_a_tuple() -> None:
    assert SyncPlan(list(PLAN.steps)) == SyncPlan(tuple(PLAN.steps)) == SyncPlan(iter(PLAN.steps))


def test_a_plan_can_be_read() -> None:
    assert [str(step) for step in PLAN.flat()] == [
        "Repository:max: load collection issues",
        "all User: load fields login",
        "all Issue: load fields title, votes",
        "User:a:b/c: load fields login",
    ]
    assert str(PLAN.steps[1]) == "all User: load fields login | all Issue: load fields title, votes"


def test_a_plan_is_checked_against_the_schema() -> None:
    PLAN.check(SCHEMA)
    for step, problem in [
        (Step("Isue", "load_fields", ("title",)), "unknown entity 'Isue'"),
        (Step("Issue", "load_fields", ("titel",)), "unknown field 'titel' in Issue"),
        (Step("Repository", "load_collection", ("name",)), "unknown collection 'name' in Repository"),
    ]:
        with pytest.raises(UnknownName, match=problem):
            SyncPlan([step]).check(SCHEMA)


def test_a_step_loads_the_entitys_own_fields() -> None:
    with pytest.raises(ValueError, match="belongs to another entity"):
        Step.for_all(Issue).load_fields(Issue.author.to(User.login))


# -- loaders and the resolver ---------------------------------------------------------------


@Loader.entity_batched(User.login, size=50)
async def user_details(refs: Sequence[Ref[User]], env: Env[None]) -> Batch[User]:
    return Batch([])


@Loader.entity(Issue.votes)
async def issue_votes(ref: Ref[Issue], env: Env[None]) -> Issue:
    return Issue(ref.id)


@Loader.collection(
    Repository.issues, brings=[Issue.title, Issue.votes, Issue.repository, Issue.author, User.login]
)
async def issues(parent: Ref[Repository], request: PageRequest, env: Env[None]) -> Page[Issue]:
    return Page([])


@Loader.collection(Repository.members, brings=[User.login])
async def members(parent: Ref[Repository], request: PageRequest, env: Env[None]) -> Page[User]:
    return Page([])


@Loader.raw
async def labels(env: Env[None]) -> dict[str, str]:
    return {}


LOADERS: list[Loader[None]] = [user_details, issue_votes, issues, members, labels]


def test_a_loader_knows_its_kind_its_name_and_what_it_brings() -> None:
    assert [loader.kind for loader in LOADERS] == [
        "entity_batched",
        "entity",
        "collection",
        "collection",
        "raw",
    ]
    assert (user_details.name, user_details.size, user_details.brings) == ("user_details", 50, (User.login,))
    assert (issues.lists, labels.brings) == (Repository.issues, ())


def test_the_resolver_finds_the_one_home_of_a_field() -> None:
    resolver = Resolver(SCHEMA, LOADERS)
    assert resolver.loader_for(User.login) is user_details
    assert resolver.loader_for(Issue.votes) is issue_votes
    assert resolver.loader_for(Issue.title) is None, "it only ever comes along"
    assert resolver.collection_loader(Repository.issues) is issues


def test_fields_that_arrive_together_are_one_part() -> None:
    resolver = Resolver(SCHEMA, LOADERS)
    assert resolver.load_groups(Issue) == [("title", "repository", "author"), ("votes",)]
    assert resolver.load_groups(Repository) == [("name", "owner")]


def test_a_root_may_have_fields_that_only_the_seeder_stores() -> None:
    assert Resolver(SCHEMA, LOADERS).loader_for(Repository.name) is None
    rootless = Schema(list(SCHEMA.entities.values()))
    with pytest.raises(ConnectorError, match=r"Repository\.name has no loader that brings it"):
        Resolver(rootless, LOADERS)


def without(*gone: Loader[None]) -> list[Loader[None]]:
    return [loader for loader in LOADERS if loader not in gone]


def test_a_field_or_collection_without_loader_is_refused() -> None:
    with pytest.raises(ConnectorError, match=r"Repository\.members has no loader that lists it"):
        Resolver(SCHEMA, without(members))
    bare = Loader.collection(Repository.issues)(issues.load)
    with pytest.raises(ConnectorError, match=r"Issue\.title has no loader that brings it") as caught:
        Resolver(SCHEMA, [*without(issues), bare])
    assert "brings=" in caught.value.hint


def test_a_field_with_two_homes_is_refused_naming_both() -> None:
    twice = Loader.entity_batched(User.login)(user_details.load)
    twice.name = "people"
    with pytest.raises(ConnectorError, match="fetched by two loaders: user_details and people"):
        Resolver(SCHEMA, [*LOADERS, twice])


def test_a_collection_with_two_loaders_is_refused() -> None:
    with pytest.raises(ConnectorError, match="listed by two loaders: members and members"):
        Resolver(SCHEMA, [*LOADERS, Loader.collection(Repository.members)(members.load)])


def test_a_loader_of_what_the_schema_does_not_have_is_refused() -> None:
    with pytest.raises(ConnectorError, match=r"issue_votes brings Issue\.votes, which the schema does not"):
        Resolver(Schema([User]), [user_details, issue_votes])
    with pytest.raises(ConnectorError, match=r"members lists Repository\.members, which the schema"):
        Resolver(Schema([User]), [members])
