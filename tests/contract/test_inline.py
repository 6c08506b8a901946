"""Inline collections: rows that name their members themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from max.connecting import Entity, Field, Many, Page, Ref, Schema
from max.core import Engine
from max.errors import FieldNotLoaded
from max.model.delivery import Delivery
from tests.contract.places import Store, place, using

__all__ = ["place"]


class Label(Entity, title="name"):
    """A label of issues."""

    name: Field[str] = Field("its text")
    color: Field[str | None] = Field("its color")


class Issue(Entity):
    """An issue, which names its labels."""

    title: Field[str] = Field("its title")
    labels: Many[Label] = Many("its labels", inline="labels")


class Repository(Entity):
    """A repository of issues."""

    issues: Many[Issue] = Many("its issues")


SCHEMA = Schema([Repository, Issue, Label], roots=[Repository])
ONE, TWO = Issue.ref("1"), Issue.ref("2")
BUG, DOC = Label("7", name="bug"), Label("8", name="doc")


async def labels(engine: Engine, issue: Ref[Issue]) -> Sequence[Label]:
    """All labels of an issue."""
    return (await engine.load_collection(issue, Issue.labels)).items


def test_a_row_stores_its_members_and_which_they_are_in_its_own_order(place: str) -> None:
    async def body(store: Store) -> None:
        engine = store.engine
        await engine.store(Issue("1", labels=[DOC, BUG, Label("9")]), requested_at=1.0)
        assert await labels(engine, ONE) == [DOC, BUG, Label("9")]
        stored = await engine.load(ONE)
        assert stored.labels == [Label.ref("8"), Label.ref("7"), Label.ref("9")]
        assert stored.to_dict() == {"id": "1", "labels": ["8", "7", "9"]}

    using(place, body, SCHEMA)


def test_a_row_without_the_list_says_nothing_of_it_and_an_empty_one_empties_it(place: str) -> None:
    async def body(store: Store) -> None:
        engine = store.engine
        await engine.store(Issue("1", labels=[BUG]), requested_at=1.0)
        await engine.store(Issue("1", title="later"), requested_at=2.0)
        assert await labels(engine, ONE) == [BUG]
        await engine.store(Issue("1", labels=[]), requested_at=3.0)
        assert await labels(engine, ONE) == []
        with pytest.raises(FieldNotLoaded):
            print(Issue("2", title="x").labels)

    using(place, body, SCHEMA)


def test_an_older_list_does_not_replace_a_newer_one_whichever_comes_first(place: str) -> None:
    async def body(store: Store) -> None:
        engine = store.engine
        await engine.store(Issue("1", labels=[BUG]), requested_at=2.0)
        await engine.store(Issue("1", labels=[DOC, Label("7", name="old")]), requested_at=1.0)
        assert await labels(engine, ONE) == [BUG]

    using(place, body, SCHEMA)


def test_filters_ask_for_members(place: str) -> None:
    async def body(store: Store) -> None:
        engine = store.engine
        await engine.store(
            Issue("1", labels=[BUG, DOC]), Issue("2", labels=[DOC]), Issue("3", title="x"), requested_at=1.0
        )
        for condition in ("labels.name HAS bug", "labels HAS 7", "labels HAS (name = bug)"):
            assert [one.id for one in await engine.query(Issue).where(condition).all()] == ["1"]
        found = await engine.query(Issue).where(~Issue.labels.has(Label.name.eq("bug"))).all()
        assert [one.id for one in found] == ["2", "3"]

    using(place, body, SCHEMA)


def test_a_collection_that_is_listed_is_not_given_with_the_row() -> None:
    with pytest.raises(TypeError, match="declared with inline="):
        Repository("1", issues=[])


DATA = [
    {"id": 1, "title": "a", "labels": [{"id": 7, "name": "bug", "color": "red"}, {"id": 8, "name": "doc"}]},
    {"id": 2, "title": "b", "labels": [{"id": 7, "name": "bug", "color": "red"}]},
    {"id": 3, "title": "c", "labels": None},
    {"id": 4, "title": "d", "labels": [{"id": 9}]},
    {"id": 5, "title": "e", "labels": "none"},
]


def test_rows_that_are_read_bring_their_members_by_column_as_one_by_one(place: str) -> None:
    async def body(store: Store) -> None:
        page = Page.read(Issue, DATA)
        assert list(map(repr, page.items)) == [repr(Issue.read(row)) for row in DATA]
        await store.receive(Delivery(page.items, 1.0))
        assert await labels(store.engine, ONE) == [
            Label("7", name="bug", color="red"),
            Label("8", name="doc", color=None),
        ]
        assert await labels(store.engine, Issue.ref("3")) == []
        assert await labels(store.engine, Issue.ref("4")) == [Label("9")]  # its row is invalid, and exists
        assert [one.id for one in await store.engine.query(Issue).all()] == ["1", "2", "3", "4"]

    using(place, body, SCHEMA)


def test_members_may_be_ids_alone() -> None:
    issue = Issue.read({"id": 1, "title": "a", "labels": [7, "8", 7]})
    assert issue.labels == [Label.ref("7"), Label.ref("8")]
