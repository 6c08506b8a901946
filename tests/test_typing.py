from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from max import Schema
from tests import installed
from tests.typing import correct
from tests.typing.model import User

ROOT = Path(__file__).parents[1]
CORRECT = "tests/typing/correct.py"
MISTAKES = "tests/typing/mistakes.py"
README = installed.programs()
Reported = dict[str, dict[int, str]]  # the first error of each line, by file


def written_programs() -> dict[str, str]:
    """The Python blocks of all pages of docs/, by file name.

    Of two that have one name it is the first: the tutorial, whose program grows, runs mypy itself.
    """
    found: dict[str, str] = {}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        blocks = re.findall(r"^```python ?(\S*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
        found = {name or f"{page.stem}_{n}.py": text for n, (name, text) in enumerate(blocks)} | found
    return found


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """What mypy reports for the examples, the README's program and the programs in docs/."""
    folder = tmp_path_factory.mktemp("programs")
    written = {name: text for name, (text, _) in README.items()} | written_programs()
    for name, text in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    options = ["--config-file", "pyproject.toml", "--cache-dir", str(ROOT / ".mypy_cache")]
    files = [CORRECT, MISTAKES, *(str(folder / name) for name in written if "/" not in name)]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *files],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(folder / "connectors")},
        capture_output=True,
        text=True,
    )
    found: Reported = {}
    for line in run.stdout.splitlines():
        error = re.match(r"(.+?):(\d+): error: (.+)", line)
        if error:
            name = error[1] if error[1] in (CORRECT, MISTAKES) else Path(error[1]).name
            found.setdefault(name, {}).setdefault(int(error[2]), error[3])
    assert found, run.stdout + run.stderr
    return found


def marks() -> dict[int, str]:
    """The marked lines of the file of mistakes, and their marks."""
    lines = (ROOT / MISTAKES).read_text().splitlines()
    found = {number: re.search(r"# (M\d+)", line) for number, line in enumerate(lines, 1)}
    return {number: mark[1] for number, mark in found.items() if mark}


def test_the_marks_are_numbered_without_gaps() -> None:
    assert list(marks().values()) == [f"M{number}" for number in range(1, len(marks()) + 1)]


def test_every_mistake_is_reported_on_its_line(reported: Reported) -> None:
    assert [mark for line, mark in marks().items() if line not in reported[MISTAKES]] == []


def test_nothing_else_is_reported(reported: Reported) -> None:
    assert {line: error for line, error in reported[MISTAKES].items() if line not in marks()} == {}
    assert reported.keys() == {MISTAKES, *(name for name, (_, code) in README.items() if code)}


@pytest.mark.parametrize("name", [name for name, (_, code) in README.items() if code])
def test_a_mistake_in_the_program_of_the_readme_is_reported(name: str, reported: Reported) -> None:
    text, code = README[name]
    ((line, error),) = reported[name].items()
    assert error.endswith(f"[{code}]")
    assert text.splitlines()[line - 1] not in README["program.py"][0]


def test_the_programs_in_the_docs_are_correct(reported: Reported) -> None:
    programs = written_programs()
    assert "from max_notes import Note\n" in programs["report.py"]  # a project's own connector
    assert {Path(name).name for name in programs}.isdisjoint(reported)


def test_correct_code_also_runs() -> None:
    assert correct.connector.resolver.loader_for(User.email) is correct.user_email
    assert Schema([correct.Comment, User]).entity("comment") is correct.Comment
