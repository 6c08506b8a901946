"""What users make in the file outlives every upgrade, or the plan names it and says how to drop it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from max.errors import SchemaError, StorageCorrupt, StorageError
from max.model.changes import ALL_ROWS
from max.model.delivery import Delivery
from max.model.loaders import UnknownLoaders
from max.model.migrations import (
    ChangeKey,
    ChangeType,
    DropEntity,
    DropField,
    Migration,
    RenameEntity,
    RenameField,
    SchemaPolicy,
)
from max.model.schema import Schema
from max.storage.database import REFUSED
from max.storage.schema_evolution import plan
from max.storage.sqlite import MEMORY, SqliteConnection
from max.storage.table_writer import TableWriter
from tests.contract.places import transaction
from tests.sample import writer
from tests.versions import made

FIELDS = {"name": "str", "size": "int", "gone": "int"}
OTHER = made("Other", {"note": "str"})
OWN = {
    "index": "CREATE INDEX mine ON _acme_thing (gone)",
    "index of two": "CREATE UNIQUE INDEX mine ON _acme_thing (name, size)",
    "index of an expression": "CREATE INDEX mine ON _acme_thing (lower(name)) WHERE size > 0",
    "view": "CREATE VIEW mine AS SELECT id, gone FROM acme_thing WHERE size > 10",
    "view of the table": "CREATE VIEW mine AS SELECT _id, gone, size FROM _acme_thing",
    "view of everything": "CREATE VIEW mine AS SELECT * FROM acme_thing JOIN acme_other ON name = note",
    "broken view": "CREATE VIEW mine AS SELECT absent FROM elsewhere",
    "trigger": "CREATE TRIGGER mine AFTER UPDATE OF gone ON _acme_thing BEGIN SELECT new.size; END",
    "trigger that writes": """
        CREATE TABLE mylog (a);
        CREATE TRIGGER mine AFTER UPDATE ON _acme_thing BEGIN INSERT INTO mylog VALUES (new.gone); END
    """,
    "trigger on a view": "CREATE TRIGGER mine INSTEAD OF INSERT ON acme_thing BEGIN SELECT 1; END",
    "trigger elsewhere": """
        CREATE TABLE mylog (a);
        CREATE TRIGGER mine AFTER INSERT ON mylog BEGIN UPDATE _acme_thing SET size = new.a; END
    """,
    "generated column": "ALTER TABLE _acme_thing ADD COLUMN mine AS (gone + 1)",
    "index with a name like ours": "CREATE INDEX _max_mine ON _acme_thing (gone)",
    "view with a name like ours": "CREATE VIEW _max_mine AS SELECT gone FROM _acme_thing",
    "trigger with a name like ours": """
        CREATE TRIGGER _max_mine AFTER UPDATE ON _acme_thing BEGIN SELECT new.gone; END
    """,
    "generated columns that build on one another": """
        ALTER TABLE _acme_thing ADD COLUMN mine AS (gone + 1);
        ALTER TABLE _acme_thing ADD COLUMN mine_too AS (mine + 1);
        CREATE INDEX indexed ON _acme_thing (mine_too);
    """,
    "column with an index": """
        ALTER TABLE _acme_thing ADD COLUMN mine TEXT DEFAULT 'x';
        CREATE INDEX of_mine ON _acme_thing (mine);
    """,
    "generated column of two": "ALTER TABLE _acme_thing ADD COLUMN mine AS (name || size)",
    "column with a check": """
        ALTER TABLE _acme_thing ADD COLUMN mine TEXT CHECK (mine IS NULL OR gone IS NOT NULL)
    """,
    "column with a check of two": """
        ALTER TABLE _acme_thing ADD COLUMN [mine] TEXT DEFAULT 'CHECK (' CONSTRAINT "is," /* not ) */
            CHECK (mine <> "NAME" || ')' OR (size) IN (1, 2, 3));
        CREATE INDEX indexed ON _acme_thing (mine);
    """,
    "column": "ALTER TABLE _acme_thing ADD COLUMN mine TEXT DEFAULT 'x'",
    "table": "CREATE TABLE mine (thing TEXT REFERENCES _acme_thing (_id), gone TEXT)",
    "full text": """
        CREATE VIRTUAL TABLE words USING fts5(name, content='_acme_thing', content_rowid='_row');
        CREATE TRIGGER mine AFTER INSERT ON _acme_thing
         BEGIN INSERT INTO words (rowid, name) VALUES (new._row, new.name); END
    """,
}
UPGRADES: dict[str, tuple[dict[str, str] | None, list[Any]]] = {
    "field dropped": ({"name": "str", "size": "int"}, [DropField("Thing", "gone")]),
    "other field dropped": ({"size": "int", "gone": "int"}, [DropField("Thing", "name")]),
    "field renamed": (
        {"name": "str", "size": "int", "went": "int"},
        [RenameField("Thing", "gone", "went")],
    ),
    "type changed": (FIELDS | {"gone": "str"}, [ChangeType("Thing", "gone", using=str)]),
    "type changed and renamed": (
        {"name": "str", "size": "int", "went": "str"},
        [ChangeType("Thing", "gone", using=str), RenameField("Thing", "gone", "went")],
    ),
    "wider": (FIELDS | {"gone": "float"}, []),
    "key changed": (FIELDS, [ChangeKey("Thing", "name")]),
    "hidden": ({"name": "str", "size": "int"}, []),
    "new field": (FIELDS | {"added": "int"}, []),
    "field of the same name": (FIELDS | {"mine": "int"}, []),
    "entity renamed": (FIELDS, [RenameEntity("Thing", "Item")]),
    "entity dropped": (None, [DropEntity("Thing")]),
    "entity hidden": (None, []),
}


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    with closing(sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)) as opened:
        yield opened


def tables_of(
    connection: SqliteConnection, fields: dict[str, str] | None, *steps: Any, name: str = "Thing"
) -> TableWriter:
    """The tables of a connector with things, after its migrations."""
    with transaction(connection):
        return tables_in(connection, fields, *steps, name=name)


def tables_in(
    connection: SqliteConnection, fields: dict[str, str] | None, *steps: Any, name: str
) -> TableWriter:
    """The same inside a transaction."""
    policy = SchemaPolicy("acme", (Migration("changed", *steps),) if steps else ())
    entities = [OTHER] if fields is None else [OTHER, made(name, fields)]
    tables = writer(Schema(entities, connector="acme"), policy)
    tables.apply(connection)
    tables.change_log.attach(connection, on=True)
    return tables


def upgrade(connection: SqliteConnection, change: str) -> TableWriter:
    fields, steps = UPGRADES[change]
    return tables_of(connection, fields, *steps, name="Item" if change == "entity renamed" else "Thing")


def filled(connection: SqliteConnection) -> None:
    """Things as the first version of the connector stores them."""
    tables = tables_of(connection, FIELDS)
    thing: Any = tables.schema.entity("Thing")
    with transaction(connection):
        rows = [thing(str(n), name=f"name {n}", size=n, gone=n) for n in range(1, 4)]
        tables.write(connection, Delivery(rows, 5.0))


def objects(connection: SqliteConnection) -> set[tuple[str, str]]:
    """What there is that is not Max's."""
    rows = connection.execute(
        "SELECT type, name FROM sqlite_master WHERE name IN ('mine', '_max_mine', 'mylog', 'words')"
    )
    return {*rows.fetchall()}


