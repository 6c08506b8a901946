"""Completion: what is offered for each word of a line, and what bash makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.cli import COMMANDS, main
from max.commands.completion import SCRIPTS, for_bash, split
from tests.command_line import Cli

ROOT = Path(__file__).resolve().parents[2]
Complete = Callable[..., list[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one synced installation."""
    folder = tmp_path_factory.mktemp("project")
    assert main(["-C", str(folder), "connect", "acme", "--no-input", "--set", "tasks=60", "-q"]) == 0
    assert main(["-C", str(folder), "sync", "-q"]) == 0
    return folder


@pytest.fixture
def complete(cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """What is offered for the last of some words."""
    monkeypatch.chdir(project)

    def run(*words: str) -> list[str]:
        answer = cli("__complete", "fish", *words)
        assert (answer.status, answer.err) == (0, "")
        return answer.out.splitlines()

    return run


def test_commands_are_completed(complete: Complete) -> None:
    assert complete("se") == ["settings", "search", "serve"]
    assert set(complete("")) == {one.split()[0] for one in COMMANDS} | {"--help", "--version"}
    assert complete("connector", "te") == ["test"]
    assert complete("-C", ".", "sea") == ["search"]
    assert complete("-o", "js") == ["json"]
    assert complete("nonsense", "") == []


def test_options_and_the_values_that_they_name_are_completed(complete: Complete) -> None:
    assert complete("search", "acme", "AcmeTask", "--fi") == ["--filter", "--fields"]
    assert complete("search", "acme", "AcmeTask", "-o", "m") == ["markdown"]
    assert complete("search", "acme", "AcmeTask", "--output=m") == ["--output=markdown"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]
    assert complete("settings", "acme", "hist") == ["history=", "history_days="]
    assert complete("connect", "") == ["acme", "git", "github", "google_drive", "hubspot", "linear"]


def test_installations_and_entities_are_completed_also_where_the_installation_is_left_out(
    complete: Complete,
) -> None:
    assert complete("sync", "ac") == ["acme:default"]
    assert complete("search", "a") == ["acme:default"]
    assert complete("search", "AcmeT") == ["AcmeTask"]
    assert complete("search", "acme", "AcmeT") == ["AcmeTask"]
    assert complete("search", "AcmeTask", "") == []
    assert complete("find", "x", "--entity", "AcmeUser,AcmeT") == ["AcmeUser,AcmeTask"]
    assert complete("export", "acme", "AcmeUser", "AcmeT") == ["AcmeTask"]


def test_fields_are_completed_in_lists_and_through_refs(complete: Complete) -> None:
    assert complete("search", "acme", "AcmeTask", "--fields", "ti") == ["title"]
    assert complete("search", "AcmeTask", "--fields", "title,assignee.na") == ["title,assignee.name"]
    assert complete("search", "acme", "AcmeTask", "--order-by", "-du") == ["-due_date"]
    assert complete("search", "acme", "AcmeTask", "--order-by", "due_date:d") == ["due_date:desc"]
    assert complete("count", "acme", "AcmeTask", "--by", "updated_at:m") == ["updated_at:month"]
    assert complete("values", "acme", "AcmeTask.st") == ["AcmeTask.status"]
    assert complete("changes", "acme", "--entity", "AcmeTask", "--fields", "sta") == ["status"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sta", ["status"]),
        ("NOT sta", ["NOT status"]),
        ("status = todo AND (prio", ["status = todo AND (priority"]),
        ("status = todo A", ["status = todo AND"]),
        ("status H", []),
        ("tags H", ["tags HAS"]),
        ("active ", ["active =", "active IN (", "active IS NULL", "active IS NOT NULL"]),
        ("status = ba", ["status = backlog"]),
        ('status = "in p', ['status = "in progress"']),
        ("status IN (todo, ba", ["status IN (todo, backlog"]),
        ("tags HAS cus", ["tags HAS customer"]),
        ("title = ", []),
        ("assignee.na", ["assignee.name"]),
    ],
)
def test_a_filter_goes_on_with_fields_operators_and_values(
    complete: Complete, typed: str, offered: list[str]
) -> None:
    assert complete("search", "acme", "AcmeTask", "--filter", typed) == offered


