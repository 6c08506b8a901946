"""Plans and filters as data: they are equal after JSON, and checked against a schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import UnknownName
from max.model.entities import Entity, Field
from max.model.filter_language import parse
from max.model.plan import Step, SyncPlan, filter_from_json, filter_to_json
from tests.model.tracker import SCHEMA, Issue, Repository, User
from tests.strategies import ages, filters, fitting, ids, schemas, texts

# -- filters ------------------------------------------------------------------------------------


class Tagged(Entity):
    """It has a list."""

    tags: Field[list[str]] = Field()


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


def test_a_filter_of_children_and_items_is_equal_after_json() -> None:
    part = Issue.author.to(User.login).eq("ada") | ~Issue.title.contains("bug")
    condition = Repository.issues.has(part) & ~Repository.members.has(User.id.eq("7"))
    assert filter_to_json(condition)[2] == ["not", ["some", ["members"], ["=", ["id"], "7"]]]
    assert filter_from_json(Repository, json.loads(json.dumps(filter_to_json(condition)))) == condition
    nested = parse("repository.issues.repository.members HAS 7", Issue, now=None)
    assert filter_to_json(nested)[1] == ["repository", "issues"]
    assert filter_from_json(Issue, filter_to_json(nested)) == nested
    items = parse("tags HAS docs", Tagged, now=None)
    assert filter_to_json(items) == ["HAS", ["tags"], "docs"]
    assert filter_from_json(Tagged, filter_to_json(items)) == items


def test_a_collection_that_is_gone_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown collection 'pulls' in Repository"):
        filter_from_json(Repository, ["some", ["pulls"], ["=", ["id"], "7"]])


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


def test_a_stored_filter_on_a_removed_field_names_it() -> None:
    with pytest.raises(UnknownName, match="unknown field 'colour' in Issue"):
        filter_from_json(Issue, ["=", ["colour"], "red"])


# -- plans --------------------------------------------------------------------------------------

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


def test_a_plan_is_printed_a_line_a_step() -> None:
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