def refusal(connection: SqliteConnection, change: str) -> SchemaError | None:
    """Why an upgrade is refused; None when it is not.  Nothing is changed."""
    connection.execute("BEGIN")
    try:
        fields, steps = UPGRADES[change]
        tables_in(connection, fields, *steps, name="Item" if change == "entity renamed" else "Thing")
    except SchemaError as error:
        connection.execute("COMMIT")  # what was written before it would be seen
        return error
    connection.execute("ROLLBACK")
    return None


def statements(hint: str) -> list[str]:
    """The statements that a hint asks for."""
    return re.findall(r"(?:DROP|ALTER) [A-Z]+ .*?(?=;|$)", hint)


@pytest.mark.parametrize("change", UPGRADES)
@pytest.mark.parametrize("own", OWN)
def test_what_a_user_made_outlives_an_upgrade_or_is_named_before_anything_is_written(
    connection: SqliteConnection, own: str, change: str
) -> None:
    filled(connection)
    connection.executescript(OWN[own])
    before = list(connection.iterdump()) if own != "full text" else []
    refused = refusal(connection, change)
    if refused is None:
        tables = upgrade(connection, change)
        assert ("mine" in str(objects(connection))) is ("column" not in own)
        if "column" in own and change != "entity dropped":
            table = "_acme_item" if change == "entity renamed" else "_acme_thing"
            assert connection.execute(f"SELECT mine FROM {table}").fetchall()
    else:
        assert own == "full text" or list(connection.iterdump()) == before
        assert "mine" in refused.message
        needed = statements(refused.hint)
        assert needed
        for statement in needed:
            connection.execute(statement)
        tables = upgrade(connection, change)
    for name, entity in tables.schema.entities.items():
        if name != "Other":
            with transaction(connection):
                tables.write(connection, Delivery([entity("9")], 50.0, removed=[entity.ref("1")]))


