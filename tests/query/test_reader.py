"""The Reader: one snapshot of an installation, read without an event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme import AcmeRoot, AcmeTask, AcmeUser, connector

from max.engine import DatabaseEngine
from max.errors import (
    InvalidCursor,
    MaxError,
    NotFound,
    StorageCorrupt,
    StorageEmpty,
    UnknownName,
    UsageError,
)
from max.model.ages import quantile
from max.model.delivery import AgeHistogram
from max.model.entities import Entity, values_of
from max.project import Project
from max.projects.folder import ProjectFolder
from max.query.reader import Reader
from max.storage.database import Database
from max.storage.sqlite import SqliteDatabase
from tests.database_files import data_file

USERS = [AcmeUser(f"u{n}", name=f"User {n}", active=n % 2 == 0) for n in range(5)]
TASKS = [
    AcmeTask("t1", title="Write", priority=3, assignee=AcmeUser.ref("u1")),
    AcmeTask("t2", title="Read", priority=1, assignee=None),
]


async def store(place: Database | Path, *entities: Entity) -> None:
    database = SqliteDatabase(place) if isinstance(place, Path) else place
    await database.start()
    engine = DatabaseEngine(database, connector.resolver)
    await engine.start()
    await engine.store(*entities, requested_at=1_000.0)
    await engine.stop()
    await database.stop()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with ``acme:default``, which holds users and tasks."""
    folder = ProjectFolder.init(tmp_path)
    info = folder.add("acme", None, {}, {}, now=1_000.0)
    asyncio.run(store(data_file(folder, info), *USERS, *TASKS))
    return Project(folder)


@pytest.fixture
def reader(project: Project) -> Iterator[Reader]:
    with project.read("acme:default") as reader:
        yield reader


def test_search_takes_texts_and_pages_by_a_cursor(reader: Reader) -> None:
    query: dict[str, Any] = {"where": "active = true", "order_by": "name:desc", "fields": "name", "limit": 2}
    first = reader.search("acmeuser", **query)
    assert [one.name for one in first.items] == ["User 4", "User 2"]
    rest = reader.search("AcmeUser", **query, after=first.cursor)
    assert ([one.id for one in rest.items], rest.cursor) == (["u0"], None)
    assert list(values_of(rest.items[0])) == ["id", "name"]


def test_a_reader_shows_its_installation(reader: Reader) -> None:
    assert repr(reader) == f"Reader({reader.info})"


def test_search_takes_classes_and_filters(reader: Reader) -> None:
    page = reader.search(AcmeTask, AcmeTask.priority.gt(1), fields=["title"])
    assert [one.title for one in page.items] == ["Write"]


def test_rows_are_columns_of_an_entity_and_of_what_its_refs_point_at(reader: Reader) -> None:
    query = reader.query("AcmeTask", order_by="title")
    page = reader.rows(query, "ID,title,assignee.name,assignee,assignee.active")
    assert page.names == ("id", "title", "assignee.name", "assignee", "assignee.active")
    assert page.rows == [
        ("t2", "Read", None, None, None),
        ("t1", "Write", "User 1", AcmeUser.ref("u1"), False),
    ]
    assert page.to_dicts()[1] == {
        "id": "t1",
        "title": "Write",
        "assignee.name": "User 1",
        "assignee": "u1",
        "assignee.active": False,
    }


def test_rows_page_by_the_cursor_that_a_search_takes(reader: Reader) -> None:
    query = reader.query("AcmeUser", order_by="active,name:desc").limit(2)
    pages: list[list[str]] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        page = reader.rows(query.after(cursor), ["name"])
        assert page.cursor == reader.fetch(query.after(cursor)).cursor
        pages.append([name for (name,) in page.rows])
        cursor = page.cursor
    assert pages == [["User 3", "User 1"], ["User 4", "User 2"], ["User 0"]]


