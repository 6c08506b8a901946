from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from max.connector import Connector
from max.engine import DatabaseEngine
from max.errors import ConnectorError, SchemaError, StorageError, StorageOlder
from max.model.delivery import Delivery
from max.model.entities import Entity, Field, Many, Ref
from max.model.loaders import UnknownLoaders
from max.model.migrations import DropField, Migration, MigrationStep, RenameEntity, RenameField, SchemaPolicy
from max.model.query import Query
from max.model.schema import Schema, table_name
from max.model.settings import Settings
from max.model.values import Json
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase, transaction
from max.storage.table_writer import TableWriter
from tests.sample import sample, writer
from tests.versions import made


class Everything(Entity):
    """A field of every kind."""

    name: Field[str] = Field()
    size: Field[int] = Field()
    share: Field[float] = Field()
    active: Field[bool] = Field()
    seen: Field[datetime] = Field()
    born: Field[date] = Field()
    extra: Field[Json] = Field()
    other: Field[Ref[Everything] | None] = Field()


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    with closing(sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)) as opened:
        yield opened


def applied(connection: SqliteConnection, *entities: type[Entity], changes: Any = ()) -> TableWriter:
    """The tables of a connector named acme, after migrations."""
    steps: list[MigrationStep] = list(changes)
    policy = SchemaPolicy("acme", (Migration("changed", *steps),) if steps else ())
    tables = writer(Schema(entities, connector="acme"), policy)
    with transaction(connection):
        tables.apply(connection)
    return tables


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connector", "entity", "table"),
    [
        ("acme", "AcmeTask", "acme_task"),
        ("acme", "Task", "acme_task"),
        ("acme", "AcmeHTTPRoute", "acme_http_route"),
        ("github", "GitHubIssue", "github_issue"),
        ("github", "GitHub", "github"),
        ("linear", "Linearity", "linear_linearity"),
        ("my_shop", "MyShopOrder", "my_shop_order"),
        ("my_shop", "Order", "my_shop_order"),
        ("", "HTTPRoute", "http_route"),
    ],
)
def test_a_table_is_named_after_its_connector(connector: str, entity: str, table: str) -> None:
    assert table_name(connector, entity) == table


def test_two_entities_with_one_table_are_refused_when_the_connector_loads() -> None:
    task, acme_task = made("Task", {}), made("AcmeTask", {})
    Schema([task, acme_task])
    with pytest.raises(SchemaError, match="AcmeTask and Task would share the table acme_task"):
        sample(name="acme", schema=Schema([task, acme_task], roots=[task, acme_task]), loaders=[])


@pytest.mark.parametrize("name", ["max", "max_load", "sqlite", "sqlite_x"])
def test_a_connector_cannot_take_names_of_max_or_of_the_database(name: str) -> None:
    with pytest.raises(ConnectorError, match=f"name: '{name}' is not a valid connector name"):
        sample(name=name, schema=Schema([made("Task", {})]), loaders=[])


def test_a_connector_names_the_tables_of_its_schema() -> None:
    assert sample(name="maxim").name == "maxim"
    order = made("Order", {})
    connector: Connector[Any, Any] = sample(name="shop", schema=Schema([order], roots=[order]), loaders=[])
    assert connector.schema.table("Order") == "shop_order"
    assert Schema.from_json(connector.schema.to_json()).table("Order") == "shop_order"


class Change(Entity):
    """Its table and the index of its ref would once have had names of Max's own."""

    title: Field[str] = Field()
    entity: Field[Ref[Change] | None] = Field()
    parts: Many[Change] = Many(by=lambda: Change.entity)


def test_an_index_of_ours_never_has_the_name_of_a_table() -> None:
    async def main() -> list[Any]:
        database = SqliteDatabase(MEMORY)
        await database.start()
        try:
            engine = DatabaseEngine(
                database, UnknownLoaders(Schema([Change])), settings=Settings(history="changes")
            )
            await engine.start()
            await engine.store(Change("1", title="x", entity=Change.ref("1")), requested_at=5.0)
            await engine.tidy(10.0)
            page = [change async for change in engine.changes()]
            return [page, (await engine.load_collection(Change.ref("1"), Change.parts)).items]
        finally:
            await database.stop()

    changes, parts = asyncio.run(main())
    assert [change.kind for change in changes] == ["created"]
    assert [part.id for part in parts] == ["1"]


