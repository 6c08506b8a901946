"""Each column of an installation's database holds what makes no sense: every command answers, or says so.

The damage is drawn, and so are the questions: ``MAX_DAMAGES`` says how many of each column (3 by default).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from max.core import SyncOptions
from max.model.tasks import Status
from max.project import Project
from max.serve.tools import Toolbox
from tests.command_line import Cli, prepare, project_at, running

ASKED = int(os.environ.get("MAX_DAMAGES", "3"))
PARTS = 4  # of the columns, each a test
DATA = Path(".max/installations/acme/default/data.db")
SIZE = " ".join(f"--set {one}" for one in ("users=4", "workspaces=1", "projects=2", "tasks=4", "page_size=2"))
VALUES: list[object] = ["x", b"\xff\x00", None, "", '{"a": ', "[[1]]", 2**62, -7, 1e300]
NEWEST = "the id of the newest sync"
ENTITIES = ["AcmeRoot", "AcmeWorkspace", "AcmeUser", "AcmeProject", "AcmeTask", "AcmeFile"]
COMMANDS = [
    ["ls"],
    ["count", "acme", "AcmeUser"],
    ["count", "acme", "AcmeTask", "--by", "status,assignee.name,due_date:month", "--sum", "estimate"],
    ["values", "acme", "AcmeTask.tags"],
    ["find", "audit log", "--in", "acme"],
    ["sql", "acme", "SELECT count(title), max(due_date) FROM acme_task"],
    ["get", "acme", "AcmeUser:w1-u1"],
    ["status"],
    ["status", "acme"],
    ["health"],
    ["doctor"],
    ["runs", "acme"],
    ["runs", "show", NEWEST],
    ["schema", "acme"],
    ["schema", "diff", "acme"],
    ["freshness", "acme"],
    ["quarantine", "acme"],
    ["changes", "acme"],
    ["changes", "acme", "--since", "beginning"],
    ["changes", "acme", "--summary"],
    ["schedule", "acme"],
    ["watch", "--once"],
    ["audit"],
    ["guide"],
    ["export", "acme", "--to", "out.sqlite", "--force"],
    ["migrate", "acme", "--plan"],
    ["invalidate", "acme", "AcmeUser.email"],
    ["pause", "acme"],
    ["migrate", "acme"],
    ["sync", "acme"],
    ["sync", "acme", "--full", "--discard-unfinished"],
    *(["search", "acme", entity, "--all"] for entity in ENTITIES),
]
TOOLS: list[tuple[str, dict[str, str]]] = [
    ("overview", {}),
    *(("describe", {"entity": entity}) for entity in ENTITIES),
    *(("search", {"entity": entity}) for entity in ENTITIES),
    ("get", {"ref": "AcmeUser:w1-u1"}),
    ("count", {"entity": "AcmeTask", "by": "status"}),
    ("find", {"query": "audit"}),
    ("changes", {}),
]
# Some of what is damaged looks like what a newer version or another program has made.
OTHER_CODES = {
    "sync": "_max_task.kind _max_sync.state _max_sync.finished_at _max_sync.command",
    "storage": "_max_migration.digest _max_object.name",
    "storage.newer": "_max_migration.version",
}
SELDOM = """
    INSERT OR IGNORE INTO _max_failure
        (sync, task, kind, what, entity, id, code, message, hint, attempt, at, input, version)
    SELECT sync, id, kind, 'x', 'AcmeTask', '1', 'c', 'm', 'h', 1, 5.0, spec, '1' FROM _max_task
     WHERE kind = 'load_collection' LIMIT 1;
    INSERT INTO _max_quarantine (entity, id, digest, expected, actual, fields, row, at)
    VALUES ('AcmeTask', '1', '', 'x', 'y', '["title"]', '{"title": 5}', 5.0);
    INSERT INTO _max_spent_bit VALUES ('AcmeTask', 50);
    ALTER TABLE _acme_task ADD COLUMN old TEXT;
    INSERT INTO _max_field VALUES ('AcmeTask', 'old', 'text', 40, 0);
    INSERT INTO _max_hidden VALUES
        ('AcmeTask', 'old', '{"name": "old", "kind": "text", "optional": true, "target": null}');
    INSERT INTO _max_missing VALUES ('AcmeTask', 1, 1, 5.0, 4.0);
    INSERT INTO _max_known_page VALUES (1, 0, 'k', '{}');
    INSERT INTO _max_find_pending VALUES (1, 'a', 'b', 'c');
    INSERT INTO _max_schedule_trouble VALUES (1, 2, 5.0, 6.0, 'why', 'default', 7.0);
    INSERT INTO _max_schedule_slot VALUES ('default', 100, 5.0, 'why', NULL);
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose installation has something in each of its tables."""
    folder = prepare(
        tmp_path_factory.mktemp("prepared"),
        "init",
        f"connect acme {SIZE}",
        "settings acme history=changes",
        "sync acme",
        "schedule acme --every 1h",
        "sync acme --full",
        "invalidate acme AcmeUser.email",
    )

    async def paused() -> Status:
        async with Project[Any].open(folder, trusted=True) as project:
            handle = await (await project.runtime("acme")).sync(SyncOptions(full=True))
            await handle.pause()
            return (await handle.completion()).status

    assert asyncio.run(paused()) is Status.PAUSED
    with closing(sqlite3.connect(folder / DATA)) as connection:
        connection.executescript(SELDOM)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@pytest.fixture
def cli(prepared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs a command there; what the test does to the database is undone."""
    monkeypatch.chdir(prepared)
    sound = DATA.read_bytes()
    yield running(capsys)
    put_back(sound)


