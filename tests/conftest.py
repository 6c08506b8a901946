"""What all tests share: drawn examples are the same in every run, however slow the machine is.

``HYPOTHESIS_PROFILE=explore`` draws new ones instead, to look for examples that fail.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.command_line import Cli, running
from tests.contract.places import BOTH, lasting_project
from tests.contract.places import either as either
from tests.on_both import runs_on_both

_home = tempfile.TemporaryDirectory(prefix="max-home-")  # processes that the tests start inherit it
os.environ["MAX_HOME"] = _home.name
os.environ.pop("MAX_TRUST", None)
os.environ.pop("MAX_OUTPUT", None)

UNCHECKED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
AT_ANY_SPEED: dict[str, Any] = {"deadline": None, "suppress_health_check": UNCHECKED}
settings.register_profile("same", derandomize=True, **AT_ANY_SPEED)
settings.register_profile("explore", **AT_ANY_SPEED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


SEARCHING = (Phase.explicit, Phase.generate)  # and nothing is shrunk: that takes as long again, many times
SHARE = float(os.environ.get("MAX_EXAMPLES", "1"))  # of the examples that are drawn
FEW = 3  # examples on Postgres, where each has a schema of its own
ON_POSTGRES = os.environ.get("MAX_POSTGRES_EXAMPLES")  # how many there are instead


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that uses ``either`` runs on both databases, where it is one of those that do."""
    names, item = metafunc.fixturenames, metafunc.definition
    if "either" in names and item.get_closest_marker("of_a_folder") is None:
        file = item.path.relative_to(item.config.rootpath).as_posix()
        if runs_on_both(file, item.originalname, by_command="cli" in names):
            metafunc.parametrize("either", BOTH, indirect=True)


def pytest_collection_finish() -> None:
    """What was collected stays to the end: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The drawn examples of a test are few on Postgres, and a share of them where that is asked for."""
    test: Any = getattr(item, "obj", None)
    test = getattr(test, "__func__", test)
    usual = getattr(test, "_hypothesis_internal_use_settings", None)
    on_postgres = item.get_closest_marker("postgres") is not None
    if usual is None or not (on_postgres or SHARE < 1):
        return (yield)
    few = int(ON_POSTGRES) if ON_POSTGRES else min(FEW, usual.max_examples)
    examples = few if on_postgres else max(1, int(usual.max_examples * SHARE))
    phases = SEARCHING if on_postgres else usual.phases
    test._hypothesis_internal_use_settings = settings(usual, max_examples=examples, phases=phases)
    try:
        return (yield)
    finally:
        test._hypothesis_internal_use_settings = usual


@pytest.fixture
def cli(
    either: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cli]:
    """Runs a command in an empty folder; on Postgres, in one that leads to a project there."""
    monkeypatch.chdir(tmp_path)
    with lasting_project(tmp_path):
        yield running(capsys)
