"""Data that this Max or this connector cannot use: every command refuses it, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from max.projects.folder import ProjectFolder
from tests.command_line import Cli, running
from tests.versions import opened

DATA = Path(".max/installations/acme/default/data.db")
WRITING = [["sync", "acme"], ["migrate", "acme"], ["invalidate", "acme", "AcmeTask"]]
READING = [
    ["search", "acme", "AcmeTask"],
    ["get", "acme", "AcmeTask:1"],
    ["count", "acme", "AcmeTask"],
    ["find", "audit", "--in", "acme"],
    ["schema", "acme"],
    ["schema", "diff", "acme"],
    ["migrate", "acme", "--plan"],
    ["freshness", "acme"],
]
ANY_PART = [  # what reads and writes a part that every connector has alike
    ["sql", "acme", "SELECT 1"],
    ["sql", "SELECT 1"],
    ["runs", "acme"],
    ["quarantine", "acme"],
    ["pause", "acme"],
    ["cancel", "acme"],
    ["watch", "acme", "--once"],
    ["schedule", "acme"],
    ["schedule", "acme", "--every", "1h"],
    ["schedule", "acme", "--remove"],
]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in a project that has synced the demo source, with history."""
    monkeypatch.chdir(tmp_path)
    ProjectFolder.init(tmp_path)
    run = running(capsys)
    assert run("connect", "acme").status == 0
    assert run("settings", "acme", "history=changes").status == 0
    assert run("sync", "acme").status == 0
    return run


def execute(sql: str) -> None:
    """Change the stored data behind Max's back."""
    connection = opened(DATA)
    connection.executescript(sql)
    connection.close()


# -- data of a newer Max, and of another connector ---------------------------------------------


@pytest.mark.parametrize(
    ("owner", "reading"),
    [
        ("engine", READING),
        ("quarantine", [["quarantine", "acme"]]),
        ("change log", [["changes", "acme"]]),
        ("sync log", [["runs", "acme"], ["status", "acme"]]),
        ("event log", []),
        ("schedules", [["schedule", "acme"]]),
        ("inbox", []),
        ("kept files", []),
    ],
)
def test_data_of_a_newer_max_is_neither_read_nor_written(
    cli: Cli, owner: str, reading: list[list[str]]
) -> None:
    execute(f"INSERT INTO _max_migration VALUES ('{owner}', 99, '')")
    before = DATA.read_bytes()
    for words in [*reading, *WRITING]:
        run = cli(*words, "-o", "json")
        assert (words, run.status) == (words, 1)
        assert (words, run.error["code"]) == (words, "storage.newer")
        assert run.error["hint"] == "upgrade Max, or restore a backup from before the upgrade"
    assert DATA.read_bytes() == before


def test_data_of_another_connector_is_neither_read_nor_written(cli: Cli) -> None:
    execute("""UPDATE _max_schema SET schema = replace(schema, '"acme"', '"shop"')""")
    before = DATA.read_bytes()
    for words in [*READING, *ANY_PART, *WRITING]:
        run = cli(*words, "-o", "json")
        assert (words, run.status, run.error["code"]) == (words, 1, "storage.foreign")
        assert run.error["message"] == "the database holds data of the connector shop, not of acme"
        assert "move data.db back" in run.error["hint"]
    assert "holds data of the connector shop" in cli("health").out
    assert DATA.read_bytes() == before


# -- content that makes no sense ---------------------------------------------------------------