# -- what people see ---------------------------------------------------------------------------


def test_people_see_the_id_and_the_fields_with_types_that_tools_know(connection: SqliteConnection) -> None:
    applied(connection, Everything)
    columns = [row[1:3] for row in connection.execute("PRAGMA table_info(acme_everything)")]
    assert columns == [
        ("id", "TEXT"),
        ("name", "TEXT"),
        ("size", "INTEGER"),
        ("share", "REAL"),
        ("active", "BOOLEAN"),
        ("seen", "TIMESTAMP"),
        ("born", "DATE"),
        ("extra", "JSON TEXT"),
        ("other", "TEXT"),
    ]


def test_people_see_no_removed_rows(connection: SqliteConnection) -> None:
    tables = applied(connection, Everything)
    with transaction(connection):
        tables.write(connection, Delivery([Everything("1"), Everything("2")], 5.0))
        tables.write(connection, Delivery([], 6.0, removed=[Everything.ref("1")]))
    assert connection.execute("SELECT id FROM acme_everything").fetchall() == [("2",)]


@pytest.mark.parametrize("value", [5, 1.0, "1", "1.0", "1e400", 1e300, 10**30, True, None, [1.0], {"a": "2"}])
def test_json_comes_back_as_it_was_stored(connection: SqliteConnection, value: Any) -> None:
    tables = applied(connection, Everything)
    with transaction(connection):
        tables.write(connection, Delivery([Everything("1", extra=value)], 5.0))
    (found,) = tables.fetch(connection, Query(Everything)).items
    assert (type(found.extra), found.extra) == (type(value), value)


@pytest.mark.parametrize("text", ["1", "1.0", "007", "1e5", "2026", "", " 5", "0x10", "nan", "inf"])
def test_a_text_stays_a_text(connection: SqliteConnection, text: str) -> None:
    tables = applied(connection, Everything)
    with transaction(connection):
        tables.write(connection, Delivery([Everything("1", name=text, extra=text)], 5.0))
    assert connection.execute("SELECT name FROM acme_everything").fetchall() == [(text,)]


def test_times_are_text_that_sorts_as_time_does(connection: SqliteConnection) -> None:
    tables = applied(connection, Everything)
    moments = [datetime(2026, 1, 31, 9, 30, tzinfo=UTC), datetime(1999, 12, 31, 23, 59, 59, 500_000, UTC)]
    rows = [Everything(str(n), seen=at, born=at.date()) for n, at in enumerate(moments)]
    with transaction(connection):
        tables.write(connection, Delivery(rows, 5.0))
    sql = "SELECT seen, typeof(seen), born, typeof(born) FROM acme_everything ORDER BY seen"
    assert connection.execute(sql).fetchall() == [
        ("1999-12-31T23:59:59.5", "text", "1999-12-31", "text"),
        ("2026-01-31T09:30:00", "text", "2026-01-31", "text"),
    ]
    assert tables.fetch(connection, Query(Everything, Everything.born.lt(date(2000, 1, 1)))).items == rows[1:]


def test_a_hidden_entity_is_not_seen_and_comes_back(connection: SqliteConnection) -> None:
    other = made("Other", {"size": "int"})
    applied(connection, Everything, other)
    applied(connection, other)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.execute("SELECT * FROM acme_everything")
    applied(connection, Everything, other)
    assert connection.execute("SELECT * FROM acme_everything").fetchall() == []


# -- what people make in the file --------------------------------------------------------------


THING = made("Thing", {"name": "str", "size": "int", "gone": "int"})
USERS_OWN = (
    "CREATE VIEW large AS SELECT id, name FROM acme_thing WHERE size > 10",
    "CREATE VIEW larger AS SELECT * FROM large",
    "CREATE INDEX by_size ON _acme_thing (size)",
    "CREATE TABLE notes (thing TEXT, note TEXT)",
    "CREATE TRIGGER noted AFTER INSERT ON notes BEGIN UPDATE notes SET note = upper(note); END",
    "CREATE TRIGGER large INSTEAD OF INSERT ON acme_thing BEGIN INSERT INTO notes VALUES (NEW.id, 'a'); END",
)


