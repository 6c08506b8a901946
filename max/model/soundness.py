"""Soundness: whether the ground is good on which a project is: its machine, its place, its databases.

How the data is (fresh, failing) is another question: health.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from ..errors import MaxError
from .struct import Struct

MACHINE, PROJECT = "machine", "project"  # what a finding is about, where that is no installation
SHOWN = 3  # of several names


class Level(StrEnum):
    """What a finding means: a warning is to be known, a problem keeps something from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Struct):
    """What one check has found: a sentence of fact, and what to do where that is not ok.

    ``about`` is ``machine``, ``project``, or an installation such as ``acme:default``.
    """

    check: str
    fact: str
    level: Level = Level.OK
    hint: str = ""
    about: str = MACHINE


def warning(check: str, fact: str, hint: str) -> Finding:
    """Something that is to be known."""
    return Finding(check, fact, Level.WARNING, hint)


def problem(check: str, fact: str, hint: str) -> Finding:
    """Something that keeps what Max does from working."""
    return Finding(check, fact, Level.PROBLEM, hint)


def failed(check: str, error: MaxError, level: Level = Level.PROBLEM) -> Finding:
    """A check that ended with an error, in the words that other commands have for it."""
    return Finding(check, error.message, level, error.hint)


def few(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