# -- damage ------------------------------------------------------------------------------------


def put_back(data: bytes) -> None:
    """Have the database hold this."""
    for left in DATA.parent.glob("data.db*"):
        left.unlink()
    DATA.write_bytes(data)


def columns() -> list[tuple[str, str]]:
    """Every column of the tables that Max has made here."""
    with closing(sqlite3.connect(DATA)) as connection:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 1) = '_'"
        return [
            (table, column)
            for (table,) in connection.execute(tables).fetchall()
            for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        ]


def damage(table: str, column: str, value: object) -> bool:
    """Put a value into each row, past triggers and NOT NULL; whether the database can hold it there."""
    update = f'UPDATE OR REPLACE "{table}" SET "{column}" = ?'
    with closing(sqlite3.connect(DATA, isolation_level=None)) as connection:
        with suppress(sqlite3.Error):
            connection.execute(update, (value,))
            return True
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        (made,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        for name, _ in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        rewrite(connection, table, made.replace(" NOT NULL", ""))
    with closing(sqlite3.connect(DATA, isolation_level=None)) as connection:
        try:
            connection.execute(update, (value,))
        except sqlite3.Error:
            return False
        rewrite(connection, table, made)
        for _, sql in triggers:
            connection.execute(sql)
    return True


def rewrite(connection: sqlite3.Connection, table: str, sql: str) -> None:
    """Have the database believe that another statement has made a table."""
    (version,) = connection.execute("PRAGMA schema_version").fetchone()
    connection.execute("PRAGMA writable_schema = 1")
    connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, table))
    connection.execute(f"PRAGMA schema_version = {version + 1}")


# -- questions ---------------------------------------------------------------------------------


def newest_sync() -> str:
    """The id of a sync that is in the database; another text where there is none."""
    with closing(sqlite3.connect(DATA)) as connection, suppress(sqlite3.Error):
        return str(connection.execute("SELECT max(id) FROM _max_sync").fetchone()[0])
    return "none"


def is_named(error: Any, column: str) -> bool:
    """Whether an error says that what is stored is damaged, and what to do."""
    code = error["code"]
    fits = code in ("storage.corrupt", "not_found") or column in OTHER_CODES.get(code, "nothing")
    return fits and bool(error["hint"])


