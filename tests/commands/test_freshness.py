"""How old things are: in filters, as max freshness tells it, and once they were invalidated."""

from __future__ import annotations

import json
import operator
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max import Query
from max.cli import main
from max.commands.text import first_few, short_age
from max.connecting import Entity, Field, Many, Ref, Schema
from max.errors import UsageError
from max.model.delivery import AgeHistogram, Delivery, ListingPage
from max.model.entities import FieldOf, Filter, Op, Synced
from max.query.ages import quantile
from max.storage.leases import new_worker
from max.storage.sqlite import SqliteConnection
from max.storage.tables import Tables
from tests.command_line import Run


class Person(Entity):
    """Someone."""

    name: Field[str] = Field()
    age: Field[int | None] = Field()
    score: Field[float | None] = Field()
    boss: Field[Ref[Person] | None] = Field()


class Team(Entity):
    """Lists people."""

    people: Many[Person] = Many()


SCHEMA = Schema([Person, Team], roots=[Team])
IDS, NAMES = "abc", tuple(Person.types())
RED = Team.ref("red")
VALUES: dict[str, Any] = {"name": "x", "age": None, "score": 1.0, "boss": None}
Seen = dict[str, dict[str, float | None]]


def parts(entity: type[Entity]) -> Sequence[tuple[str, ...]]:
    """A person's score comes alone."""
    together = tuple(name for name in entity.types() if name != "score")
    return [together, ("score",)] if entity is Person else [together]


class Place:
    """Tables, and a clock that every step moves."""

    def __init__(self, connection: SqliteConnection) -> None:
        self.connection, self.tables, self.now = connection, Tables(SCHEMA, parts), 100.0
        self.tables.apply(connection)
        self.tables.write(connection, Delivery([Team("red")], 1.0), dated=False)

    def write(self, people: Sequence[Person], listing: ListingPage | None = None, ago: float = 0.0) -> None:
        """An answer to a request that began some time ago."""
        self.tables.write(self.connection, Delivery(people, self.now - ago, listing))

    def synced(self) -> Seen:
        """When each field of each person was synced, asked one by one."""
        found: Seen = {}
        for person in self.tables.fetch(self.connection, Query(Person)).items:
            ref = Person.ref(person.id)
            times = self.tables.freshness.synced_at(self.connection, ref, NAMES)
            found[person.id] = dict(zip(NAMES, times, strict=True))
        return found

    def fitting(self, condition: Filter[Any]) -> set[str]:
        """Who fits a filter."""
        return {one.id for one in self.tables.fetch(self.connection, Query(Person, condition)).items}

    def ages(self) -> dict[str, AgeHistogram]:
        """How old every field of a person is."""
        layout = self.tables.layout(Person)
        return self.tables.freshness.ages(self.connection, layout, NAMES, now=self.now)


@pytest.fixture
def place() -> Iterator[Place]:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        yield Place(connection)


# -- random histories --------------------------------------------------------------------------

