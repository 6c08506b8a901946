"""Groups: rows counted, added up and compared, each answer held against plain Python over the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max import Query
from max.connecting import Entity, Field, Json, Ref, Schema
from max.errors import UnknownName, UsageError
from max.model.aggregate import Groups, Key, grouping, values_of_field
from max.model.delivery import Delivery
from tests.contract.places import memory_connection
from tests.sample import writer


class Person(Entity, title="name"):
    """Someone; two may have one name."""

    name: Field[str] = Field()
    boss: Field[Ref[Person] | None] = Field()


class Work(Entity):
    """Something to do, with a field of each kind."""

    state: Field[str | None] = Field()
    points: Field[int | None] = Field()
    hours: Field[float | None] = Field()
    done: Field[bool] = Field()
    due: Field[date | None] = Field()
    at: Field[datetime | None] = Field()
    tags: Field[list[str] | None] = Field()
    sizes: Field[list[int]] = Field()
    loads: Field[list[float]] = Field()
    facts: Field[Json] = Field()
    owner: Field[Ref[Person] | None] = Field()


class Total(Entity):
    """Its fields have the names of columns with results."""

    count: Field[int] = Field()
    size: Field[int] = Field()
    sum_size: Field[int] = Field()


SCHEMA = Schema([Person, Work, Total])
TABLES = writer(SCHEMA)
Ask = Callable[..., Groups[Any]]


@pytest.fixture
def connection(either: None) -> Iterator[Any]:
    with memory_connection() as connection:
        TABLES.apply(connection)
        yield connection


def store(connection: Any, *entities: Entity) -> None:
    TABLES.write(connection, Delivery(entities, requested_at=1_000.0))


def ask(connection: Any, by: Any, where: str = "", entity: Any = Work, **rest: Any) -> Groups[Any]:
    query = Query(entity).where(where, now=0.0) if where else Query(entity)
    return TABLES.groups(connection, query, grouping(entity, by, **rest))


def works(*states: str | None) -> list[Work]:
    return [Work(str(n), state=state) for n, state in enumerate(states)]


class TestCounting:
    """How many rows each group has."""

    def test_the_greatest_groups_come_first(self, connection: Any) -> None:
        store(connection, *works("todo", "done", "done", "done", "todo", "open"))
        assert list(ask(connection, "state").items()) == [("done", 3), ("todo", 2), ("open", 1)]

    def test_empty_values_are_a_group_and_values_that_are_not_loaded_another(self, connection: Any) -> None:
        store(connection, *works("todo", None, None), Work("x", points=1))
        found = ask(connection, "state")
        assert dict(found) == {"todo": 1, None: 2}
        assert (found.not_loaded, found.total) == (1, 4)
        assert {"count": 1} in found.to_dicts()

    def test_removed_rows_are_not_counted(self, connection: Any) -> None:
        store(connection, *works("todo", "todo"))
        connection.execute("UPDATE _work SET _removed_at = 5 WHERE _id = '1'")
        assert dict(ask(connection, "state")) == {"todo": 1}

    def test_the_filter_chooses_the_rows(self, connection: Any) -> None:
        store(connection, Work("1", state="a", points=1), Work("2", state="a", points=5))
        assert dict(ask(connection, "state", "points > 3")) == {"a": 1}

    def test_the_filter_may_go_through_refs_that_no_group_needs(self, connection: Any) -> None:
        store(connection, Person("1", name="Ada", boss=Person.ref("2")), Person("2", name="Bob", boss=None))
        store(connection, Work("a", state="x", points=1, owner=Person.ref("1")))
        store(connection, Work("b", state="x", points=5, owner=Person.ref("2")))
        assert dict(ask(connection, "state", "owner.name = Ada")) == {"x": 1}
        assert dict(ask(connection, "owner.name", "owner.boss.name = Bob")) == {"Ada": 1}
        assert ask(connection, (), "owner.name = Bob", sum="points").to_dicts() == [
            {"count": 1, "sum_points": 5}
        ]

    def test_a_ref_groups_by_the_id_and_a_name_behind_it_by_the_text(self, connection: Any) -> None:
        store(connection, Person("1", name="Ada"), Person("2", name="Ada"))
        store(
            connection,
            Work("a", owner=Person.ref("1")),
            Work("b", owner=Person.ref("2")),
            Work("c", owner=None),
        )
        assert dict(ask(connection, "owner")) == {Person.ref("1"): 1, Person.ref("2"): 1, None: 1}
        assert dict(ask(connection, "owner.name")) == {"Ada": 2, None: 1}

    def test_refs_have_the_titles_of_what_they_point_at(self, connection: Any) -> None:
        store(connection, Person("1", name="Ada"), Person("2", name="Ada"))
        owners = [Person.ref("1"), Person.ref("2"), None, Person.ref("gone")]
        store(connection, *[Work(str(n), owner=owner) for n, owner in enumerate(owners)])
        found = {str(one.values["owner"]): dict(one.titles) for one in ask(connection, "owner").groups}
        assert found == {
            "Person:1": {"owner": "Ada"},
            "Person:2": {"owner": "Ada"},
            "None": {},
            "Person:gone": {},
        }

    def test_a_target_that_is_not_stored_is_not_loaded_and_no_target_is_empty(self, connection: Any) -> None:
        store(connection, Work("a", owner=Person.ref("gone")), Work("b", owner=None))
        found = ask(connection, "owner.name")
        assert (dict(found), found.not_loaded) == ({None: 1}, 1)

    def test_a_path_may_go_through_several_refs(self, connection: Any) -> None:
        store(connection, Person("1", name="Ada", boss=Person.ref("2")), Person("2", name="Bob", boss=None))
        store(connection, Work("a", owner=Person.ref("1")), Work("b", owner=Person.ref("2")))
        assert dict(ask(connection, "owner.boss.name")) == {"Bob": 1, None: 1}

    def test_several_fields_make_tuples(self, connection: Any) -> None:
        store(connection, Work("a", state="x", done=True), Work("b", state="x", done=False))
        assert dict(ask(connection, "state,done")) == {("x", False): 1, ("x", True): 1}
        assert ask(connection, [Work.state, "done"]).keys() == {("x", False), ("x", True)}

    def test_values_have_the_types_of_their_fields(self, connection: Any) -> None:
        at = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
        store(connection, Work("a", done=True, due=date(2026, 1, 31), at=at, hours=0.5, points=2**62))
        for name, value in {
            "done": True,
            "due": date(2026, 1, 31),
            "at": at,
            "hours": 0.5,
            "points": 2**62,
        }.items():
            (found,) = ask(connection, name)
            assert (found, type(found)) == (value, type(value))

    def test_a_field_named_count_leaves_the_number_another_name(self, connection: Any) -> None:
        store(connection, Total("1", count=7), Total("2", count=7))
        assert ask(connection, "count", entity=Total).to_dicts() == [{"count": 7, "_count": 2}]

    def test_a_field_named_as_a_result_is_not_grouped_by_beside_it(self) -> None:
        with pytest.raises(UsageError, match="sum_size would be two columns"):
            grouping(Total, "sum_size", sum="size")

    def test_without_rows_there_is_no_group(self, connection: Any) -> None:
        assert ask(connection, "state").to_json() == {"groups": [], "total": 0, "more": 0, "moreRows": 0}


class TestLists:
    """Members of lists."""

    def test_a_row_is_in_the_group_of_each_different_member(self, connection: Any) -> None:
        store(connection, Work("1", tags=["a", "b", "a"]), Work("2", tags=["a"]), Work("3", tags=[]))
        found = ask(connection, "tags:each")
        assert dict(found) == {"a": 2, "b": 1, None: 1}
        assert found.total == 3

    def test_members_keep_their_type(self, connection: Any) -> None:
        store(connection, Work("1", sizes=[3, 3, -1]))
        assert dict(ask(connection, "sizes:each")) == {3: 1, -1: 1}

    def test_members_are_whole_numbers_of_any_size_and_floats_with_all_digits(self, connection: Any) -> None:
        great, floats = 10**30 + 1, [0.1 + 0.2, 1.7976931348623157e308, 5e-324, -0.0, 0.0]
        store(
            connection,
            Work("1", sizes=[great, great, -great, 3], loads=floats),
            Work("2", sizes=[3], loads=[0]),
        )
        assert dict(ask(connection, "sizes:each")) == {3: 2, great: 1, -great: 1}
        assert dict(ask(connection, "loads:each")) == {0.0: 2, **dict.fromkeys(floats[:3], 1)}

    def test_a_sum_counts_a_row_once_a_member(self, connection: Any) -> None:
        store(connection, Work("1", tags=["a", "a"], points=2), Work("2", tags=["a"], points=3))
        assert ask(connection, "tags:each", sum="points").to_dicts() == [
            {"tags:each": "a", "count": 2, "sum_points": 5}
        ]

    def test_a_list_that_is_not_loaded_is_apart(self, connection: Any) -> None:
        store(connection, Work("1", tags=None), Work("2", state="x"))
        found = ask(connection, "tags:each")
        assert (dict(found), found.not_loaded) == ({None: 1}, 1)

    def test_a_whole_list_is_refused_with_what_to_write(self) -> None:
        with pytest.raises(UsageError, match="tags holds") as refused:
            grouping(Work, "tags")
        assert refused.value.hint == "count by its members: tags:each"

    @pytest.mark.parametrize("text", ["facts", "facts:each", "state:each", "owner:each"])
    def test_what_has_no_members_that_can_be_counted_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError):
            grouping(Work, text)

    def test_values_of_a_list_are_its_members(self, connection: Any) -> None:
        store(connection, Work("1", tags=["a", "b"]))
        found = TABLES.groups(connection, Query(Work), values_of_field(Work, "tags"))
        assert dict(found) == {"a": 1, "b": 1}


class TestTimes:
    """Units of times."""

    def test_they_come_in_their_own_order_with_empty_ones_last(self, connection: Any) -> None:
        days = [date(2026, 2, 1), date(2026, 1, 5), date(2026, 2, 9), None]
        store(connection, *[Work(str(n), due=day) for n, day in enumerate(days)])
        assert list(ask(connection, "due:month").items()) == [("2026-01", 1), ("2026-02", 2), (None, 1)]

    def test_the_top_of_them_are_the_most_frequent(self, connection: Any) -> None:
        days = [date(2026, 2, 1), date(2026, 1, 5), date(2026, 2, 9)]
        store(connection, *[Work(str(n), due=day) for n, day in enumerate(days)])
        assert list(ask(connection, "due:month", top=1).items()) == [("2026-02", 2)]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [("state:month", "takes a time"), ("due:hour", "no hours"), ("due:fortnight", "unknown unit")],
    )
    def test_a_unit_that_the_field_does_not_have_is_refused(self, text: str, problem: str) -> None:
        with pytest.raises((UsageError, UnknownName), match=problem):
            grouping(Work, text)

    def test_python_writes_units_as_methods(self) -> None:
        assert Work.at.per("month") == Key(Work.at, "month")
        assert Work.tags.each() == Key(Work.tags, "each")


class TestMeasures:
    """Sums, averages and extremes."""

    def test_they_stand_beside_the_count(self, connection: Any) -> None:
        store(
            connection, Work("1", state="a", points=1, hours=0.5), Work("2", state="a", points=4, hours=None)
        )
        (found,) = ask(
            connection, "state", sum="points,hours", avg="points", min="points", max="points"
        ).to_dicts()
        measures = {"sum_points": 5, "sum_hours": 0.5, "avg_points": 2.5, "min_points": 1, "max_points": 4}
        assert found == {"state": "a", "count": 2, **measures}

    def test_groups_can_be_sorted_by_sums_beyond_64_bits(self, connection: Any) -> None:
        numbers = {"a": [-(2**63)] * 3, "b": [2**63 - 1] * 2, "c": [2**63 - 1, 2**63 - 2], "d": [-1]}
        rows = [(state, number) for state, all_of in numbers.items() for number in all_of]
        store(connection, *[Work(str(n), state=s, points=p) for n, (s, p) in enumerate(rows)])
        assert list(ask(connection, "state", sum="points", order_by="-sum_points")) == ["b", "c", "d", "a"]
        assert list(ask(connection, "state", sum="points", order_by="sum_points:asc")) == ["a", "d", "c", "b"]

    def test_extremes_have_the_types_of_their_fields(self, connection: Any) -> None:
        store(connection, *[Work(str(n), due=date(2026, 1, n)) for n in (3, 1, 2)])
        (found,) = ask(connection, [], min="due", max="due").groups
        assert found.measures == {"min_due": date(2026, 1, 1), "max_due": date(2026, 1, 3)}

    def test_nothing_to_add_up_is_null_and_comes_last(self, connection: Any) -> None:
        store(connection, Work("1", state="a", points=None), Work("2", state="b", points=-3))
        found = ask(connection, "state", sum="points", order_by="sum_points")
        assert [one.measures["sum_points"] for one in found.groups] == [-3, None]
        found = ask(connection, "state", sum="points", order_by="-sum_points")
        assert [one.measures["sum_points"] for one in found.groups] == [-3, None]

    def test_a_sum_that_no_float_holds_is_an_error(self, connection: Any) -> None:
        store(connection, Work("1", hours=1.7e308), Work("2", hours=1.7e308))
        with pytest.raises(UsageError, match="sum_hours: the values add up to more"):
            ask(connection, [], sum="hours")

    def test_an_average_needs_no_more_room_than_the_sum(self, connection: Any) -> None:
        store(connection, Work("1", hours=1e160), Work("2", hours=0.5), Work("3", state="none", hours=None))
        (found,) = ask(connection, [], sum="hours", avg="hours").groups
        assert found.measures == {"sum_hours": 1e160, "avg_hours": 5e159}
        (found,) = ask(connection, [], "state = none", avg="hours").groups
        assert found.measures == {"avg_hours": None}

    @pytest.mark.parametrize(
        ("function", "field"),
        [
            ("sum", "state"),
            ("avg", "due"),
            ("sum", "done"),
            ("min", "owner"),
            ("max", "tags"),
            ("min", "done"),
        ],
    )
    def test_a_field_without_the_measure_is_refused_by_name(self, function: str, field: str) -> None:
        measures: dict[str, Any] = {function: field}
        with pytest.raises(UsageError, match=f"{field} holds .*; {function} takes"):
            grouping(Work, [], **measures)

    def test_a_measure_may_go_through_a_ref(self, connection: Any) -> None:
        store(connection, Person("1", name="Ada"), Person("2", name="Bob"))
        store(connection, *[Work(str(n), owner=Person.ref(str(n))) for n in (1, 2)])
        assert ask(connection, [], max="owner.name").groups[0].measures == {"max_owner.name": "Bob"}


class TestTheCut:
    """The groups that are shown, and those that are not."""

    def test_groups_that_are_equal_at_the_cut_stay(self, connection: Any) -> None:
        store(connection, *works("a", "a", "a", "b", "b", "c", "c", "d"))
        found = ask(connection, "state", top=2)
        assert list(found.items()) == [("a", 3), ("b", 2), ("c", 2)]
        assert (found.total, found.more, found.more_rows) == (8, 1, 1)

    @pytest.mark.parametrize("top", [1, 2, 9])
    def test_rows_without_a_value_are_counted_wherever_the_cut_is(self, connection: Any, top: int) -> None:
        store(connection, *works("a", "a", "a", "b", "b", None), Work("x", points=1))
        found = ask(connection, "state", top=top)
        assert (found.empty, found.not_loaded) == (1, 1)

    def test_ties_are_those_of_the_order(self, connection: Any) -> None:
        store(connection, *works("a", "b", "c"))
        assert list(ask(connection, "state", order_by="-state", top=2)) == ["c", "b"]

    @pytest.mark.parametrize("top", [0, -1, True, "2"])
    def test_top_is_a_whole_number_from_1(self, top: Any) -> None:
        with pytest.raises(UsageError, match="top is a whole number"):
            grouping(Work, "state", top=top)

    def test_an_unknown_column_names_the_nearest(self) -> None:
        with pytest.raises(UnknownName, match="sum_point") as unknown:
            grouping(Work, "state", sum="points", order_by="sum_point")
        assert "sum_points" in str(unknown.value.hint)


FIELDS = {
    "state": st.sampled_from(["a", "b", None]),
    "points": st.sampled_from([None, 0, 1, -1, 2**63 - 1]),
    "done": st.booleans(),
    "due": st.sampled_from([None, date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 3)]),
    "owner": st.sampled_from([None, Person.ref("1"), Person.ref("2"), Person.ref("gone")]),
}
ROWS = st.lists(st.fixed_dictionaries({}, optional=FIELDS), max_size=12)
KEYS = st.lists(
    st.sampled_from(["state", "done", "due:month", "owner", "owner.name"]), max_size=3, unique=True
)
MISSING = "not loaded"
NAMES = {"1": "Ada", "2": "Ada"}


def naive(row: dict[str, Any], key: str) -> Any:
    """The value of a key as plain Python has it."""
    name, _, rest = key.replace(":", ".").partition(".")
    if name not in row:
        return MISSING
    value = row[name]
    if value is None or not rest:
        return value
    return value.isoformat()[:7] if rest == "month" else NAMES.get(value.id, MISSING)


@pytest.mark.usefixtures("either")
@given(st.datetimes(), st.sampled_from(["year", "quarter", "month", "week", "day", "hour"]))
def test_a_unit_is_the_calendars(moment: datetime, unit: str) -> None:
    year, week, _ = moment.isocalendar()
    day = moment.date().isoformat()
    expected = {
        "year": day[:4],
        "quarter": f"{day[:4]}-Q{(moment.month + 2) // 3}",
        "month": day[:7],
        "week": f"{year:04}-W{week:02}",
        "day": day,
        "hour": f"{day}T{moment.hour:02}",
    }[unit]
    with memory_connection() as connection:
        sql = f"SELECT {connection.dialect.truncated('t', unit)} FROM (SELECT CAST(? AS TEXT) AS t) AS given"
        assert connection.execute(sql, (moment.isoformat(),)).fetchone() == (expected,)
        if unit != "hour":
            assert connection.execute(sql, (day,)).fetchone() == (expected,)


@pytest.mark.usefixtures("either")
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
def test_a_sum_of_integers_is_exact_beyond_64_bits(numbers: list[int]) -> None:
    with memory_connection() as connection:
        TABLES.apply(connection)
        store(connection, *[Work(str(n), points=number) for n, number in enumerate(numbers)])
        assert ask(connection, [], sum="points").groups[0].measures == {"sum_points": sum(numbers)}


@pytest.mark.usefixtures("either")
@given(ROWS, KEYS, st.integers(1, 5))
def test_groups_are_those_of_plain_python(rows: list[dict[str, Any]], keys: list[str], top: int) -> None:
    with memory_connection() as connection:
        TABLES.apply(connection)
        store(connection, *[Person(id, name=name) for id, name in NAMES.items()])
        if rows:
            store(connection, *[Work(str(n), **row) for n, row in enumerate(rows)])
        found = ask(connection, keys, sum="points", top=top)
    expected = Counter(tuple(naive(row, key) for key in keys) for row in rows)
    counts = sorted(expected.values(), reverse=True)
    least = counts[min(top, len(counts)) - 1] if counts else 0
    kept = {values: n for values, n in expected.items() if n >= least}
    assert {
        tuple(one.values.get(key, MISSING) for key in keys): one.count for one in found.groups if one.count
    } == kept
    assert (found.total, found.more) == (len(rows), len(expected) - len(kept))
    for one in found.groups:
        group = tuple(one.values.get(key, MISSING) for key in keys)
        points = [r.get("points") for r in rows if tuple(naive(r, key) for key in keys) == group]
        numbers = [p for p in points if p is not None]
        assert one.measures["sum_points"] == (sum(numbers) if numbers else None)
