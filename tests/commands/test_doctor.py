"""max doctor: what it looks at, what it says of what is not sound, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from max import Project, __version__
from max.errors import DAMAGED
from max.projects.audit import audit_rows
from max.projects.folder import ProjectFolder
from max.projects.soundness import EXTRAS
from max.serve.daemon_folder import PID, DaemonFolder
from max.serve.daemon_lock import DaemonLock
from max.storage import sync_log
from max.storage.move_mark import Mark, put_mark
from tests.command_line import Cli, data_of, prepare, project_at, sql, take
from tests.commands.test_storage_errors import WITHOUT_POWER, needs_setpriv, run, unwritable
from tests.database_files import data_file
from tests.off_loop import file_calls
from tests.sample import source

ROOT = Path(__file__).parents[2]
SMALL = "connect acme --set users=6 --set workspaces=1 --set projects=2 --set tasks=4 --set files=0"
PAGE = 4096  # bytes
SECRET = "secret-of-the-test-4711"
OF_INSTALLATION = ["connector", "configuration", "secrets", "data", "integrity", "version", "objects"]
# A connector that needs a secret.
OWN = (
    "from max.connecting import Credential\nfrom tests.sample import sample\n"
    "asked = [Credential('token'), Credential('other', required=False)]\n"
    "connector = sample(name='mine', credentials=asked)\n"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a small installation that was synced."""
    return prepare(tmp_path_factory.mktemp("prepared"), SMALL, "sync acme")


