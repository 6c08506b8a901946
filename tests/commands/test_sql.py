"""`max sql` and `max path`: SELECT statements over the data, and where the file is."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from max import Project
from max.cli import main
from max.commands.sql import number_or_text, parameter, seconds
from tests.command_line import Cli, running

STATUSES = "SELECT status, count(*) AS n FROM acme_task GROUP BY status ORDER BY n DESC, status"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project that has synced two tenants of the demo source."""
    folder = tmp_path_factory.mktemp("sql")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["sync", "acme:default"]) == 0
        assert main(["connect", "acme:two", "--set", "tasks=3", "--set", "users=2", "--no-input"]) == 0
        assert main(["sync", "acme:two"]) == 0
    return folder


@pytest.fixture
def cli(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in that folder."""
    monkeypatch.chdir(place)
    return running(capsys)


@pytest.fixture
def alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in a project with one installation, which was never synced."""
    monkeypatch.chdir(tmp_path)
    run = running(capsys)
    assert run("init").status == 0
    assert run("connect", "acme", "--set", "tasks=3", "--set", "users=2").status == 0
    return run


def by_hand(place: Path, name: str, statement: str) -> list[tuple[Any, ...]]:
    """What sqlite3 itself reads from the file of an installation of acme."""
    file = place / ".max" / "installations" / "acme" / name / "data.db"
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(statement).fetchall()


# -- one installation ----------------------------------------------------------------------------


def test_a_statement_answers_what_sqlite_reads(cli: Cli, place: Path) -> None:
    rows = by_hand(place, "default", STATUSES)
    assert len(rows) == 6
    run = cli("sql", "acme:default", STATUSES, "-o", "json")
    assert run.data["rows"] == [{"status": status, "n": n} for status, n in rows]
    assert run.data["columns"] == [{"name": "status", "type": "TEXT"}, {"name": "n", "type": "INTEGER"}]
    assert (run.data["truncated"], run.data["complete"], run.err) == (False, True, "")
    assert isinstance(run.data["elapsedMs"], int)
    lines = cli("sql", "acme:default", STATUSES).out.splitlines()
    assert [tuple(line.rsplit(None, 1)) for line in lines] == [
        ("status", "n"),
        *((s, str(n)) for s, n in rows),
    ]


def test_every_format_of_rows_holds_the_same_rows(cli: Cli, place: Path) -> None:
    rows = [[status, str(n)] for status, n in by_hand(place, "default", STATUSES)]
    assert list(csv.reader(io.StringIO(cli("sql", "acme:default", STATUSES, "-o", "csv").out))) == [
        ["status", "n"],
        *rows,
    ]
    ndjson = cli("sql", "acme:default", STATUSES, "-o", "ndjson").out.splitlines()
    assert [[one["status"], str(one["n"])] for one in map(json.loads, ndjson)] == rows
    tsv = cli("sql", "acme:default", STATUSES, "-o", "tsv").out.splitlines()
    assert [line.split("\t") for line in tsv[1:]] == rows


def test_a_list_is_json_and_with_raw_the_text(cli: Cli, place: Path) -> None:
    statement = "SELECT id, tags FROM acme_task WHERE json_array_length(tags) > 1 ORDER BY id LIMIT 1"
    ((id, text),) = by_hand(place, "default", statement)
    assert cli("sql", "acme:default", statement, "-o", "json").data["rows"] == [
        {"id": id, "tags": json.loads(text)}
    ]
    raw = cli("sql", "acme:default", statement, "-o", "json", "--raw").data["rows"]
    assert raw == [{"id": id, "tags": text}]


def test_values_of_every_kind_are_kept_apart(cli: Cli) -> None:
    statement = "SELECT 1 AS id, 2 AS id, NULL AS id_2, 9223372036854775807, x'00ff', 9e999, -9e999, 0.1, ''"
    (row,) = cli("sql", "acme:default", statement, "-o", "ndjson").out.splitlines()
    values = list(json.loads(row).values())
    assert values == [1, 2, None, 2**63 - 1, "x'00ff'", "Infinity", "-Infinity", 0.1, ""]
    assert list(json.loads(row))[:3] == ["id", "id_3", "id_2"]


def test_an_answer_that_is_cut_says_so_and_how_to_go_on(cli: Cli) -> None:
    cut = cli("sql", "acme:default", "SELECT id FROM acme_task", "--limit", "2", "-o", "json")
    assert (len(cut.data["rows"]), cut.data["truncated"]) == (2, True)
    shown = cli("sql", "acme:default", "SELECT id FROM acme_task", "--limit", "2")
    assert len(shown.out.splitlines()) == 3
    assert "2 shown; next: max sql acme:default 'SELECT id FROM acme_task' --limit 20" in shown.err
    whole = cli("sql", "acme:default", "SELECT id FROM acme_root", "--limit", "1")
    assert "shown" not in whole.err


def test_no_rows_is_said(cli: Cli) -> None:
    run = cli("sql", "acme:default", "SELECT id FROM acme_task WHERE id = 'none'")
    assert (run.status, run.out, run.err) == (0, "", "no rows\n")


def test_one_installation_needs_no_name(alone: Cli) -> None:
    assert alone("sync", "acme").status == 0
    assert alone("sql", "SELECT count(*) FROM acme_user", "-o", "csv").out == "count(*)\r\n4\r\n"
    assert alone("sql", "VALUES(1)", "-o", "csv").out == "column1\r\n1\r\n"


def test_parameters_are_numbers_or_texts_and_json_behind_a_colon(cli: Cli) -> None:
    words = [
        "--param",
        "a=5",
        "--param",
        "b=007",
        "--param",
        "c:=null",
        "--param",
        "d:=[1,2]",
        "--param",
        "e=1e5",
    ]
    statement = "SELECT :a + 1, typeof(:b), :b, :c, (SELECT sum(value) FROM json_each(:d)), typeof(:e)"
    (row,) = cli("sql", "acme:default", statement, *words, "-o", "ndjson").out.splitlines()
    assert list(json.loads(row).values()) == [6, "text", "007", None, 3, "text"]


@example("100000000000000.1")
@given(st.text(max_size=20) | st.integers().map(str) | st.floats().map(str))
def test_a_number_given_as_a_parameter_compares_with_a_text_column_as_its_text(text: str) -> None:
    if "\x00" in text or not text.isprintable():
        return
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (x TEXT)")
        connection.execute("INSERT INTO t VALUES (?)", (text,))
        assert connection.execute(
            "SELECT count(*) FROM t WHERE x = ?", (number_or_text(text),)
        ).fetchone() == (1,)


@pytest.mark.parametrize("text", ["a", "=1", "1x=2", "a:=", "a:={", "a b=1"])
def test_a_parameter_that_cannot_be_meant_is_refused(text: str) -> None:
    from max.errors import UsageError

    with pytest.raises(UsageError, match="--param"):
        parameter(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("500ms", 0.5), ("10s", 10.0), ("2m", 120.0), ("3", 3.0), ("0.5s", 0.5)]
)
def test_a_time_limit_has_a_unit(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "0", "-1s", "2h", "61m", "1e3s", "0s", "٣s"])
def test_a_time_limit_that_cannot_be_meant_is_refused(cli: Cli, text: str) -> None:
    run = cli("sql", "acme:default", "SELECT 1", f"--timeout={text}")
    assert (run.status, "is no time up to an hour" in run.err) == (2, True)