@pytest.mark.parametrize(
    ("entity", "changes"),
    [
        (made("Thing", {"name": "str", "size": "int"}), [DropField("Thing", "gone")]),
        (made("Thing", {"name": "str", "size": "float", "gone": "int"}), []),
        (
            made("Thing", {"name": "str", "size": "int", "went": "int"}),
            [RenameField("Thing", "gone", "went")],
        ),
    ],
)
def test_views_and_triggers_of_users_survive_a_migration(
    connection: SqliteConnection, entity: Any, changes: list[Any]
) -> None:
    tables = applied(connection, THING)
    with transaction(connection):
        tables.write(connection, Delivery([THING("1", name="x", size=20, gone=1)], 5.0))
    for statement in USERS_OWN:
        connection.execute(statement)
    applied(connection, entity, changes=changes)
    connection.execute("INSERT INTO notes VALUES ('1', 'mine')")
    assert connection.execute("SELECT * FROM larger").fetchall() == [("1", "x")]
    assert connection.execute("SELECT * FROM notes").fetchall() == [("1", "MINE")]
    connection.execute("INSERT INTO acme_thing (id) VALUES ('2')")
    assert connection.execute("SELECT * FROM notes").fetchall() == [("1", "MINE"), ("2", "A")]


def test_a_view_of_what_was_renamed_stays_until_its_user_changes_it(connection: SqliteConnection) -> None:
    applied(connection, THING)
    connection.execute(USERS_OWN[0])
    item = made("Item", {"name": "str", "size": "int", "gone": "int"})
    applied(connection, item, changes=[RenameEntity("Thing", "Item")])
    with pytest.raises(sqlite3.OperationalError, match=r"no such table: main\.acme_thing"):
        connection.execute("SELECT * FROM large")


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE TRIGGER mine AFTER INSERT ON _acme_thing BEGIN SELECT 1; END", "mine"),
        ("CREATE TRIGGER mine INSTEAD OF INSERT ON acme_thing BEGIN SELECT 1; END", "mine"),
        ("CREATE VIEW acme_item AS SELECT 1", "acme_item"),
        ("CREATE TABLE acme_item (id TEXT)", "acme_item"),
    ],
)
def test_what_a_user_created_and_is_in_the_way_is_named_and_nothing_is_changed(
    connection: SqliteConnection, statement: str, name: str
) -> None:
    applied(connection, THING)
    connection.execute(statement)
    before = list(connection.iterdump())
    item = made("Item", {"name": "str", "size": "int", "gone": "int"})
    with pytest.raises(SchemaError, match=f"your (trigger|view|table) {name}$") as caught:
        applied(connection, item, changes=[RenameEntity("Thing", "Item")])
    kind = statement.split()[1]
    assert f'drop what you made, and make it again afterwards: DROP {kind} "{name}"' in caught.value.hint
    assert list(connection.iterdump()) == before


# -- databases of before 0.1.0 -----------------------------------------------------------------

BEFORE = """
    CREATE TABLE _max_migration (
        owner TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (owner, version)
    ) WITHOUT ROWID;
    INSERT INTO _max_migration VALUES ('engine', 1, '0123456789abcdef');
    CREATE TABLE _max_schema (id INTEGER PRIMARY KEY CHECK (id = 1), schema TEXT NOT NULL);
    INSERT INTO _max_schema VALUES (1, '{"entities": [], "roots": []}');
    CREATE TABLE acme_user (_id TEXT NOT NULL UNIQUE, name TEXT, _loaded INTEGER, _page INTEGER,
                            _removed_at REAL, _row INTEGER PRIMARY KEY);
    INSERT INTO acme_user VALUES ('1', 'Ada', 1, NULL, NULL, 1);
"""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A database as the code before 0.1.0 made it."""
    path = tmp_path / "data.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(BEFORE)
    return path


def test_an_older_database_is_refused_and_not_changed(older: Path) -> None:
    before = older.read_bytes()
    database = SqliteDatabase(older)
    with pytest.raises(StorageOlder, match=r"data\.db was written by a Max before 0\.1\.0") as caught:
        asyncio.run(database.start())
    assert caught.value.hint == "move the file away: the next sync fetches everything again"
    for opened in (database.reader(), database.writer()):
        with pytest.raises(StorageError, match=r"before 0\.1\.0"), opened:
            raise AssertionError("it must not be opened")
    assert older.read_bytes() == before