@pytest.fixture
def synced(cli: Cli, prepared: Path, tmp_path: Path) -> Cli:
    """Runs a command in a copy of it."""
    take(prepared, tmp_path)
    return cli


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content."""
    there = sorted(one for one in folder.rglob("*") if one.is_file())
    return {str(one): (one.stat().st_mtime_ns, one.read_bytes()) for one in there}


def found(cli: Cli, *words: str, about: str | None = None) -> dict[str, Any]:
    """The findings that are not about the machine, or about one thing, by their checks."""
    answer = cli("doctor", *words, "-o", "json")
    rows = [row for row in answer.data["data"] if row["about"] != "machine"]
    problems = [row for row in answer.data["data"] if row["level"] == "problem"]
    assert answer.status == bool(problems), answer
    assert all(row["hint"] for row in rows if row["level"] != "ok"), rows
    return {row["check"]: row for row in rows if about in (None, row["about"])}


def levels(cli: Cli, *words: str) -> dict[str, str]:
    """What is not ok, by its check."""
    return {name: row["level"] for name, row in found(cli, *words).items() if row["level"] != "ok"}


def connect_own(*, secrets: dict[str, str]) -> Path:
    """Give the current project a connector that needs a secret, and an installation; its file of secrets."""
    Path("connectors").mkdir()
    Path("connectors/max_mine.py").write_text(OWN)
    project = ProjectFolder.init(".")
    info = project.add("mine", None, {"things": 2}, secrets, now=1_700_000_000.0)
    return data_file(project, info).with_name("credentials.json")


# -- where all is well -----------------------------------------------------------------------------


def test_outside_of_a_project_it_looks_at_the_machine_alone(cli: Cli) -> None:
    answer = cli("doctor", "-o", "json")
    assert [(row["about"], row["check"]) for row in answer.data["data"]] == [
        ("machine", "python"),
        ("machine", "sqlite"),
        ("machine", "full text"),
        ("machine", "extras"),
    ]
    assert (answer.status, answer.data["notes"]) == (
        0,
        ["there is no project here: this is about the machine alone"],
    )
    text = cli("doctor")
    assert text.out.startswith("machine\n  ok       python")
    assert f"SQLite {sqlite3.sqlite_version}" in text.out
    assert cli("doctor", "acme").status == 1
    assert not Path(".max").exists()


def test_a_sound_project_is_ok_in_each_check_and_stays_as_it_is(synced: Cli, tmp_path: Path) -> None:
    before = files(tmp_path)
    assert [*found(synced, about="project")] == ["daemon", "files", "audit", "disk"]
    assert [*found(synced, "acme", about="acme:default")] == OF_INSTALLATION
    assert (levels(synced), levels(synced, "--deep")) == ({}, {})
    assert files(tmp_path) == before


def test_the_version_of_sqlite_before_the_repair_is_said_with_what_follows(synced: Cli) -> None:
    said = next(row for row in synced("doctor", "-o", "json").data["data"] if row["check"] == "sqlite")
    assert said["level"] == "ok"
    assert ("under its own write lock" in said["fact"]) == (sqlite3.sqlite_version_info < (3, 51, 3))


def test_an_installation_that_was_never_synced_is_ok(cli: Cli) -> None:
    cli(*SMALL.split())
    assert found(cli, "acme")["data"]["fact"] == "nothing is stored yet; the first sync makes its database"
    assert levels(cli) == {}


def test_only_the_installations_that_are_named_are_looked_at(synced: Cli) -> None:
    synced("connect", "acme:other")
    assert {row["about"] for row in synced("doctor", "-o", "json").data["data"]} == {
        *("machine", "project", "acme:default", "acme:other")
    }
    named = {row["about"] for row in synced("doctor", "acme:other", "-o", "json").data["data"]}
    assert named == {"machine", "project", "acme:other"}
    assert synced("doctor", "acme:nothing").status == 2


def test_a_program_gets_the_same_without_work_in_its_loop(synced: Cli, tmp_path: Path) -> None:
    async def main() -> list[tuple[str, str, str]]:
        async with Project.open(tmp_path) as project:
            await project.doctor("acme")  # what the first call imports does not count
            with file_calls() as calls:
                rows = await project.doctor("acme", deep=True)
            assert calls == []
            return [(one.about, one.check, one.level.value) for one in rows]

    rows = synced("doctor", "acme", "-o", "json").data["data"]
    said = [(row["about"], row["check"], row["level"]) for row in rows if row["check"] != "daemon"]
    assert asyncio.run(main()) == said


def test_it_knows_every_extra_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras.keys() - EXTRAS.keys() == {"test", "mcp1", "mcp2"}
    assert EXTRAS.keys() <= extras.keys()


# -- databases -------------------------------------------------------------------------------------


def root_page(name: str) -> int:
    """The first page of a table or an index."""
    with closing(sqlite3.connect(data_of("acme:default").file or "")) as connection:
        sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = connection.execute(sql, (name,)).fetchone()
    return int(page)


def overwrite(page: int, change: Callable[[bytes], bytes]) -> None:
    """Change a page of the database behind everyone's back."""
    path = data_of("acme:default").file
    assert path is not None
    data = path.read_bytes()
    start = (page - 1) * PAGE
    path.write_bytes(data[:start] + change(data[start : start + PAGE]) + data[start + PAGE :])


def test_a_page_of_zeros_is_a_problem_and_the_rest_is_looked_at_all_the_same(synced: Cli) -> None:
    synced("connect", "acme:other")
    overwrite(root_page("_acme_task"), lambda page: bytes(len(page)))
    rows = found(synced, about="acme:default")
    assert rows["integrity"]["level"] == "problem"
    assert "restore a backup" in rows["integrity"]["hint"]
    assert {"connector", "data"} <= rows.keys()
    assert {*found(synced, about="acme:other")} == {"connector", "configuration", "secrets", "data"}
    text = synced("doctor")
    assert text.status == 1
    assert "  problem  integrity" in text.out


def test_a_file_that_is_no_database_is_a_problem(synced: Cli) -> None:
    overwrite(1, lambda page: b"x" * len(page))
    assert found(synced)["data"]["level"] == "problem"


@pytest.mark.parametrize("damage", [b"no database", None])
def test_an_audit_that_is_damaged_is_a_problem_as_nothing_can_be_synced(
    synced: Cli, tmp_path: Path, damage: bytes | None
) -> None:
    audit = tmp_path / ".max" / "audit.db"
    held = audit.read_bytes()
    audit.write_bytes(damage or held[:PAGE] + bytes(len(held) - PAGE))
    row = found(synced, about="project")["audit"]
    assert row["level"] == "problem"
    assert "audit" in row["fact"]
    assert "restore a backup" in row["hint"]
    assert synced("doctor").status == 1