SUBSETS = st.sets(st.sampled_from(NAMES), min_size=1)
WHO = st.sets(st.sampled_from(IDS), min_size=1)
BOSSES = st.dictionaries(st.sampled_from(IDS), st.sampled_from([*IDS, "nobody", None]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("alone"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("late"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("page"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("refs"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("where"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("whole"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("gone"), WHO, SUBSETS, BOSSES),
    ),
    max_size=7,
)
Step = tuple[str, set[str], set[str], dict[str, str | None]]


def people(who: set[str], names: set[str], bosses: dict[str, str | None]) -> list[Person]:
    made = []
    for id in sorted(who):
        boss = bosses.get(id)
        values = VALUES | {"boss": None if boss is None else Person.ref(boss)}
        made.append(Person(id, **{name: values[name] for name in sorted(names)}))
    return made


def take(place: Place, step: Step) -> None:
    """Let one thing happen, at a time of its own."""
    kind, who, names, bosses = step
    place.now += 10.0
    tables, connection, at = place.tables, place.connection, place.now
    if kind in ("alone", "late"):
        place.write(people(who, names, bosses), ago=15.0 if kind == "late" else 0.0)
    elif kind == "page":
        place.write(people(who, names, bosses), ListingPage(RED, Team.people, 0, last=True, began_at=at))
    elif kind == "refs":
        refs = [Person.ref(id) for id in sorted(who)]
        tables.record(connection, refs, sorted(names), synced_at=None, recorded_at=at)
    elif kind == "where":
        query = Query(Person, Person.id.is_in(who) & Person.name.synced_since(at - 25.0))
        tables.invalidate(connection, query, sorted(names), at=at)
    elif kind == "whole":
        tables.invalidate(connection, Query(Person), sorted(names), at=at)
    else:
        arrival = Delivery([], at, removed=[Person.ref(id) for id in sorted(who)])
        tables.write(connection, arrival)


COMPARED: dict[Op, Callable[[float, float], bool]] = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
}


def known(at: float | None) -> float:
    return -float("inf") if at is None else at


@given(STEPS, st.sampled_from(NAMES), st.sampled_from(list(COMPARED)), st.integers(9, 18))
@settings(deadline=None, max_examples=150)
def test_an_age_in_a_filter_agrees_with_the_time_of_each_field(
    steps: list[Step], name: str, op: Op, moment: int
) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        at, field = moment * 10.0, FieldOf[Person, Any](Person, name)
        expected = {id for id, seen in place.synced().items() if COMPARED[op](known(seen[name]), at)}
        assert place.fitting(Synced(field.path, op, at)) == expected
        assert place.fitting(~Synced(field.path, op, at)) == place.synced().keys() - expected


@given(STEPS, st.sampled_from(NAMES), st.sampled_from(list(COMPARED)), st.integers(9, 18))
@settings(deadline=None, max_examples=100)
def test_an_age_behind_a_ref_is_that_of_whom_it_points_at(
    steps: list[Step], name: str, op: Op, moment: int
) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        seen, at = place.synced(), moment * 10.0
        stored = {
            one.id: one._values.get("boss") for one in place.tables.fetch(connection, Query(Person)).items
        }
        expected = {
            id
            for id, boss in stored.items()
            if boss is not None and COMPARED[op](known(seen.get(boss.id, VALUES | {name: None})[name]), at)
        }
        path = Person.boss.to(FieldOf[Person, Any](Person, name)).path
        assert place.fitting(Synced(path, op, at)) == expected


@given(STEPS)
@settings(deadline=None, max_examples=150)
def test_the_ages_of_a_field_count_every_row_once_at_its_age(steps: list[Step]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        place.now += 3.5
        seen, found = place.synced(), place.ages()
        for name in NAMES:
            times = [times[name] for times in seen.values()]
            expected = Counter(float(int(place.now - at)) for at in times if at is not None)
            assert found[name].ages == sorted(expected.items())
            assert found[name].never == times.count(None)
            assert sum(rows for _, rows in found[name].ages) + found[name].never == len(seen)


@given(STEPS, SUBSETS, st.none() | WHO, st.booleans())
@settings(deadline=None, max_examples=150)
def test_what_is_invalidated_is_stale_until_it_is_asked_for_and_nothing_else_is(
    steps: list[Step], names: set[str], who: set[str] | None, again: bool
) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteConnection)) as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        before = place.synced()
        chosen = None if who is None else Person.id.is_in(who)
        count = place.tables.invalidate(connection, Query(Person, chosen), sorted(names), at=place.now)
        hit = before.keys() if who is None else before.keys() & who
        assert count == len(hit)
        expected = {
            id: {name: None if id in hit and name in names else at for name, at in times.items()}
            for id, times in before.items()
        }
        assert place.synced() == expected
        if again and before:
            place.now += 10.0
            place.write(people(set(before), names, {}))
            assert place.synced() == {
                id: times | dict.fromkeys(names, place.now) for id, times in expected.items()
            }


# -- filters -----------------------------------------------------------------------------------


def test_a_filter_reads_as_a_sentence_in_python(place: Place) -> None:
    place.write([Person("a", name="Ada"), Person("b", age=1)])
    place.now += 50.0
    place.write([Person("c", name="Cy", boss=Person.ref("a")), Person("d", boss=Person.ref("zz"))])
    assert place.fitting(Person.name.synced_before(120.0)) == {"a", "b", "d"}
    assert place.fitting(Person.name.synced_since(100.0)) == {"a", "c"}
    assert place.fitting(Person.boss.to(Person.name).synced_before(120.0)) == {"c", "d"}
    assert place.fitting(Person.boss.to(Person.name).synced_since(120.0)) == set()


def test_an_id_has_no_age(place: Place) -> None:
    with pytest.raises(UsageError, match="has no age of its own"):
        place.fitting(Person.id.synced_before(1.0))


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (89.0, "89 s"),
        (90.0, "1 min"),
        (5_399.0, "89 min"),
        (5_400.0, "1 h"),
        (129_599.0, "35 h"),
        (129_600.0, "1 d"),
        (86_400.0 * 1_500, "1,500 d"),
    ],
)
def test_an_age_is_short(seconds: float, words: str) -> None:
    assert short_age(seconds) == words


def test_a_share_of_what_was_synced_is_as_young_as_its_quantile() -> None:
    ages = AgeHistogram([(1.0, 50), (2.0, 40), (9.0, 10)], 1_000)
    assert [quantile(ages, share) for share in (0.0, 0.5, 0.51, 0.9, 0.91, 1.0)] == [1, 1, 2, 2, 9, 9]
    assert quantile(AgeHistogram([], 3), 0.5) is None


def test_many_names_are_shortened() -> None:
    assert first_few(list("abcd")) == "a, b, c, d"
    assert first_few(list("abcde")) == "a, b, c and 2 more"


# -- the command line --------------------------------------------------------------------------

# A source that counts what it is asked for in files, and holds what a file says.
CONNECTOR = '''
"""Pages of a book, for tests."""

import json
from datetime import timedelta
from pathlib import Path

from max.connecting import Batch, Connector, Entity, Field, Installation, Limit, Loader, Many
from max.connecting import NoConfig, Operation, Page
from max.connecting import Schema, Step, SyncPlan


class Leaf(Entity):
    """A leaf of a book."""

    text: Field[str] = Field()
    words: Field[int] = Field()
    blank: Field[bool] = Field()


class Book(Entity):
    """Has leaves."""

    title: Field[str] = Field()
    leaves: Many[Leaf] = Many()


class Appendix(Entity):
    """Nobody lists it in this plan."""

    text: Field[str] = Field()


class Shelf(Entity):
    """Where books stand."""

    place: Field[str] = Field()
    books: Many[Book] = Many()
    appendices: Many[Appendix] = Many()


class House(Entity):
    """Has nothing but its id."""


async def read(folder, what):
    with Path("asked").open("a") as file:
        file.write(what + "\\n")
    return json.loads(Path("upstream.json").read_text())


ask = Operation("book:page:get", read, limit=Limit("book", concurrency=4))


@Loader.collection(Shelf.books, brings=[Book.title])
async def books(shelf, request, env):
    return Page([Book(id, title=id) for id in await env.run(ask, "books")])


@Loader.collection(Book.leaves, brings=[Leaf.text])
async def leaves(book, request, env):
    return Page([Leaf(id, text=id) for id in (await env.run(ask, f"leaves {book.id}"))[book.id]])


@Loader.collection(Shelf.appendices, brings=[Appendix.text])
async def appendices(shelf, request, env):
    return Page([])


@Loader.entity_batched(Leaf.words, size=100)
async def counted(refs, env):
    await env.run(ask, f"words {len(refs)}")
    return Batch([Leaf(ref.id, words=len(ref.id)) for ref in refs])


@Loader.entity_batched(Leaf.blank, size=100, ttl=timedelta(days=1))
async def looked_at(refs, env):
    await env.run(ask, f"blank {len(refs)}")
    return Batch([Leaf(ref.id, blank=False) for ref in refs])


async def seed(context, engine):
    await engine.store(Shelf("s", place="hall"), House("h"))
    shelf = Step.for_root(Shelf.ref("s"))
    return SyncPlan([
        shelf.load_collection(Shelf.books), Step.for_all(Book).load_collection(Book.leaves),
        Step.for_all(Leaf).load_fields(Leaf.words, Leaf.blank),
    ])


async def initialise(config, credentials):
    return Installation(".")


connector = Connector(
    name="book", description="Pages of a book, for tests.",
    schema=Schema([Shelf, Book, Leaf, Appendix, House], roots=[Shelf, House]),
    loaders=[books, leaves, appendices, counted, looked_at], seeder=seed, initialise=initialise,
    config=NoConfig, operations=[ask],
)
'''


class Library(NamedTuple):
    """A folder with the connector, and the commands in it."""

    run: Callable[..., Run]
    folder: Path

    def upstream(self, **books: Sequence[str]) -> None:
        """What there is, from now on."""
        (self.folder / "upstream.json").write_text(json.dumps(books))

    def asked(self) -> list[str]:
        """What was asked since the last look, in some order."""
        file = self.folder / "asked"
        words = sorted(file.read_text().splitlines()) if file.exists() else []
        file.unlink(missing_ok=True)
        return words

    def sql(self, statement: str) -> None:
        """Change the database behind its back."""
        (path,) = self.folder.glob(".max/installations/book/*/data.db")
        with closing(sqlite3.connect(path, isolation_level=None, factory=SqliteConnection)) as connection:
            connection.execute(statement)

    def aged(self, what: str, name: str) -> dict[str, Any]:
        """What max freshness tells of a field or a listing."""
        rows = self.run("freshness", "book", what, "-o", "json").data["data"]
        found: dict[str, Any] = next(one for one in rows if name in (one.get("field"), one.get("listing")))
        return found


@pytest.fixture
def library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Library]:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "max_book.py").write_text(CONNECTOR)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Run:
        capsys.readouterr()
        status = main(words)
        return Run(status, *capsys.readouterr())

    library = Library(run, tmp_path)
    library.upstream(a=["a1", "a2"], b=["b1"])
    yield library
    sys.modules.pop("max_book", None)


