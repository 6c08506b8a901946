"""Which of the command line's tests run on Postgres too is said for each file, and names real tests."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.on_both import FEW, IN_A_FOLDER

ROOT = Path(__file__).parent.parent.parent


def test_every_file_of_the_command_line_has_its_place_in_one_list() -> None:
    files = {f"tests/commands/{one.name}" for one in Path(__file__).parent.glob("test_*.py")}
    here = f"tests/commands/{Path(__file__).name}"
    listed = [one for one in (*FEW, *IN_A_FOLDER) if one.startswith("tests/commands/")]
    assert sorted(listed) == sorted(files - {here})


def test_every_test_that_is_listed_is_there() -> None:
    for file, names in FEW.items():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}
        assert set(names) <= functions, file
