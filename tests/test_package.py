"""The package as a whole: its public names, what importing it does, and a copy under another name."""

from __future__ import annotations

import ast
import doctest
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import max as embedding
from max import connecting
from max.connector import OnboardingStep
from max.model.migrations import MigrationStep

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


def test_every_name_for_connectors_is_explained() -> None:
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("connectors.md", "increments.md"))
    assert [name for name in connecting.__all__ if not re.search(rf"\b{name}\b", pages)] == []


@pytest.mark.parametrize("choices", [OnboardingStep, MigrationStep])
def test_authors_can_import_every_kind_of_step(choices: object) -> None:
    assert {kind.__name__ for kind in get_args(choices)} <= set(connecting.__all__)


def test_connectors_import_only_from_their_door() -> None:
    for path in [*(ROOT / "connectors").rglob("*.py"), *(ROOT / "docs").glob("*.md")]:
        imported = re.findall(r"^\s*from (max\b\S*) import", path.read_text(), flags=re.M)
        allowed = {"max.connecting"} if path.suffix == ".py" else {"max", "max.connecting", "max.testing"}
        assert set(imported) <= allowed, path


Run = Callable[[str], subprocess.CompletedProcess[str]]  # a program, and what became of it


class TestVendoredCopy:
    """``max/`` copied into another project under another name, with nothing installed."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Run:
        """Runs a program beside the copy ``host._vendor.zmax``; it must not import a ``max``."""
        vendor = tmp_path / "host" / "_vendor"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "max", vendor / "zmax", ignore=ignored)
        shutil.copytree(ROOT / "connectors", vendor / "connectors", ignore=ignored)
        project = tmp_path / "project"
        project.mkdir()

        def run(program: str) -> subprocess.CompletedProcess[str]:
            start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
            end = "assert not {'max', 'max_connectors'} & sys.modules.keys()\n"
            return subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-c", start + program + end],
                cwd=project,
                env={"MAX_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
            )

        return run

    def test_syncs_the_demo_and_answers(self, run: Run) -> None:
        command = "from host._vendor.zmax.cli import main\nassert main({!r}) == 0\n"
        synced = run(command.format(["sync", "acme:default"]))
        assert synced.returncode == 0, synced.stderr
        answer = run(command.format(["search", "acme:default", "AcmeUser", "--limit", "2", "-o", "json"]))
        assert answer.returncode == 0, answer.stderr
        assert list(json.loads(answer.stdout))[:2] == ["type", "data"]
        assert json.loads(answer.stdout)["hasMore"] is True

    def test_its_loggers_have_its_own_name(self, run: Run) -> None:
        named = run("from host._vendor.zmax.sync import events\nprint(events.log.name)\n")
        assert (named.stdout, named.stderr) == ("host._vendor.zmax.sync\n", "")

    def test_loads_every_connector_that_comes_with_max(self, run: Run) -> None:
        loaded = run(
            "from host._vendor.zmax import ConnectorRegistry\n"
            "registry = ConnectorRegistry()\n"
            "print([registry.resolve(name).name for name in registry.names()])\n"
        )
        assert loaded.stdout == "['acme', 'git', 'github', 'google_drive', 'hubspot', 'linear']\n"
        assert loaded.stderr == ""


MAY_IMPORT = {  # each file or folder of max/, and what it may import of the others
    "errors": "",
    "model": "errors",
    "core": "errors model",
    "upstream": "errors model core",
    "connector": "errors model core upstream",
    "storage": "errors model core",
    "sync": "errors model core upstream connector",
    "installations": "errors model core upstream connector",
    "projects": "errors model core upstream connector storage installations",
    "query": "errors model core storage",
    "engine": "errors model core storage",
    "execution": "errors model core upstream connector sync",
    "runtime": "errors model core upstream connector storage sync installations query engine execution",
    "project": "errors model core upstream connector storage sync installations projects query execution"
    " runtime",
    "serve": "errors model core upstream connector storage sync installations projects query execution"
    " runtime project",
    "daemon": "errors model core upstream connector storage sync installations projects query execution"
    " runtime project serve",
    "commands": "errors model core upstream connector sync installations projects query execution"
    " runtime project serve daemon",
    # a connector's test runs it in a runtime, and the command of that is there as well
    "testing": "errors model core upstream connector storage sync installations projects query execution"
    " runtime project commands",
    "cli": "errors commands",
    "connecting": "errors model core upstream connector",
}


DOORS = {"project": "serve"}  # project.serve() leads upward: by one import, when it is called


class TestLayers:
    """What the files import."""

    def test_no_module_imports_itself_by_the_name_max(self) -> None:
        for path in (ROOT / "max").rglob("*.py"):
            for line in path.read_text().splitlines():
                assert not line.lstrip().startswith(("import max", "from max")), f"{path.name}: {line}"

    def test_a_place_imports_only_what_it_may(self) -> None:
        package = ROOT / "max"
        files = {path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")}
        assert {parts[0] for parts in files} - {"__init__", "__main__"} == MAY_IMPORT.keys()
        for parts in files:
            allowed = {parts[0], "__init__", *MAY_IMPORT.get(parts[0], " ".join(MAY_IMPORT)).split()}
            allowed |= {DOORS.get(parts[0], parts[0])}
            assert imported(parts) <= allowed, f"{'/'.join(parts)}.py: {imported(parts) - allowed}"

    def test_a_door_imports_what_is_above_it_only_inside_of_a_function(self) -> None:
        for name, above in DOORS.items():
            script = f"import sys, max.{name}; print(any(m.startswith('max.{above}.') for m in sys.modules))"
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
            assert done.stdout.strip() == "False", done.stderr

    def test_the_table_has_no_circle(self) -> None:
        above = list(MAY_IMPORT)
        for place, allowed in MAY_IMPORT.items():
            assert set(allowed.split()) <= set(above[: above.index(place)]), place


SQLITE_WORDS = re.compile(
    r"sqlite3|sqlite_master|json_(?:each|extract|insert)|PRAGMA|GLOB\b|OR REPLACE|WITHOUT ROWID"
)
SQL = re.compile(r"execute\(|sqlite3|BEGIN")


class TestSeams:
    """What a second database would have to replace, and what no command may know."""

    def test_the_words_of_sqlite_are_in_the_modules_that_are_named_for_it_alone(self) -> None:
        files = {path.name for path in (ROOT / "max").rglob("*.py") if SQLITE_WORDS.search(path.read_text())}
        assert files == {"sqlite.py", "sqlite_dialect.py", "sqlite_full_text.py", "sqlite_select.py"}

    def test_one_place_makes_the_databases_of_projects(self) -> None:
        """The others are given a Database; what is for connectors' tests makes one without a project."""
        made = re.compile(r"import .*\b(?:Sqlite|Postgres)Database\b|storage\.(?:sqlite|postgres) import")
        package = ROOT / "max"
        files = {
            p for p in package.rglob("*.py") if p.parent.name != "storage" and made.search(p.read_text())
        }
        named = {"projects/folder.py", "projects/database.py", "testing/harness.py"}
        assert {str(path.relative_to(package)) for path in files} == named

    def test_no_command_knows_a_connection_or_sql(self) -> None:
        for path in [*(ROOT / "max" / "commands").glob("*.py"), ROOT / "max" / "cli.py"]:
            assert not SQL.search(path.read_text()), path

    def test_no_command_asks_its_process_what_its_caller_is_like(self) -> None:
        """It may run in the daemon, for a caller elsewhere: ``console()`` knows."""
        own = {"console.py", "streams.py", "forward.py"}  # these run in the process of the caller
        for path in (ROOT / "max" / "commands").glob("*.py"):
            found = re.findall(r"sys\.std(?:in|out|err)\b|os\.environ|os\.getcwd", path.read_text())
            assert not found or path.name in own, f"{path.name}: {found}"


def imported(parts: tuple[str, ...]) -> set[str]:
    """The places inside max/ that a module of these path parts imports, anywhere in its text."""
    found: set[str] = set()
    source = (ROOT / "max").joinpath(*parts).with_suffix(".py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = parts[: len(parts) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {(*folder, *name.split("."))[0] for name in names}
    return {"__init__" if name in ("__version__", "load_lazily") else name for name in found}


def test_an_extra_installs_every_library_for_whose_lack_it_is_named() -> None:
    """``MissingExtra("postgres", "psycopg", …)``: its hint is to install the extra."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for path in [*(ROOT / "max").rglob("*.py"), *(ROOT / "connectors").rglob("*.py")]:
        named |= set(re.findall(r'MissingExtra\("([^"]+)", "([^"]+)"', path.read_text()))
    assert len(named) > 5
    lacking = {(extra, library) for extra, library in named if library not in str(extras[extra])}
    assert lacking == set()