def test_a_statement_that_takes_too_long_is_ended(cli: Cli) -> None:
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t"
    run = cli("sql", "acme:default", endless, "--timeout", "50ms", "-o", "json")
    assert (run.status, run.error["code"]) == (2, "usage.sql_limit")
    assert "longer than 0.05 s" in run.error["message"]


# -- where the statement comes from ---------------------------------------------------------------


def test_a_statement_comes_from_a_file_or_from_standard_input(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.sql").write_text(
        "\ufeff-- how many\nSELECT count(*) AS n\n  FROM acme_task;\n", encoding="utf-8"
    )
    assert cli("sql", "acme:default", "-f", str(tmp_path / "report.sql"), "-o", "csv").out == "n\r\n200\r\n"
    for words in ([], ["-f", "-"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("SELECT 'é' AS n".encode())))
        assert cli("sql", "acme:default", *words, "-o", "csv").out == "n\r\né\r\n"


def test_a_file_that_cannot_be_read_is_an_error(cli: Cli, tmp_path: Path) -> None:
    assert cli("sql", "acme:default", "-f", str(tmp_path / "none.sql")).status == 1
    (tmp_path / "odd.sql").write_bytes(b"SELECT '\xff'")
    run = cli("sql", "acme:default", "-f", str(tmp_path / "odd.sql"))
    assert (run.status, "is not UTF-8 text" in run.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["acme:default", "SELECT 1", "-f", "x.sql"], "-f and a statement cannot be combined"),
        (["acme:default", "SELECT", "1"], "write the whole statement in quotes"),
        (["acme:default", "SELECT 1", "acme:two"], "write the whole statement in quotes"),
        (["acme:defalt", "SELECT 1"], "unknown installation 'acme:defalt'"),
        (["acme", "SELECT 1"], "may be any of acme:default, acme:two"),
        (["acme:default", "SELECT 1", "--tables"], "take no statement"),
        (["acme:default", "--schema", "acme_tsk"], "unknown table 'acme_tsk'"),
        (["acme:default", "SELECT"], "incomplete input"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(cli: Cli, words: list[str], message: str) -> None:
    run = cli("sql", *words)
    assert (run.status, run.out) == (2, "")
    assert message in run.err


# -- several installations --------------------------------------------------------------------------


def test_several_installations_are_schemas_and_together(cli: Cli, place: Path) -> None:
    schemas = (
        "SELECT (SELECT count(*) FROM acme_default.acme_task), (SELECT count(*) FROM acme_two.acme_task)"
    )
    counts = tuple(
        by_hand(place, name, "SELECT count(*) FROM acme_task")[0][0] for name in ("default", "two")
    )
    assert len(set(counts)) == 2
    for words in ([], ["acme:default", "acme:two"]):
        (row,) = cli("sql", *words, schemas, "-o", "ndjson").out.splitlines()
        assert tuple(json.loads(row).values()) == counts
        together = "SELECT installation, count(*) AS n FROM acme_task GROUP BY 1 ORDER BY 1"
        found = cli("sql", *words, together, "-o", "csv").out.split()
        assert found == ["installation,n", f"acme:default,{counts[0]}", f"acme:two,{counts[1]}"]


def test_tables_and_schema_are_listed_without_what_is_internal(cli: Cli) -> None:
    one = cli("sql", "acme:default", "--tables", "-o", "json").data["data"]
    assert {"table": "acme_task", "kind": "view", "rows": 200} in one
    assert not [row for row in one if row["table"].startswith(("_", "sqlite_"))]
    both = {row["table"]: row["rows"] for row in cli("sql", "--tables", "-o", "json").data["data"]}
    assert both["acme_task"] == both["acme_default.acme_task"] + both["acme_two.acme_task"]
    (shape,) = cli("sql", "acme:default", "--schema", "ACME_TASK", "-o", "json").data["data"]
    assert {"name": "tags", "type": "JSON TEXT"} in shape["columns"]
    assert cli("sql", "acme:default", "--schema", "acme_task").out.startswith(
        'CREATE VIEW "acme_task" AS SELECT'
    )


def test_the_schema_of_a_view_explains_its_columns(cli: Cli) -> None:
    lines = cli("sql", "acme:default", "--schema", "acme_task").out.splitlines()
    assert lines[0] == 'CREATE VIEW "acme_task" AS SELECT -- A piece of work in a project.'
    assert '  "assignee", -- TEXT, acme_user.id: the person who does it' in lines
    assert '  "tags", -- JSON TEXT: words to find it by' in lines


def test_rows_that_were_removed_are_in_a_view_of_their_own(alone: Cli, tmp_path: Path) -> None:
    assert alone("sync", "acme").status == 0
    ids = [row[0] for row in by_hand(tmp_path, "default", "SELECT id FROM acme_task ORDER BY id")]
    with closing(sqlite3.connect(alone("path").out.strip())) as connection, connection:
        connection.execute("UPDATE _acme_task SET _removed_at = 1700000000.5 WHERE _id = ?", (ids[0],))
    removed = "SELECT id, removed_at FROM acme_task_removed"
    assert by_hand(tmp_path, "default", removed) == [(ids[0], "2023-11-14T22:13:20")]
    left = alone("sql", "SELECT id FROM acme_task ORDER BY id", "-o", "json").data["rows"]
    assert [row["id"] for row in left] == ids[1:]


def test_a_program_asks_over_all_installations_or_some(place: Path) -> None:
    async def main() -> list[list[tuple[Any, ...]]]:
        async with Project.open(place) as project:
            statement = "SELECT count(*) FROM acme_task WHERE status <> :status"
            of: list[list[str]] = [[], ["acme:default"], ["acme:two"]]
            return [(await project.sql(statement, {"status": "x"}, of=names)).rows for names in of]

    ((both,),), ((one,),), ((two,),) = asyncio.run(main())
    assert (both, one) == (one + two, 200)


def test_installations_that_were_never_synced_are_left_out_unless_they_are_named(alone: Cli) -> None:
    run = alone("sql", "SELECT 1")
    assert (run.status, "nothing has been synced yet" in run.err) == (1, True)
    run = alone("sql", "acme", "SELECT 1")
    assert (run.status, "acme:default has never been synced" in run.err) == (1, True)
    assert alone("sync", "acme").status == 0
    assert alone("connect", "acme:later").status == 0
    assert alone("sql", "SELECT count(*) AS n FROM acme_task", "-o", "csv").out.startswith("n\r\n")


# -- the prompt -----------------------------------------------------------------------------------


def typed(place: Path, *lines: str) -> str:
    """What a terminal shows when a person types lines into ``max sql acme:default``, each at a prompt."""
    master, terminal = pty.openpty()
    root = Path(__file__).parent.parent.parent
    paths = os.pathsep.join([str(root), str(root / "connectors")])
    process = subprocess.Popen(
        [sys.executable, "-m", "max", "sql", "acme:default"],
        cwd=place,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "PYTHONPATH": paths, "TERM": "dumb", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(terminal)
    shown, waiting = b"", list(lines)
    with suppress(OSError):  # the other side is closed
        while part := os.read(master, 4096):
            shown += part
            if waiting and shown.endswith((b"max> ", b"...> ")):
                os.write(master, waiting.pop(0).encode())
    os.close(master)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_prompt_reads_statements_over_several_lines_until_the_end_of_input(place: Path) -> None:
    shown = typed(
        place,
        "SELECT count(*) AS tasks\n",
        "FROM acme_task;\n",
        "SELECT missing;\n",
        ".tables\n",
        ".nonsense\n",
        "\x04",
    )
    assert "\r\ntasks\r\n  200\r\n" in shown
    assert "no such column: missing" in shown
    assert "acme_workspace" in shown
    assert "unknown command '.nonsense'" in shown


def test_a_prompt_ends_with_quit(place: Path) -> None:
    assert ".tables" in typed(place, ".quit\n")


# -- path -------------------------------------------------------------------------------------------


def test_path_prints_the_file_that_other_tools_open(cli: Cli, place: Path) -> None:
    path = cli("path", "acme:two").out.removesuffix("\n")
    assert path == str(place / ".max" / "installations" / "acme" / "two" / "data.db")
    assert cli("path", "acme:two", "--json").data == {"installation": "acme:two", "path": path}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM acme_user").fetchone()[0] > 0


def test_path_before_the_first_sync_says_how_to_begin(alone: Cli) -> None:
    run = alone("path")
    assert (run.status, run.out) == (1, "")
    assert "acme:default has never been synced" in run.err
    assert "max sync acme:default" in run.err
