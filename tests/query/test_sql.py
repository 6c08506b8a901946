"""A caller's own SQL: what it answers, what it may not do, and that nothing makes it hang or grow."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from max_connectors.acme import AcmeTask, AcmeUser, connector

from max.engine import DatabaseEngine
from max.errors import InvalidSql, SqlLimit, UsageError
from max.query.sql import SqlReader, open_sql, unique
from max.storage import sqlite_select
from max.storage.sqlite import SqliteDatabase

ROOT = Path(__file__).parent.parent.parent
MEMORY = 2_500_000_000  # bytes of addresses that the process of a statement may have


async def store(path: Path) -> None:
    database = SqliteDatabase(path)
    await database.start()
    engine = DatabaseEngine(database, connector.resolver)
    await engine.start()
    tasks = [AcmeTask(f"t{n}", title=f"Task {n}", tags=["a", "b"], priority=n % 3) for n in range(9)]
    await engine.store(*tasks, AcmeUser("u1", name="Ada"), requested_at=1_000.0)
    await engine.stop()
    await database.stop()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with nine tasks and a user."""
    path = tmp_path_factory.mktemp("sql") / "data.db"
    asyncio.run(store(path))
    return path


@pytest.fixture
def reader(file: Path) -> Iterator[SqlReader]:
    with open_sql({"acme:default": SqliteDatabase(file)}) as reader:
        yield reader


# -- answers --------------------------------------------------------------------------------------


def test_a_column_has_the_declared_type_under_its_own_name_and_else_that_of_its_values(
    reader: SqlReader,
) -> None:
    answer = reader.sql("SELECT tags, tags AS words, priority, priority + 0.5, NULL FROM acme_task LIMIT 1")
    assert [one.type for one in answer.columns] == ["JSON TEXT", "TEXT", "INTEGER", "REAL", "NULL"]
    assert answer.to_dicts()[0]["tags"] == ["a", "b"]
    assert answer.to_dicts()[0]["words"] == '["a","b"]'
    assert answer.to_dicts(raw=True)[0]["tags"] == '["a","b"]'


@given(st.lists(st.sampled_from(["a", "a_2", "a_3", "b", ""]), max_size=8))
def test_every_column_has_a_name_of_its_own(names: list[str]) -> None:
    found = unique(names)
    assert len(set(found)) == len(found) == len(names)
    assert all(new == old or new.startswith(f"{old}_") for new, old in zip(found, names, strict=True))
    assert all(name in found for name in names)


def test_rows_beyond_a_size_are_left_out_and_said(reader: SqlReader) -> None:
    many = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT zeroblob(10000000) FROM t"
    answer = reader.sql(many)
    assert (len(answer.rows), answer.truncated) == (sqlite_select.MOST_ROWS // 10_000_000, True)


def test_the_connection_is_afterwards_as_it_was(file: Path) -> None:
    with open_sql({"acme:default": SqliteDatabase(file)}) as reader:
        connection = reader._connection

        def settings() -> list[object]:
            limits = [connection.getlimit(n) for n in range(12)]  # type: ignore[attr-defined]
            pragmas = ("query_only", "temp_store", "cache_size")
            return limits + [connection.execute(f"PRAGMA {one}").fetchone() for one in pragmas]

        before = settings()
        with pytest.raises(InvalidSql):
            reader.sql("SELECT nonsense FROM nowhere")
        assert settings() == before
        assert connection.execute("PRAGMA page_size").fetchone()


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "problem", "at", "hint"),
    [
        ("SELECT titel FROM acme_task", "no such column: titel", "titel", "acme_task has title"),
        ("SELECT 1\n FROM acme_taks", "no such table: acme_taks", "acme_taks", "did you mean: acme_task"),
        ("SELECT id FROM task", "no such table: task", "task", "did you mean: acme_task"),
        (
            "SELECT id FROM acme_task WHERE title = done",
            "no such column: done",
            "done",
            "a text is written 'done'",
        ),
        ("SELECT ',', a,, b FROM acme_task", 'near ",": syntax error', ", b FROM", ""),
        ("SELECT id FROM acme_task t, acme_user u", "ambiguous column name: id", "id", ""),
        ("SELECT 'id', t.id, id FROM acme_task t, acme_user u", "ambiguous column name: id", "id FROM", ""),
        ("SELECT now()", "no such function: now", "now()", ""),
        ("SELECT id FROM acme_task WHERE 'open", "unrecognized token", "'open", ""),
        ("SELECT count(*) FROM acme_task WHERE count(*) > 1", "misuse of aggregate", "count(*) FROM", ""),
        ("SELECT", "incomplete input", "", ""),
    ],
)
def test_an_error_points_at_its_place_and_names_what_is_near(
    reader: SqlReader, statement: str, problem: str, at: str, hint: str
) -> None:
    with pytest.raises(InvalidSql) as caught:
        reader.sql(statement)
    error = caught.value
    assert problem in error.problem
    assert error.position is not None
    assert statement[error.position :].startswith(at)
    assert hint in error.hint
    line, caret = error.message.splitlines()[1:]
    assert line[caret.index("^") :].startswith(at.split("\n")[0])
    assert ("line 2" in error.message) == ("\n" in statement)


