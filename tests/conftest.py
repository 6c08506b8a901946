"""What all tests share: drawn examples are the same in every run.

``HYPOTHESIS_PROFILE=explore`` draws new ones instead, to look for examples that fail.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.command_line import Cli, running

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    return running(capsys)