@pytest.mark.parametrize(
    ("statement", "fact"),
    [
        ("DELETE FROM _max_audit_head", "the table _max_audit_head has lost its row"),
        ("DROP TABLE _max_audit_intent", "the table _max_audit_intent is not there any more"),
    ],
)
def test_an_audit_that_has_lost_a_table_or_its_row_is_a_problem(
    synced: Cli, tmp_path: Path, statement: str, fact: str
) -> None:
    with closing(sqlite3.connect(tmp_path / ".max" / "audit.db", isolation_level=None)) as connection:
        connection.execute(statement)
    row = found(synced, about="project")["audit"]
    assert (row["level"], row["hint"], fact in row["fact"]) == ("problem", DAMAGED, True)
    answer = synced("settings", "acme", "history=changes", "--json")
    assert (answer.status, answer.error["code"]) == (1, "storage.corrupt")
    assert "TypeError" not in answer.err


def test_an_index_that_lacks_what_its_table_has_is_found_by_the_longer_check(synced: Cli) -> None:
    sql("CREATE INDEX mine ON _acme_user (_id)")
    ((id,),) = sql("SELECT _id FROM _acme_user ORDER BY _id LIMIT 1")
    old = str(id).encode()
    overwrite(root_page("mine"), lambda page: page.replace(old, b"0" * len(old)))
    assert levels(synced) == {}
    assert levels(synced, "--deep") == {"integrity": "problem"}


def test_a_database_of_a_newer_max_is_a_problem_that_upgrading_solves(synced: Cli) -> None:
    sql("INSERT INTO _max_migration VALUES (?, 99, '')", sync_log.OWNER)
    assert levels(synced) == {"version": "problem"}
    assert "upgrade Max" in found(synced)["version"]["hint"]


def test_a_database_of_an_older_max_is_upgraded_by_its_next_sync(synced: Cli) -> None:
    versions = "SELECT owner, max(version) FROM _max_migration GROUP BY owner HAVING max(version) > 1"
    ((owner, version),) = sql(f"{versions} ORDER BY owner LIMIT 1")
    sql("DELETE FROM _max_migration WHERE owner = ? AND version = ?", owner, version)
    row = found(synced)["version"]
    assert row["level"] == "ok"
    assert f"an older Max made its tables ({owner})" in row["fact"]


def test_data_of_another_connector_is_a_problem(synced: Cli, tmp_path: Path) -> None:
    secrets = connect_own(secrets={"token": SECRET})
    data_of("mine")
    path = data_of().file
    assert path is not None
    secrets.with_name("data.db").write_bytes(path.read_bytes())
    row = found(synced, "mine")["version"]
    assert (row["level"], "data of the connector acme" in row["fact"]) == ("problem", True)


def test_what_is_gone_of_ours_is_a_warning_until_the_next_sync(synced: Cli) -> None:
    ((index,),) = sql("SELECT min(name) FROM _max_object WHERE kind = 'index'")
    ((own,),) = sql(
        "SELECT min(name) FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        " AND name NOT IN (SELECT name FROM _max_object)"
    )
    for name in (index, own):
        sql(f'DROP INDEX "{name}"')
    sql("DROP VIEW acme_user")
    row = found(synced)["objects"]
    assert row["level"] == "warning"
    for name in (f"index {index}", f"index {own}", "view acme_user"):
        assert name in row["fact"]
    assert synced("sync", "acme").status == 0
    assert levels(synced) == {}