def ask(cli: Cli, words: list[str], column: str) -> str:
    """What is wrong with the answer of a command; empty when it has answered, or names the damage."""
    run = cli(*[newest_sync() if word is NEWEST else word for word in words], "--json")
    if run.status in (0, 3):
        return str(run) if "b'" in run.out and "restore a backup" not in run.out else ""
    errors = [json.loads(line)["error"] for line in run.err.splitlines() if line.startswith('{"error"')]
    named = all(is_named(one, column) for one in errors) and (errors or run.out)
    return "" if run.status == 1 and named else str(run)


def call(name: str, arguments: dict[str, str], column: str) -> str:
    """The same of a tool."""
    answer = Toolbox(project_at(), lambda: "").call(name, arguments)
    text = json.dumps(answer)
    codes = ["storage.corrupt", "not_found", *(code for code, some in OTHER_CODES.items() if column in some)]
    named = any(f"(code: {code})" in text for code in codes) or "restore a backup" in text
    return "" if named or not (answer["isError"] or "b'" in text) else text


def wrong_answers(cli: Cli, questions: list[Any], column: str = "any") -> Iterator[str]:
    """What is wrong with the answers of commands and tools."""
    stored = DATA.read_bytes()
    for one in questions:
        put_back(stored)
        try:
            problem = ask(cli, one, column) if isinstance(one, list) else call(one[0], one[1], column)
        except Exception as error:
            problem = repr(error)
        if problem:
            yield f"{column} {one}: {problem}"


def test_every_question_is_answered_from_what_is_sound(cli: Cli) -> None:
    assert [*wrong_answers(cli, [*COMMANDS, *TOOLS])] == []


@pytest.mark.parametrize("part", range(PARTS))
def test_a_value_that_makes_no_sense_is_answered_from_or_named_as_damage(cli: Cli, part: int) -> None:
    sound, wrong = DATA.read_bytes(), list[str]()
    for number, (table, column) in [*enumerate(columns())][part::PARTS]:
        draw = random.Random(number)
        put_back(sound)
        value = draw.choice(VALUES)
        if damage(table, column, value):
            questions = draw.sample([*COMMANDS, *TOOLS], ASKED)
            wrong += [f"{value!r} in {one}" for one in wrong_answers(cli, questions, f"{table}.{column}")]
    assert wrong == []


def test_a_schema_of_which_nothing_is_left_is_damage_and_no_lack_of_data(cli: Cli) -> None:
    assert damage("_max_schema", "schema", None)
    assert [*wrong_answers(cli, [["search", "acme", "AcmeTask"], ["schema", "acme"], ["sync", "acme"]])] == []


# -- rows and tables that are gone -----------------------------------------------------------------

AFTER_A_LOSS = [
    ["status", "acme"],
    ["changes", "acme", "--since", "beginning"],
    ["watch", "--once"],
    ["runs", "acme"],
    ["migrate", "acme", "--plan"],
    ["sync", "acme"],
]
OF_PYTHON = ("Error: ", "NoneType", "iterable", "subscriptable")


def in_words_of_python(cli: Cli, words: list[str]) -> str:
    """What a command says in them; empty when it answers, or says in plain words what is wrong."""
    try:
        run = cli(*words, "--json")
    except Exception as error:
        return f"{words}: {error!r}"
    return f"{words}: {run}" if any(one in run.out + run.err for one in OF_PYTHON) else ""


@pytest.mark.parametrize("statement", ["DELETE FROM", "DROP TABLE"])
def test_what_is_gone_is_said_without_words_of_python(cli: Cli, statement: str) -> None:
    sound, wrong = DATA.read_bytes(), list[str]()
    for table in sorted({table for table, _ in columns() if not table.startswith("_max_find")}):
        for words in AFTER_A_LOSS:
            put_back(sound)
            with closing(sqlite3.connect(DATA, isolation_level=None)) as connection:
                connection.execute(f'{statement} "{table}"')
            if problem := in_words_of_python(cli, words):
                wrong.append(f"{statement} {table}: {problem}")
    assert wrong == []