@pytest.mark.parametrize(
    "condition",
    [
        "updated_at >= '2025'",
        "t.\"due_date\"<'2025'",
        "due_date BETWEEN '2024' AND '2025'",
        "DUE_DATE is not '20250101'",
        "due_date > :since",
    ],
)
def test_a_year_beside_a_time_is_refused_since_sqlite_takes_it_for_a_number(
    reader: SqlReader, condition: str
) -> None:
    statement = f"SELECT id FROM acme_task AS t WHERE {condition}"
    with pytest.raises(InvalidSql, match=r"SQLite takes \d+ for a number") as caught:
        reader.sql(statement, {"since": 2025} if ":since" in condition else ())
    assert statement[caught.value.position or 0] in "':"


@pytest.mark.parametrize(
    "condition",
    [
        "updated_at >= '2025-01'",
        "substr(due_date, 1, 4) = '2025'",
        "title = '2025'",
        "priority < '2025'",
        "due_date > :since",
    ],
)
def test_what_is_compared_as_text_is_not_refused(reader: SqlReader, file: Path, condition: str) -> None:
    statement, values = f"SELECT id FROM acme_task WHERE {condition}", {"since": "2025-01"}
    answer = reader.sql(statement, values if ":since" in condition else ())
    with closing(sqlite3.connect(file)) as by_hand:
        assert answer.rows == by_hand.execute(statement, values).fetchall()


def test_a_caret_is_below_wide_characters() -> None:
    error = InvalidSql("SELECT '日本', x", "no such column: x", 13)
    assert error.message.splitlines()[1:] == ["  SELECT '日本', x", "  " + " " * 15 + "^"]


@pytest.mark.parametrize(
    ("statement", "values", "problem"),
    [
        ("SELECT :since", {}, "a parameter has no value: :since"),
        ("SELECT ?, ?", [1], "a parameter has no value: :name"),
        ("SELECT 1; SELECT 2", (), "there is more than one statement"),
        ("SELECT CAST(x'ff' AS TEXT)", (), "a value is no UTF-8 text"),
        ("-- nothing", (), "there is no statement"),
        ("WITH a AS (", (), "incomplete input"),
        (
            "SELECT 1 WHERE 'a' LIKE :p",
            {"p": "a" * 201},
            "a pattern of LIKE or GLOB is longer than 200 bytes",
        ),
    ],
)
def test_what_sqlite_says_in_its_own_way_has_words(
    reader: SqlReader, statement: str, values: dict[str, str], problem: str
) -> None:
    with pytest.raises(InvalidSql) as caught:
        reader.sql(statement, values)
    assert (caught.value.problem, caught.value.code) == (problem, "usage.sql")


# -- what it may do -------------------------------------------------------------------------------

READS = [
    "SELECT name FROM sqlite_master",
    "SELECT count(*) FROM _max_load",
    "EXPLAIN QUERY PLAN SELECT * FROM acme_task",
    "PRAGMA table_info(acme_task)",
    "SELECT name FROM pragma_table_xinfo('acme_task')",
    "VALUES (1), (2);",
    "WITH t AS (SELECT 1 AS x) SELECT u.x FROM t, t AS u -- twice",
    "SELECT value FROM acme_task, json_each(tags)",
]
REFUSED = [
    "ATTACH '/etc/passwd' AS x",
    "DETACH main",
    "SELECT load_extension('x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT rtreecheck('x')",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA query_only = 0",
    "PRAGMA user_version = 5",
    "PRAGMA writable_schema = 1",
    "PRAGMA temp_store_directory = '/'",
    "PRAGMA wal_checkpoint",
    "PRAGMA integrity_check",
    "SELECT * FROM pragma_journal_mode",
    "SELECT * FROM dbstat",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "CREATE TABLE x (y)",
    "CREATE TEMP TABLE x (y)",
    "CREATE VIRTUAL TABLE x USING fts5(y)",
    "INSERT INTO _acme_task (_id) VALUES ('x')",
    "WITH x AS (SELECT 1) DELETE FROM _acme_task",
    "UPDATE _acme_task SET title = 'x' RETURNING title",
    "EXPLAIN DELETE FROM _acme_task",
    "DROP VIEW acme_task",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "SAVEPOINT x",
    "ANALYZE",
    "REINDEX",
]


