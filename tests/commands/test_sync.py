"""What a sync says, and syncing every installation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from max.commands.framework import Options
from max.commands.sync import expected_rows
from max.model.tasks import Status
from max.projects.folder import ProjectFolder
from tests.command_line import Cli, data_of, record_sync
from tests.database_files import data_file
from tests.git_repositories import History, make, needs_git

pytestmark = needs_git


@pytest.fixture
def repository(cli: Cli, tmp_path: Path) -> Path:
    """A repository of one commit, connected as ``git:default``."""
    path = make(tmp_path / "repository")
    history = History()
    history.commit(files={b"a": b"1\n"})
    history.write(path)
    assert cli("connect", "git", "--set", f"path={path}", "--no-input").status == 0
    return path


def test_the_first_sync_counts_rows_and_names_an_entity_that_people_want(cli: Cli, repository: Path) -> None:
    run = cli("sync", "git")
    assert run.out.startswith("git:default: completed in ")
    assert "  GitCommit      1\n" in run.out
    assert "next: max search git:default GitCommit --limit 5" in run.err


def test_a_sync_without_news_is_one_line(cli: Cli, repository: Path) -> None:
    cli("sync", "git")
    run = cli("sync", "git")
    (line,) = run.out.splitlines()
    assert line.startswith("git:default: up to date (nothing changed since 20")
    assert (run.err, cli("sync", "git", "--json").data["changed"]) == ("", {})


def test_a_sync_of_some_entities_does_not_say_that_the_others_are_up_to_date(
    cli: Cli, repository: Path
) -> None:
    cli("sync", "git")
    history = History()
    history.commits = 1  # that of the fixture
    history.commit(files={b"b": b"1\n"}, parents=[1])
    history.write(repository)
    run = cli("sync", "git", "--only", "GitTag")
    assert run.out.startswith("git:default: GitTag up to date (nothing changed since 20")
    assert ": 2 new, 1 changed (sync " in cli("sync", "git").out.splitlines()[0]


def test_a_sync_counts_the_rows_that_really_changed(cli: Cli, repository: Path) -> None:
    cli("sync", "git")
    history = History()
    history.commits = 1  # that of the fixture
    history.commit(files={b"b": b"1\n"}, parents=[1], message=b"Another\n")
    history.write(repository)
    run = cli("sync", "git")
    assert ": 2 new, 1 changed (sync " in run.out.splitlines()[0]
    assert run.out.splitlines()[1:4] == [
        "  GitBranch      1 changed",
        "  GitCommit      1 new",
        "  GitFileChange  1 new",
    ]
    assert "next: max changes git:default" in run.err
    found = cli("changes", "git", "--summary", "--json").data["data"]
    kinds = {one["entity"]: (one["created"], one["updated"]) for one in found}
    shown = cli("runs", "show", run.out.partition("(sync ")[2][:10], "--json").data["changed"]
    assert kinds.pop("GitRepository") == (0, 1), "the root is stored before the sync"
    assert {name: (one.get("created", 0), one.get("updated", 0)) for name, one in shown.items()} == kinds


def test_quiet_says_nothing_of_a_sync_that_went_well(cli: Cli, repository: Path) -> None:
    cli("connect", "acme", "--no-input")
    assert cli("sync", "--all", "-q") == (0, "", "")
    shutil.rmtree(repository)
    run = cli("sync", "--all", "-q")
    assert (run.status, run.out.splitlines()[0]) == (1, "git:default: failed")


def test_all_installations_are_synced_also_behind_one_that_fails(cli: Cli, repository: Path) -> None:
    shutil.rmtree(repository)
    cli("connect", "acme", "--no-input")
    cli("connect", "acme:zoo", "--no-input")
    run = cli("sync", "--all")
    assert run.status == 1
    assert [line for line in run.err.splitlines() if line.startswith("syncing")] == [
        f"syncing {name}" for name in ("acme:default", "acme:zoo", "git:default")
    ]
    assert "acme:zoo: completed in " in run.out
    assert "git:default: failed" in run.out
    assert run.out.splitlines()[-1] == "3 installations: 2 completed, 1 failed"
    rows = cli("sync", "--all", "--json").data["data"]
    assert [(one["installation"], one["status"]) for one in rows] == [
        ("acme:default", "completed"),
        ("acme:zoo", "completed"),
        ("git:default", "failed"),
    ]


def test_events_of_all_installations_are_lines_and_the_results_come_last(cli: Cli, repository: Path) -> None:
    cli("connect", "acme", "--no-input")
    lines = [json.loads(line) for line in cli("sync", "--all", "-o", "ndjson").out.splitlines()]
    assert [one["status"] for one in lines[-2:]] == ["completed"] * 2
    assert {one["installation"] for one in lines[:-2]} == {"acme:default", "git:default"}
    assert all("event" in one for one in lines[:-2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which installation?\n  --all, or one of: acme:default, git:default"),
        (["acme", "--all"], "acme and --all cannot be combined"),
        (["--all", "--only", "AcmeTask"], "--all and --only cannot be combined"),
    ],
)
def test_without_a_terminal_all_installations_are_named_by_an_option(
    cli: Cli, repository: Path, words: list[str], said: str
) -> None:
    cli("connect", "acme", "--no-input")
    run = cli("sync", *words)
    assert run.status == 2
    assert said in run.err


def test_resume_needs_no_name_when_one_sync_is_unfinished(cli: Cli, repository: Path) -> None:
    cli("sync", "git")
    cli("sync", "acme:default")
    assert cli("resume").err == "max: no sync is unfinished\n  `max runs` lists those that have ended\n"
    database = data_of("git")
    record_sync(database, Status.PAUSED)
    assert cli("cancel", "--json").data["installation"] == "git:default"
    record_sync(database, Status.PAUSED)
    record_sync(data_of(), Status.PAUSED)
    assert cli("resume").err == "max: which installation?\n  unfinished: acme:default, git:default\n"


@pytest.mark.of_a_folder
def test_the_rows_that_a_full_sync_will_list_are_those_that_are_stored(cli: Cli, repository: Path) -> None:
    project = ProjectFolder.find(".")
    info, full = project.target("git"), Options(full=True, only=[])
    assert expected_rows(full, project, info) == {}
    database = data_file(project, info)
    database.parent.mkdir(parents=True, exist_ok=True)
    database.write_bytes(b"")
    assert expected_rows(full, project, info) == {}, "a sync before this one stored nothing"
    cli("sync", "git")
    assert expected_rows(full, project, info)["GitCommit"] == 1
    assert expected_rows(Options(full=True, only=["GitTag"]), project, info) == {}
    assert expected_rows(Options(full=False, only=[]), project, info) == {}
