"""The command line: answers, streams and exit statuses."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from max_connectors import acme
from max_connectors.acme import AcmeTask, AcmeUser

from max import __version__
from max.cli import COMMANDS, leading_options, wants_json
from max.engine import DatabaseEngine
from max.errors import MEANT, InvalidAnswers
from max.model.entities import Entity
from max.storage.database import Database
from tests.command_line import Cli, Run, data_of, project_at, record_sync

ROOT = Path(__file__).resolve().parent.parent
OPENED = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def user(number: int, **more: Any) -> AcmeUser:
    values: dict[str, Any] = {
        "name": f"User {number:02}",
        "email": f"u{number}@acme.com",
        "active": number % 2 == 0,
    }
    return AcmeUser(f"u{number:02}", **(values | more))


USERS = [user(number) for number in range(12)]
TASKS = [
    AcmeTask("t1", title="Write", priority=3, assignee=AcmeUser.ref("u01"), tags=["a"], created_at=OPENED),
    AcmeTask("t2", title="Read", priority=1, assignee=None, due_date=date(2026, 2, 1), estimate=1.5),
]


@pytest.fixture
def stored(cli: Cli, tmp_path: Path) -> Cli:
    """The same, with an installation ``acme:default`` that holds users and tasks."""
    project = project_at(tmp_path)
    info = project.add("acme", None, {"users": 12}, {}, now=1_800_000_000.0)
    asyncio.run(fill(project.database(info), [*USERS, *TASKS]))
    record_sync(project.database(info))
    return cli


async def fill(database: Database, entities: list[Entity]) -> None:
    await database.start()
    engine = DatabaseEngine(database, acme.connector.resolver)
    await engine.start()
    await engine.store(*entities, requested_at=1_800_000_000.0)
    await engine.stop()
    await database.stop()


# -- overview, help, errors ----------------------------------------------------------------------------------


def test_version_prints_the_version(cli: Cli) -> None:
    assert cli("--version") == Run(0, f"max {__version__}\n", "")


@pytest.mark.parametrize("words", [["connector", "--help"], ["connector", "-h"], ["help", "connector"]])
def test_the_help_of_a_word_with_commands_of_its_own_lists_those(cli: Cli, words: list[str]) -> None:
    run = cli(*words)
    assert (run.status, run.err) == (0, "")
    *lines, rest = run.out.splitlines()
    own = [line for line in cli("--help").out.splitlines() if line.startswith("  connector ")]
    assert (lines, rest) == ([*own, ""], "`max COMMAND --help` explains one command")
    assert len(own) >= 2


@pytest.mark.of_a_folder
@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(cli: Cli, words: list[str]) -> None:
    run = cli(*words)
    assert run.status == 0
    assert all(f"  {name} " in run.out for name in COMMANDS)
    assert [run.out.count(f"\n{group}\n") for group in ("Set up", "Sync", "Query")] == [1, 1, 1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(cli: Cli, command: str) -> None:
    run = cli(*command.split(), "--help")
    assert (run.status, run.err) == (0, "")
    assert f"usage: max {command}" in run.out
    assert f"examples:\n  max {command}" in run.out
    assert cli("help", *command.split()).out == run.out


def test_the_page_about_the_command_line_names_every_command_and_no_unknown_option(cli: Cli) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    helps = "".join(cli(*command.split(), "--help").out for command in COMMANDS)
    assert [command for command in COMMANDS if f"`max {command}" not in page] == []
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert sorted(option for option in options if option not in helps) == []


def test_an_unknown_command_names_the_nearest(cli: Cli) -> None:
    run = cli("serch", "acme")
    assert (run.status, run.out) == (2, "")
    assert run.err == "max: unknown command 'serch'\n  did you mean: search\n"


def test_a_word_that_resembles_nothing_is_answered_with_where_it_may_be_found(cli: Cli) -> None:
    cli("connect", "acme")
    assert cli("xylophone").err == "max: unknown command 'xylophone'\n  commands: max --help\n"
    assert cli("sync", "acme", "--quux").err.endswith("  options: max sync --help\n")
    assert cli("settings", "acme", "history=on").err.endswith("  values: changes, off\n")
    said = cli("connect", "nope").err
    assert (
        "  connectors: acme, git, github, google_drive, hubspot, linear\n  max_NAME.py is looked for in "
        in said
    )


@pytest.mark.parametrize("line", [" ".join(one.split()) for one in MEANT.split(";")])
def test_the_words_of_other_tools_lead_to_commands_and_options_that_exist(cli: Cli, line: str) -> None:
    words, _, ours = line.partition(": ")
    helps = "".join(cli(*command.split(), "--help").out for command in (*COMMANDS, ""))
    assert [one for one in ours.split() if one not in COMMANDS and f"{one} " not in helps] == []
    assert [word for word in words.split() if word in COMMANDS] == []
    if "--" not in ours:
        assert cli(words.split()[0]).err.endswith(f"did you mean: {', '.join(ours.split())}\n")


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["version"], "--version"),
        (["search", "acme", "AcmeTask", "--where", "priority = 1"], "--filter"),
        (["count", "acme", "AcmeTask", "--group-by", "status"], "--by"),
        (["connect", "acme", "--edit"], "--update"),
    ],
)
def test_options_of_other_tools_lead_to_ours(cli: Cli, words: list[str], near: str) -> None:
    assert cli(*words).err.endswith(f"did you mean: {near}\n")


def test_the_value_of_an_option_may_begin_with_a_dash(cli: Cli) -> None:
    cli("sync", "acme:default")
    search = ("search", "acme", "AcmeTask", "--fields", "priority", "-ojson", "--limit")
    assert [one["priority"] for one in cli(*search, "1", "--order-by", "-priority").data["data"]] == [4]
    assert "unknown field 'owner'" in cli(*search, "1", "--order-by", "-owner").error["message"]
    assert "'-1' is not a count" in cli(*search, "-1").error["message"]
    assert "--order-by needs a value" in cli("search", "acme", "AcmeTask", "--order-by", "--all").err
    assert "unknown option '-x'" in cli("search", "acme", "AcmeTask", "-x").err


def test_a_search_without_rows_says_which_value_no_row_has(cli: Cli) -> None:
    cli("sync", "acme:default")
    near = "no AcmeTask has status 'tood'; did you mean todo?"
    for command in ("search", "count"):
        asked = (command, "acme", "AcmeTask", "--filter", "status = tood")
        assert near in cli(*asked).err
        assert cli(*asked, "-o", "json").data["notes"][-1].startswith(near)
    assert "did you mean" not in cli("count", "acme", "AcmeTask", "--filter", "status != tood").err


def test_a_sync_of_a_connector_that_asks_questions_names_the_command_that_connects_it(cli: Cli) -> None:
    run = cli("sync", "linear")
    assert (run.status, run.err.splitlines()[1]) == (2, "  first: max connect linear")


def test_retrying_before_the_first_sync_says_that_there_was_none(cli: Cli) -> None:
    cli("connect", "acme")
    assert "there was no sync yet" in cli("sync", "acme", "--retry-failed").err


@pytest.mark.of_a_folder
def test_another_folder_without_a_project_is_named_in_the_next_command(cli: Cli, tmp_path: Path) -> None:
    assert cli("ls").err.endswith("make one with: max init\n")
    (tmp_path / "other").mkdir()
    assert cli("-C", "other", "ls").err.endswith(f"make one with: max init {tmp_path / 'other'}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--verison"], "unknown option '--verison'"),
        (["search", "acme", "AcmeUser", "--limt", "3"], "unknown option '--limt' in max search"),
        (["search", "acme", "AcmeUser", "--lim=3"], "unknown option '--lim' in max search"),
        (["search", "acme"], "required: ENTITY"),
        (["search", "acme", "AcmeUser", "more"], "unexpected 'more'"),
        (["search", "acme", "AcmeUser", "a = 1"], "a filter is written as: --filter 'a = 1'"),
        (["count", "acme", "AcmeUser", "active=true"], "a filter is written as: --filter active=true"),
        (["search", "acme", "AcmeUser", "--limit", "x"], "'x' is not a count"),
        (["search", "acme", "AcmeUser", "--limit", "0"], "'0' is not a count"),
        (["search", "acme", "AcmeUser", "--limit", "²"], "is not a count"),
        (["search", "acme", "AcmeUser", "--all", "--limit", "3"], "cannot be combined"),
        (["search", "acme", "AcmeUser", "-o", "yaml"], "unknown output format 'yaml'"),
        (["search", "acme", "AcmeUsr"], "unknown entity 'AcmeUsr'"),
        (["search", "acme", "AcmeUser", "--fields", "nam"], "unknown field 'nam' in AcmeUser"),
        (["search", "acme", "AcmeUser", "--order-by", "nam"], "unknown field 'nam' in AcmeUser"),
        (["search", "acme", "AcmeUser", "--order-by", "name:up"], "unknown direction 'up'"),
        (["search", "acme", "AcmeUser", "--order-by", "name.x"], "only a ref has fields behind a dot"),
        (["search", "acme", "AcmeUser", "--filter", "name = "], "filter, column 8"),
        (["search", "acme", "AcmeUser", "--filter", "nam = 1"], "unknown field 'nam'"),
        (["search", "acme", "AcmeUser", "--after", "xyz"], "the cursor cannot be used"),
        (["search", "acmd", "AcmeUser"], "unknown installation 'acmd'"),
        (["get", "acme", "AcmeUser"], "which row?"),
        (["get", "acme", "AcmeUser:"], "which row? its id is missing"),
        (["get", "acme", "AcmeUser", ""], "which row? its id is missing"),
        (["get", "acme", ""], "which row? its id is missing"),
        (["get", "acme", "elsewhere/AcmeUser:u01"], "belongs to another installation"),
        (["get", "acme", "AcmeUser:u01", "--fields", ""], "unknown field ''"),
        (["count", "acme", "AcmeUsr"], "unknown entity"),
        (["schema", "acme", "AcmeUsr"], "unknown entity"),
        (["runs", "acme", "more"], "unexpected 'more'"),
        (["runs", "show"], "which sync?"),
        (["connect"], "connect what?"),
        (["connect", "acmee"], "unknown connector 'acmee'"),
        (["connect", "acme", "--set", "users"], "--set expects name=value"),
        (["connect", "acme", "--set", "users=x"], "users: expected a whole number"),
        (["connect", "acme", "--credential", "token=hunter2"], "given as env:VARIABLE"),
        (["connect", "acme:new", "--update"], "unknown installation 'acme:new'"),
        (["disconnect", "acme"], "deletes its secrets"),
        (["sync", "acmd"], "unknown installation 'acmd'"),
        (["sync", "acme:other"], "unknown installation 'acme:other'"),
    ],
)
def test_bad_arguments_are_a_usage_error(stored: Cli, words: list[str], message: str) -> None:
    run = stored(*words)
    assert (run.status, run.out) == (2, "")
    assert message in run.err
    assert "hunter2" not in run.err


@pytest.mark.parametrize("format", [["-o", "json"], ["-ojson"], ["--json"], ["--output=ndjson"]])
def test_errors_are_json_when_json_was_asked_for(stored: Cli, format: list[str]) -> None:
    run = stored("search", "acme", "AcmeUsr", *format)
    assert (run.status, run.error["code"]) == (2, "usage.unknown")
    assert run.error["data"]["candidates"][0] == "AcmeUser"


def test_parse_errors_are_json_when_json_was_asked_for(cli: Cli) -> None:
    assert cli("search", "--nonsense", "-o", "json").error["code"].startswith("usage")
    assert not wants_json(["search", "-o"], None)


@pytest.mark.of_a_folder
def test_without_a_project_the_error_names_max_init(cli: Cli) -> None:
    run = cli("search", "acme", "AcmeUser")
    assert (run.status, "max init" in run.err) == (1, True)


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("option", [["-C", "{}"], ["-C{}"], ["--project", "{}"], ["--project={}"]])
def test_the_project_may_be_named_before_or_after_the_command(
    stored: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str], place: int
) -> None:
    elsewhere = tmp_path.parent
    monkeypatch.chdir(elsewhere)
    words = ["count", "acme", "AcmeUser"]
    words[place:place] = [word.format(tmp_path.relative_to(elsewhere)) for word in option]
    assert stored(*words).out == "12\n"


def test_a_project_above_is_found(stored: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert stored("count", "acme", "AcmeUser").out == "12\n"


@given(
    st.lists(
        st.one_of(st.sampled_from([*COMMANDS, "-o", "json", "-C", "--all", "acme"]), st.text()), max_size=5
    )
)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # a folder that no example changes is one folder
def test_no_arguments_cause_a_traceback(cli: Cli, words: list[str]) -> None:
    safe = [word for word in words if word not in ("init", "connect", "sync")]
    assert cli(*safe).status in (0, 1, 2)


@pytest.mark.of_a_folder
def test_a_project_option_without_a_command_is_refused(cli: Cli) -> None:
    assert leading_options(["-C", "x", "ls"]) == (["-C", "x"], ["ls"])
    assert cli("-C", "x").err.startswith("max: no command was given")


# -- init, connect, disconnect, ls ---------------------------------------------------------------


@pytest.mark.of_a_folder
def test_init_creates_a_project_once(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", "-o", "json").data == {"project": str(tmp_path), "created": True}
    assert cli("init").out == f"there is a project in {tmp_path} already\n"


@pytest.mark.of_a_folder
def test_a_project_is_made_inside_of_another_one_only_where_that_is_asked_for(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("init").out == f"project in {tmp_path}\n"
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    refused = cli("init")
    assert (refused.status, f"is in the project of {tmp_path} already" in refused.err) == (2, True)
    assert list(inside.iterdir()) == []
    meant = cli("init", ".")
    assert (meant.out, meant.err.splitlines()[0]) == (
        f"project in {inside}\n",
        f"it is inside of the project of {tmp_path}, which it hides from here",
    )


@pytest.mark.of_a_folder
def test_max_alone_shows_the_status_of_the_project_and_the_way_to_help(cli: Cli, tmp_path: Path) -> None:
    assert cli().out == cli("--help").out
    assert cli("-C", str(tmp_path)).status == 2
    cli("connect", "acme")
    for words in ([], ["-C", str(tmp_path)], [f"--project={tmp_path}"]):
        run = cli(*words)
        assert (run.status, run.out) == (0, cli("status").out)
        assert run.err.splitlines()[-1] == "all commands: max --help"
    assert cli("-o", "json").data == cli("status", "-o", "json").data
    assert cli("-q").err == ""


@pytest.mark.of_a_folder
def test_connect_creates_the_project_and_names_the_next_command(cli: Cli, tmp_path: Path) -> None:
    run = cli("connect", "acme", "--no-input")
    assert (run.status, run.out) == (0, "connected acme:default\n")
    assert run.err == f"created a project in {tmp_path}\nacme: 2 workspaces\nnext: max sync acme:default\n"


@pytest.mark.of_a_folder
def test_a_failed_connect_leaves_no_project_behind(cli: Cli, tmp_path: Path) -> None:
    assert cli("connect", "acme", "--set", "users=-1").status == InvalidAnswers.exit_status
    assert list(tmp_path.iterdir()) == []


def test_connecting_again_adds_an_installation(cli: Cli) -> None:
    names = [
        cli("connect", name, "-o", "json").data["installation"] for name in ("acme", "acme", "acme:mine")
    ]
    assert names == ["acme:default", "acme:default-2", "acme:mine"]


@pytest.mark.of_a_folder
def test_without_a_name_connect_lists_the_sources_with_what_they_are(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "max_broken.py").write_text("raise ValueError('no')\n")
    run = cli("connect")
    assert (run.status, run.out) == (2, "")
    assert "\n  acme          A demo company: try Max without an account.\n" in run.err
    assert "\n  broken        (cannot be used: " in run.err
    found = cli("connect", "-o", "json").error["data"]["connectors"]
    assert [one["name"] for one in found] == [
        "acme",
        "broken",
        "git",
        "github",
        "google_drive",
        "hubspot",
        "linear",
    ]
    assert not (tmp_path / ".max").exists()


@pytest.mark.of_a_folder
def test_connect_checks_the_name_and_what_the_source_needs_before_anything_else(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be the name" in cli("connect", "acme:a/b", "--set", "users=x").err
    assert "ends without a name" in cli("connect", "acme:").err
    monkeypatch.setitem(sys.modules, "httpx2", None)
    lacking = cli("connect", "linear")
    assert (lacking.status, "needs httpx2" in lacking.err, "-m pip install" in lacking.err) == (1, True, True)
    monkeypatch.setenv("PATH", str(tmp_path))
    lacking = cli("connect", "git", "--set", "path=.")
    assert (lacking.status, "needs the git command" in lacking.err) == (1, True)
    assert not (tmp_path / ".max").exists()


def test_a_second_installation_without_a_name_is_taken_by_no_shorter_word(cli: Cli) -> None:
    cli("connect", "acme")
    assert cli("connect", "acme", "--update", "--set", "users=3").out == "changed acme:default\n"
    assert "to choose a name: max connect acme:NAME" in cli("connect", "acme").err
    both = cli("connect", "acme", "--update")
    assert (both.status, "acme:default, acme:default-2" in both.err) == (2, True)


def test_connecting_a_taken_name_is_refused_without_update(cli: Cli) -> None:
    cli("connect", "acme:mine")
    refused = cli("connect", "acme:mine", "--set", "users=3")
    assert (refused.status, "max connect acme:mine --update" in refused.err) == (1, True)
    changed = cli("connect", "acme:mine", "--update", "--set", "users=3", "-o", "json")
    assert changed.data["config"]["users"] == 3


def test_the_connector_alone_means_its_only_installation_for_an_update_as_well(cli: Cli) -> None:
    cli("connect", "acme:mine")
    changed = cli("connect", "acme", "--update", "--set", "users=3", "-o", "json")
    assert (changed.data["installation"], changed.data["config"]["users"]) == ("acme:mine", 3)
    cli("connect", "acme:other")
    unclear = cli("connect", "acme", "--update", "--set", "users=4")
    assert (unclear.status, "acme:mine, acme:other" in unclear.err) == (2, True)


@pytest.mark.of_a_folder
def test_a_colon_without_a_name_behind_it_is_refused(cli: Cli, tmp_path: Path) -> None:
    run = cli("connect", "acme:")
    assert (run.status, "'acme:' ends without a name" in run.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.of_a_folder
def test_a_secret_is_read_from_the_environment_a_file_or_stdin_and_never_shown(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("TOKEN", "hunter2")
    for place, source in enumerate(["env:TOKEN", f"file:{tmp_path / 'secret'}", "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hunter2\n"))
        run = cli("connect", f"acme:n{place}", "--credential", f"token={source}", "-o", "json")
        assert (run.status, "hunter2" in run.out + run.err) == (0, False)
        kept = tmp_path / ".max" / "installations" / "acme" / f"n{place}" / "credentials.json"
        assert json.loads(kept.read_text()) == {"token": "hunter2"}


@pytest.mark.of_a_folder
def test_disconnect_needs_a_confirmation(stored: Cli, tmp_path: Path) -> None:
    data = tmp_path / ".max" / "installations" / "acme" / "default" / "data.db"
    assert stored("disconnect", "acme").status == 2
    assert stored("disconnect", "acme", "--yes", "--keep-data").status == 0
    assert (stored("ls", "-o", "json").data["data"], data.exists()) == ([], True)


def test_disconnect_removes_the_data(stored: Cli, tmp_path: Path) -> None:
    run = stored("disconnect", "acme", "--yes", "-o", "json")
    assert (run.data["disconnected"], run.data["keptData"]) == ("acme:default", False)
    assert not list((tmp_path / ".max" / "installations").glob("*/*"))


@pytest.mark.of_a_folder
def test_ls_lists_installations(stored: Cli) -> None:
    assert stored("ls").out.splitlines()[1].startswith("acme:default  ")
    row = json.loads(stored("ls", "-o", "ndjson").out)
    assert (row["installation"], row["config"]) == ("acme:default", {"users": 12})
    assert (row["status"], row["complete"], row["rows"]) == ("completed", True, len(USERS) + len(TASKS))
    assert Path(row["database"]).stat().st_size == row["bytes"]


@pytest.mark.of_a_folder
def test_ls_says_what_was_never_synced_and_what_is_damaged(stored: Cli, tmp_path: Path) -> None:
    stored("connect", "acme:idle", "--no-input")
    (tmp_path / ".max" / "installations" / "acme" / "default" / "data.db").write_bytes(b"no database")
    run = stored("ls")
    assert [line.split("  ")[:2] for line in run.out.splitlines()[1:]] == [
        ["acme:default", "damaged"],
        ["acme:idle", ""],
    ]
    assert "acme:idle     never synced" in run.out
    assert run.err.startswith("acme:default: ")


@pytest.mark.of_a_folder
def test_ls_reports_a_broken_installation(stored: Cli, tmp_path: Path) -> None:
    (tmp_path / ".max" / "installations" / "acme" / "default" / "installation.json").write_text("{")
    run = stored("ls")
    assert (run.status, run.out, "is broken" in run.err) == (0, "", True)


# -- search, get, count ----------------------------------------------------------------------


def test_search_answers_a_page_and_its_cursor(stored: Cli) -> None:
    run = stored("search", "acme:default", "AcmeUser", "--limit", "2", "--fields", "name", "-o", "json")
    assert list(run.data)[:6] == ["type", "data", "total", "shown", "hasMore", "cursor"]
    assert (run.data["total"], run.data["shown"]) == (12, 2)
    assert run.data["data"] == [{"id": "u00", "name": "User 00"}, {"id": "u01", "name": "User 01"}]
    assert (run.data["type"], run.data["hasMore"], run.err) == ("AcmeUser", True, "")


@pytest.mark.parametrize("order", ["name", "name:desc", "active,name:desc", "email:ASC", "workspace"])
def test_pages_contain_every_entity_once(stored: Cli, order: str) -> None:
    seen: list[str] = []
    after: list[str] = []
    while True:
        words = ["search", "acme", "AcmeUser", "--limit", "5", "--order-by", order, "-o", "json"]
        page = stored(*words, *after).data
        seen += [row["id"] for row in page["data"]]
        if not page["hasMore"]:
            break
        after = ["--after", page["cursor"]]
    assert sorted(seen) == [one.id for one in USERS]


def test_a_cursor_of_another_order_is_refused(stored: Cli) -> None:
    cursor = stored("search", "acme", "AcmeUser", "--limit", "1", "-o", "json").data["cursor"]
    run = stored("search", "acme", "AcmeUser", "--order-by", "name", "--after", cursor)
    assert (run.status, "another" in run.err) == (2, True)


def test_search_filters_and_orders(stored: Cli) -> None:
    words = ["--filter", 'active = true AND name ~= "user 0"', "--order-by", "name:desc", "-o", "ndjson"]
    rows = [json.loads(line) for line in stored("search", "acme", "acmeuser", *words).out.splitlines()]
    assert [row["id"] for row in rows] == ["u08", "u06", "u04", "u02", "u00"]


def test_a_filter_goes_through_a_ref(stored: Cli) -> None:
    words = ["--filter", 'assignee.email = "u1@acme.com"', "-o", "json"]
    assert [row["id"] for row in stored("search", "acme", "AcmeTask", *words).data["data"]] == ["t1"]


def test_all_streams_every_row_without_a_meta_line(stored: Cli) -> None:
    lines = stored("search", "acme", "AcmeUser", "--all", "-o", "ndjson").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [one.id for one in USERS]


@pytest.mark.parametrize("format", ["text", "json", "ndjson"])
def test_all_continues_after_the_first_page(stored: Cli, format: str) -> None:
    asyncio.run(fill(data_of(), [user(number) for number in range(100, 2_300)]))
    out = stored(
        "search", "acme", "AcmeUser", "--all", "--order-by", "name", "--fields", "name", "-o", format
    ).out
    assert (out.count("User 1000"), out.count("User 2299"), out.count("User ")) == (1, 1, 2_212)


@pytest.mark.parametrize("filter", ["active = true", "name = missing"])
def test_all_as_json_is_one_document(stored: Cli, filter: str) -> None:
    run = stored("search", "acme", "AcmeUser", "--all", "--filter", filter, "-o", "json")
    expected = [one.id for one in USERS if one.active] if "active" in filter else []
    assert [row["id"] for row in run.data["data"]] == expected
    assert (run.data["hasMore"], run.data["cursor"], run.data["type"]) == (False, None, "AcmeUser")


def test_search_as_text_is_a_table_with_hints_on_stderr(stored: Cli) -> None:
    run = stored("search", "acme", "AcmeUser", "--limit", "2", "--fields", "name,active")
    assert run.out == "id   name     active\nu00  User 00  true\nu01  User 01  false\n"
    assert run.err.startswith(
        "2 of 12 shown; next: max search acme AcmeUser --limit 2 --fields name,active --after "
    )


def test_an_empty_answer_says_so_on_stderr(stored: Cli) -> None:
    assert stored("search", "acme", "AcmeUser", "--filter", "name ^= x") == Run(
        0, "", "no AcmeUser matches; without the filter there are 12\n"
    )
    assert stored("search", "acme", "AcmeFile").err.startswith("there is no AcmeFile: the last sync, ")


def test_control_characters_from_upstream_are_sanitized(stored: Cli) -> None:
    asyncio.run(fill(data_of(), [user(0, name="\x1b[2Jgone\x9b")]))
    for words in (["search", "acme", "AcmeUser"], ["get", "acme", "AcmeUser:u00"]):
        for format in ("text", "json"):
            assert not {"\x1b", "\x9b"} & set(stored(*words, "-o", format).out)


@pytest.mark.parametrize("words", [["AcmeUser:u03"], ["AcmeUser", "u03"], ["acmeuser:u03"]])
def test_get_shows_one_entity(stored: Cli, words: list[str]) -> None:
    run = stored("get", "acme", *words, "--fields", "email", "-o", "json")
    assert (run.data["type"], run.data["data"]) == ("AcmeUser", {"id": "u03", "email": "u3@acme.com"})
    assert "  email     u3@acme.com\n" in stored("get", "acme", *words).out.replace("         ", "     ")


def test_get_of_a_missing_row_fails(stored: Cli) -> None:
    run = stored("get", "acme", "AcmeUser:missing", "-o", "json")
    assert (run.status, run.error["code"], run.error["data"]["name"]) == (1, "not_found", "missing")


def test_count_answers_type_and_count(stored: Cli) -> None:
    data = stored("count", "acme", "AcmeUser", "-o", "json").data
    assert (data["type"], data["count"]) == ("AcmeUser", 12)
    assert stored("count", "acme", "AcmeUser", "--filter", "active = true").out == "6\n"


# -- schema, status, runs --------------------------------------------------------------------------


def test_schema_has_fields_refs_collections_and_counts(stored: Cli) -> None:
    data = stored("schema", "acme", "--json").data
    entities = {one["name"]: one for one in data["entities"]}
    assert (entities["AcmeUser"]["rows"], data["roots"]) == (12, ["AcmeRoot"])
    assert [one["name"] for one in entities["AcmeTask"]["fields"]] == ["id", *AcmeTask.types()]
    assert {"source": "AcmeTask", "field": "assignee", "target": "AcmeUser", "many": False} in data[
        "relationships"
    ]


def test_schema_of_one_entity_as_text(stored: Cli) -> None:
    out = stored("schema", "acme", "AcmeUser").out
    assert out.startswith("AcmeUser  12 rows  in SQL: acme_user\n  Someone with an account")
    assert "AcmeTask" not in out


def test_schema_names_the_values_of_fields_that_have_few(stored: Cli) -> None:
    rows = {True: sum(one.active for one in USERS), False: sum(not one.active for one in USERS)}
    out = stored("schema", "acme", "AcmeUser").out
    assert f"true {rows[True]}" in out
    assert f"false {rows[False]}" in out
    (user,) = stored("schema", "acme", "AcmeUser", "--json").data["entities"]
    (active,) = [one for one in user["fields"] if one["name"] == "active"]
    assert {one["value"]: one["rows"] for one in active["values"]} == rows


def test_schema_brief_has_a_line_for_each_entity(stored: Cli) -> None:
    lines = stored("schema", "acme", "--brief").out.splitlines()
    assert "active{2}" in next(line for line in lines if line.startswith("AcmeUser(id, name, email, "))
    assert next(line for line in lines if line.startswith("AcmeTask(")).endswith(f") {len(TASKS)} rows")
    data = stored("schema", "acme", "AcmeTask", "--brief", "--json").data["entities"]
    assert (data[0]["table"], data[0]["rows"]) == ("acme_task", len(TASKS))
    assert "assignee→AcmeUser" in data[0]["fields"]
    assert "AcmeTask(id, " in stored("schema", "acme", "--brief").out


def test_schema_before_the_first_sync_comes_from_the_connector(cli: Cli) -> None:
    cli("connect", "acme")
    data = cli("schema", "acme", "AcmeUser", "--json").data
    assert [(one["name"], one["rows"]) for one in data["entities"]] == [("AcmeUser", None)]


def test_reading_before_the_first_sync_names_max_sync(cli: Cli) -> None:
    cli("connect", "acme")
    run = cli("search", "acme", "AcmeUser")
    assert (run.status, run.err) == (
        1,
        "max: acme:default has never been synced\n  start with: max sync acme:default\n",
    )


def test_status_and_runs_before_the_first_sync(cli: Cli) -> None:
    cli("connect", "acme")
    assert "never synced; start with: max sync acme:default" in cli("status").out
    assert cli("status", "acme", "-o", "json").data["data"][0]["lastSync"] is None
    assert cli("runs") == Run(0, "", "there was no sync yet\n")
    assert cli("runs", "show", "x").status == 1


@pytest.mark.parametrize("command", ["pause", "resume", "cancel"])
def test_steering_needs_an_unfinished_sync(stored: Cli, command: str) -> None:
    run = stored(command, "acme")
    assert (run.status, "no sync of acme:default is unfinished" in run.err) == (1, True)


# -- processes ---------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])} | more


def process(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "max", *words],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


SLOW = (
    "asyncio",
    "dataclasses",
    "inspect",
    "logging",
    "concurrent.futures",
    "tempfile",
    "importlib.metadata",
)


def imported_by(folder: Path, *words: str) -> set[str]:
    code = (
        f"import sys; from max.cli import main; main({list(words)!r}); print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stderr.split())


@pytest.mark.of_a_folder
@pytest.mark.parametrize(
    "words",
    [
        ["search", "acme", "AcmeUser", "--filter", "active = true", "-o", "json"],
        ["search", "acme", "AcmeUser"],
        ["get", "acme", "AcmeUser:u01"],
        ["count", "acme", "AcmeUser"],
        ["schema", "acme"],
        ["freshness", "acme"],
        ["count", "acme", "AcmeUser", "--filter", "_age(name) > 1d"],
        ["status"],
        ["ls"],
    ],
)
def test_reading_imports_no_event_loop_and_no_connector(
    stored: Cli, tmp_path: Path, words: list[str]
) -> None:
    loaded = imported_by(tmp_path, *words)
    assert not loaded & {
        *SLOW,
        "max_connectors.acme",
        "max.runtime",
        "max.execution",
        "max.connector",
        "max.upstream.http",
    }


@pytest.mark.of_a_folder
def test_searching_imports_nothing_that_only_a_sync_needs(stored: Cli, tmp_path: Path) -> None:
    loaded = imported_by(tmp_path, "search", "acme", "AcmeUser")
    assert "max.storage.tables" in loaded
    assert not loaded & {
        "threading",
        "base64",
        "hashlib",
        "shlex",
        "max.core",
        "max.installations.credential_file",
        "max.model.changes",
        "max.model.delivery",
        "max.model.loaders",
        "max.model.plan",
        "max.model.tasks",
        "max.query.formats",
        "max.storage.change_log",
        "max.storage.freshness",
        "max.storage.membership",
        "max.storage.removals",
        "max.storage.sync_log",
    }


@pytest.mark.of_a_folder
def test_listing_installations_that_hold_nothing_imports_no_storage(cli: Cli, tmp_path: Path) -> None:
    cli("connect", "acme", "--no-input")
    assert not {"max.storage", "sqlite3"} & imported_by(tmp_path, "ls")


@pytest.mark.of_a_folder
def test_listing_installations_imports_no_sync_log(stored: Cli, tmp_path: Path) -> None:
    assert not {"max.model.tasks", "max.storage.sync_log", "threading"} & imported_by(tmp_path, "ls")


def test_a_command_ends_without_a_last_search_for_cycles_and_a_caller_of_main_keeps_its_own(
    tmp_path: Path,
) -> None:
    """What is frozen is not searched; the search was an eighth of what a short command costs."""
    counts = []
    for call in ("run()", "main()"):
        code = (
            f"import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count())); "
            f"sys.argv[1:] = ['--version']; from max.cli import main, run; {call}"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        counts.append(int(done.stdout.split()[-1]))
    assert counts[0] > 0
    assert counts[1] == 0


def test_version_and_overview_need_no_parser(tmp_path: Path) -> None:
    for words in (["--version"], ["--help"]):
        assert not imported_by(tmp_path, *words) & {
            *SLOW,
            "argparse",
            "typing",
            "sqlite3",
            "json",
            "max.core",
        }


def test_a_closed_pipe_is_not_an_error(stored: Cli, tmp_path: Path) -> None:
    words = ["search", "acme", "AcmeUser", "--all", "-o", "ndjson"]
    writer = subprocess.Popen(
        [sys.executable, "-m", "max", *words],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout
    assert writer.stderr
    with writer, writer.stdout, writer.stderr:
        writer.stdout.close()
        assert (writer.stderr.read(), writer.wait()) == (b"", 0)


def test_a_full_disk_behind_stdout_is_reported(stored: Cli, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "max", "count", "acme", "AcmeUser"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (run.returncode, "No space left" in run.stderr, "Traceback" in run.stderr) == (1, True, False)


def test_undecodable_names_and_ascii_terminals_cause_no_traceback(stored: Cli, tmp_path: Path) -> None:
    run = process(tmp_path, "search", "acme", "AcmeUser", "--filter", "name = 'é'", PYTHONIOENCODING="ascii")
    odd = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"max", b"search", b"acme", b"\xff"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert (run.returncode, odd.returncode, b"Traceback" in odd.stderr) == (0, 2, False)


# -- a database of the layout before 0.1.0 --------------------------------------------------------


@pytest.mark.of_a_folder
@pytest.mark.parametrize(
    "words",
    [
        ["search", "acme", "AcmeUser"],
        ["get", "acme", "AcmeUser:u1"],
        ["count", "acme", "AcmeUser"],
        ["schema", "acme"],
        ["status"],
        ["runs"],
        ["freshness", "acme"],
        ["changes", "acme"],
        ["quarantine", "acme"],
        ["invalidate", "acme", "AcmeUser"],
        ["pause", "acme"],
        ["migrate", "acme"],
        ["sync", "acme"],
    ],
)
def test_a_database_of_an_older_layout_is_refused_and_not_changed(
    cli: Cli, tmp_path: Path, words: list[str]
) -> None:
    cli("connect", "acme")
    path = tmp_path / ".max/installations/acme/default/data.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE _max_migration (owner, version, digest); CREATE TABLE acme_user (_id)"
        )
    before = path.read_bytes()
    run = cli(*words)
    assert (run.status, "was written by a Max before 0.1.0, and was not changed" in run.err) == (1, True)
    assert "move the file away: the next sync fetches everything again" in run.err
    assert path.read_bytes() == before


@pytest.mark.of_a_folder
@pytest.mark.parametrize("content", ["CREATE TABLE _max_migration (owner, version, digest)", ""])
def test_an_installation_whose_database_cannot_be_read_can_be_disconnected(
    cli: Cli, tmp_path: Path, content: str
) -> None:
    cli("connect", "acme")
    path = tmp_path / ".max/installations/acme/default/data.db"
    if content:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(content)
    else:
        path.write_bytes(b"damaged" * 1000)
    assert cli("disconnect", "acme", "--yes").status == 0
    assert not path.exists()