GONE = [
    ("DROP TABLE _max_worker", "the table _max_worker is not there any more"),
    ("DROP TABLE _max_missing", "the table _max_missing is not there any more"),
    ("DROP TABLE _acme_task", "the table _acme_task is not there any more"),
    (
        "DROP TABLE _max_sync; DROP TABLE _max_event",
        "the tables _max_event, _max_sync are not there",
    ),
    ("DELETE FROM _max_object", "the table _max_object lacks "),
    ("DELETE FROM _max_object WHERE kind = 'index'", "the table _max_object lacks _max_index:"),
    ("DELETE FROM _max_field WHERE field = 'title'", "the table _max_field lacks AcmeTask.title"),
    ("DELETE FROM _max_event_floor", "the table _max_event_floor has lost its row"),
    ("DELETE FROM _max_change_log", "the table _max_change_log has lost its row"),
]


@pytest.mark.parametrize(("damage", "fact"), GONE)
def test_a_table_or_a_row_of_maxs_own_that_is_gone_is_a_problem(synced: Cli, damage: str, fact: str) -> None:
    synced("settings", "acme", "history=changes")
    assert synced("sync", "acme").status == 0
    assert levels(synced) == {}
    for statement in damage.split("; "):
        sql(statement)
    row = found(synced)["objects"]
    assert (row["level"], row["fact"].partition("data.db: ")[2][: len(fact)]) == ("problem", fact)
    assert row["hint"] == DAMAGED
    health = synced("health", "-o", "json").data["data"]
    assert [(one["health"], fact in one["reason"]) for one in health] == [("failed", True)]
    answer = synced("sync", "acme", "--json")
    assert (answer.status, answer.error["code"], answer.error["hint"]) == (1, "storage.corrupt", DAMAGED)
    assert "data.db: " in answer.error["message"]


def test_each_table_that_is_gone_is_a_problem_ends_syncs_and_makes_the_health_failed(synced: Cli) -> None:
    made = sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    names = [name for name, _ in made if name.startswith(("_max_", "_acme_")) and "_find" not in name]
    assert len(names) > 20
    data = Path(str(data_of("acme:default").file))
    sound = data.read_bytes()
    for name in names:
        sql(f"DROP TABLE {name}")
        assert "problem" in {row["level"] for row in found(synced).values()}, name
        assert synced("health", "-o", "json").data["data"][0]["health"] == "failed", name
        answer = synced("sync", "acme", "--full", "--json")
        code = "storage.older" if name == "_max_object" else "storage.corrupt"
        assert (answer.status, answer.error["code"]) == (1, code), name
        data.write_bytes(sound)


def test_a_column_of_a_connectors_table_that_is_gone_is_a_problem(synced: Cli) -> None:
    with closing(sqlite3.connect(data_of("acme:default").file or "")) as connection:
        kinds = "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view')"
        for kind, name in connection.execute(kinds).fetchall():
            connection.execute(f'DROP {kind} "{name}"')
        connection.execute("ALTER TABLE _acme_task DROP COLUMN title")
    row = found(synced)["objects"]
    assert (row["level"], "the table _acme_task lacks title" in row["fact"]) == ("problem", True)


def test_a_log_that_is_many_times_larger_than_the_data_is_a_warning(synced: Cli) -> None:
    log = Path(f"{data_of().file}-wal")
    log.touch()
    os.truncate(log, 130 * 2**20)  # of zeros, which SQLite takes for an empty log
    row = found(synced)["data"]
    assert (row["level"], "its log 136 MB" in row["fact"]) == ("warning", True)
    os.truncate(log, 100 * 2**20)
    assert found(synced)["data"]["level"] == "ok"


@pytest.mark.parametrize("handing_over", [False, True])
def test_a_move_that_is_not_finished_is_a_warning_with_the_ways_out(synced: Cli, handing_over: bool) -> None:
    with data_of().writer() as connection:
        put_mark(connection, Mark("../other", 1_700_000_000.0, handing_over=handing_over))
    row = found(synced)["move"]
    undo = "" if handing_over else "; or take it back: max move acme:default --undo"
    assert (row["level"], row["hint"]) == (
        "warning",
        f"go on with: max move acme:default --to ../other{undo}",
    )
    with project_at().moving_alone():
        assert found(synced)["move"]["level"] == "ok"


