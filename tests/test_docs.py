"""The documentation is executed: every command and every snippet of README.md, CONTRIBUTING.md and docs/."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from bench.__main__ import BENCHES
from max.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
LINKED = [*PAGES, CONTRIBUTING, *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
PORT = "8765"  # what the pages say; a free one takes its place
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.M | re.S)
SET_UP = re.compile(r"^```shell\n(.*?)^```$", re.M | re.S)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A new directory with a recording, a git repository beside it, and the commands max and python.

    A page writes the number of a process that it starts into a file ``NAME.pid``; it is ended with the page,
    and so is a daemon.
    """
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in (("max", "-m max"), ("python", "")):
        command = tools / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        command.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("linear", "drive"):
        shutil.copy(ROOT / "tests" / "recordings" / f"{name}-first.jsonl", work / f"{name}.jsonl")
    repository = tmp_path / "repository"
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    subprocess.run([*git, "init", "-q", str(repository)], check=True)
    for number, files in enumerate((["README.md"], ["README.md", "a.py"], ["a.py", "b.py", "README.md"])):
        for name in files:
            (repository / name).write_text(f"{name} {number}\n")
        subprocess.run([*git, "-C", str(repository), "add", "-A"], check=True)
        subprocess.run([*git, "-C", str(repository), "commit", "-q", "-m", f"Change {number}"], check=True)
    yield work
    for file in [*work.glob("*.pid"), *tmp_path.glob("home/daemons/*/daemon.pid")]:
        with suppress(ProcessLookupError):  # the page has ended it itself
            os.kill(int(file.read_text().split()[0]), signal.SIGTERM)


def environment(place: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    tools = f"{place.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": paths, "PATH": tools, "MAX_HOME": str(place.parent / "home")}


def run(command: list[str], place: Path, words: str = "") -> None:
    done = subprocess.run(
        command, input=words, cwd=place, env=environment(place), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs_in_order(page: Path, place: Path) -> None:
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    for language, name, body in blocks:
        if language in ("python", "json") and name:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(body, encoding="utf-8")
        elif language == "python":
            run([sys.executable, "-c", body], place)
        elif language == "sh":
            repository = str(place.parent / "repository")
            run(["sh", "-euc", body.replace("REPOSITORY", repository).replace(PORT, free_port())], place)
        elif language == "diff":
            run(["git", "apply", "-"], place, body)
        elif language == "sql":
            found = rows(place, name, body)
            assert found, body
            assert answered(place, name, body) == len(found), body
    known = {"python", "sh", "shell", "text", "json", "sql", "diff"}
    assert {language for language, _, _ in blocks} <= known, "a block that nothing executes"


def free_port() -> str:
    """A port of this machine that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def rows(place: Path, connector: str, statement: str) -> list[tuple[object, ...]]:
    """What a statement reads from the file of an installation, as any tool would open it."""
    file = place / ".max" / "installations" / connector / "default" / "data.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def answered(place: Path, connector: str, statement: str) -> int:
    """How many rows ``max sql`` answers, which reads a statement from standard input."""
    command = [sys.executable, "-m", "max", "sql", connector, "-o", "ndjson", "--quiet"]
    done = subprocess.run(
        command, input=statement, cwd=place, env=environment(place), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return len(done.stdout.splitlines())


def test_the_page_on_sql_has_ten_statements_for_two_connectors() -> None:
    blocks = FENCE.findall((ROOT / "docs" / "sql.md").read_text(encoding="utf-8"))
    connectors = [name for language, name, _ in blocks if language == "sql"]
    assert (len(connectors), set(connectors)) == (10, {"acme", "git"})


def test_the_commands_for_contributors_work() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    (tests,) = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    for line in tests.splitlines():
        words = [sys.executable, *line.split()[1:]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    _, checks = re.findall(r"^```shell\n(.*?)^```$", text, re.M | re.S)
    in_ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for line in checks.splitlines():
        if line.startswith("python -m bench "):
            assert line.split()[-1] in BENCHES
        else:
            assert line in in_ci


def test_the_map_leads_to_every_module_and_to_nothing_else() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8").partition("## The map")[2].partition("## The words")[0]
    named, folder = set(), ""
    for path in re.findall(r"`((?:max/[a-z/]*)?\w+\.py)`", text):
        folder = path.rpartition("/")[0] or folder
        named.add(f"{folder}/{path.rpartition('/')[2]}")
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "max").rglob("[!_]*.py")}
    assert named <= there
    modules = {f"max/commands/{module}.py" for _, module, _ in COMMANDS.values()}
    assert there - named - modules == set()


def test_the_readme_has_exactly_two_set_up_commands() -> None:
    (block,) = SET_UP.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    first, second = block.strip().splitlines()
    assert first.startswith("python -m pip install ")
    assert first.endswith("python -m max sync acme:default")
    assert second.startswith("python -m pip install ")
    assert "pytest" in second


def test_every_link_between_pages_leads_somewhere() -> None:
    links = [
        (page, target)
        for page in LINKED
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert links
    for page, target in links:
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
