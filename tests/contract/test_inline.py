"""Inline collections: rows that name their members themselves."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.connecting import Entity, Field, Many, Page, Ref, Schema
from max.core import Engine
from max.errors import FieldNotLoaded, UsageError
from max.model.columns import encode_one, id_lists
from max.model.delivery import DeletionScope, Delivery
from max.model.entities import ManyOf, find_field
from max.model.query import Query
from max.storage.sqlite import MEMORY
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


def test_a_field_of_members_is_no_value_of_the_row_and_the_error_says_where_it_is() -> None:
    with pytest.raises(UsageError, match="labels is a collection; query Label instead or write HAS"):
        Query(Issue).where("labels.name = bug")
    for path in ("labels.name", "LABELS.color"):
        with pytest.raises(UsageError, match=r"labels is a collection; query Label instead$"):
            find_field(Issue, path)


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


def test_a_removed_row_that_returns_without_its_list_names_no_member(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([Issue("1", title="a", labels=[BUG])], 1.0))
        await store.receive(Delivery([], 2.0, removed=[ONE]))
        assert await labels(store.engine, ONE) == []
        await store.receive(Delivery([Issue("1", title="b")], 3.0))
        assert await store.engine.query(Issue).all() == [Issue("1", title="b")]
        assert await labels(store.engine, ONE) == []
        await store.receive(Delivery([Issue("1", labels=[BUG])], 4.0))
        assert await labels(store.engine, ONE) == [BUG]

    using(place, body, SCHEMA)


def test_a_removed_member_is_not_shown_and_returns_to_the_rows_that_name_it(place: str) -> None:
    async def body(store: Store) -> None:
        await store.receive(Delivery([Issue("1", labels=[BUG, DOC])], 1.0))
        await store.receive(Delivery([], 2.0, removed=[Label.ref("7")]))
        assert await labels(store.engine, ONE) == [DOC]
        assert await store.engine.query(Issue).where("labels HAS 7").all() == []
        await store.receive(Delivery([BUG], 3.0))
        assert await labels(store.engine, ONE) == [BUG, DOC]

    using(place, body, SCHEMA)


def test_a_member_is_missing_once_no_row_names_it_and_until_one_does(place: str) -> None:
    async def body(store: Store) -> None:
        async def missing(*ids: str) -> list[bool]:
            return [await store.meta.is_pending_removal(Label.ref(id)) for id in ids]

        await store.receive(Delivery([Issue("1", labels=[BUG, DOC]), Issue("2", labels=[DOC])], 2.0))
        await store.receive(Delivery([Issue("1", labels=[])], 3.0))
        assert await missing("7", "8") == [True, False]
        await store.receive(Delivery([Issue("2", labels=[Label("7")])], 4.0))
        assert await missing("7", "8") == [False, True]
        await store.receive(Delivery([Issue("1", labels=[Label("9", name="of an older list")])], 1.0))
        assert await missing("7", "9") == [False, True]

    using(place, body, SCHEMA)


def test_of_two_values_of_a_member_in_one_response_the_later_counts_and_an_item_counts_most(
    place: str,
) -> None:
    async def body(store: Store) -> None:
        one, two = Label("7", name="a", color="red"), Label("7", name="b")
        await store.receive(Delivery([Issue("1", labels=[one]), Issue("2", labels=[two, two])], 1.0))
        assert await labels(store.engine, TWO) == [Label("7", name="b", color="red")]
        await store.receive(Delivery([Label("7", name="item"), Issue("1", labels=[one])], 2.0))
        assert await labels(store.engine, TWO) == [Label("7", name="item", color="red")]

    using(place, body, SCHEMA)


def test_a_thousand_members_are_kept_in_their_order_and_paged_through(place: str) -> None:
    async def body(store: Store) -> None:
        many = [Label(str(n), name=f"label {n}") for n in range(1_000, 0, -1)]
        await store.receive(Delivery([Issue("1", labels=many)], 1.0))
        found: list[Label] = []
        after: str | None = None
        while not found or after is not None:
            page = await store.engine.load_collection(ONE, Issue.labels, after=after, limit=300)
            found, after = [*found, *page.items], page.cursor
        assert found == many

    using(place, body, SCHEMA)


def test_an_invalid_list_costs_its_row_and_an_invalid_member_costs_the_member_alone(place: str) -> None:
    async def body(store: Store) -> None:
        lists: list[Any] = [[BUG, "", 5], "bug"]
        rows = [Issue(str(n), title="a", labels=wrong) for n, wrong in enumerate(lists, 1)]
        rows.append(Issue("3", labels=[Label("8", name=cast(Any, 5))]))
        result = await store.receive(Delivery(rows, 1.0))
        assert result.quarantined == 3
        assert [one.id for one in await store.engine.query(Issue).all()] == ["3"]
        assert await labels(store.engine, Issue.ref("3")) == [Label("8")]

    using(place, body, SCHEMA)


@pytest.mark.usefixtures("either")
@given(
    st.permutations(range(1, 7)).flatmap(
        lambda times: st.lists(
            st.tuples(st.sampled_from("12"), st.none() | st.lists(st.sampled_from("abcd"), max_size=4)),
            min_size=1,
            max_size=6,
        ).map(lambda said: list(zip(times, said, strict=False)))
    )
)
def test_whatever_the_order_of_the_responses_members_are_those_of_the_latest_list(
    said: list[tuple[int, tuple[str, list[str] | None]]],
) -> None:
    """Each response says of one issue which labels it has, or nothing of them."""

    async def body(store: Store) -> None:
        for at, (id, ids) in said:
            named = {} if ids is None else {"labels": [Label(one, name=f"{one}{at}") for one in ids]}
            await store.receive(Delivery([Issue(id, title=f"at {at}", **named)], float(at)))
        due: dict[str, list[str]] = {}
        for _, (id, ids) in sorted(said, key=itemgetter(0)):
            due |= {} if ids is None else {id: list(dict.fromkeys(ids))}
        for id in {id for _, (id, _) in said}:
            assert [one.id for one in await labels(store.engine, Issue.ref(id))] == due.get(id, [])
        for label in "abcd":
            rows = await store.engine.query(Issue).where(f"labels HAS {label}").all()
            assert {one.id for one in rows} == {id for id, ids in due.items() if label in ids}
            pending = await store.meta.is_pending_removal(Label.ref(label))
            came = any(label in (ids or ()) for _, (_, ids) in said)
            assert pending == (came and not any(label in ids for ids in due.values()))

    using(MEMORY, body, SCHEMA)


@given(st.lists(st.lists(st.text('aé"\\\n\x7f\0', max_size=3), max_size=4), max_size=4))
def test_lists_of_ids_are_stored_by_column_as_one_by_one(column: list[list[str]]) -> None:
    holds = Issue.types()["labels"]
    stored = id_lists(column)
    assert stored is None or stored == [encode_one(holds, one) for one in column]
    plain = [[f"id-{len(one)}"] for one in column]
    assert not column or id_lists(plain) == [f'["id-{len(one)}"]' for one in column]


# -- with what goes


class Player(Entity):
    """Whom squads list, and whom matches name."""

    name: Field[str] = Field("the name")


class Match(Entity):
    """A match, which names its players."""

    players: Many[Player] = Many("who plays", inline="players")


class Squad(Entity):
    """A squad, whose players are listed."""

    players: Many[Player] = Many("who belongs to it")


class League(Entity):
    """A league of squads."""

    squads: Many[Squad] = Many("its squads")
    matches: Many[Match] = Many("its matches")


def test_a_parent_stays_with_a_member_that_may_be_elsewhere_though_as_many_others_go(place: str) -> None:
    """The squad a goes, and who only the match named; who left b in the second look may be elsewhere."""
    collections = ("League.squads", "League.matches", "Squad.players")
    all_matches: ManyOf[Any, Any] = League.matches
    a, b, league = Squad("a"), Squad("b"), League.ref("1")

    async def body(store: Store) -> tuple[dict[str, tuple[int, int]], ...]:
        async def look(at: float, squads: list[Squad], matches: list[Match], *of_b: Player) -> None:
            await store.page(league, League.squads, *squads, at=at)
            await store.page(league, all_matches, *matches, at=at)
            await store.page(b.ref("b"), Squad.players, *of_b, at=at)

        async def found(since: float, look: float) -> dict[str, tuple[int, int]]:
            scope = DeletionScope(collections, (), since, look)
            return {
                one.entity: (one.missing, one.proven) for one in await store.meta.deletion_candidates(scope)
            }

        mover, named = Player("mover", name="x"), Player("named", name="y")
        await store.engine.store(League("1"))
        await look(10.0, [a, b], [Match("1", players=[named])], mover)
        await store.page(a.ref("a"), Squad.players, mover, at=10.0)
        await look(20.0, [b], [], mover)
        database = store.engine._database  # type: ignore[attr-defined]  # the store's own
        await database.transact(store.meta.prepare_look(DeletionScope(collections, (), 15.0, 40.0)))
        await look(50.0, [b], [])
        first = await found(15.0, 40.0)
        await database.transact(store.meta.prepare_look(DeletionScope(collections, (), 60.0, 80.0)))
        await look(90.0, [b], [])
        return first, await found(60.0, 80.0)

    first, second = using(place, body, Schema([League, Squad, Match, Player], roots=[League]))
    assert first == {"Squad": (1, 0), "Match": (1, 0), "Player": (2, 0)}
    assert second == {"Squad": (1, 1), "Match": (1, 1), "Player": (2, 2)}
