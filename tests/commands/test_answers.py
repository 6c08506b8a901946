"""How every answer leaves: its format, its options, and whether it is whole."""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme import AcmeTask

from max import Project
from max.cli import COMMANDS, found_command
from max.commands.parser import JoinWithComma, Parser
from max.errors import NotFound, UsageError
from max.model.tasks import Status
from max.projects.database import ProjectDatabase
from tests.command_line import Cli, Run, data_of, prepare, project_at, record_sync, sql, take

PREPARED = ("connect acme", "settings acme history=changes", "sync acme:default")


def parser_of(command: str) -> Parser:
    return found_command(command)[1]


# Commands whose first example is not what is tried below.
TRIED = {
    "search": "search acme AcmeTask --limit 2",
    "get": "get acme AcmeUser:w1-u1",
    "count": "count acme AcmeTask",
    "changes": "changes acme --limit 2",
    "sql": 'sql acme "SELECT id, title FROM acme_task ORDER BY id LIMIT 2"',
    "trust": "trust --list",
    "move": "move acme:default --to ../elsewhere --plan",
    "connector check": "connector check acme --no-types",
}
# Commands that read, and answer with no rows or with rows of their own shape.
ROWLESS = {
    "connector test",
    "schema",
    "schema diff",
    "path",
    "export",
    "mcp",
    "serve",
    "llm-bootstrap",
    "guide",
}


def example_of(command: str) -> str:
    """Words that make a command answer with rows."""
    examples = str(parser_of(command).epilog).splitlines()
    return TRIED.get(command) or examples[1].strip().removeprefix("max ").partition("  ")[0]


