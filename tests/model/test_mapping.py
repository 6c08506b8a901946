"""Mapping: how a service's data becomes entities, one by one and page by page."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import SchemaError
from max.model.columns import encode_one
from max.model.constructors import write_constructor
from max.model.delivery import Delivery, WriteResult
from max.model.entities import LOCAL, Entity, Field, FieldOf, Many, Ref, values_of
from max.model.loaders import Loader, PageRequest
from max.model.mapping import MappedRows, by_column, read_rows
from max.model.mismatches import ID_EXPECTED, check_entity
from max.model.query import Batch, Page
from max.model.schema import Schema
from max.model.values import EXPECTED, Json, Kind
from max.storage.sqlite import MEMORY
from max.sync.pagination import PageTracker, first_position
from tests.contract.places import Store, using

TEXT, NUMBER = EXPECTED[Kind.TEXT], EXPECTED[Kind.REAL]


class Person(Entity, title="name", key="login"):
    name: Field[str | None] = Field()


class Place(Entity):
    issues: Many[Report] = Many()


class Report(Entity, key="node_id"):
    title: Field[str] = Field(source="subject")
    votes: Field[int | None] = Field()
    grade: Field[float] = Field(source="stats.score")
    open: Field[bool] = Field()
    opened_at: Field[datetime] = Field()
    due: Field[date | None] = Field()
    author: Field[Ref[Person] | None] = Field(source="user.id")
    labels: Field[list[str]] = Field(source="labels.name")
    place: Field[Ref[Place]] = Field()
    shout: Field[str] = Field(source=lambda row: row["subject"].upper())


class Made(Report, key="node_id"):
    """The same, whose constructor is written as a sync has it written."""


write_constructor(Made)


class Camel(Entity):
    url_key: Field[str] = Field()
    own_name: Field[str] = Field(source="own_name")


SCHEMA = Schema([Person, Place, Report])
CAMEL = Schema([Camel], camel_case=True)
GIVEN: dict[FieldOf[Report, Any], object] = {Report.place: Place.ref("here")}


def row(**changes: Json) -> dict[str, Json]:
    """A row of data as the service sends it."""
    return {
        "node_id": 7,
        "subject": "It broke",
        "votes": 3,
        "stats": {"score": 1},
        "open": True,
        "opened_at": "2026-01-31T09:30:00.5+01:00",
        "due": "2026-02-01",
        "user": {"id": 42, "login": "ada"},
        "labels": [{"name": "bug"}, {"name": "ui"}],
    } | changes


class TestReading:
    def test_every_field_is_read_from_its_source_and_converted_by_its_type(self) -> None:
        read = Report.read(row(), GIVEN)
        assert read == Report(
            "7",
            title="It broke",
            votes=3,
            grade=1.0,
            open=True,
            opened_at=datetime(2026, 1, 31, 8, 30, 0, 500_000, tzinfo=UTC),
            due=date(2026, 2, 1),
            author=Person.ref("42"),
            labels=["bug", "ui"],
            place=Place.ref("here"),
            shout="IT BROKE",
        )
        assert check_entity(read) == []

    def test_a_page_has_the_records_that_are_read_one_by_one(self) -> None:
        rows = [row(), row(node_id="8", user=None, votes=None), row(node_id=9, subject=5)]
        page = Page.read(Report, rows, GIVEN, next="2", size=3, total=9)
        assert repr([*page.items]) == repr([Report.read(one, GIVEN) for one in rows])
        assert page.items[:2] == [Report.read(one, GIVEN) for one in rows[:2]]
        assert (page.next, page.size, page.total) == ("2", 3, 9)
        assert Batch.read(Report, rows[:2], GIVEN).items == page.items[:2]

    def test_the_default_source_is_the_name_or_its_camel_case(self) -> None:
        assert Camel.read({"id": "1", "urlKey": "a", "own_name": "b"}) == Camel(
            "1", url_key="a", own_name="b"
        )

    def test_a_ref_is_an_id_or_the_object_that_it_names(self) -> None:
        by_object = Report.read(row(user={"id": {"login": "ada"}}), GIVEN)
        assert by_object.author == Person.ref("ada")

    def test_numbers_and_truths_may_come_as_texts(self) -> None:
        read = Report.read(row(votes="12", stats={"score": "1.5"}, open="false"), GIVEN)
        assert (read.votes, read.grade, read.open) == (12, 1.5, False)

    def test_what_is_given_may_be_a_function_of_the_data(self) -> None:
        read = Report.read(row(), {**GIVEN, Report.title: lambda data: f"#{data['node_id']}"})
        assert read.title == "#7"

    def test_only_some_fields_are_read_if_they_are_named(self) -> None:
        assert Report.read({"node_id": "1", "subject": "x"}, fields=[Report.title]) == Report("1", title="x")

    def test_a_field_of_another_entity_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"Person.name is not a field of Report"):
            Page.read(Report, [row()], {Person.name: "x"})  # type: ignore[misc]


class TestWhatCannotBeRead:
    @pytest.mark.parametrize(
        ("changes", "wrong"),
        [
            (
                {"subject": 5, "votes": "x"},
                f"Report:7.title: expected {TEXT}, from subject, got 5",
            ),
            ({"votes": "1x"}, "Report:7.votes: expected an integer of at most 64 bits, or null, got '1x'"),
            (
                {"stats": {}},
                f"Report:7.grade: expected {NUMBER}, from stats.score, got nothing",
            ),
            ({"stats": 5}, "Report:7.grade: expected an object with score, from stats.score, got 5"),
            (
                {"user": {"id": True}},
                "Report:7.author: expected a ref to Person, or null, from user.id, got True",
            ),
            (
                {"labels": [{"name": "a"}, {}]},
                "Report:7.labels[1]: expected text that UTF-8 can encode, got null",
            ),
            (
                {"node_id": None},
                f"Report:None.id: expected {ID_EXPECTED}, got null",
            ),
        ],
    )
    def test_it_says_where_the_data_has_it_and_what_came(self, changes: dict[str, Json], wrong: str) -> None:
        assert str(check_entity(Report.read(row(**changes), GIVEN))[0]) == wrong

    def test_a_function_that_raises_makes_its_row_invalid(self) -> None:
        (wrong,) = check_entity(Report.read(row(), {**GIVEN, Report.title: lambda data: data["a"]}))
        assert wrong.path == "Report:7.title"
        assert "KeyError" in wrong.actual

    def test_what_the_data_lacks_is_empty_where_that_is_allowed(self) -> None:
        less = {name: value for name, value in row().items() if name not in ("user", "votes", "due")}
        read = Report.read(less, GIVEN)
        assert (read.author, read.votes, read.due) == (None, None, None)
        assert check_entity(read) == []

    def test_a_row_that_is_no_object_has_no_id(self) -> None:
        page = Page.read(Report, [None, "x"], GIVEN)
        assert [check_entity(one)[0].path for one in page.items] == ["Report:nothing.id", "Report:x.id"]

    @pytest.mark.parametrize("source", ["", "a..b", 7])
    def test_a_source_that_is_no_path_and_no_function_is_refused(self, source: Any) -> None:
        with pytest.raises(SchemaError, match=r"Odd\.field has the source"):
            type("Odd", (Entity,), {"field": Field(source=source)})


class TestBrings:
    def test_an_entity_means_all_its_fields(self) -> None:
        async def load(parent: Ref[Place], request: PageRequest, env: Any) -> Page[Report]:
            raise NotImplementedError

        everything: set[FieldOf[Any, Any]] = {FieldOf(Report, name) for name in Report.types()}
        alone = Loader.collection(Place.issues, brings=Report)(load)
        listed = Loader.collection(Place.issues, brings=[Report, Person.name])(load)
        assert set(alone.brings) == everything
        assert set(listed.brings) == everything | {Person.name}


ODD: list[Json] = [
    *(
        None,
        True,
        False,
        0,
        7,
        -1,
        2**70,
        1.5,
        3.0,
        float("nan"),
        "",
        "x",
        "7",
        "1.5",
        "true",
        "NaN",
        "\ud800",
    ),
    *(
        "a\0b",
        "2026-01-31",
        "2026-01-31T09:30:00Z",
        "2026-01-31T09:30:00.250Z",
        "2026-01-31T09:30:00",
        [],
        {},
    ),
    *(["a"], [{"name": "bug"}], [{"name": None}], [None], {"id": 5}, {"id": "x"}, {"score": 2}, {"id": None}),
    {"id": {"login": "ada"}},
]
NAMES = ["subject", "votes", "stats", "open", "opened_at", "due", "user", "labels"]
CHANGES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD), max_size=3)


def rows_one_by_one(rows: list[dict[str, Json]]) -> tuple[list[str], list[tuple[Any, ...]], list[str]]:
    """The ids and stored values of the valid rows, and the ids of the others: each read alone."""
    types, read = Report.types(), [Report.read(one, GIVEN) for one in rows]
    valid = [one for one in read if not check_entity(one)]
    stored = [tuple(encode_one(types[n], values_of(one)[n]) for n in types) for one in valid]
    return [one.id for one in valid], stored, [one.id for one in read if check_entity(one)]


@given(st.lists(st.tuples(CHANGES, st.sets(st.sampled_from(NAMES), max_size=2)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_p13_reading_by_column_gives_what_reading_one_by_one_gives(
    changes: list[tuple[dict[str, Json], set[str]]],
) -> None:
    rows = [
        {name: value for name, value in row(node_id=at, **new).items() if name not in lacks}
        for at, (new, lacks) in enumerate(changes)
    ]
    ids, stored, invalid = rows_one_by_one(rows)
    read, wrong = read_rows(Report, rows, GIVEN, None).encoded()
    columns = dict(zip(read.names, read.columns, strict=True))
    assert read.ids == ids
    assert list(zip(*(columns[name] for name in Report.types()), strict=True)) == stored
    assert [one.id for one in wrong] == invalid


GOOD = {
    "title": "It broke",
    "votes": None,
    "grade": 1,
    "open": True,
    "opened_at": datetime(2026, 1, 31, 8, 30, tzinfo=UTC),
    "due": date(2026, 2, 1),
    "author": Person.ref("42"),
    "labels": ["bug"],
    "place": Place.ref("here"),
    "shout": "IT",
}
WRONG_REFS = [Person.ref(""), Place.ref("b").within("other"), Ref(Person, cast("str", 5)), Place("7")]
ONE_CHANGE = st.tuples(st.sampled_from([*GOOD]), st.sampled_from([*ODD, *GOOD.values(), *WRONG_REFS]))
RECORDS = st.lists(st.tuples(st.sampled_from(["7", "8", ""]), st.lists(ONE_CHANGE, max_size=2)), max_size=5)


@given(RECORDS, st.sets(st.sampled_from([*GOOD])))
@settings(max_examples=200, deadline=None)
def test_p13_made_entities_are_the_same_by_column_and_one_by_one(
    changes: list[tuple[str, list[tuple[str, Any]]]], lacks: set[str]
) -> None:
    names = [name for name in GOOD if name not in lacks]
    made = [Made(id, **{name: {**GOOD, **dict(some)}[name] for name in names}) for id, some in changes]
    rows = by_column(made)
    assert isinstance(rows, MappedRows) == (made != [] and all(map(has_plain_refs, made)))
    assert rows == made
    if isinstance(rows, MappedRows):
        encoded, wrong = rows.encoded()
        types, valid = Made.types(), [one for one in made if not check_entity(one)]
        assert wrong == [one for one in made if check_entity(one)]
        assert (set(encoded.names), encoded.ids) == (set(names), [one.id for one in valid])
        assert [list(column) for column in encoded.columns] == [
            [encode_one(types[name], values_of(one)[name]) for one in valid] for name in encoded.names
        ]


def has_plain_refs(item: Made) -> bool:
    """Whether each field of refs has what a connector should put there, but for the id."""
    refs = [(values_of(item).get(name), to) for name, to in (("author", Person), ("place", Place))]
    return all(
        one is None
        or (isinstance(one, Ref) and one.entity is to and one.scope == LOCAL and isinstance(one.id, str))
        for one, to in refs
    )


@pytest.mark.parametrize(
    "made",
    [
        [Made("7", title="a"), Made("8", votes=1)],
        [Made("7", title="a"), Made("8", title="b", votes=1)],
        [Made(cast("str", 7)), Made("8")],
        [Made("7"), Person("7")],
        [Made("7", author=cast("Ref[Person]", "ada")), Made("8", author=Person.ref("ada"))],
        [Made.read(row()), Made.read(row())],
    ],
)
def test_entities_that_differ_or_hold_something_unusual_stay_as_they_are(made: list[Entity]) -> None:
    assert by_column(made) is made


VALID: dict[str, Any] = {  # of each source the odd values that its field takes, and nothing else
    "votes": lambda v: v in (None, "", "7") or (type(v) in (int, float) and v in (0, 7, -1, 3.0)),
    "open": lambda v: type(v) is bool or v == "true",
    "due": lambda v: v in (None, "", "2026-01-31"),
    "opened_at": lambda v: isinstance(v, str) and v.endswith("Z"),
}


@pytest.mark.parametrize("name", VALID)
def test_p13_a_row_is_invalid_exactly_if_a_naive_reader_says_so(name: str) -> None:
    for value in ODD:
        wrong = check_entity(Report.read(row(**{name: value}), GIVEN))
        assert (wrong == []) == bool(VALID[name](value)), (name, value)


class TestStoring:
    def test_an_invalid_row_is_kept_aside_and_the_rest_of_its_page_is_stored(self) -> None:
        async def body(store: Store) -> tuple[WriteResult, list[str]]:
            page = Page.read(Report, [row(), row(node_id=8, votes="many"), row(node_id=9)], GIVEN)
            place = Place("here")
            await store.engine.store(place)
            found = await store.page(Ref.of(place), Place.issues, *page.items)
            read = await store.receive(Delivery(page.items, 101.0))
            assert (read.quarantined, read.counts) == (1, {"Report": 2})
            return found, [one.id for one in await store.engine.query(Report).order_by(Report.id).all()]

        written, ids = using(MEMORY, body, SCHEMA)
        assert (written.quarantined, ids) == (1, ["7", "9"])

    def test_of_rows_with_one_id_the_last_counts(self) -> None:
        async def body(store: Store) -> list[Report]:
            page = Page.read(Report, [row(), row(node_id=8), row(votes=5)], GIVEN)
            assert (await store.receive(Delivery(page.items, 1.0))).counts == {"Report": 2}
            return await store.engine.query(Report).order_by(Report.id).all()

        first, second = using(MEMORY, body, SCHEMA)
        assert (first.id, first.votes, second.votes) == ("7", 5, 3)

    def test_a_listing_with_a_row_without_an_id_is_not_proven(self) -> None:
        tracker = PageTracker("reports", first_position(None))
        tracker.begin(1.0)
        tracker.take(Page.read(Report, [row(), row(node_id=None)], GIVEN))
        assert tracker.position.nameless
        assert not tracker.is_proven(1)