def test_rows_tell_what_is_empty_from_what_is_not_loaded(project: Project) -> None:
    tasks = [
        AcmeTask("a", title="no assignee", assignee=None),
        AcmeTask("b", title="an assignee that is not stored", assignee=AcmeUser.ref("gone")),
        AcmeTask("c", title="an assignee without a time zone", assignee=AcmeUser.ref("u1")),
        AcmeTask("d"),
    ]
    data_file(project.manager, project.manager.target("acme")).unlink()
    asyncio.run(store(data_file(project.manager, project.manager.target("acme")), *USERS, *tasks))
    with project.read("acme") as reader:
        page = reader.rows(reader.query("AcmeTask"), "id,title,assignee,assignee.name,assignee.timezone")
    assert page.to_dicts() == [
        {
            "id": "a",
            "title": "no assignee",
            "assignee": None,
            "assignee.name": None,
            "assignee.timezone": None,
        },
        {"id": "b", "title": "an assignee that is not stored", "assignee": "gone"},
        {
            "id": "c",
            "title": "an assignee without a time zone",
            "assignee": "u1",
            "assignee.name": "User 1",
        },
        {"id": "d"},
    ]
    assert page.rows[3] == ("d", None, None, None, None)
    assert page.unloaded == {(1, 3), (1, 4), (2, 4), (3, 1), (3, 2), (3, 3), (3, 4)}


def test_rows_of_nothing_keep_their_columns(reader: Reader) -> None:
    page = reader.rows(reader.query("AcmeTask", "title = nothing"), "id,assignee.name")
    assert (page.names, page.rows, page.cursor) == (("id", "assignee.name"), [], None)


@pytest.mark.parametrize(("path", "error"), [("assignee.nam", UnknownName), ("title.x", UsageError)])
def test_rows_refuse_paths_that_lead_nowhere(reader: Reader, path: str, error: type[MaxError]) -> None:
    with pytest.raises(error):
        reader.rows(reader.query("AcmeTask"), path)


def test_get_count_and_counts(reader: Reader) -> None:
    assert reader.get("AcmeUser", "u3").name == "User 3"
    assert reader.get(AcmeUser, "u3", "active").active is False
    assert (reader.count("AcmeUser"), reader.count(AcmeUser, "active = true")) == (5, 3)
    assert {name: rows for name, rows in reader.counts().items() if rows} == {"AcmeUser": 5, "AcmeTask": 2}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"entity": "AcmeUsr"}, UnknownName),
        ({"entity": "AcmeUser", "where": "nam = 1"}, UnknownName),
        ({"entity": "AcmeUser", "fields": "nam"}, UnknownName),
        ({"entity": "AcmeUser", "order_by": "name:up"}, UnknownName),
        ({"entity": "AcmeUser", "order_by": "name.x"}, UsageError),
        ({"entity": "AcmeUser", "after": "xyz"}, InvalidCursor),
    ],
)
def test_what_does_not_exist_is_refused(reader: Reader, words: dict[str, Any], error: type[MaxError]) -> None:
    with pytest.raises(error):
        reader.search(**words)


def test_a_missing_row_is_not_found(reader: Reader) -> None:
    with pytest.raises(NotFound):
        reader.get("AcmeUser", "u99")


def test_a_reader_sees_one_snapshot(project: Project, reader: Reader) -> None:
    assert reader.count("AcmeUser") == 5
    asyncio.run(store(data_file(project.manager, reader.info), AcmeUser("u9", name="Later")))
    assert reader.count("AcmeUser") == 5
    with project.read(reader.info) as later:
        assert later.count("AcmeUser") == 6


def test_sql_answers_rows_by_column_up_to_a_limit(reader: Reader) -> None:
    statement = "SELECT name, active FROM acme_user WHERE name > ? ORDER BY name"
    assert reader.sql(statement, ["User 2"]).to_dicts() == [
        {"name": "User 3", "active": 0},
        {"name": "User 4", "active": 1},
    ]
    for limit, rows in ((0, 0), (2, 2), (5, 5), (6, 5)):
        answer = reader.sql("SELECT name FROM acme_user", limit=limit)
        assert (len(answer.rows), answer.truncated) == (rows, limit < 5)
    assert reader.sql("SELECT :x + 1 AS y", {"x": 1}).rows == [(2,)]


def test_sql_reads_json_lists_as_rows(reader: Reader) -> None:
    statement = "SELECT value FROM json_each(?) UNION SELECT value FROM json_tree(?) WHERE type = 'text'"
    assert reader.sql(statement, ['["a"]', '["b"]']).rows == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("statement", "values"), [("SELECT '\ud800'", ()), ("SELECT ?", [2**70]), ("SELECT ?", ["\ud800"])]
)
def test_sql_refuses_what_no_statement_or_value_can_hold(
    reader: Reader, statement: str, values: Sequence[Any]
) -> None:
    with pytest.raises(UsageError, match="SQL: "):
        reader.sql(statement, values)