@pytest.fixture
def synced(library: Library) -> Library:
    """The same, synced once."""
    assert library.run("sync", "book").status == 0
    assert library.asked() == ["blank 3", "books", "leaves a", "leaves b", "words 3"]
    return library


# -- how much a sync asks for


def test_what_has_a_ttl_is_asked_for_when_that_is_over(synced: Library) -> None:
    synced.run("sync", "book")
    assert synced.asked() == ["books", "leaves a", "leaves b", "words 3"]
    synced.sql("UPDATE _max_load SET requested_at = requested_at - 90000")  # as if a day had passed
    synced.run("sync", "book")
    assert "blank 3" in synced.asked()


def test_full_asks_for_everything(synced: Library) -> None:
    run = synced.run("sync", "book", "--full")
    assert (run.status, synced.asked()) == (0, ["blank 3", "books", "leaves a", "leaves b", "words 3"])


def test_if_stale_asks_for_nothing_that_is_younger_and_says_so(synced: Library) -> None:
    run = synced.run("sync", "book", "--if-stale", "5m")
    assert (run.status, synced.asked()) == (0, [])
    assert run.out.splitlines()[1] == "  everything is fresh; nothing was fetched"
    synced.run("sync", "book", "--if-stale", "0s")
    assert synced.asked() == ["books", "leaves a", "leaves b", "words 3"]