@pytest.mark.parametrize("column", ["went", "WENT"])
@pytest.mark.parametrize("definition", ["TEXT DEFAULT 'x'", "AS (gone + 1)"])
def test_a_field_is_not_renamed_to_a_column_that_a_user_made(
    connection: SqliteConnection, column: str, definition: str
) -> None:
    filled(connection)
    connection.execute(f"ALTER TABLE _acme_thing ADD COLUMN {column} {definition}")
    connection.execute(f"CREATE INDEX indexed ON _acme_thing ({column})")
    refused = refusal(connection, "field renamed")
    assert refused is not None
    assert f"your column {column}" in refused.message
    for statement in statements(refused.hint):
        connection.execute(statement)
    upgrade(connection, "field renamed")
    assert connection.execute("SELECT went FROM acme_thing").fetchall() == [(1,), (2,), (3,)]


def test_a_field_is_not_renamed_to_one_that_differs_by_case(connection: SqliteConnection) -> None:
    filled(connection)
    steps = RenameField("Thing", "gone", "Name")
    with pytest.raises(SchemaError, match="cannot become Name, as name is stored already") as caught:
        tables_of(connection, {"size": "int", "Name": "int"}, steps)
    assert 'DropField("Thing", "name")' in caught.value.hint


def test_a_new_field_may_have_the_old_name_of_a_collection(connection: SqliteConnection) -> None:
    def version(fields: dict[str, str], many: str, *steps: Any) -> None:
        root = made("Root", fields, **{many: ("Thing", None)})
        policy = SchemaPolicy("acme", (Migration("changed", *steps),) if steps else ())
        with transaction(connection):
            schema = Schema([root, made("Thing", {})], connector="acme")
            writer(schema, policy).apply(connection)

    version({}, "things")
    version({"things": "int"}, "parts", RenameField("Root", "things", "parts"))
    assert "things" in connection.dialect.columns(connection, "acme_root")


def test_a_new_field_may_have_the_old_name_of_another(connection: SqliteConnection) -> None:
    filled(connection)
    fields = {"name": "str", "size": "int", "went": "int", "gone": "str | None"}
    tables_of(connection, fields, RenameField("Thing", "gone", "went"))
    rows = connection.execute("SELECT went, gone FROM acme_thing").fetchall()
    assert rows == [(1, None), (2, None), (3, None)]


def test_a_plan_names_what_a_user_made(connection: SqliteConnection) -> None:
    filled(connection)
    connection.execute(OWN["index"])
    connection.execute("CREATE VIEW seen AS SELECT gone FROM acme_thing")
    fields, steps = UPGRADES["field dropped"]
    schema = Schema([OTHER, made("Thing", fields or {})], connector="acme")
    policy = SchemaPolicy("acme", (Migration("changed", *steps),))
    (change,) = plan(connection, UnknownLoaders(schema), policy).changes
    assert change.words == "is emptied; its column stays for your index mine; it is named by your view seen"


def test_a_check_that_no_empty_value_passes_is_named_with_the_statement_that_drops_its_column(
    connection: SqliteConnection,
) -> None:
    filled(connection)
    connection.execute("ALTER TABLE _acme_thing ADD COLUMN other TEXT CHECK (other <> 'x')")
    check = "CHECK (mine IS NULL OR gone IS NOT NULL)"
    connection.execute(f"ALTER TABLE _acme_thing ADD COLUMN mine TEXT DEFAULT 'x' {check}")
    before = list(connection.iterdump())
    with pytest.raises(StorageError, match="the tables cannot be changed: CHECK constraint failed") as caught:
        upgrade(connection, "field dropped")
    assert list(connection.iterdump()) == before
    assert statements(caught.value.hint) == ['ALTER TABLE "_acme_thing" DROP COLUMN "mine"']
    connection.execute(statements(caught.value.hint)[0])
    upgrade(connection, "field dropped")
    assert "gone" not in connection.dialect.columns(connection, "_acme_thing")


def test_a_column_stays_for_the_columns_alone_that_name_it(connection: SqliteConnection) -> None:
    filled(connection)
    connection.execute("ALTER TABLE _acme_thing ADD COLUMN other AS (size + 1)")
    connection.execute("ALTER TABLE _acme_thing ADD COLUMN mine TEXT CHECK (mine <> name)")
    schema = Schema([OTHER, made("Thing", {"size": "int"})], connector="acme")
    policy = SchemaPolicy("acme", (Migration("m", DropField("Thing", "gone"), DropField("Thing", "name")),))
    changes = plan(connection, UnknownLoaders(schema), policy).changes
    assert [one.words for one in changes] == [
        "is deleted with what was stored of it",
        "is emptied; its column stays for your column mine",
    ]


def test_a_column_that_stayed_for_an_index_goes_once_the_index_is_gone(connection: SqliteConnection) -> None:
    filled(connection)
    connection.execute(OWN["index"])
    upgrade(connection, "field dropped")
    upgrade(connection, "field dropped")  # another start
    assert connection.execute("SELECT gone FROM _acme_thing").fetchall() == [(None,)] * 3
    connection.execute("DROP INDEX mine")
    upgrade(connection, "field dropped")
    assert "gone" not in connection.dialect.columns(connection, "_acme_thing")


