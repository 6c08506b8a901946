"""keys: the keys that seal the secrets of a project in a database."""

from __future__ import annotations

from .framework import Answer, Options
from .parser import Parser
from .text import counted


def configure_keys_new(parser: Parser) -> None:
    """``max keys new``."""
    parser.add_examples("max keys new", "max keys new -o json")


def run_keys_new(options: Options) -> Answer:
    """Print a new random key; it is kept nowhere."""
    from ..installations.encryption import new_key

    key = new_key()
    return options.answer({"key": key}, lambda: [key])


def configure_keys_rotate(parser: Parser) -> None:
    """``max keys rotate``."""
    parser.add_examples("max keys rotate")


def run_keys_rotate(options: Options) -> Answer:
    """Seal every secret of the project with the first key; the former keys are needed no more then."""
    changed = options.found_project().rotate_keys()
    words = f"sealed with the first key: {counted(changed, 'secret')}"
    return options.answer({"secrets": changed}, lambda: [words])
