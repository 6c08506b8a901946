"""Every command on a database that a disk has damaged: it answers, or says what is wrong and what to do.

``MAX_DAMAGES`` says how often a database is damaged (24 by default).
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.command_line import Cli

DAMAGES = int(os.environ.get("MAX_DAMAGES", "24"))
PAGE = 4096  # bytes
SMALL = ["users=6", "workspaces=1", "projects=2", "tasks=4", "files=0"]
COMMANDS = [
    ["count", "acme", "AcmeUser"],
    ["find", "audit log", "--in", "acme", "--json"],
    ["search", "acme", "AcmeTask", "--all", "-o", "ndjson"],
    ["search", "acme", "AcmeTask", "--filter", "assignee.name ~= a", "--order-by", "title", "--json"],
    ["get", "acme", "AcmeUser:user-1", "--json"],
    ["status", "--json"],
    ["doctor", "--deep", "--json"],
    ["runs", "acme", "--json"],
    ["schema", "acme", "--json"],
    ["freshness", "acme", "--json"],
    ["quarantine", "acme", "--json"],
    ["changes", "acme", "--json"],
    ["migrate", "acme", "--plan", "--json"],
    ["invalidate", "acme", "AcmeUser.email", "--json"],
    ["pause", "acme", "--json"],
    ["migrate", "acme", "--json"],
    ["sync", "acme", "--json"],
]


def flip(data: bytearray, draw: random.Random) -> None:
    """Change one byte."""
    data[draw.randrange(len(data))] ^= draw.randrange(1, 256)


def zero(data: bytearray, draw: random.Random) -> None:
    """Lose a page."""
    start = draw.randrange(0, len(data), PAGE)
    data[start : start + PAGE] = bytes(PAGE)


def misdirect(data: bytearray, draw: random.Random) -> None:
    """Write a page to the place of another."""
    source, place = (draw.randrange(0, len(data), PAGE) for _ in range(2))
    data[place : place + PAGE] = data[source : source + PAGE]


def truncate(data: bytearray, draw: random.Random) -> None:
    """Lose the end."""
    del data[draw.randrange(len(data)) :]


KINDS = [flip, flip, flip, zero, misdirect, truncate]


@pytest.fixture
def path(tmp_path: Path, cli: Cli) -> Path:
    """The file of an installation that was synced and records changes."""
    cli("init")
    words = [part for one in SMALL for part in ("--set", one)]
    assert cli("connect", "acme", *words).status == 0
    assert cli("settings", "acme", "history=changes").status == 0
    assert cli("sync", "acme").status == 0
    return tmp_path / ".max" / "installations" / "acme" / "default" / "data.db"


def test_a_damaged_database_is_answered_from_or_named_by_every_command(path: Path, cli: Cli) -> None:
    sound = path.read_bytes()
    codes = set()
    for number in range(DAMAGES):
        draw = random.Random(number)
        data = bytearray(sound)
        damage = draw.choice(KINDS)
        damage(data, draw)
        for command in COMMANDS:
            for left in path.parent.glob("data.db*"):
                left.unlink()
            path.write_bytes(data)
            run = cli(*command)
            what = f"{damage.__name__} {number}: {command} {run}"
            assert run.status in (0, 1, 2, 3), what
            if run.status == 1 and not run.out and "--json" in command:  # else it has answered
                error = json.loads(run.err.splitlines()[-1])["error"]
                codes.add(error["code"])
                assert error["message"], what
                assert error["hint"], what
    assert "storage.corrupt" in codes
    assert codes <= {"storage.corrupt", "storage.empty", "storage", "sync", "schema", "not_found"}, codes


def test_an_index_that_does_not_have_what_its_table_has_is_named(path: Path, cli: Cli) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sql = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex__max_change_entity_1'"
        (page,) = connection.execute(sql).fetchone()
    data = bytearray(path.read_bytes())
    start = data.index(b"AcmeTask", (page - 1) * PAGE, page * PAGE)
    data[start : start + 8] = b"AcmeTusk"
    path.write_bytes(data)
    assert cli("migrate", "acme", "--json").error["code"] == "storage.corrupt"


def test_a_stored_schema_that_lost_a_word_is_named(path: Path, cli: Cli) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE _max_schema SET schema = replace(schema, '\"target\"', '\"carpet\"')")
    assert cli("migrate", "acme", "--json").error["code"] == "storage.corrupt"
