"""Queries: data that checks its arguments where they are written."""

from __future__ import annotations

from typing import Any

import pytest

from max.errors import InvalidFilter, UnknownName, UsageError
from max.model.entities import FieldOf
from max.model.filters import AllOf
from max.model.query import Query, QueryPage
from tests.model.tracker import Issue, Repository, User


def test_each_step_returns_a_new_query() -> None:
    query = Query(Issue)
    query.where(Issue.votes.gt(3)).order_by(Issue.title, descending=True).select(Issue.title).limit(5)
    assert query == Query(Issue)
    with pytest.raises(AttributeError, match="immutable"):
        query.size = 3  # type: ignore[misc]


def test_several_conditions_are_combined_with_and() -> None:
    one, two = Issue.votes.gt(3), Issue.title.contains("bug")
    assert Query(Issue).where(one).filter == one
    assert Query(Issue).where(one).where(two).filter == AllOf((one, two))
    assert Query(Issue).where(one, two).filter == AllOf((one, two))
    assert Query(Issue).where().filter is None
    assert Query(Issue).where(one).where().filter == one


def test_a_second_order_by_adds_to_the_first() -> None:
    query = Query(Issue).order_by(Issue.votes, descending=True).order_by(Issue.author.to(User.login))
    assert [([f.name for f in o.path], o.descending) for o in query.order] == [
        (["votes"], True),
        (["author", "login"], False),
    ]


def test_a_negative_limit_and_a_field_behind_a_ref_are_refused() -> None:
    assert Query(Issue).limit(2**70).size == Query(Issue).limit(2**62).size
    with pytest.raises(ValueError, match="0 or more, not -1"):
        Query(Issue).limit(-1)
    with pytest.raises(ValueError, match=r"Issue\.author\.login belongs to another entity"):
        Query(Issue).select(Issue.author.to(User.login))


# -- what is refused at the call ----------------------------------------------------------------


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


def test_a_value_that_its_field_cannot_hold_is_refused_wherever_it_is_written() -> None:
    votes, author = FieldOf[Any, Any](Issue, "votes"), FieldOf[Any, Any](Issue, "author")
    for wrong in (votes.eq("3"), votes.is_in([3, "3"]), ~(Issue.title.eq("x") | author.eq("ada"))):
        with pytest.raises(UsageError, match=r"Issue\.(votes|author) holds .*, not '(3|ada)'"):
            Query(Issue).where(wrong)
    for right in (votes.is_in([3, None]), author.eq(User.ref("ada")), Issue.id.eq("1"), votes.is_loaded()):
        assert Query(Issue).where(right).filter == right


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
        ("votes", "votes"),
        ("-votes", "votes:desc"),
        ("VOTES:desc", "votes:desc"),
        ("votes desc", "votes:desc"),
        ("votes  ASC", "votes"),
        ("votes:asc, -author.LOGIN", "votes,author.login:desc"),
        ("repository.owner.login", "repository.owner.login"),
        ("votes:nulls:first", "votes:nulls:first"),
        ("votes:desc:nulls:first", "votes:desc:nulls:first"),
        ("votes DESC NULLS FIRST, title nulls last", "votes:desc:nulls:first,title"),
        ("-votes nulls:last", "votes:desc"),
        ("id", "id"),
    ],
)
def test_an_order_may_be_text(text: str, expected: str) -> None:
    orders = Query(Issue).order_by(text).order
    assert ",".join(map(str, orders)) == expected
    assert Query(Issue).order_by(expected).order == orders


def test_what_a_text_says_wins_over_the_arguments() -> None:
    query = Query(Issue).order_by("votes:asc,title:nulls:last,-id", descending=True, nulls_first=True)
    assert [(one.descending, one.nulls_first) for one in query.order] == [
        (False, True),
        (True, False),
        (True, True),
    ]


def test_several_orders_add_up_and_the_first_of_one_field_holds() -> None:
    query = Query(Issue).order_by("votes").order_by("-title,-votes").order_by(Issue.id, nulls_first=True)
    assert ",".join(map(str, query.order)) == "votes,title:desc,id:nulls:first"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("titel", "unknown field 'titel' in Issue"),
        ("author.logn", "unknown field 'logn' in User"),
        ("title.x", "title holds text; only a ref has fields behind a dot"),
        ("author.login.x", "author.login holds text; only a ref has fields behind a dot"),
        ("votes:up", "unknown direction 'up' in order 'votes:up'"),
        ("votes down", "unknown direction 'down'"),
        ("votes:nulls", "unknown place of nulls ''"),
        ("votes:nulls:frist", "unknown place of nulls 'frist'"),
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