@pytest.mark.parametrize(
    ("only", "asked"),
    [
        (["leaf.WORDS"], ["words 3"]),
        (["Leaf.words,Leaf.blank"], ["words 3"]),
        (["Leaf.words", "--only", "book"], ["books", "words 3"]),
        (["Leaf"], ["leaves a", "leaves b", "words 3"]),
        (["Leaf.text"], ["leaves a", "leaves b"]),
    ],
)
def test_only_asks_for_what_is_named_in_any_case(synced: Library, only: list[str], asked: list[str]) -> None:
    run = synced.run("sync", "book", "--only", *only)
    assert (run.status, synced.asked()) == (0, asked)


@pytest.mark.parametrize(
    ("only", "words"),
    [
        ("Laef", "unknown entity 'Laef'"),
        ("Leaf.wrods", "unknown field 'wrods' in Leaf"),
        ("Book.leaves", "Book.leaves is a collection"),
        ("Appendix", "no step of the plan brings Appendix"),
        ("Leaf,", "unknown entity ''"),
    ],
)
def test_only_names_what_is_there(synced: Library, only: str, words: str) -> None:
    run = synced.run("sync", "book", "--only", only)
    assert (run.status, words in run.err, synced.asked()) == (2, True, []), run.err


def test_heal_asks_just_for_what_is_missing(synced: Library) -> None:
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == []
    synced.run("invalidate", "book", "Leaf.words", "--filter", "text ^= a")
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == ["words 2"]