def test_a_mark_of_a_move_that_has_lost_its_row_is_a_problem(synced: Cli) -> None:
    with data_of().writer() as connection:
        put_mark(connection, Mark("../other", 1_700_000_000.0))
    sql("DELETE FROM _max_move")
    row = found(synced)["objects"]
    assert (row["level"], "the table _max_move has lost its row" in row["fact"]) == ("problem", True)
    answer = synced("move", "acme", "--undo", "--json")
    assert (answer.status, "TypeError" in answer.err) == (1, False)


# -- the project -----------------------------------------------------------------------------------


@needs_setpriv
def test_a_folder_that_cannot_be_written_is_a_warning(synced: Cli, tmp_path: Path) -> None:
    with unwritable(tmp_path):
        before = files(tmp_path)
        answer = run(tmp_path, "doctor", "-o", "json", before=WITHOUT_POWER)
        assert files(tmp_path) == before
    rows = {row["check"]: row for row in answer.data["data"] if row["level"] != "ok"}
    assert ({*rows}, answer.status) == ({"files"}, 0)
    assert "the project can be asked, and not synced" in rows["files"]["fact"]


@needs_setpriv
def test_a_file_that_cannot_be_read_is_a_problem(synced: Cli, tmp_path: Path) -> None:
    path = data_of().file
    assert path is not None
    path.chmod(0)
    answer = run(tmp_path, "doctor", "-o", "json", before=WITHOUT_POWER)
    path.chmod(0o600)
    rows = {row["check"]: row for row in answer.data["data"] if row["level"] == "problem"}
    assert (rows["files"]["fact"], answer.status) == (f"this user cannot read {path}", 1)
    assert "data" in rows


def test_a_link_to_a_disk_that_is_not_there_is_a_problem(synced: Cli, tmp_path: Path) -> None:
    path = data_of().file
    assert path is not None
    path.rename(tmp_path / "data.db")
    path.symlink_to(tmp_path / "disk" / "data.db")
    row = found(synced)["files"]
    assert (row["level"], row["fact"]) == (
        "problem",
        f"a link leads to what is not there: {path} → {tmp_path}/disk/data.db",
    )
    assert "before the next sync, which makes a new file there" in row["hint"]


def test_a_project_that_every_user_may_write_can_only_be_asked(synced: Cli, tmp_path: Path) -> None:
    (tmp_path / ".max").chmod(0o777)
    assert found(synced)["owner"]["level"] == "warning"


def test_an_installation_whose_file_is_broken_is_a_problem_of_the_project(synced: Cli) -> None:
    synced("connect", "acme:other")
    Path(".max/installations/acme/other/installation.json").write_text("{")
    row = found(synced)["installation"]
    assert (row["about"], row["level"]) == ("project", "problem")
    assert "other/installation.json is broken" in row["fact"]
    assert levels(synced, "acme:default") == {}


def test_a_project_that_cannot_be_opened_is_a_problem(cli: Cli) -> None:
    cli("init")
    Path(".max/project.json").write_text('{"database": "postgresql://u@127.0.0.1:1/none", "id": "x"}')
    row = found(cli)["place"]
    assert (row["about"], row["level"]) == ("project", "problem")


# -- connectors, configurations and secrets --------------------------------------------------------


def test_secrets_are_named_and_never_shown_and_the_audit_has_no_row(cli: Cli, tmp_path: Path) -> None:
    connect_own(secrets={"token": SECRET, "more": SECRET})
    before = (files(tmp_path), audit_rows(project_at()))
    answers = [cli("doctor"), cli("doctor", "-o", "json"), cli("doctor", "mine", "--deep", "-o", "csv")]
    assert found(cli)["secrets"]["fact"] == "there: more, token"
    assert [SECRET in str(answer) for answer in answers] == [False, False, False]
    assert (files(tmp_path), audit_rows(project_at())) == before


