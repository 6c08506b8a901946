from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from max import Schema
from tests.typing import correct
from tests.typing.model import User

ROOT = Path(__file__).parents[1]
CORRECT = "tests/typing/correct.py"
MISTAKES = "tests/typing/mistakes.py"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """What mypy says about both files: the first error of each line, by file."""
    cache = str(tmp_path_factory.mktemp("mypy"))
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", cache]
    run = subprocess.run([*command, CORRECT, MISTAKES], cwd=ROOT, capture_output=True, text=True)
    found: dict[str, dict[int, str]] = {}
    for line in run.stdout.splitlines():
        error = re.match(r"(.+?):(\d+): error: (.+)", line)
        if error:
            found.setdefault(error[1], {}).setdefault(int(error[2]), error[3])
    assert found, run.stdout + run.stderr
    return found


def marks() -> dict[int, str]:
    """The marked lines of the file of mistakes, and their marks."""
    lines = (ROOT / MISTAKES).read_text().splitlines()
    found = {number: re.search(r"# (M\d+)", line) for number, line in enumerate(lines, 1)}
    return {number: sync_token[1] for number, sync_token in found.items() if sync_token}


def test_the_marks_count_up() -> None:
    assert list(marks().values()) == [f"M{number}" for number in range(1, len(marks()) + 1)]


def test_every_mistake_of_an_author_is_caught_on_its_line(reported: dict[str, dict[int, str]]) -> None:
    missed = [sync_token for line, sync_token in marks().items() if line not in reported[MISTAKES]]
    assert missed == []


def test_nothing_else_is_reported(reported: dict[str, dict[int, str]]) -> None:
    extra = {line: error for line, error in reported[MISTAKES].items() if line not in marks()}
    assert extra == {}
    assert CORRECT not in reported


def test_what_is_correct_also_runs() -> None:
    assert correct.connector.resolver.loader_for(User.email) is correct.user_email
    assert Schema([correct.Comment, User]).entity("comment") is correct.Comment