@pytest.mark.parametrize(
    "words",
    [
        ["--full", "--if-stale", "5m"],
        ["--full", "--if-stale", "0s"],
        ["--full", "--missing-only"],
        ["--missing-only", "--if-stale", "5m"],
        ["--check-deletes", "--missing-only"],
        ["--check-deletes", "--if-stale", "5m"],
        ["--retry-failed", "--full"],
        ["--retry-failed", "--only", "Leaf"],
        ["--retry-failed", "--allow-removals"],
    ],
)
def test_contradictions_are_refused_before_anything_is_made(library: Library, words: list[str]) -> None:
    run = library.run("sync", "book", *words)
    assert (run.status, "exclude one another" in run.err) == (2, True)
    assert not (library.folder / ".max").exists()


@pytest.mark.parametrize("age", ["5", "5x", "-5m", "1.5h", "soon"])
def test_an_age_that_is_none_is_refused(library: Library, age: str) -> None:
    run = library.run("sync", "book", f"--if-stale={age}")
    assert (run.status, "is not an age such as 90s, 5m, 2h, 1d or 2w" in run.err) == (2, True)


def test_an_unfinished_sync_does_not_go_on_with_other_options(synced: Library) -> None:
    synced.sql("UPDATE _max_sync SET state = 'paused', finished_at = NULL")
    run = synced.run("sync", "book", "--full")
    assert (run.status, synced.asked()) == (1, [])
    assert "has not ended, and was begun with other options" in run.err
    assert "max resume book:default, or add --discard-unfinished" in run.err
    assert synced.run("sync", "book", "--full", "--discard-unfinished").status == 0
    assert len(synced.asked()) == 5


def test_what_a_person_should_know_of_a_sync_is_told_with_it(synced: Library) -> None:
    note = "Shelf:s.books: the mark is unknown; asked for everything instead"
    synced.sql(f"UPDATE _max_sync SET notes = '[\"{note}\"]'")
    (run,) = synced.run("runs", "book", "--json").data["data"]
    assert run["notes"] == [note]
    assert f"  note  {note}" in synced.run("runs", "show", run["id"]).out.splitlines()
    assert synced.run("runs", "show", run["id"], "--json").data["notes"] == [note]


# -- removals that look wrong


def test_a_suspicious_removal_is_partial_and_says_what_to_type(library: Library) -> None:
    library.upstream(a=[f"a{number}" for number in range(40)], b=["b1"])
    library.run("sync", "book")
    library.upstream(a=["a1"], b=["b1"])
    run = library.run("sync", "book")
    assert (run.status, "partial" in run.out.splitlines()[0]) == (3, True)
    assert "39 of 41 Leaf are no longer listed upstream" in run.out
    assert "if they were deleted indeed: max sync book:default --allow-removals" in run.err
    assert "--retry-failed" not in run.err
    assert library.run("count", "book", "Leaf").out == "41\n"
    failures = library.run("runs", "show", run.out.split("sync ")[1].split(")")[0], "--json").data["failures"]
    assert [one["code"] for one in failures] == ["sync.removals"]


def test_removals_that_were_allowed_are_made_and_counted(library: Library) -> None:
    library.upstream(a=[f"a{number}" for number in range(40)], b=["b1"])
    library.run("sync", "book")
    library.upstream(a=["a1"], b=["b1"])
    library.run("sync", "book")
    run = library.run("sync", "book", "--allow-removals")
    assert (run.status, "39 rows removed" in run.out) == (0, True)
    assert library.run("count", "book", "Leaf").out == "2\n"


def test_a_removal_that_was_refused_is_made_once_it_was_looked_at_again(library: Library) -> None:
    library.upstream(a=[f"a{number}" for number in range(40)], b=["b1"])
    library.run("sync", "book")
    library.upstream(a=["a1"], b=["b1"])
    library.run("sync", "book")
    library.asked()
    run = library.run("sync", "book", "--missing-only", "--allow-removals", "--json")
    assert (run.data["removed"], set(library.asked())) == (39, {"books", "leaves a", "leaves b"})


# -- freshness


