"""The package as a whole: its public names, what importing it does, and a copy under another name."""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import max as embedding
from max import connecting

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "max").rglob("*.py")
    if path.stem != "__main__"
)

WATCH = """
import sys, threading
sys.path.insert(0, {root!r})
for module in {known!r}:
    __import__(module)
seen = []

class Watched(dict):
    def __getitem__(self, key):
        seen.append("environ " + key)
        return dict.__getitem__(self, key)
    get = __getitem__

import os
os.environ._data = Watched(os.environ._data)

def hook(event, arguments):
    where = str(arguments[0]) if arguments else ""
    if event == "open" and not where.endswith((".py", ".pyc")):
        seen.append("open " + where)
    elif event.startswith(("socket.", "subprocess.", "sqlite3.", "os.exec", "os.mkdir", "signal.")):
        seen.append(event)

sys.addaudithook(hook)
import importlib
for name in {modules!r}:
    importlib.import_module(name)
print(seen, threading.active_count())
"""

STANDARD = [
    "argparse",
    "asyncio",
    "sqlite3",
    "typing",
    "dataclasses",
    "inspect",
    "random",
    "tempfile",
    "datetime",
]


class TestImporting:
    """``import max`` and every module of it."""

    def test_touches_no_file_network_environment_and_starts_nothing(self) -> None:
        script = WATCH.format(root=str(ROOT), known=STANDARD, modules=MODULES)
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[] 1"

    def test_loads_only_what_is_used(self) -> None:
        script = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import max, max.connecting\n"
            "before = {m for m in sys.modules if m.startswith('max.')} - {'max.connecting'}\n"
            "max.Entity, max.connecting.Loader\n"
            "print(sorted(before), 'max.engine' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[] False"


def test_the_tour_for_connector_authors_is_true() -> None:
    ran = doctest.testmod(connecting)
    assert (ran.failed, ran.attempted > 5) == (0, True)


@pytest.mark.parametrize("door", [embedding, connecting], ids=lambda door: door.__name__)
class TestPublicNames:
    """``__all__`` of ``max`` and of ``max.connecting``, and what it promises."""

    def test_are_sorted_and_each_can_be_loaded(self, door: ModuleType) -> None:
        assert door.__all__ == dir(door) == sorted(door.__all__)
        for name in door.__all__:
            assert getattr(door, name) is not None

    def test_are_the_same_for_the_type_checker_and_at_run_time(self, door: ModuleType) -> None:
        lines = Path(str(door.__file__)).read_text().splitlines()
        typed = {line.split()[-1] for line in lines if line.startswith("    from .")}
        assert typed == set(door.__all__) - {"__version__"}

    def test_have_docstrings(self, door: ModuleType) -> None:
        for name in door.__all__:
            value = getattr(door, name)
            assert name.startswith("__") or not callable(value) or value.__doc__, name

    def test_a_misspelt_name_is_an_error(self, door: ModuleType) -> None:
        with pytest.raises(AttributeError, match=f"module '{door.__name__}' has no attribute 'Prject'"):
            _ = door.Prject


def test_connectors_find_all_that_they_import_in_their_own_module() -> None:
    for path in [*(ROOT / "connectors").rglob("*.py"), *(ROOT / "docs").glob("*.md")]:
        imported = re.findall(r"^\s*from (max\b\S*) import", path.read_text(), flags=re.M)
        allowed = {"max.connecting"} if path.suffix == ".py" else {"max", "max.connecting", "max.testing"}
        assert set(imported) <= allowed, path


class TestVendoredCopy:
    """``max/`` copied into another project under another name, with nothing installed."""

    def test_syncs_the_demo_and_answers(self, tmp_path: Path) -> None:
        vendor = tmp_path / "host" / "_vendor"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "max", vendor / "zmax", ignore=ignored)
        shutil.copytree(ROOT / "connectors", vendor / "connectors", ignore=ignored)
        project = tmp_path / "project"
        project.mkdir()

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            program = (
                f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
                "from host._vendor.zmax.cli import main\n"
                f"code = main({list(words)!r})\n"
                "assert 'max' not in sys.modules\n"
                "sys.exit(code)"
            )
            return subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-c", program],
                cwd=project,
                env={"MAX_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
            )

        synced = run("sync", "acme:default")
        assert synced.returncode == 0, synced.stderr
        answer = run("search", "acme:default", "AcmeUser", "--limit", "2", "-o", "json")
        assert answer.returncode == 0, answer.stderr
        assert list(json.loads(answer.stdout)) == ["type", "data", "hasMore", "cursor"]
        assert json.loads(answer.stdout)["hasMore"] is True
        program = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from host._vendor.zmax.sync import events"
        )
        named = subprocess.check_output(
            [sys.executable, "-I", "-S", "-B", "-c", f"{program}; print(events.log.name)"], text=True
        )
        assert named == "host._vendor.zmax.sync\n"


class TestLayers:
    """What the files import."""

    def test_no_module_imports_itself_by_the_name_max(self) -> None:
        for path in (ROOT / "max").rglob("*.py"):
            for line in path.read_text().splitlines():
                assert not line.lstrip().startswith(("import max", "from max")), f"{path.name}: {line}"
