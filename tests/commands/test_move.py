"""max move: what it says, and what it refuses."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

import pytest

from max.projects.folder import ProjectFolder
from max.serve.daemon_folder import DaemonFolder
from max.storage.moves import freeze
from tests.command_line import Cli, prepare, running, take


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the demo, which was synced."""
    return prepare(tmp_path_factory.mktemp("prepared"), "init", "sync acme:default -q")


@pytest.fixture
def cli(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    monkeypatch.chdir(take(prepared, tmp_path / "home"))
    return running(capsys)


def test_the_plan_says_what_would_be_moved_and_moves_nothing(cli: Cli) -> None:
    run = cli("move", "--to", "../target", "--plan")
    assert run.status == 0, run.err
    assert "acme:default" in run.out
    assert "to be moved: 1 installation, to ../target" in run.err
    (row,) = cli("move", "--to", "../target", "--plan", "-o", "json").data["data"]
    assert (row["installation"], row["files"], row["state"]) == ("acme:default", 0, "to be moved")
    assert row["rows"] > 200
    assert not Path("../target").exists()
    assert cli("sync", "acme:default", "-q").status == 0


def test_a_move_says_how_far_it_is_and_what_it_has_moved(cli: Cli) -> None:
    rows = cli("count", "acme", "AcmeTask").out
    run = cli("move", "acme:default", "--to", "../target")
    assert run.status == 0, run.err
    assert [line.split(" ")[:2] for line in run.err.splitlines()[:2]] == [
        ["acme:default:", "copying"],
        ["acme:default:", "verifying"],
    ]
    assert "moved: 1 installation, to ../target" in run.err
    assert cli("ls").out == ""
    assert cli("-C", "../target", "count", "acme", "AcmeTask").out == rows
    assert cli("-C", "../target", "sync", "acme").status == 0
    quiet = cli("-C", "../target", "move", "--to", "../third", "-q", "-o", "ndjson")
    assert (quiet.status, quiet.data["state"], quiet.err) == (0, "moved", "")


def test_a_daemon_that_has_the_data_open_is_to_be_stopped_first(cli: Cli) -> None:
    folder = DaemonFolder(Path.cwd())
    Path(folder.path).mkdir(mode=0o700, parents=True)
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        run = cli("move", "--to", "../target", "-o", "json")
    finally:
        os.close(descriptor)
    assert (run.status, run.error["code"], run.error["hint"]) == (
        *(1, "daemon.running"),
        "stop it first: max daemon stop",
    )
    assert not Path("../target").exists()


@pytest.mark.parametrize("target", ["/target", "postgresql://a@b/c?host=/nowhere"])
def test_what_is_being_moved_can_be_read_is_not_synced_and_can_be_taken_back(cli: Cli, target: str) -> None:
    """Also when the place to which it was to be moved cannot be reached any more."""
    here = ProjectFolder.find(".")
    info = here.target("acme")
    rows = cli("count", "acme", "AcmeTask").out
    with here.writable_database(info).writer() as connection:
        freeze(connection, target)
    assert cli("count", "acme", "AcmeTask").out == rows
    refused = cli("sync", "acme", "-o", "json")
    assert (refused.status, refused.error["code"]) == (1, "storage.moving")
    assert "max move INSTALLATION --undo" in refused.error["hint"]
    assert cli("move", "--undo").out == "acme:default stays where it is\n"
    assert cli("sync", "acme").status == 0
    assert cli("move", "--undo").out == "nothing is being moved\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("", 2, "where to?"),
        ("--to . --undo", 2, "--undo goes alone"),
        ("--to .", 2, "it is in .* already"),
        ("nothing --to ../x", 2, "unknown installation 'nothing'"),
        ("--to postgresql://a:b@c/d", 2, "a password in a URL"),
        ("--to postgresql://[bad/d", 2, "that is no URL of a database"),
        ("--to postgresql://c:x/d", 2, "that is no URL of a database"),
        ("--to /dev/null/x", 1, "Not a directory"),
    ],
)
def test_what_cannot_be_done_has_its_words_and_its_status(
    cli: Cli, words: str, status: int, message: str
) -> None:
    run = cli("move", *words.split())
    assert run.status == status, run.err
    assert re.search(message, run.err), run.err


def test_what_users_made_is_named_with_the_way_to_drop_it(cli: Cli) -> None:
    here = ProjectFolder.find(".")
    with here.writable_database(here.target("acme")).writer() as connection:
        connection.execute("CREATE VIEW mine AS SELECT 1 AS a")
    run = cli("move", "--to", "../target")
    assert run.status == 1
    assert "another database may not understand your view mine" in run.err
    assert 'DROP VIEW "mine"' in run.err