def test_freshness_before_the_first_sync_says_how_to_begin(library: Library) -> None:
    library.run("connect", "book")
    run = library.run("freshness", "book")
    assert (run.status, "start with: max sync book:default" in run.err) == (1, True)


def test_freshness_tells_rows_ages_and_what_was_never_listed(
    synced: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = time.time()
    synced.run("invalidate", "book", "Leaf:a1")
    monkeypatch.setattr(time, "time", lambda: then + 7_260)
    lines = synced.run("freshness", "book").out.splitlines()
    assert [line.split() for line in lines[:6]] == [
        ["entity", "fields", "rows", "never", "youngest", "median", "90", "%", "oldest"],
        ["Shelf", "all,", "stored", "by", "the", "seeder", "1"],
        ["Book", "all", "2", "0", *["2", "h"] * 4],
        ["Leaf", "all", "3", "1", *["2", "h"] * 4],
        ["Appendix", "never", "listed", "0", "0"],
        ["House", "has", "no", "fields", "1"],
    ]
    assert lines[7].split()[:3] == ["listing", "places", "never"]
    assert lines[-2].split() == ["Book.leaves", "2", "1", *["2", "h"] * 4]
    assert lines[-1].split() == ["Shelf.appendices", "1", "1"]


def test_freshness_tells_how_far_feeds_were_read(synced: Library) -> None:
    values = f"'feed news', 's', {time.time() - 300}"
    synced.sql(f"INSERT INTO _max_listing (collection, parent, listed_at) VALUES ({values})")
    row = json.loads(synced.run("freshness", "book", "-o", "ndjson").out.splitlines()[-1])
    assert [row["kind"], row["feed"], row["places"], row["never"]] == ["feed", "news", 1, 0]
    assert 300 <= row["youngest"] == row["median"] == row["p90"] == row["oldest"] < 360
    assert synced.run("freshness", "book").out.splitlines()[-1].split()[:4] == ["news", "1", "0", "5"]


def test_fields_that_are_equally_old_share_a_line(synced: Library) -> None:
    synced.sql("UPDATE _max_load SET requested_at = requested_at - 7200 WHERE fields = ',words,'")
    synced.sql("UPDATE _max_load SET requested_at = requested_at - 300 WHERE fields != ',words,'")
    lines = [line.split() for line in synced.run("freshness", "book").out.splitlines()]
    assert lines[3:5] == [
        ["Leaf", "text,", "blank", "3", "0", *["5", "min"] * 4],
        ["Leaf", "words", "3", "0", *["2", "h"] * 4],
    ]


def test_freshness_of_one_entity_goes_field_by_field(synced: Library) -> None:
    synced.run("invalidate", "book", "Leaf.words")
    rows = synced.run("freshness", "book", "leaf", "-o", "json").data["data"]
    assert [(one["kind"], one.get("field", one.get("listing")), one["never"]) for one in rows] == [
        ("field", "text", 0),
        ("field", "words", 3),
        ("field", "blank", 0),
        ("listing", "Book.leaves", 0),
    ]
    assert rows[1] | {"rows": 0} == {
        "kind": "field",
        "entity": "Leaf",
        "field": "words",
        "rows": 0,
        "never": 3,
        "youngest": None,
        "median": None,
        "p90": None,
        "oldest": None,
    }


def test_freshness_of_one_field_is_one_line(synced: Library) -> None:
    run = synced.run("freshness", "book", "Leaf.BLANK", "-o", "ndjson")
    assert [json.loads(line)["field"] for line in run.out.splitlines()] == ["blank"]
    assert synced.run("freshness", "book", "Leaf.blank").out.splitlines()[1].startswith("Leaf.blank")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("Laef", "unknown entity 'Laef'"),
        ("Leaf.wrods", "unknown field 'wrods' in Leaf"),
        ("Book.leaves", "Book.leaves is a collection"),
        ("Leaf.id", "an id has no age of its own"),
    ],
)
def test_freshness_and_invalidate_name_what_is_there(synced: Library, what: str, words: str) -> None:
    for command in ("freshness", "invalidate"):
        run = synced.run(command, "book", what)
        assert (run.status, words in run.err) == (2, True), run.err


