"""Freshness on the command line: what a sync fetches, ``max freshness`` and ``max invalidate``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from max.storage.leases import new_worker
from tests.command_line import Cli, sql

# A source that logs its requests to a file, and serves the content of another.
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
    """No step of the plan lists it."""

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
    there = {id for leaves in (await env.run(ask, f"words {len(refs)}")).values() for id in leaves}
    return Batch([Leaf(ref.id, words=len(ref.id)) for ref in refs if ref.id in there])


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

    run: Cli
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

    def sql(self, statement: str) -> list[Any]:
        """Read or change the database behind its back."""
        return sql(statement, of="book", folder=self.folder)

    def aged(self, what: str, name: str) -> dict[str, Any]:
        """What max freshness tells of a field or a listing."""
        rows = self.run("freshness", "book", what, "-o", "json").data["data"]
        found: dict[str, Any] = next(one for one in rows if name in (one.get("field"), one.get("listing")))
        return found


@pytest.fixture
def library(cli: Cli, tmp_path: Path) -> Iterator[Library]:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "max_book.py").write_text(CONNECTOR)
    library = Library(cli, tmp_path)
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


def test_a_field_is_fetched_again_when_its_ttl_has_passed(synced: Library) -> None:
    synced.run("sync", "book")
    assert synced.asked() == ["books", "leaves a", "leaves b", "words 3"]
    synced.sql("UPDATE _max_load SET requested_at = requested_at - 90000")  # as if a day had passed
    synced.run("sync", "book")
    assert "blank 3" in synced.asked()


def test_full_fetches_everything(synced: Library) -> None:
    run = synced.run("sync", "book", "--full")
    assert (run.status, synced.asked()) == (0, ["blank 3", "books", "leaves a", "leaves b", "words 3"])


def test_if_stale_fetches_nothing_that_is_younger(synced: Library) -> None:
    run = synced.run("sync", "book", "--if-stale", "5m")
    assert (run.status, synced.asked()) == (0, [])
    assert run.out.startswith("book:default: up to date (everything is fresh; nothing was fetched, ")
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
def test_only_fetches_the_named_fields(synced: Library, only: list[str], asked: list[str]) -> None:
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
def test_only_refuses_unknown_names(synced: Library, only: str, words: str) -> None:
    run = synced.run("sync", "book", "--only", only)
    assert (run.status, words in run.err, synced.asked()) == (2, True, []), run.err


def test_missing_only_fetches_what_is_missing(synced: Library) -> None:
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == []
    synced.run("invalidate", "book", "Leaf.words", "--filter", "text ^= a")
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == ["words 2"]


@pytest.mark.of_a_folder
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
def test_contradicting_options_create_nothing(library: Library, words: list[str]) -> None:
    run = library.run("sync", "book", *words)
    assert (run.status, "cannot be combined" in run.err) == (2, True)
    assert not (library.folder / ".max").exists()


@pytest.mark.parametrize("age", ["5", "5x", "-5m", "1.5h", "soon"])
def test_an_invalid_age_is_refused(library: Library, age: str) -> None:
    run = library.run("sync", "book", f"--if-stale={age}")
    assert (run.status, "is not an age such as 90s, 5m, 2h, 1d or 2w" in run.err) == (2, True)


def test_an_unfinished_sync_does_not_continue_with_other_options(synced: Library) -> None:
    synced.sql("UPDATE _max_sync SET state = 'paused', finished_at = NULL")
    run = synced.run("sync", "book", "--full")
    assert (run.status, synced.asked()) == (1, [])
    assert "has not ended, and was begun with other options" in run.err
    assert "max resume book:default; or add --discard-unfinished to max sync" in run.err
    assert synced.run("sync", "book", "--full", "--discard-unfinished").status == 0
    assert len(synced.asked()) == 5


def test_notes_of_a_sync_are_shown_with_it(synced: Library) -> None:
    note = "Shelf:s.books: the mark is unknown; asked for everything instead"
    synced.sql(f"UPDATE _max_sync SET notes = '[\"{note}\"]'")
    (run,) = synced.run("runs", "book", "--json").data["data"]
    assert run["notes"] == [note]
    assert f"  note  {note}" in synced.run("runs", "show", run["id"]).out.splitlines()
    assert synced.run("runs", "show", run["id"], "--json").data["notes"] == [note]


# -- removals that look wrong


def test_a_suspicious_removal_is_partial_and_names_allow_removals(library: Library) -> None:
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


def test_allowed_removals_are_made_and_counted(library: Library) -> None:
    library.upstream(a=[f"a{number}" for number in range(40)], b=["b1"])
    library.run("sync", "book")
    library.upstream(a=["a1"], b=["b1"])
    library.run("sync", "book")
    run = library.run("sync", "book", "--allow-removals")
    assert (run.status, "39 removed" in run.out) == (0, True)
    assert library.run("count", "book", "Leaf").out == "2\n"


def test_a_refused_removal_is_made_once_it_is_allowed_and_the_source_was_asked_for_the_rows(
    library: Library,
) -> None:
    library.upstream(a=[f"a{number}" for number in range(40)], b=["b1"])
    library.run("sync", "book")
    library.upstream(a=["a1"], b=["b1"])
    library.run("sync", "book")
    library.asked()
    run = library.run("sync", "book", "--missing-only", "--allow-removals", "--json")
    assert (run.data["removed"], set(library.asked())) == (39, {"words 39"})


# -- freshness


def test_freshness_before_the_first_sync_names_max_sync(library: Library) -> None:
    library.run("connect", "book")
    run = library.run("freshness", "book")
    assert (run.status, "start with: max sync book:default" in run.err) == (1, True)


def test_freshness_shows_rows_ages_and_never_listed_entities(
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


def test_freshness_shows_the_age_of_feeds(synced: Library) -> None:
    values = f"'news', 's', {time.time() - 300}, 0"
    synced.sql(f"INSERT INTO _max_feed_state (feed, root, read_at, begun_at) VALUES ({values})")
    row = json.loads(synced.run("freshness", "book", "-o", "ndjson").out.splitlines()[-1])
    assert [row["kind"], row["feed"], row["places"], row["never"]] == ["feed", "news", 1, 0]
    assert 300 <= row["youngest"] == row["median"] == row["p90"] == row["oldest"] < 360
    assert synced.run("freshness", "book").out.splitlines()[-1].split()[:4] == ["news", "1", "0", "5"]


def test_fields_with_equal_ages_share_a_line(synced: Library) -> None:
    ((bit,),) = synced.sql("SELECT bit FROM _max_field WHERE entity = 'Leaf' AND field = 'words'")
    of_words = f"entity = 'Leaf' AND fields = {1 << bit}"
    synced.sql(f"UPDATE _max_load SET requested_at = requested_at - 7200 WHERE {of_words}")
    synced.sql(f"UPDATE _max_load SET requested_at = requested_at - 300 WHERE NOT ({of_words})")
    lines = [line.split() for line in synced.run("freshness", "book").out.splitlines()]
    assert lines[3:5] == [
        ["Leaf", "text,", "blank", "3", "0", *["5", "min"] * 4],
        ["Leaf", "words", "3", "0", *["2", "h"] * 4],
    ]


def test_freshness_of_one_entity_lists_each_field(synced: Library) -> None:
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
def test_freshness_and_invalidate_refuse_unknown_names(synced: Library, what: str, words: str) -> None:
    for command in ("freshness", "invalidate"):
        run = synced.run(command, "book", what)
        assert (run.status, words in run.err) == (2, True), run.err


def test_filters_on_the_command_line_know_ages(synced: Library) -> None:
    synced.run("invalidate", "book", "Leaf.words", "--filter", "text = a1")
    assert synced.run("count", "book", "Leaf", "--filter", "_age(words) <= 1h").out == "2\n"
    assert synced.run("count", "book", "Leaf", "--filter", "_age(words) = never").out == "1\n"
    found = synced.run("search", "book", "Leaf", "--filter", "_age(words) > 1h", "--json").data["data"]
    assert [one["id"] for one in found] == ["a1"]


# -- invalidate


def test_an_invalidated_field_keeps_its_value_and_is_fetched_again(synced: Library) -> None:
    run = synced.run("invalidate", "book", "leaf.blank")
    assert run.out.splitlines() == ["stale: blank of 3 Leaf", "  fetches again: looked_at, for Leaf.blank"]
    assert run.err == "next: max sync book:default, or only this: max sync book:default --missing-only\n"
    assert synced.run("count", "book", "Leaf", "--filter", "blank = false").out == "3\n"
    synced.run("sync", "book", "--missing-only")
    assert synced.asked() == ["blank 3"]


def test_invalidating_a_listed_field_makes_its_listing_run_in_full(synced: Library) -> None:
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


def test_invalidating_an_entity_invalidates_every_list_of_it(synced: Library) -> None:
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
def test_a_refused_invalidation_changes_nothing(
    synced: Library, words: list[str], status: int, message: str
) -> None:
    run = synced.run("invalidate", "book", *words)
    assert (run.status, message in run.err) == (status, True), run.err
    assert synced.aged("Leaf", "text")["never"] == 0


def test_invalidate_is_refused_while_a_sync_runs(synced: Library) -> None:
    worker = new_worker()
    synced.sql(f"INSERT INTO _max_worker (id, heartbeat_at) VALUES ('{worker}', {time.time()})")
    synced.sql(f"UPDATE _max_sync SET state = 'running', worker = '{worker}', finished_at = NULL")
    run = synced.run("invalidate", "book", "Leaf")
    assert (run.status, "is already running" in run.err) == (1, True), run.err


def test_invalidate_warns_about_an_unfinished_sync(synced: Library) -> None:
    synced.sql("UPDATE _max_sync SET state = 'paused', finished_at = NULL")
    run = synced.run("invalidate", "book", "Leaf")
    assert (run.status, "does not fetch again what it already has" in run.err) == (0, True)


def test_without_its_connector_every_listing_is_invalidated(synced: Library) -> None:
    sys.modules.pop("max_book", None)
    file = synced.folder / "connectors" / "max_book.py"
    file.write_text("raise RuntimeError('broken')")
    run = synced.run("invalidate", "book", "Leaf.words")
    assert run.out.splitlines() == ["stale: words of 3 Leaf", "  reads in full: Book.leaves (2 lists)"]
    assert "the connector cannot be loaded" in run.err
