"""What a person sees at a terminal: real processes, each at a terminal of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from max.commands.text import display_width
from tests.command_line import Cli
from tests.git_repositories import git, lines, make, needs_git

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
ROOT = Path(__file__).parents[2]
TASK = ["id", "title", "status", "priority", "due_date", "assignee", "estimate"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose ``acme:default`` was synced, and whose ``acme:idle`` was not."""
    folder = tmp_path_factory.mktemp("project")
    for words in (("sync", "acme:default"), ("connect", "acme:idle", "--no-input")):
        screen(folder, 80, *words)
    return folder


def screen(folder: Path, width: int, *words: str, **environment: str) -> list[str]:
    """The lines that a command writes to a terminal of some width."""
    terminal, inside = pty.openpty()
    known = {"TERM": "dumb", "TZ": "EST5EDT,M3.2.0,M11.1.0", "COLUMNS": str(width), **environment}
    known["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    ended = subprocess.Popen(
        [sys.executable, "-m", "max", *words],
        cwd=folder,
        env=os.environ | known,
        stdin=inside,
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    written = b""
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # Linux says so when the last process has left the terminal
            break
        if not part:
            break
        written += part
    ended.wait()
    os.close(terminal)
    return written.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (60, TASK[:4]),
        (100, TASK),
        (
            200,
            [
                "id",
                "title",
                "status",
                "priority",
                "due_date",
                "assignee",
                "estimate",
                "active",
                "tags",
                "created_at",
                "updated_at",
            ],
        ),
    ],
)
def test_tasks_fit_the_terminal_and_begin_with_their_titles(
    folder: Path, width: int, columns: list[str]
) -> None:
    shown = screen(folder, width, "search", "acme:default", "AcmeTask", "--limit", "8")
    assert shown[0].split() == columns
    assert shown[1].startswith("w1-p1-t1   Measure the price table  todo ")
    assert shown[9] == "in every row: project = Harbour 1, workspace = Field 1"
    assert shown[-1] == "8 of 200 shown; more: --limit 32, or --all"
    assert max(map(display_width, shown)) <= width


def test_a_terminal_shows_local_times_and_names_their_zone(folder: Path) -> None:
    words = ("search", "acme:default", "AcmeTask", "--limit", "1", "--fields", "created_at")
    assert screen(folder, 80, *words)[1:3] == [
        "w1-p1-t1  2024-04-20 19:29",
        "times are local (EST/EDT); a filter's are UTC",
    ]
    assert screen(folder, 80, *words, TZ="UTC0")[2] == "times are UTC"
    shown = screen(folder, 80, "get", "acme:default", "AcmeTask:w1-p1-t1", "--fields", "created_at,assignee")
    assert shown[2:] == [
        "  created_at  2024-04-20 19:29:54-04:00",
        "  assignee    AcmeUser:w1-u5  美咲 Dubois",
    ]


def test_a_pipe_gets_exact_times_in_utc(cli: Cli) -> None:
    cli("sync", "acme:default")
    run = cli("search", "acme", "AcmeTask", "--limit", "1", "--fields", "created_at,assignee.name")
    assert run.out.splitlines()[1] == "w1-p1-t1  2024-04-20T23:29:54Z  美咲 Dubois"
    (row,) = cli("search", "acme", "AcmeTask", "--limit", "1", "--json").data["data"]
    assert (row["created_at"], row["assignee"]) == ("2024-04-20T23:29:54Z", "w1-u5")
    data = cli(
        "get", "acme", "AcmeTask:w1-p1-t1", "--fields", "assignee.name,project.owner.name", "--json"
    ).data
    assert data["data"] == {
        "id": "w1-p1-t1",
        "assignee.name": "美咲 Dubois",
        "project.owner.name": "Amara Núñez",
    }


def test_nothing_found_says_why_and_what_to_do(folder: Path) -> None:
    def search(*words: str) -> list[str]:
        return screen(folder, 100, "search", *words)

    filtered = search("acme:default", "AcmeUser", "--filter", "name = unknown")
    assert "no AcmeUser matches; without the filter there are 20" in filtered
    assert search("acme:idle", "AcmeUser") == [
        "max: acme:idle has never been synced",
        "  start with: max sync acme:idle",
    ]


def test_an_entity_that_a_whole_sync_found_empty_says_so(cli: Cli) -> None:
    cli("connect", "acme", "--no-input", "--set", "tasks=0")
    cli("sync", "acme")
    assert (
        cli("search", "acme", "AcmeTask").err == "there is no AcmeTask: the last sync, just now, found none\n"
    )
    assert cli("search", "acme", "AcmeTask", "--json").data["notes"] == [
        "there is no AcmeTask: the last sync, just now, found none"
    ]


@needs_git
def test_get_takes_the_beginning_of_a_hash(cli: Cli, tmp_path: Path) -> None:
    repository = make(tmp_path / "repository")
    for subject in ("first", "second"):
        git(repository, "commit", "--allow-empty", "-m", subject)
    cli("connect", "git", "--no-input", "--set", f"path={repository}")
    cli("sync", "git")
    newest = lines(repository, "rev-parse", "HEAD")[0]
    for beginning in (newest, newest[:10], f"{newest[:10]}…"):
        data = cli("get", "git", f"GitCommit:{beginning}", "--json").data["data"]
        assert (data["id"], data["subject"]) == (newest, "second")
    assert cli("get", "git", f"GitCommit:{newest[:6]}").status == 1
    assert cli("get", "git", "GitBranch:refs/heads/mai").status == 1  # it is no hash