def test_ages_fit_in_filters_of_the_command_line(synced: Library) -> None:
    synced.run("invalidate", "book", "Leaf.words", "--filter", "text = a1")
    assert synced.run("count", "book", "Leaf", "--filter", "_age(words) <= 1h").out == "2\n"
    assert synced.run("count", "book", "Leaf", "--filter", "_age(words) = never").out == "1\n"
    found = synced.run("search", "book", "Leaf", "--filter", "_age(words) > 1h", "--json").data["data"]
    assert [one["id"] for one in found] == ["a1"]


# -- invalidate


def test_a_field_that_is_invalidated_is_asked_for_again_and_keeps_its_value(synced: Library) -> None:
    run = synced.run("invalidate", "book", "leaf.blank")
    assert run.out.splitlines() == ["stale: blank of 3 Leaf", "  fetches again: looked_at, for Leaf.blank"]
    assert run.err == "next: max sync book:default, or only this: max sync book:default --missing-only\n"
    assert synced.run("count", "book", "Leaf", "--filter", "blank = false").out == "3\n"
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == ["blank 3"]


def test_what_only_comes_with_a_listing_makes_it_run_in_full(synced: Library) -> None:
    run = synced.run("invalidate", "book", "Leaf:a1", "-o", "json")
    assert run.data == {
        "installation": "book:default",
        "invalidated": [{"entity": "Leaf", "fields": ["text", "words", "blank"], "rows": 1}],
        "listings": {"Book.leaves": 1},
        "loaders": {"counted": ["Leaf.words"], "looked_at": ["Leaf.blank"]},
    }
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == ["blank 1", "leaves a", "words 1"]
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == []


def test_a_whole_entity_is_invalidated_with_every_list_of_it(synced: Library) -> None:
    run = synced.run("invalidate", "book", "Leaf.words", "Leaf.text", "Book")
    assert run.out.splitlines() == [
        "stale: words, text of 3 Leaf",
        "stale: all fields of 2 Book",
        "  reads in full: Book.leaves (2 lists)",
        "  reads in full: Shelf.books (1 list)",
        "  fetches again: counted, for Leaf.words",
    ]
    synced.run("sync", "book", "--if-stale", "1d")
    assert synced.asked() == ["books", "leaves a", "leaves b", "words 3"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["Leaf:zz"], 1, "no Leaf 'zz'"),
        (["Leaf:a1", "Leaf:zz"], 1, "no Leaf 'zz'"),
        (["Leaf:a1", "--filter", "text = x"], 2, "a filter does not go with Entity:id"),
        (["House"], 2, "House has no fields that could be fetched again"),
        (["elsewhere/Leaf:a1"], 2, "belongs to another installation"),
        (["Leaf.text", "--filter", "text ="], 2, "column 7"),
        (["a b:c"], 2, "is not a ref"),
    ],
)
def test_what_cannot_be_invalidated_changes_nothing(
    synced: Library, words: list[str], status: int, message: str
) -> None:
    run = synced.run("invalidate", "book", *words)
    assert (run.status, message in run.err) == (status, True), run.err
    assert synced.aged("Leaf", "text")["never"] == 0


def test_while_a_sync_is_running_nothing_is_invalidated(synced: Library) -> None:
    worker = new_worker()
    synced.sql(f"INSERT INTO _max_worker (id, heartbeat_at) VALUES ('{worker}', {time.time()})")
    synced.sql(f"UPDATE _max_sync SET state = 'running', worker = '{worker}', finished_at = NULL")
    run = synced.run("invalidate", "book", "Leaf")
    assert (run.status, "is already running" in run.err) == (1, True), run.err


def test_beside_an_unfinished_sync_the_one_after_it_asks_again(synced: Library) -> None:
    synced.sql("UPDATE _max_sync SET state = 'paused', finished_at = NULL")
    run = synced.run("invalidate", "book", "Leaf")
    assert (run.status, "does not fetch again what it already has" in run.err) == (0, True)


def test_without_its_connector_every_listing_runs_in_full(synced: Library) -> None:
    sys.modules.pop("max_book", None)
    file = synced.folder / "connectors" / "max_book.py"
    file.write_text("raise RuntimeError('broken')")
    run = synced.run("invalidate", "book", "Leaf.words")
    assert run.out.splitlines() == ["stale: words of 3 Leaf", "  reads in full: Book.leaves (2 lists)"]
    assert "the connector cannot be loaded" in run.err