WITH_ROWS = {
    name: example_of(name) for name in COMMANDS if parser_of(name).answers_rows and name not in ROWLESS
}
READING = {name: words for name, words in WITH_ROWS.items() if COMMANDS[name][0] == "Query"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has synced the demo source, with what changed in it."""
    folder = tmp_path_factory.mktemp("prepared")
    return prepare(folder, *PREPARED)


@pytest.fixture
def synced(cli: Cli, prepared: Path, tmp_path: Path) -> Cli:
    """Runs a command in a copy of it."""
    if isinstance(project_at(), ProjectDatabase):
        prepare(tmp_path, *PREPARED)  # its data is not in the folder
    else:
        take(prepared, tmp_path)
    return cli


# -- formats ---------------------------------------------------------------------------------------


def test_every_command_that_reads_is_tried_below() -> None:
    assert {name for name, (group, _, _) in COMMANDS.items() if group == "Query"} - ROWLESS == READING.keys()


@pytest.mark.parametrize("command", WITH_ROWS)
def test_a_command_with_rows_answers_in_every_format(synced: Cli, command: str) -> None:
    words = shlex.split(WITH_ROWS[command])
    ndjson = [json.loads(line) for line in synced(*words, "-o", "ndjson").out.splitlines()]
    names = list(dict.fromkeys(name for row in ndjson for name in row))
    header, *rows = csv.reader(io.StringIO(synced(*words, "-o", "csv").out, newline=""))
    assert set(names) <= set(header)
    assert len(rows) == len(ndjson)
    for row, expected in zip(rows, ndjson, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert {n: cells[n] for n in expected if isinstance(expected[n], str)} == {
            n: one for n, one in expected.items() if isinstance(one, str)
        }
    assert len(synced(*words, "-o", "tsv").out.splitlines()) == len(rows) + 1
    assert len(synced(*words, "-o", "markdown").out.splitlines()) == len(rows) + 2


@pytest.mark.of_a_folder
@pytest.mark.parametrize("command", [name for name in COMMANDS if not parser_of(name).answers_rows])
def test_a_command_without_rows_refuses_their_formats_before_it_does_anything(
    cli: Cli, tmp_path: Path, command: str
) -> None:
    run = cli(*command.split(), "acme", "-o", "csv")
    assert (run.status, run.out) == (2, "")
    assert f"max {command} answers no rows, which csv needs\n  use -o text or -o json\n" in run.err
    assert not (tmp_path / ".max").exists()


def test_ndjson_is_rows_and_nothing_else_and_the_rest_is_one_object_on_stderr(synced: Cli) -> None:
    run = synced("search", "acme", "AcmeTask", "--limit", "2", "--fields", "title", "-o", "ndjson")
    assert [list(json.loads(line)) for line in run.out.splitlines()] == [["id", "title"]] * 2
    meta = json.loads(run.err)["meta"]
    assert (meta["type"], meta["total"], meta["shown"], meta["hasMore"]) == ("AcmeTask", 200, 2, True)
    assert meta["complete"] is True


@pytest.mark.parametrize("format", ["json", "ndjson", "csv", "tsv", "markdown"])
def test_rows_are_read_while_they_are_printed(
    synced: Cli, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from max.query.reader import Reader

    fetched: list[int] = []
    fetch = Reader.rows

    def counting(self: Reader, query: Any, paths: Any) -> Any:
        fetched.append(1)
        return fetch(self, query.replace(size=10), paths)

    monkeypatch.setattr(Reader, "rows", counting)
    assert synced("search", "acme", "AcmeTask", "--all", "-o", format).out.count("w1-p1-t1") >= 1
    assert len(fetched) == 20


def test_an_empty_answer_has_its_columns_all_the_same(synced: Cli) -> None:
    words = ["search", "acme", "AcmeUser", "--filter", "name = x", "--fields", "name,email"]
    assert synced(*words, "-o", "csv").out == "id,name,email\r\n"
    run = synced(*words, "-o", "tsv")
    assert (run.status, run.out) == (0, "id\tname\temail\n")
    assert run.err.startswith("no AcmeUser matches")
    note = json.loads(synced(*words, "-o", "ndjson").err)["meta"]["notes"][0]
    assert note.startswith("no AcmeUser matches")


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "json", "count", "acme", "AcmeTask"],
        ["-ojson", "count", "acme", "AcmeTask"],
        ["--output=json", "-C", ".", "count", "acme", "AcmeTask"],
        ["-C", ".", "--json", "count", "acme", "AcmeTask"],
        ["-q", "--json", "count", "acme", "AcmeTask"],
        ["count", "-ojson", "acme", "AcmeTask"],
        ["count", "acme", "--json", "AcmeTask"],
        ["count", "acme", "AcmeTask", "--output", "json"],
    ],
)
def test_the_format_may_be_named_anywhere(synced: Cli, words: list[str]) -> None:
    assert synced(*words).data["count"] == 200
    assert synced(*words, "--quux").error["code"] == "usage.unknown"


def test_the_environment_sets_the_format_and_the_command_line_another(
    synced: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_OUTPUT", "json")
    assert synced("count", "acme", "AcmeTask").data["count"] == 200
    assert synced("count", "acme", "AcmeTsk").error["code"] == "usage.unknown"
    assert synced("serch").error["data"]["candidates"] == ["search"]
    assert synced("count", "acme", "AcmeTask", "-o", "text").out == "200\n"
    assert "max: unknown" in synced("-o", "text", "count", "acme", "AcmeTsk").err


def test_a_default_format_that_a_command_does_not_have_is_text(
    synced: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_OUTPUT", "csv")
    assert synced("count", "acme", "AcmeTask").out == "type,count\r\nAcmeTask,200\r\n"
    assert synced("settings", "acme").out.startswith("setting ")


@pytest.mark.parametrize(
    ("words", "set_to"), [(["ls", "-o", "jsn"], ""), (["-o", "jsn", "ls"], ""), (["ls"], "jsn")]
)
def test_an_unknown_format_names_the_near_ones(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: list[str], set_to: str
) -> None:
    monkeypatch.setenv("MAX_OUTPUT", set_to)
    run = cli(*words)
    assert run.status == 2
    assert "unknown output format 'jsn'" in run.err
    assert "did you mean: json, ndjson" in run.err


# -- options ---------------------------------------------------------------------------------------


def options_of_every_command() -> Iterator[Any]:
    for command in COMMANDS:
        for action in parser_of(command)._actions:
            if action.option_strings and action.dest not in ("help",):
                yield pytest.param(command, action.option_strings[-1], id=f"{command} {action.dest}")


VALUES = {"--if-stale": "5m", "--output": "json"}  # of options that take no number


@pytest.mark.parametrize(("command", "option"), [*options_of_every_command()])
def test_an_option_that_is_given_twice_adds_up_or_is_refused(command: str, option: str) -> None:
    parser = parser_of(command)
    (action,) = [one for one in parser._actions if option in one.option_strings]
    first, second = [option], [option]
    if action.nargs != 0:
        value = VALUES.get(option, "3" if action.type else "a")
        first, second = [f"{option}={value}"], [f"{option}={value if action.type else 'b'}"]
    positional = ["x" for one in parser._actions if not one.option_strings and one.nargs not in ("?", "*")]
    if not isinstance(action, JoinWithComma | argparse._AppendAction):
        with pytest.raises(UsageError, match="is given twice"):
            parser.read([*positional, *first, *second])
    else:
        found = getattr(parser.read([*positional, *first, *second]), action.dest)
        assert found == ("a,b" if isinstance(action, JoinWithComma) else ["a", "b"])


def test_json_twice_in_two_spellings_is_refused(cli: Cli) -> None:
    run = cli("-o", "csv", "ls", "--json")
    assert (run.status, "--json is given twice" in run.err + run.out) == (2, True)


def test_several_filters_must_all_match_and_lists_add_up(synced: Cli) -> None:
    def ids(*filters: str) -> set[str]:
        words = [word for one in filters for word in ("--filter", one)]
        words += ["--fields", "status", "--fields", "priority,title"]
        rows = synced("search", "acme", "AcmeTask", "--all", "-o", "json", *words).data["data"]
        assert all(list(row) == ["id", "status", "priority", "title"] for row in rows)
        return {row["id"] for row in rows}

    both = ids("status = todo", "priority = 1")
    assert (
        both == ids("status = todo") & ids("priority = 1") == ids("status = todo AND priority = 1") != set()
    )
    count = synced("count", "acme", "AcmeTask", "--filter", "status = todo", "--filter", "priority = 1")
    assert count.out == f"{len(both)}\n"


def test_orders_add_up(synced: Cli) -> None:
    words = ["search", "acme", "AcmeTask", "--all", "--fields", "status,title", "-o", "json"]
    several = synced(*words, "--order-by", "status", "--order-by", "title:desc").data["data"]
    assert several == synced(*words, "--order-by", "status,title:desc").data["data"]
    assert several != synced(*words, "--order-by", "title:desc").data["data"]


def test_invalidate_marks_only_rows_that_match_every_filter(synced: Cli) -> None:
    both = int(synced("count", "acme", "AcmeTask", "--filter", "status = todo AND priority = 1").out)
    words = ["invalidate", "acme", "AcmeTask", "--filter", "status = todo", "--filter", "priority = 1"]
    assert synced(*words, "-o", "json").data["invalidated"][0]["rows"] == both > 0


def test_quiet_leaves_data_and_warnings_alone(synced: Cli) -> None:
    assert synced("search", "acme", "AcmeTask", "--limit", "1", "-q").err == ""
    assert synced("search", "acme", "AcmeTask", "--limit", "1", "-o", "ndjson", "--quiet").err == ""
    record_sync(data_of(), Status.FAILED)
    run = synced("search", "acme", "AcmeTask", "--limit", "1", "-q")
    assert (run.err.count("\n"), "the last sync failed" in run.err) == (1, True)


# -- where a listing ends --------------------------------------------------------------------------


def test_the_next_command_goes_on_where_the_page_ended(synced: Cli) -> None:
    words = [
        "search",
        "acme",
        "AcmeTask",
        "--filter",
        'title ~= "a" AND priority < 4',
        "--limit=60",
        "-o",
        "json",
    ]
    first = synced(*words).data
    assert (first["shown"], first["hasMore"]) == (60, True)
    prog, *rest = shlex.split(first["next"])
    second = synced(*rest).data
    third = (
        synced(*shlex.split(second["next"] or "max ls -o json")[1:]).data["data"] if second["hasMore"] else []
    )
    assert prog == "max"
    ids = [row["id"] for row in [*first["data"], *second["data"], *third]]
    assert (len(ids), len(set(ids))) == (first["total"], first["total"])
    assert second["total"] == first["total"]


def test_the_last_page_has_no_next_command(synced: Cli) -> None:
    data = synced("search", "acme", "AcmeWorkspace", "-o", "json").data
    assert (data["total"], data["shown"], data["hasMore"]) == (2, 2, False)
    assert (data["cursor"], data["next"]) == (None, None)


@pytest.mark.parametrize("command", WITH_ROWS)
def test_every_listing_says_where_it_ended(synced: Cli, command: str) -> None:
    data = json.loads(synced(*shlex.split(WITH_ROWS[command]), "-o", "ndjson").err)["meta"]
    assert {"total", "shown", "hasMore", "cursor", "next"} <= data.keys()
    assert data["total"] is None or data["shown"] <= data["total"]


# -- whether it is whole ---------------------------------------------------------------------------

ENDED_BADLY = {
    Status.PARTIAL: "the last sync was partial",
    Status.FAILED: "the last sync failed",
    Status.CANCELLED: "the last sync was cancelled",
    Status.PAUSED: "the last sync is paused",
    Status.RUNNING: "the last sync was interrupted",  # its process is gone
}


@pytest.mark.parametrize("command", READING)
def test_an_answer_says_that_it_is_whole_and_as_of_when(synced: Cli, command: str) -> None:
    words = shlex.split(READING[command])
    data = synced(*words, "-o", "json").data
    last = synced("status", "-o", "json").data["data"][0]["lastSync"]
    assert (data["complete"], data["syncedAt"]) == (True, last["finishedAt"])
    assert "warning" not in data
    assert "sync" not in synced(*words).err


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("status", ENDED_BADLY)
def test_an_answer_after_a_sync_that_did_not_complete_says_so(
    synced: Cli, command: str, status: Status
) -> None:
    before = synced("status", "-o", "json").data["data"][0]["lastSync"]["finishedAt"]
    record_sync(data_of(), status)
    words = shlex.split(READING[command])
    data = synced(*words, "-o", "json").data
    assert (data["complete"], data["syncedAt"]) == (False, before)
    assert ENDED_BADLY[status] in data["warning"]
    for format in ("text", "csv"):
        notes = synced(*words, "-o", format).err.splitlines()
        assert [ENDED_BADLY[status] in note for note in notes if note.startswith("acme:default: ")] == [True]


@pytest.mark.parametrize("command", READING)
def test_an_answer_before_any_sync_has_completed_says_so(synced: Cli, command: str) -> None:
    sql("DELETE FROM _max_sync")
    data = synced(*shlex.split(READING[command]), "-o", "json").data
    assert (data["complete"], data["syncedAt"]) == (False, None)
    assert "no sync has completed yet" in data["warning"]


def test_a_sync_of_some_fields_makes_no_answer_whole(cli: Cli) -> None:
    assert cli("connect", "acme").status == 0
    assert cli("sync", "acme", "--only", "AcmeUser.name").status == 0
    data = cli("count", "acme", "AcmeTask", "-o", "json").data
    assert (data["count"], data["complete"], data["syncedAt"]) == (0, False, None)
    assert "no sync has completed yet" in data["warning"]
    assert cli("sync", "acme", "--discard-unfinished").status == 0
    whole = cli("count", "acme", "AcmeTask", "-o", "json").data
    assert (whole["count"], whole["complete"]) == (200, True)
    # the partial one stays the newest that tells of every row
    sql("UPDATE _max_sync SET state = 'partial' WHERE narrow = 0")
    assert cli("sync", "acme", "--only", "AcmeUser.name").status == 0
    data = cli("count", "acme", "AcmeTask", "-o", "json").data
    assert (data["complete"], "the last sync was partial" in data["warning"]) == (False, True)


def test_a_database_that_does_not_know_of_narrow_syncs_is_read(synced: Cli) -> None:
    sql("ALTER TABLE _max_sync DROP COLUMN narrow")
    data = synced("count", "acme", "AcmeTask", "-o", "json").data
    assert (data["count"], data["complete"]) == (200, True)


def test_the_ages_in_a_database_that_knows_of_no_pages_are_read(synced: Cli) -> None:
    before = synced("freshness", "acme", "-o", "json").data["data"]
    sql("DROP INDEX _max_load_received")
    for table, column in (
        ("_max_load", "received_at"),
        ("_max_load", "since"),
        ("_max_freshness", "received_at"),
        ("_max_high_water", "marked_at"),
        ("_max_membership", "page"),
    ):
        sql(f"ALTER TABLE {table} DROP COLUMN {column}")
    sql("DROP TABLE _max_listing_page")
    sql("DELETE FROM _max_migration WHERE owner = 'engine' AND version > 2")
    after = synced("freshness", "acme", "-o", "json").data["data"]
    assert [one["never"] for one in after] == [one["never"] for one in before]
    assert synced("sync", "acme", "--full").status == 0


@pytest.mark.parametrize("command", ["find audit", "sql 'SELECT 1'"])
def test_a_question_over_all_installations_names_those_that_were_never_synced(
    synced: Cli, command: str
) -> None:
    assert synced("connect", "acme:later").status == 0
    data = synced(*shlex.split(command), "-o", "json").data
    assert (data["complete"], data["syncedAt"]) == (False, None)
    assert data["warning"].startswith("acme:later: no sync has completed yet")
    assert "acme:later: no sync has completed yet" in synced(*shlex.split(command), "-q").err
    alone = synced(*shlex.split(command.replace("audit", "audit --in acme:default")), "-o", "json").data
    assert alone["complete"] is (command[:4] == "find")


@pytest.mark.parametrize(
    ("command", "under"),
    [
        ("count acme AcmeTask --by status --top 1", "groups"),
        ("values acme AcmeTask.status --limit 1", "values"),
        ("find audit --limit 1", "hits"),
        ("sql acme 'SELECT id FROM acme_task' --limit 1", "rows"),
    ],
)
def test_json_and_ndjson_say_the_same_of_an_answer(synced: Cli, command: str, under: str) -> None:
    data = synced(*shlex.split(command), "-o", "json").data
    rows = data.pop(under)
    run = synced(*shlex.split(command), "-o", "ndjson")
    assert [json.loads(line) for line in run.out.splitlines()] == rows
    meta = json.loads(run.err)["meta"]
    for one in (data, meta):
        one.pop("elapsedMs", None)
        one.pop("next")
    assert meta == data
    assert (data["shown"], data["hasMore"]) == (len(rows), True)


def test_rows_alone_come_with_the_warning_on_stderr(synced: Cli) -> None:
    record_sync(data_of(), Status.PARTIAL)
    run = synced("export", "acme", "AcmeWorkspace", "--format", "ndjson")
    assert (run.out.count("\n"), run.err.count("the last sync was partial")) == (2, 1)


def test_rows_that_may_be_gone_are_named_until_the_next_sync_decides(synced: Cli) -> None:
    sql("INSERT INTO _max_missing (entity, row, missing_since) VALUES ('AcmeTask', 1, 0)")
    data = synced("count", "acme", "AcmeTask", "-o", "json").data
    assert (data["complete"], data["warning"]) == (
        True,
        "acme:default: 1 row may be gone upstream; the next sync finds out",
    )


def test_a_missing_row_says_when_it_was_removed_upstream(synced: Cli) -> None:
    sql("UPDATE _acme_task SET _removed_at = 1767225600 WHERE _id = 'w1-p1-t1'")
    run = synced("get", "acme", "AcmeTask:w1-p1-t1")
    assert (run.status, "gone upstream at 2026-01-01T00:00:00Z" in run.err) == (1, True)
    view = run.err.split("are in ")[1].split(":")[0]
    assert synced("sql", "acme", f"SELECT id FROM {view}", "-o", "csv").out == "id\r\nw1-p1-t1\r\n"
    with (
        Project.find(".").read("acme:default") as reader,
        pytest.raises(NotFound, match="w1-p1-t1") as caught,
    ):
        reader.get("AcmeTask", "w1-p1-t1")
    assert "gone upstream" in caught.value.hint
    assert "check the id" in synced("get", "acme", "AcmeTask:nope").err


def test_a_running_sync_is_named_while_its_process_lives(synced: Cli) -> None:
    from max.storage.leases import new_worker

    record_sync(data_of(), Status.RUNNING)
    worker = new_worker()
    sql("UPDATE _max_sync SET worker = ? WHERE state = 'running'", worker)
    sql("INSERT INTO _max_worker VALUES (?, ?)", worker, time.time())
    data = synced("count", "acme", "AcmeTask", "-o", "json").data
    assert (data["complete"], "a sync is under way" in data["warning"]) == (False, True)


def test_the_states_of_a_sync_all_have_their_words() -> None:
    from max.storage.sync_state import WORDS

    assert WORDS.keys() == {str(status) for status in Status}


def test_a_reader_tells_its_state(synced: Cli) -> None:
    with Project.find(".").read("acme:default") as reader:
        assert reader.state.complete
        assert (reader.state.status, reader.state.warning) == ("completed", None)
        assert reader.count(AcmeTask) == 200


# -- syncs by the beginning of their ids -------------------------------------------------------------


@pytest.fixture
def two(cli: Cli) -> Cli:
    """Runs a command in a project where two installations have syncs whose ids begin alike."""
    for name in ("acme:one", "acme:two"):
        assert cli("connect", name).status == 0
        assert cli("sync", name, "-q") == Run(0, "", "")
        sql("DELETE FROM _max_sync", of=name)
        record_sync(data_of(name))
        sql("UPDATE _max_sync SET id = ?", f"1ng{name[5:]}", of=name)
    return cli


@pytest.mark.parametrize("words", [["runs", "show"], ["runs"]])
def test_a_sync_is_found_by_the_beginning_of_its_id(two: Cli, words: list[str]) -> None:
    for id, name in (("1ngo", "acme:one"), ("1ngtwo", "acme:two")):
        data = two(*words, id, "-o", "json").data
        assert (data["installation"], data["id"][:4]) == (name, id[:4])


@pytest.mark.parametrize("words", [["runs", "show"], ["runs"]])
def test_a_beginning_that_syncs_of_several_installations_share_names_them(two: Cli, words: list[str]) -> None:
    run = two(*words, "1ng")
    assert (run.status, run.out) == (2, "")
    assert run.err == (
        "max: several syncs begin with '1ng'\n  one of: 1ngone (acme:one), 1ngtwo (acme:two)\n"
    )


def test_what_begins_no_sync_is_taken_for_an_installation(two: Cli) -> None:
    run = two("runs", "acme:thre")
    assert (run.status, "unknown installation 'acme:thre'" in run.err) == (2, True)
    assert two("runs", "show", "acme:thre").status == 1


# -- the installation left out -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("count AcmeTask", "200\n"),
        ("count --filter 'status = todo' AcmeTask -o text", "35\n"),
        ("get AcmeUser:w1-u1 --fields role -o tsv", "id\trole\nw1-u1\tguest\n"),
        ("get AcmeUser w1-u1 --fields role -o tsv", "id\trole\nw1-u1\tguest\n"),
        ("search --limit 1 AcmeWorkspace --fields id -o csv", "id\r\nw1\r\n"),
    ],
)
def test_the_only_installation_may_be_left_out(synced: Cli, words: str, expected: str) -> None:
    assert synced(*shlex.split(words)).out == expected


@pytest.mark.parametrize(
    "words", ["freshness AcmeTask", "schema AcmeTask", "quarantine AcmeTask", "quarantine"]
)
def test_a_command_that_needs_no_more_words_takes_the_only_installation_as_well(
    synced: Cli, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *rest = words.split()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # ages are in seconds
    assert synced(*words.split(), "-o", "json").out == synced(command, "acme", *rest, "-o", "json").out


def test_of_several_installations_one_must_be_named(synced: Cli) -> None:
    assert synced("connect", "acme:two").status == 0
    run = synced("count", "AcmeTask")
    assert run.err == "max: which installation?\n  name one of: acme:default, acme:two\n"
    assert "unknown installation 'AcmeTask'" in synced("freshness", "AcmeTask").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("search acme", "what of acme?\n  required: ENTITY"),
        ("search", "required: ENTITY\n  see: max search --help"),
        ("get acmd AcmeUser:w1-u1", "unknown installation 'acmd'"),
        ("search acmd AcmeUser", "unknown installation 'acmd'"),
        ("get acme w1-u1", "which row? w1-u1 is no ref\n  write ENTITY:w1-u1, or w1-u1:ID"),
        ("search acme AcmeUser --limit", "--limit needs a value"),
        ("search acme AcmeUser --limit x", "--limit: 'x' is not a count"),
        ("disconnect --yes", "required: INSTALLATION"),
    ],
)
def test_a_word_that_is_missing_or_wrong_is_named(synced: Cli, words: str, message: str) -> None:
    run = synced(*words.split())
    assert (run.status, run.out, run.err.startswith(f"max: {message}")) == (2, "", True)