@pytest.mark.parametrize("statement", READS)
def test_what_only_reads_is_answered(reader: SqlReader, statement: str) -> None:
    assert reader.sql(statement).rows


@pytest.mark.parametrize("statement", REFUSED)
def test_what_does_more_is_refused_and_changes_no_file(reader: SqlReader, file: Path, statement: str) -> None:
    before = {one.name: one.read_bytes() for one in file.parent.iterdir()}
    with pytest.raises(InvalidSql) as caught:
        reader.sql(statement)
    assert "allowed" in caught.value.hint
    assert {one.name: one.read_bytes() for one in file.parent.iterdir()} == before


def test_a_view_of_the_owner_may_do_no_more(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data.db"
    with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
        new.execute("CREATE VIEW v0 AS SELECT 1 AS x")
        for n in range(1, 28):
            new.execute(f"CREATE VIEW v{n} AS SELECT 1 AS x FROM v{n - 1} AS a, v{n - 1} AS b")
        new.execute("CREATE VIEW bad AS SELECT load_extension('x')")
        new.execute("CREATE VIEW mine AS SELECT replace(title, 'Task', '') AS number FROM acme_task")
    with open_sql({"acme:default": SqliteDatabase(copy)}) as reader:
        assert len(reader.sql("SELECT number FROM mine").rows) == 9
        with pytest.raises(UsageError):
            reader.sql("SELECT * FROM bad")
        with pytest.raises(SqlLimit, match="inside one another"):
            reader.sql("SELECT * FROM v27")


def test_a_view_of_the_owner_that_names_what_is_gone_is_no_damage(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data.db"
    with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
        new.execute("CREATE VIEW dangling AS SELECT * FROM gone")
        new.execute("CREATE VIEW narrow AS SELECT lacking FROM acme_task")
    with open_sql({"acme:default": SqliteDatabase(copy)}) as reader:
        with pytest.raises(InvalidSql, match="no such table: acme_taks") as misspelt:
            reader.sql("SELECT 1 FROM acme_taks")
        assert "did you mean: acme_task" in misspelt.value.hint
        with pytest.raises(InvalidSql, match=r"no such table: main\.gone"):
            reader.sql("SELECT * FROM dangling")
        with pytest.raises(InvalidSql, match="no such column: lacking"):
            reader.sql("SELECT * FROM narrow")


# -- how much it may take -------------------------------------------------------------------------


def chain(uses: Callable[[str], str], first: str = "a", links: int = 28) -> str:
    """Common table expressions of which each uses the one before twice."""
    names = [f"{first}{n}" for n in range(links)]
    parts = [f"{names[0]} AS (SELECT 1 AS x)"]
    parts += [f"{new} AS (SELECT 1 AS x {uses(old)})" for old, new in pairwise(names)]
    return f"WITH {', '.join(parts)} SELECT 1 FROM {names[-1]}"


def nested(depth: int) -> str:
    """The same with two names, each defined inside the other."""
    if not depth:
        return "SELECT 1 AS x"
    name = "ab"[depth % 2]
    return f"WITH {name} AS ({nested(depth - 1)}) SELECT 1 AS x FROM {name} AS p, {name} AS q"


BOMBS = {
    "comma": chain("FROM {0}, {0}".format),
    "join": chain("FROM {0} JOIN {0} AS q".format),
    "brackets": chain("FROM (({0}) JOIN ({0} AS q)) ORDER BY 1".format),
    "comments": chain("FROM/**/{0}--\n,/* FROM */{0}".format),
    "quotes": chain("FROM [{0}], `{0}`".format),
    "text": chain("FROM '{0}', \"{0}\"".format),
    "in": chain("WHERE 1 IN {0} AND 1 IN {0}".format),
    "subqueries": chain("WHERE (SELECT x FROM {0}) = (SELECT x FROM {0})".format),
    "on": chain("FROM acme_task AS t JOIN acme_user AS u ON (SELECT 1), {0}, {0}".format),
    "beyond ASCII": chain("FROM {0}, {0}".format, first="\u00a0"),
    "euro": chain("FROM {0}, {0}".format, first="x€"),
    "byte order mark": chain("FROM \ufeff{0}, \ufeff{0}".format),
    "parameter": chain("+ ?1FROM {0}, {0}".format),
    "long s": chain("FROM acme_task AS ſelect, {0}, {0}".format),
    "keyword": chain("FROM {0}, {0}".format, first="window"),
    "materialized": chain("FROM {0}, {0}".format).replace(" AS (", " AS NOT MATERIALIZED ("),
    "nested": nested(26),
    "windows": chain(
        "+ sum(1) OVER w FROM acme_task WINDOW w AS (PARTITION BY (SELECT 1 FROM {0}, {0}))".format
    ),
    "a window named with": chain(
        "+ sum(1) OVER w FROM acme_task"
        " WINDOW with AS (), w AS (with ORDER BY (SELECT 1 FROM {0}, {0}))".format
    ),
    "deep": chain("FROM {0}".format, links=2_500),
    "open": "WITH " + "a AS (" * 15_000,
    "long": "SELECT " + "1," * 2_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_names_inside_names_are_counted_before_sqlite_copies_them(reader: SqlReader, name: str) -> None:
    with pytest.raises(SqlLimit):
        reader.sql(BOMBS[name], [1] if name == "parameter" else ())


def test_ordinary_use_of_names_is_no_bomb(reader: SqlReader) -> None:
    assert reader.sql(chain("FROM {0}, {0}".format, links=9)).rows == [(1,)]
    assert reader.sql(chain("FROM {0}".format, links=45)).rows == [(1,)]
    again = (
        "SELECT * FROM (WITH t AS (SELECT 1 AS x) SELECT x FROM t), (WITH t AS (SELECT 2) SELECT * FROM t)"
    )
    assert reader.sql(again).rows == [(1, 2)]


ROWS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t{}) "
ENDLESS, MILLIONS = ROWS.format(""), ROWS.format(" LIMIT 400000")
HEAVY = {
    "endless": ENDLESS + "SELECT count(*) FROM t",
    "distinct": ENDLESS + "SELECT count(DISTINCT n) FROM t",
    "sorted": ENDLESS + "SELECT n FROM t ORDER BY random()",
    "long rows": ENDLESS + "SELECT n FROM t ORDER BY zeroblob(4000000)",
    "joined": "SELECT count(*) FROM " + ", ".join(f"acme_task AS t{n}" for n in range(40)),
    "one text": ENDLESS + "SELECT group_concat(n) FROM t",
    "one array": ENDLESS + "SELECT json_group_array(n) FROM t",
    "wide": "SELECT " + ", ".join(["zeroblob(16000000)"] * 1_500),
    "wide inside": "SELECT 1 FROM (SELECT "
    + ", ".join(f"hex(randomblob(8000000)) AS a{n}" for n in range(150))
    + ") WHERE "
    + " AND ".join(f"a{n} > ''" for n in range(150)),
    "zeroblob": "SELECT zeroblob(900000000)",
    "patched": MILLIONS
    + "SELECT json_patch('{' || group_concat('\"' || n || '\":1') || '}',"
    + " '{' || group_concat('\"-' || n || '\":1') || '}') FROM t",
    "trimmed": "SELECT ltrim(hex(zeroblob(400000)), hex(randomblob(200000)) || '0')",
    "replaced": "SELECT replace(hex(zeroblob(4000000)), hex(zeroblob(2000000)) || '1', '')",
    "found": "SELECT instr(hex(zeroblob(4000000)), hex(zeroblob(2000000)) || '1')",
    "alike": "SELECT hex(zeroblob(4000000)) LIKE '%' || hex(zeroblob(2000000)) || '1%'",
}
PROGRAM = """
import sys
from pathlib import Path
from max.errors import UsageError
from max.query.sql import open_sql
from max.storage.sqlite import SqliteDatabase
with open_sql({"acme:default": SqliteDatabase(sys.argv[1])}) as reader:
    try:
        reader.sql(sys.stdin.read(), timeout=0.5)
    except UsageError as error:
        print(type(error).__name__)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize("name", HEAVY)
def test_what_takes_too_much_is_ended_in_a_process_with_little_memory(file: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)],
        input=HEAVY[name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    kind, kilobytes = done.stdout.split()
    assert kind in ("SqlLimit", "InvalidSql"), done.stderr
    assert int(kilobytes) < 1_200_000
    assert done.stderr == ""


def test_a_statement_writes_to_no_file_however_much_it_sorts(file: Path) -> None:
    program = (
        "import resource, sys\n"
        "from max.query.sql import open_sql\n"
        "from max.storage.sqlite import SqliteDatabase\n"
        "with open_sql({'acme:default': SqliteDatabase(sys.argv[1])}) as reader:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "    print(len(reader.sql(sys.stdin.read(), timeout=60, limit=2).rows))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        input=MILLIONS + "SELECT n, hex(randomblob(40)) AS x FROM t ORDER BY x",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
