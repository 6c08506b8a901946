"""What users make in a schema of Postgres outlives every upgrade, or the plan names it and how to drop it.

A few pairs are tried in every run, all of them with ``MAX_ON_POSTGRES=all``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from max.errors import StorageError
from max.model.delivery import Delivery
from max.model.migrations import ChangeType, DropField, Migration, SchemaPolicy
from max.model.schema import Schema
from max.storage.database import REFUSED
from max.storage.users_own import users_own
from tests.contract.places import dump, postgres_connection, sharing_connections, transaction
from tests.on_both import EVERY
from tests.sample import writer
from tests.storage.test_users_own import (
    FIELDS,
    UPGRADES,
    filled,
    refusal,
    statements,
    tables_of,
    upgrade,
)
from tests.versions import made

pytestmark = pytest.mark.postgres
FUNCTION = "CREATE FUNCTION mine_does() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$;"
TRIGGER = "CREATE TRIGGER mine {} FOR EACH ROW EXECUTE FUNCTION mine_does()"
OWN = {
    "index": "CREATE INDEX mine ON _acme_thing (gone)",
    "index of an expression": "CREATE INDEX mine ON _acme_thing (lower(name)) WHERE size > 0",
    "view": "CREATE VIEW mine AS SELECT id, gone FROM acme_thing WHERE size > 10",
    "view of the table": "CREATE VIEW mine AS SELECT _id, gone, size FROM _acme_thing",
    "view of everything": """
        CREATE VIEW mine AS SELECT t.*, note FROM acme_thing AS t JOIN acme_other ON name = note
    """,
    "view of a view": """
        CREATE VIEW mine AS SELECT * FROM acme_thing; CREATE VIEW yours AS SELECT size FROM mine
    """,
    "view of another schema": """
        CREATE SCHEMA {elsewhere};
        CREATE VIEW {elsewhere}.mine WITH (security_barrier)
            AS SELECT size FROM acme_thing WHERE size > ALL ('{1}');
        GRANT SELECT ON {elsewhere}.mine TO PUBLIC; COMMENT ON VIEW {elsewhere}.mine IS 'what''s large?';
        GRANT UPDATE (size) ON {elsewhere}.mine TO PUBLIC; COMMENT ON COLUMN {elsewhere}.mine.size IS '$max$';
        ALTER VIEW {elsewhere}.mine ALTER size SET DEFAULT 11;
    """,
    "materialised view": "CREATE MATERIALIZED VIEW mine AS SELECT size FROM acme_thing",
    "materialised view of a view": """
        CREATE VIEW yours AS SELECT size FROM acme_thing;
        CREATE MATERIALIZED VIEW mine AS SELECT size AS large FROM yours
    """,
    "trigger": FUNCTION.format("PERFORM new.gone;") + TRIGGER.format("AFTER UPDATE ON _acme_thing"),
    "trigger of a column": FUNCTION.format("") + TRIGGER.format("AFTER UPDATE OF gone ON _acme_thing"),
    "disabled trigger": FUNCTION.format("PERFORM new.size;")
    + TRIGGER.format("AFTER UPDATE ON _acme_thing")
    + ";ALTER TABLE _acme_thing DISABLE TRIGGER mine; COMMENT ON TRIGGER mine ON _acme_thing IS 'off'",
    "trigger on a view": FUNCTION.format("") + TRIGGER.format("INSTEAD OF INSERT ON acme_thing"),
    "trigger elsewhere": "CREATE TABLE mylog (a INT);"
    + FUNCTION.format("UPDATE _acme_thing SET size = new.a;")
    + TRIGGER.format("AFTER INSERT ON mylog"),
    "rule": "CREATE RULE mine AS ON DELETE TO _acme_thing WHERE old.gone > 5 DO ALSO NOTHING",
    "rule on a view": "CREATE RULE mine AS ON INSERT TO acme_thing DO INSTEAD NOTHING;"
    "COMMENT ON RULE mine ON acme_thing IS 'read'",
    "generated column": "ALTER TABLE _acme_thing ADD COLUMN mine INT GENERATED ALWAYS AS (gone + 1) STORED",
    "column": "ALTER TABLE _acme_thing ADD COLUMN mine TEXT DEFAULT 'x'",
    "table": "CREATE TABLE mine (thing TEXT, gone TEXT)",
    "check": "ALTER TABLE _acme_thing ADD CONSTRAINT mine CHECK (gone > 0)",
    "check of two": """
        ALTER TABLE _acme_thing ADD CONSTRAINT mine CHECK (size > 0 OR gone IS NOT NULL) NOT VALID
    """,
    "check of the id": "ALTER TABLE _acme_thing ADD CONSTRAINT mine CHECK (_id <> 'none')",
    "unique": "ALTER TABLE _acme_thing ADD CONSTRAINT mine UNIQUE (gone)",
    "unique of two": "ALTER TABLE _acme_thing ADD CONSTRAINT mine UNIQUE (name, gone) DEFERRABLE",
    "exclusion": "ALTER TABLE _acme_thing ADD CONSTRAINT mine EXCLUDE (gone WITH =) WHERE (size > 0)",
    "statistics": "CREATE STATISTICS mine ON size, gone FROM _acme_thing",
    "statistics of another schema": """
        CREATE SCHEMA {elsewhere}; CREATE STATISTICS {elsewhere}.mine (mcv) ON name, gone FROM _acme_thing
    """,
    "foreign key": "CREATE TABLE mine (thing TEXT REFERENCES _acme_thing (_id))",
    "foreign key to a field": """
        ALTER TABLE _acme_thing ADD CONSTRAINT yours UNIQUE (gone);
        CREATE TABLE my (n BIGINT CONSTRAINT mine REFERENCES _acme_thing (gone))
    """,
    "foreign key of ours": """
        CREATE TABLE yours (n BIGINT PRIMARY KEY); INSERT INTO yours VALUES (1), (2), (3);
        ALTER TABLE _acme_thing ADD CONSTRAINT mine FOREIGN KEY (gone) REFERENCES yours DEFERRABLE
    """,
    "foreign key between ours": """
        ALTER TABLE _acme_other ADD CONSTRAINT mine FOREIGN KEY (note) REFERENCES _acme_thing (_id)
    """,
}
CONDITIONS = ("check", "unique", "exclusion", "statistics of another schema", "foreign key of ours")
SEVERAL = ("view of a view", "view of another schema", "disabled trigger", "rule on a view")
OWN["several conditions"] = ";".join(
    OWN[one].replace("CONSTRAINT mine", f"CONSTRAINT mine_{n}") for n, one in enumerate(CONDITIONS)
)
OWN["several that are made again"] = ";".join(OWN[one].rstrip().rstrip(";") for one in SEVERAL)
FEW = [
    ("several that are made again", "entity renamed"),
    ("several that are made again", "new field"),
    ("materialised view of a view", "new field"),
    ("trigger", "field renamed"),
    ("view", "field dropped"),
    ("several conditions", "field dropped"),
    ("several conditions", "type changed"),
    ("several conditions", "entity renamed"),
    ("check of two", "wider"),
    ("statistics", "type changed"),
    ("foreign key to a field", "type changed"),
]


@pytest.fixture
def connection() -> Iterator[Any]:
    with sharing_connections(), postgres_connection() as held:
        yield held
        held.execute(f"DROP SCHEMA IF EXISTS {elsewhere(held)} CASCADE")


def here(connection: Any) -> str:
    """The schema of the installation."""
    return str(connection.execute("SELECT current_schema()").fetchone()[0])


def elsewhere(connection: Any) -> str:
    """The name of another schema."""
    return f"{here(connection)}_else"


def make(connection: Any, own: str) -> None:
    connection.raw.execute(OWN[own].replace("{elsewhere}", elsewhere(connection)))


def run_as_hinted(connection: Any, hint: str) -> None:
    """Run the statements of a hint as another program does."""
    schema = here(connection)
    connection.execute("SET search_path TO public")
    needed = statements(hint)
    assert needed
    for statement in needed:
        connection.raw.execute(statement)
    connection.execute(f"SET search_path TO {schema}")


def made_by_users(connection: Any) -> dict[str, str]:
    """What is there of theirs, with what makes it again; an index and a column follow names."""
    own = [one for one in users_own(connection) if one.kind != "table"]
    follow = ("index", "column", "constraint", "statistics", "foreign key")
    return {f"{one.kind} {one.name}": "" if one.kind in follow else one.definition for one in own}


def known_of_views(connection: Any) -> list[Any]:
    """What the server knows beside the statements: readers, options, defaults, comments."""
    sql = """
        SELECT n.nspname, c.relname, CAST(c.relacl AS text), CAST(c.reloptions AS text),
               obj_description(c.oid, 'pg_class'),
               (SELECT string_agg(concat_ws(':', a.attname, a.attacl, col_description(c.oid, a.attnum),
                                            pg_get_expr(d.adbin, d.adrelid)), ', ' ORDER BY a.attnum)
                  FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
                 WHERE a.attrelid = c.oid AND a.attnum > 0),
               (SELECT string_agg(x.description, ', ' ORDER BY x.description) FROM pg_description AS x
                 WHERE x.description IN ('off', 'read') AND x.objoid IN (
                       SELECT t.oid FROM pg_trigger AS t JOIN pg_class AS k ON k.oid = t.tgrelid
                        WHERE k.relnamespace = to_regnamespace(?)
                        UNION SELECT r.oid FROM pg_rewrite AS r JOIN pg_class AS k ON k.oid = r.ev_class
                        WHERE k.relnamespace = to_regnamespace(?)))
          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname IN (?, ?) AND c.relkind = 'v' AND c.relname IN ('mine', 'yours') ORDER BY 1, 2
    """
    own = here(connection)
    return list(connection.execute(sql, (own, own, own, elsewhere(connection))).fetchall())


def conditions(connection: Any) -> list[Any]:
    """What the server checks in rows, or measures in them; without the names that it follows."""
    sql = """
        WITH ours AS (
            SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace(:own) AND relkind = 'r'
               AND starts_with(relname, '_') AND NOT starts_with(relname, '_max_')
        )
        SELECT conname, contype, convalidated, condeferrable, cardinality(conkey) FROM pg_constraint
         WHERE connamespace = to_regnamespace(:own) AND (conname LIKE '%mine%' OR conname LIKE 'yours%')
        UNION ALL
        SELECT stxname, 's', true, false, array_length(string_to_array(CAST(stxkeys AS text), ' '), 1)
          FROM pg_statistic_ext WHERE stxrelid IN (SELECT oid FROM ours)
        UNION ALL
        SELECT 'is there', 'n', true, false, 1 FROM pg_attribute
         WHERE attnotnull AND attnum > 0 AND NOT starts_with(attname, '_')
           AND attrelid IN (SELECT oid FROM ours)
         ORDER BY 1, 2
    """
    return list(connection.execute(sql, {"own": here(connection)}).fetchall())


@pytest.mark.parametrize(("own", "change"), [*product(OWN, UPGRADES)] if EVERY else FEW)
def test_what_a_user_made_outlives_an_upgrade_or_is_named_before_anything_is_written(
    connection: Any, own: str, change: str
) -> None:
    filled(connection)
    make(connection, own)
    before, mine, known = dump(connection), made_by_users(connection), known_of_views(connection)
    checked = conditions(connection)
    refused = refusal(connection, change)
    if refused is not None:
        assert "mine" in refused.message + refused.hint
        assert (dump(connection), made_by_users(connection), conditions(connection)) == (
            before,
            mine,
            checked,
        )
        run_as_hinted(connection, refused.hint)
    tables = upgrade(connection, change)
    if refused is None:
        assert (made_by_users(connection), known_of_views(connection)) == (mine, known)
        assert conditions(connection) == checked
    for name, entity in tables.schema.entities.items():
        if name != "Other":
            with transaction(connection):
                tables.write(connection, Delivery([entity("9")], 50.0, removed=[entity.ref("1")]))


@pytest.mark.parametrize(
    "change", UPGRADES if EVERY else ["field dropped", "hidden", "wider", "field renamed"]
)
def test_a_column_that_a_user_does_not_want_empty_is_named_before_it_is(connection: Any, change: str) -> None:
    filled(connection)
    connection.execute("ALTER TABLE _acme_thing ALTER COLUMN gone SET NOT NULL")
    before, checked = dump(connection), conditions(connection)
    refused = refusal(connection, change)
    kept = ("other field dropped", "field renamed", "new field", "field of the same name", "key changed")
    assert (refused is None) is (change in kept or change.startswith("entity"))
    if refused is None:
        upgrade(connection, change)
        assert change == "entity dropped" or len(conditions(connection)) == len(checked) == 1
        return
    assert dump(connection) == before
    assert "is in use by your NOT NULL of column gone" in refused.message
    assert statements(refused.hint) == [
        f"ALTER TABLE {here(connection)}._acme_thing ALTER COLUMN gone DROP NOT NULL"
    ]
    run_as_hinted(connection, refused.hint)
    tables = upgrade(connection, change)
    with transaction(connection):
        tables.write(connection, Delivery([tables.schema.entity("Thing")("9")], 50.0))


@pytest.mark.parametrize(
    "own",
    [
        "ADD CONSTRAINT mine CHECK (gone IS NOT NULL)",
        "ADD CONSTRAINT mine UNIQUE NULLS NOT DISTINCT (gone)",
        "ADD CONSTRAINT mine EXCLUDE ((coalesce(gone, 0)) WITH =)",
    ],
)
def test_what_no_empty_value_passes_is_named_with_the_statement_that_drops_it(
    connection: Any, own: str
) -> None:
    filled(connection)
    connection.execute("ALTER TABLE _acme_thing ADD CONSTRAINT other CHECK (size > 0)")
    connection.execute(f"ALTER TABLE _acme_thing {own}")
    before = dump(connection)
    with pytest.raises(StorageError, match=r"the tables cannot be changed: .*mine") as caught:
        upgrade(connection, "field dropped")
    assert dump(connection) == before
    drop = f"ALTER TABLE {here(connection)}._acme_thing DROP CONSTRAINT mine"
    assert statements(caught.value.hint) == [drop]
    run_as_hinted(connection, caught.value.hint)
    upgrade(connection, "field dropped")
    assert "gone" not in connection.dialect.columns(connection, "_acme_thing")


@pytest.mark.parametrize(
    "own",
    [
        "ALTER TABLE _acme_thing ADD CONSTRAINT mine CHECK (gone IS NOT NULL)",
        "ALTER TABLE _acme_thing ALTER COLUMN gone SET NOT NULL",
        FUNCTION.format("RAISE 'mine says no';") + TRIGGER.format("BEFORE INSERT ON _acme_thing"),
    ],
)
def test_what_keeps_a_sync_from_writing_is_an_error_that_says_what_to_do(connection: Any, own: str) -> None:
    filled(connection)
    connection.raw.execute(own)
    tables = tables_of(connection, FIELDS)
    thing: Any = tables.schema.entity("Thing")
    with pytest.raises(connection.dialect.errors) as caught, transaction(connection):
        tables.write(connection, Delivery([thing("9", name="new")], 50.0))
    error = connection.dialect.error("the server", caught.value)
    assert error.hint == REFUSED
    assert "mine" in error.message or '"gone"' in error.message


@pytest.mark.parametrize("step", [DropField, ChangeType])
def test_what_a_user_made_on_a_table_of_a_long_name_outlives_an_upgrade(connection: Any, step: Any) -> None:
    entity, field = f"Thing{'x' * 70}", f"gone_{'y' * 70}"

    def version(fields: dict[str, str], *steps: Any) -> None:
        policy = SchemaPolicy("acme", (Migration("changed", *steps),) if steps else ())
        with transaction(connection):
            writer(Schema([made(entity, fields)], connector="acme"), policy).apply(connection)

    version({field: "int"})
    connection.execute(f'CREATE INDEX mine ON "_acme_{entity.lower()}" ("{field}")')
    version({} if step is DropField else {field: "str"}, step(entity, field))
    assert [one.name for one in users_own(connection) if one.kind == "index"] == ["mine"]