FAILED = """
    INSERT INTO _max_failure (sync, task, kind, what, code, message, hint, attempt, at, input, version)
    SELECT id, 1, 'load_fields', 'x', 'c', 'm', 'h', 1, 0, '{', '1' FROM _max_sync
"""
QUARANTINED = """
    INSERT INTO _max_quarantine (entity, id, digest, expected, actual, fields, row, at)
    VALUES ('AcmeTask', '1', '', 'x', 'y', '["title"]', '{', 5.0)
"""
UNFINISHED = "UPDATE _max_sync SET state = 'paused', finished_at = NULL"
DAMAGES = [
    ("DELETE FROM _max_migration WHERE owner = 'engine'", [*READING, *WRITING]),
    ("DELETE FROM _max_migration WHERE owner = 'sync log'", [["runs", "acme"], *WRITING]),
    ("DELETE FROM _max_migration WHERE owner = 'quarantine'", [["quarantine", "acme"], *WRITING]),
    ("DELETE FROM _max_migration WHERE owner = 'change log'", [["changes", "acme"], *WRITING]),
    ("UPDATE OR REPLACE _max_migration SET version = 'x' WHERE owner = 'engine'", [*READING, *WRITING]),
    ("UPDATE _max_schema SET schema = '{'", [*READING, *WRITING]),
    ("UPDATE _max_schema SET schema = '[]'", [*READING, *WRITING]),
    ("UPDATE _max_sync SET state = 'lost'", [["runs", "acme"], ["pause", "acme"]]),
    ("UPDATE _max_sync SET plan = '{'", [["runs", "acme"], ["pause", "acme"]]),
    ("UPDATE _max_sync SET counts = '[]'", [["runs", "acme"]]),
    ("UPDATE _max_sync SET finished_at = 'x'", [["runs", "acme"]]),
    (f"{UNFINISHED}, command = 'lost'", [["pause", "acme"], ["sync", "acme"]]),
    (FAILED, [["sync", "acme", "--retry-failed"]]),
    (QUARANTINED, [["quarantine", "acme"]]),
    ("UPDATE _max_listing SET began_at = 'x'", [["migrate", "acme"], ["invalidate", "acme", "AcmeTask"]]),
    ("UPDATE _acme_task SET tags = '{'", [["search", "acme", "AcmeTask"]]),
    ("UPDATE _acme_task SET due_date = 'x'", [["search", "acme", "AcmeTask"]]),
    ("UPDATE _acme_task SET title = 'x'; UPDATE _max_change SET new = '{'", [["changes", "acme"]]),
    (
        "UPDATE _acme_workspace SET seats = ''",
        [["changes", "acme"], ["search", "acme", "AcmeWorkspace"], ["get", "acme", "AcmeWorkspace:w1"]],
    ),
    ("UPDATE _max_feed_state SET feed = x'ff00'", [["freshness", "acme"]]),
    ("UPDATE _max_sync SET plan = '{'", [["runs", "show", "1"]]),
    ("UPDATE _max_change_log SET recording = 7", [["changes", "acme"]]),
    ("UPDATE _acme_root SET _loaded = 1e300", [["sync", "acme", "--full"]]),
    ("UPDATE _max_sync SET id = '-7'", [["sync", "acme"]]),
    ("DELETE FROM _max_field WHERE field = 'title'", [["search", "acme", "AcmeTask"], *WRITING]),
    ("UPDATE _max_field SET bit = 1000000000000", [["search", "acme", "AcmeTask"], ["migrate", "acme"]]),
    ("UPDATE _acme_task SET estimate = '{'", [["search", "acme", "AcmeTask", "--all"]]),
    ("UPDATE _acme_task SET title = 'x'; UPDATE _max_change SET at = 'x'", [["sync", "acme"]]),
    ("UPDATE _max_event SET at = 'x'", [["sync", "acme"]]),
    ("UPDATE _max_event SET at = 'x'", [["watch", "--once"]]),
    ("UPDATE _max_change_entity SET kinds = '0'", [["sync", "acme"]]),
    ("UPDATE _max_event_floor SET number = 'x'", [["watch", "--once"]]),
    ("DROP VIEW acme_task; DROP TABLE _acme_task", [["search", "acme", "AcmeTask"], *WRITING]),
]


@pytest.mark.parametrize(("damage", "commands"), DAMAGES, ids=[damage.strip()[:60] for damage, _ in DAMAGES])
def test_content_that_makes_no_sense_is_damage_and_the_error_says_what_to_do(
    cli: Cli, damage: str, commands: list[list[str]]
) -> None:
    execute(damage)
    for words in commands:
        run = cli(*words, "-o", "json")
        assert (words, run.status, run.error["code"]) == (words, 1, "storage.corrupt")
        assert "restore a backup, or move the file away" in run.error["hint"]
