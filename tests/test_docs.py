"""The documentation is executed: every command and every snippet of README.md and docs/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.M | re.S)
SET_UP = re.compile(r"^```shell\n(.*?)^```$", re.M | re.S)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A new directory with a recording, a git repository beside it, and the commands max and python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in (("max", "-m max"), ("python", "")):
        command = tools / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        command.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(ROOT / "tests" / "recordings" / "linear-first.jsonl", work / "linear.jsonl")
    repository = tmp_path / "repository"
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    subprocess.run([*git, "init", "-q", str(repository)], check=True)
    subprocess.run([*git, "-C", str(repository), "commit", "-q", "--allow-empty", "-m", "First"], check=True)
    return work


def environment(place: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    tools = f"{place.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": paths, "PATH": tools, "MAX_HOME": str(place.parent / "home")}


def run(command: list[str], place: Path) -> None:
    done = subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs_in_order(page: Path, place: Path) -> None:
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    for language, name, body in blocks:
        if language == "python" and name:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(body, encoding="utf-8")
        elif language == "python":
            run([sys.executable, "-c", body], place)
        elif language == "sh":
            repository = str(place.parent / "repository")
            run(["sh", "-euc", body.replace("REPOSITORY", repository)], place)
    known = {"python", "sh", "shell", "text", "json"}
    assert {language for language, _, _ in blocks} <= known, "a block that nothing executes"


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
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert links
    for page, target in links:
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