def test_sql_on_a_damaged_file_is_a_storage_error(project: Project) -> None:
    path = data_file(project.manager, project.manager.target("acme"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sql = "SELECT rootpage FROM sqlite_master WHERE name = '_acme_user'"
        (page,) = connection.execute(sql).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StorageCorrupt), project.read("acme") as reader:
        reader.sql("SELECT * FROM acme_user")


def test_an_error_of_the_callers_own_database_stays_as_it_is(project: Project) -> None:
    with (
        pytest.raises(sqlite3.OperationalError, match="no such table: mine"),
        project.read("acme"),
        closing(sqlite3.connect(":memory:")) as mine,
    ):
        mine.execute("SELECT * FROM mine")
    with pytest.raises(KeyError, match="mine"), project.read("acme"):
        raise KeyError("mine")


def test_a_damaged_value_is_a_storage_error_where_it_is_read(project: Project) -> None:
    path = data_file(project.manager, project.manager.target("acme"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE _acme_user SET name = CAST(x'ff' AS TEXT) WHERE _id = 'u1'")
        connection.execute("UPDATE _acme_task SET tags = '[', _loaded = -1 WHERE _id = 't1'")
    with project.read("acme") as reader:
        assert reader.get("AcmeUser", "u2").name == "User 2"
        for entity, id in (("AcmeUser", "u1"), ("AcmeTask", "t1")):
            with pytest.raises(StorageCorrupt, match=r"data\.db: ") as caught:
                reader.get(entity, id)
            assert "restore a backup" in caught.value.hint


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM acme_user",
        "CREATE TABLE mine (x)",
        "PRAGMA query_only = 0",
        "COMMIT",
        "ATTACH ':memory:' AS other",
        "SELECT nothing FROM acme_user",
        "SELECT 1; SELECT 2",
        "nonsense",
    ],
)
def test_sql_refuses_whatever_is_no_single_select(reader: Reader, statement: str) -> None:
    with pytest.raises(UsageError, match="SQL: "):
        reader.sql(statement)
    assert reader.count("AcmeUser") == 5


def test_ages_count_from_the_request_and_cover_fields_and_listings(reader: Reader) -> None:
    found = {str(one): one for one in reader.freshness()}
    assert (found["AcmeUser.name"].of, found["AcmeUser.name"].ages.never) == (5, 0)
    assert found["AcmeUser.name"].quantiles()["oldest"] == float(int(reader.now - 1_000.0))
    assert found["AcmeUser.email"].ages.never == 5
    assert {one.kind for one in found.values()} == {"field", "listing"}
    assert [str(one) for one in reader.freshness("acmeuser.NAME")] == ["AcmeUser.name"]


def test_a_database_without_syncs_has_no_runs(reader: Reader) -> None:
    assert reader.runs() == []
    with pytest.raises(NotFound):
        reader.run("x")


def test_schema_describes_what_is_stored_and_a_diff_finds_nothing(reader: Reader) -> None:
    assert list(reader.schema.entities) == list(connector.schema.entities)
    assert reader.entity(AcmeRoot) is reader.schema.entities["AcmeRoot"]
    assert reader.schema_diff(connector.resolver, connector.policy).changes == ()
    assert reader.quarantine("AcmeUser") == []


def test_an_installation_that_was_never_synced_says_how_to_begin(tmp_path: Path) -> None:
    folder = ProjectFolder.init(tmp_path)
    folder.add("acme", None, {}, {}, now=1_000.0)
    project = Project(folder)
    with pytest.raises(StorageEmpty, match="acme:default has never been synced"), project.read("acme"):
        pass


def test_a_quantile_counts_only_rows_with_an_age() -> None:
    ages = AgeHistogram([(1.0, 50), (2.0, 40), (9.0, 10)], 1_000)
    assert [quantile(ages, share) for share in (0.0, 0.5, 0.51, 0.9, 0.91, 1.0)] == [1, 1, 2, 2, 9, 9]
    assert quantile(AgeHistogram([], 3), 0.5) is None