def test_whatever_is_wrong_nothing_is_offered_and_nothing_said(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ([], ["fish"], ["tcsh"], ["bash", "x"], ["fish", "search", ""], ["fish", "sync", "ac"]):
        run = cli("__complete", *words)
        assert (run.status, run.out, run.err) == (0, "", ""), words
    assert list(tmp_path.iterdir()) == []


def test_completing_writes_nothing(complete: Complete, project: Path) -> None:
    def files() -> dict[Path, int]:
        found = [path for path in project.rglob("*") if path.is_file() and "data.db-" not in path.name]
        return {path: path.stat().st_mtime_ns for path in found}

    before = files()
    complete("search", "acme", "AcmeTask", "--filter", "status = ")
    assert files() == before


# -- bash ------------------------------------------------------------------------------------------


@given(st.lists(st.text("ab :='\"\\$*é", max_size=8), min_size=1, max_size=4))
def test_words_that_are_quoted_for_bash_are_split_as_they_were(words: list[str]) -> None:
    quoted = ["'" + word.replace("'", "'\\''") + "'" for word in words]
    assert split(" ".join(quoted)) == (words, "")


def test_an_open_quote_is_known_and_a_candidate_that_has_it_is_left_out() -> None:
    assert split("max search --filter 'status = to") == (["max", "search", "--filter", "status = to"], "'")
    assert for_bash("name = O'Hara", "name = O", "'", " :=") is None
    assert for_bash("acme:default", "acme:d", "", " :=") == "default"
    assert for_bash("in progress", "in", "", " ") == "in\\ progress"


SHELL = """
PS1='$ '
max() { if [ "$1" = __complete ]; then "$PYTHON" -m max "$@"; else printf 'got<%s>' "$@"; echo; fi; }
"""
START = {"bash": "", "zsh": "autoload -Uz compinit && compinit -u -D\n"}
STUCK = 60.0  # seconds after which a shell that waits for the end of a quote is killed


def environment() -> dict[str, str]:
    places = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    return os.environ | {"PYTHONPATH": places, "PYTHON": sys.executable, "TERM": "dumb"}


def needed(shell: str) -> str:
    """The program of a shell."""
    return shutil.which(shell) or pytest.skip(f"there is no {shell} here")


@pytest.mark.parametrize("shell", START)
def test_a_line_is_completed_at_a_terminal(shell: str, project: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    rc = tmp_path / ".zshrc"
    rc.write_text(START[shell] + SHELL + SCRIPTS[shell])
    words = [needed(shell), "-i"] if shell == "zsh" else [needed(shell), "--rcfile", str(rc), "-i"]
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        words,
        cwd=project,
        env=environment() | {"ZDOTDIR": str(tmp_path)},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    ) as running:
        watch = threading.Timer(STUCK, running.kill)
        watch.start()
        os.close(inside)
        os.write(
            terminal,
            b"max sea\tacme:def\tAcmeTa\t--fields title,assignee.na\t --filter 'status = ba\t\nexit\n",
        )
        shown = b""
        while True:
            try:
                more = os.read(terminal, 1024)
            except OSError:  # on Linux: the other side has closed
                break
            if not more:
                break
            shown += more
        os.close(terminal)
        watch.cancel()
    given = ["search", "acme:default", "AcmeTask", "--fields", "title,assignee.name"]
    given += ["--filter", "status = backlog"]
    assert "".join(f"got<{word}>" for word in given) in shown.decode()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("max sea", "search"),
        ("max search acme AcmeT", "AcmeTask"),
        ("max search acme AcmeTask --fields title,assignee.na", "title,assignee.name"),
        ("max search acme AcmeTask --filter 'status = ba", "'status = backlog"),
    ],
)
def test_fish_completes_a_line(typed: str, offered: str, project: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.fish"
    max_here = 'function max; "$PYTHON" -m max $argv; end'
    line = typed.replace("'", "\\'")
    script.write_text(f"{max_here}\n{SCRIPTS['fish']}\ncomplete -C '{line}'\n")
    words = [needed("fish"), "--no-config", str(script)]
    done = subprocess.run(words, cwd=project, env=environment(), capture_output=True, text=True, check=True)
    assert [one.split("\t")[0] for one in done.stdout.splitlines()] == [offered]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_script_is_one_that_its_shell_reads(cli: Cli, shell: str, tmp_path: Path) -> None:
    program = needed(shell)
    script = tmp_path / "script"
    script.write_text(cli("completion", shell).out)
    done = subprocess.run([program, "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
