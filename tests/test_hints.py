"""Every command line that the code names, in a hint or an example, is one that the parsers know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from max.cli import COMMANDS, found_command
from max.installations.registry import ConnectorRegistry

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"(?<![\w./'-])max(?P<words>(?: +[^\s;`)]+)+)")
PROSE = {"for", "that", "whose", "median"}  # words that follow max where no command is meant
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The texts of a module that are no docstrings, with their lines; what is filled in is an X."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(one.body[0].value)
        for one in ast.walk(tree)
        if isinstance(one, documented) and one.body and isinstance(one.body[0], ast.Expr)
    }
    parts: set[int] = set()
    for one in ast.walk(tree):
        if isinstance(one, ast.JoinedStr):
            parts |= {id(part) for part in one.values}
            pieces = [str(part.value) if isinstance(part, ast.Constant) else "X" for part in one.values]
            yield one.lineno, "".join(pieces)
        elif isinstance(one, ast.Constant) and id(one) not in docstrings | parts:
            yield one.lineno, str(one.value)


def named_commands() -> list[tuple[str, str]]:
    """Where a command line is named, and what follows max in it, up to the end of its line."""
    found = []
    for folder in ("max", "connectors"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, text in texts(ast.parse(path.read_text(encoding="utf-8"))):
                found += [
                    (f"{path.relative_to(ROOT)}:{line}", match["words"])
                    for part in text.splitlines()
                    for match in NAMED.finditer(part)
                ]
    return found


def wrong_in(words: str) -> str:
    """What a command line has that its parser does not know; empty when there is nothing."""
    first, *rest = words.split()
    command = f"{first} {rest[0]}" if rest and f"{first} {rest[0]}" in COMMANDS else first.rstrip(",.:")
    if command in PROSE or not re.fullmatch(r"[a-z][a-z-]*( diff)?", command):
        return ""
    if command not in COMMANDS:
        return f"no command {command}"
    known = found_command(command)[1]._option_string_actions
    own = words.partition(" max ")[0]  # a second command of the line is looked at on its own
    return ", ".join(one for one in OPTION.findall(own) if one not in known)


def test_every_command_that_the_code_names_exists_with_its_options() -> None:
    commands = named_commands()
    assert len(commands) > 100
    assert [f"{place}: max{words}: {wrong}" for place, words in commands if (wrong := wrong_in(words))] == []


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (" sync X --retry-failed", ""),
        (" synk X", "no command synk"),
        (" search X --where", "--where"),
        (" schema diff X --plan", "--plan"),
        (" init, or max connect with --set", ""),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(words: str, wrong: str) -> None:
    assert wrong_in(words) == wrong


@pytest.mark.parametrize("name", ConnectorRegistry().names())
def test_what_a_connector_says_of_its_entities_is_plain_text(name: str) -> None:
    entities = ConnectorRegistry().resolve(name).schema.entities.values()
    said = [entity.__doc__ or "" for entity in entities]
    said += [field.description for entity in entities for field in entity._fields.values()]
    assert [text for text in said if "``" in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_no_word_of_python(command: str) -> None:
    text = found_command(command)[1].format_help()
    assert [word for word in ("``", "None", "True", "dict", "str ") if word in text] == []
