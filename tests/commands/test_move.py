"""max move: what it says, and what it refuses."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from max.errors import ProjectError
from max.installations.trust import record_allowed
from max.projects import folder as project_folder
from max.projects import moving
from max.projects.folder import ProjectFolder
from max.projects.opening import find_project, move_of
from max.serve.daemon_folder import DaemonFolder
from max.storage.moves import freeze
from max.storage.postgres import PostgresDatabase
from tests.command_line import Cli, prepare, project_at, running, take
from tests.contract.places import POSTGRES
from tests.postgres_server import shared_url
from tests.waiting import wait_until


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
    undone = cli("move", "--undo")
    assert undone.out == "acme:default stays where it is\n"
    unreachable = f"what was copied to {target} cannot be reached, and stays there"
    assert (unreachable in undone.err) == target.startswith("postgresql")
    assert cli("sync", "acme").status == 0
    assert cli("move", "--undo").out == "nothing is being moved\n"


@contextmanager
def moving_elsewhere(to: str) -> Iterator[int]:
    """Another process that moves the project, while it is in the middle of that."""
    (ready, begun), (never, held) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(held)

            def blocked(*_: object) -> None:
                os.write(begun, b"!")
                os.read(never, 1)  # until this process is killed, or its parent is gone

            moving.copy_contents = blocked  # type: ignore[assignment, attr-defined]
            move_of(find_project("."), to, None).run()
        finally:
            os._exit(1)
    os.close(begun)
    os.close(never)
    try:
        assert os.read(ready, 1) == b"!"
        yield child
    finally:
        os.close(ready)
        os.close(held)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


@pytest.mark.postgres
@pytest.mark.parametrize("kind", ["folder", POSTGRES])
def test_of_two_moves_one_wins_and_status_says_what_is_being_moved_and_what_was_broken_off(
    kind: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_folder, "PATIENCE", 0.0)
    place, schema = str(Path.cwd()), f"m{os.getpid()}c"
    if kind == "postgres":
        place = f"{shared_url()}#{schema}"
        record_allowed(Path.cwd())
        assert cli("move", "--to", place, "-q").status == 0
    target = str(Path("../tar get").resolve())
    with moving_elsewhere(target) as child:
        for words in (["--to", target], ["--to", "../other"], ["acme", "--to", target], ["--undo"]):
            run = cli("move", *words, "-o", "json")
            assert (run.status, run.error["code"]) == (1, "project.move_refused"), run.error
            assert run.error["message"] == f"another process is moving something out of {place}"
        (row,) = cli("status", "-o", "json").data["data"]
        assert (row["moving"]["from"], row["moving"]["to"], row["moving"]["running"]) == (place, target, True)
        assert datetime.fromisoformat(row["moving"]["since"])
        listed = cli("ls")
        assert "being moved" in listed.out
        assert f"the project is being moved from {place} to {target}, begun" in listed.err
        assert "go on with" not in listed.err + cli("status").out
        assert cli("count", "acme", "AcmeTask").status == 0
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wait_until(lambda: not project_at(".").is_moving())  # a server notices that its client has died
    (row,) = cli("ls", "-o", "json").data["data"]
    assert not row["moving"]["running"]
    assert row["moving"]["next"] == f"max move --to '{target}'"
    assert row["moving"]["undo"] == "max move acme:default --undo"
    advice = f"go on with: max move --to '{target}'; or take it back: max move acme:default --undo"
    assert advice in cli("status").out
    assert advice in cli("ls").err
    assert cli("move", "--undo").out == "acme:default stays where it is\n"
    (row,) = cli("status", "-o", "json").data["data"]
    assert "moving" not in row
    if kind == "postgres":
        assert cli("move", "--to", ".", "-q").status == 0
        PostgresDatabase(shared_url(), schema).delete()
        PostgresDatabase(shared_url(), f"{schema}_audit").delete()


def test_what_was_not_handed_over_is_taken_back_and_the_rest_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, admit = ProjectFolder.find("."), ProjectFolder._admit
    here.add("acme", "b", {}, {}, now=1e9)

    def admitting(self: ProjectFolder, one: Any, staged: Path) -> None:
        if one.info.name == "default":
            raise ProjectError("the disk is full")
        admit(self, one, staged)

    monkeypatch.setattr(ProjectFolder, "_admit", admitting)
    run = cli("move", "--to", "../there")
    assert (run.status, "max move INSTALLATION --undo" in run.err) == (1, True)
    run = cli("move", "--undo")
    assert (run.status, run.out) == (3, "acme:default stays where it is\n")
    assert re.search(r"acme:b is in .*/there already", run.err)
    assert cli("sync", "acme:default").status == 0
    again = cli("move", "--undo")
    assert (again.status, "acme:b is in" in again.err) == (1, True)
    monkeypatch.undo()


def test_what_a_killed_move_has_left_behind_is_named_with_the_way_to_remove_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("move", "--to", "../there", "-q").status == 0
    note = Path(".max/project.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"leaving": "/former"}))
    words = f"a move from /former is not finished; remove what is left there: max move --to {Path.cwd()}"
    assert words in cli("ls").err
    assert words in cli("status").err


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