def test_a_secret_that_is_missing_is_a_problem_with_the_command_that_gives_it(cli: Cli) -> None:
    connect_own(secrets={"other": SECRET})
    row = found(cli)["secrets"]
    assert (row["level"], row["fact"]) == ("problem", "missing: token")
    assert row["hint"] == "max connect mine:default --update --credential token=env:VARIABLE"


def test_a_file_of_secrets_that_others_can_reach_is_a_problem(cli: Cli) -> None:
    path = connect_own(secrets={"token": SECRET})
    path.chmod(0o644)
    row = found(cli)["secrets"]
    assert (row["level"], str(path) in row["fact"]) == ("problem", True)
    assert row["hint"].startswith(f"chmod 600 {path}")


def test_a_configuration_that_the_connector_cannot_use_is_a_problem_without_its_values(cli: Cli) -> None:
    path = connect_own(secrets={"token": SECRET}).with_name("installation.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "config": {"things": SECRET, "nothing": SECRET}}))
    answer = found(cli)["configuration"]
    assert (answer["level"], answer["fact"]) == (
        "problem",
        "its connector cannot use the values of things, nothing",
    )
    assert SECRET not in str(cli("doctor"))


def test_a_connector_that_is_gone_is_a_problem(cli: Cli) -> None:
    connect_own(secrets={"token": SECRET})
    Path("connectors/max_mine.py").unlink()
    rows = found(cli)
    assert (rows["connector"]["level"], "configuration" in rows) == ("problem", False)
    assert rows["secrets"]["fact"] == "there: token"


def test_a_connector_that_the_project_may_not_run_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    connect_own(secrets={})
    Path("connectors/max_mine.py").write_text("raise SystemExit('it ran')\n" + source("mine"))
    identity = json.loads(Path(".max/project.json").read_text())
    Path(".max/project.json").write_text(json.dumps({**identity, "id": "of another machine"}))
    row = found(cli)["connector"]
    assert (row["level"], f"max trust {tmp_path}" in row["hint"]) == ("warning", True)


# -- the daemon ------------------------------------------------------------------------------------


@contextmanager
def daemon_that_says(words: bytes | None, folder: Path) -> Iterator[None]:
    """This process holds the lock of a project's daemon; at its socket it says some words, if any."""
    lock = DaemonLock(DaemonFolder(folder), {"version": "9.9"})
    lock.take()
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            if words is not None:
                listening.bind(lock.socket)
                listening.listen()
                threading.Thread(target=greet, args=(listening, words)).start()
            yield
    finally:
        lock.release()


def greet(listening: socket.socket, words: bytes) -> None:
    """Greet the one who comes."""
    with listening.accept()[0] as connection:
        connection.sendall(words)


@pytest.fixture
def short_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A home of this test, with a path that is short enough for a socket."""
    monkeypatch.setenv("MAX_HOME", str(tmp_path_factory.mktemp("h")))


@pytest.mark.usefixtures("short_home")
@pytest.mark.parametrize(
    ("words", "level", "hint"),
    [
        (json.dumps({"max": __version__}).encode() + b"\n", "ok", None),
        (b'{"max": "0.0.1"}\n', "warning", "max daemon restart"),
        (b"\n", "problem", "max daemon restart --force replaces it"),
        (None, "problem", "max daemon restart --force replaces it"),
    ],
)
def test_a_daemon_is_to_answer_in_this_version(
    cli: Cli, tmp_path: Path, words: bytes | None, level: str, hint: str | None
) -> None:
    cli("init")
    with daemon_that_says(words, tmp_path):
        row = found(cli)["daemon"]
    assert (row["level"], row["hint"]) == (level, hint)
    assert found(cli)["daemon"]["fact"] == "none runs"


@pytest.mark.usefixtures("short_home")
def test_a_daemon_whose_process_was_killed_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    cli("init")
    with daemon_that_says(None, tmp_path):
        left = Path(DaemonFolder(tmp_path).file(PID)).read_text()
    Path(DaemonFolder(tmp_path).file(PID)).write_text(left)
    assert found(cli)["daemon"]["level"] == "warning"
