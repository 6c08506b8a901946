"""Runs the command line in the process of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from max.cli import main


class Run(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its stdout as JSON data."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Its error as JSON data."""
        return json.loads(self.err)["error"]


Cli = Callable[..., Run]


def running(capsys: pytest.CaptureFixture[str]) -> Cli:
    """A function that runs a command and captures its output."""

    def run(*words: str) -> Run:
        capsys.readouterr()
        status = main(words)
        return Run(status, *capsys.readouterr())

    return run