def test_a_column_that_stayed_for_an_index_is_not_given_to_another_field(
    connection: SqliteConnection,
) -> None:
    filled(connection)
    connection.execute(OWN["index"])
    upgrade(connection, "field dropped")
    dropped = DropField("Thing", "gone")
    with pytest.raises(SchemaError, match="would take the column that your index mine uses") as caught:
        tables_of(connection, {"name": "str", "size": "int", "gone": "str"}, dropped)
    assert 'DROP INDEX "mine"' in caught.value.hint
    connection.execute("DROP INDEX mine")
    tables = tables_of(connection, {"name": "str", "size": "int", "gone": "str"}, dropped)
    thing: Any = tables.schema.entity("Thing")
    with transaction(connection):
        tables.write(connection, Delivery([thing("1", gone="007")], 60.0))
    assert tables.load(connection, thing.ref("1"), thing.gone) == thing("1", gone="007")


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
@pytest.mark.parametrize("name", ["acme_item", "_acme_item", "ACME_ITEM"])
def test_a_new_entity_never_takes_what_a_user_made(
    connection: SqliteConnection, kind: str, name: str
) -> None:
    filled(connection)
    body = "(a)" if kind == "TABLE" else "AS SELECT 1 AS a"
    connection.execute(f"CREATE {kind} {name} {body}")
    policy = SchemaPolicy("acme")
    tables = writer(Schema([OTHER, made("Thing", FIELDS), made("Item", {})], connector="acme"), policy)
    with pytest.raises(SchemaError, match=f"would take the name of your {kind.lower()} {name}") as caught:
        tables.apply(connection)
    assert f'DROP {kind} "{name}"' in caught.value.hint


@pytest.mark.parametrize(
    "own",
    [
        "ALTER TABLE _acme_thing ADD COLUMN mine TEXT CHECK (gone IS NOT NULL)",
        "CREATE UNIQUE INDEX mine ON _acme_thing (coalesce(gone, 3))",
        "CREATE TRIGGER mine BEFORE INSERT ON _acme_thing BEGIN SELECT RAISE(ABORT, 'mine says no'); END",
    ],
)
def test_what_keeps_a_sync_from_writing_is_an_error_that_says_what_to_do(
    connection: SqliteConnection, own: str
) -> None:
    filled(connection)
    connection.execute(own)
    tables = tables_of(connection, FIELDS)
    thing: Any = tables.schema.entity("Thing")
    with pytest.raises(sqlite3.IntegrityError) as caught, transaction(connection):
        tables.write(connection, Delivery([thing("9", name="new")], 50.0))
    error = connection.dialect.error("data.db", caught.value)
    assert error.hint == REFUSED
    assert "CHECK" in error.message or "mine" in error.message


# -- what users drop ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("VIEW", "acme_thing"),
        ("INDEX", "_max_index:_acme_thing._removed_at"),
        ("INDEX", "_max_load_page"),
        ("INDEX", "_max_load_received"),
    ],
)
def test_a_view_or_an_index_of_ours_that_a_user_dropped_is_made_again(
    connection: SqliteConnection, kind: str, name: str
) -> None:
    tables = tables_of(connection, FIELDS)
    tables.build_indexes(connection)
    sql = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
    before = connection.execute(sql).fetchall()
    connection.execute(f'DROP {kind} "{name}"')
    tables_of(connection, FIELDS)
    assert connection.execute(sql).fetchall() == before


def test_a_change_log_without_one_of_its_triggers_starts_over(connection: SqliteConnection) -> None:
    filled(connection)
    names = "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY 1"
    before = connection.execute(names).fetchall()
    connection.execute(f'DROP TRIGGER "{before[0][0]}"')
    connection.execute("DELETE FROM _acme_thing WHERE _id = '2'")
    tables = tables_of(connection, FIELDS)
    assert len(connection.execute(names).fetchall()) == len(before)
    items = tables.change_log.page(connection, ALL_ROWS).items
    assert [(change.kind, change.id) for change in items] == [("created", "1"), ("created", "3")]


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("DROP TABLE _acme_thing", "is not there any more"),
        ("ALTER TABLE _acme_thing DROP COLUMN gone", "lacks gone"),
    ],
)
def test_a_table_or_a_column_of_ours_that_is_gone_is_damage(
    connection: SqliteConnection, statement: str, lost: str
) -> None:
    filled(connection)
    connection.execute("DROP VIEW acme_thing")
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f'DROP TRIGGER "{name}"')
    connection.execute(statement)
    with pytest.raises(StorageCorrupt, match=f"the table _acme_thing {lost}") as caught:
        tables_of(connection, FIELDS)
    assert "move the file away" in caught.value.hint
