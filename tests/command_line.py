"""The command line as tests use it: words in, and what came of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from max.cli import main


class Run(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it answered, as JSON data."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """What it complained of, as JSON data."""
        return json.loads(self.err)["error"]


Cli = Callable[..., Run]


def running(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs commands in this process, and reads what they print."""

    def run(*words: str) -> Run:
        capsys.readouterr()
        status = main(words)
        return Run(status, *capsys.readouterr())

    return run
